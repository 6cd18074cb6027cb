//! What is wrong with a command line, in one sentence with the way out.
//!
//! The parser's own words are several lines and repeat values. A value may be a password, so no sentence here repeats what
//! stands behind an unknown option or an argument too many; names of verbs and options are told. A value that its option
//! refuses is repeated: no option that looks at its value takes a password.

use std::ffi::{OsStr, OsString};

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::names::distance;
use crate::terminal::one_line;
use crate::tools::TOOLS;

/// Most names that a sentence proposes.
const PROPOSED_MAX: usize = 3;

/// What is longer is no slip of the fingers.
const COMPARED_CHARS_MAX: usize = 64;

/// What is said of `--password`, which OpenNebula's tools have.
const NO_PASSWORD: &str = "--password is not taken, because every user of this machine can read the arguments of a running command: \
     leave it out, and --user NAME asks for the password; or say --password-file FILE (- for standard input)";

/// The sentence for arguments that are refused whatever the command is, or None.
#[must_use]
pub fn refused_at_once(arguments: &[OsString]) -> Option<String> {
    let options = arguments.iter().skip(1).take_while(|word| *word != "--");
    // The beginning of an option stands for it: --pass=secret.
    let is_password = |word: &OsString| {
        let name = word.as_encoded_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        name.len() >= "--pas".len() && b"--password".starts_with(name)
    };
    options.into_iter().any(is_password).then(|| NO_PASSWORD.to_owned())
}

/// The words as the parser is to read them: `onevm help backup` is `onevm backup --help`.
#[must_use]
pub fn normal(arguments: &[OsString]) -> Vec<OsString> {
    let mut words = arguments.to_vec();
    if words.get(1).is_some_and(|word| word == "help") {
        words.remove(1);
        words.push("--help".into());
    }
    words
}

/// The sentence for what the parser refused; `command` is what it had parsed `arguments` by.
#[must_use]
pub fn sentence(error: &clap::Error, command: &Command, arguments: &[OsString]) -> String {
    let told = |kind| error.get(kind).map(words_of).unwrap_or_default();
    // A verb behind an unknown option is not what refused it.
    let unknown = match error.kind() {
        ErrorKind::UnknownArgument => told(ContextKind::InvalidArg),
        _ => Vec::new(),
    };
    let is_unknown = |word: &OsString| word.to_str().is_some_and(|word| unknown.iter().any(|unknown| word == unknown));
    let known = arguments.iter().position(is_unknown).unwrap_or(arguments.len());
    let place = Place::find(command, arguments.get(..known).unwrap_or_default());
    let called = &place.called;
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            unknown_verb(&place, told(ContextKind::InvalidSubcommand).first().map_or("", String::as_str))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("{called}: {} is missing; {called} --help lists them", place.wanted())
        }
        ErrorKind::MissingRequiredArgument => {
            let missing: Vec<_> = told(ContextKind::InvalidArg).iter().map(|name| plain(name)).collect();
            let verb = if missing.len() == 1 { "is" } else { "are" };
            format!("{called}: {} {verb} missing; {}", missing.join(" and "), place.usage())
        }
        ErrorKind::UnknownArgument => {
            unknown_argument(&place, told(ContextKind::InvalidArg).first().map_or("", String::as_str))
        }
        ErrorKind::ArgumentConflict => {
            let (one, others) = (told(ContextKind::InvalidArg), told(ContextKind::PriorArg));
            let one = one.first().map(|name| plain(name)).unwrap_or_default();
            let others: Vec<_> = others.iter().map(|name| plain(name)).filter(|other| *other != one).collect();
            match others.as_slice() {
                [] => format!("{called}: {one} is given more than once"),
                others => format!("{called}: {one} and {} exclude each other; leave one out", others.join(", ")),
            }
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let name = told(ContextKind::InvalidArg).first().map(|name| plain(name)).unwrap_or_default();
            let value = one_line(told(ContextKind::InvalidValue).first().map_or("", String::as_str));
            let valid = told(ContextKind::ValidValue);
            let reason = std::error::Error::source(error).map(|source| reason(&one_line(&source.to_string())));
            match (value.as_str(), reason) {
                ("", None) if valid.is_empty() => format!("{called}: {name} needs a value"),
                ("", None) => format!("{called}: {name} needs a value: {}", valid.join(", ")),
                (value, None) => format!("{called}: {value} is no {name}; it is one of {}", valid.join(", ")),
                (value, Some(reason)) => format!("{called}: {value} cannot be {name}: {reason}"),
            }
        }
        ErrorKind::InvalidUtf8 => {
            format!("{called}: an argument is not UTF-8, and nothing the daemon knows has such a name")
        }
        _ => format!("{called}: {}; {called} --help explains it", parser_words(error)),
    }
}

