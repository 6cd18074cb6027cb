//! Reservations: a network that consists of addresses taken from another one.
//!
//! What it is: reading `one.vn.reserve`'s template, choosing the run of addresses, and the ranges that the reservation
//! gets. What it is not: it takes nothing and makes no network; the caller marks `place … place + size` of the parent as
//! [`LeaseOwner::Network`](super::lease::LeaseOwner), and gives them back with [`origin`] when the range or the
//! reservation is removed.
//!
//! Invariants: a reservation lies in one range of its parent, without gaps, and the address with index i of its range
//! is the one with index first + i of the parent's.

use super::lease::{Place, Scope, Taken, Wish};
use super::range::{AddressRange, MAX_SIZE};
use crate::refusal::Refusal;
use crate::template::Template;

/// What becomes of the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A new network of this name.
    New(String),
    /// One more range of this reservation.
    Extend(i64),
}

/// What somebody wants to reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How many addresses.
    pub size: u32,
    /// For which network.
    pub target: Target,
    /// Only from this range.
    pub ar_id: Option<i64>,
    /// Beginning with this address.
    pub first: Wish,
}

/// What a reservation takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// The first address in the parent; `range.size()` addresses from there are to be taken.
    pub place: Place,
    /// The range that the reservation gets.
    pub range: AddressRange,
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Action(reason.into()))
}

impl Request {
    /// Reads the template of `one.vn.reserve`: SIZE, NETWORK_ID or NAME, AR_ID, and one of IP, IP6 and MAC.
    ///
    /// # Errors
    /// [`Refusal::Action`] for what is missing or malformed, as in the original.
    pub fn parse(template: &Template) -> Result<Self, Refusal> {
        let size = template.int("SIZE").and_then(|size| u32::try_from(size).ok());
        let Some(size) = size.filter(|size| (1..=MAX_SIZE).contains(size)) else {
            return refuse(format!("SIZE must be a number from 1 to {MAX_SIZE} in a reservation."));
        };
        let given = |key: &str| template.scalar(key).filter(|value| !value.is_empty());
        let target = match (given("NETWORK_ID"), given("NAME")) {
            (Some(id), _) => match id.parse() {
                Ok(id) => Target::Extend(id),
                Err(_) => return refuse(format!("Wrong NETWORK_ID {id} in a reservation, it must be a number.")),
            },
            (None, Some(name)) => Target::New(name.to_owned()),
            (None, None) => return refuse("NAME or NETWORK_ID must be set for a reservation."),
        };
        let ar_id = match given("AR_ID").map(str::parse::<i64>) {
            None => None,
            Some(Ok(id)) if id >= 0 => Some(id),
            Some(_) => return refuse("AR_ID must be equal or greater than 0"),
        };
        let first = Wish::read(|key| template.scalar(key), "Only one attribute MAC, IP or IP6 can be set.");
        let first = first.or_else(|refusal| refuse(refusal.to_string()))?;
        if first != Wish::Any && ar_id.is_none() {
            return refuse("AR_ID must be specified for IP/MAC based reservations");
        }
        Ok(Self { size, target, ar_id, first })
    }
}

/// Chooses the addresses for a reservation from `parent`, and makes its range number `new_ar_id`. Without a first
/// address it is the lowest run of free ones in the lowest range that has one.
///
/// # Errors
/// [`Refusal::Action`] when the parent is a reservation itself, or has no such run of free addresses.
pub fn reserve(
    parent: Scope<'_>,
    parent_is_reservation: bool,
    request: &Request,
    new_ar_id: i64,
    taken: &mut impl Taken,
) -> Result<Reserved, Refusal> {
    if parent_is_reservation {
        return refuse(format!(
            "Cannot reserve addresses from a reserved VNET: virtual network {} is a reservation itself.",
            parent.id
        ));
    }
    for range in parent.by_id(request.ar_id) {
        let ar_id = range.ar_id();
        let start = match (request.first, request.first.index_in(range)) {
            (Wish::Any, _) => taken.free_run(ar_id, 0, range.size(), request.size)?,
            (_, None) => None,
            (_, Some(index)) => {
                let end = index.saturating_add(request.size).min(range.size());
                taken.free_run(ar_id, index, end, request.size)?
            }
        };
        let Some(index) = start else { continue };
        if let Some(part) = range.part(index, request.size, new_ar_id) {
            return Ok(Reserved { place: Place { ar_id, index }, range: part });
        }
    }
    let size = request.size;
    match request.ar_id {
        Some(id) => {
            let from = if request.first == Wish::Any { String::new() } else { format!(" from {}", request.first) };
            refuse(format!(
                "Not enough free addresses in address range {id}, or it does not exist: {size} in a row{from} are wanted \
                 of virtual network {}.",
                parent.id
            ))
        }
        None => refuse(format!(
            "Not enough free addresses in an address range: {size} in a row are wanted of virtual network {}.",
            parent.id
        )),
    }
}

/// Where in the parent the range of a reservation begins; its size tells where it ends. Nothing when `range` was not
/// reserved from one of these ranges.
pub fn origin(parent: Scope<'_>, range: &AddressRange) -> Option<Place> {
    let ar_id = range.parent_ar_id()?;
    let index = parent.range(ar_id)?.index_of_mac(range.addresses(0)?.mac)?;
    Some(Place { ar_id, index })
}
