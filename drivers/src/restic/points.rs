//! Makes and forgets restore points: the splice, the directory tree, the snapshot.

use std::collections::HashMap;

use super::ResticConfig;
use super::chunks;
use super::chunks::Origin;
use super::directory::FileKind;
use super::documents::{
    DOCUMENT_NAME, Extension, Node, PART_FILE, POINT_DIRECTORY, SnapshotDocument, Summary, Tree, now, tags, timestamp,
};
use super::format::{BlobKind, Id};
use super::index::{IdSet, Index};
use super::lease::{Lease, ResticLock};
use super::marked::Marked;
use super::opened::{IndexOnDemand, Opened};
use super::read::{FileContent, PointReader, StoredForm, disk_name};
use super::writer::{Counts, Pipeline, Span, WriteOptions};
use crate::datastore::{Change, SourceDisk, StoreRequest, Stored, StoredDisk};
use crate::{Cancel, DriverError, Kind, Progress, Result};

/// The document is stored in pieces of this length.
const DOCUMENT_PIECE: usize = 1 << 20;

/// How the disks of one repository are cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Length of chunks, bytes.
    chunk: u32,
    /// Length of parts, bytes: whole chunks, at least one.
    part: u64,
}

impl Cut {
    fn new(config: &ResticConfig, chunk: u32) -> Self {
        let width = u64::from(chunk);
        Self { chunk, part: (config.part_bytes - config.part_bytes % width).max(width) }
    }
}

/// Where the unchanged chunks of a disk come from, or what its chunks are compared with.
enum Base {
    /// Nowhere: the whole disk is stored for itself.
    None,
    /// The parent's file.
    Whole(FileContent),
    /// The parent's parts.
    Parts(Vec<Id>),
}

/// What a store works with.
pub(super) struct Store<'a> {
    pub(super) config: &'a ResticConfig,
    pub(super) opened: &'a Opened,
    pub(super) lock: &'a ResticLock,
    /// Takes the lease under which points are published.
    pub(super) publishing: &'a dyn Fn() -> Result<Lease>,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

/// What the pipeline stored of the disks.
struct Written {
    tree: Id,
    read_bytes: u64,
    unmarked_bytes: u64,
    disks: Vec<StoredDisk>,
}

