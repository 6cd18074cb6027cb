//! Backup jobs: which VMs are backed up together, how, and when. Kept here with their lists; a run of a job whose VMs are
//! still there is refused until the engine can do it.
//!
//! Invariants: a VM is in one job at most, and its BACKUP_CONFIG says in which; VMs and datastore are those that the caller
//! who named them may manage and use. Ids of VMs that do not exist are kept and mean nothing.

use std::collections::BTreeSet;

use one_core::access::{Caller, may_create, valid_name};
use one_core::doc;
use one_core::lifecycle::VmState;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::{Template, Value};

use super::datastore::BACKUP_DS;
use super::pool::PoolFilter;
use super::{Cloud, attributes, datastore_for, owned, parse, schedule, view, vm_for};
use crate::job::JobKind;
use crate::ledger;
use crate::session;
use crate::store::rows::{BackupJobRow, VmRow};
use crate::store::{JobFilter, StoreError, Tx};

/// What a job runs with when it does not say.
const PRIORITY: i64 = 50;
/// The highest priority that a job may be given by whoever makes it.
const PRIORITY_MAX_AT_START: i64 = 50;
/// The highest that it may be given later without ADMIN.
const PRIORITY_MAX: i64 = 49;
/// Most VMs of one job.
const VMS_MAX: usize = 10_000;
/// Attributes that are columns or rows of their own, or the daemon's.
const OWN: [&str; 4] = ["NAME", "PRIORITY", "SCHED_ACTION", "ERROR"];

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

fn wrong<T>(name: &str, text: &str, must: &str) -> Result<T, Refusal> {
    let text: String = text.chars().take(64).collect();
    Err(Refusal::Internal(format!("Wrong {name} value: {text}, it must be {must}.")))
}

/// Puts attributes into the form that documents show, with what holds when they are left out; gives the VMs back, in the
/// order of their backups, each once.
fn normalise(template: &mut Template) -> Result<Vec<i64>, Refusal> {
    let vms = numbers(template, "BACKUP_VMS", VMS_MAX)?;
    template.set("BACKUP_VMS", vms.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
    let words: [(&str, &[&str]); 3] = [
        ("EXECUTION", &["SEQUENTIAL", "PARALLEL"]),
        ("FS_FREEZE", &["NONE", "AGENT", "SUSPEND"]),
        ("MODE", &["FULL", "INCREMENT"]),
    ];
    for (name, known) in words {
        word(template, name, known)?;
    }
    if template.contains("INCREMENT_MODE") {
        word(template, "INCREMENT_MODE", &["CBT", "SNAPSHOT"])?;
    }
    let volatile = template.yes("BACKUP_VOLATILE").unwrap_or(false);
    template.set("BACKUP_VOLATILE", if volatile { "YES" } else { "NO" });
    if template.contains("RESET") {
        let reset = template.yes("RESET").unwrap_or(false);
        template.set("RESET", if reset { "YES" } else { "NO" });
    }
    let keep = scalar(template, "KEEP_LAST");
    match keep.trim().parse::<i64>() {
        Ok(keep) => template.set("KEEP_LAST", keep.max(0).to_string()),
        Err(_) if keep.trim().is_empty() => template.set("KEEP_LAST", "0"),
        Err(_) => return wrong("KEEP_LAST", &keep, "a number"),
    }
    if template.contains("DISK_IDS") {
        let disks = numbers(template, "DISK_IDS", VMS_MAX)?;
        template.set("DISK_IDS", owned::id_list(disks));
    }
    let datastore = scalar(template, "DATASTORE_ID");
    if datastore.trim().is_empty() {
        template.remove("DATASTORE_ID");
    } else if datastore.trim().parse::<u32>().is_err() {
        return wrong("DATASTORE_ID", &datastore, "the id of a datastore");
    }
    // The published document knows no others.
    let known = [
        "BACKUP_VMS",
        "BACKUP_VOLATILE",
        "DATASTORE_ID",
        "DISK_IDS",
        "ERROR",
        "EXECUTION",
        "FS_FREEZE",
        "INCREMENT_MODE",
        "KEEP_LAST",
        "MODE",
        "RESET",
    ];
    let others: BTreeSet<String> = template.attributes().iter().map(|attribute| attribute.name.clone()).collect();
    others.iter().filter(|name| !known.contains(&name.as_str())).for_each(|name| drop(template.remove(name)));
    Ok(vms)
}

fn scalar(template: &Template, name: &str) -> String {
    template.scalar(name).unwrap_or_default().to_owned()
}

/// One of the known words in any case; the first when nothing is said.
fn word(template: &mut Template, name: &str, known: &[&str]) -> Result<(), Refusal> {
    let said = scalar(template, name);
    let said = said.trim();
    let found = known.iter().find(|word| said.is_empty() || word.eq_ignore_ascii_case(said));
    match found {
        Some(word) => template.set(name, *word),
        None => return wrong(name, said, &known.join(" or ")),
    }
    Ok(())
}

/// A comma list of ids, each once, in its order.
fn numbers(template: &Template, name: &str, most: usize) -> Result<Vec<i64>, Refusal> {
    let text = scalar(template, name);
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match item.parse::<u32>() {
            Ok(id) if seen.insert(id) => ids.push(i64::from(id)),
            Ok(_) => {}
            Err(_) => return wrong(name, item, "a list of ids with commas"),
        }
        if ids.len() > most {
            return Err(Refusal::Internal(format!("{name} can hold at most {most} ids.")));
        }
    }
    Ok(ids)
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

/// Writes into VMs that they are in this job.
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
            None => config.backup_job_id = Some(id),
        }
        row.backup_config = ledger::config_text(&config);
        tx.vm_update(&row)?;
    }
    Ok(())
}

