//! The virtual machine's machine.

use serde::{Deserialize, Serialize};

use super::states::{LcmState, VmState};
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

/// What happens to a VM: asked for by users, answered by drivers, or seen by monitoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmEvent {
    /// Deploy: the VM gets a host.
    Place,
    /// Do not place it.
    Hold,
    /// Place it after all.
    Release,
    /// Shut the guest down and keep the VM.
    Poweroff,
    /// Switch the guest off and keep the VM.
    PoweroffHard,
    /// Save the guest's memory and stop it.
    Suspend,
    /// Start it again.
    Resume,
    /// Ask the guest to restart.
    Reboot,
    /// Reset the guest.
    RebootHard,
    /// Shut the guest down and end the VM.
    Terminate,
    /// Switch the guest off and end the VM.
    TerminateHard,
    /// A disk is to be attached.
    AttachStart,
    /// A disk is to be detached.
    DetachStart,
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
    /// The disks are in place.
    PrologDone,
    /// The disks could not be put in place.
    PrologFailed,
    /// The hypervisor started the guest.
    Booted,
    /// The hypervisor could not start the guest.
    BootFailed,
    /// The guest's memory is saved.
    Saved,
    /// A shutdown or save did not work; the guest runs on.
    StopFailed,
    /// Attaching or detaching ended, well or not.
    HotplugEnd,
    /// The backup ended, well or not.
    BackupEnd,
    /// The restore ended, well or not.
    RestoreEnd,
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
    pub const ALL: [Self; 34] = [
        Self::Place,
        Self::Hold,
        Self::Release,
        Self::Poweroff,
        Self::PoweroffHard,
        Self::Suspend,
        Self::Resume,
        Self::Reboot,
        Self::RebootHard,
        Self::Terminate,
        Self::TerminateHard,
        Self::AttachStart,
        Self::DetachStart,
        Self::BackupStart,
        Self::RestoreStart,
        Self::Retry,
        Self::Delete,
        Self::Recreate,
        Self::DeleteDb,
        Self::PrologDone,
        Self::PrologFailed,
        Self::Booted,
        Self::BootFailed,
        Self::Saved,
        Self::StopFailed,
        Self::HotplugEnd,
        Self::BackupEnd,
        Self::RestoreEnd,
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
            Self::Place => "deploy",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Poweroff => "poweroff",
            Self::PoweroffHard => "poweroff-hard",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Reboot => "reboot",
            Self::RebootHard => "reboot-hard",
            Self::Terminate => "terminate",
            Self::TerminateHard => "terminate-hard",
            Self::AttachStart => "disk-attach",
            Self::DetachStart => "disk-detach",
            Self::BackupStart => "backup",
            Self::RestoreStart => "restore",
            Self::Retry => "recover-retry",
            Self::Delete => "recover-delete",
            Self::Recreate => "recover-recreate",
            Self::DeleteDb => "recover-delete-db",
            Self::PrologDone => "prolog-done",
            Self::PrologFailed => "prolog-failed",
            Self::Booted => "booted",
            Self::BootFailed => "boot-failed",
            Self::Saved => "saved",
            Self::StopFailed => "stop-failed",
            Self::HotplugEnd => "hotplug-end",
            Self::BackupEnd => "backup-end",
            Self::RestoreEnd => "restore-end",
            Self::EpilogDone => "epilog-done",
            Self::EpilogFailed => "epilog-failed",
            Self::CleanupDone => "cleanup-done",
            Self::Stopped => "stopped",
            Self::Found => "found",
            Self::Lost => "lost",
        }
    }
}

/// The phase after an event.
///
/// # Errors
/// [`Refusal::WrongState`] naming the action and the state, when the event is not possible in this phase.
pub fn next(phase: VmPhase, event: VmEvent) -> Result<VmPhase, Refusal> {
    let after = match phase.state {
        VmState::Active => from_active(phase.lcm, event),
        state => from_resting(state, event),
    };
    after.ok_or_else(|| Refusal::WrongState { action: event.action().to_owned(), state: phase.name().to_owned() })
}

