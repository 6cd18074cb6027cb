//! Virtual machines: looking at them, acting on them, configuring their backups.

use one_core::access::{Caller, may_unlocked};
use one_core::backup::Disks;
use one_core::doc;
use one_core::lifecycle::{LcmState, VmEvent, VmPhase, VmState};
use one_core::refusal::{Refusal, Right};

use super::pool::PoolFilter;
use super::vm_create::{self, NewVm};
use super::{Cloud, Owned, owned, parse, updated, view, vm_for};
use crate::job::{self, JobKind, JobSubject, StopPlan};
use crate::ledger;
use crate::store::rows::VmRow;
use crate::store::{JobFilter, Tx, VmFilter};

/// Most ids that one `infoset` call may name.
const INFOSET_MAX: usize = 10_000;

/// `one.vm.allocate`: makes a VM without a stored template.
///
/// # Errors
/// As [`vm_create::create`].
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str, hold: bool) -> Result<i64, Refusal> {
    let template = parse(text)?;
    let id = cloud.store.write(|tx| {
        vm_create::create(cloud, tx, caller, NewVm { template, template_id: None, name: None, base_name: None, hold })
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.vm.info`.
///
/// # Errors
/// Not authorised, unknown VM.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let row: VmRow = owned::to_show(tx, caller, id)?;
        let names = view::Names::read(tx)?;
        Ok(doc::vm(&view::vm(tx, &names, &cloud.board, &row)?))
    })
}

/// Which VMs a pool call asks for.
#[derive(Debug, Clone, Copy)]
pub struct PoolWish<'a> {
    /// Filter flag.
    pub flag: i64,
    /// Start of the range.
    pub start: i64,
    /// End of the range.
    pub end: i64,
    /// −2 any, −1 any except DONE, else that STATE.
    pub state: i64,
    /// Search text; only the empty one is supported.
    pub search: &'a str,
    /// Full documents.
    pub extended: bool,
}

/// `one.vmpool.info` and `infoextended`.
///
/// # Errors
/// A bad filter, a search text.
pub fn pool(cloud: &Cloud, caller: &Caller, wish: PoolWish<'_>) -> Result<String, Refusal> {
    let filter = PoolFilter::new(wish.flag, wish.start, wish.end)?;
    if !wish.search.is_empty() {
        return Err(Refusal::Internal("JSON query search is not supported by the SQL backend".into()));
    }
    let (state, with_done) = match wish.state {
        -2 => (None, true),
        -1 => (None, false),
        state @ 0..=11 => (Some(state), true),
        _ => return Err(Refusal::Api("Incorrect filter_flag, state".into())),
    };
    cloud.store.read(|tx| {
        let rows = filter.select(caller, tx.vms(VmFilter { state, with_done, ..VmFilter::default() })?);
        documents(cloud, tx, &rows, wish.extended)
    })
}

/// `one.vmpool.infoset`: the VMs of a comma list; unknown ids and foreign VMs are left out.
///
/// # Errors
/// A list that is too long.
pub fn info_set(cloud: &Cloud, caller: &Caller, ids: &str, extended: bool) -> Result<String, Refusal> {
    let ids: Vec<i64> = ids.split(',').take(INFOSET_MAX + 1).filter_map(|id| id.trim().parse().ok()).collect();
    if ids.len() > INFOSET_MAX {
        return Err(Refusal::Api(format!("At most {INFOSET_MAX} ids can be asked for at once")));
    }
    cloud.store.read(|tx| {
        let mut rows = Vec::new();
        for id in ids {
            rows.extend(tx.vm_find(id)?.filter(|row| may_unlocked(caller, Right::Use, &row.object()).is_ok()));
        }
        rows.sort_by_key(|row| row.id);
        rows.dedup_by_key(|row| row.id);
        documents(cloud, tx, &rows, extended)
    })
}

fn documents(cloud: &Cloud, tx: &mut Tx<'_>, rows: &[VmRow], extended: bool) -> Result<String, Refusal> {
    let names = view::Names::read(tx)?;
    let mut documents = Vec::with_capacity(rows.len());
    for row in rows {
        documents.push(if extended {
            doc::vm(&view::vm(tx, &names, &cloud.board, row)?)
        } else {
            doc::vm_short(&view::vm_short(tx, &names, &cloud.board, row)?)
        });
    }
    Ok(doc::pool("VM_POOL", documents.into_iter()))
}

/// What `one.vm.action` can be asked for: the word, the event, the job and whether it is hard.
const ACTIONS: [(&str, VmEvent, Option<JobKind>, bool); 9] = [
    ("poweroff", VmEvent::Poweroff, Some(JobKind::Stop), false),
    ("poweroff-hard", VmEvent::PoweroffHard, Some(JobKind::Stop), true),
    ("resume", VmEvent::Resume, Some(JobKind::Resume), false),
    ("reboot", VmEvent::Reboot, Some(JobKind::Reboot), false),
    ("reboot-hard", VmEvent::RebootHard, Some(JobKind::Reboot), true),
    ("terminate", VmEvent::Terminate, Some(JobKind::Terminate), false),
    ("terminate-hard", VmEvent::TerminateHard, Some(JobKind::Terminate), true),
    ("hold", VmEvent::Hold, None, false),
    ("release", VmEvent::Release, None, false),
];

/// `one.vm.action`: starts an action; returns the VM's id.
///
/// # Errors
/// Not authorised (MANAGE), unknown action, wrong state.
pub fn action(cloud: &Cloud, caller: &Caller, word: &str, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = vm_for(tx, caller, Right::Manage, id)?;
        act(cloud, tx, caller, row, word)
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// Starts an action on a VM whose rights are checked, within a transaction.
///
/// # Errors
/// Unknown action, wrong state.
pub fn act(cloud: &Cloud, tx: &mut Tx<'_>, caller: &Caller, mut row: VmRow, word: &str) -> Result<(), Refusal> {
    let Some((_, event, kind, hard)) = ACTIONS.iter().find(|(known, ..)| *known == word) else {
        return Err(Refusal::UnknownAction { action: word.into() });
    };
    let now = cloud.clock.now();
    // A VM that waits for a place is done at once: nothing of it exists outside.
    let was_placed = row.host_id.is_some();
    ledger::vm_step(tx, &mut row, *event, now)?;
    if ledger::phase(&row) == VmPhase::DONE && !was_placed {
        return end(tx, &row);
    }
    let Some(kind) = kind else { return Ok(()) };
    let number = match kind {
        JobKind::Stop => ledger::action::POWEROFF,
        JobKind::Resume => ledger::action::RESUME,
        JobKind::Terminate => ledger::action::TERMINATE,
        _ => 0,
    };
    if number != 0 && *kind != JobKind::Terminate {
        ledger::history_action(tx, row.id, number, caller.uid, caller.gid, now)?;
    }
    if *hard {
        // The polite stop that the guest ignores gives way.
        for job in tx.jobs_open(JobFilter::Vm(row.id))? {
            if job.kind == JobKind::Stop.as_str() || job.kind == JobKind::Terminate.as_str() {
                tx.job_ask_cancel(job.id)?;
            }
        }
    }
    add_job(tx, &row, *kind, &StopPlan { hard: *hard }, caller.uid, now)
}

/// Removes what a VM that was never placed holds.
fn end(tx: &mut Tx<'_>, row: &VmRow) -> Result<(), Refusal> {
    ledger::release_images(tx, row.id)?;
    for schedule in tx.schedules_of_vm(row.id)? {
        tx.schedule_delete(schedule.id)?;
    }
    Ok(())
}

fn add_job(tx: &mut Tx<'_>, row: &VmRow, kind: JobKind, plan: &StopPlan, uid: i64, now: i64) -> Result<(), Refusal> {
    let subject = JobSubject { vm_id: Some(row.id), host_id: row.host_id, uid, ..JobSubject::default() };
    job::add(tx, kind, subject, plan, now)?;
    Ok(())
}

/// `one.vm.recover`: 0 failure, 1 success, 2 retry, 3 delete, 4 delete-recreate, 5 delete-db.
///
/// # Errors
/// Not authorised (ADMIN), wrong number, wrong state.
pub fn recover(cloud: &Cloud, caller: &Caller, id: i64, operation: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, Right::Admin, id)?;
        let now = cloud.clock.now();
        let phase = ledger::phase(&row);
        match operation {
            // A running backup is given up: its job takes everything back and returns the VM.
            0 if phase.is_backing_up() => cancel_jobs(tx, id)?,
            2 => {
                ledger::vm_step(tx, &mut row, VmEvent::Retry, now)?;
                let kind = if phase.lcm == LcmState::EpilogFailure { JobKind::Terminate } else { JobKind::Deploy };
                add_job(tx, &row, kind, &StopPlan { hard: true }, caller.uid, now)?;
            }
            3 => {
                cancel_jobs(tx, id)?;
                ledger::vm_step(tx, &mut row, VmEvent::Delete, now)?;
                if ledger::phase(&row) == VmPhase::DONE {
                    end(tx, &row)?;
                } else {
                    add_job(tx, &row, JobKind::Terminate, &StopPlan { hard: true }, caller.uid, now)?;
                }
            }
            0 | 1 | 4 | 5 => {
                return Err(Refusal::Action(format!(
                    "Recovery operation {operation} does nothing for a VM in state {}; use --retry or --delete, or --failure \
                     to give up a backup.",
                    phase.name()
                )));
            }
            _ => return Err(Refusal::RecoverOperation),
        }
        Ok(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn cancel_jobs(tx: &mut Tx<'_>, vm_id: i64) -> Result<(), Refusal> {
    for job in tx.jobs_open(JobFilter::Vm(vm_id))? {
        tx.job_ask_cancel(job.id)?;
    }
    Ok(())
}

/// `one.vm.update`: the user's part of the template.
///
/// # Errors
/// Not authorised, a text that does not parse.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, Right::Manage, id)?;
        row.user_template = updated(&view::stored(&row.user_template), &new, kind)?.to_text();
        tx.vm_update(&row)?;
        Ok(id)
    })
}

/// Sections that updateconf takes beside BACKUP_CONFIG; a replace removes those that the text leaves out, CONTEXT excepted.
const CONF_SECTIONS: [&str; 7] = ["OS", "FEATURES", "INPUT", "GRAPHICS", "VIDEO", "RAW", "CPU_MODEL"];

/// `one.vm.updateconf`: BACKUP_CONFIG and the domain's configuration (the latter takes effect at the next boot).
///
/// # Errors
/// Not authorised, a state in which the configuration is fixed, a mode that the VM cannot do, restricted attributes.
pub fn update_conf(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    if !matches!(kind, 0 | 1) {
        return Err(Refusal::UpdateType);
    }
    cloud.store.write(|tx| {
        let mut row = vm_for(tx, caller, Right::Manage, id)?;
        let phase = ledger::phase(&row);
        if !conf_is_changeable(phase) {
            return Err(Refusal::ConfigState { phase });
        }
        let mut system = view::stored(&row.template);
        if let Some(wish) = new.vector("BACKUP_CONFIG") {
            let mut config = ledger::config_of(&row);
            config.update(wish, kind == 0, &Disks::from_template(&system, &[]))?;
            row.backup_config = ledger::config_text(&config);
        }
        let sections =
            new.attributes().iter().filter(|a| CONF_SECTIONS.contains(&a.name.as_str()) || a.name == "CONTEXT");
        let sections: Vec<_> = sections.cloned().collect();
        // A text that is only about backups leaves the domain alone, also as a replace: nobody means to lose the kernel by it.
        if !sections.is_empty() {
            vm_create::check_restricted(caller, &new)?;
            let old = system.clone();
            for name in CONF_SECTIONS.iter().filter(|name| kind == 0 || new.contains(name)) {
                system.remove(name);
            }
            for section in sections {
                if let one_core::template::Value::Vector(vector) = section.value {
                    system.push_vector(&section.name, vector);
                }
            }
            vm_create::keep_restricted(caller, &old, &mut system);
            row.template = system.to_text();
        }
        tx.vm_update(&row)?;
        Ok(id)
    })
}

/// In which states `one.vm.updateconf` works (OpenNebula's list).
fn conf_is_changeable(phase: VmPhase) -> bool {
    use LcmState as L;
    match phase.state {
        VmState::Pending
        | VmState::Hold
        | VmState::Poweroff
        | VmState::Undeployed
        | VmState::Cloning
        | VmState::CloningFailure => true,
        VmState::Active => match phase.lcm {
            L::LcmInit | L::Prolog | L::Running | L::Epilog => true,
            L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy | L::CleanupResubmit | L::CleanupDelete => true,
            L::EpilogUndeploy | L::PrologUndeploy | L::PrologMigratePoweroff | L::HotplugSaveasPoweroff => true,
            L::HotplugPrologPoweroff | L::HotplugEpilogPoweroff | L::DiskSnapshotPoweroff => true,
            L::DiskSnapshotRevertPoweroff | L::DiskSnapshotDeletePoweroff => true,
            // A boot, prolog or epilog that failed.
            lcm => lcm.name().ends_with("_FAILURE"),
        },
        _ => false,
    }
}
