use chrono::{Datelike, NaiveDateTime, TimeDelta, Timelike};
use chrono_tz::{America, Australia, Europe, Pacific, UTC};
use proptest::prelude::*;

use super::*;

fn at(zone: Tz, text: &str) -> i64 {
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
    zone.from_local_datetime(&local).earliest().unwrap().timestamp()
}

fn dates(text: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
    let rule = Rule::read(text).unwrap_or_else(|refusal| panic!("{refusal}"));
    let mut time = at(zone, from);
    let mut out = Vec::new();
    while out.len() < count {
        let Some(next) = rule.after(time, zone) else { break };
        out.push(zone.timestamp_opt(next, 0).unwrap().format("%a %Y-%m-%d %H:%M").to_string());
        time = next;
    }
    out
}

#[test]
fn expressions_mean_what_crontab_means_by_them() {
    // A Friday.
    let next = |text| dates(text, UTC, "2026-05-01 10:30", 3).join(", ");
    assert_eq!(next("30 10 * * *"), "Sat 2026-05-02 10:30, Sun 2026-05-03 10:30, Mon 2026-05-04 10:30");
    assert_eq!(next("*/20 11 * * *"), "Fri 2026-05-01 11:00, Fri 2026-05-01 11:20, Fri 2026-05-01 11:40");
    assert_eq!(next("5-59/25 * * * *"), "Fri 2026-05-01 10:55, Fri 2026-05-01 11:05, Fri 2026-05-01 11:30");
    assert_eq!(next("0 2 * * 0"), "Sun 2026-05-03 02:00, Sun 2026-05-10 02:00, Sun 2026-05-17 02:00");
    assert_eq!(next("0 2 * * 7"), next("0 2 * * 0"));
    assert_eq!(next("0 2 * * SUN"), next("0 2 * * 0"));
    assert_eq!(next("0 2 * * 5-7"), "Sat 2026-05-02 02:00, Sun 2026-05-03 02:00, Fri 2026-05-08 02:00");
    assert_eq!(next("0 2 * * fri-sun"), next("0 2 * * 5-7"));
    assert_eq!(next("0 2 * * mon,Wed"), "Mon 2026-05-04 02:00, Wed 2026-05-06 02:00, Mon 2026-05-11 02:00");
    assert_eq!(next("0 2 * * */2"), "Sat 2026-05-02 02:00, Sun 2026-05-03 02:00, Tue 2026-05-05 02:00");
    assert_eq!(next("0 2 31 * *"), "Sun 2026-05-31 02:00, Fri 2026-07-31 02:00, Mon 2026-08-31 02:00");
    assert_eq!(next("0 2 29 feb *"), "Tue 2028-02-29 02:00, Sun 2032-02-29 02:00, Fri 2036-02-29 02:00");
    assert_eq!(next("0 0 1 JAN-mar/2 *"), "Fri 2027-01-01 00:00, Mon 2027-03-01 00:00, Sat 2028-01-01 00:00");
    // As crontab, a field that begins with a star joins the other instead of adding to it.
    assert_eq!(next("0 2 */10 * 1"), "Mon 2026-05-11 02:00, Mon 2026-06-01 02:00, Mon 2026-08-31 02:00");
    assert_eq!(next("@hourly"), "Fri 2026-05-01 11:00, Fri 2026-05-01 12:00, Fri 2026-05-01 13:00");
    assert_eq!(next("@daily"), "Sat 2026-05-02 00:00, Sun 2026-05-03 00:00, Mon 2026-05-04 00:00");
    assert_eq!(next("@midnight"), next("@daily"));
    assert_eq!(next("@weekly"), "Sun 2026-05-03 00:00, Sun 2026-05-10 00:00, Sun 2026-05-17 00:00");
    assert_eq!(next("@monthly"), "Mon 2026-06-01 00:00, Wed 2026-07-01 00:00, Sat 2026-08-01 00:00");
    assert_eq!(next("@yearly"), "Fri 2027-01-01 00:00, Sat 2028-01-01 00:00, Mon 2029-01-01 00:00");
    assert_eq!(next("@Annually"), next("@yearly"));
}

