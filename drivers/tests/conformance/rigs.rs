//! The real drivers as the suite sees them: here, or in processes of their own.
#![allow(dead_code, reason = "each driver's test file takes one")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drivers::nfs::{NfsConfig, NfsDatastore};
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, Result, Secret};
use tempfile::TempDir;

use super::{Gate, Rig, files_below};
use crate::shared::isolated::{SURELY, isolated};

/// Which driver, and how it is set up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// A repository for each series.
    Restic,
    /// One repository for all.
    ResticShared,
    Nfs,
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::ResticShared => "restic-shared",
            Self::Nfs => "nfs",
        }
    }

    fn open(self, place: &Path, write_gate: Option<Gate>) -> Result<Box<dyn BackupDatastore>> {
        let lease_wait = Duration::from_secs(10);
        if self == Self::Nfs {
            let config = NfsConfig { lease_wait, threads: 2, write_gate, ..NfsConfig::new(place.to_owned()) };
            return Ok(Box::new(NfsDatastore::new(config)?));
        }
        let config = ResticConfig {
            shared: self == Self::ResticShared,
            chunk_bytes: 4096,
            lease_wait,
            threads: 2,
            pack_bytes: 1 << 20,
            write_gate,
            ..ResticConfig::new(place.to_owned(), Secret::new("not a secret".to_owned()))
        };
        Ok(Box::new(ResticDatastore::new(config)?))
    }
}

/// A store in a directory of its own.
pub struct Store {
    folder: TempDir,
    driver: Driver,
    is_isolated: bool,
}

impl Store {
    /// In memory: the suite asks for so many durable files that a disk would make it slow, and no test here pulls the plug.
    pub fn here(driver: Driver) -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        Self { folder, driver, is_isolated: false }
    }

    /// Every opening is a process. The test binary has to serve, see [`open_by_name`].
    pub fn isolated(driver: Driver) -> Self {
        Self { is_isolated: true, ..Self::here(driver) }
    }
}

/// Opens what an isolated [`Store`] names, in its process.
pub fn open_by_name(config: &str) -> Result<Arc<dyn BackupDatastore>> {
    let (name, place) = config.split_once(' ').unwrap();
    let mut drivers = [Driver::Restic, Driver::ResticShared, Driver::Nfs].into_iter();
    drivers.find(|driver| driver.name() == name).unwrap().open(Path::new(place), None).map(Arc::from)
}

impl Rig for Store {
    fn open(&self) -> Box<dyn BackupDatastore> {
        let place = self.place();
        if self.is_isolated {
            return Box::new(isolated(&format!("{} {}", self.driver.name(), place.display()), SURELY));
        }
        self.driver.open(&place, None).unwrap()
    }

    fn open_gated(&self, gate: Gate) -> Option<Box<dyn BackupDatastore>> {
        (!self.is_isolated).then(|| self.driver.open(&self.place(), Some(gate)).unwrap())
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn chunk(&self) -> u64 {
        if self.driver == Driver::Nfs { drivers::qcow2::CLUSTER_BYTES } else { 4096 }
    }

    fn files(&self) -> Vec<PathBuf> {
        let files = files_below(&self.place()).into_iter().map(|(path, _)| path);
        let holds_points = |path: &PathBuf| {
            let inside = path.strip_prefix(self.place()).unwrap().to_string_lossy().into_owned();
            !inside.starts_with('.') && !inside.contains("/locks/")
        };
        files.filter(holds_points).collect()
    }
}
