//! Disks of VMs put back in place, over the dummy drivers: what they hold afterwards, that a failure or a cancel leaves them
//! as they were, and that the daemon can be killed at each named point.

use super::backups::{KIB_64, qemu_io};
use super::*;

/// What disk `disk` holds after write number `round`.
fn byte(disk: i64, round: u8) -> u8 {
    10 * round + u8::try_from(disk).unwrap()
}

/// A script with one rule.
fn rule(rule: &str) -> String {
    format!("{{\"rules\":[{{{rule}}}]}}")
}

fn fails(operation: &str, more: &str, reason: &str) -> String {
    rule(&format!("\"operation\":\"{operation}\",{more}\"fail\":{{\"kind\":\"permanent\",\"reason\":\"{reason}\"}}"))
}

impl Cloud {
    /// Writes to the first two disks of a VM.
    fn write_both(&self, vm: i64, round: u8) {
        for disk in [0, 1] {
            self.write(vm, disk, byte(disk, round), 0, 2 * KIB_64);
        }
    }

    /// A VM in POWEROFF with two disks that were backed up twice into one chain, after round 1 and after round 2, and hold
    /// round 9 since.
    fn backed_up_vm(&self, name: &str, datastore: i64) -> (i64, i64) {
        let vm = self.vm_with(name, 2, "MODE=INCREMENT");
        self.write_both(vm, 1);
        let image = self.backup(vm, datastore);
        self.write_both(vm, 2);
        assert_eq!(self.backup(vm, datastore), image);
        self.power_off(vm);
        self.write_both(vm, 9);
        (vm, image)
    }

    fn begin_restore(&self, vm: i64, image: i64, increment: i64, disk: i64) {
        self.call("one.vm.restore", &[Int(vm), Int(image), Int(increment), Int(disk)]);
    }

    /// Puts disks back, and waits until the VM is in POWEROFF again without complaint.
    #[track_caller]
    fn put_back(&self, vm: i64, image: i64, increment: i64, disk: i64) -> String {
        self.begin_restore(vm, image, increment, disk);
        let document = self.off(vm);
        assert_eq!(text(&document, "ERROR"), "");
        document
    }

    /// What the first two disks hold.
    #[track_caller]
    fn disks_hold(&self, vm: i64, rounds: [u8; 2]) {
        for (disk, round) in [0, 1].into_iter().zip(rounds) {
            qemu_io(&self.disk_file(vm, disk), &format!("read -P {} 0 {}", byte(disk, round), 2 * KIB_64));
        }
    }

    /// Waits until the log says so.
    fn told(&self, what: &str) {
        wait(&format!("{what} in the log"), || self.log().contains(what).then_some(()));
    }
}

#[test]
fn disks_are_put_back_all_or_one_as_each_increment_has_them_and_a_new_chain_begins() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let (vm, image) = cloud.backed_up_vm("one", datastore);
    assert_eq!(cloud.checkpoints(vm).len(), 1);
    let document = cloud.put_back(vm, image, 0, 1);
    cloud.disks_hold(vm, [9, 1]);
    assert_eq!(text(&document, "LAST_INCREMENT_ID"), "-1");
    assert_eq!(text(&document, "INCREMENTAL_BACKUP_ID"), "-1");
    assert!(cloud.checkpoints(vm).is_empty(), "{:?}", cloud.checkpoints(vm));
    cloud.put_back(vm, image, 0, -1);
    cloud.disks_hold(vm, [1, 1]);
    cloud.put_back(vm, image, -1, -1);
    cloud.disks_hold(vm, [2, 2]);
    cloud.is_tidy();

    cloud.call("one.vm.action", &[Text("resume"), Int(vm)]);
    cloud.running(vm);
    cloud.disks_hold(vm, [2, 2]);
    let next = cloud.backup(vm, datastore);
    assert_ne!(next, image);
    assert_eq!(cloud.infos(next).len(), 1);
    let restored = cloud.restore(next, "");
    let file = PathBuf::from(text(&cloud.image_in(restored, 1), "SOURCE"));
    qemu_io(&file, &format!("read -P {} 0 {}", byte(0, 2), 2 * KIB_64));
    // The old chain is what it was.
    let old = cloud.restore(image, "INCREMENT_ID=0\nNAME=old\n");
    let file = PathBuf::from(text(&cloud.image_in(old, 1), "SOURCE"));
    qemu_io(&file, &format!("read -P {} 0 {}", byte(0, 1), 2 * KIB_64));
}

