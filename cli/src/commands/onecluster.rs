//! `onecluster`: the clusters.

use anyhow::Result;
use clap::{Parser, Subcommand};

use super::text_cell;
use super::verbs::{self, Changing, Face, Viewing};
use crate::objects::CLUSTER;
use crate::show::Page;
use crate::table::{Column, Fit};
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
    #[command(flatten)]
    Viewing(Viewing),
    #[command(flatten)]
    Changing(Changing),
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::Viewing(verb) => verb.run(client, &FACE),
            Verb::Changing(verb) => verb.run(client, &CLUSTER, verbs::template_of),
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

const FACE: Face = Face { kind: &CLUSTER, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 5] = ["ID", "NAME", "HOSTS", "VNETS", "DATASTORES"];

const COLUMNS: [Column; 5] = [
    Column::right("ID", 5, text_cell!("ID")),
    Column::left("NAME", 25, text_cell!("NAME")).fit(Fit::Share),
    Column::right("HOSTS", 5, |cluster, _| cluster.ids_at("HOSTS").len().to_string()),
    Column::right("VNETS", 5, |cluster, _| cluster.ids_at("VNETS").len().to_string()),
    Column::right("DATASTORES", 10, |cluster, _| cluster.ids_at("DATASTORES").len().to_string()),
];
