//! Backups over the dummy datastore: comparisons of whole disks, bitmaps that are lost or lie, damage, KEEP_LAST; and the
//! daemon is killed at each named point of the jobs about restore points.

use super::*;

pub(crate) const KIB_64: u64 = 64 << 10;

impl Cloud {
    pub(crate) fn backups(&self) -> i64 {
        self.id("one.datastore.allocate", &[Text("NAME=backups\nTYPE=BACKUP_DS\nDS_MAD=dummy\n"), Int(-1)])
    }

    /// A running VM with disks of 1 MiB, and its BACKUP_CONFIG.
    pub(crate) fn vm_with(&self, name: &str, disks: usize, config: &str) -> i64 {
        let mut template = format!("NAME={name}\nCPU=0.1\nMEMORY=64\nBACKUP_CONFIG=[{config}]\n");
        for disk in 0..disks {
            let image = self.datablock(&format!("{name}-disk-{disk}"));
            template += &format!("DISK=[IMAGE_ID={image}]\n");
        }
        let vm = self.id("one.vm.allocate", &[Text(&template)]);
        self.running(vm);
        vm
    }

    /// A running VM whose backups form chains.
    pub(crate) fn chained_vm(&self, name: &str) -> i64 {
        self.vm_with(name, 1, "MODE=INCREMENT")
    }

    /// A guest's write of one byte, many times.
    pub(crate) fn write(&self, vm: i64, disk: i64, byte: u8, offset: u64, length: u64) {
        qemu_io(&self.disk_file(vm, disk), &format!("write -P {byte} {offset} {length}"));
    }

    /// Backs a VM up, with or without complaint; its document afterwards.
    pub(crate) fn backup_anyhow(&self, vm: i64, datastore: i64) -> String {
        self.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
        self.running(vm)
    }

    /// Backs a VM up; the image of its chain.
    pub(crate) fn backup(&self, vm: i64, datastore: i64) -> i64 {
        let document = self.backup_anyhow(vm, datastore);
        assert_eq!(text(&document, "ERROR"), "");
        text(&document, "INCREMENTAL_BACKUP_ID").parse().unwrap()
    }

    /// The images of a VM's backups.
    pub(crate) fn backups_of(&self, vm: i64) -> Vec<i64> {
        let document = self.vm(vm);
        let ids = document.split("<BACKUP_IDS>").nth(1).unwrap().split("</BACKUP_IDS>").next().unwrap();
        ids.split("<ID>").skip(1).map(|rest| rest.split('<').next().unwrap().parse().unwrap()).collect()
    }

    /// The restore points of an image, one document for each.
    pub(crate) fn infos(&self, image: i64) -> Vec<String> {
        infos(&self.image(image))
    }

