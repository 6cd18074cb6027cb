//! The actions of `onevm` that can wait for their time: at once, or on a schedule.
//!
//! Words, arguments and their order are those of scheduled actions (OpenNebula's ACTION and ARGS).

use anyhow::Result;
use clap::{Args, Subcommand};

use super::reach::{self, Goal};
use super::settling::settled;
use crate::commands::scheduling;
use crate::commands::snapshots;
use crate::commands::verbs::Several;
use crate::each;
use crate::objects::VM;
use crate::schedule::{KeepOptions, ScheduleOptions};
use crate::watch::WaitOptions;
use crate::wire::{Client, Param};

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Action {
    /// Shut the guest down and keep the VM
    Poweroff(Hard),
    /// Shut the guest down and free the host
    Undeploy(Hard),
    /// Save the guest's memory and free the host
    Stop(Plain),
    /// Save the guest's memory on its host
    Suspend(Plain),
    /// Start a VM that is off, or wake a saved one
    Resume(Plain),
    /// Restart the guest
    Reboot(HardUnwatched),
    /// Shut the guest down and remove the VM
    Terminate(Hard),
    /// Keep a VM that has not started from starting
    Hold(Plain),
    /// Let a held VM start
    Release(Plain),
    /// A snapshot of the whole running VM
    SnapshotCreate(SnapshotCreate),
    /// Go back to a snapshot of the whole VM
    SnapshotRevert(Snapshot),
    /// Remove a snapshot of the whole VM
    SnapshotDelete(Snapshot),
    /// A snapshot of a disk
    DiskSnapshotCreate(DiskSnapshotCreate),
    /// Go back to a snapshot of a disk
    DiskSnapshotRevert(DiskSnapshot),
    /// Remove a snapshot of a disk
    DiskSnapshotDelete(DiskSnapshot),
}

#[derive(Args, Debug)]
pub struct Plain {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    wait: WaitOptions,
    #[command(flatten)]
    schedule: ScheduleOptions,
}

#[derive(Args, Debug)]
pub struct HardUnwatched {
    #[command(flatten)]
    target: Several,
    /// Without asking the guest
    #[arg(long)]
    hard: bool,
    #[command(flatten)]
    schedule: ScheduleOptions,
}

#[derive(Args, Debug)]
pub struct Hard {
    #[command(flatten)]
    hard: HardUnwatched,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct SnapshotCreate {
    #[command(flatten)]
    target: Several,
    /// Name
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
    #[command(flatten)]
    wait: WaitOptions,
    #[command(flatten)]
    schedule: ScheduleOptions,
}

#[derive(Args, Debug)]
pub struct Snapshot {
    #[command(flatten)]
    target: Several,
    /// Id or name of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    #[command(flatten)]
    wait: WaitOptions,
    #[command(flatten)]
    schedule: ScheduleOptions,
}

#[derive(Args, Debug)]
pub struct DiskSnapshotCreate {
    #[command(flatten)]
    target: Several,
    /// Id of the disk
    #[arg(value_name = "DISK")]
    disk: u32,
    /// Name
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
    #[command(flatten)]
    wait: WaitOptions,
    #[command(flatten)]
    schedule: ScheduleOptions,
}

#[derive(Args, Debug)]
pub struct DiskSnapshot {
    #[command(flatten)]
    target: Several,
    /// Id of the disk
    #[arg(value_name = "DISK")]
    disk: u32,
    /// Id or name of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    #[command(flatten)]
    wait: WaitOptions,
    #[command(flatten)]
    schedule: ScheduleOptions,
}

/// What to do with which VMs, and when.
struct Wish<'a> {
    ids: &'a str,
    /// ACTION of a scheduled action.
    word: String,
    /// ARGS of a scheduled action.
    args: String,
    /// The call at once: method, and parameters behind the VM's id. None: `one.vm.action`.
    call: Option<(&'static str, Vec<Param>)>,
    schedule: &'a ScheduleOptions,
    /// Where the VM is then; None: at rest.
    wait: Option<(Option<Goal>, &'a WaitOptions)>,
}

impl Action {
    /// Does it, or plans it.
    pub fn run(&self, client: &Client) -> Result<()> {
        let wish = match self {
            Self::Poweroff(options) => of_hard("poweroff", &options.hard, Some((Some(Goal::PowerOff), &options.wait))),
            Self::Undeploy(options) => {
                of_hard("undeploy", &options.hard, Some((Some(Goal::Undeployed), &options.wait)))
            }
            Self::Terminate(options) => of_hard("terminate", &options.hard, Some((Some(Goal::Gone), &options.wait))),
            Self::Reboot(options) => of_hard("reboot", options, None),
            Self::Stop(options) => of_plain("stop", options, Goal::Stopped),
            Self::Suspend(options) => of_plain("suspend", options, Goal::Suspended),
            Self::Resume(options) => of_plain("resume", options, Goal::Running),
            Self::Hold(options) => of_plain("hold", options, Goal::Held),
            Self::Release(options) => of_plain("release", options, Goal::Running),
            Self::SnapshotCreate(options) => {
                let call = ("snapshotcreate", vec![options.name.as_str().into()]);
                of_snapshot(
                    "snapshot-create",
                    &options.target,
                    options.name.clone(),
                    call,
                    (&options.schedule, &options.wait),
                )
            }
            Self::SnapshotRevert(options) => of_vm_snapshot(client, ("snapshot-revert", "snapshotrevert"), options)?,
            Self::SnapshotDelete(options) => of_vm_snapshot(client, ("snapshot-delete", "snapshotdelete"), options)?,
            Self::DiskSnapshotCreate(options) => {
                let args = format!("{},{}", options.disk, options.name);
                let params = vec![i64::from(options.disk).into(), options.name.as_str().into()];
                let call = ("disksnapshotcreate", params);
                of_snapshot("disk-snapshot-create", &options.target, args, call, (&options.schedule, &options.wait))
            }
            Self::DiskSnapshotRevert(options) => {
                of_disk_snapshot(client, ("disk-snapshot-revert", "disksnapshotrevert"), options)?
            }
            Self::DiskSnapshotDelete(options) => {
                of_disk_snapshot(client, ("disk-snapshot-delete", "disksnapshotdelete"), options)?
            }
        };
        wish.run(client)
    }
}

fn of_hard<'a>(word: &str, options: &'a HardUnwatched, wait: Option<(Option<Goal>, &'a WaitOptions)>) -> Wish<'a> {
    let word = if options.hard { format!("{word}-hard") } else { word.to_owned() };
    Wish { ids: &options.target.ids, word, args: String::new(), call: None, schedule: &options.schedule, wait }
}

fn of_plain<'a>(word: &str, options: &'a Plain, goal: Goal) -> Wish<'a> {
    let wait = Some((Some(goal), &options.wait));
    let (word, args) = (word.to_owned(), String::new());
    Wish { ids: &options.target.ids, word, args, call: None, schedule: &options.schedule, wait }
}

fn of_snapshot<'a>(
    word: &str,
    target: &'a Several,
    args: String,
    call: (&'static str, Vec<Param>),
    (schedule, wait): (&'a ScheduleOptions, &'a WaitOptions),
) -> Wish<'a> {
    Wish { ids: &target.ids, word: word.to_owned(), args, call: Some(call), schedule, wait: Some((None, wait)) }
}

