//! `one.vm.backup`: what is refused, in which order, and what is written down for the engine.

use one_core::backup::{FreezeFail, FsFreeze, Mode, Plan, PlanKind};
use one_core::lifecycle::{ImageState, LcmState, VmEvent, VmPhase, VmState};
use one_core::refusal::Refusal;
use oned::api::{self, Cloud};
use oned::job::{self, BackupPlan};
use oned::ledger;
use oned::store::rows::{IncrementRow, JobRow};

use crate::world::{IMAGES, NOW, World, element, octal, only_vector, pairs, point};

fn world() -> (World, i64, i64) {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT,KEEP_LAST=7]");
    (world, vm, datastore)
}

fn backup(world: &World, vm: i64, datastore: i64, reset: bool) -> impl FnOnce(&Cloud) -> Result<i64, Refusal> {
    let admin = world.admin.clone();
    move |cloud| api::backup::backup(cloud, &admin, vm, datastore, reset)
}

#[test]
fn rights_come_before_every_other_fact() {
    let (world, vm, datastore) = world();
    // As much as can be wrong with a backup is wrong with this one.
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    world.edit_system(vm, "TYPE=\"FILE\"", "TYPE=\"FILESYSTEM\"");
    world.edit_config(vm, |config| {
        config.active_flatten = true;
        config.backup_job_id = Some(5);
    });
    for caller in [&world.mallory, &world.bob, &world.alice] {
        for target in [datastore, IMAGES, 999, -1] {
            let sentence = format!("User [{}] : Not authorized to perform ADMIN VM [{vm}].", caller.uid);
            world.refuses(512, &sentence, |cloud| api::backup::backup(cloud, caller, vm, target, true));
        }
    }
}

#[test]
fn rights_on_the_datastore_come_before_what_is_wrong_with_it_and_with_the_vms_state() {
    let (world, vm, datastore) = world();
    world.edit_vm(vm, |row| row.permissions = octal(0o740));
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    for target in [datastore, IMAGES] {
        world.edit_datastore(target, |row| {
            (row.uid, row.gid, row.permissions) = (0, 0, octal(0o640));
            (row.total_mb, row.free_mb) = (100, 0);
        });
        let sentence = format!("User [{}] : Not authorized to perform USE DATASTORE [{target}].", world.alice.uid);
        world.refuses(512, &sentence, |cloud| api::backup::backup(cloud, &world.alice, vm, target, false));
    }
}

#[test]
fn the_owner_starts_a_backup_directly_only_with_the_admin_bit() {
    let (world, vm, datastore) = world();
    let start = |cloud: &Cloud| api::backup::backup(cloud, &world.alice, vm, datastore, false);
    world.refuses(512, "User [2] : Not authorized to perform ADMIN VM [0].", start);
    world.edit_vm(vm, |row| row.permissions = octal(0o700));
    assert_eq!(start(&world.cloud).unwrap(), vm);
    let (job, plan) = world.backup_plan();
    assert_eq!((job.uid, plan.uid, plan.gid), (world.alice.uid, world.alice.uid, world.alice.gid));
}

