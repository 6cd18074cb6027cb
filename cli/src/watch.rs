//! `--wait`: looking at an object again and again until it is where it should be, with progress on standard error.
//!
//! On a terminal there is a bar with bytes, rate and time left; elsewhere a plain line every two seconds. The daemon works
//! on whether somebody watches or not: a deadline or an interrupt ends the watching only.

use std::io::IsTerminal as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal::complain;
use crate::units;
use crate::wire::Unreachable;
use crate::xml::Element;

/// Time between two looks: short enough to feel immediate, long enough to cost the daemon nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Time between two plain lines.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Time between two plain lines that say the same.
const REPEAT_EVERY: Duration = Duration::from_secs(30);

/// How long the daemon may be away while we watch: a restart, with recovery, is no reason to give up.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// Options of every verb that can wait.
#[derive(Args, Clone, Debug, Default)]
pub struct WaitOptions {
    /// Wait until it is done, showing progress
    #[arg(long)]
    pub wait: bool,
    /// Longest time to wait with --wait
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub timeout: u64,
}

/// Bytes done and to do of a running operation (element PROGRESS with DONE_BYTES and TOTAL_BYTES).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 when not known.
    pub total: u64,
}

impl Progress {
    /// The progress that a document shows at a path like `USER_TEMPLATE/PROGRESS`.
    #[must_use]
    pub fn at(document: &Element, path: &str) -> Option<Self> {
        let progress = document.at(path)?;
        let number = |name| progress.int_at(name).and_then(|value| u64::try_from(value).ok());
        Some(Self { done: number("DONE_BYTES")?, total: number("TOTAL_BYTES").unwrap_or(0) })
    }
}

/// What one look found.
pub enum Look<T> {
    /// It is where it should be.
    Done(T),
    /// Not yet: a phrase for the progress display ("backup", "waiting in PROLOG"), and the bytes if known.
    Busy(String, Option<Progress>),
    /// Not yet, but a step further: lines to be told once, then as [`Look::Busy`].
    Step {
        /// What is told once.
        news: Vec<String>,
        /// As in [`Look::Busy`].
        phrase: String,
        /// As in [`Look::Busy`].
        progress: Option<Progress>,
    },
}

/// Looks until done.
///
/// `subject` begins each line ("VM 0").
///
/// # Errors
/// What a look says, or that the time is over.
pub fn until<T>(subject: &str, options: &WaitOptions, mut look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
    let begin = Instant::now();
    let deadline = Duration::from_secs(options.timeout);
    let mut teller = Teller::new(subject);
    let mut last_reached = begin;
    loop {
        let (phrase, progress) = match look() {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::Busy(phrase, progress)) => {
                last_reached = Instant::now();
                (phrase, progress)
            }
            Ok(Look::Step { news, phrase, progress }) => {
                last_reached = Instant::now();
                news.iter().for_each(|line| teller.tell_news(line));
                (phrase, progress)
            }
            Err(error) if error.is::<Unreachable>() && last_reached.elapsed() < RESTART_MAX => {
                ("waiting for the daemon to come back".to_owned(), None)
            }
            Err(error) => return Err(error),
        };
        teller.tell(&phrase, progress);
        if begin.elapsed() >= deadline {
            bail!("{subject}: not done within {} s ({phrase}); it goes on without being watched", options.timeout);
        }
        sleep(LOOK_EVERY.min(deadline.saturating_sub(begin.elapsed())));
    }
}

/// Shows progress; the bar vanishes when this is dropped.
struct Teller {
    subject: String,
    bar: Option<ProgressBar>,
    bytes_shown: bool,
    last_told: Option<(Instant, String)>,
    first: Option<(Instant, u64)>,
}

impl Teller {
    fn new(subject: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { subject: subject.to_owned(), bar, bytes_shown: false, last_told: None, first: None }
    }

    fn tell(&mut self, phrase: &str, progress: Option<Progress>) {
        let Some(bar) = &self.bar else {
            self.tell_line(phrase, progress);
            return;
        };
        bar.set_message(format!("{}: {phrase}", self.subject));
        if let Some(progress) = progress {
            if !self.bytes_shown {
                bar.set_style(bar_style());
                bar.reset_eta();
                self.bytes_shown = true;
            }
            bar.set_length(progress.total.max(progress.done));
            bar.set_position(progress.done);
        }
    }

    /// A line that stays, above the bar if there is one.
    fn tell_news(&self, news: &str) {
        let line = format!("{}: {news}", self.subject);
        match &self.bar {
            Some(bar) => bar.suspend(|| complain(&line)),
            None => complain(&line),
        }
    }

    fn tell_line(&mut self, phrase: &str, progress: Option<Progress>) {
        let now = Instant::now();
        let figures = progress.map(|progress| {
            let (since, from) = *self.first.get_or_insert((now, progress.done));
            figures(progress, progress.done.saturating_sub(from), now.duration_since(since))
        });
        let line = format!("{}: {phrase}{}", self.subject, figures.unwrap_or_default());
        let pause = |told: &str| if told == line { REPEAT_EVERY } else { TELL_EVERY };
        if self.last_told.as_ref().is_some_and(|(at, told)| now.duration_since(*at) < pause(told)) {
            return;
        }
        complain(&line);
        self.last_told = Some((now, line));
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// ` 12M of 100M (12%), 4.2M/s, 21s left`
fn figures(progress: Progress, moved: u64, elapsed: Duration) -> String {
    let size = |bytes: u64| units::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    let mut text = format!(" {}", size(progress.done));
    if progress.total > 0 {
        let percent = u128::from(progress.done) * 100 / u128::from(progress.total);
        text.push_str(&format!(" of {} ({percent}%)", size(progress.total)));
    }
    let seconds = elapsed.as_secs_f64();
    if moved > 0 && seconds >= 1.0 {
        let rate = moved as f64 / seconds;
        text.push_str(&format!(", {}/s", size(rate as u64)));
        if progress.total > progress.done {
            let left = (progress.total - progress.done) as f64 / rate;
            text.push_str(&format!(", {} left", units::duration(left as i64)));
        }
    }
    text
}

/// The template is a constant; should indicatif ever reject it, its own default bar is good enough.
fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_show_share_rate_and_time_left() {
        let progress = Progress { done: 30 << 20, total: 100 << 20 };
        assert_eq!(figures(progress, 10 << 20, Duration::from_secs(5)), " 30M of 100M (30%), 2M/s, 35s left");
        assert_eq!(figures(progress, 0, Duration::from_secs(5)), " 30M of 100M (30%)");
        assert_eq!(figures(Progress { done: 5, total: 0 }, 5, Duration::ZERO), " 5B");
    }

    #[test]
    fn progress_is_read_from_a_document() {
        let vm = Element::parse("<VM><U><PROGRESS><ACTION>backup</ACTION><DONE_BYTES>5</DONE_BYTES><TOTAL_BYTES>10</TOTAL_BYTES></PROGRESS></U></VM>").unwrap();
        assert_eq!(Progress::at(&vm, "U/PROGRESS"), Some(Progress { done: 5, total: 10 }));
        assert_eq!(Progress::at(&vm, "X/PROGRESS"), None);
    }

    #[test]
    fn watching_ends_at_the_deadline_and_says_so() {
        let options = WaitOptions { wait: true, timeout: 0 };
        let error = until("VM 0", &options, || Ok(Look::<()>::Busy("backup".into(), None))).unwrap_err();
        assert_eq!(error.to_string(), "VM 0: not done within 0 s (backup); it goes on without being watched");
        assert_eq!(until("VM 0", &options, || Ok(Look::Done(7))).unwrap(), 7);
    }
}
