//! Network cards of VMs: from the wish in a template to a card with an address, and the calls that add, change and remove
//! cards and their security groups.
//!
//! A VM that does not run changes at once. To a running one the change is a job (`crate::engine`): the card stands in its
//! template from the beginning, marked with ATTACH, and its address is taken.
//!
//! Invariant: a VM has a lease for each of its NICs and aliases that is bound to a network, and no other. A NIC that no
//! virtual network is behind leads nowhere that its owner may not go: to QEMU's own network `user`, or, when an
//! administrator wrote it, to a bridge or libvirt network of the host.

use one_core::access::{Caller, may};
use one_core::lifecycle::actions::number;
use one_core::lifecycle::{LcmState, VmEvent, VmOperation, VmPhase, VmState};
use one_core::network::definition::{LIBVIRT_NETWORK, security_groups, security_groups_text};
use one_core::network::lease::{Scope, Wish, choose};
use one_core::network::nic::{self, Kind, NetworkChoice, NetworkOwner};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::{Template, Vector};

use super::view::{self, Leases};
use super::{Cloud, Owned, attributes, owned, parse, vm_for};
use crate::cards::{ATTACH, remove, write_rules};
use crate::job::{self, JobKind, JobSubject, NicPlan};
use crate::ledger;
use crate::quota;
use crate::store::Tx;
use crate::store::networks::HOLDER_VM;
use crate::store::rows::{LeaseRow, NetworkRow, SecurityGroupRow, VmRow};

/// Most cards of one VM: as many slots as its machine has for them.
const NICS_MAX: usize = 28;

/// STATE of a network that gives addresses.
pub const READY: i64 = 1;

/// QEMU's own network, for which nobody needs rights.
const USER: &str = "user";

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Internal(reason.into()))
}

/// Binds all cards of a new VM: numbers, networks, addresses, rules of security groups. Leases are written.
///
/// # Errors
/// Not authorised (USE on a network or security group); [`Refusal::Allocate`] for what makes no card.
pub fn bind_all(
    tx: &mut Tx<'_>,
    caller: &Caller,
    vm_id: i64,
    system: &mut Template,
    default: Option<&Vector>,
) -> Result<(), Refusal> {
    let bound = (|| {
        check_count(system)?;
        system.vectors_mut("NIC").for_each(|card| *card = nic::with_default(card, default));
        nic::number_all(system)?;
        for kind in [Kind::Nic, Kind::Alias] {
            for card in system.vectors_mut(kind.name()) {
                *card = bind(tx, caller, (vm_id, caller.uid), card)?;
            }
        }
        write_rules(tx, system)
    })();
    bound.map_err(|refusal| match refusal {
        Refusal::Internal(reason) => Refusal::Allocate { kind: ObjectKind::Vm, reason },
        other => other,
    })
}

fn check_count(system: &Template) -> Result<(), Refusal> {
    if system.vectors("NIC").count() > NICS_MAX {
        return refuse(format!("A VM can have at most {NICS_MAX} network cards."));
    }
    Ok(())
}

/// Binds one numbered card of a VM with that owner and writes its lease.
fn bind(tx: &mut Tx<'_>, caller: &Caller, (vm_id, owner): (i64, i64), wish: &Vector) -> Result<Vector, Refusal> {
    let nic_id = wish.int("NIC_ID").unwrap_or_default();
    let address = Wish::of_nic(wish)?;
    let Some(network) = network_of(tx, caller, owner, wish)? else {
        return unbound(caller, vm_id, nic_id, wish);
    };
    may(caller, Right::Use, &network.object())?;
    if network.state != READY {
        return refuse(format!("Virtual network {} is not in state READY; recover it first.", network.id));
    }
    let definition = view::definition(&network);
    // Those of the network come with it; a restored template names them too.
    for group in security_groups(wish.get("SECURITY_GROUPS").unwrap_or_default())? {
        if !definition.security_groups.contains(&group) {
            owned::to_use::<SecurityGroupRow>(tx, caller, Right::Use, group)?;
        }
    }
    let ranges = view::ranges(&network);
    let scope = Scope { id: network.id, ranges: &ranges };
    let place = choose(scope, address, &mut Leases { tx, network_id: network.id })?;
    tx.lease_insert(&LeaseRow {
        network_id: network.id,
        range_id: place.ar_id,
        place: place.index.into(),
        holder: HOLDER_VM.into(),
        holder_id: vm_id,
        nic_id,
    })?;
    let Some(range) = scope.range(place.ar_id) else {
        return refuse(format!("Virtual network {} has lost address range {}.", network.id, place.ar_id));
    };
    let owner_name = if network.uid == owner { None } else { tx.user_find(network.uid)?.map(|user| user.name) };
    let bound_to = nic::Network {
        id: network.id,
        parent: network.parent_id,
        clusters: &owned::ids(&network.clusters),
        owner_name: owner_name.as_deref(),
        definition: &definition,
    };
    nic::bind(wish, vm_id, nic_id, &bound_to, nic::Lease { range, index: place.index })
}

