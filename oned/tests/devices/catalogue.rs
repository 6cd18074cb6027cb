//! Taking up what a dummy datastore holds: after the database was lost, is older than the datastore, or is another one.

use super::backups::{KIB_64, infos, number, qemu_io};
use super::*;

impl Cloud {
    pub(crate) fn imported(&self, datastore: i64) -> String {
        self.call("one.datastore.importbackups", &[Int(datastore)]);
        self.import_ended(datastore)
    }

    #[track_caller]
    pub(crate) fn import_ended(&self, datastore: i64) -> String {
        wait("the import", || {
            let document = self.call("one.datastore.info", &[Int(datastore)]);
            Some(document).filter(|document| !document.contains("<IMPORTING_BACKUPS>"))
        })
    }

    /// Changes the database behind the daemon's back when no job is open, and restarts the daemon.
    fn sql(&mut self, statements: &str) {
        let open = "job WHERE phase NOT IN ('done', 'failed', 'cancelled')";
        wait("all jobs to end", || (self.count(open) == 0).then_some(()));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.commit()";
        let database = self.folder.path().join("one.db");
        let done = Command::new("python3").args(["-c", script]).arg(database).arg(statements).status();
        assert!(done.expect("python3 is needed: apt install python3").success());
        self.restart(None);
    }

    /// Forgets the images of a datastore, as a database of yesterday does.
    pub(crate) fn lose_images(&mut self, datastore: i64) {
        self.sql(&format!("DELETE FROM increment; DELETE FROM image WHERE datastore_id = {datastore};"));
    }
}

/// IMAGES, POINTS, KNOWN and LEFT_OUT of an import.
fn figures(outcome: &str) -> [u64; 4] {
    ["IMAGES", "POINTS", "KNOWN", "LEFT_OUT"].map(|name| {
        let told = outcome.split("<IMPORTED_BACKUPS>").nth(1);
        number(told.unwrap_or_else(|| panic!("no outcome: {outcome}")), name)
    })
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn backups_that_the_database_lost_are_taken_up_once() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    cloud.backup(vm, datastore);
    let before = cloud.image(image);
    assert_eq!(figures(&cloud.imported(datastore)), [0, 0, 2, 0]);
    cloud.lose_images(datastore);
    assert_eq!(figures(&cloud.imported(datastore)), [1, 2, 0, 0]);
    let made = *cloud.ids("one.imagepool.info", "IMAGE").last().unwrap();
    let after = cloud.image(made);
    for name in ["NAME", "UNAME", "SIZE", "SOURCE", "STATE"] {
        assert_eq!(text(&after, name), text(&before, name), "{name}");
    }
    assert!(after.contains(&format!("<VMS><ID>{vm}</ID></VMS>")), "{after}");
    assert_eq!(infos(&after).len(), 2);
    assert_eq!(figures(&cloud.imported(datastore)), [0, 0, 2, 0], "repeating it changes nothing");
    assert_eq!(cloud.image(made), after);

    // What came back can be restored, and the VM goes on with a chain of its own.
    cloud.image_in(cloud.restore(made, "INCREMENT_ID=1\nSKIP_BAD=YES\n"), 1);
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(true)]);
    cloud.running(vm);
}

