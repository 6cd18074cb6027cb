//! The datastore of plain files in processes of its own, and the suite that every datastore passes.
#![cfg(feature = "restic")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;
#[macro_use]
mod conformance;

use conformance::rigs::{Driver, Store, open_by_name};
use shared::isolated::{role, serve_with};

#[test]
fn serve_for_tests() {
    if role().is_some() {
        serve_with(open_by_name);
    }
}

conformance!(once Store::isolated(Driver::Nfs));
