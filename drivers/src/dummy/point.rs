//! One restore point of the dummy datastore: making, reading and removing it.
//!
//! The caller holds the locks of its series.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::blocks::{self, BLOCK_BYTES, BlockTable, PIECE_BYTES, Run, write_blocks};
use super::files;
use super::gate::Gate;
use super::script::Operation;
use crate::datastore::{Change, PointFacts, SourceDisk, StoreRequest, Stored, StoredDisk};
use crate::{Cancel, DiskWriter, DriverError, Kind, Progress, Result, disk};

const MANIFEST: &str = "manifest.json";
const DOCUMENT: &str = "vm.xml";

/// What a point is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    series: String,
    job: String,
    tags: Vec<String>,
    /// Epoch seconds.
    time: i64,
    parent: Option<String>,
    read_bytes: u64,
    stored_bytes: u64,
    document_sha256: String,
    disks: Vec<ManifestDisk>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestDisk {
    id: u32,
    table: BlockTable,
}

impl Manifest {
    pub(super) fn stored(&self, id: &str) -> Stored {
        let disks = self.disks.iter().map(|disk| StoredDisk { id: disk.id, size_bytes: disk.table.size_bytes });
        Stored {
            point: id.to_owned(),
            read_bytes: self.read_bytes,
            stored_bytes: self.stored_bytes,
            unmarked_bytes: 0,
            disks: disks.collect(),
        }
    }

    pub(super) fn facts(&self, id: &str) -> PointFacts {
        PointFacts {
            stored: self.stored(id),
            parent: self.parent.clone(),
            job: self.job.clone(),
            tags: self.tags.clone(),
            time: self.time,
        }
    }

    fn table(&self, id: u32) -> Option<&BlockTable> {
        self.disks.iter().find(|disk| disk.id == id).map(|disk| &disk.table)
    }
}

/// Where the unchanged blocks of a disk come from.
pub(super) struct Base {
    file: PathBuf,
    table: BlockTable,
}

/// The folder of a point, which need not exist.
pub(super) struct Point {
    folder: PathBuf,
}

pub(super) fn missing(id: &str) -> DriverError {
    DriverError::new(Kind::Missing, format!("opening restore point {id}"), "it is not there")
}

