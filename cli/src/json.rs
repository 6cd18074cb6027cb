//! Documents as JSON: nested maps in document order. Leaves are strings, empty elements empty maps, repeated elements
//! arrays. Elements that may repeat are arrays also when there is one, so that a script needs one form only.

use serde_json::Value;

use crate::terminal::is_obeyed;
use crate::xml::Element;

/// Elements that may repeat, by what they stand in: those of OpenNebula's schemas, and ours.
const LISTS: [(&str, &[&str]); 47] = [
    ("ACL_POOL", &["ACL"]),
    ("AR_POOL", &["AR"]),
    ("BACKUPJOB_POOL", &["BACKUPJOB"]),
    ("BACKUP_INCREMENTS", &["INCREMENT"]),
    ("CLUSTERS", &["CLUSTER"]),
    ("CLUSTER_POOL", &["CLUSTER"]),
    ("DATASTORES", &["DATASTORE", "DS"]),
    ("DATASTORE_POOL", &["DATASTORE"]),
    ("DATASTORE_QUOTA", &["DATASTORE"]),
    ("DATASTORE_USAGE", &["DATASTORE", "PERIOD", "VM"]),
    ("DOCUMENT_POOL", &["DOCUMENT"]),
    ("EVENTS", &["EVENT"]),
    ("EXAMINATION", &["CHECK"]),
    ("GROUP_POOL", &["GROUP", "QUOTAS", "VLAN_RULES"]),
    ("HISTORY_RECORDS", &["HISTORY"]),
    ("HOSTS", &["HOST"]),
    ("HOST_POOL", &["HOST"]),
    ("IMAGE_POOL", &["IMAGE"]),
    ("IMAGE_QUOTA", &["IMAGE"]),
    ("LEASES", &["LEASE"]),
    ("MONITORING", &["DISK_SIZE", "NUMA_NODE"]),
    ("MONITORING_DATA", &["MONITORING"]),
    ("NETWORK_QUOTA", &["NETWORK"]),
    ("NODE", &["CORE", "HUGEPAGE"]),
    ("NUMA_NODE", &["HUGEPAGE"]),
    ("NUMA_NODES", &["NODE"]),
    ("PCI_DEVICES", &["PCI"]),
    ("RESTORE_POINTS", &["RESTORE_POINT"]),
    ("SECURITY_GROUP_POOL", &["SECURITY_GROUP"]),
    ("SERVER_POOL", &["SERVER"]),
    ("SHOWBACK_RECORDS", &["SHOWBACK"]),
    ("SNAPSHOTS", &["SNAPSHOT"]),
    (
        "TEMPLATE",
        &["DISK", "INPUT", "NIC", "NIC_ALIAS", "PCI", "RULE", "SCHED_ACTION", "SECURITY_GROUP_RULE", "SNAPSHOT"],
    ),
    // Images, jobs and datastores keep theirs in TEMPLATE, VMs in USER_TEMPLATE.
    ("TEMPLATE", &OURS),
    ("USER", &["LOGIN_TOKEN"]),
    ("USER_POOL", &["USER", "QUOTAS"]),
    ("USER_TEMPLATE", &OURS),
    ("VDC_POOL", &["VDC"]),
    ("VLAN_RULES", &["RULE"]),
    ("VM", &["SNAPSHOTS"]),
    ("VMS", &["VM"]),
    ("VMTEMPLATE_POOL", &["VMTEMPLATE"]),
    ("VM_POOL", &["VM"]),
    ("VM_QUOTA", &["VM"]),
    ("VNETS", &["VNET"]),
    ("VNET_POOL", &["VNET"]),
    ("ZONE_POOL", &["ZONE"]),
];

/// Vectors of ours that may repeat.
const OURS: [&str; 6] =
    ["BACKUP_EVENT", "DISK_PROGRESS", "INCREMENT_DAMAGE", "INCREMENT_INFO", "RESTORE_DAMAGE", "SCHED_INFO"];

/// The document as indented JSON text with the root's name as the only key.
#[must_use]
pub fn pretty(root: &Element) -> String {
    let mut out = String::from("{\n  ");
    push_string(&mut out, &root.name);
    out.push_str(": ");
    push_element(&mut out, root, 1);
    out.push_str("\n}\n");
    out
}

fn push_element(out: &mut String, element: &Element, depth: usize) {
    if element.children.is_empty() {
        if element.text.trim().is_empty() {
            out.push_str("{}");
        } else {
            push_string(out, &element.text);
        }
        return;
    }
    let indent = "  ".repeat(depth + 1);
    out.push('{');
    let mut done: Vec<&str> = Vec::new();
    for child in &element.children {
        if done.contains(&child.name.as_str()) {
            continue;
        }
        out.push_str(if done.is_empty() { "\n" } else { ",\n" });
        out.push_str(&indent);
        push_string(out, &child.name);
        out.push_str(": ");
        push_member(out, element, child, depth);
        done.push(&child.name);
    }
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
    out.push('}');
}

