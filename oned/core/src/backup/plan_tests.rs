use super::*;
use crate::backup::config::IncrementMode;
use crate::backup::disks::DiskKind;

fn disk(id: i64, kind: DiskKind) -> Disk {
    Disk { id, kind, format: "qcow2".into(), size_mb: 256, has_snapshots: false }
}

fn disks() -> Disks {
    let list =
        vec![disk(1, DiskKind::Volatile), disk(0, DiskKind::Image), disk(2, DiskKind::Swap), disk(3, DiskKind::Cdrom)];
    Disks { list, system_snapshots: false }
}

fn incremental() -> BackupConfig {
    let mut config = BackupConfig { present: true, mode: Mode::Increment, ..BackupConfig::default() };
    config.advance_chain(12, 3);
    config
}

fn chain() -> Chain {
    Chain {
        image_id: 12,
        datastore_id: 100,
        last_increment: 3,
        last_point: "6968545c".into(),
        checkpoint: Some("one-7-12-3".into()),
        disk_ids: vec![0],
        ready: true,
        audit: Audit::default(),
        damaged: false,
    }
}

fn of(config: &BackupConfig, disks: &Disks, chain: Option<&Chain>, reset: bool) -> Result<Plan, Refusal> {
    plan(PlanInput { vm: 7, config, disks, chain, datastore: 101, reset, compare_every: 14 })
}

fn reason(plan: &Plan) -> (bool, &str) {
    match &plan.kind {
        PlanKind::Full { new_chain, reason } => (*new_chain, reason),
        PlanKind::Increment { .. } => panic!("an increment: {plan:?}"),
    }
}

#[test]
fn full_mode_is_a_full_backup_that_stands_alone() {
    let plan = of(&BackupConfig::default(), &disks(), None, false).unwrap();
    assert_eq!(reason(&plan), (false, "backup mode is FULL"));
    assert_eq!((plan.datastore_id, plan.disk_ids.as_slice(), plan.track, plan.size_mb), (101, &[0][..], false, 256));
}

#[test]
fn an_increment_goes_where_its_chain_is() {
    let plan = of(&incremental(), &disks(), Some(&chain()), false).unwrap();
    assert_eq!(plan.datastore_id, 100);
    assert!(plan.track);
    assert_eq!(
        plan.kind,
        PlanKind::Increment {
            image_id: 12,
            parent_increment: 3,
            parent_point: "6968545c".into(),
            since_checkpoint: Some("one-7-12-3".into()),
            compare: false,
            reason: String::new(),
        }
    );
}

#[test]
fn a_lost_checkpoint_still_gives_an_increment_that_reads_everything() {
    let lost = Chain { checkpoint: None, ..chain() };
    let plan = of(&incremental(), &disks(), Some(&lost), false).unwrap();
    assert!(matches!(plan.kind, PlanKind::Increment { since_checkpoint: None, .. }));
}

fn by_snapshots() -> BackupConfig {
    BackupConfig { increment_mode: Some(IncrementMode::Snapshot), ..incremental() }
}

#[test]
fn an_increment_without_record_of_changes_reads_everything_and_leaves_no_checkpoint() {
    let raw = Disk { format: "raw".into(), ..disk(0, DiskKind::Image) };
    let raw = Disks { list: vec![raw], system_snapshots: false };
    let due = Chain { audit: Audit { age: 13, unmarked_bytes: 0 }, ..chain() };
    for (disks, chain) in [(disks(), chain()), (disks(), due), (raw.clone(), Chain { checkpoint: None, ..chain() })] {
        let plan = of(&by_snapshots(), &disks, Some(&chain), false).unwrap();
        let PlanKind::Increment { since_checkpoint, compare, reason, .. } = &plan.kind else { panic!("{plan:?}") };
        assert_eq!((since_checkpoint, *compare, plan.track), (&None, false, false));
        assert!(reason.starts_with("INCREMENT_MODE is SNAPSHOT: whole disks were read"), "{reason}");
    }
    let first = of(&by_snapshots(), &raw, None, true).unwrap();
    assert_eq!((reason(&first).0, first.track), (true, false));
    assert_eq!(
        reason(&of(&incremental(), &raw, None, true).unwrap()).1.split(',').next(),
        Some("VM cannot use backup increment mode")
    );
}

#[test]
fn a_chain_goes_on_when_increment_mode_changes_either_way() {
    // From CBT: the checkpoint is not asked for any more.
    let to_snapshot = of(&by_snapshots(), &disks(), Some(&chain()), false).unwrap();
    assert!(matches!(to_snapshot.kind, PlanKind::Increment { image_id: 12, since_checkpoint: None, .. }));
    // Back to CBT: there is none to read changes since, and one is left for the next.
    let without = Chain { checkpoint: None, ..chain() };
    let to_cbt = of(&incremental(), &disks(), Some(&without), false).unwrap();
    assert!(
        matches!(&to_cbt.kind, PlanKind::Increment { image_id: 12, since_checkpoint: None, reason, .. } if reason.is_empty())
    );
    assert!(to_cbt.track);
}

