//! Every verb of every tool occurs in a golden session (`tests/commands/sessions`), so that it is tried against a live
//! daemon and its output is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Command;
use cli::tools;

/// Verbs that have no session yet. The list only gets shorter: a verb of it that has one fails the test.
const MISSING: &[(&str, &str)] = &[];

/// Tool and verb of each command that a session shows; the tool by the name of its link.
fn typed() -> BTreeSet<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/commands/sessions");
    let files =
        std::fs::read_dir(&folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let text: String = files.collect();
    let lines = text.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.flat_map(|line| line.split(['|', ';', '&', '(', ')']).map(str::trim)).filter_map(invocation).collect()
}

/// `EDITOR=vi onevm update 0` is (onevm, update), `keeplast vm list` is (onevm, list).
fn invocation(part: &str) -> Option<(String, String)> {
    let mut words = part.split_whitespace().filter(|word| !word.contains('=') && !word.starts_with('-'));
    let (first, second) = (words.next()?, words.next()?);
    if first != "keeplast" {
        return tools::named(first).map(|tool| (tool.name.to_owned(), second.to_owned()));
    }
    match tools::TOOLS.iter().find(|tool| tool.word == second || tool.name == second) {
        Some(tool) => Some((tool.name.to_owned(), words.next()?.to_owned())),
        None => Some((first.to_owned(), second.to_owned())),
    }
}

/// The verbs of a command that help lists; `except` are not its own.
fn verbs(command: &Command, except: &BTreeSet<&str>) -> Vec<Command> {
    let visible = command.get_subcommands().filter(|verb| !verb.is_hide_set() && !except.contains(verb.get_name()));
    visible.cloned().collect()
}

#[test]
fn every_verb_occurs_in_a_session() {
    let typed = typed();
    let words: BTreeSet<&str> = tools::TOOLS.iter().map(|tool| tool.word).collect();
    let mut commands: BTreeMap<String, Vec<Command>> = BTreeMap::new();
    for tool in &tools::TOOLS {
        commands.insert(tool.name.to_owned(), verbs(&tool.command(), &BTreeSet::new()));
    }
    commands.insert("keeplast".into(), verbs(&tools::command(), &words));
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tool, verbs) in &commands {
        for verb in verbs {
            let names = std::iter::once(verb.get_name()).chain(verb.get_visible_aliases());
            if !names.into_iter().any(|name| typed.contains(&(tool.clone(), name.to_owned()))) {
                missing.entry(tool).or_default().insert(verb.get_name());
            }
        }
    }
    let excused: BTreeMap<&str, BTreeSet<&str>> =
        MISSING.iter().map(|(tool, verbs)| (*tool, verbs.split_whitespace().collect())).collect();
    let told: Vec<String> = missing
        .iter()
        .map(|(tool, verbs)| format!("    (\"{tool}\", \"{}\"),", verbs.iter().copied().collect::<Vec<_>>().join(" ")))
        .collect();
    assert!(missing == excused, "verbs without a session are now, against MISSING above:\n{}", told.join("\n"));
}

#[test]
fn a_command_is_found_wherever_it_stands_in_a_line() {
    let pair = |tool: &str, verb: &str| Some((tool.to_owned(), verb.to_owned()));
    assert_eq!(invocation("EDITOR=vi onevm update 0"), pair("onevm", "update"));
    assert_eq!(invocation("keeplast vm list"), pair("onevm", "list"));
    assert_eq!(invocation("keeplast onevm --csv list"), pair("onevm", "list"));
    assert_eq!(invocation("keeplast install-links x"), pair("keeplast", "install-links"));
    assert_eq!(invocation("cat x"), None);
}
