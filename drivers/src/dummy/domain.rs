//! Domains of the dummy hypervisor: one document each, and the folder of everything that belongs to it.
//!
//! ```text
//! domains/one-7/domain.json               definition and state; none = not defined
//! domains/one-7/checkpoints/one-7-42.json  digests of the disks at that instant
//! domains/one-7/snapshots/0/NAME.json      a disk snapshot, whole when this is there; its image is NAME.img beside it
//! domains/one-7/system/NAME/manifest.json  a system snapshot, whole when this is there; images beside it
//! ```
//!
//! Each is read anew at each call, so a test may rename another `domain.json` onto it, with `"state": "crashed"` for one.
//!
//! What stands for something inside an image (checkpoints, snapshots) outlives the definition, and goes when the images
//! are gone.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::files;
use crate::hypervisor::{DiskFormat, DomainDisk, DomainNic, DomainSpec, DomainState, DomainStats, Freeze, NicKind};
use crate::{DriverError, Kind, Result};

/// What the hypervisor knows of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) memory_mb: u64,
    pub(super) vcpus: u32,
    pub(super) state: State,
    /// Epoch seconds of the last start.
    pub(super) started_at: u64,
    /// How often it was started; tells one run of the domain from the next.
    pub(super) starts: u64,
    pub(super) disks: Vec<Disk>,
    pub(super) nics: Vec<Nic>,
    /// How a backup holds the guest quiet just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<Held>,
}

/// [`Freeze`] on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Held {
    Frozen,
    Suspended,
}

impl Held {
    pub(super) fn by(freeze: Freeze) -> Option<Self> {
        match freeze {
            Freeze::None => None,
            Freeze::Agent => Some(Self::Frozen),
            Freeze::Suspend => Some(Self::Suspended),
        }
    }
}

/// [`DomainState`] on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Running,
    Paused,
    PausedIoError,
    ShuttingDown,
    Off,
    Crashed,
}

impl State {
    pub(super) fn is_off(self) -> bool {
        matches!(self, Self::Off | Self::Crashed)
    }
}

impl From<State> for DomainState {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Paused => Self::Paused,
            State::PausedIoError => Self::PausedIoError,
            State::ShuttingDown => Self::ShuttingDown,
            State::Off => Self::Off,
            State::Crashed => Self::Crashed,
        }
    }
}

impl From<DomainState> for State {
    fn from(state: DomainState) -> Self {
        match state {
            DomainState::Running => Self::Running,
            DomainState::Paused => Self::Paused,
            DomainState::PausedIoError => Self::PausedIoError,
            DomainState::ShuttingDown => Self::ShuttingDown,
            DomainState::Off => Self::Off,
            DomainState::Crashed => Self::Crashed,
        }
    }
}

/// [`DomainDisk`] on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    pub(super) id: u32,
    pub(super) path: PathBuf,
    pub(super) qcow2: bool,
    pub(super) target: String,
    pub(super) readonly: bool,
    pub(super) cdrom: bool,
}

impl Disk {
    pub(super) fn format(&self) -> DiskFormat {
        if self.qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw }
    }

    /// Whether it has an image at all: a CD-ROM drive may be empty.
    fn has_image(&self) -> bool {
        !(self.cdrom && self.path.as_os_str().is_empty())
    }
}

impl From<&DomainDisk> for Disk {
    fn from(disk: &DomainDisk) -> Self {
        Self {
            id: disk.id,
            path: disk.path.clone(),
            qcow2: disk.format == DiskFormat::Qcow2,
            target: disk.target.clone(),
            readonly: disk.readonly,
            cdrom: disk.cdrom,
        }
    }
}

/// [`DomainNic`] on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nic {
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) mac: Option<String>,
    pub(super) model: String,
    pub(super) target: String,
}

