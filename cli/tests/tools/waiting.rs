//! `--wait`, against a daemon whose documents change from look to look.

use crate::door::Door;

const RUNNING: &str = "<STATE>3</STATE><LCM_STATE>3</LCM_STATE>";
const BACKUP: &str = "<STATE>3</STATE><LCM_STATE>69</LCM_STATE>";

fn vm(state: &str, last_increment: i64, rest: &str) -> String {
    format!(
        "<VM><ID>0</ID>{state}{rest}<BACKUPS><BACKUP_CONFIG><INCREMENTAL_BACKUP_ID>3</INCREMENTAL_BACKUP_ID><LAST_INCREMENT_ID>{last_increment}</LAST_INCREMENT_ID></BACKUP_CONFIG><BACKUP_IDS><ID>3</ID></BACKUP_IDS></BACKUPS></VM>"
    )
}

fn progress() -> String {
    let progress = "<USER_TEMPLATE><PROGRESS><ACTION>backup</ACTION><DONE_BYTES>1048576</DONE_BYTES><TOTAL_BYTES>4194304</TOTAL_BYTES></PROGRESS></USER_TEMPLATE>";
    vm(BACKUP, 0, progress)
}

const IMAGE: &str = "<IMAGE><ID>3</ID><SIZE>172</SIZE><TEMPLATE><INCREMENT_INFO><ID>1</ID><READ_BYTES>4404019</READ_BYTES><STORED_BYTES>1153434</STORED_BYTES><SAVED_BYTES>3145728</SAVED_BYTES><DURATION>2</DURATION></INCREMENT_INFO></TEMPLATE></IMAGE>";

#[test]
fn a_waited_backup_ends_with_its_figures() {
    let door = Door::open()
        .says("one.vm.info", vm(RUNNING, 0, ""))
        .says("one.vm.info", progress())
        .says("one.vm.info", vm(RUNNING, 1, ""))
        .says("one.vm.backup", 0)
        .says("one.image.info", IMAGE);
    let ran = door.run("onevm", &["backup", "0", "--wait"]);
    let line = "Backup 3, increment 1: read 4.2M, stored 1.1M, saved 3M by deduplication (71%), in 2s\n";
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), line));
    assert_eq!(ran.err, "VM 0: backup 1024K of 4M (25%)\n");
}

#[test]
fn a_waited_backup_that_fails_tells_the_error_of_the_vm() {
    let failed = "<USER_TEMPLATE><ERROR>Fri Nov 20 18:11:42 2026 : BACKUP: no space</ERROR></USER_TEMPLATE>";
    let door = Door::open()
        .says("one.vm.info", vm(RUNNING, 0, ""))
        .says("one.vm.info", vm(BACKUP, 0, ""))
        .says("one.vm.info", vm(RUNNING, 0, failed))
        .says("one.vm.backup", 0);
    let ran = door.run("onevm", &["backup", "0", "--wait"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(255), ""));
    assert_eq!(ran.err, "VM 0: backup\nVM 0: Fri Nov 20 18:11:42 2026 : BACKUP: no space\n");
}

