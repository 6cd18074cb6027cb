//! One binary, many names: the table of tools, and how the name under which the binary was started picks one.
//!
//! `onevm list` (a link to the binary), `keeplast onevm list` and `keeplast vm list` are the same. The table is also what
//! help, completion, man pages and links are made of: a tool that is not in it does not exist.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use crate::commands::{
    keeplast, oneacl, onebackupjob, onecluster, onedatastore, onegroup, onehost, oneimage, onesecgroup, onetemplate,
    oneuser, onevdc, onevm, onevnet, onezone,
};
use crate::objects::{self, Kind};
use crate::{Connection, Tool, completion, finish, help, terminal, usage};

/// A tool: its names, what it is about, and what runs it.
pub struct Entry {
    /// The name of its link, as OpenNebula has it: `onevm`.
    pub name: &'static str,
    /// Its name behind `keeplast`: `vm`.
    pub word: &'static str,
    /// What the ids in its arguments are ids of.
    pub kind: &'static Kind,
    command: fn() -> Command,
    run: fn(&ArgMatches, &'static Kind) -> anyhow::Result<()>,
}

impl Entry {
    const fn of<T: Tool>(name: &'static str, word: &'static str, kind: &'static Kind) -> Self {
        Self { name, word, kind, command: T::command, run: start::<T> }
    }

    /// The options of the tool as a command of its own.
    #[must_use]
    pub fn command(&self) -> Command {
        help::of_tool((self.command)(), self.name)
    }

    /// All columns of its table, a line each: `NAME: what it is`.
    ///
    /// # Errors
    /// What its `list` says.
    pub fn columns(&self, connection: &Connection) -> anyhow::Result<String> {
        let mut words: Vec<OsString> = [self.name, "list", "--describe"].map(OsString::from).into();
        if let Some(endpoint) = &connection.endpoint {
            words.extend(["--endpoint".into(), endpoint.into()]);
        }
        if let (Some(user), Some(file)) = (&connection.user, &connection.password_file) {
            words.extend(["--user".into(), user.into(), "--password-file".into(), file.into()]);
        }
        let matches = self.command().try_get_matches_from(words)?;
        terminal::caught(|| (self.run)(&matches, self.kind))
    }

    /// The options of the tool behind `keeplast`.
    fn subcommand(&self) -> Command {
        help::of_tool((self.command)(), &format!("keeplast {}", self.word)).name(self.word).alias(self.name)
    }
}

/// All tools, in the order in which help lists them.
pub const TOOLS: [Entry; 14] = [
    Entry::of::<onevm::Command>("onevm", "vm", &objects::VM),
    Entry::of::<onetemplate::Command>("onetemplate", "template", &objects::TEMPLATE),
    Entry::of::<onebackupjob::Command>("onebackupjob", "backupjob", &objects::BACKUP_JOB),
    Entry::of::<oneimage::Command>("oneimage", "image", &objects::IMAGE),
    Entry::of::<onedatastore::Command>("onedatastore", "datastore", &objects::DATASTORE),
    Entry::of::<onehost::Command>("onehost", "host", &objects::HOST),
    Entry::of::<onecluster::Command>("onecluster", "cluster", &objects::CLUSTER),
    Entry::of::<onevnet::Command>("onevnet", "vnet", &objects::VNET),
    Entry::of::<onesecgroup::Command>("onesecgroup", "secgroup", &objects::SECURITY_GROUP),
    Entry::of::<oneuser::Command>("oneuser", "user", &objects::USER),
    Entry::of::<onegroup::Command>("onegroup", "group", &objects::GROUP),
    Entry::of::<oneacl::Command>("oneacl", "acl", &objects::ACL),
    Entry::of::<onevdc::Command>("onevdc", "vdc", &objects::VDC),
    Entry::of::<onezone::Command>("onezone", "zone", &objects::ZONE),
];

/// The tool of that link name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Entry> {
    TOOLS.iter().find(|tool| tool.name == name)
}

/// All of it as one command: every tool under its word, and what only `keeplast` does.
#[must_use]
pub fn command() -> Command {
    help::of_front(keeplast::Command::command()).subcommands(TOOLS.iter().map(Entry::subcommand))
}

/// Runs what the arguments of this process say; the first is the name under which it was started.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    if let Some(answered) = completion::answer(arguments) {
        return answered;
    }
    let started_as = usage::started_as(arguments);
    let tool = started_as.and_then(named);
    match started_as {
        Some(name) if tool.is_none() && name.starts_with("one") => return finish(Err(no_such_tool(name))),
        _ => {}
    }
    if let Some(sentence) = usage::refused_at_once(arguments) {
        return finish(Err(anyhow::Error::msg(sentence)));
    }
    let mut command = tool.map_or_else(command, Entry::command);
    let matches = match command.try_get_matches_from_mut(usage::normal(arguments)) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => {
            return finish(Err(anyhow::Error::msg(usage::sentence(&error, &command, arguments))));
        }
        Err(help) => return finish(terminal::put(&help.render().to_string())),
    };
    finish(match (tool, matches.subcommand()) {
        (Some(tool), _) => (tool.run)(&matches, tool.kind),
        (None, Some((word, inner))) => match TOOLS.iter().find(|tool| tool.word == word) {
            Some(tool) => (tool.run)(inner, tool.kind),
            None => keeplast::Command::from_arg_matches(&matches).map_err(Into::into).and_then(keeplast::Command::run),
        },
        (None, None) => Err(anyhow::anyhow!("keeplast: a tool is missing; keeplast --help lists them")),
    })
}

fn no_such_tool(name: &str) -> anyhow::Error {
    let names: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
    let name = terminal::one_line(name);
    anyhow::anyhow!("{name} is none of the names of this program: it goes by keeplast, {}", names.join(", "))
}

fn start<T: Tool>(matches: &ArgMatches, kind: &'static Kind) -> anyhow::Result<()> {
    let tool = T::from_arg_matches(matches)?;
    let mut client = tool.connection().open()?;
    if let Some((verb, inner)) = matches.subcommand()
        && inner.try_get_one::<bool>(help::VERBOSE).ok().flatten() == Some(&true)
    {
        client.tell(kind, verb);
    }
    tool.run(&client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_well_formed_under_both_of_its_names() {
        for tool in &TOOLS {
            assert_eq!(tool.command().get_name(), tool.name);
            assert_eq!(format!("one{}", tool.word), tool.name);
            tool.command().debug_assert();
        }
        command().debug_assert();
    }
}