#[test]
fn local_times_hold_when_the_clocks_change() {
    let berlin = |text, from, count| dates(text, Europe::Berlin, from, count).join(", ");
    assert_eq!(
        berlin("30 2 * * *", "2026-03-28 03:00", 2),
        "Sun 2026-03-29 03:00, Mon 2026-03-30 02:30",
        "the end of the gap"
    );
    assert_eq!(berlin("30 2 * * *", "2026-10-24 03:00", 2), "Sun 2026-10-25 02:30, Mon 2026-10-26 02:30", "once");
    assert_eq!(
        berlin("*/20 2,3 * * *", "2026-03-29 01:59", 3),
        "Sun 2026-03-29 03:00, Sun 2026-03-29 03:20, Sun 2026-03-29 03:40"
    );
    let autumn = dates("*/30 * * * *", Europe::Berlin, "2026-10-25 01:45", 3);
    assert_eq!(autumn.join(", "), "Sun 2026-10-25 02:00, Sun 2026-10-25 02:30, Sun 2026-10-25 03:00");
    let lord_howe = dates("10 2 * * *", Australia::Lord_Howe, "2026-10-03 03:00", 2);
    assert_eq!(lord_howe.join(", "), "Sun 2026-10-04 02:30, Mon 2026-10-05 02:10", "half an hour");
    let apia = dates("0 10 * * *", Pacific::Apia, "2011-12-29 10:00", 2);
    assert_eq!(apia.join(", "), "Sat 2011-12-31 00:00, Sat 2011-12-31 10:00", "a whole day");
}

#[test]
fn an_expression_that_is_none_is_refused_by_the_field_that_is_wrong() {
    let refused = |text: &str| match Rule::read(text) {
        Ok(_) => panic!("{text} is accepted"),
        Err(refusal) => refusal.to_string(),
    };
    let cases = [
        ("60 * * * *", "60 as minute, it must be *, numbers from 0 to 59, ranges"),
        ("* 24 * * *", "24 as hour, it must be *, numbers from 0 to 23, ranges"),
        ("0 0 0 * *", "0 as day of month, it must be *, numbers from 1 to 31, ranges"),
        ("0 0 * 13 *", "13 as month, it must be *, numbers from 1 to 12 or their English names, ranges"),
        ("0 0 * * 8", "8 as day of week, it must be *, numbers from 0 to 7 or their English names, ranges"),
        ("0 0 * * tuesday", "tuesday as day of week"),
        ("0 0 L * *", "L as day of month"),
        ("0 0 ? * *", "? as day of month"),
        ("5/15 * * * *", "5/15 as minute"),
        ("*/0 * * * *", "*/0 as minute"),
        ("* 22-2 * * *", "22-2 as hour"),
        ("1,,2 * * * *", "1,,2 as minute"),
        ("-1 * * * *", "-1 as minute"),
        ("+1 * * * *", "+1 as minute"),
        ("1-2-3 * * * *", "1-2-3 as minute"),
        ("99999999999 * * * *", "99999999999 as minute"),
        ("* * * *", "* * * *, it must have five fields (minute, hour, day of month, month, day of week)"),
        ("0 * * * * *", "0 * * * * *, it must have five fields"),
        ("@reboot", "@reboot, it must have five fields"),
        ("0 0 13 * 5", "0 0 13 * 5, day of month and day of week cannot both be given"),
    ];
    for (text, wanted) in cases {
        let sentence = refused(text);
        assert!(sentence.starts_with(&format!("Wrong CRON value: {wanted}")), "{text}: {sentence}");
    }
    let long = format!("{} * * * *", vec!["1"; 10_000].join(","));
    assert_eq!(refused(&long), "Wrong CRON value: it has 20007 bytes, at most 400 are possible");
    let all = |lowest: u32, highest: u32| (lowest..=highest).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let longest = format!("{} {} {} {} *", all(0, 59), all(0, 23), all(1, 31), all(1, 12));
    assert!(Rule::read(&longest).is_ok(), "every list can be written out");
}

#[test]
fn a_date_that_does_not_exist_never_comes() {
    let never = |text| Rule::read(text).unwrap().after(1_800_000_000, UTC);
    assert_eq!((never("0 0 31 2 *"), never("0 0 30-31 feb *"), never("0 0 31 4,6,9,11 *")), (None, None, None));
    let rule = Rule::read("@hourly").unwrap();
    for far in [at(UTC, "2100-12-31 23:30"), MAX_TIME, i64::MAX] {
        assert_eq!(rule.after(far, UTC), None);
    }
    assert_eq!(rule.after(i64::MIN, UTC), Some(3600));
}

