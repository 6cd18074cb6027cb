//! `one.vm.events` and `one.backupjob.events`: what was done, newest first. Calls of our own; the original keeps no log.

use one_core::access::Caller;
use one_core::doc::{EventView, Pool};
use one_core::refusal::Refusal;

use super::{Cloud, owned};
use crate::events::{self, KEPT, Whose};
use crate::store::Tx;
use crate::store::rows::{BackupJobRow, EventRow, VmRow};

/// `one.vm.events`: the newest `most` events of a VM (1 to 200, −1 all that are kept). Who sees the VM sees them.
///
/// # Errors
/// Not authorised (USE), unknown VM, a number that is none of these.
pub fn of_vm(cloud: &Cloud, caller: &Caller, id: i64, most: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let _: VmRow = owned::to_show(tx, caller, id)?;
        document(tx, Whose::Vm(id), most)
    })
}

/// `one.backupjob.events`: the same for a backup job, with those of its VMs' backups.
///
/// # Errors
/// Not authorised (USE), unknown backup job, a number that is none of these.
pub fn of_backup_job(cloud: &Cloud, caller: &Caller, id: i64, most: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let _: BackupJobRow = owned::to_show(tx, caller, id)?;
        document(tx, Whose::BackupJob(id), most)
    })
}

fn document(tx: &mut Tx<'_>, whose: Whose, most: i64) -> Result<String, Refusal> {
    let most = match most {
        -1 => KEPT,
        1..=KEPT => most,
        _ => return Err(Refusal::Action(format!("The number of events has to be 1 to {KEPT}, or -1 for all."))),
    };
    let mut pool = Pool::begin("EVENTS");
    for row in events::newest(tx, whose, most)? {
        pool.push(&view(row));
    }
    Ok(pool.finish())
}

fn view(row: EventRow) -> EventView {
    EventView {
        id: row.id,
        time: row.time,
        action: row.action,
        result: row.result,
        uid: row.uid,
        vm_id: row.vm_id,
        backup_job_id: row.backup_job_id,
        schedule_id: row.schedule_id,
        job_id: row.job_id,
        read_bytes: row.read_bytes,
        stored_bytes: row.stored_bytes,
        duration_s: row.duration_s,
        reason: row.reason,
    }
}
