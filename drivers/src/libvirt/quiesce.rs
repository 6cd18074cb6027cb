//! Quieting the guest around the instant of a backup, and above all ending that.
//!
//! Invariant: whatever happens to the backup, the guest is let go at most one freeze time-out after it was stopped. A
//! guard thread does so while the backup's own call hangs. A freeze that libvirt gave up waiting for may still reach the
//! guest when its agent wakes, so thawing goes on in the background until the agent has answered once: it handles
//! commands in order.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::sys;

use super::{code, ffi, sibling};
use crate::hypervisor::{BackupSpec, DomainState, Freeze};

/// For how long thawing is tried after the agent stopped answering.
const THAW_FOR: Duration = Duration::from_secs(15 * 60);

/// File beside the socket that says that we suspended the guest, for whoever cleans up after us.
pub(super) fn suspend_mark(socket: &Path) -> PathBuf {
    sibling(socket, ".suspended")
}

/// A guest that is held; [`Self::release`] lets it go. Dropping it does too.
pub(super) struct Quiet {
    domain: Domain,
    how: Freeze,
    mark: PathBuf,
    guard: Option<Guard>,
}

impl Quiet {
    /// Quiets the guest as `spec` wants. What does not work becomes a warning, never an error.
    pub(super) fn begin(domain: &Domain, spec: &BackupSpec, state: DomainState, warnings: &mut Vec<String>) -> Self {
        let mark = suspend_mark(&spec.socket);
        let mut quiet = Self { domain: domain.clone(), how: Freeze::None, mark, guard: None };
        let outcome = match spec.freeze {
            Freeze::None => return quiet,
            // A suspended guest is as quiet as Suspend can make it.
            Freeze::Suspend if state != DomainState::Running => return quiet,
            Freeze::Agent if state != DomainState::Running => Err("the guest is paused".to_owned()),
            Freeze::Agent => quiet.freeze(spec.freeze_timeout),
            Freeze::Suspend => quiet.suspend(spec.freeze_timeout),
        };
        if let Err(reason) = outcome {
            warnings.push(format!(
                "domain {} could not be quieted ({reason}); the backup is crash-consistent",
                spec.domain
            ));
        }
        quiet
    }

    fn freeze(&mut self, limit: Duration) -> Result<(), String> {
        let start = Instant::now();
        limit_agent(&self.domain, limit);
        match ffi::freeze(&self.domain) {
            Ok(_) => {
                self.how = Freeze::Agent;
                let domain = self.domain.clone();
                self.guard = Guard::set(remaining(start, limit), move || {
                    thaw_or_keep_trying(&domain);
                });
                self.guarded()
            }
            Err(error) => {
                // "Not connected" means that nothing was sent; everything else may have left a freeze in the queue.
                if code(&error) == sys::VIR_ERR_AGENT_UNRESPONSIVE && !error.message().contains("not connected") {
                    keep_thawing(self.domain.clone());
                } else {
                    drop(ffi::thaw(&self.domain));
                }
                Err(error.message().to_owned())
            }
        }
    }

    fn suspend(&mut self, limit: Duration) -> Result<(), String> {
        std::fs::write(&self.mark, b"").map_err(|error| error.to_string())?;
        if let Err(error) = self.domain.suspend() {
            drop(std::fs::remove_file(&self.mark));
            return Err(error.message().to_owned());
        }
        self.how = Freeze::Suspend;
        let domain = self.domain.clone();
        self.guard = Guard::set(limit, move || resume(&domain));
        self.guarded()
    }

    /// Without a guard the guest is not held at all.
    fn guarded(&mut self) -> Result<(), String> {
        if self.guard.is_some() {
            return Ok(());
        }
        self.undo();
        Err("no thread could be started to guard it".into())
    }

    /// Lets the guest go on. A warning when it had to be let go before the backup had begun.
    pub(super) fn release(mut self, warnings: &mut Vec<String>) {
        if self.undo() {
            warnings.push("the guest had to be let go before the point in time; the backup is crash-consistent".into());
        }
    }

    /// Whether the guard was faster.
    fn undo(&mut self) -> bool {
        let how = std::mem::replace(&mut self.how, Freeze::None);
        let early = self.guard.take().is_some_and(Guard::end);
        match how {
            Freeze::None => {}
            Freeze::Agent => thaw_or_keep_trying(&self.domain),
            Freeze::Suspend => {
                resume(&self.domain);
                drop(std::fs::remove_file(&self.mark));
            }
        }
        early
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.undo();
    }
}

fn remaining(start: Instant, limit: Duration) -> Duration {
    limit.saturating_sub(start.elapsed()).max(Duration::from_millis(500))
}

/// Bounds each wait for the agent. libvirt keeps the value for the domain's run time, which is as well: its default is to
/// wait for ever.
fn limit_agent(domain: &Domain, limit: Duration) {
    let seconds = i32::try_from(limit.as_secs().clamp(1, 3600)).unwrap_or(3600);
    if let Err(error) = ffi::set_agent_timeout(domain, seconds) {
        tracing::warn!(error = error.message(), "the guest agent's time-out could not be set");
    }
}

fn resume(domain: &Domain) {
    if let Err(error) = domain.resume() {
        tracing::error!(error = error.message(), "a guest that we suspended could not be resumed");
    }
}

/// Thaws once if the agent is there at all; for a daemon that does not know what its predecessor did.
pub(super) fn thaw_if_possible(domain: &Domain, limit: Duration) {
    limit_agent(domain, limit);
    match ffi::thaw(domain) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "thawed file systems that were left frozen"),
        Err(error) if error.message().contains("not connected") => {}
        Err(error) => {
            tracing::debug!(error = error.message(), "no thaw");
            if code(&error) == sys::VIR_ERR_AGENT_UNRESPONSIVE {
                keep_thawing(domain.clone());
            }
        }
    }
}

fn thaw_or_keep_trying(domain: &Domain) {
    if let Err(error) = ffi::thaw(domain) {
        tracing::warn!(error = error.message(), "the guest could not be thawed yet; trying on");
        keep_thawing(domain.clone());
    }
}

/// Thaws in the background until it worked once, the domain is off, or [`THAW_FOR`] has passed.
fn keep_thawing(domain: Domain) {
    let spawned = std::thread::Builder::new().name("thaw".into()).spawn(move || {
        let end = Instant::now() + THAW_FOR;
        let mut pause = Duration::from_secs(1);
        while Instant::now() < end {
            match ffi::thaw(&domain) {
                Ok(count) => return tracing::info!(count, "the guest agent answered and thawed"),
                Err(_) if !domain.is_active().unwrap_or(true) => return,
                Err(error) => tracing::debug!(error = error.message(), "still not thawed"),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        tracing::error!("the guest agent did not answer; its file systems may be frozen: try `virsh domfsthaw`");
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for thawing");
    }
}

/// A thread that undoes something unless it is told in time that this was done.
struct Guard {
    stop: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Guard {
    /// None when there is no thread to be had.
    fn set(limit: Duration, undo: impl FnOnce() + Send + 'static) -> Option<Self> {
        let (stop, stopped) = channel();
        let spawned = std::thread::Builder::new().name("quiesce-guard".into()).spawn(move || {
            let late = stopped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late {
                undo();
            }
            late
        });
        match spawned {
            Ok(thread) => Some(Self { stop, thread }),
            Err(error) => {
                tracing::error!(%error, "no thread to guard the quieted guest");
                None
            }
        }
    }

    /// Whether it had to act.
    fn end(self) -> bool {
        drop(self.stop);
        self.thread.join().unwrap_or(false)
    }
}
