//! `onecluster`: the clusters.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::text_cell;
use crate::objects::CLUSTER;
use crate::show::{Page, ShowOptions};
use crate::table::{self, Column, Fit, ListOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

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
    /// Everything about one cluster
    Show(Show),
}

#[derive(Args, Debug)]
struct Show {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    options: ShowOptions,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(options) => {
                table::list(&CLUSTER.pool_for(client, &options, "info")?, CLUSTER.member, &COLUMNS, &DEFAULT, &options)
            }
            Verb::Show(show) => super::show(client, &CLUSTER, &show.id, &show.options, 15, fill),
        }
    }
}

fn fill(page: &mut Page, cluster: &Element) {
    page.header(&format!("CLUSTER {} INFORMATION", cluster.text_at("ID")))
        .line("ID", cluster.text_at("ID"))
        .line("NAME", cluster.text_at("NAME"));
    page.template("CLUSTER TEMPLATE", cluster.at("TEMPLATE"), &[]);
    for title in ["HOSTS", "VNETS", "DATASTORES"] {
        page.header(title);
        for id in cluster.ids_at(title) {
            page.raw(&id.to_string());
        }
    }
}

const DEFAULT: [&str; 5] = ["ID", "NAME", "HOSTS", "VNETS", "DATASTORES"];

const COLUMNS: [Column; 5] = [
    Column::right("ID", 5, text_cell!("ID")),
    Column::left("NAME", 25, text_cell!("NAME")).fit(Fit::Share),
    Column::right("HOSTS", 5, |cluster, _| cluster.ids_at("HOSTS").len().to_string()),
    Column::right("VNETS", 5, |cluster, _| cluster.ids_at("VNETS").len().to_string()),
    Column::right("DATASTORES", 10, |cluster, _| cluster.ids_at("DATASTORES").len().to_string()),
];