#[test]
fn each_obstacle_has_its_code_and_sentence_and_comes_before_those_after_it() {
    let (world, vm, datastore) = world();
    world.edit_datastore(datastore, |row| (row.total_mb, row.free_mb) = (1000, 255));
    world.refuses(1024, "Error getting virtual machine [77].", backup(&world, 77, datastore, false));
    world.refuses(1024, "Error getting virtual machine Pool.", backup(&world, -1, datastore, false));

    // All obstacles at once; then the first is taken away, and again.
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    world.edit_system(vm, "TYPE=\"FILE\"", "TYPE=\"FILESYSTEM\"");
    world.edit_config(vm, |config| {
        config.backup_job_id = Some(5);
        config.active_flatten = true;
        config.interactive = true;
        config.mode = Mode::Full;
    });
    let part_of_job = "Unable to start an individual backup for the Virtual Machine, it is part of Backup Job ID 5";
    world.refuses(8192, part_of_job, backup(&world, vm, -1, false));
    world.edit_config(vm, |config| config.backup_job_id = None);
    let consolidating = "Could not create a new backup for VM 0, consolidating backup increments";
    world.refuses(8192, consolidating, backup(&world, vm, -1, false));
    world.edit_config(vm, |config| config.active_flatten = false);
    world.refuses(2048, "Cannot backup VM with FILESYSTEM disks", backup(&world, vm, -1, false));
    world.edit_system(vm, "TYPE=\"FILESYSTEM\"", "TYPE=\"FILE\"");
    let interactive = "Interactive backups are not supported, set INTERACTIVE=NO in BACKUP_CONFIG";
    world.refuses(2048, interactive, backup(&world, vm, -1, false));
    world.edit_config(vm, |config| config.interactive = false);
    world.refuses(1024, "Error getting datastore Pool.", backup(&world, vm, -1, false));
    world.refuses(1024, "Error getting datastore [999].", backup(&world, vm, 999, false));
    for other in [0, IMAGES, 2] {
        world.refuses(2048, "Datastore needs to be of type BACKUP", backup(&world, vm, other, false));
    }
    world.refuses(
        2048,
        "Not enough free space on target datastore: 256 MB are needed and 255 MB are free",
        backup(&world, vm, datastore, false),
    );
    world.edit_datastore(datastore, |row| row.free_mb = 256);
    let state = "Could not create a new backup for VM 0, wrong state SUSPENDED.";
    world.refuses(8192, state, backup(&world, vm, datastore, false));
    world.set_phase(vm, VmPhase::RUNNING);
    assert_eq!(backup(&world, vm, datastore, false)(&world.cloud).unwrap(), vm);
}

#[test]
fn only_running_and_powered_off_vms_are_backed_up() {
    let (world, vm, datastore) = world();
    for phase in VmPhase::all().filter(|phase| *phase != VmPhase::RUNNING && *phase != VmPhase::POWEROFF) {
        world.set_phase(vm, phase);
        let sentence = format!("Could not create a new backup for VM {vm}, wrong state {}.", phase.name());
        world.refuses(8192, &sentence, backup(&world, vm, datastore, false));
    }
}

#[test]
fn a_second_backup_during_the_first_is_refused_by_the_lcm_state() {
    let (world, vm, datastore) = world();
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    let sentence = "Could not create a new backup for VM 0, wrong state BACKUP.";
    world.refuses(8192, sentence, backup(&world, vm, datastore, false));
}

#[test]
fn a_vm_without_a_place_and_one_on_another_machine_are_refused() {
    let (world, vm, datastore) = world();
    let text = "CPU=1\nMEMORY=128\nDISK=[IMAGE_ID=0]\n";
    let pending = api::vm::allocate(&world.cloud, &world.alice, text, false).unwrap();
    let sentence = "Could not create a new backup for VM 1, wrong state PENDING.";
    world.refuses(8192, sentence, backup(&world, pending, datastore, false));
    let far = world.add_host("far.example");
    world.edit_vm(vm, |row| row.host_id = Some(far));
    let refusal = world.refusal(backup(&world, vm, datastore, false));
    assert_eq!(refusal.code(), 2048);
    assert!(refusal.to_string().contains("host far.example is another machine"), "{refusal}");
}

#[test]
fn disk_ids_that_leave_nothing_are_refused() {
    let (world, vm, datastore) = world();
    world.edit_config(vm, |config| config.disk_ids = vec![4]);
    let sentence = "None of the disks in DISK_IDS can be backed up, change DISK_IDS in BACKUP_CONFIG";
    world.refuses(2048, sentence, backup(&world, vm, datastore, false));
}

#[test]
fn a_vm_without_a_disk_to_back_up_is_refused() {
    let (world, _, datastore) = world();
    let text = "CPU=1\nMEMORY=128\nDISK=[TYPE=fs,SIZE=8]\nDISK=[TYPE=swap,SIZE=8]\n";
    let vm = api::vm::allocate(&world.cloud, &world.alice, text, false).unwrap();
    world.run_vm(vm, 0);
    let refusal = world.refusal(backup(&world, vm, datastore, false));
    assert_eq!(refusal.code(), 2048);
    assert!(refusal.to_string().contains("BACKUP_VOLATILE = YES"), "{refusal}");
    api::vm::update_conf(&world.cloud, &world.alice, vm, "BACKUP_CONFIG=[BACKUP_VOLATILE=YES]", 1).unwrap();
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    assert_eq!(plan(&world).decision.disk_ids, [0]);
}

