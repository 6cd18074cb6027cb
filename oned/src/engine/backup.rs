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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drivers::datastore::{Change, SourceDisk, StoreRequest, Stored, StoredDisk};
use drivers::hypervisor::{BackupDisk, BackupSpec, DiskFormat, Freeze};
use drivers::{BackupDatastore, BackupSession, Cancel, DriverError, Hypervisor, Kind, Progress};
use one_core::access::Permissions;
use one_core::backup::{FsFreeze, Mode, PlanKind, expired_images, flatten, image_name};
use one_core::lifecycle::{ImageState, JobEvent, JobPhase, Recovery, Seen, VmEvent, VmState, job_next, recover};
use serde::{Deserialize, Serialize};

use super::image_jobs::mb;
use super::vm_jobs::format_of;
use super::{ATTEMPTS_MAX, Engine, Trouble};
use crate::job::{self, BackupPlan, JobKind, JobSubject, RetainPlan};
use crate::ledger;
use crate::progress::Subject;
use crate::store::rows::{ImageRow, IncrementRow, JobRow, VmRow};
use crate::store::{JobFilter, StoreError, Tx};

/// How long quiescing the guest may take in all.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the scratch files' disk is looked at.
const SCRATCH_PERIOD: Duration = Duration::from_millis(500);

/// What a sealed backup has to be recorded with; in the job's row from *sealed* on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sealed {
    point: String,
    read_bytes: u64,
    stored_bytes: u64,
    disks: Vec<(u32, u64)>,
    /// Why everything was read although an increment was planned, or why it is a full one.
    reason: String,
    warning: String,
    duration_s: i64,
}

impl Sealed {
    fn new(stored: Stored, reason: String, warning: String, duration_s: i64) -> Self {
        let disks = stored.disks.iter().map(|disk: &StoredDisk| (disk.id, disk.size_bytes)).collect();
        let Stored { point, read_bytes, stored_bytes, .. } = stored;
        Self { point, read_bytes, stored_bytes, disks, reason, warning, duration_s }
    }
}

/// A running backup's tools.
struct Work<'a> {
    job: &'a JobRow,
    plan: BackupPlan,
    hypervisor: Arc<dyn Hypervisor>,
    datastore: Arc<dyn BackupDatastore>,
    spec: BackupSpec,
}

impl Work<'_> {
    fn vm_id(&self) -> i64 {
        self.job.vm_id.unwrap_or(-1)
    }

    fn disk_paths(&self) -> Vec<std::path::PathBuf> {
        self.plan.disks.iter().filter(|disk| disk.format == "qcow2").map(|disk| disk.path.clone()).collect()
    }

    fn drop_checkpoint(&self) -> Result<(), DriverError> {
        let Some(checkpoint) = &self.plan.checkpoint else { return Ok(()) };
        self.hypervisor.delete_checkpoint(&self.plan.domain, checkpoint, &self.disk_paths())
    }
}

fn phase_of(job: &JobRow) -> Result<JobPhase, Trouble> {
    Ok(job.phase.parse::<JobPhase>()?)
}

impl Engine {
    /// Runs a backup job from wherever it is.
    pub(super) fn backup(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let work = self.work(job)?;
        let progress = Progress::default();
        let _shown = self.cloud.board.show(Subject::Vm(work.vm_id()), "backup", &progress);
        let mut phase = phase_of(job)?;
        let untouched = phase == JobPhase::Planned && job.attempts == 0;
        if !untouched {
            phase = self.take_up(&work, phase)?;
        }
        if phase == JobPhase::Undoing {
            return self.finish_undo(&work);
        }
        if phase == JobPhase::Planned {
            cancel.check()?;
            self.count_attempt(&work)?;
            self.copy(&work, &progress, cancel)?;
            phase = JobPhase::Sealed;
        }
        if phase == JobPhase::Sealed {
            self.record(&work)?;
            crate::crash::point("backup.recorded");
            phase = JobPhase::Recorded;
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

    fn work<'a>(&self, job: &'a JobRow) -> Result<Work<'a>, Trouble> {
        let plan: BackupPlan = job::plan(job)?;
        let host = self.cloud.store.read(|tx| tx.host(plan.host_id))?;
        let hypervisor = self.outside.hypervisor(&host)?;
        let datastore = self.backup_datastore(plan.decision.datastore_id)?;
        let spec = self.spec(job, &plan)?;
        Ok(Work { job, plan, hypervisor, datastore, spec })
    }

