//! `one.vm.backup`: everything that can be refused is refused here; the rest is a job.

use std::path::PathBuf;

use one_core::access::{Caller, may};
use one_core::backup::{self, Audit, Chain, Plan, PlanInput, PlanKind, catalogue};
use one_core::doc::{self, VmView};
use one_core::lifecycle::{ImageState, LcmState, VmEvent, VmOperation, VmState};
use one_core::quota::cost;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::datastore::BACKUP_DS;
use super::{Cloud, Owned, view, vm_for};
use crate::capacity;
use crate::devices;
use crate::events;
use crate::job::{self, BackupPlan, BackupPlanDisk, JobKind, JobSubject, Origin};
use crate::ledger;
use crate::quota;
use crate::store::rows::{DatastoreRow, VmRow};
use crate::store::{JobFilter, Tx};
use crate::verification;

/// `one.vm.backup`: starts a backup now; returns the VM's id.
///
/// # Errors
/// ADMIN on the VM is needed, and USE on the datastore; see [`start`].
pub fn backup(cloud: &Cloud, caller: &Caller, vm_id: i64, datastore: i64, reset: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::Backup), vm_id)?;
        start(cloud, tx, caller, row, Wish { datastore, reset, origin: Origin::Call })
    })?;
    cloud.wake.ring();
    Ok(vm_id)
}

/// What kind of backup is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Where to; −1 = where the chain is.
    pub datastore: i64,
    /// Whether to begin a new chain.
    pub reset: bool,
    /// Why.
    pub origin: Origin,
}

/// Starts a backup of a VM whose rights are checked, within a transaction; `caller` must have USE on the datastore.
///
/// # Errors
/// A VM that is part of a job, in a wrong state or not on a host; a wrong or full datastore; a quota of the VM's owner or group;
/// what the plan refuses.
pub fn start(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, mut row: VmRow, wish: Wish) -> Result<(), Refusal> {
    let config = ledger::config_of(&row);
    if let Some(job) = config.backup_job_id.filter(|job| wish.origin.backup_job_id() != Some(*job)) {
        return Err(Refusal::PartOfJob { vm: row.id, job });
    }
    let disks = devices::of_backup(&row);
    let (chain, series) = chain(tx, &config)?.unzip();
    let input = PlanInput {
        vm: row.id,
        config: &config,
        disks: &disks,
        chain: chain.as_ref(),
        datastore: wish.datastore,
        reset: wish.reset,
        compare_every: cloud.config.backup_compare_every,
    };
    let decision = backup::plan(input)?;
    let datastore = target(cloud, tx, caller, &decision)?;
    if decision.disk_ids.is_empty() {
        return Err(Refusal::Action(format!(
            "VM {} has no disk that can be backed up; volatile disks are only with BACKUP_VOLATILE = YES in BACKUP_CONFIG.",
            row.id
        )));
    }

    let new_image = matches!(decision.kind, PlanKind::Full { .. });
    let demand = cost::backup_start(datastore.id, decision.size_mb, new_image);
    let reserved = quota::reserve_backup(tx, &row, demand, caller.uid)?;

    let now = cloud.clock.now();
    let before = ledger::phase(&row);
    let live = before.state == VmState::Active;
    let Some(host_id) = row.host_id else {
        return Err(Refusal::BackupState { vm: row.id, phase: before });
    };
    if !(before.state == VmState::Poweroff || live && before.lcm == LcmState::Running) {
        return Err(Refusal::BackupState { vm: row.id, phase: before });
    }
    check_host(tx, host_id)?;
    let job_id = tx.next_id("job")?;
    let continued = series.filter(|_| !new_image);
    let plan = BackupPlan {
        live,
        domain: row.deploy_id.clone(),
        host_id,
        disks: plan_disks(cloud, tx, &row, &decision)?,
        checkpoint: decision.track.then(|| BackupPlan::checkpoint_name(row.id, job_id)),
        series: continued.unwrap_or_else(|| catalogue::series(row.id, wish.origin.backup_job_id())),
        time: now,
        // As it is before the backup: what a restore starts from.
        document: document(cloud, tx, &row)?,
        uid: caller.uid,
        gid: caller.gid,
        reserved,
        origin: wish.origin,
        decision,
    };

    let mut config = config;
    config.begin_backup(datastore.id);
    row.backup_config = ledger::config_text(&config);
    ledger::vm_error(tx, &mut row, None)?;
    ledger::vm_step(tx, &mut row, VmEvent::BackupStart, now)?;
    ledger::history_action(tx, row.id, ledger::action::BACKUP, caller.uid, caller.gid, now)?;
    let subject = JobSubject {
        vm_id: Some(row.id),
        image_id: None,
        datastore_id: Some(datastore.id),
        host_id: Some(host_id),
        uid: caller.uid,
    };
    job::insert(tx, job_id, JobKind::Backup, subject, &plan, now)?;
    Ok(events::backup_started(tx, row.id, job_id, wish.origin, caller.uid, now)?)
}

