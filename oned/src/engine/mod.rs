//! What makes the written intents true: places VMs, runs jobs, looks at hosts and datastores.
//!
//! One loop, woken by the bell or by time, takes no input: it looks at the database and does what is there to do. Jobs run
//! on threads of their own, one at a time for each VM and each image, oldest first. Starting after a crash is the same
//! path: open jobs are picked up from the phase that was stored.
//!
//! The engine never checks rights (the api did, and the scheduler does again) and never answers a client.

mod backup;
mod backup_abandon;
mod backup_record;
mod backup_store;
mod backup_undo;
mod catalogue_jobs;
mod disk_jobs;
mod examine;
mod image_jobs;
mod limits;
mod monitor;
mod nic_jobs;
mod outside;
mod place;
mod saveas_jobs;
mod snapshot_jobs;
mod verify_jobs;
mod vm_boot;
mod vm_down;
mod vm_jobs;
mod vm_migrate;
mod vm_restore_jobs;
mod vm_restore_record;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drivers::{Cancel, DriverError, Kind};
use one_core::lifecycle::JobPhase;
use one_core::refusal::Refusal;

use crate::cloud::Cloud;
use crate::events;
use crate::job::JobKind;
use crate::store::rows::JobRow;
use crate::store::{JobFilter, StoreError, pause_is_over};

#[cfg(feature = "testing")]
pub use outside::{Flaw, How, Plug};
pub use outside::{Isolation, Outside, SERVE, Stores, serve};

/// Threads for jobs that are no backups.
const OTHER_JOBS_MAX: usize = 16;

/// How often a job is tried again when the outside is only busy or away. A backup is one of them: its VM waits for it, and
/// the next one comes anyway.
const ATTEMPTS_MAX: i64 = 5;

/// The same for jobs for which nobody waits and that lose nothing by being late ([`is_patient`]): a day of
/// pauses, and what a driver itself waits in each attempt.
const PATIENT_ATTEMPTS_MAX: i64 = 96;

/// Longest pause between two attempts of the first, as a power of two seconds.
const PAUSE_EXPONENT_MAX: i64 = 6;

/// The same of the second: 17 minutes.
const PATIENT_PAUSE_EXPONENT_MAX: i64 = 10;

/// Closed jobs stay in the database this long, seconds.
const JOBS_KEPT_S: i64 = 30 * 86_400;

/// Longest sleep of the loop when nothing rings; MANAGER_TIMER may make it shorter, not longer, for retries and limits of
/// time are looked at in it.
const NAP: Duration = Duration::from_secs(1);

/// Why a job did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The core said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Trouble {
    /// Whether the same job may work later.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Driver(error) if error.kind == Kind::Retry)
    }

    fn is_cancel(&self) -> bool {
        matches!(self, Self::Driver(error) if error.kind == Kind::Cancelled)
    }
}

/// Whether a job can wait long for its datastore: one that removes or looks at restore points, which stay in use.
fn is_patient(kind: Option<JobKind>) -> bool {
    matches!(kind, Some(JobKind::Delete | JobKind::Retain | JobKind::Verify))
}

/// How long a job rests that cannot go on now, seconds; none = it is given up. `attempts` counts those that were made.
fn pause(kind: Option<JobKind>, attempts: i64) -> Option<i64> {
    let (most, longest) = if is_patient(kind) {
        (PATIENT_ATTEMPTS_MAX, PATIENT_PAUSE_EXPONENT_MAX)
    } else {
        (ATTEMPTS_MAX, PAUSE_EXPONENT_MAX)
    };
    (attempts < most).then(|| 1 << attempts.clamp(0, longest))
}

/// Whether a job rests until later.
fn rests(job: &JobRow, now: i64) -> bool {
    !pause_is_over(job.not_before, now)
}

struct Running {
    cancel: Cancel,
    kind: Option<JobKind>,
    host_id: Option<i64>,
    datastore_id: Option<i64>,
    vm_id: Option<i64>,
    image_id: Option<i64>,
}

/// The engine of one daemon.
pub struct Engine {
    cloud: Arc<Cloud>,
    outside: Arc<Outside>,
    running: Mutex<HashMap<i64, Running>>,
    monitor: monitor::Monitor,
    asked: examine::Asked,
}

