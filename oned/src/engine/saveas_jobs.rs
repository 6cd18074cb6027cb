//! Copies: a disk of a VM into an image, an image into another one.

use std::path::Path;
use std::time::Duration;

use drivers::hypervisor::{BackupDisk, BackupSpec, Freeze};
use drivers::{BackupSession, Cancel, Content, DiskWriter, DriverError, Kind, MAX_READ_BYTES, Progress, disk};
use one_core::lifecycle::{ImageState, VmChange, VmPhase, change_in};

use super::disk_jobs::Changing;
use super::image_jobs::{filled, make_parent};
use super::vm_jobs::format_of;
use super::watch::Watch;
use super::{Engine, Trouble};
use crate::devices;
use crate::disks::VmDisk;
use crate::job::{self, BackupPlan, ClonePlan, JobKind, SaveAsPlan};
use crate::ledger::{self, stored};
use crate::progress::Subject;
use crate::quota;
use crate::store::rows::JobRow;
use crate::store::{StoreError, Tx};

impl Engine {
    pub(super) fn save_as(&self, job: &JobRow, vm: &Changing, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: SaveAsPlan = job::plan(job)?;
        let image_id = job.image_id.ok_or(StoreError::NotFound { what: "image of job", id: job.id })?;
        let vm_disk = self.known_disk(&vm.row, plan.disk_id)?;
        let spec = self.one_disk(job, vm, &vm_disk)?;
        let progress = Progress::default();
        let shown = self.cloud.board.show(Subject::Image(image_id), "save", &progress);
        if job.attempts > 0 {
            vm.hypervisor.abandon_backup(&spec)?;
        }
        make_parent(&plan.target)?;
        let mut session = vm.hypervisor.begin_backup(&spec)?;
        crate::crash::point("save-as.begun");
        let running = change_in(ledger::phase(&vm.row)) == Some((VmChange::SaveAs, VmPhase::RUNNING));
        let places = spec.disks.iter().filter(|_| running).filter_map(|disk| disk.scratch.parent().map(Into::into));
        let reserve = self.cloud.config.scratch_reserve_mb.saturating_mul(1 << 20);
        // Its own token: the watch stops this copy, not the job's end.
        let watch = Watch::room(places.collect(), reserve, cancel);
        let copied = copy(session.as_mut(), vm_disk.id, &plan.target, &progress, cancel);
        let full = watch.stop();
        let ended = session.end();
        let size_bytes = match copied {
            Err(error) if error.kind == Kind::Cancelled && full => {
                let reason = "the file system of the scratch file was about to fill, so the copy was given up to keep the \
                              guest running; free space beside the VM's disks";
                return Err(DriverError::new(Kind::Permanent, "copying the disk", reason).into());
            }
            other => other?,
        };
        ended?;
        crate::crash::point("save-as.copied");
        drop(shown);
        self.changed(job, |tx, _| Ok(filled(tx, image_id, "qcow2", size_bytes)?.allowed(tx, job.uid)?))
    }

    /// One disk at one point in time, without a checkpoint: other backups do not notice.
    fn one_disk(&self, job: &JobRow, vm: &Changing, vm_disk: &VmDisk) -> Result<BackupSpec, Trouble> {
        Ok(BackupSpec {
            domain: vm.domain(),
            socket: BackupPlan::socket(&self.cloud.run_dir, job.id),
            checkpoint: None,
            disks: vec![BackupDisk {
                id: vm_disk.id,
                path: vm_disk.path.clone(),
                format: format_of(&vm_disk.format)?,
                target: vm_disk.target.clone(),
                since: None,
                track: false,
                scratch: BackupPlan::scratch(&vm_disk.path, job.id),
            }],
            freeze: Freeze::None,
            freeze_required: false,
            freeze_timeout: Duration::ZERO,
        })
    }

