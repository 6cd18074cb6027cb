//! `onehost`: the hypervisors.

mod monitoring;
mod show_host;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use one_core::lifecycle::HostState;

use super::making::{self, InCluster};
use super::text_cell;
use super::verbs::{self, Changing, Face, Several, Show, Top};
use crate::objects::{CLUSTER, HOST};
use crate::states;
use crate::table::{Column, Fit, ListOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each};

/// Hypervisor hosts
#[derive(Parser, Debug)]
#[command(name = "onehost", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the hosts
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one host
    Show(Show),
    /// A new host
    Create(Create),
    /// Remove hosts that run nothing
    Delete(Several),
    /// Watch hosts and place VMs there
    Enable(Several),
    /// Watch hosts, but place no VMs there
    Disable(Several),
    /// Leave hosts alone
    Offline(Several),
    /// Disable hosts, and let the scheduler place their VMs elsewhere
    Flush(Several),
    /// Look at hosts again now
    Forceupdate(Forceupdate),
    #[command(flatten)]
    Changing(Changing),
    /// What was measured, as a chart or a table
    Monitoring(monitoring::Options),
}

#[derive(Args, Debug)]
struct Create {
    /// Name or address
    #[arg(value_name = "NAME")]
    name: String,
    /// Driver that watches it: kvm, dummy
    #[arg(short, long, value_name = "DRIVER")]
    im: String,
    /// Driver that runs VMs on it: kvm, dummy
    #[arg(short, long, value_name = "DRIVER")]
    vm: String,
    #[command(flatten)]
    cluster: InCluster,
}

#[derive(Args, Debug)]
struct Forceupdate {
    /// Id, name, list (0,1,5) or range (0..3); all that are not offline when nothing is named
    #[arg(value_name = "ID,...", conflicts_with = "cluster")]
    ids: Option<String>,
    /// Those of a cluster, id or name
    #[arg(short, long, value_name = "CLUSTER")]
    cluster: Option<String>,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        let status =
            |target: &Several, number: i64| verbs::call_each(client, &HOST, &target.ids, "status", &[number.into()]);
        match self.verb {
            Verb::List(options) => FACE.list(client, &options),
            Verb::Top(top) => top.draw(|options| FACE.list(client, options)),
            Verb::Show(options) => show_host::show(client, &options),
            Verb::Create(create) => {
                let cluster = create.cluster.id(client)?;
                let params = [create.name.into(), create.im.into(), create.vm.into(), cluster.into()];
                making::allocate(client, &HOST, params).map(|_| ())
            }
            Verb::Delete(target) => verbs::delete(client, &HOST, &target),
            Verb::Enable(target) => status(&target, 0),
            Verb::Disable(target) => status(&target, 1),
            Verb::Offline(target) => status(&target, 2),
            Verb::Flush(target) => flush(client, &target),
            Verb::Forceupdate(options) => force_update(client, &options),
            Verb::Changing(verb) => verb.run(client, &HOST, verbs::template_of),
            Verb::Monitoring(options) => monitoring::run(client, &options),
        }
    }
}

/// Places no more VMs on the hosts, then marks those that are there to be placed anew.
fn flush(client: &Client, target: &Several) -> Result<()> {
    each(&HOST.ids(client, &target.ids)?, |id| {
        client.call("one.host.status", [id.into(), 1_i64.into()])?;
        let vms = HOST.info(client, id, false)?.ids_at("VMS");
        each(&vms, |vm| client.call("one.vm.action", ["resched".into(), vm.into()]).map(|_| ()))
    })
}

/// Setting a host to the state that it has makes the daemon look at it at once.
fn force_update(client: &Client, options: &Forceupdate) -> Result<()> {
    let cluster = options.cluster.as_deref().map(|word| CLUSTER.id(client, word)).transpose()?;
    let named = options.ids.as_deref().map(|ids| HOST.ids(client, ids)).transpose()?;
    let pool = HOST.pool(client, -2, "info")?;
    let state = |host: &Element| host.int_at("STATE").and_then(HostState::from_number);
    let chosen = pool.all(HOST.member).filter(|host| match cluster {
        Some(cluster) => host.int_at("CLUSTER_ID") == Some(cluster) && state(host) != Some(HostState::Offline),
        None => named.is_some() || state(host) != Some(HostState::Offline),
    });
    let states: BTreeMap<i64, _> = chosen.filter_map(|host| Some((host.int_at("ID")?, state(host)))).collect();
    let ids = named.unwrap_or_else(|| states.keys().copied().collect());
    each(&ids, |id| {
        let status = match states.get(&id) {
            None => bail!("host {id} not found; onehost list shows all"),
            Some(Some(HostState::Offline)) => bail!("host {id} is offline; enable it, then it is looked at"),
            Some(Some(HostState::Disabled)) => 1_i64,
            Some(_) => 0,
        };
        client.call("one.host.status", [id.into(), status.into()]).map(|_| ())
    })
}

