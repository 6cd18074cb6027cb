//! The backup datastore in restic format: one repository per series.
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
//! no other operation of ours reads or writes the series; one store, forget or sweep per series at a time.

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
mod points;
mod read;
mod repository;
mod restore;
mod verify;
mod writer;

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::directory::{Directory, FileKind, sync_directory};
use self::documents::{SnapshotDocument, Tree};
use self::format::{Cipher, Id};
use self::index::Index;
use self::lease::{Lease, LeaseKind, ResticLock};
use self::read::PointReader;
use self::repository::{NewRepository, Prune, RepositoryKey};
use crate::datastore::{
    BackupDatastore, Capacity, Forgotten, PointFacts, RestoreRequest, Restored, SourceDisk, StoreRequest, Stored,
    Verified, VerifyRequest,
};
use crate::{Cancel, DiskWriter, DriverError, Kind, MAX_READ_BYTES, Progress, Result, Secret};

/// Asked with its path before a file is written; an error fails that write. For throttles, quotas and tests of faults.
pub type WriteGate = Arc<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// How a datastore in restic format works.
#[derive(Clone)]
pub struct ResticConfig {
    /// The directory that holds the repositories; must exist (a file system may be mounted on it).
    pub base_path: PathBuf,
    /// Opens every repository in it.
    pub password: Secret,
    /// Length of a chunk in bytes: a multiple of 4096 up to 8 MiB, at best a multiple of the dirty bitmap's 64 KiB.
    /// Changing it makes the next backup of each series a full one.
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
    /// How long to wait for a series that is in use.
    pub lease_wait: Duration,
    /// See [`WriteGate`].
    pub write_gate: Option<WriteGate>,
}

impl ResticConfig {
    /// The defaults: 256 KiB chunks, zstd 3, one thread per processor, packs of 32 MiB, parts of 64 GiB, writes verified,
    /// 30 s of waiting.
    #[must_use]
    pub fn new(base_path: PathBuf, password: Secret) -> Self {
        Self {
            base_path,
            password,
            chunk_bytes: 256 << 10,
            compression_level: 3,
            threads: std::thread::available_parallelism().map_or(2, NonZeroUsize::get),
            verify_writes: true,
            pack_bytes: 32 << 20,
            part_bytes: 64 << 30,
            lease_wait: Duration::from_secs(30),
            write_gate: None,
        }
    }
}

/// How long a measured size of the datastore is good.
const USED_BYTES_AGE: Duration = Duration::from_secs(60);
/// Folder of the lease files, beside the repositories; no series is called so.
const LEASE_FOLDER: &str = ".lease";
/// Space that is given up when the file system is full, so that what makes room has room to work: a lock, a new index.
const RESERVE_FILE: &str = ".reserve";
/// Length of the reserve; it is made only where much more is free.
const RESERVE_BYTES: u64 = 4 << 20;
/// Longest name of a series.
const MAX_SERIES_LENGTH: usize = 100;

/// A directory of repositories.
pub struct ResticDatastore {
    config: ResticConfig,
    keys: Mutex<HashMap<String, RepositoryKey>>,
    used: Mutex<Option<(Instant, u64)>>,
}

/// An opened repository.
struct Opened {
    directory: Arc<Directory>,
    cipher: Cipher,
    key: RepositoryKey,
}

impl ResticDatastore {
    /// A datastore as `config` says. Touches no file.
    ///
    /// # Errors
    /// [`Kind::Permanent`] when a value is out of its bounds.
    pub fn new(mut config: ResticConfig) -> Result<Self> {
        let wrong = |reason: &str| Err(DriverError::new(Kind::Permanent, "configuring a restic datastore", reason));
        if config.chunk_bytes < 4096 || config.chunk_bytes > MAX_READ_BYTES || !config.chunk_bytes.is_multiple_of(4096)
        {
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
        config.part_bytes -= config.part_bytes % u64::from(config.chunk_bytes);
        config.threads = config.threads.clamp(1, 64);
        Ok(Self { config, keys: Mutex::default(), used: Mutex::default() })
    }

    /// The directory of a series. The name becomes part of paths, so it is bounded and plain.
    fn series_path(&self, series: &str) -> Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if series.is_empty()
            || series.len() > MAX_SERIES_LENGTH
            || series.starts_with('.')
            || !series.bytes().all(plain)
        {
            return Err(DriverError::new(
                Kind::Permanent,
                "naming a series",
                "its name must be 1 to 100 letters, digits, `_`, `-` or `.`, not beginning with `.`",
            ));
        }
        if !self.config.base_path.is_dir() {
            return Err(DriverError::new(
                Kind::Retry,
                format!("using the datastore in {}", self.config.base_path.display()),
                "the directory is not there; create it or mount its file system",
            ));
        }
        Ok(self.config.base_path.join(series))
    }

