//! Datastores in processes of their own: what they give, and what happens when the process hangs, dies or lies.
//!
//! The processes are this test binary again: it runs the one test that serves.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drivers::datastore::{
    Capacity, Change, Damage, Depth, Forgotten, ImageTarget, PointFacts, RestoreRequest, Restored, SourceDisk,
    StoreRequest, Stored, StoredDisk, Verified, VerifyRequest,
};
use drivers::dummy::{DummyDatastore, Script};
use drivers::hypervisor::DiskFormat;
use drivers::isolation::{IsolatedDatastore, Launch};
use drivers::nbd::Export;
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{
    BackupDatastore, Cancel, Content, DiskReader, DiskWriter, DriverError, Extent, HandedOver, Kind, Progress, Result,
    Secret,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use shared::ShortForms as _;
use shared::isolated::{DATASTORE, PASSWORD, ROLE, SURELY, control, launch, role, serve_with};

const CHUNK: u32 = 4096;

// ---- the other processes

#[test]
fn serve_for_tests() {
    match role().as_deref() {
        None => {}
        Some(DATASTORE) => serve_with(open),
        Some("daemon") => be_a_daemon(control()),
        Some(hostile) => be_hostile(control(), hostile),
    }
}

fn open(config: &str) -> Result<Arc<dyn BackupDatastore>> {
    let (kind, path) = config.split_once(' ').unwrap();
    open_here(kind, Path::new(path))
}

fn open_here(kind: &str, path: &Path) -> Result<Arc<dyn BackupDatastore>> {
    Ok(match kind {
        "dummy" => Arc::new(DummyDatastore::open(path, Script::default())?),
        "restic" => Arc::new(ResticDatastore::new(restic_config(path))?),
        "echo" => Arc::new(Echo),
        other => return Err(DriverError::new(Kind::Permanent, "opening a datastore", format!("what is {other}?"))),
    })
}

fn restic_config(path: &Path) -> ResticConfig {
    let password = Secret::new(PASSWORD.to_owned());
    ResticConfig { chunk_bytes: CHUNK, threads: 2, ..ResticConfig::new(path.to_owned(), password) }
}

fn isolated(kind: &str, path: &Path, silence: Duration) -> IsolatedDatastore {
    shared::isolated::isolated(&format!("{kind} {}", path.display()), silence)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Gone, or nobody has taken notice of its end yet. One whose first thread has ended is there as long as another has not.
fn is_gone(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut stats = threads.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    stats.all(|stat| stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])))
}

fn surely(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SURELY, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

// ---- disks

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn data(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Data }
}

/// A disk in memory. With a gate it says that it is read, and goes on when told.
struct MemoryReader {
    bytes: Arc<Vec<u8>>,
    extents: Vec<Extent>,
    gate: Option<(Sender<()>, Receiver<()>)>,
    error: Option<Kind>,
}

impl MemoryReader {
    fn new(bytes: &[u8], extents: Vec<Extent>) -> Self {
        Self { bytes: Arc::new(bytes.to_vec()), extents, gate: None, error: None }
    }

    fn whole(bytes: &[u8]) -> Self {
        Self::new(bytes, vec![data(0, bytes.len() as u64)])
    }

    fn gated(bytes: &[u8]) -> (Self, Receiver<()>, Sender<()>) {
        let ((here, reached), (go, gone)) = (channel(), channel());
        (Self { gate: Some((here, gone)), ..Self::whole(bytes) }, reached, go)
    }
}

