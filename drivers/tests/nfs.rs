//! The datastore of plain files against stock qemu-img and against a byte map.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drivers::datastore::{
    Change, Depth, RestoreRequest, Restored, SourceDisk, StoreRequest, Stored, Verified, VerifyRequest,
};
use drivers::nfs::{NfsConfig, NfsDatastore};
use drivers::qcow2::Compression;
use drivers::{BackupDatastore, Cancel, Content, DiskReader, DiskWriter, Extent, Kind, Progress, Result};
use proptest::prelude::*;
use sha2::Digest as _;
use tempfile::TempDir;

use shared::ShortForms as _;
use shared::memory::{MemoryReader, MemoryWriter};

const CLUSTER: usize = 64 << 10;

struct Rig {
    base: TempDir,
    datastore: NfsDatastore,
}

fn config(base: &Path) -> NfsConfig {
    NfsConfig { lease_wait: Duration::from_millis(100), threads: 2, ..NfsConfig::new(base.to_owned()) }
}

fn store(
    datastore: &NfsDatastore,
    job: &str,
    parent: Option<&str>,
    disks: Vec<(u32, MemoryReader, Change)>,
    cancel: &Cancel,
) -> Result<Stored> {
    let tags = ["one-7".to_owned()];
    let time: i64 = job.bytes().fold(0, |sum, byte| sum * 31 % 1_000_003 + i64::from(byte));
    let request = StoreRequest { series: "7", tags: &tags, job, time, parent, document: b"<VM/>" };
    let disks = disks
        .into_iter()
        .map(|(id, reader, change)| SourceDisk { id, reader: Box::new(reader), change, marked: None })
        .collect();
    datastore.store(&request, disks, &Progress::default(), cancel)
}

/// One disk into the series `job-3/7`.
fn store_in_a_group(datastore: &NfsDatastore) -> Result<Stored> {
    let reader = Box::new(MemoryReader::whole(&noise(CLUSTER, 1)));
    let disks = vec![SourceDisk { id: 0, reader, change: Change::Whole, marked: None }];
    let (series, document) = ("job-3/7", b"<VM/>");
    let request = StoreRequest { series, tags: &[], job: "job=1", time: 1_700_000_000, parent: None, document };
    datastore.store(&request, disks, &Progress::default(), &Cancel::default())
}

fn restored(datastore: &NfsDatastore, point: &str, size: usize) -> Result<Vec<u8>> {
    let mut writer = MemoryWriter { data: vec![0; size], ..MemoryWriter::default() };
    datastore.restore_now("7", point, 0, &mut writer)?;
    Ok(writer.data)
}

fn verify(datastore: &NfsDatastore, points: &[String], depth: Depth) -> Verified {
    let request = VerifyRequest { series: "7", points, depth, resume: None };
    datastore.verify(&request, &mut |_| Ok(()), &Progress::default(), &Cancel::default()).unwrap()
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut NfsConfig)) -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut config = config(base.path());
        change(&mut config);
        Self { datastore: NfsDatastore::new(config).unwrap(), base }
    }

    fn full(&self, job: &str, data: &[u8]) -> String {
        let disk = (0, MemoryReader::whole(data), Change::Whole);
        store(&self.datastore, job, None, vec![disk], &Cancel::default()).unwrap().point
    }

    fn increment(&self, job: &str, parent: &str, data: &[u8], extents: Vec<Extent>) -> Result<Stored> {
        let disk = (0, MemoryReader::changed(data, extents), Change::SinceParent);
        store(&self.datastore, job, Some(parent), vec![disk], &Cancel::default())
    }

    fn compare(&self, job: &str, parent: &str, data: &[u8]) -> Stored {
        let disk = (0, MemoryReader::whole(data), Change::Compare);
        store(&self.datastore, job, Some(parent), vec![disk], &Cancel::default()).unwrap()
    }

    fn restored(&self, point: &str, size: usize) -> Result<Vec<u8>> {
        restored(&self.datastore, point, size)
    }

    fn series_folder(&self) -> PathBuf {
        series_folder(self.base.path())
    }

    /// The image of disk 0 of a point.
    fn image(&self, point: &str) -> PathBuf {
        let folder = self.series_folder().join(point);
        let mut names: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("disk.0.") && !name.ends_with(".sums")
        });
        assert_eq!(names.len(), 1);
        names.remove(0)
    }

    /// Stock qemu-img finds a sound image with these bytes.
    fn qemu_agrees(&self, point: &str, data: &[u8]) {
        let image = self.image(point);
        qemu(&["check", "-q", image.to_str().unwrap()]);
        let raw = self.base.path().join("out.raw");
        qemu(&["convert", "-O", "raw", image.to_str().unwrap(), raw.to_str().unwrap()]);
        let mut found = std::fs::read(&raw).unwrap();
        std::fs::remove_file(&raw).unwrap();
        assert_eq!(found.len(), data.len().next_multiple_of(512));
        found.truncate(data.len());
        assert!(found == data, "qemu-img reads other bytes");
    }

    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(self.base.path(), &mut found);
        found.retain(|path| !path.components().any(|part| part.as_os_str() == ".lease"));
        found
    }
}

