//! `onebackupjob create`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::commands::scheduling;
use crate::objects::{self, BACKUP_JOB, DATASTORE, VM};
use crate::schedule::{KeepOptions, ScheduleOptions};
use crate::show::join;
use crate::wire::Client;
use crate::{input, template_text};

#[derive(Args, Debug)]
pub struct Options {
    /// File with a template (- for standard input); options go before it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// A few words about it
    #[arg(long)]
    description: Option<String>,
    /// VMs in the order of their backups: ids, names, ranges (0,3..5,web)
    #[arg(long, value_name = "ID,...")]
    vms: Option<String>,
    /// Backup datastore, id or name
    #[arg(short, long, value_name = "DATASTORE")]
    datastore: Option<String>,
    /// Keep so many restore points of each VM, 0 for all
    #[arg(long, visible_alias = "keep-last", value_name = "NUMBER")]
    keep: Option<u32>,
    /// FULL or INCREMENT
    #[arg(long, value_enum, ignore_case = true)]
    mode: Option<Mode>,
    /// What increments are read from: dirty bitmaps, or snapshots
    #[arg(long, value_enum, ignore_case = true)]
    increment_mode: Option<IncrementMode>,
    /// One VM after the other, or as many at once as the limits of the cloud allow
    #[arg(long, value_enum, ignore_case = true)]
    execution: Option<Execution>,
    /// Freeze the file systems of guests: not, by the guest agent, or by suspending the VM
    #[arg(long, value_enum, ignore_case = true)]
    fs_freeze: Option<Freeze>,
    /// Volatile disks, too
    #[arg(long)]
    backup_volatile: bool,
    /// Begin new chains with full backups in each run
    #[arg(long)]
    reset: bool,
    /// 0 to 99, high first; more than 50 is for administrators
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..=99))]
    priority: Option<i64>,
    /// Back a VM up so many times again when it failed: 0 to 10
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(0..=10))]
    retry: Option<u8>,
    #[command(flatten)]
    schedule: ScheduleOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Mode {
    Full,
    Increment,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum IncrementMode {
    Cbt,
    Snapshot,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Execution {
    Sequential,
    Parallel,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Freeze {
    None,
    Agent,
    Suspend,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let plan = scheduling::plan_of_job(&options.schedule)?;
    let mut text = attributes(client, options)?;
    // With options and no file, whatever standard input is is nobody's business.
    let file = match &options.file {
        None if !text.is_empty() => String::new(),
        file => input::read_required(file.as_deref())?,
    };
    // With the job in one call: a schedule that is refused leaves no job behind.
    if let Some(plan) = &plan {
        text.push_str(&plan.text("backup", "", &KeepOptions::default())?);
    }
    let text = template_text::in_front(&text, &file)?;
    let id = objects::put_id(&client.call("one.backupjob.allocate", [text.into()])?)?;
    plan.map_or(Ok(()), |plan| scheduling::tell(&BACKUP_JOB, id, &plan, "backup"))
}

/// The options as attributes. They stand before the file's: of two scalars of one name the first counts.
fn attributes(client: &Client, options: &Options) -> Result<String> {
    let vms = options.vms.as_deref().map(|vms| VM.ids(client, vms)).transpose()?;
    let datastore = options.datastore.as_deref().map(|word| DATASTORE.id(client, word)).transpose()?;
    let yes = |flag: bool| flag.then(|| "YES".to_owned());
    let given = [
        ("NAME", options.name.clone()),
        ("DESCRIPTION", options.description.clone()),
        ("BACKUP_VMS", vms.map(|vms| join(&vms))),
        ("DATASTORE_ID", datastore.map(|id| id.to_string())),
        ("KEEP_LAST", options.keep.map(|keep| keep.to_string())),
        ("MODE", options.mode.as_ref().and_then(word)),
        ("INCREMENT_MODE", options.increment_mode.as_ref().and_then(word)),
        ("EXECUTION", options.execution.as_ref().and_then(word)),
        ("FS_FREEZE", options.fs_freeze.as_ref().and_then(word)),
        ("BACKUP_VOLATILE", yes(options.backup_volatile)),
        ("RESET", yes(options.reset)),
        ("PRIORITY", options.priority.map(|priority| priority.to_string())),
        ("RETRY", options.retry.map(|retry| retry.to_string())),
    ];
    let mut text = String::new();
    for (key, value) in given {
        if let Some(value) = value {
            text.push_str(&template_text::attribute(key, &value)?);
        }
    }
    Ok(text)
}

/// The word of a value as the template has it.
fn word(value: &impl ValueEnum) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}
