//! One restore point of the dummy datastore: making, looking up and removing it.
//!
//! Whoever makes or removes one holds the lock of its series. Readers hold none: what they have open stays as it is.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::blocks::{BlockTable, digest};
use super::files;
use super::gate::Gate;
use super::script::Operation;
use super::store::{Base, store_disk};
use crate::datastore::{Change, PointFacts, SourceDisk, StoreRequest, Stored, StoredDisk};
use crate::{Cancel, DriverError, Kind, Progress, Result, disk};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const DOCUMENT: &str = "vm.xml";

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
    /// As in [`Stored::saved_bytes`]; manifests of old have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    saved_bytes: Option<u64>,
    document_sha256: String,
    pub(super) disks: Vec<ManifestDisk>,
    /// Digest of the manifest as it is without this one; manifests of old have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManifestDisk {
    pub(super) id: u32,
    pub(super) table: BlockTable,
}

impl Manifest {
    /// The digest that [`Self::sha256`] has to be.
    fn digest(&mut self) -> Result<String> {
        let told = self.sha256.take();
        let text = serde_json::to_vec(self);
        self.sha256 = told;
        let failed = |error| DriverError::other(Kind::Permanent, "describing a restore point", error);
        text.map(|text| digest(&text)).map_err(failed)
    }

    pub(super) fn stored(&self, id: &str) -> Stored {
        let disks = self.disks.iter().map(|disk| StoredDisk { id: disk.id, size_bytes: disk.table.size_bytes });
        Stored {
            point: id.to_owned(),
            read_bytes: self.read_bytes,
            stored_bytes: self.stored_bytes,
            saved_bytes: self.saved_bytes,
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

    pub(super) fn table(&self, id: u32) -> Option<&BlockTable> {
        self.disks.iter().find(|disk| disk.id == id).map(|disk| &disk.table)
    }
}

/// The folder of a point, which need not exist.
pub(super) struct Point {
    folder: PathBuf,
}

pub(super) fn missing(id: &str) -> DriverError {
    DriverError::new(Kind::Missing, format!("opening restore point {id}"), "it is not there")
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
        if disk.change == Change::Whole {
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

    pub(super) fn disk(&self, id: u32) -> PathBuf {
        self.folder.join(format!("disk.{id}"))
    }

    /// Whether the point exists.
    pub(super) fn is_published(&self) -> bool {
        self.folder.join(MANIFEST).exists()
    }

    /// What the point is; none = it does not exist.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when the manifest is not what was written.
    pub(super) fn manifest(&self) -> Result<Option<Manifest>> {
        let path = self.folder.join(MANIFEST);
        let Some(mut manifest) = files::read_document::<Manifest>(&path)? else { return Ok(None) };
        let found = manifest.digest()?;
        if manifest.sha256.as_ref().is_some_and(|told| *told != found) {
            let doing = format!("reading {}", path.display());
            return Err(DriverError::new(Kind::Corrupt, doing, "it does not have its digest"));
        }
        Ok(Some(manifest))
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
    /// [`Kind::Corrupt`] when it is not what was stored; [`Kind::Missing`] when the point `id` was forgotten meanwhile.
    pub(super) fn document(&self, id: &str, manifest: &Manifest) -> Result<Vec<u8>> {
        let path = self.folder.join(DOCUMENT);
        let doing = || format!("reading {}", path.display());
        let document = match std::fs::read(&path) {
            Ok(document) => document,
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_published() => {
                return Err(DriverError::new(Kind::Corrupt, doing(), "it is not there"));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(id)),
            Err(error) => return Err(DriverError::io(doing(), error)),
        };
        if digest(&document) == manifest.document_sha256 {
            return Ok(document);
        }
        Err(DriverError::new(Kind::Corrupt, doing(), "it does not have its digest"))
    }

    /// Stores the point; its manifest is the last thing written. What it leaves after an error is no point. Gives also
    /// the bytes that changed unmarked.
    pub(super) fn store(
        &self,
        gate: &Gate,
        request: &StoreRequest<'_>,
        disks: impl Iterator<Item = (SourceDisk, Option<Base>)>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(Manifest, u64)> {
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
            saved_bytes: Some(0),
            document_sha256: digest(request.document),
            disks: Vec::new(),
            sha256: None,
        };
        let mut unmarked_bytes = 0_u64;
        for (mut disk, base) in disks {
            cancel.check()?;
            let path = self.disk(disk.id);
            let written = gate.around(Operation::StoreDisk, request.series, Some(cancel), || {
                store_disk(&mut disk, base, &path, progress, cancel)
            })?;
            manifest.read_bytes = manifest.read_bytes.saturating_add(written.read_bytes);
            manifest.stored_bytes = manifest.stored_bytes.saturating_add(written.stored_bytes);
            let saved = manifest.saved_bytes.unwrap_or_default();
            manifest.saved_bytes = Some(saved.saturating_add(written.saved_bytes));
            unmarked_bytes = unmarked_bytes.saturating_add(written.unmarked_bytes);
            manifest.disks.push(ManifestDisk { id: disk.id, table: written.table });
        }
        manifest.disks.sort_by_key(|disk| disk.id);
        manifest.sha256 = Some(manifest.digest()?);
        files::publish(&self.folder.join(DOCUMENT), |mut file| file.write_all(request.document))?;
        cancel.check()?;
        gate.around(Operation::Seal, request.series, Some(cancel), || {
            // The point's own name before the manifest, which makes it one.
            self.folder.parent().map_or(Ok(()), files::sync_directory)?;
            files::write_document(&self.folder.join(MANIFEST), &manifest)
        })?;
        Ok((manifest, unmarked_bytes))
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
