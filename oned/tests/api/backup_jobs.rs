//! Backup jobs: what they may say, whose VMs they hold, their schedule, and the lists of their runs.

use one_core::access::Caller;
use one_core::backup::{BackupConfig, FreezeFail, FsFreeze, Mode, PlanKind};
use one_core::dispatch::{Place, Waiting};
use one_core::lifecycle::{LcmState, VmEvent, VmPhase, VmState};
use one_core::refusal::Refusal;
use one_core::schedule::Parent;
use one_core::template::Template;
use oned::api::{Cloud, backup_job, owned, schedule, view};
use oned::events::Whose;
use oned::job::{BackupPlan, Origin};
use oned::ledger::{self, BackupEnd, EndedBackup};
use oned::quota;
use oned::scheduler::Outcome;
use oned::scheduler::backup_jobs::{self, Member};
use oned::store::rows::{BackupJobRow, BackupJobVmRow, JobRow, SampleRow};
use oned::store::{JobFilter, RunList};

use crate::world::{NOW, SIZE, TEAM, World, element, octal, valid};

fn job(world: &World, text: &str) -> i64 {
    backup_job::allocate(&world.cloud, &world.alice, text).unwrap()
}

fn shown(world: &World, id: i64) -> String {
    valid(backup_job::info(&world.cloud, &world.alice, id).unwrap())
}

fn value(text: &str, name: &str) -> String {
    element(text, name).replace(&format!("<{name}><![CDATA["), "").replace(&format!("]]></{name}>"), "")
}

#[test]
fn a_job_needs_nothing_but_its_vms_and_shows_what_holds_for_all_else() {
    let world = World::new();
    let id = job(&world, "NAME = \"test-backupjob\"\nNAME=\"test-backupjob\"\nBACKUP_VMS = \"3,1, 3,2\"\nCOLOUR=red\n");
    let text = shown(&world, id);
    for (name, expected) in [
        ("BACKUP_VMS", "3,1,2"),
        ("BACKUP_VOLATILE", "NO"),
        ("EXECUTION", "SEQUENTIAL"),
        ("FS_FREEZE", "NONE"),
        ("KEEP_LAST", "0"),
        ("MODE", "FULL"),
    ] {
        assert!(
            value(&text, name) == expected || value(&text, name) == format!("<{name}>{expected}</{name}>"),
            "{name} in {text}"
        );
    }
    assert!(text.contains("<PRIORITY>50</PRIORITY>") && !text.contains("COLOUR"), "{text}");
    assert!(text.contains("<OUTDATED_VMS/>") || text.contains("<OUTDATED_VMS></OUTDATED_VMS>"), "{text}");
    backup_job::update(&world.cloud, &world.alice, id, "BACKUP_VMS=\"1,2,3,4\"\nMODE=increment\nNAME=x\n", 1).unwrap();
    let text = shown(&world, id);
    assert_eq!((value(&text, "BACKUP_VMS"), value(&text, "MODE")), ("1,2,3,4".into(), "INCREMENT".into()));
    assert_eq!(value(&text, "NAME"), "test-backupjob");
}

#[test]
fn values_that_no_job_can_have_are_refused() {
    let world = World::new();
    for (text, sentence) in [
        ("BACKUP_VMS=\"1\"\n", "Error allocating a new backup job. No NAME in template"),
        ("NAME=a\nBACKUP_VMS=\"1,x\"\n", "Wrong BACKUP_VMS value: x, it must be a list of ids with commas."),
        ("NAME=a\nMODE=sometimes\n", "Wrong MODE value: sometimes, it must be FULL or INCREMENT."),
        ("NAME=a\nKEEP_LAST=many\n", "Wrong KEEP_LAST value: many, it must be a number."),
        ("NAME=a\nDATASTORE_ID=-1\n", "Wrong DATASTORE_ID value: -1, it must be the id of a datastore."),
        ("NAME=a\nDATASTORE_ID=1\n", "Datastore needs to be of type BACKUP"),
        ("NAME=a\nDATASTORE_ID=77\n", "Error getting datastore [77]."),
        ("NAME=a\nRETRY=11\n", "Wrong RETRY value: 11, it must be a number from 0 to 10."),
        ("NAME=a\nRETRY=often\n", "Wrong RETRY value: often, it must be a number from 0 to 10."),
        ("NAME=a\nFS_FREEZE_FAIL=cry\n", "Wrong FS_FREEZE_FAIL value: cry, it must be CONTINUE or ABORT."),
        ("NAME=a\nPRIORITY=100\n", "Wrong priority value"),
        ("NAME=a\nPRIORITY=high\n", "Wrong priority value"),
        ("NAME=a\nSCHED_ACTION=[TIME=\"+60\"]\n", "Relative time values are not allowed for backup jobs: +60"),
        ("NAME=a\nSCHED_ACTION=tomorrow\n", "No SCHED_ACTION attribute in template"),
    ] {
        let refusal = world.refusal(|cloud| backup_job::allocate(cloud, &world.alice, text));
        assert_eq!(refusal.to_string(), sentence, "{text}");
    }
    let long =
        format!("NAME=a\nBACKUP_VMS=\"{}\"\n", (0..10_001).map(|id| id.to_string()).collect::<Vec<_>>().join(","));
    assert_eq!(world.refusal(|cloud| backup_job::allocate(cloud, &world.alice, &long)).code(), 8192);
    let first = job(&world, "NAME=a\n");
    let taken = format!("Error allocating a new backup job. NAME is already taken by BACKUPJOB {first}.");
    world.refuses(8192, &taken, |cloud| backup_job::allocate(cloud, &world.alice, "NAME=a\n"));
}

