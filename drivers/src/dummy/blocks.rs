//! Disks as tables of block digests, and their bytes in sparse files.
//!
//! A table names the SHA-256 of every block of 64 KiB that is not all zero; the last block may be shorter. Two tables
//! tell exactly which blocks differ, which is what a dirty bitmap is for.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Content, DiskReader, DriverError, Extent, MAX_READ_BYTES, Result};

/// Bytes of a block, the granularity of libvirt's bitmaps.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
/// Bytes that are read or written in one go; whole blocks.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// Longest disk.
pub(super) const MAX_SIZE_BYTES: u64 = 1 << 51;

const _: () = assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES) && PIECE_BYTES <= MAX_READ_BYTES as u64);

/// Content of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlockTable {
    /// Size of the disk.
    pub(super) size_bytes: u64,
    /// Digests in hex by number of the block; blocks of zeros are left out.
    pub(super) blocks: BTreeMap<u64, String>,
}

impl BlockTable {
    /// Takes in the bytes at `offset`, a multiple of [`BLOCK_BYTES`]: whole blocks, or all up to the disk's end.
    pub(super) fn set(&mut self, offset: u64, data: &[u8]) {
        for (number, block) in (offset / BLOCK_BYTES..).zip(data.chunks(BLOCK_BYTES as usize)) {
            if crate::is_zero(block) {
                self.blocks.remove(&number);
            } else {
                self.blocks.insert(number, digest(block));
            }
        }
    }

    /// Whether `data`, as for [`Self::set`], is what the table says.
    pub(super) fn has(&self, offset: u64, data: &[u8]) -> bool {
        (offset / BLOCK_BYTES..).zip(data.chunks(BLOCK_BYTES as usize)).all(|(number, block)| {
            match self.blocks.get(&number) {
                None => crate::is_zero(block),
                Some(known) => *known == digest(block),
            }
        })
    }

    /// Makes the blocks `[first, end)` zero; the numbers of those that were not.
    pub(super) fn clear(&mut self, first: u64, end: u64) -> Vec<u64> {
        let gone: Vec<u64> = self.blocks.range(first..end).map(|(number, _)| *number).collect();
        for number in &gone {
            self.blocks.remove(number);
        }
        gone
    }

    /// All of the disk.
    pub(super) fn extents(&self) -> Vec<Extent> {
        let mut out = Vec::new();
        for number in self.blocks.keys() {
            // What no block was named for reads as zeros.
            let (done, (start, end)) = (end_of(&out), span(*number));
            self.push(&mut out, done, start, Content::Zero);
            self.push(&mut out, start, end, Content::Data);
        }
        let done = end_of(&out);
        self.push(&mut out, done, self.size_bytes, Content::Zero);
        out
    }

    /// The pieces to read for all that is not zero from `from` on, as offset and length: ascending, whole blocks or up to
    /// the disk's end, at most [`PIECE_BYTES`] each.
    pub(super) fn pieces(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let data = self.extents().into_iter().filter(|extent| extent.content == Content::Data);
        data.flat_map(move |extent| pieces(extent.offset.max(from), extent.end()))
    }

    /// The blocks that are not as in `old`.
    pub(super) fn changed_since(&self, old: &Self) -> Vec<Extent> {
        let mut differing: BTreeMap<u64, Content> = BTreeMap::new();
        for (number, digest) in &self.blocks {
            if old.blocks.get(number) != Some(digest) {
                differing.insert(*number, Content::Data);
            }
        }
        let blocks = self.size_bytes.div_ceil(BLOCK_BYTES);
        for (number, _) in old.blocks.range(..blocks).filter(|(number, _)| !self.blocks.contains_key(number)) {
            differing.insert(*number, Content::Zero);
        }
        let mut out = Vec::new();
        for (number, content) in differing {
            let (start, end) = span(number);
            self.push(&mut out, start, end, content);
        }
        out
    }

    /// Adds `[start, end)`, cut at the disk's end, to the last extent or after it.
    fn push(&self, out: &mut Vec<Extent>, start: u64, end: u64, content: Content) {
        let end = end.min(self.size_bytes);
        if start >= end {
            return;
        }
        match out.last_mut() {
            Some(last) if last.content == content && last.end() == start => last.length += end - start,
            _ => out.push(Extent { offset: start, length: end - start, content }),
        }
    }
}