/// What the standard library and the parser say of a number, as a person would.
fn reason(said: &str) -> String {
    let said = match said {
        "invalid digit found in string" => "it is no whole number from 0 on",
        "number too large to fit in target type" => "it is too large",
        "number too small to fit in target type" => "it is too small",
        "cannot parse integer from empty string" | "cannot parse float from empty string" => "it is empty",
        "invalid float literal" => "it is no number",
        "invalid IPv4 address syntax" => "it is no IPv4 address",
        "invalid IPv6 address syntax" => "it is no IPv6 address",
        said => said,
    };
    match said.split_once(" is not in ").and_then(|(_, range)| range.split_once("..")) {
        Some((first, "")) => format!("it must be {first} or more"),
        Some((first, last)) => format!("it must be from {first} to {}", last.trim_start_matches('=')),
        None => said.to_owned(),
    }
}

/// How far the words lead into the tree of commands.
struct Place<'a> {
    command: &'a Command,
    called: String,
    is_front: bool,
}

impl<'a> Place<'a> {
    fn find(root: &'a Command, arguments: &[OsString]) -> Self {
        let called = root.get_bin_name().unwrap_or_else(|| root.get_name()).to_owned();
        let is_front = called == "keeplast";
        let mut place = Self { command: root, called, is_front };
        let mut words = arguments.iter().skip(1).take_while(|word| *word != "--").filter_map(|word| word.to_str());
        while place.command.has_subcommands() {
            let Some(next) = words.by_ref().find_map(|word| place.command.find_subcommand(word)) else { break };
            place.called = format!("{} {}", place.called, next.get_name());
            place.command = next;
            place.is_front = false;
        }
        place
    }

    fn wanted(&self) -> &'static str {
        if self.is_front { "a tool" } else { "a verb" }
    }

    fn usage(&self) -> String {
        let mut command = self.command.clone().bin_name(self.called.clone());
        let usage = one_line(&command.render_usage().to_string());
        usage.replacen("Usage: ", "usage: ", 1)
    }
}

fn unknown_verb(place: &Place<'_>, word: &str) -> String {
    let called = &place.called;
    let what = if place.is_front { "tool or verb" } else { "verb" };
    let mut text = format!("{called} has no {what} {}", one_line(word));
    let near = nearest(word, place.command.get_subcommands().flat_map(Command::get_name_and_visible_aliases));
    let elsewhere = verb_elsewhere(place, word);
    if !near.is_empty() {
        text.push_str(&format!("; did you mean {}?", near.join(", ")));
    } else if !elsewhere.is_empty() {
        text.push_str(&format!("; there is {}", elsewhere.join(", ")));
    } else {
        text.push_str(&format!("; {called} --help lists them"));
    }
    text
}

/// Tools that have the verb, as one would call it.
fn verb_elsewhere(place: &Place<'_>, word: &str) -> Vec<String> {
    let behind_front = place.called.starts_with("keeplast");
    let having = TOOLS.iter().filter(|tool| tool.command().find_subcommand(word).is_some());
    let calls = having.map(|tool| {
        if behind_front { format!("keeplast {} {word}", tool.word) } else { format!("{} {word}", tool.name) }
    });
    calls.take(PROPOSED_MAX).collect()
}