impl DiskReader for MemoryReader {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        Ok(self.extents.clone())
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        if let Some((here, gone)) = self.gate.take() {
            let _ = here.send(());
            let _ = gone.recv_timeout(SURELY);
        }
        if let Some(kind) = self.error {
            return Err(DriverError::new(kind, "reading vda", "the disk is broken"));
        }
        // All at once and backwards: readers may keep many requests in flight.
        let mut all: Vec<(u64, u32)> = ranges.collect();
        while let Some((offset, length)) = all.pop() {
            sink(offset, self.bytes[offset as usize..][..length as usize].to_vec())?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct MemoryWriter {
    bytes: Vec<u8>,
    full_at: Option<u64>,
}

impl DiskWriter for MemoryWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if self.full_at.is_some_and(|limit| offset >= limit) {
            return Err(DriverError::new(Kind::Permanent, "writing the image", "no space is left"));
        }
        self.bytes[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn disk(id: u32, reader: impl DiskReader + 'static, change: Change) -> SourceDisk {
    SourceDisk { id, reader: Box::new(reader), change, marked: None }
}

fn store(
    datastore: &dyn BackupDatastore,
    job: &str,
    parent: Option<&str>,
    disks: Vec<SourceDisk>,
    cancel: &Cancel,
) -> Result<Stored> {
    let tags = ["one-7".to_owned()];
    let request =
        StoreRequest { series: "7", tags: &tags, job, time: 1_700_000_000, parent, document: b"<VM>\xff</VM>" };
    datastore.store(&request, disks, &Progress::default(), cancel)
}

fn full(datastore: &dyn BackupDatastore, job: &str, bytes: &[u8]) -> Result<Stored> {
    store(datastore, job, None, vec![disk(0, MemoryReader::whole(bytes), Change::Whole)], &Cancel::default())
}

fn restored(datastore: &dyn BackupDatastore, point: &str, id: u32, size: usize) -> Result<Vec<u8>> {
    let mut writer = MemoryWriter { bytes: vec![0; size], full_at: None };
    datastore.restore_now("7", point, id, &mut writer)?;
    Ok(writer.bytes)
}

// ---- the same as here

/// Makes every call and tells what came of it, with the points' ids taken out.
fn round_trip(datastore: &dyn BackupDatastore, images: &Path) -> String {
    let mut told = String::new();
    let mut points = Vec::new();
    let mut tell = |what: &str, value: &dyn std::fmt::Debug, points: &[String]| {
        let mut text = format!("{value:?}");
        for (number, point) in points.iter().enumerate() {
            text = text.replace(point, &format!("POINT{number}"));
        }
        told.push_str(&format!("{what}: {text}\n"));
    };
    let mut first = noise(3 << 20, 1);
    first[500_000..2_000_000].fill(0);
    let second = noise(70_000 - 70_000 % 512, 2);
    let disks =
        vec![disk(0, MemoryReader::whole(&first), Change::Whole), disk(3, MemoryReader::whole(&second), Change::Whole)];
    let progress = Progress::default();
    let stored = store(datastore, "job=1", None, disks, &Cancel::default()).unwrap();
    points.push(stored.point.clone());
    tell("full", &(&stored.disks, stored.read_bytes, stored.unmarked_bytes), &points);

    let mut changed = first.clone();
    changed[100_000..101_000].fill(7);
    let reader = MemoryReader::new(&changed, vec![data(99_840, 1536)]);
    let disks = vec![disk(0, reader, Change::SinceParent)];
    let increment = store(datastore, "job=2", Some(&stored.point), disks, &Cancel::default()).unwrap();
    points.push(increment.point.clone());
    tell("increment", &(&increment.disks, increment.read_bytes), &points);

    tell("found", &datastore.find("7", "job=2").unwrap().map(|found| found.point), &points);
    tell("not found", &datastore.find("7", "job=3").unwrap(), &points);
    tell("inspected", &(datastore.inspect("7", &stored.point).unwrap().disks), &points);
    tell("document", &datastore.document("7", &stored.point).unwrap(), &points);
    tell("series", &datastore.series().unwrap(), &points);
    let listed: Vec<_> = datastore
        .points("7")
        .unwrap()
        .into_iter()
        .map(|facts| (facts.stored.point, facts.job, facts.tags, facts.time))
        .collect();
    tell(
        "points",
        &{
            let mut listed = listed;
            listed.sort();
            listed.len()
        },
        &points,
    );
    assert!(datastore.capacity().unwrap().total_bytes > 0);

    assert!(restored(datastore, &increment.point, 0, first.len()).unwrap() == changed);
    assert!(restored(datastore, &stored.point, 0, first.len()).unwrap() == first);
    assert!(restored(datastore, &stored.point, 3, second.len()).unwrap() == second);
    let target =
        ImageTarget { path: images.join("image.raw"), format: DiskFormat::Raw, size_bytes: changed.len() as u64 };
    let current: Option<Box<dyn DiskReader>> = Some(Box::new(MemoryReader::whole(&first)));
    let request = RestoreRequest { series: "7", point: &increment.point, disk: 0, skip_bad: false, current };
    datastore.restore_image(request, &target, &progress, &Cancel::default()).unwrap();
    assert!(std::fs::read(&target.path).unwrap() == changed);
    assert_eq!(progress.get().0, progress.get().1, "the caller sees how far it is");
    assert!(progress.get().0 > 0);

    let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: None };
    let verified = datastore.verify(&request, &mut |_| Ok(()), &Progress::default(), &Cancel::default());
    tell("verified", &verified.unwrap().damages, &points);

    let missing = "0".repeat(64);
    tell("no point", &datastore.inspect("7", &missing).unwrap_err(), &points);
    tell("no disk", &restored(datastore, &stored.point, 9, 512).unwrap_err(), &points);
    tell("no name", &datastore.sweep_now("../x").is_err(), &points);
    let full_disk = &mut MemoryWriter { bytes: vec![0; first.len()], full_at: Some(1000) };
    tell("full disk", &datastore.restore_now("7", &stored.point, 0, full_disk).unwrap_err(), &points);
    let broken = MemoryReader { error: Some(Kind::Retry), ..MemoryReader::whole(&first) };
    let failed = store(datastore, "job=4", None, vec![disk(0, broken, Change::Whole)], &Cancel::default());
    let failed = failed.unwrap_err();
    tell("broken disk", &(failed.kind, failed.to_string()), &points);
    let cancel = Cancel::default();
    cancel.cancel();
    let cancelled = store(datastore, "job=5", None, Vec::new(), &cancel).unwrap_err();
    tell("cancelled", &(cancelled.kind, cancelled.to_string()), &points);

    datastore.forget_now("7", &points[..1]).unwrap();
    datastore.sweep_now("7").unwrap();
    tell("left", &datastore.ids("7").unwrap(), &points);
    assert!(restored(datastore, &increment.point, 0, first.len()).unwrap() == changed);
    told
}

#[test]
fn every_call_gives_what_it_gives_in_this_process() {
    for kind in ["dummy", "restic"] {
        let (here, there, images) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let expected = round_trip(open_here(kind, here.path()).unwrap().as_ref(), images.path());
        std::fs::remove_file(images.path().join("image.raw")).unwrap();
        let datastore = isolated(kind, there.path(), SURELY);
        let got = round_trip(&datastore, images.path());
        let neutral = |text: String, base: &TempDir| text.replace(&base.path().display().to_string(), "BASE");
        assert_eq!(neutral(got, &there), neutral(expected, &here), "{kind}");
    }
}

#[test]
fn waits_for_a_repository_that_is_in_use_are_signs_of_life() {
    // A repository's key is made in silence, and costs seconds of a busy machine.
    const SILENCE: Duration = Duration::from_secs(8);
    let base = TempDir::new().unwrap();
    let here = ResticDatastore::new(restic_config(base.path())).unwrap();
    let bytes = noise(20_480, 1);
    let old = full(&here, "job=1", &bytes).unwrap();
    let datastore = isolated("restic", base.path(), SILENCE);
    assert_eq!(datastore.ids("7").unwrap(), std::slice::from_ref(&old.point));
    let pid = datastore.pid();
    let (reader, reached, go) = MemoryReader::gated(&bytes);
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let storing = || store(&here, "job=2", None, vec![disk(0, reader, Change::Whole)], &Cancel::default());
        let storing = scope.spawn(storing);
        reached.recv_timeout(SURELY).unwrap();
        // One wants the repository alone and waits for that store; the others wait behind it.
        let forgetting = scope.spawn(|| datastore.forget_now("7", std::slice::from_ref(&old.point)));
        std::thread::sleep(SILENCE / 2);
        let sweeping = scope.spawn(|| datastore.sweep("7", &progress));
        let behind = scope.spawn(|| full(&datastore, "job=3", &bytes));
        std::thread::sleep(SILENCE * 2);
        go.send(()).unwrap();
        storing.join().unwrap().unwrap();
        forgetting.join().unwrap().unwrap();
        sweeping.join().unwrap().unwrap();
        behind.join().unwrap().unwrap();
        assert!(progress.pulse() > 0);
    });
    assert_eq!(datastore.pid(), pid, "the process was given up");
    assert_eq!(datastore.ids("7").unwrap().len(), 2);
}

