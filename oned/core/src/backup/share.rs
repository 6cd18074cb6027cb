//! The network share behind a backup datastore: what is mounted, how, and how often it is tried.
//!
//! What it is: the attributes of a datastore's template, read and checked, so that a mistake is refused with a sentence
//! when the datastore is made and not at night when it is mounted. What it is not: nothing is mounted or looked up here.
//!
//! Attributes (the spellings of Cinder's configuration mean the same):
//!
//! | attribute | also | |
//! |---|---|---|
//! | SHARE | BACKUP_SHARE | what mount(8) calls the source; empty: a local directory is used |
//! | SHARE_TYPE | | type for mount(8), `nfs` when absent; `fstab`: the mount point stands in /etc/fstab |
//! | MOUNT_OPTIONS | BACKUP_MOUNT_OPTIONS | as after `mount -o`; `none` means none |
//! | MOUNT_ATTEMPTS | BACKUP_MOUNT_ATTEMPTS | 1 to 10, 3 when absent |
//!
//! Invariants: no text of a [`ShareConfig`] can be taken for an option of mount(8), or for two; what is secret stands in
//! [`ShareConfig::secrets`] only, and in no refusal.
//!
//! Options of file systems in user space can name programs that mount(8) runs as root, so whoever may set these
//! attributes must be trusted with that; the caller sees to it.

// Addresses as values: `core` has no sockets.
use core::net::{Ipv4Addr, Ipv6Addr};
use std::fmt;

use crate::template::Template;

/// Bytes of SHARE and of MOUNT_OPTIONS.
pub const MAX_SHARE_BYTES: usize = 1024;

/// MOUNT_ATTEMPTS when it is absent.
pub const DEFAULT_MOUNT_ATTEMPTS: u32 = 3;

/// The most that MOUNT_ATTEMPTS may say: the waits between attempts double, and ten take eight minutes already.
pub const MAX_MOUNT_ATTEMPTS: u32 = 10;

/// The type that means: `mount POINT` alone, everything else stands in /etc/fstab.
pub const FSTAB: &str = "fstab";

/// Options whose value is a secret.
const SECRET_OPTIONS: [&str; 5] = ["pass", "passwd", "password", "password2", "secret"];

/// Options that would change other mounts, or make something else than a mount of the share.
const FORBIDDEN_OPTIONS: [&str; 5] = ["bind", "move", "rbind", "remount", "rmove"];

/// A share that was checked against its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareAddress {
    kind: String,
    text: String,
}

/// How the share of a datastore is mounted.
#[derive(Clone, PartialEq, Eq)]
pub struct ShareConfig {
    /// Which share.
    pub address: ShareAddress,
    /// Options for mount(8), one per item, without secrets; none is empty or begins with a dash.
    pub options: Vec<String>,
    /// Secret options: name in lower case, and value. For the mounting process's files only.
    pub secrets: Vec<(String, String)>,
    /// How often it is tried, at least once.
    pub attempts: u32,
}

/// Secrets print as stars.
impl fmt::Debug for ShareConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.secrets.iter().map(|(name, _)| format!("{name}=***")).collect();
        f.debug_struct("ShareConfig")
            .field("address", &self.address)
            .field("options", &self.options)
            .field("secrets", &names)
            .field("attempts", &self.attempts)
            .finish()
    }
}

impl ShareAddress {
    /// Checks `text` against what mount(8) takes for `kind` (letter case of the type is ignored).
    ///
    /// `nfs` and `nfs4`: `host:/path`, with an IPv6 address in brackets; `cifs` and `smb3`: `//server/share`; `ceph`:
    /// `mon1,mon2:/path`, monitors with optional ports, or `name@fsid.fs=/path`; all others (`fuse.sshfs`, `glusterfs`,
    /// `ext4`, `fstab` …): one printable word.
    ///
    /// # Errors
    /// One sentence that shows the right form.
    pub fn parse(kind: &str, text: &str) -> Result<Self, String> {
        let kind = checked_kind(kind)?;
        let wrong = |form: &str| Err(format!("SHARE '{}' is no {kind} share; write {form}", shown(text)));
        let blanks = matches!(kind.as_str(), "cifs" | "smb3");
        if text.is_empty() {
            return Err("SHARE is empty; name the share, as in nas.example.org:/backups".into());
        }
        if text.len() > MAX_SHARE_BYTES {
            return Err(format!("SHARE is {} bytes long; at most {MAX_SHARE_BYTES} are accepted", text.len()));
        }
        if text.starts_with('-') {
            return Err("SHARE begins with a dash; write the share alone, and options into MOUNT_OPTIONS".into());
        }
        if let Some(bad) = text.chars().find(|c| !(is_plain(*c) || blanks && *c == ' ')) {
            return Err(format!("SHARE holds {bad:?}; write it without blanks and control characters"));
        }
        match kind.as_str() {
            "nfs" | "nfs4" if !is_nfs(text) => wrong("host:/path, 192.0.2.7:/path or [2001:db8::7]:/path"),
            "cifs" | "smb3" if !is_cifs(text) => wrong("//server/share"),
            "ceph" if !is_ceph(text) => wrong("mon1,mon2:/path, or name@fsid.filesystem=/path"),
            _ => Ok(Self { kind, text: text.to_owned() }),
        }
    }