fn series_folder(base: &Path) -> PathBuf {
    // SHA-256 of "7" begins with 79.
    base.join("79").join("7")
}

fn qemu(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("qemu-img is needed: apt-get install qemu-utils ({error})"));
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn data(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Data }
}

#[test]
fn full_and_increment_come_back_through_us_and_through_stock_qemu_img() {
    for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
        let rig = Rig::with(|config| config.compression = compression);
        let mut disk = noise(40 * CLUSTER + 1000, 1);
        disk[3 * CLUSTER..9 * CLUSTER].fill(0);
        disk[20 * CLUSTER..30 * CLUSTER].fill(7);
        let full = rig.full("job=1", &disk);
        let before = disk.clone();
        disk[100..200].fill(9);
        disk[35 * CLUSTER..37 * CLUSTER].fill(0);
        let zero = Extent { offset: 35 * CLUSTER as u64, length: 2 * CLUSTER as u64, content: Content::Zero };
        let stored = rig.increment("job=2", &full, &disk, vec![data(100, 100), zero]).unwrap();
        assert_eq!(stored.read_bytes, CLUSTER as u64);
        for (point, bytes) in [(&full, &before), (&stored.point, &disk)] {
            assert!(rig.restored(point, bytes.len()).unwrap() == *bytes);
            rig.qemu_agrees(point, bytes);
        }
        let seen = verify(&rig.datastore, &[full.clone(), stored.point.clone()], Depth::Deep);
        assert_eq!(seen.damages, []);
        assert_eq!(rig.datastore.document("7", &full).unwrap(), b"<VM/>");
        assert_eq!(rig.datastore.series().unwrap(), ["7"]);
        let facts = rig.datastore.points("7").unwrap();
        assert_eq!(facts.len(), 2);
        assert_eq!(facts.iter().find(|f| f.job == "job=2").unwrap().parent, Some(full.clone()));
        assert_eq!(rig.datastore.find("7", "job=2").unwrap().unwrap().point, stored.point);
        assert_eq!(rig.datastore.inspect("7", &full).unwrap().disks.len(), 1);
    }
}

#[test]
fn files_and_folders_have_their_rights_whatever_the_umask() {
    let rig = Rig::new();
    rig.full("job=1", &noise(CLUSTER, 1));
    store_in_a_group(&rig.datastore).unwrap();
    assert_eq!(rig.files().len(), 8);
    for path in rig.files() {
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o660, "{}", path.display());
        let mut above = path.parent().unwrap();
        while above != rig.base.path() {
            assert_eq!(above.metadata().unwrap().permissions().mode() & 0o777, 0o770, "{}", above.display());
            above = above.parent().unwrap();
        }
    }
}

#[test]
fn forgetting_the_full_moves_what_is_needed_and_stock_tools_still_agree() {
    let rig = Rig::new();
    let mut disk = noise(30 * CLUSTER, 1);
    let mut points = vec![(rig.full("job=0", &disk), disk.clone())];
    for number in 1..5_u64 {
        let at = number as usize * 3 * CLUSTER;
        disk[at..at + CLUSTER].copy_from_slice(&noise(CLUSTER, number + 10));
        let parent = points.last().unwrap().0.clone();
        let stored =
            rig.increment(&format!("job={number}"), &parent, &disk, vec![data(at as u64, CLUSTER as u64)]).unwrap();
        points.push((stored.point, disk.clone()));
    }
    let done = rig.datastore.forget_now("7", &[points[0].0.clone(), points[1].0.clone()]).unwrap();
    assert!(done.freed_bytes > 0);
    assert_eq!(done.resized.len(), 1);
    assert_eq!(done.resized[0].0, points[2].0);
    for (point, bytes) in &points[2..] {
        assert!(rig.restored(point, bytes.len()).unwrap() == *bytes);
        rig.qemu_agrees(point, bytes);
    }
    let done = rig.datastore.forget_now("7", &[points[3].0.clone()]).unwrap();
    assert_eq!(done.resized[0].0, points[4].0);
    for at in [2, 4] {
        rig.qemu_agrees(&points[at].0, &points[at].1);
    }
    let ids: Vec<String> = points.iter().map(|(id, _)| id.clone()).collect();
    rig.datastore.forget_now("7", &ids).unwrap();
    assert_eq!(rig.files(), Vec::<PathBuf>::new());
    assert_eq!(rig.datastore.series().unwrap(), Vec::<String>::new());
}

