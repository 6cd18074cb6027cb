//! KEEP_LAST of scheduled actions over weeks of backups: each keeps the newest of its own, in one chain and as images, and
//! every point that stays holds what its VM held.

use oned::api;

use super::world::{Base, World};

const DAY_S: i64 = 86_400;

/// Days that are played.
const DAYS: u8 = 40;

/// The VM writes something each day and is backed up; each seventh day once more, by another action. The days of the
/// points that the daily and the weekly action have left.
fn weeks(world: &mut World, vm: i64, daily: i64, weekly: i64) -> (Vec<u8>, Vec<u8>) {
    let mut made = Vec::new();
    for day in 1..=DAYS {
        world.pass(DAY_S);
        world.write(vm, 0, usize::from(day % 16), day);
        made.push((day, daily, world.backup_by(vm, daily).point));
        if day % 7 == 0 {
            world.write(vm, 0, usize::from(day % 16), 100 + day);
            made.push((day, weekly, world.backup_by(vm, weekly).point));
        }
    }
    world.is_sound(false);
    let points = world.points(vm);
    let left = |by: i64| {
        let of = made.iter().filter(|(_, schedule, _)| *schedule == by);
        of.filter(|(_, _, id)| points.iter().any(|point| point.point == *id)).map(|(day, ..)| *day).collect()
    };
    (left(daily), left(weekly))
}

fn with_world(play: impl FnOnce(&mut World)) {
    let base = Base::new(|_| ());
    let mut world = World::open(&base.state(), base.restore());
    play(&mut world);
    world.close();
}

#[test]
fn a_daily_and_a_weekly_schedule_keep_their_own_points_of_one_chain() {
    with_world(|world| {
        let vm = world.vm("one", 1, "MODE=INCREMENT,KEEP_LAST=2");
        let (daily, weekly) = (world.schedule(vm, 7), world.schedule(vm, 4));
        let left = weeks(world, vm, daily, weekly);
        assert_eq!(left, ((34..=40).collect(), vec![14, 21, 28, 35]));
        let (image, points) = (world.backups(vm).remove(0), world.points(vm));
        assert_eq!((world.backups(vm).len(), points.len()), (1, 11));
        assert_eq!(
            (points[0].kind.as_str(), image.source.as_str()),
            ("FULL", oned::ledger::short_point(&points[0].point))
        );
        assert_eq!(image.size_mb, points.iter().map(|point| point.size_mb).sum::<i64>());

        // What nobody scheduled counts for the configuration, and pushes out nothing of theirs.
        for _ in 0..4 {
            world.backup(vm, false);
        }
        assert_eq!(world.points(vm).len(), 13);
        // An action without KEEP_LAST, or one that is gone, leaves its points to the others.
        world.keep_of_schedule(weekly, None);
        api::schedule::delete(&world.cloud, &world.admin, vm, daily).unwrap();
        world.backup(vm, false);
        assert_eq!(world.points(vm).len(), 2);
        world.is_sound(false);
        world.goes_on(vm);
        world.is_sound(false);
    });
}

#[test]
fn a_daily_and_a_weekly_schedule_keep_their_own_full_backups() {
    with_world(|world| {
        let vm = world.vm("one", 1, "MODE=FULL,KEEP_LAST=1");
        let by_hand = world.backup(vm, false);
        let (daily, weekly) = (world.schedule(vm, 7), world.schedule(vm, 4));
        let left = weeks(world, vm, daily, weekly);
        assert_eq!(left, ((34..=40).collect(), vec![14, 21, 28, 35]));
        assert_eq!(world.backups(vm).len(), 12);
        assert!(world.backups(vm).iter().any(|image| image.id == by_hand.image_id));
        // 0 keeps all that it makes.
        world.keep_of_schedule(daily, Some(0));
        for _ in 0..3 {
            world.backup_by(vm, daily);
        }
        assert_eq!(world.backups(vm).len(), 15);
        world.is_sound(false);
    });
}

#[test]
fn a_new_chain_takes_over_from_the_old_one_point_by_point() {
    with_world(|world| {
        let vm = world.vm("one", 1, "MODE=INCREMENT,KEEP_LAST=9");
        let (daily, weekly) = (world.schedule(vm, 3), world.schedule(vm, 1));
        for schedule in [daily, weekly, daily, daily] {
            world.backup_by(vm, schedule);
        }
        let old = world.backups(vm)[0].id;
        // The configuration resets the chain.
        let mut left: Vec<Vec<i64>> = Vec::new();
        api::vm::update_conf(&world.cloud, &world.admin, vm, "BACKUP_CONFIG=[MODE=FULL]", 1).unwrap();
        api::vm::update_conf(&world.cloud, &world.admin, vm, "BACKUP_CONFIG=[MODE=INCREMENT]", 1).unwrap();
        for schedule in [daily, daily, daily, weekly] {
            world.backup_by(vm, schedule);
            let points = world.points(vm);
            left.push(points.iter().filter(|point| point.image_id == old).map(|point| point.increment_id).collect());
            world.is_sound(false);
        }
        assert_eq!(left, [vec![1, 2, 3], vec![1, 3], vec![1], vec![]]);
        assert_eq!(world.backups(vm).len(), 1, "an image of which nothing is left goes");
    });
}
