//! The end of a copy that does not heed its cancel, because the source of its bytes stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drivers::hypervisor::BackupSpec;
use drivers::{Cancel, Hypervisor};

/// How long a copy may take to end by itself once it was cancelled. Who cancels is promised an end within two seconds.
const GRACE: Duration = Duration::from_secs(1);

/// How often the cancel is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// Takes the point in time away from a copy that was cancelled and goes on all the same: its reads fail then.
pub(super) struct SourceCut {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SourceCut {
    /// Watches `cancel` until [`Self::stop`].
    pub(super) fn start(hypervisor: &Arc<dyn Hypervisor>, spec: &BackupSpec, cancel: &Cancel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, hypervisor, spec, cancel) =
            (Arc::clone(&stop), Arc::clone(hypervisor), spec.clone(), cancel.clone());
        let thread = std::thread::Builder::new().name("source-cut".into()).spawn(move || {
            let mut since: Option<Instant> = None;
            while !stopped.load(Ordering::Acquire) {
                if cancel.is_cancelled() && since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                    if let Err(error) = hypervisor.abandon_backup(&spec) {
                        // Whoever ends the job tries again.
                        tracing::warn!(target: "ONE", "The copy of {} does not end: {error}", spec.domain);
                    }
                    return;
                }
                std::thread::park_timeout(PERIOD);
            }
        });
        Self { stop, thread: thread.ok() }
    }

    /// Ends the watch; the point in time is touched no more afterwards.
    pub(super) fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends of itself; a panic in it is in the log.
            let _ = thread.join();
        }
    }
}
