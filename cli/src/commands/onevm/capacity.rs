//! `onevm resize`: processors and memory of a VM.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::settling::settled;
use crate::commands::verbs::Several;
use crate::commands::vm_options::mib;
use crate::objects::VM;
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::{each, input, template_text};

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    target: Several,
    /// Share of the host's processors, like 0.5
    #[arg(long, value_name = "NUMBER", conflicts_with = "file")]
    cpu: Option<f64>,
    /// Virtual processors
    #[arg(long, value_name = "NUMBER", conflicts_with = "file")]
    vcpu: Option<u32>,
    /// Memory: 512m, 8g; without a unit MB
    #[arg(long, value_name = "SIZE", conflicts_with = "file")]
    memory: Option<String>,
    /// File with CPU, VCPU and MEMORY (- for standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only when the host has room
    #[arg(short, long)]
    enforce: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let memory = options.memory.as_deref().map(|size| mib("--memory", size)).transpose()?;
    let given = [
        ("CPU", options.cpu.map(|cpu| cpu.to_string())),
        ("VCPU", options.vcpu.map(|count| count.to_string())),
        ("MEMORY", memory),
    ];
    let mut text = String::new();
    for (name, value) in given {
        if let Some(value) = value {
            text.push_str(&template_text::attribute(name, &value)?);
        }
    }
    match (&options.file, text.is_empty()) {
        (Some(file), _) => text = input::read_required(Some(file))?,
        (None, true) => text = input::read_or(None, "say what to change: --cpu, --vcpu, --memory, or --file FILE")?,
        (None, false) => {}
    }
    each(&VM.ids(client, &options.target.ids)?, |id| {
        let params = [id.into(), text.as_str().into(), options.enforce.into()];
        settled(client, id, &options.wait, || client.call("one.vm.resize", params)).map(|_| ())
    })
}
