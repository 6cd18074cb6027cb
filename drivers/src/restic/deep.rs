//! Reads packs from end to end: the digest of the file, and of every blob in it that is needed.
//!
//! Each pack is read once, in order of ids, by several threads; the caller's thread gathers what they found, saves how far
//! they are, and looks at the cancel. Memory: one read per thread, and the places of the blobs of a few hundred packs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sha2::{Digest as _, Sha256};

use super::cursor::Cursor;
use super::directory::FileKind;
use super::format::{BlobOpener, Id};
use super::index::Location;
use super::read::{PointReader, open_blob, pack_fault};
use crate::{Cancel, DriverError, Kind, Progress, Result};

/// Longest read, but for a blob that is longer.
const READ_BYTES: u64 = 8 << 20;
/// Blobs whose places are looked up at once.
const BATCH_BLOBS: usize = 200_000;
/// How often progress is saved: after this time or so many bytes, whichever is first.
const SAVE_EVERY: Duration = Duration::from_secs(5);
const SAVE_BYTES: u64 = 256 << 20;
/// How often a cancel is looked for while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Blobs found bad that are remembered one by one.
const MAX_BAD: usize = 1_000_000;
/// Said of a pack whose needed blobs are whole but whose bytes are not those that it was written with.
const UNUSED_DAMAGED: &str = "its header, or data that these points do not need, is damaged";

/// A pack to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackToRead {
    /// Its number in the index.
    pub(super) number: u32,
    /// Its name.
    pub(super) id: Id,
    /// Length of the file.
    pub(super) length: u64,
    /// Whether it is known to be too short for what is needed of it.
    pub(super) is_short: bool,
}

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    /// Bad blobs, each with a clause.
    pub(super) blobs: HashMap<Id, String>,
    /// Packs, by number, with damage beside needed blobs.
    pub(super) packs: HashMap<u32, String>,
    /// Bytes read, those of earlier calls included.
    pub(super) read_bytes: u64,
}

struct Job {
    at: usize,
    /// Ascending in the pack.
    blobs: Vec<(Location, Id)>,
}

