//! `onevnet create`.

use std::net::Ipv4Addr;

use anyhow::Result;
use clap::Args;

use super::ranges::Range;
use crate::commands::making::{self, InCluster, Source};
use crate::objects::VNET;
use crate::wire::Client;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    cluster: InCluster,
    /// Driver: bridge, fw, ebtables, 802.1Q, vxlan, ovswitch, dummy
    #[arg(long = "vn_mad", alias = "vn-mad", value_name = "DRIVER")]
    vn_mad: Option<String>,
    /// Bridge on the hosts
    #[arg(long)]
    bridge: Option<String>,
    /// Network card of the hosts
    #[arg(long, value_name = "DEVICE")]
    phydev: Option<String>,
    /// VLAN
    #[arg(long, value_name = "NUMBER")]
    vlanid: Option<u32>,
    /// Gateway of the guests
    #[arg(long, value_name = "IP")]
    gateway: Option<Ipv4Addr>,
    /// Mask of the guests' network
    #[arg(long, value_name = "MASK")]
    netmask: Option<Ipv4Addr>,
    /// Name servers of the guests
    #[arg(long, value_name = "IP ...")]
    dns: Option<String>,
    #[command(flatten)]
    range: Range,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let mut given = making::attributes(&[
        ("VN_MAD", options.vn_mad.clone()),
        ("BRIDGE", options.bridge.clone()),
        ("PHYDEV", options.phydev.clone()),
        ("VLAN_ID", options.vlanid.map(|id| id.to_string())),
        ("GATEWAY", options.gateway.map(|ip| ip.to_string())),
        ("NETWORK_MASK", options.netmask.map(|mask| mask.to_string())),
        ("DNS", options.dns.clone()),
    ])?;
    if options.range.is_given() {
        given.push_str(&options.range.text(Vec::new())?);
    }
    let cluster = options.cluster.id(client)?;
    options.source.make(client, &VNET, &given, &[cluster.into()]).map(|_| ())
}
