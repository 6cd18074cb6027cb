//! The daemon's own life: start, endpoint, one per directory, configuration, signals. Over the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]

use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(60);

fn oned(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oned"));
    command.arg("--state-dir").arg(directory).args(["--listen", "127.0.0.1:0"]);
    command.env_remove("ONE_AUTH").env_remove("KEEPLAST_LOG").env_remove("NOTIFY_SOCKET").env("TZ", "UTC");
    command
}

/// A daemon of the test's own; ended when dropped.
struct Daemon {
    child: Child,
    endpoint: String,
}

impl Daemon {
    fn start(directory: &Path) -> Self {
        let file = directory.join(".one/one_endpoint");
        let _ = std::fs::remove_file(&file);
        let child = oned(directory).stderr(Stdio::null()).spawn().unwrap();
        let mut daemon = Self { child, endpoint: String::new() };
        let until = Instant::now() + START;
        loop {
            assert!(daemon.child.try_wait().unwrap().is_none(), "ended at once: {}", log_of(directory));
            assert!(Instant::now() < until, "no endpoint: {}", log_of(directory));
            if let Ok(text) = std::fs::read_to_string(&file) {
                text.trim().clone_into(&mut daemon.endpoint);
                return daemon;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn call(&self, session: &str, method: &str) -> String {
        let address = self.endpoint.strip_prefix("http://").unwrap().strip_suffix("/RPC2").unwrap();
        let body = format!(
            "<methodCall><methodName>{method}</methodName><params><param><value>{session}</value></param></params></methodCall>"
        );
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("oned.log")).unwrap_or_default()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_fresh_directory_becomes_a_daemon_that_answers_its_first_user_and_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path());
    let session = std::fs::read_to_string(folder.path().join(".one/one_auth")).unwrap();
    let session = session.trim();
    assert!(daemon.call(session, "one.system.version").contains("<boolean>1</boolean>"));
    assert!(daemon.call("oneadmin:wrong", "one.system.version").contains("<i4>256</i4>"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    let log = log_of(folder.path());
    assert!(log.contains("[Z0][ONE][I]: listening on http://127.0.0.1:"), "{log}");
    assert!(log.contains("[Z0][ReM][D]: call method=one.system.version uid=0 code=0"), "{log}");
    assert!(!log.contains(session.split_once(':').unwrap().1), "{log}");
    let again = Daemon::start(folder.path());
    assert!(again.call(session, "one.system.version").contains("<boolean>1</boolean>"));
}

#[test]
fn a_second_daemon_on_the_directory_says_who_is_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let first = Daemon::start(folder.path());
    let second = oned(folder.path()).output().unwrap();
    let told = stderr(&second);
    assert_eq!(second.status.code(), Some(1));
    assert!(told.contains(&first.child.id().to_string()) && told.contains("--state-dir"), "{told}");
}

#[test]
fn a_killed_daemon_leaves_no_lock_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Daemon::start(folder.path());
    first.signal(Signal::KILL);
    first.child.wait().unwrap();
    drop(Daemon::start(folder.path()));
}

#[test]
fn an_interrupt_ends_the_daemon_with_success_even_with_an_idle_client() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path());
    let address = daemon.endpoint.replace("http://", "").replace("/RPC2", "");
    let idle = TcpStream::connect(address).unwrap();
    daemon.signal(Signal::INT);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    drop(idle);
}

#[test]
fn a_second_signal_ends_at_once_although_a_call_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path());
    let address = daemon.endpoint.replace("http://", "").replace("/RPC2", "");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n").unwrap();
    // "100 Continue" shows that the call's body is being waited for.
    stream.read_exact(&mut [0; 12]).unwrap();
    daemon.signal(Signal::TERM);
    let until = Instant::now() + START;
    while !log_of(folder.path()).contains("a second signal ends at once") {
        assert!(Instant::now() < until, "{}", log_of(folder.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.signal(Signal::INT);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_wrong_configuration_stops_the_start_with_name_line_and_bounds() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("oned.conf"), "# mine\nMAX_CONN = many\n").unwrap();
    let output = oned(folder.path()).output().unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("MAX_CONN") && told.contains("line 2") && told.contains("1 to 10000"), "{told}");
}

#[test]
fn a_taken_port_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oned"));
    let output = command.arg("--state-dir").arg(folder.path()).args(["--listen", &address]).output().unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains(&format!("Cannot listen on {address}")), "{told}");
}