/// The range `[start, end)` in pieces of at most [`PIECE_BYTES`], as offset and length.
pub(super) fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let starts = std::iter::successors(Some(start), |at| at.checked_add(PIECE_BYTES));
    starts.take_while(move |at| *at < end).map(move |at| (at, (end - at).min(PIECE_BYTES)))
}

/// First byte of a block and one past its last; a damaged table may name any.
fn span(number: u64) -> (u64, u64) {
    (number.saturating_mul(BLOCK_BYTES), number.saturating_add(1).saturating_mul(BLOCK_BYTES))
}

fn end_of(extents: &[Extent]) -> u64 {
    extents.last().map_or(0, Extent::end)
}

/// The SHA-256 of some bytes in hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes `data` at `offset` of a file that is a hole there; blocks of zeros stay one.
pub(super) fn write_blocks(file: &File, offset: u64, data: &[u8]) -> std::io::Result<()> {
    let mut at = offset;
    for block in data.chunks(BLOCK_BYTES as usize) {
        if !crate::is_zero(block) {
            file.write_all_at(block, at)?;
        }
        at += block.len() as u64;
    }
    Ok(())
}

/// Reads the ranges that a [`DiskReader`] was asked for from a file as long as the disk.
pub(super) fn read_ranges(
    file: &File,
    path: &Path,
    size_bytes: u64,
    ranges: &mut dyn Iterator<Item = (u64, u32)>,
    sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
) -> Result<()> {
    for (offset, length) in ranges {
        let inside = offset.checked_add(length.into()).is_some_and(|end| end <= size_bytes);
        if !inside || length > MAX_READ_BYTES {
            let reason = format!("{length} bytes at {offset} are asked for, of {size_bytes} in all");
            return Err(DriverError::new(crate::Kind::Permanent, format!("reading {}", path.display()), reason));
        }
        let mut data = vec![0; length as usize];
        let read = file.read_exact_at(&mut data, offset);
        read.map_err(|error| DriverError::io(format!("reading {}", path.display()), error))?;
        sink(offset, data)?;
    }
    Ok(())
}

/// What is to be done with blocks of a disk that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First block.
    pub(super) first: u64,
    /// One past the last block.
    pub(super) end: u64,
    /// They are all zero; otherwise they must be read.
    pub(super) zero: bool,
}

/// The runs of blocks that the extents of `reader` touch, ascending. A block that is touched in part is read whole.
///
/// # Errors
/// [`crate::Kind::Permanent`] when the extents break the contract of [`DiskReader::extents`]; with `whole` also when
/// they do not cover the disk.
pub(super) fn runs(reader: &mut dyn DiskReader, whole: bool) -> Result<Vec<Run>> {
    let size = reader.size_bytes();
    let wrong = |reason: &str| Err(DriverError::new(crate::Kind::Permanent, "listing what to store of a disk", reason));
    if size > MAX_SIZE_BYTES {
        return wrong("it is longer than the 2 PiB that a disk can have");
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    for extent in reader.extents()? {
        let end = extent.offset.checked_add(extent.length).filter(|end| *end <= size);
        let Some(end) = end.filter(|_| extent.length > 0 && extent.offset >= at) else {
            return wrong("its extents overlap, are empty, or reach past its end");
        };
        if whole && extent.offset != at {
            return wrong("its extents do not cover it");
        }
        at = end;
        let (first, last) = (extent.offset / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES));
        if extent.content == Content::Data {
            push(&mut runs, first, last, false);
            continue;
        }
        let inner_first = extent.offset.div_ceil(BLOCK_BYTES);
        let inner_end = if end == size { last } else { end / BLOCK_BYTES };
        if inner_first >= inner_end {
            push(&mut runs, first, last, false);
        } else {
            push(&mut runs, first, inner_first, false);
            push(&mut runs, inner_first, inner_end, true);
            push(&mut runs, inner_end, last, false);
        }
    }
    if whole && at != size {
        return wrong("its extents do not cover it");
    }
    Ok(runs)
}

fn push(runs: &mut Vec<Run>, first: u64, end: u64, zero: bool) {
    // Only a block that is read can be touched twice: one of zeros lies within its extent.
    let first = runs.last().map_or(first, |last| first.max(last.end));
    if first >= end {
        return;
    }
    match runs.last_mut() {
        Some(last) if last.end == first && last.zero == zero => last.end = end,
        _ => runs.push(Run { first, end, zero }),
    }
}
