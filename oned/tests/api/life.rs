//! The life of VMs: what is refused, what is written down, and what the engine makes of it on hosts of the dummy driver.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use drivers::Hypervisor as _;
use drivers::dummy::{DummyHypervisor, Script};
use drivers::hypervisor::DomainState;
use one_core::access::Caller;
use one_core::lifecycle::actions::number as n;
use one_core::lifecycle::{LcmState, OperationLists, VmEvent, VmOperation, VmPhase, VmState};
use oned::api::vm_action::{self, Deployment, Migration};
use oned::api::{self, vm_recover};
use oned::engine::{Engine, Isolation, Outside, Stores};
use oned::session::authenticate;
use oned::store::VmFilter;
use oned::store::rows::{DatastoreRow, GroupRow, HistoryRow, HostRow, UserRow};

use crate::world::{NOW, SIZE, TEAM, World, element, session};

const SUSPENDED: VmPhase = VmPhase::resting(VmState::Suspended);
const STOPPED: VmPhase = VmPhase::resting(VmState::Stopped);
const UNDEPLOYED: VmPhase = VmPhase::resting(VmState::Undeployed);

/// A world with an engine whose hosts only pretend.
struct Stage {
    world: World,
    engine: Arc<Engine>,
    dummies: tempfile::TempDir,
    hosts: [i64; 2],
    _events: mpsc::Receiver<drivers::hypervisor::DomainEvent>,
}

impl Stage {
    fn new() -> Self {
        let world = World::new();
        world.write(|tx| tx.host_delete(0));
        let hosts = ["left", "right"].map(|name| {
            let id = world.add_host(name);
            world.write(|tx| {
                let row = tx.host(id)?;
                tx.host_update(&HostRow { vm_mad: "dummy".into(), ..row })
            });
            id
        });
        let dummies = tempfile::tempdir().unwrap();
        let (sender, events) = mpsc::channel();
        let outside =
            Outside::new(sender, Some(dummies.path().to_owned()), Stores::new(&world.cloud, Isolation::InProcess));
        let engine = Engine::new(Arc::clone(&world.cloud), Arc::new(outside));
        engine.start().unwrap();
        Self { world, engine, dummies, hosts, _events: events }
    }

    /// Lets the engine work until nothing is left to do.
    fn settle(&self) {
        let pending = VmFilter { state: Some(VmState::Pending.number()), ..VmFilter::default() };
        for _ in 0..2000 {
            self.engine.tick();
            std::thread::sleep(Duration::from_millis(5));
            // Jobs that wait for better times get them.
            self.world.clock.advance(1);
            if self.world.open_jobs().is_empty() && self.world.read(|tx| tx.vms(pending)).is_empty() {
                return;
            }
        }
        panic!("the engine does not come to rest: {:?}", self.world.open_jobs());
    }

    fn vm(&self) -> i64 {
        let id = api::vm::allocate(&self.world.cloud, &self.world.alice, SIZE, true).unwrap();
        self.deploy(id, self.hosts[0]);
        self.expect(id, VmPhase::RUNNING);
        id
    }

    fn deploy(&self, id: i64, host: i64) {
        vm_action::deploy(&self.world.cloud, &self.world.admin, id, to(host)).unwrap();
    }

    fn act(&self, id: i64, word: &str) {
        vm_action::action(&self.world.cloud, &self.world.admin, word, id).unwrap();
    }

    fn recover(&self, id: i64, operation: i64) {
        vm_recover::recover(&self.world.cloud, &self.world.admin, id, operation).unwrap();
    }

    #[track_caller]
    fn expect(&self, id: i64, phase: VmPhase) {
        self.settle();
        let row = self.world.vm_row(id);
        assert_eq!(self.world.phase(id), phase, "{}", row.user_template);
    }

    fn directory(&self, id: i64) -> PathBuf {
        oned::disks::vm_directory(&self.world.cloud.config, id)
    }

    /// The driver of a host as another process sees it.
    fn hypervisor(&self, host: i64) -> DummyHypervisor {
        DummyHypervisor::open(&self.dummies.path().join(format!("host-{host}")), Script::default()).unwrap()
    }

