//! Disks of VMs and their snapshots: what is accepted, what is written down, what is refused.

use one_core::lifecycle::{LcmState, VmChange, VmEvent, VmPhase};
use one_core::refusal::Refusal;
use one_core::template::{Template, Vector};
use oned::api::vm_disks::{self, SaveAs};
use oned::api::{self, vm_snapshots};
use oned::devices;
use oned::job::{self, DiskPlan, DiskSnapshotPlan, ResizeDiskPlan, SaveAsPlan, SnapshotStep, SystemSnapshotPlan};
use oned::store::rows::JobRow;

use crate::world::{World, octal};

fn disks(world: &World, vm: i64) -> Vec<Vector> {
    Template::parse(&world.vm_row(vm).template).unwrap().vectors("DISK").cloned().collect()
}

fn attach(world: &World, vm: i64, disk: &str) -> Result<i64, Refusal> {
    vm_disks::attach(&world.cloud, &world.alice, vm, &format!("DISK=[{disk}]\n"))
}

/// Ends a change well as far as the VM's state is concerned.
fn settle(world: &World, vm: i64, change: VmChange) {
    world.end_jobs();
    world.step(vm, VmEvent::ChangeDone(change));
}

fn only_job(world: &World) -> JobRow {
    let mut jobs = world.open_jobs();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs.remove(0)
}

#[test]
fn a_disk_is_attached_under_the_next_number_and_the_next_free_name() {
    let world = World::new();
    let vm = world.add_running_vm("DISK=[TYPE=fs,SIZE=5]\n");
    let image = world.add_image("more");
    assert_eq!(attach(&world, vm, &format!("IMAGE_ID={image}")).unwrap(), vm);
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::Hotplug));
    let disk = disks(&world, vm).remove(2);
    let read = |key: &str| disk.get(key).unwrap_or("-").to_owned();
    assert_eq!((read("DISK_ID"), read("TARGET"), read("ATTACH")), ("2".into(), "vdc".into(), "YES".into()));
    assert_eq!((read("IMAGE"), read("CLONE"), read("SIZE")), ("more".into(), "YES".into(), "256".into()));
    assert_eq!(world.read(|tx| tx.image_users(image)), [vm]);
    let job = only_job(&world);
    assert_eq!((job.kind.as_str(), job.vm_id, job.host_id), ("ATTACH_DISK", Some(vm), Some(0)));
    assert_eq!(job::plan::<DiskPlan>(&job).unwrap(), DiskPlan { disk_id: 2 });
    let history = world.read(|tx| tx.history(vm));
    assert_eq!(history.iter().map(|record| record.action).collect::<Vec<_>>(), [21, 0]);
    world.vm_document(&world.alice, vm);
}

#[test]
fn a_wish_for_a_name_in_the_bus_is_kept_and_a_taken_one_is_refused() {
    let world = World::new();
    let vm = world.add_running_vm("");
    attach(&world, vm, "TYPE=swap,SIZE=16,TARGET=sdf").unwrap();
    let disk = disks(&world, vm).remove(1);
    assert_eq!((disk.get("TARGET"), disk.get("DEV_PREFIX")), (Some("sdf"), Some("sd")));
    settle(&world, vm, VmChange::Hotplug);
    world.refuses(2048, "TARGET vda is in use by another disk of the VM.", |_| {
        attach(&world, vm, "TYPE=fs,SIZE=1,TARGET=vda")
    });
    world.refuses(2048, "TARGET \"nvme0\" is not known; use vd, sd or hd and a letter.", |_| {
        attach(&world, vm, "TYPE=fs,SIZE=1,TARGET=nvme0")
    });
}

#[test]
fn what_is_no_disk_or_not_the_callers_or_comes_at_the_wrong_time_is_not_attached() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let image = world.add_image("hers");
    for (text, code, part) in [
        ("", 2048, "exactly one DISK"),
        ("DISK=[TYPE=fs,SIZE=1]\nDISK=[TYPE=fs,SIZE=1]\n", 2048, "exactly one DISK"),
        ("DISK=[SIZE=1]\n", 2048, "A DISK needs IMAGE_ID or IMAGE"),
        ("DISK=[TYPE=fs]\n", 2048, "needs SIZE"),
        ("DISK=[IMAGE_ID=77]\n", 1024, "Error getting image [77]."),
        ("DISK=[TYPE=fs,SIZE=1,SOURCE=\"/etc/shadow\"]\n", 512, "restricted attribute DISK/SOURCE"),
        ("DISK=[", 8192, "Parse error"),
    ] {
        let refusal = world.refusal(|cloud| vm_disks::attach(cloud, &world.alice, vm, text));
        assert!(refusal.code() == code && refusal.to_string().contains(part), "{text}: {} {refusal}", refusal.code());
    }
    world.edit_vm(vm, |row| row.permissions = octal(0o660));
    world.edit_image(image, |row| row.permissions = octal(0o600));
    let disk = format!("DISK=[IMAGE_ID={image}]\n");
    let sentence = format!("User [3] : Not authorized to perform USE IMAGE [{image}].");
    world.refuses(512, &sentence, |cloud| vm_disks::attach(cloud, &world.bob, vm, &disk));
    let sentence = format!("User [4] : Not authorized to perform MANAGE VM [{vm}].");
    world.refuses(512, &sentence, |cloud| vm_disks::attach(cloud, &world.mallory, vm, &disk));
    world.set_phase(vm, VmPhase::active(LcmState::Backup));
    let sentence = "Error performing action \"disk-attach\": This action is not available for state BACKUP";
    world.refuses(2048, sentence, |cloud| vm_disks::attach(cloud, &world.alice, vm, &disk));
}

