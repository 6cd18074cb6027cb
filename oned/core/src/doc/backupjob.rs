//! `BACKUPJOB` (`one.backupjob.info`).

use super::writer::Writer;
use super::{Lock, Owner, Render, alone};
use crate::access::Permissions;
use crate::schedule::ScheduledAction;
use crate::template::{Template, Value};

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
    alone(view)
}

impl Render for BackupJobView {
    fn render(&self, w: &mut Writer) {
        w.open("BACKUPJOB");
        w.number("ID", self.id);
        w.owner(&self.owner);
        w.text("NAME", &self.name);
        w.lock(self.lock.as_ref());
        w.permissions(&self.permissions);
        w.number("PRIORITY", self.priority);
        w.number("LAST_BACKUP_TIME", self.last_backup_time);
        w.number("LAST_BACKUP_DURATION", self.last_backup_duration);
        let actions: Vec<i64> = self.sched_actions.iter().map(|action| i64::from(action.id)).collect();
        w.ids("SCHED_ACTIONS", &actions);
        w.ids("UPDATED_VMS", &self.updated_vms);
        w.ids("OUTDATED_VMS", &self.outdated_vms);
        w.ids("BACKING_UP_VMS", &self.backing_up_vms);
        w.ids("ERROR_VMS", &self.error_vms);
        w.open("TEMPLATE");
        let no_vms = Value::Scalar(String::new());
        let vms = self.template.scalar("BACKUP_VMS").is_none().then_some(("BACKUP_VMS", &no_vms));
        let stored = self.template.attributes().iter().map(|attribute| (attribute.name.as_str(), &attribute.value));
        // Scheduled actions follow from their own field; a vector can be no list of VMs.
        let shown = stored.filter(|(name, value)| match *name {
            "SCHED_ACTION" => false,
            "BACKUP_VMS" => matches!(value, Value::Scalar(_)),
            _ => true,
        });
        w.ranked(shown.chain(vms).map(|(name, value)| (name, name, value)), |_, _, _| false);
        w.sched_actions(&self.sched_actions);
        w.close("TEMPLATE");
        w.close("BACKUPJOB");
    }
}
