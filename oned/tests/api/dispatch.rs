//! Which due actions start, which wait, which are refused and when those are tried again, which are retried and left out.

use one_core::backup::BackupConfig;
use one_core::lifecycle::{LcmState, VmEvent, VmPhase, VmState};
use one_core::schedule::ScheduledAction;
use oned::ledger::{self, BackupEnd, EndedBackup};
use oned::store::rows::ScheduleRow;
use oned::store::{JobFilter, Release};
use oned::{api, scheduler};

use crate::world::{NOW, World, octal, unchanged};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn world() -> (World, i64) {
    let world = World::new();
    world.add_backup_datastore("backups");
    let vm = world.add_running_vm("");
    (world, vm)
}

fn limited(cloud: Option<u32>, host: Option<u32>) -> World {
    let world = World::configured(|config| (config.max_backups, config.max_backups_host) = (cloud, host));
    world.add_backup_datastore("backups");
    world
}

pub fn add(world: &World, vm: i64, keys: &str) -> i64 {
    api::schedule::add(&world.cloud, &world.admin, vm, &format!("SCHED_ACTION=[{keys}]")).unwrap()
}

/// An action with attributes that the text of a call is not needed for.
pub fn change(world: &World, id: i64, change: impl FnOnce(&mut ScheduledAction)) {
    let (row, mut action) = (world.schedule_row(id), world.action(id));
    change(&mut action);
    let zone = world.cloud.config.timezone;
    world.write(|tx| tx.schedule_update(&api::schedule::row_of(&action, row.uid, zone)?));
}

pub fn tick(world: &World) {
    scheduler::tick(&world.cloud);
}

pub fn tick_at(world: &World, time: i64) {
    world.clock.set(time);
    tick(world);
}

#[track_caller]
fn nothing_happens(world: &World) {
    let before = world.records();
    tick(world);
    unchanged(&before, &world.records(), "nothing was due");
}

pub fn backing_up(world: &World, vm: i64) -> bool {
    world.phase(vm) == VmPhase::active(LcmState::Backup)
}

/// Ends a VM's backup as the engine does.
pub fn end(world: &World, vm: i64, end: BackupEnd<'_>) {
    let now = world.clock_now();
    let jobs = world.read(|tx| tx.jobs_open(JobFilter::Vm(vm)));
    let job = jobs.into_iter().find(|job| job.kind == "BACKUP").unwrap();
    let plan = oned::job::plan(&job).unwrap();
    let zone = world.cloud.config.timezone;
    world.write(|tx| {
        oned::quota::release_backup(tx, job.id)?;
        ledger::backup_ended(tx, &EndedBackup { vm_id: vm, job: &job, plan: &plan, end, now, zone })?;
        tx.job_advance(job.id, &job.phase, "done", now, "ended by the test")
    });
    world.edit_config(vm, BackupConfig::end_backup);
    world.step(vm, VmEvent::BackupEnd);
}

pub const DONE: BackupEnd<'_> = BackupEnd::Done { read_bytes: 1, stored_bytes: 1, duration_s: 1, note: "" };

fn daily(time: i64) -> String {
    format!("ACTION=backup,ARGS=\"100\",TIME={time},REPEAT=0,DAYS=\"0,1,2,3,4,5,6\"")
}

fn once(time: i64) -> String {
    format!("ACTION=backup,ARGS=\"100\",TIME={time}")
}

#[test]
fn a_datastore_has_a_limit_of_its_own_and_its_fullness_holds_up_no_other() {
    let world = limited(None, None);
    world.add_backup_datastore("others");
    api::datastore::update(&world.cloud, &world.admin, 100, "MAX_BACKUPS=1\n", 1).unwrap();
    let vms: Vec<i64> = (0..4).map(|_| world.add_running_vm("")).collect();
    for (vm, datastore) in vms.iter().zip([100, 100, 101, 101]) {
        add(&world, *vm, &format!("ACTION=backup,ARGS=\"{datastore}\",TIME={NOW}"));
    }
    tick(&world);
    let running = || -> Vec<bool> { vms.iter().map(|vm| backing_up(&world, *vm)).collect() };
    assert_eq!(running(), [true, false, true, true]);
    nothing_happens(&world);
    end(&world, vms[0], DONE);
    tick(&world);
    assert_eq!(running(), [false, true, true, true]);
}

