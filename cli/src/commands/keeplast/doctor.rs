//! `keeplast doctor`: what these commands find about themselves, and what the daemon finds about all that it works with.
//!
//! A line per check, and what to do below it. Nothing is changed anywhere. It fails (status 255) when a check did; without
//! the daemon it tells what is known without it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::wire::{Client, Endpoint, Refused, Unreachable, auth_file};
use crate::xml::Element;
use crate::{AlreadyTold, Connection, terminal, units, width};

/// Clocks may differ by so many seconds without a word.
const CLOCKS_APART_S: i64 = 10;

/// OpenNebula's codes for a session that is not good and for a right that is missing.
const AUTHENTICATION: i64 = 0x0100;
const AUTHORIZATION: i64 = 0x0200;

#[derive(Args, Debug)]
pub struct Options {
    /// All checks as JSON
    #[arg(short, long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Warning,
    Failure,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }

    const fn shown(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warn",
            Self::Failure => "FAIL",
        }
    }

    /// What is not understood is not called good.
    fn of(word: &str) -> Self {
        match word {
            "ok" => Self::Ok,
            "failure" => Self::Failure,
            _ => Self::Warning,
        }
    }
}

struct Check {
    name: String,
    subject: String,
    outcome: Outcome,
    text: String,
    remedy: String,
}

pub fn run(connection: &Connection, options: &Options) -> Result<()> {
    let mut checks = Vec::new();
    let client = ourselves(connection, &mut checks);
    let examination = client.and_then(|client| daemon(&client, &mut checks));
    if let Some(examination) = &examination {
        versions(examination, &mut checks);
        clocks(examination, &mut checks);
        checks.extend(examination.all("CHECK").map(found));
    }
    if options.json {
        terminal::put(&crate::json::pretty(&document(&checks)))?;
    } else {
        terminal::put(&page(&checks, terminal::width()))?;
    }
    let failed = checks.iter().any(|check| check.outcome == Outcome::Failure);
    if failed { Err(AlreadyTold.into()) } else { Ok(()) }
}

fn put(checks: &mut Vec<Check>, name: &str, outcome: Outcome, text: impl Into<String>, remedy: &str) {
    let (name, text, remedy) = (name.to_owned(), text.into(), remedy.to_owned());
    checks.push(Check { name, subject: String::new(), outcome, text, remedy });
}

/// Endpoint and session; none when there is no way to the daemon.
fn ourselves(connection: &Connection, checks: &mut Vec<Check>) -> Option<Client> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    match Endpoint::choose(connection.endpoint.as_deref(), home.as_deref()) {
        Ok(endpoint) => {
            let source = endpoint_source(connection, home.as_deref());
            put(checks, "endpoint", Outcome::Ok, format!("{endpoint}, {source}"), "");
        }
        Err(error) => {
            let remedy = "write http://HOST:2633/RPC2 into ONE_XMLRPC or ~/.one/one_endpoint";
            put(checks, "endpoint", Outcome::Failure, format!("{error:#}"), remedy);
        }
    }
    session_file(connection, home.as_deref(), checks);
    // The session is read when its user is asked for.
    let client = connection.open().and_then(|client| client.user().map(drop).map(|()| client));
    match client {
        Ok(client) => Some(client),
        Err(error) => {
            // That of the endpoint is told already.
            if checks.iter().all(|check| check.name != "endpoint" || check.outcome == Outcome::Ok) {
                let remedy = "export ONE_AUTH=STATE/.one/one_auth, where STATE is the daemon's --state-dir, or write user:password into the file";
                put(checks, "session", Outcome::Failure, format!("{error:#}"), remedy);
            }
            None
        }
    }
}

/// Where the address is from, in the order in which it is looked for.
fn endpoint_source(connection: &Connection, home: Option<&Path>) -> &'static str {
    if connection.endpoint.is_some() {
        "from --endpoint"
    } else if std::env::var("ONE_XMLRPC").is_ok_and(|text| !text.trim().is_empty()) {
        "from ONE_XMLRPC"
    } else if home.is_some_and(|home| home.join(".one/one_endpoint").exists()) {
        "from ~/.one/one_endpoint"
    } else {
        "for nothing else is said"
    }
}

