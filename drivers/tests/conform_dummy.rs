//! The dummy datastore and the suite that every datastore passes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;
#[macro_use]
mod conformance;

use std::path::PathBuf;

use drivers::BackupDatastore;
use drivers::dummy::{DummyDatastore, Script};
use tempfile::TempDir;

struct Rig(TempDir);

impl conformance::Rig for Rig {
    fn open(&self) -> Box<dyn BackupDatastore> {
        Box::new(DummyDatastore::open(&self.place(), Script::default()).unwrap())
    }

    fn place(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn chunk(&self) -> u64 {
        64 << 10
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = conformance::files_below(&self.place()).into_iter().map(|(path, _)| path);
        files.filter(|path| !path.starts_with(self.place().join(".locks"))).collect()
    }
}

conformance!(Rig(conformance::folder()));
