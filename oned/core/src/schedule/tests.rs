use chrono::TimeZone;
use chrono_tz::{America, Asia, Australia, Europe, Pacific, UTC};
use proptest::prelude::*;

use super::*;
use crate::template::Template;

const NOON: i64 = 1_668_254_400; // Sat 2022-11-12 12:00:00 UTC

const READING: Reading = Reading { start: NOON, now: NOON, zone: UTC };

fn vector(text: &str) -> Vector {
    Template::parse(&format!("SCHED_ACTION=[{text}]")).unwrap().vector("SCHED_ACTION").unwrap().clone()
}

fn parse_for(parent: Parent, text: &str) -> Result<ScheduledAction, String> {
    ScheduledAction::parse(&vector(text), ScheduleId(0), parent, 7, READING).map_err(|refusal| refusal.to_string())
}

fn parse(text: &str) -> Result<ScheduledAction, String> {
    parse_for(Parent::Vm, text)
}

fn at(zone: Tz, text: &str) -> i64 {
    let local = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
    zone.from_local_datetime(&local).earliest().unwrap().timestamp()
}

fn local(zone: Tz, time: i64) -> String {
    zone.timestamp_opt(time, 0).unwrap().format("%Y-%m-%d %H:%M %Z").to_string()
}

/// The next `count` planned times when every run happens a minute late.
fn runs(zone: Tz, mut action: ScheduledAction, count: usize) -> Vec<String> {
    let mut out = Vec::new();
    for _ in 0..count {
        if !action.is_due(action.time) {
            break;
        }
        action = action.after_run(action.time + 60, zone);
        out.push(local(zone, action.time));
    }
    out
}

#[test]
fn an_action_as_clients_send_it_is_read_and_shown() {
    let action =
        parse(r#"ACTION=backup, ARGS="100,0", TIME=1669901324, REPEAT=0, DAYS="3,1,3", END_TYPE=1, END_VALUE=5"#)
            .unwrap();
    assert_eq!((action.repeat, action.days.as_slice(), action.end), (Some(Repeat::Weekly), &[1, 3][..], End::Runs(5)));
    assert_eq!(action.backup_args(), Ok((DatastoreId(100), false)));
    let shown: Vec<String> = action.to_vector().iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        shown.join(" "),
        "ID=0 PARENT_ID=7 TYPE=VM ACTION=backup ARGS=100,0 TIME=1669901324 REPEAT=0 DAYS=1,3 END_TYPE=1 END_VALUE=5 DONE=-1 MESSAGE= WARNING=0"
    );
    let plain = parse("ACTION=hold, TIME=1").unwrap();
    assert_eq!((plain.repeat, plain.end, plain.done, plain.warning), (None, End::Unset, None, 0));
}

#[test]
fn relative_times_count_from_the_creation_of_the_vm() {
    let action = parse("ACTION=terminate, TIME=+3600, WARNING=+60").unwrap();
    assert_eq!((action.time, action.warning), (NOON + 3600, NOON + 60));
    assert_eq!(
        parse_for(Parent::BackupJob, "TIME=+3600").unwrap_err(),
        "Relative time values are not allowed for backup jobs: +3600"
    );
}

