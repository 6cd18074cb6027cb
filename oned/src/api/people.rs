//! Users, groups, login tokens and access rules.

use one_core::access::acl::group_admin_rules;
use one_core::access::{Caller, Object, Permissions, Rule, may, may_create, valid_name};
use one_core::doc;
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::{Cloud, attributes, parse, vdc, view};
use crate::cloud::{password_digest, random_hex};
use crate::hosts::DUMMY;
use crate::quota::{GROUP, USER};
use crate::session::{self, CORE, PUBLIC};
use crate::store::Tx;
use crate::store::rows::{GroupRow, LoginTokenRow, UserRow};

/// Ids of users and groups below this belong to the installation.
const INSTALLED_USERS: i64 = 2;
const INSTALLED_GROUPS: i64 = 2;
/// The group of people who are in no other.
const USERS: i64 = 1;
/// Most tokens of one user.
const TOKENS_MAX: usize = 64;
/// Longest password or token, bytes.
const PASSWORD_MAX: usize = 1024;
/// Most groups of one user.
const GROUPS_MAX: usize = 1000;

fn user_object(row: &UserRow) -> Object {
    Object {
        kind: ObjectKind::User,
        id: row.id,
        // Everybody may look at and change himself.
        uid: row.id,
        gid: row.gid,
        permissions: Permissions::from_octal(0o600),
        lock: None,
        clusters: Vec::new(),
    }
}

fn group_object(row: &GroupRow) -> Object {
    Object {
        kind: ObjectKind::Group,
        id: row.id,
        uid: -1,
        gid: row.id,
        // Members may look at their group.
        permissions: Permissions::from_octal(0o040),
        lock: None,
        clusters: Vec::new(),
    }
}

/// Whether the caller has the right on a user: by the user's primary group, or by any other group of his. Over
/// administrators no rule gives power: who could change their passwords would be one of them.
fn may_user(tx: &mut Tx<'_>, caller: &Caller, right: Right, row: &UserRow) -> Result<(), Refusal> {
    let mut object = user_object(row);
    let groups = tx.user_groups(row.id)?;
    let administrator = row.id == 0 || row.gid == 0 || groups.contains(&0);
    if administrator && right != Right::Use && caller.uid != row.id {
        return super::only_admin(caller, right, ObjectKind::User, row.id);
    }
    let refused = match may(caller, right, &object) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    for gid in groups {
        object.gid = gid;
        if may(caller, right, &object).is_ok() {
            return Ok(());
        }
    }
    Err(refused)
}

/// The user, if the caller has the right on him.
///
/// # Errors
/// Unknown user, not authorised.
pub fn user_to_use(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<UserRow, Refusal> {
    let row = tx.user_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::User, id })?;
    may_user(tx, caller, right, &row)?;
    Ok(row)
}

/// Whether that user exists and is an administrator.
///
/// # Errors
/// The database's failure.
pub fn is_admin(tx: &mut Tx<'_>, uid: i64) -> Result<bool, Refusal> {
    let Some(row) = tx.user_find(uid)? else { return Ok(false) };
    Ok(row.id == 0 || row.gid == 0 || tx.user_groups(uid)?.contains(&0))
}

/// The group, if the caller has the right on it.
///
/// # Errors
/// Unknown group, not authorised.
pub fn group_to_use(tx: &mut Tx<'_>, caller: &Caller, right: Right, id: i64) -> Result<GroupRow, Refusal> {
    let row = tx.group_find(id)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Group, id })?;
    may(caller, right, &group_object(&row))?;
    // Members of group 0 may everything, so only they say who is one.
    if id == 0 && right != Right::Use {
        super::only_admin(caller, right, ObjectKind::Group, id)?;
    }
    Ok(row)
}

fn refuse<T>(kind: ObjectKind, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Allocate { kind, reason: reason.into() })
}

/// What is kept of a password: its digest for our own driver; a name of an outside identity is no secret.
fn stored_password(driver: &str, password: &str) -> Result<String, Refusal> {
    if password.is_empty() || password.len() > PASSWORD_MAX || password.chars().any(char::is_control) {
        let why = format!("A password needs 1 to {PASSWORD_MAX} bytes and no control characters.");
        return Err(Refusal::Internal(why));
    }
    Ok(if driver == CORE { password_digest(password) } else { String::new() })
}

fn check_driver(cloud: &Cloud, driver: &str) -> Result<&'static str, Refusal> {
    match driver {
        "" | CORE => Ok(CORE),
        PUBLIC => Ok(PUBLIC),
        DUMMY if cloud.config.dummy_drivers => Ok(DUMMY),
        other => Err(Refusal::Internal(format!(
            "The authentication driver \"{other}\" is not available; use core, or public for users who never log in."
        ))),
    }
}

