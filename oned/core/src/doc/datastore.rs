//! `DATASTORE` (`one.datastore.info`).

use super::Owner;
use super::writer::Writer;
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
    let mut w = Writer::new();
    w.open("DATASTORE");
    w.number("ID", view.id);
    w.owner(&view.owner);
    w.text("NAME", &view.name);
    w.permissions(&view.permissions);
    w.text("DS_MAD", &view.ds_mad);
    w.text("TM_MAD", &view.tm_mad);
    w.text("BASE_PATH", &view.base_path);
    w.number("TYPE", view.kind);
    w.number("DISK_TYPE", view.disk_type);
    w.number("STATE", view.state);
    w.ids("CLUSTERS", &view.clusters);
    w.number("TOTAL_MB", view.total_mb);
    w.number("FREE_MB", view.free_mb);
    w.number("USED_MB", view.used_mb);
    w.ids("IMAGES", &view.images);
    w.template("TEMPLATE", &view.template);
    w.close("DATASTORE");
    w.finish()
}
