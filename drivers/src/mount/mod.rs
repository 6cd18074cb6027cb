//! Mounting the share behind a datastore: `mount -t TYPE -o OPTIONS ADDRESS POINT`, for every type that mount(8) knows.
//!
//! One mount per point, kept until somebody unmounts it. Facts come from the kernel's table of mounts, looked up by the
//! mount point; the share itself is only touched by processes that can be left behind, so a dead server is an error within
//! the deadline. Only mount(8) and umount(8) need privileges; how to give them is in `docs/shares.md`.
//!
//! What it adds to the administrator's options:
//! - `nosuid,nodev`, unless `suid` or `dev` is given: a backup store has no use for them;
//! - nfs: `retry=0`, since mount.nfs would go on for two minutes by itself (nfs(5)); and the version 4.2, then 4.1, then
//!   whatever the two agree upon, unless a version is given;
//! - cifs: `nobrl`, unless it says something about locks: QEMU's byte-range locks are mandatory there;
//! - cifs, ceph: `credentials=FILE`, `secretfile=FILE`; the files are gone when mount has returned.
//!
//! What it does not add: `soft`. A hard mount (the default of NFS) never reports a write as failed that reached the server
//! later, nor the other way round; what protects the daemon from waiting for ever is that whoever works on the share can be
//! killed, and a process that waits for NFS can. An administrator who prefers errors says `soft,timeo=…` himself: all that
//! we write is fsynced before it is published, so an error is never lost.
//!
//! Invariants: nothing is mounted over another mount or over files; nothing is unmounted that is not ours; no secret is in
//! an argument, an error or the log; an empty list of options gives no `-o`.

mod options;
mod probe;
mod program;
mod table;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Cancel, DriverError, Kind, Result, Secret};
use program::Outcome;
use table::Mounted;

pub use probe::{claim_group, probe_writable};

/// The type that means: `mount POINT` alone; the rest stands in /etc/fstab.
pub const FSTAB: &str = "fstab";

/// The longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(64);

/// A mount, and how it is made.
#[derive(Debug, Clone)]
pub struct MountSpec {
    /// The type for mount(8), or [`FSTAB`].
    pub kind: String,
    /// The share, as mount(8) takes it. With [`FSTAB`] the source in /etc/fstab.
    pub address: String,
    /// Options, one per item, as after `-o`.
    pub options: Vec<String>,
    /// Options whose values are secret: `password` (and `username`, `domain`, `password2`) for cifs, `secret` for ceph.
    pub secrets: Vec<(String, Secret)>,
    /// Where; a directory that is made when it is not there. Everything above it is local.
    pub point: PathBuf,
    /// How often it is tried, at least once; the waits between are 1, 2, 4 … seconds.
    pub attempts: u32,
    /// For each attempt, for a look whether the server answers, and for unmounting.
    pub timeout: Duration,
    /// What stands before `mount` and `umount`, e.g. `["sudo", "-n"]`; nothing for root, and for [`FSTAB`] with `user`.
    pub privileged: Vec<String>,
    /// A local directory of ours (mode 0700; made when it is not there) for locks, credentials and notes.
    pub run_dir: PathBuf,
}

/// What is at the mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountState {
    /// Nothing.
    Absent,
    /// The share.
    Ours,
    /// Something else.
    Foreign {
        /// Its source and type.
        what: String,
    },
}

/// What was asked for when the mount was made, and how the kernel calls it: a ceph mount shows other monitors than those
/// that were named.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Note {
    address: String,
    kind: String,
    shown_source: String,
    shown_kind: String,
}

