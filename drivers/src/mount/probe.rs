//! Whether a directory can be written to, found out by writing, and the one change of rights that we make.
//!
//! Both wait for the server: call them in a process that can be given up.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use crate::{DriverError, Kind, Result};

const PREFIX: &str = ".keeplast-probe-";
/// A probe of this age was left by a process that was killed.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Writes a small file into `dir`, makes it durable, reads it back and removes it.
///
/// # Errors
/// One sentence that tells a read-only export, missing rights and a full share apart; kind `Retry` when the server does
/// not answer.
pub fn probe_writable(dir: &Path) -> Result<()> {
    let mut noise = [0; 16];
    let doing = || format!("trying to write to {}", dir.display());
    getrandom::fill(&mut noise).map_err(|error| DriverError::new(Kind::Permanent, doing(), error.to_string()))?;
    remove_forgotten(dir);
    let text = format!("{:032x}", u128::from_le_bytes(noise));
    let path = dir.join(format!("{PREFIX}{text}"));
    let outcome = write_and_read(&path, text.as_bytes());
    let removed = fs::remove_file(&path);
    match outcome.and_then(|same| removed.map(|()| same)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DriverError::new(Kind::Corrupt, doing(), "what was read back is not what was written")),
        Err(error) => Err(explained(doing(), error)),
    }
}

fn write_and_read(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o660).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    let mut back = Vec::new();
    fs::File::open(path)?.take(1024).read_to_end(&mut back)?;
    Ok(back == bytes)
}

fn explained(doing: String, error: io::Error) -> DriverError {
    let (kind, reason) = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ROFS) => (
            Kind::Permanent,
            "the share is read-only; export and mount it with rw, or check the server's disk".to_owned(),
        ),
        Some(Errno::ACCESS | Errno::PERM) => {
            let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let advice = "on the server, give the directory to that user or group, with write permission";
            (Kind::Permanent, format!("user {user}, group {group} may not write there: {error}; {advice}"))
        }
        Some(Errno::NOSPC | Errno::DQUOT) => (Kind::Permanent, format!("the share is full: {error}")),
        Some(Errno::IO | Errno::STALE | Errno::NOTCONN | Errno::TIMEDOUT | Errno::HOSTDOWN | Errno::HOSTUNREACH) => {
            (Kind::Retry, format!("the server does not answer as it should: {error}"))
        }
        _ => return DriverError::io(doing, error),
    };
    DriverError { kind, doing, reason, source: Some(Box::new(error)) }
}

/// Removes the probes of processes that were killed meanwhile. What cannot be removed or looked at stays.
fn remove_forgotten(dir: &Path) {
    let now = SystemTime::now();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let age = entry.metadata().and_then(|facts| facts.modified()).ok().and_then(|at| now.duration_since(at).ok());
        if age.is_some_and(|age| age > FORGOTTEN) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// When our group may not write into `dir`: gives the directory to our group, with write permission for it. Only this
/// directory, never what is in it; where that is not allowed (a server that squashes root), nothing happens, and
/// [`probe_writable`] tells whether it matters.
pub fn claim_group(dir: &Path) {
    let group = rustix::process::getegid().as_raw();
    let claimed = fs::metadata(dir).and_then(|facts| {
        let mode = facts.permissions().mode();
        if facts.gid() != group {
            std::os::unix::fs::chown(dir, None, Some(group))?;
        }
        if mode & 0o070 != 0o070 {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o7777 | 0o070))?;
        }
        Ok(())
    });
    if let Err(error) = claimed {
        tracing::debug!("{} keeps its group and permissions: {error}", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_leaves_nothing_and_takes_forgotten_ones_away() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join(format!("{PREFIX}old"));
        let new = dir.path().join(format!("{PREFIX}new"));
        let file = fs::File::create(&old).unwrap();
        file.set_modified(SystemTime::now() - 2 * FORGOTTEN).unwrap();
        fs::write(&new, "").unwrap();
        probe_writable(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [new]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(probe_writable(&dir.path().join("no")).unwrap_err().kind, Kind::Missing);
    }

    #[test]
    fn only_the_top_directory_gets_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2705)).unwrap();
        claim_group(dir.path());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(dir.path()), mode(&below)), (0o2775, 0o700));
        claim_group(&dir.path().join("no"));
    }
}
