//! From rows to the views that `one_core::doc` renders. Reads only; hides secrets.

use std::collections::BTreeMap;

use one_core::access::Permissions;
use one_core::doc::{
    self, AclView, ClusterView, DatastoreView, GroupView, HistoryView, HostShareView, HostView, ImageView,
    IncrementView, LoginTokenView, Owner, QuotasView, TemplateView, UserView, VmView, ZoneView,
};
use one_core::lifecycle::{ImageState, VmState};
use one_core::template::{Template, Vector};

use super::{Cloud, owned};
use crate::ledger;
use crate::progress::{Board, Subject};
use crate::store::rows::{
    AclRow, ClusterRow, DatastoreRow, GroupRow, HistoryRow, HostRow, ImageRow, IncrementRow, TemplateRow, UserRow,
    VmRow, ZoneRow,
};
use crate::store::{StoreError, Tx, VmFilter};

/// Attributes whose value only administrators may see, and only when they ask for it (`decrypt`).
const SECRETS: [&str; 3] = ["RESTIC_PASSWORD", "SSH_PRIVATE_KEY", "SSH_PASSPHRASE"];

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// Names of users and groups, read once per document or pool.
#[derive(Default)]
pub struct Names {
    users: BTreeMap<i64, String>,
    groups: BTreeMap<i64, String>,
}

impl Names {
    /// Reads them.
    ///
    /// # Errors
    /// The database's failure.
    pub fn read(tx: &mut Tx<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            users: tx.user_list()?.into_iter().map(|row| (row.id, row.name)).collect(),
            groups: tx.group_list()?.into_iter().map(|row| (row.id, row.name)).collect(),
        })
    }

    fn owner(&self, uid: i64, gid: i64) -> Owner {
        let name = |names: &BTreeMap<i64, String>, id| names.get(&id).cloned().unwrap_or_default();
        Owner { uid, gid, uname: name(&self.users, uid), gname: name(&self.groups, gid) }
    }

    fn group(&self, gid: i64) -> String {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }
}

pub use crate::ledger::{short_point, stored, vm_size};

/// A template with its secrets replaced.
#[must_use]
pub fn without_secrets(mut template: Template) -> Template {
    for name in SECRETS {
        if template.scalar(name).is_some() {
            template.set(name, HIDDEN);
        }
    }
    template
}

fn number(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(-1)
}

/// The full VM view.
///
/// # Errors
/// The database's failure.
pub fn vm(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &VmRow) -> Result<VmView, StoreError> {
    let mut view = vm_plain(names, board, row);
    view.sched_actions = tx.schedules_of_vm(row.id)?.iter().filter_map(ledger::read_schedule).collect();
    view.history = tx.history(row.id)?.iter().map(history).collect();
    view.backup_ids = tx.backups_of_vm(row.id)?.iter().map(|image| image.id).collect();
    view.backup_config = ledger::config_vector(row);
    Ok(view)
}

/// The short VM view of pools: with the last history record only.
///
/// # Errors
/// The database's failure.
pub fn vm_short(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &VmRow) -> Result<VmView, StoreError> {
    let mut view = vm_plain(names, board, row);
    view.history = tx.history_last(row.id)?.iter().map(history).collect();
    Ok(view)
}

fn vm_plain(names: &Names, board: &Board, row: &VmRow) -> VmView {
    let mut user_template = without_secrets(stored(&row.user_template));
    if let Some(progress) = board.vector(Subject::Vm(row.id)) {
        user_template.set_vector("PROGRESS", progress);
    }
    VmView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        permissions: Permissions::from_i64(row.permissions),
        last_poll: row.last_poll,
        state: number(row.state),
        lcm_state: number(row.lcm_state),
        prev_state: number(row.prev_state),
        prev_lcm_state: number(row.prev_lcm_state),
        stime: row.stime,
        etime: row.etime,
        deploy_id: row.deploy_id.clone(),
        template: stored(&row.template),
        user_template,
        ..VmView::default()
    }
}

fn history(row: &HistoryRow) -> HistoryView {
    HistoryView {
        seq: row.seq,
        hostname: row.hostname.clone(),
        hid: row.host_id,
        cid: row.cluster_id,
        stime: row.stime,
        etime: row.etime,
        vm_mad: row.vm_mad.clone(),
        tm_mad: row.tm_mad.clone(),
        ds_id: row.ds_id,
        pstime: row.pstime,
        petime: row.petime,
        rstime: row.rstime,
        retime: row.retime,
        estime: row.estime,
        eetime: row.eetime,
        action: number(row.action),
        uid: row.uid,
        gid: row.gid,
        ..HistoryView::default()
    }
}

