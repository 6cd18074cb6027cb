//! Which of the backups that wait start now.
//!
//! What it is: arithmetic over who waits and who runs. What it is not: it starts nothing and knows no clock; whatever is
//! not chosen is asked about again in the next round.
//!
//! Invariants: no limit is passed by what is chosen together with what runs; who cannot start holds up nobody else.

use std::collections::HashMap;

/// What a backup takes while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The owner of the VM.
    pub owner: i64,
    /// The host of the VM.
    pub host: Option<i64>,
    /// The datastore that it writes to; none when that is not known yet.
    pub datastore: Option<i64>,
}

/// A backup that wants to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// What it would take.
    pub place: Place,
    /// The priority of its backup job, high first; none = it is no part of one, and comes before all that are.
    pub priority: Option<i64>,
    /// The sequential backup job that it is part of: one of them at a time.
    pub sequence: Option<i64>,
}

/// The most that may run at a time; none is no limit.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// In the whole cloud (MAX_BACKUPS).
    pub cloud: Option<u32>,
    /// On one host (MAX_BACKUPS_HOST).
    pub host: Option<u32>,
    /// Into one datastore (MAX_BACKUPS of its template), by its id.
    pub datastore: HashMap<i64, u32>,
}
