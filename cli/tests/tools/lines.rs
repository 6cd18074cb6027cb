//! Command lines that are wrong, and ways to the daemon that lead nowhere: one sentence each, status 255, no secret in it.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::door::{Door, Ran, assert_golden, tool_command};

const SECRET: &str = "hunter2";

#[test]
fn a_wrong_command_line_is_answered_with_the_way_out() {
    let door = Door::open();
    let lines: [(&str, &[&str]); 26] = [
        ("onevm", &["bakup", "3"]),
        ("onevm", &["instantiate", "3"]),
        ("oneimage", &["instantaite", "3"]),
        ("onevm", &["yodel"]),
        ("onevm", &["--endpoint", "http://127.0.0.1:1", "shwo", "3"]),
        ("onevm", &["-v", "list"]),
        ("onevm", &["backup"]),
        ("onevm", &["rename", "3"]),
        ("onevm", &["rename", "3", "new", "name"]),
        ("onevm", &["backup", "3", "--datastroe", "1"]),
        ("onevm", &["backup", "3", "-Q"]),
        ("onevm", &["backup", "3", "-d"]),
        ("onevm", &["backup", "3", "-d", "0", "-d", "1"]),
        ("onevm", &["backupmode", "3", "INCREMENTAL"]),
        ("onevm", &["backup", "3", "--retry", "many"]),
        ("onevm", &["recover", "3", "--success", "--failure"]),
        ("onevm", &["list", "--password", SECRET]),
        ("onevm", &[&format!("--password={SECRET}"), "list"]),
        ("keeplast", &[]),
        ("keeplast", &["vm"]),
        ("keeplast", &["vn", "list"]),
        ("keeplast", &["restore", "1"]),
        ("keeplast", &["vm", "instantiate", "1"]),
        ("keeplast", &["onevm", "lits"]),
        ("keeplast", &["completion", "tcsh"]),
        ("keeplast", &["--nope"]),
    ];
    let mut told = String::new();
    for (tool, arguments) in lines {
        let line = door.run(tool, arguments).bad();
        assert!(!line.contains(SECRET), "{line}");
        told.push_str(&format!("$ {tool} {}\n{line}\n", arguments.join(" ").replace(SECRET, "...")));
    }
    assert_golden("failures-lines", &told);
    assert_eq!(door.calls(), "");
}

#[test]
fn help_is_help_however_it_is_asked_for() {
    let door = Door::open();
    let help = |arguments: &[&str]| door.run("onevm", arguments).good();
    assert_eq!(help(&["help"]), help(&["--help"]));
    assert_eq!(help(&["-h"]), help(&["--help"]));
    assert_eq!(help(&["help", "backup"]), help(&["backup", "--help"]));
    assert_eq!(door.run("keeplast", &["vm", "-V"]).good(), help(&["-V"]));
    assert_eq!(door.run("keeplast", &["help", "vm"]).good(), help(&["-h"]).replace("onevm ", "keeplast vm "));
}

#[test]
fn what_was_done_is_said_when_asked() {
    let door =
        Door::open().says("one.vm.action", 0).says("one.vm.rename", 3).says("one.vm.info", "<VM><ID>3</ID></VM>");
    assert_eq!(door.run("onevm", &["reboot", "3..4", "-v"]).good(), "VM 3: reboot done\nVM 4: reboot done\n");
    assert_eq!(door.run("keeplast", &["vm", "rename", "3", "x", "--verbose"]).good(), "VM 3: rename done\n");
    assert_eq!(door.run("onevm", &["show", "3", "-x", "-v"]).good(), door.run("onevm", &["show", "3", "-x"]).good());
}

#[test]
fn odd_names_and_bytes_are_words_and_no_panic() {
    let door = Door::open();
    let told = door.run("onefoo", &["list"]).bad();
    assert!(told.starts_with("onefoo is none of the names of this program: it goes by keeplast, onevm,"), "{told}");
    assert!(door.run("keeplast-0.1", &["vm", "--help"]).good().starts_with("Virtual machines"));
    let odd = OsStr::from_bytes(b"a\xff\xfe");
    let mut commands = Vec::new();
    for words in [vec![odd], vec![OsStr::new("show"), odd], vec![OsStr::new("show"), OsStr::new("0"), odd]] {
        for name in ["onevm", "keeplast"] {
            let mut command = tool_command(name, &[], door.home());
            command.args(words.clone());
            commands.push(command);
        }
    }
    let mut nameless = tool_command("onevm", &["show"], door.home());
    nameless.arg0(odd);
    commands.push(nameless);
    let mut empty = tool_command("", &[], door.home());
    empty.arg0("");
    commands.push(empty);
    for mut command in commands {
        let told = Ran::of(command.stdin(Stdio::null()).output().unwrap()).bad();
        assert!(!told.contains("panicked") && !told.is_empty(), "{command:?}: {told}");
    }
}

/// Answers every connection with these bytes, after it has read something.
fn answering(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 65536]);
            let _ = stream.write_all(bytes);
        }
    });
    address.to_string()
}