/// The network that a card asks for; none when it asks for no virtual network.
fn network_of(tx: &mut Tx<'_>, caller: &Caller, vm_owner: i64, wish: &Vector) -> Result<Option<NetworkRow>, Refusal> {
    let (name, owner) = match nic::network_choice(wish)? {
        NetworkChoice::Nothing => return Ok(None),
        NetworkChoice::Auto => {
            return refuse("NETWORK_MODE = auto is not available; name a network with NETWORK or NETWORK_ID.");
        }
        NetworkChoice::Id(id) => return tx.network_find(id)?.map(Some).ok_or_else(|| nic::no_network_with_id(id)),
        NetworkChoice::Name { name, owner } => (name, owner),
    };
    let uid = match owner {
        NetworkOwner::Caller => vm_owner,
        NetworkOwner::Id(uid) => uid,
        NetworkOwner::Name(name) => tx.user_by_name(&name)?.map_or(-1, |user| user.id),
    };
    match tx.network_by_name(uid, &name)? {
        Some(network) => Ok(Some(network)),
        None if name == USER => Ok(None),
        None if caller.is_admin() => refuse(format!(
            "{} A libvirt network of the host is named with LIBVIRT_NETWORK.",
            nic::no_network_named(uid, &name)
        )),
        None => Err(nic::no_network_named(uid, &name)),
    }
}

/// A card without a virtual network. Where it leads on the host is for administrators to say.
fn unbound(caller: &Caller, vm_id: i64, nic_id: i64, wish: &Vector) -> Result<Vector, Refusal> {
    for key in ["BRIDGE", LIBVIRT_NETWORK] {
        let named = wish.get(key).filter(|name| !name.is_empty() && *name != USER);
        if named.is_some() && !caller.is_admin() {
            return Err(Refusal::RestrictedAttribute { user: caller.uid, attribute: format!("NIC/{key}") });
        }
    }
    let mut card = wish.clone();
    card.set("TARGET", format!("one-{vm_id}-{nic_id}"));
    Ok(card)
}

/// In which states a card comes and goes without anybody being asked: the machine does not exist, or is off.
fn is_at_rest(phase: VmPhase) -> bool {
    matches!(phase.state, VmState::Pending | VmState::Hold | VmState::Poweroff | VmState::Undeployed)
}

/// What went wrong with a card of a VM that is there: upstream's code for it.
fn action(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Internal(reason) => Refusal::Action(reason),
        other => other,
    }
}

