//! What owners have taken, kept beside the rows that take it: within the transaction that changes a row, its owner's
//! usage changes.
//!
//! What takes what, and which limit holds, is `one_core::quota`; this module knows rows and the table `quota`. It is
//! between api and engine: the api asks [`Taken::allowed`] before it answers, the engine only counts.
//!
//! Whoever changes a column that counts (owner, group, state, template or host of a VM; owner, group, datastore or size of
//! an image; the cluster of a host) stores the row with [`save_vm`], [`save_image`] or [`save_host`], and removes images
//! with [`delete_image`]. They compare with the row as it is stored, so no caller has to remember what it was.
//!
//! Invariants:
//! - usage is what [`recount`] finds, after every transaction; differences that are there all the same are repaired when
//!   the daemon starts ([`repair`]);
//! - a backup's reservation is counted exactly while its job is in a phase of which [`is_reserving`] is true; its amount
//!   is in the job's plan, so it survives the daemon and is given back once;
//! - what belongs to a user or group that is gone counts on for that id, which is never given again.

use std::collections::{BTreeMap, BTreeSet};

use one_core::access::Object;
use one_core::lifecycle::{JobPhase, VmState};
use one_core::quota::cost::{self, Owned, counts_as_running};
use one_core::quota::{Demand, Limit, Limits, Metric, Owner, Resource, Section, Usage, check};
use one_core::refusal::Refusal;
use serde::{Deserialize, Serialize};

use crate::job::{self, BackupPlan, JobKind};
use crate::ledger::stored;
use crate::store::rows::{HostRow, ImageRow, JobRow, QuotaRow, VmRow};
use crate::store::{JobFilter, Release, StoreError, Tx, VmFilter};

/// The word of the table for users.
pub const USER: &str = "USER";
/// The word of the table for groups.
pub const GROUP: &str = "GROUP";
/// The id under which the table has the defaults.
pub const DEFAULTS: i64 = -1;

/// What something takes, and for whom it counts: for the user and for the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// The user; 0 is exempt.
    pub uid: i64,
    /// The group; 0 is exempt.
    pub gid: i64,
    /// What it takes.
    pub demand: Demand,
}

impl Default for Charge {
    fn default() -> Self {
        Self { uid: 0, gid: 0, demand: Demand::new() }
    }
}

impl Charge {
    /// Those for whom it counts.
    fn owners(&self) -> impl Iterator<Item = Owner> {
        [Owner::User(self.uid), Owner::Group(self.gid)].into_iter().filter(|owner| !owner.is_exempt())
    }
}

/// What a change took more (or less) of each owner. It is counted already.
#[derive(Debug, Default)]
pub struct Taken(Vec<(Owner, Demand)>);

impl Taken {
    /// What lies between two charges of the same thing; `None` is a thing that is not there.
    fn between(before: Option<&Charge>, after: Option<&Charge>) -> Self {
        let mut sum: BTreeMap<Owner, Demand> = BTreeMap::new();
        for (charge, takes) in [(before, false), (after, true)] {
            let Some(charge) = charge else { continue };
            for owner in charge.owners() {
                let demand = sum.entry(owner).or_default();
                *demand = if takes { demand.plus(&charge.demand) } else { demand.minus(&charge.demand) };
            }
        }
        Self(sum.into_iter().filter(|(_, demand)| !demand.is_empty()).collect())
    }

    /// Holds what was counted against the limits. The refusal ends the transaction, and with it what was counted.
    ///
    /// # Errors
    /// AUTHORIZATION, `User [CALLER] : user [2] limit of 10 reached for …`; users before groups.
    pub fn allowed(&self, tx: &mut Tx<'_>, caller: i64) -> Result<(), Refusal> {
        for (owner, demand) in &self.0 {
            let (limits, mut before) = load(tx, *owner)?;
            // What does not add up was told when it was counted.
            drop(before.apply(&demand.negated()));
            let (word, _) = key(*owner);
            let (defaults, _) = read(tx.quotas(word, DEFAULTS)?);
            check(*owner, &limits, &defaults, &before, demand).map_err(|refused| refused.refusal(caller))?;
        }
        Ok(())
    }
}