#[test]
fn a_chain_whose_image_is_gone_is_refused_unless_a_new_one_is_asked_for() {
    let (world, vm, datastore) = world();
    world.edit_config(vm, |config| config.advance_chain(55, 3));
    world.refuses(1024, "Error getting image [55].", backup(&world, vm, datastore, false));
    backup(&world, vm, datastore, true)(&world.cloud).unwrap();
    let (_, plan) = world.backup_plan();
    assert!(matches!(plan.decision.kind, PlanKind::Full { new_chain: true, .. }), "{plan:?}");
}

#[test]
fn a_chain_whose_image_is_not_ready_is_waited_for() {
    let (world, vm, datastore) = world();
    let image = world.add_backup(vm, datastore, 2, true);
    world.edit_image(image, |row| row.state = ImageState::Locked.number());
    let sentence = "Could not create a new backup for VM 0, consolidating backup increments";
    world.refuses(8192, sentence, backup(&world, vm, datastore, false));
}

#[test]
fn a_datastore_that_has_not_told_its_size_and_a_check_that_is_off_refuse_nothing() {
    let (world, vm, datastore) = world();
    world.edit_datastore(datastore, |row| (row.total_mb, row.free_mb) = (0, 0));
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();

    let world = World::configured(|config| config.datastore_capacity_check = false);
    let datastore = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("");
    world.edit_datastore(datastore, |row| (row.total_mb, row.free_mb) = (1000, 1));
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
}

/// The plan as the job's row holds it, after it was read and written again.
fn plan(world: &World) -> BackupPlan {
    let (row, plan) = world.backup_plan();
    let again: BackupPlan = serde_json::from_str(&row.plan).unwrap();
    assert_eq!(again, plan);
    assert_eq!(serde_json::to_string(&again).unwrap(), row.plan);
    assert_eq!((row.cancel, row.attempts, row.not_before, row.created_at, row.changed_at), (0, 0, 0, NOW, NOW));
    assert_eq!((row.result.as_str(), row.error.as_str(), row.image_id), ("", "", None));
    assert_eq!(row.datastore_id, Some(plan.decision.datastore_id));
    plan
}

fn decision(plan: &BackupPlan) -> serde_json::Value {
    serde_json::to_value(&plan.decision).unwrap()
}

#[test]
fn a_full_backups_plan_names_everything_the_engine_needs() {
    let (world, _, datastore) = world();
    let vm = world
        .add_running_vm("BACKUP_CONFIG=[MODE=FULL,FS_FREEZE=AGENT]\nDISK=[TYPE=swap,SIZE=64]\nDISK=[TYPE=fs,SIZE=32]");
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    let plan = plan(&world);
    let wanted = serde_json::json!({
        "datastore_id": datastore,
        "kind": { "Full": { "new_chain": false, "reason": "backup mode is FULL" } },
        "disk_ids": [0],
        "track": false,
        "freeze": "Agent",
        "freeze_fail": "Continue",
        "size_mb": 256,
    });
    assert_eq!(decision(&plan), wanted);
    assert_eq!((plan.live, plan.domain.as_str(), plan.host_id), (true, "one-1", 0));
    assert_eq!((plan.checkpoint, plan.series.as_str(), plan.time), (None, "1", NOW));
    assert_eq!((plan.uid, plan.gid), (0, 0));
    let disk = &plan.disks[0];
    assert_eq!(plan.disks.len(), 1);
    assert_eq!((disk.id, disk.format.as_str(), disk.target.as_str(), disk.size_mb), (0, "qcow2", "vda", 256));
    assert!(disk.path.ends_with("0/1/disk.0"), "{disk:?}");
    // The description that a restore starts from is the VM's before the backup.
    assert!(plan.document.contains("<LCM_STATE>3</LCM_STATE>"), "{}", plan.document);
    crate::world::valid(plan.document);
}

