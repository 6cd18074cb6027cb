//! Gives a disk of a restore point back: plans what to fetch, lets threads fetch it, writes it, and tells what is lost.
//!
//! Three kinds of threads: the planner walks the disk in windows and hands runs of chunks out (and reads the current disk,
//! where there is one), fetchers open them, the caller's thread writes. Queues between them are short, so memory does not
//! depend on the disk's size; parts of large disks follow each other without a pause.
//!
//! Invariants: every byte of the disk is written, known to be zero, or told as damage, once; only the caller's thread
//! touches the target.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::ResticConfig;
use super::current::CurrentDisk;
use super::damages::{Collector, MORE};
use super::directory::FileKind;
use super::documents::Tree;
use super::fetch::{Event, Fetcher, Job, Wanted, runs};
use super::format::{BlobKind, Id};
use super::index::IdSet;
use super::layout::{Need, Piece, chunk_lengths, needs, pieces, zero_ids};
use super::read::{FileContent, NOT_INDEXED, PointReader, StoredForm, snapshot};
use crate::datastore::{Damage, RestoreRequest, Restored};
use crate::{Cancel, DiskReader, DiskWriter, DriverError, Kind, Progress, Result};

/// Zeros within a chunk are left out in pieces of this length.
const HOLE_BYTES: usize = 64 << 10;
/// Chunks of this much of the disk are fetched in the order of their packs; windows follow in the order of the disk.
const WINDOW_BYTES: u64 = 64 << 20;
/// Opened chunks wait for the writer up to about this much.
const WAITING_BYTES: u32 = 16 << 20;
/// Ranges left out that are remembered one by one; what follows is told as one range.
const MAX_LOST: usize = 100_000;
/// How often a cancel is looked for while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Writes the disk that `request` names into `target`. `tree` is the directory of its point, `size` what its snapshot says
/// of the disk's size.
pub(super) fn restore(
    config: &ResticConfig,
    reader: &PointReader<'_>,
    (tree, size): (&Tree, Option<u64>),
    request: RestoreRequest<'_>,
    target: &mut dyn DiskWriter,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Restored> {
    let RestoreRequest { point, disk, skip_bad, current, .. } = request;
    let doing = format!("restoring disk {disk} of restore point {point}");
    let progress = &progress.of_disk(disk);
    let form = reader
        .disk(tree, disk)?
        .ok_or_else(|| DriverError::new(Kind::Missing, &doing, "the point holds no such disk"))?;
    let part_bytes = part_length(reader, &form, size).unwrap_or(config.part_bytes);
    let stop = AtomicBool::new(false);
    let planned = AtomicU64::new(0);
    let (events, received) = bounded((WAITING_BYTES / config.chunk_bytes).clamp(4, 256) as usize);
    let (jobs, queue) = bounded(config.threads);
    let mut writer = Writer {
        doing: &doing,
        skip_bad,
        target,
        progress,
        cancel,
        restored: Restored::default(),
        lost: Vec::new(),
        received: 0,
    };
    let result = std::thread::scope(|scope| {
        for _ in 0..config.threads {
            let (queue, events, stop) = (queue.clone(), events.clone(), &stop);
            scope.spawn(move || Fetcher::work(*reader, &queue, events, stop));
        }
        drop(queue);
        let mut planner = Planner {
            reader,
            jobs,
            events,
            stop: &stop,
            planned: &planned,
            progress,
            current: None,
            window: Vec::new(),
            window_bytes: 0,
        };
        scope.spawn(move || planner.run(form, part_bytes, current));
        let result = writer.run(&received);
        stop.store(true, Ordering::Release);
        // Threads that wait to send must see that nobody listens.
        drop(received);
        result
    });
    result?;
    let Writer { restored, lost, received, .. } = writer;
    if received != planned.load(Ordering::Acquire) {
        return Err(DriverError::new(Kind::Permanent, doing, "a thread that reads chunks ended early"));
    }
    let damages = if lost.is_empty() {
        Vec::new()
    } else {
        progress.beat();
        told(config, reader, point, disk, lost, progress, cancel)?
    };
    Ok(Restored { damages, ..restored })
}

/// The length of parts as size, number and last part tell it: it is wanted when directories of others are damaged.
fn part_length(reader: &PointReader<'_>, form: &StoredForm, size: Option<u64>) -> Option<u64> {
    let StoredForm::Parts(parts) = form else { return None };
    let (last, before) = parts.split_last()?;
    let others = size?.checked_sub(reader.part(last).ok()?.size)?;
    let count = before.len() as u64;
    others.checked_div(count).filter(|length| length.checked_mul(count) == Some(others))
}

/// A range that is left out.
struct Lost {
    offset: u64,
    length: u64,
    id: Option<Id>,
    what: String,
}

/// The caller's side.
struct Writer<'a> {
    doing: &'a str,
    skip_bad: bool,
    target: &'a mut dyn DiskWriter,
    progress: &'a Progress,
    cancel: &'a Cancel,
    restored: Restored,
    lost: Vec<Lost>,
    /// Bytes of the disk that events told of.
    received: u64,
}

