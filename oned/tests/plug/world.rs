//! A cloud over the dummy drivers in one directory, which can be put back to what it was: a VM or more, a backup datastore, an
//! engine that goes on only when it is told to. And the memory of what each disk and each restore point has to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use drivers::datastore::ImageTarget;
use drivers::hypervisor::DiskFormat;
use one_core::access::Caller;
use one_core::lifecycle::VmPhase;
use one_core::refusal::Refusal;
use oned::api::bootstrap::bootstrap;
use oned::api::{self, Cloud};
use oned::clock::{Clock as _, ManualClock, SystemClock};
use oned::config::{Config, Overrides};
use oned::engine::{Engine, Isolation, Outside, Plug, Stores};
use oned::job::Origin;
use oned::ledger;
use oned::progress::Board;
use oned::secret::{KEY_FILE, SecretKey};
use oned::store::rows::{ImageRow, IncrementRow, JobRow, VmRow};
use oned::store::{JobFilter, RunList, Store, StoreError, Tx};
use oned::wake::Wake;

/// Longest wait for anything.
pub const WITHIN: Duration = Duration::from_secs(60);
/// Blocks of a disk.
pub const BLOCKS: usize = 16;
/// Bytes of one.
const BLOCK: usize = 64 << 10;
/// The image datastore of a new cloud.
pub const IMAGES: i64 = 1;

const CONF: &str = "DUMMY_DRIVERS = \"YES\"\nSCRATCH_RESERVE_MB = 0\nBACKUP_COMPARE_EVERY = 0\nMANAGER_TIMER = 1\n\
                    DATASTORE_CAPACITY_CHECK = \"NO\"\nMONITORING_INTERVAL_HOST = 86400\n\
                    MONITORING_INTERVAL_DATASTORE = 86400\n";

/// A disk: the byte that fills each of its blocks.
pub type Content = [u8; BLOCKS];

/// What the disks of a VM hold, by id.
pub type Disks = BTreeMap<u32, Content>;

/// What has to be true, as far as the test knows.
#[derive(Clone, Default)]
pub struct Memory {
    /// The backup datastore.
    pub datastore: i64,
    /// Disks of each VM.
    pub disks: BTreeMap<i64, Disks>,
    /// VMs that are powered off; all others run.
    pub off: BTreeSet<i64>,
    /// What was on the disks when each restore point was made, by the driver's id of the point.
    pub points: BTreeMap<String, Disks>,
}

/// A directory for one cloud, and its state at one time.
pub struct Base {
    root: tempfile::TempDir,
    memory: Memory,
}

impl Base {
    /// A new cloud with one host, made ready by `prepare`.
    pub fn new(prepare: impl FnOnce(&mut World)) -> Self {
        // Each answer is synced to the disk; where there is one in memory, that costs nothing.
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let mut base = Self { root, memory: Memory::default() };
        std::fs::create_dir(base.state()).unwrap();
        let mut world = World::create(&base.state());
        prepare(&mut world);
        base.memory = world.close();
        copy(&base.state(), &base.root.path().join("saved"));
        base
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// Puts everything back; what there was to know.
    pub fn restore(&self) -> Memory {
        std::fs::remove_dir_all(self.state()).unwrap();
        copy(&self.root.path().join("saved"), &self.state());
        self.memory.clone()
    }
}

/// Copies a directory; files stay sparse.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}

/// Looks again and again.
#[track_caller]
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A cloud in this process.
pub struct World {
    pub cloud: Arc<Cloud>,
    pub folder: PathBuf,
    pub memory: Memory,
    pub admin: Caller,
    /// Whose quotas are counted.
    pub owner: Caller,
    /// How often the engine waits before a lost connection is there again.
    pub waits_until_mended: u32,
    /// Whether, during the last [`Self::settle`], no VM was kept waiting any more when a lost connection came back.
    pub was_released: bool,
    clock: Arc<ManualClock>,
    engine: Arc<Engine>,
    outside: Arc<Outside>,
}

impl World {
    fn create(folder: &Path) -> Self {
        std::fs::write(folder.join("oned.conf"), CONF).unwrap();
        std::fs::create_dir(folder.join(".one")).unwrap();
        std::fs::write(folder.join(".one/one_auth"), "oneadmin:secret\n").unwrap();
        let cloud = open_cloud(folder);
        bootstrap(&cloud.0, "oneadmin", "secret").unwrap();
        let admin = oned::session::authenticate(&cloud.0, "oneadmin:secret").unwrap();
        api::people::allocate(&cloud.0, &admin, "owner", "secret", "core", &[]).unwrap();
        for host in read(&cloud.0, |tx| tx.host_list()) {
            api::host::delete(&cloud.0, &admin, host.id).unwrap();
        }
        api::host::allocate(&cloud.0, &admin, "pretended", "dummy", "dummy", 0).unwrap();
        let text = "NAME=backups\nTYPE=BACKUP_DS\nDS_MAD=dummy\n";
        let datastore = api::datastore::allocate(&cloud.0, &admin, text, -1).unwrap();
        Self::over(cloud, folder, Memory { datastore, ..Memory::default() })
    }

