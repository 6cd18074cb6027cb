//! Datastores, hosts, clusters, zones.

use one_core::access::Permissions;
use one_core::doc::{ClusterView, DatastoreView, HostShareView, HostView, ZoneView};
use one_core::lifecycle::VmState;

use super::{Names, number, shown, stored, vm_size};
use crate::api::owned;
use crate::store::rows::{ClusterRow, DatastoreRow, HostRow, ZoneRow};
use crate::store::{StoreError, Tx, VmFilter};

/// The datastore view.
///
/// # Errors
/// The database's failure.
pub fn datastore(tx: &mut Tx<'_>, names: &Names, row: &DatastoreRow) -> Result<DatastoreView, StoreError> {
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
        template: shown(&row.template),
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
        template: shown(&row.template),
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
        template: shown(&row.template),
        ..ClusterView::default()
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