    fn spec(&self, job: &JobRow, plan: &BackupPlan) -> Result<BackupSpec, Trouble> {
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
            freeze_timeout: FREEZE_TIMEOUT,
        })
    }

    /// Decides how an interrupted job goes on, and clears what stands in the way.
    fn take_up(&self, work: &Work<'_>, phase: JobPhase) -> Result<JobPhase, Trouble> {
        if phase == JobPhase::Undoing || matches!(phase, JobPhase::Recorded | JobPhase::Cleaned) {
            return Ok(phase);
        }
        let found = work.datastore.find(&work.plan.series, &BackupPlan::label(work.job.id))?;
        let row = self.cloud.store.read(|tx| tx.job(work.job.id))?;
        let seen = Seen {
            sealed: found.is_some(),
            cancel: row.cancel == 1,
            attempts_left: row.attempts < ATTEMPTS_MAX,
            ..Seen::default()
        };
        let way = recover(phase, seen);
        tracing::info!(target: "ONE", job = work.job.id, "Backup job {} found in phase {phase}: {way:?}", work.job.id);
        // Whatever way: nothing of the interrupted session is of use.
        work.hypervisor.abandon_backup(&work.spec)?;
        match (way, found) {
            (Recovery::AdoptSealed, Some(stored)) => {
                if phase != JobPhase::Sealed {
                    let reason = work.reason_of_plan();
                    let warning = "the daemon was stopped while this backup ran".to_string();
                    let sealed = Sealed::new(stored, reason, warning, self.cloud.clock.now() - work.plan.time);
                    self.seal(work, phase, JobEvent::Adopt, &sealed)?;
                }
                Ok(JobPhase::Sealed)
            }
            (Recovery::Undo, _) => {
                self.advance(work, phase, JobEvent::Undo, "given up")?;
                Ok(JobPhase::Undoing)
            }
            (Recovery::Resume, _) => Ok(phase),
            (Recovery::Redo | Recovery::AdoptSealed, _) => {
                work.drop_checkpoint()?;
                work.datastore.sweep(&work.plan.series)?;
                if phase != JobPhase::Planned {
                    self.advance(work, phase, JobEvent::Redo, "starting anew")?;
                }
                Ok(JobPhase::Planned)
            }
        }
    }

    fn count_attempt(&self, work: &Work<'_>) -> Result<(), Trouble> {
        self.cloud.store.write(|tx| {
            let mut row = tx.job(work.job.id)?;
            row.attempts += 1;
            tx.job_update(&row)
        })?;
        Ok(())
    }

    fn advance(&self, work: &Work<'_>, from: JobPhase, event: JobEvent, text: &str) -> Result<JobPhase, Trouble> {
        let to = job_next(from, event)?;
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| tx.job_advance(work.job.id, from.as_str(), to.as_str(), now, text))?;
        crate::crash::point(match to {
            JobPhase::Prepared => "backup.prepared",
            JobPhase::Copied => "backup.copied",
            JobPhase::Undoing => "backup.undoing",
            JobPhase::Cleaned => "backup.cleaned",
            _ => "backup.other",
        });
        Ok(to)
    }

    fn seal(&self, work: &Work<'_>, from: JobPhase, event: JobEvent, sealed: &Sealed) -> Result<(), Trouble> {
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

    /// Opens the point in time, copies it, publishes it, lets the guest go.
    fn copy(&self, work: &Work<'_>, progress: &Progress, cancel: &Cancel) -> Result<(), Trouble> {
        crate::crash::point("backup.planned");
        let (session, whole) = begin(work)?;
        let mut session = Guarded { session: Some(session), work };
        crate::crash::point("backup.begun");
        self.advance(work, JobPhase::Planned, JobEvent::Prepare, "")?;
        let warnings = session.get()?.warnings();

        let watch = ScratchWatch::start(work, self.cloud.config.scratch_reserve_mb.saturating_mul(1 << 20), cancel);
        let stored = store(work, session.get()?.as_mut(), whole.is_some(), progress, cancel);
        let full = watch.stop();
        let (stored, whole) = match stored {
            Err(error) if error.kind == Kind::Cancelled && full => {
                return Err(DriverError::new(
                    Kind::Permanent,
                    "reading the disks",
                    "the file system of the scratch files was about to fill, so the backup was given up to keep the guest \
                     running; free space beside the VM's disks",
                )
                .into());
            }
            // The parent cannot be built upon: everything is read once more, as a point of its own in the same chain.
            Err(error) if matches!(error.kind, Kind::Corrupt | Kind::Missing) && work.parent().is_some() && whole.is_none() => {
                let reason = format!("{error}; everything was read");
                (store(work, session.get()?.as_mut(), true, progress, cancel)?, Some(reason))
            }
            other => (other?, whole),
        };
        crate::crash::point("backup.published");
        self.advance(work, JobPhase::Prepared, JobEvent::Copy, "")?;
        let reason = whole.unwrap_or_else(|| work.reason_of_plan());
        let duration_s = self.cloud.clock.now() - work.plan.time;
        let sealed = Sealed::new(stored, reason, warnings.join("; "), duration_s);
        self.seal(work, JobPhase::Copied, JobEvent::Seal, &sealed)?;
        session.end()?;
        crate::crash::point("backup.ended");
        Ok(())
    }

    /// The transaction that makes the backup exist.
    fn record(&self, work: &Work<'_>) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let row = self.cloud.store.read(|tx| tx.job(work.job.id))?;
        let sealed: Sealed = serde_json::from_str(&row.result)
            .map_err(|e| StoreError::Broken { doing: "reading a job's result", reason: e.to_string() })?;
        let to = job_next(JobPhase::Sealed, JobEvent::Record)?;
        let zone = self.cloud.config.timezone;
        self.cloud.store.write(|tx| {
            let mut vm = tx.vm(work.vm_id())?;
            let mut config = ledger::config_of(&vm);
            let (image_id, increment_id) = write_point(tx, work, &vm, &sealed, zone)?;
            config.end_backup();
            let chained = match &work.plan.decision.kind {
                PlanKind::Increment { .. } => true,
                PlanKind::Full { new_chain, .. } => *new_chain,
            };
            // A mode changed while the backup ran wins: the chain is then only kept, not continued.
            if chained && config.mode == Mode::Increment {
                config.advance_chain(image_id, increment_id);
            }
            vm.backup_config = ledger::config_text(&config);
            tx.vm_update(&vm)?;
            if ledger::phase(&vm).is_backing_up() {
                ledger::vm_step(tx, &mut vm, VmEvent::BackupEnd, now)?;
            }
            ledger::history_action(tx, vm.id, 0, -1, -1, now)?;
            tx.job_advance(work.job.id, JobPhase::Sealed.as_str(), to.as_str(), now, "")?;
            if let Some(mut datastore) = tx.datastore_find(work.plan.decision.datastore_id)? {
                datastore.monitored_at = 0;
                tx.datastore_update(&datastore)?;
            }
            retain(tx, work, &vm, image_id, config.keep(), now)
        })?;
        tracing::info!(
            target: "VM", vm = work.vm_id(),
            "VM {}: backup {} done, {} bytes read, {} bytes stored", work.vm_id(), sealed.point, sealed.read_bytes, sealed.stored_bytes
        );
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
            if Some(&checkpoint) != active.as_ref() {
                work.hypervisor.delete_checkpoint(&work.plan.domain, &checkpoint, &work.disk_paths())?;
            }
        }
        Ok(())
    }

    /// Takes everything back after a failure or a cancel.
    pub(super) fn undo_backup(&self, job: &JobRow, trouble: &Trouble) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let row = self.cloud.store.read(|tx| tx.job(job.id))?;
        let phase = phase_of(&row)?;
        if phase.is_recorded() {
            // Forward only: the rest is tried again later.
            self.cloud.store.write(|tx| {
                let mut row = tx.job(job.id)?;
                row.not_before = now + 60;
                row.attempts = 0;
                tx.job_update(&row)
            })?;
            return Ok(());
        }
        self.cloud.store.write(|tx| {
            let mut row = tx.job(job.id)?;
            row.error = ledger::flat(&trouble.to_string());
            row.not_before = 0;
            tx.job_update(&row)?;
            if phase == JobPhase::Undoing {
                row.not_before = now + 15;
                tx.job_update(&row)?;
                return Ok(());
            }
            let to = job_next(phase, JobEvent::Undo)?;
            tx.job_advance(job.id, phase.as_str(), to.as_str(), now, &trouble.to_string())?;
            Ok::<_, Trouble>(())
        })?;
        crate::crash::point("backup.undoing");
        if phase == JobPhase::Undoing {
            return Ok(());
        }
        let work = self.work(job)?;
        self.finish_undo(&work)
    }

    fn finish_undo(&self, work: &Work<'_>) -> Result<(), Trouble> {
        work.hypervisor.abandon_backup(&work.spec)?;
        work.drop_checkpoint()?;
        // Published after all (the answer was lost, or the cancel came too late): it is not wanted any more.
        if let Some(stored) = work.datastore.find(&work.plan.series, &BackupPlan::label(work.job.id))? {
            work.datastore.forget(&work.plan.series, &[stored.point])?;
        }
        work.datastore.sweep(&work.plan.series)?;
        crate::crash::point("backup.undone");
        let now = self.cloud.clock.now();
        let zone = self.cloud.config.timezone;
        self.cloud.store.write(|tx| {
            let row = tx.job(work.job.id)?;
            let event = if row.cancel == 1 { JobEvent::Cancel } else { JobEvent::Fail };
            let to = job_next(JobPhase::Undoing, event)?;
            tx.job_advance(row.id, JobPhase::Undoing.as_str(), to.as_str(), now, &row.error)?;
            if let Some(mut vm) = tx.vm_find(work.vm_id())? {
                let mut config = ledger::config_of(&vm);
                config.end_backup();
                vm.backup_config = ledger::config_text(&config);
                tx.vm_update(&vm)?;
                if ledger::phase(&vm).is_backing_up() {
                    ledger::vm_step(tx, &mut vm, VmEvent::BackupEnd, now)?;
                    ledger::history_action(tx, vm.id, 0, -1, -1, now)?;
                }
                if ledger::phase(&vm).state != VmState::Done {
                    let text = if row.cancel == 1 { "cancelled on request".into() } else { row.error.clone() };
                    ledger::vm_error(tx, &mut vm, Some((&format!("BACKUP: {text}"), now, zone)))?;
                }
            }
            Ok::<_, Trouble>(())
        })?;
        self.look_at_soon(work.plan.host_id);
        self.cloud.wake.ring();
        Ok(())
    }
}

