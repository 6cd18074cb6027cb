//! Verbs that take a password: typed twice on the terminal, or from a file. OpenNebula's tools take it as an argument
//! too; here that is refused, since arguments are seen by every process on the machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::objects::{self, GROUP, USER};
use crate::wire::{Client, Param};
use crate::{password, terminal};

/// What to do where nobody can be asked.
const WAY_OUT: &str =
    "name a file with it by --password-file FILE, or by --read-file behind the user's name (- for standard input)";

/// Drivers that look at no password of ours.
const PASSWORDLESS: [&str; 2] = ["public", "dummy"];

/// Where a password comes from when it is not typed.
#[derive(Args, Debug)]
pub(crate) struct Given {
    /// With --read-file: file with the password
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Read the password from FILE, as --password-file FILE does
    #[arg(short, long)]
    read_file: bool,
}

impl Given {
    /// The password in a file, or none when it has to be typed.
    fn read(&self, password_file: Option<&Path>) -> Result<Option<String>> {
        let file = match (&self.file, self.read_file, password_file) {
            // The argument is not repeated: it may well be the password.
            (Some(_), false, _) => bail!(
                "a password cannot be an argument, where every process on this machine can read it; leave it out and \
                 type it when asked, or use --password-file FILE (- for standard input)"
            ),
            (None, true, _) => bail!("--read-file needs a FILE with the password behind the user's name"),
            (Some(_), true, Some(_)) => bail!("the password is to come from two files: leave one of them out"),
            (Some(file), true, None) => file,
            (None, false, Some(file)) => file,
            (None, false, None) => return Ok(None),
        };
        let password = password::from_file(file)?;
        if password.is_empty() {
            bail!("a password cannot be empty: the first line of {} is", file.display());
        }
        Ok(Some(password))
    }

    fn read_or_ask(&self, whose: &str, password_file: Option<&Path>) -> Result<String> {
        self.read(password_file)?.map_or_else(|| password::ask_new(whose, WAY_OUT), Ok)
    }
}

#[derive(Args, Debug)]
pub(super) struct Create {
    /// Name of the new user
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    given: Given,
    /// How the user logs in: core, or public for somebody who never does
    #[arg(long, default_value = "core")]
    driver: String,
    /// Groups, ids or names; the first is the primary one
    #[arg(long, value_name = "GROUP,...")]
    group: Option<String>,
}

pub(super) fn create(client: &Client, options: &Create, password_file: Option<&Path>) -> Result<()> {
    if options.name.contains(':') || options.name.is_empty() {
        bail!("the name of a user is not empty and holds no colon, which ends it in a session");
    }
    let password = match options.given.read(password_file)? {
        Some(password) => password,
        None if PASSWORDLESS.contains(&options.driver.as_str()) => "-".to_owned(),
        None => password::ask_new(&options.name, WAY_OUT)?,
    };
    let groups = options.group.as_deref().map(|groups| GROUP.ids(client, groups)).transpose()?;
    let mut params: Vec<Param> = vec![options.name.as_str().into(), password.into(), options.driver.as_str().into()];
    params.extend(groups.map(Param::Ints));
    objects::put_id(&client.call("one.user.allocate", params)?).map(drop)
}

#[derive(Args, Debug)]
pub(super) struct Passwd {
    /// Id or name
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    given: Given,
}

pub(super) fn passwd(client: &Client, options: &Passwd, password_file: Option<&Path>) -> Result<()> {
    let given = options.given.read(password_file)?;
    let id = match &options.id {
        Some(word) => USER.id(client, word)?,
        None => USER.info(client, -1, false)?.int_at("ID").context("the daemon's document has no ID")?,
    };
    let whose = options.id.as_deref().map_or_else(|| client.user(), Ok)?;
    let new = given.map_or_else(|| password::ask_new(whose, WAY_OUT), Ok)?;
    client.call("one.user.passwd", [id.into(), new.into()])?;
    if let Some(file) = client.session_file().filter(|_| client.user().is_ok_and(|own| own == whose)) {
        let file = file.display();
        terminal::warn(&format!("the session in {file} ended with the old password: oneuser login {whose} --force"));
    }
    Ok(())
}

#[derive(Args, Debug)]
pub(super) struct Chauth {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// core, or public for somebody who never logs in
    #[arg(value_name = "DRIVER")]
    auth: Option<String>,
    #[command(flatten)]
    given: Given,
    /// The same as DRIVER
    #[arg(long, conflicts_with = "auth")]
    driver: Option<String>,
}

pub(super) fn chauth(client: &Client, options: &Chauth, password_file: Option<&Path>) -> Result<()> {
    let password = options.given.read(password_file)?.unwrap_or_default();
    let Some(driver) = options.auth.as_deref().or(options.driver.as_deref()) else {
        bail!("say how the user shall log in: core, or public for somebody who never does");
    };
    let id = USER.id(client, &options.id)?;
    client.call("one.user.chauth", [id.into(), driver.into(), password.into()])?;
    Ok(())
}

#[derive(Args, Debug)]
pub(super) struct Encode {
    /// Name of the user
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    given: Given,
}

pub(super) fn encode(options: &Encode, password_file: Option<&Path>) -> Result<()> {
    let password = options.given.read_or_ask(&options.name, password_file)?;
    terminal::put_line(&format!("{}:{}", percent_encoded(&options.name), percent_encoded(&password)))
}

/// What stands for itself in every part of a URL (RFC 3986, unreserved characters) stays; each other byte becomes `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_cannot_hold_is_encoded() {
        assert_eq!(percent_encoded("a-b_c.d~9"), "a-b_c.d~9");
        assert_eq!(percent_encoded("p:w @/é%"), "p%3Aw%20%40%2F%C3%A9%25");
    }
}
