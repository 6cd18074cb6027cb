//! `onevm deploy` and `onevm migrate`: which host a VM is on.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::reach::{self, Goal};
use super::settling::settled;
use crate::commands::verbs::Several;
use crate::each;
use crate::input;
use crate::objects::{DATASTORE, HOST, VM};
use crate::watch::WaitOptions;
use crate::wire::{Client, Param};

/// Choosing the host.
#[derive(Subcommand, Debug)]
pub enum Placing {
    /// Start VMs on a host
    Deploy(Deploy),
    /// Move VMs to another host
    Migrate(Migrate),
    /// Let the scheduler choose another host
    Resched(Several),
    /// Take a resched back
    Unresched(Several),
}

#[derive(Args, Debug)]
pub struct Target {
    #[command(flatten)]
    vms: Several,
    /// Host, id or name
    #[arg(value_name = "HOST", allow_negative_numbers = true)]
    host: String,
    /// System datastore, id or name; without it the daemon chooses
    #[arg(value_name = "DATASTORE", allow_negative_numbers = true)]
    datastore: Option<String>,
    /// Only when the host has room
    #[arg(short, long)]
    enforce: bool,
}

#[derive(Args, Debug)]
pub struct Deploy {
    #[command(flatten)]
    target: Target,
    /// File with more template (- for standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct Migrate {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    wait: WaitOptions,
}

/// How it is moved; nothing said is by saving its memory.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct Way {
    /// While it runs
    #[arg(long)]
    live: bool,
    /// Shut down, and start again on the other host
    #[arg(long)]
    poff: bool,
    /// Switch off, and start again on the other host
    #[arg(long = "poff-hard")]
    poff_hard: bool,
}

impl Target {
    fn host(&self, client: &Client) -> Result<i64> {
        HOST.id(client, &self.host)
    }

    fn datastore(&self, client: &Client) -> Result<i64> {
        self.datastore.as_deref().map_or(Ok(-1), |word| DATASTORE.id(client, word))
    }
}

impl Placing {
    /// Does it.
    pub fn run(&self, client: &Client) -> Result<()> {
        match self {
            Self::Deploy(options) => options.run(client),
            Self::Migrate(options) => options.run(client),
            Self::Resched(target) => act(client, "resched", target),
            Self::Unresched(target) => act(client, "unresched", target),
        }
    }
}

fn act(client: &Client, word: &str, target: &Several) -> Result<()> {
    each(&VM.ids(client, &target.ids)?, |id| client.call("one.vm.action", [word.into(), id.into()]).map(|_| ()))
}

impl Deploy {
    fn run(&self, client: &Client) -> Result<()> {
        let more = self.file.as_deref().map(|file| input::read_required(Some(file))).transpose()?.unwrap_or_default();
        let target = &self.target;
        let (host, datastore) = (target.host(client)?, target.datastore(client)?);
        let params: [Param; 4] = [host.into(), target.enforce.into(), datastore.into(), more.into()];
        let ids = VM.ids(client, &target.vms.ids)?;
        let mut begun = Vec::new();
        let result = each(&ids, |id| {
            client.call("one.vm.deploy", std::iter::once(id.into()).chain(params.iter().cloned()))?;
            begun.push(id);
            Ok(())
        });
        if self.wait.wait {
            return result.and(each(&begun, |id| reach::reach(client, id, Goal::Running, &self.wait)));
        }
        result
    }
}

impl Migrate {
    fn run(&self, client: &Client) -> Result<()> {
        let kind = match (self.way.poff, self.way.poff_hard) {
            (true, _) => 1,
            (_, true) => 2,
            _ => 0,
        };
        let target = &self.target;
        let (host, datastore) = (target.host(client)?, target.datastore(client)?);
        let rest = [host.into(), self.way.live.into(), target.enforce.into(), datastore.into(), Param::Int(kind)];
        each(&VM.ids(client, &target.vms.ids)?, |id| {
            let params = std::iter::once(id.into()).chain(rest.iter().cloned());
            settled(client, id, &self.wait, || client.call("one.vm.migrate", params)).map(|_| ())
        })
    }
}
