//! What becomes of planned runs when daemons sleep, slots are full and clocks jump, against a naive model.

use std::collections::BTreeSet;

use chrono::TimeZone;
use chrono_tz::{Asia, Europe, Pacific, Tz, UTC};
use proptest::prelude::*;

use super::*;
use crate::template::Template;

/// Mon 2026-03-02 00:00 UTC: the clocks of Europe and America change in the weeks behind it.
const BEGIN: i64 = 1_772_409_600;

/// An action of VM 7, made at [`BEGIN`].
fn action(text: &str, zone: Tz) -> ScheduledAction {
    let template = Template::parse(&format!("SCHED_ACTION=[ACTION=backup,ARGS=100,{text}]")).unwrap();
    let reading = Reading { start: BEGIN, now: BEGIN, zone };
    ScheduledAction::parse(template.vector("SCHED_ACTION").unwrap(), ScheduleId(1), Parent::Vm, 7, reading).unwrap()
}

fn any_action() -> impl Strategy<Value = ScheduledAction> {
    let zone = prop_oneof![Just("UTC"), Just("Europe/Madrid"), Just("Australia/Lord_Howe"), Just("America/Sao_Paulo")];
    let rule = prop_oneof![
        (BEGIN..BEGIN + 200_000).prop_map(|time| format!("TIME={time},REPEAT=0,DAYS=\"0,1,2,3,4,5,6\"")),
        (BEGIN..BEGIN + 200_000).prop_map(|time| format!("TIME={time},REPEAT=0,DAYS=\"1,4\"")),
        (BEGIN..BEGIN + 200_000, 1..30).prop_map(|(time, hours)| format!("TIME={time},REPEAT=3,DAYS={hours}")),
        (0..24, 0..60).prop_map(|(hour, minute)| format!("CRON=\"{minute} {hour} * * *\"")),
        Just("CRON=\"*/20 1-3 * * *\"".to_owned()),
        Just("CRON=\"0 */6 * * 1-5\"".to_owned()),
    ];
    let jitter = prop_oneof![Just(0), 1..7200_u32, Just(86_400)];
    let window = prop_oneof![Just(String::new()), Just("06:00".to_owned()), "(0[0-9]|1[0-9]|2[0-3]):[0-5]0"];
    (zone, rule, jitter, window).prop_map(|(zone, rule, jitter, window)| {
        action(&format!("{rule},TIMEZONE=\"{zone}\",JITTER={jitter},WINDOW_END=\"{window}\""), UTC)
    })
}

/// Planned times and the times when they are due, each found from the one before.
fn planned(action: &ScheduledAction, until: i64) -> Vec<(i64, i64)> {
    let own_zone = action.zone(UTC);
    let due = |time| (time, time + i64::from(action.delay_of(time, UTC)));
    let mut times = vec![due(action.time)];
    let mut last = action.clone();
    while let Some((time, time_of_day)) =
        last.rule().and_then(|rule| rule.after(last.time, own_zone)).filter(|(time, _)| *time < until)
    {
        times.push(due(time));
        (last.time, last.time_of_day) = (time, time_of_day);
    }
    times
}

/// How the clock goes from one look to the next.
fn any_steps() -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![
        20 => 1..5_000_i64,
        4 => Just(15),
        1 => Just(3600),
        1 => Just(-3600),
        1 => Just(86_400),
        1 => Just(-86_400),
        2 => -30..30_i64,
        1 => 200_000..900_000_i64,
        1 => -900_000..-200_000_i64,
    ];
    proptest::collection::vec(step, 1..250)
}

