//! Reads restore points: snapshots, directories, and the bytes of disks.
//!
//! Invariants: every blob is authenticated, and its SHA-256 compared with its id, before a byte of it is used; the sum of
//! a file's chunks must be the size its entry records.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::directory::{Directory, FileKind};
use super::documents::{DOCUMENT_NAME, Node, NodeKind, PART_FILE, POINT_DIRECTORY, SnapshotDocument, Tree};
use super::format::{BlobKind, BlobOpener, Cipher, Id, is_zero};
use super::index::{Index, Location};
use crate::datastore::StoredDisk;
use crate::{Cancel, DiskWriter, DriverError, Kind, Progress, Result};

/// Zeros within a chunk are left out of a restore in pieces of this length.
const HOLE_BYTES: usize = 64 << 10;
/// Pack files that one thread keeps open.
const OPEN_PACKS: usize = 8;
/// The longest document that is read back.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// A snapshot file.
pub(super) fn snapshot(directory: &Directory, cipher: &Cipher, id: &Id) -> Result<SnapshotDocument> {
    let sealed = directory.read(FileKind::Snapshot, id)?;
    let corrupt = |reason| DriverError::new(Kind::Corrupt, format!("reading restore point {id}"), reason);
    if Id::of(&sealed) != *id {
        return Err(corrupt("its bytes do not have the digest that it is named after".to_owned()));
    }
    let json = cipher.open_document(sealed).map_err(corrupt)?;
    serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))
}

/// A file's size in bytes and its blobs.
pub(super) struct FileContent {
    pub(super) size: u64,
    pub(super) ids: Vec<Id>,
}

/// A disk in a restore point: one file, or a folder of parts of which each has a folder of its own, so that the list of
/// an untouched part need not be written again.
pub(super) enum StoredForm {
    /// One file.
    Whole(FileContent),
    /// The trees of its parts, in order.
    Parts(Vec<Id>),
}

/// Reads one repository.
pub(super) struct PointReader<'a> {
    directory: &'a Directory,
    cipher: &'a Cipher,
    index: &'a Index,
}

impl<'a> PointReader<'a> {
    /// Reads `directory` through `index`.
    pub(super) fn new(directory: &'a Directory, cipher: &'a Cipher, index: &'a Index) -> Self {
        Self { directory, cipher, index }
    }

    /// The directory that holds the disks of a restore point.
    pub(super) fn directory_of(&self, snapshot: &SnapshotDocument) -> Result<Tree> {
        let root = self.tree(&snapshot.tree)?;
        let entry = root.find(POINT_DIRECTORY).and_then(|node| node.subtree).ok_or_else(|| {
            DriverError::new(
                Kind::Missing,
                "reading a restore point",
                format!("it has no directory /{POINT_DIRECTORY}"),
            )
        })?;
        self.tree(&entry)
    }

    /// The disks listed in such a directory.
    pub(super) fn disks(&self, tree: &Tree) -> Result<Vec<StoredDisk>> {
        let mut disks = Vec::new();
        for node in &tree.nodes {
            if let Some(id) = disk_id(&node.name) {
                let size_bytes = match self.form(node)? {
                    StoredForm::Whole(file) => file.size,
                    StoredForm::Parts(parts) => {
                        let mut sum = 0_u64;
                        for part in &parts {
                            sum = sum.saturating_add(self.part(part)?.size);
                        }
                        sum
                    }
                };
                disks.push(StoredDisk { id, size_bytes });
            }
        }
        disks.sort_by_key(|disk| disk.id);
        Ok(disks)
    }

    /// How disk `id` is stored, if it is.
    pub(super) fn disk(&self, tree: &Tree, id: u32) -> Result<Option<StoredForm>> {
        tree.find(&disk_name(id)).map(|node| self.form(node)).transpose()
    }

    fn form(&self, node: &Node) -> Result<StoredForm> {
        match (&node.kind, &node.content, node.subtree) {
            (NodeKind::File, content, None) => {
                Ok(StoredForm::Whole(FileContent { size: node.size, ids: content.clone().unwrap_or_default() }))
            }
            (NodeKind::Dir, _, Some(subtree)) => {
                let mut nodes = self.tree(&subtree)?.nodes;
                nodes.sort_by(|a, b| a.name.cmp(&b.name));
                nodes
                    .iter()
                    .map(|part| part.subtree.ok_or_else(|| unknown_form(&node.name)))
                    .collect::<Result<_>>()
                    .map(StoredForm::Parts)
            }
            _ => Err(unknown_form(&node.name)),
        }
    }

