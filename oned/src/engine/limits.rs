//! Which jobs may run beside each other: limits on backups, and what has to keep apart.

use std::collections::HashMap;
use std::sync::PoisonError;

use one_core::backup::catalogue::backup_job_id;
use one_core::lifecycle::JobPhase;

use super::{Engine, OTHER_JOBS_MAX, Running};
use crate::job::{self, BackupPlan, JobKind};
use crate::ledger;
use crate::store::rows::JobRow;
use crate::store::{StoreError, Tx};

/// Whether a job removes restore points.
fn removes(kind: Option<JobKind>) -> bool {
    matches!(kind, Some(JobKind::Delete | JobKind::Retain))
}

impl Engine {
    /// Whether restore points of the VM that this job is to back up, or of another one in its backup job, are being
    /// removed from its datastore. Such a backup waits here, where it costs the guest nothing; in the driver it would hold
    /// the point in time open.
    pub(super) fn is_being_shortened(&self, job: &JobRow) -> bool {
        if job.kind != JobKind::Backup.as_str() || job.cancel == 1 {
            return false;
        }
        let removed_from: Vec<i64> = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let here = |r: &&Running| removes(r.kind) && r.datastore_id.is_some() && r.datastore_id == job.datastore_id;
            running.values().filter(here).filter_map(|r| r.image_id).collect()
        };
        let Some(vm_id) = job.vm_id.filter(|_| !removed_from.is_empty()) else { return false };
        let backup_job = job::plan::<BackupPlan>(job).ok().and_then(|plan| backup_job_id(&plan.series));
        let meets = |tx: &mut Tx<'_>| {
            let own = tx.backups_of_vm(vm_id)?.iter().any(|image| removed_from.contains(&image.id));
            // VMs of one backup job may have one store, and one lock of it.
            let points = if backup_job.is_some() { tx.increments_of(&removed_from)? } else { Vec::new() };
            Ok::<_, StoreError>(own || points.iter().any(|point| backup_job_id(&point.series) == backup_job))
        };
        // Whoever cannot be asked does not stop a backup: the driver has locks of its own.
        self.cloud.store.read(meets).unwrap_or_default()
    }

    /// How many backups may be written at a time into datastores that have a limit, by their ids.
    pub(super) fn backup_limits(&self, jobs: &[JobRow]) -> HashMap<i64, u32> {
        if !jobs.iter().any(|job| job.kind == JobKind::Backup.as_str()) {
            return HashMap::new();
        }
        self.cloud.store.read(ledger::backup_limits).unwrap_or_else(|error| {
            tracing::error!(target: "ONE", "The limits of datastores cannot be read: {error}");
            HashMap::new()
        })
    }

    /// Whether a job may start beside those that run: limits (`limits` those of datastores, by id), and nothing else on the
    /// same VM or image.
    pub(super) fn has_room(&self, job: &JobRow, limits: &HashMap<i64, u32>) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |a: Option<i64>, b: Option<i64>| a.is_some() && a == b;
        if running.contains_key(&job.id)
            || running.values().any(|r| same(r.vm_id, job.vm_id) || same(r.image_id, job.image_id))
        {
            return false;
        }
        let kind = JobKind::parse(&job.kind);
        // A catalogue that is being read must not hold what is being removed.
        let reads = |kind: Option<JobKind>| kind == Some(JobKind::ImportBackups);
        let apart = |r: &Running| removes(kind) && reads(r.kind) || reads(kind) && removes(r.kind);
        if running.values().any(|r| same(r.datastore_id, job.datastore_id) && apart(r)) {
            return false;
        }
        let is_backup = |kind: Option<JobKind>| kind == Some(JobKind::Backup);
        let count = |wanted: &dyn Fn(&Running) -> bool| running.values().filter(|job| wanted(job)).count();
        if !is_backup(kind) {
            return count(&|r| !is_backup(r.kind)) < OTHER_JOBS_MAX;
        }
        // One that is not wanted any more and never began only has to be closed.
        if job.cancel == 1 && job.attempts == 0 && job.phase == JobPhase::Planned.as_str() {
            return true;
        }
        let below = |count: usize, limit: Option<u32>| limit.is_none_or(|limit| count < limit as usize);
        let config = &self.cloud.config;
        below(count(&|r| is_backup(r.kind)), config.max_backups)
            && below(count(&|r| is_backup(r.kind) && same(r.host_id, job.host_id)), config.max_backups_host)
            && below(
                count(&|r| is_backup(r.kind) && same(r.datastore_id, job.datastore_id)),
                job.datastore_id.and_then(|id| limits.get(&id).copied()),
            )
    }
}