#[test]
fn a_parent_with_two_children_stays_as_a_layer_until_one_is_gone() {
    let rig = Rig::new();
    let base = noise(10 * CLUSTER, 1);
    let full = rig.full("job=1", &base);
    let mut disks = Vec::new();
    for number in 0..2_usize {
        let mut disk = base.clone();
        disk[number * CLUSTER..(number + 1) * CLUSTER].fill(5);
        let extent = data((number * CLUSTER) as u64, CLUSTER as u64);
        let point = rig.increment(&format!("job=2{number}"), &full, &disk, vec![extent]).unwrap().point;
        disks.push((point, disk));
    }
    rig.datastore.forget_now("7", std::slice::from_ref(&full)).unwrap();
    assert_eq!(rig.datastore.find("7", "job=1").unwrap(), None);
    assert_eq!(rig.datastore.points("7").unwrap().len(), 2);
    for (point, disk) in &disks {
        rig.qemu_agrees(point, disk);
        assert!(rig.restored(point, disk.len()).unwrap() == *disk);
    }
    rig.datastore.forget_now("7", &[disks[0].0.clone()]).unwrap();
    rig.qemu_agrees(&disks[1].0, &disks[1].1);
    assert!(rig.restored(&disks[1].0, base.len()).unwrap() == disks[1].1);
    assert_eq!(std::fs::read_dir(rig.series_folder()).unwrap().count(), 1);
}

#[test]
fn a_comparison_stores_only_what_differs() {
    let rig = Rig::new();
    let mut disk = noise(40 * CLUSTER, 1);
    let full = rig.full("job=1", &disk);
    disk[5 * CLUSTER + 3] ^= 1;
    disk[9 * CLUSTER..10 * CLUSTER].fill(0);
    let reader = MemoryReader::whole(&disk);
    let marked = Some(vec![data(5 * CLUSTER as u64, 512)]);
    let source = SourceDisk { id: 0, reader: Box::new(reader), change: Change::Compare, marked };
    let request =
        StoreRequest { series: "7", tags: &[], job: "job=2", time: 2, parent: Some(&full), document: b"<VM/>" };
    let stored = rig.datastore.store(&request, vec![source], &Progress::default(), &Cancel::default()).unwrap();
    assert_eq!(stored.unmarked_bytes, CLUSTER as u64);
    // Header, tables and one cluster of data.
    assert!(stored.stored_bytes < 10 * CLUSTER as u64, "{}", stored.stored_bytes);
    rig.qemu_agrees(&stored.point, &disk);
    let same = rig.compare("job=3", &stored.point, &disk);
    assert!(same.stored_bytes < 8 * CLUSTER as u64);
    assert!(rig.restored(&same.point, disk.len()).unwrap() == disk);
}

#[test]
fn a_failed_short_or_cancelled_store_publishes_nothing_and_leaves_nothing() {
    let disk = noise(64 * CLUSTER, 1);
    for fault in 0..3 {
        let rig = Rig::new();
        let mut reader = MemoryReader::whole(&disk);
        let cancel = Cancel::default();
        match fault {
            0 => reader.fail_after = Some(3 << 20),
            1 => reader.stop_after = Some(2),
            _ => reader.cancel = Some(cancel.clone()),
        }
        let done = store(&rig.datastore, "job=1", None, vec![(0, reader, Change::Whole)], &cancel);
        let kind = done.unwrap_err().kind;
        assert_eq!(kind, [Kind::Retry, Kind::Permanent, Kind::Cancelled][fault]);
        assert_eq!(rig.datastore.find("7", "job=1").unwrap(), None);
        assert_eq!(rig.files(), Vec::<PathBuf>::new());
        rig.full("job=1", &disk);
    }
}

#[test]
fn an_increment_without_a_fitting_parent_is_refused_before_reading() {
    let rig = Rig::new();
    let disk = noise(3 * CLUSTER, 1);
    let full = rig.full("job=1", &disk);
    let grown = noise(4 * CLUSTER, 1);
    for (parent, bytes) in [(full.as_str(), &grown), ("0123456789abcdef", &disk), ("../../etc", &disk)] {
        let error = rig.increment("job=2", parent, bytes, vec![data(0, 512)]).unwrap_err();
        assert_eq!(error.kind, Kind::Missing, "{error}");
    }
    std::fs::remove_file(rig.image(&full)).unwrap();
    let error = rig.increment("job=2", &full, &disk, vec![data(0, 512)]).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
}

