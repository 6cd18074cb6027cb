//! Every failure is one line on standard error and exit status 255.

use std::net::TcpListener;
use std::process::Stdio;

use crate::door::{Door, Ran, assert_golden, document, restrict, tool_command};

#[test]
fn failures_are_one_line_that_says_what_to_do() {
    let door = Door::open()
        .says(
            "one.vmpool.info",
            "<VM_POOL><VM><ID>3</ID><NAME>web</NAME></VM><VM><ID>7</ID><NAME>web</NAME></VM></VM_POOL>",
        )
        .says("one.vm.info", "this is no document")
        .refuses("one.vm.backup", 1024, "[one.vm.backup] Error getting virtual machine [7].")
        .refuses("one.user.info", 256, "[one.user.info] User couldn't be\nauthenticated, aborting call.");
    let failures: [(&str, &[&str]); 24] = [
        ("onevm", &["backup", "7"]),
        ("onevm", &["backup", "web"]),
        ("onevm", &["backup", "nobody"]),
        ("onevm", &["backup", "0,1"]),
        ("onevm", &["backup", "0", "--weekly", "1"]),
        ("onevm", &["backup", "0", "--schedule", "someday"]),
        ("onevm", &["backup", "0", "--schedule", "now", "--weekly", "7"]),
        ("onevm", &["backup", "0", "--schedule", "+60", "--wait"]),
        ("onevm", &["show", "0"]),
        ("onevm", &["reboot", "0"]),
        ("onevm", &["recover", "0"]),
        ("onevm", &["recover", "0", "--success", "--failure"]),
        ("onevm", &["poweroff", "3..1"]),
        ("onevm", &["updateconf", "0"]),
        ("onevm", &["updateconf", "0", "absent"]),
        ("onevm", &["list", "-l", "NOPE"]),
        ("onevm", &["list", "--nope"]),
        ("onevm", &["backup"]),
        ("onevm", &["nope"]),
        ("onevm", &[]),
        ("oneimage", &["restore", "1"]),
        ("oneimage", &["create", "--name", "x"]),
        ("oneuser", &["show"]),
        ("onevm", &["backupmode", "0", "sometimes"]),
    ];
    let mut told = String::new();
    for (tool, arguments) in failures {
        told.push_str(&format!("$ {tool} {}\n{}\n", arguments.join(" "), door.run(tool, arguments).bad()));
    }
    assert_golden("failures", &door.masked(&told));
}

#[test]
fn one_failure_among_several_ids_does_not_stop_the_others() {
    let door = Door::open()
        .says("one.vm.action", 0)
        .refuses("one.vm.action", 2048, "[one.vm.action] wrong state")
        .says("one.vm.action", 2);
    assert_eq!(door.run("onevm", &["reboot", "0..2"]).bad(), "[one.vm.action] wrong state");
    assert_eq!(door.calls().lines().count(), 3);
}

#[test]
fn a_refused_connection_names_the_endpoint_and_the_daemon() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let door = Door::open();
    let ran = door.run("onevm", &["list", "--endpoint", &format!("http://{free}/RPC2")]).bad();
    let expected = format!(
        "cannot reach oned at http://{free}/RPC2: connection refused; start the daemon (oned), or name another address with --endpoint or ONE_XMLRPC"
    );
    assert_eq!(ran, expected);
}

#[test]
fn the_session_comes_from_the_file_and_others_must_not_read_it() {
    let door = Door::open().says("one.vm.backupcancel", 0);
    restrict(&door.home().join(".one/one_auth"), 0o644);
    let ran = door.run("onevm", &["backup-cancel", "0"]);
    let file = door.home().join(".one/one_auth");
    assert_eq!(
        (ran.code, ran.err),
        (Some(0), format!("warning: others can read the password in {0}: chmod 600 {0}\n", file.display()))
    );
    std::fs::remove_file(&file).unwrap();
    let told = door.run("onevm", &["backup-cancel", "0"]).bad();
    assert!(told.starts_with("no session: the file ") && told.contains("ONE_AUTH"), "{told}");
    let ran =
        door.run_with_input("onevm", &["backup-cancel", "0", "--user", "oneadmin", "--password-file", "-"], "secret\n");
    ran.good();
}

#[test]
fn the_endpoint_file_is_used_when_nothing_else_is_said() {
    let door = Door::open().says("one.vm.backupcancel", 0);
    let tool = door.tool("onevm", &[]);
    let endpoint = tool.get_envs().find(|(key, _)| *key == "ONE_XMLRPC").unwrap().1.unwrap().to_owned();
    std::fs::write(door.home().join(".one/one_endpoint"), endpoint.to_str().unwrap()).unwrap();
    let mut command = tool_command("onevm", &["backup-cancel", "0"], door.home());
    Ran::of(command.stdin(Stdio::null()).output().unwrap()).good();
    assert_eq!(door.calls(), "one.vm.backupcancel(0)");
}

#[test]
fn help_and_version_are_no_failures() {
    let door = Door::open();
    for arguments in [["--help"], ["-V"]] {
        assert!(!door.run("oneimage", &arguments).good().is_empty());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let door = Door::open().says("one.vmpool.info", document("one.vmpool.info"));
    let mut child = door.tool("onevm", &["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}

#[test]
fn lists_that_cannot_be_meant_are_told_by_what_was_typed() {
    let door = Door::open().says("one.vmpool.info", "<VM_POOL><VM><ID>3</ID><NAME>web</NAME></VM></VM_POOL>");
    let said = |arguments: &[&str]| door.run("onevm", arguments).bad();
    assert_eq!(said(&["hold", "0,,1"]), "0,,1: between commas stands an id or a name");
    assert_eq!(said(&["hold", "web,"]), "web,: between commas stands an id or a name");
    assert_eq!(said(&["show", "0..3"]), "0..3 is more than one VM, but one at a time is taken here");
    assert_eq!(said(&["backup", "0..3", "-d", "1"]), said(&["backup", "0,3"]));
    assert_eq!(said(&["show", "web,"]), "VM named web, not found; did you mean web (3)? onevm list shows all");
}
