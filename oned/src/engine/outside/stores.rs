//! Opening backup datastores: in a process of their own, which is this program again, or (for tests) in this one.
//!
//! What a datastore is opened with is one text, made here of its row and read again by [`serve`] in the other process; it
//! holds passwords and travels over a socket only.
//!
//! Invariants: the daemon itself touches no file of a datastore that has a process; nothing is written at a mount point
//! where the share is not mounted.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use drivers::isolation::{IsolatedDatastore, Launch, Opened};
use drivers::mount::{MountSpec, claim_group, probe_writable};
use drivers::nfs::{NfsConfig, NfsDatastore};
use drivers::qcow2::Compression;
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, Cancel, DriverError, Kind, Pace, Progress, Result, Secret};
use one_core::backup::ShareConfig;
use one_core::backup::settings::{Driver, ImageCompression, SECRET_ATTRIBUTES, StoreSettings};
use one_core::refusal::ObjectKind;
use serde::{Deserialize, Serialize};

use crate::clock::SystemClock;
use crate::cloud::Cloud;
use crate::config::AttributeList;
use crate::ledger::stored;
use crate::log;
use crate::secret::SecretKey;
use crate::store::rows::DatastoreRow;

/// The program's only argument in a datastore's process.
pub const SERVE: &str = "--serve-datastore";

/// How such a process is called in lists of processes; at most 15 bytes.
const PROCESS_NAME: &std::ffi::CStr = c"oned-datastore";

/// The longest that one attempt to mount may take.
const MOUNT_MAX: Duration = Duration::from_secs(60);

/// Where backup datastores are opened.
#[derive(Debug, Clone)]
pub enum Isolation {
    /// In this process: a dead server holds whoever calls. For tests that are not the daemon's program.
    InProcess,
    /// Each in a process of its own.
    Child {
        /// The program, which must call [`serve`] when it is started with [`SERVE`]; `/proc/self/exe` is this one.
        program: PathBuf,
        /// The file that its log lines are appended to.
        log: PathBuf,
    },
}

/// How backup datastores are opened and mounted.
#[derive(Debug, Clone)]
pub struct Stores {
    pub(super) isolation: Isolation,
    /// Below it the directory of a datastore is made when it is missing.
    location: PathBuf,
    /// Locks, notes and records of mounts.
    pub(super) mounts: PathBuf,
    pub(super) mount_command: Vec<String>,
    debug_level: u8,
    zone: chrono_tz::Tz,
}

impl Stores {
    /// As the configuration of `cloud` has it.
    #[must_use]
    pub fn new(cloud: &Cloud, isolation: Isolation) -> Self {
        Self {
            isolation,
            location: cloud.config.datastore_location.clone(),
            mounts: cloud.run_dir.join("mounts"),
            mount_command: cloud.config.mount_command.clone(),
            debug_level: cloud.config.debug_level,
            zone: cloud.config.timezone,
        }
    }

    /// What a datastore is opened with.
    ///
    /// # Errors
    /// `Permanent` for attributes that make no datastore, or secrets of another daemon.
    pub(super) fn plan(&self, secret: &SecretKey, row: &DatastoreRow) -> Result<Plan> {
        let wrong = |reason: String| DriverError::new(Kind::Permanent, super::opening(row), reason);
        // Opened whatever the configuration lists now: it may have listed them when they were stored.
        let sealed: AttributeList = SECRET_ATTRIBUTES.into_iter().collect();
        let template = secret.open(ObjectKind::Datastore, &stored(&row.template), &sealed);
        let template = template.map_err(|error| wrong(error.to_string()))?;
        let settings = StoreSettings::from_template(&row.ds_mad, &template).map_err(wrong)?;
        let base = PathBuf::from(&row.base_path);
        let timeout = Duration::from_secs(settings.timeout_s);
        let log = match &self.isolation {
            Isolation::InProcess => None,
            Isolation::Child { log, .. } => {
                Some(LogPlan { file: log.clone(), level: self.debug_level, zone: self.zone.name().to_owned() })
            }
        };
        Ok(Plan {
            // A foreign BASE_PATH that is missing is a mount that is missing.
            make_base: settings.share.is_none() && base.starts_with(&self.location),
            driver: settings.driver.into(),
            limit_bytes_s: settings.limit_bytes_s,
            mount: settings.share.map(|share| self.mount_plan(share, base.clone(), timeout)),
            nice: settings.nice,
            timeout_s: settings.timeout_s,
            base,
            log,
        })
    }

