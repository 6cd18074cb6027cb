//! Statements about backup jobs: the four lists of a run.

use diesel::prelude::*;

use super::rows::*;
use super::schema::{backup_job, backup_job_vm};
use super::{StoreError, Tx};

impl Tx<'_> {
    /// The backup job that `uid` has under that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_by_name(&mut self, uid: i64, name: &str) -> Result<Option<BackupJobRow>, StoreError> {
        Ok(backup_job::table
            .filter(backup_job::uid.eq(uid).and(backup_job::name.eq(name)))
            .select(BackupJobRow::as_select())
            .first(self.0)
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

    /// Empties these lists of a job's run.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_job_vms_clear(&mut self, backup_job_id: i64, lists: &[&str]) -> Result<(), StoreError> {
        let of_job = backup_job_vm::backup_job_id.eq(backup_job_id);
        diesel::delete(backup_job_vm::table.filter(of_job.and(backup_job_vm::list.eq_any(lists)))).execute(self.0)?;
        Ok(())
    }
}
