//! Access rules: who (a user, a group, everybody) may do what to which objects, in which zone. On the wire a rule is four
//! hexadecimal numbers of 64 bits (OpenNebula, ACL pool); to people it is a line like `@1 VM+IMAGE/* CREATE *`.

use serde::{Deserialize, Serialize};

use super::{Caller, Object};
use crate::refusal::{ObjectKind, Refusal, Right};

/// Selector: the low 32 bits are the id of one user or object.
const ONE: u64 = 0x1_0000_0000;
/// Selector: the low 32 bits are the id of a group.
const GROUP: u64 = 0x2_0000_0000;
/// Selector: everybody, every object.
const ALL: u64 = 0x4_0000_0000;
/// Selector: the low 32 bits are the id of a cluster.
const CLUSTER: u64 = 0x8_0000_0000;
const SELECTORS: u64 = ONE | GROUP | ALL | CLUSTER;
const ID: u64 = 0xffff_ffff;
/// The only zone that there is.
const OWN_ZONE: i64 = 0;
/// USE, MANAGE, ADMIN, CREATE.
const RIGHTS: [Right; 4] = [Right::Use, Right::Manage, Right::Admin, Right::Create];

/// Kinds that rules can name, with their bit, in the order in which rules are written.
const KINDS: [(ObjectKind, u64); 20] = [
    (ObjectKind::Vm, 0x10_0000_0000),
    (ObjectKind::Host, 0x20_0000_0000),
    (ObjectKind::Network, 0x40_0000_0000),
    (ObjectKind::Image, 0x80_0000_0000),
    (ObjectKind::User, 0x100_0000_0000),
    (ObjectKind::Template, 0x200_0000_0000),
    (ObjectKind::Group, 0x400_0000_0000),
    (ObjectKind::Datastore, 0x1000_0000_0000),
    (ObjectKind::Cluster, 0x2000_0000_0000),
    (ObjectKind::Document, 0x4000_0000_0000),
    (ObjectKind::Zone, 0x8000_0000_0000),
    (ObjectKind::SecurityGroup, 0x1_0000_0000_0000),
    (ObjectKind::Vdc, 0x2_0000_0000_0000),
    (ObjectKind::VirtualRouter, 0x4_0000_0000_0000),
    (ObjectKind::Marketplace, 0x8_0000_0000_0000),
    (ObjectKind::MarketplaceApp, 0x10_0000_0000_0000),
    (ObjectKind::VmGroup, 0x20_0000_0000_0000),
    (ObjectKind::NetworkTemplate, 0x40_0000_0000_0000),
    (ObjectKind::Hook, 0x80_0000_0000_0000),
    (ObjectKind::BackupJob, 0x100_0000_0000_0000),
];

/// Whom a part of a rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Selector {
    /// `#id`
    One(i64),
    /// `@id`
    Group(i64),
    /// `%id`
    Cluster(i64),
    /// `*`
    All,
}

impl Selector {
    fn from_bits(bits: u64, what: &str) -> Result<Self, Refusal> {
        let id = i64::from((bits & ID) as u32);
        match bits & SELECTORS {
            ONE => Ok(Self::One(id)),
            GROUP => Ok(Self::Group(id)),
            CLUSTER => Ok(Self::Cluster(id)),
            ALL if id == 0 => Ok(Self::All),
            _ => Err(malformed(what, "needs exactly one of the selectors # (1), @ (2), * (4) and % (8)")),
        }
    }

    fn bits(self) -> u64 {
        let id = |id: i64| u64::from(u32::try_from(id).unwrap_or(0));
        match self {
            Self::One(one) => ONE | id(one),
            Self::Group(group) => GROUP | id(group),
            Self::Cluster(cluster) => CLUSTER | id(cluster),
            Self::All => ALL,
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(id) => write!(f, "#{id}"),
            Self::Group(id) => write!(f, "@{id}"),
            Self::Cluster(id) => write!(f, "%{id}"),
            Self::All => f.write_str("*"),
        }
    }
}

/// One access rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Who: never a cluster.
    pub who: Selector,
    /// Kinds of objects, as bits.
    kinds: u64,
    /// Which of them.
    pub which: Selector,
    /// Rights, as the bits of [`Right::bit`].
    rights: u8,
    /// Zone: one or all.
    pub zone: Selector,
}

fn malformed(what: &str, why: &str) -> Refusal {
    Refusal::Internal(format!("Malformed access rule: the {what} {why}."))
}

fn hex(text: &str, what: &str) -> Result<u64, Refusal> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    u64::from_str_radix(digits, 16)
        .map_err(|_| malformed(what, "is no hexadecimal number of at most 64 bits without sign"))
}

impl Rule {
    /// From its parts.
    pub fn new(who: Selector, kinds: &[ObjectKind], which: Selector, rights: &[Right]) -> Self {
        let kinds = KINDS.iter().filter(|(kind, _)| kinds.contains(kind)).fold(0, |bits, (_, bit)| bits | bit);
        let rights = rights.iter().fold(0, |bits, right| bits | right.bit() as u8);
        Self { who, kinds, which, rights, zone: Selector::All }
    }

    /// The same rule for one zone.
    #[must_use]
    pub fn in_zone(self, zone: i64) -> Self {
        Self { zone: Selector::One(zone), ..self }
    }