    fn domain(&self, host: i64, id: i64) -> Option<DomainState> {
        self.hypervisor(host).state(&format!("one-{id}")).unwrap()
    }

    /// The orders of `script.json` of a host's driver; empty = none.
    fn script(&self, host: i64, text: &str) {
        let file = self.dummies.path().join(format!("host-{host}")).join("script.json");
        if text.is_empty() { std::fs::remove_file(file).unwrap() } else { std::fs::write(file, text).unwrap() }
    }

    fn history(&self, id: i64) -> Vec<HistoryRow> {
        self.world.read(|tx| tx.history(id))
    }

    fn actions(&self, id: i64) -> Vec<i64> {
        self.history(id).iter().map(|record| record.action).collect()
    }
}

fn to(host: i64) -> Deployment<'static> {
    Deployment { host, enforce: false, datastore: -1, extra: "" }
}

fn moving(host: i64, live: bool, kind: i64) -> Migration {
    Migration { host, live, enforce: false, datastore: -1, kind }
}

const SAVE_FAILS: &str = r#"{"rules":[{"operation":"save","fail":{"kind":"permanent","reason":"the tape is full"}}]}"#;

#[test]
fn a_vm_suspends_stops_undeploys_and_comes_back_each_time() {
    let stage = Stage::new();
    let id = stage.vm();
    let saved = stage.directory(id).join("checkpoint.save");

    stage.act(id, "suspend");
    stage.expect(id, SUSPENDED);
    assert!(saved.exists());
    assert_eq!(
        (stage.domain(stage.hosts[0], id), stage.world.vm_row(id).host_id),
        (Some(DomainState::Off), Some(stage.hosts[0]))
    );
    stage.act(id, "resume");
    stage.expect(id, VmPhase::RUNNING);
    assert_eq!(std::fs::read_dir(stage.directory(id)).unwrap().count(), 0, "no saved memory is left to be used again");

    stage.act(id, "stop");
    stage.expect(id, STOPPED);
    assert_eq!((stage.domain(stage.hosts[0], id), stage.world.vm_row(id).host_id), (None, None));
    assert!(saved.exists());
    stage.act(id, "resume");
    assert_eq!(stage.world.phase(id), VmPhase::PENDING);
    stage.expect(id, VmPhase::RUNNING);
    assert!(!saved.exists(), "it went on from its memory");

    stage.act(id, "undeploy");
    stage.expect(id, UNDEPLOYED);
    assert!(stage.directory(id).exists(), "the disks stay in the system datastore");
    stage.deploy(id, stage.hosts[1]);
    stage.expect(id, VmPhase::RUNNING);
    assert_eq!(stage.domain(stage.hosts[1], id), Some(DomainState::Running));

    stage.act(id, "poweroff");
    stage.expect(id, VmPhase::POWEROFF);
    stage.act(id, "undeploy");
    stage.expect(id, UNDEPLOYED);
    stage.act(id, "resume");
    stage.expect(id, VmPhase::RUNNING);
    stage.act(id, "suspend");
    stage.expect(id, SUSPENDED);
    stage.act(id, "stop");
    stage.expect(id, STOPPED);
    assert!(saved.exists());
    stage.act(id, "terminate");
    stage.expect(id, VmPhase::DONE);
    assert!(!stage.directory(id).exists());
    for host in stage.hosts {
        assert_eq!(stage.domain(host, id), None);
    }
}

#[test]
fn history_tells_each_stay_with_the_action_that_ended_it_and_who_asked() {
    let stage = Stage::new();
    let id = stage.vm();
    for word in
        ["suspend", "resume", "reboot", "reboot-hard", "poweroff-hard", "resume", "stop", "resume", "terminate-hard"]
    {
        stage.act(id, word);
        stage.settle();
    }
    assert_eq!(
        stage.actions(id),
        [n::SUSPEND, n::REBOOT, n::REBOOT_HARD, n::POWEROFF_HARD, n::STOP, n::TERMINATE_HARD],
        "{:#?}",
        stage.history(id)
    );
    for record in stage.history(id) {
        assert!(record.stime >= NOW && record.etime >= record.stime, "{record:?}");
        assert!(record.rstime >= record.stime && record.retime >= record.rstime, "{record:?}");
        assert_eq!((record.uid, record.gid), (0, 0), "{record:?}");
    }
    let first = &stage.history(id)[0];
    assert!(first.pstime >= NOW && first.petime >= first.pstime);
    let last = stage.history(id).pop().unwrap();
    assert!(last.estime > 0 && last.eetime >= last.estime);
    stage.world.vm_document(&stage.world.alice, id);
}

