//! Our own part of the qcow2 format: what images of backups need.
//!
//! [`ImageWriter`] makes new images, also compressed and with a backing file; [`Image`] reads one layer; [`Merge`] writes
//! clusters of a newer layer into an older image. Facts of the format come from QEMU's `docs/interop/qcow2.txt`.
//!
//! It is no general qcow2 driver: version 3, clusters of 64 KiB, refcounts of 16 bits, no snapshots, no bitmaps, no
//! encryption, no external data. It opens no file by itself: it is given open files and never follows a backing name. It
//! takes no locks; one writer per image is the caller's duty.
//!
//! Invariants: a file is no image before [`ImageWriter::finish`] wrote its header, which is its last write. An image that
//! is merged into is sound at every instant: all metadata is written to places that nothing refers to, and one write of
//! 512 bytes switches to it. No byte of an image makes this code panic or take memory beyond what is said at each type.

mod compress;
mod header;
mod merge;
mod reader;
mod space;
mod storage;
mod tables;
mod writer;

use crate::hypervisor::DiskFormat;

pub use merge::Merge;
pub use reader::Image;
#[doc(hidden)]
pub use storage::{Gate, Step};
pub use writer::ImageWriter;

/// Bytes of a cluster, the unit in which images are allocated.
pub const CLUSTER_BYTES: u64 = 64 << 10;

/// The same, for lengths in memory.
const CLUSTER: usize = 64 << 10;
/// Entries of a second-level table: one cluster of 8 bytes each.
const L2_ENTRIES: usize = CLUSTER / 8;
/// The unit of descriptors of compressed clusters, and of sizes of disks.
const SECTOR: u64 = 512;
/// What QEMU can open with clusters of 64 KiB: 2^22 first-level entries of 512 MiB each.
const MAX_SIZE_BYTES: u64 = 1 << 51;

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Raw deflate with a window of 4 KiB; every QEMU reads it.
    Zlib,
    /// One zstd frame per cluster; QEMU reads it since 5.1.
    Zstd,
}

/// The file that clusters which a layer does not hold are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// As written into the header, 1 to 1023 bytes; a relative path starts at the directory of the image.
    pub name: String,
    /// Its format.
    pub format: DiskFormat,
}

/// What one layer holds of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing; the backing file has it, or it reads as zeros if there is none.
    Absent,
    /// Zeros, whatever the backing file has.
    Zero,
    /// Bytes.
    Data,
}

/// Neighbouring clusters of one [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first cluster.
    pub first: u64,
    /// How many, never 0.
    pub clusters: u64,
    /// What the layer holds of them.
    pub place: Place,
}

/// An image that is whole and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Length of the file, bytes. Holes in it take no space; the file's blocks tell how much does.
    pub file_bytes: u64,
}

/// A host cluster's or an item's number as an index; what does not fit an index is beyond every table.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The end of what clusters from `first` on hold, in clusters; none when `data_bytes` is not whole clusters (the last one
/// of the disk may be short), is empty, or reaches past the disk's end.
fn whole_clusters(size_bytes: u64, first: u64, data_bytes: u64) -> Option<u64> {
    let start = first.checked_mul(CLUSTER_BYTES)?;
    let end = start.checked_add(data_bytes)?;
    let fits = data_bytes > 0 && end <= size_bytes && (end == size_bytes || data_bytes.is_multiple_of(CLUSTER_BYTES));
    fits.then(|| end.div_ceil(CLUSTER_BYTES))
}

/// The end of a range of clusters; none when it is empty or reaches past the disk's end.
fn range_end(size_bytes: u64, first: u64, clusters: u64) -> Option<u64> {
    let end = first.checked_add(clusters)?;
    (clusters > 0 && end <= size_bytes.div_ceil(CLUSTER_BYTES)).then_some(end)
}
