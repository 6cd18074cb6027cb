//! Clusters: which hosts, datastores and networks belong together. A host is in exactly one, a datastore or network in any
//! number. Cluster 0 is the installation's, where hosts go that are in no other.
//!
//! Rights, for what belongs to nobody: USE to look, MANAGE to change attributes or name, ADMIN to delete it and to put
//! something in or out, which needs ADMIN on that too.

use one_core::access::{Caller, may, may_create, valid_name};
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::{Cloud, attributes, host, owned, parse, unowned, vdc, view};
use crate::store::Tx;
use crate::store::rows::{ClusterRow, DatastoreRow, NetworkRow};
use crate::{quota, session};

/// The cluster of hosts that are in no other.
const DEFAULT: i64 = 0;

fn object(row: &ClusterRow) -> one_core::access::Object {
    unowned(ObjectKind::Cluster, row.id, vec![row.id])
}

/// The cluster, if the caller has the right on it.
///
/// # Errors
/// Unknown cluster, not authorised.
pub fn cluster_for(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<ClusterRow, Refusal> {
    let row = tx.cluster_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Cluster, id })?;
    may(caller, right, &object(&row))?;
    Ok(row)
}

fn namesake(tx: &mut Tx<'_>, name: &str) -> Result<Option<i64>, Refusal> {
    Ok(tx.cluster_list()?.into_iter().find(|row| row.name == name).map(|row| row.id))
}

/// What every cluster starts with: clients look for these two, which hold back capacity once they are given.
pub(super) fn first_template() -> String {
    let mut template = Template::new();
    template.set("RESERVED_CPU", "");
    template.set("RESERVED_MEM", "");
    template.to_text()
}

/// `one.cluster.allocate`.
///
/// # Errors
/// Not authorised (CREATE), a bad or taken name.
pub fn allocate(cloud: &Cloud, caller: &Caller, name: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Cluster)?;
    valid_name(name, ObjectKind::Cluster)?;
    cloud.store.write(|tx| {
        if let Some(other_id) = namesake(tx, name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::Cluster, other_id });
        }
        let id = tx.next_id("cluster")?;
        tx.cluster_insert(&ClusterRow { id, name: name.into(), template: first_template() })?;
        Ok(id)
    })
}

/// `one.cluster.delete`: forgets an empty cluster.
///
/// # Errors
/// Not authorised (ADMIN), unknown cluster, one with something in it, the default one.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = cluster_for(tx, caller, Right::Admin, id)?;
        if id == DEFAULT {
            return Err(Refusal::Action("Cluster 0 belongs to the installation and stays.".into()));
        }
        let view = view::cluster(tx, &row)?;
        for (what, ids) in [("host", &view.hosts), ("datastore", &view.datastores), ("virtual network", &view.vnets)] {
            if let Some(first) = ids.first() {
                return Err(Refusal::Action(format!(
                    "Cluster {id} is not empty: {what} {first} is in it, take it out first."
                )));
            }
        }
        vdc::forget(tx, ObjectKind::Cluster, id)?;
        session::forget_rules(tx, ObjectKind::Cluster, id)?;
        tx.cluster_delete(id)?;
        Ok(id)
    })
}

/// `one.cluster.update`.
///
/// # Errors
/// Not authorised (MANAGE), unknown cluster, a text that does not parse.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = cluster_for(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Cluster, &old, &parse(text)?, kind)?.to_text();
        tx.cluster_update(&row)?;
        Ok(id)
    })
}

/// `one.cluster.rename`.
///
/// # Errors
/// Not authorised (MANAGE), unknown cluster, a bad or taken name.
pub fn rename(cloud: &Cloud, caller: &Caller, id: i64, name: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = cluster_for(tx, caller, Right::Manage, id)?;
        valid_name(name, ObjectKind::Cluster)?;
        if let Some(other_id) = namesake(tx, name)?.filter(|other| *other != id) {
            return Err(Refusal::NameCollides { kind: ObjectKind::Cluster, name: name.into(), other_id });
        }
        row.name = name.into();
        tx.cluster_update(&row)?;
        Ok(id)
    })
}

