//! The log of what was done to VMs and by backup jobs: what is kept, who sees it, where it is shown.

use oned::api::{self, backup, events as calls};
use oned::events::{self, EventResult, KEPT, Note, Whose};
use oned::job::{self, Origin};
use oned::ledger::{self, BackupEnd, EndedBackup};
use oned::store::rows::EventRow;

use crate::world::{NOW, World, element, valid};

const DAY_S: i64 = 86_400;

/// A backup of a VM that was refused.
fn refused<'a>(vm: i64, time: i64, reason: &'a str) -> Note<'a> {
    Note {
        time,
        vm_id: Some(vm),
        backup_job_id: None,
        schedule_id: Some(1),
        job_id: None,
        uid: 2,
        action: "backup",
        result: EventResult::Refused,
        reason,
    }
}

impl World {
    fn note(&self, note: &Note<'_>) {
        self.write(|tx| events::note(tx, note));
    }

    fn events(&self, whose: Whose) -> Vec<EventRow> {
        self.read(|tx| events::newest(tx, whose, KEPT))
    }

    fn events_of(&self, vm: i64) -> Vec<EventRow> {
        self.events(Whose::Vm(vm))
    }

    /// Ends the only open backup, as far as those are concerned who wait for it.
    fn ended(&self, end: BackupEnd<'_>) {
        let (job, plan) = self.backup_plan();
        let (vm_id, now, zone) = (job.vm_id.unwrap(), self.clock_now(), chrono_tz::Tz::UTC);
        self.write(|tx| ledger::backup_ended(tx, &EndedBackup { vm_id, job: &job, plan: &plan, end, now, zone }));
        self.end_backup(vm_id);
    }

    fn back_up(&self, vm: i64, datastore: i64, end: BackupEnd<'_>) {
        backup::backup(&self.cloud, &self.admin, vm, datastore, false).unwrap();
        self.clock.advance(60);
        self.ended(end);
    }
}

fn done(note: &str) -> BackupEnd<'_> {
    BackupEnd::Done { read_bytes: 3 << 20, stored_bytes: (1 << 20) + 1, duration_s: 42, note }
}

#[test]
fn a_backup_is_one_event_from_its_start_to_its_end() {
    let world = World::new();
    let (datastore, vm) = (world.add_backup_datastore("backups"), world.add_running_vm(""));
    backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
    let job = world.open_jobs()[0].id;
    let started = world.events_of(vm);
    let facts = |row: &EventRow| (row.action.clone(), row.result.clone(), row.uid, row.job_id, row.time);
    assert_eq!(started.iter().map(facts).collect::<Vec<_>>(), [("backup".into(), "STARTED".into(), 0, Some(job), NOW)]);
    world.clock.advance(60);
    world.ended(done("the first of its chain"));
    let ended = world.events_of(vm);
    assert_eq!(ended.iter().map(facts).collect::<Vec<_>>(), [("backup".into(), "DONE".into(), 0, Some(job), NOW + 60)]);
    assert!(ended[0].id > started[0].id);
    let figures = (ended[0].read_bytes, ended[0].stored_bytes, ended[0].duration_s, ended[0].reason.as_str());
    assert_eq!(figures, (3 << 20, (1 << 20) + 1, 42, "the first of its chain"));
    world.back_up(vm, datastore, BackupEnd::Failed("no room\nleft ]]>"));
    assert_eq!(
        (world.events_of(vm)[0].result.as_str(), world.events_of(vm)[0].reason.as_str()),
        ("FAILED", "no room left ]] >")
    );
    world.back_up(vm, datastore, BackupEnd::Cancelled);
    let results: Vec<String> = world.events_of(vm).into_iter().map(|row| row.result).collect();
    assert_eq!(results, ["CANCELLED", "FAILED", "DONE"]);
}

