//! Makes and forgets restore points: the splice, the directory tree, the snapshot.

use super::ResticConfig;
use super::chunks::{self, Origin};
use super::directory::{Directory, FileKind};
use super::documents::{
    DOCUMENT_NAME, Node, PART_FILE, POINT_DIRECTORY, SnapshotDocument, Summary, Transfer, Tree, now, timestamp,
};
use super::format::{BlobKind, Cipher, Id};
use super::index::{IdSet, Index};
use super::read::{FileContent, PointReader, StoredForm, disk_name, snapshot};
use super::writer::{Counts, Pipeline, Span, WriteOptions};
use crate::datastore::{Change, SourceDisk, StoreRequest, Stored, StoredDisk};
use crate::{Cancel, DriverError, Kind, Progress, Result};

/// The document is stored in pieces of this length.
const DOCUMENT_PIECE: usize = 1 << 20;

/// What every operation must know of a repository's configuration.
#[derive(serde::Deserialize)]
struct RepositoryConfig {
    version: u32,
}

/// Reads the config file, which proves that `cipher` belongs to the repository.
pub(super) fn read_config(directory: &Directory, cipher: &Cipher) -> Result<()> {
    let doing = || format!("opening the repository {}", directory.root().display());
    let corrupt = |reason: String| DriverError::new(Kind::Corrupt, doing(), format!("reading its config: {reason}"));
    // The id plays no part in the path of the config file.
    let json = cipher.open_document(directory.read(FileKind::Config, &Id([0; 32]))?).map_err(corrupt)?;
    let config: RepositoryConfig = serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))?;
    if config.version == 2 {
        return Ok(());
    }
    let reason = format!("it has format version {}; run `restic migrate upgrade_repo_v2` on it", config.version);
    Err(DriverError::new(Kind::Permanent, doing(), reason))
}

/// Where the unchanged chunks of a disk come from.
enum Base {
    /// Nowhere: the whole disk is listed.
    None,
    /// The parent's file.
    Whole(FileContent),
    /// The parent's parts.
    Parts(Vec<Id>),
}