/// Whether others can read the password.
fn session_file(connection: &Connection, home: Option<&Path>, checks: &mut Vec<Check>) {
    let file = match &connection.password_file {
        Some(file) => Some(file.clone()),
        None if connection.user.is_some() => None,
        None => auth_file(home),
    };
    // What is missing is told when the session is made of it.
    let Some((file, facts)) = file.and_then(|file| std::fs::metadata(&file).ok().map(|facts| (file, facts))) else {
        return;
    };
    let (mode, file) = (facts.permissions().mode() & 0o777, file.display());
    if facts.is_file() && mode & 0o077 != 0 {
        let text = format!("others may use {file}, which holds a password: mode {mode:04o} instead of 0600");
        put(checks, "session", Outcome::Failure, text, &format!("chmod 600 {file}"));
    } else {
        put(checks, "session", Outcome::Ok, format!("{file}, mode {mode:04o}"), "");
    }
}

/// What the daemon found; none when it does not tell.
fn daemon(client: &Client, checks: &mut Vec<Check>) -> Option<Element> {
    match client.call("one.system.version", []) {
        Ok(line) => {
            let line = terminal::one_line(&line.text());
            put(checks, "daemon", Outcome::Ok, format!("answers, and speaks the API of OpenNebula {line}"), "");
        }
        Err(error) => {
            let refused = error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == AUTHENTICATION);
            let (name, remedy) = if refused {
                (
                    "session",
                    "the user or its password is another: see the session's file, or oneuser passwd as an administrator",
                )
            } else if !error.is::<Unreachable>() {
                // The sentence says itself what to do: the certificate, the address, another program.
                ("daemon", "")
            } else {
                (
                    "daemon",
                    "start it on its machine: systemctl start oned, or oned --state-dir DIR; DIR/oned.log says why it ended",
                )
            };
            put(checks, name, Outcome::Failure, format!("{error:#}"), remedy);
            return None;
        }
    }
    let answer = client.call("one.system.examine", []);
    match answer.and_then(|answer| Element::parse(&answer.text())) {
        Ok(examination) => Some(examination),
        Err(error) => {
            let remedy = match error.downcast_ref::<Refused>().map(|refused| refused.code) {
                Some(AUTHORIZATION) => "ask again as an administrator (a user in group oneadmin)",
                Some(Refused::NO_METHOD) => "the daemon is older than these commands: upgrade it",
                _ => "ask again; oned.log says more",
            };
            put(
                checks,
                "examination",
                Outcome::Warning,
                format!("the daemon does not examine itself: {error:#}"),
                remedy,
            );
            None
        }
    }
}

fn versions(examination: &Element, checks: &mut Vec<Check>) {
    let (ours, theirs) = (env!("CARGO_PKG_VERSION"), terminal::one_line(examination.text_at("VERSION")));
    if ours == theirs {
        put(checks, "version", Outcome::Ok, format!("{ours}, commands and daemon"), "");
    } else {
        let text = format!("the commands are of version {ours}, the daemon is of {theirs}");
        put(checks, "version", Outcome::Warning, text, "install the same version of both");
    }
}

/// The examination's time is that of its end.
fn clocks(examination: &Element, checks: &mut Vec<Check>) {
    let Some(time) = examination.int_at("TIME") else { return };
    let apart = units::now().saturating_sub(time);
    let seconds = i64::try_from(apart.unsigned_abs()).unwrap_or(i64::MAX);
    if seconds <= CLOCKS_APART_S {
        put(checks, "clocks", Outcome::Ok, "this machine's and the daemon's agree", "");
        return;
    }
    let what = if apart > 0 { "behind" } else { "ahead of" };
    let text = format!("the daemon's clock is {} {what} this machine's", units::duration(seconds));
    put(
        checks,
        "clocks",
        Outcome::Warning,
        text,
        "have both machines follow a server of time: times in options and tables are this machine's",
    );
}

