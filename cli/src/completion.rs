//! Completion in bash, zsh and fish: the script that a shell reads once, and the answer that it asks for at each TAB.
//!
//! The scripts know nothing but how to ask: `keeplast __complete SHELL …` walks the command tree with clap's engine, so that
//! verbs, options and values are always those of the program at hand, and the daemon tells ids and names. What completes an
//! argument follows from its value name. The answer is a line that says what to do (`values`, `files`, `directories`) and
//! a line per candidate.
//!
//! A TAB never waits longer than [`DEADLINE`] for the daemon, asks for nothing, says nothing on standard error and runs
//! nothing that a name says: for bash the candidates are quoted here, zsh and fish quote by themselves.
//!
//! This is the only module that names clap_complete, whose engine is marked unstable.

mod parts;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::StyledStr;
use clap::{Arg, Command, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete};

use crate::objects::{self, Kind};
use crate::tools::{self, Entry, TOOLS};
use crate::xml::Element;
use crate::{Connection, states, terminal};

/// The word by which the scripts ask.
const ASK: &str = "__complete";

/// How long the daemon may take to tell names.
const DEADLINE: Duration = Duration::from_secs(2);

/// Most candidates that a shell gets; nobody reads more.
const CANDIDATES_MAX: usize = 2000;

/// Candidates that stand for what the shell itself completes. No name on the wire can hold such characters.
const FILES: &str = "\u{1}files";
const DIRECTORIES: &str = "\u{1}directories";

/// Value names of objects of one kind, whatever the tool is.
const KINDS: [(&str, &Kind); 15] = [
    ("VM", &objects::VM),
    ("TEMPLATE", &objects::TEMPLATE),
    ("IMAGE", &objects::IMAGE),
    ("DATASTORE", &objects::DATASTORE),
    ("HOST", &objects::HOST),
    ("CLUSTER", &objects::CLUSTER),
    ("ZONE", &objects::ZONE),
    ("USER", &objects::USER),
    ("GROUP", &objects::GROUP),
    ("VNET", &objects::VNET),
    ("NETWORK", &objects::VNET),
    ("SECGROUP", &objects::SECURITY_GROUP),
    ("SECURITY_GROUP", &objects::SECURITY_GROUP),
    ("VDC", &objects::VDC),
    ("BACKUPJOB", &objects::BACKUP_JOB),
];

/// A shell that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// Bash 4.4 or newer
    Bash,
    /// Zsh
    Zsh,
    /// Fish 3 or newer
    Fish,
}

/// The script that teaches `shell` to complete `keeplast` and all its links.
///
/// # Errors
/// When the path of this program cannot be found or is not UTF-8.
pub fn script(shell: Shell) -> Result<String> {
    let program = std::env::current_exe().context("finding the path of this program")?;
    let program = program.to_str().context("the path of this program is not UTF-8, which a script cannot hold")?;
    let names: Vec<_> = std::iter::once("keeplast").chain(TOOLS.iter().map(|tool| tool.name)).collect();
    let (text, program) = match shell {
        Shell::Bash => (include_str!("completion/keeplast.bash"), quoted(program)),
        Shell::Zsh => (include_str!("completion/keeplast.zsh"), quoted(program)),
        Shell::Fish => (include_str!("completion/keeplast.fish"), quoted_for_fish(program)),
    };
    Ok(text.replace("@NAMES@", &names.join(" ")).replace("@PROGRAM@", &program))
}

/// In single quotes, as bash and zsh read them.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn quoted_for_fish(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

/// Answers a shell that asks; None when nobody asked.
#[must_use]
pub fn answer(arguments: &[OsString]) -> Option<ExitCode> {
    if arguments.get(1)? != ASK {
        return None;
    }
    terminal::hush();
    let rest: Vec<String> = arguments.iter().skip(2).map(|word| word.to_string_lossy().into_owned()).collect();
    let text = match rest.split_first() {
        Some((shell, words)) if shell == "bash" => {
            let line = words.first().map_or("", String::as_str);
            Typed::read(line, words.get(1).map_or("", String::as_str)).reply()
        }
        Some((_, words)) => described(words),
        None => String::new(),
    };
    let _ = terminal::put(&text);
    Some(ExitCode::SUCCESS)
}

/// What fits behind the words; the last one is being typed.
struct Fitting {
    /// `values`, or what the shell is to complete.
    what: &'static str,
    /// Values with what is said of them.
    values: Vec<(String, String)>,
}

