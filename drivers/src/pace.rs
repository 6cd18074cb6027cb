//! A limit on bytes per second, shared by everything that a datastore does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Cancel, Progress, Result};

/// What may be moved at once after a rest, seconds of the rate.
const BURST_S: f64 = 0.25;
/// Longest sleep between two looks at the cancel.
const NAP: Duration = Duration::from_millis(100);

/// A rate that callers keep to by asking before they move bytes; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pace(Option<Arc<Mutex<Bucket>>>);

#[derive(Debug)]
struct Bucket {
    bytes_per_s: f64,
    /// Bytes that may be moved now; negative = owed.
    credit: f64,
    counted: Instant,
}

impl Pace {
    /// A limit; none or 0 = as fast as can be.
    #[must_use]
    pub fn new(bytes_per_s: Option<u64>) -> Self {
        let Some(rate) = bytes_per_s.filter(|rate| *rate > 0) else { return Self(None) };
        let bytes_per_s = rate as f64;
        let bucket = Bucket { bytes_per_s, credit: bytes_per_s * BURST_S, counted: Instant::now() };
        Self(Some(Arc::new(Mutex::new(bucket))))
    }

    /// Waits until `bytes` may be moved. Long waits beat in `progress` and end with `cancel`.
    ///
    /// # Errors
    /// Only the cancel.
    pub fn take(&self, bytes: u64, progress: &Progress, cancel: &Cancel) -> Result<()> {
        let Some(bucket) = &self.0 else { return Ok(()) };
        let mut owed = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now());
        while !owed.is_zero() {
            cancel.check()?;
            let nap = owed.min(NAP);
            std::thread::sleep(nap);
            progress.beat();
            owed -= nap;
        }
        Ok(())
    }
}

impl Bucket {
    /// Books `bytes` at `now` and gives how long their mover has to wait.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.counted = now;
        self.credit = (self.credit + passed * self.bytes_per_s).min(self.bytes_per_s * BURST_S) - bytes as f64;
        if self.credit >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.credit / self.bytes_per_s).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_long_time_the_rate_is_kept_and_a_rest_saves_only_a_little() {
        let start = Instant::now();
        let mut bucket = Bucket { bytes_per_s: 1000.0, credit: 0.0, counted: start };
        let mut now = start;
        for _ in 0..100 {
            now += bucket.take(500, now);
        }
        let seconds = now.duration_since(start).as_secs_f64();
        assert!((49.9..50.1).contains(&seconds), "{seconds}");
        now += Duration::from_secs(3600);
        assert_eq!(bucket.take(250, now), Duration::ZERO);
        assert_eq!(bucket.take(1000, now).as_millis(), 1000);
    }

    #[test]
    fn a_cancel_ends_the_wait() {
        let pace = Pace::new(Some(1));
        let cancel = Cancel::default();
        cancel.cancel();
        let error = pace.take(1 << 30, &Progress::default(), &cancel).unwrap_err();
        assert_eq!(error.kind, crate::Kind::Cancelled);
    }
}
