//! One scheduled action whose turn it is: whether it is so still, and what is kept of what became of it.

use one_core::refusal::Refusal;
use one_core::schedule::{ScheduledAction, retry_delay};

use super::{Outcome, Starter};
use crate::api::{Cloud, schedule};
use crate::events::{self, EventResult, Note};
use crate::ledger;
use crate::store::rows::ScheduleRow;
use crate::store::{PAUSE_MAX_S, StoreError, Tx};

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
        row.retry_at.filter(|at| is_over(*at, now)).map(|_| Self::Retry)
    }
}

/// Whether a pause until `until` is over: one that is longer than any can be is, since the clock was put back.
fn is_over(until: i64, now: i64) -> bool {
    until <= now || until > now.saturating_add(PAUSE_MAX_S)
}

/// Starts an action, leaves it out when its window has closed, or keeps the reason why not. False when nothing was to be done.
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
        // It would be due for ever, and have the slot of somebody else.
        tx.schedule_update(&ScheduleRow { due_at: None, retry_at: None, ..row })?;
        return Ok(false);
    };
    let Some(run) = Run::of(&row, &action, now) else { return Ok(false) };
    if row.closes_at.is_some_and(|closes| closes < now) {
        tx.attempt(|tx| skip(cloud, tx, (&row, &action), run, now))?;
        return Ok(true);
    }
    if !is_over(row.not_before, now) {
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
    row.retry_until = old.closes_at;
    match tx.schedule_update(&row) {
        // An action that ended its VM was removed with it.
        Err(StoreError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn skip(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    (old, action): (&ScheduleRow, &ScheduledAction),
    run: Run,
    now: i64,
) -> Result<(), StoreError> {
    let zone = cloud.config.timezone;
    let next = match run {
        Run::Planned => action.after_skip(now, zone),
        Run::Retry => action.clone(),
    };
    let reason = match run {
        Run::Planned => "It could not be started before WINDOW_END.",
        Run::Retry => "It could not be tried again before WINDOW_END.",
    };
    tx.schedule_update(&schedule::row_of(&next, old.uid, zone)?)?;
    tracing::warn!(target: "SCHED", "{}: scheduled {} {} is skipped: {reason}", whose(old), action.action, old.id);
    events::note(tx, &note(old, action, EventResult::Skipped, reason, now))
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
