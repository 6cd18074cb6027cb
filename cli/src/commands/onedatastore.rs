//! `onedatastore`: where images and backups lie.

mod usage;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::making::{self, InCluster, Source};
use super::text_cell;
use super::verbs::{self, Changing, Enabling, Face, Owning, Several, Viewing};
use crate::objects::DATASTORE;
use crate::show::{Page, join, or_dash};
use crate::states;
use crate::table::{Column, Fit, ListOptions};
use crate::terminal;
use crate::units;
use crate::watch::{self, Look, WaitOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

/// Datastores for images, systems and backups
#[derive(Parser, Debug)]
#[command(name = "onedatastore", version)]
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
    /// A new datastore, from options or a template
    Create(Create),
    /// Remove datastores; they must be empty
    Delete(Several),
    #[command(flatten)]
    Changing(Changing),
    #[command(flatten)]
    Owning(Owning),
    #[command(flatten)]
    Enabling(Enabling),
    /// Make images of the restore points that no image has, from what the datastore holds
    ImportBackups(ImportBackups),
    /// How backup datastores fill, and when they are full
    Usage(usage::Options),
}

#[derive(Args, Debug)]
struct ImportBackups {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
struct Create {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    cluster: InCluster,
    /// What it holds
    #[arg(long = "type", value_enum, ignore_case = true, value_name = "TYPE")]
    kind: Option<Holds>,
    /// Driver: fs for images; restic or nfs for backups
    #[arg(long = "ds_mad", alias = "ds-mad", value_name = "DRIVER")]
    ds_mad: Option<String>,
    /// Driver that brings disks to hosts: qcow2
    #[arg(long = "tm_mad", alias = "tm-mad", value_name = "DRIVER")]
    tm_mad: Option<String>,
    /// Directory; default is one of the daemon's
    #[arg(long = "base_path", alias = "base-path", value_name = "DIR")]
    base_path: Option<String>,
}

/// TYPE of a datastore, with and without its ending.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Holds {
    #[value(alias = "IMAGE_DS")]
    Image,
    #[value(alias = "SYSTEM_DS")]
    System,
    #[value(alias = "FILE_DS")]
    File,
    #[value(alias = "BACKUP_DS")]
    Backup,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::Viewing(verb) => verb.run(client, &FACE),
            Verb::Create(options) => create(client, &options),
            Verb::Delete(target) => verbs::delete(client, &DATASTORE, &target),
            Verb::Changing(verb) => verb.run(client, &DATASTORE, verbs::template_of),
            Verb::Owning(verb) => verb.run(client, &DATASTORE),
            Verb::Enabling(verb) => verb.run(client, &DATASTORE),
            Verb::ImportBackups(options) => import_backups(client, &options),
            Verb::Usage(options) => usage::run(client, &options),
        }
    }
}

fn create(client: &Client, options: &Create) -> Result<()> {
    let kind = options.kind.and_then(|kind| kind.to_possible_value());
    let given = making::attributes(&[
        ("TYPE", kind.map(|kind| format!("{}_DS", kind.get_name()))),
        ("DS_MAD", options.ds_mad.clone()),
        ("TM_MAD", options.tm_mad.clone()),
        ("BASE_PATH", options.base_path.clone()),
    ])?;
    let cluster = options.cluster.id(client)?;
    options.source.make(client, &DATASTORE, &given, &[cluster.into()]).map(|_| ())
}

