//! The jobs that move a VM through its life. All of them run the same loop: do what the VM's phase asks for, write down that
//! it is done, look again, until the VM rests, runs, or belongs to another job.
//!
//! Every step is repeatable by name, so a job that was cut off is simply run again. Nothing is written down for a VM that
//! has moved on meanwhile (recovered, deleted): the job then ends without a word.

use std::sync::Arc;

use drivers::hypervisor::DomainState;
use drivers::{Cancel, DriverError, Hypervisor, Kind};
use one_core::lifecycle::{LcmState, VmChange, VmEvent, VmPhase, VmState, driver_answers};

use super::{Engine, Trouble};
use crate::job::{self, JobKind, ResizePlan, StopPlan};
use crate::ledger::{self, stored};
use crate::quota;
use crate::store::StoreError;
use crate::store::rows::{HostRow, JobRow, VmRow};

pub(super) use super::vm_boot::format_of;

/// A failure that trying again does not help.
pub(super) fn permanent(doing: &str, reason: impl Into<String>) -> Trouble {
    DriverError::new(Kind::Permanent, doing, reason).into()
}

/// Whether a domain in this state does not run; none = not defined.
pub(super) fn is_off(state: Option<DomainState>) -> bool {
    matches!(state, None | Some(DomainState::Off | DomainState::Crashed))
}

fn cancelled(doing: &str) -> Trouble {
    DriverError::new(Kind::Cancelled, doing, "another action has taken over").into()
}

impl Engine {
    /// The VM of a job with its host's hypervisor.
    pub(super) fn vm_of(&self, job: &JobRow) -> Result<(VmRow, HostRow, Arc<dyn Hypervisor>), Trouble> {
        let row = self.vm_row_of(job)?;
        let (host, hypervisor) = self.host_of(&row)?;
        Ok((row, host, hypervisor))
    }

    fn vm_row_of(&self, job: &JobRow) -> Result<VmRow, Trouble> {
        let vm_id = job.vm_id.ok_or(StoreError::NotFound { what: "VM of job", id: job.id })?;
        Ok(self.cloud.store.read(|tx| tx.vm(vm_id))?)
    }

    /// The host that the VM is on.
    fn host_of(&self, row: &VmRow) -> Result<(HostRow, Arc<dyn Hypervisor>), Trouble> {
        let host_id = row.host_id.ok_or(StoreError::NotFound { what: "host of VM", id: row.id })?;
        let host = self.cloud.store.read(|tx| tx.host(host_id))?;
        let hypervisor = self.outside.hypervisor(&host)?;
        Ok((host, hypervisor))
    }

    /// The host that the VM is on, or was on last; none when it never had one, or that is gone from the records.
    pub(super) fn last_host_of(&self, row: &VmRow) -> Result<Option<Arc<dyn Hypervisor>>, Trouble> {
        let host = self.cloud.store.read(|tx| {
            let last = tx.history_last(row.id)?.map(|record| record.host_id);
            row.host_id.or(last).map_or(Ok(None), |id| tx.host_find(id))
        })?;
        Ok(host.map(|host| self.outside.hypervisor(&host)).transpose()?)
    }

    /// Runs a job of a VM's life.
    pub(super) fn live(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: StopPlan = job::plan(job)?;
        let kind = JobKind::parse(&job.kind);
        loop {
            if job.cancel == 1 || cancel.is_cancelled() {
                return Err(cancelled("moving a VM"));
            }
            let row = self.vm_row_of(job)?;
            let phase = ledger::phase(&row);
            if !kind.is_some_and(|kind| kind.drives(phase)) {
                return self.close(job, "done", "");
            }
            let done = self.phase_step(job, &row, phase, plan.hard, cancel)?;
            if !self.phase_done(row.id, phase, done)? {
                return self.close(job, "cancelled", "the VM has moved on");
            }
            if phase.lcm == LcmState::Shutdown {
                crate::crash::point("terminate.off");
            }
        }
    }

    /// Does what one phase asks for; returns the event of its success.
    fn phase_step(
        &self,
        job: &JobRow,
        row: &VmRow,
        phase: VmPhase,
        hard: bool,
        cancel: &Cancel,
    ) -> Result<VmEvent, Trouble> {
        use LcmState as L;
        let domain = row.deploy_id.as_str();
        match phase.lcm {
            L::Prolog => {
                self.prolog(row, job.attempts == 0)?;
                crate::crash::point("deploy.disks");
            }
            L::PrologResume | L::PrologUndeploy => self.prolog_again(row)?,
            L::Boot | L::BootPoweroff | L::BootUnknown | L::BootUndeploy => {
                let (host, hypervisor) = self.host_of(row)?;
                self.boot(row, &host, hypervisor.as_ref())?;
            }
            L::BootSuspended | L::BootStopped | L::BootMigrate => {
                let (host, hypervisor) = self.host_of(row)?;
                self.wake(row, &host, hypervisor.as_ref())?;
            }
            L::Shutdown | L::ShutdownPoweroff | L::ShutdownUndeploy => {
                let (_, hypervisor) = self.host_of(row)?;
                self.take_down(hypervisor.as_ref(), domain, hard, cancel)?;
                crate::crash::point("poweroff.off");
            }
            L::SaveSuspend | L::SaveStop => {
                let (_, hypervisor) = self.host_of(row)?;
                self.save(row, hypervisor.as_ref(), job.attempts == 0)?;
            }
            L::EpilogStop | L::EpilogUndeploy => {
                let (_, hypervisor) = self.host_of(row)?;
                hypervisor.undefine(domain)?;
                crate::crash::point("undeploy.undefined");
            }
            L::Epilog | L::CleanupDelete | L::CleanupResubmit => {
                self.remove_vm(row, cancel)?;
                crate::crash::point("terminate.clean");
            }
            _ => return self.migration_step(job, row, phase, hard, cancel),
        }
        Ok(driver_answers(phase).map_or(VmEvent::Booted, |(done, _)| done))
    }