#[test]
fn a_scheduled_backup_is_waited_for_from_its_start() {
    let action = |message: &str, done: i64| {
        format!(
            "<TEMPLATE><SCHED_ACTION><ID>9</ID><DONE>{done}</DONE><MESSAGE>{message}</MESSAGE></SCHED_ACTION></TEMPLATE>"
        )
    };
    let waiting = vm(RUNNING, 0, &action("", -1));
    let door = Door::open()
        .says("one.vm.info", waiting.clone())
        .says("one.vm.info", waiting.clone())
        .says("one.vm.info", vm(BACKUP, 0, &action("", 5)))
        .says("one.vm.info", vm(RUNNING, 1, &action("", 5)))
        .says("one.vm.schedadd", 9)
        .says("one.image.info", IMAGE);
    let ran = door.run("onevm", &["backup", "0", "-d", "100", "--schedule", "now", "--wait"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.starts_with("VM 0: backup scheduled at ") && ran.out.ends_with("in 2s\n"), "{}", ran.out);
    let door = Door::open()
        .says("one.vm.info", waiting)
        .says("one.vm.info", vm(RUNNING, 0, &action("[backup] Not enough free space", -1)))
        .says("one.vm.schedadd", 9);
    let ran = door.run("onevm", &["backup", "0", "-d", "100", "--schedule", "now", "--wait"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (Some(255), "VM 0: scheduled action 9 failed: [backup] Not enough free space\n")
    );
}

#[test]
fn waiting_ends_with_the_time_and_says_that_the_work_goes_on() {
    let door = Door::open().says("one.vm.info", vm(BACKUP, 0, "")).says("one.vm.backup", 0);
    let ran = door.run("onevm", &["backup", "0", "--wait", "--timeout", "0"]);
    assert_eq!(ran.err, "VM 0: backup\nVM 0: not done within 0 s (backup); it goes on without being watched\n");
    assert_eq!(ran.code, Some(255));
}

#[test]
fn a_restore_is_waited_for_until_each_image_is_ready_or_in_error() {
    let image = |state: i64, template: &str| {
        format!("<IMAGE><ID>2</ID><STATE>{state}</STATE><TEMPLATE>{template}</TEMPLATE></IMAGE>")
    };
    let copying = "<PROGRESS><ACTION>restore</ACTION><DONE_BYTES>1048576</DONE_BYTES><TOTAL_BYTES>2097152</TOTAL_BYTES></PROGRESS>";
    let door = Door::open()
        .says("one.image.restore", "1 2")
        .says("one.image.info", image(4, copying))
        .says("one.image.info", image(1, ""));
    let ran = door.run("oneimage", &["restore", "1", "-d", "1", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "VM Template: 1\nImages: 2\n", "Image 2: restore 1024K of 2M (50%)\n")
    );
    let door =
        Door::open().says("one.image.restore", "1 2").says("one.image.info", image(5, "<ERROR>copy failed</ERROR>"));
    let ran = door.run("oneimage", &["restore", "1", "-d", "1", "--wait"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(255), "image 2 is in ERROR: copy failed\n"));
}

#[test]
fn a_restore_in_place_is_waited_for_until_the_vm_is_back() {
    let state = |state: i64, lcm: i64, rest: &str| {
        format!(
            "<VM><ID>0</ID><STATE>{state}</STATE><LCM_STATE>{lcm}</LCM_STATE><USER_TEMPLATE>{rest}</USER_TEMPLATE></VM>"
        )
    };
    let copying = "<PROGRESS><ACTION>restore</ACTION><DONE_BYTES>1048576</DONE_BYTES><TOTAL_BYTES>2097152</TOTAL_BYTES></PROGRESS>";
    for back in [8, 9] {
        let door = Door::open()
            .says("one.vm.restore", 0)
            .says("one.vm.info", state(3, 71, copying))
            .says("one.vm.info", state(back, 0, ""));
        let ran = door.run("onevm", &["restore", "0", "3", "--wait"]);
        assert_eq!(
            (ran.code, ran.out.as_str(), ran.err.as_str()),
            (Some(0), "VM 0: restored from backup 3\n", "VM 0: restore 1024K of 2M (50%)\n")
        );
    }
    let failed = "<ERROR>Fri Nov 20 18:11:42 2026 : RESTORE: no space</ERROR>";
    let door = Door::open().says("one.vm.restore", 0).says("one.vm.info", state(8, 0, failed));
    let ran = door.run("onevm", &["restore", "0", "3", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(255), "", "VM 0 was not restored, it is in POWEROFF: Fri Nov 20 18:11:42 2026 : RESTORE: no space\n")
    );
}

#[test]
fn actions_wait_for_the_state_that_they_lead_to() {
    let state = |state: i64, lcm: i64| {
        format!(
            "<VM><ID>0</ID><STATE>{state}</STATE><LCM_STATE>{lcm}</LCM_STATE><USER_TEMPLATE><ERROR>no guest agent</ERROR></USER_TEMPLATE></VM>"
        )
    };
    let cases = [
        (vec!["poweroff", "0", "--wait"], vec![state(3, 18), state(8, 0)], ""),
        (vec!["terminate", "0", "--wait"], vec![state(3, 12), state(6, 0)], ""),
        (vec!["resume", "0", "--wait"], vec![state(3, 20), state(3, 3)], ""),
        (vec!["resume", "0", "--wait"], vec![state(3, 20), state(3, 36)], "VM 0 is in BOOT_FAILURE: no guest agent"),
        (vec!["resume", "0", "--wait"], vec![state(3, 20), state(8, 0)], "VM 0 is in POWEROFF: no guest agent"),
        (vec!["release", "0", "--wait"], vec![state(1, 0), state(3, 1), state(3, 3)], ""),
        (vec!["release", "0", "--wait"], vec![state(1, 0), state(2, 0)], "VM 0 is in HOLD: no guest agent"),
        (vec!["poweroff", "0", "--wait"], vec![state(3, 18), state(3, 3)], "VM 0 is in RUNNING: no guest agent"),
    ];
    for (arguments, documents, failure) in cases {
        let door = documents
            .into_iter()
            .fold(Door::open().says("one.vm.action", 0), |door, document| door.says("one.vm.info", document));
        let ran = door.run("onevm", &arguments);
        let expected = if failure.is_empty() { Some(0) } else { Some(255) };
        assert_eq!(ran.code, expected, "{ran:?}");
        assert!(ran.err.trim_end().ends_with(failure), "{ran:?}");
    }
    let door = Door::open()
        .says("one.template.info", "<VMTEMPLATE/>")
        .says("one.template.instantiate", 0)
        .says("one.vm.info", state(1, 0))
        .says("one.vm.info", state(3, 3));
    assert_eq!(door.run("onetemplate", &["instantiate", "0", "--wait"]).out, "VM ID: 0\n");
}

#[test]
fn a_deletion_is_waited_for_until_the_image_is_gone() {
    let image = |state: i64, template: &str| {
        format!("<IMAGE><ID>2</ID><STATE>{state}</STATE><TEMPLATE>{template}</TEMPLATE></IMAGE>")
    };
    let freeing = "<PROGRESS><ACTION>delete</ACTION><DONE_BYTES>1048576</DONE_BYTES><TOTAL_BYTES>2097152</TOTAL_BYTES></PROGRESS>";
    let door = Door::open().says("one.image.delete", 2).says("one.image.info", image(7, freeing)).refuses(
        "one.image.info",
        0x0400,
        "[one.image.info] Error getting image [2].",
    );
    let ran = door.run("oneimage", &["delete", "2", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "", "Image 2: delete 1024K of 2M (50%)\n"),
        "{}",
        door.calls()
    );
    assert!(door.calls().starts_with("one.image.delete(2, false)\n"), "{}", door.calls());
    let door = Door::open()
        .says("one.image.delete", 2)
        .says("one.image.info", image(7, ""))
        .says("one.image.info", image(5, "<ERROR>no datastore</ERROR>"));
    let ran = door.run("oneimage", &["delete", "2", "--wait"]);
    assert!(
        ran.code == Some(255) && ran.err.ends_with("image 2 was not removed, it is in ERROR: no datastore\n"),
        "{ran:?}"
    );
}

#[test]
fn a_restart_of_the_daemon_is_waited_out() {
    let door = Door::open()
        .says("one.vm.action", 0)
        .goes_away_at("one.vm.info")
        .says("one.vm.info", "<VM><ID>0</ID><STATE>8</STATE><LCM_STATE>0</LCM_STATE></VM>");
    let ran = door.run("onevm", &["poweroff", "0", "--wait"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), "VM 0: waiting for the daemon to come back\n"));
}

#[test]
fn a_waited_verification_tells_what_was_read_and_each_damage_once() {
    let image = |template: &str| format!("<IMAGE><ID>3</ID><STATE>1</STATE><TEMPLATE>{template}</TEMPLATE></IMAGE>");
    let info = |id: i64, job: i64, damages: i64| {
        format!(
            "<INCREMENT_INFO><ID>{id}</ID><VERIFIED_AT>5</VERIFIED_AT><VERIFY_JOB>{job}</VERIFY_JOB><VERIFY_BYTES>4194304</VERIFY_BYTES><DAMAGES>{damages}</DAMAGES></INCREMENT_INFO>"
        )
    };
    let verifying = image(
        "<VERIFYING><JOB>7</JOB></VERIFYING><PROGRESS><ACTION>verify</ACTION><DONE_BYTES>1048576</DONE_BYTES><TOTAL_BYTES>2097152</TOTAL_BYTES></PROGRESS>",
    );
    let door = |end: String| {
        Door::open()
            .says("one.image.verify", 3)
            .says("one.image.info", image(&info(0, 6, 0)))
            .says("one.image.info", verifying.clone())
            .says("one.image.info", image(&end))
    };
    let ran = door(info(0, 7, 0) + &info(1, 7, 0)).run("oneimage", &["verify", "3", "--deep", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "Image 3: read 4M of increments 0,1; no damage\n", "Image 3: verify 1024K of 2M (50%)\n")
    );
    let damage = |id: i64| {
        format!(
            "<INCREMENT_DAMAGE><ID>{id}</ID><DISK>0</DISK><OFFSET>65536</OFFSET><LENGTH>512</LENGTH><WHAT>pack 1 is gone</WHAT></INCREMENT_DAMAGE>"
        )
    };
    let ran =
        door(info(0, 7, 1) + &info(1, 7, 1) + &damage(0) + &damage(1)).run("oneimage", &["verify", "3", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (
            Some(255),
            "Image 3: read 4M of increments 0,1; damage in increments 0,1\n  disk 0, offset 65536, 512 bytes: pack 1 is gone (increments 0,1)\n"
        )
    );
    let ran = door(info(0, 6, 0)).run("oneimage", &["verify", "3", "--wait"]);
    assert!(ran.code == Some(255) && ran.err.ends_with("it was cancelled\n"), "{ran:?}");
}

#[test]
fn waited_imports_of_backups_end_with_their_figures() {
    let datastore = |template: &str| format!("<DATASTORE><ID>100</ID><TEMPLATE>{template}</TEMPLATE></DATASTORE>");
    let door = Door::open()
        .says("one.datastore.importbackups", 100)
        .says("one.datastore.info", datastore("<IMPORTING_BACKUPS><JOB>7</JOB></IMPORTING_BACKUPS>"))
        .says(
            "one.datastore.info",
            datastore("<IMPORTED_BACKUPS><IMAGES>2</IMAGES><POINTS>5</POINTS><KNOWN>1</KNOWN><LEFT_OUT>0</LEFT_OUT></IMPORTED_BACKUPS>"),
        );
    let ran = door.run("onedatastore", &["import-backups", "100", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), "Datastore 100: 2 images made, 5 restore points taken up, 1 known already, 0 left out\n")
    );
    let door = Door::open()
        .says("one.datastore.importbackups", 100)
        .says("one.datastore.info", datastore("<IMPORTED_BACKUPS><ERROR>no disk</ERROR></IMPORTED_BACKUPS>"));
    let ran = door.run("onedatastore", &["import-backups", "100", "--wait"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(255), "datastore 100: no disk\n"));
}
