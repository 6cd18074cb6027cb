//! Running outside programs, always with a deadline.
//!
//! Not a shell: arguments are passed as they are. A program that outlives its deadline is killed and reported
//! with what it had said until then.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// How long an ordinary call (a CLI command, a `virsh` verb, a `qemu-img` over a small file) may take.
pub const ORDINARY: Duration = Duration::from_secs(60);
/// How long a call may take that moves a disk or boots a guest.
pub const LONG: Duration = Duration::from_secs(300);

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// Everything written to standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Everything written to standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// The exit status; 128 + signal number when a signal ended the program, as a shell counts it.
    pub code: i32,
}

impl Output {
    /// True when the exit status is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }

    /// Standard output when the program succeeded, else an error that holds `what`, the status and both streams.
    ///
    /// # Errors
    /// When the exit status is not 0.
    pub fn checked(self, what: &str) -> Result<String> {
        if self.success() {
            return Ok(self.stdout);
        }
        bail!("{what} ended with status {}\n{}{}", self.code, self.stderr, self.stdout)
    }
}

/// Runs `command` without input until it ends or `deadline` has passed.
///
/// # Errors
/// When the program cannot be started (the message names the package that has it, where we know) or is too slow.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Output> {
    run_with_input(command, None, deadline)
}

/// As [`run`], with `input` on standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: Option<&[u8]>, deadline: Duration) -> Result<Output> {
    run_watched(command, input, deadline, &mut || Ok(false))
}

/// As [`run`], but the program is killed as soon as `pointless` says so; the status is then that of a kill.
///
/// # Errors
/// As [`run`], and the probe's own error.
pub fn run_unless(
    command: &mut Command,
    deadline: Duration,
    pointless: &mut dyn FnMut() -> Result<bool>,
) -> Result<Output> {
    run_watched(command, None, deadline, pointless)
}

fn run_watched(
    command: &mut Command,
    input: Option<&[u8]>,
    deadline: Duration,
    pointless: &mut dyn FnMut() -> Result<bool>,
) -> Result<Output> {
    let what = spell(command);
    let mut child = with_sbin(command)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            let program = command.get_program().to_string_lossy().into_owned();
            format!("{program} cannot be started; install it with: apt-get install {}", package_of(&program))
        })?;
    if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), input.map(<[u8]>::to_vec)) {
        // A program that does not read its input ends without it; that is its own affair.
        std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| what.clone())? {
            break status;
        }
        if pointless()? {
            child.kill().ok();
            break child.wait().with_context(|| what.clone())?;
        }
        if Instant::now() > end {
            child.kill().ok();
            child.wait().ok();
            bail!("{what} did not end within {deadline:?}\n{}{}", received(&stderr), received(&stdout));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let code = status.code().unwrap_or_else(|| {
        use std::os::unix::process::ExitStatusExt;
        128 + status.signal().unwrap_or(0)
    });
    Ok(Output { stdout: received(&stdout), stderr: received(&stderr), code })
}

/// Runs `program` with `arguments`; its standard output when it succeeds.
///
/// # Errors
/// As [`run`], and when the exit status is not 0.
pub fn output<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    run(&mut command, LONG)?.checked(&spell(&command))
}

/// Waits until `probe` says something other than `None`.
///
/// # Errors
/// When `deadline` has passed, naming `what`; or the probe's own error.
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("waited {deadline:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The command as one would type it, for messages. Environment variables (they may hold secrets) are left out.
#[must_use]
pub fn spell(command: &Command) -> String {
    let mut text = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        text.push(' ');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            text.push_str(&argument);
        } else {
            text.push('\'');
            text.push_str(&argument.replace('\'', "'\\''"));
            text.push('\'');
        }
    }
    text
}

/// Runs `command` without input and shows what it writes while it writes it: standard output is passed on and kept,
/// standard error is the caller's own, so that a progress bar finds its terminal.
///
/// # Errors
/// As [`run`].
pub fn run_shown(command: &mut Command, deadline: Duration) -> Result<Output> {
    let what = spell(command);
    let mut child = with_sbin(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what} cannot be started"))?;
    let pipe = collect(child.stdout.take());
    let end = Instant::now() + deadline;
    let mut bytes = Vec::new();
    while let Ok(part) = pipe.recv_timeout(end.saturating_duration_since(Instant::now())) {
        std::io::stdout().write_all(&part).and_then(|()| std::io::stdout().flush()).ok();
        bytes.extend(part);
    }
    if Instant::now() > end {
        child.kill().ok();
        child.wait().ok();
        bail!("{what} did not end within {deadline:?}");
    }
    let code = child.wait()?.code().unwrap_or(128);
    Ok(Output { stdout: String::from_utf8_lossy(&bytes).into_owned(), stderr: String::new(), code })
}

