use proptest::prelude::*;

use super::*;

fn chain() -> DiskSnapshots {
    let mut disk = DiskSnapshots::new(0, Orphans::No);
    for name in ["base", "", "after"] {
        let id = disk.create(name, 1024, 1_700_000_000).unwrap();
        disk.created(id);
    }
    disk
}

fn tree(disk: &DiskSnapshots) -> Vec<(i64, i64, Vec<i64>)> {
    disk.snapshots().iter().map(|snapshot| (snapshot.id, snapshot.parent, snapshot.children.clone())).collect()
}

#[test]
fn each_new_snapshot_grows_from_the_one_in_use() {
    let mut disk = chain();
    assert_eq!(tree(&disk), [(0, -1, vec![1]), (1, 0, vec![2]), (2, 1, vec![])]);
    disk.reverted(0);
    let id = disk.create("branch", 1024, 1_700_000_001).unwrap();
    assert_eq!(disk.active(), Some(0), "not in use before the driver has made it");
    disk.created(id);
    assert_eq!(tree(&disk), [(0, -1, vec![1, 3]), (1, 0, vec![2]), (2, 1, vec![]), (3, 0, vec![])]);
    assert_eq!((disk.active(), disk.total_size_mb()), (Some(3), 4096));
}

#[test]
fn the_snapshot_in_use_and_those_with_children_stay() {
    let mut disk = chain();
    let refused = |disk: &DiskSnapshots, id| disk.may_delete(id).unwrap_err().to_string();
    assert_eq!(refused(&disk, 2), "Cannot delete the active snapshot 2; revert the disk to another one first");
    assert_eq!(refused(&disk, 0), "Cannot delete snapshot with children: 0; delete 1 first");
    assert_eq!(refused(&disk, 7), "Snapshot does not exist: 7");
    disk.reverted(1);
    assert_eq!(disk.may_delete(2), Ok(()));
    disk.deleted(2);
    assert_eq!(tree(&disk), [(0, -1, vec![1]), (1, 0, vec![])]);
    assert_eq!(disk.create("", 1, 1), Ok(3), "numbers are not used again");
}

#[test]
fn a_snapshot_that_could_not_be_made_leaves_nothing() {
    let mut disk = chain();
    let before = tree(&disk);
    let id = disk.create("fails", 1024, 5).unwrap();
    disk.deleted(id);
    assert_eq!((tree(&disk), disk.active()), (before, Some(2)));
}

#[test]
fn where_orphans_are_allowed_any_snapshot_goes() {
    let mut disk = DiskSnapshots::new(0, Orphans::Yes);
    for _ in 0..2 {
        let id = disk.create("", 10, 0).unwrap();
        disk.created(id);
    }
    assert_eq!(tree(&disk), [(0, -1, vec![]), (1, -1, vec![])]);
    assert_eq!(disk.may_delete(1), Ok(()));
    disk.deleted(1);
    assert_eq!(disk.active(), None);
}

#[test]
fn with_mixed_orphans_snapshots_hang_on_the_one_reverted_to() {
    let mut disk = DiskSnapshots::new(3, Orphans::Mixed);
    for _ in 0..2 {
        let id = disk.create("", 10, 0).unwrap();
        disk.created(id);
    }
    assert_eq!((tree(&disk), disk.active()), (vec![(0, -1, vec![]), (1, -1, vec![])], None));
    disk.reverted(0);
    disk.create("", 10, 0).unwrap();
    assert_eq!(tree(&disk), [(0, -1, vec![2]), (1, -1, vec![]), (2, 0, vec![])]);
    let view = disk.view();
    assert_eq!((view.allow_orphans.as_str(), view.current_base, view.next_snapshot), ("MIXED", 0, 3));
    assert!(view.snapshots[0].active);
    assert!(disk.may_delete(0).is_err());
}

#[test]
fn the_driver_s_word_and_the_format_say_what_hangs_together() {
    let cases = [
        ("NO", "raw", Orphans::No),
        ("yes", "qcow2", Orphans::Yes),
        ("MIXED", "raw", Orphans::Mixed),
        ("FORMAT", "qcow2", Orphans::No),
        ("FORMAT", "raw", Orphans::Yes),
        ("FORMAT", "", Orphans::No),
        ("", "raw", Orphans::No),
    ];
    for (word, format, orphans) in cases {
        assert_eq!(Orphans::from_word(word, format), orphans, "{word} {format}");
    }
}

