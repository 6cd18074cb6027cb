//! A cloud for one test: a database file, a clock that stands, three users, and the shortest ways to the objects that the
//! tests need. Whatever users can do goes through the api; what the engine would do is written as the engine writes it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use one_core::access::acl::group_admin_rules;
use one_core::access::{Caller, Permissions, Rule, Selector};
use one_core::backup::BackupConfig;
use one_core::lifecycle::{ImageState, VmEvent, VmPhase};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::schedule::ScheduledAction;
use one_core::template::Template;
use oned::api::bootstrap::bootstrap;
use oned::api::template::Instantiation;
use oned::api::{self, Cloud};
use oned::clock::ManualClock;
use oned::cloud::password_digest;
use oned::config::{Config, Overrides};
use oned::job::BackupPlan;
use oned::ledger;
use oned::progress::Board;
use oned::quota;
use oned::secret::{KEY_FILE, SecretKey};
use oned::store::rows::{
    DatastoreRow, GroupRow, HostRow, ImageRow, IncrementRow, JobRow, ScheduleRow, TemplateRow, UserRow, VmRow,
};
use oned::store::{JobFilter, Store, StoreError, Tx};
use oned::wake::Wake;

/// Saturday, 21 November 2026, 12:00 UTC.
pub const NOW: i64 = 1_795_262_400;
/// The password of every backup datastore here; no document may hold it.
pub const SECRET: &str = "correct-horse-battery";
/// The group of alice and bob.
pub const TEAM: i64 = 100;
/// The image datastore of the bootstrap.
pub const IMAGES: i64 = 1;

/// The template that most VMs here come from, less its NAME and disks.
pub const SIZE: &str = "CPU=\"0.5\"\nVCPU=\"1\"\nMEMORY=\"256\"\n";

pub struct World {
    pub cloud: Arc<Cloud>,
    pub clock: Arc<ManualClock>,
    /// Owns what the tests are about.
    pub alice: Caller,
    /// In alice's group.
    pub bob: Caller,
    /// In another group.
    pub mallory: Caller,
    pub admin: Caller,
    dir: tempfile::TempDir,
}

impl World {
    /// A fresh cloud with the users, and a host that is this machine.
    pub fn new() -> Self {
        Self::configured(|_| {})
    }

    /// The same with another configuration.
    pub fn configured(change: impl FnOnce(&mut Config)) -> Self {
        // Each answer is synced to the disk; where there is one in memory, that costs nothing.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let overrides = Overrides { listen: None, state_dir: dir.path().to_owned() };
        let mut config = Config::load(None, &overrides).unwrap();
        config.timezone = chrono_tz::Tz::UTC;
        change(&mut config);
        let clock = Arc::new(ManualClock::new(NOW));
        let cloud = Arc::new(Cloud {
            store: Store::open(&dir.path().join("one.db")).unwrap(),
            clock: clock.clone(),
            config,
            secret: SecretKey::load_or_create(&dir.path().join(KEY_FILE)).unwrap(),
            board: Board::default(),
            wake: Wake::default(),
            run_dir: dir.path().join("run"),
            endpoint: "http://localhost:2633/RPC2".into(),
            sessions: oned::session::Sessions::default(),
            desk: oned::examination::Desk::default(),
        });
        bootstrap(&cloud, "oneadmin", "oneadmin-pw").unwrap();
        cloud.store.write(people).unwrap();
        cloud.store.write(|tx| api::vdc::leave_all(tx, 1)).unwrap();
        let caller = |name: &str| oned::session::authenticate(&cloud, &session(name)).unwrap();
        let (alice, bob, mallory, admin) = (caller("alice"), caller("bob"), caller("mallory"), caller("oneadmin"));
        let world = Self { alice, bob, mallory, admin, cloud, clock, dir };
        // A site that gives its datastores by permission bits, not by the default virtual data centre.
        world.edit_datastore(IMAGES, |row| row.permissions = octal(0o644));
        world.add_host("localhost");
        world
    }

