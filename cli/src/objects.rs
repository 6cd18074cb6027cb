//! The kinds of objects: how their documents are fetched, and how a name or an id list becomes ids.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::names::Names;
use crate::table::ListOptions;
use crate::wire::{Client, Param};
use crate::xml::Element;

/// Most ids that one argument may stand for.
const IDS_MAX: usize = 100_000;

/// How a kind of object is called on the wire and in messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// `one.<prefix>.info`
    prefix: &'static str,
    /// `one.<pool>.info`
    pool: &'static str,
    /// Element of one object in the pool document.
    pub member: &'static str,
    /// In messages.
    pub label: &'static str,
    /// Does the pool call take a filter and a range?
    filtered: bool,
}

/// Virtual machines.
pub const VM: Kind = Kind { prefix: "vm", pool: "vmpool", member: "VM", label: "VM", filtered: true };
/// Virtual machine templates.
pub const TEMPLATE: Kind =
    Kind { prefix: "template", pool: "templatepool", member: "VMTEMPLATE", label: "VM template", filtered: true };
/// Images, backups among them.
pub const IMAGE: Kind = Kind { prefix: "image", pool: "imagepool", member: "IMAGE", label: "image", filtered: true };
/// Datastores.
pub const DATASTORE: Kind =
    Kind { prefix: "datastore", pool: "datastorepool", member: "DATASTORE", label: "datastore", filtered: false };
/// Hosts.
pub const HOST: Kind = Kind { prefix: "host", pool: "hostpool", member: "HOST", label: "host", filtered: false };
/// Users.
pub const USER: Kind = Kind { prefix: "user", pool: "userpool", member: "USER", label: "user", filtered: false };
/// Groups.
pub const GROUP: Kind = Kind { prefix: "group", pool: "grouppool", member: "GROUP", label: "group", filtered: false };
/// Access rules; they have no names.
pub const ACL: Kind = Kind { prefix: "acl", pool: "acl", member: "ACL", label: "access rule", filtered: false };
/// Clusters.
pub const CLUSTER: Kind =
    Kind { prefix: "cluster", pool: "clusterpool", member: "CLUSTER", label: "cluster", filtered: false };
/// Zones.
pub const ZONE: Kind = Kind { prefix: "zone", pool: "zonepool", member: "ZONE", label: "zone", filtered: false };
/// Virtual networks.
pub const VNET: Kind = Kind { prefix: "vn", pool: "vnpool", member: "VNET", label: "virtual network", filtered: true };
/// Security groups.
pub const SECURITY_GROUP: Kind = Kind {
    prefix: "secgroup",
    pool: "secgrouppool",
    member: "SECURITY_GROUP",
    label: "security group",
    filtered: true,
};
/// Virtual data centres.
pub const VDC: Kind =
    Kind { prefix: "vdc", pool: "vdcpool", member: "VDC", label: "virtual data centre", filtered: false };
/// Backup jobs.
pub const BACKUP_JOB: Kind =
    Kind { prefix: "backupjob", pool: "backupjobpool", member: "BACKUPJOB", label: "backup job", filtered: true };

/// The filter flag for everything that the caller may see.
const ALL: i64 = -2;

impl Kind {
    /// The method `one.<kind>.<verb>`.
    #[must_use]
    pub fn method(&self, verb: &str) -> String {
        format!("one.{}.{verb}", self.prefix)
    }

    /// The document of one object.
    ///
    /// # Errors
    /// When the daemon refuses or its answer is no document.
    pub fn info(&self, client: &Client, id: i64, decrypt: bool) -> Result<Element> {
        // one.template.info has a flag for resolved disks before the one for secrets.
        let mut params = vec![Param::Int(id)];
        if *self == TEMPLATE {
            params.push(false.into());
        }
        params.push(decrypt.into());
        Element::parse(&client.call(&self.method("info"), params)?.text())
    }

    /// The pool document for a filter flag; kinds without filter ignore it.
    ///
    /// # Errors
    /// When the daemon refuses or its answer is no document.
    pub fn pool(&self, client: &Client, flag: i64, verb: &str) -> Result<Element> {
        let mut params: Vec<Param> = Vec::new();
        if self.filtered {
            params.extend([flag, -1, -1].map(Param::Int));
        }
        if *self == VM {
            // State −1: any but DONE; and no search.
            params.extend([Param::Int(-1), "".into()]);
        }
        Element::parse(&client.call(&format!("one.{}.{verb}", self.pool), params)?.text())
    }

