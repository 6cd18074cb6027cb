//! What api and engine both write about a VM's disks: which there are, their snapshots, which images they use.
//!
//! What it is not: it touches no file and asks nobody. The snapshots of a disk lie in the VM's row while the VM has the
//! disk; those of a persistent one go with its image.

use one_core::backup::Disks;
use one_core::lifecycle::{DiskSnapshots, ImageState, Orphans};
use one_core::template::{Template, Vector};

use crate::job::{self, ClonePlan, JobKind};
use crate::ledger::{config_of, config_text, stored};
use crate::quota;
use crate::store::rows::{ImageRow, JobRow, VmRow};
use crate::store::{JobFilter, StoreError, Tx};

/// The snapshots of a VM's disks, those disks only that have some. A damaged column reads as none, aloud.
#[must_use]
pub fn snapshots(row: &VmRow) -> Vec<DiskSnapshots> {
    read(&row.snapshots, "VM", row.id).unwrap_or_default()
}

fn read<T: for<'a> serde::Deserialize<'a>>(text: &str, what: &str, id: i64) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    serde_json::from_str(text)
        .inspect_err(|error| tracing::error!(target: "STO", "The snapshots of {what} {id} do not read: {error}"))
        .ok()
}

/// A list of snapshots as the column holds it.
#[must_use]
pub fn snapshots_text(list: &[DiskSnapshots]) -> String {
    // Plain numbers and texts: they can always be written.
    if list.is_empty() { String::new() } else { serde_json::to_string(list).unwrap_or_default() }
}

/// The snapshots of an image that no VM has.
#[must_use]
pub fn image_snapshots(row: &ImageRow) -> Option<DiskSnapshots> {
    read(&row.snapshots, "image", row.id)
}

/// Whether an image keeps snapshots.
#[must_use]
pub fn image_has_snapshots(row: &ImageRow) -> bool {
    image_snapshots(row).is_some_and(|list| !list.snapshots().is_empty())
}

/// Stores them. A list without snapshots is kept too: it knows which numbers, and so which names in the file, were used.
pub fn set_image_snapshots(row: &mut ImageRow, list: Option<&DiskSnapshots>) {
    row.snapshots = list.map(|list| serde_json::to_string(list).unwrap_or_default()).unwrap_or_default();
}

/// The snapshots that a VM gets with a new disk of `image`: those of a persistent one.
#[must_use]
pub fn snapshots_brought(disk: &Vector, image: &ImageRow) -> Option<DiskSnapshots> {
    let mut list = image_snapshots(image).filter(|_| image.persistent == 1)?;
    list.disk_id = disk.int("DISK_ID")?;
    Some(list)
}

/// The snapshots of one disk, a new list when it has none.
#[must_use]
pub fn snapshots_of(row: &VmRow, disk: &Vector) -> DiskSnapshots {
    let id = disk.int("DISK_ID").unwrap_or(-1);
    let orphans = Orphans::from_word(disk.get("ALLOW_ORPHANS").unwrap_or("YES"), disk.get("FORMAT").unwrap_or("qcow2"));
    snapshots(row).into_iter().find(|list| list.disk_id == id).unwrap_or_else(|| DiskSnapshots::new(id, orphans))
}

/// Puts the snapshots of one disk into the row, with their size in the disk's vector.
pub fn put_snapshots(row: &mut VmRow, new: DiskSnapshots) {
    let mut template = stored(&row.template);
    if let Some(disk) = disk_mut(&mut template, new.disk_id) {
        disk.set("DISK_SNAPSHOT_TOTAL_SIZE", new.total_size_mb().to_string());
        row.template = template.to_text();
    }
    let mut all = snapshots(row);
    all.retain(|list| list.disk_id != new.disk_id);
    all.push(new);
    all.sort_by_key(|list| list.disk_id);
    row.snapshots = snapshots_text(&all);
}

/// Takes the snapshots of one disk out of the row.
pub fn take_snapshots(row: &mut VmRow, disk_id: i64) -> Option<DiskSnapshots> {
    let mut all = snapshots(row);
    let place = all.iter().position(|list| list.disk_id == disk_id)?;
    let taken = all.remove(place);
    row.snapshots = snapshots_text(&all);
    Some(taken)
}

/// A VM's disks as its backups see them.
#[must_use]
pub fn of_backup(row: &VmRow) -> Disks {
    let with_snapshots: Vec<i64> =
        snapshots(row).iter().filter(|list| !list.snapshots().is_empty()).map(|list| list.disk_id).collect();
    Disks::from_template(&stored(&row.template), &with_snapshots)
}

