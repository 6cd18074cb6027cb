//! Datastores, hosts, clusters, zones.

use one_core::access::Permissions;
use one_core::doc::{
    ClusterView, DatastoreView, HostDatastoreView, HostMonitoringView, HostShareView, HostView, VdcResource, VdcView,
    ZoneView,
};
use one_core::lifecycle::VmState;
use one_core::template::Vector;

use super::{Names, number, shown, stored, vm_size};
use crate::api::{owned, zone as zones};
use crate::job::JobKind;
use crate::ledger::SYSTEM_DS;
use crate::store::rows::{ClusterRow, DatastoreRow, HostRow, SampleRow, VdcRow, ZoneRow};
use crate::store::{JobFilter, StoreError, Tx, VmFilter};

/// The datastore view.
///
/// # Errors
/// The database's failure.
pub fn datastore(tx: &mut Tx<'_>, names: &Names, row: &DatastoreRow) -> Result<DatastoreView, StoreError> {
    let mut template = shown(&row.template);
    // Clients look for these in the template too, where OpenNebula keeps them.
    let kinds = ["IMAGE_DS", "SYSTEM_DS", "FILE_DS", "BACKUP_DS"];
    let kind = usize::try_from(row.kind).ok().and_then(|kind| kinds.get(kind)).copied().unwrap_or_default();
    for (name, value) in [("DS_MAD", row.ds_mad.as_str()), ("TM_MAD", &row.tm_mad), ("TYPE", kind)] {
        template.set(name, value);
    }
    if let Some(job_id) = import_under_way(tx, row.id)? {
        let mut importing = Vector::new();
        importing.set("JOB", job_id.to_string());
        template.set_vector("IMPORTING_BACKUPS", importing);
    }
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
        template,
    })
}

/// The job that makes images of a datastore's restore points, if one is open.
///
/// # Errors
/// The database's failure.
pub fn import_under_way(tx: &mut Tx<'_>, datastore_id: i64) -> Result<Option<i64>, StoreError> {
    let jobs = tx.jobs_open(JobFilter::Kind(JobKind::ImportBackups.as_str()))?;
    Ok(jobs.into_iter().find(|job| job.datastore_id == Some(datastore_id)).map(|job| job.id))
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
    for datastore in tx.datastore_list()? {
        let here = datastore.kind == SYSTEM_DS && owned::ids(&datastore.clusters).contains(&row.cluster_id);
        if here && datastore.monitored_at != 0 {
            share.datastores.push(HostDatastoreView {
                id: datastore.id,
                free_mb: datastore.free_mb,
                total_mb: datastore.total_mb,
                used_mb: datastore.used_mb,
            });
        }
    }
    let mut ids = Vec::new();
    for vm in vms.iter().filter(|vm| vm.state == VmState::Active.number()) {
        let template = stored(&vm.template);
        let (cpu, memory_kb) = vm_size(&template);
        let disks = template.vectors("DISK").filter_map(|disk| disk.int("SIZE"));
        share.disk_usage = disks.fold(share.disk_usage, |sum, size| sum.saturating_add(size.max(0)));
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
        template: shown(&row.template),
        monitoring: tx.sample_last("HOST", row.id)?.as_ref().map(host_sample),
    })
}

/// The values of a host's sample.
#[must_use]
pub fn host_sample(row: &SampleRow) -> HostMonitoringView {
    let values = stored(&row.body);
    let value = |name: &str| values.int(name).unwrap_or(0);
    HostMonitoringView {
        timestamp: row.time,
        free_cpu: value("FREE_CPU"),
        free_memory: value("FREE_MEMORY"),
        used_cpu: value("USED_CPU"),
        used_memory: value("USED_MEMORY"),
        netrx: value("NETRX"),
        nettx: value("NETTX"),
    }
}

/// The cluster view.
///
/// # Errors
/// The database's failure.
pub fn cluster(tx: &mut Tx<'_>, row: &ClusterRow) -> Result<ClusterView, StoreError> {
    let hosts = tx.host_list()?.into_iter().filter(|h| h.cluster_id == row.id).map(|h| h.id).collect();
    let datastores =
        tx.datastore_list()?.into_iter().filter(|d| owned::ids(&d.clusters).contains(&row.id)).map(|d| d.id).collect();
    let vnets =
        tx.network_list()?.into_iter().filter(|n| owned::ids(&n.clusters).contains(&row.id)).map(|n| n.id).collect();
    Ok(ClusterView { id: row.id, name: row.name.clone(), hosts, datastores, vnets, template: shown(&row.template) })
}

/// The view of a virtual data centre.
///
/// # Errors
/// The database's failure.
pub fn vdc(tx: &mut Tx<'_>, row: &VdcRow) -> Result<VdcView, StoreError> {
    let mut members = |kind: &str| -> Result<Vec<VdcResource>, StoreError> {
        Ok(tx.vdc_members(row.id, kind)?.into_iter().map(|(zone_id, id)| VdcResource { zone_id, id }).collect())
    };
    Ok(VdcView {
        id: row.id,
        name: row.name.clone(),
        groups: members("GROUP")?.into_iter().map(|group| group.id).collect(),
        clusters: members("CLUSTER")?,
        hosts: members("HOST")?,
        datastores: members("DATASTORE")?,
        vnets: members("NET")?,
        template: stored(&row.template),
    })
}

/// The zone view.
#[must_use]
pub fn zone(row: &ZoneRow) -> ZoneView {
    let template = stored(&row.template);
    ZoneView {
        id: row.id,
        name: row.name.clone(),
        state: i32::from(zones::is_disabled(&template)),
        endpoint: template.scalar("ENDPOINT").unwrap_or_default().to_string(),
        servers: Vec::new(),
    }
}
