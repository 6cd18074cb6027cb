//! The restic datastore and the suite that every datastore passes: a repository for each series.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;
#[macro_use]
mod conformance;

use std::path::PathBuf;
use std::time::Duration;

use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, Secret};
use tempfile::TempDir;

struct Rig(TempDir);

impl Rig {
    fn new() -> Self {
        let folder = conformance::folder();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        Self(folder)
    }

    fn with(&self, write_gate: Option<conformance::Gate>) -> Box<dyn BackupDatastore> {
        let config = ResticConfig {
            chunk_bytes: 4096,
            lease_wait: Duration::from_secs(10),
            threads: 2,
            pack_bytes: 1 << 20,
            write_gate,
            ..ResticConfig::new(conformance::Rig::place(self), Secret::new("not a secret".to_owned()))
        };
        Box::new(ResticDatastore::new(config).unwrap())
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
        4096
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = conformance::files_below(&self.place()).into_iter().map(|(path, _)| path);
        let is_point = |path: &PathBuf| {
            let inside = path.strip_prefix(self.place()).unwrap().to_string_lossy().into_owned();
            !inside.starts_with('.') && !inside.contains("/locks/")
        };
        files.filter(is_point).collect()
    }
}

conformance!(Rig::new());
