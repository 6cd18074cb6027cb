//! The records of a finished backup: image or increment, and what KEEP_LAST then has to go.

use std::collections::{BTreeMap, BTreeSet};

use one_core::access::Permissions;
use one_core::backup::{Audit, BackupImage, Candidate, Expired, Keeps, Made, PlanKind, expired, image_name};
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
    /// As in [`Stored::saved_bytes`].
    #[serde(default)]
    pub saved_bytes: Option<u64>,
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
        let Stored { point, read_bytes, stored_bytes, saved_bytes, unmarked_bytes, .. } = stored;
        Self {
            point,
            read_bytes,
            stored_bytes,
            saved_bytes,
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
        saved_bytes: saved_column(sealed.saved_bytes),
        schedule_id: plan.origin.schedule_id(),
    })?;
    Ok((image_id, increment_id))
}

/// How the column says it: −1 = not known.
pub(super) fn saved_column(saved_bytes: Option<u64>) -> i64 {
    saved_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
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

/// Writes the follow-up jobs that KEEP_LAST asks for, that of BACKUP_CONFIG and those of scheduled actions.
pub(super) fn retain(
    tx: &mut Tx<'_>,
    plan: &BackupPlan,
    vm: &VmRow,
    (image_id, increment_id): (i64, i64),
    keep_last: i64,
    now: i64,
) -> Result<(), Trouble> {
    let gone = ImageState::Delete.number();
    let images: Vec<ImageRow> = tx.backups_of_vm(vm.id)?.into_iter().filter(|image| image.state != gone).collect();
    let ids: Vec<i64> = images.iter().map(|image| image.id).collect();
    let points = tx.increments_of(&ids)?;
    let keeps = Keeps { others: keep_last, schedules: keeps_of_schedules(tx, &points)? };
    let is_new_image = matches!(plan.decision.kind, PlanKind::Full { .. });
    let made = Made { image: image_id, point: increment_id, is_new_image };
    for expired in expired(&candidates(&images, &points), made, &keeps) {
        let of = |id: i64| images.iter().find(|image| image.id == id);
        match expired {
            Expired::Image(id) => {
                if let Some(image) = of(id) {
                    ledger::image_deletion(tx, image, false, -1, now)?;
                }
            }
            Expired::Points { image, points: drop } => {
                if let Some(image) = of(image) {
                    shorten(tx, image, &points, drop, now)?;
                }
            }
        }
    }
    Ok(())
}

fn candidates(images: &[ImageRow], points: &[IncrementRow]) -> Vec<BackupImage> {
    let of = |image: &ImageRow| BackupImage {
        id: image.id,
        date: image.regtime,
        points: points
            .iter()
            .filter(|point| point.image_id == image.id)
            .map(|point| Candidate { id: point.increment_id, date: point.date, schedule: point.schedule_id })
            .collect(),
    };
    images.iter().map(of).collect()
}

/// KEEP_LAST of the scheduled actions that made these points, of those that still are and have one.
fn keeps_of_schedules(tx: &mut Tx<'_>, points: &[IncrementRow]) -> Result<BTreeMap<i64, i64>, StoreError> {
    let ids: BTreeSet<i64> = points.iter().filter_map(|point| point.schedule_id).collect();
    let mut keeps = BTreeMap::new();
    for id in ids {
        let action = tx.schedule_find(id)?.as_ref().and_then(ledger::read_schedule);
        keeps.extend(action.and_then(|action| action.keep_last).map(|keep| (id, keep)));
    }
    Ok(keeps)
}

/// Writes the job that takes points out of a chain.
fn shorten(
    tx: &mut Tx<'_>,
    image: &ImageRow,
    points: &[IncrementRow],
    drop: Vec<i64>,
    now: i64,
) -> Result<(), StoreError> {
    let waiting = tx.jobs_open(JobFilter::Image(image.id))?;
    if let Some(older) = waiting.into_iter().find(|job| job.kind == JobKind::Retain.as_str()) {
        // It has an older list; the next backup takes the rest. One that waits for the datastore need not wait longer: it has
        // just been there.
        if older.not_before > now {
            tx.job_update(&JobRow { not_before: now, ..older })?;
        }
        return Ok(());
    }
    let going: Vec<&IncrementRow> =
        points.iter().filter(|point| point.image_id == image.id && drop.contains(&point.increment_id)).collect();
    let Some(first) = going.first() else { return Ok(()) };
    let retain = RetainPlan {
        datastore_id: image.datastore_id,
        series: first.series.clone(),
        points: going.iter().map(|point| point.point.clone()).collect(),
        drop,
    };
    let subject = JobSubject::image(image.id, retain.datastore_id, -1);
    job::add(tx, JobKind::Retain, subject, &retain, now)?;
    Ok(())
}