#[test]
fn who_cancels_and_who_recovers_is_noted_beside() {
    let world = World::new();
    let (datastore, vm) = (world.add_backup_datastore("backups"), world.add_running_vm(""));
    backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
    for _ in 0..3 {
        backup::cancel(&world.cloud, &world.admin, vm).unwrap();
    }
    world.ended(BackupEnd::Cancelled);
    let told = |rows: Vec<EventRow>| -> Vec<(String, String, String)> {
        rows.into_iter().map(|row| (row.action, row.result, row.reason)).collect()
    };
    let word = |action: &str, result: &str, reason: &str| (action.to_owned(), result.to_owned(), reason.to_owned());
    let expected = [word("backup", "CANCELLED", ""), word("backup-cancel", "DONE", "")];
    assert_eq!(told(world.events_of(vm)), expected);
    backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
    api::vm_recover::recover(&world.cloud, &world.admin, vm, 0).unwrap();
    assert_eq!(told(world.events_of(vm))[0], word("recover", "DONE", "failure"));
}

#[test]
fn a_refusal_that_repeats_is_one_event_and_says_for_how_long() {
    let world = World::new();
    let vm = world.add_running_vm("");
    for minute in 0..60 {
        world.note(&refused(vm, NOW + 60 * minute, "the host is full"));
        // That of another action is one of its own.
        world.note(&Note { schedule_id: Some(2), ..refused(vm, NOW + 60 * minute, "the host is full") });
    }
    let rows = world.events_of(vm);
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| (row.time, row.duration_s) == (NOW + 59 * 60, 59 * 60)), "{rows:?}");
    world.note(&refused(vm, NOW, "no right"));
    world.note(&refused(vm, NOW, "the host is full"));
    assert_eq!(world.events_of(vm).len(), 4);
    for _ in 0..5 {
        let run = Note { vm_id: None, backup_job_id: Some(7), ..refused(0, NOW, "the host is full") };
        world.note(&run);
    }
    assert_eq!(world.events(Whose::BackupJob(7)).len(), 1);
}

#[test]
fn a_vm_keeps_its_newest_200_events_and_none_for_longer_than_400_days() {
    let world = World::new();
    let (vm, other) = (world.add_running_vm(""), world.add_running_vm(""));
    world.note(&refused(other, NOW, "of another"));
    for number in 0..250 {
        world.note(&refused(vm, NOW + number, &format!("reason {number}")));
    }
    let reasons: Vec<String> = world.events_of(vm).into_iter().map(|row| row.reason).collect();
    let expected: Vec<String> = (50..250).rev().map(|number| format!("reason {number}")).collect();
    assert_eq!(reasons, expected);
    assert_eq!(world.events_of(other).len(), 1);
    world.note(&refused(other, NOW + 400 * DAY_S + 10, "much later"));
    assert_eq!(world.events_of(other).len(), 1, "what is older went with the first that came after");
    // Some go with each that comes, and all when the daemon starts.
    world.write(|tx| events::expire(tx, NOW + 400 * DAY_S + 248));
    let left: Vec<String> = world.events_of(vm).into_iter().map(|row| row.reason).collect();
    assert_eq!(left, ["reason 249", "reason 248"]);
}

#[test]
fn a_job_of_many_vms_does_not_push_out_what_happened_to_each() {
    let world = World::new();
    for round in 0..3 {
        for vm in 0..150 {
            let time = NOW + round;
            let of_run = Note { vm_id: Some(vm), backup_job_id: Some(7), ..refused(vm, time, "r") };
            world.note(&Note { result: EventResult::Skipped, ..of_run });
        }
        world.note(&Note {
            vm_id: None,
            backup_job_id: Some(7),
            result: EventResult::Done,
            ..refused(0, NOW + round, "")
        });
    }
    for vm in [0, 149] {
        assert_eq!(world.events_of(vm).len(), 3);
    }
    let of_job = world.events(Whose::BackupJob(7));
    assert_eq!((of_job.len(), of_job[0].vm_id), (200, None));
    for number in 0..300 {
        let run = Note { vm_id: None, backup_job_id: Some(7), ..refused(0, NOW + 9, "") };
        world.note(&Note { reason: &number.to_string(), ..run });
    }
    assert!(world.events(Whose::BackupJob(7)).iter().all(|row| row.vm_id.is_none()));
    assert_eq!(world.events_of(0).len(), 3);
}