    pub fn write<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> T {
        self.cloud.store.write(work).unwrap()
    }

    pub fn read<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> T {
        self.cloud.store.read(work).unwrap()
    }

    pub fn vm_row(&self, id: i64) -> VmRow {
        self.read(|tx| tx.vm(id))
    }

    pub fn edit_vm(&self, id: i64, change: impl FnOnce(&mut VmRow)) {
        self.write(|tx| {
            let mut row = tx.vm(id)?;
            change(&mut row);
            quota::save_vm(tx, &row).map(drop)
        });
    }

    pub fn edit_datastore(&self, id: i64, change: impl FnOnce(&mut DatastoreRow)) {
        self.write(|tx| {
            let mut row = tx.datastore(id)?;
            change(&mut row);
            tx.datastore_update(&row)
        });
    }

    pub fn edit_image(&self, id: i64, change: impl FnOnce(&mut ImageRow)) {
        self.write(|tx| {
            let mut row = tx.image(id)?;
            change(&mut row);
            quota::save_image(tx, &row).map(drop)
        });
    }

    pub fn edit_template(&self, id: i64, change: impl FnOnce(&mut TemplateRow)) {
        self.write(|tx| {
            let mut row = tx.template(id)?;
            change(&mut row);
            tx.template_update(&row)
        });
    }

    pub fn image_row(&self, id: i64) -> ImageRow {
        self.read(|tx| tx.image(id))
    }

    /// A host of that name that monitoring has seen.
    pub fn add_host(&self, name: &str) -> i64 {
        let id = api::host::allocate(&self.cloud, &self.admin, name, "kvm", "kvm", -1).unwrap();
        self.write(|tx| {
            let row = tx.host(id)?;
            tx.host_update(&HostRow { state: 2, cpus: 8, memory_kb: 16 << 20, monitored_at: NOW, ..row })
        });
        id
    }

    /// A backup datastore that belongs to alice; her group may use it.
    pub fn add_backup_datastore(&self, name: &str) -> i64 {
        let text = format!("NAME={name}\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=\"{SECRET}\"\n");
        let id = api::datastore::allocate(&self.cloud, &self.admin, &text, -1).unwrap();
        self.edit_datastore(id, |row| {
            (row.uid, row.gid, row.permissions) = (self.alice.uid, TEAM, octal(0o640));
        });
        id
    }

    /// A disk image of alice's, as the copy job leaves it: READY, qcow2, 256 MB; her group may use it.
    pub fn add_image(&self, name: &str) -> i64 {
        let text = format!("NAME=\"{name}\"\nPATH=\"/var/tmp/{name}.qcow2\"\n");
        let id = api::image::allocate(&self.cloud, &self.alice, &text, IMAGES).unwrap();
        self.end_jobs();
        self.edit_image(id, |row| {
            (row.state, row.prev_state) = (ImageState::Ready.number(), ImageState::Locked.number());
            row.format = "qcow2".into();
            row.size_mb = 256;
            row.permissions = octal(0o640);
        });
        id
    }

    /// A network that belongs to alice, with 100 addresses from 10.0.0.1 on; her group may use it.
    pub fn add_network(&self, name: &str) -> i64 {
        let text = format!("NAME={name}\nVN_MAD=bridge\nBRIDGE=br0\nAR=[TYPE=IP4,IP=\"10.0.0.1\",SIZE=100]\n");
        let id = api::network::allocate(&self.cloud, &self.admin, &text, -1).unwrap();
        self.write(|tx| {
            let mut row = tx.network(id)?;
            (row.uid, row.gid, row.permissions) = (self.alice.uid, TEAM, octal(0o640));
            tx.network_update(&row)
        });
        id
    }

    pub fn allocate_template(&self, text: &str) -> i64 {
        api::template::allocate(&self.cloud, &self.alice, text).unwrap()
    }