#[test]
fn a_vm_shows_the_transfer_driver_of_its_system_datastore_from_its_placement_on() {
    let stage = Stage::new();
    stage.world.write(|tx| {
        let row = tx.datastore(0)?;
        tx.datastore_update(&DatastoreRow { tm_mad: "shared".into(), ..row })
    });
    let id = stage.vm();
    assert_eq!(stage.history(id)[0].tm_mad, "shared");
    let text = stage.world.vm_document(&stage.world.alice, id);
    for wanted in ["<TM_MAD>", "<TM_MAD_SYSTEM>"].map(|tag| format!("{tag}<![CDATA[shared]]>")) {
        assert!(text.contains(&wanted), "{text}");
    }
}

#[test]
fn a_terminated_vm_that_waited_with_files_leaves_none() {
    let stage = Stage::new();
    for (word, way_back) in [("stop", true), ("undeploy", true), ("stop", false), ("undeploy", false)] {
        let id = stage.vm();
        stage.act(id, word);
        stage.settle();
        assert!(stage.directory(id).exists());
        if way_back {
            stage.act(id, "resume");
            stage.act(id, "hold");
            stage.recover(id, 3);
            assert_eq!(stage.world.phase(id), VmPhase::DONE);
        } else {
            stage.act(id, "terminate");
        }
        stage.expect(id, VmPhase::DONE);
        assert!(!stage.directory(id).exists(), "{word}, then back: {way_back}");
        stage.recover(id, 3);
    }
    let never_placed = api::vm::allocate(&stage.world.cloud, &stage.world.alice, SIZE, false).unwrap();
    stage.act(never_placed, "terminate");
    assert_eq!(stage.world.phase(never_placed), VmPhase::DONE);
    assert!(stage.world.open_jobs().is_empty());
}

#[test]
fn a_failed_save_leaves_the_guest_running_and_a_failed_boot_waits_for_recovery() {
    let stage = Stage::new();
    let id = stage.vm();
    stage.script(stage.hosts[0], SAVE_FAILS);
    stage.act(id, "suspend");
    stage.expect(id, VmPhase::RUNNING);
    assert!(
        stage.world.vm_row(id).user_template.contains("SUSPEND: save of"),
        "{}",
        stage.world.vm_row(id).user_template
    );
    assert_eq!(stage.actions(id), [0], "nothing ended the record");
    stage.script(stage.hosts[0], &SAVE_FAILS.replace("\"save\"", "\"deploy\""));
    let failing = api::vm::allocate(&stage.world.cloud, &stage.world.alice, SIZE, true).unwrap();
    stage.deploy(failing, stage.hosts[0]);
    stage.expect(failing, VmPhase::active(LcmState::BootFailure));
    stage.recover(failing, 2);
    stage.expect(failing, VmPhase::active(LcmState::BootFailure));
    stage.script(stage.hosts[0], "");
    stage.recover(failing, 2);
    stage.expect(failing, VmPhase::RUNNING);
    assert!(!stage.world.vm_row(failing).user_template.contains("ERROR"));
}

