//! Images: disks that VMs start from, and backups.

use std::path::{Path, PathBuf};

use one_core::access::{Caller, may, may_create, valid_name};
use one_core::backup::config::{DISK_PROGRESS, PROGRESS};
use one_core::backup::{BackupPath, Mode};
use one_core::doc;
use one_core::lifecycle::{ImageState, JobPhase};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::datastore::IMAGE_DS;
use super::pool::{BATCH, PoolFilter};
use super::{Cloud, Owned, attributes, backup_path, datastore_for, image_for, owned, parse, restore, view, vm_restore};
use crate::job::{self, ImportPlan, JobKind, JobSubject};
use crate::quota;
use crate::store::rows::{DatastoreRow, ImageRow, JobRow};
use crate::store::{JobFilter, Tx};
use crate::{devices, ledger};

pub use super::image_verbs::persistent;

/// TYPE on the wire of a backup.
pub const BACKUP: i64 = 6;

const CDROM: i64 = 1;
const DATABLOCK: i64 = 2;

/// Types that users may give.
const TYPES: [(&str, i64); 3] = [("OS", 0), ("CDROM", CDROM), ("DATABLOCK", DATABLOCK)];

/// Largest image, MB: 64 TiB.
const SIZE_MAX_MB: i64 = 64 << 20;

/// The number of a type that users may give, in any case of letters.
///
/// # Errors
/// [`Refusal::Action`] naming the word.
pub fn type_number(word: &str) -> Result<i64, Refusal> {
    let found = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, kind)| *kind);
    found.ok_or_else(|| Refusal::Action(format!("TYPE \"{word}\" is not known; use OS, DATABLOCK or CDROM.")))
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Allocate { kind: ObjectKind::Image, reason: reason.into() })
}

/// DISK_TYPE on the wire: a CD, or a file.
#[must_use]
pub fn disk_type(kind: i64) -> i64 {
    i64::from(kind == 1)
}

/// A new image's facts.
pub struct NewImage<'a> {
    /// Name, unique for its owner.
    pub name: &'a str,
    /// TYPE on the wire.
    pub kind: i64,
    /// Datastore.
    pub datastore: &'a DatastoreRow,
    /// Where it comes from, as shown.
    pub path: String,
    /// `qcow2` or `raw`; corrected once the file is there.
    pub format: String,
    /// Size in MB; corrected once the file is there.
    pub size_mb: i64,
    /// One VM writes into it directly.
    pub persistent: bool,
    /// Free attributes, secrets sealed.
    pub template: Template,
}

/// Where an image's data lies: sixteen folders by the last digit keep listings short.
#[must_use]
pub fn data_path(datastore: &DatastoreRow, image_id: i64) -> PathBuf {
    Path::new(&datastore.base_path).join(format!("{:x}", image_id & 0xf)).join(format!("image-{image_id}"))
}

/// Stores an image in LOCKED within a transaction; a job is to fill it.
///
/// # Errors
/// A bad or taken name, a quota of the caller.
pub fn insert(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, new: NewImage<'_>) -> Result<ImageRow, Refusal> {
    if new.name.is_empty() {
        return refuse("No NAME in template");
    }
    valid_name(new.name, ObjectKind::Image)?;
    if let Some(other) = tx.image_by_name(caller.uid, new.name)? {
        return Err(Refusal::NameTaken { kind: ObjectKind::Image, other_id: other.id });
    }
    let id = tx.next_id("image")?;
    let row = ImageRow {
        id,
        uid: caller.uid,
        gid: caller.gid,
        name: new.name.into(),
        permissions: cloud.new_permissions(caller).to_i64(),
        kind: new.kind,
        disk_type: disk_type(new.kind),
        persistent: i64::from(new.persistent),
        regtime: cloud.clock.now(),
        modtime: 0,
        source: data_path(new.datastore, id).to_string_lossy().into_owned(),
        path: new.path,
        format: new.format,
        fs: String::new(),
        size_mb: new.size_mb,
        state: ImageState::Locked.number(),
        prev_state: ImageState::Init.number(),
        datastore_id: new.datastore.id,
        backup_vm_id: None,
        backup_mode: None,
        snapshots: String::new(),
        lock: String::new(),
        template: new.template.to_text(),
    };
    quota::save_image(tx, &row)?.allowed(tx, caller.uid)?;
    Ok(row)
}