#[test]
fn the_first_increment_is_a_full_backup_that_leaves_a_checkpoint_named_after_the_job() {
    let (world, vm, datastore) = world();
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    let (job, _) = world.backup_plan();
    let plan = plan(&world);
    let wanted = serde_json::json!({
        "datastore_id": datastore,
        "kind": { "Full": { "new_chain": true, "reason": "the VM has no active chain" } },
        "disk_ids": [0],
        "track": true,
        "freeze": "None",
        "freeze_fail": "Continue",
        "size_mb": 256,
    });
    assert_eq!(decision(&plan), wanted);
    assert_eq!(plan.checkpoint, Some(format!("one-{vm}-{}", job.id)));
    assert_eq!((job.vm_id, job.host_id), (Some(vm), Some(0)));
}

#[test]
fn the_next_increment_goes_where_its_chain_is_whatever_datastore_is_named() {
    let (world, vm, datastore) = world();
    let other = world.add_backup_datastore("other");
    let image = world.add_backup(vm, datastore, 3, true);
    // Nobody knows how small an increment will be, so a nearly full datastore is no reason to refuse one.
    world.edit_datastore(datastore, |row| (row.total_mb, row.free_mb) = (1000, 1));
    for target in [other, -1, IMAGES, 999] {
        backup(&world, vm, target, false)(&world.cloud).unwrap();
        let plan = plan(&world);
        let wanted = serde_json::json!({
            "datastore_id": datastore,
            "kind": { "Increment": {
                "image_id": image,
                "parent_increment": 2,
                "parent_point": point(image, 2),
                "since_checkpoint": "one-0-92",
                "compare": false,
                "reason": "",
            } },
            "disk_ids": [0],
            "track": true,
            "freeze": "None",
            "freeze_fail": "Continue",
            "size_mb": 256,
        });
        assert_eq!(decision(&plan), wanted);
        assert_eq!(world.config(vm).last_datastore_id, Some(datastore));
        world.end_backup(vm);
    }
}

#[test]
fn the_right_is_checked_on_the_chains_datastore_not_on_the_one_named() {
    let (world, vm, datastore) = world();
    let other = world.add_backup_datastore("other");
    world.add_backup(vm, datastore, 1, true);
    world.edit_vm(vm, |row| row.permissions = octal(0o700));
    world.edit_datastore(datastore, |row| row.uid = 0);
    world.edit_datastore(datastore, |row| row.permissions = octal(0o600));
    let sentence = format!("User [2] : Not authorized to perform USE DATASTORE [{datastore}].");
    world.refuses(512, &sentence, |cloud| api::backup::backup(cloud, &world.alice, vm, other, false));
}

#[test]
fn a_reset_begins_a_new_chain_where_it_is_told_to_and_keeps_the_old_pointers() {
    let (world, vm, datastore) = world();
    let other = world.add_backup_datastore("other");
    let image = world.add_backup(vm, datastore, 2, true);
    backup(&world, vm, other, true)(&world.cloud).unwrap();
    let wanted = Plan {
        datastore_id: other,
        kind: PlanKind::Full { new_chain: true, reason: "a new chain was requested".into() },
        disk_ids: vec![0],
        track: true,
        freeze: FsFreeze::None,
        freeze_fail: FreezeFail::Continue,
        size_mb: 256,
    };
    assert_eq!(plan(&world).decision, wanted);
    assert_eq!(world.config(vm).chain(), Some((image, 1)));
}

#[test]
fn a_lost_checkpoint_and_changed_disks_are_no_errors() {
    let (world, vm, datastore) = world();
    let image = world.add_backup(vm, datastore, 1, true);
    let row = world.read(|tx| tx.increments(image)).remove(0);
    world.write(|tx| tx.increment_update(&IncrementRow { checkpoint: String::new(), ..row.clone() }));
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    let kind = plan(&world).decision.kind;
    assert!(matches!(kind, PlanKind::Increment { since_checkpoint: None, .. }), "{kind:?}");
    world.end_backup(vm);

    world.write(|tx| tx.increment_update(&IncrementRow { disks: "0,1".into(), ..row }));
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    let reason = "the disks of the backup have changed".to_owned();
    assert_eq!(plan(&world).decision.kind, PlanKind::Full { new_chain: true, reason });
}

