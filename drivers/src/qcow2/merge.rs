//! Writing clusters of a newer layer into an older image, in place.
//!
//! The image on disk stays sound at every instant:
//! 1. A cluster that lies in the file as it is, with one reference, is overwritten where it is. Others go to host clusters
//!    that nothing refers to.
//! 2. Changed second-level tables, a new first-level table and new refcounts go to such clusters too.
//! 3. All that is made durable.
//! 4. One write of 512 bytes, the header, switches to it, and is made durable.
//! 5. What is free now is given back to the file system, durably.
//!
//! A merge that was cut off before 4 has changed nothing but bytes that the newer layer hides anyway; what it wrote elsewhere
//! is not referred to and is used again by the next merge. So it is simply repeated from its start.
//!
//! References are counted from the tables, not believed: an image whose parts overlap is refused, and leaks go away.

use std::collections::BTreeMap;
use std::fs::File;

use super::compress::Compressor;
use super::header::{BackingName, Entry, Header, check_size, l1_entries};
use super::reader::Image;
use super::space::{Bits, Space};
use super::storage::Gate;
use super::tables::{self, Sheet, Table, empty_table, words_of};
use super::writer::{Piece, pieces, split, write_pieces};
use super::{Backing, CLUSTER, CLUSTER_BYTES, Compression, Finished, index, range_end, whole_clusters};
use crate::{DriverError, Result};

/// How many times longer than what it holds a file may be, in clusters, beyond what is always counted.
const SPARSEST: u64 = 1024;
/// Clusters that are counted in any case: 8 TiB of file, 256 MiB of memory.
const ALWAYS: u64 = 1 << 27;

/// An image that is merged into. The caller sees to it that nobody writes to it meanwhile, and that who reads it does not
/// need the old bytes of clusters that are written.
///
/// Memory: 2 bytes and a bit for each cluster of the file, 64 KiB for each 512 MiB of the disk in which something changes.
/// Dropped before [`Merge::finish`] it leaves the old image.
pub struct Merge {
    image: Image,
    space: Space,
    compressor: Compressor,
    /// Entries of the first-level table, as they will be; changed tables are not in yet.
    l1: Vec<u64>,
    /// Changed second-level tables, by their place in `l1`.
    changed: BTreeMap<usize, Table>,
    size_bytes: u64,
    /// None = as it was.
    backing: Option<Option<BackingName>>,
    /// The first mistake in the name of a backing file.
    refused: Option<String>,
    broken: bool,
}

impl Merge {
    /// Opens the image in `file`, which is open for reading and writing, and counts its references: all its tables are read.
    /// An image that holds compressed clusters gets new ones compressed as well.
    ///
    /// # Errors
    /// As [`Image::open`]; [`crate::Kind::Corrupt`] for an image whose parts overlap; [`crate::Kind::Permanent`] for one with
    /// dirty bitmaps.
    pub fn begin(file: File, shown: &str) -> Result<Self> {
        Self::begin_on(Image::open(file, shown)?)
    }

    /// For tests: `gate` sees each step before it is taken.
    #[doc(hidden)]
    pub fn begin_gated(file: File, shown: &str, gate: Gate) -> Result<Self> {
        Self::begin_on(Image::open_gated(file, shown, gate)?)
    }

    fn begin_on(image: Image) -> Result<Self> {
        if image.header().bitmaps {
            return Err(image.storage().refused("it keeps dirty bitmaps, which a merge would make wrong"));
        }
        let counted = Count::of(&image)?;
        let compression = match (counted.has_packed, image.header().compression) {
            (_, Compression::Zstd) => Compression::Zstd,
            (true, other) => other,
            (false, _) => Compression::None,
        };
        Ok(Self {
            l1: image.l1().to_vec(),
            size_bytes: image.size_bytes(),
            space: Space::existing(counted.counts, counted.busy),
            compressor: Compressor::new(compression),
            image,
            changed: BTreeMap::new(),
            backing: None,
            refused: None,
            broken: false,
        })
    }

