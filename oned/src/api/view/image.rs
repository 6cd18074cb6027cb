//! Images and backups.

use std::collections::HashMap;

use one_core::access::Permissions;
use one_core::doc::{DiskSnapshotsView, ImageView, IncrementView, SnapshotsView};
use one_core::lifecycle::ImageState;
use one_core::template::Vector;

use super::{Names, lock, number, short_point, shown};
use crate::devices;
use crate::job::{self, JobKind, VerifyPlan};
use crate::ledger;
use crate::progress::{Board, Subject};
use crate::store::rows::{ImageRow, IncrementRow};
use crate::store::{JobFilter, StoreError, Tx};
use crate::verification::{self, Seen};

/// What other tables say of some images, read for all of them at once. Each view takes its own part out.
#[derive(Default)]
pub struct ImageRelated {
    increments: HashMap<i64, Vec<IncrementRow>>,
    users: HashMap<i64, Vec<i64>>,
    datastores: HashMap<i64, String>,
    /// Copies under way: (source, copy).
    clones: Vec<(i64, i64)>,
    /// Verifications under way by image: job, and whether it looks at every byte.
    verifications: HashMap<i64, (i64, bool)>,
}

impl ImageRelated {
    /// For the images of these ids.
    ///
    /// # Errors
    /// The database's failure.
    pub fn of(tx: &mut Tx<'_>, image_ids: &[i64]) -> Result<Self, StoreError> {
        let mut related = Self::default();
        for row in tx.increments_of(image_ids)? {
            related.increments.entry(row.image_id).or_default().push(row);
        }
        for (image_id, vm_id) in tx.users_of_images(image_ids)? {
            related.users.entry(image_id).or_default().push(vm_id);
        }
        related.datastores = tx.datastore_list()?.into_iter().map(|row| (row.id, row.name)).collect();
        for (job, plan) in devices::clones(tx)? {
            related.clones.extend(job.image_id.map(|copy| (plan.source_id, copy)));
        }
        for job in tx.jobs_open(JobFilter::Kind(JobKind::Verify.as_str()))? {
            let deep = job::plan::<VerifyPlan>(&job).is_ok_and(|plan| plan.deep);
            related.verifications.extend(job.image_id.map(|image_id| (image_id, (job.id, deep))));
        }
        Ok(related)
    }
}

/// The view of one image, of disks and backups.
///
/// # Errors
/// The database's failure.
pub fn image(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &ImageRow) -> Result<ImageView, StoreError> {
    Ok(image_with(names, board, row, &mut ImageRelated::of(tx, &[row.id])?))
}

/// The view of one of many images.
#[must_use]
pub fn image_with(names: &Names, board: &Board, row: &ImageRow, related: &mut ImageRelated) -> ImageView {
    let mut template = shown(&row.template);
    board.put_into(&mut template, Subject::Image(row.id));
    if let Some((job_id, deep)) = related.verifications.get(&row.id) {
        let mut verifying = Vector::new();
        verifying.set("JOB", job_id.to_string());
        verifying.set("DEPTH", if *deep { "DEEP" } else { "QUICK" });
        template.set_vector("VERIFYING", verifying);
    }
    let mut increments = Vec::new();
    let mut disks = Vec::new();
    for point in related.increments.remove(&row.id).unwrap_or_default() {
        let seen = verification::of(&point);
        template.push_vector("INCREMENT_INFO", increment_info(&point, seen.as_ref()));
        for flaw in seen.iter().flat_map(|seen| &seen.listed) {
            let place = [("ID".to_owned(), point.increment_id.to_string())];
            let shown = flaw.vector();
            let rest = shown.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            template.push_vector("INCREMENT_DAMAGE", place.into_iter().chain(rest).collect());
        }
        disks = ledger::disk_ids(&point);
        if row.backup_mode.as_deref() == Some("INCREMENT") {
            increments.push(increment(&point));
        }
    }
    let clones = clones_of(&related.clones, row.id);
    let backup_vm: Vec<i64> = row.backup_vm_id.into_iter().collect();
    let vms = if row.kind == 6 { backup_vm } else { related.users.remove(&row.id).unwrap_or_default() };
    ImageView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        permissions: Permissions::from_i64(row.permissions),
        lock: lock(&row.lock),
        kind: number(row.kind),
        disk_type: number(row.disk_type),
        persistent: row.persistent == 1,
        regtime: row.regtime,
        modtime: row.modtime,
        source: row.source.clone(),
        path: row.path.clone(),
        format: row.format.clone(),
        fs: row.fs.clone(),
        size_mb: row.size_mb,
        state: number(row.state),
        prev_state: number(row.prev_state),
        running_vms: i64::try_from(vms.len()).unwrap_or(i64::MAX),
        datastore_id: row.datastore_id,
        datastore: related.datastores.get(&row.datastore_id).cloned().unwrap_or_default(),
        vms,
        cloning_ops: i64::try_from(clones.being_made.len()).unwrap_or(i64::MAX),
        cloning_id: clones.source,
        clones: clones.being_made,
        template,
        snapshots: snapshots(row),
        increments,
        backup_disk_ids: disks,
        ..ImageView::default()
    }
}

