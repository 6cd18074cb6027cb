//! Forgetting, and what is left by operations that were killed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use drivers::{BackupDatastore, Cancel, Progress};

use super::disk::noise;
use super::{Rig, SERIES, SLACK, Series, Source, length_of, series};

/// A full point and increments on it, each with a chunk of its own, and one more full.
fn chain(store: Series<'_>, chunk: usize, length: usize) -> Vec<(String, Vec<u8>)> {
    let mut disk = noise(16 * chunk + 512, 1);
    let mut points = vec![(store.full("job=0", &[&disk]).point, disk.clone())];
    for number in 1..length {
        let old = disk.clone();
        let at = (number * 5 % 16) * chunk;
        disk[at..at + chunk].copy_from_slice(&noise(chunk, 100 + number as u64));
        disk[(number * 3 % 16) * chunk..][..512].fill(0);
        let parent = points.last().unwrap().0.clone();
        points.push((store.increment(&format!("job={number}"), &parent, &[(&old, &disk)]).point, disk.clone()));
    }
    points
}

fn check_all(store: Series<'_>, points: &[(String, Vec<u8>)]) {
    let mut ids: Vec<String> = points.iter().map(|(point, _)| point.clone()).collect();
    ids.sort();
    assert_eq!(store.ids(), ids);
    for (point, bytes) in points {
        store.check(point, &[bytes]);
    }
}

pub fn any_points_can_be_forgotten_in_any_order_and_the_others_stay_equal(rig: &dyn Rig) {
    let owner = rig.open();
    // First, last, from the middle, several at once in no order; each in a series of its own.
    let orders: [&[&[usize]]; 4] = [&[&[0], &[0], &[0]], &[&[4], &[3], &[2]], &[&[2], &[1, 0]], &[&[3, 0, 2]]];
    for (number, order) in orders.into_iter().enumerate() {
        let name = format!("{number}");
        let store = Series { datastore: &*owner, name: &name };
        let mut points = chain(store, rig.chunk() as usize, 5);
        for which in order {
            let gone: Vec<String> = which.iter().map(|at| points[*at].0.clone()).collect();
            store.forget(&gone.iter().map(String::as_str).collect::<Vec<_>>());
            points.retain(|(point, _)| !gone.contains(point));
            check_all(store, &points);
        }
        // What is left can still be a parent.
        let (parent, disk) = points.last().unwrap();
        let mut new = disk.clone();
        new[..512].fill(5);
        let increment = store.increment("job=99", parent, &[(disk, &new)]);
        store.check(&increment.point, &[&new]);
    }
}

pub fn forgetting_repeated_and_of_unknown_points_is_harmless(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let mut points = chain(store, rig.chunk() as usize, 3);
    let (gone, _) = points.remove(1);
    let unknown = "f".repeat(64);
    store.forget(&[&gone, &unknown, &gone, "nonsense"]);
    check_all(store, &points);
    assert_eq!(store.forget(&[&gone, &unknown]).freed_bytes, 0);
    assert_eq!(store.forget(&[]).freed_bytes, 0);
    check_all(store, &points);
    assert_eq!(owner.find(SERIES, "job=1").unwrap(), None);
}

pub fn space_of_forgotten_points_comes_back(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let kept = noise(4096, 2);
    let full = store.full("job=1", &[&kept]);
    store.sweep();
    let before = length_of(rig);
    let big = store.full("job=2", &[&noise(4 << 20, 3)]);
    let forgotten = store.forget(&[&big.point]);
    assert!((4 << 20..5 << 20).contains(&forgotten.freed_bytes), "{forgotten:?}");
    let after = length_of(rig);
    assert!(after <= before + 64 * 1024, "{before} bytes became {after}");
    store.check(&full.point, &[&kept]);
}

pub fn what_forgetting_resized_is_told(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let points = chain(store, rig.chunk() as usize, 4);
    let stored = |point: &str| owner.inspect(SERIES, point).unwrap().stored_bytes;
    let mut known: Vec<(String, u64)> = points.iter().map(|(point, _)| (point.clone(), stored(point))).collect();
    for at in [1, 0] {
        let (gone, _) = known.remove(at);
        let forgotten = store.forget(&[&gone]);
        for (point, bytes) in forgotten.resized {
            let entry = known.iter_mut().find(|(known, _)| *known == point);
            entry.unwrap_or_else(|| panic!("{point} was resized and is no point")).1 = bytes;
        }
        for (point, bytes) in &known {
            assert_eq!(stored(point), *bytes, "{point} has another size than was told");
        }
    }
}

pub fn all_points_can_be_forgotten_and_the_series_goes_on(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let points = chain(store, rig.chunk() as usize, 3);
    let all: Vec<&str> = points.iter().map(|(point, _)| point.as_str()).collect();
    store.forget(&all);
    check_all(store, &[]);
    store.sweep();
    check_all(series(&*rig.open()), &[]);
    // Job names are unique for ever, so these are others.
    let disk = noise(rig.chunk() as usize, 4);
    let again = store.full("job=10", &[&disk]);
    check_all(store, &[(again.point, disk)]);
}

