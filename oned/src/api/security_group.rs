//! Security groups: rules that the documents of VMs show. Nothing here is a firewall.
//!
//! Invariant: the SECURITY_GROUP_RULE vectors of a VM are those of its groups as they are now; a change of a group is
//! written into its VMs at once.

use one_core::access::{Caller, may_create, valid_name};
use one_core::doc;
use one_core::network::security::{checked, define};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::pool::PoolFilter;
use super::{Cloud, attributes, owned, parse, view};
use crate::cards::write_rules;
use crate::session;
use crate::store::Tx;
use crate::store::rows::SecurityGroupRow;

/// Id of the group that every network has.
const DEFAULT: i64 = 0;

fn group_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<SecurityGroupRow, Refusal> {
    owned::to_use(tx, caller, right, id)
}

/// `one.secgroup.allocate`; returns the id.
///
/// # Errors
/// Not authorised (CREATE), no or a taken name, rules that are none.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::SecurityGroup)?;
    let template = attributes::admitted(cloud, caller, ObjectKind::SecurityGroup, &parse(text)?)?;
    let (name, template) = define(&template).map_err(|refusal| match refusal {
        Refusal::Internal(reason) => Refusal::Allocate { kind: ObjectKind::SecurityGroup, reason },
        other => other,
    })?;
    cloud.store.write(|tx| insert(cloud, tx, caller, name, &template))
}

fn insert(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, name: String, template: &Template) -> Result<i64, Refusal> {
    if let Some(other) = tx.security_group_by_name(caller.uid, &name)? {
        return Err(Refusal::NameTaken { kind: ObjectKind::SecurityGroup, other_id: other.id });
    }
    let id = tx.next_id("security_group")?;
    tx.security_group_insert(&SecurityGroupRow {
        id,
        uid: caller.uid,
        gid: caller.gid,
        name,
        permissions: cloud.new_permissions(caller).to_i64(),
        lock: String::new(),
        template: template.to_text(),
    })?;
    Ok(id)
}

/// `one.secgroup.clone`; returns the new group's id.
///
/// # Errors
/// Not authorised (CREATE, USE), a bad or taken name.
pub fn clone(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::SecurityGroup)?;
    cloud.store.write(|tx| {
        let row = group_for(tx, caller, Right::Use, id)?;
        valid_name(name, ObjectKind::SecurityGroup)?;
        insert(cloud, tx, caller, name.into(), &view::stored(&row.template))
    })
}

/// `one.secgroup.delete`.
///
/// # Errors
/// Not authorised (MANAGE); the default group; a group that VMs or networks use.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        group_for(tx, caller, Right::Manage, id)?;
        if id == DEFAULT {
            return Err(Refusal::Action("The default security group (ID 0) cannot be deleted.".into()));
        }
        if let Some(vms) = view::group_users(tx)?.get(&id) {
            return Err(Refusal::Action(format!(
                "The security group is in use by {} VMs; VM {} is one.",
                vms.len(),
                vms[0]
            )));
        }
        let networks = tx.network_list()?;
        if let Some(network) = networks.iter().find(|row| view::definition(row).security_groups.contains(&id)) {
            let reason = format!("The security group is in use by virtual network {}; update that first.", network.id);
            return Err(Refusal::Action(reason));
        }
        session::forget_rules(tx, ObjectKind::SecurityGroup, id)?;
        tx.security_group_delete(id)?;
        Ok(id)
    })
}

/// `one.secgroup.info`.
///
/// # Errors
/// Not authorised (USE), unknown group.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let row: SecurityGroupRow = owned::to_show(tx, caller, id)?;
        let names = view::Names::read(tx)?;
        let vms = view::group_users(tx)?.remove(&id).unwrap_or_default();
        Ok(doc::security_group(&view::security_group(&names, &row, vms)))
    })
}

/// `one.secgrouppool.info`.
///
/// # Errors
/// A bad filter.
pub fn pool(cloud: &Cloud, caller: &Caller, flag: i64, start: i64, end: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, start, end)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut users = view::group_users(tx)?;
        let mut pool = doc::Pool::begin("SECURITY_GROUP_POOL");
        for row in filter.select(caller, tx.security_group_list()?) {
            let vms = users.remove(&row.id).unwrap_or_default();
            pool.push_document(&doc::security_group(&view::security_group(&names, &row, vms)));
        }
        Ok(pool.finish())
    })
}

/// `one.secgroup.update`: the rules; the VMs of the group get them at once.
///
/// # Errors
/// Not authorised (MANAGE), rules that are none, more rules than a VM can have.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = group_for(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        let mut template = attributes::updated(cloud, caller, ObjectKind::SecurityGroup, &old, &new, kind)?;
        template.remove("NAME");
        row.template = checked(&template)?.to_text();
        tx.security_group_update(&row)?;
        refresh(tx, id)
    })
}

/// `one.secgroup.commit`: writes the rules into the VMs again. They have them already unless the ranges of a network that a
/// rule names have changed.
///
/// # Errors
/// Not authorised (MANAGE).
pub fn commit(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        group_for(tx, caller, Right::Manage, id)?;
        refresh(tx, id)
    })
}

fn refresh(tx: &mut Tx<'_>, id: i64) -> Result<i64, Refusal> {
    for vm_id in view::group_users(tx)?.remove(&id).unwrap_or_default() {
        let mut vm = tx.vm(vm_id)?;
        let mut system = view::stored(&vm.template);
        write_rules(tx, &mut system)?;
        vm.template = system.to_text();
        tx.vm_update(&vm)?;
    }
    Ok(id)
}
