//! How a backup datastore grew: what its present restore points store, by day, week or month, and when it is full.
//!
//! Pure arithmetic on times and bytes. It knows only the points that are still there: what was removed since is in none of
//! these figures, and where removal is seen to be at work no date is foretold.

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, TimeZone};

/// Rows of a chart at most; what is older is in the first of them.
pub const ROWS_MAX: usize = 60;

/// Fewer days of history say nothing about the days to come.
const HISTORY_DAYS_MIN: i64 = 7;

/// Fewer backups, the first of each VM not counted, say nothing either.
const BACKUPS_MIN: usize = 4;

/// The rate is that of the last so many days.
const RATE_DAYS: i64 = 28;

/// Nobody knows how a datastore is used after so many days.
const HORIZON_DAYS: f64 = 5.0 * 365.0;

const DAY_S: i64 = 86_400;

/// One restore point, as far as growth goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When it was made, epoch seconds.
    pub time: i64,
    /// Bytes that it stores.
    pub bytes: i64,
    /// The VM, −1 unknown.
    pub vm: i64,
}

/// How long a row of the chart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first to the first.
    Month,
}

impl Step {
    /// What fits a span of so many seconds.
    #[must_use]
    pub fn for_span(seconds: i64) -> Self {
        match seconds / DAY_S {
            ..=31 => Self::Day,
            32..=210 => Self::Week,
            _ => Self::Month,
        }
    }

    /// As the title of the first column.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Day => "DAY",
            Self::Week => "WEEK",
            Self::Month => "MONTH",
        }
    }

    /// The first day of the row that `day` is in.
    fn first(self, day: NaiveDate) -> NaiveDate {
        let back = match self {
            Self::Day => 0,
            Self::Week => day.weekday().num_days_from_monday(),
            Self::Month => day.day0(),
        };
        day.checked_sub_days(Days::new(u64::from(back))).unwrap_or(day)
    }

    fn next(self, first: NaiveDate) -> Option<NaiveDate> {
        match self {
            Self::Day => first.checked_add_days(Days::new(1)),
            Self::Week => first.checked_add_days(Days::new(7)),
            Self::Month => first.checked_add_months(Months::new(1)),
        }
    }
}

/// One row of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its first day, on the calendar of `now`.
    pub first: NaiveDate,
    /// Whether all that is older is in it too.
    pub and_before: bool,
    /// Points made in it.
    pub points: usize,
    /// Bytes that these store.
    pub added: i64,
    /// Bytes stored up to its end.
    pub total: i64,
}

/// The rows from the first point to `now`, also those in which nothing was made; none without points.
#[must_use]
pub fn periods<Z: TimeZone>(points: &[Stored], step: Step, now: &DateTime<Z>) -> Vec<Period> {
    let day_of = |time: i64| now.timezone().timestamp_opt(time, 0).single().map(|time| time.date_naive());
    let mut dated: Vec<(NaiveDate, i64)> =
        points.iter().filter_map(|point| Some((step.first(day_of(point.time)?), point.bytes))).collect();
    dated.sort_unstable_by_key(|(first, _)| *first);
    let (Some((oldest, _)), Some((newest, _))) = (dated.first(), dated.last()) else { return Vec::new() };
    // A machine whose clock was wrong may have made points of tomorrow.
    let last = step.first(now.date_naive()).max(*newest);
    let begin = earliest_row(step, *oldest, last);
    let (mut rows, mut total, mut left) = (Vec::new(), 0_i64, dated.iter().peekable());
    let mut first = Some(begin);
    while let Some(row) = first.filter(|row| *row <= last) {
        let (mut count, mut added) = (0, 0_i64);
        while let Some((_, bytes)) = left.next_if(|(day, _)| *day <= row) {
            count += 1;
            added = added.saturating_add((*bytes).max(0));
        }
        total = total.saturating_add(added);
        rows.push(Period { first: row, and_before: row == begin && *oldest < begin, points: count, added, total });
        first = step.next(row);
    }
    rows
}

/// The oldest row, or one so late that there are not too many.
fn earliest_row(step: Step, oldest: NaiveDate, last: NaiveDate) -> NaiveDate {
    let most = u32::try_from(ROWS_MAX - 1).unwrap_or(u32::MAX);
    let bound = match step {
        Step::Day => last.checked_sub_days(Days::new(most.into())),
        Step::Week => last.checked_sub_days(Days::new(u64::from(most) * 7)),
        Step::Month => last.checked_sub_months(Months::new(most)),
    };
    bound.map_or(oldest, |bound| bound.max(oldest))
}

