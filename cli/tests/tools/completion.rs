//! Completion in real shells: bash, zsh and fish on a terminal, against a fake daemon.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::door::{Door, Ran, restrict, tool_command};

/// A name that would do harm, were it run on the way: it makes a file.
const HOSTILE: &str = "evil $(touch hit);`touch hit`'\"&|<*?~#!x";

/// Longest wait for a shell.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a shell prints when it waits for a line.
const PROMPT: &str = "ready>";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }

    /// Commands at the start: a command `onevm` that writes down what it was given, and our completion.
    fn start(self, home: &Path) {
        let record = r#"printf '<%s>' "$@" > "$HOME/new" && mv "$HOME/new" "$HOME/said""#;
        let text = match self {
            Self::Bash => format!("PS1='{PROMPT}'\nonevm() {{ {record}; }}\nsource $HOME/completion\n"),
            Self::Zsh => format!("PS1='{PROMPT}'\nonevm() {{ {record}; }}\nsource $HOME/completion\n"),
            Self::Fish => format!(
                "function fish_prompt; echo -n '{PROMPT}'; end\nfunction onevm; printf '<%s>' $argv > $HOME/new && mv $HOME/new $HOME/said; end\nsource $HOME/completion\n"
            ),
        };
        std::fs::write(home.join(if self == Self::Zsh { ".zshrc" } else { "start" }), text).unwrap();
    }

    fn line(self) -> &'static str {
        match self {
            Self::Bash => "exec bash --noprofile --rcfile $HOME/start -i",
            Self::Zsh => "exec zsh -d -i",
            Self::Fish => "exec fish --no-config -i -C 'source $HOME/start'",
        }
    }

    fn must_be_there(self) {
        let ran = Command::new(self.name()).arg("--version").stdin(Stdio::null()).output();
        assert!(ran.is_ok(), "{0} is missing: apt-get install {0}", self.name());
    }
}

fn door() -> Door {
    let pool = format!(
        "<VM_POOL><VM><ID>3</ID><NAME>web</NAME><STATE>8</STATE></VM><VM><ID>12</ID><NAME>my mail</NAME><STATE>8</STATE></VM><VM><ID>13</ID><NAME>twin</NAME></VM><VM><ID>14</ID><NAME>twin</NAME></VM><VM><ID>15</ID><NAME>a:b=c</NAME></VM><VM><ID>16</ID><NAME>{}</NAME></VM><VM><ID>17</ID><NAME>-v</NAME></VM></VM_POOL>",
        HOSTILE.replace('&', "&amp;").replace('<', "&lt;")
    );
    Door::open().says("one.vmpool.info", pool).says(
        "one.datastorepool.info",
        "<DATASTORE_POOL><DATASTORE><ID>100</ID><NAME>RBackups</NAME><TYPE>3</TYPE></DATASTORE></DATASTORE_POOL>",
    )
}

/// The script, as `keeplast completion SHELL` prints it.
fn script(door: &Door, shell: Shell) -> String {
    shell.must_be_there();
    door.run("keeplast", &["completion", shell.name()]).good()
}

