//! The backup datastore in restic format: one repository per series, or one for all.
//!
//! Every restore point is a complete snapshot: directory `/one` with `vm.xml` and, per disk, the file `disk.N` — or,
//! above [`ResticConfig::part_bytes`], the folder `disk.N` with the parts `00000/data`, `00001/data`, ... in order. An
//! increment keeps the parent's chunk ids where nothing changed, so only dirty chunks are read; what is stored is still
//! the whole disk. Stock restic lists, checks, dumps and restores all of it.
//!
//! It is not a restic client: rustic makes repositories, opens their keys and prunes; everything else is our own reading and
//! writing of the format.
//!
//! Invariants: packs → index → snapshot, each durable before the next, the snapshot last; packs are removed only while
//! no other operation of ours reads or writes the repository; a point of one series is never shown or removed in another.

mod chunks;
mod current;
mod cursor;
mod damages;
mod deep;
mod directory;
mod documents;
mod fetch;
mod format;
mod index;
mod layout;
mod lease;
mod marked;
mod opened;
mod points;
mod read;
mod repository;
mod restore;
mod series;
mod used;
mod verify;
mod writer;

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::directory::FileKind;
use self::documents::{SnapshotDocument, Tree};
use self::format::Id;
use self::lease::{Lease, Patience, ResticLock};
use self::opened::{IndexOnDemand, Known, Opened, is_chunk_length};
use self::points::Store;
use self::read::PointReader;
use self::repository::Prune;
use self::series::Visit;
use self::used::UsedBytes;
use crate::datastore::{
    BackupDatastore, Capacity, Forgotten, PointFacts, RestoreRequest, Restored, SourceDisk, StoreRequest, Stored,
    Verified, VerifyRequest,
};
use crate::mount::probe_writable;
use crate::room::say_how_much;
use crate::{Cancel, DiskWriter, DriverError, Kind, Pace, Progress, Result, Secret};

/// Asked with its path before a file is written; an error fails that write. For throttles, quotas and tests of faults.
pub type WriteGate = Arc<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// How a datastore in restic format works.
#[derive(Clone)]
pub struct ResticConfig {
    /// The directory that holds the repositories; must exist (a file system may be mounted on it).
    pub base_path: PathBuf,
    /// Opens every repository in it.
    pub password: Secret,
    /// Whether new series share one repository, which then stores what several VMs have in common only once. A series
    /// keeps the repository that it has.
    pub shared: bool,
    /// Length of a chunk in new repositories, bytes: a multiple of 4096 up to 8 MiB, at best a multiple of the dirty
    /// bitmap's 64 KiB. A repository remembers its own; one that was made by stock restic does not, and follows this.
    pub chunk_bytes: u32,
    /// zstd level, -7 to 22.
    pub compression_level: i32,
    /// Threads that compress or open chunks for one operation.
    pub threads: usize,
    /// Whether each chunk is decrypted and compared before it is written: finds faulty memory for little time.
    pub verify_writes: bool,
    /// Target length of packs, bytes.
    pub pack_bytes: u32,
    /// Longest single file; larger disks become folders of parts this long. Rounded down to whole chunks. Changing it
    /// makes the next backup of larger disks a full one.
    pub part_bytes: u64,
    /// How long a store, restore or verification waits for a repository that is being pruned; a forget or sweep waits a
    /// third of it for those.
    pub lease_wait: Duration,
    /// The limit on bytes written and read.
    pub pace: Pace,
    /// See [`WriteGate`].
    pub write_gate: Option<WriteGate>,
}

impl ResticConfig {
    /// The defaults: a repository per series, 256 KiB chunks, zstd 3, one thread per processor, packs of 32 MiB, parts of
    /// 64 GiB, writes verified, no limit on bytes per second, and half an hour of waiting: a prune rewrites at most a tenth
    /// of a repository, which takes minutes for terabytes, and who waits may be cancelled.
    #[must_use]
    pub fn new(base_path: PathBuf, password: Secret) -> Self {
        Self {
            base_path,
            password,
            shared: false,
            chunk_bytes: 256 << 10,
            compression_level: 3,
            threads: std::thread::available_parallelism().map_or(2, NonZeroUsize::get),
            verify_writes: true,
            pack_bytes: 32 << 20,
            part_bytes: 64 << 30,
            lease_wait: Duration::from_secs(30 * 60),
            pace: Pace::default(),
            write_gate: None,
        }
    }
}

