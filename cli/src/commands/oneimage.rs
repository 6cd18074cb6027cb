//! `oneimage`: images, backups among them, and their restore.

mod create;
mod increments;
mod orphans;
mod restore;
mod show_image;
mod verify;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::making::Duplicate;
use super::text_cell;
use super::verbs::{self, Changing, Enabling, Face, Locking, One, Owning, Several, Show, Top};
use crate::objects::{DATASTORE, IMAGE};
use crate::show::yes_no;
use crate::states;
use crate::table::{self, Column, Fit, ListOptions};
use crate::units;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each};

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
    Top(Top<List>),
    /// Everything about one image
    Show(Show),
    /// A new image, from options or a template
    Create(Box<create::Options>),
    /// A copy of an image
    Clone(Copy),
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
    #[command(flatten)]
    Enabling(Enabling),
    /// Keep the changes that a VM makes
    Persistent(Several),
    /// Give each VM a copy of its own
    Nonpersistent(Several),
    /// Change the type
    Chtype(Chtype),
    /// Go back to a snapshot of an image
    SnapshotRevert(Snapshot),
    /// Remove a snapshot of an image
    SnapshotDelete(Snapshot),
    /// Go back to a snapshot and remove all of them
    SnapshotFlatten(Snapshot),
    /// Ids of the images that no VM and no template uses
    Orphans,
}

#[derive(Args, Clone, Debug)]
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
struct Copy {
    #[command(flatten)]
    copy: Duplicate,
    /// Datastore for the copy, id or name; without it that of the image
    #[arg(short, long, value_name = "DATASTORE")]
    datastore: Option<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
struct Chtype {
    #[command(flatten)]
    target: Several,
    /// OS, DATABLOCK or CDROM
    #[arg(value_name = "TYPE")]
    kind: String,
}

#[derive(Args, Debug)]
struct Snapshot {
    #[command(flatten)]
    image: One,
    /// Id of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: u32,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(list) => list.run(client),
            Verb::Top(top) => top.draw(|list| list.run(client)),
            Verb::Show(show) => show_image::show(client, &show),
            Verb::Create(options) => create::run(client, &options),
            Verb::Clone(options) => {
                let datastore = options.datastore.as_deref().map_or(Ok(-1), |word| DATASTORE.id(client, word))?;
                let id = options.copy.run(client, &IMAGE, &[datastore.into()])?;
                if options.wait.wait { restore::until_ready(client, id, &options.wait) } else { Ok(()) }
            }
            Verb::Restore(options) => restore::run(client, &options),
            Verb::Verify(options) => verify::run(client, &options),
            Verb::Increments(options) => increments::run(client, &options),
            Verb::Delete(options) => run_delete(client, &options),
            Verb::Changing(verb) => verb.run(client, &IMAGE, verbs::template_of),
            Verb::Owning(verb) => verb.run(client, &IMAGE),
            Verb::Locking(verb) => verb.run(client, &IMAGE),
            Verb::Enabling(verb) => verb.run(client, &IMAGE),
            Verb::Chtype(options) => {
                let kind = options.kind.to_uppercase();
                verbs::call_each(client, &IMAGE, &options.target.ids, "chtype", &[kind.into()])
            }
            Verb::SnapshotRevert(options) => options.call(client, "snapshotrevert"),
            Verb::SnapshotDelete(options) => options.call(client, "snapshotdelete"),
            Verb::SnapshotFlatten(options) => options.call(client, "snapshotflatten"),
            Verb::Orphans => orphans::run(client),
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

impl List {
    fn run(&self, client: &Client) -> Result<()> {
        if self.options.describe {
            return table::describe(&COLUMNS);
        }
        let mut pool = IMAGE.pool_for(client, &self.options, "info")?;
        if self.backup {
            pool.children.retain(states::is_backup);
        }
        FACE.table(&pool, &self.options)
    }
}

impl Snapshot {
    fn call(&self, client: &Client, verb: &str) -> Result<()> {
        let id = IMAGE.id(client, &self.image.id)?;
        client.call(&IMAGE.method(verb), [id.into(), i64::from(self.snapshot).into()]).map(|_| ())
    }
}

/// Its page is made by [`show_image::show`], which lists VMs, too.
const FACE: Face = Face { kind: &IMAGE, columns: &COLUMNS, default: &DEFAULT, fill: |_, _| {} };

const DEFAULT: [&str; 10] = ["ID", "USER", "GROUP", "NAME", "DATASTORE", "SIZE", "TYPE", "PER", "STAT", "RVMS"];

const COLUMNS: [Column; 14] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("DATASTORE", 10, text_cell!("DATASTORE")).fit(Fit::Share),
    Column::right("SIZE", 7, |image, options| options.mib(image.int_at("SIZE").unwrap_or(0))),
    Column::left("TYPE", 4, |image, _| states::image_type_short(image).to_owned()),
    Column::right("PER", 3, persistent),
    Column::left("STAT", 4, |image, _| states::image_short(image).to_owned()),
    Column::right("RVMS", 4, text_cell!("RUNNING_VMS")),
    Column::left("FORMAT", 6, text_cell!("FORMAT")),
    Column::right("REGTIME", 14, |image, _| units::time(image.int_at("REGTIME").unwrap_or(0))),
    Column::right("VM", 4, |image, _| crate::show::join(&image.ids_at("VMS"))),
    // What OpenNebula's tool calls it, which cuts the title to its width.
    Column::right("PERSISTENT", 3, persistent),
];

fn persistent(image: &Element, _: &ListOptions) -> String {
    yes_no(image.text_at("PERSISTENT")).to_owned()
}
