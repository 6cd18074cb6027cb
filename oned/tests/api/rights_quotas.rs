//! Quotas: what their methods are called with.

use super::{Arg, at};
use crate::world::{TEAM, World};

/// Adds what the calls are about; alice's, usable by her group.
pub fn furnish(_world: &World) {}

/// What each method is called with.
pub fn arguments(method: &str) -> Option<Vec<Arg>> {
    let limits = Arg::Text("VM=[VMS=5]\nDATASTORE=[ID=100,SIZE=20480,IMAGES=10]\n");
    Some(match method {
        "one.user.quota" => vec![Arg::Int(at::OWNER), limits],
        "one.group.quota" => vec![Arg::Int(TEAM), limits],
        "one.userquota.update" | "one.groupquota.update" => vec![limits],
        "one.userquota.info" | "one.groupquota.info" => vec![],
        _ => return None,
    })
}

/// The object that the verbs which all kinds have are tried on.
pub fn object_of(_kind: &str) -> Option<i64> {
    None
}
