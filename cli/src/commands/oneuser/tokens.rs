//! Login tokens: they work in place of the password until they end, and can be narrowed to one group.
//!
//! The daemon shows a token's text once, when it is made, and keeps its SHA-256; documents show that, and here it is the
//! token's name: `~/.one/<beginning of it>.token` holds `user:token`, what `ONE_AUTH` may point to. So what `oneuser show` lists and
//! the files on this machine can be brought together, and no token is ever printed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::objects::{GROUP, USER};
use crate::wire::{Client, Refused, auth_file};
use crate::xml::Element;
use crate::{password, terminal, units};

/// As much of a token's digest as tables show.
pub(super) const SHORT: usize = 7;

/// As much of it as the name of its file holds.
const FILE_DIGITS: usize = 16;

/// How long a token is good when nobody says: ten hours.
const SECONDS: i64 = 36_000;

#[derive(Args, Debug)]
pub(super) struct Create {
    /// Name of the user; the caller without it
    #[arg(value_name = "USER")]
    pub(super) name: Option<String>,
    /// How long the token is good; -1 is for ever
    #[arg(short, long, value_name = "SECONDS", default_value_t = SECONDS, allow_negative_numbers = true)]
    time: i64,
    /// Group that the token acts for, id or name: it sees and makes only what is of that group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Replace the session in the ONE_AUTH file
    #[arg(long)]
    force: bool,
    /// Read the password from standard input, as --password-file - does
    #[arg(long = "stdin_password")]
    stdin_password: bool,
}

/// Makes a token and puts it where sessions are looked for.
pub(super) fn create(client: &Client, options: &Create) -> Result<()> {
    if options.time == 0 {
        bail!("a token for 0 seconds is none; `oneuser token-delete` ends one that is there");
    }
    let home = home()?;
    let (user, token) = make(client, options)?;
    let session = format!("{user}:{token}");
    let digest = digest(&token);
    let file = token_file(&home, &digest);
    write_private(&file, &session)?;
    let end = match options.time {
        seconds if seconds < 0 => "for ever".to_owned(),
        seconds => format!("until {}", units::time_with_zone(units::now().saturating_add(seconds), None)),
    };
    let short: String = digest.chars().take(SHORT).collect();
    terminal::put_line(&format!("Token {short} of {user} is good {end}: {}", file.display()))?;
    let place = auth_file(Some(&home)).context("there is no place for the session: set HOME or ONE_AUTH")?;
    if options.force || !place.exists() {
        write_private(&place, &session)?;
        return terminal::put_line(&format!("Logged in as {user}: {}", place.display()));
    }
    terminal::put_line(&format!("File {} exists, use --force to overwrite, or:", place.display()))?;
    put_exports(&file, None)
}

/// The user's name and a new token of his. Made with the caller's session when that may, else with the user's password.
fn make(client: &Client, options: &Create) -> Result<(String, String)> {
    let login = |client: &Client, user: &str| {
        let group = options.group.as_deref().map_or(Ok(-1), |group| GROUP.id(client, group))?;
        let params = [user.into(), "".into(), options.time.into(), group.into()];
        Ok::<_, anyhow::Error>((user.to_owned(), client.call("one.user.login", params)?.text()))
    };
    let way_out = "name a file with it by --password-file FILE (- for standard input)";
    let as_himself = |user: &str| {
        let password = match options.stdin_password {
            true => password::from_file(Path::new("-"))?,
            false => password::ask(&format!("Password of {}: ", terminal::one_line(user)), way_out)?,
        };
        login(&client.as_user(user, &password)?, user)
    };
    let Some(user) = &options.name else { return login(client, client.user()?) };
    if user.parse::<u32>().is_ok() {
        bail!("{user} is an id, but a session begins with a name: write the user's name");
    }
    if options.stdin_password || client.user().is_err() {
        return as_himself(user);
    }
    match login(client, user) {
        Err(error) if may_be_tried_with_his_password(&error) => as_himself(user).map_err(|second| {
            if std::io::stdin().is_terminal() {
                return second;
            }
            let user = terminal::one_line(user);
            anyhow!("{error:#} With the password of {user} it may be done, but {second:#}")
        }),
        made => made,
    }
}

/// The session at hand is no good for it: that of somebody else, or an old one.
fn may_be_tried_with_his_password(error: &anyhow::Error) -> bool {
    let codes = [Refused::AUTHENTICATION, Refused::AUTHORIZATION, Refused::NO_EXISTS];
    error.downcast_ref::<Refused>().is_some_and(|refused| codes.contains(&refused.code))
}

