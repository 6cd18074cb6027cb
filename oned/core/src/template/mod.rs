//! The attribute grammar: VM templates, daemon configuration, `BACKUP_CONFIG` and `SCHED_ACTION` are all written in it.
//!
//! A [`Template`] is an ordered list of named values; a value is one string (*scalar*) or a flat list of `KEY = value`
//! pairs (*vector*). Names may repeat at the top (several `DISK`), never inside a vector. What it is not: it gives no
//! name a meaning, and knows nothing of rights.
//!
//! Invariants, whichever way a template came to be:
//! - names and keys are upper case;
//! - values carry no blanks at either end and never hold `]]>` (the parser refuses it, setters break it apart with a
//!   blank), so that every template can be shown inside CDATA and read back;
//! - `Template::parse(&t.to_text())` is `t.sorted()`, provided that names consist of letters, digits and underscores, as
//!   all names do that the parser read.
//!
//! The XML form that [`crate::doc::writer::Writer::template`] writes is read back the same way when all names are safe
//! ([`is_safe_attribute_name`]) and all characters are XML's, with one loss: an empty vector has no form of its own and
//! comes back as an empty scalar. Both only remove in [`Template::append`].
//!
//! The grammar has one escape, `\"`. Hence a quoted value cannot end in a backslash; [`Template::to_text`] then writes a
//! blank before the closing quote, which reading trims off again, and no value is lost.

mod text;
mod xml;

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

/// Longest text that is parsed, in bytes. Templates with start scripts reach hundreds of kB.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
/// Most attributes in one template; the pairs inside vectors count too.
pub const MAX_ATTRIBUTES: usize = 100_000;
/// Longest name that [`is_safe_attribute_name`] accepts, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// An ordered list of named values.
///
/// Serialised as its canonical text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Template {
    attributes: Vec<Attribute>,
}

/// One named value of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// The name, upper case.
    pub name: String,
    /// What it holds.
    pub value: Value,
}

/// What an attribute holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// One string; may be empty and may span lines.
    Scalar(String),
    /// `KEY = value` pairs.
    Vector(Vector),
}

/// The pairs of a vector attribute, in order; a key occurs once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vector {
    pairs: Vec<(String, String)>,
}

/// A text that is no template, and where. Never quotes the text, which may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Parse error: {message}, at line {line}, columns {column}:{end_column}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// First character of what was not understood, from 1.
    pub column: usize,
    /// Last character of it (may lie on a later line).
    pub end_column: usize,
    /// What was found and what was expected instead.
    pub message: String,
}

impl ParseError {
    /// An error over the bytes `from..to` of `text`.
    fn over(text: &str, from: usize, to: usize, message: impl Into<String>) -> Self {
        let (line, column) = line_and_column(text, from);
        let end_column = line_and_column(text, to.saturating_sub(1).max(from)).1;
        Self { line, column, end_column, message: message.into() }
    }
}

/// Line and column, from 1 and in characters, of the byte `at`.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before.get(line_start..).unwrap_or_default().chars().count() + 1)
}