#[test]
fn a_vm_is_in_one_job_knows_it_and_leaves_with_a_new_chain() {
    let world = World::new();
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]");
    let datastore = world.add_backup_datastore("backups");
    let id = job(&world, &format!("NAME=a\nBACKUP_VMS=\"{vm},900\"\nDATASTORE_ID={datastore}\n"));
    assert_eq!(world.config(vm).backup_job_id, Some(id));
    assert!(world.vm_document(&world.alice, vm).contains("BACKUP_JOB_ID"));
    let sentence = format!("Unable to add VM {vm} to Backup Job {}. It's already in Backup Job {id}", id + 1);
    let second = format!("NAME=b\nBACKUP_VMS={vm}\n");
    world.refuses(8192, &sentence, |cloud| backup_job::allocate(cloud, &world.alice, &second));

    let other = job(&world, "NAME=b\n");
    let sentence = format!("Unable to add VM {vm} to Backup Job {other}. It's already in Backup Job {id}");
    let wish = format!("BACKUP_VMS={vm}\n");
    world.refuses(8192, &sentence, |cloud| backup_job::update(cloud, &world.alice, other, &wish, 1));

    world.add_backup(vm, datastore, 2, true);
    assert!(world.config(vm).chain().is_some());
    backup_job::update(&world.cloud, &world.alice, id, "BACKUP_VMS=\"900\"\n", 1).unwrap();
    assert_eq!((world.config(vm).backup_job_id, world.config(vm).chain()), (None, None));
    backup_job::update(&world.cloud, &world.alice, other, &wish, 1).unwrap();
    assert_eq!(world.config(vm).backup_job_id, Some(other));
    backup_job::delete(&world.cloud, &world.alice, other).unwrap();
    assert_eq!(world.config(vm).backup_job_id, None);
}

#[test]
fn only_vms_that_one_may_manage_and_datastores_that_one_may_use_come_into_a_job() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let datastore = world.add_backup_datastore("backups");
    let with_vm = format!("NAME=a\nBACKUP_VMS=\"900,{vm}\"\n");
    let sentence = format!("User [{}] : Not authorized to perform MANAGE VM [{vm}].", world.mallory.uid);
    world.refuses(512, &sentence, |cloud| backup_job::allocate(cloud, &world.mallory, &with_vm));
    let there = format!("NAME=a\nDATASTORE_ID={datastore}\n");
    let sentence = format!("User [{}] : Not authorized to perform USE DATASTORE [{datastore}].", world.mallory.uid);
    world.refuses(512, &sentence, |cloud| backup_job::allocate(cloud, &world.mallory, &there));
    let id = backup_job::allocate(&world.cloud, &world.mallory, "NAME=a\n").unwrap();
    for text in [with_vm, there] {
        assert_eq!(world.refusal(|cloud| backup_job::update(cloud, &world.mallory, id, &text, 1)).code(), 512);
    }
    // An administrator's job may hold anybody's.
    backup_job::allocate(&world.cloud, &world.admin, &format!("NAME=a\nBACKUP_VMS={vm}\n")).unwrap();
}

#[test]
fn high_priorities_are_for_administrators() {
    let world = World::new();
    let sentence = format!("User [{}] : Not authorized to set a priority above 50.", world.alice.uid);
    world.refuses(512, &sentence, |cloud| backup_job::allocate(cloud, &world.alice, "NAME=a\nPRIORITY=51\n"));
    let id = job(&world, "NAME=a\nPRIORITY=50\n");
    backup_job::priority(&world.cloud, &world.alice, id, 20).unwrap();
    assert!(shown(&world, id).contains("<PRIORITY>20</PRIORITY>"));
    let sentence = format!("User [{}] : Not authorized to perform ADMIN BACKUPJOB [{id}].", world.alice.uid);
    world.refuses(512, &sentence, |cloud| backup_job::priority(cloud, &world.alice, id, 50));
    world.refuses(8192, "Wrong priority value", |cloud| backup_job::priority(cloud, &world.admin, id, 100));
    backup_job::priority(&world.cloud, &world.admin, id, 99).unwrap();
    assert!(shown(&world, id).contains("<PRIORITY>99</PRIORITY>"));
}

#[test]
fn a_jobs_schedule_is_its_own() {
    let world = World::new();
    let id = job(&world, "NAME=a\nBACKUP_VMS=\"1\"\nSCHED_ACTION=[ACTION=terminate,ARGS=x,TIME=\"1900000000\"]\n");
    let text = shown(&world, id);
    assert!(text.contains("<TYPE>BACKUPJOB</TYPE>") || text.contains("<TYPE><![CDATA[BACKUPJOB]]></TYPE>"), "{text}");
    assert!(!text.contains("terminate") && text.contains("backup"), "{text}");
    let of = (Parent::BackupJob, id);
    let wish = "SCHED_ACTION = [\n\tREPEAT = \"3\",\n\tDAYS = \"1\",\n\tTIME = \"1695478500\" ]";
    let action = schedule::add_of(&world.cloud, &world.alice, of.0, of.1, wish).unwrap();
    let change = "SCHED_ACTION = [ DAYS = \"5\" ]";
    assert_eq!(schedule::update_of(&world.cloud, &world.alice, of, action, change).unwrap(), action);
    assert_eq!(world.action(action).days, [5]);
    // Neither a VM nor another job has it.
    let other = job(&world, "NAME=b\n");
    let vm = world.add_running_vm("");
    for (parent, parent_id) in [(Parent::BackupJob, other), (Parent::Vm, vm)] {
        let sentence = format!("SCHED_ACTION with id = {action} doesn't exist");
        world.refuses(2048, &sentence, |cloud| {
            schedule::update_of(cloud, &world.alice, (parent, parent_id), action, change)
        });
    }
    let sentence = format!("Error getting scheduled action [{action}].");
    world.refuses(1024, &sentence, |cloud| schedule::delete(cloud, &world.alice, vm, action));
    world.refuses(1024, &sentence, |cloud| schedule::delete_of_job(cloud, &world.alice, other, action));
    assert_eq!(schedule::delete_of_job(&world.cloud, &world.alice, id, action).unwrap(), action);
    backup_job::delete(&world.cloud, &world.alice, id).unwrap();
    assert!(world.read(|tx| tx.schedule_list()).is_empty());
}

