//! `onehost`: the hypervisors.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::text_cell;
use super::verbs::{self, Changing, Face, Several, Viewing};
use crate::objects::{self, CLUSTER, HOST};
use crate::show::{Page, join, or_dash};
use crate::states;
use crate::table::{Column, Fit};
use crate::units;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

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
    #[command(flatten)]
    Viewing(Viewing),
    /// A new host
    Create(Create),
    /// Remove hosts
    Delete(Several),
    #[command(flatten)]
    Changing(Changing),
}

#[derive(Args, Debug)]
struct Create {
    /// Name or address
    #[arg(value_name = "HOST")]
    name: String,
    /// Driver that watches it: kvm, dummy
    #[arg(short, long, value_name = "DRIVER")]
    im: String,
    /// Driver that runs VMs on it: kvm, dummy
    #[arg(short, long, value_name = "DRIVER")]
    vm: String,
    /// Cluster, id or name; default is the default cluster
    #[arg(short, long, value_name = "CLUSTER")]
    cluster: Option<String>,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::Viewing(verb) => verb.run(client, &FACE),
            Verb::Create(create) => {
                let cluster = create.cluster.as_deref().map_or(Ok(-1), |word| CLUSTER.id(client, word))?;
                let params = [create.name.into(), create.im.into(), create.vm.into(), cluster.into()];
                objects::put_id(&client.call("one.host.allocate", params)?).map(|_| ())
            }
            Verb::Delete(target) => verbs::delete(client, &HOST, &target),
            Verb::Changing(verb) => verb.run(client, &HOST, verbs::template_of),
        }
    }
}

fn fill(page: &mut Page, host: &Element) {
    let text = |name| host.text_at(name);
    page.header(&format!("HOST {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("CLUSTER", or_dash(text("CLUSTER")))
        .line("STATE", states::host_state(host))
        .line("IM_MAD", text("IM_MAD"))
        .line("VM_MAD", text("VM_MAD"))
        .header("HOST SHARES")
        .line("RUNNING VMS", text("HOST_SHARE/RUNNING_VMS"))
        .line("VMS", or_dash(&join(&host.ids_at("VMS"))));
    let number = |name: &str| host.int_at(&format!("HOST_SHARE/{name}")).unwrap_or(0);
    page.header("MEMORY")
        .line("TOTAL", units::kib(number("TOTAL_MEM")))
        .line("TOTAL +/- RES", units::kib(number("MAX_MEM")))
        .line("USED (ALLOC)", units::kib(number("MEM_USAGE")))
        .header("CPU")
        .line("TOTAL", number("TOTAL_CPU").to_string())
        .line("TOTAL +/- RES", number("MAX_CPU").to_string())
        .line("USED (ALLOC)", number("CPU_USAGE").to_string())
        .template("MONITORING INFORMATION", host.at("TEMPLATE"), &[]);
}

const FACE: Face = Face { kind: &HOST, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 7] = ["ID", "NAME", "CLUSTER", "TVM", "ALLOCATED_CPU", "ALLOCATED_MEM", "STAT"];

const COLUMNS: [Column; 9] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("CLUSTER", 9, text_cell!("CLUSTER")).fit(Fit::Share),
    Column::right("TVM", 3, |host, _| host.int_at("HOST_SHARE/RUNNING_VMS").unwrap_or(0).to_string()),
    Column::right("ALLOCATED_CPU", 18, |host, _| allocated(host, "CPU_USAGE", "MAX_CPU", |number| number.to_string())),
    Column::right("ALLOCATED_MEM", 18, |host, _| allocated(host, "MEM_USAGE", "MAX_MEM", units::kib)),
    Column::left("STAT", 6, |host, _| states::host_short(host).to_owned()),
    Column::left("IM", 8, text_cell!("IM_MAD")),
    Column::left("VMM", 8, text_cell!("VM_MAD")),
];

/// `100 / 400 (25%)`, or `-` for a host that reports nothing.
fn allocated(host: &Element, used: &str, max: &str, shown: fn(i64) -> String) -> String {
    let number = |name: &str| host.int_at(&format!("HOST_SHARE/{name}")).unwrap_or(0);
    let (used, max) = (number(used), number(max));
    if max <= 0 {
        return "-".to_owned();
    }
    format!("{} / {} ({:.0}%)", shown(used), shown(max), used as f64 * 100.0 / max as f64)
}
