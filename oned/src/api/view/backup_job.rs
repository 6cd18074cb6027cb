//! Backup jobs.

use one_core::access::Permissions;
use one_core::doc::BackupJobView;

use super::{Names, lock, stored};
use crate::ledger;
use crate::store::rows::{BackupJobRow, BackupJobVmRow};
use crate::store::{StoreError, Tx};

/// The VMs of one list of a run.
#[must_use]
pub fn in_list(vms: &[BackupJobVmRow], list: &str) -> Vec<i64> {
    vms.iter().filter(|vm| vm.list == list).map(|vm| vm.vm_id).collect()
}

/// The backup job view.
///
/// # Errors
/// The database's failure.
pub fn backup_job(tx: &mut Tx<'_>, names: &Names, row: &BackupJobRow) -> Result<BackupJobView, StoreError> {
    let vms = tx.backup_job_vms(row.id)?;
    let mut template = stored(&row.template);
    // The published document has no place for it; it is kept for the backups.
    template.remove("INCREMENT_MODE");
    Ok(BackupJobView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        lock: lock(&row.lock),
        permissions: Permissions::from_i64(row.permissions),
        priority: row.priority,
        last_backup_time: row.last_backup_time,
        last_backup_duration: row.last_backup_duration,
        sched_actions: tx.schedules_of_backup_job(row.id)?.iter().filter_map(ledger::read_schedule).collect(),
        updated_vms: in_list(&vms, "UPDATED"),
        outdated_vms: in_list(&vms, "OUTDATED"),
        backing_up_vms: in_list(&vms, "BACKING_UP"),
        error_vms: in_list(&vms, "ERROR"),
        template,
    })
}
