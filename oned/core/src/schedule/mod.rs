//! Scheduled actions of VMs and backup jobs: their attributes, when they are due, and when next.
//!
//! What it is: values and arithmetic. What it is not: a dispatcher; nothing here runs anything or reads a clock.
//!
//! Invariants:
//! - a repeating action's TIME only grows, and after a run lies strictly after that run: a daemon that slept for a week
//!   runs an action once, late, and then goes on in the future;
//! - END_TYPE 1 with END_VALUE n gives exactly n runs; END_TYPE 2 gives none whose planned TIME is after the date;
//! - a clock that jumps, either way and however far, makes no planned time run twice, and none that is still to come is
//!   left out; those that it jumped over are run once, late;
//! - days are counted on the local calendar at the local time of day of the first TIME. A local time that does not exist
//!   runs at the end of the gap, one that exists twice runs the first time, and neither moves the runs after it. Months and
//!   years that lack a listed day are skipped.
//!
//! The original differs in all of these (it adds whole days of 86 400 s to the old TIME); wire values are the same.
//! TIMEZONE, CRON, JITTER, WINDOW_END, KEEP_LAST and RETRY are ours: documents show them in [`SCHED_INFO`], for which the
//! published ones have room.

mod crontab;
mod next;
mod plan;
mod read;
mod show;

pub use show::presets;

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::id::{DatastoreId, ScheduleId};
use crate::refusal::{ObjectKind, Refusal};
use crate::template::Vector;

/// The words that ACTION may be.
pub const ACTIONS: [&str; 20] = [
    "terminate",
    "terminate-hard",
    "undeploy",
    "undeploy-hard",
    "hold",
    "release",
    "stop",
    "suspend",
    "resume",
    "reboot",
    "reboot-hard",
    "poweroff",
    "poweroff-hard",
    "snapshot-create",
    "snapshot-revert",
    "snapshot-delete",
    "disk-snapshot-create",
    "disk-snapshot-revert",
    "disk-snapshot-delete",
    BACKUP,
];

/// The only action of a backup job.
pub const BACKUP: &str = "backup";
/// The last second of the year 9999: no time is later, so that every date can be computed and printed.
pub const MAX_TIME: i64 = 253_402_300_799;

/// Whose action it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Parent {
    /// A virtual machine.
    Vm,
    /// A backup job: its action is always `backup`, without arguments.
    BackupJob,
}

impl Parent {
    /// The word in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::BackupJob => "BACKUPJOB",
        }
    }

    /// The parent of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Vm, Self::BackupJob].into_iter().find(|parent| parent.name() == name)
    }

    /// The kind of object it is.
    pub fn kind(self) -> ObjectKind {
        match self {
            Self::Vm => ObjectKind::Vm,
            Self::BackupJob => ObjectKind::BackupJob,
        }
    }
}

/// How an action repeats; DAYS means something else for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Repeat {
    /// On these weekdays, 0 (Sunday) to 6.
    Weekly,
    /// On these days of the month, 1 to 31.
    Monthly,
    /// On these days of the year, 0 to 365.
    Yearly,
    /// Every so many hours, 1 to 168.
    Hourly,
}

impl Repeat {
    /// The value of REPEAT.
    pub fn number(self) -> i64 {
        match self {
            Self::Weekly => 0,
            Self::Monthly => 1,
            Self::Yearly => 2,
            Self::Hourly => 3,
        }
    }

    /// The repetition with this value of REPEAT.
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Weekly, Self::Monthly, Self::Yearly, Self::Hourly].into_iter().find(|repeat| repeat.number() == number)
    }

    /// Lowest and highest number in DAYS, and what they are called.
    fn range(self) -> (u32, u32, &'static str) {
        match self {
            Self::Weekly => (0, 6, "days of the week"),
            Self::Monthly => (1, 31, "days of the month"),
            Self::Yearly => (0, 365, "days of the year"),
            Self::Hourly => (1, 168, "hours"),
        }
    }
}

/// When a repetition ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum End {
    /// Nothing was said: as [`End::Never`].
    #[default]
    Unset,
    /// Never.
    Never,
    /// After so many more runs.
    Runs(i64),
    /// With the last run planned at or before this time.
    Date(i64),
}