/// The candidates for the last of `words`; the first is the name of the program.
fn fitting(words: &[String]) -> Fitting {
    let none = Fitting { what: "values", values: Vec::new() };
    let Some((current, before)) = words.split_last() else { return none };
    let Some(program) = before.first() else { return none };
    let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let started_as = tools::named(name);
    let line = before.get(1..).unwrap_or_default().to_vec();
    let known = Arc::new(Known { connection: connection_of(before), line, is_front: started_as.is_none() });
    let mut command = match started_as {
        Some(tool) => completed(tool.command(), tool, &known),
        None => TOOLS.iter().fold(completed_front(tools::command()), |command, tool| {
            command.mut_subcommand(tool.word, |inner| completed(inner, tool, &known))
        }),
    };
    let arguments = words.iter().map(OsString::from).collect();
    let Ok(found) = complete(&mut command, arguments, words.len() - 1, std::env::current_dir().ok().as_deref()) else {
        return none;
    };
    let mut values: Vec<(String, String)> = found.iter().filter_map(told).collect();
    for (mark, what) in [(FILES, "files"), (DIRECTORIES, "directories")] {
        if values.iter().any(|(value, _)| value.ends_with(mark)) {
            return Fitting { what, values: Vec::new() };
        }
    }
    // With nothing typed, options would hide what is meant to stand here.
    if current.is_empty() {
        if values.iter().any(|(value, _)| !value.starts_with('-')) {
            values.retain(|(value, _)| !value.starts_with('-'));
        } else {
            values.retain(|(value, _)| value.starts_with("--"));
        }
    }
    // A line is a candidate: what would not stay on its line is none.
    values.retain(|(value, _)| !value.is_empty() && !value.chars().any(terminal::is_obeyed));
    values.truncate(CANDIDATES_MAX);
    Fitting { what: "values", values }
}

fn told(candidate: &CompletionCandidate) -> Option<(String, String)> {
    let help = candidate.get_help().map(|help| terminal::one_line(&help.to_string())).unwrap_or_default();
    Some((candidate.get_value().to_str()?.to_owned(), help))
}

/// For zsh and fish: `value<TAB>help`.
fn described(words: &[String]) -> String {
    let fitting = fitting(words);
    let lines = fitting.values.iter().map(|(value, help)| format!("{value}\t{help}\n"));
    format!("{}\n{}", fitting.what, lines.collect::<String>())
}

/// The daemon and the caller that the words name; None when a password would have to be typed.
fn connection_of(words: &[String]) -> Option<Connection> {
    let value = |option: &str| {
        words.iter().enumerate().rev().find_map(|(at, word)| match word.strip_prefix(option)? {
            "" => words.get(at + 1).cloned(),
            rest => rest.strip_prefix('=').map(str::to_owned),
        })
    };
    let (endpoint, user) = (value("--endpoint"), value("--user"));
    let password_file = value("--password-file").map(PathBuf::from);
    let usable = password_file.as_deref().is_some_and(Path::is_file);
    (user.is_none() || usable).then_some(Connection { endpoint, user, password_file: password_file.filter(|_| usable) })
}

/// What completers need to ask the daemon.
struct Known {
    connection: Option<Connection>,
    /// The words before the one that is typed, without the program.
    line: Vec<String>,
    /// Is the program `keeplast`, so that a word of the line names the tool?
    is_front: bool,
}

impl Known {
    /// What `ask` says within the deadline, on a thread that is left behind when it does not.
    fn ask<T: Default + Send + 'static>(&self, ask: impl FnOnce(Connection) -> Result<T> + Send + 'static) -> T {
        let Some(connection) = self.connection.clone() else { return T::default() };
        let (give, take) = mpsc::channel();
        std::thread::spawn(move || give.send(ask(connection).unwrap_or_default()));
        take.recv_timeout(DEADLINE).unwrap_or_default()
    }

    /// Ids and names of the objects of a kind, with what is said of them.
    fn objects(&self, kind: &'static Kind) -> Vec<(String, String)> {
        let pool = self.ask(move |connection| kind.pool_of_all(&connection.open()?).map(Some));
        let Some(pool) = pool else { return Vec::new() };
        let members: Vec<&Element> = pool.all(kind.member).filter(|object| object.int_at("ID").is_some()).collect();
        let mut times = std::collections::HashMap::new();
        for object in &members {
            *times.entry(object.text_at("NAME")).or_insert(0_usize) += 1;
        }
        let ids = members.iter().map(|object| {
            let state = state(kind, object);
            let told = if state.is_empty() { String::new() } else { format!(" ({state})") };
            (object.text_at("ID").to_owned(), format!("{}{told}", object.text_at("NAME")))
        });
        // A number is taken for an id, a name of several objects is refused, and one with a dash in front is an option.
        let usable = |name: &str| {
            times.get(name) == Some(&1) && name.parse::<u32>().is_err() && !name.starts_with('-') && !name.is_empty()
        };
        let names = members.iter().filter(|object| usable(object.text_at("NAME")));
        let names =
            names.map(|object| (object.text_at("NAME").to_owned(), format!("{} {}", kind.label, object.text_at("ID"))));
        ids.chain(names).collect()
    }

    /// Parts of the object that the line names.
    fn parts(&self, tool: &'static Entry, part: &'static parts::Part) -> Vec<(String, String)> {
        let is_tool = |word: &String| word == tool.word || word == tool.name;
        let behind = self.line.iter().position(is_tool).filter(|_| self.is_front).map_or(0, |at| at + 1);
        let line = self.line.get(behind..).unwrap_or_default().to_vec();
        self.ask(move |connection| part.read(&connection.open()?, tool, &line))
    }

    /// Titles of the columns of a tool's table.
    fn columns(&self, tool: &'static Entry) -> Vec<(String, String)> {
        let text = self.ask(move |connection| tool.columns(&connection));
        let column =
            |line: &str| line.split_once(':').map(|(name, about)| (name.trim().to_owned(), about.trim().to_owned()));
        text.lines().filter_map(column).collect()
    }
}

