//! Hosts, clusters, virtual data centres, zones.

use one_core::refusal::ObjectKind;

use super::{DECRYPT, ID, NAME, TEXT, TYPE, rows};
use crate::api::vdc::{self, Member};
use crate::api::{Cloud, cluster, host, zone};
use crate::rpc::{Args, Method, ParamSpec};

const HOST: ParamSpec = ParamSpec::int("host");
const DATASTORE: ParamSpec = ParamSpec::int("datastore");
const NETWORK: ParamSpec = ParamSpec::int("network");
const ZONE: ParamSpec = ParamSpec::int("zone");
const CLUSTER: ParamSpec = ParamSpec::int("cluster");
const GROUP: ParamSpec = ParamSpec::int("group");
const SERVER: ParamSpec = ParamSpec::int("server");
const SECONDS: ParamSpec = ParamSpec::int("seconds").or_int(-1);

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let families = [clusters(), hosts(), vdcs(), zones()];
    families.into_iter().flatten().collect()
}

fn clusters() -> Vec<Method<Cloud>> {
    rows! {
        "one.cluster.adddatastore", [ID, DATASTORE], "Puts a datastore into a cluster.", Id,
            |c, u, a| cluster::set_datastore(c, u, a.int(0), a.int(1), true);
        "one.cluster.addhost", [ID, HOST], "Moves a host into a cluster.", Id,
            |c, u, a| cluster::add_host(c, u, a.int(0), a.int(1));
        "one.cluster.addvnet", [ID, NETWORK], "Puts a virtual network into a cluster.", Id,
            |c, u, a| cluster::set_network(c, u, a.int(0), a.int(1), true);
        "one.cluster.allocate", [NAME], "Creates a cluster.", Id, |c, u, a| cluster::allocate(c, u, a.text(0));
        "one.cluster.deldatastore", [ID, DATASTORE], "Takes a datastore out of a cluster.", Id,
            |c, u, a| cluster::set_datastore(c, u, a.int(0), a.int(1), false);
        "one.cluster.delete", [ID], "Deletes an empty cluster.", Id, |c, u, a| cluster::delete(c, u, a.int(0));
        "one.cluster.delhost", [ID, HOST], "Moves a host from a cluster to cluster 0.", Id,
            |c, u, a| cluster::remove_host(c, u, a.int(0), a.int(1));
        "one.cluster.delvnet", [ID, NETWORK], "Takes a virtual network out of a cluster.", Id,
            |c, u, a| cluster::set_network(c, u, a.int(0), a.int(1), false);
        "one.cluster.info", [ID, DECRYPT], "Shows a cluster.", Text, |c, u, a| cluster::info_decrypt(c, u, a.int(0), a.bool(1));
        "one.cluster.rename", [ID, NAME], "Renames a cluster.", Id,
            |c, u, a| cluster::rename(c, u, a.int(0), a.text(1));
        "one.cluster.update", [ID, TEXT, TYPE], "Changes a cluster's attributes.", Id,
            |c, u, a| cluster::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.clusterpool.info", [], "Lists the clusters.", Text, |c, u, a| cluster::pool(c, u);
    }
}

fn hosts() -> Vec<Method<Cloud>> {
    rows! {
        "one.host.allocate", [NAME, ParamSpec::text("im"), ParamSpec::text("vmm"), CLUSTER.or_int(-1)],
            "Adds a host.", Id, |c, u, a| host::allocate(c, u, a.text(0), a.text(1), a.text(2), a.int(3));
        "one.host.delete", [ID], "Removes a host without VMs.", Id, |c, u, a| host::delete(c, u, a.int(0));
        "one.host.info", [ID, DECRYPT], "Shows a host.", Text, |c, u, a| host::info_decrypt(c, u, a.int(0), a.bool(1));
        "one.host.monitoring", [ID], "Shows what was measured of a host.", Text,
            |c, u, a| host::monitoring(c, u, a.int(0));
        "one.host.rename", [ID, NAME], "Renames a host.", Id, |c, u, a| host::rename(c, u, a.int(0), a.text(1));
        "one.host.status", [ID, ParamSpec::int("status")], "Enables (0), disables (1) a host, or sets it offline (2).",
            Id, |c, u, a| host::status(c, u, a.int(0), a.int(1));
        "one.host.update", [ID, TEXT, TYPE], "Changes a host's attributes.", Id,
            |c, u, a| host::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.hostpool.info", [], "Lists the hosts.", Text, |c, u, a| host::pool(c, u);
        "one.hostpool.monitoring", [SECONDS], "Shows what was measured of hosts; 0 seconds is the last only, -1 all.",
            Text, |c, u, a| host::pool_monitoring(c, u, a.int(0));
    }
}

/// What a call on a VDC is about.
fn member(kind: ObjectKind, args: &Args) -> Member {
    Member { kind, zone: args.int(1), object: args.int(2) }
}