#[test]
fn every_kind_of_damage_is_found_named_and_leaves_the_rest_usable() {
    let disk = noise(40 * CLUSTER, 1);
    let mut newer = disk.clone();
    newer[..CLUSTER].fill(3);
    type Harm = fn(&Path);
    let flip: Harm = |path| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let cut: Harm = |path| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let lose: Harm = |path| std::fs::remove_file(path).unwrap();
    for file in ["disk.0.0", "disk.0.0.sums", "manifest.json", "vm.xml"] {
        for (harm, lost) in [(flip, false), (cut, false), (lose, true)] {
            let rig = Rig::new();
            let full = rig.full("job=1", &disk);
            let other = rig.full("job=9", &disk);
            let child = rig.increment("job=2", &full, &newer, vec![data(0, 512)]).unwrap().point;
            harm(&rig.series_folder().join(&full).join(file));
            let mut points = vec![other.clone(), child.clone()];
            if !(file == "manifest.json" && lost) {
                points.push(full.clone());
            }
            let seen = verify(&rig.datastore, &points, Depth::Deep);
            assert!(!seen.damages.is_empty(), "{file}");
            assert!(seen.damages.iter().all(|damage| !damage.points.contains(&other)), "{file} {:?}", seen.damages);
            if file.starts_with("disk") {
                assert!(seen.damages.iter().any(|damage| damage.points.contains(&child)), "{file} {:?}", seen.damages);
                assert!(seen.damages.iter().any(|damage| damage.what.contains("disk.0.0")), "{file}");
                assert_eq!(rig.restored(&child, disk.len()).unwrap_err().kind, Kind::Corrupt);
            }
            assert!(rig.restored(&other, disk.len()).unwrap() == disk);
            if file != "vm.xml" {
                let mut writer = MemoryWriter { data: vec![0; disk.len()], ..MemoryWriter::default() };
                let request = RestoreRequest { series: "7", point: &child, disk: 0, skip_bad: true, current: None };
                let done: Restored =
                    rig.datastore.restore(request, &mut writer, &Progress::default(), &Cancel::default()).unwrap();
                assert!(!done.damages.is_empty());
                assert!(writer.data[..CLUSTER] == newer[..CLUSTER], "the child's own cluster is good");
                for damage in &done.damages {
                    assert!(damage.points.contains(&child));
                    newer_or_bad(&mut writer.data, &newer, damage.offset, damage.length);
                }
                assert!(writer.data == newer, "{file}");
            }
        }
    }
}

fn newer_or_bad(found: &mut [u8], expected: &[u8], offset: u64, length: u64) {
    let range = offset as usize..(offset + length) as usize;
    found[range.clone()].copy_from_slice(&expected[range]);
}

#[test]
fn a_current_disk_saves_reading_what_it_has() {
    let rig = Rig::new();
    let disk = noise(100 * CLUSTER + 77, 1);
    let full = rig.full("job=1", &disk);
    let mut current = disk.clone();
    current[50 * CLUSTER] ^= 1;
    let mut writer = MemoryWriter { data: vec![0; disk.len()], ..MemoryWriter::default() };
    let reader = Box::new(MemoryReader::whole(&current));
    let request = RestoreRequest { series: "7", point: &full, disk: 0, skip_bad: false, current: Some(reader) };
    let done = rig.datastore.restore(request, &mut writer, &Progress::default(), &Cancel::default()).unwrap();
    assert!(writer.data == disk);
    assert_eq!(done.fetched_bytes, CLUSTER as u64);
}

