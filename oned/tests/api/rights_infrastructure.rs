//! Hosts, clusters, virtual data centres, zones: what their methods are called with.

use super::Arg;
use crate::world::World;

/// Adds what the calls are about; alice's, usable by her group.
pub fn furnish(_world: &World) {}

/// What each method is called with.
pub fn arguments(_method: &str) -> Option<Vec<Arg>> {
    None
}

/// The object that the verbs which all kinds have are tried on.
pub fn object_of(_kind: &str) -> Option<i64> {
    None
}