#[test]
fn another_installation_takes_up_the_backups_and_does_not_mix_up_vms() {
    let old = Cloud::start();
    let datastore = old.backups();
    let (chained, full) = (old.chained_vm("chained"), old.vm_with("full", 1, "MODE=FULL"));
    assert_eq!(chained, 0);
    let bob = old.id("one.user.allocate", &[Text("bob"), Text("secret"), Text("core")]);
    old.call("one.vm.chown", &[Int(chained), Int(bob), Int(-1)]);
    for byte in 1..=3 {
        old.write(chained, 0, byte, 0, KIB_64 * u64::from(byte));
        old.backup(chained, datastore);
    }
    for byte in 4..=5 {
        old.write(full, 0, byte, 0, KIB_64);
        old.backup_anyhow(full, datastore);
    }
    let torn = old.backups_of(full)[0];
    let unreadable = old.point(datastore, full, &old.infos(torn)[0]).join("vm.xml");
    std::fs::write(unreadable, "<VM><ID>1</ID>").unwrap();

    let new = Cloud::start();
    let store = new.backups();
    // VMs are told apart by their start, which documents tell in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    // VM 0 here is not VM 0 there; its series has the same name.
    let vm = new.vm_with("first", 1, "MODE=FULL,KEEP_LAST=1");
    assert_eq!(vm, 0);
    std::fs::create_dir_all(new.stored_in(store)).unwrap();
    for series in [chained, full] {
        copy(&old.stored_in(datastore).join(series.to_string()), &new.stored_in(store));
    }
    new.write(vm, 0, 9, 0, KIB_64);
    new.backup_anyhow(vm, store);
    let own = new.backups_of(vm);
    let outcome = new.imported(store);
    assert_eq!(figures(&outcome), [3, 5, 1, 0], "{outcome}");
    assert!(text(&outcome, "NOTES").contains("VM 0 is another one by now"), "{outcome}");
    assert_eq!(new.backups_of(vm), own, "the old VM's chain is not the new one's");

    let taken: Vec<i64> = new.ids("one.imagepool.info", "IMAGE").into_iter().filter(|id| *id > own[0]).collect();
    let documents: Vec<String> = taken.iter().map(|id| new.image(*id)).collect();
    let of = |point: &str| documents.iter().position(|document| document.contains(point)).unwrap();
    let chain = of(&text(&old.infos(old.backups_of(chained)[0])[0], "POINT"));
    assert_eq!((infos(&documents[chain]).len(), text(&documents[chain], "UNAME").as_str()), (3, "oneadmin"));
    let whole = of(&text(&old.infos(old.backups_of(full)[1])[0], "POINT"));
    assert!(documents[whole].contains("<VMS><ID>1</ID></VMS>"), "{}", documents[whole]);
    let undescribed = of(&text(&old.infos(torn)[0], "POINT"));
    assert!(text(&documents[undescribed], "WARNING").contains("only its disks can be restored"));

    for (number, image, point, byte) in
        [(0, chain, "INCREMENT_ID=0", 1), (1, chain, "", 3), (2, undescribed, "", 4), (3, whole, "", 5)]
    {
        let restored = new.restore(taken[image], &format!("{point}\nNAME=r{number}\n"));
        let disk = PathBuf::from(text(&new.image_in(restored, 1), "SOURCE"));
        qemu_io(&disk, &format!("read -P {byte} 0 {KIB_64}"));
    }
    // The whole VM comes back by its description, as a VM with an id that no point has.
    new.call("one.image.restore", &[Int(taken[chain]), Int(1), Text("NAME=again\n")]);
    assert!(new.vm_with("second", 1, "MODE=FULL") > full);

    new.backup_anyhow(vm, store);
    let left = wait("KEEP_LAST", || Some(new.backups_of(vm)).filter(|images| images.len() == 1));
    assert_ne!(left, own);
    for image in &taken {
        assert_eq!(text(&new.image(*image), "STATE"), "1", "KEEP_LAST is about the VM's own backups");
    }
    assert_eq!(figures(&new.imported(store)), [0, 0, 6, 0]);
}

