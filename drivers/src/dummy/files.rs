//! Durable small files, copies and locks in the directory of a dummy driver.
//!
//! Invariant: a document has its name only when it is whole and durable, as everywhere in this crate.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, SeekFrom, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{DriverError, Kind, Result};

/// Longest document: the digests of disks of some 200 GiB without a hole.
const MAX_DOCUMENT_BYTES: u64 = 256 << 20;
/// Longest name of a domain, checkpoint or snapshot.
const MAX_NAME_BYTES: usize = 80;
/// How often a lock that is taken is asked for again.
const POLL: Duration = Duration::from_millis(10);
/// Bytes of one step of a copy.
const PIECE_BYTES: u64 = 1 << 20;

/// A file name that stands for `name` alone: letters, digits, `-` and `_` as they are, every other byte as `%` and two
/// digits.
///
/// # Errors
/// [`Kind::Permanent`] for empty and endless names.
pub(super) fn file_name(what: &str, name: &str) -> Result<String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        let reason = format!("{what} {name:?} must have 1 to {MAX_NAME_BYTES} bytes");
        return Err(DriverError::new(Kind::Permanent, "naming something", reason));
    }
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    Ok(out)
}

/// The name that [`file_name`] made `file` of; none for what it did not make.
pub(super) fn name_of(file: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = file.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// Makes a directory with all above it, readable for nobody else.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| DriverError::io(format!("making {}", path.display()), error))
}

/// Names in a directory, sorted; one that is not there is empty.
pub(super) fn list(directory: &Path) -> Result<Vec<String>> {
    let failed = |error| DriverError::io(format!("reading {}", directory.display()), error);
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // Whatever is not UTF-8 is not ours.
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Removes a directory with all in it; an absent one is success.
pub(super) fn remove_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(DriverError::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| DriverError::io(format!("finishing {}", path.display()), error))
}

/// `path` with `.part` after it: its name while it is made.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// Makes the file `path` by `fill`, which writes it under another name; durable at the end, file and name.
pub(super) fn publish(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<()> {
    let part = part_of(path);
    let publish = || {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o660).open(&part)?;
        fill(&file)?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    publish().map_err(|error| {
        drop(std::fs::remove_file(&part));
        DriverError::io(format!("writing {}", path.display()), error)
    })
}

/// Writes `value` as the document `path`.
///
/// # Errors
/// [`Kind::Permanent`] when it is longer than what [`read_document`] reads; failed I/O.
pub(super) fn write_document(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value)
        .map_err(|error| DriverError::other(Kind::Permanent, format!("writing {}", path.display()), error))?;
    if text.len() as u64 > MAX_DOCUMENT_BYTES {
        let reason = "the disks are too big for the dummy drivers (some 200 GiB of data at most)";
        return Err(DriverError::new(Kind::Permanent, format!("writing {}", path.display()), reason));
    }
    publish(path, |mut file| file.write_all(&text))
}

/// Reads the document `path`; none when there is none.
///
/// # Errors
/// [`Kind::Corrupt`] when it is not what we wrote.
pub(super) fn read_document<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let doing = || format!("reading {}", path.display());
    let file = match File::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        other => other.map_err(|error| DriverError::io(doing(), error))?,
    };
    let mut text = Vec::new();
    file.take(MAX_DOCUMENT_BYTES).read_to_end(&mut text).map_err(|error| DriverError::io(doing(), error))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| DriverError::other(Kind::Corrupt, doing(), error))
}

/// Copies the file `from` to the new file `target`; holes stay holes, blocks are shared where the file system can.
pub(super) fn copy(from: &Path, target: &Path) -> Result<()> {
    let source = File::open(from).map_err(|error| DriverError::io(format!("reading {}", from.display()), error))?;
    publish(target, |to| copy_content(&source, to))
}

/// Copies all of `from` into the empty file `to`.
pub(super) fn copy_content(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut buffer = Vec::new();
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, length)? {
        at = start;
        while at < end {
            buffer.resize(usize::try_from((end - at).min(PIECE_BYTES)).unwrap_or(0), 0);
            from.read_exact_at(&mut buffer, at)?;
            to.write_all_at(&buffer, at)?;
            at += buffer.len() as u64;
        }
    }
    Ok(())
}

/// The next range with data within `[at, length)`; none when only a hole follows.
pub(super) fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.max(at),
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((at, length))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(length).min(length);
    Ok((start < end).then_some((start, end)))
}

/// Bytes that the files of a directory take, those below included; what vanishes meanwhile does not count.
pub(super) fn used_bytes(directory: &Path) -> io::Result<u64> {
    let mut sum = 0_u64;
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(facts) if facts.is_dir() => sum = sum.saturating_add(used_bytes(&entry.path())?),
            Ok(facts) => sum = sum.saturating_add(facts.blocks().saturating_mul(512)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// A held `flock`, given back when dropped; it keeps out other threads and other processes alike.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in file `path`, waiting up to `wait`, with `meanwhile` called all the time.
    ///
    /// # Errors
    /// [`Kind::Retry`] with `busy` as the reason when others have it; an error of `meanwhile`.
    pub(super) fn take(
        path: &Path,
        wait: Duration,
        busy: &str,
        meanwhile: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let doing = || format!("locking {}", path.display());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| DriverError::io(doing(), error))?;
        let since = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(DriverError::io(doing(), error.into())),
            }
            if since.elapsed() >= wait {
                return Err(DriverError::new(Kind::Retry, doing(), busy));
            }
            meanwhile()?;
            std::thread::sleep(POLL);
        }
    }
}
