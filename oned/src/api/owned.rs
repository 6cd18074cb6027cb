//! What all objects with an owner have in common: rights, permission bits, owner, lock, name. One function per verb, for
//! every kind that has it.

use one_core::access::{Caller, Lock, LockLevel, Object, Permissions, may, may_unlocked, valid_name};
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::{Cloud, people};
use crate::store::rows::{
    BackupJobRow, DatastoreRow, DocumentRow, ImageRow, NetworkRow, SecurityGroupRow, TemplateRow, VmRow,
};
use crate::store::{Release, StoreError, Tx};

/// Rows that have an owner and permission bits.
pub trait Owned {
    /// What rights are checked against.
    fn object(&self) -> Object;
}

/// Rows of a pool of owned objects.
pub trait Pooled: Owned + Sized {
    /// Their kind.
    const KIND: ObjectKind;
    /// Whether they can be locked.
    const LOCKABLE: bool;
    /// Fetches one.
    ///
    /// # Errors
    /// The database's failure.
    fn find(tx: &mut Tx<'_>, id: i64) -> Result<Option<Self>, StoreError>;
    /// Stores it.
    ///
    /// # Errors
    /// The database's failure.
    fn save(&self, tx: &mut Tx<'_>) -> Result<(), StoreError>;
    /// Name, owner, group, permission bits and lock, to be changed.
    fn head(&mut self) -> Head<'_>;
    /// Whose name it would be: the id of another object that already has `name` where `owner` may have it only once.
    ///
    /// # Errors
    /// The database's failure.
    fn namesake(tx: &mut Tx<'_>, owner: i64, name: &str) -> Result<Option<i64>, StoreError>;
}

/// The columns that all owned objects have.
pub struct Head<'a> {
    /// Name.
    pub name: &'a mut String,
    /// Owner.
    pub uid: &'a mut i64,
    /// Group.
    pub gid: &'a mut i64,
    /// Permission bits.
    pub permissions: &'a mut i64,
    /// Lock as JSON, empty when there is none; no column where the kind has no locks.
    pub lock: Option<&'a mut String>,
}

/// The ids of a comma list as columns hold it.
#[must_use]
pub fn ids(list: &str) -> Vec<i64> {
    list.split(',').filter_map(|id| id.parse().ok()).collect()
}

/// A comma list, ascending, each id once.
#[must_use]
pub fn id_list(mut ids: Vec<i64>) -> String {
    ids.sort_unstable();
    ids.dedup();
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// The lock of a column.
#[must_use]
pub fn stored_lock(text: &str) -> Option<Lock> {
    if text.is_empty() {
        return None;
    }
    // We wrote it ourselves. One that does not read any more must not open the object.
    let strict = Lock { level: LockLevel::Use, owner: 0, time: 0, request_id: -1 };
    Some(serde_json::from_str(text).unwrap_or(strict))
}

macro_rules! pooled {
    ($row:ident, $kind:ident, $find:ident, $update:ident, $lockable:tt, $clusters:tt, |$tx:ident, $uid:ident, $name:ident| $namesake:expr) => {
        impl Owned for $row {
            fn object(&self) -> Object {
                Object {
                    kind: ObjectKind::$kind,
                    id: self.id,
                    uid: self.uid,
                    gid: self.gid,
                    permissions: Permissions::from_i64(self.permissions),
                    lock: pooled!(@lock self $lockable),
                    clusters: pooled!(@clusters self $clusters),
                }
            }
        }

        impl Pooled for $row {
            const KIND: ObjectKind = ObjectKind::$kind;
            const LOCKABLE: bool = $lockable;

            fn find(tx: &mut Tx<'_>, id: i64) -> Result<Option<Self>, StoreError> {
                tx.$find(id)
            }

            fn save(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
                tx.$update(self)
            }

            fn head(&mut self) -> Head<'_> {
                Head {
                    name: &mut self.name,
                    uid: &mut self.uid,
                    gid: &mut self.gid,
                    permissions: &mut self.permissions,
                    lock: pooled!(@column self $lockable),
                }
            }

            fn namesake($tx: &mut Tx<'_>, $uid: i64, $name: &str) -> Result<Option<i64>, StoreError> {
                $namesake
            }
        }
    };
    (@lock $row:ident true) => { stored_lock(&$row.lock) };
    (@lock $row:ident false) => { None };
    (@column $row:ident true) => { Some(&mut $row.lock) };
    (@column $row:ident false) => { None };
    (@clusters $row:ident true) => { ids(&$row.clusters) };
    (@clusters $row:ident false) => { Vec::new() };
}

pooled!(VmRow, Vm, vm_find, vm_update, true, false, |_tx, _uid, _name| Ok(None));
pooled!(ImageRow, Image, image_find, image_update, true, false, |tx, uid, name| {
    Ok(tx.image_by_name(uid, name)?.map(|row| row.id))
});
pooled!(DatastoreRow, Datastore, datastore_find, datastore_update, false, true, |tx, _uid, name| {
    Ok(tx.datastore_list()?.into_iter().find(|row| row.name == name).map(|row| row.id))
});
pooled!(TemplateRow, Template, template_find, template_update, true, false, |tx, uid, name| {
    Ok(tx.template_by_name(uid, name)?.map(|row| row.id))
});
pooled!(NetworkRow, Network, network_find, network_update, true, true, |tx, uid, name| {
    Ok(tx.network_list()?.into_iter().find(|row| row.uid == uid && row.name == name).map(|row| row.id))
});
pooled!(SecurityGroupRow, SecurityGroup, security_group_find, security_group_update, true, false, |tx, uid, name| {
    Ok(tx.security_group_list()?.into_iter().find(|row| row.uid == uid && row.name == name).map(|row| row.id))
});
pooled!(DocumentRow, Document, document_find, document_update, true, false, |_tx, _uid, _name| Ok(None));
pooled!(BackupJobRow, BackupJob, backup_job_find, backup_job_update, true, false, |tx, uid, name| {
    Ok(tx.backup_job_list()?.into_iter().find(|row| row.uid == uid && row.name == name).map(|row| row.id))
});

fn found<R: Pooled>(tx: &mut Tx<'_>, id: i64) -> Result<R, Refusal> {
    R::find(tx, id)?.ok_or(Refusal::NoSuch { kind: R::KIND, id })
}

/// The object, if the caller has the right on it and no lock forbids it.
///
/// # Errors
/// [`Refusal::NoSuch`], [`Refusal::NotAuthorized`], [`Refusal::Locked`].
pub fn to_use<R: Pooled>(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<R, Refusal> {
    let row: R = found(tx, id)?;
    may(caller, right, &row.object())?;
    Ok(row)
}

/// The object, if the caller may look at it: USE, whatever lock it has.
///
/// # Errors
/// [`Refusal::NoSuch`], [`Refusal::NotAuthorized`].
pub fn to_show<R: Pooled>(tx: &mut Tx<'_>, caller: &Caller, id: i64) -> Result<R, Refusal> {
    let row: R = found(tx, id)?;
    may_unlocked(caller, Right::Use, &row.object())?;
    Ok(row)
}

/// `one.*.rename`. To the present name it succeeds without a look.
///
/// # Errors
/// Not authorised (MANAGE), a bad or taken name.
pub fn rename<R: Pooled>(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    rename_with::<R>(cloud, caller, Right::Manage, id, name)
}

/// As [`rename`], where another right may be asked for.
///
/// # Errors
/// As [`rename`].
pub fn rename_with<R: Pooled>(
    cloud: &Cloud,
    caller: &Caller,
    right: Right,
    id: i64,
    name: &str,
) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: R = to_use(tx, caller, right, id)?;
        if row.head().name == name {
            return Ok(id);
        }
        valid_name(name, R::KIND)?;
        let owner = row.object().uid;
        check_namesake::<R>(tx, owner, name, id)?;
        *row.head().name = name.into();
        row.save(tx)?;
        Ok(id)
    })
}

