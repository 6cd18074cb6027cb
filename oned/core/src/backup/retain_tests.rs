use proptest::prelude::*;

use super::*;

fn point(id: i64, date: i64, schedule: Option<i64>) -> Candidate {
    Candidate { id, date, schedule }
}

fn full(id: i64, date: i64, schedule: Option<i64>) -> BackupImage {
    BackupImage { id, date, points: vec![point(0, date, schedule)] }
}

fn chain(id: i64, points: &[(i64, Option<i64>)]) -> BackupImage {
    let points: Vec<Candidate> = points.iter().map(|(id, schedule)| point(*id, 1000 + id, *schedule)).collect();
    BackupImage { id, date: 1000, points }
}

fn new_image(image: i64) -> Made {
    Made { image, point: 0, is_new_image: true }
}

fn grown(image: i64, point: i64) -> Made {
    Made { image, point, is_new_image: false }
}

fn keep(others: i64, schedules: &[(i64, i64)]) -> Keeps {
    Keeps { others, schedules: schedules.iter().copied().collect() }
}

/// Ids of whole images that go after a FULL backup: images whose dates are their ids, the newest just made.
fn expired_fulls(ids: &[i64], keep_last: i64) -> Vec<i64> {
    let images: Vec<BackupImage> = ids.iter().map(|id| full(*id, *id, None)).collect();
    whole(expired(&images, new_image(ids.iter().copied().max().unwrap_or(-1)), &keep(keep_last, &[])))
}

