//! Work that may block for longer than anybody wants to wait.
//!
//! libvirt answers when QEMU answers, and has no time-outs of its own for most calls. So the work runs on a thread of
//! its own; who waits gives up in time. The thread cannot be stopped: when it is done after all, what it made goes to a
//! function that undoes it.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::{DriverError, Kind, Result};

/// Runs `work` and waits for it at most for `limit`; a result that comes later goes to `late`.
///
/// # Errors
/// What `work` says; [`Kind::Retry`] when it does not end in time.
pub(super) fn within<T: Send + 'static>(
    doing: &str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    late: impl FnOnce(T) + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name("libvirt-call".into())
        .spawn(move || {
            if let Err(unsent) = sender.send(work())
                && let Ok(made) = unsent.0
            {
                late(made);
            }
        })
        .map_err(|error| DriverError::io(doing, error))?;
    receiver.recv_timeout(limit).unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => {
                let reason = format!("libvirt did not answer within {} s", limit.as_secs());
                DriverError::new(Kind::Retry, doing, reason)
            }
            RecvTimeoutError::Disconnected => {
                DriverError::new(Kind::Permanent, doing, "the thread that made the call died; see the log")
            }
        })
    })
}

/// Asks `done` again and again until it says yes; false when `limit` passed first.
///
/// # Errors
/// The first error of `done`.
pub(super) fn poll(limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if done()? {
            return Ok(true);
        }
        let now = Instant::now();
        if now >= end {
            return Ok(false);
        }
        std::thread::sleep(pause.min(end - now));
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_comes_too_late_is_handed_over_to_be_undone() {
        let (go, gone) = channel::<()>();
        let (undone, undo) = channel();
        let work = move || {
            let _ = gone.recv();
            Ok(7)
        };
        let error = within("x", Duration::from_millis(20), work, move |made| undone.send(made).unwrap()).unwrap_err();
        assert_eq!(error.kind, Kind::Retry);
        drop(go);
        assert_eq!(undo.recv_timeout(Duration::from_secs(30)), Ok(7));
    }

    #[test]
    fn a_panicking_call_is_an_error() {
        let error = within::<()>("x", Duration::from_secs(30), || panic!("boom"), drop).unwrap_err();
        assert_eq!(error.kind, Kind::Permanent);
    }

    #[test]
    fn polling_ends_with_yes_no_or_the_error() {
        let mut left = 3;
        let done = poll(Duration::from_secs(30), || {
            left -= 1;
            Ok(left == 0)
        });
        assert!(done.unwrap());
        assert!(!poll(Duration::ZERO, || Ok(false)).unwrap());
        assert!(poll(Duration::from_secs(30), || Err(DriverError::cancelled())).is_err());
    }
}
