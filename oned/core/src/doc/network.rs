//! `VNET`: a virtual network with its ranges (`one.vn.info`), and the shorter form of `VNET_POOL` (`one.vnpool.info`).
//!
//! The schemas list no BRIDGE, PHYDEV, SECURITY_GROUPS, PREFIX_LENGTH, IPAM_MAD or free attributes in AR, nor the IPv6
//! of static ranges in the pool; the original shows them all the same, and so do we, between the start of a range and
//! its end addresses.

use super::writer::{Writer, element_name};
use super::{Lock, Owner};
use crate::access::Permissions;
use crate::network::definition::Definition;
use crate::network::lease::LeaseOwner;
use crate::network::range::AddressRange;

/// What the document of a virtual network shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkView {
    /// Network id.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Lock, if any.
    pub lock: Option<Lock>,
    /// The nine permission bits.
    pub permissions: Permissions,
    /// Clusters it belongs to.
    pub clusters: Vec<i64>,
    /// STATE number: INIT 0, READY 1, LOCK_CREATE 2, LOCK_DELETE 3, DONE 4, ERROR 5, UPDATE_FAILURE 6.
    pub state: i32,
    /// The state before.
    pub prev_state: i32,
    /// The network that it was reserved from.
    pub parent_network_id: Option<i64>,
    /// The network template that it was made from.
    pub template_id: Option<i64>,
    /// Name, bridge, driver, VLANs and template.
    pub definition: Definition,
    /// Virtual routers attached to it.
    pub vrouters: Vec<i64>,
    /// VMs whose NICs follow the network as it is now.
    pub updated_vms: Vec<i64>,
    /// VMs that wait for an update.
    pub outdated_vms: Vec<i64>,
    /// VMs being updated.
    pub updating_vms: Vec<i64>,
    /// VMs whose update failed.
    pub error_vms: Vec<i64>,
    /// The ranges.
    pub ranges: Vec<RangeView>,
}

/// What is shown of one range (`AR`).
#[derive(Clone, Debug, PartialEq)]
pub struct RangeView {
    /// The range itself.
    pub range: AddressRange,
    /// How many of its addresses are in use, those included that the caller may not see.
    pub used_leases: u64,
    /// The index that is given out next; the size when none is free.
    pub next_index: u32,
    /// The leases that the caller may see: index and who has it.
    pub leases: Vec<(u32, LeaseOwner)>,
}

/// Keys of AR in the order of the schema, before the generated ones.
const AR_KEYS: [&str; 13] = [
    "AR_ID",
    "CVLANS",
    "GLOBAL_PREFIX",
    "IP",
    "MAC",
    "NEXT_INDEX",
    "PARENT_NETWORK_AR_ID",
    "SHARED",
    "SIZE",
    "TYPE",
    "VLAN_ID",
    "ULA_PREFIX",
    "VN_MAD",
];

/// Keys of AR that the full form shows behind the generated ones.
const AR_LATE: [&str; 3] = ["IP6", "PORT_START", "PORT_SIZE"];

/// The full document (`one.vn.info`), with leases.
pub fn network(view: &NetworkView) -> String {
    document(view, true)
}

/// An element of VNET_POOL: ranges without leases and end addresses.
pub fn network_short(view: &NetworkView) -> String {
    document(view, false)
}