/// One key of `element`: an array of all children named like `first`, or the child itself.
fn push_member(out: &mut String, element: &Element, first: &Element, depth: usize) {
    let mut same = element.all(&first.name).peekable();
    if !is_list(element, first) {
        push_element(out, first, depth + 1);
        return;
    }
    let indent = "  ".repeat(depth + 2);
    out.push_str("[\n");
    while let Some(child) = same.next() {
        out.push_str(&indent);
        push_element(out, child, depth + 2);
        out.push_str(if same.peek().is_some() { ",\n" } else { "\n" });
    }
    out.push_str(&"  ".repeat(depth + 1));
    out.push(']');
}

/// Is this child of `element` an item of an array?
pub(crate) fn is_list(element: &Element, first: &Element) -> bool {
    if element.all(&first.name).nth(1).is_some() {
        return true;
    }
    // An id list holds nothing but ids; the ID of an object has siblings.
    let id_list = first.name == "ID" && element.children.iter().all(|child| child.name == "ID");
    id_list || may_repeat(&element.name, &first.name)
}

fn may_repeat(parent: &str, child: &str) -> bool {
    LISTS.iter().any(|(name, children)| *name == parent && children.contains(&child))
}

fn push_string(out: &mut String, text: &str) {
    out.push_str(&quoted(text));
}

/// The text in quotes. What a terminal would obey is escaped, also where JSON does not ask for it.
pub(crate) fn quoted(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    if !quoted.chars().any(is_obeyed) {
        return quoted;
    }
    let escaped = |c: char| if is_obeyed(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    quoted.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_comes_back() {
        let hostile = "a\u{9b}2J\u{7f}\u{202e}b\u{1b}\n日";
        let text = quoted(hostile);
        assert_eq!(text, r#""a\u009b2J\u007f\u202eb\u001b\n日""#);
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile);
    }

    #[test]
    fn lists_are_arrays_and_empty_elements_are_maps() {
        let document = "<VM_POOL><VM><ID>0</ID><NAME>a\"b</NAME><DATASTORE>x</DATASTORE><M/><TEMPLATE><DISK><A>1</A></DISK></TEMPLATE><B><ID>4</ID></B></VM></VM_POOL>";
        let text = pretty(&Element::parse(document).unwrap());
        let value: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({"VM_POOL": {"VM": [{"ID": "0", "NAME": "a\"b", "DATASTORE": "x", "M": {},
            "TEMPLATE": {"DISK": [{"A": "1"}]}, "B": {"ID": ["4"]}}]}});
        assert_eq!(value, expected);
        assert_eq!(pretty(&Element::parse("<VM_POOL></VM_POOL>").unwrap()), "{\n  \"VM_POOL\": {}\n}\n");
    }

    #[test]
    fn control_characters_are_written_out_and_read_back() {
        let element = Element { name: "A".into(), text: "a\u{1b}[2J\u{9b}2J\u{7f}\n".into(), children: Vec::new() };
        let (json, yaml) = (pretty(&element), crate::yaml::pretty(&element));
        assert!(
            !(json.clone() + &yaml).chars().any(|letter| letter.is_control() && letter != '\n'),
            "{json:?} {yaml:?}"
        );
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value, serde_json::json!({"A": "a\u{1b}[2J\u{9b}2J\u{7f}\n"}));
    }

    #[test]
    fn whatever_the_schemas_let_repeat_is_an_array_also_when_there_is_one() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/xsd");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            // No command prints oned.conf.
            if !name.ends_with(".xsd") || name == "opennebula_configuration.xsd" {
                continue;
            }
            for (parent, child) in repeating(&std::fs::read_to_string(&file).unwrap()) {
                seen += 1;
                let id_list = child == "ID";
                assert!(id_list || may_repeat(&parent, &child), "{name}: {parent} may have several {child}");
            }
        }
        assert!(seen > 60, "only {seen} elements were found");
    }

    /// The elements of a schema with a maxOccurs above one, their own or that of the choice they stand in, each with the
    /// element or type around it.
    fn repeating(schema: &str) -> Vec<(String, String)> {
        use quick_xml::events::Event;
        let mut reader = quick_xml::Reader::from_str(schema);
        reader.config_mut().expand_empty_elements = true;
        // What is open: the name of an element or type, and whether its content may repeat.
        let mut open: Vec<(Option<String>, bool)> = Vec::new();
        let mut found = Vec::new();
        loop {
            match reader.read_event().unwrap() {
                Event::Start(tag) => {
                    let value = |key: &str| {
                        let attribute = tag.try_get_attribute(key).unwrap()?;
                        Some(attribute.value.to_string())
                    };
                    let element = tag.local_name().as_ref() == "element";
                    let repeats = value("maxOccurs").is_some_and(|most| !matches!(most.as_str(), "0" | "1"));
                    let name = value("name").or_else(|| value("ref"));
                    let parent = open.iter().rev().find_map(|(name, _)| name.clone());
                    if let (true, Some(name), Some(parent)) = (element, &name, parent)
                        && (repeats || open.last().is_some_and(|(_, repeats)| *repeats))
                    {
                        found.push((parent, name.clone()));
                    }
                    open.push((name, repeats && !element));
                }
                Event::End(_) => drop(open.pop()),
                Event::Eof => return found,
                _ => {}
            }
        }
    }
}