    fn mount_plan(&self, share: ShareConfig, point: PathBuf, timeout: Duration) -> MountPlan {
        MountPlan {
            kind: share.address.kind().to_owned(),
            address: share.address.as_str().to_owned(),
            options: share.options,
            secrets: share.secrets,
            point,
            attempts: share.attempts,
            timeout_s: timeout.min(MOUNT_MAX).as_secs(),
            privileged: self.mount_command.clone(),
            run_dir: self.mounts.clone(),
        }
    }

    /// Opens a datastore in the way that was chosen.
    ///
    /// # Errors
    /// As its driver has them.
    pub(super) fn open(&self, plan: &Plan, text: &str, row: &DatastoreRow) -> Result<Arc<dyn BackupDatastore>> {
        match &self.isolation {
            Isolation::InProcess => {
                let opened = plan.open()?;
                (opened.ready)(&Progress::default(), &Cancel::default())?;
                Ok(opened.datastore)
            }
            Isolation::Child { program, .. } => Ok(Arc::new(IsolatedDatastore::new(Launch {
                program: program.clone(),
                args: vec![SERVE.to_owned()],
                name: format!("oned: datastore {}", row.id),
                environment: Vec::new(),
                config: Secret::new(text.to_owned()),
                shown: match &plan.mount {
                    None => format!("datastore {} ({})", row.id, row.name),
                    Some(mount) => format!("datastore {} ({}, {})", row.id, row.name, mount.address),
                },
                silence: Duration::from_secs(plan.timeout_s),
                nice: plan.nice,
            }))),
        }
    }
}

/// What a datastore is opened with; goes to its process as JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct Plan {
    base: PathBuf,
    make_base: bool,
    driver: DriverPlan,
    limit_bytes_s: Option<u64>,
    pub(super) mount: Option<MountPlan>,
    nice: u8,
    timeout_s: u64,
    log: Option<LogPlan>,
}

#[derive(Serialize, Deserialize)]
enum DriverPlan {
    Restic {
        password: String,
        shared: bool,
        chunk_kib: Option<u32>,
        compression_level: Option<i32>,
        threads: Option<usize>,
        verify_writes: bool,
    },
    Nfs {
        /// None is not compressed; else whether by zstd.
        zstd: Option<bool>,
    },
}

impl From<Driver> for DriverPlan {
    fn from(driver: Driver) -> Self {
        match driver {
            Driver::Restic { password, shared, chunk_kib, compression_level, threads, verify_writes } => {
                Self::Restic { password, shared, chunk_kib, compression_level, threads, verify_writes }
            }
            Driver::Nfs { compression } => Self::Nfs {
                zstd: match compression {
                    ImageCompression::None => None,
                    ImageCompression::Zlib => Some(false),
                    ImageCompression::Zstd => Some(true),
                },
            },
        }
    }
}

/// What is mounted, where and how.
#[derive(Serialize, Deserialize)]
pub(super) struct MountPlan {
    pub(super) kind: String,
    pub(super) address: String,
    options: Vec<String>,
    secrets: Vec<(String, String)>,
    pub(super) point: PathBuf,
    attempts: u32,
    timeout_s: u64,
    privileged: Vec<String>,
    run_dir: PathBuf,
}

