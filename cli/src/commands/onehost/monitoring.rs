//! `onehost monitoring`: what was measured of a host, as a chart of bars, a table or comma separated values.

use anyhow::{Context as _, Result, bail};
use chrono::Local;
use clap::{Args, ValueEnum};

use crate::objects::HOST;
use crate::show::Page;
use crate::table;
use crate::wire::Client;
use crate::xml::Element;
use crate::{terminal, units};

/// Length of the longest bar.
const BAR: usize = 40;

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// What to show; all of it when nothing is named
    #[arg(value_enum, ignore_case = true, value_name = "ATTRIBUTE")]
    attribute: Option<Attribute>,
    /// Not before this date: 12/31/26 10:00
    #[arg(long, value_name = "DATE")]
    start: Option<String>,
    /// Not after this date
    #[arg(long = "end", value_name = "DATE")]
    until: Option<String>,
    /// Unit of memory
    #[arg(long, value_enum, ignore_case = true, default_value = "G")]
    unit: Unit,
    /// A table instead of a chart
    #[arg(long, conflicts_with = "separator")]
    table: bool,
    /// Only the last of them
    #[arg(long = "n", value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    last: u32,
    /// Values with this separator between them
    #[arg(long = "csv", value_name = "SEPARATOR")]
    separator: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
enum Attribute {
    FreeCpu,
    UsedCpu,
    FreeMemory,
    UsedMemory,
    Netrx,
    Nettx,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Unit {
    K,
    M,
    G,
    T,
}

impl Attribute {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn of(self, sample: &Element) -> i64 {
        let block = if matches!(self, Self::Netrx | Self::Nettx) { "SYSTEM" } else { "CAPACITY" };
        sample.int_at(&format!("{block}/{}", self.name())).unwrap_or(0)
    }

    fn shown(self, value: i64, unit: Unit) -> String {
        if !matches!(self, Self::FreeMemory | Self::UsedMemory) {
            return value.to_string();
        }
        // Memory is measured in KiB.
        let (steps, letter) = match unit {
            Unit::K => (0, 'K'),
            Unit::M => (1, 'M'),
            Unit::G => (2, 'G'),
            Unit::T => (3, 'T'),
        };
        let value = (value as f64 / 1024_f64.powi(steps) * 100.0).round() / 100.0;
        format!("{value} {letter}B")
    }
}

/// One moment: epoch seconds, and the values of the attributes that are shown.
type Sample = (i64, Vec<i64>);

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let date = |name: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| {
                let read = units::parse_date(text, &Local::now());
                read.with_context(|| format!("--{name} {text} is no date; write for instance 2026-12-31 10:00"))
            })
            .transpose()
    };
    let start = date("start", &options.start)?.unwrap_or(i64::MIN);
    let end = date("end", &options.until)?.unwrap_or(i64::MAX);
    let id = HOST.id(client, &options.id)?;
    let document = Element::parse(&client.call("one.host.monitoring", [id.into()])?.text())?;
    let shown = options.attribute.map_or_else(|| Attribute::value_variants().to_vec(), |attribute| vec![attribute]);
    let mut samples: Vec<Sample> = document
        .all("MONITORING")
        .map(|sample| (sample.int_at("TIMESTAMP").unwrap_or(0), shown.iter().map(|name| name.of(sample)).collect()))
        .filter(|(time, _)| (start..=end).contains(time))
        .collect();
    samples.drain(..samples.len().saturating_sub(options.last as usize));
    if samples.is_empty() {
        bail!("there are no measurements of host {id} in that time; it is monitored while it is enabled");
    }
    terminal::put(&render(id, &shown, &samples, options))
}

fn render(id: i64, shown: &[Attribute], samples: &[Sample], options: &Options) -> String {
    let names: Vec<String> = shown.iter().map(|attribute| attribute.name()).collect();
    let clock = |time: i64| units::time(time).rsplit(' ').next().unwrap_or_default().to_owned();
    let cells = |values: &[i64]| -> Vec<String> {
        shown.iter().zip(values).map(|(attribute, value)| attribute.shown(*value, options.unit)).collect()
    };
    if let Some(separator) = &options.separator {
        let title = if let [_] = shown { "VALUE".to_owned() } else { names.join(separator) };
        let lines = samples
            .iter()
            .map(|(time, values)| format!("{}{separator}{}\n", clock(*time), cells(values).join(separator)));
        return format!("TIME{separator}{title}\n{}", lines.collect::<String>());
    }
    let (first, last) = (samples.first().map_or(0, |sample| sample.0), samples.last().map_or(0, |sample| sample.0));
    let what = if let [name] = names.as_slice() { format!("Host {id} {name}") } else { format!("Host {id}") };
    let mut page = Page::new(0);
    page.header(&format!("{what} from {} to {}", units::date_to_minute(first), units::date_to_minute(last)));
    let bars = shown.len() == 1 && !options.table;
    let most = samples.iter().filter_map(|(_, values)| values.first()).max().copied().unwrap_or(0);
    let mut titles = vec![("TIME", 8, false)];
    match names.as_slice() {
        [_] => titles.push(("VALUE", 10, false)),
        names => titles.extend(names.iter().map(|name| (name.as_str(), 9, false))),
    }
    if bars {
        titles.push(("", 0, true));
    }
    let rows: Vec<Vec<String>> = samples
        .iter()
        .map(|(time, values)| {
            let bar = bars.then(|| bar(values.first().copied().unwrap_or(0), most));
            std::iter::once(clock(*time)).chain(cells(values)).chain(bar).collect()
        })
        .collect();
    format!("{}{}", page.finish(), table::plain(&titles, &rows))
}

fn bar(value: i64, most: i64) -> String {
    let length = if most > 0 { (value.max(0) as f64 / most as f64 * BAR as f64).round() as usize } else { 0 };
    "#".repeat(length.min(BAR))
}
