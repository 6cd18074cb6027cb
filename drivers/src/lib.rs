//! Bytes and hypervisors.
//!
//! Two traits meet in one small type: a [`Hypervisor`] opens a [`BackupSession`] whose disks are
//! [`DiskReader`]s, a [`BackupDatastore`] stores what a `DiskReader` gives and writes it back into a
//! [`DiskWriter`]. So there are 2 + n drivers, never 2 × n.
//!
//! Everything here blocks: libvirt, qcow2 and rustic all do, and a backup is one long conversation that
//! deserves a thread. Nothing here knows of users, templates, jobs' rows or XML-RPC.
//!
//! Invariants: no file is left under its final name unless it is whole and fsynced; no call waits without a
//! deadline on something outside this process; a datastore publishes a restore point only when every disk of it
//! has been stored whole.

pub mod datastore;
mod direct;
pub mod disk;
pub mod dummy;
mod error;
pub mod hypervisor;
pub mod isolation;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod mount;
pub mod nbd;
pub mod nfs;
mod pace;
mod patience;
pub mod qcow2;
#[cfg(feature = "restic")]
pub mod restic;
pub mod room;

pub use datastore::BackupDatastore;
pub use error::{DriverError, Kind, Result};
pub use hypervisor::{BackupSession, Hypervisor};
pub use pace::Pace;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a range of a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Bytes that must be read.
    Data,
    /// Reads as zeros; need not be read.
    Zero,
}

/// A range of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length in bytes, never 0.
    pub length: u64,
    /// What the range holds.
    pub content: Content,
}

impl Extent {
    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// One disk at one point in time.
pub trait DiskReader: Send {
    /// The size that the guest sees, in bytes.
    fn size_bytes(&self) -> u64;

    /// The ranges to store: ascending, not overlapping, neighbours of one content merged.
    ///
    /// For a full backup they cover the whole disk (allocated ranges as `Data`, the rest as `Zero`); for an
    /// increment only what changed since its parent. Ranges that are not listed are unchanged.
    ///
    /// # Errors
    /// When the source does not answer within its deadline, or answers nonsense.
    fn extents(&mut self) -> Result<Vec<Extent>>;

    /// Reads `ranges` (offset, length in bytes; at most [`MAX_READ_BYTES`] each), keeping several requests in
    /// flight, and hands each one whole to `sink` with its offset, in any order. Ranges may go beyond what
    /// [`Self::extents`] listed (a chunk is wider than a dirty cluster) but not beyond the disk.
    ///
    /// # Errors
    /// The first failed read, or the first error of `sink`, ends the call; nothing is skipped silently.
    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()>;

    /// Gives the connection away that the bytes come through, for another process to read from; this reader is of no use
    /// afterwards. None = there is no such thing, and this reader stays as it is.
    fn hand_over(&mut self) -> Option<HandedOver> {
        None
    }
}

/// A reader's connection on its way to another process, where [`nbd::Export::take_over`] makes a reader of it again.
#[derive(Debug)]
pub struct HandedOver {
    /// The connected socket, with no answer under way.
    pub socket: OwnedFd,
    /// What was agreed on with the server (JSON).
    pub state: String,
}

/// The longest range one [`DiskReader::read`] request may ask for: 8 MiB (QEMU's limit is 32 MiB).
pub const MAX_READ_BYTES: u32 = 8 << 20;

/// Where a restored disk goes. It starts as all zeros.
pub trait DiskWriter: Send {
    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// When the target is full, gone, or `data` reaches past the disk's end.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes everything durable (data, metadata, name). Only after this is the target complete.
    ///
    /// # Errors
    /// When the data cannot be made durable; the target is then not to be used.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Asks a long operation to stop; cheap to clone, checked between pieces.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the stop. Takes effect at the next check.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// `Err` of kind [`Kind::Cancelled`] once a stop was asked for.
    ///
    /// # Errors
    /// Only that one.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(DriverError::cancelled()) } else { Ok(()) }
    }
}

/// How often [`Progress::beat_during`] beats.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// The most disks that [`Progress`] counts apart.
const MAX_DISKS_APART: usize = 4096;

/// Counters of a running transfer, in bytes; cheap to clone, written by the driver, read by whoever shows them.
///
/// What belongs to one disk is counted through [`Progress::of_disk`], so that each can be shown for itself; the sum is
/// over all.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    all: Arc<AllCounters>,
    /// Where this one adds to; None = what belongs to no disk.
    disk: Option<Arc<Counters>>,
}

#[derive(Debug, Default)]
struct AllCounters {
    rest: Counters,
    disks: Mutex<Vec<(u32, Arc<Counters>)>>,
    beats: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
}

