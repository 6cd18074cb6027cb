//! Statements about the log of what was done to VMs and by backup jobs, and about how their backups fare.

use diesel::prelude::*;

use super::rows::*;
use super::schema::{event, vm_backup};
use super::{StoreError, Tx};

/// Events that one statement lets go for their age: as many as a long pause leaves, and no more than is done at once.
const EXPIRED_AT_ONCE: i64 = 100;

impl Tx<'_> {
    /// Appends an event under the id that it has.
    ///
    /// # Errors
    /// The database's failure.
    pub fn event_append(&mut self, row: &EventRow) -> Result<(), StoreError> {
        diesel::insert_into(event::table).values(row).execute(self.0)?;
        Ok(())
    }

    /// Removes an event; an absent one is success.
    ///
    /// # Errors
    /// The database's failure.
    pub fn event_remove(&mut self, id: i64) -> Result<(), StoreError> {
        diesel::delete(event::table.find(id)).execute(self.0)?;
        Ok(())
    }

    /// A VM's events, newest first, at most `most`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn events_of_vm(&mut self, vm_id: i64, most: i64) -> Result<Vec<EventRow>, StoreError> {
        Ok(event::table
            .filter(event::vm_id.eq(vm_id))
            .order(event::id.desc())
            .limit(most)
            .select(EventRow::as_select())
            .load(self.0)?)
    }

    /// A backup job's events, those of its VMs' backups included, newest first, at most `most`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn events_of_backup_job(&mut self, backup_job_id: i64, most: i64) -> Result<Vec<EventRow>, StoreError> {
        Ok(event::table
            .filter(event::backup_job_id.eq(backup_job_id))
            .order(event::id.desc())
            .limit(most)
            .select(EventRow::as_select())
            .load(self.0)?)
    }

    /// The newest event of a VM about one of the daemon's jobs.
    ///
    /// # Errors
    /// The database's failure.
    pub fn event_last_of_job(&mut self, vm_id: i64, job_id: i64) -> Result<Option<EventRow>, StoreError> {
        Ok(event::table
            .filter(event::vm_id.eq(vm_id).and(event::job_id.eq(job_id)))
            .order(event::id.desc())
            .select(EventRow::as_select())
            .first(self.0)
            .optional()?)
    }

    /// The newest event of a VM about an action of a schedule, or of none.
    ///
    /// # Errors
    /// The database's failure.
    pub fn event_last_of_action(
        &mut self,
        vm_id: i64,
        schedule_id: Option<i64>,
        action: &str,
    ) -> Result<Option<EventRow>, StoreError> {
        Ok(event::table
            .filter(event::vm_id.eq(vm_id).and(event::action.eq(action)))
            .filter(event::schedule_id.is(schedule_id))
            .order(event::id.desc())
            .select(EventRow::as_select())
            .first(self.0)
            .optional()?)
    }

    /// A backup job's newest event that is of no VM and of this scheduled action.
    ///
    /// # Errors
    /// The database's failure.
    pub fn event_last_of_run(
        &mut self,
        backup_job_id: i64,
        schedule_id: Option<i64>,
    ) -> Result<Option<EventRow>, StoreError> {
        Ok(event::table
            .filter(event::backup_job_id.eq(backup_job_id).and(event::vm_id.is_null()))
            .filter(event::schedule_id.is(schedule_id))
            .order(event::id.desc())
            .select(EventRow::as_select())
            .first(self.0)
            .optional()?)
    }

    /// The begin of a backup job's run that has not ended.
    ///
    /// # Errors
    /// The database's failure.
    pub fn event_of_open_run(&mut self, backup_job_id: i64) -> Result<Option<EventRow>, StoreError> {
        Ok(event::table
            .filter(event::backup_job_id.eq(backup_job_id).and(event::vm_id.is_null()))
            .filter(event::result.eq("STARTED"))
            .order(event::id.desc())
            .select(EventRow::as_select())
            .first(self.0)
            .optional()?)
    }

    /// Removes a VM's events but for the newest `keep`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn events_trim_vm(&mut self, vm_id: i64, keep: i64) -> Result<(), StoreError> {
        let surplus = event::table
            .filter(event::vm_id.eq(vm_id))
            .order(event::id.desc())
            .offset(keep)
            .limit(1)
            .select(event::id)
            .first::<i64>(self.0)
            .optional()?;
        if let Some(id) = surplus {
            diesel::delete(event::table.filter(event::vm_id.eq(vm_id).and(event::id.le(id)))).execute(self.0)?;
        }
        Ok(())
    }

    /// Removes a backup job's events that are of no VM but for the newest `keep`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn events_trim_runs(&mut self, backup_job_id: i64, keep: i64) -> Result<(), StoreError> {
        let of_runs = event::backup_job_id.eq(backup_job_id).and(event::vm_id.is_null());
        let surplus = event::table
            .filter(of_runs)
            .order(event::id.desc())
            .offset(keep)
            .limit(1)
            .select(event::id)
            .first::<i64>(self.0)
            .optional()?;
        if let Some(id) = surplus {
            diesel::delete(event::table.filter(of_runs.and(event::id.le(id)))).execute(self.0)?;
        }
        Ok(())
    }

    /// Removes events from before `time`, the oldest first and some at a time; how many.
    ///
    /// # Errors
    /// The database's failure.
    pub fn events_expire(&mut self, time: i64) -> Result<usize, StoreError> {
        let old = event::table
            .filter(event::time.lt(time))
            .order(event::time.asc())
            .limit(EXPIRED_AT_ONCE)
            .select(event::id)
            .load::<i64>(self.0)?;
        if old.is_empty() {
            return Ok(0);
        }
        Ok(diesel::delete(event::table.filter(event::id.eq_any(old))).execute(self.0)?)
    }

    /// How the backups of a VM fare; none = none has ended yet.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vm_backup_find(&mut self, vm_id: i64) -> Result<Option<VmBackupRow>, StoreError> {
        Ok(vm_backup::table.find(vm_id).select(VmBackupRow::as_select()).get_result(self.0).optional()?)
    }

    /// Writes down how the backups of a VM fare.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vm_backup_put(&mut self, row: &VmBackupRow) -> Result<(), StoreError> {
        diesel::replace_into(vm_backup::table).values(row).execute(self.0)?;
        Ok(())
    }
}
