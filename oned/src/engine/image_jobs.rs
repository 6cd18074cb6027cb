//! Images: files copied in, disks made from restore points, data removed, points that KEEP_LAST no longer wants forgotten.

use std::path::Path;

use drivers::datastore::{Damage, ImageTarget, RestoreRequest};
use drivers::hypervisor::{DiskFormat, DomainDisk};
use drivers::room::is_full;
use drivers::{Cancel, DriverError, Kind, Progress, disk};
use one_core::lifecycle::ImageState;

use super::backup::sweep_if_possible;
use super::saveas_jobs::free_source;
use super::vm_jobs::format_of;
use super::watch::free_bytes;
use super::{Engine, Trouble};
use crate::job::{self, DeletePlan, ImportPlan, JobKind, RestorePlan, RetainPlan};
use crate::ledger::{self, stored};
use crate::progress::Subject;
use crate::quota;
use crate::store::rows::{ImageRow, IncrementRow, JobRow};
use crate::store::{StoreError, Tx};
use crate::verification::{Flaw, LISTED_MAX};

const MIB: u64 = 1 << 20;

/// Bytes as whole MB, rounded up.
pub(super) fn mb(bytes: u64) -> i64 {
    i64::try_from(bytes.div_ceil(MIB)).unwrap_or(i64::MAX)
}

/// The size of a disk of which `source` is the file.
fn size_of(source: &Path, expected: Option<DiskFormat>) -> Result<u64, DriverError> {
    if expected == Some(DiskFormat::Raw) {
        let meta = std::fs::metadata(source);
        return Ok(meta.map_err(|e| DriverError::io(format!("looking at {}", source.display()), e))?.len());
    }
    Ok(disk::probe(source)?.virtual_size_bytes)
}

/// Makes the directory of an image's file, and removes what an earlier attempt left of it.
pub(super) fn make_parent(path: &Path) -> Result<(), DriverError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|e| DriverError::io(format!("making {}", parent.display()), e))?;
    disk::sweep_part(path)
}

/// The image's file is there: what it turned out to be, and READY unless somebody disabled it meanwhile. Answers what that
/// takes of its owner.
pub(super) fn filled(
    tx: &mut Tx<'_>,
    image_id: i64,
    format: &str,
    size_bytes: u64,
) -> Result<quota::Taken, StoreError> {
    let mut row = tx.image(image_id)?;
    if row.state == ImageState::Locked.number() {
        row.prev_state = row.state;
        row.state = ImageState::Ready.number();
    }
    row.format = format.into();
    row.size_mb = mb(size_bytes);
    quota::save_image(tx, &row)
}

/// How a sentence in an image's ERROR begins that says why KEEP_LAST could not shorten it; the next success takes it away.
const KEEP_LAST_FAILED: &str = "KEEP_LAST: ";

/// Says on an image that its chain is longer than wanted for now. Other jobs have an image that shows that they are not done.
pub(super) fn note_waiting(tx: &mut Tx<'_>, job: &JobRow, now: i64, zone: chrono_tz::Tz) -> Result<(), StoreError> {
    if job.kind != JobKind::Retain.as_str() {
        return Ok(());
    }
    let Some(mut row) = job.image_id.map(|id| tx.image_find(id)).transpose()?.flatten() else { return Ok(()) };
    set_error(&mut row, &format!("{KEEP_LAST_FAILED}the chain is not shortened yet: {}", job.error), now, zone);
    tx.image_update(&row)
}

fn set_error(row: &mut ImageRow, text: &str, now: i64, zone: chrono_tz::Tz) {
    let mut template = stored(&row.template);
    template.set("ERROR", format!("{} : {}", ledger::error_date(now, zone), ledger::flat(text)));
    row.template = template.to_text();
}

/// Takes back what a failure of KEEP_LAST said.
fn clear_keep_last_error(row: &mut ImageRow) {
    let mut template = stored(&row.template);
    if template.scalar("ERROR").is_some_and(|error| error.contains(KEEP_LAST_FAILED)) {
        template.remove("ERROR");
        row.template = template.to_text();
    }
}

