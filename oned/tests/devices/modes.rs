//! What a backup is, by BACKUP_CONFIG: which disks it holds, how changes are found, how the guest is made quiet and what
//! follows when that fails, several datastores, and what a failed reset leaves.

use super::backups::{self, KIB_64, infos, number};
use super::*;

/// Reads or writes a raw file as a guest would.
fn raw_io(image: &Path, order: &str) {
    let done = Command::new("qemu-io").args(["-f", "raw", "-c", order]).arg(image).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && !said.contains("failed"), "{order} of {}: {said}", image.display());
}

impl Cloud {
    fn configure(&self, vm: i64, config: &str) {
        self.call("one.vm.updateconf", &[Int(vm), Text(&format!("BACKUP_CONFIG=[{config}]\n")), Int(1)]);
    }

    /// The folder of the only dummy host.
    fn host_folder(&self) -> PathBuf {
        let folders = std::fs::read_dir(self.folder.path().join("dummy")).unwrap().map(|entry| entry.unwrap().path());
        folders.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("host-")).unwrap()
    }

    /// Checkpoints of a VM.
    pub(crate) fn checkpoints(&self, vm: i64) -> Vec<String> {
        let folder = self.host_folder().join(format!("domains/one-{vm}/checkpoints"));
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// How the guest is held, `frozen` or `suspended`; empty = not at all.
    fn held(&self, vm: i64) -> String {
        let record = std::fs::read_to_string(self.host_folder().join(format!("domains/one-{vm}/domain.json"))).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["held"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until nothing of backups is left to do: what follows a record is done after the VM is back.
    fn checkpoints_become(&self, vm: i64, count: usize) {
        wait(&format!("{count} checkpoints"), || (self.checkpoints(vm).len() == count).then_some(()));
    }

    /// The disks that an image's restore points hold.
    fn disk_ids(&self, image: i64) -> Vec<String> {
        let document = self.image(image);
        let ids = document.split("<BACKUP_DISK_IDS>").nth(1).unwrap().split("</BACKUP_DISK_IDS>").next().unwrap();
        ids.split("<ID>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    }
}

/// An image disk, a volatile raw disk and a swap disk, of 1 MiB each.
fn mixed_vm(cloud: &Cloud, name: &str, config: &str) -> i64 {
    let image = cloud.datablock(&format!("{name}-disk"));
    let template = format!(
        "NAME={name}\nCPU=0.1\nMEMORY=64\nBACKUP_CONFIG=[{config}]\nDISK=[IMAGE_ID={image}]\n\
         DISK=[TYPE=fs,SIZE=1,FORMAT=raw]\nDISK=[TYPE=swap,SIZE=1]\n"
    );
    let vm = cloud.id("one.vm.allocate", &[Text(&template)]);
    cloud.running(vm);
    vm
}

#[test]
fn increments_without_a_record_of_changes_take_raw_disks_and_store_what_differs() {
    let cloud = Cloud::start();
    let (datastore, config) = (cloud.backups(), "MODE=INCREMENT,INCREMENT_MODE=SNAPSHOT,BACKUP_VOLATILE=YES");
    let vm = mixed_vm(&cloud, "one", config);
    cloud.write(vm, 0, 1, 0, 4 * KIB_64);
    raw_io(&cloud.disk_file(vm, 1), &format!("write -P 2 0 {}", 4 * KIB_64));
    let image = cloud.backup(vm, datastore);
    cloud.write(vm, 0, 3, 0, KIB_64);
    raw_io(&cloud.disk_file(vm, 1), &format!("write -P 4 {KIB_64} {KIB_64}"));
    assert_eq!(cloud.backup(vm, datastore), image);
    cloud.power_off(vm);
    raw_io(&cloud.disk_file(vm, 1), &format!("write -P 5 {} {KIB_64}", 2 * KIB_64));
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
    cloud.off(vm);

    assert_eq!(cloud.disk_ids(image), ["0", "1"]);
    assert_eq!(cloud.checkpoints(vm), [""; 0], "nothing is left in the guest's images");
    let infos = cloud.infos(image);
    let sizes: Vec<_> =
        infos.iter().map(|info| (number(info, "READ_BYTES") / KIB_64, number(info, "STORED_BYTES") / KIB_64)).collect();
    assert_eq!(sizes, [(8, 8), (8, 2), (8, 1)]);
    for info in &infos[1..] {
        assert!(text(info, "REASON").starts_with("INCREMENT_MODE is SNAPSHOT: whole disks were read"), "{info}");
        assert_eq!((text(info, "WARNING").as_str(), text(info, "COMPARED").as_str()), ("", "YES"));
    }
    let document = cloud.vm(vm);
    assert_eq!((text(&document, "ERROR").as_str(), text(&document, "LAST_WARNING").as_str()), ("", ""));
    let restored = cloud.call("one.image.restore", &[Int(image), Int(1), Text("")]);
    let restored: Vec<i64> = restored.split(' ').skip(1).map(|id| id.parse().unwrap()).collect();
    for (disk, blocks) in [(restored[0], [3, 1, 1, 1, 0]), (restored[1], [2, 4, 5, 2, 0])] {
        let file = PathBuf::from(text(&cloud.image_in(disk, 1), "SOURCE"));
        for (block, byte) in blocks.iter().enumerate() {
            backups::qemu_io(&file, &format!("read -P {byte} {} {KIB_64}", block as u64 * KIB_64));
        }
    }
}

#[test]
fn a_chain_goes_on_when_increment_mode_changes_and_the_record_of_changes_comes_back() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 1, 0, 8 * KIB_64);
    let image = cloud.backup(vm, datastore);
    // (INCREMENT_MODE, blocks read, a piece of the reason, checkpoints kept afterwards)
    let way = [
        ("CBT", 1, "", 1),
        ("SNAPSHOT", 8, "INCREMENT_MODE is SNAPSHOT", 0),
        ("SNAPSHOT", 8, "INCREMENT_MODE is SNAPSHOT", 0),
        ("CBT", 8, "no record of what changed was kept; everything was read", 1),
        ("CBT", 1, "", 1),
    ];
    for (step, (mode, read, reason, checkpoints)) in (0_u8..).zip(way) {
        cloud.configure(vm, &format!("INCREMENT_MODE={mode}"));
        cloud.write(vm, 0, 2 + step, 0, KIB_64);
        assert_eq!(cloud.backup(vm, datastore), image, "step {step}");
        let last = cloud.infos(image).pop().unwrap();
        let sizes = (number(&last, "READ_BYTES") / KIB_64, number(&last, "STORED_BYTES") / KIB_64);
        assert_eq!(sizes, (read, 1), "step {step}: {last}");
        assert!(text(&last, "REASON").starts_with(reason), "step {step}: {last}");
        assert_eq!(text(&last, "REASON").is_empty(), reason.is_empty());
        cloud.checkpoints_become(vm, checkpoints);
    }
    let document = cloud.image(image);
    let kinds: Vec<_> =
        document.split("<TYPE><![CDATA[").skip(1).map(|rest| rest.split(']').next().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["FULL", "INCREMENT", "INCREMENT", "INCREMENT", "INCREMENT", "INCREMENT"]);
}

#[test]
fn what_can_do_no_increments_is_told_so_and_snapshots_of_disks_go_with_snapshot_mode() {
    let cloud = Cloud::start();
    let refuses = |vm: i64, config: &str, sentence: &str| {
        let wish = format!("BACKUP_CONFIG=[{config}]\n");
        let (done, said) = cloud.ask("one.vm.updateconf", &[Int(vm), Text(&wish), Int(1)]).unwrap();
        assert!(!done && said.contains(sentence), "{config}: {said}");
    };
    let raw = mixed_vm(&cloud, "raw", "BACKUP_VOLATILE=YES");
    refuses(raw, "MODE=INCREMENT", "it has disks snapshots or disks are not qcow2");
    cloud.configure(raw, "MODE=INCREMENT,INCREMENT_MODE=SNAPSHOT");
    refuses(raw, "INCREMENT_MODE=CBT", "it has disks snapshots or disks are not qcow2");
    refuses(raw, "INTERACTIVE=YES", "INTERACTIVE");
    assert_eq!(text(&cloud.vm(raw), "INCREMENT_MODE"), "SNAPSHOT");
    let (done, said) = cloud.ask("one.vm.snapshotcreate", &[Int(raw), Text("a")]).unwrap();
    assert!(!done && said.contains("not compatible with incremental backups"), "{said}");

    let held = cloud.vm_with("held", 1, "MODE=FULL");
    cloud.call("one.vm.snapshotcreate", &[Int(held), Text("a")]);
    cloud.running(held);
    for mode in ["CBT", "SNAPSHOT"] {
        refuses(held, &format!("MODE=INCREMENT,INCREMENT_MODE={mode}"), "it has snapshots");
    }
    let marked = cloud.vm_with("marked", 1, "MODE=FULL");
    cloud.power_off(marked);
    cloud.call("one.vm.disksnapshotcreate", &[Int(marked), Int(0), Text("a")]);
    cloud.off(marked);
    refuses(marked, "MODE=INCREMENT,INCREMENT_MODE=CBT", "it has disks snapshots");
    cloud.configure(marked, "MODE=INCREMENT,INCREMENT_MODE=SNAPSHOT");
    assert_eq!(text(&cloud.vm(marked), "MODE"), "INCREMENT");
}

#[test]
fn the_disks_of_a_backup_are_those_that_its_configuration_names_and_others_begin_a_new_chain() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    let vm = mixed_vm(&cloud, "one", "MODE=INCREMENT,INCREMENT_MODE=SNAPSHOT");
    let first = cloud.backup(vm, datastore);
    assert_eq!(cloud.disk_ids(first), ["0"], "neither volatile nor swap disks unasked");
    let mut chains = vec![first];
    for (config, disks) in
        [("BACKUP_VOLATILE=YES", &["0", "1"][..]), ("DISK_IDS=\"1\"", &["1"]), ("DISK_IDS=\"\"", &["0", "1"])]
    {
        cloud.configure(vm, config);
        assert_eq!(text(&cloud.vm(vm), "INCREMENTAL_BACKUP_ID"), "-1", "{config}");
        let image = cloud.backup(vm, datastore);
        assert!(!chains.contains(&image), "{config}");
        assert_eq!(cloud.disk_ids(image), disks, "{config}");
        assert_eq!(cloud.backup(vm, datastore), image, "{config}: the chain goes on");
        chains.push(image);
    }
    let swap = "BACKUP_CONFIG=[DISK_IDS=\"2\"]\n";
    let (done, said) = cloud.ask("one.vm.updateconf", &[Int(vm), Text(swap), Int(1)]).unwrap();
    assert!(!done && said.contains("Invalid DISK_IDS, disk 2 cannot be backed up"), "{said}");
    assert_eq!(cloud.backups_of(vm), chains);
}

#[test]
fn a_guest_that_does_not_get_quiet_is_backed_up_with_a_warning_or_not_at_all() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    for freeze in ["AGENT", "SUSPEND"] {
        let config = format!("MODE=INCREMENT,FS_FREEZE={freeze}");
        let vm = cloud.vm_with(freeze, 1, &config);
        let image = cloud.backup(vm, datastore);
        assert_eq!(text(&cloud.infos(image)[0], "WARNING"), "");
        cloud.checkpoints_become(vm, 1);
        let checkpoints = cloud.checkpoints(vm);

        cloud.script(
            "{\"rules\":[{\"operation\":\"freeze\",\"fail\":{\"kind\":\"retry\",\"reason\":\"it does not answer\"}}]}",
        );
        cloud.configure(vm, "FS_FREEZE_FAIL=ABORT");
        let document = cloud.backup_anyhow(vm, datastore);
        let sentence = format!("crash-consistent: domain one-{vm} could not be quieted (it does not answer)");
        assert!(text(&document, "ERROR").contains(&sentence), "{document}");
        assert_eq!(text(&document, "FS_FREEZE_FAIL"), "ABORT");
        assert_eq!((cloud.infos(image).len(), cloud.checkpoints(vm)), (1, checkpoints), "nothing is left of it");
        assert_eq!(cloud.held(vm), "");
        cloud.is_tidy();

        cloud.configure(vm, "FS_FREEZE_FAIL=CONTINUE");
        assert_eq!(cloud.backup(vm, datastore), image);
        let infos = cloud.infos(image);
        assert_eq!((infos.len(), text(&infos[1], "WARNING")), (2, sentence.clone()));
        let document = cloud.vm(vm);
        assert_eq!(text(&document, "LAST_WARNING"), sentence);
        assert_eq!(text(&document, "FS_FREEZE_FAIL"), "", "it is the default");
        assert!(cloud.log().contains(&sentence));
        cloud.script("{}");
        assert_eq!(cloud.backup(vm, datastore), image);
        assert_eq!(text(&cloud.vm(vm), "LAST_WARNING"), "");
        cloud.is_tidy();
    }
}

