//! What a datastore knows of its points, and what it says to names that mean nothing or too much.

use drivers::datastore::{Depth, PointFacts, RestoreRequest, StoreRequest, Stored};
use drivers::{BackupDatastore, Cancel, Kind, Progress};

use super::disk::noise;
use super::{Rig, SERIES, SLACK, Series, Source, TIME, Target, files_below, length_of, series};

/// What is known of a point later than its store.
fn lasting(stored: &Stored) -> Stored {
    Stored { unmarked_bytes: 0, ..stored.clone() }
}

pub fn what_was_stored_is_found_inspected_and_listed(rig: &dyn Rig) {
    let store = rig.open();
    let disk = noise(3 * rig.chunk() as usize, 1);
    let mut parent: Option<String> = None;
    let mut stored = Vec::new();
    let tags: [&[&str]; 3] = [&["one-7", "web server 2, größer"], &[], &["one-7"]];
    for (number, tags) in (1..).zip(tags) {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let (job, document) = (format!("job={number}"), format!("<VM><ID>{number}</ID></VM>"));
        let time = TIME + number;
        let request = StoreRequest {
            series: SERIES,
            tags: &tags,
            job: &job,
            time,
            parent: parent.as_deref(),
            document: document.as_bytes(),
        };
        let disks = match &parent {
            None => vec![Source::of(&disk).whole(4), Source::of(&disk).whole(1)],
            Some(_) => vec![Source::since(&disk, &disk).changes(4), Source::since(&disk, &disk).changes(1)],
        };
        let point = store.store(&request, disks, &Progress::default(), &Cancel::default()).unwrap();
        stored.push(PointFacts { parent: parent.clone(), job, tags, time, stored: lasting(&point) });
        parent = Some(point.point);
    }
    for store in [store, rig.open()] {
        for (facts, number) in stored.iter().zip(1..) {
            let point = &facts.stored.point;
            assert_eq!(lasting(&store.find(SERIES, &facts.job).unwrap().unwrap()), facts.stored);
            assert_eq!(lasting(&store.inspect(SERIES, point).unwrap()), facts.stored);
            let document = format!("<VM><ID>{number}</ID></VM>");
            assert_eq!(String::from_utf8(store.document(SERIES, point).unwrap()).unwrap(), document);
        }
        assert_eq!(store.points(SERIES).unwrap(), stored);
        assert_eq!(store.find(SERIES, "job=").unwrap(), None);
        assert_eq!(store.find(SERIES, "job=11").unwrap(), None);
        assert_eq!(store.find("8", "job=1").unwrap(), None);
    }
}

pub fn points_are_listed_oldest_first(rig: &dyn Rig) {
    let store = rig.open();
    let times = [TIME + 50, 0, TIME, 4_102_444_800, TIME - 1];
    for time in times {
        let job = format!("job={time}");
        let request = StoreRequest { series: SERIES, tags: &[], job: &job, time, parent: None, document: b"" };
        let disks = vec![Source::of(&noise(512, 1)).whole(0)];
        store.store(&request, disks, &Progress::default(), &Cancel::default()).unwrap();
    }
    let mut sorted = times;
    sorted.sort_unstable();
    let told: Vec<i64> = store.points(SERIES).unwrap().into_iter().map(|facts| facts.time).collect();
    assert_eq!(told, sorted);
}

pub fn a_clock_that_went_back_between_backups_does_no_harm(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let disk = noise(4 * rig.chunk() as usize, 10);
    let full = store.full("job=1", &[&disk]);
    let mut changed = disk.clone();
    changed[..512].fill(1);
    let time = TIME - 86_400;
    let parent = Some(full.point.as_str());
    let request = StoreRequest { series: SERIES, tags: &[], job: "job=2", time, parent, document: b"<VM/>" };
    let disks = vec![Source::since(&disk, &changed).changes(0)];
    let younger = owner.store(&request, disks, &Progress::default(), &Cancel::default()).unwrap();
    let told: Vec<_> = owner.points(SERIES).unwrap().into_iter().map(|facts| (facts.time, facts.parent)).collect();
    assert_eq!(told, [(time, Some(full.point.clone())), (TIME, None)]);
    store.check(&full.point, &[&disk]);
    store.forget(&[&full.point]);
    store.sweep();
    store.check(&younger.point, &[&changed]);
    let again = store.increment("job=3", &younger.point, &[(&changed, &disk)]);
    store.check(&again.point, &[&disk]);
}