#[test]
fn only_what_differs_is_fetched_and_a_disk_that_is_gone_or_broken_is_made_anew() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let vm = cloud.vm_with("one", 2, "MODE=FULL");
    for disk in [0, 1] {
        cloud.write(vm, disk, 7, 0, 16 * KIB_64);
    }
    cloud.backup_anyhow(vm, datastore);
    let image = cloud.backups_of(vm)[0];
    cloud.power_off(vm);
    cloud.write(vm, 0, 9, 3 * KIB_64, KIB_64);
    std::fs::write(cloud.disk_file(vm, 1), "this is no disk").unwrap();
    cloud.put_back(vm, image, -1, -1);
    cloud.told(&format!("VM {vm}: disk 0 is made anew: 1048576 bytes written, 65536 of them from the datastore"));
    cloud.told(&format!("VM {vm}: disk 1 cannot be read as it is, so all of it comes from the datastore"));
    cloud.told(&format!("VM {vm}: disk 1 is made anew: 1048576 bytes written, 1048576 of them from the datastore"));
    std::fs::remove_file(cloud.disk_file(vm, 0)).unwrap();
    cloud.put_back(vm, image, -1, 0);
    for disk in [0, 1] {
        qemu_io(&cloud.disk_file(vm, disk), &format!("read -P 7 0 {}", 16 * KIB_64));
    }
    cloud.is_tidy();
}

#[test]
fn persistent_and_volatile_disks_keep_place_and_format_and_what_is_not_in_the_backup_stays() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let persistent = cloud.datablock("kept");
    cloud.call("one.image.persistent", &[Int(persistent), Bool(true)]);
    let template = format!(
        "NAME=mixed\nCPU=0.1\nMEMORY=64\nBACKUP_CONFIG=[MODE=FULL,BACKUP_VOLATILE=YES]\nDISK=[IMAGE_ID={persistent}]\n\
         DISK=[TYPE=fs,SIZE=1,FORMAT=raw]\nDISK=[TYPE=swap,SIZE=1]\n"
    );
    let vm = cloud.id("one.vm.allocate", &[Text(&template)]);
    cloud.running(vm);
    let file = PathBuf::from(text(&cloud.image(persistent), "SOURCE"));
    qemu_io(&file, &format!("write -P 5 0 {KIB_64}"));
    let raw = cloud.disk_file(vm, 1);
    std::fs::write(&raw, vec![6; 1 << 20]).unwrap();
    cloud.backup_anyhow(vm, datastore);
    let image = cloud.backups_of(vm)[0];

    cloud.power_off(vm);
    cloud.call("one.vm.disksnapshotcreate", &[Int(vm), Int(0), Text("old")]);
    cloud.off(vm);
    cloud.call("one.vm.diskresize", &[Int(vm), Int(1), Text("3")]);
    assert_eq!(text(&disks(&cloud.off(vm))[1], "SIZE"), "3");
    qemu_io(&file, &format!("write -P 9 0 {KIB_64}"));
    let swap = std::fs::read(cloud.disk_file(vm, 2)).unwrap();
    let document = cloud.put_back(vm, image, -1, -1);
    qemu_io(&file, &format!("read -P 5 0 {KIB_64}"));
    assert_eq!(std::fs::read(&raw).unwrap(), vec![6; 1 << 20]);
    assert_eq!(std::fs::read(cloud.disk_file(vm, 2)).unwrap(), swap);
    let sizes: Vec<String> = disks(&document).iter().map(|disk| text(disk, "SIZE")).collect();
    assert_eq!(sizes, ["1", "1", "1"]);
    assert!(!document.contains("<SNAPSHOTS>"), "{document}");
    cloud.is_tidy();

    // The image is what its VM made of it.
    cloud.call("one.vm.action", &[Text("terminate-hard"), Int(vm)]);
    cloud.rests(vm, 6, 0);
    let document = cloud.image_in(persistent, 1);
    assert!(!document.contains("<SNAPSHOT>") && text(&document, "SIZE") == "1", "{document}");
    qemu_io(&file, &format!("read -P 5 0 {KIB_64}"));
}

