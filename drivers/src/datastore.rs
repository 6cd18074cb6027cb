//! What a backup datastore driver must do.
//!
//! A *restore point* is one state of all stored disks of one VM, with the VM's document. It has an opaque id that the
//! driver gives: hex digits, the first eight of which people see. Points of one VM live in one *series*, named by the
//! caller: `7` for VM 7, `job-3/7` for VM 7 in *group* `job-3`, which is backup job 3.
//!
//! A series' name is `NAME` or `GROUP/NAME`, each 1 to 100 letters, digits, `_`, `-` or `.`, not beginning with `.`
//! ([`SeriesName`]). Anything else is [`crate::Kind::Permanent`] in every method. What the members of a group have in common
//! in the store is up to the driver: disk space and locks, perhaps. Seen from here they are as apart as all series are: no
//! call on one shows, needs or harms points of another, nor of a series that is called as the group is.
//!
//! Contract, which `drivers/tests/conformance` holds every driver to:
//! - [`BackupDatastore::store`] publishes the point as its very last, durable act and tags it with the caller's `job`
//!   name; so after a crash [`BackupDatastore::find`] tells whether that act happened. Everything written before it is
//!   invisible to readers and removed by [`BackupDatastore::sweep`].
//! - every byte that is given back was compared with a digest that was stored with it;
//! - a point that is published is never changed by anything but [`BackupDatastore::forget`] of another one, which leaves
//!   what it reads as untouched and may be repeated after a crash;
//! - every wait for something outside (a lock, a disk, a server) ends in time or shows in the beats of [`Progress`].

mod name;

use std::path::PathBuf;

pub use self::name::SeriesName;
pub(crate) use self::name::{group_folder, group_of_folder};
use crate::disk::{Qcow2Writer, RawWriter};
use crate::hypervisor::DiskFormat;
use crate::{Cancel, DiskReader, DiskWriter, Extent, Progress, Result};

/// Bytes of the file system (or quota) behind a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Capacity {
    /// In all.
    pub total_bytes: u64,
    /// Free to this daemon.
    pub free_bytes: u64,
    /// Used by this datastore itself.
    pub used_bytes: u64,
}

/// How a disk relates to the parent point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Change {
    /// The reader's extents cover the whole disk; it is stored for itself.
    Whole,
    /// The reader lists only what changed since the parent point.
    SinceParent,
    /// The reader's extents cover the whole disk; all of it is read, and only what differs from the parent point is
    /// stored. For lost bitmaps, and for looking whether a bitmap told the truth.
    Compare,
}

/// One disk to store.
pub struct SourceDisk {
    /// The VM's disk id; the disk is stored as `disk.N`.
    pub id: u32,
    /// Where its bytes come from.
    pub reader: Box<dyn DiskReader>,
    /// Whether `reader` lists everything or only changes.
    pub change: Change,
    /// With [`Change::Compare`]: what the record of changes lists, if there is one. What differs elsewhere is counted in
    /// [`Stored::unmarked_bytes`].
    pub marked: Option<Vec<Extent>>,
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
    /// The point that [`Change::SinceParent`] and [`Change::Compare`] refer to.
    pub parent: Option<&'a str>,
    /// The VM's document, stored as `vm.xml`.
    pub document: &'a [u8],
}

/// One stored disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredDisk {
    /// The VM's disk id.
    pub id: u32,
    /// Size of the disk, bytes.
    pub size_bytes: u64,
}

/// A published restore point.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// The driver's id of the point; for restic the 64 hex digits of the snapshot.
    pub point: String,
    /// Bytes read from the disks for this point.
    pub read_bytes: u64,
    /// Bytes that the datastore grew by.
    pub stored_bytes: u64,
    /// Bytes read that needed no storing, because the datastore held the same already or because they are zeros; before
    /// compression, never more than `read_bytes`. None = stored by a version that did not count them.
    #[serde(default)]
    pub saved_bytes: Option<u64>,
    /// Bytes that differed from the parent although the record of changes did not list them; 0 is the only good value,
    /// and means nothing unless [`Change::Compare`] was asked for.
    pub unmarked_bytes: u64,
    /// Its disks, by id.
    pub disks: Vec<StoredDisk>,
}

/// What a datastore knows of a published point by itself: enough to rebuild a catalogue that was lost.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PointFacts {
    /// As [`BackupDatastore::store`] returned it (`unmarked_bytes` is 0).
    pub stored: Stored,
    /// The point that it was an increment of, when that is still there.
    pub parent: Option<String>,
    /// As in [`StoreRequest::job`].
    pub job: String,
    /// As in [`StoreRequest::tags`].
    pub tags: Vec<String>,
    /// Point in time of the data, epoch seconds.
    pub time: i64,
}

/// Which disk to give back, and how.
pub struct RestoreRequest<'a> {
    /// The series.
    pub series: &'a str,
    /// The point.
    pub point: &'a str,
    /// The VM's disk id.
    pub disk: u32,
    /// Whether damaged ranges are left as zeros and reported, instead of ending the restore.
    pub skip_bad: bool,
    /// A disk that is thought to hold nearly the same. What it holds already is taken from it and not from the datastore,
    /// where the datastore can tell by digests.
    pub current: Option<Box<dyn DiskReader>>,
}

/// A disk that was given back.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Restored {
    /// Bytes written into the target; zeros are left out.
    pub written_bytes: u64,
    /// Bytes of the disk that came from the datastore.
    pub fetched_bytes: u64,
    /// What was left out, with `skip_bad`; ascending.
    pub damages: Vec<Damage>,
}

