//! One function per verb: check the caller's rights, do one transaction, wake the engine.
//!
//! What this module is not: it never calls a driver, opens no file and waits for nothing outside. What takes time is
//! written down as a job (`crate::job`) in the same transaction that changes the object's state.
//!
//! Rights come before every other fact about an object, so that a refusal tells a stranger nothing about it.

pub mod accounting;
pub mod attributes;
pub mod backup;
pub mod backup_job;
mod backup_path;
pub mod bootstrap;
pub mod cluster;
pub mod datastore;
pub mod document;
pub mod events;
pub mod host;
pub mod image;
pub mod image_verbs;
pub mod metrics;
pub mod network;
pub mod owned;
pub mod people;
pub mod pool;
pub mod quota;
pub mod restore;
pub mod schedule;
pub mod security_group;
pub mod system;
pub mod template;
pub mod vdc;
pub mod verification;
pub mod view;
pub mod vm;
pub mod vm_action;
pub mod vm_create;
pub mod vm_disks;
pub mod vm_nics;
pub mod vm_recover;
pub mod vm_restore;
pub mod vm_snapshots;
pub mod zone;

use one_core::access::{Caller, Object, Permissions};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

pub use crate::cloud::Cloud;
use crate::store::Tx;
use crate::store::rows::{DatastoreRow, ImageRow, TemplateRow, VmRow};
pub use owned::Owned;

/// Longest text that a user may store in one object, bytes.
const TEMPLATE_MAX_BYTES: usize = 1 << 20;

/// Parses a template that a client sent, within the size limit.
///
/// # Errors
/// [`Refusal::Parse`] with the place, or [`Refusal::Internal`] when it is too long.
pub fn parse(text: &str) -> Result<Template, Refusal> {
    if text.len() > TEMPLATE_MAX_BYTES {
        return Err(Refusal::Internal(format!(
            "The template has {} bytes; at most {TEMPLATE_MAX_BYTES} are accepted.",
            text.len()
        )));
    }
    Ok(Template::parse(text)?)
}

/// Replaces (type 0) or appends (type 1) a template.
///
/// # Errors
/// [`Refusal::UpdateType`] for another type.
pub fn updated(old: &Template, new: &Template, kind: i64) -> Result<Template, Refusal> {
    match kind {
        0 => Ok(new.clone()),
        1 => {
            let mut merged = old.clone();
            merged.append(new);
            Ok(merged)
        }
        _ => Err(Refusal::UpdateType),
    }
}

fn only_admin(caller: &Caller, right: Right, kind: ObjectKind, id: i64) -> Result<(), Refusal> {
    if caller.is_admin() {
        return Ok(());
    }
    Err(Refusal::NotAuthorized { user: caller.uid, right, kind, id: Some(id) })
}

/// Hosts, clusters and other things that belong to nobody: administrators may everything, others what rules give them.
fn unowned(kind: ObjectKind, id: i64, clusters: Vec<i64>) -> Object {
    Object { kind, id, uid: -1, gid: -1, permissions: Permissions::default(), lock: None, clusters }
}

fn vm_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<VmRow, Refusal> {
    owned::to_use(tx, caller, right, id)
}

fn image_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<ImageRow, Refusal> {
    owned::to_use(tx, caller, right, id)
}

fn datastore_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<DatastoreRow, Refusal> {
    owned::to_use(tx, caller, right, id)
}

fn template_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<TemplateRow, Refusal> {
    owned::to_use(tx, caller, right, id)
}
