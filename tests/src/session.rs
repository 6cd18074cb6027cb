//! Sessions: text files with the commands that a user types, played against a daemon of dummy drivers, and the
//! transcripts of what was answered. `tests/commands/README.md` has the grammar.
//!
//! A daemon serves one session on one screen and begins empty. A transcript is masked ([`crate::mask`]), so two runs of
//! a session give the same one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use tempfile::TempDir;

use crate::command::Output;
use crate::daemon::{Daemon, Options};
use crate::screen::{self, Line, Screen};
use crate::{mask, place};

/// How long a command of a session may take.
const DEADLINE: Duration = Duration::from_secs(90);

const CONF: &str = "DUMMY_DRIVERS = \"YES\"\n";

/// A step of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Shown as it is: `# …`.
    Comment(String),
    /// Steps of `setup/NAME.txt`, none of which is shown: `@ NAME`.
    Setup(String),
    /// A command that has to succeed and is not shown: `% …`.
    Unseen(String),
    /// A command that is shown with what it answers: `$ …`; interrupted when `^C` follows.
    Command {
        /// The line, here-documents with it.
        text: String,
        /// Whether Ctrl-C is pressed once it has answered.
        interrupt: bool,
    },
}

/// The steps of a session's text.
///
/// # Errors
/// Names the line that is none of them, or that begins a here-document without an end.
pub fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let step = match line.split_at_checked(2) {
            _ if line.trim().is_empty() => continue,
            _ if line == "^C" => {
                let Some(Step::Command { interrupt, .. }) = steps.last_mut() else {
                    bail!("^C stands behind no command")
                };
                *interrupt = true;
                continue;
            }
            _ if line.starts_with('#') => Step::Comment(line.to_owned()),
            Some(("@ ", name)) => Step::Setup(name.trim().to_owned()),
            Some(("% ", command)) => Step::Unseen(whole(command, &mut lines)?),
            Some(("$ ", command)) => Step::Command { text: whole(command, &mut lines)?, interrupt: false },
            _ => bail!("{line:?} is no step: begin it with $, %, @ or #"),
        };
        steps.push(step);
    }
    Ok(steps)
}

/// A command with the lines that continue it: after a backslash, and here-documents.
pub fn whole<'a>(first: &str, lines: &mut impl Iterator<Item = &'a str>) -> Result<String> {
    static HERE: LazyLock<Regex> = LazyLock::new(|| {
        #[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
        Regex::new(r"<<'?([A-Z]+)'?").unwrap()
    });
    let mut text = first.to_owned();
    while text.ends_with('\\') {
        text.push('\n');
        text.push_str(lines.next().with_context(|| format!("{first:?} is not continued"))?);
    }
    let ends: Vec<String> = HERE.captures_iter(&text).map(|found| found[1].to_owned()).collect();
    for end in ends {
        loop {
            let line = lines.next().with_context(|| format!("{first:?}: there is no line {end}"))?;
            text.push('\n');
            text.push_str(line);
            if line == end {
                break;
            }
        }
    }
    Ok(text)
}

/// The words that are typed in a session: of each shown command the lines, setup not among them.
#[must_use]
pub fn commands(steps: &[Step]) -> Vec<&str> {
    let shown = steps.iter().filter_map(|step| match step {
        Step::Command { text, .. } => Some(text.as_str()),
        _ => None,
    });
    shown.collect()
}

/// Plays the session in `file` on a new daemon; its transcript.
///
/// # Errors
/// When the session is malformed, a setup command fails, or a command does not end.
pub fn play(file: &Path, screen: Screen) -> Result<String> {
    let room = Room::open()?;
    let mut transcript = String::new();
    room.play(file, screen, &mut Some(&mut transcript))?;
    Ok(transcript)
}

/// A daemon, and a user at home beside it.
struct Room {
    _one: Daemon,
    home: TempDir,
    env: BTreeMap<String, String>,
    places: Vec<(String, String)>,
    // After the daemon that writes in it.
    _state: TempDir,
}

