//! Disks of a VM that exists: attached, detached, made larger, saved as an image; PCI devices as records.
//!
//! What a disk is stands in the VM's template as soon as the call is accepted; a job makes it true or takes it back.

use std::path::PathBuf;

use one_core::access::{Caller, may_create};
use one_core::lifecycle::actions::number;
use one_core::lifecycle::{SystemSnapshots, VmEvent, VmOperation, VmPhase};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::{Template, Vector};

use super::image::{self, NewImage};
use super::vm_create::{self, DISKS_MAX, VOLATILE_MAX_MB};
use super::{Cloud, attributes, datastore_for, parse, view, vm_for};
use crate::job::{self, DiskPlan, JobKind, JobSubject, ResizeDiskPlan, SaveAsPlan};
use crate::quota;
use crate::store::Tx;
use crate::store::rows::VmRow;
use crate::{devices, ledger};

/// Most PCI devices of one VM.
const PCIS_MAX: usize = 32;

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Action(reason.into()))
}

/// The VM, if the caller has the right that the site asks for this operation.
pub(super) fn vm_to(tx: &mut Tx<'_>, caller: &Caller, operation: VmOperation, id: i64) -> Result<VmRow, Refusal> {
    vm_for(tx, caller, caller.vm_rights.right_for(operation), id)
}

/// A disk of a VM.
pub(super) fn disk_of(row: &VmRow, disk_id: i64) -> Result<Vector, Refusal> {
    devices::disk(row, disk_id).ok_or_else(|| Refusal::Action(format!("VM disk does not exist: {disk_id}")))
}

/// Moves the VM by `event`, keeps it in its history and writes the job.
pub(super) fn begin<P: serde::Serialize>(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    row: &mut VmRow,
    (event, action): (VmEvent, i64),
    (kind, plan): (JobKind, &P),
) -> Result<(), Refusal> {
    let now = cloud.clock.now();
    let before = tx.vm(row.id)?;
    let before = quota::of_vm(tx, &before)?;
    ledger::vm_step(tx, row, event, now)?;
    quota::more_of_vm(tx, &before, row)?.allowed(tx, caller.uid)?;
    ledger::history_action(tx, row.id, action, caller.uid, caller.gid, now)?;
    ledger::vm_error(tx, row, None)?;
    let subject = JobSubject { vm_id: Some(row.id), host_id: row.host_id, uid: caller.uid, ..JobSubject::default() };
    job::add(tx, kind, subject, plan, now)?;
    Ok(())
}

/// What a snapshot of the VM holds must not change under it.
fn no_system_snapshots(row: &VmRow) -> Result<(), Refusal> {
    if SystemSnapshots::from_template(&view::stored(&row.template)).snapshots().is_empty() {
        return Ok(());
    }
    refuse(format!(
        "VM {} has snapshots that hold the disks as they are; delete them with snapshot-delete first.",
        row.id
    ))
}

