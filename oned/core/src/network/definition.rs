//! What a virtual network is made of: the checked content of the template of `one.vn.allocate`.
//!
//! What it is: which attributes must be there for which driver, and what is filled in. What it is not: it makes no
//! bridge and no VLAN, and checks no rights (VN_MAD, PHYDEV, BRIDGE and VLAN_ID are for administrators upstream).
//!
//! Beside the original's attributes there is one of ours: `LIBVIRT_NETWORK` names a network of the host's libvirt that
//! NICs go to instead of a bridge (`user` is QEMU's own network). Such a network needs no BRIDGE and gets none.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::range::{AddressRange, MacSource};
use super::ranges::{MAX_RANGES, disjoint};
use super::refuse;
use crate::access::valid_name;
use crate::refusal::{ObjectKind, Refusal};
use crate::template::{Template, Value};

/// First VLAN that is given out automatically, for 802.1Q and VXLAN alike (VLAN_IDS and VXLAN_IDS, START, upstream).
const FIRST_VLAN: i64 = 2;
/// 802.1Q: 4095 and above are no VLANs.
const VLAN_END: i64 = 4095;
/// VXLAN ids have 24 bits (RFC 7348).
const VXLAN_END: i64 = 1 << 24;
/// Longest name of a network device of Linux, in bytes (IFNAMSIZ less the end mark).
const DEVICE_NAME_MAX: usize = 15;

/// The attribute of ours that names a libvirt network.
pub const LIBVIRT_NETWORK: &str = "LIBVIRT_NETWORK";

/// The content of a virtual network that is not owner, rights, leases or state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// NAME.
    pub name: String,
    /// VN_MAD.
    pub vn_mad: String,
    /// PHYDEV, may be empty.
    pub phydev: String,
    /// BRIDGE; empty for networks of libvirt and drivers without bridge.
    pub bridge: String,
    /// BRIDGE_TYPE.
    pub bridge_type: String,
    /// VLAN_ID, may be empty.
    pub vlan_id: String,
    /// Whether the VLAN was chosen here, so that it is free again when the network is deleted.
    pub vlan_id_automatic: bool,
    /// OUTER_VLAN_ID, may be empty.
    pub outer_vlan_id: String,
    /// Whether the outer VLAN was chosen here.
    pub outer_vlan_id_automatic: bool,
    /// SECURITY_GROUPS.
    pub security_groups: BTreeSet<i64>,
    /// The template as shown: without NAME and AR.
    pub template: Template,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Dummy,
    Vlan,
    Vxlan,
    Ovswitch,
    OvswitchVxlan,
    /// Bridges without VLANs: bridge, fw, ebtables, and whatever a site adds.
    Plain,
    /// Networks outside the host.
    NoBridge,
}

impl Driver {
    fn of(vn_mad: &str) -> Self {
        match vn_mad.to_ascii_lowercase().as_str() {
            "dummy" => Self::Dummy,
            "802.1q" => Self::Vlan,
            "vxlan" => Self::Vxlan,
            "ovswitch" => Self::Ovswitch,
            "ovswitch_vxlan" => Self::OvswitchVxlan,
            "elastic" | "nodeport" => Self::NoBridge,
            _ => Self::Plain,
        }
    }

    fn bridge_type(self) -> &'static str {
        match self {
            Self::Ovswitch | Self::OvswitchVxlan => "openvswitch",
            Self::NoBridge => "none",
            _ => "linux",
        }
    }
}

fn scalar(template: &Template, key: &str) -> String {
    template.scalar(key).unwrap_or_default().to_owned()
}

