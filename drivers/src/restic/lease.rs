//! Who may touch a repository now.
//!
//! Two things, because two worlds must be kept out:
//! - a [`Lease`] is a `flock` on files of ours beside the repositories; it orders our own operations, in this and in
//!   other processes, and ends with the process;
//! - a [`ResticLock`] is a lock file in the repository's `locks/`, so that stock `restic prune` keeps away while we work.
//!   It is renewed every five minutes (restic calls it stale after thirty) and survives a crash; the sweep removes it.
//!
//! What only adds or reads shares a repository; what removes packs has it alone. Who wants it alone stands in a turnstile
//! while it waits, through which long operations pass when they begin: so ever new backups cannot keep a forget waiting
//! for ever.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::process::{Pid, test_kill_process};

use super::directory::{Directory, FileKind};
use super::documents::{LockDocument, now};
use super::format::{Cipher, Id};
pub(super) use crate::patience::Patience;
use crate::{DriverError, Kind, Result};

/// How often a lock file is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);
/// The age at which restic takes a lock for left over.
const STALE_AFTER: TimeDelta = TimeDelta::minutes(30);
/// Locks of others that are remembered.
const MAX_SEEN: usize = 10_000;
/// How often the locks of other programs are looked at again.
const POLL_LOCKS: Duration = Duration::from_secs(1);
/// The user in our lock files. No account can be called so: it tells our locks from those of restic run by our account.
const OWNER: &str = "keeplast (datastore driver)";

/// A held `flock`; given back when dropped.
pub(super) struct Lease {
    /// `None` on a read-only file system, from which nobody here can remove anything.
    _file: Option<File>,
}

impl Lease {
    /// For a moment's reading of `repository`: beside everything but a removal that runs. Passes by the turnstile.
    pub(super) fn brief(folder: &Path, repository: &str, patience: Patience<'_>) -> Result<Self> {
        let deadline = patience.deadline();
        Self::take(folder, &format!("{repository}.use"), false, deadline, patience, REMOVAL)
    }

    /// For a store, restore or verification: beside everything but a removal that runs or waits.
    pub(super) fn shared(folder: &Path, repository: &str, patience: Patience<'_>) -> Result<Self> {
        let deadline = patience.deadline();
        let _turn = Self::take(folder, &format!("{repository}.turn"), false, deadline, patience, REMOVAL)?;
        Self::take(folder, &format!("{repository}.use"), false, deadline, patience, REMOVAL)
    }

    /// For what removes packs: nothing of ours beside it. Long operations that begin meanwhile wait behind it.
    pub(super) fn alone(folder: &Path, repository: &str, patience: Patience<'_>) -> Result<Self> {
        let deadline = patience.deadline();
        let anything = "a backup, restore, forget or clean-up";
        let _turn = Self::take(folder, &format!("{repository}.turn"), true, deadline, patience, anything)?;
        Self::take(folder, &format!("{repository}.use"), true, deadline, patience, anything)
    }

    /// For the two short acts of a store that must not be done twice at a time: making a repository, publishing a point.
    pub(super) fn moment(folder: &Path, repository: &str, patience: Patience<'_>) -> Result<Self> {
        let deadline = patience.deadline();
        Self::take(folder, &format!("{repository}.publish"), true, deadline, patience, "the end of another backup")
    }

    fn take(
        folder: &Path,
        name: &str,
        exclusive: bool,
        deadline: Instant,
        patience: Patience<'_>,
        who: &str,
    ) -> Result<Self> {
        let doing = || format!("reserving {}", folder.join(name).display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let opened =
            DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| options.open(folder.join(name)));
        let file = match opened {
            Ok(file) => file,
            Err(error) if is_read_only(&error) && !exclusive => return Ok(Self { _file: None }),
            Err(error) => return Err(DriverError::io(doing(), error)),
        };
        patience.cancel.check()?;
        patience.lock(&file, exclusive, deadline, &doing(), who)?;
        Ok(Self { _file: Some(file) })
    }
}

/// Who is in the way of what only adds or reads.
const REMOVAL: &str = "a forget or clean-up";

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
    /// Whether a lock file was found gone when it was renewed: somebody removed it.
    lost: bool,
    stopped: bool,
}