/// An expression as numbers: minutes, hours, days, whether those are of the week, and months.
type Numbers = (Vec<u32>, Vec<u32>, Vec<u32>, bool, Vec<u32>);

fn any_numbers() -> impl Strategy<Value = Numbers> {
    let some = |lowest: u32, highest: u32| {
        let few = proptest::collection::btree_set(lowest..=highest, 1..4);
        prop_oneof![few.prop_map(|set| set.into_iter().collect()), Just((lowest..=highest).collect::<Vec<_>>())]
    };
    let days = prop_oneof![some(1, 31).prop_map(|days| (days, false)), some(0, 6).prop_map(|days| (days, true))];
    let hours = prop_oneof![some(0, 23), Just(vec![1]), Just(vec![2]), Just(vec![0, 2, 3])];
    (some(0, 59), hours, days, some(1, 12))
        .prop_map(|(minutes, hours, (days, week), months)| (minutes, hours, days, week, months))
}

fn text_of((minutes, hours, days, of_week, months): &Numbers) -> String {
    let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let (month_days, week_days) = if *of_week { ("*".to_owned(), list(days)) } else { (list(days), "*".to_owned()) };
    format!("{} {} {month_days} {} {week_days}", list(minutes), list(hours), list(months))
}

fn lists((minutes, hours, days, of_week, months): &Numbers, local: NaiveDateTime) -> bool {
    let day = if *of_week { local.weekday().num_days_from_sunday() } else { local.day() };
    minutes.contains(&local.minute())
        && hours.contains(&local.hour())
        && days.contains(&day)
        && months.contains(&local.month())
}

/// The instant of a local minute, found by walking: the first of two, or the first that there is after it.
fn walked(mut local: NaiveDateTime, zone: Tz) -> i64 {
    loop {
        if let Some(found) = zone.from_local_datetime(&local).earliest() {
            return found.timestamp();
        }
        local += TimeDelta::seconds(1);
    }
}

fn any_instant() -> impl Strategy<Value = (Tz, i64)> {
    let changes = prop_oneof![
        Just((Europe::Madrid, at(Europe::Madrid, "2027-03-28 01:00"))),
        Just((Europe::Madrid, at(Europe::Madrid, "2027-10-31 01:00"))),
        Just((America::New_York, at(America::New_York, "2027-11-07 00:30"))),
        Just((America::Sao_Paulo, at(America::Sao_Paulo, "2018-11-03 23:00"))),
        Just((Australia::Lord_Howe, at(Australia::Lord_Howe, "2027-04-04 01:00"))),
        Just((Pacific::Apia, at(Pacific::Apia, "2011-12-29 22:00"))),
    ];
    let near = (changes, -90_000..90_000_i64).prop_map(|((zone, time), off)| (zone, time + off));
    let anywhere = (0..chrono_tz::TZ_VARIANTS.len(), 0..4_000_000_000_i64)
        .prop_map(|(index, time)| (chrono_tz::TZ_VARIANTS[index], time));
    prop_oneof![near, anywhere]
}

proptest! {
    #[test]
    fn the_next_date_is_the_first_that_every_field_lists(numbers in any_numbers(), (zone, time) in any_instant()) {
        const LOOKED_AHEAD: TimeDelta = TimeDelta::days(9);
        let local = zone.timestamp_opt(time, 0).unwrap().naive_local();
        let whole = local.with_second(0).unwrap();
        let (mut minute, end) = (whole - TimeDelta::hours(26), whole + LOOKED_AHEAD);
        let mut wanted = None;
        while wanted.is_none() && minute < end {
            if lists(&numbers, minute) {
                wanted = Some(walked(minute, zone)).filter(|instant| *instant > time);
            }
            minute += TimeDelta::minutes(1);
        }
        let found = Rule::read(&text_of(&numbers)).unwrap().after(time, zone);
        match (found, wanted) {
            (found, Some(wanted)) => prop_assert_eq!(found, Some(wanted), "{}", text_of(&numbers)),
            (None, None) => {}
            (Some(found), None) => prop_assert!(found >= walked(end, zone), "{} came too early", found),
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9*/,@a-z -]{0,24}", time in any::<i64>(), (zone, _) in any_instant()) {
        if let Ok(rule) = Rule::read(&text) {
            prop_assert!(rule.after(time, zone).is_none_or(|next| next > time));
        }
    }
}
