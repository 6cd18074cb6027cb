//! Verifying restore points of the restic datastore.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "no test needs all of it")]
mod shared;

use drivers::datastore::{Change, Damage, Depth, VerifyRequest};
use drivers::restic::{ResticConfig, ResticDatastore};
use drivers::{BackupDatastore, Cancel, Content, Extent, Kind, Progress, Secret};
use proptest::prelude::*;

use shared::memory::{MemoryReader, noise};
use shared::restic_rig::{CHUNK, PASSWORD, Rig, flip, is_model_outside, short};

fn covers(damages: &[Damage], disk: Option<u32>, offset: u64) -> bool {
    damages.iter().any(|d| d.disk == disk && (d.offset..d.offset + d.length.max(1)).contains(&offset))
}

/// Two points over two disks; gives the points and, for each, its disks.
fn two_points(rig: &Rig) -> (Vec<String>, Vec<Vec<Vec<u8>>>) {
    let (mut first, second) = (noise(300_000, 1), noise(100_000, 2));
    let disks =
        |first: &[u8]| vec![(MemoryReader::whole(first), Change::Whole), (MemoryReader::whole(&second), Change::Whole)];
    let one = rig.store("job=1", None, disks(&first));
    let before = first.clone();
    first[..50_000].copy_from_slice(&noise(50_000, 3));
    let changed = vec![Extent { offset: 0, length: 50_000, content: Content::Data }];
    let readers = vec![
        (MemoryReader::changed(&first, changed), Change::SinceParent),
        (MemoryReader::changed(&second, Vec::new()), Change::SinceParent),
    ];
    let two = rig.store("job=2", Some(&one), readers);
    (vec![one, two], vec![vec![before, second.clone()], vec![first, second]])
}

#[test]
fn intact_points_have_no_damage_and_every_needed_byte_was_read() {
    let rig = Rig::new();
    let (points, _) = two_points(&rig);
    let quick = rig.verify(&points, Depth::Quick).unwrap();
    assert_eq!(quick.damages, []);
    let progress = Progress::default();
    let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: None };
    let deep = rig.datastore.verify(&request, &mut |_| Ok(()), &progress, &Cancel::default()).unwrap();
    assert_eq!(deep.damages, []);
    let packs: u64 = rig.files("data").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(progress.get(), (packs, packs));
    assert!(deep.read_bytes >= packs && quick.read_bytes < packs / 10, "{deep:?} {quick:?}");
}

#[test]
fn an_unknown_point_is_missing() {
    let rig = Rig::new();
    assert_eq!(rig.verify(&["0".repeat(64)], Depth::Quick).unwrap_err().kind, Kind::Missing);
    let (mut points, _) = two_points(&rig);
    points.push("0".repeat(64));
    assert_eq!(rig.verify(&points, Depth::Quick).unwrap_err().kind, Kind::Missing);
    points[2] = "rubbish".to_owned();
    assert_eq!(rig.verify(&points, Depth::Deep).unwrap_err().kind, Kind::Missing);
}

#[test]
fn quick_finds_a_missing_and_a_short_pack_and_deep_a_flipped_bit() {
    let rig = Rig::new();
    let (points, _) = two_points(&rig);
    let pack = rig.files("data")[0].clone();
    let intact = std::fs::read(&pack).unwrap();
    let named = |damages: &[Damage]| damages.iter().all(|damage| damage.what.contains(&short(&pack)));

    flip(&pack, 100_000);
    assert_eq!(rig.verify(&points, Depth::Quick).unwrap().damages, []);
    let damages = rig.verify(&points, Depth::Deep).unwrap().damages;
    assert!(damages.len() == 1 && named(&damages), "{damages:?}");
    assert_eq!((damages[0].disk.is_some(), damages[0].length), (true, CHUNK));

    std::fs::write(&pack, &intact[..intact.len() / 2]).unwrap();
    for depth in [Depth::Quick, Depth::Deep] {
        let damages = rig.verify(&points, depth).unwrap().damages;
        let lost: u64 = damages.iter().map(|damage| damage.length).sum();
        assert!(named(&damages) && (150_000..intact.len() as u64).contains(&lost), "{damages:?}");
    }
    std::fs::remove_file(&pack).unwrap();
    let quick = rig.verify(&points, Depth::Quick).unwrap().damages;
    assert!(named(&quick) && covers(&quick, Some(0), 299_999) && covers(&quick, Some(1), 99_999), "{quick:?}");
    assert_eq!(rig.verify(&points, Depth::Deep).unwrap().damages, quick);
    // The unchanged end of disk 0 belongs to both points, its beginning only to the first.
    let of =
        |offset| quick.iter().find(|d| d.disk == Some(0) && (d.offset..d.offset + d.length).contains(&offset)).unwrap();
    assert_eq!(of(0).points, points[..1]);
    assert_eq!(of(200_000).points, points);
}

#[test]
fn damage_of_other_points_is_not_told() {
    let rig = Rig::new();
    let (points, _) = two_points(&rig);
    let before = rig.files("data");
    rig.full("job=3", &noise(200_000, 9));
    let others: Vec<_> = rig.files("data").into_iter().filter(|path| !before.contains(path)).collect();
    assert!(!others.is_empty());
    for pack in others {
        std::fs::remove_file(pack).unwrap();
    }
    assert_eq!(rig.verify(&points, Depth::Deep).unwrap().damages, []);
}

