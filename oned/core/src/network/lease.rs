//! Choosing addresses: the first free one, a wished one, one to hold or to release.
//!
//! What it is: decisions over the ranges of a network and the answers of a [`Taken`]. What it is not: it takes nothing;
//! the caller writes what was chosen, in the transaction in which it asked. [`LeaseTable`] is a `Taken` in memory.
//!
//! Where the original differs: it looks for the next address after the one it gave last; here the lowest free one is
//! chosen, so that the answer depends on nothing but the leases.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::address::Mac;
use super::range::{AddressRange, Addresses};
use super::refuse;
use crate::refusal::Refusal;
use crate::template::{Template, Vector};

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseOwner {
    /// Nobody: it is kept from being given out. On the wire a VM −1.
    Hold,
    /// A VM.
    Vm(i64),
    /// A reservation made from this network.
    Network(i64),
    /// A virtual router.
    Router(i64),
}

impl LeaseOwner {
    /// Element and id in a LEASE.
    pub fn shown(self) -> (&'static str, i64) {
        match self {
            Self::Hold => ("VM", -1),
            Self::Vm(id) => ("VM", id),
            Self::Network(id) => ("VNET", id),
            Self::Router(id) => ("VROUTER", id),
        }
    }
}

/// An address of a network: its range, and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The range.
    pub ar_id: i64,
    /// The index, from 0.
    pub index: u32,
}

/// The network that is asked for an address.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Network id.
    pub id: i64,
    /// Its ranges.
    pub ranges: &'a [AddressRange],
}

impl<'a> Scope<'a> {
    /// The range with this id.
    pub fn range(&self, ar_id: i64) -> Option<&'a AddressRange> {
        self.ranges.iter().find(|range| range.ar_id() == ar_id)
    }

    /// The addresses at a place.
    pub fn addresses(&self, place: Place) -> Option<Addresses> {
        self.range(place.ar_id)?.addresses(place.index)
    }

    /// The ranges by id, only the given one when there is a limit.
    pub(super) fn by_id(&self, only: Option<i64>) -> Vec<&'a AddressRange> {
        let mut ranges: Vec<_> = self.ranges.iter().filter(|range| only.is_none_or(|id| range.ar_id() == id)).collect();
        ranges.sort_by_key(|range| range.ar_id());
        ranges
    }
}

/// What is known about the leases of one network.
pub trait Taken {
    /// Who has this address.
    ///
    /// # Errors
    /// Whatever reading can meet.
    fn owner(&mut self, place: Place) -> Result<Option<LeaseOwner>, Refusal>;

    /// The lowest index of the range from which `length` addresses in a row are free, not before `from` and all of them
    /// below `end`. [`lowest_free_run`] computes it from sorted indexes.
    ///
    /// # Errors
    /// Whatever reading can meet.
    fn free_run(&mut self, ar_id: i64, from: u32, end: u32, length: u32) -> Result<Option<u32>, Refusal>;
}

/// The lowest start of `length` free indexes in `from..end`; `taken` gives the indexes in use, ascending (those below
/// `from` do no harm). Reads no further than needed.
pub fn lowest_free_run(taken: impl IntoIterator<Item = u32>, from: u32, end: u32, length: u32) -> Option<u32> {
    let fits = |start: u32, before: u32| start.checked_add(length).is_some_and(|stop| stop <= before);
    let mut start = from;
    for index in taken {
        if index >= end || fits(start, index) {
            break;
        }
        start = start.max(index.saturating_add(1));
    }
    fits(start, end).then_some(start)
}

/// What somebody wants of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Any.
    Any,
    /// This IPv4 address.
    Ip(Ipv4Addr),
    /// This counted IPv6 address.
    Ip6(Ipv6Addr),
    /// This MAC.
    Mac(Mac),
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any address"),
            Self::Ip(ip) => write!(f, "IP {ip}"),
            Self::Ip6(ip) => write!(f, "IP6 {ip}"),
            Self::Mac(mac) => write!(f, "MAC {mac}"),
        }
    }
}

impl Wish {
    /// The wish in IP, IP6 and MAC; empty values are none.
    ///
    /// # Errors
    /// [`Refusal::Internal`] for two wishes at once, and for a value that is no address.
    pub fn of_nic(nic: &Vector) -> Result<Self, Refusal> {
        Self::read(|key| nic.get(key), "A NIC may wish for only one of IP, IP6 and MAC.")
    }

    pub(super) fn read<'v>(get: impl Fn(&str) -> Option<&'v str>, two: &str) -> Result<Self, Refusal> {
        let mut wish = None;
        for key in ["IP", "IP6", "MAC"] {
            let Some(text) = get(key).filter(|text| !text.is_empty()) else { continue };
            let parsed = match key {
                "IP" => text.parse().ok().map(Self::Ip),
                "IP6" => text.parse().ok().map(Self::Ip6),
                _ => text.parse().ok().map(Self::Mac),
            };
            let Some(parsed) = parsed else {
                return refuse(format!("Wrong format for {key}: {text} is no such address."));
            };
            if wish.replace(parsed).is_some() {
                return refuse(two);
            }
        }
        Ok(wish.unwrap_or(Self::Any))
    }

    /// The index of the wished address in a range; nothing when it is not there, or when any would do.
    pub fn index_in(&self, range: &AddressRange) -> Option<u32> {
        match self {
            Self::Any => None,
            Self::Ip(ip) => range.index_of_ip(*ip),
            Self::Ip6(ip) => range.index_of_ip6(*ip),
            Self::Mac(mac) => range.index_of_mac(*mac),
        }
    }
}