impl Store<'_> {
    /// Stores one point; the snapshot is the last thing written.
    pub(super) fn store(&self, request: &StoreRequest<'_>, disks: Vec<SourceDisk>) -> Result<Stored> {
        let started = now();
        let Opened { directory, cipher, .. } = self.opened;
        let index = self.opened.index()?;
        let reader = PointReader::new(directory, cipher, &index);
        let cut = Cut::new(self.config, self.opened.chunk_bytes);
        let (parent, bases) = bases(cut, self.opened, &reader, request, &disks)?;
        let (written, counts) = self.write(&index, cut, request, disks.into_iter().zip(bases).collect())?;
        let own = Extension {
            read_bytes: written.read_bytes,
            stored_bytes: directory.written_bytes(),
            saved_bytes: Some(counts.saved_bytes),
            unmarked_bytes: written.unmarked_bytes,
            disks: Some(sorted(&written.disks)),
            job: Some(request.job.to_owned()),
            series: self.opened.shared_series.clone(),
        };
        let document = SnapshotDocument {
            time: timestamp(request.time),
            parent,
            tree: written.tree,
            paths: vec![format!("/{POINT_DIRECTORY}")],
            hostname: "one".to_owned(),
            username: "keeplast".to_owned(),
            tags: Some(tags(request.tags, self.opened.shared_series.as_deref(), request.job)),
            program_version: Some(concat!("keeplast ", env!("CARGO_PKG_VERSION")).to_owned()),
            summary: Some(summary(started, &written.disks, request, &counts, own.stored_bytes)),
            keeplast: Some(own),
        };
        // Only now, for a moment: who stores the same beside us must not publish it twice.
        let _publishing = (self.publishing)()?;
        if let Some(published) = published(self.opened, request.job)? {
            return Ok(published);
        }
        let id = self.publish(&document, &index, &counts)?;
        Ok(Stored {
            point: id.hex(),
            read_bytes: written.read_bytes,
            stored_bytes: directory.written_bytes(),
            saved_bytes: Some(counts.saved_bytes),
            unmarked_bytes: written.unmarked_bytes,
            disks: sorted(&written.disks),
        })
    }

    fn write(
        &self,
        index: &Index,
        cut: Cut,
        request: &StoreRequest<'_>,
        disks: Vec<(SourceDisk, Base)>,
    ) -> Result<(Written, Counts)> {
        let Opened { directory, cipher, .. } = self.opened;
        let reader = PointReader::new(directory, cipher, index);
        let options = WriteOptions {
            threads: self.config.threads,
            compression_level: self.config.compression_level,
            verify_writes: self.config.verify_writes,
            pack_bytes: self.config.pack_bytes,
        };
        Pipeline::run(directory, cipher, index, options, self.cancel, |pipeline| {
            let mut writer = DiskStore {
                cut,
                pipeline,
                reader: &reader,
                time: request.time,
                whole_progress: self.progress,
                progress: self.progress.clone(),
                read_bytes: 0,
                unmarked_bytes: 0,
                blank_parts: HashMap::new(),
            };
            let mut entries = Tree::default();
            let mut stored = Vec::new();
            for (disk, base) in disks {
                self.cancel.check()?;
                stored.push(StoredDisk { id: disk.id, size_bytes: disk.reader.size_bytes() });
                entries.nodes.push(writer.disk(disk, &base)?);
            }
            entries.nodes.push(writer.document(request.document)?);
            let inner = pipeline.tree(entries)?;
            let root = Tree { nodes: vec![Node::directory(POINT_DIRECTORY, request.time, inner)] };
            Ok(Written {
                tree: pipeline.tree(root)?,
                read_bytes: writer.read_bytes,
                unmarked_bytes: writer.unmarked_bytes,
                disks: stored,
            })
        })
    }

    /// Writes the snapshot, and takes it back when something that it needs was removed by another program.
    fn publish(&self, document: &SnapshotDocument, index: &Index, counts: &Counts) -> Result<Id> {
        let Opened { directory, cipher, .. } = self.opened;
        let json = serde_json::to_vec(document)
            .map_err(|error| DriverError::other(Kind::Permanent, "encoding a restore point", error))?;
        let sealed = cipher.seal_document(&json)?;
        let id = Id::of(&sealed);
        directory.write(FileKind::Snapshot, &id, &[sealed])?;
        self.check_undisturbed(index, counts).inspect_err(|_| {
            if let Err(error) = directory.remove(FileKind::Snapshot, &id) {
                tracing::error!(point = %id, %error, "a restore point that cannot be trusted stays behind; remove it");
            }
        })?;
        Ok(id)
    }

    /// Whether all that the new point needs is still there. Our own operations cannot have removed it (leases), and stock
    /// restic keeps away from our lock; but that can be forced, and rustic looks at no lock.
    fn check_undisturbed(&self, index: &Index, counts: &Counts) -> Result<()> {
        let directory = &self.opened.directory;
        let disturbed = |what: String| {
            let reason = format!(
                "{what}, removed by another program while this backup ran (restic or rustic, prune or unlock); the new restore point was taken back; keep other programs from pruning, and run `restic check`"
            );
            DriverError::new(
                Kind::Corrupt,
                format!("publishing in the repository {}", directory.root().display()),
                reason,
            )
        };
        let packs: IdSet = directory.ids(FileKind::Pack)?.into_iter().collect();
        if let Some(lost) = index.relied_on().chain(&counts.packs).find(|pack| !packs.contains(*pack)) {
            return Err(disturbed(format!("pack {lost} is gone")));
        }
        let files: IdSet = directory.ids(FileKind::Index)?.into_iter().collect();
        if let Some(lost) = index.files().chain(&counts.indexes).find(|file| !files.contains(*file)) {
            return Err(disturbed(format!("index file {lost} is gone")));
        }
        // Last: with the lock there all the time no prune of stock restic can be half-way now.
        if self.lock.was_kept()? { Ok(()) } else { Err(disturbed("this backup's lock file is gone".to_owned())) }
    }
}

