//! Backup jobs: their attributes, whose VMs they hold, their schedule, and that a run of VMs that exist is refused.

use one_core::schedule::Parent;
use oned::api::{backup_job, owned, schedule};
use oned::store::rows::{BackupJobRow, BackupJobVmRow, SampleRow};

use crate::world::{NOW, SIZE, World, element, valid};

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

#[test]
fn a_run_of_vms_that_are_gone_succeeds_and_one_of_vms_that_exist_is_refused_aloud() {
    let world = World::new();
    let id = job(&world, "NAME=a\nBACKUP_VMS=\"1,2,3\"\n");
    for call in [backup_job::backup, backup_job::cancel, backup_job::retry, backup_job::backup] {
        assert_eq!(call(&world.cloud, &world.alice, id).unwrap(), id);
    }
    let now = world.clock_now();
    assert!(shown(&world, id).contains(&format!("<LAST_BACKUP_TIME>{now}</LAST_BACKUP_TIME>")));

    let empty = job(&world, "NAME=empty\n");
    let sentence = "Wrong BACKUP_VMS attribute or not defined";
    world.refuses(2048, sentence, |cloud| backup_job::backup(cloud, &world.alice, empty));

    let vm = world.add_running_vm("");
    let real = job(&world, &format!("NAME=b\nBACKUP_VMS=\"900,{vm}\"\n"));
    let refusal = world.refusal(|cloud| backup_job::backup(cloud, &world.alice, real));
    assert!(refusal.code() == 2048 && refusal.to_string().contains("not available yet"), "{refusal}");
    assert_eq!(world.refusal(|cloud| backup_job::backup(cloud, &world.mallory, real)).code(), 512);
}

#[test]
fn the_lists_of_a_run_are_shown_emptied_by_cancel_and_stand_in_the_way_of_another_run() {
    let world = World::new();
    let id = job(&world, "NAME=a\nBACKUP_VMS=\"1,2,3,4\"\n");
    world.write(|tx| {
        for (vm_id, list) in [(1, "UPDATED"), (2, "BACKING_UP"), (3, "OUTDATED"), (4, "ERROR")] {
            tx.backup_job_vm_put(&BackupJobVmRow {
                backup_job_id: id,
                list: list.into(),
                vm_id,
                place: 0,
                failures: 0,
                not_before: 0,
            })?;
        }
        Ok(())
    });
    let text = shown(&world, id);
    for (list, vm) in [("UPDATED_VMS", 1), ("BACKING_UP_VMS", 2), ("OUTDATED_VMS", 3), ("ERROR_VMS", 4)] {
        assert_eq!(element(&text, list), format!("<{list}><ID>{vm}</ID></{list}>"));
    }
    let sentence = "Unable to execute Backup Job, pending backups in progress";
    world.refuses(2048, sentence, |cloud| backup_job::backup(cloud, &world.alice, id));
    backup_job::cancel(&world.cloud, &world.alice, id).unwrap();
    let left: Vec<i64> = world.read(|tx| tx.backup_job_vms(id)).iter().map(|row| row.vm_id).collect();
    assert_eq!(left, [1, 4]);
    // What is no longer named is no longer listed.
    backup_job::update(&world.cloud, &world.alice, id, "BACKUP_VMS=\"4\"\n", 1).unwrap();
    assert_eq!(world.read(|tx| tx.backup_job_vms(id)).len(), 1);
    backup_job::retry(&world.cloud, &world.alice, id).unwrap();
    assert!(world.read(|tx| tx.backup_job_vms(id)).is_empty());
    owned::lock::<BackupJobRow>(&world.cloud, &world.alice, id, 1, false).unwrap();
    assert!(shown(&world, id).contains("<LOCK><LOCKED>1</LOCKED>"));
    assert_eq!(world.refusal(|cloud| backup_job::delete(cloud, &world.alice, id)).code(), 512);
    owned::unlock::<BackupJobRow>(&world.cloud, &world.alice, id).unwrap();
    assert!(!shown(&world, id).contains("<LOCK>"));
}

#[test]
fn a_vm_that_ends_leaves_its_job_and_what_was_measured_of_it() {
    let world = World::new();
    let make = || oned::api::vm::allocate(&world.cloud, &world.alice, SIZE, true).unwrap();
    let (ends, stays) = (make(), make());
    let id = job(&world, &format!("NAME=nightly\nBACKUP_VMS=\"{ends},{stays}\"\n"));
    world.write(|tx| {
        for vm_id in [ends, stays] {
            tx.backup_job_vm_put(&BackupJobVmRow {
                backup_job_id: id,
                list: "OUTDATED".into(),
                vm_id,
                place: 0,
                failures: 0,
                not_before: 0,
            })?;
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
