//! Snapshots of disks, of whole VMs and of images that no VM uses.

use drivers::hypervisor::DomainDisk;
use one_core::lifecycle::{ImageState, SystemSnapshots};

use super::disk_jobs::Changing;
use super::vm_boot::{domain_disk, format_of};
use super::{Engine, Trouble};
use crate::devices;
use crate::job::{self, DiskSnapshotPlan, JobKind, SnapshotStep, SystemSnapshotPlan};
use crate::ledger::stored;
use crate::quota;
use crate::store::StoreError;
use crate::store::rows::{JobRow, VmRow};

impl Engine {
    pub(super) fn disk_snapshot(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: DiskSnapshotPlan = job::plan(job)?;
        let disk = domain_disk(self.known_disk(&vm.row, plan.disk_id)?)?;
        let (domain, name) = (vm.domain(), DiskSnapshotPlan::name(plan.snapshot_id));
        match plan.step {
            SnapshotStep::Create => vm.hypervisor.disk_snapshot_create(&domain, &disk, &name)?,
            SnapshotStep::Delete => vm.hypervisor.disk_snapshot_delete(&domain, &disk, &name)?,
            SnapshotStep::Revert | SnapshotStep::Flatten => {
                vm.hypervisor.disk_snapshot_revert(&domain, &disk, &name)?;
            }
        }
        crate::crash::point("disk-snapshot.changed");
        self.changed(job, |_, row| {
            let Some(vector) = devices::disk(row, plan.disk_id) else { return Ok(()) };
            let mut list = devices::snapshots_of(row, &vector);
            match plan.step {
                SnapshotStep::Create => list.created(plan.snapshot_id),
                SnapshotStep::Delete => list.deleted(plan.snapshot_id),
                SnapshotStep::Revert | SnapshotStep::Flatten => list.reverted(plan.snapshot_id),
            }
            devices::put_snapshots(row, list);
            devices::settle_backups(row, Some(plan.disk_id));
            Ok(())
        })
    }

    pub(super) fn undo_disk_snapshot(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: DiskSnapshotPlan = job::plan(job)?;
        if plan.step != SnapshotStep::Create {
            return Ok(());
        }
        let vm = self.changing(job)?;
        if let Some(disk) = self.disk_of(&vm.row, plan.disk_id)? {
            let name = DiskSnapshotPlan::name(plan.snapshot_id);
            vm.hypervisor.disk_snapshot_delete(&vm.domain(), &domain_disk(disk)?, &name)?;
        }
        Ok(())
    }

    pub(super) fn system_snapshot(&self, job: &JobRow, vm: &Changing) -> Result<(), Trouble> {
        let plan: SystemSnapshotPlan = job::plan(job)?;
        let (domain, name) = (vm.domain(), SystemSnapshotPlan::name(plan.snapshot_id));
        match plan.step {
            SnapshotStep::Create => vm.hypervisor.system_snapshot_create(&domain, &name)?,
            SnapshotStep::Delete => vm.hypervisor.system_snapshot_delete(&domain, &name)?,
            SnapshotStep::Revert | SnapshotStep::Flatten => vm.hypervisor.system_snapshot_revert(&domain, &name)?,
        }
        crate::crash::point("system-snapshot.changed");
        self.changed(job, |_, row| {
            change_list(row, |list| list.done(&name));
            devices::settle_backups(row, None);
            Ok(())
        })
    }

    pub(super) fn undo_system_snapshot(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: SystemSnapshotPlan = job::plan(job)?;
        if plan.step == SnapshotStep::Create {
            let vm = self.changing(job)?;
            let name = SystemSnapshotPlan::name(plan.snapshot_id);
            vm.hypervisor.system_snapshot_delete(&vm.domain(), &name)?;
        }
        Ok(())
    }

    /// A snapshot of an image that no VM uses: deleted, gone back to, or that with all others deleted.
    pub(super) fn image_snapshot(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: DiskSnapshotPlan = job::plan(job)?;
        let id = job.image_id.ok_or(StoreError::NotFound { what: "image of job", id: job.id })?;
        let row = self.cloud.store.read(|tx| tx.image(id))?;
        let hypervisor = self.local_hypervisor()?;
        let domain = format!("image-{id}");
        let disk = DomainDisk {
            id: 0,
            path: row.source.clone().into(),
            format: format_of(&row.format)?,
            target: "vda".into(),
            readonly: false,
            cdrom: false,
        };
        let mut list = devices::image_snapshots(&row);
        let name = DiskSnapshotPlan::name(plan.snapshot_id);
        if plan.step == SnapshotStep::Delete {
            hypervisor.disk_snapshot_delete(&domain, &disk, &name)?;
            list.iter_mut().for_each(|list| list.deleted(plan.snapshot_id));
        } else {
            hypervisor.disk_snapshot_revert(&domain, &disk, &name)?;
            list.iter_mut().for_each(|list| list.reverted(plan.snapshot_id));
            if plan.step == SnapshotStep::Flatten {
                let all: Vec<i64> = list.iter().flat_map(|list| list.snapshots()).map(|snapshot| snapshot.id).collect();
                // The one that the image is brought back to goes last: after a crash it is needed again.
                for other in all.iter().filter(|other| **other != plan.snapshot_id) {
                    hypervisor.disk_snapshot_delete(&domain, &disk, &DiskSnapshotPlan::name(*other))?;
                }
                list.iter_mut().for_each(|list| all.iter().for_each(|id| list.deleted(*id)));
            }
        }
        crate::crash::point("image-snapshot.changed");
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let mut row = tx.image(id)?;
            devices::set_image_snapshots(&mut row, list.as_ref());
            if row.state == ImageState::Locked.number() {
                row.prev_state = row.state;
                row.state = ImageState::Ready.number();
            }
            quota::save_image(tx, &row)?;
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, "done", now, "")
        })?;
        // Nothing lists it any more and its number is not used again, so what stays of it only costs room.
        if plan.step == SnapshotStep::Flatten
            && let Err(error) = hypervisor.disk_snapshot_delete(&domain, &disk, &name)
        {
            tracing::warn!(target: "ONE", "Image {id} keeps an unlisted snapshot: {error}");
        }
        self.cloud.wake.ring();
        Ok(())
    }
}

fn change_list(row: &mut VmRow, change: impl FnOnce(&mut SystemSnapshots)) {
    let mut template = stored(&row.template);
    let mut list = SystemSnapshots::from_template(&template);
    change(&mut list);
    list.write_to(&mut template);
    row.template = template.to_text();
}

/// The records of a snapshot that was not made, or not deleted, or not gone back to.
pub(super) fn forget(row: &mut VmRow, job: &JobRow) -> Result<(), Trouble> {
    if job.kind == JobKind::SystemSnapshot.as_str() {
        change_list(row, SystemSnapshots::failed);
    } else {
        let plan: DiskSnapshotPlan = job::plan(job)?;
        if let Some(vector) = devices::disk(row, plan.disk_id).filter(|_| plan.step == SnapshotStep::Create) {
            let mut list = devices::snapshots_of(row, &vector);
            list.deleted(plan.snapshot_id);
            devices::put_snapshots(row, list);
        }
    }
    devices::settle_backups(row, None);
    Ok(())
}
