//! The life of VMs: what their methods are called with.

use super::{Arg, Arg::Int, Arg::Text};
use crate::world::{SIZE, World, octal};

/// A VM that nobody has placed yet.
const WAITING: i64 = 5;

/// Adds what the calls are about; alice's, usable by her group.
pub fn furnish(world: &World) {
    let id = oned::api::vm::allocate(&world.cloud, &world.alice, SIZE, true).unwrap();
    assert_eq!(id, WAITING);
    world.edit_vm(id, |row| row.permissions = octal(0o640));
    for host in [0, super::at::EMPTY_HOST] {
        world.write(|tx| {
            let row = tx.host(host)?;
            tx.host_update(&oned::store::rows::HostRow { vm_mad: "dummy".into(), ..row })
        });
    }
}

/// What each method is called with.
pub fn arguments(method: &str) -> Option<Vec<Arg>> {
    Some(match method {
        "one.vm.restore" => vec![Int(super::at::RUNNING), Int(super::at::BACKUP_IMAGE)],
        "one.vm.deploy" => vec![Int(WAITING), Int(super::at::EMPTY_HOST)],
        "one.vm.migrate" => vec![Int(super::at::RUNNING), Int(super::at::EMPTY_HOST), Arg::Bool(false)],
        "one.vm.resize" => vec![Int(WAITING), Text("CPU=2\nMEMORY=512\n")],
        _ => return None,
    })
}

/// The object that the verbs which all kinds have are tried on.
pub fn object_of(_kind: &str) -> Option<i64> {
    None
}
