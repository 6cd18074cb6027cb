//! What else can be done with an image: copied, switched on and off, made persistent, given another type, brought back to a
//! snapshot.

use std::path::PathBuf;

use one_core::access::{Caller, may_create};
use one_core::lifecycle::{DiskSnapshots, ImageState};
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::datastore::IMAGE_DS;
use super::image::{self, BACKUP, NewImage};
use super::{Cloud, datastore_for, image_for, view};
use crate::devices;
use crate::job::{self, ClonePlan, DiskSnapshotPlan, JobKind, JobSubject, SnapshotStep};
use crate::quota;
use crate::store::rows::ImageRow;
use crate::store::{JobFilter, Tx};

fn state_of(row: &ImageRow) -> ImageState {
    ImageState::from_number(row.state).unwrap_or(ImageState::Error)
}

fn wrong_state<T>(row: &ImageRow, action: &str) -> Result<T, Refusal> {
    Err(Refusal::ImageWrongState { action: action.into(), image: row.id, state: state_of(row) })
}

/// An image that is no backup, for a change of what it is.
fn disk_image(tx: &mut Tx<'_>, caller: &Caller, id: i64, action: &str) -> Result<ImageRow, Refusal> {
    let row = image_for(tx, caller, Right::Manage, id)?;
    if row.kind == BACKUP {
        return Err(Refusal::Action(format!("Cannot {action} a backup image.")));
    }
    Ok(row)
}

/// Whether no VM uses the image and nobody copies or removes it; it may be still on its way in.
fn is_at_rest(row: &ImageRow) -> bool {
    matches!(state_of(row), ImageState::Ready | ImageState::Locked | ImageState::Disabled | ImageState::Error)
}

/// `one.image.clone`: a copy under another name; −1 = in the same datastore. Returns the copy's id. The copy is LOCKED until
/// the data is there, the image meanwhile CLONE if no VM uses it.
///
/// # Errors
/// Not authorised (USE on image and datastore, CREATE), a backup, an image in a wrong state, a bad or taken name.
pub fn clone(cloud: &Cloud, caller: &Caller, id: i64, name: &str, datastore_id: i64) -> Result<i64, Refusal> {
    let new_id = cloud.store.write(|tx| clone_within(cloud, tx, caller, id, name, datastore_id))?;
    cloud.wake.ring();
    Ok(new_id)
}

/// [`clone`] within a transaction.
///
/// # Errors
/// As [`clone`].
pub fn clone_within(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    id: i64,
    name: &str,
    datastore_id: i64,
) -> Result<i64, Refusal> {
    let mut source = image_for(tx, caller, Right::Use, id)?;
    let datastore_id = if datastore_id == -1 { source.datastore_id } else { datastore_id };
    let datastore = datastore_for(tx, caller, Right::Use, datastore_id)?;
    may_create(caller, ObjectKind::Image)?;
    if source.kind == BACKUP {
        return Err(Refusal::Action("Cannot clone a backup image; restore it instead.".into()));
    }
    if datastore.kind != IMAGE_DS {
        return Err(Refusal::Action("Destination can be only an image datastore".into()));
    }
    match state_of(&source) {
        ImageState::Ready | ImageState::Clone | ImageState::Used => {}
        _ => return wrong_state(&source, "clone"),
    }
    let mut template = view::stored(&source.template);
    template.remove("ERROR");
    let new = image::insert(
        cloud,
        tx,
        caller,
        NewImage {
            name,
            kind: source.kind,
            datastore: &datastore,
            path: source.path.clone(),
            format: source.format.clone(),
            size_mb: source.size_mb,
            persistent: false,
            template,
        },
    )?;
    if state_of(&source) == ImageState::Ready {
        source.prev_state = source.state;
        source.state = ImageState::Clone.number();
        quota::save_image(tx, &source)?;
    }
    let plan = ClonePlan {
        source_id: id,
        source: PathBuf::from(&source.source),
        format: source.format.clone(),
        target: PathBuf::from(&new.source),
    };
    let subject = JobSubject::image(new.id, datastore.id, caller.uid);
    job::add(tx, JobKind::Clone, subject, &plan, cloud.clock.now())?;
    Ok(new.id)
}

