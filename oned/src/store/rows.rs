//! The rows as Rust values. Plain data: every rule about them lives elsewhere.

use diesel::prelude::*;

use super::schema::*;

/// A group of users.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = user_group, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct GroupRow {
    /// Id in its pool.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Template text.
    pub template: String,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = user, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct UserRow {
    /// Id in its pool.
    pub id: i64,
    /// Owning group.
    pub gid: i64,
    /// Name.
    pub name: String,
    /// Password sha256.
    pub password_sha256: String,
    /// Auth driver.
    pub auth_driver: String,
    /// Enabled.
    pub enabled: i64,
    /// Template text.
    pub template: String,
}

/// An access rule, as hex numbers and text.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = acl, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct AclRow {
    /// Id in its pool.
    pub id: i64,
    /// User hex.
    pub user_hex: String,
    /// Resource hex.
    pub resource_hex: String,
    /// Rights hex.
    pub rights_hex: String,
    /// Zone hex.
    pub zone_hex: String,
    /// Text.
    pub text: String,
}

/// A zone; there is one.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = zone, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct ZoneRow {
    /// Id in its pool.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Template text.
    pub template: String,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = cluster, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct ClusterRow {
    /// Id in its pool.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Template text.
    pub template: String,
}

/// A host with what it last said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = host, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct HostRow {
    /// Id in its pool.
    pub id: i64,
    /// Cluster.
    pub cluster_id: i64,
    /// Name.
    pub name: String,
    /// STATE number on the wire.
    pub state: i64,
    /// STATE before the last change.
    pub prev_state: i64,
    /// Monitoring driver.
    pub im_mad: String,
    /// Hypervisor driver.
    pub vm_mad: String,
    /// Cpus.
    pub cpus: i64,
    /// Memory kb.
    pub memory_kb: i64,
    /// Free memory kb.
    pub free_memory_kb: i64,
    /// When it was last asked.
    pub monitored_at: i64,
    /// Template text.
    pub template: String,
}

/// A datastore; kind 0 image, 1 system, 2 files, 3 backup.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = datastore, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct DatastoreRow {
    /// Id in its pool.
    pub id: i64,
    /// Owner.
    pub uid: i64,
    /// Owning group.
    pub gid: i64,
    /// Name.
    pub name: String,
    /// Nine permission bits.
    pub permissions: i64,
    /// Datastore driver.
    pub ds_mad: String,
    /// Transfer driver.
    pub tm_mad: String,
    /// Directory of the data.
    pub base_path: String,
    /// Kind.
    pub kind: i64,
    /// Disk type.
    pub disk_type: i64,
    /// STATE number on the wire.
    pub state: i64,
    /// Cluster.
    pub cluster_id: i64,
    /// Total mb.
    pub total_mb: i64,
    /// Free mb.
    pub free_mb: i64,
    /// Used mb.
    pub used_mb: i64,
    /// When it was last asked.
    pub monitored_at: i64,
    /// Template text.
    pub template: String,
}

/// An image; kind 6 is a backup.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = image, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct ImageRow {
    /// Id in its pool.
    pub id: i64,
    /// Owner.
    pub uid: i64,
    /// Owning group.
    pub gid: i64,
    /// Name.
    pub name: String,
    /// Nine permission bits.
    pub permissions: i64,
    /// Kind.
    pub kind: i64,
    /// Disk type.
    pub disk_type: i64,
    /// Persistent.
    pub persistent: i64,
    /// When it was registered.
    pub regtime: i64,
    /// Modtime.
    pub modtime: i64,
    /// Source.
    pub source: String,
    /// Path.
    pub path: String,
    /// Format.
    pub format: String,
    /// Fs.
    pub fs: String,
    /// Size, MB.
    pub size_mb: i64,
    /// STATE number on the wire.
    pub state: i64,
    /// STATE before the last change.
    pub prev_state: i64,
    /// Datastore.
    pub datastore_id: i64,
    /// Backup vm id.
    pub backup_vm_id: Option<i64>,
    /// Backup mode.
    pub backup_mode: Option<String>,
    /// Template text.
    pub template: String,
}