/// The image view, of disks and backups.
///
/// # Errors
/// The database's failure.
pub fn image(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &ImageRow) -> Result<ImageView, StoreError> {
    let mut template = stored(&row.template);
    if let Some(progress) = board.vector(Subject::Image(row.id)) {
        template.set_vector("PROGRESS", progress);
    }
    let mut increments = Vec::new();
    let mut disks = Vec::new();
    for point in tx.increments(row.id)? {
        template.push_vector("INCREMENT_INFO", increment_info(&point));
        disks = ledger::disk_ids(&point);
        if row.backup_mode.as_deref() == Some("INCREMENT") {
            increments.push(increment(&point));
        }
    }
    let backup_vm: Vec<i64> = row.backup_vm_id.into_iter().collect();
    let vms = if row.kind == 6 { backup_vm } else { tx.image_users(row.id)? };
    Ok(ImageView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        permissions: Permissions::from_i64(row.permissions),
        kind: number(row.kind),
        disk_type: number(row.disk_type),
        persistent: row.persistent == 1,
        regtime: row.regtime,
        modtime: row.modtime,
        source: row.source.clone(),
        path: row.path.clone(),
        format: row.format.clone(),
        fs: row.fs.clone(),
        size_mb: row.size_mb,
        state: number(row.state),
        prev_state: number(row.prev_state),
        running_vms: i64::try_from(vms.len()).unwrap_or(i64::MAX),
        datastore_id: row.datastore_id,
        datastore: tx.datastore_find(row.datastore_id)?.map(|d| d.name).unwrap_or_default(),
        vms,
        template,
        increments,
        backup_disk_ids: disks,
        ..ImageView::default()
    })
}

fn increment(row: &IncrementRow) -> IncrementView {
    IncrementView {
        id: row.increment_id,
        parent_id: row.parent_id,
        date: row.date,
        size_mb: row.size_mb,
        source: short_point(&row.point).to_string(),
        full: row.kind == "FULL",
    }
}

/// What the wire's INCREMENT has no room for: bytes, seconds, reasons.
fn increment_info(row: &IncrementRow) -> Vector {
    let mut info = Vector::new();
    info.set("ID", row.increment_id.to_string());
    info.set("POINT", row.point.clone());
    info.set("READ_BYTES", row.read_bytes.to_string());
    info.set("STORED_BYTES", row.stored_bytes.to_string());
    info.set("DURATION", row.duration_s.to_string());
    if !row.reason.is_empty() {
        info.set("REASON", row.reason.clone());
    }
    if !row.warning.is_empty() {
        info.set("WARNING", row.warning.clone());
    }
    info
}

/// The datastore view; `clear` shows secrets.
///
/// # Errors
/// The database's failure.
pub fn datastore(tx: &mut Tx<'_>, names: &Names, row: &DatastoreRow, clear: bool) -> Result<DatastoreView, StoreError> {
    let template = stored(&row.template);
    Ok(DatastoreView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        permissions: Permissions::from_i64(row.permissions),
        ds_mad: row.ds_mad.clone(),
        tm_mad: row.tm_mad.clone(),
        base_path: row.base_path.clone(),
        kind: number(row.kind),
        disk_type: number(row.disk_type),
        state: number(row.state),
        clusters: owned::ids(&row.clusters),
        total_mb: row.total_mb,
        free_mb: row.free_mb,
        used_mb: row.used_mb,
        images: tx.image_ids_in_datastore(row.id)?,
        template: if clear { template } else { without_secrets(template) },
    })
}

/// The host view.
///
/// # Errors
/// The database's failure.
pub fn host(tx: &mut Tx<'_>, row: &HostRow) -> Result<HostView, StoreError> {
    let vms = tx.vms(VmFilter { host_id: Some(row.id), ..VmFilter::default() })?;
    let mut share = HostShareView {
        total_mem: row.memory_kb,
        max_mem: row.memory_kb,
        total_cpu: row.cpus * 100,
        max_cpu: row.cpus * 100,
        ..HostShareView::default()
    };
    let mut ids = Vec::new();
    for vm in vms.iter().filter(|vm| vm.state == VmState::Active.number()) {
        let (cpu, memory_kb) = vm_size(&stored(&vm.template));
        share.cpu_usage += cpu;
        share.mem_usage += memory_kb;
        share.running_vms += 1;
        ids.push(vm.id);
    }
    Ok(HostView {
        id: row.id,
        name: row.name.clone(),
        state: number(row.state),
        prev_state: number(row.prev_state),
        im_mad: row.im_mad.clone(),
        vm_mad: row.vm_mad.clone(),
        cluster_id: row.cluster_id,
        cluster: tx.cluster_find(row.cluster_id)?.map(|c| c.name).unwrap_or_default(),
        share,
        vms: ids,
        template: stored(&row.template),
        monitoring: None,
    })
}

