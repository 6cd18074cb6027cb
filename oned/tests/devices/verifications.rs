//! Verifications over the dummy datastore: what they say, how they are ended and interrupted, and that they go on.

use super::backups::{KIB_64, damage, infos, number};
use super::*;

/// A script with one rule.
fn rule(rule: &str) -> String {
    format!("{{\"rules\":[{{{rule}}}]}}")
}

impl Cloud {
    /// Waits until nothing is shown under way in an image's document.
    #[track_caller]
    pub(crate) fn verified(&self, image: i64) -> String {
        wait(&format!("the verification of {image}"), || {
            Some(self.image(image)).filter(|document| !document.contains("<VERIFYING>"))
        })
    }

    fn verify(&self, image: i64) {
        self.call("one.image.verify", &[Int(image), Bool(true), Int(-1)]);
    }

    /// The job that is verifying an image.
    fn verifying(&self, image: i64) -> String {
        let document = self.image(image);
        assert!(document.contains("<VERIFYING>"), "{document}");
        text(document.split("<VERIFYING>").nth(1).unwrap(), "JOB")
    }

    /// No verification comes to its end until the next script.
    fn hold_verifications(&self) {
        self.script(&rule("\"operation\":\"verify_disk\",\"until_cancelled\":true"));
    }

    /// Ends the daemon as an administrator does, and starts it again.
    fn stop_and_start(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        wait("the daemon's end", || self.is_dead().then_some(()));
        self.restart(None);
    }
}

#[test]
fn a_verification_says_what_is_good_and_damage_begins_a_new_chain() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    assert_eq!(cloud.backup(vm, datastore), image);
    cloud.verify(image);
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
fn each_restore_point_shows_its_own_damage() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 7, 0, 16 * KIB_64);
    let image = cloud.backup(vm, datastore);
    cloud.backup(vm, datastore);
    let points = cloud.infos(image);
    damage(&cloud.point(datastore, vm, &points[0]).join("disk.0"), 5 * KIB_64);
    std::fs::remove_dir_all(cloud.point(datastore, vm, &points[1])).unwrap();
    cloud.verify(image);
    let document = cloud.verified(image);
    let damages: Vec<_> = document.split("<INCREMENT_DAMAGE>").skip(1).collect();
    let (of_disk, lost) = (damages[0], damages[1]);
    assert_eq!((number(of_disk, "ID"), number(of_disk, "DISK"), number(of_disk, "OFFSET")), (0, 0, 5 * KIB_64));
    assert_eq!((number(lost, "ID"), text(lost, "WHAT").as_str()), (1, "the restore point is not in the datastore"));
    assert_eq!(infos(&document).iter().map(|info| text(info, "DAMAGES")).collect::<Vec<_>>(), ["1", "1"]);
}

#[test]
fn a_verification_goes_on_where_it_was_saved() {
    let mut cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 3, "MODE=INCREMENT"));
    for disk in 0..3 {
        cloud.write(vm, disk, 7, 0, 16 * KIB_64);
    }
    let image = cloud.backup(vm, datastore);
    cloud.verify(image);
    let in_one_go = infos(&cloud.verified(image)).remove(0);

    // It is saved after each disk, and each daemon dies over the first time.
    cloud.restart(Some("verify.saved"));
    cloud.ask("one.image.verify", &[Int(image), Bool(true), Int(-1)]);
    wait("the first crash", || cloud.is_dead().then_some(()));
    // This one may die before it tells its address.
    cloud.child = spawn(cloud.folder.path(), Some("verify.saved"));
    wait("the second crash", || cloud.is_dead().then_some(()));
    cloud.script(&rule(
        "\"operation\":\"verify_disk\",\"call\":2,\"fail\":{\"kind\":\"permanent\",\"reason\":\"a disk was read again\"}",
    ));
    cloud.restart(None);
    let document = cloud.verified(image);
    let piecewise = infos(&document).remove(0);
    assert_eq!(text(&document, "ERROR"), "");
    assert_ne!(text(&piecewise, "VERIFY_JOB"), text(&in_one_go, "VERIFY_JOB"));
    assert_eq!(
        (number(&piecewise, "VERIFY_BYTES"), number(&piecewise, "DAMAGES")),
        (number(&in_one_go, "VERIFY_BYTES"), 0)
    );
}

