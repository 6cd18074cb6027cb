//! `onebackupjob`: tables, pages, calls, and a run that is watched.

use crate::door::{Door, assert_golden, document, restrict};

fn jobs() -> Door {
    Door::open()
        .says("one.backupjobpool.info", document("one.backupjobpool.info"))
        .says("one.backupjob.info", document("one.backupjob.info"))
        .says("one.vmpool.info", document("one.vmpool.info"))
        .says("one.datastorepool.info", document("one.datastorepool.info"))
}

fn knowing() -> Door {
    jobs().says("one.backupjob.infoextended", document("one.backupjob.infoextended"))
}

#[test]
fn backup_jobs_are_listed_as_users_know_them() {
    let door = jobs();
    assert_golden("onebackupjob-list", &door.run("onebackupjob", &["list"]).good());
    let columns = "NAME,TOOK,UPDATED,OUTDATED,ONGOING,ERROR";
    assert_golden("onebackupjob-list-columns", &door.run("onebackupjob", &["top", "-l", columns]).good());
    assert_golden("onebackupjob-list-yaml", &door.run("onebackupjob", &["list", "-y"]).good());
    let csv = door.run("onebackupjob", &["list", "--csv", "-f", "PRIO=50,NAME~long", "--no-header"]).good();
    assert_eq!(csv, "1,oneadmin,oneadmin,50,a job with a long name,-,\"4,5,6,7,8,9,...\"\n");
}

#[test]
fn a_backup_job_is_shown_with_all_that_the_daemon_knows() {
    let door = knowing();
    assert_golden("onebackupjob-show", &door.run("onebackupjob", &["show", "nightly"]).good());
    assert_golden("onebackupjob-show-yaml", &door.run("onebackupjob", &["show", "0", "-y", "--extended"]).good());
    assert_eq!(
        door.run("onebackupjob", &["show", "0", "-x"]).good(),
        document("one.backupjob.info")
            .replace("<![CDATA[0,2,3]]>", "0,2,3")
            .replace("<![CDATA[", "")
            .replace("]]>", "")
    );
}

#[test]
fn a_daemon_that_knows_no_extended_document_is_asked_for_the_plain_one() {
    let door = jobs();
    assert_golden("onebackupjob-show-plain", &door.run("onebackupjob", &["show", "0"]).good());
    assert_eq!(door.calls(), "one.backupjob.infoextended(0, false)\none.backupjob.info(0, false)");
    let door = jobs().refuses("one.backupjob.infoextended", 256, "[one.backupjob.infoextended] Not authorized");
    assert_eq!(door.run("onebackupjob", &["show", "0"]).bad(), "[one.backupjob.infoextended] Not authorized");
}

#[test]
fn silent_verbs_of_backup_jobs_call_what_the_protocol_says() {
    let methods = [
        "one.backupjob.backup",
        "one.backupjob.cancel",
        "one.backupjob.retry",
        "one.backupjob.priority",
        "one.backupjob.delete",
        "one.backupjob.update",
        "one.backupjob.rename",
        "one.backupjob.chown",
        "one.backupjob.chmod",
        "one.backupjob.lock",
        "one.backupjob.unlock",
        "one.backupjob.schedupdate",
        "one.backupjob.scheddelete",
    ];
    let door = methods.into_iter().fold(knowing(), |door, method| door.says(method, 0));
    let door = door
        .says("one.userpool.info", document("one.userpool.info"))
        .says("one.grouppool.info", "<GROUP_POOL><GROUP><ID>100</ID><NAME>team</NAME></GROUP></GROUP_POOL>");
    std::fs::write(door.home().join("config"), "KEEP_LAST = \"4\"\n").unwrap();
    std::fs::write(door.home().join("lines"), "DAYS=\"1,3\"\n# a word\nCRON=\"\"\n").unwrap();
    let verbs: [&[&str]; 22] = [
        &["backup", "0..1"],
        &["backup", "nightly"],
        &["cancel", "0"],
        &["retry", "0"],
        &["priority", "0,1", "40"],
        &["delete", "0,3..4"],
        &["update", "0", "config"],
        &["update", "nightly", "config", "--append"],
        &["rename", "0", "new"],
        &["chown", "0", "oneadmin"],
        &["chown", "0", "0", "team"],
        &["chgrp", "0,1", "team"],
        &["chmod", "0", "640"],
        &["lock", "0"],
        &["lock", "0", "--manage"],
        &["lock", "0", "--admin"],
        &["lock", "0", "--all"],
        &["unlock", "0"],
        &["sched-update", "0", "3", "lines"],
        &["sched-update", "0", "3", "--weekly", "1,3", "--keep-last", "7", "--timezone", "Europe/Berlin"],
        &["sched-delete", "0", "3"],
        &["sched-delete", "nightly", "3..5"],
    ];
    for arguments in verbs {
        assert_eq!(door.run("onebackupjob", arguments).good(), "", "{arguments:?}");
    }
    assert_golden("calls-backupjob", &door.calls());
}

