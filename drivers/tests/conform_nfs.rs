//! The datastore of plain files and the suite that every datastore passes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;
#[macro_use]
mod conformance;

use std::path::PathBuf;
use std::time::Duration;

use drivers::BackupDatastore;
use drivers::nfs::{NfsConfig, NfsDatastore};
use tempfile::TempDir;

struct Rig(TempDir);

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        Self(folder)
    }

    fn with(&self, write_gate: Option<conformance::Gate>) -> Box<dyn BackupDatastore> {
        let place = conformance::Rig::place(self);
        let config = NfsConfig { lease_wait: Duration::from_secs(10), threads: 2, write_gate, ..NfsConfig::new(place) };
        Box::new(NfsDatastore::new(config).unwrap())
    }
}

impl conformance::Rig for Rig {
    fn open(&self) -> Box<dyn BackupDatastore> {
        self.with(None)
    }

    fn open_gated(&self, gate: conformance::Gate) -> Option<Box<dyn BackupDatastore>> {
        Some(self.with(Some(gate)))
    }

    fn place(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn chunk(&self) -> u64 {
        drivers::qcow2::CLUSTER_BYTES
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = conformance::files_below(&self.place()).into_iter().map(|(path, _)| path);
        files.filter(|path| !path.strip_prefix(self.place()).unwrap().starts_with(".lease")).collect()
    }
}

conformance!(Rig::new());
