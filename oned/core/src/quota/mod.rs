//! Quotas: how much of the cloud a user or a group may take, how much they have taken, and what each operation takes.
//!
//! What it is: three maps over the same keys. [`Limits`] says how much, [`Usage`] what is taken, [`Demand`] what an
//! operation takes or gives back; [`check`] compares them, the functions of [`cost`] make demands. What it is not: it
//! stores nothing and does not know when an operation begins or ends. A user and a group are two owners with maps of
//! their own; whoever starts an operation asks for both.
//!
//! Invariants:
//! - no usage is negative, and every usage is the sum of what its owner owns: [`cost::recount`] finds the same;
//! - a demand that [`check`] let pass brings no usage above its limit;
//! - giving back is never refused, also when a limit has been lowered below what is taken;
//! - uid 0 and gid 0 are exempt ([`Owner::is_exempt`]): nothing is counted for them.
//!
//! Amounts are whole numbers: MB, pieces, or hundredths of a processor.
//!
//! Per cluster: a limit may hold for a list of clusters (`CLUSTER_IDS`), use is counted for each single cluster beside
//! the whole, and a list's use is the sum of its clusters'. So a new limit finds its use already counted.

pub mod cost;
mod limits;
mod view;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use limits::{Limit, Limits};
pub use view::{defaults_view, view};

use crate::refusal::Refusal;

/// Who a quota holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A user.
    User(i64),
    /// A group.
    Group(i64),
}

impl Owner {
    /// Whether nothing is counted and nothing refused: *oneadmin* and the group of administrators.
    pub fn is_exempt(self) -> bool {
        matches!(self, Self::User(0) | Self::Group(0))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user [{id}]"),
            Self::Group(id) => write!(f, "group [{id}]"),
        }
    }
}

/// The four sections of a quota template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Section {
    /// Space and images, per datastore.
    Datastore,
    /// Virtual machines.
    Vm,
    /// Addresses, per network.
    Network,
    /// VMs that use an image.
    Image,
}

impl Section {
    /// All of them, in the order of documents.
    pub const ALL: [Self; 4] = [Self::Datastore, Self::Network, Self::Vm, Self::Image];

    /// The attribute's name: `DATASTORE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Datastore => "DATASTORE",
            Self::Vm => "VM",
            Self::Network => "NETWORK",
            Self::Image => "IMAGE",
        }
    }

    /// The section of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.name() == name)
    }

    /// What is counted in it.
    pub fn metrics(self) -> &'static [Metric] {
        use Metric::*;
        match self {
            Self::Datastore => &[Images, Size],
            Self::Vm => &[
                Cpu,
                Memory,
                PciDev,
                PciNic,
                RunningCpu,
                RunningMemory,
                RunningPciDev,
                RunningPciNic,
                RunningVms,
                SystemDiskSize,
                Vms,
            ],
            Self::Network => &[Leases],
            Self::Image => &[Rvms],
        }
    }
}

/// What something is taken of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Resource {
    /// A datastore.
    Datastore(i64),
    /// Virtual machines: in all clusters (empty text), or in those listed, ascending and separated by commas.
    Vm(String),
    /// A network.
    Network(i64),
    /// An image.
    Image(i64),
}

impl Resource {
    /// Virtual machines wherever they are.
    pub fn all_vms() -> Self {
        Self::Vm(String::new())
    }

    /// Its section.
    pub fn section(&self) -> Section {
        match self {
            Self::Datastore(_) => Section::Datastore,
            Self::Vm(_) => Section::Vm,
            Self::Network(_) => Section::Network,
            Self::Image(_) => Section::Image,
        }
    }

    /// Which one of its section: an id, or cluster ids. With [`Resource::section`] it makes up the whole resource.
    pub fn key(&self) -> String {
        match self {
            Self::Datastore(id) | Self::Network(id) | Self::Image(id) => id.to_string(),
            Self::Vm(clusters) => clusters.clone(),
        }
    }

    /// From section and key; `None` when the key is no id, or no list of ids.
    pub fn from_key(section: Section, key: &str) -> Option<Self> {
        let id = || key.parse::<i64>().ok().filter(|id| *id >= 0);
        match section {
            Section::Datastore => id().map(Self::Datastore),
            Section::Network => id().map(Self::Network),
            Section::Image => id().map(Self::Image),
            Section::Vm => limits::cluster_list(key).map(Self::Vm),
        }
    }

    /// The single clusters of a list; empty for all clusters together and for other resources.
    fn clusters(&self) -> impl Iterator<Item = Self> {
        let list = match self {
            Self::Vm(clusters) => clusters.as_str(),
            Self::Datastore(_) | Self::Network(_) | Self::Image(_) => "",
        };
        list.split(',').filter(|id| !id.is_empty()).map(|id| Self::Vm(id.to_owned()))
    }

