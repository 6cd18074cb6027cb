//! `onedatastore usage`: how backup datastores fill, and when they are full.
//!
//! Without an argument a line per backup datastore; with one a chart of what its present restore points store.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use chrono::Local;
use clap::Args;

use crate::growth::{self, Forecast, Period, Step, Stored};
use crate::objects::{DATASTORE, IMAGE, VM};
use crate::show::or_dash;
use crate::table::{self, Column, Fit, ListOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{points, states, terminal, units, width};

/// The bars of a chart never get shorter than this.
const BAR_MIN: usize = 10;

/// Columns of a chart that is not on a terminal.
const WIDTH: usize = 80;

/// Bars stand at the same place behind lines of up to so many columns; a longer line has its own behind it.
const ALIGNED_MAX: usize = 1024;

/// VMs that are listed one by one.
const VMS_MAX: usize = 10;

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name; without it a line per backup datastore
    #[arg(value_name = "DATASTORE")]
    datastore: Option<String>,
    /// What a row of the chart is; else it follows the span
    #[arg(long, value_enum, value_name = "STEP", requires = "datastore", conflicts_with = "vms")]
    by: Option<Step>,
    /// The ten VMs that store most, instead of the chart
    #[arg(long, requires = "datastore")]
    vms: bool,
    /// Comma separated values; sizes are bytes
    #[arg(long)]
    csv: bool,
    /// As JSON; sizes are bytes
    #[arg(short, long, conflicts_with = "csv")]
    json: bool,
    /// No line with the titles
    #[arg(long)]
    no_header: bool,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let Some(word) = &options.datastore else { return all(client, options) };
    let datastore = DATASTORE.info(client, DATASTORE.id(client, word)?, false)?;
    if !is_backup(&datastore) {
        let (id, name) = (datastore.text_at("ID"), datastore.text_at("NAME"));
        bail!("datastore {id} ({name}) holds no backups; `onedatastore usage` lists those that do");
    }
    let usage = Usage::of(&datastore, &images(client)?);
    if !options.vms {
        return terminal::put(&usage.chart(options));
    }
    let names = VM.pool(client, -2, "info")?;
    terminal::put(&usage.shares(options, &names))
}

fn images(client: &Client) -> Result<Element> {
    IMAGE.pool(client, -2, "info")
}

fn is_backup(datastore: &Element) -> bool {
    states::datastore_type_short(datastore) == "bck"
}

/// What is known of one backup datastore.
struct Usage {
    id: i64,
    name: String,
    /// Bytes; none = the datastore reports no capacity.
    space: Option<Space>,
    stored: Vec<Stored>,
    forecast: Forecast,
}

#[derive(Clone, Copy)]
struct Space {
    total: i64,
    used: i64,
    free: i64,
}

impl Usage {
    fn of(datastore: &Element, images: &Element) -> Self {
        let id = datastore.int_at("ID").unwrap_or(-1);
        let points = points::of_pool(images, |image| image.int_at("DATASTORE_ID") == Some(id));
        let bytes = |name| datastore.int_at(name).map(|mb: i64| mb.max(0).saturating_mul(1 << 20));
        let space = match (bytes("TOTAL_MB"), bytes("USED_MB"), bytes("FREE_MB")) {
            (Some(total), Some(used), Some(free)) if total > 0 => Some(Space { total, used, free }),
            _ => None,
        };
        let number = |point: &Element, name| point.int_at(name);
        let stored: Vec<Stored> = points
            .iter()
            .map(|point| Stored {
                time: number(point, "DATE").unwrap_or(0),
                bytes: number(point, "STORED_BYTES").unwrap_or(0).max(0),
                vm: number(point, "VM_ID").unwrap_or(-1),
            })
            .filter(|stored| stored.time > 0)
            .collect();
        // Numbers of increments only grow: a chain that begins later lost its beginning.
        let shrinks = points.iter().any(|point| {
            point.int_at("PARENT_ID") == Some(-1) && point.int_at("INCREMENT_ID").is_some_and(|id| id > 0)
        });
        let forecast = growth::forecast(&stored, space.map(|space| space.free), shrinks, units::now());
        Self { id, name: datastore.text_at("NAME").to_owned(), space, stored, forecast }
    }