#[test]
fn a_guest_that_a_killed_daemon_holds_is_let_go_before_the_datastore_is_asked_anything() {
    let mut cloud = Cloud::start();
    let datastore = cloud.backups();
    for (freeze, held) in [("AGENT", "frozen"), ("SUSPEND", "suspended")] {
        let vm = cloud.vm_with(freeze, 1, &format!("MODE=INCREMENT,FS_FREEZE={freeze}"));
        cloud.script("{\"rules\":[{\"operation\":\"thaw\",\"delay_ms\":600000}]}");
        cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
        wait("the guest to be held", || (cloud.held(vm) == held).then_some(()));
        let _ = cloud.child.kill();
        cloud.child.wait().unwrap();
        assert_eq!(cloud.held(vm), held);
        // The first thing that a backup which was cut off asks its datastore.
        cloud.script("{\"rules\":[{\"operation\":\"find\",\"until_cancelled\":true}]}");
        cloud.restart(None);
        wait("the guest to go on", || cloud.held(vm).is_empty().then_some(()));
        assert_eq!(text(&cloud.vm(vm), "LCM_STATE"), "69", "the backup still waits for its datastore");
        cloud.script("{}");
        let document = cloud.running(vm);
        assert_eq!(text(&document, "ERROR"), "", "{document}");
        let image = number(&document, "INCREMENTAL_BACKUP_ID").cast_signed();
        assert_eq!(cloud.infos(image).len(), 1);
        cloud.is_tidy();
    }
}

