//! Scheduled actions of VMs and of backup jobs: kept here, run by `crate::scheduler`.

use one_core::access::Caller;
use one_core::doc::read::VmDocument;
use one_core::id::ScheduleId;
use one_core::lifecycle::{VmOperation, VmState};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::schedule::{BACKUP, Parent, Reading, ScheduledAction};
use one_core::template::{Template, Vector};

use super::datastore::BACKUP_DS;
use super::{Cloud, datastore_for, owned, parse, vm_for};
use crate::ledger;
use crate::store::rows::{BackupJobRow, ScheduleRow};
use crate::store::{StoreError, Tx};

/// Most scheduled actions of one VM or backup job.
const ACTIONS_MAX: usize = 100;

/// Adds a preset of a VM's template while the VM is made. A repeating one whose TIME has passed starts at its first date from
/// now on: a VM that did not exist has missed nothing.
///
/// # Errors
/// Attributes that make no action; no USE on the datastore of a backup.
pub fn add_preset(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, vm_id: i64, wish: &Vector) -> Result<i64, Refusal> {
    let now = cloud.clock.now();
    let action = parsed(cloud, tx, Schedule { parent: Parent::Vm, id: vm_id, start: now }, wish)?;
    store(cloud, tx, caller, &action.starting_after(now, cloud.config.timezone))
}

/// Whose actions, and what `+N` counts from.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    parent: Parent,
    id: i64,
    start: i64,
}

impl Schedule {
    fn reading(self, cloud: &Cloud) -> Reading {
        Reading { start: self.start, now: cloud.clock.now(), zone: cloud.config.timezone }
    }
}

/// Adds an action of a backup job within a transaction; the caller may manage the job.
///
/// # Errors
/// Attributes that make no action, too many actions.
pub fn add_to_job(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, job_id: i64, wish: &Vector) -> Result<i64, Refusal> {
    let action = parsed(cloud, tx, Schedule { parent: Parent::BackupJob, id: job_id, start: 0 }, wish)?;
    store(cloud, tx, caller, &action)
}

/// A new action with an id of its own.
fn parsed(cloud: &Cloud, tx: &mut Tx<'_>, schedule: Schedule, wish: &Vector) -> Result<ScheduledAction, Refusal> {
    let Schedule { parent, id: parent_id, .. } = schedule;
    if rows_of(tx, parent, parent_id)?.len() >= ACTIONS_MAX {
        let what = if parent == Parent::Vm { "VM" } else { "backup job" };
        return Err(Refusal::BadSchedule(format!("A {what} can have at most {ACTIONS_MAX} scheduled actions.")));
    }
    let id = tx.next_id("schedule")?;
    ScheduledAction::parse(wish, ScheduleId(id), parent, parent_id, schedule.reading(cloud))
}

fn store(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, action: &ScheduledAction) -> Result<i64, Refusal> {
    check_target(tx, caller, action)?;
    tx.schedule_insert(&row_of(action, caller.uid, cloud.config.timezone)?)?;
    Ok(action.id.0)
}

fn rows_of(tx: &mut Tx<'_>, parent: Parent, id: i64) -> Result<Vec<ScheduleRow>, StoreError> {
    match parent {
        Parent::Vm => tx.schedules_of_vm(id),
        Parent::BackupJob => tx.schedules_of_backup_job(id),
    }
}

/// The datastore of a VM's backup must be one that the caller may use; −1 (the chain's own) is looked at when it runs. A
/// job has its own.
fn check_target(tx: &mut Tx<'_>, caller: &Caller, action: &ScheduledAction) -> Result<(), Refusal> {
    if action.action != BACKUP || action.parent == Parent::BackupJob {
        return Ok(());
    }
    let (datastore, _) = action.backup_args()?;
    if datastore.0 < 0 {
        return Ok(());
    }
    let row = datastore_for(tx, caller, Right::Use, datastore.0)?;
    if row.kind == BACKUP_DS { Ok(()) } else { Err(Refusal::NotABackupDatastore { datastore: row.id }) }
}

/// Attribute of a restored template: the scheduled actions that could not come back, and why.
pub const LEFT_OUT: &str = "SCHEDULES_LEFT_OUT";

/// Puts the schedule of a VM that was into the template that is restored from it. An action that its new owner could not
/// add (a backup to a datastore that is gone, or is not his to use) would make the template useless: it is left out and
/// named in SCHEDULES_LEFT_OUT.
pub fn restored(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, was: &VmDocument, template: &mut Template) {
    let now = cloud.clock.now();
    let reading = Reading { start: now, now, zone: cloud.config.timezone };
    let mut left_out = Vec::new();
    for preset in was.presets(now).into_iter().take(ACTIONS_MAX) {
        let action = ScheduledAction::parse(&preset, ScheduleId(-1), Parent::Vm, -1, reading);
        match action.and_then(|action| check_target(tx, caller, &action)) {
            Ok(()) => template.push_vector("SCHED_ACTION", preset),
            Err(refusal) => left_out.push(format!("{}: {refusal}", preset.get("ACTION").unwrap_or_default())),
        }
    }
    template.remove(LEFT_OUT);
    if !left_out.is_empty() {
        template.set(LEFT_OUT, left_out.join("; "));
    }
}