/// `one.image.allocate`: registers an image and starts copying its file in. The file is looked at by the copy job: a file
/// that is not allowed or not what it says ends in state ERROR with the reason in TEMPLATE/ERROR. A PATH of a disk in a
/// backup becomes what `one.image.restore` makes of that disk.
///
/// # Errors
/// Not authorised; unknown or wrong datastore; missing, bad or restricted attributes; a taken name.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str, datastore_id: i64) -> Result<i64, Refusal> {
    allocate_unchecked(cloud, caller, text, datastore_id, false)
}

/// The same with the flag `no_check_capacity`, which administrators may set.
///
/// # Errors
/// As [`allocate`].
pub fn allocate_unchecked(
    cloud: &Cloud,
    caller: &Caller,
    text: &str,
    datastore_id: i64,
    no_check_capacity: bool,
) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Image)?;
    let mut template = attributes::admitted(cloud, caller, ObjectKind::Image, &parse(text)?)?;
    let wish = Wish::take(&mut template)?;
    let id = cloud.store.write(|tx| {
        let datastore = datastore_for(tx, caller, Right::Use, datastore_id)?;
        if datastore.kind != IMAGE_DS {
            return refuse("New images can only be allocated in a files or image datastore.");
        }
        let new = NewImage {
            name: &wish.name,
            kind: wish.kind,
            datastore: &datastore,
            path: wish.backup.as_ref().map_or_else(|| wish.path.clone(), ToString::to_string),
            format: wish.format.clone().unwrap_or_else(|| "qcow2".into()),
            size_mb: wish.size_mb.unwrap_or(0),
            persistent: wish.persistent,
            template: template.clone(),
        };
        if let Some(path) = &wish.backup {
            let checks_room = !(no_check_capacity && caller.is_admin());
            return restore::allocate(cloud, tx, caller, path, checks_room, new);
        }
        let row = insert(cloud, tx, caller, new)?;
        let plan = ImportPlan {
            source: Some(&wish.path).filter(|path| !path.is_empty()).map(PathBuf::from),
            format: wish.format.clone(),
            size_mb: wish.size_mb,
            target: PathBuf::from(&row.source),
        };
        let subject = JobSubject::image(row.id, datastore.id, caller.uid);
        job::add(tx, JobKind::Import, subject, &plan, cloud.clock.now())?;
        Ok(row.id)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// What a user wants to register.
struct Wish {
    name: String,
    kind: i64,
    path: String,
    format: Option<String>,
    size_mb: Option<i64>,
    persistent: bool,
    /// The disk in a backup that PATH means.
    backup: Option<BackupPath>,
}

impl Wish {
    fn take(template: &mut Template) -> Result<Self, Refusal> {
        let take = |template: &mut Template, name: &str| {
            let value = template.scalar(name).map(String::from);
            template.remove(name);
            value.filter(|value| !value.is_empty())
        };
        let name = take(template, "NAME").unwrap_or_default();
        let kind_name = take(template, "TYPE").unwrap_or_else(|| "OS".into());
        if kind_name.eq_ignore_ascii_case("BACKUP") {
            return refuse("Backups are made by one.vm.backup, not registered.");
        }
        let kind = type_number(&kind_name).map_err(|refusal| refusal.in_allocating(ObjectKind::Image))?;
        let driver = take(template, "DRIVER");
        let format = take(template, "FORMAT").or(driver).map(|format| format.to_ascii_lowercase());
        if let Some(other) = format.as_deref().filter(|format| !matches!(*format, "qcow2" | "raw")) {
            return refuse(format!("FORMAT \"{other}\" is not known; use qcow2 or raw."));
        }
        let persistent = template.yes("PERSISTENT").unwrap_or(false);
        template.remove("PERSISTENT");
        if template.scalar("SOURCE").is_some() {
            return refuse("SOURCE cannot be given; name the file in PATH and it is copied.");
        }
        let size_mb = take(template, "SIZE")
            .map(|size| match size.trim().parse::<i64>() {
                Ok(size) if (1..=SIZE_MAX_MB).contains(&size) => Ok(size),
                _ => refuse(format!("SIZE must be a whole number of MB from 1 to {SIZE_MAX_MB}.")),
            })
            .transpose()?;
        if let Some(fs) = take(template, "FS").filter(|fs| !fs.eq_ignore_ascii_case("raw")) {
            return refuse(format!(
                "FS \"{fs}\" cannot be made here: leave FS out and make the file system in the guest."
            ));
        }
        let path = take(template, "PATH");
        if path.is_none() && kind == DATABLOCK && size_mb.is_some() && template.scalar("FROM_BACKUP_DS").is_none() {
            return Ok(Self { name, kind, path: String::new(), format, size_mb, persistent, backup: None });
        }
        let Some(path) = path else {
            return refuse("No PATH in template: name the file to copy, or give a DATABLOCK its SIZE in MB.");
        };
        let backup = backup_path::read(&path, template.scalar("FROM_BACKUP_DS"))?;
        if let Some(backup) = &backup {
            if format.as_deref().is_some_and(|format| format != "qcow2") || kind == CDROM {
                return refuse("A disk in a backup becomes a qcow2 image of TYPE OS or DATABLOCK.");
            }
            template.set("FROM_BACKUP_DS", backup.datastore_id.to_string());
        } else if !Path::new(&path).is_absolute() {
            return refuse(format!("PATH \"{path}\" is not absolute."));
        }
        Ok(Self { name, kind, path, format, size_mb, persistent, backup })
    }
}

/// `one.image.info`.
///
/// # Errors
/// Not authorised, unknown image.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    info_decrypt(cloud, caller, id, false)
}

/// The same with the flag `decrypt`, which shows secrets to administrators.
///
/// # Errors
/// As [`info`]; a secret that the daemon's key does not open.
pub fn info_decrypt(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: ImageRow = owned::to_show(tx, caller, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Image, &mut row.template)?;
        let names = view::Names::read(tx)?;
        Ok(doc::image(&view::image(tx, &names, &cloud.board, &row)?))
    })
}

