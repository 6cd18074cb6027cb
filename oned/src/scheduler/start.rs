//! What a due action does: the verbs of the api, with the rights that the owner has now.

use one_core::access::{Caller, may};
use one_core::lifecycle::{VmAction, VmOperation};
use one_core::refusal::Refusal;
use one_core::schedule::{BACKUP, ScheduledAction};

use super::turn::note;
use super::{Outcome, Starter, backup_jobs};
use crate::api::{Cloud, Owned, backup, vm_action, vm_snapshots};
use crate::events::{self, EventResult};
use crate::job::Origin;
use crate::session;
use crate::store::Tx;
use crate::store::rows::{ScheduleRow, VmRow};

/// Starts actions as their owners would by a call.
#[derive(Debug, Clone, Copy)]
pub struct Api;

impl Starter for Api {
    fn start(
        &self,
        cloud: &Cloud,
        tx: &mut Tx<'_>,
        row: &ScheduleRow,
        action: &ScheduledAction,
        now: i64,
    ) -> Result<Outcome, Refusal> {
        let Some(vm_id) = row.vm_id else { return backup_jobs::start_run(cloud, tx, row, action, now) };
        let vm_row = tx.vm(vm_id)?;
        let owner = session::owner(cloud, tx, vm_row.uid, &format!("VM {vm_id}"))?;
        may(&owner, owner.vm_rights.right_for(VmOperation::SchedAction), &vm_row.object())?;
        if action.action == BACKUP {
            let (datastore, reset) = action.backup_args()?;
            let wish = backup::Wish { datastore: datastore.0, reset, origin: Origin::Schedule { id: row.id } };
            backup::start(cloud, tx, &owner, vm_row, wish)?;
        } else {
            act(cloud, tx, &owner, vm_row, action)?;
            events::note(tx, &note(row, action, EventResult::Started, "", now))?;
        }
        Ok(Outcome::Started)
    }
}

/// What he may not do himself he may not leave to the clock either; backups alone are made for that.
fn act(cloud: &Cloud, tx: &mut Tx<'_>, owner: &Caller, row: VmRow, action: &ScheduledAction) -> Result<(), Refusal> {
    let word = VmAction::of_schedule(&action.action)?;
    may(owner, owner.vm_rights.right_for(word.operation), &row.object())?;
    if action.action.contains("snapshot-") {
        vm_snapshots::scheduled(cloud, tx, owner, row, (&action.action, &action.args))?;
    } else {
        vm_action::act(cloud, tx, owner, row, word)?;
    }
    Ok(())
}
