//! What a hypervisor driver must do: run domains and let their disks be read at one point in time.
//!
//! Domains, checkpoints, sockets and scratch files have names that the caller fixes, so that after a crash each of them
//! can be found again. Every call is idempotent by name: starting what runs, destroying what is gone, deleting an absent
//! checkpoint succeed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{DiskReader, DriverError, Kind, Result};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// Name of the host's end, e.g. `one-7-0`, at most 15 bytes; empty = the hypervisor's choice. Unused for `user`.
    pub target: String,
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

/// What a running domain has used so far. Counters begin at 0 with each start of the hypervisor process.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DomainStats {
    /// Processor time over the moment before the question, in percent of one processor (two busy ones = 200).
    pub cpu_percent: f64,
    /// Memory that the domain takes of the host, in kB.
    pub memory_kb: u64,
    /// Bytes read from all disks.
    pub disk_read_bytes: u64,
    /// Bytes written to all disks.
    pub disk_write_bytes: u64,
    /// Read requests to all disks.
    pub disk_read_ops: u64,
    /// Write requests to all disks.
    pub disk_write_ops: u64,
    /// Bytes that the guest received on all network cards.
    pub net_rx_bytes: u64,
    /// Bytes that the guest sent on all network cards.
    pub net_tx_bytes: u64,
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
    /// Whether a guest that cannot be quiesced is not to be backed up at all; else it is, with a warning.
    pub freeze_required: bool,
    /// How long quiescing may take in all before it is given up and undone.
    pub freeze_timeout: Duration,
}

impl BackupSpec {
    /// What follows from a guest that was not quiet at the point in time: a warning of the session.
    ///
    /// # Errors
    /// [`Kind::Permanent`] when only a quiet guest is to be backed up; nothing of the backup may be left then.
    pub(crate) fn not_quiet(&self, reason: &str) -> Result<String> {
        let sentence = format!("crash-consistent: domain {} could not be quieted ({reason})", self.domain);
        if !self.freeze_required {
            return Ok(sentence);
        }
        let doing = format!("beginning a backup of domain {}", self.domain);
        Err(DriverError::new(Kind::Permanent, doing, format!("{sentence}, and only a quiet one is wanted")))
    }
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

    /// Stops the processors of a running domain; [`Self::resume`] lets them go on. Paused already is success.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] when it is not defined, [`crate::Kind::Permanent`] when it does not run.
    fn pause(&self, domain: &str) -> Result<()>;

    /// Saves the guest's memory and devices into `file` and stops the domain, which stays defined. The file gets its name
    /// only when it is whole; until then it is `file` with `.part` added. Off already with the file there is success.
    ///
    /// The disks are not copied: the file is good for as long as nobody writes to them. Dirty bitmaps and checkpoints may
    /// be lost on the way; a backup then reads everything.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] when the domain is not defined, or is off and there is no file; [`crate::Kind::Permanent`]
    /// with the hypervisor's words when it refuses (the guest then goes on); no `.part` is left.
    fn save(&self, domain: &str, file: &Path) -> Result<()>;

    /// Lets the domain go on from `file`, running also when it was saved while paused. Active already is success. The file
    /// is left for the caller to remove, and must not be used twice: the guest has written to its disks since.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] without a file, [`crate::Kind::Corrupt`] when it is not of this domain,
    /// [`crate::Kind::Permanent`] with the hypervisor's words.
    fn restore_saved(&self, domain: &str, file: &Path) -> Result<()>;

    /// Attaches a disk: to the running guest and to the definition, or only to the definition of a domain that is off. The
    /// same image at the same target is success.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] when the domain is not defined; [`crate::Kind::Permanent`] when the target has another
    /// image or the hypervisor refuses (the guest's bus cannot take devices while it runs).
    fn attach_disk(&self, domain: &str, disk: &DomainDisk) -> Result<()>;

