//! Taking a user's image file in.
//!
//! The caller has checked the path; between that check and ours anything may have happened to it. So the source is opened
//! once, without following any symbolic link, and what is examined at the end is not the source but the finished copy.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

use super::SECTOR_BYTES;
use super::part::Part;
use super::probe::{ImageFacts, probe_file};
use crate::hypervisor::DiskFormat;
use crate::{Cancel, DriverError, Kind, Progress, Result};

/// Bytes between two looks at [`Cancel`].
const PIECE_BYTES: u64 = 16 << 20;
/// Bytes of one step where the kernel cannot copy by itself.
const BUFFER_BYTES: usize = 1 << 20;

/// Copies the image file `source` to `target`, holes left out, and gives what the copy is. `source` is the canonical path
/// that [`super::allowed_source`] returned. Of `expected` none = whatever the file is. A raw file is padded to whole
/// sectors. `progress` counts the file's bytes, holes included.
///
/// A qcow2 image of version 2 is accepted (it can be backed up whole, not by increments), and so are internal snapshots.
///
/// # Errors
/// [`Kind::Permanent`] for an image that needs another file or a key, is marked corrupt, is of another format than
/// `expected` or than any we know, is empty, or is no regular file; [`Kind::Corrupt`] for an unsound one;
/// [`Kind::Retry`] when it changed while it was copied; failed I/O. Nothing is left behind then.
pub fn import(
    source: &Path,
    expected: Option<DiskFormat>,
    target: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<ImageFacts> {
    cancel.check()?;
    let doing = format!("taking in {}", source.display());
    let file = open_without_links(source, &doing)?;
    let called_raw = expected == Some(DiskFormat::Raw);
    let before = file.metadata().map_err(|e| DriverError::io(&*doing, e))?;
    // Looked at before the copy only to spare the work.
    accept(&probe_file(&file, &doing, called_raw)?, expected, &doing)?;

    let part = Part::create(target)?;
    progress.add_total(before.len());
    copy(&file, part.file(), before.len(), progress, cancel, &doing)?;
    let after = file.metadata().map_err(|e| DriverError::io(&*doing, e))?;
    if stamp(&before) != stamp(&after) {
        let reason = "the file changed while it was copied; stop whatever writes to it and try again";
        return Err(DriverError::new(Kind::Retry, doing, reason));
    }
    let mut facts = probe_file(part.file(), &doing, called_raw)?;
    accept(&facts, expected, &doing)?;
    if facts.format == DiskFormat::Raw {
        let sized = part.file().set_len(before.len().next_multiple_of(SECTOR_BYTES));
        sized.map_err(|e| DriverError::io(&*doing, e))?;
    }
    let meta = part.file().metadata().map_err(|e| DriverError::io(&*doing, e))?;
    facts.allocated_bytes = meta.blocks().saturating_mul(512);
    cancel.check()?;
    part.publish()?;
    Ok(facts)
}

/// Size and time of change: what differs after somebody wrote. (The time of modification could be set back.)
fn stamp(meta: &std::fs::Metadata) -> (u64, i64, i64) {
    (meta.len(), meta.ctime(), meta.ctime_nsec())
}

/// Opens a file by a path of which no component is a symbolic link any more.
fn open_without_links(source: &Path, doing: &str) -> Result<File> {
    // Without NONBLOCK a named pipe would hold us until somebody writes into it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = match rustix::fs::openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Sandboxes that do not know openat2: the last component at least.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::open(source, flags | OFlags::NOFOLLOW, Mode::empty()),
        other => other,
    };
    match opened {
        Ok(fd) => Ok(File::from(fd)),
        Err(Errno::LOOP) => {
            let reason = "the path goes through a symbolic link; give the path that it leads to";
            Err(DriverError::new(Kind::Permanent, doing, reason))
        }
        Err(e) => Err(DriverError::io(doing, e.into())),
    }
}

