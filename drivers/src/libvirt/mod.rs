//! The hypervisor driver for QEMU/KVM through libvirt.
//!
//! Runs domains and opens points in time of their disks: of running ones by libvirt's pull-mode backups (`backup`), of
//! those that are off by reading the images (`offline`). Both use the same dirty bitmaps, so one chain of increments goes
//! on over starts and stops.
//!
//! It keeps no state that a restart would need: jobs, checkpoints, sockets and readers are found again by their names.
//! A lost connection is opened again at the next call (and in the background, so that events go on).
//!
//! Invariants: every call ends within a deadline, also when QEMU hangs; `virt` and libvirt's documents are known only here;
//! `ffi` holds all unsafe code; text that holds control characters is refused before it reaches the `virt` crate, which
//! panics on a NUL.

mod backup;
mod checkpoint;
mod deadline;
mod domain;
mod events;
mod ffi;
mod offline;
mod quiesce;
mod xml;

pub use events::initialise;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use crate::hypervisor::{BackupSpec, DomainEvent, DomainSpec, DomainState, HostFacts};
use crate::{BackupSession, DriverError, Hypervisor, Kind, Result};
use deadline::{poll, within};

/// Sun paths have 108 bytes with their NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// A dead peer is noticed after this many seconds times [`KEEPALIVE_COUNT`].
const KEEPALIVE_SECONDS: i32 = 5;
const KEEPALIVE_COUNT: u32 = 3;
/// Limit of calls that only ask. libvirt itself may wait 30 s for a domain's lock.
const ASK_WITHIN: Duration = Duration::from_secs(45);
/// Limit of calls that start or stop a domain, or change its bitmaps.
const ACT_WITHIN: Duration = Duration::from_secs(120);
/// How long to wait for somebody else who is opening the connection.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// libvirt on one host, at one connection URI.
pub struct Libvirt {
    inner: Arc<Inner>,
}

/// What threads share.
struct Inner {
    uri: String,
    link: Mutex<Option<Link>>,
    opening: Mutex<()>,
    hub: Arc<events::Hub>,
}

/// An open connection with our callbacks. Fields drop in this order.
struct Link {
    _callbacks: ffi::Registration,
    connect: Connect,
}

/// libvirt's number of an error.
fn code(error: &Error) -> u32 {
    error.code().to_raw()
}

/// An error of libvirt in our terms.
fn failed(doing: &str, error: &Error) -> DriverError {
    let from_transport = matches!(error.domain().to_raw(), sys::VIR_FROM_RPC | sys::VIR_FROM_REMOTE);
    let kind = match code(error) {
        sys::VIR_ERR_NO_DOMAIN
        | sys::VIR_ERR_NO_DOMAIN_CHECKPOINT
        | sys::VIR_ERR_CHECKPOINT_INCONSISTENT => Kind::Missing,
        sys::VIR_ERR_OPERATION_TIMEOUT
        | sys::VIR_ERR_NO_CONNECT
        | sys::VIR_ERR_INVALID_CONN
        | sys::VIR_ERR_AGENT_UNRESPONSIVE
        | sys::VIR_ERR_RESOURCE_BUSY => Kind::Retry,
        sys::VIR_ERR_SYSTEM_ERROR | sys::VIR_ERR_INTERNAL_ERROR | sys::VIR_ERR_RPC if from_transport => Kind::Retry,
        _ => Kind::Permanent,
    };
    DriverError::new(kind, doing, error.message())
}

/// Refuses text that libvirt's documents and C strings cannot carry.
fn check_text(doing: &str, text: &str) -> Result<()> {
    let bad = |c: char| (c.is_control() && !matches!(c, '\t' | '\n')) || matches!(c, '\u{FFFE}' | '\u{FFFF}');
    if text.contains(bad) {
        return Err(DriverError::new(Kind::Permanent, doing, format!("{text:?} holds control characters")));
    }
    Ok(())
}

/// Refuses what cannot be a domain's name.
fn check_name(name: &str) -> Result<()> {
    check_text("naming a domain", name)?;
    if name.is_empty() || name.contains(['/', '\n', '\t']) {
        let reason = format!("{name:?} must be neither empty nor hold a slash or a line break");
        return Err(DriverError::new(Kind::Permanent, "naming a domain", reason));
    }
    Ok(())
}