/// Copies that are being made of an image, and what it is itself being copied from (−1 nothing).
struct Clones {
    being_made: Vec<i64>,
    source: i64,
}

fn clones_of(under_way: &[(i64, i64)], id: i64) -> Clones {
    let copies = under_way.iter().filter(|(source, _)| *source == id).map(|(_, copy)| *copy);
    let mut being_made: Vec<i64> = copies.collect();
    being_made.sort_unstable();
    let source = under_way.iter().find(|(_, copy)| *copy == id).map_or(-1, |(source, _)| *source);
    Clones { being_made, source }
}

/// The snapshots of an image that no VM has.
fn snapshots(row: &ImageRow) -> SnapshotsView {
    let Some(list) = devices::image_snapshots(row) else { return SnapshotsView::default() };
    let DiskSnapshotsView { allow_orphans, current_base, next_snapshot, snapshots, .. } = list.view();
    SnapshotsView { allow_orphans, current_base, next_snapshot, snapshots }
}

fn increment(row: &IncrementRow) -> IncrementView {
    IncrementView {
        id: row.increment_id,
        parent_id: row.parent_id,
        date: row.date,
        size_mb: row.size_mb,
        source: short_point(&row.point).to_string(),
        full: row.kind == "FULL",
    }
}

/// What the wire's INCREMENT has no room for: bytes, seconds, reasons.
fn increment_info(row: &IncrementRow, seen: Option<&Seen>) -> Vector {
    let mut info = Vector::new();
    info.set("ID", row.increment_id.to_string());
    info.set("POINT", row.point.clone());
    info.set("READ_BYTES", row.read_bytes.to_string());
    info.set("STORED_BYTES", row.stored_bytes.to_string());
    if row.saved_bytes >= 0 {
        info.set("SAVED_BYTES", row.saved_bytes.to_string());
    }
    info.set("DURATION", row.duration_s.to_string());
    if !row.reason.is_empty() {
        info.set("REASON", row.reason.clone());
    }
    if !row.warning.is_empty() {
        info.set("WARNING", row.warning.clone());
    }
    if row.parent_id >= 0 && row.compare_age == 0 {
        info.set("COMPARED", "YES");
    }
    if let Some(seen) = seen {
        info.set("VERIFIED_AT", row.verified_at.to_string());
        info.set("VERIFY_DEPTH", row.verify_depth.clone());
        info.set("VERIFY_JOB", seen.job.to_string());
        info.set("VERIFY_BYTES", seen.read_bytes.to_string());
        info.set("DAMAGES", seen.damages.to_string());
    }
    info
}

/// Whether an image may be used as a disk now.
#[must_use]
pub fn image_is_usable(row: &ImageRow) -> bool {
    let state = row.state;
    state == ImageState::Ready.number() || (state == ImageState::Used.number() && row.persistent == 0)
}
