//! The lists of a backup job's run: what is to do (OUTDATED), at work (BACKING_UP), done (UPDATED) and failed (ERROR).
//!
//! Invariants: a VM is in BACKING_UP exactly as long as the daemon's job that its entry names has not told its end; an end
//! moves only the entry that names its job, so what was cancelled, has left or runs again is none of its business. A run
//! is over when nothing is in OUTDATED and BACKING_UP, and then it is known how long it took.

use one_core::lifecycle::VmState;
use one_core::schedule::RETRY;

use super::backup_end::{BackupEnd, EndedBackup};
use super::{error_date, flat, stored};
use crate::events::{self, EventResult};
use crate::store::rows::{BackupJobRow, BackupJobVmRow};
use crate::store::{REST_MAX_S, RunList, StoreError, Tx};

/// Moves the VM of a backup that was part of a run into the list where it belongs now.
///
/// # Errors
/// The database's failure.
pub fn backup_ended(tx: &mut Tx<'_>, ended: &EndedBackup<'_>) -> Result<(), StoreError> {
    let Some(backup_job_id) = ended.plan.origin.backup_job_id() else { return Ok(()) };
    let entry = tx.backup_job_vm(backup_job_id, ended.vm_id)?.filter(|entry| entry.job_id == Some(ended.job.id));
    let (Some(entry), Some(job)) = (entry, tx.backup_job_find(backup_job_id)?) else { return Ok(()) };
    let is_gone = tx.vm_find(ended.vm_id)?.is_none_or(|vm| vm.state == VmState::Done.number());
    let text = match ended.end {
        BackupEnd::Done { .. } => {
            tx.backup_job_vm_put(&entry.moved(RunList::Updated))?;
            return run_settled(tx, backup_job_id, ended.now);
        }
        _ if is_gone => {
            tx.backup_job_vm_remove(backup_job_id, ended.vm_id)?;
            return run_settled(tx, backup_job_id, ended.now);
        }
        BackupEnd::Cancelled => "cancelled on request",
        BackupEnd::Failed(text) => text,
    };
    let failures = entry.failures.saturating_add(1);
    if matches!(ended.end, BackupEnd::Failed(_)) && failures <= retries(&job) {
        let place = tx.backup_job_end(backup_job_id)?;
        let again = entry.moved(RunList::Outdated);
        let not_before = ended.now.saturating_add(REST_MAX_S);
        return tx.backup_job_vm_put(&BackupJobVmRow { place, failures, not_before, ..again });
    }
    let text = format!("VM {}: {text}", ended.vm_id);
    run_failed(tx, job, BackupJobVmRow { failures, ..entry }, &text, ended.now, ended.zone)
}

/// How often a VM whose backup failed is backed up once more in the same run.
fn retries(job: &BackupJobRow) -> i64 {
    stored(&job.template).int("RETRY").unwrap_or(i64::from(RETRY))
}

/// Puts a VM of a run into the list ERROR, with the reason in the job's ERROR.
///
/// # Errors
/// The database's failure.
pub fn run_failed(
    tx: &mut Tx<'_>,
    mut job: BackupJobRow,
    entry: BackupJobVmRow,
    text: &str,
    now: i64,
    zone: chrono_tz::Tz,
) -> Result<(), StoreError> {
    tx.backup_job_vm_put(&entry.moved(RunList::Error))?;
    let mut template = stored(&job.template);
    template.set("ERROR", format!("{} : [backup] {}", error_date(now, zone), flat(text)));
    job.template = template.to_text();
    tx.backup_job_update(&job)?;
    tracing::warn!(target: "SCHED", "Backup job {}: {text}", job.id);
    run_settled(tx, job.id, now)
}

/// Notes how a run ended and how long it took, when the last of its VMs has just left the lists of what is to be done. To be
/// called whenever one does.
///
/// # Errors
/// The database's failure.
pub fn run_settled(tx: &mut Tx<'_>, backup_job_id: i64, now: i64) -> Result<(), StoreError> {
    if tx.backup_job_runs(backup_job_id)? {
        return Ok(());
    }
    let Some(mut job) = tx.backup_job_find(backup_job_id)? else { return Ok(()) };
    job.last_backup_duration = now.saturating_sub(job.last_backup_time).max(0);
    tx.backup_job_update(&job)?;
    let failed = tx.backup_job_vms_count(backup_job_id, &[RunList::Error])?;
    let done = tx.backup_job_vms_count(backup_job_id, &[RunList::Updated])?;
    let reason = format!("{failed} of {} VMs have no new restore point", failed + done);
    let outcome = if failed > 0 { (EventResult::Failed, reason.as_str()) } else { (EventResult::Done, "") };
    events::run_over(tx, backup_job_id, outcome, job.last_backup_duration, now)
}
