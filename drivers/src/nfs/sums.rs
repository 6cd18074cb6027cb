//! The digests of one layer of one disk: the file `disk.N.K.sums`.
//!
//! It is the authority on what the layer holds: for every cluster whether the layer holds nothing of it, zeros, or bytes
//! with this SHA-256 (of the bytes that the disk has there; the last cluster may be short). So a flipped bit anywhere in
//! the image, its tables included, shows as a difference from here.
//!
//! ```text
//! header   "KPSUMS\0\1", cluster bytes u32, clusters per page u32, size of the disk u64           24 bytes
//! pages    of 1024 clusters, in any order; a page of clusters that the layer does not hold is left out
//!          kinds, 2 bits each, lowest bits first: 0 nothing, 1 zeros, 2 bytes                     256 bytes
//!          the digests of the clusters with bytes, ascending                                      32 bytes each
//! index    an entry per page, ascending: number u64, offset u64, length u32, SHA-256 of the page  52 bytes each
//! ```
//!
//! Numbers are little-endian. The manifest has the file's length, the number of pages and the SHA-256 of header and
//! index, which makes this a tree of digests. Only the index is kept in memory: 52 bytes for 64 MiB of disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::folder::{Gate, failure};
use super::manifest::{SumsFacts, hex};
use crate::qcow2::CLUSTER_BYTES;
use crate::{DriverError, Kind, Result};

/// Clusters in a page.
pub(super) const PAGE_CLUSTERS: u64 = 1024;
const PAGE: usize = PAGE_CLUSTERS as usize;
/// Bytes of the kinds of a page.
const KINDS: usize = PAGE / 4;
const HEADER: usize = 24;
const ENTRY: usize = 52;
const MAGIC: [u8; 8] = *b"KPSUMS\0\x01";

/// A SHA-256.
pub(super) type Sum = [u8; 32];

/// The SHA-256 of `bytes`.
pub(super) fn sum(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

/// What a layer holds of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Held {
    /// Nothing.
    #[default]
    Nothing,
    /// Zeros.
    Zeros,
    /// Bytes with this digest.
    Bytes(Sum),
}

/// What a layer holds of the clusters of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page(Box<[Held; PAGE]>);

impl Default for Page {
    fn default() -> Self {
        Self(Box::new([Held::Nothing; PAGE]))
    }
}

impl Page {
    /// The cluster at `place` in the page.
    pub(super) fn get(&self, place: usize) -> Held {
        self.0.get(place).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, place: usize, held: Held) {
        if let Some(slot) = self.0.get_mut(place) {
            *slot = held;
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; KINDS];
        for (place, held) in self.0.iter().enumerate() {
            let kind = match held {
                Held::Nothing => 0,
                Held::Zeros => 1,
                Held::Bytes(sum) => {
                    out.extend_from_slice(sum);
                    2
                }
            };
            out[place / 4] |= kind << (2 * (place % 4));
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kinds, mut sums) = bytes.split_at_checked(KINDS)?;
        let mut page = Self::default();
        for place in 0..PAGE {
            let held = match (kinds[place / 4] >> (2 * (place % 4))) & 3 {
                0 => Held::Nothing,
                1 => Held::Zeros,
                2 => {
                    let (sum, rest) = sums.split_first_chunk()?;
                    sums = rest;
                    Held::Bytes(*sum)
                }
                _ => return None,
            };
            page.0[place] = held;
        }
        sums.is_empty().then_some(page)
    }
}

fn header(size_bytes: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&(CLUSTER_BYTES as u32).to_le_bytes());
    out[12..16].copy_from_slice(&(PAGE_CLUSTERS as u32).to_le_bytes());
    out[16..].copy_from_slice(&size_bytes.to_le_bytes());
    out
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    length: u32,
    sum: Sum,
}

/// Writes the file.
pub(super) struct SumsWriter {
    file: File,
    path: PathBuf,
    gate: Gate,
    size_bytes: u64,
    end: u64,
    index: BTreeMap<u64, Entry>,
}

