use super::*;
use crate::backup::disks::{Disk, DiskKind};

fn vector(text: &str) -> Vector {
    text.split(';').filter_map(|pair| pair.split_once('=')).collect()
}

fn text(config: &BackupConfig) -> String {
    config.to_vector().iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
}

fn disk(id: i64, format: &str) -> Disk {
    Disk { id, kind: DiskKind::Image, format: format.into(), size_mb: 100, has_snapshots: false }
}

fn qcow2() -> Disks {
    let volatile = Disk { kind: DiskKind::Volatile, ..disk(2, "qcow2") };
    Disks { list: vec![disk(0, "qcow2"), disk(1, "qcow2"), volatile], system_snapshots: false }
}

fn raw() -> Disks {
    Disks { list: vec![disk(0, "raw")], system_snapshots: false }
}

/// A VM in the middle of a chain.
fn in_chain() -> BackupConfig {
    let mut config = BackupConfig::for_new_vm(Some(&vector("MODE=INCREMENT;KEEP_LAST=4")), &qcow2()).unwrap();
    config.advance_chain(1, 3);
    config
}

#[test]
fn a_vm_without_backup_config_has_an_empty_one() {
    let config = BackupConfig::for_new_vm(None, &qcow2()).unwrap();
    assert!(config.to_vector().is_empty());
    assert_eq!(config, BackupConfig::from_vector(&Vector::new()));
    assert_eq!((config.mode, config.keep(), config.chain()), (Mode::Full, 0, None));
}

#[test]
fn defaults_and_bad_values_follow_the_table() {
    let base = "BACKUP_VOLATILE=NO;FS_FREEZE=NONE;INCREMENTAL_BACKUP_ID=-1;INCREMENT_MODE=CBT";
    let end = "LAST_INCREMENT_ID=-1;MODE=FULL";
    let table = [
        ("FS_FREEZE=NONE;KEEP_LAST=4;MODE=FULL", format!("{base};KEEP_LAST=4;{end}")),
        ("KEEP_LAST=-3", format!("{base};KEEP_LAST=0;{end}")),
        ("KEEP_LAST=many", format!("{base};{end}")),
        ("MODE=DIFFERENTIAL;FS_FREEZE=YES;INCREMENT_MODE=x;BACKUP_VOLATILE=maybe", format!("{base};{end}")),
        ("MODE=increment", format!("{base};LAST_INCREMENT_ID=-1;MODE=INCREMENT")),
        ("FS_FREEZE=agent", format!("{};{end}", base.replace("FREEZE=NONE", "FREEZE=AGENT"))),
        ("FS_FREEZE=SUSPEND", format!("{};{end}", base.replace("FREEZE=NONE", "FREEZE=SUSPEND"))),
        ("INCREMENT_MODE=snapshot", format!("{};{end}", base.replace("CBT", "SNAPSHOT"))),
        ("FS_FREEZE_FAIL=abort", format!("{};{end}", base.replace("=NONE", "=NONE;FS_FREEZE_FAIL=ABORT"))),
        ("FS_FREEZE_FAIL=CONTINUE", format!("{base};{end}")),
        ("FS_FREEZE_FAIL=maybe", format!("{base};{end}")),
        ("BACKUP_VOLATILE=yes", format!("{};{end}", base.replace("VOLATILE=NO", "VOLATILE=YES"))),
        ("DISK_IDS=1, 0,1", format!("{};{end}", base.replace("FS_", "DISK_IDS=0,1;FS_"))),
    ];
    for (given, shown) in table {
        let config = BackupConfig::for_new_vm(Some(&vector(given)), &qcow2()).unwrap();
        assert_eq!(text(&config), shown, "{given}");
        assert_eq!(BackupConfig::from_vector(&config.to_vector()), config, "{given}");
    }
}

#[test]
fn a_new_vm_that_cannot_do_increments_silently_gets_full() {
    let config = BackupConfig::for_new_vm(Some(&vector("MODE=INCREMENT;INCREMENT_MODE=CBT")), &raw()).unwrap();
    let shown = "BACKUP_VOLATILE=NO;FS_FREEZE=NONE;INCREMENTAL_BACKUP_ID=-1;LAST_INCREMENT_ID=-1;MODE=FULL";
    assert_eq!(text(&config), shown);
}