/// Its page is made by [`show_host::show`], which lists the VMs, too.
const FACE: Face = Face { kind: &HOST, columns: &COLUMNS, default: &DEFAULT, fill: |_, _| {} };

const DEFAULT: [&str; 7] = ["ID", "NAME", "CLUSTER", "TVM", "ALLOCATED_CPU", "ALLOCATED_MEM", "STAT"];

const COLUMNS: [Column; 17] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("CLUSTER", 9, text_cell!("CLUSTER")).fit(Fit::Share),
    Column::right("TVM", 3, |host, _| number(host, RUNNING_VMS).to_string()),
    Column::right("ALLOCATED_CPU", 18, |host, _| share(host, CPU_USAGE, MAX_CPU, |number| number.to_string())),
    Column::right("ALLOCATED_MEM", 18, |host, options| share(host, MEM_USAGE, MAX_MEM, |kib| options.kib(kib))),
    Column::left("STAT", 6, |host, _| states::host_short(host).to_owned()),
    Column::right("REAL_CPU", 18, |host, _| share(host, USED_CPU, MAX_CPU, |number| number.to_string())),
    Column::right("REAL_MEM", 18, |host, options| share(host, USED_MEMORY, MAX_MEM, |kib| options.kib(kib))),
    Column::right("TCPU", 4, |host, _| number(host, MAX_CPU).to_string()).fit(Fit::Full),
    Column::right("FCPU", 4, |host, _| rest(host, USED_CPU, MAX_CPU).to_string()).fit(Fit::Full),
    Column::right("ACPU", 4, |host, _| rest(host, CPU_USAGE, MAX_CPU).to_string()).fit(Fit::Full),
    Column::right("TMEM", 7, |host, options| options.kib(number(host, MAX_MEM))),
    Column::right("FMEM", 7, |host, options| options.kib(number(host, FREE_MEMORY))),
    Column::right("AMEM", 7, |host, options| options.kib(rest(host, MEM_USAGE, MAX_MEM))),
    Column::left("IM", 8, text_cell!("IM_MAD")),
    Column::left("VMM", 8, text_cell!("VM_MAD")),
];

/// Figures of a host: CPU in hundredths of a processor, memory in KiB.
const RUNNING_VMS: &str = "HOST_SHARE/RUNNING_VMS";
const CPU_USAGE: &str = "HOST_SHARE/CPU_USAGE";
const MAX_CPU: &str = "HOST_SHARE/MAX_CPU";
const MEM_USAGE: &str = "HOST_SHARE/MEM_USAGE";
const MAX_MEM: &str = "HOST_SHARE/MAX_MEM";
const USED_CPU: &str = "MONITORING/CAPACITY/USED_CPU";
const USED_MEMORY: &str = "MONITORING/CAPACITY/USED_MEMORY";
const FREE_MEMORY: &str = "MONITORING/CAPACITY/FREE_MEMORY";

fn number(host: &Element, path: &str) -> i64 {
    host.int_at(path).unwrap_or(0)
}

fn rest(host: &Element, used: &str, max: &str) -> i64 {
    number(host, max).saturating_sub(number(host, used))
}

/// `100 / 400 (25%)`; `100 / -` when nobody knows how much there is; `-` for a host that reports nothing.
fn share(host: &Element, used: &str, max: &str, shown: impl Fn(i64) -> String) -> String {
    match (number(host, used), number(host, max)) {
        (0, ..=0) => "-".to_owned(),
        (used, ..=0) => format!("{} / -", shown(used)),
        (used, max) => format!("{} / {} ({}%)", shown(used), shown(max), used.saturating_mul(100) / max),
    }
}
