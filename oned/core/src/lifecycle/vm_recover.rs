//! What `onevm recover` does: for each operation and each phase, the event to apply and what becomes of the VM's jobs.
//!
//! A pure decision. It neither ends a job nor moves a VM; whoever does both does so in one transaction.

use super::actions::number;
use super::event::VmEvent;
use super::moves;
use super::operations::VmOperation;
use super::states::{LcmState, VmState};
use super::vm::{VmPhase, driver_answers, next};
use crate::refusal::Refusal;

/// What recovery is asked for; the numbers are those of `one.vm.recover`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecoverOperation {
    /// 0: what the VM waits for has failed.
    Failure,
    /// 1: what the VM waits for has been done by hand.
    Success,
    /// 2: try it again.
    Retry,
    /// 3: remove the VM.
    Delete,
    /// 4: remove what there is of it, begin anew.
    Recreate,
    /// 5: end the record, touch nothing.
    DeleteDb,
}

impl RecoverOperation {
    /// Every operation, by number.
    pub const ALL: [Self; 6] =
        [Self::Failure, Self::Success, Self::Retry, Self::Delete, Self::Recreate, Self::DeleteDb];

    /// The operation with this number.
    ///
    /// # Errors
    /// [`Refusal::RecoverOperation`] for any other number.
    pub fn from_number(number: i64) -> Result<Self, Refusal> {
        let found = usize::try_from(number).ok().and_then(|index| Self::ALL.get(index).copied());
        found.ok_or(Refusal::RecoverOperation)
    }

    /// The word of the command's option.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Success => "success",
            Self::Retry => "retry",
            Self::Delete => "delete",
            Self::Recreate => "recreate",
            Self::DeleteDb => "delete-db",
        }
    }

    /// The operation list that rules it.
    pub fn operation(self) -> VmOperation {
        match self {
            Self::Failure | Self::Success => VmOperation::Recover,
            Self::Retry => VmOperation::Retry,
            Self::Delete | Self::Recreate | Self::DeleteDb => VmOperation::Delete,
        }
    }

    /// ACTION in the history record.
    pub fn history(self) -> i64 {
        match self {
            Self::Failure | Self::Success => number::RECOVER,
            Self::Retry => number::RETRY,
            Self::Delete | Self::DeleteDb => number::DELETE,
            Self::Recreate => number::DELETE_RECREATE,
        }
    }
}

/// What becomes of the VM's open jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenJobs {
    /// They are left alone.
    Leave,
    /// They are to be cancelled, and the event is applied at once.
    Cancel,
    /// They are to be cancelled; a job that is open takes back (or completes) what it made and gives the event itself.
    /// The caller applies the event only when no job is open.
    CancelAndAwait,
}

/// What to do for one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecoverAction {
    /// The event to apply; none: the phase stays. Without a job either nothing is to be done, and the call succeeds, as
    /// OpenNebula's does.
    pub event: Option<VmEvent>,
    /// What becomes of the open jobs.
    pub jobs: OpenJobs,
    /// The phase after the event needs a job: the step again, the next one, or the clearing away. A job for it that is open
    /// and not asked to cancel will do.
    pub starts_job: bool,
    /// The VM goes back to the host of its history record before the last one: its migration is given up.
    pub to_previous_host: bool,
}

impl RecoverAction {
    const NOTHING: Self = Self { event: None, jobs: OpenJobs::Leave, starts_job: false, to_previous_host: false };

    fn event(event: VmEvent, jobs: OpenJobs) -> Self {
        Self { event: Some(event), jobs, ..Self::NOTHING }
    }
}

/// What an operation does to a VM in this phase.
///
/// * *failure*, *success*: the answer of the driver that is awaited; its job is cancelled. Backups and restores give it
///   themselves, for only they know what is complete. A failure state takes success as if the step had worked; failure
///   gives a migration up and leaves the others as they are. UNKNOWN runs again.
/// * *retry*: a failed or hanging step from its beginning.
/// * *delete*, *recreate*, *delete-db*: from everywhere that the machine allows; every job is cancelled.
///
/// # Errors
/// [`Refusal::RecoverState`] where OpenNebula refuses: the first three on a VM that rests, and DONE.
pub fn recover_action(phase: VmPhase, operation: RecoverOperation) -> Result<RecoverAction, Refusal> {
    let action = match operation {
        RecoverOperation::Failure => answered(phase, false),
        RecoverOperation::Success => answered(phase, true),
        RecoverOperation::Retry => retried(phase),
        RecoverOperation::Delete => removed(phase, VmEvent::Delete, LcmState::CleanupDelete),
        RecoverOperation::Recreate => removed(phase, VmEvent::Recreate, LcmState::CleanupResubmit),
        RecoverOperation::DeleteDb => {
            (phase != VmPhase::DONE).then_some(RecoverAction::event(VmEvent::DeleteDb, OpenJobs::Cancel))
        }
    };
    action.ok_or_else(|| Refusal::RecoverState { operation: operation.word().to_owned(), phase })
}

