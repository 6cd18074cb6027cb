//! Backup jobs.

use one_core::access::Permissions;
use one_core::backup::config::BACKUP_EVENT;
use one_core::doc::BackupJobView;
use one_core::schedule::{SCHED_INFO, ScheduledAction};
use one_core::template::Template;

use super::{Names, lock, shown};
use crate::events::{self, Whose};
use crate::ledger;
use crate::store::rows::{BackupJobRow, BackupJobVmRow};
use crate::store::{RunList, StoreError, Tx};

/// The attributes that the published document of a backup job knows; its schema has no room for others.
const PUBLISHED: [&str; 10] = [
    "BACKUP_VMS",
    "BACKUP_VOLATILE",
    "DATASTORE_ID",
    "DISK_IDS",
    "ERROR",
    "EXECUTION",
    "FS_FREEZE",
    "KEEP_LAST",
    "MODE",
    "RESET",
];

/// Events in the extended document.
const EVENTS_SHOWN: i64 = 10;

/// The VMs of one list of a run, in their order.
#[must_use]
pub fn in_list(vms: &[BackupJobVmRow], list: RunList) -> Vec<i64> {
    let mut vms: Vec<_> = vms.iter().filter(|vm| vm.is_in(list)).collect();
    vms.sort_by_key(|vm| (vm.place, vm.vm_id));
    vms.iter().map(|vm| vm.vm_id).collect()
}

/// The backup job view, as published.
///
/// # Errors
/// The database's failure.
pub fn backup_job(tx: &mut Tx<'_>, names: &Names, row: &BackupJobRow) -> Result<BackupJobView, StoreError> {
    let mut view = whole(tx, names, row)?;
    let mut template = Template::new();
    for name in PUBLISHED {
        if let Some(text) = view.template.scalar(name) {
            template.set(name, text);
        }
    }
    view.template = template;
    Ok(view)
}

/// The backup job view with everything that its template holds, what its scheduled actions have that their published form
/// does not show (SCHED_INFO), and what it did last (BACKUP_EVENT).
///
/// # Errors
/// The database's failure.
pub fn backup_job_extended(tx: &mut Tx<'_>, names: &Names, row: &BackupJobRow) -> Result<BackupJobView, StoreError> {
    let mut view = whole(tx, names, row)?;
    for info in view.sched_actions.iter().filter_map(ScheduledAction::info_vector) {
        view.template.push_vector(SCHED_INFO, info);
    }
    for event in events::vectors(tx, Whose::BackupJob(row.id), EVENTS_SHOWN)? {
        view.template.push_vector(BACKUP_EVENT, event);
    }
    Ok(view)
}

fn whole(tx: &mut Tx<'_>, names: &Names, row: &BackupJobRow) -> Result<BackupJobView, StoreError> {
    let vms = tx.backup_job_vms(row.id)?;
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
        updated_vms: in_list(&vms, RunList::Updated),
        outdated_vms: in_list(&vms, RunList::Outdated),
        backing_up_vms: in_list(&vms, RunList::BackingUp),
        error_vms: in_list(&vms, RunList::Error),
        template: shown(&row.template),
    })
}