fn sorted(disks: &[StoredDisk]) -> Vec<StoredDisk> {
    let mut disks = disks.to_vec();
    disks.sort_by_key(|disk| disk.id);
    disks
}

/// The point that `job` published in the series, if it did. One whose snapshot file was damaged since does not say whose
/// it is: then the job counts as not done, and doing it again makes a point that can be restored.
pub(super) fn published(opened: &Opened, job: &str) -> Result<Option<Stored>> {
    match opened.snapshots()?.into_iter().find(|(_, snapshot)| snapshot.is_of(job)) {
        Some((id, snapshot)) => stored(opened, &opened.index_on_demand(), &id, &snapshot).map(Some),
        None => Ok(None),
    }
}

/// What a snapshot says of itself, and the disks that it lists. Directories are read only for those of snapshots that do
/// not say: another program rewrote them.
pub(super) fn stored(
    opened: &Opened,
    index: &IndexOnDemand<'_>,
    id: &Id,
    snapshot: &SnapshotDocument,
) -> Result<Stored> {
    let own = snapshot.keeplast.clone().unwrap_or_default();
    let disks = match own.disks {
        Some(disks) => disks,
        None => {
            let reader = PointReader::new(&opened.directory, &opened.cipher, index.get()?);
            reader.disks(&reader.directory_of(snapshot)?)?
        }
    };
    let own_bytes =
        std::fs::metadata(opened.directory.path(FileKind::Snapshot, id)).map_or(0, |metadata| metadata.len());
    Ok(Stored {
        point: id.hex(),
        read_bytes: own.read_bytes,
        stored_bytes: own.stored_bytes + own_bytes,
        saved_bytes: own.saved_bytes,
        unmarked_bytes: own.unmarked_bytes,
        disks,
    })
}

/// Removes the snapshots of `points` that are not of another series. Fails when the folder then lists fewer of the others
/// than before: pruning after that would take their data for garbage.
pub(super) fn forget(opened: &Opened, points: &[String]) -> Result<()> {
    let directory = &opened.directory;
    let before = directory.ids(FileKind::Snapshot)?;
    let mut unwanted: IdSet = points.iter().filter_map(|point| Id::parse(point)).collect();
    // One that cannot be read is the one that was named: nobody else knows its id.
    for (id, snapshot) in opened.all_snapshots()? {
        if !opened.owns(&snapshot) && unwanted.remove(&id) {
            tracing::warn!(point = %id, "not forgotten: it belongs to another series of the repository");
        }
    }
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

fn summary(
    started: String,
    disks: &[StoredDisk],
    request: &StoreRequest<'_>,
    counts: &Counts,
    stored_bytes: u64,
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
        data_added_packed: stored_bytes,
        total_files_processed: files,
        total_bytes_processed: disks.iter().map(|disk| disk.size_bytes).sum::<u64>() + request.document.len() as u64,
        ..Summary::default()
    }
}