    /// The cloud that is in a directory, taken up as a daemon does when it starts.
    pub fn open(folder: &Path, memory: Memory) -> Self {
        Self::over(open_cloud(folder), folder, memory)
    }

    /// The same at another time than the machine's.
    pub fn open_at(folder: &Path, memory: Memory, now: i64) -> Self {
        let opened = open_cloud(folder);
        opened.1.set(now);
        Self::over(opened, folder, memory)
    }

    fn over((cloud, clock): (Arc<Cloud>, Arc<ManualClock>), folder: &Path, memory: Memory) -> Self {
        let caller = |name: &str| oned::session::authenticate(&cloud, &format!("{name}:secret")).unwrap();
        let (admin, owner) = (caller("oneadmin"), caller("owner"));
        let (sender, _) = mpsc::channel();
        let stores = Stores::new(&cloud, Isolation::InProcess);
        let outside = Arc::new(Outside::new(sender, Some(cloud.config.dummy_directory.clone()), stores));
        let engine = Engine::new(Arc::clone(&cloud), Arc::clone(&outside));
        engine.start().unwrap();
        let (folder, waits_until_mended, was_released) = (folder.to_owned(), 1, false);
        Self { cloud, folder, memory, admin, owner, waits_until_mended, was_released, clock, engine, outside }
    }

    /// Lets go of everything; what there was to know.
    pub fn close(self) -> Memory {
        let Self { cloud, folder, memory, engine, outside, .. } = self;
        engine.stop(Duration::ZERO);
        // Threads that ask hosts and datastores end by themselves, and must not touch what comes after.
        wait("the engine's threads to end", || (Arc::strong_count(&engine) == 1).then_some(()));
        drop((engine, outside, cloud));
        // Nor must the connections to the database, of which the last one to close removes this.
        wait("the database to be closed", || (!folder.join("one.db-wal").exists()).then_some(()));
        memory
    }

    pub fn plug(&self) -> &Plug {
        self.outside.plug()
    }

    pub fn read<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> T {
        read(&self.cloud, work)
    }

    pub fn jobs(&self) -> Vec<JobRow> {
        self.read(|tx| tx.jobs_open(JobFilter::All))
    }

    /// When each VM that waits in a run of a backup job may start.
    fn waiting(&self) -> Vec<i64> {
        let jobs = self.read(|tx| tx.backup_job_list());
        let entries = jobs.iter().flat_map(|job| self.read(|tx| tx.backup_job_vms(job.id)));
        entries.filter(|entry| entry.is_in(RunList::Outdated)).map(|entry| entry.not_before).collect()
    }

    pub fn vm_row(&self, vm: i64) -> VmRow {
        self.read(|tx| tx.vm(vm))
    }

    /// The backups of a VM that are not being deleted, oldest first.
    pub fn backups(&self, vm: i64) -> Vec<ImageRow> {
        let mut images = self.read(|tx| tx.backups_of_vm(vm));
        images.sort_by_key(|image| image.id);
        images
    }

    /// All restore points of a VM's backups, oldest first.
    pub fn points(&self, vm: i64) -> Vec<IncrementRow> {
        self.backups(vm).iter().flat_map(|image| self.read(|tx| tx.increments(image.id))).collect()
    }

    /// One round of scheduler and engine.
    pub fn round(&self) {
        oned::scheduler::tick(&self.cloud);
        self.engine.tick();
        self.cloud.wake.wait(Duration::from_millis(2));
    }

    /// Lets scheduler and engine work until nothing is left to do, and no job waits for better times. Where jobs do, time passes, and
    /// with it a lost connection. Then writes down what new restore points have to hold.
    pub fn settle(&mut self) {
        self.settle_with(|_| ());
    }