fn of_vm_snapshot<'a>(
    client: &Client,
    (word, method): (&str, &'static str),
    options: &'a Snapshot,
) -> Result<Wish<'a>> {
    let id = snapshots::id(client, &options.target.ids, None, &options.snapshot)?;
    let call = (method, vec![id.into()]);
    Ok(of_snapshot(word, &options.target, id.to_string(), call, (&options.schedule, &options.wait)))
}

fn of_disk_snapshot<'a>(
    client: &Client,
    (word, method): (&str, &'static str),
    options: &'a DiskSnapshot,
) -> Result<Wish<'a>> {
    let id = snapshots::id(client, &options.target.ids, Some(options.disk), &options.snapshot)?;
    let call = (method, vec![i64::from(options.disk).into(), id.into()]);
    let args = format!("{},{id}", options.disk);
    Ok(of_snapshot(word, &options.target, args, call, (&options.schedule, &options.wait)))
}

impl Wish<'_> {
    /// Plans it for each VM; or begins it on all of them, then waits for each.
    fn run(&self, client: &Client) -> Result<()> {
        let plan = self.schedule.plan(chrono::Local::now())?;
        let wait = self.wait.filter(|(_, options)| options.wait);
        if let Some(plan) = plan {
            if wait.is_some() {
                anyhow::bail!("--wait goes with an action that starts at once: leave the schedule out");
            }
            let text = plan.text(&self.word, &self.args, &KeepOptions::default())?;
            return each(&VM.ids(client, self.ids)?, |id| {
                scheduling::add(client, &VM, id, &plan, &text, &self.word).map(|_| ())
            });
        }
        let mut begun = Vec::new();
        let result = each(&VM.ids(client, self.ids)?, |id| {
            match wait {
                Some((None, options)) => settled(client, id, options, || self.call(client, id))?,
                _ => self.call(client, id)?,
            }
            begun.push(id);
            Ok(())
        });
        let waited = match wait {
            Some((Some(goal), options)) => each(&begun, |id| reach::reach(client, id, goal, options)),
            _ => Ok(()),
        };
        result.and(waited)
    }

    fn call(&self, client: &Client, id: i64) -> Result<()> {
        match &self.call {
            None => client.call("one.vm.action", [self.word.as_str().into(), id.into()])?,
            Some((method, rest)) => {
                client.call(&VM.method(method), std::iter::once(id.into()).chain(rest.iter().cloned()))?
            }
        };
        Ok(())
    }
}
