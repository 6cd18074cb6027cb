//! Disks of a VM are put back in place, as a restore point has them.
//!
//! ```text
//! planned   the plan is written, the VM is in RESTORE; new files are being made beside the disks
//! recorded  every new file is whole: from here there is only forward
//! done      they have taken the disks' places, the records say so, the VM is back
//! undoing   what was made of the new files is being removed
//! ```
//!
//! Each new file is a whole disk of the present one's format, made under a name that follows from the job, and durable
//! before it counts. So a power cut finds each disk old or new, never a mixture; and since *recorded* is one row of the
//! database, either all of them become new in the end or none. A new file is only taken for whole when the job's row says
//! so: a datastore's process may outlive the daemon that it worked for.
//!
//! What the present disk holds already is not fetched from the datastore, where the datastore can tell by digests. A
//! present disk that is gone or broken is no hindrance: everything is fetched then.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drivers::datastore::{ImageTarget, RestoreRequest, Restored};
use drivers::hypervisor::{BackupDisk, BackupSpec, Freeze};
use drivers::{BackupDatastore, BackupSession, Cancel, DriverError, Kind, Progress, disk};
use one_core::lifecycle::{JobPhase, LcmState, SystemSnapshots, VmEvent, VmPhase};

use super::backup::{phase_of, sweep_if_possible};
use super::disk_jobs::Changing;
use super::image_jobs::mb;
use super::vm_boot::rename;
use super::vm_jobs::{format_of, is_off, permanent};
use super::vm_restore_record::{Made, MadeDisk, record};
use super::watch::{Watch, free_bytes};
use super::{ATTEMPTS_MAX, Engine, Trouble};
use crate::disks::{self, Origin, VmDisk};
use crate::events::{self, EventResult};
use crate::job::{self, BackupPlan, BackupPlanDisk, JobKind, RestoreVmPlan};
use crate::ledger::{self, stored};
use crate::progress::Subject;
use crate::store::rows::{JobRow, VmRow};
use crate::store::{JobFilter, StoreError, Tx};

/// Rest between two attempts to finish or to take back, seconds.
const PAUSE_S: i64 = 15;

/// A restore under way, with whom to ask.
struct Work<'a> {
    job: &'a JobRow,
    plan: RestoreVmPlan,
    vm: Changing,
    datastore: std::sync::Arc<dyn BackupDatastore>,
    progress: Progress,
}

impl Engine {
    /// Runs the job from wherever it is.
    pub(super) fn restore_vm(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: RestoreVmPlan = job::plan(job)?;
        match phase_of(job)? {
            JobPhase::Undoing => return self.give_up_restore(job),
            JobPhase::Planned => {
                cancel.check()?;
                if job.attempts >= ATTEMPTS_MAX {
                    let reason = "the daemon was stopped each time it was tried";
                    return Err(permanent("putting the disks back", reason));
                }
                self.make_all(job, plan.clone(), cancel)?;
                self.commit(job, &plan)?;
            }
            _ => {}
        }
        self.switch(job, &plan)
    }

