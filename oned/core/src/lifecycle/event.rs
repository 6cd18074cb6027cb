//! What happens to a virtual machine: the events of its machine, what users call them, and what they do to RESCHED.
//!
//! An event is asked for by a user, answered by a driver, or seen by monitoring. It carries nothing: which disk, which
//! host and which snapshot stand in the job. Where the way depends on the VM's past (a stopped VM that waits for a place
//! again), [`VmEvent::place`] and [`VmEvent::prolog_done`] choose the event from the ACTION of its last history record.

use super::actions::number;
use super::states::{LcmState, VmState};
use super::vm::VmPhase;

/// A change of a VM that a driver makes while the VM keeps its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VmChange {
    /// A disk is attached or detached, or the guest gets a new CONTEXT.
    Hotplug,
    /// A network interface is attached, detached or updated.
    Nic,
    /// Processors and memory of a running guest.
    Capacity,
    /// A disk grows.
    DiskSize,
    /// A snapshot of one disk is made, gone back to, or deleted.
    DiskSnapshot,
    /// A snapshot of the whole VM is made, gone back to, or deleted.
    SystemSnapshot,
    /// A disk is copied into a new image.
    SaveAs,
}

impl VmChange {
    /// Every kind of change.
    pub const ALL: [Self; 7] = [
        Self::Hotplug,
        Self::Nic,
        Self::Capacity,
        Self::DiskSize,
        Self::DiskSnapshot,
        Self::SystemSnapshot,
        Self::SaveAs,
    ];
}

/// What happens to a VM: asked for by users, answered by drivers, or seen by monitoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmEvent {
    /// Deploy: the VM gets a host.
    Place,
    /// Deploy a VM that was stopped: its disks and its memory come back. See [`VmEvent::place`].
    PlaceStopped,
    /// Deploy a VM that was undeployed: its disks come back. See [`VmEvent::place`].
    PlaceUndeployed,
    /// Do not place it.
    Hold,
    /// Place it after all.
    Release,
    /// Shut the guest down and keep the VM.
    Poweroff,
    /// Switch the guest off and keep the VM.
    PoweroffHard,
    /// Shut the guest down, take the disks off the host.
    Undeploy,
    /// Switch the guest off, take the disks off the host.
    UndeployHard,
    /// Save the guest's memory, take everything off the host.
    Stop,
    /// Save the guest's memory and stop it.
    Suspend,
    /// Start it again; without a host, wait for a place again.
    Resume,
    /// Ask the guest to restart.
    Reboot,
    /// Reset the guest.
    RebootHard,
    /// Another host is wanted; sets the flag RESCHED.
    Resched,
    /// No other host is wanted any more; takes the flag away.
    Unresched,
    /// Shut the guest down and end the VM.
    Terminate,
    /// Switch the guest off and end the VM.
    TerminateHard,
    /// Move to another host with saved memory, or as it lies there when it does not run.
    Migrate,
    /// Move to another host with a shutdown in between.
    MigratePoweroff,
    /// Move to another host, switched off in between.
    MigratePoweroffHard,
    /// Move to another host while it runs.
    LiveMigrate,
    /// A disk is to be attached.
    AttachStart,
    /// A disk is to be detached.
    DetachStart,
    /// A network interface or an alias is to be attached.
    NicAttachStart,
    /// A network interface or an alias is to be detached.
    NicDetachStart,
    /// A network interface is to be changed.
    NicUpdateStart,
    /// Processors or memory are to change.
    ResizeStart,
    /// A disk is to grow.
    DiskResizeStart,
    /// A snapshot of a disk is to be made.
    DiskSnapshotCreateStart,
    /// A disk is to go back to a snapshot.
    DiskSnapshotRevertStart,
    /// A snapshot of a disk is to be deleted.
    DiskSnapshotDeleteStart,
    /// A snapshot of the VM is to be made.
    SnapshotCreateStart,
    /// The VM is to go back to a snapshot.
    SnapshotRevertStart,
    /// A snapshot of the VM is to be deleted.
    SnapshotDeleteStart,
    /// A disk is to become an image.
    SaveAsStart,
    /// A running guest is to get a new CONTEXT.
    UpdateConfStart,
    /// A backup begins.
    BackupStart,
    /// Disks are to be put back from a backup.
    RestoreStart,
    /// Recover: try the failed step again.
    Retry,
    /// Recover: remove the VM whatever it is doing.
    Delete,
    /// Recover: begin anew with fresh disks.
    Recreate,
    /// Recover: mark the record as ended, touch nothing.
    DeleteDb,
    /// The images that the VM waited for are ready.
    CloneDone,
    /// An image that the VM waits for could not be made.
    CloneFailed,
    /// The disks are in place.
    PrologDone,
    /// The disks of a migration are in place, and there is no saved memory to go on from. See [`VmEvent::prolog_done`].
    PrologDoneCold,
    /// The disks could not be put in place.
    PrologFailed,
    /// The hypervisor started the guest.
    Booted,
    /// The hypervisor could not start the guest.
    BootFailed,
    /// The guest's memory is saved, or the guest is off, where a migration asked for that.
    Saved,
    /// A shutdown or save did not work; the guest runs on.
    StopFailed,
    /// The guest runs on the new host.
    MigrateDone,
    /// The guest runs on the old host still.
    MigrateFailed,
    /// A change is made.
    ChangeDone(VmChange),
    /// A change is not made, and nothing of it is left.
    ChangeFailed(VmChange),
    /// The backup ended, well or not.
    BackupEnd,
    /// The restore of a powered-off VM ended, well or not.
    RestoreEnd,
    /// The restore of an undeployed VM ended, well or not.
    RestoreEndUndeployed,
    /// The disks are cleared away.
    EpilogDone,
    /// The disks could not be cleared away.
    EpilogFailed,
    /// What a deletion or new beginning had to clear away is gone.
    CleanupDone,
    /// Monitoring finds the guest off.
    Stopped,
    /// Monitoring finds the guest running.
    Found,
    /// Monitoring finds no such guest, or no host to ask.
    Lost,
}

