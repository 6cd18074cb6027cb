//! The restic datastore against stock restic and against a byte map.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use drivers::datastore::{Change, Damage, Depth, RestoreRequest, SourceDisk, StoreRequest, Stored, VerifyRequest};
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, Cancel, Content, DiskReader, Extent, Kind, Progress, Result, Secret};
use proptest::prelude::*;
use tempfile::TempDir;

use shared::ShortForms as _;
use shared::memory::{MemoryReader, MemoryWriter, noise};

const PASSWORD: &str = "not a secret";
const CHUNK: u32 = 4096;

struct Rig {
    base: TempDir,
    datastore: ResticDatastore,
}

fn config(base: &Path) -> ResticConfig {
    ResticConfig {
        chunk_bytes: CHUNK,
        lease_wait: Duration::from_millis(100),
        threads: 2,
        ..ResticConfig::new(base.to_owned(), Secret::new(PASSWORD.to_owned()))
    }
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ResticConfig)) -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut config = config(base.path());
        change(&mut config);
        Self { datastore: ResticDatastore::new(config).unwrap(), base }
    }

    fn store(&self, job: &str, parent: Option<&str>, disks: Vec<(MemoryReader, Change)>) -> Result<Stored> {
        store(&self.datastore, job, parent, disks, &Cancel::default())
    }

    fn full(&self, job: &str, data: &[u8]) -> Stored {
        self.store(job, None, vec![(MemoryReader::whole(data), Change::Whole)]).unwrap()
    }

    fn restored(&self, point: &str, disk: u32, size: usize) -> Result<Vec<u8>> {
        let mut writer = MemoryWriter { data: vec![0; size], ..MemoryWriter::default() };
        self.datastore.restore_now("7", point, disk, &mut writer)?;
        Ok(writer.data)
    }

    fn restic(&self, arguments: &[&str]) -> Output {
        restic(self.base.path()).args(arguments).output().unwrap_or_else(|error| panic!("{INSTALL}: {error}"))
    }

    fn restic_ok(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.restic(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restic {arguments:?}: {text}");
        // restic's check prints some findings and still succeeds.
        for complaint in ["error", "not referenced", "unexpected"] {
            assert!(arguments[0] != "check" || !text.replace("no errors", "").contains(complaint), "{text}");
        }
        output.stdout
    }

    fn check_clean(&self) {
        self.restic_ok(&["check", "--read-data"]);
    }

    fn files(&self, folder: &str) -> Vec<std::path::PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.base.path().join("7").join(folder), &mut found);
        found
    }
}

const INSTALL: &str = "restic is needed for this test: apt-get install restic";

fn restic(base: &Path) -> Command {
    let mut command = Command::new("restic");
    command.env("RESTIC_PASSWORD", PASSWORD).arg("--no-cache").arg("-r").arg(base.join("7"));
    command
}

fn store(
    datastore: &ResticDatastore,
    job: &str,
    parent: Option<&str>,
    disks: Vec<(MemoryReader, Change)>,
    cancel: &Cancel,
) -> Result<Stored> {
    let disks = disks
        .into_iter()
        .zip(0..)
        .map(|((reader, change), id)| SourceDisk { id, reader: Box::new(reader), change, marked: None })
        .collect();
    let tags = ["one-7".to_owned()];
    let request = StoreRequest { series: "7", tags: &tags, job, time: 1_700_000_000, parent, document: b"<VM/>" };
    datastore.store(&request, disks, &Progress::default(), cancel)
}

fn deep(rig: &Rig, point: &str) -> Vec<Damage> {
    let points = [point.to_owned()];
    let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: None };
    rig.datastore.verify(&request, &mut |_| Ok(()), &Progress::default(), &Cancel::default()).unwrap().damages
}

fn data(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Data }
}

