//! Lists of attributes that the configuration names: which only administrators may set, which are stored sealed.
//!
//! An entry is `NAME`, all of that attribute, or `NAME/KEY`, one key of a vector. What it is not: it decides nothing; the
//! api asks who is calling, [`crate::secret`] seals.

use one_core::template::{Template, Value, is_safe_attribute_name};
use std::fmt;

/// One entry of an [`AttributeList`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttributePath {
    /// The attribute, upper case.
    pub name: String,
    /// The key inside the vector, upper case; `None` is the whole attribute.
    pub key: Option<String>,
}

impl AttributePath {
    /// Reads `NAME` or `NAME/KEY`, in any case of letters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_uppercase();
        let (name, key) = match text.split_once('/') {
            Some((name, key)) => (name, Some(key)),
            None => (text.as_str(), None),
        };
        let good = is_safe_attribute_name(name) && key.is_none_or(is_safe_attribute_name);
        good.then(|| Self { name: name.to_owned(), key: key.map(str::to_owned) })
    }
}

impl fmt::Display for AttributePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}/{key}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Attributes by name, in the order of the configuration, without repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeList(Vec<AttributePath>);

impl AttributeList {
    /// Nothing.
    pub const EMPTY: Self = Self(Vec::new());

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &AttributePath> {
        self.0.iter()
    }

    /// Whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the attribute, or that key of it, is listed: by its own entry or by one for the whole attribute. Names in
    /// upper case, as templates hold them.
    #[must_use]
    pub fn holds(&self, name: &str, key: Option<&str>) -> bool {
        self.0.iter().any(|path| path.name == name && (path.key.is_none() || path.key.as_deref() == key))
    }

    /// The first entry that the template has, as a scalar, a vector or a key.
    #[must_use]
    pub fn found_in(&self, template: &Template) -> Option<&AttributePath> {
        self.0.iter().find(|path| {
            template.attributes().iter().filter(|attribute| attribute.name == path.name).any(|attribute| {
                match (&path.key, &attribute.value) {
                    (None, _) => true,
                    (Some(key), Value::Vector(vector)) => vector.contains(key),
                    (Some(_), Value::Scalar(_)) => false,
                }
            })
        })
    }

    pub(super) fn add(&mut self, path: AttributePath) {
        if !self.0.contains(&path) {
            self.0.push(path);
        }
    }
}

/// Entries that are no `NAME` or `NAME/KEY` are left out.
impl<T: AsRef<str>> FromIterator<T> for AttributeList {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut list = Self::default();
        texts.into_iter().filter_map(|text| AttributePath::parse(text.as_ref())).for_each(|path| list.add(path));
        list
    }
}

/// What VM_RESTRICTED_ATTR always holds, whatever the file says: these name files of the host, and the original lets
/// users set them only because it reads them in another way.
pub(super) const VM_RESTRICTED_ALWAYS: &[&str] = &["OS/KERNEL", "OS/INITRD", "DISK/SOURCE"];

/// Default of VM_RESTRICTED_ATTR: the list that comes with OpenNebula, less what concerns vCenter.
pub(super) const VM_RESTRICTED: &[&str] = &[
    "CONTEXT/FILES",
    "NIC/MAC",
    "NIC/VLAN_ID",
    "NIC/BRIDGE",
    "NIC/FILTER",
    "NIC/FILTER_IP_SPOOFING",
    "NIC/FILTER_MAC_SPOOFING",
    "NIC/INBOUND_AVG_BW",
    "NIC/INBOUND_PEAK_BW",
    "NIC/INBOUND_PEAK_KB",
    "NIC/OUTBOUND_AVG_BW",
    "NIC/OUTBOUND_PEAK_BW",
    "NIC/OUTBOUND_PEAK_KB",
    "NIC/EXTERNAL",
    "NIC_ALIAS/MAC",
    "NIC_ALIAS/VLAN_ID",
    "NIC_ALIAS/BRIDGE",
    "NIC_ALIAS/INBOUND_AVG_BW",
    "NIC_ALIAS/INBOUND_PEAK_BW",
    "NIC_ALIAS/INBOUND_PEAK_KB",
    "NIC_ALIAS/OUTBOUND_AVG_BW",
    "NIC_ALIAS/OUTBOUND_PEAK_BW",
    "NIC_ALIAS/OUTBOUND_PEAK_KB",
    "NIC_ALIAS/EXTERNAL",
    "NIC_DEFAULT/MAC",
    "NIC_DEFAULT/VLAN_ID",
    "NIC_DEFAULT/BRIDGE",
    "NIC_DEFAULT/FILTER",
    "NIC_DEFAULT/EXTERNAL",
    "DISK/TOTAL_BYTES_SEC",
    "DISK/TOTAL_BYTES_SEC_MAX",
    "DISK/TOTAL_BYTES_SEC_MAX_LENGTH",
    "DISK/READ_BYTES_SEC",
    "DISK/READ_BYTES_SEC_MAX",
    "DISK/READ_BYTES_SEC_MAX_LENGTH",
    "DISK/WRITE_BYTES_SEC",
    "DISK/WRITE_BYTES_SEC_MAX",
    "DISK/WRITE_BYTES_SEC_MAX_LENGTH",
    "DISK/TOTAL_IOPS_SEC",
    "DISK/TOTAL_IOPS_SEC_MAX",
    "DISK/TOTAL_IOPS_SEC_MAX_LENGTH",
    "DISK/READ_IOPS_SEC",
    "DISK/READ_IOPS_SEC_MAX",
    "DISK/READ_IOPS_SEC_MAX_LENGTH",
    "DISK/WRITE_IOPS_SEC",
    "DISK/WRITE_IOPS_SEC_MAX",
    "DISK/WRITE_IOPS_SEC_MAX_LENGTH",
    "DISK/SIZE_IOPS_SEC",
    "DISK/ORIGINAL_SIZE",
    "DISK/SIZE_PREV",
    "DEPLOY_ID",
    "CPU_COST",
    "MEMORY_COST",
    "DISK_COST",
    "PCI",
    "EMULATOR",
    "RAW",
    "USER_PRIORITY",
    "USER_INPUTS/CPU",
    "USER_INPUTS/MEMORY",
    "USER_INPUTS/VCPU",
    "TOPOLOGY/PIN_POLICY",
    "TOPOLOGY/HUGEPAGE_SIZE",
];

