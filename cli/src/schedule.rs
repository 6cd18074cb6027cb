//! The schedule options of `onevm backup` and the SCHED_ACTION text they become.
//!
//! Days count as OpenNebula counts them: weekly 0–6 with 0 for Sunday, monthly 1–31, yearly 0–365, hourly one number of
//! hours 1–168. When an action runs is the daemon's business.

use anyhow::{Result, bail};
use chrono::{DateTime, Local};
use clap::Args;

use crate::template_text;
use crate::units;
use crate::xml::Element;

/// When and how often.
#[derive(Args, Clone, Debug, Default)]
pub struct ScheduleOptions {
    /// When: now, +SECONDS after the VM was created, or a date like "2026-12-01 10:00" or "09/23 14:15"
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub schedule: Option<String>,
    /// Repeat on these days of the week: 0 (Sunday) to 6
    #[arg(long, value_name = "DAYS")]
    pub weekly: Option<String>,
    /// Repeat on these days of the month: 1 to 31
    #[arg(long, value_name = "DAYS")]
    pub monthly: Option<String>,
    /// Repeat on these days of the year: 0 to 365
    #[arg(long, value_name = "DAYS")]
    pub yearly: Option<String>,
    /// Repeat every so many hours: 1 to 168
    #[arg(long, value_name = "HOURS")]
    pub hourly: Option<String>,
    /// Stop repeating after so many runs, or at this date
    #[arg(long, value_name = "NUMBER|DATE")]
    pub end: Option<String>,
}

/// When an action first runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// At this epoch second.
    At(i64),
    /// So many seconds after the VM was created.
    After(u32),
}

/// A schedule that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first run.
    pub when: When,
    /// REPEAT and DAYS, when it repeats.
    pub repeat: Option<(i64, String)>,
    /// END_TYPE and END_VALUE.
    pub end: (i64, i64),
}

impl ScheduleOptions {
    /// What the options mean, or None when the action is to run at once without a schedule.
    ///
    /// # Errors
    /// A sentence for every option that cannot be understood, also for periods without `--schedule`: upstream ignores
    /// those and runs the action at once.
    pub fn plan(&self, now: DateTime<Local>) -> Result<Option<Plan>> {
        let periods = [
            ("--weekly", 0, 0..=6, &self.weekly),
            ("--monthly", 1, 1..=31, &self.monthly),
            ("--yearly", 2, 0..=365, &self.yearly),
            ("--hourly", 3, 1..=168, &self.hourly),
        ];
        let mut repeat = None;
        for (option, number, range, value) in periods {
            let Some(value) = value else { continue };
            if repeat.is_some() {
                bail!("only one of --weekly, --monthly, --yearly and --hourly can be given");
            }
            repeat = Some((number, days(option, value, &range)?));
        }
        let Some(when) = &self.schedule else {
            if repeat.is_some() || self.end.is_some() {
                bail!(
                    "a period or an end needs the time of the first run: add --schedule TIME (now, +SECONDS or a date)"
                );
            }
            return Ok(None);
        };
        let end = match (&self.end, &repeat) {
            (None, None) => (-1, -1),
            (None, Some(_)) => (0, -1),
            (Some(_), None) => bail!("--end needs a period: --weekly, --monthly, --yearly or --hourly"),
            (Some(text), Some(_)) => end(text, now)?,
        };
        Ok(Some(Plan { when: first_run(when, now)?, repeat, end }))
    }
}

impl Plan {
    /// The SCHED_ACTION text for `one.vm.schedadd`.
    ///
    /// # Errors
    /// When an argument cannot be written in a template.
    pub fn text(&self, action: &str, args: &str) -> Result<String> {
        let time = match self.when {
            When::At(epoch) => epoch.to_string(),
            When::After(seconds) => format!("+{seconds}"),
        };
        let mut parts = vec![("ACTION", action.to_owned()), ("ARGS", args.to_owned()), ("TIME", time)];
        if let Some((repeat, days)) = &self.repeat {
            parts.extend([("REPEAT", repeat.to_string()), ("DAYS", days.clone())]);
        }
        if self.end.0 >= 0 {
            parts.push(("END_TYPE", self.end.0.to_string()));
        }
        if self.end.0 > 0 {
            parts.push(("END_VALUE", self.end.1.to_string()));
        }
        template_text::vector("SCHED_ACTION", &parts)
    }

