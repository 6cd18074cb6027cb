//! Virtual networks: which addresses there are, who gets which, and what a network card of a VM becomes.
//!
//! What it is: decisions over values that the caller hands in. [`definition`] checks what a network is made of, [`range`]
//! is the arithmetic of one address range, [`ranges`] keeps those of a network apart, [`lease`] chooses addresses,
//! [`reservation`] hands a piece of one network to another, [`nic`] binds a VM's NIC to a network, [`security`] checks
//! and expands rules of security groups. What it is not: it keeps no leases (the caller's table answers through
//! [`lease::Taken`]), checks no rights and configures no host.
//!
//! A NIC of a new VM: [`nic::number_all`] once for the VM; then for each NIC [`nic::with_default`] (not for aliases),
//! [`nic::network_choice`], [`lease::Wish::of_nic`], [`lease::choose`], write the lease, [`nic::bind`]. When it goes:
//! [`lease::leased`].
//!
//! IP addresses are those of `core::net`, which has addresses only; `std::net` would bring sockets with it.
//!
//! Invariants: an address handed out lies in its range and was free; a range never runs past the end of its address
//! space; what a user wrote into a NIC never overrules bridge, driver, device or VLAN of the network.

pub mod address;
pub mod definition;
pub mod lease;
pub mod nic;
pub mod range;
pub mod ranges;
pub mod reservation;
pub mod security;

use crate::refusal::Refusal;

/// The refusal for a network or lease that cannot be had; the original answers with the code INTERNAL too.
fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Internal(reason.into()))
}
