//! `oned` as a child process on a fresh state directory and a free port, and its command line.
//!
//! A daemon is known by its state directory: `kill9` and `restart` leave that alone. Dropping one while a test is
//! failing prints the end of its log.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::command::{self, LONG, Output, wait_for};
use crate::place;
use crate::rpc::{self, Answer, Value};
use crate::share;
use crate::supervisor::{Order, Supervisor, children_of, tail};
use crate::xml::{self, Element};
use crate::xsd;

/// The processes behind a mount over ssh.
const MOUNT_SERVERS: [&str; 3] = ["mount.fuse.sshf", "sshfs", "ssh"];

/// How a daemon is to be started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its state directory; none = a fresh temporary one that goes with the [`Daemon`].
    pub state: Option<PathBuf>,
    /// Text of an `oned.conf`; empty = the daemon's defaults.
    pub conf: String,
    /// Environment variables beside the test's own, e.g. `KEEPLAST_CRASH_AT`.
    pub env: BTreeMap<String, String>,
}

/// A running (or killed) daemon.
#[derive(Debug)]
pub struct Daemon {
    options: Options,
    state: PathBuf,
    pid: Mutex<Option<i32>>,
    supervisor: Supervisor,
    // Last: the directory goes after the processes that write in it.
    _temporary: Option<TempDir>,
}

impl Daemon {
    /// Starts a daemon and waits until it answers.
    ///
    /// # Errors
    /// When it is not built, ends at once, or does not answer within 30 s; the message holds the end of its log.
    pub fn start(options: Options) -> Result<Self> {
        let daemon = Self::prepare(options)?;
        daemon.launch(&BTreeMap::new())?;
        daemon.wait_answering()?;
        Ok(daemon)
    }

    /// As [`Self::start`] without waiting: for a daemon that is expected to end by itself (see [`Self::wait_end`]).
    ///
    /// # Errors
    /// When it is not built.
    pub fn start_unheeded(options: Options) -> Result<Self> {
        let daemon = Self::prepare(options)?;
        daemon.launch(&BTreeMap::new())?;
        Ok(daemon)
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The file that takes what the daemon writes to its output streams.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state.join("oned.out")
    }

    /// The address for clients, `http://127.0.0.1:PORT/RPC2`.
    ///
    /// # Errors
    /// When the daemon has not written it.
    pub fn endpoint(&self) -> Result<String> {
        let path = self.one("one_endpoint");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// The session string of the first administrator, `oneadmin:PASSWORD`.
    ///
    /// # Errors
    /// When the daemon has not written it.
    pub fn session(&self) -> Result<String> {
        let path = self.one("one_auth");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// The process id; none when it has been ended.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one of the command line tools as the administrator; whatever the outcome.
    ///
    /// # Errors
    /// When it is not built or takes longer than five minutes.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> Result<Output> {
        command::run(&mut self.command(tool, arguments)?, LONG)
    }

    /// As [`Self::run`], but given up as soon as the daemon has ended (a command that waits would wait for its return).
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_while_alive(&self, tool: &str, arguments: &[&str]) -> Result<Output> {
        command::run_unless(&mut self.command(tool, arguments)?, LONG, &mut || self.has_ended())
    }

    /// As [`Self::run`], with `input` on standard input.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with_input(&self, tool: &str, arguments: &[&str], input: &str) -> Result<Output> {
        command::run_with_input(&mut self.command(tool, arguments)?, Some(input.as_bytes()), LONG)
    }

    /// As [`Self::run`]; what it printed.
    ///
    /// # Errors
    /// As [`Self::run`], and when the tool fails.
    pub fn ok(&self, tool: &str, arguments: &[&str]) -> Result<String> {
        self.run(tool, arguments)?.checked(&format!("{tool} {}", arguments.join(" ")))
    }

