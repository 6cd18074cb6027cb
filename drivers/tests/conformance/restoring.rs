//! Restores with a disk at hand, and those that do not come to their end.

use drivers::datastore::{ImageTarget, RestoreRequest};
use drivers::hypervisor::DiskFormat;
use drivers::{Cancel, DriverError, Kind, Progress};

use super::disk::{invert, noise, solid};
use super::{Rig, SERIES, Source, Target, assert_equal, series};

pub fn a_disk_at_hand_that_is_equal_saves_all_fetching(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let chunk = rig.chunk() as usize;
    let mut disk = solid(20 * chunk + 1024, 1);
    disk[4 * chunk..9 * chunk].fill(0);
    let full = store.full("job=1", &[&disk]);
    let (bytes, restored) = store.restore_with(&full.point, 0, disk.len(), false, Some(Source::of(&disk))).unwrap();
    assert_equal(&bytes, &disk, "the disk");
    assert_eq!(restored.fetched_bytes, 0, "{restored:?}");
    assert_eq!(restored.damages, []);
}

pub fn a_disk_at_hand_that_differs_a_little_costs_a_little(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let chunk = rig.chunk() as usize;
    let grain = rig.fetch_grain();
    let mut disk = solid(8 * grain.max(4 * chunk as u64) as usize + 512, 2);
    disk[4 * chunk..6 * chunk].fill(0);
    let full = store.full("job=1", &[&disk]);
    let mut current = disk.clone();
    current[chunk] ^= 1;
    // Something where there are zeros, zeros where there is something, and the very end.
    current[4 * chunk..4 * chunk + 10].fill(1);
    current[10 * chunk..11 * chunk].fill(0);
    *current.last_mut().unwrap() ^= 1;
    let (bytes, restored) = store.restore_with(&full.point, 0, disk.len(), false, Some(Source::of(&current))).unwrap();
    assert_equal(&bytes, &disk, "the disk");
    assert!((1..=4 * grain).contains(&restored.fetched_bytes), "{restored:?}");
    assert!(restored.written_bytes > restored.fetched_bytes, "{restored:?}");
}

pub fn a_disk_at_hand_of_another_size_or_content_gives_the_right_bytes(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let chunk = rig.chunk() as usize;
    let mut disk = noise(9 * chunk + 512, 3);
    disk[2 * chunk..3 * chunk].fill(0);
    let full = store.full("job=1", &[&disk]);
    let mut inverted = disk.clone();
    invert(&mut inverted);
    let longer = [disk.clone(), noise(3 * chunk, 4)].concat();
    let cases: [(&str, &[u8]); 8] = [
        ("shorter", &disk[..4 * chunk + 512]),
        ("shorter by a sector", &disk[..disk.len() - 512]),
        ("longer", &longer),
        ("a sector", &disk[..512]),
        ("nothing", &[]),
        ("different everywhere", &inverted),
        ("zeros", &vec![0; disk.len()]),
        ("shifted", &disk[512..]),
    ];
    for (what, current) in cases {
        let current = Some(Source::of(current));
        let (bytes, restored) = store.restore_with(&full.point, 0, disk.len(), false, current).unwrap();
        assert_equal(&bytes, &disk, what);
        assert!(restored.fetched_bytes <= disk.len() as u64, "{what}: {restored:?}");
    }
}

pub fn a_cancelled_restore_says_so_and_leaves_no_image(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let disk = noise(40 * rig.chunk() as usize, 5);
    let full = store.full("job=1", &[&disk]);
    let request = || RestoreRequest { series: SERIES, point: &full.point, disk: 0, skip_bad: false, current: None };
    let cancel = Cancel::default();
    cancel.cancel();
    let mut target = Target::new(disk.len());
    let error = owner.restore(request(), &mut target, &Progress::default(), &cancel).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);

    let cancel = Cancel::default();
    let mut target = Target::new(disk.len());
    let asked = cancel.clone();
    target.before = Some(Box::new(move |number| {
        if number == 0 {
            asked.cancel();
        }
        Ok(())
    }));
    // One that was all but done may end well; then it is whole.
    match owner.restore(request(), &mut target, &Progress::default(), &cancel) {
        Ok(_) => assert_equal(&target.bytes, &disk, "the disk"),
        Err(error) => assert_eq!(error.kind, Kind::Cancelled, "{error}"),
    }

    let folder = tempfile::tempdir().unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
        let target = ImageTarget { path: folder.path().join("disk"), format, size_bytes: disk.len() as u64 };
        let error = owner.restore_image(request(), &target, &Progress::default(), &cancel).unwrap_err();
        assert_eq!(error.kind, Kind::Cancelled);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    store.check(&full.point, &[&disk]);
}

pub fn an_error_of_the_target_ends_the_restore(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let disk = noise(40 * rig.chunk() as usize, 6);
    let full = store.full("job=1", &[&disk]);
    for skip_bad in [false, true] {
        let mut target = Target::new(disk.len());
        target.before = Some(Box::new(|_| Err(DriverError::new(Kind::Permanent, "writing a disk", "injected"))));
        let request = RestoreRequest { series: SERIES, point: &full.point, disk: 0, skip_bad, current: None };
        let error = owner.restore(request, &mut target, &Progress::default(), &Cancel::default()).unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (Kind::Permanent, "injected"));
        assert_eq!(target.written, 0);
    }
    store.check(&full.point, &[&disk]);
}

pub fn a_restore_image_of_an_unknown_disk_leaves_no_file(rig: &dyn Rig) {
    let owner = rig.open();
    let full = series(&*owner).full("job=1", &[&noise(4096, 7)]);
    let folder = tempfile::tempdir().unwrap();
    let unknown = "0".repeat(64);
    for (point, disk) in [(full.point.as_str(), 1), (unknown.as_str(), 0)] {
        let target = ImageTarget { path: folder.path().join("disk"), format: DiskFormat::Qcow2, size_bytes: 4096 };
        let request = RestoreRequest { series: SERIES, point, disk, skip_bad: true, current: None };
        let error = owner.restore_image(request, &target, &Progress::default(), &Cancel::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Missing);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
