//! Man pages: one per tool with all its verbs, as users of OpenNebula look for them, and one for `keeplast`.
//!
//! Verbs and options are drawn from the command tree; examples, environment and files are written here. The same program
//! always writes the same bytes: the date is that of the version, not of the day.
//!
//! This is the only module that names clap_mangen, of which it takes the writer of roff.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, Command};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::help::{self, CONNECTION};
use crate::tools::{self, TOOLS};

/// When this version was made.
const DATE: &str = "2026-11-21";

/// Longest line of text in the source of a page; judges of man pages ask for less than 80.
const LINE_MAX: usize = 72;

/// Lines that a reader may copy, by tool, each with what it does.
const EXAMPLES: [(&str, &[(&str, &str)]); 14] = [
    (
        "onevm",
        &[
            (
                "onevm backup web -d backups --wait",
                "Back up a VM at once, and show progress until there is a restore point.",
            ),
            (
                "onevm backup web --schedule \"12/01 02:00\" --weekly 1,3,5 --keep-last 14",
                "Back it up on Mondays, Wednesdays and Fridays, and keep the newest fourteen points.",
            ),
            ("onevm poweroff 0..3,7 --hard", "Five VMs by their ids."),
            ("onevm list -l ID,NAME,STAT -f STAT=poff", "A table of three columns with the VMs that are off."),
        ],
    ),
    (
        "oneimage",
        &[
            ("oneimage list --backup", "The backups among the images."),
            (
                "oneimage restore 4 -d default --increment 2",
                "New images and a VM template from the third point of a chain.",
            ),
            ("oneimage verify 4 --deep", "Read every byte of a backup, and compare it with what was stored."),
        ],
    ),
    (
        "onebackupjob",
        &[(
            "onebackupjob create --name nightly --vms 0,1,5 --keep 7 --schedule \"12/01 02:00\" --hourly 24",
            "Three VMs, every night.",
        )],
    ),
    (
        "onedatastore",
        &[
            ("onedatastore create backups.tmpl", "A datastore of the file's template."),
            ("onedatastore show backups", "Its capacity and images."),
            ("onedatastore usage backups --vms", "When it is full, and which VMs store most in it."),
        ],
    ),
    (
        "onetemplate",
        &[("onetemplate instantiate web --name web-2 --wait", "A VM from a stored template, until it runs.")],
    ),
    (
        "onehost",
        &[
            ("onehost create localhost --im kvm --vm kvm", "This machine as a host."),
            ("onehost monitoring localhost USED_CPU", "A chart of how busy it was."),
        ],
    ),
    ("onecluster", &[("onecluster addhost rack 0,3..5", "Four hosts into a cluster.")]),
    (
        "onevnet",
        &[
            (
                "onevnet create --name private --vn_mad bridge --bridge br0 --ip 10.0.0.10 --size 50",
                "A network with fifty addresses on the bridge br0.",
            ),
            ("onevnet hold private 10.0.0.20", "Keep an address from guests."),
            ("onevnet reserve private --name lab --size 10", "Ten of its addresses as a network of their own."),
        ],
    ),
    ("onesecgroup", &[("onesecgroup clone default strict", "A copy of a security group.")]),
    ("onevdc", &[("onevdc addcluster research 0 ALL", "Groups of a virtual data centre may use every cluster.")]),
    (
        "oneuser",
        &[
            ("oneuser show", "Who you are, for the daemon."),
            ("oneuser create alice --group users", "A new user; the password is asked for."),
            ("oneuser token-create alice --time 3600", "A token that lets her in for an hour."),
        ],
    ),
    ("onegroup", &[("onegroup create developers", "A new group.")]),
    ("oneacl", &[("oneacl create \"@1 VM+NET/* USE\"", "Group 1 may use all VMs and networks.")]),
    (
        "keeplast",
        &[
            ("keeplast vm list", "The same as onevm list."),
            ("keeplast doctor", "See whether all that backups need is there."),
            ("keeplast install-links /usr/local/bin", "Lay down onevm, oneimage and the other names."),
            ("keeplast completion bash > /etc/bash_completion.d/keeplast", "Completion for every user's bash."),
            ("keeplast man /usr/local/share/man/man1", "These pages."),
        ],
    ),
];

