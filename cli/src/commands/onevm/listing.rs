//! `onevm list` and `onevm top`: the table of VMs.

use anyhow::{Result, bail};
use clap::Args;

use super::last_record;
use crate::commands::text_cell;
use crate::commands::verbs::Face;
use crate::objects::VM;
use crate::states;
use crate::table::{Column, Fit, ListOptions};
use crate::units;
use crate::wire::Client;
use crate::xml::Element;

#[derive(Args, Clone, Debug)]
pub struct List {
    #[command(flatten)]
    options: ListOptions,
    /// Full documents with --xml, --json and --yaml
    #[arg(short, long)]
    extended: bool,
    /// Only VMs of which this holds, like VM.TEMPLATE.DISK[*].IMAGE=alpine&VM.UNAME=ann
    #[arg(long, value_name = "PATH=VALUE&...")]
    search: Option<String>,
}

impl List {
    /// Prints the table.
    pub fn run(&self, client: &Client) -> Result<()> {
        let conditions = self.search.as_deref().map(parse_search).transpose()?.unwrap_or_default();
        // Pools are short; what is searched for may be in the full documents only.
        let verb = if self.extended || !conditions.is_empty() { "infoextended" } else { "info" };
        let mut pool = VM.pool_for(client, &self.options, verb)?;
        pool.children.retain(|vm| conditions.iter().all(|condition| condition.holds(vm)));
        FACE.table(&pool, &self.options)
    }
}

/// One `PATH=VALUE` of `--search`. The daemon has no search over its database, so that it is done here.
struct Condition {
    /// Names of elements under VM.
    path: Vec<String>,
    value: String,
}

fn parse_search(text: &str) -> Result<Vec<Condition>> {
    let condition = |part: &str| {
        let (path, value) = part.split_once('=')?;
        let mut names = path.trim().split('.').map(|name| name.trim_end_matches("[*]").to_uppercase());
        let path: Vec<String> = if names.next()? == "VM" { names.collect() } else { return None };
        let named = !path.is_empty() && path.iter().all(|name| !name.is_empty());
        named.then(|| Condition { path, value: value.trim().to_owned() })
    };
    match text.split('&').map(condition).collect() {
        Some(conditions) => Ok(conditions),
        None => bail!("--search {text}: write for instance VM.NAME=web&VM.TEMPLATE.DISK[*].IMAGE=alpine"),
    }
}

impl Condition {
    /// Does one of the elements at the path have the value?
    fn holds(&self, vm: &Element) -> bool {
        let mut found = vec![vm];
        for name in &self.path {
            found = found.into_iter().flat_map(|element| element.all(name)).collect();
        }
        found.into_iter().any(|element| element.text.trim() == self.value)
    }
}

/// Its page is made by [`super::show_vm::show`], which asks the daemon for more than the VM's document.
pub(in crate::commands) const FACE: Face = Face { kind: &VM, columns: &COLUMNS, default: &DEFAULT, fill: |_, _| {} };

const DEFAULT: [&str; 9] = ["ID", "USER", "GROUP", "NAME", "STAT", "CPU", "MEM", "HOST", "TIME"];

const COLUMNS: [Column; 14] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, crate::commands::user_cell),
    Column::left("GROUP", 8, crate::commands::group_cell),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::right("STAT", 4, |vm, _| states::vm_short(vm).to_owned()),
    Column::right("CPU", 4, text_cell!("TEMPLATE/CPU")),
    Column::right("MEM", 7, |vm, options| options.mib(vm.int_at("TEMPLATE/MEMORY").unwrap_or(0))),
    Column::left("HOST", 10, |vm, _| host(vm).to_owned()).fit(Fit::Share),
    Column::right("TIME", 10, |vm, _| units::days(lifetime(vm))).fit(Fit::Cut),
    Column::left("IP", 15, |vm, _| addresses(vm)),
    Column::right("STIME", 14, |vm, _| units::time(vm.int_at("STIME").unwrap_or(0))),
    Column::left("LCM_STATE", 15, |vm, _| states::vm_lcm_state(vm).to_owned()),
    Column::right("UCPU", 5, |vm, _| measured(vm, "CPU").map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"))),
    Column::right("UMEM", 7, |vm, options| {
        measured(vm, "MEMORY").map_or_else(|| "-".to_owned(), |memory| options.kib(memory as i64))
    }),
];

/// A figure of the last monitoring.
fn measured(vm: &Element, name: &str) -> Option<f64> {
    vm.text_at(&format!("MONITORING/{name}")).parse::<f64>().ok()
}

/// The host of the last history record.
fn host(vm: &Element) -> &str {
    last_record(vm).map_or("", |record| record.text_at("HOSTNAME"))
}

fn lifetime(vm: &Element) -> i64 {
    let end = vm.int_at("ETIME").filter(|end| *end > 0).unwrap_or_else(units::now);
    end.saturating_sub(vm.int_at("STIME").unwrap_or(end))
}

fn addresses(vm: &Element) -> String {
    let nics = vm.at("TEMPLATE").into_iter().flat_map(|template| template.all("NIC"));
    nics.map(|nic| nic.text_at("IP")).filter(|ip| !ip.is_empty()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_looks_at_every_element_of_a_path() {
        let vm =
            "<VM><NAME>web</NAME><TEMPLATE><DISK><IMAGE>a</IMAGE></DISK><DISK><IMAGE>b</IMAGE></DISK></TEMPLATE></VM>";
        let vm = Element::parse(vm).unwrap();
        let holds = |text| parse_search(text).unwrap().iter().all(|condition| condition.holds(&vm));
        assert!(holds("VM.NAME=web&VM.TEMPLATE.DISK[*].IMAGE=b") && holds("vm.template.disk.image=a"));
        assert!(!holds("VM.NAME=web&VM.TEMPLATE.DISK[*].IMAGE=c") && !holds("VM.TEMPLATE=a"));
        for wrong in ["", "VM", "VM=1", "NAME=web", "VM..NAME=1", "VM.NAME=web&"] {
            assert!(parse_search(wrong).is_err(), "{wrong}");
        }
    }
}
