//! `one.vm.restore`: who may, what is refused, and the job that is written for the engine.

use one_core::backup::Mode;
use one_core::lifecycle::{ImageState, LcmState, VmEvent, VmPhase, VmState};
use one_core::refusal::Refusal;
use oned::api::vm_restore::{self, InPlace};
use oned::api::{self, Cloud};
use oned::job::{self, JobKind, JobSubject, RestoreVmPlan, RetainPlan};
use oned::ledger;
use oned::store::rows::{IncrementRow, UserRow};

use crate::world::{World, octal, point};

const LAST: i64 = -1;
const ALL: i64 = -1;

/// Alice's VM with two disks, powered off, and a chain of two restore points of it.
fn world() -> (World, i64, i64) {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let data = world.add_image("data");
    let vm = world.add_running_vm(&format!("DISK=[IMAGE_ID={data}]\nBACKUP_CONFIG=[MODE=INCREMENT]"));
    let backup = world.add_backup(vm, datastore, 2, true);
    world.power_off(vm);
    (world, vm, backup)
}

fn restore(cloud: &Cloud, world: &World, vm: i64, image_id: i64, increment: i64, disk: i64) -> Result<i64, Refusal> {
    vm_restore::restore(cloud, &world.admin, vm, InPlace { image_id, increment, disk })
}

fn plan(world: &World) -> RestoreVmPlan {
    let jobs = world.open_jobs();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!((jobs[0].kind.as_str(), jobs[0].phase.as_str()), ("RESTORE_VM", "planned"));
    job::plan(&jobs[0]).unwrap()
}

#[test]
fn a_restore_in_place_is_a_state_a_history_record_and_a_job_that_names_every_disk() {
    let (world, vm, backup) = world();
    world.edit_vm(vm, |row| row.user_template = "ERROR=\"of yesterday\"".into());
    assert_eq!(restore(&world.cloud, &world, vm, backup, LAST, ALL), Ok(vm));
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::Restore));
    let records = world.read(|tx| tx.history(vm));
    assert!(records.iter().any(|record| record.action == 60 && record.uid == 0 && record.etime != 0), "{records:?}");
    assert_eq!(ledger::stored(&world.vm_row(vm).user_template).scalar("ERROR"), None);
    // The chain stays until the disks are others.
    assert_eq!(world.config(vm).chain(), Some((backup, 1)));
    let job = world.open_jobs().remove(0);
    assert_eq!((job.vm_id, job.image_id, job.datastore_id), (Some(vm), None, Some(100)));
    let plan = plan(&world);
    assert_eq!((plan.image_id, plan.datastore_id), (backup, 100));
    assert_eq!((plan.series.as_str(), plan.point), ("0", point(backup, 1)));
    assert!(plan.left_out.is_empty());
    let names: Vec<_> = plan.disks.iter().map(|disk| disk.path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["disk.0", "disk.1"]);
    assert!(plan.disks.iter().all(|disk| disk.format == "qcow2"));
    let new = RestoreVmPlan::new_file(&plan.disks[1].path, 42);
    assert_eq!(new, plan.disks[1].path.with_file_name("disk.1.new-42"));
    world.vm_document(&world.alice, vm);
    // One at a time, and nothing else meanwhile.
    let refusal = world.refusal(|cloud| restore(cloud, &world, vm, backup, LAST, ALL));
    assert_eq!(refusal.code(), 2048);
    let refusal = world.refusal(|cloud| api::vm::action(cloud, &world.admin, "resume", vm));
    assert!(refusal.to_string().contains("RESTORE"), "{refusal}");
    let refusal = world.refusal(|cloud| api::image::delete(cloud, &world.admin, backup, false));
    assert_eq!(refusal.to_string(), "Cannot delete image in state USED");
}

