//! `onevm`: virtual machines and their backups.

mod backup;
pub(super) mod reach;
mod restore;
mod show_vm;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use one_core::backup::config::BACKUP_INFO;

use super::{Rename, Several, Update, text_cell};
use crate::objects::{self, DATASTORE, VM};
use crate::show::ShowOptions;
use crate::states;
use crate::table::{self, Column, Fit, ListOptions};
use crate::units;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each, input, template_text};
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
    /// Everything about one VM
    Show(Show),
    /// A VM from a template file, without a stored template
    Create(Create),
    /// Change the configuration: BACKUP_CONFIG, CONTEXT, OS, …
    Updateconf(Update),
    /// Change the user's attributes
    Update(Update),
    /// Back up a VM, at once or on a schedule
    Backup(backup::Options),
    /// Give up the running backup
    BackupCancel(super::One),
    /// Put disks of a VM that is off back from a backup
    Restore(restore::Options),
    /// FULL or INCREMENT
    Backupmode(Backupmode),
    /// Shut the guest down and keep the VM
    Poweroff(HardAction),
    /// Start a VM that is off
    Resume(Action),
    /// Restart the guest
    Reboot(Hard),
    /// Shut the guest down and remove the VM
    Terminate(HardAction),
    /// Let a held VM start
    Release(Action),
    /// Say how a stuck operation ended
    Recover(Recover),
    /// Change a scheduled action
    SchedUpdate(SchedUpdate),
    /// Remove scheduled actions
    SchedDelete(SchedDelete),
    /// Give a new name
    Rename(Rename),
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
struct Action {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
struct Hard {
    #[command(flatten)]
    target: Several,
    /// Without asking the guest
    #[arg(long)]
    hard: bool,
}

#[derive(Args, Debug)]
struct HardAction {
    #[command(flatten)]
    hard: Hard,
    #[command(flatten)]
    wait: WaitOptions,
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
struct SchedUpdate {
    /// Id or name of the VM
    #[arg(value_name = "VM")]
    vm: String,
    /// Id of the action
    #[arg(value_name = "ACTION")]
    action: u32,
    /// File with a SCHED_ACTION vector (- or nothing for standard input)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct SchedDelete {
    /// Id or name of the VM
    #[arg(value_name = "VM")]
    vm: String,
    /// Id of the action
    #[arg(value_name = "ACTION")]
    action: u32,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(list) => {
                let verb = if list.extended { "infoextended" } else { "info" };
                table::list(&VM.pool_for(client, &list.options, verb)?, VM.member, &COLUMNS, &DEFAULT, &list.options)
            }
            Verb::Show(show) => show_vm::show(client, &show.id, &show.options),
            Verb::Create(create) => run_create(client, &create),
            Verb::Updateconf(options) => {
                super::update(client, &VM, "updateconf", &options, show_vm::present_configuration)
            }
            Verb::Update(options) => super::update(client, &VM, "update", &options, |vm| {
                vm.at("USER_TEMPLATE")
                    .map(|template| crate::show::template_text(template, &["PROGRESS", BACKUP_INFO]))
                    .unwrap_or_default()
            }),
            Verb::Backup(options) => backup::run(client, &options),
            Verb::BackupCancel(target) => {
                client.call("one.vm.backupcancel", [VM.id(client, &target.id)?.into()])?;
                Ok(())
            }
            Verb::Restore(options) => restore::run(client, &options),
            Verb::Backupmode(options) => run_backupmode(client, &options),
            Verb::Poweroff(options) => act(client, &options.hard, "poweroff", Some((Goal::PowerOff, &options.wait))),
            Verb::Terminate(options) => act(client, &options.hard, "terminate", Some((Goal::Gone, &options.wait))),
            Verb::Reboot(options) => act(client, &options, "reboot", None),
            Verb::Resume(options) => act_plain(client, options, "resume"),
            Verb::Release(options) => act_plain(client, options, "release"),
            Verb::Recover(options) => run_recover(client, &options),
            Verb::SchedUpdate(options) => {
                let vm = VM.id(client, &options.vm)?;
                let text = input::read_required(options.file.as_deref())?;
                client.call("one.vm.schedupdate", [vm.into(), i64::from(options.action).into(), text.into()])?;
                Ok(())
            }
            Verb::SchedDelete(options) => {
                let vm = VM.id(client, &options.vm)?;
                client.call("one.vm.scheddelete", [vm.into(), i64::from(options.action).into()])?;
                Ok(())
            }
            Verb::Rename(options) => super::rename(client, &VM, &options),
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

fn act_plain(client: &Client, options: Action, action: &str) -> Result<()> {
    act(client, &Hard { target: options.target, hard: false }, action, Some((Goal::Running, &options.wait)))
}

/// Starts the action on all VMs first, then waits for each.
fn act(client: &Client, options: &Hard, action: &str, wait: Option<(Goal, &WaitOptions)>) -> Result<()> {
    let action = if options.hard { format!("{action}-hard") } else { action.to_owned() };
    let ids = VM.ids(client, &options.target.ids)?;
    let mut started = Vec::new();
    let begun = each(&ids, |id| {
        client.call("one.vm.action", [action.as_str().into(), id.into()])?;
        started.push(id);
        Ok(())
    });
    let waited = match wait {
        Some((goal, options)) if options.wait => each(&started, |id| reach::reach(client, id, goal, options)),
        _ => Ok(()),
    };
    begun.and(waited)
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