    /// The content of one part.
    pub(super) fn part(&self, tree: &Id) -> Result<FileContent> {
        match self.tree(tree)?.nodes.into_iter().find(|node| node.name == PART_FILE) {
            Some(Node { kind: NodeKind::File, size, content: Some(ids), .. }) => Ok(FileContent { size, ids }),
            _ => Err(unknown_form(PART_FILE)),
        }
    }

    /// The VM's document.
    pub(super) fn document(&self, tree: &Tree) -> Result<Vec<u8>> {
        let doing = "reading the document of a restore point";
        let node = tree
            .find(DOCUMENT_NAME)
            .ok_or_else(|| DriverError::new(Kind::Missing, doing, format!("it has no {DOCUMENT_NAME}")))?;
        if node.size > MAX_DOCUMENT_BYTES {
            return Err(DriverError::new(Kind::Corrupt, doing, "it is longer than any document of a VM"));
        }
        let mut opener = BlobOpener::new(self.cipher.clone())?;
        let mut document = Vec::new();
        for id in node.content.iter().flatten() {
            document.extend_from_slice(&self.blob(&mut opener, &mut PackFiles::default(), BlobKind::Data, id)?);
        }
        if document.len() as u64 == node.size { Ok(document) } else { Err(wrong_size(DOCUMENT_NAME)) }
    }

    fn tree(&self, id: &Id) -> Result<Tree> {
        let mut opener = BlobOpener::new(self.cipher.clone())?;
        let json = self.blob(&mut opener, &mut PackFiles::default(), BlobKind::Tree, id)?;
        serde_json::from_slice(&json)
            .map_err(|error| DriverError::new(Kind::Corrupt, format!("reading directory {id}"), error.to_string()))
    }

