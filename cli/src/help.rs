//! Help: how the options and verbs that the tools declare are laid out for a reader with 80 columns.
//!
//! All of it is drawn from the command tree, so a verb or option that a tool gains is in its help by itself. What stands here
//! is only under which heading a name belongs; a name that no heading claims stands under the last one.

use clap::{Arg, ArgAction, Command};

use crate::tools::{Entry, TOOLS};

/// What help is laid out for, whatever the terminal has.
const WIDTH: usize = 80;

/// A blank at which no line ends.
const NO_BREAK: char = '\u{a0}';

/// The flag that every verb has: `VM 3: resume done`.
pub const VERBOSE: &str = "verbose";

/// Headings of verbs in the order of a tool's help; a name that ends in `*` stands for all that begin so.
const VERB_HEADINGS: [(&str, &[&str]); 9] = [
    ("Look", &["list", "top", "show", "events", "monitoring", "acct", "showback", "usage", "orphans", "ssh", "vnc"]),
    (
        "Back up and restore",
        &[
            "backup",
            "backups",
            "backup-*",
            "backupmode",
            "restore",
            "increments",
            "verify",
            "import-backups",
            "cancel",
            "retry",
            "priority",
        ],
    ),
    (
        "Create and change",
        &[
            "create",
            "instantiate",
            "clone",
            "save",
            "update",
            "updateconf",
            "rename",
            "resize",
            "delete",
            "enable",
            "disable",
            "offline",
            "forceupdate",
            "chtype",
            "persistent",
            "nonpersistent",
        ],
    ),
    (
        "Run",
        &[
            "deploy",
            "hold",
            "release",
            "resume",
            "suspend",
            "stop",
            "poweroff",
            "reboot",
            "undeploy",
            "terminate",
            "migrate",
            "resched",
            "unresched",
            "recover",
            "flush",
            "forceupdate",
        ],
    ),
    ("Disks and snapshots", &["disk-*", "snapshot-*"]),
    ("Network and devices", &["nic-*", "sg-*", "pci-*", "addar", "updatear", "rmar", "reserve", "free", "commit"]),
    ("Members", &["add*", "del*"]),
    ("Schedules", &["sched-*", "*-chart"]),
    (
        "Rights and limits",
        &[
            "chown",
            "chgrp",
            "chmod",
            "lock",
            "unlock",
            "umask",
            "quota",
            "batchquota",
            "defaultquota",
            "passwd",
            "login",
            "chauth",
            "token-*",
            "key",
            "encode",
        ],
    ),
];

/// Verbs that mean something else in a tool than in the others: end of its name, verb, heading.
const ELSEWHERE: [(&str, &str, &str); 2] =
    [("vnet", "hold", "Network and devices"), ("vnet", "release", "Network and devices")];

/// For what no heading claims.
const OTHER_VERBS: &str = "More";

/// A heading of options: what it claims by their ids, if the verb has the one that marks it. `--size` of a table is output,
/// of a network it is not.
struct OptionHeading {
    name: &'static str,
    mark: &'static str,
    ids: &'static [&'static str],
}

const OPTION_HEADINGS: [OptionHeading; 4] = [
    OptionHeading {
        name: "Schedule",
        mark: "schedule",
        ids: &[
            "schedule",
            "weekly",
            "monthly",
            "yearly",
            "hourly",
            "cron",
            "end",
            "timezone",
            "jitter",
            "window_end",
            "keep_last",
            "retry",
        ],
    },
    OptionHeading {
        name: "Output",
        mark: "xml",
        ids: &[
            "list",
            "listconf",
            "filter",
            "operator",
            "csv",
            "csv_del",
            "xml",
            "json",
            "yaml",
            "numeric",
            "kilobytes",
            "no_header",
            "size",
            "adjust",
            "expand",
            "no_expand",
            "describe",
            "no_pager",
            "extended",
            "search",
            "decrypt",
            "delay",
        ],
    },
    OptionHeading { name: "Waiting", mark: "wait", ids: &["wait", "timeout"] },
    OptionHeading { name: CONNECTION, mark: "endpoint", ids: &["endpoint", "user", "password_file"] },
];

/// The heading of what says where the daemon is and who calls.
pub const CONNECTION: &str = "Connection";