#[test]
fn a_full_backup_comes_back_through_us_and_through_stock_restic() {
    let rig = Rig::new();
    let mut first = noise(100_000, 1);
    first[20_000..60_000].fill(0);
    let second = vec![9; 5 * CHUNK as usize];
    let disks = vec![(MemoryReader::whole(&first), Change::Whole), (MemoryReader::whole(&second), Change::Whole)];
    let stored = rig.store("job=1", None, disks).unwrap();

    assert_eq!(stored.disks.iter().map(|d| (d.id, d.size_bytes)).collect::<Vec<_>>(), [(0, 100_000), (1, 20_480)]);
    assert_eq!(rig.restored(&stored.point, 0, 100_000).unwrap(), first);
    assert_eq!(rig.restored(&stored.point, 1, 20_480).unwrap(), second);
    assert_eq!(rig.datastore.document("7", &stored.point).unwrap(), b"<VM/>");
    assert_eq!(rig.datastore.inspect("7", &stored.point).unwrap(), stored);
    assert_eq!(rig.datastore.find("7", "job=1").unwrap(), Some(stored.clone()));
    assert_eq!(rig.datastore.find("7", "job=").unwrap(), None);
    assert_eq!(rig.datastore.ids("7").unwrap(), std::slice::from_ref(&stored.point));

    rig.check_clean();
    assert_eq!(deep(&rig, &stored.point), []);
    assert_eq!(rig.restic_ok(&["dump", &stored.point, "/one/disk.0"]), first);
    assert_eq!(rig.restic_ok(&["dump", &stored.point, "/one/disk.1"]), second);
    assert_eq!(rig.restic_ok(&["dump", &stored.point, "/one/vm.xml"]), b"<VM/>");
    let listed = String::from_utf8(rig.restic_ok(&["snapshots", "--json"])).unwrap();
    for part in [r#""hostname":"one""#, r#""tags":["one-7","job=1"]"#, r#""time":"2023-11-14T22:13:20Z""#] {
        assert!(listed.contains(part), "{listed}");
    }
    assert_eq!(rig.files("locks").len(), 0);
}

