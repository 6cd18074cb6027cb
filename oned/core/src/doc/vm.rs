//! `VM`: the full document of `one.vm.info`, the short one of `one.vmpool.info`, and the records of accounting.

use std::borrow::Cow;

use super::writer::Writer;
use super::{Lock, Owner, Render, SnapshotView, alone, monitoring};
use crate::access::Permissions;
use crate::schedule::{SCHED_INFO, ScheduledAction};
use crate::template::{Template, Value, Vector};

/// What a VM document shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmView {
    /// VM id.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// The nine permission bits (full form only).
    pub permissions: Permissions,
    /// Lock, if any.
    pub lock: Option<Lock>,
    /// Last monitoring, epoch seconds, 0 never.
    pub last_poll: i64,
    /// STATE number.
    pub state: i32,
    /// LCM_STATE number.
    pub lcm_state: i32,
    /// STATE before the last change.
    pub prev_state: i32,
    /// LCM_STATE before the last change.
    pub prev_lcm_state: i32,
    /// Marked for rescheduling?
    pub resched: bool,
    /// Creation, epoch seconds.
    pub stime: i64,
    /// End (state DONE), epoch seconds, 0 while it lives.
    pub etime: i64,
    /// Name at the hypervisor (`one-7`), empty before the first boot.
    pub deploy_id: String,
    /// Monitoring values as scalars (`CPU`, `MEMORY` in KiB, `NETRX`, `TIMESTAMP` …) and `DISK_SIZE` vectors {ID,
    /// SIZE}. Names that the schema does not know and values that are no decimals are left out.
    pub monitoring: Template,
    /// Scheduled actions: ids go into SCHED_ACTIONS, the full ones to the end of TEMPLATE, what the schema has no room for
    /// into SCHED_INFO vectors in USER_TEMPLATE.
    pub sched_actions: Vec<ScheduledAction>,
    /// The system part of the template. VMID and TM_MAD_SYSTEM are added when absent (the schema demands both);
    /// scheduled actions and BACKUP_CONFIG in it are ignored, they have fields of their own.
    pub template: Template,
    /// The user's part of the template; SCHED_INFO in it is ignored.
    pub user_template: Template,
    /// History records, oldest first.
    pub history: Vec<HistoryView>,
    /// Disk snapshots, one per disk that has some.
    pub snapshots: Vec<DiskSnapshotsView>,
    /// BACKUP_CONFIG as `BackupConfig::to_vector` gives it; empty when the VM has none.
    pub backup_config: Vector,
    /// Ids of its backup images.
    pub backup_ids: Vec<i64>,
}

/// One history record (`HISTORY`): a stay on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryView {
    /// Number of the record, from 0.
    pub seq: i64,
    /// Host name.
    pub hostname: String,
    /// Host id.
    pub hid: i64,
    /// Cluster id.
    pub cid: i64,
    /// Start of the record, epoch seconds; 0 for "not yet" here and in all times below.
    pub stime: i64,
    /// End of the record.
    pub etime: i64,
    /// Hypervisor driver.
    pub vm_mad: String,
    /// Transfer driver of the system datastore.
    pub tm_mad: String,
    /// System datastore id.
    pub ds_id: i64,
    /// Optimisation plan that placed it, −1 none.
    pub plan_id: i64,
    /// Action in that plan, −1 none.
    pub plan_action_id: i64,
    /// Prolog start.
    pub pstime: i64,
    /// Prolog end.
    pub petime: i64,
    /// Running since.
    pub rstime: i64,
    /// Running until.
    pub retime: i64,
    /// Epilog start.
    pub estime: i64,
    /// Epilog end.
    pub eetime: i64,
    /// Number of the action that closed the record: 0 none, 50 backup, 60 restore …
    pub action: i32,
    /// Who asked for it, −1 the daemon.
    pub uid: i64,
    /// That user's group, −1 the daemon.
    pub gid: i64,
    /// Request id, −1 unknown.
    pub request_id: i64,
}

