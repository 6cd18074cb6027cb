//! Backups that are given up: cancelled at every step, and recovered by each of the operations of one.vm.recover. Each time
//! nothing of them is left, wherever they were.

use super::*;

const OWNER: &str = "owner";

/// A script that holds one operation, before or after its work.
fn hold(operation: &str, when: &str) -> String {
    format!("{{\"rules\":[{{\"operation\":\"{operation}\",\"when\":\"{when}\",\"until_cancelled\":true}}]}}")
}

impl Cloud {
    /// A user whose quotas count, for administrators' do not.
    fn owner(&self) -> i64 {
        self.id("one.user.allocate", &[Text(OWNER), Text("secret"), Text("core")])
    }

    /// A running VM of a user's with a chain of one point.
    fn backed_up(&self, name: &str, datastore: i64, owner: i64) -> (i64, i64) {
        let vm = self.chained_vm(name);
        self.call("one.vm.chown", &[Int(vm), Int(owner), Int(1)]);
        let image = self.backup(vm, datastore);
        (vm, image)
    }

    fn ask_backup(&self, vm: i64, datastore: i64) {
        self.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
    }

    /// What a user has taken of all datastores; empty = nothing.
    fn used(&self, owner: i64) -> String {
        let document = self.call("one.user.info", &[Int(owner)]);
        let quota = document.split("<DATASTORE_QUOTA>").nth(1).and_then(|rest| rest.split("</DATASTORE_QUOTA>").next());
        quota.unwrap_or_default().to_owned()
    }

