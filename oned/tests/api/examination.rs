//! `one.system.examine`: the engine's look at real directories and at what only pretends, and who may have it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use one_core::refusal::Refusal;
use oned::api::{self, system};
use oned::engine::{Engine, Isolation, Outside, Stores};
use oned::store::rows::VmBackupRow;

use crate::world::{NOW, SECRET, World};

/// A world with an engine that is asked but never ticks; `dummies` are where dummy drivers pretend.
struct Examined {
    world: World,
    dummies: PathBuf,
    _engine: Arc<Engine>,
}

/// The host of a world that is examined.
const PRETENDED: i64 = 1;

/// The findings: name, subject, result, text, remedy.
type Findings = Vec<[String; 5]>;

impl Examined {
    fn new() -> Self {
        let world = World::configured(|config| config.dummy_drivers = true);
        // The world's own host would be this machine's libvirt, whatever that is.
        api::host::delete(&world.cloud, &world.admin, 0).unwrap();
        api::host::allocate(&world.cloud, &world.admin, "pretended", "dummy", "dummy", -1).unwrap();
        let dummies = world.cloud.config.dummy_directory.clone();
        fs::create_dir_all(&dummies).unwrap();
        for datastore in [0, 1, 2] {
            let path = PathBuf::from(world.read(|tx| tx.datastore(datastore)).base_path);
            fs::create_dir_all(path).unwrap();
        }
        fs::set_permissions(state(&world), Permissions::from_mode(0o700)).unwrap();
        let stores = Stores::new(&world.cloud, Isolation::InProcess);
        let outside = Outside::new(mpsc::channel().0, Some(dummies.clone()), stores);
        let engine = Engine::new(Arc::clone(&world.cloud), Arc::new(outside));
        let (examiner, directory) = (Arc::downgrade(&engine), state(&world));
        world.cloud.desk.install(move || Some(examiner.upgrade()?.examine(&directory)));
        world.cloud.desk.beat();
        Self { world, dummies, _engine: engine }
    }

    fn document(&self) -> String {
        system::examine(&self.world.cloud, &self.world.admin).unwrap()
    }

    fn findings(&self) -> Findings {
        let document = self.document();
        let part = |check: &str, name: &str| {
            let (_, rest) = check.split_once(&format!("<{name}>")).unwrap();
            let (text, _) = rest.split_once(&format!("</{name}>")).unwrap();
            text.trim_start_matches("<![CDATA[").trim_end_matches("]]>").to_owned()
        };
        let checks = document.split("<CHECK>").skip(1);
        checks.map(|check| ["NAME", "SUBJECT", "RESULT", "TEXT", "REMEDY"].map(|name| part(check, name))).collect()
    }

    /// What is said of one thing.
    #[track_caller]
    fn said(&self, name: &str, subject: &str, result: &str, piece: &str) {
        let findings = self.findings();
        let found = findings
            .iter()
            .find(|[a, b, c, text, _]| a == name && b.contains(subject) && c == result && text.contains(piece));
        assert!(found.is_some(), "no {name} of {subject:?} is {result} with {piece:?}: {findings:#?}");
    }

    /// A backup datastore with a real directory, and its id.
    fn add_backups(&self, name: &str, base: &Path) -> i64 {
        let text = format!(
            "NAME={name}\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=\"{SECRET}\"\nBASE_PATH=\"{}\"\n",
            base.display()
        );
        api::datastore::allocate(&self.world.cloud, &self.world.admin, &text, -1).unwrap()
    }
}

fn state(world: &World) -> PathBuf {
    world.cloud.run_dir.parent().unwrap().to_owned()
}

