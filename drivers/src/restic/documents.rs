//! The JSON documents of a restic repository: index, tree, snapshot and lock.
//!
//! Fields and their order are those of restic's own encoder (restic design document, "Indexing", "Snapshots", "Trees and
//! Data", "Locks"): restic re-encodes trees and compares, so the order is part of the format. What only we use is under
//! the key `keeplast` of a snapshot; others ignore it.

use std::num::NonZeroU32;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::format::{BlobKind, Id};
use crate::datastore::StoredDisk;

/// The directory that holds everything of a restore point.
pub(super) const POINT_DIRECTORY: &str = "one";
/// Name of the VM's document in it.
pub(super) const DOCUMENT_NAME: &str = "vm.xml";
/// Name of the only file in the folder of one part of a large disk.
pub(super) const PART_FILE: &str = "data";
/// Go's bit for a directory, as restic writes it into `mode`.
const GO_DIRECTORY: u32 = 1 << 31;

/// One index file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct IndexDocument {
    /// Packs and what is in them.
    pub(super) packs: Vec<IndexedPack>,
}

/// One pack in an index file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IndexedPack {
    /// Its name.
    pub(super) id: Id,
    /// When it was written; rustic's addition, which protects young packs from an age limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) time: Option<String>,
    /// Its blobs.
    pub(super) blobs: Vec<IndexedBlob>,
}

/// One blob in an index file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IndexedBlob {
    /// Its id.
    pub(super) id: Id,
    /// Its kind.
    #[serde(rename = "type")]
    pub(super) kind: BlobKind,
    /// First byte in the pack.
    pub(super) offset: u32,
    /// Sealed length.
    pub(super) length: u32,
    /// Plain length; when not compressed restic leaves it out and rustic writes null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uncompressed_length: Option<NonZeroU32>,
}

/// A directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tree {
    /// Its entries, sorted by name.
    pub(super) nodes: Vec<Node>,
}

impl Tree {
    /// Sorts the entries and gives the bytes that are stored (JSON and a newline).
    pub(super) fn encode(mut self) -> serde_json::Result<Vec<u8>> {
        self.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let mut json = serde_json::to_vec(&self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// The entry called `name`.
    pub(super) fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// What a directory entry is; other kinds than ours occur in foreign snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// A directory entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Node {
    /// Its name.
    pub(super) name: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub(super) kind: NodeKind,
    #[serde(default, skip_serializing_if = "is_default")]
    mode: u32,
    #[serde(default)]
    mtime: String,
    #[serde(default)]
    atime: String,
    #[serde(default)]
    ctime: String,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    /// Bytes of a file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    links: u64,
    /// The blobs of a file, in order.
    #[serde(default)]
    pub(super) content: Option<Vec<Id>>,
    /// The tree of a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subtree: Option<Id>,
}

impl Node {
    /// A regular file of `size` bytes, last changed at `time` (epoch seconds).
    pub(super) fn file(name: impl Into<String>, time: i64, size: u64, content: Vec<Id>) -> Self {
        Self { size, links: 1, content: Some(content), mode: 0o600, ..Self::bare(name.into(), NodeKind::File, time) }
    }

    /// A directory.
    pub(super) fn directory(name: impl Into<String>, time: i64, subtree: Id) -> Self {
        let mode = GO_DIRECTORY | 0o700;
        Self { subtree: Some(subtree), mode, ..Self::bare(name.into(), NodeKind::Dir, time) }
    }

    fn bare(name: String, kind: NodeKind, time: i64) -> Self {
        let time = timestamp(time);
        Self {
            name,
            kind,
            mode: 0,
            mtime: time.clone(),
            atime: time.clone(),
            ctime: time,
            uid: 0,
            gid: 0,
            size: 0,
            links: 0,
            content: None,
            subtree: None,
        }
    }
}

/// A snapshot file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotDocument {
    /// Point in time of the data.
    pub(super) time: String,
    /// The snapshot it was spliced from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Id>,
    /// Its root directory.
    pub(super) tree: Id,
    /// What was backed up, as outside tools show it.
    pub(super) paths: Vec<String>,
    /// Always `one` in ours.
    #[serde(default)]
    pub(super) hostname: String,
    /// Always `keeplast` in ours.
    #[serde(default)]
    pub(super) username: String,
    /// Labels; the job's name is among them.
    #[serde(default)]
    pub(super) tags: Option<Vec<String>>,
    /// The program that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) program_version: Option<String>,
    /// Counts that outside tools show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) summary: Option<Summary>,
    /// What only we read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keeplast: Option<Extension>,
}

/// Counts of one backup, as restic 0.17 and later keep them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Summary {
    pub(super) backup_start: String,
    pub(super) backup_end: String,
    pub(super) files_new: u64,
    pub(super) files_changed: u64,
    pub(super) files_unmodified: u64,
    pub(super) dirs_new: u64,
    pub(super) dirs_changed: u64,
    pub(super) dirs_unmodified: u64,
    pub(super) data_blobs: u64,
    pub(super) tree_blobs: u64,
    pub(super) data_added: u64,
    pub(super) data_added_packed: u64,
    pub(super) total_files_processed: u64,
    pub(super) total_bytes_processed: u64,
}