/// Word and id of an owner in the table.
fn key(owner: Owner) -> (&'static str, i64) {
    match owner {
        Owner::User(id) => (USER, id),
        Owner::Group(id) => (GROUP, id),
    }
}

/// Limits and usage that rows of one owner hold. A row that is none of ours is left out, aloud.
#[must_use]
pub fn read(rows: Vec<QuotaRow>) -> (Limits, Usage) {
    let (mut limits, mut used) = (Limits::new(), Vec::new());
    for row in rows {
        let section = Section::from_name(&row.resource);
        let resource = section.and_then(|section| Resource::from_key(section, &row.resource_id));
        let limit = row.most.map_or(Some(Limit::Default), Limit::from_number);
        let (Some(resource), Some(metric), Some(limit)) = (resource, Metric::from_name(&row.metric), limit) else {
            tracing::error!(
                target: "STO", "Quota of {} {} does not read: {} {} {} {:?}",
                row.owner, row.owner_id, row.resource, row.resource_id, row.metric, row.most
            );
            continue;
        };
        limits.set(resource.clone(), metric, limit);
        used.push((resource, metric, row.used));
    }
    (limits, used.into())
}

/// Limits and usage of an owner.
///
/// # Errors
/// The database's failure.
pub fn load(tx: &mut Tx<'_>, owner: Owner) -> Result<(Limits, Usage), StoreError> {
    let (word, id) = key(owner);
    Ok(read(tx.quotas(word, id)?))
}

/// Replaces limits and usage of an owner, or with [`DEFAULTS`] of all that have none of their own.
///
/// # Errors
/// The database's failure.
pub fn store(tx: &mut Tx<'_>, word: &str, id: i64, limits: &Limits, usage: &Usage) -> Result<(), StoreError> {
    let mut rows: BTreeMap<(Resource, Metric), (Option<i64>, i64)> = BTreeMap::new();
    for (resource, metric, limit) in limits.iter() {
        rows.insert((resource.clone(), metric), (Some(limit.number()), 0));
    }
    for (resource, metric, used) in usage.iter() {
        rows.entry((resource.clone(), metric)).or_default().1 = used;
    }
    let rows: Vec<QuotaRow> = rows
        .into_iter()
        .map(|((resource, metric), (most, used))| QuotaRow { most, ..row(word, id, &resource, metric, used) })
        .collect();
    tx.quotas_replace(word, id, &rows)
}

fn row(word: &str, id: i64, resource: &Resource, metric: Metric, used: i64) -> QuotaRow {
    QuotaRow {
        owner: word.into(),
        owner_id: id,
        resource: resource.section().name().into(),
        resource_id: resource.key(),
        metric: metric.name().into(),
        most: None,
        used,
    }
}

/// Counts what lies between two charges of one thing: `None` before for what begins, after for what ends.
///
/// # Errors
/// The database's failure.
pub fn count(tx: &mut Tx<'_>, before: Option<&Charge>, after: Option<&Charge>) -> Result<Taken, StoreError> {
    let taken = Taken::between(before, after);
    for (owner, demand) in &taken.0 {
        let (word, id) = key(*owner);
        for (resource, metric, amount) in demand.iter() {
            let sum = tx.quota_add(&row(word, id, resource, metric, amount))?;
            if sum < 0 {
                tracing::error!(
                    target: "STO", "{owner}: {} of {resource} was {} when {} were given back; it is 0 now",
                    metric.name(), sum.saturating_sub(amount), amount.saturating_neg()
                );
            }
        }
    }
    Ok(taken)
}