    pub fn instantiate(&self, caller: &Caller, template: i64, extra: &str) -> Result<i64, Refusal> {
        let wish = Instantiation { name: "", hold: false, extra, persistent: false };
        api::template::instantiate(&self.cloud, caller, template, &wish)
    }

    /// A running VM of alice's with one qcow2 disk of an image of its own, and this in its template besides.
    pub fn add_running_vm(&self, more: &str) -> i64 {
        let count = self.read(|tx| tx.image_list()).len();
        let image = self.add_image(&format!("disk-{count}"));
        let text = format!("{SIZE}DISK=[IMAGE_ID={image}]\n{more}\n");
        let id = api::vm::allocate(&self.cloud, &self.alice, &text, false).unwrap();
        self.run_vm(id, 0);
        id
    }

    /// Puts a new VM on a host and boots it.
    pub fn run_vm(&self, id: i64, host: i64) {
        let now = self.clock_now();
        let started: Result<(), Refusal> = self.cloud.store.write(|tx| {
            let mut row = tx.vm(id)?;
            let host = tx.host(host)?;
            row.host_id = Some(host.id);
            row.deploy_id = format!("one-{id}");
            ledger::history_place(tx, id, &host, now)?;
            for event in [VmEvent::Place, VmEvent::PrologDone, VmEvent::Booted] {
                ledger::vm_step(tx, &mut row, event, now)?;
            }
            Ok(())
        });
        started.unwrap();
        assert_eq!(self.phase(id), VmPhase::RUNNING);
    }

    /// Moves a VM by an event, as the engine does.
    pub fn step(&self, id: i64, event: VmEvent) {
        let now = self.clock_now();
        let moved: Result<(), Refusal> = self.cloud.store.write(|tx| {
            let mut row = tx.vm(id)?;
            ledger::vm_step(tx, &mut row, event, now)
        });
        moved.unwrap();
    }

    /// Switches a running VM off.
    pub fn power_off(&self, id: i64) {
        self.step(id, VmEvent::Poweroff);
        self.step(id, VmEvent::Stopped);
        assert_eq!(self.phase(id), VmPhase::POWEROFF);
    }

    pub fn set_phase(&self, id: i64, phase: VmPhase) {
        self.edit_vm(id, |row| (row.state, row.lcm_state) = (phase.state.number(), phase.lcm.number()));
    }

    pub fn phase(&self, id: i64) -> VmPhase {
        ledger::phase(&self.vm_row(id))
    }

    pub fn config(&self, vm: i64) -> BackupConfig {
        ledger::config_of(&self.vm_row(vm))
    }

    pub fn edit_config(&self, vm: i64, change: impl FnOnce(&mut BackupConfig)) {
        self.edit_vm(vm, |row| {
            let mut config = ledger::config_of(row);
            change(&mut config);
            row.backup_config = ledger::config_text(&config);
        });
    }

    /// Replaces a piece of a VM's system template, which must be there.
    pub fn edit_system(&self, vm: i64, from: &str, to: &str) {
        self.edit_vm(vm, |row| {
            assert!(row.template.contains(from), "{from} is not in {}", row.template);
            row.template = row.template.replace(from, to);
        });
    }

