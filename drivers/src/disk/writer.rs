//! Filling a restored disk.

use std::io;
use std::path::Path;

use imago::FormatAccess;

use super::overlay::{check_size, format_qcow2};
use super::part::Part;
use super::sparse::Written;
use crate::direct::Direct;
use crate::{DiskWriter, DriverError, Kind, Result};

/// Bytes of a cluster of the images made here.
const CLUSTER: usize = 64 << 10;

/// Writes a disk as a qcow2 image (version 3, clusters of 64 KiB, no backing file). Clusters that stay zero are not
/// allocated.
///
/// Dropped without [`DiskWriter::finish`] it leaves nothing.
pub struct Qcow2Writer {
    // Before `part`: its drop flushes into the file, which must not happen after the removal.
    image: FormatAccess<imago::file::File>,
    part: Part,
    direct: Direct,
    written: Written,
    unsynced: u64,
    size_bytes: u64,
}

impl Qcow2Writer {
    /// Starts the image `target` of `size_bytes`, a multiple of 512.
    ///
    /// # Errors
    /// When the size is impossible or the file cannot be made.
    pub fn create(target: &Path, size_bytes: u64) -> Result<Self> {
        let part = Part::create(target)?;
        let image = FormatAccess::new(format_qcow2(&part, size_bytes, None)?);
        Ok(Self { image, part, direct: Direct::default(), written: Written::default(), unsynced: 0, size_bytes })
    }

    /// Writes `data`; whole clusters of it to where the image wants them.
    fn put(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let whole = data.len() - data.len() % CLUSTER;
        if whole == 0 || !offset.is_multiple_of(CLUSTER as u64) {
            return self.image.write(data, offset);
        }
        let mut done = 0;
        while done < whole {
            let at = offset + done as u64;
            let (_, place, length) = self.image.ensure_data_mapping(at, (whole - done) as u64, true)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(whole - done);
            if length == 0 {
                return Err(io::Error::other(format!("the image has no place for byte {at}")));
            }
            self.direct.write_all_at(self.part.file(), &data[done..done + length], place)?;
            done += length;
        }
        if whole < data.len() { self.image.write(&data[whole..], offset + whole as u64) } else { Ok(()) }
    }
}

impl DiskWriter for Qcow2Writer {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.part.target(), self.size_bytes, offset, data)?;
        for (offset, part) in self.written.parts(offset, data) {
            self.put(offset, part).map_err(|e| failed(self.part.target(), offset, e))?;
            sync_in_steps(&self.part, &mut self.unsynced, part.len())?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { image, part, .. } = *self;
        image.flush().map_err(|e| DriverError::io(format!("finishing {}", part.target().display()), e))?;
        drop(image);
        part.publish()
    }
}

/// Writes a disk as a sparse raw file. Dropped without [`DiskWriter::finish`] it leaves nothing.
pub struct RawWriter {
    part: Part,
    direct: Direct,
    written: Written,
    unsynced: u64,
    size_bytes: u64,
}

impl RawWriter {
    /// Starts the image `target` of `size_bytes`, a multiple of 512.
    ///
    /// # Errors
    /// When the size is impossible or the file cannot be made.
    pub fn create(target: &Path, size_bytes: u64) -> Result<Self> {
        check_size(target, size_bytes)?;
        let part = Part::create(target)?;
        let sized = part.file().set_len(size_bytes);
        sized.map_err(|e| DriverError::io(format!("creating {}", target.display()), e))?;
        Ok(Self { part, direct: Direct::default(), written: Written::default(), unsynced: 0, size_bytes })
    }
}

impl DiskWriter for RawWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.part.target(), self.size_bytes, offset, data)?;
        for (offset, part) in self.written.parts(offset, data) {
            self.direct
                .write_all_at(self.part.file(), part, offset)
                .map_err(|e| failed(self.part.target(), offset, e))?;
            sync_in_steps(&self.part, &mut self.unsynced, part.len())?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.part.publish()
    }
}

/// Makes a target durable in steps of this many bytes, so that finishing it is short: on a slow share it could not be told
/// from a server that is gone.
const SYNC_STEP_BYTES: u64 = 256 << 20;

/// Counts `bytes` more and makes all durable when they have become many.
fn sync_in_steps(part: &Part, unsynced: &mut u64, bytes: usize) -> Result<()> {
    *unsynced += bytes as u64;
    if *unsynced < SYNC_STEP_BYTES {
        return Ok(());
    }
    *unsynced = 0;
    let synced = part.file().sync_data();
    synced.map_err(|e| DriverError::io(format!("making durable {}", part.target().display()), e))
}

fn check_range(target: &Path, size_bytes: u64, offset: u64, data: &[u8]) -> Result<()> {
    if offset.checked_add(data.len() as u64).is_some_and(|end| end <= size_bytes) {
        return Ok(());
    }
    let reason = format!("{} bytes at {offset} reach past its {size_bytes} bytes", data.len());
    Err(DriverError::new(Kind::Permanent, format!("writing {}", target.display()), reason))
}

fn failed(target: &Path, offset: u64, error: io::Error) -> DriverError {
    DriverError::io(format!("writing {} at {offset}", target.display()), error)
}
