//! Virtual data centres: which groups may use which clusters, hosts, datastores and networks. What a VDC says is written as
//! access rules, and rules are all that is ever asked.

use one_core::access::{Rule, Selector};
use one_core::refusal::{ObjectKind, Right};

use crate::session;
use crate::store::{StoreError, Tx};

/// The VDC that new groups join.
pub const DEFAULT: i64 = 0;
/// All objects of a kind (OpenNebula, VDC).
pub const ALL: i64 = -10;
/// Kinds of things in a VDC beside groups: the word in the database, and the rights that its groups get.
const KINDS: [(&str, ObjectKind); 4] = [
    ("CLUSTER", ObjectKind::Cluster),
    ("HOST", ObjectKind::Host),
    ("DATASTORE", ObjectKind::Datastore),
    ("NET", ObjectKind::Network),
];

/// The rules that one thing in a VDC means for one group.
fn rules(gid: i64, kind: ObjectKind, zone: i64, object: i64) -> Vec<Rule> {
    use ObjectKind as K;
    let who = Selector::Group(gid);
    let one = if object == ALL { Selector::All } else { Selector::One(object) };
    let rule = |kinds: &[K], which, right| Rule::new(who, kinds, which, &[right]).in_zone(zone);
    match kind {
        K::Cluster => {
            let in_cluster = if object == ALL { Selector::All } else { Selector::Cluster(object) };
            vec![rule(&[K::Host], in_cluster, Right::Manage), rule(&[K::Network, K::Datastore], in_cluster, Right::Use)]
        }
        K::Host => vec![rule(&[K::Host], one, Right::Manage)],
        kind => vec![rule(&[kind], one, Right::Use)],
    }
}

/// Every rule that the VDCs mean for a group.
fn wanted(tx: &mut Tx<'_>, gid: i64) -> Result<Vec<Rule>, StoreError> {
    let mut all = Vec::new();
    for vdc in tx.vdc_list()? {
        if !tx.vdc_members(vdc.id, "GROUP")?.iter().any(|(_, member)| *member == gid) {
            continue;
        }
        for (word, kind) in KINDS {
            for (zone, object) in tx.vdc_members(vdc.id, word)? {
                all.extend(rules(gid, kind, zone, object));
            }
        }
    }
    Ok(all)
}

/// Makes a change to the VDCs, and brings the rules of the groups concerned to what the VDCs say then. A rule that another
/// VDC means too stays.
fn change(
    tx: &mut Tx<'_>,
    groups: &[i64],
    work: impl FnOnce(&mut Tx<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut before = Vec::new();
    for gid in groups {
        before.push(wanted(tx, *gid)?);
    }
    work(tx)?;
    for (gid, before) in groups.iter().zip(before) {
        let after = wanted(tx, *gid)?;
        for rule in before.iter().filter(|rule| !after.contains(rule)) {
            session::remove_rule(tx, rule)?;
        }
        for rule in after.iter().filter(|rule| !before.contains(rule)) {
            session::add_rule(tx, rule)?;
        }
    }
    Ok(())
}

/// Puts a new group into the default VDC.
///
/// # Errors
/// The database's failure.
pub fn join_default(tx: &mut Tx<'_>, gid: i64) -> Result<(), StoreError> {
    if tx.vdc_find(DEFAULT)?.is_none() {
        return Ok(());
    }
    change(tx, &[gid], |tx| tx.vdc_member_add(DEFAULT, "GROUP", 0, gid))
}

/// Takes a group that is being removed out of every VDC.
///
/// # Errors
/// The database's failure.
pub fn leave_all(tx: &mut Tx<'_>, gid: i64) -> Result<(), StoreError> {
    let vdcs = tx.vdc_list()?;
    change(tx, &[gid], |tx| vdcs.iter().try_for_each(|vdc| tx.vdc_member_remove(vdc.id, "GROUP", 0, gid)))
}
