//! `EVENT`: what was done to a VM or by a backup job, in EVENTS (`one.vm.events`, `one.backupjob.events`). The original has no
//! such document.

use super::Render;
use super::writer::Writer;

/// One event (an element of EVENTS). Ids that are none are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventView {
    /// Its number; a later one has a higher one.
    pub id: i64,
    /// When, epoch seconds.
    pub time: i64,
    /// A word as scheduled actions have them.
    pub action: String,
    /// STARTED, DONE, FAILED, CANCELLED, REFUSED or SKIPPED.
    pub result: String,
    /// Who asked, −1 the daemon itself.
    pub uid: i64,
    /// The VM.
    pub vm_id: Option<i64>,
    /// The backup job.
    pub backup_job_id: Option<i64>,
    /// The scheduled action.
    pub schedule_id: Option<i64>,
    /// The daemon's job.
    pub job_id: Option<i64>,
    /// Bytes read from the VM's disks.
    pub read_bytes: i64,
    /// Bytes that the datastore grew by.
    pub stored_bytes: i64,
    /// How long it took, or for how long it has been refused, seconds.
    pub duration_s: i64,
    /// Why, or what is to be said of it.
    pub reason: String,
}

impl Render for EventView {
    fn render(&self, w: &mut Writer) {
        w.open("EVENT");
        w.number("ID", self.id);
        w.number("TIME", self.time);
        w.text("ACTION", &self.action);
        w.text("RESULT", &self.result);
        w.number("UID", self.uid);
        let ids = [
            ("VM_ID", self.vm_id),
            ("BACKUP_JOB_ID", self.backup_job_id),
            ("SCHED_ID", self.schedule_id),
            ("JOB_ID", self.job_id),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                w.number(name, id);
            }
        }
        w.number("READ_BYTES", self.read_bytes);
        w.number("STORED_BYTES", self.stored_bytes);
        w.number("DURATION", self.duration_s);
        w.text("REASON", &self.reason);
        w.close("EVENT");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::Pool;

    #[test]
    fn an_event_is_shown_with_the_ids_that_it_has() {
        let event = EventView {
            id: 9,
            time: 1_700_000_000,
            action: "backup".into(),
            result: "FAILED".into(),
            uid: -1,
            vm_id: Some(7),
            schedule_id: Some(3),
            reason: "a < b ]]> c".into(),
            ..EventView::default()
        };
        let mut pool = Pool::begin("EVENTS");
        pool.push(&event);
        let shown = pool.finish();
        assert_eq!(
            shown.replace('\n', ""),
            "<EVENTS><EVENT><ID>9</ID><TIME>1700000000</TIME><ACTION><![CDATA[backup]]></ACTION>\
             <RESULT><![CDATA[FAILED]]></RESULT><UID>-1</UID><VM_ID>7</VM_ID><SCHED_ID>3</SCHED_ID>\
             <READ_BYTES>0</READ_BYTES><STORED_BYTES>0</STORED_BYTES><DURATION>0</DURATION>\
             <REASON><![CDATA[a < b ]]]]><![CDATA[> c]]></REASON></EVENT></EVENTS>"
        );
    }
}
