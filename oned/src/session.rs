//! Who is calling: from a session string to a caller with groups and access rules.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use one_core::access::{Caller, Rule};
use one_core::lifecycle::{OperationLists, VmRights};
use one_core::refusal::Refusal;
use one_core::template::Template;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::cloud::{Cloud, password_digest};
use crate::ledger::stored;
use crate::store::rows::{AclRow, UserRow};
use crate::store::{Generation, StoreError, Tx};

/// The only driver whose passwords we check.
pub const CORE: &str = "core";
/// A driver that never lets anybody in by password.
pub const PUBLIC: &str = "public";

/// The caller behind a session string `name:token`: a login token of the user, else his password (OpenNebula, session
/// string).
///
/// # Errors
/// [`Refusal::BadSession`] for everything that is not a known, enabled user with the right password or a token that has
/// not expired; which of these it was is not said.
pub fn authenticate(cloud: &Cloud, session: &str) -> Result<Caller, Refusal> {
    let Some(generation) = cloud.store.people_generation() else {
        return check(cloud, session).map(|(caller, _)| caller);
    };
    let key: [u8; 32] = Sha256::digest(session.as_bytes()).into();
    if let Some(caller) = cloud.sessions.find(generation, &key, cloud.clock.now()) {
        return Ok(caller);
    }
    let (caller, expires_at) = check(cloud, session)?;
    cloud.sessions.keep(generation, key, &caller, expires_at);
    Ok(caller)
}

/// Most sessions that are kept; who has more tokens in use is looked up again.
const SESSIONS_MAX: usize = 4096;

/// Sessions that were found good, by the SHA-256 of the session string, as long as nothing about people changed.
///
/// A session that was refused is never kept, so a stranger cannot fill it. That a token ends with time is looked at
/// at each use.
#[derive(Default)]
pub struct Sessions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    generation: Option<Generation>,
    callers: HashMap<[u8; 32], (Caller, i64)>,
}

impl Sessions {
    fn find(&self, generation: Generation, key: &[u8; 32], now: i64) -> Option<Caller> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (caller, expires_at) = kept.callers.get(key).filter(|_| kept.generation == Some(generation))?;
        is_valid(*expires_at, now).then(|| caller.clone())
    }

    fn keep(&self, generation: Generation, key: [u8; 32], caller: &Caller, expires_at: i64) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.generation > Some(generation) {
            return;
        }
        if kept.generation != Some(generation) || kept.callers.len() >= SESSIONS_MAX {
            kept.callers.clear();
            kept.generation = Some(generation);
        }
        kept.callers.insert(key, (caller.clone(), expires_at));
    }
}

/// Whether a session that ends at `expires_at` (−1 never) is good at `now`.
fn is_valid(expires_at: i64, now: i64) -> bool {
    expires_at == -1 || expires_at > now
}

/// The caller behind a session string as the database knows him, and when the session ends (−1 never).
fn check(cloud: &Cloud, session: &str) -> Result<(Caller, i64), Refusal> {
    let (name, token) = session.split_once(':').ok_or(Refusal::BadSession)?;
    let digest = password_digest(token);
    cloud.store.read(|tx| {
        let Some(user) = tx.user_by_name(name)?.filter(|user| user.enabled == 1) else {
            return Err(Refusal::BadSession);
        };
        let now = cloud.clock.now();
        if let Some(login) = tx.login_token(user.id, &digest)?
            && is_valid(login.expires_at, now)
        {
            let egid = (login.egid != -1).then_some(login.egid);
            return Ok((caller(cloud, tx, &user, egid)?, login.expires_at));
        }
        let right = bool::from(digest.as_bytes().ct_eq(user.password_sha256.as_bytes()));
        if !right || user.auth_driver != CORE {
            return Err(Refusal::BadSession);
        }
        Ok((caller(cloud, tx, &user, None)?, -1))
    })
}