/// Tells what it is asked, in its answers.
struct Echo;

impl BackupDatastore for Echo {
    fn capacity(&self) -> Result<Capacity> {
        Ok(Capacity { total_bytes: u64::MAX, free_bytes: 1, used_bytes: 0 })
    }

    fn probe(&self) -> Result<()> {
        loop {
            std::thread::park();
        }
    }

    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        _: &Cancel,
    ) -> Result<Stored> {
        progress.add_total(30);
        progress.add_done(10);
        let mut text = format!("{} {:?} {:?} {:?}", request.job, request.parent, request.tags, request.document);
        let mut stored = Vec::new();
        for mut disk in disks {
            let extents = disk.reader.extents()?;
            let mut ranges = extents.iter().map(|extent| (extent.offset, extent.length as u32));
            let mut sum = 0;
            disk.reader.read(&mut ranges, &mut |_, bytes| {
                sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                Ok(())
            })?;
            let size_bytes = disk.reader.size_bytes();
            text += &format!(" / {} {:?} {:?} {extents:?} {sum}", disk.id, disk.change, disk.marked);
            stored.push(StoredDisk { id: disk.id, size_bytes });
        }
        Ok(Stored {
            point: text,
            read_bytes: 1,
            stored_bytes: 2,
            saved_bytes: Some(1),
            unmarked_bytes: 3,
            disks: stored,
        })
    }

    fn find(&self, _: &str, job: &str) -> Result<Option<Stored>> {
        match job {
            "panic" => panic!("boom"),
            "huge" => {
                let point = "x".repeat(40 << 20);
                Ok(Some(Stored {
                    point,
                    read_bytes: 0,
                    stored_bytes: 0,
                    saved_bytes: None,
                    unmarked_bytes: 0,
                    disks: Vec::new(),
                }))
            }
            _ => Ok(None),
        }
    }

    fn inspect(&self, series: &str, point: &str) -> Result<Stored> {
        let kinds = [Kind::Retry, Kind::Permanent, Kind::Missing, Kind::Cancelled, Kind::Corrupt];
        Err(DriverError::new(kinds[point.parse::<usize>().unwrap()], series, point))
    }

    fn document(&self, _: &str, point: &str) -> Result<Vec<u8>> {
        // More than one frame.
        Ok(vec![7; point.parse().unwrap()])
    }

    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let mut current = request.current.unwrap();
        let size = current.size_bytes();
        let damages = vec![Damage { points: Vec::new(), disk: None, offset: 1, length: size, what: "x".into() }];
        let mut piece = 0;
        if request.skip_bad {
            // For ever, until somebody stops it.
            loop {
                cancel.check()?;
                progress.beat();
                target.write_at(0, &[1; 4096])?;
            }
        }
        current.read(&mut std::iter::once((0, size as u32)), &mut |offset, bytes| {
            piece = bytes.len() as u64;
            target.write_at(offset, &bytes)
        })?;
        Ok(Restored { written_bytes: piece, fetched_bytes: request.disk.into(), damages })
    }

    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        _: &Progress,
        _: &Cancel,
    ) -> Result<Verified> {
        save("one")?;
        save(&format!("{:?} {:?}", request.resume, request.depth))?;
        Ok(Verified { read_bytes: request.points.len() as u64, damages: Vec::new() })
    }

    fn forget(&self, _: &str, points: &[String], _: &Progress, _: &Cancel) -> Result<Forgotten> {
        let resized = points.iter().map(|point| (point.clone(), 5)).collect();
        Ok(Forgotten { freed_bytes: 9, resized })
    }

    fn sweep(&self, _: &str, progress: &Progress) -> Result<()> {
        progress.add_done(3);
        Ok(())
    }

    fn series(&self) -> Result<Vec<String>> {
        // Which priority the threads have.
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        Ok(vec![stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned()])
    }

    fn points(&self, _: &str) -> Result<Vec<PointFacts>> {
        let stored = self.store(
            &StoreRequest { series: "", tags: &[], job: "j", time: 0, parent: None, document: b"" },
            Vec::new(),
            &Progress::default(),
            &Cancel::default(),
        )?;
        Ok(vec![PointFacts { stored, parent: Some("p".into()), job: "j".into(), tags: vec!["t".into()], time: -1 }])
    }
}

