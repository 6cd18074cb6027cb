//! A small XML writer that cannot produce a broken document.
//!
//! What it is: a string that grows, with one method per kind of content. What it is not: a general XML library; it
//! knows no attributes and no namespaces because OpenNebula's documents have none.
//!
//! Invariants: text goes into CDATA sections only; element names given by users go through [`element_name`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use super::{Lock, Owner, SnapshotView};
use crate::access::{Bits, Permissions};
use crate::schedule::ScheduledAction;
use crate::template::{Template, Value, Vector};

/// Longest element name made from a user's attribute name; longer ones are cut.
const NAME_MAX: usize = 1024;

/// A buffer above this is large: see [`Writer::keep_apart`].
const LARGE_BYTES: usize = 1 << 20;
/// What a large one gets at least.
const APART_BYTES: usize = 33 << 20;

/// The element name for a template attribute or vector key, or `None` when nothing can be made of it.
///
/// A name of ASCII letters, digits, `_`, `-`, `.` that starts with a letter or `_` is kept. Otherwise every other
/// character becomes `_`, and a name that starts with a digit, `-` or `.` gets a `_` in front: `9P` is shown as
/// `_9P`. A colon is replaced too, because readers that know namespaces would refuse an undeclared prefix. An empty
/// name gives `None`: the attribute is not shown. The stored template is untouched, so text forms still show the name
/// as given.
pub fn element_name(name: &str) -> Option<Cow<'_, str>> {
    let first = *name.as_bytes().first()?;
    let legal_first = first.is_ascii_alphabetic() || first == b'_';
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if legal_first && name.len() <= NAME_MAX && name.bytes().all(|byte| legal(char::from(byte))) {
        return Some(Cow::Borrowed(name));
    }
    let mut out = String::with_capacity(name.len().min(NAME_MAX) + 1);
    if first.is_ascii_digit() || first == b'-' || first == b'.' {
        out.push('_');
    }
    out.extend(name.chars().take(NAME_MAX).map(|c| if legal(c) { c } else { '_' }));
    Some(Cow::Owned(out))
}

/// Does a byte of a text need a look before it goes into a CDATA section? Control characters but tab and newline, the
/// end of `]]>`, and the first byte of U+FFFE and U+FFFF: what XML 1.0 forbids (production 2), and what ends a section.
fn is_special(byte: u8) -> bool {
    matches!(byte, 0..=8 | 0x0b..=0x1f | b'>' | 0xef)
}

/// A growing document.
#[derive(Debug, Default)]
pub struct Writer {
    out: String,
}

impl Writer {
    /// An empty document.
    pub fn new() -> Self {
        Self::default()
    }

    /// The finished document.
    pub fn finish(self) -> String {
        self.out
    }

    /// Has a buffer that grew large lie in memory of its own, so that all of it goes back to the system with the document.
    ///
    /// The system's allocator keeps what is freed of sizes that it has seen before, up to 32 MiB, for each of its arenas;
    /// above that it asks the system for each buffer. Room that is not used costs nothing there.
    pub fn keep_apart(&mut self) {
        if self.out.len() > LARGE_BYTES && self.out.capacity() < APART_BYTES {
            self.out.reserve_exact(APART_BYTES - self.out.len());
        }
    }

    /// Opens an element. `name` must be one of ours or come from [`element_name`].
    pub fn open(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
    }

    /// Closes the element opened last under this name; one without content becomes `<NAME/>`.
    pub fn close(&mut self, name: &str) {
        let empty =
            self.out.strip_suffix('>').and_then(|rest| rest.strip_suffix(name)).is_some_and(|rest| rest.ends_with('<'));
        if empty {
            self.out.pop();
            self.out.push_str("/>");
        } else {
            self.close_long(name);
        }
    }

    /// Closes an element with a closing tag even when it is empty.
    pub fn close_long(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// Appends a finished piece of document.
    pub fn raw(&mut self, document: &str) {
        self.out.push_str(document);
    }

    /// An element with nothing inside.
    pub fn empty(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push_str("/>");
    }

    /// `<NAME>number</NAME>`.
    pub fn number(&mut self, name: &str, value: impl Display) {
        self.open(name);
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
        self.close_long(name);
    }

    /// `<NAME>1</NAME>` or `<NAME>0</NAME>`.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.number(name, i32::from(value));
    }

    /// `<NAME>number</NAME>` for a fraction. What is no number (or infinite) is shown as 0, because readers and schemas
    /// know other words for it than Rust.
    pub fn decimal(&mut self, name: &str, value: f64) {
        self.number(name, if value.is_finite() { value } else { 0.0 });
    }