struct Report {
    at: usize,
    bad: Vec<(Id, &'static str)>,
    fault: Option<&'static str>,
}

/// What reading needs to know.
pub(super) struct Deep<'a> {
    pub(super) reader: PointReader<'a>,
    /// The packs, ascending by id.
    pub(super) packs: &'a [PackToRead],
    /// What is needed: number of the pack and offset in it, ascending.
    pub(super) needed: &'a [(u32, u32)],
    pub(super) threads: usize,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

impl Deep<'_> {
    /// Reads what `cursor` has not finished.
    pub(super) fn run(&self, mut cursor: Cursor, save: &mut dyn FnMut(&str) -> Result<()>) -> Result<Found> {
        let ids: Vec<Id> = self.packs.iter().map(|pack| pack.id).collect();
        let mut done = cursor.finished(&ids);
        let (known, mut todo): (Vec<usize>, Vec<usize>) = (0..ids.len()).partition(|at| done[*at]);
        let (again, whole): (Vec<usize>, Vec<usize>) = known.into_iter().partition(|at| cursor.is_damaged(&ids[*at]));
        self.progress.add_total(self.packs.iter().map(|pack| pack.length).sum());
        self.progress.add_done(whole.iter().map(|at| self.packs[*at].length).sum());
        // Behind the new ones, or a call that is interrupted early each time would never get further.
        todo.extend(&again);
        let mut damaged: Vec<Id> = again.iter().map(|at| ids[*at]).collect();
        let stop = AtomicBool::new(false);
        let (jobs, queue) = bounded(self.threads);
        let (reports, received) = bounded(self.threads);
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                let (queue, reports, stop) = (queue.clone(), reports.clone(), &stop);
                scope.spawn(move || self.work(&queue, &reports, stop));
            }
            drop((queue, reports));
            let todo = &todo;
            scope.spawn(move || self.plan(todo, &jobs));
            let result = self.gather(&ids, (&mut done, todo.len()), &mut damaged, &mut cursor, &received, save);
            stop.store(true, Ordering::Release);
            drop(received);
            result
        })
    }

    fn gather(
        &self,
        ids: &[Id],
        (done, todo): (&mut [bool], usize),
        damaged: &mut Vec<Id>,
        cursor: &mut Cursor,
        reports: &Receiver<Result<Report>>,
        save: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Found> {
        let mut found = Found { read_bytes: cursor.read_bytes, ..Found::default() };
        let mut saved: Option<(Instant, u64)> = None;
        let mut count = 0;
        loop {
            if self.cancel.is_cancelled() {
                cursor.advance(ids, done, damaged, found.read_bytes);
                save(&cursor.text())?;
                self.cancel.check()?;
            }
            let report = match reports.recv_timeout(LOOK_EVERY) {
                Ok(report) => report?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            done[report.at] = true;
            count += 1;
            found.read_bytes += self.packs[report.at].length;
            if report.fault.is_some() || !report.bad.is_empty() || self.packs[report.at].is_short {
                if !damaged.contains(&ids[report.at]) {
                    damaged.push(ids[report.at]);
                }
                self.note(&mut found, report);
            }
            let is_due =
                saved.is_none_or(|(at, bytes)| at.elapsed() >= SAVE_EVERY || found.read_bytes - bytes >= SAVE_BYTES);
            if is_due {
                saved = Some((Instant::now(), found.read_bytes));
                cursor.advance(ids, done, damaged, found.read_bytes);
                save(&cursor.text())?;
            }
        }
        if done.iter().all(|done| *done) && count == todo {
            return Ok(found);
        }
        Err(DriverError::new(Kind::Permanent, "verifying packs", "a thread that reads packs ended early"))
    }

    fn note(&self, found: &mut Found, report: Report) {
        let PackToRead { id, number, .. } = self.packs[report.at];
        if let Some(reason) = report.fault {
            found.packs.insert(number, pack_fault(&id, reason));
        }
        for (blob, reason) in report.bad {
            if found.blobs.len() < MAX_BAD {
                found.blobs.insert(blob, pack_fault(&id, reason));
            } else {
                found.packs.insert(number, pack_fault(&id, reason));
            }
        }
    }

    /// Hands out the packs with what is needed of each.
    fn plan(&self, todo: &[usize], jobs: &Sender<Job>) {
        let count_of = |number: u32| {
            let start = self.needed.partition_point(|needed| needed.0 < number);
            self.needed[start..].partition_point(|needed| needed.0 == number)
        };
        let mut rest = todo;
        while !rest.is_empty() {
            let mut blobs = 0;
            let size = rest.iter().take_while(|at| {
                let before = blobs;
                blobs += count_of(self.packs[**at].number);
                before == 0 || blobs <= BATCH_BLOBS
            });
            let (batch, later) = rest.split_at(size.count().max(1));
            rest = later;
            let mut places: HashMap<u32, Vec<(Location, Id)>> =
                batch.iter().map(|at| (self.packs[*at].number, Vec::new())).collect();
            for (id, location) in self.reader.index.blobs() {
                if let Some(blobs) = places.get_mut(&location.pack)
                    && self.needed.binary_search(&(location.pack, location.offset)).is_ok()
                {
                    blobs.push((*location, *id));
                }
            }
            for at in batch {
                let mut blobs = places.remove(&self.packs[*at].number).unwrap_or_default();
                blobs.sort_unstable_by_key(|(location, _)| location.offset);
                if jobs.send(Job { at: *at, blobs }).is_err() {
                    return;
                }
            }
        }
    }

    fn work(&self, jobs: &Receiver<Job>, reports: &Sender<Result<Report>>, stop: &AtomicBool) {
        let mut opener = match BlobOpener::new(self.reader.cipher.clone()) {
            Ok(opener) => opener,
            Err(error) => return drop(reports.send(Err(error))),
        };
        for job in jobs {
            let report = self.read(&mut opener, &job, stop);
            let is_last = report.is_err();
            if reports.send(report).is_err() || is_last {
                return;
            }
        }
    }

    fn read(&self, opener: &mut BlobOpener, job: &Job, stop: &AtomicBool) -> Result<Report> {
        let pack = self.packs[job.at];
        let mut report = Report { at: job.at, bad: Vec::new(), fault: None };
        if pack.length > u32::MAX.into() {
            report.fault = Some("the file is longer than any pack");
            return Ok(report);
        }
        // Those that end behind the file are known already.
        let within = |location: &Location| u64::from(location.offset) + u64::from(location.length) <= pack.length;
        let blobs: Vec<&(Location, Id)> = job.blobs.iter().filter(|(location, _)| within(location)).collect();
        let mut hash = Sha256::new();
        let (mut position, mut next) = (0_u64, 0);
        while position < pack.length {
            if stop.load(Ordering::Acquire) {
                return Err(DriverError::cancelled());
            }
            let end = cut(position, pack.length, &blobs[next..]);
            let count = blobs[next..].partition_point(|(location, _)| u64::from(location.offset) < end);
            let here = &blobs[next..next + count];
            next += count;
            // Both fit: the file has less than 4 GiB.
            let (start, length) = (position as u32, (end - position) as u32);
            match self.reader.directory.read_range(FileKind::Pack, &pack.id, start, length) {
                Ok(bytes) => {
                    hash.update(&bytes);
                    self.open(opener, here, position, &bytes, &mut report)?;
                }
                Err(error) => {
                    report.fault = Some(self.reader.damage_of(error)?);
                    self.open(opener, here, position, &[], &mut report)?;
                }
            }
            self.progress.add_done(length.into());
            position = end;
        }
        let is_told = report.fault.is_some() || !report.bad.is_empty() || blobs.len() < job.blobs.len();
        if !is_told && <[u8; 32]>::from(hash.finalize()) != pack.id.0 {
            report.fault = Some(UNUSED_DAMAGED);
        }
        Ok(report)
    }

    /// Opens `blobs` out of `bytes`, which lie at `position` of the pack; those that do not lie within are read for
    /// themselves.
    fn open(
        &self,
        opener: &mut BlobOpener,
        blobs: &[&(Location, Id)],
        position: u64,
        bytes: &[u8],
        report: &mut Report,
    ) -> Result<()> {
        for (location, id) in blobs.iter().copied() {
            let start = u64::from(location.offset).checked_sub(position).and_then(|start| usize::try_from(start).ok());
            let sealed = start.and_then(|start| bytes.get(start..start.checked_add(location.length as usize)?));
            let opened = match sealed {
                Some(sealed) => open_blob(opener, sealed.to_vec(), location, id).map(drop),
                None => match self.reader.directory.read_range(
                    FileKind::Pack,
                    self.reader.index.pack(location),
                    location.offset,
                    location.length,
                ) {
                    Ok(sealed) => open_blob(opener, sealed, location, id).map(drop),
                    Err(error) => Err(self.reader.damage_of(error)?),
                },
            };
            if let Err(reason) = opened {
                report.bad.push((*id, reason));
            }
        }
        Ok(())
    }
}

/// The end of the read that begins at `position`: no blob is cut that fits, none of `blobs` begins before `position`.
fn cut(position: u64, length: u64, blobs: &[&(Location, Id)]) -> u64 {
    let wanted = position.saturating_add(READ_BYTES).min(length);
    let before = blobs.partition_point(|(location, _)| u64::from(location.offset) < wanted);
    let Some((last, _)) = before.checked_sub(1).map(|at| blobs[at]) else { return wanted };
    let (start, end) = (u64::from(last.offset), u64::from(last.offset) + u64::from(last.length));
    if end <= wanted {
        wanted
    } else if start > position {
        start
    } else {
        end.min(length)
    }
}
