//! One scheduled action whose turn it is: whether it is so still, and what is kept of what became of it.

use chrono_tz::Tz;
use one_core::refusal::Refusal;
use one_core::schedule::{ScheduledAction, retry_delay};

use super::{Outcome, Starter};
use crate::api::{Cloud, schedule};
use crate::events::{self, EventResult, Note};
use crate::ledger;
use crate::store::rows::ScheduleRow;
use crate::store::{StoreError, Tx, pause_is_over};

/// What an action is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// Its TIME has come.
    Planned,
    /// The backup that it started last has failed.
    Retry,
}

impl Run {
    fn of(row: &ScheduleRow, action: &ScheduledAction, now: i64) -> Option<Self> {
        if action.is_due(now) {
            return Some(Self::Planned);
        }
        row.retry_at.filter(|at| pause_is_over(*at, now)).map(|_| Self::Retry)
    }

    /// When its window closes: a retry has that of the run that failed.
    fn closes(self, row: &ScheduleRow, action: &ScheduledAction, zone: Tz) -> Option<i64> {
        match self {
            Self::Planned => action.window_closes(zone),
            Self::Retry => row.retry_until,
        }
    }
}

/// Starts an action, or keeps the reason why not. False when nothing was to be done.
///
/// # Errors
/// The database's failure.
pub(super) fn act(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    starter: &impl Starter,
    id: i64,
    now: i64,
) -> Result<bool, StoreError> {
    let Some(row) = tx.schedule_find(id)? else { return Ok(false) };
    let Some(action) = ledger::read_schedule(&row) else {
        put_away(tx, row)?;
        return Ok(false);
    };
    let Some(run) = Run::of(&row, &action, now) else { return Ok(false) };
    let closes = run.closes(&row, &action, cloud.config.timezone);
    if closes.is_some_and(|closes| closes < now) || !pause_is_over(row.not_before, now) {
        return Ok(false);
    }
    let started = tx.attempt(|tx| {
        let outcome = starter.start(cloud, tx, &row, &action, now)?;
        if outcome == Outcome::Started {
            started(cloud, tx, (&row, &action), run, now)?;
        }
        Ok(outcome)
    });
    match started {
        Ok(outcome) => Ok(outcome == Outcome::Started),
        Err(refusal) => {
            tx.attempt(|tx| refused(cloud, tx, (&row, &action), &refusal, now))?;
            Ok(true)
        }
    }
}

/// Plans an action anew whose TIME was planned when the clock showed a later time than `now`.
///
/// # Errors
/// The database's failure.
pub(super) fn plan_anew(cloud: &Cloud, tx: &mut Tx<'_>, id: i64, now: i64) -> Result<(), StoreError> {
    let Some(mut row) = tx.schedule_find(id)? else { return Ok(()) };
    let zone = cloud.config.timezone;
    let anew = ledger::read_schedule(&row).and_then(|action| action.after_step_back(now, zone));
    if let Some(action) = anew {
        row.body = ledger::schedule_text(&action)?;
        ledger::schedule_times(&mut row, &action, zone);
    }
    // Also when it stays as it was, which need not be found out again.
    row.planned_at = row.planned_at.map(|planned| planned.min(now));
    tx.schedule_update(&row)
}

fn started(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    (old, action): (&ScheduleRow, &ScheduledAction),
    run: Run,
    now: i64,
) -> Result<(), StoreError> {
    let zone = cloud.config.timezone;
    let mut row = match run {
        Run::Planned => schedule::row_of(&action.after_run(now, zone), old.uid, zone)?,
        Run::Retry => {
            let action = ScheduledAction { message: String::new(), ..action.clone() };
            ScheduleRow { failures: old.failures, ..schedule::row_of(&action, old.uid, zone)? }
        }
    };
    // For its retries.
    row.retry_until = run.closes(old, action, zone);
    match tx.schedule_update(&row) {
        // An action that ended its VM was removed with it.
        Err(StoreError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// Leaves out what could not be started before its window closed: the retry of a run, or the run that is planned.
///
/// # Errors
/// The database's failure.
pub(super) fn leave_out(cloud: &Cloud, tx: &mut Tx<'_>, id: i64, now: i64) -> Result<(), StoreError> {
    let Some(old) = tx.schedule_find(id)? else { return Ok(()) };
    let Some(action) = ledger::read_schedule(&old) else { return put_away(tx, old) };
    let zone = cloud.config.timezone;
    let is_closed = |run: Run| run.closes(&old, &action, zone).is_some_and(|closes| closes < now);
    let (next, reason) = if old.retry_at.is_some() && is_closed(Run::Retry) {
        (action.clone(), "It could not be tried again before WINDOW_END.")
    } else if action.is_due(now) && is_closed(Run::Planned) {
        (action.after_skip(now, zone), "It could not be started before WINDOW_END.")
    } else {
        return Ok(());
    };
    tx.schedule_update(&schedule::row_of(&next, old.uid, zone)?)?;
    tracing::warn!(target: "SCHED", "{}: scheduled {} {} is skipped: {reason}", whose(&old), action.action, old.id);
    events::note(tx, &note(&old, &action, EventResult::Skipped, reason, now))
}

/// An action that cannot be read would be due for ever, and have the slot of somebody else.
fn put_away(tx: &mut Tx<'_>, row: ScheduleRow) -> Result<(), StoreError> {
    tx.schedule_update(&ScheduleRow { due_at: None, closes_at: None, retry_at: None, ..row })
}

fn refused(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    (old, action): (&ScheduleRow, &ScheduledAction),
    refusal: &Refusal,
    now: i64,
) -> Result<(), StoreError> {
    let reason = ledger::flat(&refusal.to_string());
    let next =
        action.after_failure(now, cloud.config.timezone, &ledger::flat(&format!("[{}] {reason}", action.action)));
    let refusals = old.refusals.saturating_add(1);
    let delay = retry_delay(u32::try_from(refusals).unwrap_or(u32::MAX));
    tx.schedule_update(&ScheduleRow {
        body: ledger::schedule_text(&next)?,
        refusals,
        not_before: now.saturating_add(delay),
        ..old.clone()
    })?;
    tracing::warn!(target: "SCHED", "{}: scheduled {} {} is refused: {reason}", whose(old), action.action, old.id);
    events::note(tx, &note(old, action, EventResult::Refused, &reason, now))
}

/// An event of an action.
pub(super) fn note<'a>(
    row: &ScheduleRow,
    action: &'a ScheduledAction,
    result: EventResult,
    reason: &'a str,
    now: i64,
) -> Note<'a> {
    Note {
        time: now,
        vm_id: row.vm_id,
        backup_job_id: row.backup_job_id,
        schedule_id: Some(row.id),
        job_id: None,
        uid: row.uid,
        action: &action.action,
        result,
        reason,
    }
}

fn whose(row: &ScheduleRow) -> String {
    match (row.vm_id, row.backup_job_id) {
        (Some(vm), _) => format!("VM {vm}"),
        (None, job) => format!("Backup job {}", job.unwrap_or(-1)),
    }
}
