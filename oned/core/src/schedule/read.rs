//! From the attributes of a `SCHED_ACTION` vector to an action, with the refusals that clients know.

use chrono_tz::Tz;

use super::{
    ACTIONS, BACKUP, End, JITTER_MAX, MAX_TIME, Parent, RETRY, RETRY_MAX, Reading, Repeat, ScheduledAction, bad,
    crontab,
};
use crate::refusal::Refusal;
use crate::template::Vector;

/// Most numbers in DAYS: as many as there are days of the year.
const DAYS_MAX: usize = 366;
/// Longest ARGS.
const ARGS_MAX_BYTES: usize = 1024;
/// Most of what was given that a refusal repeats, in characters.
const SHOWN_MAX: usize = 100;

impl ScheduledAction {
    /// Reads what the vector holds over what the action has, and checks the whole. TIME is left at −1 when CRON is to say it.
    pub(super) fn read(&mut self, vector: &Vector, reading: Reading) -> Result<(), Refusal> {
        self.read_action(vector)?;
        self.read_rule(vector)?;
        let start = match self.parent {
            Parent::Vm => Some(reading.start),
            Parent::BackupJob => None,
        };
        match vector.get("TIME").filter(|text| !text.is_empty() || self.cron.is_none()) {
            Some(text) => self.time = time(text, start)?,
            None if self.time < 0 && self.cron.is_none() => self.time = time("", start)?,
            None => {}
        }
        if let Some(text) = vector.get("WARNING") {
            self.warning = if text.is_empty() { 0 } else { time(text, start)? };
        }
        self.read_repeat(vector)?;
        self.read_end(vector)?;
        self.read_ours(vector)
    }

    fn read_action(&mut self, vector: &Vector) -> Result<(), Refusal> {
        if self.parent == Parent::BackupJob {
            self.action = BACKUP.to_owned();
            self.args = String::new();
            return Ok(());
        }
        let word = vector.get("ACTION").unwrap_or(&self.action);
        let Some(known) = ACTIONS.iter().find(|action| **action == word) else {
            return bad(format!("{} is not supported.", shown(word)));
        };
        self.action = (*known).to_owned();
        if let Some(args) = vector.get("ARGS") {
            if args.len() > ARGS_MAX_BYTES {
                let given = args.len();
                return bad(format!("Wrong ARGS value: it has {given} bytes, at most {ARGS_MAX_BYTES} are possible"));
            }
            self.args = args.to_owned();
        }
        Ok(())
    }

    /// TIMEZONE and CRON. CRON and REPEAT with DAYS are two ways to say the same: the one that is given replaces the other.
    fn read_rule(&mut self, vector: &Vector) -> Result<(), Refusal> {
        if let Some(text) = vector.get("TIMEZONE").map(str::trim) {
            if !text.is_empty() && text.parse::<Tz>().is_err() {
                return bad(format!(
                    "Wrong TIMEZONE value: {}, it must be the IANA name of a zone, such as Europe/Madrid",
                    shown(text)
                ));
            }
            self.timezone = Some(text.to_owned()).filter(|text| !text.is_empty());
        }
        let given = |key| vector.get(key).map(str::trim).filter(|text| !text.is_empty());
        let repeat = given("REPEAT").filter(|text| *text != "-1");
        if let Some(text) = vector.get("CRON").map(str::trim) {
            if !text.is_empty() && (repeat.is_some() || given("DAYS").is_some()) {
                return bad("CRON cannot be given together with REPEAT and DAYS; leave one of them out".to_owned());
            }
            self.cron = None;
            if !text.is_empty() {
                crontab::Rule::read(text)?;
                self.cron = Some(text.split_whitespace().collect::<Vec<_>>().join(" "));
                (self.repeat, self.days, self.time_of_day) = (None, Vec::new(), None);
            }
        } else if repeat.is_some() {
            self.cron = None;
        } else if self.cron.is_some() && given("DAYS").is_some() {
            return bad("DAYS needs REPEAT: this action repeats by CRON".to_owned());
        }
        Ok(())
    }