/// Checks the template of a new network and fills in what is missing. Gives the definition and its ranges, numbered from
/// 0. `used_vlans` are the 802.1Q ids that an automatic one must not be.
///
/// # Errors
/// [`Refusal::Internal`] with a sentence that names the attribute; [`Refusal::BadName`].
pub fn define(
    template: &Template,
    network_id: i64,
    used_vlans: &BTreeSet<i64>,
    macs: &mut MacSource,
) -> Result<(Definition, Vec<AddressRange>), Refusal> {
    let mut template = template.clone();
    let Some(name) = template.scalar("NAME").filter(|name| !name.is_empty()).map(str::to_owned) else {
        return refuse("No NAME in template for Virtual Network.");
    };
    valid_name(&name, ObjectKind::Network)?;
    let ranges = new_ranges(&template.remove("AR"), macs)?;
    template.remove("NAME");
    let mut new = Definition { name, vn_mad: scalar(&template, "VN_MAD"), ..Definition::default() };
    if new.vn_mad.is_empty() {
        return refuse("No VN_MAD in template for Virtual Network.");
    }
    new.phydev = scalar(&template, "PHYDEV");
    new.bridge = scalar(&template, "BRIDGE");
    new.bridge_type = scalar(&template, "BRIDGE_TYPE");
    (new.vlan_id, new.vlan_id_automatic) = vlan(&template, "VLAN_ID", "AUTOMATIC_VLAN_ID");
    (new.outer_vlan_id, new.outer_vlan_id_automatic) = vlan(&template, "OUTER_VLAN_ID", "AUTOMATIC_OUTER_VLAN_ID");
    new.security_groups = security_groups(template.scalar("SECURITY_GROUPS").unwrap_or_default())?;
    new.security_groups.insert(0);
    new.template = template;
    new.check()?;
    new.fill(network_id, used_vlans)?;
    new.write_template();
    Ok((new, ranges))
}

fn new_ranges(values: &[Value], macs: &mut MacSource) -> Result<Vec<AddressRange>, Refusal> {
    if values.len() > MAX_RANGES {
        return refuse(format!("A virtual network can have at most {MAX_RANGES} address ranges."));
    }
    let mut ranges: Vec<AddressRange> = Vec::with_capacity(values.len());
    for (ar_id, value) in (0_i64..).zip(values) {
        let Value::Vector(vector) = value else {
            return refuse("Wrong AR definition. AR must be a vector: AR=[TYPE=IP4, IP=…, SIZE=…].");
        };
        let range = AddressRange::parse(vector, ar_id, macs)?;
        disjoint(&ranges, &range)?;
        ranges.push(range);
    }
    Ok(ranges)
}

/// The given id, else whether one is to be chosen.
fn vlan(template: &Template, key: &str, automatic: &str) -> (String, bool) {
    let id = scalar(template, key);
    let automatic = id.is_empty() && template.yes(automatic) == Some(true);
    (id, automatic)
}

/// The ids in a SECURITY_GROUPS list: numbers with commas between them.
///
/// # Errors
/// [`Refusal::Internal`] for what is no number.
pub fn security_groups(list: &str) -> Result<BTreeSet<i64>, Refusal> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.parse() {
            Ok(id) if id >= 0 => Ok(id),
            _ => refuse(format!("Wrong SECURITY_GROUPS: {part} is no number of a security group.")),
        })
        .collect()
}

/// A SECURITY_GROUPS list.
pub fn security_groups_text(groups: &BTreeSet<i64>) -> String {
    groups.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

fn is_device_name(name: &str) -> bool {
    (1..=DEVICE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|c| c.is_ascii_graphic() && c != b'/' && c != b':')
}

/// Checks those values of a network or a range that reach into the host, whichever are given.
///
/// # Errors
/// [`Refusal::Internal`] with the name of the attribute.
pub(super) fn check_host_attributes<'v>(get: impl Fn(&str) -> Option<&'v str>) -> Result<(), Refusal> {
    let given = |key| get(key).filter(|value| !value.is_empty());
    if let Some(bridge) = given("BRIDGE").filter(|bridge| !is_device_name(bridge)) {
        return refuse(format!(
            "Wrong BRIDGE {bridge}: the name of a device has at most {DEVICE_NAME_MAX} letters, digits and signs, no / or :."
        ));
    }
    let one_word = |text: &str| text.len() <= 256 && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    for key in ["PHYDEV", "VN_MAD", LIBVIRT_NETWORK] {
        if !given(key).is_none_or(one_word) {
            return refuse(format!("Wrong {key}: one word of at most 256 bytes is needed."));
        }
    }
    for key in ["VLAN_ID", "OUTER_VLAN_ID"] {
        if let Some(id) = given(key).filter(|id| !id.parse().is_ok_and(|id| (0..VXLAN_END).contains(&id))) {
            return refuse(format!("Wrong {key} {id}: a number below {VXLAN_END} is needed."));
        }
    }
    security_groups(given("SECURITY_GROUPS").unwrap_or_default()).map(drop)
}