/// `one.user.allocate`: an empty group list means the caller's own group for group administrators, else *users*.
///
/// # Errors
/// Not authorised; a bad or taken name; an unknown driver or group.
pub fn allocate(
    cloud: &Cloud,
    caller: &Caller,
    name: &str,
    password: &str,
    driver: &str,
    groups: &[i64],
) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let groups = if groups.is_empty() { vec![USERS] } else { groups.to_vec() };
        let gid = groups.first().copied().unwrap_or(USERS);
        may_create_user(caller, &groups)?;
        valid_name(name, ObjectKind::User)?;
        if name.contains(':') {
            return refuse(ObjectKind::User, "A user name cannot contain a colon.");
        }
        if groups.len() > GROUPS_MAX {
            return refuse(ObjectKind::User, format!("A user can be in at most {GROUPS_MAX} groups."));
        }
        let driver = check_driver(cloud, driver)?;
        let password_sha256 = stored_password(driver, password)?;
        for gid in &groups {
            tx.group_find(*gid)?.ok_or(Refusal::NoSuch { kind: ObjectKind::Group, id: *gid })?;
        }
        if let Some(other) = tx.user_by_name(name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::User, other_id: other.id });
        }
        let id = tx.next_id("user")?;
        tx.user_insert(&UserRow {
            id,
            gid,
            name: name.into(),
            password_sha256,
            auth_driver: driver.into(),
            enabled: 1,
            template: String::new(),
        })?;
        for gid in groups {
            tx.membership_add(id, gid)?;
        }
        Ok(id)
    })
}

/// Users are made by administrators, and by those whom a rule lets create users in every group named.
fn may_create_user(caller: &Caller, groups: &[i64]) -> Result<(), Refusal> {
    let in_group = |gid: &i64| {
        let user = Object {
            kind: ObjectKind::User,
            id: -1,
            uid: -1,
            gid: *gid,
            permissions: Permissions::default(),
            lock: None,
            clusters: Vec::new(),
        };
        caller.rules.iter().any(|rule| rule.gives(Right::Create, &user))
    };
    if groups.contains(&0) {
        return super::only_admin(caller, Right::Manage, ObjectKind::Group, 0);
    }
    if groups.iter().all(in_group) { Ok(()) } else { may_create(caller, ObjectKind::User) }
}

/// `one.user.delete`. What the user owns stays.
///
/// # Errors
/// Not authorised (ADMIN), a user of the installation.
pub fn delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = user_to_use(tx, caller, Right::Admin, id)?;
        if id < INSTALLED_USERS {
            return Err(Refusal::Action(format!("{} cannot be deleted.", row.name)));
        }
        for gid in tx.user_groups(id)? {
            unmake_admin(tx, gid, id)?;
        }
        session::forget_rules(tx, ObjectKind::User, id)?;
        tx.quotas_remove(USER, id)?;
        tx.user_delete(id)?;
        Ok(id)
    })
}

/// `one.user.passwd`. Login tokens end with the old password.
///
/// # Errors
/// Not authorised (MANAGE), a password that cannot be one.
pub fn passwd(cloud: &Cloud, caller: &Caller, id: i64, password: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = user_to_use(tx, caller, Right::Manage, id)?;
        row.password_sha256 = stored_password(&row.auth_driver, password)?;
        tx.user_update(&row)?;
        tx.login_token_remove(id, None)?;
        Ok(id)
    })
}

/// `one.user.chauth`: changes the driver, and the password when one is given.
///
/// # Errors
/// Not authorised (ADMIN), an unknown driver, a driver that needs a password without one.
pub fn chauth(cloud: &Cloud, caller: &Caller, id: i64, driver: &str, password: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = user_to_use(tx, caller, Right::Admin, id)?;
        let driver = check_driver(cloud, driver)?;
        if id < INSTALLED_USERS && driver != CORE {
            return Err(Refusal::Action(format!("{} needs the core driver, or nobody could administer.", row.name)));
        }
        if !password.is_empty() {
            row.password_sha256 = stored_password(driver, password)?;
        }
        row.auth_driver = driver.into();
        tx.user_update(&row)?;
        Ok(id)
    })
}

/// `one.user.enable`.
///
/// # Errors
/// Not authorised (ADMIN); an attempt to disable the first administrator.
pub fn enable(cloud: &Cloud, caller: &Caller, id: i64, enabled: bool) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = user_to_use(tx, caller, Right::Admin, id)?;
        if id == 0 && !enabled {
            return Err(Refusal::Action(format!("{} cannot be disabled.", row.name)));
        }
        row.enabled = i64::from(enabled);
        tx.user_update(&row)?;
        Ok(id)
    })
}