impl MountSpec {
    /// Sees to it that the share is mounted and its server answers; makes the mount point when it is not there. Safe to
    /// call from several processes at once.
    ///
    /// A mount whose server process died, or whose handle went stale, is made anew. Each attempt takes at most `timeout`, and
    /// as long again to clean up after a mount program that had to be killed; waiting for another process that is just
    /// mounting takes no longer than mounting.
    ///
    /// # Errors
    /// `Permanent` for what mount(8) would misread, for something else at the mount point (named), for files in the bare
    /// directory, for a missing program; `Cancelled`; `Retry` with the words of each try, and for a server that does not
    /// answer.
    pub fn ensure(&self, cancel: &Cancel) -> Result<()> {
        self.checked()?;
        let _held = self.lock(cancel)?;
        match self.state()? {
            MountState::Ours => {
                if self.answers(cancel)? {
                    return Ok(());
                }
                tracing::warn!("{} at {} is dead; it is mounted anew", self.address, self.point.display());
                self.take_away(true, cancel)?;
            }
            MountState::Foreign { what } => return Err(self.failed(Kind::Permanent, foreign(&what))),
            MountState::Absent => {}
        }
        self.make_point()?;
        let mut tries = Vec::new();
        for attempt in 0..self.attempts.max(1) {
            if attempt > 0 {
                pause(Duration::from_secs(1 << (attempt - 1).min(6)).min(MAX_WAIT), cancel)?;
            }
            if self.attempt(&mut tries, cancel)? {
                tracing::info!("mounted {} ({}) at {}", self.address, self.kind, self.point.display());
                return Ok(());
            }
        }
        Err(self.failed(Kind::Retry, tries.join("; ")))
    }