    /// A backup of a VM with `points` restore points (a chain if more than one), as the engine records it; the VM points to
    /// it when `active`.
    pub fn add_backup(&self, vm: i64, datastore: i64, points: i64, active: bool) -> i64 {
        let document = api::vm::info(&self.cloud, &self.admin, vm).unwrap();
        let row = self.vm_row(vm);
        let now = self.clock_now();
        let image = self.write(|tx| {
            let id = tx.next_id("image")?;
            let image = ImageRow {
                id,
                snapshots: String::new(),
                lock: String::new(),
                uid: row.uid,
                gid: row.gid,
                name: format!("{vm} backup {id}"),
                permissions: Permissions::BACKUP.to_i64(),
                kind: api::image::BACKUP,
                disk_type: 0,
                persistent: 1,
                regtime: now,
                modtime: now,
                source: point(id, 0).chars().take(8).collect(),
                path: String::new(),
                format: "raw".into(),
                fs: String::new(),
                size_mb: 172,
                state: ImageState::Ready.number(),
                prev_state: ImageState::Locked.number(),
                datastore_id: datastore,
                backup_vm_id: Some(vm),
                backup_mode: Some(if active { "INCREMENT" } else { "FULL" }.into()),
                template: String::new(),
            };
            quota::save_image(tx, &image)?;
            for number in 0..points {
                tx.increment_append(&IncrementRow {
                    image_id: id,
                    increment_id: number,
                    parent_id: number - 1,
                    kind: if number == 0 { "FULL" } else { "INCREMENT" }.into(),
                    date: now + number,
                    size_mb: 172,
                    series: vm.to_string(),
                    point: point(id, number),
                    checkpoint: format!("one-{vm}-9{number}"),
                    read_bytes: 1,
                    stored_bytes: 1,
                    duration_s: 1,
                    reason: String::new(),
                    warning: String::new(),
                    disks: disk_ids(&row),
                    document: document.clone(),
                    compare_age: number,
                    unmarked_bytes: 0,
                    verified_at: 0,
                    verify_depth: String::new(),
                    verify_result: String::new(),
                    schedule_id: None,
                    saved_bytes: -1,
                })?;
            }
            Ok(id)
        });
        if active {
            self.edit_config(vm, |config| config.advance_chain(image, points - 1));
        }
        image
    }

    pub fn open_jobs(&self) -> Vec<JobRow> {
        self.read(|tx| tx.jobs_open(JobFilter::All))
    }

    /// The plan of the only open backup.
    pub fn backup_plan(&self) -> (JobRow, BackupPlan) {
        let mut jobs = self.open_jobs();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        let job = jobs.remove(0);
        assert_eq!((job.kind.as_str(), job.phase.as_str()), ("BACKUP", "planned"));
        let plan = oned::job::plan(&job).unwrap();
        (job, plan)
    }

    /// Declares every open job done.
    pub fn end_jobs(&self) {
        let now = self.clock_now();
        self.write(|tx| {
            for job in tx.jobs_open(JobFilter::All)? {
                quota::release_backup(tx, job.id)?;
                tx.job_advance(job.id, &job.phase, "done", now, "ended by the test")?;
            }
            Ok(())
        });
    }

    /// Ends a VM's backup well, as far as scheduling is concerned.
    pub fn end_backup(&self, vm: i64) {
        self.end_jobs();
        self.edit_config(vm, BackupConfig::end_backup);
        self.step(vm, VmEvent::BackupEnd);
    }

    pub fn schedule_row(&self, id: i64) -> ScheduleRow {
        self.read(|tx| tx.schedule_find(id)).unwrap()
    }

    pub fn action(&self, id: i64) -> ScheduledAction {
        ledger::read_schedule(&self.schedule_row(id)).unwrap()
    }

    pub fn actions(&self, vm: i64) -> Vec<ScheduledAction> {
        self.read(|tx| tx.schedules_of_vm(vm)).iter().map(|row| ledger::read_schedule(row).unwrap()).collect()
    }

    pub fn clock_now(&self) -> i64 {
        self.cloud.clock.now()
    }

    pub fn vm_document(&self, caller: &Caller, id: i64) -> String {
        valid(api::vm::info(&self.cloud, caller, id).unwrap())
    }

    pub fn image_document(&self, caller: &Caller, id: i64) -> String {
        valid(api::image::info(&self.cloud, caller, id).unwrap())
    }

    pub fn template_document(&self, caller: &Caller, id: i64) -> String {
        valid(api::template::info(&self.cloud, caller, id, false).unwrap())
    }