fn document(view: &NetworkView, full: bool) -> String {
    let mut w = Writer::new();
    let definition = &view.definition;
    let id = |id: Option<i64>| id.map(|id| id.to_string()).unwrap_or_default();
    w.open("VNET");
    w.number("ID", view.id);
    w.owner(&view.owner);
    w.text("NAME", &definition.name);
    w.lock(view.lock.as_ref());
    w.permissions(&view.permissions);
    w.ids("CLUSTERS", &view.clusters);
    w.text("BRIDGE", &definition.bridge);
    w.text("BRIDGE_TYPE", &definition.bridge_type);
    w.number("STATE", view.state);
    w.number("PREV_STATE", view.prev_state);
    w.text("PARENT_NETWORK_ID", &id(view.parent_network_id));
    w.text("TEMPLATE_ID", &id(view.template_id));
    w.text("VN_MAD", &definition.vn_mad);
    w.text("PHYDEV", &definition.phydev);
    w.text("VLAN_ID", &definition.vlan_id);
    w.text("OUTER_VLAN_ID", &definition.outer_vlan_id);
    w.flag("VLAN_ID_AUTOMATIC", definition.vlan_id_automatic);
    w.flag("OUTER_VLAN_ID_AUTOMATIC", definition.outer_vlan_id_automatic);
    let used = view.ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.used_leases));
    w.number("USED_LEASES", used);
    w.ids("VROUTERS", &view.vrouters);
    w.ids("UPDATED_VMS", &view.updated_vms);
    w.ids("OUTDATED_VMS", &view.outdated_vms);
    w.ids("UPDATING_VMS", &view.updating_vms);
    w.ids("ERROR_VMS", &view.error_vms);
    w.template("TEMPLATE", &definition.template);
    w.open("AR_POOL");
    for range in &view.ranges {
        address_range(&mut w, range, full);
    }
    w.close("AR_POOL");
    w.close("VNET");
    w.finish()
}

fn address_range(w: &mut Writer, view: &RangeView, full: bool) {
    let vector = view.range.to_vector();
    w.open("AR");
    for key in AR_KEYS {
        match (key, vector.get(key)) {
            ("NEXT_INDEX", _) => w.number(key, view.next_index),
            ("SIZE", _) => w.number(key, view.range.size()),
            (_, Some(value)) => w.text(key, value),
            (_, None) => {}
        }
    }
    let mut extra: Vec<_> = vector.iter().collect();
    extra.retain(|(key, _)| !(AR_KEYS.contains(key) || full && AR_LATE.contains(key)));
    extra.sort_unstable();
    for (key, value) in extra {
        if let Some(name) = element_name(key) {
            w.text(&name, value);
        }
    }
    if full {
        ends(w, &view.range);
        for key in ["PORT_START", "PORT_SIZE"] {
            if let Some(value) = vector.get(key) {
                w.text(key, value);
            }
        }
        w.text("USED_LEASES", &view.used_leases.to_string());
        leases(w, view);
    }
    w.close("AR");
}

/// First and last addresses, which the range itself does not hold.
fn ends(w: &mut Writer, range: &AddressRange) {
    let (Some(first), Some(last)) = (range.addresses(0), range.addresses(range.size().saturating_sub(1))) else {
        return;
    };
    let mut text = |key, value: Option<String>| {
        if let Some(value) = value {
            w.text(key, &value);
        }
    };
    let v6 = |ip: Option<core::net::Ipv6Addr>| ip.map(|ip| ip.to_string());
    text("MAC_END", Some(last.mac.to_string()));
    text("IP_END", last.ip.map(|ip| ip.to_string()));
    text("IP6_ULA", v6(first.ip6_ula));
    text("IP6_ULA_END", v6(last.ip6_ula));
    text("IP6_GLOBAL", v6(first.ip6_global));
    text("IP6_GLOBAL_END", v6(last.ip6_global));
    text("IP6", v6(first.ip6));
    text("IP6_END", v6(last.ip6));
}

fn leases(w: &mut Writer, view: &RangeView) {
    w.open("LEASES");
    for (index, owner) in &view.leases {
        let Some(addresses) = view.range.addresses(*index) else { continue };
        w.open("LEASE");
        let mut pairs = addresses.pairs();
        pairs.sort_unstable();
        for (key, value) in pairs {
            w.text(key, &value);
        }
        let (kind, id) = owner.shown();
        w.number(kind, id);
        w.close("LEASE");
    }
    w.close("LEASES");
}
