//! New images.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Mutex, PoisonError};

use super::compress::Compressor;
use super::header::{BackingName, Entry, Header, check_size, l1_entries};
use super::space::Space;
use super::storage::Storage;
use super::tables::{self, Sheet, Table, empty_table};
use super::{Backing, CLUSTER, CLUSTER_BYTES, Compression, Finished, L2_ENTRIES, index, range_end, whole_clusters};
use crate::Result;

/// Writes a new image. Several threads may write at once; they compress side by side.
///
/// Memory: 64 KiB for each 512 MiB of the disk that is written to, 2 bytes for each cluster of the file. Dropped before
/// [`ImageWriter::finish`] it leaves a file without a header, which is no image.
pub struct ImageWriter {
    storage: Storage,
    size_bytes: u64,
    compression: Compression,
    backing: Option<BackingName>,
    map: Mutex<Map>,
    /// Held by the thread that writes into the file. The kernel lets only one write to a file at a time anyway, and makes
    /// the others spin for it: two threads took more than twice as long as one.
    writing: Mutex<()>,
}

/// What is allocated, and for whom.
struct Map {
    space: Space,
    tables: BTreeMap<usize, Table>,
    /// A write failed, so the entries promise bytes that are not there.
    broken: bool,
}

/// One cluster on its way into a file.
pub(super) enum Piece {
    /// As it is; a short one ends the disk.
    Plain,
    /// Compressed.
    Packed(Vec<u8>),
}

impl ImageWriter {
    /// Starts an image of `size_bytes` (whole sectors) in `file`, which is empty. `shown` names it in errors.
    ///
    /// # Errors
    /// [`crate::Kind::Permanent`] for sizes and backing names that QEMU could not open, and for a file that is not empty.
    pub fn create(
        file: File,
        shown: &str,
        size_bytes: u64,
        compression: Compression,
        backing: Option<&Backing>,
    ) -> Result<Self> {
        let storage = Storage::new(file, shown, None);
        check_size(size_bytes).map_err(|reason| storage.refused(reason))?;
        let backing = backing.map(BackingName::new).transpose().map_err(|reason| storage.refused(reason))?;
        if storage.length()? != 0 {
            return Err(storage.refused("the file is not empty"));
        }
        let map = Mutex::new(Map { space: Space::new(), tables: BTreeMap::new(), broken: false });
        Ok(Self { storage, size_bytes, compression, backing, map, writing: Mutex::default() })
    }

    /// Writes whole clusters from `first` on (the last one of the disk may be short). Each is written at most once.
    /// Neighbours that are not compressed go out as one write.
    ///
    /// # Errors
    /// [`crate::Kind::Permanent`] for a range that is not of this disk or was written before; failed I/O. After a failed
    /// write the image cannot be finished.
    pub fn write(&self, first: u64, data: &[u8]) -> Result<()> {
        if whole_clusters(self.size_bytes, first, data.len() as u64).is_none() {
            return Err(self.outside(first, data.len() as u64));
        }
        let pieces = pieces(&mut Compressor::new(self.compression), data);
        let turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // In turn as well, so that the file grows in order.
        let places = self.allocate(first, &pieces)?;
        let written = write_pieces(&self.storage, &places, &pieces, data);
        drop(turn);
        let written = written.and_then(|()| self.storage.sync_in_steps());
        if written.is_err() {
            self.lock().broken = true;
        }
        written
    }

    /// Marks clusters as zeros, so that they are not read from the backing file. Not needed where there is none.
    ///
    /// # Errors
    /// As [`ImageWriter::write`].
    pub fn zero(&self, first: u64, clusters: u64) -> Result<()> {
        let Some(end) = range_end(self.size_bytes, first, clusters) else {
            return Err(self.outside(first, clusters.saturating_mul(CLUSTER_BYTES)));
        };
        let mut map = self.lock();
        for cluster in first..end {
            map.enter(cluster, Entry::Zero(None)).map_err(|()| self.twice(cluster))?;
        }
        Ok(())
    }

    /// Writes the tables, makes all that durable, then writes the header and makes it durable.
    ///
    /// # Errors
    /// Failed I/O, now or before.
    pub fn finish(self) -> Result<Finished> {
        let Map { mut space, tables, broken } = self.map.into_inner().unwrap_or_else(PoisonError::into_inner);
        if broken {
            return Err(self.storage.refused("an earlier write failed"));
        }
        let l1 = vec![0; index(l1_entries(self.size_bytes))];
        let entries = u32::try_from(l1.len()).unwrap_or(u32::MAX);
        let placed = tables::write(Sheet { storage: &self.storage, blank_from: 0 }, &mut space, l1, &tables)?;
        let header = Header {
            size_bytes: self.size_bytes,
            l1_at: placed.l1_at,
            l1_entries: entries,
            refcounts_at: placed.refcounts_at,
            refcount_clusters: u32::try_from(placed.refcount_clusters).unwrap_or(u32::MAX),
            compression: if self.compression == Compression::Zstd { Compression::Zstd } else { Compression::Zlib },
            backing: self.backing,
            bitmaps: false,
        };
        let bytes = header.bytes(None);
        if let Some((at, name)) = bytes.name {
            self.storage.write(at, &name)?;
        }
        let file_bytes = space.clusters() as u64 * CLUSTER_BYTES;
        // A last data cluster that is short, compressed bytes or a table's zeros leave the file ending within a cluster.
        self.storage.set_length(file_bytes)?;
        self.storage.sync()?;
        self.storage.write(0, &bytes.sector)?;
        self.storage.sync()?;
        Ok(Finished { file_bytes })
    }

