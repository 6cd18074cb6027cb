//! Threads that share the work of one operation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Sender, bounded};

use crate::{DriverError, Kind, Result};

/// Hands out work.
pub(super) struct Crew<'a, J> {
    jobs: Sender<J>,
    failed: &'a AtomicBool,
}

impl<J> Crew<'_, J> {
    /// Gives one piece of work, waiting while all are busy.
    ///
    /// # Errors
    /// When one of the threads failed; [`run`] then returns its error.
    pub(super) fn give(&self, job: J) -> Result<()> {
        if self.is_failed() || self.jobs.send(job).is_err() { Err(ended()) } else { Ok(()) }
    }

    /// Whether one of the threads failed.
    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

/// Stands for the error of another thread.
pub(super) fn ended() -> DriverError {
    DriverError::new(Kind::Permanent, "moving data", "another thread failed")
}

/// Runs `body` with `threads` threads that do `work` for it; returns when all of it is done.
///
/// # Errors
/// The first one of a thread, or the one of `body`.
pub(super) fn run<J: Send, T>(
    threads: usize,
    work: impl Fn(J) -> Result<()> + Sync,
    body: impl FnOnce(&Crew<'_, J>) -> Result<T>,
) -> Result<T> {
    let failed = AtomicBool::new(false);
    let first: Mutex<Option<DriverError>> = Mutex::new(None);
    let value = std::thread::scope(|scope| {
        let (jobs, queue) = bounded::<J>(2 * threads);
        let crew = Crew { jobs, failed: &failed };
        for _ in 0..threads {
            let (queue, work, failed, first) = (queue.clone(), &work, &failed, &first);
            let hand = move || {
                let _mark = MarkPanic(failed);
                // What is queued is taken and dropped after a failure, so that nobody waits for ever.
                for job in queue {
                    if failed.load(Ordering::Acquire) {
                        continue;
                    }
                    if let Err(error) = work(job) {
                        first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        failed.store(true, Ordering::Release);
                    }
                }
            };
            std::thread::Builder::new()
                .name("nfs-store".to_owned())
                .spawn_scoped(scope, hand)
                .map_err(|error| DriverError::io("starting a thread", error))?;
        }
        let value = body(&crew);
        if value.is_err() {
            failed.store(true, Ordering::Release);
        }
        drop(crew);
        value
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => value.and_then(|value| if failed.into_inner() { Err(ended()) } else { Ok(value) }),
    }
}

/// Makes a panic of a thread fail the operation.
struct MarkPanic<'a>(&'a AtomicBool);

impl Drop for MarkPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}
