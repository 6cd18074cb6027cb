//! The log: lines as `oned.log` has them in OpenNebula, to stderr and to a file in the state directory.
//!
//! `Fri Nov 20 18:11:42 2026 [Z0][ReM][D]: call method=one.vm.info uid=0 code=0 ms=1`: date, zone id, the part of the
//! daemon, the level, the text and its fields. The part is the event's target if it is a plain word, else the module
//! under the crate.
//!
//! Invariants: an event is one line whatever its text holds, so no client can forge lines; a panic is logged with its
//! place but without its message, since messages may quote what was being worked on.

use crate::clock::Clock;
use chrono::DateTime;
use chrono_tz::Tz;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable that wins over LOG/DEBUG_LEVEL; as in `info,ReM=debug`.
pub const VARIABLE: &str = "KEEPLAST_LOG";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("Cannot open the log {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// What stood in the way.
        source: io::Error,
    },
    /// The variable cannot be understood.
    #[error("KEEPLAST_LOG is \"{text}\", but must be like \"info\" or \"info,ReM=debug\".")]
    Variable {
        /// Its content.
        text: String,
    },
    /// A log is there already in this process.
    #[error("The log was started twice.")]
    Twice,
}

/// Starts the log of the process: stderr, and `file` (appended to, mode 0640).
///
/// # Errors
/// When the file cannot be opened or the variable not be understood.
pub fn start(file: &Path, debug_level: u8, zone: Tz, clock: Arc<dyn Clock>) -> Result<(), LogError> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o640).open(file);
    let opened: File = opened.map_err(|source| LogError::Open { path: file.display().to_string(), source })?;
    let look = Look { zone, clock };
    tracing_subscriber::registry()
        .with(filter(std::env::var(VARIABLE).ok().as_deref(), debug_level)?)
        .with(layer().event_format(look.clone()).with_writer(io::stderr))
        .with(layer().event_format(look).with_writer(Mutex::new(opened)))
        .try_init()
        .map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "unknown place".to_owned(), ToString::to_string);
        tracing::error!(target: "ONE", %place, "a thread panicked");
    }));
    Ok(())
}

fn filter(variable: Option<&str>, debug_level: u8) -> Result<EnvFilter, LogError> {
    match variable.filter(|text| !text.trim().is_empty()) {
        Some(text) => EnvFilter::try_new(text).map_err(|_| LogError::Variable { text: text.to_owned() }),
        None => Ok(EnvFilter::new(match debug_level {
            0 => "error",
            1 => "warn",
            2 => "info",
            // The libraries' own debug lines are of use to their authors only.
            3 => "debug,log=info,hyper=info,hyper_util=info,mio=info,rustic_core=warn,rustic_backend=warn,opendal=warn",
            _ => "trace,log=info,hyper=info,hyper_util=info,mio=info",
        })),
    }
}

/// The form of a line.
#[derive(Clone)]
struct Look {
    zone: Tz,
    clock: Arc<dyn Clock>,
}

impl<S, N> FormatEvent<S, N> for Look
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(
            writer,
            "{} [Z0][{}][{}]: {}{}",
            date(self.clock.now(), self.zone),
            part(metadata.target()),
            letter(*metadata.level()),
            fields.message,
            fields.rest
        )
    }
}

/// As ctime(3) writes it, without the newline.
fn date(now: i64, zone: Tz) -> String {
    let time = DateTime::from_timestamp(now, 0).unwrap_or_default();
    time.with_timezone(&zone).format("%a %b %e %H:%M:%S %Y").to_string()
}

fn part(target: &str) -> &str {
    let mut words = target.split("::");
    let first = words.next().unwrap_or(target);
    match words.next() {
        Some("rpc") => "ReM",
        Some(module) => module,
        None => first,
    }
}

fn letter(level: Level) -> char {
    match level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        Level::INFO => 'I',
        Level::DEBUG => 'D',
        _ => 'T',
    }
}

/// The text and the fields of an event, on one line.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            push_on_one_line(&mut self.message, text);
        } else if !field.name().starts_with("log.") {
            let _ = write!(self.rest, " {}=", field.name());
            push_on_one_line(&mut self.rest, text);
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

fn push_on_one_line(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(zone: Tz, write: impl FnOnce()) -> String {
        let sink = Sink::default();
        let copy = sink.clone();
        let look = Look { zone, clock: Arc::new(ManualClock::new(1_795_198_302)) };
        let layer = layer().event_format(look).with_writer(move || copy.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), write);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_looks_as_in_oned_log() {
        let lines = logged(Tz::UTC, || {
            tracing::info!(target: "VM", "text");
            tracing::debug!(target: "ReM", method = "one.vm.info", uid = 0, code = -1, "call");
            tracing::warn!("from a module");
        });
        assert_eq!(
            lines,
            "Fri Nov 20 18:11:42 2026 [Z0][VM][I]: text\n\
             Fri Nov 20 18:11:42 2026 [Z0][ReM][D]: call method=one.vm.info uid=0 code=-1\n\
             Fri Nov 20 18:11:42 2026 [Z0][log][W]: from a module\n"
        );
        let there = logged(Tz::Asia__Tokyo, || tracing::error!(target: "ONE", "x"));
        assert!(there.starts_with("Sat Nov 21 03:11:42 2026 [Z0][ONE][E]: x"), "{there}");
    }

    #[test]
    fn no_text_can_forge_a_line() {
        let lines = logged(Tz::UTC, || {
            tracing::info!(name = "a\nb\u{1b}[2J\u{2028}", "one\r\ntwo");
        });
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains("one\\r\\ntwo name=a\\nb\\u{1b}[2J\\u{2028}"), "{lines}");
    }

    #[test]
    fn the_variable_wins_and_a_wrong_one_is_named() {
        assert_eq!(filter(Some("ReM=debug"), 0).unwrap().to_string(), "ReM=debug");
        assert_eq!(filter(Some(" "), 0).unwrap().to_string(), "error");
        let error = filter(Some("a=b=c"), 0).unwrap_err().to_string();
        assert!(error.contains("a=b=c"), "{error}");
    }
}
