//! `onetemplate`: virtual machine templates.

mod user_inputs;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::making::{self, Duplicate};
use super::onevm::create::SeveralVms;
use super::text_cell;
use super::verbs::{self, Changing, Chgrp, Chmod, Chown, Face, LABEL_WIDTH, Locking, Several, Show, Top};
use super::vm_options::VmOptions;
use crate::objects::TEMPLATE;
use crate::show::{Page, lock};
use crate::table::{Column, Fit, ListOptions};
use crate::units;
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
    /// A table of all
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one
    Show(ShowTemplate),
    /// A new template, from options or a file
    Create(Box<Create>),
    /// VMs from a template
    Instantiate(Box<Instantiate>),
    /// A copy of a template
    Clone(Recursive<Duplicate>),
    #[command(flatten)]
    Changing(Changing),
    /// Remove templates
    Delete(Recursive<Several>),
    /// Give to another user, and group
    Chown(Chown),
    /// Give to another group
    Chgrp(Chgrp),
    /// Change who may use, manage and administer it
    Chmod(Recursive<Chmod>),
    #[command(flatten)]
    Locking(Locking),
}

#[derive(Args, Debug)]
struct ShowTemplate {
    #[command(flatten)]
    show: Show,
    /// With what the images and networks of its disks and cards would give a VM
    #[arg(long)]
    extended: bool,
}

/// A verb that can include the images of the template's disks.
#[derive(Args, Debug)]
struct Recursive<T: Args> {
    #[command(flatten)]
    verb: T,
    /// The images of its disks, too
    #[arg(short = 'R', short_alias = 'r', long)]
    recursive: bool,
}

#[derive(Args, Debug)]
struct Create {
    /// File with the template (- or nothing for standard input); options go before it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name, instead of the one in the template
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    vm: VmOptions,
    /// Print the template instead of creating it
    #[arg(long)]
    dry: bool,
}

#[derive(Args, Debug)]
struct Instantiate {
    /// Id or name
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    id: String,
    /// File with attributes that replace those of the template (- for standard input)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    several: SeveralVms,
    /// Give the VM persistent copies of the images
    #[arg(long)]
    persistent: bool,
    /// Values for what the template asks for in USER_INPUTS
    #[arg(long = "user_inputs", alias = "user-inputs", value_name = "NAME=VALUE,...", value_delimiter = ',')]
    user_inputs: Vec<String>,
    #[command(flatten)]
    vm: VmOptions,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(options) => FACE.list(client, &options),
            Verb::Top(top) => top.draw(|options| FACE.list(client, options)),
            Verb::Show(options) => show(client, &options),
            Verb::Create(options) => {
                let text = options.vm.with_file(options.name.as_deref(), options.file.as_deref())?;
                if options.dry {
                    return terminal::put(&text);
                }
                let unread = options.file.is_none() && options.vm.is_given()?;
                let made = making::allocate(client, &TEMPLATE, [text.into()]);
                made.map(|_| ()).map_err(|error| making::of_unread(error, unread))
            }
            Verb::Instantiate(options) => instantiate(client, &options),
            Verb::Clone(options) => options.verb.run(client, &TEMPLATE, &[options.recursive.into()]).map(|_| ()),
            Verb::Changing(verb) => verb.run(client, &TEMPLATE, verbs::template_of),
            Verb::Delete(options) => {
                verbs::call_each(client, &TEMPLATE, &options.verb.ids, "delete", &[options.recursive.into()])
            }
            Verb::Chown(options) => options.run(client, &TEMPLATE),
            Verb::Chgrp(options) => options.run(client, &TEMPLATE),
            Verb::Chmod(options) => options.verb.run(client, &TEMPLATE, &[options.recursive.into()]),
            Verb::Locking(verb) => verb.run(client, &TEMPLATE),
        }
    }
}

fn show(client: &Client, options: &ShowTemplate) -> Result<()> {
    let show = &options.show;
    let id = TEMPLATE.id(client, &show.id)?;
    let params = [id.into(), options.extended.into(), show.options.decrypt.into()];
    let document = Element::parse(&client.call("one.template.info", params)?.text())?;
    verbs::put_document(&document, &show.options, LABEL_WIDTH, fill)
}

fn instantiate(client: &Client, options: &Instantiate) -> Result<()> {
    let template = TEMPLATE.id(client, &options.id)?;
    let given = options.vm.text()?;
    // Standard input is read only when asked for: instantiate is often called in loops that read a list.
    let file = options.file.as_deref().map(|file| input::read_required(Some(file))).transpose()?.unwrap_or_default();
    let document = TEMPLATE.info(client, template, false)?;
    let answers = user_inputs::answers(&document, &options.user_inputs, &format!("{given}{file}"))?;
    let extra = template_text::in_front(&format!("{answers}{given}"), &file)?;
    let (hold, persistent) = (options.several.hold, options.persistent);
    options.several.run(client, |name| {
        let name = name.unwrap_or_default();
        let params = [template.into(), name.into(), hold.into(), extra.as_str().into(), persistent.into()];
        let id = client.call("one.template.instantiate", params)?.id()?;
        terminal::put_line(&format!("VM ID: {id}"))?;
        Ok(id)
    })
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