    /// JITTER, WINDOW_END, KEEP_LAST and RETRY; an empty value takes the attribute away.
    fn read_ours(&mut self, vector: &Vector) -> Result<(), Refusal> {
        let given = |key| vector.get(key).map(str::trim);
        if let Some(text) = given("JITTER") {
            let what = format!("seconds from 0 to {JITTER_MAX}");
            let jitter = number(text, 0, i64::from(JITTER_MAX), "JITTER", &what)?;
            self.jitter = jitter.and_then(|jitter| u32::try_from(jitter).ok()).unwrap_or(0);
        }
        if let Some(text) = given("WINDOW_END") {
            self.window_end = match text {
                "" => None,
                text => match time_of_day(text) {
                    Some(seconds) => Some(seconds),
                    None => {
                        return bad(format!(
                            "Wrong WINDOW_END value: {}, it must be a local time of day from 00:00 to 23:59",
                            shown(text)
                        ));
                    }
                },
            };
        }
        if let Some(text) = given("KEEP_LAST") {
            let what = "a number of restore points, 0 to keep all that this action makes";
            self.keep_last = number(text, 0, i64::from(i32::MAX), "KEEP_LAST", what)?;
        }
        if let Some(text) = given("RETRY") {
            let retry = number(text, 0, i64::from(RETRY_MAX), "RETRY", &format!("a number from 0 to {RETRY_MAX}"))?;
            self.retry = retry.and_then(|retry| u32::try_from(retry).ok()).unwrap_or(RETRY);
        }
        if self.parent == Parent::BackupJob && self.retry != RETRY {
            return bad("RETRY of a backup job is an attribute of its template, not of its schedule".to_owned());
        }
        let of_backups = [
            ("WINDOW_END", self.window_end.is_some()),
            ("KEEP_LAST", self.keep_last.is_some()),
            ("RETRY", self.retry != RETRY),
        ];
        match of_backups.iter().find(|(_, is_set)| *is_set && self.action != BACKUP) {
            Some((name, _)) => {
                bad(format!("{name} is for backups only: leave it out, or empty, with ACTION {}", self.action))
            }
            None => Ok(()),
        }
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
                Err(_) => return bad(format!("Wrong REPEAT value: {}", shown(text))),
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
                _ => return bad(format!("Wrong END_TYPE value: {}", shown(text))),
            }
        }
        if let Some(text) = vector.get("END_VALUE").filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(number) => end_value = number,
                Err(_) => return bad(format!("Wrong END_VALUE value: {}, it must be a number", shown(text))),
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
            return bad(format!("Relative time values are not allowed for backup jobs: {}", shown(text)));
        }
        (Some(seconds), Some(start)) if seconds.bytes().all(|byte| byte.is_ascii_digit()) => {
            seconds.parse::<i64>().ok().and_then(|seconds| start.checked_add(seconds))
        }
        (Some(_), Some(_)) => None,
        (None, _) => text.parse::<i64>().ok(),
    };
    match parsed.filter(|time| (0..=MAX_TIME).contains(time)) {
        Some(time) => Ok(time),
        None => bad(format!("Unable to parse the time value or value is empty: {}", shown(text))),
    }
}

/// A list of numbers separated by commas; sorted, each once.
fn days(text: &str) -> Result<Vec<u32>, Refusal> {
    let mut days = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if days.len() == DAYS_MAX {
            return bad(format!("Wrong DAYS value: it lists more than {DAYS_MAX} numbers"));
        }
        match word.parse() {
            Ok(day) => days.push(day),
            Err(_) => return bad(format!("Wrong DAYS value: {} is no number", shown(word))),
        }
    }
    days.sort_unstable();
    days.dedup();
    Ok(days)
}

/// A number of the attribute `key`, `what` in words; none when the text is empty.
fn number(text: &str, lowest: i64, highest: i64, key: &str, what: &str) -> Result<Option<i64>, Refusal> {
    match text.parse::<i64>() {
        _ if text.is_empty() => Ok(None),
        Ok(number) if (lowest..=highest).contains(&number) => Ok(Some(number)),
        _ => bad(format!("Wrong {key} value: {}, it must be {what}", shown(text))),
    }
}

/// HH:MM as seconds after midnight.
fn time_of_day(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let two = |part: &str| -> Option<u32> {
        (part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok()).flatten()
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    (hour < 24 && minute < 60).then_some(hour * 3600 + minute * 60)
}

/// The beginning of what was given, for a refusal.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
