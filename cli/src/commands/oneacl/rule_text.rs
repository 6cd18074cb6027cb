//! An access rule as people write it: `@1 VM+NET/* USE+MANAGE #0`.
//!
//! Three parts and perhaps a zone: who, what (kinds of objects, and which of them), the rights. Ids may be names. What
//! rules are is [`one_core::access::Rule`]; here is only how they are read, with a sentence for each way to get it wrong.

use anyhow::{Result, anyhow, bail};
use one_core::access::{Rule, Selector};
use one_core::refusal::{ObjectKind, Right};

use crate::objects::{self, Kind};
use crate::usage;

/// How a rule looks, for refusals.
const EXAMPLE: &str = "write for instance \"@1 VM+NET/* USE+MANAGE\"";

/// Kinds that a rule can name, and how names of such objects become ids; none where the commands cannot look them up.
const KINDS: [(ObjectKind, Option<&Kind>); 20] = [
    (ObjectKind::Vm, Some(&objects::VM)),
    (ObjectKind::Host, Some(&objects::HOST)),
    (ObjectKind::Network, Some(&objects::VNET)),
    (ObjectKind::Image, Some(&objects::IMAGE)),
    (ObjectKind::User, Some(&objects::USER)),
    (ObjectKind::Template, Some(&objects::TEMPLATE)),
    (ObjectKind::Group, Some(&objects::GROUP)),
    (ObjectKind::Datastore, Some(&objects::DATASTORE)),
    (ObjectKind::Cluster, Some(&objects::CLUSTER)),
    (ObjectKind::Document, None),
    (ObjectKind::Zone, Some(&objects::ZONE)),
    (ObjectKind::SecurityGroup, Some(&objects::SECURITY_GROUP)),
    (ObjectKind::Vdc, Some(&objects::VDC)),
    (ObjectKind::VirtualRouter, None),
    (ObjectKind::Marketplace, None),
    (ObjectKind::MarketplaceApp, None),
    (ObjectKind::VmGroup, None),
    (ObjectKind::NetworkTemplate, None),
    (ObjectKind::Hook, None),
    (ObjectKind::BackupJob, Some(&objects::BACKUP_JOB)),
];

const RIGHTS: [Right; 4] = [Right::Use, Right::Manage, Right::Admin, Right::Create];

/// Makes an id of a name.
pub(super) type Lookup<'a> = &'a dyn Fn(&Kind, &str) -> Result<i64>;

/// The four numbers of the wire for the text of a rule; the zone is empty when the text names none.
///
/// # Errors
/// For a text that is no rule, saying which part is wrong and how it should look; for an unknown name.
pub(super) fn to_hex(text: &str, lookup: Lookup<'_>) -> Result<[String; 4]> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let (who, what, rights, zone) = match parts[..] {
        [who, what, rights] => (who, what, rights, None),
        [who, what, rights, zone] => (who, what, rights, Some(zone)),
        _ => bail!(
            "the rule \"{}\" has {} parts, but needs who, what and rights, and perhaps a zone: {EXAMPLE}",
            crate::terminal::one_line(text),
            parts.len()
        ),
    };
    let who = user(who, lookup)?;
    let (kinds, which) = resource(what, lookup)?;
    let mut rule = Rule::new(who, &kinds, which, &self::rights(rights)?);
    if let Some(zone) = zone {
        rule.zone = self::zone(zone, lookup)?;
    }
    let [user, resource, rights, hex] = rule.to_hex();
    Ok([user, resource, rights, if zone.is_some() { hex } else { String::new() }])
}

fn user(text: &str, lookup: Lookup<'_>) -> Result<Selector> {
    let forms = "#ID or #NAME of a user, @ID or @NAME of a group, or * for everybody";
    match split(text) {
        ('*', "") => Ok(Selector::All),
        ('#', word) if !word.is_empty() => Ok(Selector::One(lookup(&objects::USER, word)?)),
        ('@', word) if !word.is_empty() => Ok(Selector::Group(lookup(&objects::GROUP, word)?)),
        ('%', _) => bail!("the rule cannot be for a cluster ({text}): who may do something is written {forms}"),
        _ => bail!("the rule begins with \"{text}\", which is nobody: who may do something is written {forms}"),
    }
}

