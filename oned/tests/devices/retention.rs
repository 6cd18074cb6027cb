//! KEEP_LAST over the dummy datastore: what users see of a shortened chain, whatever KEEP_LAST becomes; and that a prune
//! stands in nobody's way, fails aloud, and is made up for.

use super::backups::{KIB_64, number, qemu_io};
use super::*;

pub(crate) const FORGET_HELD: &str = "{\"rules\":[{\"operation\":\"forget\",\"until_cancelled\":true}]}";

fn forget_fails(kind: &str) -> String {
    format!(
        "{{\"rules\":[{{\"operation\":\"forget\",\"fail\":{{\"kind\":\"{kind}\",\"reason\":\"the shelf is stuck\"}}}}]}}"
    )
}

/// One element of each increment of a chain as its image lists them.
fn increments(document: &str, element: &str) -> Vec<String> {
    let list = document.split("<BACKUP_INCREMENTS>").nth(1).unwrap().split("</BACKUP_INCREMENTS>").next().unwrap();
    list.split("<INCREMENT>").skip(1).map(|increment| text(increment, element)).collect()
}

impl Cloud {
    fn keep(&self, vm: i64, keep_last: i64) {
        let config = format!("BACKUP_CONFIG=[KEEP_LAST={keep_last}]");
        self.call("one.vm.updateconf", &[Int(vm), Text(&config), Int(1)]);
    }

    /// Writes `byte` at the beginning of the guest's disk and backs it up.
    fn backup_of(&self, vm: i64, datastore: i64, byte: u8) -> i64 {
        self.write(vm, 0, byte, 0, KIB_64);
        self.backup(vm, datastore)
    }

    /// Waits until a chain has these increments.
    #[track_caller]
    fn chain_is(&self, image: i64, ids: &[&str]) -> String {
        wait(&format!("increments {ids:?} in image {image}"), || {
            Some(self.image(image)).filter(|document| increments(document, "ID") == ids)
        })
    }

    /// An increment still holds what was written before it was made.
    fn holds(&self, image: i64, increment: &str, byte: u8) {
        let restored = self.restore(image, &format!("INCREMENT_ID={increment}\nNAME=r-{image}-{increment}-{byte}\n"));
        let disk = PathBuf::from(text(&self.image_in(restored, 1), "SOURCE"));
        qemu_io(&disk, &format!("read -P {byte} 0 {KIB_64}"));
        self.call("one.image.delete", &[Int(restored), Bool(false)]);
        wait("the restored image to go", || self.ask("one.image.info", &[Int(restored)]).filter(|(done, _)| !done));
    }
}

#[test]
fn a_chain_is_shown_as_the_original_shows_it_whatever_keep_last_becomes() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 1, "MODE=INCREMENT,KEEP_LAST=30"));
    let image = (1..=6).fold(-1, |_, byte| cloud.backup_of(vm, datastore, byte));
    let before = cloud.chain_is(image, &["0", "1", "2", "3", "4", "5"]);
    let sources = increments(&before, "SOURCE");
    assert_eq!(text(&before, "SOURCE"), sources[0]);

    // Lowered: the next backup shortens the chain to what is wanted now.
    cloud.keep(vm, 3);
    assert_eq!(increments(&cloud.image(image), "ID").len(), 6, "nothing goes before the next backup");
    cloud.backup_of(vm, datastore, 7);
    let after = cloud.chain_is(image, &["4", "5", "6"]);
    assert_eq!(increments(&after, "TYPE"), ["FULL", "INCREMENT", "INCREMENT"]);
    assert_eq!(increments(&after, "PARENT_ID"), ["-1", "4", "5"]);
    assert_eq!(increments(&after, "SOURCE")[..2], sources[4..]);
    assert_eq!(text(&after, "SOURCE"), sources[4]);
    let sizes: u64 = increments(&after, "SIZE").iter().map(|size| size.parse::<u64>().unwrap()).sum();
    assert_eq!(number(&after, "SIZE"), sizes);
    assert_eq!((text(&after, "STATE"), cloud.infos(image).len()), ("1".into(), 3));
    let document = cloud.vm(vm);
    assert_eq!(
        (text(&document, "INCREMENTAL_BACKUP_ID"), text(&document, "LAST_INCREMENT_ID")),
        (image.to_string(), "6".into())
    );
    assert_eq!(cloud.backups_of(vm), [image]);
    for (increment, byte) in [("4", 5), ("5", 6), ("6", 7)] {
        cloud.holds(image, increment, byte);
    }

    // Raised, and 0: it grows. 1: the last one alone, and the next one is an increment of it.
    cloud.keep(vm, 5);
    cloud.backup_of(vm, datastore, 8);
    cloud.chain_is(image, &["4", "5", "6", "7"]);
    cloud.keep(vm, 0);
    for byte in 9..=10 {
        cloud.backup_of(vm, datastore, byte);
    }
    cloud.chain_is(image, &["4", "5", "6", "7", "8", "9"]);
    cloud.keep(vm, 1);
    cloud.backup_of(vm, datastore, 11);
    let one = cloud.chain_is(image, &["10"]);
    assert_eq!(
        (increments(&one, "TYPE"), increments(&one, "PARENT_ID")),
        (vec!["FULL".to_owned()], vec!["-1".to_owned()])
    );
    cloud.backup_of(vm, datastore, 12);
    cloud.chain_is(image, &["11"]);
    assert_eq!(cloud.stored_disks(datastore).len(), 1);
    cloud.holds(image, "11", 12);
    cloud.is_tidy();
}

