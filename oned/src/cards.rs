//! What api and engine both write about a VM's network cards: the rules of their security groups, and a card's going.
//!
//! What it is not: it binds no card and asks no hypervisor.

use std::collections::{BTreeMap, BTreeSet};

use one_core::network::definition::security_groups;
use one_core::network::nic;
use one_core::network::range::AddressRange;
use one_core::network::security::{MAX_VM_RULES, vm_rules};
use one_core::refusal::Refusal;
use one_core::template::Template;

use crate::ledger::stored;
use crate::store::Tx;
use crate::store::rows::NetworkRow;

/// Marks a card that comes or goes.
pub const ATTACH: &str = "ATTACH";

/// The address ranges of a network. A column that does not read gives no address away, aloud.
#[must_use]
pub fn ranges(row: &NetworkRow) -> Vec<AddressRange> {
    serde_json::from_str(&row.ranges).unwrap_or_else(|error| {
        tracing::error!(target: "STO", "The address ranges of network {} do not read: {error}", row.id);
        Vec::new()
    })
}

/// The address ranges of a network as a template with an AR for each.
#[must_use]
pub fn ranges_template(row: &NetworkRow) -> Template {
    let mut template = Template::new();
    ranges(row).into_iter().for_each(|range| template.push_vector("AR", range.into()));
    template
}

/// Writes address ranges, as [`ranges_template`] gives them, into a row.
///
/// # Errors
/// An AR that is no range.
pub fn set_ranges_template(row: &mut NetworkRow, template: &Template) -> Result<(), Refusal> {
    let ranges: Vec<AddressRange> =
        template.vectors("AR").map(|range| AddressRange::try_from(range.clone())).collect::<Result<_, _>>()?;
    row.ranges = serde_json::to_string(&ranges).map_err(|error| Refusal::Internal(error.to_string()))?;
    Ok(())
}

/// The security groups that the NICs of a VM name.
#[must_use]
pub fn groups_of(system: &Template) -> BTreeSet<i64> {
    let nics = system.vectors("NIC").chain(system.vectors("NIC_ALIAS"));
    // Checked when the NIC was bound.
    nics.flat_map(|nic| security_groups(nic.get("SECURITY_GROUPS").unwrap_or_default()).unwrap_or_default()).collect()
}

/// Writes the SECURITY_GROUP_RULE vectors of a VM anew, from the groups that its cards name.
///
/// # Errors
/// More rules than a VM can have.
pub fn write_rules(tx: &mut Tx<'_>, system: &mut Template) -> Result<(), Refusal> {
    let mut rules = Vec::new();
    for group_id in groups_of(system) {
        let Some(group) = tx.security_group_find(group_id)? else { continue };
        let template = stored(&group.template);
        let mut networks = BTreeMap::new();
        for id in template.vectors("RULE").filter_map(|rule| rule.int("NETWORK_ID")) {
            if let Some(network) = tx.network_find(id)? {
                networks.insert(id, ranges(&network));
            }
        }
        rules.extend(vm_rules(group_id, &group.name, &template, |id| networks.get(&id).cloned())?);
        if rules.len() > MAX_VM_RULES {
            let reason = format!("The security groups become more than {MAX_VM_RULES} rules for one VM.");
            return Err(Refusal::Internal(reason));
        }
    }
    system.remove("SECURITY_GROUP_RULE");
    rules.into_iter().for_each(|rule| system.push_vector("SECURITY_GROUP_RULE", rule));
    Ok(())
}

/// Takes a card and its aliases out of a template and frees their addresses; false when there is no such card.
///
/// # Errors
/// The database's failure.
pub fn remove(tx: &mut Tx<'_>, vm_id: i64, system: &mut Template, nic_id: i64) -> Result<bool, Refusal> {
    let gone = nic::remove(system, nic_id);
    for card in &gone {
        tx.leases_release(vm_id, card.int("NIC_ID"))?;
    }
    if !gone.is_empty() {
        write_rules(tx, system)?;
    }
    Ok(!gone.is_empty())
}

/// Takes the mark of a card that came, or did not go, away.
pub fn unmark(system: &mut Template, nic_id: i64) {
    for card in system.vectors_mut("NIC").filter(|card| card.int("NIC_ID") == Some(nic_id)) {
        card.remove(ATTACH);
    }
}
