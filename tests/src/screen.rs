//! One shell line as a user runs it: on a terminal of a given width, or with its output in a pipe.
//!
//! On a terminal standard input and output are a pseudo terminal; standard error is a pipe in either case, so that
//! progress does not mix with results. The environment is what the caller gives and nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::command::{Output, collect, received};

/// How long the output has to be silent before an interrupt is sent.
const SILENCE: Duration = Duration::from_millis(300);

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// A terminal of so many columns.
    Terminal(u16),
    /// A pipe; standard input is empty.
    Pipe,
}

impl Screen {
    /// `80`, `200`, `pipe`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Terminal(columns) => columns.to_string(),
            Self::Pipe => "pipe".into(),
        }
    }
}

/// A line for the shell.
#[derive(Debug)]
pub struct Line<'a> {
    /// The text, here-documents with it.
    pub text: &'a str,
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// Where it runs.
    pub directory: &'a Path,
    /// After this it is killed, with all that it started.
    pub deadline: Duration,
    /// On a terminal, press Ctrl-C when it has printed a line and is silent.
    pub interrupt: bool,
}

/// Runs a line to its end.
///
/// # Errors
/// When it does not end in time, with what it has said until then.
pub fn run(line: &Line<'_>, screen: Screen) -> Result<Output> {
    // Whoever runs us in the background may have handed down that interrupts are ignored.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT,QUIT", "setsid"])
        .env_clear()
        .envs(line.env)
        .current_dir(line.directory)
        .stderr(Stdio::piped());
    let (mut child, stdout) = match screen {
        Screen::Pipe => {
            command.args(["sh", "-c", line.text]).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = start(&mut command)?;
            let pipe = collect(child.stdout.take());
            (child, pipe)
        }
        Screen::Terminal(columns) => {
            let (ours, theirs) = terminal(columns)?;
            command.args(["--ctty", "sh", "-c", line.text]).stdin(theirs.try_clone()?).stdout(theirs);
            let child = start(&mut command)?;
            // The command holds ends of the terminal, and while one is open its output has no end.
            drop(command);
            (child, collect(Some(ours)))
        }
    };
    let stderr = collect(child.stderr.take());
    let early = if line.interrupt && screen != Screen::Pipe {
        interrupt_when_silent(&child, &stdout, line.deadline)?
    } else {
        Vec::new()
    };
    let code = wait(&mut child, line.deadline);
    let stdout = String::from_utf8_lossy(&early).into_owned() + &received(&stdout);
    let stderr = received(&stderr);
    match code? {
        Some(code) => Ok(Output { stdout, stderr, code }),
        None => bail!("{} did not end within {:?}\n{stdout}{stderr}", line.text, line.deadline),
    }
}

fn start(command: &mut Command) -> Result<Child> {
    command.spawn().context("setsid cannot be started; install it with: apt-get install util-linux")
}

/// Both ends of a new terminal that passes on every byte as it is and echoes nothing.
fn terminal(columns: u16) -> Result<(File, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("openpt")?;
    grantpt(&ours).context("grantpt")?;
    unlockpt(&ours).context("unlockpt")?;
    let name = ptsname(&ours, Vec::new()).context("ptsname")?;
    let theirs = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let mut modes = tcgetattr(&theirs).context("tcgetattr")?;
    modes.output_modes.remove(OutputModes::OPOST);
    modes.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&theirs, OptionalActions::Now, &modes).context("tcsetattr")?;
    tcsetwinsize(&theirs, Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
        .context("tcsetwinsize")?;
    Ok((ours.into(), theirs.into()))
}

/// Sends Ctrl-C's signal once there is a line of output and nothing follows it; the output until then.
fn interrupt_when_silent(child: &Child, stdout: &Receiver<Vec<u8>>, deadline: Duration) -> Result<Vec<u8>> {
    let end = Instant::now() + deadline;
    let mut bytes = Vec::new();
    loop {
        match stdout.recv_timeout(SILENCE) {
            Ok(part) => bytes.extend(part),
            Err(RecvTimeoutError::Disconnected) => return Ok(bytes),
            Err(RecvTimeoutError::Timeout) if bytes.contains(&b'\n') => {
                signal(child, Signal::INT)?;
                return Ok(bytes);
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() > end => return Ok(bytes),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The exit status (128 + signal number, as a shell counts it); none when it had to be killed.
fn wait(child: &mut Child, deadline: Duration) -> Result<Option<i32>> {
    use std::os::unix::process::ExitStatusExt as _;
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))));
        }
        if Instant::now() > end {
            signal(child, Signal::KILL)?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The child leads a session, and a process group, of its own.
fn signal(child: &Child, signal: Signal) -> Result<()> {
    if let Some(group) = Pid::from_raw(i32::try_from(child.id())?) {
        kill_process_group(group, signal).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(text: &str, screen: Screen, interrupt: bool) -> Output {
        let env = BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]);
        let deadline = Duration::from_secs(60);
        run(&Line { text, env: &env, directory: Path::new("/"), deadline, interrupt }, screen).unwrap()
    }

    #[test]
    fn a_terminal_has_its_width_and_a_pipe_is_none() {
        let text = "stty size; test -t 0 && test -t 1 && : < /dev/tty; echo $? >&2";
        let seen = played(text, Screen::Terminal(123), false);
        assert_eq!((seen.stdout.as_str(), seen.stderr.as_str()), ("50 123\n", "0\n"));
        let seen = played("test -t 0 || test -t 1 || (: < /dev/tty); echo $?; exit 3", Screen::Pipe, false);
        assert_eq!((seen.stdout.as_str(), seen.code), ("2\n", 3));
    }

    #[test]
    fn an_interrupt_comes_after_the_output() {
        let seen = played("echo before; exec sleep 600", Screen::Terminal(80), true);
        assert_eq!((seen.stdout.as_str(), seen.code), ("before\n", 130));
    }

    #[test]
    fn what_hangs_is_killed_with_all_that_it_started() {
        let env = BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]);
        let killed_after = |deadline: Duration| {
            let text = "echo before; sleep 600 | sleep 600";
            let line = Line { text, env: &env, directory: Path::new("/"), deadline, interrupt: false };
            run(&line, Screen::Terminal(80)).unwrap_err().to_string()
        };
        // How long a shell needs to say something depends on what else is going on.
        let mut errors = [1, 10, 60].into_iter().map(Duration::from_secs).map(killed_after);
        let error = errors.find(|error| error.ends_with("before\n")).unwrap();
        assert!(error.contains("did not end"), "{error}");
    }
}
