//! Every mode of a backup with a real hypervisor: increments with and without a record of changes, records that survive or
//! are lost, guests that are made quiet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use system_tests::cloud::Cloud;
use system_tests::command::{self, LONG, wait_for};
use system_tests::daemon::Options;
use system_tests::guest;
use system_tests::invariants;
use system_tests::restic::image_digest;
use system_tests::xml::Element;

use crate::faults_data::{backup_to_the_end, error_of, write_noise};

const MIB: u64 = 1 << 20;

/// What is recorded of the newest restore point of a backup image.
fn newest(cloud: &Cloud, image: i64) -> Element {
    let document = cloud.one.show("oneimage", image).unwrap();
    document.find_all("TEMPLATE/INCREMENT_INFO").into_iter().next_back().unwrap().clone()
}

fn own_disk(cloud: &Cloud, vm: i64, disk: i64) -> PathBuf {
    cloud.one.state().join(format!("datastores/0/{vm}/disk.{disk}"))
}

fn power_off(cloud: &Cloud, vm: i64) {
    cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
}

fn resume(cloud: &Cloud, vm: i64) {
    cloud.one.ok("onevm", &["resume", &vm.to_string(), "--wait"]).unwrap();
}

fn configure(cloud: &Cloud, vm: i64, config: &str) {
    let text = format!("BACKUP_CONFIG = [ {config} ]\n");
    cloud.one.call("one.vm.updateconf", &[vm.into(), text.as_str().into(), 1.into()]).unwrap().id().unwrap();
}

/// The newest restore point of a VM that is off is what its disks are.
fn restores_as_it_is(cloud: &Cloud, image: i64, disks: &[&Path]) {
    let id = newest(cloud, image).text("ID").to_owned();
    let (_, images) = cloud.restore(image, &["--name", &format!("as-it-is-{image}-{id}")]).unwrap();
    assert_eq!(images.len(), disks.len());
    for (restored, disk) in images.iter().zip(disks) {
        let restored = cloud.one.show("oneimage", *restored).unwrap();
        let digests = [Path::new(restored.text("SOURCE")), disk].map(|file| image_digest(file).unwrap());
        assert_eq!(digests[0], digests[1], "{}", disk.display());
    }
}

#[test]
fn increments_without_a_record_of_changes_hold_raw_disks_too_running_and_off() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let file = cloud.work.path().join("first.qcow2");
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &file.to_string_lossy(), "64M"]).unwrap();
    let image = cloud.image("first", &file).unwrap();
    let text = format!(
        "NAME = mixed\nCPU = 0.1\nMEMORY = 32\nOS = [ ARCH = x86_64, MACHINE = q35 ]\nDISK = [ IMAGE_ID = {image} ]\n\
         DISK = [ TYPE = fs, SIZE = 64, FORMAT = raw, DEV_PREFIX = vd ]\n\
         BACKUP_CONFIG = [ MODE = INCREMENT, INCREMENT_MODE = SNAPSHOT, BACKUP_VOLATILE = YES ]\n"
    );
    let template = cloud.one.create("onetemplate", &text, &[]).unwrap();
    let vm = cloud.instantiate(template, "mixed").unwrap();
    let domain = format!("one-{vm}");
    let write = |target: &str, value: u8, at: u64| cloud.libvirtd.write(&domain, target, value, at * MIB, MIB).unwrap();
    for at in 0..8 {
        write("vda", 1, at);
        write("vdb", 2, at);
    }
    cloud.backup(vm).unwrap();
    write("vda", 3, 20);
    write("vdb", 4, 2);
    cloud.backup(vm).unwrap();
    let image = cloud.backup_images(vm).unwrap()[0];
    let live = newest(&cloud, image);
    assert!(cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap().is_empty());

    power_off(&cloud, vm);
    let (first, second) = (own_disk(&cloud, vm, 0), own_disk(&cloud, vm, 1));
    let order = ["-f", "raw", "-c", "write -P 5 40M 1M"];
    command::output("qemu-io", &[&order[..], &[&*second.to_string_lossy()]].concat()).unwrap();
    cloud.backup(vm).unwrap();
    let off = newest(&cloud, image);
    for info in [live, off] {
        assert!(info.text("REASON").starts_with("INCREMENT_MODE is SNAPSHOT: whole disks were read"), "{info:?}");
        assert_eq!(info.text("WARNING"), "");
        let (read, stored) = (info.number("READ_BYTES").unwrap(), info.number("STORED_BYTES").unwrap());
        assert!(read >= 16 << 20 && stored < 4 << 20, "{info:?}");
    }
    assert_eq!(invariants::bitmaps(&first).unwrap(), Vec::<String>::new());
    restores_as_it_is(&cloud, image, &[&first, &second]);
    let document = cloud.one.show("oneimage", image).unwrap();
    assert_eq!(document.texts("BACKUP_INCREMENTS/INCREMENT/TYPE"), ["FULL", "INCREMENT", "INCREMENT"]);
    invariants::settle(&cloud).unwrap();
}

