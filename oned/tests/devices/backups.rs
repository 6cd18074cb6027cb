//! Verifications, comparisons of whole disks, and taking up what a datastore holds, over the dummy datastore.

use super::*;

impl Cloud {
    fn backups(&self) -> i64 {
        self.id("one.datastore.allocate", &[Text("NAME=backups\nTYPE=BACKUP_DS\nDS_MAD=dummy\n"), Int(-1)])
    }

    /// A running VM whose backups form chains.
    fn chained_vm(&self, name: &str) -> i64 {
        let image = self.datablock(&format!("{name}-disk"));
        let config = "BACKUP_CONFIG=[MODE=INCREMENT]";
        let template = format!("NAME={name}\nCPU=0.1\nMEMORY=64\nDISK=[IMAGE_ID={image}]\n{config}\n");
        let vm = self.id("one.vm.allocate", &[Text(&template)]);
        self.running(vm);
        vm
    }

    /// Backs a VM up; the image of its chain.
    fn backup(&self, vm: i64, datastore: i64) -> i64 {
        self.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
        let document = self.running(vm);
        assert_eq!(text(&document, "ERROR"), "");
        text(&document, "INCREMENTAL_BACKUP_ID").parse().unwrap()
    }

    /// Waits until nothing is shown under way in an image's document.
    fn verified(&self, image: i64) -> String {
        wait(&format!("the verification of {image}"), || {
            Some(self.image(image)).filter(|document| !document.contains("<VERIFYING>"))
        })
    }

    /// The files of a datastore's disks, by place.
    fn stored_disks(&self, datastore: i64) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.folder.path().join(format!("dummy/datastore-{datastore}"))];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
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

    fn imported(&self, datastore: i64) -> String {
        self.call("one.datastore.importbackups", &[Int(datastore)]);
        self.import_ended(datastore)
    }

    fn import_ended(&self, datastore: i64) -> String {
        wait("the import", || {
            let document = self.call("one.datastore.info", &[Int(datastore)]);
            Some(document).filter(|document| !document.contains("<IMPORTING_BACKUPS>"))
        })
    }

    /// Forgets the images of a datastore behind the daemon's back, as a database of yesterday does.
    fn lose_images(&mut self, datastore: i64) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM increment'); \
                      c.execute('DELETE FROM image WHERE datastore_id = ?', (sys.argv[2],)); c.commit()";
        let database = self.folder.path().join("one.db");
        let done = Command::new("python3").args(["-c", script]).arg(database).arg(datastore.to_string()).status();
        assert!(done.expect("python3 is needed: apt install python3").success());
        self.restart(None);
    }
}

fn infos(document: &str) -> Vec<String> {
    let all = document.split("<INCREMENT_INFO>").skip(1);
    all.map(|rest| rest.split("</INCREMENT_INFO>").next().unwrap().to_owned()).collect()
}

#[test]
fn a_verification_says_what_is_good_and_damage_begins_a_new_chain() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    assert_eq!(cloud.backup(vm, datastore), image);
    cloud.call("one.image.verify", &[Int(image), Bool(true), Int(-1)]);
    let seen = infos(&cloud.verified(image));
    assert_eq!(seen.iter().map(|info| text(info, "DAMAGES")).collect::<Vec<_>>(), ["0", "0"]);
    assert!(seen.iter().all(|info| text(info, "VERIFY_DEPTH") == "DEEP"), "{seen:?}");

    for file in cloud.stored_disks(datastore) {
        std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(512).unwrap();
    }
    cloud.call("one.image.verify", &[Int(image), Bool(false), Int(1)]);
    let document = cloud.verified(image);
    let seen = infos(&document);
    assert_eq!((text(&seen[0], "DAMAGES").as_str(), text(&seen[1], "DAMAGES").as_str()), ("0", "1"));
    assert!(document.contains("<INCREMENT_DAMAGE>") && text(&document, "STATE") == "1", "{document}");
    let next = cloud.backup(vm, datastore);
    assert_ne!(next, image);
    assert!(text(&infos(&cloud.image(next))[0], "REASON").contains("verification found damage"));
}

#[test]
fn every_nth_run_compares_whole_disks_and_stays_an_increment() {
    let cloud = Cloud::start_with("BACKUP_COMPARE_EVERY = 2\n");
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    for _ in 0..4 {
        assert_eq!(cloud.backup(vm, datastore), image);
    }
    let compared: Vec<_> = infos(&cloud.image(image)).iter().map(|info| text(info, "COMPARED")).collect();
    assert_eq!(compared, ["", "", "YES", "", "YES"]);
}

#[test]
fn backups_that_the_database_lost_are_taken_up_once() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    cloud.backup(vm, datastore);
    let before = cloud.image(image);
    assert_eq!(text(&cloud.imported(datastore), "KNOWN"), "2");
    cloud.lose_images(datastore);
    let outcome = cloud.imported(datastore);
    let figures = ["IMAGES", "POINTS", "KNOWN", "LEFT_OUT"].map(|name| text(&outcome, name));
    assert_eq!(figures[1..], ["2", "0", "0"], "{outcome}");
    let made = *cloud.ids("one.imagepool.info", "IMAGE").last().unwrap();
    let after = cloud.image(made);
    for name in ["NAME", "UNAME", "SIZE", "SOURCE", "STATE"] {
        assert_eq!(text(&after, name), text(&before, name), "{name}");
    }
    assert!(after.contains(&format!("<VMS><ID>{vm}</ID></VMS>")), "{after}");
    assert_eq!(infos(&after).len(), 2);
    assert_eq!(text(&cloud.imported(datastore), "KNOWN"), "2", "repeating it changes nothing");

    // What came back can be restored, and the VM goes on with a chain of its own.
    let restored = cloud.call("one.image.restore", &[Int(made), Int(1), Text("DISK_ID=0\nSKIP_BAD=YES\n")]);
    cloud.image_in(restored.split(' ').nth(1).unwrap().parse().unwrap(), 1);
    cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(true)]);
    cloud.running(vm);
}

#[test]
fn a_daemon_killed_while_it_verifies_or_takes_up_backups_goes_on() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    cloud.restart(Some("verify.looked"));
    cloud.ask("one.image.verify", &[Int(image), Bool(true), Int(-1)]);
    wait("the crash", || cloud.is_dead().then_some(()));
    cloud.restart(None);
    assert_eq!(text(&infos(&cloud.verified(image))[0], "DAMAGES"), "0");

    cloud.lose_images(datastore);
    cloud.restart(Some("catalogue.chain"));
    cloud.ask("one.datastore.importbackups", &[Int(datastore)]);
    wait("the crash", || cloud.is_dead().then_some(()));
    cloud.restart(None);
    let outcome = cloud.import_ended(datastore);
    assert_eq!((text(&outcome, "POINTS").as_str(), text(&outcome, "LEFT_OUT").as_str()), ("1", "0"), "{outcome}");
    cloud.is_tidy();
}