#[test]
fn the_action_of_a_job_is_always_backup() {
    let action = parse_for(Parent::BackupJob, r#"ACTION=terminate, ARGS="1", TIME=5"#).unwrap();
    assert_eq!((action.action.as_str(), action.args.as_str()), ("backup", ""));
}

#[test]
fn wrong_attributes_are_refused_with_the_known_texts() {
    let cases = [
        ("ACTION=fly, TIME=1", "fly is not supported."),
        ("TIME=1", " is not supported."),
        ("ACTION=hold", "Unable to parse the time value or value is empty: "),
        ("ACTION=hold, TIME=soon", "Unable to parse the time value or value is empty: soon"),
        ("ACTION=hold, TIME=-1", "Unable to parse the time value or value is empty: -1"),
        ("ACTION=hold, TIME=+-5", "Unable to parse the time value or value is empty: +-5"),
        (
            "ACTION=hold, TIME=999999999999999999999",
            "Unable to parse the time value or value is empty: 999999999999999999999",
        ),
        ("ACTION=hold, TIME=1, REPEAT=7, DAYS=1", "Wrong REPEAT value: 7"),
        ("ACTION=hold, TIME=1, REPEAT=0", "Repeat set, but DAYS are empty"),
        ("ACTION=hold, TIME=1, REPEAT=0, DAYS=7", "Wrong DAYS value: 7, days of the week must be in the range [0,6]"),
        ("ACTION=hold, TIME=1, REPEAT=1, DAYS=0", "Wrong DAYS value: 0, days of the month must be in the range [1,31]"),
        (
            "ACTION=hold, TIME=1, REPEAT=2, DAYS=366",
            "Wrong DAYS value: 366, days of the year must be in the range [0,365]",
        ),
        ("ACTION=hold, TIME=1, REPEAT=3, DAYS=169", "Wrong DAYS value: 169, hours must be in the range [1,168]"),
        (
            "ACTION=hold, TIME=1, REPEAT=3, DAYS=\"1,2\"",
            "Wrong DAYS value: an hourly repetition takes exactly one number of hours",
        ),
        ("ACTION=hold, TIME=1, REPEAT=0, DAYS=\"1,x\"", "Wrong DAYS value: x is no number"),
        ("ACTION=hold, TIME=1, END_TYPE=3", "Wrong END_TYPE value: 3"),
        ("ACTION=hold, TIME=1, END_TYPE=1, END_VALUE=0", "Wrong END_VALUE value: 0, runs are counted from 1"),
        ("ACTION=hold, TIME=1, END_TYPE=2, END_VALUE=-5", "Wrong END_VALUE value: -5 is no date"),
    ];
    for (text, wanted) in cases {
        assert_eq!(parse(text).unwrap_err(), wanted, "{text}");
    }
    assert!(parse("ACTION=backup, ARGS=x, TIME=1").unwrap().backup_args().is_err());
    assert_eq!(parse("ACTION=backup, ARGS=\"-1,1\", TIME=1").unwrap().backup_args(), Ok((DatastoreId(-1), true)));
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    let action = parse("ACTION=backup, ARGS=100, TIME=5000, REPEAT=0, DAYS=1, END_TYPE=0").unwrap();
    let updated = action.updated(&vector("DAYS=\"5,6\""), READING).unwrap();
    assert_eq!(updated, ScheduledAction { days: vec![5, 6], ..action.clone() });
    assert!(action.updated(&vector("REPEAT=3, DAYS=500"), READING).is_err());
    let plain = action.updated(&vector("REPEAT=-1"), READING).unwrap();
    assert_eq!(plain.repeat, None);
    assert_eq!(action.updated(&action.to_vector(), READING), Ok(action));
}

#[test]
fn a_moved_or_extended_action_runs_again() {
    let once = parse("ACTION=hold, TIME=5000").unwrap().after_run(5001, UTC);
    assert!(!once.is_due(9999));
    assert!(once.updated(&vector("TIME=4000"), READING).unwrap().is_due(9999));
    assert!(!once.updated(&vector("TIME=5000"), READING).unwrap().is_due(9999));

    let text = format!("ACTION=hold, TIME={NOON}, REPEAT=3, DAYS=1, END_TYPE=1, END_VALUE=1");
    let ended = parse(&text).unwrap().after_run(NOON + 5, UTC);
    assert_eq!((ended.end, ended.time), (End::Runs(0), NOON));
    assert_eq!(ended.updated(&ended.to_vector(), READING), Ok(ended.clone()));
    let extended = ended.updated(&vector("END_VALUE=2"), READING).unwrap();
    assert_eq!((extended.end, extended.time), (End::Runs(2), NOON + 3600));
}

#[test]
fn an_action_is_due_from_its_time_until_it_ran() {
    let action = parse("ACTION=hold, TIME=100").unwrap();
    assert_eq!([99, 100, 101].map(|now| action.is_due(now)), [false, true, true]);
    let failed = action.after_failure(NOON, UTC, "[hold] no");
    assert_eq!(failed.message, "Sat Nov 12 12:00:00 2022 : [hold] no");
    assert!(failed.is_due(NOON));
    let done = failed.after_run(100, UTC);
    assert_eq!((done.done, done.message.as_str(), done.time), (Some(100), "", 100));
    assert!(!done.is_due(1000));
}

#[test]
fn nothing_runs_whose_planned_time_is_after_the_end_date() {
    let text = format!("ACTION=hold, TIME={NOON}, REPEAT=0, DAYS=6, END_TYPE=2, END_VALUE={}", NOON + 8 * 86_400);
    let mut action = parse(&text).unwrap();
    let mut planned = Vec::new();
    while action.is_due(action.time) && planned.len() < 10 {
        planned.push(action.time);
        action = action.after_run(action.time + 30, UTC);
    }
    assert_eq!(planned, [NOON, NOON + 7 * 86_400]);
    let never =
        parse(&format!("ACTION=hold, TIME={NOON}, REPEAT=0, DAYS=6, END_TYPE=2, END_VALUE={}", NOON - 1)).unwrap();
    assert!(!never.is_due(NOON + 1));
}

#[test]
fn a_count_of_n_gives_n_runs() {
    for count in 1..5 {
        let text = format!("ACTION=hold, TIME={NOON}, REPEAT=1, DAYS=\"1,15\", END_TYPE=1, END_VALUE={count}");
        let mut action = parse(&text).unwrap();
        let mut ran = 0;
        for day in 0..400 {
            let now = NOON + day * 86_400;
            if action.is_due(now) {
                ran += 1;
                action = action.after_run(now, UTC);
            }
        }
        assert_eq!(ran, count);
    }
}

#[test]
fn a_daemon_that_slept_runs_once_and_goes_on_in_the_future() {
    let action = parse(&format!("ACTION=hold, TIME={NOON}, REPEAT=0, DAYS=\"0,1,2,3,4,5,6\"")).unwrap();
    let woke = NOON + 30 * 86_400 + 7200;
    let after = action.after_run(woke, UTC);
    assert_eq!(after.time, NOON + 31 * 86_400);
    assert!(!after.is_due(woke));
    let hourly = parse(&format!("ACTION=hold, TIME={NOON}, REPEAT=3, DAYS=5")).unwrap();
    assert_eq!(hourly.after_run(NOON + 5 * 3600, UTC).time, NOON + 10 * 3600);
    assert_eq!(hourly.after_run(NOON + 30 * 86_400, UTC).time, NOON + 145 * 5 * 3600);
}

#[test]
fn a_preset_from_long_ago_starts_in_the_future_without_using_up_runs() {
    let text = format!("ACTION=hold, TIME={NOON}, REPEAT=0, DAYS=6, END_TYPE=1, END_VALUE=3");
    let preset = parse(&text).unwrap();
    assert_eq!(preset.starting_after(NOON - 1, UTC), preset);
    let started = preset.starting_after(NOON + 100 * 86_400, UTC);
    assert_eq!((started.time, started.end, started.done), (NOON + 105 * 86_400, End::Runs(3), None));
    let once = parse(&format!("ACTION=hold, TIME={NOON}")).unwrap();
    assert_eq!(once.starting_after(NOON + 5, UTC), once);
}

#[test]
fn months_and_years_without_the_day_are_skipped() {
    let month_end = parse(&format!("ACTION=hold, TIME={}, REPEAT=1, DAYS=31", at(UTC, "2023-01-31 04:00"))).unwrap();
    assert_eq!(runs(UTC, month_end, 3), ["2023-03-31 04:00 UTC", "2023-05-31 04:00 UTC", "2023-07-31 04:00 UTC"]);
    let leap_day = parse(&format!("ACTION=hold, TIME={}, REPEAT=2, DAYS=365", at(UTC, "2096-12-31 04:00"))).unwrap();
    assert_eq!(runs(UTC, leap_day, 2), ["2104-12-31 04:00 UTC", "2108-12-31 04:00 UTC"]);
    let yearly = parse(&format!("ACTION=hold, TIME={}, REPEAT=2, DAYS=\"0,59\"", at(UTC, "2023-01-01 04:00"))).unwrap();
    assert_eq!(runs(UTC, yearly, 3), ["2023-03-01 04:00 UTC", "2024-01-01 04:00 UTC", "2024-02-29 04:00 UTC"]);
}

#[test]
fn sunday_is_day_zero_of_the_week() {
    let action = parse(&format!("ACTION=hold, TIME={NOON}, REPEAT=0, DAYS=\"0,3\"")).unwrap();
    assert_eq!(runs(UTC, action, 3), ["2022-11-13 12:00 UTC", "2022-11-16 12:00 UTC", "2022-11-20 12:00 UTC"]);
}

#[test]
fn the_hour_stays_when_the_clocks_change() {
    let daily = |zone: Tz, first: &str, count| {
        let text = format!("ACTION=hold, TIME={}, REPEAT=0, DAYS=\"0,1,2,3,4,5,6\"", at(zone, first));
        runs(zone, parse(&text).unwrap(), count)
    };
    assert_eq!(daily(Europe::Berlin, "2022-10-29 12:00", 2), ["2022-10-30 12:00 CET", "2022-10-31 12:00 CET"]);
    assert_eq!(daily(Europe::Berlin, "2023-03-25 12:00", 2), ["2023-03-26 12:00 CEST", "2023-03-27 12:00 CEST"]);
    assert_eq!(daily(America::New_York, "2022-11-05 12:00", 2), ["2022-11-06 12:00 EST", "2022-11-07 12:00 EST"]);
    assert_eq!(daily(America::New_York, "2023-03-11 12:00", 2), ["2023-03-12 12:00 EDT", "2023-03-13 12:00 EDT"]);
    // A time that the spring gap swallows runs at its end, and the day after at its own hour again.
    assert_eq!(
        daily(Europe::Berlin, "2023-03-25 02:30", 3),
        ["2023-03-26 03:00 CEST", "2023-03-27 02:30 CEST", "2023-03-28 02:30 CEST"]
    );
    assert_eq!(daily(America::New_York, "2023-03-11 02:15", 2), ["2023-03-12 03:00 EDT", "2023-03-13 02:15 EDT"]);
    // A time that occurs twice in autumn runs the first time only.
    assert_eq!(daily(Europe::Berlin, "2022-10-29 02:30", 2), ["2022-10-30 02:30 CEST", "2022-10-31 02:30 CET"]);
    assert_eq!(daily(America::New_York, "2022-11-05 01:30", 2), ["2022-11-06 01:30 EDT", "2022-11-07 01:30 EST"]);
    // Half an hour in Lord Howe; a whole day in Samoa.
    assert_eq!(daily(Australia::Lord_Howe, "2022-10-01 02:10", 2), ["2022-10-02 02:30 +11", "2022-10-03 02:10 +11"]);
    assert_eq!(daily(Pacific::Apia, "2011-12-29 10:00", 3)[..2], ["2011-12-31 00:00 +14", "2011-12-31 10:00 +14"]);
}

#[test]
fn hours_are_hours_whatever_the_clocks_do() {
    let action =
        parse(&format!("ACTION=hold, TIME={}, REPEAT=3, DAYS=24", at(Europe::Berlin, "2023-03-25 12:00"))).unwrap();
    assert_eq!(runs(Europe::Berlin, action, 1), ["2023-03-26 13:00 CEST"]);
}

#[test]
fn far_times_end_a_repetition_instead_of_overflowing() {
    let action = parse(&format!("ACTION=hold, TIME={MAX_TIME}, REPEAT=2, DAYS=1")).unwrap();
    assert_eq!(action.after_run(MAX_TIME, UTC).time, MAX_TIME);
    assert_eq!(action.after_run(i64::MAX, UTC).time, MAX_TIME);
    let hourly = parse("ACTION=hold, TIME=0, REPEAT=3, DAYS=1").unwrap();
    assert_eq!(hourly.after_run(i64::MAX, UTC).time, 0);
    assert_eq!(action.after_failure(i64::MAX, UTC, "x").message, format!("{} : x", i64::MAX));
}

#[test]
fn retries_are_spaced_further_and_further_apart() {
    assert_eq!([0, 1, 2, 3, 8, 9, 100, u32::MAX].map(retry_delay), [15, 15, 30, 60, 1920, 3600, 3600, 3600]);
}

fn any_rule() -> impl Strategy<Value = (Repeat, Vec<u32>)> {
    let list = |lowest: u32, highest: u32| {
        proptest::collection::btree_set(lowest..=highest, 1..4).prop_map(|days| days.into_iter().collect::<Vec<_>>())
    };
    prop_oneof![
        list(0, 6).prop_map(|days| (Repeat::Weekly, days)),
        list(1, 31).prop_map(|days| (Repeat::Monthly, days)),
        list(0, 365).prop_map(|days| (Repeat::Yearly, days)),
        (1..=168_u32).prop_map(|hours| (Repeat::Hourly, vec![hours])),
    ]
}

fn any_zone() -> impl Strategy<Value = Tz> {
    prop_oneof![
        Just(UTC),
        Just(Europe::Berlin),
        Just(America::New_York),
        Just(Australia::Lord_Howe),
        Just(Pacific::Apia),
        (0..chrono_tz::TZ_VARIANTS.len()).prop_map(|index| chrono_tz::TZ_VARIANTS[index]),
    ]
}

fn action(time: i64, rule: (Repeat, Vec<u32>), end: End) -> ScheduledAction {
    let mut action = parse(&format!("ACTION=backup, ARGS=100, TIME={time}")).unwrap();
    (action.repeat, action.days, action.end) = (Some(rule.0), rule.1, end);
    action
}

/// A daemon that wakes at growing times, sometimes after long pauses: planned time and time of each run.
fn dispatch(mut action: ScheduledAction, zone: Tz, pauses: &[i64]) -> (Vec<(i64, i64)>, ScheduledAction) {
    let mut now = action.time;
    let mut ran = Vec::new();
    for pause in pauses {
        now += pause;
        if action.is_due(now) {
            ran.push((action.time, now));
            action = action.after_run(now, zone);
        }
    }
    (ran, action)
}

proptest! {
    #[test]
    fn planned_times_grow_and_a_run_is_never_made_up_for_twice(
        time in 0..4_000_000_000_i64,
        rule in any_rule(),
        zone in any_zone(),
        pauses in proptest::collection::vec(prop_oneof![1..90_i64, 3_600..200_000_i64, 1_000_000..40_000_000_i64], 1..40),
    ) {
        let (ran, last) = dispatch(action(time, rule, End::Never), zone, &pauses);
        for pair in ran.windows(2) {
            let ((planned, at), (next, _)) = (pair[0], pair[1]);
            prop_assert!(planned <= at);
            prop_assert!(next > at, "the run at {} left a run planned for {}", at, next);
        }
        if let Some((_, at)) = ran.last() {
            prop_assert!(last.time > *at);
        }
    }

    #[test]
    fn the_next_time_is_the_first_that_the_rule_allows(
        time in 0..4_000_000_000_i64,
        rule in any_rule(),
        zone in any_zone(),
        late in 0..40_000_000_i64,
    ) {
        let now = time + late;
        let next = action(time, rule.clone(), End::Never).after_run(now, zone);
        let wanted = zone.timestamp_opt(time, 0).unwrap().time();
        let listed = |date: chrono::NaiveDate| match rule.0 {
            Repeat::Weekly => rule.1.contains(&chrono::Datelike::weekday(&date).num_days_from_sunday()),
            Repeat::Monthly => rule.1.contains(&chrono::Datelike::day(&date)),
            Repeat::Yearly => rule.1.contains(&chrono::Datelike::ordinal0(&date)),
            Repeat::Hourly => false,
        };
        if rule.0 == Repeat::Hourly {
            let step = i64::from(rule.1[0]) * 3600;
            prop_assert_eq!((next.time - time) % step, 0);
            prop_assert!(next.time > now && next.time - step <= now);
            return Ok(());
        }
        // Seen the other way round: no listed local time lies between now and the next planned time.
        let mut date = zone.timestamp_opt(now, 0).unwrap().date_naive();
        let last = zone.timestamp_opt(next.time, 0).unwrap().date_naive();
        while date <= last {
            if listed(date) && let Some(run) = zone.from_local_datetime(&date.and_time(wanted)).earliest() {
                prop_assert!(run.timestamp() <= now || run.timestamp() >= next.time, "{} was left out", run);
            }
            date = date.succ_opt().unwrap();
        }
        let landed = zone.timestamp_opt(next.time, 0).unwrap();
        prop_assert!(landed.time() == wanted && listed(landed.date_naive()) || next.time_of_day.is_some());
    }

    #[test]
    fn a_count_is_kept_exactly(
        rule in any_rule(), zone in any_zone(), count in 1..5_i64, time in 0..4_000_000_000_i64,
        pauses in proptest::collection::vec(1_000_000..400_000_000_i64, 30..31),
    ) {
        let (ran, last) = dispatch(action(time, rule, End::Runs(count)), zone, &pauses);
        prop_assert_eq!(ran.len() as i64, count);
        prop_assert_eq!(last.end, End::Runs(0));
    }

    #[test]
    fn no_run_is_planned_after_the_end_date(
        rule in any_rule(), zone in any_zone(), time in 0..4_000_000_000_i64, span in -1_000_000..90_000_000_i64,
        pauses in proptest::collection::vec(1..10_000_000_i64, 1..60),
    ) {
        let end = time + span;
        let (ran, last) = dispatch(action(time, rule, End::Date(end)), zone, &pauses);
        prop_assert!(ran.iter().all(|(planned, _)| *planned <= end));
        prop_assert!(ran.iter().filter(|(_, at)| *at > end).count() <= 1, "more than one late run");
        prop_assert!(last.time <= end.max(time));
    }

    #[test]
    fn no_values_make_it_panic(
        time in any::<String>(), repeat in any::<i8>(), days in "[0-9,x -]{0,12}", end_type in any::<i8>(), value in any::<i64>(),
        now in any::<i64>(), zone in any_zone(),
    ) {
        let vector: Vector = [
            ("ACTION", "backup".to_owned()),
            ("TIME", time),
            ("REPEAT", repeat.to_string()),
            ("DAYS", days),
            ("END_TYPE", end_type.to_string()),
            ("END_VALUE", value.to_string()),
        ]
        .into_iter()
        .collect();
        if let Ok(action) = ScheduledAction::parse(&vector, ScheduleId(1), Parent::Vm, 1, Reading { start: now, now, zone }) {
            let _ = action.after_run(now, zone);
        }
        let mut wild = parse("ACTION=hold, TIME=1, REPEAT=0, DAYS=1").unwrap();
        wild.time = value;
        let _ = wild.after_run(now, zone);
        wild.repeat = Some(Repeat::Hourly);
        let _ = wild.after_run(now, zone);
    }
}

#[test]
fn our_own_attributes_are_read_shown_beside_and_taken_away() {
    let text = r#"ACTION=backup, ARGS="100", CRON="  0  2 * * mon-fri ", TIMEZONE="Europe/Madrid", JITTER=600, WINDOW_END="05:30", KEEP_LAST=14, RETRY=3"#;
    let action = parse(text).unwrap();
    let show = |action: &ScheduledAction| {
        let pairs = action.info_vector()?;
        Some(pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" "))
    };
    let shown = "ID=0 TIMEZONE=Europe/Madrid CRON=0 2 * * mon-fri JITTER=600 WINDOW_END=05:30 KEEP_LAST=14 RETRY=3";
    assert_eq!(show(&action).as_deref(), Some(shown));
    // The first Monday after the Saturday of READING, though the daemon lives elsewhere.
    assert_eq!(local(Europe::Madrid, action.time), "2022-11-14 02:00 CET");
    assert_eq!(action.updated(&action.info_vector().unwrap(), READING), Ok(action.clone()));
    let bare =
        action.updated(&vector(r#"CRON="", TIMEZONE="", JITTER="", WINDOW_END="", KEEP_LAST="", RETRY="""#), READING);
    let bare = bare.unwrap();
    assert_eq!((show(&bare), bare.time, bare.is_repeating()), (None, action.time, false));
    assert_eq!(show(&parse("ACTION=hold, TIME=1").unwrap()), None);
    let keeps_all = parse("ACTION=backup, ARGS=100, TIME=1, KEEP_LAST=0, RETRY=0").unwrap();
    assert_eq!(show(&keeps_all).as_deref(), Some("ID=0 KEEP_LAST=0 RETRY=0"));
}

#[test]
fn wrong_values_of_our_own_attributes_are_refused_by_name() {
    let zone = "it must be the IANA name of a zone, such as Europe/Madrid";
    let window = "it must be a local time of day from 00:00 to 23:59";
    let cases = [
        ("TIME=1, TIMEZONE=Mars", format!("Wrong TIMEZONE value: Mars, {zone}")),
        ("TIME=1, TIMEZONE=\"europe/madrid\"", format!("Wrong TIMEZONE value: europe/madrid, {zone}")),
        ("TIME=1, JITTER=-1", "Wrong JITTER value: -1, it must be seconds from 0 to 86400".to_owned()),
        ("TIME=1, JITTER=86401", "Wrong JITTER value: 86401, it must be seconds from 0 to 86400".to_owned()),
        ("TIME=1, JITTER=long", "Wrong JITTER value: long, it must be seconds from 0 to 86400".to_owned()),
        ("TIME=1, WINDOW_END=\"24:00\"", format!("Wrong WINDOW_END value: 24:00, {window}")),
        ("TIME=1, WINDOW_END=\"5:00\"", format!("Wrong WINDOW_END value: 5:00, {window}")),
        ("TIME=1, WINDOW_END=\"05:60\"", format!("Wrong WINDOW_END value: 05:60, {window}")),
        (
            "TIME=1, KEEP_LAST=-2",
            "Wrong KEEP_LAST value: -2, it must be a number of restore points, 0 to keep all that this action makes"
                .to_owned(),
        ),
        ("TIME=1, RETRY=11", "Wrong RETRY value: 11, it must be a number from 0 to 10".to_owned()),
        (
            "CRON=\"0 0 31 2 *\"",
            "Wrong CRON value: 0 0 31 2 *, it never fires again; it must name a date that exists".to_owned(),
        ),
        (
            "CRON=\"0 0 * * *\", TIME=253402300799",
            "Wrong CRON value: 0 0 * * *, it never fires again; it must name a date that exists".to_owned(),
        ),
        (
            "CRON=\"0 0 * * *\", REPEAT=0, DAYS=1",
            "CRON cannot be given together with REPEAT and DAYS; leave one of them out".to_owned(),
        ),
        (
            "CRON=\"0 0 * * *\", DAYS=1",
            "CRON cannot be given together with REPEAT and DAYS; leave one of them out".to_owned(),
        ),
    ];
    for (text, wanted) in cases {
        assert_eq!(parse(&format!("ACTION=backup, ARGS=100, {text}")).unwrap_err(), wanted, "{text}");
    }
    let refused = parse_for(Parent::BackupJob, "TIME=1, KEEP_LAST=3, RETRY=3").unwrap_err();
    assert_eq!(refused, "RETRY of a backup job is an attribute of its template, not of its schedule");
    for (key, value) in [("WINDOW_END", "\"05:00\""), ("KEEP_LAST", "3"), ("RETRY", "0")] {
        let refused = parse(&format!("ACTION=hold, TIME=1, {key}={value}")).unwrap_err();
        assert_eq!(refused, format!("{key} is for backups only: leave it out, or empty, with ACTION hold"));
    }
}

#[test]
fn values_without_measure_are_refused_and_not_repeated_in_full() {
    let days = vec!["1"; 10_000].join(",");
    let refused = parse(&format!("ACTION=hold, TIME=1, REPEAT=2, DAYS=\"{days}\"")).unwrap_err();
    assert_eq!(refused, "Wrong DAYS value: it lists more than 366 numbers");
    let every: Vec<String> = (0..366).map(|day| day.to_string()).collect();
    assert!(parse(&format!("ACTION=hold, TIME=1, REPEAT=2, DAYS=\"{}\"", every.join(","))).is_ok());
    let long = "9".repeat(100_000);
    for text in [
        format!("ACTION={long}, TIME=1"),
        format!("ACTION=hold, TIME={long}"),
        format!("ACTION=hold, TIME=+{long}"),
        format!("ACTION=hold, TIME=1, WARNING={long}"),
        format!("ACTION=hold, TIME=1, REPEAT={long}"),
        format!("ACTION=hold, TIME=1, REPEAT=0, DAYS={long}"),
        format!("ACTION=hold, TIME=1, END_TYPE={long}"),
        format!("ACTION=hold, TIME=1, END_TYPE=1, END_VALUE={long}"),
        format!("ACTION=hold, TIME=1, TIMEZONE={long}"),
        format!("ACTION=hold, TIME=1, CRON={long}"),
        format!("ACTION=hold, TIME=1, CRON=\"{} * * * *\"", "9".repeat(300)),
        format!("ACTION=hold, TIME=1, JITTER={long}"),
        format!("ACTION=backup, ARGS={long}, TIME=1"),
    ] {
        let refused = parse(&text).unwrap_err();
        assert!(refused.len() < 600 && !refused.is_empty(), "{refused}");
    }
    for (end_value, wanted) in
        [("253402300800", "is no date"), ("-1", "is no date"), ("9999999999999999999", "must be a number")]
    {
        let refused =
            parse(&format!("ACTION=hold, TIME=1, REPEAT=0, DAYS=1, END_TYPE=2, END_VALUE={end_value}")).unwrap_err();
        assert!(refused.starts_with("Wrong END_VALUE value: ") && refused.ends_with(wanted), "{refused}");
    }
    assert!(parse("ACTION=hold, TIME=253402300799").is_ok() && parse("ACTION=hold, TIME=253402300800").is_err());
    assert!(parse("ACTION=hold, TIME=\"+9223372036854775807\"").is_err());
}

#[test]
fn the_rule_that_is_given_replaces_the_other() {
    let by_cron = parse("ACTION=backup, ARGS=100, CRON=\"@daily\"").unwrap();
    assert_eq!(local(UTC, by_cron.time), "2022-11-13 00:00 UTC");
    let by_days = by_cron.updated(&vector("REPEAT=0, DAYS=\"1,2\""), READING).unwrap();
    assert_eq!((by_days.cron.as_deref(), by_days.repeat, by_days.time), (None, Some(Repeat::Weekly), by_cron.time));
    let again = by_days.updated(&vector("CRON=\"0 12 * * 1\""), READING).unwrap();
    assert_eq!((again.repeat, again.days.len(), again.info_vector().is_some()), (None, 0, true));
    assert_eq!(local(UTC, again.time), "2022-11-14 12:00 UTC");
    // A client that knows nothing of CRON sends back all that it saw.
    assert_eq!(again.updated(&again.to_vector(), READING), Ok(again.clone()));
    let refused = again.updated(&vector("DAYS=3"), READING).unwrap_err().to_string();
    assert_eq!(refused, "DAYS needs REPEAT: this action repeats by CRON");
}

#[test]
fn a_time_given_with_cron_is_the_earliest_start_and_what_changes_counts_from_now() {
    let from = at(UTC, "2022-12-24 00:00");
    let action = parse(&format!("ACTION=hold, CRON=\"0 6 * * *\", TIME={from}")).unwrap();
    assert_eq!(local(UTC, action.time), "2022-12-24 06:00 UTC");
    let exact = parse(&format!("ACTION=hold, CRON=\"0 6 * * *\", TIME={}", from + 6 * 3600)).unwrap();
    assert_eq!(exact.time, action.time);
    let past = parse("ACTION=hold, CRON=\"0 6 * * *\", TIME=5").unwrap();
    assert_eq!(local(UTC, past.time), "2022-11-13 06:00 UTC", "a new action has missed nothing");
    let moved = past.updated(&vector(&format!("TIME={from}")), READING).unwrap();
    assert_eq!(moved.time, action.time);
    let later = Reading { now: NOON + 10 * 86_400, ..READING };
    let elsewhere = past.updated(&vector("TIMEZONE=\"Asia/Kathmandu\""), later).unwrap();
    assert_eq!(local(Asia::Kathmandu, elsewhere.time), "2022-11-23 06:00 +0545");
    // What waits for a slot goes on waiting when something else is changed.
    let waiting = past.updated(&vector("KEEP_LAST=\"\", JITTER=0"), later).unwrap();
    assert_eq!(waiting, past);
    assert!(waiting.is_due(later.now));
}

#[test]
fn a_repetition_in_a_zone_of_its_own_keeps_that_zone_s_hour() {
    let text = format!(
        "ACTION=hold, TIME={}, REPEAT=0, DAYS=\"0,1,2,3,4,5,6\", TIMEZONE=\"America/New_York\"",
        at(America::New_York, "2023-03-11 02:15")
    );
    let action = parse(&text).unwrap();
    let mut times = Vec::new();
    let mut next = action;
    for _ in 0..2 {
        next = next.after_run(next.time + 60, Europe::Berlin);
        times.push(local(America::New_York, next.time));
    }
    assert_eq!(times, ["2023-03-12 03:00 EDT", "2023-03-13 02:15 EDT"]);
}

#[test]
fn a_preset_whose_end_has_passed_does_not_run_in_a_new_vm() {
    let text = format!("ACTION=hold, TIME={NOON}, REPEAT=0, DAYS=6, END_TYPE=2, END_VALUE={}", NOON + 86_400);
    let started = parse(&text).unwrap().starting_after(NOON + 30 * 86_400, UTC);
    assert_eq!((started.time, started.due_at(), started.done), (NOON, None, None));
}

#[test]
fn a_vm_s_actions_become_presets_with_our_attributes_and_without_its_past() {
    let all = [
        r#"ACTION=backup, ARGS="100,1", CRON="0 2 * * *", KEEP_LAST=7, TIMEZONE="Europe/Madrid""#,
        r#"ACTION=backup, ARGS=100, TIME=1700000000, REPEAT=0, DAYS="0,6", END_TYPE=1, END_VALUE=4, WARNING=1699999000"#,
        "ACTION=terminate, TIME=1700000000",
        "ACTION=hold, TIME=1600000000",
        "ACTION=hold, TIME=1600000000, REPEAT=3, DAYS=5, END_TYPE=2, END_VALUE=1600000001",
    ];
    let mut actions: Vec<ScheduledAction> = all.iter().map(|text| parse(text).unwrap()).collect();
    for (number, action) in (0..).zip(&mut actions) {
        action.id = ScheduleId(number + 40);
    }
    let mut ended = parse(&format!("ACTION=hold, TIME={NOON}, REPEAT=3, DAYS=5, END_TYPE=1, END_VALUE=1")).unwrap();
    ended = ended.after_run(NOON, UTC).after_failure(NOON, UTC, "x");
    actions.push(ended);
    let (vectors, infos): (Vec<_>, Vec<_>) =
        actions.iter().map(|action| (action.to_vector(), action.info_vector())).unzip();
    let infos: Vec<_> = infos.into_iter().flatten().collect();
    let shown: Vec<String> = presets(&vectors, &infos, NOON)
        .iter()
        .map(|preset| preset.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        shown,
        [
            "ACTION=backup ARGS=100,1 TIME=1668301200 TIMEZONE=Europe/Madrid CRON=0 2 * * * KEEP_LAST=7",
            "ACTION=backup ARGS=100 TIME=1700000000 REPEAT=0 DAYS=0,6 END_TYPE=1 END_VALUE=4 WARNING=1699999000",
            "ACTION=terminate TIME=1700000000",
            "ACTION=hold TIME=1600000000 REPEAT=3 DAYS=5 END_TYPE=2 END_VALUE=1600000001",
        ]
    );
    for preset in presets(&vectors, &infos, NOON) {
        let read = ScheduledAction::parse(&preset, ScheduleId(9), Parent::Vm, 8, READING);
        assert!(read.is_ok(), "{read:?}");
    }
}
