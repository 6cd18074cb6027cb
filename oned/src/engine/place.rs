//! Placement: pending VMs, oldest first, each onto the host with the most free memory that has room for it.

use one_core::lifecycle::{HostState, VmState};

use super::{Engine, Trouble};
use crate::capacity::Room;
use crate::ledger::{self, stored, vm_size};
use crate::store::rows::{HostRow, VmRow};
use crate::store::{StoreError, Tx, VmFilter};

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
                let size = vm_size(&stored(&vm.template));
                let last = tx.history_last(vm.id)?;
                let best = rooms
                    .iter_mut()
                    .filter(|(host, room)| room.has(size) && ledger::can_go_on(last.as_ref(), host))
                    .max_by_key(|(_, room)| room.memory_kb);
                let Some((host, room)) = best else {
                    let why = format!(
                        "No host that is on has room for {} of a processor and {} MB of memory",
                        size.0 as f64 / 100.0,
                        size.1 / 1024
                    );
                    self.tell_why(tx, &mut vm, Some(&why), now)?;
                    continue;
                };
                self.tell_why(tx, &mut vm, None, now)?;
                room.take(size);
                ledger::vm_place(tx, &mut vm, host, -1, now)?;
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

fn rooms(tx: &mut Tx<'_>) -> Result<Vec<(HostRow, Room)>, StoreError> {
    let mut rooms = Vec::new();
    // The disks of all VMs lie in system datastore 0.
    if tx.datastore_find(0)?.is_none_or(|datastore| datastore.state != 0) {
        return Ok(rooms);
    }
    for host in tx.host_list()? {
        if host.state == HostState::Monitored.number() {
            let room = Room::of(tx, &host, None)?;
            rooms.push((host, room));
        }
    }
    Ok(rooms)
}