/// `one.vm.attachnic`: adds a NIC, or an alias of one (NIC_ALIAS with PARENT).
///
/// # Errors
/// Not authorised (MANAGE on the VM, USE on the network); no NIC in the text; no address; wrong state.
pub fn attach(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let wishes = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::NicAttach), id)?;
        attributes::check(cloud, caller, ObjectKind::Vm, None, &wishes)?;
        let (kind, wish) = match (wishes.vector("NIC"), wishes.vector("NIC_ALIAS")) {
            (Some(nic), _) => (Kind::Nic, nic),
            (None, Some(alias)) => (Kind::Alias, alias),
            (None, None) => return Err(Refusal::Action("No NIC or NIC_ALIAS attribute in the template.".into())),
        };
        let default = view::stored(&row.user_template).vector("NIC_DEFAULT").cloned().filter(|_| kind == Kind::Nic);
        let mut wish = nic::with_default(wish, default.as_ref());
        wish.remove(ATTACH);
        let at_once = is_at_rest(ledger::phase(&row)) || (kind == Kind::Alias && is_running(&row));
        let now = cloud.clock.now();
        if !at_once {
            ledger::vm_step(tx, &mut row, VmEvent::NicAttachStart, now)?;
        }
        let mut system = view::stored(&row.template);
        let card = add(cloud, tx, caller, &row, &mut system, (kind, &wish), at_once).map_err(action)?;
        row.template = system.to_text();
        quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
        let number = if kind == Kind::Nic { number::NIC_ATTACH } else { number::ALIAS_ATTACH };
        ledger::history_action(tx, id, number, caller.uid, caller.gid, now)?;
        if !at_once {
            add_job(tx, &row, JobKind::AttachNic, &card, caller.uid, now)?;
        }
        Ok(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn is_running(row: &VmRow) -> bool {
    ledger::phase(row) == VmPhase::active(LcmState::Running)
}

/// Adds a bound card to the template and gives it back.
fn add(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    row: &VmRow,
    system: &mut Template,
    (kind, wish): (Kind, &Vector),
    at_once: bool,
) -> Result<Vector, Refusal> {
    let nic_id = nic::add(system, kind, wish)?;
    check_count(system)?;
    let Some(card) = system.vectors_mut(kind.name()).find(|card| card.int("NIC_ID") == Some(nic_id)) else {
        return refuse("The new NIC has got no number.");
    };
    let mut bound = bind(tx, caller, (row.id, row.uid), card)?;
    if !at_once {
        // A card is told from the others of a running machine by its address.
        if bound.get("MAC").is_none_or(str::is_empty) {
            bound.set("MAC", super::network::generated_mac(cloud, tx)?);
        }
        bound.set(ATTACH, "YES");
    }
    *card = bound.clone();
    write_rules(tx, system)?;
    Ok(bound)
}

fn add_job(tx: &mut Tx<'_>, row: &VmRow, kind: JobKind, card: &Vector, uid: i64, now: i64) -> Result<(), Refusal> {
    let mut text = Template::new();
    text.set_vector("NIC", card.clone());
    let plan = NicPlan { nic_id: card.int("NIC_ID").unwrap_or(-1), nic: text.to_text() };
    let subject = JobSubject { vm_id: Some(row.id), host_id: row.host_id, uid, ..JobSubject::default() };
    job::add(tx, kind, subject, &plan, now)?;
    Ok(())
}

fn no_nic(nic_id: i64) -> Refusal {
    Refusal::Action(format!("NIC with NIC_ID {nic_id} does not exist"))
}

/// `one.vm.detachnic`: takes a NIC with its aliases, or one alias, out of a VM and frees their addresses.
///
/// # Errors
/// Not authorised (MANAGE), no such NIC, wrong state.
pub fn detach(cloud: &Cloud, caller: &Caller, id: i64, nic_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::NicAttach), id)?;
        let mut system = view::stored(&row.template);
        let is_alias = system.vectors("NIC_ALIAS").any(|card| card.int("NIC_ID") == Some(nic_id));
        let now = cloud.clock.now();
        if is_at_rest(ledger::phase(&row)) || (is_alias && is_running(&row)) {
            if !remove(tx, id, &mut system, nic_id)? {
                return Err(no_nic(nic_id));
            }
            row.template = system.to_text();
            quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
            let number = if is_alias { number::ALIAS_DETACH } else { number::NIC_DETACH };
            ledger::history_action(tx, id, number, caller.uid, caller.gid, now)?;
            return Ok(());
        }
        ledger::vm_step(tx, &mut row, VmEvent::NicDetachStart, now)?;
        let Some(card) = find(&mut system, nic_id) else { return Err(no_nic(nic_id)) };
        if card.get("MAC").is_none_or(str::is_empty) {
            return Err(Refusal::Action(format!(
                "NIC {nic_id} has no MAC by which the running machine knows it; power the VM off first."
            )));
        }
        card.set(ATTACH, "YES");
        let card = card.clone();
        row.template = system.to_text();
        quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
        ledger::history_action(tx, id, number::NIC_DETACH, caller.uid, caller.gid, now)?;
        add_job(tx, &row, JobKind::DetachNic, &card, caller.uid, now)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// The card of that number in a VM that is not changing its cards.
