//! `onebackupjob show`.
//!
//! OpenNebula's document of a backup job has no room for attributes of ours, for what its schedules have beyond
//! OpenNebula's, and for events. `one.backupjob.infoextended` gives a document with all of them; a daemon that does not
//! know the call is asked for the plain one.

use anyhow::Result;
use clap::Args;

use crate::commands::verbs::{LABEL_WIDTH, put_document};
use crate::events::{self, BACKUP_EVENT};
use crate::objects::BACKUP_JOB;
use crate::schedule::{self, SCHED_INFO};
use crate::show::{Page, ShowOptions, join, lock, template_text};
use crate::units;
use crate::wire::{Client, Refused};
use crate::xml::Element;

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    show: ShowOptions,
    /// With --xml, --json and --yaml: the daemon's own attributes, schedules' options and events, too
    #[arg(long)]
    extended: bool,
}

pub fn show(client: &Client, options: &Options) -> Result<()> {
    let id = BACKUP_JOB.id(client, &options.id)?;
    let as_it_is = options.show.xml || options.show.json || options.show.yaml;
    let document = match as_it_is && !options.extended {
        true => BACKUP_JOB.info(client, id, options.show.decrypt)?,
        false => extended(client, id, options.show.decrypt)?,
    };
    put_document(&document, &options.show, LABEL_WIDTH, fill)
}

/// The document with all that the daemon knows.
pub fn extended(client: &Client, id: i64, decrypt: bool) -> Result<Element> {
    match client.call(&BACKUP_JOB.method("infoextended"), [id.into(), decrypt.into()]) {
        Ok(answer) => Element::parse(&answer.text()),
        Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == Refused::NO_METHOD) => {
            BACKUP_JOB.info(client, id, decrypt)
        }
        Err(error) => Err(error),
    }
}

/// The text that an editor begins with: what the user may change by `update`.
pub fn present_template(job: &Element) -> String {
    let hidden = ["SCHED_ACTION", SCHED_INFO, BACKUP_EVENT, "ERROR"];
    job.at("TEMPLATE").map(|template| template_text(template, &hidden)).unwrap_or_default()
}

pub fn fill(page: &mut Page, job: &Element) {
    let text = |name| job.text_at(name);
    let number = |name| job.int_at(name).unwrap_or(0);
    page.header(&format!("BACKUP JOB {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("USER", text("UNAME"))
        .line("GROUP", text("GNAME"))
        .line("LOCK", lock(job))
        .line("PRIORITY", text("PRIORITY"))
        .permissions(job)
        .header("LAST BACKUP JOB EXECUTION INFORMATION")
        .line("TIME", units::time(number("LAST_BACKUP_TIME")))
        .line("DURATION", units::days_to_second(number("LAST_BACKUP_DURATION")))
        .header("VIRTUAL MACHINE BACKUP STATUS");
    let lists = [
        ("UPDATED", "UPDATED_VMS"),
        ("OUTDATED", "OUTDATED_VMS"),
        ("ONGOING", "BACKING_UP_VMS"),
        ("ERROR", "ERROR_VMS"),
    ];
    for (label, list) in lists {
        page.line(label, join(&job.ids_at(list)));
    }
    let template = job.at("TEMPLATE");
    schedule::block(page, template, template, 0, units::now());
    events::block(page, template, true);
    page.template("TEMPLATE CONTENTS", template, &["SCHED_ACTION", SCHED_INFO, BACKUP_EVENT]);
}
