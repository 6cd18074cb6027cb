//! What a restore point says of itself: the text in `manifest.json`.
//!
//! A reader ignores members that it does not know and refuses versions that it does not know. Nothing in a manifest is
//! used as a path: file names are made from numbers and compared with what it says.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::datastore::{PointFacts, Stored, StoredDisk};
use crate::qcow2::CLUSTER_BYTES;
use crate::{DriverError, Kind, Result};

/// Of a published point.
pub(super) const MANIFEST: &str = "manifest.json";
/// The manifest of a forgotten point whose layers others still need.
pub(super) const HIDDEN: &str = "layer.json";
/// The VM's document.
pub(super) const DOCUMENT: &str = "vm.xml";
/// The version that we write and read.
pub(super) const VERSION: u32 = 1;
/// Longest manifest.
pub(super) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest document.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 64 << 20;
/// Longest disk; what QEMU can open with clusters of 64 KiB.
pub(super) const MAX_DISK_BYTES: u64 = 1 << 51;
/// Most disks of a point.
pub(super) const MAX_DISKS: usize = 4096;
/// Most tags of a point, and their longest text.
const MAX_TAGS: usize = 256;
const MAX_TEXT_BYTES: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) series: String,
    pub(super) point: String,
    pub(super) job: String,
    pub(super) tags: Vec<String>,
    /// Epoch seconds.
    pub(super) time: i64,
    /// The point whose disks the increments below lie upon; null when there are none.
    pub(super) parent: Option<String>,
    pub(super) read_bytes: u64,
    pub(super) stored_bytes: u64,
    /// As in [`Stored::saved_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) saved_bytes: Option<u64>,
    pub(super) document: DocumentFacts,
    /// Ascending by id.
    pub(super) disks: Vec<DiskFacts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DocumentFacts {
    pub(super) length: u64,
    /// Hex.
    pub(super) sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskFacts {
    pub(super) id: u32,
    /// What the guest sees.
    pub(super) size_bytes: u64,
    /// `disk.ID.LABEL`.
    pub(super) file: String,
    /// `qcow2`.
    pub(super) format: String,
    /// Whether clusters that the file does not hold are those of the parent's disk; otherwise they are zeros.
    pub(super) increment: bool,
    /// Length of the file.
    pub(super) file_bytes: u64,
    /// What the file took when it was written; holes take nothing.
    pub(super) taken_bytes: u64,
    pub(super) sums: SumsFacts,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SumsFacts {
    /// The disk's file name with `.sums`.
    pub(super) file: String,
    pub(super) file_bytes: u64,
    pub(super) pages: u64,
    /// SHA-256 of header and index, hex.
    pub(super) sha256: String,
}

impl DiskFacts {
    /// The number at the end of the file's name.
    pub(super) fn label(&self) -> u32 {
        label(&self.file).unwrap_or(0)
    }
}

/// The name of a disk's file.
pub(super) fn disk_file(id: u32, label: u32) -> String {
    format!("disk.{id}.{label}")
}

/// The name of the digests of `file`.
pub(super) fn sums_file(file: &str) -> String {
    format!("{file}.sums")
}

fn label(file: &str) -> Option<u32> {
    file.rsplit('.').next()?.parse().ok()
}

/// The id of the point that `job` makes in `series`.
pub(super) fn point_id(series: &str, job: &str) -> String {
    let mut hash = Sha256::new();
    // A series' name holds no line break.
    hash.update(series.as_bytes());
    hash.update(b"\n");
    hash.update(job.as_bytes());
    hex(&hash.finalize()[..8])
}

/// Whether a text can be a point's id; others never become part of a path.
pub(super) fn is_point_id(id: &str) -> bool {
    id.len() == 16 && is_hex(id)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Manifest {
    /// Reads the manifest of `point` in `series`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for what is not one; [`Kind::Permanent`] for another version.
    pub(super) fn parse(text: &[u8], series: &str, point: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let doing = || format!("reading the manifest of restore point {point} of series {series}");
        let corrupt = |reason: String| DriverError::new(Kind::Corrupt, doing(), reason);
        let versioned: Versioned = serde_json::from_slice(text).map_err(|error| corrupt(error.to_string()))?;
        if versioned.version != VERSION {
            let reason = format!(
                "it has version {}, and only version {VERSION} is known here; use the program that wrote it or a newer one",
                versioned.version
            );
            return Err(DriverError::new(Kind::Permanent, doing(), reason));
        }
        let manifest: Self = serde_json::from_slice(text).map_err(|error| corrupt(error.to_string()))?;
        manifest.check(series, point).map_err(corrupt)?;
        Ok(manifest)
    }

    fn check(&self, series: &str, point: &str) -> std::result::Result<(), String> {
        let wrong = |what: &str| Err(format!("its {what} cannot be right"));
        if self.series != series || self.point != point {
            return Err(format!("it belongs to restore point {:.40} of series {:.210}", self.point, self.series));
        }
        if point_id(series, &self.job) != point {
            return wrong("job");
        }
        if self.tags.len() > MAX_TAGS || self.tags.iter().any(|tag| tag.len() > MAX_TEXT_BYTES) {
            return wrong("list of tags");
        }
        if self.parent.as_deref().is_some_and(|parent| !is_point_id(parent) || parent == point) {
            return wrong("parent");
        }
        if self.document.length > MAX_DOCUMENT_BYTES || !is_digest(&self.document.sha256) {
            return wrong("document");
        }
        if self.disks.len() > MAX_DISKS || self.disks.windows(2).any(|pair| pair[0].id >= pair[1].id) {
            return wrong("list of disks");
        }
        for disk in &self.disks {
            disk.check(self.parent.is_some()).or_else(|what| wrong(&format!("{what} of disk {}", disk.id)))?;
        }
        Ok(())
    }

    /// The text of the file.
    pub(super) fn text(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| DriverError::other(Kind::Permanent, "writing a manifest", error))?;
        text.push(b'\n');
        Ok(text)
    }

    pub(super) fn disk(&self, id: u32) -> Option<&DiskFacts> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    /// Everything that the point takes in the datastore.
    pub(super) fn count_bytes(&mut self) -> Result<()> {
        let files: u64 = self.disks.iter().map(|disk| disk.taken_bytes.saturating_add(disk.sums.file_bytes)).sum();
        self.stored_bytes = files.saturating_add(self.document.length);
        // As long as with the final number, within a few digits.
        self.stored_bytes = self.stored_bytes.saturating_add(self.text()?.len() as u64);
        Ok(())
    }

    pub(super) fn stored(&self) -> Stored {
        Stored {
            point: self.point.clone(),
            read_bytes: self.read_bytes,
            stored_bytes: self.stored_bytes,
            saved_bytes: self.saved_bytes,
            unmarked_bytes: 0,
            disks: self.disks.iter().map(|disk| StoredDisk { id: disk.id, size_bytes: disk.size_bytes }).collect(),
        }
    }

    pub(super) fn facts(&self) -> PointFacts {
        PointFacts {
            stored: self.stored(),
            parent: self.parent.clone(),
            job: self.job.clone(),
            tags: self.tags.clone(),
            time: self.time,
        }
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

impl DiskFacts {
    fn check(&self, parent: bool) -> std::result::Result<(), &'static str> {
        let label = label(&self.file).filter(|label| disk_file(self.id, *label) == self.file);
        if label.is_none() || self.sums.file != sums_file(&self.file) {
            return Err("file name");
        }
        if self.format != "qcow2" {
            return Err("format");
        }
        if self.size_bytes > MAX_DISK_BYTES {
            return Err("size");
        }
        if self.increment && !parent {
            return Err("parent");
        }
        let most_pages = self.size_bytes.div_ceil(CLUSTER_BYTES).div_ceil(super::sums::PAGE_CLUSTERS);
        if self.sums.pages > most_pages || !is_digest(&self.sums.sha256) {
            return Err("list of digests");
        }
        Ok(())
    }
}
