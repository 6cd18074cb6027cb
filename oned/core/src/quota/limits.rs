//! Limits as administrators write them: the text of `one.user.quota`, `one.group.quota` and of the two calls for the
//! defaults.
//!
//! `DATASTORE = [ ID = 100, SIZE = 20480, IMAGES = 10 ]`, `VM = [ VMS = 5, CPU = 2.5 ]`, `NETWORK = [ ID = 1, LEASES = 5 ]`,
//! `IMAGE = [ ID = 4, RVMS = 2 ]`; −1 is the default, −2 no limit. Ids are not looked up: a limit may come before what
//! it is for.
//!
//! Invariant: what is [`Limit::Default`] is not kept.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Metric, Resource, Section};
use crate::refusal::Refusal;
use crate::template::{Attribute, Template, Value, Vector};

/// Most limits of one owner.
const LIMITS_MAX: usize = 10_000;
/// Most clusters in one list.
const CLUSTERS_MAX: usize = 1_000;

/// How much may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// What the defaults say (−1). In the defaults themselves: no limit.
    Default,
    /// No limit, whatever the defaults say (−2).
    Unlimited,
    /// So much and no more; 0 is nothing at all.
    Most(i64),
}

impl Limit {
    /// As in documents and in the database: −1, −2 or the amount (hundredths of processors).
    pub fn number(self) -> i64 {
        match self {
            Self::Default => -1,
            Self::Unlimited => -2,
            Self::Most(amount) => amount,
        }
    }

    /// From [`Limit::number`]; `None` for other negative numbers.
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            -1 => Some(Self::Default),
            -2 => Some(Self::Unlimited),
            0.. => Some(Self::Most(number)),
            _ => None,
        }
    }
}

/// The limits of one owner, or the defaults for all users or all groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(Resource, Metric, Limit)>", from = "Vec<(Resource, Metric, Limit)>")]
pub struct Limits(BTreeMap<(Resource, Metric), Limit>);

impl Limits {
    /// No limit of one's own.
    pub fn new() -> Self {
        Self::default()
    }

    /// The limit set for it.
    pub fn get(&self, resource: &Resource, metric: Metric) -> Limit {
        self.0.get(&(resource.clone(), metric)).copied().unwrap_or(Limit::Default)
    }

    /// Sets one limit.
    pub fn set(&mut self, resource: Resource, metric: Metric, limit: Limit) {
        match limit {
            Limit::Default => self.0.remove(&(resource, metric)),
            Limit::Unlimited | Limit::Most(_) => self.0.insert((resource, metric), limit),
        };
    }

    /// All limits that are set, by resource and metric.
    pub fn iter(&self) -> impl Iterator<Item = (&Resource, Metric, Limit)> {
        self.0.iter().map(|((resource, metric), limit)| (resource, *metric, *limit))
    }

    /// The amount that holds: the owner's own, else the default; `None` is no limit.
    pub fn effective(&self, defaults: &Self, resource: &Resource, metric: Metric) -> Option<i64> {
        let own = self.get(resource, metric);
        let holds = if own == Limit::Default { defaults.get(resource, metric) } else { own };
        match holds {
            Limit::Default | Limit::Unlimited => None,
            Limit::Most(amount) => Some(amount),
        }
    }

    /// Takes over what the text of `one.user.quota` or `one.group.quota` says. What it leaves out stays as it is. Keys
    /// ending in `_USED`, which documents have beside the limits, are ignored.
    ///
    /// # Errors
    /// ACTION, naming the attribute, when it is no quota or its value no limit. Nothing is changed then.
    pub fn update(&mut self, text: &Template) -> Result<(), Refusal> {
        let mut changed = self.clone();
        for Attribute { name, value } in text.attributes() {
            let Some(section) = Section::from_name(name) else {
                return refuse(format!("{name} is no quota; there are DATASTORE, VM, NETWORK and IMAGE"));
            };
            let Value::Vector(vector) = value else {
                return refuse(format!("Quota {name} has to be a list of limits: {name} = [ … ]"));
            };
            changed.read(section, vector)?;
        }
        if changed.0.len() > LIMITS_MAX {
            return refuse(format!("More than {LIMITS_MAX} limits; set some to -1 (the default) first"));
        }
        *self = changed;
        Ok(())
    }

