//! Takes typed values out of a parsed `oned.conf`, with their defaults and bounds.
//!
//! Invariant: each attribute that is asked for is remembered with the value in use, so that the list of known attributes
//! and the document of `one.system.config` cannot differ from what is really read.

use super::{ConfigError, Shown};
use chrono_tz::Tz;
use one_core::template::{Template, Value, Vector};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Takes attributes out of the template one by one and remembers what was asked for.
pub(super) struct Reader<'a> {
    pub template: &'a Template,
    pub text: &'a str,
    pub shown: Vec<(&'static str, Shown)>,
    pub warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    /// The value of an attribute, if it is there and not empty.
    fn scalar(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        let first = self.template.attributes().iter().find(|attribute| attribute.name == name);
        match first.map(|attribute| &attribute.value) {
            None => Ok(None),
            Some(Value::Scalar(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(Value::Vector(_)) => Err(self.wrong(name, "[ … ]", "a single value")),
        }
    }

    fn wrong(&self, name: &str, value: &str, allowed: impl Into<String>) -> ConfigError {
        let attribute = name.split('/').next().unwrap_or(name);
        let line = line_of(self.text, attribute).unwrap_or(0);
        ConfigError::Wrong { name: name.to_owned(), line, value: value.to_owned(), allowed: allowed.into() }
    }

    fn show(&mut self, name: &'static str, value: impl Into<String>) {
        self.shown.push((name, Shown::Scalar(value.into())));
    }

    pub fn number(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let value = match self.scalar(name)? {
            None => default,
            Some(text) => self.within(name, text, &range)?,
        };
        self.show(name, value.to_string());
        Ok(value)
    }

    fn within(&self, name: &str, text: &str, range: &RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let value = text.parse().ok().filter(|value| range.contains(value));
        value.ok_or_else(|| self.wrong(name, text, format!("a number from {} to {}", range.start(), range.end())))
    }

    pub fn size(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> Result<usize, ConfigError> {
        // The ranges in use are far below any usize.
        Ok(usize::try_from(self.number(name, default, range)?).unwrap_or(usize::MAX))
    }

    pub fn small(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> Result<u32, ConfigError> {
        Ok(u32::try_from(self.number(name, default, range)?).unwrap_or(u32::MAX))
    }

    pub fn seconds(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        self.number(name, default, range).map(Duration::from_secs)
    }

    /// 0 is no limit.
    pub fn limit(&mut self, name: &'static str, default: u64) -> Result<Option<u32>, ConfigError> {
        Ok(Some(self.small(name, default, 0..=100_000)?).filter(|limit| *limit > 0))
    }

    pub fn yes(&mut self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        let value = match self.scalar(name)? {
            None => default,
            Some(text) if text.eq_ignore_ascii_case("YES") => true,
            Some(text) if text.eq_ignore_ascii_case("NO") => false,
            Some(text) => return Err(self.wrong(name, text, "YES or NO")),
        };
        self.show(name, if value { "YES" } else { "NO" });
        Ok(value)
    }

    pub fn one_of(&mut self, name: &'static str, default: &str, allowed: &[&str]) -> Result<String, ConfigError> {
        let value = self.scalar(name)?.unwrap_or(default);
        if !allowed.contains(&value) {
            return Err(self.wrong(name, value, format!("one of {}", allowed.join(", "))));
        }
        let value = value.to_owned();
        self.show(name, value.clone());
        Ok(value)
    }

    pub fn folder(&mut self, name: &'static str, default: &Path) -> Result<PathBuf, ConfigError> {
        let value = self.scalar(name)?.map_or_else(|| default.to_owned(), PathBuf::from);
        if !value.is_absolute() {
            return Err(self.wrong(name, &value.to_string_lossy(), "an absolute path"));
        }
        self.show(name, value.to_string_lossy());
        Ok(value)
    }

    /// Several folders, separated by blanks, as datastore templates have them.
    pub fn folders(&mut self, name: &'static str, default: &str) -> Result<Vec<PathBuf>, ConfigError> {
        let text = self.scalar(name)?.unwrap_or(default);
        let folders: Vec<PathBuf> = text.split_whitespace().map(PathBuf::from).collect();
        if let Some(wrong) = folders.iter().find(|folder| !folder.is_absolute()) {
            return Err(self.wrong(name, &wrong.to_string_lossy(), "absolute paths separated by blanks"));
        }
        let text = text.to_owned();
        self.show(name, text);
        Ok(folders)
    }

    pub fn umask(&mut self) -> Result<u32, ConfigError> {
        const NAME: &str = "DEFAULT_UMASK";
        let text = self.scalar(NAME)?.unwrap_or("177");
        let digits = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let value = u32::from_str_radix(text, 8).ok().filter(|value| digits && *value <= 0o777);
        let value = value.ok_or_else(|| self.wrong(NAME, text, "three octal digits, as 177"))?;
        self.show(NAME, format!("{value:03o}"));
        Ok(value)
    }

    pub fn listen(&mut self, command_line: Option<SocketAddr>) -> Result<SocketAddr, ConfigError> {
        const NAME: &str = "LISTEN_ADDRESS";
        let written = match self.scalar(NAME)? {
            None | Some("localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(text) => text.parse().map_err(|_| self.wrong(NAME, text, "an IP address, as 127.0.0.1 or ::"))?,
        };
        let port = match self.scalar("PORT")? {
            None => 2633,
            Some(text) => self.within("PORT", text, &(0..=65_535))?,
        };
        let listen = command_line.unwrap_or_else(|| SocketAddr::new(written, u16::try_from(port).unwrap_or(2633)));
        self.show(NAME, listen.ip().to_string());
        self.show("PORT", listen.port().to_string());
        Ok(listen)
    }

    pub fn timezone(&mut self) -> Result<Tz, ConfigError> {
        const NAME: &str = "TIMEZONE";
        let zone = match self.scalar(NAME)? {
            Some(text) => text
                .parse()
                .map_err(|_| self.wrong(NAME, text, "a name of the time zone database, as Europe/Berlin"))?,
            None => system_zone().unwrap_or_else(|name| {
                self.warnings.push(format!("The system's time zone \"{name}\" is not known; UTC is used. Set {NAME}."));
                Tz::UTC
            }),
        };
        self.show(NAME, zone.name());
        Ok(zone)
    }

    pub fn debug_level(&mut self) -> Result<u8, ConfigError> {
        let attribute = self.template.attributes().iter().find(|attribute| attribute.name == "LOG");
        let log = match attribute.map(|attribute| &attribute.value) {
            None => None,
            Some(Value::Vector(log)) => Some(log),
            Some(Value::Scalar(text)) => {
                return Err(self.wrong("LOG", text, "a vector, as [ DEBUG_LEVEL = 3 ]"));
            }
        };
        let level = match log.and_then(|log| log.get("DEBUG_LEVEL")) {
            None => 3,
            Some(text) => self.within("LOG/DEBUG_LEVEL", text, &(0..=5))?,
        };
        for (key, _) in log.into_iter().flat_map(Vector::iter) {
            // SYSTEM chooses syslog in the original; stderr and the file are always written here.
            if !matches!(key, "DEBUG_LEVEL" | "SYSTEM") {
                self.warnings.push(format!("LOG/{key} is not used."));
            }
        }
        let pairs = vec![("DEBUG_LEVEL", level.to_string()), ("SYSTEM", "file".to_owned())];
        self.shown.push(("LOG", Shown::Vector(pairs)));
        Ok(u8::try_from(level).unwrap_or(3))
    }

    pub fn warn_of_the_rest(&mut self) {
        let known: BTreeSet<&str> = self.shown.iter().map(|(name, _)| *name).collect();
        let mut seen = BTreeSet::new();
        for attribute in self.template.attributes() {
            let name = attribute.name.as_str();
            let first = seen.insert(name);
            let line = line_of(self.text, name).map_or_else(String::new, |line| format!(" (line {line})"));
            if !known.contains(name) && first {
                self.warnings.push(format!("{name}{line} is not an attribute of this daemon and is not used."));
            } else if known.contains(name) && !first {
                self.warnings.push(format!("{name} is set more than once; the first{line} is used."));
            }
        }
    }
}

/// The first line (from 1) that sets an attribute.
pub(super) fn line_of(text: &str, name: &str) -> Option<usize> {
    let sets = |line: &str| {
        let line = line.trim_start();
        let head = line.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name));
        head && line.get(name.len()..).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    text.lines().position(sets).map(|index| index + 1)
}

/// The zone of the machine: TZ, else where /etc/localtime points to, else UTC. A name that is not known is the error.
fn system_zone() -> Result<Tz, String> {
    let from_link = || {
        let target = std::fs::read_link("/etc/localtime").ok()?;
        let target = target.to_string_lossy().into_owned();
        target.split_once("zoneinfo/").map(|(_, name)| name.to_owned())
    };
    let from_environment = std::env::var("TZ").ok().map(|name| name.trim_start_matches(':').to_owned());
    match from_environment.filter(|name| !name.is_empty()).or_else(from_link) {
        None => Ok(Tz::UTC),
        Some(name) => name.parse().map_err(|_| name),
    }
}
