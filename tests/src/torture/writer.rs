//! The guests' writes: one after the other on all disks, as long as a round's backups run.
//!
//! Each write is told to the disk's history before it is made, and flushed before it counts as done. One that fails because
//! libvirtd is away is made again; one that fails because its QEMU is dead stays undone.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::history::History;
use crate::bench::content::Numbers;
use crate::command::wait_for;
use crate::libvirtd::Libvirtd;

/// Places of writes begin at multiples of this.
const STEP: usize = 4096;
/// Lengths of writes.
const LENGTHS: [usize; 4] = [STEP, 16 * STEP, 64 * STEP, 100 * STEP];
/// How long a write may be tried again: libvirtd comes back within a round.
const PATIENCE: Duration = Duration::from_secs(180);

/// A disk that is written to.
#[derive(Debug)]
pub struct Disk {
    domain: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    history: History,
    /// Whether its guest runs, as far as is known.
    runs: bool,
}

impl Disk {
    /// The first disk, all zeros, of a domain that runs.
    #[must_use]
    pub fn new(domain: &str, bytes: usize) -> Self {
        let state = State { history: History::new(bytes), runs: true };
        Self { domain: domain.to_owned(), state: Mutex::new(state) }
    }

    /// Its history, for as long as the answer lives.
    pub fn with_history<T>(&self, ask: impl FnOnce(&mut History) -> T) -> T {
        ask(&mut self.lock().history)
    }

    /// Whether its guest runs, as far as is known.
    pub fn runs(&self) -> bool {
        self.lock().runs
    }

    /// The guest was started, or is off.
    pub fn set_running(&self, runs: bool) {
        self.lock().runs = runs;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_one(&self, libvirtd: &Libvirtd, numbers: &mut Numbers) -> Result<()> {
        let (offset, length, value) = {
            let mut state = self.lock();
            if !state.runs {
                return Ok(());
            }
            let length = LENGTHS[numbers.draw() as usize % LENGTHS.len()];
            let places = (state.history.size_bytes() - length) / STEP + 1;
            let (offset, value) = (numbers.draw() as usize % places * STEP, numbers.draw() as u8);
            state.history.begin(offset, length, value);
            (offset, length, value)
        };
        let written = wait_for("a write to be made", PATIENCE, || {
            let made = libvirtd
                .write(&self.domain, "vda", value, offset as u64, length as u64)
                .and_then(|()| libvirtd.qemu_io(&self.domain, "vda", "flush"));
            match made {
                Ok(_) => Ok(Some(true)),
                Err(_) if !is_alive(libvirtd, &self.domain) => Ok(Some(false)),
                Err(_) => Ok(None),
            }
        });
        let mut state = self.lock();
        if written.with_context(|| format!("writing to {}", self.domain))? {
            state.history.done(now_ms());
        } else {
            state.runs = false;
        }
        Ok(())
    }
}

/// Writes to the disks in turn until told to stop.
///
/// # Errors
/// When a write to a living guest cannot be made.
pub fn write_until(stop: &AtomicBool, libvirtd: &Libvirtd, disks: &[&Disk], seed: u64) -> Result<()> {
    let mut numbers = Numbers::new(seed);
    while !stop.load(Ordering::Acquire) {
        for disk in disks {
            disk.write_one(libvirtd, &mut numbers)?;
        }
        // Mostly for a round in which nobody runs.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Whether the domain's QEMU lives.
#[must_use]
pub fn is_alive(libvirtd: &Libvirtd, domain: &str) -> bool {
    libvirtd.domain_pid(domain).is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}

/// Milliseconds of the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