/// What a restore point is to us: what it cost, and whose it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Extension {
    /// Bytes read from the disks.
    pub(super) read_bytes: u64,
    /// Bytes that the repository grew by, the snapshot file itself not counted.
    pub(super) stored_bytes: u64,
    /// As in [`crate::datastore::Stored::saved_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) saved_bytes: Option<u64>,
    /// As in [`crate::datastore::Stored::unmarked_bytes`].
    #[serde(skip_serializing_if = "is_default")]
    pub(super) unmarked_bytes: u64,
    /// Its disks, by id: so that listing points reads no directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disks: Option<Vec<StoredDisk>>,
    /// The operation that made it; also the last tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<String>,
    /// The series, in a repository that several share; also the tag before the last, after `series=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) series: Option<String>,
}

/// How the tag of a series begins.
const SERIES_TAG: &str = "series=";
/// How the tag of an operation begins in points that have no [`Extension::job`].
const JOB_TAG: &str = "job=";

/// The tags of a snapshot: the caller's, the series where several share the repository, the job.
pub(super) fn tags(labels: &[String], series: Option<&str>, job: &str) -> Vec<String> {
    let series = series.map(|series| format!("{SERIES_TAG}{series}"));
    labels.iter().cloned().chain(series).chain([job.to_owned()]).collect()
}

impl SnapshotDocument {
    /// The series it belongs to, in a shared repository.
    pub(super) fn series(&self) -> Option<&str> {
        // The tag alone is left when another program rewrote the snapshot.
        let tag = || self.tags.iter().flatten().rev().find_map(|tag| tag.strip_prefix(SERIES_TAG));
        self.keeplast.as_ref().and_then(|own| own.series.as_deref()).or_else(tag)
    }

    /// The operation that made it.
    pub(super) fn job(&self) -> Option<&str> {
        let tag = || self.tags.iter().flatten().rev().find(|tag| tag.starts_with(JOB_TAG)).map(String::as_str);
        self.keeplast.as_ref().and_then(|own| own.job.as_deref()).or_else(tag)
    }

    /// Whether `job` made it.
    pub(super) fn is_of(&self, job: &str) -> bool {
        match self.keeplast.as_ref().and_then(|own| own.job.as_deref()) {
            Some(own) => own == job,
            None => self.tags.iter().flatten().any(|tag| tag == job),
        }
    }

    /// The caller's labels, with `shared` when the repository is shared: the tags without those that we added.
    pub(super) fn labels(&self, shared: bool) -> Vec<String> {
        let mut labels = self.tags.clone().unwrap_or_default();
        let series = self.series().filter(|_| shared).map(|series| format!("{SERIES_TAG}{series}"));
        for ours in [self.job().map(str::to_owned), series].into_iter().flatten() {
            if let Some(at) = labels.iter().rposition(|tag| *tag == ours) {
                labels.remove(at);
            }
        }
        labels
    }
}

/// A lock file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LockDocument {
    /// When it was made or renewed; restic calls one older than 30 minutes stale.
    pub(super) time: String,
    /// Whether its owner bears nobody beside it.
    pub(super) exclusive: bool,
    /// Host of the owner.
    #[serde(default)]
    pub(super) hostname: String,
    /// User of the owner.
    #[serde(default)]
    pub(super) username: String,
    /// Process of the owner.
    #[serde(default)]
    pub(super) pid: i32,
}

/// RFC 3339 in UTC; seconds that no calendar holds become the epoch.
pub(super) fn timestamp(epoch_seconds: i64) -> String {
    DateTime::<Utc>::from_timestamp(epoch_seconds, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The present, RFC 3339 in UTC.
pub(super) fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