#[test]
fn an_installation_in_order_has_no_failure_and_every_kind_of_check() {
    let examined = Examined::new();
    let findings = examined.findings();
    let names: Vec<&str> = findings.iter().map(|finding| finding[0].as_str()).collect();
    for name in [
        "state directory",
        "free space",
        "database",
        "clock",
        "listening",
        "scheduler",
        "jobs",
        "libvirt",
        "datastore",
        "scratch space",
        "backups",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let failures: Vec<_> =
        findings.iter().filter(|[name, _, result, ..]| result == "failure" && !name.contains("space")).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    examined.said("libvirt", "host 1 (pretended)", "ok", "answers");
    assert!(examined.document().starts_with(&format!("<EXAMINATION><TIME>{NOW}</TIME><VERSION>")));
}

#[test]
fn files_that_others_may_read_and_files_that_are_gone_are_failures() {
    let examined = Examined::new();
    let directory = state(&examined.world);
    fs::create_dir_all(directory.join(".one")).unwrap();
    fs::write(directory.join(".one/one_auth"), "x").unwrap();
    fs::set_permissions(directory.join(".one/one_auth"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    examined.said("state directory", "one_auth", "failure", "0644 instead of 0600");
    examined.said("state directory", directory.to_str().unwrap(), "warning", "0755");
    fs::remove_file(directory.join("one_key")).unwrap();
    examined.said("state directory", "one_key", "failure", "not there");
}

#[test]
fn a_datastore_that_is_not_there_is_a_failure() {
    let examined = Examined::new();
    let folder = tempfile::tempdir().unwrap();
    let path = PathBuf::from(examined.world.read(|tx| tx.datastore(1)).base_path);
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "a file in its place").unwrap();
    examined.said("datastore", "datastore 1 (default)", "failure", "cannot be written to");

    let (there, gone) = (folder.path().join("there"), folder.path().join("gone"));
    fs::create_dir(&there).unwrap();
    examined.add_backups("there", &there);
    let id = examined.add_backups("gone", &gone);
    examined.said("datastore", "(there)", "ok", "can be written to");
    examined.said("repository", "(there)", "ok", "holds no backup yet");
    examined.said("datastore", &format!("datastore {id} (gone)"), "failure", "gone");
    assert!(!gone.exists());
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0, "nothing is left there");
    assert!(!examined.document().contains(SECRET));
}

#[test]
fn a_restore_point_that_is_not_there_is_a_failure_of_its_repository() {
    let examined = Examined::new();
    let world = &examined.world;
    let folder = tempfile::tempdir().unwrap();
    let datastore = examined.add_backups("backups", folder.path());
    let vm = api::vm::allocate(&world.cloud, &world.alice, crate::world::SIZE, false).unwrap();
    world.run_vm(vm, PRETENDED);
    world.add_backup(vm, datastore, 1, false);
    examined.said("repository", "(backups)", "failure", "not there");
    let full = |world: &World| world.edit_datastore(datastore, |row| (row.total_mb, row.free_mb) = (1000, 0));
    full(world);
    examined.said("free space", "(backups)", "failure", "full");
}

#[test]
fn a_clock_behind_the_records_stuck_jobs_and_old_backups_are_told() {
    let examined = Examined::new();
    let world = &examined.world;
    let folder = tempfile::tempdir().unwrap();
    let datastore = examined.add_backups("backups", folder.path());
    let vm = api::vm::allocate(&world.cloud, &world.alice, crate::world::SIZE, false).unwrap();
    world.run_vm(vm, PRETENDED);
    world.write(|tx| tx.vm_backup_put(&VmBackupRow { vm_id: vm, last_success: NOW - 30 * 86_400, failures: 0 }));
    examined.said("backups", &format!("VM {vm} "), "warning", "30 days ago");
    api::datastore::import_backups(&world.cloud, &world.admin, datastore).unwrap();
    examined.said("jobs", "", "ok", "1 under way");
    world.write(|tx| {
        let mut job = tx.jobs_open(oned::store::JobFilter::All)?.remove(0);
        (job.attempts, job.error) = (4, "the server is away".into());
        tx.job_update(&job)
    });
    examined.said("jobs", &format!("datastore {datastore}"), "warning", "tried 4 times: the server is away");
    world.clock.advance(-7300);
    examined.said("clock", "", "failure", "2 hours behind");
}

#[test]
fn a_hypervisor_that_does_not_answer_is_a_failure_with_its_words() {
    let examined = Examined::new();
    let folder = examined.dummies.join("host-1");
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join("script.json"),
        "{\"rules\":[{\"operation\":\"facts\",\"fail\":{\"kind\":\"retry\",\"reason\":\"the host is busy\"}}]}",
    )
    .unwrap();
    examined.said("libvirt", "host 1 (pretended)", "failure", "the host is busy");
    api::host::status(&examined.world.cloud, &examined.world.admin, 1, 2).unwrap();
    examined.said("libvirt", "host 1 (pretended)", "ok", "OFFLINE");
}

#[test]
fn only_administrators_may_examine_and_nobody_before_there_is_an_engine() {
    let world = World::new();
    for caller in [&world.alice, &world.bob, &world.mallory] {
        let refused = system::examine(&world.cloud, caller).unwrap_err();
        assert!(matches!(refused, Refusal::NotAuthorized { .. }), "{refused:?}");
    }
    let early = system::examine(&world.cloud, &world.admin).unwrap_err();
    assert!(early.to_string().contains("just starting"), "{early}");
}