#[test]
fn an_increment_reads_only_dirty_chunks_and_is_still_the_whole_disk() {
    let rig = Rig::new();
    let mut disk = noise(1 << 20, 2);
    let full = rig.full("job=1", &disk);
    disk[100_000..100_010].fill(1);
    disk[CHUNK as usize * 50..CHUNK as usize * 52 + 7].fill(0);
    let zero = Extent { offset: u64::from(CHUNK) * 50, length: u64::from(CHUNK) * 2 + 7, content: Content::Zero };
    let reader = MemoryReader::changed(&disk, vec![data(100_000, 10), zero]);
    let read_bytes = Arc::clone(&reader.read_bytes);
    let increment = rig.store("job=2", Some(&full.point), vec![(reader, Change::SinceParent)]).unwrap();

    // The chunk of the ten bytes, and the one that is zero only in its first seven.
    assert_eq!(read_bytes.load(Ordering::Relaxed), 2 * u64::from(CHUNK));
    assert_eq!(increment.read_bytes, 2 * u64::from(CHUNK));
    assert!(increment.stored_bytes < 60_000, "{}", increment.stored_bytes);
    assert_eq!(rig.restored(&increment.point, 0, disk.len()).unwrap(), disk);
    assert_eq!(rig.restic_ok(&["dump", &increment.point, "/one/disk.0"]), disk);
    let listed = String::from_utf8(rig.restic_ok(&["snapshots", "--json", &increment.point])).unwrap();
    assert!(listed.contains(&format!(r#""parent":"{}""#, full.point)), "{listed}");
    rig.check_clean();

    assert!(rig.datastore.forget_now("7", std::slice::from_ref(&full.point)).unwrap().freed_bytes > 0);
    assert_eq!(rig.restored(&increment.point, 0, disk.len()).unwrap(), disk);
    rig.check_clean();
}

#[test]
fn what_the_repository_has_is_not_stored_again_by_a_full() {
    let rig = Rig::new();
    let disk = noise(1 << 20, 3);
    let first = rig.full("job=1", &disk);
    let second = rig.full("job=2", &disk);
    assert!(first.stored_bytes > 1 << 20);
    assert!(second.stored_bytes < 30_000, "{}", second.stored_bytes);
    assert_eq!(second.read_bytes, 1 << 20);
}

#[test]
fn an_increment_without_a_fitting_parent_is_refused_before_reading() {
    let rig = Rig::new();
    let disk = noise(50_000, 4);
    let full = rig.full("job=1", &disk);
    let unknown = "0".repeat(64);
    let longer = noise(50_001, 4);
    for (datastore, parent, data) in [
        (&rig.datastore, None, &disk),
        (&rig.datastore, Some(unknown.as_str()), &disk),
        (&rig.datastore, Some("no id"), &disk),
        (&rig.datastore, Some(full.point.as_str()), &longer),
    ] {
        let reader = MemoryReader::changed(data, vec![self::data(0, 10)]);
        let read_bytes = Arc::clone(&reader.read_bytes);
        let error =
            store(datastore, "job=2", parent, vec![(reader, Change::SinceParent)], &Cancel::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Missing, "{error}");
        assert_eq!(read_bytes.load(Ordering::Relaxed), 0);
    }
    assert_eq!(rig.datastore.ids("7").unwrap(), [full.point]);
}

#[test]
fn a_disk_larger_than_a_part_becomes_a_folder_whose_untouched_parts_are_kept() {
    let part = 16 * u64::from(CHUNK);
    let rig = Rig::with(|config| config.part_bytes = part + 1);
    let mut disk = noise(3 * part as usize + 777, 5);
    let full = rig.full("job=1", &disk);
    assert_eq!(full.disks[0].size_bytes, disk.len() as u64);
    let at = part as usize + 5;
    disk[at..at + 3].fill(0);
    let reader = MemoryReader::changed(&disk, vec![data(at as u64, 3)]);
    let increment = rig.store("job=2", Some(&full.point), vec![(reader, Change::SinceParent)]).unwrap();
    assert_eq!(increment.read_bytes, u64::from(CHUNK));
    assert_eq!(rig.restored(&increment.point, 0, disk.len()).unwrap(), disk);
    let parts: Vec<u8> = (0..4)
        .flat_map(|number| rig.restic_ok(&["dump", &increment.point, &format!("/one/disk.0/{number:05}/data")]))
        .collect();
    assert_eq!(parts, disk);
    rig.check_clean();
    // Three files' lists stay: only the changed part, the folder, its parent and the root are new.
    let listed = String::from_utf8(rig.restic_ok(&["list", "blobs"])).unwrap();
    assert_eq!(listed.lines().filter(|line| line.starts_with("tree")).count(), 4 + 3 + 1 + 3);
}

#[test]
fn a_failed_read_or_a_cancel_publishes_nothing() {
    let rig = Rig::new();
    let disk = noise(300_000, 6);
    let failing = MemoryReader { fail_after: Some(100_000), ..MemoryReader::whole(&disk) };
    let whole = MemoryReader::whole(&disk);
    let error = rig.store("job=1", None, vec![(whole, Change::Whole), (failing, Change::Whole)]).unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Retry, "injected"));

    let cancel = Cancel::default();
    let meeting = Arc::new(Barrier::new(2));
    let slow = MemoryReader { meeting: Some(Arc::clone(&meeting)), ..MemoryReader::whole(&disk) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            meeting.wait();
            cancel.cancel();
            meeting.wait();
        });
        let error = store(&rig.datastore, "job=1", None, vec![(slow, Change::Whole)], &cancel).unwrap_err();
        assert_eq!(error.kind, Kind::Cancelled);
    });
    assert_eq!(rig.datastore.ids("7").unwrap(), Vec::<String>::new());
    assert_eq!(rig.datastore.find("7", "job=1").unwrap(), None);
    rig.full("job=1", &disk);
    rig.datastore.sweep_now("7").unwrap();
    rig.check_clean();
}

#[test]
fn a_source_that_contradicts_itself_is_refused() {
    struct Liar(Vec<(u64, usize)>);
    impl DiskReader for Liar {
        fn size_bytes(&self) -> u64 {
            8192
        }
        fn extents(&mut self) -> Result<Vec<Extent>> {
            Ok(vec![data(0, 8192)])
        }
        fn read(
            &mut self,
            ranges: &mut dyn Iterator<Item = (u64, u32)>,
            sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
        ) -> Result<()> {
            ranges.for_each(drop);
            self.0.iter().try_for_each(|(offset, length)| sink(*offset, vec![1; *length]))
        }
    }
    let rig = Rig::new();
    for answers in [vec![], vec![(0, 8191)], vec![(0, 8192), (0, 8192)], vec![(4096, 4096)], vec![(1 << 60, 1)]] {
        let disk = SourceDisk { id: 0, reader: Box::new(Liar(answers.clone())), change: Change::Whole, marked: None };
        let request = StoreRequest { series: "7", tags: &[], job: "j", time: 0, parent: None, document: b"" };
        let result = rig.datastore.store(&request, vec![disk], &Progress::default(), &Cancel::default());
        assert!(result.is_err(), "{answers:?}");
    }
    assert_eq!(rig.datastore.ids("7").unwrap(), Vec::<String>::new());
}