/// A user as a caller, as he is now; `egid` narrows him to one of his groups.
///
/// # Errors
/// The database's failure; [`Refusal::BadSession`] for a group that he has left.
pub fn caller(cloud: &Cloud, tx: &mut Tx<'_>, user: &UserRow, egid: Option<i64>) -> Result<Caller, Refusal> {
    let mut groups = tx.user_groups(user.id)?;
    let mut gid = user.gid;
    if let Some(egid) = egid {
        if !groups.contains(&egid) {
            return Err(Refusal::BadSession);
        }
        (gid, groups) = (egid, vec![egid]);
    }
    let rules = tx.acl_list()?;
    let rules = rules.iter().filter_map(rule).filter(|rule| rule.is_for(user.id, &groups)).collect();
    let template = stored(&user.template);
    let umask = template.scalar("UMASK").and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    let vm_rights = vm_rights(cloud, tx, &template, gid, &groups)?;
    Ok(Caller {
        uid: user.id,
        gid,
        groups,
        name: user.name.clone(),
        rules,
        umask: umask.filter(|mask| *mask <= 0o777),
        vm_rights,
    })
}

/// The operation lists of a user, of his groups (the primary one first) and of the daemon.
fn vm_rights(
    cloud: &Cloud,
    tx: &mut Tx<'_>,
    template: &Template,
    gid: i64,
    groups: &[i64],
) -> Result<VmRights, StoreError> {
    let mut of_groups = Vec::new();
    let others = groups.iter().copied().filter(|group| *group != gid);
    for id in std::iter::once(gid).chain(others) {
        if let Some(group) = tx.group_find(id)?.filter(|group| !group.template.is_empty()) {
            of_groups.push(OperationLists::known_in(&stored(&group.template)));
        }
    }
    Ok(VmRights::new(OperationLists::known_in(template), of_groups, cloud.config.vm_operations.clone()))
}

/// The owner of something as a caller, for what is done in his name while he is away.
///
/// # Errors
/// [`Refusal::Internal`] when he is gone or disabled.
pub fn owner(cloud: &Cloud, tx: &mut Tx<'_>, uid: i64, what: &str) -> Result<Caller, Refusal> {
    let user = tx.user_find(uid)?.filter(|user| user.enabled == 1);
    let user =
        user.ok_or_else(|| Refusal::Internal(format!("The owner of {what}, user {uid}, is gone or disabled.")))?;
    caller(cloud, tx, &user, None)
}

/// A stored access rule; we wrote it ourselves. One that does not read any more gives nothing, aloud.
pub fn rule(row: &AclRow) -> Option<Rule> {
    Rule::from_hex(&row.user_hex, &row.resource_hex, &row.rights_hex, &row.zone_hex)
        .inspect_err(|error| tracing::error!(target: "ACL", "Rule {} is left out: {error}", row.id))
        .ok()
}

/// The row of a rule.
#[must_use]
pub fn rule_row(id: i64, rule: &Rule) -> AclRow {
    let [user_hex, resource_hex, rights_hex, zone_hex] = rule.to_hex();
    AclRow { id, user_hex, resource_hex, rights_hex, zone_hex, text: rule.to_string() }
}

/// Adds a rule unless the same is there; its id.
///
/// # Errors
/// The database's failure.
pub fn add_rule(tx: &mut Tx<'_>, rule: &Rule) -> Result<i64, StoreError> {
    let row = rule_row(0, rule);
    if let Some(known) = tx.acl_like(&row)? {
        return Ok(known.id);
    }
    let id = tx.next_id("acl")?;
    tx.acl_insert(&AclRow { id, ..row })?;
    Ok(id)
}

/// Removes a rule by what it says; an absent one is success.
///
/// # Errors
/// The database's failure.
pub fn remove_rule(tx: &mut Tx<'_>, rule: &Rule) -> Result<(), StoreError> {
    match tx.acl_like(&rule_row(0, rule))? {
        Some(row) => tx.acl_delete(row.id),
        None => Ok(()),
    }
}

/// Removes the rules that name an object which is being removed.
///
/// # Errors
/// The database's failure.
pub fn forget_rules(tx: &mut Tx<'_>, kind: one_core::refusal::ObjectKind, id: i64) -> Result<(), StoreError> {
    for row in tx.acl_list()? {
        if rule(&row).is_some_and(|rule| rule.names(kind, id)) {
            tx.acl_delete(row.id)?;
        }
    }
    Ok(())
}
