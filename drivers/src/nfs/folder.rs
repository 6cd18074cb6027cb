//! Directories of the datastore, and what is made, opened, renamed and removed in them.
//!
//! Everything is reached from an open directory by one plain name at a time, through `openat2` that follows no symbolic
//! link and leaves no directory. So a hostile share cannot lead us out of the base, and when the share vanishes from under
//! its mount point we go on talking to the share (and fail) instead of filling the bare directory below.
//!
//! Invariants: a file has its final name only when it is durable; rights are set on what we made ourselves, nothing else.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self as sys, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::WriteGate;
use crate::{DriverError, Kind, Result};

/// Ending of files under construction.
pub(super) const PART: &str = ".part";
/// Beginning of folders under construction.
pub(super) const NEW: &str = ".new-";
/// More entries than this are not listed; nothing of ours comes near it.
const MAX_ENTRIES: usize = 1_000_000;

/// An open directory.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    gate: Gate,
}

/// [`WriteGate`], printable.
#[derive(Clone)]
pub(super) struct Gate(pub(super) Option<WriteGate>);

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// Asks whether `path` may be written now.
    pub(super) fn ask(&self, path: &Path) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |gate| gate(path)).map_err(|error| failure("writing", path, error))
    }
}

/// An I/O failure about `path`.
pub(super) fn failure(doing: &str, path: &Path, error: io::Error) -> DriverError {
    let doing = format!("{doing} {}", path.display());
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP | Errno::XDEV) => DriverError::new(
            Kind::Corrupt,
            doing,
            "a symbolic link or a way out of the datastore lies there; remove it",
        ),
        Some(Errno::STALE) => DriverError::new(Kind::Retry, doing, "the server does not know the file any more"),
        _ => DriverError::io(doing, error),
    }
}

fn way() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

