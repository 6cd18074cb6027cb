//! `onevm create`, and what every way to new VMs has: several at once, their names, waiting.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::reach::{self, Goal};
use crate::commands::making::of_unread;
use crate::commands::vm_options::VmOptions;
use crate::objects;
use crate::terminal;
use crate::watch::WaitOptions;
use crate::wire::Client;

#[derive(Args, Debug)]
pub struct Options {
    /// File with the template (- or nothing for standard input); options go before it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    several: SeveralVms,
    #[command(flatten)]
    vm: VmOptions,
    /// Print the template instead of creating the VM
    #[arg(long)]
    dry: bool,
}

/// How many VMs of which names, and what becomes of them at first.
#[derive(Args, Debug)]
pub struct SeveralVms {
    /// Name of the VM; %i becomes the number of the VM with --multiple
    #[arg(long)]
    name: Option<String>,
    /// Create so many VMs
    #[arg(short, long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    multiple: u32,
    /// Create it in state HOLD
    #[arg(long)]
    pub hold: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

impl SeveralVms {
    /// Makes them by `create`, which gets the name and answers the id; with --wait until all are there.
    pub fn run(&self, client: &Client, mut create: impl FnMut(Option<&str>) -> Result<i64>) -> Result<()> {
        let mut ids = Vec::new();
        for number in 0..self.multiple {
            // The number is for whoever makes several: upstream counts from 0, too.
            let name = self.name.as_ref().map(|name| name.replace("%i", &number.to_string()));
            ids.push(create(name.as_deref())?);
        }
        if !self.wait.wait {
            return Ok(());
        }
        let goal = if self.hold { Goal::Held } else { Goal::Running };
        crate::each(&ids, |id| reach::reach(client, id, goal, &self.wait))
    }
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let text = options.vm.with_file(None, options.file.as_deref())?;
    if options.dry {
        return terminal::put(&named(options.several.name.as_deref(), &text)?);
    }
    let hold = options.several.hold;
    let unread = options.file.is_none() && options.vm.is_given()?;
    options.several.run(client, |name| {
        let made = client.call("one.vm.allocate", [named(name, &text)?.into(), hold.into()]);
        objects::put_id(&made.map_err(|error| of_unread(error, unread))?)
    })
}

/// Of two scalars of one name the first counts.
fn named(name: Option<&str>, text: &str) -> Result<String> {
    let line = name.map(|name| crate::template_text::attribute("NAME", name)).transpose()?;
    crate::template_text::in_front(&line.unwrap_or_default(), text)
}