/// `one.user.update`.
///
/// # Errors
/// Not authorised (MANAGE), a text that does not parse, a UMASK that is none, restricted attributes.
pub fn update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = user_to_use(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        let template = attributes::updated(cloud, caller, ObjectKind::User, &old, &new, kind)?;
        if let Some(mask) = template.scalar("UMASK")
            && !u32::from_str_radix(mask.trim(), 8).is_ok_and(|mask| mask <= 0o777)
        {
            return Err(Refusal::CannotUpdate { reason: format!("UMASK \"{mask}\" is not three octal digits.") });
        }
        row.template = template.to_text();
        tx.user_update(&row)?;
        Ok(id)
    })
}

/// `one.user.chgrp`: a new primary group. One's own other groups may be chosen freely.
///
/// # Errors
/// Not authorised (MANAGE on the user, and on a group that he is not in).
pub fn chgrp(cloud: &Cloud, caller: &Caller, id: i64, gid: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = user_to_use(tx, caller, Right::Manage, id)?;
        let member = tx.user_groups(id)?.contains(&gid);
        group_to_use(tx, caller, if member { Right::Use } else { Right::Manage }, gid)?;
        if id < INSTALLED_USERS && gid != 0 {
            return Err(Refusal::Action(format!("{} stays in group oneadmin.", row.name)));
        }
        let old = row.gid;
        row.gid = gid;
        tx.user_update(&row)?;
        tx.membership_add(id, gid)?;
        // The old primary group is left, unless the new one was among the user's groups already.
        if old != gid && !member {
            unmake_admin(tx, old, id)?;
            tx.membership_remove(id, old)?;
        }
        Ok(id)
    })
}

/// `one.user.addgroup`.
///
/// # Errors
/// Not authorised (MANAGE on both), a group that the user is in.
pub fn add_group(cloud: &Cloud, caller: &Caller, id: i64, gid: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        user_to_use(tx, caller, Right::Manage, id)?;
        group_to_use(tx, caller, Right::Manage, gid)?;
        let groups = tx.user_groups(id)?;
        if groups.contains(&gid) {
            return Err(Refusal::Action("User is already in this group".into()));
        }
        if groups.len() >= GROUPS_MAX {
            return Err(Refusal::Action(format!("A user can be in at most {GROUPS_MAX} groups.")));
        }
        tx.membership_add(id, gid)?;
        Ok(id)
    })
}

/// `one.user.delgroup`.
///
/// # Errors
/// Not authorised (MANAGE on both), the primary group, a group that the user is not in.
pub fn remove_group(cloud: &Cloud, caller: &Caller, id: i64, gid: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = user_to_use(tx, caller, Right::Manage, id)?;
        group_to_use(tx, caller, Right::Manage, gid)?;
        if row.gid == gid {
            return Err(Refusal::Action("Cannot remove user from the primary group.".into()));
        }
        if !tx.user_groups(id)?.contains(&gid) {
            return Err(Refusal::Action("User is not part of this group".into()));
        }
        unmake_admin(tx, gid, id)?;
        tx.membership_remove(id, gid)?;
        Ok(id)
    })
}

/// `one.user.login`: makes a token that works in place of the password for `seconds` (−1 for ever), or with 0 seconds ends
/// one (the empty one: all). Answers the token's text, the only time that it is shown: the database keeps its SHA-256, and
/// documents show that. A token can also be ended by what documents show of it.
///
/// # Errors
/// Not authorised (MANAGE), an unknown user, a group that the user is not in, a bad period, too many tokens.
pub fn login(
    cloud: &Cloud,
    caller: &Caller,
    name: &str,
    token: &str,
    seconds: i64,
    egid: i64,
) -> Result<String, Refusal> {
    let made = random_hex()?;
    cloud.store.write(|tx| {
        let row = tx.user_by_name(name)?.ok_or(Refusal::NoSuch { kind: ObjectKind::User, id: -1 })?;
        may_user(tx, caller, Right::Manage, &row)?;
        let now = cloud.clock.now();
        tx.login_tokens_expire(row.id, now)?;
        if seconds == 0 {
            let digest = password_digest(token);
            let ended = match token {
                "" => tx.login_token_remove(row.id, None)?,
                token => tx.login_token_remove(row.id, Some(&digest))? + tx.login_token_remove(row.id, Some(token))?,
            };
            if ended == 0 && !token.is_empty() {
                return Err(Refusal::Internal("Could not find a matching login token to reset.".into()));
            }
            return Ok(token.to_owned());
        }
        if seconds < -1 {
            return Err(Refusal::Api("Wrong validity period for the token; use seconds, -1 for ever, 0 to end".into()));
        }
        if egid != -1 && !tx.user_groups(row.id)?.contains(&egid) {
            return Err(Refusal::Internal("EGID is not in user group list".into()));
        }
        if token.len() > PASSWORD_MAX {
            return Err(Refusal::Api(format!("A token has at most {PASSWORD_MAX} bytes")));
        }
        if tx.login_tokens(row.id)?.len() >= TOKENS_MAX {
            return Err(Refusal::Internal(format!(
                "Max number of tokens limit reached: a user has at most {TOKENS_MAX}; end some first."
            )));
        }
        let text = if token.is_empty() { made } else { token.to_owned() };
        tx.login_token_put(&LoginTokenRow {
            uid: row.id,
            token_sha256: password_digest(&text),
            expires_at: if seconds == -1 { -1 } else { now.saturating_add(seconds) },
            egid,
        })?;
        Ok(text)
    })
}

