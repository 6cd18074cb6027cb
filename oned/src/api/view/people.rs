//! Users, groups, access rules.

use std::collections::BTreeMap;

use one_core::doc::{AclView, GroupView, LoginTokenView, QuotasView, UserView};
use one_core::quota::{Limits, Usage};

use super::{Names, shown};
use crate::api::Cloud;
use crate::quota::{self, DEFAULTS};
use crate::store::rows::{AclRow, GroupRow, QuotaRow, UserRow};
use crate::store::{StoreError, Tx};

/// The user view. What is kept of the password only for administrators (`full`).
///
/// # Errors
/// The database's failure.
pub fn user(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    (names, quotas): (&Names, &Quotas),
    row: &UserRow,
    full: bool,
) -> Result<UserView, StoreError> {
    let now = cloud.clock.now();
    let tokens = tx.login_tokens(row.id)?.into_iter().filter(|token| token.expires_at == -1 || token.expires_at > now);
    Ok(UserView {
        id: row.id,
        gid: row.gid,
        groups: tx.user_groups(row.id)?,
        gname: names.group(row.gid),
        name: row.name.clone(),
        password: if full { row.password_sha256.clone() } else { String::new() },
        auth_driver: row.auth_driver.clone(),
        enabled: row.enabled == 1,
        login_tokens: tokens
            .map(|token| LoginTokenView {
                token: token.token_sha256,
                expiration_time: token.expires_at,
                egid: token.egid,
            })
            .collect(),
        template: shown(&row.template),
        quotas: quotas.view(row.id),
        default_quotas: quotas.defaults(),
    })
}

/// Limits and usage of users or of groups: of one for his document, of all of them for a pool.
pub struct Quotas {
    rows: BTreeMap<i64, (Limits, Usage)>,
}

impl Quotas {
    /// Those of one owner (`USER` or `GROUP`), with the defaults.
    ///
    /// # Errors
    /// The database's failure.
    pub fn of(tx: &mut Tx<'_>, owner: &str, id: i64) -> Result<Self, StoreError> {
        let mut rows = BTreeMap::from([(DEFAULTS, quota::read(tx.quotas(owner, DEFAULTS)?))]);
        if id != DEFAULTS {
            rows.insert(id, quota::read(tx.quotas(owner, id)?));
        }
        Ok(Self { rows })
    }

    /// Those of all owners of a kind, in one look.
    ///
    /// # Errors
    /// The database's failure.
    pub fn of_all(tx: &mut Tx<'_>, owner: &str) -> Result<Self, StoreError> {
        let mut rows: BTreeMap<i64, Vec<QuotaRow>> = BTreeMap::new();
        for row in tx.quotas_of_all(owner)? {
            rows.entry(row.owner_id).or_default().push(row);
        }
        Ok(Self { rows: rows.into_iter().map(|(id, rows)| (id, quota::read(rows))).collect() })
    }

    /// As documents show an owner's.
    #[must_use]
    pub fn view(&self, id: i64) -> QuotasView {
        self.rows.get(&id).map(|(limits, usage)| one_core::quota::view(limits, usage)).unwrap_or_default()
    }

    /// The limits of those who have none of their own.
    #[must_use]
    pub fn defaults(&self) -> QuotasView {
        self.rows.get(&DEFAULTS).map(|(limits, _)| one_core::quota::defaults_view(limits)).unwrap_or_default()
    }
}

/// The group view.
///
/// # Errors
/// The database's failure.
pub fn group(tx: &mut Tx<'_>, quotas: &Quotas, row: &GroupRow) -> Result<GroupView, StoreError> {
    Ok(GroupView {
        id: row.id,
        name: row.name.clone(),
        template: shown(&row.template),
        users: tx.group_users(row.id)?,
        admins: tx.group_admins(row.id)?,
        quotas: quotas.view(row.id),
        default_quotas: quotas.defaults(),
    })
}

/// The view of an access rule.
#[must_use]
pub fn acl(row: &AclRow) -> AclView {
    AclView {
        id: row.id,
        user: row.user_hex.clone(),
        resource: row.resource_hex.clone(),
        rights: row.rights_hex.clone(),
        zone: row.zone_hex.clone(),
        string: row.text.clone(),
    }
}