#[test]
fn a_guest_whose_backup_fails_while_its_datastore_is_away_is_let_go_too() {
    let mut cloud = Cloud::start();
    let datastore = cloud.backups();
    let vm = cloud.vm_with("one", 1, "MODE=INCREMENT,FS_FREEZE=AGENT");
    cloud.script("{\"rules\":[{\"operation\":\"thaw\",\"delay_ms\":600000}]}");
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
    wait("the guest to be held", || (cloud.held(vm) == "frozen").then_some(()));
    let _ = cloud.child.kill();
    cloud.child.wait().unwrap();
    let away = "{\"kind\":\"permanent\",\"reason\":\"it burnt down\"}";
    cloud.script(&format!("{{\"rules\":[{{\"operation\":\"find\",\"fail\":{away}}}]}}"));
    cloud.restart(None);
    let document = cloud.running(vm);
    assert!(text(&document, "ERROR").contains("it burnt down"), "{document}");
    assert_eq!(cloud.held(vm), "");
    cloud.script("{}");
}

#[test]
fn a_reset_that_fails_leaves_the_old_chain_as_it_was() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 1, 0, 4 * KIB_64);
    let image = cloud.backup(vm, datastore);
    cloud.backup(vm, datastore);
    for (byte, operation) in (2..).zip(["store", "seal", "begin_backup"]) {
        let fail = "{\"kind\":\"permanent\",\"reason\":\"no\"}";
        cloud.script(&format!("{{\"rules\":[{{\"operation\":\"{operation}\",\"fail\":{fail}}}]}}"));
        cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(true)]);
        let during = cloud.vm(vm);
        assert_eq!(text(&during, "INCREMENTAL_BACKUP_ID"), image.to_string(), "{operation}");
        let document = cloud.running(vm);
        assert!(text(&document, "ERROR").contains("BACKUP"), "{document}");
        assert_eq!(text(&document, "INCREMENTAL_BACKUP_ID"), image.to_string(), "{operation}");
        cloud.script("{}");
        // And it can be built upon as if nothing had been, its record of changes included.
        cloud.write(vm, 0, byte, 0, KIB_64);
        assert_eq!(cloud.backup(vm, datastore), image);
        let last = cloud.infos(image).pop().unwrap();
        assert_eq!((number(&last, "READ_BYTES") / KIB_64, text(&last, "REASON").as_str()), (1, ""), "{operation}");
    }
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(true)]);
    let document = cloud.running(vm);
    let second = number(&document, "INCREMENTAL_BACKUP_ID").cast_signed();
    assert_eq!(cloud.backups_of(vm), [image, second], "the old chain stays, and is not the active one any more");
    assert_eq!(text(&cloud.infos(second)[0], "REASON"), "a new chain was requested");
    assert_eq!(infos(&cloud.image(image)).len(), 5);
}