    fn lease(&self, series: &str, kind: LeaseKind, exclusive: bool) -> Result<Lease> {
        let folder = self.config.base_path.join(LEASE_FOLDER);
        Lease::take(&folder, series, kind, exclusive, self.config.lease_wait)
    }

    fn directory(&self, path: PathBuf) -> Arc<Directory> {
        Arc::new(Directory::new(path, self.config.write_gate.clone()))
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, HashMap<String, RepositoryKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the repository of a series, if there is one. Cheap after the first time: the key is kept in memory.
    fn open(&self, series: &str) -> Result<Option<Opened>> {
        let directory = self.directory(self.series_path(series)?);
        if !directory.is_repository()? {
            return Ok(None);
        }
        let known = self.keys().get(series).cloned();
        if let Some(key) = known {
            let cipher = key.cipher()?;
            if points::read_config(&directory, &cipher).is_ok() {
                return Ok(Some(Opened { directory, cipher, key }));
            }
            // The repository was replaced by another since.
            self.keys().remove(series);
        }
        let key = repository::unlock(&directory, &self.config.password)?;
        let cipher = key.cipher()?;
        points::read_config(&directory, &cipher)?;
        self.keys().insert(series.to_owned(), key.clone());
        Ok(Some(Opened { directory, cipher, key }))
    }

    /// Opens the repository of a series or makes it. The caller holds the write lease. A new one is made aside and
    /// renamed, so that a crash leaves none by halves.
    fn open_or_create(&self, series: &str) -> Result<Opened> {
        if let Some(opened) = self.open(series)? {
            return Ok(opened);
        }
        let path = self.series_path(series)?;
        let directory = self.directory(path.clone());
        directory.refuse_foreign_content()?;
        let aside = self.unfinished_path(series);
        let failed = |error| DriverError::io(format!("creating the repository {}", path.display()), error);
        remove_folder(&aside).map_err(failed)?;
        let new = NewRepository {
            chunk_bytes: self.config.chunk_bytes,
            compression_level: self.config.compression_level,
            pack_bytes: self.config.pack_bytes,
        };
        let made =
            repository::initialise(&self.directory(aside.clone()), &self.config.password, &new).and_then(|key| {
                std::fs::rename(&aside, &path).and_then(|()| sync_directory(&self.config.base_path)).map_err(failed)?;
                Ok(key)
            });
        let key = made.inspect_err(|_| drop(remove_folder(&aside)))?;
        let cipher = key.cipher()?;
        self.keys().insert(series.to_owned(), key.clone());
        Ok(Opened { directory, cipher, key })
    }

    fn free_bytes(&self) -> Result<u64> {
        let base = &self.config.base_path;
        let space = rustix::fs::statvfs(base)
            .map_err(|errno| DriverError::io(format!("measuring {}", base.display()), errno.into()))?;
        Ok(space.f_frsize.saturating_mul(space.f_bavail))
    }

    /// Makes the reserve when there is none and plenty is free. Without one everything works until the disk is full.
    fn keep_reserve(&self) {
        let path = self.config.base_path.join(RESERVE_FILE);
        if path.exists() || self.free_bytes().is_ok_and(|free| free < 8 * RESERVE_BYTES) {
            return;
        }
        // Bytes that no file system stores as a hole.
        let bytes = vec![0x5a; usize::try_from(RESERVE_BYTES).unwrap_or(0)];
        if let Err(error) = std::fs::write(&path, bytes) {
            tracing::debug!(path = %path.display(), %error, "no reserve");
            std::fs::remove_file(&path).ok();
        }
    }

    fn unfinished_path(&self, series: &str) -> PathBuf {
        self.config.base_path.join(format!(".new-{series}"))
    }

    /// Opens a point for reading and hands it to `work`, with the packs kept from being removed meanwhile.
    fn with_point<T>(
        &self,
        series: &str,
        point: &str,
        work: impl FnOnce(&PointReader<'_>, &SnapshotDocument, &Tree, &Opened) -> Result<T>,
    ) -> Result<T> {
        self.series_path(series)?;
        let missing = || DriverError::new(Kind::Missing, format!("opening restore point {point}"), "it is not there");
        let id = Id::parse(point).ok_or_else(missing)?;
        let _read = self.lease(series, LeaseKind::Read, false)?;
        let opened = self.open(series)?.ok_or_else(missing)?;
        let snapshot = read::snapshot(&opened.directory, &opened.cipher, &id)
            .map_err(|error| if error.kind == Kind::Missing { missing() } else { error })?;
        let (index, damaged) = Index::load_readable(&opened.directory, &opened.cipher)?;
        for (id, reason) in damaged {
            tracing::warn!(index = %id, %reason, "reading without a damaged index file");
        }
        let reader = PointReader::new(&opened.directory, &opened.cipher, &index);
        let tree = reader.directory_of(&snapshot)?;
        work(&reader, &snapshot, &tree, &opened)
    }

    /// Holds a series alone, locked against others and cleaned of dead locks of ours; `None` without a repository.
    fn alone<T>(&self, series: &str, work: impl FnOnce(&Opened) -> Result<T>) -> Result<Option<T>> {
        self.series_path(series)?;
        let _write = self.lease(series, LeaseKind::Write, true)?;
        let _read = self.lease(series, LeaseKind::Read, true)?;
        let unfinished = self.unfinished_path(series);
        remove_folder(&unfinished)
            .map_err(|error| DriverError::io(format!("removing {}", unfinished.display()), error))?;
        let Some(opened) = self.open(series)? else { return Ok(None) };
        lease::remove_own_locks(&opened.directory, &opened.cipher)?;
        let _lock = ResticLock::take(&opened.directory, &opened.cipher, true)?;
        work(&opened).map(Some)
    }
}

impl BackupDatastore for ResticDatastore {
    fn capacity(&self) -> Result<Capacity> {
        let base = &self.config.base_path;
        let failed = |error: io::Error| DriverError::io(format!("measuring {}", base.display()), error);
        let space = rustix::fs::statvfs(base).map_err(|errno| failed(errno.into()))?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used_bytes = match *used {
            Some((at, bytes)) if at.elapsed() < USED_BYTES_AGE => bytes,
            _ => {
                let bytes = folder_bytes(base).map_err(failed)?;
                *used = Some((Instant::now(), bytes));
                bytes
            }
        };
        Ok(Capacity {
            total_bytes: space.f_frsize.saturating_mul(space.f_blocks),
            free_bytes: space.f_frsize.saturating_mul(space.f_bavail),
            used_bytes,
        })
    }

    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        self.series_path(request.series)?;
        cancel.check()?;
        let _write = self.lease(request.series, LeaseKind::Write, true)?;
        self.keep_reserve();
        let opened = self.open_or_create(request.series)?;
        let _lock = ResticLock::take(&opened.directory, &opened.cipher, false)?;
        points::store(&self.config, &opened.directory, &opened.cipher, request, disks, progress, cancel)
    }

    fn find(&self, series: &str, job: &str) -> Result<Option<Stored>> {
        let Some(opened) = self.open(series)? else { return Ok(None) };
        for id in opened.directory.ids(FileKind::Snapshot)? {
            let snapshot = match read::snapshot(&opened.directory, &opened.cipher, &id) {
                Ok(snapshot) => snapshot,
                // Forgotten since the folder was read.
                Err(error) if error.kind == Kind::Missing => continue,
                Err(error) => return Err(error),
            };
            if snapshot.tags.iter().flatten().any(|tag| tag == job) {
                return self.inspect(series, &id.hex()).map(Some);
            }
        }
        Ok(None)
    }

    fn inspect(&self, series: &str, point: &str) -> Result<Stored> {
        self.with_point(series, point, |reader, snapshot, tree, opened| {
            let transfer = snapshot.keeplast.unwrap_or_default();
            let own_bytes = Id::parse(point)
                .and_then(|id| std::fs::metadata(opened.directory.path(FileKind::Snapshot, &id)).ok())
                .map_or(0, |metadata| metadata.len());
            Ok(Stored {
                point: point.to_owned(),
                read_bytes: transfer.read_bytes,
                stored_bytes: transfer.stored_bytes + own_bytes,
                unmarked_bytes: 0,
                disks: reader.disks(tree)?,
            })
        })
    }

    fn document(&self, series: &str, point: &str) -> Result<Vec<u8>> {
        self.with_point(series, point, |reader, _, tree, _| reader.document(tree))
    }

    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let (series, point) = (request.series, request.point);
        self.with_point(series, point, |reader, _, tree, opened| {
            let _lock = ResticLock::take(&opened.directory, &opened.cipher, false)?;
            restore::restore(&self.config, reader, tree, request, target, progress, cancel)
        })
    }

    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified> {
        let directory = self.directory(self.series_path(request.series)?);
        let _read = self.lease(request.series, LeaseKind::Read, false)?;
        verify::verify(&self.config, &directory, &|| self.open(request.series), request, save, progress, cancel)
    }

