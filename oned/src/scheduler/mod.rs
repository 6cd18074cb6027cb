//! Runs scheduled actions when they are due: a client within the daemon. It asks the api for what a user asked for, with
//! the rights that the VM's owner has at that moment.

pub mod backup_jobs;

use one_core::access::may;
use one_core::lifecycle::{VmAction, VmOperation};
use one_core::refusal::Refusal;
use one_core::schedule::{BACKUP, ScheduledAction, retry_delay};

use crate::api::{Cloud, Owned, backup, schedule, vm_action, vm_snapshots};
use crate::job::{JobKind, Origin};
use crate::store::rows::ScheduleRow;
use crate::store::{JobFilter, StoreError, Tx};
use crate::{ledger, session};

/// Starts everything that is due, at most one action of each VM.
pub fn tick(cloud: &Cloud) {
    let now = cloud.clock.now();
    let due = match cloud.store.read(|tx| tx.schedules_due(now)) {
        Ok(due) => due,
        Err(error) => {
            tracing::error!(target: "SCHED", "{error}");
            return;
        }
    };
    let mut seen = std::collections::HashSet::new();
    for row in due {
        if seen.insert(row.vm_id)
            && let Err(error) = run(cloud, &row, now)
        {
            tracing::error!(target: "SCHED", "Scheduled action {} of VM {}: {error}", row.id, row.vm_id.unwrap_or(-1));
        }
    }
}

/// What became of an action whose turn it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was started.
    Started,
    /// No slot is free, or it was changed meanwhile; nothing is recorded.
    Waits,
}

fn run(cloud: &Cloud, row: &ScheduleRow, now: i64) -> Result<(), StoreError> {
    let Some(action) = ledger::read_schedule(row) else { return Ok(()) };
    let zone = cloud.config.timezone;
    // The start and its mark are one transaction: a daemon that dies in between must not start it twice.
    let started: Result<_, Refusal> = cloud.store.write(|tx| {
        let outcome = start(cloud, tx, row, &action)?;
        if matches!(outcome, Outcome::Started) {
            save(tx, row, &action.after_run(now, zone), 0, 0)?;
        }
        Ok(outcome)
    });
    match started {
        Ok(Outcome::Waits) => Ok(()),
        Ok(Outcome::Started) => {
            cloud.wake.ring();
            Ok(())
        }
        Err(refusal) => {
            let refusals = row.refusals + 1;
            let next = action.after_failure(now, zone, &ledger::flat(&format!("[{}] {refusal}", action.action)));
            let delay = retry_delay(u32::try_from(refusals).unwrap_or(u32::MAX));
            tracing::warn!(target: "SCHED", "VM {}: scheduled {} refused: {refusal}", row.vm_id.unwrap_or(-1), action.action);
            cloud.store.write(|tx| save(tx, row, &next, refusals, now + delay))
        }
    }
}

/// Keeps the outcome, unless the action was changed or deleted meanwhile.
fn save(
    tx: &mut Tx<'_>,
    old: &ScheduleRow,
    next: &ScheduledAction,
    refusals: i64,
    not_before: i64,
) -> Result<(), StoreError> {
    if tx.schedule_find(old.id)?.as_ref() != Some(old) {
        return Ok(());
    }
    let mut row = schedule::row_of(next, old.uid)?;
    row.refusals = refusals;
    row.not_before = not_before;
    tx.schedule_update(&row)
}

fn start(cloud: &Cloud, tx: &mut Tx<'_>, row: &ScheduleRow, action: &ScheduledAction) -> Result<Outcome, Refusal> {
    if tx.schedule_find(row.id)?.as_ref() != Some(row) {
        return Ok(Outcome::Waits);
    }
    let Some(vm_id) = row.vm_id else { return Ok(Outcome::Waits) };
    let vm_row = tx.vm(vm_id)?;
    let owner = session::owner(cloud, tx, vm_row.uid, &format!("VM {vm_id}"))?;
    let object = vm_row.object();
    may(&owner, owner.vm_rights.right_for(VmOperation::SchedAction), &object)?;
    if action.action != BACKUP {
        // What he may not do himself he may not leave to the clock either; backups alone are made for that.
        let word = VmAction::of_schedule(&action.action)?;
        may(&owner, owner.vm_rights.right_for(word.operation), &object)?;
        if action.action.contains("snapshot-") {
            vm_snapshots::scheduled(cloud, tx, &owner, vm_row, (&action.action, &action.args))?;
            return Ok(Outcome::Started);
        }
        vm_action::act(cloud, tx, &owner, vm_row, word)?;
        return Ok(Outcome::Started);
    }
    if !has_slot(cloud, tx, vm_row.host_id)? {
        return Ok(Outcome::Waits);
    }
    let (datastore, reset) = action.backup_args()?;
    let wish = backup::Wish { datastore: datastore.0, reset, origin: Origin::Schedule { id: row.id } };
    backup::start(cloud, tx, &owner, vm_row, wish)?;
    Ok(Outcome::Started)
}

fn has_slot(cloud: &Cloud, tx: &mut Tx<'_>, host_id: Option<i64>) -> Result<bool, Refusal> {
    let backups: Vec<_> =
        tx.jobs_open(JobFilter::All)?.into_iter().filter(|job| job.kind == JobKind::Backup.as_str()).collect();
    let on_host = backups.iter().filter(|job| job.host_id == host_id).count();
    let below = |count: usize, limit: Option<u32>| limit.is_none_or(|limit| count < limit as usize);
    Ok(below(backups.len(), cloud.config.max_backups) && below(on_host, cloud.config.max_backups_host))
}
