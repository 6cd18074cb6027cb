//! Who calls: the session string `user:password`.
//!
//! It comes from `--user` with a password typed or read from a file, else from the file that `ONE_AUTH` names, else
//! from `~/.one/one_auth`. A password is never an argument: arguments can be read by every process on the machine.

use std::fmt;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Longest session file and password that we read, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// The session string; shows itself as stars only.
#[derive(Clone)]
pub struct Session(String);

impl Session {
    /// The text that goes over the wire.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The session for this call of the tool.
    ///
    /// # Errors
    /// When no source exists, or the source does not hold `user:password`.
    pub fn choose(user: Option<&str>, password_file: Option<&Path>, home: Option<&Path>) -> Result<Self> {
        match (user, password_file) {
            (Some(user), Some(file)) => Self::new(&format!("{user}:{}", password_from(file)?), "--user"),
            (Some(user), None) => Self::new(&format!("{user}:{}", ask_password(user)?), "--user"),
            (None, Some(_)) => bail!("--password-file needs --user"),
            (None, None) => Self::from_auth_file(home),
        }
    }

    fn from_auth_file(home: Option<&Path>) -> Result<Self> {
        let file = match std::env::var_os("ONE_AUTH").filter(|name| !name.is_empty()) {
            Some(name) => PathBuf::from(name),
            None => {
                home.context("no session: set ONE_AUTH to a file with user:password, or HOME")?.join(".one/one_auth")
            }
        };
        if !file.exists() {
            bail!(
                "no session: the file {} does not exist; write user:password into it (mode 600), or name another with ONE_AUTH",
                file.display()
            );
        }
        warn_if_others_can_read(&file);
        let line = super::first_line(&file, BYTES_MAX)?;
        Self::new(line.trim(), &file.display().to_string())
    }

    fn new(text: &str, source: &str) -> Result<Self> {
        match text.split_once(':') {
            Some((user, _)) if !user.is_empty() => Ok(Self(text.to_owned())),
            _ => bail!("no session: {source} does not give user:password"),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(***)")
    }
}

fn password_from(file: &Path) -> Result<String> {
    if file == Path::new("-") {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("reading the password from standard input")?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    warn_if_others_can_read(file);
    super::first_line(file, BYTES_MAX)
}

/// Asks on the terminal with the echo off. The echo is switched by stty(1), so that no terminal library is needed.
fn ask_password(user: &str) -> Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("--user needs a terminal to type the password, or --password-file FILE (- for standard input)");
    }
    crate::terminal::warn_raw(&format!("Password of {user}: "));
    let echo = |mode: &str| Command::new("stty").arg(mode).stdin(Stdio::inherit()).status();
    echo("-echo").context("switching the echo off with stty")?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    let restored = echo("echo");
    let _ = writeln!(std::io::stderr());
    read.context("reading the password")?;
    restored.context("switching the echo on again with stty")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(unix)]
fn warn_if_others_can_read(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Ok(meta) = std::fs::metadata(file)
        && meta.is_file()
        && meta.permissions().mode() & 0o044 != 0
    {
        crate::terminal::warn(&format!("others can read the password in {0}: chmod 600 {0}", file.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_split_at_the_first_colon_and_never_shown() {
        let session = Session::new("oneadmin:a:b", "test").unwrap();
        assert_eq!(session.text(), "oneadmin:a:b");
        assert_eq!(format!("{session:?}"), "Session(***)");
        assert!(Session::new("oneadmin", "test").is_err());
        assert!(Session::new(":x", "test").is_err());
    }
}
