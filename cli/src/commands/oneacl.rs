//! `oneacl`: the access rules, who may do what with which objects.

mod rule_text;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};

use super::text_cell;
use super::verbs::Top;
use crate::objects::{self, ACL};
use crate::table::{self, Column, Fit, ListOptions};
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool, each};

pub(super) use rule_text::kinds_named;

/// Access rules
#[derive(Parser, Debug)]
#[command(name = "oneacl", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the rules
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// A new rule, like "@1 VM+NET/* USE+MANAGE"
    Create(Create),
    /// Remove rules
    Delete(Delete),
}

#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
struct Create {
    /// The rule, in quotes for the shell; or three or four hexadecimal numbers: user, resource, rights, zone
    #[arg(value_name = "RULE", required = true, num_args = 1..=4)]
    rule: Vec<String>,
}

const EXPLANATION: &str = "\
A rule is WHO KINDS/WHICH RIGHTS [ZONE]
  WHO     #2 or #alice (a user), @1 or @users (a group), * (everybody)
  KINDS   VM, HOST, NET, IMAGE, USER, TEMPLATE, GROUP, DATASTORE, CLUSTER,
          DOCUMENT, ZONE, SECGROUP, VDC, VROUTER, VMGROUP, VNTEMPLATE,
          BACKUPJOB; several with +
  WHICH   #5 or #web (one), @1 (of a group), %0 (in a cluster), * (all)
  RIGHTS  USE, MANAGE, ADMIN, CREATE; several with +
  ZONE    #0 or *; without it this zone

  oneacl create \"@users VM/* ADMIN\"          users may start backups of all VMs
  oneacl create \"#alice DATASTORE/#100 USE\"  alice may use datastore 100";

#[derive(Args, Debug)]
struct Delete {
    /// Id, list (0,1,5) or range (0..3)
    #[arg(value_name = "ID,...")]
    ids: String,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(options) => list(client, &options),
            Verb::Top(top) => top.draw(|options| list(client, options)),
            Verb::Create(create) => {
                let [user, resource, rights, zone] = numbers(client, &create.rule)?;
                let params = [user, resource, rights, zone].map(Into::into);
                objects::put_id(&client.call("one.acl.addrule", params)?).map(drop)
            }
            Verb::Delete(Delete { ids }) => {
                let ids = objects::parse_ids(&ids)?
                    .with_context(|| format!("{ids} is no id: rules have no names, `oneacl list` shows their ids"))?;
                each(&ids, |id| client.call("one.acl.delrule", [id.into()]).map(drop))
            }
        }
    }
}

fn list(client: &Client, options: &ListOptions) -> Result<()> {
    if options.describe {
        return table::describe(&COLUMNS);
    }
    if let Some(whose) = &options.whose {
        bail!("{whose}: rules belong to nobody; to see those for one user or group, filter: --filter USER=@1");
    }
    table::list(&ACL.pool(client, 0, "info")?, ACL.member, &COLUMNS, &DEFAULT, options)
}

/// The numbers of a rule: as they are, or read from its text, which the shell may have split at its blanks.
fn numbers(client: &Client, arguments: &[String]) -> Result<[String; 4]> {
    let is_hex = |text: &String| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u64::from_str_radix(digits, 16).is_ok() && !digits.starts_with('+')
    };
    match arguments {
        [user, resource, rights, zone @ ..] if arguments.iter().all(is_hex) => {
            let zone = zone.first().cloned().unwrap_or_default();
            Ok([user.clone(), resource.clone(), rights.clone(), zone])
        }
        _ => rule_text::to_hex(&arguments.join(" "), &|kind, word| kind.id(client, word)),
    }
}

/// Part of a rule in words: who, kinds with which, rights, zone.
fn part(rule: &Element, index: usize) -> &str {
    rule.text_at("STRING").split_whitespace().nth(index).unwrap_or_default()
}

/// The kinds that the title's letters stand for, in its order.
const KINDS: [(char, &str); 19] = [
    ('V', "VM"),
    ('H', "HOST"),
    ('N', "NET"),
    ('I', "IMAGE"),
    ('U', "USER"),
    ('T', "TEMPLATE"),
    ('G', "GROUP"),
    ('D', "DATASTORE"),
    ('C', "CLUSTER"),
    ('O', "DOCUMENT"),
    ('Z', "ZONE"),
    ('S', "SECGROUP"),
    ('v', "VDC"),
    ('R', "VROUTER"),
    ('M', "MARKETPLACE"),
    ('A', "MARKETPLACEAPP"),
    ('P', "VMGROUP"),
    ('t', "VNTEMPLATE"),
    ('B', "BACKUPJOB"),
];

const RIGHTS: [(char, &str); 4] = [('u', "USE"), ('m', "MANAGE"), ('a', "ADMIN"), ('c', "CREATE")];

/// A letter for each word that is there, a dash for each that is not.
fn letters(words: &str, known: &[(char, &str)]) -> String {
    known.iter().map(|(letter, name)| if words.split('+').any(|word| word == *name) { *letter } else { '-' }).collect()
}

const DEFAULT: [&str; 6] = ["ID", "USER", "RES_VHNIUTGDCOZSvRMAPtB", "RID", "OPE_UMAC", "ZONE"];

const COLUMNS: [Column; 7] = [
    Column::right("ID", 5, text_cell!("ID")),
    Column::right("USER", 8, |rule, _| part(rule, 0).to_owned()).about("Who the rule is for"),
    Column::right("RES_VHNIUTGDCOZSvRMAPtB", 23, |rule, _| {
        letters(part(rule, 1).split('/').next().unwrap_or_default(), &KINDS)
    })
    .fit(Fit::Full),
    Column::right("RID", 6, |rule, _| part(rule, 1).split('/').nth(1).unwrap_or_default().to_owned()),
    Column::right("OPE_UMAC", 8, |rule, _| letters(part(rule, 2), &RIGHTS)),
    Column::right("ZONE", 5, |rule, _| part(rule, 3).to_owned()),
    Column::left("STRING", 30, text_cell!("STRING")).fit(Fit::Share),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_stands_for_each_word() {
        assert_eq!(letters("VM+VDC+BACKUPJOB", &KINDS), "V-----------v-----B");
        assert_eq!(letters("USE+CREATE", &RIGHTS), "u--c");
        let title: String = KINDS.iter().map(|(letter, _)| letter).collect();
        assert_eq!(format!("RES_{title}"), DEFAULT[2]);
    }
}