/// What is worth knowing of an object beside its name.
fn state(kind: &Kind, object: &Element) -> String {
    match kind.member {
        "VM" => states::vm_short(object).to_owned(),
        "IMAGE" => format!("{}, {}", states::image_type_short(object), states::image_short(object)),
        "DATASTORE" => states::datastore_type_short(object).to_owned(),
        "HOST" => states::host_short(object).to_owned(),
        "ACL" => object.text_at("STRING").to_owned(),
        _ => String::new(),
    }
}

/// The tool with a completer for each argument whose value name tells what it wants.
fn completed(command: Command, tool: &'static Entry, known: &Arc<Known>) -> Command {
    with_completers(command, Some(tool), known)
}

fn completed_front(command: Command) -> Command {
    let nobody = Known { connection: None, line: Vec::new(), is_front: true };
    with_completers(command, None, &Arc::new(nobody))
}

fn with_completers(command: Command, tool: Option<&'static Entry>, known: &Arc<Known>) -> Command {
    command.mut_args(|arg| completed_arg(arg, tool, "", known)).mut_subcommands(|verb| {
        let name = verb.get_name().to_owned();
        verb.mut_args(|arg| completed_arg(arg, tool, &name, known))
    })
}

fn completed_arg(arg: Arg, tool: Option<&'static Entry>, verb: &str, known: &Arc<Known>) -> Arg {
    let value_name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    let (name, is_list) = match value_name.strip_suffix(",...") {
        Some(name) => (name, true),
        None => (value_name.as_str(), false),
    };
    let mark = match name {
        "FILE" => Some(FILES),
        "DIR" | "DIRECTORY" => Some(DIRECTORIES),
        _ => None,
    };
    if let Some(mark) = mark {
        return arg.add(ArgValueCompleter::new(move |_: &OsStr| vec![CompletionCandidate::new(mark)]));
    }
    let Some(all) = source(name, tool, verb, known) else { return arg };
    arg.add(ArgValueCompleter::new(
        move |current: &OsStr| {
            if is_list { listed(current, &all) } else { matching(current, all()) }
        },
    ))
}

/// All values that an argument may have, with what is said of them.
type Source = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;

/// Where the values of an argument of this value name come from.
fn source(name: &str, tool: Option<&'static Entry>, verb: &str, known: &Arc<Known>) -> Option<Source> {
    let known = Arc::clone(known);
    let kind = match (name, tool) {
        ("ID", Some(tool)) => Some(tool.kind),
        _ => KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind),
    };
    if let Some(kind) = kind {
        return Some(Box::new(move || known.objects(kind)));
    }
    match (name, tool) {
        ("WHOSE", _) => Some(Box::new(move || whose(&known))),
        ("TIMEZONE", _) => Some(Box::new(timezones)),
        ("COLUMN", Some(tool)) => Some(Box::new(move || known.columns(tool))),
        (_, Some(tool)) => {
            let part = parts::of(name, verb, tool.kind)?;
            Some(Box::new(move || known.parts(tool, part)))
        }
        _ => None,
    }
}

fn whose(known: &Known) -> Vec<(String, String)> {
    let fixed = [("a", "all"), ("m", "mine"), ("g", "mine and my groups'"), ("G", "my primary group's")];
    let fixed = fixed.iter().map(|(word, help)| ((*word).to_owned(), (*help).to_owned()));
    fixed.chain(known.objects(&objects::USER)).collect()
}

