//! What completes the number of a part of an object: its disks, cards, snapshots, scheduled actions, increments, ranges.
//!
//! The object is the one that the line names before; without it nothing is offered.

use anyhow::Result;
use clap::Arg;

use crate::objects::{self, Kind};
use crate::tools::Entry;
use crate::wire::Client;
use crate::xml::Element;
use crate::{terminal, units};

/// A kind of parts, and where a document has them.
pub(super) struct Part {
    /// Value names of arguments that want such a part's id.
    names: &'static [&'static str],
    /// Element with the parts, and that of one.
    place: (&'static str, &'static str),
    /// Element with the id of one; empty when the part is nothing but its id.
    id: &'static str,
    /// What is said of it.
    told: &'static [&'static str],
}

/// Snapshots of whole VMs; those of disks lie elsewhere.
const SNAPSHOT: Part =
    Part { names: &["SNAPSHOT"], place: ("TEMPLATE", "SNAPSHOT"), id: "SNAPSHOT_ID", told: &["NAME"] };

const DISK_SNAPSHOT: Part =
    Part { names: &["SNAPSHOT"], place: ("SNAPSHOTS", "SNAPSHOT"), id: "ID", told: &["NAME", "DATE"] };

/// The disks that a backup holds.
const BACKUP_DISK: Part = Part { names: &["DISK"], place: ("BACKUP_DISK_IDS", "ID"), id: "", told: &[] };

const PARTS: [Part; 5] = [
    Part { names: &["DISK"], place: ("TEMPLATE", "DISK"), id: "DISK_ID", told: &["IMAGE", "TARGET", "SIZE"] },
    Part { names: &["NIC", "CARD"], place: ("TEMPLATE", "NIC"), id: "NIC_ID", told: &["NETWORK", "IP", "MAC"] },
    Part { names: &["ACTION"], place: ("TEMPLATE", "SCHED_ACTION"), id: "ID", told: &["ACTION", "ARGS"] },
    Part { names: &["INCREMENT"], place: ("BACKUP_INCREMENTS", "INCREMENT"), id: "ID", told: &["TYPE", "DATE"] },
    Part { names: &["AR_ID"], place: ("AR_POOL", "AR"), id: "AR_ID", told: &["IP", "MAC", "SIZE"] },
];

/// The parts that an argument of this value name wants.
pub(super) fn of(value_name: &str, verb: &str, kind: &Kind) -> Option<&'static Part> {
    if SNAPSHOT.names.contains(&value_name) {
        let of_vm = *kind == objects::VM && !verb.starts_with("disk-");
        return Some(if of_vm { &SNAPSHOT } else { &DISK_SNAPSHOT });
    }
    if *kind == objects::IMAGE && BACKUP_DISK.names.contains(&value_name) {
        return Some(&BACKUP_DISK);
    }
    PARTS.iter().find(|part| part.names.contains(&value_name))
}

impl Part {
    /// Ids with what is said of them, of the object that `line` names: the words behind the tool's name.
    pub(super) fn read(&self, client: &Client, tool: &Entry, line: &[String]) -> Result<Vec<(String, String)>> {
        let Some((kind, word)) = self.object(tool, line) else { return Ok(Vec::new()) };
        let document = kind.info(client, kind.id(client, &word)?, false)?;
        let (place, member) = self.place;
        // An object has one TEMPLATE, and a SNAPSHOTS for each disk.
        let parts = document.all(place).flat_map(|place| place.all(member));
        let said = |part: &Element, name: &str| match (name, part.int_at(name)) {
            ("DATE", Some(time)) => units::time(time),
            _ => terminal::one_line(part.text_at(name)),
        };
        let row = |part: &Element| {
            let told: Vec<_> = self.told.iter().map(|name| said(part, name)).filter(|text| !text.is_empty()).collect();
            let id = if self.id.is_empty() { part.text.as_str() } else { part.text_at(self.id) };
            (id.to_owned(), told.join(" "))
        };
        Ok(parts.map(row).filter(|(id, _)| !id.is_empty()).collect())
    }

    /// What the verb's first argument names; of increments the image, which may be the second.
    fn object(&self, tool: &Entry, line: &[String]) -> Option<(&'static Kind, String)> {
        let words = std::iter::once(tool.name.to_owned()).chain(line.iter().cloned());
        let matches = tool.command().ignore_errors(true).try_get_matches_from(words).ok()?;
        let (verb, inner) = matches.subcommand()?;
        let command = tool.command();
        let positionals: Vec<&Arg> = command.find_subcommand(verb)?.get_positionals().collect();
        let named = |arg: &&&Arg| arg.get_value_names().is_some_and(|names| names.iter().any(|name| name == "IMAGE"));
        let image = positionals.iter().find(named).filter(|_| self.names.contains(&"INCREMENT"));
        let (arg, kind) = match image {
            Some(arg) => (arg, &objects::IMAGE),
            None => (positionals.first()?, tool.kind),
        };
        let word = inner.get_raw(arg.get_id().as_str())?.next()?.to_str()?.to_owned();
        Some((kind, word))
    }
}