impl VmEvent {
    /// Every event.
    pub const ALL: [Self; 77] = [
        Self::Place,
        Self::PlaceStopped,
        Self::PlaceUndeployed,
        Self::Hold,
        Self::Release,
        Self::Poweroff,
        Self::PoweroffHard,
        Self::Undeploy,
        Self::UndeployHard,
        Self::Stop,
        Self::Suspend,
        Self::Resume,
        Self::Reboot,
        Self::RebootHard,
        Self::Resched,
        Self::Unresched,
        Self::Terminate,
        Self::TerminateHard,
        Self::Migrate,
        Self::MigratePoweroff,
        Self::MigratePoweroffHard,
        Self::LiveMigrate,
        Self::AttachStart,
        Self::DetachStart,
        Self::NicAttachStart,
        Self::NicDetachStart,
        Self::NicUpdateStart,
        Self::ResizeStart,
        Self::DiskResizeStart,
        Self::DiskSnapshotCreateStart,
        Self::DiskSnapshotRevertStart,
        Self::DiskSnapshotDeleteStart,
        Self::SnapshotCreateStart,
        Self::SnapshotRevertStart,
        Self::SnapshotDeleteStart,
        Self::SaveAsStart,
        Self::UpdateConfStart,
        Self::BackupStart,
        Self::RestoreStart,
        Self::Retry,
        Self::Delete,
        Self::Recreate,
        Self::DeleteDb,
        Self::CloneDone,
        Self::CloneFailed,
        Self::PrologDone,
        Self::PrologDoneCold,
        Self::PrologFailed,
        Self::Booted,
        Self::BootFailed,
        Self::Saved,
        Self::StopFailed,
        Self::MigrateDone,
        Self::MigrateFailed,
        Self::ChangeDone(VmChange::Hotplug),
        Self::ChangeFailed(VmChange::Hotplug),
        Self::ChangeDone(VmChange::Nic),
        Self::ChangeFailed(VmChange::Nic),
        Self::ChangeDone(VmChange::Capacity),
        Self::ChangeFailed(VmChange::Capacity),
        Self::ChangeDone(VmChange::DiskSize),
        Self::ChangeFailed(VmChange::DiskSize),
        Self::ChangeDone(VmChange::DiskSnapshot),
        Self::ChangeFailed(VmChange::DiskSnapshot),
        Self::ChangeDone(VmChange::SystemSnapshot),
        Self::ChangeFailed(VmChange::SystemSnapshot),
        Self::ChangeDone(VmChange::SaveAs),
        Self::ChangeFailed(VmChange::SaveAs),
        Self::BackupEnd,
        Self::RestoreEnd,
        Self::RestoreEndUndeployed,
        Self::EpilogDone,
        Self::EpilogFailed,
        Self::CleanupDone,
        Self::Stopped,
        Self::Found,
        Self::Lost,
    ];

