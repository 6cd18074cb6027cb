//! Storing one disk as a file of its own.
//!
//! An increment and a comparison begin with a copy of the parent's file. A comparison then reads the whole disk and writes
//! the blocks whose bytes are not in the copy, so it also mends blocks that the parent has lost.
//!
//! Invariant: the table names the digest of what the reader gave, whatever the file held before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::blocks::{self, BLOCK_BYTES, BlockTable, Run};
use super::files;
use crate::datastore::{Change, SourceDisk};
use crate::{Cancel, DriverError, Extent, Kind, Progress, Result};

/// Where the unchanged blocks of a disk come from.
pub(super) struct Base {
    pub(super) file: PathBuf,
    pub(super) table: BlockTable,
}

/// A disk that was stored.
pub(super) struct Written {
    pub(super) table: BlockTable,
    pub(super) read_bytes: u64,
    /// Bytes of the blocks that were written, those of zeros left out.
    pub(super) stored_bytes: u64,
    /// As in [`crate::datastore::Stored`].
    pub(super) saved_bytes: u64,
    /// As in [`crate::datastore::Stored`].
    pub(super) unmarked_bytes: u64,
}

/// Stores one disk as the new file `path`, durable. `base` is there unless the disk is stored for itself.
pub(super) fn store_disk(
    disk: &mut SourceDisk,
    base: Option<Base>,
    path: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Written> {
    let failed = |error| DriverError::io(format!("writing {}", path.display()), error);
    let wrong = |reason: String| DriverError::new(Kind::Permanent, format!("storing {}", path.display()), reason);
    let size = disk.reader.size_bytes();
    let runs = blocks::runs(disk.reader.as_mut(), disk.change != Change::SinceParent)?;
    let length = |run: &Run| (run.end * BLOCK_BYTES).min(size) - run.first * BLOCK_BYTES;
    let to_read = runs.iter().filter(|run| !run.zero);
    let wanted: u64 = to_read.clone().map(length).sum();
    let progress = progress.of_disk(disk.id);
    progress.add_total(wanted);

    let marked = (disk.change == Change::Compare).then(|| disk.marked.as_deref().map(merged));
    let mut new = NewDisk::create(path, size, base, marked).map_err(failed)?;
    for run in runs.iter().filter(|run| run.zero) {
        cancel.check()?;
        new.clear(run).map_err(failed)?;
    }
    // What was asked for and has not come yet: length by offset.
    let asked = RefCell::new(BTreeMap::new());
    let pieces = to_read.flat_map(|run| blocks::pieces(run.first * BLOCK_BYTES, (run.end * BLOCK_BYTES).min(size)));
    let mut pieces = pieces.map(|(offset, length)| {
        asked.borrow_mut().insert(offset, length);
        // A piece fits into 32 bits.
        (offset, length as u32)
    });
    let mut read_bytes = 0_u64;
    disk.reader.read(&mut pieces, &mut |offset, data| {
        cancel.check()?;
        let bytes = data.len() as u64;
        if asked.borrow_mut().remove(&offset) != Some(bytes) {
            return Err(wrong(format!("the reader gave {bytes} bytes at {offset}, which nobody asked for")));
        }
        new.take(offset, &data).map_err(failed)?;
        read_bytes = read_bytes.saturating_add(bytes);
        progress.add_done(bytes);
        Ok(())
    })?;
    if read_bytes != wanted {
        return Err(wrong(format!("the reader gave {read_bytes} bytes, {wanted} were asked for")));
    }
    new.file.sync_all().map_err(failed)?;
    let NewDisk { table, stored_bytes, unmarked_bytes, .. } = new;
    let saved_bytes = read_bytes.saturating_sub(stored_bytes);
    Ok(Written { table, read_bytes, stored_bytes, saved_bytes, unmarked_bytes })
}

/// A disk while it is stored.
struct NewDisk {
    file: File,
    table: BlockTable,
    /// Nothing but a hole was in the file before.
    fresh: bool,
    /// With a comparison: what the record of changes lists, when there is one.
    compared: Option<Option<Vec<(u64, u64)>>>,
    stored_bytes: u64,
    unmarked_bytes: u64,
}

impl NewDisk {
    fn create(
        path: &Path,
        size_bytes: u64,
        base: Option<Base>,
        compared: Option<Option<Vec<(u64, u64)>>>,
    ) -> std::io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o660).open(path)?;
        let fresh = base.is_none();
        let table = match base {
            None => {
                file.set_len(size_bytes)?;
                BlockTable { size_bytes, ..BlockTable::default() }
            }
            Some(base) => {
                files::copy_content(&File::open(&base.file)?, &file)?;
                base.table
            }
        };
        Ok(Self { file, table, fresh, compared, stored_bytes: 0, unmarked_bytes: 0 })
    }

    /// Makes blocks zero.
    fn clear(&mut self, run: &Run) -> std::io::Result<()> {
        let zeros = [0; BLOCK_BYTES as usize];
        for number in self.table.clear(run.first, run.end) {
            let at = number * BLOCK_BYTES;
            let length = (self.table.size_bytes - at).min(BLOCK_BYTES) as usize;
            if self.compared.is_some() {
                let old = self.old(at, length)?;
                self.count(at, &old, &zeros[..length]);
            }
            self.file.write_all_at(&zeros[..length], at)?;
        }
        Ok(())
    }

    /// Takes in what was read.
    fn take(&mut self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut at = offset;
        for block in data.chunks(BLOCK_BYTES as usize) {
            self.take_block(at, block)?;
            at += block.len() as u64;
        }
        self.table.set(offset, data);
        Ok(())
    }

    fn take_block(&mut self, at: u64, block: &[u8]) -> std::io::Result<()> {
        let zero = crate::is_zero(block);
        if self.compared.is_some() {
            let old = self.old(at, block.len())?;
            if !self.table.has(at, block) {
                self.count(at, &old, block);
            }
            if old == block {
                return Ok(());
            }
        }
        if !self.fresh || !zero {
            self.file.write_all_at(block, at)?;
        }
        self.stored_bytes += if zero { 0 } else { block.len() as u64 };
        Ok(())
    }

    /// The parent's bytes.
    fn old(&self, at: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let mut old = vec![0; length];
        self.file.read_exact_at(&mut old, at)?;
        Ok(old)
    }

    /// Counts the bytes of a block that differ and were not marked.
    fn count(&mut self, at: u64, old: &[u8], new: &[u8]) {
        let Some(Some(marked)) = &self.compared else { return };
        let end = at + new.len() as u64;
        let mut from = at;
        let first = marked.partition_point(|(_, marked_end)| *marked_end <= at);
        let touching = marked[first..].iter().copied().take_while(|(start, _)| *start < end);
        for (start, marked_end) in touching.chain([(end, end)]) {
            let gap = (from - at) as usize..(start.max(from) - at) as usize;
            let differing = old[gap.clone()].iter().zip(&new[gap]).filter(|(old, new)| old != new);
            self.unmarked_bytes += differing.count() as u64;
            from = marked_end.clamp(from, end);
        }
    }
}

/// What extents cover, whatever they hold: ranges `[start, end)`, ascending and apart.
fn merged(extents: &[Extent]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<_> =
        extents.iter().map(|extent| (extent.offset, extent.offset.saturating_add(extent.length))).collect();
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}
