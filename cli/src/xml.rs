//! A small element tree for the documents that the daemon sends, with look-up by path.
//!
//! Not a general XML library: attributes, comments and processing instructions are dropped, a document type is refused.
//! Depth and number of elements are bounded, so that no answer can exhaust the stack.

use anyhow::{Context as _, Result, anyhow, bail};
use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

/// Real documents nest six deep.
const DEPTH_MAX: usize = 64;

/// A pool of 100 000 full VM documents has about ten million.
const ELEMENTS_MAX: usize = 20_000_000;

/// One element with its text and children, in document order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Tag name.
    pub name: String,
    /// Text and CDATA directly inside; blank between child elements is dropped.
    pub text: String,
    /// Child elements.
    pub children: Vec<Element>,
}

impl Element {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is not well formed, or beyond the bounds of this module.
    pub fn parse(document: &str) -> Result<Self> {
        Self::parse_within(document, ELEMENTS_MAX)
    }

    fn parse_within(document: &str, elements_max: usize) -> Result<Self> {
        let mut reader = Reader::from_str(document);
        let mut stack = vec![Self::default()];
        let mut count = 0_usize;
        loop {
            let event = reader.read_event().context("the document of the daemon is not well formed")?;
            count += usize::from(matches!(event, Event::Start(_) | Event::Empty(_)));
            if stack.len() > DEPTH_MAX + 1 || count > elements_max {
                bail!("the document of the daemon is too deep or too large");
            }
            match event {
                Event::Start(start) => {
                    stack.push(Self { name: name_of(start.name().0)?, ..Self::default() });
                }
                Event::Empty(start) => {
                    let element = Self { name: name_of(start.name().0)?, ..Self::default() };
                    last(&mut stack)?.children.push(element);
                }
                Event::End(_) => {
                    let mut done = stack.pop().context("an end without a start")?;
                    if !done.children.is_empty() && done.text.trim().is_empty() {
                        done.text = String::new();
                    }
                    last(&mut stack)?.children.push(done);
                }
                Event::Text(text) => last(&mut stack)?.text.push_str(&text.xml10_content()),
                Event::CData(text) => last(&mut stack)?.text.push_str(&text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let resolved = reference.resolve_char_ref().context("a bad character reference")?;
                    let element = last(&mut stack)?;
                    match resolved {
                        Some(character) => element.text.push(character),
                        None => element.text.push_str(
                            resolve_predefined_entity(&reference.xml10_content())
                                .ok_or_else(|| anyhow!("an unknown entity in the document of the daemon"))?,
                        ),
                    }
                }
                Event::DocType(_) => bail!("the document of the daemon has a document type, which is refused"),
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
        let root = stack.pop().filter(|_| stack.is_empty()).context("the document of the daemon breaks off")?;
        let mut elements = root.children.into_iter();
        match (elements.next(), elements.next()) {
            (Some(element), None) => Ok(element),
            _ => bail!("the daemon sent no document"),
        }
    }

    /// The first child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The element at a path like `TEMPLATE/CPU`, first matches only.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |element, name| element.child(name))
    }

    /// The text at a path, blank ends removed; "" when there is none.
    #[must_use]
    pub fn text_at(&self, path: &str) -> &str {
        self.at(path).map_or("", |element| element.text.trim())
    }

    /// The whole number at a path.
    #[must_use]
    pub fn int_at(&self, path: &str) -> Option<i64> {
        self.text_at(path).parse().ok()
    }

    /// All children of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The numbers in an id list `<X><ID>1</ID><ID>2</ID></X>` at a path.
    #[must_use]
    pub fn ids_at(&self, path: &str) -> Vec<i64> {
        self.at(path)
            .map_or_else(Vec::new, |list| list.all("ID").filter_map(|id| id.text.trim().parse().ok()).collect())
    }

    /// Is there neither text nor a child?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.is_empty() && self.text.trim().is_empty()
    }

    /// The document again, two blanks of indent per level, empty elements closed in themselves.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut out = String::new();
        self.write_xml(&mut out, 0);
        out
    }

    fn write_xml(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        let name = &self.name;
        if self.children.is_empty() {
            if self.text.is_empty() {
                out.push_str(&format!("{indent}<{name}/>\n"));
            } else {
                out.push_str(&format!("{indent}<{name}>{}</{name}>\n", escape(&self.text)));
            }
            return;
        }
        out.push_str(&format!("{indent}<{name}>\n"));
        for child in &self.children {
            child.write_xml(out, depth + 1);
        }
        out.push_str(&format!("{indent}</{name}>\n"));
    }
}

/// No name of XML holds a control character, but the reader lets them pass, and names are shown.
fn name_of(name: &str) -> Result<String> {
    if name.contains(char::is_control) {
        bail!("the document of the daemon is not well formed: a name holds a control character");
    }
    Ok(name.to_owned())
}

fn last(stack: &mut [Element]) -> Result<&mut Element> {
    stack.last_mut().context("text outside of an element")
}

/// Markup is escaped, and so are control characters, which a terminal would obey; those that XML 1.0 forbids are dropped.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\t' | '\n' => out.push(c),
            '\r' => out.push_str("&#13;"),
            c if c < ' ' => {}
            c if crate::terminal::is_obeyed(c) => out.push_str(&format!("&#{};", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_with_cdata_entities_and_white_space() {
        let vm = Element::parse("<?xml version=\"1.0\"?>\n<VM>\n <NAME><![CDATA[a <b>]]></NAME>\n <X>a&amp;b&#65;</X><Y/>\n <BACKUP_IDS><ID>1</ID><ID> 4 </ID></BACKUP_IDS></VM>\n").unwrap();
        assert_eq!(vm.text_at("NAME"), "a <b>");
        assert_eq!(vm.text_at("X"), "a&bA");
        assert!(vm.child("Y").unwrap().is_empty());
        assert_eq!(vm.ids_at("BACKUP_IDS"), [1, 4]);
        assert_eq!(vm.text_at("NO/WHERE"), "");
        assert_eq!(Element::parse(&vm.to_xml()).unwrap().text_at("NAME"), "a <b>");
    }

    #[test]
    fn control_characters_do_not_come_out_again() {
        let element = Element { name: "A".into(), text: "a\u{1b}[2J\u{9b}\r\n<".into(), children: Vec::new() };
        assert_eq!(element.to_xml(), "<A>a[2J&#155;&#13;\n&lt;</A>\n");
    }

    #[test]
    fn a_document_out_of_bounds_or_shape_is_refused() {
        let deep = "<A>".repeat(100_000);
        for document in [
            deep.as_str(),
            "",
            "text",
            "<A>",
            "<A></B>",
            "</A>",
            "<A/><B/>",
            "<!DOCTYPE A [<!ENTITY x 'y'>]><A>&x;</A>",
            "<A>&x;</A>",
            "<A\u{1b}[2J/>",
            "<A\u{9b}2J></A\u{9b}2J>",
        ] {
            assert!(Element::parse(document).is_err(), "{:.40}", document);
        }
        for (document, elements) in [("<A><B/><B/></A>", 3), ("<A><B></B></A>", 2)] {
            assert!(Element::parse_within(document, elements).is_ok(), "{document}");
            assert!(Element::parse_within(document, elements - 1).is_err(), "{document}");
        }
    }
}
