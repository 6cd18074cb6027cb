//! What guests and hypervisors do by themselves while a backup runs: the backup ends well or says why not, tells what its
//! bytes are of, leaves nothing, and the next one is whole.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use system_tests::cloud::Cloud;
use system_tests::command::{self, wait_for};
use system_tests::daemon::Options;
use system_tests::guest;
use system_tests::invariants;
use system_tests::restic::image_digest;

use crate::faults_data::{error_of, last_point, noise, write_noise};

/// A cloud whose backup datastore takes only so many MiB in a second, so that a copy has a middle.
fn slow_cloud(limit_mb_s: u64) -> Cloud {
    let conf = "LOG = [ DEBUG_LEVEL = 3 ]\n".into();
    let cloud = Cloud::start(Options { conf, ..Options::default() }).unwrap();
    let limit = format!("LIMIT_MB_S = \"{limit_mb_s}\"\n");
    let parameters = [cloud.datastore.into(), limit.as_str().into(), 1.into()];
    cloud.one.call("one.datastore.update", &parameters).unwrap().id().unwrap();
    cloud
}

/// Starts a backup and waits until some of it is copied.
fn begin_backup(cloud: &Cloud, vm: i64) {
    cloud.one.call("one.vm.backup", &[vm.into(), cloud.datastore.into(), false.into()]).unwrap().id().unwrap();
    wait_for("the copy to begin", Duration::from_secs(120), || {
        let vm = cloud.one.vm(vm)?;
        anyhow::ensure!(vm.text("LCM_STATE") == "69", "the backup ended early: {}", error_of(&vm));
        Ok((vm.number("USER_TEMPLATE/PROGRESS/DONE_BYTES").unwrap_or(0) > 0).then_some(()))
    })
    .unwrap();
}

fn now_s() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Restores the newest point and compares all its disks with those of the VM, which is off.
fn newest_point_is_the_disks(cloud: &Cloud, vm: i64, name: &str) {
    let image = *cloud.backup_images(vm).unwrap().last().unwrap();
    let (_, images) = cloud.restore(image, &["--name", name]).unwrap();
    for (number, restored) in images.into_iter().enumerate() {
        let restored = cloud.one.show("oneimage", restored).unwrap();
        let disk = cloud.one.state().join(format!("datastores/0/{vm}/disk.{number}"));
        let (ours, theirs) = (image_digest(&disk).unwrap(), image_digest(restored.text("SOURCE").as_ref()).unwrap());
        assert_eq!(ours, theirs, "disk {number}");
    }
}