#[test]
fn a_backup_job_is_made_from_options_a_file_or_a_pipe() {
    let door = knowing().says("one.backupjob.allocate", 7);
    std::fs::write(door.home().join("job"), "NAME = \"file\"\nBACKUP_VMS = \"0\"\n").unwrap();
    let options = [
        "create",
        "--name",
        "weekly",
        "--description",
        "all of \"us\"",
        "--vms",
        "0,alpine-0,3..4",
        "-d",
        "RBackups",
        "--keep",
        "4",
        "--mode",
        "increment",
        "--increment-mode",
        "cbt",
        "--execution",
        "parallel",
        "--fs-freeze",
        "agent",
        "--backup-volatile",
        "--reset",
        "--priority",
        "60",
        "--retry",
        "2",
    ];
    assert_eq!(door.run("onebackupjob", &options).good(), "ID: 7\n");
    assert_eq!(door.run("onebackupjob", &["create", "job"]).good(), "ID: 7\n");
    assert_eq!(door.run("onebackupjob", &["create", "job", "--name", "other", "--keep-last", "2"]).good(), "ID: 7\n");
    assert_eq!(door.run_with_input("onebackupjob", &["create"], "NAME = piped").good(), "ID: 7\n");
    let scheduled = ["create", "job", "--schedule", "2026-12-01 10:00", "--weekly", "0", "--end", "5"];
    assert_eq!(
        door.run("onebackupjob", &scheduled).good(),
        "ID: 7\nBACKUPJOB 7: backup scheduled at 2026-12-01 10:00:00 +0000\n"
    );
    let by_cron = ["create", "--name", "a", "--vms", "0", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin"];
    assert_eq!(
        door.run("onebackupjob", &by_cron).good(),
        "ID: 7\nBACKUPJOB 7: backup scheduled by cron expression 30 2 * * *\n"
    );
    assert_golden("calls-backupjob-create", &door.calls());
}

#[test]
fn a_schedule_is_added_to_jobs_and_told() {
    let door = jobs().says("one.backupjob.schedadd", 9);
    let arguments = ["backup", "0,1", "--schedule", "2026-12-01 10:00", "--monthly", "1,15", "--keep-last", "6"];
    assert_eq!(
        door.run("onebackupjob", &arguments).good(),
        "BACKUPJOB 0: backup scheduled at 2026-12-01 10:00:00 +0000\nBACKUPJOB 1: backup scheduled at 2026-12-01 10:00:00 +0000\n"
    );
    let text = "SCHED_ACTION = [ ACTION = \\\"backup\\\", ARGS = \\\"\\\", TIME = \\\"1796119200\\\", REPEAT = \\\"1\\\", DAYS = \\\"1,15\\\", END_TYPE = \\\"0\\\", KEEP_LAST = \\\"6\\\" ]\\n";
    assert_eq!(door.calls(), format!("one.backupjob.schedadd(0, \"{text}\")\none.backupjob.schedadd(1, \"{text}\")"));
}

#[test]
fn an_editor_begins_with_what_a_job_may_be_told() {
    let door = knowing().says("one.backupjob.update", 0).says("one.backupjob.schedupdate", 5);
    let editor = door.home().join("editor");
    std::fs::write(
        &editor,
        "#!/bin/sh\ncat \"$1\" >> \"$HOME/seen\"\necho '--' >> \"$HOME/seen\"\necho 'NEW = \"1\"' >> \"$1\"\n",
    )
    .unwrap();
    restrict(&editor, 0o700);
    for verb in ["update 0", "sched-update 0 5"] {
        let output = door.run_on_a_terminal(&format!("onebackupjob {verb}"), &editor);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let seen = std::fs::read_to_string(door.home().join("seen")).unwrap();
    assert_golden("onebackupjob-editor", &format!("{seen}{}\n", door.calls()));
}

fn run(updated: &[i64], outdated: &[i64], ongoing: &[i64], failed: &[i64], template: &str) -> String {
    let list = |name: &str, ids: &[i64]| {
        let ids: String = ids.iter().map(|id| format!("<ID>{id}</ID>")).collect();
        format!("<{name}>{ids}</{name}>")
    };
    format!(
        "<BACKUPJOB><ID>0</ID><LAST_BACKUP_TIME>100</LAST_BACKUP_TIME><LAST_BACKUP_DURATION>65</LAST_BACKUP_DURATION>{}{}{}{}<TEMPLATE>{template}</TEMPLATE></BACKUPJOB>",
        list("UPDATED_VMS", updated),
        list("OUTDATED_VMS", outdated),
        list("BACKING_UP_VMS", ongoing),
        list("ERROR_VMS", failed)
    )
}

const PROGRESS: &str = "<VM><ID>3</ID><USER_TEMPLATE><PROGRESS><DONE_BYTES>1048576</DONE_BYTES><TOTAL_BYTES>4194304</TOTAL_BYTES></PROGRESS></USER_TEMPLATE></VM>";

#[test]
fn a_watched_run_tells_each_vm_and_ends_with_its_figures() {
    let event = |vm: i64, time: i64| {
        format!(
            "<BACKUP_EVENT><TIME>{time}</TIME><ACTION>backup</ACTION><RESULT>DONE</RESULT><VM_ID>{vm}</VM_ID><READ_BYTES>10485760</READ_BYTES><STORED_BYTES>2097152</STORED_BYTES></BACKUP_EVENT>"
        )
    };
    let events = [event(3, 160), event(2, 130), event(3, 50)].concat();
    let door = Door::open()
        .says("one.backupjob.backup", 0)
        .says("one.backupjob.info", run(&[], &[2, 3], &[], &[], ""))
        .says("one.backupjob.info", run(&[2], &[], &[3], &[], ""))
        .says("one.backupjob.info", run(&[2, 3], &[], &[], &[], ""))
        .says("one.backupjob.infoextended", run(&[2, 3], &[], &[], &[], &events))
        .says("one.vm.info", PROGRESS);
    let ran = door.run("onebackupjob", &["backup", "0", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), "Backup job 0: 2 VMs backed up in 1m05s, read 20M, stored 4M\n"),
        "{}",
        ran.err
    );
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines[..2], ["Backup job 0: 0 of 2 VMs done, waiting for a place", "Backup job 0: VM 2 done"]);
}