/// Groups of tools in the order of `keeplast --help`, by their words.
const TOOL_GROUPS: [(&str, &[&str]); 3] = [
    ("Backups", &["vm", "backupjob", "image", "datastore", "template"]),
    ("Machines", &["host", "cluster", "vnet", "secgroup", "zone"]),
    ("People", &["user", "group", "acl", "vdc"]),
];

/// The heading of a verb of a tool.
#[must_use]
pub fn heading_of_verb(tool: &str, name: &str) -> &'static str {
    if let Some((.., heading)) = ELSEWHERE.iter().find(|(end, verb, _)| tool.ends_with(end) && *verb == name) {
        return heading;
    }
    let claims = |pattern: &&str| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), _) => name.starts_with(prefix),
        (None, Some(suffix)) => name.ends_with(suffix),
        (None, None) => *pattern == name,
    };
    // A whole name goes before a pattern: `addar` is no member.
    let exact = VERB_HEADINGS.iter().find(|(_, names)| names.contains(&name));
    let found = exact.or_else(|| VERB_HEADINGS.iter().find(|(_, names)| names.iter().any(claims)));
    found.map_or(OTHER_VERBS, |(heading, _)| heading)
}

/// The verbs of a tool under their headings, in the order of help; hidden ones are left out.
#[must_use]
pub fn verbs_by_heading(tool: &Command) -> Vec<(&'static str, Vec<&Command>)> {
    let headings = VERB_HEADINGS.iter().map(|(heading, _)| *heading).chain([OTHER_VERBS]);
    headings
        .map(|heading| {
            let verbs = tool.get_subcommands().filter(|verb| !verb.is_hide_set());
            (
                heading,
                verbs.filter(|verb| heading_of_verb(tool.get_name(), verb.get_name()) == heading).collect::<Vec<_>>(),
            )
        })
        .filter(|(_, verbs)| !verbs.is_empty())
        .collect()
}

/// The tools with their groups, in the order of help.
pub fn tools_by_group() -> impl Iterator<Item = (&'static str, &'static Entry)> {
    let groups = TOOL_GROUPS.iter().map(|(group, _)| *group).chain([OTHER_VERBS]);
    groups.flat_map(|group| {
        let rank = move |tool: &Entry| {
            TOOL_GROUPS.iter().find(|(name, _)| *name == group)?.1.iter().position(|word| *word == tool.word)
        };
        let stray = |tool: &Entry| !TOOL_GROUPS.iter().any(|(_, words)| words.contains(&tool.word));
        let mut members: Vec<_> =
            TOOLS.iter().filter(|tool| rank(tool).is_some() || group == OTHER_VERBS && stray(tool)).collect();
        members.sort_by_key(|tool| rank(tool));
        members.into_iter().map(move |tool| (group, tool))
    })
}

/// The options of a tool, laid out; `called` is how it is called: `onevm`, `keeplast vm`.
#[must_use]
pub fn of_tool(command: Command, called: &str) -> Command {
    let name = command.get_name().to_owned();
    let command = under_headings(laid_out(command).display_name(&name).subcommand_value_name("VERB"));
    let command = command.mut_subcommands(|verb| of_verb(in_our_words(verb), called).display_name(&name));
    let page = tool_page(&command, called);
    command.bin_name(called.to_owned()).override_help(page)
}

/// `keeplast` with all its tools, laid out.
#[must_use]
pub fn of_front(command: Command) -> Command {
    let command = under_headings(laid_out(command).subcommand_value_name("TOOL")).mut_subcommands(in_our_words);
    let page = front_page(&command);
    command.bin_name("keeplast").override_help(page)
}

fn laid_out(command: Command) -> Command {
    // OpenNebula's tools take the beginning of an option for it when only one begins so: --no-head.
    command.infer_long_args(true).disable_help_subcommand(true).propagate_version(true).max_term_width(WIDTH)
}

fn of_verb(verb: Command, called: &str) -> Command {
    with_usage(with_verbose(verb), called)
}