proptest! {
    #[test]
    fn a_clock_that_jumps_neither_loses_nor_doubles_a_run(first in any_action(), steps in any_steps()) {
        let last_look = BEGIN + steps.iter().filter(|step| **step > 0).sum::<i64>();
        let times = planned(&first, last_look + 86_400 * 9);
        let mut action = first.clone();
        // The model: which planned times ran, and which were made up for by the run of an earlier one. The latter lie ahead
        // again when the clock is put back before them, unless a later one has run since.
        let (mut ran, mut made_up) = (Vec::new(), BTreeSet::new());
        let (mut now, mut seen) = (BEGIN, BEGIN);
        for step in steps {
            now = (now + step).max(BEGIN);
            if now < seen && let Some(replanned) = action.after_step_back(now, UTC) {
                prop_assert!(replanned.time < action.time);
                action = replanned;
            }
            seen = now;
            let newest = ran.last().copied().unwrap_or(i64::MIN);
            made_up.retain(|(time, due)| *due <= now || *time < newest);
            let waiting: Vec<_> =
                times.iter().filter(|planned| planned.0 > newest && !made_up.contains(*planned)).copied().collect();
            // In their order, though jitter and window may make a later one due before an earlier one.
            let first = waiting.first().copied().filter(|(_, due)| *due <= now);
            prop_assert_eq!(action.is_due(now), first.is_some(), "at {}: {:?}, {:?}", now, first, action);
            if let Some((time, _)) = first {
                prop_assert_eq!(action.time, time);
                prop_assert!(!ran.contains(&time), "{} ran twice", time);
                ran.push(time);
                made_up.extend(waiting.into_iter().skip(1).filter(|(_, due)| *due <= now));
                action = action.after_run(now, UTC);
                prop_assert!(!action.is_due(now));
            }
            let is_open = |time: i64, due: i64| !ran.contains(&time) && !made_up.contains(&(time, due));
            let lost = times.iter().find(|(time, due)| *time < action.time && *due <= now && is_open(*time, *due));
            prop_assert_eq!(lost, None);
        }
        prop_assert!(ran.is_sorted());
    }

    #[test]
    fn each_planned_run_starts_within_its_window_or_is_left_out_once(
        first in any_action(), looks in proptest::collection::vec((1..4_000_i64, any::<bool>()), 1..150), count in 1..6_i64,
    ) {
        let mut action = first.clone();
        if action.window_end.is_none() {
            return Ok(());
        }
        action.end = End::Runs(count);
        let (mut now, mut ran, mut left_out) = (BEGIN, Vec::new(), Vec::new());
        for (pause, has_slot) in looks {
            now += pause;
            if !action.is_due(now) {
                continue;
            }
            let closes = action.window_closes(UTC).unwrap();
            prop_assert!(action.due_at().unwrap() < closes, "the jitter leaves nothing of the window");
            let time = action.time;
            if now > closes {
                left_out.push(time);
                action = action.after_skip(now, UTC);
                prop_assert!(action.message.contains("skipped"));
            } else if has_slot {
                ran.push(time);
                action = action.after_run(now, UTC);
            } else {
                continue;
            }
            prop_assert!(action.time > time || !action.is_due(i64::MAX));
        }
        let both: BTreeSet<_> = ran.iter().chain(&left_out).collect();
        prop_assert_eq!(both.len(), ran.len() + left_out.len(), "a run was doubled");
        prop_assert_eq!(action.end, End::Runs(count - ran.len() as i64), "what was left out does not count");
        prop_assert_eq!(action.due_at().is_none(), ran.len() as i64 == count);
    }
}

proptest! {
    #[test]
    fn exactly_the_runs_that_its_end_allows_are_made(
        first in any_action(), looks in proptest::collection::vec(1..90_000_i64, 1..80), count in 1..9_i64, span in -1..40_i64,
    ) {
        let run = |end: End| {
            let mut action = ScheduledAction { end, ..first.clone() };
            let (mut now, mut ran) = (BEGIN, Vec::new());
            for pause in &looks {
                now += pause;
                if action.is_due(now) {
                    ran.push((action.time, now));
                    action = action.after_run(now, UTC);
                }
            }
            (ran, action)
        };
        let (all, _) = run(End::Never);
        // Times grow, and a run is late at most once: the next is planned for after it.
        prop_assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        let counted = usize::try_from(count).unwrap();
        let (ran, last) = run(End::Runs(count));
        prop_assert_eq!(&ran, &all[..counted.min(all.len())]);
        prop_assert_eq!(last.due_at().is_none(), ran.len() == counted);
        let date = first.time + span * 86_400;
        let (ran, _) = run(End::Date(date));
        let allowed: Vec<_> = all.iter().copied().filter(|(time, _)| *time <= date).collect();
        prop_assert_eq!(ran, allowed);
    }
}

#[test]
fn many_that_are_planned_for_one_time_are_spread_evenly_and_each_keeps_its_place() {
    let shared = action("TIME=1772420400,REPEAT=0,DAYS=\"0,1,2,3,4,5,6\",JITTER=3599", UTC);
    let mut per_minute = [0_u32; 60];
    for vm in 0..6000 {
        let mut own = ScheduledAction { parent_id: vm, ..shared.clone() };
        own.delay = own.delay_of(own.time, UTC);
        let delay = own.due_at().unwrap() - own.time;
        per_minute[usize::try_from(delay).unwrap() / 60] += 1;
        let next = own.after_run(own.time + 7200, UTC);
        assert_eq!((next.time, next.due_at()), (own.time + 86_400, Some(own.time + 86_400 + delay)));
    }
    assert!(per_minute.iter().all(|count| (60..150).contains(count)), "{per_minute:?}");
}

#[test]
fn a_jitter_that_is_longer_than_the_period_loses_no_run() {
    let mut hourly = action("TIME=1772409600,REPEAT=3,DAYS=1,JITTER=86400", UTC);
    assert!(hourly.delay > 7200, "the test needs a share of some hours: {}", hourly.delay);
    let mut planned = Vec::new();
    for now in (BEGIN..BEGIN + 4 * 86_400).step_by(900) {
        if hourly.is_due(now) {
            planned.push(hourly.time);
            hourly = hourly.after_run(now, UTC);
        }
    }
    assert!(planned.len() > 48 && planned.windows(2).all(|pair| pair[1] - pair[0] == 3600), "{planned:?}");
}

