//! Backup jobs: which VMs are backed up together, how, and when. What their templates say is in [`template`], what begins and
//! ends a run in [`run`]; `crate::scheduler` starts the backups of a run, and `crate::ledger` hears of their ends.
//!
//! Invariants: a VM is in one job at most, and its BACKUP_CONFIG says in which; VMs and datastore are those that the caller
//! who named them may manage and use. Ids of VMs that do not exist are kept and mean nothing, also when there is such a VM
//! later.

pub mod run;
pub mod template;

use std::collections::BTreeSet;

use one_core::access::{Caller, may_create, valid_name};
use one_core::doc;
use one_core::lifecycle::VmState;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::{Template, Value};

use self::template::{OWN, normalise, vms_of};
use super::datastore::BACKUP_DS;
use super::pool::PoolFilter;
use super::{Cloud, attributes, datastore_for, owned, parse, schedule, view, vm_for};
use crate::ledger;
use crate::session;
use crate::store::rows::{BackupJobRow, VmRow};
use crate::store::{StoreError, Tx};

pub use run::{backup, cancel, retry};

/// What a job runs with when it does not say.
const PRIORITY: i64 = 50;
/// The highest priority that a job may be given by whoever makes it.
const PRIORITY_MAX_AT_START: i64 = 50;
/// The highest that it may be given later without ADMIN.
const PRIORITY_MAX: i64 = 49;

/// `one.backupjob.allocate`.
///
/// # Errors
/// Not authorised (CREATE, MANAGE on each VM that exists, USE on the datastore, administrators for a priority above 50); a
/// text that does not parse; no or a bad or taken NAME; a VM of another job; attributes that cannot be.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::BackupJob)?;
    let mut template = attributes::admitted(cloud, caller, ObjectKind::BackupJob, &parse(text)?)?;
    let name = template.scalar("NAME").unwrap_or_default().to_string();
    let priority = start_priority(caller, &template)?;
    let actions = template.remove("SCHED_ACTION");
    OWN.iter().for_each(|name| drop(template.remove(name)));
    let id = cloud.store.write(|tx| {
        if name.is_empty() {
            return Err(Refusal::Allocate { kind: ObjectKind::BackupJob, reason: "No NAME in template".into() });
        }
        valid_name(&name, ObjectKind::BackupJob)?;
        if let Some(other) = tx.backup_job_by_name(caller.uid, &name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::BackupJob, other_id: other.id });
        }
        let vms = normalise(&mut template)?;
        check_datastore(tx, caller, &template)?;
        let id = tx.next_id("backup_job")?;
        tx.backup_job_insert(&BackupJobRow {
            id,
            uid: caller.uid,
            gid: caller.gid,
            name,
            permissions: cloud.new_permissions(caller).to_i64(),
            priority,
            last_backup_time: 0,
            last_backup_duration: 0,
            lock: String::new(),
            template: template.to_text(),
        })?;
        join(tx, caller, id, &vms)?;
        for action in &actions {
            let Value::Vector(action) = action else { return Err(Refusal::NoScheduledAction) };
            schedule::add_to_job(cloud, tx, caller, id, action)?;
        }
        Ok(id)
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn start_priority(caller: &Caller, template: &Template) -> Result<i64, Refusal> {
    let priority = match template.scalar("PRIORITY").map(str::trim) {
        None | Some("") => PRIORITY,
        Some(text) => text.parse().map_err(|_| Refusal::Priority)?,
    };
    if !(0..=99).contains(&priority) {
        return Err(Refusal::Priority);
    }
    if priority > PRIORITY_MAX_AT_START && !caller.is_admin() {
        return Err(Refusal::PriorityReserved { user: caller.uid, limit: PRIORITY_MAX_AT_START });
    }
    Ok(priority)
}

fn check_datastore(tx: &mut Tx<'_>, caller: &Caller, template: &Template) -> Result<(), Refusal> {
    let Some(id) = template.int("DATASTORE_ID") else { return Ok(()) };
    let row = datastore_for(tx, caller, Right::Use, id)?;
    if row.kind == BACKUP_DS { Ok(()) } else { Err(Refusal::NotABackupDatastore { datastore: id }) }
}

/// The VM, unless it is gone.
fn present(tx: &mut Tx<'_>, vm_id: i64) -> Result<Option<VmRow>, StoreError> {
    Ok(tx.vm_find(vm_id)?.filter(|row| row.state != VmState::Done.number()))
}