pub fn a_parent_is_told_as_long_as_it_is_there(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let disk = noise(2 * rig.chunk() as usize, 2);
    let full = store.full("job=1", &[&disk]);
    let increment = store.increment("job=2", &full.point, &[(&disk, &disk)]);
    let parent = || {
        let points = rig.open().points(SERIES).unwrap();
        points.into_iter().find(|facts| facts.stored.point == increment.point).unwrap().parent
    };
    assert_eq!(parent(), Some(full.point.clone()));
    store.forget(&[&full.point]);
    assert_eq!(parent(), None);
}

pub fn storing_twice_under_one_job_gives_one_point(rig: &dyn Rig) {
    let store = rig.open();
    let store = series(&*store);
    let (first, second) = (noise(9000 / 512 * 512, 3), noise(4096, 4));
    let stored = store.full("job=1", &[&first]);
    assert_eq!(lasting(&store.full("job=1", &[&second])), lasting(&stored));
    let again = rig.open();
    assert_eq!(lasting(&series(&*again).full("job=1", &[&second])), lasting(&stored));
    assert_eq!(store.ids(), std::slice::from_ref(&stored.point));
    store.check(&stored.point, &[&first]);
    // Nor does a parent that is gone stand in the way of what is there.
    let disks = vec![Source::since(&first, &first).changes(0)];
    let again = store.store("job=1", Some(&"0".repeat(64)), disks).unwrap();
    assert_eq!(again.point, stored.point);
}

pub fn series_are_listed_sorted_and_apart(rig: &dyn Rig) {
    let store = rig.open();
    assert_eq!(store.series().unwrap(), [""; 0]);
    let names = ["job_3", "7", "10"];
    for name in names {
        Series { datastore: &*store, name }.full("job=1", &[name.as_bytes().repeat(512).as_slice()]);
    }
    assert_eq!(store.series().unwrap(), ["10", "7", "job_3"]);
    assert_eq!(rig.open().series().unwrap(), ["10", "7", "job_3"]);
    for name in names {
        let series = Series { datastore: &*store, name };
        assert_eq!(series.ids().len(), 1);
        let found = store.find(name, "job=1").unwrap().unwrap();
        series.check(&found.point, &[name.as_bytes().repeat(512).as_slice()]);
    }
}

/// Fails unless every way to ask for the point says that it is missing.
fn assert_missing(store: &dyn BackupDatastore, series: &str, point: &str, disk: u32) {
    let restore = |disk| {
        let request = RestoreRequest { series, point, disk, skip_bad: false, current: None };
        store.restore(request, &mut Target::new(4096), &Progress::default(), &Cancel::default())
    };
    let short = &point[..point.len().min(70)];
    assert_eq!(restore(disk).unwrap_err().kind, Kind::Missing, "restore {short:?}");
    assert_eq!(store.inspect(series, point).unwrap_err().kind, Kind::Missing, "inspect {short:?}");
    assert_eq!(store.document(series, point).unwrap_err().kind, Kind::Missing, "document {short:?}");
    for depth in [Depth::Quick, Depth::Deep] {
        let verified = Series { datastore: store, name: series }.verify(&[point.to_owned()], depth);
        assert_eq!(verified.unwrap_err().kind, Kind::Missing, "verify {short:?}");
    }
}

pub fn what_is_not_there_is_missing(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let unknown = "0".repeat(64);
    // Before there is anything.
    assert_missing(&*owner, SERIES, &unknown, 0);
    assert_eq!(owner.find(SERIES, "job=1").unwrap(), None);
    assert_eq!(owner.points(SERIES).unwrap(), []);
    store.sweep();
    assert_eq!(store.forget(&[&unknown]).freed_bytes, 0);
    let disk = noise(4096, 5);
    let full = store.full("job=1", &[&disk]);
    assert_missing(&*owner, SERIES, &unknown, 0);
    assert_missing(&*owner, "8", &full.point, 0);
    assert_eq!(owner.points("8").unwrap(), []);
    for disk in [1, u32::MAX] {
        assert_eq!(store.restore(&full.point, disk, 4096).unwrap_err().kind, Kind::Missing);
    }
    store.check(&full.point, &[&disk]);
}