#[test]
fn recover_deletes_recreates_and_forgets_from_anywhere() {
    let stage = Stage::new();
    for word in ["", "suspend", "stop", "undeploy", "poweroff"] {
        for operation in [3, 4, 5] {
            let id = stage.vm();
            if !word.is_empty() {
                stage.act(id, word);
                stage.settle();
            }
            stage.recover(id, operation);
            stage.settle();
            let (phase, what) = (stage.world.phase(id), format!("{operation} after {word:?}"));
            match operation {
                3 => assert_eq!((phase, stage.directory(id).exists()), (VmPhase::DONE, false), "{what}"),
                // It has been placed again.
                4 => assert_eq!(
                    (phase, stage.directory(id).join("checkpoint.save").exists()),
                    (VmPhase::RUNNING, false),
                    "{what}"
                ),
                _ => assert_eq!((phase, stage.world.vm_row(id).host_id), (VmPhase::DONE, None), "{what}"),
            }
            let last = stage.history(id).pop().unwrap();
            let number =
                [(3, n::DELETE), (4, n::NONE), (5, n::DELETE)].iter().find(|(op, _)| *op == operation).unwrap().1;
            assert_eq!(last.action, number, "{what}");
            if operation == 4 {
                assert!(stage.actions(id).contains(&n::DELETE_RECREATE));
                stage.recover(id, 3);
                stage.settle();
            }
        }
    }
}

#[test]
fn a_vm_that_waits_with_files_begins_anew_without_them_when_it_is_recreated() {
    let stage = Stage::new();
    let text = format!("{SIZE}DISK=[TYPE=fs,SIZE=1,FORMAT=raw]\n");
    for held in [false, true] {
        let id = api::vm::allocate(&stage.world.cloud, &stage.world.alice, &text, true).unwrap();
        stage.deploy(id, stage.hosts[0]);
        stage.expect(id, VmPhase::RUNNING);
        std::fs::write(stage.directory(id).join("disk.0"), "of an earlier life").unwrap();
        stage.act(id, "stop");
        stage.expect(id, STOPPED);
        stage.act(id, "resume");
        if held {
            stage.act(id, "hold");
        }
        stage.recover(id, 4);
        stage.expect(id, VmPhase::RUNNING);
        assert_eq!(std::fs::metadata(stage.directory(id).join("disk.0")).unwrap().len(), 1 << 20, "held: {held}");
        assert!(!stage.directory(id).join("checkpoint.save").exists());
    }
}

#[test]
fn a_host_that_people_withdrew_stays_so_however_well_it_answers() {
    let stage = Stage::new();
    let states = [(stage.hosts[0], 4), (stage.hosts[1], 8)];
    for (id, state) in states {
        stage.world.write(|tx| {
            let row = tx.host(id)?;
            tx.host_update(&HostRow { state, monitored_at: 0, ..row })
        });
    }
    for _ in 0..200 {
        stage.engine.tick();
        std::thread::sleep(Duration::from_millis(2));
        if stage.world.read(|tx| tx.host(stage.hosts[0])).monitored_at > 0 {
            break;
        }
    }
    assert!(stage.world.read(|tx| tx.host(stage.hosts[0])).monitored_at > 0, "a disabled host is looked at");
    for (id, state) in states {
        assert_eq!(stage.world.read(|tx| tx.host(id)).state, state);
    }
}

#[test]
fn recover_success_and_failure_answer_for_the_driver() {
    let stage = Stage::new();
    let id = api::vm::allocate(&stage.world.cloud, &stage.world.alice, SIZE, true).unwrap();
    stage.deploy(id, stage.hosts[0]);
    // Before the engine has touched it: the disks, then the boot.
    stage.recover(id, 1);
    assert_eq!(stage.world.phase(id), VmPhase::active(LcmState::Boot));
    stage.recover(id, 0);
    assert_eq!(stage.world.phase(id), VmPhase::active(LcmState::BootFailure));
    stage.expect(id, VmPhase::active(LcmState::BootFailure));
    stage.recover(id, 1);
    assert_eq!(stage.world.phase(id), VmPhase::RUNNING);
    stage.act(id, "poweroff");
    stage.recover(id, 0);
    stage.settle();
    stage.recover(id, 3);
    stage.expect(id, VmPhase::DONE);
    let cloud = &stage.world.cloud;
    for (operation, word) in [(0, "failure"), (1, "success"), (2, "retry"), (4, "recreate"), (5, "delete-db")] {
        stage.world.refuses(
            2048,
            &format!("Could not perform a recover operation ({word}), wrong state DONE."),
            |_| vm_recover::recover(cloud, &stage.world.admin, id, operation),
        );
    }
    stage
        .world
        .refuses(2048, "Wrong recovery operation code", |_| vm_recover::recover(cloud, &stage.world.admin, id, 6));
}

