//! Series in groups beside each other and beside those without a group. What holds for one member alone is in the other
//! themes, which are all played in a group as well ([`super::grouped`]).

use drivers::datastore::Depth;
use drivers::{Cancel, Kind, Progress};

use super::disk::noise;
use super::{Rig, SLACK, Series, Source, patiently};

/// Names that a careless driver takes for each other, or for files of its own.
fn names() -> Vec<String> {
    let long = "x".repeat(100);
    let mut names: Vec<String> = [
        "g",
        "g/1",
        "g/2",
        "g/g",
        "h/1",
        "1",
        "g-1",
        "g-/1",
        "g/-1",
        "1/g",
        "g/config",
        "g/data",
        "g/locks",
        "g/shared",
        "shared/1",
        "g/switch.json",
        "g/manifest.json",
        "g/1.part",
    ]
    .map(str::to_owned)
    .into();
    // Ids of points.
    names.extend([16, 64].map(|digits| format!("g/{}", "0".repeat(digits))));
    names.extend([long.clone(), format!("{long}/{long}"), format!("{long}/1")]);
    names.sort();
    names
}

pub fn members_of_groups_and_others_are_apart_whatever_they_are_called(rig: &dyn Rig) {
    let owner = rig.open();
    let names = names();
    let content = |name: &str| noise(4096, name.bytes().fold(7, |sum, byte| sum * 31 % 65_521 + u64::from(byte)));
    let mut points = Vec::new();
    for name in &names {
        let stored = Series { datastore: &*owner, name }.full("job=1", &[&content(name)]);
        points.push((name.as_str(), stored.point));
    }
    assert_eq!(rig.open().series().unwrap(), names);
    assert_eq!(owner.series().unwrap(), names);
    for (name, point) in &points {
        let series = Series { datastore: &*owner, name };
        assert_eq!(series.ids(), std::slice::from_ref(point), "{name}");
        assert_eq!(owner.find(name, "job=1").unwrap().unwrap().point, *point);
        series.check(point, &[&content(name)]);
    }
    // One after the other they are swept and forgotten, and the others stay.
    while let Some((name, point)) = points.pop() {
        let series = Series { datastore: &*owner, name };
        series.sweep();
        series.check(&point, &[&content(name)]);
        series.forget(&[&point]);
        series.sweep();
        assert_eq!(series.ids(), [""; 0]);
        if points.len() % 7 == 0 {
            for (name, point) in &points {
                let series = Series { datastore: &*owner, name };
                assert_eq!(series.ids(), std::slice::from_ref(point), "{name}");
                series.check(point, &[&content(name)]);
            }
        }
    }
}

pub fn no_point_of_a_member_is_seen_used_or_forgotten_through_another_series(rig: &dyn Rig) {
    let owner = rig.open();
    let disk = noise(4 * rig.chunk() as usize, 1);
    let series = ["g/1", "g/2", "g", "1"].map(|name| Series { datastore: &*owner, name });
    let point = series[0].full("job=1", &[&disk]).point;
    for other in &series[1..] {
        let name = other.name;
        let own = other.full("job=9", &[&noise(512, 2)]).point;
        assert_eq!(owner.find(name, "job=1").unwrap(), None);
        for kind in [
            owner.inspect(name, &point).map(drop),
            owner.document(name, &point).map(drop),
            other.restore(&point, 0, disk.len()).map(drop),
            other.verify(std::slice::from_ref(&point), Depth::Quick).map(drop),
            other.store("job=2", Some(&point), vec![Source::since(&disk, &disk).changes(0)]).map(drop),
        ]
        .map(|result| result.unwrap_err().kind)
        {
            assert_eq!(kind, Kind::Missing, "{name}");
        }
        // Indexes may be written anew.
        assert!(other.forget(&[&point]).freed_bytes < SLACK, "{name}");
        assert_eq!(other.ids(), [own]);
        series[0].check(&point, &[&disk]);
    }
    assert_eq!(series[0].ids(), [point]);
}

pub fn members_of_a_group_are_stored_forgotten_and_swept_at_the_same_time(rig: &dyn Rig) {
    let chunk = rig.chunk() as usize;
    // What they have in common is stored by all of them, and forgotten by all but the last.
    let common = noise(16 * chunk, 1);
    let owners = [rig.open(), rig.open(), rig.open()];
    std::thread::scope(|scope| {
        for (member, owner) in owners.iter().enumerate() {
            let common = &common;
            scope.spawn(move || {
                let name = format!("g/{member}");
                let store = Series { datastore: &**owner, name: &name };
                let mut disk = common.clone();
                let whole = |disk: &[u8]| vec![Source::of(disk).whole(0)];
                let mut parent = patiently(|| store.store("job=0", None, whole(&disk))).point;
                for step in 1..4_usize {
                    let old = disk.clone();
                    disk[step * chunk..][..chunk].copy_from_slice(&noise(chunk, (10 * member + step) as u64));
                    let job = format!("job={step}");
                    let source = || vec![Source::since(&old, &disk).changes(0)];
                    let stored = patiently(|| store.store(&job, Some(&parent), source()));
                    let gone = [std::mem::replace(&mut parent, stored.point)];
                    patiently(|| owner.forget(&name, &gone, &Progress::default(), &Cancel::default()));
                    patiently(|| owner.sweep(&name, &Progress::default()));
                    let restored = patiently(|| store.restore(&parent, 0, disk.len()));
                    super::assert_equal(&restored, &disk, &name);
                }
                assert_eq!(patiently(|| owner.points(&name)).len(), 1);
            });
        }
    });
    let owner = rig.open();
    assert_eq!(owner.series().unwrap(), ["g/0", "g/1", "g/2"]);
    for name in ["g/0", "g/1", "g/2"] {
        let store = Series { datastore: &*owner, name };
        assert_eq!(store.verify(&store.ids(), Depth::Deep).unwrap().damages, []);
    }
}
