//! Sizes, times and durations in the forms that OpenNebula's tables have.

use chrono::{DateTime, Datelike as _, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeZone};

const SUFFIXES: [&str; 7] = ["B", "K", "M", "G", "T", "P", "E"];

/// A size given in bytes: `512B`, `4.2M`.
#[must_use]
pub fn bytes(value: i64) -> String {
    scaled(value as f64, 0)
}

/// A size given in KiB: `172K`.
#[must_use]
pub fn kib(value: i64) -> String {
    scaled(value as f64, 1)
}

/// A size given in MiB: `172M`, `1.5G`.
#[must_use]
pub fn mib(value: i64) -> String {
    scaled(value as f64, 2)
}

/// A size as people write it, in whole MiB, rounded up: `512`, `512m`, `8g`, `1.5T`, `2048k`.
///
/// None when it is none, or too large to be meant.
#[must_use]
pub fn parse_mib(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[number.len()..] {
        "k" | "kb" | "kib" => 1.0 / 1024.0,
        "" | "m" | "mb" | "mib" => 1.0,
        "g" | "gb" | "gib" => 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0,
        _ => return None,
    };
    let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.') && !number.is_empty();
    let value = (plain.then_some(number)?.parse::<f64>().ok()? * factor).ceil();
    // An exbibyte; every smaller whole number is exact.
    (value <= f64::from(1_u32 << 20) * f64::from(1_u32 << 20)).then_some(value as u64)
}

/// Divides by 1024 while the value is above 1024; one decimal, left out when it is zero.
fn scaled(mut value: f64, mut suffix: usize) -> String {
    while value > 1024.0 && suffix + 1 < SUFFIXES.len() {
        value /= 1024.0;
        suffix += 1;
    }
    let rounded = (value * 10.0).round() / 10.0;
    if rounded.fract() == 0.0 {
        format!("{rounded:.0}{}", SUFFIXES[suffix])
    } else {
        format!("{rounded:.1}{}", SUFFIXES[suffix])
    }
}

/// An epoch time as tables show it, local: `12/01 13:36:56`; `-` when there is none.
#[must_use]
pub fn time(epoch: i64) -> String {
    formatted(epoch, "%m/%d %H:%M:%S")
}

/// An epoch time to the minute: `12/01 13:36`.
#[must_use]
pub fn time_to_minute(epoch: i64) -> String {
    formatted(epoch, "%m/%d %H:%M")
}

/// A date: `12/31/26`.
#[must_use]
pub fn date(epoch: i64) -> String {
    formatted(epoch, "%m/%d/%y")
}

/// Date and time to the minute, with the year: `12/31/26 13:36`.
#[must_use]
pub fn date_to_minute(epoch: i64) -> String {
    formatted(epoch, "%m/%d/%y %H:%M")
}

/// Date and time with the year, in an order that sorts: `2026-12-01 13:36:56`.
#[must_use]
pub fn time_with_year(epoch: i64) -> String {
    formatted(epoch, "%Y-%m-%d %H:%M:%S")
}

/// A day: `2026-12-01`.
#[must_use]
pub fn day(epoch: i64) -> String {
    formatted(epoch, "%Y-%m-%d")
}

/// Date, time and zone: `2026-12-01 10:00:00 +0000`; in `zone`, else local.
#[must_use]
pub fn time_with_zone(epoch: i64, zone: Option<chrono_tz::Tz>) -> String {
    const FORMAT: &str = "%Y-%m-%d %H:%M:%S %z";
    match zone.and_then(|zone| zone.timestamp_opt(epoch, 0).single()) {
        Some(time) => time.format(FORMAT).to_string(),
        None => formatted(epoch, FORMAT),
    }
}

fn formatted(epoch: i64, format: &str) -> String {
    match Local.timestamp_opt(epoch, 0).single() {
        Some(time) if epoch > 0 => time.format(format).to_string(),
        _ => "-".to_owned(),
    }
}

