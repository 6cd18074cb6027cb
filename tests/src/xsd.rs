//! Documents against the published schemas, judged by xmllint.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::command::{ORDINARY, run_with_input};
use crate::place;

/// Roots whose schema has another name than theirs.
const NAMES: [(&str, &str); 5] = [
    ("HISTORY_RECORDS", "acct"),
    ("SHOWBACK_RECORDS", "showback"),
    ("RAFT", "raftstatus"),
    ("VMTEMPLATE", "vmtemplate"),
    ("OPENNEBULA_CONFIGURATION", "opennebula_configuration"),
];

/// Documents without a published schema.
const WITHOUT: [&str; 2] = ["DEFAULT_USER_QUOTAS", "DEFAULT_GROUP_QUOTAS"];

/// Documents that were found good; the same text need not be judged twice.
static GOOD: Mutex<Option<HashSet<u64>>> = Mutex::new(None);

/// Says whether a document obeys the schema of its own root element.
///
/// # Errors
/// As [`validate`].
pub fn check(document: &str) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    document.hash(&mut hasher);
    let known = hasher.finish();
    let good = || GOOD.lock().unwrap_or_else(PoisonError::into_inner);
    if good().get_or_insert_default().contains(&known) {
        return Ok(());
    }
    let root: String =
        document.trim_start_matches('<').chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
    if WITHOUT.contains(&root.as_str()) {
        return Ok(());
    }
    let lower = root.to_ascii_lowercase();
    let name = match root.as_str() {
        "VM_POOL" if document.contains("<PERMISSIONS>") => "vm_pool_extended",
        root => NAMES.iter().find(|(known, _)| *known == root).map_or(lower.as_str(), |(_, name)| name),
    };
    validate(name, document)?;
    good().get_or_insert_default().insert(known);
    Ok(())
}

/// Says whether `document` obeys the schema `name` (`vm`, `image_pool`; a file of `tests/xsd` without its ending).
///
/// # Errors
/// When it does not (with xmllint's words), or the schema or xmllint is missing.
pub fn validate(name: &str, document: &str) -> Result<()> {
    let schema = place::source().join("tests/xsd").join(format!("{name}.xsd"));
    if !schema.is_file() {
        bail!("there is no schema {}", schema.display());
    }
    // Documents on the wire have no namespace; the schemas want one.
    let tag = document.find('<').and_then(|at| {
        let name = document[at + 1..].find(|c: char| !c.is_ascii_uppercase() && c != '_')?;
        (name > 0).then_some(at + 1 + name)
    });
    let Some(tag) = tag else {
        bail!("the document does not begin with an element");
    };
    let (start, rest) = document.split_at(tag);
    let document = format!("{start} xmlns=\"http://opennebula.org/XMLSchema\"{rest}");
    let mut xmllint = Command::new("xmllint");
    xmllint.args(["--noout", "--nonet", "--schema"]).arg(&schema).arg("-");
    run_with_input(&mut xmllint, Some(document.as_bytes()), ORDINARY)?
        .checked(&format!("checking a document against {name}.xsd"))
        .map(drop)
        .map_err(|error| error.context(document.chars().take(4000).collect::<String>()))
}
