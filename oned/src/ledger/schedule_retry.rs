//! RETRY: a backup that a scheduled action started and that failed is started again.
//!
//! A retry is no run of its own: it moves no TIME, counts for no END_VALUE, and is given up when the next planned run comes
//! first or the window of the run that failed closes. All of it is in the action's row.

use chrono_tz::Tz;
use one_core::schedule::{BACKUP, ScheduledAction};

use super::backup_end::{BackupEnd, EndedBackup};
use super::{flat, read_schedule, schedule_text};
use crate::job::Origin;
use crate::store::rows::ScheduleRow;
use crate::store::{StoreError, Tx};

/// Rest between the failure of a backup and its retry, seconds.
const PAUSE_S: i64 = 300;

/// Writes into an action's row when it is to be looked at next, and until when that may begin: for its retry, if one is
/// planned that comes before its next run.
pub fn plan(row: &mut ScheduleRow, action: &ScheduledAction, zone: Tz) {
    let next = action.due_at();
    row.retry_at = row.retry_at.filter(|retry| next.is_none_or(|next| *retry < next));
    row.planned_at = action.planned_at;
    (row.due_at, row.closes_at) = match row.retry_at {
        Some(retry) => (Some(retry), row.retry_until),
        None => (next, next.and_then(|_| action.window_closes(zone))),
    };
}

/// Plans another attempt for the scheduled action of a backup that failed, if there is one left. One that was changed or
/// deleted meanwhile is left alone: what failed was asked for by another.
///
/// # Errors
/// The database's failure.
pub fn backup_ended(tx: &mut Tx<'_>, ended: &EndedBackup<'_>) -> Result<(), StoreError> {
    let Origin::Schedule { id } = ended.plan.origin else { return Ok(()) };
    let Some(mut row) = tx.schedule_find(id)?.filter(|row| row.vm_id == Some(ended.vm_id)) else { return Ok(()) };
    let Some(mut action) = read_schedule(&row).filter(|action| action.action == BACKUP) else { return Ok(()) };
    let before = row.clone();
    let (failures, until) = (row.failures.saturating_add(1), row.retry_until);
    (row.failures, row.retry_at) = (0, None);
    // A TIME that was changed meanwhile has no run yet.
    if let BackupEnd::Failed(reason) = ended.end
        && action.done.is_some()
    {
        let at = ended.now.saturating_add(PAUSE_S);
        let first = action.due_at().is_none_or(|next| at < next) && until.is_none_or(|until| at <= until);
        let again = first && failures <= i64::from(action.retry);
        if again {
            (row.failures, row.retry_at) = (failures, Some(at));
        }
        let more = if again { format!(", next attempt in {PAUSE_S} s") } else { String::new() };
        let message = flat(&format!("[{BACKUP}] failed{more}: {reason}"));
        action = action.after_failure(ended.now, ended.zone, &message);
        row.body = schedule_text(&action)?;
    }
    plan(&mut row, &action, ended.zone);
    if row == before { Ok(()) } else { tx.schedule_update(&row) }
}