fn timezones() -> Vec<(String, String)> {
    chrono_tz::TZ_VARIANTS.iter().map(|zone| (zone.name().to_owned(), String::new())).collect()
}

fn matching(current: &OsStr, all: Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let fits = all.into_iter().filter(|(value, _)| value.starts_with(current.as_ref()));
    fits.map(|(value, help)| candidate(value, help)).collect()
}

/// As [`matching`], for what stands behind the last comma; what stands before it is not offered again.
fn listed(current: &OsStr, all: &dyn Fn() -> Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let Some((before, last)) = current.rsplit_once(',') else { return matching(OsStr::new(current.as_ref()), all()) };
    let taken: Vec<&str> = before.split(',').collect();
    let fits = all()
        .into_iter()
        .filter(|(value, _)| value.starts_with(last) && !value.contains(',') && !taken.contains(&value.as_str()));
    fits.map(|(value, help)| candidate(format!("{before},{value}"), help)).collect()
}

fn candidate(value: String, help: String) -> CompletionCandidate {
    CompletionCandidate::new(value).help((!help.is_empty()).then(|| StyledStr::from(help)))
}

/// Quotes around the word under the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

/// A line as it stands in bash up to the cursor.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    /// The words without their quotes; the last one is being typed, perhaps empty.
    words: Vec<String>,
    /// How much of the last word, in bytes without quotes, bash keeps and does not replace.
    kept: usize,
    quote: Quote,
}

impl Typed {
    /// Takes the line apart as bash does. `breaks` is COMP_WORDBREAKS: behind one of these, outside of quotes, begins what bash
    /// replaces; behind a quote that is still open, too.
    fn read(line: &str, breaks: &str) -> Self {
        let mut typed = Self { words: vec![String::new()], kept: 0, quote: Quote::None };
        let (mut begun, mut kept_in_quote) = (false, 0);
        let mut letters = line.chars();
        while let Some(letter) = letters.next() {
            let quote = typed.quote;
            let word = typed.words.last_mut();
            let Some(word) = word else { break };
            match (quote, letter) {
                (Quote::None, ' ' | '\t' | '\n') => {
                    if begun {
                        typed.words.push(String::new());
                    }
                    (begun, typed.kept) = (false, 0);
                    continue;
                }
                (Quote::None, '\'') => (typed.quote, kept_in_quote) = (Quote::Single, word.len()),
                (Quote::None, '"') => (typed.quote, kept_in_quote) = (Quote::Double, word.len()),
                (Quote::Single, '\'') | (Quote::Double, '"') => typed.quote = Quote::None,
                (Quote::None, '\\') => word.extend(letters.next()),
                (Quote::Double, '\\') => match letters.next() {
                    Some(next @ ('$' | '`' | '"' | '\\')) => word.push(next),
                    next => word.extend(std::iter::once('\\').chain(next)),
                },
                _ => {
                    word.push(letter);
                    if quote == Quote::None && breaks.contains(letter) {
                        typed.kept = word.len();
                    }
                }
            }
            begun = true;
        }
        if typed.quote != Quote::None {
            typed.kept = kept_in_quote;
        }
        typed
    }

    /// The answer for bash: what to put in place of the word's end, ready quoted.
    fn reply(&self) -> String {
        let fitting = fitting(&self.words);
        let current = self.words.last().map_or("", String::as_str);
        let kept = current.get(..self.kept).unwrap_or_default();
        let mut text = format!("{}\n", fitting.what);
        for (value, _) in &fitting.values {
            if let Some(quoted) = value.strip_prefix(kept).and_then(|rest| self.quote.around(rest)) {
                text.push_str(&quoted);
                text.push('\n');
            }
        }
        text
    }
}

impl Quote {
    /// The text as it must stand within these quotes; bash itself closes them. None when there is no way.
    fn around(self, text: &str) -> Option<String> {
        match self {
            Self::Single => Some(text.replace('\'', r"'\''")),
            // A history expansion cannot be kept off within double quotes.
            Self::Double if text.contains('!') => None,
            Self::Double => Some(escaped(text, |letter| matches!(letter, '$' | '`' | '"' | '\\'))),
            Self::None => Some(escaped(text, |letter| {
                !letter.is_alphanumeric()
                    && !matches!(letter, '_' | '-' | '.' | '/' | ',' | ':' | '=' | '@' | '%' | '+')
            })),
        }
    }
}

