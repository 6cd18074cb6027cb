//! What a fresh database holds: users, groups, cluster, zone, datastores and access rules (OpenNebula's first start).

use one_core::access::{Permissions, Rule, Selector};
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::datastore::{FILE_DS, IMAGE_DS, SYSTEM_DS, default_base_path, installed_permissions};
use super::{Cloud, cluster, vdc};
use crate::cloud::{password_digest, random_hex};
use crate::session;
use crate::store::rows::{ClusterRow, DatastoreRow, GroupRow, SecurityGroupRow, UserRow, VdcRow, ZoneRow};
use crate::store::{StoreError, Tx};

/// The security group of network cards that name none: everything in and out.
const DEFAULT_SECURITY_GROUP: &str = "DESCRIPTION=\"The default security group is added to every network.\"\nRULE=[PROTOCOL=\"ALL\",RULE_TYPE=\"OUTBOUND\"]\nRULE=[PROTOCOL=\"ALL\",RULE_TYPE=\"INBOUND\"]";

/// Ids below this belong to the installation.
const FIRST_FREE_ID: i64 = 100;

/// The default access rules that are not those of the default virtual data centre.
fn rules() -> [Rule; 3] {
    use ObjectKind as K;
    let people = [K::Vm, K::Image, K::Template, K::Document, K::SecurityGroup, K::VmGroup, K::BackupJob];
    [
        Rule::new(Selector::Group(1), &people, Selector::All, &[Right::Create]),
        Rule::new(Selector::All, &[K::Zone], Selector::All, &[Right::Use]),
        Rule::new(Selector::All, &[K::Marketplace, K::MarketplaceApp], Selector::All, &[Right::Use]),
    ]
}

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
        tx.cluster_insert(&ClusterRow { id: 0, name: "default".into(), template: cluster::first_template() })?;
        tx.zone_insert(&ZoneRow {
            id: 0,
            name: "OpenNebula".into(),
            template: format!("ENDPOINT=\"{}\"", cloud.endpoint),
        })?;
        datastores(cloud, tx)?;
        for rule in rules() {
            session::add_rule(tx, &rule)?;
        }
        tx.vdc_insert(&VdcRow { id: vdc::DEFAULT, name: "default".into(), template: String::new() })?;
        tx.vdc_member_add(vdc::DEFAULT, "CLUSTER", 0, vdc::ALL)?;
        vdc::join_default(tx, 1)?;
        tx.security_group_insert(&SecurityGroupRow {
            id: 0,
            uid: 0,
            gid: 0,
            name: "default".into(),
            permissions: Permissions::from_octal(0o604).to_i64(),
            lock: String::new(),
            template: DEFAULT_SECURITY_GROUP.into(),
        })?;
        for (pool, first) in [
            ("user", 2),
            ("user_group", FIRST_FREE_ID),
            ("cluster", FIRST_FREE_ID),
            ("zone", FIRST_FREE_ID),
            ("datastore", FIRST_FREE_ID),
            ("vdc", FIRST_FREE_ID),
            ("security_group", FIRST_FREE_ID),
        ] {
            tx.reserve_ids(pool, first)?;
        }
        tracing::info!(target: "ONE", "Bootstrapped users, groups, cluster, zone and datastores.");
        Ok(())
    })
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
            clusters: "0".into(),
            total_mb: 0,
            free_mb: 0,
            used_mb: 0,
            monitored_at: 0,
            template: String::new(),
        })?;
    }
    Ok(())
}