impl ResticLock {
    /// Writes the lock, then looks for others': with `exclusive` any live one is in the way, without it only an exclusive
    /// one, whose end is waited for. Locks of our own are not looked at, leases decide between those.
    ///
    /// A file system that is full or read-only gets no lock file: restoring from it, and making room in it, must work.
    pub(super) fn take(
        directory: &Arc<Directory>,
        cipher: &Cipher,
        exclusive: bool,
        patience: Patience<'_>,
    ) -> Result<Self> {
        let deadline = patience.deadline();
        loop {
            patience.cancel.check()?;
            let tried = Self::take_renewed(directory, cipher, exclusive, RENEW_EVERY);
            let left = deadline.saturating_duration_since(Instant::now());
            // Who is alone keeps our own operations waiting: it does not wait for others beside that.
            if exclusive || left.is_zero() || !matches!(&tried, Err(error) if error.kind == Kind::Retry) {
                return tried;
            }
            std::thread::sleep(POLL_LOCKS.min(left));
            patience.progress.beat();
        }
    }

    fn take_renewed(directory: &Arc<Directory>, cipher: &Cipher, exclusive: bool, every: Duration) -> Result<Self> {
        refuse_others(directory, cipher, exclusive)?;
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
            state: Mutex::new(State { id, lost: false, stopped: false }),
            stop: Condvar::new(),
        });
        let mut lock = Self { shared: Arc::clone(&shared), renewer: None };
        // Again, now that others see ours: who wrote theirs in between looks as well, and one of us goes back.
        refuse_others(directory, cipher, exclusive)?;
        let thread = std::thread::Builder::new().name("restic-lock".to_owned()).spawn(move || renew(&shared, every));
        lock.renewer =
            Some(thread.map_err(|error| DriverError::io("starting the thread that renews the lock", error))?);
        Ok(lock)
    }

    /// Whether the lock was there all the time, as far as can be seen; true where no lock file could be written.
    pub(super) fn was_kept(&self) -> Result<bool> {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.id {
            _ if state.lost => Ok(false),
            Some(id) => self.shared.directory.exists(FileKind::Lock, id),
            None => Ok(true),
        }
    }
}

fn refuse_others(directory: &Directory, cipher: &Cipher, exclusive: bool) -> Result<()> {
    for (id, other) in read_locks(directory, cipher)? {
        if other.username != OWNER && (exclusive || other.exclusive) && is_live(&other, watched_for(id)) {
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
    Ok(())
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
                state.lost |= old.is_some_and(|old| matches!(shared.directory.exists(FileKind::Lock, &old), Ok(false)));
                shared.discard(old);
            }
            Err(error) => tracing::warn!(%error, "the repository's lock could not be renewed"),
        }
    }
}

/// Removes lock files that operations of ours left behind. The caller has the repository alone, so none of them is alive.
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

/// How long this process has known the lock `id`. Who renews a lock gives it a new name, so one that is seen for long is
/// left over, whatever time it bears: a host's clock may have been years ahead.
fn watched_for(id: Id) -> TimeDelta {
    static SEEN: LazyLock<Mutex<HashMap<Id, Instant>>> = LazyLock::new(Mutex::default);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.len() >= MAX_SEEN {
        seen.clear();
    }
    let since = seen.entry(id).or_insert_with(Instant::now).elapsed();
    TimeDelta::from_std(since).unwrap_or(TimeDelta::MAX)
}

