//! `oneuser`: who may call.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use super::text_cell;
use super::verbs::{self, Top, Update};
use crate::objects::USER;
use crate::show::{Page, ShowOptions, join, yes_no};
use crate::table::{self, Column, Fit, ListOptions};
use crate::units;
use crate::wire::Client;
use crate::xml::Element;
use crate::{Connection, Tool};

/// Users
#[derive(Parser, Debug)]
#[command(name = "oneuser", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the users
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one user; without an id about the caller
    Show(Show),
    /// Change the attributes
    Update(Update),
}

#[derive(Args, Debug)]
struct Show {
    /// Id or name
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    options: ShowOptions,
}

impl Tool for Command {
    fn connection(&self) -> &Connection {
        &self.connection
    }

    fn run(self, client: &Client) -> Result<()> {
        match self.verb {
            Verb::List(options) => list(client, &options),
            Verb::Top(top) => top.draw(|options| list(client, options)),
            Verb::Update(options) => options.run(client, &USER, "update", verbs::template_of),
            Verb::Show(show) => {
                // −1 is the caller.
                let id = show.id.as_deref().map_or(Ok(-1), |word| USER.id(client, word))?;
                verbs::put_document(
                    &USER.info(client, id, show.options.decrypt)?,
                    &show.options,
                    verbs::LABEL_WIDTH,
                    fill,
                )
            }
        }
    }
}

fn list(client: &Client, options: &ListOptions) -> Result<()> {
    let mut pool = USER.pool_for(client, options, "info")?;
    if !options.xml && !options.json && !options.yaml {
        adopt_quotas(&mut pool);
    }
    table::list(&pool, USER.member, &COLUMNS, &DEFAULT, options)
}

/// In the pool the quotas are siblings of the users; put each user's own inside.
fn adopt_quotas(pool: &mut Element) {
    let (quotas, users): (Vec<_>, Vec<_>) =
        std::mem::take(&mut pool.children).into_iter().partition(|child| child.name == "QUOTAS");
    pool.children = users;
    for quota in quotas {
        let id = quota.int_at("ID");
        if let Some(user) = pool.children.iter_mut().find(|user| user.name == "USER" && user.int_at("ID") == id) {
            user.children.extend(quota.children.into_iter().filter(|child| child.name != "ID"));
        }
    }
}

fn fill(page: &mut Page, user: &Element) {
    let text = |name| user.text_at(name);
    page.header(&format!("USER {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("GROUP", text("GNAME"))
        .line("GROUPS", join(&user.ids_at("GROUPS")))
        .line("AUTH_DRIVER", text("AUTH_DRIVER"))
        .line("ENABLED", yes_no(text("ENABLED")))
        .template("USER TEMPLATE", user.at("TEMPLATE"), &[]);
    let used = [
        ("VMS", quota(user, "VMS", |n| n.to_string())),
        ("MEMORY", quota(user, "MEMORY", units::mib)),
        ("CPU", quota(user, "CPU", |n| n.to_string())),
    ];
    if user.at("VM_QUOTA/VM").is_some() {
        page.header("RESOURCE USAGE & QUOTAS");
        for (label, value) in used {
            page.line(label, value);
        }
    }
}

const DEFAULT: [&str; 8] = ["ID", "NAME", "ENAB", "GROUP", "AUTH", "VMS", "MEMORY", "CPU"];

const COLUMNS: [Column; 8] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("ENAB", 4, |user, _| if user.text_at("ENABLED") == "1" { "yes" } else { "no" }.to_owned()),
    Column::left("GROUP", 10, |user, options| user.text_at(if options.numeric { "GID" } else { "GNAME" }).to_owned()),
    Column::left("AUTH", 8, text_cell!("AUTH_DRIVER")),
    Column::right("VMS", 11, |user, _| quota(user, "VMS", |number| number.to_string())),
    Column::right("MEMORY", 17, |user, _| quota(user, "MEMORY", units::mib)),
    Column::right("CPU", 11, |user, _| quota(user, "CPU", |number| number.to_string())),
];

/// `1 / 10`: used and limit; `-` where nothing is counted or nothing limits.
fn quota(user: &Element, name: &str, shown: fn(i64) -> String) -> String {
    let Some(counted) = user.at("VM_QUOTA/VM") else { return "-".to_owned() };
    // CPU counts have decimals; whole ones are exact enough for a table.
    let number = |name: &str| counted.text_at(name).parse::<f64>().unwrap_or(0.0) as i64;
    let limit = match number(name) {
        limit if limit < 0 => "-".to_owned(),
        limit => shown(limit),
    };
    format!("{} / {limit}", shown(number(&format!("{name}_USED"))))
}
