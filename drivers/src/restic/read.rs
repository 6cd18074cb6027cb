//! Reads restore points: snapshots, directories, documents and single blobs. Whole disks are read in `restore`.
//!
//! Invariants: every blob is authenticated, and its SHA-256 compared with its id, before a byte of it is used; the sum of
//! a file's chunks must be the size its entry records. What is damaged is [`Kind::Corrupt`]; a datastore that cannot be
//! reached is another kind.

use std::io;

use super::directory::{Directory, FileKind};
use super::documents::{DOCUMENT_NAME, Node, NodeKind, PART_FILE, POINT_DIRECTORY, SnapshotDocument, Tree};
use super::format::{BlobKind, BlobOpener, Cipher, Id};
use super::index::{Index, Location};
use crate::datastore::StoredDisk;
use crate::{DriverError, Kind, Result};

/// The longest document that is read back.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;
/// The longest sealed blob that is read; a directory of one 64 GiB disk in 64 KiB chunks has less.
const MAX_SEALED_BYTES: u32 = 256 << 20;
/// What the system says of a file whose bytes it cannot read: EIO, EBADMSG, EUCLEAN.
const UNREADABLE: [i32; 3] = [5, 74, 117];
/// What is said of a blob that no index file names.
pub(super) const NOT_INDEXED: &str = "no readable index file names its chunk";

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
#[derive(Clone, Copy)]
pub(super) struct PointReader<'a> {
    pub(super) directory: &'a Directory,
    pub(super) cipher: &'a Cipher,
    pub(super) index: &'a Index,
}

impl<'a> PointReader<'a> {
    /// Reads `directory` through `index`.
    pub(super) fn new(directory: &'a Directory, cipher: &'a Cipher, index: &'a Index) -> Self {
        Self { directory, cipher, index }
    }

    /// The directory that holds the disks of a restore point.
    pub(super) fn directory_of(&self, snapshot: &SnapshotDocument) -> Result<Tree> {
        self.tree(&self.inner_directory(&snapshot.tree)?)
    }

    /// The id of that directory within the root directory `root`.
    pub(super) fn inner_directory(&self, root: &Id) -> Result<Id> {
        self.tree(root)?.find(POINT_DIRECTORY).and_then(|node| node.subtree).ok_or_else(|| {
            DriverError::new(
                Kind::Missing,
                "reading a restore point",
                format!("it has no directory /{POINT_DIRECTORY}"),
            )
        })
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

    pub(super) fn form(&self, node: &Node) -> Result<StoredForm> {
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
            document.extend_from_slice(&self.blob(&mut opener, BlobKind::Data, id)?);
        }
        if document.len() as u64 == node.size { Ok(document) } else { Err(wrong_size(DOCUMENT_NAME)) }
    }

    /// A directory.
    pub(super) fn tree(&self, id: &Id) -> Result<Tree> {
        let mut opener = BlobOpener::new(self.cipher.clone())?;
        let json = self.blob(&mut opener, BlobKind::Tree, id)?;
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

    fn blob(&self, opener: &mut BlobOpener, kind: BlobKind, id: &Id) -> Result<Vec<u8>> {
        let corrupt = |reason| DriverError::new(Kind::Corrupt, format!("reading blob {id}"), reason);
        let location = self.index.get(kind, id).ok_or_else(|| corrupt(NOT_INDEXED.to_owned()))?;
        match self.try_blob(opener, location, id)? {
            Ok(plain) => Ok(plain),
            Err(reason) => self.other_copy(opener, id)?.ok_or_else(|| corrupt(reason)),
        }
    }

    /// The plain bytes of the blob `id` at `location`, or a clause that names the pack and what is wrong with it.
    ///
    /// # Errors
    /// When the datastore cannot be reached: that says nothing about the blob.
    pub(super) fn try_blob(
        &self,
        opener: &mut BlobOpener,
        location: &Location,
        id: &Id,
    ) -> Result<std::result::Result<Vec<u8>, String>> {
        let bad = |reason: &str| Ok(Err(self.fault(location, reason)));
        if location.length > MAX_SEALED_BYTES {
            return bad("the index claims an impossible length");
        }
        let pack = self.index.pack(location);
        match self.directory.read_range(FileKind::Pack, pack, location.offset, location.length) {
            Ok(sealed) => Ok(open_blob(opener, sealed, location, id).map_err(|reason| self.fault(location, reason))),
            Err(error) => bad(self.damage_of(error)?),
        }
    }

    /// The plain bytes of the blob `id` from another place than the index prefers, if there is one that is whole.
    ///
    /// # Errors
    /// As [`Self::try_blob`].
    pub(super) fn other_copy(&self, opener: &mut BlobOpener, id: &Id) -> Result<Option<Vec<u8>>> {
        for location in self.index.others(self.directory, self.cipher, id) {
            if let Ok(plain) = self.try_blob(opener, location, id)? {
                return Ok(Some(plain));
            }
        }
        Ok(None)
    }

    /// `pack 1a2b3c4d…: REASON`.
    pub(super) fn fault(&self, location: &Location, reason: &str) -> String {
        pack_fault(self.index.pack(location), reason)
    }

    /// What a failed read says of the file, when it is the file that is damaged.
    ///
    /// # Errors
    /// The error itself, when the datastore as a whole is not there or anything else is in the way.
    pub(super) fn damage_of(&self, error: DriverError) -> Result<&'static str> {
        damage_of(self.directory, error)
    }
}

/// See [`PointReader::damage_of`].
pub(super) fn damage_of(directory: &Directory, mut error: DriverError) -> Result<&'static str> {
    let below = error.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
    match below.map(|error| (error.kind(), error.raw_os_error())) {
        Some((io::ErrorKind::NotFound, _)) if directory.is_repository()? => Ok("the file is missing"),
        Some((io::ErrorKind::NotFound, _)) => {
            error.kind = Kind::Retry;
            Err(error)
        }
        Some((io::ErrorKind::UnexpectedEof, _)) => Ok("the file is shorter than the index says"),
        Some((_, Some(code))) if UNREADABLE.contains(&code) => Ok("the file system cannot read the file"),
        _ => Err(error),
    }
}

/// `pack 1a2b3c4d…: REASON`.
pub(super) fn pack_fault(pack: &Id, reason: &str) -> String {
    format!("pack {}: {reason}", short(pack))
}

/// The first eight digits of an id, as people see it.
pub(super) fn short(id: &Id) -> String {
    let mut text = id.hex();
    text.truncate(8);
    text.push('…');
    text
}

/// The plain bytes of a sealed blob, or one clause.
pub(super) fn open_blob(
    opener: &mut BlobOpener,
    sealed: Vec<u8>,
    location: &Location,
    id: &Id,
) -> std::result::Result<Vec<u8>, &'static str> {
    let plain = opener.open(sealed, location.uncompressed_length)?;
    if Id::of(&plain) == *id { Ok(plain) } else { Err("its bytes do not have their digest") }
}

/// `disk.N`.
pub(super) fn disk_name(id: u32) -> String {
    format!("disk.{id}")
}

/// The N of `disk.N`.
pub(super) fn disk_id(name: &str) -> Option<u32> {
    let id = name.strip_prefix("disk.")?.parse().ok()?;
    (disk_name(id) == name).then_some(id)
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
