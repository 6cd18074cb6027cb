//! `--wait`: looking at an object again and again until it is where it should be, with progress on standard error.
//!
//! On a terminal there are bars with bytes, rate and time left ([`show`]), and Ctrl-C asks what to do ([`interrupt`]);
//! elsewhere there is a plain line every two seconds, and an interrupt ends the process. The daemon works on whether somebody
//! watches or not: only who asks for a cancel gives the work up.

mod interrupt;
mod show;

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::Args;

use self::interrupt::{Answer, Interrupts};
use self::show::Teller;
use crate::wire::{Refused, Unreachable};
use crate::xml::Element;

/// Time between two looks: short enough to feel immediate, long enough to cost the daemon nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The first of these times: most of what is waited for is there at once. They grow with the wait.
const LOOK_FIRST: Duration = Duration::from_millis(50);

/// How long the daemon may be away while we watch: a restart, with recovery, is no reason to give up.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// Options of every verb that can wait.
#[derive(Args, Clone, Debug, Default)]
pub struct WaitOptions {
    /// Wait until it is done, showing progress
    #[arg(long)]
    pub wait: bool,
    /// Longest time to wait with --wait; without it as long as it takes
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
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
        Self::of(document.at(path)?)
    }

    fn of(progress: &Element) -> Option<Self> {
        let number = |name| progress.int_at(name).and_then(|value| u64::try_from(value).ok());
        Some(Self { done: number("DONE_BYTES")?, total: number("TOTAL_BYTES").unwrap_or(0) })
    }
}

/// One of several things that move at the same time, with a bar of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `disk 0`, `VM 3`.
    pub name: String,
    /// Its bytes, once known.
    pub progress: Option<Progress>,
}

/// What is to be seen of something that is not done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// Lines that are told once.
    pub news: Vec<String>,
    /// What it does: `backup`, `waiting in PROLOG`.
    pub phrase: String,
    /// The phrase where the parts are shown below it, if another one.
    pub brief: Option<String>,
    /// The bytes in all, if known.
    pub progress: Option<Progress>,
    /// What moves in it; bars are shown for two and more.
    pub parts: Vec<Part>,
}

impl Scene {
    /// The progress in a section of a document (`USER_TEMPLATE`, `TEMPLATE`): PROGRESS, and DISK_PROGRESS of each disk.
    #[must_use]
    pub fn of(document: &Element, section: &str, phrase: &str) -> Self {
        let disks = document.at(section).into_iter().flat_map(|section| section.all("DISK_PROGRESS"));
        let part = |disk: &Element| {
            Some(Part { name: format!("disk {}", disk.int_at("DISK_ID")?), progress: Some(Progress::of(disk)?) })
        };
        let parts = disks.filter_map(part).collect();
        let progress = Progress::at(document, &format!("{section}/PROGRESS"));
        Self { phrase: phrase.to_owned(), progress, parts, ..Self::default() }
    }
}

/// What one look found.
pub enum Look<T> {
    /// It is where it should be.
    Done(T),
    /// Not yet: a phrase for the progress display ("backup", "waiting in PROLOG"), and the bytes if known.
    Busy(String, Option<Progress>),
    /// Not yet, with more to be seen.
    Moving(Scene),
}

/// Giving up what is watched: what the user may choose when he presses Ctrl-C.
pub struct Cancel<'a> {
    what: &'a str,
    call: &'a dyn Fn() -> Result<()>,
    is_asked: Cell<bool>,
}

impl<'a> Cancel<'a> {
    /// `what` is "backup"; `call` asks the daemon to end it.
    #[must_use]
    pub fn new(what: &'a str, call: &'a dyn Fn() -> Result<()>) -> Self {
        Self { what, call, is_asked: Cell::new(false) }
    }

    /// Whether the daemon was asked, and agreed.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.is_asked.get()
    }
}

/// The user pressed Ctrl-C, and does not want to watch any longer (the work goes on), or to type. The process ends with the shell's status for Ctrl-C.
#[derive(Debug)]
pub struct Stopped(String);

impl Stopped {
    /// Exit status: 128 and the number of SIGINT, as the shell has it.
    pub const STATUS: u8 = 130;

