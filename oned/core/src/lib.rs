//! The meaning of a VM backup cloud: grammar, states, plans, rights and documents.
//!
//! What it is: pure functions and plain values. Everything that the daemon decides is decided here, from facts that
//! the caller hands in. What it is not: it opens no file and no socket, reads no clock, starts no thread and knows
//! neither SQL nor XML-RPC nor libvirt.
//!
//! Invariants: times are `i64` seconds since 1970-01-01 00:00 UTC and always arguments; no function panics on any input;
//! a "no" is a [`refusal::Refusal`] with the wire code and sentence that OpenNebula's clients expect.
#![forbid(unsafe_code)]

pub mod access;
pub mod backup;
pub mod dispatch;
pub mod doc;
pub mod id;
pub mod lifecycle;
pub mod network;
pub mod quota;
pub mod refusal;
pub mod schedule;
pub mod template;
