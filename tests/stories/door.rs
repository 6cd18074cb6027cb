//! The first start, the second start, and what strangers send.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use system_tests::daemon::{Daemon, Options};
use system_tests::rpc::{self, Answer};
use system_tests::xml;

const SHORT: Duration = Duration::from_secs(20);

#[test]
fn first_start_creates_everything() {
    let one = Daemon::start(Options::default()).unwrap();
    let session = one.session().unwrap();
    let (name, password) = session.split_once(':').unwrap();
    assert_eq!(name, "oneadmin");
    assert!(password.len() >= 16, "a password nobody guesses");
    let mode = fs::metadata(one.state().join(".one/one_auth")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "nobody else may read the password");

    let names = |method: &str, element: &str, parameters: &[rpc::Value]| -> Vec<(String, String)> {
        let answer = one.call(method, parameters).unwrap();
        let pool = xml::parse(answer.text().unwrap()).unwrap();
        let named = |e: &xml::Element| (e.text("ID").to_owned(), e.text("NAME").to_owned());
        let mut found: Vec<_> = pool.find_all(element).into_iter().map(named).collect();
        found.sort();
        found
    };
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect()
    };
    let stores = || names("one.datastorepool.info", "DATASTORE", &[]);
    assert_eq!(stores(), pairs(&[("0", "system"), ("1", "default"), ("2", "files")]));
    let users = names("one.userpool.info", "USER", &[]);
    assert_eq!(users, pairs(&[("0", "oneadmin"), ("1", "serveradmin")]));
    let groups = names("one.grouppool.info", "GROUP", &[]);
    assert_eq!(groups, pairs(&[("0", "oneadmin"), ("1", "users")]));
    let clusters = names("one.clusterpool.info", "CLUSTER", &[]);
    assert_eq!(clusters, pairs(&[("0", "default")]));

    // All of it is still there, and the password is the same.
    one.stop().unwrap();
    one.restart().unwrap();
    assert_eq!(one.session().unwrap(), session);
    assert_eq!(stores().len(), 3);
    one.stop().unwrap();
}

#[test]
fn second_start_is_refused() {
    let first = Daemon::start(Options::default()).unwrap();
    let endpoint = first.endpoint().unwrap();
    // The harness clears the address before a start; a refused daemon does not write it again.
    let second =
        Daemon::start_unheeded(Options { state: Some(first.state().to_owned()), ..Options::default() }).unwrap();
    assert_ne!(second.wait_end(SHORT).unwrap(), 0);
    let said = fs::read_to_string(second.log()).unwrap();
    assert!(said.contains("Another oned"), "it says why: {said}");
    // The first is unharmed.
    let version = rpc::call(&endpoint, "one.system.version", &[first.session().unwrap().as_str().into()]).unwrap();
    assert!(version.text().unwrap().starts_with("7.0."), "{version:?}");
}

#[test]
fn unknown_method_and_malformed_bodies() {
    let one = Daemon::start(Options::default()).unwrap();
    let endpoint = one.endpoint().unwrap();
    let session = one.session().unwrap();

    let unknown = one.call("one.vm.fly", &[]).unwrap();
    assert!(matches!(unknown, Answer::Fault { code: -506, .. }), "{unknown:?}");
    let wrong_type = one.call("one.vm.info", &["zero".into()]).unwrap();
    assert!(matches!(wrong_type, Answer::Fault { code: -501, .. }), "{wrong_type:?}");
    let absent = one.call("one.vm.info", &[4711.into()]).unwrap();
    assert!(matches!(absent, Answer::Refused { code: 1024, .. }), "{absent:?}");
    let stranger = rpc::call(&endpoint, "one.vmpool.info", &["oneadmin:wrong".into()]).unwrap();
    assert!(matches!(stranger, Answer::Refused { code: 256, .. }), "{stranger:?}");

    let bodies: [&[u8]; 8] = [
        b"",
        b"hello",
        b"<?xml version=\"1.0\"?>",
        b"<methodCall><methodName>one.vm.info</methodName><params>",
        b"<methodCall></methodCall>",
        b"\xff\xfe\x00<methodCall/>",
        b"<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><methodCall><methodName>&b;</methodName></methodCall>",
        b"<methodCall><methodName>one.vm.info</methodName><params><param><value><i4>99999999999999999999</i4></value></param></params></methodCall>",
    ];
    for body in bodies {
        // Any HTTP answer will do, as long as it is one and nothing is revealed by it.
        let reply = rpc::post(&endpoint, body, SHORT).unwrap();
        assert!(!reply.body.contains(&session), "{}", reply.body);
        assert!((200..500).contains(&reply.status), "{body:?}: {} {}", reply.status, reply.body);
    }
    let deep = format!("<methodCall>{}", "<value><array><data>".repeat(100_000));
    rpc::post(&endpoint, deep.as_bytes(), SHORT).unwrap();
    let get = b"GET /RPC2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let reply = rpc::raw(&endpoint, get, SHORT).unwrap();
    assert!((400..500).contains(&reply.status), "{}", reply.status);
    let huge = b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n";
    let reply = rpc::raw(&endpoint, huge, SHORT).unwrap();
    assert_eq!(reply.status, 413);

    // After all that it still answers, in the type that Ruby's client insists on.
    let body = rpc::request("one.system.version", &[session.as_str().into()]);
    let reply = rpc::post(&endpoint, body.as_bytes(), SHORT).unwrap();
    assert_eq!(reply.status, 200);
    let headers: Vec<String> = reply.headers.iter().map(|line| line.to_ascii_lowercase()).collect();
    assert!(headers.iter().any(|line| line.starts_with("content-type: text/xml")), "{headers:?}");
    assert!(headers.iter().any(|line| line.starts_with("content-length:")), "{headers:?}");
    one.stop().unwrap();
}

#[test]
fn commands_say_what_is_wrong_and_end_with_255() {
    let one = Daemon::start(Options::default()).unwrap();
    let said = one.run("onevm", &["show", "4711"]).unwrap();
    assert_eq!(said.code, 255);
    assert!(said.stderr.contains("4711"), "{said:?}");
    assert_eq!(said.stdout, "");
    let said = one.run("oneimage", &["restore", "0"]).unwrap();
    assert_eq!(said.code, 255);
    assert!(said.stderr.contains("Datastore to restore the backup is mandatory"), "{said:?}");
}
