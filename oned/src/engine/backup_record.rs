//! The records of a finished backup: image or increment, and what KEEP_LAST then has to go.

use std::collections::HashMap;

use one_core::access::Permissions;
use one_core::backup::{Audit, Dated, PlanKind, expired_images, flatten, image_name};
use one_core::lifecycle::ImageState;
use serde::{Deserialize, Serialize};

use drivers::datastore::{Stored, StoredDisk};

use super::Trouble;
use super::backup_store::Copied;
use super::image_jobs::mb;
use crate::job::{self, BackupPlan, JobKind, JobSubject, RetainPlan};
use crate::ledger;
use crate::quota;
use crate::store::rows::{ImageRow, IncrementRow, JobRow, VmRow};
use crate::store::{JobFilter, StoreError, Tx};

/// What only the run that began a backup knows of it; in the job's row from *prepared* to *sealed*.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Begun {
    /// The instant of the data, epoch seconds.
    pub time: i64,
    /// Why there is no record of changes.
    pub lost: Option<String>,
    /// What did not go as it should until then.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What a sealed backup has to be recorded with; in the job's row from *sealed* on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sealed {
    /// The datastore's id of the restore point.
    pub point: String,
    /// Bytes read from the guest's disks.
    pub read_bytes: u64,
    /// Bytes that the datastore grew by.
    pub stored_bytes: u64,
    /// Disk ids with their sizes in bytes.
    pub disks: Vec<(u32, u64)>,
    /// Why everything was read although an increment was planned, or why it is a full one.
    pub reason: String,
    /// What did not go as it should.
    pub warning: String,
    /// The instant of the data, epoch seconds.
    pub time: i64,
    /// From the instant of the backup to its end, seconds.
    pub duration_s: i64,
    /// Whether whole disks were read.
    #[serde(default)]
    pub whole: bool,
    /// What a comparison found that the record of changes did not list.
    #[serde(default)]
    pub unmarked_bytes: u64,
}

impl Sealed {
    pub(super) fn new(copied: Copied, mut warnings: Vec<String>, time: i64, now: i64) -> Self {
        let Copied { stored, reason, warning, whole } = copied;
        warnings.extend(warning);
        let disks = stored.disks.iter().map(|disk: &StoredDisk| (disk.id, disk.size_bytes)).collect();
        let Stored { point, read_bytes, stored_bytes, unmarked_bytes, .. } = stored;
        Self {
            point,
            read_bytes,
            stored_bytes,
            disks,
            reason,
            warning: warnings.join("; "),
            time,
            duration_s: (now - time).max(0),
            whole,
            unmarked_bytes,
        }
    }
}

/// Writes the image (for a full one) and the increment; returns their ids.
pub(super) fn write_point(
    tx: &mut Tx<'_>,
    plan: &BackupPlan,
    vm: &VmRow,
    sealed: &Sealed,
    zone: chrono_tz::Tz,
) -> Result<(i64, i64), Trouble> {
    let size_mb = mb(sealed.stored_bytes);
    let (image_id, increment_id, parent_id, kind) = match &plan.decision.kind {
        PlanKind::Increment { image_id, parent_increment, .. } => {
            let mut image = tx.image(*image_id)?;
            image.size_mb += size_mb;
            image.modtime = sealed.time;
            quota::save_image(tx, &image)?;
            (*image_id, parent_increment + 1, *parent_increment, "INCREMENT")
        }
        PlanKind::Full { new_chain, .. } => (new_image(tx, plan, vm, sealed, *new_chain, zone)?, 0, -1, "FULL"),
    };
    let compare_age = match &plan.decision.kind {
        PlanKind::Full { .. } => 0,
        PlanKind::Increment { .. } => {
            tx.increments(image_id)?.last().map(audit_of).unwrap_or_default().age_after(sealed.whole)
        }
    };
    let disks: Vec<String> = sealed.disks.iter().map(|(id, _)| id.to_string()).collect();
    tx.increment_append(&IncrementRow {
        image_id,
        increment_id,
        parent_id,
        kind: kind.into(),
        date: sealed.time,
        size_mb,
        series: plan.series.clone(),
        point: sealed.point.clone(),
        checkpoint: plan.checkpoint.clone().unwrap_or_default(),
        read_bytes: i64::try_from(sealed.read_bytes).unwrap_or(i64::MAX),
        stored_bytes: i64::try_from(sealed.stored_bytes).unwrap_or(i64::MAX),
        duration_s: sealed.duration_s,
        reason: ledger::flat(&sealed.reason),
        warning: ledger::flat(&sealed.warning),
        disks: disks.join(","),
        document: plan.document.clone(),
        compare_age,
        unmarked_bytes: i64::try_from(sealed.unmarked_bytes).unwrap_or(i64::MAX),
        verified_at: 0,
        verify_depth: String::new(),
        verify_result: String::new(),
        schedule_id: plan.origin.schedule_id(),
    })?;
    Ok((image_id, increment_id))
}

