//! How far it is, on standard error: bars on a terminal, plain lines elsewhere.
//!
//! A line in all, and a bar for each part when there are two and more. All of it fits 80 columns: the bars take what names
//! and figures leave.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::{Part, Progress, Scene};
use crate::terminal::{self, complain, one_line};
use crate::units;

/// Time between two plain lines.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Time between two plain lines that say the same.
const REPEAT_EVERY: Duration = Duration::from_secs(30);

/// The rate is that of so much time, so that it follows what happens.
const RATE_OVER: Duration = Duration::from_secs(15);

/// Most bars below the line in all; more would leave no room for what is above.
const PARTS_MAX: usize = 10;

/// Longest name in front of a bar; a longer one gets its line without a bar.
const NAME_MAX: usize = 26;

/// Shows progress; bars vanish when this is dropped.
pub(super) struct Teller {
    subject: String,
    stage: Option<Stage>,
    last_told: Option<(Instant, String)>,
    rate: Rate,
}

impl Teller {
    pub(super) fn new(subject: &str) -> Self {
        let stage = (io::stderr().is_terminal() && terminal::can_draw()).then(Stage::new);
        Self { subject: subject.to_owned(), stage, last_told: None, rate: Rate::default() }
    }

    /// The bars, on a terminal.
    pub(super) fn bars(&self) -> Option<&MultiProgress> {
        self.stage.as_ref().map(|stage| &stage.multi)
    }

    pub(super) fn tell(&mut self, scene: &Scene) {
        scene.news.iter().for_each(|news| self.tell_news(news));
        match &mut self.stage {
            Some(stage) => stage.show(&self.subject, scene),
            None => self.tell_line(&scene.phrase, scene.progress),
        }
    }

    /// A line that stays, above the bars if there are some.
    pub(super) fn tell_news(&self, news: &str) {
        let line = format!("{}: {news}", self.subject);
        match &self.stage {
            Some(stage) => stage.multi.suspend(|| complain(&line)),
            None => complain(&line),
        }
    }

    fn tell_line(&mut self, phrase: &str, progress: Option<Progress>) {
        let now = Instant::now();
        let figures = progress.map(|progress| format!(" {}", figures(progress, self.rate.of(now, progress.done))));
        let figures = figures.unwrap_or_default();
        let line = format!("{}: {phrase}{figures}", self.subject);
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
        if let Some(stage) = &mut self.stage {
            stage.parts.drain(..).for_each(|(_, bar)| bar.bar.finish_and_clear());
            stage.all.bar.finish_and_clear();
        }
    }
}

/// What is on the terminal.
struct Stage {
    multi: MultiProgress,
    all: Bar,
    /// By name.
    parts: Vec<(String, Bar)>,
    /// Width of the terminal, which may change.
    columns: fn() -> usize,
}

/// Narrower terminals have words and no bars.
const COLUMNS_MIN: usize = 72;

/// The terminal of standard error, less what the kernel writes behind a full line: `^C` would move to the next one, and the
/// line before it would stay. What is drawn is written at once when it is flushed.
#[derive(Debug, Default)]
struct Screen(Mutex<String>);

impl Screen {
    const EDGE: u16 = 3;

    fn size() -> (u16, u16) {
        let size = rustix::termios::tcgetwinsize(io::stderr()).map(|size| (size.ws_col, size.ws_row));
        size.ok().filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24))
    }

    fn drawn(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        self.drawn().push_str(text);
        Ok(())
    }

    /// Moving by nothing would move by one.
    fn moved(&self, count: usize, letter: char) -> io::Result<()> {
        if count == 0 { Ok(()) } else { self.write(&format!("\x1b[{count}{letter}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        Self::size().0.saturating_sub(Self::EDGE).max(1)
    }
    fn height(&self) -> u16 {
        Self::size().1
    }
    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'A')
    }
    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'B')
    }
    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'C')
    }
    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.moved(count, 'D')
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write(&format!("{text}\n"))
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.write(text)
    }
    fn clear_line(&self) -> io::Result<()> {
        self.write("\r\x1b[2K")
    }
    fn flush(&self) -> io::Result<()> {
        io::stderr().write_all(std::mem::take(&mut *self.drawn()).as_bytes())
    }
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Words only.
    Words,
    /// Name, bar, figures.
    Bar,
}

struct Bar {
    bar: ProgressBar,
    form: Form,
    rate: Rate,
}