/// A shell on a terminal of its own. script(1) is in bsdutils, which every Debian has.
struct Session {
    child: Child,
    heard: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    fn begin(door: &Door, shell: Shell) -> Self {
        std::fs::write(door.home().join("completion"), script(door, shell)).unwrap();
        shell.start(door.home());
        let tool = door.tool("keeplast", &[]);
        let mut command = Command::new("script");
        command.env_clear().envs(tool.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("SHELL", "/bin/sh").env("TERM", "dumb").env("LANG", "C.UTF-8").env("ZDOTDIR", door.home());
        command.args(["-qfec", shell.line(), "/dev/null"]).current_dir(door.home());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let (give, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut buffer) {
                if give.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut session = Self { child, heard, seen: String::new() };
        session.wait_for(PROMPT);
        session
    }

    /// Waits until the terminal shows the text, and forgets what came before.
    fn wait_for(&mut self, text: &str) {
        let begin = Instant::now();
        while !self.seen.contains(text) {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            let heard = self.heard.recv_timeout(left);
            let heard = heard.unwrap_or_else(|error| panic!("{text:?} did not appear ({error}): {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&heard));
        }
        self.seen.clear();
    }

    fn types(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// What the command was given when the keys and then Enter were typed.
    fn given(&mut self, door: &Door, keys: &str) -> String {
        let said = door.home().join("said");
        let _ = std::fs::remove_file(&said);
        self.types(&format!("{keys}\r"));
        let begin = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(&said) {
                return text;
            }
            if let Ok(heard) = self.heard.recv_timeout(Duration::from_millis(20)) {
                self.seen.push_str(&String::from_utf8_lossy(&heard));
            }
            assert!(begin.elapsed() < PATIENCE, "{keys:?} ran nothing: {:?}", self.seen);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tab_completes_verbs_options_ids_and_names_in_real_shells() {
    for shell in SHELLS {
        let door = door();
        let mut session = Session::begin(&door, shell);
        for (keys, given) in [
            ("onevm backup-c\t3", "<backup-cancel><3>"),
            ("onevm backupmode 3 IN\t", "<backupmode><3><INCREMENT>"),
            ("onevm backup we\t--res\t", "<backup><web><--reset>"),
            ("onevm backup web -d RB\t", "<backup><web><-d><RBackups>"),
            ("onevm backup web --datastore=RB\t", "<backup><web><--datastore=RBackups>"),
            ("onevm poweroff 3,we\t", "<poweroff><3,web>"),
            ("onevm show my\t", "<show><my mail>"),
            ("onevm show my\\ m\t", "<show><my mail>"),
            ("onevm show 'my m\t", "<show><my mail>"),
            ("onevm show a:b\t", "<show><a:b=c>"),
            ("onevm create comp\t", "<create><completion>"),
        ] {
            assert_eq!(session.given(&door, keys), given, "{shell:?}: {keys:?}");
        }
    }
}

#[test]
fn a_hostile_name_runs_nothing_and_arrives_whole() {
    for shell in SHELLS {
        let door = door();
        let mut session = Session::begin(&door, shell);
        for keys in ["onevm show ev\t", "onevm show 'ev\t", "onevm show evil\\ \t"] {
            assert_eq!(session.given(&door, keys), format!("<show><{HOSTILE}>"), "{shell:?}: {keys:?}");
        }
        assert!(!door.home().join("hit").exists(), "{shell:?} ran a part of the name");
    }
}

#[test]
fn a_dead_daemon_and_a_bad_session_leave_the_line_as_it_is() {
    for shell in SHELLS {
        let door = door();
        std::fs::remove_file(door.home().join(".one/one_auth")).unwrap();
        let mut session = Session::begin(&door, shell);
        assert_eq!(session.given(&door, "onevm show we\tb"), "<show><web>", "{shell:?}");
        assert!(!session.seen.contains("one_auth"), "{shell:?}: {}", session.seen);
        assert_eq!(door.calls(), "");
    }
}

/// The answer to a shell as the scripts ask for it.
fn asked(door: &Door, shell: &str, words: &[&str]) -> String {
    door.run("keeplast", &[&["__complete", shell], words].concat()).good()
}

#[test]
fn candidates_tell_what_they_are() {
    let door = door();
    let shown = asked(&door, "fish", &["onevm", "show", ""]);
    assert!(shown.starts_with("values\n3\tweb (poff)\n12\tmy mail (poff)\n"), "{shown}");
    assert!(shown.contains("web\tVM 3\n") && !shown.contains("twin\t") && !shown.contains("\n-v\t"), "{shown}");
    assert_eq!(asked(&door, "fish", &["keeplast", "datastore", "show", "1"]), "values\n100\tRBackups (bck)\n");
    assert!(
        asked(&door, "fish", &["onevm", "list", "-l", "ID,HO"])
            .starts_with("values\nID,HOST\tHost that the VM is on\n")
    );
    assert_eq!(asked(&door, "bash", &["onevm show \"my"]), "values\nmy mail\n");
    assert_eq!(asked(&door, "zsh", &["onevm", "backup", "3", "--schedule", "n"]), "values\n");
}

#[test]
fn parts_of_an_object_complete_by_what_it_has() {
    let vm = "<VM><ID>3</ID><TEMPLATE><DISK><DISK_ID>0</DISK_ID><IMAGE>web-disk</IMAGE><TARGET>vda</TARGET></DISK>\
              <DISK><DISK_ID>2</DISK_ID><SIZE>8</SIZE></DISK><SNAPSHOT><SNAPSHOT_ID>1</SNAPSHOT_ID><NAME>early</NAME></SNAPSHOT>\
              <SCHED_ACTION><ID>5</ID><ACTION>backup</ACTION></SCHED_ACTION></TEMPLATE>\
              <SNAPSHOTS><SNAPSHOT><ID>7</ID><NAME>of a disk</NAME></SNAPSHOT></SNAPSHOTS></VM>";
    let image = "<IMAGE><ID>4</ID><BACKUP_DISK_IDS><ID>0</ID><ID>2</ID></BACKUP_DISK_IDS><BACKUP_INCREMENTS><INCREMENT><ID>0</ID><TYPE>FULL</TYPE><DATE>1700000000</DATE></INCREMENT></BACKUP_INCREMENTS></IMAGE>";
    let door = door().says("one.vm.info", vm).says("one.image.info", image);
    let offered = |words: &[&str]| asked(&door, "fish", words);
    assert_eq!(offered(&["onevm", "disk-detach", "web", ""]), "values\n0\tweb-disk vda\n2\t8\n");
    assert_eq!(offered(&["keeplast", "vm", "restore", "3", "4", "--disk-id", ""]), "values\n0\tweb-disk vda\n2\t8\n");
    assert_eq!(offered(&["keeplast", "onevm", "snapshot-revert", "3", ""]), "values\n1\tearly\n");
    assert_eq!(offered(&["onevm", "disk-snapshot-revert", "3", "0", ""]), "values\n7\tof a disk\n");
    assert_eq!(offered(&["onevm", "sched-delete", "3", ""]), "values\n5\tbackup\n");
    let increments = "values\n0\tFULL 11/14 22:13:20\n";
    assert_eq!(offered(&["oneimage", "restore", "4", "--increment", ""]), increments);
    assert_eq!(offered(&["onevm", "restore", "3", "4", "--increment", ""]), increments);
    assert_eq!(offered(&["oneimage", "restore", "4", "--disk-id", ""]), "values\n0\t\n2\t\n");
    assert_eq!(offered(&["onevm", "restore", "--disk-id", ""]), "values\n");
}

#[test]
fn a_completion_is_silent_whatever_is_asked() {
    let door = door();
    let auth = door.home().join(".one/one_auth");
    restrict(&auth, 0o644);
    for words in
        [&[][..], &["__complete"], &["__complete", "bash"], &["__complete", "tcsh", "x"], &["__complete", "zsh"]]
    {
        assert_eq!(door.run("keeplast", words).err.lines().count(), usize::from(words.is_empty()), "{words:?}");
    }
    assert!(asked(&door, "bash", &["onevm show we"]).contains("web"));
    assert_eq!(asked(&door, "bash", &["onevm --user x show we"]), "values\n");
    let mut refused = tool_command("keeplast", &["__complete", "bash", "onevm show we"], door.home());
    assert_eq!(Ran::of(refused.env("ONE_XMLRPC", "http://127.0.0.1:1/").output().unwrap()).good(), "values\n");
}

#[test]
fn a_daemon_that_does_not_answer_is_not_waited_for() {
    let door = Door::open();
    // Accepts, and says nothing for as long as the test runs.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("onevm --endpoint http://{}/RPC2 show we", mute.local_addr().unwrap());
    assert_eq!(asked(&door, "bash", &[&line]), "values\n");
}

#[test]
fn fish_and_bash_offer_the_same_through_their_own_functions() {
    let door = door();
    for (shell, line) in [
        (
            Shell::Bash,
            "source completion; COMP_LINE='onevm poweroff 3,1' COMP_POINT=18; _keeplast; printf '%s\\n' \"${COMPREPLY[@]}\"",
        ),
        (Shell::Fish, "source completion; complete -C 'onevm poweroff 3,1' | cut -f1"),
    ] {
        std::fs::write(door.home().join("completion"), script(&door, shell)).unwrap();
        let tool = door.tool("keeplast", &[]);
        let mut command = Command::new(shell.name());
        command.env_clear().envs(tool.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.args(["-c", line]).current_dir(door.home()).stdin(Stdio::null());
        let told = Ran::of(command.output().unwrap()).good();
        assert_eq!(told, "3,12\n3,13\n3,14\n3,15\n3,16\n3,17\n", "{shell:?}");
    }
}
