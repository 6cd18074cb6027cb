//! The virtual machine's machine: its phases, the table of moves, and which answers a driver owes in which phase.
//!
//! The table ([`super::moves`]) has one constant per event. What is not in it is refused; only the rules of recovery
//! (removal is possible from nearly everywhere) and of monitoring (never refused) stand here beside it.

use serde::{Deserialize, Serialize};

use super::event::{VmChange, VmEvent};
use super::moves::{self, Moves};
use super::states::{LcmState, VmState};
use super::states::{LcmState as L, VmState as S};
use crate::refusal::Refusal;

/// STATE and LCM_STATE together. `lcm` is LCM_INIT unless `state` is ACTIVE; the constructors keep to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmPhase {
    /// STATE.
    pub state: VmState,
    /// LCM_STATE.
    pub lcm: LcmState,
}

impl VmPhase {
    /// Where a new VM begins.
    pub const PENDING: Self = Self::resting(VmState::Pending);
    /// Created, but not to be placed yet.
    pub const HOLD: Self = Self::resting(VmState::Hold);
    /// Running.
    pub const RUNNING: Self = Self::active(LcmState::Running);
    /// Off, its disks still on the host.
    pub const POWEROFF: Self = Self::resting(VmState::Poweroff);
    /// Gone.
    pub const DONE: Self = Self::resting(VmState::Done);

    /// A state other than ACTIVE.
    pub const fn resting(state: VmState) -> Self {
        Self { state, lcm: LcmState::LcmInit }
    }

    /// ACTIVE and busy with `lcm`.
    pub const fn active(lcm: LcmState) -> Self {
        Self { state: VmState::Active, lcm }
    }

    /// From the two numbers in the database. LCM_STATE counts only where STATE is ACTIVE.
    pub fn from_numbers(state: i64, lcm: i64) -> Option<Self> {
        match VmState::from_number(state)? {
            VmState::Active => LcmState::from_number(lcm).map(Self::active),
            state => Some(Self::resting(state)),
        }
    }

    /// Every phase there is: the resting ones by STATE, then ACTIVE by LCM_STATE.
    pub fn all() -> impl Iterator<Item = Self> {
        let resting = VmState::ALL.iter().copied().filter(|state| *state != VmState::Active).map(Self::resting);
        resting.chain(LcmState::ALL.iter().copied().map(Self::active))
    }

    /// The name in sentences: that of LCM_STATE for an ACTIVE VM, else that of STATE.
    pub fn name(self) -> &'static str {
        match self.state {
            VmState::Active => self.lcm.name(),
            state => state.name(),
        }
    }

    /// The four letters in the STAT column.
    pub fn short(self) -> &'static str {
        match self.state {
            VmState::Active => self.lcm.short(),
            state => state.short(),
        }
    }

    /// Whether a backup of the VM runs.
    pub fn is_backing_up(self) -> bool {
        self == Self::active(LcmState::Backup) || self == Self::active(LcmState::BackupPoweroff)
    }
}

impl std::fmt::Display for VmPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The phase after an event.
///
/// # Errors
/// [`Refusal::WrongState`] naming the action and the state, when the event is not possible in this phase.
pub fn next(phase: VmPhase, event: VmEvent) -> Result<VmPhase, Refusal> {
    after(phase, event)
        .ok_or_else(|| Refusal::WrongState { action: event.action().to_owned(), state: phase.name().to_owned() })
}

