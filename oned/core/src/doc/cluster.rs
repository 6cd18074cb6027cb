//! `CLUSTER` (`one.cluster.info`).

use super::writer::Writer;
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
    let mut w = Writer::new();
    w.open("CLUSTER");
    w.number("ID", view.id);
    w.text("NAME", &view.name);
    w.ids("HOSTS", &view.hosts);
    w.ids("DATASTORES", &view.datastores);
    w.ids("VNETS", &view.vnets);
    w.template("TEMPLATE", &view.template);
    w.close("CLUSTER");
    w.finish()
}