    /// Makes every new file that is not whole yet.
    fn make_all(&self, job: &JobRow, plan: RestoreVmPlan, cancel: &Cancel) -> Result<(), Trouble> {
        let vm = self.changing(job)?;
        check_off(&vm)?;
        let datastore = self.backup_datastore(plan.datastore_id)?;
        let work = Work { job, plan, vm, datastore, progress: Progress::default() };
        let _shown = self.cloud.board.show(Subject::Vm(work.vm.row.id), "restore", &work.progress);
        if job.attempts > 0 {
            // What was cut off left its lock, and the readers of the present disks.
            sweep_if_possible(work.datastore.as_ref(), &work.plan.series, &work.progress);
            self.end_readers(job, &work.plan, &work.vm)?;
        }
        let point = work.datastore.inspect(&work.plan.series, &work.plan.point)?;
        let mut made = Made::of(job)?;
        let mut missing = Vec::new();
        for disk in work.plan.disks.iter().filter(|disk| !made.has(disk.id)) {
            let size = point.disks.iter().find(|stored| stored.id == disk.id).map(|stored| stored.size_bytes);
            let Some(size) = size else {
                let reason = format!("disk {} is not in restore point {}", disk.id, work.plan.point);
                return Err(DriverError::new(Kind::Missing, "putting the disks back", reason).into());
            };
            missing.push((disk, size));
        }
        for (disk, _) in &missing {
            remove_new_file(&disk.path, job.id)?;
        }
        self.check_room(&work.vm.row, &missing)?;
        crate::crash::point("vm-restore.begun");
        for (disk, size_bytes) in missing {
            let restored = self.make(&work, disk, size_bytes, cancel)?;
            let Restored { written_bytes, fetched_bytes, .. } = restored;
            crate::crash::point("vm-restore.written");
            tracing::info!(
                target: "VM", vm = work.vm.row.id,
                "VM {}: disk {} is made anew: {written_bytes} bytes written, {fetched_bytes} of them from the datastore.",
                work.vm.row.id, disk.id
            );
            made.disks.push(MadeDisk { id: disk.id, size_bytes, written_bytes, fetched_bytes });
            let result = made.text()?;
            self.cloud.store.write(|tx| {
                let row = tx.job(job.id)?;
                tx.job_update(&JobRow { result, ..row })
            })?;
            crate::crash::point("vm-restore.made");
        }
        Ok(())
    }

    /// Makes the new file of one disk, whole and durable.
    fn make(
        &self,
        work: &Work<'_>,
        disk: &BackupPlanDisk,
        size_bytes: u64,
        cancel: &Cancel,
    ) -> Result<Restored, Trouble> {
        let path = RestoreVmPlan::new_file(&disk.path, work.job.id);
        let target = ImageTarget { path, format: format_of(&disk.format)?, size_bytes };
        let mut session = self.open_present(work, disk)?;
        let current = match session.as_mut().map(|session| session.whole_disk(disk.id)).transpose() {
            Err(error) if error.kind != Kind::Retry => {
                tell_unread(work, disk, &error);
                None
            }
            other => other?,
        };
        let request = RestoreRequest {
            series: &work.plan.series,
            point: &work.plan.point,
            disk: disk.id,
            skip_bad: false,
            current,
        };
        let reserve = self.reserve_bytes();
        let watch = Watch::room(vec![directory_of(&disk.path)], reserve, cancel);
        let restored = work.datastore.restore_image(request, &target, &work.progress, cancel);
        let full = watch.stop();
        let ended = session.map_or(Ok(()), BackupSession::end);
        let restored = match restored {
            Err(error) if error.kind == Kind::Cancelled && full => {
                let reason = format!(
                    "the file system of {} was about to fill, so the restore was given up; free space there. The disks are \
                     as they were",
                    directory_of(&disk.path).display()
                );
                return Err(permanent(&format!("making disk {} anew", disk.id), reason));
            }
            other => other?,
        };
        ended?;
        Ok(restored)
    }

    /// Opens the present disk for reading; none when it cannot be read, which only costs time.
    fn open_present(&self, work: &Work<'_>, disk: &BackupPlanDisk) -> Result<Option<Box<dyn BackupSession>>, Trouble> {
        match work.vm.hypervisor.begin_backup(&self.reading(work.job, &work.vm, disk)?) {
            Ok(session) => match session.warnings().first() {
                None => Ok(Some(session)),
                // The guest's disk lies elsewhere, as after somebody's external snapshot: it would not see what is put back.
                Some(warning) => Err(permanent(&format!("opening disk {}", disk.id), warning)),
            },
            // Somebody else has it open: it must not be replaced under him.
            Err(error) if error.kind == Kind::Retry => Err(error.into()),
            Err(error) => {
                tell_unread(work, disk, &error);
                Ok(None)
            }
        }
    }

    /// One disk of a VM that is off, for reading, without a checkpoint.
    fn reading(&self, job: &JobRow, vm: &Changing, disk: &BackupPlanDisk) -> Result<BackupSpec, Trouble> {
        Ok(BackupSpec {
            domain: vm.domain(),
            socket: BackupPlan::socket(&self.cloud.run_dir, job.id),
            checkpoint: None,
            disks: vec![BackupDisk {
                id: disk.id,
                path: disk.path.clone(),
                format: format_of(&disk.format)?,
                target: disk.target.clone(),
                since: None,
                track: false,
                scratch: BackupPlan::scratch(&disk.path, job.id),
            }],
            freeze: Freeze::None,
            freeze_required: false,
            freeze_timeout: Duration::ZERO,
        })
    }