#[test]
fn a_verification_that_is_ended_says_nothing_and_can_be_repeated() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    cloud.write(vm, 0, 7, 0, KIB_64);
    let image = cloud.backup(vm, datastore);
    cloud.hold_verifications();
    cloud.verify(image);
    cloud.verifying(image);
    assert!(!cloud.ask("one.image.verify", &[Int(image), Bool(true), Int(-1)]).unwrap().0);
    cloud.call("one.image.verifycancel", &[Int(image)]);
    let document = cloud.verified(image);
    assert!(!document.contains("<VERIFY_JOB>") && !document.contains("<ERROR>"), "{document}");
    assert!(!cloud.ask("one.image.verifycancel", &[Int(image)]).unwrap().0);
    cloud.script("{}");
    cloud.verify(image);
    assert!(cloud.verified(image).contains("<VERIFY_JOB>"));
}

#[test]
fn backups_and_restores_go_on_beside_a_verification_and_what_removes_its_points_waits_or_ends_it() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.vm_with("one", 1, "MODE=INCREMENT,KEEP_LAST=2"));
    cloud.write(vm, 0, 7, 0, KIB_64);
    let image = cloud.backup(vm, datastore);
    cloud.hold_verifications();
    cloud.verify(image);
    let job = cloud.verifying(image);
    for _ in 0..2 {
        assert_eq!(cloud.backup(vm, datastore), image);
    }
    cloud.image_in(cloud.restore(image, "INCREMENT_ID=0\n"), 1);
    assert_eq!((cloud.infos(image).len(), cloud.verifying(image)), (3, job), "KEEP_LAST waits");
    cloud.script("{}");
    cloud.verified(image);
    let left = wait("KEEP_LAST", || Some(cloud.infos(image)).filter(|infos| infos.len() == 2));
    assert_eq!(left.iter().map(|info| text(info, "ID")).collect::<Vec<_>>(), ["1", "2"]);

    cloud.hold_verifications();
    cloud.verify(image);
    cloud.verifying(image);
    cloud.call("one.image.delete", &[Int(image), Bool(false)]);
    wait("the image to go", || cloud.ask("one.image.info", &[Int(image)]).filter(|(done, _)| !done));
}

#[test]
fn a_verification_gives_way_to_removals_elsewhere_and_to_the_daemons_end() {
    let mut cloud = Cloud::start();
    let (datastore, vm, other) = (cloud.backups(), cloud.chained_vm("one"), cloud.chained_vm("two"));
    cloud.write(vm, 0, 7, 0, KIB_64);
    let (image, gone) = (cloud.backup(vm, datastore), cloud.backup(other, datastore));
    cloud.hold_verifications();
    cloud.verify(image);
    let job = cloud.verifying(image);
    wait("the verification to begin", || cloud.image(image).contains("<PROGRESS>").then_some(()));
    cloud.call("one.image.delete", &[Int(gone), Bool(false)]);
    wait("the other image to go", || cloud.ask("one.image.info", &[Int(gone)]).filter(|(done, _)| !done));
    assert!(cloud.log().contains("(VERIFY)"), "it was not interrupted: {}", cloud.log());
    assert_eq!(cloud.verifying(image), job, "it is not at its end");
    // More often than a job that fails is tried.
    for _ in 0..6 {
        cloud.stop_and_start();
        assert_eq!(cloud.verifying(image), job);
    }
    cloud.script("{}");
    let seen = infos(&cloud.verified(image)).remove(0);
    assert_eq!((text(&seen, "VERIFY_JOB"), text(&seen, "DAMAGES").as_str()), (job, "0"));
    cloud.is_tidy();
}

#[test]
fn a_verification_that_cannot_reach_its_datastore_waits_and_can_be_ended() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    cloud.script(&rule("\"operation\":\"verify\",\"fail\":{\"kind\":\"retry\",\"reason\":\"it is away\"}"));
    cloud.verify(image);
    let job = cloud.verifying(image);
    wait("the first attempts", || cloud.log().matches("it is away").nth(1).map(drop));
    assert_eq!(cloud.verifying(image), job);
    cloud.call("one.image.verifycancel", &[Int(image)]);
    cloud.verified(image);
}
