//! `SHOWBACK`: what a VM cost in a month (`one.vmpool.showback`, root SHOWBACK_RECORDS).

use super::writer::Writer;
use super::{Owner, Render, alone};

/// What a record of costs shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShowbackView {
    /// VM id.
    pub vm: i64,
    /// VM name.
    pub vm_name: String,
    /// Owner and group of the VM.
    pub owner: Owner,
    /// Year.
    pub year: i32,
    /// Month, from 1.
    pub month: u32,
    /// Cost of processors.
    pub cpu_cost: f64,
    /// Cost of memory.
    pub memory_cost: f64,
    /// Cost of disks.
    pub disk_cost: f64,
    /// The sum.
    pub total_cost: f64,
    /// Hours that the VM existed in the month.
    pub hours: f64,
    /// Hours that it ran.
    pub running_hours: f64,
}

/// The element of SHOWBACK_RECORDS.
pub fn showback(view: &ShowbackView) -> String {
    alone(view)
}

impl Render for ShowbackView {
    fn render(&self, w: &mut Writer) {
        w.open("SHOWBACK");
        w.number("VMID", self.vm);
        w.text("VMNAME", &self.vm_name);
        w.owner(&self.owner);
        w.number("YEAR", self.year);
        w.number("MONTH", self.month);
        w.decimal("CPU_COST", self.cpu_cost);
        w.decimal("MEMORY_COST", self.memory_cost);
        w.decimal("DISK_COST", self.disk_cost);
        w.decimal("TOTAL_COST", self.total_cost);
        w.decimal("HOURS", self.hours);
        w.decimal("RHOURS", self.running_hours);
        w.close("SHOWBACK");
    }
}