#[test]
fn full_backups_in_several_datastores_are_counted_together() {
    let cloud = Cloud::start();
    let first = cloud.backups();
    let second = cloud.id("one.datastore.allocate", &[Text("NAME=more\nTYPE=BACKUP_DS\nDS_MAD=dummy\n"), Int(-1)]);
    let vm = cloud.vm_with("one", 1, "MODE=FULL,KEEP_LAST=3");
    let backup = |datastore: i64| {
        cloud.backup_anyhow(vm, datastore);
        *cloud.backups_of(vm).iter().max().unwrap()
    };
    let are = |left: &[i64]| wait(&format!("{left:?} to be left"), || (cloud.backups_of(vm) == left).then_some(()));
    let made: Vec<i64> = [first, second, first].into_iter().map(backup).collect();
    are(&made);
    let fourth = backup(second);
    are(&[made[1], made[2], fourth]);
    cloud.keep(vm, 1);
    let fifth = backup(first);
    are(&[fifth]);
    assert_eq!((cloud.stored_disks(first).len(), cloud.stored_disks(second).len()), (1, 0));
    cloud.keep(vm, 0);
    let sixth = backup(second);
    are(&[fifth, sixth]);
}

#[test]
fn while_a_chain_is_shortened_it_is_ready_and_restored_from_and_the_next_backup_waits() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 1, "MODE=INCREMENT,KEEP_LAST=2"));
    cloud.backup_of(vm, datastore, 1);
    let image = cloud.backup_of(vm, datastore, 2);
    cloud.script(FORGET_HELD);
    cloud.backup_of(vm, datastore, 3);
    wait("the prune to be shown", || cloud.image(image).contains("<PROGRESS>").then_some(()));
    // Nothing is locked, and no flag stops anybody.
    let document = cloud.chain_is(image, &["0", "1", "2"]);
    assert_eq!(text(&document, "STATE"), "1");
    assert!(!cloud.vm(vm).contains("ACTIVE_FLATTEN"), "{}", cloud.vm(vm));
    let refused = cloud.ask("one.image.delete", &[Int(image), Bool(false)]).unwrap();
    assert!(!refused.0 && refused.1.contains("Active backup on the associated VM"), "{}", refused.1);
    let restored: Vec<i64> = ["1", "2"]
        .iter()
        .map(|increment| cloud.restore(image, &format!("INCREMENT_ID={increment}\nNAME=r{increment}\n")))
        .collect();
    for (id, byte) in restored.into_iter().zip([2, 3]) {
        qemu_io(&PathBuf::from(text(&cloud.image_in(id, 1), "SOURCE")), &format!("read -P {byte} 0 {KIB_64}"));
    }

    // A backup is taken and waits for its turn, without a point in time; so it can be given up on the spot.
    cloud.script(
        "{\"rules\":[{\"operation\":\"forget\",\"until_cancelled\":true},\
         {\"operation\":\"begin_backup\",\"fail\":{\"kind\":\"permanent\",\"reason\":\"it did not wait\"}}]}",
    );
    let wait_for_turn = |name: &str| {
        cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
        // Whatever is begun after it comes to its end before it.
        cloud.image_in(cloud.restore(image, &format!("NAME={name}\n")), 1);
        cloud.rests(vm, 3, 69);
    };
    wait_for_turn("meanwhile");
    cloud.call("one.vm.backupcancel", &[Int(vm)]);
    assert!(text(&cloud.running(vm), "ERROR").contains("cancelled on request"));
    cloud.write(vm, 0, 4, 0, KIB_64);
    wait_for_turn("then");
    cloud.is_tidy();
    cloud.script("{}");
    cloud.running(vm);
    cloud.chain_is(image, &["2", "3"]);
    cloud.holds(image, "2", 3);
    cloud.holds(image, "3", 4);
}

#[test]
fn a_prune_cut_off_in_the_middle_is_finished_at_the_next_start() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 1, "MODE=INCREMENT,KEEP_LAST=30"));
    let image = (1..=4).fold(-1, |_, byte| cloud.backup_of(vm, datastore, byte));
    cloud.keep(vm, 2);
    cloud.script(FORGET_HELD);
    cloud.backup_of(vm, datastore, 5);
    wait("the prune to begin", || cloud.image(image).contains("<PROGRESS>").then_some(()));
    // Of the three points that were to go, one is gone.
    let gone = cloud.point(datastore, vm, &cloud.infos(image)[1]);
    std::fs::remove_dir_all(gone).unwrap();
    let _ = cloud.child.kill();
    cloud.child.wait().unwrap();
    cloud.script("{}");
    cloud.restart(None);
    let document = cloud.chain_is(image, &["3", "4"]);
    assert_eq!((increments(&document, "TYPE")[0].as_str(), text(&document, "ERROR").as_str()), ("FULL", ""));
    assert_eq!(cloud.stored_disks(datastore).len(), 2);
    cloud.holds(image, "3", 4);
    cloud.holds(image, "4", 5);
}

