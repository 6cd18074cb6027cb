//! The blocks of `onevm show` about network cards: their addresses, and what security groups let through.

use crate::show::{Page, or_dash};
use crate::xml::Element;

/// Further addresses of a card, a line each below its first; with what is said of them.
const MORE_ADDRESSES: [(&str, &str); 9] = [
    ("EXTERNAL_IP", ""),
    ("IP6_LINK", ""),
    ("IP6_ULA", ""),
    ("IP6_GLOBAL", ""),
    ("IP6", ""),
    ("VROUTER_IP", " (VRouter)"),
    ("VROUTER_IP6_LINK", " (VRouter)"),
    ("VROUTER_IP6_ULA", " (VRouter)"),
    ("VROUTER_IP6_GLOBAL", " (VRouter)"),
];

const TITLES: [(&str, usize, bool); 6] = [
    ("ID", 3, false),
    ("NETWORK", 20, true),
    ("BRIDGE", 12, true),
    ("IP", 15, true),
    ("MAC", 17, true),
    ("PCI_ID", 6, true),
];

/// Cards, those that are PCI devices too, and their aliases.
pub fn cards(page: &mut Page, template: &Element) {
    let is_card = |pci: &&Element| pci.int_at("NIC_ID").is_some_and(|id| id >= 0);
    let nics: Vec<&Element> = template.all("NIC").chain(template.all("PCI").filter(is_card)).collect();
    block(page, "VM NICS", &TITLES, &nics);
    block(
        page,
        "VM ALIAS",
        TITLES.split_last().map_or(&[], |(_, rest)| rest),
        &template.all("NIC_ALIAS").collect::<Vec<_>>(),
    );
}

fn block(page: &mut Page, title: &str, titles: &[(&str, usize, bool)], cards: &[&Element]) {
    let rows: Vec<Vec<String>> = cards
        .iter()
        .flat_map(|card| rows(card))
        .map(|mut row| {
            row.truncate(titles.len());
            row
        })
        .collect();
    if !rows.is_empty() {
        page.header(title).table(titles, &rows);
    }
}

fn rows(card: &Element) -> Vec<Vec<String>> {
    let text = |name| or_dash(card.text_at(name));
    let pci = card.text_at("PCI_ID").to_owned();
    let mut rows = vec![vec![text("NIC_ID"), text("NETWORK"), text("BRIDGE"), text("IP"), text("MAC"), pci]];
    for (name, about) in MORE_ADDRESSES {
        let address = card.text_at(name);
        if !address.is_empty() {
            let mut row = vec![String::new(); TITLES.len()];
            row[3] = format!("{address}{about}");
            rows.push(row);
        }
    }
    rows
}

/// Which groups each card has, and their rules.
pub fn security(page: &mut Page, template: &Element) {
    let rules: Vec<_> = template.all("SECURITY_GROUP_RULE").map(rule).collect();
    if rules.is_empty() {
        return;
    }
    let is_card = |part: &&Element| part.name == "NIC" || part.name == "PCI" && part.int_at("NIC_ID").is_some();
    let groups =
        |card: &Element| ["NIC_ID", "NETWORK", "SECURITY_GROUPS"].map(|name| card.text_at(name).to_owned()).to_vec();
    let cards: Vec<Vec<String>> = template.children.iter().filter(is_card).map(groups).collect();
    page.header("SECURITY");
    if !cards.is_empty() {
        page.table(&[("NIC_ID", 6, false), ("NETWORK", 25, true), ("SECURITY_GROUPS", 47, true)], &cards).raw("");
    }
    let titles = [
        ("ID", 4, false),
        ("NAME", 11, true),
        ("TYPE", 8, true),
        ("PROTOCOL", 8, true),
        ("VNET", 4, false),
        ("START", 17, true),
        ("SIZE", 6, true),
        ("RANGE", 15, true),
    ];
    page.table(&titles, &rules);
}

fn rule(rule: &Element) -> Vec<String> {
    let text = |name| rule.text_at(name).to_owned();
    let mut protocol = text("PROTOCOL");
    if protocol.eq_ignore_ascii_case("ICMP") && !text("ICMP_TYPE").is_empty() {
        protocol.push_str(&format!("-{}", text("ICMP_TYPE")));
    }
    let start = if text("IP").is_empty() { text("MAC") } else { text("IP") };
    let (id, name, kind) = (text("SECURITY_GROUP_ID"), text("SECURITY_GROUP_NAME"), text("RULE_TYPE"));
    vec![id, name, kind, protocol, text("NETWORK_ID"), start, text("SIZE"), text("RANGE")]
}
