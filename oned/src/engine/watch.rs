//! What is looked at again and again beside a copy: the room for its scratch files, and whether it heeds its cancel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drivers::hypervisor::BackupSpec;
use drivers::{Cancel, Hypervisor};

/// How often the scratch files' disk is looked at.
const SCRATCH_PERIOD: Duration = Duration::from_millis(500);

/// How long a copy may take to end by itself once it was cancelled. Who cancels is promised an end within two seconds.
const GRACE: Duration = Duration::from_secs(1);

/// How often the cancel is looked at.
const CANCEL_PERIOD: Duration = Duration::from_millis(100);

/// A thread that looks at something until it has intervened, or until [`Self::stop`].
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<bool>>,
}

impl Watch {
    /// Gives a copy up before the file systems of `places` are full: cancels it when one has less than `reserve_bytes` left.
    /// What the guest overwrites while it is backed up is kept beside its disks, and QEMU would pause it.
    pub(super) fn room(places: Vec<PathBuf>, reserve_bytes: u64, cancel: &Cancel) -> Self {
        let cancel = cancel.clone();
        Self::start("scratch", SCRATCH_PERIOD, move || {
            let full = places.iter().any(|place| free_bytes(place).is_some_and(|free| free < reserve_bytes));
            if full {
                cancel.cancel();
            }
            full
        })
    }

    /// Takes the point in time away from a copy that was cancelled and goes on all the same, because the source of its bytes
    /// stands still: its reads fail then.
    pub(super) fn cancel(hypervisor: &Arc<dyn Hypervisor>, spec: &BackupSpec, cancel: &Cancel) -> Self {
        let (hypervisor, spec, cancel) = (Arc::clone(hypervisor), spec.clone(), cancel.clone());
        let mut since: Option<Instant> = None;
        Self::start("source-cut", CANCEL_PERIOD, move || {
            let late = cancel.is_cancelled() && since.get_or_insert_with(Instant::now).elapsed() >= GRACE;
            if late && let Err(error) = hypervisor.abandon_backup(&spec) {
                // Whoever ends the job tries again.
                tracing::warn!(target: "ONE", "The copy of {} does not end: {error}", spec.domain);
            }
            late
        })
    }

    /// Calls `intervenes` every `period` until it says that it did.
    fn start(name: &str, period: Duration, mut intervenes: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                if intervenes() {
                    return true;
                }
                std::thread::park_timeout(period);
            }
            false
        });
        Self { stop, thread: thread.ok() }
    }

    /// Ends the watch, which touches nothing any more afterwards; whether it has intervened.
    pub(super) fn stop(mut self) -> bool {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return false };
        thread.thread().unpark();
        thread.join().unwrap_or(false)
    }
}

/// Bytes that are free for the daemon in the file system of `place`.
pub(super) fn free_bytes(place: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(place).ok()?;
    facts.f_bavail.checked_mul(facts.f_frsize)
}
