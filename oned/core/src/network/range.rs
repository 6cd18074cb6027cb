//! Address ranges: `AR` vectors of a virtual network.
//!
//! What it is: the values of one range, read from and written to its vector, and the arithmetic between the index of an
//! address (from 0) and its MAC, IP and IPv6. What it is not: it knows nobody who uses an address.
//!
//! Invariants: the size is 1 to [`MAX_SIZE`]; first and last address of every kind exist, so that an index below the
//! size always has its addresses.

use core::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::address::{LINK_LOCAL, Mac, eui64};
use super::definition::check_host_attributes;
use super::refuse;
use crate::refusal::Refusal;
use crate::template::Vector;

/// Most addresses of one range: 2^20. The original has no limit; ours bounds what one reservation or document can cost.
pub const MAX_SIZE: u32 = 1 << 20;

/// Keys that the daemon writes, never taken from a user.
const GENERATED: [&str; 14] = [
    "AR_ID",
    "ALLOCATED",
    "USED_LEASES",
    "LEASES",
    "NEXT_INDEX",
    "PARENT_NETWORK",
    "PARENT_NETWORK_AR_ID",
    "MAC_END",
    "IP_END",
    "IP6_END",
    "IP6_ULA",
    "IP6_ULA_END",
    "IP6_GLOBAL",
    "IP6_GLOBAL_END",
];

/// Keys with a meaning of their own; all others are kept as they are.
const KNOWN: [&str; 8] = ["TYPE", "SIZE", "IP", "IP6", "PREFIX_LENGTH", "MAC", "GLOBAL_PREFIX", "ULA_PREFIX"];

/// What kinds of addresses a range has. All have a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RangeType {
    /// MAC only.
    Ether,
    /// IPv4.
    Ip4,
    /// IPv6 made from prefixes and the MAC (SLAAC).
    Ip6,
    /// IPv4, and IPv6 made from prefixes.
    Ip4And6,
    /// IPv6 counted from a first address.
    Ip6Static,
    /// IPv4, and IPv6 counted from a first address.
    Ip4And6Static,
}

impl RangeType {
    /// The word in TYPE.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ether => "ETHER",
            Self::Ip4 => "IP4",
            Self::Ip6 => "IP6",
            Self::Ip4And6 => "IP4_6",
            Self::Ip6Static => "IP6_STATIC",
            Self::Ip4And6Static => "IP4_6_STATIC",
        }
    }

    /// The type of that name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Ether, Self::Ip4, Self::Ip6, Self::Ip4And6, Self::Ip6Static, Self::Ip4And6Static];
        all.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    fn has_ip4(self) -> bool {
        matches!(self, Self::Ip4 | Self::Ip4And6 | Self::Ip4And6Static)
    }

    fn has_prefixes(self) -> bool {
        matches!(self, Self::Ip6 | Self::Ip4And6)
    }

    fn has_static_ip6(self) -> bool {
        matches!(self, Self::Ip6Static | Self::Ip4And6Static)
    }
}

/// Where MACs come from that a range does not name: IPv4 ranges get `<prefix>:<bytes of the IP>`, others
/// `<prefix>:<low>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacSource {
    /// First two bytes; `02:00` unless configured otherwise (MAC_PREFIX).
    pub prefix: u16,
    /// Last four bytes for the next range without IP. Give a random number; it moves on behind each range.
    pub low: u32,
}

impl Default for MacSource {
    fn default() -> Self {
        Self { prefix: 0x0200, low: 0 }
    }
}

/// A range of addresses of a virtual network. Serialised as its vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vector", try_from = "Vector")]
pub struct AddressRange {
    ar_id: i64,
    kind: RangeType,
    size: u32,
    mac: Mac,
    ip: Option<Ipv4Addr>,
    ip6: Option<Ipv6Addr>,
    prefix_length: Option<u8>,
    global_prefix: Option<Ipv6Addr>,
    ula_prefix: Option<Ipv6Addr>,
    parent_ar_id: Option<i64>,
    others: Vector,
}

