//! `onevm ssh`: ssh to the address of a VM's card.
//!
//! What stands in the VM's document may be a stranger's: an address has to be one, and no login reaches ssh as an option.

use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use one_core::lifecycle::LcmState;

use crate::commands::verbs::One;
use crate::objects::VM;
use crate::states;
use crate::wire::Client;
use crate::xml::Element;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    vm: One,
    /// User in the guest; without it USERNAME of its context, else root
    #[arg(value_name = "LOGIN")]
    login: Option<String>,
    /// Card whose address is meant; without it the one with SSH = YES, else the first
    #[arg(long, alias = "nic_id", value_name = "NIC")]
    nic_id: Option<u32>,
    /// Run this and come back
    #[arg(long, value_name = "COMMAND")]
    cmd: Option<String>,
    /// Options of ssh, like "-o StrictHostKeyChecking=no"
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    ssh_options: Option<String>,
}

/// Becomes ssh; comes back with an error only.
pub fn run(client: &Client, options: &Options) -> Result<()> {
    let id = VM.id(client, &options.vm.id)?;
    let vm = VM.info(client, id, false)?;
    // A guest runs on while it is backed up.
    if !matches!(states::lcm(&vm), Some(LcmState::Running | LcmState::Backup)) {
        bail!("VM {id} is {}; only one that is RUNNING can be logged in to", states::vm_phase(&vm));
    }
    let address = address(&vm, options.nic_id).with_context(|| format!("VM {id}"))?;
    let login = match (vm.text_at("TEMPLATE/CONTEXT/USERNAME"), &options.login) {
        (_, Some(login)) => login,
        ("", None) => "root",
        (name, None) => name,
    };
    if login.starts_with('-') || login.contains(char::is_whitespace) {
        bail!("{login} is no login of a guest: name another one behind the VM");
    }
    let mut command = Command::new("ssh");
    command.args(options.ssh_options.as_deref().unwrap_or_default().split_whitespace());
    command.arg("--").arg(format!("{login}@{address}")).args(&options.cmd);
    Err(anyhow!(command.exec()).context("cannot start ssh"))
}

fn address(vm: &Element, nic: Option<u32>) -> Result<IpAddr> {
    let cards: Vec<&Element> = vm.at("TEMPLATE").into_iter().flat_map(|template| template.all("NIC")).collect();
    let card = match nic {
        Some(id) => cards.iter().find(|card| card.int_at("NIC_ID") == Some(id.into())),
        None => cards.iter().find(|card| card.text_at("SSH").eq_ignore_ascii_case("YES")).or(cards.first()),
    };
    let card = match (card, nic) {
        (Some(card), _) => card,
        (None, Some(nic)) => bail!("there is no card {nic}; onevm show lists the cards"),
        (None, None) => bail!("it has no network card"),
    };
    let address =
        ["IP", "IP6_GLOBAL", "IP6_ULA", "IP6"].map(|name| card.text_at(name)).into_iter().find(|ip| !ip.is_empty());
    let address = address.context("its card has no address that oned knows; ask the guest")?;
    address.parse().with_context(|| format!("{address} is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_the_card_that_is_meant() {
        let vm = Element::parse(
            "<VM><TEMPLATE><NIC><NIC_ID>0</NIC_ID><IP>10.0.0.7</IP></NIC><NIC><NIC_ID>1</NIC_ID><IP>10.0.0.8</IP><SSH>YES</SSH></NIC>\
             <NIC><NIC_ID>2</NIC_ID><IP6>2001:db8::7</IP6></NIC><NIC><NIC_ID>3</NIC_ID></NIC><NIC><NIC_ID>4</NIC_ID><IP>-oProxy</IP></NIC></TEMPLATE></VM>",
        )
        .unwrap();
        let at = |nic| address(&vm, nic).map(|address| address.to_string()).ok();
        assert_eq!(at(None).as_deref(), Some("10.0.0.8"));
        assert_eq!(at(Some(0)).as_deref(), Some("10.0.0.7"));
        assert_eq!(at(Some(2)).as_deref(), Some("2001:db8::7"));
        assert_eq!([at(Some(3)), at(Some(4)), at(Some(9))], [None, None, None]);
        assert!(address(&Element::parse("<VM/>").unwrap(), None).is_err());
    }
}
