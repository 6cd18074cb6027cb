//! Who calls: the session string `user:password`, or `user:token`.
//!
//! It comes from `--user` with a password typed or read from a file, else from the file that `ONE_AUTH` names, else
//! from `~/.one/one_auth`. Nothing is asked or read before the first call needs it: who mistyped an argument is not
//! asked for a password first, and what calls nothing needs no session.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use crate::password;

/// The session string; shows itself as stars only.
#[derive(Clone)]
pub struct Session {
    source: Source,
    text: OnceLock<String>,
}

#[derive(Clone)]
enum Source {
    /// It is there already.
    Given,
    /// The password of this user is typed.
    Typed(String),
    /// The file of `ONE_AUTH`; none without a home directory.
    File(Option<PathBuf>),
}

impl Session {
    /// The session for this call of the tool.
    ///
    /// # Errors
    /// When the password file cannot be read. It is read at once: standard input may hold more than the password.
    pub fn choose(user: Option<&str>, password_file: Option<&Path>, home: Option<&Path>) -> Result<Self> {
        match (user, password_file) {
            (Some(user), Some(file)) => Self::of(user, &password::from_file(file)?),
            (Some(user), None) => Ok(Self::from(Source::Typed(user.to_owned()))),
            (None, Some(_)) => bail!("--password-file needs --user"),
            (None, None) => Ok(Self::from(Source::File(auth_file(home)))),
        }
    }

    /// The session of a user with his password or token.
    ///
    /// # Errors
    /// When the name is empty or holds a colon, which ends a name in a session.
    pub fn of(user: &str, password: &str) -> Result<Self> {
        if user.is_empty() || user.contains(':') {
            bail!("no session: {user:?} cannot be the name of a user");
        }
        Ok(Self { source: Source::Given, text: OnceLock::from(format!("{user}:{password}")) })
    }

    fn from(source: Source) -> Self {
        Self { source, text: OnceLock::new() }
    }

    /// The text that goes over the wire.
    ///
    /// # Errors
    /// When no source exists, or the source does not hold `user:password`.
    pub(super) fn text(&self) -> Result<&str> {
        if let Some(text) = self.text.get() {
            return Ok(text);
        }
        let text = match &self.source {
            Source::Given => bail!("no session"),
            Source::Typed(user) => {
                let way_out = "name a file with it by --password-file FILE (- for standard input)";
                let password = password::ask(&format!("Password of {}: ", crate::terminal::one_line(user)), way_out)?;
                return Ok(self.text.get_or_init(|| format!("{user}:{password}")));
            }
            Source::File(None) => bail!("no session: set ONE_AUTH to a file with user:password, or HOME"),
            Source::File(Some(file)) => from_auth_file(file)?,
        };
        Ok(self.text.get_or_init(|| text))
    }

    /// Where name and password come from, as a sentence names it.
    pub(super) fn origin(&self) -> String {
        match &self.source {
            Source::Given => "the name or the password that was given".to_owned(),
            Source::Typed(user) => {
                format!("the name {} or the password that was typed", crate::terminal::one_line(user))
            }
            Source::File(Some(file)) => format!("the name or the password in {}", file.display()),
            Source::File(None) => "the name or the password".to_owned(),
        }
    }

    /// The file that it is in, if it is in one that stays.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::File(file) => file.as_deref(),
            Source::Given | Source::Typed(_) => None,
        }
    }

    /// The user's name.
    ///
    /// # Errors
    /// As [`Session::text`].
    pub(super) fn user(&self) -> Result<&str> {
        Ok(self.text()?.split_once(':').map_or("", |(user, _)| user))
    }
}

/// The file that holds the session when nobody says otherwise: `ONE_AUTH`, else `~/.one/one_auth`.
pub(crate) fn auth_file(home: Option<&Path>) -> Option<PathBuf> {
    match std::env::var_os("ONE_AUTH").filter(|name| !name.is_empty()) {
        Some(name) => Some(PathBuf::from(name)),
        None => home.map(|home| home.join(".one/one_auth")),
    }
}

fn from_auth_file(file: &Path) -> Result<String> {
    if !file.exists() {
        bail!(
            "no session: the file {} does not exist; write user:password into it (mode 600), or name another with ONE_AUTH",
            file.display()
        );
    }
    password::warn_if_others_can_read(file);
    let line = super::first_line(file, password::BYTES_MAX)?;
    // Some editors put a mark of their own in front.
    let line = line.trim_start_matches('\u{feff}').trim();
    match line.split_once(':') {
        Some((user, _)) if !user.is_empty() && !line.contains(char::is_control) => Ok(line.to_owned()),
        _ => Err(anyhow::anyhow!("its first line is not user:password"))
            .with_context(|| format!("no session in {}", file.display())),
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_split_at_the_first_colon_and_never_shown() {
        let session = Session::of("oneadmin", "a:b").unwrap();
        assert_eq!((session.text().unwrap(), session.user().unwrap()), ("oneadmin:a:b", "oneadmin"));
        assert_eq!(format!("{session:?}"), "Session(***)");
        assert!(Session::of("one:admin", "x").is_err());
        assert!(Session::of("", "x").is_err());
    }

    #[test]
    fn a_session_file_holds_a_user_and_what_lets_him_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            from_auth_file(file.path())
        };
        assert_eq!(read("alice:to:ken \nmore").unwrap(), "alice:to:ken");
        assert_eq!(read("\u{feff}alice:token\r\n").unwrap(), "alice:token");
        for text in ["", "alice", ":secret", "\nalice:secret", "ali\0ce:secret"] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains("user:password") && !error.contains("secret"), "{error}");
        }
    }
}
