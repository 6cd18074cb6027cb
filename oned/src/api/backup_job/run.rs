//! Runs of backup jobs: what begins one, what stops it, what does again what failed.
//!
//! A run is four lists of VMs, which the database keeps: nothing else has to be remembered to go on with it.

use one_core::access::Caller;
use one_core::refusal::{Refusal, Right};

use super::present;
use super::template::vms_of;
use crate::api::{Cloud, owned};
use crate::events::{self, EventResult};
use crate::ledger;
use crate::store::rows::{BackupJobRow, BackupJobVmRow};
use crate::store::{RunList, Tx};

/// `one.backupjob.backup`: begins a run.
///
/// # Errors
/// Not authorised (MANAGE), unknown job; as [`begin`].
pub fn backup(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    let now = cloud.clock.now();
    cloud.store.write(|tx| {
        let row = owned::to_use(tx, caller, Right::Manage, id)?;
        begin(tx, row, (caller.uid, None), now)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// Begins a run within a transaction: every VM of the job waits for its backup, in the job's order. Those that are gone are
/// left out; when all are, the run is over at once. `uid` wants it, or the scheduled action `schedule_id`.
///
/// # Errors
/// A run that is not over, no VMs.
pub fn begin(
    tx: &mut Tx<'_>,
    mut row: BackupJobRow,
    (uid, schedule_id): (i64, Option<i64>),
    now: i64,
) -> Result<(), Refusal> {
    if tx.backup_job_runs(row.id)? {
        return Err(Refusal::JobPending { job: row.id });
    }
    let vms = vms_of(&row);
    if vms.is_empty() {
        return Err(Refusal::JobWithoutVms { job: row.id });
    }
    tx.backup_job_vms_clear(row.id, &[RunList::Error, RunList::Updated])?;
    for (place, vm) in (0..).zip(vms) {
        let member = present(tx, vm)?.filter(|vm| ledger::config_of(vm).backup_job_id == Some(row.id));
        if member.is_some() {
            tx.backup_job_vm_put(&BackupJobVmRow::outdated(row.id, vm, place, schedule_id))?;
        }
    }
    clear_error(&mut row);
    row.last_backup_time = now;
    row.last_backup_duration = 0;
    tx.backup_job_update(&row)?;
    events::run_begun(tx, row.id, schedule_id, uid, now)?;
    Ok(ledger::run_settled(tx, row.id, now)?)
}

fn clear_error(row: &mut BackupJobRow) {
    let mut template = ledger::stored(&row.template);
    template.remove("ERROR");
    row.template = template.to_text();
}

/// `one.backupjob.cancel`: nothing more is begun, backups that run are asked to stop. The run is over then; what becomes of
/// those backups is not part of it.
///
/// # Errors
/// Not authorised (MANAGE), unknown job.
pub fn cancel(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    let now = cloud.clock.now();
    cloud.store.write(|tx| {
        let row: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        for job in tx.backup_job_vms(id)?.iter().filter_map(|vm| vm.job_id) {
            tx.job_ask_cancel(job)?;
        }
        if tx.backup_job_vms_clear(id, &RunList::OPEN)? {
            let told = format!("by user {}", caller.uid);
            let took = now.saturating_sub(row.last_backup_time).max(0);
            events::run_over(tx, id, (EventResult::Cancelled, &told), took, now)?;
            ledger::run_settled(tx, id, now)?;
        }
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.backupjob.retry`: what failed is to be done again, behind what still waits. VMs that are gone are forgotten.
///
/// # Errors
/// Not authorised (MANAGE), unknown job.
pub fn retry(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        let mut failed: Vec<_> = tx.backup_job_vms(id)?.into_iter().filter(|vm| vm.is_in(RunList::Error)).collect();
        if failed.is_empty() {
            return Ok::<_, Refusal>(());
        }
        failed.sort_by_key(|vm| (vm.place, vm.vm_id));
        let end = tx.backup_job_end(id)?;
        for (place, entry) in (end..).zip(failed) {
            if present(tx, entry.vm_id)?.is_some() {
                let again = BackupJobVmRow { place, failures: 0, ..entry.moved(RunList::Outdated) };
                tx.backup_job_vm_put(&again)?;
            } else {
                tx.backup_job_vm_remove(id, entry.vm_id)?;
            }
        }
        clear_error(&mut row);
        tx.backup_job_update(&row)?;
        if tx.event_of_open_run(id)?.is_none() {
            events::run_begun(tx, id, None, caller.uid, cloud.clock.now())?;
        }
        Ok(ledger::run_settled(tx, id, cloud.clock.now())?)
    })?;
    cloud.wake.ring();
    Ok(id)
}