#[test]
fn all_that_a_call_carries_arrives_and_all_that_it_gives_comes_back() {
    let datastore = isolated("echo", Path::new("/"), SURELY);
    assert_eq!(datastore.capacity().unwrap(), Echo.capacity().unwrap());
    let disks = || {
        let reader = MemoryReader::new(&noise(20 << 20, 3), (0..20).map(|mib| data(mib << 20, 1 << 20)).collect());
        let mut compared = disk(1, reader, Change::Compare);
        compared.marked = Some(vec![data(512, 512), Extent { content: Content::Zero, ..data(4096, 1) }]);
        vec![disk(0, MemoryReader::whole(&[1, 2, 3]), Change::SinceParent), compared]
    };
    let progress = Progress::default();
    let tags = ["a".to_owned(), "ü\n".to_owned()];
    let request =
        StoreRequest { series: "7", tags: &tags, job: "job=1", time: 5, parent: Some("p"), document: b"\0\xff" };
    let there = datastore.store(&request, disks(), &progress, &Cancel::default()).unwrap();
    let here = Echo.store(&request, disks(), &Progress::default(), &Cancel::default()).unwrap();
    assert_eq!(there, here);
    assert_eq!(progress.get(), (10, 30));

    let document = datastore.document("7", "20000000").unwrap();
    assert!(document.len() == 20_000_000 && document.iter().all(|byte| *byte == 7));
    assert!(datastore.document("7", "0").unwrap().is_empty());
    assert_eq!(datastore.points("7").unwrap(), Echo.points("7").unwrap());
    assert_eq!(
        datastore.forget_now("7", &["x".to_owned()]).unwrap(),
        Forgotten { freed_bytes: 9, resized: vec![("x".to_owned(), 5)] }
    );
    datastore.sweep("7", &progress).unwrap();
    assert_eq!(progress.get(), (13, 30));

    let bytes = noise(3_000_000, 4);
    let current: Option<Box<dyn DiskReader>> = Some(Box::new(MemoryReader::whole(&bytes)));
    let request = RestoreRequest { series: "7", point: "p", disk: 6, skip_bad: false, current };
    let mut target = MemoryWriter { bytes: vec![0; bytes.len()], full_at: None };
    let restored = datastore.restore(request, &mut target, &progress, &Cancel::default()).unwrap();
    assert!(target.bytes == bytes);
    assert_eq!((restored.written_bytes, restored.fetched_bytes, restored.damages.len()), (3_000_000, 6, 1));

    let points = ["a".to_owned()];
    let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: Some("r") };
    let mut saved = Vec::new();
    let mut save = |text: &str| {
        saved.push(text.to_owned());
        Ok(())
    };
    datastore.verify(&request, &mut save, &progress, &Cancel::default()).unwrap();
    assert_eq!(saved, ["one", "Some(\"r\") Deep"]);
    let mut save = |_: &str| Err(DriverError::new(Kind::Corrupt, "saving", "no"));
    let error = datastore.verify(&request, &mut save, &progress, &Cancel::default()).unwrap_err();
    assert_eq!((error.kind, error.to_string()), (Kind::Corrupt, "saving: no".to_owned()));

    let kinds = [Kind::Retry, Kind::Permanent, Kind::Missing, Kind::Cancelled, Kind::Corrupt];
    for (number, kind) in kinds.into_iter().enumerate() {
        let error = datastore.inspect("some\nseries", &number.to_string()).unwrap_err();
        assert_eq!((error.kind, error.to_string()), (kind, format!("some series: {number}")));
    }
    assert_eq!(datastore.series().unwrap(), ["10"], "the niceness");
}

#[test]
fn a_panic_in_the_driver_and_an_answer_that_is_too_long_fail_that_call_only() {
    let datastore = isolated("echo", Path::new("/"), SURELY);
    assert_eq!(datastore.find("7", "x").unwrap(), None);
    let pid = datastore.pid();
    assert_eq!(datastore.find("7", "panic").unwrap_err().kind, Kind::Permanent);
    let error = datastore.find("7", "huge").unwrap_err();
    assert!(error.kind == Kind::Permanent && error.to_string().contains("longer than 32 MiB"), "{error}");
    assert_eq!(datastore.find("7", "x").unwrap(), None);
    assert!(pid.is_some() && datastore.pid() == pid, "the process was kept");
}

#[test]
fn what_cannot_be_opened_says_so_with_each_call() {
    let datastore = isolated("nothing", Path::new("/"), SURELY);
    for _ in 0..2 {
        let error = datastore.capacity().unwrap_err();
        assert_eq!((error.kind, error.to_string()), (Kind::Permanent, "opening a datastore: what is nothing?".into()));
    }
}

#[test]
fn a_failing_target_ends_a_restore_that_would_not_end() {
    let datastore = isolated("echo", Path::new("/"), SURELY);
    let current: Option<Box<dyn DiskReader>> = Some(Box::new(MemoryReader::whole(&[1; 512])));
    let request = RestoreRequest { series: "7", point: "p", disk: 6, skip_bad: true, current };
    let mut target = MemoryWriter { bytes: vec![0; 4096], full_at: Some(0) };
    let error = datastore.restore(request, &mut target, &Progress::default(), &Cancel::default()).unwrap_err();
    assert_eq!((error.kind, error.to_string()), (Kind::Permanent, "writing the image: no space is left".into()));
    surely("the end of the restore", || datastore.sweep_now("7").is_ok());
}