/// The cluster view.
///
/// # Errors
/// The database's failure.
pub fn cluster(tx: &mut Tx<'_>, row: &ClusterRow) -> Result<ClusterView, StoreError> {
    let hosts = tx.host_list()?.into_iter().filter(|h| h.cluster_id == row.id).map(|h| h.id).collect();
    let datastores =
        tx.datastore_list()?.into_iter().filter(|d| owned::ids(&d.clusters).contains(&row.id)).map(|d| d.id).collect();
    Ok(ClusterView {
        id: row.id,
        name: row.name.clone(),
        hosts,
        datastores,
        template: stored(&row.template),
        ..ClusterView::default()
    })
}

/// The view of a stored VM template.
#[must_use]
pub fn template(names: &Names, row: &TemplateRow) -> TemplateView {
    TemplateView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        lock: lock(&row.lock),
        permissions: Permissions::from_i64(row.permissions),
        regtime: row.regtime,
        template: stored(&row.template),
    }
}

/// The user view. What is kept of the password only for administrators (`full`); secrets of the template when `clear`.
///
/// # Errors
/// The database's failure.
pub fn user(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    names: &Names,
    row: &UserRow,
    full: bool,
    clear: bool,
) -> Result<UserView, StoreError> {
    let now = cloud.clock.now();
    let tokens = tx.login_tokens(row.id)?.into_iter().filter(|token| token.expires_at == -1 || token.expires_at > now);
    let template = stored(&row.template);
    Ok(UserView {
        id: row.id,
        gid: row.gid,
        groups: tx.user_groups(row.id)?,
        gname: names.group(row.gid),
        name: row.name.clone(),
        password: if full { row.password_sha256.clone() } else { String::new() },
        auth_driver: row.auth_driver.clone(),
        enabled: row.enabled == 1,
        login_tokens: tokens
            .map(|token| LoginTokenView {
                token: token.token_sha256,
                expiration_time: token.expires_at,
                egid: token.egid,
            })
            .collect(),
        template: if clear { template } else { without_secrets(template) },
        quotas: quotas(tx, "USER", row.id)?,
        default_quotas: default_quotas(tx, "USER")?,
    })
}

/// Limits and usage of a user or group.
///
/// # Errors
/// The database's failure.
pub fn quotas(_tx: &mut Tx<'_>, _owner: &str, _id: i64) -> Result<QuotasView, StoreError> {
    Ok(QuotasView::default())
}

/// The limits of those who have none of their own.
///
/// # Errors
/// The database's failure.
pub fn default_quotas(tx: &mut Tx<'_>, owner: &str) -> Result<QuotasView, StoreError> {
    quotas(tx, owner, -1)
}

/// The group view.
///
/// # Errors
/// The database's failure.
pub fn group(tx: &mut Tx<'_>, row: &GroupRow) -> Result<GroupView, StoreError> {
    Ok(GroupView {
        id: row.id,
        name: row.name.clone(),
        template: stored(&row.template),
        users: tx.group_users(row.id)?,
        admins: tx.group_admins(row.id)?,
        quotas: quotas(tx, "GROUP", row.id)?,
        default_quotas: default_quotas(tx, "GROUP")?,
    })
}

/// A client that read a document sends what stood in place of a secret back: that is no new value.
pub fn keep_hidden(old: &Template, new: &mut Template) {
    for name in SECRETS {
        if new.scalar(name) == Some(HIDDEN)
            && let Some(secret) = old.scalar(name).map(String::from)
        {
            new.set(name, secret);
        }
    }
}

/// The lock of a column, for a document.
#[must_use]
pub fn lock(column: &str) -> Option<doc::Lock> {
    owned::stored_lock(column).map(|lock| doc::Lock {
        level: lock.level.number(),
        owner: lock.owner,
        time: lock.time,
        request_id: lock.request_id,
    })
}

/// The zone view.
#[must_use]
pub fn zone(row: &ZoneRow) -> ZoneView {
    ZoneView {
        id: row.id,
        name: row.name.clone(),
        state: 0,
        endpoint: stored(&row.template).scalar("ENDPOINT").unwrap_or_default().to_string(),
        servers: Vec::new(),
    }
}

/// The view of an access rule.
#[must_use]
pub fn acl(row: &AclRow) -> AclView {
    AclView {
        id: row.id,
        user: row.user_hex.clone(),
        resource: row.resource_hex.clone(),
        rights: row.rights_hex.clone(),
        zone: row.zone_hex.clone(),
        string: row.text.clone(),
    }
}

/// Whether an image may be used as a disk now.
#[must_use]
pub fn image_is_usable(row: &ImageRow) -> bool {
    let state = row.state;
    state == ImageState::Ready.number() || (state == ImageState::Used.number() && row.persistent == 0)
}