    /// Runs a creating command with a template in a file; the id it prints (`ID: 7`, `VM ID: 7`).
    ///
    /// # Errors
    /// As [`Self::ok`], and when no id is printed.
    pub fn create(&self, tool: &str, template: &str, more: &[&str]) -> Result<i64> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), template)?;
        let path = file.path().to_string_lossy();
        let arguments: Vec<&str> = ["create", &path].into_iter().chain(more.iter().copied()).collect();
        id_in(&self.ok(tool, &arguments)?)
    }

    /// The document of `tool show ID --xml`.
    ///
    /// # Errors
    /// As [`Self::ok`], and when it is not XML.
    pub fn show(&self, tool: &str, id: i64) -> Result<Element> {
        xml::parse(&self.ok(tool, &["show", &id.to_string(), "--xml"])?)
    }

    /// The document of `tool list --xml`.
    ///
    /// # Errors
    /// As [`Self::ok`], and when it is not XML.
    pub fn list(&self, tool: &str) -> Result<Element> {
        xml::parse(&self.ok(tool, &["list", "--xml"])?)
    }

    /// Calls a method as the administrator. A document in the answer is held to its published schema.
    ///
    /// # Errors
    /// When no XML-RPC answer comes, or a document that breaks its schema.
    pub fn call(&self, method: &str, parameters: &[Value]) -> Result<Answer> {
        let mut all = vec![Value::Text(self.session()?)];
        all.extend_from_slice(parameters);
        let answer = rpc::call(&self.endpoint()?, method, &all)?;
        if let Answer::Done(Value::Text(text)) = &answer
            && text.starts_with('<')
        {
            xsd::check(text).with_context(|| format!("the answer to {method}"))?;
        }
        Ok(answer)
    }

    /// Waits until a VM is in the state given (`STATE`, `LCM_STATE`); its document.
    ///
    /// # Errors
    /// When it is not within two minutes; the message names the state it is in.
    pub fn wait_vm(&self, id: i64, state: i64, lcm_state: i64) -> Result<Element> {
        let mut last = (-1, -1);
        wait_for(&format!("VM {id} to reach state {state}/{lcm_state}"), Duration::from_secs(120), || {
            let vm = self.vm(id)?;
            last = (vm.number("STATE")?, vm.number("LCM_STATE")?);
            Ok((last == (state, lcm_state)).then_some(vm))
        })
        .with_context(|| format!("it is in {}/{}", last.0, last.1))
    }

    /// The document of a VM, by a call of one.vm.info.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub fn vm(&self, id: i64) -> Result<Element> {
        xml::parse(self.call("one.vm.info", &[id.into()])?.text()?)
    }

    /// Ends the daemon by SIGKILL.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill9(&self) -> Result<()> {
        self.end(Signal::KILL).map(drop)
    }

    /// Ends the daemon in good order.
    ///
    /// # Errors
    /// When it takes longer than a minute or its status is not 0.
    pub fn stop(&self) -> Result<()> {
        match self.end(Signal::TERM)? {
            None | Some(0) => Ok(()),
            Some(code) => bail!("oned ended with status {code} when asked to stop\n{}", tail(&self.log(), 30)),
        }
    }

    /// Starts the daemon again on the same state, after SIGKILL if it still runs; waits until it answers.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&self) -> Result<()> {
        self.kill9()?;
        self.launch(&BTreeMap::new())?;
        self.wait_answering()
    }

    /// As [`Self::restart`], with more environment variables and without waiting for an answer.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart_unheeded(&self, env: &BTreeMap<String, String>) -> Result<()> {
        self.kill9()?;
        self.launch(env)
    }

    /// As [`Self::restart`], with more environment variables; also fine with a daemon that ends by itself meanwhile.
    ///
    /// # Errors
    /// When it neither answers nor ends within 30 s.
    pub fn restart_to_crash(&self, env: &BTreeMap<String, String>) -> Result<()> {
        self.restart_unheeded(env)?;
        let outcome = self.wait_answering();
        if self.has_ended()? { Ok(()) } else { outcome }
    }

    /// Whether the daemon does not run (any more).
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn has_ended(&self) -> Result<bool> {
        self.pid().map_or(Ok(true), |pid| Ok(self.supervisor.status(pid)?.is_some()))
    }

    /// Processes that belong to the daemon beside itself: its children, and orphans that an earlier run of it left. Not
    /// those of its datastores ([`Self::datastore_processes`]), nor what serves a share that is mounted for one.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn other_processes(&self) -> Result<Vec<(i32, String)>> {
        let pid = self.pid();
        let mut found = self.supervisor.children()?;
        let mounted = !share::mounts_below(&self.state)?.is_empty();
        // A file system in user space outlives whoever mounted it.
        found.retain(|(child, name)| Some(*child) != pid && !(mounted && MOUNT_SERVERS.contains(&name.as_str())));
        if let Some(pid) = pid {
            let children = children_of(u32::try_from(pid)?)?;
            found.extend(children.into_iter().filter(|(_, name)| !is_datastore(name)));
        }
        Ok(found)
    }

    /// The processes of the running daemon's datastores.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn datastore_processes(&self) -> Result<Vec<i32>> {
        let Some(pid) = self.pid() else { return Ok(Vec::new()) };
        let children = children_of(u32::try_from(pid)?)?;
        Ok(children.into_iter().filter(|(_, name)| is_datastore(name)).map(|(pid, _)| pid).collect())
    }

    /// Waits until the daemon ends by itself; its exit status (134 after an abort).
    ///
    /// # Errors
    /// When it still runs after `deadline`.
    pub fn wait_end(&self, deadline: Duration) -> Result<i32> {
        let pid = self.pid().context("the daemon has been ended already")?;
        let code = wait_for("oned to end", deadline, || self.supervisor.status(pid))?;
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(code)
    }

    /// A command of ours with the environment that leads it to this daemon and to no other.
    ///
    /// # Errors
    /// When the tool is not built.
    pub fn command(&self, tool: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(place::tool(tool)?);
        command
            .args(arguments)
            .env("ONE_AUTH", self.one("one_auth"))
            .env("ONE_XMLRPC", self.endpoint()?)
            .env("HOME", &self.state)
            .env("ONE_PAGER", "cat")
            .env("TZ", "UTC");
        Ok(command)
    }

    fn prepare(options: Options) -> Result<Self> {
        let temporary = match &options.state {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("one").tempdir_in("/tmp")?),
        };
        let state = options.state.clone().or(temporary.as_ref().map(|dir| dir.path().to_owned()));
        let state = state.context("no state directory")?;
        fs::create_dir_all(&state).with_context(|| state.display().to_string())?;
        Ok(Self { options, state, pid: Mutex::new(None), supervisor: Supervisor::new()?, _temporary: temporary })
    }

    fn launch(&self, more_env: &BTreeMap<String, String>) -> Result<()> {
        // A killed daemon leaves its address behind, and port 0 will give another.
        fs::remove_file(self.one("one_endpoint")).ok();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut argv = vec![
            text(&place::binary("oned")?),
            "--state-dir".into(),
            text(&self.state),
            "--listen".into(),
            "127.0.0.1:0".into(),
        ];
        if !self.options.conf.is_empty() {
            let conf = self.state.join("oned.conf");
            fs::write(&conf, &self.options.conf)?;
            argv.extend(["--config".into(), text(&conf)]);
        }
        let env = self.options.env.iter().chain(more_env).map(|(name, value)| (name.clone(), Some(value.clone())));
        // Whoever runs the tests may have a session file of a daemon of his own.
        let env = std::iter::once(("ONE_AUTH".to_owned(), None)).chain(env);
        let env = env.chain([("HOME".into(), Some(text(&self.state)))]).collect();
        let pid = self.supervisor.start(&Order { argv, env, log: self.log() })?;
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        Ok(())
    }

    fn wait_answering(&self) -> Result<()> {
        let pid = self.pid().context("the daemon has been ended")?;
        wait_for("oned to answer", Duration::from_secs(120), || {
            if let Some(code) = self.supervisor.status(pid)? {
                bail!("oned ended at once with status {code}");
            }
            Ok(self.call("one.system.version", &[]).ok().filter(|answer| answer.text().is_ok()))
        })
        .map(drop)
        .with_context(|| format!("oned's log ends with:\n{}", tail(&self.log(), 30)))
    }

    fn end(&self, signal: Signal) -> Result<Option<i32>> {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner).take();
        pid.map(|pid| self.supervisor.end(pid, signal, Duration::from_secs(60))).transpose()
    }

    fn one(&self, name: &str) -> PathBuf {
        self.state.join(".one").join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "what a person needs who reads a failed test")]
            {
                eprintln!("--- the log of oned in {} ends with:\n{}", self.state.display(), tail(&self.log(), 60));
            }
        }
        self.end(Signal::TERM).ok();
    }
}

