//! The tools, a file each: their options and what they call.

pub mod onecluster;
pub mod onedatastore;
pub mod onehost;
pub mod oneimage;
pub mod onetemplate;
pub mod oneuser;
pub mod onevm;
pub mod onezone;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::objects::Kind;
use crate::show::{Page, ShowOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{each, input, terminal};

/// One object, by id or name.
#[derive(Args, Clone, Debug)]
pub struct One {
    /// Id or name
    #[arg(value_name = "ID")]
    pub id: String,
}

/// One or more objects.
#[derive(Args, Clone, Debug)]
pub struct Several {
    /// Id, name, list (0,1,5) or range (0..3)
    #[arg(value_name = "ID,...")]
    pub ids: String,
}

/// An object and its new name.
#[derive(Args, Clone, Debug)]
pub struct Rename {
    /// Id or name
    #[arg(value_name = "ID")]
    pub id: String,
    /// New name
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// An object and a text that changes it.
#[derive(Args, Clone, Debug)]
pub struct Update {
    /// Id or name
    #[arg(value_name = "ID")]
    pub id: String,
    /// File with the template (- for standard input); an editor opens when neither file nor pipe is there
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Change only what the text names; without it the text replaces all
    #[arg(short, long)]
    pub append: bool,
}

/// Shows one object: its raw document when asked for, else the page that `fill` writes.
fn show(
    client: &Client,
    kind: &Kind,
    argument: &str,
    options: &ShowOptions,
    label_width: usize,
    fill: impl FnOnce(&mut Page, &Element),
) -> Result<()> {
    let document = kind.info(client, kind.id(client, argument)?, options.decrypt)?;
    put_document(&document, options, label_width, fill)
}

/// As [`show`], for a document that is already here.
fn put_document(
    document: &Element,
    options: &ShowOptions,
    label_width: usize,
    fill: impl FnOnce(&mut Page, &Element),
) -> Result<()> {
    if let Some(raw) = options.raw(document) {
        return terminal::put(&raw);
    }
    let mut page = Page::new(label_width);
    fill(&mut page, document);
    terminal::put(page.finish())
}

fn rename(client: &Client, kind: &Kind, options: &Rename) -> Result<()> {
    let id = kind.id(client, &options.id)?;
    client.call(&kind.method("rename"), [id.into(), options.name.as_str().into()])?;
    Ok(())
}

/// `update` and `updateconf`: the text of the file or pipe, else what `present` gives, edited.
fn update(
    client: &Client,
    kind: &Kind,
    verb: &str,
    options: &Update,
    present: impl FnOnce(&Element) -> String,
) -> Result<()> {
    let id = kind.id(client, &options.id)?;
    let send = |text: &str| {
        client.call(&kind.method(verb), [id.into(), text.into(), i64::from(options.append).into()])?;
        Ok(())
    };
    match input::read(options.file.as_deref())? {
        Some(text) => send(&text),
        None => {
            let text = if options.append { String::new() } else { present(&kind.info(client, id, false)?) };
            input::edit(&text, send)
        }
    }
}

/// The TEMPLATE of an object, for an editor.
fn template_of(document: &Element) -> String {
    document.at("TEMPLATE").map(|template| crate::show::template_text(template, &[])).unwrap_or_default()
}

fn delete(client: &Client, kind: &Kind, argument: &str) -> Result<()> {
    each(&kind.ids(client, argument)?, |id| client.call(&kind.method("delete"), [id.into()]).map(|_| ()))
}

/// The text of a cell for USER: the name, or the id with `--numeric`.
fn user_cell(object: &Element, options: &crate::table::ListOptions) -> String {
    object.text_at(if options.numeric { "UID" } else { "UNAME" }).to_owned()
}

/// The text of a cell for GROUP.
fn group_cell(object: &Element, options: &crate::table::ListOptions) -> String {
    object.text_at(if options.numeric { "GID" } else { "GNAME" }).to_owned()
}

/// The text at a fixed path.
macro_rules! text_cell {
    ($path:literal) => {
        |object: &crate::xml::Element, _: &crate::table::ListOptions| object.text_at($path).to_owned()
    };
}
use text_cell;
