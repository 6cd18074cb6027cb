//! `onecluster`: the clusters, and what belongs to them.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::making;
use super::text_cell;
use super::verbs::{self, Changing, Face, Several, Show, Top};
use crate::objects::{CLUSTER, DATASTORE, HOST, Kind, VNET};
use crate::show::Page;
use crate::table::{Column, Fit, ListOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each, terminal};

/// Clusters
#[derive(Parser, Debug)]
#[command(name = "onecluster", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the clusters
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one cluster
    Show(Show),
    /// A new cluster
    Create(Create),
    /// Remove clusters; they must be empty
    Delete(Several),
    #[command(flatten)]
    Changing(Changing),
    /// Move hosts into a cluster
    #[command(mut_arg("ids", |arg| arg.value_name("HOST,...")))]
    Addhost(Members),
    /// Move hosts from a cluster to the default one
    #[command(mut_arg("ids", |arg| arg.value_name("HOST,...")))]
    Delhost(Members),
    /// Put datastores into a cluster
    #[command(mut_arg("ids", |arg| arg.value_name("DATASTORE,...")))]
    Adddatastore(Members),
    /// Take datastores out of a cluster
    #[command(mut_arg("ids", |arg| arg.value_name("DATASTORE,...")))]
    Deldatastore(Members),
    /// Put virtual networks into a cluster
    #[command(mut_arg("ids", |arg| arg.value_name("VNET,...")))]
    Addvnet(Members),
    /// Take virtual networks out of a cluster
    #[command(mut_arg("ids", |arg| arg.value_name("VNET,...")))]
    Delvnet(Members),
}

#[derive(Args, Debug)]
struct Create {
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Args, Debug)]
struct Members {
    /// Cluster, id or name
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// Id, name, list (0,1,5) or range (0..3)
    #[arg(value_name = "ID,...")]
    ids: String,
}

impl Members {
    fn call(&self, client: &Client, kind: &Kind, verb: &str) -> Result<()> {
        let cluster = CLUSTER.id(client, &self.cluster)?;
        each(&kind.ids(client, &self.ids)?, |id| {
            client.call(&CLUSTER.method(verb), [cluster.into(), id.into()]).map(|_| ())
        })
    }
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(options) => FACE.list(client, &options),
            Verb::Top(top) => top.draw(|options| FACE.list(client, options)),
            Verb::Show(options) => show(client, &options),
            Verb::Create(create) => making::allocate(client, &CLUSTER, [create.name.into()]).map(|_| ()),
            Verb::Delete(target) => verbs::delete(client, &CLUSTER, &target),
            Verb::Changing(verb) => verb.run(client, &CLUSTER, verbs::template_of),
            Verb::Addhost(members) => members.call(client, &HOST, "addhost"),
            Verb::Delhost(members) => members.call(client, &HOST, "delhost"),
            Verb::Adddatastore(members) => members.call(client, &DATASTORE, "adddatastore"),
            Verb::Deldatastore(members) => members.call(client, &DATASTORE, "deldatastore"),
            Verb::Addvnet(members) => members.call(client, &VNET, "addvnet"),
            Verb::Delvnet(members) => members.call(client, &VNET, "delvnet"),
        }
    }
}

/// Labels of this page in OpenNebula's tool.
const LABELS: usize = 18;

fn show(client: &Client, options: &Show) -> Result<()> {
    let Show { id, options } = options;
    let cluster = CLUSTER.info(client, CLUSTER.id(client, id)?, options.decrypt)?;
    if let Some(raw) = options.raw(&cluster) {
        return terminal::put(&raw);
    }
    let mut page = Page::new(LABELS);
    page.header(&format!("CLUSTER {} INFORMATION", cluster.text_at("ID")))
        .line("ID", cluster.text_at("ID"))
        .line("NAME", cluster.text_at("NAME"));
    let hosts = cluster.ids_at("HOSTS");
    if !hosts.is_empty() {
        resources(&mut page, &hosts, &HOST.pool(client, -2, "info")?);
    }
    page.template("CLUSTER TEMPLATE", cluster.at("TEMPLATE"), &[]);
    for title in ["HOSTS", "VNETS", "DATASTORES"] {
        page.header(title);
        for id in cluster.ids_at(title) {
            page.raw(&id.to_string());
        }
    }
    terminal::put(page.finish())
}

/// Processors and GiB of memory of the hosts together. CPU is in hundredths of a processor, memory in KiB.
fn resources(page: &mut Page, hosts: &[i64], pool: &Element) {
    let sum = |name: &str, unit: i64| {
        let members = pool.all(HOST.member).filter(|host| host.int_at("ID").is_some_and(|id| hosts.contains(&id)));
        let shares = members.filter_map(|host| host.int_at(&format!("HOST_SHARE/{name}")));
        shares.fold(0_i64, i64::saturating_add) / unit
    };
    page.header("CLUSTER RESOURCES");
    let block = |page: &mut Page, what: &str, total: i64, used: i64| {
        page.raw(&format!("TOTAL {what}: {total}"))
            .raw(&format!("OCCUPIED {what}: {used}"))
            .raw(&format!("AVAILABLE {what}: {}", total.saturating_sub(used)));
    };
    block(page, "CPUs", sum("TOTAL_CPU", 100), sum("CPU_USAGE", 100));
    page.raw("");
    block(page, "RAM", sum("TOTAL_MEM", 1 << 20), sum("MEM_USAGE", 1 << 20));
}

/// Its page is made by [`show`], which asks for the hosts, too.
const FACE: Face = Face { kind: &CLUSTER, columns: &COLUMNS, default: &DEFAULT, fill: |_, _| {} };

const DEFAULT: [&str; 5] = ["ID", "NAME", "HOSTS", "VNETS", "DATASTORES"];

const COLUMNS: [Column; 5] = [
    Column::right("ID", 5, text_cell!("ID")),
    Column::left("NAME", 25, text_cell!("NAME")).fit(Fit::Share),
    Column::right("HOSTS", 5, |cluster, _| cluster.ids_at("HOSTS").len().to_string()),
    Column::right("VNETS", 5, |cluster, _| cluster.ids_at("VNETS").len().to_string()),
    Column::right("DATASTORES", 10, |cluster, _| cluster.ids_at("DATASTORES").len().to_string()),
];
