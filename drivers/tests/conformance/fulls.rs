//! Whole disks, there and back.

use std::path::Path;
use std::process::Command;

use drivers::datastore::{ImageTarget, RestoreRequest, StoreRequest};
use drivers::hypervisor::DiskFormat;
use drivers::{Cancel, Content, Progress};

use super::disk::{data, noise, solid, zero};
use super::{Rig, SERIES, SLACK, Series, Source, TIME, Target, assert_equal, series};

pub fn a_full_comes_back_byte_for_byte(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let mut disk = noise(10 * rig.chunk() as usize + 1536, 1);
    disk[3 * rig.chunk() as usize..5 * rig.chunk() as usize].fill(0);
    let source = Source::of(&disk);
    let reads = source.reads.clone();
    let stored = store.store("job=1", None, vec![source.whole(0)]).unwrap();
    assert_eq!(stored.read_bytes, reads.bytes());
    assert_eq!((stored.saved_bytes, stored.unmarked_bytes), (Some(0), 0));
    assert_eq!((stored.disks[0].id, stored.disks[0].size_bytes), (0, disk.len() as u64));
    assert!(stored.point.len() >= 8 && stored.point.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", stored.point);
    let (bytes, restored) = store.restore_with(&stored.point, 0, disk.len(), false, None).unwrap();
    assert_equal(&bytes, &disk, "the disk");
    assert_eq!(restored.damages, []);
    assert!(restored.fetched_bytes >= 8 * rig.chunk(), "{restored:?}");
    // Somebody else finds the same.
    series(&*rig.open()).check(&stored.point, &[&disk]);
}

/// Runs a program of the qemu-utils; gives what it printed.
fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("qemu-img is needed for this test: apt-get install qemu-utils: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    text
}

pub fn a_full_restores_into_qcow2_and_raw_images_that_qemu_img_finds_equal(rig: &dyn Rig) {
    let store = rig.open();
    let folder = tempfile::tempdir().unwrap();
    let mut disk = noise(5 * rig.chunk() as usize + 512, 2);
    let chunk = rig.chunk() as usize;
    disk[chunk..2 * chunk + 4096].fill(0);
    let stored = series(&*store).full("job=1", &[&disk]);
    let expected = folder.path().join("expected");
    std::fs::write(&expected, &disk).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for (format, name) in [(DiskFormat::Qcow2, "qcow2"), (DiskFormat::Raw, "raw")] {
        let path = folder.path().join(format!("disk.{name}"));
        let target = ImageTarget { path: path.clone(), format, size_bytes: disk.len() as u64 };
        let request = RestoreRequest { series: SERIES, point: &stored.point, disk: 0, skip_bad: false, current: None };
        let progress = Progress::default();
        let restored = store.restore_image(request, &target, &progress, &Cancel::default()).unwrap();
        assert_eq!(restored.damages, []);
        assert!(restored.written_bytes > 0 && restored.written_bytes <= disk.len() as u64, "{restored:?}");
        qemu_img(&["compare", "-f", "raw", "-F", name, &text(&expected), &text(&path)]);
        if format == DiskFormat::Qcow2 {
            qemu_img(&["check", "-f", name, &text(&path)]);
            assert!(!qemu_img(&["info", "-f", name, &text(&path)]).contains("backing"));
        }
    }
    let names = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 3, "something was left beside the images");
}

pub fn zeros_are_neither_read_nor_written(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk();
    let mut disk = solid(8 * chunk as usize, 3);
    disk[chunk as usize..3 * chunk as usize].fill(0);
    disk[5 * chunk as usize..].fill(0);
    let source = Source::of(&disk);
    let reads = source.reads.clone();
    let stored = store.store("job=1", None, vec![source.whole(0)]).unwrap();
    reads.assert_within(&[data(0, chunk), data(3 * chunk, 2 * chunk)], chunk, disk.len() as u64);
    assert_eq!(stored.read_bytes, 3 * chunk);
    let (bytes, restored) = store.restore_with(&stored.point, 0, disk.len(), false, None).unwrap();
    assert_equal(&bytes, &disk, "the disk");
    assert_eq!(restored.written_bytes, 3 * chunk);

    let nothing = Source::listing(&vec![0; 1 << 20], vec![zero(0, 1 << 20)]);
    let stored = store.store("job=2", None, vec![nothing.whole(0)]).unwrap();
    assert_eq!(stored.read_bytes, 0);
    let mut target = Target::new(1 << 20);
    target.before = Some(Box::new(|_| panic!("a zero was written")));
    let request = RestoreRequest { series: SERIES, point: &stored.point, disk: 0, skip_bad: false, current: None };
    let restored = store.datastore.restore(request, &mut target, &Progress::default(), &Cancel::default()).unwrap();
    assert_eq!((restored.written_bytes, restored.fetched_bytes), (0, 0));
}