/// `one.imagepool.info`.
///
/// # Errors
/// A bad filter.
pub fn pool(cloud: &Cloud, caller: &Caller, flag: i64, start: i64, end: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, start, end)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let ids =
            filter.ids(caller, ObjectKind::Image, |first_id, last_id, see| tx.image_heads(first_id, last_id, see))?;
        let mut pool = doc::Pool::begin("IMAGE_POOL");
        for ids in ids.chunks(BATCH) {
            let mut related = view::ImageRelated::of(tx, ids)?;
            for row in tx.images_of(ids)? {
                pool.push(&view::image_with(&names, &cloud.board, &row, &mut related));
            }
        }
        Ok(pool.finish())
    })
}

/// `one.image.update`: the free attributes.
///
/// # Errors
/// Not authorised, unknown image, a text that does not parse, restricted attributes.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let mut new = parse(text)?;
    // Shown in the document, kept elsewhere.
    for name in ["INCREMENT_INFO", "INCREMENT_DAMAGE", "VERIFYING", PROGRESS, DISK_PROGRESS] {
        new.remove(name);
    }
    cloud.store.write(|tx| {
        let mut row = image_for(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Image, &old, &new, kind)?.to_text();
        tx.image_update(&row)?;
        Ok(id)
    })
}

/// `one.image.delete`: starts removing the data; the record goes when the data is gone.
///
/// # Errors
/// Not authorised, unknown image, an image that a VM uses, a backup whose VM is being backed up or put back
/// from it.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64, force: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| delete_within(cloud, tx, caller, id, force))?;
    cloud.wake.ring();
    Ok(id)
}

