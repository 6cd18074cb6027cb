//! `onesecgroup`: security groups, the rules of network cards.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::making::{Duplicate, Source};
use super::text_cell;
use super::verbs::{self, Changing, Face, Owning, Several, Viewing};
use crate::objects::SECURITY_GROUP;
use crate::show::{Page, join};
use crate::table::{Column, Fit};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

/// Security groups
#[derive(Parser, Debug)]
#[command(name = "onesecgroup", version)]
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
    /// A new security group, from a template with RULE = [ … ]
    Create(Source),
    /// Remove security groups that nobody uses
    Delete(Several),
    /// A copy under another name
    Clone(Duplicate),
    #[command(flatten)]
    Changing(Changing),
    /// Write the rules into the VMs again
    Commit(Commit),
    #[command(flatten)]
    Owning(Owning),
}

#[derive(Args, Debug)]
struct Commit {
    #[command(flatten)]
    target: Several,
    /// Only into VMs that have older rules, or where it failed
    #[arg(short, long)]
    recover: bool,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::Viewing(verb) => verb.run(client, &FACE),
            Verb::Create(source) => source.make(client, &SECURITY_GROUP, "", &[]).map(|_| ()),
            Verb::Delete(target) => verbs::delete(client, &SECURITY_GROUP, &target),
            Verb::Clone(copy) => copy.run(client, &SECURITY_GROUP, &[]).map(|_| ()),
            Verb::Changing(verb) => verb.run(client, &SECURITY_GROUP, verbs::template_of),
            Verb::Commit(Commit { target, recover }) => {
                verbs::call_each(client, &SECURITY_GROUP, &target.ids, "commit", &[recover.into()])
            }
            Verb::Owning(verb) => verb.run(client, &SECURITY_GROUP),
        }
    }
}

fn fill(page: &mut Page, group: &Element) {
    const RULES: [(&str, usize, bool); 6] = [
        ("TYPE", 8, true),
        ("PROTOCOL", 8, true),
        ("ICMP_TYPE", 9, true),
        ("ICMPV6_TYPE", 11, true),
        ("NETWORK", 35, true),
        ("RANGE", 16, true),
    ];
    let text = |name| group.text_at(name);
    let vms = |name| join(&group.ids_at(name));
    let rules = group.at("TEMPLATE").into_iter().flat_map(|template| template.all("RULE"));
    let rules: Vec<Vec<String>> = rules.map(rule).collect();
    page.header(&format!("SECURITY GROUP {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("USER", text("UNAME"))
        .line("GROUP", text("GNAME"))
        .permissions(group)
        .header("VIRTUAL MACHINES")
        .line("UPDATED", vms("UPDATED_VMS"))
        .line("OUTDATED", vms("OUTDATED_VMS"))
        .line("ERROR", vms("ERROR_VMS"))
        .header("RULES")
        .table(&RULES, &rules)
        .template("TEMPLATE CONTENTS", group.at("TEMPLATE"), &["RULE"]);
}

fn rule(rule: &Element) -> Vec<String> {
    let cell = |name: &str| rule.text_at(name).to_owned();
    let network = cell("NETWORK_ID");
    let size = cell("SIZE");
    let mut whom = Vec::new();
    if !network.is_empty() {
        whom.push(format!("VNet {network}"));
    }
    if !size.is_empty() {
        let first = if cell("IP").is_empty() { cell("MAC") } else { cell("IP") };
        whom.push(format!("Start: {first}, Size: {size}"));
    }
    let whom = if whom.is_empty() { "Any".to_owned() } else { whom.join(": ") };
    vec![cell("RULE_TYPE"), cell("PROTOCOL"), cell("ICMP_TYPE"), cell("ICMPV6_TYPE"), whom, cell("RANGE")]
}

const FACE: Face = Face { kind: &SECURITY_GROUP, columns: &COLUMNS, default: &DEFAULT, fill };

const DEFAULT: [&str; 7] = ["ID", "USER", "GROUP", "NAME", "UPDATED", "OUTDATED", "ERROR"];

const COLUMNS: [Column; 7] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("USER", 8, super::user_cell),
    Column::left("GROUP", 8, super::group_cell),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::right("UPDATED", 8, |group, _| group.ids_at("UPDATED_VMS").len().to_string()),
    Column::right("OUTDATED", 8, |group, _| group.ids_at("OUTDATED_VMS").len().to_string()),
    Column::right("ERROR", 8, |group, _| group.ids_at("ERROR_VMS").len().to_string()),
];