#[test]
fn an_undeployed_vm_stays_undeployed_and_its_system_snapshots_go() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let vm = cloud.vm_with("one", 2, "MODE=FULL");
    cloud.write_both(vm, 1);
    cloud.backup_anyhow(vm, datastore);
    let image = cloud.backups_of(vm)[0];
    cloud.call("one.vm.snapshotcreate", &[Int(vm), Text("whole")]);
    cloud.running(vm);
    cloud.power_off(vm);
    cloud.write_both(vm, 9);
    let document = cloud.put_back(vm, image, -1, 0);
    cloud.disks_hold(vm, [1, 9]);
    assert!(!document.contains("<SNAPSHOT>"), "{document}");

    cloud.call("one.vm.action", &[Text("undeploy-hard"), Int(vm)]);
    cloud.rests(vm, 9, 0);
    cloud.begin_restore(vm, image, -1, 1);
    let document = cloud.rests(vm, 9, 0);
    assert_eq!(text(&document, "ERROR"), "");
    cloud.disks_hold(vm, [1, 1]);
    // A failure leads back there, too.
    cloud.script(&fails("restore", "", "no such luck"));
    cloud.begin_restore(vm, image, -1, 1);
    assert!(text(&cloud.rests(vm, 9, 0), "ERROR").contains("RESTORE: "));
    cloud.script("{}");
    cloud.call("one.vm.action", &[Text("resume"), Int(vm)]);
    cloud.running(vm);
    cloud.is_tidy();
}

#[test]
fn a_full_file_system_or_a_damaged_backup_leaves_every_disk_as_it_was_and_says_why() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let (vm, image) = cloud.backed_up_vm("one", datastore);
    // The first disk is whole already when the second one fails.
    cloud.script(&fails("restore", "\"call\":2,", "No space left on device"));
    cloud.begin_restore(vm, image, 0, -1);
    let document = cloud.off(vm);
    let error = text(&document, "ERROR");
    assert!(error.contains("RESTORE: ") && error.contains("No space left on device"), "{error}");
    assert_ne!(text(&document, "LAST_INCREMENT_ID"), "-1", "the chain goes on");
    cloud.disks_hold(vm, [9, 9]);
    cloud.is_tidy();
    cloud.script("{}");
    for file in cloud.stored_disks(datastore) {
        backups::damage(&file, 100);
    }
    cloud.begin_restore(vm, image, 0, 0);
    assert!(text(&cloud.off(vm), "ERROR").contains("RESTORE: "));
    cloud.disks_hold(vm, [9, 9]);
    cloud.is_tidy();
}