fn with_verbose(verb: Command) -> Command {
    let is_taken = |taken: &dyn Fn(&Arg) -> bool| verb.get_arguments().any(taken);
    let short = !is_taken(&|arg| arg.get_short() == Some('v'));
    let long = !is_taken(&|arg| arg.get_long() == Some(VERBOSE));
    let verb = under_headings(verb);
    if !long {
        return verb;
    }
    let flag = Arg::new(VERBOSE).long(VERBOSE).action(ArgAction::SetTrue).help("Say what was done");
    // Looking changes nothing: taken, as OpenNebula's tools take it, and not worth a line.
    let flag = flag.hide(heading_of_verb("", verb.get_name()) == VERB_HEADINGS[0].0);
    verb.arg(if short { flag.short('v') } else { flag })
}

/// The parser's brackets behind a help text (`[possible values: A, B]`, `[default: ""]`) repeat what it says, or say nothing.
fn in_our_words(verb: Command) -> Command {
    verb.mut_args(|arg| {
        if !arg.get_action().takes_values() {
            return arg;
        }
        let is_empty = arg.get_default_values().iter().all(|value| value.is_empty());
        let arg = arg.hide_default_value(is_empty);
        let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
        match values_unsaid(&arg).as_slice() {
            [] => arg.hide_possible_values(true),
            values => arg.hide_possible_values(true).help(format!("{text}: {}", values.join(", "))),
        }
    })
}

/// The values that an argument with a closed set of them takes, unless its help names them already.
fn values_unsaid(arg: &Arg) -> Vec<String> {
    let values: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let is_said = values.iter().all(|value| text.split(|c: char| !c.is_alphanumeric()).any(|word| word == value));
    if is_said { Vec::new() } else { values }
}

/// The parser draws the usage in one line, however long.
fn with_usage(verb: Command, called: &str) -> Command {
    let usage = verb.clone().bin_name(format!("{called} {}", verb.get_name())).render_usage().to_string();
    if usage.chars().count() <= WIDTH {
        return verb;
    }
    // What stands in brackets stays together.
    let (lead, mut depth) = ("Usage: ", 0_usize);
    let held = usage.chars().map(|letter| {
        match letter {
            '<' | '[' => depth += 1,
            '>' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if letter == ' ' && depth > 0 { NO_BREAK } else { letter }
    });
    let usage = wrapped(&held.collect::<String>(), lead.len()).replace(NO_BREAK, " ");
    verb.override_usage(usage.strip_prefix(lead).unwrap_or(&usage).to_owned())
}

fn under_headings(command: Command) -> Command {
    let is_there = |id: &str| command.get_arguments().any(|arg| arg.get_id() == id);
    let headings: Vec<_> = OPTION_HEADINGS.iter().filter(|heading| is_there(heading.mark)).collect();
    command.mut_args(|arg| match headings.iter().find(|heading| heading.ids.contains(&arg.get_id().as_str())) {
        Some(heading) if !arg.is_positional() => arg.help_heading(heading.name),
        _ => arg,
    })
}

fn tool_page(command: &Command, called: &str) -> String {
    let mut page = format!("{}\n\nUsage: {called} VERB [OPTIONS] [ARGUMENTS]\n", about(command));
    let longest = command.get_subcommands().map(|verb| verb.get_name().len()).max().unwrap_or_default();
    for (heading, verbs) in verbs_by_heading(command) {
        page.push_str(&format!("\n{heading}:\n"));
        for verb in verbs {
            push_row(&mut page, "  ", verb.get_name(), longest, &about(verb));
        }
    }
    page.push('\n');
    push_row(&mut page, "", &format!("{called} VERB --help"), 0, "explains a verb.");
    page.push_str(&wrapped(
        &format!("Every verb takes {}; --version prints the version.\n", connection_words(command)),
        0,
    ));
    page
}

/// `--endpoint URL, --user NAME, …`
fn connection_words(command: &Command) -> String {
    let words: Vec<_> = command
        .get_arguments()
        .filter(|arg| arg.get_help_heading() == Some(CONNECTION))
        .filter_map(|arg| Some(format!("--{} {}", arg.get_long()?, arg.get_value_names()?.first()?)))
        .collect();
    words.join(", ")
}

fn front_page(command: &Command) -> String {
    let mut page = "Usage: keeplast TOOL VERB ...; each tool is also a command: onevm list\n\n".to_owned();
    let mut last = "";
    let words =
        TOOLS.iter().map(|tool| tool.word.len()).chain(command.get_subcommands().map(|verb| verb.get_name().len()));
    let longest = words.max().unwrap_or_default();
    let mut row = |group: &'static str, word: &str, text: &str| {
        let shown = if group == last { "" } else { group };
        last = group;
        push_row(&mut page, &format!("{shown:<10}"), word, longest, text);
    };
    for (group, tool) in tools_by_group() {
        row(group, tool.word, &about(&tool.command()));
    }
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        row("Itself", verb.get_name(), &about(verb));
    }
    page.push_str("\nNext: keeplast vm --help, keeplast vm backup --help; man onevm\n");
    page
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// `lead name   text`, the text wrapped beside its column.
fn push_row(page: &mut String, lead: &str, name: &str, name_width: usize, text: &str) {
    let head = if name_width == 0 { format!("{lead}{name} ") } else { format!("{lead}{name:<name_width$}  ") };
    let indent = head.chars().count();
    page.push_str(wrapped(&format!("{head}{text}"), indent).trim_end());
    page.push('\n');
}