fn vdcs() -> Vec<Method<Cloud>> {
    use ObjectKind::{Cluster, Datastore, Host, Network};
    rows! {
        "one.vdc.addcluster", [ID, ZONE, CLUSTER], "Puts a cluster into a VDC; -10 is all.", Id,
            |c, u, a| vdc::add(c, u, a.int(0), member(Cluster, a));
        "one.vdc.adddatastore", [ID, ZONE, DATASTORE], "Puts a datastore into a VDC; -10 is all.", Id,
            |c, u, a| vdc::add(c, u, a.int(0), member(Datastore, a));
        "one.vdc.addgroup", [ID, GROUP], "Lets a group use a VDC.", Id,
            |c, u, a| vdc::set_group(c, u, a.int(0), a.int(1), true);
        "one.vdc.addhost", [ID, ZONE, HOST], "Puts a host into a VDC; -10 is all.", Id,
            |c, u, a| vdc::add(c, u, a.int(0), member(Host, a));
        "one.vdc.addvnet", [ID, ZONE, NETWORK], "Puts a virtual network into a VDC; -10 is all.", Id,
            |c, u, a| vdc::add(c, u, a.int(0), member(Network, a));
        "one.vdc.allocate", [TEXT], "Creates a VDC.", Id, |c, u, a| vdc::allocate(c, u, a.text(0));
        "one.vdc.delcluster", [ID, ZONE, CLUSTER], "Takes a cluster out of a VDC.", Id,
            |c, u, a| vdc::remove(c, u, a.int(0), member(Cluster, a));
        "one.vdc.deldatastore", [ID, ZONE, DATASTORE], "Takes a datastore out of a VDC.", Id,
            |c, u, a| vdc::remove(c, u, a.int(0), member(Datastore, a));
        "one.vdc.delete", [ID], "Deletes a VDC.", Id, |c, u, a| vdc::delete(c, u, a.int(0));
        "one.vdc.delgroup", [ID, GROUP], "Takes a group out of a VDC.", Id,
            |c, u, a| vdc::set_group(c, u, a.int(0), a.int(1), false);
        "one.vdc.delhost", [ID, ZONE, HOST], "Takes a host out of a VDC.", Id,
            |c, u, a| vdc::remove(c, u, a.int(0), member(Host, a));
        "one.vdc.delvnet", [ID, ZONE, NETWORK], "Takes a virtual network out of a VDC.", Id,
            |c, u, a| vdc::remove(c, u, a.int(0), member(Network, a));
        "one.vdc.info", [ID, DECRYPT], "Shows a VDC.", Text, |c, u, a| vdc::info(c, u, a.int(0));
        "one.vdc.rename", [ID, NAME], "Renames a VDC.", Id, |c, u, a| vdc::rename(c, u, a.int(0), a.text(1));
        "one.vdc.update", [ID, TEXT, TYPE], "Changes a VDC's attributes.", Id,
            |c, u, a| vdc::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.vdcpool.info", [], "Lists the VDCs.", Text, |c, u, a| vdc::pool(c, u);
    }
}

fn zones() -> Vec<Method<Cloud>> {
    rows! {
        "one.zone.addserver", [ID, TEXT], "Refused: a zone has one server.", Id,
            |c, u, a| zone::servers(c, u, a.int(0));
        "one.zone.allocate", [TEXT], "Refused: there is one zone.", Id, |c, u, a| zone::allocate(c, u);
        "one.zone.delete", [ID], "Refused: there is one zone.", Id, |c, u, a| zone::delete(c, u, a.int(0));
        "one.zone.delserver", [ID, SERVER], "Refused: a zone has one server.", Id,
            |c, u, a| zone::servers(c, u, a.int(0));
        "one.zone.enable", [ID, ParamSpec::bool("enable")], "Lets the zone be changed, or not.", Id,
            |c, u, a| zone::enable(c, u, a.int(0), a.bool(1));
        "one.zone.info", [ID, DECRYPT], "Shows a zone.", Text, |c, u, a| zone::info(c, u, a.int(0));
        "one.zone.raftstatus", [], "Shows that the daemon is alone.", Text, |c, u, a| zone::raft_status(c, u);
        "one.zone.rename", [ID, NAME], "Renames a zone.", Id, |c, u, a| zone::rename(c, u, a.int(0), a.text(1));
        "one.zone.resetserver", [ID, SERVER], "Refused: a zone has one server.", Id,
            |c, u, a| zone::servers(c, u, a.int(0));
        "one.zone.update", [ID, TEXT, TYPE], "Changes a zone's ENDPOINT.", Id,
            |c, u, a| zone::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.zonepool.info", [], "Lists the zones.", Text, |c, u, a| zone::pool(c, u);
    }
}
