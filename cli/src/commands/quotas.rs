//! Quotas of users and groups: the cells and blocks that show them, and the verbs that change them.
//!
//! Documents give for each owner what is used and the limits of his own, and apart from that the default limits; −1 is
//! "the default", −2 "no limit" (OpenNebula, quotas). What is shown is the limit that holds.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::verbs::{One, Several, call_each};
use crate::objects::{Kind, USER};
use crate::show::Page;
use crate::wire::Client;
use crate::xml::Element;
use crate::{input, units};

/// "The default holds", as documents write it.
const DEFAULT: f64 = -1.0;

/// A section of the quotas: its list, the element of an entry, and what tells entries apart.
type Section = (&'static str, &'static str, &'static str);
const VMS: Section = ("VM_QUOTA", "VM", "CLUSTER_IDS");
const DATASTORES: Section = ("DATASTORE_QUOTA", "DATASTORE", "ID");
const NETWORKS: Section = ("NETWORK_QUOTA", "NETWORK", "ID");
const IMAGES: Section = ("IMAGE_QUOTA", "IMAGE", "ID");

/// How a number is written.
type Shown = fn(f64) -> String;

fn whole(number: f64) -> String {
    format!("{number:.0}")
}

/// Processors come in fractions, of which a table shows one digit.
fn processors(number: f64) -> String {
    if number.fract() == 0.0 { whole(number) } else { format!("{number:.1}") }
}

fn hundredths(number: f64) -> String {
    format!("{number:.2}")
}

fn size(mb: f64) -> String {
    // Saturates; sizes are whole numbers on the wire.
    units::mib(mb as i64)
}

/// In a pool the quotas are siblings of their owners, and the default limits stand at its end (`defaults`). Puts both
/// inside each owner, where the document of one owner has them.
pub fn adopt(pool: &mut Element, member: &str, defaults: &str) {
    let (quotas, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut pool.children).into_iter().partition(|child| child.name == "QUOTAS");
    pool.children = rest;
    let mut quotas: std::collections::BTreeMap<Option<i64>, Element> =
        quotas.into_iter().map(|quota| (quota.int_at("ID"), quota)).collect();
    let defaults = pool.child(defaults).cloned();
    for owner in pool.children.iter_mut().filter(|child| child.name == member) {
        if let Some(quota) = quotas.remove(&owner.int_at("ID")) {
            owner.children.extend(quota.children.into_iter().filter(|child| child.name != "ID"));
        }
        owner.children.extend(defaults.clone());
    }
}

fn number(entry: Option<&Element>, name: &str) -> Option<f64> {
    entry?.text_at(name).parse().ok()
}

/// Used and limit of one thing, each in `width` columns: `   1 /   10`; no limit is `-`.
fn pair(entry: Option<&Element>, default: Option<&Element>, name: &str, width: usize, shown: Shown) -> String {
    let own = number(entry, name).unwrap_or(DEFAULT);
    let limit = if own == DEFAULT { number(default, name).unwrap_or(DEFAULT) } else { own };
    let limit = if limit < 0.0 { "-".to_owned() } else { shown(limit) };
    let used = shown(number(entry, &format!("{name}_USED")).unwrap_or(0.0));
    format!("{used:>width$} / {limit:>width$}")
}

/// The limits that hold for an owner without limits of his own.
fn defaults(owner: &Element) -> Option<&Element> {
    owner.child("DEFAULT_USER_QUOTAS").or_else(|| owner.child("DEFAULT_GROUP_QUOTAS"))
}

/// Nothing is counted for the first user and the first group.
fn is_exempt(owner: &Element) -> bool {
    owner.int_at("ID") == Some(0)
}

/// The entries of an owner in a section, each with the default limits for the same thing; then what only the defaults limit.
fn entries<'a>(owner: &'a Element, (list, member, key): Section) -> Vec<(Option<&'a Element>, Option<&'a Element>)> {
    let of = |root: Option<&'a Element>| -> Vec<&'a Element> {
        root.and_then(|root| root.child(list))
            .map(|list| list.children.iter().filter(|entry| entry.name == member).collect())
            .unwrap_or_default()
    };
    let own = of(Some(owner));
    let defaults = if is_exempt(owner) { Vec::new() } else { of(defaults(owner)) };
    let same = |a: &Element, b: &Element| a.text_at(key) == b.text_at(key);
    let mut found: Vec<_> =
        own.iter().map(|entry| (Some(*entry), defaults.iter().copied().find(|default| same(default, entry)))).collect();
    let only_defaults = defaults.iter().filter(|default| !own.iter().any(|entry| same(entry, default)));
    found.extend(only_defaults.map(|default| (None, Some(*default))));
    found
}