fn audit_of(row: &IncrementRow) -> Audit {
    Audit { age: row.compare_age, unmarked_bytes: row.unmarked_bytes }
}

/// A name for a backup image that its owner does not use yet.
pub(super) fn free_name(
    tx: &mut Tx<'_>,
    uid: i64,
    vm_id: i64,
    time: i64,
    zone: chrono_tz::Tz,
) -> Result<String, StoreError> {
    let base = image_name(vm_id, time, zone);
    let mut name = base.clone();
    let mut suffix = 1;
    while tx.image_by_name(uid, &name)?.is_some() {
        suffix += 1;
        name = format!("{base} {suffix}");
    }
    Ok(name)
}

fn new_image(
    tx: &mut Tx<'_>,
    plan: &BackupPlan,
    vm: &VmRow,
    sealed: &Sealed,
    new_chain: bool,
    zone: chrono_tz::Tz,
) -> Result<i64, Trouble> {
    let name = free_name(tx, vm.uid, vm.id, sealed.time, zone)?;
    let id = tx.next_id("image")?;
    let row = ImageRow {
        id,
        uid: vm.uid,
        gid: vm.gid,
        name,
        permissions: Permissions::BACKUP.to_i64(),
        kind: 6,
        disk_type: 0,
        persistent: 1,
        regtime: sealed.time,
        modtime: sealed.time,
        source: ledger::short_point(&sealed.point).to_string(),
        path: String::new(),
        format: "raw".into(),
        fs: String::new(),
        size_mb: mb(sealed.stored_bytes),
        state: ImageState::Ready.number(),
        prev_state: ImageState::Init.number(),
        datastore_id: plan.decision.datastore_id,
        backup_vm_id: Some(vm.id),
        snapshots: String::new(),
        lock: String::new(),
        backup_mode: Some(if new_chain { "INCREMENT" } else { "FULL" }.into()),
        template: String::new(),
    };
    quota::save_image(tx, &row)?;
    Ok(id)
}

/// Writes the follow-up jobs that KEEP_LAST asks for.
pub(super) fn retain(
    tx: &mut Tx<'_>,
    plan: &BackupPlan,
    vm: &VmRow,
    image_id: i64,
    keep_last: i64,
    now: i64,
) -> Result<(), Trouble> {
    if let PlanKind::Full { .. } = plan.decision.kind {
        let gone = ImageState::Delete.number();
        let images: Vec<ImageRow> = tx.backups_of_vm(vm.id)?.into_iter().filter(|image| image.state != gone).collect();
        let ids: Vec<i64> = images.iter().map(|image| image.id).collect();
        let mut dates: HashMap<i64, i64> = images.iter().map(|image| (image.id, image.regtime)).collect();
        for point in tx.increments_of(&ids)? {
            let date = dates.entry(point.image_id).or_default();
            *date = point.date.max(*date);
        }
        let dated: Vec<Dated> = dates.into_iter().map(|(id, date)| Dated { date, id }).collect();
        let expired = expired_images(&dated, image_id, keep_last);
        for image in images.iter().filter(|image| expired.contains(&image.id)) {
            ledger::image_deletion(tx, image, false, -1, now)?;
        }
        return Ok(());
    }
    let points = tx.increments(image_id)?;
    let ids: Vec<i64> = points.iter().map(|point| point.increment_id).collect();
    let Some(decision) = flatten(&ids, keep_last) else { return Ok(()) };
    let waiting = tx.jobs_open(JobFilter::Image(image_id))?;
    if let Some(older) = waiting.into_iter().find(|job| job.kind == JobKind::Retain.as_str()) {
        // It has an older list; the next backup takes the rest. One that waits for the datastore need not wait longer: it has
        // just been there.
        if older.not_before > now {
            tx.job_update(&JobRow { not_before: now, ..older })?;
        }
        return Ok(());
    }
    let retain = RetainPlan {
        datastore_id: plan.decision.datastore_id,
        series: plan.series.clone(),
        points: points
            .iter()
            .filter(|point| decision.drop.contains(&point.increment_id))
            .map(|point| point.point.clone())
            .collect(),
        drop: decision.drop,
        new_full: decision.new_full,
    };
    let subject = JobSubject::image(image_id, retain.datastore_id, -1);
    job::add(tx, JobKind::Retain, subject, &retain, now)?;
    Ok(())
}
