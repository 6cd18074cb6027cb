//! Taking a backup back: after a failure or a cancel nothing of it stays, and the VM returns.

use drivers::{Cancel, Kind, Progress};
use one_core::lifecycle::{JobEvent, JobPhase, Recovery, Seen, VmEvent, job_next, recover};

use super::backup::{Order, Work, phase_of};
use super::{Engine, Trouble};
use crate::job::{self, JobKind};
use crate::ledger::{self, BackupEnd, EndedBackup};
use crate::quota;
use crate::store::rows::JobRow;
use crate::store::{JobFilter, Tx};

/// Rest between two attempts to clean up behind a recorded backup, seconds.
const RECORDED_PAUSE_S: i64 = 60;

/// Rest between two attempts to take a failed backup back, seconds.
const UNDO_PAUSE_S: i64 = 15;

impl Engine {
    /// Takes everything back after a failure or a cancel.
    pub(super) fn undo_backup(&self, job: &JobRow, trouble: &Trouble) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let row = self.cloud.store.read(|tx| tx.job(job.id))?;
        let phase = phase_of(&row)?;
        if phase.is_recorded() {
            // Forward only: the rest is tried again later.
            return self.later(job.id, RECORDED_PAUSE_S);
        }
        if phase != JobPhase::Undoing && self.rescue(&row, phase) {
            return self.later(job.id, UNDO_PAUSE_S);
        }
        if phase != JobPhase::Undoing {
            self.begin_undo(job, phase, &trouble.to_string())?;
            match self.abandon(job).and_then(|()| self.work(job)).and_then(|work| self.finish_undo(&work)) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(target: "ONE", job = job.id, "Job {} cannot be taken back yet: {error}", job.id);
                }
            }
        }
        // What is left outside cannot be reached now. The VM need not wait for it: its next jobs run after this one, which
        // goes on cleaning until all is gone.
        self.cloud.store.write(|tx| {
            let row = tx.job(job.id)?;
            self.release_vm(tx, &row, now)
        })?;
        self.later(job.id, UNDO_PAUSE_S)
    }

    /// Writes down that a backup is taken back, and tells who wanted it, both at once: whoever takes it up from here tells
    /// nobody again.
    pub(super) fn begin_undo(&self, job: &JobRow, phase: JobPhase, why: &str) -> Result<(), Trouble> {
        let to = job_next(phase, JobEvent::Undo)?;
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let mut row = tx.job(job.id)?;
            row.error = ledger::flat(why);
            tx.job_update(&row)?;
            quota::release_backup(tx, job.id)?;
            tx.job_advance(job.id, phase.as_str(), to.as_str(), now, &row.error)?;
            self.tell_failure(tx, &row, now)
        })?;
        crate::crash::point("backup.undoing");
        Ok(())
    }

    /// Records the restore point of a job that cannot be carried on, when it is whole. That needs no hypervisor; what is left
    /// there is cleared away when it can be reached. False when there is no such point, or nobody can tell.
    fn rescue(&self, row: &JobRow, phase: JobPhase) -> bool {
        let record = || -> Result<bool, Trouble> {
            let order = Order { job: row, plan: job::plan(row)? };
            let mut stored = None;
            if phase != JobPhase::Sealed {
                // A cancel was seen in time: what is there is not wanted.
                if row.cancel == 1 || phase == JobPhase::Planned {
                    return Ok(false);
                }
                let datastore = self.backup_datastore(order.plan.decision.datastore_id)?;
                stored = datastore.find(&order.plan.series, &order.plan.label(row.id))?;
            }
            let sealed = phase == JobPhase::Sealed || stored.is_some();
            let seen = Seen { sealed, cancel: row.cancel == 1, attempts_left: false };
            if recover(phase, seen) != Recovery::AdoptSealed {
                return Ok(false);
            }
            if let Some(stored) = stored {
                self.adopt(&order, phase, stored)?;
            }
            self.record(&order)?;
            Ok(true)
        };
        record().unwrap_or_else(|error| {
            tracing::warn!(target: "ONE", job = row.id, "The restore point of job {} is not recorded: {error}", row.id);
            false
        })
    }

    /// Ends a backup that was cancelled before it began anything: there is nothing outside to take back.
    pub(super) fn give_up_unbegun(&self, job: &JobRow) -> Result<(), Trouble> {
        let undoing = job_next(JobPhase::Planned, JobEvent::Undo)?;
        let ended = job_next(undoing, JobEvent::Cancel)?;
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            quota::release_backup(tx, job.id)?;
            tx.job_advance(job.id, JobPhase::Planned.as_str(), undoing.as_str(), now, "cancelled before it began")?;
            tx.job_advance(job.id, undoing.as_str(), ended.as_str(), now, "")?;
            self.tell_failure(tx, job, now)?;
            self.release_vm(tx, job, now)
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// Tells who wanted the backup that there will be none.
    fn tell_failure(&self, tx: &mut Tx<'_>, job: &JobRow, now: i64) -> Result<(), Trouble> {
        let plan = job::plan(job)?;
        let end = if job.cancel == 1 { BackupEnd::Cancelled } else { BackupEnd::Failed(&job.error) };
        let Some(vm_id) = job.vm_id else { return Ok(()) };
        let zone = self.cloud.config.timezone;
        Ok(ledger::backup_ended(tx, &EndedBackup { vm_id, job, plan: &plan, end, now, zone })?)
    }

    fn later(&self, job_id: i64, pause_s: i64) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let mut row = tx.job(job_id)?;
            row.not_before = now + pause_s;
            tx.job_update(&row)
        })?;
        Ok(())
    }

    /// Takes the rest back when the session is ended ([`Engine::abandon`]).
    pub(super) fn finish_undo(&self, work: &Work<'_>) -> Result<(), Trouble> {
        work.drop_checkpoint()?;
        // Not the job's own wish to stop: it is what is being carried out.
        // Published after all (the answer was lost, or the cancel came too late): it is not wanted any more.
        if let Some(stored) = work.datastore.find(&work.plan.series, &work.plan.label(work.job.id))? {
            let progress = Progress::default();
            work.datastore.forget(&work.plan.series, &[stored.point], &progress, &Cancel::default())?;
        }
        // Only room is lost by what is not swept; a damaged repository must not hold the job for ever.
        if let Err(error) = work.datastore.sweep(&work.plan.series, &Progress::default()) {
            if error.kind == Kind::Retry {
                return Err(error.into());
            }
            tracing::warn!(target: "ONE", job = work.job.id, "Job {} leaves data behind: {error}", work.job.id);
        }
        crate::crash::point("backup.undone");
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let row = tx.job(work.job.id)?;
            let event = if row.cancel == 1 { JobEvent::Cancel } else { JobEvent::Fail };
            let to = job_next(JobPhase::Undoing, event)?;
            tx.job_advance(row.id, JobPhase::Undoing.as_str(), to.as_str(), now, &row.error)?;
            self.release_vm(tx, &row, now)
        })?;
        self.look_at_soon(work.plan.host_id);
        self.cloud.wake.ring();
        Ok(())
    }

    /// Returns the VM of a backup that failed, with the reason where its owner looks. Does nothing the second time.
    fn release_vm(&self, tx: &mut Tx<'_>, job: &JobRow, now: i64) -> Result<(), Trouble> {
        let Some(mut vm) = job.vm_id.map(|id| tx.vm_find(id)).transpose()?.flatten() else { return Ok(()) };
        // The second time a later backup may have begun: that one releases the VM itself.
        let backup = |other: &JobRow| other.id > job.id && other.kind == JobKind::Backup.as_str();
        if !ledger::phase(&vm).is_backing_up() || tx.jobs_open(JobFilter::Vm(vm.id))?.iter().any(backup) {
            return Ok(());
        }
        let mut config = ledger::config_of(&vm);
        config.end_backup();
        vm.backup_config = ledger::config_text(&config);
        tx.vm_update(&vm)?;
        ledger::vm_step(tx, &mut vm, VmEvent::BackupEnd, now)?;
        let text = if job.cancel == 1 { "cancelled on request" } else { job.error.as_str() };
        ledger::vm_error(tx, &mut vm, Some((&format!("BACKUP: {text}"), now, self.cloud.config.timezone)))?;
        Ok(())
    }
}