/// Counts for one owner and group what replaces one demand by another. For what has no row of its own; rows are stored
/// with [`save_vm`] and [`save_image`], which find both demands themselves.
///
/// # Errors
/// The database's failure.
pub fn change(tx: &mut Tx<'_>, (uid, gid): (i64, i64), old: &Demand, new: &Demand) -> Result<Taken, StoreError> {
    let charge = |demand: &Demand| Charge { uid, gid, demand: demand.clone() };
    count(tx, Some(&charge(old)), Some(&charge(new)))
}

/// Moves what something takes from one owner and group to another: both as (uid, gid).
///
/// # Errors
/// The database's failure.
pub fn move_owner(tx: &mut Tx<'_>, old: (i64, i64), new: (i64, i64), demand: &Demand) -> Result<Taken, StoreError> {
    let charge = |(uid, gid)| Charge { uid, gid, demand: demand.clone() };
    count(tx, Some(&charge(old)), Some(&charge(new)))
}

/// The STATE of a VM's row; a number that is none of ours counts as running.
fn state_of(row: &VmRow) -> VmState {
    VmState::from_number(row.state).unwrap_or(VmState::Active)
}

fn vm_charge(row: &VmRow, cluster: Option<i64>) -> Charge {
    let template = stored(&row.template);
    let demand = Owned::Vm { template: &template, state: state_of(row), cluster }.demand();
    Charge { uid: row.uid, gid: row.gid, demand }
}

/// What a VM takes in its present state, in the cluster of its host.
///
/// # Errors
/// The database's failure.
pub fn of_vm(tx: &mut Tx<'_>, row: &VmRow) -> Result<Charge, StoreError> {
    let cluster = row.host_id.map(|id| tx.host_find(id)).transpose()?.flatten().map(|host| host.cluster_id);
    Ok(vm_charge(row, cluster))
}

/// What an image takes, a backup too.
#[must_use]
pub fn of_image(row: &ImageRow) -> Charge {
    Charge { uid: row.uid, gid: row.gid, demand: cost::image(row.datastore_id, row.size_mb) }
}

/// Whether two rows of one VM take the same, as far as that can be seen without reading templates.
fn same(old: &VmRow, new: &VmRow) -> bool {
    let kind = |row: &VmRow| (state_of(row) == VmState::Done, counts_as_running(state_of(row)));
    kind(old) == kind(new)
        && (old.uid, old.gid, old.host_id) == (new.uid, new.gid, new.host_id)
        && old.template == new.template
}

/// Stores a VM, a new one too, and counts what it takes now.
///
/// # Errors
/// The database's failure.
pub fn save_vm(tx: &mut Tx<'_>, row: &VmRow) -> Result<Taken, StoreError> {
    let before = match tx.vm_find(row.id)? {
        None => {
            tx.vm_insert(row)?;
            None
        }
        Some(old) => {
            tx.vm_update(row)?;
            if same(&old, row) {
                return Ok(Taken::default());
            }
            Some(of_vm(tx, &old)?)
        }
    };
    let after = of_vm(tx, row)?;
    count(tx, before.as_ref(), Some(&after))
}

/// What a VM whose state was changed (and counted) by the ledger takes more than before: for [`Taken::allowed`].
///
/// # Errors
/// The database's failure.
pub fn more_of_vm(tx: &mut Tx<'_>, before: &Charge, row: &VmRow) -> Result<Taken, StoreError> {
    let after = of_vm(tx, row)?;
    Ok(Taken::between(Some(before), Some(&after)))
}

/// Stores an image, a new one too, and counts what it takes now.
///
/// # Errors
/// The database's failure.
pub fn save_image(tx: &mut Tx<'_>, row: &ImageRow) -> Result<Taken, StoreError> {
    let before = tx.image_find(row.id)?.map(|old| of_image(&old));
    if before.is_some() {
        tx.image_update(row)?;
    } else {
        tx.image_insert(row)?;
    }
    count(tx, before.as_ref(), Some(&of_image(row)))
}