/// A run as its lists show it: OUTDATED, BACKING_UP, UPDATED, ERROR, each in the order of its places.
type Lists = [Vec<i64>; 4];

const LISTS: [RunList; 4] = [RunList::Outdated, RunList::BackingUp, RunList::Updated, RunList::Error];

/// Alice's job of some running VMs of hers, all in one datastore.
struct Run {
    world: World,
    vms: Vec<i64>,
    datastore: i64,
    job: i64,
}

impl Run {
    fn of(vms: usize, text: &str) -> Self {
        let world = World::new();
        let datastore = world.add_backup_datastore("backups");
        let vms: Vec<i64> = (0..vms).map(|_| world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]")).collect();
        let list: Vec<String> = vms.iter().map(i64::to_string).collect();
        let text = format!("NAME=nightly\nBACKUP_VMS=\"{}\"\nDATASTORE_ID={datastore}\n{text}", list.join(","));
        let job = job(&world, &text);
        Self { world, vms, datastore, job }
    }

    fn call(&self, call: fn(&Cloud, &Caller, i64) -> Result<i64, Refusal>) {
        assert_eq!(call(&self.world.cloud, &self.world.alice, self.job).unwrap(), self.job);
    }

    fn row(&self) -> BackupJobRow {
        self.world.read(|tx| tx.backup_job_find(self.job)).unwrap()
    }

    fn error(&self) -> String {
        Template::parse(&self.row().template).unwrap().scalar("ERROR").unwrap_or_default().to_owned()
    }

    fn lists(&self) -> Lists {
        let entries = self.world.read(|tx| tx.backup_job_vms(self.job));
        LISTS.map(|list| view::in_list(&entries, list))
    }

    /// The VMs that may start now, in their order.
    fn waiting(&self) -> Vec<i64> {
        let waiting = self.world.read(|tx| backup_jobs::waiting(tx, self.world.clock_now()));
        waiting.iter().map(|(_, member)| member.vm_id).collect()
    }

    /// As the scheduler does when it has a slot.
    fn start(&self, vm_id: i64) -> Result<(), Refusal> {
        let (member, now) = (Member { backup_job_id: self.job, vm_id }, self.world.clock_now());
        let cloud = &self.world.cloud;
        let started = cloud.store.write(|tx| backup_jobs::start_member(cloud, tx, &member, now));
        if let Err(refusal) = &started {
            self.world.write(|tx| backup_jobs::refused(tx, &member, refusal, now, chrono_tz::Tz::UTC));
        }
        started
    }

    /// The daemon's job that backs the VM up.
    fn backup(&self, vm: i64) -> JobRow {
        let open = self.world.read(|tx| tx.jobs_open(JobFilter::Vm(vm)));
        open.into_iter().find(|job| job.kind == "BACKUP").unwrap()
    }

    /// As the engine does at the end of a backup.
    fn end(&self, vm: i64, end: BackupEnd<'_>) {
        let (job, now) = (self.backup(vm), self.world.clock_now());
        let plan: BackupPlan = oned::job::plan(&job).unwrap();
        self.world.write(|tx| {
            quota::release_backup(tx, job.id)?;
            tx.job_advance(job.id, &job.phase, "done", now, "ended by the test")?;
            let ended = EndedBackup { vm_id: vm, job: &job, plan: &plan, end, now, zone: chrono_tz::Tz::UTC };
            ledger::backup_ended(tx, &ended)
        });
        self.world.edit_config(vm, BackupConfig::end_backup);
        self.world.step(vm, VmEvent::BackupEnd);
    }
}

const WELL: BackupEnd<'static> = BackupEnd::Done { read_bytes: 1, stored_bytes: 1, duration_s: 1, note: "" };

#[test]
fn a_run_of_vms_that_are_gone_is_over_at_once_and_changes_nothing_else() {
    let world = World::new();
    let id = job(&world, "NAME=a\nBACKUP_VMS=\"1,2,3\"\n");
    for call in [backup_job::backup, backup_job::cancel, backup_job::retry, backup_job::backup] {
        assert_eq!(call(&world.cloud, &world.alice, id).unwrap(), id);
    }
    let now = world.clock_now();
    let text = shown(&world, id);
    assert!(text.contains(&format!("<LAST_BACKUP_TIME>{now}</LAST_BACKUP_TIME>")), "{text}");
    assert!(text.contains("<LAST_BACKUP_DURATION>0</LAST_BACKUP_DURATION>"), "{text}");

    let empty = job(&world, "NAME=empty\n");
    let sentence = "Wrong BACKUP_VMS attribute or not defined";
    world.refuses(2048, sentence, |cloud| backup_job::backup(cloud, &world.alice, empty));
    assert_eq!(world.refusal(|cloud| backup_job::backup(cloud, &world.mallory, id)).code(), 512);
}