    /// Ends what a killed daemon left reading the present disks.
    fn end_readers(&self, job: &JobRow, plan: &RestoreVmPlan, vm: &Changing) -> Result<(), Trouble> {
        for disk in &plan.disks {
            vm.hypervisor.abandon_backup(&self.reading(job, vm, disk)?)?;
        }
        Ok(())
    }

    fn reserve_bytes(&self) -> u64 {
        self.cloud.config.scratch_reserve_mb.saturating_mul(1 << 20)
    }

    /// Whether there is room for the new files beside the present ones. A new file is expected to take what the present
    /// disk and the image below it take, and never more than the disk is long; what it really takes is watched.
    fn check_room(&self, row: &VmRow, missing: &[(&BackupPlanDisk, u64)]) -> Result<(), Trouble> {
        let all = self.cloud.store.read(|tx| disks::of_vm(tx, row, &self.cloud.config))?;
        let mut wanted: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
        for (disk, size_bytes) in missing {
            let directory = directory_of(&disk.path);
            let facts = std::fs::metadata(&directory)
                .map_err(|e| DriverError::io(format!("looking at {}", directory.display()), e))?;
            let present = all.iter().find(|known| known.id == disk.id).map_or(0, taken_by);
            let (_, sum) = wanted.entry(facts.dev()).or_insert((directory, 0));
            *sum = sum.saturating_add(present.min(*size_bytes));
        }
        let reserve = self.reserve_bytes();
        for (directory, bytes) in wanted.into_values() {
            let Some(free) = free_bytes(&directory) else { continue };
            if free < bytes.saturating_add(reserve) {
                let reason = format!(
                    "the new disks need about {} MB beside the present ones in {}, and {} MB stay free (SCRATCH_RESERVE_MB), \
                     but only {} MB are free; free space there",
                    mb(bytes),
                    directory.display(),
                    mb(reserve),
                    mb(free)
                );
                return Err(permanent("looking for room", reason));
            }
        }
        Ok(())
    }