/// Finds the base of every disk and checks all of them before anything is read. Also gives the parent, when a disk refers
/// to it.
fn bases(
    cut: Cut,
    opened: &Opened,
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
    if disks.iter().all(|disk| disk.change == Change::Whole) {
        return Ok((None, disks.iter().map(|_| Base::None).collect()));
    }
    let id =
        request.parent.and_then(Id::parse).ok_or_else(|| refused("no parent restore point is named".to_owned()))?;
    let parent = opened.snapshot(&id)?;
    let tree = reader.directory_of(&parent)?;
    let mut bases = Vec::new();
    for disk in disks {
        if disk.change == Change::Whole {
            bases.push(Base::None);
            continue;
        }
        let size = disk.reader.size_bytes();
        let form = reader
            .disk(&tree, disk.id)?
            .ok_or_else(|| refused(format!("restore point {id} holds no disk {}", disk.id)))?;
        bases.push(base(cut, reader, form, size, disk.change).map_err(|mut error| {
            error.reason = format!("disk {} of restore point {id}: {}", disk.id, error.reason);
            error
        })?);
    }
    Ok((Some(id), bases))
}

fn refused(reason: impl Into<String>) -> DriverError {
    DriverError::new(Kind::Missing, "looking up the parent of an increment", reason)
}

/// The parent's disk as a base for one of `size` bytes. Only a comparison may have another size.
fn base(cut: Cut, reader: &PointReader<'_>, form: StoredForm, size: u64, change: Change) -> Result<Base> {
    let (base, stored, parts) = match form {
        StoredForm::Whole(file) => {
            check_base(cut, reader, &file)?;
            let size = file.size;
            (Base::Whole(file), size, 1)
        }
        StoredForm::Parts(parts) => {
            let mut sum = 0_u64;
            // Parts that nobody wrote to are one and the same.
            let mut sizes: HashMap<Id, u64> = HashMap::new();
            for (number, part) in parts.iter().enumerate() {
                let size = match sizes.get(part) {
                    Some(size) => *size,
                    None => {
                        let file = reader.part(part)?;
                        check_base(cut, reader, &file)?;
                        *sizes.entry(*part).or_insert(file.size)
                    }
                };
                let last = number + 1 == parts.len();
                if size > cut.part || (size < cut.part && !last) {
                    return Err(refused("it has another length of parts"));
                }
                sum = sum.saturating_add(size);
            }
            let count = parts.len() as u64;
            (Base::Parts(parts), sum, count)
        }
    };
    match (&base, change) {
        (Base::Whole(file), Change::Compare) if file.size > cut.part => Err(refused("it has another length of parts")),
        (_, Change::Compare) => Ok(base),
        _ if stored != size => Err(refused("it has another size")),
        (Base::Whole(_), _) if size <= cut.part => Ok(base),
        (Base::Parts(_), _) if size > cut.part && parts == size.div_ceil(cut.part) => Ok(base),
        _ => Err(refused("it has another length of parts")),
    }
}

/// Whether every chunk of `file` is in the repository and has the length that its place wants.
fn check_base(cut: Cut, reader: &PointReader<'_>, file: &FileContent) -> Result<()> {
    if file.ids.len() as u64 != chunks::count(file.size, cut.chunk) {
        return Err(refused("it has another chunk length"));
    }
    for (number, id) in file.ids.iter().enumerate() {
        let length = reader.locate(BlobKind::Data, id)?.plain_length();
        if length != chunks::length(file.size, cut.chunk, number as u64) {
            return Err(refused("it has another chunk length"));
        }
    }
    Ok(())
}

/// Turns disks into directory entries.
struct DiskStore<'a> {
    cut: Cut,
    pipeline: &'a Pipeline<'a>,
    reader: &'a PointReader<'a>,
    time: i64,
    whole_progress: &'a Progress,
    /// Counts for the disk that is being stored.
    progress: Progress,
    read_bytes: u64,
    unmarked_bytes: u64,
    /// Trees of parts that are all zeros, by length in bytes.
    blank_parts: HashMap<u64, Id>,
}

