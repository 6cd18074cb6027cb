//! Changes of a VM's devices: disks attached, detached, made larger; and what all such changes have in common.
//!
//! A change is one job without phases in between: every step is repeatable by name, so a job that was cut off is simply run
//! again from its beginning. One that fails is *undoing* until all of it is taken back; then the VM returns to where it
//! began, with the reason where its owner looks.

use std::sync::Arc;
use std::time::Duration;

use drivers::hypervisor::DomainDisk;
use drivers::{Cancel, DriverError, Hypervisor, Kind, disk};
use one_core::lifecycle::{JobPhase, VmChange, VmEvent, change_in};

use super::vm_boot::{domain_disk, format_of};
use super::{Engine, Trouble};
use crate::disks::{self, Origin, VmDisk};
use crate::job::{self, BackupPlan, DiskPlan, JobKind, ResizeDiskPlan};
use crate::ledger::{self, stored};
use crate::quota;
use crate::store::rows::{HostRow, JobRow, VmRow};
use crate::store::{StoreError, Tx};
use crate::{devices, hosts};

/// How long a guest may take to let go of a disk, in one attempt of several.
const DETACH_WITHIN: Duration = Duration::from_secs(20);

/// Rest between two attempts to take a failed change back, seconds.
const UNDO_PAUSE_S: i64 = 15;

/// A VM that is being changed, with whom to ask.
pub(super) struct Changing {
    pub(super) row: VmRow,
    pub(super) hypervisor: Arc<dyn Hypervisor>,
}

impl Changing {
    /// What the hypervisor calls the VM; a name that it does not know when the VM has none yet.
    pub(super) fn domain(&self) -> String {
        if self.row.deploy_id.is_empty() { format!("one-{}", self.row.id) } else { self.row.deploy_id.clone() }
    }
}

/// What a kind of job changes, as the machine of VMs calls it.
pub(super) fn change_of(kind: &str) -> Option<VmChange> {
    match JobKind::parse(kind)? {
        JobKind::AttachDisk | JobKind::DetachDisk => Some(VmChange::Hotplug),
        JobKind::ResizeDisk => Some(VmChange::DiskSize),
        JobKind::DiskSnapshot => Some(VmChange::DiskSnapshot),
        JobKind::SystemSnapshot => Some(VmChange::SystemSnapshot),
        JobKind::SaveAs => Some(VmChange::SaveAs),
        _ => None,
    }
}

impl Engine {
    /// Runs the job of a change from wherever it is.
    pub(super) fn change_device(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        if job.phase == JobPhase::Undoing.as_str() {
            return self.take_back(job);
        }
        cancel.check()?;
        let vm = self.changing(job)?;
        match JobKind::parse(&job.kind) {
            Some(JobKind::AttachDisk) => self.attach_disk(job, &vm),
            Some(JobKind::DetachDisk) => self.detach_disk(job, &vm),
            Some(JobKind::ResizeDisk) => self.resize_disk(job, &vm),
            Some(JobKind::DiskSnapshot) => self.disk_snapshot(job, &vm),
            Some(JobKind::SystemSnapshot) => self.system_snapshot(job, &vm),
            _ => self.save_as(job, &vm, cancel),
        }
    }

    /// The VM of a job, and the hypervisor of its host; of one that is on no host, that of this machine.
    pub(super) fn changing(&self, job: &JobRow) -> Result<Changing, Trouble> {
        let (row, host) = self.cloud.store.read(|tx| {
            let vm_id = job.vm_id.ok_or(StoreError::NotFound { what: "VM of job", id: job.id })?;
            let row = tx.vm(vm_id)?;
            let host = match row.host_id {
                Some(id) => Some(tx.host(id)?),
                None => local_host(tx)?,
            };
            Ok::<_, StoreError>((row, host))
        })?;
        Ok(Changing { row, hypervisor: self.hypervisor_of(host)? })
    }

    /// The hypervisor of this machine, for files that no domain has.
    pub(super) fn local_hypervisor(&self) -> Result<Arc<dyn Hypervisor>, Trouble> {
        let host = self.cloud.store.read(local_host)?;
        self.hypervisor_of(host)
    }

