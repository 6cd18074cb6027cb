//! Users, groups, access rules.

use one_core::doc::{AclView, GroupView, LoginTokenView, QuotasView, UserView};

use super::{Names, stored, without_secrets};
use crate::api::Cloud;
use crate::store::rows::{AclRow, GroupRow, UserRow};
use crate::store::{StoreError, Tx};

/// The user view. What is kept of the password only for administrators (`full`); secrets of the template when `clear`.
///
/// # Errors
/// The database's failure.
pub fn user(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    names: &Names,
    row: &UserRow,
    full: bool,
    clear: bool,
) -> Result<UserView, StoreError> {
    let now = cloud.clock.now();
    let tokens = tx.login_tokens(row.id)?.into_iter().filter(|token| token.expires_at == -1 || token.expires_at > now);
    let template = stored(&row.template);
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
        template: if clear { template } else { without_secrets(template) },
        quotas: quotas(tx, "USER", row.id)?,
        default_quotas: default_quotas(tx, "USER")?,
    })
}

/// Limits and usage of a user or group.
///
/// # Errors
/// The database's failure.
pub fn quotas(_tx: &mut Tx<'_>, _owner: &str, _id: i64) -> Result<QuotasView, StoreError> {
    Ok(QuotasView::default())
}

/// The limits of those who have none of their own.
///
/// # Errors
/// The database's failure.
pub fn default_quotas(tx: &mut Tx<'_>, owner: &str) -> Result<QuotasView, StoreError> {
    quotas(tx, owner, -1)
}

/// The group view.
///
/// # Errors
/// The database's failure.
pub fn group(tx: &mut Tx<'_>, row: &GroupRow) -> Result<GroupView, StoreError> {
    Ok(GroupView {
        id: row.id,
        name: row.name.clone(),
        template: stored(&row.template),
        users: tx.group_users(row.id)?,
        admins: tx.group_admins(row.id)?,
        quotas: quotas(tx, "GROUP", row.id)?,
        default_quotas: default_quotas(tx, "GROUP")?,
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
