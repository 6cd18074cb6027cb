//! The network cards of a VM, their security groups, and PCI devices.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use super::settling::settled;
use crate::commands::verbs::One;
use crate::objects::{SECURITY_GROUP, VM, VNET};
use crate::show::template_text;
use crate::watch::WaitOptions;
use crate::wire::{Client, Param};
use crate::xml::Element;
use crate::{input, template_text as text_of};

/// What an editor does not show of a card: what the daemon sets itself.
const NOT_EDITED: [&str; 12] = [
    "AR_ID",
    "ALIAS_ID",
    "ALIAS_IDS",
    "CLUSTER_ID",
    "IP",
    "MAC",
    "NETWORK",
    "NETWORK_ID",
    "NIC_ID",
    "PARENT_ID",
    "SECURITY_GROUPS",
    "TARGET",
];

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Cards {
    /// Give a VM another network card, or a card another address
    NicAttach(NicAttach),
    /// Take a network card from a VM
    NicDetach(NicDetach),
    /// Change a network card
    NicUpdate(NicUpdate),
    /// Add a security group to a network card
    SgAttach(SecurityGroup),
    /// Take a security group from a network card
    SgDetach(SecurityGroup),
    /// Give a VM that is off a PCI device
    PciAttach(PciAttach),
    /// Take a PCI device from a VM that is off
    PciDetach(PciDetach),
}

#[derive(Args, Debug)]
pub struct NicAttach {
    #[command(flatten)]
    vm: One,
    /// Virtual network, id or name
    #[arg(short, long, value_name = "NETWORK", conflicts_with = "file")]
    network: Option<String>,
    /// Address to ask for
    #[arg(short, long, value_name = "IP", requires = "network")]
    ip: Option<String>,
    /// Name of the card
    #[arg(long = "nic_name", alias = "nic-name", value_name = "NAME", requires = "network")]
    nic_name: Option<String>,
    /// As one more address of this card, like NIC0
    #[arg(short, long, value_name = "CARD", requires = "network")]
    alias: Option<String>,
    /// File with a NIC vector (- for standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct Nic {
    #[command(flatten)]
    vm: One,
    /// Id of the card
    #[arg(value_name = "NIC")]
    nic: u32,
}

#[derive(Args, Debug)]
pub struct NicDetach {
    #[command(flatten)]
    nic: Nic,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct NicUpdate {
    #[command(flatten)]
    nic: Nic,
    /// File with a NIC vector, or with its attributes a line each (- for standard input); an editor opens when neither file nor pipe is there
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Change only what the text names; without it the text replaces all
    #[arg(short, long)]
    append: bool,
}

#[derive(Args, Debug)]
pub struct SecurityGroup {
    #[command(flatten)]
    nic: Nic,
    /// Security group, id or name
    #[arg(value_name = "SECGROUP")]
    group: String,
}

#[derive(Args, Debug)]
pub struct PciAttach {
    #[command(flatten)]
    vm: One,
    /// Address of the device on the host, like 06:00.1
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["pci_device", "pci_class", "pci_vendor", "file"])]
    pci: Option<String>,
    /// Device, as lspci -nn numbers it
    #[arg(long = "pci_device", alias = "pci-device", value_name = "NUMBER", conflicts_with = "file")]
    pci_device: Option<String>,
    /// Class of the device
    #[arg(long = "pci_class", alias = "pci-class", value_name = "NUMBER", conflicts_with = "file")]
    pci_class: Option<String>,
    /// Vendor of the device
    #[arg(long = "pci_vendor", alias = "pci-vendor", value_name = "NUMBER", conflicts_with = "file")]
    pci_vendor: Option<String>,
    /// File with a PCI vector (- for standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct PciDetach {
    #[command(flatten)]
    vm: One,
    /// Id of the device
    #[arg(value_name = "PCI")]
    pci: u32,
}

impl Cards {
    /// Does it.
    pub fn run(&self, client: &Client) -> Result<()> {
        match self {
            Self::NicAttach(options) => {
                let text = options.text(client)?;
                call(client, &options.vm, "attachnic", [text.into()], &options.wait)
            }
            Self::NicDetach(options) => {
                let Nic { vm, nic } = &options.nic;
                call(client, vm, "detachnic", [Param::Int((*nic).into())], &options.wait)
            }
            Self::NicUpdate(options) => options.run(client),
            Self::SgAttach(options) => options.call(client, "attachsg"),
            Self::SgDetach(options) => options.call(client, "detachsg"),
            Self::PciAttach(options) => call(client, &options.vm, "attachpci", [options.text()?.into()], &at_once()),
            Self::PciDetach(options) => {
                call(client, &options.vm, "detachpci", [Param::Int(options.pci.into())], &at_once())
            }
        }
    }
}

