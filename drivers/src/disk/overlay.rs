//! New images: blank ones and overlays.

use std::path::Path;

use imago::qcow2::{Qcow2, Qcow2CreateBuilder};
use imago::{DenyImplicitOpenGate, FormatCreateBuilder, FormatDriverBuilder, StorageOpenOptions};

use super::SECTOR_BYTES;
use super::part::Part;
use crate::hypervisor::DiskFormat;
use crate::{DriverError, Kind, Result};

/// What QEMU can open with clusters of 64 KiB: 2^22 first-level entries of 512 MiB each.
const MAX_SIZE_BYTES: u64 = 1 << 51;
/// Longest name of a backing file (`docs/interop/qcow2.txt`).
const MAX_BACKING_BYTES: usize = 1023;

type Qcow2Image = Qcow2<imago::file::File>;

/// Makes the qcow2 image `target` (version 3) that reads from `backing` until it is written to. `size_bytes` is a multiple
/// of 512 and need not be the backing image's size.
///
/// `backing` is written into the header as given: an absolute path, or one relative to the directory of `target`. It is
/// neither opened nor looked for. Its format is always named, so that no guest can turn its raw disk into a chain by writing
/// a header onto it.
///
/// # Errors
/// [`Kind::Permanent`] for sizes and paths that QEMU could not open; failed I/O.
pub fn create_overlay(target: &Path, backing: &Path, backing_format: DiskFormat, size_bytes: u64) -> Result<()> {
    let refuse = |reason: &str| {
        let doing = format!("creating {} over {}", target.display(), backing.display());
        Err(DriverError::new(Kind::Permanent, doing, reason))
    };
    let Some(name) = backing.to_str().filter(|name| !name.is_empty()) else {
        return refuse("the backing file's path is empty or not UTF-8");
    };
    if name.len() > MAX_BACKING_BYTES {
        return refuse("the backing file's path is longer than qcow2 allows (1023 bytes)");
    }
    // QEMU takes what stands before a colon for a protocol, unless a slash comes first.
    if backing.is_relative() && name.split('/').next().is_some_and(|first| first.contains(':')) {
        return refuse("QEMU would take the backing file's path for a protocol; put ./ before it");
    }
    let part = Part::create(target)?;
    // Dropping it closes it; what it holds was flushed.
    drop(format_qcow2(&part, size_bytes, Some((name, backing_format)))?);
    part.publish()
}

/// Makes the empty image `target` of `size_bytes`, a multiple of 512; raw ones are sparse.
///
/// # Errors
/// [`Kind::Permanent`] for impossible sizes; failed I/O.
pub fn create_blank(target: &Path, format: DiskFormat, size_bytes: u64) -> Result<()> {
    check_size(target, size_bytes)?;
    let part = Part::create(target)?;
    match format {
        DiskFormat::Qcow2 => drop(format_qcow2(&part, size_bytes, None)?),
        DiskFormat::Raw => {
            let sized = part.file().set_len(size_bytes);
            sized.map_err(|e| DriverError::io(format!("creating {}", target.display()), e))?;
        }
    }
    part.publish()
}

/// Sizes that both QEMU and we can handle.
pub(super) fn check_size(target: &Path, size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || size_bytes > MAX_SIZE_BYTES || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        let reason = format!("a disk of {size_bytes} bytes is not possible (whole sectors of 512 bytes, up to 2 PiB)");
        return Err(DriverError::new(Kind::Permanent, format!("creating {}", target.display()), reason));
    }
    Ok(())
}

/// Writes the metadata of an empty image into the part's file and opens it for writing.
pub(super) fn format_qcow2(part: &Part, size_bytes: u64, backing: Option<(&str, DiskFormat)>) -> Result<Qcow2Image> {
    check_size(part.target(), size_bytes)?;
    let doing = || format!("creating {}", part.target().display());
    let file = part.file().try_clone().map_err(|e| DriverError::io(doing(), e))?;
    let options = StorageOpenOptions::new().write(true).filename(part.path());
    let image = imago::file::File::from_open_file(file, options).map_err(|e| DriverError::io(doing(), e))?;
    let mut builder = Qcow2CreateBuilder::<imago::file::File>::new(image).size(size_bytes);
    if let Some((name, format)) = backing {
        builder = builder.backing(name.to_owned(), format.as_str().to_owned());
    }
    // The gate and the explicit "no backing" both see to it that the backing file is not opened.
    let created = builder
        .create_open(DenyImplicitOpenGate::default(), |image| Ok(Qcow2Image::builder(image).backing(None).write(true)))
        .and_then(|image| {
            imago::format::drivers::FormatDriverInstance::flush(&image)?;
            Ok(image)
        });
    created.map_err(|e| DriverError::io(doing(), e))
}