impl DiskStore<'_> {
    fn disk(&mut self, mut disk: SourceDisk, base: &Base) -> Result<Node> {
        let size = disk.reader.size_bytes();
        let Cut { chunk, part } = self.cut;
        self.progress = self.whole_progress.of_disk(disk.id);
        let extents = disk.reader.extents()?;
        let origins = chunks::origins(size, chunk, &extents, disk.change)?;
        let to_read = origins.iter().enumerate().filter(|(_, origin)| **origin == Origin::Read);
        self.progress.add_total(to_read.map(|(number, _)| u64::from(chunks::length(size, chunk, number as u64))).sum());
        let name = disk_name(disk.id);
        if size <= part {
            let ids = self.file(&mut disk, Span { base: 0, end: size, chunk }, &origins, base, 0)?;
            return Ok(Node::file(name, self.time, size, ids));
        }
        let mut parts = Tree::default();
        let per_part = usize::try_from(part / u64::from(chunk)).unwrap_or(usize::MAX);
        for (number, origins) in origins.chunks(per_part).enumerate() {
            let first = number as u64 * part;
            let span = Span { base: first, end: first.saturating_add(part).min(size), chunk };
            let subtree = self.part(&mut disk, span, origins, base, number)?;
            parts.nodes.push(Node::directory(format!("{number:05}"), self.time, subtree));
        }
        Ok(Node::directory(name, self.time, self.pipeline.tree(parts)?))
    }

    /// The tree of one part; an untouched one keeps the parent's.
    fn part(
        &mut self,
        disk: &mut SourceDisk,
        span: Span,
        origins: &[Origin],
        base: &Base,
        number: usize,
    ) -> Result<Id> {
        let untouched = origins.iter().all(|origin| *origin == Origin::Parent);
        if let (Base::Parts(parts), true) = (base, untouched)
            && let Some(tree) = parts.get(number)
        {
            return Ok(*tree);
        }
        // A large disk is mostly parts that nobody wrote to, all alike. A comparison looks at each of them.
        let length = span.end - span.base;
        let blank = disk.change != Change::Compare && origins.iter().all(|origin| *origin == Origin::Zero);
        if let (true, Some(tree)) = (blank, self.blank_parts.get(&length)) {
            return Ok(*tree);
        }
        let ids = self.file(disk, span, origins, base, number)?;
        let file = Node::file(PART_FILE, self.time, length, ids);
        let tree = self.pipeline.tree(Tree { nodes: vec![file] })?;
        if blank {
            self.blank_parts.insert(length, tree);
        }
        Ok(tree)
    }

    /// Stores the stretch `span`, the `number`th part of its disk.
    fn file(
        &mut self,
        disk: &mut SourceDisk,
        span: Span,
        origins: &[Origin],
        base: &Base,
        number: usize,
    ) -> Result<Vec<Id>> {
        let read;
        let (parent, parent_size) = match base {
            Base::Whole(file) if number == 0 => (file.ids.as_slice(), file.size),
            Base::Parts(parts) if number < parts.len() => {
                read = self.reader.part(&parts[number])?;
                (read.ids.as_slice(), read.size)
            }
            _ => (&[][..], 0),
        };
        let (ids, read_bytes) = self.pipeline.file(disk.reader.as_mut(), span, origins, parent, &self.progress)?;
        self.read_bytes += read_bytes;
        if let (Change::Compare, Some(marked)) = (disk.change, &disk.marked) {
            let marked = Marked::new(marked);
            for (nth, (new, old)) in ids.iter().zip(parent).enumerate() {
                let length = chunks::length(span.end - span.base, span.chunk, nth as u64);
                let start = span.base + nth as u64 * u64::from(span.chunk);
                // The short last chunk of a disk that was resized has nothing to be compared with.
                let comparable = length == chunks::length(parent_size, span.chunk, nth as u64);
                if new != old && comparable && !marked.touches(start, u64::from(length)) {
                    self.unmarked_bytes += u64::from(length);
                }
            }
        }
        Ok(ids)
    }

    fn document(&self, document: &[u8]) -> Result<Node> {
        let ids = document.chunks(DOCUMENT_PIECE).map(|piece| self.pipeline.blob(piece)).collect::<Result<_>>()?;
        Ok(Node::file(DOCUMENT_NAME, self.time, document.len() as u64, ids))
    }
}