/// The cell of a table for something about VMs: `VMS`, `MEMORY`, `CPU`, `PCI_DEV`. `-` where nothing is counted.
pub fn cell(owner: &Element, name: &str) -> String {
    let (width, shown): (usize, Shown) = match name {
        "MEMORY" => (6, size),
        "CPU" => (3, processors),
        _ => (3, whole),
    };
    // What holds for some clusters only is for the page.
    let all_clusters = |entry: &(Option<&Element>, Option<&Element>)| {
        entry.0.or(entry.1).is_some_and(|entry| entry.text_at("CLUSTER_IDS").is_empty())
    };
    match entries(owner, VMS).into_iter().find(all_clusters) {
        Some((entry, default)) => pair(entry, default, name, width, shown),
        None => "-".to_owned(),
    }
}

/// A column of a block: its title, the attribute, its width, the width of each number, and how numbers are written.
type BlockColumn = (&'static str, &'static str, usize, usize, Shown);

const VM_COLUMNS: [BlockColumn; 4] = [
    ("VMS", "VMS", 17, 7, whole),
    ("MEMORY", "MEMORY", 20, 8, size),
    ("CPU", "CPU", 20, 8, hundredths),
    ("SYSTEM_DISK_SIZE", "SYSTEM_DISK_SIZE", 20, 8, size),
];
const RUNNING_COLUMNS: [BlockColumn; 3] = [
    ("RUNNING VMS", "RUNNING_VMS", 17, 7, whole),
    ("RUNNING MEMORY", "RUNNING_MEMORY", 20, 8, size),
    ("RUNNING CPU", "RUNNING_CPU", 20, 8, hundredths),
];
const PCI_COLUMNS: [BlockColumn; 4] = [
    ("PCI DEV", "PCI_DEV", 17, 7, whole),
    ("PCI NIC", "PCI_NIC", 20, 8, whole),
    ("RUNNING PCI DEV", "RUNNING_PCI_DEV", 20, 8, whole),
    ("RUNNING PCI NIC", "RUNNING_PCI_NIC", 20, 8, whole),
];
const DATASTORE_COLUMNS: [BlockColumn; 2] = [("IMAGES", "IMAGES", 20, 8, whole), ("SIZE", "SIZE", 20, 8, size)];
const NETWORK_COLUMNS: [BlockColumn; 1] = [("LEASES", "LEASES", 20, 8, whole)];
const IMAGE_COLUMNS: [BlockColumn; 1] = [("RUNNING VMS", "RVMS", 20, 8, whole)];

/// The blocks of a page, used / limit; those in which nothing is counted or limited are left out.
pub fn blocks(page: &mut Page, owner: &Element) {
    block(page, owner, "VMS USAGE & QUOTAS", VMS, &VM_COLUMNS, false);
    block(page, owner, "VMS USAGE & QUOTAS - RUNNING", VMS, &RUNNING_COLUMNS, true);
    block(page, owner, "VMS USAGE & QUOTAS - PCI", VMS, &PCI_COLUMNS, true);
    block(page, owner, "DATASTORE USAGE & QUOTAS", DATASTORES, &DATASTORE_COLUMNS, false);
    block(page, owner, "NETWORK USAGE & QUOTAS", NETWORKS, &NETWORK_COLUMNS, false);
    block(page, owner, "IMAGE USAGE & QUOTAS", IMAGES, &IMAGE_COLUMNS, false);
}

