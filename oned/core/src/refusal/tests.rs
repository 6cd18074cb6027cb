use super::*;

#[test]
fn sentences_and_codes_are_those_that_clients_match_on() {
    let cases = [
        (Refusal::BadSession, 256, -1, "User couldn't be authenticated, aborting call."),
        (
            Refusal::NotAuthorized { user: 2, right: Right::Admin, kind: ObjectKind::Vm, id: Some(7) },
            512,
            7,
            "User [2] : Not authorized to perform ADMIN VM [7].",
        ),
        (
            Refusal::NotAuthorized { user: 2, right: Right::Create, kind: ObjectKind::BackupJob, id: None },
            512,
            -1,
            "User [2] : Not authorized to perform CREATE BACKUPJOB.",
        ),
        (Refusal::NoSuch { kind: ObjectKind::Vm, id: 7 }, 1024, 7, "Error getting virtual machine [7]."),
        (Refusal::NoSuch { kind: ObjectKind::Datastore, id: -1 }, 1024, -1, "Error getting datastore Pool."),
        (
            Refusal::NameTaken { kind: ObjectKind::Image, other_id: 12 },
            16384,
            12,
            "Error allocating a new image. NAME is already taken by IMAGE 12.",
        ),
        (
            Refusal::NameTaken { kind: ObjectKind::BackupJob, other_id: 3 },
            8192,
            3,
            "Error allocating a new backup job. NAME is already taken by BACKUPJOB 3.",
        ),
        (
            Refusal::NameCollides { kind: ObjectKind::Image, name: "X".into(), other_id: 12 },
            2048,
            12,
            "image cannot be renamed to X because it collides with image 12",
        ),
        (
            Refusal::RestrictedAttribute { user: 2, attribute: "DISK/SOURCE".into() },
            512,
            -1,
            "User [2] : Template includes a restricted attribute DISK/SOURCE.",
        ),
        (Refusal::UpdateType, 4096, -1, "Wrong update type"),
        (Refusal::NotABackupDatastore { datastore: 1 }, 2048, 1, "Datastore needs to be of type BACKUP"),
        (
            Refusal::WrongState { action: "resume".into(), state: "RUNNING".into() },
            2048,
            -1,
            "Error performing action \"resume\": This action is not available for state RUNNING",
        ),
        (
            Refusal::RecoverState { operation: "success".into(), phase: VmPhase::POWEROFF },
            2048,
            -1,
            "Could not perform a recover operation (success), wrong state POWEROFF.",
        ),
        (Refusal::UnknownVmOperation { word: "fly".into() }, 8192, -1, "Unknown vm operation: fly"),
        (Refusal::NoSnapshot { snapshot: 3 }, 2048, -1, "Snapshot does not exist: 3"),
        (
            Refusal::SnapshotActive { snapshot: 3 },
            2048,
            -1,
            "Cannot delete the active snapshot 3; revert the disk to another one first",
        ),
        (
            Refusal::SnapshotWithChildren { snapshot: 3, children: "4,5".into() },
            2048,
            -1,
            "Cannot delete snapshot with children: 3; delete 4,5 first",
        ),
        (Refusal::SnapshotBusy { snapshot: 3 }, 2048, -1, "Snapshot 3 is being worked on; wait until that is done"),
        (
            Refusal::TooManySnapshots { limit: 256 },
            2048,
            -1,
            "Cannot create a new snapshot, there are 256 already; delete one first",
        ),
    ];
    for (refusal, code, id, text) in cases {
        assert_eq!((refusal.code(), refusal.object_id(), refusal.to_string().as_str()), (code, id, text));
    }
}

#[test]
fn a_refusal_while_allocating_names_the_object_that_was_wanted() {
    let bad_name = Refusal::BadName { reason: "it cannot be empty".into() };
    let wrapped = bad_name.in_allocating(ObjectKind::Image);
    assert_eq!(wrapped.code(), ALLOCATE);
    assert_eq!(wrapped.to_string(), "Error allocating a new image. Invalid NAME, it cannot be empty");
    assert_eq!(Refusal::BadSession.in_allocating(ObjectKind::Image), Refusal::BadSession);
}
