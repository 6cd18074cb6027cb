//! Hosts. They belong to nobody: administrators may everything, others what access rules give them.

use one_core::access::{Caller, may, may_create, valid_name};
use one_core::doc;
use one_core::lifecycle::HostState;
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::accounting::Period;
use super::{Cloud, attributes, cluster, parse, unowned, vdc, view};
use crate::session;
use crate::store::rows::HostRow;
use crate::store::{Release, Tx, VmFilter};

/// Drivers of hosts: hardware virtualisation, and full emulation for machines without it.
const DRIVERS: [&str; 2] = ["kvm", "qemu"];
/// The driver that only pretends.
const DUMMY: &str = "dummy";

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

fn refuse<T>(reason: String) -> Result<T, Refusal> {
    Err(Refusal::Allocate { kind: ObjectKind::Host, reason })
}

fn check_driver(cloud: &Cloud, attribute: &str, driver: &str) -> Result<(), Refusal> {
    match driver {
        DUMMY if cloud.config.dummy_drivers => Ok(()),
        DUMMY => refuse(format!(
            "{attribute} \"dummy\" only pretends to run VMs; it is there when DUMMY_DRIVERS = YES in oned.conf."
        )),
        driver if DRIVERS.contains(&driver) => Ok(()),
        driver => {
            let known: String = driver.chars().take(32).collect();
            refuse(format!("{attribute} \"{known}\" is not known; use kvm, or qemu for emulation."))
        }
    }
}

/// `one.host.allocate`: adds a host, to be monitored from now on. Below 0 the cluster is the default one.
///
/// # Errors
/// Not authorised (CREATE, and ADMIN on the cluster); a bad or taken name; an unknown driver or cluster.
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
    for (attribute, driver) in [("IM_MAD", im_mad), ("VM_MAD", vm_mad)] {
        check_driver(cloud, attribute, driver)?;
    }
    if (im_mad == DUMMY) != (vm_mad == DUMMY) {
        return refuse("The driver dummy knows no real host: give it as both IM_MAD and VM_MAD, or as neither.".into());
    }
    let id = cloud.store.write(|tx| {
        let cluster_id = if cluster < 0 { 0 } else { cluster };
        cluster::cluster_for(tx, caller, Right::Admin, cluster_id)?;
        if let Some(other) = tx.host_by_name(name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::Host, other_id: other.id });
        }
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

/// The hosts that the caller may look at, by id.
fn seen(tx: &mut Tx<'_>, caller: &Caller) -> Result<Vec<HostRow>, Refusal> {
    Ok(tx.host_list()?.into_iter().filter(|row| may(caller, Right::Use, &object(row)).is_ok()).collect())
}

/// `one.host.monitoring`: the samples of a host, oldest first.
///
/// # Errors
/// Unknown host; not authorised (USE).
pub fn monitoring(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        host_for(tx, caller, Right::Use, id)?;
        let mut pool = doc::Pool::begin("MONITORING_DATA");
        push_samples(tx, &mut pool, id, Period(-1), cloud.clock.now())?;
        Ok(pool.finish())
    })
}

/// `one.hostpool.monitoring`: the samples of the hosts that the caller may look at.
///
/// # Errors
/// The database's failure.
pub fn pool_monitoring(cloud: &Cloud, caller: &Caller, seconds: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut pool = doc::Pool::begin("MONITORING_DATA");
        for row in seen(tx, caller)? {
            push_samples(tx, &mut pool, row.id, Period(seconds), cloud.clock.now())?;
        }
        Ok(pool.finish())
    })
}

fn push_samples(tx: &mut Tx<'_>, pool: &mut doc::Pool<'_>, id: i64, period: Period, now: i64) -> Result<(), Refusal> {
    for row in period.samples(tx, "HOST", id, now)? {
        pool.push(&doc::HostSample { host: id, seen: &view::host_sample(&row) });
    }
    Ok(())
}

/// `one.host.status`: 0 monitors it and places VMs there, 1 only monitors it, 2 leaves it alone.
///
/// # Errors
/// Not authorised (ADMIN), unknown host, another number.
pub fn status(cloud: &Cloud, caller: &Caller, id: i64, status: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = host_for(tx, caller, Right::Admin, id)?;
        let resting = [HostState::Disabled.number(), HostState::Offline.number()];
        let state = match status {
            0 if resting.contains(&row.state) => HostState::Init.number(),
            0 => row.state,
            1 => HostState::Disabled.number(),
            2 => HostState::Offline.number(),
            _ => return Err(Refusal::Api("Wrong status code: 0 enables, 1 disables, 2 sets offline".into())),
        };
        if row.state != state {
            row.prev_state = row.state;
            row.state = state;
        }
        // What it last said of itself is old news by the time that it is asked again.
        row.monitored_at = 0;
        tx.host_update(&row)?;
        Ok(())
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
        let mut pool = doc::Pool::begin("HOST_POOL");
        for row in seen(tx, caller)? {
            pool.push(&view::host(tx, &row)?);
        }
        Ok(pool.finish())
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
        tx.schedules_release(Release::All)?;
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
        vdc::forget(tx, ObjectKind::Host, id)?;
        session::forget_rules(tx, ObjectKind::Host, id)?;
        tx.samples_remove("HOST", id)?;
        tx.host_delete(id)?;
        Ok(id)
    })
}
