//! The calendar: the next planned time of a repetition, in one step however long ago the last one was.

use chrono::{DateTime, Datelike, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Timelike};
use chrono_tz::Tz;

use super::{MAX_TIME, Repeat};

/// Days to look ahead. Day 365 of the year exists in leap years only, which lie at most eight years apart.
const HORIZON_DAYS: usize = 366 * 9;

/// The first run strictly after `after`, and the time of day to remember when it is not that of the result.
///
/// `time` is one of the planned times, `time_of_day` the one remembered with it. `None` when no date before the year 10000
/// matches.
pub(super) fn after(
    repeat: Repeat,
    days: &[u32],
    (time, time_of_day): (i64, Option<u32>),
    after: i64,
    zone: Tz,
) -> Option<(i64, Option<u32>)> {
    if repeat == Repeat::Hourly {
        let step = i64::from(*days.first()?).checked_mul(3600).filter(|step| *step > 0)?;
        let steps = after.checked_sub(time)?.div_euclid(step).checked_add(1)?;
        let next = time.checked_add(steps.checked_mul(step)?)?;
        return (next <= MAX_TIME).then_some((next, None));
    }
    let wanted = match time_of_day {
        Some(seconds) => NaiveTime::from_num_seconds_from_midnight_opt(seconds, 0)?,
        None => zone.timestamp_opt(time, 0).single()?.time(),
    };
    // A gap can carry a run into the next local day, so the day before is looked at too.
    let first = zone.timestamp_opt(after, 0).single()?.date_naive().pred_opt()?;
    first.iter_days().take(HORIZON_DAYS).filter(|date| is_listed(repeat, days, *date)).find_map(|date| {
        let next = instant(date.and_time(wanted), zone)?;
        let kept = zone.timestamp_opt(next, 0).single()?.time() == wanted;
        let remembered = (!kept).then(|| wanted.num_seconds_from_midnight());
        (next > after && next <= MAX_TIME).then_some((next, remembered))
    })
}

/// The first instant strictly after `time` at which the local clock shows `time_of_day`, seconds after midnight.
pub(super) fn first_at(time_of_day: u32, time: i64, zone: Tz) -> Option<i64> {
    let wanted = NaiveTime::from_num_seconds_from_midnight_opt(time_of_day, 0)?;
    let first = zone.timestamp_opt(time, 0).single()?.date_naive().pred_opt()?;
    first.iter_days().take(4).find_map(|date| instant(date.and_time(wanted), zone).filter(|instant| *instant > time))
}

fn is_listed(repeat: Repeat, days: &[u32], date: NaiveDate) -> bool {
    let number = match repeat {
        Repeat::Weekly => date.weekday().num_days_from_sunday(),
        Repeat::Monthly => date.day(),
        Repeat::Yearly => date.ordinal0(),
        Repeat::Hourly => return false,
    };
    days.contains(&number)
}

/// The instant of a local time: the first of two, or the end of the gap that swallowed it.
pub(super) fn instant(local: NaiveDateTime, zone: Tz) -> Option<i64> {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(time) => Some(time.timestamp()),
        LocalResult::Ambiguous(first, _) => Some(first.timestamp()),
        LocalResult::None => end_of_gap(local, zone),
    }
}

/// The first instant whose local time is later than one that lies in a gap. No zone is or was more than a day off UTC, and
/// the longest gap was a day (Samoa, 2011), so two days to both sides hold it; there local time jumps over `local` once.
fn end_of_gap(local: NaiveDateTime, zone: Tz) -> Option<i64> {
    const TWO_DAYS: i64 = 2 * 86_400;
    let as_utc = local.and_utc().timestamp();
    let (mut before, mut behind) = (as_utc.checked_sub(TWO_DAYS)?, as_utc.checked_add(TWO_DAYS)?);
    while behind - before > 1 {
        let middle = before + (behind - before) / 2;
        if DateTime::from_timestamp(middle, 0)?.with_timezone(&zone).naive_local() > local {
            behind = middle;
        } else {
            before = middle;
        }
    }
    Some(behind)
}
