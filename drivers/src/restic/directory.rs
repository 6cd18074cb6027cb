//! The files of one repository in a local (or mounted) directory, laid out as restic's local backend does (restic design
//! document, "Repository Layout").
//!
//! Invariants: a file appears under its name only when it is whole and durable (temporary name, fsync, rename, fsync of
//! the directory); a listing that cannot be completed is an error, never a short list — a prune that believed a short
//! list of snapshots would delete data in use.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::WriteGate;
use super::format::Id;
use crate::direct::Direct;
use crate::{Cancel, DriverError, Kind, Pace, Progress, Result};

/// Ends the name of a file that is being written by us.
const TEMPORARY_SUFFIX: &str = "-tmp-keeplast";
/// Directories hold keys and names of VMs: for the daemon alone.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The kinds of files in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// The one config file; it has no id of its own.
    Config,
    /// The master key under a password.
    Key,
    /// A snapshot.
    Snapshot,
    /// An index file.
    Index,
    /// A pack, in one of 256 folders.
    Pack,
    /// A lock.
    Lock,
}

impl FileKind {
    fn folder(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
            Self::Lock => "locks",
        }
    }

    /// Locks are neither paced nor ended by a cancel: they are what an operation leaves in order.
    fn is_lock(self) -> bool {
        self == Self::Lock
    }
}

/// What all file access of one operation passes through.
#[derive(Clone, Default)]
pub(super) struct Flow {
    /// Asked before each write.
    pub(super) gate: Option<WriteGate>,
    /// The limit on bytes per second.
    pub(super) pace: Pace,
    /// Where each access beats, so that long work of rustic's shows signs of life.
    pub(super) progress: Progress,
    /// Ends reading and writing, but never the removal of files: what was begun there is finished.
    pub(super) cancel: Cancel,
}

/// One repository's directory, as one operation uses it.
pub(super) struct Directory {
    root: PathBuf,
    flow: Flow,
    written: AtomicU64,
}

impl Directory {
    /// The repository at `root`, which need not exist.
    pub(super) fn new(root: PathBuf, flow: Flow) -> Self {
        Self { root, flow, written: AtomicU64::new(0) }
    }

    /// Beats, looks at the cancel, and waits until `bytes` may be moved. [`Self::read`], [`Self::read_range`] and
    /// [`Self::write`] do it themselves; whoever opens a file by [`Self::path`] does it before each read.
    pub(super) fn pace(&self, bytes: u64) -> Result<()> {
        self.flow.progress.beat();
        self.flow.cancel.check()?;
        self.flow.pace.take(bytes, &self.flow.progress, &self.flow.cancel)
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes written to packs, index and snapshots through this object.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Makes the empty layout, durable.
    pub(super) fn create(&self) -> Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        let failed = |error| DriverError::io(format!("creating the repository {}", self.root.display()), error);
        for kind in [FileKind::Key, FileKind::Snapshot, FileKind::Index, FileKind::Lock] {
            builder.create(self.root.join(kind.folder())).map_err(failed)?;
        }
        let data = self.root.join(FileKind::Pack.folder());
        for first in 0..=255_u8 {
            builder.create(data.join(format!("{first:02x}"))).map_err(failed)?;
        }
        sync_directory(&data).and_then(|()| sync_directory(&self.root)).map_err(failed)
    }

    /// Path of the file of `kind` called `id`.
    pub(super) fn path(&self, kind: FileKind, id: &Id) -> PathBuf {
        let name = id.hex();
        match kind {
            FileKind::Config => self.root.join("config"),
            FileKind::Pack => self.root.join("data").join(&name[..2]).join(name),
            _ => self.root.join(kind.folder()).join(name),
        }
    }

    /// Whether a config file is there, which makes this a repository.
    pub(super) fn is_repository(&self) -> Result<bool> {
        self.root
            .join("config")
            .try_exists()
            .map_err(|error| DriverError::io(format!("looking for the repository {}", self.root.display()), error))
    }

    /// Whether the file is there.
    pub(super) fn exists(&self, kind: FileKind, id: &Id) -> Result<bool> {
        let path = self.path(kind, id);
        path.try_exists().map_err(|error| DriverError::io(format!("looking for {}", path.display()), error))
    }

