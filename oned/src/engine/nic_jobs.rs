//! Network cards of running VMs come and go. The hypervisor's calls are repeatable by the card's MAC, so a job that was
//! cut off is simply run again.
//!
//! Invariant: an address is given back only when its card is out of the machine, or was asked out of it.

use std::time::Duration;

use drivers::{DriverError, Kind};
use one_core::lifecycle::{LcmState, VmChange, VmEvent, VmPhase};
use one_core::template::Vector;

use super::vm_boot::domain_nic;
use super::{Engine, Trouble};
use crate::cards;
use crate::job::{self, JobKind, NicPlan};
use crate::ledger::{self, stored};
use crate::quota;
use crate::store::rows::{JobRow, VmRow};

/// How long a guest may take to let go of a card.
const DETACH: Duration = Duration::from_secs(30);

const CHANGING: VmPhase = VmPhase::active(LcmState::HotplugNic);

fn card(plan: &NicPlan) -> Vector {
    stored(&plan.nic).vector("NIC").cloned().unwrap_or_default()
}

impl Engine {
    /// Puts the card of the plan into the machine.
    pub(super) fn attach_nic(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: NicPlan = job::plan(job)?;
        let (row, _, hypervisor) = self.vm_of(job)?;
        if ledger::phase(&row) == CHANGING {
            let Some(nic) = domain_nic(&card(&plan)) else {
                let reason = "it leads to no bridge and no network of the host";
                return Err(DriverError::new(Kind::Permanent, format!("attaching NIC {}", plan.nic_id), reason).into());
            };
            hypervisor.attach_nic(&row.deploy_id, &nic)?;
            crate::crash::point("nic.attached");
            self.nic_changed(&row, &plan, false, VmEvent::ChangeDone(VmChange::Nic))?;
        }
        self.close(job, "done", "")
    }

    /// Takes the card of the plan out of the machine.
    pub(super) fn detach_nic(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: NicPlan = job::plan(job)?;
        let (row, _, hypervisor) = self.vm_of(job)?;
        if ledger::phase(&row) == CHANGING {
            let card = card(&plan);
            hypervisor.detach_nic(&row.deploy_id, card.get("MAC").unwrap_or_default(), DETACH)?;
            crate::crash::point("nic.detached");
            self.nic_changed(&row, &plan, true, VmEvent::ChangeDone(VmChange::Nic))?;
        }
        self.close(job, "done", "")
    }

    /// Ends the change in the VM's records: the card is there, or gone with its lease.
    fn nic_changed(&self, row: &VmRow, plan: &NicPlan, gone: bool, event: VmEvent) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        self.cloud.store.write(|tx| {
            let mut row = tx.vm(row.id)?;
            let mut system = stored(&row.template);
            if gone {
                cards::remove(tx, row.id, &mut system, plan.nic_id)?;
            } else {
                cards::unmark(&mut system, plan.nic_id);
            }
            row.template = system.to_text();
            quota::save_vm(tx, &row)?;
            ledger::vm_step(tx, &mut row, event, now)?;
            Ok::<_, Trouble>(())
        })
    }

    /// Takes a change back that the hypervisor did not make: a card that did not come goes with its address, one that did
    /// not go stays. The reason stands where its owner looks.
    pub(super) fn nic_failed(&self, job: &JobRow, trouble: &Trouble, cancelled: bool) -> Result<(), Trouble> {
        let plan: NicPlan = job::plan(job)?;
        let attaching = job.kind == JobKind::AttachNic.as_str();
        let vm_id = job.vm_id.unwrap_or(-1);
        if let Some(row) = self.cloud.store.read(|tx| tx.vm_find(vm_id))?.filter(|row| ledger::phase(row) == CHANGING) {
            if attaching {
                self.ask_out(job, &row, &plan);
            }
            self.nic_changed(&row, &plan, attaching, VmEvent::ChangeFailed(VmChange::Nic))?;
            if !cancelled {
                let (now, zone) = (self.cloud.clock.now(), self.cloud.config.timezone);
                self.cloud.store.write(|tx| {
                    let mut row = tx.vm(vm_id)?;
                    ledger::vm_error(tx, &mut row, Some((&format!("{}: {trouble}", job.kind), now, zone)))
                })?;
            }
        }
        self.close(job, if cancelled { "cancelled" } else { "failed" }, &trouble.to_string())
    }

    /// An attach that failed may have been heard all the same. Where nobody answers there is nobody to ask.
    fn ask_out(&self, job: &JobRow, row: &VmRow, plan: &NicPlan) {
        let card = card(plan);
        let Some(mac) = card.get("MAC") else { return };
        let asked =
            self.vm_of(job).and_then(|(_, _, hypervisor)| Ok(hypervisor.detach_nic(&row.deploy_id, mac, DETACH)?));
        if let Err(error) = asked {
            tracing::warn!(target: "VMM", vm = row.id, "NIC {} of VM {}: {error}", plan.nic_id, row.id);
        }
    }
}