impl End {
    /// END_TYPE and END_VALUE.
    pub fn numbers(self) -> (i64, i64) {
        match self {
            Self::Unset => (-1, -1),
            Self::Never => (0, -1),
            Self::Runs(runs) => (1, runs),
            Self::Date(date) => (2, date),
        }
    }

    /// From END_TYPE and END_VALUE as stored; `None` for an unknown type.
    pub fn from_numbers(end_type: i64, end_value: i64) -> Option<Self> {
        match end_type {
            -1 => Some(Self::Unset),
            0 => Some(Self::Never),
            1 => Some(Self::Runs(end_value)),
            2 => Some(Self::Date(end_value)),
            _ => None,
        }
    }
}

/// One scheduled action. Times are epoch seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledAction {
    /// Its id, global over all VMs and jobs.
    pub id: ScheduleId,
    /// The VM or job.
    pub parent_id: i64,
    /// Which of the two `parent_id` names.
    pub parent: Parent,
    /// One of [`ACTIONS`].
    pub action: String,
    /// Arguments of the action, separated by commas.
    pub args: String,
    /// The planned time of the next run; of the last one when there is no further run.
    pub time: i64,
    /// The local time of day that runs are planned for, in seconds after midnight, once it can differ from that of `time`
    /// (because `time` was moved out of a gap). `None`: that of `time`.
    #[serde(default)]
    pub time_of_day: Option<u32>,
    /// How it repeats.
    pub repeat: Option<Repeat>,
    /// The days or hours of the repetition: sorted, each once.
    pub days: Vec<u32>,
    /// When the repetition ends.
    pub end: End,
    /// The time of the last run.
    pub done: Option<i64>,
    /// Why the last attempt failed; empty after a success.
    pub message: String,
    /// When clients begin to mark it as imminent; 0 is never.
    pub warning: i64,
    /// TIMEZONE: the IANA name of the zone whose calendar and clock it follows; `None`: the daemon's.
    #[serde(default)]
    pub timezone: Option<String>,
    /// CRON: when it repeats, instead of `repeat` and `days`.
    #[serde(default)]
    pub cron: Option<String>,
    /// JITTER: it starts up to so many seconds after `time`; how many follows from the VM or job, so that many that are
    /// planned for the same time start one after the other, each at the same time every day.
    #[serde(default)]
    pub jitter: u32,
    /// WINDOW_END: the local time of day, seconds after midnight, by which a backup must have started; else it is left out.
    #[serde(default)]
    pub window_end: Option<u32>,
    /// KEEP_LAST: how many of the restore points that this action made are kept; `None`: the VM's or job's own number rules.
    #[serde(default)]
    pub keep_last: Option<i64>,
    /// RETRY: how often a backup is started again that it started and that failed.
    #[serde(default = "retry_unsaid")]
    pub retry: u32,
    /// The planned time of the last run, when there was one since `time` was given by a user.
    #[serde(default)]
    pub served: Option<i64>,
    /// The last planned time that was left out because its window had closed.
    #[serde(default)]
    pub skipped: Option<i64>,
    /// What the clock showed when `time` was chosen by the rule; `None`: a user chose it.
    #[serde(default)]
    pub planned_at: Option<i64>,
    /// Seconds after `time` at which it starts: its share of the jitter.
    #[serde(default)]
    pub delay: u32,
}

/// RETRY when nothing is said.
pub const RETRY: u32 = 1;
/// The highest JITTER, seconds.
pub const JITTER_MAX: u32 = 86_400;
/// The highest RETRY.
pub const RETRY_MAX: u32 = 10;
/// The name of the vectors in USER_TEMPLATE that show what SCHED_ACTION has no room for.
pub const SCHED_INFO: &str = "SCHED_INFO";

fn retry_unsaid() -> u32 {
    RETRY
}

/// What a text of attributes is read against.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The time that `+N` counts from: the VM's creation.
    pub start: i64,
    /// The time that it is.
    pub now: i64,
    /// The daemon's zone.
    pub zone: Tz,
}

