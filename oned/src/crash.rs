//! Named points at which a test may pull the plug. Without the feature `testing` they are nothing at all.

/// Ends the process as a power cut would (no destructors, no flushing), when the environment variable KEEPLAST_CRASH_AT
/// names this point; `name:n` waits for the n-th time it is reached.
#[cfg(feature = "testing")]
pub fn point(name: &str) {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};
    static REACHED: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);
    let Ok(wanted) = std::env::var("KEEPLAST_CRASH_AT") else { return };
    let (wanted, time) = wanted.split_once(':').map_or((wanted.as_str(), 1), |(w, n)| (w, n.parse().unwrap_or(1)));
    if wanted != name {
        return;
    }
    let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    let count = reached.get_or_insert_with(HashMap::new).entry(name.to_string()).or_default();
    *count += 1;
    if *count == time {
        tracing::warn!(target: "ONE", "Crash point {name} reached.");
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub fn point(_name: &str) {}