    /// Writes down that a phase is done; false when the VM is not in it any more.
    fn phase_done(&self, vm_id: i64, phase: VmPhase, done: VmEvent) -> Result<bool, Trouble> {
        let now = self.cloud.clock.now();
        let moved = self.cloud.store.write(|tx| {
            // The row may have been renamed or configured meanwhile: only the state is ours.
            let mut row = tx.vm(vm_id)?;
            if ledger::phase(&row) != phase {
                return Ok(false);
            }
            ledger::vm_step(tx, &mut row, done, now)?;
            let to = ledger::phase(&row);
            if ledger::is_away(to) {
                row.host_id = None;
                quota::save_vm(tx, &row)?;
            }
            if to == VmPhase::DONE {
                ledger::vm_end(tx, vm_id)?;
            }
            if to == VmPhase::RUNNING {
                ledger::vm_error(tx, &mut row, None)?;
            }
            Ok::<_, Trouble>(true)
        })?;
        // Whoever waits for a place or for an image looks again.
        self.cloud.wake.ring();
        Ok(moved)
    }

    /// Reboot.
    pub(super) fn reboot(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: StopPlan = job::plan(job)?;
        let (row, _, hypervisor) = self.vm_of(job)?;
        if ledger::phase(&row) == VmPhase::RUNNING {
            hypervisor.reboot(&row.deploy_id, plan.hard)?;
        }
        self.close(job, "done", "")
    }

    /// Resize of a running guest: only pretended guests can, and of them nothing but the record changes.
    pub(super) fn resize_running(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: ResizePlan = job::plan(job)?;
        let vm_id = self.vm_row_of(job)?.id;
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let mut row = tx.vm(vm_id)?;
            if ledger::phase(&row) != VmPhase::active(LcmState::HotplugResize) {
                return Ok(());
            }
            let mut template = stored(&row.template);
            for (name, value) in &plan.capacity {
                template.set(name, value.clone());
            }
            row.template = template.to_text();
            quota::save_vm(tx, &row)?;
            ledger::vm_step(tx, &mut row, VmEvent::ChangeDone(VmChange::Capacity), now)?;
            Ok::<_, Trouble>(())
        })?;
        self.close(job, "done", "")
    }

    /// Removes the files of a VM that is DONE already, then lets go of what it held.
    pub(super) fn clear(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let row = self.vm_row_of(job)?;
        self.remove_vm(&row, cancel)?;
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            ledger::vm_end(tx, row.id)?;
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, "done", now, "")
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// Puts the VM into the failure state of what it was doing, with the reason where its owner looks.
    pub(super) fn vm_failed(&self, job: &JobRow, trouble: &Trouble, cancelled: bool) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let zone = self.cloud.config.timezone;
        self.cloud.store.write(|tx| {
            if let Some(mut row) = job.vm_id.map(|id| tx.vm_find(id)).transpose()?.flatten() {
                // A job that was cancelled has been taken over by the action that cancelled it.
                if !cancelled {
                    if let Some(event) = failure_of(ledger::phase(&row)) {
                        ledger::vm_step_failed(tx, &mut row, event, now)?;
                    }
                    ledger::vm_error(tx, &mut row, Some((&format!("{}: {trouble}", job.kind), now, zone)))?;
                }
                if job.kind == JobKind::Clear.as_str() {
                    // What could not be removed is left behind, aloud; nobody waits for it.
                    ledger::vm_end(tx, row.id)?;
                }
            }
            let current = tx.job(job.id)?;
            let phase = if cancelled { "cancelled" } else { "failed" };
            tx.job_advance(job.id, &current.phase, phase, now, &trouble.to_string())?;
            Ok::<_, Trouble>(())
        })?;
        self.cloud.wake.ring();
        Ok(())
    }
}

/// The event of a failure in this phase. Clearing away that fails waits for somebody to ask again; backups and restores have
/// ways of their own.
fn failure_of(phase: VmPhase) -> Option<VmEvent> {
    let own = [LcmState::CleanupDelete, LcmState::CleanupResubmit, LcmState::Restore];
    if phase.is_backing_up() || (phase.state == VmState::Active && own.contains(&phase.lcm)) {
        return None;
    }
    driver_answers(phase).map(|(_, failed)| failed)
}