/// The next increment reads what was written, and needs no reason.
fn reads_only_what_changed(cloud: &Cloud, vm: i64, at_mib: u64, after: &str) {
    write_noise(cloud, vm, at_mib, 1);
    cloud.backup(vm).unwrap();
    let info = newest(cloud, cloud.backup_images(vm).unwrap()[0]);
    assert_eq!((info.text("REASON"), info.text("WARNING")), ("", ""), "after {after}");
    let read = info.number("READ_BYTES").unwrap();
    assert!((1 << 20..4 << 20).contains(&read), "after {after}: {read} bytes read");
}

#[test]
fn the_record_of_changes_survives_poweroffs_libvirtd_and_the_host() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("surviving", "64M", "MODE = \"INCREMENT\"").unwrap();
    let domain = format!("one-{vm}");
    write_noise(&cloud, vm, 0, 32);
    cloud.backup(vm).unwrap();

    power_off(&cloud, vm);
    resume(&cloud, vm);
    reads_only_what_changed(&cloud, vm, 40, "a poweroff");

    cloud.libvirtd.kill9().unwrap();
    cloud.libvirtd.restart().unwrap();
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    reads_only_what_changed(&cloud, vm, 41, "a restart of libvirtd");

    // libvirt's own memory of the checkpoint, behind our back.
    let known = cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap();
    for checkpoint in known.split_whitespace() {
        cloud.libvirtd.virsh(&["checkpoint-delete", &domain, checkpoint, "--metadata"]).unwrap();
    }
    reads_only_what_changed(&cloud, vm, 42, "a forgotten checkpoint");

    // As after a restart of the host by somebody who set libvirt up anew: no domain, no checkpoint, nobody running.
    cloud.one.kill9().unwrap();
    cloud.libvirtd.virsh(&["destroy", &domain]).unwrap();
    cloud.libvirtd.virsh(&["undefine", &domain, "--checkpoints-metadata"]).unwrap();
    cloud.libvirtd.restart().unwrap();
    cloud.one.restart().unwrap();
    // UNKNOWN: nobody can say what became of it.
    cloud.one.wait_vm(vm, 3, 16).unwrap();
    resume(&cloud, vm);
    reads_only_what_changed(&cloud, vm, 43, "a restart of the host");

    cloud.one.call("one.vm.action", &["suspend".into(), vm.into()]).unwrap().id().unwrap();
    cloud.one.wait_vm(vm, 5, 0).unwrap();
    resume(&cloud, vm);
    reads_only_what_changed(&cloud, vm, 44, "a suspension");
    invariants::settle(&cloud).unwrap();
    power_off(&cloud, vm);
    restores_as_it_is(&cloud, cloud.backup_images(vm).unwrap()[0], &[&own_disk(&cloud, vm, 0)]);
    invariants::settle(&cloud).unwrap();
}

/// The next backup reads everything, stores what differs, and says why to everybody who might ask.
fn reads_everything(cloud: &Cloud, vm: i64, why: &str) {
    cloud.backup(vm).unwrap();
    let image = cloud.backup_images(vm).unwrap()[0];
    let info = newest(cloud, image);
    let reason = info.text("REASON");
    assert!(reason.starts_with("the record of what changed was lost (") && reason.contains(why), "{why}: {reason}");
    assert!(reason.ends_with("everything was read"), "{reason}");
    let (read, stored) = (info.number("READ_BYTES").unwrap(), info.number("STORED_BYTES").unwrap());
    assert!(read >= 8 << 20 && stored < 4 << 20, "{why}: {read} bytes read, {stored} stored");
    assert_eq!(error_of(&cloud.one.vm(vm).unwrap()), "", "it is no failure");
    let shown = cloud.one.ok("onevm", &["show", &vm.to_string()]).unwrap();
    assert!(shown.contains(&format!("Last backup, note: {reason}")), "{shown}");
    let shown = cloud.one.ok("oneimage", &["show", &image.to_string()]).unwrap();
    assert!(shown.contains(&format!("Increment {}: {reason}", info.text("ID"))), "{shown}");
    let log = fs::read_to_string(cloud.one.state().join("oned.log")).unwrap();
    assert!(log.contains(reason), "the log does not say: {reason}");
}

