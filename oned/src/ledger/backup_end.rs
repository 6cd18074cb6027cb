//! What a backup's end means to those who wanted it: the log, the scheduled action that it came from, its backup job.

use super::{backup_job_run, schedule_retry};
use crate::events;
use crate::job::BackupPlan;
use crate::store::rows::JobRow;
use crate::store::{StoreError, Tx};

/// How a backup ended.
#[derive(Debug, Clone, Copy)]
pub enum BackupEnd<'a> {
    /// There is a restore point.
    Done {
        /// Bytes read from the VM's disks.
        read_bytes: i64,
        /// Bytes that the datastore grew by.
        stored_bytes: i64,
        /// Seconds from its point in time to its end.
        duration_s: i64,
        /// Why it was a full one or read everything, and what did not go as it should; empty for what needs no words.
        note: &'a str,
    },
    /// There is none, and this is why.
    Failed(&'a str),
    /// Somebody did not want it any more.
    Cancelled,
}

/// A backup and its end.
#[derive(Debug, Clone, Copy)]
pub struct EndedBackup<'a> {
    /// The VM.
    pub vm_id: i64,
    /// The daemon's job.
    pub job: &'a JobRow,
    /// What was planned.
    pub plan: &'a BackupPlan,
    /// How it ended.
    pub end: BackupEnd<'a>,
    /// When, epoch seconds.
    pub now: i64,
    /// The daemon's zone, for texts with a date.
    pub zone: chrono_tz::Tz,
}

/// Tells everybody who wanted a backup that it is over. To be called once for each backup, in the transaction that decides
/// how it ends: the one that records the restore point, or the one that begins to take the backup back.
///
/// # Errors
/// The database's failure.
pub fn backup_ended(tx: &mut Tx<'_>, ended: &EndedBackup<'_>) -> Result<(), StoreError> {
    events::backup_ended(tx, ended)?;
    schedule_retry::backup_ended(tx, ended)?;
    backup_job_run::backup_ended(tx, ended)
}
