//! Quieting the guest around the instant of a backup, and above all ending that.
//!
//! Invariant: whatever happens to the backup, the guest is let go at most one freeze time-out after it was stopped. A
//! guard thread does so while the backup's own call hangs. A freeze that libvirt gave up waiting for may still reach the
//! guest when its agent wakes, so thawing goes on in the background until the agent has answered once: it handles
//! commands in order. What cannot be done because libvirtd is away goes on in the background too, over a new connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::sys;

use super::connection::Connection;
use super::{code, domain_state, ffi, remove_file, sibling};
use crate::Result;
use crate::hypervisor::{BackupSpec, DomainState, Freeze};

/// For how long thawing is tried after the agent stopped answering, and resuming after libvirtd did.
const TRY_FOR: Duration = Duration::from_secs(15 * 60);
/// How long each of these attempts waits for the agent.
const AGENT_WITHIN: Duration = Duration::from_secs(10);

/// File beside the socket that says that we suspended the guest, for whoever cleans up after us.
pub(super) fn suspend_mark(socket: &Path) -> PathBuf {
    sibling(socket, ".suspended")
}

/// A guest, by a name that holds also when libvirtd was restarted and the domain's handle is of no use any more.
#[derive(Clone)]
struct Guest {
    connection: Arc<Connection>,
    name: String,
    domain: Domain,
}

/// A guest that is held; [`Self::release`] lets it go. Dropping it does too.
pub(super) struct Quiet {
    guest: Guest,
    how: Freeze,
    /// How many file systems the agent froze.
    frozen: i32,
    mark: PathBuf,
    guard: Option<Guard>,
}

impl Quiet {
    /// Quiets the guest as `spec` wants. What does not work becomes a warning.
    ///
    /// # Errors
    /// The same as an error, when `spec` demands a quiet guest; it is not held then.
    pub(super) fn begin(
        connection: &Arc<Connection>,
        domain: &Domain,
        spec: &BackupSpec,
        state: DomainState,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let guest = Guest { connection: Arc::clone(connection), name: spec.domain.clone(), domain: domain.clone() };
        let mut quiet = Self { guest, how: Freeze::None, frozen: 0, mark: suspend_mark(&spec.socket), guard: None };
        let outcome = match spec.freeze {
            Freeze::None => return Ok(quiet),
            // A suspended guest is as quiet as Suspend can make it.
            Freeze::Suspend if state != DomainState::Running => return Ok(quiet),
            Freeze::Agent if state != DomainState::Running => Err("the guest is paused".to_owned()),
            Freeze::Agent => quiet.freeze(spec.freeze_timeout),
            Freeze::Suspend => quiet.suspend(spec.freeze_timeout),
        };
        if let Err(reason) = outcome {
            warnings.push(spec.not_quiet(&reason)?);
        }
        Ok(quiet)
    }

    fn freeze(&mut self, limit: Duration) -> std::result::Result<(), String> {
        let start = Instant::now();
        let domain = &self.guest.domain;
        limit_agent(domain, limit);
        match ffi::freeze(domain) {
            Ok(count) => {
                (self.how, self.frozen) = (Freeze::Agent, count);
                let guest = self.guest.clone();
                self.guard = Guard::set(remaining(start, limit), move || {
                    guest.thaw_or_keep_trying();
                });
                self.guarded()
            }
            Err(error) => {
                // "Not connected" means that nothing was sent; everything else may have left a freeze in the queue.
                let is_silent = code(&error) == sys::VIR_ERR_AGENT_UNRESPONSIVE;
                if is_silent && !error.message().contains("not connected") {
                    self.guest.clone().keep_thawing();
                } else if !is_silent {
                    self.guest.thaw_or_keep_trying_if_lost();
                }
                Err(error.message().to_owned())
            }
        }
    }

    fn suspend(&mut self, limit: Duration) -> std::result::Result<(), String> {
        std::fs::write(&self.mark, b"").map_err(|error| error.to_string())?;
        self.how = Freeze::Suspend;
        if let Err(error) = self.guest.domain.suspend() {
            // The answer alone may have been lost.
            self.undo();
            return Err(error.message().to_owned());
        }
        let guest = self.guest.clone();
        self.guard = Guard::set(limit, move || {
            resumed(&guest.domain);
        });
        self.guarded()
    }

    /// Without a guard the guest is not held at all.
    fn guarded(&mut self) -> std::result::Result<(), String> {
        if self.guard.is_some() {
            return Ok(());
        }
        self.undo();
        Err("no thread could be started to guard it".into())
    }

    /// Lets the guest go on. A warning when it had to be let go before the backup had begun.
    ///
    /// # Errors
    /// The same as an error, when `spec` demands a quiet guest.
    pub(super) fn release(mut self, spec: &BackupSpec, warnings: &mut Vec<String>) -> Result<()> {
        if self.undo() {
            warnings.push(spec.not_quiet("it had to be let go before the point in time")?);
        }
        Ok(())
    }