    /// Finds places for the pieces and enters them.
    fn allocate(&self, first: u64, pieces: &[Piece]) -> Result<Vec<u64>> {
        let mut map = self.lock();
        for cluster in first..first + pieces.len() as u64 {
            if map.is_entered(cluster) {
                return Err(self.twice(cluster));
            }
        }
        let mut places = Vec::with_capacity(pieces.len());
        for (cluster, piece) in (first..).zip(pieces) {
            let (at, entry) = match piece {
                Piece::Plain => {
                    let at = map.space.take();
                    (at, Entry::Plain(at))
                }
                Piece::Packed(bytes) => {
                    let at = map.space.take_packed(bytes.len() as u64);
                    (at, Entry::Packed(at, bytes.len() as u64))
                }
            };
            map.enter(cluster, entry).map_err(|()| self.twice(cluster))?;
            places.push(at);
        }
        Ok(places)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outside(&self, first: u64, bytes: u64) -> crate::DriverError {
        let size = self.size_bytes;
        self.storage
            .refused(format!("{bytes} bytes from cluster {first} on are not whole clusters of its {size} bytes"))
    }

    fn twice(&self, cluster: u64) -> crate::DriverError {
        self.storage.refused(format!("cluster {cluster} was written before"))
    }
}

impl Map {
    fn is_entered(&self, cluster: u64) -> bool {
        let (place, entry) = split(cluster);
        self.tables.get(&place).is_some_and(|table| table[entry] != 0)
    }

    fn enter(&mut self, cluster: u64, entry: Entry) -> std::result::Result<(), ()> {
        let (place, at) = split(cluster);
        let word = &mut self.tables.entry(place).or_insert_with(empty_table)[at];
        if *word != 0 {
            return Err(());
        }
        *word = entry.encode();
        Ok(())
    }
}

/// The place of a cluster's entry: in the first-level table, and in the table that lies there.
pub(super) fn split(cluster: u64) -> (usize, usize) {
    (index(cluster / L2_ENTRIES as u64), index(cluster % L2_ENTRIES as u64))
}

/// What to write for each cluster of `data`.
pub(super) fn pieces(compressor: &mut Compressor, data: &[u8]) -> Vec<Piece> {
    data.chunks(CLUSTER)
        .map(|cluster| {
            let packed = if cluster.len() == CLUSTER {
                compressor.shrink(cluster)
            } else {
                let mut whole = cluster.to_vec();
                whole.resize(CLUSTER, 0);
                compressor.shrink(&whole)
            };
            packed.map_or(Piece::Plain, Piece::Packed)
        })
        .collect()
}

/// Writes the pieces of `data` to their places; what is contiguous in both, as one write.
pub(super) fn write_pieces(storage: &Storage, places: &[u64], pieces: &[Piece], data: &[u8]) -> Result<()> {
    let mut packed: Vec<u8> = Vec::new();
    let mut packed_at = 0;
    // Numbers of the pieces of the plain row that is open.
    let mut row = 0..0;
    let plain = |row: &std::ops::Range<usize>| match places.get(row.start) {
        Some(at) if !row.is_empty() => {
            storage.write(*at, &data[row.start * CLUSTER..data.len().min(row.end * CLUSTER)])
        }
        _ => Ok(()),
    };
    for (number, (at, piece)) in places.iter().zip(pieces).enumerate() {
        match piece {
            Piece::Plain => {
                let goes_on = row.end == number
                    && places.get(row.start).is_some_and(|first| first + row.len() as u64 * CLUSTER_BYTES == *at);
                if row.is_empty() || !goes_on {
                    plain(&row)?;
                    row = number..number;
                }
                row.end = number + 1;
            }
            Piece::Packed(bytes) => {
                if !packed.is_empty() && packed_at + packed.len() as u64 != *at {
                    storage.write(packed_at, &packed)?;
                    packed.clear();
                }
                if packed.is_empty() {
                    packed_at = *at;
                }
                packed.extend(bytes);
            }
        }
    }
    plain(&row)?;
    if packed.is_empty() { Ok(()) } else { storage.write(packed_at, &packed) }
}
