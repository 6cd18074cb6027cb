//! Hosts. They belong to nobody: administrators may everything, others what access rules give them.

use one_core::access::{Caller, may, may_create, valid_name};
use one_core::doc;
use one_core::lifecycle::HostState;
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::{Cloud, attributes, parse, unowned, view};
use crate::store::rows::HostRow;
use crate::store::{Tx, VmFilter};

/// Hypervisor drivers: hardware virtualisation, and full emulation for machines without it.
const VM_DRIVERS: [&str; 2] = ["kvm", "qemu"];

fn object(row: &HostRow) -> one_core::access::Object {
    unowned(ObjectKind::Host, row.id, vec![row.cluster_id])
}

/// The host, if the caller has the right on it.
///
/// # Errors
/// Unknown host, not authorised.
pub fn host_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<HostRow, Refusal> {
    let row = tx.host_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Host, id })?;
    may(caller, right, &object(&row))?;
    Ok(row)
}

/// `one.host.allocate`: adds a host, to be monitored from now on.
///
/// # Errors
/// Not authorised; a bad or taken name; an unknown driver or cluster.
pub fn allocate(
    cloud: &Cloud,
    caller: &Caller,
    name: &str,
    im_mad: &str,
    vm_mad: &str,
    cluster: i64,
) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Host)?;
    valid_name(name, ObjectKind::Host)?;
    let allocate = |reason: String| Refusal::Allocate { kind: ObjectKind::Host, reason };
    if !VM_DRIVERS.contains(&vm_mad) {
        return Err(allocate(format!("VM_MAD \"{vm_mad}\" is not known; use kvm, or qemu for emulation.")));
    }
    let id = cloud.store.write(|tx| {
        if let Some(other) = tx.host_by_name(name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::Host, other_id: other.id });
        }
        let cluster_id = if cluster < 0 { 0 } else { cluster };
        tx.cluster_find(cluster_id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Cluster, id: cluster_id })?;
        let id = tx.next_id("host")?;
        tx.host_insert(&HostRow {
            id,
            cluster_id,
            name: name.into(),
            state: HostState::Init.number(),
            prev_state: HostState::Init.number(),
            im_mad: im_mad.into(),
            vm_mad: vm_mad.into(),
            cpus: 0,
            memory_kb: 0,
            free_memory_kb: 0,
            monitored_at: 0,
            template: String::new(),
        })?;
        Ok(id)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.host.info`.
///
/// # Errors
/// Unknown host; not authorised (USE).
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    info_decrypt(cloud, caller, id, false)
}

/// The same with the flag `decrypt`, which shows secrets to administrators.
///
/// # Errors
/// As [`info`]; a secret that the daemon's key does not open.
pub fn info_decrypt(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row = host_for(tx, caller, Right::Use, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Host, &mut row.template)?;
        Ok(doc::host(&view::host(tx, &row)?))
    })
}

/// `one.hostpool.info`.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut documents = Vec::new();
        for row in tx.host_list()?.into_iter().filter(|row| may(caller, Right::Use, &object(row)).is_ok()) {
            documents.push(doc::host(&view::host(tx, &row)?));
        }
        Ok(doc::pool("HOST_POOL", documents.into_iter()))
    })
}

/// `one.host.update`: replaces or appends the host's attributes, e.g. LIBVIRT_URI.
///
/// # Errors
/// Not authorised, unknown host, a template that does not parse.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = host_for(tx, caller, Right::Admin, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Host, &old, &new, kind)?.to_text();
        // Asked again at once: the address may be another.
        row.monitored_at = 0;
        tx.host_update(&row)?;
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.host.rename`. The name is the host's address unless LIBVIRT_URI says otherwise.
///
/// # Errors
/// Not authorised, unknown host, a bad or taken name.
pub fn rename(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = host_for(tx, caller, Right::Admin, id)?;
        valid_name(name, ObjectKind::Host)?;
        if let Some(other) = tx.host_by_name(name)?.filter(|other| other.id != id) {
            return Err(Refusal::NameCollides { kind: ObjectKind::Host, name: name.into(), other_id: other.id });
        }
        row.name = name.into();
        row.monitored_at = 0;
        tx.host_update(&row)?;
        Ok(id)
    })
}

/// `one.host.delete`: forgets a host that runs nothing.
///
/// # Errors
/// Not authorised, unknown host, VMs on it.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        host_for(tx, caller, Right::Admin, id)?;
        let vms = tx.vms(VmFilter { host_id: Some(id), ..VmFilter::default() })?;
        if let Some(vm) = vms.first() {
            return Err(Refusal::Internal(format!(
                "Can not remove a host with VMs, e.g. VM {}. Terminate them first.",
                vm.id
            )));
        }
        tx.host_delete(id)?;
        Ok(id)
    })
}