#[test]
fn a_run_lists_its_vms_in_the_jobs_order_and_moves_them_as_their_backups_end() {
    let run = Run::of(3, "RETRY=0\n");
    let [a, b, c] = run.vms[..] else { panic!() };
    backup_job::update(&run.world.cloud, &run.world.alice, run.job, &format!("BACKUP_VMS=\"{c},{a},900,{b}\"\n"), 1)
        .unwrap();
    run.call(backup_job::backup);
    assert_eq!((run.lists(), run.row().last_backup_time), ([vec![c, a, b], vec![], vec![], vec![]], NOW));
    let text = shown(&run.world, run.job);
    assert_eq!(
        element(&text, "OUTDATED_VMS"),
        format!("<OUTDATED_VMS><ID>{a}</ID><ID>{b}</ID><ID>{c}</ID></OUTDATED_VMS>"),
        "documents list ids ascending"
    );
    let sentence = "Unable to execute Backup Job, pending backups in progress";
    run.world.refuses(2048, sentence, |cloud| backup_job::backup(cloud, &run.world.alice, run.job));

    // One after the other.
    assert_eq!(run.waiting(), [c, a, b]);
    run.start(c).unwrap();
    assert_eq!((run.waiting(), run.lists()), (vec![], [vec![a, b], vec![c], vec![], vec![]]));
    run.start(a).unwrap();
    assert_eq!(run.lists()[1], [c], "two at a time");
    run.world.clock.advance(10);
    run.end(c, WELL);
    assert_eq!((run.waiting(), run.row().last_backup_duration), (vec![a, b], 0));
    run.start(a).unwrap();
    run.end(a, BackupEnd::Failed("the disk is gone"));
    assert_eq!(run.error(), format!("Sat Nov 21 12:00:10 2026 : [backup] VM {a}: the disk is gone"));
    run.start(b).unwrap();
    run.world.clock.advance(5);
    run.end(b, WELL);
    assert_eq!((run.lists(), run.row().last_backup_duration), ([vec![], vec![], vec![c, b], vec![a]], 15));
    assert!(value(&shown(&run.world, run.job), "ERROR").contains("the disk is gone"));

    // The next run begins with empty lists and without the sentence.
    run.world.clock.advance(100);
    run.call(backup_job::backup);
    assert_eq!((run.lists(), run.error()), ([vec![c, a, b], vec![], vec![], vec![]], String::new()));
    assert_eq!((run.row().last_backup_time, run.row().last_backup_duration), (NOW + 115, 0));
}

#[test]
fn a_parallel_job_starts_what_there_is_room_for_and_names_owner_host_datastore_and_priority_of_each() {
    let run = Run::of(2, "EXECUTION=parallel\nPRIORITY=20\n");
    run.call(backup_job::backup);
    let waiting = run.world.read(|tx| backup_jobs::waiting(tx, NOW));
    for ((waiting, member), vm) in waiting.iter().zip(&run.vms) {
        let place = Place { owner: run.world.alice.uid, host: Some(0), datastore: Some(run.datastore) };
        assert_eq!(*waiting, Waiting { place, priority: Some(20), sequence: None });
        assert_eq!(*member, Member { backup_job_id: run.job, vm_id: *vm });
    }
    run.vms.iter().for_each(|vm| run.start(*vm).unwrap());
    assert_eq!(run.lists(), [vec![], run.vms.clone(), vec![], vec![]]);
}

#[test]
fn high_priority_comes_first_and_counts_from_when_it_is_set() {
    let run = Run::of(1, "");
    let world = &run.world;
    let vm = world.add_running_vm("");
    let wish = format!("NAME=other\nBACKUP_VMS={vm}\nDATASTORE_ID={}\nPRIORITY=10\n", run.datastore);
    let other = job(world, &wish);
    backup_job::backup(&world.cloud, &world.alice, other).unwrap();
    run.call(backup_job::backup);
    assert_eq!(run.waiting(), [run.vms[0], vm]);
    backup_job::priority(&world.cloud, &world.admin, other, 90).unwrap();
    assert_eq!(run.waiting(), [vm, run.vms[0]]);
}

#[test]
fn a_backup_that_failed_is_made_again_behind_the_others_as_often_as_retry_says() {
    let run = Run::of(2, "RETRY=2\n");
    let [a, b] = run.vms[..] else { panic!() };
    run.call(backup_job::backup);
    for attempt in 0..3 {
        assert_eq!(run.waiting()[0], a, "attempt {attempt}");
        run.start(a).unwrap();
        run.end(a, BackupEnd::Failed("the disk is gone"));
        if attempt == 2 {
            break;
        }
        assert_eq!((run.lists()[0].clone(), run.error()), (vec![b, a], String::new()));
        assert_eq!(run.waiting(), [b]);
        run.world.clock.advance(300);
        assert_eq!(run.waiting(), [b, a]);
        // As if b had no slot.
        run.world.write(|tx| {
            let entry = tx.backup_job_vm(run.job, b)?.unwrap();
            tx.backup_job_vm_put(&BackupJobVmRow { place: 100 + attempt, ..entry })
        });
    }
    assert_eq!(run.lists(), [vec![b], vec![], vec![], vec![a]]);
    run.start(b).unwrap();
    run.end(b, WELL);
    assert_eq!(run.row().last_backup_duration, 600);

    // By hand, with all attempts again, also while the job runs.
    run.call(backup_job::retry);
    assert_eq!((run.lists(), run.error()), ([vec![a], vec![], vec![b], vec![]], String::new()));
    run.start(a).unwrap();
    run.end(a, BackupEnd::Failed("the disk is gone"));
    assert_eq!(run.lists()[0], [a]);
    run.call(backup_job::retry);
    assert_eq!(run.waiting(), Vec::<i64>::new(), "what waits is not what failed");

    // Not what somebody did not want.
    run.world.clock.advance(300);
    run.start(a).unwrap();
    run.end(a, BackupEnd::Cancelled);
    assert_eq!(run.lists()[3], [a]);
    assert!(run.error().ends_with(&format!("[backup] VM {a}: cancelled on request")), "{}", run.error());
}

