//! Sentences about room: how much is needed, and how much there is. One wording for all who run out of it.

use std::fmt;
use std::io;

use crate::DriverError;

const MIB: u64 = 1 << 20;

/// What to do about it, wherever restore points are kept.
pub const MAKE_ROOM: &str = "forget older restore points or enlarge the file system";

/// Less room than is needed. Shown in whole MB: what is needed rounded up, what is free rounded down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes to be written.
    pub needed_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
}

impl Shortage {
    /// The shortage, if `needed_bytes` do not fit into `free_bytes`.
    #[must_use]
    pub fn of(needed_bytes: u64, free_bytes: u64) -> Option<Self> {
        (needed_bytes > free_bytes).then_some(Self { needed_bytes, free_bytes })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.needed_bytes.saturating_sub(self.free_bytes).div_ceil(MIB);
        let (needed, free) = (self.needed_bytes.div_ceil(MIB), self.free_bytes / MIB);
        write!(f, "{needed} MB are needed and {free} MB are free: {missing} MB are missing")
    }
}

/// Whether a write failed because there is no room.
#[must_use]
pub fn is_full(error: &DriverError) -> bool {
    let below = error.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
    below.is_some_and(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// The same error with what was left to be written when the room ended: `up_to_bytes` at most, since nobody knows how small
/// bytes become. Other errors stay as they are.
#[must_use]
pub fn say_how_much(error: DriverError, up_to_bytes: u64, free_bytes: u64) -> DriverError {
    if !is_full(&error) {
        return error;
    }
    let (needed, free) = (up_to_bytes.div_ceil(MIB), free_bytes / MIB);
    let reason = format!("{}; up to {needed} MB are still needed and {free} MB are free: {MAKE_ROOM}", error.reason);
    DriverError { reason, ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_is_rounded_up_and_free_down_so_that_the_sentence_never_denies_itself() {
        assert_eq!(Shortage::of(5, 5), None);
        let sentence = |needed, free| Shortage::of(needed, free).unwrap().to_string();
        assert_eq!(sentence(MIB + 1, MIB), "2 MB are needed and 1 MB are free: 1 MB are missing");
        assert_eq!(sentence(40 * MIB, 12 * MIB), "40 MB are needed and 12 MB are free: 28 MB are missing");
        assert_eq!(
            sentence(u64::MAX, 0),
            format!("{0} MB are needed and 0 MB are free: {0} MB are missing", 1_u64 << 44)
        );
    }

    #[test]
    fn only_a_full_file_system_is_told_how_much_is_missing() {
        let full = DriverError::io("writing a", io::Error::from_raw_os_error(28));
        let told = say_how_much(full, 3 * MIB, MIB / 2);
        assert!(is_full(&told), "it is still what it was");
        assert_eq!(
            told.to_string(),
            format!(
                "writing a: No space left on device (os error 28); up to 3 MB are still needed and 0 MB are free: {MAKE_ROOM}"
            )
        );
        let denied = DriverError::io("writing a", io::Error::from_raw_os_error(13));
        let reason = denied.reason.clone();
        assert_eq!(say_how_much(denied, 1, 1).reason, reason);
    }
}