/// The chain that the VM's configuration points to, and its series; none when its image is gone.
fn chain(tx: &mut Tx<'_>, config: &backup::BackupConfig) -> Result<Option<(Chain, String)>, Refusal> {
    let Some((image_id, _)) = config.chain() else { return Ok(None) };
    let Some(image) = tx.image_find(image_id)? else { return Ok(None) };
    let Some(last) = tx.increments(image_id)?.pop() else { return Ok(None) };
    let disk_ids = ledger::disk_ids(&last);
    let audit = Audit { age: last.compare_age, unmarked_bytes: last.unmarked_bytes };
    let damaged = verification::is_damaged(&last);
    let chain = Chain {
        audit,
        damaged,
        image_id,
        datastore_id: image.datastore_id,
        last_increment: last.increment_id,
        last_point: last.point,
        checkpoint: Some(last.checkpoint).filter(|name| !name.is_empty()),
        disk_ids,
        ready: image.state == ImageState::Ready.number(),
    };
    Ok(Some((chain, last.series)))
}

fn target(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, decision: &Plan) -> Result<DatastoreRow, Refusal> {
    let id = decision.datastore_id;
    let datastore = tx.datastore_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Datastore, id })?;
    may(caller, Right::Use, &datastore.object())?;
    if datastore.kind != BACKUP_DS {
        return Err(Refusal::NotABackupDatastore { datastore: id });
    }
    // An increment is bounded by what the guest wrote: the engine looks when that is known.
    if matches!(decision.kind, PlanKind::Full { .. }) {
        check_room(cloud, &datastore, decision.size_mb)?;
    }
    Ok(datastore)
}

/// Refuses what a datastore has no room for, as far as monitoring knows.
///
/// # Errors
/// [`Refusal::NoSpace`] with what is needed and what is free.
pub(super) fn check_room(cloud: &Cloud, datastore: &DatastoreRow, needed_mb: i64) -> Result<(), Refusal> {
    match capacity::free_mb(&cloud.config, datastore) {
        Some(free_mb) if free_mb < needed_mb => Err(Refusal::NoSpace { datastore: datastore.id, needed_mb, free_mb }),
        _ => Ok(()),
    }
}

/// Disks are read over a Unix socket, so the host must be this machine.
fn check_host(tx: &mut Tx<'_>, host_id: i64) -> Result<(), Refusal> {
    let host = tx.host(host_id)?;
    if crate::hosts::is_dummy(&host) || crate::hosts::is_local(&crate::hosts::uri(&host)) {
        return Ok(());
    }
    Err(Refusal::Action(format!(
        "Could not create a new backup: host {} is another machine, and backups are read on the machine that runs oned. Run \
         an oned there.",
        host.name
    )))
}

fn plan_disks(cloud: &Cloud, tx: &mut Tx<'_>, row: &VmRow, decision: &Plan) -> Result<Vec<BackupPlanDisk>, Refusal> {
    let mut disks = Vec::new();
    for disk in crate::disks::of_vm(tx, row, &cloud.config)? {
        if decision.disk_ids.contains(&i64::from(disk.id)) {
            disks.push(BackupPlanDisk {
                id: disk.id,
                path: PathBuf::from(&disk.path),
                format: disk.format,
                target: disk.target,
                size_mb: disk.size_mb,
            });
        }
    }
    Ok(disks)
}

/// What is kept of the VM with its backup. What was measured of it at the time is no part of that.
fn document(cloud: &Cloud, tx: &mut Tx<'_>, row: &VmRow) -> Result<String, Refusal> {
    let names = view::Names::read(tx)?;
    let view = view::vm(tx, &names, &cloud.board, row)?;
    Ok(doc::vm(&VmView { monitoring: Template::new(), ..view }))
}

/// `one.vm.backupcancel`: asks the backup to stop, whether it runs or waits; returns the VM's id. It is a wish: a backup whose
/// restore point is complete already stays, and nothing is wrong with that. The VM is back when the backup has ended.
///
/// # Errors
/// Not authorised; [`Refusal::NoBackupInProgress`], also when the backup is recorded and only cleans up.
pub fn cancel(cloud: &Cloud, caller: &Caller, vm_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::Backup), vm_id)?;
        let phase = ledger::phase(&row);
        let backing_up = matches!(phase.lcm, LcmState::Backup | LcmState::BackupPoweroff);
        let job = tx.jobs_open(JobFilter::Vm(vm_id))?.into_iter().find(|job| job.kind == JobKind::Backup.as_str());
        match job {
            Some(job) if backing_up && phase.state == VmState::Active => {
                tx.job_ask_cancel(job.id)?;
                if job.cancel == 0 {
                    events::done_by(tx, vm_id, caller.uid, ("backup-cancel", ""), cloud.clock.now())?;
                }
                Ok(())
            }
            _ => Err(Refusal::NoBackupInProgress { vm: vm_id }),
        }
    })?;
    cloud.wake.ring();
    Ok(vm_id)
}