fn is_live(lock: &LockDocument, watched: TimeDelta) -> bool {
    // A time that cannot be read is taken for the present: waiting is safer than going on.
    let is_old =
        DateTime::parse_from_rfc3339(&lock.time).is_ok_and(|time| Utc::now().signed_duration_since(time) > STALE_AFTER);
    if is_old || watched > STALE_AFTER {
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
    use super::super::directory::Flow;
    use super::*;
    use crate::{Cancel, Progress};

    fn take(directory: &Arc<Directory>, cipher: &Cipher, exclusive: bool) -> Result<ResticLock> {
        let (progress, cancel) = Default::default();
        let patience = Patience { wait: Duration::ZERO, progress: &progress, cancel: &cancel };
        ResticLock::take(directory, cipher, exclusive, patience)
    }

    fn repository() -> (tempfile::TempDir, Arc<Directory>, Cipher) {
        let base = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::new(base.path().join("7"), Flow::default()));
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
        drop(take(&directory, &cipher, true).unwrap());
        for (host, pid) in [("elsewhere", i32::MAX), (hostname().as_str(), 1)] {
            let id = put(now(), host, pid);
            assert_eq!(take(&directory, &cipher, false).map(drop).unwrap_err().kind, Kind::Retry);
            directory.remove(FileKind::Lock, &id).unwrap();
        }
        // Nothing of ours stayed behind, nothing of theirs was touched.
        assert_eq!(directory.ids(FileKind::Lock).unwrap().len(), 3);
    }

    #[test]
    fn a_lock_from_the_future_binds_only_until_it_was_not_renewed_for_long() {
        let time = (Utc::now() + TimeDelta::days(3650)).to_rfc3339();
        let lock =
            LockDocument { time, exclusive: true, hostname: "elsewhere".into(), username: "root".into(), pid: 1 };
        assert!(is_live(&lock, TimeDelta::zero()) && is_live(&lock, STALE_AFTER));
        assert!(!is_live(&lock, STALE_AFTER + TimeDelta::seconds(1)));
        let first = watched_for(Id::of(b"a lock of the future"));
        assert!(watched_for(Id::of(b"a lock of the future")) >= first);
    }

    #[test]
    fn a_lock_that_somebody_removed_is_missed_even_after_its_renewal() {
        let (_base, directory, cipher) = repository();
        let lock = take(&directory, &cipher, false).unwrap();
        assert!(lock.was_kept().unwrap());
        directory.remove(FileKind::Lock, &directory.ids(FileKind::Lock).unwrap()[0]).unwrap();
        assert!(!lock.was_kept().unwrap());
        drop(lock);
        let lock = ResticLock::take_renewed(&directory, &cipher, false, Duration::from_millis(1)).unwrap();
        while lock.was_kept().unwrap() {
            for id in directory.ids(FileKind::Lock).unwrap() {
                directory.remove(FileKind::Lock, &id).unwrap();
            }
        }
        while !lock.shared.state.lock().unwrap().lost {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!lock.was_kept().unwrap());
    }

    #[test]
    fn who_waits_to_be_alone_goes_before_those_who_come_after_and_a_glance_passes_by() {
        let base = tempfile::tempdir().unwrap();
        let (progress, cancel) = (Progress::default(), Cancel::default());
        let long = Patience { wait: Duration::from_secs(60), progress: &progress, cancel: &cancel };
        let none = Patience { wait: Duration::ZERO, ..long };
        let first = Lease::shared(base.path(), "7", none).unwrap();
        drop(Lease::shared(base.path(), "7", none).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Lease::alone(base.path(), "7", long).unwrap());
            let before = progress.pulse();
            while progress.pulse() < before + 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(Lease::shared(base.path(), "7", none).map(drop).unwrap_err().kind, Kind::Retry);
            drop(Lease::brief(base.path(), "7", none).unwrap());
            drop(first);
            let alone = waiting.join().unwrap();
            assert_eq!(Lease::brief(base.path(), "7", none).map(drop).unwrap_err().kind, Kind::Retry);
            drop(alone);
        });
        drop(Lease::shared(base.path(), "7", none).unwrap());
    }

    #[test]
    fn a_cancel_ends_a_wait_for_a_lease() {
        let base = tempfile::tempdir().unwrap();
        let (progress, cancel) = (Progress::default(), Cancel::default());
        let patience = Patience { wait: Duration::from_secs(3600), progress: &progress, cancel: &cancel };
        let _alone = Lease::alone(base.path(), "7", patience).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Lease::shared(base.path(), "7", patience).map(drop).unwrap_err());
            while progress.pulse() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancel.cancel();
            assert_eq!(waiting.join().unwrap().kind, Kind::Cancelled);
        });
    }
}
