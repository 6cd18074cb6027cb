//! Disks that come and go, grow, are snapshot and copied while their VM is backed up, with a real hypervisor.

use system_tests::cloud::Cloud;
use system_tests::daemon::Options;
use system_tests::guest;
use system_tests::{command, invariants};

const MIB: u64 = 1 << 20;

/// An image of a qcow2 file without content.
fn empty_image(cloud: &Cloud, name: &str, size: &str) -> i64 {
    let file = cloud.work.path().join(format!("{name}.qcow2"));
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &file.to_string_lossy(), size]).unwrap();
    cloud.image(name, &file).unwrap()
}

fn call(cloud: &Cloud, method: &str, parameters: &[system_tests::rpc::Value]) -> i64 {
    cloud.one.call(method, parameters).unwrap().id().unwrap()
}

/// Runs `read -P` on a disk image of the cloud that nobody uses.
fn reads(cloud: &Cloud, image: i64, order: &str) {
    let document = cloud.one.show("oneimage", image).unwrap();
    let said = command::output("qemu-io", &["-r", "-f", "qcow2", "-c", order, document.text("SOURCE")]).unwrap();
    assert!(!said.contains("failed"), "image {image}: {order}: {said}");
}

#[test]
fn a_disk_attached_to_a_running_vm_begins_a_new_chain_and_so_does_its_removal() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("changing", "64M", "MODE = \"INCREMENT\"").unwrap();
    let domain = format!("one-{vm}");
    cloud.libvirtd.write(&domain, "vda", 1, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();

    let image = empty_image(&cloud, "second", "32M");
    call(&cloud, "one.vm.attach", &[vm.into(), format!("DISK = [ IMAGE_ID = {image} ]").as_str().into()]);
    let document = cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(document.texts("TEMPLATE/DISK/TARGET"), ["vda", "vdb"], "{:?}", document.text("USER_TEMPLATE/ERROR"));
    assert_eq!(document.text("BACKUPS/BACKUP_CONFIG/LAST_INCREMENT_ID"), "-1");
    cloud.libvirtd.write(&domain, "vdb", 2, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    // Increments of both follow.
    cloud.libvirtd.write(&domain, "vda", 3, MIB, MIB).unwrap();
    cloud.libvirtd.write(&domain, "vdb", 4, MIB, MIB).unwrap();
    cloud.backup(vm).unwrap();

    // Without a guest that would let go of it, a disk goes when the VM is off.
    cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
    call(&cloud, "one.vm.detach", &[vm.into(), 1.into()]);
    let document = cloud.one.wait_vm(vm, 8, 0).unwrap();
    assert_eq!(document.texts("TEMPLATE/DISK/TARGET"), ["vda"], "{:?}", document.text("USER_TEMPLATE/ERROR"));
    assert_eq!(cloud.one.show("oneimage", image).unwrap().text("STATE"), "1");
    cloud.one.ok("onevm", &["resume", &vm.to_string(), "--wait"]).unwrap();
    cloud.libvirtd.write(&domain, "vda", 5, 2 * MIB, MIB).unwrap();
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();

    let backups = cloud.backup_images(vm).unwrap();
    assert_eq!(backups.len(), 3, "each set of disks has its chain");
    let (_, images) = cloud.restore(backups[1], &["--name", "both"]).unwrap();
    assert_eq!(images.len(), 2);
    reads(&cloud, images[0], "read -P 1 0 1M");
    reads(&cloud, images[0], "read -P 3 1M 1M");
    reads(&cloud, images[1], "read -P 2 0 1M");
    reads(&cloud, images[1], "read -P 4 1M 1M");
    let (_, images) = cloud.restore(backups[2], &["--name", "one"]).unwrap();
    assert_eq!(images.len(), 1);
    for order in ["read -P 1 0 1M", "read -P 3 1M 1M", "read -P 5 2M 1M"] {
        reads(&cloud, images[0], order);
    }
    invariants::check(&cloud).unwrap();
}

#[test]
fn a_running_vms_disk_is_saved_as_it_is_and_grows_between_two_increments() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("growing", "64M", "MODE = \"INCREMENT\"").unwrap();
    let domain = format!("one-{vm}");
    cloud.libvirtd.write(&domain, "vda", 1, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    let saved = call(&cloud, "one.vm.disksaveas", &[vm.into(), 0.into(), "saved".into(), "".into(), (-1).into()]);
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(cloud.one.show("oneimage", saved).unwrap().text("STATE"), "1");
    reads(&cloud, saved, "read -P 1 0 1M");

    call(&cloud, "one.vm.diskresize", &[vm.into(), 0.into(), "96".into()]);
    let document = cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(document.texts("TEMPLATE/DISK/SIZE"), ["96"], "{:?}", document.text("USER_TEMPLATE/ERROR"));
    cloud.libvirtd.write(&domain, "vda", 2, 80 * MIB, MIB).unwrap();
    cloud.backup(vm).unwrap();
    let backup = cloud.backup_images(vm).unwrap()[0];
    let (_, images) = cloud.restore(backup, &["--name", "large"]).unwrap();
    reads(&cloud, images[0], "read -P 1 0 1M");
    reads(&cloud, images[0], "read -P 2 80M 1M");
    invariants::settle(&cloud).unwrap();
}

#[test]
fn snapshots_bring_disks_and_guests_back_and_full_backups_go_on_beside_them() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("snapped", "64M", "MODE = \"FULL\"").unwrap();
    let domain = format!("one-{vm}");
    cloud.libvirtd.write(&domain, "vda", 1, 0, MIB).unwrap();
    assert_eq!(call(&cloud, "one.vm.snapshotcreate", &[vm.into(), "whole".into()]), 0);
    let document = cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(document.text("TEMPLATE/SNAPSHOT/NAME"), "whole", "{:?}", document.text("USER_TEMPLATE/ERROR"));
    cloud.libvirtd.write(&domain, "vda", 2, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    call(&cloud, "one.vm.snapshotrevert", &[vm.into(), 0.into()]);
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    cloud.libvirtd.qemu_io(&domain, "vda", "read -P 1 0 1M").unwrap();
    call(&cloud, "one.vm.snapshotdelete", &[vm.into(), 0.into()]);
    cloud.one.wait_vm(vm, 3, 3).unwrap();

    cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
    assert_eq!(call(&cloud, "one.vm.disksnapshotcreate", &[vm.into(), 0.into(), "before".into()]), 0);
    let document = cloud.one.wait_vm(vm, 8, 0).unwrap();
    assert_eq!(document.text("SNAPSHOTS/SNAPSHOT/NAME"), "before", "{:?}", document.text("USER_TEMPLATE/ERROR"));
    cloud.one.ok("onevm", &["resume", &vm.to_string(), "--wait"]).unwrap();
    cloud.libvirtd.write(&domain, "vda", 3, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
    call(&cloud, "one.vm.disksnapshotrevert", &[vm.into(), 0.into(), 0.into()]);
    cloud.one.wait_vm(vm, 8, 0).unwrap();
    let saved =
        call(&cloud, "one.vm.disksaveas", &[vm.into(), 0.into(), "saved".into(), "DATABLOCK".into(), (-1).into()]);
    cloud.one.wait_vm(vm, 8, 0).unwrap();
    reads(&cloud, saved, "read -P 1 0 1M");
    call(&cloud, "one.vm.disksnapshotdelete", &[vm.into(), 0.into(), 0.into()]);
    let document = cloud.one.wait_vm(vm, 8, 0).unwrap();
    assert!(document.find_all("SNAPSHOTS/SNAPSHOT").is_empty());

    let backups = cloud.backup_images(vm).unwrap();
    for (backup, value) in backups.iter().zip([2, 3]) {
        let (_, images) = cloud.restore(*backup, &["--name", &format!("full-{backup}")]).unwrap();
        reads(&cloud, images[0], &format!("read -P {value} 0 1M"));
    }
    invariants::settle(&cloud).unwrap();
}

/// A network card of the running guest, as the guest sees it on its PCI bus.
fn a_card_comes_and_goes(cloud: &Cloud, vm: i64, uri: &str, domain: &str) {
    let cards = "for try in 1 2 3 4 5 6 7 8 9; do grep -q 0x0200 /sys/bus/pci/devices/*/class && break; sleep 1; done";
    call(cloud, "one.vm.attachnic", &[vm.into(), "NIC = [ NETWORK = user, MODEL = virtio ]".into()]);
    let document = cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(document.texts("TEMPLATE/NIC/NIC_ID"), ["0"], "{:?}", document.text("USER_TEMPLATE/ERROR"));
    guest::exec_ok(uri, domain, &format!("{cards}; grep -q 0x0200 /sys/bus/pci/devices/*/class")).unwrap();
    call(cloud, "one.vm.detachnic", &[vm.into(), 0.into()]);
    let document = cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert!(document.find_all("TEMPLATE/NIC").is_empty(), "{:?}", document.text("USER_TEMPLATE/ERROR"));
    guest::exec_ok(uri, domain, "! grep -q 0x0200 /sys/bus/pci/devices/*/class").unwrap();
}

#[test]
fn a_guest_gets_a_disk_loses_it_and_each_backup_holds_what_there_was() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let guest = cloud.guest().unwrap();
    let disk = |marker: &str| {
        let file = cloud.work.path().join(format!("{marker}.qcow2"));
        guest::make_disk(&file, 32 * MIB, marker).unwrap();
        cloud.image(marker, &file).unwrap()
    };
    let (first, second) = (disk("first"), disk("second"));
    let text = format!(
        "NAME = \"lively\"\nCPU = \"0.5\"\nMEMORY = \"192\"\n{}\nDISK = [ IMAGE_ID = \"{first}\" ]\n\
         BACKUP_CONFIG = [ MODE = \"INCREMENT\" ]\n",
        guest.os_attribute()
    );
    let template = cloud.one.create("onetemplate", &text, &[]).unwrap();
    let vm = cloud.instantiate(template, "lively").unwrap();
    let (uri, domain) = (cloud.libvirtd.uri(), format!("one-{vm}"));
    cloud.wait_guest(vm).unwrap();
    cloud.backup(vm).unwrap();

    call(&cloud, "one.vm.attach", &[vm.into(), format!("DISK = [ IMAGE_ID = {second} ]").as_str().into()]);
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    let script = "for try in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vdb ] && break; sleep 1; done; mkdir -p /second && \
                  mount -t ext4 /dev/vdb /second && echo hello > /second/greeting && sync && umount /second";
    guest::exec_ok(&uri, &domain, script).unwrap();
    cloud.backup(vm).unwrap();

    call(&cloud, "one.vm.detach", &[vm.into(), 1.into()]);
    let document = cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(document.texts("TEMPLATE/DISK/TARGET"), ["vda"], "{:?}", document.text("USER_TEMPLATE/ERROR"));
    guest::exec_ok(&uri, &domain, "[ ! -b /dev/vdb ]").unwrap();
    a_card_comes_and_goes(&cloud, vm, &uri, &domain);
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();

    let backups = cloud.backup_images(vm).unwrap();
    for (backup, disks) in backups.iter().zip([vec!["vda"], vec!["vda", "vdb"], vec!["vda"]]) {
        let name = format!("from-{backup}");
        let (template, _) = cloud.restore(*backup, &["--name", &name]).unwrap();
        let twin = cloud.instantiate(template, &name).unwrap();
        let log = guest::serial_log(&uri, &format!("one-{twin}")).unwrap();
        let console = guest::wait_ready(&log).unwrap();
        let mut mounted = console.mounted.clone();
        mounted.sort();
        assert_eq!(mounted, disks, "backup {backup}");
        assert_eq!(console.markers["vda"], "first");
        let greeting = ("vdb".to_owned(), "greeting".to_owned());
        assert_eq!(console.digests.contains_key(&greeting), disks.len() == 2);
        cloud.one.ok("onevm", &["terminate", &twin.to_string(), "--hard", "--wait"]).unwrap();
    }
    invariants::check(&cloud).unwrap();
}
