//! What comes back: options of `one.image.restore`, names and PATH of the new images, and the generated VM template.
//!
//! What it is: the rules by which a stored VM description becomes a template that can be instantiated beside the VM it
//! came from. What it is not: the creation of images and templates.
//!
//! Invariants: a restored template never names the VM, host, address or image it came from, but for what the tables
//! below keep on purpose; it parses again; the daemon's BACKUP_CONFIG keys are never in it.
//!
//! Where OpenNebula differs: DEV_PREFIX is kept (guests did not boot without it), OS/UUID is dropped (two VMs with
//! one UUID collide), NIC_ALIAS goes with NO_NIC and its PARENT follows the renumbered NIC, the user's keys of
//! BACKUP_CONFIG come back, and a disk that USER_TEMPLATE pretends to add is ignored.

use std::collections::{BTreeMap, BTreeSet};

use crate::refusal::Refusal;
use crate::template::{Template, Value, Vector};

mod path;

pub use path::{BackupPath, BackupPathError, ChainLink};

/// Keys that only make sense for the VM that was: all that an image or the daemon wrote into a DISK. DEV_PREFIX is
/// not here.
const DISK: [&str; 26] = [
    "ALLOW_ORPHANS",
    "CLONE",
    "CLONE_TARGET",
    "CLUSTER_ID",
    "DATASTORE",
    "DATASTORE_ID",
    "DISK_ID",
    "DISK_SNAPSHOT_TOTAL_SIZE",
    "DISK_TYPE",
    "DRIVER",
    "FORMAT",
    "IMAGE",
    "IMAGE_ID",
    "IMAGE_STATE",
    "IMAGE_UID",
    "IMAGE_UNAME",
    "LN_TARGET",
    "OPENNEBULA_MANAGED",
    "ORIGINAL_SIZE",
    "PERSISTENT",
    "READONLY",
    "SAVE",
    "SIZE",
    "SOURCE",
    "TARGET",
    "TM_MAD",
];

/// The same for NIC, NIC_ALIAS and PCI. The last three are written when an alias is bound to its NIC.
const NIC: [&str; 15] = [
    "AR_ID",
    "BRIDGE",
    "BRIDGE_TYPE",
    "CLUSTER_ID",
    "NAME",
    "NETWORK_ID",
    "NIC_ID",
    "PHYDEV",
    "TARGET",
    "VLAN_ID",
    "VLAN_TAGGED_ID",
    "VN_MAD",
    "ALIAS_ID",
    "ALIAS_IDS",
    "PARENT_ID",
];

/// The same for PCI, besides those of a NIC. The wish itself stays: VENDOR, DEVICE, CLASS or SHORT_ADDRESS.
const PCI: [&str; 12] = [
    "ADDRESS",
    "BUS",
    "DOMAIN",
    "FUNCTION",
    "NUMA_NODE",
    "PCI_ID",
    "SLOT",
    "VM_ADDRESS",
    "VM_BUS",
    "VM_DOMAIN",
    "VM_FUNCTION",
    "VM_SLOT",
];

/// Addresses of a NIC.
const ADDRESSES: [&str; 6] = ["IP", "IP6", "IP6_GLOBAL", "IP6_LINK", "IP6_ULA", "MAC"];

/// Attributes of the top level that go.
const TOP: [&str; 18] = [
    "AUTOMATIC_DS_REQUIREMENTS",
    "AUTOMATIC_NIC_REQUIREMENTS",
    "AUTOMATIC_REQUIREMENTS",
    "BACKUP_CONFIG",
    "BACKUP_EVENT",
    "BACKUP_INFO",
    "DEPLOY_ID",
    "ERROR",
    "IMPORTED",
    "NAME",
    "QEMU_GA_EXEC",
    "SCHED_ACTION",
    "SCHED_MESSAGE",
    "SECURITY_GROUP_RULE",
    "SNAPSHOT",
    "TEMPLATE_ID",
    "TM_MAD_SYSTEM",
    "VMID",
];

/// Attributes of the daemon's own making, never taken from USER_TEMPLATE: there they had no effect on the VM that was
/// saved, and must not get one now.
const SYSTEM_ONLY: [&str; 5] = ["DISK", "NIC", "NIC_ALIAS", "PCI", "CONTEXT"];

/// Options of `one.image.restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Drop the addresses of NICs.
    pub no_ip: bool,
    /// Drop NICs.
    pub no_nic: bool,
    /// Base name of template and images.
    pub name: Option<String>,
    /// Restore up to this increment; the last when absent.
    pub increment_id: Option<i64>,
    /// Only this disk, and no template.
    pub disk_id: Option<i64>,
    /// Leave what is damaged as zeros, instead of giving up.
    pub skip_bad: bool,
}

