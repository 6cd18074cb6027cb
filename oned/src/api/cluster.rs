//! Clusters, zones and access rules: what bootstrapping made, to be read.

use one_core::access::Caller;
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal};

use super::{Cloud, view};

/// `one.cluster.info`.
///
/// # Errors
/// Unknown cluster.
pub fn info(cloud: &Cloud, _caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let row = tx.cluster_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Cluster, id })?;
        Ok(doc::cluster(&view::cluster(tx, &row)?))
    })
}

/// `one.clusterpool.info`.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, _caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut documents = Vec::new();
        for row in tx.cluster_list()? {
            documents.push(doc::cluster(&view::cluster(tx, &row)?));
        }
        Ok(doc::pool("CLUSTER_POOL", documents.into_iter()))
    })
}

/// `one.zone.info`.
///
/// # Errors
/// Unknown zone.
pub fn zone(cloud: &Cloud, _caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let row = tx.zone_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Zone, id })?;
        Ok(doc::zone(&view::zone(&row)))
    })
}

/// `one.zonepool.info`.
///
/// # Errors
/// The database's failure.
pub fn zone_pool(cloud: &Cloud, _caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let rows = tx.zone_list()?;
        Ok(doc::pool("ZONE_POOL", rows.iter().map(|row| doc::zone(&view::zone(row)))))
    })
}

/// `one.acl.info`.
///
/// # Errors
/// The database's failure.
pub fn acl_pool(cloud: &Cloud, _caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let rows = tx.acl_list()?;
        Ok(doc::pool("ACL_POOL", rows.iter().map(|row| doc::acl(&view::acl(row)))))
    })
}
