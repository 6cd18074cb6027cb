//! Waiting for a file lock that others hold: it has an end, it shows, and it can be ended early.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::{Cancel, DriverError, Kind, Progress, Result};

/// How often a lock that is taken is asked for again.
const POLL: Duration = Duration::from_millis(50);

/// How long to wait, where the wait shows, and what ends it early.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    pub(crate) wait: Duration,
    pub(crate) progress: &'a Progress,
    pub(crate) cancel: &'a Cancel,
}

impl Patience<'_> {
    /// When a wait that begins now ends.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.wait
    }

    /// Takes a `flock` on `file`, whose holders are called `busy`; it is held as long as the file is open. Does not look at
    /// the cancel where nobody holds it.
    ///
    /// # Errors
    /// [`Kind::Retry`] when others hold it at the deadline; a cancel.
    pub(crate) fn lock(&self, file: &File, exclusive: bool, deadline: Instant, doing: &str, busy: &str) -> Result<()> {
        let how =
            if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
        loop {
            match flock(file, how) {
                Ok(()) => return Ok(()),
                // Servers of shares say the second.
                Err(Errno::WOULDBLOCK | Errno::ACCESS | Errno::INTR) => {}
                Err(errno) => return Err(DriverError::io(doing, errno.into())),
            }
            self.cancel.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = format!("{busy} has used it for the last {} s; try again later", self.wait.as_secs());
                return Err(DriverError::new(Kind::Retry, doing, reason));
            }
            std::thread::sleep(POLL.min(left));
            self.progress.beat();
        }
    }
}