impl Room {
    fn open() -> Result<Self> {
        // As long as what stands for them, so that columns keep their widths.
        let state = tempfile::Builder::new().prefix("one").rand_bytes(4).tempdir_in("/tmp")?;
        let home = tempfile::Builder::new().prefix("adm").rand_bytes(5).tempdir_in("/tmp")?;
        let text = |dir: &TempDir| dir.path().to_string_lossy().into_owned();
        let places = vec![(text(&state), "/var/lib/one".into()), (text(&home), "/srv/oneadmin".into())];
        let options = Options { state: Some(state.path().to_owned()), conf: CONF.into(), ..Options::default() };
        let one = Daemon::start(options)?;
        let dot_one = home.path().join(".one");
        fs::create_dir(&dot_one)?;
        for (name, content) in [("one_auth", one.session()?), ("one_endpoint", one.endpoint()?)] {
            fs::write(dot_one.join(name), content + "\n")?;
            fs::set_permissions(dot_one.join(name), fs::Permissions::from_mode(0o600))?;
        }
        let tools = place::tool("onevm")?;
        let tools = tools.parent().context("the tools lie nowhere")?.to_string_lossy().into_owned();
        let keeplast = place::binary("keeplast")?;
        let keeplast = keeplast.parent().context("keeplast lies nowhere")?.to_string_lossy().into_owned();
        let env = [
            ("PATH", format!("{tools}:{keeplast}:/usr/sbin:/usr/bin:/sbin:/bin")),
            ("HOME", text(&home)),
            ("STATE", text(&state)),
            ("TZ", "UTC".into()),
            ("LANG", "C.UTF-8".into()),
            ("TERM", "xterm".into()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Self { _one: one, home, env, places, _state: state })
    }

    /// Plays a file; nothing is shown without a transcript.
    fn play(&self, file: &Path, screen: Screen, transcript: &mut Option<&mut String>) -> Result<()> {
        let named = || file.display().to_string();
        let steps = parse(&fs::read_to_string(file).with_context(named)?).with_context(named)?;
        let mut behind_comment = true;
        for step in &steps {
            match (step, transcript.as_deref_mut()) {
                (Step::Comment(line), Some(shown)) => {
                    let gap = if behind_comment { "" } else { "\n" };
                    shown.push_str(&format!("{gap}{line}\n"));
                }
                (Step::Comment(_), None) => {}
                (Step::Setup(name), _) => {
                    let setup = file.parent().and_then(Path::parent).context("a session lies in sessions/")?;
                    self.play(&setup.join(format!("setup/{name}.txt")), Screen::Pipe, &mut None)?;
                }
                (Step::Command { text, interrupt }, Some(shown)) => {
                    let output = self.run(text, screen, *interrupt).with_context(named)?;
                    shown.push_str(&format!("\n$ {text}\n{}", self.told(text, &output)));
                }
                (Step::Unseen(text) | Step::Command { text, .. }, _) => {
                    let output = self.run(text, Screen::Pipe, false).with_context(named)?;
                    ensure!(
                        output.success(),
                        "{}: {text} ended with status {}\n{}{}",
                        named(),
                        output.code,
                        output.stderr,
                        output.stdout
                    );
                }
            }
            behind_comment = matches!(step, Step::Comment(_));
        }
        Ok(())
    }

    fn run(&self, text: &str, screen: Screen, interrupt: bool) -> Result<Output> {
        // Whoever runs the tests may have another one, and warnings about open files depend on it.
        let text = &format!("umask 022\n{text}");
        let line = Line { text, env: &self.env, directory: self.home.path(), deadline: DEADLINE, interrupt };
        screen::run(&line, screen)
    }

    /// What a command answered, as the transcript has it.
    fn told(&self, text: &str, output: &Output) -> String {
        let mut told = output.stdout.replace('\x1b', "\\e");
        if !told.is_empty() && !told.ends_with('\n') {
            told.push_str("(no line end)\n");
        }
        for line in kept(text, output) {
            told.push_str(&format!("! {}\n", line.replace('\x1b', "\\e")));
        }
        if !output.success() {
            told.push_str(&format!("[{}]\n", output.code));
        }
        mask::apply(&told, &self.places)
    }
}

/// The lines of standard error without progress: how much of that there is depends on how fast the machine is.
pub fn kept<'a>(text: &str, output: &'a Output) -> Vec<&'a str> {
    let lines: Vec<&str> = output.stderr.lines().collect();
    if !text.contains(" --wait") {
        return lines;
    }
    let last = lines.len().saturating_sub(1);
    let is_kept = |(at, line): &(usize, &str)| {
        line.starts_with("note: ") || line.starts_with("warning: ") || (*at == last && !output.success())
    };
    lines.iter().copied().enumerate().filter(is_kept).map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_comments_setup_and_commands_with_their_here_documents() {
        let text = "# one\n@ cloud\n% a \\\n  b\n\n$ c <<END | d\nx\n\nEND\n$ top\n^C\n";
        let command = |text: &str, interrupt| Step::Command { text: text.into(), interrupt };
        let steps = parse(text).unwrap();
        assert_eq!(
            steps,
            [
                Step::Comment("# one".into()),
                Step::Setup("cloud".into()),
                Step::Unseen("a \\\n  b".into()),
                command("c <<END | d\nx\n\nEND", false),
                command("top", true),
            ]
        );
        assert_eq!(commands(&steps).len(), 2);
        for wrong in ["onevm list", "$ cat <<END\nx\n", "^C"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_a_command_that_waits_only_notes_and_the_reason_of_a_failure_are_kept() {
        let stderr = "VM 0: backup\nnote: the VM has no active chain\nVM 0: it failed\n";
        let mut output = Output { stdout: String::new(), stderr: stderr.into(), code: 0 };
        assert_eq!(kept("onevm backup 0 --wait", &output), ["note: the VM has no active chain"]);
        output.code = 255;
        assert_eq!(kept("onevm backup 0 --wait", &output).len(), 2);
        assert_eq!(kept("onevm backup 0", &output).len(), 3);
    }
}