#[test]
fn raw_disks_do_increments_with_snapshot_mode_only() {
    let both = "MODE=INCREMENT;INCREMENT_MODE=SNAPSHOT";
    let mut config = BackupConfig::for_new_vm(Some(&vector(both)), &raw()).unwrap();
    assert_eq!((config.mode, config.increment_mode), (Mode::Increment, Some(IncrementMode::Snapshot)));
    config.advance_chain(1, 3);
    // What would end the chain is refused, not done by the way.
    for given in ["INCREMENT_MODE=CBT", "MODE=INCREMENT;INCREMENT_MODE=CBT", "INCREMENT_MODE=x"] {
        let mut changed = config.clone();
        assert_eq!(changed.update(&vector(given), false, &raw()).unwrap_err().code(), 0x2000, "{given}");
        assert_eq!(changed, config);
    }
    assert!(config.clone().update(&vector("MODE=INCREMENT"), true, &raw()).is_err(), "a replace means CBT");
    config.update(&vector("KEEP_LAST=2"), false, &raw()).unwrap();
    assert_eq!(config.chain(), Some((1, 3)));
    let mut full = BackupConfig::default();
    full.update(&vector(both), false, &raw()).unwrap();
    assert_eq!(full.mode, Mode::Increment);
    full.update(&vector("MODE=FULL;INCREMENT_MODE=CBT"), false, &raw()).unwrap();
    assert_eq!((full.mode, full.increment_mode), (Mode::Full, None));
}

#[test]
fn the_published_document_and_backup_info_share_what_is_stored() {
    let mut config = BackupConfig::for_new_vm(Some(&vector("FS_FREEZE=AGENT;FS_FREEZE_FAIL=ABORT")), &qcow2()).unwrap();
    config.note("all was \"read\"", "crash-consistent: no agent");
    assert_eq!(BackupConfig::from_vector(&config.to_vector()), config);
    let (shown, info) = split(&config.to_vector());
    let keys = |vector: &Vector| vector.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>().join(" ");
    let published = "BACKUP_VOLATILE FS_FREEZE INCREMENTAL_BACKUP_ID INCREMENT_MODE LAST_INCREMENT_ID MODE";
    assert_eq!((keys(&shown).as_str(), keys(&info).as_str()), (published, "FS_FREEZE_FAIL LAST_REASON LAST_WARNING"));
    let joined = join(&shown, Some(&info));
    assert_eq!(
        keys(&joined),
        format!("{published} FS_FREEZE_FAIL"),
        "what was said of another backup is not the user's"
    );
    config.update(&vector("KEEP_LAST=1"), true, &qcow2()).unwrap();
    assert_eq!(
        (config.freeze_fail, config.last_warning.as_str()),
        (FreezeFail::Continue, "crash-consistent: no agent")
    );
}

#[test]
fn core_keys_sent_by_a_user_are_ignored() {
    let given = "MODE=INCREMENT;INCREMENTAL_BACKUP_ID=7;LAST_INCREMENT_ID=2;BACKUP_JOB_ID=1;LAST_BACKUP_ID=x;\
                 LAST_DATASTORE_ID=1;LAST_BACKUP_SIZE=5;ACTIVE_FLATTEN=YES;LAST_REASON=a;LAST_WARNING=b";
    let new = BackupConfig::for_new_vm(Some(&vector(given)), &qcow2()).unwrap();
    let mut updated = in_chain();
    updated.update(&vector(given), false, &qcow2()).unwrap();
    assert_eq!(updated.chain(), Some((1, 3)));
    for config in [&new, &updated] {
        assert_eq!((config.backup_job_id, config.last_datastore_id, config.last_backup_size), (None, None, None));
        assert!(!config.active_flatten && config.last_backup_id.is_none());
        assert_eq!(config.last_reason.clone() + &config.last_warning, "");
    }
    assert_eq!(new.chain(), None);
}

#[test]
fn replace_puts_missing_keys_to_their_defaults_and_append_keeps_them() {
    let given = vector("MODE=INCREMENT;KEEP_LAST=2;FS_FREEZE=AGENT;INCREMENT_MODE=SNAPSHOT");
    let mut config = BackupConfig::for_new_vm(Some(&given), &qcow2()).unwrap();
    config.advance_chain(5, 0);
    let mut appended = config.clone();
    appended.update(&vector("FS_FREEZE=SUSPEND"), false, &qcow2()).unwrap();
    assert_eq!(appended, BackupConfig { fs_freeze: FsFreeze::Suspend, ..config.clone() });
    config.update(&vector("MODE=INCREMENT"), true, &qcow2()).unwrap();
    assert_eq!((config.keep_last, config.fs_freeze), (None, FsFreeze::None));
    assert_eq!((config.increment_mode, config.chain()), (Some(IncrementMode::Cbt), Some((5, 0))));
}

#[test]
fn an_append_without_user_keys_changes_nothing_and_a_replace_gives_defaults() {
    let mut config = BackupConfig::default();
    config.update(&vector("LAST_BACKUP_ID=x"), false, &qcow2()).unwrap();
    assert_eq!(config, BackupConfig::default());
    config.update(&Vector::new(), true, &qcow2()).unwrap();
    assert!(config.present && config.mode == Mode::Full);
}