    /// The database's file.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("one.db")
    }

    /// Runs SQL behind the daemon's back: for faults of the database.
    pub fn sql(&self, statements: &str) {
        let script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])";
        let path = self.dir.path().join("one.db");
        let done = Command::new("python3").args(["-c", script]).arg(path).arg(statements).status();
        assert!(done.expect("python3 is needed: apt install python3").success(), "{statements}");
    }

    /// Every row of every table.
    pub fn records(&self) -> String {
        DUMP.lock().unwrap_or_else(PoisonError::into_inner).take(&self.dir.path().join("one.db"))
    }

    /// Runs a call that must be refused, and holds it to changing nothing.
    pub fn refusal<T: Debug>(&self, call: impl FnOnce(&Cloud) -> Result<T, Refusal>) -> Refusal {
        let before = self.records();
        let refusal = call(&self.cloud).expect_err("the call should have been refused");
        unchanged(&before, &self.records(), &format!("refused with \"{refusal}\""));
        refusal
    }

    /// The same for a call that must be refused with this code and this sentence.
    #[track_caller]
    pub fn refuses<T: Debug>(
        &self,
        code: i32,
        sentence: &str,
        call: impl FnOnce(&Cloud) -> Result<T, Refusal>,
    ) -> Refusal {
        let refusal = self.refusal(call);
        assert_eq!((refusal.code(), refusal.to_string().as_str()), (code, sentence));
        refusal
    }
}

/// Whatever a test did: the books are right at its end.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let wrong = self.read(quota::differences);
            assert!(wrong.is_empty(), "owner, what is counted, what should be: {wrong:#?}");
        }
    }
}