impl ScheduledAction {
    /// Reads a new action from a `SCHED_ACTION` vector.
    ///
    /// # Errors
    /// [`Refusal::BadSchedule`] naming the first attribute that is missing or out of its range.
    pub fn parse(
        vector: &Vector,
        id: ScheduleId,
        parent: Parent,
        parent_id: i64,
        reading: Reading,
    ) -> Result<Self, Refusal> {
        let mut action = Self {
            id,
            parent_id,
            parent,
            action: String::new(),
            args: String::new(),
            time: -1,
            time_of_day: None,
            repeat: None,
            days: Vec::new(),
            end: End::Unset,
            done: None,
            message: String::new(),
            warning: 0,
            timezone: None,
            cron: None,
            jitter: 0,
            window_end: None,
            keep_last: None,
            retry: RETRY,
            served: None,
            skipped: None,
            planned_at: None,
            delay: 0,
        };
        action.read(vector, reading)?;
        if action.cron.is_some() {
            action.first_by_cron(action.time, reading)?;
        }
        action.delay = action.delay_of(action.time, reading.zone);
        Ok(action)
    }

    /// The action after an update: keys that the vector leaves out keep their value. A changed TIME makes the action wait
    /// for it anew, even after its last run; a changed rule brings an ended repetition back to life when it allows a
    /// further run. A changed CRON counts from now.
    ///
    /// # Errors
    /// As [`ScheduledAction::parse`].
    pub fn updated(&self, vector: &Vector, reading: Reading) -> Result<Self, Refusal> {
        let mut action = self.clone();
        action.read(vector, reading)?;
        let zone_changed = action.timezone != self.timezone;
        let rule = |a: &Self| (a.repeat, a.days.clone(), a.cron.clone(), a.end);
        if action.time != self.time {
            (action.done, action.served, action.skipped, action.planned_at) = (None, None, None, None);
            action.time_of_day = None;
            if action.cron.is_some() {
                action.first_by_cron(action.time, reading)?;
            }
        } else if action.cron.is_some() && (action.cron != self.cron || zone_changed) {
            action.first_by_cron(action.served.map_or(-1, |served| served.saturating_add(1)), reading)?;
        } else {
            if zone_changed {
                action.time_of_day = None;
            }
            let over = !self.is_open() && (self.is_served() || self.time <= reading.now);
            if over && rule(&action) != rule(self) {
                action.plan(reading.now, reading.zone);
            }
        }
        action.delay = action.delay_of(action.time, reading.zone);
        Ok(action)
    }

    /// Sets TIME to the first time of CRON that is not before `earliest` and is after now.
    fn first_by_cron(&mut self, earliest: i64, reading: Reading) -> Result<(), Refusal> {
        let after = reading.now.max(earliest.saturating_sub(1));
        match self.rule().and_then(|rule| rule.after(after, self.zone(reading.zone))) {
            Some((time, _)) => {
                (self.time, self.time_of_day) = (time, None);
                // What was chosen by an earliest TIME does not come sooner when the clock is put back.
                self.planned_at = (earliest <= reading.now).then_some(reading.now);
                Ok(())
            }
            None => bad(format!(
                "Wrong CRON value: {}, it never fires again; it must name a date that exists",
                self.cron.as_deref().unwrap_or_default()
            )),
        }
    }

    /// The arguments of a backup: the datastore, and whether to begin a new chain.
    ///
    /// # Errors
    /// [`Refusal::BadSchedule`] when ARGS is not `datastore` or `datastore,reset`.
    pub fn backup_args(&self) -> Result<(DatastoreId, bool), Refusal> {
        let mut words = self.args.split(',').map(str::trim);
        let datastore = words.next().and_then(|word| word.parse().ok());
        let reset = match words.next() {
            None | Some("" | "0") => Some(false),
            Some("1") => Some(true),
            Some(word) if word.eq_ignore_ascii_case("NO") => Some(false),
            Some(word) if word.eq_ignore_ascii_case("YES") => Some(true),
            Some(_) => None,
        };
        match (datastore, reset, words.next()) {
            (Some(datastore), Some(reset), None) => Ok((DatastoreId(datastore), reset)),
            _ => bad(format!(
                "Wrong ARGS value: {}, a backup takes a datastore id and optionally 0 or 1 for reset",
                self.args
            )),
        }
    }
}

/// How long to wait after so many failed attempts in a row before the next, in seconds: 15 s doubled each time, at most an
/// hour. The original tries every 15 s for ever.
pub fn retry_delay(failures: u32) -> i64 {
    let doubled = 15_i64.checked_shl(failures.min(16).saturating_sub(1)).unwrap_or(3600);
    doubled.min(3600)
}

fn bad<T>(reason: String) -> Result<T, Refusal> {
    Err(Refusal::BadSchedule(reason))
}

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod tests;
