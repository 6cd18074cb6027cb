//! The XML documents that clients read: one view struct and one function per document.
//!
//! What it is: rendering. A view holds plain numbers, strings and templates, already authorised and decrypted or hidden
//! by the caller; a function here turns it into the string that goes into an answer, or a [`Pool`] takes it as the next
//! of many. What it is not: it decides nothing, reads nothing back (but for [`read`]) and knows neither the database nor
//! XML-RPC.
//!
//! Invariants:
//! - element order is that of OpenNebula's response schemas, 7.4 line (`share/doc/xsd` of OpenNebula/one);
//! - no XML declaration, no namespace; an empty list is an empty element; id lists ascend;
//! - every string is CDATA, with `]]>` split and characters that XML 1.0 forbids dropped, so that no input can break a
//!   document or smuggle elements into it;
//! - templates are sorted by attribute name (equal names keep their order), vectors by key. An attribute name that is
//!   no XML name is altered, never the document: see [`writer::element_name`].
//!
//! Where OpenNebula differs: it orders every template by name, also where its own schema wants another place
//! (`HYPERV_OPTIONS`, `VIDEO`, `MEMORY_RESIZE_MODE`, `MEMORY_ENCRYPTION`); here the schema wins.

mod acl;
mod backupjob;
mod cluster;
mod datastore;
mod document;
mod event;
mod examination;
mod host;
mod image;
mod monitoring;
mod network;
mod pool;
pub mod read;
mod security_group;
mod showback;
mod template;
mod user;
mod vdc;
mod vm;
pub mod writer;
mod zone;

pub use acl::{AclView, acl};
pub use backupjob::{BackupJobView, backup_job};
pub use cluster::{ClusterView, cluster};
pub use datastore::{DatastoreView, datastore};
pub use document::{DocumentView, document};
pub use event::EventView;
pub use examination::{CheckView, ExaminationView, examination};
pub use host::{HostDatastoreView, HostMonitoringView, HostSample, HostShareView, HostView, host};
pub use image::{ImageView, IncrementView, image};
pub use monitoring::VmSampleView;
pub use network::{NetworkView, RangeView, network, network_short};
pub use pool::{Pool, Render, alone, pool};
pub use security_group::{SecurityGroupView, security_group};
pub use showback::{ShowbackView, showback};
pub use template::{TemplateView, vm_template};
pub use user::{
    Count, DatastoreQuotaView, GroupPool, GroupView, ImageQuotaView, LoginTokenView, NetworkQuotaView, QuotasView,
    Share, UserPool, UserView, VmQuotaView, default_group_quotas, default_user_quotas, group, group_pool, user,
    user_pool,
};
pub use vdc::{VDC_ALL, VdcResource, VdcView, vdc};
pub use vm::{AccountingRecord, DiskSnapshotsView, HistoryView, VmShort, VmView, vm, vm_short};
pub use zone::{RaftView, ServerView, ZoneView, raft, zone};

/// Who an object belongs to: numbers and names of user and group (`UID GID UNAME GNAME`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: i64,
    /// Group id.
    pub gid: i64,
    /// User name.
    pub uname: String,
    /// Group name.
    pub gname: String,
}

/// A lock on an object (`LOCK`); the element is left out when there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Level: 1 blocks USE, MANAGE and ADMIN, 2 MANAGE and ADMIN, 3 ADMIN.
    pub level: i32,
    /// Id of the user who locked.
    pub owner: i64,
    /// When, epoch seconds.
    pub time: i64,
    /// Id of the request that locked; −1 unknown.
    pub request_id: i64,
}

/// One snapshot of a disk or of an image (`SNAPSHOT`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotView {
    /// Number of the snapshot, unique in its disk.
    pub id: i64,
    /// Name given by the user; left out when empty.
    pub name: String,
    /// Id of the snapshot it grew from, −1 for none.
    pub parent: i64,
    /// Ids of the snapshots that grew from it.
    pub children: Vec<i64>,
    /// Creation time, epoch seconds.
    pub date: i64,
    /// Size in MB.
    pub size_mb: i64,
    /// Is it the one that the disk runs on?
    pub active: bool,
}

/// The snapshots of one image (`SNAPSHOTS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotsView {
    /// `YES`, `NO`, `FORMAT` or `MIXED`; what the datastore driver says about deleting a parent.
    pub allow_orphans: String,
    /// Id of the snapshot in use, −1 for none.
    pub current_base: i64,
    /// Number of the next snapshot.
    pub next_snapshot: i64,
    /// The snapshots, ids ascending.
    pub snapshots: Vec<SnapshotView>,
}

impl Default for SnapshotsView {
    fn default() -> Self {
        Self { allow_orphans: "NO".into(), current_base: -1, next_snapshot: 0, snapshots: Vec::new() }
    }
}