#[test]
fn a_prune_that_fails_leaves_the_chain_longer_and_says_so_until_a_later_backup_makes_up_for_it() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 1, "MODE=INCREMENT,KEEP_LAST=2"));
    cloud.backup_of(vm, datastore, 1);
    let image = cloud.backup_of(vm, datastore, 2);
    let error = |part: &str| {
        wait(&format!("an error with {part:?}"), || {
            Some(text(&cloud.image(image), "ERROR")).filter(|error| error.contains(part))
        })
    };
    // For good; the backup itself is well, and the chain can be built upon.
    cloud.script(&forget_fails("permanent"));
    cloud.backup_of(vm, datastore, 3);
    assert!(error("KEEP_LAST: ").contains("the shelf is stuck"));
    let document = cloud.chain_is(image, &["0", "1", "2"]);
    assert_eq!((text(&document, "STATE").as_str(), increments(&document, "TYPE")[0].as_str()), ("1", "FULL"));
    cloud.holds(image, "0", 1);
    // For now: it says so too, and goes on at once when a backup shows that the datastore is there.
    cloud.script(&forget_fails("retry"));
    cloud.backup_of(vm, datastore, 4);
    error("KEEP_LAST: the chain is not shortened yet");
    cloud.chain_is(image, &["0", "1", "2", "3"]);
    cloud.script("{}");
    cloud.backup_of(vm, datastore, 5);
    wait("the older prune to be done", || (increments(&cloud.image(image), "ID").len() < 5).then_some(()));
    // What was added meanwhile goes with the next one.
    cloud.backup_of(vm, datastore, 6);
    let document = cloud.chain_is(image, &["4", "5"]);
    assert_eq!(text(&document, "ERROR"), "");
    cloud.holds(image, "4", 5);
    cloud.holds(image, "5", 6);
    assert_eq!(cloud.stored_disks(datastore).len(), 2);
}

impl Cloud {
    /// Adds an action that backs a VM up once, at a time that does not come.
    fn plan(&self, vm: i64, datastore: i64, keep_last: i64) -> i64 {
        let text = format!("SCHED_ACTION=[ACTION=backup,ARGS=\"{datastore}\",TIME=9999999999,KEEP_LAST={keep_last}]");
        self.id("one.vm.schedadd", &[Int(vm), Text(&text)])
    }

    /// Lets the scheduler run an action; `time` is another one in the past each time.
    fn run_planned(&self, vm: i64, action: i64, time: i64) {
        let events = || self.call("one.vm.events", &[Int(vm), Int(-1)]).matches("<![CDATA[DONE]]>").count();
        let before = events();
        let text = format!("SCHED_ACTION=[TIME={time}]");
        self.call("one.vm.schedupdate", &[Int(vm), Int(action), Text(&text)]);
        wait("the action to have run", || (events() > before).then_some(()));
        self.running(vm);
    }
}

#[test]
fn two_schedules_with_a_keep_last_each_keep_their_own_of_one_chain_and_of_full_backups() {
    let cloud = Cloud::start();
    let datastore = cloud.backups();
    // By hand, daily, weekly, daily, daily, weekly, daily.
    let runs = |cloud: &Cloud, vm: i64| {
        let (daily, weekly) = (cloud.plan(vm, datastore, 2), cloud.plan(vm, datastore, 1));
        for (time, action) in (1_700_000_000..).zip([daily, weekly, daily, daily, weekly, daily]) {
            cloud.run_planned(vm, action, time);
        }
    };
    let chained = cloud.vm_with("one", 1, "MODE=INCREMENT,KEEP_LAST=1");
    let image = cloud.backup_of(chained, datastore, 1);
    runs(&cloud, chained);
    let document = cloud.chain_is(image, &["0", "4", "5", "6"]);
    assert_eq!(increments(&document, "PARENT_ID"), ["-1", "0", "4", "5"]);
    assert_eq!(increments(&document, "TYPE"), ["FULL", "INCREMENT", "INCREMENT", "INCREMENT"]);
    assert_eq!(cloud.stored_disks(datastore).len(), 4);
    cloud.holds(image, "5", 1);

    let full = cloud.vm_with("two", 1, "MODE=FULL,KEEP_LAST=1");
    cloud.backup_anyhow(full, datastore);
    let by_hand = cloud.backups_of(full)[0];
    runs(&cloud, full);
    wait("four full backups to be left", || {
        let left = cloud.backups_of(full);
        (left.len() == 4 && left.contains(&by_hand)).then_some(())
    });
}