pub fn zeros_that_are_listed_as_data_are_not_stored(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let disk = vec![0; 16 * rig.chunk() as usize + 512];
    let source = Source::listing(&disk, vec![data(0, disk.len() as u64)]);
    let stored = store.store("job=1", None, vec![source.whole(0)]).unwrap();
    assert_eq!(stored.read_bytes, disk.len() as u64);
    assert!(stored.stored_bytes < 64 << 10, "{} bytes for zeros", stored.stored_bytes);
    // Of chunks one of each length may be stored.
    let saved = stored.saved_bytes.unwrap();
    assert!(
        (stored.read_bytes - rig.chunk() - 512..=stored.read_bytes).contains(&saved),
        "{saved} bytes of zeros saved"
    );
    let (bytes, restored) = store.restore_with(&stored.point, 0, disk.len(), false, None).unwrap();
    assert_equal(&bytes, &disk, "the disk");
    assert_eq!(restored.written_bytes, 0);
}

pub fn each_disk_is_counted_for_itself(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let disks = [noise(3 * rig.chunk() as usize, 1), noise(2 * rig.chunk() as usize, 2)];
    let progress = Progress::default();
    let sources = vec![Source::of(&disks[0]).whole(4), Source::of(&disks[1]).whole(0)];
    let stored = store.store_with("job=1", None, sources, &progress, &Cancel::default()).unwrap();
    let counted = |progress: &Progress| {
        let disks: Vec<_> = progress.disks().iter().map(|disk| (disk.id, disk.done, disk.total)).collect();
        assert_eq!(progress.get(), disks.iter().fold((0, 0), |sum, disk| (sum.0 + disk.1, sum.1 + disk.2)));
        disks
    };
    let lengths = disks.each_ref().map(|disk| disk.len() as u64);
    assert_eq!(counted(&progress), [(4, lengths[0], lengths[0]), (0, lengths[1], lengths[1])]);
    let progress = Progress::default();
    let mut target = Target::new(disks[1].len());
    let request = RestoreRequest { series: SERIES, point: &stored.point, disk: 0, skip_bad: false, current: None };
    store.datastore.restore(request, &mut target, &progress, &Cancel::default()).unwrap();
    assert_eq!(counted(&progress), [(0, lengths[1], lengths[1])]);
}

