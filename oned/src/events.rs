//! The log of what was done to VMs and by backup jobs: when, by whom, with what result.
//!
//! It is for people and for monitoring; nothing is decided by it. An event is written in the transaction that makes it
//! true. Its texts are one line each, bounded, and hold no secrets, since no error does.
//!
//! Invariants: a VM has at most [`KEPT`] events, a backup job at most [`KEPT`] that are of no VM, and none is kept for longer
//! than [`KEPT_S`]. What is begun and then ends is one event, that of its end.

use one_core::template::Vector;

use crate::job::Origin;
use crate::ledger::{self, BackupEnd, EndedBackup};
use crate::store::rows::{EventRow, JobRow, VmBackupRow};
use crate::store::{StoreError, Tx};

/// Events kept of each VM, and of each backup job besides those of its VMs' backups.
pub const KEPT: i64 = 200;

/// How long an event is kept, seconds: a year, and some weeks to look back at it.
pub const KEPT_S: i64 = 400 * 86_400;

/// The ACTION of backups.
pub const BACKUP: &str = "backup";

/// The ACTION of disks put back in place.
pub const RESTORE: &str = "restore";

/// What came of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventResult {
    /// It was accepted and goes on.
    Started,
    /// It is done.
    Done,
    /// It was begun and failed.
    Failed,
    /// Somebody did not want it any more.
    Cancelled,
    /// It was not accepted; it will be tried again.
    Refused,
    /// It was not tried, and will not be: its time had gone by.
    Skipped,
}

impl EventResult {
    /// The word in the database and in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "STARTED",
            Self::Done => "DONE",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Refused => "REFUSED",
            Self::Skipped => "SKIPPED",
        }
    }
}

/// An event to write down.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    /// When, epoch seconds.
    pub time: i64,
    /// The VM that it was done to.
    pub vm_id: Option<i64>,
    /// The backup job that did it.
    pub backup_job_id: Option<i64>,
    /// The scheduled action that asked for it.
    pub schedule_id: Option<i64>,
    /// The daemon's job that does it.
    pub job_id: Option<i64>,
    /// Who asked; −1 the daemon itself.
    pub uid: i64,
    /// What: a word as scheduled actions have them.
    pub action: &'a str,
    /// What came of it.
    pub result: EventResult,
    /// Why, or what is to be said of it; empty for what needs no words.
    pub reason: &'a str,
}

/// Whose events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// A VM's.
    Vm(i64),
    /// A backup job's.
    BackupJob(i64),
}

/// What a backup moved, and how long it took.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    read_bytes: i64,
    stored_bytes: i64,
    duration_s: i64,
}

/// Writes down an event. One that is refused again for the same reason takes the place of the refusal before, and its
/// duration says for how long that has been so; what ends takes the place of its start.
///
/// # Errors
/// The database's failure.
pub fn note(tx: &mut Tx<'_>, note: &Note<'_>) -> Result<(), StoreError> {
    write(tx, row_of(note, Figures::default()))
}

/// Notes how a backup ended.
///
/// # Errors
/// The database's failure.
pub fn backup_ended(tx: &mut Tx<'_>, ended: &EndedBackup<'_>) -> Result<(), StoreError> {
    let (result, reason, figures) = match ended.end {
        BackupEnd::Done { read_bytes, stored_bytes, duration_s, note } => {
            (EventResult::Done, note, Figures { read_bytes, stored_bytes, duration_s })
        }
        BackupEnd::Failed(reason) => (EventResult::Failed, reason, Figures::default()),
        BackupEnd::Cancelled => (EventResult::Cancelled, "", Figures::default()),
    };
    let started = backup_note(ended.vm_id, ended.job.id, ended.plan.origin, ended.plan.uid, ended.now);
    let row = row_of(&Note { result, reason, ..started }, figures);
    tally(tx, ended.vm_id, result, ended.now)?;
    write(tx, row)
}

/// Counts a backup that ended, for monitoring. One that was cancelled is neither a success nor a failure.
fn tally(tx: &mut Tx<'_>, vm_id: i64, result: EventResult, now: i64) -> Result<(), StoreError> {
    let before = tx.vm_backup_find(vm_id)?.unwrap_or(VmBackupRow { vm_id, last_success: 0, failures: 0 });
    match result {
        EventResult::Done => tx.vm_backup_put(&VmBackupRow { last_success: now, failures: 0, ..before }),
        EventResult::Failed => tx.vm_backup_put(&VmBackupRow { failures: before.failures.saturating_add(1), ..before }),
        _ => Ok(()),
    }
}

