//! Virtual networks: what they are made of, their address ranges, holds and reservations.
//!
//! What takes no time has no state in between: a network is READY at once. Only `dummy` ones whose range has no positive
//! SIZE are made in ERROR, as the original's dummy driver fails them, so that clients can try `recover`.
//!
//! Invariants: an address is given once (the key of table `lease`); the addresses of a reservation are leases of its
//! parent as long as the reservation has them.

use std::collections::BTreeSet;

use one_core::access::{Caller, may_create};
use one_core::doc;
use one_core::network::address::Mac;
use one_core::network::definition::{Definition, LIBVIRT_NETWORK, define};
use one_core::network::lease::{self, Place, Scope};
use one_core::network::range::{AddressRange, MacSource};
use one_core::network::ranges as ar;
use one_core::network::reservation::{self, Request, Target};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::{Template, Value};

use super::pool::PoolFilter;
use super::view::{self, Leases, Sight};
use super::vm_nics::READY;
use super::{Cloud, attributes, cluster, owned, parse, vdc};
use crate::session;
use crate::store::Tx;
use crate::store::networks::HOLDER_HOLD;
use crate::store::rows::{LeaseRow, NetworkRow, SecurityGroupRow};

/// STATE of a network whose driver failed.
const ERROR: i64 = 5;

/// Attributes of a network and its ranges that reach into the host and are not in the original's list.
const HOST: [&str; 3] = [LIBVIRT_NETWORK, "BRIDGE_TYPE", "OUTER_VLAN_ID"];

fn network_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<NetworkRow, Refusal> {
    owned::to_use(tx, caller, right, id)
}

fn allocation(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Internal(reason) => Refusal::Allocate { kind: ObjectKind::Network, reason },
        other => other,
    }
}

/// `one.vn.allocate`: makes a network in a cluster (−1 = the default one); returns its id.
///
/// # Errors
/// Not authorised (CREATE; ADMIN on a named cluster; USE on security groups), attributes that make no network, a taken name.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str, cluster_id: i64) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Network)?;
    // Who may create networks sets what reaches into the host too: the list of restricted attributes is for later.
    let mut template = attributes::bounded(attributes::sealed(cloud, ObjectKind::Network, &parse(text)?, None)?)?;
    cloud.store.write(|tx| {
        if cluster_id >= 0 {
            cluster::cluster_for(tx, caller, Right::Admin, cluster_id)?;
        }
        let id = tx.next_id("network")?;
        let state = if take_failing_ranges(&mut template) { ERROR } else { READY };
        let vlans = used_vlans(cloud, tx)?;
        let made = with_macs(cloud, tx, |macs| define(&template, id, &vlans, macs));
        let (definition, ranges) = made.map_err(allocation)?;
        check_groups(tx, caller, &definition, &BTreeSet::from([0]))?;
        check_name(tx, caller, &definition.name)?;
        let mut row = new_row(cloud, caller, id, &definition, cluster_id.max(0).to_string());
        row.state = state;
        view::set_ranges(&mut row, &ranges)?;
        tx.network_insert(&row)?;
        Ok(id)
    })
}

/// Takes the ranges away that the original's dummy driver fails on, and says whether there were any.
fn take_failing_ranges(template: &mut Template) -> bool {
    if !template.scalar("VN_MAD").is_some_and(|driver| driver.eq_ignore_ascii_case("dummy")) {
        return false;
    }
    let fails =
        |value: &Value| matches!(value, Value::Vector(range) if range.int("SIZE").is_some_and(|size| size <= 0));
    let (failing, good): (Vec<_>, Vec<_>) = template.remove("AR").into_iter().partition(fails);
    for value in good {
        match value {
            Value::Vector(range) => template.push_vector("AR", range),
            Value::Scalar(text) => template.push("AR", text),
        }
    }
    !failing.is_empty()
}

