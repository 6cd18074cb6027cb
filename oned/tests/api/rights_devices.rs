//! Disks, cards and snapshots of VMs; clones of images and templates: what their methods are called with.

use one_core::lifecycle::{DiskSnapshots, Orphans, SystemSnapshots};
use oned::store::rows::ImageRow;

use super::Arg::{self, Bool, Int, Text};
use super::at;
use crate::world::{SIZE, World, octal};

/// A VM that is off, with a snapshot of its disk.
const OFF: i64 = 2;
/// A VM that runs.
const ON: i64 = 3;
/// A VM that runs and has a snapshot.
const SNAPPED: i64 = 4;
/// A persistent image with a snapshot.
const WITH_SNAPSHOT: i64 = 7;

/// An image of alice's like the first one. Not by the api: its copy job would have to be ended, and with it the backup that
/// runs here.
fn add_image(world: &World, name: &str) -> i64 {
    world.write(|tx| {
        let id = tx.next_id("image")?;
        let like = tx.image(at::FREE_IMAGE)?;
        oned::quota::save_image(tx, &ImageRow { id, name: name.into(), ..like })?;
        Ok(id)
    })
}

/// A running VM of alice's.
fn add_vm(world: &World, name: &str) -> i64 {
    let image = add_image(world, name);
    let text = format!("{SIZE}DISK=[IMAGE_ID={image}]\n");
    let id = oned::api::vm::allocate(&world.cloud, &world.alice, &text, false).unwrap();
    world.run_vm(id, 0);
    world.edit_vm(id, |row| row.permissions = octal(0o640));
    id
}

/// Adds what the calls are about; alice's, usable by her group.
pub fn furnish(world: &World) {
    let (off, on, snapped) = (add_vm(world, "off"), add_vm(world, "on"), add_vm(world, "snapped"));
    world.power_off(off);
    let mut list = DiskSnapshots::new(0, Orphans::Yes);
    list.create("first", 256, 0).unwrap();
    world.edit_vm(off, |row| {
        row.snapshots = oned::devices::snapshots_text(std::slice::from_ref(&list));
        row.template += "PCI=[DEVICE=0863,PCI_ID=0]\n";
    });
    world.edit_vm(snapped, |row| {
        let mut template = oned::ledger::stored(&row.template);
        let mut all = SystemSnapshots::default();
        all.create("whole", 256, 0).unwrap();
        all.done("system-0");
        all.write_to(&mut template);
        row.template = template.to_text();
    });
    let image = add_image(world, "with-snapshot");
    world.edit_image(image, |row| {
        row.persistent = 1;
        oned::devices::set_image_snapshots(row, Some(&list));
    });
    assert_eq!((off, on, snapped, image), (OFF, ON, SNAPPED, WITH_SNAPSHOT));
}

/// What each method is called with.
pub fn arguments(method: &str) -> Option<Vec<Arg>> {
    Some(match method {
        "one.image.chtype" => vec![Int(at::FREE_IMAGE), Text("DATABLOCK")],
        "one.image.clone" => vec![Int(at::FREE_IMAGE), Text("copy")],
        "one.image.enable" => vec![Int(at::FREE_IMAGE), Bool(false)],
        "one.image.snapshotdelete" | "one.image.snapshotflatten" | "one.image.snapshotrevert" => {
            vec![Int(WITH_SNAPSHOT), Int(0)]
        }
        "one.template.clone" => vec![Int(at::TEMPLATE), Text("copy")],
        "one.vm.attach" => vec![Int(OFF), Text("DISK=[IMAGE_ID=2]\n")],
        "one.vm.attachpci" => vec![Int(OFF), Text("PCI=[DEVICE=0863]\n")],
        "one.vm.detach" => vec![Int(OFF), Int(0)],
        "one.vm.detachpci" => vec![Int(OFF), Int(0)],
        "one.vm.diskresize" => vec![Int(ON), Int(0), Text("512")],
        "one.vm.disksaveas" => vec![Int(OFF), Int(0), Text("saved")],
        "one.vm.disksnapshotcreate" => vec![Int(OFF), Int(0), Text("second")],
        "one.vm.disksnapshotdelete" | "one.vm.disksnapshotrevert" => vec![Int(OFF), Int(0), Int(0)],
        "one.vm.disksnapshotrename" => vec![Int(OFF), Int(0), Int(0), Text("other")],
        "one.vm.snapshotcreate" => vec![Int(ON), Text("second")],
        "one.vm.snapshotdelete" | "one.vm.snapshotrevert" => vec![Int(SNAPPED), Int(0)],
        _ => return None,
    })
}

/// The object that the verbs which all kinds have are tried on.
pub fn object_of(_kind: &str) -> Option<i64> {
    None
}