/// How long something has been running: `  3d 05h04m`.
#[must_use]
pub fn days(seconds: i64) -> String {
    let seconds = seconds.max(0);
    format!("{:>3}d {:02}h{:02}m", seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60)
}

/// How long something took, to the second: `  0d 00h01m01s`.
#[must_use]
pub fn days_to_second(seconds: i64) -> String {
    format!("{}{:02}s", days(seconds), seconds.max(0) % 60)
}

/// A short duration: `0h00m01s`.
#[must_use]
pub fn hours(seconds: i64) -> String {
    let seconds = seconds.max(0);
    format!("{}h{:02}m{:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A duration for a sentence: `2s`, `1m05s`, `2h00m10s`.
#[must_use]
pub fn duration(seconds: i64) -> String {
    match seconds.max(0) {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        s => hours(s),
    }
}

/// How far ahead a moment is: `30 seconds`, `5 minutes`, `3.5 hours`, `1.5 days`.
#[must_use]
pub fn ahead(seconds: i64) -> String {
    let (value, unit) = match seconds {
        s if s < 60 => (s as f64, "seconds"),
        s if s < 3600 => (s as f64 / 60.0, "minutes"),
        s if s < 86_400 => (s as f64 / 3600.0, "hours"),
        s => (s as f64 / 86_400.0, "days"),
    };
    let value = (value * 10.0).round() / 10.0;
    if value.fract() == 0.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// Seconds since 1970 now.
#[must_use]
pub fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// Reads a date as people write it, on the calendar and clock of `now`: `2026-12-01 10:00[:30]`, `2026-12-01`,
/// `2026-12-01T10:00:00+01:00`, `12/31/26 10:00`, `09/23 14:15` (this year), `14:15` (today).
///
/// None when it is no date, or a local time that the clock change leaves out.
#[must_use]
pub fn parse_date<Z: TimeZone>(text: &str, now: &DateTime<Z>) -> Option<i64> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp());
    }
    for format in ["%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M %z"] {
        if let Ok(time) = DateTime::parse_from_str(text, format) {
            return Some(time.timestamp());
        }
    }
    let local = parse_local(text, now.date_naive())?;
    // Of two times on the night when the clock goes back the first is meant.
    now.timezone().from_local_datetime(&local).earliest().map(|time| time.timestamp())
}

fn parse_local(text: &str, today: NaiveDate) -> Option<NaiveDateTime> {
    let text = text.replace('T', " ");
    let mut words = text.split_whitespace();
    let (first, second) = (words.next()?, words.next());
    if words.next().is_some() {
        return None;
    }
    match (parse_day(first, today), second) {
        (Some(day), None) => Some(day.and_time(NaiveTime::MIN)),
        (Some(day), Some(time)) => Some(day.and_time(parse_time(time)?)),
        (None, None) => Some(today.and_time(parse_time(first)?)),
        (None, Some(_)) => None,
    }
}

fn parse_day(text: &str, today: NaiveDate) -> Option<NaiveDate> {
    let number = |text: &str| if text.len() <= 4 { text.parse::<u32>().ok() } else { None };
    if let [year, month, day] = text.split('-').collect::<Vec<_>>()[..] {
        return NaiveDate::from_ymd_opt(
            i32::try_from(number(year).filter(|_| year.len() == 4)?).ok()?,
            number(month)?,
            number(day)?,
        );
    }
    match text.split('/').collect::<Vec<_>>()[..] {
        [month, day] => NaiveDate::from_ymd_opt(today.year(), number(month)?, number(day)?),
        [year, month, day] if year.len() == 4 => {
            NaiveDate::from_ymd_opt(i32::try_from(number(year)?).ok()?, number(month)?, number(day)?)
        }
        [month, day, year] => {
            let full = if year.len() == 2 { 2000 + number(year)? } else { number(year).filter(|_| year.len() == 4)? };
            NaiveDate::from_ymd_opt(i32::try_from(full).ok()?, number(month)?, number(day)?)
        }
        _ => None,
    }
}

