//! `onevm`: virtual machines and their backups.

mod actions;
mod backup;
mod backups;
mod capacity;
mod cards;
pub(super) mod create;
mod disks;
mod listing;
mod measures;
mod networking;
mod placing;
pub(super) mod reach;
mod recover;
mod restore;
mod saving;
mod settling;
mod show_vm;
mod ssh;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::scheduling::Scheduling;
use super::verbs::{Changing, Locking, One, Owning, Several, Top, Update};
use crate::objects::{DATASTORE, VM};
use crate::show::ShowOptions;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each, events, template_text, terminal};
use actions::Action;
use cards::Cards;
use disks::Disks;
pub(super) use listing::FACE;
use listing::List;
use placing::Placing;

/// Virtual machines and their backups
#[derive(Parser, Debug)]
#[command(name = "onevm", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the VMs
    List(Box<List>),
    /// The table again and again
    Top(Box<Top<List>>),
    /// Everything about one VM
    Show(Show),
    /// VMs from options or a template file, without a stored template
    Create(Box<create::Options>),
    /// Change the configuration: BACKUP_CONFIG, CONTEXT, OS, …
    Updateconf(Update),
    #[command(flatten)]
    Changing(Changing),
    /// Back up a VM, at once or on a schedule
    Backup(backup::Options),
    /// Every restore point of a VM, over all images and datastores, newest first
    Backups(backups::Options),
    /// Give up the running backup
    BackupCancel(One),
    /// Put disks of a VM that is off back from a backup
    Restore(restore::Options),
    /// FULL or INCREMENT
    Backupmode(Backupmode),
    #[command(flatten)]
    Action(Action),
    #[command(flatten)]
    Placing(Placing),
    #[command(flatten)]
    Disks(Disks),
    #[command(flatten)]
    Cards(Cards),
    /// Change processors and memory
    Resize(capacity::Options),
    /// A VM that is off as a new template, with copies of its disks
    Save(saving::Options),
    /// What a VM was measured to use
    Monitoring(measures::Options),
    /// Say how a stuck operation ended
    Recover(recover::Options),
    #[command(flatten)]
    Scheduling(Scheduling),
    /// What was done, newest first
    Events(events::Options),
    /// Log in to the guest
    Ssh(ssh::Options),
    /// Terminate VMs when they are so many days old, with a warning a day before
    CreateChart(CreateChart),
    #[command(flatten)]
    Owning(Owning),
    #[command(flatten)]
    Locking(Locking),
}

#[derive(Args, Debug)]
struct Show {
    /// Id or name
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    id: String,
    #[command(flatten)]
    options: ShowOptions,
    /// The template with what the blocks above it show
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct Backupmode {
    /// Id, name, list (0,1,5) or range (0..3)
    #[arg(value_name = "ID,...")]
    ids: String,
    /// FULL or INCREMENT
    #[arg(value_enum, ignore_case = true)]
    mode: Mode,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Mode {
    Full,
    Increment,
}

#[derive(Args, Debug)]
struct CreateChart {
    #[command(flatten)]
    target: Several,
    /// How old the VMs get
    #[arg(long, value_name = "DAYS", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(list) => list.run(client),
            Verb::Top(top) => top.draw(|list| list.run(client)),
            Verb::Show(show) => show_vm::show(client, &show.id, &show.options, show.all),
            Verb::Create(options) => create::run(client, &options),
            Verb::Updateconf(options) => options.run(client, &VM, "updateconf", show_vm::present_configuration),
            Verb::Changing(verb) => verb.run(client, &VM, show_vm::present_user_template),
            Verb::Backup(options) => backup::run(client, &options),
            Verb::Backups(options) => backups::run(client, &options),
            Verb::BackupCancel(target) => {
                client.call("one.vm.backupcancel", [VM.id(client, &target.id)?.into()])?;
                Ok(())
            }
            Verb::Restore(options) => restore::run(client, &options),
            Verb::Backupmode(options) => run_backupmode(client, &options),
            Verb::Action(action) => action.run(client),
            Verb::Placing(verb) => verb.run(client),
            Verb::Disks(verb) => verb.run(client),
            Verb::Cards(verb) => verb.run(client),
            Verb::Resize(options) => capacity::run(client, &options),
            Verb::Save(options) => saving::run(client, &options),
            Verb::Monitoring(options) => measures::run(client, &options),
            Verb::Recover(options) => recover::run(client, &options),
            Verb::Scheduling(verb) => verb.run(client, &VM, |id| Ok((VM.info(client, id, false)?, "USER_TEMPLATE"))),
            Verb::Events(options) => options.run(client, &VM, false),
            Verb::Ssh(options) => ssh::run(client, &options),
            Verb::CreateChart(options) => create_chart(client, &options),
            Verb::Owning(verb) => verb.run(client, &VM),
            Verb::Locking(verb) => verb.run(client, &VM),
        }
    }
}

fn run_backupmode(client: &Client, options: &Backupmode) -> Result<()> {
    let mode = match options.mode {
        Mode::Full => "FULL",
        Mode::Increment => "INCREMENT",
    };
    let text = template_text::vector("BACKUP_CONFIG", &[("MODE", mode.to_owned())])?;
    each(&VM.ids(client, &options.ids)?, |id| {
        client.call("one.vm.updateconf", [id.into(), text.as_str().into(), 1.into()]).map(|_| ())
    })
}

/// What OpenNebula's onevm.yaml has by default: `terminate` counted from the creation of each VM.
fn create_chart(client: &Client, options: &CreateChart) -> Result<()> {
    let after = i64::from(options.days) * 86_400;
    let parts = [
        ("ACTION", "terminate".to_owned()),
        ("TIME", format!("+{after}")),
        ("WARNING", format!("+{}", after - 86_400)),
    ];
    let text = template_text::vector("SCHED_ACTION", &parts)?;
    each(&VM.ids(client, &options.target.ids)?, |id| {
        client.call("one.vm.schedadd", [id.into(), text.as_str().into()])?;
        terminal::put_line(&format!("VM {id}: terminate scheduled after +{after}s from start"))
    })
}

/// Resolves `-d`: an id, a name, or −1 when the chain's own datastore is meant.
fn datastore_id(client: &Client, datastore: Option<&str>) -> Result<i64> {
    datastore.map_or(Ok(-1), |word| DATASTORE.id(client, word))
}

fn last_record(vm: &Element) -> Option<&Element> {
    vm.at("HISTORY_RECORDS")?.all("HISTORY").last()
}
