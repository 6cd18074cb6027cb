//! Virtual networks and security groups: what their methods are called with.

use oned::api::{self, network, security_group};

use super::Arg::{self, Int, Text};
use crate::world::{World, octal};

/// A network that a VM uses.
const LAN: i64 = 0;
/// A network without leases.
const EMPTY: i64 = 1;
/// A reservation from it.
const RESERVED: i64 = 2;
/// A network in ERROR.
const FAILED: i64 = 3;
/// A security group of alice's.
const GROUP: i64 = 100;
/// Alice's VM that is held, with one card.
const HELD: i64 = 6;

/// Adds what the calls are about; alice's, usable by her group.
pub fn furnish(world: &World) {
    let (lan, empty) = (world.add_network("lan"), world.add_network("empty"));
    let mine = |world: &World, id| {
        world.write(|tx| {
            let mut row = tx.network(id)?;
            (row.uid, row.gid, row.permissions) = (world.alice.uid, crate::world::TEAM, octal(0o640));
            tx.network_update(&row)
        });
    };
    let lease = "LEASES=[IP=\"10.0.0.50\"]\n";
    network::hold(&world.cloud, &world.alice, lan, lease).unwrap();
    let reserved = network::reserve(&world.cloud, &world.alice, lan, "NAME=mine\nSIZE=2\n").unwrap();
    let failing = "NAME=failed\nVN_MAD=dummy\nBRIDGE=x\nAR=[TYPE=IP4,IP=\"10.9.0.1\",SIZE=-1]\n";
    let failed = network::allocate(&world.cloud, &world.admin, failing, -1).unwrap();
    [reserved, failed].into_iter().for_each(|id| mine(world, id));
    let group = security_group::allocate(&world.cloud, &world.alice, "NAME=web\n").unwrap();
    world.write(|tx| {
        let row = tx.security_group(group)?;
        tx.security_group_update(&oned::store::rows::SecurityGroupRow { permissions: octal(0o640), ..row })
    });
    let text = "CPU=1\nMEMORY=1\nNIC=[NETWORK=lan]\n";
    let held = api::vm::allocate(&world.cloud, &world.alice, text, true).unwrap();
    world.edit_vm(held, |row| row.permissions = octal(0o640));
    api::vm_nics::security_group(&world.cloud, &world.alice, held, 0, group, true).unwrap();
    let spare = security_group::allocate(&world.cloud, &world.alice, "NAME=spare\n").unwrap();
    world.write(|tx| {
        let row = tx.security_group(spare)?;
        tx.security_group_update(&oned::store::rows::SecurityGroupRow { permissions: octal(0o640), ..row })
    });
    assert_eq!((lan, empty, reserved, failed), (LAN, EMPTY, RESERVED, FAILED));
    assert_eq!((group, spare, held), (GROUP, GROUP + 1, HELD));
}

/// What each method is called with.
pub fn arguments(method: &str) -> Option<Vec<Arg>> {
    let range = "AR=[TYPE=IP4,IP=\"10.1.0.1\",SIZE=5]\n";
    Some(match method {
        "one.vn.add_ar" => vec![Int(LAN), Text(range)],
        "one.vn.allocate" => vec![Text("NAME=more\nVN_MAD=bridge\n")],
        "one.vn.delete" => vec![Int(EMPTY)],
        "one.vn.free_ar" => vec![Int(RESERVED), Int(0)],
        "one.vn.hold" => vec![Int(LAN), Text("LEASES=[IP=\"10.0.0.60\"]\n")],
        "one.vn.info" => vec![Int(LAN)],
        "one.vn.recover" => vec![Int(FAILED), Int(1)],
        "one.vn.release" => vec![Int(LAN), Text("LEASES=[IP=\"10.0.0.50\"]\n")],
        "one.vn.rename" => vec![Int(LAN), Text("other")],
        "one.vn.reserve" => vec![Int(LAN), Text("NAME=more\nSIZE=3\n")],
        "one.vn.rm_ar" => vec![Int(EMPTY), Int(0)],
        "one.vn.update" => vec![Int(LAN), Text("NOTE=x\n"), Int(1)],
        "one.vn.update_ar" => vec![Int(LAN), Text("AR=[AR_ID=0,SIZE=80]\n")],
        "one.vnpool.info" | "one.secgrouppool.info" => vec![],
        "one.secgroup.allocate" => vec![Text("NAME=more\nRULE=[PROTOCOL=TCP,RULE_TYPE=inbound]\n")],
        "one.secgroup.clone" => vec![Int(GROUP), Text("copy")],
        "one.secgroup.commit" | "one.secgroup.info" => vec![Int(GROUP)],
        "one.secgroup.delete" => vec![Int(GROUP + 1)],
        "one.secgroup.rename" => vec![Int(GROUP), Text("other")],
        "one.secgroup.update" => vec![Int(GROUP), Text("RULE=[PROTOCOL=ALL,RULE_TYPE=outbound]\n"), Int(1)],
        "one.vm.attachnic" => vec![Int(HELD), Text("NIC=[NETWORK_ID=0]\n")],
        "one.vm.attachsg" => vec![Int(HELD), Int(0), Int(GROUP + 1)],
        "one.vm.detachnic" => vec![Int(HELD), Int(0)],
        "one.vm.detachsg" => vec![Int(HELD), Int(0), Int(GROUP)],
        "one.vm.updatenic" => vec![Int(HELD), Int(0), Text("NIC=[MODEL=e1000]\n"), Int(1)],
        _ => return None,
    })
}

/// The object that the verbs which all kinds have are tried on.
pub fn object_of(kind: &str) -> Option<i64> {
    match kind {
        "vn" => Some(LAN),
        "secgroup" => Some(GROUP),
        _ => None,
    }
}
