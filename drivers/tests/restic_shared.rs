//! The restic datastore with several series in one repository, several operations at a time, and other programs beside it.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use drivers::datastore::{Change, SourceDisk, StoreRequest, Stored};
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, Cancel, Content, Extent, Kind, Pace, Progress, Result, Secret};
use proptest::prelude::*;
use tempfile::TempDir;

use shared::ShortForms as _;
use shared::memory::{MemoryReader, MemoryWriter, noise};

const PASSWORD: &str = "not a secret";
const CHUNK: u32 = 4096;
const INSTALL: &str = "restic is needed for this test: apt-get install restic";

fn config(base: &Path) -> ResticConfig {
    ResticConfig {
        chunk_bytes: CHUNK,
        lease_wait: Duration::from_secs(60),
        threads: 2,
        shared: true,
        ..ResticConfig::new(base.to_owned(), Secret::new(PASSWORD.to_owned()))
    }
}

fn open(base: &Path, change: impl FnOnce(&mut ResticConfig)) -> ResticDatastore {
    let mut config = config(base);
    change(&mut config);
    ResticDatastore::new(config).unwrap()
}

fn shared_rig() -> (TempDir, ResticDatastore) {
    let base = tempfile::tempdir().unwrap();
    let datastore = open(base.path(), |_| {});
    (base, datastore)
}

fn one_disk(reader: MemoryReader, change: Change, marked: Option<Vec<Extent>>) -> Vec<SourceDisk> {
    vec![SourceDisk { id: 0, reader: Box::new(reader), change, marked }]
}

fn store(
    datastore: &ResticDatastore,
    series: &str,
    job: &str,
    parent: Option<&str>,
    disks: Vec<SourceDisk>,
) -> Result<Stored> {
    let tags = [format!("one-{series}"), "nightly".to_owned()];
    let request = StoreRequest { series, tags: &tags, job, time: 1_700_000_000, parent, document: b"<VM/>" };
    datastore.store(&request, disks, &Progress::default(), &Cancel::default())
}

fn full(datastore: &ResticDatastore, series: &str, job: &str, disk: &[u8]) -> Stored {
    store(datastore, series, job, None, one_disk(MemoryReader::whole(disk), Change::Whole, None)).unwrap()
}

fn restored(datastore: &ResticDatastore, series: &str, point: &str, size: usize) -> Result<Vec<u8>> {
    let mut writer = MemoryWriter { data: vec![0; size], ..MemoryWriter::default() };
    datastore.restore_now(series, point, 0, &mut writer)?;
    Ok(writer.data)
}

fn restic(repository: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("restic");
    command.env("RESTIC_PASSWORD", PASSWORD).arg("--no-cache").arg("-r").arg(repository).args(arguments);
    command.output().unwrap_or_else(|error| panic!("{INSTALL}: {error}"))
}

fn restic_ok(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = restic(repository, arguments);
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn data(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Data }
}