impl RestoreOptions {
    /// Reads the options text. An id of −1 and an empty NAME count as absent.
    ///
    /// Refused (ACTION): INCREMENT_ID or DISK_ID that is no number. The original took such a value for "the last".
    pub fn parse(options: &Template) -> Result<Self, Refusal> {
        Ok(Self {
            no_ip: options.yes("NO_IP").unwrap_or(false),
            no_nic: options.yes("NO_NIC").unwrap_or(false),
            name: options.scalar("NAME").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned),
            increment_id: id_option(options, "INCREMENT_ID", "Wrong increment")?,
            disk_id: id_option(options, "DISK_ID", "VM disk does not exist")?,
            skip_bad: options.yes("SKIP_BAD").unwrap_or(false),
        })
    }

    /// The base name: NAME, else `<VM id>-<SOURCE of the chosen increment>`.
    pub fn base_name(&self, vm: i64, source: &str) -> String {
        self.name.clone().unwrap_or_else(|| format!("{vm}-{source}"))
    }
}

fn id_option(options: &Template, key: &str, refusal: &str) -> Result<Option<i64>, Refusal> {
    let Some(text) = options.scalar(key).map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(id) if id >= 0 => Ok(Some(id)),
        _ => Err(Refusal::Action(format!("{refusal}, {key} has to be a number from 0"))),
    }
}

/// The name of the image for one disk: `<base>-disk-<disk id>`.
pub fn disk_image_name(base: &str, disk: i64) -> String {
    format!("{base}-disk-{disk}")
}

/// The template of the image for one disk: NAME, TYPE (disk 0 an OS, the others DATABLOCK), PATH, FROM_BACKUP_DS, and
/// DEV_PREFIX of the DISK it was and BACKUP_JOB_ID when there are any.
pub fn disk_image_template(base: &str, disk: i64, path: &BackupPath, dev_prefix: Option<&str>) -> Template {
    let mut template = Template::new();
    template.set("NAME", disk_image_name(base, disk));
    template.set("TYPE", if disk == 0 { "OS" } else { "DATABLOCK" });
    template.set("PATH", path.to_string());
    template.set("FROM_BACKUP_DS", path.datastore_id.to_string());
    if let Some(prefix) = dev_prefix.filter(|prefix| !prefix.is_empty()) {
        template.set("DEV_PREFIX", prefix);
    }
    if let Some(job) = path.job_id {
        template.set("BACKUP_JOB_ID", job.to_string());
    }
    template
}

/// The template of the restored VM.
///
/// `vm_template` and `user_template` are TEMPLATE and USER_TEMPLATE at backup time, `backup_config` the VM's
/// BACKUP_CONFIG then, `images` the new image of each backed-up disk. NAME is set from the options; without one there
/// the caller sets it to [`RestoreOptions::base_name`].
///
/// Disks: a backed-up one refers to its new image; volatile and swap disks outside the backup keep TYPE and SIZE and
/// start empty; a CD keeps its image. A disk from an image that is not in `images` (left out by DISK_IDS) is dropped:
/// keeping it would attach the image that the first VM may still be writing to.
pub fn restore_template(
    vm_template: &Template,
    user_template: &Template,
    backup_config: Option<&Vector>,
    options: &RestoreOptions,
    images: &BTreeMap<i64, i64>,
) -> Template {
    let merged = merge(vm_template, user_template);
    let parents = alias_parents(&merged);
    let mut restored = Template::new();
    if let Some(name) = &options.name {
        restored.set("NAME", name.as_str());
    }
    for attribute in merged.attributes() {
        let name = attribute.name.as_str();
        if TOP.contains(&name) || name.starts_with("CLONING_") {
            continue;
        }
        match &attribute.value {
            Value::Scalar(text) if text.is_empty() => {}
            Value::Scalar(text) => restored.push(name, text.as_str()),
            Value::Vector(vector) => {
                let kept = section(name, vector, options, images, &parents);
                if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
                    restored.push_vector(name, kept);
                }
            }
        }
    }
    let config = user_keys(backup_config);
    if !config.is_empty() {
        restored.set_vector("BACKUP_CONFIG", config);
    }
    restored
}

/// Both parts as one; the user's names win, but for sections that only the daemon writes.
fn merge(vm_template: &Template, user_template: &Template) -> Template {
    let user: Vec<_> =
        user_template.attributes().iter().filter(|attribute| !SYSTEM_ONLY.contains(&attribute.name.as_str())).collect();
    let replaced: BTreeSet<&str> = user.iter().map(|attribute| attribute.name.as_str()).collect();
    let system = vm_template.attributes().iter().filter(|attribute| !replaced.contains(attribute.name.as_str()));
    let mut merged = Template::new();
    for attribute in system.chain(user) {
        match &attribute.value {
            Value::Scalar(text) => merged.push(&attribute.name, text.as_str()),
            Value::Vector(vector) => merged.push_vector(&attribute.name, vector.clone()),
        }
    }
    merged
}