    fn hypervisor_of(&self, host: Option<HostRow>) -> Result<Arc<dyn Hypervisor>, Trouble> {
        let absent = || {
            let reason = "no host is this machine; add localhost with onehost create";
            DriverError::new(Kind::Permanent, "looking for a hypervisor", reason)
        };
        Ok(self.outside.hypervisor(&host.ok_or_else(absent)?)?)
    }

    /// A disk of the VM; none when its record is gone already.
    pub(super) fn disk_of(&self, row: &VmRow, disk_id: i64) -> Result<Option<VmDisk>, Trouble> {
        let all = self.cloud.store.read(|tx| disks::of_vm(tx, row, &self.cloud.config))?;
        Ok(all.into_iter().find(|vm_disk| i64::from(vm_disk.id) == disk_id))
    }

    /// The disk of a job, which its record must have.
    pub(super) fn known_disk(&self, row: &VmRow, disk_id: i64) -> Result<VmDisk, Trouble> {
        let gone = || {
            let reason = format!("VM {} has no disk {disk_id} any more", row.id);
            Trouble::from(DriverError::new(Kind::Permanent, "looking for the disk", reason))
        };
        self.disk_of(row, disk_id)?.ok_or_else(gone)
    }

    /// The change is made: its records, the VM's return and the job's end in one transaction.
    pub(super) fn changed(
        &self,
        job: &JobRow,
        records: impl FnOnce(&mut Tx<'_>, &mut VmRow) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let mut row = tx.vm(job.vm_id.unwrap_or(-1))?;
            records(tx, &mut row)?;
            quota::save_vm(tx, &row)?;
            vm_returns(tx, &mut row, job, true, now)?;
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, JobPhase::Done.as_str(), now, "")?;
            Ok::<_, Trouble>(())
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// A change that cannot be made is taken back, now or as soon as that is possible.
    pub(super) fn change_failed(&self, job: &JobRow, trouble: &Trouble) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let undoing = JobPhase::Undoing.as_str();
        self.cloud.store.write(|tx| {
            let mut row = tx.job(job.id)?;
            if row.phase != undoing {
                row.error = ledger::flat(&trouble.to_string());
                tx.job_update(&row)?;
                tx.job_advance(job.id, &row.phase, undoing, now, &row.error)?;
            }
            Ok::<_, StoreError>(())
        })?;
        crate::crash::point("change.undoing");
        let Err(error) = self.take_back(job) else { return Ok(()) };
        tracing::warn!(target: "ONE", job = job.id, "Job {} cannot be taken back yet: {error}", job.id);
        self.cloud.store.write(|tx| {
            let mut row = tx.job(job.id)?;
            row.not_before = now + UNDO_PAUSE_S;
            tx.job_update(&row)
        })?;
        Ok(())
    }