/// Removes an image's record and gives back what it took; an absent one is success.
///
/// # Errors
/// The database's failure, a row that still refers to it included.
pub fn delete_image(tx: &mut Tx<'_>, id: i64) -> Result<Taken, StoreError> {
    let Some(row) = tx.image_find(id)? else { return Ok(Taken::default()) };
    tx.image_delete(id)?;
    // There is more room, and in its owner's limits too.
    tx.schedules_release(Release::Datastore(row.datastore_id))?;
    count(tx, Some(&of_image(&row)), None)
}

/// Stores a host; when it has gone to another cluster, what its VMs take moves with it.
///
/// # Errors
/// The database's failure.
pub fn save_host(tx: &mut Tx<'_>, row: &HostRow) -> Result<(), StoreError> {
    let old = tx.host(row.id)?;
    tx.host_update(row)?;
    if old.cluster_id == row.cluster_id {
        return Ok(());
    }
    for vm in tx.vms(VmFilter { host_id: Some(row.id), ..VmFilter::default() })? {
        let before = vm_charge(&vm, Some(old.cluster_id));
        let after = vm_charge(&vm, Some(row.cluster_id));
        count(tx, Some(&before), Some(&after))?;
    }
    Ok(())
}

/// After a VM's chown, whose row is stored: its usage goes to the new owner and group, if their limits let it.
///
/// # Errors
/// AUTHORIZATION when a limit would be passed.
pub fn vm_moved(tx: &mut Tx<'_>, old: &Object, row: &VmRow) -> Result<(), Refusal> {
    let after = of_vm(tx, row)?;
    move_owner(tx, (old.uid, old.gid), (row.uid, row.gid), &after.demand)?.allowed(tx, row.uid)
}

/// After an image's chown, as [`vm_moved`].
///
/// # Errors
/// AUTHORIZATION when a limit would be passed.
pub fn image_moved(tx: &mut Tx<'_>, old: &Object, row: &ImageRow) -> Result<(), Refusal> {
    let after = of_image(row);
    move_owner(tx, (old.uid, old.gid), (row.uid, row.gid), &after.demand)?.allowed(tx, row.uid)
}

/// Reserves what a backup may take: for the VM's owner and group, whoever asked for it. The answer goes into the job's
/// plan; what changes the VM's owner while the backup runs does not change it.
///
/// # Errors
/// AUTHORIZATION when a limit would be passed.
pub fn reserve_backup(tx: &mut Tx<'_>, vm: &VmRow, demand: Demand, caller: i64) -> Result<Charge, Refusal> {
    let charge = Charge { uid: vm.uid, gid: vm.gid, demand };
    count(tx, None, Some(&charge))?.allowed(tx, caller)?;
    Ok(charge)
}

/// Whether a backup in this phase holds its reservation: until it is recorded with its real size, or given up.
#[must_use]
pub fn is_reserving(phase: JobPhase) -> bool {
    match phase {
        JobPhase::Planned | JobPhase::Prepared | JobPhase::Copied | JobPhase::Sealed => true,
        JobPhase::Recorded
        | JobPhase::Cleaned
        | JobPhase::Done
        | JobPhase::Undoing
        | JobPhase::Failed
        | JobPhase::Cancelled => false,
    }
}

/// Gives back what a backup has reserved. Asked before its phase moves to one that holds nothing, in the same transaction;
/// in such a phase it does nothing.
///
/// # Errors
/// The database's failure, a plan that does not read.
pub fn release_backup(tx: &mut Tx<'_>, job_id: i64) -> Result<(), StoreError> {
    let row = tx.job(job_id)?;
    if let Some(charge) = reservation(&row)? {
        count(tx, Some(&charge), None)?;
    }
    Ok(())
}