fn unknown_argument(place: &Place<'_>, argument: &str) -> String {
    let called = &place.called;
    if !argument.starts_with('-') {
        return match place.command.has_subcommands() {
            true => unknown_verb(place, argument),
            false => format!("{called}: one argument too many (a name with blanks needs quotes); {}", place.usage()),
        };
    }
    let option = argument.split('=').next().unwrap_or_default();
    let mut built = place.command.clone();
    built.build();
    let longs: Vec<_> = built.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("--{long}")).collect();
    let near = nearest(option, longs.iter().map(String::as_str));
    match near.as_slice() {
        [] => format!("{called} has no option {}; {called} --help lists them", one_line(option)),
        near => format!("{called} has no option {}; did you mean {}?", one_line(option), near.join(", ")),
    }
}

/// The names that a slip of the fingers may have meant, nearest first.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    if letters.is_empty() || letters.len() > COMPARED_CHARS_MAX {
        return Vec::new();
    }
    let far = (letters.len() / 3).clamp(1, 3);
    let apart = |name: &str| distance(&letters, &name.chars().collect::<Vec<_>>());
    let mut near: Vec<_> = names.map(|name| (apart(name), name)).filter(|(apart, _)| *apart <= far).collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(PROPOSED_MAX).map(|(_, name)| name.to_owned()).collect()
}

fn words_of(value: &ContextValue) -> Vec<String> {
    match value {
        ContextValue::String(text) => vec![text.clone()],
        ContextValue::Strings(texts) => texts.clone(),
        ContextValue::StyledStr(text) => vec![text.to_string()],
        _ => Vec::new(),
    }
}

/// `<ID>` and `--success` as a sentence names them.
fn plain(name: &str) -> String {
    one_line(name).replace(['<', '>'], "")
}

/// The parser's message without its usage lines; its paragraphs become parts of one sentence.
fn parser_words(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let lines =
        rendered.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let text = text.strip_prefix("error:").unwrap_or(&text);
    let parts: Vec<_> = text.split("\n\n").map(one_line).filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

/// The name under which the program was started.
#[must_use]
pub fn started_as(arguments: &[OsString]) -> Option<&str> {
    arguments.first().map(std::path::Path::new).and_then(std::path::Path::file_name).and_then(OsStr::to_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_fingers_are_near_and_other_words_are_not() {
        let verbs = ["list", "backup", "backup-cancel", "top", "restore"];
        let near = |word| nearest(word, verbs.into_iter());
        assert_eq!(near("bakcup"), ["backup"]);
        assert_eq!(near("lits"), ["list"]);
        assert_eq!(near("backup-cancle"), ["backup-cancel"]);
        assert!(near("nope").is_empty() && near("").is_empty());
        assert!(near(&"x".repeat(100_000)).is_empty());
    }

    #[test]
    fn numbers_that_are_none_are_told_without_the_words_of_a_library() {
        assert_eq!(reason(&"x".parse::<u64>().unwrap_err().to_string()), "it is no whole number from 0 on");
        assert_eq!(reason(&"300".parse::<u8>().unwrap_err().to_string()), "it is too large");
        assert_eq!(reason(&"-300".parse::<i8>().unwrap_err().to_string()), "it is too small");
        assert_eq!(reason(&"".parse::<u64>().unwrap_err().to_string()), "it is empty");
        assert_eq!(reason("101 is not in 0..=99"), "it must be from 0 to 99");
        assert_eq!(reason("0 is not in 1.."), "it must be 1 or more");
        assert_eq!(reason("a day is written 2026-12-01"), "a day is written 2026-12-01");
    }

    #[test]
    fn a_password_in_the_arguments_is_refused_without_its_value() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for line in [
            &["onevm", "list", "--password", "hunter2"][..],
            &["onevm", "--password=hunter2", "list"],
            &["onevm", "--pass", "hunter2", "list"],
        ] {
            assert!(!refused_at_once(&words(line)).unwrap().contains("hunter2"));
        }
        for line in [&["onevm", "list", "--password-file", "x"][..], &["onevm", "show", "--", "--password"], &[]] {
            assert_eq!(refused_at_once(&words(line)), None);
        }
    }
}