impl Definition {
    /// The libvirt network that NICs go to.
    pub fn libvirt_network(&self) -> Option<&str> {
        self.template.scalar(LIBVIRT_NETWORK).filter(|name| !name.is_empty())
    }

    fn check(&self) -> Result<(), Refusal> {
        let driver = Driver::of(&self.vn_mad);
        let mandatory = |what: &str| refuse(format!("{what} is mandatory for driver {}", self.vn_mad));
        if matches!(driver, Driver::Vlan | Driver::Vxlan) {
            if self.phydev.is_empty() {
                return mandatory("PHYDEV");
            }
            if self.vlan_id.is_empty() && !self.vlan_id_automatic {
                return mandatory("VLAN_ID (or AUTOMATIC_VLAN_ID)");
            }
        }
        if driver == Driver::Dummy && self.bridge.is_empty() && self.libvirt_network().is_none() {
            return mandatory("BRIDGE");
        }
        if driver == Driver::OvswitchVxlan && self.outer_vlan_id.is_empty() && !self.outer_vlan_id_automatic {
            return mandatory("OUTER_VLAN_ID (or AUTOMATIC_OUTER_VLAN_ID)");
        }
        let inner_end = if driver == Driver::Vxlan { VXLAN_END } else { VLAN_END };
        for (key, id, end) in [("VLAN_ID", &self.vlan_id, inner_end), ("OUTER_VLAN_ID", &self.outer_vlan_id, VXLAN_END)]
        {
            if !id.is_empty() && !id.parse().is_ok_and(|id| (0..end).contains(&id)) {
                return refuse(format!("Wrong {key} {id} for driver {}: a number below {end} is needed.", self.vn_mad));
            }
        }
        // The original's dummy driver touches no host; whatever tests call a bridge will do.
        check_host_attributes(|key| self.template.scalar(key).filter(|_| driver != Driver::Dummy || key != "BRIDGE"))?;
        match self.bridge_type.as_str() {
            "" | "linux" | "openvswitch" | "openvswitch_dpdk" | "none" => Ok(()),
            other => {
                refuse(format!("Wrong BRIDGE_TYPE {other}. Valid are linux, openvswitch, openvswitch_dpdk and none."))
            }
        }
    }

    fn fill(&mut self, network_id: i64, used_vlans: &BTreeSet<i64>) -> Result<(), Refusal> {
        let driver = Driver::of(&self.vn_mad);
        if self.bridge_type.is_empty() {
            driver.bridge_type().clone_into(&mut self.bridge_type);
        }
        // As in the original the bridge is named before a VLAN is chosen, so only a given VLAN is part of its name:
        // networks of one VLAN share a bridge.
        if self.bridge.is_empty() && self.bridge_type != "none" && self.libvirt_network().is_none() {
            self.bridge = match self.vlan_id.as_str() {
                "" => format!("onebr{network_id}"),
                vlan => format!("onebr.{vlan}"),
            };
        }
        if self.vlan_id_automatic {
            self.vlan_id = match driver {
                Driver::Vlan | Driver::Ovswitch | Driver::OvswitchVxlan => automatic_vlan(network_id, used_vlans)?,
                Driver::Vxlan => automatic_vxlan(network_id)?,
                _ => String::new(),
            };
        }
        if self.outer_vlan_id_automatic && driver == Driver::OvswitchVxlan {
            self.outer_vlan_id = automatic_vxlan(network_id)?;
        }
        Ok(())
    }

