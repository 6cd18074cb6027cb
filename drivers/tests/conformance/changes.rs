//! Increments and comparisons.

use drivers::Kind;
use drivers::datastore::SourceDisk;

use super::disk::{data, differences, invert, noise, solid, zero};
use super::{Rig, SERIES, Source, assert_equal, series};

pub fn an_increment_reads_only_what_changed_and_is_complete(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk();
    let old = noise(32 * chunk as usize + 512, 1);
    let full = store.full("job=1", &[&old]);
    let mut new = old.clone();
    new[5 * chunk as usize + 100] ^= 1;
    new[9 * chunk as usize - 10..9 * chunk as usize + 10].fill(7);
    new[20 * chunk as usize..23 * chunk as usize].fill(0);
    *new.last_mut().unwrap() ^= 1;
    let source = Source::since(&old, &new);
    let reads = source.reads.clone();
    let increment = store.store("job=2", Some(&full.point), vec![source.changes(0)]).unwrap();
    let touched = [data(5 * chunk, 1), data(8 * chunk, 2 * chunk), data(32 * chunk, 512)];
    reads.assert_within(&touched, chunk, new.len() as u64);
    assert_eq!(increment.read_bytes, reads.bytes());
    assert!(increment.stored_bytes < full.stored_bytes / 2, "{increment:?} on {full:?}");
    store.check(&full.point, &[&old]);
    store.check(&increment.point, &[&new]);
    store.forget(&[&full.point]);
    store.check(&increment.point, &[&new]);
}

pub fn an_increment_without_a_change_reads_nothing(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let disk = noise(9 * rig.chunk() as usize, 2);
    let full = store.full("job=1", &[&disk]);
    let increment = store.increment("job=2", &full.point, &[(&disk, &disk)]);
    assert_eq!(increment.read_bytes, 0);
    assert!(increment.point != full.point);
    store.forget(&[&full.point]);
    store.check(&increment.point, &[&disk]);
}

pub fn an_increment_may_add_leave_out_and_renew_disks(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk() as usize;
    let old = [noise(3 * chunk, 3), noise(2 * chunk + 512, 4), noise(chunk, 5)];
    let full = store.full("job=1", &[&old[0], &old[1], &old[2]]);
    let mut changed = old[0].clone();
    changed[chunk..chunk + 512].fill(1);
    let (longer, added) = (noise(4 * chunk, 6), noise(1024, 7));
    let disks: Vec<SourceDisk> =
        vec![Source::since(&old[0], &changed).changes(0), Source::of(&longer).whole(2), Source::of(&added).whole(9)];
    let increment = store.store("job=2", Some(&full.point), disks).unwrap();
    let told: Vec<_> = increment.disks.iter().map(|disk| disk.id).collect();
    assert_eq!(told, [0, 2, 9]);
    store.forget(&[&full.point]);
    for (id, bytes) in [(0, &changed), (2, &longer), (9, &added)] {
        assert_equal(&store.restore(&increment.point, id, bytes.len()).unwrap(), bytes, &format!("disk {id}"));
    }
    assert_eq!(store.restore(&increment.point, 1, old[1].len()).unwrap_err().kind, Kind::Missing);
}

pub fn increments_grow_from_any_point_that_is_there(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk() as usize;
    let mut states = vec![noise(8 * chunk, 8)];
    let mut points = vec![store.full("job=0", &[&states[0]]).point];
    // Parents: the full, the full again, the second, the one before the last.
    for (number, parent) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
        let mut state = states[parent].clone();
        state[number * chunk..(number + 1) * chunk].fill(if number == 3 { 0 } else { number as u8 });
        let job = format!("job={number}");
        points.push(store.increment(&job, &points[parent], &[(&states[parent], &state)]).point);
        states.push(state);
    }
    for (point, state) in points.iter().zip(&states) {
        store.check(point, &[state]);
    }
}

pub fn a_parent_that_does_not_fit_is_refused_before_anything_is_read(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk() as usize;
    let disk = noise(4 * chunk, 9);
    let full = store.full("job=1", &[&disk]);
    let other = super::Series { datastore: store.datastore, name: "8" };
    let foreign = other.full("job=1", &[&disk]);
    let (longer, shorter) = (noise(4 * chunk + 512, 9), noise(4 * chunk - 512, 9));
    let nothing = "0".repeat(64);
    let cases: [(&str, Option<&str>, u32, &[u8]); 8] = [
        ("no parent", None, 0, &disk),
        ("a parent that never was", Some(&nothing), 0, &disk),
        ("a parent whose name is no id", Some("../7"), 0, &disk),
        ("an empty name", Some(""), 0, &disk),
        ("a parent of another series", Some(&foreign.point), 0, &disk),
        ("a disk that grew", Some(&full.point), 0, &longer),
        ("a disk that shrank", Some(&full.point), 0, &shorter),
        ("a disk that the parent has not", Some(&full.point), 1, &disk),
    ];
    for (what, parent, id, bytes) in cases {
        // A point of the other series may by chance be called the same when its content is the same.
        if parent == Some(&foreign.point) && foreign.point == full.point {
            continue;
        }
        for compares in [false, true] {
            let fresh = || if compares { Source::of(bytes) } else { Source::listing(bytes, vec![data(0, 512)]) };
            let (source, good) = (fresh(), Source::since(&disk, &disk));
            let reads = source.reads.clone();
            let refused = if compares { source.compared(id, None) } else { source.changes(id) };
            // The fitting one comes first and must not be read either.
            let first = Source { extents: vec![data(0, 512)], ..good };
            let first_reads = first.reads.clone();
            let mut disks = vec![refused];
            if id != 0 {
                disks.insert(0, first.changes(0));
            }
            let outcome = store.store("job=2", parent, disks);
            if let (Ok(stored), true) = (&outcome, compares && what.starts_with("a disk that")) {
                // A driver may compare what both have; then the point must be right.
                store.check(&stored.point, &[bytes]);
                store.forget(&[stored.point.as_str()]);
                continue;
            }
            let error = outcome.unwrap_err();
            assert!(matches!(error.kind, Kind::Missing | Kind::Corrupt), "{what}: {error} ({:?})", error.kind);
            assert_eq!((reads.count(), first_reads.count()), (0, 0), "{what} was read");
            assert_eq!(store.datastore.find(SERIES, "job=2").unwrap(), None, "{what}");
        }
    }
    assert_eq!(store.ids(), std::slice::from_ref(&full.point));
    store.check(&full.point, &[&disk]);
}

