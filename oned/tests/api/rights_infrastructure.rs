//! Hosts, clusters, virtual data centres, zones, and the records of VMs: what their methods are called with.

use one_core::refusal::ObjectKind;
use oned::api::vdc::Member;
use oned::api::{cluster, vdc};
use oned::store::rows::{HostRow, NetworkRow};

use super::Arg::{self, Bool, Int, Text};
use super::at;
use crate::world::{TEAM, World, octal};

/// Has something in it, and [`EMPTY`] has not.
const RACK: i64 = 100;
const EMPTY: i64 = 101;
/// Far from the ids that counters give: in the rack.
const RACKED: i64 = 90;
const OTHER_NETWORK: i64 = 91;
const VDC: i64 = 100;

/// Adds what the calls are about; networks are alice's.
pub fn furnish(world: &World) {
    let rack = cluster::allocate(&world.cloud, &world.admin, "rack").unwrap();
    let empty = cluster::allocate(&world.cloud, &world.admin, "empty").unwrap();
    assert_eq!((rack, empty), (RACK, EMPTY));
    world.write(|tx| {
        let host = tx.host(at::EMPTY_HOST)?;
        tx.host_insert(&HostRow { id: RACKED, name: "racked".into(), cluster_id: RACK, ..host })?;
        for (id, clusters) in [(RACKED, "100"), (OTHER_NETWORK, "")] {
            tx.network_insert(&network(id, world.alice.uid, clusters))?;
        }
        Ok(())
    });
    assert_eq!(vdc::allocate(&world.cloud, &world.admin, "NAME=department\n").unwrap(), VDC);
    vdc::set_group(&world.cloud, &world.admin, VDC, at::EMPTY_GROUP, true).unwrap();
    for (kind, object) in [
        (ObjectKind::Cluster, RACK),
        (ObjectKind::Host, RACKED),
        (ObjectKind::Datastore, at::EMPTY),
        (ObjectKind::Network, RACKED),
    ] {
        vdc::add(&world.cloud, &world.admin, VDC, Member { kind, zone: 0, object }).unwrap();
    }
}

/// A network without addresses, which a group may use.
pub fn network(id: i64, uid: i64, clusters: &str) -> NetworkRow {
    NetworkRow {
        id,
        uid,
        gid: TEAM,
        name: format!("network {id}"),
        permissions: octal(0o640),
        clusters: clusters.into(),
        parent_id: None,
        state: 1,
        prev_state: 0,
        auto_vlan: String::new(),
        auto_outer_vlan: String::new(),
        vn_mad: "bridge".into(),
        bridge: "br0".into(),
        ranges: String::new(),
        lock: String::new(),
        template: String::new(),
    }
}

/// What each method is called with.
pub fn arguments(method: &str) -> Option<Vec<Arg>> {
    let of_vdc = |object| vec![Int(VDC), Int(0), Int(object)];
    Some(match method {
        "one.cluster.adddatastore" => vec![Int(RACK), Int(at::EMPTY)],
        "one.cluster.addhost" => vec![Int(RACK), Int(at::EMPTY_HOST)],
        "one.cluster.addvnet" => vec![Int(RACK), Int(OTHER_NETWORK)],
        "one.cluster.allocate" => vec![Text("more")],
        "one.cluster.deldatastore" => vec![Int(0), Int(at::EMPTY)],
        "one.cluster.delete" => vec![Int(EMPTY)],
        "one.cluster.delhost" | "one.cluster.delvnet" => vec![Int(RACK), Int(RACKED)],
        "one.cluster.rename" => vec![Int(RACK), Text("other")],
        "one.cluster.update" => vec![Int(RACK), Text("NOTE=x\n"), Int(1)],
        "one.host.monitoring" | "one.vm.monitoring" => vec![Int(0)],
        "one.host.status" => vec![Int(at::EMPTY_HOST), Int(1)],
        "one.hostpool.monitoring" | "one.vdcpool.info" | "one.zone.raftstatus" => vec![],
        "one.vdc.addcluster" => of_vdc(EMPTY),
        "one.vdc.adddatastore" => of_vdc(at::BACKUPS),
        "one.vdc.addgroup" => vec![Int(VDC), Int(TEAM)],
        "one.vdc.addhost" => of_vdc(at::EMPTY_HOST),
        "one.vdc.addvnet" => of_vdc(OTHER_NETWORK),
        "one.vdc.allocate" => vec![Text("NAME=more\n")],
        "one.vdc.delcluster" => of_vdc(RACK),
        "one.vdc.deldatastore" => of_vdc(at::EMPTY),
        "one.vdc.delete" | "one.vdc.info" => vec![Int(VDC)],
        "one.vdc.delgroup" => vec![Int(VDC), Int(at::EMPTY_GROUP)],
        "one.vdc.delhost" | "one.vdc.delvnet" => of_vdc(RACKED),
        "one.vdc.rename" => vec![Int(VDC), Text("other")],
        "one.vdc.update" => vec![Int(VDC), Text("NOTE=x\n"), Int(1)],
        "one.vmpool.accounting" | "one.vmpool.calculateshowback" => vec![],
        "one.vmpool.monitoring" | "one.vmpool.showback" => vec![],
        "one.zone.addserver" => vec![Int(0), Text("SERVER=[NAME=a,ENDPOINT=b]")],
        "one.zone.allocate" => vec![Text("NAME=more\nENDPOINT=b\n")],
        "one.zone.delete" => vec![Int(0)],
        "one.zone.delserver" | "one.zone.resetserver" => vec![Int(0), Int(0)],
        "one.zone.enable" => vec![Int(0), Bool(false)],
        "one.zone.rename" => vec![Int(0), Text("other")],
        "one.zone.update" => vec![Int(0), Text("ENDPOINT=\"http://a:2633/RPC2\"\n"), Int(1)],
        _ => return None,
    })
}

/// The object that the verbs which all kinds have are tried on.
pub fn object_of(_kind: &str) -> Option<i64> {
    None
}
