//! Documents as JSON: nested maps in document order. Leaves are strings, empty elements empty maps, repeated elements
//! arrays. Elements that may repeat are arrays also when there is one, so that a script needs one form only.

use serde_json::Value;

use crate::xml::Element;

/// Elements that are lists in OpenNebula's schemas, and those of ours.
const LISTS: [&str; 30] = [
    "VM",
    "IMAGE",
    "DATASTORE",
    "HOST",
    "USER",
    "GROUP",
    "CLUSTER",
    "VMTEMPLATE",
    "ZONE",
    "BACKUPJOB",
    "ACL",
    "VNET",
    "DISK",
    "NIC",
    "NIC_ALIAS",
    "HISTORY",
    "SNAPSHOT",
    "INCREMENT",
    "SCHED_ACTION",
    "SCHED_INFO",
    "BACKUP_EVENT",
    "EVENT",
    "LOGIN_TOKEN",
    "INCREMENT_INFO",
    "INCREMENT_DAMAGE",
    "RESTORE_DAMAGE",
    "SECURITY_GROUP_RULE",
    "PCI",
    "QUOTAS",
    "INPUT",
];

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
    // An id list holds nothing but ids; the ID of an object has siblings. INCREMENT of a plain VM or DATASTORE as the
    // name of an image's store are leaves and stay so.
    let id_list = first.name == "ID" && element.children.iter().all(|child| child.name == "ID");
    id_list || (LISTS.contains(&first.name.as_str()) && !first.children.is_empty())
}

fn push_string(out: &mut String, text: &str) {
    out.push_str(&Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_arrays_and_empty_elements_are_maps() {
        let document = "<VM_POOL><VM><ID>0</ID><NAME>a\"b</NAME><DATASTORE>x</DATASTORE><M/><DISK><A>1</A></DISK><B><ID>4</ID></B></VM></VM_POOL>";
        let text = pretty(&Element::parse(document).unwrap());
        let value: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({"VM_POOL": {"VM": [{"ID": "0", "NAME": "a\"b", "DATASTORE": "x", "M": {},
            "DISK": [{"A": "1"}], "B": {"ID": ["4"]}}]}});
        assert_eq!(value, expected);
        assert_eq!(pretty(&Element::parse("<VM_POOL></VM_POOL>").unwrap()), "{\n  \"VM_POOL\": {}\n}\n");
    }
}
