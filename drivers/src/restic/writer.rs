//! Stores chunks: read, test for zeros, digest, look up, compress, encrypt, pack, write.
//!
//! The caller's thread reads the disk and hands runs of chunks to a pool; the pool fills one pack at a time; one thread
//! writes full packs. Every queue is bounded, so memory is a few packs and a few runs per thread, whatever the disk.
//!
//! Invariants: an index file names only packs that are durable; [`Pipeline::run`] returns Ok only when everything that
//! its ids name is durable and indexed. It never writes a snapshot: that is the caller's last act.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::chunks::{self, Origin};
use super::directory::{Directory, FileKind};
use super::documents::{IndexDocument, IndexedBlob, IndexedPack, Tree, now};
use super::format::{BlobKind, BlobSealer, Cipher, Id, PackBuilder};
use super::index::{IdSet, Index};
use crate::{Cancel, DiskReader, DriverError, Kind, Progress, Result};

/// Blobs per index file, as restic does; readers load each index file whole.
const INDEX_BLOBS: usize = 50_000;
/// Target length of packs of directories.
const TREE_PACK_BYTES: u32 = 4 << 20;
/// How often a waiting thread looks whether the others still work.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How to store.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteOptions {
    /// Threads that compress.
    pub(super) threads: usize,
    /// zstd level.
    pub(super) compression_level: i32,
    /// Whether each blob is opened again before it is written.
    pub(super) verify_writes: bool,
    /// Target length of data packs.
    pub(super) pack_bytes: u32,
}

/// What was stored.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// New data blobs.
    pub(super) data_blobs: u64,
    /// New directories.
    pub(super) tree_blobs: u64,
    /// Plain bytes of both.
    pub(super) plain_bytes: u64,
    /// Bytes read from disks whose chunk was stored already, before this run or in it.
    pub(super) saved_bytes: u64,
    /// The packs that were written.
    pub(super) packs: Vec<Id>,
    /// The index files that were written.
    pub(super) indexes: Vec<Id>,
}

/// A stretch of a disk that becomes one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// First byte on the disk, on a chunk's border.
    pub(super) base: u64,
    /// One past the last byte.
    pub(super) end: u64,
    /// Length of chunks.
    pub(super) chunk: u32,
}

/// The running machinery.
pub(super) struct Pipeline<'a> {
    shared: &'a Shared<'a>,
    jobs: Sender<Job>,
    packs: Sender<PackBuilder>,
    sealer: Mutex<BlobSealer>,
}

struct Shared<'a> {
    directory: &'a Directory,
    cipher: &'a Cipher,
    index: &'a Index,
    options: WriteOptions,
    cancel: &'a Cancel,
    failed: AtomicBool,
    first_error: Mutex<Option<DriverError>>,
    data: Mutex<Filling>,
    trees: Mutex<Filling>,
    zeros: Mutex<Vec<(u32, Id)>>,
    plain_bytes: AtomicU64,
    saved_bytes: AtomicU64,
    /// Packs and index files that are durable.
    written: Mutex<(Vec<Id>, Vec<Id>)>,
}

/// The blobs of one kind that are new in this run, and the pack they go to.
struct Filling {
    fresh: IdSet,
    pack: PackBuilder,
}

/// What became of bytes to store.
struct Blob {
    id: Id,
    /// Whether neither the repository nor this run had it.
    is_new: bool,
}

struct Job {
    bytes: Bytes,
    number: usize,
    slots: Arc<Slots>,
}