    /// `<NAME><![CDATA[text]]></NAME>`.
    ///
    /// `]]>` is split over two sections, forbidden characters are dropped, and a carriage return is written as a
    /// character reference outside the section, because a reader would turn a bare one into a newline.
    pub fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        self.out.push_str("<![CDATA[");
        self.section(value);
        self.out.push_str("]]>");
        self.close_long(name);
    }

    /// The inside of a CDATA section: the stretches between special bytes are copied whole.
    fn section(&mut self, value: &str) {
        let bytes = value.as_bytes();
        // Everything before this byte is written or dropped. Special bytes begin a character, so it is a boundary.
        let mut done = 0;
        for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| is_special(**byte)) {
            self.out.push_str(value.get(done..at).unwrap_or_default());
            done = match byte {
                b'>' => {
                    // Forbidden characters are dropped before the split is decided: dropping one may bring `]]` and
                    // `>` together.
                    if self.out.ends_with("]]") {
                        self.out.push_str("]]><![CDATA[");
                    }
                    at
                }
                b'\r' => {
                    self.out.push_str("]]>&#13;<![CDATA[");
                    at + 1
                }
                0xef if !matches!(bytes.get(at + 1..at + 3), Some([0xbf, 0xbe | 0xbf])) => at,
                0xef => at + 3,
                _ => at + 1,
            };
        }
        self.out.push_str(value.get(done..).unwrap_or_default());
    }

    /// A list of ids: `<NAME><ID>1</ID><ID>2</ID></NAME>`, ascending, each once.
    pub fn ids(&mut self, name: &str, ids: &[i64]) {
        let ascending = ids.is_sorted_by(|a, b| a < b);
        let ids = if ascending {
            Cow::Borrowed(ids)
        } else {
            Cow::Owned(BTreeSet::from_iter(ids.iter().copied()).into_iter().collect())
        };
        self.open(name);
        for id in ids.iter() {
            self.number("ID", id);
        }
        self.close(name);
    }

    /// `UID GID UNAME GNAME`.
    pub fn owner(&mut self, owner: &Owner) {
        self.number("UID", owner.uid);
        self.number("GID", owner.gid);
        self.text("UNAME", &owner.uname);
        self.text("GNAME", &owner.gname);
    }

    /// `PERMISSIONS` with its nine flags.
    pub fn permissions(&mut self, permissions: &Permissions) {
        self.open("PERMISSIONS");
        self.bits(["OWNER_U", "OWNER_M", "OWNER_A"], permissions.owner);
        self.bits(["GROUP_U", "GROUP_M", "GROUP_A"], permissions.group);
        self.bits(["OTHER_U", "OTHER_M", "OTHER_A"], permissions.other);
        self.close("PERMISSIONS");
    }

    fn bits(&mut self, names: [&str; 3], bits: Bits) {
        for (name, bit) in names.into_iter().zip([bits.use_, bits.manage, bits.admin]) {
            self.flag(name, bit);
        }
    }

    /// `LOCK`, or nothing.
    pub fn lock(&mut self, lock: Option<&Lock>) {
        let Some(lock) = lock else { return };
        self.open("LOCK");
        self.number("LOCKED", lock.level);
        self.number("OWNER", lock.owner);
        self.number("TIME", lock.time);
        self.number("REQ_ID", lock.request_id);
        self.close("LOCK");
    }

    /// A whole template as one element, sorted by attribute name.
    pub fn template(&mut self, name: &str, template: &Template) {
        self.open(name);
        self.attributes(template, |_| true);
        self.close(name);
    }

    /// The attributes of a template whose name `keep` takes, without an element around them, sorted by name.
    pub fn attributes(&mut self, template: &Template, keep: impl Fn(&str) -> bool) {
        let kept = template.attributes().iter().filter(|attribute| keep(&attribute.name));
        let entries = kept.map(|attribute| (attribute.name.as_str(), attribute.name.as_str(), &attribute.value));
        self.ranked(entries, |_, _, _| false);
    }

    /// Attributes given as (rank, name, value), sorted by rank; equal ranks keep their order. `special` may write a
    /// vector itself and then answers true.
    pub fn ranked<'a>(
        &mut self,
        entries: impl Iterator<Item = (&'a str, &'a str, &'a Value)>,
        special: impl Fn(&mut Self, &str, &Vector) -> bool,
    ) {
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|entry| entry.0);
        for (_, name, value) in entries {
            match value {
                Value::Scalar(text) => self.scalar(name, text),
                Value::Vector(vector) if special(self, name, vector) => {}
                Value::Vector(vector) => self.vector(name, vector),
            }
        }
    }

    /// A user's scalar attribute.
    pub fn scalar(&mut self, name: &str, text: &str) {
        if let Some(name) = element_name(name) {
            self.text(&name, text);
        }
    }

    /// A vector attribute: one element with an element per key, sorted by key.
    pub fn vector(&mut self, name: &str, vector: &Vector) {
        if vector.iter().is_sorted_by_key(|pair| pair.0) {
            // As all vectors are that were stored; nothing is copied for them.
            return self.pairs(name, vector.iter());
        }
        let mut pairs: Vec<(&str, &str)> = vector.iter().collect();
        pairs.sort_by_key(|pair| pair.0);
        self.pairs(name, pairs);
    }

    /// One element holding the given pairs in the given order.
    pub fn pairs<'a>(&mut self, name: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let Some(name) = element_name(name) else { return };
        self.open(&name);
        for (key, text) in pairs {
            self.scalar(key, text);
        }
        self.close(&name);
    }

    /// The full `SCHED_ACTION` elements that end the TEMPLATE of a VM or a backup job.
    pub fn sched_actions(&mut self, actions: &[ScheduledAction]) {
        /// Keys in the order of the schema, with what is shown for an unset one.
        const KEYS: [(&str, &str); 13] = [
            ("ID", "-1"),
            ("PARENT_ID", "-1"),
            ("TYPE", "VM"),
            ("ACTION", ""),
            ("ARGS", ""),
            ("TIME", "0"),
            ("REPEAT", "-1"),
            ("DAYS", ""),
            ("END_TYPE", "-1"),
            ("END_VALUE", "-1"),
            ("DONE", "-1"),
            ("MESSAGE", ""),
            ("WARNING", "0"),
        ];
        for action in actions {
            let vector = action.to_vector();
            self.open("SCHED_ACTION");
            for (key, unset) in KEYS {
                self.text(key, vector.get(key).unwrap_or(unset));
            }
            self.close("SCHED_ACTION");
        }
    }

    /// `SNAPSHOT` elements; `active_first` chooses between the order of a VM (ACTIVE CHILDREN) and of an image.
    pub fn snapshots(&mut self, snapshots: &[SnapshotView], active_first: bool) {
        for snapshot in snapshots {
            let children: Vec<String> = snapshot.children.iter().map(i64::to_string).collect();
            self.open("SNAPSHOT");
            if active_first && snapshot.active {
                self.text("ACTIVE", "YES");
            }
            if !children.is_empty() {
                self.text("CHILDREN", &children.join(","));
            }
            if !active_first && snapshot.active {
                self.text("ACTIVE", "YES");
            }
            self.number("DATE", snapshot.date);
            self.number("ID", snapshot.id);
            if !snapshot.name.is_empty() {
                self.text("NAME", &snapshot.name);
            }
            self.number("PARENT", snapshot.parent);
            self.number("SIZE", snapshot.size_mb);
            self.close("SNAPSHOT");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule of [`Writer::text`], character by character.
    fn slowly(value: &str) -> String {
        let mut out = String::from("<A><![CDATA[");
        for c in value.chars() {
            match c {
                '\r' => out.push_str("]]>&#13;<![CDATA["),
                '\t' | '\n' => out.push(c),
                '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {}
                '>' if out.ends_with("]]") => out.push_str("]]><![CDATA[>"),
                c => out.push(c),
            }
        }
        out + "]]></A>"
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn text_copied_in_stretches_is_text_copied_by_character(
            value in prop_oneof![any::<String>(), "[\\]>\\r\\n\\x00a\u{fffe}\u{ffff}\u{fffd}\u{f000}é🜁]{0,24}"],
        ) {
            let mut w = Writer::new();
            w.text("A", &value);
            prop_assert_eq!(w.finish(), slowly(&value));
        }

        #[test]
        fn ids_are_shown_ascending_and_once(ids in proptest::collection::vec(-3i64..9, 0..8)) {
            let mut w = Writer::new();
            w.ids("A", &ids);
            let once = BTreeSet::from_iter(ids);
            let inside: String = once.iter().map(|id| format!("<ID>{id}</ID>")).collect();
            prop_assert_eq!(w.finish(), if inside.is_empty() { "<A/>".into() } else { format!("<A>{inside}</A>") });
        }
    }
}
