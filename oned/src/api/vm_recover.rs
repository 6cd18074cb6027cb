//! `one.vm.recover`: what an administrator does to a VM that is stuck. What each operation means in which state is decided
//! by the core; here it is written down.

use one_core::access::Caller;
use one_core::lifecycle::{
    OpenJobs, RecoverAction, RecoverOperation, VmEvent, VmOperation, VmPhase, driver_answers, recover_action,
};
use one_core::refusal::Refusal;

use super::vm_action::{cancel_jobs, finish};
use super::{Cloud, vm_for};
use crate::events;
use crate::job;
use crate::ledger;
use crate::quota;
use crate::store::rows::VmRow;
use crate::store::{JobFilter, Tx};

/// `one.vm.recover`: 0 failure, 1 success, 2 retry, 3 delete, 4 delete-recreate, 5 delete-db. To delete what is DONE is
/// success.
///
/// # Errors
/// Not authorised (by the lists of operations), wrong number, wrong state.
pub fn recover(cloud: &Cloud, caller: &Caller, id: i64, number: i64) -> Result<i64, Refusal> {
    let operation = RecoverOperation::from_number(number);
    cloud.store.write(|tx| {
        let needed = operation.as_ref().map_or(VmOperation::Recover, |operation| operation.operation());
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(needed), id)?;
        let operation = operation?;
        let phase = ledger::phase(&row);
        if phase == VmPhase::DONE && operation == RecoverOperation::Delete {
            return Ok(());
        }
        let action = recover_action(phase, operation)?;
        events::done_by(tx, id, caller.uid, ("recover", operation.word()), cloud.clock.now())?;
        carry_out(cloud, tx, caller, &mut row, operation, action)
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn carry_out(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    row: &mut VmRow,
    operation: RecoverOperation,
    action: RecoverAction,
) -> Result<(), Refusal> {
    let now = cloud.clock.now();
    let from = ledger::phase(row);
    let open = !tx.jobs_open(JobFilter::Vm(row.id))?.is_empty();
    if action.jobs != OpenJobs::Leave {
        cancel_jobs(tx, row.id)?;
    }
    // One that waits with what an earlier life left begins anew when it is placed: its last record must say so.
    if action.event.is_some() || operation == RecoverOperation::Recreate {
        note(tx, caller, row, operation, now)?;
    }
    // Only the job itself knows what is complete; it gives the event when it has taken the rest back.
    let event = action.event.filter(|_| !(open && action.jobs == OpenJobs::CancelAndAwait));
    let event = event.map(|event| match event {
        VmEvent::RestoreEnd => VmEvent::restore_end(row.host_id.is_some()),
        other => other,
    });
    if let Some(event) = event {
        // Going back makes a record of its own, so it comes first: the step then stamps that one.
        if action.to_previous_host {
            ledger::vm_to_previous_host(tx, row, now)?;
        }
        match driver_answers(from) {
            Some((_, failed)) if failed == event => ledger::vm_step_failed(tx, row, event, now)?,
            _ => ledger::vm_step(tx, row, event, now)?,
        }
        if operation == RecoverOperation::Success {
            ledger::vm_error(tx, row, None)?;
        }
        ended(tx, caller, row, operation, from, now)?;
    }
    if action.starts_job {
        let phase = ledger::phase(row);
        let is_at_it = |row: &crate::store::rows::JobRow| {
            row.cancel == 0 && job::JobKind::parse(&row.kind).is_some_and(|kind| kind.drives(phase))
        };
        if !tx.jobs_open(JobFilter::Vm(row.id))?.iter().any(is_at_it) {
            let is_hard = is_hard(tx, row)?;
            job::add_for_phase(tx, row, phase, is_hard, caller.uid, now)?;
        }
    }
    Ok(())
}

/// Writes the operation into the history: what ends the VM's stay into the last record, the others between two.
fn note(tx: &mut Tx<'_>, caller: &Caller, row: &VmRow, operation: RecoverOperation, now: i64) -> Result<(), Refusal> {
    let number = operation.history();
    match operation {
        RecoverOperation::Delete | RecoverOperation::Recreate | RecoverOperation::DeleteDb => {
            ledger::history_act(tx, row.id, number, caller.uid, caller.gid)?;
        }
        RecoverOperation::Failure | RecoverOperation::Success | RecoverOperation::Retry => {
            let last = tx.history_last(row.id)?;
            ledger::history_action(tx, row.id, number, caller.uid, caller.gid, now)?;
            // What was under way when it got stuck still is.
            if let Some(last) = last {
                ledger::history_act(tx, row.id, last.action, last.uid, last.gid)?;
            }
        }
    }
    Ok(())
}

/// What has to be let go of after the event, where no job does it.
fn ended(
    tx: &mut Tx<'_>,
    caller: &Caller,
    row: &mut VmRow,
    operation: RecoverOperation,
    from: VmPhase,
    now: i64,
) -> Result<(), Refusal> {
    let to = ledger::phase(row);
    if to == VmPhase::DONE {
        if operation != RecoverOperation::DeleteDb {
            return finish(tx, row, caller.uid, now);
        }
        row.host_id = None;
        quota::save_vm(tx, row)?;
        return Ok(ledger::vm_end(tx, row.id)?);
    }
    if ledger::is_away(to) && to != from {
        row.host_id = None;
        quota::save_vm(tx, row)?;
    }
    Ok(())
}

/// Whether the guest was to be switched off without being asked.
fn is_hard(tx: &mut Tx<'_>, row: &VmRow) -> Result<bool, Refusal> {
    use ledger::action as n;
    let last = tx.history_last(row.id)?;
    let hard = [n::TERMINATE_HARD, n::POWEROFF_HARD, n::UNDEPLOY_HARD, n::DELETE, n::DELETE_RECREATE];
    Ok(last.is_some_and(|record| hard.contains(&record.action)))
}