#[test]
fn backups_of_a_backup_job_are_taken_up_with_their_vm_and_their_job() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    for byte in 1..=2 {
        cloud.write(vm, 0, byte, 0, KIB_64);
        cloud.backup(vm, datastore);
    }
    let before = cloud.infos(cloud.backups_of(vm)[0]);
    cloud.lose_images(datastore);
    // As if backup job 3 had made them. Another group says nothing of a job.
    let place = cloud.stored_in(datastore);
    copy(&place.join(vm.to_string()), &place.join(format!("other+{vm}")));
    std::fs::rename(place.join(vm.to_string()), place.join(format!("job-3+{vm}"))).unwrap();
    assert_eq!(figures(&cloud.imported(datastore)), [2, 4, 0, 0]);
    let taken = cloud.backups_of(vm);
    assert_eq!(taken.len(), 2, "both are this VM's");
    for (image, job) in taken.iter().zip(["3", ""]) {
        let infos = cloud.infos(*image);
        let points = |infos: &[String]| infos.iter().map(|info| text(info, "POINT")).collect::<Vec<_>>();
        assert_eq!(points(&infos), points(&before));
        let restored = cloud.restore(*image, &format!("NAME=r{image}\n"));
        let document = cloud.image_in(restored, 1);
        qemu_io(&PathBuf::from(text(&document, "SOURCE")), &format!("read -P 2 0 {KIB_64}"));
        let path = text(&document, "PATH");
        assert!(path.starts_with(&format!("dummy://{datastore}/{job}/0:")), "{path}");
        if !job.is_empty() {
            // Both have the same points here, which only the job tells apart.
            let wish = format!("NAME=again\nPATH=\"{path}\"\nFROM_BACKUP_DS={datastore}\n");
            let again = cloud.id("one.image.allocate", &[Text(&wish), Int(1)]);
            qemu_io(&PathBuf::from(text(&cloud.image_in(again, 1), "SOURCE")), &format!("read -P 2 0 {KIB_64}"));
        }
    }
    assert_eq!(figures(&cloud.imported(datastore)), [0, 0, 4, 0]);
    // A backup job that comes does not store among those of the old one.
    assert!(cloud.id("one.backupjob.allocate", &[Text("NAME=nightly\n")]) > 3);
}

#[test]
fn keep_last_goes_by_the_age_of_the_data_and_not_by_ids() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 1, "MODE=FULL"));
    for _ in 0..3 {
        cloud.backup_anyhow(vm, datastore);
    }
    cloud.lose_images(datastore);
    // Dates have seconds.
    std::thread::sleep(Duration::from_millis(1100));
    cloud.backup_anyhow(vm, datastore);
    let newer = *cloud.backups_of(vm).last().unwrap();
    assert_eq!(figures(&cloud.imported(datastore)), [3, 3, 1, 0]);
    let older: Vec<i64> = cloud.backups_of(vm).into_iter().filter(|id| *id != newer).collect();
    assert!(older.len() == 3 && older.iter().all(|id| *id > newer), "{older:?} {newer}");
    cloud.call("one.vm.updateconf", &[Int(vm), Text("BACKUP_CONFIG=[MODE=FULL,KEEP_LAST=2]"), Int(1)]);
    cloud.backup_anyhow(vm, datastore);
    let left = wait("KEEP_LAST", || Some(cloud.backups_of(vm)).filter(|images| images.len() == 2));
    assert!(left.contains(&newer) && !older.iter().any(|id| left.contains(id)), "{left:?}");
}

#[test]
fn a_chain_of_which_the_database_knows_only_the_beginning_is_completed_and_goes_on() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    for byte in 1..=3 {
        cloud.write(vm, 0, byte, 0, KIB_64);
        cloud.backup(vm, datastore);
    }
    let image = cloud.backups_of(vm)[0];
    let before: Vec<_> = cloud.infos(image).iter().map(|info| text(info, "POINT")).collect();
    cloud.sql("DELETE FROM increment WHERE increment_id > 0;");
    assert_eq!(cloud.infos(image).len(), 1);
    assert_eq!(figures(&cloud.imported(datastore)), [0, 2, 1, 0]);
    assert_eq!(cloud.infos(image).iter().map(|info| text(info, "POINT")).collect::<Vec<_>>(), before);
    cloud.write(vm, 0, 4, KIB_64, KIB_64);
    assert_eq!(cloud.backup(vm, datastore), image);
    let next = cloud.infos(image).remove(3);
    assert!(text(&next, "REASON").contains("no record of what changed was kept"), "{next}");
    assert_eq!((number(&next, "READ_BYTES") / KIB_64, number(&next, "STORED_BYTES") / KIB_64), (2, 1));
}

