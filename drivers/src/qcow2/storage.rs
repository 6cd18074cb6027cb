//! The file below an image: reads and writes at offsets, with errors that name it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;

use super::CLUSTER_BYTES;
use crate::direct::Direct;
use crate::{DriverError, Kind, Result};

/// The unit of holes; the block of nearly every file system.
const HOLE_BYTES: usize = 4 << 10;

/// What may lie in memory of the host before it is made durable.
const SYNC_STEP_BYTES: u64 = 256 << 20;

/// What is about to be done to the file; for tests that end or record it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Bytes at an offset.
    Write(u64, &'a [u8]),
    /// All writes so far become durable.
    Sync,
    /// The file gets this length.
    Cut(u64),
    /// A range (offset, length in bytes) becomes a hole.
    Punch(u64, u64),
}

/// Asked before each step; its error is taken for the file's.
#[doc(hidden)]
pub type Gate = Box<dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync>;

/// An open file. `shown` is how people know it.
pub(super) struct Storage {
    file: File,
    direct: Direct,
    shown: String,
    gate: Option<Gate>,
    /// Bytes written since they were last made durable.
    unsynced: AtomicU64,
}

impl Storage {
    pub(super) fn new(file: File, shown: &str, gate: Option<Gate>) -> Self {
        Self { file, direct: Direct::default(), shown: shown.to_owned(), gate, unsynced: AtomicU64::new(0) }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn length(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(|e| self.failed("looking at", e))?;
        Ok(meta.len())
    }

    /// Bytes that the file takes on its file system.
    pub(super) fn allocated(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(|e| self.failed("looking at", e))?;
        Ok(meta.blocks().saturating_mul(512))
    }

    /// Fills `out` from `offset`; a file that ends before is damaged.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt(format!(
                "the file ends before {} bytes at {offset}; it is damaged or was not copied whole",
                out.len()
            )),
            _ => DriverError::io(format!("reading {} at {offset}", self.shown), e),
        })
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let written =
            self.ask(Step::Write(offset, data)).and_then(|()| self.direct.write_all_at(&self.file, data, offset));
        self.unsynced.fetch_add(data.len() as u64, Ordering::Relaxed);
        written.map_err(|e| DriverError::io(format!("writing {} at {offset}", self.shown), e))
    }

    /// Makes durable what was written when it has become much, so that the last [`Storage::sync`] is short: on a slow share
    /// it could not be told from a server that is gone. One thread at a time; others go on.
    pub(super) fn sync_in_steps(&self) -> Result<()> {
        let unsynced = self.unsynced.load(Ordering::Relaxed);
        let mine = unsynced >= SYNC_STEP_BYTES
            && self.unsynced.compare_exchange(unsynced, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !mine {
            return Ok(());
        }
        let synced = self.ask(Step::Sync).and_then(|()| self.file.sync_data());
        synced.map_err(|e| self.failed("making durable", e))
    }

    /// Writes `data` to a place where the file holds nothing yet, leaving out what is zero.
    pub(super) fn write_sparse(&self, offset: u64, data: &[u8]) -> Result<()> {
        let is_zero = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
        let blocks: Vec<&[u8]> = data.chunks(HOLE_BYTES).collect();
        let mut at = 0;
        while at < blocks.len() {
            let zeros = blocks[at..].iter().take_while(|block| is_zero(block)).count();
            let start = at + zeros;
            at = start + blocks[start..].iter().take_while(|block| !is_zero(block)).count();
            if start < at {
                let bytes = &data[start * HOLE_BYTES..data.len().min(at * HOLE_BYTES)];
                self.write(offset + (start * HOLE_BYTES) as u64, bytes)?;
            }
        }
        Ok(())
    }

    /// Makes everything that was written durable.
    pub(super) fn sync(&self) -> Result<()> {
        let synced = self.ask(Step::Sync).and_then(|()| self.file.sync_all());
        synced.map_err(|e| self.failed("making durable", e))
    }

    pub(super) fn set_length(&self, length: u64) -> Result<()> {
        let cut = self.ask(Step::Cut(length)).and_then(|()| self.file.set_len(length));
        cut.map_err(|e| self.failed("setting the length of", e))
    }

    /// Gives a range of clusters back to the file system. False when that is not possible there.
    pub(super) fn punch(&self, first: u64, clusters: u64) -> Result<bool> {
        let (offset, length) = (first * CLUSTER_BYTES, clusters * CLUSTER_BYTES);
        self.ask(Step::Punch(offset, length)).map_err(|e| self.failed("freeing parts of", e))?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            return match rustix::fs::fallocate(&self.file, flags, offset, length) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
                Err(e) => Err(self.failed("freeing parts of", e.into())),
            };
        }
    }

    fn ask(&self, step: Step<'_>) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), |gate| gate(step))
    }

    fn failed(&self, verb: &str, error: io::Error) -> DriverError {
        DriverError::io(format!("{verb} {}", self.shown), error)
    }

    /// The image is not what it says it is.
    pub(super) fn corrupt(&self, reason: impl Into<String>) -> DriverError {
        DriverError::new(Kind::Corrupt, format!("reading {}", self.shown), reason)
    }

    /// The caller asked for what cannot be.
    pub(super) fn refused(&self, reason: impl Into<String>) -> DriverError {
        DriverError::new(Kind::Permanent, format!("writing {}", self.shown), reason)
    }
}
