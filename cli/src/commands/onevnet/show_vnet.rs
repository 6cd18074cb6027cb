//! The page of a virtual network: what it is, its ranges, who has its addresses.

use anyhow::Result;
use clap::Args;

use crate::commands::verbs::{self, Show};
use crate::objects::VNET;
use crate::show::{self, Page, join, or_dash};
use crate::states;
use crate::wire::Client;
use crate::xml::Element;

/// Labels of this page in OpenNebula's tool.
const LABELS: usize = 25;
/// Labels inside the block of a range.
const RANGE_LABELS: usize = 15;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    show: Show,
    /// The attributes of each address range, too
    #[arg(long)]
    show_ar: bool,
}

pub fn show(client: &Client, options: &Options) -> Result<()> {
    let Show { id, options: form } = &options.show;
    let network = VNET.info(client, VNET.id(client, id)?, form.decrypt)?;
    verbs::put_document(&network, form, LABELS, |page, network| {
        information(page, network);
        page.permissions(network).template("VIRTUAL NETWORK TEMPLATE", network.at("TEMPLATE"), &[]);
        page.header("ADDRESS RANGE POOL").labels(RANGE_LABELS);
        ranges(network).for_each(|range| range_block(page, range));
        page.labels(LABELS);
        leases(page, network);
        users(page, network);
        if options.show_ar {
            for range in ranges(network) {
                let title = format!("TEMPLATE FOR AR {}", range.text_at("AR_ID"));
                page.template(&title, Some(range), &["LEASES"]);
            }
        }
    })
}

fn ranges(network: &Element) -> impl Iterator<Item = &Element> {
    network.at("AR_POOL").into_iter().flat_map(|pool| pool.all("AR"))
}

fn information(page: &mut Page, network: &Element) {
    let text = |name| network.text_at(name);
    page.header(&format!("VIRTUAL NETWORK {} INFORMATION", text("ID")))
        .line("ID", text("ID"))
        .line("NAME", text("NAME"))
        .line("USER", text("UNAME"))
        .line("GROUP", text("GNAME"))
        .line("LOCK", show::lock(network))
        .line("CLUSTERS", or_dash(&join(&network.ids_at("CLUSTERS"))))
        .line("BRIDGE", text("BRIDGE"))
        .line("STATE", states::vnet_state(network));
    let optional = |page: &mut Page, label: &str, name: &str| {
        if !network.text_at(name).is_empty() {
            page.line(label, network.text_at(name));
        }
    };
    let automatic = |name: &str| if network.text_at(name) == "1" { "YES" } else { "NO" };
    optional(page, "VN_MAD", "VN_MAD");
    optional(page, "PHYSICAL DEVICE", "PHYDEV");
    optional(page, "VLAN ID", "VLAN_ID");
    page.line("AUTOMATIC VLAN ID", automatic("VLAN_ID_AUTOMATIC"));
    optional(page, "OUTER VLAN ID", "OUTER_VLAN_ID");
    page.line("AUTOMATIC OUTER VLAN ID", automatic("OUTER_VLAN_ID_AUTOMATIC"));
    optional(page, "RESERVED FROM", "PARENT_NETWORK_ID");
    page.line("USED LEASES", text("USED_LEASES"));
}

fn range_block(page: &mut Page, range: &Element) {
    let text = |name: &str| range.text_at(name);
    page.header(&format!("AR {}", text("AR_ID"))).line("SIZE", text("SIZE")).line("LEASES", text("USED_LEASES"));
    for name in ["VN_MAD", "IPAM_MAD"] {
        if !text(name).is_empty() {
            page.line(name, text(name));
        }
    }
    let kinds = ["MAC", "IP", "IP6_GLOBAL", "IP6_ULA", "IP6"];
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .filter(|kind| !text(kind).is_empty())
        .map(|kind| vec![(*kind).to_owned(), text(kind).to_owned(), text(&format!("{kind}_END")).to_owned()])
        .collect();
    page.raw("").table(&[("RANGE", 10, true), ("FIRST", 34, false), ("LAST", 34, false)], &rows);
}

fn leases(page: &mut Page, network: &Element) {
    const TITLES: [(&str, usize, bool); 6] = [
        ("AR", 3, true),
        ("OWNER", 10, true),
        ("MAC", 17, false),
        ("IP", 15, false),
        ("PORT_FORWARD", 12, false),
        ("IP6", 3, false),
    ];
    let rows: Vec<Vec<String>> = ranges(network)
        .flat_map(|range| {
            let leases = range.at("LEASES").into_iter().flat_map(|leases| leases.all("LEASE"));
            leases.map(|lease| lease_row(range.text_at("AR_ID"), lease))
        })
        .collect();
    page.header("LEASES").table(&TITLES, &rows);
}

fn lease_row(ar_id: &str, lease: &Element) -> Vec<String> {
    let text = |name: &str| lease.text_at(name);
    let owners = [("V", "VM"), ("N", "VNET"), ("R", "VROUTER")];
    let owner = owners.iter().find(|(_, name)| lease.at(name).is_some());
    let owner = owner.map_or("-".to_owned(), |(letter, name)| format!("{letter}:{}", text(name)));
    let outside = text("EXTERNAL_PORT_RANGE");
    let inside = text("INTERNAL_PORT_RANGE").split('/').next().unwrap_or_default();
    let forward = if outside.is_empty() { "-".to_owned() } else { format!("[{outside}]:[{inside}]") };
    let ip6 = if text("IP6").is_empty() { text("IP6_GLOBAL") } else { text("IP6") };
    vec![ar_id.to_owned(), owner, text("MAC").to_owned(), or_dash(text("IP")), forward, or_dash(ip6)]
}

fn users(page: &mut Page, network: &Element) {
    page.header("VIRTUAL ROUTERS");
    for id in network.ids_at("VROUTERS") {
        page.raw(&id.to_string());
    }
    let vms = |name: &str| join(&network.ids_at(name));
    page.header("VIRTUAL MACHINES")
        .line("UPDATED", vms("UPDATED_VMS"))
        .line("OUTDATED", vms("OUTDATED_VMS"))
        .line("ERROR", vms("ERROR_VMS"));
}
