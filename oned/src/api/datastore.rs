//! Datastores: where images, running VMs' disks and backups live.

mod backup;

use std::path::Path;

use one_core::access::{Caller, Permissions, may_create, valid_name};
use one_core::backup::settings;
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::owned::{self, Pooled as _};
use super::pool::PoolFilter;
use super::{Cloud, attributes, datastore_for, parse, vdc, view};
use crate::job::{self, ImportBackupsPlan, JobKind, JobSubject};
use crate::session;
use crate::store::rows::DatastoreRow;
use crate::store::{Release, Tx};

pub use crate::ledger::{BACKUP_DS, FILE_DS, IMAGE_DS, SYSTEM_DS};

const TYPES: [(&str, i64); 4] =
    [("IMAGE_DS", IMAGE_DS), ("SYSTEM_DS", SYSTEM_DS), ("FILE_DS", FILE_DS), ("BACKUP_DS", BACKUP_DS)];

/// STATE of a datastore that can be used.
pub const READY: i64 = 0;
/// STATE of one that takes nothing new.
pub const DISABLED: i64 = 1;

/// The driver that does nothing real, for tests of clients.
const DUMMY: &str = "dummy";

/// Drivers that exist, by type.
fn drivers_of(kind: i64) -> &'static [&'static str] {
    match kind {
        BACKUP_DS => &[settings::RESTIC, settings::NFS, DUMMY],
        _ => &["fs", DUMMY],
    }
}

/// Attributes that are columns, not template text.
const OWN_COLUMNS: [&str; 5] = ["NAME", "TYPE", "DS_MAD", "TM_MAD", "BASE_PATH"];

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Allocate { kind: ObjectKind::Datastore, reason: reason.into() })
}

/// `one.datastore.allocate`.
///
/// # Errors
/// Not authorised; missing or wrong NAME, TYPE, DS_MAD; attributes that the driver demands; a taken name.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str, cluster: i64) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Datastore)?;
    let mut template = attributes::admitted(cloud, caller, ObjectKind::Datastore, &parse(text)?)?;
    let name = template.scalar("NAME").unwrap_or_default().to_string();
    if name.is_empty() {
        return refuse("No NAME in template");
    }
    valid_name(&name, ObjectKind::Datastore)?;
    let (kind, ds_mad, tm_mad) = drivers(cloud, &template)?;
    check_attributes(cloud, caller, (kind, &ds_mad), None, &template)?;
    let base_path = template.scalar("BASE_PATH").unwrap_or_default().to_string();
    for name in OWN_COLUMNS {
        template.remove(name);
    }
    // USE for the datastore's group whatever the umask, as the original forces it.
    let mut permissions = cloud.new_permissions(caller);
    permissions.group.use_ = true;
    let id = cloud.store.write(|tx| {
        let cluster_id = if cluster < 0 { 0 } else { cluster };
        tx.cluster_find(cluster_id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Cluster, id: cluster_id })?;
        if let Some(other_id) = DatastoreRow::namesake(tx, caller.uid, &name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::Datastore, other_id });
        }
        let id = tx.next_id("datastore")?;
        let base_path =
            if base_path.is_empty() { default_base_path(cloud, id) } else { base_path.trim_end_matches('/').into() };
        tx.datastore_insert(&DatastoreRow {
            id,
            uid: caller.uid,
            gid: caller.gid,
            name,
            permissions: permissions.to_i64(),
            ds_mad,
            tm_mad,
            base_path,
            kind,
            disk_type: 0,
            state: READY,
            clusters: cluster_id.to_string(),
            total_mb: 0,
            free_mb: 0,
            used_mb: 0,
            monitored_at: 0,
            template: template.to_text(),
        })?;
        Ok(id)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// Where a datastore lives when it does not say.
#[must_use]
pub fn default_base_path(cloud: &Cloud, id: i64) -> String {
    cloud.config.datastore_location.join(id.to_string()).to_string_lossy().into_owned()
}

