//! CRON: when an action repeats, in the five fields of crontab(5), on the local clock.
//!
//! The text is read here into the numbers that each field lists, so that every refusal names the field; the library is given
//! those numbers in its own dialect (seconds first, Sunday is 1) and asked for dates.
//!
//! Invariants: times only grow; no listed local time is left out, none comes twice. One that the clock jumps over comes at
//! the end of the gap, one that exists twice comes the first time: rules of less than an hour pause while an hour is
//! repeated.

use std::fmt::Write as _;
use std::str::FromStr;

use chrono::TimeZone;
use chrono_tz::Tz;

use super::{MAX_TIME, bad, next};
use crate::refusal::Refusal;

/// Longest text: all numbers of all fields are shorter.
const TEXT_MAX_BYTES: usize = 400;
/// Most dates that are looked at before one lies after the instant asked for: every minute of the longest time that a clock
/// was ever put back by.
const LOOKED_AT_MAX: usize = 1500;

/// A field: its name, its lowest and highest number, and its words, which count from the lowest.
struct Field {
    name: &'static str,
    lowest: u32,
    highest: u32,
    words: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { name: "minute", lowest: 0, highest: 59, words: &[] },
    Field { name: "hour", lowest: 0, highest: 23, words: &[] },
    Field { name: "day of month", lowest: 1, highest: 31, words: &[] },
    Field { name: "month", lowest: 1, highest: 12, words: &MONTHS },
    Field { name: "day of week", lowest: 0, highest: 7, words: &WEEKDAYS },
];

/// Which of the fields are the days.
const DAY_OF_MONTH: usize = 2;
const DAY_OF_WEEK: usize = 4;

/// Words for whole expressions.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// An expression that was understood.
pub(super) struct Rule(cron::Schedule);

impl Rule {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`Refusal::BadSchedule`] naming the field and what it must be.
    pub(super) fn read(text: &str) -> Result<Self, Refusal> {
        if text.len() > TEXT_MAX_BYTES {
            return bad(format!(
                "Wrong CRON value: it has {} bytes, at most {TEXT_MAX_BYTES} are possible",
                text.len()
            ));
        }
        let meant =
            NICKNAMES.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim())).map_or(text, |(_, is)| is);
        let fields: Vec<&str> = meant.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return bad(format!(
                "Wrong CRON value: {text}, it must have five fields (minute, hour, day of month, month, day of week) or be \
                 one of @hourly, @daily, @weekly, @monthly and @yearly"
            ));
        }
        let is_open = |index: usize| fields.get(index).is_some_and(|field| field.starts_with('*'));
        if !is_open(DAY_OF_MONTH) && !is_open(DAY_OF_WEEK) {
            return bad(format!(
                "Wrong CRON value: {text}, day of month and day of week cannot both be given; write * for one of them, or \
                 make two actions"
            ));
        }
        // Of the library's fields the first is the second of the minute.
        let mut dialect = String::from("0");
        for (field, part) in FIELDS.iter().zip(fields) {
            let Ok(numbers) = field.numbers(part) else {
                let (name, lowest, highest) = (field.name, field.lowest, field.highest);
                let words = if field.words.is_empty() { "" } else { " or their English names" };
                return bad(format!(
                    "Wrong CRON value: {part} as {name}, it must be *, numbers from {lowest} to {highest}{words}, ranges \
                     a-b and steps */n or a-b/n, with commas between them"
                ));
            };
            field.write(numbers, &mut dialect);
        }
        match cron::Schedule::from_str(&dialect) {
            Ok(schedule) => Ok(Self(schedule)),
            Err(error) => bad(format!("Wrong CRON value: {text}, {error}")),
        }
    }

    /// The first instant strictly after `after`; `None` when there is none before the year 2101.
    pub(super) fn after(&self, after: i64, zone: Tz) -> Option<i64> {
        // Local time, dressed as UTC: the library's own arithmetic leaves out what falls into a gap.
        let local = zone.timestamp_opt(after.max(0), 0).single()?.naive_local().and_utc();
        let dates = self.0.after(&local).take(LOOKED_AT_MAX);
        let mut instants = dates.filter_map(|date| next::instant(date.naive_utc(), zone));
        instants.find(|instant| *instant > after && *instant <= MAX_TIME)
    }
}

/// Something that is no list of the field's numbers.
struct Wrong;

impl Field {
    /// The numbers that a part lists, as bits; Sunday is 0 only.
    fn numbers(&self, text: &str) -> Result<u64, Wrong> {
        let mut bits = 0;
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(plain(step).filter(|step| *step > 0).ok_or(Wrong)?)),
                None => (item, None),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.lowest, if self.is_weekday() { 6 } else { self.highest }),
                Some((first, last)) => match (self.number(first)?, self.number(last)?) {
                    // A week may end with Sunday by its name.
                    (first, 0) if self.is_weekday() && first > 0 => (first, 7),
                    both => both,
                },
                // A step needs to know where to end.
                None if step.is_some() => return Err(Wrong),
                None => (self.number(range)?, self.number(range)?),
            };
            if first > last {
                return Err(Wrong);
            }
            for number in (first..=last).step_by(usize::try_from(step.unwrap_or(1)).map_err(|_| Wrong)?) {
                bits |= 1_u64 << if self.is_weekday() { number % 7 } else { number };
            }
        }
        Ok(bits)
    }

    fn is_weekday(&self) -> bool {
        self.highest == 7
    }

    /// A number or word of the field.
    fn number(&self, text: &str) -> Result<u32, Wrong> {
        let word = self.words.iter().zip(self.lowest..).find(|(word, _)| word.eq_ignore_ascii_case(text));
        let number = word.map(|(_, number)| number).or_else(|| plain(text));
        number.filter(|number| (self.lowest..=self.highest).contains(number)).ok_or(Wrong)
    }

    /// Appends the numbers as the library wants them.
    fn write(&self, bits: u64, dialect: &mut String) {
        let (lowest, highest, shift) = if self.is_weekday() { (0, 6, 1) } else { (self.lowest, self.highest, 0) };
        let numbers = || (lowest..=highest).filter(|number| bits >> number & 1 == 1);
        if numbers().count() == (lowest..=highest).count() {
            dialect.push_str(" *");
            return;
        }
        for (index, number) in numbers().enumerate() {
            let separator = if index == 0 { ' ' } else { ',' };
            // Writing into a String does not fail.
            let _ = write!(dialect, "{separator}{}", number + shift);
        }
    }
}

/// Digits alone; no sign.
fn plain(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
#[path = "crontab_tests.rs"]
mod tests;