fn not_inside(id: i64, what: ObjectKind, object: i64) -> Refusal {
    Refusal::Action(format!("The {} {object} is not in cluster {id}.", what.text()))
}

/// `one.cluster.addhost`: takes the host out of the cluster that it is in.
///
/// # Errors
/// Not authorised (ADMIN on the cluster and on the host), unknown cluster or host.
pub fn add_host(cloud: &Cloud, caller: &Caller, id: i64, host_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        cluster_for(tx, caller, Right::Admin, id)?;
        let mut row = host::host_for(tx, caller, Right::Admin, host_id)?;
        row.cluster_id = id;
        quota::save_host(tx, &row)?;
        Ok(id)
    })
}

/// `one.cluster.delhost`: the host goes to cluster 0, for it has to be somewhere.
///
/// # Errors
/// Not authorised (ADMIN on the cluster and on the host), unknown cluster or host, a host that is elsewhere or in cluster 0.
pub fn remove_host(cloud: &Cloud, caller: &Caller, id: i64, host_id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        cluster_for(tx, caller, Right::Admin, id)?;
        let mut row = host::host_for(tx, caller, Right::Admin, host_id)?;
        if row.cluster_id != id {
            return Err(not_inside(id, ObjectKind::Host, host_id));
        }
        if id == DEFAULT {
            return Err(Refusal::Action(format!(
                "Host {host_id} is in no other cluster than 0; add it to another one instead."
            )));
        }
        row.cluster_id = DEFAULT;
        quota::save_host(tx, &row)?;
        Ok(id)
    })
}

/// A cluster list with or without a cluster; none when it says so already.
fn changed(list: &str, id: i64, inside: bool) -> Option<String> {
    let mut ids = owned::ids(list);
    if ids.contains(&id) == inside {
        return None;
    }
    if inside {
        ids.push(id);
    } else {
        ids.retain(|other| *other != id);
    }
    Some(owned::id_list(ids))
}

/// `one.cluster.adddatastore` and `deldatastore`. To add one that is in succeeds without a change.
///
/// # Errors
/// Not authorised (ADMIN on the cluster and on the datastore), unknown cluster or datastore, one that is not in to be taken
/// out.
pub fn set_datastore(cloud: &Cloud, caller: &Caller, id: i64, datastore: i64, inside: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        cluster_for(tx, caller, Right::Admin, id)?;
        let mut row: DatastoreRow = owned::to_use(tx, caller, Right::Admin, datastore)?;
        match changed(&row.clusters, id, inside) {
            Some(clusters) => {
                row.clusters = clusters;
                tx.datastore_update(&row)?;
            }
            None if inside => {}
            None => return Err(not_inside(id, ObjectKind::Datastore, datastore)),
        }
        Ok(id)
    })
}

/// `one.cluster.addvnet` and `delvnet`; as [`set_datastore`].
///
/// # Errors
/// As [`set_datastore`].
pub fn set_network(cloud: &Cloud, caller: &Caller, id: i64, network: i64, inside: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        cluster_for(tx, caller, Right::Admin, id)?;
        let mut row: NetworkRow = owned::to_use(tx, caller, Right::Admin, network)?;
        match changed(&row.clusters, id, inside) {
            Some(clusters) => {
                row.clusters = clusters;
                tx.network_update(&row)?;
            }
            None if inside => {}
            None => return Err(not_inside(id, ObjectKind::Network, network)),
        }
        Ok(id)
    })
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
        let mut pool = doc::Pool::begin("CLUSTER_POOL");
        for row in tx.cluster_list()?.into_iter().filter(|row| may(caller, Right::Use, &object(row)).is_ok()) {
            pool.push(&view::cluster(tx, &row)?);
        }
        Ok(pool.finish())
    })
}
