//! Takes typed values out of a parsed `oned.conf`, with their defaults and bounds.
//!
//! A wrong value is noted with its place, the default stands in for it, and reading goes on, so that all mistakes are told
//! at once. Invariant: each setting that is asked for is remembered, so the settings that are known cannot differ from
//! those that are read; the document of `one.system.config` shows the values in use.

use super::lists::{AttributeList, AttributePath};
use super::place::{Placed, Spot, places};
use super::values::{ListOrder, TlsFiles, VdcRights, VlanIds, mac_prefix};
use super::{Problem, Shown, foreign};
use chrono_tz::Tz;
use one_core::lifecycle::{OperationLists, VmOperation};
use one_core::refusal::{Refusal, Right};
use one_core::template::{Template, Value, Vector};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value as it is written, and where.
#[derive(Clone, Copy)]
struct Written<'a> {
    text: &'a str,
    spot: Option<Spot>,
}

/// Takes settings out of the template one by one and remembers what was asked for.
pub(super) struct Reader<'a> {
    template: &'a Template,
    /// One per attribute of the template; none where the text is XML.
    places: Vec<Placed>,
    asked: BTreeSet<&'static str>,
    pub shown: Vec<(&'static str, Shown)>,
    pub warnings: Vec<String>,
    pub problems: Vec<Problem>,
}

/// The settings of VM_ADMIN_OPERATIONS and its kin with the right that each is about, the strictest first.
fn operation_lists() -> impl Iterator<Item = (&'static str, Right)> {
    OperationLists::ATTRIBUTES.into_iter().zip([Right::Admin, Right::Manage, Right::Use])
}