    /// Makes the disk larger. What is new reads from the backing file, or as zeros.
    ///
    /// # Errors
    /// [`crate::Kind::Permanent`] for impossible sizes, and for smaller ones.
    pub fn resize(&mut self, size_bytes: u64) -> Result<()> {
        check_size(size_bytes).map_err(|reason| self.image.storage().refused(reason))?;
        if size_bytes < self.size_bytes {
            let reason = format!("its {} bytes cannot become {size_bytes}; disks only grow", self.size_bytes);
            return Err(self.image.storage().refused(reason));
        }
        self.size_bytes = size_bytes;
        self.l1.resize(index(l1_entries(size_bytes)), 0);
        Ok(())
    }

    /// Writes whole clusters from `first` on; the last one of the disk may be short.
    ///
    /// # Errors
    /// [`crate::Kind::Permanent`] for a range that is not of this disk; [`crate::Kind::Corrupt`] for a damaged image; failed
    /// I/O. After a failure the merge cannot be finished, only begun again.
    pub fn write(&mut self, first: u64, data: &[u8]) -> Result<()> {
        if whole_clusters(self.size_bytes, first, data.len() as u64).is_none() {
            return Err(self.outside(first, data.len() as u64));
        }
        // The rest of the last cluster has to be zeros: its place may hold other bytes, and the disk may grow.
        let mut padded = Vec::new();
        let data = if data.len().is_multiple_of(CLUSTER) {
            data
        } else {
            padded.extend(data);
            padded.resize(data.len().next_multiple_of(CLUSTER), 0);
            &padded[..]
        };
        let pieces = pieces(&mut self.compressor, data);
        let written =
            self.allocate(first, &pieces).and_then(|places| write_pieces(self.image.storage(), &places, &pieces, data));
        let written = written.and_then(|()| self.image.storage().sync_in_steps());
        self.broken |= written.is_err();
        written
    }

    /// Makes clusters zeros, whatever the backing file has.
    ///
    /// # Errors
    /// As [`Merge::write`].
    pub fn zero(&mut self, first: u64, clusters: u64) -> Result<()> {
        let Some(end) = range_end(self.size_bytes, first, clusters) else {
            return Err(self.outside(first, clusters.saturating_mul(CLUSTER_BYTES)));
        };
        for cluster in first..end {
            let old = self.entry(cluster).inspect_err(|_| self.broken = true)?;
            if old != Entry::Zero(None) {
                self.release(old);
                self.enter(cluster, Entry::Zero(None)).inspect_err(|_| self.broken = true)?;
            }
        }
        Ok(())
    }

    /// The backing file that the merged image will name; without this call it stays as it is. A name that cannot be is
    /// refused by [`Merge::finish`].
    pub fn set_backing(&mut self, backing: Option<&Backing>) {
        match backing.map(BackingName::new).transpose() {
            Ok(backing) => self.backing = Some(backing),
            Err(reason) => self.refused = Some(reason),
        }
    }

    /// Writes the tables, switches the header, gives free space back. An error leaves either the old or the merged image.
    ///
    /// # Errors
    /// Failed I/O, now or before; [`crate::Kind::Permanent`] for an impossible backing name.
    pub fn finish(mut self) -> Result<Finished> {
        if let Some(reason) = self.refused.take() {
            return Err(self.image.storage().refused(reason));
        }
        if self.broken {
            return Err(self.image.storage().refused("an earlier write failed"));
        }
        for place in self.changed.keys() {
            if let Some(at) = self.l1.get(*place).filter(|at| **at != 0) {
                self.space.release(*at, CLUSTER_BYTES);
            }
        }
        let storage = self.image.storage();
        // A merge that was cut off before may have written up to the end that the file has now.
        let blank_from = self.image.file_bytes().next_multiple_of(CLUSTER_BYTES);
        let l1: Vec<u64> = self.l1.iter().map(|at| if *at == 0 { 0 } else { super::header::l1_word(*at) }).collect();
        let entries = u32::try_from(l1.len()).unwrap_or(u32::MAX);
        let placed = tables::write(Sheet { storage, blank_from }, &mut self.space, l1, &self.changed)?;
        let old = self.image.header();
        let header = Header {
            size_bytes: self.size_bytes,
            l1_at: placed.l1_at,
            l1_entries: entries,
            refcounts_at: placed.refcounts_at,
            refcount_clusters: u32::try_from(placed.refcount_clusters).unwrap_or(u32::MAX),
            compression: old.compression,
            backing: self.backing.take().unwrap_or_else(|| old.backing.clone()),
            bitmaps: false,
        };
        let bytes = header.bytes(old.outside_name_at());
        if let Some((at, name)) = bytes.name {
            storage.write(at, &name)?;
        }
        let file_bytes = self.space.clusters() as u64 * CLUSTER_BYTES;
        if self.image.file_bytes() < file_bytes {
            storage.set_length(file_bytes)?;
        }
        storage.sync()?;
        storage.write(0, &bytes.sector)?;
        storage.sync()?;
        self.give_back()
    }

