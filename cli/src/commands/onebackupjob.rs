//! `onebackupjob`: VMs that are backed up together.

mod create;
mod run;
mod show_job;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::scheduling::Scheduling;
use super::text_cell;
use super::verbs::{self, Face, Locking, Owning, Rename, Several, Top, Update};
use crate::objects::BACKUP_JOB;
use crate::table::{Column, Fit, ListOptions};
use crate::units;
use crate::wire::Client;
use crate::{Connection, Tool, events};

/// Backup jobs: VMs that are backed up together
#[derive(Parser, Debug)]
#[command(name = "onebackupjob", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the backup jobs
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one backup job
    Show(show_job::Options),
    /// A new backup job, from options or a template
    Create(create::Options),
    /// Remove backup jobs; the backups stay
    Delete(Several),
    /// Change the attributes
    Update(Update),
    /// Give a new name
    Rename(Rename),
    /// Back up the VMs of jobs, at once or on a schedule
    Backup(run::Options),
    /// Give up the running backups, and those that wait
    Cancel(Several),
    /// Back up the VMs again that failed
    Retry(run::Retry),
    /// Which job's VMs go first: 0 to 99, high first
    Priority(Priority),
    /// What was done, newest first
    Events(events::Options),
    #[command(flatten)]
    Scheduling(Scheduling),
    #[command(flatten)]
    Owning(Owning),
    #[command(flatten)]
    Locking(Locking),
}

#[derive(Args, Debug)]
struct Priority {
    #[command(flatten)]
    target: Several,
    /// 0 to 99; more than 49 needs the right to administer the job
    #[arg(value_name = "PRIORITY", value_parser = clap::value_parser!(i64).range(0..=99))]
    priority: i64,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        let each = |target: &Several, verb| verbs::call_each(client, &BACKUP_JOB, &target.ids, verb, &[]);
        match self.verb {
            Verb::List(options) => FACE.list(client, &options),
            Verb::Top(top) => top.draw(|options| FACE.list(client, options)),
            Verb::Show(options) => show_job::show(client, &options),
            Verb::Create(options) => create::run(client, &options),
            Verb::Delete(target) => each(&target, "delete"),
            Verb::Update(options) => options.run_with(client, &BACKUP_JOB, "update", |id| {
                Ok(show_job::present_template(&show_job::extended(client, id, false)?))
            }),
            Verb::Rename(options) => options.run(client, &BACKUP_JOB),
            Verb::Backup(options) => run::run(client, &options),
            Verb::Events(options) => options.run(client, &BACKUP_JOB, true),
            Verb::Cancel(target) => each(&target, "cancel"),
            Verb::Retry(options) => run::retry(client, &options),
            Verb::Priority(options) => {
                let priority = [options.priority.into()];
                verbs::call_each(client, &BACKUP_JOB, &options.target.ids, "priority", &priority)
            }
            Verb::Scheduling(verb) => {
                verb.run(client, &BACKUP_JOB, |id| Ok((show_job::extended(client, id, false)?, "TEMPLATE")))
            }
            Verb::Owning(verb) => verb.run(client, &BACKUP_JOB),
            Verb::Locking(verb) => verb.run(client, &BACKUP_JOB),
        }
    }
}

const FACE: Face = Face { kind: &BACKUP_JOB, columns: &COLUMNS, default: &DEFAULT, fill: show_job::fill };

const DEFAULT: [&str; 7] = ["ID", "USER", "GROUP", "PRIO", "NAME", "LAST", "VMS"];

const COLUMNS: [Column; 12] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("PRIO", 4, text_cell!("PRIORITY")),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("LAST", 15, |job, _| units::date_to_minute(job.int_at("LAST_BACKUP_TIME").unwrap_or(0))),
    Column::left("VMS", 15, |job, _| shortened(job.text_at("TEMPLATE/BACKUP_VMS"))),
    Column::right("TOOK", 14, |job, _| units::days_to_second(job.int_at("LAST_BACKUP_DURATION").unwrap_or(0))),
    Column::right("UPDATED", 7, |job, _| job.ids_at("UPDATED_VMS").len().to_string()),
    Column::right("OUTDATED", 8, |job, _| job.ids_at("OUTDATED_VMS").len().to_string()),
    Column::right("ONGOING", 7, |job, _| job.ids_at("BACKING_UP_VMS").len().to_string()),
    Column::right("ERROR", 5, |job, _| job.ids_at("ERROR_VMS").len().to_string()),
];

/// The list of VMs, cut after twelve letters as OpenNebula's; `-` when there are none.
fn shortened(vms: &str) -> String {
    match vms.chars().count() {
        0 => "-".to_owned(),
        1..=15 => vms.to_owned(),
        _ => format!("{}...", vms.chars().take(12).collect::<String>()),
    }
}