#[test]
fn hostile_links_names_and_images_lead_nowhere() {
    let rig = Rig::new();
    let disk = noise(4 * CLUSTER, 1);
    let full = rig.full("job=1", &disk);
    let image = rig.image(&full);
    let kept = std::fs::read(&image).unwrap();
    std::fs::remove_file(&image).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &image).unwrap();
    assert_eq!(rig.restored(&full, disk.len()).unwrap_err().kind, Kind::Corrupt);
    std::fs::remove_file(&image).unwrap();
    // A backing file is named, and never looked at.
    std::fs::write(&image, &kept).unwrap();
    qemu(&["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", image.to_str().unwrap()]);
    assert!(rig.restored(&full, disk.len()).unwrap() == disk);
    let manifest = rig.series_folder().join(&full).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    for (from, to) in [
        ("disk.0.0\"", "../../../../etc/passwd\""),
        ("\"disk.0.0.sums\"", "\"/etc/passwd\""),
        ("\"parent\": null", "\"parent\": \"../../../x\""),
        ("\"version\": 1", "\"version\": 2"),
    ] {
        assert!(text.contains(from));
        std::fs::write(&manifest, text.replace(from, to)).unwrap();
        assert!(matches!(rig.restored(&full, disk.len()).unwrap_err().kind, Kind::Corrupt | Kind::Permanent));
        assert_eq!(rig.datastore.points("7").unwrap().len(), 0);
    }
    std::fs::write(&manifest, text.replace("\"version\": 1", "\"version\": 1, \"later\": [1]")).unwrap();
    assert!(rig.restored(&full, disk.len()).unwrap() == disk);
    // A series that is a link out of the base is not written to.
    let outside = tempfile::tempdir().unwrap();
    std::fs::rename(rig.base.path().join("79"), rig.base.path().join("old")).unwrap();
    std::os::unix::fs::symlink(outside.path(), rig.base.path().join("79")).unwrap();
    let disk = (0, MemoryReader::whole(&disk), Change::Whole);
    store(&rig.datastore, "job=2", None, vec![disk], &Cancel::default()).unwrap_err();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn the_folder_of_a_groups_member_is_read_by_stock_tools_and_its_links_lead_nowhere() {
    let rig = Rig::new();
    let stored = store_in_a_group(&rig.datastore).unwrap();
    let digest = |text: &str| sha2::Sha256::digest(text.as_bytes())[0];
    let above = rig.base.path().join(format!("{:02x}", digest("job-3/7")));
    let image = above.join("job-3+7").join(&stored.point).join("disk.0.0");
    qemu(&["check", "-q", image.to_str().unwrap()]);
    // Nor is a folder that lies where none of that name would be a series.
    let elsewhere = rig.base.path().join(format!("{:02x}", digest("job-3/7") ^ 1));
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(above.join("job-3+7"), elsewhere.join("job-3+7")).unwrap();
    assert_eq!(rig.datastore.series().unwrap(), [""; 0]);
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), above.join("job-3+7")).unwrap();
    store_in_a_group(&rig.datastore).unwrap_err();
    assert!(rig.datastore.points("job-3/7").is_err());
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    // Forgetting the last point removes the folders.
    std::fs::remove_file(above.join("job-3+7")).unwrap();
    std::fs::rename(elsewhere.join("job-3+7"), above.join("job-3+7")).unwrap();
    rig.datastore.forget_now("job-3/7", &[stored.point]).unwrap();
    assert!(!above.exists());
}

/// A gate that fails everything from the given write on, as if the process had been killed there.
fn dying(config: &mut NfsConfig, after: u64) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&count);
    config.write_gate = Some(Arc::new(move |_: &Path| {
        if seen.fetch_add(1, Ordering::Relaxed) >= after { Err(std::io::Error::other("killed")) } else { Ok(()) }
    }));
    count
}

#[test]
fn a_kill_at_any_write_of_store_or_forget_loses_nothing_and_the_sweep_leaves_nothing() {
    let mut disk = noise(24 * CLUSTER, 1);
    let mut versions = vec![disk.clone()];
    for number in 1..4_usize {
        disk[number * 4 * CLUSTER..(number * 4 + 2) * CLUSTER].copy_from_slice(&noise(2 * CLUSTER, number as u64 + 5));
        disk[2 * CLUSTER..3 * CLUSTER].fill(number as u8);
        versions.push(disk.clone());
    }
    let build = |rig: &Rig, count: usize| {
        let mut points = vec![rig.full("job=0", &versions[0])];
        for (number, version) in versions.iter().enumerate().take(count).skip(1) {
            let parent = points.last().unwrap().clone();
            points.push(rig.compare(&format!("job={number}"), &parent, version).point);
        }
        points
    };
    let mut after = 0;
    for operation in ["store", "forget first", "forget middle", "forget two"] {
        after = 0;
        loop {
            let rig = Rig::new();
            let points = build(&rig, if operation == "store" { 3 } else { 4 });
            let mut killed = config(rig.base.path());
            let count = dying(&mut killed, after);
            let killed = NfsDatastore::new(killed).unwrap();
            let (gone, result) = match operation {
                "store" => {
                    let disk = (0, MemoryReader::whole(&versions[3]), Change::Compare);
                    let cancel = Cancel::default();
                    (vec![], store(&killed, "job=3", Some(&points[2]), vec![disk], &cancel).map(drop))
                }
                "forget first" => (vec![0], killed.forget_now("7", &points[..1]).map(drop)),
                "forget middle" => (vec![1], killed.forget_now("7", &points[1..2]).map(drop)),
                _ => (vec![0, 1], killed.forget_now("7", &points[..2]).map(drop)),
            };
            for (number, point) in points.iter().enumerate().filter(|(number, _)| !gone.contains(number)) {
                assert!(rig.restored(point, disk.len()).unwrap() == versions[number], "{operation} {after} {number}");
            }
            rig.datastore.sweep_now("7").unwrap();
            if operation != "store" {
                let dropped: Vec<String> = gone.iter().map(|number| points[*number].clone()).collect();
                rig.datastore.forget_now("7", &dropped).unwrap();
            }
            let kept: Vec<String> = rig.datastore.ids("7").unwrap();
            for (number, point) in points.iter().enumerate().filter(|(number, _)| !gone.contains(number)) {
                assert!(kept.contains(point));
                rig.qemu_agrees(point, &versions[number]);
            }
            assert_eq!(verify(&rig.datastore, &kept, Depth::Deep).damages, [], "{operation} {after}");
            assert_eq!(std::fs::read_dir(rig.series_folder()).unwrap().count(), kept.len(), "{operation} {after}");
            if result.is_ok() {
                assert!(count.load(Ordering::Relaxed) <= after);
                break;
            }
            after += 1;
        }
        assert!(after > 5, "{operation}");
    }
    assert!(after > 5);
}