impl Folder {
    /// The datastore's directory, which must be there.
    pub(super) fn base(path: &Path, gate: Option<WriteGate>) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = sys::open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => DriverError::new(
                Kind::Retry,
                format!("using the datastore in {}", path.display()),
                "the directory is not there; create it or mount its file system",
            ),
            other => failure("opening", path, other.into()),
        })?;
        Ok(Self { fd, path: path.to_owned(), gate: Gate(gate) })
    }

    /// Where it lies, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The gate of its files.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether its path still leads to it; otherwise something was mounted, unmounted or moved since.
    pub(super) fn check_in_place(&self) -> Result<()> {
        let doing = |errno: Errno| failure("looking at", &self.path, errno.into());
        let ours = sys::fstat(&self.fd).map_err(doing)?;
        let theirs = sys::stat(&self.path).map_err(doing)?;
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) {
            return Ok(());
        }
        let reason = "another directory has come to this path meanwhile; look whether the share is mounted";
        Err(DriverError::new(Kind::Retry, format!("using the datastore in {}", self.path.display()), reason))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn open_at(&self, name: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        // One plain component: nothing that a manifest says can be more.
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Errno::INVAL);
        }
        loop {
            match sys::openat2(&self.fd, name, flags | OFlags::CLOEXEC, mode, way()) {
                // A rename somewhere else on the way.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The folder `name` in it, if it is there.
    pub(super) fn folder(&self, name: &str) -> Result<Option<Self>> {
        match self.open_at(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path: self.at(name), gate: self.gate.clone() })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(failure("opening", &self.at(name), errno.into())),
        }
    }

    /// The folder `name` in it, made when it is not there, its name durable.
    pub(super) fn make_folder(&self, name: &str) -> Result<Self> {
        if let Some(folder) = self.folder(name)? {
            return Ok(folder);
        }
        self.gate.ask(&self.at(name))?;
        match sys::mkdirat(&self.fd, name, Mode::from_raw_mode(0o770)) {
            // Somebody else was faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failure("making", &self.at(name), errno.into())),
        }
        let folder = self.folder(name)?.ok_or_else(|| failure("opening", &self.at(name), Errno::NOENT.into()))?;
        allow(sys::fchmod(&folder.fd, Mode::from_raw_mode(0o770)))
            .map_err(|errno| failure("setting the rights of", &self.at(name), errno.into()))?;
        self.sync()?;
        Ok(folder)
    }

    /// A new file, readable and writable.
    pub(super) fn create(&self, name: &str) -> Result<File> {
        self.gate.ask(&self.at(name))?;
        let failed = |errno: Errno| failure("creating", &self.at(name), errno.into());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = self.open_at(name, flags, Mode::from_raw_mode(0o660)).map_err(failed)?;
        allow(sys::fchmod(&fd, Mode::from_raw_mode(0o660))).map_err(failed)?;
        Ok(fd.into())
    }

    /// A file for reading, if it is there. Anything but a plain file is [`Kind::Corrupt`].
    pub(super) fn open(&self, name: &str) -> Result<Option<File>> {
        self.open_plain(name, OFlags::RDONLY)
    }

    /// A file for reading and writing, if it is there.
    pub(super) fn open_to_write(&self, name: &str) -> Result<Option<File>> {
        self.gate.ask(&self.at(name))?;
        self.open_plain(name, OFlags::RDWR)
    }

    fn open_plain(&self, name: &str, flags: OFlags) -> Result<Option<File>> {
        // A pipe must not hold us up.
        let fd = match self.open_at(name, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failure("opening", &self.at(name), errno.into())),
        };
        let stat = sys::fstat(&fd).map_err(|errno| failure("looking at", &self.at(name), errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let doing = format!("opening {}", self.at(name).display());
            return Err(DriverError::new(Kind::Corrupt, doing, "it is no plain file"));
        }
        Ok(Some(fd.into()))
    }

    /// Length of the plain file `name`, if there is one.
    pub(super) fn length(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.stat(name)?.and_then(|stat| {
            let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            plain.then(|| u64::try_from(stat.st_size).unwrap_or(0))
        }))
    }

    /// What the plain file `name` takes in the file system; holes in it take nothing.
    pub(super) fn taken_bytes(&self, name: &str) -> Result<u64> {
        Ok(self.stat(name)?.map_or(0, |stat| taken(&stat)))
    }

    fn stat(&self, name: &str) -> Result<Option<Stat>> {
        match sys::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(failure("looking at", &self.at(name), errno.into())),
        }
    }

    /// The whole file `name`, if it is there.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is longer than `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| failure("reading", &self.at(name), error))?;
        if bytes.len() as u64 > limit {
            let reason = format!("it is longer than the {limit} bytes that it can have");
            return Err(DriverError::new(Kind::Corrupt, format!("reading {}", self.at(name).display()), reason));
        }
        Ok(Some(bytes))
    }

    /// Writes a whole file under its final name, durable with it; takes the place of one that is there.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let part = format!("{name}{PART}");
        self.remove(&part)?;
        let mut file = self.create(&part)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| failure("writing", &self.at(name), error))?;
        self.rename(&part, self, name)?;
        self.sync()
    }

    /// Renames, over what is there. The caller makes it durable with [`Self::sync`] of both folders.
    pub(super) fn rename(&self, name: &str, folder: &Self, to: &str) -> Result<()> {
        self.gate.ask(&folder.at(to))?;
        sys::renameat(&self.fd, name, &folder.fd, to)
            .map_err(|errno| failure("renaming to", &folder.at(to), errno.into()))
    }

    /// Removes a file or symbolic link; one that is not there is success.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        if self.stat(name)?.is_none() {
            return Ok(());
        }
        self.gate.ask(&self.at(name))?;
        match sys::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failure("removing", &self.at(name), errno.into())),
        }
    }

    /// Removes the folder `name` with its files, `first` before all others and for good. Gives the bytes that they had.
    pub(super) fn remove_folder(&self, name: &str, first: &[&str]) -> Result<u64> {
        let Some(folder) = self.folder(name)? else { return Ok(0) };
        let bytes = folder.used_bytes(0)?;
        for name in first {
            folder.remove(name)?;
        }
        folder.sync()?;
        for entry in folder.names()? {
            folder.remove(&entry)?;
        }
        self.remove_empty_folder(name)?;
        self.sync()?;
        Ok(bytes)
    }

    /// Removes the folder `name` if it is empty; gives whether it is gone.
    pub(super) fn remove_empty_folder(&self, name: &str) -> Result<bool> {
        self.gate.ask(&self.at(name))?;
        match sys::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(errno) => Err(failure("removing", &self.at(name), errno.into())),
        }
    }

    /// The names in it, sorted; those that are no text are left out, they are not ours.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let failed = |errno: Errno| failure("listing", &self.path, errno.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
            if names.len() > MAX_ENTRIES {
                let doing = format!("listing {}", self.path.display());
                return Err(DriverError::new(Kind::Corrupt, doing, "it holds more than a million entries"));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Bytes of all files in it and in the folders below, `depth` levels of them.
    pub(super) fn used_bytes(&self, depth: u32) -> Result<u64> {
        let mut sum = 0_u64;
        for name in self.names()? {
            let Some(stat) = self.stat(&name)? else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => sum = sum.saturating_add(taken(&stat)),
                FileType::Directory if depth > 0 => {
                    if let Some(folder) = self.folder(&name)? {
                        sum = sum.saturating_add(folder.used_bytes(depth - 1)?);
                    }
                }
                _ => {}
            }
        }
        Ok(sum)
    }

    /// Makes its entries durable.
    pub(super) fn sync(&self) -> Result<()> {
        match sys::fsync(&self.fd) {
            // File systems that know no such thing (cifs) have nothing that could be lost here.
            Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(failure("making durable", &self.path, errno.into())),
        }
    }

    /// Free bytes and all bytes of its file system.
    pub(super) fn space(&self) -> Result<(u64, u64)> {
        let space = sys::fstatvfs(&self.fd).map_err(|errno| failure("measuring", &self.path, errno.into()))?;
        Ok((space.f_frsize.saturating_mul(space.f_bavail), space.f_frsize.saturating_mul(space.f_blocks)))
    }

    /// Lets our group into the directory, where we may; an owner who knows better is left alone.
    pub(super) fn share_with_group(&self) {
        let Ok(stat) = sys::fstat(&self.fd) else { return };
        let group = rustix::process::getegid();
        if stat.st_gid != group.as_raw() {
            sys::fchown(&self.fd, None, Some(group)).ok();
        }
        if stat.st_mode & 0o070 != 0o070 {
            sys::fchmod(&self.fd, Mode::from_raw_mode((stat.st_mode & 0o7777) | 0o070)).ok();
        }
    }
}

/// What a file takes: its blocks, unless those are not told or are more than it is long.
fn taken(stat: &Stat) -> u64 {
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if blocks == 0 { length } else { blocks.min(length) }
}

/// File systems without rights of their own (cifs, fuse) may refuse to set them; what they give then is the mount's choice.
fn allow(set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match set {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => other,
    }
}
