//! The ranges of one network together: adding, changing and removing (`one.vn.add_ar`, `update_ar`, `rm_ar`).
//!
//! Invariant: no address is in two ranges of a network.

use super::range::{AddressRange, MacSource};
use super::refuse;
use crate::refusal::Refusal;
use crate::template::Template;

/// Most ranges of one network.
pub const MAX_RANGES: usize = 1000;

const NO_AR: &str = "Wrong AR definition. AR vector attribute is missing.";

/// Says whether a range, new or changed, can stand beside the others of its network.
///
/// # Errors
/// [`Refusal::Internal`] when an address would be in both. The original lets that happen and then gives one address to
/// two guests.
pub fn disjoint(ranges: &[AddressRange], new: &AddressRange) -> Result<(), Refusal> {
    match ranges.iter().find(|range| range.ar_id() != new.ar_id() && range.overlaps(new)) {
        Some(range) => refuse(format!(
            "The address range shares addresses with address range {} of the network (IP, IP6 or MAC).",
            range.ar_id()
        )),
        None => Ok(()),
    }
}

/// The number of the next range.
///
/// # Errors
/// [`Refusal::Internal`] when there are [`MAX_RANGES`].
pub fn next_ar_id(ranges: &[AddressRange]) -> Result<i64, Refusal> {
    if ranges.len() >= MAX_RANGES {
        return refuse(format!("A virtual network can have at most {MAX_RANGES} address ranges."));
    }
    Ok(ranges.iter().map(AddressRange::ar_id).max().unwrap_or(-1).saturating_add(1))
}

/// The range that the first `AR` of `template` adds.
///
/// # Errors
/// As [`AddressRange::parse`], [`disjoint`] and [`next_ar_id`], and when there is no AR.
pub fn added(ranges: &[AddressRange], template: &Template, macs: &mut MacSource) -> Result<AddressRange, Refusal> {
    let Some(vector) = template.vector("AR") else { return refuse(NO_AR) };
    let range = AddressRange::parse(vector, next_ar_id(ranges)?, macs)?;
    disjoint(ranges, &range)?;
    Ok(range)
}

/// The range that the first `AR` of `template` names by AR_ID, changed. `last_taken` gives the highest index of a range
/// that is in use.
///
/// # Errors
/// As [`AddressRange::update`] and [`disjoint`], and when there is no such range.
pub fn updated(
    ranges: &[AddressRange],
    template: &Template,
    last_taken: impl FnOnce(i64) -> Result<Option<u32>, Refusal>,
) -> Result<AddressRange, Refusal> {
    let Some(vector) = template.vector("AR") else { return refuse(NO_AR) };
    let Some(ar_id) = vector.int("AR_ID") else { return refuse("AR/AR_ID attribute is missing.") };
    let Some(range) = ranges.iter().find(|range| range.ar_id() == ar_id) else {
        return refuse(format!("Address Range with ID {ar_id} was not found."));
    };
    let mut range = range.clone();
    range.update(vector, last_taken(ar_id)?)?;
    disjoint(ranges, &range)?;
    Ok(range)
}

/// Says whether a range may go; `force` lets it go with its leases.
///
/// # Errors
/// [`Refusal::Internal`] when it is not there or in use.
pub fn may_remove(ranges: &[AddressRange], ar_id: i64, used: u64, force: bool) -> Result<(), Refusal> {
    if !ranges.iter().any(|range| range.ar_id() == ar_id) {
        return refuse(format!("Address Range does not exist: there is no range {ar_id}."));
    }
    if used > 0 && !force {
        return refuse(format!("Address Range has leases in use: {used} of range {ar_id}; release them or use force."));
    }
    Ok(())
}

/// Says whether a network may be deleted.
///
/// # Errors
/// [`Refusal::Action`] when addresses of it are in use; holds count as well, as in the original.
pub fn may_delete(network_id: i64, used: u64) -> Result<(), Refusal> {
    match used {
        0 => Ok(()),
        _ => Err(Refusal::Action(format!(
            "Can not remove a virtual network with leases in use: {used} of virtual network {network_id}."
        ))),
    }
}
