//! From the attributes of a `SCHED_ACTION` vector to an action, with the refusals that clients know.

use super::{ACTIONS, BACKUP, End, MAX_TIME, Parent, Repeat, ScheduledAction, bad};
use crate::refusal::Refusal;
use crate::template::Vector;

impl ScheduledAction {
    /// Reads what the vector holds over what the action has, and checks the whole.
    pub(super) fn read(&mut self, vector: &Vector, start: i64) -> Result<(), Refusal> {
        match self.parent {
            Parent::BackupJob => {
                self.action = BACKUP.to_owned();
                self.args = String::new();
            }
            Parent::Vm => {
                let word = vector.get("ACTION").unwrap_or(&self.action);
                let Some(known) = ACTIONS.iter().find(|action| **action == word) else {
                    return bad(format!("{word} is not supported."));
                };
                self.action = (*known).to_owned();
                if let Some(args) = vector.get("ARGS") {
                    self.args = args.to_owned();
                }
            }
        }
        let start = match self.parent {
            Parent::Vm => Some(start),
            Parent::BackupJob => None,
        };
        match vector.get("TIME") {
            Some(text) => self.time = time(text, start)?,
            None if self.time < 0 => self.time = time("", start)?,
            None => {}
        }
        if let Some(text) = vector.get("WARNING") {
            self.warning = if text.is_empty() { 0 } else { time(text, start)? };
        }
        self.read_repeat(vector)?;
        self.read_end(vector)
    }

    fn read_repeat(&mut self, vector: &Vector) -> Result<(), Refusal> {
        if let Some(text) = vector.get("REPEAT") {
            self.repeat = match text.parse::<i64>() {
                Err(_) if text.is_empty() => None,
                Ok(-1) => None,
                Ok(number) => match Repeat::from_number(number) {
                    Some(repeat) => Some(repeat),
                    None => return bad(format!("Wrong REPEAT value: {text}")),
                },
                Err(_) => return bad(format!("Wrong REPEAT value: {text}")),
            };
        }
        if let Some(text) = vector.get("DAYS") {
            self.days = days(text)?;
        }
        let Some(repeat) = self.repeat else {
            return Ok(());
        };
        if self.days.is_empty() {
            return bad("Repeat set, but DAYS are empty".to_owned());
        }
        let (lowest, highest, what) = repeat.range();
        if let Some(day) = self.days.iter().find(|day| !(lowest..=highest).contains(*day)) {
            return bad(format!("Wrong DAYS value: {day}, {what} must be in the range [{lowest},{highest}]"));
        }
        if repeat == Repeat::Hourly && self.days.len() != 1 {
            return bad("Wrong DAYS value: an hourly repetition takes exactly one number of hours".to_owned());
        }
        Ok(())
    }

    fn read_end(&mut self, vector: &Vector) -> Result<(), Refusal> {
        if !vector.contains("END_TYPE") && !vector.contains("END_VALUE") {
            return Ok(());
        }
        let (mut end_type, mut end_value) = self.end.numbers();
        if let Some(text) = vector.get("END_TYPE").filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(number @ -1..=2) => end_type = number,
                _ => return bad(format!("Wrong END_TYPE value: {text}")),
            }
        }
        if let Some(text) = vector.get("END_VALUE").filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(number) => end_value = number,
                Err(_) => return bad(format!("Wrong END_VALUE value: {text}")),
            }
        }
        let end = match End::from_numbers(end_type, end_value) {
            Some(end) => end,
            None => return bad(format!("Wrong END_TYPE value: {end_type}")),
        };
        // An action that has come to its end shows END_VALUE 0; clients send that back unchanged.
        let unchanged = end == self.end;
        match end {
            End::Runs(runs) if runs < 1 && !unchanged => {
                bad(format!("Wrong END_VALUE value: {runs}, runs are counted from 1"))
            }
            End::Date(date) if !(0..=MAX_TIME).contains(&date) => {
                bad(format!("Wrong END_VALUE value: {date} is no date"))
            }
            _ => {
                self.end = end;
                Ok(())
            }
        }
    }
}

/// An epoch, or `+N` seconds after `start` where relative times are allowed.
fn time(text: &str, start: Option<i64>) -> Result<i64, Refusal> {
    let parsed = match (text.strip_prefix('+'), start) {
        (Some(_), None) => {
            return bad(format!("Relative time values are not allowed for backup jobs: {text}"));
        }
        (Some(seconds), Some(start)) if seconds.bytes().all(|byte| byte.is_ascii_digit()) => {
            seconds.parse::<i64>().ok().and_then(|seconds| start.checked_add(seconds))
        }
        (Some(_), Some(_)) => None,
        (None, _) => text.parse::<i64>().ok(),
    };
    match parsed.filter(|time| (0..=MAX_TIME).contains(time)) {
        Some(time) => Ok(time),
        None => bad(format!("Unable to parse the time value or value is empty: {text}")),
    }
}

/// A list of numbers separated by commas; sorted, each once.
fn days(text: &str) -> Result<Vec<u32>, Refusal> {
    let mut days = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse() {
            Ok(day) => days.push(day),
            Err(_) => return bad(format!("Wrong DAYS value: {word} is no number")),
        }
    }
    days.sort_unstable();
    days.dedup();
    Ok(days)
}