/// Folder of the lease files, beside the repositories; no series is called so.
const LEASE_FOLDER: &str = ".lease";
/// Space that is given up when the file system is full, so that what makes room has room to work: a lock, a new index.
const RESERVE_FILE: &str = ".reserve";
/// Length of the reserve; it is made only where much more is free.
const RESERVE_BYTES: u64 = 4 << 20;
/// Blobs that are kept decoded for all repositories together, some 70 bytes each.
const MAX_CACHED_BLOBS: usize = 1_000_000;

/// A directory of repositories.
pub struct ResticDatastore {
    config: ResticConfig,
    /// By folder.
    known: Mutex<HashMap<String, Arc<Known>>>,
    used: Mutex<UsedBytes>,
}

impl ResticDatastore {
    /// A datastore as `config` says. Touches no file.
    ///
    /// # Errors
    /// [`Kind::Permanent`] when a value is out of its bounds.
    pub fn new(mut config: ResticConfig) -> Result<Self> {
        let wrong = |reason: &str| Err(DriverError::new(Kind::Permanent, "configuring a restic datastore", reason));
        if !is_chunk_length(config.chunk_bytes) {
            return wrong("the chunk length must be a multiple of 4096 bytes up to 8 MiB");
        }
        if config.part_bytes < config.chunk_bytes.into() {
            return wrong("the part length must be at least one chunk");
        }
        if !(1 << 20..=128 << 20).contains(&config.pack_bytes) {
            return wrong("the pack length must be 1 MiB to 128 MiB");
        }
        if !(-7..=22).contains(&config.compression_level) {
            return wrong("the compression level must be -7 to 22");
        }
        config.threads = config.threads.clamp(1, 64);
        Ok(Self { config, known: Mutex::default(), used: Mutex::default() })
    }

    fn patience<'a>(&self, progress: &'a Progress, cancel: &'a Cancel) -> Patience<'a> {
        Patience { wait: self.config.lease_wait, progress, cancel }
    }

    fn lease_folder(&self) -> PathBuf {
        self.config.base_path.join(LEASE_FOLDER)
    }

    fn free_bytes(&self) -> Result<u64> {
        let base = &self.config.base_path;
        let space = rustix::fs::statvfs(base)
            .map_err(|errno| DriverError::io(format!("measuring {}", base.display()), errno.into()))?;
        Ok(space.f_frsize.saturating_mul(space.f_bavail))
    }

    /// Makes the reserve when there is none and plenty is free. Without one everything works until the disk is full. One
    /// that was given up comes back as soon as there is room for it: the next call may find the disk full again.
    fn keep_reserve(&self, was_given_up: bool) {
        let path = self.config.base_path.join(RESERVE_FILE);
        let wanted = if was_given_up { RESERVE_BYTES } else { 8 * RESERVE_BYTES };
        if path.exists() || self.free_bytes().is_ok_and(|free| free < wanted) {
            return;
        }
        // Bytes that no file system stores as a hole.
        let bytes = vec![0x5a; usize::try_from(RESERVE_BYTES).unwrap_or(0)];
        if let Err(error) = std::fs::write(&path, bytes) {
            tracing::debug!(path = %path.display(), %error, "no reserve");
            std::fs::remove_file(&path).ok();
        }
    }

    /// Gives up the reserve when the file system is full: what makes room must be able to write a little. Whether it did.
    fn make_room(&self) -> Result<bool> {
        let full = self.free_bytes()? < RESERVE_BYTES;
        Ok(full && std::fs::remove_file(self.config.base_path.join(RESERVE_FILE)).is_ok())
    }