#[test]
fn a_cancel_drops_what_waits_stops_what_runs_and_the_late_end_is_none_of_the_next_runs() {
    let run = Run::of(3, "EXECUTION=PARALLEL\n");
    let [a, b, c] = run.vms[..] else { panic!() };
    run.call(backup_job::cancel);
    run.call(backup_job::backup);
    for vm in [a, b] {
        run.start(vm).unwrap();
    }
    run.end(b, WELL);
    run.world.clock.advance(7);
    run.call(backup_job::cancel);
    assert_eq!((run.lists(), run.row().last_backup_duration), ([vec![], vec![], vec![b], vec![]], 7));
    assert_eq!(run.backup(a).cancel, 1);
    // Another run while the cancelled backup is being taken back: the VM waits for that.
    run.call(backup_job::backup);
    assert_eq!(run.lists()[0], [a, b, c]);
    run.start(a).unwrap();
    assert_eq!(run.lists()[0], [a, b, c]);
    assert_eq!(run.waiting(), [b, c], "it is asked again when it is back");
    run.end(a, BackupEnd::Cancelled);
    assert_eq!((run.lists()[0].clone(), run.error()), (vec![a, b, c], String::new()));
    assert_eq!(run.waiting(), [a, b, c]);
    run.start(a).unwrap();
    assert_eq!(run.lists()[1], [a]);
}

#[test]
fn vms_that_are_taken_out_or_end_leave_the_run_and_new_ones_come_with_the_next() {
    let run = Run::of(3, "EXECUTION=PARALLEL\n");
    let [a, b, c] = run.vms[..] else { panic!() };
    let world = &run.world;
    let new = world.add_running_vm("");
    run.call(backup_job::backup);
    run.start(a).unwrap();
    world.clock.advance(3);
    let update = |text: &str| backup_job::update(&world.cloud, &world.alice, run.job, text, 1).unwrap();
    update(&format!("BACKUP_VMS=\"{new},{c}\"\n"));
    assert_eq!(run.lists(), [vec![c], vec![], vec![], vec![]]);
    assert_eq!((world.config(a).backup_job_id, world.config(new).backup_job_id), (None, Some(run.job)));
    // The backup that runs goes on; nobody waits for its end.
    run.end(a, WELL);
    assert_eq!(run.lists(), [vec![c], vec![], vec![], vec![]]);
    assert_eq!(world.config(b).backup_job_id, None);

    // Gone without anybody having told the run.
    world.set_phase(c, VmPhase::DONE);
    assert_eq!(run.waiting(), [c]);
    world.clock.advance(4);
    run.start(c).unwrap();
    assert_eq!((run.lists(), run.row().last_backup_duration), (Lists::default(), 7));
    run.call(backup_job::backup);
    assert_eq!(run.lists()[0], [new]);
    update("BACKUP_VMS=\"\"\n");
    assert_eq!((run.lists(), run.row().last_backup_duration), (Lists::default(), 0));
    shown(world, run.job);
}

#[test]
fn a_run_takes_as_long_as_it_took_whatever_is_done_to_its_vms_later() {
    let run = Run::of(1, "");
    run.call(backup_job::backup);
    run.start(run.vms[0]).unwrap();
    run.world.clock.advance(5);
    run.end(run.vms[0], WELL);
    run.world.clock.advance(1000);
    backup_job::update(&run.world.cloud, &run.world.alice, run.job, "BACKUP_VMS=\"\"\n", 1).unwrap();
    run.call(backup_job::cancel);
    assert_eq!((run.lists(), run.row().last_backup_duration), (Lists::default(), 5));
}

#[test]
fn a_job_that_is_deleted_while_it_runs_leaves_its_backups_alone_and_nothing_behind() {
    let run = Run::of(2, "SCHED_ACTION=[TIME=\"1900000000\"]\n");
    let [a, b] = run.vms[..] else { panic!() };
    run.call(backup_job::backup);
    run.start(a).unwrap();
    backup_job::delete(&run.world.cloud, &run.world.alice, run.job).unwrap();
    assert_eq!(run.backup(a).cancel, 0);
    assert_eq!((run.lists(), run.waiting()), (Lists::default(), vec![]));
    run.start(b).unwrap();
    run.end(a, BackupEnd::Failed("the disk is gone"));
    assert!(run.world.open_jobs().is_empty());
    assert!(run.world.read(|tx| tx.schedule_list()).is_empty());
    for vm in [a, b] {
        assert_eq!(run.world.config(vm).backup_job_id, None);
    }
}

