//! Several operations at a time, through one object and through two.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drivers::datastore::Depth;

use super::disk::noise;
use super::{Rig, SERIES, Series, Source, patiently, series};

pub fn restores_go_on_while_others_are_stored_and_forgotten(rig: &dyn Rig) {
    let (one, two) = (rig.open(), rig.open());
    let chunk = rig.chunk() as usize;
    let disk = noise(8 * chunk + 512, 1);
    let full = series(&*one).full("job=0", &[&disk]);
    let mut changed = disk.clone();
    changed[chunk..2 * chunk].fill(1);
    let kept = series(&*one).increment("job=1", &full.point, &[(&disk, &changed)]);
    series(&*one).forget(&[&full.point]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = [&one, &two]
            .into_iter()
            .map(|datastore| {
                let (store, is_over, kept, changed) = (series(&**datastore), &is_over, &kept, &changed);
                scope.spawn(move || {
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) || count == 0 {
                        let restored = patiently(|| store.restore(&kept.point, 0, changed.len()));
                        super::assert_equal(&restored, changed, "the disk meanwhile");
                        assert!(patiently(|| store.datastore.find(SERIES, "job=1")).is_some());
                        count += 1;
                        // Readers without a pause would keep a lock that is shared among them for ever.
                        std::thread::sleep(Duration::from_millis(20));
                    }
                })
            })
            .collect();
        let store = series(&*one);
        for number in 2..6 {
            let job = format!("job={number}");
            let old = &changed;
            let mut new = old.clone();
            new[number * chunk..(number + 1) * chunk].copy_from_slice(&noise(chunk, number as u64));
            let source = || vec![Source::since(old, &new).changes(0)];
            let stored = patiently(|| store.store(&job, Some(&kept.point), source()));
            patiently(|| store.restore(&stored.point, 0, new.len()));
            let gone = [stored.point];
            patiently(|| store.datastore.forget(SERIES, &gone, &Default::default(), &Default::default()));
        }
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    series(&*one).check(&kept.point, &[&changed]);
    assert_eq!(series(&*one).ids(), [kept.point]);
}

/// Both store a full point and three increments at the same time.
fn store_both(rig: &dyn Rig, names: [&str; 2]) {
    let owners = [rig.open(), rig.open()];
    let chunk = rig.chunk() as usize;
    std::thread::scope(|scope| {
        for (number, (owner, name)) in owners.iter().zip(names).enumerate() {
            scope.spawn(move || {
                let store = Series { datastore: &**owner, name };
                let mut disk = noise(8 * chunk + 512, number as u64);
                let job = |step: usize| format!("job={}", 10 * number + step);
                let full = patiently(|| store.store(&job(0), None, vec![Source::of(&disk).whole(0)]));
                let mut points = vec![(full.point, disk.clone())];
                for step in 1..4 {
                    let old = disk.clone();
                    disk[step * chunk..(step + 1) * chunk].fill(step as u8);
                    let parent = points[step - 1].0.clone();
                    let source = || vec![Source::since(&old, &disk).changes(0)];
                    points.push((patiently(|| store.store(&job(step), Some(&parent), source())).point, disk.clone()));
                }
                for (point, bytes) in &points {
                    let restored = patiently(|| store.restore(point, 0, bytes.len()));
                    super::assert_equal(&restored, bytes, point);
                }
                assert_eq!(patiently(|| store.datastore.find(name, &job(2))).unwrap().point, points[2].0);
            });
        }
    });
    let owner = rig.open();
    for name in names {
        let store = Series { datastore: &*owner, name };
        let ids = store.ids();
        assert_eq!(ids.len(), if names[0] == names[1] { 8 } else { 4 });
        assert_eq!(store.verify(&ids, Depth::Deep).unwrap().damages, []);
    }
}

pub fn two_daemons_store_into_two_series_at_once(rig: &dyn Rig) {
    store_both(rig, ["7", "8"]);
}

pub fn two_daemons_store_into_one_series_at_once(rig: &dyn Rig) {
    store_both(rig, ["job_3", "job_3"]);
}

pub fn a_sweep_beside_a_store_harms_nothing(rig: &dyn Rig) {
    let (one, two) = (rig.open(), rig.open());
    let disk = noise(2 << 20, 3);
    let first = series(&*one).full("job=0", &[&disk[..4096]]);
    std::thread::scope(|scope| {
        // A sweep is asked for while each store reads, and while what it stored is restored.
        let (ask, asked) = std::sync::mpsc::sync_channel(1);
        let two = &*two;
        scope.spawn(move || {
            for () in asked {
                // Busy is an answer, too.
                drop(two.sweep(SERIES, &Default::default()));
            }
        });
        for number in 1..4 {
            let job = format!("job={number}");
            let source = || {
                let ask = ask.clone();
                Source::of(&disk).before(move |_| {
                    ask.try_send(()).ok();
                    Ok(())
                })
            };
            let stored = patiently(|| series(&*one).store(&job, None, vec![source().whole(0)]));
            ask.try_send(()).ok();
            let restored = patiently(|| series(&*one).restore(&stored.point, 0, disk.len()));
            super::assert_equal(&restored, &disk, "the disk");
        }
        drop(ask);
    });
    series(&*two).check(&first.point, &[&disk[..4096]]);
    assert_eq!(series(&*two).ids().len(), 4);
}
