//! Limits of users and groups, and the defaults for those that have none of their own.

use one_core::access::Caller;
use one_core::doc;
use one_core::quota::{Limit, Limits, Owner, Usage};
use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;

use super::{Cloud, parse, people, view};
use crate::quota::{self, DEFAULTS, GROUP, USER};
use crate::store::{Release, Tx};

/// `one.user.quota`: limits of a user; what the text leaves out stays.
///
/// # Errors
/// Not authorised (ADMIN); *oneadmin*, whom no limit holds; a text that does not parse or names no limit.
pub fn user(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = people::user_to_use(tx, caller, Right::Admin, id)?;
        set(tx, Owner::User(id), &row.name, text)?;
        Ok(id)
    })
}

/// `one.group.quota`: limits of a group; what the text leaves out stays.
///
/// # Errors
/// As [`user`].
pub fn group(cloud: &Cloud, caller: &Caller, id: i64, text: &str) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let row = people::group_to_use(tx, caller, Right::Admin, id)?;
        set(tx, Owner::Group(id), &row.name, text)?;
        Ok(id)
    })
}

fn set(tx: &mut Tx<'_>, owner: Owner, name: &str, text: &str) -> Result<(), Refusal> {
    if owner.is_exempt() {
        return Err(Refusal::Action(format!("Cannot set quotas for {name}: nothing is counted for {owner}.")));
    }
    let (mut limits, usage) = quota::load(tx, owner)?;
    limits.update(&parse(text)?)?;
    let (word, id) = match owner {
        Owner::User(id) => (USER, id),
        Owner::Group(id) => (GROUP, id),
    };
    quota::store(tx, word, id, &limits, &usage)?;
    Ok(tx.schedules_release(Release::All)?)
}

/// Whose defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defaults {
    /// Those of users.
    Users,
    /// Those of groups.
    Groups,
}

impl Defaults {
    fn word(self) -> &'static str {
        match self {
            Self::Users => USER,
            Self::Groups => GROUP,
        }
    }

    fn kind(self) -> ObjectKind {
        match self {
            Self::Users => ObjectKind::User,
            Self::Groups => ObjectKind::Group,
        }
    }

    fn document(self, tx: &mut Tx<'_>) -> Result<String, Refusal> {
        let view = view::Quotas::of(tx, self.word(), DEFAULTS)?.defaults();
        Ok(match self {
            Self::Users => doc::default_user_quotas(&view),
            Self::Groups => doc::default_group_quotas(&view),
        })
    }
}

/// `one.userquota.info`, `one.groupquota.info`: the defaults, which everybody sees in his own document too.
///
/// # Errors
/// The database's failure.
pub fn defaults(cloud: &Cloud, whose: Defaults) -> Result<String, Refusal> {
    cloud.store.read(|tx| whose.document(tx))
}

/// `one.userquota.update`, `one.groupquota.update`: what the text leaves out stays; −1 and −2 both take a limit away.
/// Answers the new defaults.
///
/// # Errors
/// Not an administrator; a text that does not parse or names no limit.
pub fn update_defaults(cloud: &Cloud, caller: &Caller, whose: Defaults, text: &str) -> Result<String, Refusal> {
    if !caller.is_admin() {
        return Err(Refusal::NotAuthorized { user: caller.uid, right: Right::Admin, kind: whose.kind(), id: None });
    }
    let text = parse(text)?;
    cloud.store.write(|tx| {
        let (mut limits, _) = quota::read(tx.quotas(whose.word(), DEFAULTS)?);
        change_defaults(&mut limits, &text)?;
        quota::store(tx, whose.word(), DEFAULTS, &limits, &Usage::new())?;
        tx.schedules_release(Release::All)?;
        whose.document(tx)
    })
}

fn change_defaults(limits: &mut Limits, text: &Template) -> Result<(), Refusal> {
    limits.update_defaults(text)?;
    // Among the defaults "no limit" says what no entry says.
    let kept: Vec<_> =
        Vec::from(limits.clone()).into_iter().filter(|(_, _, limit)| *limit != Limit::Unlimited).collect();
    *limits = kept.into();
    Ok(())
}