/// Moves out of every STATE but ACTIVE.
fn from_resting(state: VmState, event: VmEvent) -> Option<VmPhase> {
    use LcmState as L;
    use VmState as S;
    let active = |lcm| Some(VmPhase::active(lcm));
    let resting = |state| Some(VmPhase::resting(state));
    let has_disks = matches!(state, S::Poweroff | S::Suspended | S::Stopped | S::Undeployed);
    let is_new = matches!(state, S::Init | S::Pending | S::Hold | S::Cloning | S::CloningFailure);
    match event {
        VmEvent::Place if matches!(state, S::Pending | S::Hold) => active(L::Prolog),
        VmEvent::Hold if state == S::Pending => resting(S::Hold),
        VmEvent::Release if state == S::Hold => resting(S::Pending),
        VmEvent::Resume if state == S::Poweroff => active(L::BootPoweroff),
        VmEvent::Resume if state == S::Suspended => active(L::BootSuspended),
        VmEvent::Terminate | VmEvent::TerminateHard if has_disks => active(L::Epilog),
        VmEvent::Terminate | VmEvent::TerminateHard if is_new => resting(S::Done),
        VmEvent::Delete if has_disks => active(L::CleanupDelete),
        VmEvent::Delete if is_new => resting(S::Done),
        VmEvent::Recreate if has_disks => active(L::CleanupResubmit),
        VmEvent::DeleteDb if state != S::Done => resting(S::Done),
        VmEvent::AttachStart if state == S::Poweroff => active(L::HotplugPrologPoweroff),
        VmEvent::DetachStart if state == S::Poweroff => active(L::HotplugEpilogPoweroff),
        VmEvent::BackupStart if state == S::Poweroff => active(L::BackupPoweroff),
        VmEvent::RestoreStart if state == S::Poweroff => active(L::Restore),
        // Somebody started it behind our back.
        VmEvent::Found if state == S::Poweroff => active(L::Running),
        VmEvent::Stopped | VmEvent::Found | VmEvent::Lost => resting(state),
        VmEvent::Place
        | VmEvent::Hold
        | VmEvent::Release
        | VmEvent::Poweroff
        | VmEvent::PoweroffHard
        | VmEvent::Suspend
        | VmEvent::Resume
        | VmEvent::Reboot
        | VmEvent::RebootHard
        | VmEvent::Terminate
        | VmEvent::TerminateHard
        | VmEvent::AttachStart
        | VmEvent::DetachStart
        | VmEvent::BackupStart
        | VmEvent::RestoreStart
        | VmEvent::Retry
        | VmEvent::Delete
        | VmEvent::Recreate
        | VmEvent::DeleteDb
        | VmEvent::PrologDone
        | VmEvent::PrologFailed
        | VmEvent::Booted
        | VmEvent::BootFailed
        | VmEvent::Saved
        | VmEvent::StopFailed
        | VmEvent::HotplugEnd
        | VmEvent::BackupEnd
        | VmEvent::RestoreEnd
        | VmEvent::EpilogDone
        | VmEvent::EpilogFailed
        | VmEvent::CleanupDone => None,
    }
}

