//! Schedules: their options, the SCHED_ACTION text these become, and the SCHEDULED ACTIONS block of pages.
//!
//! Days count as OpenNebula counts them: weekly 0–6 with 0 for Sunday, monthly 1–31, yearly 0–365, hourly one number of
//! hours 1–168. When an action runs is the daemon's business. Time zone, cron expression, jitter, window, and what is kept
//! and retried of backups are the daemon's own; it shows them in SCHED_INFO vectors beside the actions.

use anyhow::{Result, bail};
use chrono::{DateTime, Local};
use chrono_tz::Tz;
use clap::Args;

use crate::show::{Page, or_dash};
use crate::template_text;
use crate::units;
use crate::xml::Element;

/// The vector with what OpenNebula's SCHED_ACTION has no room for.
pub const SCHED_INFO: &str = "SCHED_INFO";

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
    /// Repeat by a crontab expression, like "30 2 * * mon-fri"; needs no --schedule
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: Option<String>,
    /// Stop repeating after so many runs, or at this date
    #[arg(long, value_name = "NUMBER|DATE")]
    pub end: Option<String>,
    /// Zone of its calendar and clock, like Europe/Berlin; else the daemon's
    #[arg(long, value_name = "TIMEZONE")]
    pub timezone: Option<String>,
    /// Spread the starts of many over so many seconds: 0 to 86400
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub jitter: Option<u32>,
    /// A backup that could not start by this time of day is left out
    #[arg(long, value_name = "HH:MM")]
    pub window_end: Option<String>,
}

/// What is kept and tried again of the backups of a schedule.
#[derive(Args, Clone, Debug, Default)]
pub struct KeepOptions {
    /// Keep so many of the restore points that this schedule makes, 0 for all; else what the VM or job says
    #[arg(long, value_name = "NUMBER")]
    pub keep_last: Option<u32>,
    /// Start a backup that failed so many times again: 0 to 10
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(0..=10))]
    pub retry: Option<u8>,
}

impl KeepOptions {
    /// Refuses them beside an action that is not scheduled.
    ///
    /// # Errors
    /// When one is given.
    pub fn must_be_unsaid(&self) -> Result<()> {
        if self.keep_last.is_some() || self.retry.is_some() {
            bail!("--keep-last and --retry belong to a schedule: add --schedule TIME or --cron EXPRESSION");
        }
        Ok(())
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let keep = self.keep_last.map(|keep| ("KEEP_LAST", keep.to_string()));
        keep.into_iter().chain(self.retry.map(|retry| ("RETRY", retry.to_string()))).collect()
    }
}

/// When an action first runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// At this epoch second.
    At(i64),
    /// So many seconds after the VM was created.
    After(u32),
    /// When the cron expression says so first.
    Cron,
}

