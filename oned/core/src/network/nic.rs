//! NIC vectors of a VM: from the wish in a template to the card that is bound to a network, and back.
//!
//! What it is: which network a NIC asks for, how NICs and aliases are numbered and named, what the bound vector holds and
//! where its values come from. What it is not: it looks nothing up and leases nothing.
//!
//! Invariants: of what reaches into the host (bridge, driver, device, VLAN, libvirt network) nothing comes from the
//! wish; the address range overrules its network; an attribute that a user may choose (MODEL, MTU, filters …) is taken
//! from the NIC, then NIC_DEFAULT, then the range, then the network.

use std::collections::BTreeMap;

use super::definition::{Definition, LIBVIRT_NETWORK, security_groups, security_groups_text};
use super::range::AddressRange;
use super::refuse;
use crate::refusal::Refusal;
use crate::template::{Template, Value, Vector};

/// Most NICs and aliases of one VM.
pub const MAX_NICS: usize = 256;

/// Keys that binding writes and a wish never sets.
const BOUND: [&str; 19] = [
    "AR_ID",
    "BRIDGE",
    "BRIDGE_TYPE",
    "CLUSTER_ID",
    "EXTERNAL_PORT_RANGE",
    "INTERNAL_PORT_RANGE",
    "IP6_GLOBAL",
    "IP6_LINK",
    "IP6_ULA",
    LIBVIRT_NETWORK,
    "NETWORK_ID",
    "NIC_ID",
    "OUTER_VLAN_ID",
    "PARENT_NETWORK_ID",
    "PHYDEV",
    "TARGET",
    "VLAN_ID",
    "VLAN_TAGGED_ID",
    "VN_MAD",
];

/// Keys that number NICs and aliases.
const NUMBERS: [&str; 4] = ["NIC_ID", "PARENT_ID", "ALIAS_ID", "ALIAS_IDS"];

/// Attributes of a network or range that its NICs get unless they bring their own (INHERIT_VNET_ATTR of the original's
/// default configuration, and the bandwidth limits).
const INHERITED: [&str; 13] = [
    "VLAN_TAGGED_ID",
    "FILTER_IP_SPOOFING",
    "FILTER_MAC_SPOOFING",
    "MTU",
    "METRIC",
    "CVLANS",
    "QINQ_TYPE",
    "INBOUND_AVG_BW",
    "INBOUND_PEAK_BW",
    "INBOUND_PEAK_KB",
    "OUTBOUND_AVG_BW",
    "OUTBOUND_PEAK_BW",
    "OUTBOUND_PEAK_KB",
];

/// What a card of a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A card of its own.
    Nic,
    /// One more address on the card of its parent.
    Alias,
}

impl Kind {
    /// The name of its vectors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nic => "NIC",
            Self::Alias => "NIC_ALIAS",
        }
    }
}

/// Whose network a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkOwner {
    /// That of the user who owns the VM.
    Caller,
    /// NETWORK_UID.
    Id(i64),
    /// NETWORK_UNAME.
    Name(String),
}

/// Which network a NIC asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkChoice {
    /// NETWORK_ID.
    Id(i64),
    /// NETWORK.
    Name {
        /// Its name.
        name: String,
        /// Whose it is.
        owner: NetworkOwner,
    },
    /// `NETWORK_MODE=auto`: the scheduler chooses when the VM is placed.
    Auto,
    /// None: the NIC is left as it is.
    Nothing,
}

fn given<'v>(vector: &'v Vector, key: &str) -> Option<&'v str> {
    vector.get(key).filter(|value| !value.is_empty())
}

fn is_auto(nic: &Vector) -> bool {
    given(nic, "NETWORK_MODE").is_some_and(|mode| mode.eq_ignore_ascii_case("auto"))
}

/// Reads which network a NIC asks for. An automatic NIC for which the scheduler has set NETWORK_ID asks for that.
///
/// # Errors
/// [`Refusal::Internal`] for an id that is no number.
pub fn network_choice(nic: &Vector) -> Result<NetworkChoice, Refusal> {
    if let Some(id) = given(nic, "NETWORK_ID") {
        return id
            .parse()
            .map(NetworkChoice::Id)
            .or_else(|_| refuse(format!("Virtual network with ID: {id} does not exist")));
    }
    if is_auto(nic) {
        return Ok(NetworkChoice::Auto);
    }
    let Some(name) = given(nic, "NETWORK").map(str::to_owned) else { return Ok(NetworkChoice::Nothing) };
    let owner = match (given(nic, "NETWORK_UID"), given(nic, "NETWORK_UNAME")) {
        (Some(id), _) => match id.parse() {
            Ok(id) => NetworkOwner::Id(id),
            Err(_) => return refuse("Cannot get user in NETWORK_UID"),
        },
        (None, Some(name)) => NetworkOwner::Name(name.to_owned()),
        (None, None) => NetworkOwner::Caller,
    };
    Ok(NetworkChoice::Name { name, owner })
}