#[test]
fn the_plan_says_what_becomes_of_a_backup_whose_guest_does_not_get_quiet() {
    for fail in [FreezeFail::Continue, FreezeFail::Abort] {
        let config = BackupConfig { fs_freeze: FsFreeze::Agent, freeze_fail: fail, ..incremental() };
        let plan = of(&config, &disks(), Some(&chain()), false).unwrap();
        assert_eq!((plan.freeze, plan.freeze_fail), (FsFreeze::Agent, fail));
    }
}

#[test]
fn a_run_whose_turn_it_is_compares_whole_disks_and_stays_an_increment() {
    let due = Chain { audit: Audit { age: 13, unmarked_bytes: 0 }, ..chain() };
    let plan = of(&incremental(), &disks(), Some(&due), false).unwrap();
    assert!(matches!(plan.kind, PlanKind::Increment { compare: true, since_checkpoint: Some(_), .. }));
}

#[test]
fn nothing_is_built_upon_a_damaged_restore_point() {
    let damaged = Chain { damaged: true, ..chain() };
    let plan = of(&incremental(), &disks(), Some(&damaged), false).unwrap();
    assert_eq!(reason(&plan), (true, "verification found damage in the last restore point of the chain"));
}

#[test]
fn reset_starts_a_chain_in_the_datastore_asked_for() {
    let plan = of(&incremental(), &disks(), Some(&chain()), true).unwrap();
    assert_eq!(reason(&plan), (true, "a new chain was requested"));
    assert_eq!((plan.datastore_id, plan.track), (101, true));
}

#[test]
fn without_pointers_a_chain_begins() {
    let mut config = incremental();
    config.reset_chain();
    let plan = of(&config, &disks(), None, false).unwrap();
    assert_eq!(reason(&plan), (true, "the VM has no active chain"));
    assert_eq!((plan.datastore_id, plan.track), (101, true));
}

#[test]
fn a_chain_whose_image_is_gone_is_refused_unless_reset() {
    let refusal = of(&incremental(), &disks(), None, false).unwrap_err();
    assert_eq!(refusal, Refusal::NoSuch { kind: ObjectKind::Image, id: 12 });
    assert!(of(&incremental(), &disks(), None, true).is_ok());
}

#[test]
fn other_disks_than_the_chain_has_start_a_new_one() {
    let mut config = incremental();
    config.backup_volatile = true;
    let plan = of(&config, &disks(), Some(&chain()), false).unwrap();
    assert_eq!(reason(&plan), (true, "the disks of the backup have changed"));
    assert_eq!((plan.disk_ids.as_slice(), plan.size_mb, plan.datastore_id), (&[0, 1][..], 512, 101));
    let unknown = Chain { disk_ids: vec![], ..chain() };
    assert!(matches!(of(&config, &disks(), Some(&unknown), false).unwrap().kind, PlanKind::Increment { .. }));
}

#[test]
fn pointers_that_do_not_match_the_chain_start_a_new_one() {
    let behind = Chain { last_increment: 2, ..chain() };
    let plan = of(&incremental(), &disks(), Some(&behind), false).unwrap();
    assert!(reason(&plan).0);
}

#[test]
fn a_vm_that_cannot_do_increments_any_more_gets_a_full_that_says_why() {
    let snapshots = Disks { system_snapshots: true, ..disks() };
    let plan = of(&incremental(), &snapshots, Some(&chain()), false).unwrap();
    assert_eq!(reason(&plan), (false, "VM cannot use backup increment mode, it has snapshots."));
    assert_eq!((plan.datastore_id, plan.track), (101, false));
}

#[test]
fn no_backup_while_increments_are_merged() {
    let text = "Could not create a new backup for VM 7, consolidating backup increments";
    let flattening = BackupConfig { active_flatten: true, ..incremental() };
    let locked = Chain { ready: false, ..chain() };
    for refusal in [
        of(&flattening, &disks(), Some(&chain()), false).unwrap_err(),
        of(&flattening, &disks(), Some(&chain()), true).unwrap_err(),
        of(&incremental(), &disks(), Some(&locked), false).unwrap_err(),
    ] {
        assert_eq!((refusal.to_string().as_str(), refusal.code()), (text, 0x2000));
    }
}

#[test]
fn a_vm_with_a_shared_folder_cannot_be_backed_up() {
    let mut shared = disks();
    shared.list.push(disk(9, DiskKind::Filesystem));
    let refusal = of(&incremental(), &shared, Some(&chain()), false).unwrap_err();
    assert_eq!((refusal.to_string().as_str(), refusal.code()), ("Cannot backup VM with FILESYSTEM disks", 0x800));
}

#[test]
fn disk_ids_restrict_the_backup_and_must_leave_a_disk() {
    let mut config = incremental();
    config.disk_ids = vec![0, 1];
    assert_eq!(of(&config, &disks(), Some(&chain()), false).unwrap().disk_ids, [0]);
    config.disk_ids = vec![8];
    assert_eq!(of(&config, &disks(), Some(&chain()), false).unwrap_err().code(), 0x800);
}

#[test]
fn interactive_backups_are_refused() {
    let config = BackupConfig { interactive: true, ..incremental() };
    assert_eq!(of(&config, &disks(), Some(&chain()), false).unwrap_err().code(), 0x800);
}

#[test]
fn a_vm_without_disks_is_backed_up_as_a_description() {
    let plan = of(&BackupConfig::default(), &Disks::default(), None, false).unwrap();
    assert_eq!((plan.disk_ids.len(), plan.size_mb), (0, 0));
}