fn check_namesake<R: Pooled>(tx: &mut Tx<'_>, owner: i64, name: &str, id: i64) -> Result<(), Refusal> {
    match R::namesake(tx, owner, name)? {
        Some(other_id) if other_id != id => Err(Refusal::NameCollides { kind: R::KIND, name: name.into(), other_id }),
        _ => Ok(()),
    }
}

/// `one.*.chmod`: nine bits in the order of documents, each 1, 0 or −1 to keep.
///
/// # Errors
/// Not authorised (MANAGE; ADMIN for the ADMIN bits), another number.
pub fn chmod<R: Pooled>(cloud: &Cloud, caller: &Caller, id: i64, bits: &[i64; 9]) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: R = to_use(tx, caller, Right::Manage, id)?;
        chmod_row(cloud, caller, &mut row, bits)?;
        row.save(tx)?;
        release::<R>(tx, id)?;
        Ok(id)
    })
}

/// Changes the permission bits of a row that the caller may manage.
///
/// # Errors
/// As [`chmod`].
pub fn chmod_row<R: Pooled>(cloud: &Cloud, caller: &Caller, row: &mut R, bits: &[i64; 9]) -> Result<(), Refusal> {
    let object = row.object();
    let admin = may(caller, Right::Admin, &object).is_ok();
    let new = object.permissions.changed(bits, admin, cloud.config.enable_other_permissions)?;
    *row.head().permissions = new.to_i64();
    Ok(())
}