    fn total(&self) -> i64 {
        self.stored.iter().fold(0, |sum, point| sum.saturating_add(point.bytes))
    }

    fn vms(&self) -> BTreeMap<i64, (usize, i64)> {
        let mut vms: BTreeMap<i64, (usize, i64)> = BTreeMap::new();
        for point in &self.stored {
            let (count, bytes) = vms.entry(point.vm).or_default();
            (*count, *bytes) = (*count + 1, bytes.saturating_add(point.bytes));
        }
        vms
    }

    fn times(&self) -> (i64, i64) {
        let times = || self.stored.iter().map(|point| point.time);
        (times().min().unwrap_or(0), times().max().unwrap_or(0))
    }

    /// What scripts get of it as a whole.
    fn element(&self) -> Element {
        let mut parts = vec![("ID", self.id.to_string()), ("NAME", self.name.clone())];
        if let Some(space) = self.space {
            let sizes = [("TOTAL_BYTES", space.total), ("USED_BYTES", space.used), ("FREE_BYTES", space.free)];
            parts.extend(sizes.map(|(name, bytes)| (name, bytes.to_string())));
        }
        let (oldest, newest) = self.times();
        parts.extend([
            ("POINTS", self.stored.len().to_string()),
            ("VMS", self.vms().len().to_string()),
            ("STORED_BYTES", self.total().to_string()),
            ("OLDEST", oldest.to_string()),
            ("NEWEST", newest.to_string()),
        ]);
        match &self.forecast {
            Forecast::Full { rate, at } => {
                parts.extend([("BYTES_A_DAY", rate.to_string()), ("FULL_AT", at.to_string())]);
            }
            Forecast::Far { rate } => parts.push(("BYTES_A_DAY", rate.to_string())),
            Forecast::Unsaid(reason) => parts.push(("NO_FORECAST", (*reason).to_owned())),
        }
        vector("DATASTORE", parts)
    }

    fn head(&self) -> String {
        let mut out = format!("DATASTORE {} ({})\n", self.id, terminal::one_line(&self.name));
        if let Some(space) = self.space {
            let [total, used, free] = [space.total, space.used, space.free].map(units::bytes);
            let share = free_share(space);
            out.push_str(&format!("{total} in all, {used} used by backups, {free} ({share}) free\n"));
        }
        let (points, vms, stored) = (self.stored.len(), self.vms().len(), units::bytes(self.total()));
        let (points, vms) = (counted(points, "restore point"), counted(vms, "VM"));
        let take = if self.stored.len() == 1 { "takes" } else { "take" };
        out.push_str(&format!("{points} of {vms} {take} {stored}\n"));
        out.push_str(&match &self.forecast {
            Forecast::Full { rate, at } => {
                let (rate, date) = (units::bytes(*rate), units::date(*at));
                let days = units::ahead(at.saturating_sub(units::now()).max(0));
                format!("full in {days} ({date}) at {rate} a day, if nothing is removed\n")
            }
            Forecast::Far { rate } => format!("not full within five years, at {} a day\n", units::bytes(*rate)),
            Forecast::Unsaid(reason) => format!("when it is full cannot be said: {reason}\n"),
        });
        out.push('\n');
        out
    }

    /// What its points store, row by row.
    fn chart(&self, options: &Options) -> String {
        let now = Local::now();
        let (oldest, _) = self.times();
        let span = now.timestamp().saturating_sub(if oldest > 0 { oldest } else { now.timestamp() });
        let step = options.by.unwrap_or_else(|| Step::for_span(span));
        let rows = growth::periods(&self.stored, step, &now);
        if options.json {
            let period = |row: &Period| {
                let parts = [
                    ("FIRST_DAY", row.first.to_string()),
                    ("POINTS", row.points.to_string()),
                    ("STORED_BYTES", row.added.to_string()),
                    ("TOTAL_BYTES", row.total.to_string()),
                ];
                vector("PERIOD", parts)
            };
            return self.json(rows.iter().map(period));
        }
        if options.csv {
            let line = |row: &Period| {
                vec![row.first.to_string(), row.points.to_string(), row.added.to_string(), row.total.to_string()]
            };
            return csv(&[step.title(), "POINTS", "STORED", "TOTAL"], rows.iter().map(line), options);
        }
        let mut out = self.head();
        let cells = rows.iter().map(|row| {
            let first = if row.and_before { format!("to {}", row.first) } else { row.first.to_string() };
            vec![first, row.points.to_string(), units::bytes(row.added), units::bytes(row.total)]
        });
        let titles = [(step.title(), 10, true), ("POINTS", 6, false), ("STORED", 7, false), ("TOTAL", 7, false)];
        let largest = rows.iter().map(|row| row.total).max().unwrap_or(0);
        let bars = rows.iter().map(|row| (row.total, largest));
        out.push_str(&with_bars(&titles, &cells.collect::<Vec<_>>(), bars, options));
        out
    }

