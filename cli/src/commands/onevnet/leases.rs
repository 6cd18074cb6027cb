//! Addresses of a network: keeping one, letting it go, reserving many.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::commands::making;
use crate::objects::VNET;
use crate::wire::Client;
use crate::{template_text, terminal};

/// The verbs about addresses.
#[derive(Subcommand, Debug)]
pub enum Leases {
    /// Keep an address from being given out
    Hold(Lease),
    /// Let an address that is held be given out again
    Release(Lease),
    /// Take addresses into a network of their own, or into a reservation that is there
    Reserve(Reserve),
}

#[derive(Args, Debug)]
pub struct Lease {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// IP, IPv6 or MAC address
    #[arg(value_name = "ADDRESS")]
    address: Address,
    #[command(flatten)]
    range: InRange,
}

#[derive(Args, Debug)]
struct InRange {
    /// Only in this address range
    #[arg(short, long = "address_range", alias = "ar_id", value_name = "AR_ID")]
    address_range: Option<u32>,
}

#[derive(Args, Debug)]
pub struct Reserve {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// Reservation that grows, id or name
    #[arg(value_name = "VNET")]
    network: Option<String>,
    /// Name of the new network
    #[arg(short, long, conflicts_with = "network")]
    name: Option<String>,
    /// Number of addresses
    #[arg(short = 's', long = "size", value_name = "NUMBER")]
    addresses: u32,
    #[command(flatten)]
    range: InRange,
    #[command(flatten)]
    first: First,
}

#[derive(Args, Debug)]
#[group(multiple = false)]
struct First {
    /// First IPv4 address; needs --address_range
    #[arg(short, long, requires = "address_range")]
    ip: Option<Ipv4Addr>,
    /// First IPv6 address; needs --address_range
    #[arg(short = '6', long, requires = "address_range")]
    ip6: Option<Ipv6Addr>,
    /// First MAC address; needs --address_range
    #[arg(short, long, requires = "address_range")]
    mac: Option<String>,
}

/// An address and the key that says of which kind it is.
#[derive(Clone, Debug)]
struct Address {
    key: &'static str,
    text: String,
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_mac = || {
            let bytes: Vec<&str> = text.split(':').collect();
            bytes.len() == 6
                && bytes.iter().all(|byte| byte.len() == 2 && byte.chars().all(|digit| digit.is_ascii_hexdigit()))
        };
        let key = match () {
            () if text.parse::<Ipv4Addr>().is_ok() => "IP",
            () if text.parse::<Ipv6Addr>().is_ok() => "IP6",
            () if is_mac() => "MAC",
            () => bail!("write an IP (10.0.0.1), IPv6 (2001:db8::1) or MAC address (02:00:0a:00:00:01)"),
        };
        Ok(Self { key, text: text.to_owned() })
    }
}

impl Leases {
    /// Does it.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name.
    pub fn run(&self, client: &Client) -> Result<()> {
        match self {
            Self::Hold(lease) => lease.call(client, "hold"),
            Self::Release(lease) => lease.call(client, "release"),
            Self::Reserve(options) => reserve(client, options),
        }
    }
}

impl Lease {
    fn call(&self, client: &Client, verb: &str) -> Result<()> {
        let mut parts = vec![(self.address.key, self.address.text.clone())];
        parts.extend(self.range.address_range.map(|ar_id| ("AR_ID", ar_id.to_string())));
        let text = template_text::vector("LEASES", &parts)?;
        client.call(&VNET.method(verb), [VNET.id(client, &self.id)?.into(), text.into()]).map(|_| ())
    }
}

fn reserve(client: &Client, options: &Reserve) -> Result<()> {
    if options.name.is_none() && options.network.is_none() {
        bail!("say with --name how the reservation is called, or name the one that grows");
    }
    let id = VNET.id(client, &options.id)?;
    let network = options.network.as_deref().map(|word| VNET.id(client, word)).transpose()?;
    let first = &options.first;
    let text = making::attributes(&[
        ("SIZE", Some(options.addresses.to_string())),
        ("NAME", options.name.clone()),
        ("NETWORK_ID", network.map(|id| id.to_string())),
        ("AR_ID", options.range.address_range.map(|ar_id| ar_id.to_string())),
        ("IP", first.ip.map(|ip| ip.to_string())),
        ("IP6", first.ip6.map(|ip6| ip6.to_string())),
        ("MAC", first.mac.clone()),
    ])?;
    let made = client.call("one.vn.reserve", [id.into(), text.into()])?.id()?;
    terminal::put_line(&format!("Reservation VNET ID: {made}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_by_its_form() {
        let key = |text: &str| text.parse::<Address>().map(|address| address.key);
        assert_eq!(key("10.0.0.1").unwrap(), "IP");
        assert_eq!(key("fd00::1").unwrap(), "IP6");
        assert_eq!(key("02:00:0a:00:00:01").unwrap(), "MAC");
        for wrong in ["", "x", "10.0.0", "02:00:0a:00:00", "02:00:0a:00:00:001", "02:00:0a:00:00:+1"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }
}
