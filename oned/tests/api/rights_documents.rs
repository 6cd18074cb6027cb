//! Documents and backup jobs: what their methods are called with.

use one_core::id::ScheduleId;
use one_core::schedule::{Parent, Reading, ScheduledAction};
use one_core::template::Template;
use oned::api;

use super::Arg::{self, Int, Text};
use crate::world::{World, octal};

const DOCUMENT: i64 = 0;
const KIND: i64 = 100;
const JOB: i64 = 0;
/// Far from the ids that the counter gives.
const ACTION: i64 = 90;

/// Adds what the calls are about; alice's, usable by her group.
pub fn furnish(world: &World) {
    let document = api::document::allocate(&world.cloud, &world.alice, "NAME=service\nBODY=x\n", KIND).unwrap();
    let job = api::backup_job::allocate(&world.cloud, &world.alice, "NAME=nightly\nBACKUP_VMS=\"900\"\n").unwrap();
    assert_eq!((document, job), (DOCUMENT, JOB));
    let wish = Template::parse("SCHED_ACTION=[TIME=\"1900000000\"]").unwrap();
    let wish = wish.vector("SCHED_ACTION").unwrap();
    let reading = Reading { start: 0, now: 0, zone: world.cloud.config.timezone };
    let action = ScheduledAction::parse(wish, ScheduleId(ACTION), Parent::BackupJob, JOB, reading).unwrap();
    world.write(|tx| {
        let row = tx.document_find(document)?.unwrap();
        tx.document_update(&oned::store::rows::DocumentRow { permissions: octal(0o640), ..row })?;
        let row = tx.backup_job_find(job)?.unwrap();
        tx.backup_job_update(&oned::store::rows::BackupJobRow { permissions: octal(0o640), ..row })?;
        tx.schedule_insert(&api::schedule::row_of(&action, world.alice.uid, world.cloud.config.timezone)?)
    });
}

/// What each method is called with.
pub fn arguments(method: &str) -> Option<Vec<Arg>> {
    Some(match method {
        "one.backupjob.allocate" => vec![Text("NAME=more\nBACKUP_VMS=\"900,901\"\n")],
        "one.backupjob.backup" | "one.backupjob.cancel" | "one.backupjob.retry" => vec![Int(JOB)],
        "one.backupjob.delete" | "one.backupjob.events" | "one.backupjob.info" => vec![Int(JOB)],
        "one.backupjob.infoextended" => vec![Int(JOB)],
        "one.backupjob.priority" => vec![Int(JOB), Int(20)],
        "one.backupjob.rename" => vec![Int(JOB), Text("other")],
        "one.backupjob.schedadd" => vec![Int(JOB), Text("SCHED_ACTION=[TIME=\"1900000000\"]")],
        "one.backupjob.scheddelete" => vec![Int(JOB), Int(ACTION)],
        "one.backupjob.schedupdate" => vec![Int(JOB), Int(ACTION), Text("SCHED_ACTION=[REPEAT=0,DAYS=1]")],
        "one.backupjob.update" => vec![Int(JOB), Text("KEEP_LAST=3\n"), Int(1)],
        "one.backupjobpool.info" => vec![],
        "one.document.allocate" => vec![Text("NAME=more\n"), Int(KIND)],
        "one.document.clone" | "one.document.rename" => vec![Int(DOCUMENT), Text("other")],
        "one.document.delete" | "one.document.info" => vec![Int(DOCUMENT)],
        "one.document.update" => vec![Int(DOCUMENT), Text("NOTE=x\n"), Int(1)],
        "one.documentpool.info" => vec![Int(-2), Int(-1), Int(-1), Int(KIND)],
        _ => return None,
    })
}

/// The object that the verbs which all kinds have are tried on.
pub fn object_of(kind: &str) -> Option<i64> {
    match kind {
        "document" => Some(DOCUMENT),
        "backupjob" => Some(JOB),
        _ => None,
    }
}