impl Work<'_> {
    fn parent(&self) -> Option<&str> {
        match &self.plan.decision.kind {
            PlanKind::Increment { parent_point, .. } => Some(parent_point),
            PlanKind::Full { .. } => None,
        }
    }

    fn reason_of_plan(&self) -> String {
        match &self.plan.decision.kind {
            PlanKind::Full { reason, .. } => reason.clone(),
            PlanKind::Increment { since_checkpoint: Some(_), .. } => String::new(),
            PlanKind::Increment { since_checkpoint: None, .. } => "no record of what changed was kept; everything was read".into(),
        }
    }
}

/// Opens the session. When what changed is not known any more, everything is read, and the second value says why.
fn begin(work: &Work<'_>) -> Result<(Box<dyn BackupSession>, Option<String>), DriverError> {
    let asked_since = work.spec.disks.iter().any(|disk| disk.since.is_some());
    match work.hypervisor.begin_backup(&work.spec) {
        Err(error) if error.kind == Kind::Missing && asked_since => {
            let mut spec = work.spec.clone();
            spec.disks.iter_mut().for_each(|disk| disk.since = None);
            let session = work.hypervisor.begin_backup(&spec)?;
            Ok((session, Some(format!("the record of what changed was lost ({error}); everything was read"))))
        }
        Ok(session) if work.parent().is_some() && !asked_since => {
            Ok((session, Some("no record of what changed was kept; everything was read".into())))
        }
        other => Ok((other?, None)),
    }
}

