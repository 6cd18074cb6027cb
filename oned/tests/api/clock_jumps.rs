//! The machine's clock is put forward and back while actions wait, run, are refused and retried: none is lost or doubled.

use one_core::lifecycle::{VmPhase, VmState};
use oned::ledger::BackupEnd;

use crate::dispatch::{DONE, add, backing_up, change, end, tick, tick_at};
use crate::world::{NOW, World};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const JUMPS: [i64; 8] = [-DAY, DAY, -HOUR, HOUR, -1, 1, -30, 30];

fn world() -> (World, i64) {
    let world = World::new();
    world.add_backup_datastore("backups");
    let vm = world.add_running_vm("");
    (world, vm)
}

fn hourly(world: &World, vm: i64) -> i64 {
    let id = add(world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW},REPEAT=3,DAYS=1"));
    change(world, id, |action| action.retry = 1);
    id
}

/// The planned times that an hourly action served while the clock went as it liked.
#[derive(Default)]
struct Seen(Vec<i64>);

impl Seen {
    /// A round; a backup that it starts ends well at once.
    fn look(&mut self, world: &World, vm: i64, id: i64) {
        let before = world.action(id).served;
        tick(world);
        let served = world.action(id).served;
        if served != before {
            self.0.extend(served);
        }
        assert_eq!(backing_up(world, vm), served != before, "at {}", world.clock_now());
        if served != before {
            end(world, vm, DONE);
        }
    }

    /// Each planned time at most once and in their order; next comes the first that has not run and is still to come.
    fn check(&self, world: &World, id: i64, what: &str) {
        assert!(self.0.is_sorted_by(|a, b| a < b), "{what}: {:?}", self.0);
        let after = world.clock_now().max(self.0.last().copied().unwrap_or(NOW - 1));
        let expected = NOW + (after - NOW).div_euclid(HOUR) * HOUR + HOUR;
        assert_eq!(world.action(id).time, expected.max(NOW), "{what}: {:?}", self.0);
    }
}

#[test]
fn each_planned_time_is_served_once_whatever_the_clock_does() {
    for jump in JUMPS {
        let (world, vm) = world();
        let id = hourly(&world, vm);
        let mut seen = Seen::default();
        // Just before, at, and just after a planned time, and in the middle; there and back again.
        for moment in [-1, 0, 1, 1800, HOUR - 15] {
            world.clock.set(world.action(id).time + moment);
            for step in [0, jump, 0, -jump] {
                world.clock.advance(step);
                seen.look(&world, vm, id);
                seen.check(&world, id, &format!("{step} at {moment}"));
            }
        }
        // And on from there, as if nothing had been.
        let count = seen.0.len();
        for _ in 0..3 {
            world.clock.set(world.action(id).time);
            seen.look(&world, vm, id);
        }
        assert_eq!(seen.0.len(), count + 3, "jump {jump}");
        seen.check(&world, id, &format!("after jump {jump}"));
    }
}

#[test]
fn a_clock_that_stays_wrong_costs_no_run_that_comes_to_pass() {
    for jump in JUMPS {
        let (world, vm) = world();
        let id = hourly(&world, vm);
        let mut seen = Seen::default();
        seen.look(&world, vm, id);
        world.clock.advance(jump);
        // Two days, in steps of ten minutes.
        for _ in 0..2 * 24 * 6 {
            world.clock.advance(600);
            seen.look(&world, vm, id);
            seen.check(&world, id, &format!("jump {jump}"));
        }
        // What was jumped over is one run.
        let jumped_over = (jump / HOUR - 1).max(0);
        let passed = (world.clock_now() - NOW) / HOUR + 1 - jumped_over;
        assert_eq!(i64::try_from(seen.0.len()).unwrap(), passed, "jump {jump}: {:?}", seen.0);
    }
}

#[test]
fn a_refused_action_rests_no_longer_than_an_hour_whatever_the_clock_does() {
    for jump in JUMPS {
        let (world, vm) = world();
        // Planned long ago, so that it stays due.
        let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={}", NOW - 3 * DAY));
        world.set_phase(vm, VmPhase::resting(VmState::Suspended));
        for _ in 0..9 {
            tick(&world);
            world.clock.set(world.schedule_row(id).not_before);
        }
        tick(&world);
        assert_eq!(world.schedule_row(id).not_before, world.clock_now() + HOUR);
        world.clock.advance(jump);
        world.set_phase(vm, VmPhase::RUNNING);
        let mut waited = 0;
        while !backing_up(&world, vm) {
            tick(&world);
            world.clock.advance(60);
            waited += 60;
            assert!(waited <= HOUR + 120, "jump {jump}");
        }
        end(&world, vm, DONE);
        tick_at(&world, NOW + 9 * DAY);
        assert!(!backing_up(&world, vm), "jump {jump}: a second time");
    }
}

#[test]
fn a_retry_is_made_once_and_soon_whatever_the_clock_does() {
    for jump in JUMPS {
        let (world, vm) = world();
        let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
        change(&world, id, |action| action.retry = 1);
        tick(&world);
        // The clock is put while it runs, and again while the retry waits.
        world.clock.advance(jump);
        tick(&world);
        end(&world, vm, BackupEnd::Failed("the server is away"));
        assert!(world.schedule_row(id).retry_at.is_some());
        world.clock.advance(jump);
        let mut waited = 0;
        while !backing_up(&world, vm) {
            tick(&world);
            world.clock.advance(60);
            waited += 60;
            assert!(waited <= HOUR + 420, "jump {jump}");
        }
        world.clock.advance(-jump);
        tick(&world);
        end(&world, vm, BackupEnd::Failed("the server is away"));
        for time in [world.clock_now(), NOW, NOW + 2 * DAY, NOW + 9 * DAY] {
            tick_at(&world, time);
            assert!(!backing_up(&world, vm), "jump {jump}: more often than RETRY says");
        }
    }
}

#[test]
fn a_retry_and_the_next_planned_run_are_one_when_the_clock_jumps_over_both() {
    let (world, vm) = world();
    let id = hourly(&world, vm);
    tick(&world);
    end(&world, vm, BackupEnd::Failed("the server is away"));
    world.clock.advance(DAY);
    tick(&world);
    assert!(backing_up(&world, vm));
    assert_eq!(world.action(id).done, Some(NOW + DAY));
    end(&world, vm, DONE);
    tick(&world);
    assert!(!backing_up(&world, vm));
    // Back again: what was served is served.
    tick_at(&world, NOW + 600);
    assert!(!backing_up(&world, vm));
}

#[test]
fn a_backup_that_runs_while_the_clock_jumps_is_not_started_again() {
    for jump in JUMPS {
        let (world, vm) = world();
        let id = hourly(&world, vm);
        tick(&world);
        assert!(backing_up(&world, vm));
        world.clock.advance(jump);
        tick(&world);
        tick(&world);
        assert_eq!(world.open_jobs().len(), 1, "jump {jump}");
        end(&world, vm, DONE);
        // What came to pass meanwhile is one run, at most 15 s later.
        let next = world.action(id).time;
        world.clock.advance(15);
        tick(&world);
        assert_eq!(backing_up(&world, vm), next <= world.clock_now(), "jump {jump}");
    }
}
