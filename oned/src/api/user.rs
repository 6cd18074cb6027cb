//! Users and groups, to be read.

use one_core::access::Caller;
use one_core::doc::{self, QuotasView};
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::{Cloud, only_admin, view};

/// `one.user.info`; −1 is the caller.
///
/// # Errors
/// Unknown user; somebody else for an ordinary user.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    let id = if id == -1 { caller.uid } else { id };
    if id != caller.uid {
        only_admin(caller, Right::Use, ObjectKind::User, id)?;
    }
    cloud.store.read(|tx| {
        let row = tx.user_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::User, id })?;
        let names = view::Names::read(tx)?;
        Ok(doc::user(&view::user(tx, &names, &row, caller.is_admin())?))
    })
}

/// `one.userpool.info`: everybody for administrators, oneself for others.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut views = Vec::new();
        for row in tx.user_list()? {
            if caller.is_admin() || row.id == caller.uid {
                views.push(view::user(tx, &names, &row, caller.is_admin())?);
            }
        }
        Ok(doc::user_pool(views.iter(), &QuotasView::default()))
    })
}

/// `one.group.info`; −1 is the caller's primary group.
///
/// # Errors
/// Unknown group; a group of others for an ordinary user.
pub fn group(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    let id = if id == -1 { caller.gid } else { id };
    if !caller.is_member(id) {
        only_admin(caller, Right::Use, ObjectKind::Group, id)?;
    }
    cloud.store.read(|tx| {
        let row = tx.group_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Group, id })?;
        Ok(doc::group(&view::group(tx, &row)?))
    })
}

/// `one.grouppool.info`: all for administrators, one's own for others.
///
/// # Errors
/// The database's failure.
pub fn group_pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut views = Vec::new();
        for row in tx.group_list()? {
            if caller.is_admin() || caller.is_member(row.id) {
                views.push(view::group(tx, &row)?);
            }
        }
        Ok(doc::group_pool(views.iter(), &QuotasView::default()))
    })
}