impl Engine {
    /// An engine over a database, reaching out through `outside`.
    #[must_use]
    pub fn new(cloud: Arc<Cloud>, outside: Arc<Outside>) -> Arc<Self> {
        Arc::new(Self {
            cloud,
            outside,
            running: Mutex::default(),
            monitor: monitor::Monitor::default(),
            asked: examine::Asked::default(),
        })
    }

    /// Makes the place for sockets, forgets jobs that closed long ago, and begins to let go of guests whose backups an
    /// earlier daemon left in the middle, before the first tick.
    ///
    /// # Errors
    /// A run directory that cannot be had, the database's failure.
    pub fn start(self: &Arc<Self>) -> Result<(), Trouble> {
        outside::ensure_run_directory(&self.cloud.run_dir)?;
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            events::expire(tx, now)?;
            tx.jobs_expire(now - JOBS_KEPT_S)
        })?;
        self.abandon_all()?;
        // What the last daemon saw of the hosts says nothing about them now.
        self.look_at_all_soon();
        Ok(())
    }

    /// One round: everything that can be started now is started.
    pub fn tick(self: &Arc<Self>) {
        let outcome = self.place().and_then(|()| self.cloud.store.read(|tx| tx.jobs_open(JobFilter::All)));
        match outcome {
            Ok(jobs) => {
                self.cancel_asked(&jobs);
                self.start_jobs(jobs);
            }
            Err(error) => tracing::error!(target: "ONE", "{error}"),
        }
        self.look_around();
    }

    /// Rests until somebody rings.
    pub fn rest(&self) {
        self.cloud.wake.wait(NAP.min(self.cloud.config.manager_timer));
    }

    /// Asks every running transfer to stop and waits, at most `timeout`; what is cut off goes on at the next start. Then
    /// lets go of the datastores, which may take some seconds more.
    pub fn stop(&self, timeout: Duration) {
        self.cancel_all(timeout);
        self.outside.close();
    }

    fn cancel_all(&self, timeout: Duration) {
        let step = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        loop {
            let busy = {
                let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                running.values().for_each(|job| job.cancel.cancel());
                !running.is_empty()
            };
            if !busy || waited >= timeout {
                return;
            }
            std::thread::sleep(step);
            waited += step;
        }
    }

    /// Passes on the wish to cancel to jobs that run.
    fn cancel_asked(&self, jobs: &[JobRow]) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for job in jobs.iter().filter(|job| job.cancel == 1) {
            if let Some(job) = running.get(&job.id) {
                job.cancel.cancel();
            }
        }
    }

    fn start_jobs(self: &Arc<Self>, jobs: Vec<JobRow>) {
        let now = self.cloud.clock.now();
        let giving_way = verify_jobs::giving_way(&jobs, now);
        self.interrupt(&self.running.lock().unwrap_or_else(PoisonError::into_inner), &giving_way);
        let limits = self.backup_limits(&jobs);
        // Jobs of one VM or image run in the order in which they were accepted, also when an earlier one only waits.
        let (mut vms, mut images) = (Vec::new(), Vec::new());
        for job in jobs {
            // One that could not be taken back yet tries again by itself. All that it left has its own name, so nobody need
            // wait for it.
            if job.phase == "undoing" && rests(&job, now) {
                continue;
            }
            let turn =
                job.vm_id.is_none_or(|id| !vms.contains(&id)) && job.image_id.is_none_or(|id| !images.contains(&id));
            vms.extend(job.vm_id);
            images.extend(job.image_id);
            // What rests and is not wanted any more ends at once.
            let is_due = !rests(&job, now) || job.cancel == 1 && job.phase == JobPhase::Planned.as_str();
            if turn
                && is_due
                && !giving_way.contains(&job.id)
                && self.has_room(&job, &limits)
                && !self.is_being_shortened(&job)
            {
                self.start_job(job);
            }
        }
    }

    fn start_job(self: &Arc<Self>, job: JobRow) {
        let kind = JobKind::parse(&job.kind);
        self.on_a_thread(job, kind, |engine, job, cancel| engine.run(job, cancel));
    }

    /// Does something about a job on a thread; nothing else about the same VM or image begins meanwhile.
    fn on_a_thread(
        self: &Arc<Self>,
        job: JobRow,
        kind: Option<JobKind>,
        work: impl FnOnce(&Self, &JobRow, &Cancel) + Send + 'static,
    ) {
        let cancel = Cancel::default();
        if job.cancel == 1 {
            cancel.cancel();
        }
        let entry = Running {
            cancel: cancel.clone(),
            kind,
            host_id: job.host_id,
            datastore_id: job.datastore_id,
            vm_id: job.vm_id,
            image_id: job.image_id,
        };
        let id = job.id;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        let engine = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(format!("job-{id}")).spawn(move || {
            // Taken out also when the job panics: the next tick then starts it again from its stored phase.
            let _gone = Gone { engine: &engine, id };
            work(&engine, &job, &cancel);
        });
        if let Err(error) = spawned {
            tracing::error!(target: "ONE", "Job {id} got no thread: {error}");
            self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }

    /// The job as it is now, its attempt counted before anything is done, so that a job which kills the daemon is not tried
    /// for ever. None when it closed since the tick read it: running it again would repeat what is done.
    fn begin(&self, id: i64) -> Result<Option<JobRow>, Trouble> {
        self.cloud.store.write(|tx| {
            let job = tx.job(id)?;
            if !job.phase.parse::<JobPhase>()?.is_open() {
                return Ok(None);
            }
            tx.job_update(&JobRow { attempts: job.attempts + 1, ..job.clone() })?;
            Ok(Some(job))
        })
    }

    fn run(&self, job: &JobRow, cancel: &Cancel) {
        let job = &match self.begin(job.id) {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(target: "ONE", "Job {} is not begun: {error}", job.id);
                std::thread::sleep(NAP);
                return;
            }
        };
        let outcome = match JobKind::parse(&job.kind) {
            Some(JobKind::Deploy | JobKind::Poweroff | JobKind::Suspend | JobKind::Stop) => self.live(job, cancel),
            Some(JobKind::Undeploy | JobKind::Resume | JobKind::Migrate) => self.live(job, cancel),
            Some(JobKind::Terminate | JobKind::Recreate) => self.live(job, cancel),
            Some(JobKind::Reboot) => self.reboot(job),
            Some(JobKind::Resize) => self.resize_running(job),
            Some(JobKind::Clear) => self.clear(job, cancel),
            Some(JobKind::Backup) => self.backup(job, cancel),
            Some(JobKind::Import) => self.import(job, cancel),
            Some(JobKind::Restore) => self.restore(job, cancel),
            Some(JobKind::Delete) => self.delete(job, cancel),
            Some(JobKind::Retain) => self.retain(job, cancel),
            Some(JobKind::Verify) => self.verify(job, cancel),
            Some(JobKind::ImportBackups) => self.import_backups(job, cancel),
            Some(
                JobKind::AttachDisk
                | JobKind::DetachDisk
                | JobKind::ResizeDisk
                | JobKind::DiskSnapshot
                | JobKind::SystemSnapshot
                | JobKind::SaveAs,
            ) => self.change_device(job, cancel),
            Some(JobKind::Clone) => self.clone_image(job, cancel),
            Some(JobKind::ImageSnapshot) => self.image_snapshot(job),
            Some(JobKind::RestoreVm) => self.restore_vm(job, cancel),
            Some(JobKind::AttachNic) => self.attach_nic(job),
            Some(JobKind::DetachNic) => self.detach_nic(job),
            None => Err(StoreError::NotFound { what: "kind of job", id: job.id }.into()),
        };
        let Err(trouble) = outcome else { return };
        if let Err(error) = self.troubled(job, &trouble, cancel) {
            tracing::error!(target: "ONE", "Job {} could not be put away: {error}", job.id);
            // Not at once again: whatever stands in the way needs a moment.
            std::thread::sleep(NAP);
        }
    }

    /// Waits for better times, or gives the job up in the way of its kind.
    fn troubled(&self, job: &JobRow, trouble: &Trouble, cancel: &Cancel) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        tracing::warn!(target: "ONE", job = job.id, "Job {} ({}): {trouble}", job.id, job.kind);
        // Stopped by the daemon's own end, not by a user: it goes on at the next start.
        let row = self.cloud.store.read(|tx| tx.job(job.id))?;
        let asked = row.cancel == 1;
        if trouble.is_cancel() && cancel.is_cancelled() && !asked {
            // An orderly end is no attempt that failed.
            self.cloud.store.write(|tx| {
                let mut row = tx.job(job.id)?;
                row.attempts = (row.attempts - 1).max(0);
                tx.job_update(&row)
            })?;
            return Ok(());
        }
        let pause = pause(JobKind::parse(&job.kind), row.attempts);
        if let Some(pause) = pause.filter(|_| trouble.may_pass() && !asked) {
            let zone = self.cloud.config.timezone;
            self.cloud.store.write(|tx| {
                let mut row = tx.job(job.id)?;
                row.not_before = now + pause;
                row.error = trouble.to_string();
                tx.job_update(&row)?;
                image_jobs::note_waiting(tx, &row, now, zone)?;
                tx.job_note(job.id, now, &row.phase, &format!("waits: {trouble}"))
            })?;
            return Ok(());
        }
        match JobKind::parse(&job.kind) {
            Some(JobKind::Backup) => self.undo_backup(job, trouble),
            Some(
                JobKind::Import
                | JobKind::Restore
                | JobKind::Delete
                | JobKind::Retain
                | JobKind::Verify
                | JobKind::Clone
                | JobKind::ImageSnapshot,
            ) => self.image_failed(job, trouble, asked),
            Some(
                JobKind::AttachDisk
                | JobKind::DetachDisk
                | JobKind::ResizeDisk
                | JobKind::DiskSnapshot
                | JobKind::SystemSnapshot
                | JobKind::SaveAs,
            ) => self.change_failed(job, trouble),
            Some(JobKind::RestoreVm) => self.restore_vm_failed(job, trouble),
            Some(JobKind::ImportBackups) => self.import_backups_failed(job, trouble, asked),
            Some(JobKind::AttachNic | JobKind::DetachNic) => self.nic_failed(job, trouble, asked),
            _ => self.vm_failed(job, trouble, asked),
        }
    }

    /// Closes a job that has no phases in between.
    fn close(&self, job: &JobRow, phase: &str, text: &str) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let row = tx.job(job.id)?;
            tx.job_advance(job.id, &row.phase, phase, now, text)
        })?;
        self.cloud.wake.ring();
        Ok(())
    }
}

