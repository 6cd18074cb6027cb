//! The engine's hands: hypervisors by host, backup datastores by record. Kept open, remade when their address changes.

#[cfg(feature = "testing")]
mod plug;
mod shares;
mod stores;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drivers::dummy::{DummyDatastore, DummyHypervisor, Script};
use drivers::hypervisor::DomainEvent;
use drivers::{BackupDatastore, DriverError, Hypervisor, Kind, Result, Secret};
use one_core::backup::settings::{NFS, RESTIC};

use crate::hosts::{self, DUMMY};
use crate::secret::SecretKey;
use crate::store::rows::{DatastoreRow, HostRow};

#[cfg(feature = "testing")]
pub use plug::{Flaw, How, Plug};
pub use stores::{Isolation, SERVE, Stores, serve};

/// How long an orderly end waits for who works with a datastore, and then for processes and mounts to go.
const CLOSING: Duration = Duration::from_secs(5);

/// An opened datastore, with the text that it was opened with.
struct Opened {
    facts: Secret,
    driver: Arc<dyn BackupDatastore>,
}

/// The place of a datastore, held while it is opened: only who wants the same one waits.
type Slot = Arc<Mutex<Option<Opened>>>;

/// What is outside of the daemon.
pub struct Outside {
    /// Where the dummy drivers keep what they pretend; none = they are not allowed.
    dummies: Option<PathBuf>,
    stores: Stores,
    hypervisors: Mutex<HashMap<String, Arc<dyn Hypervisor>>>,
    datastores: Mutex<HashMap<i64, Slot>>,
    /// Whether mounts that an earlier daemon left were compared with the datastores that there are.
    compared: AtomicBool,
    closed: AtomicBool,
    events: Sender<DomainEvent>,
    /// Counts calls, for tests.
    #[cfg(feature = "testing")]
    plug: Arc<Plug>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outside {
    /// Hands whose hypervisors report to `events`. Dummy drivers work only where `dummies` names a directory for them; all
    /// other backup datastores are opened as `stores` says.
    #[must_use]
    pub fn new(events: Sender<DomainEvent>, dummies: Option<PathBuf>, stores: Stores) -> Self {
        let (hypervisors, datastores) = (Mutex::default(), Mutex::default());
        let (compared, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self {
            dummies,
            stores,
            hypervisors,
            datastores,
            compared,
            closed,
            events,
            #[cfg(feature = "testing")]
            plug: Arc::default(),
        }
    }

    /// Where tests let calls fail.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn plug(&self) -> &Plug {
        &self.plug
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
        #[cfg(feature = "testing")]
        let hypervisor = plug::hypervisor(hypervisor, &self.plug);
        hypervisor.subscribe(self.events.clone())?;
        let mut known = self.hypervisors.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(known.entry(uri).or_insert(hypervisor)))
    }

    /// The driver of a backup datastore, whose secrets `secret` opens. Waits when its share has changed and the old one is
    /// still mounted, and for others who open the same datastore.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for attributes that make no datastore, or secrets of another daemon; [`Kind::Retry`] when the old
    /// share cannot be unmounted, and when the daemon ends.
    pub fn datastore(&self, secret: &SecretKey, row: &DatastoreRow) -> Result<Arc<dyn BackupDatastore>> {
        let slot = Arc::clone(lock(&self.datastores).entry(row.id).or_default());
        let mut slot = lock(&slot);
        // After the lock: who waited for it while the daemon ended must not open anything.
        if self.closed.load(Ordering::Acquire) {
            return Err(DriverError::new(Kind::Retry, opening(row), "the daemon is ending"));
        }
        let plan = match row.ds_mad.as_str() {
            RESTIC | NFS => Some(self.stores.plan(secret, row)?),
            DUMMY => None,
            other => {
                let reason = format!("DS_MAD {other} is not known");
                return Err(DriverError::new(Kind::Permanent, opening(row), reason));
            }
        };
        let facts = plan.as_ref().map(serde_json::to_string).transpose();
        let facts = facts.map_err(|error| DriverError::io(opening(row), error.into()))?.unwrap_or_default();
        if let Some(opened) = slot.as_ref().filter(|opened| opened.facts.expose() == facts) {
            return Ok(Arc::clone(&opened.driver));
        }
        let alone = is_idle(slot.as_ref());
        // Its process goes when the last one who works with it is done.
        *slot = None;
        self.stores.change_mount(row.id, plan.as_ref().and_then(|plan| plan.mount.as_ref()), alone)?;
        let driver = match &plan {
            Some(plan) => self.stores.open(plan, &facts, row)?,
            None => {
                let directory = self.dummy_directory(&format!("datastore-{}", row.id))?;
                Arc::new(DummyDatastore::open(&directory, Script::default())?)
            }
        };
        #[cfg(feature = "testing")]
        let driver = plug::datastore(driver, &self.plug);
        *slot = Some(Opened { facts: Secret::new(facts), driver: Arc::clone(&driver) });
        Ok(driver)
    }

