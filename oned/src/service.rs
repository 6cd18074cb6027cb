//! Puts the daemon together: database, api, engine, doors.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use anyhow::Context as _;
use drivers::hypervisor::DomainEvent;
use one_core::access::Caller;
use one_core::refusal::{ObjectKind, Refusal};
use one_core::template::Template;

use crate::api::{attributes, bootstrap, metrics, zone};
use crate::cards;
use crate::cloud::{Cloud, password_digest};
use crate::config::Config;
use crate::daemon::{Service, Setting};
use crate::engine::{Engine, Isolation, Outside, Stores};
use crate::examination::Desk;
use crate::methods::{self, METHODS};
use crate::progress::Board;
use crate::quota;
use crate::rpc::Door;
use crate::scheduler;
use crate::secret::{self, KEY_FILE, SecretKey};
use crate::session;
use crate::store::{Store, StoreError, VmFilter};
use crate::wake::Wake;

/// The longest name in the run directory, `/b9223372036854775807.sock` and what a driver may add for each disk.
const SOCKET_NAME_MAX: usize = 40;
/// Longest path of a Unix socket (sun_path less its end mark).
const SOCKET_PATH_MAX: usize = 107;

impl Door for Cloud {
    fn authenticate(&self, session: &str) -> Result<Caller, Refusal> {
        session::authenticate(self, session)
    }

    fn admit(&self, method: &str) -> Result<(), Refusal> {
        if methods::is_open_when_disabled(method) { Ok(()) } else { zone::check_enabled(self) }
    }

    fn has_metrics(&self) -> bool {
        self.config.metrics
    }

    fn metrics(&self, caller: &Caller) -> Result<Option<String>, Refusal> {
        metrics::metrics(self, caller)
    }

    fn why_absent(&self, method: &str) -> Option<&'static str> {
        methods::why_absent(method)
    }
}

/// Opens everything behind the door.
///
/// # Errors
/// A database that cannot be opened, a thread that cannot be started.
pub fn open(setting: &Setting) -> anyhow::Result<Service<Cloud>> {
    let directory = setting.instance.directory();
    let store = Store::open(&directory.join("one.db")).context("Cannot open the database one.db")?;
    let secret = secret_key(&store, &setting.config, directory)?;
    let cloud = Arc::new(Cloud {
        store,
        secret,
        clock: Arc::clone(&setting.clock),
        config: setting.config.clone(),
        board: Board::default(),
        wake: Wake::default(),
        run_dir: run_directory(directory),
        endpoint: setting.endpoint.clone(),
        sessions: session::Sessions::default(),
        desk: Desk::default(),
    });
    let first = &setting.first_session;
    bootstrap::bootstrap(&cloud, &first.user, first.password.reveal()).context("Cannot fill the database")?;
    cloud.store.write(quota::repair).context("Cannot count what the owners have taken")?;
    attributes::seal_stored(&cloud).context("Cannot seal the secrets that the database holds in clear")?;

    let (sender, events) = mpsc::channel::<DomainEvent>();
    let dummies = cloud.config.dummy_drivers.then(|| cloud.config.dummy_directory.clone());
    // This program again, whatever has become of its file.
    let isolation = Isolation::Child { program: "/proc/self/exe".into(), log: directory.join("oned.log") };
    let outside = Outside::new(sender, dummies, Stores::new(&cloud, isolation));
    let engine = Engine::new(Arc::clone(&cloud), Arc::new(outside));
    engine.start().context("Cannot start the engine")?;
    // Weak: the engine holds the cloud, whose desk it is.
    let (examiner, state) = (Arc::downgrade(&engine), directory.to_owned());
    cloud.desk.install(move || Some(examiner.upgrade()?.examine(&state)));
    let stopping = Arc::new(AtomicBool::new(false));
    let listener = Arc::clone(&engine);
    std::thread::Builder::new()
        .name("events".into())
        .spawn(move || {
            // Many events make one look.
            while events.recv().is_ok() {
                while events.try_recv().is_ok() {}
                listener.look_at_all_soon();
            }
        })
        .context("Cannot start the thread for events")?;
    let (looping, loop_cloud, loop_engine) = (Arc::clone(&stopping), Arc::clone(&cloud), Arc::clone(&engine));
    let thread = std::thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            while !looping.load(Ordering::Acquire) {
                loop_cloud.desk.beat();
                scheduler::tick(&loop_cloud);
                loop_engine.tick();
                loop_engine.rest();
            }
        })
        .context("Cannot start the engine's thread")?;
    let (timeout, wake) = (setting.config.shutdown_timeout, cloud.wake.clone());
    let stop = Box::new(move || {
        stopping.store(true, Ordering::Release);
        wake.ring();
        if thread.join().is_err() {
            tracing::error!(target: "ONE", "The engine had panicked.");
        }
        engine.stop(timeout);
    });
    Ok(Service { door: cloud, methods: &METHODS, stop })
}

/// The key of the database's secrets; refused when it is not the one that they were sealed with.
fn secret_key(store: &Store, config: &Config, directory: &Path) -> anyhow::Result<SecretKey> {
    use ObjectKind::{Cluster, Datastore, Document, Host, Image, Network, User, Vm};
    let stored = store
        .read(|tx| {
            let mut texts: Vec<(ObjectKind, String)> = Vec::new();
            texts.extend(tx.datastore_list()?.into_iter().map(|row| (Datastore, row.template)));
            texts.extend(tx.host_list()?.into_iter().map(|row| (Host, row.template)));
            texts.extend(tx.user_list()?.into_iter().map(|row| (User, row.template)));
            texts.extend(tx.cluster_list()?.into_iter().map(|row| (Cluster, row.template)));
            texts.extend(tx.image_list()?.into_iter().map(|row| (Image, row.template)));
            texts.extend(tx.document_list()?.into_iter().map(|row| (Document, row.template)));
            for row in tx.network_list()? {
                if row.ranges.contains(secret::MARK) {
                    texts.push((Network, cards::ranges_template(&row).to_text()));
                }
                texts.push((Network, row.template));
            }
            // A template's secrets become those of its VMs.
            texts.extend(tx.template_list()?.into_iter().map(|row| (Vm, row.template)));
            for row in tx.vms(VmFilter::default())? {
                texts.extend([(Vm, row.template), (Vm, row.user_template)]);
            }
            Ok::<_, StoreError>(texts)
        })
        .context("Cannot read the database one.db")?;
    // Most texts hold no secret; ten thousand VMs must not be parsed for that at each start.
    let sealed = |(_, text): &(ObjectKind, String)| text.contains(secret::MARK);
    let stored = stored.into_iter().filter(sealed).map(|(kind, text)| {
        // A text that is no template holds nothing that could be opened; whoever uses it says so.
        (kind, Template::parse(&text).unwrap_or_default(), config.encrypted(kind))
    });
    Ok(SecretKey::for_database(&directory.join(KEY_FILE), stored)?)
}

/// `run` in the state directory, or, where that is too long for sockets, a directory named after it in the system's place
/// for short paths.
fn run_directory(state: &Path) -> PathBuf {
    let own = state.join("run");
    if own.as_os_str().len() + SOCKET_NAME_MAX <= SOCKET_PATH_MAX {
        return own;
    }
    let digest = password_digest(&state.to_string_lossy());
    let base = if rustix::process::geteuid().is_root() { PathBuf::from("/run") } else { std::env::temp_dir() };
    base.join(format!("oned-{}", digest.get(..12).unwrap_or("state")))
}
