//! Restoring from the restic datastore: order, holes, what a current disk saves, and damage.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "no test needs all of it")]
mod shared;

use std::sync::atomic::Ordering;

use drivers::datastore::{Change, RestoreRequest};
use drivers::{BackupDatastore, Cancel, Content, DiskWriter, Extent, Kind, Progress, Result};

use shared::memory::{MemoryReader, MemoryWriter, noise};
use shared::restic_rig::{CHUNK, Rig, flip, is_model_outside, short};

fn data(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Data }
}

#[test]
fn a_disk_whose_chunks_lie_scattered_over_many_packs_comes_back() {
    let rig = Rig::new();
    let mut disk = noise(3 << 20, 1);
    disk[500_000..900_000].fill(0);
    // The same chunk at three places, one of them in another window of packs.
    disk.copy_within(0..CHUNK as usize, 20 * CHUNK as usize);
    disk.copy_within(0..CHUNK as usize, 700 * CHUNK as usize);
    let mut point = rig.full("job=0", &disk);
    for job in 1..6_u64 {
        let changed: Vec<Extent> = (0..40).map(|n| data((n * 17 + job) * CHUNK, 100)).collect();
        for extent in &changed {
            disk[extent.offset as usize..extent.end() as usize].fill(job as u8);
        }
        point = rig.increment(&format!("job={job}"), &point, &disk, changed);
    }
    let (given, restored) = rig.restore(&point, 0, disk.len(), false, None).unwrap();
    assert_eq!(given, disk);
    let zero_chunks = disk.chunks(CHUNK as usize).filter(|chunk| chunk.iter().all(|byte| *byte == 0)).count() as u64;
    assert!(zero_chunks > 50);
    assert_eq!(restored.fetched_bytes, disk.len() as u64 - zero_chunks * CHUNK);
    assert_eq!(restored.damages, []);
}

#[test]
fn what_a_current_disk_holds_is_not_fetched() {
    let rig = Rig::with(|config| config.part_bytes = 100 * CHUNK);
    let mut disk = noise(300 * CHUNK as usize + 100, 2);
    disk[10 * CHUNK as usize..30 * CHUNK as usize].fill(0);
    let point = rig.full("job=1", &disk);

    let mut current = disk.clone();
    // Other bytes in two chunks, zeros in two, bytes where zeros belong, and shorter by a chunk and the short last one.
    current[5 * CHUNK as usize + 1] ^= 1;
    current[250 * CHUNK as usize] ^= 1;
    current[120 * CHUNK as usize..122 * CHUNK as usize].fill(0);
    current[11 * CHUNK as usize] = 7;
    current.truncate(299 * CHUNK as usize);
    let reader = MemoryReader::whole(&current);
    let read_bytes = std::sync::Arc::clone(&reader.read_bytes);
    let (given, restored) = rig.restore(&point, 0, disk.len(), false, Some(Box::new(reader))).unwrap();
    assert_eq!(given, disk);
    assert_eq!(restored.fetched_bytes, 5 * CHUNK + 100);
    // Neither where zeros are wanted nor where it is known to hold zeros.
    assert_eq!(read_bytes.load(Ordering::Relaxed), (299 - 20 - 2) * CHUNK);

    let same = MemoryReader::whole(&disk);
    let (given, restored) = rig.restore(&point, 0, disk.len(), false, Some(Box::new(same))).unwrap();
    assert_eq!((given == disk, restored.fetched_bytes), (true, 0));

    let failing = MemoryReader { fail_after: Some(50 * CHUNK), ..MemoryReader::whole(&disk) };
    let (given, _) = rig.restore(&point, 0, disk.len(), false, Some(Box::new(failing))).unwrap();
    assert!(given == disk, "a current disk that fails is no hindrance");
}

#[test]
fn one_bad_chunk_is_named_with_every_point_that_needs_it_and_the_rest_comes_back() {
    let rig = Rig::new();
    let mut disk = noise(2 << 20, 3);
    let full = rig.full("job=1", &disk);
    disk[0..10].fill(1);
    let increment = rig.increment("job=2", &full, &disk, vec![data(0, 10)]);
    let other = rig.full("job=3", &noise(100_000, 4));

    let pack = &rig.files("data")[0];
    let length = pack.metadata().unwrap().len() as usize;
    flip(pack, length / 2);
    let error = rig.restore(&increment, 0, disk.len(), false, None).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt, "{error}");
    for part in ["disk 0", &short(pack), "4096 bytes at byte ", "skipping damaged"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let (given, restored) = rig.restore(&increment, 0, disk.len(), true, None).unwrap();
    assert!(is_model_outside(&disk, &given, &restored.damages));
    let [damage] = restored.damages.as_slice() else { panic!("{:?}", restored.damages) };
    assert_eq!((damage.disk, damage.length), (Some(0), CHUNK));
    assert!(damage.what.starts_with(&format!("pack {}…: ", short(pack))), "{}", damage.what);
    let mut points = damage.points.clone();
    points.sort();
    let mut needing = vec![full, increment];
    needing.sort();
    assert_eq!(points, needing);
    assert_eq!(rig.restore(&other, 0, 100_000, false, None).unwrap().0, noise(100_000, 4));
}