fn answered(phase: VmPhase, success: bool) -> Option<RecoverAction> {
    if let Some((done, failed)) = driver_answers(phase) {
        let event = if success { done } else { failed };
        let jobs = match event {
            VmEvent::BackupEnd | VmEvent::RestoreEnd => OpenJobs::CancelAndAwait,
            _ => OpenJobs::Cancel,
        };
        return Some(continued(phase, RecoverAction::event(event, jobs)));
    }
    match phase.state {
        VmState::Active => Some(continued(phase, answered_without_driver(phase, success))),
        VmState::CloningFailure if success => Some(RecoverAction::event(VmEvent::CloneDone, OpenJobs::Leave)),
        VmState::CloningFailure => Some(RecoverAction::NOTHING),
        VmState::Init
        | VmState::Pending
        | VmState::Hold
        | VmState::Cloning
        | VmState::Stopped
        | VmState::Suspended
        | VmState::Done
        | VmState::Poweroff
        | VmState::Undeployed => None,
    }
}

/// ACTIVE, and no driver is at work.
fn answered_without_driver(phase: VmPhase, success: bool) -> RecoverAction {
    if phase.lcm == LcmState::Unknown {
        return RecoverAction::event(VmEvent::Found, OpenJobs::Leave);
    }
    let step = moves::RETRY.iter().find(|(failure, _)| *failure == phase).map(|(_, step)| *step);
    match step.and_then(driver_answers) {
        Some((done, _)) if success => RecoverAction::event(done, OpenJobs::Leave),
        // The disks are still complete where they were.
        Some((done, _)) if is_failed_migration(phase.lcm) => {
            RecoverAction { to_previous_host: true, ..RecoverAction::event(done, OpenJobs::Leave) }
        }
        Some(_) | None => RecoverAction::NOTHING,
    }
}

fn is_failed_migration(lcm: LcmState) -> bool {
    matches!(
        lcm,
        LcmState::PrologMigrateFailure
            | LcmState::PrologMigratePoweroffFailure
            | LcmState::PrologMigrateSuspendFailure
            | LcmState::PrologMigrateUnknownFailure
    )
}

/// The answer of one step may begin the next one, which needs a job of its own.
fn continued(phase: VmPhase, action: RecoverAction) -> RecoverAction {
    let to = action.event.and_then(|event| next(phase, event).ok());
    RecoverAction { starts_job: to.is_some_and(|to| driver_answers(to).is_some()), ..action }
}

fn retried(phase: VmPhase) -> Option<RecoverAction> {
    match phase.state {
        VmState::Active if next(phase, VmEvent::Retry).is_ok() => {
            let action = RecoverAction::event(VmEvent::Retry, OpenJobs::Leave);
            Some(RecoverAction { starts_job: true, ..action })
        }
        // The phase stays; only its work is begun again, if nobody is at it.
        VmState::Active => Some(RecoverAction { starts_job: can_hang(phase), ..RecoverAction::NOTHING }),
        VmState::Init
        | VmState::Pending
        | VmState::Hold
        | VmState::Cloning
        | VmState::CloningFailure
        | VmState::Stopped
        | VmState::Suspended
        | VmState::Done
        | VmState::Poweroff
        | VmState::Undeployed => None,
    }
}

/// Whether the step can be begun again where it stands. Changes, backups and restores cannot: half of them may be done.
fn can_hang(phase: VmPhase) -> bool {
    driver_answers(phase).is_some_and(|(done, _)| {
        matches!(
            done,
            VmEvent::PrologDone
                | VmEvent::Booted
                | VmEvent::MigrateDone
                | VmEvent::Saved
                | VmEvent::Stopped
                | VmEvent::EpilogDone
        )
    })
}

/// Delete or recreate. Where the clearing away hangs already, asking again ends the wait for it.
fn removed(phase: VmPhase, event: VmEvent, clearing: LcmState) -> Option<RecoverAction> {
    if phase == VmPhase::active(clearing) {
        return Some(RecoverAction::event(VmEvent::CleanupDone, OpenJobs::Cancel));
    }
    let to = next(phase, event).ok()?;
    if to == phase {
        // Nothing of it exists yet, so it begins anew anyhow; what it waits for goes on.
        return Some(RecoverAction::NOTHING);
    }
    let action = RecoverAction::event(event, OpenJobs::Cancel);
    Some(RecoverAction { starts_job: to.state == VmState::Active, ..action })
}