#[test]
fn what_cannot_be_read_or_cleared_away_does_not_stop_a_restore() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let (vm, image) = cloud.backed_up_vm("one", datastore);
    let rules: Vec<_> = [("begin_backup", 1), ("open_disk", 1), ("checkpoints", 1)]
        .map(|(operation, call)| {
            format!(
                "{{\"operation\":\"{operation}\",\"call\":{call},\"fail\":{{\"kind\":\"permanent\",\"reason\":\"no\"}}}}"
            )
        })
        .into();
    cloud.script(&format!("{{\"rules\":[{}]}}", rules.join(",")));
    cloud.put_back(vm, image, 0, -1);
    cloud.disks_hold(vm, [1, 1]);
    cloud.told(&format!("VM {vm}: disk 0 cannot be read as it is"));
    cloud.told(&format!("VM {vm}: disk 1 cannot be read as it is"));
    cloud.is_tidy();
    // What may pass is waited for.
    cloud.script(&rule("\"operation\":\"restore\",\"call\":1,\"fail\":{\"kind\":\"retry\",\"reason\":\"it is busy\"}"));
    cloud.put_back(vm, image, -1, -1);
    cloud.disks_hold(vm, [2, 2]);
    cloud.is_tidy();
}

#[test]
fn without_room_for_the_new_disks_nothing_is_begun() {
    let cloud = Cloud::start_with("SCRATCH_RESERVE_MB = 1000000000\n");
    let datastore = cloud.backups();
    let vm = cloud.vm_with("one", 2, "MODE=FULL");
    cloud.power_off(vm);
    cloud.write_both(vm, 1);
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
    assert_eq!(text(&cloud.off(vm), "ERROR"), "");
    let image = cloud.backups_of(vm)[0];
    cloud.write_both(vm, 9);
    cloud.begin_restore(vm, image, -1, -1);
    let error = text(&cloud.off(vm), "ERROR");
    assert!(error.contains("RESTORE: looking for room: the new disks need about"), "{error}");
    cloud.disks_hold(vm, [9, 9]);
    cloud.is_tidy();
}

#[test]
fn recovery_gives_a_restore_up_or_takes_the_vm_with_it_and_leaves_nothing() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    // Failure, success, delete, recreate, delete-db.
    for operation in [0, 1, 3, 4, 5] {
        let (vm, image) = cloud.backed_up_vm(&format!("vm-{operation}"), datastore);
        // The first disk is made, the second hangs.
        cloud.script(&rule("\"operation\":\"restore\",\"call\":2,\"until_cancelled\":true"));
        cloud.begin_restore(vm, image, 0, -1);
        cloud.told(&format!("VM {vm}: disk 0 is made anew"));
        assert_eq!(text(&cloud.vm(vm), "LCM_STATE"), "71");
        assert_eq!(cloud.ask("one.vm.recover", &[Int(vm), Int(2)]), Some((true, vm.to_string())), "retry does nothing");
        cloud.call("one.vm.recover", &[Int(vm), Int(operation)]);
        match operation {
            0 | 1 => {
                let error = text(&cloud.off(vm), "ERROR");
                assert!(error.contains("RESTORE: cancelled on request"), "{error}");
                cloud.disks_hold(vm, [9, 9]);
            }
            4 => {
                cloud.running(vm);
                qemu_io(&cloud.disk_file(vm, 0), &format!("read -P 0 0 {KIB_64}"));
            }
            _ => {
                cloud.rests(vm, 6, 0);
            }
        }
        wait("the new files to go", || {
            let folder = cloud.disk_file(vm, 0).parent().unwrap().to_owned();
            let left = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut names = left.map(|entry| entry.file_name().to_string_lossy().into_owned());
            (!names.any(|name| name.contains(".new-") || name.contains(".scratch-"))).then_some(())
        });
        cloud.script("{}");
    }
    cloud.is_tidy();
}

