//! Documents against the published schemas, judged by xmllint.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{ORDINARY, run_with_input};
use crate::place;

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
