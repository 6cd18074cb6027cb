//! `onevdc`: virtual data centres, which say what groups may use.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::making;
use super::text_cell;
use super::verbs::{self, Changing, Face, Several, Viewing};
use crate::objects::{CLUSTER, DATASTORE, GROUP, HOST, Kind, VDC, VNET, ZONE};
use crate::show::Page;
use crate::table::{Column, Fit};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

/// What the wire has for all objects of a kind.
const ALL: i64 = -10;

/// Virtual data centres
#[derive(Parser, Debug)]
#[command(name = "onevdc", version)]
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
    /// A new virtual data centre
    Create(Create),
    /// Remove virtual data centres
    Delete(Several),
    #[command(flatten)]
    Changing(Changing),
    /// Let a group use it
    Addgroup(Group),
    /// Let a group use it no more
    Delgroup(Group),
    /// Put a cluster in
    #[command(mut_arg("object", |arg| arg.value_name("CLUSTER")))]
    Addcluster(Resource),
    /// Take a cluster out
    #[command(mut_arg("object", |arg| arg.value_name("CLUSTER")))]
    Delcluster(Resource),
    /// Put a host in
    #[command(mut_arg("object", |arg| arg.value_name("HOST")))]
    Addhost(Resource),
    /// Take a host out
    #[command(mut_arg("object", |arg| arg.value_name("HOST")))]
    Delhost(Resource),
    /// Put a datastore in
    #[command(mut_arg("object", |arg| arg.value_name("DATASTORE")))]
    Adddatastore(Resource),
    /// Take a datastore out
    #[command(mut_arg("object", |arg| arg.value_name("DATASTORE")))]
    Deldatastore(Resource),
    /// Put a virtual network in
    #[command(mut_arg("object", |arg| arg.value_name("VNET")))]
    Addvnet(Resource),
    /// Take a virtual network out
    #[command(mut_arg("object", |arg| arg.value_name("VNET")))]
    Delvnet(Resource),
}

#[derive(Args, Debug)]
struct Create {
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Args, Debug)]
struct Group {
    #[command(flatten)]
    target: Several,
    /// Group, id or name
    #[arg(value_name = "GROUP")]
    group: String,
}

#[derive(Args, Debug)]
struct Resource {
    #[command(flatten)]
    target: Several,
    /// Zone, id or name
    #[arg(value_name = "ZONE")]
    zone: String,
    /// Id or name, or ALL
    #[arg(value_name = "OBJECT")]
    object: String,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        let group = |options: &Group, verb| {
            let group = GROUP.id(client, &options.group)?;
            verbs::call_each(client, &VDC, &options.target.ids, verb, &[group.into()])
        };
        let resource = |options: &Resource, kind: &Kind, verb| {
            let zone = ZONE.id(client, &options.zone)?;
            let all = options.object.eq_ignore_ascii_case("ALL");
            let object = if all { ALL } else { kind.id(client, &options.object)? };
            verbs::call_each(client, &VDC, &options.target.ids, verb, &[zone.into(), object.into()])
        };
        match self.verb {
            Verb::Viewing(verb) => verb.run(client, &FACE),
            Verb::Create(create) => {
                let text = making::attributes(&[("NAME", Some(create.name))])?;
                making::allocate(client, &VDC, [text.into()]).map(|_| ())
            }
            Verb::Delete(target) => verbs::delete(client, &VDC, &target),
            Verb::Changing(verb) => verb.run(client, &VDC, verbs::template_of),
            Verb::Addgroup(options) => group(&options, "addgroup"),
            Verb::Delgroup(options) => group(&options, "delgroup"),
            Verb::Addcluster(options) => resource(&options, &CLUSTER, "addcluster"),
            Verb::Delcluster(options) => resource(&options, &CLUSTER, "delcluster"),
            Verb::Addhost(options) => resource(&options, &HOST, "addhost"),
            Verb::Delhost(options) => resource(&options, &HOST, "delhost"),
            Verb::Adddatastore(options) => resource(&options, &DATASTORE, "adddatastore"),
            Verb::Deldatastore(options) => resource(&options, &DATASTORE, "deldatastore"),
            Verb::Addvnet(options) => resource(&options, &VNET, "addvnet"),
            Verb::Delvnet(options) => resource(&options, &VNET, "delvnet"),
        }
    }
}

/// Labels of this page in OpenNebula's tool.
const LABELS: usize = 18;

fn fill(page: &mut Page, vdc: &Element) {
    page.labels(LABELS)
        .header(&format!("VDC {} INFORMATION", vdc.text_at("ID")))
        .line("ID", vdc.text_at("ID"))
        .line("NAME", vdc.text_at("NAME"));
    let groups: Vec<Vec<String>> = vdc.ids_at("GROUPS").iter().map(|id| vec![id.to_string()]).collect();
    if !groups.is_empty() {
        page.raw("").table(&[("GROUPS", 7, false)], &groups);
    }
    for kind in ["CLUSTER", "HOST", "DATASTORE", "VNET"] {
        let rows: Vec<Vec<String>> = members(vdc, kind)
            .map(|member| {
                let id = member.text_at(&format!("{kind}_ID"));
                let id = if id == ALL.to_string() { "ALL" } else { id };
                vec![member.text_at("ZONE_ID").to_owned(), id.to_owned()]
            })
            .collect();
        if !rows.is_empty() {
            page.header(&format!("{kind}S")).table(&[("ZONE", 7, false), (kind, 9, false)], &rows);
        }
    }
    page.template("VDC TEMPLATE", vdc.at("TEMPLATE"), &[]);
}

/// `<HOSTS><HOST>…`: what a VDC has of a kind.
fn members<'a>(vdc: &'a Element, kind: &'a str) -> impl Iterator<Item = &'a Element> {
    vdc.at(&format!("{kind}S")).into_iter().flat_map(move |list| list.all(kind))
}

const FACE: Face = Face { kind: &VDC, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 7] = ["ID", "NAME", "GROUPS", "CLUSTERS", "HOSTS", "VNETS", "DATASTORES"];

const COLUMNS: [Column; 7] = [
    Column::right("ID", 5, text_cell!("ID")),
    Column::left("NAME", 30, text_cell!("NAME")).fit(Fit::Share),
    Column::right("GROUPS", 6, |vdc, _| vdc.ids_at("GROUPS").len().to_string()),
    Column::right("CLUSTERS", 8, |vdc, _| number(vdc, "CLUSTER")).about("Number of clusters"),
    Column::right("HOSTS", 5, |vdc, _| number(vdc, "HOST")),
    Column::right("VNETS", 5, |vdc, _| number(vdc, "VNET")),
    Column::right("DATASTORES", 10, |vdc, _| number(vdc, "DATASTORE")),
];

/// How many of a kind; ALL for all of them.
fn number(vdc: &Element, kind: &str) -> String {
    let all = ALL.to_string();
    if members(vdc, kind).any(|member| member.text_at(&format!("{kind}_ID")) == all) {
        return "ALL".to_owned();
    }
    members(vdc, kind).count().to_string()
}