/// Stores one point; the snapshot is the last thing written.
pub(super) fn store(
    config: &ResticConfig,
    directory: &Directory,
    cipher: &Cipher,
    request: &StoreRequest<'_>,
    disks: Vec<SourceDisk>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Stored> {
    let started = now();
    let index = Index::load(directory, cipher)?;
    let reader = PointReader::new(directory, cipher, &index);
    let (parent, bases) = bases(config, directory, cipher, &reader, request, &disks)?;
    let options = WriteOptions {
        threads: config.threads,
        compression_level: config.compression_level,
        verify_writes: config.verify_writes,
        pack_bytes: config.pack_bytes,
    };
    let ((tree, read_bytes, stored), counts) = Pipeline::run(directory, cipher, &index, options, cancel, |pipeline| {
        let mut writer = DiskStore { config, pipeline, reader: &reader, time: request.time, progress, read_bytes: 0 };
        let mut entries = Tree::default();
        let mut stored = Vec::new();
        for (disk, base) in disks.into_iter().zip(bases) {
            cancel.check()?;
            stored.push(StoredDisk { id: disk.id, size_bytes: disk.reader.size_bytes() });
            entries.nodes.push(writer.disk(disk, base)?);
        }
        entries.nodes.push(writer.document(request.document)?);
        let inner = pipeline.tree(entries)?;
        let root = Tree { nodes: vec![Node::directory(POINT_DIRECTORY, request.time, inner)] };
        Ok((pipeline.tree(root)?, writer.read_bytes, stored))
    })?;
    let transfer = Transfer { read_bytes, stored_bytes: directory.written_bytes() };
    let document = SnapshotDocument {
        time: timestamp(request.time),
        parent,
        tree,
        paths: vec![format!("/{POINT_DIRECTORY}")],
        hostname: "one".to_owned(),
        username: "keeplast".to_owned(),
        tags: Some(tags(request)),
        program_version: Some(concat!("keeplast ", env!("CARGO_PKG_VERSION")).to_owned()),
        summary: Some(summary(started, &stored, request, counts, transfer)),
        keeplast: Some(transfer),
    };
    let json = serde_json::to_vec(&document)
        .map_err(|error| DriverError::other(Kind::Permanent, "encoding a restore point", error))?;
    let sealed = cipher.seal_document(&json)?;
    let id = Id::of(&sealed);
    directory.write(FileKind::Snapshot, &id, &[sealed])?;
    let mut disks = stored;
    disks.sort_by_key(|disk| disk.id);
    Ok(Stored { point: id.hex(), read_bytes, stored_bytes: directory.written_bytes(), unmarked_bytes: 0, disks })
}

/// Removes the snapshots of `points`. Fails when the folder then lists fewer of the others than before: pruning after
/// that would take their data for garbage.
pub(super) fn forget(directory: &Directory, points: &[String]) -> Result<()> {
    let before = directory.ids(FileKind::Snapshot)?;
    let unwanted: IdSet = points.iter().filter_map(|point| Id::parse(point)).collect();
    for id in before.iter().filter(|id| unwanted.contains(*id)) {
        directory.remove(FileKind::Snapshot, id)?;
    }
    let after: IdSet = directory.ids(FileKind::Snapshot)?.into_iter().collect();
    match before.iter().find(|id| !unwanted.contains(*id) && !after.contains(*id)) {
        None => Ok(()),
        Some(id) => Err(DriverError::new(
            Kind::Retry,
            format!("forgetting restore points in {}", directory.root().display()),
            format!("restore point {id} vanished meanwhile; nothing was pruned"),
        )),
    }
}

fn tags(request: &StoreRequest<'_>) -> Vec<String> {
    let mut tags = request.tags.to_vec();
    if !tags.iter().any(|tag| tag == request.job) {
        tags.push(request.job.to_owned());
    }
    tags
}

fn summary(
    started: String,
    disks: &[StoredDisk],
    request: &StoreRequest<'_>,
    counts: Counts,
    transfer: Transfer,
) -> Summary {
    let files = disks.len() as u64 + 1;
    let changed = if request.parent.is_some() { files } else { 0 };
    Summary {
        backup_start: started,
        backup_end: now(),
        files_new: files - changed,
        files_changed: changed,
        dirs_new: u64::from(changed == 0),
        dirs_changed: u64::from(changed != 0),
        data_blobs: counts.data_blobs,
        tree_blobs: counts.tree_blobs,
        data_added: counts.plain_bytes,
        data_added_packed: transfer.stored_bytes,
        total_files_processed: files,
        total_bytes_processed: disks.iter().map(|disk| disk.size_bytes).sum::<u64>() + request.document.len() as u64,
        ..Summary::default()
    }
}

/// Finds the base of every disk and checks all of them before anything is read.
fn bases(
    config: &ResticConfig,
    directory: &Directory,
    cipher: &Cipher,
    reader: &PointReader<'_>,
    request: &StoreRequest<'_>,
    disks: &[SourceDisk],
) -> Result<(Option<Id>, Vec<Base>)> {
    let mut seen = Vec::new();
    for disk in disks {
        if seen.contains(&disk.id) {
            let reason = format!("disk {} is given twice", disk.id);
            return Err(DriverError::new(Kind::Permanent, "storing a restore point", reason));
        }
        seen.push(disk.id);
    }
    if disks.iter().all(|disk| disk.change != Change::SinceParent) {
        // A parent that is only mentioned need not exist.
        let parent = request.parent.and_then(Id::parse);
        return Ok((parent, disks.iter().map(|_| Base::None).collect()));
    }
    let refused = |reason: String| DriverError::new(Kind::Missing, "looking up the parent of an increment", reason);
    let id =
        request.parent.and_then(Id::parse).ok_or_else(|| refused("no parent restore point is named".to_owned()))?;
    let parent = snapshot(directory, cipher, &id)?;
    let tree = reader.directory_of(&parent)?;
    let mut bases = Vec::new();
    for disk in disks {
        if disk.change != Change::SinceParent {
            bases.push(Base::None);
            continue;
        }
        let size = disk.reader.size_bytes();
        let form = reader
            .disk(&tree, disk.id)?
            .ok_or_else(|| refused(format!("restore point {id} holds no disk {}", disk.id)))?;
        bases.push(base(config, reader, form, size).map_err(|mut error| {
            error.reason = format!("disk {} of restore point {id}: {}", disk.id, error.reason);
            error
        })?);
    }
    Ok((Some(id), bases))
}

fn base(config: &ResticConfig, reader: &PointReader<'_>, form: StoredForm, size: u64) -> Result<Base> {
    let refused = |reason: &str| DriverError::new(Kind::Missing, "looking up the parent of an increment", reason);
    match form {
        StoredForm::Whole(file) if size <= config.part_bytes => {
            check_base(config, reader, &file, size)?;
            Ok(Base::Whole(file))
        }
        StoredForm::Parts(parts) if size > config.part_bytes => {
            if parts.len() as u64 != size.div_ceil(config.part_bytes) {
                return Err(refused("it has another size"));
            }
            for (number, part) in parts.iter().enumerate() {
                let left = size - number as u64 * config.part_bytes;
                check_base(config, reader, &reader.part(part)?, left.min(config.part_bytes))?;
            }
            Ok(Base::Parts(parts))
        }
        _ => Err(refused("it has another size or another length of parts")),
    }
}

/// Whether every chunk of `file` is in the repository and has the length that a disk of `size` bytes wants there.
fn check_base(config: &ResticConfig, reader: &PointReader<'_>, file: &FileContent, size: u64) -> Result<()> {
    let refused = |reason: &str| DriverError::new(Kind::Missing, "looking up the parent of an increment", reason);
    if file.size != size {
        return Err(refused("it has another size"));
    }
    if file.ids.len() as u64 != chunks::count(size, config.chunk_bytes) {
        return Err(refused("it has another chunk length"));
    }
    for (number, id) in file.ids.iter().enumerate() {
        let length = reader.locate(BlobKind::Data, id)?.plain_length();
        if length != chunks::length(size, config.chunk_bytes, number as u64) {
            return Err(refused("it has another chunk length"));
        }
    }
    Ok(())
}

/// Turns disks into directory entries.
struct DiskStore<'a> {
    config: &'a ResticConfig,
    pipeline: &'a Pipeline<'a>,
    reader: &'a PointReader<'a>,
    time: i64,
    progress: &'a Progress,
    read_bytes: u64,
}

