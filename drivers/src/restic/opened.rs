//! A repository that is open: its key, its chunk length, and what of it is kept in memory between operations.
//!
//! Only what never changes is kept: the key, decoded snapshots and index files by id. Each operation lists anew what is
//! there.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::directory::{Directory, FileKind};
use super::documents::SnapshotDocument;
use super::format::{Cipher, Id};
use super::index::{Index, IndexCache};
use super::read;
use super::repository::{RepositoryKey, unknown_version};
use crate::{DriverError, Kind, MAX_READ_BYTES, Result};

/// Snapshots that are kept decoded, about 1 KiB each; further ones are read each time.
const MAX_CACHED_SNAPSHOTS: usize = 20_000;
/// What rustic calls chunks of fixed length in a config file.
const FIXED_SIZE: &str = "FixedSize";

/// What is kept of one repository.
pub(super) struct Known {
    pub(super) key: RepositoryKey,
    pub(super) index: IndexCache,
    snapshots: Mutex<HashMap<Id, Arc<SnapshotDocument>>>,
}

impl Known {
    /// Nothing but the key.
    pub(super) fn new(key: RepositoryKey) -> Self {
        Self { key, index: IndexCache::default(), snapshots: Mutex::default() }
    }
}

/// What matters here of a repository's config file.
#[derive(serde::Deserialize)]
pub(super) struct RepositoryConfig {
    version: u32,
    #[serde(default)]
    chunker: Option<String>,
    #[serde(default)]
    chunk_size: Option<u64>,
}

impl RepositoryConfig {
    /// Reads the config file, which proves that `cipher` belongs to the repository.
    pub(super) fn read(directory: &Directory, cipher: &Cipher) -> Result<Self> {
        let doing = || format!("opening the repository {}", directory.root().display());
        let corrupt = |reason: String| DriverError::new(Kind::Corrupt, doing(), format!("its file config: {reason}"));
        // The id plays no part in the path of the config file.
        let json = cipher.open_document(directory.read(FileKind::Config, &Id([0; 32]))?).map_err(corrupt)?;
        let config: Self = serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))?;
        if config.version == 2 {
            return Ok(config);
        }
        Err(DriverError::new(Kind::Permanent, doing(), unknown_version(&config.version.to_string())))
    }

    /// The length of chunks that this repository was made with, if it is one that can be kept to.
    pub(super) fn chunk_bytes(&self) -> Option<u32> {
        let fixed = self.chunker.as_deref() == Some(FIXED_SIZE);
        let length = self.chunk_size.filter(|_| fixed).and_then(|length| u32::try_from(length).ok())?;
        is_chunk_length(length).then_some(length)
    }
}

/// Whether chunks may have this length, bytes.
pub(super) fn is_chunk_length(length: u32) -> bool {
    (4096..=MAX_READ_BYTES).contains(&length) && length.is_multiple_of(4096)
}

/// See [`Opened::index_on_demand`].
pub(super) struct IndexOnDemand<'a> {
    opened: &'a Opened,
    index: OnceCell<Index>,
}

impl IndexOnDemand<'_> {
    /// The index as it was when this was first called.
    pub(super) fn get(&self) -> Result<&Index> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let index = self.opened.index()?;
        Ok(self.index.get_or_init(|| index))
    }
}

/// An opened repository, as one operation on one series uses it.
pub(super) struct Opened {
    pub(super) directory: Arc<Directory>,
    pub(super) cipher: Cipher,
    pub(super) known: Arc<Known>,
    /// Length of its chunks, bytes.
    pub(super) chunk_bytes: u32,
    /// The series, when others are in the same repository.
    pub(super) shared_series: Option<String>,
}

impl Opened {
    /// The index as it is now.
    pub(super) fn index(&self) -> Result<Index> {
        Index::load(&self.directory, &self.cipher, &self.known.index)
    }

    /// The index, loaded when it is first asked for.
    pub(super) fn index_on_demand(&self) -> IndexOnDemand<'_> {
        IndexOnDemand { opened: self, index: OnceCell::new() }
    }

    /// Whether the snapshot is in the series that was opened.
    pub(super) fn owns(&self, snapshot: &SnapshotDocument) -> bool {
        self.shared_series.is_none() || snapshot.series() == self.shared_series.as_deref()
    }

    /// The snapshot `id` of the series; [`Kind::Missing`] when it is not there, or in another series.
    pub(super) fn snapshot(&self, id: &Id) -> Result<Arc<SnapshotDocument>> {
        let snapshot = read::snapshot(&self.directory, &self.cipher, id)?;
        if self.owns(&snapshot) {
            return Ok(Arc::new(snapshot));
        }
        Err(DriverError::new(Kind::Missing, format!("opening restore point {id}"), "it belongs to another series"))
    }

    /// Every snapshot of the series, in no order. What is damaged is left out with a warning.
    pub(super) fn snapshots(&self) -> Result<Vec<(Id, Arc<SnapshotDocument>)>> {
        let mut all = self.all_snapshots()?;
        all.retain(|(_, snapshot)| self.owns(snapshot));
        Ok(all)
    }

    /// Every snapshot of the repository.
    pub(super) fn all_snapshots(&self) -> Result<Vec<(Id, Arc<SnapshotDocument>)>> {
        let mut kept = self.known.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = HashMap::new();
        let mut all = Vec::new();
        for id in self.directory.ids(FileKind::Snapshot)? {
            let snapshot = match kept.remove(&id) {
                Some(snapshot) => snapshot,
                None => match read::snapshot(&self.directory, &self.cipher, &id) {
                    Ok(snapshot) => Arc::new(snapshot),
                    // Forgotten since the folder was read.
                    Err(error) if error.kind == Kind::Missing => continue,
                    Err(error) if error.kind == Kind::Corrupt => {
                        tracing::warn!(%error, "a damaged restore point is left out");
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            if known.len() < MAX_CACHED_SNAPSHOTS {
                known.insert(id, Arc::clone(&snapshot));
            }
            all.push((id, snapshot));
        }
        *kept = known;
        Ok(all)
    }
}
