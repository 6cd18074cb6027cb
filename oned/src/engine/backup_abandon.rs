//! The guest's side of a backup that was cut off: the guest goes on, and nothing of the session is left.
//!
//! It needs the hypervisor only. So it comes before anything about the datastore, which may be slow or dead while the guest
//! is still frozen; and when the daemon starts, before any job does, whatever that job then has to wait for.

use std::sync::Arc;

use drivers::Hypervisor;

use super::backup::phase_of;
use super::{Engine, Trouble};
use crate::job::{self, BackupPlan, JobKind};
use crate::store::JobFilter;
use crate::store::rows::JobRow;

impl Engine {
    /// The hypervisor that a backup is taken from.
    pub(super) fn source_of(&self, plan: &BackupPlan) -> Result<Arc<dyn Hypervisor>, Trouble> {
        let host = self.cloud.store.read(|tx| tx.host(plan.host_id))?;
        Ok(self.outside.hypervisor(&host)?)
    }

    /// Lets the guest of a job go and ends its session, if there is any.
    pub(super) fn abandon(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: BackupPlan = job::plan(job)?;
        Ok(self.source_of(&plan)?.abandon_backup(&self.spec(job, &plan)?)?)
    }

    /// [`Self::abandon`] for each backup that an earlier daemon was at work on, each on a thread of its own. The jobs
    /// themselves wait for it, like for any other job of their VM.
    ///
    /// # Errors
    /// The database's failure.
    pub(super) fn abandon_all(self: &Arc<Self>) -> Result<(), Trouble> {
        let open = self.cloud.store.read(|tx| tx.jobs_open(JobFilter::Kind(JobKind::Backup.as_str())))?;
        for job in open.into_iter().filter(|job| job.attempts > 0) {
            if phase_of(&job)?.is_recorded() {
                continue;
            }
            self.on_a_thread(job, None, |engine, job, _| {
                if let Err(error) = engine.abandon(job) {
                    // The job itself begins with the same.
                    tracing::warn!(target: "ONE", job = job.id, "The guest of backup job {} is not let go yet: {error}", job.id);
                }
            });
        }
        Ok(())
    }
}