#[test]
fn an_accepted_backup_shows_on_the_vm_at_once() {
    let (world, vm, datastore) = world();
    world.write(|tx| {
        let mut row = tx.vm(vm)?;
        ledger::vm_error(tx, &mut row, Some(("BACKUP: the last one failed", NOW, chrono_tz::Tz::UTC)))
    });
    world.clock.advance(100);
    assert!(world.vm_document(&world.admin, vm).contains("<ERROR>"));
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();

    assert_eq!(world.phase(vm), VmPhase::active(LcmState::Backup));
    let row = world.vm_row(vm);
    assert_eq!((row.prev_state, row.prev_lcm_state), (3, 3));
    let document = world.vm_document(&world.admin, vm);
    assert!(document.contains("<STATE>3</STATE><LCM_STATE>69</LCM_STATE><PREV_STATE>3</PREV_STATE>"), "{document}");
    assert!(!document.contains("<ERROR>"), "{document}");
    let stored = only_vector(&row.backup_config, "BACKUP_CONFIG");
    let wanted = pairs(&[
        ("BACKUP_VOLATILE", "NO"),
        ("FS_FREEZE", "NONE"),
        ("INCREMENTAL_BACKUP_ID", "-1"),
        ("INCREMENT_MODE", "CBT"),
        ("KEEP_LAST", "7"),
        ("LAST_DATASTORE_ID", "100"),
        ("LAST_INCREMENT_ID", "-1"),
        ("MODE", "INCREMENT"),
    ]);
    assert_eq!(stored, wanted);

    let history = world.read(|tx| tx.history(vm));
    assert_eq!(history.len(), 2);
    let (first, second) = (&history[0], &history[1]);
    assert_eq!((first.seq, first.action, first.uid, first.gid), (0, 50, 0, 0));
    assert_eq!((first.etime, first.retime), (NOW + 100, NOW + 100));
    assert_eq!((second.seq, second.action, second.uid, second.etime), (1, 0, -1, 0));
    assert_eq!((second.stime, second.rstime, second.retime), (NOW + 100, NOW + 100, 0));
    assert!(element(&document, "HISTORY_RECORDS").contains("<ACTION>50</ACTION>"));
}

#[test]
fn a_powered_off_vm_is_backed_up_without_its_hypervisor_and_says_so() {
    let (world, vm, datastore) = world();
    world.power_off(vm);
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::BackupPoweroff));
    assert!(!plan(&world).live);
    let document = world.vm_document(&world.admin, vm);
    assert!(document.contains("<LCM_STATE>70</LCM_STATE><PREV_STATE>8</PREV_STATE>"), "{document}");
    world.step(vm, VmEvent::BackupEnd);
    assert_eq!(world.phase(vm), VmPhase::POWEROFF);
}

#[test]
fn a_cancel_needs_a_running_backup_and_asks_its_job_to_stop() {
    let (world, vm, datastore) = world();
    let cancel = |caller| api::backup::cancel(&world.cloud, caller, vm);
    let nothing = "Could not cancel backup for VM 0, no backup in progress";
    world.refuses(8192, nothing, |_| cancel(&world.admin));
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    for caller in [&world.mallory, &world.bob, &world.alice] {
        let sentence = format!("User [{}] : Not authorized to perform ADMIN VM [0].", caller.uid);
        world.refuses(512, &sentence, |_| cancel(caller));
    }
    assert_eq!(cancel(&world.admin).unwrap(), vm);
    let (job, _) = world.backup_plan();
    assert_eq!(job.cancel, 1);
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::Backup));
    world.end_backup(vm);
    world.refuses(8192, nothing, |_| cancel(&world.admin));
}

#[test]
fn every_outside_thing_of_a_backup_is_named_after_its_job() {
    let (world, vm, datastore) = world();
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    let (job, plan) = world.backup_plan();
    assert_eq!(plan.label(job.id), format!("job={}.{:08x}", job.id, plan.time));
    assert_eq!(BackupPlan::checkpoint_name(3, 7), "one-3-7");
}

#[test]
fn a_plan_that_is_no_backups_is_an_error_that_names_the_job() {
    let (world, vm, datastore) = world();
    backup(&world, vm, datastore, false)(&world.cloud).unwrap();
    let (row, _) = world.backup_plan();
    let error = job::plan::<BackupPlan>(&JobRow { plan: "{}".into(), ..row.clone() }).unwrap_err();
    assert!(error.to_string().contains(&format!("job {}", row.id)), "{error}");
}