#[test]
fn secrets_are_in_no_argument_and_no_environment() {
    let base = TempDir::new().unwrap();
    let datastore = isolated("restic", base.path(), SURELY);
    datastore.capacity().unwrap();
    let pid = datastore.pid().unwrap();
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
        assert!(!text.is_empty() && !String::from_utf8_lossy(&text).contains(PASSWORD), "{file}");
    }
    assert!(!format!("{datastore:?}").contains(PASSWORD));
}

// ---- connections handed over

/// Fails when it is read here.
struct NotHere(Export);

impl DiskReader for NotHere {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        panic!("read in the wrong process")
    }

    fn read(
        &mut self,
        _: &mut dyn Iterator<Item = (u64, u32)>,
        _: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        panic!("read in the wrong process")
    }

    fn hand_over(&mut self) -> Option<HandedOver> {
        self.0.hand_over()
    }
}

/// A qemu-nbd; ended when dropped.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn start(dir: &Path, image: &Path) -> Self {
        let socket = dir.join("nbd.sock");
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-t", "-e", "8", "-f", "raw", "-x", "d", "-k"]).arg(&socket).arg(image);
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("qemu-nbd: {error}; apt-get install qemu-utils"));
        let server = Self { child, socket };
        surely("qemu-nbd", || Export::connect_unix(&server.socket, "d", None, SURELY).is_ok());
        server
    }

    fn open(&self) -> Export {
        Export::connect_unix(&self.socket, "d", None, SURELY).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_connection_to_a_disk_goes_to_the_process_and_gives_every_byte() {
    let (base, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut bytes = noise(24 << 20, 5);
    bytes[1 << 20..9 << 20].fill(0);
    let image = dir.path().join("disk.raw");
    std::fs::write(&image, &bytes).unwrap();
    let server = Server::start(dir.path(), &image);
    let datastore = isolated("restic", base.path(), SURELY);
    // Used before it is handed over.
    let mut export = server.open();
    export.extents().unwrap();
    export.read(&mut [(0, 512), (4096, 512)].into_iter(), &mut |_, _| Ok(())).unwrap();
    let disks = vec![
        disk(0, NotHere(export), Change::Whole),
        disk(1, MemoryReader::whole(&bytes[..8192]), Change::Whole),
        disk(2, NotHere(server.open()), Change::Whole),
    ];
    let stored = store(&datastore, "job=1", None, disks, &Cancel::default()).unwrap();
    for id in [0, 2] {
        assert!(restored(&datastore, &stored.point, id, bytes.len()).unwrap() == bytes, "disk {id}");
    }
    assert!(restored(&datastore, &stored.point, 1, 8192).unwrap() == bytes[..8192]);
}

#[test]
fn an_export_that_was_handed_over_is_of_no_use_here_and_one_that_failed_is_not_handed_over() {
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("disk.raw");
    std::fs::write(&image, noise(1 << 20, 6)).unwrap();
    let server = Server::start(dir.path(), &image);
    let mut export = server.open();
    let given = export.hand_over().unwrap();
    assert_eq!(export.extents().unwrap_err().kind, Kind::Retry);
    assert!(export.hand_over().is_none());
    drop(export);
    // The other one's end did not end this one.
    assert_eq!(Export::take_over(given).unwrap().extents().unwrap(), [data(0, 1 << 20)]);
    let (socket, _) = UnixStream::pair().unwrap();
    let nonsense = HandedOver { socket: OwnedFd::from(socket), state: "{}".to_owned() };
    assert_eq!(Export::take_over(nonsense).unwrap_err().kind, Kind::Permanent);
}

// ---- hanging and dying

#[test]
fn a_process_that_is_killed_fails_the_store_and_publishes_nothing() {
    for kind in ["dummy", "restic"] {
        let base = TempDir::new().unwrap();
        let datastore = isolated(kind, base.path(), SURELY);
        let bytes = noise(1 << 20, 7);
        let (reader, reached, go) = MemoryReader::gated(&bytes);
        let error = std::thread::scope(|scope| {
            let disks = vec![disk(0, reader, Change::Whole)];
            let storing = scope.spawn(|| store(&datastore, "job=1", None, disks, &Cancel::default()).unwrap_err());
            reached.recv_timeout(SURELY).unwrap();
            signal(datastore.pid().unwrap(), Signal::KILL);
            let error = storing.join().unwrap();
            drop(go);
            error
        });
        assert_eq!(error.kind, Kind::Retry, "{error}");
        assert!(error.to_string().contains("signal: 9"), "{error}");
        assert_eq!(datastore.find("7", "job=1").unwrap(), None);
        datastore.sweep_now("7").unwrap();
        let stored = full(&datastore, "job=1", &bytes).unwrap();
        assert!(restored(&datastore, &stored.point, 0, bytes.len()).unwrap() == bytes);
        assert_eq!(datastore.ids("7").unwrap().len(), 1);
    }
}

#[test]
fn a_process_that_died_while_nobody_called_is_replaced() {
    let base = TempDir::new().unwrap();
    let datastore = isolated("dummy", base.path(), SURELY);
    datastore.capacity().unwrap();
    signal(datastore.pid().unwrap(), Signal::KILL);
    surely("a good answer", || datastore.capacity().is_ok());
}

#[test]
fn a_process_that_does_not_answer_is_an_error_in_time_for_all_its_calls_and_for_no_other() {
    let base = TempDir::new().unwrap();
    // What is synced to the disk may take a second where much else is.
    let datastore = isolated("dummy", base.path(), Duration::from_secs(5));
    let other = isolated("echo", Path::new("/"), Duration::from_secs(60));
    let bytes = noise(1 << 20, 8);
    let (reader, reached, go) = MemoryReader::gated(&bytes);
    std::thread::scope(|scope| {
        let disks = vec![disk(0, reader, Change::Whole)];
        let storing = scope.spawn(|| store(&datastore, "job=1", None, disks, &Cancel::default()).unwrap_err());
        reached.recv_timeout(SURELY).unwrap();
        signal(datastore.pid().unwrap(), Signal::STOP);
        let error = datastore.capacity().unwrap_err();
        assert_eq!(error.kind, Kind::Retry);
        let stored = storing.join().unwrap();
        assert_eq!(stored.kind, Kind::Retry);
        // One of the two noticed it, the other one says that it was noticed.
        let texts = [error.to_string(), stored.to_string()];
        assert!(texts.iter().any(|text| text.contains("it has not answered for 5 s; is its server reachable?")));
        assert!(texts[0].starts_with("measuring datastore 100 (nas:/backup): "), "{texts:?}");
        assert!(texts[1].starts_with("storing a restore point in datastore 100 (nas:/backup): "), "{texts:?}");
        drop(go);
        other.capacity().unwrap();
    });
    full(&datastore, "job=2", &bytes).unwrap();
    assert_eq!(datastore.find("7", "job=1").unwrap(), None);
}

#[test]
fn a_probe_that_hangs_ends_alone_and_never_a_backup_beside_it() {
    let datastore = isolated("echo", Path::new("/"), Duration::from_secs(1));
    let (reader, reached, go) = MemoryReader::gated(&noise(1 << 20, 9));
    std::thread::scope(|scope| {
        let disks = vec![disk(0, reader, Change::Whole)];
        let storing = scope.spawn(|| store(&datastore, "job=1", None, disks, &Cancel::default()));
        reached.recv_timeout(SURELY).unwrap();
        let pid = datastore.pid();
        let error = datastore.probe().unwrap_err();
        assert!(error.kind == Kind::Retry && error.to_string().contains("it has not answered for 1 s"), "{error}");
        go.send(()).unwrap();
        storing.join().unwrap().unwrap();
        assert_eq!(datastore.pid(), pid, "the process was given up");
    });
}

#[test]
fn a_disk_that_is_slow_is_no_datastore_that_hangs() {
    const SILENCE: Duration = Duration::from_secs(4);
    let base = TempDir::new().unwrap();
    let datastore = isolated("dummy", base.path(), SILENCE);
    let bytes = noise(1 << 20, 9);
    let (reader, reached, go) = MemoryReader::gated(&bytes);
    std::thread::scope(|scope| {
        let disks = vec![disk(0, reader, Change::Whole)];
        let storing = scope.spawn(|| store(&datastore, "job=1", None, disks, &Cancel::default()));
        reached.recv_timeout(SURELY).unwrap();
        std::thread::sleep(SILENCE * 2);
        go.send(()).unwrap();
        storing.join().unwrap().unwrap();
    });
}

#[test]
fn a_cancel_is_answered_by_a_process_that_hangs_too_and_its_series_waits_for_it() {
    let base = TempDir::new().unwrap();
    let datastore = isolated("dummy", base.path(), Duration::from_secs(600));
    let bytes = noise(1 << 20, 10);
    let (reader, reached, go) = MemoryReader::gated(&bytes);
    let cancel = Cancel::default();
    let pid = std::thread::scope(|scope| {
        let disks = vec![disk(0, reader, Change::Whole)];
        let storing = scope.spawn(|| store(&datastore, "job=1", None, disks, &cancel).unwrap_err());
        reached.recv_timeout(SURELY).unwrap();
        let pid = datastore.pid().unwrap();
        signal(pid, Signal::STOP);
        let start = Instant::now();
        cancel.cancel();
        assert_eq!(storing.join().unwrap().kind, Kind::Cancelled);
        // Far from the 600 s of silence; 2 s on a machine that has time.
        assert!(start.elapsed() < Duration::from_secs(20));
        pid
    });
    let error = datastore.find("7", "job=1").unwrap_err();
    assert!(error.kind == Kind::Retry && error.to_string().contains(&pid.to_string()), "{error}");
    signal(pid, Signal::CONT);
    drop(go);
    surely("the end of the cancelled store", || datastore.find("7", "job=1").is_ok());
    assert_eq!(datastore.find("7", "job=1").unwrap(), None);
    assert_eq!(datastore.pid(), Some(pid), "it was not killed");
}

#[test]
fn a_cancel_ends_a_store_that_waits_for_its_disk() {
    let base = TempDir::new().unwrap();
    let datastore = isolated("restic", base.path(), SURELY);
    let (reader, reached, go) = MemoryReader::gated(&noise(1 << 20, 11));
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let disks = vec![disk(0, reader, Change::Whole)];
        let storing = scope.spawn(|| store(&datastore, "job=1", None, disks, &cancel).unwrap_err());
        reached.recv_timeout(SURELY).unwrap();
        cancel.cancel();
        assert_eq!(storing.join().unwrap().kind, Kind::Cancelled);
    });
    drop(go);
    surely("the end of the cancelled store", || datastore.sweep_now("7").is_ok());
    assert_eq!(datastore.ids("7").unwrap(), [""; 0]);
}

