//! What a fresh database holds: users, groups, cluster, zone, datastores and access rules (OpenNebula's first start).

use one_core::refusal::Refusal;

use super::Cloud;
use super::datastore::{FILE_DS, IMAGE_DS, SYSTEM_DS, default_base_path, installed_permissions};
use crate::cloud::{hex, password_digest};
use crate::store::rows::{AclRow, ClusterRow, DatastoreRow, GroupRow, UserRow, ZoneRow};
use crate::store::{StoreError, Tx};

/// Ids below this belong to the installation.
const FIRST_FREE_ID: i64 = 100;

/// The default access rules as (user, resource, rights, text); hexadecimal as on the wire.
const ACL: [(&str, &str, &str, &str); 4] = [
    ("200000001", "112409400000000", "8", "@1 VM+IMAGE+TEMPLATE+DOCUMENT+SECGROUP+BACKUPJOB/* CREATE *"),
    ("400000000", "800400000000", "1", "* ZONE/* USE *"),
    ("200000001", "2400000000", "2", "@1 HOST/* MANAGE #0"),
    ("200000001", "104400000000", "1", "@1 NET+DATASTORE/* USE #0"),
];

/// Fills an empty database; an already filled one keeps everything. `name` and `password`
/// are the first administrator's, used only when that user does not exist yet.
///
/// # Errors
/// The database's failure.
pub fn bootstrap(cloud: &Cloud, name: &str, password: &str) -> Result<(), Refusal> {
    let random = random_hex()?;
    cloud.store.write(|tx| {
        if tx.user_find(0)?.is_some() {
            return Ok(());
        }
        people(tx, name, &password_digest(password), &password_digest(&random))?;
        tx.cluster_insert(&ClusterRow { id: 0, name: "default".into(), template: String::new() })?;
        tx.zone_insert(&ZoneRow {
            id: 0,
            name: "OpenNebula".into(),
            template: format!("ENDPOINT=\"{}\"", cloud.endpoint),
        })?;
        datastores(cloud, tx)?;
        for (id, (user, resource, rights, text)) in (0..).zip(ACL) {
            tx.acl_insert(&AclRow {
                id,
                user_hex: user.into(),
                resource_hex: resource.into(),
                rights_hex: rights.into(),
                zone_hex: "400000000".into(),
                text: text.into(),
            })?;
        }
        for (pool, first) in [
            ("user", 2),
            ("user_group", FIRST_FREE_ID),
            ("cluster", FIRST_FREE_ID),
            ("zone", FIRST_FREE_ID),
            ("datastore", FIRST_FREE_ID),
            ("acl", 4),
        ] {
            tx.reserve_ids(pool, first)?;
        }
        tracing::info!(target: "ONE", "Bootstrapped users, groups, cluster, zone and datastores.");
        Ok(())
    })
}

fn random_hex() -> Result<String, Refusal> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| Refusal::Internal(format!("The system gives no random numbers: {e}.")))?;
    Ok(hex(&bytes))
}

fn people(tx: &mut Tx<'_>, name: &str, password: &str, unknown_password: &str) -> Result<(), StoreError> {
    for (id, name) in [(0, "oneadmin"), (1, "users")] {
        tx.group_insert(&GroupRow { id, name: name.into(), template: String::new() })?;
    }
    // serveradmin exists because clients expect user 1; nobody knows its password.
    for (id, name, password) in [(0, name, password), (1, "serveradmin", unknown_password)] {
        tx.user_insert(&UserRow {
            id,
            gid: 0,
            name: name.into(),
            password_sha256: password.into(),
            auth_driver: "core".into(),
            enabled: 1,
            template: String::new(),
        })?;
        tx.membership_add(id, 0)?;
    }
    Ok(())
}

fn datastores(cloud: &Cloud, tx: &mut Tx<'_>) -> Result<(), StoreError> {
    for (id, name, kind, ds_mad, tm_mad) in [
        (0, "system", SYSTEM_DS, "-", "qcow2"),
        (1, "default", IMAGE_DS, "fs", "qcow2"),
        (2, "files", FILE_DS, "fs", "qcow2"),
    ] {
        tx.datastore_insert(&DatastoreRow {
            id,
            uid: 0,
            gid: 0,
            name: name.into(),
            permissions: installed_permissions().to_i64(),
            ds_mad: ds_mad.into(),
            tm_mad: tm_mad.into(),
            base_path: default_base_path(cloud, id),
            kind,
            disk_type: 0,
            state: 0,
            cluster_id: 0,
            total_mb: 0,
            free_mb: 0,
            used_mb: 0,
            monitored_at: 0,
            template: String::new(),
        })?;
    }
    Ok(())
}