    /// Lets go of the datastores that are none of `ids`, and unmounts their shares, on threads of their own.
    pub fn keep_datastores(&self, ids: &HashSet<i64>) {
        let mut gone: HashMap<i64, Option<Slot>> =
            lock(&self.datastores).extract_if(|id, _| !ids.contains(id)).map(|(id, slot)| (id, Some(slot))).collect();
        if !self.compared.swap(true, Ordering::AcqRel) {
            for id in self.stores.with_mounts().difference(ids) {
                gone.entry(*id).or_default();
            }
        }
        for (id, slot) in gone {
            let stores = self.stores.clone();
            let leave = move || {
                let alone = slot.is_none_or(|slot| {
                    let opened = lock(&slot).take();
                    is_idle(opened.as_ref())
                });
                if let Err(error) = stores.unmount(id, alone) {
                    tracing::warn!(target: "STO", "Datastore {id} is gone, but not its mount: {error}");
                }
            };
            if let Err(error) = std::thread::Builder::new().name(format!("unmount-{id}")).spawn(leave) {
                tracing::error!(target: "STO", "No thread to unmount datastore {id}: {error}");
            }
        }
    }

    /// Ends the processes of datastores and unmounts what can be unmounted within a few seconds. What cannot, because it is
    /// in use or its server is dead, stays mounted for the next daemon. Nothing is opened afterwards.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.let_go(std::time::Instant::now() + CLOSING);
        let (done, ended) = mpsc::channel();
        let mut open = 0;
        for id in self.stores.with_mounts() {
            let (stores, done) = (self.stores.clone(), done.clone());
            let unmount = move || {
                if let Err(error) = stores.unmount(id, false) {
                    tracing::info!(target: "STO", "The share of datastore {id} stays mounted: {error}");
                }
                // Nobody listens any more when it took too long.
                let _ = done.send(());
            };
            open += u32::from(std::thread::Builder::new().name(format!("unmount-{id}")).spawn(unmount).is_ok());
        }
        let until = std::time::Instant::now() + CLOSING;
        while open > 0 {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if ended.recv_timeout(left).is_err() {
                return;
            }
            open -= 1;
        }
    }

    /// Lets go of all datastores. One that somebody opens or works with just now may be about to mount its share, which
    /// nobody would unmount: it is waited for, until `until`.
    fn let_go(&self, until: std::time::Instant) {
        // Not held while waiting: who works with one may ask for it again, and has to hear that the daemon ends.
        let slots: Vec<Slot> = lock(&self.datastores).drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            loop {
                // When it is late: its opener has it to itself, and who works with it keeps it until the process ends.
                let late = std::time::Instant::now() >= until;
                if let Ok(mut slot) = slot.try_lock()
                    && (late || is_idle(slot.as_ref()))
                {
                    *slot = None;
                    break;
                }
                if late {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
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

/// Whether nobody works with it but who asks.
fn is_idle(opened: Option<&Opened>) -> bool {
    opened.is_none_or(|opened| Arc::strong_count(&opened.driver) == 1)
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
