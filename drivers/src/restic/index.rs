//! The index of one repository in memory: which blob lies where.
//!
//! Loaded anew for each operation. A blob whose pack file is gone is treated as not stored: a full backup then stores it
//! again, and an increment that would lean on it is refused.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;

use super::directory::{Directory, FileKind};
use super::documents::IndexDocument;
use super::format::{BlobKind, Cipher, Id, SEAL_BYTES};
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
    pack: u32,
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

/// Every blob of a repository. The kinds are apart: a VM's document may be byte for byte a directory.
pub(super) struct Index {
    packs: Vec<Id>,
    data: Locations,
    trees: Locations,
}

impl Index {
    /// Reads every index file and the list of packs.
    pub(super) fn load(directory: &Directory, cipher: &Cipher) -> Result<Self> {
        // Packs are listed after the index files were, so that a pack written meanwhile is not taken for lost.
        let files = directory.ids(FileKind::Index)?;
        let present: IdSet = directory.ids(FileKind::Pack)?.into_iter().collect();
        let mut index = Self { packs: Vec::new(), data: Locations::default(), trees: Locations::default() };
        for id in files {
            let doing = || format!("reading index {id} of {}", directory.root().display());
            let corrupt = |reason| DriverError::new(Kind::Corrupt, doing(), reason);
            let json = cipher.open_document(directory.read(FileKind::Index, &id)?).map_err(corrupt)?;
            let document: IndexDocument = serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))?;
            for pack in document.packs.into_iter().filter(|pack| present.contains(&pack.id)) {
                let number = u32::try_from(index.packs.len()).map_err(|_| corrupt("too many packs".to_owned()))?;
                index.packs.push(pack.id);
                for blob in pack.blobs {
                    let location = Location {
                        pack: number,
                        offset: blob.offset,
                        length: blob.length,
                        uncompressed_length: blob.uncompressed_length.map_or(0, NonZeroU32::get),
                    };
                    match blob.kind {
                        BlobKind::Data => index.data.insert(blob.id, location),
                        BlobKind::Tree => index.trees.insert(blob.id, location),
                    };
                }
            }
        }
        Ok(index)
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
        &self.packs[location.pack as usize]
    }
}