#[test]
fn the_limit_of_a_datastore_must_be_a_number_of_backups() {
    let world = limited(None, None);
    let says = "MAX_BACKUPS value: ";
    for wrong in ["\"many\"", "\"-1\"", "\"1.5\"", "\"99999999999\"", "[A=1]"] {
        let text = format!("MAX_BACKUPS={wrong}\n");
        let refusal = world.refusal(|cloud| api::datastore::update(cloud, &world.admin, 100, &text, 1));
        assert!(refusal.to_string().contains(says), "{wrong}: {refusal}");
        let text = format!("NAME=more\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=\"a secret\"\n{text}");
        let refusal = world.refusal(|cloud| api::datastore::allocate(cloud, &world.admin, &text, -1));
        assert!(refusal.to_string().contains(says), "{wrong}: {refusal}");
    }
    for right in ["\"0\"", "\"\"", "\"12\""] {
        api::datastore::update(&world.cloud, &world.admin, 100, &format!("MAX_BACKUPS={right}\n"), 1).unwrap();
    }
    assert_eq!(world.read(ledger::backup_limits), [(100, 12)].into());
}

#[test]
fn owners_take_turns_for_the_only_slot() {
    let world = limited(Some(1), None);
    let vms: Vec<i64> = (0..5).map(|_| world.add_running_vm("")).collect();
    for (vm, late) in vms.iter().zip(0..) {
        // Those of the first owner are all due before those of the second.
        add(&world, *vm, &once(NOW + late));
    }
    for vm in &vms[3..] {
        world.edit_vm(*vm, |row| row.uid = world.bob.uid);
    }
    world.clock.advance(10);
    let mut order = Vec::new();
    for _ in &vms {
        tick(&world);
        let running: Vec<i64> = vms.iter().copied().filter(|vm| backing_up(&world, *vm)).collect();
        assert_eq!(running.len(), 1, "{running:?}");
        end(&world, running[0], DONE);
        order.extend(running);
    }
    assert_eq!(order, [vms[0], vms[3], vms[1], vms[4], vms[2]]);
}

#[test]
fn a_refusal_in_the_middle_of_a_round_takes_nobody_else_with_it() {
    let world = limited(None, None);
    // More than one transaction's worth.
    let vms: Vec<i64> = (0..55).map(|_| world.add_running_vm("")).collect();
    for vm in &vms {
        add(&world, *vm, &once(NOW));
    }
    let refused = [vms[0], vms[20], vms[49], vms[54]];
    for vm in refused {
        world.edit_vm(vm, |row| row.permissions = octal(0o400));
    }
    let before = refused.map(|vm| world.vm_row(vm));
    tick(&world);
    for vm in &vms {
        assert_eq!(backing_up(&world, *vm), !refused.contains(vm), "VM {vm}");
    }
    assert_eq!(refused.map(|vm| world.vm_row(vm)), before);
    assert_eq!(world.open_jobs().len(), vms.len() - refused.len());
}

#[test]
fn an_action_whose_record_is_damaged_has_nobody_elses_slot() {
    let world = limited(Some(1), None);
    let (first, second) = (world.add_running_vm(""), world.add_running_vm(""));
    let broken = add(&world, first, &once(NOW - 1));
    add(&world, second, &once(NOW));
    let row = world.schedule_row(broken);
    world.write(|tx| tx.schedule_update(&ScheduleRow { body: "{".into(), ..row }));
    tick(&world);
    tick(&world);
    assert!(backing_up(&world, second));
}

#[test]
fn an_action_that_ends_its_vm_is_gone_with_it() {
    let world = limited(None, None);
    let vm = api::vm::allocate(&world.cloud, &world.alice, "CPU=1\nMEMORY=1\n", true).unwrap();
    let id = add(&world, vm, &format!("ACTION=terminate,TIME={NOW}"));
    tick(&world);
    assert_eq!(world.phase(vm), VmPhase::DONE);
    assert!(world.read(|tx| tx.schedule_find(id)).is_none());
}

