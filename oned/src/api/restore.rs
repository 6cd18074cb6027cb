//! `one.image.restore`: a template and images that bring a backup back as a new VM.
//!
//! All records are made in one transaction, so a refusal half-way leaves nothing; the data follows by jobs, the images are
//! LOCKED until it is there. What the VM was is read from the document that was stored with the restore point.

use std::collections::BTreeMap;
use std::path::PathBuf;

use one_core::access::{Caller, may_create};
use one_core::backup::{BackupPath, ChainLink, RestoreOptions, restore_template};
use one_core::doc::read;
use one_core::lifecycle::ImageState;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::{Template, Vector};

use super::backup::check_room;
use super::backup_path::{Found, backup_job_id, not_ready};
use super::datastore::IMAGE_DS;
use super::image::{self, BACKUP, NewImage};
use super::{Cloud, attributes, datastore_for, image_for, parse, schedule, template, view};
use crate::job::{self, JobKind, JobSubject, RestorePlan};
use crate::ledger;
use crate::store::Tx;
use crate::store::rows::{DatastoreRow, ImageRow, IncrementRow};

struct Source<'a> {
    image: &'a ImageRow,
    chain: &'a [IncrementRow],
    point: &'a IncrementRow,
    vm: read::VmDocument,
    base: String,
}

/// `one.image.restore`: returns the new ids as text, template first (−1 when only a disk was asked for).
///
/// # Errors
/// USE on backup and datastore and CREATE of images and templates are needed; not a backup; not an image datastore; an
/// increment or disk that is not in the backup; taken names.
pub fn restore(
    cloud: &Cloud,
    caller: &Caller,
    image_id: i64,
    datastore_id: i64,
    options: &str,
) -> Result<String, Refusal> {
    let ids = cloud.store.write(|tx| {
        let image = image_for(tx, caller, Right::Use, image_id)?;
        let datastore = datastore_for(tx, caller, Right::Use, datastore_id)?;
        may_create(caller, ObjectKind::Image)?;
        if image.kind != BACKUP {
            return Err(Refusal::Action("Can only restore images of type BACKUP".into()));
        }
        if datastore.kind != IMAGE_DS {
            return Err(Refusal::Action("Destination can be only an image datastore".into()));
        }
        if image.state != ImageState::Ready.number() {
            return Err(not_ready(image_id));
        }
        let options = RestoreOptions::parse(&parse(options)?)?;
        let chain = tx.increments(image_id)?;
        let point = chosen(&chain, &options)?;
        let base = options.base_name(image.backup_vm_id.unwrap_or(-1), view::short_point(&point.point));
        let vm = match read::vm(&point.document) {
            // A disk can do without the VM that it was of.
            Err(_) if options.disk_id.is_some() => read::VmDocument::default(),
            other => other.map_err(|e| {
                Refusal::Internal(format!("The VM's description in backup image {image_id} cannot be read: {e}."))
            })?,
        };
        let source = Source { image: &image, chain: &chain, point, vm, base };
        make(cloud, tx, caller, &source, &datastore, &options)
    })?;
    cloud.wake.ring();
    Ok(ids)
}

fn chosen<'a>(chain: &'a [IncrementRow], options: &RestoreOptions) -> Result<&'a IncrementRow, Refusal> {
    let wanted = match options.increment_id {
        None => chain.last(),
        Some(id) => chain.iter().find(|point| point.increment_id == id),
    };
    wanted.ok_or_else(|| {
        let known: Vec<String> = chain.iter().map(|point| point.increment_id.to_string()).collect();
        Refusal::Action(format!("Wrong increment; this backup holds: {}", known.join(", ")))
    })
}

fn make(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    source: &Source<'_>,
    datastore: &DatastoreRow,
    options: &RestoreOptions,
) -> Result<String, Refusal> {
    let stored = ledger::disk_ids(source.point);
    let wanted: Vec<i64> = stored.iter().copied().filter(|id| options.disk_id.is_none_or(|only| only == *id)).collect();
    if let Some(disk) = options.disk_id.filter(|_| wanted.is_empty()) {
        let known: Vec<String> = stored.iter().map(i64::to_string).collect();
        return Err(Refusal::Action(format!(
            "VM disk does not exist: {disk} is not in this backup, which holds: {}",
            known.join(", ")
        )));
    }
    let size_mb = |disk: &i64| size_mb(&source.vm.template, *disk);
    check_room(cloud, datastore, wanted.iter().map(size_mb).fold(0, i64::saturating_add))?;
    let mut images = BTreeMap::new();
    for disk in wanted {
        images.insert(disk, make_image(cloud, tx, caller, source, datastore, (disk, options.skip_bad))?);
    }
    let template_id = if options.disk_id.is_some() {
        -1
    } else {
        may_create(caller, ObjectKind::Template)?;
        let config = Some(&source.vm.backup_config).filter(|config| !config.is_empty());
        let mut restored = restore_template(&source.vm.template, &source.vm.user_template, config, options, &images);
        restored.remove("NAME");
        schedule::restored(cloud, tx, caller, &source.vm, &mut restored);
        without_hardware_addresses(cloud, caller, &mut restored);
        let restored = attributes::restored(cloud, restored)?;
        template::insert(cloud, tx, caller, &source.base, &restored)?
    };
    let ids: Vec<String> = std::iter::once(template_id).chain(images.into_values()).map(|id| id.to_string()).collect();
    Ok(ids.join(" "))
}