/// [`delete`] within a transaction.
///
/// # Errors
/// As [`delete`].
pub fn delete_within(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, id: i64, force: bool) -> Result<(), Refusal> {
    let row = image_for(tx, caller, Right::Manage, id)?;
    check_deletable(tx, caller, &row, force, cloud.clock.now())?;
    Ok(ledger::image_deletion(tx, &row, force, caller.uid, cloud.clock.now())?)
}

fn state_of(row: &ImageRow) -> ImageState {
    ImageState::from_number(row.state).unwrap_or(ImageState::Error)
}

/// Whether this backup may go while its VM is being backed up: each backup stands alone, and the datastore says
/// CONCURRENT_FORGET.
fn forgets_beside(tx: &mut Tx<'_>, row: &ImageRow, vm_id: i64) -> Result<bool, Refusal> {
    let datastore = tx.datastore_find(row.datastore_id)?.map(|datastore| view::stored(&datastore.template));
    let allowed = datastore.and_then(|template| template.yes("CONCURRENT_FORGET")).unwrap_or(false);
    Ok(allowed && tx.vm_find(vm_id)?.is_some_and(|vm| ledger::config_of(&vm).mode == Mode::Full))
}

fn check_deletable(tx: &mut Tx<'_>, caller: &Caller, row: &ImageRow, force: bool, now: i64) -> Result<(), Refusal> {
    let state = state_of(row);
    let open = tx.jobs_open(JobFilter::Image(row.id))?;
    // What waits for a datastore that is busy or away may do so for long.
    let is_at_work = |kind: JobKind| open.iter().any(|job| job.kind == kind.as_str() && job.not_before <= now);
    match state {
        ImageState::Delete if force && !open.is_empty() && !is_at_work(JobKind::Delete) => {}
        ImageState::Locked if !force => return Err(Refusal::ImageLocked { image: row.id }),
        ImageState::Locked => may(caller, Right::Admin, &row.object())?,
        ImageState::Ready | ImageState::Error | ImageState::Disabled => {}
        _ => return Err(Refusal::ImageWrongState { action: "delete".into(), image: row.id, state }),
    }
    let copied = devices::clones(tx)?.iter().any(|(_, plan)| plan.source_id == row.id);
    if copied {
        return Err(Refusal::ImageWrongState { action: "delete".into(), image: row.id, state: ImageState::Clone });
    }
    if !tx.image_users(row.id)?.is_empty() {
        return Err(Refusal::ImageWrongState { action: "delete".into(), image: row.id, state: ImageState::Used });
    }
    if let Some(vm_id) = row.backup_vm_id {
        // One that is only being taken back needs nothing of the image; it may even wait for the room that this makes. Nor does
        // one that is recorded and removes older checkpoints.
        let is_over = |phase: JobPhase| phase == JobPhase::Undoing || phase.is_recorded();
        let adds =
            |job: &JobRow| job.kind == JobKind::Backup.as_str() && !job.phase.parse::<JobPhase>().is_ok_and(is_over);
        let busy = tx.jobs_open(JobFilter::Vm(vm_id))?.iter().any(adds) && !forgets_beside(tx, row, vm_id)?;
        if busy || is_at_work(JobKind::Retain) {
            return Err(Refusal::ActiveBackup { image: row.id });
        }
        if vm_restore::reads_from(tx, row.id)? {
            return Err(Refusal::ImageWrongState { action: "delete".into(), image: row.id, state: ImageState::Used });
        }
    }
    Ok(())
}