fn reservation(row: &JobRow) -> Result<Option<Charge>, StoreError> {
    let reserving = row.phase.parse::<JobPhase>().is_ok_and(is_reserving);
    if row.kind != JobKind::Backup.as_str() || !reserving {
        return Ok(None);
    }
    Ok(Some(job::plan::<BackupPlan>(row)?.reserved))
}

/// What every owner has to have taken, from the rows: VMs that are not DONE, images, backups under way. Owners without
/// anything are not in it.
///
/// # Errors
/// The database's failure.
pub fn recount(tx: &mut Tx<'_>) -> Result<BTreeMap<Owner, Usage>, StoreError> {
    let clusters: BTreeMap<i64, i64> = tx.host_list()?.into_iter().map(|host| (host.id, host.cluster_id)).collect();
    let mut sum: BTreeMap<Owner, Demand> = BTreeMap::new();
    let mut take = |charge: &Charge| {
        for owner in charge.owners() {
            let demand = sum.entry(owner).or_default();
            for (resource, metric, amount) in charge.demand.iter() {
                demand.add(resource.clone(), metric, amount);
            }
        }
    };
    for row in tx.vms(VmFilter::default())? {
        // Most VMs of many clouds are oneadmin's: their templates need not be read.
        if row.uid != 0 || row.gid != 0 {
            let cluster = row.host_id.and_then(|id| clusters.get(&id)).copied();
            take(&vm_charge(&row, cluster));
        }
    }
    for row in tx.image_list()? {
        take(&of_image(&row));
    }
    for job in tx.jobs_open(JobFilter::All)? {
        match reservation(&job) {
            Ok(charge) => charge.iter().for_each(&mut take),
            // The engine gives such a job up; the daemon has to start for that.
            Err(error) => tracing::error!(target: "STO", "{error}"),
        }
    }
    let usage = sum.into_iter().map(|(owner, demand)| (owner, Usage::from(Vec::from(demand))));
    Ok(usage.filter(|(_, usage)| !usage.is_empty()).collect())
}

/// Every owner whose books are not what [`recount`] finds, with (what is counted, what should be).
///
/// # Errors
/// The database's failure.
pub fn differences(tx: &mut Tx<'_>) -> Result<Vec<(Owner, Usage, Usage)>, StoreError> {
    let mut should = recount(tx)?;
    let mut rows: BTreeMap<Owner, Vec<QuotaRow>> = BTreeMap::new();
    for row in tx.quotas_all()?.into_iter().filter(|row| row.owner_id != DEFAULTS) {
        let owner = if row.owner == USER { Owner::User(row.owner_id) } else { Owner::Group(row.owner_id) };
        rows.entry(owner).or_default().push(row);
    }
    let mut counted: BTreeMap<Owner, Usage> = rows.into_iter().map(|(owner, rows)| (owner, read(rows).1)).collect();
    let owners: BTreeSet<Owner> = should.keys().chain(counted.keys()).copied().collect();
    Ok(owners
        .into_iter()
        .map(|owner| (owner, counted.remove(&owner).unwrap_or_default(), should.remove(&owner).unwrap_or_default()))
        .filter(|(_, counted, should)| counted != should)
        .collect())
}

/// Puts the books right where they are not, and says where they were not: when the daemon starts.
///
/// # Errors
/// The database's failure.
pub fn repair(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    for (owner, counted, should) in differences(tx)? {
        let (was, is) = (Demand::from(Vec::from(counted)), Demand::from(Vec::from(should.clone())));
        for (resource, metric, off) in is.minus(&was).iter() {
            tracing::warn!(
                target: "STO", "Quotas of {owner}: {} of {resource} was counted as {}, it is {}",
                metric.name(), was.amount(resource, metric), was.amount(resource, metric).saturating_add(off)
            );
        }
        let (word, id) = key(owner);
        let (limits, _) = load(tx, owner)?;
        store(tx, word, id, &limits, &should)?;
    }
    Ok(())
}