    /// All new files are whole: from here on there is no way back.
    fn commit(&self, job: &JobRow, plan: &RestoreVmPlan) -> Result<(), Trouble> {
        crate::crash::point("vm-restore.whole");
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let row = tx.job(job.id)?;
            if row.cancel == 1 {
                return Err(Trouble::from(DriverError::cancelled()));
            }
            let made = Made::of(&row)?;
            if !plan.disks.iter().all(|disk| made.has(disk.id)) {
                let reason = "not every new file is whole; this is a defect".to_string();
                return Err(StoreError::Broken { doing: "reading a job's result", reason }.into());
            }
            let told = made.disks.iter().map(|disk| format!("disk {}: {} bytes fetched", disk.id, disk.fetched_bytes));
            let mut text = told.collect::<Vec<_>>().join(", ");
            if !plan.left_out.is_empty() {
                text += &format!("; not the VM's any more: {:?}", plan.left_out);
            }
            let committed = JobPhase::Recorded.as_str();
            Ok(tx.job_advance(job.id, JobPhase::Planned.as_str(), committed, now, &text)?)
        })?;
        crate::crash::point("vm-restore.committed");
        Ok(())
    }

    /// Puts the new files into the disks' places, clears away what knew the old ones, and gives the VM back. Each step does
    /// nothing the second time.
    fn switch(&self, job: &JobRow, plan: &RestoreVmPlan) -> Result<(), Trouble> {
        let vm = self.changing(job)?;
        if vm.row.etime != 0 {
            // Its record was ended by force: persistent disks may be another VM's by now.
            plan.disks.iter().try_for_each(|disk| remove_new_file(&disk.path, job.id))?;
            return self.close(job, JobPhase::Cancelled.as_str(), "the VM's record was ended");
        }
        check_off(&vm)?;
        // While all disks still have them.
        for snapshot in SystemSnapshots::from_template(&stored(&vm.row.template)).snapshots() {
            lenient(vm.hypervisor.system_snapshot_delete(&vm.domain(), &snapshot.hypervisor_id))?;
        }
        crate::crash::point("vm-restore.cleared");
        for disk in &plan.disks {
            let new = RestoreVmPlan::new_file(&disk.path, job.id);
            let there = new.try_exists().map_err(|e| DriverError::io(format!("looking at {}", new.display()), e))?;
            if there {
                rename(&new, &disk.path)?;
            }
            crate::crash::point("vm-restore.switched");
        }
        self.drop_checkpoints(&vm)?;
        crate::crash::point("vm-restore.cleaned");
        self.restored(job)
    }

    /// Deletes all checkpoints of our backups: none knows the disks that the VM has now.
    fn drop_checkpoints(&self, vm: &Changing) -> Result<(), Trouble> {
        let all = self.cloud.store.read(|tx| disks::of_vm(tx, &vm.row, &self.cloud.config))?;
        let written = all.into_iter().filter(|disk| disk.format == "qcow2" && !disk.readonly && disk.path.exists());
        let paths: Vec<PathBuf> = written.map(|disk| disk.path).collect();
        let Some(names) = lenient(vm.hypervisor.checkpoints(&vm.domain(), &paths))? else { return Ok(()) };
        for name in names.iter().filter(|name| BackupPlan::is_checkpoint_of(vm.row.id, name)) {
            lenient(vm.hypervisor.delete_checkpoint(&vm.domain(), name, &paths))?;
        }
        Ok(())
    }

    /// The records of a restore that is done, in one transaction with the VM's return and the job's end.
    fn restored(&self, job: &JobRow) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let current = tx.job(job.id)?;
            if let Some(mut row) = tx.vm_find(job.vm_id.unwrap_or(-1))?.filter(|row| row.etime == 0) {
                record(tx, &mut row, &Made::of(&current)?)?;
                if is_restoring(&row) {
                    let end = VmEvent::restore_end(row.host_id.is_some());
                    ledger::vm_step(tx, &mut row, end, now)?;
                    ledger::vm_error(tx, &mut row, None)?;
                }
                let plan: RestoreVmPlan = job::plan(&current)?;
                let from = format!("from backup image {}", plan.image_id);
                events::restore_told(tx, &current, EventResult::Done, &from, now)?;
            }
            Ok::<_, Trouble>(tx.job_advance(job.id, &current.phase, JobPhase::Done.as_str(), now, "")?)
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// Gives a restore up that cannot go on; one that is committed is finished as soon as that is possible.
    pub(super) fn restore_vm_failed(&self, job: &JobRow, trouble: &Trouble) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let text = ledger::flat(&trouble.to_string());
        let phase = phase_of(&self.cloud.store.read(|tx| tx.job(job.id))?)?;
        if phase.is_recorded() {
            let zone = self.cloud.config.timezone;
            return self.cloud.store.write(|tx| {
                if let Some(mut row) = tx.vm_find(job.vm_id.unwrap_or(-1))?.filter(is_restoring) {
                    let text = format!("RESTORE: it is tried again: {text}");
                    ledger::vm_error(tx, &mut row, Some((&text, now, zone)))?;
                }
                let row = tx.job(job.id)?;
                Ok(tx.job_update(&JobRow { not_before: now + PAUSE_S, error: text, ..row })?)
            });
        }
        if phase != JobPhase::Undoing {
            self.cloud.store.write(|tx| {
                let row = tx.job(job.id)?;
                let end = if row.cancel == 1 { EventResult::Cancelled } else { EventResult::Failed };
                events::restore_told(tx, &row, end, if row.cancel == 1 { "" } else { &text }, now)?;
                tx.job_update(&JobRow { error: text.clone(), ..row })?;
                tx.job_advance(job.id, phase.as_str(), JobPhase::Undoing.as_str(), now, &text)
            })?;
            crate::crash::point("vm-restore.undoing");
            let Err(error) = self.give_up_restore(job) else { return Ok(()) };
            tracing::warn!(target: "ONE", job = job.id, "Job {} cannot be taken back yet: {error}", job.id);
        }
        // The VM need not wait: what is left has the job's name, and nobody takes it for a disk.
        self.cloud.store.write(|tx| {
            let row = tx.job(job.id)?;
            self.return_vm(tx, &row, now)?;
            Ok(tx.job_update(&JobRow { not_before: now + PAUSE_S, ..row })?)
        })
    }

    /// Removes what was made. The disks are as they were.
    fn give_up_restore(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: RestoreVmPlan = job::plan(job)?;
        plan.disks.iter().try_for_each(|disk| remove_new_file(&disk.path, job.id))?;
        self.end_readers(job, &plan, &self.changing(job)?)?;
        crate::crash::point("vm-restore.undone");
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let row = tx.job(job.id)?;
            let end = if row.cancel == 1 { JobPhase::Cancelled } else { JobPhase::Failed };
            tx.job_advance(job.id, &row.phase, end.as_str(), now, &row.error)?;
            self.return_vm(tx, &row, now)
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// Returns the VM of a restore that was given up, with the reason where its owner looks. Does nothing the second time.
    fn return_vm(&self, tx: &mut Tx<'_>, job: &JobRow, now: i64) -> Result<(), Trouble> {
        let Some(mut row) = tx.vm_find(job.vm_id.unwrap_or(-1))?.filter(is_restoring) else { return Ok(()) };
        // The second time a later restore may have begun: that one returns the VM itself.
        let later = |other: &JobRow| other.id > job.id && other.kind == JobKind::RestoreVm.as_str();
        if tx.jobs_open(JobFilter::Vm(row.id))?.iter().any(later) {
            return Ok(());
        }
        let end = VmEvent::restore_end(row.host_id.is_some());
        ledger::vm_step(tx, &mut row, end, now)?;
        let text = if job.cancel == 1 { "cancelled on request" } else { job.error.as_str() };
        let zone = self.cloud.config.timezone;
        Ok(ledger::vm_error(tx, &mut row, Some((&format!("RESTORE: {text}"), now, zone)))?)
    }
}