impl SumsWriter {
    /// Begins the file of a disk of `size_bytes`. `file` is new and empty.
    pub(super) fn create(file: File, path: PathBuf, gate: Gate, size_bytes: u64) -> Result<Self> {
        let mut writer = Self { file, path, gate, size_bytes, end: 0, index: BTreeMap::new() };
        writer.append(&header(size_bytes))?;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.gate.ask(&self.path)?;
        self.file.write_all_at(bytes, self.end).map_err(|error| failure("writing", &self.path, error))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Adds page `number`, which is new; one without anything in it is left out.
    pub(super) fn page(&mut self, number: u64, page: &Page) -> Result<()> {
        let bytes = page.encode();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        // At most 33 KiB.
        let entry = Entry { offset: self.end, length: bytes.len() as u32, sum: sum(&bytes) };
        self.append(&bytes)?;
        self.index.insert(number, entry);
        Ok(())
    }

    /// Writes the index and makes all durable. `file` is the final name.
    pub(super) fn finish(mut self, file: String) -> Result<SumsFacts> {
        let mut index = Vec::with_capacity(self.index.len() * ENTRY);
        for (number, entry) in &self.index {
            index.extend_from_slice(&number.to_le_bytes());
            index.extend_from_slice(&entry.offset.to_le_bytes());
            index.extend_from_slice(&entry.length.to_le_bytes());
            index.extend_from_slice(&entry.sum);
        }
        self.append(&index)?;
        self.gate.ask(&self.path)?;
        self.file.sync_all().map_err(|error| failure("writing", &self.path, error))?;
        let mut hash = Sha256::new();
        hash.update(header(self.size_bytes));
        hash.update(&index);
        let sha256 = hex(&hash.finalize());
        Ok(SumsFacts { file, file_bytes: self.end, pages: self.index.len() as u64, sha256 })
    }
}

/// Reads the file; may be shared by threads.
#[derive(Debug)]
pub(super) struct Sums {
    file: File,
    path: PathBuf,
    index: BTreeMap<u64, Entry>,
}

impl Sums {
    /// Opens the file of a disk of `size_bytes`, as its manifest describes it.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is something else.
    pub(super) fn open(file: File, path: PathBuf, facts: &SumsFacts, size_bytes: u64) -> Result<Self> {
        let corrupt = |reason: &str| DriverError::new(Kind::Corrupt, format!("reading {}", path.display()), reason);
        let failed = |error| failure("reading", &path, error);
        let length = file.metadata().map_err(failed)?.len();
        if length != facts.file_bytes {
            return Err(corrupt(&format!("it has {length} bytes instead of {}", facts.file_bytes)));
        }
        let index_bytes = facts.pages.checked_mul(ENTRY as u64);
        let index_at = index_bytes.and_then(|bytes| length.checked_sub(bytes)).filter(|at| *at >= HEADER as u64);
        let (Some(index_bytes), Some(index_at)) = (index_bytes, index_at) else {
            return Err(corrupt("it is too short for its index"));
        };
        let mut start = [0; HEADER];
        file.read_exact_at(&mut start, 0).map_err(failed)?;
        // As long as the file at most, and the manifest's check bounds it by the size of the disk.
        let mut bytes = vec![0; usize::try_from(index_bytes).unwrap_or(0)];
        file.read_exact_at(&mut bytes, index_at).map_err(failed)?;
        let mut hash = Sha256::new();
        hash.update(start);
        hash.update(&bytes);
        if hex(&hash.finalize()) != facts.sha256 {
            return Err(corrupt("its index does not have the digest that the manifest tells"));
        }
        if start != header(size_bytes) {
            return Err(corrupt("it belongs to another disk or another version"));
        }
        let pages = size_bytes.div_ceil(CLUSTER_BYTES).div_ceil(PAGE_CLUSTERS);
        let mut index = BTreeMap::new();
        for entry in bytes.chunks_exact(ENTRY) {
            let (number, entry) = parse_entry(entry).ok_or_else(|| corrupt("its index is broken"))?;
            let end = entry.offset.checked_add(entry.length.into());
            let sound = number < pages
                && index.last_key_value().is_none_or(|(last, _)| *last < number)
                && end.is_some_and(|end| end <= index_at)
                && entry.length as usize <= KINDS + 32 * PAGE;
            if !sound {
                return Err(corrupt("its index is broken"));
            }
            index.insert(number, entry);
        }
        Ok(Self { file, path, index })
    }

    /// The numbers of the pages with anything in them, ascending.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> {
        self.index.keys().copied()
    }

    /// Page `number`, if the layer holds anything of it.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it does not have its digest.
    pub(super) fn page(&self, number: u64) -> Result<Option<Page>> {
        let Some(entry) = self.index.get(&number) else { return Ok(None) };
        let mut bytes = vec![0; entry.length as usize];
        self.file.read_exact_at(&mut bytes, entry.offset).map_err(|error| failure("reading", &self.path, error))?;
        let page = if sum(&bytes) == entry.sum { Page::decode(&bytes) } else { None };
        page.map(Some).ok_or_else(|| {
            let reason = format!("the digests of the clusters from {} on are damaged", number * PAGE_CLUSTERS);
            DriverError::new(Kind::Corrupt, format!("reading {}", self.path.display()), reason)
        })
    }
}

fn parse_entry(bytes: &[u8]) -> Option<(u64, Entry)> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let entry =
        Entry { offset: u64::from_le_bytes(*offset), length: u32::from_le_bytes(*length), sum: rest.try_into().ok()? };
    Some((u64::from_le_bytes(*number), entry))
}
