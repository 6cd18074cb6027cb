//! The attributes of a backup datastore's template, read and checked: how its driver is to work.
//!
//! What it is: the one reading of these attributes, so that what was accepted when a datastore was made is what its driver
//! is opened with. What it is not: nothing is opened here; the share has its own reading ([`super::share`]).
//!
//! | attribute | of | |
//! |---|---|---|
//! | RESTIC_PASSWORD | restic | opens the repositories; never empty |
//! | RESTIC_SHARED | restic | YES: new series share one repository; NO when absent |
//! | CHUNK_SIZE_KB | restic | of new repositories: a power of two, 64 to 4096; 256 when absent |
//! | RESTIC_COMPRESSION | restic | `off`, `auto` (when absent) or `max` |
//! | RESTIC_MAXPROC | restic | threads of one operation, 1 to 64; one per processor when absent |
//! | RESTIC_VERIFY_WRITES | restic | whether chunks are opened again before they are written; YES when absent |
//! | RESTIC_BWLIMIT | restic | KiB/s; beside LIMIT_MB_S the smaller one counts |
//! | COMPRESSION | nfs | `none` (when absent), `zlib` or `zstd` |
//! | LIMIT_MB_S | both | MiB/s that all its operations move together; no limit when absent |
//! | NICE (RESTIC_NICE) | both | 0 (when absent) to 19 |
//! | TIMEOUT | both | seconds of silence after which its server counts as dead: 5 to 3600, 60 when absent |
//!
//! An empty value is as none. Invariant: no refusal repeats a secret.

use std::fmt;
use std::ops::RangeInclusive;

use super::share::ShareConfig;
use crate::template::Template;

/// DS_MAD of repositories in restic's format.
pub const RESTIC: &str = "restic";
/// DS_MAD of plain files, on a share or in a directory.
pub const NFS: &str = "nfs";

/// Attributes that say what is mounted, and how. Whoever sets them has programs run as root (see [`super::share`]).
pub const SHARE_ATTRIBUTES: [&str; 7] = [
    "SHARE",
    "SHARE_TYPE",
    "MOUNT_OPTIONS",
    "MOUNT_ATTEMPTS",
    "BACKUP_SHARE",
    "BACKUP_MOUNT_OPTIONS",
    "BACKUP_MOUNT_ATTEMPTS",
];

/// Attributes with secrets in them.
pub const SECRET_ATTRIBUTES: [&str; 3] = ["RESTIC_PASSWORD", "MOUNT_OPTIONS", "BACKUP_MOUNT_OPTIONS"];

/// TIMEOUT when it is absent, seconds.
const TIMEOUT_S: u64 = 60;

/// How images of the nfs driver are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageCompression {
    /// Not at all.
    None,
    /// Deflate.
    Zlib,
    /// zstd.
    Zstd,
}

/// What one driver alone knows.
#[derive(Clone, PartialEq, Eq)]
pub enum Driver {
    /// Repositories in restic's format.
    Restic {
        /// Opens them; in clear, and never empty.
        password: String,
        /// Whether new series share one.
        shared: bool,
        /// Length of chunks in new ones, KiB; `None` is the driver's own choice.
        chunk_kib: Option<u32>,
        /// zstd level; 0 is none, `None` is the driver's own choice.
        compression_level: Option<i32>,
        /// Threads of one operation.
        threads: Option<usize>,
        /// Whether chunks are opened again before they are written.
        verify_writes: bool,
    },
    /// Plain files.
    Nfs {
        /// Of new images.
        compression: ImageCompression,
    },
}

/// The password prints as stars.
impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restic { shared, chunk_kib, compression_level, threads, verify_writes, .. } => f
                .debug_struct("Restic")
                .field("password", &"***")
                .field("shared", shared)
                .field("chunk_kib", chunk_kib)
                .field("compression_level", compression_level)
                .field("threads", threads)
                .field("verify_writes", verify_writes)
                .finish(),
            Self::Nfs { compression } => f.debug_struct("Nfs").field("compression", compression).finish(),
        }
    }
}

/// How a backup datastore works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Its driver.
    pub driver: Driver,
    /// What is mounted at its BASE_PATH; `None` is a directory that is there.
    pub share: Option<ShareConfig>,
    /// Bytes per second.
    pub limit_bytes_s: Option<u64>,
    /// 0 to 19.
    pub nice: u8,
    /// Silence after which its server counts as dead, seconds.
    pub timeout_s: u64,
}