/// Chooses an address for a NIC: the wished one, else the lowest free index of the lowest range that has one.
///
/// # Errors
/// [`Refusal::Internal`] when the network is full, or the address is not in the network or in use.
pub fn choose(scope: Scope<'_>, wish: Wish, taken: &mut impl Taken) -> Result<Place, Refusal> {
    let cannot = |why: String| refuse(format!("Cannot get IP/MAC lease from virtual network {}: {why}", scope.id));
    if wish != Wish::Any {
        return match find(scope, wish, None, taken)? {
            Found::Free(place) => Ok(place),
            Found::Taken => cannot(format!("{wish} is in use.")),
            Found::Outside => cannot(format!("{wish} is in none of its address ranges.")),
        };
    }
    for range in scope.by_id(None) {
        if let Some(index) = taken.free_run(range.ar_id(), 0, range.size(), 1)? {
            return Ok(Place { ar_id: range.ar_id(), index });
        }
    }
    cannot(if scope.ranges.is_empty() { "it has no address range." } else { "no address is free." }.to_owned())
}

/// The place that a bound NIC has in this network, by its AR_ID and MAC (without AR_ID in whichever range has the MAC).
/// The caller gives it back if it still belongs to the VM.
pub fn leased(scope: Scope<'_>, nic: &Vector) -> Option<Place> {
    let mac: Mac = nic.get("MAC")?.parse().ok()?;
    let of_range = |range: &AddressRange| Some(Place { ar_id: range.ar_id(), index: range.index_of_mac(mac)? });
    scope.by_id(nic.int("AR_ID")).into_iter().find_map(of_range)
}

enum Found {
    Free(Place),
    Taken,
    Outside,
}

fn find(scope: Scope<'_>, wish: Wish, only: Option<i64>, taken: &mut impl Taken) -> Result<Found, Refusal> {
    let mut found = Found::Outside;
    for range in scope.by_id(only) {
        let Some(index) = wish.index_in(range) else { continue };
        let place = Place { ar_id: range.ar_id(), index };
        if taken.owner(place)?.is_none() {
            return Ok(Found::Free(place));
        }
        found = Found::Taken;
    }
    Ok(found)
}

/// The address named in the LEASES vector of `one.vn.hold` and `one.vn.release`.
fn named(template: &Template) -> Result<(Wish, Option<i64>), Refusal> {
    let Some(lease) = template.vector("LEASES") else { return refuse("Empty lease description.") };
    match Wish::read(|key| lease.get(key), "Only one attribute MAC, IP or IP6 can be set.")? {
        Wish::Any => refuse("Missing MAC, IP or IP6."),
        wish => Ok((wish, lease.int("AR_ID"))),
    }
}

/// The place that `LEASES=[IP=…]` (or IP6, MAC; AR_ID limits it to one range) asks to hold.
///
/// # Errors
/// [`Refusal::Internal`] for a missing or double address, one in use, or one outside the network.
pub fn hold(scope: Scope<'_>, template: &Template, taken: &mut impl Taken) -> Result<Place, Refusal> {
    let (wish, only) = named(template)?;
    match find(scope, wish, only, taken)? {
        Found::Free(place) => Ok(place),
        Found::Taken => refuse(format!("{wish} of virtual network {} is in use.", scope.id)),
        Found::Outside => outside(scope, wish, only),
    }
}

/// The place whose hold `LEASES=[IP=…]` asks to end.
///
/// # Errors
/// [`Refusal::Internal`] for a missing or double address, one outside the network, or one that is not on hold (the
/// original then says nothing and does nothing).
pub fn release(scope: Scope<'_>, template: &Template, taken: &mut impl Taken) -> Result<Place, Refusal> {
    let (wish, only) = named(template)?;
    for range in scope.by_id(only) {
        let Some(index) = wish.index_in(range) else { continue };
        let place = Place { ar_id: range.ar_id(), index };
        return match taken.owner(place)? {
            Some(LeaseOwner::Hold) => Ok(place),
            Some(owner) => {
                let (kind, id) = owner.shown();
                refuse(format!("{wish} of virtual network {} is not on hold, it belongs to {kind} {id}.", scope.id))
            }
            None => refuse(format!("{wish} of virtual network {} is not on hold.", scope.id)),
        };
    }
    outside(scope, wish, only)
}

fn outside<T>(scope: Scope<'_>, wish: Wish, only: Option<i64>) -> Result<T, Refusal> {
    let of = only.map_or_else(|| "an address range".to_owned(), |id| format!("address range {id}"));
    refuse(format!("{wish} is not part of {of} of virtual network {}.", scope.id))
}