impl Writer<'_> {
    /// Writes until all senders are gone.
    fn run(&mut self, events: &Receiver<Event>) -> Result<()> {
        loop {
            self.cancel.check()?;
            match events.recv_timeout(LOOK_EVERY) {
                Ok(Event::Bytes { at, plain, is_fetched }) => self.write(&at, &plain, is_fetched)?,
                Ok(Event::Bad { offset, length, id, what }) => self.leave_out(Lost { offset, length, id, what })?,
                Ok(Event::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn write(&mut self, at: &[u64], plain: &[u8], is_fetched: bool) -> Result<()> {
        for offset in at {
            self.restored.written_bytes += write_without_holes(self.target, *offset, plain)?;
        }
        let bytes = plain.len() as u64 * at.len() as u64;
        if is_fetched {
            self.restored.fetched_bytes += bytes;
        }
        self.received += bytes;
        self.progress.add_done(bytes);
        Ok(())
    }

    fn leave_out(&mut self, lost: Lost) -> Result<()> {
        if !self.skip_bad {
            let reason = format!(
                "{} bytes at byte {} cannot be given back: {}; the rest can be restored by skipping damaged ranges",
                lost.length, lost.offset, lost.what
            );
            return Err(DriverError::new(Kind::Corrupt, self.doing, reason));
        }
        self.received += lost.length;
        self.progress.add_done(lost.length);
        let is_full = self.lost.len() >= MAX_LOST;
        match self.lost.last_mut() {
            // A huge disk that is lost as a whole must not fill the memory with its chunks.
            Some(rest) if is_full => {
                let end = (rest.offset + rest.length).max(lost.offset.saturating_add(lost.length));
                rest.offset = rest.offset.min(lost.offset);
                rest.length = end - rest.offset;
                rest.id = None;
                rest.what = MORE.to_owned();
            }
            _ => self.lost.push(lost),
        }
        Ok(())
    }
}

/// The planner's side.
struct Planner<'a> {
    reader: &'a PointReader<'a>,
    jobs: Sender<Job>,
    events: Sender<Event>,
    stop: &'a AtomicBool,
    /// Bytes of the disk that events will tell of.
    planned: &'a AtomicU64,
    progress: &'a Progress,
    current: Option<CurrentDisk>,
    /// Chunks that were not handed out yet, ascending on the disk.
    window: Vec<Wanted>,
    window_bytes: u64,
}

impl Planner<'_> {
    fn run(&mut self, form: StoredForm, part_bytes: u64, current: Option<Box<dyn DiskReader>>) {
        self.current = current.and_then(CurrentDisk::new);
        let count = match &form {
            StoredForm::Whole(_) => 1,
            StoredForm::Parts(parts) => parts.len() as u64,
        };
        let mut number = 0;
        let reader = self.reader;
        let result = pieces(reader, form, part_bytes, &mut |piece, tree| {
            let length = piece.content.as_ref().map_or_else(|(length, _)| *length, |file| file.size);
            // All parts but the last are as long as the first.
            if number == 0 && count > 1 {
                self.progress.add_total(length.saturating_mul(count - 1));
            } else if number + 1 == count {
                self.progress.add_total(length);
            }
            number += 1;
            self.piece(piece, tree)?;
            Ok(!self.stop.load(Ordering::Acquire))
        });
        if let Err(error) = result.and_then(|()| self.flush()) {
            // Nobody listens when the writer ended first.
            drop(self.events.send(Event::Failed(error)));
        }
    }

    fn piece(&mut self, piece: Piece, tree: Option<&Id>) -> Result<()> {
        match piece.content {
            Ok(file) => match chunk_lengths(self.reader.index, &file) {
                Ok(lengths) => self.chunks(&file, &lengths, piece.base),
                Err(what) => self.lost(piece.base, file.size, None, what.to_owned()),
            },
            Err((length, what)) => self.lost(piece.base, length, tree.copied(), what),
        }
    }

    fn chunks(&mut self, file: &FileContent, lengths: &[u32], base: u64) -> Result<()> {
        let zeros = zero_ids(lengths);
        let mut end = base;
        for (id, length) in file.ids.iter().zip(lengths.iter().copied()) {
            let offset = end;
            end = offset.saturating_add(length.into());
            if zeros.iter().any(|(size, zero)| *size == length && zero == id) {
                self.progress.add_done(length.into());
                continue;
            }
            let Some(location) = self.reader.index.get(BlobKind::Data, id).copied() else {
                self.lost(offset, length.into(), Some(*id), NOT_INDEXED.to_owned())?;
                continue;
            };
            self.planned.fetch_add(length.into(), Ordering::AcqRel);
            self.window.push(Wanted { offset, length, id: *id, location });
            self.window_bytes += u64::from(length);
            if self.window_bytes >= WINDOW_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn lost(&self, offset: u64, length: u64, id: Option<Id>, what: String) -> Result<()> {
        self.planned.fetch_add(length, Ordering::AcqRel);
        self.events.send(Event::Bad { offset, length, id, what }).map_err(|_| stopped())
    }

    /// Hands the window out.
    fn flush(&mut self) -> Result<()> {
        let mut window = std::mem::take(&mut self.window);
        self.window_bytes = 0;
        let (jobs, stop) = (&self.jobs, self.stop);
        let mut send = |job| {
            if stop.load(Ordering::Acquire) { Err(stopped()) } else { jobs.send(job).map_err(|_| stopped()) }
        };
        if let Some(current) = &mut self.current {
            let (elsewhere, is_readable) = current.read(window, &mut send)?;
            window = elsewhere;
            if !is_readable {
                self.current = None;
            }
        }
        runs(window).into_iter().try_for_each(|run| send(Job::Fetch(run)))
    }
}

/// Stands for the reason why the writer ended, which is the one that the caller hears.
fn stopped() -> DriverError {
    DriverError::new(Kind::Cancelled, "restoring a disk", "the restore has ended")
}

/// The damage, with every kept point that needs what is lost.
fn told(
    config: &ResticConfig,
    reader: &PointReader<'_>,
    point: &str,
    disk: u32,
    mut lost: Vec<Lost>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Vec<Damage>> {
    let bad: IdSet = lost.iter().filter_map(|lost| lost.id).collect();
    let mut points = vec![point.to_owned()];
    let mut users: HashMap<Id, Vec<u32>> = HashMap::new();
    for id in reader.directory.ids(FileKind::Snapshot)? {
        cancel.check()?;
        progress.beat();
        let number = points.len() as u32;
        if id.hex() == point {
            continue;
        }
        // What cannot be read or is none of ours has no say.
        let Ok(document) = snapshot(reader.directory, reader.cipher, &id) else { continue };
        let mut uses = IdSet::default();
        let walked = needs(reader, &document.tree, config.part_bytes, &mut |_| false, &mut |need| {
            let used = match need {
                Need::Chunk { id, .. } => Some(*id),
                Need::Lost { id, .. } => id,
                Need::Document(_) | Need::Directory(_) => None,
            };
            uses.extend(used.filter(|id| bad.contains(id)));
            Ok(())
        });
        if let Err(error) = walked {
            tracing::warn!(point = %id, %error, "whether this point needs what is damaged cannot be told");
        }
        for id in &uses {
            users.entry(*id).or_default().push(number);
        }
        if !uses.is_empty() {
            points.push(id.hex());
        }
    }
    let mut collector = Collector::new(points);
    lost.sort_by_key(|lost| lost.offset);
    for Lost { offset, length, id, what } in &lost {
        collector.add(0, Some(disk), *offset, *length, what);
        for user in id.iter().filter_map(|id| users.get(id)).flatten() {
            collector.add(*user, Some(disk), *offset, *length, what);
        }
    }
    Ok(collector.finish())
}

fn write_without_holes(target: &mut dyn DiskWriter, offset: u64, plain: &[u8]) -> Result<u64> {
    let mut written = 0;
    let mut start = 0;
    while start < plain.len() {
        let block_end = |from: usize| (from + HOLE_BYTES).min(plain.len());
        if crate::is_zero(&plain[start..block_end(start)]) {
            start = block_end(start);
            continue;
        }
        let mut end = block_end(start);
        while end < plain.len() && !crate::is_zero(&plain[end..block_end(end)]) {
            end = block_end(end);
        }
        target.write_at(offset + start as u64, &plain[start..end])?;
        written += (end - start) as u64;
        start = end;
    }
    Ok(written)
}
