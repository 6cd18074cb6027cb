//! The names in use among objects of a kind: which id a name means, and which name somebody may have meant.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};

use crate::objects::Kind;
use crate::show::join;
use crate::tools;
use crate::xml::Element;

/// Most names that an error proposes.
const PROPOSED_MAX: usize = 3;

/// Longer names are not compared: the work grows with the square of the length.
const COMPARED_CHARS_MAX: usize = 64;

/// The names, each with the ids that bear it.
pub struct Names<'a> {
    kind: &'a Kind,
    ids: BTreeMap<String, Vec<i64>>,
}

impl<'a> Names<'a> {
    /// The names in a pool document.
    #[must_use]
    pub fn of(kind: &'a Kind, pool: &Element) -> Self {
        let mut ids: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for object in pool.all(kind.member) {
            if let Some(id) = object.int_at("ID") {
                ids.entry(object.text_at("NAME").to_owned()).or_default().push(id);
            }
        }
        Self { kind, ids }
    }

    /// The id of a name.
    ///
    /// # Errors
    /// When no object has the name, with those that look like it; when several have it.
    pub fn id(&self, name: &str) -> Result<i64> {
        match self.ids.get(name).map(Vec::as_slice) {
            Some([id]) => Ok(*id),
            Some(ids) => bail!("there are several {}s named {name}: {}; use the id", self.kind.label, join(ids)),
            None => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> anyhow::Error {
        let mut text = format!("{} named {name} not found", self.kind.label);
        let proposed: Vec<String> = self
            .like(name)
            .into_iter()
            .map(|name| match self.ids.get(name).map(Vec::as_slice) {
                Some([id]) => format!("{name} ({id})"),
                _ => name.to_owned(),
            })
            .collect();
        if !proposed.is_empty() {
            text.push_str(&format!("; did you mean {}?", proposed.join(" or ")));
        }
        if let Some(tool) = tools::TOOLS.iter().find(|tool| tool.kind == self.kind) {
            let separator = if proposed.is_empty() { ";" } else { "" };
            text.push_str(&format!("{separator} {} list shows all", tool.name));
        }
        anyhow!(text)
    }

    /// The names that look like a word, best first: a third of its letters may differ, capitals do not count, and the
    /// beginning of a name is like it.
    fn like(&self, word: &str) -> Vec<&str> {
        let word: Vec<char> = word.to_lowercase().chars().collect();
        if word.is_empty() || word.len() > COMPARED_CHARS_MAX {
            return Vec::new();
        }
        let most = (word.len() / 3).max(1);
        let mut found: Vec<(usize, &str)> = Vec::new();
        for name in self.ids.keys() {
            let letters: Vec<char> = name.to_lowercase().chars().take(COMPARED_CHARS_MAX + 1).collect();
            let begins = word.len() > 2 && letters.starts_with(&word);
            if letters.len() > COMPARED_CHARS_MAX || (!begins && letters.len().abs_diff(word.len()) > most) {
                continue;
            }
            let apart = if begins { 1 } else { distance(&word, &letters) };
            if apart <= most {
                found.push((apart, name));
            }
        }
        found.sort();
        found.into_iter().take(PROPOSED_MAX).map(|(_, name)| name).collect()
    }
}

/// How many letters have to be changed, added, left out, or swapped with their neighbour.
pub(crate) fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in b.iter().enumerate() {
            let changed = last[j] + usize::from(letter != other);
            let mut least = changed.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *letter == b[j - 1] && a[i - 1] == *other {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{GROUP, VM};

    #[test]
    fn an_unknown_name_is_answered_with_those_that_look_like_it() {
        let pool = "<VM_POOL><VM><ID>3</ID><NAME>web</NAME></VM><VM><ID>4</ID><NAME>web-store</NAME></VM><VM><ID>5</ID><NAME>Mail</NAME></VM><VM><ID>6</ID><NAME>Mail</NAME></VM></VM_POOL>";
        let pool = Element::parse(pool).unwrap();
        let names = Names::of(&VM, &pool);
        let said = |name| names.id(name).unwrap_err().to_string();
        assert_eq!(names.id("web").unwrap(), 3);
        assert_eq!(said("wbe"), "VM named wbe not found; did you mean web (3)? onevm list shows all");
        assert_eq!(said("web-stroe"), "VM named web-stroe not found; did you mean web-store (4)? onevm list shows all");
        assert_eq!(said("mail"), "VM named mail not found; did you mean Mail? onevm list shows all");
        assert_eq!(said("database"), "VM named database not found; onevm list shows all");
        assert_eq!(said("Mail"), "there are several VMs named Mail: 5,6; use the id");
        assert!(said(&"x".repeat(10_000)).ends_with("not found; onevm list shows all"));
        assert!(Names::of(&GROUP, &pool).id("web").unwrap_err().to_string().starts_with("group named web not found"));
    }

    #[test]
    fn letters_that_are_swapped_are_one_mistake() {
        let apart = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        let cases = [("", "", 0), ("", "ab", 2), ("abc", "acb", 1), ("kitten", "sitting", 3), ("ab", "", 2)];
        for (a, b, expected) in cases {
            assert_eq!(apart(a, b), expected, "{a} {b}");
        }
    }
}