/// All addresses that belong to one index of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// MAC.
    pub mac: Mac,
    /// IPv4.
    pub ip: Option<Ipv4Addr>,
    /// Counted IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Link-local IPv6, of ranges with prefixes.
    pub ip6_link: Option<Ipv6Addr>,
    /// Unique local IPv6.
    pub ip6_ula: Option<Ipv6Addr>,
    /// Global IPv6.
    pub ip6_global: Option<Ipv6Addr>,
}

impl Addresses {
    /// Key and value of each address, as in NIC and LEASE.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("MAC", self.mac.to_string())];
        pairs.extend(self.ip.map(|ip| ("IP", ip.to_string())));
        let ip6 = [
            ("IP6", self.ip6),
            ("IP6_LINK", self.ip6_link),
            ("IP6_ULA", self.ip6_ula),
            ("IP6_GLOBAL", self.ip6_global),
        ];
        pairs.extend(ip6.into_iter().filter_map(|(key, ip)| Some((key, ip?.to_string()))));
        pairs
    }
}

/// The value of a key that is not empty.
fn given<'v>(vector: &'v Vector, key: &str) -> Option<&'v str> {
    vector.get(key).filter(|value| !value.is_empty())
}

fn address<T: std::str::FromStr>(vector: &Vector, key: &str, what: &str) -> Result<Option<T>, Refusal> {
    let Some(text) = given(vector, key) else { return Ok(None) };
    text.parse().map(Some).or_else(|_| refuse(format!("Wrong format for {what}: {key}={text} is no such address.")))
}

fn sized(vector: &Vector) -> Result<Option<u32>, Refusal> {
    let Some(text) = given(vector, "SIZE") else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size)),
        _ => refuse(format!("Wrong SIZE for address range: SIZE={text} must be a number from 1 to {MAX_SIZE}.")),
    }
}

fn others(vector: &Vector) -> Vector {
    vector.iter().filter(|(key, _)| !KNOWN.contains(key) && !GENERATED.contains(key)).collect()
}

impl AddressRange {
    /// Reads the `AR` vector of a user as the new range `ar_id`.
    ///
    /// # Errors
    /// [`Refusal::Internal`] with a sentence that names the attribute: unknown TYPE, a missing or malformed address, a
    /// SIZE that is missing, 0 or above [`MAX_SIZE`], a range that runs past the end of its address space, an IPAM
    /// driver. A static IPv6 range without SIZE takes the rest of its prefix, at most [`MAX_SIZE`].
    pub fn parse(vector: &Vector, ar_id: i64, macs: &mut MacSource) -> Result<Self, Refusal> {
        let Some(kind) = given(vector, "TYPE").and_then(RangeType::from_name) else {
            return refuse(
                "Unknown or missing address range TYPE. Valid are ETHER, IP4, IP6, IP4_6, IP6_STATIC and IP4_6_STATIC.",
            );
        };
        if let Some(ipam) = given(vector, "IPAM_MAD").filter(|ipam| *ipam != "internal") {
            return refuse(format!(
                "The address range wants the IPAM driver {ipam}, and there is none; leave IPAM_MAD out."
            ));
        }
        let ip = if kind.has_ip4() { address(vector, "IP", "IP attribute")? } else { None };
        if kind.has_ip4() && ip.is_none() {
            return refuse(format!("Wrong or empty IP attribute: a range of type {} needs its first IP.", kind.name()));
        }
        let (ip6, prefix_length) = if kind.has_static_ip6() { static_ip6(vector, kind)? } else { (None, None) };
        let size = match (sized(vector)?, ip6, prefix_length) {
            (Some(size), _, _) => size,
            (None, Some(ip6), Some(length)) => rest_of_prefix(ip6, length),
            _ => return refuse("Wrong SIZE for address range: SIZE is missing."),
        };
        let mac = match address::<Mac>(vector, "MAC", "MAC attribute")? {
            Some(mac) => mac,
            None => generated_mac(ip, size, macs),
        };
        let mut range = Self {
            ar_id,
            kind,
            size,
            mac,
            ip,
            ip6,
            prefix_length,
            global_prefix: None,
            ula_prefix: None,
            parent_ar_id: None,
            others: others(vector),
        };
        if kind.has_prefixes() {
            range.global_prefix = address(vector, "GLOBAL_PREFIX", "IP6 global address prefix")?;
            range.ula_prefix = address(vector, "ULA_PREFIX", "IP6 unique local address prefix")?;
        }
        range.check(size)?;
        Ok(range)
    }