/// An action as a row, with the time when it is due; `zone` is the daemon's.
///
/// # Errors
/// An action that cannot be written down.
pub fn row_of(action: &ScheduledAction, uid: i64, zone: chrono_tz::Tz) -> Result<ScheduleRow, StoreError> {
    let to = (action.parent == Parent::Vm && action.action == BACKUP).then(|| action.backup_args());
    let datastore_id = to.and_then(Result::ok).map(|(datastore, _)| datastore.0);
    let (vm_id, backup_job_id) = match action.parent {
        Parent::Vm => (Some(action.parent_id), None),
        Parent::BackupJob => (None, Some(action.parent_id)),
    };
    let mut row = ScheduleRow {
        id: action.id.0,
        vm_id,
        backup_job_id,
        uid,
        body: ledger::schedule_text(action)?,
        datastore_id,
        due_at: None,
        not_before: 0,
        refusals: 0,
        failures: 0,
        retry_at: None,
        closes_at: None,
        retry_until: None,
        planned_at: None,
    };
    ledger::schedule_times(&mut row, action, zone);
    Ok(row)
}

fn wish(text: &str) -> Result<Vector, Refusal> {
    parse(text)?.vector("SCHED_ACTION").cloned().ok_or(Refusal::NoScheduledAction)
}

/// The schedule of a VM or job, if the caller may change it.
fn schedule(tx: &mut Tx<'_>, caller: &Caller, parent: Parent, id: i64) -> Result<Schedule, Refusal> {
    let start = match parent {
        Parent::Vm => {
            let row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::SchedAction), id)?;
            if ledger::phase(&row).state == VmState::Done {
                return Err(Refusal::ScheduleOnDone { vm: id });
            }
            row.stime
        }
        Parent::BackupJob => {
            let _: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
            0
        }
    };
    Ok(Schedule { parent, id, start })
}

/// `one.vm.schedadd`: returns the action's id.
///
/// # Errors
/// As [`add_of`].
pub fn add(cloud: &Cloud, caller: &Caller, vm_id: i64, text: &str) -> Result<i64, Refusal> {
    add_of(cloud, caller, Parent::Vm, vm_id, text)
}

/// `one.vm.schedadd` and `one.backupjob.schedadd`: returns the action's id.
///
/// # Errors
/// Not authorised (MANAGE) for the VM or job, or for the datastore of a VM's backup (USE); a VM that is DONE; attributes that
/// make no action.
pub fn add_of(cloud: &Cloud, caller: &Caller, parent: Parent, id: i64, text: &str) -> Result<i64, Refusal> {
    let id = cloud.store.write(|tx| {
        let schedule = schedule(tx, caller, parent, id)?;
        let action = parsed(cloud, tx, schedule, &wish(text)?)?;
        store(cloud, tx, caller, &action)
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn action_of(tx: &mut Tx<'_>, parent: Parent, parent_id: i64, id: i64) -> Result<Option<ScheduleRow>, Refusal> {
    Ok(tx.schedule_find(id)?.filter(|row| match parent {
        Parent::Vm => row.vm_id == Some(parent_id),
        Parent::BackupJob => row.backup_job_id == Some(parent_id),
    }))
}

/// `one.vm.schedupdate`: keys left out keep their value.
///
/// # Errors
/// As [`update_of`].
pub fn update(cloud: &Cloud, caller: &Caller, vm_id: i64, id: i64, text: &str) -> Result<i64, Refusal> {
    update_of(cloud, caller, (Parent::Vm, vm_id), id, text)
}

/// `one.vm.schedupdate` and `one.backupjob.schedupdate`: keys left out keep their value.
///
/// # Errors
/// As [`add_of`]; an action that is not this VM's or job's.
pub fn update_of(
    cloud: &Cloud,
    caller: &Caller,
    (parent, parent_id): (Parent, i64),
    id: i64,
    text: &str,
) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let schedule = schedule(tx, caller, parent, parent_id)?;
        let row = action_of(tx, parent, parent_id, id)?.ok_or(Refusal::UnknownScheduledAction { id })?;
        let old = ledger::read_schedule(&row).ok_or(Refusal::UnknownScheduledAction { id })?;
        let new = old.updated(&wish(text)?, schedule.reading(cloud))?;
        check_target(tx, caller, &new)?;
        tx.schedule_update(&row_of(&new, caller.uid, cloud.config.timezone)?)?;
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
        remove(tx, Parent::Vm, vm_id, id)?;
        Ok(vm_id)
    })
}

/// `one.backupjob.scheddelete`: returns the action's id.
///
/// # Errors
/// Not authorised (MANAGE); an action that is not this job's.
pub fn delete_of_job(cloud: &Cloud, caller: &Caller, job_id: i64, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        schedule(tx, caller, Parent::BackupJob, job_id)?;
        remove(tx, Parent::BackupJob, job_id, id)?;
        Ok(id)
    })
}

fn remove(tx: &mut Tx<'_>, parent: Parent, parent_id: i64, id: i64) -> Result<(), Refusal> {
    action_of(tx, parent, parent_id, id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Schedule, id })?;
    Ok(tx.schedule_delete(id)?)
}
