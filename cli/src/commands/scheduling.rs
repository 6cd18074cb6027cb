//! What VMs and backup jobs do with their scheduled actions: add, change, remove.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::objects::{self, BACKUP_JOB, Kind};
use crate::schedule::{self, KeepOptions, Plan, ScheduleOptions, When};
use crate::show::template_text;
use crate::wire::Client;
use crate::xml::Element;
use crate::{each, input, template_text, terminal};

/// What an editor does not show: what the daemon sets itself, and what names the action.
const NOT_EDITED: [&str; 6] = ["ID", "PARENT_ID", "TYPE", "DONE", "MESSAGE", "WARNING"];

/// What an editor says before the attributes.
const EDITOR_HELP: &str = "# What is left out stays as it is; an empty value takes the attribute away.\n";

/// Changing and removing scheduled actions.
#[derive(Subcommand, Debug)]
pub enum Scheduling {
    /// Change a scheduled action, by options, a text or in an editor
    #[command(alias = "update-chart")]
    SchedUpdate(Box<SchedUpdate>),
    /// Remove scheduled actions
    #[command(alias = "delete-chart")]
    SchedDelete(SchedDelete),
}

#[derive(Args, Debug)]
pub struct SchedUpdate {
    /// Id or name of what it belongs to
    #[arg(value_name = "ID")]
    id: String,
    /// Id of the action
    #[arg(value_name = "ACTION")]
    action: u32,
    /// File with a SCHED_ACTION vector, or with its attributes a line each (- for standard input)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    schedule: ScheduleOptions,
    #[command(flatten)]
    keep: KeepOptions,
}

#[derive(Args, Debug)]
pub struct SchedDelete {
    /// Id or name of what it belongs to
    #[arg(value_name = "ID")]
    id: String,
    /// Id of the action, list (0,1,5) or range (0..3)
    #[arg(value_name = "ACTION,...")]
    actions: String,
}

impl Scheduling {
    /// Does it. `present` fetches the document with the actions, and says where their SCHED_INFO is.
    pub fn run(
        &self,
        client: &Client,
        kind: &Kind,
        present: impl FnOnce(i64) -> Result<(Element, &'static str)>,
    ) -> Result<()> {
        match self {
            Self::SchedUpdate(options) => options.run(client, kind, present),
            Self::SchedDelete(options) => {
                let id = kind.id(client, &options.id)?;
                let Some(actions) = objects::parse_ids(&options.actions)? else {
                    bail!("{}: a scheduled action is named by its id; show lists them", options.actions);
                };
                each(&actions, |action| {
                    client.call(&kind.method("scheddelete"), [id.into(), action.into()]).map(|_| ())
                })
            }
        }
    }
}

impl SchedUpdate {
    fn run(
        &self,
        client: &Client,
        kind: &Kind,
        present: impl FnOnce(i64) -> Result<(Element, &'static str)>,
    ) -> Result<()> {
        let id = kind.id(client, &self.id)?;
        let action = i64::from(self.action);
        let send = |text: &str| {
            client.call(
                &kind.method("schedupdate"),
                [id.into(), action.into(), template_text::lines_as_vector("SCHED_ACTION", text).into()],
            )?;
            Ok(())
        };
        let changes = self.schedule.changes(&self.keep, chrono::Local::now())?;
        if !changes.is_empty() {
            if self.file.is_some() {
                bail!("a schedule is changed by options or by a file: leave one of them out");
            }
            return send(&template_text::vector("SCHED_ACTION", &changes)?);
        }
        match input::read(self.file.as_deref())? {
            Some(text) => send(&text),
            None => {
                let (document, infos) = present(id)?;
                input::edit(&editable(&document, infos, action)?, send)
            }
        }
    }
}

/// The attributes of an action a line each, those that are set.
fn editable(document: &Element, infos: &str, id: i64) -> Result<String> {
    let actions = document.at("TEMPLATE").into_iter().flat_map(|template| template.all("SCHED_ACTION"));
    let action = actions.into_iter().find(|action| action.int_at("ID") == Some(id));
    let action = action.with_context(|| format!("there is no scheduled action {id}; show lists them"))?;
    let mut text = action.clone();
    let info = schedule::info_of(document.at(infos), action).map(|info| info.children.clone()).unwrap_or_default();
    // The time of the next run follows from a cron expression; said again it would hold back the first run of another.
    if info.iter().any(|part| part.name == "CRON") {
        text.children.retain(|part| part.name != "TIME");
    }
    text.children.extend(info);
    text.children.retain(|part| {
        !NOT_EDITED.contains(&part.name.as_str()) && !matches!(part.text.trim(), "" | "-1") && part.children.is_empty()
    });
    Ok(format!("{EDITOR_HELP}{}", template_text(&text, &[])))
}

/// Adds a planned action to one object and tells so: `VM 0: backup scheduled at …`.
pub fn add(client: &Client, kind: &Kind, id: i64, plan: &Plan, text: &str, action: &str) -> Result<i64> {
    let schedule = client.call(&kind.method("schedadd"), [id.into(), text.into()])?.id()?;
    tell(kind, id, plan, action)?;
    Ok(schedule)
}

/// Says when a planned action will first run.
pub fn tell(kind: &Kind, id: i64, plan: &Plan, action: &str) -> Result<()> {
    terminal::put_line(&format!("{} {id}: {}", kind.member, plan.told(action)))
}

/// A backup job has no start that `+SECONDS` could count from.
pub fn plan_of_job(options: &ScheduleOptions) -> Result<Option<Plan>> {
    let plan = options.plan(chrono::Local::now())?;
    if plan.as_ref().is_some_and(|plan| matches!(plan.when, When::After(_))) {
        bail!("a {} has no start to count from: say --schedule now, or a date", BACKUP_JOB.label);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editor_begins_with_what_is_set() {
        let vm = Element::parse(
            "<VM><USER_TEMPLATE><SCHED_INFO><ID>4</ID><CRON>0 3 * * *</CRON></SCHED_INFO></USER_TEMPLATE><TEMPLATE><SCHED_ACTION><ID>4</ID><PARENT_ID>0</PARENT_ID><ACTION>backup</ACTION><ARGS>100,0</ARGS><REPEAT>-1</REPEAT><DAYS/><DONE>5</DONE></SCHED_ACTION></TEMPLATE></VM>",
        )
        .unwrap();
        let text = editable(&vm, "USER_TEMPLATE", 4).unwrap();
        assert_eq!(text, format!("{EDITOR_HELP}ACTION=\"backup\"\nARGS=\"100,0\"\nCRON=\"0 3 * * *\"\n"));
        assert!(editable(&vm, "USER_TEMPLATE", 5).is_err());
    }
}