    /// Whether the range can have this size, and its attributes these values.
    fn check(&self, size: u32) -> Result<(), Refusal> {
        check_host_attributes(|key| self.attribute(key))?;
        if self.mac.is_group() {
            return refuse(format!(
                "Wrong format for MAC attribute: {} is a group address, its first byte must be even.",
                self.mac
            ));
        }
        let last = size.saturating_sub(1);
        let past = |first: String, what: &str| {
            refuse(format!("Wrong SIZE for address range: {size} addresses from {first} run past the last {what}."))
        };
        if self.mac.plus(last).is_none() {
            return past(self.mac.to_string(), "MAC of that prefix");
        }
        match (self.ip, self.ip6) {
            (Some(ip), _) if ip.to_bits().checked_add(last).is_none() => past(ip.to_string(), "IPv4 address"),
            (_, Some(ip6)) if !within_prefix(ip6, self.prefix_length, last) => {
                past(ip6.to_string(), "address of the prefix")
            }
            _ => Ok(()),
        }
    }

    /// Changes SIZE and the free attributes to those of `change` (`one.vn.update_ar`). Free attributes are replaced as a
    /// whole. AR_ID, TYPE, MAC, IP, IP6 and the parent stay whatever `change` says; SIZE, PREFIX_LENGTH and prefixes stay
    /// when it does not name them. `last_taken` is the highest index in use.
    ///
    /// # Errors
    /// [`Refusal::Internal`] when the new size is wrong, a lease would lie outside, a reservation would change its size,
    /// or prefixes would change under addresses in use. Nothing is changed then.
    pub fn update(&mut self, change: &Vector, last_taken: Option<u32>) -> Result<(), Refusal> {
        let mut new = Self { others: others(change), ..self.clone() };
        if let Some(ipam) = self.others.get("IPAM_MAD") {
            new.others.set("IPAM_MAD", ipam);
        } else {
            new.others.remove("IPAM_MAD");
        }
        new.size = sized(change)?.unwrap_or(self.size);
        if self.parent_ar_id.is_some() && new.size != self.size {
            return refuse("The SIZE of a reservation cannot be changed.");
        }
        if let Some(last) = last_taken.filter(|last| *last >= new.size) {
            return refuse(format!(
                "New SIZE cannot be applied. There are used leases that would fall outside the range: number {last} of \
                 address range {} with SIZE={}.",
                self.ar_id, new.size
            ));
        }
        if self.kind.has_prefixes() {
            let global = address(change, "GLOBAL_PREFIX", "IP6 global address prefix")?;
            let ula = address(change, "ULA_PREFIX", "IP6 unique local address prefix")?;
            new.global_prefix = global.or(self.global_prefix);
            new.ula_prefix = ula.or(self.ula_prefix);
            let same = new.global_prefix == self.global_prefix && new.ula_prefix == self.ula_prefix;
            if !same && last_taken.is_some() {
                return refuse(format!(
                    "The prefixes of address range {} cannot be changed while its addresses are in use.",
                    self.ar_id
                ));
            }
        }
        if self.kind.has_static_ip6() && given(change, "PREFIX_LENGTH").is_some() {
            new.prefix_length = Some(prefix_length(change)?);
        }
        new.check(new.size)?;
        *self = new;
        Ok(())
    }

