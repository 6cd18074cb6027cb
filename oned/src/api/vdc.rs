//! Virtual data centres: which groups may use which clusters, hosts, datastores and networks. What a VDC says is written as
//! access rules, and rules are all that is ever asked.

//!
//! Rights, for what belongs to nobody: USE to look, MANAGE to change attributes or name, ADMIN to delete it and to put
//! something in or out, which needs ADMIN on that too; for "all" of a kind, ADMIN on every object of that kind.

use one_core::access::{Caller, Object, Rule, Selector, may, may_create, valid_name};
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::{Cloud, attributes, cluster, host, owned, parse, people, unowned, view};
use crate::session;
use crate::store::rows::{DatastoreRow, NetworkRow, VdcRow};
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

/// The word of a kind in the database.
fn word(kind: ObjectKind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("GROUP", |(word, _)| word)
}

fn groups(tx: &mut Tx<'_>, id: i64) -> Result<Vec<i64>, StoreError> {
    Ok(tx.vdc_members(id, "GROUP")?.into_iter().map(|(_, group)| group).collect())
}

/// Takes something that is being removed out of every VDC.
///
/// # Errors
/// The database's failure.
pub fn forget(tx: &mut Tx<'_>, kind: ObjectKind, object: i64) -> Result<(), StoreError> {
    for vdc in tx.vdc_list()? {
        for (zone, member) in tx.vdc_members(vdc.id, word(kind))? {
            if member == object {
                let groups = groups(tx, vdc.id)?;
                change(tx, &groups, |tx| tx.vdc_member_remove(vdc.id, word(kind), zone, object))?;
            }
        }
    }
    Ok(())
}

fn object(id: i64) -> Object {
    unowned(ObjectKind::Vdc, id, Vec::new())
}

fn vdc_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<VdcRow, Refusal> {
    let row = tx.vdc_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Vdc, id })?;
    may(caller, right, &object(id))?;
    Ok(row)
}

fn namesake(tx: &mut Tx<'_>, name: &str) -> Result<Option<i64>, StoreError> {
    Ok(tx.vdc_list()?.into_iter().find(|row| row.name == name).map(|row| row.id))
}

/// `one.vdc.allocate`: a VDC without groups and things.
///
/// # Errors
/// Not authorised (CREATE), a text that does not parse, no or a bad or taken NAME.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Vdc)?;
    let mut template = attributes::admitted(cloud, caller, ObjectKind::Vdc, &parse(text)?)?;
    let name = template.scalar("NAME").unwrap_or_default().to_string();
    template.remove("NAME");
    if name.is_empty() {
        return Err(Refusal::Allocate { kind: ObjectKind::Vdc, reason: "No NAME in template".into() });
    }
    valid_name(&name, ObjectKind::Vdc)?;
    cloud.store.write(|tx| {
        if let Some(other_id) = namesake(tx, &name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::Vdc, other_id });
        }
        let id = tx.next_id("vdc")?;
        tx.vdc_insert(&VdcRow { id, name, template: template.to_text() })?;
        Ok(id)
    })
}

/// `one.vdc.delete`: its groups lose what only it gave them.
///
/// # Errors
/// Not authorised (ADMIN), unknown VDC, the default one.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        vdc_for(tx, caller, Right::Admin, id)?;
        if id == DEFAULT {
            return Err(Refusal::Action(
                "VDC 0 belongs to the installation and stays; take groups out instead.".into(),
            ));
        }
        let groups = groups(tx, id)?;
        change(tx, &groups, |tx| tx.vdc_delete(id))?;
        session::forget_rules(tx, ObjectKind::Vdc, id)?;
        Ok(id)
    })
}

/// `one.vdc.update`.
///
/// # Errors
/// Not authorised (MANAGE), unknown VDC, a text that does not parse.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vdc_for(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Vdc, &old, &parse(text)?, kind)?.to_text();
        tx.vdc_update(&row)?;
        Ok(id)
    })
}

/// `one.vdc.rename`.
///
/// # Errors
/// Not authorised (MANAGE), unknown VDC, a bad or taken name.
pub fn rename(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = vdc_for(tx, caller, Right::Manage, id)?;
        valid_name(name, ObjectKind::Vdc)?;
        if let Some(other_id) = namesake(tx, name)?.filter(|other| *other != id) {
            return Err(Refusal::NameCollides { kind: ObjectKind::Vdc, name: name.into(), other_id });
        }
        row.name = name.into();
        tx.vdc_update(&row)?;
        Ok(id)
    })
}

/// `one.vdc.info`.
///
/// # Errors
/// Not authorised (USE), unknown VDC.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let row = vdc_for(tx, caller, Right::Use, id)?;
        Ok(doc::vdc(&view::vdc(tx, &row)?))
    })
}