/// `one.user.info`; −1 is the caller.
///
/// # Errors
/// Unknown user; not authorised (USE).
pub fn info(cloud: &Cloud, caller: &Caller, id: i64, decrypt: bool) -> Result<String, Refusal> {
    let id = if id == -1 { caller.uid } else { id };
    cloud.store.read(|tx| {
        let mut row = user_to_use(tx, caller, Right::Use, id)?;
        attributes::reveal(cloud, caller, decrypt, ObjectKind::User, &mut row.template)?;
        let names = view::Names::read(tx)?;
        let quotas = view::Quotas::of(tx, USER, id)?;
        Ok(doc::user(&view::user(cloud, tx, (&names, &quotas), &row, caller.is_admin())?))
    })
}

/// `one.userpool.info`: those whom the caller may see, himself among them.
///
/// # Errors
/// The database's failure.
pub fn pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let names = view::Names::read(tx)?;
        let quotas = view::Quotas::of_all(tx, USER)?;
        let mut pool = doc::UserPool::begin();
        for row in tx.user_list()? {
            if may_user(tx, caller, Right::Use, &row).is_ok() {
                pool.push(&view::user(cloud, tx, (&names, &quotas), &row, caller.is_admin())?);
            }
        }
        Ok(pool.finish(&quotas.defaults()))
    })
}

/// `one.group.allocate`: the new group joins the default virtual data centre. What its members may create is for access
/// rules to say; OpenNebula's clients add one.
///
/// # Errors
/// Not authorised; a bad or taken name.
pub fn group_allocate(cloud: &Cloud, caller: &Caller, name: &str) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Group)?;
    valid_name(name, ObjectKind::Group)?;
    cloud.store.write(|tx| {
        if let Some(other) = tx.group_by_name(name)? {
            return Err(Refusal::NameTaken { kind: ObjectKind::Group, other_id: other.id });
        }
        let id = tx.next_id("user_group")?;
        tx.group_insert(&GroupRow { id, name: name.into(), template: String::new() })?;
        vdc::join_default(tx, id)?;
        Ok(id)
    })
}

/// `one.group.delete`.
///
/// # Errors
/// Not authorised (ADMIN), a group of the installation, a group with users.
pub fn group_delete(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = group_to_use(tx, caller, Right::Admin, id)?;
        if id < INSTALLED_GROUPS {
            return Err(Refusal::Action(format!("System Groups (ID < 100) cannot be deleted: {}.", row.name)));
        }
        if let Some(uid) = tx.group_users(id)?.first() {
            return Err(Refusal::Action(format!("The group is not empty: user {uid} is in it, move him first.")));
        }
        vdc::leave_all(tx, id)?;
        session::forget_rules(tx, ObjectKind::Group, id)?;
        tx.quotas_remove(GROUP, id)?;
        tx.group_delete(id)?;
        Ok(id)
    })
}

/// `one.group.update`.
///
/// # Errors
/// Not authorised (MANAGE), a text that does not parse, restricted attributes.
pub fn group_update(cloud: &Cloud, caller: &Caller, id: i64, text: &str, kind: i64) -> Result<i64, Refusal> {
    let new = parse(text)?;
    cloud.store.write(|tx| {
        let mut row = group_to_use(tx, caller, Right::Manage, id)?;
        let old = view::stored(&row.template);
        row.template = attributes::updated(cloud, caller, ObjectKind::Group, &old, &new, kind)?.to_text();
        tx.group_update(&row)?;
        Ok(id)
    })
}

