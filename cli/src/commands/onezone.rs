//! `onezone`: the zone, which is the daemon itself.

use anyhow::Result;
use clap::{Parser, Subcommand};

use super::text_cell;
use super::verbs::{self, Changing, Enabling, Face, Viewing};
use crate::objects::ZONE;
use crate::show::Page;
use crate::states;
use crate::table::{Column, Fit};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

/// Zones
#[derive(Parser, Debug)]
#[command(name = "onezone", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    #[command(flatten)]
    Viewing(Box<Viewing>),
    #[command(flatten)]
    Changing(Changing),
    #[command(flatten)]
    Enabling(Enabling),
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::Viewing(verb) => verb.run(client, &FACE),
            Verb::Changing(verb) => verb.run(client, &ZONE, verbs::template_of),
            Verb::Enabling(verb) => verb.run(client, &ZONE),
        }
    }
}

/// Labels of this page in OpenNebula's tool.
const LABELS: usize = 18;

fn fill(page: &mut Page, zone: &Element) {
    page.labels(LABELS)
        .header(&format!("ZONE {} INFORMATION", zone.text_at("ID")))
        .line("ID", zone.text_at("ID"))
        .line("NAME", zone.text_at("NAME"))
        .line("STATE", states::zone_state(zone));
    let servers = zone.at("SERVER_POOL").into_iter().flat_map(|pool| pool.all("SERVER"));
    let servers: Vec<Vec<String>> =
        servers.map(|server| ["ID", "NAME", "ENDPOINT"].map(|name| server.text_at(name).to_owned()).to_vec()).collect();
    if !servers.is_empty() {
        page.header("ZONE SERVERS").table(&[("ID", 2, false), ("NAME", 15, true), ("ENDPOINT", 63, true)], &servers);
    }
    page.template("ZONE TEMPLATE", zone.at("TEMPLATE"), &[]);
}

const FACE: Face = Face { kind: &ZONE, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 4] = ["CURRENT", "ID", "NAME", "ENDPOINT"];

const COLUMNS: [Column; 5] = [
    // A daemon is its only zone, so the one that is listed is the one that is talked to.
    Column::right("CURRENT", 1, |_, _| "*".to_owned()).fit(Fit::Cut),
    Column::right("ID", 5, text_cell!("ID")),
    Column::left("NAME", 25, text_cell!("NAME")).fit(Fit::Share),
    Column::left("ENDPOINT", 45, text_cell!("TEMPLATE/ENDPOINT")).fit(Fit::Share),
    Column::left("STATE", 8, |zone, _| states::zone_state(zone).to_owned()),
];