/// Default of IMAGE_RESTRICTED_ATTR.
pub(super) const IMAGE_RESTRICTED: &[&str] = &["SOURCE"];

/// Default of VNET_RESTRICTED_ATTR; they concern reservations.
pub(super) const VNET_RESTRICTED: &[&str] = &[
    "VN_MAD",
    "PHYDEV",
    "VLAN_ID",
    "CVLANS",
    "QINQ_TYPE",
    "BRIDGE",
    "CONF",
    "BRIDGE_CONF",
    "OVS_BRIDGE_CONF",
    "IP_LINK_CONF",
    "FILTER",
    "FILTER_IP_SPOOFING",
    "FILTER_MAC_SPOOFING",
    "AR/VN_MAD",
    "AR/PHYDEV",
    "AR/VLAN_ID",
    "AR/BRIDGE",
    "AR/FILTER",
    "AR/FILTER_IP_SPOOFING",
    "AR/FILTER_MAC_SPOOFING",
    "CLUSTER_IDS",
    "EXTERNAL",
];

/// Default of USER_RESTRICTED_ATTR and GROUP_RESTRICTED_ATTR: nobody gives himself rights.
pub(super) const OPERATIONS: &[&str] = &["VM_USE_OPERATIONS", "VM_MANAGE_OPERATIONS", "VM_ADMIN_OPERATIONS"];

/// Defaults of the lists of sealed attributes.
pub(super) const DATASTORE_ENCRYPTED: &[&str] = &[
    "RESTIC_PASSWORD",
    "RESTIC_S3_SECRET_ACCESS_KEY",
    "MOUNT_OPTIONS",
    "BACKUP_MOUNT_OPTIONS",
    "NETAPP_PASS",
    "PUREFA_API_TOKEN",
];
pub(super) const HOST_ENCRYPTED: &[&str] =
    &["EC2_ACCESS", "EC2_SECRET", "AZ_SUB", "AZ_CLIENT", "AZ_SECRET", "AZ_TENANT", "ONE_PASSWORD"];
pub(super) const VM_ENCRYPTED: &[&str] = &["CONTEXT/PASSWORD"];
pub(super) const IMAGE_ENCRYPTED: &[&str] = &["LUKS_PASSWORD"];
pub(super) const DOCUMENT_ENCRYPTED: &[&str] = &["PROVISION_BODY"];
pub(super) const USER_ENCRYPTED: &[&str] = &["SSH_PRIVATE_KEY", "SSH_PASSPHRASE"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_a_whole_attribute_or_one_key() {
        let list: AttributeList = ["raw", "Disk/Source", "a b", "A/B/C", "", "/X", "X/"].into_iter().collect();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["RAW", "DISK/SOURCE"]);
        assert!(list.holds("RAW", None) && list.holds("RAW", Some("TYPE")));
        assert!(list.holds("DISK", Some("SOURCE")) && !list.holds("DISK", Some("SIZE")) && !list.holds("DISK", None));
    }

    #[test]
    fn the_first_entry_in_a_template_is_found_as_scalar_vector_or_key() {
        let list: AttributeList = ["RAW", "DISK/SOURCE"].into_iter().collect();
        let found = |text: &str| list.found_in(&Template::parse(text).unwrap()).map(ToString::to_string);
        assert_eq!(found("RAW=x\n").as_deref(), Some("RAW"));
        assert_eq!(found("raw=[DATA=x]\n").as_deref(), Some("RAW"));
        assert_eq!(found("DISK=[SIZE=1]\nDISK=[source=x]\n").as_deref(), Some("DISK/SOURCE"));
        assert_eq!(found("DISK=[SIZE=1]\nSOURCE=x\nDISK=SOURCE\n"), None);
    }
}