fn new_row(cloud: &Cloud, caller: &Caller, id: i64, definition: &Definition, clusters: String) -> NetworkRow {
    let mut row = NetworkRow {
        id,
        uid: caller.uid,
        gid: caller.gid,
        name: definition.name.clone(),
        permissions: cloud.new_permissions(caller).to_i64(),
        clusters,
        parent_id: None,
        vn_mad: String::new(),
        bridge: String::new(),
        state: READY,
        prev_state: 0,
        auto_vlan: String::new(),
        auto_outer_vlan: String::new(),
        ranges: String::new(),
        lock: String::new(),
        template: String::new(),
    };
    view::set_definition(&mut row, definition);
    row
}

fn check_name(tx: &mut Tx<'_>, caller: &Caller, name: &str) -> Result<(), Refusal> {
    match tx.network_by_name(caller.uid, name)? {
        Some(other) => Err(Refusal::NameTaken { kind: ObjectKind::Network, other_id: other.id }),
        None => Ok(()),
    }
}

/// USE on each security group that a network names and did not name before.
fn check_groups(
    tx: &mut Tx<'_>,
    caller: &Caller,
    definition: &Definition,
    before: &BTreeSet<i64>,
) -> Result<(), Refusal> {
    for group in definition.security_groups.difference(before) {
        owned::to_use::<SecurityGroupRow>(tx, caller, Right::Use, *group)?;
    }
    Ok(())
}

/// VLANs that an automatic network must not take.
fn used_vlans(cloud: &Cloud, tx: &mut Tx<'_>) -> Result<BTreeSet<i64>, Refusal> {
    let ids = &cloud.config.vlan_ids;
    let reserved = (0..4095_u16).filter(|id| *id < ids.start || ids.is_reserved(*id)).map(i64::from);
    let mut used: BTreeSet<i64> = reserved.collect();
    for row in tx.network_list()? {
        used.extend(view::definition(&row).vlan_id.parse::<i64>());
    }
    Ok(used)
}

/// Runs `work` with the source of made-up MACs, and keeps what it used.
fn with_macs<T>(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    work: impl FnOnce(&mut MacSource) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let next = tx.next_ids("mac", 0)?;
    let mut macs = MacSource {
        prefix: u16::from_be_bytes(cloud.config.mac_prefix),
        // More than there are: the range then runs past the last MAC, which is refused.
        low: u32::try_from(next).unwrap_or(u32::MAX),
    };
    let made = work(&mut macs)?;
    tx.reserve_ids("mac", macs.low.into())?;
    Ok(made)
}

/// A MAC for a card of no virtual network.
///
/// # Errors
/// The database's failure.
pub fn generated_mac(cloud: &Cloud, tx: &mut Tx<'_>) -> Result<String, Refusal> {
    with_macs(cloud, tx, |macs| {
        let mac = Mac::new(macs.prefix, macs.low);
        macs.low = macs.low.saturating_add(1);
        Ok(mac.to_string())
    })
}

/// `one.vn.info`; `decrypt` shows secrets to administrators.
///
/// # Errors
/// Not authorised (USE), unknown network; a secret that the daemon's key does not open.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: NetworkRow = owned::to_show(tx, caller, id)?;
        attributes::reveal_network(cloud, caller, decrypt, &mut row)?;
        let names = view::Names::read(tx)?;
        let mut sight = Sight::new(caller, &row);
        Ok(doc::network(&view::network(tx, &names, &row, &mut sight, true)?))
    })
}

/// `one.vnpool.info`.
///
/// # Errors
/// A bad filter.
pub fn pool(cloud: &Cloud, caller: &Caller, flag: i64, start: i64, end: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, start, end)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut pool = doc::Pool::begin("VNET_POOL");
        for row in filter.select(caller, tx.network_list()?) {
            let mut sight = Sight::new(caller, &row);
            pool.push_document(&doc::network_short(&view::network(tx, &names, &row, &mut sight, false)?));
        }
        Ok(pool.finish())
    })
}

