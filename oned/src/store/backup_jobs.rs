//! Statements about backup jobs: the four lists of a run.

use diesel::prelude::*;

use super::rows::*;
use super::schema::{backup_job, backup_job_vm, vm};
use super::{StoreError, Tx};

/// Longest rest of a VM whose backup failed before it is tried once more, seconds.
pub const REST_MAX_S: i64 = 300;

/// The lists of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunList {
    /// What is to be done.
    Outdated,
    /// What is being done.
    BackingUp,
    /// What is done.
    Updated,
    /// What failed.
    Error,
}

impl RunList {
    /// Lists of a run that is not over.
    pub const OPEN: [Self; 2] = [Self::Outdated, Self::BackingUp];

    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outdated => "OUTDATED",
            Self::BackingUp => "BACKING_UP",
            Self::Updated => "UPDATED",
            Self::Error => "ERROR",
        }
    }
}

impl BackupJobVmRow {
    /// A VM that waits from the beginning of a run.
    #[must_use]
    pub fn outdated(backup_job_id: i64, vm_id: i64, place: i64, schedule_id: Option<i64>) -> Self {
        let list = RunList::Outdated.as_str().into();
        Self {
            backup_job_id,
            list,
            vm_id,
            place,
            failures: 0,
            not_before: 0,
            waits_since: None,
            schedule_id,
            job_id: None,
        }
    }

    /// Whether it is in that list.
    #[must_use]
    pub fn is_in(&self, list: RunList) -> bool {
        self.list == list.as_str()
    }

    /// The same VM in another list, where it waits for nothing.
    #[must_use]
    pub fn moved(self, list: RunList) -> Self {
        Self { list: list.as_str().into(), not_before: 0, waits_since: None, job_id: None, ..self }
    }
}

/// A backup job with VMs that wait in its run.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct WaitingJob {
    /// The backup job.
    pub id: i64,
    /// Its priority.
    pub priority: i64,
    /// Its template.
    pub template: String,
}

/// A VM that waits in a run.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub struct WaitingVm {
    /// The VM.
    pub vm_id: i64,
    /// Since when its turn has come while it was busy.
    pub waits_since: Option<i64>,
    /// Owner, STATE, LCM_STATE and host of the VM; none when it is gone.
    pub vm: Option<(i64, i64, i64, Option<i64>)>,
}

/// Whether a VM does not rest any more. A rest that is longer than any can be is over: the clock was put back.
#[diesel::dsl::auto_type]
fn has_rested(now: i64) -> _ {
    let no_rest: i64 = now.saturating_add(REST_MAX_S);
    backup_job_vm::not_before.le(now).or(backup_job_vm::not_before.gt(no_rest))
}

fn words(lists: &[RunList]) -> Vec<&'static str> {
    lists.iter().map(|list| list.as_str()).collect()
}

impl Tx<'_> {
    /// The backup job that `uid` has under that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_by_name(&mut self, uid: i64, name: &str) -> Result<Option<BackupJobRow>, StoreError> {
        Ok(backup_job::table
            .filter(backup_job::uid.eq(uid).and(backup_job::name.eq(name)))
            .select(BackupJobRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// The VMs in the lists of a job's run, by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vms(&mut self, backup_job_id: i64) -> Result<Vec<BackupJobVmRow>, StoreError> {
        Ok(backup_job_vm::table
            .filter(backup_job_vm::backup_job_id.eq(backup_job_id))
            .order(backup_job_vm::vm_id.asc())
            .select(BackupJobVmRow::as_select())
            .load(self.0)?)
    }

    /// The VM in the lists of a job's run.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vm(&mut self, backup_job_id: i64, vm_id: i64) -> Result<Option<BackupJobVmRow>, StoreError> {
        Ok(backup_job_vm::table
            .find((backup_job_id, vm_id))
            .select(BackupJobVmRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// Puts a VM into one of the lists of a job's run, out of the one that it was in.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vm_put(&mut self, row: &BackupJobVmRow) -> Result<(), StoreError> {
        diesel::replace_into(backup_job_vm::table).values(row).execute(self.0)?;
        Ok(())
    }

    /// Takes a VM out of the lists of a job's run.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vm_remove(&mut self, backup_job_id: i64, vm_id: i64) -> Result<(), StoreError> {
        diesel::delete(backup_job_vm::table.find((backup_job_id, vm_id))).execute(self.0)?;
        Ok(())
    }

    /// Empties these lists of a job's run. True when there was something in them.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vms_clear(&mut self, backup_job_id: i64, lists: &[RunList]) -> Result<bool, StoreError> {
        let of_job = backup_job_vm::backup_job_id.eq(backup_job_id);
        let listed = backup_job_vm::table.filter(of_job.and(backup_job_vm::list.eq_any(words(lists))));
        Ok(diesel::delete(listed).execute(self.0)? > 0)
    }

    /// How many VMs of a job's run are in one of these lists.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vms_count(&mut self, backup_job_id: i64, lists: &[RunList]) -> Result<i64, StoreError> {
        let of_job = backup_job_vm::backup_job_id.eq(backup_job_id);
        let listed = backup_job_vm::table.filter(of_job.and(backup_job_vm::list.eq_any(words(lists))));
        Ok(listed.count().get_result(self.0)?)
    }

    /// Whether a run of a job is under way: VMs wait, or are being backed up.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_runs(&mut self, backup_job_id: i64) -> Result<bool, StoreError> {
        Ok(self.backup_job_vms_count(backup_job_id, &RunList::OPEN)? > 0)
    }

    /// The place behind the last of a job's run.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_end(&mut self, backup_job_id: i64) -> Result<i64, StoreError> {
        let last: Option<i64> = backup_job_vm::table
            .filter(backup_job_vm::backup_job_id.eq(backup_job_id))
            .select(diesel::dsl::max(backup_job_vm::place))
            .get_result(self.0)?;
        Ok(last.map_or(0, |place| place.saturating_add(1)))
    }

    /// The backup jobs with VMs that wait, by priority, high first, then by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_jobs_waiting(&mut self, now: i64) -> Result<Vec<WaitingJob>, StoreError> {
        let waiting = backup_job_vm::table
            .filter(backup_job_vm::list.eq(RunList::Outdated.as_str()).and(has_rested(now)))
            .select(backup_job_vm::backup_job_id);
        Ok(backup_job::table
            .filter(backup_job::id.eq_any(waiting))
            .order((backup_job::priority.desc(), backup_job::id.asc()))
            .select((backup_job::id, backup_job::priority, backup_job::template))
            .load(self.0)?)
    }

    /// The VMs that wait in a job's run, in their order.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vms_waiting(&mut self, backup_job_id: i64, now: i64) -> Result<Vec<WaitingVm>, StoreError> {
        let of_job = backup_job_vm::backup_job_id.eq(backup_job_id);
        Ok(backup_job_vm::table
            .left_join(vm::table.on(vm::id.eq(backup_job_vm::vm_id)))
            .filter(
                of_job.and(backup_job_vm::list.eq(RunList::Outdated.as_str())).and(backup_job_vm::not_before.le(now)),
            )
            .order((backup_job_vm::place.asc(), backup_job_vm::vm_id.asc()))
            .select((
                backup_job_vm::vm_id,
                backup_job_vm::waits_since,
                (vm::uid, vm::state, vm::lcm_state, vm::host_id).nullable(),
            ))
            .load(self.0)?)
    }
}