impl<'a> Reader<'a> {
    pub fn new(template: &'a Template, text: &str) -> Self {
        let mut places = places(text);
        // The two walks agree on every text of the grammar; where they do not, no place is better than a wrong one.
        let same = places.iter().map(|placed| &placed.name).eq(template.attributes().iter().map(|a| &a.name));
        if !same {
            places.clear();
        }
        let (shown, warnings, problems) = (Vec::new(), Vec::new(), Vec::new());
        Self { template, places, asked: BTreeSet::new(), shown, warnings, problems }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = (&'a Value, Option<&Placed>)> {
        let attributes = self.template.attributes().iter().enumerate().filter(move |(_, a)| a.name == name);
        attributes.map(|(index, attribute)| (&attribute.value, self.places.get(index)))
    }

    /// Notes what is wrong.
    fn wrong(&mut self, name: &str, written: Written<'_>, allowed: impl Into<String>) {
        self.problems.push(Problem::new(name, written.spot, written.text, allowed));
    }

    /// The first value of a setting; an empty one too.
    fn present(&mut self, name: &'static str) -> Option<Written<'a>> {
        self.asked.insert(name);
        let (value, placed) = self.all(name).next()?;
        let spot = placed.map(|placed| placed.value);
        match value {
            Value::Scalar(text) => Some(Written { text, spot }),
            Value::Vector(_) => {
                self.wrong(name, Written { text: "[ … ]", spot }, "a single value");
                None
            }
        }
    }

    /// The first value of a setting, if it is there and not empty.
    fn scalar(&mut self, name: &'static str) -> Option<Written<'a>> {
        self.present(name).filter(|written| !written.text.is_empty())
    }

    /// The first vector of that name with the places of its values.
    fn vector(&mut self, name: &'static str, example: &str) -> Option<(&'a Vector, Vec<(String, Spot)>)> {
        self.asked.insert(name);
        let (value, placed) = self.all(name).next()?;
        match value {
            Value::Vector(vector) => Some((vector, placed.map_or_else(Vec::new, |placed| placed.pairs.clone()))),
            Value::Scalar(text) => {
                let written = Written { text, spot: placed.map(|placed| placed.value) };
                self.wrong(name, written, format!("a vector, as {example}"));
                None
            }
        }
    }

    fn show(&mut self, name: &'static str, value: impl Into<String>) {
        self.shown.push((name, Shown::Scalar(value.into())));
    }

    /// What `read` makes of the setting, or the default.
    fn read<T>(
        &mut self,
        name: &'static str,
        default: T,
        allowed: impl FnOnce() -> String,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let Some(written) = self.scalar(name) else { return default };
        match read(written.text) {
            Some(value) => value,
            None => {
                self.wrong(name, written, allowed());
                default
            }
        }
    }

    pub fn number(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let value = self.read(name, default, || bounds(&range), |text| within(text, &range));
        self.show(name, value.to_string());
        value
    }

    pub fn size(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> usize {
        // The ranges in use are far below any usize.
        usize::try_from(self.number(name, default, range)).unwrap_or(usize::MAX)
    }

    pub fn small(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u32 {
        u32::try_from(self.number(name, default, range)).unwrap_or(u32::MAX)
    }

    pub fn seconds(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(name, default, range))
    }

    /// 0 is no limit.
    pub fn limit(&mut self, name: &'static str, default: u64) -> Option<u32> {
        Some(self.small(name, default, 0..=100_000)).filter(|limit| *limit > 0)
    }

    pub fn yes(&mut self, name: &'static str, default: bool) -> bool {
        let choice = |text: &str| match text.to_ascii_uppercase().as_str() {
            "YES" => Some(true),
            "NO" => Some(false),
            _ => None,
        };
        let value = self.read(name, default, || "YES or NO".to_owned(), choice);
        self.show(name, if value { "YES" } else { "NO" });
        value
    }

    pub fn one_of(&mut self, name: &'static str, default: &'static str, allowed: &[&'static str]) -> &'static str {
        let find = |text: &str| allowed.iter().copied().find(|word| word.eq_ignore_ascii_case(text));
        let value = self.read(name, default, || format!("one of {}", allowed.join(", ")), find);
        self.show(name, value);
        value
    }

    pub fn order(&mut self) -> ListOrder {
        match self.one_of("API_LIST_ORDER", "ASC", &["ASC", "DESC"]) {
            "DESC" => ListOrder::Descending,
            _ => ListOrder::Ascending,
        }
    }

    pub fn folder(&mut self, name: &'static str, default: &Path) -> PathBuf {
        let value = self.read(name, default.to_owned(), || "an absolute path".to_owned(), absolute);
        self.show(name, value.to_string_lossy());
        value
    }

    /// Several folders, separated by blanks, as datastore templates have them.
    pub fn folders(&mut self, name: &'static str, default: &str) -> Vec<PathBuf> {
        let read = |text: &str| text.split_whitespace().map(absolute).collect::<Option<Vec<_>>>();
        let default = default.split_whitespace().map(PathBuf::from).collect();
        let value = self.read(name, default, || "absolute paths separated by blanks".to_owned(), read);
        let words: Vec<_> = value.iter().map(|folder| folder.to_string_lossy()).collect();
        self.show(name, words.join(" "));
        value
    }

    /// A program with its arguments, separated by blanks; empty is none.
    pub fn command(&mut self, name: &'static str) -> Vec<String> {
        let allowed = || "a program and its arguments, separated by blanks, as sudo -n".to_owned();
        let read = |text: &str| {
            let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '"' | '\'' | '\\' | '$' | '`');
            let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
            let program = |word: &String| word.starts_with('/') || !word.contains('/') && !word.starts_with('-');
            (words.len() <= 16 && words.first().is_none_or(program) && words.iter().all(|word| word.chars().all(plain)))
                .then_some(words)
        };
        let value = self.read(name, Vec::new(), allowed, read);
        self.show(name, value.join(" "));
        value
    }

    /// Both files or none.
    pub fn tls(&mut self) -> Option<TlsFiles> {
        let names = ["TLS_CERTIFICATE", "TLS_KEY"];
        let written = names.map(|name| self.scalar(name));
        let files = names.map(|name| {
            let file = self.read(
                name,
                None,
                || "the absolute path of a file in PEM form".to_owned(),
                |text| absolute(text).map(Some),
            );
            self.show(name, file.as_ref().map_or_else(String::new, |file| file.to_string_lossy().into_owned()));
            file
        });
        match (written, files) {
            ([Some(_), Some(_)], [Some(certificate), Some(key)]) => Some(TlsFiles { certificate, key }),
            ([Some(only), None], _) => {
                self.wrong(names[0], only, "set together with TLS_KEY, or not at all");
                None
            }
            ([None, Some(only)], _) => {
                self.wrong(names[1], only, "set together with TLS_CERTIFICATE, or not at all");
                None
            }
            _ => None,
        }
    }

    pub fn umask(&mut self) -> u32 {
        const NAME: &str = "DEFAULT_UMASK";
        let read = |text: &str| {
            let digits = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
            u32::from_str_radix(text, 8).ok().filter(|value| digits && *value <= 0o777)
        };
        let value = self.read(NAME, 0o177, || "three octal digits, as 177".to_owned(), read);
        self.show(NAME, format!("{value:03o}"));
        value
    }

    pub fn listen(&mut self, command_line: Option<SocketAddr>) -> SocketAddr {
        const NAME: &str = "LISTEN_ADDRESS";
        let address = |text: &str| match text {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            text => text.parse().ok(),
        };
        let ports = 0..=65_535;
        let allowed = || "an IP address, as 127.0.0.1 or ::".to_owned();
        let written = self.read(NAME, IpAddr::V4(Ipv4Addr::LOCALHOST), allowed, address);
        let port = self.read("PORT", 2633, || bounds(&ports), |text| within(text, &ports));
        let listen = command_line.unwrap_or_else(|| SocketAddr::new(written, u16::try_from(port).unwrap_or(2633)));
        self.show(NAME, listen.ip().to_string());
        self.show("PORT", listen.port().to_string());
        listen
    }

    pub fn timezone(&mut self) -> Tz {
        const NAME: &str = "TIMEZONE";
        let allowed = || "a name of the time zone database, as Europe/Berlin".to_owned();
        let written = self.read(NAME, None, allowed, |text| text.parse().ok().map(Some));
        let zone = written.unwrap_or_else(|| {
            system_zone().unwrap_or_else(|name| {
                self.warnings.push(format!("The system's time zone \"{name}\" is not known; UTC is used. Set {NAME}."));
                Tz::UTC
            })
        });
        self.show(NAME, zone.name());
        zone
    }

    /// A number inside a vector, or the default.
    fn number_in(
        &mut self,
        name: &str,
        found: Option<&(&'a Vector, Vec<(String, Spot)>)>,
        key: &str,
        default: u64,
        range: &RangeInclusive<u64>,
    ) -> u64 {
        let Some(written) = in_vector(found, key) else { return default };
        within(written.text, range).unwrap_or_else(|| {
            self.wrong(&format!("{name}/{key}"), written, bounds(range));
            default
        })
    }

    /// LOG/DEBUG_LEVEL; LOG/SYSTEM is read too, but what is written where does not depend on it.
    pub fn debug_level(&mut self) -> u8 {
        let log = self.vector("LOG", "[ SYSTEM = file, DEBUG_LEVEL = 3 ]");
        let level = self.number_in("LOG", log.as_ref(), "DEBUG_LEVEL", 3, &(0..=5));
        if let Some(written) = in_vector(log.as_ref(), "SYSTEM") {
            match written.text {
                "file" => {}
                "std" | "syslog" => self.warnings.push(format!(
                    "LOG/SYSTEM = {} is not used: the log goes to oned.log in the state directory and to standard error.",
                    written.text
                )),
                _ => self.wrong("LOG/SYSTEM", written, "one of file, std, syslog"),
            }
        }
        self.unused_keys("LOG", log.as_ref(), &["DEBUG_LEVEL", "SYSTEM"]);
        let pairs = vec![("DEBUG_LEVEL", level.to_string()), ("SYSTEM", "file".to_owned())];
        self.shown.push(("LOG", Shown::Vector(pairs)));
        u8::try_from(level).unwrap_or(3)
    }

    pub fn vlan_ids(&mut self) -> VlanIds {
        const NAME: &str = "VLAN_IDS";
        const RESERVED: &str = "0, 1, 4095";
        let found = self.vector(NAME, "[ START = 2, RESERVED = \"0, 1, 4095\" ]");
        let start = self.number_in(NAME, found.as_ref(), "START", 2, &(0..=u64::from(VlanIds::MAX)));
        let written = in_vector(found.as_ref(), "RESERVED");
        let mut text = written.map_or(RESERVED, |written| written.text);
        let mut reserved = VlanIds::read_reserved(text);
        if let (None, Some(written)) = (&reserved, written) {
            self.wrong("VLAN_IDS/RESERVED", written, "numbers from 0 to 4095 or ranges of them, as 0, 1, 100:199");
            text = RESERVED;
            reserved = VlanIds::read_reserved(text);
        }
        self.unused_keys(NAME, found.as_ref(), &["START", "RESERVED"]);
        let pairs = vec![("RESERVED", text.to_owned()), ("START", start.to_string())];
        self.shown.push((NAME, Shown::Vector(pairs)));
        VlanIds { start: u16::try_from(start).unwrap_or(2), reserved: reserved.unwrap_or_default() }
    }

    fn unused_keys(&mut self, name: &str, found: Option<&(&'a Vector, Vec<(String, Spot)>)>, used: &[&str]) {
        for (key, _) in found.iter().flat_map(|(vector, _)| vector.iter()).filter(|(key, _)| !used.contains(key)) {
            let line = found.and_then(|(_, places)| spot_of(places, key)).map_or_else(String::new, in_words);
            self.warnings.push(format!("{name}/{key}{line} is not used."));
        }
    }

    pub fn mac_prefix(&mut self) -> [u8; 2] {
        const NAME: &str = "MAC_PREFIX";
        let allowed = || "two bytes of a unicast address, as 02:00".to_owned();
        let [first, second] = self.read(NAME, [2, 0], allowed, mac_prefix);
        self.show(NAME, format!("{first:02x}:{second:02x}"));
        [first, second]
    }

    pub fn vdc_rights(&mut self, name: &'static str, default: Right) -> VdcRights {
        let mut value = VdcRights(default.bit());
        if let Some(written) = self.present(name) {
            match VdcRights::read(written.text) {
                Some(rights) => value = rights,
                None => self.wrong(name, written, "USE, MANAGE and ADMIN joined by +, or - for none"),
            }
        }
        self.show(name, value.to_string());
        value
    }

    /// A repeatable setting: those of the file instead of the default, if the file has any; `always` in any case.
    pub fn attributes(&mut self, name: &'static str, default: &[&str], always: &[&str]) -> AttributeList {
        self.asked.insert(name);
        let mut list = AttributeList::default();
        let mut wrong = Vec::new();
        let mut written = false;
        for (value, placed) in self.all(name) {
            written = true;
            let spot = placed.map(|placed| placed.value);
            match value {
                // How a list is emptied.
                Value::Scalar(text) if text.is_empty() => {}
                Value::Scalar(text) => match AttributePath::parse(text) {
                    Some(path) => list.add(path),
                    None => wrong.push(Written { text, spot }),
                },
                Value::Vector(_) => wrong.push(Written { text: "[ … ]", spot }),
            }
        }
        wrong.into_iter().for_each(|written| self.wrong(name, written, "NAME or NAME/KEY of an attribute"));
        let default = if written { &[] } else { default };
        default.iter().chain(always).filter_map(|text| AttributePath::parse(text)).for_each(|path| list.add(path));
        list.iter().for_each(|path| self.shown.push((name, Shown::Scalar(path.to_string()))));
        list
    }

    /// The rights of operations: what the file says of one, else OpenNebula's; every operation is in one list.
    pub fn operations(&mut self) -> OperationLists {
        let mut written = OperationLists::default();
        for (name, right) in operation_lists() {
            let Some(list) = self.present(name) else { continue };
            let operations = match OperationLists::parse(list.text, "", "") {
                Ok(parsed) => parsed.admin,
                Err(refusal) => {
                    let words: Vec<&str> = VmOperation::ALL.iter().map(|operation| operation.word()).collect();
                    let word = match &refusal {
                        Refusal::UnknownVmOperation { word } => word,
                        _ => list.text,
                    };
                    let unknown = Written { text: word, spot: list.spot };
                    self.wrong(name, unknown, format!("some of {}", words.join(", ")));
                    continue;
                }
            };
            for operation in &operations {
                if let Some(other) = written.right_for(*operation) {
                    self.warnings.push(format!(
                        "{operation} is in {name} and in a list for {}, the stricter one, which holds.",
                        other.name()
                    ));
                }
            }
            match right {
                Right::Admin => written.admin = operations,
                Right::Manage => written.manage = operations,
                _ => written.use_ = operations,
            }
        }
        let complete = written.complete();
        for ((name, _), (_, operations)) in operation_lists().zip(complete.by_right()) {
            let words: Vec<&str> = operations.iter().map(|operation| operation.word()).collect();
            self.show(name, words.join(", "));
        }
        complete
    }

    /// Warns of what the file holds beyond the settings that were asked for.
    pub fn warn_of_the_rest(&mut self) {
        let repeatable: BTreeSet<&str> = self.asked.iter().copied().filter(|name| name.ends_with("_ATTR")).collect();
        let mut seen = BTreeSet::new();
        let mut ignored = Vec::new();
        for (index, attribute) in self.template.attributes().iter().enumerate() {
            let name = attribute.name.as_str();
            let first = seen.insert(name);
            let spot = self.places.get(index).map_or_else(String::new, |placed| in_words(placed.spot));
            if self.asked.contains(name) {
                if !first && !repeatable.contains(name) {
                    self.warnings.push(format!("{name}{spot} is set a second time; the first value is used."));
                }
            } else if first && foreign::is_of_opennebula(name) {
                ignored.push(format!("{name}{spot}"));
            } else if first {
                let meant = foreign::meant(name, self.asked.iter().copied());
                let meant = meant.map_or_else(String::new, |meant| format!(" Is {meant} meant?"));
                self.warnings.push(format!("{name}{spot} is no setting of this daemon and is not used.{meant}"));
            }
        }
        if !ignored.is_empty() {
            let list = ignored.join(", ");
            self.warnings.push(format!("Settings of OpenNebula that mean nothing here are not used: {list}."));
        }
    }
}

fn in_vector<'a>(found: Option<&(&'a Vector, Vec<(String, Spot)>)>, key: &str) -> Option<Written<'a>> {
    let (vector, places) = found?;
    let text = vector.get(key).filter(|text| !text.is_empty())?;
    Some(Written { text, spot: spot_of(places, key) })
}

fn spot_of(places: &[(String, Spot)], key: &str) -> Option<Spot> {
    places.iter().find(|(name, _)| name == key).map(|(_, spot)| *spot)
}

fn in_words(spot: Spot) -> String {
    format!(" (line {}, column {})", spot.line, spot.column)
}

fn within(text: &str, range: &RangeInclusive<u64>) -> Option<u64> {
    text.parse().ok().filter(|value| range.contains(value))
}

fn bounds(range: &RangeInclusive<u64>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

fn absolute(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
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
