//! Scheduled actions of VMs and backup jobs: their attributes, when they are due, and when next.
//!
//! What it is: values and arithmetic. What it is not: a dispatcher; nothing here runs anything or reads a clock.
//!
//! Invariants:
//! - a repeating action's TIME only grows, and after a run lies strictly after that run: a daemon that slept for a week
//!   runs an action once, late, and then goes on in the future;
//! - END_TYPE 1 with END_VALUE n gives exactly n runs; END_TYPE 2 gives none whose planned TIME is after the date;
//! - days are counted on the local calendar at the local time of day of the first TIME. A local time that does not exist
//!   runs at the end of the gap, one that exists twice runs the first time, and neither moves the runs after it. Months and
//!   years that lack a listed day are skipped.
//!
//! The original differs in all of these (it adds whole days of 86 400 s to the old TIME); wire values are the same.

mod next;
mod read;

use chrono::TimeZone;
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
    /// The planned time that was left out because its window had closed, if that was the last one.
    #[serde(default)]
    pub skipped: Option<i64>,
}

/// RETRY when nothing is said.
pub const RETRY: u32 = 1;

fn retry_unsaid() -> u32 {
    RETRY
}

impl ScheduledAction {
    /// Reads a new action from a `SCHED_ACTION` vector. `start` is the time that `+N` counts from: the VM's creation.
    ///
    /// # Errors
    /// [`Refusal::BadSchedule`] naming the first attribute that is missing or out of its range.
    pub fn parse(vector: &Vector, id: ScheduleId, parent: Parent, parent_id: i64, start: i64) -> Result<Self, Refusal> {
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
            skipped: None,
        };
        action.read(vector, start)?;
        Ok(action)
    }

    /// The action after an update: keys that the vector leaves out keep their value. A changed TIME makes the action wait
    /// for it anew, even after its last run; a changed rule brings an ended repetition back to life when it allows a
    /// further run.
    ///
    /// # Errors
    /// As [`ScheduledAction::parse`].
    pub fn updated(&self, vector: &Vector, start: i64, zone: Tz) -> Result<Self, Refusal> {
        let mut action = self.clone();
        action.read(vector, start)?;
        if action.time != self.time {
            action.time_of_day = None;
            action.done = None;
            return Ok(action);
        }
        let rule = |a: &Self| (a.repeat, a.days.clone(), a.end);
        if let Some(done) = action.done.filter(|done| *done >= action.time && rule(&action) != rule(self)) {
            action.advance(done, zone);
        }
        Ok(action)
    }

    /// Whether it should run now: its planned time has come, has not been served, and its end has not come before it. The
    /// end is compared with the planned time, so that a run that waits for a free slot is not lost.
    pub fn is_due(&self, now: i64) -> bool {
        self.due_at().is_some_and(|due| due <= now)
    }

    /// When it is to start: `time`, with its share of the jitter; `None` when there is no further run.
    pub fn due_at(&self) -> Option<i64> {
        let open =
            self.done.is_none_or(|done| self.time > done) && self.skipped != Some(self.time) && !self.has_ended();
        open.then(|| self.time.saturating_add(self.share_of_jitter()))
    }

    /// Seconds after `time` at which it starts, at most `jitter`: the same for each run, and spread evenly over VMs and jobs.
    fn share_of_jitter(&self) -> i64 {
        // The finalizer of splitmix64: neighbouring ids lie far apart.
        let mut hash = self.parent_id.unsigned_abs().wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        i64::try_from(hash % (u64::from(self.jitter) + 1)).unwrap_or(0)
    }

    /// The zone whose calendar it follows; `zone` is the daemon's.
    pub fn zone(&self, zone: Tz) -> Tz {
        self.timezone.as_deref().and_then(|name| name.parse().ok()).unwrap_or(zone)
    }

    /// The time after which the run planned for `time` is left out: the first WINDOW_END after `time` in its zone.
    pub fn window_closes(&self, zone: Tz) -> Option<i64> {
        next::first_at(self.window_end?, self.time, self.zone(zone))
    }

    /// The action when its window closed before the planned run could start: that run is left out and does not count, and
    /// the next is planned as after a run.
    #[must_use]
    pub fn after_skip(&self, now: i64, zone: Tz) -> Self {
        let mut action = self.clone();
        action.skipped = Some(self.time);
        action.warning = 0;
        let reason = "skipped: it could not be started before WINDOW_END";
        action.advance(now, zone);
        Self { message: action.after_failure(now, zone, reason).message, ..action }
    }

    /// Whether its end rule forbids the run planned for `time`.
    fn has_ended(&self) -> bool {
        match (self.repeat, self.end) {
            (None, _) | (Some(_), End::Unset | End::Never) => false,
            (Some(_), End::Runs(runs)) => runs < 1,
            (Some(_), End::Date(date)) => self.time > date,
        }
    }

    /// The action after a run that was accepted at `now`: DONE set, MESSAGE and WARNING cleared, one run less to go, and
    /// TIME moved to the next run if there is one.
    #[must_use]
    pub fn after_run(&self, now: i64, zone: Tz) -> Self {
        let mut action = self.clone();
        action.done = Some(now);
        action.message = String::new();
        if action.repeat.is_some() {
            action.warning = 0;
            if let End::Runs(runs) = action.end {
                action.end = End::Runs(runs.saturating_sub(1).max(0));
            }
            action.advance(now, zone);
        }
        action
    }

    /// The action with its first run strictly after `now`, for a VM made today from a template whose TIME has long passed:
    /// what was planned before the VM existed was not missed. Counts no run. An action that does not repeat, or whose
    /// rule allows nothing after `now`, stays as it is.
    #[must_use]
    pub fn starting_after(&self, now: i64, zone: Tz) -> Self {
        let mut action = self.clone();
        if action.time <= now {
            action.advance(now, zone);
        }
        action
    }

    /// The action after an attempt that was refused at `now`: the reason is shown, and it stays due.
    #[must_use]
    pub fn after_failure(&self, now: i64, zone: Tz, reason: &str) -> Self {
        let date = zone.timestamp_opt(now, 0).single().map(|date| date.format("%a %b %e %H:%M:%S %Y").to_string());
        let mut action = self.clone();
        action.message = format!("{} : {reason}", date.unwrap_or_else(|| now.to_string()));
        action
    }

    /// Moves `time` to the first run strictly after both `now` and the present `time`, if the end rule allows one.
    fn advance(&mut self, now: i64, zone: Tz) {
        let Some(repeat) = self.repeat else { return };
        let zone = self.zone(zone);
        // What was planned while its share of the jitter went by is still to come.
        let now = now.saturating_sub(self.share_of_jitter());
        let Some((time, time_of_day)) = next::after(repeat, &self.days, self.time, self.time_of_day, now, zone) else {
            return;
        };
        let allowed = match self.end {
            End::Unset | End::Never => true,
            End::Runs(runs) => runs > 0,
            End::Date(date) => time <= date,
        };
        if allowed {
            self.time = time;
            self.time_of_day = time_of_day;
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

    /// The vector as clients and documents show it: every key, in the order of the published schema.
    pub fn to_vector(&self) -> Vector {
        let days: Vec<String> = self.days.iter().map(u32::to_string).collect();
        let (end_type, end_value) = self.end.numbers();
        [
            ("ID", self.id.to_string()),
            ("PARENT_ID", self.parent_id.to_string()),
            ("TYPE", self.parent.name().to_owned()),
            ("ACTION", self.action.clone()),
            ("ARGS", self.args.clone()),
            ("TIME", self.time.to_string()),
            ("REPEAT", self.repeat.map_or(-1, Repeat::number).to_string()),
            ("DAYS", days.join(",")),
            ("END_TYPE", end_type.to_string()),
            ("END_VALUE", end_value.to_string()),
            ("DONE", self.done.unwrap_or(-1).to_string()),
            ("MESSAGE", self.message.clone()),
            ("WARNING", self.warning.to_string()),
        ]
        .into_iter()
        .collect()
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
mod tests;