    fn forget(&self, series: &str, points: &[String], _progress: &Progress, _cancel: &Cancel) -> Result<Forgotten> {
        if self.free_bytes()? < RESERVE_BYTES {
            std::fs::remove_file(self.config.base_path.join(RESERVE_FILE)).ok();
        }
        let freed = self.alone(series, |opened| {
            // Of a forget or store that was cut off; nobody else writes now.
            opened.directory.remove_temporaries()?;
            let before = opened.directory.size_bytes()?;
            points::forget(&opened.directory, points)?;
            repository::prune(&opened.directory, &opened.key, Prune::Reclaim { repository_bytes: before })?;
            Ok(before.saturating_sub(opened.directory.size_bytes()?))
        })?;
        Ok(Forgotten { freed_bytes: freed.unwrap_or(0), resized: Vec::new() })
    }

    fn sweep(&self, series: &str, _progress: &Progress) -> Result<()> {
        self.alone(series, |opened| {
            opened.directory.remove_temporaries()?;
            repository::prune(&opened.directory, &opened.key, Prune::Unreferenced)
        })
        .map(|_| ())
    }

    fn series(&self) -> Result<Vec<String>> {
        let base = &self.config.base_path;
        let failed = |error| DriverError::io(format!("listing {}", base.display()), error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(base).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if self.series_path(&name).is_ok_and(|path| path.join("config").is_file()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn points(&self, series: &str) -> Result<Vec<PointFacts>> {
        let Some(opened) = self.open(series)? else { return Ok(Vec::new()) };
        let mut points = Vec::new();
        for id in opened.directory.ids(FileKind::Snapshot)? {
            let snapshot = read::snapshot(&opened.directory, &opened.cipher, &id)?;
            let stored = self.inspect(series, &id.hex())?;
            let mut tags = snapshot.tags.unwrap_or_default();
            let job = tags.iter().position(|tag| tag.starts_with("job=")).map(|at| tags.remove(at)).unwrap_or_default();
            let parent = snapshot.parent.map(|id| id.hex());
            let time = chrono::DateTime::parse_from_rfc3339(&snapshot.time).map_or(0, |time| time.timestamp());
            points.push(PointFacts { stored, parent, job, tags, time });
        }
        points.sort_by(|a, b| (a.time, &a.stored.point).cmp(&(b.time, &b.stored.point)));
        Ok(points)
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

/// Bytes of all files below; what vanishes meanwhile does not count.
fn folder_bytes(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let bytes = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => sum += bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}