/// The leases of one network in memory. To take, to give back and to find one free address costs the logarithm of their
/// number; runs of several addresses, [`Self::release_all`], [`Self::iter`] and [`Self::vms`] look at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseTable {
    ranges: BTreeMap<i64, RangeLeases>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RangeLeases {
    owners: BTreeMap<u32, LeaseOwner>,
    /// Free runs: first index to the one after the last, never touching each other.
    free: BTreeMap<u32, u32>,
}

impl Default for RangeLeases {
    fn default() -> Self {
        Self { owners: BTreeMap::new(), free: BTreeMap::from([(0, u32::MAX)]) }
    }
}

impl RangeLeases {
    fn take(&mut self, index: u32, owner: LeaseOwner) -> bool {
        let Some((start, end)) = self.free.range(..=index).next_back().map(|(start, end)| (*start, *end)) else {
            return false;
        };
        if index >= end {
            return false;
        }
        self.free.remove(&start);
        if start < index {
            self.free.insert(start, index);
        }
        if index + 1 < end {
            self.free.insert(index + 1, end);
        }
        self.owners.insert(index, owner);
        true
    }

    fn give_back(&mut self, index: u32) -> Option<LeaseOwner> {
        let owner = self.owners.remove(&index)?;
        // Only indexes below u32::MAX were ever taken.
        let mut end = index + 1;
        if let Some(later) = self.free.remove(&end) {
            end = later;
        }
        let before = self.free.range(..index).next_back().filter(|(_, stop)| **stop == index).map(|(start, _)| *start);
        self.free.insert(before.unwrap_or(index), end);
        Some(owner)
    }
}

impl LeaseTable {
    /// A network without leases.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives an address to `owner`; false when somebody has it.
    pub fn take(&mut self, place: Place, owner: LeaseOwner) -> bool {
        self.ranges.entry(place.ar_id).or_default().take(place.index, owner)
    }

    /// Makes an address free, and says whose it was.
    pub fn give_back(&mut self, place: Place) -> Option<LeaseOwner> {
        let range = self.ranges.get_mut(&place.ar_id)?;
        let owner = range.give_back(place.index);
        // Tables with the same leases are equal, whatever they held before.
        if range.owners.is_empty() {
            self.ranges.remove(&place.ar_id);
        }
        owner
    }

    /// Makes all addresses of an owner free, and says which they were.
    pub fn release_all(&mut self, owner: LeaseOwner) -> Vec<Place> {
        let places: Vec<_> = self.iter().filter(|(_, has)| *has == owner).map(|(place, _)| place).collect();
        for place in &places {
            self.give_back(*place);
        }
        places
    }

    /// All leases, by range and index.
    pub fn iter(&self) -> impl Iterator<Item = (Place, LeaseOwner)> {
        let of_range = |(ar_id, range): (&i64, &RangeLeases)| {
            let ar_id = *ar_id;
            let leases: Vec<_> =
                range.owners.iter().map(|(index, owner)| (Place { ar_id, index: *index }, *owner)).collect();
            leases
        };
        self.ranges.iter().flat_map(of_range)
    }

    /// How many addresses of a range are in use.
    pub fn used(&self, ar_id: i64) -> usize {
        self.ranges.get(&ar_id).map_or(0, |range| range.owners.len())
    }

    /// The highest index of a range in use.
    pub fn last(&self, ar_id: i64) -> Option<u32> {
        self.ranges.get(&ar_id)?.owners.last_key_value().map(|(index, _)| *index)
    }

    /// The VMs that have an address here.
    pub fn vms(&self) -> BTreeSet<i64> {
        let vm = |(_, owner)| if let LeaseOwner::Vm(id) = owner { Some(id) } else { None };
        self.iter().filter_map(vm).collect()
    }
}

/// Leases by place; of two for one place the first counts.
impl FromIterator<(Place, LeaseOwner)> for LeaseTable {
    fn from_iter<I: IntoIterator<Item = (Place, LeaseOwner)>>(leases: I) -> Self {
        let mut table = Self::new();
        for (place, owner) in leases {
            table.take(place, owner);
        }
        table
    }
}

impl Taken for LeaseTable {
    fn owner(&mut self, place: Place) -> Result<Option<LeaseOwner>, Refusal> {
        Ok(self.ranges.get(&place.ar_id).and_then(|range| range.owners.get(&place.index)).copied())
    }

    fn free_run(&mut self, ar_id: i64, from: u32, end: u32, length: u32) -> Result<Option<u32>, Refusal> {
        let fits = |start: u32, stop: u32| start.checked_add(length).is_some_and(|last| last <= stop.min(end));
        if from >= end {
            return Ok(None);
        }
        let Some(range) = self.ranges.get(&ar_id) else { return Ok(fits(from, u32::MAX).then_some(from)) };
        let first = range.free.range(..=from).next_back().map_or(from, |(start, _)| *start);
        let mut runs = range.free.range(first..end).map(|(start, stop)| ((*start).max(from), *stop));
        Ok(runs.find(|(start, stop)| fits(*start, *stop)).map(|(start, _)| start))
    }
}