    /// Takes a change back. Everything in it can be repeated.
    fn take_back(&self, job: &JobRow) -> Result<(), Trouble> {
        // A VM that was removed meanwhile took everything with it, but for a new image.
        let there = self.cloud.store.read(|tx| tx.vm_find(job.vm_id.unwrap_or(-1)))?;
        if there.is_some_and(|row| row.etime == 0) {
            // Growing, and all about snapshots but making them, leaves nothing behind.
            match JobKind::parse(&job.kind) {
                Some(JobKind::AttachDisk) => self.unattach(job, &self.changing(job)?)?,
                Some(JobKind::DetachDisk) => self.undetach(job, &self.changing(job)?)?,
                Some(JobKind::DiskSnapshot) => self.undo_disk_snapshot(job)?,
                Some(JobKind::SystemSnapshot) => self.undo_system_snapshot(job)?,
                Some(JobKind::SaveAs) => self.undo_save_as(job, &self.changing(job)?)?,
                _ => {}
            }
            crate::crash::point("change.undone");
        }
        let now = self.cloud.clock.now();
        let zone = self.cloud.config.timezone;
        self.cloud.store.write(|tx| {
            let current = tx.job(job.id)?;
            let asked = current.cancel == 1;
            let text = if asked { "cancelled on request" } else { current.error.as_str() };
            if let Some(mut row) = tx.vm_find(job.vm_id.unwrap_or(-1))?.filter(|row| row.etime == 0) {
                forget_change(tx, &mut row, job)?;
                vm_returns(tx, &mut row, job, false, now)?;
                ledger::vm_error(tx, &mut row, Some((&format!("{}: {text}", job.kind), now, zone)))?;
            }
            super::saveas_jobs::image_lost(tx, job, text, now, zone)?;
            let end = if asked { JobPhase::Cancelled } else { JobPhase::Failed };
            tx.job_advance(job.id, &current.phase, end.as_str(), now, text)?;
            Ok::<_, Trouble>(())
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// Makes a disk's file; one that is there under its final name is whole.
    pub(super) fn make_disk(&self, row: &VmRow, vm_disk: &VmDisk) -> Result<(), Trouble> {
        if vm_disk.path.exists() {
            return Ok(());
        }
        if vm_disk.origin != Origin::Image {
            let directory = disks::vm_directory(&self.cloud.config, row.id);
            std::fs::create_dir_all(&directory)
                .map_err(|e| DriverError::io(format!("making {}", directory.display()), e))?;
            disk::sweep_part(&vm_disk.path)?;
        }
        match &vm_disk.origin {
            Origin::Image => {
                let reason = format!("{} is gone", vm_disk.path.display());
                let doing = format!("attaching disk {}", vm_disk.id);
                return Err(DriverError::new(Kind::Permanent, doing, reason).into());
            }
            Origin::Overlay { backing, format } => {
                let facts = disk::probe(backing)?;
                disk::create_overlay(&vm_disk.path, backing, format_of(format)?, facts.virtual_size_bytes)?;
            }
            Origin::Volatile => {
                let size_bytes = u64::try_from(vm_disk.size_mb).unwrap_or(0) << 20;
                disk::create_blank(&vm_disk.path, format_of(&vm_disk.format)?, size_bytes)?;
            }
        }
        Ok(())
    }

    fn attach_disk(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: DiskPlan = job::plan(job)?;
        let vm_disk = self.known_disk(&vm.row, plan.disk_id)?;
        self.make_disk(&vm.row, &vm_disk)?;
        crate::crash::point("attach.made");
        attach_to_domain(vm, &domain_disk(vm_disk)?)?;
        crate::crash::point("attach.attached");
        self.changed(job, |_, row| {
            unmark(row, plan.disk_id, "ATTACH");
            devices::settle_backups(row, Some(plan.disk_id));
            Ok(())
        })
    }

    fn unattach(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: DiskPlan = job::plan(job)?;
        let Some(vm_disk) = self.disk_of(&vm.row, plan.disk_id)? else { return Ok(()) };
        vm.hypervisor.detach_disk(&vm.domain(), &vm_disk.target, DETACH_WITHIN)?;
        remove_own_file(&vm_disk)
    }

    fn detach_disk(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: DiskPlan = job::plan(job)?;
        let vm_disk = self.known_disk(&vm.row, plan.disk_id)?;
        vm.hypervisor.detach_disk(&vm.domain(), &vm_disk.target, DETACH_WITHIN)?;
        crate::crash::point("detach.detached");
        self.drop_bitmaps(vm, &vm_disk)?;
        remove_own_file(&vm_disk)?;
        crate::crash::point("detach.removed");
        self.changed(job, |tx, row| Ok(devices::remove_disk(tx, row, plan.disk_id)?))
    }

    /// Dirty bitmaps go from a disk that outlives its time with the VM.
    fn drop_bitmaps(&self, vm: &Changing, vm_disk: &VmDisk) -> Result<(), Trouble> {
        if vm_disk.origin != Origin::Image || vm_disk.format != "qcow2" || vm_disk.readonly || !vm_disk.path.exists() {
            return Ok(());
        }
        // Under a name that is no domain's: only the file is looked at, for the guest has let go of it.
        let (nobody, paths) = (format!("{}-detached", vm.domain()), [vm_disk.path.clone()]);
        for checkpoint in vm.hypervisor.checkpoints(&nobody, &paths)? {
            if BackupPlan::is_checkpoint_of(vm.row.id, &checkpoint) {
                vm.hypervisor.delete_checkpoint(&nobody, &checkpoint, &paths)?;
            }
        }
        Ok(())
    }

    /// A disk that did not go stays; one that went but could not be cleared away comes back.
    fn undetach(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: DiskPlan = job::plan(job)?;
        let Some(vm_disk) = self.disk_of(&vm.row, plan.disk_id)? else { return Ok(()) };
        if !vm_disk.path.exists() {
            return Ok(());
        }
        attach_to_domain(vm, &domain_disk(vm_disk)?)
    }

    fn resize_disk(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: ResizeDiskPlan = job::plan(job)?;
        let vm_disk = self.known_disk(&vm.row, plan.disk_id)?;
        let size_bytes = u64::try_from(plan.size_mb).unwrap_or(0) << 20;
        vm.hypervisor.resize_disk(&vm.domain(), &domain_disk(vm_disk)?, size_bytes)?;
        crate::crash::point("resize.grown");
        self.changed(job, |tx, row| {
            let mut template = stored(&row.template);
            let Some(vector) = devices::disk_mut(&mut template, plan.disk_id) else { return Ok(()) };
            vector.set("SIZE", plan.size_mb.to_string());
            let persistent = vector.yes("PERSISTENT").unwrap_or(false);
            let image = vector.int("IMAGE_ID").filter(|_| persistent);
            row.template = template.to_text();
            if let Some(mut image) = image.map(|id| tx.image_find(id)).transpose()?.flatten() {
                image.size_mb = plan.size_mb;
                quota::save_image(tx, &image)?;
            }
            Ok(())
        })
    }
}

/// The first host that is this machine.
fn local_host(tx: &mut Tx<'_>) -> Result<Option<HostRow>, StoreError> {
    let is_here = |host: &HostRow| hosts::is_dummy(host) || hosts::is_local(&hosts::uri(host));
    Ok(tx.host_list()?.into_iter().find(is_here))
}

/// A domain that is not defined gets the disk when it is: the record has it.
fn attach_to_domain(vm: &Changing, disk: &DomainDisk) -> Result<(), Trouble> {
    if vm.hypervisor.state(&vm.domain())?.is_none() {
        return Ok(());
    }
    Ok(vm.hypervisor.attach_disk(&vm.domain(), disk)?)
}

fn remove_own_file(vm_disk: &VmDisk) -> Result<(), Trouble> {
    if vm_disk.origin == Origin::Image {
        return Ok(());
    }
    disk::sweep_part(&vm_disk.path)?;
    Ok(disk::remove(&vm_disk.path)?)
}

fn unmark(row: &mut VmRow, disk_id: i64, mark: &str) {
    let mut template = stored(&row.template);
    if let Some(vector) = devices::disk_mut(&mut template, disk_id) {
        vector.remove(mark);
        row.template = template.to_text();
    }
}

/// The records of a change that is taken back. The row is stored.
fn forget_change(tx: &mut Tx<'_>, row: &mut VmRow, job: &JobRow) -> Result<(), Trouble> {
    match JobKind::parse(&job.kind) {
        Some(JobKind::AttachDisk) => devices::remove_disk(tx, row, job::plan::<DiskPlan>(job)?.disk_id)?,
        Some(JobKind::DetachDisk) => unmark(row, job::plan::<DiskPlan>(job)?.disk_id, "DETACH"),
        Some(JobKind::DiskSnapshot | JobKind::SystemSnapshot) => super::snapshot_jobs::forget(row, job)?,
        _ => {}
    }
    quota::save_vm(tx, row)?;
    Ok(())
}

/// Moves the VM back to where the change began, unless recovery has moved it already.
fn vm_returns(tx: &mut Tx<'_>, row: &mut VmRow, job: &JobRow, done: bool, now: i64) -> Result<(), Trouble> {
    let Some(change) = change_of(&job.kind) else { return Ok(()) };
    if change_in(ledger::phase(row)).is_some_and(|(found, _)| found == change) {
        let event = if done { VmEvent::ChangeDone(change) } else { VmEvent::ChangeFailed(change) };
        ledger::vm_step(tx, row, event, now)?;
    }
    Ok(())
}