fn digest(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Finds the base of every disk and checks all of them before anything is read.
///
/// # Errors
/// As [`crate::BackupDatastore::store`] says of the parent.
pub(super) fn bases(parent: Option<&Point>, disks: &[SourceDisk]) -> Result<Vec<Option<Base>>> {
    for (number, disk) in disks.iter().enumerate() {
        if disks[..number].iter().any(|other| other.id == disk.id) {
            let reason = format!("disk {} is given twice", disk.id);
            return Err(DriverError::new(Kind::Permanent, "storing a restore point", reason));
        }
    }
    let refused = |reason: String| DriverError::new(Kind::Missing, "looking up the parent of an increment", reason);
    let mut bases = Vec::new();
    let mut manifest = None;
    for disk in disks {
        if disk.change != Change::SinceParent {
            bases.push(None);
            continue;
        }
        let parent = parent.ok_or_else(|| refused("no parent restore point is named".to_owned()))?;
        if manifest.is_none() {
            let found = parent.manifest()?.ok_or_else(|| refused("it is not there".to_owned()))?;
            parent.check_files(&found)?;
            manifest = Some(found);
        }
        let table = manifest.as_ref().and_then(|manifest| manifest.table(disk.id));
        let table = table.ok_or_else(|| refused(format!("it holds no disk {}", disk.id)))?;
        if table.size_bytes != disk.reader.size_bytes() {
            return Err(refused(format!("its disk {} has another size", disk.id)));
        }
        bases.push(Some(Base { file: parent.disk(disk.id), table: table.clone() }));
    }
    Ok(bases)
}

impl Point {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn disk(&self, id: u32) -> PathBuf {
        self.folder.join(format!("disk.{id}"))
    }

    /// Whether the point exists.
    pub(super) fn is_published(&self) -> bool {
        self.folder.join(MANIFEST).exists()
    }

    /// What the point is; none = it does not exist.
    pub(super) fn manifest(&self) -> Result<Option<Manifest>> {
        files::read_document(&self.folder.join(MANIFEST))
    }

    /// What the point `id` is.
    ///
    /// # Errors
    /// [`Kind::Missing`] when it does not exist.
    pub(super) fn existing(&self, id: &str) -> Result<Manifest> {
        self.manifest()?.ok_or_else(|| missing(id))
    }

    /// Whether all files are there and as long as they should be.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when they are not.
    pub(super) fn check_files(&self, manifest: &Manifest) -> Result<()> {
        for disk in &manifest.disks {
            let path = self.disk(disk.id);
            if std::fs::metadata(&path).map_or(None, |facts| Some(facts.len())) != Some(disk.table.size_bytes) {
                let reason = format!("it is not there or not {} bytes long", disk.table.size_bytes);
                return Err(DriverError::new(Kind::Corrupt, format!("checking {}", path.display()), reason));
            }
        }
        Ok(())
    }

    /// The document.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is not what was stored.
    pub(super) fn document(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        let path = self.folder.join(DOCUMENT);
        let doing = || format!("reading {}", path.display());
        let document = std::fs::read(&path).map_err(|error| DriverError::io(doing(), error))?;
        if digest(&document) == manifest.document_sha256 {
            return Ok(document);
        }
        Err(DriverError::new(Kind::Corrupt, doing(), "it does not have its digest"))
    }

    /// Stores the point; its manifest is the last thing written. What it leaves after an error is no point.
    pub(super) fn store(
        &self,
        gate: &Gate,
        request: &StoreRequest<'_>,
        disks: impl Iterator<Item = (SourceDisk, Option<Base>)>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Manifest> {
        // What an attempt before left.
        files::remove_directory(&self.folder)?;
        files::make_directory(&self.folder)?;
        let mut manifest = Manifest {
            series: request.series.to_owned(),
            job: request.job.to_owned(),
            tags: request.tags.to_vec(),
            time: request.time,
            parent: request.parent.map(str::to_owned),
            read_bytes: 0,
            stored_bytes: request.document.len() as u64,
            document_sha256: digest(request.document),
            disks: Vec::new(),
        };
        for (mut disk, base) in disks {
            cancel.check()?;
            let path = self.disk(disk.id);
            let written = gate.around(Operation::StoreDisk, request.series, Some(cancel), || {
                store_disk(&mut disk, base, &path, progress, cancel)
            })?;
            manifest.read_bytes = manifest.read_bytes.saturating_add(written.read_bytes);
            manifest.stored_bytes = manifest.stored_bytes.saturating_add(written.stored_bytes);
            manifest.disks.push(ManifestDisk { id: disk.id, table: written.table });
        }
        manifest.disks.sort_by_key(|disk| disk.id);
        files::publish(&self.folder.join(DOCUMENT), |mut file| file.write_all(request.document))?;
        cancel.check()?;
        gate.around(Operation::Seal, request.series, Some(cancel), || {
            // The point's own name before the manifest, which makes it one.
            self.folder.parent().map_or(Ok(()), files::sync_directory)?;
            files::write_document(&self.folder.join(MANIFEST), &manifest)
        })?;
        Ok(manifest)
    }

    /// Writes a disk into `target`; gives the bytes written.
    pub(super) fn restore(
        &self,
        manifest: &Manifest,
        id: u32,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<u64> {
        let doing = || format!("restoring disk {id} from {}", self.folder.display());
        let table = manifest.table(id);
        let table = table.ok_or_else(|| DriverError::new(Kind::Missing, doing(), "the point holds no such disk"))?;
        self.check_files(manifest)?;
        let file = File::open(self.disk(id)).map_err(|error| DriverError::io(doing(), error))?;
        progress.add_total(table.size_bytes);
        let (mut done, mut written) = (0, 0);
        let mut data = Vec::new();
        for extent in table.extents().iter().filter(|extent| extent.content == crate::Content::Data) {
            let mut at = extent.offset;
            while at < extent.end() {
                cancel.check()?;
                data.resize(usize::try_from(PIECE_BYTES.min(extent.end() - at)).unwrap_or(0), 0);
                file.read_exact_at(&mut data, at).map_err(|error| DriverError::io(doing(), error))?;
                if !table.has(at, &data) {
                    let reason = format!("its bytes at {at} do not have their digests");
                    return Err(DriverError::new(Kind::Corrupt, doing(), reason));
                }
                target.write_at(at, &data)?;
                written += data.len() as u64;
                at += data.len() as u64;
                progress.add_done(at - done);
                done = at;
            }
        }
        cancel.check()?;
        progress.add_done(table.size_bytes - done);
        Ok(written)
    }

    /// Removes the point, or what there is of it; the manifest first, for good. Gives the bytes freed.
    pub(super) fn remove(&self) -> Result<u64> {
        let failed = |error| DriverError::io(format!("measuring {}", self.folder.display()), error);
        let bytes = files::used_bytes(&self.folder).map_err(failed)?;
        disk::remove(&self.folder.join(MANIFEST))?;
        files::remove_directory(&self.folder)?;
        Ok(bytes)
    }
}

/// A disk that was stored.
struct Written {
    table: BlockTable,
    read_bytes: u64,
    stored_bytes: u64,
}

/// Stores one disk as the new file `path`, durable.
fn store_disk(
    disk: &mut SourceDisk,
    base: Option<Base>,
    path: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Written> {
    let failed = |error| DriverError::io(format!("writing {}", path.display()), error);
    let size = disk.reader.size_bytes();
    let runs = blocks::runs(disk.reader.as_mut(), disk.change != Change::SinceParent)?;
    let length = |run: &Run| (run.end * BLOCK_BYTES).min(size) - run.first * BLOCK_BYTES;
    let to_read = runs.iter().filter(|run| !run.zero);
    let wanted: u64 = to_read.clone().map(length).sum();
    progress.add_total(wanted);

    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o660).open(path).map_err(failed)?;
    let fresh = base.is_none();
    let mut table = match base {
        None => {
            file.set_len(size).map_err(failed)?;
            BlockTable { size_bytes: size, ..BlockTable::default() }
        }
        Some(base) => {
            let parent = File::open(&base.file).map_err(failed)?;
            files::copy_content(&parent, &file).map_err(failed)?;
            base.table
        }
    };
    let zeros = vec![0; BLOCK_BYTES as usize];
    for run in runs.iter().filter(|run| run.zero) {
        for number in table.clear(run.first, run.end) {
            let at = number * BLOCK_BYTES;
            let length = usize::try_from(size - at).unwrap_or(zeros.len()).min(zeros.len());
            file.write_all_at(&zeros[..length], at).map_err(failed)?;
        }
    }
    let mut pieces = to_read.flat_map(|run| {
        let (start, end) = (run.first * BLOCK_BYTES, (run.end * BLOCK_BYTES).min(size));
        let starts = std::iter::successors(Some(start), |at| at.checked_add(PIECE_BYTES));
        // At most PIECE_BYTES, which fits.
        starts.take_while(move |at| *at < end).map(move |at| (at, (end - at).min(PIECE_BYTES) as u32))
    });
    let (mut read_bytes, mut stored_bytes) = (0_u64, 0_u64);
    disk.reader.read(&mut pieces, &mut |offset, data| {
        cancel.check()?;
        let bytes = data.len() as u64;
        if !offset.is_multiple_of(BLOCK_BYTES) || offset.checked_add(bytes).is_none_or(|end| end > size) {
            let reason = format!("the reader gave {bytes} bytes at {offset}, which nobody asked for");
            return Err(DriverError::new(Kind::Permanent, format!("storing {}", path.display()), reason));
        }
        stored_bytes = stored_bytes.saturating_add(write_blocks(&file, offset, &data, fresh).map_err(failed)?);
        table.set(offset, &data);
        read_bytes = read_bytes.saturating_add(bytes);
        progress.add_done(bytes);
        Ok(())
    })?;
    if read_bytes != wanted {
        let reason = format!("the reader gave {read_bytes} bytes, {wanted} were asked for");
        return Err(DriverError::new(Kind::Permanent, format!("storing {}", path.display()), reason));
    }
    file.sync_all().map_err(failed)?;
    Ok(Written { table, read_bytes, stored_bytes })
}