#[test]
fn after_the_new_disks_count_a_cancel_comes_too_late() {
    let mut cloud = Cloud::start();
    let datastore = cloud.backups();
    let (vm, image) = cloud.backed_up_vm("one", datastore);
    cloud.restart(Some("vm-restore.committed"));
    cloud.ask("one.vm.restore", &[Int(vm), Int(image), Int(0), Int(-1)]);
    wait("the crash", || cloud.is_dead().then_some(()));
    cloud.disks_hold(vm, [9, 9]);
    // The hypervisor is away: the job waits.
    cloud.script(&rule("\"operation\":\"state\",\"fail\":{\"kind\":\"retry\",\"reason\":\"libvirtd is away\"}"));
    cloud.restart(None);
    cloud.told("libvirtd is away");
    cloud.call("one.vm.recover", &[Int(vm), Int(0)]);
    cloud.script("{}");
    let document = cloud.off(vm);
    assert_eq!(text(&document, "ERROR"), "");
    assert_eq!(text(&document, "LAST_INCREMENT_ID"), "-1");
    cloud.disks_hold(vm, [1, 1]);
    cloud.is_tidy();
}

#[test]
fn a_disk_that_the_vm_does_not_have_any_more_is_left_out_and_told() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let (vm, image) = cloud.backed_up_vm("one", datastore);
    cloud.call("one.vm.detach", &[Int(vm), Int(1)]);
    cloud.off(vm);
    let (good, told) = cloud.ask("one.vm.restore", &[Int(vm), Int(image), Int(-1), Int(1)]).unwrap();
    assert!(!good && told.contains("no disk 1 any more"), "{told}");
    cloud.put_back(vm, image, -1, -1);
    cloud.told(&format!("VM {vm}: disks [1] of backup image {image} are not the VM's any more"));
    qemu_io(&cloud.disk_file(vm, 0), &format!("read -P {} 0 {KIB_64}", byte(0, 2)));
    cloud.is_tidy();
}

/// Kills the daemon at a point (perhaps the n-th time it comes there) of a restore of two disks, and checks the end.
fn crash(cloud: &mut Cloud, datastore: i64, point: &str) {
    let undone = point.starts_with("vm-restore.und");
    let (vm, image) = cloud.backed_up_vm(&point.replace(['.', ':'], "-"), datastore);
    if undone {
        cloud.script(&fails("restore", "\"call\":2,", "the medium failed"));
    }
    cloud.restart(Some(point));
    cloud.ask("one.vm.restore", &[Int(vm), Int(image), Int(0), Int(-1)]);
    wait(&format!("the crash at {point}"), || cloud.is_dead().then_some(()));
    // Each disk is one of the two, whole.
    let switched = match point {
        "vm-restore.switched" => [1, 9],
        "vm-restore.switched:2" | "vm-restore.cleaned" => [1, 1],
        _ => [9, 9],
    };
    cloud.disks_hold(vm, switched);
    cloud.restart(None);
    let document = cloud.off(vm);
    if undone {
        assert!(text(&document, "ERROR").contains("the medium failed"), "{point}: {document}");
        cloud.disks_hold(vm, [9, 9]);
        cloud.script("{}");
    } else {
        assert_eq!(text(&document, "ERROR"), "", "{point}");
        assert_eq!(text(&document, "LAST_INCREMENT_ID"), "-1", "{point}");
        assert!(cloud.checkpoints(vm).is_empty(), "{point}");
        cloud.disks_hold(vm, [1, 1]);
    }
    cloud.is_tidy();
    cloud.call("one.vm.action", &[Text("resume"), Int(vm)]);
    cloud.running(vm);
    cloud.backup(vm, datastore);
    cloud.call("one.vm.action", &[Text("terminate-hard"), Int(vm)]);
    cloud.rests(vm, 6, 0);
}

#[test]
fn a_daemon_killed_at_any_point_of_a_restore_in_place_comes_to_the_same_end() {
    let mut cloud = Cloud::start();
    let datastore = cloud.backups();
    let mut points = points_in(&["vm_restore_jobs.rs"]);
    points.retain(|point| point.starts_with("vm-restore."));
    assert!(points.len() >= 9, "{points:?}");
    points.extend(["vm-restore.made:2".to_owned(), "vm-restore.switched:2".to_owned()]);
    for point in points {
        crash(&mut cloud, datastore, &point);
    }
}