#[test]
fn a_record_of_changes_that_cannot_be_trusted_is_not_and_everybody_is_told() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("doubtful", "64M", "MODE = \"INCREMENT\"").unwrap();
    let (domain, disk) = (format!("one-{vm}"), own_disk(&cloud, vm, 0));
    write_noise(&cloud, vm, 0, 8);
    cloud.backup(vm).unwrap();
    let image = cloud.backup_images(vm).unwrap()[0];

    // QEMU dies without writing its bitmaps.
    write_noise(&cloud, vm, 20, 1);
    let qemu = Pid::from_raw(cloud.libvirtd.domain_pid(&domain).unwrap()).unwrap();
    kill_process(qemu, Signal::KILL).unwrap();
    cloud.one.wait_vm(vm, 8, 0).unwrap();
    resume(&cloud, vm);
    reads_everything(&cloud, vm, "");
    invariants::settle(&cloud).unwrap();

    // Another file in the disk's place, in which a part is different.
    power_off(&cloud, vm);
    let other = disk.with_extension("other");
    let (from, to) = (disk.to_string_lossy().into_owned(), other.to_string_lossy().into_owned());
    command::output("qemu-img", &["convert", "-f", "qcow2", "-O", "qcow2", &from, &to]).unwrap();
    command::output("qemu-io", &["-f", "qcow2", "-c", "write -P 7 30M 1M", &to]).unwrap();
    fs::rename(&other, &disk).unwrap();
    reads_everything(&cloud, vm, "no such bitmap");
    restores_as_it_is(&cloud, image, &[&disk]);

    // The bitmap is there, whole, and was switched off.
    let disable = || {
        for bitmap in invariants::bitmaps(&disk).unwrap() {
            command::output("qemu-img", &["bitmap", "--disable", &from, &bitmap]).unwrap();
        }
    };
    invariants::settle(&cloud).unwrap();
    disable();
    command::output("qemu-io", &["-f", "qcow2", "-c", "write -P 8 31M 1M", &from]).unwrap();
    reads_everything(&cloud, vm, "was disabled");
    invariants::settle(&cloud).unwrap();
    disable();
    resume(&cloud, vm);
    write_noise(&cloud, vm, 32, 1);
    reads_everything(&cloud, vm, "was disabled");
    invariants::settle(&cloud).unwrap();

    reads_only_what_changed(&cloud, vm, 40, "all of that");
    let shown = cloud.one.ok("onevm", &["show", &vm.to_string()]).unwrap();
    assert!(!shown.contains("Last backup,"), "{shown}");
    power_off(&cloud, vm);
    restores_as_it_is(&cloud, image, &[&disk]);
    invariants::settle(&cloud).unwrap();
}

#[test]
fn a_guest_without_an_agent_is_backed_up_as_a_power_cut_would_leave_it_or_not_at_all() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let config = "MODE = \"INCREMENT\", FS_FREEZE = \"SUSPEND\", FS_FREEZE_FAIL = \"ABORT\"";
    let vm = cloud.blank_vm("mute", "64M", config).unwrap();
    let domain = format!("one-{vm}");
    write_noise(&cloud, vm, 0, 2);
    cloud.backup(vm).unwrap();
    assert_eq!(cloud.libvirtd.virsh(&["domstate", &domain]).unwrap(), "running");
    let image = cloud.backup_images(vm).unwrap()[0];
    assert_eq!(newest(&cloud, image).text("WARNING"), "");
    invariants::settle(&cloud).unwrap();
    let checkpoints = cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap();

    configure(&cloud, vm, "FS_FREEZE = AGENT");
    let sentence = format!("crash-consistent: domain {domain} could not be quieted (");
    let after = backup_to_the_end(&cloud, vm);
    assert!(error_of(&after).contains(&sentence) && error_of(&after).contains("agent"), "{}", error_of(&after));
    assert_eq!(newest(&cloud, image).text("ID"), "0");
    assert_eq!(cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap(), checkpoints);
    invariants::settle(&cloud).unwrap();

    configure(&cloud, vm, "FS_FREEZE_FAIL = CONTINUE");
    cloud.backup(vm).unwrap();
    let warning = newest(&cloud, image).text("WARNING").to_owned();
    assert!(warning.starts_with(&sentence), "{warning}");
    let shown = cloud.one.ok("onevm", &["show", &vm.to_string()]).unwrap();
    assert!(shown.contains(&format!("Last backup, warning: {warning}")), "{shown}");
    assert_eq!(cloud.libvirtd.virsh(&["domstate", &domain]).unwrap(), "running");
    invariants::settle(&cloud).unwrap();
}

/// A VM whose guest has the agent and an ext4 disk.
fn guest_vm(cloud: &Cloud, config: &str) -> i64 {
    let guest = cloud.guest().unwrap();
    let file = cloud.work.path().join("guest.qcow2");
    guest::make_disk(&file, 32 * MIB, "guest").unwrap();
    let image = cloud.image("guest", &file).unwrap();
    let text = format!(
        "NAME = \"guest\"\nCPU = \"0.5\"\nMEMORY = \"192\"\n{}\nDISK = [ IMAGE_ID = \"{image}\" ]\n\
         BACKUP_CONFIG = [ {config} ]\n",
        guest.os_attribute()
    );
    let template = cloud.one.create("onetemplate", &text, &[]).unwrap();
    let vm = cloud.instantiate(template, "guest").unwrap();
    cloud.wait_guest(vm).unwrap();
    vm
}

