//! The index of one repository in memory: which blob lies where.
//!
//! Made for each operation, over what earlier ones have decoded: index files never change. A blob whose pack file is gone is treated as not stored: a full backup then stores it
//! again, and an increment that would lean on it is refused.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::directory::{Directory, FileKind};
use super::documents::{IndexDocument, IndexedBlob, IndexedPack};
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
    fn new(pack: u32, blob: &IndexedBlob) -> Self {
        let uncompressed_length = blob.uncompressed_length.map_or(0, NonZeroU32::get);
        Self { pack, offset: blob.offset, length: blob.length, uncompressed_length }
    }

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

/// Every blob that the index files name. The kinds are apart: a VM's document may be byte for byte a directory.
#[derive(Default, Clone)]
struct Catalog {
    files: IdSet,
    packs: Vec<IndexedFile>,
    numbers: HashMap<Id, u32, BuildHasherDefault<IdHasher>>,
    data: Locations,
    trees: Locations,
    /// Whether a pack that is named is not there; it may come back.
    partial: bool,
}

impl Catalog {
    fn add(&mut self, document: IndexDocument, present: &IdSet, with_lost: bool) -> Result<()> {
        for pack in document.packs {
            let is_present = present.contains(&pack.id);
            self.partial |= !is_present;
            if !is_present && !with_lost {
                continue;
            }
            let number = self.number(&pack)?;
            for blob in pack.blobs {
                let location = Location::new(number, &blob);
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

    fn blobs(&self) -> usize {
        self.data.len() + self.trees.len()
    }
}

/// What was last known of one repository's index.
#[derive(Default)]
pub(super) struct IndexCache(Mutex<Option<(Instant, Arc<Catalog>)>>);

impl IndexCache {
    /// How many blobs it keeps, some 70 bytes each, and when it was last of use. `None` when it is empty or being used.
    pub(super) fn kept(&self) -> Option<(Instant, usize)> {
        let kept = self.0.try_lock().ok()?;
        kept.as_ref().map(|(used, catalog)| (*used, catalog.blobs()))
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The blobs of a repository whose packs are there, as one operation uses them.
pub(super) struct Index {
    catalog: Arc<Catalog>,
    /// Per pack, whether a blob of it was asked for.
    used: Vec<AtomicBool>,
    /// Second copies, looked for when a first one is damaged.
    others: OnceLock<HashMap<Id, Vec<Location>>>,
}

impl Index {
    /// Reads every index file that `cache` has not seen, and the list of packs.
    pub(super) fn load(directory: &Directory, cipher: &Cipher, cache: &IndexCache) -> Result<Self> {
        // Held while loading: whoever comes meanwhile would only decode the same.
        let mut kept = cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Packs are listed after the index files were, so that a pack written meanwhile is not taken for lost.
        let files: IdSet = directory.ids(FileKind::Index)?.into_iter().collect();
        let present: IdSet = directory.ids(FileKind::Pack)?.into_iter().collect();
        // A pack or an index file that is gone makes all that was known of it wrong.
        let known = kept.take().map(|(_, catalog)| catalog).filter(|known| {
            known.files.iter().all(|file| files.contains(file))
                && known.packs.iter().all(|pack| present.contains(&pack.id))
        });
        let mut catalog = known.unwrap_or_default();
        let mut new: Vec<Id> = files.iter().filter(|file| !catalog.files.contains(*file)).copied().collect();
        // Of a blob that is there twice, the same one each time.
        new.sort_unstable();
        if !new.is_empty() {
            // In place, unless an operation that runs still uses it.
            let whole = Arc::make_mut(&mut catalog);
            for file in new {
                let document = decode(cipher, directory.read(FileKind::Index, &file)?).map_err(|reason| {
                    let doing = format!("reading index {file} of {}", directory.root().display());
                    DriverError::new(Kind::Corrupt, doing, reason)
                })?;
                whole.add(document, &present, false)?;
                whole.files.insert(file);
            }
        }
        if !catalog.partial {
            *kept = Some((Instant::now(), Arc::clone(&catalog)));
        }
        Ok(Self::over(catalog))
    }

    /// For reading only, and for finding damage: index files that cannot be read are left out and named, each with one
    /// clause; blobs of packs that are gone are kept, so that reading them names the pack.
    pub(super) fn load_readable(directory: &Directory, cipher: &Cipher) -> Result<(Self, Vec<(Id, String)>)> {
        let mut files = directory.ids(FileKind::Index)?;
        files.sort_unstable();
        let present: IdSet = directory.ids(FileKind::Pack)?.into_iter().collect();
        let (mut catalog, mut damaged) = (Catalog::default(), Vec::new());
        for file in files {
            match decode(cipher, directory.read(FileKind::Index, &file)?) {
                Ok(document) => catalog.add(document, &present, true)?,
                Err(reason) => damaged.push((file, reason)),
            }
            catalog.files.insert(file);
        }
        Ok((Self::over(Arc::new(catalog)), damaged))
    }

    fn over(catalog: Arc<Catalog>) -> Self {
        let used = catalog.packs.iter().map(|_| AtomicBool::new(false)).collect();
        Self { catalog, used, others: OnceLock::new() }
    }

    /// Whether every pack that the index files name is there.
    pub(super) fn is_whole(&self) -> bool {
        !self.catalog.partial
    }

    /// Where the blob `id` of `kind` lies; its pack counts as relied on from now.
    pub(super) fn get(&self, kind: BlobKind, id: &Id) -> Option<&Location> {
        let location = match kind {
            BlobKind::Data => self.catalog.data.get(id),
            BlobKind::Tree => self.catalog.trees.get(id),
        }?;
        if let Some(used) = self.used.get(location.pack as usize) {
            used.store(true, Ordering::Relaxed);
        }
        Some(location)
    }

    /// Where else the blob `id` lies: who stores beside another does not see what that one has written, so both may have
    /// stored it. The first call reads all index files again; those that cannot be read are passed over.
    pub(super) fn others(&self, directory: &Directory, cipher: &Cipher, id: &Id) -> &[Location] {
        let others = self.others.get_or_init(|| self.find_others(directory, cipher));
        others.get(id).map_or(&[], Vec::as_slice)
    }

    fn find_others(&self, directory: &Directory, cipher: &Cipher) -> HashMap<Id, Vec<Location>> {
        let mut others: HashMap<Id, Vec<Location>> = HashMap::new();
        for file in &self.catalog.files {
            let Ok(document) = directory.read(FileKind::Index, file).map(|sealed| decode(cipher, sealed)) else {
                continue;
            };
            for pack in document.unwrap_or_default().packs {
                let Some(number) = self.catalog.numbers.get(&pack.id).copied() else { continue };
                for blob in &pack.blobs {
                    let locations = match blob.kind {
                        BlobKind::Data => &self.catalog.data,
                        BlobKind::Tree => &self.catalog.trees,
                    };
                    if locations.get(&blob.id).is_some_and(|known| (known.pack, known.offset) != (number, blob.offset))
                    {
                        others.entry(blob.id).or_default().push(Location::new(number, blob));
                    }
                }
            }
        }
        others
    }

    /// The pack of a location of this index.
    pub(super) fn pack(&self, location: &Location) -> &Id {
        &self.catalog.packs[location.pack as usize].id
    }

    /// The packs of all blobs that were asked for.
    pub(super) fn relied_on(&self) -> impl Iterator<Item = &Id> {
        self.catalog
            .packs
            .iter()
            .zip(&self.used)
            .filter(|(_, used)| used.load(Ordering::Relaxed))
            .map(|(pack, _)| &pack.id)
    }

    /// The index files that this was read from.
    pub(super) fn files(&self) -> impl Iterator<Item = &Id> {
        self.catalog.files.iter()
    }

    /// Every pack; [`Location::pack`] counts in this list.
    pub(super) fn packs(&self) -> &[IndexedFile] {
        &self.catalog.packs
    }

    /// Every blob, in no order.
    pub(super) fn blobs(&self) -> impl Iterator<Item = (&Id, &Location)> {
        self.catalog.data.iter().chain(&self.catalog.trees)
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