/// The ids of one file, filled in any order.
struct Slots {
    state: Mutex<(Vec<Id>, usize)>,
    filled: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panicking thread marks the run as failed; what it left half-done is never published.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Pipeline<'a> {
    /// Runs `body` with a pool behind it and makes everything durable that it stored.
    ///
    /// # Errors
    /// The first failure of `body`, of any thread, or the cancel. Packs written by then stay, unreferenced.
    pub(super) fn run<T>(
        directory: &Directory,
        cipher: &Cipher,
        index: &Index,
        options: WriteOptions,
        cancel: &Cancel,
        body: impl FnOnce(&Pipeline<'_>) -> Result<T>,
    ) -> Result<(T, Counts)> {
        let shared = Shared {
            directory,
            cipher,
            index,
            options,
            cancel,
            failed: AtomicBool::new(false),
            first_error: Mutex::new(None),
            data: Mutex::new(Filling { fresh: IdSet::default(), pack: PackBuilder::new(BlobKind::Data) }),
            trees: Mutex::new(Filling { fresh: IdSet::default(), pack: PackBuilder::new(BlobKind::Tree) }),
            zeros: Mutex::new(Vec::new()),
            plain_bytes: AtomicU64::new(0),
            saved_bytes: AtomicU64::new(0),
            written: Mutex::default(),
        };
        let sealer = Mutex::new(shared.sealer()?);
        let result = std::thread::scope(|scope| {
            let (jobs, packs) = shared.start(scope)?;
            let pipeline = Pipeline { shared: &shared, jobs, packs, sealer };
            let result = body(&pipeline);
            if let Err(error) = result {
                // Threads skip what is queued.
                shared.failed.store(true, Ordering::Release);
                return Err(error);
            }
            pipeline.flush()?;
            result
        });
        if let Some(error) = lock(&shared.first_error).take() {
            return Err(error);
        }
        let value = result?;
        cancel.check()?;
        let (packs, indexes) = std::mem::take(&mut *lock(&shared.written));
        let counts = Counts {
            packs,
            indexes,
            data_blobs: lock(&shared.data).fresh.len() as u64,
            tree_blobs: lock(&shared.trees).fresh.len() as u64,
            plain_bytes: shared.plain_bytes.load(Ordering::Relaxed),
            saved_bytes: shared.saved_bytes.load(Ordering::Relaxed),
        };
        Ok((value, counts))
    }

    /// Stores a span of a disk; `origins` tells for each of its chunks where it comes from, `parent` holds the ids of the
    /// parent's chunks (as many as `origins`, or none when no chunk has [`Origin::Parent`]).
    /// Gives the ids in order and the bytes read.
    pub(super) fn file(
        &self,
        reader: &mut dyn DiskReader,
        span: Span,
        origins: &[Origin],
        parent: &[Id],
        progress: &Progress,
    ) -> Result<(Vec<Id>, u64)> {
        let mut ids = Vec::with_capacity(origins.len());
        for (number, origin) in origins.iter().enumerate() {
            ids.push(match origin {
                Origin::Parent => *parent
                    .get(number)
                    .ok_or_else(|| DriverError::new(Kind::Missing, "storing a disk", "the parent has no such chunk"))?,
                Origin::Zero => self.zero(chunks::length(span.end - span.base, span.chunk, number as u64))?,
                Origin::Read => Id([0; 32]),
            });
        }
        let open = origins.iter().filter(|origin| **origin == Origin::Read).count();
        let slots = Arc::new(Slots { state: Mutex::new((ids, open)), filled: Condvar::new() });
        let read_bytes = self.read(reader, span, origins, &slots, progress)?;
        Ok((slots.wait(self.shared)?, read_bytes))
    }

    fn read(
        &self,
        reader: &mut dyn DiskReader,
        span: Span,
        origins: &[Origin],
        slots: &Arc<Slots>,
        progress: &Progress,
    ) -> Result<u64> {
        let runs = chunks::runs(origins, span.chunk, span.base, span.end);
        let mut seen = vec![false; runs.len()];
        let going = || !self.shared.cancel.is_cancelled() && !self.shared.failed.load(Ordering::Acquire);
        let mut ranges = runs.iter().map(|(_, offset, length)| (*offset, *length)).take_while(|_| going());
        let mut sink = |offset: u64, bytes: Vec<u8>| {
            self.shared.check()?;
            let at = runs.binary_search_by_key(&offset, |run| run.1).ok();
            let Some(at) = at.filter(|at| !seen[*at] && runs[*at].2 as usize == bytes.len()) else {
                return Err(nonsense(&format!("{} bytes at byte {offset}, which were not asked for", bytes.len())));
            };
            seen[at] = true;
            let bytes = Bytes::from(bytes);
            for (nth, start) in (0..bytes.len()).step_by(span.chunk as usize).enumerate() {
                let piece = bytes.slice(start..(start + span.chunk as usize).min(bytes.len()));
                let job = Job { bytes: piece, number: runs[at].0 + nth, slots: Arc::clone(slots) };
                self.jobs.send(job).map_err(|_| self.shared.ended())?;
            }
            progress.add_done(bytes.len() as u64);
            Ok(())
        };
        if !runs.is_empty() {
            reader.read(&mut ranges, &mut sink)?;
        }
        self.shared.check()?;
        match seen.iter().position(|seen| !seen) {
            Some(at) => Err(nonsense(&format!("success without the {} bytes at byte {}", runs[at].2, runs[at].1))),
            None => Ok(runs.iter().map(|run| u64::from(run.2)).sum()),
        }
    }

    /// The id of `length` zeros, which are stored if they were not.
    fn zero(&self, length: u32) -> Result<Id> {
        Ok(self.shared.zero(&mut lock(&self.sealer), length, &self.packs)?.id)
    }

    /// Stores bytes on the caller's thread.
    pub(super) fn blob(&self, bytes: &[u8]) -> Result<Id> {
        Ok(self.shared.blob(&mut lock(&self.sealer), BlobKind::Data, Id::of(bytes), bytes, &self.packs)?.id)
    }

    /// Stores a directory.
    pub(super) fn tree(&self, tree: Tree) -> Result<Id> {
        let json = tree
            .encode()
            .map_err(|error| DriverError::other(Kind::Permanent, "encoding a directory of the repository", error))?;
        Ok(self.shared.blob(&mut lock(&self.sealer), BlobKind::Tree, Id::of(&json), &json, &self.packs)?.id)
    }

    fn flush(&self) -> Result<()> {
        for (filling, kind) in [(&self.shared.data, BlobKind::Data), (&self.shared.trees, BlobKind::Tree)] {
            let pack = std::mem::replace(&mut lock(filling).pack, PackBuilder::new(kind));
            if !pack.is_empty() {
                self.packs.send(pack).map_err(|_| self.shared.ended())?;
            }
        }
        Ok(())
    }
}

impl<'a> Shared<'a> {
    fn sealer(&self) -> Result<BlobSealer> {
        BlobSealer::new(self.cipher.clone(), self.options.compression_level, self.options.verify_writes)
    }

