//! What operations take, and what all that an owner has adds up to.
//!
//! Every function gives the whole of what a thing takes; [`Demand::negated`] gives it back and [`Demand::minus`] changes
//! it. A backup takes its reservation when it starts; when it succeeds the reservation is corrected to the real size,
//! when it fails or is cancelled all of it is given back.

use std::collections::BTreeSet;

use super::{Demand, Metric, Resource, Usage};
use crate::lifecycle::VmState;
use crate::template::{Template, Vector};

/// What a VM takes from its creation to its end: itself, processors, memory, disks in system datastores, an address for
/// each NIC, and a place at each image that it does not own.
///
/// `template` is the system part as allocated, `cluster` where the VM is once that is known. An image counts once for a
/// VM, however many disks are made from it.
pub fn vm(template: &Template, cluster: Option<i64>) -> Demand {
    let mut demand = Demand::new();
    let disks = template.vectors("DISK").filter(|disk| is_on_system_datastore(disk));
    let disk_mb = disks.map(|disk| disk.int("SIZE").unwrap_or(0).max(0)).fold(0, i64::saturating_add);
    let (devices, nics) = pci(template);
    for scope in scopes(cluster) {
        demand.add(scope.clone(), Metric::Vms, 1);
        demand.add(scope.clone(), Metric::Cpu, processors(template));
        demand.add(scope.clone(), Metric::Memory, memory_mb(template));
        demand.add(scope.clone(), Metric::PciDev, devices);
        demand.add(scope.clone(), Metric::PciNic, nics);
        demand.add(scope, Metric::SystemDiskSize, disk_mb);
    }
    for nic in template.vectors("NIC").chain(template.vectors("NIC_ALIAS")) {
        if let Some(network) = nic.int("NETWORK_ID").filter(|id| *id >= 0) {
            demand.add(Resource::Network(network), Metric::Leases, 1);
        }
    }
    let shared = template.vectors("DISK").filter(|disk| disk.yes("PERSISTENT") != Some(true));
    let images: BTreeSet<i64> = shared.filter_map(|disk| disk.int("IMAGE_ID")).filter(|id| *id >= 0).collect();
    for image in images {
        demand.add(Resource::Image(image), Metric::Rvms, 1);
    }
    demand
}

/// What a VM takes besides [`vm`] while it [`counts_as_running`].
pub fn running_vm(template: &Template, cluster: Option<i64>) -> Demand {
    let mut demand = Demand::new();
    let (devices, nics) = pci(template);
    for scope in scopes(cluster) {
        demand.add(scope.clone(), Metric::RunningVms, 1);
        demand.add(scope.clone(), Metric::RunningCpu, processors(template));
        demand.add(scope.clone(), Metric::RunningMemory, memory_mb(template));
        demand.add(scope.clone(), Metric::RunningPciDev, devices);
        demand.add(scope, Metric::RunningPciNic, nics);
    }
    demand
}

/// Whether a VM in this state counts against the limits of running ones: when it runs or waits to run.
pub fn counts_as_running(state: VmState) -> bool {
    match state {
        VmState::Pending | VmState::Hold | VmState::Active | VmState::Cloning => true,
        VmState::Init
        | VmState::Stopped
        | VmState::Suspended
        | VmState::Done
        | VmState::Poweroff
        | VmState::Undeployed
        | VmState::CloningFailure => false,
    }
}

/// What an image takes of its datastore, backup images included.
pub fn image(datastore: i64, size_mb: i64) -> Demand {
    space(datastore, size_mb.max(0), 1)
}

/// What a backup reserves of its datastore when it starts: the disks' full size, and an image unless it adds an increment
/// to one.
pub fn backup_start(datastore: i64, disks_mb: i64, new_image: bool) -> Demand {
    space(datastore, disks_mb.max(0), i64::from(new_image))
}

