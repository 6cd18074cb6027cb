//! Where each call of a dummy driver asks the script what shall become of it.
//!
//! The script in the file `script.json` of the driver's directory, when there is one, takes the place of the script that
//! the driver was opened with. The file is read at each call, so it can be changed at any time; whoever does renames a
//! whole file onto it. It is no lock: no other call waits while one is delayed or held here. Such a call is silent, as one
//! to a server that hangs: it does not beat.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::script::{Operation, Rule, Script, When};
use crate::{Cancel, DriverError, Kind, Result};

/// Name of the script's file.
pub const SCRIPT_FILE: &str = "script.json";
/// Longest script.
const MAX_SCRIPT_BYTES: u64 = 1 << 20;
/// How long a call that nobody can cancel is held, about as long as the other drivers wait for an answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a call that can be cancelled is held.
const CANCELLABLE_DEADLINE: Duration = Duration::from_secs(3600);
/// How often a held call looks around.
const POLL: Duration = Duration::from_millis(20);

/// The script in force, with the calls that were counted.
pub(super) struct Gate {
    file: PathBuf,
    built_in: Arc<Script>,
    state: Mutex<State>,
}

struct State {
    /// Text of the file; none = there is none.
    text: Option<String>,
    script: Arc<Script>,
    /// For each rule the calls that it fitted.
    calls: Vec<u64>,
}

/// A call under way, and what is still to happen to it.
#[must_use]
pub(super) struct Call<'a> {
    gate: &'a Gate,
    doing: String,
    later: Vec<Rule>,
}

impl Gate {
    /// A gate for a driver in `directory`.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for a script with impossible values.
    pub(super) fn new(directory: &Path, script: Script) -> Result<Self> {
        script.check()?;
        let script = Arc::new(script);
        let state = State { text: None, calls: vec![0; script.rules.len()], script: Arc::clone(&script) };
        Ok(Self { file: directory.join(SCRIPT_FILE), built_in: script, state: Mutex::new(state) })
    }

    /// The script in force now.
    ///
    /// # Errors
    /// [`Kind::Permanent`] when the file is not understood.
    pub(super) fn script(&self) -> Result<Arc<Script>> {
        self.read().map(|state| Arc::clone(&state.script))
    }

