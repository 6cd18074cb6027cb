//! `HOST` (`one.host.info`) and its samples (`one.host.monitoring`).

use super::writer::Writer;
use super::{Render, alone};
use crate::template::Template;

/// What a host document shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostView {
    /// Host id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// STATE number: init 0, monitoring 1, on 2, error 3, disabled 4, offline 8.
    pub state: i32,
    /// STATE before the last change.
    pub prev_state: i32,
    /// Monitoring driver.
    pub im_mad: String,
    /// Hypervisor driver.
    pub vm_mad: String,
    /// Cluster id.
    pub cluster_id: i64,
    /// Cluster name.
    pub cluster: String,
    /// Capacity and use.
    pub share: HostShareView,
    /// VMs on it.
    pub vms: Vec<i64>,
    /// Attributes.
    pub template: Template,
    /// Last monitoring; `None` shows an empty element.
    pub monitoring: Option<HostMonitoringView>,
}

/// Capacity of a host (`HOST_SHARE`); memory in KiB, processors in hundredths of one, disks in MB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostShareView {
    /// Memory promised to VMs.
    pub mem_usage: i64,
    /// Processors promised to VMs.
    pub cpu_usage: i64,
    /// Memory of the machine.
    pub total_mem: i64,
    /// Processors of the machine.
    pub total_cpu: i64,
    /// Memory that may be promised.
    pub max_mem: i64,
    /// Processors that may be promised.
    pub max_cpu: i64,
    /// Number of VMs on it.
    pub running_vms: i64,
    /// Threads per core given to VMs.
    pub vms_thread: i64,
    /// Disk promised to VMs.
    pub disk_usage: i64,
    /// System datastores as seen on this host.
    pub datastores: Vec<HostDatastoreView>,
    /// Free local disk.
    pub free_disk: i64,
    /// Size of the local disk.
    pub max_disk: i64,
    /// Used local disk.
    pub used_disk: i64,
}

/// A datastore as a host sees it (`DS`), MB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDatastoreView {
    /// Datastore id.
    pub id: i64,
    /// Free.
    pub free_mb: i64,
    /// Capacity.
    pub total_mb: i64,
    /// Used.
    pub used_mb: i64,
}

/// Measured values of a host (`MONITORING`); memory in KiB, processors in hundredths of one, network in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostMonitoringView {
    /// When, epoch seconds.
    pub timestamp: i64,
    /// Free processors.
    pub free_cpu: i64,
    /// Free memory.
    pub free_memory: i64,
    /// Used processors.
    pub used_cpu: i64,
    /// Used memory.
    pub used_memory: i64,
    /// Received since boot.
    pub netrx: i64,
    /// Sent since boot.
    pub nettx: i64,
}

/// The document (`one.host.info`, and an element of HOST_POOL).
pub fn host(view: &HostView) -> String {
    alone(view)
}

impl Render for HostView {
    fn render(&self, w: &mut Writer) {
        w.open("HOST");
        w.number("ID", self.id);
        w.text("NAME", &self.name);
        w.number("STATE", self.state);
        w.number("PREV_STATE", self.prev_state);
        w.text("IM_MAD", &self.im_mad);
        w.text("VM_MAD", &self.vm_mad);
        w.number("CLUSTER_ID", self.cluster_id);
        w.text("CLUSTER", &self.cluster);
        share(w, &self.share);
        w.ids("VMS", &self.vms);
        w.template("TEMPLATE", &self.template);
        match &self.monitoring {
            Some(seen) => HostSample { host: self.id, seen }.render(w),
            None => w.empty("MONITORING"),
        }
        w.close("HOST");
    }
}

fn share(w: &mut Writer, share: &HostShareView) {
    w.open("HOST_SHARE");
    w.number("MEM_USAGE", share.mem_usage);
    w.number("CPU_USAGE", share.cpu_usage);
    w.number("TOTAL_MEM", share.total_mem);
    w.number("TOTAL_CPU", share.total_cpu);
    w.number("MAX_MEM", share.max_mem);
    w.number("MAX_CPU", share.max_cpu);
    w.number("RUNNING_VMS", share.running_vms);
    w.number("VMS_THREAD", share.vms_thread);
    w.open("DATASTORES");
    w.number("DISK_USAGE", share.disk_usage);
    for datastore in &share.datastores {
        w.open("DS");
        w.number("FREE_MB", datastore.free_mb);
        w.number("ID", datastore.id);
        w.number("TOTAL_MB", datastore.total_mb);
        w.number("USED_MB", datastore.used_mb);
        w.close("DS");
    }
    w.number("FREE_DISK", share.free_disk);
    w.number("MAX_DISK", share.max_disk);
    w.number("USED_DISK", share.used_disk);
    w.close("DATASTORES");
    w.empty("PCI_DEVICES");
    w.empty("NUMA_NODES");
    w.close("HOST_SHARE");
}

/// One sample of a host (an element of MONITORING_DATA): what MONITORING of its document shows.
#[derive(Clone, Copy, Debug)]
pub struct HostSample<'a> {
    /// Host id.
    pub host: i64,
    /// The values.
    pub seen: &'a HostMonitoringView,
}

impl Render for HostSample<'_> {
    fn render(&self, w: &mut Writer) {
        w.open("MONITORING");
        w.number("TIMESTAMP", self.seen.timestamp);
        w.number("ID", self.host);
        w.open("CAPACITY");
        w.number("FREE_CPU", self.seen.free_cpu);
        w.number("FREE_MEMORY", self.seen.free_memory);
        w.number("USED_CPU", self.seen.used_cpu);
        w.number("USED_MEMORY", self.seen.used_memory);
        w.close("CAPACITY");
        w.open("SYSTEM");
        w.number("NETRX", self.seen.netrx);
        w.number("NETTX", self.seen.nettx);
        w.close("SYSTEM");
        w.close("MONITORING");
    }
}
