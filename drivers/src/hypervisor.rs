//! What a hypervisor driver must do: run domains and let their disks be read at one point in time.
//!
//! Domains, checkpoints, sockets and scratch files have names that the caller fixes, so that after a crash each of them
//! can be found again. Every call is idempotent by name: starting what runs, destroying what is gone, deleting an absent
//! checkpoint succeed.

use std::path::PathBuf;
use std::time::Duration;

use crate::{DiskReader, Result};

/// What a host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Name and version, e.g. `QEMU 7.2.22, libvirt 9.0.0`.
    pub hypervisor: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in kB.
    pub memory_kb: u64,
    /// Free memory in kB.
    pub free_memory_kb: u64,
}

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// The guest runs.
    Running,
    /// Stopped for the moment by a person or by us.
    Paused,
    /// Stopped by the hypervisor because a disk failed or is full.
    PausedIoError,
    /// Shutting down on its own.
    ShuttingDown,
    /// Defined but not running.
    Off,
    /// Not running because it crashed or was killed.
    Crashed,
}

/// A change that the hypervisor told us about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainEvent {
    /// The domain changed its state; ask for it.
    Changed {
        /// Name of the domain.
        domain: String,
    },
    /// The connection was lost; everything must be looked at again.
    Disconnected,
}

/// How a disk is attached and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDisk {
    /// The VM's disk id.
    pub id: u32,
    /// Absolute path of the image file.
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: DiskFormat,
    /// Name the guest's bus uses: `vda`, `sda`, `hda`.
    pub target: String,
    /// Read-only (also: CD-ROM).
    pub readonly: bool,
    /// Attached as a CD-ROM drive.
    pub cdrom: bool,
}

/// Formats that domains can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// QEMU copy on write, version 3.
    Qcow2,
    /// Bytes as they are.
    Raw,
}

impl DiskFormat {
    /// `qcow2` or `raw`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainNic {
    /// `network` (libvirt network), `bridge`, or `user` (no privileges needed).
    pub kind: NicKind,
    /// Name of the network or bridge; empty for `user`.
    pub source: String,
    /// MAC address, or none for a random one.
    pub mac: Option<String>,
    /// Device model, e.g. `virtio`.
    pub model: String,
}

/// Where a network card leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NicKind {
    /// A libvirt network.
    Network,
    /// A bridge of the host.
    Bridge,
    /// QEMU's user-mode network.
    User,
}

/// Everything needed to define a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSpec {
    /// Domain name, e.g. `one-7`.
    pub name: String,
    /// Stable UUID.
    pub uuid: String,
    /// Full emulation (`qemu`) instead of hardware virtualisation (`kvm`).
    pub emulated: bool,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// Model of the processors: `host-passthrough`, `host-model`, or a name that the hypervisor knows; none = that of the
    /// host, or QEMU's default when emulated.
    pub cpu_model: Option<String>,
    /// Machine type, e.g. `q35`; none = the hypervisor's default.
    pub machine: Option<String>,
    /// Architecture; none = `x86_64`.
    pub arch: Option<String>,
    /// Direct kernel boot: kernel, initial RAM disk, command line.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for `kernel`.
    pub initrd: Option<PathBuf>,
    /// Command line for `kernel`.
    pub kernel_cmd: Option<String>,
    /// Disks by id.
    pub disks: Vec<DomainDisk>,
    /// Network cards.
    pub nics: Vec<DomainNic>,
    /// File that takes the guest's first serial port.
    pub serial_log: Option<PathBuf>,
    /// Adds the guest agent's channel.
    pub guest_agent: bool,
    /// VNC console: listen address and port; none = no graphics.
    pub vnc: Option<(String, u16)>,
}

/// How to quiesce the guest around the instant of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Not at all: crash-consistent.
    None,
    /// File systems frozen by the guest agent.
    Agent,
    /// The guest's processors stopped.
    Suspend,
}

/// One disk of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDisk {
    /// The VM's disk id.
    pub id: u32,
    /// Absolute path of the image file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Name in the guest's bus: `vda`.
    pub target: String,
    /// Read only what changed since this checkpoint; none = everything.
    pub since: Option<String>,
    /// Whether a new dirty bitmap can and shall be started on it (qcow2 v3).
    pub track: bool,
    /// File that takes what the guest overwrites while the backup runs (running domains only).
    pub scratch: PathBuf,
}