    /// Starts to restore disk 0; the image that it becomes.
    pub(crate) fn restore(&self, image: i64, options: &str) -> i64 {
        let options = format!("DISK_ID=0\n{options}");
        let ids = self.call("one.image.restore", &[Int(image), Int(1), Text(&options)]);
        ids.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The files of a datastore's disks, by place.
    pub(crate) fn stored_disks(&self, datastore: i64) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.stored_in(datastore)];
        while let Some(folder) = open.pop() {
            for path in entries(&folder) {
                if path.is_dir() {
                    open.push(path);
                } else if path.file_name().is_some_and(|name| name == "disk.0") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// The folder of a dummy datastore.
    pub(crate) fn stored_in(&self, datastore: i64) -> PathBuf {
        self.folder.path().join(format!("dummy/datastore-{datastore}"))
    }

    /// The folder of the restore point that an increment is.
    pub(crate) fn point(&self, datastore: i64, vm: i64, info: &str) -> PathBuf {
        self.stored_in(datastore).join(vm.to_string()).join(text(info, "POINT"))
    }
}

pub(crate) fn infos(document: &str) -> Vec<String> {
    let all = document.split("<INCREMENT_INFO>").skip(1);
    all.map(|rest| rest.split("</INCREMENT_INFO>").next().unwrap().to_owned()).collect()
}

pub(crate) fn number(document: &str, element: &str) -> u64 {
    text(document, element).parse().unwrap()
}

/// Reads or writes a qcow2 file as a guest would.
#[track_caller]
pub(crate) fn qemu_io(image: &Path, order: &str) {
    let mut command = Command::new("qemu-io");
    let done = command.args(["-f", "qcow2", "-c", order]).arg(image).output();
    let done = done.expect("qemu-io is needed: apt install qemu-utils");
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && !said.contains("failed"), "{order} of {}: {said}", image.display());
}

/// Changes one byte of a file.
pub(crate) fn damage(file: &Path, offset: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

/// Whether a crash point is tried here.
pub(crate) fn is_about_backups(point: &str) -> bool {
    ["restore.", "delete.", "retain.", "verify.", "catalogue."].iter().any(|job| point.starts_with(job))
}

#[test]
fn every_nth_run_compares_whole_disks_and_stays_an_increment() {
    let cloud = Cloud::start_with("BACKUP_COMPARE_EVERY = 2\n");
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    for _ in 0..4 {
        assert_eq!(cloud.backup(vm, datastore), image);
    }
    let compared: Vec<_> = cloud.infos(image).iter().map(|info| text(info, "COMPARED")).collect();
    assert_eq!(compared, ["", "", "YES", "", "YES"]);
}

#[test]
fn a_comparison_finds_what_a_lying_bitmap_missed_and_says_so() {
    let cloud = Cloud::start_with("BACKUP_COMPARE_EVERY = 2\n");
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 1, 0, 4 * KIB_64);
    let image = cloud.backup(vm, datastore);
    cloud.script(&format!("{{\"unmarked\":[{{\"disk\":0,\"offset\":{KIB_64},\"length\":{KIB_64}}}]}}"));
    cloud.write(vm, 0, 2, 0, 2 * KIB_64);
    assert_eq!(cloud.backup(vm, datastore), image);
    let document = cloud.backup_anyhow(vm, datastore);
    assert!(text(&document, "ERROR").contains("BACKUP: the record of changes missed 65536 bytes"), "{document}");
    // What was found is looked for again by the next run, and then no more.
    for _ in 0..3 {
        assert_eq!(cloud.backup(vm, datastore), image);
    }
    let infos = cloud.infos(image);
    let compared: Vec<_> = infos.iter().map(|info| text(info, "COMPARED")).collect();
    assert_eq!(compared, ["", "", "YES", "YES", "", "YES"]);
    let missed: Vec<_> = infos.iter().map(|info| text(info, "WARNING").contains("missed 65536 bytes")).collect();
    assert_eq!(missed, [false, false, true, false, false, false]);
    for (increment, byte) in [(1, 1), (2, 2), (5, 2)] {
        let restored = cloud.restore(image, &format!("INCREMENT_ID={increment}\nNAME=r{increment}\n"));
        let disk = PathBuf::from(text(&cloud.image_in(restored, 1), "SOURCE"));
        qemu_io(&disk, &format!("read -P {byte} {KIB_64} {KIB_64}"));
        qemu_io(&disk, &format!("read -P 2 0 {KIB_64}"));
    }
}

#[test]
fn a_lost_bitmap_costs_a_comparison_and_a_lost_parent_a_whole_copy() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 1, 0, 8 * KIB_64);
    let image = cloud.backup(vm, datastore);
    cloud.script("{\"lost_bitmaps\":[\"*\"]}");
    cloud.write(vm, 0, 2, 0, KIB_64);
    assert_eq!(cloud.backup(vm, datastore), image);
    cloud.script("{}");
    let compared = cloud.infos(image).remove(1);
    assert!(text(&compared, "REASON").contains("the record of what changed was lost"), "{compared}");
    assert_eq!((number(&compared, "READ_BYTES") / KIB_64, number(&compared, "STORED_BYTES") / KIB_64), (8, 1));
    assert!(cloud.image(image).contains("<TYPE><![CDATA[INCREMENT]]></TYPE>"), "{}", cloud.image(image));

    std::fs::remove_file(cloud.point(datastore, vm, &compared).join("disk.0")).unwrap();
    cloud.write(vm, 0, 3, KIB_64, KIB_64);
    assert_eq!(cloud.backup(vm, datastore), image);
    let whole = cloud.infos(image).remove(2);
    assert!(text(&whole, "REASON").contains("everything was read"), "{whole}");
    assert_eq!((number(&whole, "READ_BYTES") / KIB_64, number(&whole, "STORED_BYTES") / KIB_64), (8, 8));
    let disk = PathBuf::from(text(&cloud.image_in(cloud.restore(image, ""), 1), "SOURCE"));
    for (byte, block, blocks) in [(2, 0, 1), (3, 1, 1), (1, 2, 6), (0, 8, 8)] {
        qemu_io(&disk, &format!("read -P {byte} {} {}", block * KIB_64, blocks * KIB_64));
    }
}

