//! `IMAGE`: disks, and backups with their increments (`one.image.info`).

use super::writer::Writer;
use super::{Lock, Owner, Render, SnapshotsView, alone};
use crate::access::Permissions;
use crate::template::Template;

/// What an image document shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageView {
    /// Image id.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// Lock, if any.
    pub lock: Option<Lock>,
    /// The nine permission bits.
    pub permissions: Permissions,
    /// TYPE number: OS 0, CDROM 1, DATABLOCK 2, KERNEL 3, RAMDISK 4, CONTEXT 5, BACKUP 6, FILESYSTEM 7.
    pub kind: i32,
    /// DISK_TYPE number: FILE 0, CD_ROM 1, BLOCK 2, RBD 3 …
    pub disk_type: i32,
    /// Persistent? Backups are.
    pub persistent: bool,
    /// Registration, epoch seconds.
    pub regtime: i64,
    /// Last change of the data, epoch seconds, 0 never.
    pub modtime: i64,
    /// Where the datastore driver finds it; for a backup the id of its first restore point.
    pub source: String,
    /// Where it came from.
    pub path: String,
    /// `raw`, `qcow2`, `rbd`.
    pub format: String,
    /// File system of a data block.
    pub fs: String,
    /// Size in MB; of a chain the sum.
    pub size_mb: i64,
    /// STATE number: INIT 0, READY 1, USED 2, DISABLED 3, LOCKED 4, ERROR 5, CLONE 6, DELETE 7 …
    pub state: i32,
    /// STATE before the last change.
    pub prev_state: i32,
    /// VMs that use it; 1 for a backup.
    pub running_vms: i64,
    /// Copies being made of it.
    pub cloning_ops: i64,
    /// Image it is being copied from, −1 none.
    pub cloning_id: i64,
    /// Snapshot being worked on, −1 none.
    pub target_snapshot: i64,
    /// Datastore id.
    pub datastore_id: i64,
    /// Datastore name.
    pub datastore: String,
    /// VMs that use it; for a backup the VM that it is of.
    pub vms: Vec<i64>,
    /// Images copied from it.
    pub clones: Vec<i64>,
    /// Market apps made from it.
    pub app_clones: Vec<i64>,
    /// Free attributes.
    pub template: Template,
    /// Snapshots.
    pub snapshots: SnapshotsView,
    /// Increments of a backup chain, ids ascending; empty for a backup in FULL mode and for a plain image.
    pub increments: Vec<IncrementView>,
    /// Disks of the VM that the backup holds.
    pub backup_disk_ids: Vec<i64>,
}

impl Default for ImageView {
    fn default() -> Self {
        Self {
            id: 0,
            owner: Owner::default(),
            name: String::new(),
            lock: None,
            permissions: Permissions::default(),
            kind: 0,
            disk_type: 0,
            persistent: false,
            regtime: 0,
            modtime: 0,
            source: String::new(),
            path: String::new(),
            format: String::new(),
            fs: String::new(),
            size_mb: 0,
            state: 0,
            prev_state: 0,
            running_vms: 0,
            cloning_ops: 0,
            cloning_id: -1,
            target_snapshot: -1,
            datastore_id: 0,
            datastore: String::new(),
            vms: Vec::new(),
            clones: Vec::new(),
            app_clones: Vec::new(),
            template: Template::default(),
            snapshots: SnapshotsView::default(),
            increments: Vec::new(),
            backup_disk_ids: Vec::new(),
        }
    }
}

/// One increment of a chain (`INCREMENT`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncrementView {
    /// Number in the chain; only grows.
    pub id: i64,
    /// Increment it builds on, −1 for the first.
    pub parent_id: i64,
    /// When the backup was made, epoch seconds.
    pub date: i64,
    /// What it added, MB.
    pub size_mb: i64,
    /// Backup id given by the datastore driver.
    pub source: String,
    /// Is it the start of the chain (TYPE FULL), or an INCREMENT?
    pub full: bool,
}

/// The document (`one.image.info`, and an element of IMAGE_POOL).
pub fn image(view: &ImageView) -> String {
    alone(view)
}

impl Render for ImageView {
    fn render(&self, w: &mut Writer) {
        w.open("IMAGE");
        w.number("ID", self.id);
        w.owner(&self.owner);
        w.text("NAME", &self.name);
        w.lock(self.lock.as_ref());
        w.permissions(&self.permissions);
        w.number("TYPE", self.kind);
        w.number("DISK_TYPE", self.disk_type);
        w.flag("PERSISTENT", self.persistent);
        w.number("REGTIME", self.regtime);
        w.number("MODTIME", self.modtime);
        w.text("SOURCE", &self.source);
        w.text("PATH", &self.path);
        w.text("FORMAT", &self.format);
        w.text("FS", &self.fs);
        w.number("SIZE", self.size_mb);
        w.number("STATE", self.state);
        w.number("PREV_STATE", self.prev_state);
        w.number("RUNNING_VMS", self.running_vms);
        w.number("CLONING_OPS", self.cloning_ops);
        w.number("CLONING_ID", self.cloning_id);
        w.number("TARGET_SNAPSHOT", self.target_snapshot);
        w.number("DATASTORE_ID", self.datastore_id);
        w.text("DATASTORE", &self.datastore);
        w.ids("VMS", &self.vms);
        w.ids("CLONES", &self.clones);
        w.ids("APP_CLONES", &self.app_clones);
        w.template("TEMPLATE", &self.template);
        snapshots(w, &self.snapshots);
        increments(w, &self.increments);
        w.ids("BACKUP_DISK_IDS", &self.backup_disk_ids);
        w.close("IMAGE");
    }
}

fn snapshots(w: &mut Writer, view: &SnapshotsView) {
    w.open("SNAPSHOTS");
    w.text("ALLOW_ORPHANS", &view.allow_orphans);
    w.number("CURRENT_BASE", view.current_base);
    w.number("NEXT_SNAPSHOT", view.next_snapshot);
    w.snapshots(&view.snapshots, false);
    w.close("SNAPSHOTS");
}

fn increments(w: &mut Writer, increments: &[IncrementView]) {
    w.open("BACKUP_INCREMENTS");
    for increment in increments {
        w.open("INCREMENT");
        w.number("DATE", increment.date);
        w.number("ID", increment.id);
        w.number("PARENT_ID", increment.parent_id);
        w.number("SIZE", increment.size_mb);
        w.text("SOURCE", &increment.source);
        w.text("TYPE", if increment.full { "FULL" } else { "INCREMENT" });
        w.close("INCREMENT");
    }
    w.close("BACKUP_INCREMENTS");
}