pub fn zero_runs_at_every_alignment_come_back(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let window = (rig.chunk() as usize).max(64 << 10);
    let mut disks = Vec::new();
    for number in 0..16 {
        let mut disk = noise(3 * window, 4);
        let (start, length) = (number * window / 16, [4096, window, window + 4096, 512][number % 4]);
        disk[start..start + length].fill(0);
        disks.push(disk);
    }
    let full = store.full("job=1", &disks.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut after = disks.clone();
    for (number, disk) in after.iter_mut().enumerate() {
        let (start, length) = (window + number * window / 16, [window, 4096, 512, window / 2][number % 4]);
        disk[start..start + length].fill(0);
    }
    let pairs: Vec<_> = disks.iter().zip(&after).map(|(old, new)| (old.as_slice(), new.as_slice())).collect();
    let increment = store.increment("job=2", &full.point, &pairs);
    store.check(&full.point, &disks.iter().map(Vec::as_slice).collect::<Vec<_>>());
    store.check(&increment.point, &after.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

pub fn disks_of_many_sizes_come_back_and_take_increments(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk() as usize;
    let mut sizes = vec![512, 3584, 4096, 4608, 65024, 65536, 66048, 7 * 512, 131 * 512, (1 << 20) + 512];
    sizes.extend([chunk - 512, chunk, chunk + 512, 3 * chunk + 1024]);
    let mut disks: Vec<Vec<u8>> = sizes.iter().map(|size| noise(*size, *size as u64)).collect();
    // All zero, and data only at the end.
    disks.extend([vec![0; 66048], vec![0; 2 * chunk + 512]]);
    *disks.last_mut().unwrap().last_mut().unwrap() = 1;
    let full = store.full("job=1", &disks.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut after = disks.clone();
    for disk in &mut after {
        disk[0] ^= 1;
        *disk.last_mut().unwrap() ^= 1;
    }
    let pairs: Vec<_> = disks.iter().zip(&after).map(|(old, new)| (old.as_slice(), new.as_slice())).collect();
    let increment = store.increment("job=2", &full.point, &pairs);
    let sizes = |disks: &[Vec<u8>]| disks.iter().map(|disk| disk.len() as u64).collect::<Vec<_>>();
    assert_eq!(increment.disks.iter().map(|disk| disk.size_bytes).collect::<Vec<_>>(), sizes(&disks));
    store.check(&full.point, &disks.iter().map(Vec::as_slice).collect::<Vec<_>>());
    store.check(&increment.point, &after.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

pub fn several_disks_keep_their_ids_and_their_order(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let disks: Vec<(u32, Vec<u8>)> = vec![(12, noise(70_144, 5)), (0, noise(512, 6)), (3, noise(131_072, 7))];
    let sources = disks.iter().map(|(id, bytes)| Source::of(bytes).whole(*id)).collect();
    let stored = store.store("job=1", None, sources).unwrap();
    let told: Vec<_> = stored.disks.iter().map(|disk| (disk.id, disk.size_bytes)).collect();
    assert_eq!(told, [(0, 512), (3, 131_072), (12, 70_144)]);
    for (id, bytes) in &disks {
        assert_equal(&store.restore(&stored.point, *id, bytes.len()).unwrap(), bytes, &format!("disk {id}"));
    }
}

pub fn a_second_full_is_a_point_for_itself(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let (first, second) = (noise(3 * rig.chunk() as usize, 8), noise(5 * rig.chunk() as usize, 9));
    let one = store.full("job=1", &[&first]);
    let two = store.full("job=2", &[&second]);
    let three = store.full("job=3", &[&second]);
    assert!(one.point != two.point && two.point != three.point);
    store.check(&one.point, &[&first]);
    store.forget(&[&one.point, &two.point]);
    store.check(&three.point, &[&second]);
}

pub fn documents_of_no_byte_and_of_a_mebibyte_come_back(rig: &dyn Rig) {
    let store = rig.open();
    let disk = noise(4096, 10);
    for (number, document) in [vec![], b"<VM/>".to_vec(), noise(1 << 20, 11)].into_iter().enumerate() {
        let job = format!("job={number}");
        let request =
            StoreRequest { series: SERIES, tags: &[], job: &job, time: TIME, parent: None, document: &document };
        let disks = vec![Source::of(&disk).whole(0)];
        let stored = store.store(&request, disks, &Progress::default(), &Cancel::default()).unwrap();
        assert_equal(&store.document(SERIES, &stored.point).unwrap(), &document, "the document");
    }
}

pub fn progress_never_runs_ahead_and_ends_whole(rig: &dyn Rig) {
    let store = rig.open();
    let store: Series<'_> = series(&*store);
    let mut disk = noise(40 * rig.chunk() as usize, 12);
    disk[4 * rig.chunk() as usize..9 * rig.chunk() as usize].fill(0);
    let old = disk.clone();
    disk[20 * rig.chunk() as usize..22 * rig.chunk() as usize].fill(3);
    let watched = |progress: &Progress| {
        let progress = progress.clone();
        move |_| {
            let (done, total) = progress.get();
            assert!(done <= total, "{done} of {total}");
            Ok(())
        }
    };
    let whole = |progress: &Progress| {
        let (done, total) = progress.get();
        assert_eq!(done, total);
        assert!(progress.pulse() > 0);
    };
    let progress = Progress::default();
    let source = Source::of(&old).before(watched(&progress)).whole(0);
    let full = store.store_with("job=1", None, vec![source], &progress, &Cancel::default()).unwrap();
    whole(&progress);
    let progress = Progress::default();
    let source = Source::since(&old, &disk).before(watched(&progress));
    assert!(source.extents.iter().all(|extent| extent.content == Content::Data));
    let disks = vec![source.changes(0)];
    store.store_with("job=2", Some(&full.point), disks, &progress, &Cancel::default()).unwrap();
    whole(&progress);
    let progress = Progress::default();
    let mut target = Target::new(disk.len());
    target.before = Some(Box::new(watched(&progress)));
    let request = RestoreRequest { series: SERIES, point: &full.point, disk: 0, skip_bad: false, current: None };
    store.datastore.restore(request, &mut target, &progress, &Cancel::default()).unwrap();
    whole(&progress);
    assert!(super::length_of(rig) > SLACK);
}
