//! `onebackupjob backup`: at once, or on a schedule; with `--wait` until every VM is backed up or has failed.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::Args;

use super::show_job;
use crate::commands::scheduling;
use crate::commands::verbs::Several;
use crate::events::BACKUP_EVENT;
use crate::objects::{BACKUP_JOB, VM};
use crate::schedule::{KeepOptions, ScheduleOptions};
use crate::show::join;
use crate::watch::{self, Cancel, Look, Part, Progress, Scene, WaitOptions};
use crate::wire::{Client, Unreachable};
use crate::xml::Element;
use crate::{each, terminal, units};

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    schedule: ScheduleOptions,
    #[command(flatten)]
    keep: KeepOptions,
    #[command(flatten)]
    wait: WaitOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let plan = scheduling::plan_of_job(&options.schedule)?;
    let ids = BACKUP_JOB.ids(client, &options.target.ids)?;
    let Some(plan) = plan else {
        options.keep.must_be_unsaid()?;
        return begin(client, &ids, "one.backupjob.backup", &options.wait);
    };
    if options.wait.wait {
        bail!("--wait goes with a run that starts at once: leave the schedule out");
    }
    let text = plan.text("backup", "", &options.keep)?;
    each(&ids, |id| scheduling::add(client, &BACKUP_JOB, id, &plan, &text, "backup").map(|_| ()))
}

/// Jobs whose failed VMs are tried again.
#[derive(Args, Debug)]
pub struct Retry {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    wait: WaitOptions,
}

/// `onebackupjob retry`
pub fn retry(client: &Client, options: &Retry) -> Result<()> {
    begin(client, &BACKUP_JOB.ids(client, &options.target.ids)?, "one.backupjob.retry", &options.wait)
}

/// Begins all, then waits for each that began.
fn begin(client: &Client, ids: &[i64], method: &str, options: &WaitOptions) -> Result<()> {
    let mut begun = Vec::new();
    let result = each(ids, |id| {
        client.call(method, [id.into()])?;
        begun.push(id);
        Ok(())
    });
    let waited = if options.wait { each(&begun, |id| wait(client, id, options)) } else { Ok(()) };
    result.and(waited)
}

/// The four lists of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lists {
    updated: Vec<i64>,
    outdated: Vec<i64>,
    ongoing: Vec<i64>,
    failed: Vec<i64>,
}

impl Lists {
    fn of(job: &Element) -> Self {
        let ids = |name| job.ids_at(name);
        Self {
            updated: ids("UPDATED_VMS"),
            outdated: ids("OUTDATED_VMS"),
            ongoing: ids("BACKING_UP_VMS"),
            failed: ids("ERROR_VMS"),
        }
    }

    fn is_over(&self) -> bool {
        self.outdated.is_empty() && self.ongoing.is_empty()
    }

    fn all(&self) -> usize {
        self.updated.len() + self.outdated.len() + self.ongoing.len() + self.failed.len()
    }

    /// `2 of 5 VMs done, 1 failed`
    fn brief(&self) -> String {
        let mut text = format!("{} of {} VMs done", self.updated.len(), self.all());
        if !self.failed.is_empty() {
            text.push_str(&format!(", {} failed", self.failed.len()));
        }
        text
    }

    /// `2 of 5 VMs done, 1 failed, backing up 3,4`
    fn phrase(&self) -> String {
        let mut text = self.brief();
        text.push_str(&match self.ongoing.is_empty() {
            true => ", waiting for a place".to_owned(),
            false => format!(", backing up {}", join(&self.ongoing)),
        });
        text
    }
}

