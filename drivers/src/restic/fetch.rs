//! Fetches chunks of disks: neighbours in a pack by one read, opened by several threads.
//!
//! Invariants: no byte leaves here whose SHA-256 is not the wanted id; memory is bounded by the queues, whatever the disk's
//! size; a thread that fails says so in an [`Event`] and ends.

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::directory::FileKind;
use super::format::{BlobOpener, Id};
use super::index::Location;
use super::read::{PointReader, open_blob};
use crate::{DriverError, Result};

/// Longest read of a pack.
const RUN_BYTES: u64 = 8 << 20;
/// Bytes nobody wants that are read along rather than skipped: another request costs more.
const GAP_BYTES: u64 = 128 << 10;
/// The longest sealed chunk that is read; ours have at most 8 MiB.
const MAX_CHUNK_BYTES: u32 = 64 << 20;

/// A chunk to fetch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// First byte on the disk.
    pub(super) offset: u64,
    /// Plain bytes.
    pub(super) length: u32,
    /// Its blob.
    pub(super) id: Id,
    /// Where that lies.
    pub(super) location: Location,
}

/// Chunks to fetch with one read: of one pack, ascending there.
pub(super) struct Run {
    start: u64,
    end: u64,
    wanted: Vec<Wanted>,
}

/// What a thread is asked to do.
pub(super) enum Job {
    /// Fetch.
    Fetch(Run),
    /// Take what a part of the current disk holds already, fetch the rest. The chunks lie in `bytes`, which begin at
    /// `offset` of the disk.
    Compare {
        /// First byte on the disk.
        offset: u64,
        /// What the current disk holds there.
        bytes: Vec<u8>,
        /// What is wanted there.
        wanted: Vec<Wanted>,
    },
}

/// What became of chunks.
pub(super) enum Event {
    /// Bytes of a chunk, with the places on the disk that want them.
    Bytes {
        /// First bytes on the disk.
        at: Vec<u64>,
        /// The chunk.
        plain: Vec<u8>,
        /// Whether it came from the datastore.
        is_fetched: bool,
    },
    /// A range that cannot be given back.
    Bad {
        /// First byte on the disk.
        offset: u64,
        /// Bytes, 0 when nobody can tell.
        length: u64,
        /// Its blob, where there is one.
        id: Option<Id>,
        /// What is damaged, one clause.
        what: String,
    },
    /// Nothing more comes of this restore.
    Failed(DriverError),
}

/// Sorts chunks by their place in the packs and joins neighbours.
pub(super) fn runs(mut wanted: Vec<Wanted>) -> Vec<Run> {
    let place = |wanted: &Wanted| (wanted.location.pack, wanted.location.offset, wanted.offset);
    wanted.sort_unstable_by_key(place);
    let mut runs: Vec<Run> = Vec::new();
    for chunk in wanted {
        let start = u64::from(chunk.location.offset);
        let end = start + u64::from(chunk.location.length);
        match runs.last_mut() {
            Some(run)
                if run.wanted[0].location.pack == chunk.location.pack
                    && start <= run.end + GAP_BYTES
                    && end.max(run.end) - run.start <= RUN_BYTES =>
            {
                run.end = run.end.max(end);
                run.wanted.push(chunk);
            }
            _ => runs.push(Run { start, end, wanted: vec![chunk] }),
        }
    }
    runs
}

/// One thread's work.
pub(super) struct Fetcher<'a> {
    reader: PointReader<'a>,
    opener: BlobOpener,
    events: Sender<Event>,
    stop: &'a AtomicBool,
}

/// Nobody listens any more.
struct Stopped;

