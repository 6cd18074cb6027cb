//! The only SQL of the daemon. Nobody else names diesel.
//!
//! One writer connection behind a mutex, always in an immediate transaction (a deferred one fails at once with
//! "database is locked" when two of them read before they write), and a small pool of readers; WAL with
//! `synchronous = FULL`, so what was answered survives a power cut. Methods of [`Tx`] have the noun first.
//!
//! What this module is not: it checks no rights and knows no rule of the cloud beyond "this row was in that state".
//! Updates that depend on a state are made inside the transaction that read it, or are compare-and-set
//! ([`Tx::job_advance`]); a conflict is an error, never silence.

mod backup_jobs;
mod events;
mod examine;
mod figures;
mod known;
pub mod networks;
mod people;
mod pools;
mod queries;
pub mod rows;
mod samples;
mod schedules;
mod schema;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use known::Known;
use one_core::refusal::Refusal;

pub use backup_jobs::{REST_MAX_S, RunList, WaitingJob, WaitingVm};
pub use figures::{ScheduleFigures, VmFigures};
pub use known::{Generation, PeopleNames};
pub use queries::{Head, JobFilter, See, VmFilter};
pub use schedules::{DueSchedule, OpenBackup, PAUSE_MAX_S, Release, pause_is_over};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// Readers at once; documents are rendered from them.
const READERS_MAX: u32 = 8;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The row is not there.
    #[error("{what} {id} is not in the database")]
    NotFound {
        /// Which table, in words.
        what: &'static str,
        /// Which row.
        id: i64,
    },
    /// The row was not in the state that the update starts from.
    #[error("{what} {id} changed meanwhile")]
    Conflict {
        /// Which table, in words.
        what: &'static str,
        /// Which row.
        id: i64,
    },
    /// The database could not be opened, migrated, read or written.
    #[error("the database failed while {doing}: {reason}")]
    Broken {
        /// What was being done.
        doing: &'static str,
        /// SQLite's words.
        reason: String,
    },
}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Broken { doing: "running a query", reason: error.to_string() }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(target: "STO", "{error}");
        match error {
            StoreError::Broken { .. } => {
                Self::Internal("The database could not do this now; the daemon's log says why.".into())
            }
            other => Self::Internal(other.to_string()),
        }
    }
}

/// The database of one daemon.
pub struct Store {
    writer: Mutex<SqliteConnection>,
    readers: Pool<ConnectionManager<SqliteConnection>>,
    known: Known,
}

/// A transaction, or a reader's view. A reader's knows what may be used of what was read before.
pub struct Tx<'a>(&'a mut SqliteConnection, Option<(&'a Known, Generation)>);

#[derive(Debug)]
struct Pragmas;

fn set_pragmas(connection: &mut SqliteConnection) -> QueryResult<()> {
    // busy_timeout first: switching to WAL itself may meet a lock.
    connection.batch_execute(
        "PRAGMA busy_timeout = 10000;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;",
    )
}

impl CustomizeConnection<SqliteConnection, diesel::r2d2::Error> for Pragmas {
    fn on_acquire(&self, connection: &mut SqliteConnection) -> Result<(), diesel::r2d2::Error> {
        set_pragmas(connection).map_err(diesel::r2d2::Error::QueryError)
    }
}

impl Store {
    /// Opens (or creates) the database file and brings it to the newest shape.
    ///
    /// # Errors
    /// [`StoreError::Broken`] when the file cannot be opened or migrated.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let broken = |doing: &'static str| move |reason: String| StoreError::Broken { doing, reason };
        let url = path.to_str().ok_or_else(|| broken("opening it")("its path is not UTF-8".into()))?;
        // Made here with access for nobody else, before SQLite opens it: it holds the keys of the datastores. The files
        // beside it (-wal, -shm) take its mode.
        let private = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        private.map_err(|e| broken("opening it")(e.to_string()))?;
        let mut writer = SqliteConnection::establish(url).map_err(|e| broken("opening it")(e.to_string()))?;
        set_pragmas(&mut writer)?;
        // 32 MiB of pages in memory, so that what is written in turn is not read again each time; readers have SQLite's 2.
        writer.batch_execute("PRAGMA cache_size = -32768;")?;
        writer.run_pending_migrations(MIGRATIONS).map_err(|e| broken("migrating it")(e.to_string()))?;
        Known::watch(&mut writer)?;
        schedules::watch_rights(&mut writer)?;
        let readers = Pool::builder()
            .max_size(READERS_MAX)
            // A connection to a file does not go stale.
            .test_on_check_out(false)
            .min_idle(Some(1))
            .connection_timeout(Duration::from_secs(30))
            .connection_customizer(Box::new(Pragmas))
            .build(ConnectionManager::new(url))
            .map_err(|e| broken("opening it for reading")(e.to_string()))?;
        Ok(Self { writer: Mutex::new(writer), readers, known: Known::default() })
    }

    /// Writes the file anew without what was deleted or replaced, and empties the log beside it.
    ///
    /// # Errors
    /// The database's failure, no room for a second copy included.
    pub fn forget_replaced(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(writer.batch_execute("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")?)
    }

    /// Runs `work` in one immediate transaction: all of it happens, or, on any error, nothing.
    ///
    /// # Errors
    /// What `work` answers, or the database's own failure.
    pub fn write<T, E>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        // A panic in an earlier transaction rolled that one back; the connection itself is sound.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = writer.immediate_transaction(|connection| work(&mut Tx(connection, None)).map_err(Outcome::Work));
        // Also after a failure: a commit that is reported as failed may have happened.
        self.known.count(&mut writer);
        outcome.map_err(|failure| match failure {
            Outcome::Work(error) => error,
            Outcome::Database(error) => E::from(StoreError::from(error)),
        })
    }

    /// The state of users, groups, memberships, login tokens and access rules: what was made from them is good as long as
    /// it stays the same, when it was asked for before they were read. None when that cannot be told.
    #[must_use]
    pub fn people_generation(&self) -> Option<Generation> {
        self.known.generation()
    }

    /// Runs `work` on one consistent view of the database.
    ///
    /// # Errors
    /// What `work` answers, or the database's own failure.
    pub fn read<T, E>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let mut reader = self
            .readers
            .get()
            .map_err(|e| E::from(StoreError::Broken { doing: "waiting for a reader", reason: e.to_string() }))?;
        // Before the view: what is read may be newer than the number, never older.
        let known = self.known.generation().map(|generation| (&self.known, generation));
        let outcome = reader.transaction(|connection| work(&mut Tx(connection, known)).map_err(Outcome::Work));
        outcome.map_err(|failure| match failure {
            Outcome::Work(error) => error,
            Outcome::Database(error) => E::from(StoreError::from(error)),
        })
    }
}

impl Tx<'_> {
    /// Runs `work` so that all of it happens or, on any error, nothing of it, whatever becomes of the rest of the transaction.
    ///
    /// # Errors
    /// What `work` answers, or the database's own failure.
    pub fn attempt<T, E>(&mut self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let known = self.1;
        // Within a transaction this is a savepoint.
        let outcome = self.0.transaction(|connection| work(&mut Tx(connection, known)).map_err(Outcome::Work));
        outcome.map_err(|failure| match failure {
            Outcome::Work(error) => error,
            Outcome::Database(error) => E::from(StoreError::from(error)),
        })
    }
}

enum Outcome<E> {
    Work(E),
    Database(diesel::result::Error),
}

impl<E> From<diesel::result::Error> for Outcome<E> {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error)
    }
}

#[cfg(test)]
mod tests;