/// A restore point of a backup image.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = increment, primary_key(image_id, increment_id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct IncrementRow {
    /// Image.
    pub image_id: i64,
    /// Increment id.
    pub increment_id: i64,
    /// Parent id.
    pub parent_id: i64,
    /// Kind.
    pub kind: String,
    /// Date.
    pub date: i64,
    /// Size, MB.
    pub size_mb: i64,
    /// Series.
    pub series: String,
    /// Point.
    pub point: String,
    /// Checkpoint.
    pub checkpoint: String,
    /// Read bytes.
    pub read_bytes: i64,
    /// Stored bytes.
    pub stored_bytes: i64,
    /// Duration s.
    pub duration_s: i64,
    /// Reason.
    pub reason: String,
    /// Warning.
    pub warning: String,
    /// Disks.
    pub disks: String,
    /// Document.
    pub document: String,
}

/// A stored VM template.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = vm_template, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct TemplateRow {
    /// Id in its pool.
    pub id: i64,
    /// Owner.
    pub uid: i64,
    /// Owning group.
    pub gid: i64,
    /// Name.
    pub name: String,
    /// Nine permission bits.
    pub permissions: i64,
    /// When it was registered.
    pub regtime: i64,
    /// Template text.
    pub template: String,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = vm, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct VmRow {
    /// Id in its pool.
    pub id: i64,
    /// Owner.
    pub uid: i64,
    /// Owning group.
    pub gid: i64,
    /// Name.
    pub name: String,
    /// Nine permission bits.
    pub permissions: i64,
    /// Last poll.
    pub last_poll: i64,
    /// STATE number on the wire.
    pub state: i64,
    /// Lcm state.
    pub lcm_state: i64,
    /// STATE before the last change.
    pub prev_state: i64,
    /// Prev lcm state.
    pub prev_lcm_state: i64,
    /// Stime.
    pub stime: i64,
    /// Etime.
    pub etime: i64,
    /// Deploy id.
    pub deploy_id: String,
    /// Uuid.
    pub uuid: String,
    /// Host.
    pub host_id: Option<i64>,
    /// Template text.
    pub template: String,
    /// User template.
    pub user_template: String,
    /// Backup config.
    pub backup_config: String,
}

/// One record of a VM's history.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = history, primary_key(vm_id, seq), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct HistoryRow {
    /// VM.
    pub vm_id: i64,
    /// Seq.
    pub seq: i64,
    /// Host.
    pub host_id: i64,
    /// Hostname.
    pub hostname: String,
    /// Cluster.
    pub cluster_id: i64,
    /// Hypervisor driver.
    pub vm_mad: String,
    /// Transfer driver.
    pub tm_mad: String,
    /// Ds id.
    pub ds_id: i64,
    /// Stime.
    pub stime: i64,
    /// Etime.
    pub etime: i64,
    /// Pstime.
    pub pstime: i64,
    /// Petime.
    pub petime: i64,
    /// Rstime.
    pub rstime: i64,
    /// Retime.
    pub retime: i64,
    /// Estime.
    pub estime: i64,
    /// Eetime.
    pub eetime: i64,
    /// Action.
    pub action: i64,
    /// Owner.
    pub uid: i64,
    /// Owning group.
    pub gid: i64,
}

/// A scheduled action of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = schedule, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct ScheduleRow {
    /// Id in its pool.
    pub id: i64,
    /// VM.
    pub vm_id: i64,
    /// Owner.
    pub uid: i64,
    /// Body.
    pub body: String,
    /// Due at.
    pub due_at: Option<i64>,
    /// Not before.
    pub not_before: i64,
    /// Refusals.
    pub refusals: i64,
}

/// One operation: intent, effect, result.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = job, primary_key(id), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct JobRow {
    /// Id in its pool.
    pub id: i64,
    /// Kind.
    pub kind: String,
    /// Phase.
    pub phase: String,
    /// VM.
    pub vm_id: Option<i64>,
    /// Image.
    pub image_id: Option<i64>,
    /// Datastore.
    pub datastore_id: Option<i64>,
    /// Host.
    pub host_id: Option<i64>,
    /// Owner.
    pub uid: i64,
    /// Plan.
    pub plan: String,
    /// Result.
    pub result: String,
    /// Cancel.
    pub cancel: i64,
    /// Attempts.
    pub attempts: i64,
    /// Not before.
    pub not_before: i64,
    /// Error.
    pub error: String,
    /// Created at.
    pub created_at: i64,
    /// Changed at.
    pub changed_at: i64,
}

/// One line of a job's story.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = job_event, primary_key(job_id, seq), treat_none_as_null = true, check_for_backend(diesel::sqlite::Sqlite))]
pub struct JobEventRow {
    /// Job id.
    pub job_id: i64,
    /// Seq.
    pub seq: i64,
    /// Time.
    pub time: i64,
    /// Phase.
    pub phase: String,
    /// Text.
    pub text: String,
}
