//! Hosts, clusters, zones.

use super::{DECRYPT, ID, NAME, TEXT, TYPE, rows};
use crate::api::Cloud;
use crate::api::{cluster, host};
use crate::rpc::{Method, ParamSpec};

pub(super) fn rows() -> Vec<Method<Cloud>> {
    rows! {
        "one.cluster.info", [ID, DECRYPT], "Shows a cluster.", Text, |c, u, a| cluster::info_decrypt(c, u, a.int(0), a.bool(1));
        "one.clusterpool.info", [], "Lists the clusters.", Text, |c, u, a| cluster::pool(c, u);
        "one.host.allocate",
            [NAME, ParamSpec::text("im"), ParamSpec::text("vmm"), ParamSpec::int("cluster").or_int(-1)],
            "Adds a host.", Id, |c, u, a| host::allocate(c, u, a.text(0), a.text(1), a.text(2), a.int(3));
        "one.host.delete", [ID], "Removes a host without VMs.", Id, |c, u, a| host::delete(c, u, a.int(0));
        "one.host.info", [ID, DECRYPT], "Shows a host.", Text, |c, u, a| host::info_decrypt(c, u, a.int(0), a.bool(1));
        "one.host.rename", [ID, NAME], "Renames a host.", Id, |c, u, a| host::rename(c, u, a.int(0), a.text(1));
        "one.host.update", [ID, TEXT, TYPE], "Changes a host's attributes.", Id,
            |c, u, a| host::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.hostpool.info", [], "Lists the hosts.", Text, |c, u, a| host::pool(c, u);
        "one.zone.info", [ID, DECRYPT], "Shows a zone.", Text, |c, u, a| cluster::zone(c, u, a.int(0));
        "one.zonepool.info", [], "Lists the zones.", Text, |c, u, a| cluster::zone_pool(c, u);
    }
}
