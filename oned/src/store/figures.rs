//! Statements that count, for monitoring: a few over everything, none for each VM.

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;

use super::rows::*;
use super::schema::{backup_job_vm, job, schedule, vm, vm_backup};
use super::{StoreError, Tx};

/// VMs in DONE.
const DONE: i64 = 6;

/// How the backups of a VM fare, with what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFigures {
    /// The VM.
    pub vm_id: i64,
    /// Its name.
    pub name: String,
    /// When it was made, epoch seconds.
    pub stime: i64,
    /// When its last backup that gave a restore point ended, 0 none.
    pub last_success: i64,
    /// Those that failed since.
    pub failures: i64,
}

/// Scheduled actions that should have run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScheduleFigures {
    /// Due for longer than they should be.
    pub overdue: usize,
    /// Of those that are due, the ones that were refused when they were last tried.
    pub refused: usize,
}

impl Tx<'_> {
    /// How backups fare, of each VM that is not DONE and is to be backed up: it had a backup, has a schedule for one, or is
    /// in the run of a backup job. By id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vm_figures(&mut self) -> Result<Vec<VmFigures>, StoreError> {
        let fare: Vec<VmBackupRow> = vm_backup::table.select(VmBackupRow::as_select()).load(self.0)?;
        let fare: BTreeMap<i64, VmBackupRow> = fare.into_iter().map(|row| (row.vm_id, row)).collect();
        let scheduled: Vec<Option<i64>> =
            schedule::table.filter(schedule::datastore_id.is_not_null()).select(schedule::vm_id).load(self.0)?;
        let in_runs: Vec<i64> = backup_job_vm::table.select(backup_job_vm::vm_id).load(self.0)?;
        let wanted: BTreeSet<i64> = scheduled.into_iter().flatten().chain(in_runs).collect();
        let all: Vec<(i64, String, i64)> = vm::table
            .filter(vm::state.ne(DONE))
            .order(vm::id.asc())
            .select((vm::id, vm::name, vm::stime))
            .load(self.0)?;
        let figures = |(vm_id, name, stime): (i64, String, i64)| {
            let row = fare.get(&vm_id);
            (row.is_some() || wanted.contains(&vm_id)).then(|| VmFigures {
                vm_id,
                name,
                stime,
                last_success: row.map_or(0, |row| row.last_success),
                failures: row.map_or(0, |row| row.failures),
            })
        };
        Ok(all.into_iter().filter_map(figures).collect())
    }

    /// Kind of each open job, and whether it was begun.
    ///
    /// # Errors
    /// The database's failure.
    pub fn job_kinds_open(&mut self) -> Result<Vec<(String, bool)>, StoreError> {
        let rows: Vec<(String, i64)> = job::table
            .filter(job::phase.ne_all(super::queries::CLOSED))
            .select((job::kind, job::attempts))
            .load(self.0)?;
        Ok(rows.into_iter().map(|(kind, attempts)| (kind, attempts > 0)).collect())
    }

    /// Scheduled actions that are due at `now` and have not run, overdue when they were due at `late` already.
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedule_figures(&mut self, now: i64, late: i64) -> Result<ScheduleFigures, StoreError> {
        let due: Vec<(Option<i64>, i64)> = schedule::table
            .filter(schedule::due_at.le(now))
            .select((schedule::due_at, schedule::refusals))
            .load(self.0)?;
        let overdue = due.iter().filter(|(due_at, _)| due_at.is_some_and(|due_at| due_at <= late)).count();
        Ok(ScheduleFigures { overdue, refused: due.iter().filter(|(_, refusals)| *refusals > 0).count() })
    }
}