/// Has an action refused three times because the VM's owner lacks something; gives the time of the last refusal.
fn refused(world: &World, id: i64) -> i64 {
    for refusals in 1..=4 {
        tick(world);
        let row = world.schedule_row(id);
        assert_eq!(row.refusals, refusals, "{}", world.action(id).message);
        if refusals < 4 {
            world.clock.set(row.not_before);
        }
    }
    // The next attempt would be two minutes away.
    assert_eq!(world.schedule_row(id).not_before, world.clock_now() + 120);
    world.clock_now()
}

#[test]
fn what_was_refused_is_tried_again_when_what_stood_in_the_way_is_gone() {
    type Change = fn(&World, i64);
    let obstacles: [(&str, Change, Change); 7] = [
        (
            "the VM's state",
            |world, vm| [VmEvent::Suspend, VmEvent::Saved].into_iter().for_each(|event| world.step(vm, event)),
            |world, vm| [VmEvent::Resume, VmEvent::Booted].into_iter().for_each(|event| world.step(vm, event)),
        ),
        (
            "the datastore's rights",
            |world, _| world.edit_datastore(100, |row| (row.uid, row.gid, row.permissions) = (0, 0, octal(0o600))),
            |world, _| {
                let bits = [1, 1, 1, 1, 1, 0, 1, 0, 0];
                api::owned::chmod::<oned::store::rows::DatastoreRow>(&world.cloud, &world.admin, 100, &bits).unwrap();
            },
        ),
        (
            "the VM's rights",
            |world, vm| world.edit_vm(vm, |row| row.permissions = octal(0o400)),
            |world, vm| {
                let bits = [1, 1, 0, 0, 0, 0, 0, 0, 0];
                api::owned::chmod::<oned::store::rows::VmRow>(&world.cloud, &world.admin, vm, &bits).unwrap();
            },
        ),
        (
            "an access rule",
            |world, _| world.edit_datastore(100, |row| (row.uid, row.gid, row.permissions) = (0, 0, octal(0o600))),
            |world, _| {
                let user = format!("{:x}", 0x1_0000_0000_i64 + world.alice.uid);
                api::people::add_rule(&world.cloud, &world.admin, (&user, "100100000064", "1", "")).unwrap();
            },
        ),
        (
            "the owner's account",
            |world, _| {
                api::people::enable(&world.cloud, &world.admin, world.alice.uid, false).unwrap();
            },
            |world, _| {
                api::people::enable(&world.cloud, &world.admin, world.alice.uid, true).unwrap();
            },
        ),
        (
            "a quota",
            |world, _| {
                let text = "DATASTORE=[ID=100,SIZE=1,IMAGES=-1]";
                api::quota::user(&world.cloud, &world.admin, world.alice.uid, text).unwrap();
            },
            |world, _| {
                let text = "DATASTORE=[ID=100,SIZE=-1,IMAGES=-1]";
                api::quota::user(&world.cloud, &world.admin, world.alice.uid, text).unwrap();
            },
        ),
        (
            "the datastore's template",
            |world, _| world.edit_datastore(100, |row| row.kind = 0),
            |world, _| {
                world.edit_datastore(100, |row| row.kind = 3);
                api::datastore::update(&world.cloud, &world.admin, 100, "A=B\n", 1).unwrap();
            },
        ),
    ];
    for (what, obstruct, remove) in obstacles {
        let (world, vm) = world();
        let id = add(&world, vm, &once(NOW));
        obstruct(&world, vm);
        let last = refused(&world, id);
        world.clock.advance(5);
        remove(&world, vm);
        // Not at once: whatever changes again and again must not have it tried as often.
        tick_at(&world, last + 14);
        assert_eq!((backing_up(&world, vm), world.schedule_row(id).refusals), (false, 1), "{what}");
        tick_at(&world, last + 15);
        assert!(backing_up(&world, vm), "{what}: {}", world.action(id).message);
        assert_eq!((world.schedule_row(id).refusals, world.action(id).message.as_str()), (0, ""), "{what}");
    }
}

