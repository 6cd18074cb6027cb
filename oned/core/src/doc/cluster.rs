//! `CLUSTER` (`one.cluster.info`).

use super::writer::Writer;
use super::{Render, alone};
use crate::template::Template;

/// What a cluster document shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Cluster id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Hosts in it.
    pub hosts: Vec<i64>,
    /// Datastores in it.
    pub datastores: Vec<i64>,
    /// Networks in it.
    pub vnets: Vec<i64>,
    /// Attributes.
    pub template: Template,
}

/// The document (`one.cluster.info`, and an element of CLUSTER_POOL).
pub fn cluster(view: &ClusterView) -> String {
    alone(view)
}

impl Render for ClusterView {
    fn render(&self, w: &mut Writer) {
        w.open("CLUSTER");
        w.number("ID", self.id);
        w.text("NAME", &self.name);
        w.ids("HOSTS", &self.hosts);
        w.ids("DATASTORES", &self.datastores);
        w.ids("VNETS", &self.vnets);
        w.template("TEMPLATE", &self.template);
        w.close("CLUSTER");
    }
}
