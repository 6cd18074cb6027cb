//! The dummy drivers: a hypervisor and a backup datastore that need nothing but a directory.
//!
//! They are for the test suites of clients and for fault injection: everything answers, nothing runs. Disks are real
//! image files and backups of them real copies, so a restored disk can be compared; domains only have a state. All of it
//! lies in files and survives a process that is killed, as libvirt and a repository would. A [`Script`] tells which call
//! shall be slow, wait or fail; `script.json` in the driver's directory is read at each call.
//!
//! They are no proof that anything works with the real ones, and not made for big disks: the beginning of a backup copies
//! each disk.
//!
//! Invariants: as for every driver here; besides, whether a block changed is decided by its bytes, never by who is thought
//! to have written it.

mod backup;
mod blocks;
mod datastore;
mod domain;
mod files;
mod gate;
mod hypervisor;
mod image;
mod point;
mod restore;
mod script;
mod snapshot;
mod store;
mod verify;

pub use datastore::DummyDatastore;
pub use gate::SCRIPT_FILE;
pub use hypervisor::DummyHypervisor;
pub use script::{Facts, Fault, FaultKind, MAX_DELAY, Operation, Rule, Script, Space, Unmarked, When};