/// The refusal for a name that the user `uid` has no network of.
pub fn no_network_named(uid: i64, name: &str) -> Refusal {
    Refusal::Internal(format!(
        "User {uid} does not own a network with name: {name} . Set NETWORK_UNAME or NETWORK_UID of owner in NIC."
    ))
}

/// The refusal for a NETWORK_ID without network.
pub fn no_network_with_id(id: i64) -> Refusal {
    Refusal::Internal(format!("Virtual network with ID: {id} does not exist"))
}

/// Numbers and names all NICs and aliases of a new VM from 0, whatever numbers its template brought: NICs first, then
/// aliases, each bound to the NIC that its PARENT names.
///
/// # Errors
/// [`Refusal::Internal`] when there are more than [`MAX_NICS`], an alias is automatic, or its PARENT is not there.
pub fn number_all(template: &mut Template) -> Result<(), Refusal> {
    for name in ["NIC", "NIC_ALIAS"] {
        for nic in template.vectors_mut(name) {
            for key in NUMBERS {
                nic.remove(key);
            }
        }
    }
    number_new(template)
}

/// Adds a NIC or an alias to those of a VM (`one.vm.attachnic`), numbered and named, and says its number. Numbers that
/// the wish brings do not count.
///
/// # Errors
/// As [`number_all`]; the template is then as it was.
pub fn add(template: &mut Template, kind: Kind, wish: &Vector) -> Result<i64, Refusal> {
    let mut new = template.clone();
    let mut nic = wish.clone();
    for key in NUMBERS {
        nic.remove(key);
    }
    new.push_vector(kind.name(), nic);
    number_new(&mut new)?;
    let id = new.vectors(kind.name()).filter_map(|nic| nic.int("NIC_ID")).max().unwrap_or_default();
    *template = new;
    Ok(id)
}

/// Takes a NIC with all its aliases, or one alias, out of a VM, and gives back what went: their addresses are to be
/// released. Nothing goes when there is no such number.
pub fn remove(template: &mut Template, nic_id: i64) -> Vec<Vector> {
    let mut gone = Vec::new();
    for (name, keys) in [("NIC", &["NIC_ID"][..]), ("NIC_ALIAS", &["NIC_ID", "PARENT_ID"])] {
        for value in template.remove(name) {
            match value {
                Value::Vector(nic) if keys.iter().any(|key| nic.int(key) == Some(nic_id)) => gone.push(nic),
                Value::Vector(nic) => template.push_vector(name, nic),
                Value::Scalar(text) => template.push(name, text),
            }
        }
    }
    show_aliases(template);
    gone
}

/// Numbers and names the NICs and aliases that have no NIC_ID yet.
fn number_new(template: &mut Template) -> Result<(), Refusal> {
    if template.vectors("NIC").count() + template.vectors("NIC_ALIAS").count() > MAX_NICS {
        return refuse(format!("A VM can have at most {MAX_NICS} network cards and aliases."));
    }
    let ids = |name| template.vectors(name).filter_map(|nic| nic.int("NIC_ID")).max().unwrap_or(-1);
    let mut next = ids("NIC").max(ids("NIC_ALIAS")).saturating_add(1);
    let mut parents: BTreeMap<String, i64> = BTreeMap::new();
    for nic in template.vectors_mut("NIC") {
        let id = take_number(nic, &mut next);
        if given(nic, "NAME").is_none() {
            nic.set("NAME", format!("NIC{id}"));
        }
        parents.entry(nic.get("NAME").unwrap_or_default().to_owned()).or_insert(id);
    }
    // The number that the next alias of each NIC gets.
    let mut alias_numbers: BTreeMap<i64, i64> = BTreeMap::new();
    for alias in template.vectors("NIC_ALIAS") {
        if let (Some(parent), Some(number)) = (alias.int("PARENT_ID"), alias.int("ALIAS_ID")) {
            let next = alias_numbers.entry(parent).or_default();
            *next = number.saturating_add(1).max(*next);
        }
    }
    for alias in template.vectors_mut("NIC_ALIAS") {
        if is_auto(alias) {
            return refuse("Alias is incompatible with auto mode");
        }
        let wanted = alias.get("PARENT").unwrap_or_default();
        let Some(parent) = parents.get(wanted).copied() else {
            return refuse(format!("NIC named {wanted} not found for alias"));
        };
        take_number(alias, &mut next);
        if alias.int("ALIAS_ID").is_none() {
            let number = alias_numbers.entry(parent).or_default();
            alias.set("ALIAS_ID", number.to_string());
            if given(alias, "NAME").is_none() {
                alias.set("NAME", format!("NIC{parent}_ALIAS{number}"));
            }
            *number = number.saturating_add(1);
        }
        alias.set("PARENT_ID", parent.to_string());
    }
    show_aliases(template);
    Ok(())
}