fn resource(text: &str, lookup: Lookup<'_>) -> Result<(Vec<ObjectKind>, Selector)> {
    let forms =
        "#ID or #NAME for one, @ID or @NAME for those of a group, %ID or %NAME for those in a cluster, or * for all";
    let Some((kinds, which)) = text.split_once('/') else {
        bail!("the rule says what it is about with \"{text}\", but not which of them: add / and {forms}");
    };
    let kinds: Vec<_> = kinds.split('+').map(kind).collect::<Result<_>>()?;
    let which = match split(which) {
        ('*', "") => Selector::All,
        ('@', word) if !word.is_empty() => Selector::Group(lookup(&objects::GROUP, word)?),
        ('%', word) if !word.is_empty() => Selector::Cluster(lookup(&objects::CLUSTER, word)?),
        ('#', word) if !word.is_empty() => Selector::One(one(&kinds, word, lookup)?),
        _ => bail!("the rule says which objects with \"{which}\": it should be {forms}"),
    };
    Ok((kinds.into_iter().map(|(kind, _)| kind).collect(), which))
}

/// The kinds of objects in `VM+NET`.
///
/// # Errors
/// For a kind that rules do not know.
pub(crate) fn kinds_named(text: &str) -> Result<Vec<ObjectKind>> {
    text.split('+').map(|word| kind(word).map(|(kind, _)| kind)).collect()
}

/// The id of one object; a name is looked up when there is only one kind that it could be of.
fn one(kinds: &[(ObjectKind, Option<&Kind>)], word: &str, lookup: Lookup<'_>) -> Result<i64> {
    if let Ok(id) = word.parse::<u32>() {
        return Ok(id.into());
    }
    match kinds {
        [(_, Some(kind))] => lookup(kind, word),
        [_] => bail!("the rule names one object \"{word}\", and names of its kind cannot be looked up: write its id"),
        _ => bail!("the rule names one object \"{word}\" of several kinds: write an id, or a rule for each kind"),
    }
}

fn kind(word: &str) -> Result<(ObjectKind, Option<&'static Kind>)> {
    let known = KINDS.iter().find(|(kind, _)| kind.acl_name().eq_ignore_ascii_case(word));
    known.copied().ok_or_else(|| {
        let names: Vec<_> = KINDS.iter().map(|(kind, _)| kind.acl_name()).collect();
        if word.is_empty() {
            return anyhow!("the rule names no kind of object before / or beside +: there are {}", names.join(", "));
        }
        anyhow!("the rule names the kind of object \"{word}\", which does not exist{}", known_words(word, &names))
    })
}

fn rights(text: &str) -> Result<Vec<Right>> {
    text.split('+')
        .map(|word| {
            RIGHTS.iter().copied().find(|right| right.name().eq_ignore_ascii_case(word)).ok_or_else(|| {
                let names: Vec<_> = RIGHTS.iter().map(|right| right.name()).collect();
                anyhow!("the rule gives the right \"{word}\", which does not exist{}", known_words(word, &names))
            })
        })
        .collect()
}

fn zone(text: &str, lookup: Lookup<'_>) -> Result<Selector> {
    match split(text) {
        ('*', "") => Ok(Selector::All),
        ('#', word) if !word.is_empty() => Ok(Selector::One(lookup(&objects::ZONE, word)?)),
        _ => bail!("the rule ends with the zone \"{text}\": it should be #ID or #NAME, or * for all zones"),
    }
}

/// The sign that a part begins with, and what follows it.
fn split(text: &str) -> (char, &str) {
    let mut rest = text.chars();
    (rest.next().unwrap_or(' '), rest.as_str())
}

