//! The harness of the system tests: a private libvirtd, a tiny real guest, the daemon as a child process, its
//! command line, and the field's own tools as oracles.
//!
//! It depends on none of our other packages, so that each of them can use it in its tests, and it knows of `oned`
//! only what a stranger knows: its binaries, its options, its wire (but for the feature `population`, which `bench` alone
//! needs). Nothing here skips: what is missing is an error
//! that says what to install. Every outside call has a deadline, and whatever a test started ends with it.

pub mod bench;
pub mod cloud;
pub mod command;
pub mod daemon;
pub mod guest;
pub mod invariants;
pub mod libvirtd;
pub mod mask;
pub mod nfs;
pub mod place;
pub mod restic;
pub mod rpc;
pub mod screen;
pub mod session;
pub mod share;
pub mod supervisor;
pub mod torture;
pub mod xml;
pub mod xsd;