#[test]
fn a_point_that_is_read_is_not_forgotten_but_others_are() {
    let rig = Rig::new();
    let disk = noise(4 * CLUSTER, 1);
    let first = rig.full("job=1", &disk);
    let second = rig.full("job=2", &disk);
    struct Slow<'a>(&'a Rig, Vec<String>);
    impl DiskWriter for Slow<'_> {
        fn write_at(&mut self, _: u64, _: &[u8]) -> Result<()> {
            if let Some(other) = self.1.pop() {
                self.0.datastore.forget_now("7", &[other]).unwrap();
                let own = self.1.pop().unwrap();
                assert_eq!(self.0.datastore.forget_now("7", &[own]).unwrap_err().kind, Kind::Retry);
            }
            Ok(())
        }
        fn finish(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }
    let mut target = Slow(&rig, vec![first.clone(), second.clone()]);
    rig.datastore.restore_now("7", &first, 0, &mut target).unwrap();
    assert_eq!(rig.datastore.ids("7").unwrap(), [first]);
}

/// A file system of its own, unmounted at the end.
struct Mounted(TempDir);

impl Mounted {
    fn tmpfs(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Self(folder);
        mounted.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"]);
        mounted
    }

    fn mount(&self, arguments: &[&str]) {
        let output = Command::new("mount").args(arguments).arg(self.0.path()).output().unwrap();
        assert!(output.status.success(), "mount needs root: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().ok();
    }
}

#[test]
fn a_full_file_system_is_said_in_a_sentence_and_can_be_emptied_and_a_read_only_one_restored_from() {
    let mounted = Mounted::tmpfs("8m");
    let datastore = NfsDatastore::new(config(mounted.0.path())).unwrap();
    let disk = noise(64 * CLUSTER, 1);
    let whole = |bytes: &[u8]| vec![(0, MemoryReader::whole(bytes), Change::Whole)];
    let first = store(&datastore, "job=1", None, whole(&disk), &Cancel::default()).unwrap().point;
    let error = store(&datastore, "job=2", None, whole(&disk), &Cancel::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Permanent);
    assert!(
        error.reason.contains("No space left") && error.reason.contains("MB are still needed and 0 MB are free"),
        "{error}"
    );
    let since = vec![(0, MemoryReader::changed(&disk, vec![data(0, disk.len() as u64)]), Change::SinceParent)];
    let error = store(&datastore, "job=3", Some(&first), since, &Cancel::default()).unwrap_err();
    assert!(error.reason.contains("are missing"), "{error}");
    assert_eq!(datastore.ids("7").unwrap(), [first.as_str()]);
    mounted.mount(&["-o", "remount,ro"]);
    assert!(restored(&datastore, &first, disk.len()).unwrap() == disk);
    assert_eq!(verify(&datastore, std::slice::from_ref(&first), Depth::Deep).damages, []);
    mounted.mount(&["-o", "remount,rw"]);
    datastore.forget_now("7", &[first]).unwrap();
    store(&datastore, "job=4", None, whole(&disk), &Cancel::default()).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Full,
    Increment(Vec<(f64, u32, bool)>),
    Compare(Vec<(f64, u32, bool)>),
    Forget(Vec<prop::sample::Index>),
    Sweep,
}

fn writes() -> impl Strategy<Value = Vec<(f64, u32, bool)>> {
    prop::collection::vec((0.0..1.0, 1_u32..200_000, any::<bool>()), 0..5)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Full),
        5 => writes().prop_map(Step::Increment),
        2 => writes().prop_map(Step::Compare),
        3 => prop::collection::vec(any::<prop::sample::Index>(), 1..3).prop_map(Step::Forget),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_equals_a_byte_map_for_us_and_for_qemu_img(
        size in 1_usize..1_500_000, history in steps(), compression in 0..3_u8,
    ) {
        let rig = Rig::with(|config| {
            config.compression = [Compression::None, Compression::Zlib, Compression::Zstd][compression as usize];
        });
        let mut disk = noise(size, 3);
        let mut points: Vec<(String, Vec<u8>)> = vec![(rig.full("job=first", &disk), disk.clone())];
        let mut last = Some(points[0].0.clone());
        for (number, step) in history.into_iter().enumerate() {
            let job = format!("job={number}");
            match step {
                Step::Increment(writes) | Step::Compare(writes) if last.is_none() || writes.len() > 5 => {
                    let point = rig.full(&job, &disk);
                    last = Some(point.clone());
                    points.push((point, disk.clone()));
                }
                Step::Full => {
                    let point = rig.full(&job, &disk);
                    last = Some(point.clone());
                    points.push((point, disk.clone()));
                }
                Step::Increment(ref writes) | Step::Compare(ref writes) => {
                    let mut dirty = vec![false; size.div_ceil(512)];
                    for (salt, (at, length, zero)) in writes.iter().enumerate() {
                        let start = ((at * size as f64) as usize).min(size - 1);
                        let end = (start + *length as usize).min(size);
                        if *zero {
                            disk[start..end].fill(0);
                        } else {
                            disk[start..end].copy_from_slice(&noise(end - start, (number * 100 + salt) as u64));
                        }
                        dirty[start / 512..end.div_ceil(512)].fill(true);
                    }
                    let parent = last.clone().unwrap();
                    let point = if matches!(step, Step::Compare(_)) {
                        rig.compare(&job, &parent, &disk).point
                    } else {
                        let whole = MemoryReader::whole(&disk);
                        let mut extents: Vec<Extent> = Vec::new();
                        for (page, _) in dirty.iter().enumerate().filter(|(_, dirty)| **dirty) {
                            let offset = page as u64 * 512;
                            let content = whole.extents.iter().find(|e| e.end() > offset).unwrap().content;
                            let length = 512.min(size as u64 - offset);
                            match extents.last_mut() {
                                Some(e) if e.end() == offset && e.content == content => e.length += length,
                                _ => extents.push(Extent { offset, length, content }),
                            }
                        }
                        rig.increment(&job, &parent, &disk, extents).unwrap().point
                    };
                    last = Some(point.clone());
                    points.push((point, disk.clone()));
                }
                Step::Forget(which) => {
                    let mut gone: Vec<String> = Vec::new();
                    for index in which {
                        if !points.is_empty() {
                            gone.push(points.remove(index.index(points.len())).0);
                        }
                    }
                    rig.datastore.forget_now("7", &gone).unwrap();
                    if last.as_ref().is_some_and(|id| gone.contains(id)) {
                        last = None;
                    }
                }
                Step::Sweep => rig.datastore.sweep_now("7").unwrap(),
            }
            let mut ids: Vec<String> = points.iter().map(|(id, _)| id.clone()).collect();
            ids.sort();
            prop_assert_eq!(rig.datastore.ids("7").unwrap(), ids);
        }
        for (point, bytes) in &points {
            prop_assert!(rig.restored(point, size).unwrap() == *bytes);
            rig.qemu_agrees(point, bytes);
        }
        let ids: Vec<String> = points.iter().map(|(id, _)| id.clone()).collect();
        prop_assert_eq!(verify(&rig.datastore, &ids, Depth::Deep).damages, []);
    }
}