#[test]
fn a_run_that_fails_for_some_says_for_which_and_how_to_go_on() {
    let error = "<ERROR>Thu Dec  1 13:37:40 2022 : [backup] no space</ERROR>";
    let door = Door::open()
        .says("one.backupjob.backup", 0)
        .says("one.backupjob.info", run(&[2], &[], &[], &[3], error))
        .refuses("one.backupjob.infoextended", -506, "no such method");
    let ran = door.run("onebackupjob", &["backup", "0", "--wait"]);
    assert_eq!(
        ran.bad(),
        "Backup job 0: 1 of 2 VMs failed (3): Thu Dec 1 13:37:40 2022 : [backup] no space; onebackupjob retry 0 backs them up again"
    );
}

#[test]
fn all_events_can_be_listed() {
    let event = |rest: &str| {
        format!("<EVENT><ID>9</ID><TIME>1669901816</TIME><ACTION>backup</ACTION><UID>-1</UID>{rest}</EVENT>")
    };
    let events = [
        event(
            "<RESULT>FAILED</RESULT><VM_ID>7</VM_ID><JOB_ID>3</JOB_ID><READ_BYTES>0</READ_BYTES><REASON>no space, at all</REASON>",
        ),
        event(
            "<RESULT>DONE</RESULT><VM_ID>7</VM_ID><SCHED_ID>4</SCHED_ID><READ_BYTES>1536</READ_BYTES><STORED_BYTES>512</STORED_BYTES><DURATION>65</DURATION><REASON></REASON>",
        ),
    ];
    let document = format!("<EVENTS>{}</EVENTS>", events.concat());
    let door = jobs().says("one.backupjob.events", document.as_str()).says("one.vm.events", document);
    let mut text = door.run("onebackupjob", &["events", "nightly"]).good();
    text.push_str(&door.run("onevm", &["events", "0", "--most", "2", "-f", "RESULT=done"]).good());
    text.push_str(&door.run("onevm", &["events", "0", "--csv", "-l", "TIME,RESULT,VM,REASON"]).good());
    text.push_str(&door.run("onevm", &["events", "0", "-j", "--most", "1"]).good());
    assert_golden("events", &format!("{text}{}\n", door.calls()));
}

#[test]
fn mistakes_with_backup_jobs_are_one_line_that_says_what_to_do() {
    let door = knowing();
    let failures: [&[&str]; 11] = [
        &["backup", "0", "--schedule", "+60"],
        &["backup", "0", "--keep-last", "4"],
        &["backup", "0", "--schedule", "now", "--wait"],
        &["backup", "0", "--timezone", "UTC"],
        &["create", "--name", "a", "--cron", "@daily", "--timezone", "Mars/North"],
        &["create", "--name", "a", "--vms", "nobody"],
        &["create"],
        &["priority", "0", "100"],
        &["chmod", "0", "9"],
        &["sched-delete", "0", "last"],
        &["lock", "0", "--use", "--all"],
    ];
    let mut told = String::new();
    for arguments in failures {
        told.push_str(&format!(
            "$ onebackupjob {}\n{}\n",
            arguments.join(" "),
            door.run("onebackupjob", arguments).bad()
        ));
    }
    assert_golden("failures-backupjob", &told);
}
