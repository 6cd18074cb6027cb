//! A backup, from intent to clean.
//!
//! ```text
//! planned   the plan is written; the VM is in BACKUP
//! prepared  the point in time is open: hypervisor session, checkpoint
//! copied    every byte is in the datastore
//! sealed    the restore point is published; its id is in the job's row
//! recorded  the image or increment exists, the VM is back, the old chain has given way to the new
//! cleaned   superseded checkpoints are gone
//! ```
//!
//! The guest is let go (session ended) as soon as the restore point is sealed. After *recorded* there is only forward. A
//! job found in an earlier phase is decided by `lifecycle::recover` from what is seen outside.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drivers::datastore::Stored;
use drivers::hypervisor::{BackupDisk, BackupSpec, DiskFormat, DomainState, Freeze};
use drivers::{BackupDatastore, BackupSession, Cancel, DriverError, Hypervisor, Kind, Progress};
use one_core::backup::{FreezeFail, FsFreeze, Mode, PlanKind, unmarked_warning};
use one_core::lifecycle::{JobEvent, JobPhase, Recovery, Seen, VmEvent, job_next, recover};

use super::backup_record::{Begun, Sealed, retain, write_point};
use super::backup_store::{Copied, begin, store};
use super::vm_jobs::format_of;
use super::watch::Watch;
use super::{ATTEMPTS_MAX, Engine, Trouble};
use crate::capacity;
use crate::job::{self, BackupPlan};
use crate::ledger::{self, BackupEnd, EndedBackup};
use crate::progress::Subject;
use crate::quota;
use crate::store::StoreError;
use crate::store::rows::JobRow;

/// How long quiescing the guest may take in all.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is written of a backup: enough to record one whose restore point is whole.
pub(super) struct Order<'a> {
    pub(super) job: &'a JobRow,
    pub(super) plan: BackupPlan,
}

/// The same with a running backup's tools.
pub(super) struct Work<'a> {
    pub(super) order: Order<'a>,
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    pub(super) datastore: Arc<dyn BackupDatastore>,
    pub(super) spec: BackupSpec,
    /// Whether the datastore's room is looked at before anything is stored.
    pub(super) checks_room: bool,
}

impl<'a> Deref for Work<'a> {
    type Target = Order<'a>;

    fn deref(&self) -> &Order<'a> {
        &self.order
    }
}

impl Order<'_> {
    pub(super) fn vm_id(&self) -> i64 {
        self.job.vm_id.unwrap_or(-1)
    }
}

impl Work<'_> {
    fn disk_paths(&self) -> Vec<PathBuf> {
        self.plan.disks.iter().filter(|disk| disk.format == "qcow2").map(|disk| disk.path.clone()).collect()
    }

    /// Directories of the scratch files; none for a VM that is off.
    fn scratch_places(&self) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = Vec::new();
        if self.plan.live {
            places.extend(self.spec.disks.iter().filter_map(|disk| disk.scratch.parent().map(Into::into)));
            places.dedup();
        }
        places
    }

    /// What to warn of when the guest ran when its backup was asked for, and is off now that its disks are read: it was shut
    /// down or killed meanwhile, perhaps in the middle of an earlier attempt. To be asked once the session is open: one of a
    /// guest that runs dies with the guest.
    fn went_off(&self) -> Result<Option<String>, DriverError> {
        let off = [Some(DomainState::Off), Some(DomainState::Crashed), None];
        let went = self.plan.live && off.contains(&self.hypervisor.state(&self.plan.domain)?);
        Ok(went.then(|| {
            "the guest went off after this backup was asked for; this is what its disks held from then on".into()
        }))
    }

    pub(super) fn drop_checkpoint(&self) -> Result<(), DriverError> {
        let Some(checkpoint) = &self.plan.checkpoint else { return Ok(()) };
        self.hypervisor.delete_checkpoint(&self.plan.domain, checkpoint, &self.disk_paths())
    }
}

pub(super) fn phase_of(job: &JobRow) -> Result<JobPhase, Trouble> {
    Ok(job.phase.parse::<JobPhase>()?)
}