#[track_caller]
fn whole(expired: Vec<Expired>) -> Vec<i64> {
    expired
        .into_iter()
        .map(|gone| match gone {
            Expired::Image(id) => id,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// What goes of a chain of these increments whose last was just made, all of nobody's schedule.
fn shortened(ids: &[i64], keep_last: i64) -> Vec<i64> {
    let points: Vec<(i64, Option<i64>)> = ids.iter().map(|id| (*id, None)).collect();
    let last = ids.iter().copied().max().unwrap_or(-1);
    match expired(&[chain(5, &points)], grown(5, last), &keep(keep_last, &[])).as_slice() {
        [] => Vec::new(),
        [Expired::Points { image: 5, points }] => points.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn full_mode_deletes_the_oldest() {
    assert_eq!(expired_fulls(&[9, 2, 5, 7], 2), [2, 5]);
    assert_eq!(expired_fulls(&[9, 2], 2), [0_i64; 0]);
    assert_eq!(expired_fulls(&[], 1), [0_i64; 0]);
    assert_eq!(expired_fulls(&[3], 1), [0_i64; 0]);
}

#[test]
fn old_backups_with_high_ids_go_before_newer_ones() {
    let images = [(300, 1), (400, 2), (500, 9), (100, 7), (200, 8)].map(|(date, id)| full(id, date, None));
    assert_eq!(whole(expired(&images, new_image(9), &keep(2, &[]))), [7, 8, 1]);
    assert_eq!(whole(expired(&images, new_image(9), &keep(3, &[]))), [7, 8]);
}

#[test]
fn the_backup_just_made_stays_when_the_clock_went_back() {
    let images = [(300, 1), (400, 2), (100, 3)].map(|(date, id)| full(id, date, None));
    assert_eq!(whole(expired(&images, new_image(3), &keep(2, &[]))), [1]);
    assert_eq!(whole(expired(&images, new_image(3), &keep(1, &[]))), [1, 2]);
    let of_one = [(300, 1), (400, 2), (100, 3)].map(|(date, id)| full(id, date, Some(8)));
    assert_eq!(whole(expired(&of_one, new_image(3), &keep(0, &[(8, 2)]))), [1]);
    assert_eq!(whole(expired(&of_one, new_image(3), &keep(0, &[(8, 1)]))), [1, 2]);
}

#[test]
fn keep_last_zero_or_less_keeps_all() {
    assert_eq!(expired_fulls(&[1, 2, 3], 0), [0_i64; 0]);
    assert_eq!(expired_fulls(&[1, 2, 3], -1), [0_i64; 0]);
    assert_eq!(shortened(&[0, 1, 2], 0), [0_i64; 0]);
    assert_eq!(shortened(&[0, 1, 2], i64::MIN), [0_i64; 0]);
    let of_one = [1, 2, 3].map(|id| full(id, id, Some(8)));
    assert_eq!(expired(&of_one, new_image(3), &keep(1, &[(8, 0)])), []);
}

#[test]
fn increment_mode_drops_the_oldest() {
    assert_eq!(shortened(&[0, 1, 2, 3, 4], 4), [0]);
    assert_eq!(shortened(&[3, 4, 5, 6], 2), [3, 4]);
    assert_eq!(shortened(&[0, 1], 1), [0]);
    assert_eq!(shortened(&[0, 1, 2, 3], 4), [0_i64; 0]);
    assert_eq!(shortened(&[], 1), [0_i64; 0]);
}

#[test]
fn a_daily_and_a_weekly_schedule_each_keep_their_own_points_of_one_chain() {
    const DAILY: Option<i64> = Some(1);
    const WEEKLY: Option<i64> = Some(2);
    let keeps = keep(30, &[(1, 2), (2, 2)]);
    // Points 0, 4 and 8 are weekly; 3 was made by hand.
    let points: Vec<(i64, Option<i64>)> = (0..=9)
        .map(|id| {
            (
                id,
                if id % 4 == 0 {
                    WEEKLY
                } else if id == 3 {
                    None
                } else {
                    DAILY
                },
            )
        })
        .collect();
    let gone = expired(&[chain(5, &points)], grown(5, 9), &keeps);
    assert_eq!(gone, [Expired::Points { image: 5, points: vec![0, 1, 2, 5, 6] }]);
}

#[test]
fn points_of_a_schedule_that_is_gone_count_for_the_others() {
    let points = [(0, Some(1)), (1, Some(2)), (2, None), (3, Some(2)), (4, Some(1))];
    let gone = expired(&[chain(5, &points)], grown(5, 4), &keep(2, &[(2, 5)]));
    assert_eq!(gone, [Expired::Points { image: 5, points: vec![0] }]);
}

#[test]
fn full_backups_of_two_schedules_are_counted_apart() {
    let images = [(1, Some(1)), (2, Some(2)), (3, Some(1)), (4, None), (5, Some(1))].map(|(id, of)| full(id, id, of));
    assert_eq!(whole(expired(&images, new_image(5), &keep(1, &[(1, 2), (2, 1)]))), [1]);
    assert_eq!(whole(expired(&images, new_image(5), &keep(1, &[(1, 1), (2, 1)]))), [1, 3]);
}

#[test]
fn a_new_chain_pushes_a_schedules_points_out_of_the_old_one_until_nothing_is_left_of_it() {
    let old = chain(5, &[(0, Some(1)), (1, Some(2)), (2, Some(1))]);
    let new = |points: i64| BackupImage {
        id: 9,
        date: 2000,
        points: (0..points).map(|id| point(id, 2000 + id, Some(1))).collect(),
    };
    let keeps = keep(0, &[(1, 2), (2, 1)]);
    assert_eq!(expired(&[old.clone(), new(1)], new_image(9), &keeps), [Expired::Points { image: 5, points: vec![0] }]);
    assert_eq!(
        expired(&[old.clone(), new(2)], grown(9, 1), &keeps),
        [Expired::Points { image: 5, points: vec![0, 2] }]
    );
    let mut keeps = keeps;
    keeps.schedules.remove(&2);
    keeps.others = 1;
    // Chains count as images for the others, and only when there is a new one.
    assert_eq!(
        expired(&[old.clone(), new(2)], grown(9, 1), &keeps),
        [Expired::Points { image: 5, points: vec![0, 2] }]
    );
    let by_hand = full(10, 3000, None);
    assert_eq!(expired(&[old, new(2), by_hand], new_image(10), &keeps), [Expired::Image(5)]);
}

#[test]
fn an_image_without_points_counts_by_its_own_date() {
    let empty = BackupImage { id: 1, date: 10, points: Vec::new() };
    let images = [empty, full(2, 20, None), full(3, 30, None)];
    assert_eq!(whole(expired(&images, new_image(3), &keep(2, &[]))), [1]);
    assert_eq!(expired(&images, new_image(3), &keep(3, &[])), []);
}

/// A run of a simulated VM: who makes the next backup, and whether it starts a new image.
#[derive(Debug, Clone, Copy)]
struct Run {
    by: Option<i64>,
    is_new_image: bool,
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let by = prop_oneof![2 => Just(None), 5 => (1..=4_i64).prop_map(Some)];
    let run = (by, proptest::bool::weighted(0.15)).prop_map(|(by, is_new_image)| Run { by, is_new_image });
    proptest::collection::vec(run, 1..60)
}

fn drop_expired(images: &mut Vec<BackupImage>, gone: &[Expired]) {
    for gone in gone {
        match gone {
            Expired::Image(id) => images.retain(|image| image.id != *id),
            Expired::Points { image: id, points } => {
                let image = images.iter_mut().find(|image| image.id == *id).unwrap();
                image.points.retain(|point| !points.contains(&point.id));
            }
        }
    }
}

proptest! {
    #[test]
    fn what_stays_is_the_newest_and_as_many_as_asked(
        ids in proptest::collection::btree_set(0_i64..1000, 0..60), keep in -2_i64..70,
    ) {
        let ids: Vec<i64> = ids.into_iter().collect();
        let gone = expired_fulls(&ids, keep);
        let left: Vec<i64> = ids.iter().copied().filter(|id| !gone.contains(id)).collect();
        prop_assert_eq!(&ids[gone.len()..], &left[..]);
        if keep > 0 {
            prop_assert_eq!(left.len(), ids.len().min(usize::try_from(keep).unwrap()));
        } else {
            prop_assert_eq!(left.len(), ids.len());
        }
        prop_assert_eq!(shortened(&ids, keep), gone);
    }

    /// The model: each run is remembered with who made it; whoever has a KEEP_LAST has a list of its own, of that length.
    #[test]
    fn each_schedule_keeps_the_newest_of_its_own_whatever_the_others_do(
        runs in runs(), own in proptest::collection::btree_map(1..=3_i64, 0..6_i64, 0..4),
    ) {
        // What nobody counts is kept, so that the model has one rule only.
        let keeps = Keeps { others: 0, schedules: own.clone() };
        let mut images: Vec<BackupImage> = Vec::new();
        let mut model: Vec<(i64, Option<i64>)> = Vec::new();
        for (time, run) in (0..).zip(&runs) {
            let is_new_image = run.is_new_image || images.is_empty();
            if is_new_image {
                images.push(BackupImage { id: time, date: time, points: Vec::new() });
            }
            let image = images.last_mut().unwrap();
            // The time is the id too, so a point can be told from its number alone.
            image.points.push(point(time, time, run.by));
            let made = Made { image: image.id, point: time, is_new_image };
            let gone = expired(&images, made, &keeps);
            drop_expired(&mut images, &gone);
            // Asked again, nothing more goes.
            prop_assert_eq!(expired(&images, made, &keeps), []);

            model.push((time, run.by));
            if let Some(keep) = run.by.and_then(|by| own.get(&by)).filter(|keep| **keep > 0) {
                let mine: Vec<i64> = model.iter().filter(|(_, by)| *by == run.by).map(|(time, _)| *time).collect();
                let surplus = mine.len().saturating_sub(usize::try_from(*keep).unwrap());
                model.retain(|(time, _)| !mine[..surplus].contains(time));
            }
            let left: Vec<i64> = images.iter().flat_map(|image| &image.points).map(|point| point.id).collect();
            let expected: Vec<i64> = model.iter().map(|(time, _)| *time).collect();
            prop_assert_eq!(left, expected);
            prop_assert!(images.iter().all(|image| !image.points.is_empty()));
        }
    }

    #[test]
    fn what_was_just_made_stays_and_nothing_is_named_twice(
        shape in proptest::collection::vec(
            proptest::collection::vec((0..40_i64, proptest::option::of(1..=3_i64)), 0..8), 1..6),
        others in -1..5_i64, own in proptest::collection::btree_map(1..=3_i64, -1..5_i64, 0..4), is_new_image: bool,
    ) {
        let images: Vec<BackupImage> = (0..)
            .zip(&shape)
            .map(|(id, points)| BackupImage {
                id,
                date: 7,
                points: (0..).zip(points).map(|(id, (date, by))| point(id, *date, *by)).collect(),
            })
            .collect();
        let newest = images.last().unwrap();
        let made = Made {
            image: newest.id, point: newest.points.iter().map(|point| point.id).max().unwrap_or(0), is_new_image,
        };
        let gone = expired(&images, made, &Keeps { others, schedules: own });
        let mut seen = Vec::new();
        for gone in &gone {
            let id = match gone {
                Expired::Image(id) => {
                    prop_assert!(*id != made.image);
                    *id
                }
                Expired::Points { image, points } => {
                    let has: Vec<i64> = images.iter().find(|i| i.id == *image).unwrap().points.iter().map(|p| p.id).collect();
                    prop_assert!(!points.is_empty() && points.len() < has.len());
                    prop_assert!(points.is_sorted() && points.iter().all(|point| has.contains(point)));
                    prop_assert!(*image != made.image || !points.contains(&made.point));
                    *image
                }
            };
            prop_assert!(!seen.contains(&id));
            seen.push(id);
        }
    }
}