    /// Opens a point for reading and hands it to `work`, with the packs kept from being removed meanwhile.
    fn with_point<T>(
        &self,
        series: &str,
        point: &str,
        visit: Visit<'_>,
        work: impl FnOnce(&PointReader<'_>, &SnapshotDocument, &Tree, &Opened) -> Result<T>,
    ) -> Result<T> {
        let missing = || DriverError::new(Kind::Missing, format!("opening restore point {point}"), "it is not there");
        self.reading(series, visit, |opened| {
            let id = Id::parse(point).ok_or_else(missing)?;
            let opened = opened.ok_or_else(missing)?;
            let snapshot =
                opened.snapshot(&id).map_err(|error| if error.kind == Kind::Missing { missing() } else { error })?;
            let index = self.index_for_reading(opened)?;
            let reader = PointReader::new(&opened.directory, &opened.cipher, &index);
            let tree = reader.directory_of(&snapshot)?;
            work(&reader, &snapshot, &tree, opened)
        })
    }

    /// What `snapshot` is for a catalogue.
    fn facts(
        &self,
        opened: &Opened,
        index: &IndexOnDemand<'_>,
        id: &Id,
        snapshot: &SnapshotDocument,
    ) -> Result<PointFacts> {
        let stored = points::stored(opened, index, id, snapshot)?;
        let parent = match &snapshot.parent {
            Some(parent) if opened.directory.exists(FileKind::Snapshot, parent)? => Some(parent.hex()),
            _ => None,
        };
        Ok(PointFacts {
            stored: Stored { unmarked_bytes: 0, ..stored },
            parent,
            job: snapshot.job().unwrap_or_default().to_owned(),
            tags: snapshot.labels(opened.shared_series.is_some()),
            time: chrono::DateTime::parse_from_rfc3339(&snapshot.time).map_or(0, |time| time.timestamp()),
        })
    }
}

impl BackupDatastore for ResticDatastore {
    fn capacity(&self) -> Result<Capacity> {
        let base = &self.config.base_path;
        let failed = |error: io::Error| DriverError::io(format!("measuring {}", base.display()), error);
        let space = rustix::fs::statvfs(base).map_err(|errno| failed(errno.into()))?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used_bytes = used.get(base, used::BUDGET).map_err(failed)?;
        Ok(Capacity {
            total_bytes: space.f_frsize.saturating_mul(space.f_blocks),
            free_bytes: space.f_frsize.saturating_mul(space.f_bavail),
            used_bytes,
        })
    }

    fn probe(&self) -> Result<()> {
        probe_writable(&self.config.base_path)
    }

    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        cancel.check()?;
        let home = self.home(request.series, &self.flow(progress, cancel))?;
        let (folder, patience) = (self.lease_folder(), self.patience(progress, cancel));
        let _shared = Lease::shared(&folder, &home.folder, patience)?;
        self.keep_reserve(false);
        let opened = self.open_or_create(&home, progress, cancel)?;
        let lock = ResticLock::take(&opened.directory, &opened.cipher, false, patience)?;
        if let Some(published) = points::published(&opened, request.job)? {
            return Ok(published);
        }
        let publishing = || Lease::moment(&folder, &home.folder, patience);
        let (config, opened, lock) = (&self.config, &opened, &lock);
        let stored = Store { config, opened, lock, publishing: &publishing, progress, cancel }.store(request, disks);
        self.trim_indexes();
        stored.map_err(|error| {
            // What is packed may be smaller than what was read, so this is the most that it can be.
            let left = progress.get().1.saturating_sub(opened.directory.written_bytes());
            say_how_much(error, left, self.free_bytes().unwrap_or(0))
        })
    }

    fn find(&self, series: &str, job: &str) -> Result<Option<Stored>> {
        self.reading(series, Visit::Brief, |opened| match opened {
            Some(opened) => points::published(opened, job),
            None => Ok(None),
        })
    }

    fn inspect(&self, series: &str, point: &str) -> Result<Stored> {
        let missing = || DriverError::new(Kind::Missing, format!("opening restore point {point}"), "it is not there");
        self.reading(series, Visit::Brief, |opened| {
            let (opened, id) = opened.zip(Id::parse(point)).ok_or_else(missing)?;
            let snapshot =
                opened.snapshot(&id).map_err(|error| if error.kind == Kind::Missing { missing() } else { error })?;
            let index = opened.index_on_demand();
            let reader = PointReader::new(&opened.directory, &opened.cipher, index.get()?);
            let directory = reader.directory_of(&snapshot)?;
            let stored = points::stored(opened, &index, &id, &snapshot)?;
            self.trim_indexes();
            match stored.disks.iter().find(|disk| directory.find(&read::disk_name(disk.id)).is_none()) {
                None => Ok(stored),
                Some(disk) => {
                    let reason = format!("its directory does not list disk {}", disk.id);
                    Err(DriverError::new(Kind::Corrupt, format!("opening restore point {id}"), reason))
                }
            }
        })
    }