#[test]
fn what_the_owner_may_not_do_any_more_his_job_does_not_do_and_the_vm_is_left_as_it_is() {
    let run = Run::of(2, "MODE=INCREMENT\nKEEP_LAST=4\n");
    let [a, b] = run.vms[..] else { panic!() };
    let world = &run.world;
    world.edit_vm(a, |row| (row.uid, row.gid, row.permissions) = (world.mallory.uid, 1, octal(0o600)));
    // Somebody else with MANAGE on the job starts it; that changes nothing.
    backup_job::backup(&world.cloud, &world.admin, run.job).unwrap();
    let before = world.vm_row(a);
    let refusal = run.start(a).unwrap_err();
    let sentence = format!("User [{}] : Not authorized to perform MANAGE VM [{a}].", world.alice.uid);
    assert_eq!(refusal.to_string(), sentence);
    assert_eq!(run.error(), format!("Sat Nov 21 12:00:00 2026 : [backup] {sentence}"));
    assert_eq!((world.vm_row(a), run.lists()[3].clone()), (before, vec![a]));
    let events = world.read(|tx| oned::events::newest(tx, Whose::BackupJob(run.job), 10));
    assert_eq!((events[0].vm_id, events[0].result.as_str(), &events[0].reason), (Some(a), "REFUSED", &sentence));

    // Nor into a datastore that is not his to use.
    world.edit_datastore(run.datastore, |row| (row.uid, row.gid, row.permissions) = (0, 0, octal(0o600)));
    let before = world.vm_row(b);
    let sentence = format!("User [{}] : Not authorized to perform USE DATASTORE [{}].", world.alice.uid, run.datastore);
    assert_eq!(run.start(b).unwrap_err().to_string(), sentence);
    assert_eq!((world.vm_row(b), run.lists()[3].clone()), (before, vec![a, b]));
    assert_eq!(run.row().last_backup_duration, 0);

    // When it is again, all is well; the backup is the owner's, whoever asked.
    world.edit_datastore(run.datastore, |row| {
        (row.uid, row.gid, row.permissions) = (world.alice.uid, TEAM, octal(0o640));
    });
    backup_job::retry(&world.cloud, &world.admin, run.job).unwrap();
    run.start(a).unwrap_err();
    run.start(b).unwrap();
    let plan: BackupPlan = oned::job::plan(&run.backup(b)).unwrap();
    assert_eq!((plan.uid, plan.origin), (world.alice.uid, Origin::BackupJob { id: run.job, schedule_id: None }));
}

#[test]
fn a_job_whose_owner_is_gone_does_nothing() {
    let run = Run::of(1, "SCHED_ACTION=[TIME=\"1900000000\"]\n");
    let world = &run.world;
    oned::api::people::enable(&world.cloud, &world.admin, world.alice.uid, false).unwrap();
    let row = world.read(|tx| tx.schedules_of_backup_job(run.job)).remove(0);
    let action = ledger::read_schedule(&row).unwrap();
    let sentence = format!("The owner of Backup Job {}, user {}, is gone or disabled.", run.job, world.alice.uid);
    world.refuses(8192, &sentence, |cloud| {
        cloud.store.write(|tx| backup_jobs::start_run(cloud, tx, &row, &action, NOW))
    });
    backup_job::backup(&world.cloud, &world.admin, run.job).unwrap();
    assert_eq!(run.start(run.vms[0]).unwrap_err().to_string(), sentence);
    assert!(run.error().ends_with(&sentence), "{}", run.error());
}

#[test]
fn a_scheduled_run_is_one_like_any_other_and_its_backups_know_their_schedule() {
    let run = Run::of(1, "SCHED_ACTION=[TIME=\"1900000000\"]\n");
    let world = &run.world;
    let row = world.read(|tx| tx.schedules_of_backup_job(run.job)).remove(0);
    let action = ledger::read_schedule(&row).unwrap();
    let begin = |cloud: &Cloud| cloud.store.write(|tx| backup_jobs::start_run(cloud, tx, &row, &action, NOW));
    assert_eq!(begin(&world.cloud).unwrap(), Outcome::Started);
    assert_eq!(run.lists()[0], run.vms);
    world.refuses(2048, "Unable to execute Backup Job, pending backups in progress", begin);
    run.start(run.vms[0]).unwrap();
    let plan: BackupPlan = oned::job::plan(&run.backup(run.vms[0])).unwrap();
    assert_eq!(plan.origin, Origin::BackupJob { id: run.job, schedule_id: Some(row.id) });
}

#[test]
fn a_vm_that_is_busy_waits_without_a_word_and_not_longer_than_an_hour() {
    let run = Run::of(2, "");
    let [a, b] = run.vms[..] else { panic!() };
    let world = &run.world;
    for phase in [VmPhase::active(LcmState::HotplugNic), VmPhase::PENDING, VmPhase::active(LcmState::Unknown)] {
        run.call(backup_job::cancel);
        run.call(backup_job::backup);
        world.set_phase(a, phase);
        let before = world.vm_row(a);
        run.start(a).unwrap();
        assert_eq!((run.lists()[0].clone(), run.waiting()), (vec![a, b], vec![b]), "{phase}");
        world.clock.advance(3599);
        assert_eq!(run.waiting(), [b], "{phase}");
        world.clock.advance(1);
        assert_eq!(run.waiting(), [a, b], "{phase}");
        let refusal = run.start(a).unwrap_err();
        assert!(refusal.to_string().contains(&format!("wrong state {phase}")), "{refusal}");
        assert_eq!((world.vm_row(a), run.lists()[3].clone()), (before, vec![a]));
    }
    // What does not pass by itself is refused at once; what has passed starts.
    for phase in [VmPhase::resting(VmState::Undeployed), VmPhase::active(LcmState::BootFailure)] {
        run.call(backup_job::retry);
        world.set_phase(a, phase);
        run.start(a).unwrap_err();
    }
    run.call(backup_job::retry);
    world.set_phase(a, VmPhase::active(LcmState::HotplugNic));
    run.start(a).unwrap();
    world.set_phase(a, VmPhase::RUNNING);
    assert_eq!(run.waiting(), [b, a]);
    run.start(a).unwrap();
    assert_eq!(run.lists()[1], [a]);
}