#[test]
fn names_and_numbers_of_snapshots_have_limits() {
    let mut disk = chain();
    assert!(disk.rename(9, "x").is_err());
    assert!(disk.rename(1, "").is_err());
    assert!(disk.create(&"x".repeat(129), 1, 1).is_err());
    assert!(disk.create("a\nb", 1, 1).is_err());
    disk.rename(1, "before the update, 12:30").unwrap();
    assert_eq!(disk.get(1).unwrap().name, "before the update, 12:30");
    while disk.snapshots().len() < MAX_SNAPSHOTS {
        disk.create("", i64::MAX, 0).unwrap();
    }
    assert_eq!(disk.create("", 1, 0), Err(Refusal::TooManySnapshots { limit: MAX_SNAPSHOTS }));
    assert_eq!(disk.total_size_mb(), i64::MAX);
}

#[test]
fn a_vm_with_increments_makes_no_snapshots() {
    assert_eq!(allowed_beside_backups("snapshot-create", Mode::Full), Ok(()));
    let refusal = allowed_beside_backups("disk-snapshot-create", Mode::Increment).unwrap_err();
    let text = "Action \"disk-snapshot-create\" is not compatible with incremental backups";
    assert_eq!((refusal.to_string().as_str(), refusal.code()), (text, 2048));
}

#[test]
fn snapshots_of_a_vm_stand_in_its_template_as_clients_know_them() {
    let mut snapshots = SystemSnapshots::default();
    assert_eq!(snapshots.create("", 0, 1_700_000_000), Ok(0));
    let mut template = Template::parse("CPU=1").unwrap();
    snapshots.write_to(&mut template);
    let vector = template.vector("SNAPSHOT").unwrap();
    let pairs: Vec<_> = vector.iter().collect();
    let wanted = [
        ("ACTION", "CREATE"),
        ("ACTIVE", "YES"),
        ("HYPERVISOR_ID", ""),
        ("NAME", "snapshot-0"),
        ("SNAPSHOT_ID", "0"),
        ("SYSTEM_DISK_SIZE", "0"),
        ("TIME", "1700000000"),
    ];
    assert_eq!(pairs, wanted);
    assert_eq!(SystemSnapshots::from_template(&template), snapshots);
    snapshots.done("snap-0");
    snapshots.write_to(&mut template);
    let stored = Template::parse(&template.to_text()).unwrap();
    assert_eq!(stored.vectors("SNAPSHOT").count(), 1);
    assert_eq!(stored.vector("SNAPSHOT").unwrap().get("HYPERVISOR_ID"), Some("snap-0"));
    assert!(!stored.vector("SNAPSHOT").unwrap().contains("ACTIVE"));
    assert_eq!(SystemSnapshots::from_template(&stored), snapshots);
}

#[test]
fn one_snapshot_of_a_vm_is_worked_on_at_a_time() {
    let mut snapshots = SystemSnapshots::default();
    snapshots.create("a", 5, 1).unwrap();
    assert_eq!(snapshots.revert(0), Err(Refusal::SnapshotBusy { snapshot: 0 }));
    assert!(snapshots.create("b", 5, 1).is_err());
    snapshots.done("x");
    assert_eq!(snapshots.delete(4), Err(Refusal::NoSnapshot { snapshot: 4 }));
    snapshots.revert(0).unwrap();
    snapshots.failed();
    assert_eq!((snapshots.busy(), snapshots.total_size_mb()), (None, 5));
    assert_eq!(snapshots.get(0).unwrap().hypervisor_id, "x", "a revert names nothing anew");
    snapshots.create("b", 5, 1).unwrap();
    snapshots.failed();
    assert_eq!(snapshots.snapshots().len(), 1);
    snapshots.delete(0).unwrap();
    snapshots.done("");
    assert!(snapshots.snapshots().is_empty());
}

proptest! {
    #[test]
    fn parents_and_children_always_know_each_other(
        orphans in prop_oneof![Just(Orphans::No), Just(Orphans::Yes), Just(Orphans::Mixed)],
        steps in prop::collection::vec((0..5_u8, 0..20_i64), 0..60),
    ) {
        let mut disk = DiskSnapshots::new(0, orphans);
        for (step, id) in steps {
            match step {
                0 => { disk.create("", 1, 0).unwrap(); }
                1 => disk.created(id),
                2 => disk.reverted(id),
                3 => if disk.may_delete(id).is_ok() { disk.deleted(id) },
                _ => disk.deleted(id),
            }
            for snapshot in disk.snapshots() {
                for child in &snapshot.children {
                    prop_assert_eq!(disk.get(*child).unwrap().parent, snapshot.id);
                }
                if snapshot.parent >= 0 {
                    prop_assert!(disk.get(snapshot.parent).unwrap().children.contains(&snapshot.id));
                }
            }
            prop_assert!(disk.active().is_none_or(|active| disk.get(active).is_ok()));
            prop_assert!(disk.snapshots().windows(2).all(|pair| pair[0].id < pair[1].id));
        }
    }
}