fn people(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let gid = tx.next_id("user_group")?;
    assert_eq!(gid, TEAM);
    tx.group_insert(&GroupRow { id: gid, name: "team".into(), template: String::new() })?;
    for (name, gid) in [("alice", TEAM), ("bob", TEAM), ("mallory", 1), ("carol", TEAM), ("dave", 1)] {
        let id = tx.next_id("user")?;
        tx.user_insert(&UserRow {
            id,
            gid,
            name: name.into(),
            password_sha256: password_digest(&format!("{name}-pw")),
            auth_driver: "core".into(),
            enabled: 1,
            template: String::new(),
        })?;
        // All are users, who may make things; two of them are the team.
        tx.membership_add(id, 1)?;
        tx.membership_add(id, gid)?;
        // One leads the team; to another, rules give everything that rules can give.
        match name {
            "carol" => {
                tx.group_admin_add(TEAM, id)?;
                for rule in group_admin_rules(id, TEAM) {
                    oned::session::add_rule(tx, &rule)?;
                }
            }
            "dave" => {
                let rights = [Right::Use, Right::Manage, Right::Admin, Right::Create];
                let rule = Rule::new(Selector::One(id), &ObjectKind::ALL, Selector::All, &rights);
                oned::session::add_rule(tx, &rule)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The session string of one of the users.
pub fn session(name: &str) -> String {
    format!("{name}:{name}-pw")
}

/// Permission bits as the database holds them.
pub fn octal(bits: u32) -> i64 {
    Permissions::from_octal(bits).to_i64()
}

/// The restore point that increment `number` of `image` made; 64 digits as restic's ids.
pub fn point(image: i64, number: i64) -> String {
    format!("{image:04x}{number:04x}{}", "0".repeat(56))
}

fn disk_ids(row: &VmRow) -> String {
    let template = ledger::stored(&row.template);
    let disks = one_core::backup::Disks::from_template(&template, &[]);
    let ids: Vec<String> = disks.chosen(&ledger::config_of(row)).iter().map(|disk| disk.id.to_string()).collect();
    ids.join(",")
}

/// Holds two dumps against each other and shows only the rows that differ.
#[track_caller]
pub fn unchanged(before: &str, after: &str, what: &str) {
    let rows = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    let (old, new) = (rows(before), rows(after));
    let (gone, came): (Vec<_>, Vec<_>) = (old.difference(&new).collect(), new.difference(&old).collect());
    assert!(before == after, "{what}, and yet it changed something\n- {gone:#?}\n+ {came:#?}");
}

/// The vector of that name in a text, which must be there once.
pub fn only_vector(text: &str, name: &str) -> Vec<(String, String)> {
    let template = Template::parse(text).unwrap();
    let mut vectors = template.vectors(name);
    let vector = vectors.next().unwrap_or_else(|| panic!("no {name} in {text}"));
    assert!(vectors.next().is_none(), "more than one {name} in {text}");
    vector.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Pairs to compare with those of [`only_vector`].
pub fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The element `name` of a document, its tags included.
pub fn element(document: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = document.find(&open).unwrap_or_else(|| panic!("no {name} in {document}"));
    let end = document[start..].find(&close).unwrap() + start + close.len();
    document[start..end].to_owned()
}

/// Gives the document back when it obeys its published schema.
#[track_caller]
pub fn valid(document: String) -> String {
    // These have no schema of their own, but are the end of a pool that has one.
    for (root, pool) in [("DEFAULT_USER_QUOTAS", "USER_POOL"), ("DEFAULT_GROUP_QUOTAS", "GROUP_POOL")] {
        if document.starts_with(&format!("<{root}>")) {
            valid(format!("<{pool}>{document}</{pool}>"));
            return document;
        }
    }
    let root: String =
        document.trim_start_matches('<').chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
    let schema = match root.as_str() {
        "VM_POOL" if document.contains("<PERMISSIONS>") => "vm_pool_extended".to_owned(),
        "HISTORY_RECORDS" => "acct".to_owned(),
        "SHOWBACK_RECORDS" => "showback".to_owned(),
        "RAFT" => "raftstatus".to_owned(),
        root => root.to_ascii_lowercase(),
    };
    let path = folder("../tests/xsd").join(format!("{schema}.xsd"));
    assert!(path.is_file(), "there is no schema for {root}");
    let rest = &document[1 + root.len()..];
    let named = format!("<{root} xmlns=\"http://opennebula.org/XMLSchema\"{rest}");
    let mut child = Command::new("xmllint")
        .args(["--noout", "--nonet", "--schema"])
        .arg(path)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("xmllint does not start; install it: apt-get install libxml2-utils");
    child.stdin.take().unwrap().write_all(named.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{document}", String::from_utf8_lossy(&output.stderr));
    document
}

/// A folder of this package.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Holds a text against `tests/golden/NAME`; UPDATE_GOLDEN=1 rewrites it.
#[track_caller]
pub fn golden(name: &str, text: &str) {
    let path = folder("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(text, expected, "{name} differs from the golden file; UPDATE_GOLDEN=1 rewrites it");
}

/// Python's own SQLite, which writes a whole database as text whenever it is asked. One for all tests; it ends with them, at
/// the end of its input.
struct Dump {
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

static DUMP: LazyLock<Mutex<Dump>> = LazyLock::new(|| Mutex::new(Dump::start()));

const DUMP_SCRIPT: &str = "
import sqlite3, sys
for path in sys.stdin:
    base = sqlite3.connect('file:%s?mode=ro' % path.strip(), uri=True)
    text = '\\n'.join(base.iterdump()).encode()
    base.close()
    sys.stdout.buffer.write(b'%d\\n' % len(text) + text)
    sys.stdout.flush()
";

impl Dump {
    #[expect(clippy::zombie_processes, reason = "it ends with the tests, which is when nobody is left to wait")]
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", DUMP_SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed: apt install python3");
        Self { ask: child.stdin.take().unwrap(), answer: BufReader::new(child.stdout.take().unwrap()) }
    }

    fn take(&mut self, path: &Path) -> String {
        self.ask.write_all(format!("{}\n", path.display()).as_bytes()).unwrap();
        self.ask.flush().unwrap();
        let mut line = String::new();
        self.answer.read_line(&mut line).unwrap();
        let mut text = vec![0; line.trim().parse().expect("python3 tells the length of the dump")];
        self.answer.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }
}