impl Engine {
    /// Runs a backup job from wherever it is.
    pub(super) fn backup(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let mut phase = phase_of(job)?;
        let untouched = phase == JobPhase::Planned && job.attempts == 0;
        if untouched && job.cancel == 1 {
            return self.give_up_unbegun(job);
        }
        if !untouched && !phase.is_recorded() {
            // Whatever follows: nothing of the interrupted session is of use. Before the datastore is opened, which may
            // take long.
            self.abandon(job)?;
        }
        let work = self.work(job)?;
        let progress = Progress::default();
        let shown = self.cloud.board.show(Subject::Vm(work.vm_id()), "backup", &progress);
        if !untouched {
            phase = self.take_up(&work, phase, &progress)?;
        }
        if phase == JobPhase::Undoing {
            drop(shown);
            return self.finish_undo(&work);
        }
        let mut unended = None;
        if phase == JobPhase::Planned {
            cancel.check()?;
            unended = self.copy(&work, &progress, cancel)?;
            phase = JobPhase::Sealed;
        }
        drop(shown);
        if phase == JobPhase::Sealed {
            self.record(&work)?;
            crate::crash::point("backup.recorded");
            phase = JobPhase::Recorded;
        }
        if let Some(error) = unended {
            // What is whole is not lost because the guest could not be let go; that is tried until it is done.
            tracing::warn!(target: "ONE", job = job.id, "Ending the session of job {}: {error}", job.id);
            work.hypervisor.abandon_backup(&work.spec)?;
        }
        if phase == JobPhase::Recorded {
            self.clean(&work)?;
            self.advance(&work, JobPhase::Recorded, JobEvent::Clean, "")?;
            phase = JobPhase::Cleaned;
        }
        if phase == JobPhase::Cleaned {
            self.advance(&work, JobPhase::Cleaned, JobEvent::Finish, "")?;
        }
        self.cloud.wake.ring();
        Ok(())
    }