    /// Whether it is virtual machines of some clusters only.
    fn is_per_cluster(&self) -> bool {
        matches!(self, Self::Vm(clusters) if !clusters.is_empty())
    }
}

impl fmt::Display for Resource {
    /// As in the refusal's sentence: `DATASTORE with ID: 100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section().name())?;
        match self {
            Self::Datastore(id) | Self::Network(id) | Self::Image(id) => write!(f, " with ID: {id}"),
            Self::Vm(clusters) if clusters.is_empty() => Ok(()),
            Self::Vm(clusters) => write!(f, " with CLUSTER_IDS: {clusters}"),
        }
    }
}

/// What is counted of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// MB in a datastore.
    Size,
    /// Images in a datastore.
    Images,
    /// Virtual machines.
    Vms,
    /// Processors, in hundredths.
    Cpu,
    /// Memory, MB.
    Memory,
    /// Disks in system datastores, MB.
    SystemDiskSize,
    /// PCI devices.
    PciDev,
    /// PCI network devices.
    PciNic,
    /// Running virtual machines.
    RunningVms,
    /// Processors of running ones, in hundredths.
    RunningCpu,
    /// Memory of running ones, MB.
    RunningMemory,
    /// PCI devices of running ones.
    RunningPciDev,
    /// PCI network devices of running ones.
    RunningPciNic,
    /// Addresses of a network.
    Leases,
    /// Virtual machines that use an image.
    Rvms,
}

impl Metric {
    /// The name of its limit; that of its use has `_USED` behind it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "SIZE",
            Self::Images => "IMAGES",
            Self::Vms => "VMS",
            Self::Cpu => "CPU",
            Self::Memory => "MEMORY",
            Self::SystemDiskSize => "SYSTEM_DISK_SIZE",
            Self::PciDev => "PCI_DEV",
            Self::PciNic => "PCI_NIC",
            Self::RunningVms => "RUNNING_VMS",
            Self::RunningCpu => "RUNNING_CPU",
            Self::RunningMemory => "RUNNING_MEMORY",
            Self::RunningPciDev => "RUNNING_PCI_DEV",
            Self::RunningPciNic => "RUNNING_PCI_NIC",
            Self::Leases => "LEASES",
            Self::Rvms => "RVMS",
        }
    }

    /// The metric of that name; names are the same in no two sections.
    pub fn from_name(name: &str) -> Option<Self> {
        Section::ALL.into_iter().flat_map(Section::metrics).copied().find(|metric| metric.name() == name)
    }

    /// Whether amounts are hundredths.
    pub fn is_fraction(self) -> bool {
        matches!(self, Self::Cpu | Self::RunningCpu)
    }

    /// An amount as users write it: `10`, `2.5`.
    fn shown(self, amount: i64) -> String {
        if !self.is_fraction() {
            return amount.to_string();
        }
        let text = format!("{}.{:02}", amount / 100, (amount % 100).abs());
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// What an operation takes (positive) or gives back (negative). Nothing is in it twice, nor with amount 0.
///
/// Serialised as a list of (resource, metric, amount), so that the plan of a job can hold what it has reserved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(Resource, Metric, i64)>", from = "Vec<(Resource, Metric, i64)>")]
pub struct Demand(BTreeMap<(Resource, Metric), i64>);

impl Demand {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes so much more of it (negative: less).
    pub fn add(&mut self, resource: Resource, metric: Metric, amount: i64) {
        let key = (resource, metric);
        let sum = self.0.get(&key).copied().unwrap_or(0).saturating_add(amount);
        if sum == 0 {
            self.0.remove(&key);
        } else {
            self.0.insert(key, sum);
        }
    }

    /// How much of it; 0 when it is not in it.
    pub fn amount(&self, resource: &Resource, metric: Metric) -> i64 {
        self.0.get(&(resource.clone(), metric)).copied().unwrap_or(0)
    }

    /// All of it, by resource and metric.
    pub fn iter(&self) -> impl Iterator<Item = (&Resource, Metric, i64)> {
        self.0.iter().map(|((resource, metric), amount)| (resource, *metric, *amount))
    }

    /// Whether it takes and gives nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What gives back what this takes.
    #[must_use]
    pub fn negated(&self) -> Self {
        Self(self.0.iter().map(|(key, amount)| (key.clone(), amount.saturating_neg())).collect())
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (resource, metric, amount) in other.iter() {
            sum.add(resource.clone(), metric, amount);
        }
        sum
    }

    /// What brings a usage from `other` to this: for a VM that was resized, an image of another size than reserved.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.plus(&other.negated())
    }
}

impl From<Vec<(Resource, Metric, i64)>> for Demand {
    fn from(entries: Vec<(Resource, Metric, i64)>) -> Self {
        let mut demand = Self::new();
        for (resource, metric, amount) in entries {
            demand.add(resource, metric, amount);
        }
        demand
    }
}