#[test]
fn the_jobs_configuration_is_written_over_that_of_each_vm_key_by_key() {
    let run = Run::of(1, "MODE=INCREMENT\nKEEP_LAST=4\nFS_FREEZE=agent\nFS_FREEZE_FAIL=abort\nDISK_IDS=\"0\"\n");
    let vm = run.vms[0];
    run.world.edit_config(vm, |config| config.keep_last = Some(9));
    run.call(backup_job::backup);
    assert_eq!(run.world.config(vm).keep_last, Some(9), "not before its backup");
    run.start(vm).unwrap();
    let config = run.world.config(vm);
    assert_eq!((config.mode, config.keep_last, config.disk_ids.clone()), (Mode::Increment, Some(4), vec![0]));
    assert_eq!((config.fs_freeze, config.freeze_fail), (FsFreeze::Agent, FreezeFail::Abort));
    let plan: BackupPlan = oned::job::plan(&run.backup(vm)).unwrap();
    assert_eq!((plan.decision.freeze, plan.decision.datastore_id), (FsFreeze::Agent, run.datastore));
    run.end(vm, WELL);

    // A disk that there is not.
    backup_job::update(&run.world.cloud, &run.world.alice, run.job, "DISK_IDS=\"7\"\n", 1).unwrap();
    run.call(backup_job::backup);
    assert!(run.start(vm).unwrap_err().to_string().contains("disk 7 cannot be backed up"));
    assert_eq!(run.world.config(vm).disk_ids, [0]);
}

#[test]
fn backups_of_a_job_go_into_a_series_of_the_job_and_increments_stay_where_their_chain_is() {
    let run = Run::of(1, "MODE=INCREMENT\n");
    let (world, vm) = (&run.world, run.vms[0]);
    let plan = || {
        run.call(backup_job::backup);
        run.start(vm).unwrap();
        let plan: BackupPlan = oned::job::plan(&run.backup(vm)).unwrap();
        run.end(vm, WELL);
        plan
    };
    let first = plan();
    assert_eq!(first.series, format!("job-{}/{vm}", run.job));
    assert!(matches!(first.decision.kind, PlanKind::Full { new_chain: true, .. }));
    // Its point, as the engine would have recorded it in an older place.
    world.add_backup(vm, run.datastore, 1, true);
    let next = plan();
    assert!(matches!(next.decision.kind, PlanKind::Increment { .. }), "{next:?}");
    assert_eq!(next.series, vm.to_string());

    // RESET, and another datastore: each begins anew, in the job's own.
    let update = |text: &str| backup_job::update(&world.cloud, &world.alice, run.job, text, 1).unwrap();
    update("RESET=yes\n");
    let reset = plan();
    assert!(matches!(reset.decision.kind, PlanKind::Full { new_chain: true, .. }), "{reset:?}");
    assert_eq!(reset.series, first.series);
    let elsewhere = world.add_backup_datastore("elsewhere");
    update(&format!("RESET=\"\"\nDATASTORE_ID={elsewhere}\n"));
    let moved = plan();
    assert!(matches!(moved.decision.kind, PlanKind::Full { new_chain: true, .. }), "{moved:?}");
    assert_eq!((moved.series, moved.decision.datastore_id), (first.series, elsewhere));

    // Outside of a job its backups lie where they always did.
    backup_job::delete(&world.cloud, &world.alice, run.job).unwrap();
    assert_eq!(world.config(vm).chain(), None);
    oned::api::backup::backup(&world.cloud, &world.admin, vm, elsewhere, false).unwrap();
    let alone: BackupPlan = oned::job::plan(&run.backup(vm)).unwrap();
    assert_eq!(alone.series, vm.to_string());
}

#[test]
fn a_vm_that_comes_into_a_job_begins_a_new_chain() {
    let world = World::new();
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]");
    let datastore = world.add_backup_datastore("backups");
    world.add_backup(vm, datastore, 2, true);
    assert!(world.config(vm).chain().is_some());
    let id = job(&world, &format!("NAME=a\nBACKUP_VMS={vm}\n"));
    assert_eq!((world.config(vm).backup_job_id, world.config(vm).chain()), (Some(id), None));
}

#[test]
fn a_vm_that_gets_the_number_of_one_that_never_was_is_not_in_the_job() {
    let run = Run::of(1, "");
    let world = &run.world;
    let next = run.vms[0] + 1;
    let both = format!("BACKUP_VMS=\"{next},{}\"\n", run.vms[0]);
    backup_job::update(&world.cloud, &world.alice, run.job, &both, 1).unwrap();
    assert_eq!(world.add_running_vm(""), next);
    run.call(backup_job::backup);
    assert_eq!(run.lists()[0], run.vms);
    // Named anew it is.
    run.call(backup_job::cancel);
    for text in [format!("BACKUP_VMS=\"{}\"\n", run.vms[0]), both] {
        backup_job::update(&world.cloud, &world.alice, run.job, &text, 1).unwrap();
    }
    run.call(backup_job::backup);
    assert_eq!(run.lists()[0], [next, run.vms[0]]);
}

#[test]
fn attributes_that_the_published_document_does_not_know_are_kept_and_shown_by_a_call_of_their_own() {
    let world = World::new();
    let text = "NAME=a\nLABELS=\"nightly,far\"\nINCREMENT_MODE=snapshot\nRETRY=3\nFS_FREEZE_FAIL=abort\nNOTE=[WHO=me]\n\
                SCHED_INFO=[ID=1]\nBACKUP_EVENT=[TIME=1]\n";
    let id = job(&world, text);
    let extended = || backup_job::info_extended(&world.cloud, &world.alice, id, false).unwrap();
    let document = extended();
    for (name, expected) in
        [("LABELS", "nightly,far"), ("INCREMENT_MODE", "SNAPSHOT"), ("RETRY", "3"), ("FS_FREEZE_FAIL", "ABORT")]
    {
        assert_eq!(value(&document, name), expected);
        assert!(!shown(&world, id).contains(name), "{name}");
    }
    assert!(element(&document, "NOTE").contains("WHO"), "{document}");
    assert!(!document.contains("SCHED_INFO") && !document.contains("BACKUP_EVENT"), "{document}");
    // An update that names others leaves them, one that replaces does not.
    backup_job::update(&world.cloud, &world.alice, id, "DESCRIPTION=x\nLABELS=far\n", 1).unwrap();
    assert_eq!((value(&extended(), "DESCRIPTION"), value(&extended(), "LABELS")), ("x".into(), "far".into()));
    backup_job::update(&world.cloud, &world.alice, id, "KEEP_LAST=1\n", 0).unwrap();
    assert!(!extended().contains("LABELS") && !extended().contains("RETRY"), "{}", extended());
    assert_eq!(world.refusal(|cloud| backup_job::info_extended(cloud, &world.mallory, id, false)).code(), 512);
}

