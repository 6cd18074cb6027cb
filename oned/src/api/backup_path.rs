//! PATH of a backup in `one.image.allocate`: which restore point and disk it means, and whether the caller may have it.
//!
//! A path holds ids that can be guessed. So it is never taken at its word: the backup is looked up in the catalogue, USE on
//! that backup and on its datastore is demanded, and a backup that is not there gets the same answer as a foreign one.

use one_core::access::{Caller, may, may_unlocked};
use one_core::backup::{BackupPath, catalogue};
use one_core::lifecycle::ImageState;
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::datastore::BACKUP_DS;
use super::image::BACKUP;
use super::{Owned, view};
use crate::ledger;
use crate::store::Tx;
use crate::store::rows::{ImageRow, IncrementRow};

/// As much of a path as an answer repeats, characters.
const SHOWN_MAX: usize = 200;

/// The disk of a restore point.
pub(super) struct Found {
    pub(super) image: ImageRow,
    pub(super) point: IncrementRow,
    pub(super) disk: i64,
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Allocate { kind: ObjectKind::Image, reason: reason.into() })
}

fn shown(path: &str) -> String {
    path.chars().take(SHOWN_MAX).collect()
}

/// Reads PATH and FROM_BACKUP_DS of a new image; none for a plain file.
///
/// # Errors
/// ALLOCATE: a URL that is no path of a backup; FROM_BACKUP_DS with a plain file, or of another datastore.
pub(super) fn read(path: &str, from_backup_ds: Option<&str>) -> Result<Option<BackupPath>, Refusal> {
    if !path.contains("://") {
        return match from_backup_ds {
            None => Ok(None),
            Some(_) => refuse("FROM_BACKUP_DS needs the PATH of a disk in a backup, as restored images show it."),
        };
    }
    let parsed: BackupPath = match path.parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            let path = shown(path);
            return refuse(format!(
                "PATH must be a file of this machine or a disk in a backup, not \"{path}\": {error}."
            ));
        }
    };
    match from_backup_ds.map(str::trim).filter(|id| !id.is_empty()) {
        Some(id) if id != parsed.datastore_id.to_string() => {
            refuse(format!("FROM_BACKUP_DS is {}, but PATH lies in datastore {}.", shown(id), parsed.datastore_id))
        }
        _ => Ok(Some(parsed)),
    }
}

/// Finds what a path means.
///
/// # Errors
/// ALLOCATE, always in the same words, when there is no such backup or the caller may not use it; ACTION for a backup of his
/// that is not READY or does not hold the disk; a lock on it.
pub(super) fn find(tx: &mut Tx<'_>, caller: &Caller, path: &BackupPath) -> Result<Found, Refusal> {
    let Some((image, point)) = visible(tx, caller, path)? else {
        return refuse(format!("PATH names no backup that you may use: {}", shown(&path.to_string())));
    };
    may(caller, Right::Use, &image.object())?;
    if image.state != ImageState::Ready.number() {
        return Err(not_ready(image.id));
    }
    let stored = ledger::disk_ids(&point);
    match path.disk_id().filter(|disk| stored.contains(disk)) {
        Some(disk) => Ok(Found { image, point, disk }),
        None => {
            let known: Vec<String> = stored.iter().map(i64::to_string).collect();
            Err(Refusal::Action(format!(
                "VM disk does not exist: {} is not in this backup, which holds the disks: {}",
                shown(&path.path),
                known.join(", ")
            )))
        }
    }
}

/// What is answered to whoever wants to restore a backup that is being made or removed.
pub(super) fn not_ready(image_id: i64) -> Refusal {
    Refusal::Action(format!("Backup image {image_id} is not READY; wait until it is, or see its ERROR."))
}

/// The backup of a path, if the caller may use it.
fn visible(tx: &mut Tx<'_>, caller: &Caller, path: &BackupPath) -> Result<Option<(ImageRow, IncrementRow)>, Refusal> {
    let Some(last) = path.chain.last() else { return Ok(None) };
    let Some(datastore) = tx.datastore_find(path.datastore_id)? else { return Ok(None) };
    let is_usable = datastore.kind == BACKUP_DS
        && datastore.ds_mad == path.scheme
        && may_unlocked(caller, Right::Use, &datastore.object()).is_ok();
    if !is_usable {
        return Ok(None);
    }
    let mut found = None;
    for point in tx.points_by_short_id(path.datastore_id, last.increment, &last.source)? {
        let image = tx.image(point.image_id)?;
        let mine = image.kind == BACKUP && may_unlocked(caller, Right::Use, &image.object()).is_ok();
        let is_of_job = path.job_id.is_none() || path.job_id == backup_job_id(&image, &point);
        if !mine || !is_of_job || !is_of_chain(tx, &image, path)? {
            continue;
        }
        if found.replace((image, point)).is_some() {
            // Eight digits of two backups are alike. Nobody can say which one is meant.
            return Ok(None);
        }
    }
    Ok(found)
}

/// The backup job that made a restore point, which the path of its disks names (and which may be left out there). It says
/// nothing about rights: those are asked of the backup.
pub(super) fn backup_job_id(image: &ImageRow, point: &IncrementRow) -> Option<i64> {
    catalogue::backup_job_id(&point.series).or_else(|| view::stored(&image.template).int("BACKUP_JOB_ID"))
}

/// Whether the increments that a path names are those of this chain. What KEEP_LAST has removed since counts as known: each
/// restore point is complete.
fn is_of_chain(tx: &mut Tx<'_>, image: &ImageRow, path: &BackupPath) -> Result<bool, Refusal> {
    let points = tx.increments_of(&[image.id])?;
    let first = points.first().map_or(0, |point| point.increment_id);
    Ok(path.chain.iter().all(|link| {
        let known = points.iter().find(|point| point.increment_id == link.increment);
        known.map_or(link.increment < first, |point| ledger::short_point(&point.point) == link.source)
    }))
}
