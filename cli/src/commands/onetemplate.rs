//! `onetemplate`: virtual machine templates.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::onevm::reach::{self, Goal};
use super::text_cell;
use super::verbs::{self, Changing, Face, Locking, Owning, Several, Viewing};
use crate::objects::{self, TEMPLATE};
use crate::show::{Page, lock};
use crate::table::{Column, Fit};
use crate::units;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, input, template_text, terminal};

/// Virtual machine templates
#[derive(Parser, Debug)]
#[command(name = "onetemplate", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    #[command(flatten)]
    Viewing(Viewing),
    /// A new template
    Create(Create),
    /// A VM from a template
    Instantiate(Instantiate),
    #[command(flatten)]
    Changing(Changing),
    /// Remove templates
    Delete(Delete),
    #[command(flatten)]
    Owning(Owning),
    #[command(flatten)]
    Locking(Locking),
}

#[derive(Args, Debug)]
struct Create {
    /// File with the template (- or nothing for standard input)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name, instead of the one in the template
    #[arg(long)]
    name: Option<String>,
}

#[derive(Args, Debug)]
struct Instantiate {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// File with attributes that replace those of the template (- for standard input)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name of the VM
    #[arg(long)]
    name: Option<String>,
    /// Create it in state HOLD
    #[arg(long)]
    hold: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
struct Delete {
    #[command(flatten)]
    target: Several,
    /// Remove the images of the disks, too
    #[arg(long)]
    recursive: bool,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::Viewing(verb) => verb.run(client, &FACE),
            Verb::Create(create) => {
                let mut text = input::read_required(create.file.as_deref())?;
                if let Some(name) = &create.name {
                    text = format!("{}{text}", template_text::attribute("NAME", name)?);
                }
                objects::put_id(&client.call("one.template.allocate", [text.into()])?).map(|_| ())
            }
            Verb::Instantiate(options) => instantiate(client, &options),
            Verb::Changing(verb) => verb.run(client, &TEMPLATE, verbs::template_of),
            Verb::Delete(options) => {
                verbs::call_each(client, &TEMPLATE, &options.target.ids, "delete", &[options.recursive.into()])
            }
            Verb::Owning(verb) => verb.run(client, &TEMPLATE),
            Verb::Locking(verb) => verb.run(client, &TEMPLATE),
        }
    }
}

fn instantiate(client: &Client, options: &Instantiate) -> Result<()> {
    let template = TEMPLATE.id(client, &options.id)?;
    // Standard input is read only when asked for: instantiate is often called in loops that read a list.
    let extra = match &options.file {
        Some(file) => input::read_required(Some(file))?,
        None => String::new(),
    };
    let name = options.name.as_deref().unwrap_or_default();
    let params = [template.into(), name.into(), options.hold.into(), extra.into(), false.into()];
    let id = client.call("one.template.instantiate", params)?.id()?;
    terminal::put_line(&format!("VM ID: {id}"))?;
    if options.wait.wait {
        reach::reach(client, id, if options.hold { Goal::Held } else { Goal::Running }, &options.wait)?;
    }
    Ok(())
}

fn fill(page: &mut Page, template: &Element) {
    let text = |name| template.text_at(name);
    page.header(&format!("TEMPLATE {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("USER", text("UNAME"))
        .line("GROUP", text("GNAME"))
        .line("LOCK", lock(template))
        .line("REGISTER TIME", units::time(template.int_at("REGTIME").unwrap_or(0)))
        .permissions(template)
        .template("TEMPLATE CONTENTS", template.at("TEMPLATE"), &[]);
}

const FACE: Face = Face { kind: &TEMPLATE, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 5] = ["ID", "USER", "GROUP", "NAME", "REGTIME"];

const COLUMNS: [Column; 5] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("NAME", 27, text_cell!("NAME")).fit(Fit::Share),
    Column::right("REGTIME", 15, |template, _| units::time(template.int_at("REGTIME").unwrap_or(0))),
];
