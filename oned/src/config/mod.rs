//! `oned.conf`: what can be set, within which bounds, and what holds if it is not set.
//!
//! The file is written in the project's own template grammar. Settings that OpenNebula has too keep their names and
//! units. Settings of OpenNebula that mean nothing here and settings that nobody knows are reported and not used, so that
//! an `oned.conf` of the original can be used as it is; a value that is not understood stops the start, for running with
//! another value than the operator wrote is worse. All of these are told at once, with line and column.
//!
//! Invariants: no setting known here holds a secret (TLS_KEY names a file), and settings that are not known here (of the
//! original: `DB` with its `PASSWD`) are neither logged with their values nor shown in the document.

mod foreign;
mod lists;
mod place;
mod reader;
mod values;

use chrono_tz::Tz;
use one_core::lifecycle::OperationLists;
use one_core::refusal::{ObjectKind, Right};
use one_core::template::{ParseError, Template};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use lists::{AttributeList, AttributePath};
pub use place::Spot;
use reader::Reader;
pub use values::{ListOrder, TlsFiles, VdcAcl, VdcRights, VlanIds};

/// Largest `oned.conf` that is read, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// Characters of a wrong value that are repeated.
const VALUE_CHARS: usize = 80;

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("Cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What stood in the way.
        source: std::io::Error,
    },
    /// The file is not in the template grammar. Only the first mistake is known: what follows it cannot be told apart.
    #[error("The configuration {} is not readable. {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: ParseError,
    },
    /// Settings have values that they cannot have.
    #[error("The configuration {} cannot be used. {}", path.display(), sentences(problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// All of them, in the order of the example file.
        problems: Vec<Problem>,
    },
}

/// A value that a setting cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting; `LOG/DEBUG_LEVEL` for one inside a vector.
    pub name: String,
    /// Where the value stands; `None` when the file is XML.
    pub spot: Option<Spot>,
    /// The value as written, its first characters.
    pub value: String,
    /// What it must be.
    pub allowed: String,
}