#[test]
fn a_write_that_fails_at_any_point_publishes_nothing_and_the_next_store_works() {
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let gate = Arc::clone(&left);
    let rig = Rig::with(|config| {
        config.pack_bytes = 1 << 20;
        config.write_gate = Some(Arc::new(move |_: &Path| match gate.fetch_sub(1, Ordering::SeqCst) {
            0 => Err(std::io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        }));
    });
    let disk = noise(3 << 20, 7);
    let until_it_works = |job: &str, readers: &[MemoryReader]| {
        let mut failures = 0;
        loop {
            // The first write of an existing repository is the lock's.
            let first = i64::from(rig.base.path().join("7").exists());
            left.store(failures + first, Ordering::SeqCst);
            let disks = readers.iter().map(|reader| (reader.clone(), Change::Whole)).collect();
            let result = rig.store(job, None, disks);
            left.store(i64::MAX, Ordering::SeqCst);
            match result {
                Ok(stored) => return (stored, failures),
                Err(error) => {
                    assert_eq!(error.kind, Kind::Permanent, "{error}");
                    assert!(error.to_string().contains("No space left"), "{error}");
                    assert_eq!(rig.datastore.find("7", job).unwrap(), None);
                    failures += 1;
                }
            }
        }
    };
    // The key and the config of a new repository, then at least a pack, an index and a snapshot.
    let (_, failures) = until_it_works("job=0", &[]);
    assert!(failures >= 2, "{failures}");
    // Three packs of data, one of directories, the index, the snapshot; a lock file that cannot be written is forgone.
    let (stored, failures) = until_it_works("job=1", &[MemoryReader::whole(&disk)]);
    assert!(failures >= 6, "{failures}");
    assert_eq!(rig.restored(&stored.point, 0, disk.len()).unwrap(), disk);
    rig.datastore.sweep_now("7").unwrap();
    rig.check_clean();
    assert_eq!(rig.datastore.find("7", "job=1").unwrap(), Some(stored));
}

#[test]
fn a_full_file_system_can_still_be_read_and_emptied() {
    let full = Arc::new(AtomicI64::new(0));
    let gate = Arc::clone(&full);
    let rig = Rig::with(|config| {
        config.write_gate = Some(Arc::new(move |_: &Path| match gate.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(std::io::Error::from_raw_os_error(28)),
        }));
    });
    let disk = noise(100_000, 40);
    let stored = rig.full("job=1", &disk);
    full.store(1, Ordering::SeqCst);
    let again = rig.store("job=2", None, vec![(MemoryReader::whole(&noise(100_000, 41)), Change::Whole)]);
    assert!(again.unwrap_err().to_string().contains("No space left"));
    assert_eq!(rig.restored(&stored.point, 0, disk.len()).unwrap(), disk);
    rig.datastore.sweep_now("7").unwrap();
    assert!(rig.datastore.forget_now("7", &[stored.point]).unwrap().freed_bytes > 100_000);
}

#[test]
fn forgetting_is_repeatable_and_frees_space() {
    let rig = Rig::new();
    assert_eq!(rig.datastore.forget_now("7", &["0".repeat(64)]).unwrap().freed_bytes, 0);
    let first = rig.full("job=1", &noise(1 << 20, 8));
    let kept = noise(500_000, 9);
    let second = rig.full("job=2", &kept);
    assert!(rig.datastore.forget_now("7", &[first.point.clone(), "rubbish".to_owned()]).unwrap().freed_bytes > 1 << 20);
    rig.datastore.forget_now("7", std::slice::from_ref(&first.point)).unwrap();
    assert_eq!(rig.datastore.ids("7").unwrap(), std::slice::from_ref(&second.point));
    assert_eq!(rig.datastore.inspect("7", &first.point).unwrap_err().kind, Kind::Missing);
    assert_eq!(rig.restored(&second.point, 0, kept.len()).unwrap(), kept);
    rig.check_clean();
    rig.datastore.forget_now("7", std::slice::from_ref(&second.point)).unwrap();
    rig.check_clean();
    assert_eq!(rig.files("data").len(), 0);
}