    /// The dummy hypervisor's records of what changed, of all domains.
    pub(crate) fn all_checkpoints(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.folder.path().join("dummy")];
        while let Some(folder) = open.pop() {
            let is_theirs = folder.file_name().is_some_and(|name| name == "checkpoints");
            for path in entries(&folder) {
                if path.is_dir() {
                    open.push(path);
                } else if is_theirs {
                    found.push(path.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        found
    }

    /// Waits until a backup job is in this phase, as the daemon's log tells nothing of it but its session does: the guest's
    /// disk has its scratch file.
    pub(crate) fn is_begun(&self, vm: i64) {
        let folder = self.disk_file(vm, 0).parent().unwrap().to_owned();
        wait("the backup to begin", || {
            let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
            files.into_iter().any(|name| name.to_string_lossy().contains(".scratch-")).then_some(())
        });
    }
}

/// What must be as before when a backup was given up.
#[derive(Debug, PartialEq)]
struct Standing {
    points: Vec<PathBuf>,
    checkpoints: Vec<String>,
    used: String,
    images: Vec<i64>,
}

fn standing(cloud: &Cloud, datastore: i64, owner: i64) -> Standing {
    Standing {
        points: cloud.stored_disks(datastore),
        checkpoints: cloud.all_checkpoints(),
        used: cloud.used(owner),
        images: cloud.ids("one.imagepool.info", "IMAGE"),
    }
}

/// Waits until all is as it was.
#[track_caller]
fn comes_back_to(before: &Standing, cloud: &Cloud, datastore: i64, owner: i64, what: &str) {
    comes_to(cloud, datastore, owner, &format!("{what} to be as before: {before:#?}"), |now| now == before);
    cloud.is_tidy();
}

/// Waits until what stands is as asked.
#[track_caller]
fn comes_to(cloud: &Cloud, datastore: i64, owner: i64, what: &str, is_so: impl Fn(&Standing) -> bool) {
    let until = Instant::now() + WITHIN;
    loop {
        let now = standing(cloud, datastore, owner);
        if is_so(&now) {
            return;
        }
        assert!(Instant::now() < until, "waited in vain for {what}\nnow {now:#?}\n{}", cloud.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_backup_is_cancelled_at_every_step_before_it_is_recorded_and_leaves_nothing() {
    let cloud = Cloud::start();
    let (datastore, owner) = (cloud.backups(), cloud.owner());
    let (vm, image) = cloud.backed_up("one", datastore, owner);
    let before = standing(&cloud, datastore, owner);
    let pointers = |document: &str| (text(document, "INCREMENTAL_BACKUP_ID"), text(document, "LAST_INCREMENT_ID"));
    // Held where nothing but the cancel ends it: in the datastore before and after the copy of a disk, at its publication
    // before and after, and in the source, which stands still for a minute.
    for (operation, when) in [
        ("store", "before"),
        ("store_disk", "before"),
        ("read_disk", "before"),
        ("extents", "before"),
        ("store_disk", "after"),
        ("seal", "before"),
        ("seal", "after"),
        ("store", "after"),
    ] {
        let what = format!("{when} {operation}");
        cloud.write(vm, 0, 7, 0, 1 << 16);
        cloud.script(&hold(operation, when));
        cloud.ask_backup(vm, datastore);
        cloud.is_begun(vm);
        cloud.call("one.vm.backupcancel", &[Int(vm)]);
        let document = cloud.running(vm);
        assert!(text(&document, "ERROR").contains("BACKUP: cancelled on request"), "{what}: {document}");
        assert_eq!(pointers(&document), (image.to_string(), "0".into()), "{what}");
        cloud.script("{}");
        comes_back_to(&before, &cloud, datastore, owner, &what);
    }
    // Not while the hypervisor makes the point in time: the cancel is obeyed when it has answered.
    cloud.script(&hold("begin_backup", "before"));
    cloud.ask_backup(vm, datastore);
    // Still in the queue it would be given up at once.
    wait("the job to be at work", || cloud.vm(vm).contains("<PROGRESS>").then_some(()));
    cloud.call("one.vm.backupcancel", &[Int(vm)]);
    cloud.rests(vm, 3, 69);
    cloud.script("{}");
    assert!(text(&cloud.running(vm), "ERROR").contains("cancelled on request"));
    comes_back_to(&before, &cloud, datastore, owner, "begin_backup");
    // And the next one is an increment of the chain.
    assert_eq!(cloud.backup(vm, datastore), image);
    assert_eq!(cloud.infos(image).len(), 2);
}

#[test]
fn a_backup_that_waits_in_the_queue_is_cancelled_at_once() {
    let cloud = Cloud::start_with("MAX_BACKUPS = 1\n");
    let (datastore, owner) = (cloud.backups(), cloud.owner());
    let (first, _) = cloud.backed_up("first", datastore, owner);
    let (second, _) = cloud.backed_up("second", datastore, owner);
    let before = standing(&cloud, datastore, owner);
    cloud.script(&hold("store", "before"));
    cloud.ask_backup(first, datastore);
    cloud.is_begun(first);
    cloud.ask_backup(second, datastore);
    cloud.rests(second, 3, 69);
    cloud.call("one.vm.backupcancel", &[Int(second)]);
    assert!(text(&cloud.running(second), "ERROR").contains("cancelled on request"));
    cloud.rests(first, 3, 69);
    cloud.call("one.vm.backupcancel", &[Int(first)]);
    cloud.running(first);
    cloud.script("{}");
    comes_back_to(&before, &cloud, datastore, owner, "the queue");
}

#[test]
fn a_cancel_that_comes_when_the_backup_is_complete_is_taken_and_the_backup_stays() {
    let cloud = Cloud::start();
    let (datastore, owner) = (cloud.backups(), cloud.owner());
    let (vm, image) = cloud.backed_up("one", datastore, owner);
    // Sealed, the guest is being let go; the VM is still in BACKUP.
    cloud.script(&hold("end_backup", "before"));
    cloud.ask_backup(vm, datastore);
    wait("the point to be published", || (cloud.stored_disks(datastore).len() == 2).then_some(()));
    wait("the job to be sealed", || cloud.is_sealed().then_some(()));
    cloud.call("one.vm.backupcancel", &[Int(vm)]);
    cloud.script("{}");
    assert_eq!(text(&cloud.running(vm), "ERROR"), "");
    assert_eq!(cloud.infos(image).len(), 2);
    // Recorded, checkpoints are being removed; the VM is back already.
    cloud.script(&hold("checkpoints", "before"));
    cloud.ask_backup(vm, datastore);
    cloud.running(vm);
    wait("the third point", || (cloud.infos(image).len() == 3).then_some(()));
    let (done, said) = cloud.ask("one.vm.backupcancel", &[Int(vm)]).unwrap();
    assert!(!done && said.contains(&format!("Could not cancel backup for VM {vm}, no backup in progress")), "{said}");
    cloud.script("{}");
    assert_eq!(cloud.backup(vm, datastore), image);
    wait("one checkpoint to be left", || (cloud.all_checkpoints().len() == 1).then_some(()));
    cloud.is_tidy();
}

impl Cloud {
    /// Whether a backup's job says that its point is complete.
    fn is_sealed(&self) -> bool {
        self.count("job WHERE kind = 'BACKUP' AND phase = 'sealed'") == 1
    }

    /// How many rows of the daemon's database there are.
    pub(crate) fn count(&self, rows: &str) -> u64 {
        let query = "import sqlite3, sys\n\
                     base = sqlite3.connect('file:%s?mode=ro' % sys.argv[1], uri=True)\n\
                     print(base.execute('SELECT count(*) FROM ' + sys.argv[2]).fetchone()[0])";
        let database = self.folder.path().join("one.db");
        let done = Command::new("python3").args(["-c", query]).arg(database).arg(rows).output();
        let done = done.expect("python3 is needed: apt install python3");
        // The daemon may be writing just now.
        String::from_utf8(done.stdout).unwrap().trim().parse().unwrap_or(u64::MAX)
    }
}

/// The operations of one.vm.recover with their numbers, and STATE of the VM afterwards; none = as before the backup.
const OPERATIONS: [(&str, i64, Option<i64>); 6] = [
    ("failure", 0, None),
    ("success", 1, None),
    ("retry", 2, None),
    ("delete", 3, Some(6)),
    ("recreate", 4, Some(3)),
    ("delete-db", 5, Some(6)),
];

#[test]
fn recovering_a_vm_in_backup_ends_the_backup_as_each_operation_says_and_leaves_nothing_of_it() {
    let cloud = Cloud::start();
    let (datastore, owner) = (cloud.backups(), cloud.owner());
    for is_off in [false, true] {
        for (word, operation, state) in OPERATIONS {
            let what = format!("{word}-{is_off}");
            let (vm, image) = cloud.backed_up(&what, datastore, owner);
            if is_off {
                cloud.power_off(vm);
            }
            let back = |vm: i64| if is_off { cloud.off(vm) } else { cloud.running(vm) };
            let before = standing(&cloud, datastore, owner);
            cloud.script(&hold("store", "before"));
            cloud.ask_backup(vm, datastore);
            cloud.rests(vm, 3, if is_off { 70 } else { 69 });
            cloud.is_begun(vm);
            cloud.call("one.vm.recover", &[Int(vm), Int(operation)]);
            if word == "retry" {
                // There is nothing to try again: it goes on.
                cloud.rests(vm, 3, if is_off { 70 } else { 69 });
                cloud.script("{}");
                let document = back(vm);
                assert_eq!((text(&document, "ERROR"), cloud.infos(image).len()), (String::new(), 2), "{what}");
                continue;
            }
            match state {
                None => {
                    let document = back(vm);
                    assert_eq!(text(&document, "INCREMENTAL_BACKUP_ID"), image.to_string(), "{what}");
                    assert!(!document.contains("LAST_DATASTORE_ID"), "{what}: {document}");
                }
                Some(6) => drop(cloud.rests(vm, 6, 0)),
                Some(_) => drop(cloud.running(vm)),
            }
            // A VM that is deleted is DONE before its backup has heard of it: let go on now, it might still be completed.
            let open = "job WHERE kind = 'BACKUP' AND phase NOT IN ('done', 'failed', 'cancelled')";
            wait(&format!("{what} to end the backup"), || (cloud.count(open) == 0).then_some(()));
            cloud.script("{}");
            if state.is_none() {
                comes_back_to(&before, &cloud, datastore, owner, &what);
                // It can be backed up on.
                cloud.ask_backup(vm, datastore);
                back(vm);
                assert_eq!(cloud.infos(image).len(), 2, "{what}");
            } else {
                // A VM that is gone, or new, has other records of what changed; its backups stay.
                comes_to(&cloud, datastore, owner, &format!("{what} to leave nothing: {before:#?}"), |now| {
                    now.points == before.points && now.images == before.images && now.used == before.used
                });
                assert_eq!((text(&cloud.image(image), "STATE").as_str(), cloud.infos(image).len()), ("1", 1), "{what}");
                wait(&format!("{what} to be tidy"), || (cloud.scratch_files() == 0).then_some(()));
            }
        }
    }
    cloud.is_tidy();
}

impl Cloud {
    fn scratch_files(&self) -> usize {
        let mut count = 0;
        let mut open = vec![self.folder.path().join("datastores")];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                count += usize::from(name.contains(".scratch-"));
                if entry.path().is_dir() {
                    open.push(entry.path());
                }
            }
        }
        count
    }
}

#[test]
fn success_keeps_what_the_datastore_had_completed() {
    let cloud = Cloud::start();
    let (datastore, owner) = (cloud.backups(), cloud.owner());
    let (vm, image) = cloud.backed_up("one", datastore, owner);
    for (operation, points) in [(1, 2), (0, 3)] {
        cloud.script(&hold("end_backup", "before"));
        cloud.ask_backup(vm, datastore);
        wait("the job to be sealed", || cloud.is_sealed().then_some(()));
        cloud.call("one.vm.recover", &[Int(vm), Int(operation)]);
        cloud.script("{}");
        // A complete restore point harms nobody, so failure keeps it as well.
        assert_eq!(text(&cloud.running(vm), "ERROR"), "");
        assert_eq!(cloud.infos(image).len(), points);
    }
    let (done, said) = cloud.ask("one.vm.recover", &[Int(vm), Int(6)]).unwrap();
    assert!(!done && said.contains("Wrong recovery operation code"), "{said}");
    cloud.is_tidy();
}

#[test]
fn a_backup_image_is_deleted_or_shows_why_not_and_outlives_its_vm() {
    let cloud = Cloud::start();
    let (datastore, owner) = (cloud.backups(), cloud.owner());
    let (vm, image) = cloud.backed_up("one", datastore, owner);
    let delete = |image: i64, force: bool| cloud.ask("one.image.delete", &[Int(image), Bool(force)]).unwrap();
    let gone = |image: i64| {
        wait("the image to go", || cloud.ask("one.image.info", &[Int(image)]).filter(|(done, _)| !done));
    };
    let fails =
        "{\"rules\":[{\"operation\":\"forget\",\"fail\":{\"kind\":\"permanent\",\"reason\":\"the door is shut\"}}]}";
    cloud.script(fails);
    assert!(delete(image, false).0);
    let document = cloud.image_in(image, 5);
    assert!(text(&document, "ERROR").contains("the door is shut"), "{document}");
    // The chain is not continued once its end was asked for; what is in ERROR is not restored, and is still the VM's.
    let chain = |document: &str| (text(document, "INCREMENTAL_BACKUP_ID"), text(document, "LAST_INCREMENT_ID"));
    assert_eq!(chain(&cloud.vm(vm)), ("-1".into(), "-1".into()));
    assert_eq!(cloud.backups_of(vm), [image]);
    // Again, when the reason is gone.
    cloud.script("{}");
    assert!(delete(image, false).0);
    gone(image);
    assert_eq!(cloud.stored_disks(datastore), Vec::<PathBuf>::new());
    assert!(!cloud.vm(vm).contains(&format!("<ID>{image}</ID></BACKUP_IDS>")), "{}", cloud.vm(vm));
    assert_eq!(cloud.used(owner), "");

    // A new chain; with force the record goes whatever the datastore says.
    let second = cloud.backup(vm, datastore);
    assert!(second != image && text(&cloud.infos(second)[0], "REASON").contains("no active chain"));
    cloud.script(fails);
    assert!(delete(second, false).0);
    cloud.image_in(second, 5);
    assert!(delete(second, true).0);
    gone(second);
    assert_eq!(cloud.stored_disks(datastore).len(), 1, "files may remain");
    cloud.script("{}");

    // The end of the VM is not that of its backups.
    let third = cloud.backup(vm, datastore);
    cloud.call("one.vm.action", &[Text("terminate-hard"), Int(vm)]);
    cloud.rests(vm, 6, 0);
    let document = cloud.image(third);
    assert_eq!((text(&document, "STATE").as_str(), cloud.backups_of(vm)), ("1", vec![third]));
    assert!(document.contains(&format!("<VMS><ID>{vm}</ID></VMS>")), "{document}");
    cloud.image_in(cloud.restore(third, ""), 1);
    assert!(delete(third, false).0);
    gone(third);
    cloud.is_tidy();
}