#[test]
fn a_changed_mode_or_disk_choice_starts_a_new_chain() {
    for (given, kept) in [
        ("MODE=FULL", false),
        ("MODE=INCREMENT", true),
        ("KEEP_LAST=9", true),
        ("INCREMENT_MODE=SNAPSHOT", true),
        ("BACKUP_VOLATILE=YES", false),
        ("DISK_IDS=0", false),
    ] {
        let mut config = in_chain();
        config.update(&vector(given), false, &qcow2()).unwrap();
        assert_eq!(config.chain().is_some(), kept, "{given}");
    }
}

#[test]
fn increments_are_refused_with_the_sentence_that_says_why() {
    let snapshots = Disks { system_snapshots: true, ..qcow2() };
    for (disks, sentence) in [
        (snapshots, "VM cannot use backup increment mode, it has snapshots."),
        (raw(), "VM cannot use backup increment mode, it has disks snapshots or disks are not qcow2."),
    ] {
        let mut config = BackupConfig::default();
        let refusal = config.update(&vector("MODE=INCREMENT;KEEP_LAST=3"), false, &disks).unwrap_err();
        assert_eq!((refusal.to_string().as_str(), refusal.code()), (sentence, 0x2000));
        assert_eq!(config, BackupConfig::default());
    }
}

#[test]
fn a_vm_that_can_no_longer_do_increments_loses_mode_and_chain_at_the_next_change() {
    let mut config = in_chain();
    config.update(&vector("KEEP_LAST=1"), false, &raw()).unwrap();
    assert_eq!((config.mode, config.increment_mode, config.chain()), (Mode::Full, None, None));
}

#[test]
fn a_job_that_wants_increments_gets_fulls_of_a_vm_that_cannot_do_them() {
    let mut config = BackupConfig::default();
    config.update_from_job(&vector("MODE=INCREMENT;KEEP_LAST=2"), &raw()).unwrap();
    assert_eq!((config.mode, config.keep(), config.increment_mode), (Mode::Full, 2, None));
    config.update_from_job(&vector("MODE=INCREMENT"), &qcow2()).unwrap();
    assert_eq!((config.mode, config.keep()), (Mode::Increment, 2));
}

#[test]
fn disk_ids_must_name_disks_that_can_be_backed_up() {
    for (given, sentence) in [
        ("DISK_IDS=0,7", "Invalid DISK_IDS, disk 7 cannot be backed up"),
        ("DISK_IDS=2", "Invalid DISK_IDS, disk 2 cannot be backed up"),
        ("DISK_IDS=zero", "Invalid DISK_IDS, disk zero cannot be backed up"),
    ] {
        let mut config = in_chain();
        let refusal = config.update(&vector(given), false, &qcow2()).unwrap_err();
        assert_eq!((refusal.to_string().as_str(), refusal.code()), (sentence, 0x2000));
        assert_eq!(config, in_chain());
        assert!(BackupConfig::for_new_vm(Some(&vector(given)), &qcow2()).is_err());
    }
    let mut config = in_chain();
    config.update(&vector("DISK_IDS=2;BACKUP_VOLATILE=YES"), false, &qcow2()).unwrap();
    assert_eq!(config.disk_ids, [2]);
}

#[test]
fn interactive_goes_with_cbt_only() {
    let mut config = BackupConfig::default();
    config.update(&vector("INTERACTIVE=YES"), false, &qcow2()).unwrap();
    assert!(config.interactive);
    assert!(config.update(&vector("INCREMENT_MODE=SNAPSHOT"), false, &qcow2()).is_err());
}

#[test]
fn keys_of_a_running_backup_come_and_go() {
    let mut config = in_chain();
    config.backup_job_id = Some(4);
    config.begin_backup(100);
    config.last_backup_id = Some("6968545c".into());
    config.last_backup_size = Some(12);
    config.active_flatten = true;
    assert_eq!(
        text(&config),
        "ACTIVE_FLATTEN=YES;BACKUP_JOB_ID=4;BACKUP_VOLATILE=NO;FS_FREEZE=NONE;INCREMENTAL_BACKUP_ID=1;INCREMENT_MODE=CBT;\
         KEEP_LAST=4;LAST_BACKUP_ID=6968545c;LAST_BACKUP_SIZE=12;LAST_DATASTORE_ID=100;LAST_INCREMENT_ID=3;MODE=INCREMENT"
    );
    assert_eq!(BackupConfig::from_vector(&config.to_vector()), config);
    config.end_backup();
    config.active_flatten = false;
    config.leave_job();
    assert_eq!(config.chain(), None);
    assert!(!text(&config).contains("LAST_BACKUP") && !text(&config).contains("JOB"));
}

#[test]
fn a_vm_without_backup_config_keeps_none_through_a_backup() {
    let mut config = BackupConfig::default();
    config.begin_backup(100);
    assert_eq!(text(&config), "LAST_DATASTORE_ID=100");
    assert_eq!(BackupConfig::from_vector(&config.to_vector()), config);
    config.end_backup();
    assert!(config.to_vector().is_empty());
}