impl Default for HistoryView {
    fn default() -> Self {
        Self {
            seq: 0,
            hostname: String::new(),
            hid: 0,
            cid: 0,
            stime: 0,
            etime: 0,
            vm_mad: "kvm".into(),
            tm_mad: String::new(),
            ds_id: 0,
            plan_id: -1,
            plan_action_id: -1,
            pstime: 0,
            petime: 0,
            rstime: 0,
            retime: 0,
            estime: 0,
            eetime: 0,
            action: 0,
            uid: -1,
            gid: -1,
            request_id: -1,
        }
    }
}

/// The snapshots of one disk (`SNAPSHOTS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSnapshotsView {
    /// The disk.
    pub disk_id: i64,
    /// `YES`, `NO`, `FORMAT` or `MIXED`.
    pub allow_orphans: String,
    /// Snapshot in use, −1 none.
    pub current_base: i64,
    /// Number of the next one.
    pub next_snapshot: i64,
    /// The snapshots, ids ascending.
    pub snapshots: Vec<SnapshotView>,
}

/// Keys of DISK in the short form.
const SHORT_DISK: [&str; 9] =
    ["CLUSTER_ID", "DATASTORE", "DATASTORE_ID", "DISK_ID", "DISK_TYPE", "IMAGE", "IMAGE_ID", "SIZE", "TARGET"];
/// Keys of NIC in the short form: what address columns and searches need.
const SHORT_NIC: [&str; 11] =
    ["EXTERNAL_IP", "IP", "IP6", "IP6_GLOBAL", "IP6_LINK", "IP6_ULA", "MAC", "NAME", "NETWORK", "NETWORK_ID", "NIC_ID"];
/// Keys of GRAPHICS in the short form. PASSWD is only in the full form.
const SHORT_GRAPHICS: [&str; 4] = ["LISTEN", "PORT", "TYPE", "WAIT"];

/// The full document (`one.vm.info`, `one.vmpool.infoextended`).
pub fn vm(view: &VmView) -> String {
    alone(view)
}

/// The short document (`one.vmpool.info`); see [`VmShort`].
pub fn vm_short(view: &VmView) -> String {
    alone(&VmShort(view))
}

/// The full form.
impl Render for VmView {
    fn render(&self, w: &mut Writer) {
        full(w, self, &self.history);
    }
}

/// The short form of a VM: no permissions, no backups, the last history record only.
///
/// TEMPLATE has CPU, MEMORY, VCPU and some keys of DISK, NIC and GRAPHICS; USER_TEMPLATE has LABELS, LOGO, ERROR and
/// what begins with SCHED_, but for SCHED_INFO.
#[derive(Clone, Copy, Debug)]
pub struct VmShort<'a>(pub &'a VmView);

impl Render for VmShort<'_> {
    fn render(&self, w: &mut Writer) {
        short(w, self.0);
    }
}

/// A history record with the VM that it is of inside, as accounting shows them (HISTORY in the pool HISTORY_RECORDS of
/// `one.vmpool.accounting`). The VM's own HISTORY_RECORDS are left empty there, else a VM's answer would grow with the
/// square of its records.
#[derive(Clone, Copy, Debug)]
pub struct AccountingRecord<'a> {
    /// The VM; its history is not read.
    pub vm: &'a VmView,
    /// One record of it.
    pub record: &'a HistoryView,
}

impl Render for AccountingRecord<'_> {
    fn render(&self, w: &mut Writer) {
        w.open("HISTORY");
        history_fields(w, self.vm.id, self.record);
        full(w, self.vm, &[]);
        w.close("HISTORY");
    }
}

