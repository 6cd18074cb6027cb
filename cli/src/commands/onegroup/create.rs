//! A new group: the group itself, what its members may create, and perhaps a user who administers it.
//!
//! These are several calls. When one of them fails, what the earlier ones made is removed again.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use one_core::access::{Rule, Selector};

use crate::commands::oneacl::kinds_named;
use crate::objects;
use crate::password;
use crate::wire::{Client, Param};

/// What members may create when nobody says: the same as members of *users*.
const RESOURCES: &str = "VM+IMAGE+TEMPLATE+DOCUMENT+SECGROUP+VMGROUP+BACKUPJOB";

#[derive(Args, Debug)]
pub(super) struct Options {
    /// Name
    #[arg(value_name = "NAME")]
    word: Option<String>,
    /// The same as NAME
    #[arg(short, long, conflicts_with = "word")]
    name: Option<String>,
    /// Make a user of this name who administers the group; the password is asked for
    #[arg(short = 'u', long = "admin_user", value_name = "NAME")]
    admin_user: Option<String>,
    /// File with the password of --admin_user (- for standard input)
    #[arg(long = "admin_password_file", value_name = "FILE", requires = "admin_user")]
    admin_password_file: Option<PathBuf>,
    /// Refused: an argument can be read by every process on the machine
    #[arg(short = 'p', long = "admin_password", value_name = "PASSWORD", hide = true)]
    admin_password: Option<String>,
    /// How --admin_user logs in
    #[arg(short = 'd', long = "admin_driver", value_name = "DRIVER", default_value = "core")]
    admin_driver: String,
    /// Kinds of objects that members may create
    #[arg(short, long, value_name = "KIND+...", default_value = RESOURCES)]
    resources: String,
}

pub(super) fn run(client: &Client, options: &Options) -> Result<()> {
    let Some(name) = options.word.as_deref().or(options.name.as_deref()) else {
        bail!("the new group needs a name: onegroup create NAME");
    };
    if options.admin_password.is_some() {
        bail!(
            "a password cannot be an argument, where every process on this machine can read it; leave --admin_password \
             out and type it when asked, or use --admin_password_file FILE (- for standard input)"
        );
    }
    let kinds = kinds_named(&options.resources).with_context(|| format!("--resources {}", options.resources))?;
    let admin = options.admin_user.as_deref().map(|user| Ok::<_, anyhow::Error>((user, password_of(user, options)?)));
    let admin = admin.transpose()?;
    let answer = client.call("one.group.allocate", [name.into()])?;
    let group = answer.id()?;
    let finish = || {
        let [who, what, rights, zone] =
            Rule::new(Selector::Group(group), &kinds, Selector::All, &[one_core::refusal::Right::Create]).to_hex();
        client.call("one.acl.addrule", [who.into(), what.into(), rights.into(), zone.into()])?;
        admin.map_or(Ok(()), |(user, password)| make_admin(client, group, user, &password, &options.admin_driver))
    };
    if let Err(error) = finish() {
        // Its rules go with it.
        return Err(match client.call("one.group.delete", [group.into()]) {
            Ok(_) => error.context(format!("group {name} was not made")),
            Err(_) => error.context(format!("group {name} is there, as {group}, but not all of it")),
        });
    }
    objects::put_id(&answer).map(drop)
}

fn password_of(user: &str, options: &Options) -> Result<String> {
    let password = match &options.admin_password_file {
        Some(file) => password::from_file(file)?,
        None => password::ask_new(user, "name a file with it by --admin_password_file FILE (- for standard input)")?,
    };
    if password.is_empty() {
        bail!("a password cannot be empty");
    }
    Ok(password)
}

/// A user in the group who administers it; none when that fails.
fn make_admin(client: &Client, group: i64, user: &str, password: &str, driver: &str) -> Result<()> {
    let params = [user.into(), password.into(), driver.into(), Param::Ints(vec![group])];
    let id = client.call("one.user.allocate", params)?.id()?;
    client.call("one.group.addadmin", [group.into(), id.into()]).map(drop).inspect_err(|_| {
        let _ = client.call("one.user.delete", [id.into()]);
    })
}
