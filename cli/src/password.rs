//! Passwords: typed on the terminal, or the first line of a file. Never an argument, for arguments can be read by every
//! process on the machine.
//!
//! While one is typed, the terminal neither echoes nor makes signals of keys: Ctrl-C is read like any other key, and the
//! terminal is as before when [`Prompt`] goes, however it goes. (With signals left on, Ctrl-C would end the process
//! between switching the echo off and on again.)

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::termios::{InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::terminal;
use crate::watch::Stopped;

/// Longest password and session line that we read, in bytes.
pub(crate) const BYTES_MAX: u64 = 64 * 1024;

/// Backspace and delete; terminals send either, whatever they say in their settings.
const ERASE: [u8; 2] = [0x08, 0x7f];

/// A terminal on standard input that shows nothing of what is typed, until this is dropped.
pub struct Prompt {
    before: Termios,
}

impl Prompt {
    /// Makes the terminal quiet. `way_out` says what to do when there is none.
    ///
    /// # Errors
    /// When standard input is no terminal, or its modes cannot be changed.
    pub fn begin(way_out: &str) -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            bail!("there is no terminal to type the password: {way_out}");
        }
        let before = tcgetattr(rustix::stdio::stdin()).context("reading the modes of the terminal")?;
        let mut quiet = before.clone();
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN);
        quiet.input_modes.insert(InputModes::ICRNL);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        let prompt = Self { before };
        // What was typed before was shown, so it is no password.
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &quiet).context("switching the echo off")?;
        Ok(prompt)
    }

    /// Asks for one line.
    ///
    /// # Errors
    /// When it is interrupted, ended without a line, or not UTF-8.
    pub fn ask(&self, question: &str) -> Result<String> {
        terminal::warn_raw(question);
        let line = self.read_line();
        terminal::warn_raw("\n");
        line
    }

    fn read_line(&self) -> Result<String> {
        let is = |key: u8, code: SpecialCodeIndex| key != 0 && key == self.before.special_codes[code];
        let mut line: Vec<u8> = Vec::new();
        loop {
            let mut key = [0; 1];
            match rustix::io::read(rustix::stdio::stdin(), &mut key) {
                Ok(0) => bail!("the terminal was closed before a password was typed"),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error).context("reading the password"),
            }
            match key[0] {
                b'\n' | b'\r' => break,
                key if is(key, SpecialCodeIndex::VINTR) || is(key, SpecialCodeIndex::VQUIT) => {
                    return Err(Stopped::new("interrupted: nothing was done").into());
                }
                key if is(key, SpecialCodeIndex::VEOF) && line.is_empty() => bail!("no password was typed"),
                key if is(key, SpecialCodeIndex::VEOF) => break,
                key if is(key, SpecialCodeIndex::VSUSP) => {}
                key if is(key, SpecialCodeIndex::VKILL) || is(key, SpecialCodeIndex::VWERASE) => line.clear(),
                key if is(key, SpecialCodeIndex::VERASE) || ERASE.contains(&key) => erase(&mut line),
                _ if line.len() as u64 >= BYTES_MAX => bail!("the password is longer than {BYTES_MAX} bytes"),
                key => line.push(key),
            }
        }
        String::from_utf8(line).map_err(|_| anyhow::anyhow!("the password is not UTF-8"))
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        // Not Drain: output that a stopped terminal holds back must not keep the echo off.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Takes the last character away, with all its bytes.
fn erase(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

/// Asks for a password that exists.
///
/// # Errors
/// As [`Prompt::begin`] and [`Prompt::ask`].
pub fn ask(question: &str, way_out: &str) -> Result<String> {
    Prompt::begin(way_out)?.ask(question)
}

/// Asks for a new password, twice: nobody sees what he types.
///
/// # Errors
/// As [`ask`], for an empty one, and when the two differ.
pub fn ask_new(whose: &str, way_out: &str) -> Result<String> {
    let prompt = Prompt::begin(way_out)?;
    let first = prompt.ask(&format!("New password of {}: ", terminal::one_line(whose)))?;
    if first.is_empty() {
        bail!("a password cannot be empty: nothing was changed");
    }
    if prompt.ask("The same again: ")? != first {
        bail!("the two passwords differ: nothing was changed");
    }
    Ok(first)
}

/// The first line of `file`; `-` is standard input.
///
/// # Errors
/// When it cannot be read.
pub fn from_file(file: &Path) -> Result<String> {
    if file != Path::new("-") {
        warn_if_others_can_read(file);
        return crate::wire::first_line(file, BYTES_MAX);
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().take(BYTES_MAX).read_line(&mut line);
    read.context("reading the password from standard input")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Warns when a file with a password is open to more than its owner.
pub(crate) fn warn_if_others_can_read(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Ok(meta) = std::fs::metadata(file)
        && meta.is_file()
        && meta.permissions().mode() & 0o044 != 0
    {
        terminal::warn(&format!("others can read the password in {0}: chmod 600 {0}", file.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_character_is_erased() {
        let mut line = "aé€".as_bytes().to_vec();
        erase(&mut line);
        assert_eq!(line, "aé".as_bytes());
        erase(&mut line);
        assert_eq!(line, b"a");
        erase(&mut line);
        erase(&mut line);
        assert!(line.is_empty());
    }
}