    /// Whether somebody was faster.
    fn undo(&mut self) -> bool {
        let how = std::mem::replace(&mut self.how, Freeze::None);
        let early = self.guard.take().is_some_and(Guard::end);
        match how {
            Freeze::None => early,
            // None left to thaw: somebody else has done it, perhaps a thaw that was on its way for long.
            Freeze::Agent => self.guest.thaw_or_keep_trying() == Some(0) && self.frozen > 0 || early,
            Freeze::Suspend => {
                self.guest.resume_or_keep_trying(&self.mark);
                early
            }
        }
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

/// Lets a paused domain go on; whether it is paused no more.
fn resumed(domain: &Domain) -> bool {
    if domain_state(domain).is_ok_and(|state| state != DomainState::Paused) {
        return true;
    }
    match domain.resume() {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(error = error.message(), "a guest that we suspended could not be resumed yet");
            false
        }
    }
}

/// Lets go of a guest that a dead daemon held in the backup of `spec`: resumes it if the mark says that we suspended it,
/// thaws it once if the agent is there at all. False when it could not be thawed because it does not run now.
///
/// # Errors
/// When it is suspended by us and cannot be resumed; the mark stays.
pub(super) fn let_go(connection: &Arc<Connection>, domain: &Domain, spec: &BackupSpec) -> Result<bool> {
    let mark = suspend_mark(&spec.socket);
    if mark.exists() {
        if domain_state(domain)? == DomainState::Paused {
            domain.resume().map_err(|error| super::failed("resuming a guest that we suspended", &error))?;
        }
        remove_file(&mark)?;
    }
    if spec.freeze != Freeze::Agent {
        return Ok(true);
    }
    if domain_state(domain)? != DomainState::Running {
        return Ok(false);
    }
    limit_agent(domain, spec.freeze_timeout);
    match ffi::thaw(domain) {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "thawed file systems that were left frozen"),
        Err(error) if error.message().contains("not connected") => {}
        Err(error) => {
            tracing::debug!(error = error.message(), "no thaw");
            if code(&error) == sys::VIR_ERR_AGENT_UNRESPONSIVE {
                let guest =
                    Guest { connection: Arc::clone(connection), name: spec.domain.clone(), domain: domain.clone() };
                guest.keep_thawing();
            }
        }
    }
    Ok(true)
}

impl Guest {
    /// How many file systems were thawed; none = it goes on in the background.
    fn thaw_or_keep_trying(&self) -> Option<i32> {
        match ffi::thaw(&self.domain) {
            Ok(count) => Some(count),
            Err(error) => {
                tracing::warn!(error = error.message(), "the guest could not be thawed yet; trying on");
                self.clone().keep_thawing();
                None
            }
        }
    }

    /// After a freeze that was refused: nothing is frozen, unless only the answer was lost.
    fn thaw_or_keep_trying_if_lost(&self) {
        if ffi::thaw(&self.domain).is_err() && !self.is_connected() {
            self.clone().keep_thawing();
        }
    }

    /// Whether the handle is of any use.
    fn is_connected(&self) -> bool {
        ffi::state(&self.domain).is_ok()
    }

    fn resume_or_keep_trying(&self, mark: &Path) {
        if resumed(&self.domain) {
            drop(remove_file(mark));
            return;
        }
        let mark = mark.to_owned();
        self.clone().keep_trying("resume", move |domain| {
            // Without the mark somebody else has done it, and who is paused now was paused by another.
            let done = !mark.exists() || resumed(domain);
            if done {
                drop(remove_file(&mark));
            }
            done
        });
    }

    /// Thaws in the background until it worked once.
    fn keep_thawing(self) {
        self.keep_trying("thaw", |domain| {
            limit_agent(domain, AGENT_WITHIN);
            match ffi::thaw(domain) {
                Ok(count) => {
                    tracing::info!(count, "the guest agent answered and thawed");
                    true
                }
                Err(error) => {
                    tracing::debug!(error = error.message(), "still not thawed");
                    false
                }
            }
        });
    }

    /// Makes attempts in the background until one does it, the domain is off, or [`TRY_FOR`] has passed.
    fn keep_trying(self, what: &'static str, mut attempt: impl FnMut(&Domain) -> bool + Send + 'static) {
        let Self { connection, name, domain } = self;
        // Its connection may be the one that was lost.
        drop(domain);
        let spawned = std::thread::Builder::new().name(what.into()).spawn(move || {
            let end = Instant::now() + TRY_FOR;
            let mut pause = Duration::from_secs(1);
            while Instant::now() < end {
                match connection.lookup(&name) {
                    Ok(Some(domain)) if domain.is_active().unwrap_or(true) => {
                        if attempt(&domain) {
                            return;
                        }
                    }
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "libvirt is away"),
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_secs(30));
            }
            tracing::error!(
                domain = name,
                "the guest may still be held ({what} did not work): try `virsh domfsthaw` or `virsh resume`"
            );
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to {what} a guest");
        }
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
