//! Runs of backup jobs: what their scheduled actions begin, and which of their VMs wait for a slot.
//!
//! Invariants: a backup is started with the rights that the job's owner has at that moment, on the VM and on the datastore;
//! of a VM that is refused nothing has changed. Nobody waits for ever: a VM that is busy with something that passes is given
//! [`BUSY_MAX_S`], so that it does not stand in the way of the job's next run.

use one_core::access::may;
use one_core::dispatch::{Place, Waiting};
use one_core::lifecycle::{LcmState, VmPhase, VmState};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::schedule::ScheduledAction;

use super::Outcome;
use crate::api::backup_job::run;
use crate::api::backup_job::template::{Course, origin};
use crate::api::{Owned, backup};
use crate::cloud::Cloud;
use crate::events::{self, BACKUP, EventResult, Note};
use crate::job::JobKind;
use crate::store::rows::{BackupJobRow, BackupJobVmRow, ScheduleRow, VmRow};
use crate::store::{JobFilter, RunList, StoreError, Tx, WaitingVm};
use crate::{devices, ledger, session};

/// How long a VM of a run may be unable to be backed up, seconds, from the first time that its turn has come.
const BUSY_MAX_S: i64 = 3600;

/// A VM whose turn it is in a run of a backup job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The backup job.
    pub backup_job_id: i64,
    /// The VM.
    pub vm_id: i64,
}

/// Begins the run that a scheduled action of a backup job asks for, with the rights of the job's owner. [`Outcome::Waits`]
/// records nothing: the action stays due.
///
/// # Errors
/// What stands in the way of the run.
pub fn start_run(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    row: &ScheduleRow,
    _action: &ScheduledAction,
    now: i64,
) -> Result<Outcome, Refusal> {
    let Some(id) = row.backup_job_id else { return Ok(Outcome::Waits) };
    let job = tx.backup_job_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::BackupJob, id })?;
    session::owner(cloud, tx, job.uid, &format!("Backup Job {id}"))?;
    let uid = job.uid;
    run::begin(tx, job, (uid, Some(row.id)), now)?;
    Ok(Outcome::Started)
}

/// The VMs that wait for their backup in a run, in the order in which they wait. `sequence` is the id of their job when it is
/// SEQUENTIAL.
///
/// # Errors
/// The database's failure.
pub fn waiting(tx: &mut Tx<'_>, now: i64) -> Result<Vec<(Waiting, Member)>, StoreError> {
    let mut waiting = Vec::new();
    for job in tx.backup_jobs_waiting(now)? {
        let course = Course::read(&ledger::stored(&job.template));
        if course.sequential && is_at_work(tx, job.id)? {
            continue;
        }
        for vm in tx.backup_job_vms_waiting(job.id, now)? {
            if !is_wanted(&vm, now) {
                continue;
            }
            let (owner, host) = vm.vm.map_or((-1, None), |(uid, _, _, host)| (uid, host));
            let place = Place { owner, host, datastore: Some(course.datastore).filter(|id| *id >= 0) };
            let sequence = course.sequential.then_some(job.id);
            let member = Member { backup_job_id: job.id, vm_id: vm.vm_id };
            waiting.push((Waiting { place, priority: Some(job.priority), sequence }, member));
        }
    }
    Ok(waiting)
}

fn is_at_work(tx: &mut Tx<'_>, backup_job_id: i64) -> Result<bool, StoreError> {
    Ok(tx.backup_job_vms_count(backup_job_id, &[RunList::BackingUp])? > 0)
}

/// Whether there is anything to be done about a VM: not while it is known to be busy and has time left.
fn is_wanted(vm: &WaitingVm, now: i64) -> bool {
    let busy = vm.vm.is_some_and(|(_, state, lcm, _)| passes(ledger::phase_of(state, lcm)));
    !(busy && vm.waits_since.is_some_and(|since| !is_over(since, now)))
}

/// Whether that is all the time that a VM has, or cannot be told because the clock was put back.
fn is_over(since: i64, now: i64) -> bool {
    since > now || now.saturating_sub(since) >= BUSY_MAX_S
}

/// Whether a VM in this phase cannot be backed up, but is about to be: it waits for a host, or something is being done to it.
fn passes(phase: VmPhase) -> bool {
    match phase.state {
        VmState::Init | VmState::Pending | VmState::Hold | VmState::Cloning => true,
        VmState::Active => phase.lcm != LcmState::Running && !phase.name().ends_with("_FAILURE"),
        _ => false,
    }
}