    /// The type, in lower case.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The share, as mount(8) takes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ShareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ShareConfig {
    /// Reads the share of a datastore's template; `None` when SHARE is absent or empty (a local directory then).
    ///
    /// # Errors
    /// One sentence that names the attribute and shows what to write; never with a secret in it.
    pub fn from_template(template: &Template) -> Result<Option<Self>, String> {
        let given = |name: &'static str, other: &'static str| {
            let value = |name: &'static str| template.scalar(name).filter(|text| !text.is_empty());
            value(name).map(|text| (name, text)).or_else(|| value(other).map(|text| (other, text)))
        };
        let Some((_, share)) = given("SHARE", "BACKUP_SHARE") else {
            return match given("MOUNT_OPTIONS", "BACKUP_MOUNT_OPTIONS") {
                Some((name, text)) if !is_none(text) => Err(format!("{name} is given without a SHARE to mount")),
                _ => Ok(None),
            };
        };
        let kind = template.scalar("SHARE_TYPE").filter(|kind| !kind.is_empty()).unwrap_or("nfs");
        let address = ShareAddress::parse(kind, share)?;
        let mut config = Self { address, options: Vec::new(), secrets: Vec::new(), attempts: DEFAULT_MOUNT_ATTEMPTS };
        if let Some((name, text)) = given("MOUNT_OPTIONS", "BACKUP_MOUNT_OPTIONS") {
            config.take_options(name, text)?;
        }
        if let Some((name, text)) = given("MOUNT_ATTEMPTS", "BACKUP_MOUNT_ATTEMPTS") {
            let attempts = text.parse().ok().filter(|number| (1..=MAX_MOUNT_ATTEMPTS).contains(number));
            config.attempts = attempts.ok_or_else(|| {
                format!("{name} '{}' is no number from 1 to {MAX_MOUNT_ATTEMPTS}; 3 is usual", shown(text))
            })?;
        }
        Ok(Some(config))
    }

    /// Takes options apart. No refusal repeats more of an option than its name: the rest may be a password.
    fn take_options(&mut self, attribute: &str, text: &str) -> Result<(), String> {
        let kind = self.address.kind.as_str();
        if is_none(text) {
            return Ok(());
        }
        if text.len() > MAX_SHARE_BYTES {
            return Err(format!("{attribute} is {} bytes long; at most {MAX_SHARE_BYTES} are accepted", text.len()));
        }
        if !text.chars().all(is_plain) {
            let advice = "write options with commas only, as in nfsvers=4.1,timeo=600";
            return Err(format!("{attribute} holds a blank or a control character; {advice}"));
        }
        if kind == FSTAB {
            return Err(format!("{attribute} is given for a share of type {FSTAB}; write the options into /etc/fstab"));
        }
        for part in text.split(',') {
            let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
            let lower = name.to_ascii_lowercase();
            if name.is_empty() {
                return Err(format!("{attribute} holds an empty option; write options as in nfsvers=4.1,timeo=600"));
            }
            if name.starts_with('-') {
                let advice = "write what stands after `mount -o`, as in nfsvers=4.1,timeo=600";
                return Err(format!("{attribute} holds an option that begins with a dash; {advice}"));
            }
            if FORBIDDEN_OPTIONS.contains(&lower.as_str()) {
                return Err(format!("{attribute} holds '{lower}', which mounts no share; leave it out"));
            }
            match (is_secret(&lower), value) {
                (true, Some(value)) => self.take_secret(attribute, lower, value)?,
                // mount.cifs takes `user=name%password`.
                (false, Some(value)) if is_user(&lower) && is_cifs_kind(kind_of(&self.address)) => {
                    let (user, password) = value.split_once('%').map_or((value, None), |(u, p)| (u, Some(p)));
                    self.options.push(format!("{name}={user}"));
                    if let Some(password) = password {
                        self.take_secret(attribute, "password".into(), password)?;
                    }
                }
                _ => self.options.push(part.to_owned()),
            }
        }
        Ok(())
    }