#[test]
fn an_increment_and_a_disk_can_be_chosen_and_increment_0_is_one() {
    let (world, vm, backup) = world();
    restore(&world.cloud, &world, vm, backup, 0, 1).unwrap();
    let plan = plan(&world);
    assert_eq!(plan.point, point(backup, 0));
    assert_eq!(plan.disks.iter().map(|disk| disk.id).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_the_backup_or_the_vm_has_not_is_refused_with_what_there_is() {
    let (world, vm, backup) = world();
    for (increment, disk, sentence) in [
        (2, ALL, "Wrong increment; this backup holds: 0, 1"),
        (-2, ALL, "Wrong increment; this backup holds: 0, 1"),
        (LAST, 2, "VM disk does not exist: 2 is not in this backup, which holds: 0, 1"),
        (LAST, -2, "VM disk does not exist: -2 is not in this backup, which holds: 0, 1"),
    ] {
        world.refuses(2048, sentence, |cloud| restore(cloud, &world, vm, backup, increment, disk));
    }
    world.refuses(1024, "Error getting image [77].", |cloud| restore(cloud, &world, vm, 77, LAST, ALL));
    world.refuses(1024, "Error getting virtual machine [77].", |cloud| restore(cloud, &world, 77, backup, LAST, ALL));
    world.refuses(2048, "Image has to be of type BACKUP", |cloud| restore(cloud, &world, vm, 0, LAST, ALL));
    let other = world.add_running_vm("");
    world.power_off(other);
    let sentence =
        format!("Image {backup} is not a backup of VM {other}; oneimage restore makes a VM of its own of it.");
    world.refuses(2048, &sentence, |cloud| restore(cloud, &world, other, backup, LAST, ALL));
    for state in [ImageState::Locked, ImageState::Error, ImageState::Delete] {
        world.edit_image(backup, |row| row.state = state.number());
        let sentence = format!("Backup image {backup} is not READY; wait until it is, or see its ERROR.");
        world.refuses(2048, &sentence, |cloud| restore(cloud, &world, vm, backup, LAST, ALL));
    }
}

#[test]
fn only_a_vm_that_is_off_is_restored_and_an_undeployed_one_too() {
    let (world, vm, backup) = world();
    for phase in [
        VmPhase::RUNNING,
        VmPhase::PENDING,
        VmPhase::active(LcmState::BackupPoweroff),
        VmPhase::resting(VmState::Suspended),
        VmPhase::resting(VmState::Stopped),
    ] {
        world.set_phase(vm, phase);
        let sentence = format!("Could not restore VM, it must be in poweroff or undeployed; it is {phase}.");
        world.refuses(2048, &sentence, |cloud| restore(cloud, &world, vm, backup, LAST, ALL));
    }
    world.set_phase(vm, VmPhase::POWEROFF);
    world.step(vm, VmEvent::Undeploy);
    world.step(vm, VmEvent::EpilogDone);
    world.edit_vm(vm, |row| row.host_id = None);
    restore(&world.cloud, &world, vm, backup, LAST, ALL).unwrap();
    // Recovery without a job: it goes back to where it was.
    world.end_jobs();
    api::vm_recover::recover(&world.cloud, &world.admin, vm, 0).unwrap();
    assert_eq!(world.phase(vm), VmPhase::resting(VmState::Undeployed));
}

#[test]
fn rights_come_before_every_other_fact_and_the_lists_of_operations_rule_them() {
    let (world, vm, backup) = world();
    let foreign = |caller: &one_core::access::Caller, sentence: &str| {
        for (image_id, increment, disk) in [(backup, LAST, ALL), (backup, 99, 99), (0, LAST, ALL)] {
            let wish = InPlace { image_id, increment, disk };
            world.refuses(512, sentence, |cloud| vm_restore::restore(cloud, caller, vm, wish));
        }
    };
    for caller in [&world.alice, &world.bob, &world.mallory] {
        foreign(caller, &format!("User [{}] : Not authorized to perform ADMIN VM [{vm}].", caller.uid));
    }
    // The site gives owners this operation; the backup is its owner's still.
    world.write(|tx| {
        let row = tx.user(world.alice.uid)?;
        tx.user_update(&UserRow { template: "VM_MANAGE_OPERATIONS=\"restore\"".into(), ..row })
    });
    let alice = oned::session::authenticate(&world.cloud, "alice:alice-pw").unwrap();
    world.edit_image(backup, |row| (row.uid, row.permissions) = (world.mallory.uid, octal(0o600)));
    let sentence = format!("User [2] : Not authorized to perform USE IMAGE [{backup}].");
    let wish = InPlace { image_id: backup, increment: 99, disk: 99 };
    world.refuses(512, &sentence, |cloud| vm_restore::restore(cloud, &alice, vm, wish));
    world.edit_image(backup, |row| row.uid = alice.uid);
    let wish = InPlace { image_id: backup, increment: LAST, disk: ALL };
    assert_eq!(vm_restore::restore(&world.cloud, &alice, vm, wish), Ok(vm));
}

#[test]
fn a_disk_that_came_later_under_the_same_number_is_never_written_over() {
    let (world, vm, backup) = world();
    let later = world.add_image("later");
    let row = world.vm_row(vm);
    let was = ledger::stored(&row.template).vectors("DISK").nth(1).unwrap().int("IMAGE_ID").unwrap();
    world.edit_system(vm, &format!("IMAGE_ID=\"{was}\""), &format!("IMAGE_ID=\"{later}\""));
    let refusal = world.refusal(|cloud| restore(cloud, &world, vm, backup, LAST, 1));
    assert!(refusal.code() == 2048 && refusal.to_string().contains("no disk 1 any more"), "{refusal}");
    restore(&world.cloud, &world, vm, backup, LAST, ALL).unwrap();
    let plan = plan(&world);
    assert_eq!((plan.disks.len(), plan.disks[0].id, plan.left_out), (1, 0, vec![1]));
}

#[test]
fn an_increment_that_keep_last_is_about_to_forget_is_no_choice() {
    let (world, vm, backup) = world();
    let retain = RetainPlan { datastore_id: 100, series: "0".into(), drop: vec![0], points: vec![point(backup, 0)] };
    world.write(|tx| {
        job::add(tx, JobKind::Retain, JobSubject::image(backup, 100, -1), &retain, world.clock_now()).map(drop)
    });
    world.refuses(2048, "Wrong increment; this backup holds: 1", |cloud| restore(cloud, &world, vm, backup, 0, ALL));
    restore(&world.cloud, &world, vm, backup, LAST, ALL).unwrap();
}

#[test]
fn a_disk_that_was_larger_counts_before_anything_is_touched() {
    let (world, vm, backup) = world();
    let smaller = ledger::stored(&world.vm_row(vm).template).vectors("DISK").next().unwrap().int("SIZE").unwrap();
    assert_eq!(smaller, 256);
    let row = world.read(|tx| tx.increments(backup)).remove(1);
    let document = row.document.replace("<SIZE><![CDATA[256]]></SIZE>", "<SIZE><![CDATA[1256]]></SIZE>");
    assert_ne!(document, row.document);
    world.write(|tx| tx.increment_update(&IncrementRow { document, ..row }));
    let limit = |mb: i64| {
        let text = format!("VM=[SYSTEM_DISK_SIZE={mb}]");
        api::quota::user(&world.cloud, &world.admin, world.alice.uid, &text).unwrap();
    };
    limit(2511);
    let refusal = world.refusal(|cloud| restore(cloud, &world, vm, backup, LAST, ALL));
    assert!(refusal.code() == 512 && refusal.to_string().contains("SYSTEM_DISK_SIZE"), "{refusal}");
    limit(2512);
    restore(&world.cloud, &world, vm, backup, LAST, ALL).unwrap();
    // The size is counted when it is there.
    assert!(world.read(oned::quota::differences).is_empty());
    assert_eq!(world.config(vm).mode, Mode::Increment);
}