#[test]
fn a_window_shorter_than_the_jitter_is_filled_and_not_overrun() {
    for vm in 0..500 {
        let mut own = action("CRON=\"0 22 * * *\",JITTER=86400,WINDOW_END=\"23:00\"", Europe::Madrid);
        own.parent_id = vm;
        own = own.after_run(own.time, Europe::Madrid);
        let closes = own.window_closes(Europe::Madrid).unwrap();
        assert_eq!(closes, own.time + 3600);
        assert!(own.due_at().unwrap() <= closes - 900);
    }
}

#[test]
fn a_window_is_as_long_as_the_local_clock_makes_it() {
    let text = "CRON=\"0 1 * * *\",TIMEZONE=\"Europe/Madrid\",WINDOW_END=\"04:00\",JITTER=10800";
    let mut nightly = action(text, Asia::Kathmandu);
    let mut lengths = BTreeSet::new();
    for _ in 0..365 {
        let closes = nightly.window_closes(Asia::Kathmandu).unwrap();
        lengths.insert((closes - nightly.time) / 3600);
        assert!(nightly.due_at().unwrap() < closes);
        nightly = nightly.after_run(nightly.due_at().unwrap(), Asia::Kathmandu);
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn a_closed_window_is_told_and_uses_up_no_run_but_the_end_date_stands() {
    let text = "TIME=1772488800,REPEAT=0,DAYS=\"0,1,2,3,4,5,6\",WINDOW_END=\"23:00\"";
    let late = action(&format!("{text},END_TYPE=1,END_VALUE=2"), UTC);
    let skipped = late.after_skip(late.time + 3700, UTC);
    assert_eq!(
        skipped.message,
        "Mon Mar  2 23:01:40 2026 : [backup] skipped: the run planned for 2026-03-02 22:00 could not start before its WINDOW_END, 2026-03-02 23:00"
    );
    assert_eq!((skipped.end, skipped.done, skipped.time), (End::Runs(2), None, late.time + 86_400));
    let last = action(&format!("{text},END_TYPE=2,END_VALUE=1772488800"), UTC);
    assert!(last.is_due(last.time));
    let skipped = last.after_skip(last.time + 3700, UTC);
    assert_eq!((skipped.time, skipped.due_at()), (last.time, None));
    let once = action("TIME=1772488800,WINDOW_END=\"23:00\"", UTC);
    assert_eq!(once.after_skip(once.time + 3700, UTC).due_at(), None);
    // A later time given by hand makes it wait anew.
    let vector: Vector = [("TIME", "1772575200")].into_iter().collect();
    let reading = Reading { start: BEGIN, now: once.time + 4000, zone: UTC };
    let again = once.after_skip(once.time + 3700, UTC).updated(&vector, reading).unwrap();
    assert_eq!(again.due_at(), Some(1_772_575_200));
}

#[test]
fn a_time_chosen_by_the_user_does_not_move_when_the_clock_is_put_back() {
    for text in ["TIME=1775000000,REPEAT=0,DAYS=1", "TIME=1775000000", "TIME=1775000000,CRON=\"0 4 * * *\""] {
        assert_eq!(action(text, UTC).after_step_back(BEGIN - 86_400, UTC), None, "{text}");
    }
    let by_rule = action("CRON=\"0 4 * * *\"", UTC);
    let earlier = by_rule.after_step_back(BEGIN - 86_400, UTC).unwrap();
    assert_eq!((by_rule.time, earlier.time), (BEGIN + 4 * 3600, BEGIN - 20 * 3600));
}

#[test]
fn an_action_stored_before_planned_times_were_remembered_goes_on() {
    let new = action("TIME=1772420400,REPEAT=0,DAYS=\"0,1,2,3,4,5,6\"", UTC);
    // As the daemon stored it then, after a run a minute late.
    let stored = ScheduledAction { done: Some(new.time + 60), time: new.time + 86_400, ..new.clone() };
    assert!(!stored.is_due(new.time + 3600) && stored.is_due(new.time + 86_400));
    let over = ScheduledAction { done: Some(new.time + 60), end: End::Runs(0), ..new };
    assert_eq!(over.due_at(), None);
}

#[test]
fn a_day_that_the_calendar_leaves_out_moves_the_run_and_not_those_after_it() {
    let local = |time| Pacific::Apia.timestamp_opt(time, 0).unwrap().format("%m-%d %H:%M").to_string();
    let mut daily = action("CRON=\"30 21 * * *\",TIMEZONE=\"Pacific/Apia\"", UTC);
    daily = daily.after_run(1_325_150_000, UTC);
    daily.served = None;
    daily.plan(1_325_150_000, UTC);
    let mut times = Vec::new();
    for _ in 0..4 {
        times.push(local(daily.time));
        daily = daily.after_run(daily.time, UTC);
    }
    assert_eq!(times, ["12-29 21:30", "12-31 00:00", "12-31 21:30", "01-01 21:30"]);
}