impl Counters {
    fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// How far one disk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DiskProgress {
    /// The VM's disk id.
    pub id: u32,
    /// Moved so far.
    pub done: u64,
    /// To be moved in all, as far as known.
    pub total: u64,
}

impl Progress {
    /// The same transfer, with what is added to it counting for the disk `id`.
    #[must_use]
    pub fn of_disk(&self, id: u32) -> Self {
        let mut disks = self.disk_counters();
        let known = disks.iter().find(|(other, _)| *other == id).map(|(_, counters)| Arc::clone(counters));
        let disk = known.or_else(|| {
            (disks.len() < MAX_DISKS_APART).then(|| {
                let counters = Arc::<Counters>::default();
                disks.push((id, Arc::clone(&counters)));
                counters
            })
        });
        Self { all: Arc::clone(&self.all), disk }
    }

    fn disk_counters(&self) -> std::sync::MutexGuard<'_, Vec<(u32, Arc<Counters>)>> {
        self.all.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counters(&self) -> &Counters {
        self.disk.as_deref().unwrap_or(&self.all.rest)
    }

    /// Adds to what has to be moved in all.
    pub fn add_total(&self, bytes: u64) {
        self.counters().total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to what has been moved.
    pub fn add_done(&self, bytes: u64) {
        self.counters().done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says that the work goes on although nothing was moved: a wait that has its own deadline, a file looked at. Whoever
    /// watches from another process takes long silence for a dead server.
    pub fn beat(&self) {
        self.all.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Beats about every half second while `work` runs: for what takes long without a word and cannot hang on what is being
    /// watched, like making a new image durable on this host's own disk.
    pub fn beat_during<T>(&self, work: impl FnOnce() -> T) -> T {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            // Without a thread the work is done all the same, in silence.
            let beating = std::thread::Builder::new().name("beat".to_owned()).spawn_scoped(scope, move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(BEAT_EVERY) {
                    self.beat();
                }
            });
            let result = work();
            drop((stop, beating));
            result
        })
    }

    /// A number that changes whenever anything was moved or a beat was made.
    #[must_use]
    pub fn pulse(&self) -> u64 {
        let (done, total) = self.get();
        self.all.beats.load(Ordering::Relaxed).wrapping_add(done).wrapping_add(total)
    }

    /// (done, total) in bytes, over all disks and the rest.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        let rest = self.all.rest.get();
        self.disk_counters()
            .iter()
            .map(|(_, counters)| counters.get())
            .fold(rest, |sum, (done, total)| (sum.0.saturating_add(done), sum.1.saturating_add(total)))
    }

    /// (done, total) of what belongs to no disk.
    #[must_use]
    pub fn rest(&self) -> (u64, u64) {
        self.all.rest.get()
    }

    /// Each disk that was begun, in the order of their beginnings.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskProgress> {
        let disks = self.disk_counters();
        let shown = disks.iter().map(|(id, counters)| {
            let (done, total) = counters.get();
            DiskProgress { id: *id, done, total }
        });
        shown.collect()
    }
}

/// Whether every byte is zero; compares blocks, which the compiler turns into memcmp.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|block| block == &ZEROS[..block.len()])
}

/// A text that prints as stars: passwords and keys.
#[derive(Clone)]
pub struct Secret(zeroize::Zeroizing<String>);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(zeroize::Zeroizing::new(text))
    }

    /// The text itself; never to be logged or put into an error.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_disk_is_counted_apart_and_all_together() {
        let progress = Progress::default();
        progress.add_total(1);
        for (id, bytes) in [(2, 10), (0, 20), (2, 5)] {
            let disk = progress.of_disk(id);
            disk.add_total(bytes);
            disk.add_done(bytes - 1);
        }
        let disks: Vec<_> = progress.disks().iter().map(|disk| (disk.id, disk.done, disk.total)).collect();
        assert_eq!(disks, [(2, 13, 15), (0, 19, 20)]);
        assert_eq!((progress.rest(), progress.get()), ((0, 1), (32, 36)));
        assert_eq!(progress.of_disk(0).get(), (32, 36));
        (0..2 * MAX_DISKS_APART as u32).for_each(|id| progress.of_disk(id).add_done(1));
        assert_eq!(progress.disks().len(), MAX_DISKS_APART);
        assert_eq!(progress.get().0, 32 + 2 * MAX_DISKS_APART as u64);
    }

    #[test]
    fn long_work_beats_and_gives_its_result() {
        let progress = Progress::default();
        let result = progress.beat_during(|| {
            while progress.pulse() < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            7
        });
        assert_eq!(result, 7);
        assert_eq!(progress.get(), (0, 0));
        let after = progress.pulse();
        std::thread::sleep(2 * BEAT_EVERY);
        assert_eq!(progress.pulse(), after, "it beats on although nothing is done");
    }
}
