//! Disks put back in place, with a real libvirt and real qcow2 images.

use std::fs;
use std::path::{Path, PathBuf};

use system_tests::cloud::Cloud;
use system_tests::daemon::Options;
use system_tests::{command, invariants};

const MIB: u64 = 1 << 20;

/// Data on each disk, in pieces of 1 MiB with a value of their own.
const PIECES: u8 = 48;

/// An image of an empty qcow2 file of 128 MiB.
fn empty_image(cloud: &Cloud, name: &str) -> i64 {
    let file = cloud.work.path().join(format!("{name}.qcow2"));
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &file.to_string_lossy(), "128M"]).unwrap();
    cloud.image(name, &file).unwrap()
}

/// Runs an order of qemu-io on a disk that nobody has open.
fn qemu_io(file: &Path, order: &str) {
    let said = command::output("qemu-io", &["-f", "qcow2", "-c", order, &file.to_string_lossy()]).unwrap();
    assert!(!said.contains("failed"), "{}: {order}: {said}", file.display());
}

/// What lies at the beginning of disk `disk` after write number `round`.
fn head(disk: u8, round: u8) -> u8 {
    200 + 10 * disk + round
}

/// Whether the disk holds everything as it was after write number `round`.
fn holds(file: &Path, disk: u8, round: u8) {
    qemu_io(file, &format!("read -P {} 0 1M", head(disk, round)));
    for piece in 1..PIECES {
        qemu_io(file, &format!("read -P {} {piece}M 1M", piece + disk));
    }
    qemu_io(file, &format!("read -P 0 {PIECES}M {}M", 128 - PIECES));
}

/// Overwrites something that the backups hold, and something that they do not.
fn damage(file: &Path) {
    qemu_io(file, "write -P 0xbd 5M 1M");
    qemu_io(file, "write -P 0xbd 100M 1M");
}

/// Bytes written, and bytes of them from the datastore, when the disk was made anew for the last time.
fn made_anew(cloud: &Cloud, vm: i64, disk: u8) -> (u64, u64) {
    let log = fs::read_to_string(cloud.one.log()).unwrap();
    let begin = format!("VM {vm}: disk {disk} is made anew: ");
    let line = log.rsplit(&begin).next().unwrap().lines().next().unwrap();
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.len(), 2, "{line}");
    (numbers[0], numbers[1])
}

/// A running VM with a disk of its own, one that is a persistent image, and a chain of two restore points after two writes;
/// the VM, the files of its disks and the backup.
fn backed_up_vm(cloud: &Cloud) -> (i64, [PathBuf; 2], i64) {
    let (own, kept) = (empty_image(cloud, "own"), empty_image(cloud, "kept"));
    cloud.one.call("one.image.persistent", &[kept.into(), true.into()]).unwrap().id().unwrap();
    let text = format!(
        "NAME = \"torn\"\nCPU = \"0.1\"\nVCPU = \"1\"\nMEMORY = \"32\"\nOS = [ ARCH = \"x86_64\", MACHINE = \"q35\" ]\n\
         DISK = [ IMAGE_ID = \"{own}\" ]\nDISK = [ IMAGE_ID = \"{kept}\" ]\nBACKUP_CONFIG = [ MODE = \"INCREMENT\" ]\n"
    );
    let template = cloud.one.create("onetemplate", &text, &[]).unwrap();
    let vm = cloud.instantiate(template, "torn").unwrap();
    let domain = format!("one-{vm}");
    for (disk, target) in [(0, "vda"), (1, "vdb")] {
        for piece in 1..PIECES {
            cloud.libvirtd.write(&domain, target, piece + disk, u64::from(piece) * MIB, MIB).unwrap();
        }
    }
    for round in [1, 2] {
        for (disk, target) in [(0, "vda"), (1, "vdb")] {
            cloud.libvirtd.write(&domain, target, head(disk, round), 0, MIB).unwrap();
        }
        cloud.backup(vm).unwrap();
    }
    let images = cloud.backup_images(vm).unwrap();
    assert_eq!(images.len(), 1);
    let own = cloud.one.state().join(format!("datastores/0/{vm}/disk.0"));
    let kept = PathBuf::from(cloud.one.show("oneimage", kept).unwrap().text("SOURCE"));
    (vm, [own, kept], images[0])
}