#[test]
fn a_storm_of_changes_has_a_refused_action_tried_once_in_15_seconds() {
    let (world, vm) = world();
    let id = add(&world, vm, &once(NOW));
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    let mut attempts = Vec::new();
    for second in 0..120 {
        world.clock.set(NOW + second);
        for release in [Release::All, Release::Vm(vm), Release::Datastore(100), Release::All] {
            world.write(|tx| tx.schedules_release(release));
        }
        let before = world.schedule_row(id).refusals;
        tick(&world);
        if world.schedule_row(id).refusals > before {
            attempts.push(second);
        }
    }
    assert_eq!(attempts, [0, 15, 30, 45, 60, 75, 90, 105]);
    // What goes elsewhere is not touched.
    tick_at(&world, NOW + 120);
    tick_at(&world, NOW + 200);
    let row = world.schedule_row(id);
    assert!(row.refusals > 1, "{row:?}");
    world.write(|tx| tx.schedules_release(Release::Datastore(101)));
    world.write(|tx| tx.schedules_release(Release::Vm(vm + 1)));
    assert_eq!(world.schedule_row(id), row);
}

#[test]
fn a_refusal_that_repeats_is_one_event() {
    let (world, vm) = world();
    let id = add(&world, vm, &once(NOW));
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    refused(&world, id);
    let events = || -> Vec<(String, String)> {
        let rows = world.read(|tx| tx.events_of_vm(vm, 50));
        rows.into_iter().filter(|row| row.schedule_id == Some(id)).map(|row| (row.result, row.reason)).collect()
    };
    let refusal = ("REFUSED".to_owned(), "Could not create a new backup for VM 0, wrong state SUSPENDED.".to_owned());
    assert_eq!(events(), std::slice::from_ref(&refusal));
    world.set_phase(vm, VmPhase::resting(VmState::Stopped));
    tick_at(&world, NOW + HOUR);
    assert_eq!((events().len(), &events()[1]), (2, &refusal));
}

#[test]
fn what_is_not_started_before_its_window_closes_is_left_out_and_said_so() {
    let world = limited(Some(1), None);
    let (first, vm) = (world.add_running_vm(""), world.add_running_vm(""));
    add(&world, first, &once(NOW));
    tick(&world);
    // 12:00 to 13:00.
    let id = add(&world, vm, &daily(NOW));
    change(&world, id, |action| action.window_end = Some(13 * 3600));
    tick_at(&world, NOW + HOUR);
    assert_eq!(world.action(id).time, NOW);
    nothing_happens(&world);
    tick_at(&world, NOW + HOUR + 1);
    let action = world.action(id);
    assert_eq!((action.time, action.done, action.skipped), (NOW + DAY, None, Some(NOW)));
    assert!(action.message.contains("WINDOW_END"), "{}", action.message);
    let last = world.read(|tx| tx.events_of_vm(vm, 1)).remove(0);
    assert_eq!((last.result.as_str(), last.schedule_id), ("SKIPPED", Some(id)));
    end(&world, first, DONE);
    nothing_happens(&world);
    // On time on the next day, and that clears the message.
    tick_at(&world, NOW + DAY);
    assert!(backing_up(&world, vm));
    assert_eq!((world.action(id).message.as_str(), world.action(id).time), ("", NOW + 2 * DAY));
}

#[test]
fn a_refused_action_is_left_out_too_and_one_that_runs_once_is_over() {
    let (world, vm) = world();
    let id = add(&world, vm, &once(NOW));
    change(&world, id, |action| action.window_end = Some(12 * 3600 + 10));
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    tick(&world);
    assert_eq!(world.schedule_row(id).not_before, NOW + 15);
    tick_at(&world, NOW + 11);
    let row = world.schedule_row(id);
    assert_eq!((row.due_at, row.refusals, row.closes_at), (None, 0, None));
    world.set_phase(vm, VmPhase::RUNNING);
    world.clock.advance(DAY);
    nothing_happens(&world);
}