// ---- a file system whose server is dead

/// A FUSE file system that takes requests and never answers. Whoever waits for it cannot be killed.
struct DeadShare {
    point: TempDir,
    stop: Arc<AtomicBool>,
    requests: Arc<Mutex<u64>>,
    server: Option<std::thread::JoinHandle<()>>,
}

impl DeadShare {
    fn mount() -> Self {
        let point = TempDir::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        // The helper hands the device over at the other end of this socket (libfuse, lib/mount.c).
        let mut helper = Command::new("fusermount3");
        helper.args(["-o", "fsname=dead", "--"]).arg(point.path()).env("_FUSE_COMMFD", "0");
        let status = helper.stdin(OwnedFd::from(theirs)).status();
        let status = status.unwrap_or_else(|error| panic!("fusermount3: {error}; apt-get install fuse3"));
        assert!(status.success(), "fusermount3: {status}; is /dev/fuse there?");
        let device = File::from(receive_fd(&ours));
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        rustix::fs::fcntl_setfl(&device, rustix::fs::OFlags::NONBLOCK).unwrap();
        let seen = (Arc::clone(&stop), Arc::clone(&requests));
        let server = Some(std::thread::spawn(move || swallow(device, &seen.0, &seen.1)));
        Self { point, stop, requests, server }
    }
}