    /// Starts the threads; they end when the senders are dropped.
    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<(Sender<Job>, Sender<PackBuilder>)> {
        let (jobs, job_queue) = bounded(2 * self.options.threads);
        let (packs, pack_queue) = bounded(1);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send + 'scope>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn_scoped(scope, move || {
                    let _mark = MarkPanic(self);
                    work();
                })
                .map_err(|error| DriverError::io("starting a thread that stores chunks", error))
        };
        spawn("restic-pack", Box::new(move || self.write_packs(&pack_queue)))?;
        for _ in 0..self.options.threads {
            let (job_queue, packs): (Receiver<Job>, _) = (job_queue.clone(), packs.clone());
            spawn("restic-chunk", Box::new(move || self.store_chunks(&job_queue, &packs)))?;
        }
        Ok((jobs, packs))
    }

    fn store_chunks(&self, jobs: &Receiver<Job>, packs: &Sender<PackBuilder>) {
        let mut sealer = match self.sealer() {
            Ok(sealer) => sealer,
            Err(error) => return self.fail(error),
        };
        for job in jobs {
            if self.failed.load(Ordering::Acquire) {
                continue;
            }
            let stored = if crate::is_zero(&job.bytes) {
                self.zero(&mut sealer, job.bytes.len() as u32, packs)
            } else {
                self.blob(&mut sealer, BlobKind::Data, Id::of(&job.bytes), &job.bytes, packs)
            };
            match stored {
                Ok(blob) => {
                    if !blob.is_new {
                        self.saved_bytes.fetch_add(job.bytes.len() as u64, Ordering::Relaxed);
                    }
                    job.slots.fill(job.number, blob.id);
                }
                Err(error) => self.fail(error),
            }
        }
    }

    fn zero(&self, sealer: &mut BlobSealer, length: u32, packs: &Sender<PackBuilder>) -> Result<Blob> {
        let known = lock(&self.zeros).iter().find(|(size, _)| *size == length).map(|(_, id)| *id);
        if let Some(id) = known {
            return Ok(Blob { id, is_new: false });
        }
        let zeros = vec![0; length as usize];
        let blob = self.blob(sealer, BlobKind::Data, Id::of(&zeros), &zeros, packs)?;
        lock(&self.zeros).push((length, blob.id));
        Ok(blob)
    }

    /// Stores `plain` unless the repository or this run has it.
    fn blob(
        &self,
        sealer: &mut BlobSealer,
        kind: BlobKind,
        id: Id,
        plain: &[u8],
        packs: &Sender<PackBuilder>,
    ) -> Result<Blob> {
        let (filling, target) = match kind {
            BlobKind::Data => (&self.data, self.options.pack_bytes),
            BlobKind::Tree => (&self.trees, TREE_PACK_BYTES),
        };
        if self.index.get(kind, &id).is_some() || !lock(filling).fresh.insert(id) {
            return Ok(Blob { id, is_new: false });
        }
        let sealed = sealer.seal(id, plain)?;
        self.plain_bytes.fetch_add(plain.len() as u64, Ordering::Relaxed);
        let full = {
            let mut filling = lock(filling);
            filling.pack.push(sealed)?;
            (filling.pack.length() >= target).then(|| std::mem::replace(&mut filling.pack, PackBuilder::new(kind)))
        };
        if let Some(pack) = full {
            packs.send(pack).map_err(|_| self.ended())?;
        }
        Ok(Blob { id, is_new: true })
    }

    fn write_packs(&self, packs: &Receiver<PackBuilder>) {
        let mut pending = IndexDocument::default();
        for pack in packs {
            if self.failed.load(Ordering::Acquire) {
                continue;
            }
            if let Err(error) = self.write_pack(pack, &mut pending) {
                self.fail(error);
            }
        }
        if !self.failed.load(Ordering::Acquire)
            && let Err(error) = self.write_index(&mut pending)
        {
            self.fail(error);
        }
    }

    fn write_pack(&self, pack: PackBuilder, pending: &mut IndexDocument) -> Result<()> {
        let pack = pack.finish(self.cipher)?;
        self.directory.write(FileKind::Pack, &pack.id, &pack.parts)?;
        lock(&self.written).0.push(pack.id);
        let blobs = pack
            .blobs
            .iter()
            .map(|blob| IndexedBlob {
                id: blob.id,
                kind: pack.kind,
                offset: blob.offset,
                length: blob.length,
                uncompressed_length: NonZeroU32::new(blob.uncompressed_length),
            })
            .collect();
        pending.packs.push(IndexedPack { id: pack.id, time: Some(now()), blobs });
        if pending.packs.iter().map(|pack| pack.blobs.len()).sum::<usize>() >= INDEX_BLOBS {
            self.write_index(pending)?;
        }
        Ok(())
    }

    fn write_index(&self, pending: &mut IndexDocument) -> Result<()> {
        if pending.packs.is_empty() {
            return Ok(());
        }
        let json = serde_json::to_vec(pending)
            .map_err(|error| DriverError::other(Kind::Permanent, "encoding an index", error))?;
        let sealed = self.cipher.seal_document(&json)?;
        let id = Id::of(&sealed);
        self.directory.write(FileKind::Index, &id, &[sealed])?;
        lock(&self.written).1.push(id);
        pending.packs.clear();
        Ok(())
    }

    fn fail(&self, error: DriverError) {
        lock(&self.first_error).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    fn check(&self) -> Result<()> {
        self.cancel.check()?;
        if self.failed.load(Ordering::Acquire) { Err(self.ended()) } else { Ok(()) }
    }

    /// Stands for the error of another thread, which [`Pipeline::run`] returns in its place.
    fn ended(&self) -> DriverError {
        DriverError::new(Kind::Permanent, "storing chunks", "another thread failed")
    }
}

impl Slots {
    fn fill(&self, number: usize, id: Id) {
        let mut state = lock(&self.state);
        if let Some(slot) = state.0.get_mut(number) {
            *slot = id;
        }
        state.1 = state.1.saturating_sub(1);
        if state.1 == 0 {
            self.filled.notify_all();
        }
    }

    fn wait(&self, shared: &Shared<'_>) -> Result<Vec<Id>> {
        let mut state = lock(&self.state);
        while state.1 > 0 {
            shared.check()?;
            state = self.filled.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(std::mem::take(&mut state.0))
    }
}

/// Makes a panic of a thread fail the run; without it the others would wait for its chunk.
struct MarkPanic<'a>(&'a Shared<'a>);

impl Drop for MarkPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(DriverError::new(Kind::Permanent, "storing chunks", "a thread ended in a programming error"));
        }
    }
}

fn nonsense(what: &str) -> DriverError {
    DriverError::new(Kind::Permanent, "reading a disk", format!("the source gave {what}"))
}
