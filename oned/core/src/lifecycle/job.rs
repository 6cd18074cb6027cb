//! The machine of a backup job: one operation of the engine, from the intent to the last bit of cleaning.
//!
//! ```text
//!   Planned -> Prepared -> Copied -> Sealed -> Recorded -> Cleaned -> Done
//!      |          |           |         |
//!      +----------+-----------+---------+--> Undoing -> Failed | Cancelled      (never after Recorded)
//! ```
//!
//! Each phase says that its effect is complete and stored; progress within a phase is no state.

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobPhase {
    /// The plan is stored; nothing outside is touched.
    Planned,
    /// The hypervisor session is open under the names of the plan.
    Prepared,
    /// All data is in the datastore, under a temporary name.
    Copied,
    /// The restore point is complete and has its final name.
    Sealed,
    /// The cloud knows it: image or increment, pointers, quota, the VM's state.
    Recorded,
    /// Session, scratch files and superseded checkpoints are gone.
    Cleaned,
    /// Nothing is left to do.
    Done,
    /// What was made so far is being taken back.
    Undoing,
    /// Taken back after an error.
    Failed,
    /// Taken back because somebody asked.
    Cancelled,
}

impl JobPhase {
    /// Every phase in order.
    pub const ALL: [Self; 10] = [
        Self::Planned,
        Self::Prepared,
        Self::Copied,
        Self::Sealed,
        Self::Recorded,
        Self::Cleaned,
        Self::Done,
        Self::Undoing,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Prepared => "prepared",
            Self::Copied => "copied",
            Self::Sealed => "sealed",
            Self::Recorded => "recorded",
            Self::Cleaned => "cleaned",
            Self::Done => "done",
            Self::Undoing => "undoing",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether something is left to do.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// Whether the cloud already counts on the restore point, so that there is no way back.
    pub fn is_recorded(self) -> bool {
        matches!(self, Self::Recorded | Self::Cleaned | Self::Done)
    }
}

impl std::str::FromStr for JobPhase {
    type Err = Refusal;

    fn from_str(word: &str) -> Result<Self, Refusal> {
        Self::ALL
            .into_iter()
            .find(|phase| phase.as_str() == word)
            .ok_or_else(|| Refusal::Internal(format!("{word:?} is no phase of a job")))
    }
}

impl std::fmt::Display for JobPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// The session is open.
    Prepare,
    /// The data is copied.
    Copy,
    /// The restore point has its final name.
    Seal,
    /// The transaction that makes it known has been committed with this move.
    Record,
    /// What was needed only for the copy is gone.
    Clean,
    /// The end.
    Finish,
    /// Begin again from the plan (a further attempt).
    Redo,
    /// A sealed restore point of this job was found although the move to Sealed was not stored.
    Adopt,
    /// Take back what was made.
    Undo,
    /// All is taken back, because of an error.
    Fail,
    /// All is taken back, because somebody asked.
    Cancel,
}

impl JobEvent {
    /// Every event.
    pub const ALL: [Self; 11] = [
        Self::Prepare,
        Self::Copy,
        Self::Seal,
        Self::Record,
        Self::Clean,
        Self::Finish,
        Self::Redo,
        Self::Adopt,
        Self::Undo,
        Self::Fail,
        Self::Cancel,
    ];
}

/// The phase after an event.
///
/// # Errors
/// [`Refusal::Internal`]: a move that the picture does not have. It can only come from a defect, never from a user.
pub fn job_next(phase: JobPhase, event: JobEvent) -> Result<JobPhase, Refusal> {
    use JobPhase as P;
    let before_recorded = matches!(phase, P::Planned | P::Prepared | P::Copied | P::Sealed);
    let after = match event {
        JobEvent::Prepare => (phase == P::Planned).then_some(P::Prepared),
        JobEvent::Copy => (phase == P::Prepared).then_some(P::Copied),
        JobEvent::Seal => (phase == P::Copied).then_some(P::Sealed),
        JobEvent::Record => (phase == P::Sealed).then_some(P::Recorded),
        JobEvent::Clean => (phase == P::Recorded).then_some(P::Cleaned),
        JobEvent::Finish => (phase == P::Cleaned).then_some(P::Done),
        JobEvent::Redo => before_recorded.then_some(P::Planned),
        JobEvent::Adopt => before_recorded.then_some(P::Sealed),
        JobEvent::Undo => before_recorded.then_some(P::Undoing),
        JobEvent::Fail => (phase == P::Undoing).then_some(P::Failed),
        JobEvent::Cancel => (phase == P::Undoing).then_some(P::Cancelled),
    };
    after.ok_or_else(|| Refusal::Internal(format!("a job in phase {phase} cannot take the step {event:?}")))
}

/// What decides about a job that is taken up again: what was found outside under the names that follow from it, and what its
/// row says. Whether a session, a checkpoint or the guest itself is still alive is no part of it: a copy that was cut off in
/// the middle cannot be trusted, whoever is alive. The steps of each way remove such things by name, there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// The datastore holds a sealed restore point of this job.
    pub sealed: bool,
    /// Somebody asked to cancel.
    pub cancel: bool,
    /// The plan allows a further attempt.
    pub attempts_left: bool,
}

impl Seen {
    /// Everything that can be seen.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..8_u8).map(|bits| Self { sealed: bits & 4 != 0, cancel: bits & 2 != 0, attempts_left: bits & 1 != 0 })
    }
}

/// What to do with a job that was left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// Go on from the stored phase.
    Resume,
    /// End what is left of the session and begin again from the plan.
    Redo,
    /// Go on from Sealed with what was found.
    AdoptSealed,
    /// Take everything back.
    Undo,
}

/// Decides how a job goes on after a crash, a restart, a lost connection or any other failure. In this order:
///
/// 1. *Recorded* and later only go forward (closed jobs have nothing left to do); *Undoing* is carried through, for it may
///    have removed a part already;
/// 2. a sealed restore point is adopted, even when a cancel came too late to prevent it: it is complete, and to have it
///    harms nobody;
/// 3. a cancel is obeyed;
/// 4. nothing sealed: begin again while attempts are left, else take back.
pub fn recover(phase: JobPhase, seen: Seen) -> Recovery {
    match phase {
        JobPhase::Recorded | JobPhase::Cleaned | JobPhase::Done | JobPhase::Failed | JobPhase::Cancelled => {
            Recovery::Resume
        }
        JobPhase::Undoing => Recovery::Undo,
        JobPhase::Planned | JobPhase::Prepared | JobPhase::Copied | JobPhase::Sealed => {
            match (seen.sealed, seen.cancel, seen.attempts_left) {
                (true, _, _) => Recovery::AdoptSealed,
                (false, true, _) => Recovery::Undo,
                (false, false, true) => Recovery::Redo,
                (false, false, false) => Recovery::Undo,
            }
        }
    }
}