impl Drop for DeadShare {
    fn drop(&mut self) {
        drop(Command::new("fusermount3").args(["-u", "-z", "--"]).arg(self.point.path()).status());
        // With the device the kernel gives all waits up.
        self.stop.store(true, Ordering::Release);
        drop(self.server.take().map(std::thread::JoinHandle::join));
    }
}

fn receive_fd(socket: &UnixStream) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [rustix::io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut found = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut rights) = message {
            found = rights.next();
        }
    }
    found.unwrap()
}

/// Answers the first request (linux/fuse.h: FUSE_INIT), so that the mount stands, and no other.
fn swallow(mut device: File, stop: &AtomicBool, requests: &Mutex<u64>) {
    let mut buffer = vec![0; 1 << 20];
    surely("the kernel's first request", || device.read(&mut buffer).is_ok());
    let mut answer = vec![0; 16 + 64];
    answer[0..4].copy_from_slice(&80_u32.to_ne_bytes());
    answer[8..16].copy_from_slice(&buffer[8..16]);
    // Version 7.31 and writes of a page.
    answer[16..20].copy_from_slice(&7_u32.to_ne_bytes());
    answer[20..24].copy_from_slice(&31_u32.to_ne_bytes());
    answer[36..40].copy_from_slice(&4096_u32.to_ne_bytes());
    device.write_all(&answer).unwrap();
    while !stop.load(Ordering::Acquire) {
        match device.read(&mut buffer) {
            Ok(length) if length > 0 => *requests.lock().unwrap() += 1,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[test]
fn a_dead_share_fails_calls_in_time_and_holds_two_processes_at_most() {
    let share = DeadShare::mount();
    let datastore = isolated("dummy", &share.point.path().join("backups"), Duration::from_secs(1));
    let mut pids = Vec::new();
    for _ in 0..2 {
        let error = datastore.capacity().unwrap_err();
        assert!(error.kind == Kind::Retry && error.to_string().contains("has not answered for 1 s"), "{error}");
    }
    let mut calls = 0;
    while pids.is_empty() {
        let error = datastore.find("7", "job=1").unwrap_err();
        assert_eq!(error.kind, Kind::Retry);
        let text = error.to_string();
        if text.contains("were killed and still wait for its server") {
            let numbers = text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok());
            pids = numbers.filter(|number: &u32| Path::new(&format!("/proc/{number}")).exists()).collect();
        }
        calls += 1;
        assert!(calls < 3, "{text}");
    }
    assert!(*share.requests.lock().unwrap() > 0);
    // Killed, and there: this is why nobody waits for them.
    assert!(pids.iter().filter(|pid| !is_gone(**pid)).count() >= 2, "{pids:?}");
    drop(share);
    surely("the end of the processes", || pids.iter().all(|pid| *pid == 100 || is_gone(*pid)));
    // What was there is free again, and the answer is that of the file system below.
    surely("an answer", || datastore.capacity().is_ok());
}

/// A daemon with a datastore: says the number of its process, makes a call, and ends as it is told.
fn be_a_daemon(mut test: UnixStream) {
    let mut order = String::new();
    let mut byte = [0];
    while test.read(&mut byte).is_ok_and(|count| count == 1) && byte != *b"\n" {
        order.push(char::from(byte[0]));
    }
    let (how, path) = order.split_once(' ').unwrap();
    let datastore = Arc::new(isolated("dummy", Path::new(path), Duration::from_secs(600)));
    let calling = Arc::clone(&datastore);
    std::thread::spawn(move || {
        let (reader, _reached, _go) = MemoryReader::gated(&noise(1 << 20, 12));
        drop(store(calling.as_ref(), "job=1", None, vec![disk(0, reader, Change::Whole)], &Cancel::default()));
    });
    surely("the process", || datastore.pid().is_some());
    std::thread::sleep(Duration::from_millis(500));
    writeln!(test, "{}", datastore.pid().unwrap()).unwrap();
    if how == "exit" {
        std::process::exit(0);
    }
    std::thread::sleep(SURELY);
}

fn start_daemon(how: &str, path: &Path) -> (Child, u32) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let Launch { program, args, .. } = launch("", "", SURELY);
    let mut command = Command::new(program);
    command.args(args).env(ROLE, "daemon").stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    drop(command);
    writeln!(ours, "{how} {}", path.display()).unwrap();
    let mut text = String::new();
    let mut byte = [0];
    ours.set_read_timeout(Some(SURELY)).unwrap();
    while ours.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        text.push(char::from(byte[0]));
    }
    (child, text.parse().unwrap())
}