    /// Puts what was decided into the template, as documents show it.
    fn write_template(&mut self) {
        self.template.remove("NAME");
        self.template.remove("AR");
        let vlan_id = if self.vlan_id_automatic { "" } else { &self.vlan_id };
        let outer_vlan_id = if self.outer_vlan_id_automatic { "" } else { &self.outer_vlan_id };
        for (key, value) in [
            ("VN_MAD", self.vn_mad.as_str()),
            ("PHYDEV", &self.phydev),
            ("BRIDGE", &self.bridge),
            ("BRIDGE_TYPE", &self.bridge_type),
            ("VLAN_ID", vlan_id),
            ("OUTER_VLAN_ID", outer_vlan_id),
            ("AUTOMATIC_VLAN_ID", ""),
            ("AUTOMATIC_OUTER_VLAN_ID", ""),
            ("SECURITY_GROUPS", &security_groups_text(&self.security_groups)),
        ] {
            if value.is_empty() {
                self.template.remove(key);
            } else {
                self.template.set(key, value);
            }
        }
    }

    /// This network after `one.vn.update` made its template `template` (replaced or appended by the caller). NAME and AR
    /// in it are ignored; driver and bridge stay when it does not name them; a VLAN that was chosen here stays.
    ///
    /// # Errors
    /// As [`define`].
    pub fn updated(&self, template: Template) -> Result<Self, Refusal> {
        let mut new = Self { template, ..self.clone() };
        let text = |key| new.template.scalar(key).unwrap_or_default().to_owned();
        let or_old = |key, old: &str| Some(text(key)).filter(|new| !new.is_empty()).unwrap_or_else(|| old.to_owned());
        let (vn_mad, bridge) = (or_old("VN_MAD", &self.vn_mad), or_old("BRIDGE", &self.bridge));
        let bridge_type = or_old("BRIDGE_TYPE", &self.bridge_type);
        let (phydev, groups) = (text("PHYDEV"), security_groups(&text("SECURITY_GROUPS"))?);
        let (vlan_id, outer_vlan_id) = (text("VLAN_ID"), text("OUTER_VLAN_ID"));
        if !new.vlan_id_automatic {
            new.vlan_id = vlan_id;
        }
        if !new.outer_vlan_id_automatic {
            new.outer_vlan_id = outer_vlan_id;
        }
        (new.vn_mad, new.bridge, new.bridge_type, new.phydev) = (vn_mad, bridge, bridge_type, phydev);
        new.security_groups = groups;
        new.check()?;
        if new.bridge.is_empty() && new.bridge_type != "none" && new.libvirt_network().is_none() {
            return refuse("The network would lead nowhere: set BRIDGE, or keep LIBVIRT_NETWORK.");
        }
        new.write_template();
        Ok(new)
    }

    /// The definition of a reservation from this network. It shares bridge and VLAN, and never gives the VLAN back.
    ///
    /// # Errors
    /// [`Refusal::BadName`].
    pub fn reservation(&self, name: &str) -> Result<Self, Refusal> {
        valid_name(name, ObjectKind::Network)?;
        let (vlan_id_automatic, outer_vlan_id_automatic) = (false, false);
        let mut new = Self { name: name.to_owned(), vlan_id_automatic, outer_vlan_id_automatic, ..self.clone() };
        new.write_template();
        Ok(new)
    }
}

fn automatic_vlan(network_id: i64, used: &BTreeSet<i64>) -> Result<String, Refusal> {
    let hint = FIRST_VLAN + network_id.rem_euclid(VLAN_END - FIRST_VLAN);
    let free = (hint..VLAN_END).chain(FIRST_VLAN..hint).find(|id| !used.contains(id));
    match free {
        Some(id) => Ok(id.to_string()),
        None => refuse("Cannot automatically assign VLAN_ID to network. All 802.1Q VLANs are in use."),
    }
}

fn automatic_vxlan(network_id: i64) -> Result<String, Refusal> {
    match network_id.checked_add(FIRST_VLAN).filter(|id| (0..VXLAN_END).contains(id)) {
        Some(id) => Ok(id.to_string()),
        None => refuse("Cannot automatically assign VLAN_ID to network. VXLAN ids have 24 bits."),
    }
}
