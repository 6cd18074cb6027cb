//! What a host still has for VMs: what it offers less what the VMs on it were promised. Used for placing them, and for
//! checking what a client wants to place by hand. And what a datastore has for data, as monitoring saw it last.

use one_core::refusal::Refusal;
use one_core::template::Template;

use crate::config::Config;
use crate::ledger::{stored, vm_size};
use crate::store::rows::{DatastoreRow, HostRow, VmRow};
use crate::store::{StoreError, Tx, VmFilter};

/// MB that a datastore still takes; none = nobody is to look: DATASTORE_CAPACITY_CHECK is off in oned.conf or in the
/// datastore, or it has not told its size. LIMIT_MB bounds what it takes in all.
#[must_use]
pub fn free_mb(config: &Config, row: &DatastoreRow) -> Option<i64> {
    let template = stored(&row.template);
    if row.total_mb <= 0 || !is_checked(config, &template) {
        return None;
    }
    let limit = template.int("LIMIT_MB").filter(|limit| *limit >= 0);
    let left = limit.map(|limit| limit.saturating_sub(row.used_mb).max(0));
    Some(left.map_or(row.free_mb, |left| left.min(row.free_mb)))
}

/// Whether somebody looks at the room of a datastore with this template before using it.
#[must_use]
pub fn is_checked(config: &Config, template: &Template) -> bool {
    config.datastore_capacity_check && template.yes("DATASTORE_CAPACITY_CHECK") != Some(false)
}

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