pub fn other_series_are_untouched_by_forgetting(rig: &dyn Rig) {
    let owner = rig.open();
    let (one, two) = (series(&*owner), Series { datastore: &*owner, name: "8" });
    let (points, others) = (chain(one, rig.chunk() as usize, 3), chain(two, rig.chunk() as usize, 3));
    let facts = owner.points("8").unwrap();
    one.forget(&points.iter().map(|(point, _)| point.as_str()).collect::<Vec<_>>());
    one.sweep();
    check_all(one, &[]);
    check_all(two, &others);
    assert_eq!(owner.points("8").unwrap(), facts);
    // A point of this series is not forgotten through another one.
    two.forget(&[]);
    one.forget(&[&others[0].0]);
    check_all(two, &others);
}

/// Copies a directory as it is at this instant; what vanishes meanwhile is left out.
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    // It fails for what vanished; everything else it copies.
    Command::new("cp").arg("-a").arg(from.join(".")).arg(to).output().unwrap();
}

/// Puts a directory back as it was when it was copied.
fn put_back(copy: &Path, place: &Path) {
    for entry in std::fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    copy_directory(copy, place);
}

pub fn what_a_killed_store_left_is_swept(rig: &dyn Rig) {
    let chunk = rig.chunk() as usize;
    let owner = rig.open();
    let points = chain(series(&*owner), chunk, 3);
    series(&*owner).sweep();
    drop(owner);
    let before = length_of(rig);
    let (old, mut new) = (points[2].1.clone(), points[2].1.clone());
    new[..12 * chunk].copy_from_slice(&noise(12 * chunk, 77));
    for increment in [false, true] {
        // The directory as a power cut would leave it, taken while the store reads.
        let copy = tempfile::tempdir().unwrap();
        let (from, to) = (rig.place(), copy.path().to_owned());
        let source = if increment { Source::since(&old, &new) } else { Source::of(&noise(4 << 20, 5)) };
        let mut taken = false;
        let source = source.before(move |_| {
            if !taken {
                taken = true;
                copy_directory(&from, &to);
            }
            Ok(())
        });
        let owner = rig.open();
        // A disk before it, so that something was written already.
        let first = Source::of(&noise(4 << 20, 6)).whole(1);
        let disks = vec![first, if increment { source.changes(0) } else { source.whole(0) }];
        series(&*owner).store("job=50", Some(&points[2].0), disks).unwrap();
        drop(owner);
        put_back(copy.path(), &rig.place());

        let owner = rig.open();
        let store = series(&*owner);
        assert_eq!(owner.find(SERIES, "job=50").unwrap(), None);
        check_all(store, &points);
        store.sweep();
        let after = length_of(rig);
        assert!(after <= before + SLACK, "{before} bytes became {after}");
        check_all(store, &points);
        let stored = store.increment("job=50", &points[2].0, &[(&old, &new)]);
        store.check(&stored.point, &[&new]);
        store.forget(&[&stored.point]);
        check_all(store, &points);
    }
}

/// States of the directory at some of the changes that `forget` makes, as a kill would leave it there; the directory is as
/// before at the end.
fn killed_states(rig: &dyn Rig, forget: &dyn Fn(&dyn BackupDatastore), copies: &Path) -> Vec<PathBuf> {
    const STATES: usize = 8;
    let before = copies.join("before");
    copy_directory(&rig.place(), &before);
    let changes = Arc::new(Mutex::new(0_usize));
    let (count, place) = (Arc::clone(&changes), rig.place());
    let counting = rig.open_gated(Arc::new(move |_: &Path| {
        *count.lock().unwrap() += 1;
        Ok(())
    }));
    // Without a gate only the kill before the first change can be made.
    let Some(counting) = counting else { return vec![before] };
    forget(&*counting);
    drop(counting);
    put_back(&before, &place);
    let all = std::mem::take(&mut *changes.lock().unwrap());
    let wanted: BTreeSet<usize> = (0..STATES).map(|state| state * all / STATES).collect();
    let states: Vec<PathBuf> = wanted.iter().map(|at| copies.join(format!("{at}"))).collect();
    let to = copies.to_owned();
    // The one that changes waits meanwhile, so what is copied did exist. A copy of a directory that goes on changing mixes
    // folders from before a change with others from behind it, which no kill leaves.
    let copying = rig.open_gated(Arc::new(move |_: &Path| {
        let mut at = changes.lock().unwrap();
        if wanted.contains(&at) {
            copy_directory(&place, &to.join(format!("{at}")));
        }
        *at += 1;
        Ok(())
    }));
    forget(&*copying.unwrap());
    states.into_iter().filter(|state| state.exists()).collect()
}

pub fn a_killed_forget_is_finished_or_has_not_happened(rig: &dyn Rig) {
    let chunk = rig.chunk() as usize;
    let owner = rig.open();
    let points = chain(series(&*owner), chunk, 6);
    drop(owner);
    let copies = tempfile::tempdir().unwrap();
    let gone = [points[0].0.clone(), points[2].0.clone()];
    let forget = |owner: &dyn BackupDatastore| {
        owner.forget(SERIES, &gone, &Progress::default(), &Cancel::default()).unwrap();
    };
    for state in killed_states(rig, &forget, copies.path()) {
        put_back(&state, &rig.place());
        let owner = rig.open();
        let store = series(&*owner);
        store.sweep();
        let ids = store.ids();
        for (point, bytes) in &points {
            let is_kept = !gone.contains(point);
            assert!(!is_kept || ids.contains(point), "{point} is gone");
            if ids.contains(point) {
                store.check(point, &[bytes]);
            }
        }
        forget(&*owner);
        let kept: Vec<_> = points.iter().filter(|(point, _)| !gone.contains(point)).cloned().collect();
        check_all(store, &kept);
    }
}