#[test]
fn a_way_that_leads_to_no_daemon_says_where_it_went_and_what_to_do() {
    let door = Door::open();
    let told = |endpoint: &str| door.run("onevm", &["show", "0", "--endpoint", endpoint]).bad();
    let html = answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let said = told(&format!("http://{html}/x"));
    assert_eq!(
        said,
        format!(
            "talking to oned at http://{html}/x: HTTP status 404 Not Found: this is no XML-RPC address of oned; name another address with --endpoint or ONE_XMLRPC"
        )
    );
    let busy = answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    assert!(told(&busy).ends_with("it has too much to do just now; try again"), "{}", told(&busy));
    // The alert of a TLS server that hears plain HTTP.
    let tls = answering(b"\x15\x03\x03\x00\x02\x02\x46");
    assert!(told(&tls).ends_with("if it speaks TLS, write https://"), "{}", told(&tls));
    assert!(told(&format!("https://{html}/")).contains("does not speak TLS"), "{}", told(&format!("https://{html}/")));
    let page = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>");
    assert!(told(&page).ends_with("the answer is not an XML-RPC response"), "{}", told(&page));
    let short = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<ht");
    assert!(told(&short).contains("the connection broke off"), "{}", told(&short));
    let nowhere = told("http://nowhere.invalid:2633/RPC2");
    assert!(nowhere.contains("the host name nowhere.invalid cannot be resolved"), "{nowhere}");
    assert!(nowhere.ends_with("name another address with --endpoint or ONE_XMLRPC"), "{nowhere}");
}

#[test]
fn a_refused_session_names_where_it_came_from_and_shows_no_secret() {
    let door = Door::open().refuses("one.vm.info", 256, "[one.vm.info] User couldn't be authenticated, aborting call.");
    let file = door.home().join(".one/one_auth");
    let told = door.run("onevm", &["show", "0"]).bad();
    let begin = format!(
        "[one.vm.info] User couldn't be authenticated, aborting call; the name or the password in {} is wrong for http://",
        file.display()
    );
    assert!(told.starts_with(&begin) && !told.contains("secret"), "{told}");
    std::fs::write(&file, SECRET).unwrap();
    let told = door.run("onevm", &["show", "0"]).bad();
    assert!(told.contains(&file.display().to_string()) && !told.contains(SECRET), "{told}");
}

#[test]
fn options_go_with_a_template_in_xml_too() {
    let door = ["one.vm.allocate", "one.image.allocate", "one.datastore.allocate"]
        .into_iter()
        .fold(Door::open(), |door, method| door.says(method, 7));
    std::fs::write(door.home().join("x.xml"), "<T><CPU>1</CPU><D><SIZE>8</SIZE></D></T>").unwrap();
    std::fs::write(door.home().join("bad.xml"), "<T><CPU>1</CPU").unwrap();
    assert_eq!(door.run("onevm", &["create", "x.xml", "--name", "two words"]).good(), "ID: 7\n");
    assert_eq!(door.run("oneimage", &["create", "x.xml", "-d", "1", "--name", "a"]).good(), "ID: 7\n");
    assert_eq!(door.run("onedatastore", &["create", "x.xml", "--name", "a"]).good(), "ID: 7\n");
    let calls = door.calls();
    let text = |name: &str| format!("NAME = \\\"{name}\\\"\\nCPU = \\\"1\\\"\\nD = [ SIZE = \\\"8\\\" ]\\n");
    for (line, name) in calls.lines().zip(["two words", "a", "a"]) {
        assert!(line.contains(&text(name)), "{line}");
    }
    let told = door.run("onevm", &["create", "bad.xml", "--name", "a"]).bad();
    assert_eq!(told, "the template is XML that does not parse: xmllint tells where it breaks off");
}

#[test]
fn a_table_longer_than_the_terminal_goes_through_the_pager_that_is_named() {
    let vm = |id: i32| format!("<VM><ID>{id}</ID><NAME>web-{id}</NAME></VM>");
    let pool = format!("<VM_POOL>{}</VM_POOL>", (0..9).map(vm).collect::<String>());
    let door = Door::open().says("one.vmpool.info", pool);
    let listed = |rows: u32, pager: Option<&str>, options: &str| {
        let tool = door.tool("keeplast", &[]);
        let program = tool.get_program().to_str().unwrap();
        let line = format!("stty rows {rows} cols 80; exec {program} vm list -l NAME {options}");
        let mut command = Command::new("script");
        command.env_clear().envs(tool.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("SHELL", "/bin/sh").envs(pager.map(|pager| ("ONE_PAGER", pager)));
        let output = command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
        Ran::of(output).good().replace('\r', "")
    };
    let plain = listed(5, None, "");
    assert!(plain.starts_with("NAME\nweb-0\n"), "{plain}");
    assert_eq!(listed(5, Some("sed s/web/paged/"), ""), plain.replace("web", "paged"));
    assert_eq!(listed(50, Some("sed s/web/paged/"), ""), plain);
    assert_eq!(listed(5, Some("sed s/web/paged/"), "--no-pager"), plain);
    let told = listed(5, Some("/no/such/pager"), "");
    assert!(
        told.starts_with("warning: the pager /no/such/pager cannot be started") && told.ends_with(&plain),
        "{told}"
    );
    assert_eq!(door.run("onevm", &["list", "-l", "NAME"]).good(), plain);
}
