//! Examining the installation: what was seen, what it means and what to do. Between api and engine: the engine gathers facts
//! ([`facts`]), [`judge`] makes findings of them, the api shows those to administrators.
//!
//! What it is not: the looking itself, which reaches outside and is the engine's. No fact and no finding holds a secret.

pub mod facts;
mod judge;

use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

pub use facts::Fact;
pub use judge::judge;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, but not well, or not for long.
    Warning,
    /// Something does not work, or anybody may read a secret.
    Failure,
}

impl Outcome {
    /// As documents have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing it is.
    pub name: &'static str,
    /// Which one; empty when there is only one.
    pub subject: String,
    /// How bad it is.
    pub outcome: Outcome,
    /// What was seen.
    pub text: String,
    /// What to do; empty when it is [`Outcome::Ok`].
    pub remedy: String,
}

/// Looks at everything; none when the engine is gone.
type Examiner = Box<dyn Fn() -> Option<Vec<Fact>> + Send + Sync>;

/// Where the api asks for an examination and the engine's loop shows that it lives.
#[derive(Default)]
pub struct Desk {
    examiner: OnceLock<Examiner>,
    busy: Mutex<()>,
    round: Mutex<Option<Instant>>,
}

impl Desk {
    /// Says who looks; the first one counts.
    pub fn install(&self, examiner: impl Fn() -> Option<Vec<Fact>> + Send + Sync + 'static) {
        drop(self.examiner.set(Box::new(examiner)));
    }

    /// A round of scheduler and engine was begun.
    pub fn beat(&self) {
        *self.round.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago the last round was begun; none = there was none yet.
    #[must_use]
    pub fn since_round(&self) -> Option<Duration> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner).map(|round| round.elapsed())
    }

    /// Has everything looked at. Takes as long as the engine allows, some 25 s at most.
    ///
    /// # Errors
    /// A sentence, when another examination is under way or the engine is not there.
    pub fn examine(&self) -> Result<Vec<Fact>, &'static str> {
        let _alone = match self.busy.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err("Another examination is under way; ask again in half a minute.");
            }
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Ok(alone) => alone,
        };
        let facts = self.examiner.get().and_then(|examiner| examiner());
        facts.ok_or("The daemon is just starting or ending; ask again in a moment.")
    }
}

#[cfg(test)]
mod judge_tests;
