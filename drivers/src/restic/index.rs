//! The index of one repository in memory: which blob lies where.
//!
//! Loaded anew for each operation. For who writes, a blob whose pack file is gone is not stored: a full backup then stores
//! it again, and an increment that would lean on it is refused. Who only reads makes the best of what is readable.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;

use super::directory::{Directory, FileKind};
use super::documents::{IndexDocument, IndexedPack};
use super::format::{BlobKind, Cipher, Id, SEAL_BYTES, header_entry_bytes};
use crate::{DriverError, Kind, Result};

/// Ids are digests: eight of their bytes are as good as any hash of them.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8).take(2) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.0 = self.0.rotate_left(1) ^ u64::from_le_bytes(word);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A set of ids.
pub(super) type IdSet = HashSet<Id, BuildHasherDefault<IdHasher>>;

/// Where a blob lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location {
    /// Number of the pack in [`Index::packs`].
    pub(super) pack: u32,
    /// First byte in the pack.
    pub(super) offset: u32,
    /// Sealed length.
    pub(super) length: u32,
    /// Plain length when compressed, else 0.
    pub(super) uncompressed_length: u32,
}

impl Location {
    /// Length of the plain bytes.
    pub(super) fn plain_length(&self) -> u32 {
        match self.uncompressed_length {
            0 => self.length.saturating_sub(SEAL_BYTES as u32),
            length => length,
        }
    }
}

type Locations = HashMap<Id, Location, BuildHasherDefault<IdHasher>>;

/// What the index says of one pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexedFile {
    /// Its name.
    pub(super) id: Id,
    /// Length of the file that its blobs and its header make.
    pub(super) bytes: u64,
    /// Length of the sealed header.
    pub(super) header_bytes: u64,
}

/// Every blob of a repository. The kinds are apart: a VM's document may be byte for byte a directory.
pub(super) struct Index {
    packs: Vec<IndexedFile>,
    numbers: HashMap<Id, u32, BuildHasherDefault<IdHasher>>,
    data: Locations,
    trees: Locations,
}

impl Index {
    /// Reads every index file and the list of packs.
    pub(super) fn load(directory: &Directory, cipher: &Cipher) -> Result<Self> {
        let (index, damaged) = Self::read(directory, cipher, false)?;
        match damaged.into_iter().next() {
            None => Ok(index),
            Some((id, reason)) => {
                let doing = format!("reading index {id} of {}", directory.root().display());
                Err(DriverError::new(Kind::Corrupt, doing, reason))
            }
        }
    }

    /// For reading only, and for finding damage: index files that cannot be read are left out and named, each with one
    /// clause; blobs of packs that are gone are kept, so that reading them names the pack.
    pub(super) fn load_readable(directory: &Directory, cipher: &Cipher) -> Result<(Self, Vec<(Id, String)>)> {
        Self::read(directory, cipher, true)
    }

    fn read(directory: &Directory, cipher: &Cipher, with_lost: bool) -> Result<(Self, Vec<(Id, String)>)> {
        // Packs are listed after the index files were, so that a pack written meanwhile is not taken for lost.
        let mut files = directory.ids(FileKind::Index)?;
        // Of a blob that is there twice, the same one each time.
        files.sort_unstable();
        let present: IdSet = directory.ids(FileKind::Pack)?.into_iter().collect();
        let mut index = Self {
            packs: Vec::new(),
            numbers: HashMap::default(),
            data: Locations::default(),
            trees: Locations::default(),
        };
        let mut damaged = Vec::new();
        for id in files {
            match decode(cipher, directory.read(FileKind::Index, &id)?) {
                Ok(document) => index.add(document, &present, with_lost)?,
                Err(reason) => damaged.push((id, reason)),
            }
        }
        Ok((index, damaged))
    }

    fn add(&mut self, document: IndexDocument, present: &IdSet, with_lost: bool) -> Result<()> {
        for pack in document.packs {
            let is_present = present.contains(&pack.id);
            if !is_present && !with_lost {
                continue;
            }
            let number = self.number(&pack)?;
            for blob in pack.blobs {
                let location = Location {
                    pack: number,
                    offset: blob.offset,
                    length: blob.length,
                    uncompressed_length: blob.uncompressed_length.map_or(0, NonZeroU32::get),
                };
                let locations = match blob.kind {
                    BlobKind::Data => &mut self.data,
                    BlobKind::Tree => &mut self.trees,
                };
                if is_present {
                    locations.insert(blob.id, location);
                } else {
                    locations.entry(blob.id).or_insert(location);
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, pack: &IndexedPack) -> Result<u32> {
        if let Some(number) = self.numbers.get(&pack.id) {
            return Ok(*number);
        }
        let number = u32::try_from(self.packs.len())
            .map_err(|_| DriverError::new(Kind::Corrupt, "reading the index", "it has too many packs"))?;
        self.packs.push(pack.file());
        self.numbers.insert(pack.id, number);
        Ok(number)
    }

    /// Where the blob `id` of `kind` lies.
    pub(super) fn get(&self, kind: BlobKind, id: &Id) -> Option<&Location> {
        match kind {
            BlobKind::Data => self.data.get(id),
            BlobKind::Tree => self.trees.get(id),
        }
    }

    /// The pack of a location of this index.
    pub(super) fn pack(&self, location: &Location) -> &Id {
        &self.packs[location.pack as usize].id
    }

    /// Every pack; [`Location::pack`] counts in this list.
    pub(super) fn packs(&self) -> &[IndexedFile] {
        &self.packs
    }

    /// Every blob, in no order.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (&Id, &Location)> {
        self.data.iter().chain(&self.trees)
    }
}

impl IndexedPack {
    /// The file: its blobs, the sealed header, and the header's length in four bytes.
    fn file(&self) -> IndexedFile {
        let blobs = self.blobs.iter().map(|blob| u64::from(blob.offset) + u64::from(blob.length)).max().unwrap_or(0);
        let entries = self.blobs.iter().map(|blob| header_entry_bytes(blob.uncompressed_length.is_some()) as u64);
        let header_bytes = SEAL_BYTES as u64 + entries.sum::<u64>();
        IndexedFile { id: self.id, bytes: blobs + header_bytes + 4, header_bytes }
    }
}

fn decode(cipher: &Cipher, sealed: Vec<u8>) -> std::result::Result<IndexDocument, String> {
    let json = cipher.open_document(sealed)?;
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}