fn after(phase: VmPhase, event: VmEvent) -> Option<VmPhase> {
    let listed = |moves: Moves| moves.iter().find(|(from, _)| *from == phase).map(|(_, to)| *to);
    match event {
        VmEvent::Place => listed(moves::PLACE),
        VmEvent::PlaceStopped => listed(moves::PLACE_STOPPED),
        VmEvent::PlaceUndeployed => listed(moves::PLACE_UNDEPLOYED),
        VmEvent::Hold => listed(moves::HOLD),
        VmEvent::Release => listed(moves::RELEASE),
        VmEvent::Poweroff => listed(moves::POWEROFF),
        VmEvent::PoweroffHard => listed(moves::POWEROFF_HARD),
        VmEvent::Undeploy => listed(moves::UNDEPLOY),
        VmEvent::UndeployHard => listed(moves::UNDEPLOY_HARD),
        VmEvent::Stop => listed(moves::STOP),
        VmEvent::Suspend => listed(moves::SUSPEND),
        VmEvent::Resume => listed(moves::RESUME),
        VmEvent::Reboot | VmEvent::RebootHard => listed(moves::REBOOT),
        VmEvent::Resched | VmEvent::Unresched => listed(moves::RESCHED),
        VmEvent::Terminate => listed(moves::TERMINATE),
        VmEvent::TerminateHard => listed(moves::TERMINATE_HARD).or_else(|| listed(moves::TERMINATE)),
        VmEvent::Migrate | VmEvent::MigratePoweroff | VmEvent::MigratePoweroffHard => listed(moves::MIGRATE),
        VmEvent::LiveMigrate => listed(moves::LIVE_MIGRATE),
        VmEvent::AttachStart => listed(moves::ATTACH),
        VmEvent::DetachStart => listed(moves::DETACH),
        VmEvent::NicAttachStart | VmEvent::NicDetachStart => listed(moves::NIC),
        VmEvent::NicUpdateStart => listed(moves::NIC_UPDATE),
        VmEvent::ResizeStart => listed(moves::RESIZE),
        VmEvent::DiskResizeStart => listed(moves::DISK_RESIZE),
        VmEvent::DiskSnapshotCreateStart => listed(moves::DISK_SNAPSHOT_CREATE),
        VmEvent::DiskSnapshotRevertStart => listed(moves::DISK_SNAPSHOT_REVERT),
        VmEvent::DiskSnapshotDeleteStart => listed(moves::DISK_SNAPSHOT_DELETE),
        VmEvent::SnapshotCreateStart | VmEvent::SnapshotRevertStart | VmEvent::SnapshotDeleteStart => {
            listed(moves::SNAPSHOT)
        }
        VmEvent::SaveAsStart => listed(moves::SAVE_AS),
        VmEvent::UpdateConfStart => listed(moves::UPDATE_CONF),
        VmEvent::BackupStart => listed(moves::BACKUP),
        VmEvent::RestoreStart => listed(moves::RESTORE),
        VmEvent::Retry => listed(moves::RETRY),
        VmEvent::Delete => deleted(phase),
        VmEvent::Recreate => recreated(phase),
        VmEvent::DeleteDb => (phase != VmPhase::DONE).then_some(VmPhase::DONE),
        VmEvent::CloneDone => listed(moves::CLONE_DONE),
        VmEvent::CloneFailed => listed(moves::CLONE_FAILED),
        VmEvent::PrologDone => listed(moves::PROLOG_DONE),
        VmEvent::PrologDoneCold => listed(moves::PROLOG_DONE_COLD),
        VmEvent::PrologFailed => listed(moves::PROLOG_FAILED),
        VmEvent::Booted => listed(moves::BOOTED),
        VmEvent::BootFailed => listed(moves::BOOT_FAILED),
        VmEvent::Saved => listed(moves::SAVED),
        VmEvent::StopFailed => listed(moves::STOP_FAILED),
        VmEvent::MigrateDone | VmEvent::MigrateFailed => listed(moves::MIGRATE_END),
        VmEvent::ChangeDone(change) | VmEvent::ChangeFailed(change) => {
            change_in(phase).and_then(|(found, back)| (found == change).then_some(back))
        }
        VmEvent::BackupEnd => listed(moves::BACKUP_END),
        VmEvent::RestoreEnd => listed(moves::RESTORE_END),
        VmEvent::RestoreEndUndeployed => listed(moves::RESTORE_END_UNDEPLOYED),
        VmEvent::EpilogDone => listed(moves::EPILOG_DONE),
        VmEvent::EpilogFailed => listed(moves::EPILOG_FAILED),
        VmEvent::CleanupDone => listed(moves::CLEANUP_DONE),
        // While a driver works (BACKUP, BOOT, HOTPLUG …) its answer decides, and what the next monitoring finds is applied
        // after it; only a shutdown is answered by the guest being off.
        VmEvent::Stopped => listed(moves::STOPPED).or(Some(phase)),
        VmEvent::Found => listed(moves::FOUND).or(Some(phase)),
        VmEvent::Lost => listed(moves::LOST).or(Some(phase)),
    }
}