/// When the last backup of a VM that gave a restore point ended, epoch seconds.
///
/// # Errors
/// The database's failure.
pub fn last_success(tx: &mut Tx<'_>, vm_id: i64) -> Result<Option<i64>, StoreError> {
    Ok(tx.vm_backup_find(vm_id)?.map(|row| row.last_success).filter(|time| *time > 0))
}

/// Notes that a restore in place was accepted, or how it ended.
///
/// # Errors
/// The database's failure.
pub fn restore_told(
    tx: &mut Tx<'_>,
    job: &JobRow,
    result: EventResult,
    reason: &str,
    now: i64,
) -> Result<(), StoreError> {
    let note = Note {
        time: now,
        vm_id: job.vm_id,
        backup_job_id: None,
        schedule_id: None,
        job_id: Some(job.id),
        uid: job.uid,
        action: RESTORE,
        result,
        reason,
    };
    let figures = Figures { duration_s: now.saturating_sub(job.created_at).max(0), ..Figures::default() };
    let row = row_of(&note, figures);
    write(tx, row)
}

/// Notes that a run of a backup job began, or goes on with what had failed.
///
/// # Errors
/// The database's failure.
pub fn run_begun(
    tx: &mut Tx<'_>,
    backup_job_id: i64,
    schedule_id: Option<i64>,
    uid: i64,
    now: i64,
) -> Result<(), StoreError> {
    write(tx, row_of(&run_note((backup_job_id, schedule_id), uid, EventResult::Started, "", now), Figures::default()))
}

/// Notes how a run of a backup job ended, in the place of its begin; nothing when that it ended is known already.
///
/// # Errors
/// The database's failure.
pub fn run_over(
    tx: &mut Tx<'_>,
    backup_job_id: i64,
    (result, reason): (EventResult, &str),
    duration_s: i64,
    now: i64,
) -> Result<(), StoreError> {
    let Some(begun) = tx.event_of_open_run(backup_job_id)? else { return Ok(()) };
    let note = run_note((backup_job_id, begun.schedule_id), begun.uid, result, reason, now);
    tx.event_remove(begun.id)?;
    write(tx, row_of(&note, Figures { duration_s, ..Figures::default() }))
}

fn run_note(
    (backup_job_id, schedule_id): (i64, Option<i64>),
    uid: i64,
    result: EventResult,
    reason: &str,
    time: i64,
) -> Note<'_> {
    let (vm_id, job_id) = (None, None);
    Note { time, vm_id, backup_job_id: Some(backup_job_id), schedule_id, job_id, uid, action: BACKUP, result, reason }
}

/// Notes what a user did to a VM himself, there and then.
///
/// # Errors
/// The database's failure.
pub fn done_by(
    tx: &mut Tx<'_>,
    vm_id: i64,
    uid: i64,
    (action, reason): (&str, &str),
    now: i64,
) -> Result<(), StoreError> {
    note(
        tx,
        &Note {
            time: now,
            vm_id: Some(vm_id),
            backup_job_id: None,
            schedule_id: None,
            job_id: None,
            uid,
            action,
            result: EventResult::Done,
            reason,
        },
    )
}

/// Notes that a backup was accepted.
///
/// # Errors
/// The database's failure.
pub fn backup_started(
    tx: &mut Tx<'_>,
    vm_id: i64,
    job_id: i64,
    origin: Origin,
    uid: i64,
    now: i64,
) -> Result<(), StoreError> {
    note(tx, &backup_note(vm_id, job_id, origin, uid, now))
}

fn backup_note(vm_id: i64, job_id: i64, origin: Origin, uid: i64, time: i64) -> Note<'static> {
    Note {
        time,
        vm_id: Some(vm_id),
        backup_job_id: origin.backup_job_id(),
        schedule_id: origin.schedule_id(),
        job_id: Some(job_id),
        uid,
        action: BACKUP,
        result: EventResult::Started,
        reason: "",
    }
}

/// Lets go of events that are too old, all of them.
///
/// # Errors
/// The database's failure.
pub fn expire(tx: &mut Tx<'_>, now: i64) -> Result<(), StoreError> {
    while tx.events_expire(now.saturating_sub(KEPT_S))? > 0 {}
    Ok(())
}