/// Watches a run to its end; a VM that is done is told once.
fn wait(client: &Client, id: i64, options: &WaitOptions) -> Result<()> {
    let mut told: BTreeSet<i64> = BTreeSet::new();
    let call = || client.call("one.backupjob.cancel", [id.into()]).map(drop);
    let cancel = Cancel::new("run", &call);
    let job = watch::until_or_cancelled(&format!("Backup job {id}"), options, &cancel, || {
        let job = BACKUP_JOB.info(client, id, false)?;
        let lists = Lists::of(&job);
        if lists.is_over() {
            return Ok(Look::Done(job));
        }
        // A VM that is tried again leaves the list of the failed, and is told anew.
        told.retain(|vm| lists.updated.contains(vm) || lists.failed.contains(vm));
        let mut news = Vec::new();
        for (vms, word) in [(&lists.updated, "done"), (&lists.failed, "failed")] {
            news.extend(vms.iter().filter(|vm| told.insert(**vm)).map(|vm| format!("VM {vm} {word}")));
        }
        let parts = moving(client, &lists.ongoing)?;
        let (phrase, brief) = (lists.phrase(), Some(lists.brief()));
        Ok(Look::Moving(Scene { news, phrase, brief, progress: sum(&parts), parts }))
    })?;
    if cancel.is_asked() {
        let lists = Lists::of(&job);
        bail!("Backup job {id}: the run was cancelled; {}", lists.brief());
    }
    // Events are a courtesy: without them the end is told in fewer words.
    let job = show_job::extended(client, id, false).unwrap_or(job);
    conclude(&job, id)
}

/// How far each backup is that is under way.
fn moving(client: &Client, vms: &[i64]) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for vm in vms {
        let document = match VM.info(client, *vm, false) {
            Ok(document) => document,
            Err(error) if error.is::<Unreachable>() => return Err(error),
            // A VM that went away, or that we must not see.
            Err(_) => continue,
        };
        parts.push(Part { name: format!("VM {vm}"), progress: Progress::at(&document, "USER_TEMPLATE/PROGRESS") });
    }
    Ok(parts)
}

/// Bytes of all; None as long as none is known.
fn sum(parts: &[Part]) -> Option<Progress> {
    parts.iter().filter_map(|part| part.progress).reduce(|sum, more| Progress {
        done: sum.done.saturating_add(more.done),
        total: sum.total.saturating_add(more.total),
    })
}

/// `Backup job 0: 5 VMs backed up in 2m03s, read 12G, stored 3G`; an error when a VM failed.
fn conclude(job: &Element, id: i64) -> Result<()> {
    let lists = Lists::of(job);
    if !lists.failed.is_empty() {
        let reason = match job.text_at("TEMPLATE/ERROR") {
            "" => String::new(),
            text => format!(": {text}"),
        };
        bail!(
            "Backup job {id}: {} of {} VMs failed ({}){reason}; onebackupjob retry {id} backs them up again",
            lists.failed.len(),
            lists.all(),
            join(&lists.failed),
        );
    }
    if lists.updated.is_empty() {
        bail!("Backup job {id}: no VM was backed up: the run was cancelled, or the VMs in BACKUP_VMS do not exist");
    }
    let took = units::duration(job.int_at("LAST_BACKUP_DURATION").unwrap_or(0));
    let vms = if lists.updated.len() == 1 { "VM" } else { "VMs" };
    let mut line = format!("Backup job {id}: {} {vms} backed up in {took}", lists.updated.len());
    let begin = job.int_at("LAST_BACKUP_TIME").unwrap_or(i64::MAX);
    let template = job.at("TEMPLATE");
    let of_run =
        |event: &&Element| event.int_at("TIME").is_some_and(|time| time >= begin) && event.int_at("VM_ID").is_some();
    let run: Vec<&Element> =
        template.into_iter().flat_map(|template| template.all(BACKUP_EVENT)).filter(of_run).collect();
    // The document holds the newest events only: a sum over some of the VMs would mislead.
    if run.len() >= lists.updated.len() {
        for (what, word) in [("READ_BYTES", "read"), ("STORED_BYTES", "stored")] {
            let bytes = |event: &&Element| event.int_at(what);
            let sum = run.iter().filter_map(bytes).fold(0, i64::saturating_add);
            line.push_str(&format!(", {word} {}", units::bytes(sum)));
        }
    }
    terminal::put_line(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_says_how_far_a_run_is() {
        let lists = Lists { updated: vec![1], outdated: vec![2], ongoing: vec![3, 4], failed: vec![5] };
        assert_eq!(lists.phrase(), "1 of 5 VMs done, 1 failed, backing up 3,4");
        assert!(!lists.is_over());
        let waiting = Lists { outdated: vec![2], ..Lists::default() };
        assert_eq!(waiting.phrase(), "0 of 1 VMs done, waiting for a place");
    }
}