const ENVIRONMENT: [(&str, &str); 10] = [
    ("ONE_XMLRPC", "Address of the daemon, like http://localhost:2633/RPC2. --endpoint goes before it."),
    ("ONE_AUTH", "File with user:password, or user:token, instead of ~/.one/one_auth."),
    ("ONE_LISTCONF", "Name of a list of columns in the files below ~/.one/cli."),
    ("ONE_PAGER", "Pager of tables that are longer than the terminal, like less -S; none without it."),
    ("VISUAL, EDITOR", "Editor of the verbs that change a text; vi without either."),
    ("SSL_CERT_FILE", "File of trusted certificates for an https address, instead of the system's."),
    ("ONE_CERT_DIR", "Directory of further certificates to trust."),
    ("ONE_DISABLE_SSL_VERIFY", "Set to yes, it trusts every certificate: the session goes to whoever answers."),
    ("COLUMNS", "Width of tables on a terminal."),
    ("TZ", "Zone in which times are read and shown."),
];

const FILES: [(&str, &str); 4] = [
    ("~/.one/one_auth", "The session, user:password in one line. Others must not be able to read it."),
    ("~/.one/one_endpoint", "The address of the daemon, when ONE_XMLRPC is not set."),
    ("~/.one/cli/onevm.yaml", "Columns of tables, as OpenNebula's files have them; else those in /etc/one/cli."),
    ("/var/lib/one/.one/one_auth", "The session of oneadmin, which the daemon makes at its first start."),
];

/// Writes all pages into `directory`; each is whole at any moment.
///
/// # Errors
/// When the directory is not there or cannot be written.
pub fn write(directory: &Path) -> Result<()> {
    for (name, page) in pages() {
        let place = directory.join(format!("{name}.1"));
        let fresh = directory.join(format!(".{name}.1.{}", std::process::id()));
        new_file(&fresh, &page).and_then(|()| fs::rename(&fresh, &place)).with_context(|| {
            let _ = fs::remove_file(&fresh);
            format!("the page {} cannot be written; make the directory first, or name another", place.display())
        })?;
    }
    Ok(())
}

/// Writes a file that was not there, so that nothing which a link leads to is written over. What a run that was killed left
/// under that name goes.
fn new_file(path: &Path, text: &str) -> io::Result<()> {
    let create = || File::create_new(path);
    let made = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(path).and_then(|()| create()),
        made => made,
    };
    made?.write_all(text.as_bytes())
}

/// The pages with the names of what they are about.
#[must_use]
pub fn pages() -> Vec<(&'static str, String)> {
    let tools = TOOLS.iter().map(|tool| (tool.name, of_tool(tool.name, tool.word, tool.command())));
    std::iter::once(("keeplast", of_front())).chain(tools).collect()
}

fn of_tool(name: &'static str, word: &str, mut command: Command) -> String {
    command.build();
    let mut page = Page::begin(name, &about(&command));
    page.section("SYNOPSIS");
    page.line([
        bold(name),
        roman(" "),
        italic("VERB"),
        roman(" ["),
        italic("OPTIONS"),
        roman("] ["),
        italic("ARGUMENTS"),
        roman("]"),
    ]);
    page.section("DESCRIPTION");
    page.text(&format!(
        "{name} talks to a Keeplast daemon, oned, over XML-RPC, with the verbs, options and columns of OpenNebula's command of that \
         name. keeplast {word} is the same command."
    ));
    page.paragraph(
        "An object is named by its id or its name. Where several are taken, ids may be listed (0,1,5) and given as a range \
         (0..3). What was created is told as ID: 7; otherwise success is silent.",
    );
    page.section("VERBS");
    for (heading, verbs) in help::verbs_by_heading(&command) {
        page.subsection(heading);
        verbs.into_iter().for_each(|verb| page.verb(name, verb));
    }
    page.shared_options(&command);
    page.end(name, TOOLS.iter().map(|tool| tool.name).filter(|other| *other != name))
}

fn of_front() -> String {
    let mut command = tools::command();
    command.build();
    let mut page = Page::begin("keeplast", "virtual machines and their backups");
    page.section("SYNOPSIS");
    page.line([
        bold("keeplast"),
        roman(" "),
        italic("TOOL VERB"),
        roman(" ["),
        italic("OPTIONS"),
        roman("] ["),
        italic("ARGUMENTS"),
        roman("]"),
    ]);
    page.section("DESCRIPTION");
    page.text("keeplast holds all commands for a Keeplast daemon, oned. Started under the name of a link, like onevm, it is that tool.");
    page.section("TOOLS");
    for (_, tool) in help::tools_by_group() {
        page.entry([bold(tool.word), roman(", "), bold(tool.name), roman("(1)")], &about(&tool.command()));
    }
    page.section("VERBS");
    let is_tool = |verb: &Command| TOOLS.iter().any(|tool| tool.word == verb.get_name());
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && !is_tool(verb)) {
        page.verb("keeplast", verb);
    }
    page.end("keeplast", TOOLS.iter().map(|tool| tool.name))
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// A page that is being written.
struct Page(Roff);