#[test]
fn an_interrupted_verification_goes_on_and_finds_the_same() {
    let rig = Rig::with(|config| config.threads = 1);
    let points = vec![rig.full("job=1", &noise(12 << 20, 4))];
    let packs = rig.files("data");
    for pack in &packs[1..3] {
        flip(pack, 5000);
    }
    let whole = rig.verify(&points, Depth::Deep).unwrap();
    assert_eq!(whole.damages.len(), 2);

    let mut text: Option<String> = None;
    let mut calls = 0;
    let resumed = loop {
        calls += 1;
        assert!(calls < 50);
        let cancel = Cancel::default();
        let resume = text.clone();
        let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: resume.as_deref() };
        let progress = Progress::default();
        let mut save = |cursor: &str| {
            assert!(cursor.len() <= 64 << 10);
            text = Some(cursor.to_owned());
            if calls < 8 {
                cancel.cancel();
            }
            Ok(())
        };
        match rig.datastore.verify(&request, &mut save, &progress, &cancel) {
            Ok(verified) => break verified,
            Err(error) => assert_eq!(error.kind, Kind::Cancelled),
        }
    };
    assert_eq!(calls, 8);
    assert_eq!(resumed.damages, whole.damages);
    assert!(resumed.read_bytes >= whole.read_bytes);
}

#[test]
fn an_error_of_save_ends_the_call() {
    let rig = Rig::new();
    let (points, _) = two_points(&rig);
    let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: None };
    let mut save = |_: &str| Err(drivers::DriverError::new(Kind::Permanent, "saving", "no"));
    let error = rig.datastore.verify(&request, &mut save, &Progress::default(), &Cancel::default()).unwrap_err();
    assert_eq!(error.doing, "saving");
}

#[test]
fn a_wrong_password_is_an_error_and_no_damage() {
    let rig = Rig::new();
    let (points, _) = two_points(&rig);
    let wrong = ResticConfig::new(rig.base.path().to_owned(), Secret::new("hunter2".to_owned()));
    let request = VerifyRequest { series: "7", points: &points, depth: Depth::Quick, resume: None };
    let other = ResticDatastore::new(wrong).unwrap();
    let error = other.verify(&request, &mut |_| Ok(()), &Progress::default(), &Cancel::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Permanent);
}

#[derive(Debug, Clone)]
enum Fault {
    Flip(prop::sample::Index),
    Cut(prop::sample::Index),
    Delete,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Fault::Flip),
        2 => any::<prop::sample::Index>().prop_map(Fault::Cut),
        1 => Just(Fault::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_file_is_damaged_deep_verification_names_it_and_the_rest_comes_back(
        which in any::<prop::sample::Index>(), fault in fault(), is_fresh in any::<bool>()
    ) {
        let rig = Rig::with(|config| config.part_bytes = 20 * CHUNK);
        let (points, models) = two_points(&rig);
        let mut files = rig.files("");
        files.sort();
        let file = &files[which.index(files.len())];
        let bytes = std::fs::read(file).unwrap();
        match &fault {
            Fault::Flip(at) => flip(file, at.index(bytes.len())),
            Fault::Cut(at) => std::fs::write(file, &bytes[..at.index(bytes.len())]).unwrap(),
            Fault::Delete => std::fs::remove_file(file).unwrap(),
        }
        let config = ResticConfig {
            chunk_bytes: CHUNK as u32,
            ..ResticConfig::new(rig.base.path().to_owned(), Secret::new(PASSWORD.to_owned()))
        };
        let fresh = ResticDatastore::new(config).unwrap();
        let datastore = if is_fresh { &fresh } else { &rig.datastore };
        let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: None };
        let verified = datastore.verify(&request, &mut |_| Ok(()), &Progress::default(), &Cancel::default());
        let shown = format!("{fault:?} of {}: {verified:?}", file.display());
        let deleted_point = matches!(fault, Fault::Delete) && file.parent().unwrap().ends_with("snapshots");
        let damages = match verified {
            Err(error) => {
                prop_assert!(deleted_point && error.kind == Kind::Missing, "{shown}");
                Vec::new()
            }
            Ok(verified) => {
                prop_assert!(!verified.damages.is_empty(), "{shown}");
                verified.damages
            }
        };
        for damage in &damages {
            prop_assert!(!damage.points.is_empty() && !damage.what.is_empty(), "{shown}");
        }
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !matches!(fault, Fault::Delete) {
            let shown_name = &name[..name.len().min(8)];
            prop_assert!(damages.iter().any(|damage| damage.what.contains(shown_name)), "{shown}");
        }
        for (point, disks) in points.iter().zip(&models) {
            for (disk, model) in disks.iter().enumerate() {
                let mut target = shared::memory::MemoryWriter { data: vec![0; model.len()], ..Default::default() };
                let request = drivers::datastore::RestoreRequest {
                    series: "7", point, disk: disk as u32, skip_bad: true, current: None,
                };
                match datastore.restore(request, &mut target, &Progress::default(), &Cancel::default()) {
                    Ok(restored) => {
                        let open_end = restored.damages.iter().filter(|damage| damage.length == 0).map(|d| d.offset).min();
                        let end = open_end.map_or(model.len(), |end| end as usize);
                        let told: Vec<Damage> = restored.damages.iter().filter(|d| d.length > 0).cloned().collect();
                        let told: Vec<Damage> = told.into_iter().filter(|d| d.offset < end as u64).collect();
                        prop_assert!(is_model_outside(&model[..end], &target.data[..end], &told), "{shown}");
                    }
                    // Its directory, snapshot, or the key to everything.
                    Err(error) => prop_assert!(
                        damages.iter().any(|d| d.disk.is_none_or(|d| d == disk as u32)) || deleted_point,
                        "{shown}: {error}"
                    ),
                }
            }
        }
    }
}
