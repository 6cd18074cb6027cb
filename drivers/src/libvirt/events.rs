//! libvirt's event loop and who is told of events.
//!
//! libvirt runs keep-alive and events on a loop that the program provides; its default loop must be registered before the
//! first connection is opened and run on a thread for the rest of the process. Callbacks come on that thread, so they
//! only put a message into channels.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::ffi::Listener;
use crate::hypervisor::DomainEvent;
use crate::{DriverError, Kind, Result};

/// Prepares libvirt's client library: silences its printing of errors and starts the event loop. May be called any number
/// of times, and needs not be: [`super::Libvirt::connect`] does it. The process's first call must come before any
/// other use of libvirt.
///
/// # Errors
/// When the event loop cannot be started.
pub fn initialise() -> Result<()> {
    static STARTED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    STARTED
        .get_or_init(start)
        .clone()
        .map_err(|reason| DriverError::new(Kind::Permanent, "starting libvirt's event loop", reason))
}

fn start() -> std::result::Result<(), String> {
    virt::error::clear_error_callback();
    virt::event::event_register_default_impl().map_err(|error| error.message().to_owned())?;
    std::thread::Builder::new()
        .name("libvirt-events".into())
        .spawn(|| {
            loop {
                if let Err(error) = virt::event::event_run_default_impl() {
                    tracing::warn!(error = error.message(), "libvirt's event loop stumbled");
                    // A loop that fails at once must not burn a processor.
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        })
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The sinks of all subscribers; outlives connections.
#[derive(Default)]
pub(super) struct Hub {
    sinks: Mutex<Vec<Sender<DomainEvent>>>,
    lost: Mutex<Option<Sender<()>>>,
}

impl Hub {
    pub(super) fn add(&self, sink: Sender<DomainEvent>) {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    /// Whoever is to open a new connection gets a message when the present one is lost.
    pub(super) fn watch_loss(&self, sender: Sender<()>) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// Tells all subscribers and forgets those that went away.
    pub(super) fn send(&self, event: &DomainEvent) {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|sink| sink.send(event.clone()).is_ok());
    }
}

impl Listener for Hub {
    fn changed(&self, domain: String) {
        self.send(&DomainEvent::Changed { domain });
    }

    fn closed(&self) {
        self.send(&DomainEvent::Disconnected);
        if let Some(lost) = self.lost.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // Nobody waits for it only when the driver itself is gone.
            let _ = lost.send(());
        }
    }
}