/// Moves out of ACTIVE. One table, longer than a function should be, so that it can be read in one piece.
fn from_active(lcm: LcmState, event: VmEvent) -> Option<VmPhase> {
    use LcmState as L;
    use VmState as S;
    let active = |lcm| Some(VmPhase::active(lcm));
    let resting = |state| Some(VmPhase::resting(state));
    match (event, lcm) {
        (VmEvent::Poweroff, L::Running | L::Unknown) => active(L::ShutdownPoweroff),
        // Hard also ends a shutdown that the guest ignores.
        (VmEvent::PoweroffHard, L::Running | L::Unknown | L::ShutdownPoweroff) => active(L::ShutdownPoweroff),
        (VmEvent::Suspend, L::Running) => active(L::SaveSuspend),
        (VmEvent::Resume, L::Unknown) => active(L::BootUnknown),
        (VmEvent::Reboot | VmEvent::RebootHard, L::Running) => active(L::Running),
        (VmEvent::Terminate, L::Running | L::Unknown) => active(L::Shutdown),
        (VmEvent::TerminateHard, L::Running | L::Unknown | L::Shutdown | L::ShutdownPoweroff) => active(L::Shutdown),
        (VmEvent::AttachStart | VmEvent::DetachStart, L::Running) => active(L::Hotplug),
        (VmEvent::BackupStart, L::Running) => active(L::Backup),
        (VmEvent::Retry, _) => retried(lcm),
        (VmEvent::Delete, _) if lcm != L::CleanupDelete => active(L::CleanupDelete),
        (VmEvent::Recreate, _) if lcm != L::CleanupDelete && lcm != L::CleanupResubmit => active(L::CleanupResubmit),
        (VmEvent::DeleteDb, _) => resting(S::Done),
        (VmEvent::PrologDone, L::Prolog | L::PrologFailure) => active(L::Boot),
        (VmEvent::PrologFailed, L::Prolog) => active(L::PrologFailure),
        (VmEvent::Booted, _) => booted(lcm),
        (VmEvent::BootFailed, L::Boot) => active(L::BootFailure),
        (VmEvent::BootFailed, L::BootUnknown) => active(L::Unknown),
        (VmEvent::BootFailed, L::BootPoweroff) => resting(S::Poweroff),
        (VmEvent::BootFailed, L::BootSuspended) => resting(S::Suspended),
        (VmEvent::Saved, L::SaveSuspend) => resting(S::Suspended),
        (VmEvent::StopFailed, L::Shutdown | L::ShutdownPoweroff | L::SaveSuspend) => active(L::Running),
        (VmEvent::HotplugEnd, L::Hotplug) => active(L::Running),
        (VmEvent::HotplugEnd, L::HotplugPrologPoweroff | L::HotplugEpilogPoweroff) => resting(S::Poweroff),
        (VmEvent::BackupEnd, L::Backup) => active(L::Running),
        (VmEvent::BackupEnd, L::BackupPoweroff) => resting(S::Poweroff),
        (VmEvent::RestoreEnd, L::Restore) => resting(S::Poweroff),
        (VmEvent::EpilogDone, L::Epilog | L::EpilogFailure) => resting(S::Done),
        (VmEvent::EpilogFailed, L::Epilog) => active(L::EpilogFailure),
        (VmEvent::CleanupDone, L::CleanupDelete) => resting(S::Done),
        (VmEvent::CleanupDone, L::CleanupResubmit) => resting(S::Pending),
        (VmEvent::Stopped | VmEvent::Found | VmEvent::Lost, _) => Some(seen(lcm, event)),
        (
            VmEvent::Place
            | VmEvent::Hold
            | VmEvent::Release
            | VmEvent::Poweroff
            | VmEvent::PoweroffHard
            | VmEvent::Suspend
            | VmEvent::Resume
            | VmEvent::Reboot
            | VmEvent::RebootHard
            | VmEvent::Terminate
            | VmEvent::TerminateHard
            | VmEvent::AttachStart
            | VmEvent::DetachStart
            | VmEvent::BackupStart
            | VmEvent::RestoreStart
            | VmEvent::Delete
            | VmEvent::Recreate
            | VmEvent::PrologDone
            | VmEvent::PrologFailed
            | VmEvent::BootFailed
            | VmEvent::Saved
            | VmEvent::StopFailed
            | VmEvent::HotplugEnd
            | VmEvent::BackupEnd
            | VmEvent::RestoreEnd
            | VmEvent::EpilogDone
            | VmEvent::EpilogFailed
            | VmEvent::CleanupDone,
            _,
        ) => None,
    }
}

/// The step that a failure state came from.
fn retried(lcm: LcmState) -> Option<VmPhase> {
    match lcm {
        LcmState::PrologFailure => Some(VmPhase::active(LcmState::Prolog)),
        LcmState::BootFailure => Some(VmPhase::active(LcmState::Boot)),
        LcmState::EpilogFailure => Some(VmPhase::active(LcmState::Epilog)),
        _ => None,
    }
}

fn booted(lcm: LcmState) -> Option<VmPhase> {
    match lcm {
        LcmState::Boot
        | LcmState::BootFailure
        | LcmState::BootUnknown
        | LcmState::BootPoweroff
        | LcmState::BootSuspended => Some(VmPhase::RUNNING),
        _ => None,
    }
}

/// What monitoring saw. While a driver works (BACKUP, BOOT, HOTPLUG …) its answer decides, and what the next monitoring finds
/// is applied after it; only a shutdown is answered by the guest being off.
fn seen(lcm: LcmState, event: VmEvent) -> VmPhase {
    match (lcm, event) {
        (LcmState::Running | LcmState::Unknown | LcmState::ShutdownPoweroff, VmEvent::Stopped) => VmPhase::POWEROFF,
        (LcmState::Shutdown, VmEvent::Stopped) => VmPhase::active(LcmState::Epilog),
        (LcmState::Unknown, VmEvent::Found) => VmPhase::RUNNING,
        (LcmState::Running, VmEvent::Lost) => VmPhase::active(LcmState::Unknown),
        (lcm, _) => VmPhase::active(lcm),
    }
}