/// What replaces a reserved size by the real one; also what replaces an image's old size by its new one, when retention
/// has dropped a part.
pub fn resized(datastore: i64, from_mb: i64, to_mb: i64) -> Demand {
    space(datastore, to_mb.max(0).saturating_sub(from_mb.max(0)), 0)
}

fn space(datastore: i64, size_mb: i64, images: i64) -> Demand {
    let mut demand = Demand::new();
    demand.add(Resource::Datastore(datastore), Metric::Size, size_mb);
    demand.add(Resource::Datastore(datastore), Metric::Images, images);
    demand
}

/// Something that counts for its owner.
#[derive(Debug, Clone, Copy)]
pub enum Owned<'a> {
    /// A virtual machine; one that is DONE counts for nothing.
    Vm {
        /// The system part of its template.
        template: &'a Template,
        /// Its state.
        state: VmState,
        /// Where it is.
        cluster: Option<i64>,
    },
    /// An image or a backup.
    Image {
        /// Where it is.
        datastore: i64,
        /// Its size, MB.
        size_mb: i64,
    },
    /// What an operation under way has reserved.
    Reserved(&'a Demand),
}

impl Owned<'_> {
    /// What it takes.
    pub fn demand(&self) -> Demand {
        match self {
            Self::Vm { state: VmState::Done, .. } => Demand::new(),
            Self::Vm { template, state, cluster } if counts_as_running(*state) => {
                vm(template, *cluster).plus(&running_vm(template, *cluster))
            }
            Self::Vm { template, cluster, .. } => vm(template, *cluster),
            Self::Image { datastore, size_mb } => image(*datastore, *size_mb),
            Self::Reserved(demand) => (*demand).clone(),
        }
    }
}

/// What all that an owner has takes together: what his usage has to be.
pub fn recount<'a>(owned: impl Iterator<Item = Owned<'a>>) -> Usage {
    let mut sum = Demand::new();
    for thing in owned {
        for (resource, metric, amount) in thing.demand().iter() {
            sum.add(resource.clone(), metric, amount);
        }
    }
    Vec::from(sum).into()
}

/// All VMs together, and those of the cluster.
fn scopes(cluster: Option<i64>) -> impl Iterator<Item = Resource> {
    [Some(Resource::all_vms()), cluster.map(|id| Resource::Vm(id.to_string()))].into_iter().flatten()
}

/// Whether the disk takes room in a system datastore: volatile ones, and those copied from an image. Not CDs, nor disks
/// that are written into the image itself.
fn is_on_system_datastore(disk: &Vector) -> bool {
    let kind = disk.get("TYPE").unwrap_or_default().to_ascii_uppercase();
    let is_cd = kind.ends_with("CDROM") || kind.ends_with("CD_ROM");
    !is_cd && disk.yes("PERSISTENT") != Some(true) && disk.yes("CLONE") != Some(false)
}

/// PCI devices and PCI network devices.
fn pci(template: &Template) -> (i64, i64) {
    let is_nic = |device: &&Vector| device.get("TYPE").is_some_and(|kind| kind.eq_ignore_ascii_case("NIC"));
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let nics = template.vectors("PCI").filter(is_nic).count();
    (count(template.vectors("PCI").count() - nics), count(nics))
}

/// CPU in hundredths.
fn processors(template: &Template) -> i64 {
    rounded_up(template.scalar("CPU"), 100.0)
}

fn memory_mb(template: &Template) -> i64 {
    rounded_up(template.scalar("MEMORY"), 1.0)
}

/// A number times `scale`, rounded up, so that no VM is for nothing. What is no number counts 0: templates were checked
/// when the VM was made.
#[expect(clippy::cast_possible_truncation, reason = "a cast from f64 saturates, and the value is finite")]
fn rounded_up(text: Option<&str>, scale: f64) -> i64 {
    let number = text.and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite());
    // 0.07 × 100 is a little more than 7 in binary fractions.
    (number.unwrap_or(0.0).max(0.0) * scale - 1e-6).ceil() as i64
}
