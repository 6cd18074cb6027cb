//! `onevm`: virtual machines and their backups.

mod actions;
mod backup;
mod backups;
pub(super) mod reach;
mod restore;
mod show_vm;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::scheduling::Scheduling;
use super::text_cell;
use super::verbs::{Changing, Face, Locking, One, Owning, Several, Top, Update};
use crate::objects::{self, DATASTORE, VM};
use crate::show::ShowOptions;
use crate::states;
use crate::table::{Column, Fit, ListOptions};
use crate::units;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each, events, input, template_text, terminal};
use actions::Action;
use reach::Goal;

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
    List(List),
    /// The table again and again
    Top(Top),
    /// Everything about one VM
    Show(Show),
    /// A VM from a template file, without a stored template
    Create(Create),
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
    /// Say how a stuck operation ended
    Recover(Recover),
    #[command(flatten)]
    Scheduling(Scheduling),
    /// What was done, newest first
    Events(events::Options),
    /// Terminate VMs when they are so many days old, with a warning a day before
    CreateChart(CreateChart),
    #[command(flatten)]
    Owning(Owning),
    #[command(flatten)]
    Locking(Locking),
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    options: ListOptions,
    /// Full documents with --xml and --json
    #[arg(long)]
    extended: bool,
}

#[derive(Args, Debug)]
struct Show {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    options: ShowOptions,
    /// Accepted for compatibility: everything is shown anyway
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
struct Create {
    /// File with the template (- or nothing for standard input)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name, instead of the one in the template
    #[arg(long)]
    name: Option<String>,
    /// Create it in state HOLD
    #[arg(long)]
    hold: bool,
    #[command(flatten)]
    wait: WaitOptions,
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
struct Recover {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    result: RecoverResult,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
struct RecoverResult {
    /// It failed
    #[arg(long)]
    failure: bool,
    /// It succeeded
    #[arg(long)]
    success: bool,
    /// Try it again
    #[arg(long)]
    retry: bool,
    /// Remove the VM
    #[arg(long)]
    delete: bool,
    /// Remove the VM and create it anew with fresh disks
    #[arg(long)]
    recreate: bool,
    /// Remove the record only, nothing on the host
    #[arg(long)]
    delete_db: bool,
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
            Verb::List(list) => {
                let verb = if list.extended { "infoextended" } else { "info" };
                FACE.table(&VM.pool_for(client, &list.options, verb)?, &list.options)
            }
            Verb::Top(top) => top.draw(|options| FACE.list(client, options)),
            Verb::Show(show) => show_vm::show(client, &show.id, &show.options),
            Verb::Create(create) => run_create(client, &create),
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
            Verb::Recover(options) => run_recover(client, &options),
            Verb::Scheduling(verb) => verb.run(client, &VM, |id| Ok((VM.info(client, id, false)?, "USER_TEMPLATE"))),
            Verb::Events(options) => options.run(client, &VM, false),
            Verb::CreateChart(options) => create_chart(client, &options),
            Verb::Owning(verb) => verb.run(client, &VM),
            Verb::Locking(verb) => verb.run(client, &VM),
        }
    }
}

fn run_create(client: &Client, options: &Create) -> Result<()> {
    let mut text = input::read_required(options.file.as_deref())?;
    if let Some(name) = &options.name {
        // Of two scalars of one name the first counts.
        text = format!("{}{text}", template_text::attribute("NAME", name)?);
    }
    let id = objects::put_id(&client.call("one.vm.allocate", [text.into(), options.hold.into()])?)?;
    if options.wait.wait {
        let goal = if options.hold { Goal::Held } else { Goal::Running };
        reach::reach(client, id, goal, &options.wait)?;
    }
    Ok(())
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

fn run_recover(client: &Client, options: &Recover) -> Result<()> {
    let result = &options.result;
    let choices = [result.failure, result.success, result.retry, result.delete, result.recreate, result.delete_db];
    let Some(operation) = (0_i64..).zip(choices).find(|(_, chosen)| *chosen).map(|(number, _)| number) else {
        bail!("Need to specify the result of the pending action.");
    };
    each(&VM.ids(client, &options.target.ids)?, |id| {
        client.call("one.vm.recover", [id.into(), operation.into()]).map(|_| ())
    })
}

/// Resolves `-d`: an id, a name, or −1 when the chain's own datastore is meant.
fn datastore_id(client: &Client, datastore: Option<&str>) -> Result<i64> {
    datastore.map_or(Ok(-1), |word| DATASTORE.id(client, word))
}

/// Its page is made by [`show_vm::show`], which asks the daemon for more than the VM's document.
pub(super) const FACE: Face = Face { kind: &VM, columns: &COLUMNS, default: &DEFAULT, fill: |_, _| {} };

const DEFAULT: [&str; 9] = ["ID", "USER", "GROUP", "NAME", "STAT", "CPU", "MEM", "HOST", "TIME"];

const COLUMNS: [Column; 12] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::right("STAT", 4, |vm, _| states::vm_short(vm).to_owned()),
    Column::right("CPU", 4, text_cell!("TEMPLATE/CPU")),
    Column::right("MEM", 7, |vm, _| units::mib(vm.int_at("TEMPLATE/MEMORY").unwrap_or(0))),
    Column::left("HOST", 10, |vm, _| host(vm).to_owned()).fit(Fit::Share),
    Column::right("TIME", 10, |vm, _| units::days(lifetime(vm))).fit(Fit::Cut),
    Column::left("IP", 15, |vm, _| addresses(vm)),
    Column::right("STIME", 14, |vm, _| units::time(vm.int_at("STIME").unwrap_or(0))),
    Column::left("LCM_STATE", 15, |vm, _| states::vm_lcm_state(vm).to_owned()),
];

/// The host of the last history record.
fn host(vm: &Element) -> &str {
    last_record(vm).map_or("", |record| record.text_at("HOSTNAME"))
}

fn last_record(vm: &Element) -> Option<&Element> {
    vm.at("HISTORY_RECORDS")?.all("HISTORY").last()
}

fn lifetime(vm: &Element) -> i64 {
    let end = vm.int_at("ETIME").filter(|end| *end > 0).unwrap_or_else(units::now);
    end.saturating_sub(vm.int_at("STIME").unwrap_or(end))
}

fn addresses(vm: &Element) -> String {
    let nics = vm.at("TEMPLATE").into_iter().flat_map(|template| template.all("NIC"));
    nics.map(|nic| nic.text_at("IP")).filter(|ip| !ip.is_empty()).collect::<Vec<_>>().join(",")
}
