//! A restic datastore in a directory of its own, with small chunks.
#![allow(dead_code, reason = "no test needs all of it")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use drivers::datastore::{Change, Depth, RestoreRequest, Restored, SourceDisk, StoreRequest, Verified, VerifyRequest};
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, Cancel, DiskReader, Extent, Progress, Result, Secret};
use tempfile::TempDir;

use super::memory::{MemoryReader, MemoryWriter};

pub const PASSWORD: &str = "not a secret";
pub const CHUNK: u64 = 4096;

pub struct Rig {
    pub base: TempDir,
    pub datastore: ResticDatastore,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ResticConfig)) -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut config = ResticConfig {
            chunk_bytes: CHUNK as u32,
            lease_wait: Duration::from_millis(100),
            threads: 2,
            pack_bytes: 1 << 20,
            ..ResticConfig::new(base.path().to_owned(), Secret::new(PASSWORD.to_owned()))
        };
        change(&mut config);
        Self { datastore: ResticDatastore::new(config).unwrap(), base }
    }

    /// Stores one disk per entry, numbered from 0.
    pub fn store(&self, job: &str, parent: Option<&str>, disks: Vec<(MemoryReader, Change)>) -> String {
        let disks = disks
            .into_iter()
            .zip(0..)
            .map(|((reader, change), id)| SourceDisk { id, reader: Box::new(reader), change, marked: None })
            .collect();
        let request =
            StoreRequest { series: "7", tags: &[], job, time: 1_700_000_000, parent, document: b"<VM><ID>7</ID></VM>" };
        self.datastore.store(&request, disks, &Progress::default(), &Cancel::default()).unwrap().point
    }

    pub fn full(&self, job: &str, disk: &[u8]) -> String {
        self.store(job, None, vec![(MemoryReader::whole(disk), Change::Whole)])
    }

    pub fn increment(&self, job: &str, parent: &str, disk: &[u8], changed: Vec<Extent>) -> String {
        self.store(job, Some(parent), vec![(MemoryReader::changed(disk, changed), Change::SinceParent)])
    }

    pub fn restore(
        &self,
        point: &str,
        disk: u32,
        size: usize,
        skip_bad: bool,
        current: Option<Box<dyn DiskReader>>,
    ) -> Result<(Vec<u8>, Restored)> {
        let mut writer = MemoryWriter { data: vec![0; size], ..MemoryWriter::default() };
        let request = RestoreRequest { series: "7", point, disk, skip_bad, current };
        let restored = self.datastore.restore(request, &mut writer, &Progress::default(), &Cancel::default())?;
        assert_eq!(writer.written, restored.written_bytes);
        Ok((writer.data, restored))
    }

    pub fn verify(&self, points: &[String], depth: Depth) -> Result<Verified> {
        let request = VerifyRequest { series: "7", points, depth, resume: None };
        self.datastore.verify(&request, &mut |_| Ok(()), &Progress::default(), &Cancel::default())
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.base.path().join("7").join(below)
    }

    /// The files below a folder of the repository, the largest first.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = files(&self.path(folder));
        found.sort_by_key(|path| (std::cmp::Reverse(path.metadata().unwrap().len()), path.clone()));
        found
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The eight digits that people see of a file's name.
pub fn short(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy()[..8].to_owned()
}

/// Whether `given` is `model` outside of `damages`, and zero within.
pub fn is_model_outside(model: &[u8], given: &[u8], damages: &[drivers::datastore::Damage]) -> bool {
    let mut expected = model.to_vec();
    for damage in damages {
        expected[damage.offset as usize..(damage.offset + damage.length) as usize].fill(0);
    }
    expected == given
}

/// Flips a bit of a file.
pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}