    /// The word in refusals: that of the action as users write it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Place | Self::PlaceStopped | Self::PlaceUndeployed => "deploy",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Poweroff => "poweroff",
            Self::PoweroffHard => "poweroff-hard",
            Self::Undeploy => "undeploy",
            Self::UndeployHard => "undeploy-hard",
            Self::Stop => "stop",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Reboot => "reboot",
            Self::RebootHard => "reboot-hard",
            Self::Resched => "resched",
            Self::Unresched => "unresched",
            Self::Terminate => "terminate",
            Self::TerminateHard => "terminate-hard",
            Self::Migrate => "migrate",
            Self::MigratePoweroff => "poweroff-migrate",
            Self::MigratePoweroffHard => "poweroff-hard-migrate",
            Self::LiveMigrate => "live-migrate",
            Self::AttachStart => "disk-attach",
            Self::DetachStart => "disk-detach",
            Self::NicAttachStart => "nic-attach",
            Self::NicDetachStart => "nic-detach",
            Self::NicUpdateStart => "nic-update",
            Self::ResizeStart => "resize",
            Self::DiskResizeStart => "disk-resize",
            Self::DiskSnapshotCreateStart => "disk-snapshot-create",
            Self::DiskSnapshotRevertStart => "disk-snapshot-revert",
            Self::DiskSnapshotDeleteStart => "disk-snapshot-delete",
            Self::SnapshotCreateStart => "snapshot-create",
            Self::SnapshotRevertStart => "snapshot-revert",
            Self::SnapshotDeleteStart => "snapshot-delete",
            Self::SaveAsStart => "disk-saveas",
            Self::UpdateConfStart => "updateconf",
            Self::BackupStart => "backup",
            Self::RestoreStart => "restore",
            Self::Retry => "recover-retry",
            Self::Delete => "recover-delete",
            Self::Recreate => "recover-recreate",
            Self::DeleteDb => "recover-delete-db",
            Self::CloneDone => "clone-done",
            Self::CloneFailed => "clone-failed",
            Self::PrologDone | Self::PrologDoneCold => "prolog-done",
            Self::PrologFailed => "prolog-failed",
            Self::Booted => "booted",
            Self::BootFailed => "boot-failed",
            Self::Saved => "saved",
            Self::StopFailed => "stop-failed",
            Self::MigrateDone => "migrate-done",
            Self::MigrateFailed => "migrate-failed",
            Self::ChangeDone(_) => "change-done",
            Self::ChangeFailed(_) => "change-failed",
            Self::BackupEnd => "backup-end",
            Self::RestoreEnd | Self::RestoreEndUndeployed => "restore-end",
            Self::EpilogDone => "epilog-done",
            Self::EpilogFailed => "epilog-failed",
            Self::CleanupDone => "cleanup-done",
            Self::Stopped => "stopped",
            Self::Found => "found",
            Self::Lost => "lost",
        }
    }

    /// The event of a deployment. A VM that was stopped or undeployed waits in PENDING like a new one once it is
    /// resumed; `last_action`, the ACTION of its last history record, tells what lies ready for it.
    pub fn place(last_action: Option<i64>) -> Self {
        match last_action {
            Some(number::STOP) => Self::PlaceStopped,
            Some(number::UNDEPLOY | number::UNDEPLOY_HARD) => Self::PlaceUndeployed,
            _ => Self::Place,
        }
    }

    /// The event that the disks are in place: a migration with a shutdown in between (`last_action`) has no saved memory.
    pub fn prolog_done(phase: VmPhase, last_action: Option<i64>) -> Self {
        let is_migrating = phase.state == VmState::Active
            && matches!(phase.lcm, LcmState::PrologMigrate | LcmState::PrologMigrateFailure);
        match last_action {
            Some(number::POWEROFF_MIGRATE | number::POWEROFF_HARD_MIGRATE) if is_migrating => Self::PrologDoneCold,
            _ => Self::PrologDone,
        }
    }

    /// The event that ends a restore in place: the VM goes back to where it was, and one without a host was undeployed.
    pub fn restore_end(has_host: bool) -> Self {
        if has_host { Self::RestoreEnd } else { Self::RestoreEndUndeployed }
    }

    /// The flag RESCHED after this event. Whatever gives the VM another place or another life settles the wish; snapshots of
    /// disks, copies and backups leave it as it was (OpenNebula's rule).
    pub fn resched_after(self, flag: bool) -> bool {
        match self {
            Self::Resched => true,
            Self::Unresched
            | Self::Place
            | Self::PlaceStopped
            | Self::PlaceUndeployed
            | Self::Poweroff
            | Self::PoweroffHard
            | Self::Undeploy
            | Self::UndeployHard
            | Self::Stop
            | Self::Suspend
            | Self::Reboot
            | Self::RebootHard
            | Self::Terminate
            | Self::TerminateHard
            | Self::Migrate
            | Self::MigratePoweroff
            | Self::MigratePoweroffHard
            | Self::LiveMigrate
            | Self::AttachStart
            | Self::DetachStart
            | Self::NicAttachStart
            | Self::NicDetachStart
            | Self::SnapshotCreateStart
            | Self::SnapshotRevertStart
            | Self::SnapshotDeleteStart
            | Self::UpdateConfStart
            | Self::Delete
            | Self::Recreate
            | Self::DeleteDb
            | Self::Stopped
            | Self::Lost => false,
            Self::Hold
            | Self::Release
            | Self::Resume
            | Self::NicUpdateStart
            | Self::ResizeStart
            | Self::DiskResizeStart
            | Self::DiskSnapshotCreateStart
            | Self::DiskSnapshotRevertStart
            | Self::DiskSnapshotDeleteStart
            | Self::SaveAsStart
            | Self::BackupStart
            | Self::RestoreStart
            | Self::Retry
            | Self::CloneDone
            | Self::CloneFailed
            | Self::PrologDone
            | Self::PrologDoneCold
            | Self::PrologFailed
            | Self::Booted
            | Self::BootFailed
            | Self::Saved
            | Self::StopFailed
            | Self::MigrateDone
            | Self::MigrateFailed
            | Self::ChangeDone(_)
            | Self::ChangeFailed(_)
            | Self::BackupEnd
            | Self::RestoreEnd
            | Self::RestoreEndUndeployed
            | Self::EpilogDone
            | Self::EpilogFailed
            | Self::CleanupDone
            | Self::Found => flag,
        }
    }
}