    /// `text` says what became of what was asked for.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stopped {}

/// Looks until done. What is watched cannot be cancelled.
///
/// `subject` begins each line ("VM 0").
///
/// # Errors
/// What a look says, that the time is over, [`Stopped`].
pub fn until<T>(subject: &str, options: &WaitOptions, look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
    watch(subject, options, None, look)
}

/// As [`until`]; Ctrl-C offers to cancel. After that, what a look says counts as the end that was asked for.
///
/// # Errors
/// As [`until`], and that it was cancelled.
pub fn until_or_cancelled<T>(
    subject: &str,
    options: &WaitOptions,
    cancel: &Cancel<'_>,
    look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    watch(subject, options, Some(cancel), look).map_err(|error| {
        let is_other = error.is::<Refused>() || error.is::<Unreachable>() || error.is::<Stopped>();
        if !cancel.is_asked() || is_other || error.is::<TimeOver>() {
            return error;
        }
        anyhow!("{subject}: the {} was cancelled", cancel.what)
    })
}

/// The longest time to wait is over.
#[derive(Debug)]
struct TimeOver(String);

impl std::fmt::Display for TimeOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimeOver {}

fn watch<T>(
    subject: &str,
    options: &WaitOptions,
    cancel: Option<&Cancel<'_>>,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let begin = Instant::now();
    let left =
        || options.timeout.map(|seconds| (seconds, Duration::from_secs(seconds).saturating_sub(begin.elapsed())));
    let goodbye = format!("{subject}: it goes on without being watched");
    let mut teller = Teller::new(subject);
    let interrupts = Interrupts::listen(teller.bars(), &goodbye);
    let mut last_reached = begin;
    loop {
        let scene = match look() {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::Busy(phrase, progress)) => Scene { phrase, progress, ..Scene::default() },
            Ok(Look::Moving(scene)) => scene,
            Err(error) if error.is::<Unreachable>() && last_reached.elapsed() < RESTART_MAX => {
                teller.tell(&Scene { phrase: "waiting for the daemon to come back".to_owned(), ..Scene::default() });
                pause(&interrupts, &teller, cancel, LOOK_EVERY, &goodbye)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        last_reached = Instant::now();
        teller.tell(&scene);
        let next = (begin.elapsed() / 4).clamp(LOOK_FIRST, LOOK_EVERY);
        let next = match left() {
            Some((seconds, Duration::ZERO)) => {
                let phrase = scene.phrase;
                let text =
                    format!("{subject}: not done within {seconds} s ({phrase}); it goes on without being watched");
                return Err(TimeOver(text).into());
            }
            Some((_, left)) => next.min(left),
            None => next,
        };
        pause(&interrupts, &teller, cancel, next, &goodbye)?;
    }
}

/// The time between two looks; whoever presses Ctrl-C in it is asked what to do.
fn pause(
    interrupts: &Interrupts,
    teller: &Teller,
    cancel: Option<&Cancel<'_>>,
    time: Duration,
    goodbye: &str,
) -> Result<()> {
    if !interrupts.come_within(time) {
        return Ok(());
    }
    let offer = cancel.filter(|cancel| !cancel.is_asked());
    match interrupts.ask(teller.bars(), offer.map(|cancel| cancel.what)) {
        Answer::GoOn => Ok(()),
        Answer::Stop => Err(Stopped::new(goodbye).into()),
        Answer::Cancel => {
            let Some(cancel) = offer else { return Ok(()) };
            match (cancel.call)() {
                Ok(()) => {
                    cancel.is_asked.set(true);
                    teller.tell_news(&format!("the {} is being cancelled", cancel.what));
                }
                // It may have ended meanwhile; the next look tells.
                Err(error) => teller.tell_news(&format!("not cancelled: {error:#}")),
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn progress_is_read_from_a_document() {
        let vm = Element::parse(
            "<VM><U><PROGRESS><ACTION>backup</ACTION><DONE_BYTES>5</DONE_BYTES><TOTAL_BYTES>10</TOTAL_BYTES></PROGRESS>\
             <DISK_PROGRESS><DISK_ID>2</DISK_ID><DONE_BYTES>5</DONE_BYTES><TOTAL_BYTES>7</TOTAL_BYTES></DISK_PROGRESS>\
             <DISK_PROGRESS><DISK_ID>3</DISK_ID><DONE_BYTES>0</DONE_BYTES><TOTAL_BYTES>3</TOTAL_BYTES></DISK_PROGRESS>\
             </U></VM>",
        )
        .unwrap();
        assert_eq!(Progress::at(&vm, "U/PROGRESS"), Some(Progress { done: 5, total: 10 }));
        assert_eq!(Progress::at(&vm, "X/PROGRESS"), None);
        let scene = Scene::of(&vm, "U", "backup");
        let part = |name: &str, done, total| Part { name: name.into(), progress: Some(Progress { done, total }) };
        assert_eq!(scene.parts, [part("disk 2", 5, 7), part("disk 3", 0, 3)]);
        assert_eq!((scene.phrase.as_str(), scene.progress), ("backup", Some(Progress { done: 5, total: 10 })));
        assert_eq!(Scene::of(&vm, "X", "backup").parts, []);
    }

    #[test]
    fn watching_ends_at_the_deadline_and_says_so() {
        let options = WaitOptions { wait: true, timeout: Some(0) };
        let error = until("VM 0", &options, || Ok(Look::<()>::Busy("backup".into(), None))).unwrap_err();
        assert_eq!(error.to_string(), "VM 0: not done within 0 s (backup); it goes on without being watched");
        assert_eq!(until("VM 0", &options, || Ok(Look::Done(7))).unwrap(), 7);
    }

    #[test]
    fn what_a_look_says_after_a_cancel_is_the_end_that_was_asked_for() {
        let options = WaitOptions { wait: true, timeout: Some(5) };
        let call = || Ok(());
        let cancel = Cancel::new("backup", &call);
        let end = |cancel: &Cancel<'_>| {
            until_or_cancelled("VM 0", &options, cancel, || -> Result<Look<()>> { bail!("VM 0: no point") })
        };
        assert_eq!(end(&cancel).unwrap_err().to_string(), "VM 0: no point");
        cancel.is_asked.set(true);
        assert_eq!(end(&cancel).unwrap_err().to_string(), "VM 0: the backup was cancelled");
    }
}
