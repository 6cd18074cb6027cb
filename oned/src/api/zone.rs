//! The zone: this daemon. There is one, without servers beside it; federations and groups of daemons are not part of it.
//!
//! A disabled zone refuses every call that would change something, to everybody, but for the one that enables it.

use one_core::access::{Caller, may, valid_name};
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::{Cloud, parse, unowned, updated, view};
use crate::store::Tx;
use crate::store::rows::ZoneRow;

/// Our zone's id.
pub const OWN: i64 = 0;
/// Attributes that a zone keeps: what its document shows, and whether it is disabled.
const ENDPOINT: &str = "ENDPOINT";
const DISABLED: &str = "DISABLED";

fn object(id: i64) -> one_core::access::Object {
    unowned(ObjectKind::Zone, id, Vec::new())
}

fn zone_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<ZoneRow, Refusal> {
    let row = tx.zone_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Zone, id })?;
    may(caller, right, &object(id))?;
    Ok(row)
}

/// Whether the zone's attributes say that it is disabled.
#[must_use]
pub fn is_disabled(template: &Template) -> bool {
    template.yes(DISABLED).unwrap_or(false)
}

/// `one.zone.info`.
///
/// # Errors
/// Unknown zone; not authorised (USE).
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| Ok(doc::zone(&view::zone(&zone_for(tx, caller, Right::Use, id)?))))
}

/// `one.zonepool.info`.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut pool = doc::Pool::begin("ZONE_POOL");
        for row in tx.zone_list()?.iter().filter(|row| may(caller, Right::Use, &object(row.id)).is_ok()) {
            pool.push(&view::zone(row));
        }
        Ok(pool.finish())
    })
}

/// `one.zone.raftstatus`: alone.
///
/// # Errors
/// None.
pub fn raft_status(_cloud: &Cloud, _caller: &Caller) -> Result<String, Refusal> {
    Ok(doc::raft(&doc::RaftView::default()))
}

/// `one.zone.update`. Of the attributes only ENDPOINT is kept: nothing else of a zone is shown or used.
///
/// # Errors
/// Not authorised (MANAGE), unknown zone, a text that does not parse, one that leaves no ENDPOINT.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = zone_for(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        let new = updated(&old, &parse(text)?, kind)?;
        let Some(endpoint) = new.scalar(ENDPOINT).filter(|endpoint| !endpoint.is_empty()) else {
            return Err(Refusal::CannotUpdate { reason: "A zone needs its ENDPOINT.".into() });
        };
        let mut template = Template::new();
        template.set(ENDPOINT, endpoint);
        if is_disabled(&old) {
            template.set(DISABLED, "YES");
        }
        row.template = template.to_text();
        tx.zone_update(&row)?;
        Ok(id)
    })
}

/// `one.zone.rename`.
///
/// # Errors
/// Not authorised (MANAGE), unknown zone, a bad name.
pub fn rename(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = zone_for(tx, caller, Right::Manage, id)?;
        valid_name(name, ObjectKind::Zone)?;
        row.name = name.into();
        tx.zone_update(&row)?;
        Ok(id)
    })
}

/// `one.zone.enable`.
///
/// # Errors
/// Not authorised (ADMIN), unknown zone.
pub fn enable(cloud: &Cloud, caller: &Caller, id: i64, enable: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = zone_for(tx, caller, Right::Admin, id)?;
        let mut template = view::stored(&row.template);
        template.remove(DISABLED);
        if !enable {
            template.set(DISABLED, "YES");
        }
        row.template = template.to_text();
        tx.zone_update(&row)?;
        Ok(id)
    })
}

/// Refuses a call that changes something while the zone is disabled.
///
/// # Errors
/// [`Refusal::Action`] then.
pub fn check_enabled(cloud: &Cloud) -> Result<(), Refusal> {
    cloud.store.read(|tx| match tx.zone_find(OWN)? {
        Some(row) if is_disabled(&view::stored(&row.template)) => Err(Refusal::Action(
            "The zone is disabled, so nothing can be changed; an administrator enables it with one.zone.enable.".into(),
        )),
        _ => Ok(()),
    })
}

fn alone<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::Action(format!("{what}: this daemon is its only zone and server, federations are not available.")))
}

/// `one.zone.allocate`: always refused.
///
/// # Errors
/// Not authorised (CREATE), else that there are no other zones.
pub fn allocate(_cloud: &Cloud, caller: &Caller) -> Result<i64, Refusal> {
    one_core::access::may_create(caller, ObjectKind::Zone)?;
    alone("A zone cannot be added")
}

/// `one.zone.delete`: always refused.
///
/// # Errors
/// Not authorised (ADMIN), unknown zone, else that a daemon cannot be without its zone.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.read(|tx| zone_for(tx, caller, Right::Admin, id))?;
    alone("The zone cannot be deleted")
}

/// `one.zone.addserver`, `delserver` and `resetserver`: always refused.
///
/// # Errors
/// Not authorised (ADMIN), unknown zone, else that there are no other servers.
pub fn servers(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.read(|tx| zone_for(tx, caller, Right::Admin, id))?;
    alone("The zone has no list of servers")
}