/// Applies to BACKUP_CONFIG what the VM's disks and snapshots now are. `changed` is a disk that came or went: when it takes
/// part in backups, the next one begins a new chain. To be called while the row has it.
pub fn settle_backups(row: &mut VmRow, changed: Option<i64>) {
    let mut config = config_of(row);
    let disks = of_backup(row);
    if changed.is_some_and(|id| disks.chosen(&config).iter().any(|disk| disk.id == id)) {
        config.reset_chain();
    }
    if config.present {
        config.settle(&disks);
    }
    row.backup_config = config_text(&config);
}

/// The vector of a disk.
#[must_use]
pub fn disk(row: &VmRow, disk_id: i64) -> Option<Vector> {
    stored(&row.template).vectors("DISK").find(|disk| disk.int("DISK_ID") == Some(disk_id)).cloned()
}

/// The vector of a disk, to be changed.
pub fn disk_mut(template: &mut Template, disk_id: i64) -> Option<&mut Vector> {
    template.vectors_mut("DISK").find(|disk| disk.int("DISK_ID") == Some(disk_id))
}

/// Takes a disk out of a VM's records: its vector, its snapshots (which a persistent image keeps), its use of the image. The
/// row is stored.
///
/// # Errors
/// The database's failure.
pub fn remove_disk(tx: &mut Tx<'_>, row: &mut VmRow, disk_id: i64) -> Result<(), StoreError> {
    let Some(gone) = disk(row, disk_id) else { return Ok(()) };
    settle_backups(row, Some(disk_id));
    let taken = take_snapshots(row, disk_id);
    let mut template = stored(&row.template);
    let kept: Vec<Vector> =
        template.vectors("DISK").filter(|disk| disk.int("DISK_ID") != Some(disk_id)).cloned().collect();
    template.remove("DISK");
    kept.iter().for_each(|disk| template.push_vector("DISK", disk.clone()));
    row.template = template.to_text();
    settle_backups(row, None);
    quota::save_vm(tx, row)?;
    let Some(image_id) = gone.int("IMAGE_ID") else { return Ok(()) };
    if kept.iter().any(|disk| disk.int("IMAGE_ID") == Some(image_id)) {
        return Ok(());
    }
    tx.image_use_remove(image_id, row.id)?;
    let Some(mut image) = tx.image_find(image_id)? else { return Ok(()) };
    if gone.yes("PERSISTENT").unwrap_or(false) {
        set_image_snapshots(&mut image, taken.as_ref());
        image.size_mb = gone.int("SIZE").unwrap_or(image.size_mb);
    }
    free_image(tx, &mut image)
}

/// Stores an image, READY again when no VM uses it any more.
///
/// # Errors
/// The database's failure.
pub fn free_image(tx: &mut Tx<'_>, image: &mut ImageRow) -> Result<(), StoreError> {
    let used = [ImageState::Used, ImageState::UsedPers].map(ImageState::number);
    if used.contains(&image.state) && tx.image_users(image.id)?.is_empty() {
        image.prev_state = image.state;
        image.state = ImageState::Ready.number();
    }
    quota::save_image(tx, image)?;
    Ok(())
}

/// The copies that are being made of images: the job of each with its plan. A plan that does not read is left out.
///
/// # Errors
/// The database's failure.
pub fn clones(tx: &mut Tx<'_>) -> Result<Vec<(JobRow, ClonePlan)>, StoreError> {
    let jobs = tx.jobs_open(JobFilter::Kind(JobKind::Clone.as_str()))?;
    Ok(jobs.into_iter().filter_map(|row| job::plan(&row).ok().map(|plan| (row, plan))).collect())
}

/// Gives the snapshots of a VM's persistent disks to their images: the VM goes.
///
/// # Errors
/// The database's failure.
pub fn return_snapshots(tx: &mut Tx<'_>, vm_id: i64) -> Result<(), StoreError> {
    let Some(row) = tx.vm_find(vm_id)? else { return Ok(()) };
    for disk in stored(&row.template).vectors("DISK").filter(|disk| disk.yes("PERSISTENT").unwrap_or(false)) {
        let Some(mut image) = disk.int("IMAGE_ID").map(|id| tx.image_find(id)).transpose()?.flatten() else { continue };
        let own = snapshots(&row).into_iter().find(|list| Some(list.disk_id) == disk.int("DISK_ID"));
        set_image_snapshots(&mut image, own.as_ref());
        quota::save_image(tx, &image)?;
    }
    Ok(())
}
