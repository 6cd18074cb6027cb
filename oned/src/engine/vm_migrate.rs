//! Moving a VM to another host. Only between hosts of the dummy driver: libvirt's own migration is not used, and the api
//! refuses it. The disks stay where they are, in the system datastore.
//!
//! Where it comes from, and how it was asked to go, stands in the history: the last record of another host. The VM's own
//! record has the new host from the start.

use std::sync::Arc;

use drivers::{Cancel, Hypervisor};
use one_core::lifecycle::{LcmState, VmEvent, VmPhase, driver_answers};

use super::vm_jobs::{is_off, permanent};
use super::{Engine, Trouble};
use crate::ledger::{self, action};
use crate::store::rows::{HistoryRow, JobRow, VmRow};

impl Engine {
    /// Does what one phase of a migration asks for; returns the event of its success.
    pub(super) fn migration_step(
        &self,
        job: &JobRow,
        row: &VmRow,
        phase: VmPhase,
        hard: bool,
        cancel: &Cancel,
    ) -> Result<VmEvent, Trouble> {
        let (before, old) = self.previous_host(row)?;
        let domain = row.deploy_id.as_str();
        match phase.lcm {
            LcmState::Migrate => self.live_migrate(job, row, old.as_ref())?,
            LcmState::SaveMigrate if before.action == action::MIGRATE => {
                self.save(row, old.as_ref(), job.attempts == 0)?;
            }
            LcmState::SaveMigrate => self.take_down(old.as_ref(), domain, hard, cancel)?,
            LcmState::PrologMigrate
            | LcmState::PrologMigratePoweroff
            | LcmState::PrologMigrateSuspend
            | LcmState::PrologMigrateUnknown => {
                self.take_down(old.as_ref(), domain, true, cancel)?;
                old.undefine(domain)?;
            }
            _ => return Err(permanent("moving a VM", format!("nothing is known to do in state {}", phase.name()))),
        }
        let done = driver_answers(phase).map_or(VmEvent::PrologDone, |(done, _)| done);
        Ok(if done == VmEvent::PrologDone { VmEvent::prolog_done(phase, Some(before.action)) } else { done })
    }

    fn previous_host(&self, row: &VmRow) -> Result<(HistoryRow, Arc<dyn Hypervisor>), Trouble> {
        let found = self.cloud.store.read(|tx| {
            let before = ledger::of_previous_host(tx, row.id)?;
            let host = before.as_ref().map_or(Ok(None), |record| tx.host_find(record.host_id))?;
            Ok::<_, crate::store::StoreError>(before.zip(host))
        })?;
        let (before, host) =
            found.ok_or_else(|| permanent("moving a VM", "the host that it comes from is not known"))?;
        Ok((before, self.outside.hypervisor(&host)?))
    }

    /// The guest goes on from its memory at once; what fails brings it back to the old host.
    fn live_migrate(&self, job: &JobRow, row: &VmRow, old: &dyn Hypervisor) -> Result<(), Trouble> {
        let host_id = row.host_id.unwrap_or(-1);
        let host = self.cloud.store.read(|tx| tx.host(host_id))?;
        let new = self.outside.hypervisor(&host)?;
        if is_off(new.state(&row.deploy_id)?) {
            if !is_off(old.state(&row.deploy_id)?) {
                self.save(row, old, job.attempts == 0)?;
            }
            if let Err(trouble) = self.wake(row, &host, new.as_ref()) {
                self.wake(row, &host, old)?;
                return Err(trouble);
            }
        }
        self.forget_saved(row.id)?;
        Ok(old.undefine(&row.deploy_id)?)
    }
}
