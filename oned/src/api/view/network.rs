//! Virtual networks and security groups: what their rows hold, and their documents.
//!
//! Which leases of a network are shown: all to who may MANAGE it; else those of VMs and reservations that the caller may
//! USE, as in the original.

use std::collections::BTreeMap;

use one_core::access::{Caller, Permissions, may_unlocked};
use one_core::doc::{NetworkView, RangeView, SecurityGroupView};
use one_core::network::definition::{Definition, security_groups};
use one_core::network::lease::{LeaseOwner, Place, Taken};
use one_core::network::range::AddressRange;
use one_core::refusal::{Refusal, Right};

use super::super::{Owned, attributes, owned};
use super::{Names, lock, number, stored};
use crate::cards::ranges_template;
pub use crate::cards::{groups_of, ranges};
use crate::secret::MARK;
use crate::store::networks::{HOLDER_NET, HOLDER_VM};
use crate::store::rows::{LeaseRow, NetworkRow, SecurityGroupRow};
use crate::store::{StoreError, Tx, VmFilter};

/// What a network is made of.
#[must_use]
pub fn definition(row: &NetworkRow) -> Definition {
    let template = stored(&row.template);
    let text = |key: &str| template.scalar(key).unwrap_or_default().to_owned();
    let vlan = |key: &str, chosen: &str| match chosen {
        "" => (text(key), false),
        chosen => (chosen.to_owned(), true),
    };
    let (vlan_id, vlan_id_automatic) = vlan("VLAN_ID", &row.auto_vlan);
    let (outer_vlan_id, outer_vlan_id_automatic) = vlan("OUTER_VLAN_ID", &row.auto_outer_vlan);
    Definition {
        name: row.name.clone(),
        vn_mad: row.vn_mad.clone(),
        phydev: text("PHYDEV"),
        bridge: row.bridge.clone(),
        bridge_type: text("BRIDGE_TYPE"),
        vlan_id,
        vlan_id_automatic,
        outer_vlan_id,
        outer_vlan_id_automatic,
        // Checked when it was written.
        security_groups: security_groups(&text("SECURITY_GROUPS")).unwrap_or_default(),
        template,
    }
}

/// Writes what a network is made of into its row, its name excepted.
pub fn set_definition(row: &mut NetworkRow, definition: &Definition) {
    let chosen = |automatic: bool, id: &str| if automatic { id.to_owned() } else { String::new() };
    row.vn_mad.clone_from(&definition.vn_mad);
    row.bridge.clone_from(&definition.bridge);
    row.auto_vlan = chosen(definition.vlan_id_automatic, &definition.vlan_id);
    row.auto_outer_vlan = chosen(definition.outer_vlan_id_automatic, &definition.outer_vlan_id);
    row.template = definition.template.to_text();
}

/// Writes the address ranges into a row.
///
/// # Errors
/// [`Refusal::Internal`] when they cannot be written down.
pub fn set_ranges(row: &mut NetworkRow, ranges: &[AddressRange]) -> Result<(), Refusal> {
    row.ranges = serde_json::to_string(ranges).map_err(|error| Refusal::Internal(error.to_string()))?;
    Ok(())
}

/// The leases of one network, as the core asks for them.
pub struct Leases<'a, 'b> {
    /// Where they stand.
    pub tx: &'a mut Tx<'b>,
    /// Of which network.
    pub network_id: i64,
}

impl Taken for Leases<'_, '_> {
    fn owner(&mut self, place: Place) -> Result<Option<LeaseOwner>, Refusal> {
        Ok(self.tx.lease_find(self.network_id, place.ar_id, place.index)?.as_ref().map(owner))
    }

    fn free_run(&mut self, ar_id: i64, from: u32, end: u32, length: u32) -> Result<Option<u32>, Refusal> {
        Ok(self.tx.lease_free_run((self.network_id, ar_id), from, end, length)?)
    }
}

fn owner(row: &LeaseRow) -> LeaseOwner {
    match row.holder.as_str() {
        HOLDER_VM => LeaseOwner::Vm(row.holder_id),
        HOLDER_NET => LeaseOwner::Network(row.holder_id),
        _ => LeaseOwner::Hold,
    }
}

/// What of a network's leases a caller may see; remembers whom it asked about.
pub struct Sight<'a> {
    caller: &'a Caller,
    all: bool,
    known: BTreeMap<LeaseOwner, bool>,
}

