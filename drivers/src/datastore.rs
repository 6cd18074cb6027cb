//! What a backup datastore driver must do.
//!
//! A *restore point* is one state of all stored disks of one VM, with the VM's document. It has an opaque id that the
//! driver gives. Points of one VM (or of one backup job) live in one *series*, named by the caller: `7` for VM 7,
//! `job_3` for backup job 3.
//!
//! Contract: [`BackupDatastore::store`] publishes the point as its very last, durable act and tags it with the caller's
//! `job` name; so after a crash [`BackupDatastore::find`] tells whether that act happened. Everything written before it
//! is invisible to readers and removed by [`BackupDatastore::sweep`].

use crate::{Cancel, DiskReader, DiskWriter, Progress, Result};

/// Bytes of the file system (or quota) behind a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// In all.
    pub total_bytes: u64,
    /// Free to this daemon.
    pub free_bytes: u64,
    /// Used by this datastore itself.
    pub used_bytes: u64,
}

/// How a disk relates to the parent point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The reader's extents cover the whole disk.
    Whole,
    /// The reader lists only what changed since the parent point.
    SinceParent,
}

/// One disk to store.
pub struct SourceDisk {
    /// The VM's disk id; the disk is stored as `disk.N`.
    pub id: u32,
    /// Where its bytes come from.
    pub reader: Box<dyn DiskReader>,
    /// Whether `reader` lists everything or only changes.
    pub change: Change,
}

/// What to store, and under which names.
pub struct StoreRequest<'a> {
    /// The series (see the module text).
    pub series: &'a str,
    /// Labels that outside tools show, e.g. `one-7`.
    pub tags: &'a [String],
    /// Name of the operation, unique for ever in this series, e.g. `job=42`; findable by [`BackupDatastore::find`].
    pub job: &'a str,
    /// Point in time of the data, epoch seconds.
    pub time: i64,
    /// The point that `Change::SinceParent` refers to.
    pub parent: Option<&'a str>,
    /// The VM's document, stored as `vm.xml`.
    pub document: &'a [u8],
}

/// One stored disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDisk {
    /// The VM's disk id.
    pub id: u32,
    /// Size of the disk, bytes.
    pub size_bytes: u64,
}

/// A published restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The driver's id of the point; for restic the 64 hex digits of the snapshot.
    pub point: String,
    /// Bytes read from the disks for this point.
    pub read_bytes: u64,
    /// Bytes that the datastore grew by.
    pub stored_bytes: u64,
    /// Its disks, by id.
    pub disks: Vec<StoredDisk>,
}

/// A backup datastore.
pub trait BackupDatastore: Send + Sync {
    /// Space of the datastore.
    ///
    /// # Errors
    /// When the place is not reachable.
    fn capacity(&self) -> Result<Capacity>;

    /// Stores one restore point; see the module text for what that promises. Disks are taken in the given order.
    ///
    /// When `parent` cannot be used (missing, damaged, other geometry), a disk of `Change::SinceParent` is refused with
    /// [`crate::Kind::Corrupt`] or [`crate::Kind::Missing`] before anything is read; the caller then makes a full one.
    ///
    /// # Errors
    /// Any failed read or write, a cancel: nothing is published then.
    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored>;

    /// The point that the operation `job` published in `series`, if it did.
    ///
    /// # Errors
    /// When the datastore cannot be read.
    fn find(&self, series: &str, job: &str) -> Result<Option<Stored>>;

    /// Whether `point` is there and lists all its disks (not a check of every byte).
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] when it is not there.
    fn inspect(&self, series: &str, point: &str) -> Result<Stored>;

    /// The document stored with `point`.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] when the point is not there.
    fn document(&self, series: &str, point: &str) -> Result<Vec<u8>>;

    /// Writes disk `disk` of `point` into `target`, leaving out ranges that are all zero; `target` is not finished.
    /// The bytes are verified against the datastore's own digests while they are read.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] for an unknown point or disk, [`crate::Kind::Corrupt`] for damaged data.
    fn restore(
        &self,
        series: &str,
        point: &str,
        disk: u32,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<u64>;

    /// Forgets `points` and frees what only they needed. Repeating it after a crash is harmless; unknown points count as
    /// forgotten. Returns the bytes freed.
    ///
    /// # Errors
    /// When the series is in use by another writer (kind `Retry`) or cannot be changed. No other point is ever harmed.
    fn forget(&self, series: &str, points: &[String]) -> Result<u64>;

    /// Removes what interrupted operations left in `series` (temporary files, unreferenced packs, stale locks of ours).
    /// Only called when none of our operations runs on it.
    ///
    /// # Errors
    /// When the series cannot be cleaned now.
    fn sweep(&self, series: &str) -> Result<()>;

    /// Every published point of `series`.
    ///
    /// # Errors
    /// When the datastore cannot be read.
    fn points(&self, series: &str) -> Result<Vec<String>>;
}