/// Takes VMs out of this job: their next backup starts a new chain.
fn leave(tx: &mut Tx<'_>, id: i64, vms: &[i64]) -> Result<(), StoreError> {
    vms.iter().try_for_each(|vm| ledger::leave_backup_job(tx, id, *vm))
}

/// The VMs of a stored job, in the order of their backups.
fn vms_of(row: &BackupJobRow) -> Vec<i64> {
    // Normalised before it was stored, so it reads.
    numbers(&view::stored(&row.template), "BACKUP_VMS", VMS_MAX).unwrap_or_default()
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

/// `one.backupjob.update`. NAME, PRIORITY and SCHED_ACTION have calls of their own and are left out. What is new in it is
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
        leave(tx, id, &out)?;
        let members = vms.iter().copied().filter(|vm| !was.contains(vm)).collect::<Vec<_>>();
        join(tx, caller, id, &members)?;
        row.template = template.to_text();
        tx.backup_job_update(&row)?;
        Ok(id)
    })
}

/// `one.backupjob.delete`: its VMs are free again; backups stay.
///
/// # Errors
/// Not authorised (MANAGE), unknown job.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        leave(tx, id, &vms_of(&row))?;
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

/// Those of these VMs that are still there. A run of them is what the engine cannot do yet.
fn refuse_to_run(tx: &mut Tx<'_>, id: i64, vms: &[i64]) -> Result<(), Refusal> {
    for vm in vms {
        if present(tx, *vm)?.is_some() {
            return Err(Refusal::Action(format!(
                "Backup Job {id} cannot be run: running backup jobs is not available yet, so VM {vm} would wait for ever. \
                 Take it out of the job and back it up with one.vm.backup or a scheduled action."
            )));
        }
    }
    Ok(())
}

/// `one.backupjob.backup`: starts a run. VMs that are gone are left out of it.
///
/// # Errors
/// Not authorised (MANAGE), unknown job, a run that is not over, no VMs; VMs that exist.
pub fn backup(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        let lists = tx.backup_job_vms(id)?;
        if lists.iter().any(|vm| matches!(vm.list.as_str(), "OUTDATED" | "BACKING_UP")) {
            return Err(Refusal::JobPending { job: id });
        }
        let vms = vms_of(&row);
        if vms.is_empty() {
            return Err(Refusal::JobWithoutVms { job: id });
        }
        refuse_to_run(tx, id, &vms)?;
        tx.backup_job_vms_clear(id, &["ERROR", "UPDATED"])?;
        let mut template = view::stored(&row.template);
        template.remove("ERROR");
        row.template = template.to_text();
        row.last_backup_time = cloud.clock.now();
        row.last_backup_duration = 0;
        tx.backup_job_update(&row)?;
        Ok(id)
    })
}

/// `one.backupjob.cancel`: nothing more is begun, what runs is stopped.
///
/// # Errors
/// Not authorised (MANAGE), unknown job.
pub fn cancel(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let _: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        for vm in view::in_list(&tx.backup_job_vms(id)?, "BACKING_UP") {
            for job in tx.jobs_open(JobFilter::Vm(vm))?.iter().filter(|job| job.kind == JobKind::Backup.as_str()) {
                tx.job_ask_cancel(job.id)?;
            }
        }
        tx.backup_job_vms_clear(id, &["OUTDATED", "BACKING_UP"])?;
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.backupjob.retry`: what failed is to be done again. VMs that are gone are forgotten.
///
/// # Errors
/// Not authorised (MANAGE), unknown job; failed VMs that exist.
pub fn retry(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let _: BackupJobRow = owned::to_use(tx, caller, Right::Manage, id)?;
        let failed = view::in_list(&tx.backup_job_vms(id)?, "ERROR");
        refuse_to_run(tx, id, &failed)?;
        tx.backup_job_vms_clear(id, &["ERROR"])?;
        Ok(id)
    })
}