#[test]
fn a_backup_that_failed_is_started_again_after_a_pause_as_often_as_retry_says() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("{},END_TYPE=1,END_VALUE=2", daily(NOW)));
    change(&world, id, |action| action.retry = 2);
    tick(&world);
    let planned = world.action(id);
    for failures in 1..=2 {
        end(&world, vm, BackupEnd::Failed("the server is away"));
        let row = world.schedule_row(id);
        let at = world.clock_now() + 300;
        assert_eq!((row.failures, row.retry_at, row.due_at), (failures, Some(at), Some(at)));
        let message = world.action(id).message;
        assert!(message.ends_with("[backup] failed, next attempt in 300 s: the server is away"), "{message}");
        tick_at(&world, at - 1);
        assert!(!backing_up(&world, vm));
        tick_at(&world, at);
        assert!(backing_up(&world, vm), "retry {failures}");
        // No run of its own.
        assert_eq!(world.action(id), planned);
        assert_eq!(world.schedule_row(id).due_at, Some(NOW + DAY));
    }
    end(&world, vm, BackupEnd::Failed("the server is away"));
    let row = world.schedule_row(id);
    assert_eq!((row.failures, row.retry_at, row.due_at), (0, None, Some(NOW + DAY)));
    assert!(world.action(id).message.ends_with("[backup] failed: the server is away"));
    world.clock.advance(HOUR);
    nothing_happens(&world);
    // The second of two runs, which has its retries again.
    tick_at(&world, NOW + DAY);
    assert!(backing_up(&world, vm) && world.action(id).message.is_empty());
    end(&world, vm, BackupEnd::Failed("again"));
    assert_eq!(world.schedule_row(id).failures, 1);
    tick_at(&world, NOW + DAY + 300);
    end(&world, vm, DONE);
    let row = world.schedule_row(id);
    assert_eq!((row.failures, row.retry_at, row.due_at), (0, None, None));
    world.clock.advance(DAY);
    nothing_happens(&world);
}

#[test]
fn what_was_cancelled_or_may_not_be_retried_is_not_started_again() {
    for (retry, how) in [(1, BackupEnd::Cancelled), (0, BackupEnd::Failed("no")), (1, DONE)] {
        let (world, vm) = world();
        let id = add(&world, vm, &once(NOW));
        change(&world, id, |action| action.retry = retry);
        tick(&world);
        end(&world, vm, how);
        assert_eq!(world.schedule_row(id).due_at, None, "{how:?}");
        world.clock.advance(HOUR);
        nothing_happens(&world);
    }
}

#[test]
fn the_next_planned_run_takes_the_place_of_a_retry() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW},REPEAT=3,DAYS=1"));
    tick(&world);
    // Later than 300 s before the next.
    world.clock.set(NOW + HOUR - 300);
    end(&world, vm, BackupEnd::Failed("late"));
    assert_eq!((world.schedule_row(id).retry_at, world.schedule_row(id).due_at), (None, Some(NOW + HOUR)));
    tick_at(&world, NOW + HOUR);
    assert!(backing_up(&world, vm));
    // A retry that could not be started until the next run came.
    world.clock.set(NOW + HOUR + 10);
    end(&world, vm, BackupEnd::Failed("late"));
    assert_eq!(world.schedule_row(id).retry_at, Some(NOW + HOUR + 310));
    tick_at(&world, NOW + 2 * HOUR);
    assert!(backing_up(&world, vm));
    let (row, action) = (world.schedule_row(id), world.action(id));
    assert_eq!((row.retry_at, row.failures, action.time, action.done), (None, 0, NOW + 3 * HOUR, Some(NOW + 2 * HOUR)));
    end(&world, vm, DONE);
    nothing_happens(&world);
}