#[test]
fn a_vm_moves_between_dummy_hosts_in_every_way() {
    let stage = Stage::new();
    let [left, right] = stage.hosts;
    let cloud = &stage.world.cloud;
    for (live, kind, action) in [
        (true, 0, n::LIVE_MIGRATE),
        (false, 0, n::MIGRATE),
        (false, 1, n::POWEROFF_MIGRATE),
        (false, 2, n::POWEROFF_HARD_MIGRATE),
    ] {
        let id = stage.vm();
        vm_action::migrate(cloud, &stage.world.admin, id, moving(right, live, kind)).unwrap();
        stage.expect(id, VmPhase::RUNNING);
        assert_eq!(
            (stage.domain(left, id), stage.domain(right, id)),
            (None, Some(DomainState::Running)),
            "{kind} {live}"
        );
        assert_eq!((stage.actions(id), stage.world.vm_row(id).host_id), (vec![action, 0], Some(right)));
        assert!(!stage.directory(id).join("checkpoint.save").exists());
    }
    for (word, rest) in [("suspend", SUSPENDED), ("poweroff", VmPhase::POWEROFF)] {
        let id = stage.vm();
        stage.act(id, word);
        stage.expect(id, rest);
        vm_action::migrate(cloud, &stage.world.admin, id, moving(right, true, 0)).unwrap();
        stage.expect(id, rest);
        stage.act(id, "resume");
        stage.expect(id, VmPhase::RUNNING);
        assert_eq!((stage.domain(left, id), stage.domain(right, id)), (None, Some(DomainState::Running)), "{word}");
    }
    // What cannot be saved stays where it is.
    let id = stage.vm();
    stage.script(left, SAVE_FAILS);
    vm_action::migrate(cloud, &stage.world.admin, id, moving(right, false, 0)).unwrap();
    stage.expect(id, VmPhase::RUNNING);
    assert_eq!(stage.world.vm_row(id).host_id, Some(left));
    assert_eq!(stage.domain(left, id), Some(DomainState::Running));
}

#[test]
fn an_open_job_goes_on_from_what_a_dead_daemon_left() {
    let stage = Stage::new();
    let [left, _] = stage.hosts;
    let id = stage.vm();
    let domain = format!("one-{id}");
    let (saved, resumed) = ("checkpoint.save", "checkpoint.resumed");
    let attempted = || {
        stage.world.write(|tx| {
            for job in tx.jobs_open(oned::store::JobFilter::All)? {
                tx.job_update(&oned::store::rows::JobRow { attempts: 1, ..job })?;
            }
            Ok(())
        });
    };
    // Saved, but not written down.
    stage.act(id, "suspend");
    attempted();
    stage.hypervisor(left).save(&domain, &stage.directory(id).join(saved)).unwrap();
    stage.expect(id, SUSPENDED);
    // Going on, but the file still there.
    stage.act(id, "resume");
    attempted();
    std::fs::rename(stage.directory(id).join(saved), stage.directory(id).join(resumed)).unwrap();
    stage.hypervisor(left).restore_saved(&domain, &stage.directory(id).join(resumed)).unwrap();
    stage.expect(id, VmPhase::RUNNING);
    assert!(!stage.directory(id).join(resumed).exists());
    // Off, but not written down.
    stage.act(id, "undeploy");
    stage.hypervisor(left).destroy(&domain).unwrap();
    stage.expect(id, UNDEPLOYED);
    // A file that an earlier life left is never taken for the memory of now.
    stage.deploy(id, left);
    stage.expect(id, VmPhase::RUNNING);
    std::fs::write(stage.directory(id).join(saved), "stale").unwrap();
    // Asked for before it goes: a look at the host that is still under way would have the VM off, with nothing to suspend.
    stage.act(id, "suspend");
    stage.hypervisor(left).destroy(&domain).unwrap();
    stage.settle();
    assert_ne!(stage.world.phase(id), SUSPENDED);
    assert!(!stage.directory(id).join(saved).exists());
}