impl DiskStore<'_> {
    fn disk(&mut self, mut disk: SourceDisk, base: Base) -> Result<Node> {
        let size = disk.reader.size_bytes();
        let chunk = self.config.chunk_bytes;
        let extents = disk.reader.extents()?;
        let origins = chunks::origins(size, chunk, &extents, disk.change)?;
        let to_read = origins.iter().enumerate().filter(|(_, origin)| **origin == Origin::Read);
        self.progress.add_total(to_read.map(|(number, _)| u64::from(chunks::length(size, chunk, number as u64))).sum());
        let name = disk_name(disk.id);
        if size <= self.config.part_bytes {
            let parent = match base {
                Base::Whole(file) => file.ids,
                _ => Vec::new(),
            };
            let ids = self.file(&mut disk, Span { base: 0, end: size, chunk }, &origins, &parent)?;
            return Ok(Node::file(name, self.time, size, ids));
        }
        let parent = match base {
            Base::Parts(parts) => parts,
            _ => Vec::new(),
        };
        let mut parts = Tree::default();
        // Whole chunks, at least one: ResticDatastore::new rounds it.
        let per_part = (self.config.part_bytes / u64::from(chunk)) as usize;
        for (number, origins) in origins.chunks(per_part).enumerate() {
            let first = number as u64 * self.config.part_bytes;
            let span = Span { base: first, end: (first + self.config.part_bytes).min(size), chunk };
            let subtree = self.part(&mut disk, span, origins, parent.get(number))?;
            parts.nodes.push(Node::directory(format!("{number:05}"), self.time, subtree));
        }
        Ok(Node::directory(name, self.time, self.pipeline.tree(parts)?))
    }

    /// The tree of one part; an untouched one keeps the parent's.
    fn part(&mut self, disk: &mut SourceDisk, span: Span, origins: &[Origin], parent: Option<&Id>) -> Result<Id> {
        let untouched = origins.iter().all(|origin| *origin == Origin::Parent);
        let ids = match parent {
            Some(tree) if untouched => return Ok(*tree),
            Some(tree) => self.reader.part(tree)?.ids,
            None => Vec::new(),
        };
        let ids = self.file(disk, span, origins, &ids)?;
        let file = Node::file(PART_FILE, self.time, span.end - span.base, ids);
        self.pipeline.tree(Tree { nodes: vec![file] })
    }

    fn file(&mut self, disk: &mut SourceDisk, span: Span, origins: &[Origin], parent: &[Id]) -> Result<Vec<Id>> {
        let (ids, read_bytes) = self.pipeline.file(disk.reader.as_mut(), span, origins, parent, self.progress)?;
        self.read_bytes += read_bytes;
        Ok(ids)
    }

    fn document(&self, document: &[u8]) -> Result<Node> {
        let ids = document.chunks(DOCUMENT_PIECE).map(|piece| self.pipeline.blob(piece)).collect::<Result<_>>()?;
        Ok(Node::file(DOCUMENT_NAME, self.time, document.len() as u64, ids))
    }
}
