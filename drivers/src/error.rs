//! The one error of this crate. The engine decides by [`Kind`] only; the text is for people.

use std::error::Error as StdError;

/// What the caller can do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The outside is down, busy or too slow: the same call may work later.
    Retry,
    /// Trying again changes nothing until somebody changes something (no space, refused, unsupported).
    Permanent,
    /// What was asked for is not there.
    Missing,
    /// Somebody asked for the stop.
    Cancelled,
    /// Data is there but is not what it says it is.
    Corrupt,
}

/// A failure: what was being done, what stood in the way, and what caused it.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {reason}")]
pub struct DriverError {
    /// What the caller can do about it.
    pub kind: Kind,
    /// A phrase such as `reading extents of vda`.
    pub doing: String,
    /// What stood in the way, in one sentence without secrets.
    pub reason: String,
    /// The error below, if any; already part of `reason`.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, DriverError>;

impl DriverError {
    /// An error without one below it.
    pub fn new(kind: Kind, doing: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), reason: reason.into(), source: None }
    }

    /// The stop that was asked for.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "moving data", "cancelled on request")
    }

    /// An I/O failure; the kind follows from the error (not found → `Missing`, time-outs and interruptions →
    /// `Retry`, everything else, a full disk included, → `Permanent`).
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match source.kind() {
            E::NotFound => Kind::Missing,
            E::TimedOut
            | E::WouldBlock
            | E::Interrupted
            | E::ConnectionRefused
            | E::ConnectionReset
            | E::ConnectionAborted
            | E::BrokenPipe
            | E::NotConnected => Kind::Retry,
            _ => Kind::Permanent,
        };
        Self { kind, doing: doing.into(), reason: source.to_string(), source: Some(Box::new(source)) }
    }

    /// An error of another library, its text taken as the reason.
    pub fn other(kind: Kind, doing: impl Into<String>, source: impl StdError + Send + Sync + 'static) -> Self {
        Self { kind, doing: doing.into(), reason: source.to_string(), source: Some(Box::new(source)) }
    }
}
