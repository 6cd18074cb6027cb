//! A client of the NBD protocol over a Unix socket: how the bytes of a disk reach us from QEMU and qemu-nbd.
//!
//! It reads: data, allocation, and dirty bitmaps. It does not write, has no TLS and no TCP, and never reconnects by
//! itself: after any failure an [`Export`] refuses further work, because answers to earlier requests may still be on
//! their way.
//!
//! Invariants: no call waits longer than the time-out for the next answer, however slowly bytes trickle; every length
//! that the server names is checked before memory is taken for it; a dirty bitmap that was asked for and not granted is
//! [`crate::Kind::Missing`], never silently a full disk.
//!
//! Protocol facts: the NBD protocol document (`doc/proto.md` of the NetworkBlockDevice project), QEMU's `docs/interop/nbd.txt`.

mod client;
mod extents;
mod failure;
mod link;
mod pending;
mod wire;

pub use client::Export;
