//! Image files as a dummy guest's disks: their content as a guest would see it, and their size.
//!
//! Backing files are followed. That is safe because no guest ever writes into these images: they are the daemon's own,
//! and it took in none that names another file.
//!
//! Qcow2 images with extended second-level tables or zstd compression cannot be read; `qemu-img convert -O qcow2` makes
//! others of them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use imago::format::PreallocateMode;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, Mapping, PermissiveImplicitOpenGate};

use super::blocks::{BlockTable, MAX_SIZE_BYTES, PIECE_BYTES, write_blocks};
use super::files::next_data;
use crate::hypervisor::DiskFormat;
use crate::{DriverError, Kind, Result, disk};

type Qcow2Image = Qcow2<imago::file::File>;

/// An image open for reading.
enum Image {
    Raw(File, u64),
    Qcow2(FormatAccess<imago::file::File>),
}

impl Image {
    fn open(path: &Path, format: DiskFormat) -> Result<Self> {
        let failed = |error| DriverError::io(format!("opening {}", path.display()), error);
        // Neither the size of a damaged image is to be trusted, nor would a named pipe ever open.
        check_format(path, format)?;
        match format {
            DiskFormat::Raw => {
                let file = File::open(path).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len().next_multiple_of(512);
                Ok(Self::Raw(file, size))
            }
            DiskFormat::Qcow2 => {
                let image = Qcow2Image::builder_path(path).open(PermissiveImplicitOpenGate::default());
                Ok(Self::Qcow2(FormatAccess::new(image.map_err(failed)?)))
            }
        }
    }

    fn size_bytes(&self) -> u64 {
        match self {
            Self::Raw(_, size) => *size,
            Self::Qcow2(image) => image.size(),
        }
    }

    /// The next range from `at` on that may hold other bytes than zeros.
    fn next_data(&self, mut at: u64) -> std::io::Result<Option<(u64, u64)>> {
        match self {
            Self::Raw(file, size) => next_data(file, at, *size),
            Self::Qcow2(image) => {
                while at < image.size() {
                    let (mapping, length) = image.get_mapping(at, image.size() - at)?;
                    if length == 0 {
                        break;
                    }
                    if !matches!(mapping, Mapping::Zero { .. } | Mapping::Eof { .. }) {
                        return Ok(Some((at, at + length)));
                    }
                    at += length;
                }
                Ok(None)
            }
        }
    }

    /// Reads within the disk; a raw file may end within its last sector.
    fn read(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
        match self {
            Self::Qcow2(image) => image.read(buffer, at),
            Self::Raw(file, _) => {
                let there = file.metadata()?.len().saturating_sub(at);
                let length = usize::try_from(there).unwrap_or(buffer.len()).min(buffer.len());
                buffer[length..].fill(0);
                file.read_exact_at(&mut buffer[..length], at)
            }
        }
    }
}

/// Copies what a guest would read from the image into the new sparse file `target`, and gives its digests.
///
/// # Errors
/// [`Kind::Missing`] when the image is not there, [`Kind::Corrupt`] when it is none; failed I/O. `target` may be left.
pub(super) fn copy_content(path: &Path, format: DiskFormat, target: &Path) -> Result<BlockTable> {
    let image = Image::open(path, format)?;
    let size = image.size_bytes();
    let read = |error| DriverError::io(format!("reading {}", path.display()), error);
    let written = |error| DriverError::io(format!("writing {}", target.display()), error);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(target).map_err(written)?;
    file.set_len(size).map_err(written)?;
    let mut table = BlockTable { size_bytes: size, ..BlockTable::default() };
    let mut buffer = Vec::new();
    let mut done = 0;
    while let Some((start, end)) = image.next_data(done).map_err(read)? {
        // Whole pieces, so that each block is seen in one go.
        let mut at = (start - start % PIECE_BYTES).max(done);
        while at < end {
            let length = (size - at).min(PIECE_BYTES);
            buffer.resize(usize::try_from(length).unwrap_or(0), 0);
            image.read(&mut buffer, at).map_err(read)?;
            table.set(at, &buffer);
            write_blocks(&file, at, &buffer).map_err(written)?;
            at += length;
        }
        done = at;
    }
    Ok(table)
}

/// The size that a guest sees, bytes.
///
/// # Errors
/// As [`copy_content`].
pub(super) fn size_bytes(path: &Path, format: DiskFormat) -> Result<u64> {
    Image::open(path, format).map(|image| image.size_bytes())
}

/// Refuses a file that is not there or not of its format.
///
/// # Errors
/// As [`copy_content`].
pub(super) fn check_format(path: &Path, format: DiskFormat) -> Result<()> {
    let doing = || format!("opening {}", path.display());
    if format == DiskFormat::Raw {
        // Whatever a guest wrote into it.
        let facts = std::fs::metadata(path).map_err(|error| DriverError::io(doing(), error))?;
        return if facts.is_file() {
            Ok(())
        } else {
            Err(DriverError::new(Kind::Permanent, doing(), "it is not a regular file"))
        };
    }
    let found = disk::probe(path)?.format;
    if found == format {
        return Ok(());
    }
    let reason = format!("it is {}, not {}", found.as_str(), format.as_str());
    Err(DriverError::new(Kind::Corrupt, doing(), reason))
}

/// Makes the disk longer; what is new reads as zeros.
///
/// # Errors
/// [`Kind::Permanent`] for a smaller size or one that is not whole sectors; as [`copy_content`].
pub(super) fn grow(path: &Path, format: DiskFormat, bytes: u64) -> Result<()> {
    let doing = format!("growing {} to {bytes} bytes", path.display());
    let failed = |error| DriverError::io(&*doing, error);
    let size = size_bytes(path, format)?;
    if bytes < size {
        let reason = format!("it has {size} bytes already; disks can only grow");
        return Err(DriverError::new(Kind::Permanent, doing, reason));
    }
    if !bytes.is_multiple_of(512) || bytes > MAX_SIZE_BYTES {
        return Err(DriverError::new(Kind::Permanent, doing, "a size is whole sectors of 512 bytes, up to 2 PiB"));
    }
    if bytes == size {
        return Ok(());
    }
    match format {
        DiskFormat::Raw => {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            file.set_len(bytes).and_then(|()| file.sync_all()).map_err(failed)
        }
        DiskFormat::Qcow2 => {
            let image = Qcow2Image::builder_path(path).write(true).open(PermissiveImplicitOpenGate::default());
            let image = FormatAccess::new(image.map_err(failed)?);
            image.resize_grow(bytes, PreallocateMode::None).map_err(failed)?;
            image.flush().and_then(|()| image.sync()).map_err(failed)
        }
    }
}