/// What the agent says of the guest's file systems: `thawed` or `frozen`; none when it does not answer.
fn freeze_status(cloud: &Cloud, domain: &str) -> Option<String> {
    let order = "{\"execute\":\"guest-fsfreeze-status\"}";
    let answer = cloud.libvirtd.virsh_output(&["qemu-agent-command", domain, order]).unwrap();
    answer.success().then(|| answer.stdout.split('"').nth(3).unwrap_or_default().to_owned())
}

/// The lines of the guest's log in a restored disk, whose file system is clean.
fn log_in(cloud: &Cloud, image: i64) -> u64 {
    let document = cloud.one.show("oneimage", image).unwrap();
    let raw = cloud.work.path().join(format!("image-{image}.raw")).to_string_lossy().into_owned();
    command::output("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", document.text("SOURCE"), &raw]).unwrap();
    let features = command::output("dumpe2fs", &["-h", &raw]).unwrap();
    assert!(!features.contains("needs_recovery"), "its journal has to be played: {features}");
    let mut check = Command::new("e2fsck");
    let check = command::run(check.args(["-f", "-n", &raw]), LONG).unwrap();
    assert!(check.success(), "{check:?}");
    let log = command::output("debugfs", &["-R", "cat /log", &raw]).unwrap();
    assert!(log.ends_with(" end\n"), "the last line is not whole: {:?}", &log[log.len().saturating_sub(40)..]);
    let mut count = 0;
    for line in log.lines() {
        count += 1;
        assert_eq!(line, format!("line {count} end"));
    }
    count
}

#[test]
fn a_guest_that_keeps_writing_is_backed_up_with_its_log_whole_and_is_thawed_whatever_happens() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = guest_vm(&cloud, "MODE = \"INCREMENT\", FS_FREEZE = \"AGENT\", FS_FREEZE_FAIL = \"ABORT\"");
    let (uri, domain) = (cloud.libvirtd.uri(), format!("one-{vm}"));
    let writer = "(i=0; while :; do i=$((i+1)); echo \"line $i end\" >> /mnt/vda/log; fsync /mnt/vda/log; done) \
                  >/dev/null 2>&1 & true";
    guest::exec_ok(&uri, &domain, writer).unwrap();
    let lines =
        || guest::exec_ok(&uri, &domain, "wc -l < /mnt/vda/log || true").unwrap().trim().parse().unwrap_or(0_u64);
    let grows = |least: u64| {
        wait_for("the guest to write on", LONG, || Ok(Some(lines()).filter(|count| *count > least))).unwrap()
    };
    let mut least = vec![grows(10)];
    for _ in 0..2 {
        cloud.backup(vm).unwrap();
        // It goes on after each backup.
        least.push(grows(lines() + 10));
    }
    let image = cloud.backup_images(vm).unwrap()[0];
    for (increment, before) in least.iter().take(2).enumerate() {
        let (id, name) = (increment.to_string(), format!("point-{increment}"));
        let (_, images) = cloud.restore(image, &["--increment", &id, "--name", &name]).unwrap();
        let count = log_in(&cloud, images[0]);
        assert!((*before..=least[increment + 1]).contains(&count), "{increment}: {count} lines of {least:?}");
    }
    assert_eq!(newest(&cloud, image).text("WARNING"), "");
    invariants::settle(&cloud).unwrap();

    // The daemon dies in a backup, and leaves the guest frozen.
    let env = BTreeMap::from([("KEEPLAST_CRASH_AT".to_owned(), "backup.begun".to_owned())]);
    cloud.one.restart_to_crash(&env).unwrap();
    cloud.one.call("one.vm.backup", &[vm.into(), cloud.datastore.into(), false.into()]).unwrap().id().unwrap();
    cloud.one.wait_end(Duration::from_secs(60)).unwrap();
    cloud.libvirtd.virsh(&["domfsfreeze", &domain]).unwrap();
    assert_eq!(freeze_status(&cloud, &domain).as_deref(), Some("frozen"));
    cloud.one.restart().unwrap();
    wait_for("the guest to be thawed", LONG, || {
        Ok((freeze_status(&cloud, &domain).as_deref() == Some("thawed")).then_some(()))
    })
    .unwrap();
    let after = cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(error_of(&after), "");
    grows(lines());
    invariants::settle(&cloud).unwrap();
    assert_eq!(newest(&cloud, image).text("ID"), "2");
}
