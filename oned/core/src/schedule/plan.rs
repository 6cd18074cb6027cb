//! When an action is due, and what becomes of it after a run, a refusal, a closed window and a clock that was put back.

use chrono::TimeZone;
use chrono_tz::Tz;

use super::{End, Repeat, ScheduledAction, crontab, next};

/// The end of a window that the jitter leaves free, so that who comes last still has time to start: a quarter of an hour, or
/// half of a shorter window.
const LEFT_FREE_SECONDS: u64 = 900;

impl ScheduledAction {
    /// Whether it should run now: its planned time has come, has not been served, and its end has not come before it. The
    /// end is compared with the planned time, so that a run that waits for a free slot is not lost.
    pub fn is_due(&self, now: i64) -> bool {
        self.due_at().is_some_and(|due| due <= now)
    }

    /// When it is to start: `time`, with its share of the jitter; `None` when there is no further run.
    pub fn due_at(&self) -> Option<i64> {
        self.is_open().then(|| self.time.saturating_add(i64::from(self.delay)))
    }

    /// Whether there is a run to come, or one that waits.
    pub(super) fn is_open(&self) -> bool {
        !self.is_served() && !self.has_ended()
    }

    /// Whether the run planned for `time` was made or left out.
    pub(super) fn is_served(&self) -> bool {
        // Actions that were stored before planned times were remembered have DONE alone, which was never before TIME.
        let last = self.served.max(self.skipped).or(self.done);
        last.is_some_and(|last| self.time <= last)
    }

    /// Whether it runs more than once.
    pub fn is_repeating(&self) -> bool {
        self.repeat.is_some() || self.cron.is_some()
    }

    /// Whether its end rule forbids the run planned for `time`.
    fn has_ended(&self) -> bool {
        match self.end {
            _ if !self.is_repeating() => false,
            End::Unset | End::Never => false,
            End::Runs(runs) => runs < 1,
            End::Date(date) => self.time > date,
        }
    }

    /// The zone whose calendar it follows; `zone` is the daemon's.
    pub fn zone(&self, zone: Tz) -> Tz {
        self.timezone.as_deref().and_then(|name| name.parse().ok()).unwrap_or(zone)
    }

    /// The time after which the run planned for `time` is left out: the first WINDOW_END after `time` in its zone.
    pub fn window_closes(&self, zone: Tz) -> Option<i64> {
        self.window_after(self.time, zone)
    }

    fn window_after(&self, time: i64, zone: Tz) -> Option<i64> {
        next::first_at(self.window_end?, time, self.zone(zone))
    }

    /// Seconds after a planned time at which its run is due: this VM's or job's share of JITTER, the same each time, made
    /// smaller where the window leaves less room.
    pub(super) fn delay_of(&self, time: i64, zone: Tz) -> u32 {
        let share = self.share_of_jitter();
        let Some(end) = self.window_after(time, zone).filter(|_| share > 0) else { return share };
        let length = end.saturating_sub(time).max(0).unsigned_abs();
        let room = length - LEFT_FREE_SECONDS.min(length / 2);
        let jitter = u64::from(self.jitter);
        u32::try_from(u64::from(share) * room.min(jitter) / jitter).unwrap_or(share)
    }

    /// This VM's or job's share of JITTER, spread evenly over all of them.
    fn share_of_jitter(&self) -> u32 {
        // The finalizer of splitmix64: neighbouring ids lie far apart.
        let mut hash = self.parent_id.unsigned_abs().wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        u32::try_from(hash % (u64::from(self.jitter) + 1)).unwrap_or(0)
    }

    /// The action after a run that was accepted at `now`: DONE set, MESSAGE and WARNING cleared, one run less to go, and
    /// TIME moved to the next run if there is one.
    #[must_use]
    pub fn after_run(&self, now: i64, zone: Tz) -> Self {
        let mut action = self.clone();
        action.done = Some(now);
        action.message = String::new();
        action.served = Some(self.time);
        if action.is_repeating() {
            action.warning = 0;
            if let End::Runs(runs) = action.end {
                action.end = End::Runs(runs.saturating_sub(1).max(0));
            }
            action.plan(now, zone);
        }
        action
    }

