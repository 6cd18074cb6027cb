//! Points in time of dummy guests: a copy of each disk, digests for the next time.
//!
//! A checkpoint is a document with the digests of the disks at its instant. Comparing them with those of now gives exactly
//! the blocks that changed, whoever changed them. The copy is the file that a running domain's disk would have as scratch;
//! it is what a killed process leaves, and [`abandon`] removes it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::blocks::{BlockTable, read_ranges};
use super::domain::{Held, Place, Record};
use super::gate::Gate;
use super::script::Operation;
use super::{files, image};
use crate::hypervisor::{BackupDisk, BackupSpec, DiskFormat, Freeze};
use crate::{BackupSession, DiskReader, DriverError, Extent, Kind, Result, disk};

/// The document of a checkpoint.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    /// Paths of the images.
    images: Vec<PathBuf>,
    /// Their content, in the same order.
    tables: Vec<BlockTable>,
}

impl Checkpoint {
    fn read(place: &Place, name: &str) -> Result<Option<Self>> {
        files::read_document(&place.checkpoint(name)?)
    }

    fn table(self, image: &Path) -> Option<BlockTable> {
        let found = self.images.iter().position(|path| path == image)?;
        self.tables.into_iter().nth(found)
    }
}

/// Names of the checkpoints whose images are still there.
pub(super) fn checkpoints(place: &Place) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in files::list(&place.checkpoints())? {
        let Some(name) = file.strip_suffix(".json").and_then(files::name_of) else { continue };
        let found = Checkpoint::read(place, &name)?;
        if found.is_some_and(|found| found.images.iter().any(|image| image.exists())) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Loses the checkpoints of these names, `*` = all.
pub(super) fn lose_bitmaps(place: &Place, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    for name in checkpoints(place)? {
        if names.iter().any(|lost| lost == "*" || *lost == name) {
            disk::remove(&place.checkpoint(&name)?)?;
        }
    }
    Ok(())
}

/// Loses what checkpoints know of these images.
pub(super) fn forget_bitmaps(place: &Place, images: &[PathBuf]) -> Result<()> {
    for name in checkpoints(place)? {
        let Some(found) = Checkpoint::read(place, &name)? else { continue };
        let (images, tables): (Vec<_>, Vec<_>) =
            found.images.into_iter().zip(found.tables).filter(|(image, _)| !images.contains(image)).unzip();
        let path = place.checkpoint(&name)?;
        if images.is_empty() {
            disk::remove(&path)?;
        } else {
            files::write_document(&path, &Checkpoint { images, tables })?;
        }
    }
    Ok(())
}

/// Begins a backup. The caller holds the domain's lock.
///
/// # Errors
/// As [`crate::Hypervisor::begin_backup`] says.
pub(super) fn begin(gate: &Arc<Gate>, place: Place, spec: &BackupSpec) -> Result<Session> {
    check(spec)?;
    let mut since = Vec::new();
    for disk in &spec.disks {
        since.push(base(&place, disk)?.map(Arc::new));
    }
    let record = place.record()?.filter(|record| !record.state.is_off());
    let mut warnings = Vec::new();
    // Its drop lets the guest go.
    let quiet = Quiet { place: place.clone(), spec };
    if spec.freeze != Freeze::None
        && record.is_some()
        && let Err(error) = gate.around(Operation::Freeze, &spec.domain, None, || hold(&place, Held::by(spec.freeze)))
    {
        warnings.push(spec.not_quiet(&error.reason)?);
    }
    let life = Life {
        gate: Arc::clone(gate),
        place,
        domain: spec.domain.clone(),
        starts: record.map(|record| record.starts),
        ended: AtomicBool::new(false),
    };
    // From here on its drop removes what was made.
    let mut session = Session { life: Arc::new(life), disks: Vec::new(), warnings };
    for (disk, since) in spec.disks.iter().zip(since) {
        session.disks.push(Copied { id: disk.id, path: disk.scratch.clone(), now: Arc::default(), since });
        let table = image::copy_content(&disk.path, disk.format, &disk.scratch)?;
        if let Some(copied) = session.disks.last_mut() {
            copied.now = Arc::new(table);
        }
    }
    if let Err(error) = session.write_checkpoint(spec) {
        session.discard(spec);
        return Err(error);
    }
    if spec.freeze != Freeze::None
        && let Err(error) = gate.around(Operation::Thaw, &spec.domain, None, || Ok(()))
    {
        tracing::debug!(%error, "thawed at the second attempt");
    }
    drop(quiet);
    Ok(session)
}

/// Says in the domain's record how its guest is held; none = it is let go. The caller holds the domain's lock.
fn hold(place: &Place, held: Option<Held>) -> Result<()> {
    match place.record()? {
        Some(record) if record.held != held => place.write(Some(&Record { held, ..record })),
        _ => Ok(()),
    }
}

/// A guest that is held while the point in time is made.
struct Quiet<'a> {
    place: Place,
    spec: &'a BackupSpec,
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if self.spec.freeze != Freeze::None
            && let Err(error) = hold(&self.place, None)
        {
            tracing::error!(domain = self.spec.domain, %error, "a guest is left held");
        }
    }
}

