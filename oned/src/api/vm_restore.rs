//! `one.vm.restore`: disks of a VM that is off are put back as a restore point of its backup has them.
//!
//! Nothing is touched here: the VM goes into RESTORE and a job is written that names the disks and their files. The VM's
//! configuration stays as it is. Its disks that are put back lose their snapshots, and with them the VM loses its own; its
//! next backup begins a new chain.
//!
//! A disk is the same as one of the backup when it has its number and is of the same image (or of none, both). So a disk
//! that was attached later under a number that another one had is never written over. Disks of the VM that are not in the
//! backup stay as they are; disks of the backup that the VM does not have any more are left out and told in the log, unless
//! one was asked for by its number: that is refused.

use std::collections::BTreeMap;

use one_core::access::Caller;
use one_core::doc::read;
use one_core::lifecycle::{ImageState, VmEvent, VmOperation, next};
use one_core::refusal::{Refusal, Right};
use one_core::template::{Template, Vector};

use super::backup_path::not_ready;
use super::image::BACKUP;
use super::restore::disk_vector;
use super::{Cloud, image_for, view, vm_for};
use crate::disks::{self, VmDisk};
use crate::events::{self, EventResult};
use crate::job::{self, BackupPlanDisk, JobKind, JobSubject, RestoreVmPlan, RetainPlan};
use crate::store::rows::{ImageRow, IncrementRow, JobRow, VmRow};
use crate::store::{JobFilter, StoreError, Tx};
use crate::{devices, ledger, quota};

/// What `one.vm.restore` asks for beside the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InPlace {
    /// The backup.
    pub image_id: i64,
    /// Its increment; −1 = the last one.
    pub increment: i64,
    /// The disk; −1 = all.
    pub disk: i64,
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Action(reason.into()))
}

/// `one.vm.restore`; returns the VM's id.
///
/// # Errors
/// Not authorised (ADMIN on the VM by the lists of operations, USE on the image); an image that is no backup, not of this
/// VM, or not READY; an increment or disk that is not there; a VM that is neither in POWEROFF nor UNDEPLOYED; quotas, when
/// a disk was larger.
pub fn restore(cloud: &Cloud, caller: &Caller, id: i64, wish: InPlace) -> Result<i64, Refusal> {
    let left_out = cloud.store.write(|tx| {
        let row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::Restore), id)?;
        let image = image_for(tx, caller, Right::Use, wish.image_id)?;
        check_image(&image, id)?;
        let phase = ledger::phase(&row);
        if next(phase, VmEvent::RestoreStart).is_err() {
            return refuse(format!("Could not restore VM, it must be in poweroff or undeployed; it is {phase}."));
        }
        let point = chosen(tx, &image, wish.increment)?;
        let was = read::vm(&point.document).map_err(|e| {
            Refusal::Internal(format!(
                "The VM's description in backup image {} cannot be read: {e}. Restore it with one.image.restore.",
                image.id
            ))
        })?;
        let (chosen, left_out) = chosen_disks(cloud, tx, &row, &point, &was.template, wish.disk)?;
        check_quota(tx, caller, &row, &chosen, &was.template)?;
        let plan = plan_of(&image, &point, chosen, left_out);
        begin(cloud, tx, caller, row, &plan)?;
        Ok::<_, Refusal>(plan.left_out)
    })?;
    cloud.wake.ring();
    if !left_out.is_empty() {
        tracing::warn!(
            target: "VM", vm = id,
            "VM {id}: disks {left_out:?} of backup image {} are not the VM's any more and are left out of the restore.",
            wish.image_id
        );
    }
    Ok(id)
}

/// Whether a restore in place still reads from this backup.
///
/// # Errors
/// The database's failure.
pub(super) fn reads_from(tx: &mut Tx<'_>, image_id: i64) -> Result<bool, StoreError> {
    let jobs = tx.jobs_open(JobFilter::Kind(JobKind::RestoreVm.as_str()))?;
    let reads = |row: &JobRow| row.phase == "planned" && row.cancel == 0;
    let mut plans = jobs.iter().filter(|row| reads(row)).map(job::plan::<RestoreVmPlan>);
    Ok(plans.any(|plan| plan.is_ok_and(|plan| plan.image_id == image_id)))
}

fn check_image(image: &ImageRow, vm_id: i64) -> Result<(), Refusal> {
    if image.kind != BACKUP {
        return refuse("Image has to be of type BACKUP");
    }
    if image.backup_vm_id != Some(vm_id) {
        return refuse(format!(
            "Image {} is not a backup of VM {vm_id}; oneimage restore makes a VM of its own of it.",
            image.id
        ));
    }
    if image.state != ImageState::Ready.number() {
        return Err(not_ready(image.id));
    }
    Ok(())
}

/// The increment that is asked for, if nobody is about to remove it.
fn chosen(tx: &mut Tx<'_>, image: &ImageRow, increment: i64) -> Result<IncrementRow, Refusal> {
    let mut chain = tx.increments(image.id)?;
    for job in tx.jobs_open(JobFilter::Image(image.id))? {
        if job.kind == JobKind::Retain.as_str() {
            let plan: RetainPlan = job::plan(&job)?;
            chain.retain(|point| !plan.drop.contains(&point.increment_id));
        }
    }
    let known: Vec<String> = chain.iter().map(|point| point.increment_id.to_string()).collect();
    let wanted = match increment {
        -1 => chain.pop(),
        id => chain.into_iter().find(|point| point.increment_id == id),
    };
    wanted.ok_or_else(|| Refusal::Action(format!("Wrong increment; this backup holds: {}", known.join(", "))))
}

