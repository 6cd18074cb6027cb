//! `oneuser`: who may call.

mod passwords;
mod show_user;
mod tokens;

use std::cell::OnceCell;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};

use super::quotas::{self, Limiting};
use super::text_cell;
use super::verbs::{self, Several, ShowOwn, Top, Update, call_each};
use crate::objects::{GROUP, USER};
use crate::show::template_text;
use crate::table::{self, Column, Fit, ListOptions};
use crate::wire::Client;
use crate::{Connection, Tool, each, terminal};

/// Users
#[derive(Parser, Debug)]
#[command(name = "oneuser", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
    /// `connection`, as it is meant beside the verb.
    #[arg(skip)]
    meant: OnceCell<Connection>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// A table of the users
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one user; without an id about the caller
    Show(ShowOwn),
    /// A new user; the password is asked for
    Create(passwords::Create),
    /// Remove users; what they own stays
    Delete(Several),
    /// Change a password, one's own without an id; it is asked for
    Passwd(passwords::Passwd),
    /// Change how a user logs in
    Chauth(passwords::Chauth),
    /// Let users in again
    Enable(Several),
    /// Keep users out
    Disable(Several),
    /// Put users into another group, too
    Addgroup(Membership),
    /// Take users out of a group
    Delgroup(Membership),
    /// Change the primary group of users
    Chgrp(Membership),
    /// Change the attributes
    Update(Update),
    /// Set which permissions new objects of users do not get
    Umask(Umask),
    #[command(flatten)]
    Limiting(Limiting),
    /// Make a token that works in place of the password for a while, and log in with it
    TokenCreate(tokens::Create),
    /// The same as token-create
    Login(tokens::Create),
    /// Choose one of the tokens made here: prints what to set in the shell
    TokenSet(tokens::Set),
    /// End a token
    TokenDelete(tokens::Delete),
    /// End all tokens of a user
    TokenDeleteAll(tokens::DeleteAll),
    /// Print user and password as a session, with % for what URLs cannot hold; the password is asked for
    Encode(passwords::Encode),
}

#[derive(Args, Debug)]
struct Membership {
    #[command(flatten)]
    target: Several,
    /// Group, id or name
    #[arg(value_name = "GROUP")]
    group: String,
}

#[derive(Args, Debug)]
struct Umask {
    #[command(flatten)]
    target: Several,
    /// Three octal digits for owner, group and others, like 077; without it the default holds again
    #[arg(value_name = "MASK")]
    mask: Option<String>,
}

impl Tool for Command {
    /// Without --user, a --password-file is for the user whom the verb is about: the new one, or who logs in.
    fn connection(&self) -> &Connection {
        self.meant.get_or_init(|| {
            let mut meant = self.connection.clone();
            if meant.user.is_none() {
                match &self.verb {
                    Verb::Create(_) | Verb::Passwd(_) | Verb::Chauth(_) | Verb::Encode(_) => meant.password_file = None,
                    Verb::TokenCreate(options) | Verb::Login(options) if meant.password_file.is_some() => {
                        meant.user.clone_from(&options.name);
                    }
                    _ => {}
                }
            }
            meant
        })
    }

    fn run(self, client: &Client) -> Result<()> {
        let password_file = self.connection.password_file.as_deref().filter(|_| self.connection.user.is_none());
        match self.verb {
            Verb::List(options) => list(client, &options),
            Verb::Top(top) => top.draw(|options| list(client, options)),
            Verb::Show(show) => show.run(client, &USER, show_user::fill),
            Verb::Create(create) => passwords::create(client, &create, password_file),
            Verb::Delete(target) => verbs::delete(client, &USER, &target),
            Verb::Passwd(passwd) => passwords::passwd(client, &passwd, password_file),
            Verb::Chauth(chauth) => passwords::chauth(client, &chauth, password_file),
            Verb::Enable(target) => call_each(client, &USER, &target.ids, "enable", &[true.into()]),
            Verb::Disable(target) => call_each(client, &USER, &target.ids, "enable", &[false.into()]),
            Verb::Addgroup(options) => options.run(client, "addgroup"),
            Verb::Delgroup(options) => options.run(client, "delgroup"),
            Verb::Chgrp(options) => options.run(client, "chgrp"),
            Verb::Update(options) => options.run(client, &USER, "update", verbs::template_of),
            Verb::Umask(options) => umask(client, &options),
            Verb::Limiting(verb) => verb.run(client, &USER),
            Verb::TokenCreate(options) | Verb::Login(options) => tokens::create(client, &options),
            Verb::TokenSet(options) => tokens::set(client, &options),
            Verb::TokenDelete(options) => tokens::delete(client, &options),
            Verb::TokenDeleteAll(options) => tokens::delete_all(client, &options),
            Verb::Encode(options) => passwords::encode(&options, password_file),
        }
    }
}