fn is_restoring(row: &VmRow) -> bool {
    ledger::phase(row) == VmPhase::active(LcmState::Restore)
}

fn tell_unread(work: &Work<'_>, disk: &BackupPlanDisk, error: &DriverError) {
    tracing::warn!(
        target: "VM", vm = work.vm.row.id,
        "VM {}: disk {} cannot be read as it is, so all of it comes from the datastore: {error}", work.vm.row.id, disk.id
    );
}

/// A running guest's disks must not be replaced under it, whoever started it.
fn check_off(vm: &Changing) -> Result<(), Trouble> {
    if is_off(vm.hypervisor.state(&vm.domain())?) {
        return Ok(());
    }
    let reason = format!("domain {} runs; shut it down", vm.domain());
    Err(permanent("putting the disks back", reason))
}

/// What stands in the way of clearing away is waited for only when it may pass; what stays is of no use to anybody.
fn lenient<T>(outcome: drivers::Result<T>) -> Result<Option<T>, Trouble> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == Kind::Retry => Err(error.into()),
        Err(error) => {
            tracing::warn!(target: "ONE", "Something of the disks that were replaced is left behind: {error}");
            Ok(None)
        }
    }
}

fn directory_of(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// Bytes that a disk takes, with the image that it is an overlay of.
fn taken_by(vm_disk: &VmDisk) -> u64 {
    let allocated = |path: &Path| std::fs::metadata(path).map_or(0, |facts| facts.blocks().saturating_mul(512));
    let below = match &vm_disk.origin {
        Origin::Overlay { backing, .. } => allocated(backing),
        Origin::Image | Origin::Volatile => 0,
    };
    allocated(&vm_disk.path).saturating_add(below)
}

/// Removes the new file of a disk, finished or not.
fn remove_new_file(path: &Path, job_id: i64) -> Result<(), Trouble> {
    let new = RestoreVmPlan::new_file(path, job_id);
    disk::sweep_part(&new)?;
    Ok(disk::remove(&new)?)
}
