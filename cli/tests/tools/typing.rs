//! Passwords typed on a terminal: a pseudo terminal whose other end is the typist.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::termios::{LocalModes, tcgetattr};

use crate::door::{Door, document, pseudo_terminal};

/// What the kernel makes of Ctrl-C, and of backspace.
const CTRL_C: &str = "\x03";
const BACKSPACE: &str = "\x7f";

/// A tool on a terminal of its own, and the person before it.
struct Typist {
    keyboard: std::fs::File,
    shown: Receiver<Vec<u8>>,
    terminal: OwnedFd,
    child: Child,
    screen: String,
}

impl Typist {
    /// Starts a tool as the first process of a session, with the terminal as its own: Ctrl-C would be a signal to it.
    fn before(door: &Door, tool: &str, arguments: &[&str]) -> Self {
        let (keyboard, terminal) = pseudo_terminal();
        let inner = door.tool(tool, arguments);
        // setsid(1) is in util-linux, which every Debian has.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(inner.get_program())
            .arg(tool.strip_prefix("one").unwrap())
            .args(arguments);
        command.env_clear().envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.current_dir(door.home());
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let keyboard = std::fs::File::from(keyboard);
        let mut eyes = keyboard.try_clone().unwrap();
        let (tell, shown) = channel();
        // Ends with the test: reading fails when the terminal is closed.
        std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(count @ 1..) = eyes.read(&mut bytes) {
                if tell.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keyboard, shown, terminal, child, screen: String::new() }
    }

    /// Reads the screen until it shows `text`.
    fn sees(&mut self, text: &str) {
        while !self.screen.contains(text) {
            match self.shown.recv_timeout(Duration::from_secs(120)) {
                Ok(bytes) => self.screen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text} does not come: {}", self.screen),
            }
        }
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits for the tool's end; its status and all that was on the screen.
    fn ends(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        assert!(self.echoes(), "the terminal is as before");
        // The mark is behind everything that the tool wrote.
        rustix::io::write(&self.terminal, b"<END>").unwrap();
        self.sees("<END>");
        (status, self.screen.replace("\r\n", "\n"))
    }
}

#[test]
fn the_echo_comes_back_after_ctrl_c_at_a_password() {
    let door = Door::open().says("one.vmpool.info", document("one.vmpool.info"));
    let mut typist = Typist::before(&door, "onevm", &["list", "--user", "alice"]);
    typist.sees("Password of alice: ");
    assert!(!typist.echoes());
    typist.types("half a pass");
    typist.types(CTRL_C);
    let (status, screen) = typist.ends();
    assert_eq!(status.code(), Some(130), "{screen}");
    assert_eq!(screen, "Password of alice: \ninterrupted: nothing was done\n<END>");
    assert_eq!(door.calls(), "");
}

#[test]
fn a_typed_password_is_used_and_never_shown() {
    let door = Door::open().says("one.vmpool.info", "<VM_POOL></VM_POOL>");
    let mut typist = Typist::before(&door, "onevm", &["list", "--user", "oneadmin"]);
    typist.sees("Password of oneadmin: ");
    typist.types(&format!("no\x15secrex{BACKSPACE}t\n"));
    let (status, screen) = typist.ends();
    // The door takes only the right session.
    assert_eq!((status.code(), door.calls().as_str()), (Some(0), "one.vmpool.info(-2, -1, -1, -1, \"\")"), "{screen}");
    assert!(!screen.contains("secre"), "{screen}");
}

#[test]
fn a_new_password_is_typed_twice() {
    let door = Door::open().says("one.user.allocate", 7);
    let mut typist = Typist::before(&door, "oneuser", &["create", "carl"]);
    typist.sees("New password of carl: ");
    typist.types("blätter\n");
    typist.sees("The same again: ");
    typist.types("blätter\n");
    let (status, screen) = typist.ends();
    assert_eq!(status.code(), Some(0), "{screen}");
    assert_eq!(door.calls(), "one.user.allocate(\"carl\", \"blätter\", \"core\")");
    assert_eq!(screen, "New password of carl: \nThe same again: \nID: 7\n<END>");
}

#[test]
fn two_passwords_that_differ_change_nothing() {
    let door = Door::open().says("one.user.info", document("one.user.info"));
    for (keys, told) in [("one\ntwo\n", "the two passwords differ"), ("\n", "cannot be empty"), ("\x04", "no password")]
    {
        let mut typist = Typist::before(&door, "oneuser", &["passwd"]);
        typist.sees("New password of oneadmin: ");
        typist.types(keys);
        let (status, screen) = typist.ends();
        assert_eq!(status.code(), Some(255), "{screen}");
        assert!(screen.contains(told), "{screen}");
    }
    assert!(!door.calls().contains("one.user.passwd"), "{}", door.calls());
}