impl From<&DomainNic> for Nic {
    fn from(nic: &DomainNic) -> Self {
        let kind = match nic.kind {
            NicKind::Network => "network",
            NicKind::Bridge => "bridge",
            NicKind::User => "user",
        };
        Self {
            kind: kind.to_owned(),
            source: nic.source.clone(),
            mac: nic.mac.clone(),
            model: nic.model.clone(),
            target: nic.target.clone(),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Record {
    /// A domain that has never run; `starts` of the one that it takes the place of go on.
    pub(super) fn new(spec: &DomainSpec, starts: u64) -> Self {
        Self {
            name: spec.name.clone(),
            uuid: spec.uuid.clone(),
            memory_mb: spec.memory_mb,
            vcpus: spec.vcpus,
            state: State::Off,
            started_at: 0,
            starts,
            disks: spec.disks.iter().map(Disk::from).collect(),
            nics: spec.nics.iter().map(Nic::from).collect(),
            held: None,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`Kind::Missing`] when the image of a disk is not there.
    pub(super) fn start(&mut self) -> Result<()> {
        for disk in self.disks.iter().filter(|disk| disk.has_image()) {
            check_image(&self.name, disk)?;
        }
        self.state = State::Running;
        self.held = None;
        self.started_at = now();
        self.starts = self.starts.saturating_add(1);
        Ok(())
    }

    /// Numbers that only grow while it runs, and are those of a guest that does little.
    pub(super) fn stats(&self) -> DomainStats {
        let seconds = now().saturating_sub(self.started_at);
        let rate = |per_second: u64| seconds.saturating_mul(per_second);
        let busy = if self.state == State::Running { 5.0 } else { 0.0 };
        DomainStats {
            cpu_percent: busy * f64::from(self.vcpus),
            memory_kb: self.memory_mb.saturating_mul(1024),
            disk_read_bytes: rate(4096),
            disk_write_bytes: rate(8192),
            disk_read_ops: rate(1),
            disk_write_ops: rate(2),
            net_rx_bytes: rate(1000),
            net_tx_bytes: rate(500),
        }
    }
}

/// Refuses a disk without its image.
pub(super) fn check_image(domain: &str, disk: &Disk) -> Result<()> {
    let found = std::fs::metadata(&disk.path);
    found.map(drop).map_err(|error| {
        DriverError::io(format!("giving disk {} ({}) to domain {domain}", disk.id, disk.path.display()), error)
    })
}

/// The folder of one domain.
#[derive(Debug, Clone)]
pub(super) struct Place {
    folder: PathBuf,
}

/// Documents that name the images that they are about.
#[derive(Deserialize)]
struct AboutImages {
    images: Vec<PathBuf>,
}

impl Place {
    /// The folder of `domain` in the directory of all.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for impossible names.
    pub(super) fn new(domains: &Path, domain: &str) -> Result<Self> {
        Ok(Self { folder: domains.join(files::file_name("a domain's name", domain)?) })
    }

    /// What is known of the domain; none = it is not defined.
    pub(super) fn record(&self) -> Result<Option<Record>> {
        files::read_document(&self.folder.join("domain.json"))
    }

    /// Replaces what is known of the domain.
    pub(super) fn write(&self, record: Option<&Record>) -> Result<()> {
        let path = self.folder.join("domain.json");
        match record {
            None => crate::disk::remove(&path),
            Some(record) => {
                files::make_directory(&self.folder)?;
                files::write_document(&path, record)
            }
        }
    }

    /// The document of a checkpoint.
    pub(super) fn checkpoint(&self, name: &str) -> Result<PathBuf> {
        Ok(self.checkpoints().join(files::file_name("a checkpoint's name", name)? + ".json"))
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    /// Document and image of a disk snapshot.
    pub(super) fn disk_snapshot(&self, disk: u32, name: &str) -> Result<(PathBuf, PathBuf)> {
        let folder = self.folder.join("snapshots").join(disk.to_string());
        let name = files::file_name("a snapshot's name", name)?;
        Ok((folder.join(format!("{name}.json")), folder.join(format!("{name}.img"))))
    }

    /// Folder of a system snapshot.
    pub(super) fn system_snapshot(&self, name: &str) -> Result<PathBuf> {
        Ok(self.folder.join("system").join(files::file_name("a snapshot's name", name)?))
    }

    /// Removes checkpoints and snapshots of images that are gone, those that were not finished, and the folder itself when
    /// nothing is left. Only for domains that are not defined; nobody else works on the domain.
    pub(super) fn sweep(&self) -> Result<()> {
        for name in files::list(&self.checkpoints())? {
            let path = self.checkpoints().join(name);
            if is_orphan(&path) {
                crate::disk::remove(&path)?;
            }
        }
        let snapshots = self.folder.join("snapshots");
        for disk in files::list(&snapshots)? {
            let folder = snapshots.join(disk);
            for name in files::list(&folder)? {
                let path = folder.join(&name);
                if is_orphan(&path.with_extension("json")) {
                    crate::disk::remove(&path)?;
                }
            }
            drop(std::fs::remove_dir(&folder));
        }
        let system = self.folder.join("system");
        for name in files::list(&system)? {
            let folder = system.join(name);
            if is_orphan(&folder.join("manifest.json")) {
                files::remove_directory(&folder)?;
            }
        }
        // Of a definition that was not finished.
        crate::disk::remove(&self.folder.join("domain.json.part"))?;
        // Those that still hold something stay.
        for folder in [self.checkpoints(), snapshots, system, self.folder.clone()] {
            drop(std::fs::remove_dir(folder));
        }
        Ok(())
    }
}

/// Whether no image is left that a document is about, or there is no such document.
fn is_orphan(document: &Path) -> bool {
    match files::read_document::<AboutImages>(document) {
        Ok(Some(about)) => !about.images.iter().any(|image| image.exists()),
        _ => true,
    }
}

/// For calls that need the domain.
pub(super) fn not_defined(name: &str, doing: &str) -> DriverError {
    DriverError::new(Kind::Missing, format!("{doing} domain {name}"), "there is no such domain")
}
