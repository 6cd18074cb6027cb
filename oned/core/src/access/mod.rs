//! Who may do what: callers, permission bits, the decision, and which names objects may carry.
//!
//! [`may`] decides from the caller and from what is known of one object; it never looks anything up. A caller carries the
//! access rules that speak of him, an object its lock. Administrators (user 0 and members of group 0) may everything that
//! no lock forbids. Creation is decided by the rules alone ([`may_create`]).

pub mod acl;
mod lock;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use acl::{Rule, Selector};
pub use lock::{Lock, LockLevel};

use crate::lifecycle::VmRights;
use crate::refusal::{ObjectKind, Refusal, Right};

/// Who is asking, as the session check found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's id.
    pub uid: i64,
    /// The primary group.
    pub gid: i64,
    /// All groups, the primary one included or not.
    pub groups: Vec<i64>,
    /// The user's name, for log lines.
    pub name: String,
    /// The access rules that speak of him, his groups or everybody.
    pub rules: Arc<[Rule]>,
    /// Bits that his new objects do not get; none = the daemon's default.
    pub umask: Option<u32>,
    /// Which right each operation on a VM needs of him.
    pub vm_rights: VmRights,
}

impl Caller {
    /// The daemon itself and the first administrator: user 0 in group 0.
    pub fn oneadmin() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: vec![0],
            name: "oneadmin".to_owned(),
            rules: Arc::default(),
            umask: None,
            vm_rights: VmRights::default(),
        }
    }

    /// Whether rights are not checked for this caller.
    pub fn is_admin(&self) -> bool {
        self.uid == 0 || self.is_member(0)
    }

    /// Whether the caller belongs to the group.
    pub fn is_member(&self, gid: i64) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// The three rights of one class of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Bits {
    /// USE.
    pub use_: bool,
    /// MANAGE.
    pub manage: bool,
    /// ADMIN.
    pub admin: bool,
}

impl Bits {
    fn from_octal_digit(digit: u32) -> Self {
        Self { use_: digit & 4 != 0, manage: digit & 2 != 0, admin: digit & 1 != 0 }
    }

    fn octal_digit(self) -> u32 {
        u32::from(self.use_) << 2 | u32::from(self.manage) << 1 | u32::from(self.admin)
    }

    fn has(self, right: Right) -> bool {
        match right {
            Right::Use => self.use_,
            Right::Manage => self.manage,
            Right::Admin => self.admin,
            Right::Create => false,
        }
    }
}

/// The nine permission bits of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Permissions {
    /// For the owner.
    pub owner: Bits,
    /// For members of the object's group.
    pub group: Bits,
    /// For everybody else.
    pub other: Bits,
}

impl Permissions {
    /// What backup images get, whatever the umask: `um-/---/---`.
    pub const BACKUP: Self = Self {
        owner: Bits { use_: true, manage: true, admin: false },
        group: Bits { use_: false, manage: false, admin: false },
        other: Bits { use_: false, manage: false, admin: false },
    };

    /// From three octal digits, USE = 4, MANAGE = 2, ADMIN = 1: `0o640`. Higher bits are ignored.
    pub fn from_octal(octal: u32) -> Self {
        Self {
            owner: Bits::from_octal_digit(octal >> 6),
            group: Bits::from_octal_digit(octal >> 3),
            other: Bits::from_octal_digit(octal),
        }
    }

    /// As three octal digits.
    pub fn to_octal(self) -> u32 {
        self.owner.octal_digit() << 6 | self.group.octal_digit() << 3 | self.other.octal_digit()
    }

    /// What a new object gets: 0777 for administrators, 0666 for others, 0660 when the "other" bits are switched off,
    /// each without the bits of the umask. The default umask 0o177 gives `um-/---/---`.
    pub fn from_umask(umask: u32, caller: &Caller, other_enabled: bool) -> Self {
        let base = match (caller.is_admin(), other_enabled) {
            (true, _) => 0o777,
            (false, true) => 0o666,
            (false, false) => 0o660,
        };
        Self::from_octal(base & !umask)
    }

    /// The bit mask stored in the database.
    pub fn to_i64(self) -> i64 {
        i64::from(self.to_octal())
    }

    /// From the bit mask stored in the database.
    pub fn from_i64(mask: i64) -> Self {
        Self::from_octal(u32::try_from(mask & 0o777).unwrap_or(0))
    }

    /// The nine bits in the order of documents and of chmod: owner, group, other, each USE, MANAGE, ADMIN.
    pub fn nine(self) -> [bool; 9] {
        let [o, g, t] = [self.owner, self.group, self.other];
        [o.use_, o.manage, o.admin, g.use_, g.manage, g.admin, t.use_, t.manage, t.admin]
    }