pub fn a_comparison_reads_all_and_stores_only_what_differs(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk() as usize;
    let mut old = noise(40 * chunk + 512, 10);
    old[30 * chunk..34 * chunk].fill(0);
    let full = store.full("job=1", &[&old]);
    let mut new = old.clone();
    new[7 * chunk + 3] ^= 1;
    new[12 * chunk..13 * chunk].fill(0);
    new[31 * chunk..32 * chunk].fill(9);
    *new.last_mut().unwrap() ^= 1;
    let source = Source::of(&new);
    let reads = source.reads.clone();
    let listed = source.extents.clone();
    let compared = store.store("job=2", Some(&full.point), vec![source.compared(0, None)]).unwrap();
    let wanted: Vec<_> = listed.into_iter().filter(|extent| extent.content == drivers::Content::Data).collect();
    reads.assert_within(&wanted, rig.chunk(), new.len() as u64);
    assert_eq!(reads.bytes(), (new.len() - 4 * chunk) as u64);
    assert_eq!(compared.read_bytes, reads.bytes());
    let saved = compared.saved_bytes.unwrap();
    assert!((compared.read_bytes - 3 * rig.chunk()..compared.read_bytes).contains(&saved), "{compared:?}");
    assert!(compared.stored_bytes < full.stored_bytes / 2, "{compared:?} on {full:?}");
    // Without a record of changes there is nothing that it could have missed.
    assert_eq!(compared.unmarked_bytes, 0);
    store.check(&full.point, &[&old]);
    store.check(&compared.point, &[&new]);
    store.forget(&[&full.point]);
    store.check(&compared.point, &[&new]);
    let again = store.store("job=3", Some(&compared.point), vec![Source::of(&new).compared(0, Some(vec![]))]).unwrap();
    assert_eq!((again.saved_bytes, again.unmarked_bytes), (Some(again.read_bytes), 0));
    store.check(&again.point, &[&new]);
}

pub fn what_the_record_of_changes_did_not_list_is_counted_exactly(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk();
    let at = |number: u64| (number * chunk) as usize;
    let mut old = solid(at(20) + 1024, 11);
    old[at(15)..at(16)].fill(0);
    let full = store.full("job=1", &[&old, &old]);
    let mut new = old.clone();
    // Marked: chunks 1 and 2. Not marked: 5 and 6, 9 (becomes zero), 15 (was zero), and the short last one.
    invert(&mut new[at(1)..at(3)]);
    invert(&mut new[at(5)..at(7)]);
    new[at(9)..at(10)].fill(0);
    new[at(15)..at(16)].fill(0xff);
    invert(&mut new[at(20)..]);
    let marked = vec![data(chunk, 2 * chunk), zero(12 * chunk, chunk)];
    let disks = vec![Source::of(&new).compared(0, Some(marked)), Source::of(&old).compared(1, Some(vec![]))];
    let compared = store.store("job=2", Some(&full.point), disks).unwrap();
    assert_eq!(compared.unmarked_bytes, 4 * chunk + 1024);
    store.check(&compared.point, &[&new, &old]);

    let marked = Some(differences(&old, &new));
    let disks = vec![Source::of(&new).compared(0, marked), Source::of(&old).compared(1, None)];
    let told = store.store("job=3", Some(&full.point), disks).unwrap();
    assert_eq!(told.unmarked_bytes, 0);
    store.check(&told.point, &[&new, &old]);
}

pub fn one_byte_that_was_not_marked_is_noticed(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let chunk = rig.chunk();
    let old = noise(6 * chunk as usize, 12);
    let full = store.full("job=1", &[&old]);
    let mut new = old.clone();
    new[chunk as usize] ^= 1;
    new[4 * chunk as usize - 1] ^= 1;
    let disks = vec![Source::of(&new).compared(0, Some(vec![data(chunk, 512)]))];
    let compared = store.store("job=2", Some(&full.point), disks).unwrap();
    assert!((1..=chunk).contains(&compared.unmarked_bytes), "{compared:?}");
    store.check(&compared.point, &[&new]);
}