/// `: did you mean USE? There are …`
fn known_words(word: &str, known: &[&str]) -> String {
    let near = usage::nearest(&word.to_ascii_uppercase(), known.iter().copied());
    let all = known.join(", ");
    match near.first() {
        Some(near) => format!(": did you mean {near}? There are {all}"),
        None => format!("; there are {all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: &Kind, word: &str) -> Result<i64> {
        word.parse::<u32>().map(i64::from).or_else(|_| match word {
            "users" | "alice" | "web" | "default" => Ok(7),
            _ => Err(anyhow!("{} named {word} not found", kind.label)),
        })
    }

    fn hex(text: &str) -> Result<String> {
        to_hex(text, &named).map(|parts| parts.join(" "))
    }

    #[test]
    fn a_rule_becomes_the_numbers_of_the_wire() {
        for (text, expected) in [
            ("@1 DATASTORE/* USE", "200000001 100400000000 1 "),
            ("#5 VM/* ADMIN", "100000005 1400000000 4 "),
            ("* ZONE/* use *", "400000000 800400000000 1 400000000"),
        ] {
            assert_eq!(hex(text).unwrap(), expected, "{text}");
        }
        assert_eq!(hex(" @1   vm+net/@100 USE+manage  #0 ").unwrap(), "200000001 5200000064 3 100000000");
        assert_eq!(hex("* HOST+BACKUPJOB/%3 USE+MANAGE+ADMIN+CREATE").unwrap(), "400000000 100002800000003 f ");
    }

    #[test]
    fn what_is_read_is_what_the_daemon_prints() {
        for text in ["@1 VM+IMAGE+TEMPLATE+DOCUMENT+SECGROUP+VMGROUP+BACKUPJOB/* CREATE *", "#2 VM/#9 USE+MANAGE #0"] {
            let [user, resource, rights, zone] = to_hex(text, &named).unwrap();
            assert_eq!(Rule::from_hex(&user, &resource, &rights, &zone).unwrap().to_string(), text);
        }
        for (kind, _) in KINDS {
            let text = format!("* {}/* USE *", kind.acl_name());
            let [user, resource, rights, zone] = to_hex(&text, &named).unwrap();
            assert_eq!(Rule::from_hex(&user, &resource, &rights, &zone).unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_stand_for_ids() {
        assert_eq!(hex("#alice VM/#web USE #default").unwrap(), hex("#7 VM/#7 USE #7").unwrap());
        assert_eq!(hex("@users HOST/%default USE").unwrap(), hex("@7 HOST/%7 USE").unwrap());
        assert_eq!(hex("#nobody VM/* USE").unwrap_err().to_string(), "user named nobody not found");
    }

    #[test]
    fn a_mistake_is_named_with_the_form_that_is_right() {
        for (text, told) in [
            ("", "has 0 parts"),
            ("@1 VM/*", "has 2 parts"),
            ("@1 VM/* USE #0 more", "has 5 parts"),
            ("1 VM/* USE", "begins with \"1\""),
            ("@ VM/* USE", "begins with \"@\""),
            ("%0 VM/* USE", "cannot be for a cluster"),
            ("*1 VM/* USE", "begins with \"*1\""),
            ("@1 VM USE", "add /"),
            ("@1 VM/ USE", "which objects with \"\""),
            ("@1 VM/5 USE", "which objects with \"5\""),
            ("@1 /* USE", "names no kind"),
            ("@1 VM+/* USE", "names no kind"),
            ("@1 VMS/* USE", "did you mean VM?"),
            ("@1 IMAEG/* USE", "did you mean IMAGE?"),
            ("@1 BOOK/* USE", "did you mean HOOK?"),
            ("@1 NOTHING/* USE", "there are VM, HOST"),
            ("@1 VM+NET/#web USE", "several kinds"),
            ("@1 DOCUMENT/#web USE", "write its id"),
            ("@1 VM/* USES", "did you mean USE?"),
            ("@1 VM/* u", "right \"u\""),
            ("@1 VM/* USE 0", "zone \"0\""),
            ("@1 VM/* USE @1", "zone \"@1\""),
        ] {
            let error = format!("{:#}", hex(text).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
        }
        assert!(hex(&format!("@1 {}/* USE", "x".repeat(100_000))).is_err());
    }
}