    /// The same, with a look at each round.
    pub fn settle_with(&mut self, mut look: impl FnMut(&Self)) {
        let until = Instant::now() + WITHIN;
        let mut waits = 0;
        loop {
            oned::scheduler::tick(&self.cloud);
            self.engine.tick();
            look(self);
            let (jobs, now) = (self.jobs(), self.clock.now());
            // Who waits in a run may wait for a job.
            let jobs_next = jobs.iter().map(|job| job.not_before).min();
            let Some(next) = jobs_next.or_else(|| self.waiting().into_iter().min()) else { break };
            if next > now {
                waits += 1;
                if waits == self.waits_until_mended {
                    self.was_released = self.memory.disks.keys().all(|vm| self.rests(*vm));
                    self.plug().mend();
                }
                self.clock.set(next);
            } else {
                self.cloud.wake.wait(Duration::from_millis(2));
            }
            assert!(Instant::now() < until, "these jobs come to no end: {jobs:?}");
        }
        self.plug().mend();
        for vm in self.memory.disks.keys().copied().collect::<Vec<_>>() {
            for point in self.points(vm) {
                let disks = &self.memory.disks[&vm];
                self.memory.points.entry(point.point).or_insert_with(|| disks.clone());
            }
        }
    }

    /// A running VM with disks of 1 MiB.
    pub fn vm(&mut self, name: &str, disks: u32, config: &str) -> i64 {
        let mut template = format!("NAME={name}\nCPU=0.1\nMEMORY=64\nBACKUP_CONFIG=[{config}]\n");
        for disk in 0..disks {
            let text = format!("NAME={name}-{disk}\nTYPE=DATABLOCK\nSIZE=1\n");
            let image = api::image::allocate(&self.cloud, &self.owner, &text, IMAGES).unwrap();
            template += &format!("DISK=[IMAGE_ID={image}]\n");
        }
        self.settle();
        let vm = api::vm::allocate(&self.cloud, &self.owner, &template, false).unwrap();
        let engine = Arc::clone(&self.engine);
        wait("the VM to be placed", || {
            engine.tick();
            (!self.jobs().is_empty() || ledger::phase(&self.vm_row(vm)) == VmPhase::RUNNING).then_some(())
        });
        self.settle();
        assert_eq!(ledger::phase(&self.vm_row(vm)), VmPhase::RUNNING);
        self.memory.disks.insert(vm, (0..disks).map(|disk| (disk, Content::default())).collect());
        vm
    }

    pub fn disk_file(&self, vm: i64, disk: u32) -> PathBuf {
        self.folder.join(format!("datastores/0/{vm}/disk.{disk}"))
    }

    /// The guest fills a block.
    pub fn write(&mut self, vm: i64, disk: u32, block: usize, byte: u8) {
        let content = self.memory.disks.get_mut(&vm).unwrap().get_mut(&disk).unwrap();
        content[block] = byte;
        let size_bytes = (BLOCKS * BLOCK) as u64;
        let target = ImageTarget { path: self.disk_file(vm, disk), format: DiskFormat::Qcow2, size_bytes };
        let mut writer = target.create().unwrap();
        for (at, byte) in self.memory.disks[&vm][&disk].iter().enumerate().filter(|(_, byte)| **byte != 0) {
            writer.write_at((at * BLOCK) as u64, &[*byte; BLOCK]).unwrap();
        }
        writer.finish().unwrap();
    }

    /// Whether a VM is in the state that it is to be in.
    pub fn rests(&self, vm: i64) -> bool {
        let wanted = if self.memory.off.contains(&vm) { VmPhase::POWEROFF } else { VmPhase::RUNNING };
        ledger::phase(&self.vm_row(vm)) == wanted
    }

    /// Switches a VM off.
    pub fn power_off(&mut self, vm: i64) {
        api::vm_action::action(&self.cloud, &self.admin, "poweroff-hard", vm).unwrap();
        self.memory.off.insert(vm);
        self.settle();
        assert!(self.rests(vm));
    }

    /// Lets it run again.
    pub fn power_on(&mut self, vm: i64) {
        api::vm_action::action(&self.cloud, &self.admin, "resume", vm).unwrap();
        self.memory.off.remove(&vm);
        self.settle();
        assert!(self.rests(vm));
    }

    /// Asks for a backup.
    pub fn ask_backup(&self, vm: i64, reset: bool) -> Result<(), Refusal> {
        api::backup::backup(&self.cloud, &self.admin, vm, self.memory.datastore, reset).map(drop)
    }