/// One vector attribute as it comes back, or `None` when it goes.
fn section(
    name: &str,
    vector: &Vector,
    options: &RestoreOptions,
    images: &BTreeMap<i64, i64>,
    parents: &BTreeMap<String, String>,
) -> Option<Vector> {
    match name {
        "DISK" => disk(vector, images),
        "NIC" | "NIC_ALIAS" if options.no_nic => None,
        "NIC" => Some(nic(vector, options)),
        "NIC_ALIAS" => Some(nic_alias(vector, options, parents)),
        "PCI" => pci(vector, options),
        "GRAPHICS" => Some(without(vector, |key| key == "PORT")),
        "CONTEXT" => {
            let numbered = |key: &str, prefix| key.strip_prefix(prefix).is_some_and(starts_with_digit);
            Some(without(vector, |key| key == "DISK_ID" || numbered(key, "ETH") || numbered(key, "PCI")))
        }
        "NUMA_NODE" => Some(without(vector, |key| matches!(key, "CPUS" | "MEMORY_NODE_ID" | "NODE_ID"))),
        "OS" => Some(without(vector, |key| key == "UUID")),
        _ => Some(vector.clone()),
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

fn without(vector: &Vector, goes: impl Fn(&str) -> bool) -> Vector {
    vector.iter().filter(|(key, _)| !goes(key)).collect()
}

fn disk(vector: &Vector, images: &BTreeMap<i64, i64>) -> Option<Vector> {
    let kind = vector.get("TYPE").unwrap_or("").to_ascii_uppercase();
    let rest = without(vector, |key| key == "TYPE" || DISK.contains(&key));
    let with = |first: &[&str]| -> Vector {
        let kept = first.iter().filter_map(|key| Some((*key, vector.get(key)?)));
        kept.chain(rest.iter()).collect()
    };
    if let Some(image) = vector.int("DISK_ID").and_then(|id| images.get(&id)) {
        let image = image.to_string();
        return Some(std::iter::once(("IMAGE_ID", image.as_str())).chain(rest.iter()).collect());
    }
    let from_image = vector.get("IMAGE_ID").is_some() || vector.get("IMAGE").is_some();
    match kind.as_str() {
        "SWAP" | "FS" => Some(with(&["TYPE", "SIZE"])),
        kind if kind.ends_with("CDROM") || kind.ends_with("CD_ROM") => {
            let by_id = vector.get("IMAGE_ID").is_some();
            Some(if by_id { with(&["IMAGE_ID"]) } else { with(&["IMAGE", "IMAGE_UNAME"]) })
        }
        _ if from_image => None,
        // Volatile without a TYPE: the default is a plain data disk.
        _ => Some(with(&["SIZE"])),
    }
}

fn nic(vector: &Vector, options: &RestoreOptions) -> Vector {
    let mut nic = without(vector, |key| NIC.contains(&key));
    // At most one of IP, IP6 and MAC may be a wish, so the first of them that is there stays and decides.
    let has = |key| vector.get(key).is_some_and(|value| !value.is_empty());
    let dropped: &[&str] = if options.no_ip {
        &ADDRESSES
    } else if has("IP") {
        &["IP6", "IP6_GLOBAL", "IP6_LINK", "IP6_ULA", "MAC"]
    } else if has("IP6") {
        &["MAC"]
    } else {
        &[]
    };
    for key in dropped {
        nic.remove(key);
    }
    nic
}

fn nic_alias(vector: &Vector, options: &RestoreOptions, parents: &BTreeMap<String, String>) -> Vector {
    let mut alias = nic(vector, options);
    if let Some(parent) = vector.get("PARENT").and_then(|parent| parents.get(parent)) {
        alias.set("PARENT", parent.as_str());
    }
    alias
}

/// From the old name of each NIC to the one that it will be given: NICs lose their names and are numbered anew from 0.
fn alias_parents(template: &Template) -> BTreeMap<String, String> {
    let names = template.vectors("NIC").enumerate();
    names.filter_map(|(number, nic)| Some((nic.get("NAME")?.to_owned(), format!("NIC{number}")))).collect()
}

fn pci(vector: &Vector, options: &RestoreOptions) -> Option<Vector> {
    let is_nic = vector.get("TYPE").is_some_and(|kind| kind.eq_ignore_ascii_case("NIC"));
    if is_nic && options.no_nic {
        return None;
    }
    Some(without(&nic(vector, options), |key| PCI.contains(&key)))
}

fn user_keys(backup_config: Option<&Vector>) -> Vector {
    let Some(config) = backup_config else { return Vector::new() };
    without(config, |key| !super::config::USER_KEYS.contains(&key))
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