    /// What is told to the user: `backup scheduled at 2026-12-01 10:00:00 +0000`.
    #[must_use]
    pub fn told(&self, action: &str) -> String {
        match self.when {
            When::At(epoch) => format!("{action} scheduled at {}", units::time_with_zone(epoch)),
            When::After(seconds) => format!("{action} scheduled after +{seconds}s from start"),
        }
    }
}

fn first_run(text: &str, now: DateTime<Local>) -> Result<When> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(When::At(now.timestamp()));
    }
    if let Some(seconds) = text.strip_prefix('+') {
        return match seconds.parse() {
            Ok(seconds) => Ok(When::After(seconds)),
            Err(_) => bail!("--schedule {text}: after the plus there must be a number of seconds"),
        };
    }
    match units::parse_date(text, now) {
        Some(epoch) => Ok(When::At(epoch)),
        None => {
            bail!("--schedule {text}: neither now, +SECONDS nor a date like \"2026-12-01 10:00\" or \"09/23 14:15\"")
        }
    }
}

fn days(option: &str, text: &str, range: &std::ops::RangeInclusive<u32>) -> Result<String> {
    let mut numbers = Vec::new();
    for word in text.split(',') {
        match word.trim().parse::<u32>() {
            Ok(number) if range.contains(&number) => numbers.push(number),
            _ => bail!("{option} {text}: {word} is not a number from {} to {}", range.start(), range.end()),
        }
    }
    if option == "--hourly" && numbers.len() > 1 {
        bail!("--hourly takes one number of hours");
    }
    Ok(numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
}

fn end(text: &str, now: DateTime<Local>) -> Result<(i64, i64)> {
    if let Ok(runs) = text.parse::<i64>() {
        if runs < 1 {
            bail!("--end {text}: the number of runs must be at least 1");
        }
        return Ok((1, runs));
    }
    match units::parse_date(text, now) {
        Some(epoch) => Ok((2, epoch)),
        None => bail!("--end {text}: neither a number of runs nor a date like 2026-12-31"),
    }
}

/// The rows of the SCHEDULED ACTIONS table for the SCHED_ACTION elements of a TEMPLATE.
#[must_use]
pub fn rows(template: &Element, start: i64, now: i64) -> Vec<Vec<String>> {
    template.all("SCHED_ACTION").map(|action| row(action, start, now)).collect()
}

/// Titles of that table: (title, least width, aligned left).
pub const TITLES: [(&str, usize, bool); 7] = [
    ("ID", 3, false),
    ("ACTION", 6, true),
    ("ARGS", 4, true),
    ("SCHEDULED", 11, true),
    ("REPEAT", 6, true),
    ("END", 4, true),
    ("STATUS", 6, true),
];

fn row(action: &Element, start: i64, now: i64) -> Vec<String> {
    let number = |name: &str| action.int_at(name).unwrap_or(-1);
    let time = match action.text_at("TIME").strip_prefix('+') {
        Some(after) => start.saturating_add(after.parse::<i64>().unwrap_or(0)),
        None => number("TIME"),
    };
    let repeat = number("REPEAT");
    let days = action.text_at("DAYS");
    let repeated = match repeat {
        0 => format!("Weekly {days}"),
        1 => format!("Monthly {days}"),
        2 => format!("Yearly {days}"),
        3 => format!("Each {days} hours"),
        _ => String::new(),
    };
    let end = match (number("END_TYPE"), number("END_VALUE")) {
        (0, _) => "None".to_owned(),
        (1, runs) => format!("After {runs} times"),
        (2, date) => format!("On {}", units::date(date)),
        _ => String::new(),
    };
    let done = number("DONE");
    let message = action.text_at("MESSAGE");
    let status = if done > 0 && repeat < 0 {
        format!("Done on {}", units::time_to_minute(done))
    } else if !message.is_empty() {
        format!("Error! {message}")
    } else if time > now {
        format!("Next in {}", units::ahead(time - now))
    } else {
        "Overdue!".to_owned()
    };
    let args = crate::show::or_dash(action.text_at("ARGS"));
    let scheduled = units::time_to_minute(time);
    vec![number("ID").to_string(), action.text_at("ACTION").to_owned(), args, scheduled, repeated, end, status]
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;

    fn now() -> DateTime<Local> {
        Local.timestamp_opt(1_669_901_324, 0).unwrap()
    }

    fn plan(options: &ScheduleOptions) -> Result<Option<Plan>> {
        options.plan(now())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn without_options_there_is_no_schedule() {
        assert_eq!(plan(&ScheduleOptions::default()).unwrap(), None);
    }

    #[test]
    fn a_weekly_schedule_becomes_a_sched_action() {
        let options = ScheduleOptions {
            schedule: some("now"),
            weekly: some("1, 3"),
            end: some("5"),
            ..ScheduleOptions::default()
        };
        let plan = plan(&options).unwrap().unwrap();
        assert_eq!(
            plan.text("backup", "100,0").unwrap(),
            "SCHED_ACTION = [ ACTION = \"backup\", ARGS = \"100,0\", TIME = \"1669901324\", REPEAT = \"0\", DAYS = \"1,3\", END_TYPE = \"1\", END_VALUE = \"5\" ]\n"
        );
    }

    #[test]
    fn a_period_without_end_never_ends_and_a_single_run_has_none() {
        let hourly = ScheduleOptions { schedule: some("+3600"), hourly: some("5"), ..ScheduleOptions::default() };
        let hourly = plan(&hourly).unwrap().unwrap();
        assert_eq!((hourly.end, hourly.told("backup").as_str()), ((0, -1), "backup scheduled after +3600s from start"));
        assert!(
            hourly
                .text("backup", "100,0")
                .unwrap()
                .contains("TIME = \"+3600\", REPEAT = \"3\", DAYS = \"5\", END_TYPE = \"0\" ]")
        );
        let once = plan(&ScheduleOptions { schedule: some("now"), ..ScheduleOptions::default() }).unwrap().unwrap();
        assert!(!once.text("backup", "100,0").unwrap().contains("END_TYPE"));
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let base = || ScheduleOptions { schedule: some("now"), ..ScheduleOptions::default() };
        let refused = [
            ScheduleOptions { weekly: some("1"), ..ScheduleOptions::default() },
            ScheduleOptions { end: some("1"), ..ScheduleOptions::default() },
            ScheduleOptions { weekly: some("7"), ..base() },
            ScheduleOptions { weekly: some(""), ..base() },
            ScheduleOptions { monthly: some("0"), ..base() },
            ScheduleOptions { yearly: some("366"), ..base() },
            ScheduleOptions { hourly: some("1,2"), ..base() },
            ScheduleOptions { hourly: some("169"), ..base() },
            ScheduleOptions { weekly: some("1"), monthly: some("1"), ..base() },
            ScheduleOptions { end: some("5"), ..base() },
            ScheduleOptions { weekly: some("1"), end: some("0"), ..base() },
            ScheduleOptions { weekly: some("1"), end: some("soon"), ..base() },
            ScheduleOptions { schedule: some("+x"), ..ScheduleOptions::default() },
            ScheduleOptions { schedule: some("tomorrow-ish"), ..ScheduleOptions::default() },
        ];
        for options in refused {
            assert!(plan(&options).is_err(), "{options:?}");
        }
    }

    #[test]
    fn the_table_says_what_happens_next() {
        let template = Element::parse(
            "<T><SCHED_ACTION><ID>0</ID><ACTION>backup</ACTION><ARGS/><TIME>1669900000</TIME><REPEAT>-1</REPEAT><DONE>-1</DONE></SCHED_ACTION>\
             <SCHED_ACTION><ID>1</ID><ACTION>backup</ACTION><ARGS>100,0</ARGS><TIME>2000007200</TIME><REPEAT>3</REPEAT><DAYS>5</DAYS><END_TYPE>0</END_TYPE><DONE>1669900000</DONE></SCHED_ACTION>\
             <SCHED_ACTION><ID>2</ID><ACTION>backup</ACTION><TIME>+60</TIME><REPEAT>0</REPEAT><DAYS>1,3</DAYS><END_TYPE>1</END_TYPE><END_VALUE>5</END_VALUE><MESSAGE>no space</MESSAGE></SCHED_ACTION></T>",
        )
        .unwrap();
        let rows = rows(&template, 1_669_900_000, 2_000_000_000);
        assert_eq!((rows[0][2].as_str(), rows[0][6].as_str()), ("-", "Overdue!"));
        assert_eq!(
            (rows[1][4].as_str(), rows[1][5].as_str(), rows[1][6].as_str()),
            ("Each 5 hours", "None", "Next in 2 hours")
        );
        assert_eq!(
            (rows[2][4].as_str(), rows[2][5].as_str(), rows[2][6].as_str()),
            ("Weekly 1,3", "After 5 times", "Error! no space")
        );
    }
}
