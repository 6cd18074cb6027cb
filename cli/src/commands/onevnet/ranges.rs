//! Address ranges: what `create` and `addar` say of one in options, and the verbs that change them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use one_core::template::{Template, Value, Vector};

use crate::objects::VNET;
use crate::show;
use crate::wire::Client;
use crate::xml::Element;
use crate::{input, template_text};

/// What the daemon writes into a range; a change never carries it.
const GENERATED: [&str; 13] = [
    "AR_ID",
    "ALLOCATED",
    "IP6_END",
    "IP6_GLOBAL",
    "IP6_GLOBAL_END",
    "IP6_ULA",
    "IP6_ULA_END",
    "IP_END",
    "LEASES",
    "MAC_END",
    "NEXT_INDEX",
    "PARENT_NETWORK_AR_ID",
    "USED_LEASES",
];

/// A range in options.
#[derive(Args, Debug)]
pub struct Range {
    /// Number of addresses of the range
    #[arg(short = 's', long = "size", value_name = "NUMBER")]
    addresses: Option<u32>,
    /// First IPv4 address
    #[arg(short, long)]
    ip: Option<Ipv4Addr>,
    /// First MAC address; else the daemon chooses
    #[arg(short, long)]
    mac: Option<String>,
    /// First IPv6 address with the length of its prefix: 2001:db8::1/48
    #[arg(short = '6', long, value_name = "IP6/LENGTH")]
    ip6: Option<Counted>,
    /// Prefix of global IPv6 addresses that are made from MACs
    #[arg(short = 'g', long = "ip6_global", alias = "ip6-global", value_name = "PREFIX")]
    ip6_global: Option<Ipv6Addr>,
    /// Prefix of unique local IPv6 addresses that are made from MACs
    #[arg(short = 'u', long = "ip6_ula", alias = "ip6-ula", value_name = "PREFIX")]
    ip6_ula: Option<Ipv6Addr>,
    /// Kind of addresses; else it follows from the other options
    #[arg(long = "type", value_enum, ignore_case = true, value_name = "TYPE")]
    kind: Option<Kind>,
}

/// TYPE of a range.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    #[value(name = "ETHER")]
    Ether,
    #[value(name = "IP4")]
    Ip4,
    #[value(name = "IP6")]
    Ip6,
    #[value(name = "IP6_STATIC")]
    Ip6Static,
    #[value(name = "IP4_6")]
    Ip4And6,
    #[value(name = "IP4_6_STATIC")]
    Ip4And6Static,
}

/// An IPv6 address with the length of its prefix.
#[derive(Clone, Debug)]
struct Counted {
    first: Ipv6Addr,
    length: Option<u8>,
}

impl std::str::FromStr for Counted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, length) = match text.split_once('/') {
            Some((first, length)) => (first, Some(length)),
            None => (text, None),
        };
        let length =
            length.map(|length| length.parse::<u8>().ok().filter(|bits| *bits <= 128).context(length.to_owned()));
        let length = length.transpose().map_err(|length| anyhow!("a prefix has 0 to 128 bits, not {length}"))?;
        Ok(Self { first: first.parse()?, length })
    }
}

impl Range {
    /// Does any option say something of a range?
    pub fn is_given(&self) -> bool {
        let first = self.ip.is_some() || self.mac.is_some() || self.ip6.is_some();
        let prefixes = self.ip6_global.is_some() || self.ip6_ula.is_some();
        self.addresses.is_some() || first || prefixes || self.kind.is_some()
    }

    /// The range as an AR attribute, `more` at its end.
    ///
    /// # Errors
    /// Without a size; for a value that the grammar cannot carry.
    pub fn text(&self, more: Vec<(&str, String)>) -> Result<String> {
        let Some(size) = self.addresses else { bail!("say with --size how many addresses the range has") };
        let mut parts = vec![("TYPE", self.kind()), ("SIZE", size.to_string())];
        let mut push = |key, value: Option<String>| parts.extend(value.map(|value| (key, value)));
        push("IP", self.ip.map(|ip| ip.to_string()));
        push("MAC", self.mac.clone());
        push("IP6", self.ip6.as_ref().map(|ip6| ip6.first.to_string()));
        push("PREFIX_LENGTH", self.ip6.as_ref().and_then(|ip6| ip6.length).map(|length| length.to_string()));
        push("GLOBAL_PREFIX", self.ip6_global.map(|prefix| prefix.to_string()));
        push("ULA_PREFIX", self.ip6_ula.map(|prefix| prefix.to_string()));
        parts.extend(more);
        template_text::vector("AR", &parts)
    }

