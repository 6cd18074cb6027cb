//! The engine's hands: hypervisors by host, backup datastores by record. Kept open, remade when their address changes.

use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use drivers::dummy::{DummyDatastore, DummyHypervisor, Script};
use drivers::hypervisor::DomainEvent;
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, DriverError, Hypervisor, Kind, Result, Secret};
use one_core::refusal::ObjectKind;

use crate::config::AttributeList;
use crate::hosts::{self, DUMMY};
use crate::ledger::stored;
use crate::secret::SecretKey;
use crate::store::rows::{DatastoreRow, HostRow};

/// Largest chunk that a datastore may ask for, KiB; the smallest is 64.
const CHUNK_MAX_KIB: i64 = 4096;

/// An opened datastore, with the facts that it was opened from.
struct Opened {
    facts: String,
    driver: Arc<dyn BackupDatastore>,
}

/// What is outside of the daemon.
pub struct Outside {
    /// Where the dummy drivers keep what they pretend; none = they are not allowed.
    dummies: Option<PathBuf>,
    hypervisors: Mutex<HashMap<String, Arc<dyn Hypervisor>>>,
    datastores: Mutex<HashMap<i64, Opened>>,
    events: Sender<DomainEvent>,
}

impl Outside {
    /// Hands whose hypervisors report to `events`. Dummy drivers work only where `dummies` names a directory for them.
    #[must_use]
    pub fn new(events: Sender<DomainEvent>, dummies: Option<PathBuf>) -> Self {
        Self { dummies, hypervisors: Mutex::default(), datastores: Mutex::default(), events }
    }

    /// The hypervisor of a host.
    ///
    /// # Errors
    /// [`Kind::Retry`] when it cannot be reached now.
    pub fn hypervisor(&self, host: &HostRow) -> Result<Arc<dyn Hypervisor>> {
        let dummy = host.vm_mad == DUMMY;
        let uri = if dummy { format!("{DUMMY}:{}", host.id) } else { hosts::uri(host) };
        if let Some(known) = self.hypervisors.lock().unwrap_or_else(PoisonError::into_inner).get(&uri) {
            return Ok(Arc::clone(known));
        }
        // Connected outside the lock: an address that does not answer must not stop the others.
        let hypervisor: Arc<dyn Hypervisor> = if dummy {
            let directory = self.dummy_directory(&format!("host-{}", host.id))?;
            Arc::new(DummyHypervisor::open(&directory, Script::default())?)
        } else {
            Arc::new(drivers::libvirt::Libvirt::connect(&uri)?)
        };
        hypervisor.subscribe(self.events.clone())?;
        let mut known = self.hypervisors.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(known.entry(uri).or_insert(hypervisor)))
    }

    /// The driver of a backup datastore, whose password `secret` opens.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for attributes that make no datastore, or a password of another daemon.
    pub fn datastore(&self, secret: &SecretKey, row: &DatastoreRow) -> Result<Arc<dyn BackupDatastore>> {
        let mut known = self.datastores.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = format!("{}\n{}", row.base_path, row.template);
        if let Some(opened) = known.get(&row.id).filter(|opened| opened.facts == facts) {
            return Ok(Arc::clone(&opened.driver));
        }
        let driver = self.open_datastore(secret, row)?;
        known.insert(row.id, Opened { facts, driver: Arc::clone(&driver) });
        Ok(driver)
    }

    fn open_datastore(&self, secret: &SecretKey, row: &DatastoreRow) -> Result<Arc<dyn BackupDatastore>> {
        match row.ds_mad.as_str() {
            "restic" => open_restic(secret, row),
            DUMMY => {
                let directory = self.dummy_directory(&format!("datastore-{}", row.id))?;
                Ok(Arc::new(DummyDatastore::open(&directory, Script::default())?))
            }
            other => Err(DriverError::new(Kind::Permanent, opening(row), format!("DS_MAD {other} is not known"))),
        }
    }

    /// The directory of one dummy driver.
    fn dummy_directory(&self, name: &str) -> Result<PathBuf> {
        let refused = || {
            let reason = "DUMMY_DRIVERS is not YES in oned.conf, and the dummy drivers keep nothing safe";
            DriverError::new(Kind::Permanent, format!("opening the dummy driver of {name}"), reason)
        };
        Ok(self.dummies.as_ref().ok_or_else(refused)?.join(name))
    }
}

fn opening(row: &DatastoreRow) -> String {
    format!("opening datastore {} ({})", row.id, row.name)
}

fn open_restic(secret: &SecretKey, row: &DatastoreRow) -> Result<Arc<dyn BackupDatastore>> {
    let doing = || opening(row);
    // Opened whatever the configuration lists now: it may have listed the password when that was stored.
    let sealed: AttributeList = ["RESTIC_PASSWORD"].into_iter().collect();
    let template = secret
        .open(ObjectKind::Datastore, &stored(&row.template), &sealed)
        .map_err(|error| DriverError::new(Kind::Permanent, doing(), error.to_string()))?;
    let password = template.scalar("RESTIC_PASSWORD").unwrap_or_default();
    if password.is_empty() {
        return Err(DriverError::new(
            Kind::Permanent,
            doing(),
            "it has no RESTIC_PASSWORD; set it with onedatastore update",
        ));
    }
    let mut config = ResticConfig::new(PathBuf::from(&row.base_path), Secret::new(password.to_string()));
    if let Some(kib) = template.int("CHUNK_SIZE_KB") {
        if !(64..=CHUNK_MAX_KIB).contains(&kib) || !(kib.cast_unsigned()).is_power_of_two() {
            let reason = format!("CHUNK_SIZE_KB {kib} must be a power of two from 64 to {CHUNK_MAX_KIB}");
            return Err(DriverError::new(Kind::Permanent, doing(), reason));
        }
        config.chunk_bytes = u32::try_from(kib * 1024).unwrap_or(config.chunk_bytes);
    }
    match template.scalar("RESTIC_COMPRESSION").map(str::to_ascii_lowercase).as_deref() {
        None | Some("auto") => {}
        Some("off") => config.compression_level = 0,
        Some("max") => config.compression_level = 19,
        Some(other) => {
            let reason = format!("RESTIC_COMPRESSION {other} is not known; use auto, off or max");
            return Err(DriverError::new(Kind::Permanent, doing(), reason));
        }
    }
    Ok(Arc::new(ResticDatastore::new(config)?))
}

/// Makes the run directory (sockets of running backups) with access for nobody else. What a dead daemon left in it is
/// removed by the jobs that it belongs to.
///
/// # Errors
/// When it cannot be made, or is somebody else's: through its sockets every disk can be read.
pub fn ensure_run_directory(directory: &Path) -> Result<()> {
    let failed = |e| DriverError::io(format!("making {}", directory.display()), e);
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let facts = std::fs::symlink_metadata(directory).map_err(failed)?;
    if !facts.is_dir() || facts.uid() != rustix::process::geteuid().as_raw() {
        let reason = "it is there already and is not our own directory; remove it";
        return Err(DriverError::new(Kind::Permanent, format!("making {}", directory.display()), reason));
    }
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}
