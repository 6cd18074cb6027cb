//! Readers that fail, lie, or are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drivers::datastore::{Change, SourceDisk};
use drivers::{Cancel, DiskReader, Extent, Kind, Progress, Result};

use super::disk::{Endless, Lie, Reads, data, injected, noise, zero};
use super::{Rig, SERIES, SLACK, Series, Source, length_of, series};

/// Fails when anything of `job` is there beside `points`.
fn assert_unpublished(store: Series<'_>, job: &str, points: &[String], what: &str) {
    assert_eq!(store.datastore.find(store.name, job).unwrap(), None, "{what} was published");
    assert_eq!(store.ids(), points, "{what}");
}

pub fn a_reader_whose_extents_make_no_sense_is_refused(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk();
    let size = 4 * chunk;
    let disk = noise(size as usize, 1);
    let full = store.full("job=1", &[&disk]);
    let points = [full.point.clone()];
    let both: [(&str, Vec<Extent>); 6] = [
        ("an empty extent", vec![data(0, 0), data(0, size)]),
        ("an end beyond the disk", vec![data(0, size + 512)]),
        ("an overlap", vec![data(0, 2 * chunk), data(chunk, 3 * chunk)]),
        ("an overlap with zeros", vec![data(0, 2 * chunk), zero(2 * chunk - 512, 2 * chunk + 512)]),
        ("a descent", vec![data(2 * chunk, 2 * chunk), data(0, 2 * chunk)]),
        ("an overflow", vec![data(0, 512), data(u64::MAX, u64::MAX)]),
    ];
    let whole_only: [(&str, Vec<Extent>); 4] = [
        ("nothing", vec![]),
        ("a gap at the beginning", vec![data(512, size - 512)]),
        ("a gap in the middle", vec![data(0, chunk), zero(2 * chunk, 2 * chunk)]),
        ("a gap at the end", vec![data(0, size - 512)]),
    ];
    let parent = Some(full.point.as_str());
    for (what, extents) in both.iter().chain(&whole_only) {
        let disks = vec![Source::listing(&disk, extents.clone()).whole(0)];
        assert!(store.store("job=2", None, disks).is_err(), "{what} was taken");
        let disks = vec![Source::listing(&disk, extents.clone()).compared(0, None)];
        assert!(store.store("job=2", parent, disks).is_err(), "{what} was compared");
        assert_unpublished(store, "job=2", &points, what);
    }
    for (what, extents) in both {
        let disks = vec![Source::listing(&disk, extents).changes(0)];
        assert!(store.store("job=2", parent, disks).is_err(), "{what} was taken as changes");
        assert_unpublished(store, "job=2", &points, what);
    }
    store.check(&full.point, &[&disk]);
}

pub fn a_reader_that_answers_something_else_is_refused(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let disk = noise(4 * rig.chunk() as usize, 2);
    let full = store.full("job=1", &[&disk]);
    let size = disk.len() as u64;
    for lie in [Lie::Nothing, Lie::Short, Lie::Long, Lie::Twice, Lie::Elsewhere, Lie::Beyond, Lie::Extra] {
        for increment in [false, true] {
            let source = Source::listing(&disk, vec![data(0, size)]).lying(lie);
            let parent = increment.then_some(full.point.as_str());
            let disk = if increment { source.changes(0) } else { source.whole(0) };
            let result = store.store("job=2", parent, vec![disk]);
            assert!(result.is_err(), "{lie:?} was believed");
            assert_unpublished(store, "job=2", std::slice::from_ref(&full.point), &format!("{lie:?}"));
        }
    }
    store.check(&full.point, &[&disk]);
    // Chunks apart, so that they are asked for one by one; one comes twice and another one never.
    let chunk = rig.chunk();
    let changes = [0, 2].map(|number| data(number * chunk, chunk)).to_vec();
    let source = Source::listing(&disk, changes).lying(Lie::Again);
    let reads = source.reads.clone();
    let result = store.store("job=2", Some(&full.point), vec![source.changes(0)]);
    if reads.count() > 1 {
        assert!(result.is_err(), "one answer was taken for another");
        assert_unpublished(store, "job=2", std::slice::from_ref(&full.point), "Again");
    }
}

/// A disk that cannot tell what it has.
struct Dumb;

impl DiskReader for Dumb {
    fn size_bytes(&self) -> u64 {
        4096
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        Err(injected())
    }

    fn read(
        &mut self,
        _: &mut dyn Iterator<Item = (u64, u32)>,
        _: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        panic!("it was read although its extents are unknown")
    }
}

