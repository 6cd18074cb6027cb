//! Files under construction, and removing files.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::{DriverError, Kind, Result};

const SUFFIX: &str = ".part";

/// A new file called `TARGET.part`. Dropped before [`Part::publish`] it is removed.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Part {
    /// Makes the file, readable and writable, empty; one that an earlier attempt left is removed.
    pub(super) fn create(target: &Path) -> Result<Self> {
        let doing = || format!("creating {}", target.display());
        let Some(name) = target.file_name() else {
            return Err(DriverError::new(Kind::Permanent, doing(), "the path does not end in a file name"));
        };
        let mut part_name = OsString::from(name);
        part_name.push(SUFFIX);
        let path = target.with_file_name(part_name);
        unlink(&path).map_err(|e| DriverError::io(doing(), e))?;
        // create_new: whoever put a symbolic link there in between does not get our bytes.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o660).open(&path);
        let file = file.map_err(|e| DriverError::io(doing(), e))?;
        Ok(Self { file, path, target: target.to_owned(), published: false })
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where the file lies now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The name that the file will have.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the bytes durable, then the name. A file that had the name before is replaced.
    pub(super) fn publish(mut self) -> Result<()> {
        let failed = |e| DriverError::io(format!("finishing {}", self.target.display()), e);
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.path, &self.target).map_err(failed)?;
        let synced = sync_parent(&self.target).map_err(failed);
        self.published = true;
        synced
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.published
            && let Err(e) = unlink(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %e, "an unfinished file could not be removed");
        }
    }
}

/// Removes the file at `path` for good; one that is not there is success. A symbolic link is removed, not what it points to.
///
/// # Errors
/// When the file is there and stays there, and for directories.
pub fn remove(path: &Path) -> Result<()> {
    let removed = unlink(path).and_then(|()| match sync_parent(path) {
        // The directory is gone as well.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    });
    removed.map_err(|e| DriverError::io(format!("removing {}", path.display()), e))
}

/// Removes the files of `directory` (not of those below) that an interrupted process left under construction, and tells
/// how many. Only to be called while nothing is being made there. A directory that is not there is empty.
///
/// # Errors
/// When the directory cannot be read or a file cannot be removed.
pub fn sweep_parts(directory: &Path) -> Result<usize> {
    let failed = |e| DriverError::io(format!("sweeping {}", directory.display()), e);
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(failed)?,
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_part = entry.file_name().as_encoded_bytes().ends_with(SUFFIX.as_bytes());
        if is_part && entry.file_type().map_err(failed)?.is_file() {
            unlink(&entry.path()).map_err(failed)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Removes what an interrupted process left under construction for `target`. Only to be called while nobody makes it.
///
/// # Errors
/// When it is there and stays there.
pub fn sweep_part(target: &Path) -> Result<()> {
    let mut path = target.as_os_str().to_os_string();
    path.push(SUFFIX);
    unlink(Path::new(&path)).map_err(|e| DriverError::io(format!("sweeping {}", target.display()), e))
}

fn unlink(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}
