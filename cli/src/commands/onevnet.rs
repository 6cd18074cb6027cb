//! `onevnet`: virtual networks, their addresses and who has them.

mod create;
mod leases;
mod ranges;
mod show_vnet;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use super::text_cell;
use super::verbs::{self, Changing, Face, Locking, Owning, Several, Top};
use crate::objects::{TEMPLATE, VNET};
use crate::show::{join, or_dash};
use crate::states;
use crate::table::{Column, Fit, ListOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, terminal};

/// Virtual networks
#[derive(Parser, Debug)]
#[command(name = "onevnet", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the virtual networks
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one virtual network
    Show(show_vnet::Options),
    /// A new virtual network, from options or a template
    Create(create::Options),
    /// Remove virtual networks that lend no address
    Delete(Several),
    #[command(flatten)]
    Changing(Changing),
    #[command(flatten)]
    Ranges(ranges::Ranges),
    #[command(flatten)]
    Leases(leases::Leases),
    /// Say how a stuck operation ended
    Recover(Recover),
    /// Ids of those that no VM template names
    Orphans,
    #[command(flatten)]
    Owning(Owning),
    #[command(flatten)]
    Locking(Locking),
}

#[derive(Args, Debug)]
struct Recover {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    result: RecoverResult,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
struct RecoverResult {
    /// It failed
    #[arg(long)]
    failure: bool,
    /// It succeeded
    #[arg(long)]
    success: bool,
    /// Remove the virtual network
    #[arg(long)]
    delete: bool,
    /// Try it again
    #[arg(long)]
    retry: bool,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(options) => FACE.list(client, &options),
            Verb::Top(top) => top.draw(|options| FACE.list(client, options)),
            Verb::Show(options) => show_vnet::show(client, &options),
            Verb::Create(options) => create::run(client, &options),
            Verb::Delete(target) => verbs::delete(client, &VNET, &target),
            Verb::Changing(verb) => verb.run(client, &VNET, verbs::template_of),
            Verb::Ranges(verb) => verb.run(client),
            Verb::Leases(verb) => verb.run(client),
            Verb::Recover(options) => recover(client, &options),
            Verb::Orphans => orphans(client),
            Verb::Owning(verb) => verb.run(client, &VNET),
            Verb::Locking(verb) => verb.run(client, &VNET),
        }
    }
}

fn recover(client: &Client, options: &Recover) -> Result<()> {
    let result = &options.result;
    let choices = [result.failure, result.success, result.delete, result.retry];
    let Some(operation) = (0_i64..).zip(choices).find(|(_, chosen)| *chosen).map(|(number, _)| number) else {
        bail!("Need to specify the result of the pending action.");
    };
    verbs::call_each(client, &VNET, &options.target.ids, "recover", &[operation.into()])
}

/// A NIC names its network by id, or by name and owner; without an owner it is a network of the template's owner.
fn orphans(client: &Client) -> Result<()> {
    let networks = VNET.pool(client, -2, "info")?;
    let templates = TEMPLATE.pool(client, -2, "info")?;
    let names = |template: &Element, nic: &Element, network: &Element| {
        if let Some(id) = nic.int_at("NETWORK_ID") {
            return network.int_at("ID") == Some(id);
        }
        let owned = match (nic.text_at("NETWORK_UNAME"), nic.int_at("NETWORK_UID")) {
            ("", uid) => network.int_at("UID") == uid.or(template.int_at("UID")),
            (name, _) => network.text_at("UNAME") == name,
        };
        owned && network.text_at("NAME") == nic.text_at("NETWORK")
    };
    for network in networks.all(VNET.member) {
        let is_named = templates.all(TEMPLATE.member).any(|template| {
            let mut nics = template.at("TEMPLATE").into_iter().flat_map(|text| text.all("NIC"));
            nics.any(|nic| names(template, nic, network))
        });
        if !is_named {
            terminal::put_line(network.text_at("ID"))?;
        }
    }
    Ok(())
}

/// Its page is made by [`show_vnet::show`], which has an option of its own.
const FACE: Face = Face { kind: &VNET, columns: &COLUMNS, default: &DEFAULT, fill: |_, _| {} };

const DEFAULT: [&str; 10] =
    ["ID", "USER", "GROUP", "NAME", "CLUSTERS", "BRIDGE", "STATE", "LEASES", "OUTDATED", "ERROR"];

const COLUMNS: [Column; 13] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("CLUSTERS", 10, clusters),
    Column::left("BRIDGE", 8, text_cell!("BRIDGE")),
    Column::left("STATE", 6, |network, _| states::vnet_short(network).to_owned()),
    Column::right("LEASES", 6, text_cell!("USED_LEASES")),
    Column::right("OUTDATED", 4, |network, _| network.ids_at("OUTDATED_VMS").len().to_string()),
    Column::right("ERROR", 4, |network, _| network.ids_at("ERROR_VMS").len().to_string()),
    Column::right("UPDATED", 4, |network, _| network.ids_at("UPDATED_VMS").len().to_string()),
    Column::left("VN_MAD", 8, text_cell!("VN_MAD")),
    Column::right("VLAN_ID", 7, text_cell!("VLAN_ID")),
];

fn clusters(network: &Element, _: &ListOptions) -> String {
    or_dash(&join(&network.ids_at("CLUSTERS")))
}
