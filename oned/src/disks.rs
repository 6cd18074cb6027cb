//! Where a VM's disks lie on the host.

use std::path::{Path, PathBuf};

use one_core::template::Vector;

use crate::config::Config;
use crate::ledger::stored;
use crate::store::rows::VmRow;
use crate::store::{StoreError, Tx};

/// One disk of a VM as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDisk {
    /// Disk id.
    pub id: u32,
    /// File that the guest writes into.
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Name in the guest's bus.
    pub target: String,
    /// Size, MB.
    pub size_mb: i64,
    /// Never written.
    pub readonly: bool,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// How it comes to be.
    pub origin: Origin,
}

/// How a disk's file comes to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is the image's own file (persistent images and CD-ROMs).
    Image,
    /// A copy-on-write overlay of the image's file, which has this format.
    Overlay {
        /// The image's file.
        backing: PathBuf,
        /// Its format.
        format: String,
    },
    /// An empty disk.
    Volatile,
}

/// The directory of a VM's own files.
#[must_use]
pub fn vm_directory(config: &Config, vm_id: i64) -> PathBuf {
    config.datastore_location.join("0").join(vm_id.to_string())
}

/// The VM's disks by id.
///
/// # Errors
/// The database's failure.
pub fn of_vm(tx: &mut Tx<'_>, row: &VmRow, config: &Config) -> Result<Vec<VmDisk>, StoreError> {
    let directory = vm_directory(config, row.id);
    let mut disks = Vec::new();
    for vector in stored(&row.template).vectors("DISK") {
        let image = match vector.int("IMAGE_ID") {
            Some(id) => tx.image_find(id)?,
            None => None,
        };
        let backing_format = image.map_or_else(|| "raw".to_string(), |image| image.format);
        if let Some(disk) = read(vector, &directory, backing_format) {
            disks.push(disk);
        }
    }
    Ok(disks)
}

fn read(vector: &Vector, directory: &Path, backing_format: String) -> Option<VmDisk> {
    let id = u32::try_from(vector.int("DISK_ID")?).ok()?;
    let cdrom = vector.get("TYPE") == Some("CDROM");
    let own = directory.join(format!("disk.{id}"));
    let source = vector.get("SOURCE").map(PathBuf::from);
    let clone = vector.yes("CLONE").unwrap_or(false);
    let (path, origin) = match source {
        Some(source) if clone => (own, Origin::Overlay { backing: source, format: backing_format }),
        Some(source) => (source, Origin::Image),
        None => (own, Origin::Volatile),
    };
    Some(VmDisk {
        id,
        path,
        format: vector.get("FORMAT").unwrap_or("qcow2").to_string(),
        target: vector.get("TARGET").unwrap_or("vda").to_string(),
        size_mb: vector.int("SIZE").unwrap_or(0),
        readonly: vector.yes("READONLY").unwrap_or(false),
        cdrom,
        origin,
    })
}