#[test]
fn forgetting_rewrites_packs_that_are_mostly_garbage() {
    let rig = Rig::new();
    let mut disk = noise(2 << 20, 30);
    let full = rig.full("job=1", &disk);
    disk[300_000..].copy_from_slice(&noise((2 << 20) - 300_000, 31));
    let reader = MemoryReader::changed(&disk, vec![data(300_000, (2 << 20) - 300_000)]);
    let increment = rig.store("job=2", Some(&full.point), vec![(reader, Change::SinceParent)]).unwrap();
    assert!(rig.datastore.forget_now("7", &[full.point]).unwrap().freed_bytes > 1_700_000);
    assert_eq!(rig.restored(&increment.point, 0, disk.len()).unwrap(), disk);
    rig.check_clean();
    assert_eq!(rig.restic_ok(&["dump", &increment.point, "/one/disk.0"]), disk);
}

#[test]
fn a_sweep_removes_what_a_crash_left() {
    let rig = Rig::new();
    rig.datastore.sweep_now("7").unwrap();
    let disk = noise(200_000, 10);
    let stored = rig.full("job=1", &disk);
    let gone = rig.full("job=2", &noise(100_000, 11));
    // A crash before the snapshot was written.
    std::fs::remove_file(rig.base.path().join("7/snapshots").join(&gone.point)).unwrap();
    let packs = rig.files("data").len();
    let pack = &rig.files("data")[0];
    std::fs::write(pack.with_file_name("abc-tmp-keeplast"), b"half a pack").unwrap();
    std::fs::write(rig.base.path().join("7/index/abc-tmp-keeplast"), b"half an index").unwrap();
    std::fs::create_dir(rig.base.path().join(".new-7")).unwrap();
    rig.datastore.sweep_now("7").unwrap();
    assert!(rig.files("data").len() < packs);
    assert!(rig.files("").iter().all(|path| !path.to_string_lossy().contains("tmp-keeplast")));
    assert!(!rig.base.path().join(".new-7").exists());
    assert_eq!(rig.restored(&stored.point, 0, disk.len()).unwrap(), disk);
    rig.check_clean();
}

#[test]
fn a_forget_that_was_cut_off_is_repeated_and_leaves_no_half_written_file() {
    let rig = Rig::new();
    let disk = noise(200_000, 13);
    let gone = rig.full("job=1", &noise(100_000, 14));
    let kept = rig.full("job=2", &disk);
    let pack = &rig.files("data")[0];
    std::fs::write(pack.with_file_name("abc-tmp-keeplast"), b"half a pack").unwrap();
    rig.datastore.forget_now("7", std::slice::from_ref(&gone.point)).unwrap();
    assert!(rig.files("").iter().all(|path| !path.to_string_lossy().contains("tmp-keeplast")));
    assert_eq!(rig.restored(&kept.point, 0, disk.len()).unwrap(), disk);
    rig.check_clean();
}

#[test]
fn stores_and_restores_run_beside_each_other_and_what_prunes_keeps_away() {
    let rig = Rig::new();
    let disk = noise(300_000, 12);
    let first = rig.full("job=1", &disk);
    let meeting = Arc::new(Barrier::new(2));
    let slow = MemoryReader { meeting: Some(Arc::clone(&meeting)), ..MemoryReader::whole(&disk) };
    std::thread::scope(|scope| {
        let storing = scope.spawn(|| rig.store("job=2", None, vec![(slow, Change::Whole)]));
        meeting.wait();
        rig.store("job=3", None, Vec::new()).unwrap();
        assert_eq!(rig.datastore.forget_now("7", &[]).unwrap_err().kind, Kind::Retry);
        assert_eq!(rig.datastore.sweep_now("7").unwrap_err().kind, Kind::Retry);
        let prune = rig.restic(&["prune"]);
        assert!(!prune.status.success());
        assert!(String::from_utf8_lossy(&prune.stderr).contains("keeplast"), "{prune:?}");
        // Reading goes on.
        assert_eq!(rig.restored(&first.point, 0, disk.len()).unwrap(), disk);
        meeting.wait();
        storing.join().unwrap().unwrap();
    });
    rig.restic_ok(&["prune"]);
    rig.check_clean();
    assert_eq!(rig.restored(&first.point, 0, disk.len()).unwrap(), disk);
}