    pub(super) fn undo_save_as(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: SaveAsPlan = job::plan(job)?;
        if let Some(vm_disk) = self.disk_of(&vm.row, plan.disk_id)? {
            vm.hypervisor.abandon_backup(&self.one_disk(job, vm, &vm_disk)?)?;
        }
        disk::sweep_part(&plan.target)?;
        Ok(disk::remove(&plan.target)?)
    }

    /// Copies an image's file.
    pub(super) fn clone_image(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: ClonePlan = job::plan(job)?;
        let image_id = job.image_id.ok_or(StoreError::NotFound { what: "image of job", id: job.id })?;
        let progress = Progress::default();
        let shown = self.cloud.board.show(Subject::Image(image_id), "clone", &progress);
        make_parent(&plan.target)?;
        // Ours already, so it may lie below a symbolic link of the site's.
        let source = std::fs::canonicalize(&plan.source)
            .map_err(|e| DriverError::io(format!("opening {}", plan.source.display()), e))?;
        let facts = disk::import(&source, Some(format_of(&plan.format)?), &plan.target, &progress, cancel)?;
        crate::crash::point("clone.copied");
        drop(shown);
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            filled(tx, image_id, facts.format.as_str(), facts.virtual_size_bytes)?;
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, "done", now, "")?;
            free_source(tx, job)
        })?;
        self.cloud.wake.ring();
        Ok(())
    }
}

/// The image that a closed job copied is READY when nobody else copies it.
pub(super) fn free_source(tx: &mut Tx<'_>, job: &JobRow) -> Result<(), StoreError> {
    if job.kind != JobKind::Clone.as_str() {
        return Ok(());
    }
    let plan: ClonePlan = job::plan(job)?;
    let busy = devices::clones(tx)?.iter().any(|(_, other)| other.source_id == plan.source_id);
    let Some(mut source) = tx.image_find(plan.source_id)? else { return Ok(()) };
    if !busy && source.state == ImageState::Clone.number() {
        source.prev_state = source.state;
        source.state = ImageState::Ready.number();
        quota::save_image(tx, &source)?;
    }
    Ok(())
}

/// The image of a copy that was given up shows ERROR and why.
pub(super) fn image_lost(
    tx: &mut Tx<'_>,
    job: &JobRow,
    text: &str,
    now: i64,
    zone: chrono_tz::Tz,
) -> Result<(), StoreError> {
    let Some(mut row) = job.image_id.map(|id| tx.image_find(id)).transpose()?.flatten() else { return Ok(()) };
    if row.state != ImageState::Locked.number() {
        return Ok(());
    }
    row.prev_state = row.state;
    row.state = ImageState::Error.number();
    let mut template = stored(&row.template);
    template.set("ERROR", format!("{} : {}", ledger::error_date(now, zone), ledger::flat(text)));
    row.template = template.to_text();
    quota::save_image(tx, &row)?;
    Ok(())
}

/// Copies a disk of a session into a new qcow2 file; its size in bytes.
fn copy(
    session: &mut dyn BackupSession,
    disk_id: u32,
    target: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> drivers::Result<u64> {
    let mut reader = session.whole_disk(disk_id)?;
    let size_bytes = reader.size_bytes();
    let mut writer = disk::Qcow2Writer::create(target, size_bytes)?;
    let extents = reader.extents()?;
    let data = extents.iter().filter(|extent| extent.content == Content::Data);
    progress.add_total(data.clone().map(|extent| extent.length).sum());
    let step = u64::from(MAX_READ_BYTES);
    let mut pieces = data.flat_map(|extent| {
        let end = extent.end();
        // At most MAX_READ_BYTES, which is a u32.
        (extent.offset..end)
            .step_by(MAX_READ_BYTES as usize)
            .map(move |offset| (offset, u32::try_from((end - offset).min(step)).unwrap_or(MAX_READ_BYTES)))
    });
    reader.read(&mut pieces, &mut |offset, bytes| {
        cancel.check()?;
        writer.write_at(offset, &bytes)?;
        progress.add_done(bytes.len() as u64);
        Ok(())
    })?;
    drop(reader);
    Box::new(writer).finish()?;
    Ok(size_bytes)
}