#[test]
fn the_process_ends_with_a_daemon_that_is_killed_in_the_middle_of_a_store() {
    let base = TempDir::new().unwrap();
    let (mut daemon, pid) = start_daemon("stay", base.path());
    assert!(!is_gone(pid));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    surely("the end of the datastore's process", || is_gone(pid));
    let datastore = isolated("dummy", base.path(), SURELY);
    assert_eq!(datastore.find("7", "job=1").unwrap(), None);
}

#[test]
fn a_daemon_ends_although_a_process_of_it_cannot() {
    let share = DeadShare::mount();
    let (mut daemon, pid) = start_daemon("exit", share.point.path());
    surely("the end of the daemon", || daemon.try_wait().unwrap().is_some_and(|status| status.success()));
    assert!(!is_gone(pid), "it still waits for the share");
    drop(share);
    surely("the end of its process", || is_gone(pid));
}

#[test]
fn the_process_ends_when_the_datastore_is_dropped() {
    let base = TempDir::new().unwrap();
    let datastore = isolated("dummy", base.path(), SURELY);
    datastore.capacity().unwrap();
    let pid = datastore.pid().unwrap();
    drop(datastore);
    surely("the end of the process", || is_gone(pid));
}

// ---- a process that is not what it should be

/// Takes one call and answers with what no honest process sends.
fn be_hostile(mut control: UnixStream, how: &str) {
    let mut head = [0; 5];
    control.read_exact(&mut head).unwrap();
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    control.read_exact(&mut vec![0; length as usize]).unwrap();
    let mut call = UnixStream::from(receive_fd(&control));
    let frame = |kind: u8, body: &[u8]| {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        [&length[..], &[kind], &[0; 12], body].concat()
    };
    let message = |json: &str| {
        let length = u32::try_from(json.len()).unwrap().to_le_bytes();
        frame(1, &[&length[..], json.as_bytes()].concat())
    };
    let bytes = match how {
        "giant" => [&u32::MAX.to_le_bytes()[..], &[2], &[0; 12]].concat(),
        "endless" => frame(0, &vec![0; 1 << 20]).repeat(40),
        "garbage" => noise(100_000, 13),
        "json" => message("{\"Answer\":7}"),
        "other" => message("{\"Answer\":{\"Ok\":\"Swept\"}}"),
        "bytes" => frame(2, &[1; 512]),
        "disk" => message("{\"Read\":[9,[[0,512]]]}"),
        "range" => message("{\"Read\":[0,[[18446744073709551615,4294967295]]]}"),
        // The first waits at the gate, and the rest behind it.
        "often" => message("{\"Read\":[0,[[0,512]]]}").repeat(9),
        "save" => message("{\"Save\":\"x\"}"),
        "silent" => Vec::new(),
        _ => return,
    };
    drop(call.write_all(&bytes));
    std::thread::sleep(SURELY);
}

#[test]
fn a_process_that_makes_no_sense_is_an_error_and_is_ended() {
    let hows = ["giant", "endless", "garbage", "json", "bytes", "disk", "range", "often", "save"];
    for how in hows {
        let datastore = IsolatedDatastore::new(launch(how, "", SURELY));
        // Keeps its answers back, so that questions pile up.
        let (reader, _reached, go) = MemoryReader::gated(&[1; 512]);
        let disks = vec![disk(0, reader, Change::Whole)];
        let error = store(&datastore, "job=1", None, disks, &Cancel::default()).unwrap_err();
        assert!(error.kind == Kind::Retry && error.to_string().contains("made no sense"), "{how}: {error}");
        assert_eq!(datastore.pid(), None, "{how}");
        drop(go);
    }
    let datastore = IsolatedDatastore::new(launch("other", "", SURELY));
    assert_eq!(datastore.capacity().unwrap_err().kind, Kind::Permanent);
    let datastore = IsolatedDatastore::new(launch("gone", "", SURELY));
    let error = datastore.capacity().unwrap_err();
    assert!(error.kind == Kind::Retry && error.to_string().contains("ended (exit status: 0)"), "{error}");
    let datastore = IsolatedDatastore::new(launch("silent", "", Duration::from_secs(1)));
    assert_eq!(datastore.capacity().unwrap_err().kind, Kind::Retry);
    // Nothing of a large call waits for somebody to read it.
    let request =
        StoreRequest { series: "8", tags: &[], job: "job=1", time: 0, parent: None, document: &vec![b'x'; 32 << 20] };
    let error = datastore.store(&request, Vec::new(), &Progress::default(), &Cancel::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Retry);
}

#[test]
fn a_program_that_is_not_there_and_a_configuration_that_is_too_long_are_told() {
    let mut absent = launch("datastore", "", SURELY);
    absent.program = "/nowhere/oned".into();
    let error = IsolatedDatastore::new(absent).capacity().unwrap_err();
    assert!(error.to_string().starts_with("starting the process of datastore 100"), "{error}");
    let long = launch("datastore", &"x".repeat(70_000), SURELY);
    assert_eq!(IsolatedDatastore::new(long).capacity().unwrap_err().kind, Kind::Permanent);
}