/// The newest events, newest first, at most `most` and never more than [`KEPT`].
///
/// # Errors
/// The database's failure.
pub fn newest(tx: &mut Tx<'_>, whose: Whose, most: i64) -> Result<Vec<EventRow>, StoreError> {
    let most = most.clamp(0, KEPT);
    match whose {
        Whose::Vm(id) => tx.events_of_vm(id, most),
        Whose::BackupJob(id) => tx.events_of_backup_job(id, most),
    }
}

/// The newest events as BACKUP_EVENT vectors, newest first. Numbers and texts that say nothing are left out.
///
/// # Errors
/// The database's failure.
pub fn vectors(tx: &mut Tx<'_>, whose: Whose, most: i64) -> Result<Vec<Vector>, StoreError> {
    Ok(newest(tx, whose, most)?.iter().map(|row| vector(row, whose)).collect())
}

fn vector(row: &EventRow, whose: Whose) -> Vector {
    let mut vector = Vector::new();
    vector.set("TIME", row.time.to_string());
    vector.set("ACTION", row.action.as_str());
    vector.set("RESULT", row.result.as_str());
    vector.set("UID", row.uid.to_string());
    let ids = [
        ("VM_ID", row.vm_id.filter(|_| !matches!(whose, Whose::Vm(_)))),
        ("BACKUP_JOB_ID", row.backup_job_id),
        ("SCHED_ID", row.schedule_id),
        ("READ_BYTES", Some(row.read_bytes).filter(|bytes| *bytes > 0)),
        ("STORED_BYTES", Some(row.stored_bytes).filter(|bytes| *bytes > 0)),
        ("DURATION", Some(row.duration_s).filter(|seconds| *seconds > 0)),
    ];
    for (name, value) in ids {
        if let Some(value) = value {
            vector.set(name, value.to_string());
        }
    }
    if !row.reason.is_empty() {
        vector.set("REASON", row.reason.as_str());
    }
    vector
}

fn row_of(note: &Note<'_>, figures: Figures) -> EventRow {
    EventRow {
        id: -1,
        time: note.time,
        vm_id: note.vm_id,
        backup_job_id: note.backup_job_id,
        schedule_id: note.schedule_id,
        job_id: note.job_id,
        uid: note.uid,
        action: ledger::flat(note.action),
        result: note.result.as_str().into(),
        read_bytes: figures.read_bytes,
        stored_bytes: figures.stored_bytes,
        duration_s: figures.duration_s,
        reason: ledger::flat(note.reason),
    }
}

fn write(tx: &mut Tx<'_>, mut row: EventRow) -> Result<(), StoreError> {
    if let Some(before) = superseded(tx, &row)? {
        if row.result == EventResult::Refused.as_str() {
            row.duration_s = before.duration_s.saturating_add(row.time.saturating_sub(before.time).max(0));
        }
        tx.event_remove(before.id)?;
    }
    row.id = tx.next_id("event")?;
    tx.event_append(&row)?;
    // A VM's events are bounded by the VM, also those of its backups in a job: the log of a job with many VMs must not push
    // out what happened to each.
    match (row.vm_id, row.backup_job_id) {
        (Some(vm_id), _) => tx.events_trim_vm(vm_id, KEPT)?,
        (None, Some(id)) => tx.events_trim_runs(id, KEPT)?,
        (None, None) => {}
    }
    tx.events_expire(row.time.saturating_sub(KEPT_S))?;
    Ok(())
}

/// The event whose place a new one takes: the start of what ends now, and the same refusal before.
fn superseded(tx: &mut Tx<'_>, row: &EventRow) -> Result<Option<EventRow>, StoreError> {
    let is_refused = row.result == EventResult::Refused.as_str();
    let before = match (row.vm_id, row.job_id, row.backup_job_id) {
        (Some(vm_id), _, _) if is_refused => tx.event_last_of_action(vm_id, row.schedule_id, &row.action)?,
        (None, _, Some(id)) if is_refused => tx.event_last_of_run(id, row.schedule_id)?,
        (Some(vm_id), Some(job_id), _) => tx.event_last_of_job(vm_id, job_id)?,
        _ => None,
    };
    Ok(before.filter(|before| {
        if is_refused {
            before.result == row.result && before.reason == row.reason
        } else {
            before.result == EventResult::Started.as_str()
        }
    }))
}