/// A check of the daemon's.
fn found(check: &Element) -> Check {
    let text = |name| terminal::one_line(check.text_at(name));
    Check {
        name: text("NAME"),
        subject: text("SUBJECT"),
        outcome: Outcome::of(check.text_at("RESULT")),
        text: text("TEXT"),
        remedy: text("REMEDY"),
    }
}

fn document(checks: &[Check]) -> Element {
    let leaf = |name: &str, text: &str| Element { name: name.to_owned(), text: text.to_owned(), children: Vec::new() };
    let check = |check: &Check| {
        let parts = [
            ("NAME", check.name.as_str()),
            ("SUBJECT", &check.subject),
            ("RESULT", check.outcome.word()),
            ("TEXT", &check.text),
            ("REMEDY", &check.remedy),
        ];
        // An empty element would be an empty map in JSON.
        let said = parts.into_iter().filter(|(_, text)| !text.is_empty());
        let children = said.map(|(name, text)| leaf(name, text)).collect();
        Element { name: "CHECK".to_owned(), text: String::new(), children }
    };
    Element { name: "EXAMINATION".to_owned(), text: String::new(), children: checks.iter().map(check).collect() }
}

/// A line per check, wrapped at `width`, what to do indented below, and a line that counts.
fn page(checks: &[Check], width: Option<usize>) -> String {
    let mut out = String::new();
    for check in checks {
        let line = format!("{}: {}", about(check), check.text);
        wrap(&mut out, check.outcome.shown(), &terminal::one_line(&line), width);
        if !check.remedy.is_empty() {
            wrap(&mut out, "", &format!("-> {}", terminal::one_line(&check.remedy)), width);
        }
    }
    let count = |outcome: Outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (failures, warnings) = (count(Outcome::Failure), count(Outcome::Warning));
    out.push_str(&format!(
        "\n{}: {}, {}\n",
        plural(checks.len(), "check"),
        plural(failures, "failure"),
        plural(warnings, "warning")
    ));
    out
}

/// `libvirt, host 0 (node1)`; a datastore is not named twice.
fn about(check: &Check) -> String {
    match (check.name.as_str(), check.subject.as_str()) {
        (name, "") => name.to_owned(),
        (name, subject) if subject.starts_with(name) => subject.to_owned(),
        (name, subject) => format!("{name}, {subject}"),
    }
}

/// The text behind a mark of six columns; further lines are indented by as much. A word that is too long for a line has one.
fn wrap(out: &mut String, mark: &str, text: &str, width: Option<usize>) {
    const INDENT: usize = 6;
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(INDENT).max(20));
    let mut line = String::new();
    let mut mark = mark;
    let mut push = |line: &str| {
        out.push_str(&format!("{mark:<INDENT$}{line}\n"));
        mark = "";
    };
    for word in text.split(' ') {
        if !line.is_empty() && width::of(&line) + 1 + width::of(word) > room {
            push(&line);
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    push(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_behind_their_mark() {
        let check = |outcome, subject: &str, remedy: &str| Check {
            name: "libvirt".into(),
            subject: subject.into(),
            outcome,
            text: "answers in nine words and a\u{1b}[2J".into(),
            remedy: remedy.into(),
        };
        let checks = [check(Outcome::Ok, "", ""), check(Outcome::Failure, "host 0 (a)", "start it anew")];
        let expected = "ok    libvirt: answers in nine words\n      and a [2J\nFAIL  libvirt, host 0 (a): answers\n      in nine words and a [2J\n      -> start it anew\n\n2 checks: 1 failure, 0 warnings\n";
        assert_eq!(page(&checks, Some(36)), expected);
        assert_eq!(page(&checks, None).lines().count(), 5);
    }
}