fn deleted(phase: VmPhase) -> Option<VmPhase> {
    match phase.state {
        S::Init | S::Pending | S::Hold | S::Cloning | S::CloningFailure => Some(VmPhase::DONE),
        S::Poweroff | S::Suspended | S::Stopped | S::Undeployed => Some(VmPhase::active(L::CleanupDelete)),
        S::Active => (phase.lcm != L::CleanupDelete).then_some(VmPhase::active(L::CleanupDelete)),
        S::Done => None,
    }
}

fn recreated(phase: VmPhase) -> Option<VmPhase> {
    match phase.state {
        // Nothing of it exists yet.
        S::Init | S::Pending | S::Cloning | S::CloningFailure => Some(phase),
        S::Hold => Some(VmPhase::PENDING),
        S::Poweroff | S::Suspended | S::Stopped | S::Undeployed => Some(VmPhase::active(L::CleanupResubmit)),
        S::Active => {
            let goes = !matches!(phase.lcm, L::CleanupDelete | L::CleanupResubmit);
            goes.then_some(VmPhase::active(L::CleanupResubmit))
        }
        S::Done => None,
    }
}

/// Which change a driver is making in this phase, and where the VM is afterwards, however it ends.
pub fn change_in(phase: VmPhase) -> Option<(VmChange, VmPhase)> {
    const CHANGES: [(LcmState, VmChange, VmPhase); 22] = [
        (L::Hotplug, VmChange::Hotplug, VmPhase::RUNNING),
        (L::HotplugPrologPoweroff, VmChange::Hotplug, VmPhase::POWEROFF),
        (L::HotplugEpilogPoweroff, VmChange::Hotplug, VmPhase::POWEROFF),
        (L::HotplugNic, VmChange::Nic, VmPhase::RUNNING),
        (L::HotplugNicPoweroff, VmChange::Nic, VmPhase::POWEROFF),
        (L::HotplugResize, VmChange::Capacity, VmPhase::RUNNING),
        (L::DiskResize, VmChange::DiskSize, VmPhase::RUNNING),
        (L::DiskResizePoweroff, VmChange::DiskSize, VmPhase::POWEROFF),
        (L::DiskResizeUndeployed, VmChange::DiskSize, VmPhase::resting(S::Undeployed)),
        (L::DiskSnapshot, VmChange::DiskSnapshot, VmPhase::RUNNING),
        (L::DiskSnapshotDelete, VmChange::DiskSnapshot, VmPhase::RUNNING),
        (L::DiskSnapshotPoweroff, VmChange::DiskSnapshot, VmPhase::POWEROFF),
        (L::DiskSnapshotRevertPoweroff, VmChange::DiskSnapshot, VmPhase::POWEROFF),
        (L::DiskSnapshotDeletePoweroff, VmChange::DiskSnapshot, VmPhase::POWEROFF),
        (L::DiskSnapshotSuspended, VmChange::DiskSnapshot, VmPhase::resting(S::Suspended)),
        (L::DiskSnapshotDeleteSuspended, VmChange::DiskSnapshot, VmPhase::resting(S::Suspended)),
        (L::HotplugSnapshot, VmChange::SystemSnapshot, VmPhase::RUNNING),
        (L::HotplugSaveas, VmChange::SaveAs, VmPhase::RUNNING),
        (L::HotplugSaveasPoweroff, VmChange::SaveAs, VmPhase::POWEROFF),
        (L::HotplugSaveasSuspended, VmChange::SaveAs, VmPhase::resting(S::Suspended)),
        (L::HotplugSaveasUndeployed, VmChange::SaveAs, VmPhase::resting(S::Undeployed)),
        (L::HotplugSaveasStopped, VmChange::SaveAs, VmPhase::resting(S::Stopped)),
    ];
    let found = CHANGES.iter().find(|(lcm, ..)| VmPhase::active(*lcm) == phase);
    found.map(|(_, change, back)| (*change, *back))
}