    /// The pool document with everything that the caller may see.
    ///
    /// # Errors
    /// As [`Kind::pool`].
    pub fn pool_of_all(&self, client: &Client) -> Result<Element> {
        self.pool(client, ALL, "info")
    }

    /// The pool document for the options of a `list`.
    ///
    /// # Errors
    /// As [`Kind::pool`], and for an unknown user.
    pub fn pool_for(&self, client: &Client, options: &ListOptions, verb: &str) -> Result<Element> {
        let flag = match options.whose.as_deref() {
            None | Some("a" | "all") => ALL,
            Some("m" | "mine") => -3,
            Some("g" | "group") => -1,
            Some("G" | "primary group") => -4,
            Some(user) => USER.id(client, user)?,
        };
        self.pool(client, flag, verb)
    }

    /// The id that a word stands for: a number, or a name that one object has.
    ///
    /// # Errors
    /// When no object or more than one has the name.
    pub fn id(&self, client: &Client, word: &str) -> Result<i64> {
        match word.parse::<u32>() {
            Ok(id) => Ok(i64::from(id)),
            Err(_) => self.names(client, word)?.id(word).map_err(|error| match parse_ids(word) {
                Ok(None) => error,
                _ => anyhow!("{word} is more than one {}, but one at a time is taken here", self.label),
            }),
        }
    }

    /// The names in use, to look `word` up in.
    fn names(&self, client: &Client, word: &str) -> Result<Names<'_>> {
        // The daemon's own -1 for "none" is no object, and nobody's name.
        if word.is_empty() || word.parse::<i64>().is_ok() {
            bail!("{word:?} is no {}: write an id from 0 on, or a name", self.label);
        }
        Ok(Names::of(self, &self.pool(client, ALL, "info")?))
    }

    /// The ids that an argument stands for: `7`, `0,1,5`, `0..3`, names among them.
    ///
    /// # Errors
    /// As [`Kind::id`], and for a range that is empty or too large.
    pub fn ids(&self, client: &Client, argument: &str) -> Result<Vec<i64>> {
        if let Some(ids) = parse_ids(argument)? {
            return Ok(ids);
        }
        let names = self.names(client, argument)?;
        // A name may hold a comma or dots; the whole argument goes first.
        if let Ok(id) = names.id(argument) {
            return Ok(vec![id]);
        }
        let mut ids = Vec::new();
        for word in argument.split(',') {
            if word.trim().is_empty() {
                bail!("{argument}: between commas stands an id or a name");
            }
            match parse_ids(word)? {
                Some(more) => ids.extend(more),
                None => ids.push(names.id(word)?),
            }
        }
        Ok(once(ids))
    }
}

/// Numbers and ranges; None when something else stands among them.
///
/// # Errors
/// For a range that is empty or too large.
pub fn parse_ids(argument: &str) -> Result<Option<Vec<i64>>> {
    let mut ids = Vec::new();
    for word in argument.split(',') {
        let (first, last) = match word.split_once("..") {
            Some((first, last)) => (first, last),
            None => (word, word),
        };
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { return Ok(None) };
        if first > last {
            bail!("the range {word} is empty: write the smaller id first");
        }
        if ids.len() + (last - first) as usize >= IDS_MAX {
            bail!("{argument} stands for more than {IDS_MAX} ids");
        }
        ids.extend((first..=last).map(i64::from));
    }
    Ok(Some(once(ids)))
}

/// Who is named twice is meant once; the order stays.
fn once(mut ids: Vec<i64>) -> Vec<i64> {
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    ids
}

/// Reads the id that a create verb answers and prints it: `ID: 7`.
///
/// # Errors
/// When the daemon answered something else, or standard output is gone.
pub fn put_id(answer: &crate::wire::Answer) -> Result<i64> {
    let id = answer.id().context("the object was created, but its id was not understood")?;
    crate::terminal::put_line(&format!("ID: {id}"))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_lists_and_ranges_become_ids() {
        let ids = |text| parse_ids(text).unwrap();
        assert_eq!(ids("7"), Some(vec![7]));
        assert_eq!(ids("0,1,5"), Some(vec![0, 1, 5]));
        assert_eq!(ids("0..3,9"), Some(vec![0, 1, 2, 3, 9]));
        assert_eq!(ids("5,0..2,5,1"), Some(vec![5, 0, 1, 2]));
        for text in ["web", "1,web", "", "1,", "-1", "1..", "..", "1...3", "99999999999"] {
            assert_eq!(ids(text), None, "{text}");
        }
        assert!(parse_ids("3..0").is_err());
        assert!(parse_ids("0..4000000000").is_err());
        assert!(parse_ids("0..60000,0..60000").is_err());
    }
}