#[test]
fn series_in_one_repository_share_bytes_and_nothing_else() {
    let (base, datastore) = shared_rig();
    let disk = noise(1 << 20, 1);
    let first = full(&datastore, "7", "job=1", &disk);
    let second = full(&datastore, "job_3", "job=1", &disk);
    assert!(second.stored_bytes < 30_000, "{}", second.stored_bytes);
    assert_eq!(datastore.series().unwrap(), ["7", "job_3"]);
    assert_eq!(datastore.ids("7").unwrap(), [first.point.as_str()]);
    assert_eq!(datastore.ids("8").unwrap(), Vec::<String>::new());
    assert_eq!(datastore.find("7", "job=1").unwrap(), Some(first.clone()));
    assert_eq!(datastore.find("8", "job=1").unwrap(), None);
    assert_eq!(datastore.points("job_3").unwrap()[0].tags, ["one-job_3", "nightly"]);
    assert_eq!(datastore.points("job_3").unwrap()[0].job, "job=1");
    for result in [
        datastore.inspect("8", &first.point).map(drop),
        datastore.document("job_3", &first.point).map(drop),
        restored(&datastore, "job_3", &first.point, disk.len()).map(drop),
    ] {
        assert_eq!(result.unwrap_err().kind, Kind::Missing);
    }
    // An increment cannot be built on a point of another series.
    let reader = MemoryReader::changed(&disk, vec![data(0, 1)]);
    let error = store(&datastore, "7", "job=2", Some(&second.point), one_disk(reader, Change::SinceParent, None));
    assert_eq!(error.unwrap_err().kind, Kind::Missing);
    // Nor is it forgotten from there.
    assert_eq!(datastore.forget_now("7", std::slice::from_ref(&second.point)).unwrap().freed_bytes, 0);
    datastore.forget_now("7", std::slice::from_ref(&first.point)).unwrap();
    datastore.sweep_now("7").unwrap();
    assert_eq!(datastore.series().unwrap(), ["job_3"]);
    assert_eq!(restored(&datastore, "job_3", &second.point, disk.len()).unwrap(), disk);
    let repository = base.path().join("shared");
    let listed = String::from_utf8(restic_ok(&repository, &["snapshots", "--json", "--tag", "series=job_3"])).unwrap();
    assert!(listed.contains(r#""tags":["one-job_3","nightly","series=job_3","job=1"]"#), "{listed}");
    restic_ok(&repository, &["check", "--read-data"]);
    assert_eq!(datastore.points("shared").unwrap_err().kind, Kind::Permanent);
}

#[test]
fn members_of_a_group_share_a_repository_and_store_what_they_have_in_common_once() {
    let base = tempfile::tempdir().unwrap();
    let datastore = open(base.path(), |config| config.shared = false);
    let disk = noise(1 << 20, 1);
    let first = full(&datastore, "job-3/7", "job=1", &disk);
    let second = full(&datastore, "job-3/8", "job=1", &disk);
    let length = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    let taken: u64 = files(&base.path().join("job-3+")).iter().map(length).sum();
    assert!(second.stored_bytes < 30_000 && taken < (1 << 20) + 80_000, "{second:?}, {taken}");
    // The series that is called as the group is has a repository of its own, and is none of its members.
    let other = full(&datastore, "job-3", "job=1", &disk);
    assert!(other.stored_bytes > 1 << 20, "{other:?}");
    let repositories = ["job-3", "job-3+"].map(|name| base.path().join(name));
    assert_eq!(datastore.series().unwrap(), ["job-3", "job-3/7", "job-3/8"]);
    let listed =
        String::from_utf8(restic_ok(&repositories[1], &["snapshots", "--json", "--tag", "series=job-3/8"])).unwrap();
    assert!(listed.contains(r#""tags":["one-job-3/8","nightly","series=job-3/8","job=1"]"#), "{listed}");
    assert!(restic_ok(&repositories[1], &["dump", &second.point, "/one/disk.0"]) == disk);

    datastore.forget_now("job-3", std::slice::from_ref(&other.point)).unwrap();
    datastore.forget_now("job-3/7", std::slice::from_ref(&first.point)).unwrap();
    for series in ["job-3", "job-3/7", "job-3/9"] {
        datastore.sweep_now(series).unwrap();
    }
    assert_eq!(datastore.ids("job-3/7").unwrap(), [""; 0]);
    assert_eq!(restored(&datastore, "job-3/8", &second.point, disk.len()).unwrap(), disk);
    restic_ok(&repositories[1], &["check", "--read-data"]);
    datastore.forget_now("job-3/8", std::slice::from_ref(&second.point)).unwrap();
    assert!(files(&repositories[1].join("data")).is_empty(), "what nobody needs any more is gone");
}

#[test]
fn a_member_of_a_group_keeps_the_repository_that_it_has_when_the_configuration_changes() {
    let (base, shared) = shared_rig();
    let own = open(base.path(), |config| config.shared = false);
    let disk = noise(100_000, 2);
    let in_group = full(&own, "job-3/7", "job=1", &disk);
    let in_shared = full(&shared, "job-3/8", "job=1", &disk);
    let count = |folder: &str| files(&base.path().join(folder).join("snapshots")).len();
    for (datastore, number) in [(&own, 2), (&shared, 3)] {
        assert_eq!(datastore.series().unwrap(), ["job-3/7", "job-3/8"]);
        for (series, stored, folder) in [("job-3/7", &in_group, "job-3+"), ("job-3/8", &in_shared, "shared")] {
            assert_eq!(restored(datastore, series, &stored.point, disk.len()).unwrap(), disk);
            let before = count(folder);
            let reader = MemoryReader::changed(&disk, vec![data(0, 10)]);
            let disks = one_disk(reader, Change::SinceParent, None);
            store(datastore, series, &format!("job={number}"), Some(&stored.point), disks).unwrap();
            assert_eq!(count(folder), before + 1, "{series}");
        }
    }
    // Who comes new, or again, goes where the configuration says.
    shared.forget_now("job-3/8", &shared.ids("job-3/8").unwrap()).unwrap();
    for (datastore, series, folder) in [(&shared, "job-3/9", "shared"), (&own, "job-3/8", "job-3+")] {
        let before = count(folder);
        full(datastore, series, "job=9", &disk);
        assert_eq!(count(folder), before + 1, "{series}");
    }
}

#[test]
fn a_damaged_repository_of_a_group_is_told_and_hides_no_other_series() {
    let base = tempfile::tempdir().unwrap();
    let datastore = open(base.path(), |config| config.shared = false);
    let disk = noise(100_000, 3);
    for series in ["job-3/7", "job-4/7", "7"] {
        full(&datastore, series, "job=1", &disk);
    }
    let point = datastore.ids("job-3/7").unwrap();
    std::fs::write(base.path().join("job-3+/config"), b"nonsense").unwrap();
    for datastore in [&datastore, &open(base.path(), |config| config.shared = false)] {
        assert_eq!(datastore.series().unwrap(), ["7", "job-4/7"]);
        assert_eq!(datastore.points("job-3/7").unwrap_err().kind, Kind::Corrupt);
        assert_eq!(restored(datastore, "job-3/7", &point[0], disk.len()).unwrap_err().kind, Kind::Corrupt);
        // Nothing is made anew beside what is there.
        let disks = one_disk(MemoryReader::whole(&disk), Change::Whole, None);
        assert_eq!(store(datastore, "job-3/8", "job=1", None, disks).unwrap_err().kind, Kind::Corrupt);
        assert_eq!(datastore.ids("job-4/7").unwrap().len(), 1);
    }
}

#[test]
fn a_series_keeps_the_repository_that_it_has_when_the_configuration_changes() {
    let (base, shared) = shared_rig();
    let own = open(base.path(), |config| config.shared = false);
    let disk = noise(100_000, 2);
    let in_own = full(&own, "7", "job=1", &disk);
    let in_shared = full(&shared, "8", "job=1", &disk);
    for datastore in [&own, &shared] {
        assert_eq!(datastore.series().unwrap(), ["7", "8"]);
        for (series, stored, folder) in [("7", &in_own, "7"), ("8", &in_shared, "shared")] {
            assert_eq!(restored(datastore, series, &stored.point, disk.len()).unwrap(), disk);
            let before = files(&base.path().join(folder).join("snapshots")).len();
            let job = format!("job={before}0");
            let reader = MemoryReader::changed(&disk, vec![data(0, 10)]);
            store(datastore, series, &job, Some(&stored.point), one_disk(reader, Change::SinceParent, None)).unwrap();
            assert_eq!(files(&base.path().join(folder).join("snapshots")).len(), before + 1);
        }
    }
    assert!(!base.path().join("8").exists());
    // A series that has left the shared repository gets its own.
    shared.forget_now("8", &shared.ids("8").unwrap()).unwrap();
    full(&own, "8", "job=9", &disk);
    assert!(base.path().join("8/config").exists());
}

#[test]
fn a_job_that_is_stored_twice_is_published_once() {
    let (_base, datastore) = shared_rig();
    let disk = noise(300_000, 3);
    let meeting = Arc::new(Barrier::new(2));
    let slow = MemoryReader { meeting: Some(Arc::clone(&meeting)), ..MemoryReader::whole(&disk) };
    let (slow, quick) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| store(&datastore, "7", "job=1", None, one_disk(slow, Change::Whole, None)).unwrap());
        meeting.wait();
        let quick = full(&datastore, "7", "job=1", &disk);
        meeting.wait();
        (slow.join().unwrap(), quick)
    });
    assert_eq!(slow, quick);
    let reader = MemoryReader::whole(&disk);
    let read = Arc::clone(&reader.read_bytes);
    assert_eq!(store(&datastore, "7", "job=1", None, one_disk(reader, Change::Whole, None)).unwrap(), quick);
    assert_eq!(read.load(Ordering::Relaxed), 0);
    assert_eq!(datastore.ids("7").unwrap(), [quick.point]);
}

#[test]
fn stores_restores_forgets_and_sweeps_at_the_same_time_leave_every_point_whole() {
    let (base, datastore) = shared_rig();
    let other = open(base.path(), |_| {});
    let common = noise(400_000, 4);
    std::thread::scope(|scope| {
        for number in 0..4_u64 {
            let datastore = if number % 2 == 0 { &datastore } else { &other };
            let common = &common;
            scope.spawn(move || {
                let series = number.to_string();
                let mut disk = common.clone();
                let mut points: Vec<(String, Vec<u8>)> = Vec::new();
                for round in 0..4_u64 {
                    let at = (number * 4 + round) as usize * 20_000;
                    disk[at..at + 5000].copy_from_slice(&noise(5000, 100 + number * 10 + round));
                    let job = format!("job={round}");
                    let parent = points.last().map(|(point, _)| point.clone());
                    let disks = match parent {
                        None => one_disk(MemoryReader::whole(&disk), Change::Whole, None),
                        Some(_) => {
                            let reader = MemoryReader::changed(&disk, vec![data(at as u64, 5000)]);
                            one_disk(reader, Change::SinceParent, None)
                        }
                    };
                    let stored = store(datastore, &series, &job, parent.as_deref(), disks).unwrap();
                    points.push((stored.point, disk.clone()));
                    if round == number % 3 + 1 {
                        let (point, _) = points.remove(0);
                        datastore.forget_now(&series, &[point]).unwrap();
                        datastore.sweep_now(&series).unwrap();
                    }
                    for (point, bytes) in &points {
                        assert!(restored(datastore, &series, point, bytes.len()).unwrap() == *bytes);
                    }
                }
                assert_eq!(datastore.ids(&series).unwrap().len(), 3);
            });
        }
    });
    restic_ok(&base.path().join("shared"), &["check", "--read-data"]);
}

#[test]
fn what_two_stored_at_the_same_time_is_restored_from_the_copy_that_is_whole() {
    let base = tempfile::tempdir().unwrap();
    let disk = noise(50 * CHUNK as usize, 9);
    full(&open(base.path(), |_| {}), "7", "job=0", &noise(CHUNK as usize, 1));
    let packs = || {
        let all = files(&base.path().join("shared/data")).into_iter();
        all.map(|path| (std::fs::metadata(&path).unwrap().len(), path)).collect::<Vec<_>>()
    };
    // Both have looked at the index before either writes.
    let meeting = Arc::new(Barrier::new(2));
    let points: Vec<String> = std::thread::scope(|scope| {
        let storing: Vec<_> = ["7", "8"]
            .map(|series| {
                let reader = MemoryReader { meeting: Some(Arc::clone(&meeting)), ..MemoryReader::whole(&disk) };
                let base = base.path();
                scope.spawn(move || {
                    let datastore = open(base, |_| {});
                    store(&datastore, series, "job=1", None, one_disk(reader, Change::Whole, None)).unwrap().point
                })
            })
            .into_iter()
            .collect();
        storing.into_iter().map(|storing| storing.join().unwrap()).collect()
    });
    let large: Vec<_> = packs().into_iter().filter(|(length, _)| *length > disk.len() as u64 / 2).collect();
    assert_eq!(large.len(), 2, "{large:?}");
    for (_, path) in &large {
        let whole = std::fs::read(path).unwrap();
        let mut damaged = whole.clone();
        damaged[1000] ^= 1;
        damaged[whole.len() / 2] ^= 1;
        std::fs::write(path, &damaged).unwrap();
        for (series, point) in ["7", "8"].iter().zip(&points) {
            assert!(restored(&open(base.path(), |_| {}), series, point, disk.len()).unwrap() == disk);
        }
        std::fs::write(path, &whole).unwrap();
    }
    // With both gone there is nothing to be had.
    for (_, path) in &large {
        std::fs::remove_file(path).unwrap();
    }
    let error = restored(&open(base.path(), |_| {}), "7", &points[0], disk.len()).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
}

#[test]
fn a_repository_keeps_its_chunk_length_when_the_configuration_changes() {
    let (base, datastore) = shared_rig();
    let mut disk = noise(200_000, 5);
    let first = full(&datastore, "7", "job=1", &disk);
    let changed = open(base.path(), |config| config.chunk_bytes = 4 * CHUNK);
    disk[0] ^= 1;
    let reader = MemoryReader::changed(&disk, vec![data(0, 1)]);
    let second =
        store(&changed, "7", "job=2", Some(&first.point), one_disk(reader, Change::SinceParent, None)).unwrap();
    assert_eq!(second.read_bytes, u64::from(CHUNK));
    assert_eq!(restored(&changed, "7", &second.point, disk.len()).unwrap(), disk);
    // A repository of stock restic remembers none.
    restic_ok(&base.path().join("8"), &["init"]);
    let third = full(&changed, "8", "job=1", &disk);
    let reader = MemoryReader::changed(&disk, vec![data(0, 1)]);
    let fourth =
        store(&changed, "8", "job=2", Some(&third.point), one_disk(reader, Change::SinceParent, None)).unwrap();
    assert_eq!(fourth.read_bytes, 4 * u64::from(CHUNK));
}

#[test]
fn a_comparison_reads_all_stores_what_differs_and_counts_what_nobody_marked() {
    for part_chunks in [1000, 16] {
        let base = tempfile::tempdir().unwrap();
        let datastore = open(base.path(), |config| config.part_bytes = part_chunks * u64::from(CHUNK));
        let mut disk = noise(200_001, 6);
        let at = |chunk: usize| chunk * CHUNK as usize;
        disk[at(30)..at(34)].fill(0);
        let first = full(&datastore, "7", "job=1", &disk);
        // Marked and changed; marked only; changed only: in the middle, to zeros, at the short end.
        disk[at(2) + 5] ^= 1;
        disk[at(20)] ^= 1;
        disk[at(25)..at(26)].fill(0);
        *disk.last_mut().unwrap() ^= 1;
        let marked = vec![data(at(2) as u64, 1), data(at(10) as u64, u64::from(CHUNK))];
        let reader = MemoryReader::whole(&disk);
        let zeros: u64 = reader.extents.iter().filter(|e| e.content == Content::Zero).map(|e| e.length).sum();
        let compared =
            store(&datastore, "7", "job=2", Some(&first.point), one_disk(reader, Change::Compare, Some(marked)))
                .unwrap();
        assert_eq!(compared.read_bytes, 200_001 - zeros);
        assert_eq!(compared.unmarked_bytes, 2 * u64::from(CHUNK) + 200_001 % u64::from(CHUNK));
        assert!(compared.stored_bytes < 60_000, "{}", compared.stored_bytes);
        assert_eq!(restored(&datastore, "7", &compared.point, disk.len()).unwrap(), disk);
        assert_eq!(datastore.find("7", "job=2").unwrap(), Some(compared.clone()));
        let facts = datastore.points("7").unwrap();
        let fact = facts.iter().find(|facts| facts.stored.point == compared.point).unwrap();
        assert_eq!((fact.parent.as_ref(), fact.stored.unmarked_bytes), (Some(&first.point), 0));

        // Nothing changed; and without a record nothing can be unmarked.
        let again = one_disk(MemoryReader::whole(&disk), Change::Compare, Some(Vec::new()));
        assert_eq!(store(&datastore, "7", "job=3", Some(&compared.point), again).unwrap().unmarked_bytes, 0);
        disk[0] ^= 1;
        let again = one_disk(MemoryReader::whole(&disk), Change::Compare, None);
        assert_eq!(store(&datastore, "7", "job=4", Some(&compared.point), again).unwrap().unmarked_bytes, 0);
        // A disk that grew is compared where both have something.
        disk.extend(noise(100_000, 7));
        let grown = one_disk(MemoryReader::whole(&disk), Change::Compare, Some(Vec::new()));
        let grown = store(&datastore, "7", "job=5", Some(&compared.point), grown).unwrap();
        assert_eq!(grown.unmarked_bytes, u64::from(CHUNK));
        assert_eq!(restored(&datastore, "7", &grown.point, disk.len()).unwrap(), disk);
        let unknown = "0".repeat(64);
        let reader = MemoryReader::whole(&disk);
        let read = Arc::clone(&reader.read_bytes);
        let refused = store(&datastore, "7", "job=6", Some(&unknown), one_disk(reader, Change::Compare, None));
        assert_eq!((refused.unwrap_err().kind, read.load(Ordering::Relaxed)), (Kind::Missing, 0));
        restic_ok(&base.path().join("shared"), &["check", "--read-data"]);
    }
}

/// Stores while `meanwhile` happens in the middle of it, and gives what the store said.
fn disturbed(meanwhile: impl Fn(&Path, &Stored)) -> drivers::DriverError {
    let base = tempfile::tempdir().unwrap();
    let datastore = open(base.path(), |config| config.pack_bytes = 1 << 20);
    let repository = base.path().join("shared");
    let mut disk = noise(3 << 20, 8);
    let first = full(&datastore, "7", "job=1", &disk);
    disk[..2 << 20].copy_from_slice(&noise(2 << 20, 9));
    let meeting = Arc::new(Barrier::new(2));
    // Two disks: the first has been packed by the time the second is read.
    let reader = MemoryReader::changed(&disk, vec![data(0, 2 << 20)]);
    let slow = MemoryReader { meeting: Some(Arc::clone(&meeting)), ..MemoryReader::whole(&noise(1 << 20, 10)) };
    let mut disks = one_disk(reader, Change::SinceParent, None);
    disks.push(SourceDisk { id: 1, reader: Box::new(slow), change: Change::Whole, marked: None });
    let error = std::thread::scope(|scope| {
        let storing = scope.spawn(|| store(&datastore, "7", "job=2", Some(&first.point), disks));
        meeting.wait();
        meanwhile(&repository, &first);
        meeting.wait();
        storing.join().unwrap().unwrap_err()
    });
    assert_eq!(datastore.find("7", "job=2").unwrap(), None);
    assert!(!datastore.ids("7").unwrap().iter().any(|point| *point != first.point));
    // The next one does not lean on what is gone.
    let healed = full(&datastore, "7", "job=3", &disk);
    assert_eq!(restored(&datastore, "7", &healed.point, disk.len()).unwrap(), disk);
    error
}

#[test]
fn a_prune_by_another_program_during_a_store_is_told_and_nothing_is_published() {
    let forced = disturbed(|repository, _| {
        restic_ok(repository, &["unlock", "--remove-all"]);
        restic_ok(repository, &["prune", "--max-unused", "0"]);
    });
    let unlocked = disturbed(|repository, _| drop(restic_ok(repository, &["unlock", "--remove-all"])));
    let pack = disturbed(|repository, _| {
        // Not one that is being written: it has no pack's name yet.
        let packs = files(&repository.join("data")).into_iter().filter(|path| path.file_name().unwrap().len() == 64);
        let largest = packs.max_by_key(|path| path.metadata().map_or(0, |facts| facts.len()));
        std::fs::remove_file(largest.unwrap()).unwrap();
    });
    let index = disturbed(|repository, _| {
        let [file] = files(&repository.join("index")).try_into().unwrap();
        let aside = repository.join("aside");
        std::fs::rename(&file, &aside).unwrap();
    });
    for (error, words) in [(forced, "gone"), (unlocked, "lock file"), (pack, "pack"), (index, "index file")] {
        assert_eq!(error.kind, Kind::Corrupt, "{error}");
        assert!(error.reason.contains(words) && error.reason.contains("another program"), "{error}");
    }
}

#[test]
fn a_damaged_restore_point_does_not_hide_the_others() {
    let (base, datastore) = shared_rig();
    let disk = noise(50_000, 11);
    let bad = full(&datastore, "7", "job=1", &disk);
    let good = full(&datastore, "7", "job=2", &disk);
    let foreign = ["backup", "--tag", "series=7", "/etc/hostname"];
    restic_ok(&base.path().join("shared"), &foreign);
    let file = base.path().join("shared/snapshots").join(&bad.point);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    for datastore in [&datastore, &open(base.path(), |_| {})] {
        let fresh = open(base.path(), |_| {});
        assert_eq!(fresh.ids("7").unwrap(), std::slice::from_ref(&good.point));
        assert_eq!(fresh.find("7", "job=1").unwrap(), None);
        assert_eq!(datastore.find("7", "job=2").unwrap(), Some(good.clone()));
        assert_eq!(fresh.inspect("7", &bad.point).unwrap_err().kind, Kind::Corrupt);
    }
}

#[test]
fn a_parent_that_was_forgotten_is_not_told() {
    let (_base, datastore) = shared_rig();
    let disk = noise(50_000, 12);
    let first = full(&datastore, "7", "job=1", &disk);
    let reader = MemoryReader::changed(&disk, vec![data(0, 1)]);
    store(&datastore, "7", "job=2", Some(&first.point), one_disk(reader, Change::SinceParent, None)).unwrap();
    let parents = || datastore.points("7").unwrap().into_iter().filter_map(|facts| facts.parent).collect::<Vec<_>>();
    assert_eq!(parents(), std::slice::from_ref(&first.point));
    datastore.forget_now("7", &[first.point]).unwrap();
    assert_eq!(parents(), Vec::<String>::new());
}

#[test]
fn a_wait_for_a_prune_shows_beats_and_ends_with_a_cancel_and_so_does_a_pace() {
    let (base, datastore) = shared_rig();
    let disk = noise(300_000, 13);
    full(&datastore, "7", "job=1", &disk);
    let lease = std::fs::File::open(base.path().join(".lease/shared.use")).unwrap();
    lease.lock().unwrap();
    let slow = open(base.path(), |config| config.pace = Pace::new(Some(1)));
    for (datastore, locked) in [(&datastore, true), (&slow, false)] {
        if !locked {
            lease.unlock().unwrap();
        }
        let (progress, cancel) = (Progress::default(), Cancel::default());
        std::thread::scope(|scope| {
            let storing = scope.spawn(|| {
                let request =
                    StoreRequest { series: "7", tags: &[], job: "job=2", time: 0, parent: None, document: b"" };
                let disks = one_disk(MemoryReader::whole(&disk), Change::Whole, None);
                datastore.store(&request, disks, &progress, &cancel)
            });
            while progress.pulse() < 8 {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancel.cancel();
            assert_eq!(storing.join().unwrap().unwrap_err().kind, Kind::Cancelled);
        });
    }
    // What rustic does shows, too.
    let progress = Progress::default();
    datastore.sweep("7", &progress).unwrap();
    assert!(progress.pulse() > 256, "{}", progress.pulse());
    assert_eq!(files(&base.path().join("shared/locks")), Vec::<PathBuf>::new());
}

/// A mounted tmpfs; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        as_root(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", folder.path().to_str().unwrap()]);
        as_root(&["chmod", "0777", folder.path().to_str().unwrap()]);
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        as_root(&["umount", "--lazy", self.0.path().to_str().unwrap()]);
    }
}