    /// The action when its window closed before the planned run could start: that run is left out and does not count, and
    /// the next is planned as after a run.
    #[must_use]
    pub fn after_skip(&self, now: i64, zone: Tz) -> Self {
        let local = |time| self.zone(zone).timestamp_opt(time, 0).single();
        let text =
            |time| local(time).map_or_else(|| time.to_string(), |time| time.format("%Y-%m-%d %H:%M").to_string());
        let closed = self.window_closes(zone).unwrap_or(now);
        let reason = format!(
            "[{}] skipped: the run planned for {} could not start before its WINDOW_END, {}",
            self.action,
            text(self.time),
            text(closed)
        );
        let mut action = self.after_failure(now, zone, &reason);
        action.skipped = Some(self.time);
        action.warning = 0;
        action.plan(now, zone);
        action
    }

    /// The action with its first run strictly after `now`, for a VM made today from a template whose TIME has long passed:
    /// what was planned before the VM existed was not missed. Counts no run. An action that does not repeat stays as it is;
    /// one whose end came before `now` does not run at all.
    #[must_use]
    pub fn starting_after(&self, now: i64, zone: Tz) -> Self {
        let mut action = self.clone();
        if action.is_repeating() && action.is_due(now) {
            action.served = Some(action.time);
            action.plan(now, zone);
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

    /// The action when the clock shows an earlier time than it did when TIME was planned, for it was put back: what is to
    /// come anew and has not run is planned again, what has run stays done. `None` when nothing changes by that.
    pub fn after_step_back(&self, now: i64, zone: Tz) -> Option<Self> {
        if !self.is_repeating() || self.planned_at.is_none_or(|planned| planned <= now) {
            return None;
        }
        let mut action = self.clone();
        action.skipped = None;
        action.plan(now, zone);
        (action.time < self.time).then_some(action)
    }

    /// Moves `time` to the first time of the rule that comes after the last run and is not due yet, if the end rule allows
    /// one.
    pub(super) fn plan(&mut self, now: i64, zone: Tz) {
        let own_zone = self.zone(zone);
        // What was planned while its share of the jitter went by is still to come.
        let mut after = now.saturating_sub(i64::from(self.share_of_jitter()));
        after = self.served.max(self.skipped).map_or(after, |last| last.max(after));
        let Some(rule) = self.rule() else { return };
        let found = loop {
            let Some((time, time_of_day)) = rule.after(after, own_zone) else { return };
            let delay = self.delay_of(time, zone);
            if time.saturating_add(i64::from(delay)) > now {
                break (time, time_of_day, delay);
            }
            // A window makes its share smaller than others'. At most a day of times is looked through.
            after = time;
        };
        let allowed = match self.end {
            End::Unset | End::Never => true,
            End::Runs(runs) => runs > 0,
            End::Date(date) => found.0 <= date,
        };
        if allowed {
            (self.time, self.time_of_day, self.delay) = found;
            self.planned_at = Some(now);
        }
    }

    /// By what it repeats.
    pub(super) fn rule(&self) -> Option<Rule<'_>> {
        match (&self.cron, self.repeat) {
            (Some(text), _) => Some(Rule::Cron(Box::new(crontab::Rule::read(text).ok()?))),
            (None, Some(repeat)) => Some(Rule::Days(repeat, &self.days, (self.time, self.time_of_day))),
            (None, None) => None,
        }
    }
}

/// By what an action repeats.
pub(super) enum Rule<'a> {
    Cron(Box<crontab::Rule>),
    /// REPEAT, DAYS, and a planned time with the time of day remembered with it.
    Days(Repeat, &'a [u32], (i64, Option<u32>)),
}

impl Rule<'_> {
    /// The first time strictly after `after`, and the time of day to remember with it.
    pub(super) fn after(&self, after: i64, own_zone: Tz) -> Option<(i64, Option<u32>)> {
        match self {
            Self::Cron(rule) => Some((rule.after(after, own_zone)?, None)),
            Self::Days(repeat, days, planned) => next::after(*repeat, days, *planned, after, own_zone),
        }
    }
}
