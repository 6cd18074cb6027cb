//! Giving a disk back: from the datastore, or from a disk at hand where that holds the same.
//!
//! Invariant: every block that is handed on has the digest that was stored with it, wherever it came from.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::blocks::{BLOCK_BYTES, BlockTable};
use super::point::{DOCUMENT, MANIFEST, Manifest, Point};
use crate::datastore::{Damage, RestoreRequest, Restored};
use crate::{Cancel, DiskReader, DiskWriter, DriverError, Kind, Progress, Result};

/// `EIO`: the medium gives the bytes back no more.
const EIO: i32 = 5;

/// How something stored is damaged; one letter where it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Harm {
    /// The manifest is not what was written.
    #[serde(rename = "m")]
    Manifest,
    /// The document is gone or is not what was stored.
    #[serde(rename = "x")]
    Document,
    /// The disk's file is not there.
    #[serde(rename = "g")]
    Gone,
    /// The disk's file is too short or too long.
    #[serde(rename = "l")]
    Length,
    /// The medium fails.
    #[serde(rename = "u")]
    Unreadable,
    /// The bytes are others.
    #[serde(rename = "d")]
    Digest,
}

/// A damage of one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wound {
    /// None = not part of a disk.
    pub(super) disk: Option<u32>,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) harm: Harm,
}

impl Wound {
    /// Beside disks.
    pub(super) fn beside(harm: Harm) -> Self {
        Self { disk: None, offset: 0, length: 0, harm }
    }

    /// Takes in `next` when it goes on where this one ends.
    pub(super) fn joins(&mut self, next: &Self) -> bool {
        let joins = self.disk == next.disk && self.harm == next.harm && self.offset + self.length == next.offset;
        if joins {
            self.length += next.length;
        }
        joins
    }

    /// The same as the contract tells it, of the point `id`.
    pub(super) fn damage(&self, id: &str) -> Damage {
        let file = match (self.harm, self.disk) {
            (Harm::Manifest, _) => MANIFEST.to_owned(),
            (_, None) => DOCUMENT.to_owned(),
            (_, Some(disk)) => format!("disk.{disk}"),
        };
        let how = match self.harm {
            Harm::Manifest => "is not what was written",
            Harm::Document => "is gone or does not have its digest",
            Harm::Gone => "is not there",
            Harm::Length => "is not as long as it was",
            Harm::Unreadable => "cannot be read",
            Harm::Digest => "does not have its digest",
        };
        Damage {
            points: vec![id.to_owned()],
            disk: self.disk,
            offset: self.offset,
            length: self.length,
            what: format!("{file} {how}"),
        }
    }
}

/// The file of a stored disk, which need not be there.
pub(super) struct StoredDisk<'a> {
    id: u32,
    path: PathBuf,
    file: Option<(File, u64)>,
    table: &'a BlockTable,
}