fn full(w: &mut Writer, view: &VmView, records: &[HistoryView]) {
    w.open("VM");
    w.number("ID", view.id);
    w.owner(&view.owner);
    w.text("NAME", &view.name);
    w.permissions(&view.permissions);
    w.number("LAST_POLL", view.last_poll);
    w.number("STATE", view.state);
    w.number("LCM_STATE", view.lcm_state);
    w.number("PREV_STATE", view.prev_state);
    w.number("PREV_LCM_STATE", view.prev_lcm_state);
    run_times(w, view);
    monitoring::of_vm(w, &view.monitoring);
    let actions: Vec<i64> = view.sched_actions.iter().map(|action| i64::from(action.id)).collect();
    w.ids("SCHED_ACTIONS", &actions);
    system_template(w, view);
    w.template("USER_TEMPLATE", &with_infos(view));
    w.open("HISTORY_RECORDS");
    for record in records {
        w.open("HISTORY");
        history_fields(w, view.id, record);
        w.close("HISTORY");
    }
    w.close("HISTORY_RECORDS");
    for disk in &view.snapshots {
        w.open("SNAPSHOTS");
        w.text("ALLOW_ORPHANS", &disk.allow_orphans);
        w.number("CURRENT_BASE", disk.current_base);
        w.number("DISK_ID", disk.disk_id);
        w.number("NEXT_SNAPSHOT", disk.next_snapshot);
        w.snapshots(&disk.snapshots, true);
        w.close("SNAPSHOTS");
    }
    w.open("BACKUPS");
    w.vector("BACKUP_CONFIG", &view.backup_config);
    w.ids("BACKUP_IDS", &view.backup_ids);
    w.close("BACKUPS");
    w.close("VM");
}

/// The user's part with what SCHED_ACTION has no room for.
fn with_infos(view: &VmView) -> Cow<'_, Template> {
    let infos: Vec<Vector> = view.sched_actions.iter().filter_map(ScheduledAction::info_vector).collect();
    if infos.is_empty() && !view.user_template.contains(SCHED_INFO) {
        return Cow::Borrowed(&view.user_template);
    }
    let mut template = view.user_template.clone();
    template.remove(SCHED_INFO);
    infos.into_iter().for_each(|info| template.push_vector(SCHED_INFO, info));
    Cow::Owned(template)
}

fn short(w: &mut Writer, view: &VmView) {
    w.open("VM");
    w.number("ID", view.id);
    w.owner(&view.owner);
    w.text("NAME", &view.name);
    w.number("LAST_POLL", view.last_poll);
    w.number("STATE", view.state);
    w.number("LCM_STATE", view.lcm_state);
    run_times(w, view);
    w.open("TEMPLATE");
    for name in ["CPU", "MEMORY", "VCPU"] {
        if let Some(value) = view.template.scalar(name) {
            w.text(name, value);
        }
    }
    for disk in view.template.vectors("DISK") {
        short_vector(w, "DISK", disk, &SHORT_DISK);
    }
    for nic in view.template.vectors("NIC") {
        short_vector(w, "NIC", nic, &SHORT_NIC);
    }
    if let Some(graphics) = view.template.vector("GRAPHICS") {
        short_vector(w, "GRAPHICS", graphics, &SHORT_GRAPHICS);
    }
    w.close("TEMPLATE");
    monitoring::of_vm(w, &view.monitoring);
    w.open("USER_TEMPLATE");
    w.attributes(&view.user_template, |name| {
        matches!(name, "LABELS" | "LOGO" | "ERROR") || name.starts_with("SCHED_") && name != SCHED_INFO
    });
    w.close("USER_TEMPLATE");
    w.open("HISTORY_RECORDS");
    if let Some(record) = view.history.last() {
        history_short(w, view.id, record);
    }
    w.close("HISTORY_RECORDS");
    w.close("VM");
}

fn run_times(w: &mut Writer, view: &VmView) {
    w.flag("RESCHED", view.resched);
    w.number("STIME", view.stime);
    w.number("ETIME", view.etime);
    w.text("DEPLOY_ID", &view.deploy_id);
    w.lock(view.lock.as_ref());
}