/// `one.vn.delete`: forgets a network without leases; a reservation gives its addresses back to its parent.
///
/// # Errors
/// Not authorised (MANAGE), unknown network, addresses in use.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        network_for(tx, caller, Right::Manage, id)?;
        remove(tx, id)
    })
}

fn remove(tx: &mut Tx<'_>, id: i64) -> Result<i64, Refusal> {
    let used: i64 = tx.lease_counts(id)?.iter().map(|(_, used)| used).sum();
    ar::may_delete(id, used.unsigned_abs())?;
    tx.reservation_release(id)?;
    vdc::forget(tx, ObjectKind::Network, id)?;
    session::forget_rules(tx, ObjectKind::Network, id)?;
    tx.network_delete(id)?;
    Ok(id)
}

/// `one.vn.update`: the template; name and ranges stay. Machines follow when their cards are bound anew.
///
/// # Errors
/// Not authorised (MANAGE; USE on new security groups), restricted attributes, attributes that make no network.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = network_for(tx, caller, Right::Manage, id)?;
        let old = view::definition(&row);
        let mut template = attributes::updated(cloud, caller, ObjectKind::Network, &old.template, &new, kind)?;
        keep_host_attributes(caller, &old.template, &mut template)?;
        let definition = old.updated(template)?;
        check_groups(tx, caller, &definition, &old.security_groups)?;
        view::set_definition(&mut row, &definition);
        tx.network_update(&row)?;
        Ok(id)
    })
}