pub fn a_read_error_at_any_point_publishes_nothing_and_leaves_nothing(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let chunk = rig.chunk() as usize;
    let disk = noise(chunk, 3);
    let full = store.full("job=1", &[&disk]);
    store.sweep();
    let before = length_of(rig);
    let (first, second) = (noise((1 << 20) + chunk, 4), noise((1 << 20) + 512, 5));
    let counting = Source::of(&second);
    let reads = counting.reads.clone();
    let counted = store.store("job=2", None, vec![Source::of(&first).whole(0), counting.whole(1)]).unwrap();
    store.forget(&[&counted.point]);
    let last = reads.count() - 1;
    for number in [0, 1.min(last), last / 2, last] {
        let disks = vec![Source::of(&first).whole(0), Source::of(&second).failing(number).whole(1)];
        let error = store.store("job=3", None, disks).unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (Kind::Retry, "injected"), "at answer {number}");
        assert_unpublished(store, "job=3", std::slice::from_ref(&full.point), "a failed read");
    }
    let dumb = SourceDisk { id: 1, reader: Box::new(Dumb), change: Change::Whole, marked: None };
    let error = store.store("job=3", None, vec![Source::of(&first).whole(0), dumb]).unwrap_err();
    assert_eq!((error.kind, error.reason.as_str()), (Kind::Retry, "injected"));
    let source = Source::listing(&disk, vec![data(0, chunk as u64)]).failing(0).changes(0);
    assert_eq!(store.store("job=3", Some(&full.point), vec![source]).unwrap_err().kind, Kind::Retry);
    assert_unpublished(store, "job=3", std::slice::from_ref(&full.point), "a failed increment");
    drop(owner);

    let again = rig.open();
    let store = series(&*again);
    store.sweep();
    let after = length_of(rig);
    assert!(after <= before + SLACK, "the store grew from {before} to {after} bytes by what failed");
    store.check(&full.point, &[&disk]);
    let stored = store.full("job=3", &[&first, &second]);
    store.check(&stored.point, &[&first, &second]);
}

pub fn a_cancel_before_the_store_reads_nothing(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let cancel = Cancel::default();
    cancel.cancel();
    let source = Source::of(&noise(4096, 6));
    let reads = source.reads.clone();
    let error = store.store_with("job=1", None, vec![source.whole(0)], &Progress::default(), &cancel).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
    assert_eq!(reads.count(), 0);
    assert_unpublished(store, "job=1", &[], "a cancelled store");
}

pub fn a_cancel_in_the_middle_ends_the_store_soon_and_publishes_nothing(rig: &dyn Rig) {
    const SOON: u64 = 64 << 20;
    let store = rig.open();
    let store = series(&*store);
    let small = noise(2 * rig.chunk() as usize, 7);
    let full = store.full("job=1", &[&small]);
    let cancel = Cancel::default();
    let (reads, at) = (Reads::default(), Arc::new(AtomicU64::new(0)));
    let before = Box::new({
        let (cancel, reads, at) = (cancel.clone(), reads.clone(), Arc::clone(&at));
        move |number| {
            if number == 5 {
                at.store(reads.bytes(), Ordering::Relaxed);
                cancel.cancel();
            }
            Ok(())
        }
    });
    let reader = Box::new(Endless { size: 1 << 30, reads: reads.clone(), before });
    let disks = vec![SourceDisk { id: 0, reader, change: Change::Whole, marked: None }];
    let error = store.store_with("job=2", None, disks, &Progress::default(), &cancel).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled, "{error}");
    let later = reads.bytes() - at.load(Ordering::Relaxed);
    assert!(later <= SOON, "{later} bytes were read after the cancel");
    assert_unpublished(store, "job=2", std::slice::from_ref(&full.point), "a cancelled store");

    // With the first of few bytes: a cancel that comes too late changes nothing, one that is obeyed leaves nothing.
    let cancel = Cancel::default();
    let source = Source::of(&small).cancelling(0, &cancel).whole(0);
    let mut points = vec![full.point.clone()];
    match store.store_with("job=2", None, vec![source], &Progress::default(), &cancel) {
        Ok(stored) => {
            store.check(&stored.point, &[&small]);
            points.push(stored.point);
            points.sort();
            assert_eq!(store.ids(), points);
        }
        Err(error) => {
            assert_eq!(error.kind, Kind::Cancelled, "{error}");
            assert_unpublished(store, "job=2", &points, "a cancelled store");
        }
    }
    store.sweep();
    store.check(&full.point, &[&small]);
    assert_eq!(store.datastore.find(SERIES, "job=1").unwrap().map(|found| found.point), Some(full.point));
}

pub fn a_store_of_no_disk_or_of_one_disk_twice_does_no_harm(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let disk = noise(4096, 8);
    let result = store.store("job=1", None, vec![Source::of(&disk).whole(0), Source::of(&disk).whole(0)]);
    assert_eq!(result.unwrap_err().kind, Kind::Permanent);
    assert_unpublished(store, "job=1", &[], "a disk given twice");
    // Whether a point of no disk makes sense is the caller's matter.
    if let Ok(empty) = store.store("job=2", None, vec![]) {
        assert_eq!(empty.disks, []);
        assert_eq!(store.datastore.document(SERIES, &empty.point).unwrap(), b"<VM/>");
    }
    let full = store.full("job=3", &[&disk]);
    store.check(&full.point, &[&disk]);
}
