//! Rules of security groups: checking them, and what of them a VM's document shows.
//!
//! What it is: `RULE` vectors and the `SECURITY_GROUP_RULE` vectors made from them. What it is not: a firewall.

use core::net::IpAddr;
use std::collections::BTreeSet;

use super::range::AddressRange;
use super::refuse;
use crate::access::valid_name;
use crate::refusal::{ObjectKind, Refusal};
use crate::template::{Template, Value, Vector};

/// Most rules of one group.
pub const MAX_RULES: usize = 1000;
/// Most rules that one group gives to a VM, those for the ranges of networks counted one by one.
pub const MAX_VM_RULES: usize = 10_000;
/// Most ports in one rule; a range counts as two (a limit of iptables' multiport).
const MAX_PORTS: usize = 15;

fn given<'v>(vector: &'v Vector, key: &str) -> Option<&'v str> {
    vector.get(key).filter(|value| !value.is_empty())
}

/// Checks the template of a new security group. Gives its name and the template without it; rules that occur twice are
/// kept once.
///
/// # Errors
/// [`Refusal::Internal`] for a missing NAME and bad rules; [`Refusal::BadName`].
pub fn define(template: &Template) -> Result<(String, Template), Refusal> {
    let Some(name) = template.scalar("NAME").filter(|name| !name.is_empty()).map(str::to_owned) else {
        return refuse("No NAME in template for Security Group.");
    };
    valid_name(&name, ObjectKind::SecurityGroup)?;
    let mut template = checked(template)?;
    template.remove("NAME");
    Ok((name, template))
}

/// Checks all rules of a template (of a group that is updated), and drops those that occur twice.
///
/// # Errors
/// [`Refusal::Internal`] with the first mistake.
pub fn checked(template: &Template) -> Result<Template, Refusal> {
    let mut new = template.clone();
    let rules = new.remove("RULE");
    if rules.len() > MAX_RULES {
        return refuse(format!("A security group can have at most {MAX_RULES} rules."));
    }
    let mut seen = BTreeSet::new();
    for rule in rules {
        let Value::Vector(rule) = rule else {
            return refuse("Wrong RULE in security group: a vector is needed, RULE=[PROTOCOL=TCP, RULE_TYPE=inbound].");
        };
        check_rule(&rule)?;
        let pairs: BTreeSet<(String, String)> =
            rule.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        if seen.insert(pairs) {
            new.push_vector("RULE", rule);
        }
    }
    Ok(new)
}

/// Checks one rule: PROTOCOL, RULE_TYPE, RANGE, ICMP_TYPE, ICMPV6_TYPE, and NETWORK_ID or IP with SIZE.
///
/// # Errors
/// [`Refusal::Internal`] with the original's sentence for the first mistake.
pub fn check_rule(rule: &Vector) -> Result<(), Refusal> {
    let protocol = rule.get("PROTOCOL").unwrap_or_default().to_ascii_uppercase();
    if !["TCP", "UDP", "ICMP", "ICMPV6", "IPSEC", "ALL"].contains(&protocol.as_str()) {
        return refuse("Wrong PROTOCOL in rule. Valid options: TCP, UDP, ICMP, ICMPV6, IPSEC, ALL.");
    }
    if let Some(range) = given(rule, "RANGE") {
        if protocol != "TCP" && protocol != "UDP" {
            return refuse("RANGE is supported only for TCP and UDP protocols.");
        }
        check_ports(range)?;
    }
    for (key, of) in [("ICMP_TYPE", "ICMP"), ("ICMPV6_TYPE", "ICMPV6")] {
        let Some(kind) = given(rule, key) else { continue };
        if protocol != of {
            return refuse(format!("{key} is supported only for {of} protocol."));
        }
        if kind.parse::<u8>().is_err() {
            return refuse(format!("Wrong {key}, it must be integer from 0 to 255"));
        }
    }
    let direction = rule.get("RULE_TYPE").unwrap_or_default();
    if !direction.eq_ignore_ascii_case("INBOUND") && !direction.eq_ignore_ascii_case("OUTBOUND") {
        return refuse("Wrong RULE_TYPE in rule. Valid options: INBOUND, OUTBOUND.");
    }
    match (given(rule, "IP"), given(rule, "NETWORK_ID")) {
        (Some(ip), _) => {
            if !given(rule, "SIZE").is_some_and(|size| size.parse::<u32>().is_ok_and(|size| size > 0)) {
                return refuse("Wrong or empty SIZE.");
            }
            if ip.parse::<IpAddr>().is_err() {
                return refuse("Wrong format for IP value.");
            }
            Ok(())
        }
        (None, Some(id)) if !id.parse::<i64>().is_ok_and(|id| id >= 0) => refuse("Wrong NETWORK_ID."),
        _ => Ok(()),
    }
}

fn check_ports(range: &str) -> Result<(), Refusal> {
    let mut ports = 0_usize;
    let port = |text: &str| -> Result<u32, Refusal> {
        if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
            return refuse("Invalid RANGE specification.");
        }
        match text.parse() {
            Ok(port) if port <= 65535 => Ok(port),
            _ => refuse("RANGE out of bounds 0-65536."),
        }
    };
    for part in range.split(',') {
        ports += match part.split_once(':') {
            Some((begin, end)) => {
                let (begin, end) = (port(begin)?, port(end)?);
                if end < begin {
                    return refuse("RANGE BEGIN value is greater than RANGE END value");
                }
                2
            }
            None => port(part).map(|_| 1)?,
        };
        if ports > MAX_PORTS {
            return refuse(format!("Not more than {MAX_PORTS} ports can be specified in a RULE"));
        }
    }
    Ok(())
}

/// The `SECURITY_GROUP_RULE` vectors that a VM gets from one of its groups. `ranges_of` gives the ranges of a network:
/// a rule for a NETWORK_ID becomes one for each of its ranges, and none when there is no such network any more.
///
/// # Errors
/// [`Refusal::Internal`] above [`MAX_VM_RULES`]: a group that is shown in part would be a hole.
pub fn vm_rules(
    group_id: i64,
    group_name: &str,
    template: &Template,
    mut ranges_of: impl FnMut(i64) -> Option<Vec<AddressRange>>,
) -> Result<Vec<Vector>, Refusal> {
    let mut rules = Vec::new();
    for rule in template.vectors("RULE") {
        let mut rule = rule.clone();
        rule.set("SECURITY_GROUP_ID", group_id.to_string());
        rule.set("SECURITY_GROUP_NAME", group_name);
        match rule.int("NETWORK_ID").filter(|_| given(&rule, "IP").is_none()) {
            Some(network) => {
                let ranges = ranges_of(network).unwrap_or_default();
                rules.extend(ranges.iter().map(|range| of_range(rule.clone(), range)));
            }
            None => rules.push(rule),
        }
        if rules.len() > MAX_VM_RULES {
            return refuse(format!(
                "Security group {group_id} becomes more than {MAX_VM_RULES} rules for a VM; make fewer rules for networks \
                 with many address ranges."
            ));
        }
    }
    Ok(rules)
}

fn of_range(mut rule: Vector, range: &AddressRange) -> Vector {
    rule.set("AR_ID", range.ar_id().to_string());
    rule.set("TYPE", range.kind().name());
    rule.set("SIZE", range.size().to_string());
    let first = range.addresses(0).map(|addresses| addresses.pairs()).unwrap_or_default();
    for (key, value) in first.into_iter().filter(|(key, _)| *key != "IP6_LINK") {
        rule.set(key, value);
    }
    rule
}
