//! Who may touch a repository now.
//!
//! Two things, because two worlds must be kept out:
//! - a [`Lease`] is a `flock` on a file of ours beside the repositories; it serialises our own operations, in this and in
//!   other processes, and ends with the process;
//! - a [`ResticLock`] is a lock file in the repository's `locks/`, so that stock `restic prune` keeps away while we work.
//!   It is renewed every five minutes (restic calls it stale after thirty) and survives a crash; the sweep removes it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};

use super::directory::{Directory, FileKind};
use super::documents::{LockDocument, now};
use super::format::{Cipher, Id};
use crate::{DriverError, Kind, Result};

/// How often a lock file is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);
/// The age at which restic takes a lock for left over.
const STALE_AFTER: TimeDelta = TimeDelta::minutes(30);
/// How often a lease that is taken is asked for again.
const POLL: Duration = Duration::from_millis(50);
/// The user in our lock files. No account can be called so: it tells our locks from those of restic run by our account.
const OWNER: &str = "keeplast (datastore driver)";

/// Which lease of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseKind {
    /// One operation at a time changes the repository.
    Write,
    /// Restores share it; what removes packs holds it alone.
    Read,
}

/// A held `flock`; given back when dropped.
pub(super) struct Lease {
    _file: File,
}

impl Lease {
    /// Takes the lease of `series`, waiting up to `wait`.
    pub(super) fn take(folder: &Path, series: &str, kind: LeaseKind, exclusive: bool, wait: Duration) -> Result<Self> {
        let doing = || format!("reserving series {series}");
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| DriverError::io(doing(), e))?;
        let name = match kind {
            LeaseKind::Write => format!("{series}.write"),
            LeaseKind::Read => format!("{series}.read"),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join(name))
            .map_err(|e| DriverError::io(doing(), e))?;
        let how =
            if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
        let deadline = Instant::now() + wait;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(DriverError::io(doing(), error.into())),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let who = match kind {
                    LeaseKind::Write => "another backup, forget or clean-up",
                    LeaseKind::Read => "a restore or a forget",
                };
                let reason = format!("{who} has used it for the last {} s; try again later", wait.as_secs());
                return Err(DriverError::new(Kind::Retry, doing(), reason));
            }
            std::thread::sleep(POLL.min(left));
        }
    }
}

/// A lock file of ours in a repository; removed when dropped.
pub(super) struct ResticLock {
    shared: Arc<Shared>,
    renewer: Option<JoinHandle<()>>,
}

struct Shared {
    directory: Arc<Directory>,
    cipher: Cipher,
    exclusive: bool,
    state: Mutex<State>,
    stop: Condvar,
}

struct State {
    id: Id,
    stopped: bool,
}

impl ResticLock {
    /// Writes the lock, then looks for others': with `exclusive` any live one is in the way, without it only an exclusive
    /// one. Locks of our own are not looked at, leases decide between those.
    pub(super) fn take(directory: &Arc<Directory>, cipher: &Cipher, exclusive: bool) -> Result<Self> {
        let id = write_lock(directory, cipher, exclusive)?;
        let shared = Arc::new(Shared {
            directory: Arc::clone(directory),
            cipher: cipher.clone(),
            exclusive,
            state: Mutex::new(State { id, stopped: false }),
            stop: Condvar::new(),
        });
        let mut lock = Self { shared: Arc::clone(&shared), renewer: None };
        for (_, other) in read_locks(directory, cipher)? {
            if other.username != OWNER && (exclusive || other.exclusive) && is_live(&other) {
                return Err(DriverError::new(
                    Kind::Retry,
                    format!("locking the repository {}", directory.root().display()),
                    format!(
                        "it is locked by process {} of {} on {} since {}; try again when that has ended, or run `restic unlock` if it is gone",
                        other.pid, other.username, other.hostname, other.time
                    ),
                ));
            }
        }
        let thread = std::thread::Builder::new().name("restic-lock".to_owned()).spawn(move || renew(&shared));
        lock.renewer = Some(thread.map_err(|error| DriverError::io("starting the thread that renews the lock", error))?);
        Ok(lock)
    }
}

impl Drop for ResticLock {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.shared.stop.notify_all();
        if let Some(renewer) = self.renewer.take() {
            let _ = renewer.join();
        }
        let id = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).id;
        if let Err(error) = self.shared.directory.remove(FileKind::Lock, &id) {
            tracing::warn!(%error, "a lock file stays behind until the next sweep");
        }
    }
}

fn renew(shared: &Shared) {
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut due = Instant::now() + RENEW_EVERY;
    // Looked at before each wait: the owner may have stopped before this thread first ran.
    while !state.stopped {
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            state = shared.stop.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        due = Instant::now() + RENEW_EVERY;
        match write_lock(&shared.directory, &shared.cipher, shared.exclusive) {
            Ok(id) => {
                let old = std::mem::replace(&mut state.id, id);
                if let Err(error) = shared.directory.remove(FileKind::Lock, &old) {
                    tracing::warn!(%error, "an outdated lock file stays behind until the next sweep");
                }
            }
            Err(error) => tracing::warn!(%error, "the repository's lock could not be renewed"),
        }
    }
}

/// Removes lock files that operations of ours left behind. The caller holds both leases alone, so none of them is alive.
pub(super) fn remove_own_locks(directory: &Directory, cipher: &Cipher) -> Result<()> {
    for (id, lock) in read_locks(directory, cipher)? {
        if lock.username == OWNER {
            directory.remove(FileKind::Lock, &id)?;
        }
    }
    Ok(())
}

fn write_lock(directory: &Directory, cipher: &Cipher, exclusive: bool) -> Result<Id> {
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    let document =
        LockDocument { time: now(), exclusive, hostname: hostname(), username: OWNER.to_owned(), pid };
    let json = serde_json::to_vec(&document)
        .map_err(|error| DriverError::other(Kind::Permanent, "encoding a lock", error))?;
    let sealed = cipher.seal_document(&json)?;
    let id = Id::of(&sealed);
    directory.write(FileKind::Lock, &id, &[sealed])?;
    Ok(id)
}

fn read_locks(directory: &Directory, cipher: &Cipher) -> Result<Vec<(Id, LockDocument)>> {
    let mut locks = Vec::new();
    for id in directory.ids(FileKind::Lock)? {
        let sealed = match directory.read(FileKind::Lock, &id) {
            Ok(sealed) => sealed,
            Err(error) if error.kind == Kind::Missing => continue,
            Err(error) => return Err(error),
        };
        // Like restic: a lock that cannot be read binds nobody, or a torn one would block the repository for ever.
        let decoded = cipher.open_document(sealed).ok().and_then(|json| serde_json::from_slice(&json).ok());
        match decoded {
            Some(lock) => locks.push((id, lock)),
            None => tracing::warn!(lock = %id, "ignoring an unreadable lock file"),
        }
    }
    Ok(locks)
}

fn is_live(lock: &LockDocument) -> bool {
    // A time that cannot be read is taken for the present: waiting is safer than going on.
    let stale = DateTime::parse_from_rfc3339(&lock.time)
        .is_ok_and(|time| Utc::now().signed_duration_since(time) > STALE_AFTER);
    if stale {
        return false;
    }
    let here = lock.hostname == hostname();
    let gone = Pid::from_raw(lock.pid).is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
    !(here && gone)
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}