/// `one.vdcpool.info`.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut pool = doc::Pool::begin("VDC_POOL");
        for row in tx.vdc_list()?.into_iter().filter(|row| may(caller, Right::Use, &object(row.id)).is_ok()) {
            pool.push(&view::vdc(tx, &row)?);
        }
        Ok(pool.finish())
    })
}

/// `one.vdc.addgroup` and `delgroup`.
///
/// # Errors
/// Not authorised (ADMIN on the VDC and on the group), unknown VDC or group, one that is in already, or is not.
pub fn set_group(cloud: &Cloud, caller: &Caller, id: i64, gid: i64, inside: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        vdc_for(tx, caller, Right::Admin, id)?;
        people::group_to_use(tx, caller, Right::Admin, gid)?;
        match (groups(tx, id)?.contains(&gid), inside) {
            (true, true) => Err(Refusal::Action(format!("Group {gid} is in VDC {id} already."))),
            (false, false) => Err(Refusal::Action(format!("Group {gid} is not in VDC {id}."))),
            (false, true) => Ok(change(tx, &[gid], |tx| tx.vdc_member_add(id, "GROUP", 0, gid))?),
            (true, false) => Ok(change(tx, &[gid], |tx| tx.vdc_member_remove(id, "GROUP", 0, gid))?),
        }?;
        Ok(id)
    })
}

/// One thing of a VDC, or [`ALL`] of its kind in a zone.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Cluster, host, datastore or network.
    pub kind: ObjectKind,
    /// The zone that it is in.
    pub zone: i64,
    /// Its id, or [`ALL`].
    pub object: i64,
}

/// Whether the caller has ADMIN on what is put in or out.
fn check_member(tx: &mut Tx<'_>, caller: &Caller, member: Member) -> Result<(), Refusal> {
    let Member { kind, zone, object: id } = member;
    tx.zone_find(zone)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Zone, id: zone })?;
    match kind {
        _ if id == ALL => may(caller, Right::Admin, &unowned(kind, ALL, Vec::new())),
        ObjectKind::Cluster => cluster::cluster_for(tx, caller, Right::Admin, id).map(drop),
        ObjectKind::Host => host::host_for(tx, caller, Right::Admin, id).map(drop),
        ObjectKind::Datastore => owned::to_use::<DatastoreRow>(tx, caller, Right::Admin, id).map(drop),
        _ => owned::to_use::<NetworkRow>(tx, caller, Right::Admin, id).map(drop),
    }
}

/// `one.vdc.addcluster`, `addhost`, `adddatastore`, `addvnet`. All of a kind take the place of the single ones.
///
/// # Errors
/// Not authorised (ADMIN on the VDC and on the thing), unknown VDC, zone or thing, one that is in already.
pub fn add(cloud: &Cloud, caller: &Caller, id: i64, member: Member) -> Result<i64, Refusal> {
    let Member { kind, zone, object } = member;
    cloud.store.write(|tx| {
        vdc_for(tx, caller, Right::Admin, id)?;
        check_member(tx, caller, member)?;
        let present = tx.vdc_members(id, word(kind))?;
        if present.contains(&(zone, object)) || present.contains(&(zone, ALL)) {
            let what =
                if object == ALL { "All of this kind are".into() } else { format!("The {} {object} is", kind.text()) };
            return Err(Refusal::Action(format!("{what} in VDC {id} already.")));
        }
        let groups = groups(tx, id)?;
        change(tx, &groups, |tx| {
            if object == ALL {
                for (_, single) in present.iter().filter(|(of, _)| *of == zone) {
                    tx.vdc_member_remove(id, word(kind), zone, *single)?;
                }
            }
            tx.vdc_member_add(id, word(kind), zone, object)
        })?;
        Ok(id)
    })
}

/// `one.vdc.delcluster`, `delhost`, `deldatastore`, `delvnet`.
///
/// # Errors
/// Not authorised (ADMIN on the VDC and on the thing), unknown VDC, zone or thing, one that is not in by itself.
pub fn remove(cloud: &Cloud, caller: &Caller, id: i64, member: Member) -> Result<i64, Refusal> {
    let Member { kind, zone, object } = member;
    cloud.store.write(|tx| {
        vdc_for(tx, caller, Right::Admin, id)?;
        match check_member(tx, caller, member) {
            // What is gone can still be taken out.
            Ok(()) | Err(Refusal::NoSuch { .. }) => {}
            Err(refusal) => return Err(refusal),
        }
        if !tx.vdc_members(id, word(kind))?.contains(&(zone, object)) {
            let what = if object == ALL { "not all".into() } else { format!("no {} {object}", kind.text()) };
            return Err(Refusal::Action(format!("VDC {id} names {what} of zone {zone}.")));
        }
        let groups = groups(tx, id)?;
        change(tx, &groups, |tx| tx.vdc_member_remove(id, word(kind), zone, object))?;
        Ok(id)
    })
}