#[test]
fn a_damaged_point_is_restored_without_its_damaged_parts_when_that_is_asked_for() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 7, 0, 16 * KIB_64);
    let image = cloud.backup(vm, datastore);
    for block in [3, 4, 9] {
        damage(&cloud.stored_disks(datastore)[0], block * KIB_64 + 100);
    }
    let document = cloud.image_in(cloud.restore(image, "NAME=whole\n"), 5);
    let error = text(&document, "ERROR");
    assert!(error.contains("disk 0") && error.contains(&format!("at byte {}", 3 * KIB_64)), "{error}");

    let document = cloud.image_in(cloud.restore(image, "NAME=parts\nSKIP_BAD=YES\n"), 1);
    assert!(text(&document, "RESTORE_WARNING").contains("2 damaged ranges, 196608 bytes"), "{document}");
    let damages: Vec<_> = document.split("<RESTORE_DAMAGE>").skip(1).collect();
    let places = damages.iter().map(|one| (number(one, "DISK"), number(one, "OFFSET"), number(one, "LENGTH")));
    assert_eq!(places.collect::<Vec<_>>(), [(0, 3 * KIB_64, 2 * KIB_64), (0, 9 * KIB_64, KIB_64)]);
    let disk = PathBuf::from(text(&document, "SOURCE"));
    for (byte, block, blocks) in [(7, 0, 3), (0, 3, 2), (7, 5, 4), (0, 9, 1), (7, 10, 6)] {
        qemu_io(&disk, &format!("read -P {byte} {} {}", block * KIB_64, blocks * KIB_64));
    }
}

#[test]
fn a_path_in_a_backup_brings_a_disk_back_like_a_restore() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 1, 0, KIB_64);
    let image = cloud.backup(vm, datastore);
    cloud.write(vm, 0, 2, 0, KIB_64);
    cloud.backup(vm, datastore);
    let restored = cloud.restore(image, "INCREMENT_ID=0\nNAME=first\n");
    let path = text(&cloud.image_in(restored, 1), "PATH");
    assert!(path.starts_with(&format!("dummy://{datastore}//0:")), "{path}");
    let wish = format!("NAME=again\nPATH=\"{path}\"\nFROM_BACKUP_DS={datastore}\n");
    let again = cloud.id("one.image.allocate", &[Text(&wish), Int(1)]);
    let document = cloud.image_in(again, 1);
    assert_eq!(
        (text(&document, "SIZE"), text(&document, "FORMAT"), text(&document, "PATH")),
        ("1".into(), "qcow2".into(), path)
    );
    qemu_io(&PathBuf::from(text(&document, "SOURCE")), &format!("read -P 1 0 {KIB_64}"));
    cloud.is_tidy();
}

#[test]
fn a_deletion_that_waits_for_its_datastore_can_be_forced() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    cloud.script("{\"rules\":[{\"operation\":\"forget\",\"fail\":{\"kind\":\"retry\",\"reason\":\"it is in use\"}}]}");
    cloud.call("one.image.delete", &[Int(image), Bool(false)]);
    assert!(!cloud.ask("one.image.delete", &[Int(image), Bool(false)]).unwrap().0);
    wait("the deletion to be forced", || {
        cloud.ask("one.image.delete", &[Int(image), Bool(true)]).filter(|(done, _)| *done)
    });
    wait("the image to go", || cloud.ask("one.image.info", &[Int(image)]).filter(|(done, _)| !done));
}

