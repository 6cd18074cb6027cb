//! Backup jobs.

use one_core::schedule::Parent;

use super::{BIT, DECRYPT, END, FLAG, ID, NAME, START, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::{backup_job, events, schedule};
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::BackupJobRow;

const ACTION: ParamSpec = ParamSpec::int("action");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.backupjob", "backup job", BackupJobRow, |_, _, _| Ok(()), lock);
    all.extend(rows! {
        "one.backupjob.allocate", [TEXT], "Creates a backup job.", Id, |c, u, a| backup_job::allocate(c, u, a.text(0));
        "one.backupjob.backup", [ID], "Runs a backup job.", Id, |c, u, a| backup_job::backup(c, u, a.int(0));
        "one.backupjob.cancel", [ID], "Stops the run of a backup job.", Id, |c, u, a| backup_job::cancel(c, u, a.int(0));
        "one.backupjob.delete", [ID], "Deletes a backup job; backups stay.", Id,
            |c, u, a| backup_job::delete(c, u, a.int(0));
        "one.backupjob.events", [ID, ParamSpec::int("most").or_int(-1)],
            "Lists what a backup job did, newest first: at most so many events, -1 all.", Text,
            |c, u, a| events::of_backup_job(c, u, a.int(0), a.int(1));
        "one.backupjob.info", [ID, DECRYPT], "Shows a backup job.", Text, |c, u, a| backup_job::info(c, u, a.int(0));
        "one.backupjob.infoextended", [ID, DECRYPT], "Shows a backup job with all its attributes.", Text,
            |c, u, a| backup_job::info_extended(c, u, a.int(0), a.bool(1));
        "one.backupjob.priority", [ID, ParamSpec::int("priority")], "Sets a backup job's priority, 0 to 99.", Id,
            |c, u, a| backup_job::priority(c, u, a.int(0), a.int(1));
        "one.backupjob.retry", [ID], "Does the failed VMs of a backup job again.", Id,
            |c, u, a| backup_job::retry(c, u, a.int(0));
        "one.backupjob.schedadd", [ID, TEXT], "Adds a scheduled action to a backup job.", Id,
            |c, u, a| schedule::add_of(c, u, Parent::BackupJob, a.int(0), a.text(1));
        "one.backupjob.scheddelete", [ID, ACTION], "Deletes a scheduled action of a backup job.", Id,
            |c, u, a| schedule::delete_of_job(c, u, a.int(0), a.int(1));
        "one.backupjob.schedupdate", [ID, ACTION, TEXT], "Changes a scheduled action of a backup job.", Id,
            |c, u, a| schedule::update_of(c, u, (Parent::BackupJob, a.int(0)), a.int(1), a.text(2));
        "one.backupjob.update", [ID, TEXT, TYPE], "Changes a backup job.", Id,
            |c, u, a| backup_job::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.backupjobpool.info", [FLAG, START, END], "Lists the backup jobs.", Text,
            |c, u, a| backup_job::pool(c, u, a.int(0), a.int(1), a.int(2));
    });
    all
}
