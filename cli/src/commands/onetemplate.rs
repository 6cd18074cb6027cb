//! `onetemplate`: virtual machine templates.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::onevm::reach::{self, Goal};
use super::{Rename, Several, Update, text_cell};
use crate::objects::{self, TEMPLATE};
use crate::show::{Page, ShowOptions, lock};
use crate::table::{self, Column, Fit, ListOptions};
use crate::units;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each, input, template_text, terminal};

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
    /// A table of the templates
    List(ListOptions),
    /// Everything about one template
    Show(Show),
    /// A new template
    Create(Create),
    /// A VM from a template
    Instantiate(Instantiate),
    /// Change the template
    Update(Update),
    /// Give a new name
    Rename(Rename),
    /// Remove templates
    Delete(Delete),
}

#[derive(Args, Debug)]
struct Show {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    options: ShowOptions,
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
            Verb::List(options) => table::list(
                &TEMPLATE.pool_for(client, &options, "info")?,
                TEMPLATE.member,
                &COLUMNS,
                &DEFAULT,
                &options,
            ),
            Verb::Show(show) => super::show(client, &TEMPLATE, &show.id, &show.options, 15, fill),
            Verb::Create(create) => {
                let mut text = input::read_required(create.file.as_deref())?;
                if let Some(name) = &create.name {
                    text = format!("{}{text}", template_text::attribute("NAME", name)?);
                }
                objects::put_id(&client.call("one.template.allocate", [text.into()])?).map(|_| ())
            }
            Verb::Instantiate(options) => instantiate(client, &options),
            Verb::Update(options) => super::update(client, &TEMPLATE, "update", &options, super::template_of),
            Verb::Rename(options) => super::rename(client, &TEMPLATE, &options),
            Verb::Delete(options) => each(&TEMPLATE.ids(client, &options.target.ids)?, |id| {
                client.call("one.template.delete", [id.into(), options.recursive.into()]).map(|_| ())
            }),
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

const DEFAULT: [&str; 5] = ["ID", "USER", "GROUP", "NAME", "REGTIME"];

const COLUMNS: [Column; 5] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("NAME", 27, text_cell!("NAME")).fit(Fit::Share),
    Column::right("REGTIME", 15, |template, _| units::time(template.int_at("REGTIME").unwrap_or(0))),
];