fn as_root(arguments: &[&str]) {
    let root = rustix_is_root();
    let mut command = if root { Command::new(arguments[0]) } else { Command::new("sudo") };
    let arguments = if root { arguments[1..].to_vec() } else { [&["-n"], arguments].concat() };
    let output = command.args(&arguments).output().unwrap_or_else(|error| panic!("root or sudo is needed: {error}"));
    assert!(output.status.success(), "root or sudo is needed for this test: {output:?}");
}

fn rustix_is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

#[test]
fn a_repository_on_a_full_disk_can_be_opened_listed_restored_and_pruned_and_the_reserve_comes_back() {
    let small = SmallDisk::new(48 << 20);
    let base = small.0.path();
    let datastore = open(base, |config| config.pack_bytes = 1 << 20);
    let reserve = base.join(".reserve");
    let disk = noise(12 << 20, 14);
    let mut points = Vec::new();
    let error = loop {
        let number = points.len();
        let mut disk = disk.clone();
        disk[..8 << 20].copy_from_slice(&noise(8 << 20, 100 + number as u64));
        let disks = one_disk(MemoryReader::whole(&disk), Change::Whole, None);
        match store(&datastore, "7", &format!("job={number}"), None, disks) {
            Ok(stored) => points.push((stored.point, disk)),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(error.to_string().contains("MB are still needed and "), "{error}");
    assert!(reserve.exists() && points.len() > 2, "{}", points.len());
    std::fs::write(base.join("filler"), vec![1; 48 << 20]).unwrap_err();
    assert_eq!(datastore.capacity().unwrap().free_bytes, 0);

    let fresh = open(base, |config| config.pack_bytes = 1 << 20);
    assert_eq!(fresh.ids("7").unwrap().len(), points.len());
    let (last, bytes) = points.pop().unwrap();
    assert_eq!(restored(&fresh, "7", &last, bytes.len()).unwrap(), bytes);
    let (gone, _) = points.remove(0);
    // The reserve is what lets it begin, and is put back out of what it freed.
    assert!(fresh.forget_now("7", &[gone]).unwrap().freed_bytes > 7 << 20);
    assert!(reserve.exists());
    std::fs::remove_file(base.join("filler")).unwrap();
    let others: Vec<String> = points.into_iter().map(|(point, _)| point).collect();
    fresh.forget_now("7", &others).unwrap();
    assert_eq!(restored(&fresh, "7", &last, bytes.len()).unwrap(), bytes);
    assert!(reserve.exists());
    full(&fresh, "7", "job=again", &bytes);
    restic_ok(&base.join("shared"), &["check", "--read-data"]);
}

/// One step of a history of several series.
#[derive(Debug, Clone)]
enum Step {
    Full(u8),
    Increment(u8, Vec<(f64, u32, u8)>),
    /// Some writes, and the share of them that a record of changes lists.
    Compare(u8, Vec<(f64, u32, u8)>, usize),
    Forget(u8, prop::sample::Index),
    Sweep(u8),
    /// The configuration changes between shared and own.
    Turn,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let series = 0_u8..3;
    let writes = || prop::collection::vec((0.0..1.0, 1_u32..20_000, 0_u8..4), 0..5);
    let step = prop_oneof![
        2 => series.clone().prop_map(Step::Full),
        5 => (series.clone(), writes()).prop_map(|(series, writes)| Step::Increment(series, writes)),
        3 => (series.clone(), writes(), 0_usize..5).prop_map(|(series, writes, n)| Step::Compare(series, writes, n)),
        3 => (series.clone(), any::<prop::sample::Index>()).prop_map(|(series, which)| Step::Forget(series, which)),
        1 => series.prop_map(Step::Sweep),
        1 => Just(Step::Turn),
    ];
    prop::collection::vec(step, 4..14)
}

fn overwrite(disk: &mut [u8], writes: &[(f64, u32, u8)], salt: u64) -> Vec<Extent> {
    let mut ranges = Vec::new();
    for (at, length, seed) in writes {
        let start = (at * disk.len() as f64) as usize;
        let end = (start + *length as usize).min(disk.len());
        match seed {
            0 => disk[start..end].fill(0),
            _ => disk[start..end].copy_from_slice(&noise(end - start, salt + u64::from(*seed))),
        }
        if end > start {
            ranges.push((start as u64, end as u64));
        }
    }
    ranges.sort_unstable();
    let mut extents: Vec<Extent> = Vec::new();
    for (start, end) in ranges {
        match extents.last_mut() {
            Some(last) if last.end() >= start => last.length = last.end().max(end) - last.offset,
            _ => extents.push(data(start, end - start)),
        }
    }
    extents
}

/// What a comparison has to count, from the bytes themselves.
fn unmarked(old: &[u8], new: &[u8], marked: &[Extent]) -> u64 {
    let chunk = CHUNK as usize;
    let differing = old.chunks(chunk).zip(new.chunks(chunk)).enumerate().filter(|(_, (old, new))| old != new);
    let lengths = differing.map(|(number, (_, new))| ((number * chunk) as u64, new.len() as u64));
    lengths
        .filter(|(start, length)| !marked.iter().any(|m| m.offset < start + length && m.end() > *start))
        .map(|l| l.1)
        .sum()
}

fn play(size: usize, history: &[Step], with_restic: bool) {
    let base = tempfile::tempdir().unwrap();
    let make = |shared| {
        open(base.path(), |config| {
            config.shared = shared;
            config.part_bytes = 40 * u64::from(CHUNK);
        })
    };
    let (mut shared, mut datastore) = (true, make(true));
    let mut model: BTreeMap<String, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for (number, step) in history.iter().enumerate() {
        let job = format!("job={number}");
        match step {
            Step::Full(series) => {
                let disk = noise(size, u64::from(series % 2));
                let stored = full(&datastore, &series.to_string(), &job, &disk);
                model.entry(series.to_string()).or_default().push((stored.point, disk));
            }
            Step::Increment(series, writes) | Step::Compare(series, writes, _) => {
                let points = model.entry(series.to_string()).or_default();
                let Some((parent, old)) = points.last().cloned() else { continue };
                let mut disk = old.clone();
                let mut extents = overwrite(&mut disk, writes, 1000 * number as u64);
                let stored = if let Step::Compare(_, _, listed) = step {
                    extents.truncate(*listed);
                    let disks = one_disk(MemoryReader::whole(&disk), Change::Compare, Some(extents.clone()));
                    let stored = store(&datastore, &series.to_string(), &job, Some(&parent), disks).unwrap();
                    assert_eq!(stored.unmarked_bytes, unmarked(&old, &disk, &extents));
                    stored
                } else {
                    let disks = one_disk(MemoryReader::changed(&disk, extents), Change::SinceParent, None);
                    store(&datastore, &series.to_string(), &job, Some(&parent), disks).unwrap()
                };
                points.push((stored.point, disk));
            }
            Step::Forget(series, which) => {
                let points = model.entry(series.to_string()).or_default();
                if !points.is_empty() {
                    let (point, _) = points.remove(which.index(points.len()));
                    datastore.forget_now(&series.to_string(), &[point]).unwrap();
                }
            }
            Step::Sweep(series) => datastore.sweep_now(&series.to_string()).unwrap(),
            Step::Turn => {
                shared = !shared;
                datastore = make(shared);
            }
        }
        let named: Vec<_> = datastore.series().unwrap();
        for (series, points) in &model {
            let mut known: Vec<_> = points.iter().map(|(point, _)| point.clone()).collect();
            known.sort();
            assert_eq!(datastore.ids(series).unwrap(), known, "series {series} after step {number}");
            assert!(points.is_empty() || named.contains(series));
            for (point, bytes) in points {
                assert!(restored(&datastore, series, point, size).unwrap() == *bytes, "{point} after step {number}");
            }
        }
        if with_restic {
            for repository in ["shared", "0", "1", "2"].map(|name| base.path().join(name)) {
                if repository.join("config").exists() {
                    restic_ok(&repository, &["check", "--read-data"]);
                    for (point, bytes) in model.values().flatten() {
                        if size <= 40 * CHUNK as usize && repository.join("snapshots").join(point).exists() {
                            assert!(restic_ok(&repository, &["dump", point, "/one/disk.0"]) == *bytes);
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_of_several_series_equals_a_byte_map_of_each(size in 1_usize..400_000, history in steps()) {
        play(size, &history, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn after_every_step_stock_restic_agrees_about_all_series(size in 1_usize..160_000, history in steps()) {
        play(size, &history, true);
    }
}