impl From<Demand> for Vec<(Resource, Metric, i64)> {
    fn from(demand: Demand) -> Self {
        demand.0.into_iter().map(|((resource, metric), amount)| (resource, metric, amount)).collect()
    }
}

/// What an owner has taken. Never negative; 0 is no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(Resource, Metric, i64)>", from = "Vec<(Resource, Metric, i64)>")]
pub struct Usage(BTreeMap<(Resource, Metric), i64>);

/// More was given back than had been taken: the books were wrong before. The use is 0 now; [`cost::recount`] puts it
/// right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} of {resource} was {counted} when {returned} were given back", metric.name())]
pub struct Inconsistency {
    /// Of what.
    pub resource: Resource,
    /// What was counted.
    pub metric: Metric,
    /// How much was counted.
    pub counted: i64,
    /// How much came back.
    pub returned: i64,
}

impl Usage {
    /// Nothing is taken.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much is taken of it. For a list of clusters the sum of theirs.
    pub fn used(&self, resource: &Resource, metric: Metric) -> i64 {
        let one = |resource: Resource| self.0.get(&(resource, metric)).copied().unwrap_or(0);
        if resource.is_per_cluster() {
            return resource.clusters().map(one).fold(0, i64::saturating_add);
        }
        one(resource.clone())
    }

    /// All that is taken, by resource and metric, use in single clusters included.
    pub fn iter(&self) -> impl Iterator<Item = (&Resource, Metric, i64)> {
        self.0.iter().map(|((resource, metric), amount)| (resource, *metric, *amount))
    }

    /// Whether nothing is taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts what a demand takes and gives back. Asks no limit: [`check`] comes before. Gives back what did not add up,
    /// for the log.
    #[must_use]
    pub fn apply(&mut self, demand: &Demand) -> Vec<Inconsistency> {
        let mut found = Vec::new();
        for (resource, metric, amount) in demand.iter() {
            let key = (resource.clone(), metric);
            let counted = self.0.get(&key).copied().unwrap_or(0);
            let sum = counted.saturating_add(amount);
            if sum < 0 {
                let returned = amount.saturating_neg();
                found.push(Inconsistency { resource: resource.clone(), metric, counted, returned });
            }
            if sum > 0 {
                self.0.insert(key, sum);
            } else {
                self.0.remove(&key);
            }
        }
        found
    }
}

/// Amounts below 1 count for nothing: no usage is negative, wherever it was read from.
impl From<Vec<(Resource, Metric, i64)>> for Usage {
    fn from(entries: Vec<(Resource, Metric, i64)>) -> Self {
        let sum = Demand::from(entries);
        Self(sum.0.into_iter().filter(|(_, amount)| *amount > 0).collect())
    }
}

impl From<Usage> for Vec<(Resource, Metric, i64)> {
    fn from(usage: Usage) -> Self {
        Demand(usage.0).into()
    }
}

/// A limit that would be passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{owner} limit of {} reached for {} quota in {resource}", metric.shown(*limit), metric.name())]
pub struct QuotaRefusal {
    /// Whose limit.
    pub owner: Owner,
    /// Of what.
    pub resource: Resource,
    /// What is counted.
    pub metric: Metric,
    /// The limit that holds, the owner's own or the default.
    pub limit: i64,
}

impl QuotaRefusal {
    /// As the answer to `caller`: AUTHORIZATION, `User [2] : user [2] limit of 10 reached for …`.
    #[must_use]
    pub fn refusal(&self, caller: i64) -> Refusal {
        Refusal::QuotaExceeded { user: caller, reason: self.to_string() }
    }
}

/// Decides whether the owner may take this. What a demand does not take more of is not looked at, so that a limit
/// lowered below the use stops neither deletions nor increments of what exists.
///
/// # Errors
/// The first limit, in the order of resources and metrics, that the use would pass.
pub fn check(
    owner: Owner,
    limits: &Limits,
    defaults: &Limits,
    usage: &Usage,
    demand: &Demand,
) -> Result<(), QuotaRefusal> {
    if owner.is_exempt() {
        return Ok(());
    }
    let within = |resource: &Resource, metric: Metric, wanted: i64| {
        let Some(limit) = limits.effective(defaults, resource, metric) else { return Ok(()) };
        if wanted <= 0 || usage.used(resource, metric).saturating_add(wanted) <= limit {
            return Ok(());
        }
        Err(QuotaRefusal { owner, resource: resource.clone(), metric, limit })
    };
    // Use in single clusters is limited through the lists that name them.
    for (resource, metric, wanted) in demand.iter().filter(|(resource, ..)| !resource.is_per_cluster()) {
        within(resource, metric, wanted)?;
    }
    for (resource, metric, _) in limits.iter().filter(|(resource, ..)| resource.is_per_cluster()) {
        let wanted = resource.clusters().map(|one| demand.amount(&one, metric)).fold(0, i64::saturating_add);
        within(resource, metric, wanted)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