    pub(super) fn work<'a>(&self, job: &'a JobRow) -> Result<Work<'a>, Trouble> {
        let plan: BackupPlan = job::plan(job)?;
        let hypervisor = self.source_of(&plan)?;
        let row = self.cloud.store.read(|tx| tx.datastore(plan.decision.datastore_id))?;
        let checks_room = capacity::is_checked(&self.cloud.config, &ledger::stored(&row.template));
        let datastore = self.outside.datastore(&self.cloud.secret, &row)?;
        let spec = self.spec(job, &plan)?;
        Ok(Work { order: Order { job, plan }, hypervisor, datastore, spec, checks_room })
    }

    pub(super) fn spec(&self, job: &JobRow, plan: &BackupPlan) -> Result<BackupSpec, Trouble> {
        let since = match &plan.decision.kind {
            PlanKind::Increment { since_checkpoint, .. } => since_checkpoint.clone(),
            PlanKind::Full { .. } => None,
        };
        let mut disks = Vec::new();
        for disk in &plan.disks {
            let format = format_of(&disk.format)?;
            disks.push(BackupDisk {
                id: disk.id,
                path: disk.path.clone(),
                format,
                target: disk.target.clone(),
                since: since.clone(),
                track: plan.checkpoint.is_some() && format == DiskFormat::Qcow2,
                scratch: BackupPlan::scratch(&disk.path, job.id),
            });
        }
        Ok(BackupSpec {
            domain: plan.domain.clone(),
            socket: BackupPlan::socket(&self.cloud.run_dir, job.id),
            checkpoint: plan.checkpoint.clone(),
            disks,
            freeze: match plan.decision.freeze {
                FsFreeze::None => Freeze::None,
                FsFreeze::Agent => Freeze::Agent,
                FsFreeze::Suspend => Freeze::Suspend,
            },
            freeze_required: plan.decision.freeze_fail == FreezeFail::Abort,
            freeze_timeout: FREEZE_TIMEOUT,
        })
    }

    /// Decides how an interrupted job goes on, and clears what stands in the way.
    fn take_up(&self, work: &Work<'_>, phase: JobPhase, progress: &Progress) -> Result<JobPhase, Trouble> {
        if phase == JobPhase::Recorded {
            // It may have been recorded although the session could not be ended.
            work.hypervisor.abandon_backup(&work.spec)?;
        }
        if phase == JobPhase::Undoing || matches!(phase, JobPhase::Recorded | JobPhase::Cleaned) {
            return Ok(phase);
        }
        let found = work.datastore.find(&work.plan.series, &work.plan.label(work.job.id))?;
        let row = self.cloud.store.read(|tx| tx.job(work.job.id))?;
        let seen =
            Seen { sealed: found.is_some(), cancel: row.cancel == 1, attempts_left: row.attempts <= ATTEMPTS_MAX };
        let way = recover(phase, seen);
        tracing::info!(target: "ONE", job = work.job.id, "Backup job {} found in phase {phase}: {way:?}", work.job.id);
        match (way, found) {
            (Recovery::AdoptSealed, Some(stored)) => {
                if phase != JobPhase::Sealed {
                    self.adopt(work, phase, stored)?;
                    // Its lock may still lie there. The point is good whatever comes of this.
                    sweep_if_possible(work.datastore.as_ref(), &work.plan.series, progress);
                }
                Ok(JobPhase::Sealed)
            }
            (Recovery::Undo, _) => {
                let why = if row.error.is_empty() { "given up after it was cut off" } else { &row.error };
                self.begin_undo(work.job, phase, why)?;
                Ok(JobPhase::Undoing)
            }
            (Recovery::Resume, _) => Ok(phase),
            (Recovery::Redo | Recovery::AdoptSealed, _) => {
                work.drop_checkpoint()?;
                work.datastore.sweep(&work.plan.series, progress)?;
                if phase != JobPhase::Planned {
                    self.advance(work, phase, JobEvent::Redo, "starting anew")?;
                }
                Ok(JobPhase::Planned)
            }
        }
    }

    /// Goes on with a restore point that was published although the job does not know it.
    pub(super) fn adopt(&self, work: &Order<'_>, phase: JobPhase, stored: Stored) -> Result<(), Trouble> {
        let row = self.cloud.store.read(|tx| tx.job(work.job.id))?;
        // Unreadable only when nothing was begun, and then nothing can have been published.
        let nothing = || Begun { time: work.plan.time, lost: None, warnings: Vec::new() };
        let begun = serde_json::from_str(&row.result).unwrap_or_else(|_| nothing());
        let reason = begun.lost.unwrap_or_else(|| work.reason_of_plan());
        let mut warnings = begun.warnings;
        warnings
            .push("this backup was cut off when its restore point was complete, and taken up from there".to_string());
        // What a comparison found is not known any more, so it does not count as one.
        let copied = Copied { stored, reason, warning: None, whole: work.parent().is_none() };
        let sealed = Sealed::new(copied, warnings, begun.time, self.cloud.clock.now());
        self.seal(work, phase, JobEvent::Adopt, &sealed)
    }

    /// Keeps what only the run itself knows of its point, for who may have to adopt it.
    fn note_begun(&self, work: &Order<'_>, begun: &Begun) -> Result<(), Trouble> {
        let result = serde_json::to_string(begun)
            .map_err(|e| StoreError::Broken { doing: "writing a job's result", reason: e.to_string() })?;
        self.cloud.store.write(|tx| {
            let mut row = tx.job(work.job.id)?;
            row.result = result;
            tx.job_update(&row)
        })?;
        Ok(())
    }

    fn advance(&self, work: &Work<'_>, from: JobPhase, event: JobEvent, text: &str) -> Result<JobPhase, Trouble> {
        let to = job_next(from, event)?;
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            if !quota::is_reserving(to) {
                quota::release_backup(tx, work.job.id)?;
            }
            tx.job_advance(work.job.id, from.as_str(), to.as_str(), now, text)
        })?;
        crate::crash::point(match to {
            JobPhase::Prepared => "backup.prepared",
            JobPhase::Copied => "backup.copied",
            JobPhase::Cleaned => "backup.cleaned",
            _ => "backup.other",
        });
        Ok(to)
    }

    fn seal(&self, work: &Order<'_>, from: JobPhase, event: JobEvent, sealed: &Sealed) -> Result<(), Trouble> {
        let to = job_next(from, event)?;
        let now = self.cloud.clock.now();
        let result = serde_json::to_string(sealed)
            .map_err(|e| StoreError::Broken { doing: "writing a job's result", reason: e.to_string() })?;
        self.cloud.store.write(|tx| {
            let mut row = tx.job(work.job.id)?;
            row.result = result;
            tx.job_update(&row)?;
            tx.job_advance(work.job.id, from.as_str(), to.as_str(), now, &sealed.point)
        })?;
        crate::crash::point("backup.sealed");
        Ok(())
    }

    /// Opens the point in time, copies it, publishes it, lets the guest go. Answers what stood in the way of the last.
    fn copy(&self, work: &Work<'_>, progress: &Progress, cancel: &Cancel) -> Result<Option<DriverError>, Trouble> {
        crate::crash::point("backup.planned");
        // Not the plan's time: the job may have waited, or be on a further attempt.
        let time = self.cloud.clock.now();
        let (session, lost) = begin(work)?;
        let mut session = Guarded { session: Some(session), work };
        crate::crash::point("backup.begun");
        let mut warnings = session.get()?.warnings();
        warnings.extend(work.went_off()?);
        self.note_begun(work, &Begun { time, lost: lost.clone(), warnings: warnings.clone() })?;
        self.advance(work, JobPhase::Planned, JobEvent::Prepare, "")?;
        cancel.check()?;

        let reserve_mb = self.cloud.config.scratch_reserve_mb;
        let watch = Watch::room(work.scratch_places(), reserve_mb.saturating_mul(1 << 20), cancel);
        let cut = Watch::cancel(&work.hypervisor, &work.spec, cancel);
        let copied = store(work, session.get()?.as_mut(), lost, time, progress, cancel);
        cut.stop();
        let full = watch.stop();
        // However a copy ended that was told to end, that is why.
        let copied = copied.map_err(|error| if cancel.is_cancelled() { DriverError::cancelled() } else { error });
        let copied = match copied {
            Err(error) if error.kind == Kind::Cancelled && full => {
                let reason = format!(
                    "less than {reserve_mb} MB (SCRATCH_RESERVE_MB) are free in the file system of the scratch files, so the \
                     backup was given up to keep the guest running; free space beside the VM's disks"
                );
                return Err(DriverError::new(Kind::Permanent, "reading the disks", reason).into());
            }
            other => other?,
        };
        crate::crash::point("backup.published");
        self.advance(work, JobPhase::Prepared, JobEvent::Copy, "")?;
        let sealed = Sealed::new(copied, warnings, time, self.cloud.clock.now());
        self.seal(work, JobPhase::Copied, JobEvent::Seal, &sealed)?;
        let unended = session.end().err();
        crate::crash::point("backup.ended");
        Ok(unended)
    }

    /// The transaction that makes the backup exist.
    pub(super) fn record(&self, work: &Order<'_>) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let row = self.cloud.store.read(|tx| tx.job(work.job.id))?;
        let sealed: Sealed = serde_json::from_str(&row.result)
            .map_err(|e| StoreError::Broken { doing: "reading a job's result", reason: e.to_string() })?;
        let to = job_next(JobPhase::Sealed, JobEvent::Record)?;
        let zone = self.cloud.config.timezone;
        self.cloud.store.write(|tx| {
            let mut vm = tx.vm(work.vm_id())?;
            let mut config = ledger::config_of(&vm);
            let (image_id, increment_id) = write_point(tx, &work.plan, &vm, &sealed, zone)?;
            config.end_backup();
            config.note(&ledger::flat(&sealed.reason), &ledger::flat(&sealed.warning));
            let chained = match &work.plan.decision.kind {
                PlanKind::Increment { .. } => true,
                PlanKind::Full { new_chain, .. } => *new_chain,
            };
            // A mode changed while the backup ran wins, and so does a backup job that the VM came into or left: the chain is
            // then only kept, not continued.
            let is_same_job = config.backup_job_id == work.plan.origin.backup_job_id();
            if chained && is_same_job && config.mode == Mode::Increment {
                config.advance_chain(image_id, increment_id);
            }
            vm.backup_config = ledger::config_text(&config);
            tx.vm_update(&vm)?;
            if ledger::phase(&vm).is_backing_up() {
                ledger::vm_step(tx, &mut vm, VmEvent::BackupEnd, now)?;
            }
            if sealed.unmarked_bytes > 0 {
                let text = format!("BACKUP: {}", unmarked_warning(sealed.unmarked_bytes));
                ledger::vm_error(tx, &mut vm, Some((&text, now, zone)))?;
            }
            // The image or increment counts with its real size now.
            quota::release_backup(tx, work.job.id)?;
            let told =
                if row.cancel == 1 { "the cancel came when the restore point was complete; it stays" } else { "" };
            tx.job_advance(work.job.id, JobPhase::Sealed.as_str(), to.as_str(), now, told)?;
            if let Some(mut datastore) = tx.datastore_find(work.plan.decision.datastore_id)? {
                datastore.monitored_at = 0;
                tx.datastore_update(&datastore)?;
            }
            retain(tx, &work.plan, &vm, (image_id, increment_id), config.keep(), now)?;
            let said = [sealed.reason.as_str(), &sealed.warning];
            let note = said.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
            let end = BackupEnd::Done {
                read_bytes: i64::try_from(sealed.read_bytes).unwrap_or(i64::MAX),
                stored_bytes: i64::try_from(sealed.stored_bytes).unwrap_or(i64::MAX),
                duration_s: sealed.duration_s,
                note: &note,
            };
            let ended = EndedBackup { vm_id: vm.id, job: &row, plan: &work.plan, end, now, zone };
            Ok::<_, Trouble>(ledger::backup_ended(tx, &ended)?)
        })?;
        let (vm_id, point) = (work.vm_id(), &sealed.point);
        tracing::info!(
            target: "VM", vm = vm_id,
            "VM {vm_id}: backup {point} done, {} bytes read, {} bytes stored", sealed.read_bytes, sealed.stored_bytes
        );
        if !sealed.reason.is_empty() {
            tracing::info!(target: "VM", vm = vm_id, "VM {vm_id}: backup {point}: {}", ledger::flat(&sealed.reason));
        }
        if !sealed.warning.is_empty() {
            tracing::warn!(target: "VM", vm = vm_id, "VM {vm_id}: backup {point}: {}", ledger::flat(&sealed.warning));
        }
        self.look_at_soon(work.plan.host_id);
        Ok(())
    }

    /// Deletes the checkpoints that the new one replaces.
    fn clean(&self, work: &Work<'_>) -> Result<(), Trouble> {
        let checkpoints = work.hypervisor.checkpoints(&work.plan.domain, &work.disk_paths())?;
        let vm = self.cloud.store.read(|tx| tx.vm_find(work.vm_id()))?;
        let active = match vm.map(|vm| ledger::config_of(&vm)).and_then(|config| config.chain()) {
            None => None,
            Some((image_id, increment_id)) => self
                .cloud
                .store
                .read(|tx| tx.increments(image_id))?
                .into_iter()
                .find(|point| point.increment_id == increment_id)
                .map(|point| point.checkpoint),
        };
        for checkpoint in checkpoints {
            if Some(&checkpoint) != active.as_ref() && BackupPlan::is_checkpoint_of(work.vm_id(), &checkpoint) {
                work.hypervisor.delete_checkpoint(&work.plan.domain, &checkpoint, &work.disk_paths())?;
            }
        }
        Ok(())
    }
}

