//! `onezone`: the zones.

use anyhow::Result;
use clap::{Parser, Subcommand};

use super::text_cell;
use super::verbs::{self, Changing, Face, Viewing};
use crate::objects::ZONE;
use crate::show::Page;
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
            Verb::Changing(verb) => verb.run(client, &ZONE, verbs::template_of),
        }
    }
}

fn fill(page: &mut Page, zone: &Element) {
    page.header(&format!("ZONE {} INFORMATION", zone.text_at("ID")))
        .line("ID", zone.text_at("ID"))
        .line("NAME", zone.text_at("NAME"));
    page.template("ZONE TEMPLATE", zone.at("TEMPLATE"), &[]);
}

const FACE: Face = Face { kind: &ZONE, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 3] = ["ID", "NAME", "ENDPOINT"];

const COLUMNS: [Column; 3] = [
    Column::right("ID", 5, text_cell!("ID")),
    Column::left("NAME", 25, text_cell!("NAME")).fit(Fit::Share),
    Column::left("ENDPOINT", 45, text_cell!("TEMPLATE/ENDPOINT")).fit(Fit::Share),
];