/// Makes what is left of a chain one again, with the sizes that points have now.
fn join_chain(tx: &mut Tx<'_>, image: &mut ImageRow, resized: &[(String, u64)]) -> Result<(), StoreError> {
    let (mut size_mb, mut parent_id) = (0, -1);
    for was in tx.increments(image.id)? {
        let mut point = IncrementRow { parent_id, ..was.clone() };
        if let Some((_, bytes)) = resized.iter().find(|(id, _)| *id == point.point) {
            point.stored_bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
            point.size_mb = mb(*bytes);
        }
        if parent_id < 0 {
            point.kind = "FULL".into();
            image.source = ledger::short_point(&point.point).to_string();
        }
        if point != was {
            tx.increment_update(&point)?;
        }
        size_mb += point.size_mb;
        parent_id = point.increment_id;
    }
    image.size_mb = size_mb;
    Ok(())
}

/// Tells how much room there would have to be, when a disk that was being made found none.
fn say_room(error: DriverError, size_bytes: u64, target: &Path) -> DriverError {
    if !is_full(&error) {
        return error;
    }
    let (needed, free) = (mb(size_bytes), target.parent().and_then(free_bytes).unwrap_or(0) / MIB);
    let reason = format!(
        "{}; up to {needed} MB are needed and {free} MB are free: delete images or enlarge the file system",
        error.reason
    );
    DriverError { reason, ..error }
}

impl Engine {
    fn image_of(&self, job: &JobRow) -> Result<ImageRow, Trouble> {
        let id = job.image_id.ok_or(StoreError::NotFound { what: "image of job", id: job.id })?;
        Ok(self.cloud.store.read(|tx| tx.image(id))?)
    }

    /// What a copy will take, counted before it is made: the size of most images is not known until their file is looked at.
    fn expect_size(&self, job: &JobRow, image_id: i64, size_bytes: u64) -> Result<(), Trouble> {
        self.cloud.store.write(|tx| {
            let mut row = tx.image(image_id)?;
            row.size_mb = mb(size_bytes);
            Ok(quota::save_image(tx, &row)?.allowed(tx, job.uid)?)
        })
    }

