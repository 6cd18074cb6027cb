//! The daemon dies at the n-th point that it reaches, n = 1, 2, …: the named ones of the code, and before and after every call
//! to a driver.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use one_core::lifecycle::JobPhase;
use oned::store::{JobFilter, Store};

use super::stories::{STORIES, Story, story};
use super::world::{Base, World, wait};

/// SIGABRT.
const ABORTED: i32 = 6;

/// The real daemon; ended when dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Starts it over a state directory, to die at a point: its number, or its name.
    pub fn start(folder: &Path, point: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oned"));
        command.arg("--state-dir").arg(folder).args(["--listen", "127.0.0.1:0"]);
        command.env_remove("ONE_AUTH").env_remove("KEEPLAST_LOG").env_remove("NOTIFY_SOCKET");
        command.env("TZ", "UTC").env("KEEPLAST_CRASH_AT", point);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Whether it has died at its point.
    pub fn has_crashed(&mut self) -> bool {
        let Some(status) = self.0.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(ABORTED), "the daemon ended otherwise: {status}");
        true
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Lets the daemon work on what was asked for until it crashes or nothing is left to do; whether it crashed. `cancel`: the
/// backup that is then held is cancelled, through the door.
pub fn until_it_crashes(folder: &Path, point: &str, cancel: bool) -> bool {
    let store = Store::open(&folder.join("one.db")).unwrap();
    let mut daemon = Daemon::start(folder, point);
    let mut cancelled = false;
    wait("the daemon to crash or to come to the end", || {
        if daemon.has_crashed() {
            return Some(true);
        }
        let jobs = store.read(|tx| tx.jobs_open(JobFilter::All)).unwrap();
        let held = jobs.iter().find(|job| job.phase == JobPhase::Prepared.as_str());
        if let Some(job) = held.filter(|_| cancel && !cancelled) {
            cancelled = ask_cancel(folder, job.vm_id.unwrap());
        }
        let is_over = |id| !store.read(|tx| tx.backup_job_runs(id)).unwrap();
        let runs = store.read(|tx| tx.backup_job_list()).unwrap();
        (jobs.is_empty() && runs.iter().all(|run| is_over(run.id))).then_some(false)
    })
}

/// `one.vm.backupcancel`; whether it was answered.
fn ask_cancel(folder: &Path, vm: i64) -> bool {
    let asked = || -> Option<String> {
        let endpoint = std::fs::read_to_string(folder.join(".one/one_endpoint")).ok()?;
        let address = endpoint.trim().strip_prefix("http://")?.strip_suffix("/RPC2")?.to_owned();
        let body = format!(
            "<methodCall><methodName>one.vm.backupcancel</methodName><params><param><value><string>oneadmin:secret</string>\
             </value></param><param><value><int>{vm}</int></value></param></params></methodCall>"
        );
        let head =
            format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all((head + &body).as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    asked().is_some_and(|answer| answer.contains("<boolean>1</boolean>"))
}

/// The point that the daemon says it reached.
fn reached(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("oned.log")).unwrap();
    let line = log.lines().rev().find_map(|line| line.split_once("Crash point ")).expect("a crash is in the log");
    line.1.split(' ').next().unwrap().to_owned()
}

/// Runs a story with a crash at a point, and what follows; the point's name, none when it was not reached.
fn crash_at(base: &Base, story: &Story, point: &str) -> Option<String> {
    let world = World::open(&base.state(), base.restore());
    story.ask(&world);
    let memory = world.close();
    let crashed = until_it_crashes(&base.state(), point, story.cancels).then(|| reached(&base.state()));
    println!("{}: {point}, {crashed:?}", story.name);
    let mut world = World::open(&base.state(), memory);
    if story.cancels {
        world.script("{}");
    }
    world.settle();
    story.ends(&mut world, false);
    world.close();
    crashed
}

/// Runs a story with a crash at each point that it comes by, of which those `wanted` must be some.
fn reaches(name: &str, wanted: &[&str]) {
    let story = story(name);
    let base = Base::new(|world| story.prepare(world));
    let numbered = (1..).map_while(|number: usize| crash_at(&base, story, &number.to_string()));
    let points: BTreeSet<String> = numbered.collect();
    // Two jobs side by side do not come by their points in the same order each time.
    let missed = wanted.iter().filter(|point| !points.contains(**point));
    let unreached: Vec<_> = missed.filter(|point| crash_at(&base, story, point).is_none()).collect();
    assert!(unreached.is_empty(), "{name} does not reach {unreached:?}, but {points:?}");
}

/// Where every backup that goes well comes by.
const BACKUP: [&str; 13] = [
    "backup.planned",
    "hypervisor.begin_backup",
    "hypervisor.begin_backup.done",
    "backup.prepared",
    "datastore.store",
    "hypervisor.read",
    "datastore.store.done",
    "backup.copied",
    "backup.sealed",
    "hypervisor.end.done",
    "backup.recorded",
    "hypervisor.checkpoints",
    "backup.cleaned",
];

#[test]
fn a_full_backup_survives_a_crash_at_every_point() {
    reaches("full", &BACKUP);
}

#[test]
fn an_increment_survives_a_crash_at_every_point() {
    reaches(
        "increment",
        &[&BACKUP[..], &["hypervisor.delete_checkpoint", "hypervisor.delete_checkpoint.done"]].concat(),
    );
}

#[test]
fn an_increment_of_a_vm_that_is_off_survives_a_crash_at_every_point() {
    reaches("increment of a VM that is off", &BACKUP);
}

#[test]
fn a_reset_survives_a_crash_at_every_point() {
    reaches("reset", &BACKUP);
}

#[test]
fn a_fallback_survives_a_crash_at_every_point() {
    reaches("fallback", &["hypervisor.whole_disk", "backup.recorded"]);
}

#[test]
fn a_restore_survives_a_crash_at_every_point() {
    reaches("restore", &["datastore.restore_image", "datastore.restore_image.done", "restore.finished"]);
}

#[test]
fn a_restore_in_place_survives_a_crash_at_every_point() {
    reaches(
        "restore in place",
        &[
            "hypervisor.begin_backup.done",
            "datastore.restore_image.done",
            "vm-restore.made",
            "vm-restore.whole",
            "vm-restore.committed",
            "vm-restore.switched",
            "hypervisor.delete_checkpoint.done",
            "vm-restore.cleaned",
        ],
    );
}

#[test]
fn the_shortening_of_a_chain_survives_a_crash_at_every_point() {
    reaches("prune a chain", &["datastore.forget", "datastore.forget.done", "retain.forgotten"]);
}

#[test]
fn the_removal_of_old_backups_survives_a_crash_at_every_point() {
    reaches("prune full images", &["datastore.forget", "datastore.forget.done", "delete.data"]);
}

#[test]
fn a_deletion_survives_a_crash_at_every_point() {
    reaches("delete", &["datastore.forget", "datastore.forget.done", "delete.data"]);
}

#[test]
fn a_cancel_survives_a_crash_at_every_point() {
    reaches("cancel", &["backup.undoing", "hypervisor.abandon_backup", "datastore.sweep.done", "backup.undone"]);
}

#[test]
fn a_run_of_a_backup_job_survives_a_crash_at_every_point() {
    reaches("run of a backup job", &BACKUP);
}

#[test]
fn every_story_is_told() {
    let source = include_str!("crash.rs");
    for story in &STORIES {
        assert!(source.contains(&format!("\"{}\"", story.name)), "nobody tells the story {:?}", story.name);
    }
}
