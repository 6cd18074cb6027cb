//! Snapshots of single disks of a VM, and of a VM as a whole.
//!
//! A snapshot is recorded when its making begins; the job confirms it or takes it back. Each lies inside the image files, so
//! one does not need another.

use one_core::access::Caller;
use one_core::lifecycle::actions::number;
use one_core::lifecycle::{SystemSnapshots, VmEvent, VmOperation, VmPhase, allowed_beside_backups};
use one_core::refusal::Refusal;
use one_core::template::Vector;

use super::vm_disks::{begin, disk_of, vm_to};
use super::{Cloud, view};
use crate::job::{DiskSnapshotPlan, JobKind, SnapshotStep, SystemSnapshotPlan};
use crate::store::Tx;
use crate::store::rows::VmRow;
use crate::{devices, ledger};

/// A disk that can have snapshots, of a VM that does not run.
fn snapshot_disk(row: &VmRow, disk_id: i64) -> Result<Vector, Refusal> {
    let disk = disk_of(row, disk_id)?;
    let format = disk.get("FORMAT").unwrap_or_default();
    if format != "qcow2" || disk.yes("READONLY").unwrap_or(false) {
        return Err(Refusal::Action(format!(
            "Disk {disk_id} cannot have snapshots: only writable qcow2 disks can, and this one is {format}."
        )));
    }
    if ledger::phase(row) == VmPhase::RUNNING {
        return Err(Refusal::Action(
            "Snapshots of a single disk need a VM that is off: power it off, or make one of the whole VM with \
             snapshot-create."
                .into(),
        ));
    }
    Ok(disk)
}

/// `one.vm.disksnapshotcreate`; returns the snapshot's number.
///
/// # Errors
/// Not authorised (MANAGE), no such disk, one that is no qcow2, a VM whose backups are increments, a wrong state, a bad name.
pub fn disk_create(cloud: &Cloud, caller: &Caller, id: i64, disk_id: i64, name: &str) -> Result<i64, Refusal> {
    let snapshot_id = cloud.store.write(|tx| {
        let mut row = vm_to(tx, caller, VmOperation::DiskSnapshot, id)?;
        allowed_beside_backups("disk-snapshot-create", ledger::config_of(&row).mode)?;
        let disk = snapshot_disk(&row, disk_id)?;
        let mut list = devices::snapshots_of(&row, &disk);
        let snapshot_id = list.create(name, disk.int("SIZE").unwrap_or(0), cloud.clock.now())?;
        devices::put_snapshots(&mut row, list);
        let plan = DiskSnapshotPlan { step: SnapshotStep::Create, disk_id, snapshot_id };
        let way = (VmEvent::DiskSnapshotCreateStart, number::DISK_SNAPSHOT_CREATE);
        begin(cloud, tx, caller, &mut row, way, (JobKind::DiskSnapshot, &plan))?;
        Ok::<_, Refusal>(snapshot_id)
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

/// `one.vm.disksnapshotrevert`; returns the snapshot's number. What was written since is lost.
///
/// # Errors
/// Not authorised (MANAGE), no such disk or snapshot, a wrong state.
pub fn disk_revert(cloud: &Cloud, caller: &Caller, id: i64, disk_id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    let way = (VmEvent::DiskSnapshotRevertStart, number::DISK_SNAPSHOT_REVERT);
    disk_step(cloud, caller, (id, disk_id, snapshot_id), SnapshotStep::Revert, way)
}

/// `one.vm.disksnapshotdelete`; returns the snapshot's number.
///
/// # Errors
/// As [`disk_revert`].
pub fn disk_delete(cloud: &Cloud, caller: &Caller, id: i64, disk_id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    let way = (VmEvent::DiskSnapshotDeleteStart, number::DISK_SNAPSHOT_DELETE);
    disk_step(cloud, caller, (id, disk_id, snapshot_id), SnapshotStep::Delete, way)
}

fn disk_step(
    cloud: &Cloud,
    caller: &Caller,
    (id, disk_id, snapshot_id): (i64, i64, i64),
    step: SnapshotStep,
    way: (VmEvent, i64),
) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_to(tx, caller, VmOperation::DiskSnapshot, id)?;
        let disk = disk_of(&row, disk_id)?;
        let list = devices::snapshots_of(&row, &disk);
        match step {
            SnapshotStep::Delete => list.may_delete(snapshot_id)?,
            _ => list.may_revert(snapshot_id)?,
        }
        snapshot_disk(&row, disk_id)?;
        let plan = DiskSnapshotPlan { step, disk_id, snapshot_id };
        begin(cloud, tx, caller, &mut row, way, (JobKind::DiskSnapshot, &plan))
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

/// `one.vm.disksnapshotrename`; returns the VM's id.
///
/// # Errors
/// Not authorised (MANAGE), no such disk or snapshot, a bad name.
pub fn disk_rename(
    cloud: &Cloud,
    caller: &Caller,
    (id, disk_id, snapshot_id): (i64, i64, i64),
    name: &str,
) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_to(tx, caller, VmOperation::DiskSnapshot, id)?;
        let disk = disk_of(&row, disk_id)?;
        let mut list = devices::snapshots_of(&row, &disk);
        list.rename(snapshot_id, name)?;
        devices::put_snapshots(&mut row, list);
        tx.vm_update(&row)?;
        Ok(id)
    })
}

