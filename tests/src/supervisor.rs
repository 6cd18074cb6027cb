//! The owner of every long-lived process that a test starts.
//!
//! It is a process of its own (a few lines of Python, so that any package's tests can use it without a binary of
//! ours having been built) and a *child subreaper*, prctl(2): a QEMU that daemonises itself becomes its child and
//! is reaped the moment it ends. Without that libvirt takes a zombie for a living QEMU, and each `destroy`
//! takes 1.6 s wherever pid 1 reaps lazily. It is not the test process itself, because waiting for any child
//! there would steal children from `std::process`.
//!
//! Invariant: when the test ends in whatever way (a panic, a kill −9), the supervisor's input ends, and it kills
//! everything below it before it goes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::command::wait_for;

/// A process to start; see [`Supervisor::start`].
#[derive(Debug, Clone)]
pub struct Order {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables to set (`Some`) or to remove (`None`) beside the inherited environment.
    pub env: BTreeMap<String, Option<String>>,
    /// File to which both output streams are appended.
    pub log: PathBuf,
}

/// Starts processes and ends them all when dropped.
#[derive(Debug)]
pub struct Supervisor {
    process: Child,
    talk: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Supervisor {
    /// A supervisor without processes.
    ///
    /// # Errors
    /// When python3 is missing.
    pub fn new() -> Result<Self> {
        let mut process = Command::new("python3")
            .args(["-S", "-c", include_str!("supervise.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3 cannot be started; install it with: apt-get install python3")?;
        let talk = process.stdin.take().zip(process.stdout.take()).map(|(ask, tell)| (ask, BufReader::new(tell)));
        Ok(Self { process, talk: Mutex::new(talk) })
    }

    /// Starts a process in a session of its own, its input empty; its pid.
    ///
    /// # Errors
    /// When the supervisor itself is gone. A program that cannot be run shows as status 127 and in its log.
    pub fn start(&self, order: &Order) -> Result<i32> {
        let answer = self.ask(&json!({
            "argv": order.argv, "env": order.env, "log": order.log,
        }))?;
        let pid = answer["pid"].as_i64().context("the supervisor gave no pid")?;
        Ok(i32::try_from(pid)?)
    }

    /// The exit status of a process that has ended (128 + signal number for a killed one), `None` while it runs.
    ///
    /// # Errors
    /// When the supervisor itself is gone.
    pub fn status(&self, pid: i32) -> Result<Option<i32>> {
        let answer = self.ask(&json!({ "status": pid }))?;
        Ok(answer["status"].as_i64().and_then(|code| i32::try_from(code).ok()))
    }

    /// Sends `signal` to a process started here and waits until it is gone; its exit status.
    ///
    /// # Errors
    /// When it is still there after `deadline`.
    pub fn end(&self, pid: i32, signal: Signal, deadline: Duration) -> Result<i32> {
        if self.status(pid)?.is_none()
            && let Some(process) = Pid::from_raw(pid)
        {
            kill_process(process, signal).ok();
        }
        wait_for(&format!("process {pid} to end after {signal:?}"), deadline, || self.status(pid))
    }

    /// The processes that are the supervisor's children now, with their names: those started here, and orphans of
    /// theirs (a reader that a killed daemon left behind).
    ///
    /// # Errors
    /// When the supervisor itself is gone.
    pub fn children(&self) -> Result<Vec<(i32, String)>> {
        children_of(self.process.id())
    }

    fn ask(&self, question: &Value) -> Result<Value> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let (ask, tell) = talk.as_mut().context("the supervisor has been ended")?;
        let mut line = question.to_string();
        line.push('\n');
        ask.write_all(line.as_bytes()).context("the supervisor is gone")?;
        let mut answer = String::new();
        tell.read_line(&mut answer).context("the supervisor is gone")?;
        serde_json::from_str(&answer).context("the supervisor is gone")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The end of its input tells it to end everything.
        *self.talk.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.process.wait().ok();
    }
}

/// The children of all threads of a process: pid and name of each.
///
/// # Errors
/// When the process is gone.
pub fn children_of(pid: u32) -> Result<Vec<(i32, String)>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let listing = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in listing.split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            children.push((child.parse()?, name.trim().to_owned()));
        }
    }
    Ok(children)
}

/// The last `lines` lines of a file; empty when there is none.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(log: &Path, script: &str) -> Order {
        Order {
            argv: ["sh", "-c", script].map(String::from).to_vec(),
            env: BTreeMap::from([("WORD".into(), Some("hello".into()))]),
            log: log.to_owned(),
        }
    }

    #[test]
    fn the_exit_status_and_the_log_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let supervisor = Supervisor::new().unwrap();
        let pid = supervisor.start(&order(&log, "echo $WORD; exit 4")).unwrap();
        let code = wait_for("the end", Duration::from_secs(10), || supervisor.status(pid)).unwrap();
        assert_eq!((code, tail(&log, 5).as_str()), (4, "hello"));
    }

    #[test]
    fn a_daemonised_grandchild_ends_with_its_supervisor() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let supervisor = Supervisor::new().unwrap();
        supervisor.start(&order(&log, "setsid sleep 600 & echo $!")).unwrap();
        let pid: i32 = wait_for("the pid", Duration::from_secs(10), || Ok(tail(&log, 1).parse().ok())).unwrap();
        drop(supervisor);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