fn import_backups(client: &Client, options: &ImportBackups) -> Result<()> {
    let id = DATASTORE.id(client, &options.id)?;
    client.call("one.datastore.importbackups", [id.into()])?;
    if !options.wait.wait {
        return Ok(());
    }
    let datastore = watch::until(&format!("Datastore {id}"), &options.wait, || {
        let datastore = DATASTORE.info(client, id, false)?;
        Ok(match datastore.at("TEMPLATE/IMPORTING_BACKUPS") {
            Some(_) => Look::Busy("importing backups".to_owned(), None),
            None => Look::Done(datastore),
        })
    })?;
    let outcome = |name: &str| datastore.text_at(&format!("TEMPLATE/IMPORTED_BACKUPS/{name}")).to_owned();
    if !outcome("ERROR").is_empty() {
        bail!("datastore {id}: {}", outcome("ERROR"));
    }
    terminal::put_line(&format!(
        "Datastore {id}: {} images made, {} restore points taken up, {} known already, {} left out",
        outcome("IMAGES"),
        outcome("POINTS"),
        outcome("KNOWN"),
        outcome("LEFT_OUT")
    ))?;
    if !outcome("NOTES").is_empty() {
        terminal::complain(&terminal::one_line(&outcome("NOTES")));
    }
    Ok(())
}

fn fill(page: &mut Page, datastore: &Element) {
    let text = |name| datastore.text_at(name);
    page.header(&format!("DATASTORE {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("USER", text("UNAME"))
        .line("GROUP", text("GNAME"))
        .line("CLUSTERS", or_dash(&join(&datastore.ids_at("CLUSTERS"))))
        .line("TYPE", states::datastore_type(datastore))
        .line("DS_MAD", text("DS_MAD"))
        .line("TM_MAD", text("TM_MAD"))
        .line("BASE PATH", text("BASE_PATH"))
        .line("DISK_TYPE", states::disk_type(datastore))
        .line("STATE", states::datastore_state(datastore));
    // A datastore that nobody measured has no total.
    let is_measured = datastore.int_at("TOTAL_MB").is_some_and(|mb| mb > 0);
    let size = |name| datastore.int_at(name).filter(|_| is_measured).map_or("-".to_owned(), units::mib);
    page.header("DATASTORE CAPACITY")
        .line("TOTAL:", size("TOTAL_MB"))
        .line("FREE:", size("FREE_MB"))
        .line("USED:", size("USED_MB"))
        .line("LIMIT:", datastore.int_at("TEMPLATE/LIMIT_MB").map_or("-".to_owned(), units::mib))
        .permissions(datastore)
        .template("DATASTORE TEMPLATE", datastore.at("TEMPLATE"), &[])
        .header("IMAGES");
    for id in datastore.ids_at("IMAGES") {
        page.raw(&id.to_string());
    }
}

const FACE: Face = Face { kind: &DATASTORE, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 10] = ["ID", "NAME", "SIZE", "AVA", "CLUSTERS", "IMAGES", "TYPE", "DS", "TM", "STAT"];

const COLUMNS: [Column; 13] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("NAME", 20, text_cell!("NAME")).fit(Fit::Share),
    Column::right("SIZE", 7, size),
    Column::left("AVA", 5, |datastore, _| free_share(datastore)),
    Column::left("CLUSTERS", 12, |datastore, _| join(&datastore.ids_at("CLUSTERS"))),
    Column::right("IMAGES", 6, |datastore, _| datastore.ids_at("IMAGES").len().to_string()),
    Column::left("TYPE", 4, |datastore, _| states::datastore_type_short(datastore).to_owned()),
    Column::left("DS", 7, text_cell!("DS_MAD")),
    Column::left("TM", 7, text_cell!("TM_MAD")),
    Column::left("STAT", 4, |datastore, _| states::datastore_short(datastore).to_owned()),
    // What newer tools of OpenNebula, and so users' layouts, call it.
    Column::left("AVAIL", 5, |datastore, _| free_share(datastore)),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
];

fn size(datastore: &Element, options: &ListOptions) -> String {
    datastore.int_at("TOTAL_MB").filter(|mb| *mb > 0).map_or("-".to_owned(), |mb| options.mib(mb))
}

/// Free space in per cent; `-` when the datastore reports no capacity.
fn free_share(datastore: &Element) -> String {
    match (datastore.int_at("TOTAL_MB"), datastore.int_at("FREE_MB")) {
        (Some(total), Some(free)) if total > 0 => format!("{:.0}%", free as f64 * 100.0 / total as f64),
        _ => "-".to_owned(),
    }
}
