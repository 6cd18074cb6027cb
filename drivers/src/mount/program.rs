//! Running mount(8) and its kin: no shell, no input, in a process group of its own, with an end in time.
//!
//! A process that waits for a dead server may not even be killable. It is left behind then: a thread reaps it when the
//! server comes back or the file system is given up, and the caller gets its answer in time.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::Cancel;

/// What is kept of a program's words.
const MAX_WORDS_BYTES: u64 = 8 << 10;
/// How long a killed process may take to go before it is left behind.
const GRACE: Duration = Duration::from_millis(300);

/// Mount points with a process that could not be ended, as often as there are such processes.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Status 0.
    Success,
    /// Another status, with the program's words on one line.
    Failure(String),
    /// It did not end in time.
    TooSlow,
    /// The stop was asked for; the program was ended.
    Cancelled,
}

/// Runs `argv` on behalf of `point`, at most for `within`.
///
/// # Errors
/// When the program cannot be started.
pub(super) fn run(argv: &[OsString], point: &Path, within: Duration, cancel: &Cancel) -> io::Result<Outcome> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut words = words_file()?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", path_with_sbin())
        // Its words are looked at.
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(words.try_clone()?)
        .stderr(words.try_clone()?)
        .process_group(0)
        .spawn()?;
    let end = Instant::now().checked_add(within);
    let in_time = || end.is_none_or(|end| Instant::now() < end);
    match wait_while(&mut child, &mut || in_time() && !cancel.is_cancelled())? {
        Some(status) if status.success() => Ok(Outcome::Success),
        Some(status) => Ok(Outcome::Failure(said(&mut words, status))),
        None => {
            put_down(child, point);
            Ok(if cancel.is_cancelled() { Outcome::Cancelled } else { Outcome::TooSlow })
        }
    }
}

/// Whether a process for `point` had to be left behind and still waits.
pub(super) fn is_left(point: &Path) -> bool {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|left| left == point)
}

/// Takes what programs write. Not a pipe: file systems in user space go on with the mount's output streams as their own, and
/// would block on a full pipe or die of a closed one. The kernel refuses what goes beyond its length.
fn words_file() -> io::Result<File> {
    let file = rustix::fs::memfd_create("words", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, MAX_WORDS_BYTES)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file.into())
}

/// The program's words on one line.
fn said(words: &mut File, status: ExitStatus) -> String {
    // The offset is shared with the program.
    let length = words.stream_position().unwrap_or(0).min(MAX_WORDS_BYTES);
    let mut bytes = Vec::new();
    let read = words.seek(SeekFrom::Start(0)).and_then(|_| words.take(length).read_to_end(&mut bytes));
    let text = read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned());
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line: String = lines.join("; ").chars().filter(|c| !c.is_control()).take(400).collect();
    match (line.is_empty(), status.code(), status.signal()) {
        (false, ..) => line,
        (true, Some(code), _) => format!("it ended with status {code}"),
        (true, None, signal) => format!("it was ended by signal {}", signal.unwrap_or(0)),
    }
}

/// The status, or `None` as soon as `go_on` says no.
fn wait_while(child: &mut Child, go_on: &mut dyn FnMut() -> bool) -> io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if !go_on() {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}

/// Ends the whole group. What does not go (it waits in the kernel, or runs as another user) is left to a thread.
fn put_down(mut child: Child, point: &Path) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended just now, or belong to root behind sudo.
        kill_process_group(group, Signal::KILL).ok();
    }
    let end = Instant::now() + GRACE;
    if let Ok(Some(_)) = wait_while(&mut child, &mut || Instant::now() < end) {
        return;
    }
    tracing::warn!("process {} for {} cannot be ended; it goes when the server answers", child.id(), point.display());
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(point.to_owned());
    let point = point.to_owned();
    std::thread::spawn(move || {
        drop(child.wait());
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = left.iter().position(|other| *other == point) {
            left.swap_remove(at);
        }
    });
}

/// mount's own programs lie where an ordinary user's PATH does not lead.
fn path_with_sbin() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsStr::new(if path.is_empty() { "/usr/bin:/bin:/usr/sbin:/sbin" } else { ":/usr/sbin:/sbin" }));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, within: Duration) -> Outcome {
        let argv = ["sh", "-c", script].map(OsString::from);
        run(&argv, Path::new("/nowhere"), within, &Cancel::default()).unwrap()
    }

    #[test]
    fn status_and_words_come_back_and_words_are_bounded() {
        let long = Duration::from_secs(30);
        assert_eq!(sh("exit 0", long), Outcome::Success);
        assert_eq!(sh("echo one; echo two >&2; exit 3", long), Outcome::Failure("one; two".into()));
        assert_eq!(sh("exit 4", long), Outcome::Failure("it ended with status 4".into()));
        assert_eq!(sh("kill -9 $$", long), Outcome::Failure("it was ended by signal 9".into()));
        let Outcome::Failure(words) = sh("yes word 2>&1 | head -c 100000; exit 1", long) else { panic!() };
        assert!(words.starts_with("word; word") && words.chars().count() <= 400, "{words}");
    }

    #[test]
    fn a_slow_program_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        assert_eq!(sh(&script, Duration::from_millis(500)), Outcome::TooSlow);
        let pid = std::fs::read_to_string(file).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let end = Instant::now() + Duration::from_secs(30);
        // Gone, or a zombie that nobody has reaped yet.
        while state().is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < end, "process {pid} is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_cancel_ends_the_program() {
        let cancel = Cancel::default();
        cancel.cancel();
        let argv = ["sleep", "600"].map(OsString::from);
        let outcome = run(&argv, Path::new("/nowhere"), Duration::from_secs(600), &cancel).unwrap();
        assert_eq!(outcome, Outcome::Cancelled);
    }
}