impl Page {
    fn begin(name: &str, about: &str) -> Self {
        let mut page = Self(Roff::new());
        let version = format!("Keeplast {}", env!("CARGO_PKG_VERSION"));
        page.0.control("TH", [name.to_uppercase().as_str(), "1", DATE, version.as_str(), "Keeplast"]);
        page.section("NAME");
        page.line([roman(format!("{name} - {}", lower(about)))]);
        page
    }

    fn section(&mut self, title: &str) {
        self.0.control("SH", [title]);
    }

    fn subsection(&mut self, title: &str) {
        self.0.control("SS", [title]);
    }

    fn line(&mut self, inlines: impl Into<Vec<Inline>>) {
        self.0.text(inlines);
    }

    /// Words, a short line of source after another.
    fn text(&mut self, text: &str) {
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && written(&line) + written(word) >= LINE_MAX {
                self.line([roman(std::mem::take(&mut line))]);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            self.line([roman(line)]);
        }
    }

    fn paragraph(&mut self, text: &str) {
        self.0.control("PP", []);
        self.text(text);
    }

    /// A term and, beside or below it, what it is.
    fn entry(&mut self, term: impl Into<Vec<Inline>>, text: &str) {
        self.0.control("TP", []);
        self.line(term);
        self.text(text);
    }

    fn verb(&mut self, tool: &str, verb: &Command) {
        let mut term = vec![bold(format!("{tool} {}", verb.get_name()))];
        for arg in verb.get_positionals().filter(|arg| !arg.is_hide_set()) {
            let name = value_name(arg);
            let (before, behind) = if arg.is_required_set() { (" ", "") } else { (" [", "]") };
            term.extend([roman(before), italic(name), roman(behind)]);
        }
        self.entry(term, &sentence(&about(verb)));
        let own: Vec<&Arg> =
            verb.get_arguments().filter(|arg| is_shown(arg) && arg.get_help_heading().is_none()).collect();
        let groups = shared_headings(verb);
        if own.is_empty() && groups.is_empty() {
            return;
        }
        self.0.control("RS", []);
        own.into_iter().for_each(|arg| self.argument(arg));
        if !groups.is_empty() {
            let groups: Vec<_> = groups.iter().map(|heading| heading.to_lowercase()).collect();
            self.paragraph(&format!("Takes the options below {}, too.", groups.join(" and ")));
        }
        self.0.control("RE", []);
    }

    fn argument(&mut self, arg: &Arg) {
        let mut term = Vec::new();
        if arg.is_positional() {
            term.push(italic(value_name(arg)));
        }
        let short = arg.get_short().map(|short| format!("-{short}"));
        for (at, name) in short.into_iter().chain(arg.get_long().map(|long| format!("--{long}"))).enumerate() {
            term.extend((at > 0).then(|| roman(", ")));
            term.push(bold(name));
        }
        if !arg.is_positional() && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
            term.extend([roman(" "), italic(value_name(arg))]);
        }
        let mut text = sentence(&arg.get_help().map(ToString::to_string).unwrap_or_default());
        let default: Vec<_> = arg
            .get_default_values()
            .iter()
            .filter_map(|value| value.to_str())
            .filter(|value| !value.is_empty())
            .collect();
        if !default.is_empty() && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
            text.push_str(&format!(" Without it {}.", default.join(",")));
        }
        self.entry(term, &text);
    }

    /// The options that several verbs share, once; those of all verbs last.
    fn shared_options(&mut self, tool: &Command) {
        for heading in tool.get_subcommands().flat_map(shared_headings).fold(Vec::new(), unique) {
            self.section(&format!("{} OPTIONS", heading.to_uppercase()));
            let all = tool.get_subcommands().flat_map(Command::get_arguments).filter(|arg| is_shown(arg));
            let mut seen = Vec::new();
            for arg in all.filter(|arg| arg.get_help_heading() == Some(heading)) {
                if !seen.contains(&arg.get_id()) {
                    seen.push(arg.get_id());
                    self.argument(arg);
                }
            }
        }
        self.section("OPTIONS OF EVERY VERB");
        let of_all = tool.get_arguments().filter(|arg| arg.get_help_heading() == Some(CONNECTION));
        of_all.for_each(|arg| self.argument(arg));
        self.entry([bold("-v"), roman(", "), bold("--verbose")], "Say what was done: VM 3: resume done.");
        self.entry([bold("-h"), roman(", "), bold("--help")], "Explain the tool, or the verb.");
        self.entry([bold("-V"), roman(", "), bold("--version")], "Print the version.");
    }

    fn end(mut self, name: &str, others: impl Iterator<Item = &'static str>) -> String {
        self.section("EXIT STATUS");
        self.entry([bold("0")], "All of it was done.");
        self.entry([bold("255")], "Something was not done, or the command line is wrong; one line on standard error says what, why, and what to do. \
             Of several objects the others are done all the same.");
        self.entry([bold("130")], "Ctrl-C: what was being watched goes on, and nothing else was done.");
        self.section("ENVIRONMENT");
        for (variable, text) in ENVIRONMENT {
            self.entry([bold(variable)], text);
        }
        self.section("FILES");
        for (file, text) in FILES {
            self.entry([italic(file)], text);
        }
        self.section("EXAMPLES");
        match EXAMPLES.iter().find(|(tool, _)| *tool == name) {
            Some((_, examples)) => examples.iter().for_each(|(line, text)| self.entry([bold(*line)], text)),
            None => self.entry([bold(format!("{name} list"))], "A table of all."),
        }
        self.section("SEE ALSO");
        let names: Vec<_> = (name != "keeplast").then_some("keeplast").into_iter().chain(others).collect();
        for (at, other) in names.iter().enumerate() {
            let end = if at + 1 < names.len() { "," } else { "" };
            self.line([bold(*other), roman(format!("(1){end}"))]);
        }
        self.0.render()
    }
}