impl Stage {
    fn new() -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(Screen::default())));
        let all = Bar::words(multi.add(ProgressBar::new(0)));
        all.bar.enable_steady_tick(Duration::from_millis(200));
        Self { multi, all, parts: Vec::new(), columns: || Screen::size().0.into() }
    }

    fn show(&mut self, subject: &str, scene: &Scene) {
        let parts = if scene.parts.len() > 1 { &scene.parts[..scene.parts.len().min(PARTS_MAX)] } else { &[] };
        self.parts.retain(|(name, bar)| {
            let stays = parts.iter().any(|part| part.name == *name);
            if !stays {
                bar.bar.finish_and_clear();
                self.multi.remove(&bar.bar);
            }
            stays
        });
        let phrase = scene.brief.as_ref().filter(|_| !parts.is_empty()).unwrap_or(&scene.phrase);
        let name = one_line(&format!("{subject}: {phrase}"));
        let names = parts.iter().map(|part| part.name.len() + INDENT.len()).chain([name.len()]);
        let width = names.filter(|length| *length <= NAME_MAX).max().unwrap_or(0);
        let has_room = (self.columns)() >= COLUMNS_MIN;
        self.all.show(&name, width, has_room, scene.progress);
        for part in parts {
            self.part(part).show(&format!("{INDENT}{}", one_line(&part.name)), width, has_room, part.progress);
        }
    }

    fn part(&mut self, part: &Part) -> &mut Bar {
        let at = self.parts.iter().position(|(name, _)| *name == part.name).unwrap_or_else(|| {
            self.parts.push((part.name.clone(), Bar::words(self.multi.add(ProgressBar::new(0)))));
            self.parts.len() - 1
        });
        &mut self.parts[at].1
    }
}

/// In front of the names of parts.
const INDENT: &str = "  ";

impl Bar {
    fn words(bar: ProgressBar) -> Self {
        bar.set_style(style(Form::Words));
        Self { bar, form: Form::Words, rate: Rate::default() }
    }

    fn show(&mut self, name: &str, width: usize, has_room: bool, progress: Option<Progress>) {
        // As long as nobody knows how much there is, there is nothing to show a share of.
        let progress = progress.filter(|progress| progress.total > 0 || progress.done > 0);
        let (done, total) = progress.map_or((0, 0), |progress| (progress.done, progress.total.max(progress.done)));
        let has_share = progress.is_some_and(|progress| progress.total > 0);
        let form = if has_share && name.len() <= NAME_MAX && has_room { Form::Bar } else { Form::Words };
        self.bar.set_length(total);
        self.bar.set_position(done);
        let figures = progress.map(|progress| figures(progress, self.rate.of(Instant::now(), progress.done)));
        let figures = figures.unwrap_or_default();
        if form != self.form {
            self.bar.set_style(style(form));
            self.form = form;
        }
        match form {
            Form::Bar => {
                self.bar.set_prefix(format!("{name:width$}"));
                self.bar.set_message(figures);
            }
            Form::Words => self.bar.set_message(format!("{name} {figures}").trim_end().to_owned()),
        }
    }
}

/// The templates are constants; should indicatif ever reject them, its own default is good enough.
fn style(form: Form) -> ProgressStyle {
    let template = match form {
        Form::Words => "{wide_msg}",
        Form::Bar => "{prefix} [{wide_bar}] {msg:44}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// What was seen of late: when, and how many bytes were done.
#[derive(Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Takes in a look; bytes per second, once there is something to say.
    fn of(&mut self, now: Instant, done: u64) -> Option<f64> {
        // A daemon that was restarted counts anew.
        if self.0.back().is_some_and(|(_, before)| *before > done) {
            self.0.clear();
        }
        self.0.push_back((now, done));
        while self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER) {
            self.0.pop_front();
        }
        let (since, from) = *self.0.front()?;
        let seconds = now.duration_since(since).as_secs_f64();
        (done > from && seconds >= 1.0).then(|| (done - from) as f64 / seconds)
    }
}