/// `one.vm.snapshotcreate`: memory and disks of a running VM; returns the snapshot's number.
///
/// # Errors
/// Not authorised (MANAGE), a VM whose backups are increments, a wrong state, a bad name.
pub fn create(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    let snapshot_id = cloud.store.write(|tx| {
        let row = vm_to(tx, caller, VmOperation::Snapshot, id)?;
        allowed_beside_backups("snapshot-create", ledger::config_of(&row).mode)?;
        let size_mb = view::stored(&row.template)
            .vectors("DISK")
            .fold(0, |sum: i64, disk| sum.saturating_add(disk.int("SIZE").unwrap_or(0).max(0)));
        let now = cloud.clock.now();
        let way = (VmEvent::SnapshotCreateStart, number::SNAPSHOT_CREATE);
        step(cloud, tx, caller, row, SnapshotStep::Create, way, |list| list.create(name, size_mb, now))
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

/// `one.vm.snapshotrevert`; returns the snapshot's number. What happened since is lost.
///
/// # Errors
/// Not authorised (MANAGE), no such snapshot, a wrong state.
pub fn revert(cloud: &Cloud, caller: &Caller, id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = vm_to(tx, caller, VmOperation::Snapshot, id)?;
        let way = (VmEvent::SnapshotRevertStart, number::SNAPSHOT_REVERT);
        let begin = |list: &mut SystemSnapshots| list.revert(snapshot_id).map(|()| snapshot_id);
        step(cloud, tx, caller, row, SnapshotStep::Revert, way, begin)
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

/// `one.vm.snapshotdelete`; returns the snapshot's number.
///
/// # Errors
/// As [`revert`].
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = vm_to(tx, caller, VmOperation::Snapshot, id)?;
        let way = (VmEvent::SnapshotDeleteStart, number::SNAPSHOT_DELETE);
        let begin = |list: &mut SystemSnapshots| list.delete(snapshot_id).map(|()| snapshot_id);
        step(cloud, tx, caller, row, SnapshotStep::Delete, way, begin)
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

fn step(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    mut row: VmRow,
    step: SnapshotStep,
    way: (VmEvent, i64),
    change: impl FnOnce(&mut SystemSnapshots) -> Result<i64, Refusal>,
) -> Result<i64, Refusal> {
    let mut template = view::stored(&row.template);
    let mut list = SystemSnapshots::from_template(&template);
    let snapshot_id = change(&mut list)?;
    list.write_to(&mut template);
    row.template = template.to_text();
    let plan = SystemSnapshotPlan { step, snapshot_id };
    begin(cloud, tx, caller, &mut row, way, (JobKind::SystemSnapshot, &plan))?;
    Ok(snapshot_id)
}
