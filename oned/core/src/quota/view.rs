//! Quotas as documents show them: an entry where there is a limit or something is taken.

use std::collections::BTreeSet;

use super::{Limits, Metric, Resource, Usage};
use crate::doc::{Count, DatastoreQuotaView, ImageQuotaView, NetworkQuotaView, QuotasView, Share, VmQuotaView};

/// The quotas of one owner. Use in single clusters is shown where a limit asks for it.
pub fn view(limits: &Limits, usage: &Usage) -> QuotasView {
    let limited = limits.iter().map(|(resource, ..)| resource);
    let taken = usage.iter().map(|(resource, ..)| resource).filter(|resource| !resource.is_per_cluster());
    let resources: BTreeSet<&Resource> = limited.chain(taken).collect();
    let mut view = QuotasView::default();
    for resource in resources {
        let count = |metric| Count { limit: limits.get(resource, metric).number(), used: usage.used(resource, metric) };
        let share = |metric| {
            let Count { limit, used } = count(metric);
            Share { limit: if limit < 0 { limit as f64 } else { processors(limit) }, used: processors(used) }
        };
        match resource {
            Resource::Datastore(id) => view.datastores.push(DatastoreQuotaView {
                id: *id,
                images: count(Metric::Images),
                size_mb: count(Metric::Size),
            }),
            Resource::Network(id) => {
                view.networks.push(NetworkQuotaView { id: *id, leases: count(Metric::Leases) });
            }
            Resource::Image(id) => view.images.push(ImageQuotaView { id: *id, rvms: count(Metric::Rvms) }),
            Resource::Vm(clusters) => view.vms.push(VmQuotaView {
                cluster_ids: clusters.clone(),
                cpu: share(Metric::Cpu),
                memory_mb: count(Metric::Memory),
                pci_dev: count(Metric::PciDev),
                pci_nic: count(Metric::PciNic),
                running_cpu: share(Metric::RunningCpu),
                running_memory_mb: count(Metric::RunningMemory),
                running_pci_dev: count(Metric::RunningPciDev),
                running_pci_nic: count(Metric::RunningPciNic),
                running_vms: count(Metric::RunningVms),
                system_disk_size_mb: count(Metric::SystemDiskSize),
                vms: count(Metric::Vms),
            }),
        }
    }
    view
}

/// The defaults, of which nothing is taken.
pub fn defaults_view(defaults: &Limits) -> QuotasView {
    view(defaults, &Usage::new())
}

fn processors(hundredths: i64) -> f64 {
    hundredths as f64 / 100.0
}