#[test]
fn a_retry_keeps_within_the_window_of_the_run_that_failed() {
    let (world, vm) = world();
    let id = add(&world, vm, &daily(NOW));
    change(&world, id, |action| (action.window_end, action.retry) = (Some(12 * 3600 + 600), 9));
    tick(&world);
    // It would begin at the last moment.
    world.clock.set(NOW + 300);
    end(&world, vm, BackupEnd::Failed("first"));
    assert_eq!(world.schedule_row(id).retry_at, Some(NOW + 600));
    // The VM cannot be backed up until it is too late.
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    tick_at(&world, NOW + 600);
    assert_eq!(world.schedule_row(id).refusals, 1);
    tick_at(&world, NOW + 601);
    let (row, action) = (world.schedule_row(id), world.action(id));
    assert_eq!((row.retry_at, row.refusals, row.due_at, action.skipped), (None, 0, Some(NOW + DAY), None));
    let last = world.read(|tx| tx.events_of_vm(vm, 1)).remove(0);
    assert_eq!(last.result, "SKIPPED");
    world.set_phase(vm, VmPhase::RUNNING);
    nothing_happens(&world);
    // One that fails too late for another attempt has none.
    tick_at(&world, NOW + DAY);
    world.clock.set(NOW + DAY + 301);
    end(&world, vm, BackupEnd::Failed("second"));
    assert_eq!((world.schedule_row(id).retry_at, world.schedule_row(id).due_at), (None, Some(NOW + 2 * DAY)));
}

#[test]
fn a_planned_run_is_not_left_out_for_the_window_of_a_retry_that_was_slept_through() {
    let (world, vm) = world();
    let id = add(&world, vm, &daily(NOW));
    change(&world, id, |action| action.window_end = Some(13 * 3600));
    tick(&world);
    world.clock.advance(10);
    end(&world, vm, BackupEnd::Failed("no"));
    assert_eq!(world.schedule_row(id).retry_at, Some(NOW + 310));
    // The machine was off until the next run was due.
    tick_at(&world, NOW + DAY + 60);
    assert!(backing_up(&world, vm));
    let (row, action) = (world.schedule_row(id), world.action(id));
    assert_eq!((action.served, action.skipped, action.done), (Some(NOW + DAY), None, Some(NOW + DAY + 60)));
    assert_eq!((row.retry_at, row.retry_until), (None, Some(NOW + DAY + HOUR)));
    end(&world, vm, BackupEnd::Failed("no"));
    assert_eq!(world.schedule_row(id).retry_at, Some(NOW + DAY + 360));
}

#[test]
fn an_action_that_is_changed_or_deleted_meanwhile_is_not_retried_as_it_was() {
    let update = |world: &World, vm: i64, id: i64, keys: &str| {
        api::schedule::update(&world.cloud, &world.admin, vm, id, &format!("SCHED_ACTION=[{keys}]")).unwrap();
    };
    // Deleted while the backup runs, and while its retry waits.
    for waits in [false, true] {
        let (world, vm) = world();
        let id = add(&world, vm, &once(NOW));
        tick(&world);
        if waits {
            end(&world, vm, BackupEnd::Failed("no"));
        }
        api::schedule::delete(&world.cloud, &world.admin, vm, id).unwrap();
        if !waits {
            end(&world, vm, BackupEnd::Failed("no"));
        }
        world.clock.advance(DAY);
        nothing_happens(&world);
    }
    // Another TIME: that is what counts, not the failure of what was before.
    for waits in [false, true] {
        let (world, vm) = world();
        let id = add(&world, vm, &once(NOW));
        tick(&world);
        if waits {
            end(&world, vm, BackupEnd::Failed("no"));
        }
        update(&world, vm, id, &format!("TIME={}", NOW + DAY));
        if !waits {
            end(&world, vm, BackupEnd::Failed("no"));
        }
        let row = world.schedule_row(id);
        assert_eq!((row.due_at, row.retry_at, row.failures), (Some(NOW + DAY), None, 0), "{waits}");
        tick_at(&world, NOW + DAY);
        assert!(backing_up(&world, vm));
    }
    // Something else than a backup.
    let (world, vm) = world();
    let id = add(&world, vm, &once(NOW));
    tick(&world);
    update(&world, vm, id, "ACTION=poweroff");
    end(&world, vm, BackupEnd::Failed("no"));
    assert_eq!(world.schedule_row(id).due_at, None);
}