#[test]
fn the_log_of_a_job_tells_of_each_run_that_it_began_and_how_it_ended() {
    let run = Run::of(2, "EXECUTION=PARALLEL\nRETRY=0\n");
    let [a, b] = run.vms[..] else { panic!() };
    // The newest first; those of its VMs apart.
    let told = || {
        let events = run.world.read(|tx| oned::events::newest(tx, Whose::BackupJob(run.job), 100));
        let of_runs = events.into_iter().filter(|event| event.vm_id.is_none());
        of_runs.map(|event| format!("{} {}", event.result, event.reason)).collect::<Vec<_>>()
    };
    run.call(backup_job::backup);
    assert_eq!(told(), ["STARTED "]);
    run.start(a).unwrap();
    run.start(b).unwrap();
    run.end(a, WELL);
    assert_eq!(told(), ["STARTED "]);
    run.end(b, BackupEnd::Failed("the disk is gone"));
    let failed = "FAILED 1 of 2 VMs have no new restore point";
    assert_eq!(told(), [failed]);
    run.call(backup_job::retry);
    assert_eq!(told(), ["STARTED ", failed]);
    // Asked for once more, it goes on as it is.
    run.call(backup_job::retry);
    run.start(b).unwrap();
    run.end(b, WELL);
    assert_eq!(told(), ["DONE ", failed]);
    run.call(backup_job::backup);
    run.start(a).unwrap();
    run.call(backup_job::cancel);
    let cancelled = format!("CANCELLED by user {}", run.world.alice.uid);
    assert_eq!(told(), [cancelled.as_str(), "DONE ", failed]);
    run.end(a, BackupEnd::Cancelled);
    assert_eq!(told().len(), 3);
}

#[test]
fn the_extended_document_tells_what_schedules_and_runs_have_besides() {
    let run = Run::of(1, "SCHED_ACTION=[CRON=\"0 3 * * *\",TIMEZONE=\"Europe/Vienna\",KEEP_LAST=7]\n");
    run.call(backup_job::backup);
    run.start(run.vms[0]).unwrap();
    run.end(run.vms[0], BackupEnd::Failed("the disk is gone"));
    let document = backup_job::info_extended(&run.world.cloud, &run.world.alice, run.job, false).unwrap();
    let info = element(&document, "SCHED_INFO");
    assert!(info.contains("0 3 * * *") && info.contains("Europe/Vienna") && info.contains('7'), "{info}");
    let event = element(&document, "BACKUP_EVENT");
    assert!(event.contains("FAILED") && event.contains("the disk is gone"), "{event}");
    let published = shown(&run.world, run.job);
    assert!(!published.contains("SCHED_INFO") && !published.contains("BACKUP_EVENT"), "{published}");
}

#[test]
fn a_locked_job_is_not_changed_or_run() {
    let run = Run::of(1, "");
    let world = &run.world;
    owned::lock::<BackupJobRow>(&world.cloud, &world.alice, run.job, 1, false).unwrap();
    assert!(shown(world, run.job).contains("<LOCK><LOCKED>1</LOCKED>"));
    for call in [backup_job::delete, backup_job::backup, backup_job::cancel, backup_job::retry] {
        assert_eq!(world.refusal(|cloud| call(cloud, &world.alice, run.job)).code(), 512);
    }
    owned::unlock::<BackupJobRow>(&world.cloud, &world.alice, run.job).unwrap();
    assert!(!shown(world, run.job).contains("<LOCK>"));
}

#[test]
fn a_vm_that_ends_leaves_its_job_and_what_was_measured_of_it() {
    let world = World::new();
    let make = || oned::api::vm::allocate(&world.cloud, &world.alice, SIZE, true).unwrap();
    let (ends, stays) = (make(), make());
    let id = job(&world, &format!("NAME=nightly\nBACKUP_VMS=\"{ends},{stays}\"\n"));
    world.write(|tx| {
        for vm_id in [ends, stays] {
            tx.backup_job_vm_put(&BackupJobVmRow::outdated(id, vm_id, 0, None))?;
            let kind = "VM".into();
            tx.sample_put(&SampleRow { kind, object_id: vm_id, time: NOW, body: "CPU=\"1\"".into() }, 10)?;
        }
        Ok(())
    });
    oned::api::vm::action(&world.cloud, &world.alice, "terminate-hard", ends).unwrap();
    let left = world.read(|tx| tx.backup_job_vms(id));
    assert_eq!(left.iter().map(|row| row.vm_id).collect::<Vec<_>>(), [stays]);
    assert_eq!((world.config(ends).backup_job_id, world.config(stays).backup_job_id), (None, Some(id)));
    let samples = |vm| world.read(|tx| tx.samples("VM", vm, 0)).len();
    assert_eq!((samples(ends), samples(stays)), (0, 1));
    shown(&world, id);
}