fn escaped(text: &str, special: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if special(letter) {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What bash 5 has by default.
    const BREAKS: &str = " \t\n\"'><=;|&(:";

    fn typed(line: &str) -> (Vec<String>, usize, Quote) {
        let typed = Typed::read(line, BREAKS);
        (typed.words, typed.kept, typed.quote)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_line_is_taken_apart_as_bash_does() {
        assert_eq!(typed("onevm sh"), (words(&["onevm", "sh"]), 0, Quote::None));
        assert_eq!(typed("onevm  show "), (words(&["onevm", "show", ""]), 0, Quote::None));
        assert_eq!(typed(r"onevm show my\ v"), (words(&["onevm", "show", "my v"]), 0, Quote::None));
        assert_eq!(typed("onevm show 'my v"), (words(&["onevm", "show", "my v"]), 0, Quote::Single));
        assert_eq!(typed("onevm show my' v"), (words(&["onevm", "show", "my v"]), 2, Quote::Single));
        assert_eq!(typed("onevm show \"a\\\"b"), (words(&["onevm", "show", "a\"b"]), 0, Quote::Double));
        assert_eq!(typed("x --d=RB"), (words(&["x", "--d=RB"]), 4, Quote::None));
        assert_eq!(typed("x 'a:'b"), (words(&["x", "a:b"]), 0, Quote::None));
        assert_eq!(typed("x ''"), (words(&["x", ""]), 0, Quote::None));
        assert_eq!(typed("x \\"), (words(&["x", ""]), 0, Quote::None));
        assert_eq!(typed(""), (words(&[""]), 0, Quote::None));
    }

    #[test]
    fn a_hostile_name_is_quoted_away() {
        let name = "a $(x)`y`;&'\"!\\*~#";
        assert_eq!(Quote::None.around(name).unwrap(), "a\\ \\$\\(x\\)\\`y\\`\\;\\&\\'\\\"\\!\\\\\\*\\~\\#");
        assert_eq!(Quote::Single.around("a'b").unwrap(), r"a'\''b");
        assert_eq!(Quote::Double.around("$a\"").unwrap(), "\\$a\\\"");
        assert_eq!(Quote::Double.around("a!b"), None);
    }

    #[test]
    fn a_list_completes_what_stands_behind_the_comma() {
        let all = || words(&["0", "1", "12", "a,b"]).into_iter().map(|word| (word, String::new())).collect::<Vec<_>>();
        let offered = |current: &str| {
            let found = listed(OsStr::new(current), &all);
            found.iter().map(|one| one.get_value().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(offered("1"), ["1", "12"]);
        assert_eq!(offered("0,1"), ["0,1", "0,12"]);
        assert_eq!(offered("0,1,"), ["0,1,12"]);
        assert_eq!(offered(""), ["0", "1", "12", "a,b"]);
    }

    #[test]
    fn a_password_that_would_have_to_be_typed_ends_the_asking() {
        let connection = |line: &[&str]| connection_of(&words(line));
        assert!(connection(&["onevm", "show"]).is_some());
        assert!(connection(&["onevm", "--user", "x", "show"]).is_none());
        assert!(connection(&["onevm", "--user=x", "--password-file", "-", "show"]).is_none());
        let named = connection(&["onevm", "--endpoint=http://a/", "--endpoint", "http://b/", "show"]);
        assert_eq!(named.unwrap().endpoint.as_deref(), Some("http://b/"));
    }

    #[test]
    fn verbs_options_and_values_complete_without_a_daemon() {
        let offered =
            |line: &[&str]| fitting(&words(line)).values.into_iter().map(|(value, _)| value).collect::<Vec<_>>();
        assert_eq!(offered(&["onevm", "backup-"]), ["backup-cancel"]);
        assert_eq!(offered(&["/usr/bin/onevm", "backup", "--res"]), ["--reset"]);
        assert_eq!(offered(&["keeplast", "vm", "lis"]), ["list"]);
        assert_eq!(offered(&["keeplast", "onevm", "lis"]), ["list"]);
        assert!(offered(&["keeplast", ""]).contains(&"image".to_owned()));
        assert_eq!(offered(&["onevm", "backupmode", "0", "F"]), ["FULL"]);
        assert_eq!(offered(&["onevm", "backup", "0", "--timezone", "Europe/Berl"]), ["Europe/Berlin"]);
        assert_eq!(fitting(&words(&["onevm", "create", ""])).what, "files");
        assert_eq!(fitting(&words(&["onevm", "list", "--password-file=a"])).what, "files");
        assert_eq!(fitting(&words(&["keeplast", "install-links", ""])).what, "directories");
        for line in [&["onevm"][..], &[], &["onevm", "nope", "x", "y", ""], &["", ""]] {
            let _ = fitting(&words(line));
        }
    }
}
