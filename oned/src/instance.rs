//! The state directory and what makes a daemon the only one on it: the lock, the first user's session, the endpoint.
//!
//! Layout: `oned.lock` (held by flock(2) as long as the daemon lives, holds its pid), `oned.log`, `.one/one_auth` (mode
//! 0600) and `.one/one_endpoint`, both in the form that OpenNebula's clients read. The directory is made with mode 0700.
//!
//! Invariants: nothing in the directory is read or written before the lock is held, but for the configuration; files
//! appear complete or not at all; a password is never part of an error or of `Debug`.

use rustix::fs::{FlockOperation, flock};
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of randomness in a password that we make.
const PASSWORD_BYTES: usize = 24;

/// Largest `one_auth` that is read.
const AUTH_BYTES: u64 = 4096;

/// Why the daemon cannot work on a state directory.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The default cannot be told.
    #[error("No state directory: neither XDG_STATE_HOME nor HOME is set. Name one with --state-dir.")]
    NoDirectory,
    /// Another daemon holds the lock.
    #[error(
        "Another oned (process {pid}) works on {}. Stop it first, or name another directory with --state-dir.",
        directory.display()
    )]
    Taken {
        /// What the lock file says; "unknown" if nothing.
        pid: String,
        /// The state directory.
        directory: PathBuf,
    },
    /// A session file without `user:password` in its first line.
    #[error("The file {} does not hold a session. It must be one line: user:password.", path.display())]
    NoSession {
        /// The file.
        path: PathBuf,
    },
    /// Something with a file did not work.
    #[error("Cannot {doing} {}: {source}", path.display())]
    File {
        /// As in "write".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What stood in the way.
        source: io::Error,
    },
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::File { doing, path, source }
}

/// Where the state lies: what the command line says, else `/var/lib/one` for root, else the user's state folder (XDG
/// Base Directory Specification, `XDG_STATE_HOME`). Always absolute.
///
/// # Errors
/// When there is no home, or the present directory cannot be told.
pub fn state_directory(command_line: Option<&Path>) -> Result<PathBuf, InstanceError> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = match command_line {
        Some(path) => path.to_owned(),
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/one"),
        None => variable("XDG_STATE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
            .ok_or(InstanceError::NoDirectory)?
            .join("keeplast"),
    };
    std::path::absolute(&directory).map_err(file_error("find", &directory))
}

/// The lock on a state directory; given back when dropped or when the process ends in any way.
#[derive(Debug)]
pub struct Instance {
    directory: PathBuf,
    _lock: File,
}

impl Instance {
    /// Makes the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`InstanceError::Taken`] when another daemon has it.
    pub fn take(directory: &Path) -> Result<Self, InstanceError> {
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(directory).map_err(file_error("make the directory", directory))?;
        let path = directory.join("oned.lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&path).map_err(file_error("open", &path))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(file_error("lock", &path)(error.into()));
            }
            return Err(InstanceError::Taken { pid: pid_in(lock), directory: directory.to_owned() });
        }
        let write = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        write(&mut lock).map_err(file_error("write", &path))?;
        let clients = directory.join(".one");
        make(&clients).map_err(file_error("make the directory", &clients))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// The state directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The session of the first user: from the file that ONE_AUTH names if it exists, else from `.one/one_auth`, which is
    /// made with a random password if it is missing.
    ///
    /// # Errors
    /// When a file is there but holds no session, or cannot be read or made.
    pub fn first_session(&self, one_auth: Option<&Path>) -> Result<FirstSession, InstanceError> {
        let own = self.directory.join(".one/one_auth");
        for path in one_auth.into_iter().chain([own.as_path()]) {
            if let Some(session) = read_session(path)? {
                return Ok(session);
            }
        }
        let password = random_password().map_err(file_error("make a password for", &own))?;
        let session = FirstSession { user: "oneadmin".to_owned(), password: Password(password), path: own.clone() };
        let line = format!("{}:{}\n", session.user, session.password.reveal());
        write_whole(&own, line.as_bytes()).map_err(file_error("write", &own))?;
        Ok(session)
    }

    /// Writes where clients find the daemon, as `http://host:port/RPC2`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish_endpoint(&self, endpoint: &str) -> Result<(), InstanceError> {
        let path = self.directory.join(".one/one_endpoint");
        write_whole(&path, format!("{endpoint}\n").as_bytes()).map_err(file_error("write", &path))
    }
}

