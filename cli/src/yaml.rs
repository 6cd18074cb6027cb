//! Documents as YAML: the same maps and arrays as in [`crate::json`].
//!
//! Every text is quoted as JSON quotes it, so that no reader takes `NO` for a truth value or `0x1` for a number.

use crate::json::{is_list, quoted};
use crate::xml::Element;

/// The document as YAML text with the root's name as the only key.
#[must_use]
pub fn pretty(root: &Element) -> String {
    let mut out = String::from("---\n");
    push_member(&mut out, "", root);
    out
}

/// The members of a map, each on lines of its own that begin with `indent`.
fn push_map(out: &mut String, element: &Element, indent: &str) {
    let mut done: Vec<&str> = Vec::new();
    for child in &element.children {
        if done.contains(&child.name.as_str()) {
            continue;
        }
        done.push(&child.name);
        if is_list(element, child) {
            out.push_str(&format!("{indent}{}:\n", key(&child.name)));
            element.all(&child.name).for_each(|item| push_item(out, item, indent));
        } else {
            push_member(out, indent, child);
        }
    }
}

fn push_member(out: &mut String, indent: &str, element: &Element) {
    out.push_str(&format!("{indent}{}:", key(&element.name)));
    match scalar(element) {
        Some(text) => out.push_str(&format!(" {text}\n")),
        None => {
            out.push('\n');
            push_map(out, element, &format!("{indent}  "));
        }
    }
}

/// One item of an array; the first key of a map stands beside the dash.
fn push_item(out: &mut String, item: &Element, indent: &str) {
    match scalar(item) {
        Some(text) => out.push_str(&format!("{indent}- {text}\n")),
        None => {
            let begin = out.len();
            push_map(out, item, &format!("{indent}  "));
            out.replace_range(begin + indent.len()..begin + indent.len() + 1, "-");
        }
    }
}

/// What stands behind a key on the same line; None for a map.
fn scalar(element: &Element) -> Option<String> {
    match (element.children.is_empty(), element.text.trim().is_empty()) {
        (false, _) => None,
        (true, true) => Some("{}".to_owned()),
        (true, false) => Some(quoted(&element.text)),
    }
}

fn key(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    // A key of one letter may be a truth value (Y, N), one of digits a number.
    if plain && name.chars().nth(1).is_some() && name.starts_with(|c: char| c.is_ascii_uppercase()) && !is_word(name) {
        return name.to_owned();
    }
    quoted(name)
}

fn is_word(name: &str) -> bool {
    matches!(name, "NO" | "YES" | "ON" | "OFF" | "TRUE" | "FALSE" | "NULL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_arrays_and_texts_have_the_form_of_yaml() {
        let document = "<VM_POOL><VM><ID>0</ID><NAME>a\"b</NAME><MM/><DISK><A>1</A><BB><CC>NO</CC></BB></DISK><DISK><A>2</A></DISK><IDS><ID>4</ID></IDS></VM></VM_POOL>";
        let expected = "---\nVM_POOL:\n  VM:\n  - ID: \"0\"\n    NAME: \"a\\\"b\"\n    MM: {}\n    DISK:\n    - \"A\": \"1\"\n      BB:\n        CC: \"NO\"\n    - \"A\": \"2\"\n    IDS:\n      ID:\n      - \"4\"\n";
        assert_eq!(pretty(&Element::parse(document).unwrap()), expected);
        assert_eq!(pretty(&Element::parse("<VM_POOL></VM_POOL>").unwrap()), "---\nVM_POOL: {}\n");
    }
}