/// A VM with a real guest on its first disk, and a second one full of noise, of which only a part fits into the memory of
/// those who copy it.
fn real_guest(cloud: &Cloud) -> i64 {
    let guest = cloud.guest().unwrap();
    let (system, data) = (cloud.work.path().join("system.qcow2"), cloud.work.path().join("data.qcow2"));
    guest::make_disk(&system, 32 << 20, "here").unwrap();
    let raw = cloud.work.path().join("data.raw");
    noise(&raw, 128);
    let words = [&raw, &data].map(|path| path.to_string_lossy().into_owned());
    command::output("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &words[0], &words[1]]).unwrap();
    let (system, data) = (cloud.image("system", &system).unwrap(), cloud.image("data", &data).unwrap());
    let text = format!(
        "NAME = \"leaving\"\nCPU = \"0.5\"\nMEMORY = \"192\"\n{}\nDISK = [ IMAGE_ID = \"{system}\" ]\n\
         DISK = [ IMAGE_ID = \"{data}\" ]\nBACKUP_CONFIG = [ MODE = \"INCREMENT\" ]\n",
        guest.os_attribute()
    );
    let template = cloud.one.create("onetemplate", &text, &[]).unwrap();
    let vm = cloud.instantiate(template, "leaving").unwrap();
    cloud.wait_guest(vm).unwrap();
    vm
}

#[test]
fn a_guest_that_shuts_down_during_its_backup_is_backed_up_as_it_was_left_and_the_point_says_so() {
    let cloud = slow_cloud(32);
    let vm = real_guest(&cloud);
    let (uri, domain) = (cloud.libvirtd.uri(), format!("one-{vm}"));
    begin_backup(&cloud, vm);
    // The datastore takes no more, so that the copy is in its middle for as long as the guest needs.
    let stores: Vec<Pid> = cloud.one.datastore_processes().unwrap().into_iter().filter_map(Pid::from_raw).collect();
    stores.iter().for_each(|store| kill_process(*store, Signal::STOP).unwrap());
    let asked = now_s();
    guest::exec_ok(&uri, &domain, "echo farewell > /mnt/vda/last; sync; (sleep 1; shutdown) > /dev/null 2>&1 &")
        .unwrap();
    wait_for("the guest to be off", Duration::from_secs(120), || {
        Ok((cloud.libvirtd.virsh(&["domstate", &domain])? == "shut off").then_some(()))
    })
    .unwrap();
    // It may have been given up meanwhile.
    for store in stores {
        kill_process(store, Signal::CONT).ok();
    }
    let after = cloud.one.wait_vm(vm, 8, 0).unwrap();
    assert_eq!(error_of(&after), "");
    invariants::settle(&cloud).unwrap();

    let images = cloud.backup_images(vm).unwrap();
    let image = cloud.one.show("oneimage", images[0]).unwrap();
    let info = image.find_all("TEMPLATE/INCREMENT_INFO")[0];
    assert!(info.text("WARNING").contains("the guest went off"), "{:?}", info.text("WARNING"));
    assert!(image.number("BACKUP_INCREMENTS/INCREMENT/DATE").unwrap() >= asked, "dated before what it holds");
    newest_point_is_the_disks(&cloud, vm, "left");
    // The next one, of the VM that is off, has nothing to warn of.
    cloud.backup(vm).unwrap();
    let image = cloud.one.show("oneimage", images[0]).unwrap();
    let newest = image.find_all("TEMPLATE/INCREMENT_INFO").pop().unwrap();
    assert_eq!(newest.text("WARNING"), "");
    invariants::settle(&cloud).unwrap();
}

#[test]
fn libvirtd_killed_during_a_backup_costs_neither_the_guest_nor_the_next_backup() {
    let cloud = slow_cloud(4);
    let vm = cloud.blank_vm("steady", "64M", "MODE = \"INCREMENT\"").unwrap();
    let domain = format!("one-{vm}");
    write_noise(&cloud, vm, 0, 24);
    begin_backup(&cloud, vm);
    let qemu = cloud.libvirtd.domain_pid(&domain).unwrap();
    cloud.libvirtd.kill9().unwrap();
    // QEMU goes on serving the copy; whoever needs libvirt next says that it is away.
    wait_for("the backup to miss libvirtd", Duration::from_secs(120), || {
        let log = fs::read_to_string(cloud.one.state().join("oned.log"))?;
        Ok(log.lines().any(|line| line.contains("(BACKUP)")).then_some(()))
    })
    .unwrap();
    cloud.libvirtd.restart().unwrap();
    let after = cloud.one.wait_vm(vm, 3, 3).unwrap();
    invariants::settle(&cloud).unwrap();
    assert_eq!(cloud.libvirtd.domain_pid(&domain).unwrap(), qemu, "the guest lived through it");
    let made = cloud.backup_images(vm).unwrap();
    assert!(!made.is_empty() || error_of(&after).contains("BACKUP: "), "{:?}", error_of(&after));

    write_noise(&cloud, vm, 8, 1);
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();
    let images = cloud.backup_images(vm).unwrap();
    let expected = if made.is_empty() { "FULL" } else { "INCREMENT" };
    assert_eq!(last_point(&cloud, images[0]), (expected.into(), String::new()), "the chain goes on");
    cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
    newest_point_is_the_disks(&cloud, vm, "steady-again");
    invariants::settle(&cloud).unwrap();
}

#[test]
fn libvirtd_killed_while_it_begins_a_backup_lets_the_vm_be_backed_up_again_after_a_power_cycle_and_says_so() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("begun", "16M", "MODE = \"INCREMENT\"").unwrap();
    let (id, domain) = (vm.to_string(), format!("one-{vm}"));
    write_noise(&cloud, vm, 0, 2);
    let document = cloud.work.path().join("backup.xml");
    let place = cloud.work.path().display();
    let text = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{place}/s'/><disks><disk name='vda' backup='yes' \
         type='file'><scratch file='{place}/scratch'/></disk></disks></domainbackup>"
    );
    fs::write(&document, text).unwrap();
    // QEMU stands still, so libvirt waits for its answer. Not by the daemon, which stands still, too: what it asks of the
    // domain would hold the backup up.
    let qemu = Pid::from_raw(cloud.libvirtd.domain_pid(&domain).unwrap()).unwrap();
    let daemon = Pid::from_raw(cloud.one.pid().unwrap()).unwrap();
    kill_process(daemon, Signal::STOP).unwrap();
    // Answered after what the daemon had asked.
    cloud.libvirtd.virsh(&["qemu-monitor-command", &domain, "--hmp", "info status"]).unwrap();
    kill_process(qemu, Signal::STOP).unwrap();
    std::thread::scope(|scope| {
        let begin =
            scope.spawn(|| cloud.libvirtd.virsh_output(&["backup-begin", &domain, &document.to_string_lossy()]));
        let begun = wait_for("libvirt to begin the backup", Duration::from_secs(60), || {
            Ok(cloud.libvirtd.domain_status(&domain)?.contains("async='backup'").then_some(()))
        });
        cloud.libvirtd.kill9().unwrap();
        kill_process(qemu, Signal::CONT).unwrap();
        kill_process(daemon, Signal::CONT).unwrap();
        begun.unwrap();
        assert!(!begin.join().unwrap().unwrap().success());
    });
    cloud.libvirtd.restart().unwrap();
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    let failed = cloud.backup(vm).unwrap_err().to_string();
    assert!(failed.contains("power the VM off and resume it"), "{failed}");
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    invariants::settle(&cloud).unwrap();

    cloud.one.ok("onevm", &["poweroff", &id, "--hard", "--wait"]).unwrap();
    cloud.one.ok("onevm", &["resume", &id, "--wait"]).unwrap();
    cloud.backup(vm).unwrap();
    cloud.one.ok("onevm", &["poweroff", &id, "--hard", "--wait"]).unwrap();
    newest_point_is_the_disks(&cloud, vm, "begun-again");
    invariants::settle(&cloud).unwrap();
}