pub fn hostile_series_names_are_refused_and_leave_no_file(rig: &dyn Rig) {
    let store = rig.open();
    let place = rig.place();
    let outside = || {
        let mut files = files_below(place.parent().unwrap());
        files.retain(|(path, _)| !path.starts_with(&place));
        files
    };
    let known = series(&*store).full("job=1", &[&noise(512, 6)]);
    let (before, inside) = (outside(), files_below(&place).len());
    let long = "x".repeat(200);
    let (long_group, long_member) = (format!("{long}/7"), format!("7/{long}"));
    let names = [
        "",
        ".",
        "..",
        "../x",
        "/x",
        "/",
        "a/",
        "a//b",
        "a/b/c",
        "7/../8",
        "a/..",
        "a/.",
        "./a",
        ".a/b",
        "a/.b",
        "a\\b",
        ".lease",
        ".new-7",
        "7+",
        "+7",
        "a+b",
        "a+b/c",
        &long,
        &long_group,
        &long_member,
        "a\0b",
        "a/\0",
        "a\nb",
        "a/b\n",
        "ä",
        "a/ä",
    ];
    for name in names {
        let hostile = Series { datastore: &*store, name };
        let refused = |kind: Kind| assert_eq!(kind, Kind::Permanent, "{name:?}");
        refused(hostile.store("job=1", None, vec![Source::of(&noise(512, 6)).whole(0)]).unwrap_err().kind);
        refused(store.find(name, "job=1").unwrap_err().kind);
        refused(store.inspect(name, &known.point).unwrap_err().kind);
        refused(store.document(name, &known.point).unwrap_err().kind);
        refused(store.points(name).unwrap_err().kind);
        refused(hostile.restore(&known.point, 0, 512).unwrap_err().kind);
        refused(hostile.verify(std::slice::from_ref(&known.point), Depth::Deep).unwrap_err().kind);
        refused(store.forget(name, &[], &Progress::default(), &Cancel::default()).unwrap_err().kind);
        refused(store.sweep(name, &Progress::default()).unwrap_err().kind);
    }
    assert_eq!(outside(), before);
    assert_eq!(files_below(&place).len(), inside, "a refused name left files");
    assert_eq!(store.series().unwrap(), [SERIES]);
}

pub fn hostile_point_ids_are_missing(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let disk = noise(4096, 7);
    let full = store.full("job=1", &[&disk]);
    let short = full.point[..8].to_owned();
    let slash = format!("{}/", full.point);
    let around = format!("../{SERIES}/{}", full.point);
    let (dots, long) = (format!("./{}", full.point), "0".repeat(100_000));
    let ids = [
        "",
        ".",
        "..",
        "latest",
        "a\0b",
        "ä",
        "*",
        "../../../etc/passwd",
        "/etc/passwd",
        &slash,
        &around,
        &dots,
        &long,
    ];
    for id in ids.into_iter().chain([short.as_str()]) {
        assert_missing(&*owner, SERIES, id, 0);
    }
    let forgotten: Vec<&str> = ids.into_iter().chain([short.as_str()]).collect();
    assert_eq!(store.forget(&forgotten).freed_bytes, 0);
    store.check(&full.point, &[&disk]);
}

pub fn space_is_told_truly(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    store.full("job=1", &[&noise(512, 8)]);
    let before = rig.open().capacity().unwrap();
    assert!(before.total_bytes >= before.free_bytes && before.free_bytes > 0, "{before:?}");
    let length = length_of(rig);
    let stored = store.full("job=2", &[&noise(4 << 20, 9)]);
    assert!((4 << 20..5 << 20).contains(&stored.stored_bytes), "{stored:?}");
    let grown = length_of(rig) - length;
    assert!(grown.abs_diff(stored.stored_bytes) <= 256 << 10, "{grown} bytes more, told are {}", stored.stored_bytes);
    let after = rig.open().capacity().unwrap();
    let used = after.used_bytes - before.used_bytes;
    assert!((4 << 20..5 << 20).contains(&used), "{before:?} became {after:?}");
    store.forget(&[&stored.point]);
    assert!(rig.open().capacity().unwrap().used_bytes < before.used_bytes + (1 << 20));
    assert!(length_of(rig) < length + SLACK * 4);
}

pub fn a_probe_says_yes_and_leaves_all_as_it_was(rig: &dyn Rig) {
    let owner = rig.open();
    owner.probe().unwrap();
    let store = series(&*owner);
    let disk = noise(512, 8);
    let full = store.full("job=1", &[&disk]);
    let before = files_below(&rig.place());
    rig.open().probe().unwrap();
    assert_eq!(files_below(&rig.place()), before);
    store.check(&full.point, &[&disk]);
}