    /// Who stores most.
    fn shares(&self, options: &Options, names: &Element) -> String {
        let mut vms: Vec<(i64, usize, i64)> =
            self.vms().into_iter().map(|(vm, (points, bytes))| (vm, points, bytes)).collect();
        vms.sort_by_key(|(vm, _, bytes)| (std::cmp::Reverse(*bytes), *vm));
        vms.truncate(VMS_MAX);
        let name = |id: i64| {
            let vm = names.all("VM").find(|vm| vm.int_at("ID") == Some(id));
            or_dash(&terminal::one_line(vm.map_or("", |vm| vm.text_at("NAME"))))
        };
        let id = |vm: i64| if vm < 0 { "-".to_owned() } else { vm.to_string() };
        if options.json {
            let share = |(vm, points, bytes): &(i64, usize, i64)| {
                let parts = [
                    ("ID", vm.to_string()),
                    ("NAME", name(*vm)),
                    ("POINTS", points.to_string()),
                    ("STORED_BYTES", bytes.to_string()),
                ];
                vector("VM", parts)
            };
            return self.json(vms.iter().map(share));
        }
        if options.csv {
            let line = |(vm, points, bytes): &(i64, usize, i64)| {
                vec![id(*vm), name(*vm), points.to_string(), bytes.to_string()]
            };
            return csv(&["VM", "NAME", "POINTS", "STORED"], vms.iter().map(line), options);
        }
        let all = self.total();
        let cells = vms.iter().map(|(vm, points, bytes)| {
            vec![id(*vm), name(*vm), points.to_string(), units::bytes(*bytes), percent(*bytes, all)]
        });
        let titles =
            [("VM", 4, false), ("NAME", 15, true), ("POINTS", 6, false), ("STORED", 7, false), ("SHARE", 5, false)];
        let bars = vms.iter().map(|(_, _, bytes)| (*bytes, all));
        format!("{}{}", self.head(), with_bars(&titles, &cells.collect::<Vec<_>>(), bars, options))
    }

    fn json(&self, members: impl Iterator<Item = Element>) -> String {
        let mut root = Element { name: "DATASTORE_USAGE".to_owned(), ..self.element() };
        root.children.extend(members);
        crate::json::pretty(&root)
    }
}