/// Whether a name can be an attribute name everywhere: letters, digits and underscores (the text grammar), not beginning
/// with a digit (the text grammar takes that, but it is no name of an XML element) and at most [`MAX_NAME_BYTES`] long.
pub fn is_safe_attribute_name(name: &str) -> bool {
    let starts_well = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    starts_well && name.len() <= MAX_NAME_BYTES && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Without the blanks at both ends. Only ASCII ones, so that what other programs write stays as it is.
fn trimmed(value: &str) -> &str {
    value.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

/// Whether the value holds what ends a CDATA section.
fn ends_section(value: &str) -> bool {
    // Most values hold no `>`, and one character is found faster than three.
    value.contains('>') && value.contains("]]>")
}

/// The form in which a value given by code is stored: trimmed, `]]>` broken apart.
fn stored(value: String) -> String {
    if ends_section(&value) {
        let broken = value.replace("]]>", "]] >");
        return trimmed(&broken).to_owned();
    }
    let short = trimmed(&value);
    if short.len() == value.len() { value } else { short.to_owned() }
}

fn yes_or_no(value: &str) -> Option<bool> {
    if value.eq_ignore_ascii_case("YES") {
        Some(true)
    } else if value.eq_ignore_ascii_case("NO") {
        Some(false)
    } else {
        None
    }
}

impl Template {
    /// Reads a template: XML when the first character that is no blank is `<`, else the text form.
    ///
    /// # Errors
    /// [`ParseError`] with the position of the first thing that was not understood, or when the text is longer than
    /// [`MAX_TEXT_BYTES`] or holds more than [`MAX_ATTRIBUTES`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT_BYTES {
            let message = format!("the template is {} bytes long, at most {MAX_TEXT_BYTES} are accepted", text.len());
            return Err(ParseError { line: 1, column: 1, end_column: 1, message });
        }
        // Some editors put a byte order mark in front.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let attributes = if trimmed(text).starts_with('<') { xml::attributes(text)? } else { text::attributes(text)? };
        Ok(Self { attributes })
    }

    /// A template without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no attribute.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// All attributes in order.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    fn named<'t, 'n>(&'t self, name: &'n str) -> impl Iterator<Item = &'t Value> + use<'t, 'n> {
        self.attributes.iter().filter(move |a| a.name.eq_ignore_ascii_case(name)).map(|a| &a.value)
    }

    /// Whether any attribute has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// The first scalar of that name.
    pub fn scalar(&self, name: &str) -> Option<&str> {
        self.named(name).find_map(|value| match value {
            Value::Scalar(scalar) => Some(scalar.as_str()),
            Value::Vector(_) => None,
        })
    }

    /// The first vector of that name.
    pub fn vector(&self, name: &str) -> Option<&Vector> {
        self.named(name).find_map(|value| match value {
            Value::Vector(vector) => Some(vector),
            Value::Scalar(_) => None,
        })
    }

    /// All vectors of that name, in order.
    pub fn vectors<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Vector> {
        self.named(name).filter_map(|value| match value {
            Value::Vector(vector) => Some(vector),
            Value::Scalar(_) => None,
        })
    }

    /// All vectors of that name, in order, to be changed.
    pub fn vectors_mut<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut Vector> {
        let same_name = move |a: &&'a mut Attribute| a.name.eq_ignore_ascii_case(name);
        self.attributes.iter_mut().filter(same_name).filter_map(|a| match &mut a.value {
            Value::Vector(vector) => Some(vector),
            Value::Scalar(_) => None,
        })
    }

    /// The first scalar of that name as YES (true) or NO (false), in any case of letters; anything else is `None`.
    pub fn yes(&self, name: &str) -> Option<bool> {
        self.scalar(name).and_then(yes_or_no)
    }

    /// The first scalar of that name as a whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.scalar(name).and_then(|value| value.parse().ok())
    }

    /// Makes `name` occur once, as this scalar: in the place of its first occurrence, else at the end.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.replace(name, Value::Scalar(stored(value.into())));
    }

    /// Makes `name` occur once, as this vector: in the place of its first occurrence, else at the end.
    pub fn set_vector(&mut self, name: &str, vector: Vector) {
        self.replace(name, Value::Vector(vector));
    }

    fn replace(&mut self, name: &str, value: Value) {
        let attribute = Attribute { name: name.to_ascii_uppercase(), value };
        let place = self.attributes.iter().position(|a| a.name == attribute.name);
        self.attributes.retain(|a| a.name != attribute.name);
        // Nothing before the first occurrence was dropped, so its index still holds.
        self.attributes.insert(place.unwrap_or(self.attributes.len()), attribute);
    }

    /// Adds a scalar at the end, beside others of that name.
    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        let value = Value::Scalar(stored(value.into()));
        self.attributes.push(Attribute { name: name.to_ascii_uppercase(), value });
    }

    /// Adds a vector at the end, beside others of that name.
    pub fn push_vector(&mut self, name: &str, vector: Vector) {
        self.attributes.push(Attribute { name: name.to_ascii_uppercase(), value: Value::Vector(vector) });
    }

    /// Takes all attributes of that name out and gives them back in order.
    pub fn remove(&mut self, name: &str) -> Vec<Value> {
        let mut removed = Vec::new();
        let mut kept = Vec::with_capacity(self.attributes.len());
        for attribute in self.attributes.drain(..) {
            if attribute.name.eq_ignore_ascii_case(name) {
                removed.push(attribute.value);
            } else {
                kept.push(attribute);
            }
        }
        self.attributes = kept;
        removed
    }

    /// Update of type 1: each name that occurs in `other` loses all its old values and gets those of `other`. Whole
    /// vectors are replaced, not merged key by key; an empty scalar or vector in `other` only removes.
    pub fn append(&mut self, other: &Self) {
        let names: BTreeSet<&str> = other.attributes.iter().map(|a| a.name.as_str()).collect();
        self.attributes.retain(|a| !names.contains(a.name.as_str()));
        let kept = other.attributes.iter().filter(|a| match &a.value {
            Value::Scalar(scalar) => !scalar.is_empty(),
            Value::Vector(vector) => !vector.is_empty(),
        });
        self.attributes.extend(kept.cloned());
    }

    /// Lays the extra template of an instantiation over a stored one. Works as [`Template::append`]: a name given by the
    /// user replaces all of that name, and an empty value drops it.
    pub fn overlay(&mut self, other: &Self) {
        self.append(other);
    }

    /// The canonical order: by name, equal names in their old order; keys of vectors by name too.
    #[must_use]
    pub fn sorted(&self) -> Self {
        let mut attributes = self.attributes.clone();
        attributes.sort_by(|a, b| a.name.cmp(&b.name));
        for attribute in &mut attributes {
            if let Value::Vector(vector) = &mut attribute.value {
                vector.pairs.sort();
            }
        }
        Self { attributes }
    }

    /// The canonical text, as command-line clients show it: sorted, one `KEY="VALUE"` per line, vectors over several
    /// lines. Reading it gives [`Template::sorted`].
    pub fn to_text(&self) -> String {
        let mut attributes: Vec<&Attribute> = self.attributes.iter().collect();
        attributes.sort_by_key(|attribute| attribute.name.as_str());
        text::render(attributes)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.to_text()
    }
}