    /// The same for the defaults, which hold for all clusters together.
    ///
    /// # Errors
    /// As [`Limits::update`], and for CLUSTER_IDS.
    pub fn update_defaults(&mut self, text: &Template) -> Result<(), Refusal> {
        let of_clusters = |vm: &Vector| vm.get("CLUSTER_IDS").is_some_and(|list| !list.is_empty());
        if text.vectors(Section::Vm.name()).any(of_clusters) {
            return refuse("Quota VM with CLUSTER_IDS cannot be a default; set it for a user or a group".to_owned());
        }
        self.update(text)
    }

    fn read(&mut self, section: Section, vector: &Vector) -> Result<(), Refusal> {
        let (key, what) = if section == Section::Vm { ("CLUSTER_IDS", "a list of ids") } else { ("ID", "an id") };
        let name = section.name();
        let given = vector.get(key).unwrap_or_default();
        let Some(resource) = Resource::from_key(section, given) else {
            return refuse(format!("Quota {name} needs {key} to be {what}, it is \"{given}\""));
        };
        for (key_given, value) in vector.iter().filter(|(other, _)| *other != key && !other.ends_with("_USED")) {
            let Some(metric) = section.metrics().iter().copied().find(|metric| metric.name() == key_given) else {
                return refuse(format!("Quota {name} knows no {key_given}; it has {}", names(section)));
            };
            let Some(limit) = limit(metric, value) else {
                return refuse(format!(
                    "Quota {resource} has {key_given} \"{value}\", but a limit is {}, -1 (default) or -2 (no limit)",
                    if metric.is_fraction() { "a number with at most two decimals" } else { "a whole number from 0" }
                ));
            };
            self.set(resource.clone(), metric, limit);
        }
        Ok(())
    }
}

impl From<Vec<(Resource, Metric, Limit)>> for Limits {
    fn from(entries: Vec<(Resource, Metric, Limit)>) -> Self {
        let mut limits = Self::new();
        for (resource, metric, limit) in entries {
            limits.set(resource, metric, limit);
        }
        limits
    }
}

impl From<Limits> for Vec<(Resource, Metric, Limit)> {
    fn from(limits: Limits) -> Self {
        limits.0.into_iter().map(|((resource, metric), limit)| (resource, metric, limit)).collect()
    }
}

fn refuse<T>(reason: String) -> Result<T, Refusal> {
    Err(Refusal::Action(reason))
}

fn names(section: Section) -> String {
    section.metrics().iter().map(|metric| metric.name()).collect::<Vec<_>>().join(", ")
}

fn limit(metric: Metric, text: &str) -> Option<Limit> {
    if !metric.is_fraction() {
        return Limit::from_number(text.parse().ok()?);
    }
    match hundredths(text)? {
        -100 => Some(Limit::Default),
        -200 => Some(Limit::Unlimited),
        amount @ 0.. => Some(Limit::Most(amount)),
        _ => None,
    }
}

/// A decimal number with at most two decimals (more when they are zeros: some clients send `2.500000`), times 100.
fn hundredths(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let decimals_kept = decimals.trim_end_matches('0');
    if !is_number(whole) || !is_number(decimals) || decimals_kept.len() > 2 {
        return None;
    }
    let fraction: i64 = format!("{decimals_kept:0<2}").parse().ok()?;
    let amount = whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(fraction)?;
    Some(if negative { -amount } else { amount })
}

/// A list of cluster ids as it is kept: ascending, each once. Empty for all clusters.
pub(super) fn cluster_list(text: &str) -> Option<String> {
    let mut ids = BTreeSet::new();
    for word in text.split(',').map(str::trim).filter(|_| !text.is_empty()) {
        ids.insert(word.parse::<i64>().ok().filter(|id| *id >= 0)?);
        if ids.len() > CLUSTERS_MAX {
            return None;
        }
    }
    Some(ids.iter().map(i64::to_string).collect::<Vec<_>>().join(","))
}