fn store(
    work: &Work<'_>,
    session: &mut dyn BackupSession,
    whole: bool,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Stored, DriverError> {
    let change = if whole || work.parent().is_none() { Change::Whole } else { Change::SinceParent };
    let mut disks = Vec::new();
    for disk in &work.plan.disks {
        disks.push(SourceDisk { id: disk.id, reader: session.disk(disk.id)?, change });
    }
    let tags = [format!("one-{}", work.vm_id())];
    let label = BackupPlan::label(work.job.id);
    let request = StoreRequest {
        series: &work.plan.series,
        tags: &tags,
        job: &label,
        time: work.plan.time,
        parent: work.parent().filter(|_| change == Change::SinceParent),
        document: work.plan.document.as_bytes(),
    };
    work.datastore.store(&request, disks, progress, cancel)
}

/// A session that is ended also when the copy fails on the way.
struct Guarded<'a> {
    session: Option<Box<dyn BackupSession>>,
    work: &'a Work<'a>,
}

impl Guarded<'_> {
    fn get(&mut self) -> Result<&mut Box<dyn BackupSession>, DriverError> {
        self.session.as_mut().ok_or_else(|| DriverError::new(Kind::Permanent, "reading the disks", "the session has ended"))
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

/// Gives a backup up before the guest's own writes fill the disk of the scratch files: QEMU would pause the guest.
struct ScratchWatch {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<bool>>,
}

impl ScratchWatch {
    fn start(work: &Work<'_>, reserve_bytes: u64, cancel: &Cancel) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut places: Vec<std::path::PathBuf> = Vec::new();
        if work.plan.live {
            places.extend(work.spec.disks.iter().filter_map(|disk| disk.scratch.parent().map(Into::into)));
            places.dedup();
        }
        let (stopped, cancel) = (Arc::clone(&stop), cancel.clone());
        let thread = std::thread::Builder::new().name("scratch".into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                if places.iter().any(|place| free_bytes(place).is_some_and(|free| free < reserve_bytes)) {
                    cancel.cancel();
                    return true;
                }
                std::thread::park_timeout(SCRATCH_PERIOD);
            }
            false
        });
        Self { stop, thread: thread.ok() }
    }

    /// Ends the watch; whether it gave the backup up.
    fn stop(mut self) -> bool {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return false };
        thread.thread().unpark();
        thread.join().unwrap_or(false)
    }
}

