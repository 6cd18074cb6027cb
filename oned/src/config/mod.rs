//! `oned.conf`: what can be set, within which bounds, and what holds if it is not set.
//!
//! The file is written in the project's own template grammar. Attributes that OpenNebula has too keep their names and
//! units. An attribute we do not know gives a warning with its line (an `oned.conf` of the original can be used as it
//! is); a value we do not understand stops the start, for running with another value than the operator wrote is worse.
//!
//! Invariants: no attribute known here holds a secret, and attributes that are not known here (of the original: `DB`
//! with its `PASSWD`) are neither logged with their values nor shown in the document.

mod reader;

use chrono_tz::Tz;
use one_core::template::{ParseError, Template};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reader::Reader;

/// Largest `oned.conf` that is read, in bytes.
const FILE_BYTES: u64 = 1 << 20;

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
    /// The file is not in the template grammar.
    #[error("The configuration {} is not readable. {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: ParseError,
    },
    /// An attribute has a value that it cannot have.
    #[error("{name} in the configuration (line {line}) is \"{value}\", but must be {allowed}.")]
    Wrong {
        /// The attribute; `LOG/DEBUG_LEVEL` for one inside a vector.
        name: String,
        /// Line in the file, from 1; 0 if unknown.
        line: usize,
        /// The value as written.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`: replaces LISTEN_ADDRESS and PORT.
    pub listen: Option<SocketAddr>,
    /// The state directory, under which DATASTORE_LOCATION lies if not set.
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
    /// TIMEZONE: in which the days and hours of schedules are meant.
    pub timezone: Tz,
    /// DATASTORE_LOCATION: the folder with a sub-folder per datastore.
    pub datastore_location: PathBuf,
    /// DATASTORE_CAPACITY_CHECK: whether a full datastore refuses new images and backups.
    pub datastore_capacity_check: bool,
    /// SAFE_DIRS: folders that images may be made from, although under a restricted one.
    pub safe_dirs: Vec<PathBuf>,
    /// RESTRICTED_DIRS: folders that images may not be made from.
    pub restricted_dirs: Vec<PathBuf>,
    /// DEFAULT_DEVICE_PREFIX: of disks without one.
    pub default_device_prefix: String,
    /// DEFAULT_UMASK: bits (0 to 0o777) that new objects do not get.
    pub default_umask: u32,
    /// ENABLE_OTHER_PERMISSIONS: whether owners may give rights to everybody.
    pub enable_other_permissions: bool,
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

/// Attributes of the published schema of `one.system.config`; the others are ours alone, and not in the document.
const OURS: [&str; 5] = ["SHUTDOWN_TIMEOUT", "SCRATCH_RESERVE_MB", "TIMEZONE", "SAFE_DIRS", "RESTRICTED_DIRS"];

impl Config {
    /// Reads the file, or takes the defaults without one.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, or a value is out of bounds.
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
        let mut reader = Reader { template: &template, text, shown: Vec::new(), warnings: Vec::new() };
        let r = &mut reader;
        let config = Self {
            listen: r.listen(overrides.listen)?,
            max_conn: r.size("MAX_CONN", 128, 1..=10_000)?,
            max_conn_backlog: r.small("MAX_CONN_BACKLOG", 128, 1..=65_535)?,
            keepalive_timeout: r.seconds("KEEPALIVE_TIMEOUT", 15, 1..=3_600)?,
            keepalive_max_conn: r.size("KEEPALIVE_MAX_CONN", 1_000, 1..=1_000_000)?,
            timeout: r.seconds("TIMEOUT", 15, 1..=3_600)?,
            message_size: r.size("MESSAGE_SIZE", 64 << 20, 65_536..=1 << 30)?,
            shutdown_timeout: r.seconds("SHUTDOWN_TIMEOUT", 30, 1..=3_600)?,
            manager_timer: r.seconds("MANAGER_TIMER", 15, 1..=3_600)?,
            monitoring_interval_host: r.seconds("MONITORING_INTERVAL_HOST", 60, 1..=86_400)?,
            monitoring_interval_datastore: r.seconds("MONITORING_INTERVAL_DATASTORE", 300, 1..=86_400)?,
            max_backups: r.limit("MAX_BACKUPS", 5)?,
            max_backups_host: r.limit("MAX_BACKUPS_HOST", 2)?,
            scratch_reserve_mb: r.number("SCRATCH_RESERVE_MB", 1_024, 0..=1 << 30)?,
            timezone: r.timezone()?,
            datastore_location: r.folder("DATASTORE_LOCATION", &overrides.state_dir.join("datastores"))?,
            datastore_capacity_check: r.yes("DATASTORE_CAPACITY_CHECK", true)?,
            safe_dirs: r.folders("SAFE_DIRS", "/var/tmp")?,
            restricted_dirs: r.folders("RESTRICTED_DIRS", "/")?,
            default_device_prefix: r.one_of("DEFAULT_DEVICE_PREFIX", "vd", &["hd", "sd", "vd", "xvd"])?,
            default_umask: r.umask()?,
            enable_other_permissions: r.yes("ENABLE_OTHER_PERMISSIONS", true)?,
            debug_level: r.debug_level()?,
            warnings: Vec::new(),
            shown: Vec::new(),
        };
        reader.warn_of_the_rest();
        Ok(Self { warnings: reader.warnings, shown: reader.shown, ..config })
    }

    /// The document of `one.system.config`: OPENNEBULA_CONFIGURATION with the values in use, sorted by name, as the
    /// published schema has it. Attributes that only this daemon has are left out, since the schema is closed.
    #[must_use]
    pub fn to_document(&self) -> String {
        let mut shown: Vec<_> = self.shown.iter().filter(|(name, _)| !OURS.contains(name)).collect();
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

fn element(xml: &mut String, name: &str, text: &str) {
    let text = text.replace("]]>", "]]]]><![CDATA[>");
    let _ = write!(xml, "<{name}><![CDATA[{text}]]></{name}>");
}

#[cfg(test)]
mod tests {
    use super::reader::line_of;
    use super::*;

    fn overrides() -> Overrides {
        Overrides { listen: None, state_dir: PathBuf::from("/var/lib/one") }
    }

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("oned.conf"), &overrides())
    }

    #[test]
    fn the_example_file_holds_every_attribute_with_its_default() {
        let example = include_str!("../../../share/oned.conf");
        let bare: String =
            example.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
        let config = read(&bare).unwrap();
        let default = read("TIMEZONE = UTC\n").unwrap();
        assert_eq!(config.warnings, Vec::<String>::new());
        assert_eq!(config, default);
        for (name, _) in &config.shown {
            assert!(line_of(&bare, name).is_some(), "{name} is missing in the example");
        }
    }

    #[test]
    fn every_wrong_value_is_refused_with_its_name_line_and_what_is_allowed() {
        let cases = [
            ("PORT = 70000", "PORT", "0 to 65535"),
            ("PORT = [ A = 1 ]", "PORT", "single value"),
            ("LISTEN_ADDRESS = somewhere", "LISTEN_ADDRESS", "IP address"),
            ("MAX_CONN = 0", "MAX_CONN", "1 to 10000"),
            ("MAX_BACKUPS = -1", "MAX_BACKUPS", "0 to"),
            ("MANAGER_TIMER = often", "MANAGER_TIMER", "1 to 3600"),
            ("DATASTORE_LOCATION = here", "DATASTORE_LOCATION", "absolute"),
            ("SAFE_DIRS = \"/a b\"", "SAFE_DIRS", "absolute"),
            ("LOG = 3", "LOG", "vector"),
            ("LOG = [ DEBUG_LEVEL = 9 ]", "LOG/DEBUG_LEVEL", "0 to 5"),
            ("DEFAULT_DEVICE_PREFIX = zd", "DEFAULT_DEVICE_PREFIX", "hd, sd, vd, xvd"),
            ("DEFAULT_UMASK = 789", "DEFAULT_UMASK", "octal"),
            ("DEFAULT_UMASK = 1777", "DEFAULT_UMASK", "octal"),
            ("ENABLE_OTHER_PERMISSIONS = 1", "ENABLE_OTHER_PERMISSIONS", "YES or NO"),
            ("TIMEZONE = Nowhere/City", "TIMEZONE", "Europe/Berlin"),
        ];
        for (text, name, allowed) in cases {
            let error = read(&format!("# first\n{text}\n")).unwrap_err().to_string();
            assert!(
                error.starts_with(name) && error.contains("(line 2)") && error.contains(allowed),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn unknown_and_repeated_attributes_are_warned_of_without_their_values() {
        let config =
            read("TIMEZONE = UTC\nDB = [ PASSWD = hidden ]\nPORT = 1\nport = 2\nLOG = [ OTHER = 1 ]\n").unwrap();
        let warnings = config.warnings.join("\n");
        assert!(warnings.contains("DB (line 2)") && warnings.contains("PORT is set more than once"), "{warnings}");
        assert!(warnings.contains("LOG/OTHER") && !warnings.contains("hidden"), "{warnings}");
        assert_eq!(config.listen.port(), 1);
        assert!(!config.to_document().contains("hidden"));
    }

    #[test]
    fn zero_backups_at_a_time_means_no_limit() {
        let config = read("MAX_BACKUPS = 0\n").unwrap();
        assert_eq!((config.max_backups, config.max_backups_host), (None, Some(2)));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let listen = "127.0.0.1:0".parse().unwrap();
        let overrides = Overrides { listen: Some(listen), ..overrides() };
        let config = Config::parse("PORT = 5\nLISTEN_ADDRESS = \"::\"\n", Path::new("x"), &overrides).unwrap();
        assert_eq!(config.listen, listen);
    }

    #[test]
    fn the_document_is_sorted_and_holds_published_attributes_only() {
        let xml = read("").unwrap().to_document();
        assert!(xml.contains("<LOG><DEBUG_LEVEL><![CDATA[3]]></DEBUG_LEVEL><SYSTEM>"), "{xml}");
        assert!(xml.find("<DEFAULT_UMASK>").unwrap() < xml.find("<KEEPALIVE_TIMEOUT>").unwrap());
        assert!(!xml.contains("TIMEZONE"), "{xml}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Config::load(Some(Path::new("/nonexistent/oned.conf")), &overrides()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/oned.conf"));
    }
}