/// A hardware address that the daemon gave is no wish; where only administrators may wish for one, it would keep the owner
/// from instantiating what he restored. Other restricted attributes stay and need an administrator, for they may be limits.
fn without_hardware_addresses(cloud: &Cloud, caller: &Caller, template: &mut Template) {
    for name in ["NIC", "NIC_ALIAS"] {
        if !caller.is_admin() && cloud.config.restricted(ObjectKind::Vm).holds(name, Some("MAC")) {
            template.vectors_mut(name).for_each(|nic| drop(nic.remove("MAC")));
        }
    }
}

pub(super) fn disk_vector(template: &Template, disk: i64) -> Vector {
    template.vectors("DISK").find(|vector| vector.int("DISK_ID") == Some(disk)).cloned().unwrap_or_default()
}

fn size_mb(template: &Template, disk: i64) -> i64 {
    disk_vector(template, disk).int("SIZE").unwrap_or(0).max(0)
}

/// An image that a disk of a restore point becomes: as it is asked for, and where from.
pub(super) struct FromBackup<'a> {
    pub(super) backup: &'a ImageRow,
    pub(super) point: &'a IncrementRow,
    pub(super) disk: i64,
    /// Leave what is damaged as zeros.
    pub(super) skip_bad: bool,
}

/// Makes the image, LOCKED, and the job that fills it.
///
/// # Errors
/// As [`image::insert`].
pub(super) fn insert(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    from: &FromBackup<'_>,
    new: NewImage<'_>,
) -> Result<i64, Refusal> {
    let datastore_id = new.datastore.id;
    let row = image::insert(cloud, tx, caller, new)?;
    let plan = RestorePlan {
        datastore_id: from.backup.datastore_id,
        series: from.point.series.clone(),
        point: from.point.point.clone(),
        disk: u32::try_from(from.disk).unwrap_or(u32::MAX),
        target: PathBuf::from(&row.source),
        skip_bad: from.skip_bad,
    };
    let subject = JobSubject::image(row.id, datastore_id, caller.uid);
    job::add(tx, JobKind::Restore, subject, &plan, cloud.clock.now())?;
    Ok(row.id)
}

/// What one.image.allocate makes of a PATH in a backup: `new` with the size of that disk.
///
/// # Errors
/// As [`super::backup_path::find`] and [`insert`]; no room.
pub(super) fn allocate(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    path: &BackupPath,
    checks_room: bool,
    new: NewImage<'_>,
) -> Result<i64, Refusal> {
    let Found { image, point, disk } = super::backup_path::find(tx, caller, path)?;
    // A disk can do without the VM that it was of; its size is then told by the datastore.
    let size_mb = read::vm(&point.document).map_or(0, |vm| size_mb(&vm.template, disk));
    if checks_room {
        check_room(cloud, new.datastore, size_mb)?;
    }
    let from = FromBackup { backup: &image, point: &point, disk, skip_bad: false };
    insert(cloud, tx, caller, &from, NewImage { size_mb, ..new })
}

fn make_image(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    source: &Source<'_>,
    datastore: &DatastoreRow,
    (disk, skip_bad): (i64, bool),
) -> Result<i64, Refusal> {
    let was = disk_vector(&source.vm.template, disk);
    let scheme = tx.datastore(source.image.datastore_id)?.ds_mad;
    let path = BackupPath {
        scheme,
        datastore_id: source.image.datastore_id,
        job_id: backup_job_id(source.image, source.point),
        chain: source
            .chain
            .iter()
            .take_while(|point| point.increment_id <= source.point.increment_id)
            .map(|point| ChainLink { increment: point.increment_id, source: view::short_point(&point.point).into() })
            .collect(),
        path: format!("/one/disk.{disk}"),
    };
    let mut template = one_core::backup::restore::disk_image_template(&source.base, disk, &path, was.get("DEV_PREFIX"));
    for name in ["NAME", "TYPE", "PATH"] {
        template.remove(name);
    }
    let new = NewImage {
        name: &one_core::backup::restore::disk_image_name(&source.base, disk),
        kind: if disk == 0 { 0 } else { 2 },
        datastore,
        path: path.to_string(),
        format: "qcow2".into(),
        size_mb: size_mb(&source.vm.template, disk),
        persistent: false,
        template,
    };
    let from = FromBackup { backup: source.image, point: source.point, disk, skip_bad };
    insert(cloud, tx, caller, &from, new)
}