    /// After a chmod: each of the nine in the order of [`Permissions::nine`] is 1, 0, or −1 to keep.
    ///
    /// # Errors
    /// A value other than these; the ADMIN bits changed by somebody without ADMIN, or the "other" bits changed while they
    /// are switched off. `admin` says whether the caller has ADMIN on the object.
    pub fn changed(self, bits: &[i64; 9], admin: bool, other_enabled: bool) -> Result<Self, Refusal> {
        let old = self.nine();
        let mut new = 0;
        for (index, (bit, old)) in bits.iter().zip(old).enumerate() {
            let set = match bit {
                -1 => old,
                0 => false,
                1 => true,
                _ => {
                    return Err(Refusal::Action("New permission values must be -1, 0 or 1".to_owned()));
                }
            };
            if set != old && index % 3 == 2 && !admin {
                return Err(Refusal::Action(
                    "Changing an ADMIN permission needs ADMIN rights on the object".to_owned(),
                ));
            }
            if set != old && index >= 6 && !other_enabled && !admin {
                let why = "Management of 'other' permissions is disabled in the configuration of the daemon";
                return Err(Refusal::Action(why.to_owned()));
            }
            new = new << 1 | u32::from(set);
        }
        Ok(Self::from_octal(new))
    }
}

/// What must be known of an object to decide about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its id.
    pub id: i64,
    /// Its owner.
    pub uid: i64,
    /// Its group.
    pub gid: i64,
    /// Its permission bits.
    pub permissions: Permissions,
    /// Its lock.
    pub lock: Option<Lock>,
    /// The clusters that it belongs to.
    pub clusters: Vec<i64>,
}

/// Decides whether the caller has the right on the object now: a lock binds everybody, administrators too; then
/// [`may_unlocked`].
///
/// # Errors
/// [`Refusal::Locked`], or [`Refusal::NotAuthorized`] naming the right and the object. Who has no right on it is not told
/// of the lock.
pub fn may(caller: &Caller, right: Right, object: &Object) -> Result<(), Refusal> {
    may_unlocked(caller, right, object)?;
    match &object.lock {
        Some(lock) if lock.level.blocks(right) => {
            Err(Refusal::Locked { user: caller.uid, right, kind: object.kind, id: object.id })
        }
        _ => Ok(()),
    }
}

/// As [`may`] without regard to locks, for reading and for unlocking: as administrator, as owner by the owner bit, as
/// member of the object's group by the group bit, by the "other" bit, or by an access rule. The first that gives the right
/// wins.
///
/// # Errors
/// [`Refusal::NotAuthorized`] naming the right and the object.
pub fn may_unlocked(caller: &Caller, right: Right, object: &Object) -> Result<(), Refusal> {
    let bits = object.permissions;
    let allowed = caller.is_admin()
        || (caller.uid == object.uid && bits.owner.has(right))
        || (caller.is_member(object.gid) && bits.group.has(right))
        || bits.other.has(right)
        || caller.has_rule(right, object);
    if allowed {
        return Ok(());
    }
    Err(Refusal::NotAuthorized { user: caller.uid, right, kind: object.kind, id: Some(object.id) })
}

/// Decides whether the caller may make a new object of this kind: by an access rule that lets him create. The default rules
/// give members of group 1 (*users*) the kinds that belong to people; hosts, datastores, users and the like are for
/// administrators.
///
/// # Errors
/// [`Refusal::NotAuthorized`] with CREATE.
pub fn may_create(caller: &Caller, kind: ObjectKind) -> Result<(), Refusal> {
    if caller.is_admin() || caller.rules.iter().any(|rule| rule.lets_create(kind)) {
        return Ok(());
    }
    Err(Refusal::NotAuthorized { user: caller.uid, right: Right::Create, kind, id: None })
}

/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 128;
const FORBIDDEN_IN_NAMES: &str = "&|:\\\";/'#{}$<>";

/// Checks a name against the rules: 1 to 128 characters, none of `& | : \ " ; / ' # { } $ < >` and no control
/// characters; users and groups also without blanks.
///
/// # Errors
/// [`Refusal::BadName`] with the broken rule.
pub fn valid_name(name: &str, kind: ObjectKind) -> Result<(), Refusal> {
    let broken = |reason: String| Err(Refusal::BadName { reason });
    if name.is_empty() {
        return broken("it cannot be empty".to_owned());
    }
    if name.chars().count() > MAX_NAME_CHARS {
        return broken(format!("max length is {MAX_NAME_CHARS} chars"));
    }
    if name.chars().any(char::is_control) {
        return broken("it cannot contain control characters".to_owned());
    }
    if name.chars().any(|c| FORBIDDEN_IN_NAMES.contains(c)) {
        return broken(format!("it cannot contain any of the characters {FORBIDDEN_IN_NAMES}"));
    }
    if matches!(kind, ObjectKind::User | ObjectKind::Group) && name.chars().any(char::is_whitespace) {
        return broken(format!("a {} name cannot contain blanks", kind.text()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
