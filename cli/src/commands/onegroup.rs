//! `onegroup`: groups of users.

mod create;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::quotas::{self, Limiting};
use super::text_cell;
use super::verbs::{self, Several, ShowOwn, Top, Update, call_each};
use crate::objects::{GROUP, USER};
use crate::show::Page;
use crate::table::{self, Column, Fit, ListOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

/// Groups of users
#[derive(Parser, Debug)]
#[command(name = "onegroup", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the groups
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one group; without an id about the caller's primary one
    Show(ShowOwn),
    /// A new group, perhaps with a user who administers it
    Create(create::Options),
    /// Remove groups; nobody may be in them
    Delete(Several),
    /// Change the attributes
    Update(Update),
    /// Let a user administer groups
    Addadmin(Admin),
    /// Take the administration of groups from a user; he stays in them
    Deladmin(Admin),
    #[command(flatten)]
    Limiting(Limiting),
}

#[derive(Args, Debug)]
struct Admin {
    #[command(flatten)]
    target: Several,
    /// User, id or name
    #[arg(value_name = "USER")]
    admin: String,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(options) => list(client, &options),
            Verb::Top(top) => top.draw(|options| list(client, options)),
            Verb::Show(show) => show.run(client, &GROUP, fill),
            Verb::Create(options) => create::run(client, &options),
            Verb::Delete(target) => verbs::delete(client, &GROUP, &target),
            Verb::Update(options) => options.run(client, &GROUP, "update", verbs::template_of),
            Verb::Addadmin(options) => options.run(client, "addadmin"),
            Verb::Deladmin(options) => options.run(client, "deladmin"),
            Verb::Limiting(verb) => verb.run(client, &GROUP),
        }
    }
}

impl Admin {
    fn run(&self, client: &Client, verb: &str) -> Result<()> {
        let user = USER.id(client, &self.admin)?;
        call_each(client, &GROUP, &self.target.ids, verb, &[user.into()])
    }
}

fn fill(page: &mut Page, group: &Element) {
    page.header(&format!("GROUP {} INFORMATION", group.text_at("ID")))
        .line("ID", group.text_at("ID"))
        .line("NAME", group.text_at("NAME"))
        .template("GROUP TEMPLATE", group.at("TEMPLATE"), &[]);
    let admins = group.ids_at("ADMINS");
    let users: Vec<Vec<String>> = group
        .ids_at("USERS")
        .iter()
        .map(|id| vec![id.to_string(), if admins.contains(id) { "*".to_owned() } else { String::new() }])
        .collect();
    if !users.is_empty() {
        page.header("USERS").table(&[("ID", 15, true), ("ADMIN", 5, true)], &users);
    }
    quotas::blocks(page, group);
}

fn list(client: &Client, options: &ListOptions) -> Result<()> {
    if options.describe {
        return table::describe(&COLUMNS);
    }
    let mut pool = GROUP.pool_for(client, options, "info")?;
    if !options.is_document() {
        quotas::adopt(&mut pool, GROUP.member, "DEFAULT_GROUP_QUOTAS");
    }
    table::list(&pool, GROUP.member, &COLUMNS, &DEFAULT, options)
}

const DEFAULT: [&str; 7] = ["ID", "NAME", "USERS", "VMS", "MEMORY", "CPU", "PCI"];

const COLUMNS: [Column; 8] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::right("USERS", 5, |group, _| group.ids_at("USERS").len().to_string()),
    Column::right("VMS", 9, |group, _| quotas::cell(group, "VMS")).fit(Fit::Full).about("Number of VMs, and its limit"),
    Column::right("MEMORY", 15, |group, _| quotas::cell(group, "MEMORY")).fit(Fit::Full),
    Column::right("CPU", 9, |group, _| quotas::cell(group, "CPU"))
        .fit(Fit::Full)
        .about("CPU of the VMs, and its limit"),
    Column::right("PCI", 9, |group, _| quotas::cell(group, "PCI_DEV")).fit(Fit::Full),
    Column::right("ADMINS", 8, |group, _| crate::show::join(&group.ids_at("ADMINS"))),
];