#[test]
fn a_point_of_a_backup_that_is_still_being_made_is_left_out() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.backup(vm, datastore);
    cloud.script("{\"rules\":[{\"operation\":\"seal\",\"when\":\"after\",\"until_cancelled\":true}]}");
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
    let points = || std::fs::read_dir(cloud.stored_in(datastore).join(vm.to_string())).unwrap();
    wait("the second point", || {
        let published = points().filter(|point| point.as_ref().unwrap().path().join("manifest.json").exists());
        (published.count() == 2).then_some(())
    });
    let outcome = cloud.imported(datastore);
    assert_eq!(figures(&outcome), [0, 0, 1, 1], "{outcome}");
    assert!(text(&outcome, "NOTES").contains("backups under way"), "{outcome}");
    cloud.script("{}");
    cloud.running(vm);
    assert_eq!(figures(&cloud.imported(datastore)), [0, 0, 2, 0]);
}

#[test]
fn another_installation_takes_up_restic_repositories() {
    for shared in ["NO", "YES"] {
        let wish = format!(
            "NAME=restic\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=\"correct horse\"\nRESTIC_SHARED={shared}\n"
        );
        let old = Cloud::start();
        let datastore = old.id("one.datastore.allocate", &[Text(&wish), Int(-1)]);
        let (one, two) = (old.chained_vm("one"), old.chained_vm("two"));
        for byte in 1..=2 {
            for vm in [one, two] {
                old.write(vm, 0, byte + 2 * u8::try_from(vm).unwrap(), 0, KIB_64);
                old.backup(vm, datastore);
            }
        }
        let points: Vec<_> = [one, two].iter().flat_map(|vm| old.infos(old.backups_of(*vm)[0])).collect();

        let new = Cloud::start();
        let store = new.id("one.datastore.allocate", &[Text(&wish), Int(-1)]);
        let place = |cloud: &Cloud, id: i64| cloud.folder.path().join(format!("datastores/{id}"));
        std::fs::remove_dir_all(place(&new, store)).ok();
        std::fs::create_dir_all(place(&new, store).parent().unwrap()).unwrap();
        copy(&place(&old, datastore), &place(&new, store));
        let outcome = new.imported(store);
        assert_eq!(figures(&outcome), [2, 4, 0, 0], "{shared}: {outcome}");
        let images = new.ids("one.imagepool.info", "IMAGE");
        let taken: Vec<_> =
            images.iter().flat_map(|image| new.infos(*image)).map(|info| text(&info, "POINT")).collect();
        assert_eq!(
            taken.iter().collect::<BTreeSet<_>>(),
            points.iter().map(|info| text(info, "POINT")).collect::<BTreeSet<_>>().iter().collect()
        );
        let image = images.iter().find(|image| text(&new.infos(**image)[1], "POINT") == text(&points[1], "POINT"));
        for (increment, byte) in [(0, 1), (1, 2)] {
            let restored = new.restore(*image.unwrap(), &format!("INCREMENT_ID={increment}\nNAME=r{increment}\n"));
            let disk = PathBuf::from(text(&new.image_in(restored, 1), "SOURCE"));
            qemu_io(&disk, &format!("read -P {byte} 0 {KIB_64}"));
        }
        // VMs and jobs of this installation have other ids.
        let vm = new.chained_vm("three");
        assert!(vm > two);
        new.write(vm, 0, 9, 0, KIB_64);
        new.backup(vm, store);
        new.call("one.image.verify", &[Int(*image.unwrap()), Bool(true), Int(-1)]);
        let seen = infos(&new.verified(*image.unwrap()));
        assert_eq!(seen.iter().map(|info| text(info, "DAMAGES")).collect::<Vec<_>>(), ["0", "0"], "{shared}");
        assert_eq!(figures(&new.imported(store)), [0, 0, 5, 0], "{shared}");
    }
}