fn free_bytes(place: &std::path::Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(place).ok()?;
    facts.f_bavail.checked_mul(facts.f_frsize)
}

/// Writes the image (for a full one) and the increment; returns their ids.
fn write_point(
    tx: &mut Tx<'_>,
    work: &Work<'_>,
    vm: &VmRow,
    sealed: &Sealed,
    zone: chrono_tz::Tz,
) -> Result<(i64, i64), Trouble> {
    let size_mb = mb(sealed.stored_bytes);
    let (image_id, increment_id, parent_id, kind) = match &work.plan.decision.kind {
        PlanKind::Increment { image_id, parent_increment, .. } => {
            let mut image = tx.image(*image_id)?;
            image.size_mb += size_mb;
            image.modtime = work.plan.time;
            tx.image_update(&image)?;
            (*image_id, parent_increment + 1, *parent_increment, "INCREMENT")
        }
        PlanKind::Full { new_chain, .. } => (new_image(tx, work, vm, sealed, *new_chain, zone)?, 0, -1, "FULL"),
    };
    let disks: Vec<String> = sealed.disks.iter().map(|(id, _)| id.to_string()).collect();
    tx.increment_append(&IncrementRow {
        image_id,
        increment_id,
        parent_id,
        kind: kind.into(),
        date: work.plan.time,
        size_mb,
        series: work.plan.series.clone(),
        point: sealed.point.clone(),
        checkpoint: work.plan.checkpoint.clone().unwrap_or_default(),
        read_bytes: i64::try_from(sealed.read_bytes).unwrap_or(i64::MAX),
        stored_bytes: i64::try_from(sealed.stored_bytes).unwrap_or(i64::MAX),
        duration_s: sealed.duration_s,
        reason: ledger::flat(&sealed.reason),
        warning: ledger::flat(&sealed.warning),
        disks: disks.join(","),
        document: work.plan.document.clone(),
    })?;
    Ok((image_id, increment_id))
}

