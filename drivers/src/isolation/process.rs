//! The processes of one datastore: started when needed, given up when they hang, waited for by nobody but a thread of
//! their own.
//!
//! A process that waits for a dead server may outlive its SIGKILL until the server is back. So nothing here waits for an
//! end, and the number of such processes is limited.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::passing;
use crate::{DriverError, Kind, Result, Secret};

/// Longest configuration, bytes. Less than a socket holds, so sending it never waits for the process.
pub(super) const MAX_CONFIG_BYTES: usize = 64 << 10;
/// Processes that were killed and are still there, before no other is started.
const MAX_HANGING: usize = 2;

/// How to start the process of a datastore, which must call [`super::serve`] with its standard input.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program; `/proc/self/exe` is this one, also after its file was replaced.
    pub program: PathBuf,
    /// Its arguments: everybody can read them.
    pub args: Vec<String>,
    /// Its name in lists of processes (`argv[0]`).
    pub name: String,
    /// Added to this process's environment: no secrets.
    pub environment: Vec<(String, String)>,
    /// What [`super::serve`] hands to its opener, at most 64 KiB. Goes over a socket only.
    pub config: Secret,
    /// The datastore in errors: `datastore 100 (nas:/backup)`.
    pub shown: String,
    /// How long it may be silent before it is given up.
    pub silence: Duration,
    /// Lowers its priority, 0 to 19: that of the processor, and with it that of the disk, which the kernel takes from it
    /// unless a process chose one (ioprio_set(2)).
    pub nice: u8,
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    control: UnixStream,
    given_up: OnceLock<()>,
    /// Set when it has ended; its number is another's then. Held while a signal is sent.
    ended: Arc<Mutex<Option<String>>>,
}

impl Process {
    fn start(launch: &Launch) -> Result<Arc<Self>> {
        let doing = || format!("starting the process of {}", launch.shown);
        let failed = |error| DriverError::io(doing(), error);
        if launch.config.expose().len() > MAX_CONFIG_BYTES {
            return Err(DriverError::new(Kind::Permanent, doing(), "its configuration is longer than 64 KiB"));
        }
        let (mut control, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(&launch.program);
        command
            .arg0(&launch.name)
            .args(&launch.args)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)));
        // A group of its own: keys on the daemon's terminal are not for it.
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).process_group(0);
        let child = command.spawn().map_err(failed)?;
        drop(command);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| DriverError::new(Kind::Permanent, doing(), "it has no process number"))?;
        // Fits into the socket, so this does not wait.
        let config = launch.config.expose().as_bytes();
        let length = u32::try_from(config.len()).unwrap_or(0);
        let sent = control
            .write_all(&[launch.nice.min(19)])
            .and_then(|()| control.write_all(&length.to_le_bytes()))
            .and_then(|()| control.write_all(config));
        let process = Arc::new(Self { pid, control, given_up: OnceLock::new(), ended: Arc::default() });
        reap(pid, child, Arc::clone(&process.ended)).map_err(failed)?;
        if let Err(error) = sent {
            process.give_up();
            return Err(failed(error));
        }
        Ok(process)
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Hands sockets to it.
    pub(super) fn send(&self, sockets: &[OwnedFd]) -> io::Result<()> {
        passing::send(&self.control, sockets)
    }

    /// How it ended, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        lock(&self.ended).clone()
    }

    /// Waits for its end, at most for `limit`; whether it came.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while self.ended().is_none() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Whether it was killed by us.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.get().is_some()
    }

    /// Kills it. Returns at once; the end may come late or never.
    pub(super) fn give_up(&self) {
        // The first time only.
        if self.given_up.set(()).is_ok() {
            let ended = lock(&self.ended);
            if ended.is_none() {
                let _ = kill_process(self.pid, Signal::KILL);
            }
        }
    }
}

/// Waits for the end on a thread that nobody waits for. It keeps nothing open that the process waits on.
fn reap(pid: Pid, mut child: Child, ended: Arc<Mutex<Option<String>>>) -> io::Result<()> {
    std::thread::Builder::new().name("datastore-reap".to_owned()).spawn(move || {
        // Without taking the number away from it, so that no signal goes to a stranger.
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {
        }
        let mut ended = lock(&ended);
        let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        *ended = Some(status);
    })?;
    Ok(())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operation that its caller does not wait for any more.
#[derive(Debug)]
struct Left {
    series: String,
    process: Arc<Process>,
    over: Arc<OnceLock<()>>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Process>>,
    hanging: Vec<Arc<Process>>,
    left: Vec<Left>,
}

/// The processes of a datastore.
#[derive(Debug)]
pub(super) struct Processes {
    launch: Launch,
    state: Mutex<State>,
}

impl Processes {
    pub(super) fn new(launch: Launch) -> Self {
        Self { launch, state: Mutex::default() }
    }

    pub(super) fn launch(&self) -> &Launch {
        &self.launch
    }

    /// The running process, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Process>> {
        lock(&self.state).current.clone().filter(|process| process.ended().is_none() && !process.is_given_up())
    }

    /// The running process, or a new one.
    ///
    /// # Errors
    /// [`Kind::Retry`] while too many hang; when it cannot be started.
    pub(super) fn obtain(&self, doing: &str) -> Result<Arc<Process>> {
        let mut state = lock(&self.state);
        state.hanging.retain(|process| process.ended().is_none());
        if let Some(process) = state.current.take_if(|process| process.is_given_up() || process.ended().is_some())
            && process.ended().is_none()
        {
            state.hanging.push(process);
        }
        if let Some(process) = &state.current {
            return Ok(Arc::clone(process));
        }
        if state.hanging.len() >= MAX_HANGING {
            let pids: Vec<String> = state.hanging.iter().map(|process| process.pid().to_string()).collect();
            let reason = format!(
                "processes {} of it were killed and still wait for its server; make the server reachable or unmount it by force",
                pids.join(" and ")
            );
            return Err(DriverError::new(Kind::Retry, doing, reason));
        }
        let process = Process::start(&self.launch)?;
        tracing::debug!(pid = process.pid(), "the process of {} runs", self.launch.shown);
        state.current = Some(Arc::clone(&process));
        Ok(process)
    }

    /// Notes that an operation on `series` goes on in `process` without its caller, until the returned flag is set or the
    /// process is gone.
    pub(super) fn leave(&self, series: Option<&str>, process: &Arc<Process>) -> Arc<OnceLock<()>> {
        let over = Arc::new(OnceLock::new());
        if let Some(series) = series {
            let left = Left { series: series.to_owned(), process: Arc::clone(process), over: Arc::clone(&over) };
            lock(&self.state).left.push(left);
        }
        over
    }

    /// Refuses a call on a series on which such an operation still works: it could still publish what the call would not
    /// find.
    ///
    /// # Errors
    /// Only that one, [`Kind::Retry`].
    pub(super) fn refuse_left(&self, doing: &str, series: &str) -> Result<()> {
        let mut state = lock(&self.state);
        state.left.retain(|left| left.over.get().is_none() && left.process.ended().is_none());
        match state.left.iter().find(|left| left.series == series) {
            None => Ok(()),
            Some(left) => {
                let pid = left.process.pid();
                let reason =
                    format!("an operation on series {series} that was given up has not ended yet (process {pid})");
                Err(DriverError::new(Kind::Retry, doing, reason))
            }
        }
    }
}
