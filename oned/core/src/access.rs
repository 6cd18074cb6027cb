//! Who may do what: callers, permission bits, the decision, and which names objects may carry.
//!
//! [`may`] decides from the caller and from what is known of one object; it never looks anything up. Administrators
//! (user 0 and members of group 0) may everything. Creation is decided by kind ([`may_create`]): the default rules let
//! ordinary users create what the original's default access rules let them create. Access rules of sites, locks and quotas are
//! further arguments to come; nothing here needs to change its shape for them.

use serde::{Deserialize, Serialize};

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
}

impl Caller {
    /// The daemon itself and the first administrator: user 0 in group 0.
    pub fn oneadmin() -> Self {
        Self { uid: 0, gid: 0, groups: vec![0], name: "oneadmin".to_owned() }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// Decides whether the caller has the right on the object: as administrator, as owner by the owner bit, as member of the
/// object's group by the group bit, or by the "other" bit. The first that gives the right wins.
///
/// # Errors
/// [`Refusal::NotAuthorized`] naming the right and the object.
pub fn may(caller: &Caller, right: Right, object: &Object) -> Result<(), Refusal> {
    let bits = object.permissions;
    let allowed = caller.is_admin()
        || (caller.uid == object.uid && bits.owner.has(right))
        || (caller.is_member(object.gid) && bits.group.has(right))
        || bits.other.has(right);
    if allowed {
        return Ok(());
    }
    Err(Refusal::NotAuthorized { user: caller.uid, right, kind: object.kind, id: Some(object.id) })
}

/// Decides whether the caller may make a new object of this kind. The default access rules give members of group 1 (*users*)
/// the kinds that belong to people; hosts, datastores, users and the like are for administrators.
///
/// # Errors
/// [`Refusal::NotAuthorized`] with CREATE.
pub fn may_create(caller: &Caller, kind: ObjectKind) -> Result<(), Refusal> {
    let everybody = match kind {
        ObjectKind::Vm
        | ObjectKind::Image
        | ObjectKind::Template
        | ObjectKind::Document
        | ObjectKind::SecurityGroup
        | ObjectKind::VmGroup
        | ObjectKind::BackupJob => true,
        ObjectKind::Host
        | ObjectKind::Network
        | ObjectKind::User
        | ObjectKind::Group
        | ObjectKind::Acl
        | ObjectKind::Datastore
        | ObjectKind::Cluster
        | ObjectKind::Zone
        | ObjectKind::Vdc
        | ObjectKind::VirtualRouter
        | ObjectKind::Marketplace
        | ObjectKind::MarketplaceApp
        | ObjectKind::NetworkTemplate
        | ObjectKind::Hook
        | ObjectKind::Schedule => false,
    };
    if caller.is_admin() || (everybody && caller.is_member(1)) {
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
mod tests {
    use super::*;

    fn caller(uid: i64, gid: i64, groups: &[i64]) -> Caller {
        Caller { uid, gid, groups: groups.to_vec(), name: format!("user{uid}") }
    }

    fn object(uid: i64, gid: i64, octal: u32) -> Object {
        Object { kind: ObjectKind::Vm, id: 7, uid, gid, permissions: Permissions::from_octal(octal) }
    }

    #[test]
    fn an_owner_may_manage_but_not_administer_what_the_default_bits_give() {
        let owner = caller(2, 1, &[1]);
        let vm = object(2, 1, 0o600);
        assert_eq!(may(&owner, Right::Use, &vm), Ok(()));
        assert_eq!(may(&owner, Right::Manage, &vm), Ok(()));
        let refused = may(&owner, Right::Admin, &vm).unwrap_err();
        assert_eq!(refused.to_string(), "User [2] : Not authorized to perform ADMIN VM [7].");
    }

    #[test]
    fn group_and_other_bits_count_for_the_people_they_name() {
        let vm = object(2, 100, 0o640);
        assert_eq!(may(&caller(3, 1, &[1, 100]), Right::Use, &vm), Ok(()));
        assert!(may(&caller(3, 1, &[1, 100]), Right::Manage, &vm).is_err());
        assert!(may(&caller(3, 1, &[1]), Right::Use, &vm).is_err());
        assert_eq!(may(&caller(3, 1, &[1]), Right::Use, &object(2, 100, 0o604)), Ok(()));
    }

    #[test]
    fn administrators_are_not_asked() {
        for admin in [caller(0, 5, &[]), caller(9, 0, &[]), caller(9, 1, &[1, 0])] {
            assert!(admin.is_admin());
            assert_eq!(may(&admin, Right::Admin, &object(2, 1, 0)), Ok(()));
            assert_eq!(may_create(&admin, ObjectKind::Datastore), Ok(()));
        }
        assert!(Caller::oneadmin().is_admin());
    }

    #[test]
    fn ordinary_users_create_what_belongs_to_people() {
        let user = caller(2, 1, &[1]);
        assert_eq!(may_create(&user, ObjectKind::BackupJob), Ok(()));
        let refused = may_create(&user, ObjectKind::Datastore).unwrap_err();
        assert_eq!(refused.to_string(), "User [2] : Not authorized to perform CREATE DATASTORE.");
        assert!(may_create(&caller(2, 100, &[100]), ObjectKind::Image).is_err());
    }

    #[test]
    fn permission_bits_survive_the_database_and_octal() {
        for mask in 0..0o1000 {
            let permissions = Permissions::from_i64(mask);
            assert_eq!(permissions.to_i64(), mask);
            assert_eq!(Permissions::from_octal(permissions.to_octal()), permissions);
        }
        assert_eq!(Permissions::BACKUP.to_octal(), 0o600);
        assert_eq!(Permissions::from_i64(-1).to_octal(), 0o777);
    }

    #[test]
    fn the_umask_masks_a_base_that_depends_on_the_caller() {
        let user = caller(2, 1, &[1]);
        assert_eq!(Permissions::from_umask(0o177, &user, true).to_octal(), 0o600);
        assert_eq!(Permissions::from_umask(0, &user, true).to_octal(), 0o666);
        assert_eq!(Permissions::from_umask(0, &user, false).to_octal(), 0o660);
        assert_eq!(Permissions::from_umask(0o137, &Caller::oneadmin(), true).to_octal(), 0o640);
    }

    #[test]
    fn chmod_keeps_what_it_is_not_told_to_change() {
        let old = Permissions::from_octal(0o640);
        let keep = [-1; 9];
        assert_eq!(old.changed(&keep, false, true), Ok(old));
        let mut bits = keep;
        bits[6] = 1;
        assert_eq!(old.changed(&bits, false, true).unwrap().to_octal(), 0o644);
        assert!(old.changed(&bits, false, false).is_err());
        bits[2] = 1;
        assert!(old.changed(&bits, false, true).is_err());
        assert_eq!(old.changed(&bits, true, true).unwrap().to_octal(), 0o744);
        bits[0] = 2;
        assert!(old.changed(&bits, true, true).is_err());
    }

    #[test]
    fn names_follow_the_rules_of_their_kind() {
        for good in ["a", "0 01-Dec 13.36.56", "größe (1)", &"x".repeat(128)] {
            assert_eq!(valid_name(good, ObjectKind::Image), Ok(()), "{good}");
        }
        for bad in ["", "a:b", "a/b", "a\nb", "a\"b", "$a", "<a>", &"x".repeat(129)] {
            assert!(valid_name(bad, ObjectKind::Image).is_err(), "{bad:?}");
        }
        assert!(valid_name("two words", ObjectKind::User).is_err());
    }
}
