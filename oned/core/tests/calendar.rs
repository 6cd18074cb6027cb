//! Scheduled actions over ten years in many zones, and the corner cases in which the original loses, doubles or moves runs.
//!
//! The decade is a past one, whose clock changes are history and do not move with a new edition of the zones.
//! `UPDATE_GOLDEN=1 cargo test -p one-core --test calendar` rewrites the table.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is wrong")]

use std::fmt::Write as _;
use std::path::Path;

use chrono::{DateTime, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;
use one_core::id::ScheduleId;
use one_core::schedule::{Parent, Reading, ScheduledAction};
use one_core::template::Template;

/// Fri 2011-07-01 00:00 UTC.
const BEGIN: i64 = 1_309_478_400;
/// Thu 2021-07-01 00:00 UTC.
const END: i64 = 1_625_097_600;
const DAY: i64 = 86_400;

const ZONES: [Tz; 10] = [
    Tz::UTC,
    Tz::Europe__Madrid,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::America__Sao_Paulo,
    Tz::Asia__Kathmandu,
    Tz::Pacific__Apia,
    Tz::Africa__Casablanca,
    Tz::America__Caracas,
    Tz::Asia__Pyongyang,
];

const EVERY_DAY: &str = "REPEAT=0,DAYS=\"0,1,2,3,4,5,6\"";

/// An action of VM 7 in a zone of its own, made at [`BEGIN`] by a daemon that lives elsewhere.
fn action(text: &str, zone: Tz) -> ScheduledAction {
    let text = format!("SCHED_ACTION=[ACTION=backup,ARGS=100,TIMEZONE=\"{}\",{text}]", zone.name());
    let template = Template::parse(&text).unwrap();
    let reading = Reading { start: BEGIN, now: BEGIN, zone: Tz::Asia__Tokyo };
    let parsed =
        ScheduledAction::parse(template.vector("SCHED_ACTION").unwrap(), ScheduleId(1), Parent::Vm, 7, reading);
    parsed.unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
}

/// TIME for a local time.
fn at(zone: Tz, text: &str) -> i64 {
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
    zone.from_local_datetime(&local).earliest().unwrap().timestamp()
}

/// Planned times until [`END`], each run up to an hour late.
fn runs(mut action: ScheduledAction) -> Vec<i64> {
    let mut times = Vec::new();
    while action.time < END && action.is_due(action.time) {
        times.push(action.time);
        let late = i64::try_from(times.len() % 60).unwrap() * 60;
        action = action.after_run(action.time + late, Tz::Asia__Tokyo);
    }
    times
}

fn local(zone: Tz, time: i64) -> DateTime<Tz> {
    zone.timestamp_opt(time, 0).unwrap()
}

/// A short number for a list: FNV-1a.
fn digest(times: &[i64]) -> u64 {
    times
        .iter()
        .flat_map(|time| time.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// One line for the whole list, and one for each run that is the first after the clocks were changed, or is not at its hour.
fn table(zone: Tz, name: &str, times: &[i64]) -> String {
    let (first, last) = (local(zone, times[0]), local(zone, *times.last().unwrap()));
    let day = |time: &DateTime<Tz>| time.format("%Y-%m-%d %H:%M").to_string();
    let mut text = String::new();
    writeln!(text, "  {name}: {} runs, {} to {}, {:016x}", times.len(), day(&first), day(&last), digest(times))
        .unwrap();
    for pair in times.windows(2) {
        let (before, this) = (local(zone, pair[0]), local(zone, pair[1]));
        let offset = |time: &DateTime<Tz>| time.offset().fix().local_minus_utc();
        if offset(&before) != offset(&this) || this.time() != first.time() && !name.contains("hours") {
            writeln!(text, "    {}", this.format("%a %Y-%m-%d %H:%M %:z")).unwrap();
        }
    }
    text
}

/// Each date, a line for a year.
fn dates(zone: Tz, name: &str, times: &[i64]) -> String {
    let mut text = format!("  {name}: {} runs, {:016x}", times.len(), digest(times));
    let mut year = String::new();
    for time in times {
        let local = local(zone, *time);
        let this = local.format("%Y").to_string();
        if this != year {
            write!(text, "\n    {this}:").unwrap();
            year = this;
        }
        write!(text, " {}", local.format("%m-%d")).unwrap();
    }
    text + "\n"
}

#[test]
fn ten_years_in_ten_zones_are_those_of_the_golden_table() {
    let mut text = String::new();
    for zone in ZONES {
        writeln!(text, "{}", zone.name()).unwrap();
        let first = |hour: &str| format!("TIME={}", at(zone, &format!("2011-07-02 {hour}")));
        for hour in ["00:00", "02:15"] {
            let by_days = runs(action(&format!("{},{EVERY_DAY}", first(hour)), zone));
            let (hours, minutes) = hour.split_once(':').unwrap();
            let from = first(hour);
            let by_cron = runs(action(&format!("CRON=\"{minutes} {hours} * * *\",{from}"), zone));
            assert_eq!(by_days, by_cron, "{} {hour}: REPEAT and CRON differ", zone.name());
            text += &table(zone, &format!("daily {hour}"), &by_days);
        }
        let weekly = runs(action(&format!("{},REPEAT=0,DAYS=\"0,3\"", first("02:30")), zone));
        text += &table(zone, "Sundays and Wednesdays 02:30", &weekly);
        text += &table(zone, "every 12 hours", &runs(action(&format!("{},REPEAT=3,DAYS=12", first("02:30")), zone)));
        let month_ends = runs(action(&format!("{},REPEAT=1,DAYS=\"29,30,31\"", first("02:30")), zone));
        let by_cron = runs(action(&format!("CRON=\"30 2 29-31 * *\",{}", first("02:30")), zone));
        // TIME itself is a run of REPEAT whatever its day; CRON has none but its own.
        assert_eq!(month_ends[1..], by_cron, "{}", zone.name());
        text += &dates(zone, "monthly on 29, 30 and 31 at 02:30", &month_ends);
        let year_ends = runs(action(&format!("{},REPEAT=2,DAYS=\"0,59,365\"", first("02:30")), zone));
        text += &dates(zone, "yearly on days 0, 59 and 365 at 02:30", &year_ends);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/calendar.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (wanted, found)) in golden.lines().zip(text.lines()).enumerate() {
        assert_eq!(wanted, found, "calendar.txt:{} differs; UPDATE_GOLDEN=1 rewrites it", number + 1);
    }
    assert_eq!(
        golden.lines().count(),
        text.lines().count(),
        "calendar.txt has another length; UPDATE_GOLDEN=1 rewrites it"
    );
}

/// The same rule in both ways to say it: every day at 12:00 UTC, the first time on 2011-07-02.
fn both(end: &str) -> [ScheduledAction; 2] {
    let time = at(Tz::UTC, "2011-07-02 12:00");
    [format!("TIME={time},{EVERY_DAY},{end}"), format!("TIME={time},CRON=\"0 12 * * *\",{end}")]
        .map(|text| action(&text, Tz::UTC))
}

// Here the original makes one run more than END_VALUE says.
#[test]
fn a_count_of_n_gives_n_runs_and_not_one_more() {
    for count in 1..6 {
        for action in both(&format!("END_TYPE=1,END_VALUE={count}")) {
            assert_eq!(runs(action).len(), count);
        }
    }
}

// Here the original looks at the date only after a run, so that one run comes after it.
#[test]
fn no_run_is_planned_after_the_end_date_and_the_date_itself_is_within() {
    let noon = at(Tz::UTC, "2011-07-05 12:00");
    for (end, wanted) in [(noon, 4), (noon - 1, 3), (noon + DAY - 1, 4), (BEGIN, 0)] {
        for action in both(&format!("END_TYPE=2,END_VALUE={end}")) {
            assert_eq!(runs(action).len(), wanted, "until {end}");
        }
    }
}

// Here the original adds 86 400 s for each day, and its hour moves.
#[test]
fn the_hour_of_day_outlives_every_change_of_the_clocks() {
    for zone in ZONES {
        let time = at(zone, "2011-07-02 12:00");
        for rule in [EVERY_DAY, "REPEAT=1,DAYS=\"1,15\"", "REPEAT=2,DAYS=\"10,200\"", "CRON=\"0 12 * * *\""] {
            let times = runs(action(&format!("TIME={time},{rule}"), zone));
            let moved: Vec<_> = times
                .iter()
                .map(|time| local(zone, *time))
                .filter(|at| at.time() != local(zone, time).time())
                .collect();
            // Samoa left out a whole day, with its noon.
            let wanted = usize::from(zone == Tz::Pacific__Apia && (rule == EVERY_DAY || rule.starts_with("CRON")));
            assert_eq!(moved.len(), wanted, "{} {rule}: {moved:?}", zone.name());
        }
    }
}

// Here the original plans a time that is still in the past, and never runs again.
#[test]
fn a_time_that_lies_days_back_is_run_once_and_the_action_is_never_forgotten() {
    for action in both("END_TYPE=0") {
        let woke = action.time + 100 * DAY + 3600;
        assert!(action.is_due(woke));
        let next = action.after_run(woke, Tz::UTC);
        assert_eq!((next.time, next.is_due(woke)), (action.time + 101 * DAY, false));
        assert!(next.is_due(next.time));
    }
    let hourly = action(&format!("TIME={BEGIN},REPEAT=3,DAYS=7"), Tz::UTC);
    let next = hourly.after_run(BEGIN + 100 * DAY, Tz::UTC);
    assert!(next.time > BEGIN + 100 * DAY && next.time <= BEGIN + 100 * DAY + 7 * 3600);
}

// Here the original runs on the first of the next month, or on the second of March.
#[test]
fn a_day_that_a_month_lacks_is_left_out_and_does_not_spill_into_the_next() {
    let first = at(Tz::UTC, "2012-01-31 04:00");
    for rule in ["REPEAT=1,DAYS=31", "CRON=\"0 4 31 * *\""] {
        let times = runs(action(&format!("TIME={first},{rule}"), Tz::UTC));
        let days: Vec<_> = times.iter().map(|time| local(Tz::UTC, *time).format("%m-%d").to_string()).collect();
        let year = ["01-31", "03-31", "05-31", "07-31", "08-31", "10-31", "12-31"];
        assert!(days.iter().zip(year.iter().cycle()).all(|(day, wanted)| day == wanted), "{rule}: {days:?}");
        assert_eq!(days.len(), 9 * 7 + 3);
    }
    let leap_days = runs(action(&format!("TIME={first},REPEAT=2,DAYS=365"), Tz::UTC));
    let days: Vec<_> = leap_days.iter().map(|time| local(Tz::UTC, *time).format("%Y-%m-%d").to_string()).collect();
    assert_eq!(days, ["2012-01-31", "2012-12-31", "2016-12-31", "2020-12-31"]);
}

// Here the original takes an action that ran in the very second that it was planned for as one that is never due again.
#[test]
fn a_run_in_the_very_second_of_its_time_is_not_repeated_and_not_the_last() {
    for mut action in both("END_TYPE=0") {
        for _ in 0..50 {
            let now = action.time;
            let next = action.after_run(now, Tz::UTC);
            assert_eq!((next.done, next.is_due(now), next.time), (Some(now), false, now + DAY));
            action = next;
        }
    }
    // Nor when the next time comes by chance to lie where DONE is.
    let hourly = action(&format!("TIME={BEGIN},REPEAT=3,DAYS=1"), Tz::UTC);
    let late = hourly.after_run(BEGIN + 3600, Tz::UTC);
    assert_eq!(late.time, BEGIN + 7200);
}