fn new_image(
    tx: &mut Tx<'_>,
    work: &Work<'_>,
    vm: &VmRow,
    sealed: &Sealed,
    new_chain: bool,
    zone: chrono_tz::Tz,
) -> Result<i64, Trouble> {
    let base = image_name(vm.id, work.plan.time, zone);
    let mut name = base.clone();
    let mut suffix = 1;
    while tx.image_by_name(vm.uid, &name)?.is_some() {
        suffix += 1;
        name = format!("{base} {suffix}");
    }
    let id = tx.next_id("image")?;
    tx.image_insert(&ImageRow {
        id,
        uid: vm.uid,
        gid: vm.gid,
        name,
        permissions: Permissions::BACKUP.to_i64(),
        kind: 6,
        disk_type: 0,
        persistent: 1,
        regtime: work.plan.time,
        modtime: work.plan.time,
        source: sealed.point.get(..8).unwrap_or(&sealed.point).to_string(),
        path: String::new(),
        format: "raw".into(),
        fs: String::new(),
        size_mb: mb(sealed.stored_bytes),
        state: ImageState::Ready.number(),
        prev_state: ImageState::Init.number(),
        datastore_id: work.plan.decision.datastore_id,
        backup_vm_id: Some(vm.id),
        backup_mode: Some(if new_chain { "INCREMENT" } else { "FULL" }.into()),
        template: String::new(),
    })?;
    Ok(id)
}

/// Writes the follow-up jobs that KEEP_LAST asks for.
fn retain(tx: &mut Tx<'_>, work: &Work<'_>, vm: &VmRow, image_id: i64, keep_last: i64, now: i64) -> Result<(), Trouble> {
    if let PlanKind::Full { .. } = work.plan.decision.kind {
        let gone = ImageState::Delete.number();
        let images: Vec<ImageRow> = tx.backups_of_vm(vm.id)?.into_iter().filter(|image| image.state != gone).collect();
        let ids: Vec<i64> = images.iter().map(|image| image.id).collect();
        let expired = expired_images(&ids, keep_last);
        for image in images.iter().filter(|image| expired.contains(&image.id)) {
            ledger::image_deletion(tx, image, false, -1, now)?;
        }
        return Ok(());
    }
    let points = tx.increments(image_id)?;
    let ids: Vec<i64> = points.iter().map(|point| point.increment_id).collect();
    let Some(decision) = flatten(&ids, keep_last) else { return Ok(()) };
    let waiting = tx.jobs_open(JobFilter::Image(image_id))?;
    if waiting.iter().any(|job| job.kind == JobKind::Retain.as_str()) {
        // It runs with an older list; the next backup takes the rest.
        return Ok(());
    }
    let plan = RetainPlan {
        datastore_id: work.plan.decision.datastore_id,
        series: work.plan.series.clone(),
        points: points
            .iter()
            .filter(|point| decision.drop.contains(&point.increment_id))
            .map(|point| point.point.clone())
            .collect(),
        drop: decision.drop,
        new_full: decision.new_full,
    };
    let subject = JobSubject {
        image_id: Some(image_id),
        datastore_id: Some(plan.datastore_id),
        uid: -1,
        ..JobSubject::default()
    };
    job::add(tx, JobKind::Retain, subject, &plan, now)?;
    Ok(())
}