fn pid_in(lock: File) -> String {
    let mut text = String::new();
    // The other daemon may be just about to write it.
    let _ = lock.take(32).read_to_string(&mut text);
    let digits = text.trim();
    let known = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if known { digits.to_owned() } else { "unknown".to_owned() }
}

/// The name and password that user 0 has on a fresh state.
#[derive(Debug)]
pub struct FirstSession {
    /// The user's name.
    pub user: String,
    /// The password in clear text.
    pub password: Password,
    /// The file it is from.
    pub path: PathBuf,
}

/// A password; `Debug` shows stars.
pub struct Password(String);

impl Password {
    /// The clear text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn read_session(path: &Path) -> Result<Option<FirstSession>, InstanceError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("read", path)(error)),
    };
    let mut text = String::new();
    file.take(AUTH_BYTES).read_to_string(&mut text).map_err(file_error("read", path))?;
    // The same rules as for user names on the wire: no blanks and no control characters.
    let plain = |name: &str| !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    match text.lines().next().and_then(|line| line.trim().split_once(':')) {
        Some((user, password)) if plain(user) && !password.is_empty() => Ok(Some(FirstSession {
            user: user.to_owned(),
            password: Password(password.to_owned()),
            path: path.to_owned(),
        })),
        _ => Err(InstanceError::NoSession { path: path.to_owned() }),
    }
}

fn random_password() -> io::Result<String> {
    use base64::Engine as _;
    let mut bytes = [0; PASSWORD_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    // No colon, blank or quote can come out of this alphabet.
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// Writes a file of mode 0600 so that it is there completely or not at all, also after a power loss.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = write_part(path, content)?;
    std::fs::rename(&part, path)?;
    sync_folder_of(path)
}

/// Writes what a file is to hold under another name beside it, mode 0600 and on disk; that name.
pub(crate) fn write_part(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let part = path.with_extension("part");
    // A left-over of a crash; the lock on the state directory makes sure that it is nobody's.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(part)
}

/// Makes the names in a file's folder last.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused_with_pid_and_directory() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("a/b");
        let first = Instance::take(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        let error = Instance::take(&directory).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains(&directory.display().to_string()) && error.contains("--state-dir"), "{error}");
        drop(first);
        Instance::take(&directory).unwrap();
    }

    #[test]
    fn a_session_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let instance = Instance::take(folder.path()).unwrap();
        let made = instance.first_session(None).unwrap();
        assert_eq!(made.user, "oneadmin");
        assert!(made.password.reveal().len() >= 32);
        assert_eq!(mode(&made.path), 0o600);
        assert!(!format!("{made:?}").contains(made.password.reveal()));
        let missing = folder.path().join("missing");
        let again = instance.first_session(Some(&missing)).unwrap();
        assert_eq!(again.password.reveal(), made.password.reveal());
        let other = tempfile::tempdir().unwrap();
        let other = Instance::take(other.path()).unwrap().first_session(None).unwrap();
        assert_ne!(other.password.reveal(), made.password.reveal());
    }

    #[test]
    fn the_file_named_by_one_auth_is_reused_and_split_at_the_first_colon() {
        let folder = tempfile::tempdir().unwrap();
        let instance = Instance::take(folder.path()).unwrap();
        let file = folder.path().join("mine");
        std::fs::write(&file, "admin:pass:word\nmore\n").unwrap();
        let session = instance.first_session(Some(&file)).unwrap();
        assert_eq!((session.user.as_str(), session.password.reveal()), ("admin", "pass:word"));
        for wrong in ["", "secretword", ":secretword", "admin:", "ad min:secretword"] {
            std::fs::write(&file, wrong).unwrap();
            let error = instance.first_session(Some(&file)).unwrap_err().to_string();
            assert!(error.contains("user:password") && !error.contains("secretword"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn a_left_over_part_file_does_not_stop_the_endpoint() {
        let folder = tempfile::tempdir().unwrap();
        let instance = Instance::take(folder.path()).unwrap();
        std::fs::write(folder.path().join(".one/one_endpoint.part"), "x").unwrap();
        instance.publish_endpoint("http://127.0.0.1:1/RPC2").unwrap();
        let text = std::fs::read_to_string(folder.path().join(".one/one_endpoint")).unwrap();
        assert_eq!(text, "http://127.0.0.1:1/RPC2\n");
    }

    #[test]
    fn the_command_line_names_the_directory_and_it_becomes_absolute() {
        assert!(state_directory(Some(Path::new("here"))).unwrap().is_absolute());
        assert_eq!(state_directory(Some(Path::new("/a"))).unwrap(), Path::new("/a"));
    }
}