/// Writes the ALIAS_IDS of every NIC anew.
fn show_aliases(template: &mut Template) {
    let mut alias_ids: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for alias in template.vectors("NIC_ALIAS") {
        if let (Some(parent), Some(id)) = (alias.int("PARENT_ID"), alias.int("NIC_ID")) {
            alias_ids.entry(parent).or_default().push(id.to_string());
        }
    }
    for nic in template.vectors_mut("NIC") {
        match nic.int("NIC_ID").and_then(|id| alias_ids.get(&id)) {
            Some(ids) => nic.set("ALIAS_IDS", ids.join(",")),
            None => drop(nic.remove("ALIAS_IDS")),
        }
    }
}

fn take_number(nic: &mut Vector, next: &mut i64) -> i64 {
    nic.int("NIC_ID").unwrap_or_else(|| {
        let id = *next;
        nic.set("NIC_ID", id.to_string());
        *next = next.saturating_add(1);
        id
    })
}

/// The network that a NIC is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// Its id.
    pub id: i64,
    /// The network that it was reserved from.
    pub parent: Option<i64>,
    /// Clusters it belongs to.
    pub clusters: &'a [i64],
    /// Name of its owner, when the VM belongs to another user: a template made from the VM (a restored one) names the
    /// network by NAME, and finds it only beside the owner. The original forgets that.
    pub owner_name: Option<&'a str>,
    /// What it is made of.
    pub definition: &'a Definition,
}

/// Where a NIC gets its address.
#[derive(Debug, Clone, Copy)]
pub struct Lease<'a> {
    /// The range.
    pub range: &'a AddressRange,
    /// The index in it.
    pub index: u32,
}

/// A NIC with what NIC_DEFAULT of its template adds to it. Comes before anything is read from the NIC, because the
/// default may name the network. Aliases get no default.
#[must_use]
pub fn with_default(nic: &Vector, default: Option<&Vector>) -> Vector {
    let mut nic = nic.clone();
    for (key, value) in default.into_iter().flat_map(Vector::iter) {
        if given(&nic, key).is_none() {
            nic.set(key, value);
        }
    }
    nic
}