    /// From the four numbers of the wire; an empty zone means our own.
    ///
    /// # Errors
    /// [`Refusal::Internal`] naming the part that is no number, names nobody, or names what a rule cannot.
    pub fn from_hex(user: &str, resource: &str, rights: &str, zone: &str) -> Result<Self, Refusal> {
        let who = Selector::from_bits(hex(user, "user")?, "user")?;
        let resource = hex(resource, "resource")?;
        let which = Selector::from_bits(resource, "resource")?;
        let kinds = resource & !(SELECTORS | ID);
        let rights = hex(rights, "rights")?;
        let zone = if zone.trim().is_empty() {
            Selector::One(OWN_ZONE)
        } else {
            Selector::from_bits(hex(zone, "zone")?, "zone")?
        };
        if matches!(who, Selector::Cluster(_)) {
            return Err(malformed("user", "cannot be a cluster"));
        }
        let known = KINDS.iter().fold(0, |bits, (_, bit)| bits | bit);
        if kinds == 0 || kinds & !known != 0 {
            return Err(malformed("resource", "names no kind of object, or one that does not exist"));
        }
        if !matches!(zone, Selector::All | Selector::One(_)) {
            return Err(malformed("zone", "must be one zone or all"));
        }
        match u8::try_from(rights) {
            Ok(rights @ 1..=15) => Ok(Self { who, kinds, which, rights, zone }),
            _ => Err(malformed("rights", "must be a sum of USE 1, MANAGE 2, ADMIN 4 and CREATE 8")),
        }
    }

    /// The four numbers as the wire has them: user, resource, rights, zone.
    pub fn to_hex(&self) -> [String; 4] {
        [self.who.bits(), self.kinds | self.which.bits(), u64::from(self.rights), self.zone.bits()]
            .map(|number| format!("{number:x}"))
    }

    /// Whether the rule speaks of this user, in our zone (0).
    pub fn is_for(&self, uid: i64, groups: &[i64]) -> bool {
        let who = match self.who {
            Selector::All => true,
            Selector::One(id) => id == uid,
            Selector::Group(gid) => groups.contains(&gid),
            Selector::Cluster(_) => false,
        };
        who && matches!(self.zone, Selector::All | Selector::One(OWN_ZONE))
    }

    /// Whether the rule gives `right` on the object to those it speaks of.
    pub fn gives(&self, right: Right, object: &Object) -> bool {
        let which = match self.which {
            Selector::All => true,
            Selector::One(id) => object.id == id,
            Selector::Group(gid) => object.gid == gid,
            Selector::Cluster(id) => object.clusters.contains(&id),
        };
        which && self.covers(right, object.kind)
    }

    /// Whether the rule lets those it speaks of make objects of this kind.
    pub fn lets_create(&self, kind: ObjectKind) -> bool {
        self.which == Selector::All && self.covers(Right::Create, kind)
    }

    fn covers(&self, right: Right, kind: ObjectKind) -> bool {
        let bit = KINDS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, bit)| *bit);
        self.kinds & bit != 0 && i64::from(self.rights) & right.bit() != 0
    }

    /// Whether the rule names the user or the object: it goes when that goes.
    pub fn names(&self, kind: ObjectKind, id: i64) -> bool {
        let bit = KINDS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, bit)| *bit);
        let object = self.kinds == bit && self.which == Selector::One(id);
        match kind {
            ObjectKind::User => object || self.who == Selector::One(id),
            ObjectKind::Group => object || self.who == Selector::Group(id) || self.which == Selector::Group(id),
            ObjectKind::Cluster => object || self.which == Selector::Cluster(id),
            ObjectKind::Zone => object || self.zone == Selector::One(id),
            _ => object,
        }
    }
}

impl std::fmt::Display for Rule {
    /// As people write it: `@1 VM+IMAGE/* CREATE+USE *`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds: Vec<_> =
            KINDS.iter().filter(|(_, bit)| self.kinds & bit != 0).map(|(kind, _)| kind.acl_name()).collect();
        let rights: Vec<_> =
            RIGHTS.iter().filter(|right| i64::from(self.rights) & right.bit() != 0).map(|r| r.name()).collect();
        write!(f, "{} {}/{} {} {}", self.who, kinds.join("+"), self.which, rights.join("+"), self.zone)
    }
}

/// What an administrator of a group may: everything with its users, and to use and manage what belongs to the group.
pub fn group_admin_rules(uid: i64, gid: i64) -> [Rule; 2] {
    use ObjectKind as K;
    let who = Selector::One(uid);
    let kinds = [K::Vm, K::Network, K::Image, K::Template, K::Document, K::SecurityGroup, K::VmGroup, K::BackupJob];
    [
        Rule::new(who, &[K::User], Selector::Group(gid), &[Right::Use, Right::Manage, Right::Admin, Right::Create]),
        Rule::new(who, &kinds, Selector::Group(gid), &[Right::Use, Right::Manage]),
    ]
}

impl Caller {
    /// Whether one of the caller's rules gives `right` on the object.
    pub(super) fn has_rule(&self, right: Right, object: &Object) -> bool {
        self.rules.iter().any(|rule| rule.gives(right, object))
    }
}