    /// What is at the mount point, by the kernel's table; waits for no server.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn state(&self) -> Result<MountState> {
        Ok(match self.mounted()? {
            None => MountState::Absent,
            Some(found) if self.is_ours(&found) => MountState::Ours,
            Some(found) => MountState::Foreign { what: found.to_string() },
        })
    }

    /// Takes the mount away; nothing happens when there is none. umount's words count only when it is still there.
    ///
    /// `force` also takes it away from a server that does not answer and from those who use it: they get errors, and what
    /// they wrote and did not fsync is lost. Takes at most three times `timeout`.
    ///
    /// # Errors
    /// `Permanent` for a mount that is not ours; `Retry` when it is in use or the server does not answer.
    pub fn unmount(&self, force: bool) -> Result<()> {
        self.checked()?;
        let cancel = Cancel::default();
        let _held = self.lock(&cancel)?;
        match self.state()? {
            MountState::Absent => Ok(()),
            MountState::Foreign { what } => Err(self.failed_unmount(Kind::Permanent, foreign(&what))),
            MountState::Ours => self.take_away(force, &cancel),
        }
    }

    fn take_away(&self, force: bool, cancel: &Cancel) -> Result<()> {
        // Without -c umount looks at the point, which may wait for a dead server. -f ends requests that are waiting,
        // -l takes the point away whoever still uses it.
        let ways: &[&[&str]] = if force { &[&[], &["-c", "-f"], &["-c", "-l"]] } else { &[&[]] };
        let mut words = Vec::new();
        for flags in ways {
            let mut argv = self.command("umount");
            argv.extend(flags.iter().map(OsString::from));
            argv.push(self.point.clone().into());
            let outcome = program::run(&argv, &self.point, self.timeout, cancel);
            let outcome = outcome.map_err(|error| self.not_started("umount", error))?;
            if self.mounted()?.is_none_or(|left| !self.is_ours(&left)) {
                drop(fs::remove_file(self.file("json")));
                return Ok(());
            }
            words.push(match outcome {
                Outcome::Success => "umount succeeded, but the share is still mounted".to_owned(),
                Outcome::Failure(words) => words,
                Outcome::TooSlow => format!("umount did not end within {} s", self.timeout.as_secs_f32()),
                Outcome::Cancelled => return Err(DriverError::cancelled()),
            });
        }
        Err(self.failed_unmount(Kind::Retry, words.join("; ")))
    }

    /// One attempt with each version of the protocol, all within `timeout`. True when the share is mounted then.
    fn attempt(&self, tries: &mut Vec<String>, cancel: &Cancel) -> Result<bool> {
        let end = Instant::now() + self.timeout;
        for version in options::versions(&self.kind, &self.options).iter().copied() {
            cancel.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let outcome = self.mount_once(version, left, cancel)?;
            let succeeded = outcome == Outcome::Success;
            let failure = match outcome {
                Outcome::Cancelled => return Err(DriverError::cancelled()),
                Outcome::TooSlow => format!("the server did not answer within {} s", self.timeout.as_secs_f32()),
                Outcome::Success => "mount succeeded, but nothing is mounted".to_owned(),
                Outcome::Failure(words) => words,
            };
            // Whatever mount said, the table knows: another process may have mounted it ("busy or already mounted"), and
            // a program that had to be killed may have left a mount that nobody serves.
            if let Some(found) = self.mounted()? {
                if succeeded {
                    self.note(&found)?;
                    return Ok(true);
                }
                if !self.is_ours(&found) {
                    return Err(self.failed(Kind::Permanent, foreign(&found.to_string())));
                }
                if self.answers(cancel)? {
                    return Ok(true);
                }
                self.take_away(true, cancel)?;
            }
            let tried = version.map_or_else(|| failure.clone(), |version| format!("{version}: {failure}"));
            if !tries.contains(&tried) {
                tries.push(tried);
            }
        }
        Ok(false)
    }

    fn mount_once(&self, version: Option<&str>, within: Duration, cancel: &Cancel) -> Result<Outcome> {
        let mut argv = self.command("mount");
        let mut credentials = None;
        if self.kind != FSTAB {
            let mut list = options::complete(&self.kind, &self.options, version);
            if let Some(name) = options::credentials_option(&self.kind).filter(|_| !self.secrets.is_empty()) {
                let file = self.credentials()?;
                list.push(format!("{name}={}", file.0.display()));
                credentials = Some(file);
            }
            argv.extend(["-t".into(), self.kind.clone().into()]);
            if !list.is_empty() {
                argv.extend(["-o".into(), list.join(",").into()]);
            }
            argv.push(self.address.clone().into());
        }
        argv.push(self.point.clone().into());
        let outcome = program::run(&argv, &self.point, within, cancel);
        drop(credentials);
        outcome.map_err(|error| self.not_started("mount", error))
    }

    /// Whether the file system answers; false when it never will again. Asked by a process that can be left behind.
    fn answers(&self, cancel: &Cancel) -> Result<bool> {
        let silent = || self.failed(Kind::Retry, "it is mounted, but the server does not answer");
        // One process that waits is enough.
        if program::is_left(&self.point) {
            return Err(silent());
        }
        let mut argv = ["stat", "-f", "-c", "%T", "--"].map(OsString::from).to_vec();
        argv.push(self.point.clone().into());
        let outcome = program::run(&argv, &self.point, self.timeout, cancel);
        match outcome.map_err(|error| self.not_started("stat", error))? {
            Outcome::Success => Ok(true),
            Outcome::Failure(words) if words.contains("not connected") || words.contains("tale file handle") => {
                Ok(false)
            }
            Outcome::Failure(words) => Err(self.failed(Kind::Retry, words)),
            Outcome::TooSlow => Err(silent()),
            Outcome::Cancelled => Err(DriverError::cancelled()),
        }
    }

    /// What the table shows at the point.
    fn mounted(&self) -> Result<Option<Mounted>> {
        match table::resolved(&self.point)? {
            Some(point) => table::at(&point),
            None => Ok(None),
        }
    }

    fn is_ours(&self, found: &Mounted) -> bool {
        let source = table::bytes(&found.source);
        let device = || {
            let address = Path::new(&self.address);
            // Names of devices are links, both here and in the table. Only they are looked at: they are local.
            let real = |path: &Path| path.starts_with("/dev").then(|| path.canonicalize().ok()).flatten();
            real(address).is_some_and(|device| real(Path::new(&found.source)) == Some(device))
        };
        let named = table::same_source(self.address.as_bytes(), source) || device();
        (named && table::same_kind(&self.kind, &found.kind))
            || self.noted().is_some_and(|note| note == self.note_of(found))
    }

    fn note_of(&self, found: &Mounted) -> Note {
        Note {
            address: self.address.clone(),
            kind: self.kind.clone(),
            shown_source: found.source.to_string_lossy().into_owned(),
            shown_kind: found.kind.clone(),
        }
    }

    fn noted(&self) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.file("json")).ok()?).ok()
    }

    /// Writes down under which name the kernel shows what we have just mounted.
    fn note(&self, found: &Mounted) -> Result<()> {
        let failed = |error: io::Error| DriverError::io(self.doing(), error);
        let text = serde_json::to_vec(&self.note_of(found)).map_err(|error| failed(error.into()))?;
        let new = self.file("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, self.file("json"))).map_err(failed)
    }

    fn make_point(&self) -> Result<()> {
        let failed =
            |error: io::Error| DriverError::io(format!("making the mount point {}", self.point.display()), error);
        if let Some(above) = self.point.parent() {
            fs::create_dir_all(above).map_err(failed)?;
        }
        // Without the write permission nobody but root fills the bare directory by mistake. fusermount(1) wants it.
        let by_user =
            self.kind.starts_with("fuse") && self.privileged.is_empty() && !rustix::process::geteuid().is_root();
        match DirBuilder::new().mode(if by_user { 0o700 } else { 0o500 }).create(&self.point) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map_err(failed),
        }
        // Nothing is mounted there, so it is a local directory.
        let first = fs::read_dir(&self.point).map_err(failed)?.next().transpose().map_err(failed)?;
        match first {
            None => Ok(()),
            Some(entry) => {
                let name = entry.file_name().to_string_lossy().into_owned();
                let reason = format!("the mount point is not empty (it holds '{name}'); move what is in it away first");
                Err(self.failed(Kind::Permanent, reason))
            }
        }
    }

    fn credentials(&self) -> Result<Credentials> {
        let path = self.file("credentials");
        let failed = |error: io::Error| DriverError::io(format!("writing {}", path.display()), error);
        // One that a killed process left behind; the lock is ours.
        drop(fs::remove_file(&path));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let credentials = Credentials(path.clone());
        options::write_credentials(&self.kind, &self.secrets, file).map_err(failed)?;
        Ok(credentials)
    }

    /// One at a time for each mount point, over processes and threads.
    fn lock(&self, cancel: &Cancel) -> Result<File> {
        let failed = |error: io::Error| DriverError::io(self.doing(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.run_dir).map_err(failed)?;
        let path = self.file("lock");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        let waits: Duration = (1..self.attempts.min(30)).map(|n| Duration::from_secs(1 << (n - 1).min(6))).sum();
        let end = Instant::now() + self.timeout.saturating_mul(self.attempts.max(3)).saturating_add(waits);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(self.failed(Kind::Retry, "another process is mounting or unmounting there"));
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Refuses what mount(8) would take for something else. Better sentences are the business of whoever made the spec.
    fn checked(&self) -> Result<()> {
        options::check(self).map_err(|reason| self.failed(Kind::Permanent, reason))
    }

    fn command(&self, program: &str) -> Vec<OsString> {
        self.privileged.iter().map(String::as_str).chain([program]).map(OsString::from).collect()
    }

    /// A file of this mount point in `run_dir`.
    fn file(&self, ending: &str) -> PathBuf {
        let digest = Sha256::digest(self.point.as_os_str().as_encoded_bytes());
        let name = digest.iter().take(8).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        self.run_dir.join(format!("mount-{name}.{ending}"))
    }

    fn doing(&self) -> String {
        format!("mounting {} ({}) at {}", self.address, self.kind, self.point.display())
    }

    fn failed(&self, kind: Kind, reason: impl AsRef<str>) -> DriverError {
        DriverError::new(kind, self.doing(), self.without_secrets(reason.as_ref()))
    }

    fn failed_unmount(&self, kind: Kind, reason: impl AsRef<str>) -> DriverError {
        let doing = format!("unmounting {} from {}", self.address, self.point.display());
        DriverError::new(kind, doing, self.without_secrets(reason.as_ref()))
    }

    /// A program may repeat what it read in its credentials.
    fn without_secrets(&self, text: &str) -> String {
        self.secrets
            .iter()
            .filter(|(_, secret)| !secret.expose().is_empty())
            .fold(text.to_owned(), |text, (_, secret)| text.replace(secret.expose(), "***"))
    }

    fn not_started(&self, program: &str, error: io::Error) -> DriverError {
        let first = self.privileged.first().map_or(program, String::as_str);
        let reason = format!("{first} could not be started: {error}; is it installed?");
        DriverError { reason, kind: Kind::Permanent, ..DriverError::io(self.doing(), error) }
    }
}

/// A file with secrets; removed when dropped.
struct Credentials(PathBuf);

impl Drop for Credentials {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn foreign(what: &str) -> String {
    format!("something else is mounted there: {what}; unmount it, or give the datastore another mount point")
}

fn pause(length: Duration, cancel: &Cancel) -> Result<()> {
    let end = Instant::now() + length;
    while Instant::now() < end {
        cancel.check()?;
        std::thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
    }
    cancel.check()
}