    /// Asks for a restore of all disks of a restore point; the ids of the new images.
    pub fn ask_restore(&self, image: i64, increment: i64, name: &str) -> Vec<i64> {
        let options = format!("NAME=\"{name}\"\nINCREMENT_ID={increment}\n");
        let ids = api::restore::restore(&self.cloud, &self.owner, image, IMAGES, &options).unwrap();
        ids.split(' ').skip(1).map(|id| id.parse().unwrap()).collect()
    }

    /// Adds a scheduled action of a VM that backs it up, at a time that does not come, with a KEEP_LAST of its own; its id.
    pub fn schedule(&self, vm: i64, keep_last: i64) -> i64 {
        let time = self.clock.now() + 10 * 365 * 86_400;
        let text = format!("SCHED_ACTION=[ACTION=backup,ARGS=\"{}\",TIME={time}]", self.memory.datastore);
        let id = api::schedule::add(&self.cloud, &self.admin, vm, &text).unwrap();
        self.keep_of_schedule(id, Some(keep_last));
        id
    }

    /// Changes the KEEP_LAST of a scheduled action, or takes it away.
    pub fn keep_of_schedule(&self, id: i64, keep_last: Option<i64>) {
        let changed: Result<(), StoreError> = self.cloud.store.write(|tx| {
            let mut row = tx.schedule(id)?;
            let mut action = ledger::read_schedule(&row).unwrap();
            action.keep_last = keep_last;
            row.body = serde_json::to_string(&action).unwrap();
            tx.schedule_update(&row)
        });
        changed.unwrap();
    }

    /// Asks for a backup as a scheduled action does.
    pub fn ask_backup_by(&self, vm: i64, schedule: i64) -> Result<(), Refusal> {
        let datastore = self.memory.datastore;
        let wish = api::backup::Wish { datastore, reset: false, origin: Origin::Schedule { id: schedule } };
        self.cloud.store.write(|tx| {
            let row = tx.vm(vm)?;
            api::backup::start(&self.cloud, tx, &self.admin, row, wish)
        })
    }

    /// Makes a backup that must go well.
    pub fn backup(&mut self, vm: i64, reset: bool) -> IncrementRow {
        self.backup_after(vm, |world| world.ask_backup(vm, reset).unwrap())
    }

    /// The same as a scheduled action does.
    pub fn backup_by(&mut self, vm: i64, schedule: i64) -> IncrementRow {
        self.backup_after(vm, |world| world.ask_backup_by(vm, schedule).unwrap())
    }

    fn backup_after(&mut self, vm: i64, ask: impl FnOnce(&Self)) -> IncrementRow {
        let before: Vec<String> = self.points(vm).into_iter().map(|point| point.point).collect();
        ask(self);
        self.settle();
        let mut new = self.points(vm);
        new.retain(|point| !before.contains(&point.point));
        let error = self.vm_row(vm).user_template;
        assert!(new.len() == 1, "a backup gave {} restore points: {error}", new.len());
        new.remove(0)
    }

    /// Puts the clock to a time.
    pub fn set_clock(&self, now: i64) {
        self.clock.set(now);
    }

    /// Time passes; the new time.
    pub fn pass(&self, seconds: i64) -> i64 {
        self.clock.advance(seconds)
    }

    /// What the dummy datastore is to do.
    pub fn script(&self, text: &str) {
        let folder = self.folder.join(format!("dummy/datastore-{}", self.memory.datastore));
        std::fs::create_dir_all(&folder).unwrap();
        // Whole at once: it may be read at any time.
        std::fs::write(folder.join("script.new"), text).unwrap();
        std::fs::rename(folder.join("script.new"), folder.join("script.json")).unwrap();
    }
}

/// A database and a clock that begins now and then stands.
fn open_cloud(folder: &Path) -> (Arc<Cloud>, Arc<ManualClock>) {
    let overrides = Overrides { listen: None, state_dir: folder.to_owned() };
    let mut config = Config::load(Some(&folder.join("oned.conf")), &overrides).unwrap();
    config.timezone = chrono_tz::Tz::UTC;
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let cloud = Arc::new(Cloud {
        store: Store::open(&folder.join("one.db")).unwrap(),
        clock: clock.clone(),
        config,
        secret: SecretKey::load_or_create(&folder.join(KEY_FILE)).unwrap(),
        board: Board::default(),
        wake: Wake::default(),
        run_dir: folder.join("run"),
        endpoint: "http://localhost:2633/RPC2".into(),
        sessions: oned::session::Sessions::default(),
        desk: oned::examination::Desk::default(),
    });
    (cloud, clock)
}

fn read<T>(cloud: &Cloud, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> T {
    cloud.store.read(work).unwrap()
}
