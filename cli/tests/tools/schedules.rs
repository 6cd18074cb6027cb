//! Scheduled actions of VMs, what belongs to them on pages, and the verbs that all kinds share.

use crate::door::{Door, assert_golden, document};

fn vms() -> Door {
    Door::open()
        .says("one.vmpool.info", document("one.vmpool.info"))
        .says("one.datastorepool.info", document("one.datastorepool.info"))
        .says("one.userpool.info", document("one.userpool.info"))
        .says("one.zonepool.info", document("one.zonepool.info"))
        .says("one.grouppool.info", "<GROUP_POOL><GROUP><ID>100</ID><NAME>team</NAME></GROUP></GROUP_POOL>")
}

#[test]
fn a_vm_is_shown_with_its_schedules_and_events() {
    let door = Door::open()
        .says("one.vm.info", document("one.vm.info.ours"))
        .says("one.cluster.info", document("one.cluster.info"));
    assert_golden("onevm-show-ours", &door.run("onevm", &["show", "0"]).good());
}

#[test]
fn every_action_can_be_given_a_time() {
    let door = vms().says("one.vm.schedadd", 7);
    let actions: [&[&str]; 18] = [
        &["terminate", "0"],
        &["terminate", "0", "--hard"],
        &["undeploy", "0"],
        &["undeploy", "--hard", "0"],
        &["hold", "0"],
        &["release", "0"],
        &["stop", "0"],
        &["suspend", "0"],
        &["resume", "0"],
        &["reboot", "0", "--hard"],
        &["poweroff", "alpine-0"],
        &["snapshot-create", "0", "before"],
        &["snapshot-revert", "0", "2"],
        &["snapshot-delete", "0", "2"],
        &["disk-snapshot-create", "0", "1", "before"],
        &["disk-snapshot-revert", "0", "1", "2"],
        &["disk-snapshot-delete", "0", "1", "2"],
        &["backup", "0", "-d", "RBackups", "--window-end", "06:00", "--keep-last", "7", "--retry", "3"],
    ];
    for action in actions {
        let arguments = [action, &["--schedule", "2026-12-01 10:00", "--weekly", "1"]].concat();
        let told = door.run("onevm", &arguments).good();
        assert!(told.starts_with("VM 0: ") && told.ends_with(" scheduled at 2026-12-01 10:00:00 +0000\n"), "{told}");
    }
    let told = door.run("onevm", &["poweroff", "0,2", "--cron", "0 20 * * fri", "--jitter", "60"]).good();
    assert_eq!(
        told,
        "VM 0: poweroff scheduled by cron expression 0 20 * * fri\nVM 2: poweroff scheduled by cron expression 0 20 * * fri\n"
    );
    let told = door.run("onevm", &["create-chart", "0"]).good();
    assert_eq!(told, "VM 0: terminate scheduled after +1209600s from start\n");
    assert_golden("calls-schedule-actions", &door.calls());
}

#[test]
fn actions_without_a_time_are_done_at_once() {
    let methods = [
        "one.vm.action",
        "one.vm.snapshotcreate",
        "one.vm.snapshotrevert",
        "one.vm.snapshotdelete",
        "one.vm.disksnapshotcreate",
        "one.vm.disksnapshotrevert",
        "one.vm.disksnapshotdelete",
        "one.vm.schedupdate",
        "one.vm.scheddelete",
    ];
    let door = methods.into_iter().fold(vms(), |door, method| door.says(method, 0));
    let verbs: [&[&str]; 16] = [
        &["undeploy", "0", "--hard"],
        &["stop", "0"],
        &["suspend", "0,2"],
        &["hold", "0"],
        &["snapshot-create", "0"],
        &["snapshot-create", "0", "before"],
        &["snapshot-revert", "0", "2"],
        &["snapshot-delete", "0", "2"],
        &["disk-snapshot-create", "0", "1", "before"],
        &["disk-snapshot-revert", "0", "1", "2"],
        &["disk-snapshot-delete", "0", "1", "2"],
        &["sched-update", "0", "4", "--cron", "@daily", "--retry", "0"],
        &["sched-update", "0", "4", "--schedule", "+60", "--end", "5"],
        &["sched-delete", "0", "4,6"],
        &["update-chart", "0", "4", "--schedule", "+60"],
        &["delete-chart", "0", "4"],
    ];
    for arguments in verbs {
        assert_eq!(door.run("onevm", arguments).good(), "", "{arguments:?}");
    }
    assert_golden("calls-actions", &door.calls());
}

#[test]
fn what_is_of_all_kinds_is_called_the_same_way_for_each() {
    let kinds: [(&str, &str, &str, bool); 4] = [
        ("onevm", "one.vm.chown", "one.vm.chmod", true),
        ("oneimage", "one.image.chown", "one.image.chmod", true),
        ("onetemplate", "one.template.chown", "one.template.chmod", true),
        ("onedatastore", "one.datastore.chown", "one.datastore.chmod", false),
    ];
    let locks = ["one.vm.lock", "one.image.lock", "one.template.lock", "one.vm.unlock", "one.image.unlock"];
    let door = locks.into_iter().fold(vms(), |door, method| door.says(method, 0)).says("one.template.unlock", 0);
    let door = kinds.iter().fold(door, |door, (_, chown, chmod, _)| door.says(chown, 0).says(chmod, 0));
    for (tool, _, _, can_be_locked) in kinds {
        for arguments in [["chown", "1", "0", "team"].as_slice(), &["chgrp", "1,2", "100"], &["chmod", "1", "751"]] {
            assert_eq!(door.run(tool, arguments).good(), "", "{tool} {arguments:?}");
        }
        if can_be_locked {
            door.run(tool, &["lock", "1", "--admin"]).good();
            door.run(tool, &["unlock", "1"]).good();
        }
    }
    let names = ["one.cluster.rename", "one.cluster.update", "one.zone.rename", "one.zone.update", "one.user.update"];
    let door = names.into_iter().fold(door, |door, method| door.says(method, 0));
    for (tool, verb) in [("onecluster", "rename"), ("onezone", "rename")] {
        assert_eq!(door.run(tool, &[verb, "0", "new"]).good(), "", "{tool}");
    }
    for tool in ["onecluster", "onezone", "oneuser"] {
        assert_eq!(door.run_with_input(tool, &["update", "0", "-a"], "A = \"b\"").good(), "", "{tool}");
    }
    assert_golden("calls-shared", &door.calls());
}

#[test]
fn lists_and_pages_have_the_forms_of_the_original() {
    let door = vms().says("one.image.info", document("one.image.info"));
    assert_golden("onedatastore-list-yaml", &door.run("onedatastore", &["list", "--yaml"]).good());
    assert_golden("oneimage-show-yaml", &door.run("oneimage", &["show", "1", "-y"]).good());
    assert_eq!(
        door.run("onevm", &["top", "--no-header", "-l", "NAME"]).good(),
        door.run("onevm", &["list", "--no-header", "-l", "NAME"]).good()
    );
}
