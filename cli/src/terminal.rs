//! What reaches the user: results on standard output, everything else on standard error.
//!
//! A reader that goes away (`onevm list | head -1`) is no error. One message is one line.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

/// Set while nothing may be said beside results.
static HUSHED: AtomicBool = AtomicBool::new(false);

/// Where results go instead of standard output.
static CAUGHT: Mutex<Option<String>> = Mutex::new(None);

/// From now on nothing is said on standard error: a shell that completes a line would show it in the middle of it.
pub fn hush() {
    HUSHED.store(true, Ordering::Relaxed);
}

/// The results of `work`, instead of showing them.
///
/// # Errors
/// What `work` says.
pub fn caught(work: impl FnOnce() -> Result<()>) -> Result<String> {
    let set = |value| CAUGHT.lock().unwrap_or_else(PoisonError::into_inner).replace(value);
    let _ = set(String::new());
    let done = work();
    let text = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner).take();
    done.map(|()| text.unwrap_or_default())
}

/// Writes a result to standard output.
///
/// # Errors
/// When standard output cannot take it (disk full); a closed pipe is fine.
pub fn put(text: &str) -> Result<()> {
    if let Some(caught) = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        caught.push_str(text);
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("writing the result"),
        _ => Ok(()),
    }
}

/// Writes one result line.
///
/// # Errors
/// As [`put`].
pub fn put_line(text: &str) -> Result<()> {
    put(&format!("{text}\n"))
}

/// One line on standard error, whatever line breaks the text holds.
pub fn complain(text: &str) {
    if HUSHED.load(Ordering::Relaxed) {
        return;
    }
    let text = without_numbers(&one_line(text));
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Without the numbers that the standard library puts behind what the system says: ` (os error 2)`.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|digit| digit.is_ascii_digit()) => out.push_str(rest),
            _ => out.push_str(&format!(" (os error {part}")),
        }
    }
    out
}

/// A warning line on standard error.
pub fn warn(text: &str) {
    complain(&format!("warning: {text}"));
}

/// A prompt: no line end.
pub fn warn_raw(text: &str) {
    let mut err = std::io::stderr();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Is standard output a terminal?
#[must_use]
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Is standard input a pipe or a file, no terminal nor /dev/null?
#[must_use]
pub fn something_is_piped_in() -> bool {
    std::fs::metadata("/dev/stdin").is_ok_and(|input| input.file_type().is_fifo() || input.is_file())
}

/// Columns of the terminal that standard output is, or None elsewhere.
#[must_use]
pub fn width() -> Option<usize> {
    if !is_terminal() {
        return None;
    }
    if let Some(columns) = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()) {
        return Some(columns);
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

/// Does the terminal know how to move its cursor? `TERM=dumb` says that it does not.
#[must_use]
pub fn can_draw() -> bool {
    std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// Rows of the terminal that standard output is, or None elsewhere.
#[must_use]
pub fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(size.ws_row.into()).filter(|rows| *rows > 0)
}

/// Set while a screen is drawn again and again.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// From now on nothing is paged: who draws a screen again and again wants no pager to stop at each.
pub fn draw() {
    DRAWN.store(true, Ordering::Relaxed);
}

/// Writes a result that may be long: through the pager that `ONE_PAGER` names when standard output is a terminal that is
/// too small for it. Without the variable nothing is paged, since terminals scroll.
///
/// # Errors
/// As [`put`].
pub fn put_paged(text: &str) -> Result<()> {
    let rows = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_row);
    let fits = rows == 0 || text.lines().count() < usize::from(rows);
    let pager = std::env::var("ONE_PAGER").ok().filter(|pager| !pager.trim().is_empty());
    match pager {
        Some(pager) if !fits && is_terminal() && !DRAWN.load(Ordering::Relaxed) => page(&pager, text),
        _ => put(text),
    }
}

/// The variable may hold options (`less -S`); there is no shell in between.
fn page(pager: &str, text: &str) -> Result<()> {
    let mut words = pager.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    let mut child = match command.args(words).stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            warn(&format!("the pager {pager} cannot be started: {error}; set ONE_PAGER to another, or leave it out"));
            return put(text);
        }
    };
    // Who leaves the pager early has seen enough.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    child.wait().context("waiting for the pager")?;
    Ok(())
}

/// Would a terminal obey this character instead of showing it? Control characters, what breaks lines, and what turns the
/// direction of writing: a name must not show as another.
#[must_use]
pub fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with a blank for each character that a terminal would obey; other blanks stay (durations are aligned by leading
/// ones).
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { ' ' } else { c }).collect()
}

/// The text with line breaks and other control characters turned to single blanks: a hostile name must not be able to
/// move the cursor of the person who lists it.
#[must_use]
pub fn one_line(text: &str) -> String {
    clean(text).split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_system_are_left_out() {
        let cases = [
            ("x: No such file or directory (os error 2); do y", "x: No such file or directory; do y"),
            ("a (os error 2) (os error 13)", "a"),
            ("(os error ) and (os error 5", "(os error ) and (os error 5"),
            ("VM (os error x) b", "VM (os error x) b"),
        ];
        for (text, expected) in cases {
            assert_eq!(without_numbers(text), expected);
        }
    }

    #[test]
    fn a_message_is_one_line_without_control_characters() {
        assert_eq!(one_line("a\n  b\u{1b}[2Jc"), "a b [2Jc");
        assert_eq!(one_line("a\u{9b}2J\u{202e}gpj.exe\u{2028}b\u{2066}"), "a 2J gpj.exe b");
    }
}