impl<'a> StoredDisk<'a> {
    /// Opens the disk `id` of a point. What was forgotten before is missing; afterwards it stays readable.
    pub(super) fn open(point: &Point, point_id: &str, id: u32, table: &'a BlockTable) -> Result<Self> {
        let path = point.disk(id);
        let failed = |error| DriverError::io(format!("reading {}", path.display()), error);
        let file = match File::open(&path) {
            Ok(file) => {
                let length = file.metadata().map_err(failed)?.len();
                Some((file, length))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && point.is_published() => None,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(super::point::missing(point_id)),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { id, path, file, table })
    }

    fn wound(&self, offset: u64, length: u64, harm: Harm) -> Wound {
        Wound { disk: Some(self.id), offset, length, harm }
    }

    /// What its length tells: the blocks that cannot be whole, or 0 bytes at the end when it is too long.
    pub(super) fn misfit(&self) -> Option<Wound> {
        let size = self.table.size_bytes;
        match &self.file {
            None => Some(self.wound(0, size, Harm::Gone)),
            Some((_, length)) if *length > size => Some(self.wound(size, 0, Harm::Length)),
            Some((_, length)) if *length < size => {
                let whole = length / BLOCK_BYTES * BLOCK_BYTES;
                Some(self.wound(whole, size - whole, Harm::Length))
            }
            Some(_) => None,
        }
    }

    /// Reads the block at `at` whole; gives what is wrong with it.
    ///
    /// # Errors
    /// Those that tell nothing about the block.
    pub(super) fn read(&self, at: u64, block: &mut [u8]) -> Result<Option<Wound>> {
        let harm = match &self.file {
            None => Harm::Gone,
            Some((file, _)) => match file.read_exact_at(block, at) {
                Ok(()) if self.table.has(at, block) => return Ok(None),
                Ok(()) => Harm::Digest,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => Harm::Length,
                Err(error) if error.raw_os_error() == Some(EIO) => Harm::Unreadable,
                Err(error) => return Err(DriverError::io(format!("reading {}", self.path.display()), error)),
            },
        };
        Ok(Some(self.wound(at, block.len() as u64, harm)))
    }

    fn corrupt(&self, wound: &Wound) -> DriverError {
        let doing = format!("restoring disk {} from {}", self.id, self.path.display());
        let Damage { what, .. } = wound.damage("");
        DriverError::new(Kind::Corrupt, doing, format!("{what}, at byte {}", wound.offset))
    }
}

/// A disk that is thought to hold nearly the same, as long as it can be read.
struct AtHand(Option<Box<dyn DiskReader>>);

impl AtHand {
    /// Fills `data` from `at` on and marks the blocks that have their digests.
    fn fill(&mut self, table: &BlockTable, at: u64, data: &mut [u8], held: &mut [bool]) {
        let Some(reader) = &mut self.0 else { return };
        let there = reader.size_bytes().saturating_sub(at).min(data.len() as u64);
        // The last block of a disk may be short, any other one is whole.
        let there = if there == data.len() as u64 { there } else { there / BLOCK_BYTES * BLOCK_BYTES };
        if there == 0 {
            return;
        }
        let data = &mut data[..there as usize];
        let read = reader.read(&mut std::iter::once((at, there as u32)), &mut |offset, bytes| {
            if offset != at || bytes.len() != data.len() {
                let reason = "it answers what nobody asked for";
                return Err(DriverError::new(Kind::Permanent, "reading the disk at hand", reason));
            }
            data.copy_from_slice(&bytes);
            Ok(())
        });
        if let Err(error) = read {
            tracing::debug!(%error, "the disk at hand is left out of the restore");
            self.0 = None;
            return;
        }
        let mut block_at = at;
        for (held, block) in held.iter_mut().zip(data.chunks(BLOCK_BYTES as usize)) {
            *held = table.has(block_at, block);
            block_at += block.len() as u64;
        }
    }
}

impl Point {
    /// Writes a disk of this point into `target`.
    pub(super) fn restore(
        &self,
        manifest: &Manifest,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let RestoreRequest { point: point_id, disk: id, skip_bad, current, .. } = request;
        let table = manifest.table(id).ok_or_else(|| {
            let doing = format!("restoring disk {id} from {}", self.folder().display());
            DriverError::new(Kind::Missing, doing, "the point holds no such disk")
        })?;
        let disk = StoredDisk::open(self, point_id, id, table)?;
        if let (Some(wound), false) = (disk.misfit(), skip_bad) {
            return Err(disk.corrupt(&wound));
        }
        let progress = progress.of_disk(id);
        progress.add_total(table.size_bytes);
        let mut restoring =
            Restoring { disk, at_hand: AtHand(current), skip_bad, wounds: Vec::new(), written: 0, fetched: 0 };
        let mut done = 0;
        for (at, length) in table.pieces(0) {
            cancel.check()?;
            restoring.piece(at, vec![0; length as usize], target)?;
            progress.add_done(at + length - done);
            done = at + length;
        }
        cancel.check()?;
        progress.add_done(table.size_bytes - done);
        Ok(Restored {
            written_bytes: restoring.written,
            fetched_bytes: restoring.fetched,
            damages: restoring.wounds.iter().map(|wound| wound.damage(point_id)).collect(),
        })
    }
}

/// A restore under way.
struct Restoring<'a> {
    disk: StoredDisk<'a>,
    at_hand: AtHand,
    skip_bad: bool,
    wounds: Vec<Wound>,
    written: u64,
    fetched: u64,
}

impl Restoring<'_> {
    /// Gives the blocks of one piece back, those that stand together in one write.
    fn piece(&mut self, at: u64, mut data: Vec<u8>, target: &mut dyn DiskWriter) -> Result<()> {
        let mut held = vec![false; data.len().div_ceil(BLOCK_BYTES as usize)];
        self.at_hand.fill(self.disk.table, at, &mut data, &mut held);
        let mut good: Vec<Range<usize>> = Vec::new();
        let mut here = 0;
        for (held, block) in held.into_iter().zip(data.chunks_mut(BLOCK_BYTES as usize)) {
            let end = here + block.len();
            let wound = if held { None } else { self.disk.read(at + here as u64, block)? };
            match wound {
                Some(wound) if !self.skip_bad => return Err(self.disk.corrupt(&wound)),
                Some(wound) => {
                    if !self.wounds.last_mut().is_some_and(|last| last.joins(&wound)) {
                        self.wounds.push(wound);
                    }
                }
                None => {
                    self.fetched += if held { 0 } else { block.len() as u64 };
                    match good.last_mut() {
                        Some(last) if last.end == here => last.end = end,
                        _ => good.push(here..end),
                    }
                }
            }
            here = end;
        }
        for run in good {
            target.write_at(at + run.start as u64, &data[run.clone()])?;
            self.written += run.len() as u64;
        }
        Ok(())
    }
}
