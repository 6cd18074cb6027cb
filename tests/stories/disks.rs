//! VMs with more than one disk, and with disks that outlive them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use system_tests::cloud::Cloud;
use system_tests::daemon::Options;
use system_tests::{command, invariants};

const MIB: u64 = 1 << 20;

/// Makes a VM with two empty disks `vda` and `vdb` of 64 MiB that can do increments; its id.
fn two_disks(cloud: &Cloud, name: &str) -> i64 {
    let mut disks = String::new();
    for letter in ["a", "b"] {
        let file = cloud.work.path().join(format!("{name}-{letter}.qcow2"));
        command::output("qemu-img", &["create", "-q", "-f", "qcow2", &file.to_string_lossy(), "64M"]).unwrap();
        let image = cloud.image(&format!("{name}-{letter}"), &file).unwrap();
        disks.push_str(&format!("DISK = [ IMAGE_ID = \"{image}\" ]\n"));
    }
    let text = format!(
        "NAME = \"{name}\"\nCPU = \"0.1\"\nMEMORY = \"32\"\nOS = [ MACHINE = \"q35\" ]\n{disks}\
         BACKUP_CONFIG = [ MODE = \"INCREMENT\" ]\n"
    );
    let template = cloud.one.create("onetemplate", &text, &[]).unwrap();
    cloud.instantiate(template, name).unwrap()
}

/// The first byte of a disk image.
fn first_byte(cloud: &Cloud, image: i64) -> u8 {
    let document = cloud.one.show("oneimage", image).unwrap();
    let raw = cloud.work.path().join(format!("image-{image}.raw"));
    let (source, target) = (document.text("SOURCE").to_owned(), raw.to_string_lossy().into_owned());
    command::output("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &source, &target]).unwrap();
    let byte = fs::read(&raw).unwrap()[0];
    fs::remove_file(Path::new(&raw)).unwrap();
    byte
}

#[test]
fn all_disks_of_a_vm_are_one_point_in_time_while_it_writes() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = two_disks(&cloud, "pair");
    let domain = format!("one-{vm}");
    let generations = while_it_counts(&cloud, &domain, 0, || {
        for _ in 0..3 {
            cloud.backup(vm).unwrap();
        }
        // In the middle of whatever it writes.
        cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
    });
    assert!(generations > 3, "the writer hardly ran: {generations}");
    cloud.backup(vm).unwrap();
    let backup = cloud.backup_images(vm).unwrap()[0];
    let mut seen = Vec::new();
    for increment in ["0", "1", "2", "3"] {
        let name = format!("point-{increment}");
        let (_, images) = cloud.restore(backup, &["--increment", increment, "--name", &name]).unwrap();
        let pair = [0, 1].map(|disk| first_byte(&cloud, images[disk]));
        assert!(is_one_instant(pair), "increment {increment}: generations {pair:?}");
        seen.push(pair[0]);
    }
    assert!(seen.is_sorted(), "later points hold later generations: {seen:?}");

    // The same judge sees it when two disks are of different instants.
    cloud.one.ok("onevm", &["resume", &vm.to_string(), "--wait"]).unwrap();
    while_it_counts(&cloud, &domain, generations, || {
        for disk in ["0", "1"] {
            let text = format!("BACKUP_CONFIG = [ DISK_IDS = \"{disk}\" ]\n");
            cloud.one.call("one.vm.updateconf", &[vm.into(), text.as_str().into(), 1.into()]).unwrap().id().unwrap();
            cloud.backup(vm).unwrap();
        }
    });
    let backups = cloud.backup_images(vm).unwrap();
    let apart = [1, 2].map(|chain: usize| {
        let (_, images) = cloud.restore(backups[chain], &["--name", &format!("apart-{chain}")]).unwrap();
        first_byte(&cloud, images[0])
    });
    assert!(!is_one_instant(apart), "generations {apart:?}");
    invariants::settle(&cloud).unwrap();
}

/// Whether the disks of a pair that counts can be of one instant.
fn is_one_instant([first, second]: [u8; 2]) -> bool {
    first == second || first == second.saturating_add(1)
}

/// Does `work` while the guest counts on from `last`: each number is written to the first disk, then to the second, then
/// the next follows. The last number, when `work` was done or the guest was switched off.
fn while_it_counts(cloud: &Cloud, domain: &str, last: u8, work: impl FnOnce()) -> u8 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = last;
            while !stop.load(Ordering::Acquire) && number < 250 {
                number += 1;
                for disk in ["vda", "vdb"] {
                    if cloud.libvirtd.write(domain, disk, number, 0, MIB).is_err() {
                        return number;
                    }
                }
            }
            number
        });
        work();
        stop.store(true, Ordering::Release);
        writer.join().unwrap()
    })
}

#[test]
fn one_disk_of_a_backup_can_be_restored_alone() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = two_disks(&cloud, "single");
    let domain = format!("one-{vm}");
    cloud.libvirtd.write(&domain, "vda", 1, 0, MIB).unwrap();
    cloud.libvirtd.write(&domain, "vdb", 2, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    let backup = cloud.backup_images(vm).unwrap()[0];
    let (template, images) = cloud.restore(backup, &["--disk-id", "1", "--name", "second"]).unwrap();
    assert_eq!((template, images.len()), (-1, 1), "a disk alone comes without a template");
    assert_eq!(first_byte(&cloud, images[0]), 2);
    let unknown =
        cloud.one.run("oneimage", &["restore", &backup.to_string(), "-d", "default", "--disk-id", "7"]).unwrap();
    assert_eq!(unknown.code, 255);
    assert!(unknown.stderr.contains("VM disk does not exist"), "{}", unknown.stderr);
    invariants::check(&cloud).unwrap();
}

#[test]
fn a_persistent_image_keeps_its_data_but_no_bitmaps_when_its_vm_is_terminated() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let file = cloud.work.path().join("kept.qcow2");
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &file.to_string_lossy(), "64M"]).unwrap();
    let image = cloud.image("kept", &file).unwrap();
    cloud.one.call("one.image.persistent", &[image.into(), true.into()]).unwrap().id().unwrap();
    let text = format!(
        "NAME = \"keeper\"\nCPU = \"0.1\"\nMEMORY = \"32\"\nOS = [ MACHINE = \"q35\" ]\n\
         DISK = [ IMAGE_ID = \"{image}\" ]\nBACKUP_CONFIG = [ MODE = \"INCREMENT\" ]\n"
    );
    let template = cloud.one.create("onetemplate", &text, &[]).unwrap();
    let vm = cloud.instantiate(template, "keeper").unwrap();
    cloud.libvirtd.write(&format!("one-{vm}"), "vda", 9, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    cloud.one.ok("onevm", &["terminate", &vm.to_string(), "--hard", "--wait"]).unwrap();
    let document = cloud.one.show("oneimage", image).unwrap();
    assert_eq!(document.text("STATE"), "1", "the image is free again");
    assert_eq!(first_byte(&cloud, image), 9);
    let info = command::output("qemu-img", &["info", document.text("SOURCE")]).unwrap();
    assert!(!info.contains("bitmaps:"), "{info}");
    invariants::check(&cloud).unwrap();
}