    fn kind(&self) -> String {
        let counted = self.ip6.is_some();
        let made = self.ip6_global.is_some() || self.ip6_ula.is_some();
        let kind = self.kind.unwrap_or(match (self.ip.is_some(), counted, made) {
            (true, true, _) => Kind::Ip4And6Static,
            (false, true, _) => Kind::Ip6Static,
            (true, false, true) => Kind::Ip4And6,
            (false, false, true) => Kind::Ip6,
            (true, false, false) => Kind::Ip4,
            (false, false, false) => Kind::Ether,
        });
        kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// The verbs about ranges.
#[derive(Subcommand, Debug)]
pub enum Ranges {
    /// Add an address range, from options or a template
    Addar(Add),
    /// Remove an address range
    Rmar(Remove),
    /// Change the attributes of an address range
    Updatear(Update),
    /// Give an address range of a reservation back
    Free(One),
}

#[derive(Args, Debug)]
pub struct Add {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// File with the range, AR = [ … ] (- for standard input)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    range: Range,
    /// Gateway of the guests
    #[arg(long, value_name = "IP")]
    gateway: Option<Ipv4Addr>,
    /// Mask of the guests' network
    #[arg(long, value_name = "MASK")]
    netmask: Option<Ipv4Addr>,
    /// Driver, if it is not that of the network
    #[arg(long = "vn_mad", alias = "vn-mad", value_name = "DRIVER")]
    vn_mad: Option<String>,
    /// VLAN, if it is not that of the network
    #[arg(long, value_name = "NUMBER")]
    vlanid: Option<u32>,
}

/// A range of a network.
#[derive(Args, Debug)]
pub struct One {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// Number of the address range
    #[arg(value_name = "AR_ID")]
    ar_id: u32,
}

#[derive(Args, Debug)]
pub struct Remove {
    #[command(flatten)]
    range: One,
    /// Also when its addresses are in use
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub struct Update {
    #[command(flatten)]
    range: One,
    /// File with the attributes (- for standard input); an editor opens when neither file nor pipe is there
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Change only what the text names; without it the text replaces all
    #[arg(short, long)]
    append: bool,
}

impl Ranges {
    /// Does it.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name, a text that is no range.
    pub fn run(&self, client: &Client) -> Result<()> {
        match self {
            Self::Addar(options) => add(client, options),
            Self::Rmar(options) => {
                let One { id, ar_id } = &options.range;
                let params = [VNET.id(client, id)?.into(), i64::from(*ar_id).into(), options.force.into()];
                client.call("one.vn.rm_ar", params).map(|_| ())
            }
            Self::Updatear(options) => update(client, options),
            Self::Free(One { id, ar_id }) => {
                client.call("one.vn.free_ar", [VNET.id(client, id)?.into(), i64::from(*ar_id).into()]).map(|_| ())
            }
        }
    }
}

fn add(client: &Client, options: &Add) -> Result<()> {
    let mut more = Vec::new();
    let mut push = |key, value: Option<String>| more.extend(value.map(|value| (key, value)));
    push("GATEWAY", options.gateway.map(|ip| ip.to_string()));
    push("NETWORK_MASK", options.netmask.map(|mask| mask.to_string()));
    push("VN_MAD", options.vn_mad.clone());
    push("VLAN_ID", options.vlanid.map(|id| id.to_string()));
    let by_options = options.range.is_given() || !more.is_empty();
    let text = match (&options.file, by_options) {
        (Some(_), true) => bail!("say what the address range is either by options or by a file"),
        (None, true) => options.range.text(more)?,
        (Some(file), false) => input::read_required(Some(file))?,
        (None, false) => input::read_required(None)
            .context("say what the address range is by options (--size, --ip, --mac …) or a template")?,
    };
    client.call("one.vn.add_ar", [VNET.id(client, &options.id)?.into(), text.into()]).map(|_| ())
}

fn update(client: &Client, options: &Update) -> Result<()> {
    let One { id, ar_id } = &options.range;
    let id = VNET.id(client, id)?;
    let present = || range_of(&VNET.info(client, id, false)?, id, *ar_id);
    let send = |text: &str| {
        let base = if options.append { present()? } else { Vector::new() };
        let text = changed(base, text, *ar_id)?;
        client.call("one.vn.update_ar", [id.into(), text.into()]).map(|_| ())
    };
    match input::read(options.file.as_deref())? {
        Some(text) => send(&text),
        None if options.append => input::edit("", send),
        None => {
            let text: String =
                present()?.iter().map(|(key, value)| template_text::attribute(key, value)).collect::<Result<_>>()?;
            input::edit(&text, send)
        }
    }
}

/// What users may set of a range of a network's document.
fn range_of(network: &Element, id: i64, ar_id: u32) -> Result<Vector> {
    let wanted = ar_id.to_string();
    let ranges = || network.at("AR_POOL").into_iter().flat_map(|pool| pool.all("AR"));
    let Some(range) = ranges().find(|range| range.text_at("AR_ID") == wanted) else {
        let known: Vec<i64> = ranges().filter_map(|range| range.int_at("AR_ID")).collect();
        bail!(
            "virtual network {id} has no address range {ar_id}; there are {}",
            if known.is_empty() { "none".to_owned() } else { show::join(&known) }
        );
    };
    // Of an IPv6 that is counted the first one was given, of others none.
    let counted = range.text_at("TYPE").ends_with("STATIC");
    let own = |name: &str| !GENERATED.contains(&name) && (counted || name != "IP6");
    Ok(range.children.iter().filter(|part| own(&part.name)).map(|part| (&part.name, part.text.trim())).collect())
}

/// The text for `update_ar`: an AR vector, or plain attributes, with the number of the range; on top of `base`.
fn changed(base: Vector, text: &str, ar_id: u32) -> Result<String> {
    let given = Template::parse(text).map_err(|error| anyhow!("the address range is not understood: {error}"))?;
    let mut range = base;
    match given.vector("AR") {
        Some(vector) => vector.iter().for_each(|(key, value)| range.set(key, value)),
        None => {
            for attribute in given.attributes() {
                let Value::Scalar(value) = &attribute.value else {
                    bail!("write KEY = \"VALUE\" lines, or one AR = [ … ]; {} is another vector", attribute.name);
                };
                range.set(&attribute.name, value.as_str());
            }
        }
    }
    range.set("AR_ID", ar_id.to_string());
    let mut template = Template::new();
    template.set_vector("AR", range);
    Ok(template.to_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_range_follows_from_its_addresses() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            range: Range,
        }
        let text = |words: &[&str]| {
            let words = ["x", "-s", "5"].iter().chain(words);
            <Line as clap::Parser>::try_parse_from(words).map(|line| line.range.text(Vec::new()).unwrap())
        };
        let kinds: [(&[&str], &str); 7] = [
            (&[], r#"TYPE = "ETHER", SIZE = "5""#),
            (&["-i", "10.0.0.1"], r#"TYPE = "IP4", SIZE = "5", IP = "10.0.0.1""#),
            (
                &["-6", "2001:db8::1/48"],
                r#"TYPE = "IP6_STATIC", SIZE = "5", IP6 = "2001:db8::1", PREFIX_LENGTH = "48""#,
            ),
            (
                &["-i", "10.0.0.1", "-6", "fd00::1"],
                r#"TYPE = "IP4_6_STATIC", SIZE = "5", IP = "10.0.0.1", IP6 = "fd00::1""#,
            ),
            (&["-g", "2001:db8::"], r#"TYPE = "IP6", SIZE = "5", GLOBAL_PREFIX = "2001:db8::""#),
            (
                &["-i", "10.0.0.1", "-u", "fd00::"],
                r#"TYPE = "IP4_6", SIZE = "5", IP = "10.0.0.1", ULA_PREFIX = "fd00::""#,
            ),
            (
                &["-m", "02:00:00:00:00:01", "--type", "ip4_6"],
                r#"TYPE = "IP4_6", SIZE = "5", MAC = "02:00:00:00:00:01""#,
            ),
        ];
        for (words, range) in kinds {
            assert_eq!(text(words).unwrap(), format!("AR = [ {range} ]\n"));
        }
        for wrong in [["-6", "fd00::1/129"], ["-6", "10.0.0.1"], ["-i", "10.0.0"], ["-g", "x"]] {
            assert!(text(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_change_of_a_range_is_a_vector_or_plain_attributes() {
        let base = || [("SIZE", "10"), ("A", "1")].into_iter().collect::<Vector>();
        let changed = |base, text| changed(base, text, 3);
        assert_eq!(changed(Vector::new(), "size = 5").unwrap(), "AR=[\n  AR_ID=\"3\",\n  SIZE=\"5\" ]\n");
        assert_eq!(
            changed(base(), "AR = [ A = 2, AR_ID = 9 ]").unwrap(),
            "AR=[\n  A=\"2\",\n  AR_ID=\"3\",\n  SIZE=\"10\" ]\n"
        );
        assert!(changed(base(), "X = [ A = 2 ]").unwrap_err().to_string().contains("another vector"));
        assert!(changed(base(), "A = [").is_err());
    }
}