#[test]
fn a_persistent_image_is_attached_once() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let image = world.add_image("own");
    api::image::persistent(&world.cloud, &world.alice, image, true).unwrap();
    attach(&world, vm, &format!("IMAGE_ID={image}")).unwrap();
    assert_eq!(world.image_row(image).state, 8);
    settle(&world, vm, VmChange::Hotplug);
    let sentence = format!("Cannot acquire image {image}: it is in state USED_PERS.");
    world.refuses(2048, &sentence, |_| attach(&world, vm, &format!("IMAGE_ID={image}")));
}

#[test]
fn a_disk_is_detached_by_its_number() {
    let world = World::new();
    let vm = world.add_running_vm("");
    world.refuses(2048, "VM disk does not exist: 7", |cloud| vm_disks::detach(cloud, &world.alice, vm, 7));
    world.power_off(vm);
    vm_disks::detach(&world.cloud, &world.alice, vm, 0).unwrap();
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::HotplugEpilogPoweroff));
    assert_eq!(only_job(&world).kind, "DETACH_DISK");
}

#[test]
fn records_of_a_disk_that_is_gone_free_its_image_and_end_the_chain_of_increments() {
    let world = World::new();
    let vm = world.add_running_vm("DISK=[TYPE=swap,SIZE=5]\nBACKUP_CONFIG=[MODE=INCREMENT]\n");
    let image = disks(&world, vm)[0].int("IMAGE_ID").unwrap();
    let remove = |disk_id: i64| {
        world.write(|tx| {
            let mut row = tx.vm(vm)?;
            devices::remove_disk(tx, &mut row, disk_id)
        });
    };
    world.edit_config(vm, |config| config.advance_chain(9, 3));
    remove(1);
    assert_eq!(world.config(vm).chain(), Some((9, 3)), "swap takes no part in backups");
    remove(0);
    assert_eq!(world.config(vm).chain(), None);
    assert_eq!(world.image_row(image).state, 1);
    assert!(disks(&world, vm).is_empty());
}

#[test]
fn disks_only_grow() {
    let world = World::new();
    let vm = world.add_running_vm("");
    for size in ["", "many", "-1", "0", "1.5", "99999999999999999999"] {
        let refusal = world.refusal(|cloud| vm_disks::resize(cloud, &world.alice, vm, 0, size));
        assert!(refusal.code() == 2048 && refusal.to_string().contains("whole number of MB"), "{size}: {refusal}");
    }
    for size in ["1", "256"] {
        let sentence = "New disk size has to be greater than the 256 MB that disk 0 has.";
        world.refuses(2048, sentence, |cloud| vm_disks::resize(cloud, &world.alice, vm, 0, size));
    }
    vm_disks::resize(&world.cloud, &world.alice, vm, 0, "512").unwrap();
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::DiskResize));
    assert_eq!(job::plan::<ResizeDiskPlan>(&only_job(&world)).unwrap(), ResizeDiskPlan { disk_id: 0, size_mb: 512 });
    assert_eq!(disks(&world, vm)[0].get("SIZE"), Some("256"), "not before it has it");
}