impl MountPlan {
    fn spec(&self) -> MountSpec {
        let secret = |(name, value): &(String, String)| (name.clone(), Secret::new(value.clone()));
        MountSpec {
            kind: self.kind.clone(),
            address: self.address.clone(),
            options: self.options.clone(),
            secrets: self.secrets.iter().map(secret).collect(),
            point: self.point.clone(),
            attempts: self.attempts,
            timeout: Duration::from_secs(self.timeout_s),
            privileged: self.privileged.clone(),
            run_dir: self.run_dir.clone(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct LogPlan {
    file: PathBuf,
    level: u8,
    zone: String,
}

/// Refuses a write below a mount point when something else than the share that was mounted last is there.
type Gate = Arc<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

impl Plan {
    fn open(&self) -> Result<Opened> {
        // 0: nothing was mounted yet. No file system has this number.
        let device = Arc::new(AtomicU64::new(0));
        let gate = self.mount.as_ref().map(|_| gate(self.base.clone(), Arc::clone(&device)));
        let datastore = self.driver(gate)?;
        let Some(mount) = &self.mount else {
            let (base, make) = (self.base.clone(), self.make_base);
            let ready = move |_: &Progress, _: &Cancel| match make {
                true => std::fs::create_dir_all(&base)
                    .map_err(|error| DriverError::io(format!("making {}", base.display()), error)),
                false => Ok(()),
            };
            return Ok(Opened { datastore, ready: Box::new(ready) });
        };
        let (spec, tried) = (mount.spec(), AtomicBool::new(false));
        let ready = move |progress: &Progress, cancel: &Cancel| {
            beating(progress, || spec.ensure(cancel))?;
            if !tried.load(Ordering::Acquire) {
                claim_group(&spec.point);
                probe_writable(&spec.point)?;
                tried.store(true, Ordering::Release);
            }
            let facts = std::fs::metadata(&spec.point);
            let facts =
                facts.map_err(|error| DriverError::io(format!("looking at {}", spec.point.display()), error))?;
            device.store(facts.dev(), Ordering::Release);
            Ok(())
        };
        Ok(Opened { datastore, ready: Box::new(ready) })
    }

    fn driver(&self, gate: Option<Gate>) -> Result<Arc<dyn BackupDatastore>> {
        let pace = Pace::new(self.limit_bytes_s);
        match &self.driver {
            DriverPlan::Restic { password, shared, chunk_kib, compression_level, threads, verify_writes } => {
                let mut config = ResticConfig::new(self.base.clone(), Secret::new(password.clone()));
                config.shared = *shared;
                config.chunk_bytes = chunk_kib.map_or(config.chunk_bytes, |kib| kib.saturating_mul(1024));
                config.compression_level = compression_level.unwrap_or(config.compression_level);
                config.threads = threads.unwrap_or(config.threads);
                config.verify_writes = *verify_writes;
                (config.pace, config.write_gate) = (pace, gate);
                Ok(Arc::new(ResticDatastore::new(config)?))
            }
            DriverPlan::Nfs { zstd } => {
                let mut config = NfsConfig::new(self.base.clone());
                config.compression = match zstd {
                    None => Compression::None,
                    Some(false) => Compression::Zlib,
                    Some(true) => Compression::Zstd,
                };
                (config.pace, config.write_gate) = (pace, gate);
                Ok(Arc::new(NfsDatastore::new(config)?))
            }
        }
    }
}

fn gate(base: PathBuf, device: Arc<AtomicU64>) -> Gate {
    Arc::new(move |_| {
        if std::fs::metadata(&base)?.dev() == device.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::NotConnected,
            format!("the share is not mounted at {} any more", base.display()),
        ))
    })
}

/// Runs `work`, which has a deadline of its own, and says meanwhile that it goes on.
fn beating<T>(progress: &Progress, work: impl FnOnce() -> T) -> T {
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(200)) {
                progress.beat();
            }
        });
        let outcome = work();
        drop(stop);
        outcome
    })
}

/// Is the process of one datastore: takes calls from the daemon at the other end of the standard input until that is gone.
///
/// # Errors
/// When the standard input is no such thing.
pub fn serve() -> io::Result<Infallible> {
    // Only for who looks.
    let _ = rustix::thread::set_name(PROCESS_NAME);
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    drivers::isolation::serve(control, |text| {
        let plan: Plan = serde_json::from_str(text).map_err(|_| {
            // Its own words could repeat a password.
            DriverError::new(Kind::Permanent, "opening a datastore", "its process was given what it cannot read")
        })?;
        if let Some(LogPlan { file, level, zone }) = &plan.log {
            let zone = zone.parse().unwrap_or(chrono_tz::Tz::UTC);
            // It was started already if this is another try.
            drop(log::start(file, *level, zone, Arc::new(SystemClock)));
        }
        plan.open()
    })
}
