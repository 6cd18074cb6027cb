//! What was done to a VM or by a backup job, when, and what came of it: the EVENTS block of pages, and `events`.
//!
//! The daemon puts the newest ten events into its documents as BACKUP_EVENT vectors, without the numbers and texts that say
//! nothing; a call of its own gives all that it keeps.

use anyhow::Result;
use clap::Args;

use crate::objects::Kind;
use crate::show::{Page, or_dash};
use crate::table::{self, Column, Fit, ListOptions};
use crate::units;
use crate::wire::Client;
use crate::xml::Element;

/// The vector of one event in a document.
pub const BACKUP_EVENT: &str = "BACKUP_EVENT";

/// Writes the block for the events in `template`, newest first; nothing without events. `with_vms` adds the column of VMs.
pub fn block(page: &mut Page, template: Option<&Element>, with_vms: bool) {
    let mut events: Vec<&Element> = template.into_iter().flat_map(|template| template.all(BACKUP_EVENT)).collect();
    if events.is_empty() {
        return;
    }
    // Stable: of events of one second the daemon's order, newest first, stays.
    events.sort_by_key(|event| std::cmp::Reverse(event.int_at("TIME")));
    let options = ListOptions::default();
    let shown: Vec<&Column> = COLUMNS.iter().filter(|column| is_shown(column, with_vms)).collect();
    let titles: Vec<_> = shown.iter().map(|column| (column.name, column.width, column.left)).collect();
    let row = |event: &&Element| shown.iter().map(|column| (column.cell)(event, &options)).collect();
    let rows: Vec<Vec<String>> = events.iter().map(row).collect();
    page.header("EVENTS").table(&titles, &rows);
}

fn is_shown(column: &Column, with_vms: bool) -> bool {
    column.name != "ID" && (with_vms || column.name != "VM")
}

/// All events of one object.
#[derive(Args, Debug)]
pub struct Options {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// The newest so many: 1 to 200; else all that are kept
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..=200))]
    most: Option<i64>,
    /// Columns to show, in this order
    #[arg(short, long, value_name = "COLUMN,...", value_delimiter = ',')]
    list: Vec<String>,
    /// Show only rows for which this holds: COLUMN=VALUE, also != < <= > >= and ~ (a regular expression)
    #[arg(short, long, value_name = "COLUMN=VALUE,...", value_delimiter = ',')]
    filter: Vec<String>,
    /// Comma separated values
    #[arg(long)]
    csv: bool,
    /// The daemon's XML document
    #[arg(short, long, conflicts_with_all = ["json", "yaml", "csv"])]
    xml: bool,
    /// The daemon's document as JSON
    #[arg(short, long, conflicts_with_all = ["yaml", "csv"])]
    json: bool,
    /// The daemon's document as YAML
    #[arg(short, long, conflicts_with = "csv")]
    yaml: bool,
    /// No line with the titles
    #[arg(long)]
    no_header: bool,
}

impl Options {
    /// Prints them, newest first.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name or column.
    pub fn run(&self, client: &Client, kind: &Kind, with_vms: bool) -> Result<()> {
        let id = kind.id(client, &self.id)?;
        let answer = client.call(&kind.method("events"), [id.into(), self.most.unwrap_or(-1).into()])?;
        let options = ListOptions {
            list: self.list.clone(),
            filter: self.filter.clone(),
            operator: "AND".to_owned(),
            csv: self.csv,
            csv_del: ",".to_owned(),
            xml: self.xml,
            json: self.json,
            yaml: self.yaml,
            no_header: self.no_header,
            ..ListOptions::default()
        };
        let default: Vec<&str> =
            COLUMNS.iter().filter(|column| is_shown(column, with_vms)).map(|column| column.name).collect();
        table::list(&Element::parse(&answer.text())?, "EVENT", &COLUMNS, &default, &options)
    }
}

const COLUMNS: [Column; 10] = [
    Column::right("ID", 4, |event, _| event.text_at("ID").to_owned()),
    Column::left("TIME", 14, |event, _| units::time(event.int_at("TIME").unwrap_or(0))),
    Column::left("ACTION", 6, |event, _| event.text_at("ACTION").to_owned()).fit(Fit::Share),
    Column::left("RESULT", 6, |event, _| event.text_at("RESULT").to_lowercase()).fit(Fit::Share),
    Column::right("VM", 3, |event, _| or_dash(event.text_at("VM_ID"))),
    Column::left("BY", 6, |event, _| by(event)).fit(Fit::Share),
    Column::right("READ", 7, |event, _| size(event, "READ_BYTES")),
    Column::right("STORED", 7, |event, _| size(event, "STORED_BYTES")),
    Column::right("TOOK", 6, |event, _| took(event)),
    Column::left("REASON", 6, |event, _| event.text_at("REASON").to_owned()).fit(Fit::Full),
];

fn dash() -> String {
    "-".to_owned()
}

/// Of what was done, also when it took less than a second; `-` for what was not.
fn took(event: &Element) -> String {
    let is_done = event.text_at("RESULT") == "DONE";
    let seconds = event.int_at("DURATION").unwrap_or(0);
    if seconds > 0 || is_done { units::duration(seconds) } else { dash() }
}

/// `-` when nothing was moved.
fn size(event: &Element, name: &str) -> String {
    event.int_at(name).filter(|bytes| *bytes > 0).map_or_else(dash, units::bytes)
}

/// Who asked for it: a schedule, a backup job, a user; `-` for the daemon itself.
fn by(event: &Element) -> String {
    let id = |name| event.int_at(name).filter(|id| *id >= 0);
    match (id("SCHED_ID"), id("BACKUP_JOB_ID"), id("UID")) {
        (Some(schedule), ..) => format!("schedule {schedule}"),
        (None, Some(job), _) => format!("job {job}"),
        (None, None, Some(user)) => format!("user {user}"),
        (None, None, None) => dash(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stand_newest_first_with_what_is_known() {
        let template = Element::parse(
            "<T><BACKUP_EVENT><TIME>0</TIME><ACTION>backup</ACTION><RESULT>REFUSED</RESULT><UID>2</UID><VM_ID>3</VM_ID><REASON>no space</REASON></BACKUP_EVENT>\
             <BACKUP_EVENT><TIME>5</TIME><ACTION>backup</ACTION><RESULT>DONE</RESULT><UID>0</UID><VM_ID>3</VM_ID><SCHED_ID>4</SCHED_ID><READ_BYTES>2097152</READ_BYTES><STORED_BYTES>1536</STORED_BYTES><DURATION>65</DURATION></BACKUP_EVENT></T>",
        )
        .unwrap();
        let cells = |event: &Element| {
            COLUMNS[2..].iter().map(|column| (column.cell)(event, &ListOptions::default())).collect::<Vec<_>>()
        };
        let rows: Vec<_> = template.all(BACKUP_EVENT).map(|event| cells(event).join("|")).collect();
        assert_eq!(rows, ["backup|refused|3|user 2|-|-|-|no space", "backup|done|3|schedule 4|2M|1.5K|1m05s|"]);
        let mut page = Page::new(15);
        block(&mut page, Some(&template), false);
        let lines: Vec<_> = page.finish().lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "EVENTS");
        assert!(lines[1].contains("RESULT") && !lines[1].contains("VM") && lines[2].contains("done"), "{lines:?}");
        let mut empty = Page::new(15);
        block(&mut empty, None, true);
        assert_eq!(empty.finish(), "");
    }
}
