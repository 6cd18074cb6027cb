//! Settings that are more than a number or a word.

use one_core::refusal::Right;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// API_LIST_ORDER: how pools are sorted by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListOrder {
    /// ASC, the default.
    #[default]
    Ascending,
    /// DESC.
    Descending,
}

/// TLS_CERTIFICATE and TLS_KEY: files in PEM form; with them the door speaks https only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of this host, followed by those between it and its root.
    pub certificate: PathBuf,
    /// The private key of the first certificate.
    pub key: PathBuf,
}

/// VLAN_IDS: which ids automatic networks take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanIds {
    /// START: the first id.
    pub start: u16,
    /// RESERVED: ids that are never taken.
    pub reserved: Vec<RangeInclusive<u16>>,
}

impl VlanIds {
    /// Largest id of a VLAN (IEEE 802.1Q).
    pub const MAX: u16 = 4095;

    /// Whether the id must not be taken.
    #[must_use]
    pub fn is_reserved(&self, id: u16) -> bool {
        self.reserved.iter().any(|range| range.contains(&id))
    }

    /// Reads numbers and ranges `from:to`, separated by commas.
    pub(super) fn read_reserved(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|id| *id <= Self::MAX);
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts
            .map(|part| match part.split_once(':') {
                None => number(part).map(|id| id..=id),
                Some((from, to)) => Some(number(from)?..=number(to)?).filter(|range| !range.is_empty()),
            })
            .collect()
    }
}

/// Rights in the access rules of a VDC, as bits of [`Right::bit`]; none makes no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VdcRights(pub i64);

impl VdcRights {
    const NAMED: [Right; 3] = [Right::Use, Right::Manage, Right::Admin];

    /// Reads names joined by `+`; `-` and nothing are no rights.
    pub(super) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text == "-" {
            return Some(Self(0));
        }
        let mut bits = 0;
        for word in text.split('+') {
            bits |= Self::NAMED.iter().find(|right| word.trim().eq_ignore_ascii_case(right.name()))?.bit();
        }
        Some(Self(bits))
    }
}

impl fmt::Display for VdcRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            Self::NAMED.iter().filter(|right| self.0 & right.bit() != 0).map(|right| right.name()).collect();
        f.write_str(if names.is_empty() { "-".to_owned() } else { names.join("+") }.as_str())
    }
}

/// DEFAULT_VDC_…_ACL: what the groups of a VDC may do with what is added to it, one by one or by cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VdcAcl {
    /// DEFAULT_VDC_HOST_ACL.
    pub host: VdcRights,
    /// DEFAULT_VDC_VNET_ACL.
    pub vnet: VdcRights,
    /// DEFAULT_VDC_DATASTORE_ACL.
    pub datastore: VdcRights,
    /// DEFAULT_VDC_CLUSTER_HOST_ACL.
    pub cluster_host: VdcRights,
    /// DEFAULT_VDC_CLUSTER_NET_ACL.
    pub cluster_net: VdcRights,
    /// DEFAULT_VDC_CLUSTER_DATASTORE_ACL.
    pub cluster_datastore: VdcRights,
}

/// Two bytes of a MAC_PREFIX, as `02:00`; not of a multicast address.
pub(super) fn mac_prefix(text: &str) -> Option<[u8; 2]> {
    let (first, second) = text.split_once(':')?;
    let byte = |text: &str| u8::from_str_radix(text, 16).ok().filter(|_| text.len() == 2 && !text.starts_with('+'));
    Some([byte(first)?, byte(second)?]).filter(|prefix| prefix.first().is_some_and(|byte| byte & 1 == 0))
}
