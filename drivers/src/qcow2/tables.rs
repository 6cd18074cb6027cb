//! Writing all tables of an image: changed second-level tables, the first-level table, refcounts.
//!
//! Everything goes to clusters that nothing on disk refers to; the caller then switches the header. Tables are mostly zeros:
//! where the file has only holes, those stay holes.

use std::collections::BTreeMap;

use super::header::l1_word;
use super::space::Space;
use super::storage::Storage;
use super::{CLUSTER, CLUSTER_BYTES, L2_ENTRIES};
use crate::Result;

/// Refcounts in one block.
const BLOCK_COUNTS: usize = CLUSTER / 2;

/// A second-level table in memory.
pub(super) type Table = Box<[u64]>;

/// A table without entries.
pub(super) fn empty_table() -> Table {
    vec![0; L2_ENTRIES].into_boxed_slice()
}

/// Where the tables are.
pub(super) struct Placed {
    pub(super) l1_at: u64,
    pub(super) refcounts_at: u64,
    pub(super) refcount_clusters: usize,
}

/// The file that tables are written to.
#[derive(Clone, Copy)]
pub(super) struct Sheet<'a> {
    pub(super) storage: &'a Storage,
    /// From here on, the start of a cluster, nothing was ever written that lies in a cluster of a table.
    pub(super) blank_from: u64,
}

impl Sheet<'_> {
    fn write(self, at: u64, bytes: &[u8]) -> Result<()> {
        if at >= self.blank_from { self.storage.write_sparse(at, bytes) } else { self.storage.write(at, bytes) }
    }
}

/// Writes the tables `changed` (by their place in `l1`), then `l1`, then the refcounts of everything. The clusters of old
/// tables have been released in `space` by the caller. The file may end before the last table does; the caller gives it
/// its length.
pub(super) fn write(
    sheet: Sheet<'_>,
    space: &mut Space,
    mut l1: Vec<u64>,
    changed: &BTreeMap<usize, Table>,
) -> Result<Placed> {
    for (place, table) in changed {
        let at = space.take();
        sheet.write(at, &bytes_of(table))?;
        if let Some(word) = l1.get_mut(*place) {
            *word = l1_word(at);
        }
    }
    let mut bytes = bytes_of(&l1);
    bytes.resize(bytes.len().next_multiple_of(CLUSTER), 0);
    let l1_at = space.take_row(bytes.len() / CLUSTER);
    sheet.write(l1_at, &bytes)?;
    drop(bytes);
    write_refcounts(sheet, space, l1_at)
}

/// The blocks count themselves and the table as well, so places are taken until they suffice.
fn write_refcounts(sheet: Sheet<'_>, space: &mut Space, l1_at: u64) -> Result<Placed> {
    let mut blocks: Vec<u64> = Vec::new();
    let mut table: Option<(u64, usize)> = None;
    let (refcounts_at, refcount_clusters) = loop {
        if blocks.len() < space.clusters().div_ceil(BLOCK_COUNTS) {
            blocks.push(space.take());
            continue;
        }
        let needed = blocks.len().div_ceil(L2_ENTRIES);
        match table {
            Some((at, clusters)) if clusters >= needed => break (at, clusters),
            Some((at, clusters)) => {
                space.release(at, clusters as u64 * CLUSTER_BYTES);
                table = None;
            }
            None => table = Some((space.take_row(needed), needed)),
        }
    };
    for (at, counts) in blocks.iter().zip(space.counts().chunks(BLOCK_COUNTS)) {
        let mut bytes = Vec::with_capacity(CLUSTER);
        for count in counts {
            bytes.extend(count.to_be_bytes());
        }
        bytes.resize(CLUSTER, 0);
        sheet.write(*at, &bytes)?;
    }
    let mut bytes = bytes_of(&blocks);
    bytes.resize(refcount_clusters * CLUSTER, 0);
    sheet.write(refcounts_at, &bytes)?;
    Ok(Placed { l1_at, refcounts_at, refcount_clusters })
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Numbers as they lie in a table.
pub(super) fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_be_bytes(*word)).collect()
}
