//! The restic datastore and the suite that every datastore passes: one repository for all series.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;
#[macro_use]
mod conformance;

use conformance::rigs::{Driver, Store};

conformance!(once Store::here(Driver::ResticShared));
