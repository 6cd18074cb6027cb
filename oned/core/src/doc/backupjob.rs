//! `BACKUPJOB` (`one.backupjob.info`).

use super::writer::Writer;
use super::{Lock, Owner};
use crate::access::Permissions;
use crate::schedule::ScheduledAction;
use crate::template::Template;

/// What the document of a backup job shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackupJobView {
    /// Job id.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// Lock, if any.
    pub lock: Option<Lock>,
    /// The nine permission bits.
    pub permissions: Permissions,
    /// 0 to 99, high first.
    pub priority: i64,
    /// Start of the last run, epoch seconds, 0 never.
    pub last_backup_time: i64,
    /// Length of the last run, seconds.
    pub last_backup_duration: i64,
    /// Scheduled actions: ids go into SCHED_ACTIONS, the full ones to the end of TEMPLATE.
    pub sched_actions: Vec<ScheduledAction>,
    /// VMs done in this run.
    pub updated_vms: Vec<i64>,
    /// VMs still to do.
    pub outdated_vms: Vec<i64>,
    /// VMs being backed up.
    pub backing_up_vms: Vec<i64>,
    /// VMs that failed.
    pub error_vms: Vec<i64>,
    /// The normalised template. BACKUP_VMS is added (empty) when absent; scheduled actions in it are ignored.
    pub template: Template,
}

/// The document (`one.backupjob.info`, and an element of BACKUPJOB_POOL).
pub fn backup_job(view: &BackupJobView) -> String {
    let mut w = Writer::new();
    w.open("BACKUPJOB");
    w.number("ID", view.id);
    w.owner(&view.owner);
    w.text("NAME", &view.name);
    w.lock(view.lock.as_ref());
    w.permissions(&view.permissions);
    w.number("PRIORITY", view.priority);
    w.number("LAST_BACKUP_TIME", view.last_backup_time);
    w.number("LAST_BACKUP_DURATION", view.last_backup_duration);
    let actions: Vec<i64> = view.sched_actions.iter().map(|action| i64::from(action.id)).collect();
    w.ids("SCHED_ACTIONS", &actions);
    w.ids("UPDATED_VMS", &view.updated_vms);
    w.ids("OUTDATED_VMS", &view.outdated_vms);
    w.ids("BACKING_UP_VMS", &view.backing_up_vms);
    w.ids("ERROR_VMS", &view.error_vms);
    w.open("TEMPLATE");
    let mut template = view.template.clone();
    template.remove("SCHED_ACTION");
    if template.scalar("BACKUP_VMS").is_none() {
        template.set("BACKUP_VMS", "");
    }
    w.attributes(&template, |name| Some(name.to_owned()));
    w.sched_actions(&view.sched_actions);
    w.close("TEMPLATE");
    w.close("BACKUPJOB");
    w.finish()
}