#[test]
fn a_saved_memory_that_may_have_been_used_is_not_used_again() {
    let stage = Stage::new();
    let [left, _] = stage.hosts;
    let text = format!("{SIZE}DISK=[TYPE=fs,SIZE=1,FORMAT=raw]\n");
    let id = api::vm::allocate(&stage.world.cloud, &stage.world.alice, &text, true).unwrap();
    stage.deploy(id, left);
    stage.expect(id, VmPhase::RUNNING);
    let memory = |name: &str| stage.directory(id).join(name);
    let starts =
        || std::fs::read_dir(stage.dummies.path().join(format!("host-{left}")).join("domains")).unwrap().count();
    assert!(starts() > 0);
    for written in [false, true] {
        stage.act(id, "suspend");
        stage.expect(id, SUSPENDED);
        std::fs::rename(memory("checkpoint.save"), memory("checkpoint.resumed")).unwrap();
        if written {
            let later = std::time::SystemTime::now() + Duration::from_secs(60);
            let disk = std::fs::File::options().write(true).open(memory("disk.0")).unwrap();
            disk.set_modified(later).unwrap();
            // It would fail, so it is not tried.
            stage.script(left, &SAVE_FAILS.replace("\"save\"", "\"restore_saved\""));
        }
        stage.act(id, "resume");
        stage.expect(id, VmPhase::RUNNING);
        assert!(!memory("checkpoint.save").exists() && !memory("checkpoint.resumed").exists());
    }
}

#[test]
fn resize_is_written_down_for_the_next_boot_and_at_once_for_pretended_guests() {
    let stage = Stage::new();
    let (cloud, admin) = (&stage.world.cloud, &stage.world.admin);
    let id = stage.vm();
    vm_action::resize(cloud, admin, id, "MEMORY=512", true).unwrap();
    assert_eq!(stage.world.phase(id), VmPhase::active(LcmState::HotplugResize));
    stage.expect(id, VmPhase::RUNNING);
    assert!(stage.world.vm_row(id).template.contains("MEMORY=\"512\""), "{}", stage.world.vm_row(id).template);
    stage.act(id, "poweroff");
    stage.expect(id, VmPhase::POWEROFF);
    vm_action::resize(cloud, admin, id, "CPU=2.5\nMEMORY=256", false).unwrap();
    assert_eq!(stage.world.phase(id), VmPhase::POWEROFF);
    let document = stage.world.vm_document(admin, id);
    assert!(document.contains("2.5") && element(&document, "HISTORY_RECORDS").contains("<ACTION>35</ACTION>"));
    stage.act(id, "undeploy");
    stage.expect(id, UNDEPLOYED);
    vm_action::resize(cloud, admin, id, "VCPU=2", true).unwrap();
    stage.deploy(id, stage.hosts[0]);
    stage.expect(id, VmPhase::RUNNING);
    stage.act(id, "poweroff");
    stage.expect(id, VmPhase::POWEROFF);
    for (text, sentence) in [
        ("CPU=0", "CPU must be a positive number, at most 1024."),
        ("DISK=[SIZE=1]", "DISK cannot be resized; only CPU, MEMORY, VCPU can."),
        ("", "No CPU, MEMORY or VCPU in the template, so there is nothing to resize."),
    ] {
        stage.world.refuses(2048, sentence, |cloud| vm_action::resize(cloud, admin, id, text, true));
    }
    let refusal = stage.world.refusal(|cloud| vm_action::resize(cloud, admin, id, "CPU=1000", true));
    assert!(refusal.to_string().contains("does not have enough capacity"), "{refusal}");
    vm_action::resize(cloud, admin, id, "CPU=1000", false).unwrap();
}