    /// Every file of `kind` with its length in bytes. Files with other names than ids are left out.
    pub(super) fn list(&self, kind: FileKind) -> Result<Vec<(Id, u64)>> {
        let mut found = Vec::new();
        self.walk(kind, &mut |name, entry| {
            if let Some(id) = Id::parse(name) {
                match entry.metadata() {
                    Ok(metadata) => found.push((id, metadata.len())),
                    // Removed since the folder was read (a lock, a forgotten snapshot).
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The ids of every file of `kind`.
    pub(super) fn ids(&self, kind: FileKind) -> Result<Vec<Id>> {
        let mut found = Vec::new();
        self.walk(kind, &mut |name, _| {
            found.extend(Id::parse(name));
            Ok(())
        })?;
        Ok(found)
    }

    fn walk(&self, kind: FileKind, visit: &mut dyn FnMut(&str, &fs::DirEntry) -> io::Result<()>) -> Result<()> {
        let folder = self.root.join(kind.folder());
        self.flow.progress.beat();
        let listed = if kind == FileKind::Pack {
            fs::read_dir(&folder).and_then(|folders| {
                for inner in folders {
                    let inner = inner?;
                    self.flow.progress.beat();
                    if inner.file_type()?.is_dir() {
                        visit_folder(&inner.path(), visit)?;
                    }
                }
                Ok(())
            })
        } else {
            visit_folder(&folder, visit)
        };
        match listed {
            // Foreign repositories may lack the folder until the first lock.
            Err(error) if kind == FileKind::Lock && error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| DriverError::io(format!("listing {}", folder.display()), error)),
        }
    }

    /// All bytes of a file.
    pub(super) fn read(&self, kind: FileKind, id: &Id) -> Result<Vec<u8>> {
        let path = self.path(kind, id);
        let failed = |error| DriverError::io(format!("reading {}", path.display()), error);
        if !kind.is_lock() {
            self.pace(fs::metadata(&path).map_err(failed)?.len())?;
        }
        fs::read(&path).map_err(failed)
    }

    /// `length` bytes of a file from `offset`.
    pub(super) fn read_range(&self, kind: FileKind, id: &Id, offset: u32, length: u32) -> Result<Vec<u8>> {
        self.pace(length.into())?;
        let path = self.path(kind, id);
        let mut bytes = vec![0; length as usize];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, offset.into()))
            .map_err(|error| DriverError::io(format!("reading {}", path.display()), error))?;
        Ok(bytes)
    }

    /// Writes a file whole and durable. A failure leaves nothing under its name.
    pub(super) fn write<P: AsRef<[u8]>>(&self, kind: FileKind, id: &Id, parts: &[P]) -> Result<()> {
        if !kind.is_lock() {
            self.pace(parts.iter().map(|part| part.as_ref().len() as u64).sum())?;
        }
        let path = self.path(kind, id);
        let temporary = temporary_name(&path);
        let failed = |error| {
            let _ = fs::remove_file(&temporary);
            DriverError::io(format!("writing {}", path.display()), error)
        };
        let length = self.write_temporary(&path, &temporary, parts).map_err(failed)?;
        fs::rename(&temporary, &path).map_err(failed)?;
        if let Some(folder) = path.parent() {
            sync_directory(folder).map_err(|error| {
                // The caller is told that the file is not there, so it must not appear later.
                let _ = fs::remove_file(&path);
                failed(error)
            })?;
        }
        if matches!(kind, FileKind::Pack | FileKind::Index | FileKind::Snapshot) {
            self.written.fetch_add(length, Ordering::Relaxed);
        }
        Ok(())
    }

    fn write_temporary<P: AsRef<[u8]>>(&self, path: &Path, temporary: &Path, parts: &[P]) -> io::Result<u64> {
        if let Some(gate) = &self.flow.gate {
            gate(path)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        let file = match options.open(temporary) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = path.parent().ok_or(error)?;
                DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(folder)?;
                // The new folder's own name must outlast a crash, too, and that of the folder around it.
                for outer in folder.ancestors().skip(1).take_while(|outer| outer.starts_with(&self.root)) {
                    sync_directory(outer)?;
                }
                options.open(temporary)?
            }
            other => other?,
        };
        let length = Direct::default().write_parts(&file, parts)?;
        file.sync_all()?;
        Ok(length)
    }

    /// Removes a file; one that is gone already counts as removed. Removals of snapshots and index files are durable at
    /// once: packs are removed after them, and must not be gone while a name that leads to them comes back.
    pub(super) fn remove(&self, kind: FileKind, id: &Id) -> Result<()> {
        let path = self.path(kind, id);
        self.flow.progress.beat();
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Ok(()) if matches!(kind, FileKind::Snapshot | FileKind::Index) => {
                sync_directory(&self.root.join(kind.folder()))
            }
            other => other,
        };
        removed.map_err(|error| DriverError::io(format!("removing {}", path.display()), error))
    }

    /// Bytes of all files of the repository that have ids.
    pub(super) fn size_bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for kind in [FileKind::Key, FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
            sum += self.list(kind)?.iter().map(|(_, length)| length).sum::<u64>();
        }
        Ok(sum)
    }

    /// Removes what interrupted writes of ours left behind; only when none is running.
    pub(super) fn remove_temporaries(&self) -> Result<()> {
        let failed = |error| DriverError::io(format!("cleaning {}", self.root.display()), error);
        for kind in
            [FileKind::Config, FileKind::Key, FileKind::Snapshot, FileKind::Index, FileKind::Pack, FileKind::Lock]
        {
            let mut left = Vec::new();
            self.walk(kind, &mut |name, entry| {
                if name.ends_with(TEMPORARY_SUFFIX) {
                    left.push(entry.path());
                }
                Ok(())
            })?;
            for path in left {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Refuses a directory that holds something but is no repository.
    pub(super) fn refuse_foreign_content(&self) -> Result<()> {
        let doing = || format!("creating the repository {}", self.root.display());
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(DriverError::io(doing(), error)),
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(DriverError::new(
                    Kind::Permanent,
                    doing(),
                    "the directory is not empty and has no file `config`; move its content away",
                )),
            },
        }
    }
}

fn visit_folder(folder: &Path, visit: &mut dyn FnMut(&str, &fs::DirEntry) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str() {
            visit(name, &entry)?;
        }
    }
    Ok(())
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// Makes names in `folder` durable.
pub(super) fn sync_directory(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