#[test]
fn snapshots_of_a_disk_need_a_vm_that_is_off_and_does_not_do_increments() {
    let world = World::new();
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]\n");
    let create = |name: &str| vm_snapshots::disk_create(&world.cloud, &world.alice, vm, 0, name);
    let sentence = "Action \"disk-snapshot-create\" is not compatible with incremental backups";
    world.refuses(2048, sentence, |_| create("first"));
    let sentence = "Action \"snapshot-create\" is not compatible with incremental backups";
    world.refuses(2048, sentence, |cloud| vm_snapshots::create(cloud, &world.alice, vm, "first"));
    api::vm::update_conf(&world.cloud, &world.alice, vm, "BACKUP_CONFIG=[MODE=FULL]", 1).unwrap();
    let refusal = world.refusal(|_| create("first"));
    assert!(refusal.code() == 2048 && refusal.to_string().contains("power it off"), "{refusal}");
    world.power_off(vm);
    assert_eq!(create("first").unwrap(), 0);
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::DiskSnapshotPoweroff));
    let plan = job::plan::<DiskSnapshotPlan>(&only_job(&world)).unwrap();
    assert_eq!(plan, DiskSnapshotPlan { step: SnapshotStep::Create, disk_id: 0, snapshot_id: 0 });
    settle(&world, vm, VmChange::DiskSnapshot);
    let document = world.vm_document(&world.alice, vm);
    assert!(document.contains("<DISK_ID>0</DISK_ID>") && document.contains("<![CDATA[first]]>"), "{document}");

    vm_snapshots::disk_rename(&world.cloud, &world.alice, (vm, 0, 0), "better").unwrap();
    assert!(world.vm_document(&world.alice, vm).contains("<![CDATA[better]]>"));
    world.refuses(2048, "Snapshot does not exist: 5", |cloud| vm_snapshots::disk_revert(cloud, &world.alice, vm, 0, 5));
    let sentence = "VM cannot use backup increment mode, it has disks snapshots or disks are not qcow2.";
    world.refuses(8192, sentence, |cloud| {
        api::vm::update_conf(cloud, &world.alice, vm, "BACKUP_CONFIG=[MODE=INCREMENT]", 1)
    });
    let refusal = world.refusal(|cloud| vm_disks::resize(cloud, &world.alice, vm, 0, "512"));
    assert!(refusal.to_string().contains("it has snapshots"), "{refusal}");
    assert_eq!(vm_snapshots::disk_delete(&world.cloud, &world.alice, vm, 0, 0).unwrap(), 0);
}

#[test]
fn only_writable_qcow2_disks_have_snapshots() {
    let world = World::new();
    let vm = world.add_running_vm("DISK=[TYPE=fs,SIZE=1,FORMAT=raw]\n");
    world.power_off(vm);
    let refusal = world.refusal(|cloud| vm_snapshots::disk_create(cloud, &world.alice, vm, 1, "a"));
    assert!(refusal.code() == 2048 && refusal.to_string().contains("this one is raw"), "{refusal}");
}

#[test]
fn a_snapshot_of_the_vm_stands_in_its_template_and_holds_its_disks() {
    let world = World::new();
    let vm = world.add_running_vm("");
    assert_eq!(vm_snapshots::create(&world.cloud, &world.alice, vm, "before").unwrap(), 0);
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::HotplugSnapshot));
    let plan = job::plan::<SystemSnapshotPlan>(&only_job(&world)).unwrap();
    assert_eq!(plan, SystemSnapshotPlan { step: SnapshotStep::Create, snapshot_id: 0 });
    world.vm_document(&world.alice, vm);
    world.edit_system(vm, "ACTION=\"CREATE\",", "");
    settle(&world, vm, VmChange::SystemSnapshot);
    let refusal = world.refusal(|_| attach(&world, vm, "TYPE=fs,SIZE=1"));
    assert!(refusal.code() == 2048 && refusal.to_string().contains("snapshot-delete first"), "{refusal}");
    world.refuses(2048, "Snapshot does not exist: 3", |cloud| vm_snapshots::revert(cloud, &world.alice, vm, 3));
    world.power_off(vm);
    let sentence = "Error performing action \"snapshot-delete\": This action is not available for state POWEROFF";
    world.refuses(2048, sentence, |cloud| vm_snapshots::delete(cloud, &world.alice, vm, 0));
}

#[test]
fn a_disk_is_saved_into_the_datastore_of_its_image() {
    let world = World::new();
    let vm = world.add_running_vm("DISK=[TYPE=fs,SIZE=1]\n");
    let save = |disk_id: i64, name: &'static str, kind: &'static str, snapshot: i64| {
        vm_disks::save_as(&world.cloud, &world.alice, vm, SaveAs { disk_id, name, kind, snapshot })
    };
    for (disk, name, kind, snapshot, code, part) in [
        (0, "", "", -1, 16384, "No NAME"),
        (0, "disk-0", "", -1, 16384, "NAME is already taken by IMAGE 0."),
        (0, "saved", "BACKUP", -1, 2048, "is not known"),
        (0, "saved", "", 3, 2048, "Snapshot does not exist: 3"),
        (1, "saved", "", -1, 2048, "is volatile"),
        (9, "saved", "", -1, 2048, "VM disk does not exist: 9"),
    ] {
        let refusal = world.refusal(|_| save(disk, name, kind, snapshot));
        assert!(refusal.code() == code && refusal.to_string().contains(part), "{part}: {} {refusal}", refusal.code());
    }
    let image = save(0, "saved", "", -1).unwrap();
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::HotplugSaveas));
    let row = world.image_row(image);
    assert_eq!((row.state, row.name.as_str(), row.kind, row.size_mb), (4, "saved", 0, 256));
    let job = only_job(&world);
    assert_eq!((job.kind.as_str(), job.vm_id, job.image_id), ("SAVE_AS", Some(vm), Some(image)));
    assert_eq!(job::plan::<SaveAsPlan>(&job).unwrap().target.to_string_lossy(), row.source);
    world.image_document(&world.alice, image);
}