/// Headings of a verb's options other than its own and those of every verb.
fn shared_headings(verb: &Command) -> Vec<&str> {
    let headings = verb.get_arguments().filter(|arg| is_shown(arg)).filter_map(Arg::get_help_heading);
    headings.filter(|heading| *heading != CONNECTION).fold(Vec::new(), unique)
}

fn unique<'a>(mut seen: Vec<&'a str>, heading: &'a str) -> Vec<&'a str> {
    if !seen.contains(&heading) {
        seen.push(heading);
    }
    seen
}

/// Not the options that every verb has and that stand in a section of their own.
fn is_shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version", help::VERBOSE].contains(&arg.get_id().as_str())
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default()
}

/// How long a text is in the source of a page, where dashes and apostrophes are written out.
fn written(text: &str) -> usize {
    text.len() + text.matches('-').count() + 4 * text.matches('\'').count()
}

/// With a full stop at its end.
fn sentence(text: &str) -> String {
    if text.is_empty() || text.ends_with(['.', '!', '?', '…']) { text.to_owned() } else { format!("{text}.") }
}

/// As it stands behind the dash of NAME. Words in capitals stay.
fn lower(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => format!("{}{}", first.to_lowercase(), letters.as_str()),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_command_line_that_is_taken() {
        let tools: std::collections::BTreeSet<_> = EXAMPLES.iter().map(|(tool, _)| tool).collect();
        assert_eq!(tools.len(), EXAMPLES.len(), "a tool has its examples in one place");
        for (tool, examples) in EXAMPLES {
            for (line, _) in examples {
                assert!(line.starts_with(tool), "{line} is no example of {tool}");
                let command = tools::named(tool).map_or_else(tools::command, tools::Entry::command);
                // Quotes and redirections are the shell's.
                let words = line.split(" > ").next().unwrap_or_default().split('"').enumerate();
                let words = words.flat_map(|(at, part)| match at % 2 {
                    0 => part.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![part.to_owned()],
                });
                let taken = command.try_get_matches_from(words);
                assert!(taken.is_ok(), "{line}: {}", taken.unwrap_err());
            }
        }
    }

    #[test]
    fn a_link_under_the_name_of_a_page_that_is_being_written_is_not_followed() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        fs::write(other.path(), "precious").unwrap();
        let fresh = folder.path().join(format!(".keeplast.1.{}", std::process::id()));
        std::os::unix::fs::symlink(other.path(), &fresh).unwrap();
        write(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(other.path()).unwrap(), "precious");
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        assert!(names.into_iter().all(|entry| entry.file_type().unwrap().is_file()));
    }

    #[test]
    fn pages_name_every_verb_and_are_the_same_each_time() {
        let pages = pages();
        assert_eq!(pages, super::pages());
        for tool in &TOOLS {
            let (_, page) = pages.iter().find(|(name, _)| *name == tool.name).unwrap();
            for verb in tool.command().get_subcommands() {
                let term = format!("\\fB{} {}\\fR", tool.name, verb.get_name().replace('-', "\\-"));
                assert!(page.contains(&term), "{term}");
            }
        }
    }
}
