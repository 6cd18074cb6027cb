//! Ctrl-C while something is watched on a terminal: the first one asks what to do, a second one ends the watching.
//!
//! A thread hears the signal for as long as the process lives; while nothing is watched it ends the process as SIGINT does
//! by itself. The terminal stays in the mode that it was in: an answer is a line. Off a terminal nobody hears, and SIGINT
//! ends the process.

use std::io::{BufRead as _, IsTerminal as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use rustix::termios::{QueueSelector, tcflush};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Stopped;
use crate::terminal::{complain, warn_raw};

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// To watch on.
    GoOn,
    /// To watch no longer.
    Stop,
    /// The work to be given up.
    Cancel,
}

static LISTENER: OnceLock<Option<Arc<Listener>>> = OnceLock::new();

/// Hears Ctrl-C.
#[derive(Default)]
struct Listener {
    watching: Mutex<Option<Watching>>,
    pressed: Condvar,
}

/// What is being watched.
struct Watching {
    goodbye: String,
    bars: Option<MultiProgress>,
    is_pressed: bool,
    is_asking: bool,
}

/// Ctrl-C as a watch sees it; forgotten when dropped.
pub(super) struct Interrupts(Option<Arc<Listener>>);

impl Interrupts {
    /// Listens, when there is somebody to ask. `goodbye` is told when he presses Ctrl-C twice.
    pub(super) fn listen(bars: Option<&MultiProgress>, goodbye: &str) -> Self {
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Self(None);
        }
        let Some(listener) = LISTENER.get_or_init(start) else { return Self(None) };
        let (goodbye, bars) = (goodbye.to_owned(), bars.cloned());
        *listener.lock() = Some(Watching { goodbye, bars, is_pressed: false, is_asking: false });
        Self(Some(Arc::clone(listener)))
    }

    /// Waits; whether Ctrl-C was pressed before the time was over.
    pub(super) fn come_within(&self, time: Duration) -> bool {
        let Some(listener) = &self.0 else {
            std::thread::sleep(time);
            return false;
        };
        let end = Instant::now() + time;
        let mut watching = listener.lock();
        loop {
            if watching.as_ref().is_some_and(|watching| watching.is_pressed) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = listener.pressed.wait_timeout(watching, left);
            watching = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks what to do, with the bars out of the way. `what` could be cancelled.
    pub(super) fn ask(&self, bars: Option<&MultiProgress>, what: Option<&str>) -> Answer {
        // Before the bars are held: whoever hears a second Ctrl-C must not wait for them.
        self.set(true, true);
        let asked = || {
            let answer = converse(what);
            // Before the bars are seen again: a Ctrl-C from then on is a first one.
            self.set(false, false);
            answer
        };
        match bars {
            Some(bars) => bars.suspend(asked),
            None => asked(),
        }
    }

    fn set(&self, is_pressed: bool, is_asking: bool) {
        let Some(listener) = &self.0 else { return };
        if let Some(watching) = &mut *listener.lock() {
            (watching.is_pressed, watching.is_asking) = (is_pressed, is_asking);
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        if let Some(listener) = &self.0 {
            *listener.lock() = None;
        }
    }
}

/// Puts the question until it is answered.
fn converse(what: Option<&str>) -> Answer {
    // In the background a read would stop the process.
    let stdin = std::io::stdin();
    let is_ours = rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    if !is_ours {
        return Answer::Stop;
    }
    // What was typed before the question is no answer to it.
    let _ = tcflush(&stdin, QueueSelector::IFlush);
    let question = match what {
        Some(what) => format!("Cancel the {what}, or only stop watching? [c/s/Enter goes on] "),
        None => "Stop watching? It goes on without. [s/Enter goes on] ".to_owned(),
    };
    loop {
        warn_raw(&question);
        let mut line = String::new();
        match stdin.lock().read_line(&mut line) {
            Ok(0) | Err(_) => {
                warn_raw("\n");
                return Answer::Stop;
            }
            Ok(_) => {}
        }
        if let Some(answer) = answer(&line, what.is_some()) {
            return answer;
        }
    }
}

/// None = neither of what was offered.
fn answer(line: &str, can_cancel: bool) -> Option<Answer> {
    match line.trim().to_lowercase().as_str() {
        "" => Some(Answer::GoOn),
        "s" | "stop" => Some(Answer::Stop),
        "c" | "cancel" if can_cancel => Some(Answer::Cancel),
        _ => None,
    }
}

/// Starts the thread. None = the signal cannot be had, and does what it always does.
fn start() -> Option<Arc<Listener>> {
    let listener = Arc::<Listener>::default();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let heard = Arc::clone(&listener);
    let hear = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            let Ok(mut signal) = signal(SignalKind::interrupt()) else { return };
            let _ = ready.send(());
            heard.hear(&mut signal).await;
        });
    };
    std::thread::Builder::new().name("interrupts".to_owned()).spawn(hear).ok()?;
    is_ready.recv().ok().map(|()| listener)
}

impl Listener {
    fn lock(&self) -> MutexGuard<'_, Option<Watching>> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hear(&self, signal: &mut Signal) {
        while signal.recv().await.is_some() {
            match &mut *self.lock() {
                Some(watching) if !watching.is_pressed => {
                    watching.is_pressed = true;
                    self.pressed.notify_all();
                }
                Some(watching) => {
                    // The bars are away while somebody is asked; else they go now.
                    if watching.is_asking {
                        warn_raw("\n");
                    } else {
                        let _ = watching.bars.as_ref().map(MultiProgress::clear);
                    }
                    complain(&watching.goodbye);
                    std::process::exit(Stopped::STATUS.into());
                }
                None => std::process::exit(Stopped::STATUS.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_letter_a_word_or_nothing() {
        assert_eq!(answer("\n", true), Some(Answer::GoOn));
        assert_eq!(answer(" S \n", false), Some(Answer::Stop));
        assert_eq!(answer("cancel\n", true), Some(Answer::Cancel));
        assert_eq!(answer("c\n", false), None);
        assert_eq!(answer("what?\n", true), None);
    }
}