impl Order<'_> {
    pub(super) fn parent(&self) -> Option<&str> {
        match &self.plan.decision.kind {
            PlanKind::Increment { parent_point, .. } => Some(parent_point),
            PlanKind::Full { .. } => None,
        }
    }

    /// Whether it is this run's turn to compare whole disks.
    pub(super) fn compares(&self) -> bool {
        matches!(self.plan.decision.kind, PlanKind::Increment { compare: true, .. })
    }

    pub(super) fn reason_of_plan(&self) -> String {
        match &self.plan.decision.kind {
            PlanKind::Full { reason, .. } => reason.clone(),
            PlanKind::Increment { reason, .. } if !reason.is_empty() => reason.clone(),
            PlanKind::Increment { since_checkpoint: Some(_), .. } => String::new(),
            PlanKind::Increment { since_checkpoint: None, .. } => {
                "no record of what changed was kept; everything was read".into()
            }
        }
    }
}

/// Removes what a dead daemon left in a series, when nobody else is busy there. What stays costs room, or keeps stock restic
/// from pruning for half an hour, nothing more.
pub(super) fn sweep_if_possible(datastore: &dyn BackupDatastore, series: &str, progress: &Progress) {
    if let Err(error) = datastore.sweep(series, progress) {
        tracing::warn!(target: "ONE", "Series {series} is not swept: {error}");
    }
}

/// A session that is ended also when the copy fails on the way.
struct Guarded<'a> {
    session: Option<Box<dyn BackupSession>>,
    work: &'a Work<'a>,
}

impl Guarded<'_> {
    fn get(&mut self) -> Result<&mut Box<dyn BackupSession>, DriverError> {
        self.session
            .as_mut()
            .ok_or_else(|| DriverError::new(Kind::Permanent, "reading the disks", "the session has ended"))
    }

    fn end(&mut self) -> Result<(), DriverError> {
        self.session.take().map_or(Ok(()), BackupSession::end)
    }
}

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            // The undo that follows looks for everything again by name.
            tracing::warn!(target: "ONE", job = self.work.job.id, "Ending the session of job {}: {error}", self.work.job.id);
        }
    }
}