impl<'a> Fetcher<'a> {
    /// Does `jobs` until there are no more, something fails, or `stop` is set.
    pub(super) fn work(reader: PointReader<'a>, jobs: &Receiver<Job>, events: Sender<Event>, stop: &'a AtomicBool) {
        let opener = match BlobOpener::new(reader.cipher.clone()) {
            Ok(opener) => opener,
            Err(error) => return drop(events.send(Event::Failed(error))),
        };
        let mut fetcher = Self { reader, opener, events, stop };
        for job in jobs {
            let done = match job {
                Job::Fetch(run) => fetcher.fetch(&run),
                Job::Compare { offset, bytes, wanted } => fetcher.compare(offset, &bytes, wanted),
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn send(&self, event: Event) -> std::result::Result<(), Stopped> {
        if self.stop.load(Ordering::Acquire) { Err(Stopped) } else { self.events.send(event).map_err(|_| Stopped) }
    }

    fn fail(&self, error: DriverError) -> Stopped {
        drop(self.send(Event::Failed(error)));
        Stopped
    }

    fn compare(&mut self, offset: u64, bytes: &[u8], wanted: Vec<Wanted>) -> std::result::Result<(), Stopped> {
        let mut differing = Vec::new();
        for chunk in wanted {
            let start = chunk.offset.checked_sub(offset).and_then(|start| usize::try_from(start).ok());
            let current = start.and_then(|start| bytes.get(start..start.checked_add(chunk.length as usize)?));
            match current.filter(|current| Id::of(current) == chunk.id) {
                Some(current) => {
                    self.send(Event::Bytes { at: vec![chunk.offset], plain: current.to_vec(), is_fetched: false })?;
                }
                None => differing.push(chunk),
            }
        }
        runs(differing).iter().try_for_each(|run| self.fetch(run))
    }

    fn fetch(&mut self, run: &Run) -> std::result::Result<(), Stopped> {
        if run.end - run.start > RUN_BYTES.max(MAX_CHUNK_BYTES.into()) {
            return self.bad(&run.wanted, "the index claims an impossible length");
        }
        match self.read(run) {
            Ok(sealed) => run
                .wanted
                .chunk_by(|a, b| a.location.offset == b.location.offset && a.id == b.id)
                .try_for_each(|same| self.open(run, &sealed, same)),
            Err(error) => match self.reader.damage_of(error) {
                Err(error) => Err(self.fail(error)),
                Ok(reason) if run.is_single() => self.bad(&run.wanted, reason),
                // Some of it may be readable.
                Ok(_) => run.wanted.chunk_by(|a, b| a.id == b.id).try_for_each(|same| self.fetch(&Run::of(same))),
            },
        }
    }

    fn read(&self, run: &Run) -> Result<Vec<u8>> {
        let pack = self.reader.index.pack(&run.wanted[0].location);
        // A run begins where a blob does, and its length was looked at.
        let (start, length) = (run.wanted[0].location.offset, u32::try_from(run.end - run.start).unwrap_or(u32::MAX));
        self.reader.directory.read_range(FileKind::Pack, pack, start, length)
    }

    /// Opens one chunk for all the places that want it.
    fn open(&mut self, run: &Run, sealed: &[u8], same: &[Wanted]) -> std::result::Result<(), Stopped> {
        let Some(Wanted { id, location, .. }) = same.first() else { return Ok(()) };
        // In bounds: the run covers each of its chunks.
        let start = (u64::from(location.offset) - run.start) as usize;
        let sealed = sealed[start..start + location.length as usize].to_vec();
        match open_blob(&mut self.opener, sealed, location, id) {
            Ok(plain) => {
                let at = same.iter().map(|wanted| wanted.offset).collect();
                self.send(Event::Bytes { at, plain, is_fetched: true })
            }
            Err(reason) => self.bad(same, reason),
        }
    }

    /// Chunks that cannot be had where the index says, all of one blob after another: from a second copy, or told as bad.
    fn bad(&mut self, wanted: &[Wanted], reason: &str) -> std::result::Result<(), Stopped> {
        wanted.chunk_by(|a, b| a.id == b.id).try_for_each(|same| {
            match self.reader.other_copy(&mut self.opener, &same[0].id) {
                Ok(Some(plain)) if same.iter().all(|chunk| chunk.length as usize == plain.len()) => {
                    self.send(Event::Bytes {
                        at: same.iter().map(|chunk| chunk.offset).collect(),
                        plain,
                        is_fetched: true,
                    })
                }
                Ok(_) => self.tell_bad(same, reason),
                Err(error) => Err(self.fail(error)),
            }
        })
    }

    fn tell_bad(&self, wanted: &[Wanted], reason: &str) -> std::result::Result<(), Stopped> {
        wanted.iter().try_for_each(|chunk| {
            self.send(Event::Bad {
                offset: chunk.offset,
                length: chunk.length.into(),
                id: Some(chunk.id),
                what: self.reader.fault(&chunk.location, reason),
            })
        })
    }
}

impl Run {
    fn of(same: &[Wanted]) -> Self {
        let place = same.first().map_or((0, 0), |chunk| {
            let start = u64::from(chunk.location.offset);
            (start, start + u64::from(chunk.location.length))
        });
        Self { start: place.0, end: place.1, wanted: same.to_vec() }
    }

    fn is_single(&self) -> bool {
        self.wanted.iter().all(|chunk| chunk.id == self.wanted[0].id)
    }
}
