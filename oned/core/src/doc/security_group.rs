//! `SECURITY_GROUP` (`one.secgroup.info`, and an element of SECURITY_GROUP_POOL).
//!
//! The schema lists only PROTOCOL and RULE_TYPE in a RULE, and only DESCRIPTION beside the rules; the original shows
//! RANGE, ICMP_TYPE, NETWORK_ID, IP, SIZE and free attributes as well, and so do we.

use super::Owner;
use super::writer::Writer;
use crate::access::Permissions;
use crate::template::Template;

/// What the document of a security group shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecurityGroupView {
    /// Group id; 0 is *default*, which every network has.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// The nine permission bits.
    pub permissions: Permissions,
    /// VMs that have the rules as they are now.
    pub updated_vms: Vec<i64>,
    /// VMs that wait for an update.
    pub outdated_vms: Vec<i64>,
    /// VMs being updated.
    pub updating_vms: Vec<i64>,
    /// VMs whose update failed.
    pub error_vms: Vec<i64>,
    /// The rules and what else the user wrote.
    pub template: Template,
}

/// The document.
pub fn security_group(view: &SecurityGroupView) -> String {
    let mut w = Writer::new();
    w.open("SECURITY_GROUP");
    w.number("ID", view.id);
    w.owner(&view.owner);
    w.text("NAME", &view.name);
    w.permissions(&view.permissions);
    w.ids("UPDATED_VMS", &view.updated_vms);
    w.ids("OUTDATED_VMS", &view.outdated_vms);
    w.ids("UPDATING_VMS", &view.updating_vms);
    w.ids("ERROR_VMS", &view.error_vms);
    w.template("TEMPLATE", &view.template);
    w.close("SECURITY_GROUP");
    w.finish()
}