/// A schedule that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first run.
    pub when: When,
    /// REPEAT and DAYS, or CRON, when it repeats.
    pub repeat: Vec<(&'static str, String)>,
    /// END_TYPE and END_VALUE.
    pub end: (i64, i64),
    /// The zone of dates, unless it is the local one.
    pub zone: Option<Tz>,
    /// TIMEZONE, JITTER and WINDOW_END, if given.
    pub extra: Vec<(&'static str, String)>,
}

impl ScheduleOptions {
    /// What the options mean, or None when the action is to run at once without a schedule.
    ///
    /// # Errors
    /// A sentence for every option that cannot be understood, also for periods without `--schedule`: upstream ignores
    /// those and runs the action at once.
    pub fn plan(&self, now: DateTime<Local>) -> Result<Option<Plan>> {
        let repeat = self.repeat()?;
        let cron = self.cron.is_some();
        if self.schedule.is_none() && !cron {
            if !repeat.is_empty() || self.end.is_some() {
                bail!(
                    "a period or an end needs the time of the first run: add --schedule TIME (now, +SECONDS or a date)"
                );
            }
            if !self.extra().is_empty() {
                bail!(
                    "--timezone, --jitter and --window-end belong to a schedule: add --schedule TIME or --cron EXPRESSION"
                );
            }
            return Ok(None);
        }
        let zone = self.zone()?;
        let end = match (&self.end, repeat.is_empty()) {
            (None, true) => (-1, -1),
            (None, false) => (0, -1),
            (Some(_), true) => bail!("--end needs a period: --weekly, --monthly, --yearly, --hourly or --cron"),
            (Some(text), false) => end(text, now, zone)?,
        };
        let when = self.schedule.as_ref().map_or(Ok(When::Cron), |when| first_run(when, now, zone))?;
        Ok(Some(Plan { when, repeat, end, zone, extra: self.extra() }))
    }

    /// The attributes that change an action, for what was given: what was not stays as it is.
    ///
    /// # Errors
    /// A sentence for every option that cannot be understood.
    pub fn changes(&self, keep: &KeepOptions, now: DateTime<Local>) -> Result<Vec<(&'static str, String)>> {
        let zone = self.zone()?;
        let mut parts = Vec::new();
        if let Some(text) = &self.schedule {
            parts.extend(first_run(text, now, zone)?.attribute());
        }
        parts.extend(self.repeat()?);
        if let Some(text) = &self.end {
            push_end(&mut parts, end(text, now, zone)?);
        }
        parts.extend(self.extra());
        parts.extend(keep.attributes());
        Ok(parts)
    }

    fn zone(&self) -> Result<Option<Tz>> {
        match self.timezone.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            None => Ok(None),
            Some(name) => match name.parse() {
                Ok(zone) => Ok(Some(zone)),
                Err(_) => bail!("--timezone {name}: there is no such zone; names are like Europe/Berlin or UTC"),
            },
        }
    }

    fn repeat(&self) -> Result<Vec<(&'static str, String)>> {
        let periods = [
            ("--weekly", 0, 0..=6, &self.weekly),
            ("--monthly", 1, 1..=31, &self.monthly),
            ("--yearly", 2, 0..=365, &self.yearly),
            ("--hourly", 3, 1..=168, &self.hourly),
        ];
        let mut repeat = Vec::new();
        for (option, number, range, value) in periods {
            let Some(value) = value else { continue };
            if !repeat.is_empty() {
                bail!("only one of --weekly, --monthly, --yearly and --hourly can be given");
            }
            repeat = vec![("REPEAT", number.to_string()), ("DAYS", days(option, value, &range)?)];
        }
        match &self.cron {
            Some(_) if !repeat.is_empty() => {
                bail!("--cron says all of when to repeat: leave --weekly, --monthly, --yearly and --hourly out")
            }
            Some(cron) => Ok(vec![("CRON", cron.trim().to_owned())]),
            None => Ok(repeat),
        }
    }

    fn extra(&self) -> Vec<(&'static str, String)> {
        let given = [
            ("TIMEZONE", self.timezone.clone()),
            ("JITTER", self.jitter.map(|seconds| seconds.to_string())),
            ("WINDOW_END", self.window_end.clone()),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?.trim().to_owned()))).collect()
    }
}

impl When {
    fn attribute(&self) -> Option<(&'static str, String)> {
        match self {
            Self::At(epoch) => Some(("TIME", epoch.to_string())),
            Self::After(seconds) => Some(("TIME", format!("+{seconds}"))),
            Self::Cron => None,
        }
    }
}

impl Plan {
    /// The SCHED_ACTION text for `one.vm.schedadd`.
    ///
    /// # Errors
    /// When an argument cannot be written in a template.
    pub fn text(&self, action: &str, args: &str, keep: &KeepOptions) -> Result<String> {
        let mut parts = vec![("ACTION", action.to_owned()), ("ARGS", args.to_owned())];
        parts.extend(self.when.attribute());
        parts.extend(self.repeat.iter().cloned());
        push_end(&mut parts, self.end);
        parts.extend(self.extra.iter().cloned());
        parts.extend(keep.attributes());
        template_text::vector("SCHED_ACTION", &parts)
    }

