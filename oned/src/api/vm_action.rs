//! What moves a VM through its life: actions by word, deploying, migrating, resizing. Each asks the core's machine whether
//! the state allows it, writes state and history, and leaves the work to a job of the engine.

use one_core::access::Caller;
use one_core::lifecycle::{HostState, VmAction, VmEvent, VmOperation, VmPhase, VmState, next};
use one_core::refusal::{Refusal, Right};
use one_core::template::{Template, Value};

use super::{Cloud, datastore as datastores, datastore_for, host, parse, view, vm_create, vm_for};
use crate::job::{self, JobKind, JobSubject, ResizePlan, StopPlan};
use crate::ledger::{self, SYSTEM_DS};
use crate::store::rows::{HostRow, VmRow};
use crate::store::{JobFilter, Tx};
use crate::{capacity, hosts, quota};

/// The system datastore: the disks of all VMs lie in its directory.
const SYSTEM: i64 = 0;

/// `one.vm.action`: starts an action; returns the VM's id.
///
/// # Errors
/// Not authorised (by the lists of operations), unknown action, wrong state.
pub fn action(cloud: &Cloud, caller: &Caller, word: &str, id: i64) -> Result<i64, Refusal> {
    let action = VmAction::of_call(word)?;
    cloud.store.write(|tx| {
        let row = vm_for(tx, caller, caller.vm_rights.right_for(action.operation), id)?;
        act(cloud, tx, caller, row, action)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// Starts an action of `one.vm.action` on a VM whose rights are checked, within a transaction.
///
/// # Errors
/// An action that needs more than its word, wrong state.
pub fn act(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, mut row: VmRow, action: &VmAction) -> Result<(), Refusal> {
    let unknown = || Refusal::UnknownAction { action: action.word.into() };
    let event = action.event.filter(|_| action.is_callable).ok_or_else(unknown)?;
    let now = cloud.clock.now();
    let before = quota::of_vm(tx, &row)?;
    ledger::vm_step(tx, &mut row, event, now)?;
    quota::more_of_vm(tx, &before, &row)?.allowed(tx, caller.uid)?;
    let to = ledger::phase(&row);
    if to == VmPhase::DONE {
        ledger::history_act(tx, row.id, action.history, caller.uid, caller.gid)?;
        return finish(tx, &mut row, caller.uid, now);
    }
    let is_hard =
        matches!(event, VmEvent::PoweroffHard | VmEvent::UndeployHard | VmEvent::TerminateHard | VmEvent::RebootHard);
    match event {
        VmEvent::Hold | VmEvent::Release | VmEvent::Resched | VmEvent::Unresched => Ok(()),
        VmEvent::Reboot | VmEvent::RebootHard => {
            ledger::history_action(tx, row.id, action.history, caller.uid, caller.gid, now)?;
            let subject = JobSubject::vm(&row, caller.uid);
            job::add(tx, JobKind::Reboot, subject, &StopPlan { hard: is_hard }, now)?;
            Ok(())
        }
        // It waits for a place again; its last record keeps saying what lies ready for it.
        VmEvent::Resume if to == VmPhase::PENDING => Ok(()),
        VmEvent::Resume => {
            ledger::history_resume(tx, row.id, caller.uid, caller.gid, now)?;
            job::add_for_phase(tx, &row, to, false, caller.uid, now)?;
            Ok(())
        }
        _ => {
            ledger::history_act(tx, row.id, action.history, caller.uid, caller.gid)?;
            if is_hard {
                // The polite way down that the guest ignores gives way.
                cancel_jobs(tx, row.id)?;
            }
            job::add_for_phase(tx, &row, to, is_hard, caller.uid, now)?;
            Ok(())
        }
    }
}

/// Asks every open job of a VM to stop.
///
/// # Errors
/// The database's failure.
pub(super) fn cancel_jobs(tx: &mut Tx<'_>, vm_id: i64) -> Result<(), Refusal> {
    for job in tx.jobs_open(JobFilter::Vm(vm_id))? {
        tx.job_ask_cancel(job.id)?;
    }
    Ok(())
}

/// Ends a VM that has become DONE without a job: at once when nothing of it ever was outside, else a job clears that away
/// and then lets go of what the VM held.
///
/// # Errors
/// The database's failure.
pub(super) fn finish(tx: &mut Tx<'_>, row: &mut VmRow, uid: i64, now: i64) -> Result<(), Refusal> {
    if tx.history_last(row.id)?.is_none() {
        return Ok(ledger::vm_end(tx, row.id)?);
    }
    row.host_id = None;
    quota::save_vm(tx, row)?;
    job::add(tx, JobKind::Clear, JobSubject::vm(row, uid), &StopPlan { hard: true }, now)?;
    Ok(())
}

/// What `one.vm.deploy` is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Deployment<'a> {
    /// Where to.
    pub host: i64,
    /// Whether the host must have room.
    pub enforce: bool,
    /// System datastore; negative = the usual one.
    pub datastore: i64,
    /// More attributes for the VM; only the empty text is supported.
    pub extra: &'a str,
}

/// `one.vm.deploy`: puts a VM that waits, or was stopped or undeployed, on a host; returns its id.
///
/// # Errors
/// Not authorised (by the lists of operations for the VM, MANAGE on the host, USE on the system datastore); wrong state; a
/// host that is off or, with `enforce`, full; another datastore.
pub fn deploy(cloud: &Cloud, caller: &Caller, id: i64, wish: Deployment<'_>) -> Result<i64, Refusal> {
    let extra = parse(wish.extra)?;
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::Deploy), id)?;
        let host = host::host_for(tx, caller, Right::Manage, wish.host)?;
        check_datastore(tx, caller, wish.datastore)?;
        let last = tx.history_last(id)?;
        next(ledger::phase(&row), VmEvent::place(last.as_ref().map(|record| record.action)))?;
        if let Some(attribute) = extra.attributes().first() {
            return Err(Refusal::Action(format!(
                "The extra template of deploy holds {}, which cannot be changed on the way to a host; use updateconf, resize \
                 or update before.",
                attribute.name
            )));
        }
        check_usable(&host)?;
        if !ledger::can_go_on(last.as_ref(), &host) {
            return Err(Refusal::Action(format!(
                "VM {id} was stopped with its memory saved by the driver {}, and cannot go on on host {}, whose driver is {}.",
                last.map(|record| record.vm_mad).unwrap_or_default(),
                host.id,
                host.vm_mad
            )));
        }
        if wish.enforce {
            capacity::check(tx, &host, &row, ledger::vm_size(&view::stored(&row.template)))?;
        }
        let before = quota::of_vm(tx, &row)?;
        ledger::vm_place(tx, &mut row, &host, caller.uid, cloud.clock.now())?;
        quota::more_of_vm(tx, &before, &row)?.allowed(tx, caller.uid)
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn check_datastore(tx: &mut Tx<'_>, caller: &Caller, wish: i64) -> Result<(), Refusal> {
    let id = if wish < 0 { SYSTEM } else { wish };
    let datastore = datastore_for(tx, caller, Right::Use, id)?;
    if datastore.kind != SYSTEM_DS {
        return Err(Refusal::Action(format!(
            "Datastore {id} is not a system datastore; leave it out, or give {SYSTEM}."
        )));
    }
    if datastore.state != datastores::READY {
        return Err(Refusal::Action(format!("System datastore {id} is disabled; enable it first.")));
    }
    if id != SYSTEM {
        return Err(Refusal::Action(format!(
            "Datastore {id} cannot take the VM: the disks of all VMs lie in system datastore {SYSTEM}."
        )));
    }
    Ok(())
}

/// A host that only was not seen yet may turn out well; one in DISABLED is left alone by the engine, not by people.
fn check_usable(host: &HostRow) -> Result<(), Refusal> {
    let state = HostState::from_number(host.state).unwrap_or(HostState::Error);
    if !matches!(state, HostState::Error | HostState::Offline | HostState::MonitoringError) {
        return Ok(());
    }
    Err(Refusal::Action(format!(
        "Host {} ({}) is in state {}; choose another one, or see its ERROR and put that right.",
        host.id,
        host.name,
        state.name()
    )))
}

/// What `one.vm.migrate` is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Where to.
    pub host: i64,
    /// While the guest runs.
    pub live: bool,
    /// Whether the host must have room.
    pub enforce: bool,
    /// System datastore; negative = the usual one.
    pub datastore: i64,
    /// What becomes of a running guest in between: 0 saved, 1 shut down, 2 switched off.
    pub kind: i64,
}