/// What can be said about the day when the datastore is full.
#[derive(Clone, Debug, PartialEq)]
pub enum Forecast {
    /// At this rate (bytes a day) it is full at that time, epoch seconds.
    Full {
        /// Bytes a day.
        rate: i64,
        /// When.
        at: i64,
    },
    /// At this rate not within five years.
    Far {
        /// Bytes a day.
        rate: i64,
    },
    /// Nothing, for this reason.
    Unsaid(&'static str),
}

/// When `free` bytes are used up. `shrinks`: points were removed, so that the datastore does not grow by what is stored.
#[must_use]
pub fn forecast(points: &[Stored], free: Option<i64>, shrinks: bool, now: i64) -> Forecast {
    let Some(free) = free else { return Forecast::Unsaid("the datastore does not tell how much is free") };
    if shrinks {
        return Forecast::Unsaid("old restore points are removed all the time");
    }
    let later = later_backups(points);
    let oldest = points.iter().map(|point| point.time).min().unwrap_or(now);
    let days = now.saturating_sub(oldest) / DAY_S;
    if days < HISTORY_DAYS_MIN || later.len() < BACKUPS_MIN {
        return Forecast::Unsaid("too few backups yet");
    }
    let days = days.min(RATE_DAYS);
    let recent = later.iter().filter(|point| point.time > now.saturating_sub(days * DAY_S));
    let rate = recent.fold(0_i64, |sum, point| sum.saturating_add(point.bytes.max(0))) / days;
    if rate <= 0 {
        return Forecast::Unsaid("nothing was stored in the last weeks");
    }
    let left = free.max(0) as f64 / rate as f64;
    if left > HORIZON_DAYS {
        return Forecast::Far { rate };
    }
    // At most five years: it fits.
    Forecast::Full { rate, at: now.saturating_add((left * DAY_S as f64) as i64) }
}

/// All but the first of each VM: what a VM stores when its backups begin is stored once.
fn later_backups(points: &[Stored]) -> Vec<Stored> {
    let mut sorted = points.to_vec();
    sorted.sort_by_key(|point| point.time);
    let mut seen = std::collections::HashSet::new();
    sorted.into_iter().filter(|point| !seen.insert(point.vm)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;

    fn at(month: u32, day: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, month, day, 12, 0, 0).unwrap()
    }

    fn point(month: u32, day: u32, bytes: i64) -> Stored {
        Stored { time: at(month, day).timestamp(), bytes, vm: 0 }
    }

    fn shown(points: &[Stored], step: Step, now: &DateTime<Utc>) -> Vec<String> {
        let row = |row: &Period| format!("{} {} {} {}", row.first, row.points, row.added, row.total);
        periods(points, step, now).iter().map(row).collect()
    }

    #[test]
    fn points_are_summed_by_day_week_and_month_with_empty_rows() {
        let points = [point(11, 18, 10), point(11, 16, 5), point(11, 16, 1)];
        let days = ["2026-11-16 2 6 6", "2026-11-17 0 0 6", "2026-11-18 1 10 16", "2026-11-19 0 0 16"];
        assert_eq!(shown(&points, Step::Day, &at(11, 19)), days);
        let weeks = ["2026-11-16 3 16 16", "2026-11-23 0 0 16"];
        assert_eq!(shown(&points, Step::Week, &at(11, 29)), weeks);
        let months = ["2026-11-01 3 16 16", "2026-12-01 0 0 16"];
        assert_eq!(shown(&points, Step::Month, &at(12, 31)), months);
        assert!(shown(&[], Step::Day, &at(1, 1)).is_empty());
    }

    #[test]
    fn what_is_older_than_the_chart_is_in_its_first_row() {
        let points = [point(1, 1, 7), point(11, 19, 1)];
        let rows = periods(&points, Step::Day, &at(11, 19));
        assert_eq!((rows.len(), rows[0].and_before, rows[0].total), (ROWS_MAX, true, 7));
        assert_eq!(rows.last().unwrap().total, 8);
    }

    #[test]
    fn hostile_times_and_sizes_do_no_harm() {
        let hostile = [i64::MIN, -1, 0, i64::MAX].map(|time| Stored { time, bytes: i64::MAX, vm: -1 });
        for step in [Step::Day, Step::Week, Step::Month] {
            assert!(periods(&hostile, step, &at(11, 19)).len() <= ROWS_MAX);
        }
        let now = at(11, 19).timestamp();
        assert!(matches!(forecast(&hostile, Some(i64::MAX), false, now), Forecast::Unsaid(_)));
    }

    #[test]
    fn a_date_is_foretold_only_when_it_can_be() {
        let now = at(11, 29).timestamp();
        let unsaid = |points: &[Stored], free, shrinks| match forecast(points, free, shrinks, now) {
            Forecast::Unsaid(reason) => reason,
            other => panic!("{other:?}"),
        };
        // The first one does not come again: 10 a day of the 14 since.
        let steady: Vec<_> = (15..=29).map(|day| point(11, day, if day == 15 { 1_000_000 } else { 10 })).collect();
        assert_eq!(forecast(&steady, Some(300), false, now), Forecast::Full { rate: 10, at: now + 30 * DAY_S });
        assert_eq!(forecast(&steady, Some(1 << 40), false, now), Forecast::Far { rate: 10 });
        assert!(unsaid(&steady, None, false).contains("does not tell"));
        assert!(unsaid(&steady, Some(300), true).contains("are removed"));
        assert!(unsaid(&steady[..4], Some(300), false).contains("too few"));
        assert!(unsaid(&steady[11..], Some(300), false).contains("too few"));
        assert!(unsaid(&[point(1, 1, 5); 6], Some(300), false).contains("nothing was stored"));
    }

    #[test]
    fn the_step_follows_the_span() {
        let step = |days: i64| Step::for_span(days * DAY_S);
        assert_eq!([step(0), step(31), step(32), step(210), step(211)], {
            [Step::Day, Step::Day, Step::Week, Step::Week, Step::Month]
        });
    }
}
