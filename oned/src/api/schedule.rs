//! Scheduled actions of VMs: kept here, run by `crate::scheduler`.

use one_core::access::Caller;
use one_core::id::ScheduleId;
use one_core::lifecycle::{VmOperation, VmState};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::schedule::{BACKUP, Parent, ScheduledAction};
use one_core::template::Vector;

use super::datastore::BACKUP_DS;
use super::{Cloud, datastore_for, parse, vm_for};
use crate::ledger;
use crate::store::rows::{ScheduleRow, VmRow};
use crate::store::{StoreError, Tx};

/// Most scheduled actions of one VM.
const ACTIONS_MAX: usize = 100;

/// Adds a preset of a VM's template while the VM is made. A repeating one whose TIME has passed starts at its first date from
/// now on: a VM that did not exist has missed nothing.
///
/// # Errors
/// Attributes that make no action; no USE on the datastore of a backup.
pub fn add_preset(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, vm_id: i64, wish: &Vector) -> Result<i64, Refusal> {
    let now = cloud.clock.now();
    insert(cloud, tx, caller, vm_id, now, wish, true)
}

fn insert(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    vm_id: i64,
    stime: i64,
    wish: &Vector,
    preset: bool,
) -> Result<i64, Refusal> {
    if tx.schedules_of_vm(vm_id)?.len() >= ACTIONS_MAX {
        return Err(Refusal::BadSchedule(format!("A VM can have at most {ACTIONS_MAX} scheduled actions.")));
    }
    let id = tx.next_id("schedule")?;
    let mut action = ScheduledAction::parse(wish, ScheduleId(id), Parent::Vm, vm_id, stime)?;
    if preset {
        action = action.starting_after(cloud.clock.now(), cloud.config.timezone);
    }
    check_target(tx, caller, &action)?;
    tx.schedule_insert(&row_of(&action, caller.uid)?)?;
    Ok(id)
}

/// The datastore of a backup must be one that the caller may use; −1 (the chain's own) is looked at when it runs.
fn check_target(tx: &mut Tx<'_>, caller: &Caller, action: &ScheduledAction) -> Result<(), Refusal> {
    if action.action != BACKUP {
        return Ok(());
    }
    let (datastore, _) = action.backup_args()?;
    if datastore.0 < 0 {
        return Ok(());
    }
    let row = datastore_for(tx, caller, Right::Use, datastore.0)?;
    if row.kind == BACKUP_DS { Ok(()) } else { Err(Refusal::NotABackupDatastore { datastore: row.id }) }
}

/// An action as a row, with the time when it is due.
///
/// # Errors
/// An action that cannot be written down.
pub fn row_of(action: &ScheduledAction, uid: i64) -> Result<ScheduleRow, StoreError> {
    let body = serde_json::to_string(action)
        .map_err(|e| StoreError::Broken { doing: "writing a scheduled action", reason: e.to_string() })?;
    // Due exactly when the core says so, once its TIME has come.
    let due_at = action.is_due(action.time).then_some(action.time);
    let (vm_id, backup_job_id) = match action.parent {
        Parent::Vm => (Some(action.parent_id), None),
        Parent::BackupJob => (None, Some(action.parent_id)),
    };
    Ok(ScheduleRow { id: action.id.0, vm_id, backup_job_id, uid, body, due_at, not_before: 0, refusals: 0 })
}

fn wish(text: &str) -> Result<Vector, Refusal> {
    parse(text)?.vector("SCHED_ACTION").cloned().ok_or(Refusal::NoScheduledAction)
}

fn vm(tx: &mut Tx<'_>, caller: &Caller, vm_id: i64) -> Result<VmRow, Refusal> {
    let row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::SchedAction), vm_id)?;
    if ledger::phase(&row).state == VmState::Done {
        return Err(Refusal::ScheduleOnDone { vm: vm_id });
    }
    Ok(row)
}

/// `one.vm.schedadd`: returns the action's id.
///
/// # Errors
/// Not authorised for the VM or the datastore, a VM that is DONE, attributes that make no action.
pub fn add(cloud: &Cloud, caller: &Caller, vm_id: i64, text: &str) -> Result<i64, Refusal> {
    let id = cloud.store.write(|tx| {
        let row = vm(tx, caller, vm_id)?;
        insert(cloud, tx, caller, vm_id, row.stime, &wish(text)?, false)
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn action_of(tx: &mut Tx<'_>, vm_id: i64, id: i64) -> Result<Option<ScheduleRow>, Refusal> {
    Ok(tx.schedule_find(id)?.filter(|row| row.vm_id == Some(vm_id)))
}

/// `one.vm.schedupdate`: keys left out keep their value.
///
/// # Errors
/// As [`add`]; an action that is not this VM's.
pub fn update(cloud: &Cloud, caller: &Caller, vm_id: i64, id: i64, text: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let vm = vm(tx, caller, vm_id)?;
        let row = action_of(tx, vm_id, id)?.ok_or(Refusal::UnknownScheduledAction { id })?;
        let old = ledger::read_schedule(&row).ok_or(Refusal::UnknownScheduledAction { id })?;
        let new = old.updated(&wish(text)?, vm.stime, cloud.config.timezone)?;
        check_target(tx, caller, &new)?;
        tx.schedule_update(&row_of(&new, caller.uid)?)?;
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.vm.scheddelete`: returns the VM's id.
///
/// # Errors
/// Not authorised; an action that is not this VM's.
pub fn delete(cloud: &Cloud, caller: &Caller, vm_id: i64, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::SchedAction), vm_id)?;
        action_of(tx, vm_id, id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Schedule, id })?;
        tx.schedule_delete(id)?;
        Ok(vm_id)
    })
}
