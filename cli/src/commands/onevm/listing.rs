//! `onevm list` and `onevm top`: the table of VMs.

use anyhow::{Result, bail};
use clap::Args;

use super::last_record;
use crate::commands::text_cell;
use crate::commands::verbs::Face;
use crate::objects::{CLUSTER, VM};
use crate::states;
use crate::table::{self, Column, Fit, ListOptions};
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
        if self.options.describe {
            return table::describe(&COLUMNS);
        }
        let conditions = self.search.as_deref().map(parse_search).transpose()?.unwrap_or_default();
        // Pools are short; what is searched for may be in the full documents only.
        let verb = if self.extended || !conditions.is_empty() { "infoextended" } else { "info" };
        let mut pool = VM.pool_for(client, &self.options, verb)?;
        pool.children.retain(|vm| conditions.iter().all(|condition| condition.holds(vm)));
        if !self.options.is_document() && FACE.is_asked("CLUSTER", &self.options)? {
            name_clusters(client, &mut pool)?;
        }
        FACE.table(&pool, &self.options)
    }
}

/// Writes the name of its cluster into each VM that is on a host: the pool has only the id.
fn name_clusters(client: &Client, pool: &mut Element) -> Result<()> {
    let clusters = CLUSTER.pool_of_all(client)?;
    for vm in &mut pool.children {
        let Some(id) = last_record(vm).and_then(|record| record.int_at("CID")) else { continue };
        let name = clusters.all(CLUSTER.member).find(|cluster| cluster.int_at("ID") == Some(id));
        let text = name.map_or_else(|| id.to_string(), |cluster| cluster.text_at("NAME").to_owned());
        vm.children.push(Element { name: CLUSTER.member.to_owned(), text, children: Vec::new() });
    }
    Ok(())
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

const COLUMNS: [Column; 15] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, crate::commands::user_cell),
    Column::left("GROUP", 8, crate::commands::group_cell),
    Column::left("NAME", 15, |vm, _| name(vm)).fit(Fit::Share).about("Name; * in front: it is to be placed anew"),
    Column::right("STAT", 4, |vm, _| states::vm_short(vm).to_owned()),
    Column::right("CPU", 4, text_cell!("TEMPLATE/CPU")),
    Column::right("MEM", 7, |vm, options| options.mib(vm.int_at("TEMPLATE/MEMORY").unwrap_or(0))),
    Column::left("HOST", 10, |vm, _| host(vm).to_owned()).fit(Fit::Share),
    Column::right("TIME", 10, |vm, _| units::days(lifetime(vm)))
        .fit(Fit::Cut)
        .about("How long ago it was created; how long it lived"),
    Column::left("CLUSTER", 10, |vm, _| cluster(vm)).about("Cluster of the host that the VM is on"),
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

/// A VM that the scheduler is to place anew has a star, as in OpenNebula's table.
fn name(vm: &Element) -> String {
    let star = if vm.text_at("RESCHED") == "1" { "*" } else { "" };
    format!("{star}{}", vm.text_at("NAME"))
}

/// The host of the last history record, while the VM is there.
fn host(vm: &Element) -> &str {
    last_record(vm).filter(|_| states::vm_is_on_host(vm)).map_or("", |record| record.text_at("HOSTNAME"))
}

fn cluster(vm: &Element) -> String {
    if last_record(vm).is_some() { vm.text_at("CLUSTER").to_owned() } else { "NONE".to_owned() }
}

fn lifetime(vm: &Element) -> i64 {
    let end = vm.int_at("ETIME").filter(|end| *end > 0).unwrap_or_else(units::now);
    end.saturating_sub(vm.int_at("STIME").unwrap_or(end))
}

/// Names of the addresses that a card may have.
const ADDRESSES: [&str; 5] = ["IP", "EXTERNAL_IP", "IP6_GLOBAL", "IP6_ULA", "IP6"];

/// `--` for none, as in OpenNebula's table.
fn addresses(vm: &Element) -> String {
    let nics = vm.at("TEMPLATE").into_iter().flat_map(|template| template.all("NIC"));
    let addresses = nics.flat_map(|nic| ADDRESSES.map(|name| nic.text_at(name)));
    match addresses.filter(|ip| !ip.is_empty()).collect::<Vec<_>>() {
        none if none.is_empty() => "--".to_owned(),
        addresses => addresses.join(","),
    }
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