    fn ready(&self, job: &JobRow, image_id: i64, file: &Path, format: &str, size_bytes: u64) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let outcome = self.cloud.store.write(|tx| {
            filled(tx, image_id, format, size_bytes)?.allowed(tx, job.uid)?;
            let current = tx.job(job.id)?;
            Ok(tx.job_advance(job.id, &current.phase, "done", now, "")?)
        });
        if matches!(outcome, Err(Trouble::Refused(_))) {
            // It turned out larger than its owner may have.
            disk::remove(file)?;
        }
        self.cloud.wake.ring();
        outcome
    }

    /// Copies a file in.
    pub(super) fn import(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: ImportPlan = job::plan(job)?;
        let row = self.image_of(job)?;
        let progress = Progress::default();
        let shown = self.cloud.board.show(Subject::Image(row.id), "import", &progress);
        let expected = plan.format.as_deref().map(format_of).transpose()?;
        make_parent(&plan.target)?;
        let wanted = plan.size_mb.map(|size| u64::try_from(size).unwrap_or(0) << 20);
        let Some(source) = &plan.source else {
            let format = expected.unwrap_or(DiskFormat::Qcow2);
            disk::create_blank(&plan.target, format, wanted.unwrap_or(0))?;
            crate::crash::point("import.made");
            drop(shown);
            return self.ready(job, row.id, &plan.target, format.as_str(), wanted.unwrap_or(0));
        };
        let datastore = self.cloud.store.read(|tx| tx.datastore(row.datastore_id))?;
        let source = self.allowed(source, Some(&datastore))?;
        let found = size_of(&source, expected)?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted < found) {
            let reason = format!("SIZE is {wanted} bytes, but the file holds a disk of {found}; a disk cannot shrink");
            return Err(DriverError::new(Kind::Permanent, "taking the file in", reason).into());
        }
        self.expect_size(job, row.id, wanted.unwrap_or(found))?;
        let facts = disk::import(&source, expected, &plan.target, &progress, cancel)?;
        crate::crash::point("import.copied");
        let size_bytes = match wanted.filter(|wanted| *wanted > facts.virtual_size_bytes) {
            Some(wanted) => self.grow(row.id, &plan.target, facts.format, wanted)?,
            None => facts.virtual_size_bytes,
        };
        drop(shown);
        self.ready(job, row.id, &plan.target, facts.format.as_str(), size_bytes)
    }

    /// Makes an image larger that no VM uses; its new size.
    fn grow(&self, id: i64, path: &Path, format: DiskFormat, size_bytes: u64) -> Result<u64, Trouble> {
        let disk =
            DomainDisk { id: 0, path: path.to_owned(), format, target: "vda".into(), readonly: false, cdrom: false };
        self.local_hypervisor()?.resize_disk(&format!("image-{id}"), &disk, size_bytes)?;
        Ok(size_bytes)
    }

    /// Makes a disk from a restore point.
    pub(super) fn restore(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: RestorePlan = job::plan(job)?;
        let row = self.image_of(job)?;
        let datastore = self.backup_datastore(plan.datastore_id)?;
        let progress = Progress::default();
        let shown = self.cloud.board.show(Subject::Image(row.id), "restore", &progress);
        if job.attempts > 0 {
            // A restore that was cut off left its lock.
            sweep_if_possible(datastore.as_ref(), &plan.series, &progress);
        }
        let point = datastore.inspect(&plan.series, &plan.point)?;
        let size_bytes = point.disks.iter().find(|disk| disk.id == plan.disk).map(|disk| disk.size_bytes);
        let Some(size_bytes) = size_bytes else {
            let reason = format!("disk {} is not in restore point {}", plan.disk, plan.point);
            return Err(DriverError::new(Kind::Missing, "restoring a disk", reason).into());
        };
        self.expect_size(job, row.id, size_bytes)?;
        make_parent(&plan.target)?;
        let request = RestoreRequest {
            series: &plan.series,
            point: &plan.point,
            disk: plan.disk,
            skip_bad: plan.skip_bad,
            current: None,
        };
        let target = ImageTarget { path: plan.target.clone(), format: DiskFormat::Qcow2, size_bytes };
        crate::crash::point("restore.begun");
        let restored = datastore
            .restore_image(request, &target, &progress, cancel)
            .map_err(|error| say_room(error, size_bytes, &plan.target))?;
        crate::crash::point("restore.finished");
        drop(shown);
        self.note_damages(job, row.id, plan.disk, &restored.damages)?;
        self.ready(job, row.id, &plan.target, "qcow2", size_bytes)
    }

    /// Writes down what a restore had to leave as zeros: in the image, where its owner looks, and in the job's story.
    fn note_damages(&self, job: &JobRow, image_id: i64, disk: u32, damages: &[Damage]) -> Result<(), Trouble> {
        if damages.is_empty() {
            return Ok(());
        }
        let now = self.cloud.clock.now();
        let bytes: u64 = damages.iter().fold(0, |sum, damage| damage.length.saturating_add(sum));
        let text = format!("{} damaged ranges, {bytes} bytes, are left as zeros", damages.len());
        tracing::warn!(target: "ONE", job = job.id, "Image {image_id}, restored disk {disk}: {text}.");
        self.cloud.store.write(|tx| {
            let mut row = tx.image(image_id)?;
            let mut template = stored(&row.template);
            // Those of an attempt that was cut off.
            template.remove("RESTORE_DAMAGE");
            template.set("RESTORE_WARNING", text.as_str());
            for damage in damages.iter().take(LISTED_MAX) {
                let Damage { offset, length, what, .. } = damage;
                let flaw = Flaw { disk: Some(disk), offset: *offset, length: *length, what: ledger::flat(what) };
                template.push_vector("RESTORE_DAMAGE", flaw.vector());
                let line = format!("left as zeros: disk {disk}, offset {offset}, {length} bytes: {}", flaw.what);
                tx.job_note(job.id, now, "planned", &line)?;
            }
            row.template = template.to_text();
            tx.image_update(&row)
        })?;
        Ok(())
    }

    pub(super) fn backup_datastore(&self, id: i64) -> Result<std::sync::Arc<dyn drivers::BackupDatastore>, Trouble> {
        let row = self.cloud.store.read(|tx| tx.datastore(id))?;
        Ok(self.outside.datastore(&self.cloud.secret, &row)?)
    }

    /// Removes an image's data, then its record.
    pub(super) fn delete(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: DeletePlan = job::plan(job)?;
        match &plan {
            DeletePlan::Record => {}
            DeletePlan::File(path) => {
                disk::sweep_part(path)?;
                disk::remove(path)?;
            }
            DeletePlan::Points { datastore_id, series, points, force } => {
                let progress = Progress::default();
                let _shown = job.image_id.map(|id| self.cloud.board.show(Subject::Image(id), "delete", &progress));
                let gone =
                    self.backup_datastore(*datastore_id).and_then(|d| Ok(d.forget(series, points, &progress, cancel)?));
                match gone {
                    // Force is for a datastore that fails, not for a daemon that ends.
                    Err(trouble) if trouble.is_cancel() => return Err(trouble),
                    Err(trouble) if *force => {
                        tracing::warn!(target: "ONE", "Forced deletion leaves data in datastore {datastore_id}: {trouble}");
                    }
                    Err(trouble) => return Err(trouble),
                    Ok(gone) => {
                        tracing::info!(target: "ONE", "Datastore {datastore_id}: {} bytes freed.", gone.freed_bytes);
                    }
                }
            }
        }
        crate::crash::point("delete.data");
        let now = self.cloud.clock.now();
        let datastore_id = job.datastore_id;
        self.cloud.store.write(|tx| {
            if let Some(id) = job.image_id {
                quota::delete_image(tx, id)?;
            }
            if let Some(mut datastore) = datastore_id.map(|id| tx.datastore_find(id)).transpose()?.flatten() {
                datastore.monitored_at = 0;
                tx.datastore_update(&datastore)?;
            }
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, "done", now, "")
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// Forgets restore points of a chain. The first that is kept becomes its FULL one, and each other's parent is the one
    /// before it.
    ///
    /// Meanwhile the image is READY and shows the chain as it was, for each of its points can be restored until it is gone;
    /// no flag is set on the VM, whose next backup waits in the queue. Only the image's deletion is refused.
    pub(super) fn retain(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: RetainPlan = job::plan(job)?;
        let datastore = self.backup_datastore(plan.datastore_id)?;
        let progress = Progress::default();
        let shown = job.image_id.map(|id| self.cloud.board.show(Subject::Image(id), "retain", &progress));
        let gone = datastore.forget(&plan.series, &plan.points, &progress, cancel)?;
        crate::crash::point("retain.forgotten");
        drop(shown);
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            if let Some(mut image) = job.image_id.map(|id| tx.image_find(id)).transpose()?.flatten() {
                for increment in &plan.drop {
                    tx.increment_delete(image.id, *increment)?;
                }
                join_chain(tx, &mut image, &gone.resized)?;
                clear_keep_last_error(&mut image);
                quota::save_image(tx, &image)?;
            }
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, "done", now, "")
        })?;
        Ok(())
    }

    /// An image that could not be filled or removed shows ERROR and why; a chain that could not be shortened stays long, one
    /// that could not be verified stays what it is.
    pub(super) fn image_failed(&self, job: &JobRow, trouble: &Trouble, cancelled: bool) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let zone = self.cloud.config.timezone;
        let kind = JobKind::parse(&job.kind);
        let keeps_state = matches!(kind, Some(JobKind::Retain | JobKind::Verify));
        let given_up = cancelled && kind == Some(JobKind::Verify);
        self.cloud.store.write(|tx| {
            if let Some(mut row) = job.image_id.map(|id| tx.image_find(id)).transpose()?.flatten() {
                // One that was disabled while it was being filled holds nothing either.
                let busy = [ImageState::Locked, ImageState::Delete, ImageState::Disabled].map(|state| state.number());
                // An image in DELETE whose import was cancelled is being removed: its deletion goes on.
                let leaving = cancelled && row.state == ImageState::Delete.number();
                if busy.contains(&row.state) && !keeps_state && !leaving {
                    row.prev_state = row.state;
                    row.state = ImageState::Error.number();
                }
                if !leaving && !given_up {
                    let what = if kind == Some(JobKind::Retain) { KEEP_LAST_FAILED } else { "" };
                    set_error(&mut row, &format!("{what}{trouble}"), now, zone);
                }
                quota::save_image(tx, &row)?;
            }
            let current = tx.job(job.id)?;
            let phase = if cancelled { "cancelled" } else { "failed" };
            tx.job_advance(job.id, &current.phase, phase, now, &trouble.to_string())?;
            free_source(tx, job)
        })?;
        self.cloud.wake.ring();
        Ok(())
    }
}