/// For what is done when the call comes back.
fn at_once() -> WaitOptions {
    WaitOptions::default()
}

fn call(
    client: &Client,
    vm: &One,
    verb: &str,
    rest: impl IntoIterator<Item = Param>,
    wait: &WaitOptions,
) -> Result<()> {
    let id = VM.id(client, &vm.id)?;
    let params = std::iter::once(id.into()).chain(rest);
    settled(client, id, wait, || client.call(&VM.method(verb), params)).map(|_| ())
}

/// The text of the file, or that of a vector made of options; `missing` when there is neither.
fn vector_or_file(name: &str, parts: &[(&str, String)], file: Option<&Path>, missing: &str) -> Result<String> {
    match (parts.is_empty(), file) {
        (false, _) => text_of::vector(name, parts),
        (true, file) => input::read_or(file, missing),
    }
}

fn given<const N: usize>(pairs: [(&'static str, &Option<String>); N]) -> Vec<(&'static str, String)> {
    pairs.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value))).collect()
}

impl NicAttach {
    fn text(&self, client: &Client) -> Result<String> {
        let mut parts = Vec::new();
        match self.network.as_deref() {
            Some("auto") => parts.push(("NETWORK_MODE", "auto".to_owned())),
            Some(network) => parts.push(("NETWORK_ID", VNET.id(client, network)?.to_string())),
            None => {}
        }
        parts.extend(given([("IP", &self.ip), ("NAME", &self.nic_name), ("PARENT", &self.alias)]));
        let name = if self.alias.is_some() { "NIC_ALIAS" } else { "NIC" };
        let missing = "name the network of the card: --network NETWORK, or --file FILE with a NIC vector";
        vector_or_file(name, &parts, self.file.as_deref(), missing)
    }
}

impl NicUpdate {
    fn run(&self, client: &Client) -> Result<()> {
        let id = VM.id(client, &self.nic.vm.id)?;
        let nic = i64::from(self.nic.nic);
        let send = |text: &str| {
            let text = text_of::lines_as_vector("NIC", text);
            client.call("one.vm.updatenic", [id.into(), nic.into(), text.into(), i64::from(self.append).into()])?;
            Ok(())
        };
        match input::read(self.file.as_deref())? {
            Some(text) => send(&text),
            None => input::edit(&editable(&VM.info(client, id, false)?, nic)?, send),
        }
    }
}

/// The vector of a card, for an editor.
fn editable(vm: &Element, nic: i64) -> Result<String> {
    let cards = vm.at("TEMPLATE").into_iter().flat_map(|template| &template.children);
    let mut cards = cards.filter(|card| matches!(card.name.as_str(), "NIC" | "NIC_ALIAS"));
    let card = cards.find(|card| card.int_at("NIC_ID") == Some(nic));
    let card =
        card.with_context(|| format!("VM {} has no card {nic}; onevm show lists its cards", vm.text_at("ID")))?;
    let mut shown = card.clone();
    shown.children.retain(|part| !NOT_EDITED.contains(&part.name.as_str()));
    if shown.children.is_empty() {
        return Ok(format!("{} = [ ]\n", shown.name));
    }
    Ok(template_text(&Element { children: vec![shown], ..Element::default() }, &[]))
}

impl SecurityGroup {
    fn call(&self, client: &Client, verb: &str) -> Result<()> {
        let group = SECURITY_GROUP.id(client, &self.group)?;
        call(client, &self.nic.vm, verb, [Param::Int(self.nic.nic.into()), group.into()], &at_once())
    }
}

impl PciAttach {
    fn text(&self) -> Result<String> {
        let parts = given([
            ("SHORT_ADDRESS", &self.pci),
            ("DEVICE", &self.pci_device),
            ("CLASS", &self.pci_class),
            ("VENDOR", &self.pci_vendor),
        ]);
        let missing =
            "name the device: --pci ADDRESS, --pci_device, --pci_class, --pci_vendor, or --file FILE with a PCI vector";
        vector_or_file("PCI", &parts, self.file.as_deref(), missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editor_begins_with_what_may_be_changed_of_a_card() {
        let vm = Element::parse(
            "<VM><ID>7</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><IP>1.2.3.4</IP></NIC><NIC><NIC_ID>1</NIC_ID><MODEL>virtio</MODEL></NIC></TEMPLATE></VM>",
        )
        .unwrap();
        assert_eq!(editable(&vm, 1).unwrap(), "NIC=[\n  MODEL=\"virtio\" ]\n");
        assert_eq!(editable(&vm, 0).unwrap(), "NIC = [ ]\n");
        let said = editable(&vm, 2).unwrap_err().to_string();
        assert_eq!(said, "VM 7 has no card 2; onevm show lists its cards");
    }
}