    /// Begins `operation` on `subject` (a domain or series, or empty): what the script wants before the work happens here.
    ///
    /// # Errors
    /// The scripted one; [`Kind::Cancelled`]; [`Kind::Retry`] for a held call that nobody let go on.
    pub(super) fn enter(&self, operation: Operation, subject: &str, cancel: Option<&Cancel>) -> Result<Call<'_>> {
        self.enter_while(operation, subject, Wait::of(cancel))
    }

    fn enter_while(&self, operation: Operation, subject: &str, wait: Wait<'_>) -> Result<Call<'_>> {
        let (now, later) = self.fitting(operation, subject)?;
        let doing = if subject.is_empty() { operation.to_string() } else { format!("{operation} of {subject}") };
        let call = Call { gate: self, doing, later };
        now.iter().try_for_each(|rule| call.obey(rule, wait))?;
        Ok(call)
    }

    /// `work` as `operation` on `subject`, with everything that the script wants before and after.
    ///
    /// # Errors
    /// As [`Self::enter`], and those of `work`.
    pub(super) fn around<T>(
        &self,
        operation: Operation,
        subject: &str,
        cancel: Option<&Cancel>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let call = self.enter(operation, subject, cancel)?;
        let value = work()?;
        call.leave(cancel)?;
        Ok(value)
    }

    /// As [`Self::around`] for a call that nobody can cancel, but that fails as soon as `goes_on` does: what it is about went
    /// away.
    ///
    /// # Errors
    /// As [`Self::around`], and those of `goes_on`.
    pub(super) fn around_while<T>(
        &self,
        operation: Operation,
        subject: &str,
        goes_on: &dyn Fn() -> Result<()>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let wait = Wait { goes_on: Some(goes_on), ..Wait::of(None) };
        let call = self.enter_while(operation, subject, wait)?;
        let value = work()?;
        call.later.iter().try_for_each(|rule| call.obey(rule, wait))?;
        Ok(value)
    }

    /// Counts the call, and gives the rules that it brings into force, those before and those after the work.
    fn fitting(&self, operation: Operation, subject: &str) -> Result<(Vec<Rule>, Vec<Rule>)> {
        let mut state = self.read()?;
        let script = Arc::clone(&state.script);
        let mut fitting = Vec::new();
        for (rule, calls) in script.rules.iter().zip(&mut state.calls) {
            if rule.operation == operation && rule.of.as_deref().is_none_or(|name| name == subject) {
                *calls = calls.saturating_add(1);
                if rule.call.is_none_or(|call| call == *calls) {
                    fitting.push(rule.clone());
                }
            }
        }
        Ok(fitting.into_iter().partition(|rule| rule.when == When::Before))
    }

    /// Looks at the file. A changed script begins to count anew.
    fn read(&self) -> Result<MutexGuard<'_, State>> {
        // Under the lock, so that nobody goes back to an older text and loses the count.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = self.text()?;
        if text != state.text {
            let script = match &text {
                None => Arc::clone(&self.built_in),
                Some(text) => Arc::new(
                    Script::parse(text)
                        .map_err(|error| DriverError { doing: format!("reading {}", self.file.display()), ..error })?,
                ),
            };
            *state = State { text, calls: vec![0; script.rules.len()], script };
        }
        Ok(state)
    }

    fn text(&self) -> Result<Option<String>> {
        let failed = |error| DriverError::io(format!("reading {}", self.file.display()), error);
        let file = match std::fs::File::open(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mut text = String::new();
        file.take(MAX_SCRIPT_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_SCRIPT_BYTES {
            let reason = format!("it is longer than {MAX_SCRIPT_BYTES} bytes");
            return Err(DriverError::new(Kind::Permanent, format!("reading {}", self.file.display()), reason));
        }
        Ok(Some(text))
    }
}

impl Call<'_> {
    /// Ends the call: what the script wants after the work happens here.
    ///
    /// # Errors
    /// As [`Gate::enter`].
    pub(super) fn leave(self, cancel: Option<&Cancel>) -> Result<()> {
        self.later.iter().try_for_each(|rule| self.obey(rule, Wait::of(cancel)))
    }

    fn obey(&self, rule: &Rule, wait: Wait<'_>) -> Result<()> {
        wait.pause(Duration::from_millis(rule.delay_ms))?;
        if rule.until_cancelled {
            return self.hold(rule, wait);
        }
        match &rule.fail {
            None => Ok(()),
            Some(fault) => Err(DriverError::new(fault.kind.into(), &*self.doing, &*fault.reason)),
        }
    }

    /// Waits until the rule is taken back.
    fn hold(&self, rule: &Rule, wait: Wait<'_>) -> Result<()> {
        let limit = if wait.cancel.is_some() { CANCELLABLE_DEADLINE } else { DEADLINE };
        let since = Instant::now();
        while since.elapsed() < limit {
            if !self.gate.script()?.rules.contains(rule) {
                return Ok(());
            }
            wait.pause(POLL)?;
        }
        let reason = format!("there was no answer within {} s, as the script wants", limit.as_secs());
        Err(DriverError::new(Kind::Retry, &*self.doing, reason))
    }
}

/// What ends a wait early.
#[derive(Clone, Copy)]
struct Wait<'a> {
    cancel: Option<&'a Cancel>,
    goes_on: Option<&'a dyn Fn() -> Result<()>>,
}

impl<'a> Wait<'a> {
    fn of(cancel: Option<&'a Cancel>) -> Self {
        Self { cancel, goes_on: None }
    }

    /// Sleeps.
    fn pause(self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.cancel.map_or(Ok(()), Cancel::check)?;
            self.goes_on.map_or(Ok(()), |goes_on| goes_on())?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }
}
