//! The watch over scratch files: what the guest overwrites while its backup runs is kept beside its disks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drivers::Cancel;

/// How often the scratch files' disk is looked at.
const SCRATCH_PERIOD: Duration = Duration::from_millis(500);

/// Gives a backup up before the guest's own writes fill the disk of the scratch files: QEMU would pause the guest.
pub(super) struct ScratchWatch {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<bool>>,
}

impl ScratchWatch {
    /// Watches the file systems of `places` until [`Self::stop`]; cancels when one has less than `reserve_bytes` left.
    pub(super) fn start(places: Vec<PathBuf>, reserve_bytes: u64, cancel: &Cancel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, cancel) = (Arc::clone(&stop), cancel.clone());
        let thread = std::thread::Builder::new().name("scratch".into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                if places.iter().any(|place| free_bytes(place).is_some_and(|free| free < reserve_bytes)) {
                    cancel.cancel();
                    return true;
                }
                std::thread::park_timeout(SCRATCH_PERIOD);
            }
            false
        });
        Self { stop, thread: thread.ok() }
    }

    /// Ends the watch; whether it gave the backup up.
    pub(super) fn stop(mut self) -> bool {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return false };
        thread.thread().unpark();
        thread.join().unwrap_or(false)
    }
}

pub(super) fn free_bytes(place: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(place).ok()?;
    facts.f_bavail.checked_mul(facts.f_frsize)
}