/// What reaches into the host and is not listed stays what it is too, unless an administrator changes it.
fn keep_host_attributes(caller: &Caller, old: &Template, new: &mut Template) -> Result<(), Refusal> {
    if caller.is_admin() {
        return Ok(());
    }
    for name in HOST {
        let value = old.scalar(name).unwrap_or_default();
        match new.scalar(name) {
            Some(other) if other != value => {
                return Err(Refusal::RestrictedAttribute { user: caller.uid, attribute: name.into() });
            }
            None if !value.is_empty() => new.set(name, value),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses keys of an AR that reach into the host to all but administrators.
fn check_range_attributes(cloud: &Cloud, caller: &Caller, template: &Template) -> Result<(), Refusal> {
    if caller.is_admin() {
        return Ok(());
    }
    let listed = cloud.config.restricted(ObjectKind::Network);
    let keys: Vec<&str> = template.vectors("AR").flat_map(|range| range.iter().map(|(key, _)| key)).collect();
    match keys.iter().find(|key| listed.holds("AR", Some(key)) || HOST.contains(key)) {
        Some(key) => Err(Refusal::RestrictedAttribute { user: caller.uid, attribute: format!("AR/{key}") }),
        None => Ok(()),
    }
}

/// `one.vn.hold`: keeps an address from being given out.
///
/// # Errors
/// Not authorised (MANAGE), an address that is in use or not of this network.
pub fn hold(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let wish = parse(text)?;
    cloud.store.write(|tx| {
        let row = network_for(tx, caller, Right::Manage, id)?;
        let ranges = view::ranges(&row);
        let place = lease::hold(Scope { id, ranges: &ranges }, &wish, &mut Leases { tx, network_id: id })?;
        tx.lease_insert(&LeaseRow {
            network_id: id,
            range_id: place.ar_id,
            place: place.index.into(),
            holder: HOLDER_HOLD.into(),
            holder_id: -1,
            nic_id: -1,
        })?;
        Ok(id)
    })
}

/// `one.vn.release`: ends a hold.
///
/// # Errors
/// Not authorised (MANAGE), an address that is not on hold.
pub fn release(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let wish = parse(text)?;
    cloud.store.write(|tx| {
        let row = network_for(tx, caller, Right::Manage, id)?;
        let ranges = view::ranges(&row);
        let place = lease::release(Scope { id, ranges: &ranges }, &wish, &mut Leases { tx, network_id: id })?;
        tx.lease_delete(id, place.ar_id, place.index)?;
        Ok(id)
    })
}

/// `one.vn.add_ar`: adds an address range.
///
/// # Errors
/// Not authorised (ADMIN), a range that is none or shares addresses with another.
pub fn add_range(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let wish = attributes::sealed(cloud, ObjectKind::Network, &parse(text)?, None)?;
    cloud.store.write(|tx| {
        let mut row = network_for(tx, caller, Right::Admin, id)?;
        check_range_attributes(cloud, caller, &wish)?;
        let mut ranges = view::ranges(&row);
        let new = with_macs(cloud, tx, |macs| ar::added(&ranges, &wish, macs))?;
        ranges.push(new);
        view::set_ranges(&mut row, &ranges)?;
        tx.network_update(&row)?;
        Ok(id)
    })
}

/// `one.vn.update_ar`: changes size and free attributes of an address range.
///
/// # Errors
/// Not authorised (MANAGE), no such range, restricted attributes, used addresses that would fall outside.
pub fn update_range(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let wish = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = network_for(tx, caller, Right::Manage, id)?;
        check_range_attributes(cloud, caller, &wish)?;
        let mut ranges = view::ranges(&row);
        let wish = sealed_range(cloud, &ranges, &wish)?;
        let wish = if caller.is_admin() { wish } else { with_kept_keys(cloud, &ranges, &wish) };
        let new = ar::updated(&ranges, &wish, |ar_id| Ok(tx.lease_last(id, ar_id)?))?;
        ranges.iter_mut().filter(|range| range.ar_id() == new.ar_id()).for_each(|range| *range = new.clone());
        view::set_ranges(&mut row, &ranges)?;
        tx.network_update(&row)?;
        Ok(id)
    })
}

/// The change of a range with its secrets sealed, or kept where it has stars.
fn sealed_range(cloud: &Cloud, ranges: &[AddressRange], wish: &Template) -> Result<Template, Refusal> {
    let named = wish.vector("AR").and_then(|change| change.int("AR_ID"));
    let mut old = Template::new();
    if let Some(range) = ranges.iter().find(|range| Some(range.ar_id()) == named) {
        old.push_vector("AR", range.attributes().clone());
    }
    attributes::sealed(cloud, ObjectKind::Network, wish, Some(&old))
}

/// The change of a range with the keys that only administrators set, and so only they remove.
fn with_kept_keys(cloud: &Cloud, ranges: &[AddressRange], wish: &Template) -> Template {
    let Some(mut change) = wish.vector("AR").cloned() else { return wish.clone() };
    let listed = cloud.config.restricted(ObjectKind::Network);
    let old = ranges.iter().find(|range| change.int("AR_ID") == Some(range.ar_id()));
    for (key, value) in old.into_iter().flat_map(|range| range.attributes().iter()) {
        if listed.holds("AR", Some(key)) || HOST.contains(&key) {
            change.set(key, value);
        }
    }
    let mut kept = Template::new();
    kept.set_vector("AR", change);
    kept
}

/// `one.vn.rm_ar`: removes an address range; with `force` also one with leases.
///
/// # Errors
/// Not authorised (ADMIN), no such range, addresses in use.
pub fn remove_range(cloud: &Cloud, caller: &Caller, id: i64, ar_id: i64, force: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = network_for(tx, caller, Right::Admin, id)?;
        take_range(tx, row, ar_id, force)
    })
}

/// `one.vn.free_ar`: gives a range of a reservation back.
///
/// # Errors
/// Not authorised (MANAGE), no such range, one that was not reserved, addresses in use.
pub fn free_range(cloud: &Cloud, caller: &Caller, id: i64, ar_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = network_for(tx, caller, Right::Manage, id)?;
        if row.parent_id.is_none() {
            return Err(Refusal::Action(format!("Virtual network {id} is not a reservation; use rm_ar.")));
        }
        take_range(tx, row, ar_id, false)
    })
}