#[test]
fn a_lost_pack_makes_few_ranges_and_other_disks_come_back() {
    let rig = Rig::new();
    let (first, second) = (noise(3 << 20, 5), noise(3 << 20, 6));
    let disks = vec![(MemoryReader::whole(&first), Change::Whole), (MemoryReader::whole(&second), Change::Whole)];
    let point = rig.store("job=1", None, disks);
    let pack = rig.files("data")[0].clone();
    std::fs::remove_file(&pack).unwrap();
    let mut lost = 0;
    for (disk, model) in [(0, &first), (1, &second)] {
        let (given, restored) = rig.restore(&point, disk, model.len(), true, None).unwrap();
        assert!(is_model_outside(model, &given, &restored.damages));
        assert!(restored.damages.iter().all(|damage| damage.what.contains("missing")), "{:?}", restored.damages);
        lost += restored.damages.iter().map(|damage| damage.length).sum::<u64>();
    }
    assert!((900_000..1_200_000).contains(&lost), "{lost}");
}

#[test]
fn a_lost_list_of_one_part_loses_that_part_only() {
    let rig = Rig::with(|config| config.part_bytes = 50 * CHUNK);
    let disk = noise(220 * CHUNK as usize, 7);
    let point = rig.full("job=1", &disk);
    // The directories are in the smallest pack; each is a sealed piece of it.
    let pack = rig.files("data").pop().unwrap();
    let intact = std::fs::read(&pack).unwrap();
    let mut partly = 0;
    for at in (0..intact.len()).step_by(500) {
        flip(&pack, at);
        if let Ok((given, restored)) = rig.restore(&point, 0, disk.len(), true, None) {
            partly += usize::from(!restored.damages.is_empty());
            let open_end: Vec<_> = restored.damages.iter().filter(|damage| damage.length == 0).collect();
            match open_end.as_slice() {
                [] => assert!(is_model_outside(&disk, &given, &restored.damages), "{at}"),
                [last] => {
                    assert_eq!(last.offset, 200 * CHUNK);
                    assert!(given[..last.offset as usize] == disk[..last.offset as usize]);
                }
                _ => panic!("{open_end:?}"),
            }
        }
        std::fs::write(&pack, &intact).unwrap();
    }
    assert!(partly > 3, "{partly}");
}

#[test]
fn a_damaged_index_file_loses_only_what_it_alone_named() {
    let rig = Rig::new();
    let (first, second) = (noise(200_000, 8), noise(200_000, 9));
    let one = rig.full("job=1", &first);
    let before = rig.files("index");
    let two = rig.full("job=2", &second);
    let index = rig.files("index").into_iter().find(|path| !before.contains(path)).unwrap();
    flip(&index, 40);
    assert_eq!(rig.restore(&one, 0, first.len(), false, None).unwrap().0, first);
    assert_eq!(rig.restore(&two, 0, second.len(), true, None).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn a_cancel_ends_a_restore_and_a_failing_target_says_why() {
    struct Full;
    impl DiskWriter for Full {
        fn write_at(&mut self, _: u64, _: &[u8]) -> Result<()> {
            Err(drivers::DriverError::new(Kind::Permanent, "writing", "no space"))
        }
        fn finish(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }
    struct Cancelling(Cancel, MemoryWriter);
    impl DiskWriter for Cancelling {
        fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
            self.0.cancel();
            self.1.write_at(offset, data)
        }
        fn finish(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }
    let rig = Rig::new();
    let disk = noise(8 << 20, 10);
    let point = rig.full("job=1", &disk);
    let request = || RestoreRequest { series: "7", point: &point, disk: 0, skip_bad: false, current: None };
    let error = rig.datastore.restore(request(), &mut Full, &Progress::default(), &Cancel::default()).unwrap_err();
    assert_eq!(error.reason, "no space");
    let cancel = Cancel::default();
    let mut target = Cancelling(cancel.clone(), MemoryWriter { data: vec![0; disk.len()], ..MemoryWriter::default() });
    let error = rig.datastore.restore(request(), &mut target, &Progress::default(), &cancel).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
    assert!(target.1.written <= 64 << 10);
}

#[test]
fn progress_counts_every_byte_of_the_disk_once() {
    let rig = Rig::with(|config| config.part_bytes = 16 * CHUNK);
    let mut disk = noise(100 * CHUNK as usize + 12, 11);
    disk[4096..100_000].fill(0);
    let point = rig.full("job=1", &disk);
    let progress = Progress::default();
    let mut writer = MemoryWriter { data: vec![0; disk.len()], ..MemoryWriter::default() };
    let request = RestoreRequest { series: "7", point: &point, disk: 0, skip_bad: false, current: None };
    rig.datastore.restore(request, &mut writer, &progress, &Cancel::default()).unwrap();
    assert_eq!(progress.get(), (disk.len() as u64, disk.len() as u64));
}