#[test]
fn pci_devices_are_recorded_for_a_vm_that_is_off() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let attach = || vm_disks::attach_pci(&world.cloud, &world.admin, vm, "PCI = [ DEVICE = 0863 ]");
    let sentence = "Error performing action \"pci-attach\": This action is not available for state RUNNING";
    world.refuses(2048, sentence, |_| attach());
    world.power_off(vm);
    let sentence = "User [2] : Template includes a restricted attribute PCI.";
    world.refuses(512, sentence, |cloud| vm_disks::attach_pci(cloud, &world.alice, vm, "PCI=[DEVICE=0863]"));
    attach().unwrap();
    let pci = || Template::parse(&world.vm_row(vm).template).unwrap().vector("PCI").cloned();
    assert_eq!(pci().unwrap().iter().collect::<Vec<_>>(), [("DEVICE", "0863"), ("PCI_ID", "0")]);
    world.vm_document(&world.alice, vm);
    let refusal = world.refusal(|cloud| vm_disks::detach_pci(cloud, &world.alice, vm, 4));
    assert_eq!(refusal.to_string(), format!("VM {vm} has no PCI device 4."));
    vm_disks::detach_pci(&world.cloud, &world.alice, vm, 0).unwrap();
    assert_eq!(pci(), None);
}

#[test]
fn snapshots_of_a_persistent_disk_go_with_its_image_from_vm_to_vm() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let image = world.add_image("own");
    api::image::persistent(&world.cloud, &world.alice, image, true).unwrap();
    attach(&world, vm, &format!("IMAGE_ID={image}")).unwrap();
    settle(&world, vm, VmChange::Hotplug);
    world.power_off(vm);
    vm_snapshots::disk_create(&world.cloud, &world.alice, vm, 1, "kept").unwrap();
    settle(&world, vm, VmChange::DiskSnapshot);
    world.write(|tx| {
        let mut row = tx.vm(vm)?;
        devices::remove_disk(tx, &mut row, 1)
    });
    assert!(world.vm_row(vm).snapshots.len() <= 2);
    assert!(world.image_document(&world.alice, image).contains("<![CDATA[kept]]>"));
    let refusal = world.refusal(|cloud| api::image::persistent(cloud, &world.alice, image, false));
    assert!(refusal.code() == 2048 && refusal.to_string().contains("has snapshots"), "{refusal}");
    let other = api::vm::allocate(
        &world.cloud,
        &world.alice,
        &format!("{}DISK=[IMAGE_ID={image}]\n", crate::world::SIZE),
        false,
    );
    assert!(world.vm_document(&world.alice, other.unwrap()).contains("<![CDATA[kept]]>"));
}

#[test]
fn snapshots_are_made_deleted_and_gone_back_to_by_schedule() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let act = |word: &str, args: &str| {
        let acted: Result<(), Refusal> = world.cloud.store.write(|tx| {
            let row = tx.vm(vm)?;
            vm_snapshots::scheduled(&world.cloud, tx, &world.alice, row, (word, args))
        });
        acted
    };
    act("snapshot-create", "nightly").unwrap();
    world.edit_system(vm, "ACTION=\"CREATE\",", "");
    settle(&world, vm, VmChange::SystemSnapshot);
    for (word, args) in [("snapshot-revert", "first"), ("disk-snapshot-revert", "0"), ("disk-snapshot-create", "")] {
        let refusal = act(word, args).unwrap_err();
        assert!(refusal.code() == 2048 && refusal.to_string().contains("by its number"), "{word}: {refusal}");
    }
    act("snapshot-delete", "0").unwrap();
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::HotplugSnapshot));
    settle(&world, vm, VmChange::SystemSnapshot);
    world.power_off(vm);
    act("disk-snapshot-create", "0, weekly").unwrap();
    settle(&world, vm, VmChange::DiskSnapshot);
    assert!(world.vm_document(&world.alice, vm).contains("<![CDATA[weekly]]>"));
    act("disk-snapshot-delete", "0,0").unwrap();
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::DiskSnapshotDeletePoweroff));
}