fn drivers(cloud: &Cloud, template: &Template) -> Result<(i64, String, String), Refusal> {
    let wanted = template.scalar("TYPE").unwrap_or("IMAGE_DS").to_ascii_uppercase();
    let Some((_, kind)) = TYPES.iter().find(|(name, _)| *name == wanted) else {
        return refuse(format!("TYPE \"{wanted}\" is not known; use IMAGE_DS, SYSTEM_DS or BACKUP_DS."));
    };
    let tm_mad = if *kind == BACKUP_DS { "-" } else { template.scalar("TM_MAD").unwrap_or("qcow2") };
    let ds_mad = match template.scalar("DS_MAD") {
        _ if *kind == SYSTEM_DS => "-",
        Some(driver) => driver,
        None => return refuse("No DS_MAD in template."),
    };
    if *kind != SYSTEM_DS && !drivers_of(*kind).contains(&ds_mad) {
        return refuse(format!("DS_MAD named \"{ds_mad}\" is not defined; use {}.", drivers_of(*kind).join(" or ")));
    }
    if [ds_mad, tm_mad].contains(&DUMMY) && !cloud.config.dummy_drivers {
        return refuse(
            "The dummy drivers keep nothing safe and are off; for tests, set DUMMY_DRIVERS = \"YES\" in oned.conf.",
        );
    }
    Ok((*kind, ds_mad.into(), tm_mad.into()))
}

/// Whether the driver (of the type `kind`) can work with the attributes; `old` are those that are stored now.
fn check_attributes(
    cloud: &Cloud,
    caller: &Caller,
    (kind, ds_mad): (i64, &str),
    old: Option<&Template>,
    template: &Template,
) -> Result<(), Refusal> {
    let base_path = template.scalar("BASE_PATH").unwrap_or_default();
    if !base_path.is_empty() {
        let path = Path::new(base_path);
        let plain = path.is_absolute() && path.components().all(|part| part != std::path::Component::ParentDir);
        if !plain {
            return refuse("BASE_PATH must be an absolute path without \"..\".");
        }
    }
    if kind != BACKUP_DS {
        return Ok(());
    }
    if template.contains("MAX_BACKUPS") && template.scalar("MAX_BACKUPS").is_none_or(|most| !is_a_count(most)) {
        let most: String = template.scalar("MAX_BACKUPS").unwrap_or("a vector").chars().take(64).collect();
        return refuse(format!(
            "Wrong MAX_BACKUPS value: {most}, it must be the number of backups that may be written into the datastore at a \
             time, or 0 for no limit."
        ));
    }
    if ds_mad == DUMMY {
        return Ok(());
    }
    backup::check(cloud, caller, ds_mad, old, template)
}

/// Whether it says how many, or nothing.
fn is_a_count(text: &str) -> bool {
    text.trim().is_empty() || text.trim().parse::<u32>().is_ok()
}

/// `one.datastore.info`; `decrypt` shows secrets to administrators.
///
/// # Errors
/// Not authorised, unknown datastore.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: DatastoreRow = owned::to_show(tx, caller, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Datastore, &mut row.template)?;
        let names = view::Names::read(tx)?;
        Ok(doc::datastore(&view::datastore(tx, &names, &row)?))
    })
}

/// `one.datastorepool.info`.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    let filter = PoolFilter::new(-2, -1, -1)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut pool = doc::Pool::begin("DATASTORE_POOL");
        for row in filter.select(caller, tx.datastore_list()?) {
            pool.push(&view::datastore(tx, &names, &row)?);
        }
        Ok(pool.finish())
    })
}

