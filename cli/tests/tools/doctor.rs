//! `keeplast doctor`: what it says with a daemon, without rights and without a daemon.

use std::net::TcpListener;

use crate::door::{Door, Ran, assert_golden, restrict};

/// An examination as the daemon answers it, of now.
fn examination(checks: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("<EXAMINATION><TIME>{{NOW-0}}</TIME><VERSION>{version}</VERSION>{checks}</EXAMINATION>")
}

const GOOD: &str = "<CHECK><NAME>database</NAME><SUBJECT></SUBJECT><RESULT>ok</RESULT><TEXT>SQLite's quick check finds nothing wrong</TEXT><REMEDY></REMEDY></CHECK>\
    <CHECK><NAME>clock</NAME><SUBJECT></SUBJECT><RESULT>warning</RESULT><TEXT>is not synchronised</TEXT><REMEDY>timedatectl set-ntp true</REMEDY></CHECK>";

const BAD: &str = "<CHECK><NAME>datastore</NAME><SUBJECT>datastore 100 (nas)</SUBJECT><RESULT>failure</RESULT><TEXT>the server is away</TEXT><REMEDY>see that it is up</REMEDY></CHECK>";

fn door(examination: String) -> Door {
    Door::open().says("one.system.version", "7.0.2").says("one.system.examine", examination)
}

/// The output without what is different each time.
fn masked(door: &Door, text: &str) -> String {
    let address = door.tool("onevm", &[]);
    let endpoint = address.get_envs().find(|(key, _)| *key == "ONE_XMLRPC").unwrap().1.unwrap().to_owned();
    let home = door.home().to_str().unwrap();
    text.replace(endpoint.to_str().unwrap(), "ENDPOINT").replace(home, "HOME")
}

#[test]
fn warnings_are_no_failure_and_every_check_has_its_line() {
    let door = door(examination(GOOD));
    let out = door.run("keeplast", &["doctor"]).good();
    assert_golden("keeplast-doctor", &masked(&door, &out));
    assert_eq!(door.calls(), "one.system.version()\none.system.examine()");
}

#[test]
fn a_failure_is_status_255_with_nothing_on_standard_error() {
    let door = door(examination(&format!("{GOOD}{BAD}")));
    let ran = door.run("keeplast", &["doctor"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(255), ""));
    assert!(
        ran.out.contains("FAIL  datastore 100 (nas): the server is away\n      -> see that it is up\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.ends_with("\n8 checks: 1 failure, 1 warning\n"), "{}", ran.out);
    let ran = door.run("keeplast", &["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let checks = json["EXAMINATION"]["CHECK"].as_array().unwrap();
    assert_eq!((ran.code, checks.len()), (Some(255), 8));
    assert_eq!(checks[7]["RESULT"], "failure");
}

#[test]
fn another_version_and_another_time_are_warnings() {
    let other = "<EXAMINATION><TIME>{NOW-3600}</TIME><VERSION>9.9.9</VERSION></EXAMINATION>";
    let out = door(other.to_owned()).run("keeplast", &["doctor"]).good();
    assert!(out.contains("warn  version: the commands are of version"), "{out}");
    assert!(
        out.contains("warn  clocks: the daemon's clock is 1h00m0") && out.contains("behind this machine's"),
        "{out}"
    );
}

#[test]
fn who_may_not_examine_gets_the_rest() {
    let door = Door::open().says("one.system.version", "7.0.2").refuses(
        "one.system.examine",
        512,
        "[one.system.examine] User [2] : Not authorized",
    );
    let out = door.run("keeplast", &["doctor"]).good();
    assert!(
        out.contains("warn  examination: the daemon does not examine itself: [one.system.examine] User [2]"),
        "{out}"
    );
    assert!(out.contains("-> ask again as an administrator"), "{out}");
    // A daemon that does not know the call.
    let old = Door::open().says("one.system.version", "7.0.2");
    assert!(old.run("keeplast", &["doctor"]).good().contains("-> the daemon is older than these commands"));
    let wrong = Door::open().refuses("one.system.version", 256, "[one.system.version] User couldn't be authenticated");
    let ran = wrong.run("keeplast", &["doctor"]);
    assert!(ran.code == Some(255) && ran.out.contains("FAIL  session: [one.system.version] User"), "{ran:?}");
    assert!(!ran.out.contains("secret"));
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = Door::open().run("keeplast", &["doctor", "--endpoint", &format!("http://{free}/RPC2")]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(255), ""));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[0].starts_with("ok    endpoint: ") && lines[0].ends_with(", from --endpoint"), "{}", ran.out);
    assert!(lines[2].starts_with("FAIL  daemon: cannot reach oned at "), "{}", ran.out);
    assert!(lines[3].starts_with("      -> start it on its machine: systemctl start oned"), "{}", ran.out);
}

#[test]
fn a_session_file_that_others_can_read_or_that_is_missing_is_a_failure() {
    let door = door(examination(""));
    let file = door.home().join(".one/one_auth");
    restrict(&file, 0o640);
    let ran = door.run("keeplast", &["doctor"]);
    let told = masked(&door, &ran.out);
    assert!(
        told.contains("FAIL  session: others may use HOME/.one/one_auth, which holds a password: mode 0640"),
        "{told}"
    );
    assert!(told.contains("-> chmod 600 HOME/.one/one_auth") && ran.code == Some(255), "{told}");
    std::fs::remove_file(&file).unwrap();
    let Ran { code, out, err } = door.run("keeplast", &["doctor"]);
    assert!(out.contains("FAIL  session: no session: the file "), "{out}");
    assert_eq!((code, err.as_str()), (Some(255), ""));
}