/// Lines of at most [`WIDTH`] columns; those after the first are indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    let leading = text.len() - text.trim_start().len();
    for word in text[leading..].split_inclusive(' ') {
        let width = word.trim_end().chars().count();
        if column + width > WIDTH && column > indent {
            out.truncate(out.trim_end().len());
            out.push_str(&format!("\n{}", " ".repeat(indent)));
            column = indent;
        }
        if column == 0 {
            out.push_str(&text[..leading]);
            column += leading;
        }
        out.push_str(word);
        column += word.chars().count();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn the_first_help_is_one_screen() {
        let help = crate::tools::command().render_help().to_string();
        fits(&help);
        assert!(help.lines().count() < 24, "{help}");
        for tool in &TOOLS {
            assert!(help.contains(&format!(" {} ", tool.word)), "{} is not in\n{help}", tool.name);
        }
    }

    #[test]
    fn every_help_fits_eighty_columns_and_names_every_verb() {
        for tool in &TOOLS {
            let mut command = tool.command();
            let help = command.render_help().to_string();
            fits(&help);
            for verb in tool.command().get_subcommands() {
                assert!(help.contains(&format!("\n  {} ", verb.get_name())), "{} is not in\n{help}", verb.get_name());
            }
            command.build();
            for verb in command.get_subcommands_mut() {
                let help = verb.render_help().to_string();
                fits(&help);
                // A value that is told with a text of its own makes the parser show the long form of all.
                let taking = verb.get_arguments().filter(|arg| arg.get_action().takes_values());
                for arg in taking.filter(|arg| !arg.get_possible_values().is_empty()) {
                    assert!(arg.is_hide_possible_values_set(), "{arg} of {}", verb.get_name());
                }
                assert!(!help.contains("possible values") && !help.contains("[default: \"\"]"), "{help}");
                let is_heading =
                    |line: &&str| OPTION_HEADINGS.iter().any(|heading| line.strip_suffix(':') == Some(heading.name));
                let last = help.lines().rfind(is_heading);
                assert_eq!(last, Some("Connection:"), "{help}");
            }
        }
    }

    #[test]
    fn a_verb_has_one_heading() {
        assert_eq!(heading_of_verb("onevnet", "addar"), "Network and devices");
        assert_eq!(heading_of_verb("onecluster", "addhost"), "Members");
        assert_eq!(heading_of_verb("onevm", "disk-snapshot-create"), "Disks and snapshots");
        assert_eq!(heading_of_verb("onevm", "create-chart"), "Schedules");
        assert_eq!(heading_of_verb("onevm", "yodel"), OTHER_VERBS);
        for (tool, heading) in [("onevm", "Run"), ("onevnet", "Network and devices"), ("vnet", "Network and devices")] {
            assert_eq!(heading_of_verb(tool, "hold"), heading);
        }
    }

    #[test]
    fn long_lines_go_on_beside_their_column() {
        let text = format!("  name  {}", "word ".repeat(30));
        let lines: Vec<_> = wrapped(&text, 8).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("        word") && lines.iter().all(|line| line.len() <= WIDTH), "{lines:?}");
    }
}
