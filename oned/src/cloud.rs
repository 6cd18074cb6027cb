//! What every part of the daemon works with: the database, the time, the configuration, the bell. And who is calling.

use std::path::PathBuf;
use std::sync::Arc;

use one_core::access::{Caller, Permissions};
use one_core::refusal::Refusal;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Clock;
use crate::config::Config;
use crate::progress::Board;
use crate::store::{Store, StoreError};
use crate::wake::Wake;

/// The daemon's common ground.
pub struct Cloud {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// oned.conf.
    pub config: Config,
    /// Progress of running transfers.
    pub board: Board,
    /// Wakes the engine.
    pub wake: Wake,
    /// Where sockets of running backups are made; short, for socket paths hold 107 bytes.
    pub run_dir: PathBuf,
    /// Where clients reach us.
    pub endpoint: String,
}

impl Cloud {
    /// The caller behind a session string `name:password`.
    ///
    /// # Errors
    /// [`Refusal::BadSession`] for everything that is not a known, enabled user with the right password.
    pub fn authenticate(&self, session: &str) -> Result<Caller, Refusal> {
        let (name, password) = session.split_once(':').ok_or(Refusal::BadSession)?;
        let found = self.store.read(|tx| {
            let Some(user) = tx.user_by_name(name)? else { return Ok::<_, StoreError>(None) };
            let groups = tx.user_groups(user.id)?;
            Ok(Some((user, groups)))
        })?;
        let (user, groups) = found.ok_or(Refusal::BadSession)?;
        let given = password_digest(password);
        let right = bool::from(given.as_bytes().ct_eq(user.password_sha256.as_bytes()));
        if !right || user.enabled != 1 || user.auth_driver != "core" {
            return Err(Refusal::BadSession);
        }
        Ok(Caller { uid: user.id, gid: user.gid, groups, name: user.name })
    }

    /// Permission bits of a new object of this caller.
    #[must_use]
    pub fn new_permissions(&self, caller: &Caller) -> Permissions {
        Permissions::from_umask(self.config.default_umask, caller, self.config.enable_other_permissions)
    }
}

/// The SHA-256 of a password in hex, as the original stores it.
#[must_use]
pub fn password_digest(password: &str) -> String {
    hex(&Sha256::digest(password.as_bytes()))
}

/// Bytes in lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