#[test]
fn a_vm_is_put_back_to_its_first_and_its_last_increment_and_goes_on_with_a_new_chain() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let (vm, disks, backup) = backed_up_vm(&cloud);
    let (id, image, domain) = (vm.to_string(), backup.to_string(), format!("one-{vm}"));
    let refused = cloud.one.run("onevm", &["restore", &id, &image, "--wait"]).unwrap();
    assert!(refused.code != 0 && refused.stderr.contains("it must be in poweroff"), "{refused:?}");
    cloud.one.ok("onevm", &["poweroff", &id, "--hard", "--wait"]).unwrap();
    disks.iter().for_each(|disk| damage(disk));

    // One disk, to the first increment.
    let said =
        cloud.one.ok("onevm", &["restore", &id, &image, "--disk-id", "0", "--increment", "0", "--wait"]).unwrap();
    assert_eq!(said, format!("VM {vm}: restored from backup {backup}\n"));
    holds(&disks[0], 0, 1);
    qemu_io(&disks[1], "read -P 0xbd 5M 1M");
    let (written, fetched) = made_anew(&cloud, vm, 0);
    assert!(written >= 48 * MIB && fetched > 0 && fetched <= written / 3, "{fetched} of {written} bytes were fetched");
    let document = cloud.one.wait_vm(vm, 8, 0).unwrap();
    assert_eq!(document.text("BACKUPS/BACKUP_CONFIG/INCREMENTAL_BACKUP_ID"), "-1");
    assert_eq!(document.text("BACKUPS/BACKUP_CONFIG/LAST_INCREMENT_ID"), "-1");
    let left = cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap();
    assert_eq!(left.trim(), "", "checkpoints are left");
    disks.iter().for_each(|disk| assert!(invariants::bitmaps(disk).unwrap().is_empty(), "{}", disk.display()));

    // All, to the last one.
    cloud.one.ok("onevm", &["restore", &id, &image, "--wait"]).unwrap();
    for (disk, file) in (0..).zip(&disks) {
        holds(file, disk, 2);
        command::output("qemu-img", &["check", "-q", "-f", "qcow2", &file.to_string_lossy()]).unwrap();
        let (written, fetched) = made_anew(&cloud, vm, disk);
        assert!(fetched <= written / 3, "disk {disk}: {fetched} of {written} bytes were fetched");
    }
    invariants::settle(&cloud).unwrap();

    // It boots from them, and its next backup stands for itself.
    cloud.one.ok("onevm", &["resume", &id, "--wait"]).unwrap();
    for (disk, target) in [(0, "vda"), (1, "vdb")] {
        cloud.libvirtd.qemu_io(&domain, target, &format!("read -P {} 0 1M", head(disk, 2))).unwrap();
        cloud.libvirtd.write(&domain, target, head(disk, 3), 0, MIB).unwrap();
    }
    cloud.backup(vm).unwrap();
    let images = cloud.backup_images(vm).unwrap();
    assert_eq!(images.len(), 2, "a new chain");
    let next = cloud.one.show("oneimage", images[1]).unwrap();
    assert_eq!(next.texts("BACKUP_INCREMENTS/INCREMENT/TYPE"), ["FULL"]);
    // With increments of its own.
    cloud.backup(vm).unwrap();
    assert_eq!(cloud.backup_images(vm).unwrap(), images);
    for (backup, round, name) in [(images[1], 3, "new"), (images[0], 2, "old")] {
        let (_, restored) = cloud.restore(backup, &["--name", name]).unwrap();
        for (disk, image) in (0..).zip(restored) {
            holds(Path::new(cloud.one.show("oneimage", image).unwrap().text("SOURCE")), disk, round);
        }
    }
    invariants::settle(&cloud).unwrap();

    // A domain that somebody gave another file would not see what is put back.
    cloud.one.ok("onevm", &["poweroff", &id, "--hard", "--wait"]).unwrap();
    let aside = cloud.work.path().join("aside.qcow2").to_string_lossy().into_owned();
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &aside, "128M"]).unwrap();
    cloud.libvirtd.virsh(&["detach-disk", &domain, "vda", "--config"]).unwrap();
    cloud.libvirtd.virsh(&["attach-disk", &domain, &aside, "vda", "--config", "--subdriver", "qcow2"]).unwrap();
    let refused = cloud.one.run("onevm", &["restore", &id, &image, "--disk-id", "0", "--wait"]).unwrap();
    assert!(refused.code != 0 && refused.stderr.contains(&format!("{aside}, not")), "{refused:?}");
    holds(&disks[0], 0, 3);
    invariants::settle(&cloud).unwrap();
}