#[test]
fn events_are_listed_newest_first_for_who_sees_the_vm_and_at_most_as_many_as_asked() {
    let world = World::new();
    let vm = world.add_running_vm("");
    for number in 0..12 {
        world.note(&refused(vm, NOW + number, &format!("reason <{number}>")));
    }
    let list = |most: i64| valid(calls::of_vm(&world.cloud, &world.alice, vm, most).unwrap());
    let all = list(-1);
    assert!(all.starts_with("<EVENTS>") && all.ends_with("</EVENTS>"), "{all}");
    assert_eq!((all.matches("<EVENT>").count(), list(200).len()), (12, all.len()));
    let first = element(&list(1), "EVENT").replace('\n', "");
    for part in [
        "<TIME>1795262411</TIME><ACTION><![CDATA[backup]]></ACTION><RESULT><![CDATA[REFUSED]]></RESULT><UID>2</UID>",
        &format!("<VM_ID>{vm}</VM_ID><SCHED_ID>1</SCHED_ID><READ_BYTES>0</READ_BYTES>"),
        "<REASON><![CDATA[reason <11>]]></REASON>",
    ] {
        assert!(first.contains(part), "{first}");
    }
    for wrong in [0, 201, -2, i64::MIN, i64::MAX] {
        world.refuses(2048, "The number of events has to be 1 to 200, or -1 for all.", |cloud| {
            calls::of_vm(cloud, &world.alice, vm, wrong)
        });
    }
    assert_eq!(world.refusal(|cloud| calls::of_vm(cloud, &world.mallory, vm, 1)).code(), 512);
    world.refuses(1024, "Error getting virtual machine [99].", |cloud| calls::of_vm(cloud, &world.alice, 99, 1));
    let (cloud, alice) = (&world.cloud, &world.alice);
    let backup_job = api::backup_job::allocate(cloud, alice, "NAME=nightly\n").unwrap();
    assert_eq!(valid(calls::of_backup_job(cloud, alice, backup_job, -1).unwrap()), "<EVENTS></EVENTS>");
}

#[test]
fn a_vms_document_shows_the_newest_ten_and_the_last_success_and_is_still_valid() {
    let world = World::new();
    let (datastore, vm) = (world.add_backup_datastore("backups"), world.add_running_vm(""));
    let before = world.vm_document(&world.alice, vm);
    assert!(!before.contains("BACKUP_EVENT") && !before.contains("BACKUP_INFO"), "nothing was done: {before}");
    world.back_up(vm, datastore, done(""));
    let ended = world.clock_now();
    for _ in 0..12 {
        world.back_up(vm, datastore, BackupEnd::Failed("a ] b = \"c\", [d"));
    }
    let document = world.vm_document(&world.alice, vm);
    assert_eq!(document.matches("<BACKUP_EVENT>").count(), 10);
    assert!(document.contains(&format!("<LAST_SUCCESS><![CDATA[{ended}]]></LAST_SUCCESS>")), "{document}");
    let newest = element(&document, "BACKUP_EVENT");
    assert!(newest.contains(&format!("<TIME><![CDATA[{}]]></TIME>", world.clock_now())), "{newest}");
    assert!(newest.contains("<REASON><![CDATA[a ] b = \"c\", [d]]></REASON>"), "{newest}");
    assert!(!newest.contains("READ_BYTES") && !newest.contains("<VM_ID>"), "{newest}");
    world.back_up(vm, datastore, done(""));
    let newest = element(&world.vm_document(&world.alice, vm), "BACKUP_EVENT");
    for part in [
        "<READ_BYTES><![CDATA[3145728]]>",
        "<STORED_BYTES><![CDATA[1048577]]>",
        "<DURATION><![CDATA[42]]>",
        "<RESULT><![CDATA[DONE]]>",
    ] {
        assert!(newest.contains(part), "{part}: {newest}");
    }
    // Lists do not, and what goes into a backup does not either.
    for extended in [false, true] {
        let wish = api::vm::PoolWish { flag: -2, start: -1, end: -1, state: -1, search: "", extended };
        let pool = valid(api::vm::pool(&world.cloud, &world.alice, wish).unwrap());
        assert!(!pool.contains("BACKUP_EVENT") && !pool.contains("LAST_SUCCESS"), "{pool}");
    }
    backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
    let stored = world.backup_plan().1.document;
    assert!(!stored.contains("BACKUP_EVENT") && !stored.contains("LAST_SUCCESS"), "{stored}");
}