    fn take_secret(&mut self, attribute: &str, name: String, value: &str) -> Result<(), String> {
        let kind = kind_of(&self.address);
        let taken: &[&str] = match kind {
            "cifs" | "smb3" => &["pass", "passwd", "password", "password2"],
            "ceph" => &["secret"],
            _ => &[],
        };
        if !taken.contains(&name.as_str()) {
            let advice =
                "it would show in the list of processes; keep it in a file that the file system's own options name";
            return Err(format!("{attribute} holds '{name}', which cannot be given to {kind} shares: {advice}"));
        }
        let name = if name.starts_with("pass") && name != "password2" { "password".to_owned() } else { name };
        if self.secrets.iter().any(|(other, _)| *other == name) {
            return Err(format!("{attribute} holds '{name}' twice; give it once"));
        }
        self.secrets.push((name, value.to_owned()));
        Ok(())
    }
}

/// MOUNT_OPTIONS as it may be shown: each secret's value is `***`. Takes any text, also one that would be refused.
pub fn shown_options(text: &str) -> String {
    let part = |part: &str| match part.split_once('=') {
        Some((name, _)) if is_secret(name.trim()) => format!("{name}=***"),
        Some((name, value)) if is_user(name.trim()) && value.contains('%') => {
            format!("{name}={}%***", value.split('%').next().unwrap_or_default())
        }
        _ => part.to_owned(),
    };
    text.split(',').map(part).collect::<Vec<_>>().join(",")
}

fn kind_of(address: &ShareAddress) -> &str {
    &address.kind
}

fn is_cifs_kind(kind: &str) -> bool {
    matches!(kind, "cifs" | "smb3")
}

fn is_secret(name: &str) -> bool {
    SECRET_OPTIONS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

fn is_user(name: &str) -> bool {
    name.eq_ignore_ascii_case("user") || name.eq_ignore_ascii_case("username")
}

fn is_none(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("none")
}

/// Neither blank nor control character; letters of all scripts are fine, since servers have such paths.
fn is_plain(c: char) -> bool {
    // Beside what Unicode calls control and white space: marks that change the direction of text, and invisible ones.
    let invisible =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    !c.is_control() && !c.is_whitespace() && !invisible
}

/// The beginning of a text that somebody sent, for a sentence.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(64).filter(|c| !c.is_control()).collect();
    if text.chars().nth(64).is_some() { start + "…" } else { start }
}

fn checked_kind(kind: &str) -> Result<String, String> {
    let lower = kind.to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
    let first = lower.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !first || lower.len() > 64 || !lower.bytes().all(plain) {
        let advice = "write a type that mount(8) knows, as nfs, cifs, ceph or fuse.sshfs";
        return Err(format!("SHARE_TYPE '{}' is no type of a file system; {advice}", shown(kind)));
    }
    Ok(lower)
}

fn is_nfs(text: &str) -> bool {
    split_host(text).is_some_and(|(host, rest)| is_host(host) && rest.strip_prefix(':').is_some_and(is_path))
}

/// `host` or `[v6]`, and what follows it. No bracket: the host ends at the first colon.
fn split_host(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        return text.split_at_checked(text.find(']')? + 1);
    }
    text.split_at_checked(text.find(':').unwrap_or(text.len()))
}

fn is_path(text: &str) -> bool {
    text.starts_with('/')
}

/// A name, an IPv4 address or an IPv6 address in brackets (`[fe80::1%eth0]`, RFC 4007 zone ids too).
fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let (address, zone) = inner.split_once('%').map_or((inner, None), |(address, zone)| (address, Some(zone)));
        let word = |zone: &str| {
            (1..=32).contains(&zone.len())
                && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        return address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(word);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return text.parse::<Ipv4Addr>().is_ok();
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

/// `//server/share`, a directory below it allowed.
fn is_cifs(text: &str) -> bool {
    let Some((server, share)) = text.strip_prefix("//").and_then(|rest| rest.split_once('/')) else { return false };
    let v6 = server.contains(':') && server.parse::<Ipv6Addr>().is_ok();
    let first = share.split('/').next().unwrap_or_default();
    (is_host(server) || v6) && !first.trim().is_empty()
}

/// The old form with monitors, or the newer one (`name@fsid.fs=/path`, monitors in `mon_addr=`).
fn is_ceph(text: &str) -> bool {
    if let Some((device, path)) = text.split_once('=')
        && let Some((user, system)) = device.split_once('@')
    {
        return !user.is_empty() && system.split_once('.').is_some_and(|(_, name)| !name.is_empty()) && is_path(path);
    }
    // The path begins at the first `:/`; no monitor holds one.
    let Some(at) = text.find(":/") else { return false };
    let (monitors, path) = (&text[..at], &text[at + 1..]);
    let monitor = |monitor: &str| {
        let Some((host, port)) = split_host(monitor) else { return false };
        let port = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
        is_host(host) && port
    };
    is_path(path) && monitors.split(',').all(monitor)
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
