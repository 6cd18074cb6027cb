//! The mounts of backup datastores: which were made, and taking them away again.
//!
//! A datastore's process mounts; the daemon writes down before what it will mount, so that a share that changes, or a
//! datastore that is deleted, leaves no mount behind, also when the daemon was killed in between. What a killed daemon left
//! mounted is used again by the next one.
//!
//! Invariants: a record is there before its mount, and goes after it; it holds no secret.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use drivers::mount::{MountSpec, MountState};
use drivers::{DriverError, Result};
use serde::{Deserialize, Serialize};

use super::stores::{MountPlan, Stores};

/// How long umount may take, each time.
const UMOUNT: Duration = Duration::from_secs(2);
/// How long to wait for a datastore's process to let go of its mount.
const LETTING_GO: Duration = Duration::from_secs(3);

/// A mount that was, or is to be, made.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Record {
    kind: String,
    address: String,
    point: PathBuf,
}

impl From<&MountPlan> for Record {
    fn from(plan: &MountPlan) -> Self {
        Self { kind: plan.kind.clone(), address: plan.address.clone(), point: plan.point.clone() }
    }
}

impl Stores {
    /// Sees to it that nothing else than `mount` is mounted for the datastore, and writes `mount` down. `alone`: nobody
    /// works on what is mounted now.
    ///
    /// # Errors
    /// When the old mount cannot be taken away now; when nothing can be written down.
    pub(super) fn change_mount(&self, id: i64, mount: Option<&MountPlan>, alone: bool) -> Result<()> {
        let wanted = mount.map(Record::from);
        let known = self.record(id);
        if known == wanted {
            return Ok(());
        }
        if let Some(known) = known {
            self.take_away(id, &known, alone)?;
        }
        let Some(wanted) = wanted else { return Ok(()) };
        let failed = |error: io::Error| DriverError::io(format!("writing down the mount of datastore {id}"), error);
        fs::create_dir_all(&self.mounts).map_err(failed)?;
        let text = serde_json::to_vec(&wanted).map_err(|error| failed(error.into()))?;
        let new = self.file(id).with_extension("json-new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, self.file(id))).map_err(failed)
    }

    /// Takes a datastore's mount away, if it has one. `force`: whoever works on it gets errors.
    ///
    /// # Errors
    /// When it is in use, or its server does not answer.
    pub(super) fn unmount(&self, id: i64, force: bool) -> Result<()> {
        self.record(id).map_or(Ok(()), |record| self.take_away(id, &record, force))
    }

    /// The datastores that have, or may have, a mount.
    pub(super) fn with_mounts(&self) -> HashSet<i64> {
        let names = fs::read_dir(&self.mounts).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let id = |name: &str| name.strip_prefix("datastore-")?.strip_suffix(".json")?.parse().ok();
        names.filter_map(|name| id(name.to_str()?)).collect()
    }

    fn take_away(&self, id: i64, record: &Record, force: bool) -> Result<()> {
        let spec = MountSpec {
            kind: record.kind.clone(),
            address: record.address.clone(),
            options: Vec::new(),
            secrets: Vec::new(),
            point: record.point.clone(),
            attempts: 1,
            timeout: UMOUNT,
            privileged: self.mount_command.clone(),
            run_dir: self.mounts.clone(),
        };
        let until = Instant::now() + LETTING_GO;
        // What others mounted there since is theirs.
        while spec.state()? == MountState::Ours {
            let last = Instant::now() >= until;
            match spec.unmount(last && force) {
                Ok(()) => break,
                Err(error) if last => return Err(error),
                // The datastore's process may still be ending.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
        match fs::remove_file(self.file(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DriverError::io(format!("forgetting the mount of datastore {id}"), error))
            }
            _ => Ok(()),
        }
    }

    fn record(&self, id: i64) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.file(id)).ok()?).ok()
    }

    fn file(&self, id: i64) -> PathBuf {
        self.mounts.join(format!("datastore-{id}.json"))
    }
}