/// Does what reaches `point`, restarts the daemon, and checks the end.
fn crash(cloud: &mut Cloud, datastore: i64, point: &str) {
    let vm = cloud.vm_with(point, 2, "MODE=INCREMENT,KEEP_LAST=2");
    cloud.write(vm, 0, 5, 0, KIB_64);
    cloud.backup(vm, datastore);
    let image = cloud.backup(vm, datastore);
    if point.starts_with("catalogue.") {
        cloud.lose_images(datastore);
    }
    cloud.restart(Some(point));
    let (method, args): (_, &[Arg<'_>]) = match point.split('.').next().unwrap() {
        "restore" => ("one.image.restore", &[Int(image), Int(1), Text("DISK_ID=0\n")]),
        "delete" => ("one.image.delete", &[Int(image), Bool(false)]),
        "retain" => ("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]),
        "verify" => ("one.image.verify", &[Int(image), Bool(true), Int(-1)]),
        "catalogue" => ("one.datastore.importbackups", &[Int(datastore)]),
        other => panic!("no step reaches the crash points of {other}"),
    };
    cloud.ask(method, args);
    wait(&format!("the crash at {point}"), || cloud.is_dead().then_some(()));
    cloud.restart(None);
    match point.split('.').next().unwrap() {
        "restore" => {
            let restored = *cloud.ids("one.imagepool.info", "IMAGE").iter().max().unwrap();
            let disk = PathBuf::from(text(&cloud.image_in(restored, 1), "SOURCE"));
            qemu_io(&disk, &format!("read -P 5 0 {KIB_64}"));
        }
        "delete" => {
            wait("the image to go", || cloud.ask("one.image.info", &[Int(image)]).filter(|(done, _)| !done));
        }
        "retain" => {
            cloud.running(vm);
            let infos = wait("the oldest point to go", || Some(cloud.infos(image)).filter(|infos| infos.len() == 2));
            assert_eq!(infos.iter().map(|info| text(info, "ID")).collect::<Vec<_>>(), ["1", "2"]);
        }
        "verify" => {
            let seen = infos(&cloud.verified(image));
            assert_eq!(seen.iter().map(|info| text(info, "DAMAGES")).collect::<Vec<_>>(), ["0", "0"], "{point}");
        }
        _ => {
            let outcome = cloud.import_ended(datastore);
            let known = number(&outcome, "POINTS") + number(&outcome, "KNOWN");
            assert!(known >= 2 && text(&outcome, "LEFT_OUT") == "0", "{outcome}");
            assert_eq!(text(&cloud.imported(datastore), "POINTS"), "0", "{point}");
        }
    }
    cloud.is_tidy();
}

#[test]
fn a_daemon_killed_at_any_point_of_a_job_about_restore_points_comes_to_the_same_end() {
    let mut cloud = Cloud::start();
    let datastore = cloud.backups();
    let mut points = points_in(&["verify_jobs.rs", "catalogue_jobs.rs", "image_jobs.rs"]);
    points.retain(|point| is_about_backups(point));
    assert!(points.len() >= 7, "{points:?}");
    for point in points {
        crash(&mut cloud, datastore, &point);
    }
}

#[test]
fn while_a_backup_runs_each_disk_shows_how_far_it_is_and_afterwards_the_point_says_what_was_saved() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 2, "MODE=INCREMENT"));
    cloud.write(vm, 0, 1, 0, 2 * KIB_64);
    cloud.write(vm, 1, 2, 0, KIB_64);
    cloud.script("{\"rules\":[{\"operation\":\"seal\",\"when\":\"before\",\"until_cancelled\":true}]}");
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
    let shown = |document: &str| -> Vec<[u64; 3]> {
        let disks = document.split("<DISK_PROGRESS>").skip(1);
        disks.map(|disk| ["DISK_ID", "DONE_BYTES", "TOTAL_BYTES"].map(|name| number(disk, name))).collect()
    };
    let whole = [[0, 2 * KIB_64, 2 * KIB_64], [1, KIB_64, KIB_64]];
    wait("both disks to be stored", || (shown(&cloud.vm(vm)) == whole).then_some(()));
    let document = cloud.vm(vm);
    let all = document.split("<PROGRESS>").nth(1).unwrap();
    assert_eq!((number(all, "DONE_BYTES"), number(all, "TOTAL_BYTES")), (3 * KIB_64, 3 * KIB_64));
    cloud.script("{}");
    let document = cloud.running(vm);
    assert!(!document.contains("PROGRESS"), "{document}");
    let image: i64 = text(&document, "INCREMENTAL_BACKUP_ID").parse().unwrap();
    let [full] = &cloud.infos(image)[..] else { panic!("not one point") };
    assert_eq!((number(full, "READ_BYTES"), number(full, "SAVED_BYTES")), (3 * KIB_64, 0));
}

#[test]
fn who_sees_the_end_of_a_transfer_sees_no_progress_of_it() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 1, "MODE=INCREMENT"));
    // Looks as often as it can: the moment between the end and what shows it is short.
    let at_the_end = |look: &dyn Fn() -> String, has_ended: &dyn Fn(&str) -> bool| {
        let until = Instant::now() + WITHIN;
        let document = loop {
            let document = look();
            assert!(Instant::now() < until, "waited in vain for the end of a transfer");
            if has_ended(&document) {
                break document;
            }
        };
        assert!(!document.contains("<PROGRESS>"), "{document}");
    };
    for round in 0..10 {
        cloud.write(vm, 0, round, 0, KIB_64);
        cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
        at_the_end(&|| cloud.vm(vm), &|document| text(document, "LCM_STATE") == "3");
        let restored = cloud.restore(cloud.backups_of(vm)[0], "");
        at_the_end(&|| cloud.image(restored), &|document| text(document, "STATE") == "1");
    }
}