fn take_range(tx: &mut Tx<'_>, mut row: NetworkRow, ar_id: i64, force: bool) -> Result<i64, Refusal> {
    let mut ranges = view::ranges(&row);
    let used = tx.lease_counts(row.id)?.into_iter().find(|(range, _)| *range == ar_id);
    ar::may_remove(&ranges, ar_id, used.map_or(0, |(_, used)| used.unsigned_abs()), force)?;
    tx.leases_of_range_delete(row.id, ar_id)?;
    if let Some(parent) = row.parent_id.map(|id| tx.network_find(id)).transpose()?.flatten() {
        let of_parent = view::ranges(&parent);
        let scope = Scope { id: parent.id, ranges: &of_parent };
        for range in ranges.iter().filter(|range| range.ar_id() == ar_id) {
            if let Some(Place { ar_id, index }) = reservation::origin(scope, range) {
                tx.lease_delete_run((parent.id, ar_id), index, range.size(), row.id)?;
            }
        }
    }
    ranges.retain(|range| range.ar_id() != ar_id);
    view::set_ranges(&mut row, &ranges)?;
    tx.network_update(&row)?;
    Ok(row.id)
}

/// `one.vn.reserve`: takes addresses out of a network into a new one, or into a reservation that is there; returns its id.
///
/// # Errors
/// Not authorised (USE; MANAGE on a reservation that grows), restricted attributes, not enough addresses, a taken name.
pub fn reserve(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let template = parse(text)?;
    cloud.store.write(|tx| {
        let parent = network_for(tx, caller, Right::Use, id)?;
        attributes::check(cloud, caller, ObjectKind::Network, None, &template)?;
        let request = Request::parse(&template)?;
        let mut target = match &request.target {
            Target::New(name) => {
                let definition = view::definition(&parent).reservation(name)?;
                check_name(tx, caller, name)?;
                let new_id = tx.next_id("network")?;
                let mut row = new_row(cloud, caller, new_id, &definition, parent.clusters.clone());
                row.parent_id = Some(id);
                view::set_ranges(&mut row, &[])?;
                tx.network_insert(&row)?;
                row
            }
            Target::Extend(target) => {
                let row = network_for(tx, caller, Right::Manage, *target)?;
                if row.parent_id != Some(id) {
                    let reason = format!("Virtual network {target} is not a reservation from virtual network {id}.");
                    return Err(Refusal::Action(reason));
                }
                row
            }
        };
        let of_parent = view::ranges(&parent);
        let mut ranges = view::ranges(&target);
        let scope = Scope { id, ranges: &of_parent };
        let new_ar_id = ar::next_ar_id(&ranges)?;
        let mut leases = Leases { tx, network_id: id };
        let reserved = reservation::reserve(scope, parent.parent_id.is_some(), &request, new_ar_id, &mut leases)?;
        let Place { ar_id, index } = reserved.place;
        tx.lease_insert_run((id, ar_id), index, reserved.range.size(), target.id)?;
        ranges.push(reserved.range);
        view::set_ranges(&mut target, &ranges)?;
        tx.network_update(&target)?;
        Ok(target.id)
    })
}

/// `one.vn.recover`: 0 failure, 1 success, 2 delete, 3 retry. Only a network in ERROR has something to recover from.
///
/// # Errors
/// Not authorised (ADMIN), wrong number, wrong state.
pub fn recover(cloud: &Cloud, caller: &Caller, id: i64, operation: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = network_for(tx, caller, Right::Admin, id)?;
        if !(0..=3).contains(&operation) {
            return Err(Refusal::RecoverOperation);
        }
        if row.state != ERROR {
            return Err(Refusal::Action(format!(
                "Recover is not available for virtual network {id}: it is not in ERROR."
            )));
        }
        match operation {
            0 => {}
            2 => return remove(tx, id),
            _ => {
                (row.prev_state, row.state) = (row.state, READY);
                tx.network_update(&row)?;
            }
        }
        Ok(id)
    })
}