/// Whether a child of the daemon serves a datastore: by the name that it gives itself, or the one that it has before.
fn is_datastore(name: &str) -> bool {
    ["oned-datastore", "exe"].contains(&name)
}

/// The id in the output of a creating command: `ID: 7`, `VM ID: 7`.
///
/// # Errors
/// When there is none.
pub fn id_in(output: &str) -> Result<i64> {
    labelled(output, "ID")?.first().copied().with_context(|| format!("no id in {output:?}"))
}

/// The numbers behind a label that ends a line's first half: `Images: 2 3` under `Images`.
///
/// # Errors
/// When the label is not there.
pub fn labelled(output: &str, label: &str) -> Result<Vec<i64>> {
    let line = output.lines().find_map(|line| {
        let (before, after) = line.split_once(':')?;
        (before == label || before.ends_with(&format!(" {label}"))).then_some(after)
    });
    let line = line.with_context(|| format!("no line \"{label}: …\" in {output:?}"))?;
    line.split_whitespace().map(|word| word.parse().with_context(|| format!("{line:?} is not numbers"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_what_the_commands_print() {
        assert_eq!(id_in("ID: 7\n").unwrap(), 7);
        assert_eq!(id_in("waiting\nVM ID: 12\n").unwrap(), 12);
        let restore = "VM Template: 1\nImages: 2 3\n";
        assert_eq!(labelled(restore, "Template").unwrap(), [1]);
        assert_eq!(labelled(restore, "Images").unwrap(), [2, 3]);
        assert!(id_in("nothing").is_err());
    }
}
