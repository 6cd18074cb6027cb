//! `DATASTORE` (`one.datastore.info`).

use super::writer::Writer;
use super::{Owner, Render, alone};
use crate::access::Permissions;
use crate::template::Template;

/// What a datastore document shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatastoreView {
    /// Datastore id.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// The nine permission bits.
    pub permissions: Permissions,
    /// Datastore driver (`restic`, `nfs`, `fs` …).
    pub ds_mad: String,
    /// Transfer driver; `-` for a backup datastore.
    pub tm_mad: String,
    /// Folder of the datastore.
    pub base_path: String,
    /// TYPE number: IMAGE_DS 0, SYSTEM_DS 1, FILE_DS 2, BACKUP_DS 3.
    pub kind: i32,
    /// DISK_TYPE number, 0 for files and for backups.
    pub disk_type: i32,
    /// STATE number: READY 0, DISABLED 1.
    pub state: i32,
    /// Clusters it belongs to.
    pub clusters: Vec<i64>,
    /// Capacity in MB.
    pub total_mb: i64,
    /// Free MB.
    pub free_mb: i64,
    /// Used MB.
    pub used_mb: i64,
    /// Images in it.
    pub images: Vec<i64>,
    /// Attributes; secrets already hidden or clear as the caller may see them.
    pub template: Template,
}

/// The document (`one.datastore.info`, and an element of DATASTORE_POOL).
pub fn datastore(view: &DatastoreView) -> String {
    alone(view)
}

impl Render for DatastoreView {
    fn render(&self, w: &mut Writer) {
        w.open("DATASTORE");
        w.number("ID", self.id);
        w.owner(&self.owner);
        w.text("NAME", &self.name);
        w.permissions(&self.permissions);
        w.text("DS_MAD", &self.ds_mad);
        w.text("TM_MAD", &self.tm_mad);
        w.text("BASE_PATH", &self.base_path);
        w.number("TYPE", self.kind);
        w.number("DISK_TYPE", self.disk_type);
        w.number("STATE", self.state);
        w.ids("CLUSTERS", &self.clusters);
        w.number("TOTAL_MB", self.total_mb);
        w.number("FREE_MB", self.free_mb);
        w.number("USED_MB", self.used_mb);
        w.ids("IMAGES", &self.images);
        w.template("TEMPLATE", &self.template);
        w.close("DATASTORE");
    }
}