/// `one.vm.attach`: a disk of an image, or a volatile one; returns the VM's id.
///
/// # Errors
/// Not authorised (MANAGE, USE on the image), not exactly one DISK, attributes that make no disk, a wrong state.
pub fn attach(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let template = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = vm_to(tx, caller, VmOperation::DiskAttach, id)?;
        attributes::check(cloud, caller, ObjectKind::Vm, None, &template)?;
        let mut wishes = template.vectors("DISK");
        let (Some(wish), None) = (wishes.next(), wishes.next()) else {
            return refuse("The request must have exactly one DISK vector.");
        };
        no_system_snapshots(&row)?;
        let mut system = view::stored(&row.template);
        let (mut disk, image) = resolve(tx, caller, wish)?;
        let disk_id = place(cloud, &system, wish, &mut disk)?;
        disk.set("ATTACH", "YES");
        system.push_vector("DISK", disk.clone());
        row.template = system.to_text();
        if let Some(image) = &image {
            if let Some(brought) = devices::snapshots_brought(&disk, image) {
                devices::put_snapshots(&mut row, brought);
            }
            vm_create::take_image(tx, image, id)?;
        }
        let job = (JobKind::AttachDisk, &DiskPlan { disk_id });
        begin(cloud, tx, caller, &mut row, (VmEvent::AttachStart, number::DISK_ATTACH), job)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// The disk that a user wishes for, with the sentences of an attachment instead of those of a new VM.
fn resolve(tx: &mut Tx<'_>, caller: &Caller, wish: &Vector) -> Result<vm_create::Disk, Refusal> {
    let found = vm_create::find_image(tx, caller, wish).and_then(|image| match image {
        Some(image) => Ok((vm_create::image_disk(tx, wish, &image, &[])?, Some(image))),
        None => Ok((vm_create::volatile_disk(wish)?, None)),
    });
    found.map_err(|refusal| match refusal {
        Refusal::Allocate { reason, .. } => Refusal::Action(reason),
        other => other,
    })
}

/// Gives a new disk its number and its name in the guest's bus: the one that it wishes for, else the next free one.
fn place(cloud: &Cloud, system: &Template, wish: &Vector, disk: &mut Vector) -> Result<i64, Refusal> {
    if system.vectors("DISK").count() >= DISKS_MAX {
        return refuse(format!("A VM can have at most {DISKS_MAX} disks."));
    }
    let is_free = |target: &str| system.vectors("DISK").all(|other| other.get("TARGET") != Some(target));
    let target = match vm_create::wished_target(wish, is_free).or_else(refuse)? {
        Some(target) => target.to_owned(),
        None => {
            let prefix = disk.get("DEV_PREFIX").filter(|prefix| matches!(*prefix, "vd" | "sd" | "hd"));
            let prefix = prefix.unwrap_or(&cloud.config.default_device_prefix);
            let free = vm_create::free_target(prefix, is_free);
            free.ok_or_else(|| Refusal::Action(format!("There is no free TARGET {prefix}*; detach a disk first.")))?
        }
    };
    let highest = system.vectors("DISK").filter_map(|other| other.int("DISK_ID")).max();
    let id = highest.map_or(0, |id| id.saturating_add(1));
    vm_create::set_target(disk, target);
    disk.set("DISK_ID", id.to_string());
    Ok(id)
}

/// `one.vm.detach`; returns the VM's id. What is on a volatile or non-persistent disk is lost.
///
/// # Errors
/// Not authorised (MANAGE), no such disk, a wrong state.
pub fn detach(cloud: &Cloud, caller: &Caller, id: i64, disk_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_to(tx, caller, VmOperation::DiskAttach, id)?;
        disk_of(&row, disk_id)?;
        no_system_snapshots(&row)?;
        let mut system = view::stored(&row.template);
        if let Some(disk) = devices::disk_mut(&mut system, disk_id) {
            disk.set("DETACH", "YES");
        }
        row.template = system.to_text();
        let job = (JobKind::DetachDisk, &DiskPlan { disk_id });
        begin(cloud, tx, caller, &mut row, (VmEvent::DetachStart, number::DISK_DETACH), job)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.vm.diskresize`: `size` in MB, as text; disks only grow. Returns the VM's id.
///
/// # Errors
/// Not authorised (MANAGE), no such disk, one that cannot grow, a size that is none or not larger, a wrong state.
pub fn resize(cloud: &Cloud, caller: &Caller, id: i64, disk_id: i64, size: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_to(tx, caller, VmOperation::DiskResize, id)?;
        let disk = disk_of(&row, disk_id)?;
        let size_mb = match size.trim().parse::<i64>() {
            Ok(size) if (1..=VOLATILE_MAX_MB).contains(&size) => size,
            _ => return refuse(format!("The size must be a whole number of MB from 1 to {VOLATILE_MAX_MB}.")),
        };
        let present = disk.int("SIZE").unwrap_or(0);
        if size_mb <= present {
            return refuse(format!("New disk size has to be greater than the {present} MB that disk {disk_id} has."));
        }
        if disk.yes("READONLY").unwrap_or(false) || disk.get("TYPE") == Some("CDROM") {
            return refuse(format!("Disk {disk_id} is read-only and cannot be resized."));
        }
        if !devices::snapshots_of(&row, &disk).snapshots().is_empty() {
            return refuse(format!("Cannot resize disk {disk_id}: it has snapshots; delete them first."));
        }
        no_system_snapshots(&row)?;
        let job = (JobKind::ResizeDisk, &ResizeDiskPlan { disk_id, size_mb });
        begin(cloud, tx, caller, &mut row, (VmEvent::DiskResizeStart, number::DISK_RESIZE), job)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// What `one.vm.disksaveas` asks for.
#[derive(Debug, Clone, Copy)]
pub struct SaveAs<'a> {
    /// The VM's disk.
    pub disk_id: i64,
    /// Name of the new image.
    pub name: &'a str,
    /// Its TYPE; empty = that of the disk's image.
    pub kind: &'a str,
    /// Snapshot of the disk; −1 = the disk as it is.
    pub snapshot: i64,
}

/// `one.vm.disksaveas`: a new image with what is on the disk at one point in time; returns its id. It is LOCKED until the
/// copy is there.
///
/// # Errors
/// Not authorised (MANAGE, CREATE of images, USE on the datastore), no such disk, one without an image, a snapshot, a bad
/// or taken name, a wrong state.
pub fn save_as(cloud: &Cloud, caller: &Caller, id: i64, wish: SaveAs<'_>) -> Result<i64, Refusal> {
    let image_id = cloud.store.write(|tx| {
        let mut row = vm_to(tx, caller, VmOperation::DiskSaveAs, id)?;
        may_create(caller, ObjectKind::Image)?;
        let disk = disk_of(&row, wish.disk_id)?;
        let source = disk.int("IMAGE_ID").map(|id| tx.image_find(id)).transpose()?.flatten();
        let Some(source) = source else {
            return refuse(format!(
                "Disk {} is volatile: it is of no image, so there is no datastore to save it to.",
                wish.disk_id
            ));
        };
        let datastore = datastore_for(tx, caller, Right::Use, source.datastore_id)?;
        if wish.snapshot != -1 {
            devices::snapshots_of(&row, &disk).get(wish.snapshot)?;
            return refuse("A snapshot of a disk cannot be saved by itself; revert the disk to it and save the disk.");
        }
        let kind = if wish.kind.is_empty() { source.kind } else { image::type_number(wish.kind)? };
        let mut template = Template::new();
        template.set("DEV_PREFIX", disk.get("DEV_PREFIX").unwrap_or_default());
        template.set("SAVED_DISK_ID", wish.disk_id.to_string());
        template.set("SAVED_VM_ID", id.to_string());
        let new = NewImage {
            name: wish.name,
            kind,
            datastore: &datastore,
            path: String::new(),
            format: "qcow2".into(),
            size_mb: disk.int("SIZE").unwrap_or(0),
            persistent: false,
            template,
        };
        let image = image::insert(cloud, tx, caller, new)?;
        let now = cloud.clock.now();
        ledger::vm_step(tx, &mut row, VmEvent::SaveAsStart, now)?;
        ledger::vm_error(tx, &mut row, None)?;
        let plan = SaveAsPlan { disk_id: wish.disk_id, target: PathBuf::from(&image.source) };
        let subject = JobSubject {
            vm_id: Some(id),
            host_id: row.host_id,
            ..JobSubject::image(image.id, datastore.id, caller.uid)
        };
        job::add(tx, JobKind::SaveAs, subject, &plan, now)?;
        Ok(image.id)
    })?;
    cloud.wake.ring();
    Ok(image_id)
}

/// A VM whose PCI devices may change: one that is off.
fn vm_for_pci(tx: &mut Tx<'_>, caller: &Caller, id: i64, action: &str) -> Result<VmRow, Refusal> {
    let row = vm_to(tx, caller, VmOperation::PciAttach, id)?;
    let phase = ledger::phase(&row);
    if phase != VmPhase::POWEROFF {
        return Err(Refusal::WrongState { action: action.into(), state: phase.name().into() });
    }
    Ok(row)
}

/// `one.vm.attachpci`: records a PCI device of a VM that is off; returns the VM's id.
///
/// # Errors
/// Not authorised (MANAGE; administrators), not exactly one PCI, a wrong state.
pub fn attach_pci(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    let template = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = vm_for_pci(tx, caller, id, "pci-attach")?;
        attributes::check(cloud, caller, ObjectKind::Vm, None, &template)?;
        let mut wishes = template.vectors("PCI");
        let (Some(wish), None) = (wishes.next(), wishes.next()) else {
            return refuse("The request must have exactly one PCI vector.");
        };
        let mut system = view::stored(&row.template);
        if system.vectors("PCI").count() >= PCIS_MAX {
            return refuse(format!("A VM can have at most {PCIS_MAX} PCI devices."));
        }
        // Those of the template that the VM was made from have no number yet.
        let mut next =
            system.vectors("PCI").filter_map(|pci| pci.int("PCI_ID")).max().map_or(0, |id| id.saturating_add(1));
        for pci in system.vectors_mut("PCI").filter(|pci| pci.int("PCI_ID").is_none()) {
            pci.set("PCI_ID", next.to_string());
            next = next.saturating_add(1);
        }
        let mut pci = wish.clone();
        pci.set("PCI_ID", next.to_string());
        system.push_vector("PCI", pci);
        row.template = system.to_text();
        quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
        Ok(id)
    })
}

/// `one.vm.detachpci`; returns the VM's id.
///
/// # Errors
/// Not authorised (MANAGE), no such device, a wrong state.
pub fn detach_pci(cloud: &Cloud, caller: &Caller, id: i64, pci_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_for_pci(tx, caller, id, "pci-detach")?;
        let mut system = view::stored(&row.template);
        let all: Vec<Vector> = system.vectors("PCI").cloned().collect();
        let kept: Vec<&Vector> = all.iter().filter(|pci| pci.int("PCI_ID") != Some(pci_id)).collect();
        if kept.len() == all.len() {
            return refuse(format!("VM {id} has no PCI device {pci_id}."));
        }
        system.remove("PCI");
        kept.into_iter().for_each(|pci| system.push_vector("PCI", pci.clone()));
        row.template = system.to_text();
        quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
        Ok(id)
    })
}