/// What a driver answers in this phase: the event of success and that of failure. None where nothing is awaited from one:
/// the VM rests, runs, or waits for somebody to recover it.
pub fn driver_answers(phase: VmPhase) -> Option<(VmEvent, VmEvent)> {
    match phase.state {
        S::Cloning => Some((VmEvent::CloneDone, VmEvent::CloneFailed)),
        S::Active => answers_of_active(phase),
        S::Init
        | S::Pending
        | S::Hold
        | S::Stopped
        | S::Suspended
        | S::Done
        | S::Poweroff
        | S::Undeployed
        | S::CloningFailure => None,
    }
}

fn answers_of_active(phase: VmPhase) -> Option<(VmEvent, VmEvent)> {
    match phase.lcm {
        L::Prolog
        | L::PrologResume
        | L::PrologUndeploy
        | L::PrologMigrate
        | L::PrologMigratePoweroff
        | L::PrologMigrateSuspend
        | L::PrologMigrateUnknown => Some((VmEvent::PrologDone, VmEvent::PrologFailed)),
        L::Boot
        | L::BootUnknown
        | L::BootPoweroff
        | L::BootSuspended
        | L::BootStopped
        | L::BootUndeploy
        | L::BootMigrate => Some((VmEvent::Booted, VmEvent::BootFailed)),
        L::Migrate => Some((VmEvent::MigrateDone, VmEvent::MigrateFailed)),
        L::SaveStop | L::SaveSuspend | L::SaveMigrate => Some((VmEvent::Saved, VmEvent::StopFailed)),
        L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy => Some((VmEvent::Stopped, VmEvent::StopFailed)),
        L::Epilog | L::EpilogStop | L::EpilogUndeploy => Some((VmEvent::EpilogDone, VmEvent::EpilogFailed)),
        L::Backup | L::BackupPoweroff => Some((VmEvent::BackupEnd, VmEvent::BackupEnd)),
        L::Restore => Some((VmEvent::RestoreEnd, VmEvent::RestoreEnd)),
        L::CleanupDelete | L::CleanupResubmit => Some((VmEvent::CleanupDone, VmEvent::CleanupDone)),
        L::Hotplug
        | L::HotplugPrologPoweroff
        | L::HotplugEpilogPoweroff
        | L::HotplugNic
        | L::HotplugNicPoweroff
        | L::HotplugResize
        | L::HotplugSnapshot
        | L::HotplugSaveas
        | L::HotplugSaveasPoweroff
        | L::HotplugSaveasSuspended
        | L::HotplugSaveasUndeployed
        | L::HotplugSaveasStopped
        | L::DiskResize
        | L::DiskResizePoweroff
        | L::DiskResizeUndeployed
        | L::DiskSnapshot
        | L::DiskSnapshotDelete
        | L::DiskSnapshotPoweroff
        | L::DiskSnapshotRevertPoweroff
        | L::DiskSnapshotDeletePoweroff
        | L::DiskSnapshotSuspended
        | L::DiskSnapshotDeleteSuspended => {
            change_in(phase).map(|(change, _)| (VmEvent::ChangeDone(change), VmEvent::ChangeFailed(change)))
        }
        L::LcmInit
        | L::Running
        | L::Unknown
        | L::BootFailure
        | L::BootMigrateFailure
        | L::BootStoppedFailure
        | L::BootUndeployFailure
        | L::PrologFailure
        | L::PrologResumeFailure
        | L::PrologUndeployFailure
        | L::PrologMigrateFailure
        | L::PrologMigratePoweroffFailure
        | L::PrologMigrateSuspendFailure
        | L::PrologMigrateUnknownFailure
        | L::EpilogFailure
        | L::EpilogStopFailure
        | L::EpilogUndeployFailure => None,
    }
}
