//! `onezone`: the zones.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::text_cell;
use crate::objects::ZONE;
use crate::show::{Page, ShowOptions};
use crate::table::{self, Column, Fit, ListOptions};
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
    /// A table of the zones
    List(ListOptions),
    /// Everything about one zone
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
                table::list(&ZONE.pool_for(client, &options, "info")?, ZONE.member, &COLUMNS, &DEFAULT, &options)
            }
            Verb::Show(show) => super::show(client, &ZONE, &show.id, &show.options, 15, fill),
        }
    }
}

fn fill(page: &mut Page, zone: &Element) {
    page.header(&format!("ZONE {} INFORMATION", zone.text_at("ID")))
        .line("ID", zone.text_at("ID"))
        .line("NAME", zone.text_at("NAME"));
    page.template("ZONE TEMPLATE", zone.at("TEMPLATE"), &[]);
}

const DEFAULT: [&str; 3] = ["ID", "NAME", "ENDPOINT"];

const COLUMNS: [Column; 3] = [
    Column::right("ID", 5, text_cell!("ID")),
    Column::left("NAME", 25, text_cell!("NAME")).fit(Fit::Share),
    Column::left("ENDPOINT", 45, text_cell!("TEMPLATE/ENDPOINT")).fit(Fit::Share),
];