    fn document(&self, series: &str, point: &str) -> Result<Vec<u8>> {
        self.with_point(series, point, Visit::Brief, |reader, _, tree, _| reader.document(tree))
    }

    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let (series, point) = (request.series, request.point);
        self.with_point(series, point, Visit::Long(progress, cancel), |reader, snapshot, tree, opened| {
            let disks = snapshot.keeplast.as_ref().and_then(|own| own.disks.as_ref());
            let size =
                disks.and_then(|disks| disks.iter().find(|disk| disk.id == request.disk)).map(|disk| disk.size_bytes);
            let patience = self.patience(progress, cancel);
            let _lock = ResticLock::take(&opened.directory, &opened.cipher, false, patience)?;
            restore::restore(&self.config, reader, (tree, size), request, target, progress, cancel)
        })
    }

    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified> {
        let flow = self.flow(progress, cancel);
        let home = self.home(request.series, &flow)?;
        let _shared = Lease::shared(&self.lease_folder(), &home.folder, self.patience(progress, cancel))?;
        let directory = self.directory(&home.folder, &flow);
        verify::verify(&self.config, &directory, &|| self.open(&home, &flow), request, save, progress, cancel)
    }

    fn forget(&self, series: &str, points: &[String], progress: &Progress, cancel: &Cancel) -> Result<Forgotten> {
        let freed = self.alone(series, progress, cancel, |opened| {
            // Of a forget or store that was cut off; nobody else writes now.
            opened.directory.remove_temporaries()?;
            let before = opened.directory.size_bytes()?;
            points::forget(opened, points)?;
            let (directory, key) = (&opened.directory, &opened.known.key);
            if self.free_bytes()? < before {
                // Rewriting may need the room that whole packs without use give back.
                repository::prune(directory, key, Prune::Unreferenced)?;
            }
            let (repository_bytes, free_bytes) = (before, self.free_bytes()?);
            repository::prune(directory, key, Prune::Reclaim { repository_bytes, free_bytes })?;
            Ok(before.saturating_sub(opened.directory.size_bytes()?))
        })?;
        Ok(Forgotten { freed_bytes: freed.unwrap_or(0), resized: Vec::new() })
    }

    fn sweep(&self, series: &str, progress: &Progress) -> Result<()> {
        self.alone(series, progress, &Cancel::default(), |opened| {
            opened.directory.remove_temporaries()?;
            repository::prune(&opened.directory, &opened.known.key, Prune::Unreferenced)
        })
        .map(|_| ())
    }

    fn series(&self) -> Result<Vec<String>> {
        self.all_series()
    }

    fn points(&self, series: &str) -> Result<Vec<PointFacts>> {
        self.reading(series, Visit::Brief, |opened| {
            let Some(opened) = opened else { return Ok(Vec::new()) };
            let snapshots = opened.snapshots()?;
            let index = opened.index_on_demand();
            let mut points = Vec::new();
            for (id, snapshot) in snapshots {
                match self.facts(opened, &index, &id, &snapshot) {
                    Ok(facts) => points.push(facts),
                    Err(error) if matches!(error.kind, Kind::Missing | Kind::Corrupt) => {
                        tracing::warn!(point = %id, %error, "a damaged restore point is left out");
                    }
                    Err(error) => return Err(error),
                }
            }
            self.trim_indexes();
            points.sort_by(|a, b| (a.time, &a.stored.point).cmp(&(b.time, &b.stored.point)));
            Ok(points)
        })
    }
}

fn no_repository(series: &str) -> DriverError {
    DriverError::new(Kind::Missing, format!("opening series {series}"), "it has no repository yet")
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
