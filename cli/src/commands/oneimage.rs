//! `oneimage`: images, backups among them, and their restore.

mod increments;
mod restore;
mod show_image;
mod verify;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};

use super::text_cell;
use super::verbs::{self, Changing, Face, Locking, Owning, Several, Show, Top};
use crate::objects::{self, DATASTORE, IMAGE};
use crate::show::yes_no;
use crate::states;
use crate::table::{Column, Fit, ListOptions};
use crate::units;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::{Connection, Tool, each, input, template_text};

/// Images and backups
#[derive(Parser, Debug)]
#[command(name = "oneimage", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the images
    List(List),
    /// The table again and again
    Top(Top),
    /// Everything about one image
    Show(Show),
    /// A new image, from options or a template
    Create(Create),
    /// New images and a VM template from a backup
    Restore(restore::Options),
    /// Look whether a backup can be given back
    Verify(verify::Options),
    /// The restore points in a backup, oldest first
    Increments(increments::Options),
    /// Remove images
    Delete(Delete),
    #[command(flatten)]
    Changing(Changing),
    #[command(flatten)]
    Owning(Owning),
    #[command(flatten)]
    Locking(Locking),
    /// Keep the changes that a VM makes
    Persistent(Several),
    /// Give each VM a copy of its own
    Nonpersistent(Several),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    options: ListOptions,
    /// Backups only
    #[arg(long)]
    backup: bool,
}

#[derive(Args, Debug)]
struct Delete {
    #[command(flatten)]
    target: Several,
    /// Drop the record whatever the datastore says; files may remain
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
struct Create {
    /// File with a template (- for standard input); options go before it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Datastore, id or name
    #[arg(short, long, value_name = "DATASTORE")]
    datastore: Option<String>,
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// File or URL to copy from, as the daemon sees it
    #[arg(long)]
    path: Option<String>,
    /// OS, DATABLOCK, CDROM, KERNEL, RAMDISK or CONTEXT
    #[arg(long = "type", value_name = "TYPE")]
    image_type: Option<String>,
    /// Size of an empty image, in MB
    #[arg(long, value_name = "MB")]
    size: Option<u64>,
    /// raw or qcow2
    #[arg(long)]
    format: Option<String>,
    /// Driver for the disk in the VM: raw or qcow2
    #[arg(long)]
    driver: Option<String>,
    /// Keep the changes that a VM makes
    #[arg(long)]
    persistent: bool,
    /// First letters of the device: vd, sd or hd
    #[arg(long)]
    prefix: Option<String>,
    /// A few words about it
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(list) => {
                let mut pool = IMAGE.pool_for(client, &list.options, "info")?;
                if list.backup {
                    pool.children.retain(states::is_backup);
                }
                FACE.table(&pool, &list.options)
            }
            Verb::Top(top) => top.draw(|options| FACE.list(client, options)),
            Verb::Show(show) => FACE.show(client, &show),
            Verb::Create(create) => run_create(client, &create),
            Verb::Restore(options) => restore::run(client, &options),
            Verb::Verify(options) => verify::run(client, &options),
            Verb::Increments(options) => increments::run(client, &options),
            Verb::Delete(options) => run_delete(client, &options),
            Verb::Changing(verb) => verb.run(client, &IMAGE, verbs::template_of),
            Verb::Owning(verb) => verb.run(client, &IMAGE),
            Verb::Locking(verb) => verb.run(client, &IMAGE),
            Verb::Persistent(target) => verbs::call_each(client, &IMAGE, &target.ids, "persistent", &[true.into()]),
            Verb::Nonpersistent(target) => verbs::call_each(client, &IMAGE, &target.ids, "persistent", &[false.into()]),
        }
    }
}

/// Begins to remove all, then waits for each that began.
fn run_delete(client: &Client, options: &Delete) -> Result<()> {
    let mut begun = Vec::new();
    let result = each(&IMAGE.ids(client, &options.target.ids)?, |id| {
        client.call("one.image.delete", [id.into(), options.force.into()])?;
        begun.push(id);
        Ok(())
    });
    let waited =
        if options.wait.wait { each(&begun, |id| restore::until_gone(client, id, &options.wait)) } else { Ok(()) };
    result.and(waited)
}

fn run_create(client: &Client, options: &Create) -> Result<()> {
    let Some(datastore) = &options.datastore else {
        bail!("Datastore to save the image is mandatory: -d datastore_id | name");
    };
    let text = create_text(options)?;
    let datastore = DATASTORE.id(client, datastore)?;
    let id = objects::put_id(&client.call("one.image.allocate", [text.into(), datastore.into()])?)?;
    if options.wait.wait { restore::until_ready(client, id, &options.wait) } else { Ok(()) }
}

/// Options first: of two scalars of one name the first counts.
fn create_text(options: &Create) -> Result<String> {
    let path = options.path.as_deref().map(absolute).transpose()?;
    let size = options.size.map(|size| size.to_string());
    let persistent = options.persistent.then(|| "YES".to_owned());
    let given = [
        ("NAME", options.name.clone()),
        ("PATH", path),
        ("TYPE", options.image_type.as_ref().map(|kind| kind.to_uppercase())),
        ("SIZE", size),
        ("FORMAT", options.format.clone()),
        ("DRIVER", options.driver.clone()),
        ("PERSISTENT", persistent),
        ("DEV_PREFIX", options.prefix.clone()),
        ("DESCRIPTION", options.description.clone()),
    ];
    let mut text = String::new();
    for (key, value) in given {
        if let Some(value) = value {
            text.push_str(&template_text::attribute(key, &value)?);
        }
    }
    // With options and no file, whatever standard input is is nobody's business.
    if options.file.is_some() || text.is_empty() {
        text.push_str(&input::read_required(options.file.as_deref())?);
    }
    Ok(text)
}

/// The daemon has another working directory than we: a relative path is made absolute, a URL stays.
fn absolute(path: &str) -> Result<String> {
    if path.contains("://") || path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let full = std::path::absolute(path).with_context(|| format!("--path {path}"))?;
    full.into_os_string()
        .into_string()
        .map_err(|_| anyhow::anyhow!("--path {path}: the working directory is not UTF-8"))
}

const FACE: Face = Face { kind: &IMAGE, columns: &COLUMNS, default: &DEFAULT, fill: show_image::fill };

const DEFAULT: [&str; 10] = ["ID", "USER", "GROUP", "NAME", "DATASTORE", "SIZE", "TYPE", "PER", "STAT", "RVMS"];

const COLUMNS: [Column; 13] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("DATASTORE", 10, text_cell!("DATASTORE")).fit(Fit::Share),
    Column::right("SIZE", 7, |image, _| units::mib(image.int_at("SIZE").unwrap_or(0))),
    Column::left("TYPE", 4, |image, _| states::image_type_short(image).to_owned()),
    Column::right("PER", 3, |image, _| yes_no(image.text_at("PERSISTENT")).to_owned()),
    Column::left("STAT", 4, |image, _| states::image_short(image).to_owned()),
    Column::right("RVMS", 4, text_cell!("RUNNING_VMS")),
    Column::left("FORMAT", 6, text_cell!("FORMAT")),
    Column::right("REGTIME", 14, |image, _| units::time(image.int_at("REGTIME").unwrap_or(0))),
    Column::right("VM", 4, |image, _| crate::show::join(&image.ids_at("VMS"))),
];