impl StoreSettings {
    /// Reads a template, its secrets in clear, for the driver `ds_mad` ([`RESTIC`] or [`NFS`]).
    ///
    /// # Errors
    /// One sentence that names the attribute and says what it may be; never with a secret in it.
    pub fn from_template(ds_mad: &str, template: &Template) -> Result<Self, String> {
        let driver = if ds_mad == RESTIC { restic(template)? } else { nfs(template)? };
        let limit = number(template, "LIMIT_MB_S", 1..=1_000_000, "MiB per second")?.map(|mib| mib << 20);
        let bandwidth = match driver {
            Driver::Restic { .. } => number(template, "RESTIC_BWLIMIT", 1..=1_000_000_000, "KiB per second")?,
            Driver::Nfs { .. } => None,
        };
        let nice = number(template, "NICE", 0..=19, "a lower priority the higher it is")?;
        let restic_nice = number(template, "RESTIC_NICE", 0..=19, "a lower priority the higher it is")?;
        Ok(Self {
            driver,
            share: ShareConfig::from_template(template)?,
            limit_bytes_s: limit.into_iter().chain(bandwidth.map(|kib| kib << 10)).min(),
            nice: nice.or(restic_nice).and_then(|nice| u8::try_from(nice).ok()).unwrap_or(0),
            timeout_s: number(template, "TIMEOUT", 5..=3600, "seconds")?.unwrap_or(TIMEOUT_S),
        })
    }
}

fn restic(template: &Template) -> Result<Driver, String> {
    let password = given(template, "RESTIC_PASSWORD")?;
    let password = password.ok_or("Datastore template is missing the \"RESTIC_PASSWORD\" attribute or it's empty.")?;
    if given(template, "RESTIC_SFTP_SERVER")?.is_some() {
        return Err(
            "RESTIC_SFTP_SERVER is not available: repositories are directories of this machine; mount the server \
                    with SHARE, SHARE_TYPE = \"fuse.sshfs\", and leave RESTIC_SFTP_SERVER out."
                .into(),
        );
    }
    let chunk_kib = number(template, "CHUNK_SIZE_KB", 64..=4096, "KiB")?;
    if let Some(kib) = chunk_kib.filter(|kib| !kib.is_power_of_two()) {
        return Err(format!("CHUNK_SIZE_KB is {kib}, but must be a power of two from 64 to 4096."));
    }
    let words = [("off", Some(0)), ("auto", None), ("max", Some(19))];
    Ok(Driver::Restic {
        password: password.to_owned(),
        shared: yes(template, "RESTIC_SHARED")?.unwrap_or(false),
        chunk_kib: chunk_kib.and_then(|kib| u32::try_from(kib).ok()),
        compression_level: one_of(template, "RESTIC_COMPRESSION", &words)?.flatten(),
        threads: number(template, "RESTIC_MAXPROC", 1..=64, "threads")?.and_then(|count| usize::try_from(count).ok()),
        verify_writes: yes(template, "RESTIC_VERIFY_WRITES")?.unwrap_or(true),
    })
}

fn nfs(template: &Template) -> Result<Driver, String> {
    let words = [("none", ImageCompression::None), ("zlib", ImageCompression::Zlib), ("zstd", ImageCompression::Zstd)];
    let compression = one_of(template, "COMPRESSION", &words)?.unwrap_or(ImageCompression::None);
    Ok(Driver::Nfs { compression })
}

/// The value of an attribute; none when it is absent or empty.
fn given<'t>(template: &'t Template, name: &str) -> Result<Option<&'t str>, String> {
    if template.vectors(name).next().is_some() {
        return Err(format!("{name} is a vector, but must be one value."));
    }
    Ok(template.scalar(name).filter(|text| !text.is_empty()))
}

fn wrong<T>(name: &str, text: &str, allowed: &str) -> Result<T, String> {
    let shown: String = text.chars().filter(|letter| !letter.is_control()).take(40).collect();
    Err(format!("{name} is \"{shown}\", but must be {allowed}."))
}

fn number(template: &Template, name: &str, range: RangeInclusive<u64>, of: &str) -> Result<Option<u64>, String> {
    let Some(text) = given(template, name)? else { return Ok(None) };
    match text.trim().parse().ok().filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => wrong(name, text, &format!("a whole number from {} to {} ({of})", range.start(), range.end())),
    }
}

fn yes(template: &Template, name: &str) -> Result<Option<bool>, String> {
    one_of(template, name, &[("YES", true), ("NO", false)])
}

fn one_of<T: Copy>(template: &Template, name: &str, words: &[(&str, T)]) -> Result<Option<T>, String> {
    let Some(text) = given(template, name)? else { return Ok(None) };
    match words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim())) {
        Some((_, meaning)) => Ok(Some(*meaning)),
        None => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            wrong(name, text, &words.join(" or "))
        }
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
