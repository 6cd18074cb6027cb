//! Placement: pending VMs, oldest first, each onto the host with the most free memory that has room for it.

use one_core::lifecycle::{HostState, VmEvent, VmState};

use super::{Engine, Trouble};
use crate::job::{self, JobKind, JobSubject, StopPlan};
use crate::ledger::{self, stored, vm_size};
use crate::store::rows::{HostRow, VmRow};
use crate::store::{StoreError, Tx, VmFilter};

/// What a host still has.
struct Room {
    host: HostRow,
    cpu: i64,
    memory_kb: i64,
}

impl Engine {
    /// Places every pending VM that fits somewhere; the others wait.
    pub(super) fn place(&self) -> Result<(), StoreError> {
        let pending = VmFilter { state: Some(VmState::Pending.number()), ..VmFilter::default() };
        if self.cloud.store.read(|tx| tx.vms(pending))?.is_empty() {
            return Ok(());
        }
        let now = self.cloud.clock.now();
        let outcome: Result<(), Trouble> = self.cloud.store.write(|tx| {
            let mut rooms = rooms(tx)?;
            for mut vm in tx.vms(pending)? {
                let (cpu, memory_kb) = vm_size(&stored(&vm.template));
                let best = rooms
                    .iter_mut()
                    .filter(|room| room.cpu >= cpu && room.memory_kb >= memory_kb)
                    .max_by_key(|room| room.memory_kb);
                let Some(room) = best else {
                    let why = format!(
                        "No host that is on has room for {} of a processor and {} MB of memory",
                        cpu as f64 / 100.0,
                        memory_kb / 1024
                    );
                    self.tell_why(tx, &mut vm, Some(&why), now)?;
                    continue;
                };
                self.tell_why(tx, &mut vm, None, now)?;
                room.cpu -= cpu;
                room.memory_kb -= memory_kb;
                vm.host_id = Some(room.host.id);
                vm.deploy_id = format!("one-{}", vm.id);
                tx.vm_update(&vm)?;
                ledger::history_place(tx, vm.id, &room.host, now)?;
                ledger::vm_step(tx, &mut vm, VmEvent::Place, now)?;
                let subject = JobSubject { vm_id: Some(vm.id), host_id: vm.host_id, uid: -1, ..JobSubject::default() };
                job::add(tx, JobKind::Deploy, subject, &StopPlan::default(), now)?;
            }
            Ok(())
        });
        if let Err(trouble) = outcome {
            tracing::error!(target: "SCHED", "Placing VMs failed: {trouble}");
        }
        Ok(())
    }
}

impl Engine {
    /// Keeps USER_TEMPLATE/SCHED_MESSAGE, where users of OpenNebula look for it; written only when it says something new.
    fn tell_why(&self, tx: &mut Tx<'_>, vm: &mut VmRow, why: Option<&str>, now: i64) -> Result<(), StoreError> {
        let mut template = stored(&vm.user_template);
        let told = template.scalar("SCHED_MESSAGE");
        match why {
            Some(why) if told.is_some_and(|told| told.ends_with(why)) => return Ok(()),
            Some(why) => {
                template
                    .set("SCHED_MESSAGE", format!("{} : {why}", ledger::error_date(now, self.cloud.config.timezone)));
            }
            None if told.is_none() => return Ok(()),
            None => drop(template.remove("SCHED_MESSAGE")),
        }
        vm.user_template = template.to_text();
        tx.vm_update(vm)
    }
}

fn rooms(tx: &mut Tx<'_>) -> Result<Vec<Room>, StoreError> {
    let mut rooms = Vec::new();
    for host in tx.host_list()? {
        if host.state != HostState::Monitored.number() {
            continue;
        }
        let (mut cpu, mut memory_kb) = (host.cpus * 100, host.memory_kb);
        for vm in tx.vms(VmFilter { host_id: Some(host.id), ..VmFilter::default() })? {
            let (vm_cpu, vm_memory_kb) = vm_size(&stored(&vm.template));
            cpu -= vm_cpu;
            memory_kb -= vm_memory_kb;
        }
        rooms.push(Room { host, cpu, memory_kb });
    }
    Ok(rooms)
}
