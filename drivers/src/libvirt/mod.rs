//! The hypervisor driver for QEMU/KVM through libvirt.
//!
//! Runs domains (`lifecycle`, `saved`, `stats`), changes them (`devices`, `snapshots`) and opens points in time of their disks: of running ones by libvirt's pull-mode backups (`backup`), of
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
mod connection;
mod deadline;
mod devices;
mod domain;
mod events;
mod ffi;
mod image;
mod lifecycle;
mod offline;
mod quiesce;
mod saved;
mod snapshots;
mod stats;
mod xml;

pub use events::initialise;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use crate::hypervisor::{
    BackupSpec, DomainDisk, DomainEvent, DomainNic, DomainSpec, DomainState, DomainStats, HostFacts,
};
use crate::{BackupSession, DriverError, Hypervisor, Kind, Result};
use connection::Connection;
use deadline::within;
use xml::Device;

/// Sun paths have 108 bytes with their NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Limit of calls that only ask. libvirt itself may wait 30 s for a domain's lock.
const ASK_WITHIN: Duration = Duration::from_secs(45);
/// Limit of calls that start or stop a domain, or change its bitmaps.
const ACT_WITHIN: Duration = Duration::from_secs(120);

/// libvirt on one host, at one connection URI.
pub struct Libvirt {
    connection: Arc<Connection>,
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
        | sys::VIR_ERR_NO_DOMAIN_SNAPSHOT
        | sys::VIR_ERR_CHECKPOINT_INCONSISTENT => Kind::Missing,
        sys::VIR_ERR_OPERATION_TIMEOUT
        | sys::VIR_ERR_NO_CONNECT
        | sys::VIR_ERR_INVALID_CONN
        | sys::VIR_ERR_AGENT_UNRESPONSIVE
        | sys::VIR_ERR_RESOURCE_BUSY => Kind::Retry,
        sys::VIR_ERR_SYSTEM_ERROR | sys::VIR_ERR_INTERNAL_ERROR | sys::VIR_ERR_RPC if from_transport => Kind::Retry,
        // QEMU died in the middle of the call. The next attempt finds the domain off.
        _ if error.message().contains("End of file from qemu monitor") => Kind::Retry,
        // An image that somebody still reads (a backup that is being cleared up) refuses to be written.
        _ if error.message().contains("Failed to get \"") && error.message().contains("lock") => Kind::Retry,
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

/// Refuses names that could be taken for an option or a path. Ours are `one-7-0-3` and the like.
fn check_plain(doing: &str, name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() <= 255 && name.bytes().all(plain) {
        return Ok(());
    }
    Err(DriverError::new(
        Kind::Permanent,
        doing,
        format!("{name:?} must be 1 to 255 of the characters A-Z a-z 0-9 . _ - and start with a letter or digit"),
    ))
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

/// Backups and checkpoints: which side, running or off, has to do it.
impl Connection {
    fn begin_backup(self: &Arc<Self>, spec: &BackupSpec) -> Result<Begun> {
        check_backup(spec)?;
        let domain = self.lookup(&spec.domain)?;
        let listed = domain.as_ref().map_or(Ok(Vec::new()), backup::listed_disks)?;
        let warnings = elsewhere(&listed, spec);
        match domain {
            Some(domain) if !is_off(domain_state(&domain)?) => {
                Ok(Begun::Live(Box::new(backup::begin(self, &domain, &listed, spec, warnings)?)))
            }
            _ => Ok(Begun::Offline(Box::new(offline::begin(spec, warnings)?))),
        }
    }

    fn abandon_backup(self: &Arc<Self>, spec: &BackupSpec) -> Result<()> {
        check_backup(spec)?;
        // The guest first. Readers of a domain that is off can be ended without libvirt.
        let live = self.lookup(&spec.domain).and_then(|domain| backup::abandon(self, domain.as_ref(), spec));
        offline::abandon(spec)?;
        live
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

/// A warning for each disk whose image is not the one that the domain uses, as after somebody's external snapshot. A
/// running domain's disk is read through what it uses; one that is off, at the path in `spec`.
fn elsewhere(listed: &[xml::ListedDisk], spec: &BackupSpec) -> Vec<String> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let moved = spec.disks.iter().filter_map(|disk| {
        let used = listed.iter().find(|one| one.target == disk.target && !one.source.is_empty())?;
        let other = real(Path::new(&used.source)) != real(&disk.path);
        other.then(|| {
            format!("domain {} has {} at {}, not {}", spec.domain, disk.target, used.source, disk.path.display())
        })
    });
    moved.collect()
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

impl Libvirt {
    /// Connects to the libvirt at `uri`, e.g. `qemu:///system`.
    ///
    /// # Errors
    /// [`Kind::Retry`] when it cannot be reached now, [`Kind::Permanent`] when it refuses us or `uri` is nonsense.
    pub fn connect(uri: &str) -> Result<Self> {
        check_text("connecting to libvirt", uri)?;
        initialise()?;
        let this = Self { connection: Connection::new(uri)? };
        this.run("connecting to libvirt", ASK_WITHIN, |connection| connection.connect().map(drop))?;
        Ok(this)
    }

    /// Runs `work` under a deadline; what comes later is dropped.
    fn run<T: Send + 'static>(
        &self,
        doing: &str,
        limit: Duration,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.connection);
        within(doing, limit, move || work(&connection), drop)
    }

    /// As [`Self::run`] for a call that names one domain.
    fn about<T: Send + 'static>(
        &self,
        domain: &str,
        limit: Duration,
        work: impl FnOnce(&Connection, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = domain.to_owned();
        self.run(&format!("calling libvirt about domain {domain}"), limit, move |connection| work(connection, &name))
    }
}

/// What several of the trait's methods have in common.
impl Libvirt {
    /// How long writing out or reading in the domain's memory may take.
    fn moving_memory(&self, domain: &str) -> Result<Duration> {
        self.about(domain, ASK_WITHIN, Connection::memory_bytes).map(saved::moving)
    }

    fn detach(&self, domain: &str, kind: Device, key: &str, timeout: Duration) -> Result<()> {
        let key = key.to_owned();
        let limit = timeout.saturating_add(ACT_WITHIN);
        self.about(domain, limit, move |connection, name| connection.detach(name, kind, &key, timeout))
    }

    fn disk_snapshot(
        &self,
        domain: &str,
        disk: &DomainDisk,
        snapshot: &str,
        work: fn(&Connection, &str, &DomainDisk, &str) -> Result<()>,
    ) -> Result<()> {
        check_plain("naming a snapshot", snapshot)?;
        let (disk, snapshot) = (disk.clone(), snapshot.to_owned());
        let limit = image::TWO_CHANGES_WITHIN;
        self.about(domain, limit, move |connection, name| work(connection, name, &disk, &snapshot))
    }

    fn system_snapshot(
        &self,
        domain: &str,
        snapshot: &str,
        work: fn(&Connection, &str, &str) -> Result<()>,
    ) -> Result<()> {
        check_plain("naming a snapshot", snapshot)?;
        let snapshot = snapshot.to_owned();
        let limit = self.moving_memory(domain)?;
        self.about(domain, limit, move |connection, name| work(connection, name, &snapshot))
    }
}

impl Hypervisor for Libvirt {
    fn facts(&self) -> Result<HostFacts> {
        self.run("asking for facts about the host", ASK_WITHIN, Connection::facts)
    }

    fn state(&self, domain: &str) -> Result<Option<DomainState>> {
        self.about(domain, ASK_WITHIN, |connection, name| {
            connection.lookup(name)?.map(|domain| domain_state(&domain)).transpose()
        })
    }

    fn deploy(&self, spec: &DomainSpec) -> Result<()> {
        let spec = spec.clone();
        let doing = format!("deploying domain {}", spec.name);
        self.run(&doing, ACT_WITHIN, move |connection| connection.deploy(&spec))
    }

    fn resume(&self, domain: &str) -> Result<()> {
        self.about(domain, ACT_WITHIN, Connection::resume)
    }

    fn shutdown(&self, domain: &str, timeout: Duration) -> Result<()> {
        self.about(domain, timeout + ASK_WITHIN, move |connection, name| connection.shutdown(name, timeout))
    }

    fn destroy(&self, domain: &str) -> Result<()> {
        self.about(domain, ACT_WITHIN, Connection::destroy)
    }

    fn reboot(&self, domain: &str, hard: bool) -> Result<()> {
        self.about(domain, ACT_WITHIN, move |connection, name| connection.reboot(name, hard))
    }

    fn undefine(&self, domain: &str) -> Result<()> {
        self.about(domain, ACT_WITHIN, Connection::undefine)
    }

    fn pause(&self, domain: &str) -> Result<()> {
        self.about(domain, ACT_WITHIN, Connection::pause)
    }

    fn save(&self, domain: &str, file: &Path) -> Result<()> {
        let limit = self.moving_memory(domain)?;
        let file = file.to_owned();
        self.about(domain, limit + ASK_WITHIN, move |connection, name| connection.save(name, &file, limit))
    }

    fn restore_saved(&self, domain: &str, file: &Path) -> Result<()> {
        let limit = saved::restore_limit(file)?;
        let file = file.to_owned();
        self.about(domain, limit, move |connection, name| connection.restore_saved(name, &file))
    }

    fn attach_disk(&self, domain: &str, disk: &DomainDisk) -> Result<()> {
        let disk = disk.clone();
        self.about(domain, ACT_WITHIN, move |connection, name| connection.attach_disk(name, &disk))
    }

    fn detach_disk(&self, domain: &str, target: &str, timeout: Duration) -> Result<()> {
        self.detach(domain, Device::Disk, target, timeout)
    }

    fn attach_nic(&self, domain: &str, nic: &DomainNic) -> Result<()> {
        let nic = nic.clone();
        self.about(domain, ACT_WITHIN, move |connection, name| connection.attach_nic(name, &nic))
    }

    fn detach_nic(&self, domain: &str, mac: &str, timeout: Duration) -> Result<()> {
        self.detach(domain, Device::Interface, mac, timeout)
    }

    fn resize_disk(&self, domain: &str, disk: &DomainDisk, bytes: u64) -> Result<()> {
        let disk = disk.clone();
        self.about(domain, image::TWO_CHANGES_WITHIN, move |connection, name| {
            connection.resize_disk(name, &disk, bytes)
        })
    }

    fn disk_snapshot_create(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.disk_snapshot(domain, disk, snapshot, Connection::disk_snapshot_create)
    }

    fn disk_snapshot_revert(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.disk_snapshot(domain, disk, snapshot, Connection::disk_snapshot_revert)
    }

    fn disk_snapshot_delete(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.disk_snapshot(domain, disk, snapshot, Connection::disk_snapshot_delete)
    }

    fn system_snapshot_create(&self, domain: &str, snapshot: &str) -> Result<()> {
        self.system_snapshot(domain, snapshot, Connection::system_snapshot_create)
    }

    fn system_snapshot_revert(&self, domain: &str, snapshot: &str) -> Result<()> {
        self.system_snapshot(domain, snapshot, Connection::system_snapshot_revert)
    }

    fn system_snapshot_delete(&self, domain: &str, snapshot: &str) -> Result<()> {
        self.system_snapshot(domain, snapshot, Connection::system_snapshot_delete)
    }

    fn stats(&self, domain: &str) -> Result<Option<DomainStats>> {
        self.about(domain, ASK_WITHIN, Connection::stats)
    }

    fn begin_backup(&self, spec: &BackupSpec) -> Result<Box<dyn BackupSession>> {
        let connection = Arc::clone(&self.connection);
        let owned = spec.clone();
        let doing = format!("beginning a backup of domain {}", spec.domain);
        let limit = ACT_WITHIN + spec.freeze_timeout * 2;
        let begun = within(&doing, limit, move || connection.begin_backup(&owned), Begun::discard)?;
        Ok(match begun {
            Begun::Live(session) => session,
            Begun::Offline(session) => session,
        })
    }

    fn abandon_backup(&self, spec: &BackupSpec) -> Result<()> {
        let spec = spec.clone();
        let doing = format!("clearing up after a backup of domain {}", spec.domain);
        let connection = Arc::clone(&self.connection);
        within(&doing, ACT_WITHIN * 2, move || connection.abandon_backup(&spec), drop)
    }

    fn checkpoints(&self, domain: &str, disks: &[PathBuf]) -> Result<Vec<String>> {
        let disks = disks.to_vec();
        self.about(domain, ACT_WITHIN, move |connection, name| connection.checkpoints(name, &disks))
    }

    fn delete_checkpoint(&self, domain: &str, checkpoint: &str, disks: &[PathBuf]) -> Result<()> {
        let (checkpoint, disks) = (checkpoint.to_owned(), disks.to_vec());
        self.about(domain, ACT_WITHIN, move |connection, name| connection.delete_checkpoint(name, &checkpoint, &disks))
    }

    fn subscribe(&self, sink: Sender<DomainEvent>) -> Result<()> {
        self.connection.hub().add(sink);
        self.run("subscribing to events", ASK_WITHIN, |connection| connection.connect().map(drop))
    }
}
