//! PATH of an image that is made from a backup.
//!
//! `<scheme>://<backup datastore>/<backup job or empty>/<chain>/<path of the disk in the backup>`, for example
//! `restic://100//0:25f4b298,1:6968545c//var/lib/one/datastores/0/0/backup/disk.0`. Older lines wrote it without the
//! job's slot; both are read, the new one is written.
//!
//! Invariants of a parsed value: the chain is not empty and its increments ascend; no SOURCE holds `/` or `,`; the
//! path is absolute, without `..` and control characters. It says where data is, not that the reader may have it:
//! whoever uses it must look the backup up and check rights on it.

use std::fmt;
use std::str::FromStr;

/// Longest PATH that is looked at: thousands of increments fit.
const LENGTH_MAX: usize = 1 << 20;

/// Where the data of a restored disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupPath {
    /// The datastore driver's protocol: `restic`, `rsync`, `nfs` …
    pub scheme: String,
    /// The backup datastore.
    pub datastore_id: i64,
    /// The backup job that made it.
    pub job_id: Option<i64>,
    /// The increments from the first of the chain to the chosen one.
    pub chain: Vec<ChainLink>,
    /// The disk's file in the backup.
    pub path: String,
}

/// One increment of the chain in a PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLink {
    /// Increment id; 0 for a FULL-mode backup.
    pub increment: i64,
    /// Its SOURCE.
    pub source: String,
}

/// A text that is no such PATH.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PATH of a backup cannot be read: {0}; expected <scheme>://<datastore>/<job>/<increment>:<source>,.../<path>")]
pub struct BackupPathError(String);

fn wrong<T>(why: &str) -> Result<T, BackupPathError> {
    Err(BackupPathError(why.to_owned()))
}

impl BackupPath {
    /// The VM's disk that the path means: 0 for `…/disk.0`, and for `…/disk.0.1`, which is how the original calls the file of
    /// disk 0 in increment 1. None for a file that is no disk.
    pub fn disk_id(&self) -> Option<i64> {
        let name = self.path.rsplit('/').next()?.strip_prefix("disk.")?;
        let (disk, increment) = name.split_once('.').map_or((name, None), |(disk, rest)| (disk, Some(rest)));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(disk) || increment.is_some_and(|increment| !digits(increment)) {
            return None;
        }
        disk.parse().ok()
    }
}

impl fmt::Display for BackupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/", self.scheme, self.datastore_id)?;
        if let Some(job) = self.job_id {
            write!(f, "{job}")?;
        }
        for (position, link) in self.chain.iter().enumerate() {
            let before = if position == 0 { '/' } else { ',' };
            write!(f, "{before}{}:{}", link.increment, link.source)?;
        }
        write!(f, "/{}", self.path)
    }
}

impl FromStr for BackupPath {
    type Err = BackupPathError;

    fn from_str(text: &str) -> Result<Self, BackupPathError> {
        if text.len() > LENGTH_MAX {
            return wrong("it is longer than 1 MiB");
        }
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("there is no ://") };
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.');
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.chars().all(legal) {
            return wrong("the scheme is no word of lower-case letters");
        }
        let Some((datastore, rest)) = rest.split_once('/') else { return wrong("the chain is missing") };
        let datastore_id = number(datastore, "the datastore is no number")?;
        let Some((second, tail)) = rest.split_once('/') else { return wrong("the path is missing") };
        // Without a colon it is the job's slot, and the chain comes after it.
        let (job_id, chain, path) = if second.contains(':') {
            (None, second, tail)
        } else {
            let Some((chain, path)) = tail.split_once('/') else { return wrong("the path is missing") };
            let job = if second.is_empty() { None } else { Some(number(second, "the job is no number")?) };
            (job, chain, path)
        };
        let chain = chain.split(',').map(link).collect::<Result<Vec<_>, _>>()?;
        if !chain.is_sorted_by(|a, b| a.increment < b.increment) {
            return wrong("the increments do not ascend");
        }
        check_path(path)?;
        Ok(Self { scheme: scheme.to_owned(), datastore_id, job_id, chain, path: path.to_owned() })
    }
}

fn number(text: &str, why: &str) -> Result<i64, BackupPathError> {
    match text.parse() {
        Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        _ => wrong(why),
    }
}

fn link(text: &str) -> Result<ChainLink, BackupPathError> {
    let Some((increment, source)) = text.split_once(':') else { return wrong("an increment has no source") };
    if source.is_empty() || source.chars().any(char::is_control) {
        return wrong("a source is empty or holds control characters");
    }
    Ok(ChainLink { increment: number(increment, "an increment is no number")?, source: source.to_owned() })
}

fn check_path(path: &str) -> Result<(), BackupPathError> {
    if !path.starts_with('/') || path.ends_with('/') {
        return wrong("the path of the disk is not absolute or names a folder");
    }
    if path.split('/').any(|part| part == "..") || path.chars().any(char::is_control) {
        return wrong("the path of the disk holds .. or control characters");
    }
    Ok(())
}
