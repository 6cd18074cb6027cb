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
        let row = vm_to(tx, caller, VmOperation::DiskSnapshot, id)?;
        disk_create_within(cloud, tx, caller, row, disk_id, name)
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

fn disk_create_within(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    mut row: VmRow,
    disk_id: i64,
    name: &str,
) -> Result<i64, Refusal> {
    allowed_beside_backups("disk-snapshot-create", ledger::config_of(&row).mode)?;
    let disk = snapshot_disk(&row, disk_id)?;
    let mut list = devices::snapshots_of(&row, &disk);
    let snapshot_id = list.create(name, disk.int("SIZE").unwrap_or(0), cloud.clock.now())?;
    devices::put_snapshots(&mut row, list);
    let plan = DiskSnapshotPlan { step: SnapshotStep::Create, disk_id, snapshot_id };
    let way = (VmEvent::DiskSnapshotCreateStart, number::DISK_SNAPSHOT_CREATE);
    begin(cloud, tx, caller, &mut row, way, (JobKind::DiskSnapshot, &plan))?;
    Ok(snapshot_id)
}

/// `one.vm.disksnapshotrevert`; returns the snapshot's number. What was written since is lost.
///
/// # Errors
/// Not authorised (MANAGE), no such disk or snapshot, a wrong state.
pub fn disk_revert(cloud: &Cloud, caller: &Caller, id: i64, disk_id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    disk_change(cloud, caller, id, (disk_id, snapshot_id), SnapshotStep::Revert)
}

/// `one.vm.disksnapshotdelete`; returns the snapshot's number.
///
/// # Errors
/// As [`disk_revert`].
pub fn disk_delete(cloud: &Cloud, caller: &Caller, id: i64, disk_id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    disk_change(cloud, caller, id, (disk_id, snapshot_id), SnapshotStep::Delete)
}

fn disk_change(cloud: &Cloud, caller: &Caller, id: i64, which: (i64, i64), step: SnapshotStep) -> Result<i64, Refusal> {
    let snapshot_id = cloud.store.write(|tx| {
        let row = vm_to(tx, caller, VmOperation::DiskSnapshot, id)?;
        disk_change_within(cloud, tx, caller, row, which, step)
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

fn disk_change_within(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    mut row: VmRow,
    (disk_id, snapshot_id): (i64, i64),
    step: SnapshotStep,
) -> Result<i64, Refusal> {
    let disk = disk_of(&row, disk_id)?;
    let list = devices::snapshots_of(&row, &disk);
    let way = match step {
        SnapshotStep::Delete => {
            list.may_delete(snapshot_id)?;
            (VmEvent::DiskSnapshotDeleteStart, number::DISK_SNAPSHOT_DELETE)
        }
        _ => {
            list.may_revert(snapshot_id)?;
            (VmEvent::DiskSnapshotRevertStart, number::DISK_SNAPSHOT_REVERT)
        }
    };
    snapshot_disk(&row, disk_id)?;
    let plan = DiskSnapshotPlan { step, disk_id, snapshot_id };
    begin(cloud, tx, caller, &mut row, way, (JobKind::DiskSnapshot, &plan))?;
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
        create_within(cloud, tx, caller, row, name)
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

fn create_within(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, row: VmRow, name: &str) -> Result<i64, Refusal> {
    allowed_beside_backups("snapshot-create", ledger::config_of(&row).mode)?;
    let size_mb = view::stored(&row.template)
        .vectors("DISK")
        .fold(0, |sum: i64, disk| sum.saturating_add(disk.int("SIZE").unwrap_or(0).max(0)));
    let now = cloud.clock.now();
    let way = (VmEvent::SnapshotCreateStart, number::SNAPSHOT_CREATE);
    step(cloud, tx, caller, row, (SnapshotStep::Create, way), |list| list.create(name, size_mb, now))
}

/// `one.vm.snapshotrevert`; returns the snapshot's number. What happened since is lost.
///
/// # Errors
/// Not authorised (MANAGE), no such snapshot, a wrong state.
pub fn revert(cloud: &Cloud, caller: &Caller, id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    change(cloud, caller, id, snapshot_id, SnapshotStep::Revert)
}

/// `one.vm.snapshotdelete`; returns the snapshot's number.
///
/// # Errors
/// As [`revert`].
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64, snapshot_id: i64) -> Result<i64, Refusal> {
    change(cloud, caller, id, snapshot_id, SnapshotStep::Delete)
}

fn change(cloud: &Cloud, caller: &Caller, id: i64, snapshot_id: i64, kind: SnapshotStep) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = vm_to(tx, caller, VmOperation::Snapshot, id)?;
        change_within(cloud, tx, caller, row, snapshot_id, kind)
    })?;
    cloud.wake.ring();
    Ok(snapshot_id)
}

fn change_within(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    row: VmRow,
    snapshot_id: i64,
    kind: SnapshotStep,
) -> Result<i64, Refusal> {
    let way = match kind {
        SnapshotStep::Delete => (VmEvent::SnapshotDeleteStart, number::SNAPSHOT_DELETE),
        _ => (VmEvent::SnapshotRevertStart, number::SNAPSHOT_REVERT),
    };
    step(cloud, tx, caller, row, (kind, way), |list| {
        match kind {
            SnapshotStep::Delete => list.delete(snapshot_id)?,
            _ => list.revert(snapshot_id)?,
        }
        Ok(snapshot_id)
    })
}

/// What SCHED_ACTION asks for, on a VM whose rights are checked, within a transaction: `snapshot-create` (ARGS name),
/// `snapshot-revert`, `snapshot-delete` (number), `disk-snapshot-create` (disk, name), `disk-snapshot-revert`,
/// `disk-snapshot-delete` (disk, number).
///
/// # Errors
/// Another word, ARGS that do not fit, and what the calls of these names refuse.
pub fn scheduled(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    row: VmRow,
    (word, args): (&str, &str),
) -> Result<(), Refusal> {
    let number = |text: &str| {
        let bad =
            || Refusal::Action(format!("ARGS \"{args}\" of {word} do not name a disk or snapshot by its number."));
        text.trim().parse::<i64>().map_err(|_| bad())
    };
    let (first, second) = args.split_once(',').unwrap_or((args, ""));
    match word {
        "snapshot-create" => create_within(cloud, tx, caller, row, args.trim()),
        "snapshot-revert" => change_within(cloud, tx, caller, row, number(args)?, SnapshotStep::Revert),
        "snapshot-delete" => change_within(cloud, tx, caller, row, number(args)?, SnapshotStep::Delete),
        "disk-snapshot-create" => disk_create_within(cloud, tx, caller, row, number(first)?, second.trim()),
        "disk-snapshot-revert" | "disk-snapshot-delete" => {
            let step = if word.ends_with("delete") { SnapshotStep::Delete } else { SnapshotStep::Revert };
            disk_change_within(cloud, tx, caller, row, (number(first)?, number(second)?), step)
        }
        _ => return Err(Refusal::UnknownAction { action: word.into() }),
    }?;
    Ok(())
}

fn step(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    mut row: VmRow,
    (step, way): (SnapshotStep, (VmEvent, i64)),
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
