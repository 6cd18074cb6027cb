//! What every part of the daemon works with: the database, the time, the configuration, the bell.

use std::path::PathBuf;
use std::sync::Arc;

use one_core::access::{Caller, Permissions};
use one_core::refusal::Refusal;
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::config::Config;
use crate::examination::Desk;
use crate::progress::Board;
use crate::secret::SecretKey;
use crate::session::Sessions;
use crate::store::Store;
use crate::wake::Wake;

/// The daemon's common ground.
pub struct Cloud {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// oned.conf.
    pub config: Config,
    /// Seals and opens secret attributes.
    pub secret: SecretKey,
    /// Progress of running transfers.
    pub board: Board,
    /// Wakes the engine.
    pub wake: Wake,
    /// Where sockets of running backups are made; short, for socket paths hold 107 bytes.
    pub run_dir: PathBuf,
    /// Where clients reach us.
    pub endpoint: String,
    /// Sessions that were found good.
    pub sessions: Sessions,
    /// Where an examination of the installation is asked for.
    pub desk: Desk,
}

impl Cloud {
    /// Permission bits of a new object of this caller.
    #[must_use]
    pub fn new_permissions(&self, caller: &Caller) -> Permissions {
        let umask = caller.umask.unwrap_or(self.config.default_umask);
        Permissions::from_umask(umask, caller, self.config.enable_other_permissions)
    }
}

/// The SHA-256 of a password in hex, as the original stores it.
#[must_use]
pub fn password_digest(password: &str) -> String {
    hex(&Sha256::digest(password.as_bytes()))
}

/// Random bytes from the system.
///
/// # Errors
/// [`Refusal::Internal`] when it gives none.
pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).map_err(|e| Refusal::Internal(format!("The system gives no random numbers: {e}.")))?;
    Ok(bytes)
}

/// A random text that nobody guesses: 64 digits in hex.
///
/// # Errors
/// As [`random`].
pub fn random_hex() -> Result<String, Refusal> {
    Ok(hex(&random::<32>()?))
}

/// Bytes in lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
