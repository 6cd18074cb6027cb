//! Snapshots of dummy guests: copies of their image files in the domain's folder.
//!
//! The caller holds the domain's lock. A snapshot exists when its document does, which is written last and removed
//! first. An image is put back under its own name in one step.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::domain::{Place, Record, State};
use super::{backup, files, image};
use crate::hypervisor::{DiskFormat, DomainDisk};
use crate::{DriverError, Kind, Result, disk};

/// The document of a snapshot.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// Paths of the images, in the order of their copies.
    images: Vec<PathBuf>,
}

fn missing(snapshot: &str) -> DriverError {
    DriverError::new(Kind::Missing, format!("looking up snapshot {snapshot}"), "there is no such snapshot")
}

fn refused(snapshot: &str, reason: String) -> DriverError {
    DriverError::new(Kind::Permanent, format!("working on snapshot {snapshot}"), reason)
}

/// What can have snapshots of single disks.
fn check_disk(record: Option<&Record>, of: &DomainDisk, snapshot: &str) -> Result<()> {
    if let Some(record) = record.filter(|record| !record.state.is_off()) {
        return Err(refused(snapshot, format!("domain {} runs; stop it first", record.name)));
    }
    if of.format != DiskFormat::Qcow2 {
        return Err(refused(snapshot, format!("{} is not qcow2", of.path.display())));
    }
    Ok(())
}

fn is_there(document: &Path) -> Result<bool> {
    Ok(files::read_document::<Manifest>(document)?.is_some())
}

pub(super) fn create_of_disk(place: &Place, record: Option<&Record>, of: &DomainDisk, snapshot: &str) -> Result<()> {
    check_disk(record, of, snapshot)?;
    let (document, copy) = place.disk_snapshot(of.id, snapshot)?;
    if is_there(&document)? {
        return Ok(());
    }
    image::check_format(&of.path, of.format)?;
    if let Some(folder) = document.parent() {
        files::make_directory(folder)?;
    }
    files::copy(&of.path, &copy)?;
    files::write_document(&document, &Manifest { images: vec![of.path.clone()] })
}

pub(super) fn revert_disk(place: &Place, record: Option<&Record>, of: &DomainDisk, snapshot: &str) -> Result<()> {
    check_disk(record, of, snapshot)?;
    let (document, copy) = place.disk_snapshot(of.id, snapshot)?;
    if !is_there(&document)? {
        return Err(missing(snapshot));
    }
    // As with real bitmaps, which know nothing of the change. First, so that a crash leaves none that is wrong.
    backup::forget_bitmaps(place, std::slice::from_ref(&of.path))?;
    files::copy(&copy, &of.path)
}

pub(super) fn delete_of_disk(place: &Place, record: Option<&Record>, of: &DomainDisk, snapshot: &str) -> Result<()> {
    check_disk(record, of, snapshot)?;
    let (document, copy) = place.disk_snapshot(of.id, snapshot)?;
    disk::remove(&document)?;
    disk::remove(&copy)
}

/// The copy of the image with this number.
fn copy_of(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number}.img"))
}

pub(super) fn create_of_system(place: &Place, record: &Record, snapshot: &str) -> Result<()> {
    let folder = place.system_snapshot(snapshot)?;
    let document = folder.join("manifest.json");
    if is_there(&document)? {
        return Ok(());
    }
    if record.state.is_off() {
        return Err(refused(snapshot, format!("domain {} does not run", record.name)));
    }
    let disks: Vec<_> = record.disks.iter().filter(|disk| !disk.readonly && !disk.cdrom).collect();
    if let Some(raw) = disks.iter().find(|disk| disk.format() != DiskFormat::Qcow2) {
        return Err(refused(snapshot, format!("{} is not qcow2", raw.path.display())));
    }
    // What an attempt before left.
    files::remove_directory(&folder)?;
    files::make_directory(&folder)?;
    for (number, disk) in disks.iter().enumerate() {
        files::copy(&disk.path, &copy_of(&folder, number))?;
    }
    let images = disks.iter().map(|disk| disk.path.clone()).collect();
    files::write_document(&document, &Manifest { images })
}

pub(super) fn revert_system(place: &Place, record: &mut Record, snapshot: &str) -> Result<()> {
    let folder = place.system_snapshot(snapshot)?;
    let manifest: Option<Manifest> = files::read_document(&folder.join("manifest.json"))?;
    let manifest = manifest.ok_or_else(|| missing(snapshot))?;
    backup::forget_bitmaps(place, &manifest.images)?;
    for (number, image) in manifest.images.iter().enumerate() {
        files::copy(&copy_of(&folder, number), image)?;
    }
    if record.state.is_off() {
        return record.start();
    }
    record.state = State::Running;
    Ok(())
}

pub(super) fn delete_of_system(place: &Place, snapshot: &str) -> Result<()> {
    let folder = place.system_snapshot(snapshot)?;
    disk::remove(&folder.join("manifest.json"))?;
    files::remove_directory(&folder)
}