#[test]
fn what_cannot_be_moved_or_placed_is_refused() {
    let world = World::new();
    let (kvm, other) = (0, world.add_host("node1"));
    let running = world.add_running_vm("");
    let waiting = api::vm::allocate(&world.cloud, &world.alice, SIZE, true).unwrap();
    let admin = &world.admin;
    world.refuses(1024, "Error getting host [1234].", |cloud| vm_action::deploy(cloud, admin, waiting, to(1234)));
    world.refuses(1024, "Error getting host [1234].", |cloud| {
        vm_action::migrate(cloud, admin, running, moving(1234, false, 0))
    });
    world.refuses(
        2048,
        "VM 0 cannot be moved from host 0 to host 1: migration between libvirt hosts is not supported. Stop or undeploy it, \
         and deploy it there.",
        |cloud| vm_action::migrate(cloud, admin, running, moving(other, false, 0)),
    );
    world.refuses(2048, "VM 0 is already on host 0.", |cloud| {
        vm_action::migrate(cloud, admin, running, moving(kvm, false, 0))
    });
    world.refuses(
        2048,
        "Wrong migration type 7; use 0 to save the guest, 1 to shut it down, 2 to switch it off.",
        |cloud| vm_action::migrate(cloud, admin, running, moving(other, false, 7)),
    );
    world.refuses(
        2048,
        "Error performing action \"deploy\": This action is not available for state RUNNING",
        |cloud| vm_action::deploy(cloud, admin, running, to(other)),
    );
    world.refuses(
        2048,
        "VM 0 cannot be resized while it runs; power it off first. The new size takes effect at the next boot.",
        |cloud| vm_action::resize(cloud, admin, running, "CPU=1", false),
    );
    world.refuses(2048, "Datastore 1 is not a system datastore; leave it out, or give 0.", |cloud| {
        vm_action::deploy(cloud, admin, waiting, Deployment { datastore: 1, ..to(other) })
    });
    let refusal = world.refusal(|cloud| {
        vm_action::deploy(cloud, admin, waiting, Deployment { extra: "NIC=[NETWORK_ID=1]", ..to(other) })
    });
    assert!(refusal.to_string().starts_with("The extra template of deploy holds NIC"), "{refusal}");
    world.edit_system(waiting, "MEMORY=\"256\"", "MEMORY=\"99999\"");
    let refusal =
        world.refusal(|cloud| vm_action::deploy(cloud, admin, waiting, Deployment { enforce: true, ..to(other) }));
    assert!(refusal.to_string().starts_with("Host 1 does not have enough capacity for VM"), "{refusal}");
    world.write(|tx| {
        let row = tx.host(other)?;
        tx.host_update(&HostRow { state: 8, ..row })
    });
    let refusal = world.refusal(|cloud| vm_action::deploy(cloud, admin, waiting, to(other)));
    assert!(refusal.to_string().starts_with("Host 1 (node1) is in state OFFLINE"), "{refusal}");
    for word in ["migrate", "backup", "snapshot-create", "fly", ""] {
        world.refuses(2048, &format!("Action \"{word}\" is not supported"), |cloud| {
            vm_action::action(cloud, admin, word, running)
        });
    }
    world.refuses(2048, "Error performing action \"suspend\": This action is not available for state HOLD", |cloud| {
        vm_action::action(cloud, admin, "suspend", waiting)
    });
}

#[test]
fn the_wish_for_another_host_is_shown_and_settled_by_a_new_life() {
    let world = World::new();
    let id = world.add_running_vm("");
    let shown = || element(&world.vm_document(&world.alice, id), "RESCHED");
    vm_action::action(&world.cloud, &world.admin, "resched", id).unwrap();
    assert_eq!(shown(), "<RESCHED>1</RESCHED>");
    vm_action::action(&world.cloud, &world.admin, "unresched", id).unwrap();
    assert_eq!(shown(), "<RESCHED>0</RESCHED>");
    vm_action::action(&world.cloud, &world.admin, "resched", id).unwrap();
    vm_action::action(&world.cloud, &world.admin, "poweroff", id).unwrap();
    assert_eq!(shown(), "<RESCHED>0</RESCHED>");
    assert!(world.open_jobs().iter().all(|job| job.kind == "POWEROFF"));
}