fn vector<'a>(name: &str, parts: impl IntoIterator<Item = (&'a str, String)>) -> Element {
    let part = |(name, text): (&str, String)| Element { name: name.to_owned(), text, children: Vec::new() };
    Element { name: name.to_owned(), text: String::new(), children: parts.into_iter().map(part).collect() }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn percent(part: i64, all: i64) -> String {
    if all <= 0 { "-".to_owned() } else { format!("{:.0}%", part as f64 * 100.0 / all as f64) }
}

fn free_share(space: Space) -> String {
    percent(space.free, space.total)
}

fn csv(titles: &[&str], rows: impl Iterator<Item = Vec<String>>, options: &Options) -> String {
    let quote = |cell: &String| match cell.contains(['"', ',']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    };
    let mut lines: Vec<String> = if options.no_header { Vec::new() } else { vec![titles.join(",")] };
    lines.extend(rows.map(|row| row.iter().map(quote).collect::<Vec<_>>().join(",")));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The table with a bar at the end of each line, as long as what is left of the terminal's width allows.
fn with_bars(
    titles: &[(&str, usize, bool)],
    rows: &[Vec<String>],
    bars: impl Iterator<Item = (i64, i64)>,
    options: &Options,
) -> String {
    let text = table::plain(titles, rows);
    let width = text.lines().map(width::of).max().unwrap_or(0).min(ALIGNED_MAX);
    let room = terminal::width().unwrap_or(WIDTH).saturating_sub(width + 2).max(BAR_MIN);
    let mut lines = text.lines();
    let mut out = match lines.next() {
        Some(head) if !options.no_header => format!("{head}\n"),
        _ => String::new(),
    };
    for (line, (part, all)) in lines.zip(bars) {
        let length = if all <= 0 { 0 } else { (part as f64 / all as f64 * room as f64).round() as usize };
        // Something is never shown as nothing.
        let length = if part > 0 { length.clamp(1, room) } else { 0 };
        let blanks = " ".repeat((width + 1).saturating_sub(width::of(line)));
        out.push_str(format!("{line}{blanks}{}", "#".repeat(length)).trim_end());
        out.push('\n');
    }
    out
}

fn all(client: &Client, options: &Options) -> Result<()> {
    let (datastores, images) = (DATASTORE.pool(client, -2, "info")?, images(client)?);
    let usages = datastores.all("DATASTORE").filter(|datastore| is_backup(datastore));
    let children = usages.map(|datastore| Usage::of(datastore, &images).element()).collect();
    let document = Element { name: "DATASTORE_USAGE".to_owned(), text: String::new(), children };
    let columns = if options.csv { &EXACT } else { &COLUMNS };
    let list = ListOptions {
        csv: options.csv,
        csv_del: ",".to_owned(),
        json: options.json,
        no_header: options.no_header,
        operator: "AND".to_owned(),
        ..ListOptions::default()
    };
    table::list(&document, "DATASTORE", columns, &DEFAULT, &list)
}

const DEFAULT: [&str; 9] = ["ID", "NAME", "TOTAL", "USED", "FREE", "VMS", "POINTS", "STORED", "FULL"];

const COLUMNS: [Column; 9] = [
    Column::right("ID", 4, |usage, _| usage.text_at("ID").to_owned()),
    Column::left("NAME", 15, |usage, _| usage.text_at("NAME").to_owned()).fit(Fit::Share),
    Column::right("TOTAL", 7, |usage, _| size(usage, "TOTAL_BYTES")),
    Column::right("USED", 7, |usage, _| size(usage, "USED_BYTES")),
    Column::right("FREE", 7, |usage, _| size(usage, "FREE_BYTES")),
    Column::right("VMS", 4, |usage, _| usage.text_at("VMS").to_owned()),
    Column::right("POINTS", 6, |usage, _| usage.text_at("POINTS").to_owned()),
    Column::right("STORED", 7, |usage, _| size(usage, "STORED_BYTES")),
    Column::left("FULL", 8, |usage, _| usage.int_at("FULL_AT").map_or("-".to_owned(), units::date)),
];

/// The same for programs: bytes and epoch seconds.
const EXACT: [Column; 9] = [
    COLUMNS[0],
    COLUMNS[1],
    Column::right("TOTAL", 7, |usage, _| usage.text_at("TOTAL_BYTES").to_owned()),
    Column::right("USED", 7, |usage, _| usage.text_at("USED_BYTES").to_owned()),
    Column::right("FREE", 7, |usage, _| usage.text_at("FREE_BYTES").to_owned()),
    COLUMNS[5],
    COLUMNS[6],
    Column::right("STORED", 7, |usage, _| usage.text_at("STORED_BYTES").to_owned()),
    Column::right("FULL", 8, |usage, _| usage.text_at("FULL_AT").to_owned()),
];

fn size(usage: &Element, name: &str) -> String {
    usage.int_at(name).map_or("-".to_owned(), units::bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_name_harms_no_other_line() {
        let options = Options { datastore: None, by: None, vms: true, csv: false, json: false, no_header: true };
        let rows = [vec!["x".repeat(100_000)], vec!["web".into()]];
        let text = with_bars(&[("NAME", 4, true)], &rows, [(1, 2), (1, 2)].into_iter(), &options);
        let lengths: Vec<_> = text.lines().map(str::len).collect();
        assert!(lengths[0] < 100_200 && lengths[1] < 2 * ALIGNED_MAX && lengths.len() == 2, "{lengths:?}");
    }
}