#[derive(Args, Debug)]
pub(super) struct Set {
    /// Name of the user; the caller without it
    #[arg(value_name = "USER")]
    name: Option<String>,
    #[command(flatten)]
    which: Which,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
struct Which {
    /// The token whose id, as `oneuser show` prints it, begins so
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The longest token for this group, id or name
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The longest token that is not for one group
    #[arg(long)]
    global: bool,
}

/// Prints how to use one of the tokens that were made here.
pub(super) fn set(client: &Client, options: &Set) -> Result<()> {
    let home = home()?;
    let user = user_document(client, options.name.as_deref())?;
    let name = user.text_at("NAME");
    let chosen = match &options.which {
        Which { token: Some(start), .. } => Token::starting(&user, start)?,
        Which { group: Some(group), .. } => {
            let group = GROUP.id(client, group)?;
            longest(&user, group, &home).with_context(|| {
                format!("{name} has no token for group {group}: `oneuser token-create --group` makes one")
            })?
        }
        Which { global: false, .. } => bail!("say which token: --token TOKEN, --group GROUP or --global"),
        _ => longest(&user, -1, &home)
            .with_context(|| format!("{name} has no token for all groups: `oneuser token-create` makes one"))?,
    };
    let file = token_file(&home, &chosen.digest);
    if !file.exists() {
        bail!(
            "token {} was made elsewhere, and its text is known only there (no file {}); `oneuser token-create` makes a new one",
            chosen.short(),
            file.display()
        );
    }
    put_exports(&file, Some(chosen.egid))
}

#[derive(Args, Debug)]
pub(super) struct Delete {
    /// Name of the user, the caller without it; and the beginning of the token's id, as `oneuser show` prints it
    #[arg(value_names = ["USER", "TOKEN"], num_args = 1..=2, required = true)]
    words: Vec<String>,
}

/// Ends a token, here too.
pub(super) fn delete(client: &Client, options: &Delete) -> Result<()> {
    let (user, start) = match options.words.as_slice() {
        [user, start] => (Some(user.as_str()), start),
        [start] => (None, start),
        _ => bail!("name the token to end"),
    };
    let home = home()?;
    let user = user_document(client, user)?;
    let token = Token::starting(&user, start)?;
    client.call("one.user.login", [user.text_at("NAME").into(), token.digest.as_str().into(), 0.into()])?;
    forget(&home, &token.digest)
}

#[derive(Args, Debug)]
pub(super) struct DeleteAll {
    /// Name of the user
    #[arg(value_name = "USER")]
    name: String,
}

/// Ends all tokens of a user, here too.
pub(super) fn delete_all(client: &Client, options: &DeleteAll) -> Result<()> {
    let home = home()?;
    let user = user_document(client, Some(&options.name))?;
    client.call("one.user.login", [user.text_at("NAME").into(), "".into(), 0.into()])?;
    Token::all(&user).iter().try_for_each(|token| forget(&home, &token.digest))
}

/// What a document says of a token.
struct Token {
    digest: String,
    egid: i64,
    /// Epoch seconds; −1 never ends.
    end: i64,
}

impl Token {
    fn all(user: &Element) -> Vec<Self> {
        let token = |element: &Element| Self {
            digest: element.text_at("TOKEN").to_owned(),
            egid: element.int_at("EGID").unwrap_or(-1),
            end: element.int_at("EXPIRATION_TIME").unwrap_or(0),
        };
        // Digests become names of files; what is none cannot be one.
        let is_digest = |token: &Self| token.digest.len() == 64 && token.digest.bytes().all(|b| b.is_ascii_hexdigit());
        user.all("LOGIN_TOKEN").map(token).filter(is_digest).collect()
    }

    /// The one token whose digest begins with `start`.
    fn starting(user: &Element, start: &str) -> Result<Self> {
        let name = user.text_at("NAME");
        let mut found: Vec<_> = Self::all(user).into_iter().filter(|token| token.digest.starts_with(start)).collect();
        match (found.pop(), found.len()) {
            (Some(token), 0) if !start.is_empty() => Ok(token),
            (Some(_), _) => bail!("{} tokens of {name} begin so: write more of the id", found.len() + 1),
            // It is not repeated: somebody may have written the token itself.
            (None, _) => bail!("no token of {name} has an id that begins so; `oneuser show` lists them"),
        }
    }

    fn short(&self) -> String {
        self.digest.chars().take(SHORT).collect()
    }
}

/// The token for a group (−1 for all) that ends last; those whose text is here come first.
fn longest(user: &Element, egid: i64, home: &Path) -> Option<Token> {
    let rank = |token: &Token| {
        let end = if token.end == -1 { i64::MAX } else { token.end };
        (token_file(home, &token.digest).exists(), end)
    };
    Token::all(user).into_iter().filter(|token| token.egid == egid).max_by_key(rank)
}

/// The user, by name; without one, and for his own name, the caller: he need not be allowed to list users.
fn user_document(client: &Client, name: Option<&str>) -> Result<Element> {
    match name {
        Some(name) if name != client.user()? => USER.info(client, USER.id(client, name)?, false),
        _ => USER.info(client, -1, false),
    }
}

/// What the shell has to be told; can be given to `eval`.
fn put_exports(file: &Path, egid: Option<i64>) -> Result<()> {
    let egid = egid.map(|egid| format!("; export ONE_EGID={egid}")).unwrap_or_default();
    terminal::put_line(&format!("export ONE_AUTH={}{egid}", shell_quoted(&file.display().to_string())))
}

fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn home() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(PathBuf::from).context("tokens are kept in ~/.one, but HOME is not set: set it to your home directory")
}

fn token_file(home: &Path, digest: &str) -> PathBuf {
    let name: String = digest.chars().take(FILE_DIGITS).collect();
    home.join(".one").join(format!("{name}.token"))
}

fn digest(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn forget(home: &Path, digest: &str) -> Result<()> {
    let file = token_file(home, digest);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("the token is ended, but its file {} cannot be removed", file.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a line that only we can read: all of it is there, or what was there before.
fn write_private(file: &Path, line: &str) -> Result<()> {
    // A link stays one: what it points to is replaced.
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let write = || -> std::io::Result<()> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let beside = folder.join(format!(".one-session-{}-{}", std::process::id(), units::now()));
        let mut handle = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let written = handle
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| handle.sync_all())
            .and_then(|()| std::fs::rename(&beside, &file))
            .and_then(|()| File::open(folder)?.sync_all());
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    };
    write().with_context(|| format!("the token was made, but {} cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_for_the_shell_is_quoted_when_it_must_be() {
        assert_eq!(shell_quoted("/srv/a/.one/x-1.token"), "/srv/a/.one/x-1.token");
        assert_eq!(shell_quoted("/srv/a b'c"), r"'/srv/a b'\''c'");
    }

    #[test]
    fn the_digest_is_the_one_that_documents_show() {
        // sha256sum of "abc", FIPS 180-2.
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