#[test]
fn the_lists_of_operations_say_which_right_a_call_needs_user_before_group_before_daemon() {
    let start =
        |world: &World, caller: &Caller, vm: i64| api::backup::backup(&world.cloud, caller, vm, 100, false).map(|_| ());
    let lists = "VM_MANAGE_OPERATIONS=\"backup\"\n";
    for level in ["user", "group", "secondary", "daemon"] {
        let world = World::configured(|config| {
            if level == "daemon" {
                let own = OperationLists::from_template(&oned::ledger::stored(lists)).unwrap();
                assert!(own.right_for(VmOperation::Backup).is_some());
                config.vm_operations = own;
            }
        });
        world.add_backup_datastore("backups");
        let vm = world.add_running_vm("");
        if level != "daemon" {
            assert_eq!(world.refusal(|_| start(&world, &world.alice, vm)).code(), 512, "{level}");
        }
        world.write(|tx| match level {
            "user" => {
                let row = tx.user(world.alice.uid)?;
                tx.user_update(&UserRow { template: lists.into(), ..row })
            }
            "group" | "secondary" => {
                let row = tx.group(if level == "group" { TEAM } else { 1 })?;
                tx.group_update(&GroupRow { template: lists.into(), ..row })
            }
            _ => Ok(()),
        });
        let alice = authenticate(&world.cloud, &session("alice")).unwrap();
        start(&world, &alice, vm).unwrap_or_else(|refusal| panic!("{level}: {refusal}"));
        api::backup::cancel(&world.cloud, &alice, vm).unwrap();
    }
    // The user's own list wins over the group's.
    let world = World::new();
    let vm = world.add_running_vm("");
    world.write(|tx| {
        let (user, group) = (tx.user(world.alice.uid)?, tx.group(TEAM)?);
        tx.user_update(&UserRow {
            template: "VM_ADMIN_OPERATIONS=\"poweroff, sched-action, rename, nonsense\"".into(),
            ..user
        })?;
        tx.group_update(&GroupRow { template: "VM_USE_OPERATIONS=\"poweroff\"".into(), ..group })
    });
    let alice = authenticate(&world.cloud, &session("alice")).unwrap();
    let text = "SCHED_ACTION=[ACTION=suspend,TIME=\"+60\"]";
    for refusal in [
        world.refusal(|cloud| vm_action::action(cloud, &alice, "poweroff", vm)),
        world.refusal(|cloud| api::schedule::add(cloud, &alice, vm, text)),
        world.refusal(|cloud| api::vm::rename(cloud, &alice, vm, "other")),
    ] {
        assert_eq!(refusal.to_string(), "User [2] : Not authorized to perform ADMIN VM [0].");
    }
    let bob = authenticate(&world.cloud, &session("bob")).unwrap();
    world.edit_vm(vm, |row| row.permissions = crate::world::octal(0o640));
    vm_action::action(&world.cloud, &bob, "poweroff", vm).unwrap();
}

#[test]
fn the_clock_does_what_the_owner_could_do_himself() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let add = |word: &str| {
        let text = format!("SCHED_ACTION=[ACTION={word},TIME=\"+60\"]");
        api::schedule::add(&world.cloud, &world.alice, vm, &text).unwrap()
    };
    let suspend = add("suspend");
    world.clock.advance(61);
    oned::scheduler::tick(&world.cloud);
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::SaveSuspend));
    assert!(world.action(suspend).done.is_some());
    world.end_jobs();
    world.step(vm, VmEvent::Saved);
    // A site that leaves stopping to administrators leaves it to them at night too.
    world.write(|tx| {
        let row = tx.user(world.alice.uid)?;
        tx.user_update(&UserRow { template: "VM_ADMIN_OPERATIONS=\"stop\"".into(), ..row })
    });
    let stop = add("stop");
    world.clock.advance(61);
    oned::scheduler::tick(&world.cloud);
    assert_eq!(world.phase(vm), SUSPENDED);
    assert!(
        world.action(stop).message.contains("Not authorized to perform ADMIN VM"),
        "{}",
        world.action(stop).message
    );
}