    /// Cuts off the free end of the file and makes holes of what is free within.
    fn give_back(self) -> Result<Finished> {
        let storage = self.image.storage();
        let counts = self.space.counts();
        let used = counts.iter().rposition(|count| *count > 0).map_or(1, |last| last + 1);
        let file_bytes = used as u64 * CLUSTER_BYTES;
        storage.set_length(file_bytes)?;
        let mut at = 0;
        while at < used {
            let row = counts[at..used].iter().take_while(|count| **count == 0).count();
            if row > 0 && !storage.punch(at as u64, row as u64)? {
                break;
            }
            at += row.max(1);
        }
        // Whoever notes the length and the blocks finds them so after a power cut.
        storage.sync()?;
        Ok(Finished { file_bytes })
    }

    /// Finds places for the pieces and enters them.
    fn allocate(&mut self, first: u64, pieces: &[Piece]) -> Result<Vec<u64>> {
        let mut places = Vec::with_capacity(pieces.len());
        for (cluster, piece) in (first..).zip(pieces) {
            let old = self.entry(cluster)?;
            let place = match (piece, old) {
                (Piece::Plain, Entry::Plain(host)) => host,
                (Piece::Plain, Entry::Zero(Some(host))) => {
                    self.enter(cluster, Entry::Plain(host))?;
                    host
                }
                (Piece::Plain, _) => {
                    self.release(old);
                    let host = self.space.take();
                    self.enter(cluster, Entry::Plain(host))?;
                    host
                }
                (Piece::Packed(bytes), _) => {
                    self.release(old);
                    let bytes = bytes.len() as u64;
                    let at = self.space.take_packed(bytes);
                    self.enter(cluster, Entry::Packed(at, bytes))?;
                    at
                }
            };
            places.push(place);
        }
        Ok(places)
    }

    /// What the image holds of a cluster now.
    fn entry(&self, cluster: u64) -> Result<Entry> {
        let (place, at) = split(cluster);
        if let Some(table) = self.changed.get(&place) {
            // Made or checked here; it may lie behind what was the end of the file.
            return Entry::decode(table[at]).map_err(|reason| self.image.corrupt(cluster, &reason));
        }
        match self.image.table(place)? {
            Some(table) => self.image.entry(cluster, table[at]),
            None => Ok(Entry::Absent),
        }
    }

    fn enter(&mut self, cluster: u64, entry: Entry) -> Result<()> {
        let (place, at) = split(cluster);
        if !self.changed.contains_key(&place) {
            let table = match self.image.table(place)? {
                Some(table) => table.to_vec().into_boxed_slice(),
                None => empty_table(),
            };
            self.changed.insert(place, table);
        }
        if let Some(table) = self.changed.get_mut(&place) {
            table[at] = entry.encode();
        }
        Ok(())
    }

    fn release(&mut self, old: Entry) {
        match old {
            Entry::Plain(host) | Entry::Zero(Some(host)) => self.space.release(host, CLUSTER_BYTES),
            Entry::Packed(at, bytes) => self.space.release(at, bytes),
            Entry::Absent | Entry::Zero(None) => {}
        }
    }

    fn outside(&self, first: u64, bytes: u64) -> DriverError {
        let size = self.size_bytes;
        let reason = format!("{bytes} bytes from cluster {first} on are not whole clusters of its {size} bytes");
        self.image.storage().refused(reason)
    }
}

/// The references of an image on disk.
struct Count {
    /// Those that a merge keeps: the header, second-level tables, data.
    counts: Vec<u16>,
    /// All clusters that are referred to, the first-level table and the refcounts included.
    busy: Bits,
    /// Clusters of compressed bytes, which may have several references.
    shared: Bits,
    /// Clusters from here on are outside the file, or so far out that nobody honest put anything there.
    limit: usize,
    has_packed: bool,
}