/// Starts the backup of a VM in a run; it is in the list BACKING_UP then.
///
/// # Errors
/// What stands in its way. The transaction is taken back, and [`refused`] is told.
pub fn start_member(cloud: &Cloud, tx: &mut Tx<'_>, member: &Member, now: i64) -> Result<(), Refusal> {
    let Some((job, entry)) = entry(tx, member)? else { return Ok(()) };
    let course = Course::read(&ledger::stored(&job.template));
    if course.sequential && is_at_work(tx, job.id)? {
        return Ok(());
    }
    let vm = tx.vm_find(member.vm_id)?.filter(|vm| vm.state != VmState::Done.number());
    let Some(vm) = vm.filter(|vm| ledger::config_of(vm).backup_job_id == Some(job.id)) else {
        tx.backup_job_vm_remove(job.id, member.vm_id)?;
        return Ok(ledger::run_settled(tx, job.id, now)?);
    };
    let owner = session::owner(cloud, tx, job.uid, &format!("Backup Job {}", job.id))?;
    may(&owner, Right::Manage, &vm.object())?;
    let since = entry.waits_since.unwrap_or(now).min(now);
    if passes(ledger::phase(&vm)) && !is_over(since, now) {
        return Ok(tx.backup_job_vm_put(&BackupJobVmRow { waits_since: Some(since), ..entry })?);
    }
    let vm = configured(vm, &course)?;
    let reset = course.reset || is_elsewhere(tx, &vm, &course)?;
    let origin = origin(job.id, entry.schedule_id);
    let wish = backup::Wish { datastore: course.datastore, reset, origin };
    backup::start(cloud, tx, &owner, vm, wish)?;
    // The newest is the one that was just written; an older one may still be clearing up behind itself.
    let backups = tx.jobs_open(JobFilter::Vm(member.vm_id))?;
    let job_id = backups.iter().rev().find(|one| one.kind == JobKind::Backup.as_str()).map(|one| one.id);
    Ok(tx.backup_job_vm_put(&BackupJobVmRow { job_id, ..entry.moved(RunList::BackingUp) })?)
}

/// The job, and the VM's entry in its run as long as it waits.
fn entry(tx: &mut Tx<'_>, member: &Member) -> Result<Option<(BackupJobRow, BackupJobVmRow)>, StoreError> {
    let Some(job) = tx.backup_job_find(member.backup_job_id)? else { return Ok(None) };
    let entry = tx.backup_job_vm(member.backup_job_id, member.vm_id)?;
    Ok(entry.filter(|entry| entry.is_in(RunList::Outdated)).map(|entry| (job, entry)))
}

/// The VM with the job's configuration written over its own, key by key.
fn configured(mut vm: VmRow, course: &Course) -> Result<VmRow, Refusal> {
    let mut config = ledger::config_of(&vm);
    config.update_from_job(&course.config, &devices::of_backup(&vm))?;
    vm.backup_config = ledger::config_text(&config);
    Ok(vm)
}

/// Whether the VM's chain lies in another datastore than the one that the job names now.
fn is_elsewhere(tx: &mut Tx<'_>, vm: &VmRow, course: &Course) -> Result<bool, StoreError> {
    let Some((image_id, _)) = ledger::config_of(vm).chain().filter(|_| course.datastore >= 0) else { return Ok(false) };
    Ok(tx.image_find(image_id)?.is_some_and(|image| image.datastore_id != course.datastore))
}

/// Keeps the reason for which the backup of a VM in a run could not be started.
///
/// # Errors
/// The database's failure.
pub fn refused(
    tx: &mut Tx<'_>,
    member: &Member,
    refusal: &Refusal,
    now: i64,
    zone: chrono_tz::Tz,
) -> Result<(), StoreError> {
    let Some((job, entry)) = entry(tx, member)? else { return Ok(()) };
    let reason = refusal.to_string();
    let note = Note {
        time: now,
        vm_id: Some(member.vm_id),
        backup_job_id: Some(job.id),
        schedule_id: entry.schedule_id,
        job_id: None,
        uid: job.uid,
        action: BACKUP,
        result: EventResult::Refused,
        reason: &reason,
    };
    events::note(tx, &note)?;
    ledger::run_failed(tx, job, entry, &reason, now, zone)
}