fn card_of(row: &VmRow, system: &mut Template, nic_id: i64, operation: &str) -> Result<(), Refusal> {
    let phase = ledger::phase(row);
    if !is_at_rest(phase) && !is_running(row) {
        return Err(Refusal::WrongState { action: operation.into(), state: phase.name().to_string() });
    }
    match find(system, nic_id) {
        Some(_) => Ok(()),
        None => Err(no_nic(nic_id)),
    }
}

fn find(system: &mut Template, nic_id: i64) -> Option<&mut Vector> {
    let kind = [Kind::Nic, Kind::Alias]
        .into_iter()
        .find(|kind| system.vectors(kind.name()).any(|card| card.int("NIC_ID") == Some(nic_id)))?;
    system.vectors_mut(kind.name()).find(|card| card.int("NIC_ID") == Some(nic_id))
}

/// Keys of a card that `one.vm.updatenic` leaves alone beside those that binding writes: they have calls of their own, or
/// would make it another card.
const FIXED: [&str; 13] = [
    "IP",
    "IP6",
    "MAC",
    "NAME",
    "PARENT",
    "NETWORK",
    "NETWORK_UNAME",
    "NETWORK_UID",
    "NETWORK_MODE",
    "SECURITY_GROUPS",
    "PARENT_ID",
    "ALIAS_IDS",
    ATTACH,
];

/// `one.vm.updatenic`: changes what a user may choose of a card (MODEL, bandwidths, FILTER …); address and network stay.
/// A running machine follows at its next boot.
///
/// # Errors
/// Not authorised (MANAGE), no such NIC, wrong state, restricted attributes.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, nic_id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    if !matches!(kind, 0 | 1) {
        return Err(Refusal::UpdateType);
    }
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::NicAttach), id)?;
        attributes::check(cloud, caller, ObjectKind::Vm, None, &new)?;
        let Some(change) = new.vector("NIC").or_else(|| new.vector("NIC_ALIAS")) else {
            return Err(Refusal::Action("No NIC attribute in the template.".into()));
        };
        let mut system = view::stored(&row.template);
        card_of(&row, &mut system, nic_id, "nic-update")?;
        let Some(card) = find(&mut system, nic_id) else { return Err(no_nic(nic_id)) };
        let chosen = |vector: &Vector| -> Vec<(String, String)> {
            let wish = nic::to_wish(vector, false);
            let pairs = wish.iter().filter(|(key, _)| !FIXED.contains(key));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        if kind == 0 {
            chosen(card).iter().for_each(|(key, _)| drop(card.remove(key)));
        }
        chosen(change).into_iter().for_each(|(key, value)| card.set(&key, value));
        row.template = system.to_text();
        quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
        let now = cloud.clock.now();
        ledger::history_action(tx, id, number::NIC_UPDATE, caller.uid, caller.gid, now)?;
        Ok(id)
    })
}

/// `one.vm.attachsg` and, unless `add`, `one.vm.detachsg`: changes the security groups of a card.
///
/// # Errors
/// Not authorised (MANAGE on the VM, USE on a group that is added), no such NIC or group, wrong state.
pub fn security_group(
    cloud: &Cloud,
    caller: &Caller,
    id: i64,
    nic_id: i64,
    group: i64,
    add: bool,
) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::SgAttach), id)?;
        if add {
            owned::to_use::<SecurityGroupRow>(tx, caller, Right::Use, group)?;
        }
        let mut system = view::stored(&row.template);
        let operation = if add { "sg-attach" } else { "sg-detach" };
        card_of(&row, &mut system, nic_id, operation)?;
        let Some(card) = find(&mut system, nic_id) else { return Err(no_nic(nic_id)) };
        let mut groups = security_groups(card.get("SECURITY_GROUPS").unwrap_or_default()).map_err(action)?;
        let changed = if add { groups.insert(group) } else { groups.remove(&group) };
        if !changed {
            let is = if add { "is already" } else { "is not" };
            return Err(Refusal::Action(format!("Security group {group} {is} attached to NIC {nic_id}.")));
        }
        card.set("SECURITY_GROUPS", security_groups_text(&groups));
        write_rules(tx, &mut system).map_err(action)?;
        row.template = system.to_text();
        quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
        let number = if add { number::SG_ATTACH } else { number::SG_DETACH };
        ledger::history_action(tx, id, number, caller.uid, caller.gid, cloud.clock.now())?;
        Ok(id)
    })
}