/// `one.datastore.update`. TYPE and BASE_PATH stay what they were; drivers can change as long as nothing lies in the
/// datastore that the other driver could not read.
///
/// # Errors
/// Not authorised, unknown datastore, attributes that the driver demands taken away.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let mut new = parse(text)?;
    let wish = ["DS_MAD", "TM_MAD"].map(|name| new.scalar(name).map(String::from));
    for name in OWN_COLUMNS {
        new.remove(name);
    }
    // Shown in the document, kept elsewhere.
    new.remove("IMPORTING_BACKUPS");
    cloud.store.write(|tx| {
        let mut row = datastore_for(tx, caller, Right::Manage, id)?;
        change_drivers(cloud, tx, &mut row, wish)?;
        let old = view::stored(&row.template);
        let template = attributes::updated(cloud, caller, ObjectKind::Datastore, &old, &new, kind)?;
        check_attributes(cloud, caller, (row.kind, &row.ds_mad), Some(&old), &template)?;
        row.template = template.to_text();
        row.monitored_at = 0;
        tx.datastore_update(&row)?;
        tx.schedules_release(Release::Datastore(id))?;
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn change_drivers(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    row: &mut DatastoreRow,
    [ds_mad, tm_mad]: [Option<String>; 2],
) -> Result<(), Refusal> {
    let changed = |wish: &Option<String>, now: &str| wish.as_deref().is_some_and(|wish| wish != now);
    if !changed(&ds_mad, &row.ds_mad) && !changed(&tm_mad, &row.tm_mad) {
        return Ok(());
    }
    let mut asked = Template::new();
    let kind = TYPES.iter().find(|(_, kind)| *kind == row.kind).map_or("", |(name, _)| name);
    for (name, value) in [
        ("TYPE", kind),
        ("DS_MAD", ds_mad.as_deref().unwrap_or(&row.ds_mad)),
        ("TM_MAD", tm_mad.as_deref().unwrap_or(&row.tm_mad)),
    ] {
        asked.set(name, value);
    }
    let (_, ds_mad, tm_mad) = drivers(cloud, &asked)?;
    if ds_mad != row.ds_mad && row.kind == BACKUP_DS && !tx.image_ids_in_datastore(row.id)?.is_empty() {
        let reason = format!("Datastore {} holds backups that only its driver {} can read.", row.id, row.ds_mad);
        return Err(Refusal::CannotUpdate { reason });
    }
    (row.ds_mad, row.tm_mad) = (ds_mad, tm_mad);
    Ok(())
}

/// `one.datastore.enable`: a disabled system datastore takes no more VMs.
///
/// # Errors
/// Not authorised (MANAGE), another kind of datastore.
pub fn enable(cloud: &Cloud, caller: &Caller, id: i64, enabled: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = datastore_for(tx, caller, Right::Manage, id)?;
        if row.kind != SYSTEM_DS {
            return Err(Refusal::Action(format!("Datastore {id} cannot be disabled: only system datastores can.")));
        }
        row.state = if enabled { READY } else { DISABLED };
        tx.datastore_update(&row)?;
        tx.schedules_release(Release::Datastore(id))?;
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.datastore.importbackups`: has images made of the restore points of a backup datastore that no image has. Returns the
/// datastore's id; the outcome is shown in its template.
///
/// # Errors
/// Not authorised (ADMIN); no backup datastore; an import that is not at its end.
pub fn import_backups(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = datastore_for(tx, caller, Right::Admin, id)?;
        if row.kind != BACKUP_DS {
            return Err(Refusal::NotABackupDatastore { datastore: id });
        }
        if view::import_under_way(tx, id)?.is_some() {
            return Err(Refusal::Action(format!("Datastore {id}: its backups are being imported already; wait.")));
        }
        let subject = JobSubject { datastore_id: Some(id), uid: caller.uid, ..JobSubject::default() };
        job::add(tx, JobKind::ImportBackups, subject, &ImportBackupsPlan {}, cloud.clock.now())?;
        Ok(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.datastore.delete`: forgets an empty datastore; its directory is left alone.
///
/// # Errors
/// Not authorised, unknown datastore, images inside, a datastore of the bootstrap.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        datastore_for(tx, caller, Right::Manage, id)?;
        if id < 100 {
            return Err(Refusal::Action(format!("Datastore {id} belongs to the installation and stays.")));
        }
        // An import may be about to fill it.
        let filling = view::import_under_way(tx, id)?.is_some();
        if filling || !tx.image_ids_in_datastore(id)?.is_empty() {
            return Err(Refusal::DatastoreNotEmpty { datastore: id });
        }
        vdc::forget(tx, ObjectKind::Datastore, id)?;
        session::forget_rules(tx, ObjectKind::Datastore, id)?;
        tx.datastore_delete(id)?;
        Ok(id)
    })
}

/// Permissions of the datastores that the installation makes; ordinary users get USE by the rules of the default virtual
/// data centre.
#[must_use]
pub fn installed_permissions() -> Permissions {
    Permissions::from_octal(0o640)
}