impl<'a> Sight<'a> {
    /// What `caller` may see of this network.
    #[must_use]
    pub fn new(caller: &'a Caller, row: &NetworkRow) -> Self {
        let all = may_unlocked(caller, Right::Manage, &row.object()).is_ok();
        Self { caller, all, known: BTreeMap::new() }
    }

    fn sees(&mut self, tx: &mut Tx<'_>, owner: LeaseOwner) -> Result<bool, StoreError> {
        if self.all {
            return Ok(true);
        }
        if let Some(known) = self.known.get(&owner) {
            return Ok(*known);
        }
        let object = match owner {
            LeaseOwner::Vm(id) => tx.vm_find(id)?.map(|row| row.object()),
            LeaseOwner::Network(id) => tx.network_find(id)?.map(|row| row.object()),
            LeaseOwner::Hold | LeaseOwner::Router(_) => None,
        };
        let sees = object.is_some_and(|object| may_unlocked(self.caller, Right::Use, &object).is_ok());
        self.known.insert(owner, sees);
        Ok(sees)
    }
}

/// The address ranges for a document: what is sealed in them is hidden.
fn shown_ranges(row: &NetworkRow) -> Vec<AddressRange> {
    if !row.ranges.contains(MARK) {
        return ranges(row);
    }
    let hidden = attributes::hidden(ranges_template(row));
    // Only what has no meaning of its own is ever sealed, so each is still a range.
    hidden.vectors("AR").filter_map(|range| AddressRange::try_from(range.clone()).ok()).collect()
}

/// The view of a network; the leases themselves only when `full`.
///
/// # Errors
/// The database's failure.
pub fn network(
    tx: &mut Tx<'_>,
    names: &Names,
    row: &NetworkRow,
    sight: &mut Sight<'_>,
    full: bool,
) -> Result<NetworkView, StoreError> {
    let mut leases: BTreeMap<i64, Vec<(u32, LeaseOwner)>> = BTreeMap::new();
    if full {
        for lease in tx.leases(row.id)? {
            let owner = owner(&lease);
            if sight.sees(tx, owner)?
                && let Ok(place) = u32::try_from(lease.place)
            {
                leases.entry(lease.range_id).or_default().push((place, owner));
            }
        }
    }
    let counts: BTreeMap<i64, i64> = tx.lease_counts(row.id)?.into_iter().collect();
    let mut shown = Vec::new();
    for range in shown_ranges(row) {
        let ar_id = range.ar_id();
        let used = counts.get(&ar_id).and_then(|used| u64::try_from(*used).ok()).unwrap_or_default();
        let next = if used == 0 { Some(0) } else { tx.lease_free_run((row.id, ar_id), 0, range.size(), 1)? };
        shown.push(RangeView {
            used_leases: used,
            next_index: next.unwrap_or(range.size()),
            leases: leases.remove(&ar_id).unwrap_or_default(),
            range,
        });
    }
    let mut updated_vms = Vec::new();
    for vm_id in tx.network_vms(row.id)? {
        if sight.sees(tx, LeaseOwner::Vm(vm_id))? {
            updated_vms.push(vm_id);
        }
    }
    let mut definition = definition(row);
    definition.template = attributes::hidden(definition.template);
    Ok(NetworkView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        lock: lock(&row.lock),
        permissions: Permissions::from_i64(row.permissions),
        clusters: owned::ids(&row.clusters),
        state: number(row.state),
        prev_state: number(row.prev_state),
        parent_network_id: row.parent_id,
        definition,
        updated_vms,
        ranges: shown,
        ..NetworkView::default()
    })
}

/// Which VMs use each security group; VMs in DONE use none.
///
/// # Errors
/// The database's failure.
pub fn group_users(tx: &mut Tx<'_>) -> Result<BTreeMap<i64, Vec<i64>>, StoreError> {
    let mut users: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for vm in tx.vms(VmFilter::default())? {
        // Parsing a template costs more than looking for the word.
        if vm.template.contains("SECURITY_GROUPS") {
            for group in groups_of(&stored(&vm.template)) {
                users.entry(group).or_default().push(vm.id);
            }
        }
    }
    Ok(users)
}

/// The view of a security group with the VMs that use it.
#[must_use]
pub fn security_group(names: &Names, row: &SecurityGroupRow, vms: Vec<i64>) -> SecurityGroupView {
    SecurityGroupView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        permissions: Permissions::from_i64(row.permissions),
        updated_vms: vms,
        template: stored(&row.template),
        ..SecurityGroupView::default()
    }
}