struct Gone<'a> {
    engine: &'a Engine,
    id: i64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let ended = self.engine.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        // While the job was open nobody looked at its guest, which may have gone meanwhile.
        if let Some(host_id) = ended.and_then(|job| job.host_id) {
            self.engine.look_at_soon(host_id);
        }
        self.engine.cloud.wake.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::PAUSE_MAX_S;

    #[test]
    fn a_rest_that_is_longer_than_any_can_be_is_over() {
        let job = JobRow {
            id: 1,
            kind: "BACKUP".into(),
            phase: "planned".into(),
            vm_id: None,
            image_id: None,
            datastore_id: None,
            host_id: None,
            uid: 0,
            plan: String::new(),
            result: String::new(),
            cancel: 0,
            attempts: 0,
            not_before: 1_000_000,
            error: String::new(),
            created_at: 0,
            changed_at: 0,
        };
        let at = |now| rests(&job, now);
        assert!(at(999_999) && at(1_000_000 - PAUSE_MAX_S));
        // The clock was put back, by an hour or by a day.
        assert!(!at(1_000_000) && !at(1_000_000 - PAUSE_MAX_S - 1) && !at(1_000_000 - 86_400));
        // No pause of any job is that long.
        let longest =
            [Some(JobKind::Backup), Some(JobKind::Retain), None].map(|kind| (1..).map_while(|n| pause(kind, n)).max());
        assert!(longest.iter().flatten().all(|pause| *pause < PAUSE_MAX_S), "{longest:?}");
    }

    #[test]
    fn who_only_removes_or_looks_waits_about_a_day_and_others_a_minute() {
        let in_all = |kind| (1..).map_while(|attempts| pause(kind, attempts)).sum::<i64>();
        for kind in [JobKind::Delete, JobKind::Retain, JobKind::Verify] {
            assert!((80_000..100_000).contains(&in_all(Some(kind))), "{kind:?}: {}", in_all(Some(kind)));
        }
        assert_eq!(in_all(Some(JobKind::Backup)), 2 + 4 + 8 + 16);
        assert_eq!((pause(None, -1), pause(Some(JobKind::Delete), 50)), (Some(1), Some(1024)));
    }
}