/// One block. With `if_any`, rows in which nothing is used and nothing limited are left out.
fn block(page: &mut Page, owner: &Element, title: &str, section: Section, columns: &[BlockColumn], if_any: bool) {
    let speaks = |entry: Option<&Element>, default: Option<&Element>, name: &str| {
        let limited = |entry| number(entry, name).is_some_and(|limit| limit >= 0.0);
        limited(entry) || limited(default) || number(entry, &format!("{name}_USED")).is_some_and(|used| used > 0.0)
    };
    let mut entries = entries(owner, section);
    entries.retain(|(entry, default)| !if_any || columns.iter().any(|column| speaks(*entry, *default, column.1)));
    if entries.is_empty() {
        return;
    }
    let key = |(entry, default): &(Option<&Element>, Option<&Element>)| {
        entry.or(*default).map(|entry| entry.text_at(section.2).to_owned()).unwrap_or_default()
    };
    // Limits for some clusters are rare; without them the block is as ever.
    let keyed = section != VMS || entries.iter().any(|entry| !key(entry).is_empty());
    // With the clusters before it, the block about VMs still fits into 80 columns.
    let narrower = usize::from(keyed && section == VMS);
    let mut titles: Vec<(&str, usize, bool)> =
        columns.iter().map(|(title, _, width, ..)| (*title, width - 2 * narrower, false)).collect();
    if keyed {
        titles.insert(0, if section == VMS { ("CLUSTERS", 8, true) } else { ("ID", 12, false) });
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let mut row: Vec<String> = columns
                .iter()
                .map(|(_, name, _, width, shown)| pair(entry.0, entry.1, name, width - narrower, *shown))
                .collect();
            if keyed {
                let key = key(entry);
                row.insert(0, if key.is_empty() { "all".to_owned() } else { key });
            }
            row
        })
        .collect();
    page.header(title).table(&titles, &rows);
}

/// The verbs about quotas.
#[derive(Subcommand, Debug)]
pub enum Limiting {
    /// Set limits for one
    Quota(Quota),
    /// Set the same limits for several
    #[command(name = "batchquota")]
    BatchQuota(BatchQuota),
    /// Set the limits of all who have none of their own
    #[command(name = "defaultquota")]
    DefaultQuota(Text),
}

/// One owner and his limits.
#[derive(Args, Clone, Debug)]
pub struct Quota {
    #[command(flatten)]
    target: One,
    #[command(flatten)]
    text: Text,
}

/// Several owners and their limits.
#[derive(Args, Clone, Debug)]
pub struct BatchQuota {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    text: Text,
}

