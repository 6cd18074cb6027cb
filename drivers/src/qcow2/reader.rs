//! One layer, read.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::compress::Expander;
use super::header::{Entry, Header, l1_entries, l1_offset};
use super::storage::{Gate, Storage};
use super::tables::words_of;
use super::writer::split;
use super::{CLUSTER, CLUSTER_BYTES, L2_ENTRIES, Place, Run, SECTOR, index, range_end};
use crate::{DriverError, Kind, Result};

/// Second-level tables that are kept in memory: 2 MiB, 16 GiB of disk.
const CACHED_TABLES: usize = 32;

/// A layer that is open for reading. It never opens a backing file. Several threads may read at once.
///
/// Memory: 8 bytes for each 512 MiB of the disk, 2 MiB of tables, and what is asked for.
pub struct Image {
    storage: Storage,
    header: Header,
    file_bytes: u64,
    /// Offsets of second-level tables, 0 = none; as many as the disk's size needs.
    l1: Vec<u64>,
    cache: Mutex<VecDeque<(usize, Arc<[u64]>)>>,
}

impl Image {
    /// Reads the header and the first-level table of `file`. `shown` names it in errors.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for everything that is not a sound image of the kind that is read here; failed I/O.
    pub fn open(file: File, shown: &str) -> Result<Self> {
        Self::open_storage(Storage::new(file, shown, None))
    }

    pub(super) fn open_gated(file: File, shown: &str, gate: Gate) -> Result<Self> {
        Self::open_storage(Storage::new(file, shown, Some(gate)))
    }

    fn open_storage(storage: Storage) -> Result<Self> {
        let file_bytes = storage.length()?;
        let mut first = vec![0; index(file_bytes.min(CLUSTER_BYTES))];
        storage.read(0, &mut first)?;
        let header = Header::parse(&first, file_bytes).map_err(|reason| storage.corrupt(reason))?;
        let mut bytes = vec![0; index(l1_entries(header.size_bytes)).saturating_mul(8)];
        storage.read(header.l1_at, &mut bytes)?;
        let mut l1 = words_of(&bytes);
        for word in &mut l1 {
            *word = l1_offset(*word).map_err(|reason| storage.corrupt(reason))?;
            if *word != 0 && word.checked_add(CLUSTER_BYTES).is_none_or(|end| end > file_bytes) {
                return Err(storage.corrupt("a second-level table lies outside the file; it was not copied whole"));
            }
        }
        Ok(Self { storage, header, file_bytes, l1, cache: Mutex::default() })
    }

    /// The size that a guest sees, bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    /// The name of the backing file, as written in the header.
    #[must_use]
    pub fn backing_name(&self) -> Option<&str> {
        let backing = self.header.backing.as_ref()?;
        std::str::from_utf8(&backing.name).ok()
    }

    /// What the layer holds of a range of clusters: ascending, without gaps, neighbours merged.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for a range that is not of this disk, [`Kind::Corrupt`] for impossible entries; failed I/O.
    pub fn runs(&self, first: u64, clusters: u64) -> Result<Vec<Run>> {
        let end = self.end(first, clusters)?;
        let mut runs: Vec<Run> = Vec::new();
        let mut add = |first, clusters, place| match runs.last_mut() {
            Some(last) if last.place == place => last.clusters += clusters,
            _ => runs.push(Run { first, clusters, place }),
        };
        let mut at = first;
        while at < end {
            let (place, start) = split(at);
            let here = (end - at).min((L2_ENTRIES - start) as u64);
            match self.table(place)? {
                None => add(at, here, Place::Absent),
                Some(table) => {
                    for (cluster, word) in (at..at + here).zip(&table[start..]) {
                        let place = match self.entry(cluster, *word)? {
                            Entry::Absent => Place::Absent,
                            Entry::Zero(_) => Place::Zero,
                            Entry::Plain(_) | Entry::Packed(..) => Place::Data,
                        };
                        add(cluster, 1, place);
                    }
                }
            }
            at += here;
        }
        Ok(runs)
    }

    /// The bytes of clusters that are all [`Place::Data`], decompressed; up to the disk's end if that comes first. What is
    /// contiguous in the file is read at once.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for a range that is not of this disk or not all data, [`Kind::Corrupt`] for damaged bytes; failed
    /// I/O.
    pub fn read(&self, first: u64, clusters: u32) -> Result<Vec<u8>> {
        let end = self.end(first, clusters.into())?;
        let entries = self.entries(first, end)?;
        let mut out = vec![0; entries.len() * CLUSTER];
        let mut expander = None;
        let mut at = 0;
        while at < entries.len() {
            let row = row(&entries, at);
            let target = &mut out[row.start * CLUSTER..row.end * CLUSTER];
            match entries[at] {
                Entry::Plain(host) => {
                    // The file may end with the disk, within the last cluster.
                    let bytes = index((self.file_bytes - host).min(target.len() as u64));
                    self.storage.read(host, &mut target[..bytes])?;
                }
                _ => {
                    let expander = expander.get_or_insert_with(|| Expander::new(self.header.compression));
                    self.read_packed(first + at as u64, &entries[row.clone()], expander, target)?;
                }
            }
            at = row.end;
        }
        let bytes = self.header.size_bytes.min(end * CLUSTER_BYTES) - first * CLUSTER_BYTES;
        out.truncate(index(bytes));
        Ok(out)
    }