/// Refuses a scratch file that would take the place of an image, or of another one.
fn check(spec: &BackupSpec) -> Result<()> {
    for (number, disk) in spec.disks.iter().enumerate() {
        let taken = spec.disks.iter().any(|other| other.path == disk.scratch)
            || spec.disks[..number].iter().any(|other| other.scratch == disk.scratch || other.id == disk.id);
        if taken {
            let doing = format!("beginning a backup of domain {}", spec.domain);
            let reason = format!("disk {} or its scratch file {} is named twice", disk.id, disk.scratch.display());
            return Err(DriverError::new(Kind::Permanent, doing, reason));
        }
    }
    Ok(())
}

/// What the disk was at the checkpoint that it shall be compared with.
fn base(place: &Place, disk: &BackupDisk) -> Result<Option<BlockTable>> {
    let Some(since) = &disk.since else { return Ok(None) };
    let missing = |reason: &str| {
        let doing = format!("reading what changed on {} since {since}", disk.target);
        DriverError::new(Kind::Missing, doing, reason)
    };
    if disk.format != DiskFormat::Qcow2 {
        return Err(missing("only qcow2 images keep dirty bitmaps"));
    }
    let table = Checkpoint::read(place, since)?.and_then(|found| found.table(&disk.path));
    table.map(Some).ok_or_else(|| missing("the image has no such bitmap"))
}

/// Removes what a dead process left of a backup, and lets the guest go. The caller holds the domain's lock.
pub(super) fn abandon(place: &Place, spec: &BackupSpec) -> Result<()> {
    check(spec)?;
    hold(place, None)?;
    spec.disks.iter().try_for_each(|disk| disk::remove(&disk.scratch))
}

/// What session and readers share.
struct Life {
    gate: Arc<Gate>,
    place: Place,
    domain: String,
    /// The run of the domain that is read; none = it was off.
    starts: Option<u64>,
    ended: AtomicBool,
}

impl Life {
    /// Whether the point in time is there: a running domain's goes with its process.
    fn is_there(&self) -> bool {
        if self.ended.load(Ordering::Acquire) {
            return false;
        }
        let Some(starts) = self.starts else { return true };
        let record = self.place.record().ok().flatten();
        record.is_some_and(|record| !record.state.is_off() && record.starts == starts)
    }

    fn check(&self) -> Result<()> {
        if self.is_there() {
            return Ok(());
        }
        let doing = format!("reading the disks of domain {}", self.domain);
        Err(DriverError::new(Kind::Retry, doing, "the backup's point in time is gone: it ended, or the domain did"))
    }
}

/// One disk of a session.
struct Copied {
    id: u32,
    path: PathBuf,
    now: Arc<BlockTable>,
    since: Option<Arc<BlockTable>>,
}

/// An open point in time.
pub(super) struct Session {
    life: Arc<Life>,
    disks: Vec<Copied>,
    warnings: Vec<String>,
}

