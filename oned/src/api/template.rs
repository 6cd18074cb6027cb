//! Stored VM templates.

use one_core::access::{Caller, may_create, valid_name};
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::pool::PoolFilter;
use super::vm_create::{self, NewVm};
use super::{Cloud, attributes, owned, parse, people, template_for, view};
use crate::store::Tx;
use crate::store::rows::TemplateRow;

/// `one.template.allocate`.
///
/// # Errors
/// Not authorised, a template that does not parse, restricted attributes, no or a bad or taken NAME.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Template)?;
    let mut template = attributes::admitted(cloud, caller, ObjectKind::Vm, &parse(text)?)?;
    let name = template.scalar("NAME").unwrap_or_default().to_string();
    template.remove("NAME");
    cloud.store.write(|tx| insert(cloud, tx, caller, &name, &template))
}

/// Stores a template, its secrets sealed, within a transaction; also the end of a restore.
///
/// # Errors
/// As [`allocate`].
pub fn insert(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    name: &str,
    template: &Template,
) -> Result<i64, Refusal> {
    if name.is_empty() {
        return Err(Refusal::Allocate { kind: ObjectKind::Template, reason: "No NAME in template".into() });
    }
    valid_name(name, ObjectKind::Template)?;
    if let Some(other) = tx.template_by_name(caller.uid, name)? {
        return Err(Refusal::NameTaken { kind: ObjectKind::Template, other_id: other.id });
    }
    let id = tx.next_id("vm_template")?;
    tx.template_insert(&TemplateRow {
        id,
        uid: caller.uid,
        gid: caller.gid,
        name: name.into(),
        permissions: cloud.new_permissions(caller).to_i64(),
        regtime: cloud.clock.now(),
        lock: String::new(),
        template: template.to_text(),
    })?;
    Ok(id)
}

/// `one.template.info`.
///
/// # Errors
/// Not authorised, unknown template.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    info_decrypt(cloud, caller, id, false)
}

/// The same with the flag `decrypt`, which shows secrets to administrators.
///
/// # Errors
/// As [`info`]; a secret that the daemon's key does not open.
pub fn info_decrypt(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: TemplateRow = owned::to_show(tx, caller, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Vm, &mut row.template)?;
        let names = view::Names::read(tx)?;
        Ok(doc::vm_template(&view::template(&names, &row)))
    })
}

/// `one.templatepool.info`.
///
/// # Errors
/// A bad filter.
pub fn pool(cloud: &Cloud, caller: &Caller, flag: i64, start: i64, end: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, start, end)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let rows = filter.select(caller, tx.template_list()?);
        Ok(doc::pool("VMTEMPLATE_POOL", rows.iter().map(|row| doc::vm_template(&view::template(&names, row)))))
    })
}

/// `one.template.update`.
///
/// # Errors
/// Not authorised, unknown template, a text that does not parse, restricted attributes.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = template_for(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Vm, &old, &new, kind)?.to_text();
        tx.template_update(&row)?;
        Ok(id)
    })
}

/// `one.template.delete`.
///
/// # Errors
/// Not authorised, unknown template; `recursive` (with its images) is refused: delete the images by name.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64, recursive: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        template_for(tx, caller, Right::Manage, id)?;
        if recursive {
            return Err(Refusal::Action(
                "A template cannot be deleted together with its images; delete the images with oneimage first.".into(),
            ));
        }
        tx.template_delete(id)?;
        Ok(id)
    })
}

/// What `one.template.instantiate` takes beside the template's id.
pub struct Instantiation<'a> {
    /// VM name; empty = template name and VM id.
    pub name: &'a str,
    /// Start in HOLD.
    pub hold: bool,
    /// Attributes that replace those of the template.
    pub extra: &'a str,
    /// Persistent copies of the images.
    pub persistent: bool,
}

/// `one.template.instantiate`: makes a VM; returns its id.
///
/// # Errors
/// Not authorised for the template or an image, attributes that make no VM, restricted attributes: those that `extra` adds
/// or changes, and any in a template whose owner is no administrator.
pub fn instantiate(cloud: &Cloud, caller: &Caller, id: i64, wish: &Instantiation<'_>) -> Result<i64, Refusal> {
    let extra = parse(wish.extra)?;
    let vm_id = cloud.store.write(|tx| {
        let row = template_for(tx, caller, Right::Use, id)?;
        if wish.persistent {
            return Err(Refusal::Action(
                "Persistent instantiation is not available; mark the images persistent instead.".into(),
            ));
        }
        let stored = view::stored(&row.template);
        let extra = attributes::sealed(cloud, ObjectKind::Vm, &extra, Some(&stored))?;
        attributes::check(cloud, caller, ObjectKind::Vm, Some(&stored), &extra)?;
        let mut template = stored.clone();
        template.overlay(&extra);
        // What an administrator's template holds he gave to those who may use it. Anybody else cannot have been allowed to.
        let vouched = people::is_admin(tx, row.uid)?.then_some(&stored);
        let name = [wish.name, extra.scalar("NAME").unwrap_or_default()].into_iter().find(|name| !name.is_empty());
        let base = row.name.as_str();
        vm_create::create(
            cloud,
            tx,
            caller,
            NewVm {
                template,
                vouched,
                template_id: Some(id),
                name: name.map(String::from),
                base_name: Some(base),
                hold: wish.hold,
            },
        )
    })?;
    cloud.wake.ring();
    Ok(vm_id)
}