    /// The part of this range that a reservation takes: `size` addresses from index `first`, as range `ar_id` of the
    /// reservation. Nothing when that lies outside.
    pub fn part(&self, first: u32, size: u32, ar_id: i64) -> Option<Self> {
        let end = first.checked_add(size)?;
        if size == 0 || end > self.size {
            return None;
        }
        let start = self.addresses(first)?;
        let parent_ar_id = Some(self.ar_id);
        Some(Self { ar_id, size, mac: start.mac, ip: start.ip, ip6: start.ip6, parent_ar_id, ..self.clone() })
    }

    /// Whether the two have a MAC, IP or IPv6 in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        fn meet(a: u128, a_size: u32, b: u128, b_size: u32) -> bool {
            a < b.saturating_add(u128::from(b_size)) && b < a.saturating_add(u128::from(a_size))
        }
        let meets = |a: Option<u128>, b: Option<u128>| matches!((a, b), (Some(a), Some(b)) if meet(a, self.size, b, other.size));
        let mac = |range: &Self| Some(u128::from(range.mac.prefix()) << 32 | u128::from(range.mac.low()));
        let ip = |range: &Self| range.ip.map(|ip| u128::from(ip.to_bits()));
        let ip6 = |range: &Self| range.ip6.map(Ipv6Addr::to_bits);
        meets(mac(self), mac(other)) || meets(ip(self), ip(other)) || meets(ip6(self), ip6(other))
    }

    /// Number of the range in its network.
    pub fn ar_id(&self) -> i64 {
        self.ar_id
    }

    /// Its kind.
    pub fn kind(&self) -> RangeType {
        self.kind
    }

    /// How many addresses it has.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The range of the parent network that this one was reserved from.
    pub fn parent_ar_id(&self) -> Option<i64> {
        self.parent_ar_id
    }

    /// The value of an attribute without meaning for the arithmetic, e.g. BRIDGE or SECURITY_GROUPS.
    pub fn attribute(&self, key: &str) -> Option<&str> {
        given(&self.others, key)
    }

    /// Those attributes.
    pub fn attributes(&self) -> &Vector {
        &self.others
    }

    /// The addresses of an index, nothing outside the range.
    pub fn addresses(&self, index: u32) -> Option<Addresses> {
        if index >= self.size {
            return None;
        }
        let mac = self.mac.plus(index)?;
        let ip = match self.ip {
            Some(ip) => Some(Ipv4Addr::from_bits(ip.to_bits().checked_add(index)?)),
            None => None,
        };
        let ip6 = match self.ip6 {
            Some(ip6) => Some(Ipv6Addr::from_bits(ip6.to_bits().checked_add(u128::from(index))?)),
            None => None,
        };
        let ip6_link = self.kind.has_prefixes().then(|| eui64(LINK_LOCAL, mac));
        let from = |prefix: Option<Ipv6Addr>| prefix.map(|prefix| eui64(prefix, mac));
        Some(Addresses { mac, ip, ip6, ip6_link, ip6_ula: from(self.ula_prefix), ip6_global: from(self.global_prefix) })
    }

    fn index(&self, distance: Option<u128>) -> Option<u32> {
        u32::try_from(distance?).ok().filter(|index| *index < self.size)
    }

    /// The index of an IPv4 address of this range.
    pub fn index_of_ip(&self, ip: Ipv4Addr) -> Option<u32> {
        self.index(u128::from(ip.to_bits()).checked_sub(u128::from(self.ip?.to_bits())))
    }

    /// The index of a counted IPv6 address of this range.
    pub fn index_of_ip6(&self, ip6: Ipv6Addr) -> Option<u32> {
        self.index(ip6.to_bits().checked_sub(self.ip6?.to_bits()))
    }

    /// The index of a MAC of this range.
    pub fn index_of_mac(&self, mac: Mac) -> Option<u32> {
        if mac.prefix() != self.mac.prefix() {
            return None;
        }
        self.index(u128::from(mac.low()).checked_sub(u128::from(self.mac.low())))
    }

    /// EXTERNAL_PORT_RANGE and INTERNAL_PORT_RANGE of an index, when the range has PORT_START and PORT_SIZE.
    pub fn port_ranges(&self, index: u32) -> Option<[(&'static str, String); 2]> {
        let start = self.others.int("PORT_START").filter(|start| *start > 0)?;
        let size = self.others.int("PORT_SIZE").filter(|size| *size > 0)?;
        let first = i64::from(index).checked_mul(size)?.checked_add(start)?.checked_add(1)?;
        let last = first.checked_add(size - 1)?;
        let external = ("EXTERNAL_PORT_RANGE", format!("{first}:{last}"));
        Some([external, ("INTERNAL_PORT_RANGE", format!("1-{size}/{first}"))])
    }

    /// The range as a vector, as stored; [`AddressRange::try_from`] reads it back.
    pub fn to_vector(&self) -> Vector {
        let mut vector = Vector::new();
        vector.set("AR_ID", self.ar_id.to_string());
        vector.set("TYPE", self.kind.name());
        vector.set("SIZE", self.size.to_string());
        vector.set("MAC", self.mac.to_string());
        let mut set = |key, value: Option<String>| value.into_iter().for_each(|value| vector.set(key, value));
        set("IP", self.ip.map(|ip| ip.to_string()));
        set("IP6", self.ip6.map(|ip| ip.to_string()));
        set("PREFIX_LENGTH", self.prefix_length.map(|length| length.to_string()));
        set("GLOBAL_PREFIX", self.global_prefix.map(|prefix| prefix.to_string()));
        set("ULA_PREFIX", self.ula_prefix.map(|prefix| prefix.to_string()));
        set("PARENT_NETWORK_AR_ID", self.parent_ar_id.map(|id| id.to_string()));
        for (key, value) in self.others.iter() {
            set(key, Some(value.to_owned()));
        }
        vector
    }
}

