//! `VDC`: a virtual data centre, resources that groups may use (`one.vdc.info`).

use super::writer::Writer;
use super::{Render, alone};
use crate::template::Template;

/// Id in a VDC's list that stands for all resources of a kind in that zone.
pub const VDC_ALL: i64 = -10;

/// What the document of a VDC shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VdcView {
    /// VDC id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Groups that use it.
    pub groups: Vec<i64>,
    /// Clusters in it.
    pub clusters: Vec<VdcResource>,
    /// Hosts in it.
    pub hosts: Vec<VdcResource>,
    /// Datastores in it.
    pub datastores: Vec<VdcResource>,
    /// Networks in it.
    pub vnets: Vec<VdcResource>,
    /// Attributes.
    pub template: Template,
}

/// A resource of a VDC. Lists are shown by zone and id, each pair once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct VdcResource {
    /// Zone that it is in.
    pub zone_id: i64,
    /// Its id, or [`VDC_ALL`].
    pub id: i64,
}

/// The document (`one.vdc.info`, and an element of VDC_POOL).
pub fn vdc(view: &VdcView) -> String {
    alone(view)
}

impl Render for VdcView {
    fn render(&self, w: &mut Writer) {
        w.open("VDC");
        w.number("ID", self.id);
        w.text("NAME", &self.name);
        w.ids("GROUPS", &self.groups);
        resources(w, ["CLUSTERS", "CLUSTER", "CLUSTER_ID"], &self.clusters);
        resources(w, ["HOSTS", "HOST", "HOST_ID"], &self.hosts);
        resources(w, ["DATASTORES", "DATASTORE", "DATASTORE_ID"], &self.datastores);
        resources(w, ["VNETS", "VNET", "VNET_ID"], &self.vnets);
        w.template("TEMPLATE", &self.template);
        w.close("VDC");
    }
}

fn resources(w: &mut Writer, [list, element, id]: [&str; 3], resources: &[VdcResource]) {
    let mut resources = resources.to_vec();
    resources.sort_unstable();
    resources.dedup();
    w.open(list);
    for resource in resources {
        w.open(element);
        w.number("ZONE_ID", resource.zone_id);
        w.number(id, resource.id);
        w.close(element);
    }
    w.close(list);
}