/// `one.group.addadmin`: he becomes a member too if he is not.
///
/// # Errors
/// Not authorised (ADMIN on the group, MANAGE on the user), an administrator already.
pub fn add_admin(cloud: &Cloud, caller: &Caller, id: i64, uid: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        group_to_use(tx, caller, Right::Admin, id)?;
        user_to_use(tx, caller, Right::Manage, uid)?;
        if tx.group_admins(id)?.contains(&uid) {
            return Err(Refusal::Action(format!("User {uid} is already an administrator of group {id}.")));
        }
        tx.membership_add(uid, id)?;
        tx.group_admin_add(id, uid)?;
        for rule in group_admin_rules(uid, id) {
            session::add_rule(tx, &rule)?;
        }
        Ok(id)
    })
}

/// `one.group.deladmin`: he stays a member.
///
/// # Errors
/// Not authorised (ADMIN on the group, MANAGE on the user), no administrator.
pub fn remove_admin(cloud: &Cloud, caller: &Caller, id: i64, uid: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        group_to_use(tx, caller, Right::Admin, id)?;
        user_to_use(tx, caller, Right::Manage, uid)?;
        if !tx.group_admins(id)?.contains(&uid) {
            return Err(Refusal::Action(format!("User {uid} is not an administrator of group {id}.")));
        }
        unmake_admin(tx, id, uid)?;
        Ok(id)
    })
}

fn unmake_admin(tx: &mut Tx<'_>, gid: i64, uid: i64) -> Result<(), Refusal> {
    if tx.group_admins(gid)?.contains(&uid) {
        tx.group_admin_remove(gid, uid)?;
        for rule in group_admin_rules(uid, gid) {
            session::remove_rule(tx, &rule)?;
        }
    }
    Ok(())
}

/// `one.group.info`; −1 is the caller's primary group.
///
/// # Errors
/// Unknown group; not authorised (USE).
pub fn group(cloud: &Cloud, caller: &Caller, id: i64) -> Result<String, Refusal> {
    let id = if id == -1 { caller.gid } else { id };
    cloud.store.read(|tx| {
        let row = group_to_use(tx, caller, Right::Use, id)?;
        let quotas = view::Quotas::of(tx, GROUP, id)?;
        Ok(doc::group(&view::group(tx, &quotas, &row)?))
    })
}

/// `one.grouppool.info`.
///
/// # Errors
/// The database's failure.
pub fn group_pool(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let quotas = view::Quotas::of_all(tx, GROUP)?;
        let mut pool = doc::GroupPool::begin();
        for row in tx.group_list()? {
            if may(caller, Right::Use, &group_object(&row)).is_ok() {
                pool.push(&view::group(tx, &quotas, &row)?);
            }
        }
        Ok(pool.finish(&quotas.defaults()))
    })
}

/// `one.acl.addrule`: the four numbers of the wire; answers the rule's id.
///
/// # Errors
/// Not authorised; a malformed rule; one that is there.
pub fn add_rule(
    cloud: &Cloud,
    caller: &Caller,
    (user, resource, rights, zone): (&str, &str, &str, &str),
) -> Result<i64, Refusal> {
    may_create(caller, ObjectKind::Acl)?;
    let rule = Rule::from_hex(user, resource, rights, zone)?;
    cloud.store.write(|tx| {
        if tx.acl_like(&session::rule_row(0, &rule))?.is_some() {
            return Err(Refusal::Internal(format!("Rule {rule} already exists")));
        }
        Ok(session::add_rule(tx, &rule)?)
    })
}

/// `one.acl.delrule`.
///
/// # Errors
/// Not authorised; no such rule.
pub fn delete_rule(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    super::only_admin(caller, Right::Manage, ObjectKind::Acl, id)?;
    cloud.store.write(|tx| {
        tx.acl_find(id)?.ok_or_else(|| Refusal::Internal(format!("Rule {id} does not exist")))?;
        tx.acl_delete(id)?;
        Ok(id)
    })
}

/// `one.acl.info`.
///
/// # Errors
/// The database's failure.
pub fn rules(cloud: &Cloud, caller: &Caller) -> Result<String, Refusal> {
    cloud.store.read(|tx| {
        let rows = tx.acl_list()?;
        let seen = rows.iter().filter(|row| {
            caller.is_admin() || session::rule(row).is_some_and(|rule| rule.is_for(caller.uid, &caller.groups))
        });
        Ok(doc::pool("ACL_POOL", seen.map(|row| doc::acl(&view::acl(row)))))
    })
}
