//! Documents: templates of a free type that tools keep here. Their names need not differ: services of OneFlow share theirs.

use one_core::access::{Caller, may_create, valid_name};
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::pool::PoolFilter;
use super::{Cloud, attributes, owned, parse, view};
use crate::session;
use crate::store::Tx;
use crate::store::rows::DocumentRow;

/// `one.document.allocate`: `kind` is the tool's number for what it stores.
///
/// # Errors
/// Not authorised, a text that is no template, no or a bad NAME.
pub fn allocate(cloud: &Cloud, caller: &Caller, text: &str, kind: i64) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Document)?;
    let mut template = attributes::admitted(cloud, caller, ObjectKind::Document, &parse(text)?)?;
    let name = template.scalar("NAME").unwrap_or_default().to_string();
    template.remove("NAME");
    cloud.store.write(|tx| insert(cloud, tx, caller, &name, kind, template.to_text()))
}

fn insert(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    caller: &Caller,
    name: &str,
    kind: i64,
    template: String,
) -> Result<i64, Refusal> {
    if name.is_empty() {
        return Err(Refusal::Allocate { kind: ObjectKind::Document, reason: "No NAME in template".into() });
    }
    valid_name(name, ObjectKind::Document)?;
    let id = tx.next_id("document")?;
    tx.document_insert(&DocumentRow {
        id,
        uid: caller.uid,
        gid: caller.gid,
        name: name.into(),
        permissions: cloud.new_permissions(caller).to_i64(),
        kind,
        regtime: cloud.clock.now(),
        lock: String::new(),
        template,
    })?;
    Ok(id)
}

/// `one.document.clone`: the new document is the caller's.
///
/// # Errors
/// Not authorised (USE on the document, CREATE), a bad name.
pub fn copy(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row: DocumentRow = owned::to_use(tx, caller, Right::Use, id)?;
        may_create(caller, ObjectKind::Document)?;
        insert(cloud, tx, caller, name, row.kind, row.template)
    })
}

/// `one.document.info`; `decrypt` shows secrets to administrators.
///
/// # Errors
/// Not authorised (USE), unknown document; a secret that the daemon's key does not open.
pub fn info(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row: DocumentRow = owned::to_show(tx, caller, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Document, &mut row.template)?;
        let names = view::Names::read(tx)?;
        Ok(doc::document(&view::document(&names, &row)))
    })
}

/// `one.documentpool.info`: those of one type.
///
/// # Errors
/// A bad filter.
pub fn pool(cloud: &Cloud, caller: &Caller, (flag, start, end): (i64, i64, i64), kind: i64) -> Result<String, Refusal> {
    let filter = PoolFilter::new(flag, start, end)?;
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let mut pool = doc::Pool::begin("DOCUMENT_POOL");
        for row in filter.select(caller, tx.documents_of_kind(kind)?) {
            pool.push(&view::document(&names, &row));
        }
        Ok(pool.finish())
    })
}

/// `one.document.update`.
///
/// # Errors
/// Not authorised (MANAGE), unknown document, a text that does not parse.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row: DocumentRow = owned::to_use(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Document, &old, &parse(text)?, kind)?.to_text();
        tx.document_update(&row)?;
        Ok(id)
    })
}

/// `one.document.delete`.
///
/// # Errors
/// Not authorised (MANAGE), unknown document.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let _: DocumentRow = owned::to_use(tx, caller, Right::Manage, id)?;
        session::forget_rules(tx, ObjectKind::Document, id)?;
        tx.document_delete(id)?;
        Ok(id)
    })
}