#[test]
fn a_damaged_manifest_keeps_what_lies_below_it_and_nothing_else() {
    for kind in ["garbage", "gone"] {
        let rig = Rig::new();
        let mut disk = noise(12 * CLUSTER, 1);
        let other = rig.full("other=1", &disk);
        let extents = || vec![data(0, CLUSTER as u64)];
        let mut chain = vec![(rig.full("job=0", &disk), disk.clone())];
        for number in 1..3_u64 {
            disk[..CLUSTER].copy_from_slice(&noise(CLUSTER, number + 5));
            let parent = chain.last().unwrap().0.clone();
            let stored = rig.increment(&format!("job={number}"), &parent, &disk, extents()).unwrap();
            chain.push((stored.point, disk.clone()));
        }
        let above = rig.increment("other=2", &other, &disk, extents()).unwrap().point;
        let manifest = rig.series_folder().join(&chain[1].0).join("manifest.json");
        let sound = std::fs::read(&manifest).unwrap();
        match kind {
            "garbage" => std::fs::write(&manifest, b"{").unwrap(),
            _ => std::fs::remove_file(&manifest).unwrap(),
        }
        rig.datastore.forget_now("7", &[chain[0].0.clone(), other.clone()]).unwrap();
        rig.datastore.sweep_now("7").unwrap();
        assert!(!rig.series_folder().join(&other).exists(), "{kind}: another chain was not merged");
        assert!(rig.restored(&above, disk.len()).unwrap() == disk);
        rig.qemu_agrees(&above, &disk);
        // Mended by hand, all is there.
        std::fs::write(&manifest, &sound).unwrap();
        for (point, bytes) in &chain[1..] {
            assert!(rig.restored(point, bytes.len()).unwrap() == *bytes, "{kind}");
        }
        // The same as a layer.
        rig.datastore.forget_now("7", &[]).unwrap();
        assert!(!rig.series_folder().join(&chain[0].0).exists());
        let last = rig.increment("job=9", &chain[2].0, &disk, vec![]).unwrap().point;
        std::fs::write(rig.series_folder().join(&chain[2].0).join("manifest.json"), b"{").unwrap();
        rig.datastore.forget_now("7", &[chain[1].0.clone(), chain[2].0.clone()]).unwrap();
        rig.datastore.sweep_now("7").unwrap();
        for at in [1, 2] {
            assert!(rig.series_folder().join(&chain[at].0).exists(), "{kind}: a layer that is needed is gone");
        }
        rig.datastore.forget_now("7", &[last]).unwrap();
        assert_eq!(rig.datastore.ids("7").unwrap(), [above]);
        assert_eq!(std::fs::read_dir(rig.series_folder()).unwrap().count(), 1);
    }
}