    /// What is told to the user: `backup scheduled at 2026-12-01 10:00:00 +0000`.
    #[must_use]
    pub fn told(&self, action: &str) -> String {
        match (&self.when, self.repeat.first()) {
            (When::At(epoch), _) => format!("{action} scheduled at {}", units::time_with_zone(*epoch, self.zone)),
            (When::After(seconds), _) => format!("{action} scheduled after +{seconds}s from start"),
            (When::Cron, Some((_, expression))) => format!("{action} scheduled by cron expression {expression}"),
            (When::Cron, None) => format!("{action} scheduled"),
        }
    }
}

fn push_end(parts: &mut Vec<(&'static str, String)>, (kind, value): (i64, i64)) {
    if kind >= 0 {
        parts.push(("END_TYPE", kind.to_string()));
    }
    if kind > 0 {
        parts.push(("END_VALUE", value.to_string()));
    }
}

/// A date on the calendar of `zone`, else on the local one.
fn date(text: &str, now: DateTime<Local>, zone: Option<Tz>) -> Option<i64> {
    match zone {
        Some(zone) => units::parse_date(text, &now.with_timezone(&zone)),
        None => units::parse_date(text, &now),
    }
}

fn first_run(text: &str, now: DateTime<Local>, zone: Option<Tz>) -> Result<When> {
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
    match date(text, now, zone) {
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

fn end(text: &str, now: DateTime<Local>, zone: Option<Tz>) -> Result<(i64, i64)> {
    if let Ok(runs) = text.parse::<i64>() {
        if runs < 1 {
            bail!("--end {text}: the number of runs must be at least 1");
        }
        return Ok((1, runs));
    }
    match date(text, now, zone) {
        Some(epoch) => Ok((2, epoch)),
        None => bail!("--end {text}: neither a number of runs nor a date like 2026-12-31"),
    }
}

/// Writes the SCHEDULED ACTIONS block for the SCHED_ACTION elements in `actions`; nothing without any. `infos` holds their
/// SCHED_INFO vectors; `start` is what a relative time counts from.
pub fn block(page: &mut Page, actions: Option<&Element>, infos: Option<&Element>, start: i64, now: i64) {
    let Some(actions) = actions else { return };
    let mut rows = rows(actions, infos, start, now);
    if rows.is_empty() {
        return;
    }
    let mut titles = TITLES.to_vec();
    // Schedules as OpenNebula knows them have its columns and no others.
    if rows.iter().all(|row| row.get(OPTIONS).is_none_or(String::is_empty)) {
        titles.remove(OPTIONS);
        rows.iter_mut().for_each(|row| drop(row.remove(OPTIONS)));
    }
    page.header("SCHEDULED ACTIONS").table(&titles, &rows);
}

fn rows(actions: &Element, infos: Option<&Element>, start: i64, now: i64) -> Vec<Vec<String>> {
    actions.all("SCHED_ACTION").map(|action| row(action, info_of(infos, action), start, now)).collect()
}

/// The SCHED_INFO of an action.
#[must_use]
pub fn info_of<'a>(infos: Option<&'a Element>, action: &Element) -> Option<&'a Element> {
    let id = action.int_at("ID");
    infos?.all(SCHED_INFO).find(|info| info.int_at("ID") == id)
}

/// Place of the column with what only our schedules have: last, where it disturbs nothing on a narrow terminal.
const OPTIONS: usize = 7;

/// Titles of the table: (title, least width, aligned left).
const TITLES: [(&str, usize, bool); 8] = [
    ("ID", 5, false),
    ("ACTION", 6, false),
    ("ARGS", 5, false),
    ("SCHEDULED", 11, false),
    ("REPEAT", 6, false),
    ("END", 5, false),
    ("STATUS", 6, true),
    ("OPTIONS", 7, true),
];

fn row(action: &Element, info: Option<&Element>, start: i64, now: i64) -> Vec<String> {
    let number = |name: &str| action.int_at(name).unwrap_or(-1);
    let time = match action.text_at("TIME").strip_prefix('+') {
        Some(after) => start.saturating_add(after.parse::<i64>().unwrap_or(0)),
        None => number("TIME"),
    };
    let days = action.text_at("DAYS");
    let repeated = match (info.map_or("", |info| info.text_at("CRON")), number("REPEAT")) {
        ("", 0) => format!("Weekly {days}"),
        ("", 1) => format!("Monthly {days}"),
        ("", 2) => format!("Yearly {days}"),
        ("", 3) => format!("Each {days} hours"),
        ("", _) => String::new(),
        (cron, _) => format!("Cron {cron}"),
    };
    let end = match (number("END_TYPE"), number("END_VALUE")) {
        (0, _) => "None".to_owned(),
        (1, runs) => format!("After {runs} times"),
        (2, date) => format!("On {}", units::date(date)),
        _ => String::new(),
    };
    let status = status(action, time, !repeated.is_empty(), now);
    let args = or_dash(action.text_at("ARGS"));
    let id = number("ID").to_string();
    let options = info.map(options).unwrap_or_default();
    vec![id, action.text_at("ACTION").to_owned(), args, units::time_to_minute(time), repeated, end, status, options]
}

fn status(action: &Element, time: i64, repeats: bool, now: i64) -> String {
    let number = |name: &str| action.int_at(name).unwrap_or(-1);
    let ended = match number("END_TYPE") {
        1 => number("END_VALUE") < 1,
        2 => time > number("END_VALUE"),
        _ => false,
    };
    let done = number("DONE");
    let message = action.text_at("MESSAGE");
    if done > 0 && (!repeats || ended) {
        format!("Done on {}", units::time_to_minute(done))
    } else if !message.is_empty() {
        format!("Error! {message}")
    } else if repeats && ended {
        "Ended".to_owned()
    } else if time > now {
        format!("Next in {}", units::ahead(time.saturating_sub(now)))
    } else {
        "Overdue!".to_owned()
    }
}

/// `Europe/Berlin, spread 10m00s, until 06:00, keep 7, retry 3`
fn options(info: &Element) -> String {
    let shown = |name: &str, word: &str| match info.text_at(name) {
        "" => None,
        text => Some(format!("{word}{text}")),
    };
    let jitter = info.int_at("JITTER").filter(|seconds| *seconds > 0);
    let parts = [
        shown("TIMEZONE", ""),
        jitter.map(|seconds| format!("spread {}", units::duration(seconds))),
        shown("WINDOW_END", "until "),
        shown("KEEP_LAST", "keep "),
        shown("RETRY", "retry "),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
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
            plan.text("backup", "100,0", &KeepOptions::default()).unwrap(),
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
                .text("backup", "100,0", &KeepOptions::default())
                .unwrap()
                .contains("TIME = \"+3600\", REPEAT = \"3\", DAYS = \"5\", END_TYPE = \"0\" ]")
        );
        let once = plan(&ScheduleOptions { schedule: some("now"), ..ScheduleOptions::default() }).unwrap().unwrap();
        assert!(!once.text("backup", "100,0", &KeepOptions::default()).unwrap().contains("END_TYPE"));
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
        let rows = rows(&template, None, 1_669_900_000, 2_000_000_000);
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

    #[test]
    fn what_is_ours_goes_behind_what_all_know() {
        let options = ScheduleOptions {
            cron: some(" 30 2 * * mon-fri "),
            end: some("2026-12-31"),
            timezone: some("Europe/Berlin"),
            jitter: Some(600),
            window_end: some("06:00"),
            ..ScheduleOptions::default()
        };
        let keep = KeepOptions { keep_last: Some(7), retry: Some(3) };
        let by_cron = plan(&options).unwrap().unwrap();
        assert_eq!(
            by_cron.text("backup", "100,0", &keep).unwrap(),
            "SCHED_ACTION = [ ACTION = \"backup\", ARGS = \"100,0\", CRON = \"30 2 * * mon-fri\", END_TYPE = \"2\", END_VALUE = \"1798671600\", TIMEZONE = \"Europe/Berlin\", JITTER = \"600\", WINDOW_END = \"06:00\", KEEP_LAST = \"7\", RETRY = \"3\" ]\n"
        );
        assert_eq!(by_cron.told("backup"), "backup scheduled by cron expression 30 2 * * mon-fri");
    }

    #[test]
    fn a_date_is_read_on_the_calendar_of_the_zone_that_is_named() {
        let options = ScheduleOptions {
            schedule: some("2026-12-01 10:00"),
            timezone: some("Asia/Tokyo"),
            ..ScheduleOptions::default()
        };
        let plan = plan(&options).unwrap().unwrap();
        assert_eq!(plan.when, When::At(1_796_086_800));
        assert_eq!(plan.told("stop"), "stop scheduled at 2026-12-01 10:00:00 +0900");
    }

    #[test]
    fn a_change_names_only_what_was_given() {
        let options = ScheduleOptions { weekly: some("1"), timezone: some(""), ..ScheduleOptions::default() };
        let keep = KeepOptions { keep_last: Some(0), retry: None };
        let parts = options.changes(&keep, now()).unwrap();
        let text = template_text::vector("S", &parts).unwrap();
        assert_eq!(text, "S = [ REPEAT = \"0\", DAYS = \"1\", TIMEZONE = \"\", KEEP_LAST = \"0\" ]\n");
        assert!(ScheduleOptions::default().changes(&KeepOptions::default(), now()).unwrap().is_empty());
    }

    #[test]
    fn options_of_ours_that_make_no_sense_are_refused() {
        let refused = [
            ScheduleOptions { timezone: some("UTC"), ..ScheduleOptions::default() },
            ScheduleOptions { jitter: Some(1), ..ScheduleOptions::default() },
            ScheduleOptions { window_end: some("06:00"), ..ScheduleOptions::default() },
            ScheduleOptions { cron: some("@daily"), weekly: some("1"), ..ScheduleOptions::default() },
            ScheduleOptions { cron: some("@daily"), timezone: some("Mars/North"), ..ScheduleOptions::default() },
        ];
        for options in refused {
            assert!(plan(&options).is_err(), "{options:?}");
        }
        assert!(KeepOptions { keep_last: Some(1), retry: None }.must_be_unsaid().is_err());
    }

    #[test]
    fn the_table_shows_what_is_ours_in_a_column_of_its_own() {
        let actions = Element::parse(
            "<T><SCHED_ACTION><ID>0</ID><ACTION>backup</ACTION><TIME>2000003600</TIME><REPEAT>-1</REPEAT><DONE>5</DONE></SCHED_ACTION>\
             <SCHED_ACTION><ID>1</ID><ACTION>backup</ACTION><TIME>1</TIME><REPEAT>0</REPEAT><DAYS>1</DAYS><END_TYPE>1</END_TYPE><END_VALUE>0</END_VALUE><DONE>1669900000</DONE></SCHED_ACTION></T>",
        )
        .unwrap();
        let infos = Element::parse(
            "<T><SCHED_INFO><ID>0</ID><CRON>0 3 * * *</CRON><TIMEZONE>Europe/Berlin</TIMEZONE><JITTER>600</JITTER><WINDOW_END>06:00</WINDOW_END><KEEP_LAST>7</KEEP_LAST></SCHED_INFO></T>",
        )
        .unwrap();
        let rows = rows(&actions, Some(&infos), 0, 2_000_000_000);
        assert_eq!(rows[0][4], "Cron 0 3 * * *");
        assert_eq!(rows[0][6..], ["Next in 1 hours", "Europe/Berlin, spread 10m00s, until 06:00, keep 7"]);
        assert!(rows[1][7].is_empty() && rows[1][6].starts_with("Done on "), "{rows:?}");
    }
}