/// The full vector of NIC `nic_id` of VM `vm_id`. `wish` is the NIC with its default.
///
/// # Errors
/// [`Refusal::Internal`] when the index lies outside the range, or SECURITY_GROUPS holds what is no number.
pub fn bind(
    wish: &Vector,
    vm_id: i64,
    nic_id: i64,
    network: &Network<'_>,
    lease: Lease<'_>,
) -> Result<Vector, Refusal> {
    let Some(addresses) = lease.range.addresses(lease.index) else {
        return refuse(format!(
            "Cannot get IP/MAC lease from virtual network {}: address range {} has no address number {}.",
            network.id,
            lease.range.ar_id(),
            lease.index
        ));
    };
    let mut nic = wish.clone();
    for key in BOUND.into_iter().chain(["IP", "IP6", "MAC"]) {
        nic.remove(key);
    }
    let definition = network.definition;
    nic.set("NIC_ID", nic_id.to_string());
    nic.set("TARGET", format!("one-{vm_id}-{nic_id}"));
    if given(&nic, "NAME").is_none() {
        nic.set("NAME", format!("NIC{nic_id}"));
    }
    nic.set("NETWORK", definition.name.as_str());
    nic.set("NETWORK_ID", network.id.to_string());
    if let Some(owner) = network.owner_name {
        nic.remove("NETWORK_UID");
        nic.set("NETWORK_UNAME", owner);
    }
    nic.set("AR_ID", lease.range.ar_id().to_string());
    nic.set("CLUSTER_ID", network.clusters.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
    if let Some(parent) = network.parent {
        nic.set("PARENT_NETWORK_ID", parent.to_string());
    }
    attach(&mut nic, definition, lease.range);
    for (key, value) in addresses.pairs() {
        nic.set(key, value);
    }
    for (key, value) in lease.range.port_ranges(lease.index).into_iter().flatten() {
        nic.set(key, value);
    }
    for key in INHERITED {
        let inherited = || lease.range.attribute(key).or_else(|| definition.template.scalar(key));
        if given(&nic, key).is_none()
            && let Some(value) = inherited().filter(|value| !value.is_empty())
        {
            nic.set(key, value);
        }
    }
    let mut groups = security_groups(nic.get("SECURITY_GROUPS").unwrap_or_default())?;
    groups.extend(&definition.security_groups);
    groups.extend(security_groups(lease.range.attribute("SECURITY_GROUPS").unwrap_or_default())?);
    nic.set("SECURITY_GROUPS", security_groups_text(&groups));
    Ok(nic)
}

/// What reaches into the host: from the range, else from the network.
fn attach(nic: &mut Vector, definition: &Definition, range: &AddressRange) {
    for (key, of_network) in [
        ("BRIDGE", definition.bridge.as_str()),
        ("BRIDGE_TYPE", &definition.bridge_type),
        ("VN_MAD", &definition.vn_mad),
        ("PHYDEV", &definition.phydev),
        ("VLAN_ID", &definition.vlan_id),
    ] {
        let value = range.attribute(key).unwrap_or(of_network);
        if !value.is_empty() {
            nic.set(key, value);
        }
    }
    if !definition.outer_vlan_id.is_empty() {
        nic.set("OUTER_VLAN_ID", definition.outer_vlan_id.as_str());
    }
    if let Some(name) = definition.libvirt_network() {
        nic.set(LIBVIRT_NETWORK, name);
    }
}

/// Where the card of a bound NIC leads on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment<'a> {
    /// A network of the host's libvirt.
    LibvirtNetwork(&'a str),
    /// A bridge.
    Bridge(&'a str),
    /// QEMU's user-mode network.
    User,
}

/// Where a NIC leads: LIBVIRT_NETWORK, else BRIDGE; a NIC that is bound to no virtual network may name a libvirt network
/// in NETWORK. `user` is QEMU's own network in both places. Nothing for a NIC that says nothing of this, e.g. an
/// automatic one.
pub fn attachment(nic: &Vector) -> Option<Attachment<'_>> {
    let by_name = |name| if name == "user" { Attachment::User } else { Attachment::LibvirtNetwork(name) };
    let unbound = || given(nic, "NETWORK").filter(|_| !nic.contains("NETWORK_ID") && !is_auto(nic));
    given(nic, LIBVIRT_NETWORK)
        .map(by_name)
        .or_else(|| given(nic, "BRIDGE").map(Attachment::Bridge))
        .or_else(|| unbound().map(by_name))
}

/// The wish that a bound NIC or alias came from, for another VM: all that binding and numbering wrote is gone, the
/// network is known by NETWORK (and NETWORK_UNAME), and one address stays when `keep_address`: IP, else IP6, else MAC
/// (a NIC may wish for one only). An automatic NIC loses its network too.
pub fn to_wish(nic: &Vector, keep_address: bool) -> Vector {
    let kept = ["IP", "IP6", "MAC"].into_iter().find(|key| keep_address && given(nic, key).is_some());
    let default_name = |key: &str, value: &str| {
        let of_nic = nic.get("NIC_ID").map(|id| format!("NIC{id}"));
        let of_alias =
            nic.get("PARENT_ID").zip(nic.get("ALIAS_ID")).map(|(nic, alias)| format!("NIC{nic}_ALIAS{alias}"));
        key == "NAME" && (of_nic.is_some_and(|name| name == value) || of_alias.is_some_and(|name| name == value))
    };
    let written = |key: &str, value: &str| {
        let network = is_auto(nic) && matches!(key, "NETWORK" | "NETWORK_UNAME" | "NETWORK_UID");
        let address = matches!(key, "IP" | "IP6" | "MAC") && kept != Some(key);
        network || address || default_name(key, value) || BOUND.contains(&key) || NUMBERS.contains(&key)
    };
    nic.iter().filter(|(key, value)| !written(key, value)).collect()
}