#[test]
fn nothing_is_forgotten_under_a_restore() {
    let rig = Rig::new();
    let disk = noise(300_000, 13);
    let stored = rig.full("job=1", &disk);
    let meeting = Arc::new(Barrier::new(2));
    std::thread::scope(|scope| {
        let restoring = scope.spawn(|| {
            let mut writer =
                MemoryWriter { data: vec![0; disk.len()], meeting: Some(Arc::clone(&meeting)), ..Default::default() };
            rig.datastore.restore_now("7", &stored.point, 0, &mut writer).unwrap();
            writer.data
        });
        meeting.wait();
        let error = rig.datastore.forget_now("7", std::slice::from_ref(&stored.point)).unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "{error}");
        rig.store("job=2", None, Vec::new()).unwrap();
        meeting.wait();
        assert_eq!(restoring.join().unwrap(), disk);
    });
}

#[test]
fn a_running_stock_backup_keeps_our_forget_away_but_not_our_store() {
    let rig = Rig::new();
    let stored = rig.full("job=1", &noise(100_000, 14));
    let mut backup = restic(rig.base.path())
        .args(["backup", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{INSTALL}: {error}"));
    std::io::Write::write_all(backup.stdin.as_mut().unwrap(), b"some text").unwrap();
    // restic writes the lock under a longer name and renames it.
    while !rig.files("locks").iter().any(|path| path.file_name().unwrap().len() == 64) {
        assert!(backup.try_wait().unwrap().is_none(), "restic ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    let error = rig.datastore.forget_now("7", std::slice::from_ref(&stored.point)).unwrap_err();
    assert_eq!(error.kind, Kind::Retry);
    assert!(error.reason.contains("restic unlock"), "{error}");
    rig.full("job=2", &noise(100_000, 15));
    drop(backup.stdin.take());
    assert!(backup.wait().unwrap().success());
    rig.datastore.forget_now("7", std::slice::from_ref(&stored.point)).unwrap();
    rig.check_clean();
}

#[test]
fn a_wrong_password_is_said_plainly_and_not_repeated() {
    let rig = Rig::new();
    let stored = rig.full("job=1", &noise(10_000, 16));
    let wrong = Secret::new("hunter2".to_owned());
    let other = ResticDatastore::new(ResticConfig { password: wrong, ..config(rig.base.path()) }).unwrap();
    let error = other.inspect("7", &stored.point).unwrap_err();
    assert_eq!(error.kind, Kind::Permanent);
    assert!(error.reason.contains("password") && !format!("{error:?}").contains("hunter2"), "{error:?}");
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn without_a_repository_there_is_nothing() {
    let rig = Rig::new();
    assert_eq!(rig.datastore.find("7", "job=1").unwrap(), None);
    assert_eq!(rig.datastore.ids("7").unwrap(), Vec::<String>::new());
    assert_eq!(rig.datastore.inspect("7", &"0".repeat(64)).unwrap_err().kind, Kind::Missing);
    assert_eq!(rig.datastore.document("7", "x").unwrap_err().kind, Kind::Missing);
    for name in ["", "..", "../x", "a/b/c", "a//b", "a/..", ".lease", "a\0b", &"x".repeat(101)] {
        assert_eq!(rig.datastore.points(name).unwrap_err().kind, Kind::Permanent, "{name}");
    }
    let nowhere = ResticDatastore::new(config(&rig.base.path().join("absent"))).unwrap();
    assert_eq!(nowhere.points("7").unwrap_err().kind, Kind::Retry);
    assert!(nowhere.capacity().is_err());
}

#[test]
fn damaged_data_is_never_handed_out_and_the_next_full_heals_a_lost_pack() {
    let rig = Rig::new();
    let disk = noise(300_000, 17);
    let stored = rig.full("job=1", &disk);
    let largest = rig.files("data").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let intact = std::fs::read(&largest).unwrap();
    let mut damaged = intact.clone();
    damaged[150_000] ^= 1;
    std::fs::write(&largest, &damaged).unwrap();
    assert_eq!(rig.restored(&stored.point, 0, disk.len()).unwrap_err().kind, Kind::Corrupt);
    std::fs::write(&largest, &intact[..150_000]).unwrap();
    assert_eq!(rig.restored(&stored.point, 0, disk.len()).unwrap_err().kind, Kind::Corrupt);
    assert_ne!(deep(&rig, &stored.point), []);

    std::fs::remove_file(&largest).unwrap();
    assert_eq!(rig.restored(&stored.point, 0, disk.len()).unwrap_err().kind, Kind::Corrupt);
    let reader = MemoryReader::changed(&disk, vec![data(0, 10)]);
    let error = rig.store("job=2", Some(&stored.point), vec![(reader, Change::SinceParent)]).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt, "{error}");
    let healed = rig.full("job=3", &disk);
    for point in [&stored.point, &healed.point] {
        assert_eq!(&rig.restored(point, 0, disk.len()).unwrap(), &disk);
    }
}

#[test]
fn capacity_counts_the_datastore_and_zeros_are_not_written() {
    let rig = Rig::new();
    let mut disk = vec![0; 400_000];
    disk[200_000] = 1;
    let stored = rig.full("job=1", &disk);
    let capacity = rig.datastore.capacity().unwrap();
    assert!(capacity.used_bytes >= stored.stored_bytes);
    assert!(capacity.free_bytes <= capacity.total_bytes && capacity.total_bytes > 0);
    let mut writer = MemoryWriter { data: vec![0; disk.len()], ..Default::default() };
    let progress = Progress::default();
    let request = RestoreRequest { series: "7", point: &stored.point, disk: 0, skip_bad: false, current: None };
    let written = rig.datastore.restore(request, &mut writer, &progress, &Cancel::default()).unwrap();
    assert_eq!((written.written_bytes, writer.written), (u64::from(CHUNK), u64::from(CHUNK)));
    assert_eq!(progress.get(), (400_000, 400_000));
    assert_eq!(rig.datastore.restore_now("7", &stored.point, 1, &mut writer).unwrap_err().kind, Kind::Missing);
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    Full,
    Increment(Vec<(f64, u32, u8)>),
    Forget(prop::sample::Index),
    Crash(Vec<(f64, u32, u8)>),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writes = || prop::collection::vec((0.0..1.0, 1_u32..20_000, 0_u8..4), 0..6);
    let step = prop_oneof![
        1 => Just(Step::Full),
        5 => writes().prop_map(Step::Increment),
        2 => any::<prop::sample::Index>().prop_map(Step::Forget),
        1 => writes().prop_map(Step::Crash),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 3..9)
}

/// Changes `disk` and lists where, sorted and merged; seed 0 writes zeros.
fn overwrite(disk: &mut [u8], writes: &[(f64, u32, u8)], salt: u64) -> Vec<Extent> {
    let mut touched = vec![0_u8; disk.len()];
    for (at, length, seed) in writes {
        let start = (at * disk.len() as f64) as usize;
        let end = (start + *length as usize).min(disk.len());
        match seed {
            0 => disk[start..end].fill(0),
            _ => disk[start..end].copy_from_slice(&noise(end - start, salt + u64::from(*seed))),
        }
        touched[start..end].fill(if *seed == 0 { 1 } else { 2 });
    }
    let mut extents: Vec<Extent> = Vec::new();
    for (at, mark) in touched.iter().enumerate().filter(|(_, mark)| **mark > 0) {
        let content = if *mark == 1 { Content::Zero } else { Content::Data };
        match extents.last_mut() {
            Some(last) if last.end() == at as u64 && last.content == content => last.length += 1,
            _ => extents.push(Extent { offset: at as u64, length: 1, content }),
        }
    }
    extents
}

fn play(size: usize, history: &[Step], with_restic: bool) {
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let gate = Arc::clone(&left);
    let rig = Rig::with(|config| {
        config.part_bytes = 40 * u64::from(CHUNK);
        config.write_gate = Some(Arc::new(move |_: &Path| match gate.fetch_sub(1, Ordering::SeqCst) {
            0 => Err(std::io::Error::other("injected")),
            _ => Ok(()),
        }));
    });
    let mut disk = noise(size, 99);
    // (point, its bytes), oldest first; the last is what the next increment is based on.
    let mut points: Vec<(String, Vec<u8>)> = Vec::new();
    let mut pending: Vec<(f64, u32, u8)> = Vec::new();
    for (number, step) in history.iter().enumerate() {
        let job = format!("job={number}");
        match step {
            Step::Full => {
                points.push((rig.full(&job, &disk).point, disk.clone()));
                pending.clear();
            }
            Step::Increment(writes) | Step::Crash(writes) => {
                let crash = matches!(step, Step::Crash(_));
                pending.extend(writes);
                let mut next = points.last().map_or_else(|| disk.clone(), |(_, bytes)| bytes.clone());
                let extents = overwrite(&mut next, &pending, number as u64);
                disk = next;
                let (reader, change) = match points.last() {
                    Some(_) => (MemoryReader::changed(&disk, extents), Change::SinceParent),
                    None => (MemoryReader::whole(&disk), Change::Whole),
                };
                let parent = points.last().map(|(point, _)| point.clone());
                if crash {
                    left.store(2, Ordering::SeqCst);
                }
                let stored = rig.store(&job, parent.as_deref(), vec![(reader, change)]);
                left.store(i64::MAX, Ordering::SeqCst);
                match stored {
                    Ok(stored) => {
                        points.push((stored.point, disk.clone()));
                        pending.clear();
                    }
                    Err(error) => assert!(crash, "{error}"),
                }
            }
            Step::Forget(which) if points.len() > 1 => {
                let (point, _) = points.remove(which.index(points.len() - 1));
                rig.datastore.forget_now("7", std::slice::from_ref(&point)).unwrap();
            }
            Step::Forget(_) => {}
            Step::Sweep => rig.datastore.sweep_now("7").unwrap(),
        }
        let mut known: Vec<_> = points.iter().map(|(point, _)| point.clone()).collect();
        known.sort();
        assert_eq!(rig.datastore.ids("7").unwrap(), known);
        for (point, bytes) in &points {
            assert!(rig.restored(point, 0, size).unwrap() == *bytes, "point {point} differs after step {number}");
        }
        // Also when nothing was stored yet: the pack of a crashed first backup would be found after the next one.
        if with_restic && matches!(step, Step::Crash(_)) {
            rig.datastore.sweep_now("7").unwrap();
        }
        if with_restic && !points.is_empty() {
            rig.check_clean();
            let (point, bytes) = &points[number % points.len()];
            if size <= 40 * CHUNK as usize {
                assert!(rig.restic_ok(&["dump", point, "/one/disk.0"]) == *bytes, "restic differs at step {number}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn after_every_step_stock_restic_finds_what_was_stored(size in 1_usize..160_000, history in steps()) {
        play(size, &history, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_of_points_equals_a_byte_map(size in 1_usize..600_000, history in steps()) {
        play(size, &history, false);
    }
}

#[test]
fn a_lock_is_shared_between_objects_on_one_base() {
    let rig = Rig::new();
    let disk = noise(100_000, 20);
    let other = ResticDatastore::new(config(rig.base.path())).unwrap();
    let points = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (number, datastore) in [&rig.datastore, &other].into_iter().enumerate() {
            let (points, disk) = (&points, &disk);
            scope.spawn(move || {
                let job = format!("job={number}");
                loop {
                    let reader = MemoryReader::whole(disk);
                    match store(datastore, &job, None, vec![(reader, Change::Whole)], &Cancel::default()) {
                        Ok(stored) => break points.lock().unwrap().push(stored.point),
                        Err(error) => assert_eq!(error.kind, Kind::Retry, "{error}"),
                    }
                }
            });
        }
    });
    for point in points.into_inner().unwrap() {
        assert_eq!(rig.restored(&point, 0, disk.len()).unwrap(), disk);
    }
    rig.check_clean();
}