impl Problem {
    fn new(name: &str, spot: Option<Spot>, value: &str, allowed: impl Into<String>) -> Self {
        let value = value.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        Self { name: name.to_owned(), spot, value: value.take(VALUE_CHARS).collect(), allowed: allowed.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(Spot { line, column }) = self.spot {
            write!(f, " (line {line}, column {column})")?;
        }
        write!(f, " is \"{}\", but must be {}.", self.value, self.allowed)
    }
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`: replaces LISTEN_ADDRESS and PORT.
    pub listen: Option<SocketAddr>,
    /// The state directory, under which DATASTORE_LOCATION and DUMMY_DIRECTORY lie if not set.
    pub state_dir: PathBuf,
}

/// The settings of a daemon; fields are in the order of the example file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// LISTEN_ADDRESS and PORT; port 0 is any free one.
    pub listen: SocketAddr,
    /// MAX_CONN: connections at a time.
    pub max_conn: usize,
    /// MAX_CONN_BACKLOG: connections that wait in the kernel.
    pub max_conn_backlog: u32,
    /// KEEPALIVE_TIMEOUT: how long an idle connection stays.
    pub keepalive_timeout: Duration,
    /// KEEPALIVE_MAX_CONN: calls on one connection.
    pub keepalive_max_conn: usize,
    /// TIMEOUT: how long a client may stall while it sends a call or takes an answer.
    pub timeout: Duration,
    /// MESSAGE_SIZE: largest call in bytes.
    pub message_size: usize,
    /// TLS_CERTIFICATE and TLS_KEY: the door speaks https with them, plain http without.
    pub tls: Option<TlsFiles>,
    /// METRICS: whether there are figures for monitoring at `/metrics`.
    pub metrics: bool,
    /// SESSION_EXPIRATION_TIME: how long a successful login need not be checked again; zero is never.
    pub session_expiration_time: Duration,
    /// API_LIST_ORDER: order of pools.
    pub api_list_order: ListOrder,
    /// SHUTDOWN_TIMEOUT: how long running calls may take after the signal to end.
    pub shutdown_timeout: Duration,
    /// MANAGER_TIMER: how often due work is looked for.
    pub manager_timer: Duration,
    /// MONITORING_INTERVAL_HOST: how often hosts and VMs are looked at.
    pub monitoring_interval_host: Duration,
    /// MONITORING_INTERVAL_DATASTORE: how often the space of datastores is measured.
    pub monitoring_interval_datastore: Duration,
    /// MAX_BACKUPS: VMs in backup at a time in the whole cloud; `None` is no limit (0 in the file).
    pub max_backups: Option<u32>,
    /// MAX_BACKUPS_HOST: the same for one host.
    pub max_backups_host: Option<u32>,
    /// SCRATCH_RESERVE_MB: space on the host's scratch disk that a backup leaves free; it is given up before.
    pub scratch_reserve_mb: u64,
    /// BACKUP_COMPARE_EVERY: every how many runs of a chain whole disks are read and compared; 0 is never.
    pub backup_compare_every: u32,
    /// TIMEZONE: in which the days and hours of schedules are meant.
    pub timezone: Tz,
    /// DATASTORE_LOCATION: the folder with a sub-folder per datastore.
    pub datastore_location: PathBuf,
    /// MOUNT_COMMAND: what stands before mount and umount, as `sudo -n`; may be empty.
    pub mount_command: Vec<String>,
    /// DATASTORE_CAPACITY_CHECK: whether a full datastore refuses new images and backups.
    pub datastore_capacity_check: bool,
    /// SAFE_DIRS: folders that images may be made from, although under a restricted one.
    pub safe_dirs: Vec<PathBuf>,
    /// RESTRICTED_DIRS: folders that images may not be made from.
    pub restricted_dirs: Vec<PathBuf>,
    /// DEFAULT_DEVICE_PREFIX: of disks without one.
    pub default_device_prefix: String,
    /// DEFAULT_IMAGE_TYPE: of images without one: OS, CDROM or DATABLOCK.
    pub default_image_type: String,
    /// NETWORK_SIZE: addresses of an address range without a size.
    pub network_size: u32,
    /// MAC_PREFIX: the first two bytes of addresses that are made here.
    pub mac_prefix: [u8; 2],
    /// VLAN_IDS: which ids automatic networks take.
    pub vlan_ids: VlanIds,
    /// DUMMY_DRIVERS: whether hosts and datastores may have the driver `dummy`, which does nothing real.
    pub dummy_drivers: bool,
    /// DUMMY_DIRECTORY: where the dummy drivers keep what they pretend.
    pub dummy_directory: PathBuf,
    /// DEFAULT_UMASK: bits (0 to 0o777) that new objects do not get.
    pub default_umask: u32,
    /// ENABLE_OTHER_PERMISSIONS: whether owners may give rights to everybody.
    pub enable_other_permissions: bool,
    /// VM_USE_OPERATIONS, VM_MANAGE_OPERATIONS, VM_ADMIN_OPERATIONS: which right each operation on a VM asks for. Holds
    /// every operation.
    pub vm_operations: OperationLists,
    /// DEFAULT_VDC_…_ACL: rules that a VDC makes.
    pub vdc_acl: VdcAcl,
    /// …_RESTRICTED_ATTR by kind of object; see [`Config::restricted`].
    pub restricted: BTreeMap<ObjectKind, AttributeList>,
    /// …_ENCRYPTED_ATTR by kind of object; see [`Config::encrypted`].
    pub encrypted: BTreeMap<ObjectKind, AttributeList>,
    /// LOG/DEBUG_LEVEL: 0 errors, 1 warnings, 2 information, 3 each call, 4 and 5 all.
    pub debug_level: u8,
    /// Sentences about attributes that are not used.
    pub warnings: Vec<String>,
    /// What `to_document` shows: name and value, or name and pairs.
    shown: Vec<(&'static str, Shown)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Scalar(String),
    Vector(Vec<(&'static str, String)>),
}

/// Settings beyond the published schema of `one.system.config`; these are ours alone, and not in the document.
const OURS: [&str; 12] = [
    "BACKUP_COMPARE_EVERY",
    "DUMMY_DIRECTORY",
    "DUMMY_DRIVERS",
    "METRICS",
    "MOUNT_COMMAND",
    "RESTRICTED_DIRS",
    "SAFE_DIRS",
    "SCRATCH_RESERVE_MB",
    "SHUTDOWN_TIMEOUT",
    "TIMEZONE",
    "TLS_CERTIFICATE",
    "TLS_KEY",
];

/// What kinds without a list have.
static NO_ATTRIBUTES: AttributeList = AttributeList::EMPTY;

impl Config {
    /// Reads the file, or takes the defaults without one.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, or values are out of bounds.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Self::parse("", Path::new("oned.conf"), overrides);
        };
        let read = || {
            let size = std::fs::metadata(path)?.len();
            if size > FILE_BYTES {
                return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES} bytes")));
            }
            std::fs::read_to_string(path)
        };
        let text = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path, overrides)
    }

    /// Reads a text; `path` is only for error texts.
    fn parse(text: &str, path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let template = Template::parse(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        let mut reader = Reader::new(&template, text);
        let r = &mut reader;
        let config = Self {
            listen: r.listen(overrides.listen),
            max_conn: r.size("MAX_CONN", 128, 1..=10_000),
            max_conn_backlog: r.small("MAX_CONN_BACKLOG", 128, 1..=65_535),
            keepalive_timeout: r.seconds("KEEPALIVE_TIMEOUT", 15, 1..=3_600),
            keepalive_max_conn: r.size("KEEPALIVE_MAX_CONN", 1_000, 1..=1_000_000),
            timeout: r.seconds("TIMEOUT", 15, 1..=3_600),
            message_size: r.size("MESSAGE_SIZE", 64 << 20, 65_536..=1 << 30),
            tls: r.tls(),
            metrics: r.yes("METRICS", true),
            session_expiration_time: r.seconds("SESSION_EXPIRATION_TIME", 900, 0..=31_536_000),
            api_list_order: r.order(),
            shutdown_timeout: r.seconds("SHUTDOWN_TIMEOUT", 30, 1..=3_600),
            manager_timer: r.seconds("MANAGER_TIMER", 15, 1..=3_600),
            monitoring_interval_host: r.seconds("MONITORING_INTERVAL_HOST", 60, 1..=86_400),
            monitoring_interval_datastore: r.seconds("MONITORING_INTERVAL_DATASTORE", 300, 1..=86_400),
            max_backups: r.limit("MAX_BACKUPS", 5),
            max_backups_host: r.limit("MAX_BACKUPS_HOST", 2),
            scratch_reserve_mb: r.number("SCRATCH_RESERVE_MB", 1_024, 0..=1 << 30),
            backup_compare_every: r.small("BACKUP_COMPARE_EVERY", 14, 0..=10_000),
            timezone: r.timezone(),
            datastore_location: r.folder("DATASTORE_LOCATION", &overrides.state_dir.join("datastores")),
            mount_command: r.command("MOUNT_COMMAND"),
            datastore_capacity_check: r.yes("DATASTORE_CAPACITY_CHECK", true),
            safe_dirs: r.folders("SAFE_DIRS", "/var/tmp"),
            restricted_dirs: r.folders("RESTRICTED_DIRS", "/"),
            default_device_prefix: r.one_of("DEFAULT_DEVICE_PREFIX", "vd", &["hd", "sd", "vd", "xvd"]).to_owned(),
            default_image_type: r.one_of("DEFAULT_IMAGE_TYPE", "OS", &["OS", "CDROM", "DATABLOCK"]).to_owned(),
            network_size: r.small("NETWORK_SIZE", 254, 1..=1 << 24),
            mac_prefix: r.mac_prefix(),
            vlan_ids: r.vlan_ids(),
            dummy_drivers: r.yes("DUMMY_DRIVERS", false),
            dummy_directory: r.folder("DUMMY_DIRECTORY", &overrides.state_dir.join("dummy")),
            default_umask: r.umask(),
            enable_other_permissions: r.yes("ENABLE_OTHER_PERMISSIONS", true),
            vm_operations: r.operations(),
            vdc_acl: vdc_acl(r),
            restricted: restricted(r),
            encrypted: encrypted(r),
            debug_level: r.debug_level(),
            warnings: Vec::new(),
            shown: Vec::new(),
        };
        reader.warn_of_the_rest();
        let Reader { warnings, shown, problems, .. } = reader;
        if !problems.is_empty() {
            return Err(ConfigError::Wrong { path: path.to_owned(), problems });
        }
        Ok(Self { warnings, shown, ..config })
    }

    /// Attributes of that kind of object that only administrators may set. For templates of VMs use [`ObjectKind::Vm`].
    #[must_use]
    pub fn restricted(&self, kind: ObjectKind) -> &AttributeList {
        self.restricted.get(&kind).unwrap_or(&NO_ATTRIBUTES)
    }

    /// Attributes of that kind of object that are stored sealed.
    #[must_use]
    pub fn encrypted(&self, kind: ObjectKind) -> &AttributeList {
        self.encrypted.get(&kind).unwrap_or(&NO_ATTRIBUTES)
    }

    /// The document of `one.system.config`: OPENNEBULA_CONFIGURATION with the values in use, sorted by name, as the
    /// published schema has it. Settings that only this daemon has are left out, since the schema is closed.
    #[must_use]
    pub fn to_document(&self) -> String {
        let mut shown: Vec<_> = self.shown.iter().filter(|(name, _)| !OURS.contains(name)).collect();
        // Stable: the entries of a list keep their order.
        shown.sort_by_key(|(name, _)| *name);
        let mut xml = String::from("<OPENNEBULA_CONFIGURATION>");
        for (name, value) in shown {
            match value {
                Shown::Scalar(text) => element(&mut xml, name, text),
                Shown::Vector(pairs) => {
                    // Writing to a String cannot fail.
                    let _ = write!(xml, "<{name}>");
                    pairs.iter().for_each(|(key, text)| element(&mut xml, key, text));
                    let _ = write!(xml, "</{name}>");
                }
            }
        }
        xml.push_str("</OPENNEBULA_CONFIGURATION>");
        xml
    }
}

fn vdc_acl(r: &mut Reader<'_>) -> VdcAcl {
    VdcAcl {
        host: r.vdc_rights("DEFAULT_VDC_HOST_ACL", Right::Manage),
        vnet: r.vdc_rights("DEFAULT_VDC_VNET_ACL", Right::Use),
        datastore: r.vdc_rights("DEFAULT_VDC_DATASTORE_ACL", Right::Use),
        cluster_host: r.vdc_rights("DEFAULT_VDC_CLUSTER_HOST_ACL", Right::Manage),
        cluster_net: r.vdc_rights("DEFAULT_VDC_CLUSTER_NET_ACL", Right::Use),
        cluster_datastore: r.vdc_rights("DEFAULT_VDC_CLUSTER_DATASTORE_ACL", Right::Use),
    }
}

fn restricted(r: &mut Reader<'_>) -> BTreeMap<ObjectKind, AttributeList> {
    [
        (ObjectKind::Vm, "VM_RESTRICTED_ATTR", lists::VM_RESTRICTED, lists::VM_RESTRICTED_ALWAYS),
        (ObjectKind::Image, "IMAGE_RESTRICTED_ATTR", lists::IMAGE_RESTRICTED, &[]),
        (ObjectKind::Network, "VNET_RESTRICTED_ATTR", lists::VNET_RESTRICTED, &[]),
        (ObjectKind::User, "USER_RESTRICTED_ATTR", lists::OPERATIONS, &[]),
        (ObjectKind::Group, "GROUP_RESTRICTED_ATTR", lists::OPERATIONS, &[]),
    ]
    .into_iter()
    .map(|(kind, name, default, always)| (kind, r.attributes(name, default, always)))
    .collect()
}

fn encrypted(r: &mut Reader<'_>) -> BTreeMap<ObjectKind, AttributeList> {
    [
        (ObjectKind::Datastore, "DATASTORE_ENCRYPTED_ATTR", lists::DATASTORE_ENCRYPTED),
        (ObjectKind::Host, "HOST_ENCRYPTED_ATTR", lists::HOST_ENCRYPTED),
        (ObjectKind::Vm, "VM_ENCRYPTED_ATTR", lists::VM_ENCRYPTED),
        (ObjectKind::Image, "IMAGE_ENCRYPTED_ATTR", lists::IMAGE_ENCRYPTED),
        (ObjectKind::Document, "DOCUMENT_ENCRYPTED_ATTR", lists::DOCUMENT_ENCRYPTED),
        (ObjectKind::User, "USER_ENCRYPTED_ATTR", lists::USER_ENCRYPTED),
        (ObjectKind::Cluster, "CLUSTER_ENCRYPTED_ATTR", &[]),
        (ObjectKind::Network, "VNET_ENCRYPTED_ATTR", &[]),
    ]
    .into_iter()
    .map(|(kind, name, default)| (kind, r.attributes(name, default, &[])))
    .collect()
}

fn element(xml: &mut String, name: &str, text: &str) {
    let text = text.replace("]]>", "]]]]><![CDATA[>");
    let _ = write!(xml, "<{name}><![CDATA[{text}]]></{name}>");
}

#[cfg(test)]
mod tests;
