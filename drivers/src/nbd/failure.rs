//! What went wrong in the conversation, in the words and kinds of this crate.

use std::io;

use super::wire;
use crate::{DriverError, Kind};

/// The connection failed or the time is up: the same call may work on a new connection.
pub(super) fn lost(doing: &str, source: io::Error) -> DriverError {
    let mut error = if source.kind() == io::ErrorKind::UnexpectedEof {
        DriverError::new(Kind::Retry, doing, "the NBD server closed the connection")
    } else {
        DriverError::io(doing, source)
    };
    // Not found or refused while connecting: the server may come.
    if error.kind == Kind::Missing {
        error.kind = Kind::Retry;
    }
    error
}

/// The server said something that the protocol does not allow.
pub(super) fn nonsense(doing: &str, what: impl std::fmt::Display) -> DriverError {
    DriverError::new(Kind::Permanent, doing, format!("the server does not follow the NBD protocol: {what}"))
}

/// The server refused an option of the handshake.
pub(super) fn refused_option(doing: &str, (number, text): &(u32, String)) -> DriverError {
    let kind = match *number {
        wire::REP_ERR_UNKNOWN => Kind::Missing,
        wire::REP_ERR_SHUTDOWN => Kind::Retry,
        _ => Kind::Permanent,
    };
    let code = number & !wire::REP_ERROR;
    let reason = match (*number, text.as_str()) {
        (wire::REP_ERR_UNKNOWN, "") => "the NBD server has no such export".to_owned(),
        (_, "") => format!("the NBD server refused with error {code}"),
        (_, text) => format!("the NBD server refused with error {code}: {text}"),
    };
    DriverError::new(kind, doing, reason)
}

/// The server answered a request with an error.
pub(super) fn refused_request(doing: &str, (errno, text): &(u32, String)) -> DriverError {
    // A read error may come from storage that will be back (a network share); no memory and shutting down surely pass.
    let kind = if matches!(errno, 5 | 12 | 108) { Kind::Retry } else { Kind::Permanent };
    let name = wire::errno_name(*errno);
    let reason = if text.is_empty() {
        format!("the NBD server answered with error {errno} ({name})")
    } else {
        format!("the NBD server answered with error {errno} ({name}): {text}")
    };
    DriverError::new(kind, doing, reason)
}