impl From<AddressRange> for Vector {
    fn from(range: AddressRange) -> Self {
        range.to_vector()
    }
}

/// Reads a range as stored.
impl TryFrom<Vector> for AddressRange {
    type Error = Refusal;

    fn try_from(vector: Vector) -> Result<Self, Refusal> {
        let Some(ar_id) = vector.int("AR_ID") else { return refuse("AR/AR_ID attribute is missing.") };
        let mut range = Self::parse(&vector, ar_id, &mut MacSource::default())?;
        range.parent_ar_id = vector.int("PARENT_NETWORK_AR_ID");
        Ok(range)
    }
}

fn generated_mac(ip: Option<Ipv4Addr>, size: u32, macs: &mut MacSource) -> Mac {
    if let Some(ip) = ip {
        return Mac::new(macs.prefix, ip.to_bits());
    }
    let low = macs.low.min(u32::MAX - size.saturating_sub(1));
    macs.low = low.wrapping_add(size);
    Mac::new(macs.prefix, low)
}

fn static_ip6(vector: &Vector, kind: RangeType) -> Result<(Option<Ipv6Addr>, Option<u8>), Refusal> {
    let ip6 = address(vector, "IP6", "IP6 attribute")?;
    if ip6.is_none() {
        return refuse(format!("Wrong or empty IP6 attribute: a range of type {} needs its first IP6.", kind.name()));
    }
    Ok((ip6, Some(prefix_length(vector)?)))
}

fn prefix_length(vector: &Vector) -> Result<u8, Refusal> {
    let length = vector.get("PREFIX_LENGTH").and_then(|text| text.parse().ok()).filter(|length| *length <= 128);
    length.map_or_else(|| refuse("Wrong or empty PREFIX_LENGTH: a number from 0 to 128 is needed."), Ok)
}

/// The bits behind the prefix, all set.
fn host_bits(length: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(length)).unwrap_or(0)
}

fn rest_of_prefix(first: Ipv6Addr, length: u8) -> u32 {
    let mask = host_bits(length);
    let rest = mask - (first.to_bits() & mask);
    u32::try_from(rest.saturating_add(1)).map_or(MAX_SIZE, |rest| rest.min(MAX_SIZE))
}

fn within_prefix(first: Ipv6Addr, length: Option<u8>, last: u32) -> bool {
    let mask = host_bits(length.unwrap_or(0));
    mask - (first.to_bits() & mask) >= u128::from(last)
}