impl TryFrom<String> for Template {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for Template {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl Vector {
    /// A vector without pairs.
    pub fn new() -> Self {
        Self::default()
    }

    /// From pairs as the parsers read them: keys in upper case, values as they are stored. Of equal keys the first wins.
    fn read(pairs: impl Iterator<Item = (String, String)>) -> Self {
        /// Up to here looking through all keys is cheaper than hashing them.
        const FEW: usize = 16;
        let mut kept: Vec<(String, String)> = Vec::new();
        let mut seen = HashSet::new();
        for pair in pairs {
            if kept.len() == FEW && seen.is_empty() {
                seen.extend(kept.iter().map(|(key, _)| key.clone()));
            }
            let first =
                if seen.is_empty() { kept.iter().all(|(key, _)| *key != pair.0) } else { seen.insert(pair.0.clone()) };
            if first {
                kept.push(pair);
            }
        }
        Self { pairs: kept }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }

    /// Whether the key occurs.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value as YES (true) or NO (false), in any case of letters; anything else is `None`.
    pub fn yes(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(yes_or_no)
    }

    /// The value as a whole number.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(|value| value.parse().ok())
    }

    /// Sets a key, in its old place when it occurs, else at the end.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = stored(value.into());
        match self.pairs.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case(key)) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key.to_ascii_uppercase(), value)),
        }
    }

    /// Takes a key out and gives its value back.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let place = self.pairs.iter().position(|(name, _)| name.eq_ignore_ascii_case(key))?;
        Some(self.pairs.remove(place).1)
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Of equal keys the first wins, as in the text form.
impl<K: AsRef<str>, V: Into<String>> FromIterator<(K, V)> for Vector {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self::read(pairs.into_iter().map(|(key, value)| (key.as_ref().to_ascii_uppercase(), stored(value.into()))))
    }
}

#[cfg(test)]
mod tests;
