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
    /// `None` on a read-only file system, from which nobody here can remove anything.
    _file: Option<File>,
}

impl Lease {
    /// Takes the lease of `series`, waiting up to `wait`.
    pub(super) fn take(folder: &Path, series: &str, kind: LeaseKind, exclusive: bool, wait: Duration) -> Result<Self> {
        let doing = || format!("reserving series {series}");
        let name = match kind {
            LeaseKind::Write => format!("{series}.write"),
            LeaseKind::Read => format!("{series}.read"),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let opened =
            DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| options.open(folder.join(name)));
        let file = match opened {
            Ok(file) => file,
            Err(error) if is_read_only(&error) && !exclusive => return Ok(Self { _file: None }),
            Err(error) => return Err(DriverError::io(doing(), error)),
        };
        let how =
            if exclusive { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
        let deadline = Instant::now() + wait;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Self { _file: Some(file) }),
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
    /// The lock file; `None` where none can be written.
    id: Option<Id>,
    stopped: bool,
}

impl ResticLock {
    /// Writes the lock, then looks for others': with `exclusive` any live one is in the way, without it only an exclusive
    /// one. Locks of our own are not looked at, leases decide between those.
    ///
    /// A file system that is full or read-only gets no lock file: restoring from it, and making room in it, must work.
    pub(super) fn take(directory: &Arc<Directory>, cipher: &Cipher, exclusive: bool) -> Result<Self> {
        Self::take_renewed(directory, cipher, exclusive, RENEW_EVERY)
    }

    fn take_renewed(directory: &Arc<Directory>, cipher: &Cipher, exclusive: bool, every: Duration) -> Result<Self> {
        let id = match write_lock(directory, cipher, exclusive) {
            Ok(id) => Some(id),
            Err(error) if takes_no_file(&error) => {
                tracing::warn!(%error, "working without a lock file; keep other programs away from the repository");
                None
            }
            Err(error) => return Err(error),
        };
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
        let thread = std::thread::Builder::new().name("restic-lock".to_owned()).spawn(move || renew(&shared, every));
        lock.renewer =
            Some(thread.map_err(|error| DriverError::io("starting the thread that renews the lock", error))?);
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
        self.shared.discard(id);
    }
}

impl Shared {
    fn discard(&self, id: Option<Id>) {
        if let Some(Err(error)) = id.map(|id| self.directory.remove(FileKind::Lock, &id)) {
            tracing::warn!(%error, "a lock file stays behind until the next sweep");
        }
    }
}

fn takes_no_file(error: &DriverError) -> bool {
    let below = error.source.as_ref().and_then(|source| source.downcast_ref::<std::io::Error>());
    below.is_some_and(|error| is_read_only(error) || error.kind() == std::io::ErrorKind::StorageFull)
}

fn is_read_only(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ReadOnlyFilesystem
}

fn renew(shared: &Shared, every: Duration) {
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut due = Instant::now() + every;
    // Looked at before each wait: the owner may have stopped before this thread first ran.
    while !state.stopped {
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            state = shared.stop.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        due = Instant::now() + every;
        match write_lock(&shared.directory, &shared.cipher, shared.exclusive) {
            Ok(id) => {
                let old = state.id.replace(id);
                shared.discard(old);
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
    let document = LockDocument { time: now(), exclusive, hostname: hostname(), username: OWNER.to_owned(), pid };
    let json =
        serde_json::to_vec(&document).map_err(|error| DriverError::other(Kind::Permanent, "encoding a lock", error))?;
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
    let stale =
        DateTime::parse_from_rfc3339(&lock.time).is_ok_and(|time| Utc::now().signed_duration_since(time) > STALE_AFTER);
    if stale {
        return false;
    }
    let here = lock.hostname == hostname();
    let gone = Pid::from_raw(lock.pid).is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
    !(here && gone)
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> (tempfile::TempDir, Arc<Directory>, Cipher) {
        let base = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::new(base.path().join("7"), None));
        directory.create().unwrap();
        (base, directory, Cipher::new(&[7; 64]))
    }

    #[test]
    fn a_lock_is_renewed_under_a_new_name_and_removed_at_the_end() {
        let (_base, directory, cipher) = repository();
        let lock = ResticLock::take_renewed(&directory, &cipher, false, Duration::from_millis(1)).unwrap();
        let first = directory.ids(FileKind::Lock).unwrap();
        while first.iter().any(|id| directory.ids(FileKind::Lock).unwrap().contains(id)) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!directory.ids(FileKind::Lock).unwrap().is_empty());
        drop(lock);
        assert_eq!(directory.ids(FileKind::Lock).unwrap(), []);
    }

    #[test]
    fn locks_of_others_bind_unless_they_are_stale_or_their_process_is_gone() {
        let (_base, directory, cipher) = repository();
        let put = |time: String, hostname: &str, pid: i32| {
            let lock = LockDocument { time, exclusive: true, hostname: hostname.into(), username: "root".into(), pid };
            let sealed = cipher.seal_document(&serde_json::to_vec(&lock).unwrap()).unwrap();
            let id = Id::of(&sealed);
            directory.write(FileKind::Lock, &id, &[sealed]).unwrap();
            id
        };
        put("2020-01-01T00:00:00Z".to_owned(), "elsewhere", 1);
        put(now(), &hostname(), i32::MAX);
        directory.write(FileKind::Lock, &Id::of(b"torn"), &[b"torn"]).unwrap();
        drop(ResticLock::take(&directory, &cipher, true).unwrap());
        for (host, pid) in [("elsewhere", i32::MAX), (hostname().as_str(), 1)] {
            let id = put(now(), host, pid);
            assert_eq!(ResticLock::take(&directory, &cipher, false).map(drop).unwrap_err().kind, Kind::Retry);
            directory.remove(FileKind::Lock, &id).unwrap();
        }
        // Nothing of ours stayed behind, nothing of theirs was touched.
        assert_eq!(directory.ids(FileKind::Lock).unwrap().len(), 3);
    }
}