impl Membership {
    fn run(&self, client: &Client, verb: &str) -> Result<()> {
        let group = GROUP.id(client, &self.group)?;
        call_each(client, &USER, &self.target.ids, verb, &[group.into()])
    }
}

fn umask(client: &Client, options: &Umask) -> Result<()> {
    let mask = options.mask.as_deref().filter(|mask| !mask.is_empty());
    if let Some(mask) = mask {
        if mask.len() != 3 || !mask.bytes().all(|digit| matches!(digit, b'0'..=b'7')) {
            bail!("{mask} is no mask: write three digits from 0 to 7, like 077");
        }
        let text = format!("UMASK = \"{mask}\"");
        return call_each(client, &USER, &options.target.ids, "update", &[text.into(), 1.into()]);
    }
    each(&USER.ids(client, &options.target.ids)?, |id| {
        let user = USER.info(client, id, false)?;
        let template = user.at("TEMPLATE").context("the daemon's document has no TEMPLATE")?;
        if template.child("UMASK").is_none() {
            return Ok(());
        }
        let rest = template_text(template, &["UMASK"]);
        client.call("one.user.update", [id.into(), rest.into(), 0.into()]).map(drop)
    })
}

fn list(client: &Client, options: &ListOptions) -> Result<()> {
    if options.describe {
        return table::describe(&COLUMNS);
    }
    let mut pool = USER.pool_for(client, options, "info")?;
    if !options.is_document() {
        quotas::adopt(&mut pool, USER.member, "DEFAULT_USER_QUOTAS");
    }
    let is_narrow = !options.csv && terminal::width().is_some_and(|width| width < WIDE);
    let default: &[&str] = if is_narrow { &DEFAULT[..DEFAULT.len() - 1] } else { &DEFAULT };
    table::list(&pool, USER.member, &COLUMNS, default, options)
}

/// On a terminal with fewer columns the last of them, PCI, has to be asked for.
const WIDE: usize = 90;

const DEFAULT: [&str; 9] = ["ID", "NAME", "ENAB", "GROUP", "AUTH", "VMS", "MEMORY", "CPU", "PCI"];

const COLUMNS: [Column; 9] = [
    Column::right("ID", 4, text_cell!("ID")),
    Column::left("NAME", 15, text_cell!("NAME")).fit(Fit::Share),
    Column::left("ENAB", 4, |user, _| if user.text_at("ENABLED") == "1" { "yes" } else { "no" }.to_owned()),
    Column::left("GROUP", 10, |user, options| user.text_at(if options.numeric { "GID" } else { "GNAME" }).to_owned()),
    Column::left("AUTH", 7, text_cell!("AUTH_DRIVER")),
    Column::right("VMS", 9, |user, _| quotas::cell(user, "VMS")).fit(Fit::Full).about("Number of VMs, and its limit"),
    Column::right("MEMORY", 15, |user, _| quotas::cell(user, "MEMORY")).fit(Fit::Full),
    Column::right("CPU", 9, |user, _| quotas::cell(user, "CPU")).fit(Fit::Full).about("CPU of the VMs, and its limit"),
    Column::right("PCI", 9, |user, _| quotas::cell(user, "PCI_DEV")).fit(Fit::Full),
];