/// `one.*.chown`: −1 keeps owner or group.
///
/// # Errors
/// Not authorised (MANAGE on the object and on the new owner, USE on the new group), unknown user or group, a name that the
/// new owner already uses; what `moved` refuses.
pub fn chown<R: Pooled>(
    cloud: &Cloud,
    caller: &Caller,
    id: i64,
    (uid, gid): (i64, i64),
    moved: impl FnOnce(&mut Tx<'_>, &Object, &R) -> Result<(), Refusal>,
) -> Result<i64, Refusal> {
    if uid < -1 || gid < -1 {
        return Err(Refusal::Api("Wrong user or group id; -1 keeps what it is".into()));
    }
    cloud.store.write(|tx| {
        let mut row: R = to_use(tx, caller, Right::Manage, id)?;
        let old = row.object();
        if uid != -1 {
            people::user_to_use(tx, caller, Right::Manage, uid)?;
            let name = row.head().name.clone();
            check_namesake::<R>(tx, uid, &name, id)?;
            *row.head().uid = uid;
        }
        if gid != -1 {
            people::group_to_use(tx, caller, Right::Use, gid)?;
            *row.head().gid = gid;
        }
        row.save(tx)?;
        moved(tx, &old, &row).map_err(|refused| asked_by(caller, refused))?;
        release::<R>(tx, id)?;
        Ok(id)
    })
}

/// Lets scheduled actions that were refused because of this object's rights be tried again.
fn release<R: Pooled>(tx: &mut Tx<'_>, id: i64) -> Result<(), StoreError> {
    match R::KIND {
        ObjectKind::Vm => tx.schedules_release(Release::Vm(id)),
        ObjectKind::Datastore => tx.schedules_release(Release::Datastore(id)),
        _ => Ok(()),
    }
}

/// What a new owner may not have is told to the one who wanted to give it.
fn asked_by(caller: &Caller, refused: Refusal) -> Refusal {
    match refused {
        Refusal::QuotaExceeded { reason, .. } => Refusal::QuotaExceeded { user: caller.uid, reason },
        other => other,
    }
}

/// `one.*.lock`. With `test` a locked object is refused instead of locked anew.
///
/// # Errors
/// Not authorised (MANAGE, whatever the present lock), a wrong level, a lock of somebody else.
pub fn lock<R: Pooled>(cloud: &Cloud, caller: &Caller, id: i64, level: i64, test: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: R = found(tx, id)?;
        let object = row.object();
        may_unlocked(caller, Right::Manage, &object)?;
        let level = LockLevel::from_number(level)?;
        if let Some(old) = object.lock
            && (test || (old.owner != caller.uid && !caller.is_admin()))
        {
            return Err(Refusal::Action("Error trying to lock the resource.".into()));
        }
        let lock = Lock { level, owner: caller.uid, time: cloud.clock.now(), request_id: -1 };
        let text = serde_json::to_string(&lock).map_err(|e| Refusal::Internal(e.to_string()))?;
        let Some(column) = row.head().lock else {
            return Err(Refusal::Action(format!("A {} cannot be locked.", R::KIND.text())));
        };
        *column = text;
        row.save(tx)?;
        Ok(id)
    })
}

/// `one.*.unlock`; what is not locked stays so.
///
/// # Errors
/// Not authorised (MANAGE, whatever the lock), a lock of somebody else.
pub fn unlock<R: Pooled>(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: R = found(tx, id)?;
        let object = row.object();
        may_unlocked(caller, Right::Manage, &object)?;
        if object.lock.is_some_and(|lock| lock.owner != caller.uid) && !caller.is_admin() {
            return Err(Refusal::Action("Cannot unlock: Lock is owned by another user".into()));
        }
        if let Some(column) = row.head().lock {
            column.clear();
            row.save(tx)?;
        }
        release::<R>(tx, id)?;
        Ok(id)
    })
}