/// `one.image.enable`: a disabled image is no disk of new VMs.
///
/// # Errors
/// Not authorised (MANAGE), a backup, an image in use, or in ERROR: what an image in ERROR lacks, this does not bring.
pub fn enable(cloud: &Cloud, caller: &Caller, id: i64, wanted: bool) -> Result<i64, Refusal> {
    let action = if wanted { "enable" } else { "disable" };
    cloud.store.write(|tx| {
        let mut row = disk_image(tx, caller, id, action)?;
        let new = match (state_of(&row), wanted) {
            (ImageState::Disabled, true) if tx.jobs_open(JobFilter::Image(id))?.is_empty() => ImageState::Ready,
            // Disabled while its data was on the way.
            (ImageState::Disabled, true) => ImageState::Locked,
            (ImageState::Ready | ImageState::Locked, false) => ImageState::Disabled,
            (state @ (ImageState::Ready | ImageState::Locked), true) => state,
            (ImageState::Disabled, false) => ImageState::Disabled,
            _ => return wrong_state(&row, action),
        };
        if new.number() != row.state {
            row.prev_state = row.state;
            row.state = new.number();
            quota::save_image(tx, &row)?;
        }
        Ok(id)
    })
}

/// `one.image.persistent`: one VM writes into it, or each gets its own copy.
///
/// # Errors
/// Not authorised (MANAGE), a backup, an image in use; snapshots, which only a persistent image keeps.
pub fn persistent(cloud: &Cloud, caller: &Caller, id: i64, wanted: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = disk_image(tx, caller, id, "make persistent or non-persistent")?;
        if !is_at_rest(&row) {
            return wrong_state(&row, "change");
        }
        if !wanted && devices::image_has_snapshots(&row) {
            return Err(Refusal::Action(format!(
                "Image {id} has snapshots, which only a persistent image keeps; delete or flatten them first."
            )));
        }
        row.persistent = i64::from(wanted);
        quota::save_image(tx, &row)?;
        Ok(id)
    })
}

/// `one.image.chtype`: OS, DATABLOCK or CDROM.
///
/// # Errors
/// Not authorised (MANAGE), a backup or the wish for one, another word, an image in use.
pub fn change_type(cloud: &Cloud, caller: &Caller, id: i64, word: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = disk_image(tx, caller, id, "change the type of")?;
        let kind = image::type_number(word)?;
        if !is_at_rest(&row) {
            return wrong_state(&row, "change the type of");
        }
        row.kind = kind;
        row.disk_type = image::disk_type(kind);
        quota::save_image(tx, &row)?;
        Ok(id)
    })
}

/// `one.image.snapshotdelete`, `snapshotrevert` and `snapshotflatten`: of an image that no VM uses. Returns the snapshot's
/// number; the image is LOCKED until it is done.
///
/// # Errors
/// Not authorised (MANAGE), no such snapshot, an image that is not READY.
pub fn snapshot(cloud: &Cloud, caller: &Caller, id: i64, snapshot_id: i64, step: SnapshotStep) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = disk_image(tx, caller, id, "change snapshots of")?;
        let list: Option<DiskSnapshots> = devices::image_snapshots(&row);
        let list = list.ok_or(Refusal::NoSnapshot { snapshot: snapshot_id })?;
        match step {
            SnapshotStep::Delete => list.may_delete(snapshot_id)?,
            _ => list.may_revert(snapshot_id)?,
        }
        if state_of(&row) != ImageState::Ready {
            return wrong_state(&row, "change snapshots of");
        }
        row.prev_state = row.state;
        row.state = ImageState::Locked.number();
        quota::save_image(tx, &row)?;
        let plan = DiskSnapshotPlan { step, disk_id: 0, snapshot_id };
        let subject = JobSubject::image(id, row.datastore_id, caller.uid);
        job::add(tx, JobKind::ImageSnapshot, subject, &plan, cloud.clock.now())?;
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}
