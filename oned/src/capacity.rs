//! What a host still has for VMs: what it offers less what the VMs on it were promised. Used for placing them, and for
//! checking what a client wants to place by hand.

use one_core::refusal::Refusal;

use crate::ledger::{stored, vm_size};
use crate::store::rows::{HostRow, VmRow};
use crate::store::{StoreError, Tx, VmFilter};

/// What is left of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Processors, hundredths.
    pub cpu: i64,
    /// Memory, KiB.
    pub memory_kb: i64,
}

impl Room {
    /// What a host has left, not counting the VM `but`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn of(tx: &mut Tx<'_>, host: &HostRow, but: Option<i64>) -> Result<Self, StoreError> {
        let mut room = Self { cpu: host.cpus.saturating_mul(100), memory_kb: host.memory_kb };
        for vm in tx.vms(VmFilter { host_id: Some(host.id), ..VmFilter::default() })? {
            if Some(vm.id) != but {
                room.take(vm_size(&stored(&vm.template)));
            }
        }
        Ok(room)
    }

    /// Whether a VM of this size (processors in hundredths, memory in KiB) fits in.
    #[must_use]
    pub fn has(self, (cpu, memory_kb): (i64, i64)) -> bool {
        self.cpu >= cpu && self.memory_kb >= memory_kb
    }

    /// Promises that much to a VM.
    pub fn take(&mut self, (cpu, memory_kb): (i64, i64)) {
        self.cpu = self.cpu.saturating_sub(cpu);
        self.memory_kb = self.memory_kb.saturating_sub(memory_kb);
    }
}

/// Refuses a host that has no room for a VM of this size.
///
/// # Errors
/// [`Refusal::Action`] with what is missing.
pub fn check(tx: &mut Tx<'_>, host: &HostRow, vm: &VmRow, size: (i64, i64)) -> Result<(), Refusal> {
    let room = Room::of(tx, host, Some(vm.id))?;
    if room.has(size) {
        return Ok(());
    }
    Err(Refusal::Action(format!(
        "Host {} does not have enough capacity for VM {}: it has {} of a processor and {} MB of memory left. Choose another \
         host, or do not enforce it.",
        host.id,
        vm.id,
        room.cpu.max(0) as f64 / 100.0,
        room.memory_kb.max(0) / 1024
    )))
}