/// What to open for reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSpec {
    /// Domain name.
    pub domain: String,
    /// Unix socket for the disks' bytes; at most 107 bytes long.
    pub socket: PathBuf,
    /// Name of the checkpoint to make in the same instant; none = no tracking.
    pub checkpoint: Option<String>,
    /// The disks, all at one point in time.
    pub disks: Vec<BackupDisk>,
    /// How to quiesce.
    pub freeze: Freeze,
    /// How long quiescing may take in all before it is given up and undone.
    pub freeze_timeout: Duration,
}

/// An open point in time. Dropping it without [`BackupSession::end`] ends it as well as it can.
pub trait BackupSession: Send {
    /// A reader of one disk. Several may be open at once.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] for a disk that is not part of the session.
    fn disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>>;

    /// As [`Self::disk`], all of it, also when the session was begun to read what changed since a checkpoint.
    ///
    /// # Errors
    /// As [`Self::disk`].
    fn whole_disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>>;

    /// What was lost on the way, in one sentence each, e.g. that the guest could not be frozen.
    fn warnings(&self) -> Vec<String>;

    /// Whether the point in time still exists (the guest may have been killed).
    fn is_alive(&self) -> bool;

    /// Ends the session; scratch files and the socket are gone afterwards. The checkpoint stays.
    ///
    /// # Errors
    /// When the hypervisor does not confirm the end in time.
    fn end(self: Box<Self>) -> Result<()>;
}

/// A hypervisor on one host.
pub trait Hypervisor: Send + Sync {
    /// Facts about the host; also the sign of life.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn facts(&self) -> Result<HostFacts>;

    /// The domain's state; none = not defined.
    ///
    /// # Errors
    /// When the hypervisor cannot be asked.
    fn state(&self, domain: &str) -> Result<Option<DomainState>>;

    /// Defines (or redefines, when off) the domain and starts it unless it runs.
    ///
    /// # Errors
    /// [`crate::Kind::Permanent`] with the hypervisor's words when it refuses.
    fn deploy(&self, spec: &DomainSpec) -> Result<()>;

    /// Starts a defined domain that is off, or lets a paused one go on.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] when it is not defined.
    fn resume(&self, domain: &str) -> Result<()>;

    /// Asks the guest to shut down (agent, else ACPI) and waits until it is off.
    ///
    /// # Errors
    /// [`crate::Kind::Retry`] when the guest is still running after `timeout`.
    fn shutdown(&self, domain: &str, timeout: Duration) -> Result<()>;

    /// Stops the domain at once.
    ///
    /// # Errors
    /// When the hypervisor does not do it.
    fn destroy(&self, domain: &str) -> Result<()>;

    /// Restarts the guest: politely, or with `hard` like the reset button.
    ///
    /// # Errors
    /// When the domain does not run.
    fn reboot(&self, domain: &str, hard: bool) -> Result<()>;

    /// Removes the definition with all checkpoint metadata. The domain must be off.
    ///
    /// # Errors
    /// When the hypervisor refuses.
    fn undefine(&self, domain: &str) -> Result<()>;

    /// Opens a point in time of a domain, running or off (off: the image files are read directly).
    ///
    /// Reading what changed since a checkpoint needs that checkpoint's bitmaps whole on every disk that names it; if one
    /// is missing or inconsistent the call fails with [`crate::Kind::Missing`] and leaves nothing behind.
    ///
    /// # Errors
    /// As said; [`crate::Kind::Permanent`] when the hypervisor refuses; nothing is left behind (no checkpoint, job,
    /// socket, scratch file, frozen guest).
    fn begin_backup(&self, spec: &BackupSpec) -> Result<Box<dyn BackupSession>>;

    /// Undoes what a dead daemon left of a backup: ends the domain's backup job, kills the reader of an off domain,
    /// removes socket and scratch files of `spec`, thaws the guest, resumes one that we suspended.
    ///
    /// # Errors
    /// When the hypervisor cannot be reached.
    fn abandon_backup(&self, spec: &BackupSpec) -> Result<()>;

    /// Names of our checkpoints on the domain's disks (`disks` are looked at when it is off).
    ///
    /// # Errors
    /// When neither hypervisor nor images answer.
    fn checkpoints(&self, domain: &str, disks: &[PathBuf]) -> Result<Vec<String>>;

    /// Deletes a checkpoint and its bitmaps; an unknown one is success.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    fn delete_checkpoint(&self, domain: &str, checkpoint: &str, disks: &[PathBuf]) -> Result<()>;

    /// Sends events of all domains to `sink` from now on, until the sink is closed.
    ///
    /// # Errors
    /// When the subscription is refused.
    fn subscribe(&self, sink: std::sync::mpsc::Sender<DomainEvent>) -> Result<()>;
}