fn parse_time(text: &str) -> Option<NaiveTime> {
    NaiveTime::parse_from_str(text, "%H:%M:%S").or_else(|_| NaiveTime::parse_from_str(text, "%H:%M")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [("512", 512), ("512m", 512), ("8G", 8192), ("1.5g", 1536), ("1TiB", 1 << 20), ("1k", 1), ("0", 0)];
        for (text, value) in cases {
            assert_eq!(parse_mib(text), Some(value), "{text}");
        }
        for text in ["", "g", "-1", "1e9", "1 g", "1gg", "inf", "nan", "1.2.3", "99999999999999999999t", "é"] {
            assert_eq!(parse_mib(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_divided_until_at_most_1024() {
        let cases = [
            (0, "0M"),
            (172, "172M"),
            (1024, "1024M"),
            (1025, "1G"),
            (1536, "1.5G"),
            (2 << 20, "2T"),
            (1024 * 1024, "1024G"),
        ];
        for (value, text) in cases {
            assert_eq!(mib(value), text);
        }
        assert_eq!(bytes(4_404_019), "4.2M");
        assert_eq!(bytes(512), "512B");
        assert_eq!(kib(0), "0K");
        assert_eq!(bytes(i64::MAX), "8E");
    }

    #[test]
    fn durations_have_the_forms_of_the_tables() {
        assert_eq!(days(277_470), "  3d 05h04m");
        assert_eq!(days(-5), "  0d 00h00m");
        assert_eq!(days_to_second(86_461), "  1d 00h01m01s");
        assert_eq!(hours(61), "0h01m01s");
        assert_eq!(duration(2), "2s");
        assert_eq!(duration(65), "1m05s");
        assert_eq!(ahead(129_600), "1.5 days");
        assert_eq!(ahead(7200), "2 hours");
    }

    #[test]
    fn an_absent_time_is_a_dash() {
        assert_eq!(time(0), "-");
        assert_eq!(time(-1), "-");
        assert_eq!(time(i64::MAX), "-");
    }

    #[test]
    fn dates_are_read_in_local_time() {
        let now = Local.with_ymd_and_hms(2026, 11, 21, 12, 0, 0).unwrap();
        let at = |y, m, d, h, min, s| Some(Local.with_ymd_and_hms(y, m, d, h, min, s).unwrap().timestamp());
        assert_eq!(parse_date("2026-12-01 10:00", &now), at(2026, 12, 1, 10, 0, 0));
        assert_eq!(parse_date("2026-12-01 10:00:30", &now), at(2026, 12, 1, 10, 0, 30));
        assert_eq!(parse_date("2026-12-01T10:00:30", &now), at(2026, 12, 1, 10, 0, 30));
        assert_eq!(parse_date("2026-12-01", &now), at(2026, 12, 1, 0, 0, 0));
        assert_eq!(parse_date("12/31/26 10:00", &now), at(2026, 12, 31, 10, 0, 0));
        assert_eq!(parse_date("09/23 14:15", &now), at(2026, 9, 23, 14, 15, 0));
        assert_eq!(parse_date("14:15", &now), at(2026, 11, 21, 14, 15, 0));
        assert_eq!(parse_date("2022-12-01T13:28:44Z", &now), Some(1_669_901_324));
        assert_eq!(parse_date("2022-12-01 13:28:44 +0000", &now), Some(1_669_901_324));
        for text in [
            "",
            "x",
            "2026-13-01",
            "02/30 10:00",
            "10:00 12/01",
            "25:00",
            "2026-12-01 10:00 x y",
            "1/2/3/4",
            "99999-1-1",
        ] {
            assert_eq!(parse_date(text, &now), None, "{text}");
        }
    }
}
