//! Stores that are not sound any more.

use std::os::unix::fs::FileExt;
use std::path::Path;

use drivers::Kind;
use drivers::datastore::{Damage, Depth};

use super::verifying::{interrupted, two_points};
use super::{Rig, Series, Source, assert_equal, series};

/// The file of the store that surely holds bytes of disks.
fn longest(rig: &dyn Rig) -> std::path::PathBuf {
    rig.files().into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

/// Changes one bit.
fn flip(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
    // Files that are read-only by their mode are ours to change all the same.
    let file = file.unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn flip_in_the_middle(rig: &dyn Rig) {
    let path = longest(rig);
    let length = std::fs::metadata(&path).unwrap().len();
    flip(&path, length / 2);
}

/// The points that cannot be given back whole; what can be is compared.
fn broken(store: Series<'_>, points: &[String], disks: &[Vec<u8>]) -> Vec<String> {
    let mut broken = Vec::new();
    for (point, bytes) in points.iter().zip(disks) {
        match store.restore(point, 0, bytes.len()) {
            Ok(restored) => assert_equal(&restored, bytes, "a disk of a damaged store"),
            Err(error) => {
                assert!(matches!(error.kind, Kind::Corrupt | Kind::Missing), "{error} ({:?})", error.kind);
                broken.push(point.clone());
            }
        }
    }
    broken.sort();
    broken
}

/// The points that damages name.
fn named(damages: &[Damage]) -> Vec<String> {
    assert!(damages.iter().all(|damage| !damage.points.is_empty() && !damage.what.is_empty()), "{damages:?}");
    let mut points: Vec<String> = damages.iter().flat_map(|damage| damage.points.clone()).collect();
    points.sort();
    points.dedup();
    points
}

pub fn a_flipped_byte_is_found_and_the_rest_is_restored_without_it(rig: &dyn Rig) {
    let owner = rig.open();
    let (points, disks) = two_points(rig, series(&*owner));
    drop(owner);
    flip_in_the_middle(rig);
    let owner = rig.open();
    let store = series(&*owner);
    let verified = store.verify(&points, Depth::Deep).unwrap();
    let broken = broken(store, &points, &disks);
    assert!(!broken.is_empty(), "no restore met the damage");
    assert_eq!(named(&verified.damages), broken);
    assert!(verified.damages.iter().any(|damage| damage.disk == Some(0)), "{verified:?}");

    for (point, bytes) in points.iter().zip(&disks) {
        let (found, restored) = store.restore_with(point, 0, bytes.len(), true, None).unwrap();
        assert_eq!(restored.damages.is_empty(), !broken.contains(point), "{restored:?}");
        let mut expected = bytes.clone();
        let mut at = 0;
        for damage in &restored.damages {
            assert_eq!((damage.disk, damage.points.contains(point)), (Some(0), true), "{damage:?}");
            assert!(damage.offset >= at && damage.length > 0, "{:?}", restored.damages);
            at = damage.offset + damage.length;
            assert!(at <= bytes.len() as u64, "{damage:?}");
            expected[damage.offset as usize..at as usize].fill(0);
        }
        let lost: u64 = restored.damages.iter().map(|damage| damage.length).sum();
        assert!(lost <= bytes.len() as u64 / 2, "{lost} bytes are lost by one: {:?}", restored.damages);
        assert_equal(&found, &expected, "the rest of the disk");
        // A disk at hand has what the datastore lost.
        let current = Some(Source::of(bytes));
        let (found, _) = store.restore_with(point, 0, bytes.len(), true, current).unwrap();
        for (range, (found, wanted)) in found.iter().zip(bytes).enumerate() {
            assert!(found == wanted || *found == 0, "byte {range} is neither right nor left out");
        }
    }
}

pub fn a_file_that_is_gone_or_cut_is_found_by_a_quick_look(rig: &dyn Rig) {
    let owner = rig.open();
    let (points, disks) = two_points(rig, series(&*owner));
    drop(owner);
    let path = longest(rig);
    let whole = std::fs::read(&path).unwrap();
    for cut in [true, false] {
        if cut {
            std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        let owner = rig.open();
        let store = series(&*owner);
        let quick = store.verify(&points, Depth::Quick).unwrap();
        let broken = broken(store, &points, &disks);
        let named = named(&quick.damages);
        assert!(!named.is_empty(), "nothing was found, cut: {cut}");
        assert!(broken.iter().all(|point| named.contains(point)), "{broken:?} are broken, {named:?} are named");
        let deep = store.verify(&points, Depth::Deep).unwrap();
        assert!(broken.iter().all(|point| self::named(&deep.damages).contains(point)), "{deep:?}");
    }
    std::fs::write(&path, &whole).unwrap();
    let owner = rig.open();
    assert_eq!(series(&*owner).verify(&points, Depth::Deep).unwrap().damages, []);
}

pub fn a_damaged_parent_is_refused_or_the_increment_is_right(rig: &dyn Rig) {
    let owner = rig.open();
    let (points, disks) = two_points(rig, series(&*owner));
    drop(owner);
    let path = longest(rig);
    std::fs::remove_file(&path).unwrap();
    let owner = rig.open();
    let store = series(&*owner);
    let parents: Vec<_> = points.iter().zip(&disks).collect();
    for (number, (parent, old)) in parents.into_iter().enumerate() {
        let mut new = old.clone();
        new[..512].fill(1);
        let source = Source::since(old, &new);
        let reads = source.reads.clone();
        let job = format!("job={}", 10 + number);
        match store.store(&job, Some(parent), vec![source.changes(0)]) {
            Ok(stored) => store.check(&stored.point, &[&new]),
            Err(error) => {
                assert!(matches!(error.kind, Kind::Missing | Kind::Corrupt), "{error} ({:?})", error.kind);
                assert_eq!(reads.count(), 0, "it was read before it was refused");
            }
        }
    }
    // A full one is always possible.
    let full = store.full("job=20", &[&disks[1]]);
    store.check(&full.point, &[&disks[1]]);
    assert_eq!(store.verify(&[full.point], Depth::Deep).unwrap().damages, []);
}

pub fn no_flipped_byte_in_any_file_ever_gives_wrong_bytes(rig: &dyn Rig) {
    const MOST_FILES: usize = 8;
    let owner = rig.open();
    let (points, disks) = two_points(rig, series(&*owner));
    drop(owner);
    let files = rig.files();
    let step = files.len().div_ceil(MOST_FILES);
    for (number, path) in files.iter().step_by(step).enumerate() {
        let length = std::fs::metadata(path).unwrap().len();
        if length == 0 {
            continue;
        }
        let offset = [0, length / 3, length - 1, length / 2][number % 4];
        let what = format!("byte {offset} of {}", path.display());
        flip(path, offset);
        let owner = rig.open();
        let store = series(&*owner);
        let verified = store.verify(&points, Depth::Deep);
        for (point, bytes) in points.iter().zip(&disks) {
            let restored = store.restore(point, 0, bytes.len());
            let document = store.datastore.document(store.name, point);
            if let Ok(restored) = &restored {
                assert_equal(restored, bytes, &format!("the disk after {what} was flipped"));
            }
            if let Ok(document) = &document {
                assert_eq!(document, b"<VM/>", "after {what} was flipped");
            }
            if let (Ok(verified), true) = (&verified, restored.is_err() || document.is_err()) {
                let named = named(&verified.damages);
                assert!(named.contains(point), "{what} broke {point}, and only {named:?} are told");
            }
        }
        drop(owner);
        flip(path, offset);
    }
    let owner = rig.open();
    let store = series(&*owner);
    assert_eq!(broken(store, &points, &disks), [""; 0]);
    assert_eq!(store.verify(&points, Depth::Deep).unwrap().damages, []);
}

pub fn damages_found_before_an_interruption_are_not_lost(rig: &dyn Rig) {
    let owner = rig.open();
    let (points, _) = two_points(rig, series(&*owner));
    drop(owner);
    flip_in_the_middle(rig);
    let owner = rig.open();
    let store = series(&*owner);
    let whole = store.verify(&points, Depth::Deep).unwrap();
    assert!(!whole.damages.is_empty());
    for times in 1..4 {
        let (_, verified) = interrupted(store, &points, Depth::Deep, times);
        assert_eq!(named(&verified.damages), named(&whole.damages), "after {times} interruptions");
        assert_eq!(verified.damages.len(), whole.damages.len());
    }
}