    /// Reads neighbouring compressed clusters at once and expands them into `out`.
    fn read_packed(&self, first: u64, entries: &[Entry], expander: &mut Expander, out: &mut [u8]) -> Result<()> {
        let (mut start, mut end) = (u64::MAX, 0);
        for (at, bytes) in entries.iter().filter_map(packed) {
            (start, end) = (start.min(at), end.max(at + bytes));
        }
        let mut bytes = vec![0; index(end.min(self.file_bytes).saturating_sub(start))];
        self.storage.read(start, &mut bytes)?;
        for ((cluster, entry), out) in (first..).zip(entries).zip(out.chunks_mut(CLUSTER)) {
            let Some((at, length)) = packed(entry) else { continue };
            let (from, to) = (index(at - start), index(at + length - start).min(bytes.len()));
            let expanded = expander.expand(bytes.get(from..to).unwrap_or_default(), out);
            expanded.map_err(|reason| self.corrupt(cluster, &reason))?;
        }
        Ok(())
    }

    /// The entries of a range, all of them data.
    fn entries(&self, first: u64, end: u64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut at = first;
        while at < end {
            let (place, start) = split(at);
            let here = (end - at).min((L2_ENTRIES - start) as u64);
            let table = self.table(place)?;
            for cluster in at..at + here {
                let word = table.as_ref().map_or(0, |table| table[split(cluster).1]);
                match self.entry(cluster, word)? {
                    entry @ (Entry::Plain(_) | Entry::Packed(..)) => entries.push(entry),
                    Entry::Absent | Entry::Zero(_) => {
                        let doing = format!("reading {}", self.storage.shown());
                        let reason = format!("it holds no bytes of cluster {cluster}");
                        return Err(DriverError::new(Kind::Permanent, doing, reason));
                    }
                }
            }
            at += here;
        }
        Ok(entries)
    }

    /// What a word means, when it lies inside the file.
    pub(super) fn entry(&self, cluster: u64, word: u64) -> Result<Entry> {
        let entry = Entry::decode(word).map_err(|reason| self.corrupt(cluster, &reason))?;
        let needed = self.header.size_bytes.saturating_sub(cluster.saturating_mul(CLUSTER_BYTES)).min(CLUSTER_BYTES);
        let inside = match entry {
            Entry::Absent | Entry::Zero(None) => true,
            Entry::Plain(host) => host + needed <= self.file_bytes,
            // Kept room may never have been written.
            Entry::Zero(Some(host)) => host < self.file_bytes.next_multiple_of(CLUSTER_BYTES),
            Entry::Packed(at, bytes) => at < self.file_bytes && at + bytes <= self.file_bytes.next_multiple_of(SECTOR),
        };
        if inside {
            return Ok(entry);
        }
        Err(self.corrupt(cluster, "it lies outside the file, which is damaged or was not copied whole"))
    }

    /// The second-level table at a place of the first-level one; none if there is none.
    pub(super) fn table(&self, place: usize) -> Result<Option<Arc<[u64]>>> {
        let Some(at) = self.l1.get(place).copied().filter(|at| *at != 0) else { return Ok(None) };
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = cache.iter().position(|(cached, _)| *cached == place)
                && let Some(hit) = cache.remove(found)
            {
                let table = Arc::clone(&hit.1);
                cache.push_front(hit);
                return Ok(Some(table));
            }
        }
        let mut bytes = vec![0; CLUSTER];
        self.storage.read(at, &mut bytes)?;
        let table: Arc<[u64]> = words_of(&bytes).into();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.truncate(CACHED_TABLES - 1);
        cache.push_front((place, Arc::clone(&table)));
        Ok(Some(table))
    }

    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn l1(&self) -> &[u64] {
        &self.l1
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    pub(super) fn corrupt(&self, cluster: u64, reason: &str) -> DriverError {
        self.storage.corrupt(format!("cluster {cluster}: {reason}"))
    }

    fn end(&self, first: u64, clusters: u64) -> Result<u64> {
        range_end(self.header.size_bytes, first, clusters).ok_or_else(|| {
            let reason = format!("{clusters} clusters from {first} on are not of its {} bytes", self.header.size_bytes);
            DriverError::new(Kind::Permanent, format!("reading {}", self.storage.shown()), reason)
        })
    }
}

fn packed(entry: &Entry) -> Option<(u64, u64)> {
    if let Entry::Packed(at, bytes) = entry { Some((*at, *bytes)) } else { None }
}

/// The entries from `start` on that can be read at once: plain ones behind each other, or compressed ones whose sectors
/// touch.
fn row(entries: &[Entry], start: usize) -> Range<usize> {
    let mut end = start + 1;
    while let (Some(last), Some(next)) = (entries.get(end - 1), entries.get(end)) {
        let goes_on = match (last, next) {
            (Entry::Plain(last), Entry::Plain(next)) => last + CLUSTER_BYTES == *next,
            (Entry::Packed(last, bytes), Entry::Packed(next, _)) => (*last..=last + bytes).contains(next),
            _ => false,
        };
        if !goes_on {
            break;
        }
        end += 1;
    }
    start..end
}
