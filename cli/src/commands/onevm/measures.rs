//! `onevm monitoring`: what a VM was measured to use.

use anyhow::Result;
use clap::Args;

use crate::commands::verbs::One;
use crate::objects::VM;
use crate::table::{self, Column, ListOptions};
use crate::units;
use crate::wire::Client;
use crate::xml::Element;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    vm: One,
    /// Columns to show, in this order
    #[arg(short, long, value_name = "COLUMN,...", value_delimiter = ',')]
    list: Vec<String>,
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
    /// Sizes as plain numbers of KiB
    #[arg(short, long)]
    kilobytes: bool,
    /// No line with the titles
    #[arg(long)]
    no_header: bool,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let answer = client.call("one.vm.monitoring", [VM.id(client, &options.vm.id)?.into()])?;
    let shown = ListOptions {
        list: options.list.clone(),
        operator: "AND".to_owned(),
        csv: options.csv,
        csv_del: ",".to_owned(),
        xml: options.xml,
        json: options.json,
        yaml: options.yaml,
        kilobytes: options.kilobytes,
        no_header: options.no_header,
        ..ListOptions::default()
    };
    let default: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    table::list(&Element::parse(&answer.text())?, "MONITORING", &COLUMNS, &default, &shown)
}

const COLUMNS: [Column; 7] = [
    Column::left("TIME", 14, |sample, _| units::time(sample.int_at("TIMESTAMP").unwrap_or(0))),
    Column::right("UCPU", 5, |sample, _| sample.text_at("CPU").to_owned()),
    Column::right("UMEM", 7, |sample, options| options.kib(number(sample, "MEMORY"))),
    Column::right("NETRX", 7, |sample, options| bytes(sample, "NETRX", options)),
    Column::right("NETTX", 7, |sample, options| bytes(sample, "NETTX", options)),
    Column::right("DISKRD", 7, |sample, options| bytes(sample, "DISKRDBYTES", options)),
    Column::right("DISKWR", 7, |sample, options| bytes(sample, "DISKWRBYTES", options)),
];

fn number(sample: &Element, name: &str) -> i64 {
    sample.text_at(name).parse::<f64>().map_or(0, |value| value as i64)
}

fn bytes(sample: &Element, name: &str, options: &ListOptions) -> String {
    let value = number(sample, name);
    if options.kilobytes { (value / 1024).to_string() } else { units::bytes(value) }
}