/// Where limits come from.
#[derive(Args, Clone, Debug)]
pub struct Text {
    /// File with the limits (- for standard input); an editor opens when neither file nor pipe is there
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Text {
    fn send(&self, present: impl FnOnce() -> Result<String>, send: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        match input::read(self.file.as_deref())? {
            Some(text) => send(&text),
            None => input::edit(&present()?, send),
        }
    }
}

impl Limiting {
    /// Does it, for users or groups.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name, a text or editor that does not work.
    pub fn run(&self, client: &Client, kind: &Kind) -> Result<()> {
        match self {
            Self::Quota(Quota { target, text }) => {
                let id = kind.id(client, &target.id)?;
                text.send(
                    || Ok(editable(&kind.info(client, id, false)?)),
                    |text| client.call(&kind.method("quota"), [id.into(), text.into()]).map(drop),
                )
            }
            Self::BatchQuota(BatchQuota { target, text }) => text.send(
                || Ok(EXPLANATION.to_owned()),
                |text| call_each(client, kind, &target.ids, "quota", &[text.into()]),
            ),
            Self::DefaultQuota(text) => {
                let method = |verb| format!("one.{}.{verb}", if *kind == USER { "userquota" } else { "groupquota" });
                text.send(
                    || Ok(editable(&Element::parse(&client.call(&method("info"), [])?.text())?)),
                    |text| client.call(&method("update"), [text.into()]).map(drop),
                )
            }
        }
    }
}

/// What stands above the limits in an editor.
const EXPLANATION: &str = "\
# Limits, one vector for each thing. What is left out stays as it is.
# -1 gives a limit back to the default, -2 is no limit. Sizes and memory are in MB.
#
#   VM        = [ VMS = 10, MEMORY = 8192, CPU = 4, SYSTEM_DISK_SIZE = 102400,
#                 RUNNING_VMS = -1, RUNNING_MEMORY = -1, RUNNING_CPU = -1 ]
#   DATASTORE = [ ID = 1, IMAGES = 20, SIZE = 51200 ]
#   NETWORK   = [ ID = 0, LEASES = 5 ]
#   IMAGE     = [ ID = 4, RVMS = 3 ]

";

/// The limits of an owner, or the defaults, as text for an editor.
fn editable(owner: &Element) -> String {
    let mut text = EXPLANATION.to_owned();
    for (list, member, key) in [VMS, DATASTORES, NETWORKS, IMAGES] {
        let Some(list) = owner.child(list) else { continue };
        for entry in list.children.iter().filter(|entry| entry.name == member) {
            let says = |name: &str, value: &str| {
                name != key && !name.ends_with("_USED") && value.parse().is_ok_and(|limit: f64| limit != DEFAULT)
            };
            let limits: Vec<_> = entry.children.iter().filter(|part| says(&part.name, &part.text)).collect();
            if limits.is_empty() {
                continue;
            }
            let which = entry.children.iter().filter(|part| part.name == key);
            let parts: Vec<_> =
                which.chain(limits).map(|part| format!("  {} = \"{}\"", part.name, part.text)).collect();
            text.push_str(&format!("{member} = [\n{} ]\n", parts.join(",\n")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "<USER><ID>2</ID><DATASTORE_QUOTA><DATASTORE><ID>100</ID><IMAGES>-1</IMAGES>\
        <IMAGES_USED>2</IMAGES_USED><SIZE>2048</SIZE><SIZE_USED>512</SIZE_USED></DATASTORE></DATASTORE_QUOTA>\
        <NETWORK_QUOTA/><VM_QUOTA><VM><CPU>-1</CPU><CPU_USED>0.5</CPU_USED><MEMORY>-2</MEMORY>\
        <MEMORY_USED>128</MEMORY_USED><VMS>3</VMS><VMS_USED>1</VMS_USED></VM></VM_QUOTA><IMAGE_QUOTA/>\
        <DEFAULT_USER_QUOTAS><DATASTORE_QUOTA/><NETWORK_QUOTA><NETWORK><ID>0</ID><LEASES>4</LEASES></NETWORK></NETWORK_QUOTA>\
        <VM_QUOTA><VM><CPU>8</CPU><MEMORY>1024</MEMORY><VMS>-1</VMS></VM></VM_QUOTA><IMAGE_QUOTA/></DEFAULT_USER_QUOTAS></USER>";

    #[test]
    fn the_limit_that_holds_is_shown() {
        let owner = Element::parse(OWNER).unwrap();
        assert_eq!(cell(&owner, "VMS"), "  1 /   3");
        assert_eq!(cell(&owner, "MEMORY"), "  128M /      -", "-2 is no limit whatever the default");
        assert_eq!(cell(&owner, "CPU"), "0.5 /   8", "-1 is the default");
        let nobody = Element::parse("<USER><ID>3</ID></USER>").unwrap();
        assert_eq!(cell(&nobody, "VMS"), "-");
    }

    #[test]
    fn what_only_the_defaults_limit_is_shown_except_to_whom_nothing_is_counted() {
        let pool = |id: i64| {
            let mut pool = Element::parse(&format!(
                "<P><USER><ID>{id}</ID></USER><QUOTAS><ID>{id}</ID><VM_QUOTA/></QUOTAS><DEFAULT_USER_QUOTAS><VM_QUOTA>\
                 <VM><VMS>7</VMS></VM></VM_QUOTA></DEFAULT_USER_QUOTAS></P>"
            ))
            .unwrap();
            adopt(&mut pool, "USER", "DEFAULT_USER_QUOTAS");
            cell(pool.child("USER").unwrap(), "VMS")
        };
        assert_eq!((pool(2), pool(0)), ("  0 /   7".to_owned(), "-".to_owned()));
    }

    #[test]
    fn blocks_have_a_row_for_each_thing_and_leave_out_what_is_not_counted() {
        let mut page = Page::new(15);
        blocks(&mut page, &Element::parse(OWNER).unwrap());
        let text = page.finish();
        assert!(text.contains("         100         2 /        -      512M /       2G\n"), "{text}");
        assert!(text.contains("           0         0 /        4\n"), "{text}");
        assert!(!text.contains("RUNNING") && !text.contains("IMAGE USAGE"), "{text}");
    }

    #[test]
    fn an_editor_gets_the_limits_without_what_is_used() {
        let text = editable(&Element::parse(OWNER).unwrap());
        let text = text.strip_prefix(EXPLANATION).unwrap();
        assert_eq!(
            text,
            "VM = [\n  MEMORY = \"-2\",\n  VMS = \"3\" ]\nDATASTORE = [\n  ID = \"100\",\n  SIZE = \"2048\" ]\n"
        );
    }
}