impl Session {
    /// For a session that nobody waits for any more: as if it had never begun.
    pub(super) fn discard(self, spec: &BackupSpec) {
        let Some(name) = &spec.checkpoint else { return };
        let removed = self.life.place.checkpoint(name).and_then(|path| disk::remove(&path));
        if let Err(error) = removed {
            tracing::warn!(%error, "a backup that failed to begin left a checkpoint behind");
        }
    }

    /// Remembers what the tracked disks are now.
    fn write_checkpoint(&self, spec: &BackupSpec) -> Result<()> {
        let Some(name) = &spec.checkpoint else { return Ok(()) };
        let mut checkpoint = Checkpoint::default();
        for (disk, copied) in spec.disks.iter().zip(&self.disks) {
            if disk.track && disk.format == DiskFormat::Qcow2 {
                checkpoint.images.push(disk.path.clone());
                checkpoint.tables.push(BlockTable::clone(&copied.now));
            }
        }
        let place = &self.life.place;
        let path = place.checkpoint(name)?;
        if checkpoint.images.is_empty() {
            return disk::remove(&path);
        }
        files::make_directory(&place.checkpoints())?;
        files::write_document(&path, &checkpoint)
    }

    fn open(&self, id: u32, whole: bool) -> Result<Box<dyn DiskReader>> {
        let domain = &self.life.domain;
        self.life.gate.around(Operation::OpenDisk, domain, None, || {
            self.life.check()?;
            let doing = || format!("reading disk {id} of domain {domain}");
            let disk = self.disks.iter().find(|disk| disk.id == id);
            let disk = disk.ok_or_else(|| DriverError::new(Kind::Missing, doing(), "it is not part of this backup"))?;
            let reader: Box<dyn DiskReader> = Box::new(Reader {
                life: Arc::clone(&self.life),
                id,
                file: File::open(&disk.path).map_err(|error| DriverError::io(doing(), error))?,
                path: disk.path.clone(),
                now: Arc::clone(&disk.now),
                since: disk.since.clone().filter(|_| !whole),
            });
            Ok(reader)
        })
    }

    fn remove(&mut self) -> Result<()> {
        self.life.ended.store(true, Ordering::Release);
        while let Some(copied) = self.disks.pop() {
            disk::remove(&copied.path)?;
        }
        Ok(())
    }
}

impl BackupSession for Session {
    fn disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>> {
        self.open(id, false)
    }

    fn whole_disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>> {
        self.open(id, true)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn is_alive(&self) -> bool {
        self.life.is_there()
    }

    fn end(mut self: Box<Self>) -> Result<()> {
        let life = Arc::clone(&self.life);
        life.gate.around(Operation::EndBackup, &life.domain, None, || self.remove())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a backup that was not ended left a copy of a disk behind");
        }
    }
}

/// Reads the copy of one disk.
struct Reader {
    life: Arc<Life>,
    id: u32,
    file: File,
    path: PathBuf,
    now: Arc<BlockTable>,
    since: Option<Arc<BlockTable>>,
}

impl Reader {
    /// Fails once the point in time is gone, also by being abandoned: a call that is held ends with it, as QEMU's does.
    fn goes_on(&self) -> Result<()> {
        self.life.check()?;
        if self.path.exists() {
            return Ok(());
        }
        let doing = format!("reading the disks of domain {}", self.life.domain);
        Err(DriverError::new(Kind::Retry, doing, "the backup's point in time is gone: it was abandoned"))
    }
}

impl DiskReader for Reader {
    fn size_bytes(&self) -> u64 {
        self.now.size_bytes
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        self.life.gate.around_while(Operation::Extents, &self.life.domain, &|| self.goes_on(), || {
            self.life.check()?;
            let Some(since) = &self.since else { return Ok(self.now.extents()) };
            let changed = self.now.changed_since(since);
            let script = self.life.gate.script()?;
            Ok(script.unmarked.iter().fold(changed, |changed, range| range.cut(self.id, changed)))
        })
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.life.gate.around_while(Operation::ReadDisk, &self.life.domain, &|| self.goes_on(), || {
            let mut alive = |offset, data| {
                self.life.check()?;
                sink(offset, data)
            };
            read_ranges(&self.file, &self.path, self.now.size_bytes, ranges, &mut alive)
        })
    }
}