    /// Where a blob lies; [`Kind::Corrupt`] when it is nowhere.
    pub(super) fn locate(&self, kind: BlobKind, id: &Id) -> Result<&'a Location> {
        self.index.get(kind, id).ok_or_else(|| {
            DriverError::new(
                Kind::Corrupt,
                format!("looking up blob {id}"),
                "no pack of the repository holds it any more; `restic check` shows what else is lost",
            )
        })
    }

    fn blob(&self, opener: &mut BlobOpener, files: &mut PackFiles, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        let location = self.locate(kind, id)?;
        let pack = self.index.pack(location);
        let corrupt =
            |reason: &str| DriverError::new(Kind::Corrupt, format!("reading blob {id} of pack {pack}"), reason);
        let sealed = files.read(self.directory, pack, location)?;
        let plain = opener.open(sealed, location.uncompressed_length).map_err(corrupt)?;
        if Id::of(&plain) == *id { Ok(plain) } else { Err(corrupt("its bytes do not have its digest")) }
    }

    /// Where each chunk of `file` begins, from `base` on, checked against the recorded size.
    fn placed(&self, file: &FileContent, base: u64) -> Result<Vec<(u64, u32, Id)>> {
        let mut placed = Vec::with_capacity(file.ids.len());
        let mut offset = base;
        for id in &file.ids {
            let length = self.locate(BlobKind::Data, id)?.plain_length();
            placed.push((offset, length, *id));
            offset = offset.saturating_add(length.into());
        }
        if offset == base.saturating_add(file.size) { Ok(placed) } else { Err(wrong_size("a disk")) }
    }

    /// Writes a disk into `target` with `threads` threads, zeros left out; gives the bytes written.
    pub(super) fn restore(
        &self,
        form: &StoredForm,
        target: &mut dyn DiskWriter,
        threads: usize,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<u64> {
        match form {
            StoredForm::Whole(file) => self.restore_file(file, 0, target, threads, progress, cancel),
            StoredForm::Parts(parts) => {
                let (mut base, mut written) = (0, 0);
                for part in parts {
                    let file = self.part(part)?;
                    written += self.restore_file(&file, base, target, threads, progress, cancel)?;
                    base += file.size;
                }
                Ok(written)
            }
        }
    }

    fn restore_file(
        &self,
        file: &FileContent,
        base: u64,
        target: &mut dyn DiskWriter,
        threads: usize,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<u64> {
        progress.add_total(file.size);
        let mut chunks = self.placed(file, base)?;
        let zeros = zero_ids(&chunks);
        chunks.retain(|(_, length, id)| {
            let zero = zeros.iter().any(|(size, zero)| size == length && zero == id);
            if zero {
                progress.add_done((*length).into());
            }
            !zero
        });
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let (sender, receiver) = crossbeam_channel::bounded(2 * threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, chunks, next, stop) = (sender.clone(), &chunks, &next, &stop);
                scope.spawn(move || self.open_chunks(chunks, next, stop, &sender));
            }
            drop(sender);
            let mut received = 0;
            let mut write_all = || {
                let mut written = 0;
                for opened in &receiver {
                    cancel.check()?;
                    let (offset, plain): (u64, Vec<u8>) = opened?;
                    written += write_without_holes(target, offset, &plain)?;
                    progress.add_done(plain.len() as u64);
                    received += 1;
                }
                Ok(written)
            };
            let result = write_all();
            stop.store(true, Ordering::Release);
            // Threads that wait to send must see that nobody listens.
            drop(receiver);
            if result.is_ok() && received != chunks.len() {
                return Err(DriverError::new(
                    Kind::Permanent,
                    "restoring a disk",
                    "a thread that reads chunks ended early",
                ));
            }
            result
        })
    }

    fn open_chunks(
        &self,
        chunks: &[(u64, u32, Id)],
        next: &AtomicUsize,
        stop: &AtomicBool,
        sender: &crossbeam_channel::Sender<Result<(u64, Vec<u8>)>>,
    ) {
        let mut files = PackFiles::default();
        let mut opener = match BlobOpener::new(self.cipher.clone()) {
            Ok(opener) => opener,
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        while !stop.load(Ordering::Acquire) {
            let Some((offset, _, id)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let opened = self.blob(&mut opener, &mut files, BlobKind::Data, id).map(|plain| (*offset, plain));
            let failed = opened.is_err();
            if sender.send(opened).is_err() || failed {
                return;
            }
        }
    }
}

/// `disk.N`.
pub(super) fn disk_name(id: u32) -> String {
    format!("disk.{id}")
}

fn disk_id(name: &str) -> Option<u32> {
    let id = name.strip_prefix("disk.")?.parse().ok()?;
    (disk_name(id) == name).then_some(id)
}

/// The ids of zeros as long as the first and the last chunk: with chunks of fixed size there are no other lengths.
fn zero_ids(chunks: &[(u64, u32, Id)]) -> Vec<(u32, Id)> {
    let mut lengths: Vec<u32> = chunks.first().into_iter().chain(chunks.last()).map(|(_, length, _)| *length).collect();
    lengths.dedup();
    lengths.into_iter().map(|length| (length, Id::of(&vec![0; length as usize]))).collect()
}

fn write_without_holes(target: &mut dyn DiskWriter, offset: u64, plain: &[u8]) -> Result<u64> {
    let mut written = 0;
    let mut start = 0;
    while start < plain.len() {
        let block_end = |from: usize| (from + HOLE_BYTES).min(plain.len());
        if is_zero(&plain[start..block_end(start)]) {
            start = block_end(start);
            continue;
        }
        let mut end = block_end(start);
        while end < plain.len() && !is_zero(&plain[end..block_end(end)]) {
            end = block_end(end);
        }
        target.write_at(offset + start as u64, &plain[start..end])?;
        written += (end - start) as u64;
        start = end;
    }
    Ok(written)
}

fn unknown_form(name: &str) -> DriverError {
    DriverError::new(
        Kind::Corrupt,
        format!("reading {name} of a restore point"),
        "it is not stored in a form known here",
    )
}

fn wrong_size(name: &str) -> DriverError {
    DriverError::new(
        Kind::Corrupt,
        format!("reading {name} of a restore point"),
        "its chunks do not add up to its recorded size",
    )
}

/// The pack files that one thread has open, the newest last.
#[derive(Default)]
struct PackFiles(Vec<(Id, File)>);

impl PackFiles {
    fn read(&mut self, directory: &Directory, pack: &Id, location: &Location) -> Result<Vec<u8>> {
        let path = || directory.path(FileKind::Pack, pack);
        // What the index promises and is not there is damage, not a wrong question.
        let failed = |error: std::io::Error| {
            let mut failed = DriverError::io(format!("reading {}", path().display()), error);
            if failed.kind == Kind::Missing {
                failed.kind = Kind::Corrupt;
            }
            failed
        };
        let at = match self.0.iter().position(|(id, _)| id == pack) {
            Some(at) => at,
            None => {
                let file = File::open(path()).map_err(failed)?;
                if self.0.len() == OPEN_PACKS {
                    self.0.remove(0);
                }
                self.0.push((*pack, file));
                self.0.len() - 1
            }
        };
        let mut sealed = vec![0; location.length as usize];
        match self.0[at].1.read_exact_at(&mut sealed, location.offset.into()) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(DriverError::new(
                Kind::Corrupt,
                format!("reading {}", path().display()),
                "the file is shorter than the index says",
            )),
            other => other.map(|()| sealed).map_err(failed),
        }
    }
}