/// Whether a disk of the VM is the one that the backup has under its number.
fn is_same(vector: &Vector, was: &Vector) -> bool {
    vector.int("IMAGE_ID") == was.int("IMAGE_ID")
}

/// The disks to put back, and the numbers of those that the VM does not have any more.
fn chosen_disks(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    row: &VmRow,
    point: &IncrementRow,
    was: &Template,
    wanted: i64,
) -> Result<(Vec<VmDisk>, Vec<i64>), Refusal> {
    let in_backup = ledger::disk_ids(point);
    let present = view::stored(&row.template);
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    let all = disks::of_vm(tx, row, &cloud.config)?;
    for id in in_backup.iter().copied().filter(|id| wanted == -1 || wanted == *id) {
        let same = is_same(&disk_vector(&present, id), &disk_vector(was, id));
        let disk = all.iter().find(|disk| i64::from(disk.id) == id && same && !disk.cdrom && !disk.readonly);
        match disk {
            Some(disk) => chosen.push(disk.clone()),
            None => left_out.push(id),
        }
    }
    if chosen.is_empty() {
        let known: Vec<String> = in_backup.iter().map(i64::to_string).collect();
        let known = known.join(", ");
        let vm_id = row.id;
        return match (wanted, left_out.is_empty()) {
            (-1, _) => refuse(format!("VM disk does not exist: VM {vm_id} has none of this backup's disks ({known})")),
            (disk, true) => {
                refuse(format!("VM disk does not exist: {disk} is not in this backup, which holds: {known}"))
            }
            (disk, false) => refuse(format!(
                "VM disk does not exist: VM {vm_id} has no disk {disk} any more, or it is another one than in the backup; \
                 oneimage restore --disk-id {disk} makes an image of it"
            )),
        };
    }
    Ok((chosen, left_out))
}

/// Counts the disks as large as they will be and, when that is allowed, as they are again: the job counts what comes of it.
fn check_quota(
    tx: &mut Tx<'_>,
    caller: &Caller,
    row: &VmRow,
    chosen: &[VmDisk],
    was: &Template,
) -> Result<(), Refusal> {
    let sizes: BTreeMap<i64, i64> = chosen
        .iter()
        .filter_map(|disk| Some((i64::from(disk.id), disk_vector(was, disk.id.into()).int("SIZE")?)))
        .collect();
    let mut after = row.clone();
    let mut template = view::stored(&row.template);
    let mut images = Vec::new();
    for (id, size_mb) in sizes {
        let Some(vector) = devices::disk_mut(&mut template, id) else { continue };
        vector.set("SIZE", size_mb.to_string());
        let image = vector.int("IMAGE_ID").filter(|_| vector.yes("PERSISTENT").unwrap_or(false));
        if let Some(image) = image.map(|id| tx.image_find(id)).transpose()?.flatten() {
            images.push((quota::of_image(&image), quota::of_image(&ImageRow { size_mb, ..image })));
        }
    }
    after.template = template.to_text();
    let mut changes = vec![(quota::of_vm(tx, row)?, quota::of_vm(tx, &after)?)];
    changes.extend(images);
    for (before, after) in changes {
        quota::count(tx, Some(&before), Some(&after))?.allowed(tx, caller.uid)?;
        quota::count(tx, Some(&after), Some(&before))?;
    }
    Ok(())
}

fn plan_of(image: &ImageRow, point: &IncrementRow, chosen: Vec<VmDisk>, left_out: Vec<i64>) -> RestoreVmPlan {
    let disks = chosen.into_iter().map(|disk| BackupPlanDisk {
        id: disk.id,
        path: disk.path,
        format: disk.format,
        target: disk.target,
        size_mb: disk.size_mb,
    });
    RestoreVmPlan {
        image_id: image.id,
        datastore_id: image.datastore_id,
        series: point.series.clone(),
        point: point.point.clone(),
        disks: disks.collect(),
        left_out,
    }
}

fn begin(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, mut row: VmRow, plan: &RestoreVmPlan) -> Result<(), Refusal> {
    let now = cloud.clock.now();
    let before = quota::of_vm(tx, &row)?;
    ledger::vm_step(tx, &mut row, VmEvent::RestoreStart, now)?;
    quota::more_of_vm(tx, &before, &row)?.allowed(tx, caller.uid)?;
    ledger::history_action(tx, row.id, ledger::action::RESTORE, caller.uid, caller.gid, now)?;
    ledger::vm_error(tx, &mut row, None)?;
    let datastore_id = Some(plan.datastore_id);
    let subject = JobSubject { datastore_id, ..JobSubject::vm(&row, caller.uid) };
    let job_id = job::add(tx, JobKind::RestoreVm, subject, plan, now)?;
    let job = tx.job(job_id)?;
    let from = format!("from backup image {}", plan.image_id);
    Ok(events::restore_told(tx, &job, EventResult::Started, &from, now)?)
}