/// Writes into VMs that they are in this job, whose backups go where those of its other VMs do: the next one starts a new
/// chain.
fn join(tx: &mut Tx<'_>, caller: &Caller, id: i64, vms: &[i64]) -> Result<(), Refusal> {
    for vm in vms {
        if present(tx, *vm)?.is_none() {
            continue;
        }
        let mut row = vm_for(tx, caller, Right::Manage, *vm)?;
        let mut config = ledger::config_of(&row);
        match config.backup_job_id {
            Some(other) if other == id => continue,
            Some(other) => return Err(Refusal::InOtherJob { vm: *vm, job: id, other }),
            None => config.join_job(id),
        }
        row.backup_config = ledger::config_text(&config);
        tx.vm_update(&row)?;
    }
    Ok(())
}

/// Takes VMs out of this job: their next backup starts a new chain.
fn leave(tx: &mut Tx<'_>, id: i64, vms: &[i64], now: i64) -> Result<(), StoreError> {
    vms.iter().try_for_each(|vm| ledger::leave_backup_job(tx, id, *vm, now))
}

/// `one.backupjob.info`.
///
/// # Errors
/// Not authorised (USE), unknown job.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let row: BackupJobRow = owned::to_show(tx, caller, id)?;
        let names = view::Names::read(tx)?;
        Ok(doc::backup_job(&view::backup_job(tx, &names, &row)?))
    })
}

/// `one.backupjob.infoextended`: the document with every attribute of the template, also those that the published one has no
/// place for. `decrypt` shows what is sealed, to administrators.
///
/// # Errors
/// Not authorised (USE), unknown job.
pub fn info_extended(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: BackupJobRow = owned::to_show(tx, caller, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::BackupJob, &mut row.template)?;
        let names = view::Names::read(tx)?;
        Ok(doc::backup_job(&view::backup_job_extended(tx, &names, &row)?))
    })
}

/// `one.backupjobpool.info`.
///
/// # Errors
/// A bad filter.
pub fn pool(cloud: &Cloud, caller: &Caller, flag: i64, start: i64, end: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, start, end)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut pool = doc::Pool::begin("BACKUPJOB_POOL");
        for row in filter.select(caller, tx.backup_job_list()?) {
            pool.push(&view::backup_job(tx, &names, &row)?);
        }
        Ok(pool.finish())
    })
}

/// `one.backupjob.update`, also during a run: VMs that are taken out leave it (a backup that runs goes on), new ones come with
/// the next. NAME, PRIORITY and SCHED_ACTION have calls of their own and are left out. What is new in it is
/// checked with the caller's rights, what was there before was checked when it came.
///
/// # Errors
/// Not authorised (MANAGE on the job and on VMs that come in, USE on another datastore), a VM of another job, attributes that
/// cannot be.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        let mut new = parse(text)?;
        OWN.iter().for_each(|name| drop(new.remove(name)));
        let old = view::stored(&row.template);
        let mut template = attributes::updated(cloud, caller, ObjectKind::BackupJob, &old, &new, kind)?;
        let vms = normalise(&mut template)?;
        if let Some(error) = old.scalar("ERROR") {
            template.set("ERROR", error);
        }
        if template.int("DATASTORE_ID") != old.int("DATASTORE_ID") {
            check_datastore(tx, caller, &template)?;
        }
        let before = vms_of(&row);
        let (was, is): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), vms.iter().collect());
        let out: Vec<i64> = was.difference(&is).map(|vm| **vm).collect();
        leave(tx, id, &out, cloud.clock.now())?;
        let members = vms.iter().copied().filter(|vm| !was.contains(vm)).collect::<Vec<_>>();
        join(tx, caller, id, &members)?;
        // Who left may have been the last of a run.
        row = tx.backup_job_find(id)?.unwrap_or(row);
        row.template = template.to_text();
        tx.backup_job_update(&row)?;
        Ok(id)
    })
}

/// `one.backupjob.delete`: its VMs are free again; backups stay, and those that run go on.
///
/// # Errors
/// Not authorised (MANAGE), unknown job.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        leave(tx, id, &vms_of(&row), cloud.clock.now())?;
        for action in tx.schedules_of_backup_job(id)? {
            tx.schedule_delete(action.id)?;
        }
        session::forget_rules(tx, ObjectKind::BackupJob, id)?;
        tx.backup_job_delete(id)?;
        Ok(id)
    })
}

/// `one.backupjob.priority`: 0 to 99, high first.
///
/// # Errors
/// Not authorised (MANAGE; ADMIN above 49), unknown job, another number.
pub fn priority(cloud: &Cloud, caller: &Caller, id: i64, priority: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        if !(0..=99).contains(&priority) {
            return Err(Refusal::Priority);
        }
        if priority > PRIORITY_MAX {
            let _: BackupJobRow = owned::to_use(tx, caller, Right::Admin, id)?;
        }
        row.priority = priority;
        tx.backup_job_update(&row)?;
        Ok(id)
    })
}