/// A range of a disk (or something beside disks) that cannot be given back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Damage {
    /// The points that it belongs to; never empty.
    pub points: Vec<String>,
    /// The disk; none = not part of a disk (a document, a directory, an index).
    pub disk: Option<u32>,
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes; 0 when nobody can tell.
    pub length: u64,
    /// Which file is damaged and how, one clause.
    pub what: String,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Depth {
    /// Structure, presence and length of every file.
    Quick,
    /// Every byte.
    Deep,
}

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct VerifyRequest<'a> {
    /// The series.
    pub series: &'a str,
    /// The points; what several of them share is read once.
    pub points: &'a [String],
    /// How closely.
    pub depth: Depth,
    /// The last text that an interrupted call with the same series, points and depth gave to `save`: it goes on there.
    pub resume: Option<&'a str>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Verified {
    /// Bytes read from the datastore, those before an interruption included.
    pub read_bytes: u64,
    /// All damages, at most [`MAX_DAMAGES`].
    pub damages: Vec<Damage>,
}

/// Damages are told up to this number; a datastore with more is lost anyway.
pub const MAX_DAMAGES: usize = 1000;

/// What came of forgetting.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Forgotten {
    /// Bytes that the datastore shrank by.
    pub freed_bytes: u64,
    /// Points that are kept and whose own bytes changed, with [`Stored::stored_bytes`] as it is now.
    pub resized: Vec<(String, u64)>,
}

/// A backup datastore.
pub trait BackupDatastore: Send + Sync {
    /// Space of the datastore.
    ///
    /// # Errors
    /// When the place is not reachable.
    fn capacity(&self) -> Result<Capacity>;

    /// Whether files can be made there: makes a small one, reads it back and removes it. Nothing that is kept there is
    /// touched. Where there are no files, measuring has to do.
    ///
    /// # Errors
    /// When the place is not reachable, read-only or full, with what stood in the way.
    fn probe(&self) -> Result<()> {
        self.capacity().map(drop)
    }

    /// Stores one restore point; see the module text for what that promises. Disks are taken in the given order.
    ///
    /// When `parent` cannot be used (missing, damaged, other geometry), a disk that refers to it is refused with
    /// [`crate::Kind::Corrupt`] or [`crate::Kind::Missing`] before anything is read; the caller then makes a full one. With
    /// [`Change::Compare`] a disk of another size may be compared as far as both go.
    /// Storing again under a `job` that is published gives the point that is there.
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

    /// Writes a disk into `target`, leaving out ranges that are all zero; `target` is not finished. The bytes are compared
    /// with the datastore's own digests while they are read.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] for an unknown point or disk, [`crate::Kind::Corrupt`] for damaged data, with disk and
    /// offset, unless `skip_bad`.
    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored>;

    /// As [`Self::restore`] into the new image `target` (which appears whole or not at all), finished.
    ///
    /// # Errors
    /// As [`Self::restore`], and when the image cannot be made.
    fn restore_image(
        &self,
        request: RestoreRequest<'_>,
        target: &ImageTarget,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let mut writer = target.create()?;
        let restored = self.restore(request, writer.as_mut(), progress, cancel)?;
        // A large image takes long to become durable; it is not on the datastore.
        progress.beat_during(|| writer.finish())?;
        Ok(restored)
    }

    /// Looks whether points can be given back. `save` is handed a text of at most 64 KiB now and then; see
    /// [`VerifyRequest::resume`]. Damage is a result, not an error.
    ///
    /// # Errors
    /// [`crate::Kind::Missing`] for an unknown point; when the datastore cannot be reached; an error of `save`.
    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified>;

    /// Forgets `points` and frees what only they needed. Repeating it after a crash is harmless; unknown points count as
    /// forgotten. The other points can be restored meanwhile.
    ///
    /// # Errors
    /// When the series, or its group, is in use by another writer (kind `Retry`) or cannot be changed. No other point is ever harmed.
    fn forget(&self, series: &str, points: &[String], progress: &Progress, cancel: &Cancel) -> Result<Forgotten>;

    /// Removes what interrupted operations left in `series` (temporary files, unreferenced packs, stale locks of ours) and
    /// finishes a forget that was cut off. Harmless beside operations that run: it waits for them or leaves theirs alone.
    ///
    /// # Errors
    /// When the series cannot be cleaned now.
    fn sweep(&self, series: &str, progress: &Progress) -> Result<()>;

    /// The names of all series, sorted; those in groups as `GROUP/NAME`.
    ///
    /// # Errors
    /// When the datastore cannot be read. Series of which not even the names can be read are left out with a warning in the
    /// log.
    fn series(&self) -> Result<Vec<String>>;

    /// Every published point of `series`, oldest first.
    ///
    /// # Errors
    /// When the datastore cannot be read. A point that is damaged is left out with a warning in the log.
    fn points(&self, series: &str) -> Result<Vec<PointFacts>>;
}

/// An image to make.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageTarget {
    /// Its file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Size that a guest sees, bytes; a multiple of 512.
    pub size_bytes: u64,
}

impl ImageTarget {
    /// Starts the file; dropped without [`DiskWriter::finish`] it leaves nothing.
    ///
    /// # Errors
    /// When the size is impossible or the file cannot be made.
    pub fn create(&self) -> Result<Box<dyn DiskWriter>> {
        Ok(match self.format {
            DiskFormat::Qcow2 => Box::new(Qcow2Writer::create(&self.path, self.size_bytes)?),
            DiskFormat::Raw => Box::new(RawWriter::create(&self.path, self.size_bytes)?),
        })
    }
}
