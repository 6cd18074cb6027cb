//! Points at which a test may pull the plug, named in the code. Without the feature `testing` they are nothing at all.

/// Ends the process as a power cut would (no destructors, no flushing) where the environment variable KEEPLAST_CRASH_AT says:
/// `name` at the point of that name, `name:n` when it is reached for the n-th time, `any:n` or a number alone at the n-th
/// point that the process reaches, whatever it is called.
#[cfg(feature = "testing")]
pub fn point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: LazyLock<Option<Wanted>> =
        LazyLock::new(|| std::env::var("KEEPLAST_CRASH_AT").ok().map(|text| Wanted::parse(&text)));
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let Some(wanted) = WANTED.as_ref().filter(|wanted| wanted.name.as_deref().is_none_or(|wanted| wanted == name))
    else {
        return;
    };
    if REACHED.fetch_add(1, Ordering::SeqCst) + 1 == wanted.time {
        tracing::warn!(target: "ONE", "Crash point {name} reached.");
        std::process::abort();
    }
}

/// Where the plug is to be pulled.
#[cfg(feature = "testing")]
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// None = at any point.
    name: Option<String>,
    /// The how manieth time, from 1.
    time: u64,
}

#[cfg(feature = "testing")]
impl Wanted {
    fn parse(text: &str) -> Self {
        let (name, time) = match text.split_once(':') {
            Some((name, time)) => (name, time.parse().unwrap_or(1)),
            None => text.parse().map_or((text, 1), |time| ("any", time)),
        };
        Self { name: Some(name).filter(|name| *name != "any").map(str::to_owned), time }
    }
}

/// Nothing.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub fn point(_name: &str) {}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_wanted_by_name_by_name_and_time_or_by_number() {
        let wanted = |name: Option<&str>, time| Wanted { name: name.map(str::to_owned), time };
        assert_eq!(Wanted::parse("backup.sealed"), wanted(Some("backup.sealed"), 1));
        assert_eq!(Wanted::parse("backup.sealed:3"), wanted(Some("backup.sealed"), 3));
        assert_eq!(Wanted::parse("any:17"), wanted(None, 17));
        assert_eq!(Wanted::parse("17"), wanted(None, 17));
    }
}