/// `12M of 100M (12%), 4.2M/s, 21s left`
fn figures(progress: Progress, rate: Option<f64>) -> String {
    let size = |bytes: u64| units::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
    let mut text = size(progress.done);
    if progress.total > 0 {
        let percent = u128::from(progress.done) * 100 / u128::from(progress.total);
        text.push_str(&format!(" of {} ({percent}%)", size(progress.total)));
    }
    let is_over = progress.total > 0 && progress.done >= progress.total;
    if let Some(rate) = rate.filter(|_| !is_over) {
        text.push_str(&format!(", {}/s", size(rate as u64)));
        if progress.total > progress.done {
            let left = (progress.total - progress.done) as f64 / rate;
            text.push_str(&format!(", {} left", units::duration(left as i64)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A terminal of 80 columns that remembers what was written, wherever.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }
        fn height(&self) -> u16 {
            24
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn figures_show_share_rate_and_time_left() {
        let progress = Progress { done: 30 << 20, total: 100 << 20 };
        assert_eq!(figures(progress, Some(2_097_152.0)), "30M of 100M (30%), 2M/s, 35s left");
        assert_eq!(figures(progress, None), "30M of 100M (30%)");
        assert_eq!(figures(Progress { done: 5, total: 0 }, None), "5B");
        assert_eq!(figures(Progress { done: 5, total: 5 }, Some(2.0)), "5B of 5B (100%)");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_begins_anew_with_the_daemon() {
        let (begin, mut rate) = (Instant::now(), Rate::default());
        let mut at = |seconds: u64, done: u64| rate.of(begin + Duration::from_secs(seconds), done);
        assert_eq!((at(0, 100), at(0, 150), at(2, 300)), (None, None, Some(100.0)));
        assert_eq!(at(3, 300), Some(200.0 / 3.0));
        // What was long ago does not count.
        assert_eq!((at(20, 300), at(30, 300)), (None, None));
        assert_eq!((at(31, 50), at(32, 50), at(33, 70)), (None, None, Some(10.0)));
    }

    fn stage() -> (Stage, Paper) {
        let screen = Paper::default();
        let mut stage = Stage::new();
        stage.columns = || 80;
        stage.all.bar.disable_steady_tick();
        stage.multi.set_draw_target(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        (stage, screen)
    }

    /// The lines of one drawing. A line fills the width, and the next one follows without a line break.
    fn drawn(stage: &Stage, screen: &Paper) -> Vec<String> {
        stage.parts.iter().map(|(_, bar)| &bar.bar).chain([&stage.all.bar]).for_each(ProgressBar::tick);
        screen.0.lock().unwrap().clear();
        // Forced: a drawing that follows another too soon may be left out.
        stage.multi.suspend(|| ());
        let written = screen.0.lock().unwrap().clone();
        let lines = written.lines().flat_map(|line| line.as_bytes().chunks(80));
        let lines = lines.map(|line| String::from_utf8(line.to_vec()).unwrap().trim().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn part(name: &str, done: u64, total: u64) -> Part {
        Part { name: name.into(), progress: Some(Progress { done, total }) }
    }

    #[test]
    fn two_disks_have_bars_of_their_own_that_fit_80_columns() {
        let (mut stage, screen) = stage();
        let scene = Scene {
            phrase: "backup".into(),
            progress: Some(Progress { done: 60 << 20, total: 400 << 20 }),
            parts: vec![part("disk 0", 50 << 20, 100 << 20), part("disk 1", 10 << 20, 300 << 20)],
            ..Scene::default()
        };
        stage.show("VM 0", &scene);
        let lines = drawn(&stage, &screen);
        assert_eq!(lines.len(), 3, "{lines:#?}");
        for (line, begin, figures) in [
            (&lines[0], "VM 0: backup [", "60M of 400M (15%)"),
            (&lines[1], "disk 0     [", "50M of 100M (50%)"),
            (&lines[2], "disk 1     [", "10M of 300M (3%)"),
        ] {
            assert!(line.starts_with(begin) && line.contains(figures) && line.len() <= 80, "{line:?}");
        }
        // A disk alone needs no second line.
        stage.show("VM 0", &Scene { parts: scene.parts[..1].to_vec(), ..scene });
        let lines = drawn(&stage, &screen);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    #[test]
    fn no_phrase_and_no_name_moves_the_cursor() {
        let (mut stage, screen) = stage();
        let hostile = "x\u{1b}[2J\u{9b}2J\r";
        let scene = Scene {
            phrase: hostile.into(),
            progress: Some(Progress { done: 1, total: 2 }),
            parts: vec![part(hostile, 1, 2), part("disk 1", 1, 2)],
            ..Scene::default()
        };
        stage.show("VM 0", &scene);
        let lines = drawn(&stage, &screen);
        assert!(lines[0].starts_with("VM 0: x [2J 2J") && lines[1].starts_with("x [2J 2J"), "{lines:?}");
        assert!(!lines.concat().chars().any(char::is_control), "{lines:?}");
    }

    #[test]
    fn a_narrow_terminal_has_words_and_no_bars() {
        let (mut stage, screen) = stage();
        let parts = vec![part("disk 0", 50 << 20, 100 << 20), part("disk 1", 0, 300 << 20)];
        let scene = Scene { phrase: "backup".into(), parts, progress: None, ..Scene::default() };
        stage.columns = || 40;
        stage.show("VM 0", &scene);
        assert_eq!(drawn(&stage, &screen), ["VM 0: backup", "disk 0 50M of 100M (50%)", "disk 1 0B of 300M (0%)"]);
        stage.columns = || 80;
        stage.show("VM 0", &scene);
        assert!(drawn(&stage, &screen)[1].starts_with("disk 0     ["));
    }

    #[test]
    fn a_long_phrase_is_cut_and_many_parts_are_not_all_shown() {
        let (mut stage, screen) = stage();
        let scene = Scene {
            phrase: "0 of 300 VMs done, backing up 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23".into(),
            brief: Some("0 of 300 VMs done".into()),
            progress: Some(Progress { done: 0, total: 0 }),
            parts: (0..30).map(|vm| Part { name: format!("VM {vm}"), progress: None }).collect(),
            ..Scene::default()
        };
        stage.show("Backup job 0", &scene);
        let shown = drawn(&stage, &screen);
        assert_eq!(shown.len(), 1 + PARTS_MAX, "{shown:?}");
        assert_eq!(shown[0], "Backup job 0: 0 of 300 VMs done");
        stage.show("Backup job 0", &Scene { parts: Vec::new(), ..scene });
        let shown = drawn(&stage, &screen);
        assert!(shown.len() == 1 && shown[0].len() <= 80, "{shown:?}");
    }
}
