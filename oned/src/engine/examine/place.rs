//! What can be seen of this machine: the state directory, directories of datastores, libvirt's configuration, the clock.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;

use crate::examination::facts::{EntryFacts, PlaceFacts, QemuFacts, Space};
use crate::secret::KEY_FILE;

/// libvirt's configuration of QEMU.
const QEMU_CONF: &str = "/etc/libvirt/qemu.conf";

/// Largest file that is read, bytes.
const FILE_MAX: u64 = 1 << 20;

/// There when systemd-timesyncd has set the clock since the boot (systemd-timesyncd.service(8)).
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";

/// How long timedatectl may take.
const TIMEDATECTL: Duration = Duration::from_secs(5);

/// The state directory and what nobody else may read in it.
pub(super) fn state(directory: &Path) -> PlaceFacts {
    let entry = |path: PathBuf, is_directory: bool, is_needed: bool| {
        let seen = fs::metadata(&path).ok();
        let ours = rustix::process::geteuid().as_raw();
        EntryFacts {
            path: path.display().to_string(),
            is_directory,
            seen: seen.map(|facts| (facts.mode() & 0o7777, facts.uid() == ours)),
            is_needed,
        }
    };
    PlaceFacts {
        path: directory.display().to_string(),
        entries: vec![
            entry(directory.to_owned(), true, true),
            entry(directory.join("one.db"), false, true),
            entry(directory.join(KEY_FILE), false, true),
            // Administrators may keep it elsewhere.
            entry(directory.join(".one/one_auth"), false, false),
        ],
        space: space(directory),
    }
}

/// The file system below a path.
pub(super) fn space(path: &Path) -> Result<Space, String> {
    let facts = rustix::fs::statvfs(path).map_err(|errno| said(path, errno))?;
    Ok(Space {
        total: facts.f_blocks.saturating_mul(facts.f_frsize),
        free: facts.f_bavail.saturating_mul(facts.f_frsize),
    })
}

/// Whether files can be made in a directory: by one without a name, so that nothing is left whatever happens.
pub(super) fn writable(directory: &Path) -> Result<(), String> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)) {
        // Not every file system has such files (NFS, FUSE).
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)
        }
        made => made.map(drop),
    };
    made.map_err(|errno| said(directory, errno))
}

fn said(path: &Path, errno: Errno) -> String {
    format!("{}: {}", path.display(), io::Error::from(errno))
}

/// As whom libvirt's QEMU works, when its configuration can be read.
pub(super) fn qemu() -> Option<QemuFacts> {
    let text = text_of(Path::new(QEMU_CONF))?;
    let daemon_uid = rustix::process::geteuid().as_raw();
    let users = text_of(Path::new("/etc/passwd")).unwrap_or_default();
    Some(QemuFacts {
        file: QEMU_CONF.to_owned(),
        user: setting(&text, "user"),
        dynamic_ownership: setting(&text, "dynamic_ownership"),
        daemon_uid,
        daemon_name: user_name(&users, daemon_uid),
    })
}

fn text_of(path: &Path) -> Option<String> {
    (fs::metadata(path).ok()?.len() <= FILE_MAX).then(|| fs::read_to_string(path).ok()).flatten()
}

/// The last value of a setting in a file of libvirt's: `name = "value"` or `name = value`.
fn setting(text: &str, name: &str) -> Option<String> {
    let value = |line: &str| {
        let (key, value) = line.trim().split_once('=')?;
        (key.trim() == name)
            .then(|| value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned())
    };
    text.lines().filter_map(value).next_back()
}

/// The name of a user in the text of /etc/passwd; empty when there is none.
fn user_name(users: &str, uid: u32) -> String {
    let name = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    users.lines().find_map(name).unwrap_or_default()
}

/// Whether the clock follows a server of time, by systemd's word; none where there is none.
pub(super) fn is_clock_synchronised() -> Option<bool> {
    if Path::new(TIMESYNCD).exists() {
        return Some(true);
    }
    let mut child = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + TIMEDATECTL;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // A word fits into the pipe, so it is all there.
    let output = child.wait_with_output().ok()?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_libvirt_are_read_without_comments_and_quotes() {
        let text = "#user = \"qemu\"\n user = \"root\"  # as oned\ngroup=root\nuser_x = 1\ndynamic_ownership = 0\n";
        assert_eq!(setting(text, "user").as_deref(), Some("root"));
        assert_eq!(setting(text, "group").as_deref(), Some("root"));
        assert_eq!(setting(text, "dynamic_ownership").as_deref(), Some("0"));
        assert_eq!(setting(text, "remember_owner"), None);
    }

    #[test]
    fn users_are_found_by_number() {
        let users = "root:x:0:0:root:/root:/bin/bash\none:x:9869:9869::/var/lib/one:/bin/sh\nbroken\n";
        assert_eq!(user_name(users, 9869), "one");
        assert_eq!(user_name(users, 1), "");
    }

    #[test]
    fn a_directory_is_tried_without_leaving_anything() {
        let folder = tempfile::tempdir().unwrap();
        writable(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = writable(&folder.path().join("no")).unwrap_err();
        assert!(missing.contains("/no: No such file"), "{missing}");
        assert!(space(folder.path()).unwrap().total > 0);
        assert!(space(&folder.path().join("no")).is_err());
    }
}