    /// Detaches the disk at `target` as [`Self::attach_disk`] attaches it, and waits until the guest let go of it. An absent
    /// one is success, and so is an absent domain.
    ///
    /// # Errors
    /// [`crate::Kind::Retry`] when the guest still holds it after `timeout`. It then stays in the definition too, but the
    /// request stays with the guest, which may let go of it later;
    /// [`crate::Kind::Permanent`] when the hypervisor refuses.
    fn detach_disk(&self, domain: &str, target: &str, timeout: Duration) -> Result<()>;

    /// Attaches a network card, as [`Self::attach_disk`] does a disk; `nic.mac` names it and must be set. A card with this
    /// address is success.
    ///
    /// # Errors
    /// As [`Self::attach_disk`]; [`crate::Kind::Permanent`] without an address.
    fn attach_nic(&self, domain: &str, nic: &DomainNic) -> Result<()>;

    /// Detaches the network card with this address, as [`Self::detach_disk`] does a disk.
    ///
    /// # Errors
    /// As [`Self::detach_disk`].
    fn detach_nic(&self, domain: &str, mac: &str, timeout: Duration) -> Result<()>;

    /// Makes a disk `bytes` long, seen by a running guest at once. It only grows; the size it has is success.
    ///
    /// # Errors
    /// [`crate::Kind::Permanent`] when the disk is longer than `bytes`, or the hypervisor refuses;
    /// [`crate::Kind::Retry`] while a backup reads it.
    fn resize_disk(&self, domain: &str, disk: &DomainDisk, bytes: u64) -> Result<()>;

    /// Makes a snapshot inside the image of a disk, of a domain that is off (or not defined). One of this name is success.
    ///
    /// # Errors
    /// [`crate::Kind::Permanent`] when the domain runs or the image is not qcow2.
    fn disk_snapshot_create(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()>;

    /// Puts the disk back to a snapshot, which stays. All dirty bitmaps of the image go, since they know nothing of the
    /// change: the next backup reads everything.
    ///
    /// # Errors
    /// As [`Self::disk_snapshot_create`]; [`crate::Kind::Missing`] without such a snapshot.
    fn disk_snapshot_revert(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()>;

    /// Deletes a snapshot of a disk; an absent one is success.
    ///
    /// # Errors
    /// As [`Self::disk_snapshot_create`].
    fn disk_snapshot_delete(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()>;

    /// Makes a snapshot of a running domain, memory and disks, inside its images. One of this name is success.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] when the domain is not defined; [`crate::Kind::Permanent`] when it does not run, a writable
    /// disk is not qcow2, or the hypervisor refuses because of checkpoints.
    fn system_snapshot_create(&self, domain: &str, snapshot: &str) -> Result<()>;

    /// Puts the domain back to a system snapshot, which stays; it then runs.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] without such a snapshot or domain; [`crate::Kind::Permanent`] when the hypervisor refuses.
    fn system_snapshot_revert(&self, domain: &str, snapshot: &str) -> Result<()>;

    /// Deletes a system snapshot; an absent one, or an absent domain, is success.
    ///
    /// # Errors
    /// When the hypervisor refuses.
    fn system_snapshot_delete(&self, domain: &str, snapshot: &str) -> Result<()>;

    /// What the domain has used so far; none = it does not run.
    ///
    /// # Errors
    /// When the hypervisor cannot be asked.
    fn stats(&self, domain: &str) -> Result<Option<DomainStats>>;

    /// Opens a point in time of a domain, running or off (off: the image files are read directly).
    ///
    /// Reading what changed since a checkpoint needs that checkpoint's bitmaps whole on every disk that names it; if one
    /// is missing or inconsistent the call fails with [`crate::Kind::Missing`] and leaves nothing behind.
    ///
    /// # Errors
    /// As said; [`crate::Kind::Permanent`] when the hypervisor refuses, or the guest cannot be quieted and that is required;
    /// nothing is left behind (no checkpoint, job, socket, scratch file, frozen guest).
    fn begin_backup(&self, spec: &BackupSpec) -> Result<Box<dyn BackupSession>>;

    /// Undoes what a dead daemon left of a backup: thaws the guest, resumes one that we suspended (first, for the rest may
    /// take long), ends the domain's backup job, kills the reader of an off domain, removes socket and scratch files of
    /// `spec`.
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