/// Runs `command` without input, its standard output into a new file.
///
/// # Errors
/// As [`run`], and when the exit status is not 0.
pub fn run_into(command: &mut Command, file: &Path, deadline: Duration) -> Result<()> {
    let what = spell(command);
    let target = File::create(file).with_context(|| format!("making {}", file.display()))?;
    let mut child = with_sbin(command)
        .stdin(Stdio::null())
        .stdout(target)
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| what.clone())?;
    let stderr = collect(child.stderr.take());
    let status = wait_for(&what, deadline, || Ok(child.try_wait()?));
    let Ok(status) = status else {
        child.kill().ok();
        child.wait().ok();
        bail!("{what} did not end within {deadline:?}\n{}", received(&stderr));
    };
    if !status.success() {
        bail!("{what} ended with {status}\n{}", received(&stderr));
    }
    Ok(())
}

/// Runs `command` without input; the SHA-256 in hexadecimal of all it writes to standard output.
///
/// # Errors
/// As [`run`], and when the exit status is not 0.
pub fn digest_of_output(command: &mut Command, deadline: Duration) -> Result<String> {
    let what = spell(command);
    let mut child = with_sbin(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| what.clone())?;
    let stderr = collect(child.stderr.take());
    let mut pipe = child.stdout.take().context("no pipe")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            hash.update(&buffer[..count]);
        }
        sender.send(hex(&hash.finalize())).ok();
    });
    let Ok(digest) = receiver.recv_timeout(deadline) else {
        child.kill().ok();
        child.wait().ok();
        bail!("{what} did not end within {deadline:?}\n{}", received(&stderr));
    };
    let status = child.wait()?;
    if !status.success() {
        bail!("{what} ended with {status}\n{}", received(&stderr));
    }
    Ok(digest)
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// libvirtd, mkfs and their like lie where an ordinary user's PATH does not lead.
fn with_sbin(command: &mut Command) -> &mut Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"))
}

/// Reads a pipe to its end in a thread. The channel, unlike a join, cannot be held up by a grandchild that
/// inherited the pipe.
pub(crate) fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count) = pipe.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// What has come through so far; waits for the end of the pipe, but not longer than two seconds.
pub(crate) fn received(pipe: &mpsc::Receiver<Vec<u8>>) -> String {
    let end = Instant::now() + Duration::from_secs(2);
    let mut bytes = Vec::new();
    while let Ok(part) = pipe.recv_timeout(end.saturating_duration_since(Instant::now())) {
        bytes.extend(part);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn package_of(program: &str) -> &str {
    match program {
        "virsh" => "libvirt-clients",
        "libvirtd" => "libvirt-daemon-system",
        "qemu-img" | "qemu-nbd" | "qemu-io" => "qemu-utils",
        "qemu-system-x86_64" => "qemu-system-x86",
        "xmllint" => "libxml2-utils",
        "busybox" => "busybox-static",
        "mkfs.ext4" => "e2fsprogs",
        "unshare" => "util-linux",
        "nbdinfo" | "nbdcopy" => "libnbd-bin",
        "ssh-keygen" => "openssh-client",
        "mount" | "umount" => "mount",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_and_named() {
        // How long a shell needs to say something depends on what else is going on.
        let mut errors = [1, 10, 60].into_iter().map(|seconds| {
            let mut sleep = Command::new("sh");
            sleep.args(["-c", "echo before; exec sleep 600"]);
            (seconds, run(&mut sleep, Duration::from_secs(seconds)).unwrap_err().to_string())
        });
        let (seconds, error) = errors.find(|(_, error)| error.contains("\nbefore")).unwrap();
        let begin = format!("sh -c 'echo before; exec sleep 600' did not end within {seconds}s");
        assert!(error.starts_with(&begin), "{error}");
    }

    #[test]
    fn status_and_both_streams_come_back() {
        let mut sh = Command::new("sh");
        sh.args(["-c", "cat; echo oops >&2; exit 3"]);
        let out = run_with_input(&mut sh, Some(b"in"), ORDINARY).unwrap();
        assert_eq!((out.stdout.as_str(), out.stderr.as_str(), out.code), ("in", "oops\n", 3));
    }
}