#[test]
fn full_backups_in_two_datastores_are_one_list_for_keep_last_and_a_chain_stays_in_its_own() {
    let cloud = Cloud::start();
    let near = cloud.backups();
    let far = cloud.id("one.datastore.allocate", &[Text("NAME=far\nTYPE=BACKUP_DS\nDS_MAD=dummy\n"), Int(-1)]);
    let vm = cloud.vm_with("tiers", 1, "MODE=FULL,KEEP_LAST=3");
    cloud.write(vm, 0, 1, 0, KIB_64);
    let mut made = Vec::new();
    for datastore in [near, far, near, near, far] {
        cloud.backup_anyhow(vm, datastore);
        let newest = *cloud.backups_of(vm).iter().max().unwrap();
        assert_eq!(text(&cloud.image(newest), "DATASTORE_ID"), datastore.to_string());
        made.push(newest);
        let kept = made[made.len().saturating_sub(3)..].to_vec();
        wait("the oldest ones to go", || (cloud.backups_of(vm) == kept).then_some(()));
    }
    assert_eq!((cloud.stored_disks(near).len(), cloud.stored_disks(far).len()), (2, 1));

    cloud.configure(vm, "MODE=INCREMENT,KEEP_LAST=0");
    let chain = cloud.backup(vm, far);
    assert_eq!(cloud.backup(vm, near), chain, "inside a chain its own datastore is used");
    assert_eq!(text(&cloud.image(chain), "DATASTORE_ID"), far.to_string());
}

#[test]
fn what_is_said_of_the_last_backup_is_not_the_users_to_write() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.backup(vm, datastore);
    cloud.script("{\"lost_bitmaps\":[\"*\"]}");
    cloud.backup(vm, datastore);
    cloud.script("{}");
    let lost = text(&cloud.vm(vm), "LAST_REASON");
    assert!(lost.starts_with("the record of what changed was lost"), "{lost}");
    assert!(cloud.log().contains(&lost));
    for kind in [0, 1] {
        let forged = "BACKUP_INFO=[LAST_REASON=\"all is well\"]\nLABELS=a\n";
        cloud.call("one.vm.update", &[Int(vm), Text(forged), Int(kind)]);
        let document = cloud.vm(vm);
        assert_eq!((text(&document, "LAST_REASON"), text(&document, "LABELS")), (lost.clone(), "a".into()));
    }
    // Twice: the first may have lost its bitmap too, when its older checkpoints were looked for.
    cloud.backup(vm, datastore);
    cloud.backup(vm, datastore);
    assert_eq!(text(&cloud.vm(vm), "LAST_REASON"), "");
}
