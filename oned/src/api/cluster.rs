//! Clusters and zones.

use one_core::access::{Caller, may};
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::{Cloud, attributes, unowned, view};
use crate::store::Tx;
use crate::store::rows::ClusterRow;

/// The cluster, if the caller has the right on it.
///
/// # Errors
/// Unknown cluster, not authorised.
pub fn cluster_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<ClusterRow, Refusal> {
    let row = tx.cluster_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Cluster, id })?;
    may(caller, right, &unowned(ObjectKind::Cluster, row.id, vec![row.id]))?;
    Ok(row)
}

/// `one.cluster.info`.
///
/// # Errors
/// Unknown cluster; not authorised (USE).
pub fn info(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    info_decrypt(cloud, caller, id, false)
}

/// The same with the flag `decrypt`, which shows secrets to administrators.
///
/// # Errors
/// As [`info`]; a secret that the daemon's key does not open.
pub fn info_decrypt(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut row = cluster_for(tx, caller, Right::Use, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::Cluster, &mut row.template)?;
        Ok(doc::cluster(&view::cluster(tx, &row)?))
    })
}

/// `one.clusterpool.info`.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let mut documents = Vec::new();
        let seen =
            |row: &ClusterRow| may(caller, Right::Use, &unowned(ObjectKind::Cluster, row.id, vec![row.id])).is_ok();
        for row in tx.cluster_list()?.into_iter().filter(seen) {
            documents.push(doc::cluster(&view::cluster(tx, &row)?));
        }
        Ok(doc::pool("CLUSTER_POOL", documents.into_iter()))
    })
}

/// `one.zone.info`.
///
/// # Errors
/// Unknown zone.
pub fn zone(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let row = tx.zone_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Zone, id })?;
        may(caller, Right::Use, &unowned(ObjectKind::Zone, id, Vec::new()))?;
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
