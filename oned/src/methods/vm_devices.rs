//! Disks, PCI devices and snapshots of virtual machines.

use super::{ID, NAME, TEXT, rows};
use crate::api::Cloud;
use crate::api::vm_disks::{self, SaveAs};
use crate::api::vm_snapshots;
use crate::rpc::{Method, ParamSpec};

const DISK: ParamSpec = ParamSpec::int("disk");
const SNAPSHOT: ParamSpec = ParamSpec::int("snapshot");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    rows! {
        "one.vm.attach", [ID, TEXT], "Attaches a disk to a VM.", Id, |c, u, a| vm_disks::attach(c, u, a.int(0), a.text(1));
        "one.vm.attachpci", [ID, TEXT], "Adds a PCI device to a VM that is off.", Id,
            |c, u, a| vm_disks::attach_pci(c, u, a.int(0), a.text(1));
        "one.vm.detach", [ID, DISK], "Detaches a disk from a VM.", Id, |c, u, a| vm_disks::detach(c, u, a.int(0), a.int(1));
        "one.vm.detachpci", [ID, ParamSpec::int("pci")], "Removes a PCI device from a VM that is off.", Id,
            |c, u, a| vm_disks::detach_pci(c, u, a.int(0), a.int(1));
        "one.vm.diskresize", [ID, DISK, ParamSpec::text("size")], "Makes a disk of a VM larger, size in MB.", Id,
            |c, u, a| vm_disks::resize(c, u, a.int(0), a.int(1), a.text(2));
        "one.vm.disksaveas",
            [ID, DISK, NAME, ParamSpec::text("type").or_text(""), SNAPSHOT.or_int(-1)],
            "Saves a disk of a VM as a new image.", Id, |c, u, a| vm_disks::save_as(
                c, u, a.int(0), SaveAs { disk_id: a.int(1), name: a.text(2), kind: a.text(3), snapshot: a.int(4) });
        "one.vm.disksnapshotcreate", [ID, DISK, NAME], "Makes a snapshot of a disk.", Id,
            |c, u, a| vm_snapshots::disk_create(c, u, a.int(0), a.int(1), a.text(2));
        "one.vm.disksnapshotdelete", [ID, DISK, SNAPSHOT], "Deletes a snapshot of a disk.", Id,
            |c, u, a| vm_snapshots::disk_delete(c, u, a.int(0), a.int(1), a.int(2));
        "one.vm.disksnapshotrename", [ID, DISK, SNAPSHOT, NAME], "Renames a snapshot of a disk.", Id,
            |c, u, a| vm_snapshots::disk_rename(c, u, (a.int(0), a.int(1), a.int(2)), a.text(3));
        "one.vm.disksnapshotrevert", [ID, DISK, SNAPSHOT], "Reverts a disk to a snapshot.", Id,
            |c, u, a| vm_snapshots::disk_revert(c, u, a.int(0), a.int(1), a.int(2));
        "one.vm.snapshotcreate", [ID, NAME.or_text("")], "Makes a snapshot of a running VM.", Id,
            |c, u, a| vm_snapshots::create(c, u, a.int(0), a.text(1));
        "one.vm.snapshotdelete", [ID, SNAPSHOT], "Deletes a snapshot of a VM.", Id,
            |c, u, a| vm_snapshots::delete(c, u, a.int(0), a.int(1));
        "one.vm.snapshotrevert", [ID, SNAPSHOT], "Reverts a VM to a snapshot.", Id,
            |c, u, a| vm_snapshots::revert(c, u, a.int(0), a.int(1));
    }
}