impl Count {
    fn of(image: &Image) -> Result<Self> {
        // A sparse file of a few bytes can name places without end, and each place counts.
        let sane = image.storage().allocated()?.div_ceil(CLUSTER_BYTES).saturating_mul(SPARSEST).saturating_add(ALWAYS);
        let limit = index(image.file_bytes().div_ceil(CLUSTER_BYTES).min(sane));
        let mut out =
            Self { counts: Vec::new(), busy: Bits::default(), shared: Bits::default(), limit, has_packed: false };
        let header = image.header();
        let wrong = |reason| image.storage().corrupt(reason);
        out.own(0, true).map_err(wrong)?;
        for cluster in 0..(u64::from(header.l1_entries) * 8).div_ceil(CLUSTER_BYTES) {
            out.own(header.l1_at + cluster * CLUSTER_BYTES, false).map_err(wrong)?;
        }
        out.refcounts(image)?;
        let clusters = image.size_bytes().div_ceil(CLUSTER_BYTES);
        for (place, at) in image.l1().iter().enumerate().filter(|(_, at)| **at != 0) {
            out.own(*at, true).map_err(wrong)?;
            let Some(table) = image.table(place)? else { continue };
            let first = place as u64 * table.len() as u64;
            for (cluster, word) in (first..).zip(table.iter()).filter(|(_, word)| **word != 0) {
                if cluster >= clusters {
                    return Err(image.corrupt(cluster, "it lies behind the end of the disk"));
                }
                let counted = match image.entry(cluster, *word)? {
                    Entry::Plain(host) | Entry::Zero(Some(host)) => out.own(host, true),
                    Entry::Packed(at, bytes) => out.share(at, bytes),
                    Entry::Absent | Entry::Zero(None) => Ok(()),
                };
                counted.map_err(|reason| image.corrupt(cluster, &reason))?;
            }
        }
        Ok(out)
    }

    /// The refcount table and its blocks: not believed, but not overwritten either.
    fn refcounts(&mut self, image: &Image) -> Result<()> {
        let header = image.header();
        let wrong = |reason| image.storage().corrupt(reason);
        for cluster in 0..u64::from(header.refcount_clusters) {
            let at = header.refcounts_at + cluster * CLUSTER_BYTES;
            self.own(at, false).map_err(wrong)?;
            let bytes = image.file_bytes().saturating_sub(at).min(CLUSTER_BYTES);
            let mut bytes = vec![0; index(bytes)];
            image.storage().read(at, &mut bytes)?;
            for block in words_of(&bytes).into_iter().filter(|block| *block != 0) {
                if !block.is_multiple_of(CLUSTER_BYTES) {
                    return Err(wrong(format!("its refcount table holds the impossible entry {block:#018x}")));
                }
                self.own(block, false).map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// A cluster that nothing else may refer to.
    fn own(&mut self, at: u64, kept: bool) -> std::result::Result<(), String> {
        let cluster = index(at / CLUSTER_BYTES);
        if cluster >= self.limit {
            return Err(format!("the part at {at} lies outside the file; it is damaged or was not copied whole"));
        }
        if self.busy.contains(cluster) {
            return Err(format!("two parts of it lie at {at}; qemu-img check tells more"));
        }
        self.busy.insert(cluster);
        if kept { self.count(cluster) } else { Ok(()) }
    }

    /// Compressed bytes, beside which others may lie.
    fn share(&mut self, at: u64, bytes: u64) -> std::result::Result<(), String> {
        self.has_packed = true;
        for cluster in index(at / CLUSTER_BYTES)..=index((at + bytes - 1) / CLUSTER_BYTES) {
            if cluster >= self.limit {
                return Err("it lies outside the file, which is damaged or was not copied whole".to_owned());
            }
            if self.busy.contains(cluster) && !self.shared.contains(cluster) {
                return Err(format!("compressed bytes and another part lie at {at}; qemu-img check tells more"));
            }
            self.busy.insert(cluster);
            self.shared.insert(cluster);
            self.count(cluster)?;
        }
        Ok(())
    }

    fn count(&mut self, cluster: usize) -> std::result::Result<(), String> {
        if self.counts.len() <= cluster {
            self.counts.resize(cluster + 1, 0);
        }
        let count = self.counts[cluster].checked_add(1);
        self.counts[cluster] = count.ok_or("more compressed clusters share a place than can be")?;
        Ok(())
    }
}