/// `one.vm.migrate`: moves a VM to another host; returns its id. Only between hosts of the dummy driver.
///
/// # Errors
/// Not authorised (by the lists of operations for the VM, MANAGE on the host); an unknown host, the present one, one that is
/// off or, with `enforce`, full; hosts between which nothing can be moved; wrong state.
pub fn migrate(cloud: &Cloud, caller: &Caller, id: i64, wish: Migration) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::Migrate), id)?;
        let to = host::host_for(tx, caller, Right::Manage, wish.host)?;
        check_datastore(tx, caller, wish.datastore)?;
        let from = ledger::phase(&row);
        let word = match wish.kind {
            0 if wish.live && from == VmPhase::RUNNING => "live-migrate",
            0 => "migrate",
            1 => "poweroff-migrate",
            2 => "poweroff-hard-migrate",
            other => {
                return Err(Refusal::Action(format!(
                    "Wrong migration type {other}; use 0 to save the guest, 1 to shut it down, 2 to switch it off."
                )));
            }
        };
        let action = VmAction::from_word(word).ok_or_else(|| Refusal::UnknownAction { action: word.into() })?;
        let event = action.event.ok_or_else(|| Refusal::UnknownAction { action: word.into() })?;
        next(from, event)?;
        let old = tx.host(row.host_id.ok_or_else(|| Refusal::WrongState {
            action: word.into(),
            state: from.name().into(),
        })?)?;
        if old.id == to.id {
            return Err(Refusal::Action(format!("VM {id} is already on host {}.", to.id)));
        }
        check_usable(&to)?;
        if !(hosts::is_dummy(&old) && hosts::is_dummy(&to)) {
            return Err(Refusal::Action(format!(
                "VM {id} cannot be moved from host {} to host {}: migration between libvirt hosts is not supported. Stop or \
                 undeploy it, and deploy it there.",
                old.id, to.id
            )));
        }
        if wish.enforce {
            capacity::check(tx, &to, &row, ledger::vm_size(&view::stored(&row.template)))?;
        }
        let now = cloud.clock.now();
        ledger::history_act(tx, id, action.history, caller.uid, caller.gid)?;
        row.host_id = Some(to.id);
        ledger::history_place(tx, id, &to, now)?;
        ledger::vm_step(tx, &mut row, event, now)?;
        job::add_for_phase(tx, &row, ledger::phase(&row), wish.kind == 2, caller.uid, now)?;
        Ok(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// Attributes that `one.vm.resize` can change.
const CAPACITY: [&str; 3] = ["CPU", "MEMORY", "VCPU"];

/// `one.vm.resize`: processors and memory, from the next boot on; of a running guest only on hosts of the dummy driver.
///
/// # Errors
/// Not authorised (by the lists of operations), values that make no VM, wrong state, no room with `enforce`.
pub fn resize(cloud: &Cloud, caller: &Caller, id: i64, text: &str, enforce: bool) -> Result<i64, Refusal> {
    let wish = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, caller.vm_rights.right_for(VmOperation::Resize), id)?;
        let from = ledger::phase(&row);
        next(from, VmEvent::ResizeStart)?;
        let capacity = wanted(&wish)?;
        let mut system = view::stored(&row.template);
        for (name, value) in &capacity {
            system.set(name, value.clone());
        }
        vm_create::check_size(&system).map_err(|refusal| match refusal {
            Refusal::Allocate { reason, .. } => Refusal::Action(reason),
            other => other,
        })?;
        let host = row.host_id.map(|host_id| tx.host(host_id)).transpose()?;
        if from.state == VmState::Active && !host.as_ref().is_some_and(hosts::is_dummy) {
            return Err(Refusal::Action(format!(
                "VM {id} cannot be resized while it runs; power it off first. The new size takes effect at the next boot."
            )));
        }
        if let Some(host) = host.filter(|_| enforce) {
            capacity::check(tx, &host, &row, ledger::vm_size(&system))?;
        }
        let now = cloud.clock.now();
        ledger::vm_step(tx, &mut row, VmEvent::ResizeStart, now)?;
        if row.host_id.is_some() {
            ledger::history_action(tx, id, ledger::action::RESIZE, caller.uid, caller.gid, now)?;
        }
        if ledger::phase(&row) == from {
            row.template = system.to_text();
            quota::save_vm(tx, &row)?.allowed(tx, caller.uid)?;
        } else {
            job::add(tx, JobKind::Resize, JobSubject::vm(&row, caller.uid), &ResizePlan { capacity }, now)?;
        }
        Ok::<_, Refusal>(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn wanted(wish: &Template) -> Result<Vec<(String, String)>, Refusal> {
    let mut capacity = Vec::new();
    for attribute in wish.attributes() {
        match &attribute.value {
            Value::Scalar(text) if CAPACITY.contains(&attribute.name.as_str()) => {
                capacity.push((attribute.name.clone(), text.trim().to_owned()));
            }
            _ => {
                let names = CAPACITY.join(", ");
                return Err(Refusal::Action(format!("{} cannot be resized; only {names} can.", attribute.name)));
            }
        }
    }
    if capacity.is_empty() {
        return Err(Refusal::Action("No CPU, MEMORY or VCPU in the template, so there is nothing to resize.".into()));
    }
    Ok(capacity)
}