#[test]
fn a_client_that_sends_back_what_was_shown_stores_nothing_of_it() {
    let world = World::new();
    let (datastore, vm) = (world.add_backup_datastore("backups"), world.add_running_vm(""));
    world.back_up(vm, datastore, done(""));
    let shown = world.vm_document(&world.alice, vm);
    for kind in [0, 1] {
        let sent = "LABELS=a\nBACKUP_EVENT=[ACTION=none]\nBACKUP_EVENT=[TIME=1]\nBACKUP_INFO=[LAST_SUCCESS=1]\n\
                    PROGRESS=[ACTION=backup]\nDISK_PROGRESS=[DISK_ID=0]\n";
        api::vm::update(&world.cloud, &world.alice, vm, sent, kind).unwrap();
        assert_eq!(world.vm_row(vm).user_template, "LABELS=\"a\"\n");
        let after = world.vm_document(&world.alice, vm);
        assert_eq!(element(&after, "BACKUP_EVENT"), element(&shown, "BACKUP_EVENT"));
        assert_eq!(element(&after, "LAST_SUCCESS"), element(&shown, "LAST_SUCCESS"));
    }
}

#[test]
fn a_new_vm_has_no_events_that_its_template_claims() {
    let world = World::new();
    let vm = world
        .add_running_vm("NOTE=x\nBACKUP_EVENT=[ACTION=none]\nBACKUP_INFO=[LAST_SUCCESS=1]\nDISK_PROGRESS=[DISK_ID=0]");
    assert_eq!(world.vm_row(vm).user_template, "NOTE=\"x\"\n");
}

#[test]
fn how_a_vms_backups_fare_counts_failures_since_the_last_success() {
    let world = World::new();
    let (datastore, vm) = (world.add_backup_datastore("backups"), world.add_running_vm(""));
    let fare = || world.read(|tx| tx.vm_backup_find(vm)).map(|row| (row.last_success, row.failures));
    assert_eq!(fare(), None);
    world.back_up(vm, datastore, BackupEnd::Cancelled);
    assert_eq!(fare(), None, "a cancel says nothing");
    for failures in 1..=3 {
        world.back_up(vm, datastore, BackupEnd::Failed("no"));
        assert_eq!(fare(), Some((0, failures)));
    }
    world.back_up(vm, datastore, done(""));
    let success = world.clock_now();
    assert_eq!(fare(), Some((success, 0)));
    world.back_up(vm, datastore, BackupEnd::Failed("no"));
    world.back_up(vm, datastore, BackupEnd::Cancelled);
    assert_eq!(fare(), Some((success, 1)));
}

#[test]
fn what_a_job_or_an_action_started_names_it() {
    let world = World::new();
    let (datastore, vm) = (world.add_backup_datastore("backups"), world.add_running_vm(""));
    let wish = backup::Wish { datastore, reset: false, origin: Origin::Schedule { id: 5 } };
    let started: Result<(), one_core::refusal::Refusal> = world.cloud.store.write(|tx| {
        let row = tx.vm(vm)?;
        backup::start(&world.cloud, tx, &world.alice, row, wish)
    });
    started.unwrap();
    assert_eq!(world.events_of(vm)[0].schedule_id, Some(5));
    let origin = Origin::BackupJob { id: 7, schedule_id: Some(6) };
    let plan = job::BackupPlan { origin, ..world.backup_plan().1 };
    let row = world.open_jobs().remove(0);
    let (now, zone) = (world.clock_now(), chrono_tz::Tz::UTC);
    let ended = EndedBackup { vm_id: vm, job: &row, plan: &plan, end: done(""), now, zone };
    world.write(|tx| ledger::backup_ended(tx, &ended));
    let events = world.events(Whose::BackupJob(7));
    assert_eq!((events.len(), events[0].vm_id, events[0].schedule_id), (1, Some(vm), Some(6)));
    let vector = world.read(|tx| events::vectors(tx, Whose::BackupJob(7), 10)).remove(0);
    assert_eq!(["VM_ID", "SCHED_ID", "BACKUP_JOB_ID"].map(|id| vector.int(id)), [Some(vm), Some(6), Some(7)]);
    assert_eq!(vector.get("RESULT"), Some("DONE"));
}