#[test]
fn a_share_that_goes_away_from_under_a_store_leaves_the_directory_below_empty() {
    /// Puts an empty directory in place of the base while the disk is read.
    struct Swapping(MemoryReader, PathBuf);
    impl DiskReader for Swapping {
        fn size_bytes(&self) -> u64 {
            self.0.size_bytes()
        }
        fn extents(&mut self) -> Result<Vec<Extent>> {
            self.0.extents()
        }
        fn read(
            &mut self,
            ranges: &mut dyn Iterator<Item = (u64, u32)>,
            sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
        ) -> Result<()> {
            std::fs::rename(&self.1, self.1.with_extension("away")).unwrap();
            std::fs::create_dir(&self.1).unwrap();
            self.0.read(ranges, sink)
        }
    }
    let above = tempfile::tempdir().unwrap();
    let base = above.path().join("share");
    std::fs::create_dir(&base).unwrap();
    let datastore = NfsDatastore::new(config(&base)).unwrap();
    let disk = noise(8 * CLUSTER, 1);
    let reader = Box::new(Swapping(MemoryReader::whole(&disk), base.clone()));
    let source = SourceDisk { id: 0, reader, change: Change::Whole, marked: None };
    let request = StoreRequest { series: "7", tags: &[], job: "job=1", time: 1, parent: None, document: b"<VM/>" };
    let error = datastore.store(&request, vec![source], &Progress::default(), &Cancel::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    assert_eq!(std::fs::read_dir(&base).unwrap().count(), 0);
    // On the share nothing was published.
    let away = NfsDatastore::new(config(&base.with_extension("away"))).unwrap();
    assert_eq!(away.find("7", "job=1").unwrap(), None);
}

#[test]
fn a_limit_holds_a_store_up_and_a_cancel_ends_the_wait() {
    let rig = Rig::with(|config| config.pace = drivers::Pace::new(Some(1)));
    let disk = noise(640 * CLUSTER, 1);
    let (progress, cancel) = (Progress::default(), Cancel::default());
    std::thread::scope(|scope| {
        let storing = scope.spawn(|| {
            let reader = Box::new(MemoryReader::whole(&disk));
            let source = SourceDisk { id: 0, reader, change: Change::Whole, marked: None };
            let request =
                StoreRequest { series: "7", tags: &[], job: "job=1", time: 1, parent: None, document: b"<VM/>" };
            rig.datastore.store(&request, vec![source], &progress, &cancel)
        });
        // It beats, and moves nothing: at one byte per second this would take years.
        let (mut still, mut before) = (0, (0, 0));
        while still < 20 {
            let now = (progress.get().0, progress.pulse());
            still = if now.0 == before.0 && now.1 > before.1 { still + 1 } else { 0 };
            assert!(!storing.is_finished(), "the limit was not kept");
            before = now;
            std::thread::sleep(Duration::from_millis(150));
        }
        let (done, total) = progress.get();
        assert!(done < total, "{done} of {total}");
        cancel.cancel();
        assert_eq!(storing.join().unwrap().unwrap_err().kind, Kind::Cancelled);
    });
}