/// Refuses images that cannot be a disk of their own.
fn accept(facts: &ImageFacts, expected: Option<DiskFormat>, doing: &str) -> Result<()> {
    let found = facts.format.as_str();
    let refuse = |reason: String| Err(DriverError::new(Kind::Permanent, doing, reason));
    if let Some(expected) = expected
        && expected != facts.format
    {
        return refuse(format!("it is called {} but its content is {found}", expected.as_str()));
    }
    if let Some(backing) = &facts.backing {
        let backing: String = backing.chars().filter(|c| !c.is_control()).take(200).collect();
        return refuse(format!(
            "it needs another file ({backing:?}); make it whole first with qemu-img convert -O qcow2"
        ));
    }
    if facts.external_data {
        return refuse("its data lies in another file; make it whole first with qemu-img convert -O qcow2".to_owned());
    }
    if facts.qcow2.as_ref().is_some_and(|q| q.encrypted) {
        return refuse("it is encrypted; decrypt it first with qemu-img convert".to_owned());
    }
    if facts.is_marked_corrupt() {
        return refuse("it is marked corrupt; repair it first with qemu-img check -r all".to_owned());
    }
    if facts.virtual_size_bytes == 0 {
        return refuse("it is empty".to_owned());
    }
    Ok(())
}

/// Copies `length` bytes from one file into another, empty one; holes stay holes.
fn copy(from: &File, to: &File, length: u64, progress: &Progress, cancel: &Cancel, doing: &str) -> Result<()> {
    let failed = |e: io::Error| DriverError::io(doing, e);
    to.set_len(length).map_err(failed)?;
    let mut copier = Copier { from, to, by_kernel: true, buffer: Vec::new() };
    let mut at = 0;
    while at < length {
        let (start, end) = next_data(from, at, length).map_err(failed)?;
        progress.add_done(start - at);
        at = start;
        while at < end {
            cancel.check()?;
            let piece = PIECE_BYTES.min(end - at);
            let count = copier.step(at, piece).map_err(failed)?;
            if count == 0 {
                let reason = "the file became shorter while it was copied; stop whatever writes to it and try again";
                return Err(DriverError::new(Kind::Retry, doing, reason));
            }
            progress.add_done(count);
            at += count;
        }
    }
    Ok(())
}

/// The next range that holds data, within `[at, length)`; empty at `length` if there is none.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<(u64, u64)> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok((length, length)),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok((at, length)),
        Err(e) => return Err(e.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(length);
    // The file may be changing under us; whatever the kernel says, we go forward and stay inside.
    let start = start.clamp(at, length);
    Ok((start, if end > start { end.min(length) } else { length }))
}

struct Copier<'a> {
    from: &'a File,
    to: &'a File,
    /// The kernel can copy between these two files.
    by_kernel: bool,
    buffer: Vec<u8>,
}

impl Copier<'_> {
    /// Copies up to `length` bytes at `offset`; 0 = the source ends here.
    fn step(&mut self, offset: u64, length: u64) -> io::Result<u64> {
        if self.by_kernel {
            let (mut from, mut to) = (offset, offset);
            let length = usize::try_from(length).unwrap_or(BUFFER_BYTES);
            match rustix::fs::copy_file_range(self.from, Some(&mut from), self.to, Some(&mut to), length) {
                // Some file systems answer 0 where they mean that they cannot: the slow way knows for sure.
                Ok(0) | Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.by_kernel = false;
                }
                Err(Errno::INTR) => return self.step(offset, length as u64),
                Ok(count) => return Ok(count as u64),
                Err(e) => return Err(e.into()),
            }
        }
        self.buffer.resize(BUFFER_BYTES, 0);
        let length = usize::try_from(length).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let buffer = &mut self.buffer[..length];
        let count = loop {
            match self.from.read_at(buffer, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.to.write_all_at(&buffer[..count], offset)?;
        Ok(count as u64)
    }
}