/// `path` with `suffix` added to its last part.
fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn sibling_len_check(socket: &Path) -> Result<()> {
    if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        let reason = format!("{} is longer than the {MAX_SOCKET_PATH_BYTES} bytes a socket may have", socket.display());
        return Err(DriverError::new(Kind::Permanent, "naming a socket", reason));
    }
    Ok(())
}

/// Removes a file that may be absent.
fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DriverError::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// What the domain is doing, in our terms.
fn domain_state(domain: &Domain) -> Result<DomainState> {
    let (state, reason) = ffi::state(domain).map_err(|error| failed("asking for a domain's state", &error))?;
    Ok(match (state, reason) {
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_IOERROR) => DomainState::PausedIoError,
        (sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED, _) => DomainState::Paused,
        (sys::VIR_DOMAIN_SHUTDOWN, _) => DomainState::ShuttingDown,
        (sys::VIR_DOMAIN_CRASHED, _)
        | (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_FAILED) => {
            DomainState::Crashed
        }
        (sys::VIR_DOMAIN_SHUTOFF, _) => DomainState::Off,
        _ => DomainState::Running,
    })
}

fn is_off(state: DomainState) -> bool {
    matches!(state, DomainState::Off | DomainState::Crashed)
}

impl Inner {
    /// The connection; opened (again) if need be. Blocks: only to be called under [`within`].
    fn connect(&self) -> Result<Connect> {
        if let Some(connect) = self.present() {
            return Ok(connect);
        }
        let doing = format!("connecting to libvirt at {}", self.uri);
        let mut turn = None;
        let got_turn = poll(OPEN_WITHIN, || {
            turn = match self.opening.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            Ok(turn.is_some())
        })?;
        if !got_turn {
            let reason = "another thread has been waiting for the connection; libvirtd does not answer";
            return Err(DriverError::new(Kind::Retry, doing, reason));
        }
        if let Some(connect) = self.present() {
            return Ok(connect);
        }
        let unreachable = |error: &Error| {
            let kind = match code(error) {
                sys::VIR_ERR_AUTH_FAILED | sys::VIR_ERR_AUTH_UNAVAILABLE | sys::VIR_ERR_NO_SUPPORT => Kind::Permanent,
                _ => Kind::Retry,
            };
            DriverError::new(kind, doing.as_str(), error.message())
        };
        let connect = Connect::open(Some(&self.uri)).map_err(|error| unreachable(&error))?;
        if let Err(error) = connect.set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT) {
            tracing::debug!(error = error.message(), "the connection has no keep-alive");
        }
        let callbacks = ffi::Registration::new(&connect, &self.hub).map_err(|error| unreachable(&error))?;
        let link = Link { _callbacks: callbacks, connect: connect.clone() };
        let old = self.link.lock().unwrap_or_else(PoisonError::into_inner).replace(link);
        // Outside the lock: dropping it calls libvirt.
        drop(old);
        tracing::debug!(uri = self.uri, "connected to libvirt");
        Ok(connect)
    }

    /// The connection if it is open and alive.
    fn present(&self) -> Option<Connect> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let connect = &link.as_ref()?.connect;
        connect.is_alive().unwrap_or(false).then(|| connect.clone())
    }

    /// The domain of this name; none = not defined.
    fn lookup(&self, name: &str) -> Result<Option<Domain>> {
        check_name(name)?;
        match self.connect()?.lookup_domain_by_name(name) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if code(&error) == sys::VIR_ERR_NO_DOMAIN => Ok(None),
            Err(error) => Err(failed(&format!("looking for domain {name}"), &error)),
        }
    }

    fn existing(&self, name: &str, doing: &str) -> Result<Domain> {
        let missing = || DriverError::new(Kind::Missing, doing, format!("domain {name} is not defined"));
        self.lookup(name)?.ok_or_else(missing)
    }

    fn facts(&self) -> Result<HostFacts> {
        let wrong = |error: Error| failed("asking for facts about the host", &error);
        let connect = self.connect()?;
        let version = |number: u32| {
            let (major, minor, patch) = (number / 1_000_000, number / 1000 % 1000, number % 1000);
            format!("{major}.{minor}.{patch}")
        };
        let node = connect.node_info().map_err(wrong)?;
        let kind = connect.driver_type().map_err(wrong)?;
        let hypervisor = version(connect.hyp_version().map_err(wrong)?);
        let library = version(connect.lib_version().map_err(wrong)?);
        Ok(HostFacts {
            hypervisor: format!("{kind} {hypervisor}, libvirt {library}"),
            cpus: node.cpus,
            memory_kb: node.memory,
            free_memory_kb: connect.free_memory().map_err(wrong)? / 1024,
        })
    }

    fn deploy(&self, spec: &DomainSpec) -> Result<()> {
        let doing = format!("deploying domain {}", spec.name);
        let wrong = |error: Error| failed(&doing, &error);
        if let Some(domain) = self.lookup(&spec.name)?
            && !is_off(domain_state(&domain)?)
        {
            return Ok(());
        }
        let document = domain::document(spec)?;
        let domain = self.connect()?.define_domain_xml(&document).map_err(wrong)?;
        domain.create().map_err(wrong)
    }

    fn resume(&self, name: &str) -> Result<()> {
        let doing = format!("resuming domain {name}");
        let domain = self.existing(name, &doing)?;
        let done = match ffi::state(&domain).map_err(|error| failed(&doing, &error))?.0 {
            sys::VIR_DOMAIN_PMSUSPENDED => domain.pm_wakeup(0),
            sys::VIR_DOMAIN_PAUSED => domain.resume(),
            sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_CRASHED => domain.create(),
            _ => Ok(()),
        };
        done.map_err(|error| failed(&doing, &error))
    }

    fn shutdown(&self, name: &str, timeout: Duration) -> Result<()> {
        let doing = format!("shutting down domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        let off = || Ok(is_off(domain_state(&domain)?));
        if off()? {
            return Ok(());
        }
        // A dead agent must not hold the call; ACPI comes next then.
        drop(ffi::set_agent_timeout(&domain, 5));
        let ways = sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT | sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN;
        if let Err(error) = domain.shutdown_flags(ways)
            && !off()?
        {
            return Err(failed(&doing, &error));
        }
        if poll(timeout, off)? {
            return Ok(());
        }
        let reason = format!("the guest still runs after {} s; wait longer or stop it hard", timeout.as_secs());
        Err(DriverError::new(Kind::Retry, doing, reason))
    }

    fn destroy(&self, name: &str) -> Result<()> {
        let doing = format!("destroying domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        match domain.destroy() {
            Ok(()) => Ok(()),
            Err(error) if code(&error) == sys::VIR_ERR_NO_DOMAIN => Ok(()),
            // "Domain is not running" has the number of any wrong moment; so look.
            Err(_) if is_off(domain_state(&domain)?) => Ok(()),
            Err(error) => Err(failed(&doing, &error)),
        }
    }

    fn reboot(&self, name: &str, hard: bool) -> Result<()> {
        let doing = format!("rebooting domain {name}");
        let domain = self.existing(name, &doing)?;
        let done = if hard {
            domain.reset()
        } else {
            drop(ffi::set_agent_timeout(&domain, 5));
            domain.reboot(sys::VIR_DOMAIN_REBOOT_GUEST_AGENT | sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN)
        };
        done.map_err(|error| failed(&doing, &error))
    }

    fn undefine(&self, name: &str) -> Result<()> {
        let doing = format!("undefining domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        if !is_off(domain_state(&domain)?) {
            return Err(DriverError::new(Kind::Permanent, doing, "the domain runs; stop it first"));
        }
        let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
        let done = domain.undefine_flags(all | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA);
        let done = match done {
            // A driver without checkpoints does not know the flag.
            Err(error) if matches!(code(&error), sys::VIR_ERR_INVALID_ARG | sys::VIR_ERR_ARGUMENT_UNSUPPORTED) => {
                domain.undefine_flags(all)
            }
            other => other,
        };
        match done {
            Err(error) if code(&error) != sys::VIR_ERR_NO_DOMAIN => Err(failed(&doing, &error)),
            _ => Ok(()),
        }
    }

    fn begin_backup(self: &Arc<Self>, spec: &BackupSpec) -> Result<Begun> {
        check_backup(spec)?;
        match self.lookup(&spec.domain)? {
            Some(domain) if !is_off(domain_state(&domain)?) => {
                Ok(Begun::Live(Box::new(backup::begin(self, &domain, spec)?)))
            }
            _ => Ok(Begun::Offline(Box::new(offline::begin(spec)?))),
        }
    }

    fn abandon_backup(&self, spec: &BackupSpec) -> Result<()> {
        check_backup(spec)?;
        offline::abandon(spec)?;
        backup::abandon(self.lookup(&spec.domain)?.as_ref(), spec)
    }

    fn checkpoints(&self, name: &str, disks: &[PathBuf]) -> Result<Vec<String>> {
        let domain = self.lookup(name)?;
        let mut names = domain.as_ref().map_or(Ok(Vec::new()), checkpoint::names)?;
        let mut unread = None;
        for disk in disks {
            match offline::bitmaps(disk) {
                Ok(list) => names.extend(list.into_iter().map(|bitmap| bitmap.name)),
                Err(error) => unread = Some(error),
            }
        }
        match unread {
            Some(error) if domain.is_none() => return Err(error),
            Some(error) => tracing::debug!(domain = name, %error, "an image's bitmaps could not be listed"),
            None => {}
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn delete_checkpoint(&self, name: &str, checkpoint: &str, disks: &[PathBuf]) -> Result<()> {
        checkpoint::check_name(checkpoint)?;
        let domain = self.lookup(name)?;
        let mut listed = Vec::new();
        if let Some(domain) = &domain {
            listed = backup::listed_disks(domain)?;
            if !is_off(domain_state(domain)?) {
                return checkpoint::discard(domain, &listed, checkpoint);
            }
        }
        // What the guest wrote into a raw disk is no header of ours, whatever it looks like.
        let raw = |path: &Path| listed.iter().any(|disk| Path::new(&disk.source) == path && disk.format == "raw");
        for disk in disks.iter().filter(|disk| !raw(disk)) {
            offline::remove_bitmap(disk, checkpoint)?;
        }
        domain.map_or(Ok(()), |domain| checkpoint::forget(&domain, checkpoint))
    }
}

/// Refuses names in `spec` that could do harm further on.
fn check_backup(spec: &BackupSpec) -> Result<()> {
    check_name(&spec.domain)?;
    domain::path_text(&spec.socket)?;
    let since = spec.disks.iter().filter_map(|disk| disk.since.as_ref());
    spec.checkpoint.iter().chain(since).try_for_each(|name| checkpoint::check_name(name))?;
    for disk in &spec.disks {
        check_text("naming a disk", &disk.target)?;
        domain::path_text(&disk.path)?;
        domain::path_text(&disk.scratch)?;
    }
    Ok(())
}

/// A session before it is boxed as a trait object, so that one that comes too late can be undone.
enum Begun {
    Live(Box<backup::LiveSession>),
    Offline(Box<offline::OfflineSession>),
}

impl Begun {
    fn discard(self) {
        match self {
            Self::Live(session) => session.discard(),
            Self::Offline(session) => session.discard(),
        }
    }
}

/// Opens the connection again whenever it was lost, so that events go on without anybody asking.
fn keep_connected(inner: &Weak<Inner>, lost: &Receiver<()>) {
    while lost.recv().is_ok() {
        let mut pause = Duration::from_millis(250);
        loop {
            let Some(inner) = inner.upgrade() else { return };
            if inner.connect().is_ok() {
                // What happened meanwhile was not told.
                inner.hub.send(&DomainEvent::Disconnected);
                break;
            }
            drop(inner);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

impl Libvirt {
    /// Connects to the libvirt at `uri`, e.g. `qemu:///system`.
    ///
    /// # Errors
    /// [`Kind::Retry`] when it cannot be reached now, [`Kind::Permanent`] when it refuses us or `uri` is nonsense.
    pub fn connect(uri: &str) -> Result<Self> {
        check_text("connecting to libvirt", uri)?;
        initialise()?;
        let (loss, lost) = std::sync::mpsc::channel();
        let hub = Arc::new(events::Hub::default());
        hub.watch_loss(loss);
        let inner =
            Arc::new(Inner { uri: uri.to_owned(), link: Mutex::new(None), opening: Mutex::new(()), hub });
        let weak = Arc::downgrade(&inner);
        std::thread::Builder::new()
            .name("libvirt-keeper".into())
            .spawn(move || keep_connected(&weak, &lost))
            .map_err(|error| DriverError::io("connecting to libvirt", error))?;
        let this = Self { inner };
        this.run("connecting to libvirt", ASK_WITHIN, |inner| inner.connect().map(drop))?;
        Ok(this)
    }

    /// Runs `work` under a deadline; what comes later is dropped.
    fn run<T: Send + 'static>(
        &self,
        doing: &str,
        limit: Duration,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        within(doing, limit, move || work(&inner), drop)
    }

    /// As [`Self::run`] for a call that names one domain.
    fn about<T: Send + 'static>(
        &self,
        domain: &str,
        limit: Duration,
        work: impl FnOnce(&Inner, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = domain.to_owned();
        self.run(&format!("calling libvirt about domain {domain}"), limit, move |inner| work(inner, &name))
    }
}

impl Hypervisor for Libvirt {
    fn facts(&self) -> Result<HostFacts> {
        self.run("asking for facts about the host", ASK_WITHIN, Inner::facts)
    }

    fn state(&self, domain: &str) -> Result<Option<DomainState>> {
        self.about(domain, ASK_WITHIN, |inner, name| {
            inner.lookup(name)?.map(|domain| domain_state(&domain)).transpose()
        })
    }

    fn deploy(&self, spec: &DomainSpec) -> Result<()> {
        let spec = spec.clone();
        let doing = format!("deploying domain {}", spec.name);
        self.run(&doing, ACT_WITHIN, move |inner| inner.deploy(&spec))
    }

    fn resume(&self, domain: &str) -> Result<()> {
        self.about(domain, ACT_WITHIN, Inner::resume)
    }

    fn shutdown(&self, domain: &str, timeout: Duration) -> Result<()> {
        self.about(domain, timeout + ASK_WITHIN, move |inner, name| inner.shutdown(name, timeout))
    }

    fn destroy(&self, domain: &str) -> Result<()> {
        self.about(domain, ACT_WITHIN, Inner::destroy)
    }

    fn reboot(&self, domain: &str, hard: bool) -> Result<()> {
        self.about(domain, ACT_WITHIN, move |inner, name| inner.reboot(name, hard))
    }

    fn undefine(&self, domain: &str) -> Result<()> {
        self.about(domain, ACT_WITHIN, Inner::undefine)
    }

    fn begin_backup(&self, spec: &BackupSpec) -> Result<Box<dyn BackupSession>> {
        let inner = Arc::clone(&self.inner);
        let owned = spec.clone();
        let doing = format!("beginning a backup of domain {}", spec.domain);
        let limit = ACT_WITHIN + spec.freeze_timeout * 2;
        let begun = within(&doing, limit, move || inner.begin_backup(&owned), Begun::discard)?;
        Ok(match begun {
            Begun::Live(session) => session,
            Begun::Offline(session) => session,
        })
    }

    fn abandon_backup(&self, spec: &BackupSpec) -> Result<()> {
        let spec = spec.clone();
        let doing = format!("clearing up after a backup of domain {}", spec.domain);
        self.run(&doing, ACT_WITHIN * 2, move |inner| inner.abandon_backup(&spec))
    }

    fn checkpoints(&self, domain: &str, disks: &[PathBuf]) -> Result<Vec<String>> {
        let disks = disks.to_vec();
        self.about(domain, ACT_WITHIN, move |inner, name| inner.checkpoints(name, &disks))
    }

    fn delete_checkpoint(&self, domain: &str, checkpoint: &str, disks: &[PathBuf]) -> Result<()> {
        let (checkpoint, disks) = (checkpoint.to_owned(), disks.to_vec());
        self.about(domain, ACT_WITHIN, move |inner, name| inner.delete_checkpoint(name, &checkpoint, &disks))
    }

    fn subscribe(&self, sink: Sender<DomainEvent>) -> Result<()> {
        self.inner.hub.add(sink);
        self.run("subscribing to events", ASK_WITHIN, |inner| inner.connect().map(drop))
    }
}
