//! Verification of stores that are sound.

use drivers::datastore::{Depth, VerifyRequest};
use drivers::{Cancel, DriverError, Kind, Progress};

use super::disk::noise;
use super::{Rig, SERIES, Series, series};

/// A full point and an increment.
pub fn two_points(rig: &dyn Rig, store: Series<'_>) -> ([String; 2], [Vec<u8>; 2]) {
    let chunk = rig.chunk() as usize;
    let old = noise((1 << 20).max(32 * chunk) + 512, 1);
    let mut new = old.clone();
    new[3 * chunk..5 * chunk].copy_from_slice(&noise(2 * chunk, 2));
    new[8 * chunk..9 * chunk].fill(0);
    let full = store.full("job=1", &[&old]);
    let increment = store.increment("job=2", &full.point, &[(&old, &new)]);
    ([full.point, increment.point], [old, new])
}

pub fn a_sound_store_verifies_clean(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let (points, disks) = two_points(rig, store);
    for depth in [Depth::Quick, Depth::Deep] {
        let progress = Progress::default();
        let request = VerifyRequest { series: SERIES, points: &points, depth, resume: None };
        let verified = owner.verify(&request, &mut |_| Ok(()), &progress, &Cancel::default()).unwrap();
        assert_eq!(verified.damages, []);
        let (done, total) = progress.get();
        assert_eq!(done, total, "{depth:?}");
        assert!(progress.pulse() > 0);
        if depth == Depth::Deep {
            assert!(verified.read_bytes >= disks[0].len() as u64, "{verified:?}");
        }
    }
    assert_eq!(store.verify(&points[1..], Depth::Deep).unwrap().damages, []);
    // An increment can be sound without its parent.
    store.forget(&[&points[0]]);
    assert_eq!(store.verify(&points[1..], Depth::Deep).unwrap().damages, []);
    assert_eq!(store.verify(&points[1..], Depth::Quick).unwrap().damages, []);
}

pub fn verifying_unknown_points_is_missing(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let (points, _) = two_points(rig, store);
    store.forget(&[&points[0]]);
    for depth in [Depth::Quick, Depth::Deep] {
        for asked in [vec![points[0].clone()], vec![points[1].clone(), points[0].clone()], vec!["0".repeat(64)]] {
            assert_eq!(store.verify(&asked, depth).unwrap_err().kind, Kind::Missing);
        }
    }
}

/// Cancels the verification when it first saves, as often as `times`; gives the last text and what came of it at the end.
pub fn interrupted(
    store: Series<'_>,
    points: &[String],
    depth: Depth,
    times: usize,
) -> (usize, drivers::datastore::Verified) {
    let mut saved: Option<String> = None;
    for count in 0..=times {
        let cancel = Cancel::default();
        let mut last = saved.clone();
        let mut save = |text: &str| {
            last = Some(text.to_owned());
            if count < times {
                cancel.cancel();
            }
            Ok(())
        };
        match store.verify_with(points, depth, saved.as_deref(), &mut save, &cancel) {
            Ok(verified) => return (count, verified),
            Err(error) => assert!(error.kind == Kind::Cancelled && cancel.is_cancelled(), "{error}"),
        }
        saved = last;
    }
    panic!("a verification that nobody interrupted was cancelled");
}

pub fn a_verification_goes_on_where_it_was_interrupted(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let (points, _) = two_points(rig, store);
    for depth in [Depth::Quick, Depth::Deep] {
        let whole = store.verify(&points, depth).unwrap();
        let (_, verified) = interrupted(store, &points, depth, 3);
        assert_eq!(verified.damages, []);
        assert!(verified.read_bytes >= whole.read_bytes, "{verified:?} in pieces, {whole:?} at once");
    }
}

pub fn an_error_of_save_ends_the_verification(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let (points, _) = two_points(rig, store);
    let mut calls = 0;
    let mut save = |_: &str| {
        calls += 1;
        Err(DriverError::new(Kind::Retry, "saving", "injected"))
    };
    let result = store.verify_with(&points, Depth::Deep, None, &mut save, &Cancel::default());
    match result {
        Ok(_) => assert_eq!(calls, 0, "an error of save was swallowed"),
        Err(error) => assert_eq!((error.kind, error.reason.as_str(), calls), (Kind::Retry, "injected", 1)),
    }
}

pub fn a_resume_text_that_makes_no_sense_does_no_harm(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let (points, _) = two_points(rig, store);
    let long = "[".repeat(70_000);
    for text in ["", "nonsense", "{}", "null", "[18446744073709551615]", "\0", &long] {
        let verified =
            store.verify_with(&points, Depth::Deep, Some(text), &mut |_| Ok(()), &Cancel::default()).unwrap();
        assert_eq!(verified.damages, []);
        assert!(verified.read_bytes >= 1 << 20, "{text:?} let it believe to be done");
    }
}

pub fn a_cancelled_verification_says_so(rig: &dyn Rig) {
    let owner = rig.open();
    let store = series(&*owner);
    let (points, _) = two_points(rig, store);
    let cancel = Cancel::default();
    cancel.cancel();
    let error = store.verify_with(&points, Depth::Deep, None, &mut |_| Ok(()), &cancel).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
}