fn short_vector(w: &mut Writer, name: &str, vector: &Vector, keys: &[&str]) {
    w.pairs(name, keys.iter().filter_map(|key| Some((*key, vector.get(key)?))));
}

fn system_template(w: &mut Writer, view: &VmView) {
    let tm_mad = view.history.last().map_or("", |record| record.tm_mad.as_str());
    // The schema demands both.
    let vmid = Value::Scalar(view.id.to_string());
    let tm_mad_system = Value::Scalar(tm_mad.to_owned());
    let demanded = [("VMID", &vmid), ("TM_MAD_SYSTEM", &tm_mad_system)];
    let absent = demanded.into_iter().filter(|(name, _)| view.template.scalar(name).is_none());
    let stored = view.template.attributes().iter().map(|attribute| (attribute.name.as_str(), &attribute.value));
    let shown = stored.filter(|(name, value)| match *name {
        // Both have a place of their own in the document; a copy here would be read as another one.
        "SCHED_ACTION" | "BACKUP_CONFIG" => false,
        "VMID" | "TM_MAD_SYSTEM" => matches!(value, Value::Scalar(_)),
        _ => true,
    });
    w.open("TEMPLATE");
    w.ranked(shown.chain(absent).map(|(name, value)| (schema_place(name), name, value)), video);
    w.sched_actions(&view.sched_actions);
    w.close("TEMPLATE");
}

/// Sorting key of an attribute of TEMPLATE: its name, but for the four that the schema puts behind another name.
fn schema_place(name: &str) -> &str {
    match name {
        "HYPERV_OPTIONS" => "FEATURES ",
        "VIDEO" => "GRAPHICS ",
        "MEMORY_RESIZE_MODE" => "MEMORY_SLOTS ",
        "MEMORY_ENCRYPTION" => "TPM ",
        name => name,
    }
}

/// VIDEO in the order of the schema; answers false for any other vector.
fn video(w: &mut Writer, name: &str, vector: &Vector) -> bool {
    const KEYS: [&str; 5] = ["TYPE", "IOMMU", "ATS", "VRAM", "RESOLUTION"];
    if name != "VIDEO" {
        return false;
    }
    let known = KEYS.iter().filter_map(|key| Some((*key, vector.get(key)?)));
    w.pairs(name, known.chain(vector.iter().filter(|(key, _)| !KEYS.contains(key))));
    true
}

fn history_fields(w: &mut Writer, vm: i64, record: &HistoryView) {
    w.number("OID", vm);
    w.number("SEQ", record.seq);
    w.text("HOSTNAME", &record.hostname);
    w.number("HID", record.hid);
    w.number("CID", record.cid);
    w.number("STIME", record.stime);
    w.number("ETIME", record.etime);
    w.text("VM_MAD", &record.vm_mad);
    w.text("TM_MAD", &record.tm_mad);
    w.number("DS_ID", record.ds_id);
    w.number("PLAN_ID", record.plan_id);
    w.number("ACTION_ID", record.plan_action_id);
    w.number("PSTIME", record.pstime);
    w.number("PETIME", record.petime);
    w.number("RSTIME", record.rstime);
    w.number("RETIME", record.retime);
    w.number("ESTIME", record.estime);
    w.number("EETIME", record.eetime);
    w.number("ACTION", record.action);
    w.number("UID", record.uid);
    w.number("GID", record.gid);
    w.number("REQUEST_ID", record.request_id);
}

fn history_short(w: &mut Writer, vm: i64, record: &HistoryView) {
    w.open("HISTORY");
    w.number("OID", vm);
    w.number("SEQ", record.seq);
    w.text("HOSTNAME", &record.hostname);
    w.number("HID", record.hid);
    w.number("CID", record.cid);
    w.number("DS_ID", record.ds_id);
    w.text("VM_MAD", &record.vm_mad);
    w.text("TM_MAD", &record.tm_mad);
    w.number("ACTION", record.action);
    w.close("HISTORY");
}
