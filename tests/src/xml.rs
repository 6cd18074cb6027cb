//! Reading documents in tests: a tree of elements and paths into it. Not a validator (see `xsd`).

use anyhow::{Context, Result, bail};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// One element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: String,
    /// Its attributes in order.
    pub attributes: Vec<(String, String)>,
    /// Its own text, the pieces between children joined.
    pub text: String,
    /// Its children in order.
    pub children: Vec<Element>,
}

impl Element {
    /// The first element at `path` (`TEMPLATE/DISK/SIZE`, names of children separated by slashes).
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Self> {
        self.find_all(path).into_iter().next()
    }

    /// All elements at `path`, in document order.
    #[must_use]
    pub fn find_all(&self, path: &str) -> Vec<&Self> {
        path.split('/').fold(vec![self], |found, name| {
            found
                .into_iter()
                .flat_map(|element| element.children.iter().filter(move |child| child.name == name))
                .collect()
        })
    }

    /// The text of the first element at `path`; empty when there is none.
    #[must_use]
    pub fn text(&self, path: &str) -> &str {
        self.find(path).map_or("", |element| element.text.as_str())
    }

    /// The texts of all elements at `path`.
    #[must_use]
    pub fn texts(&self, path: &str) -> Vec<&str> {
        self.find_all(path).into_iter().map(|element| element.text.as_str()).collect()
    }

    /// The whole number at `path`.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&self, path: &str) -> Result<i64> {
        let text = self.text(path);
        text.trim().parse().with_context(|| format!("{}/{path} holds {text:?}, not a number", self.name))
    }

    /// An attribute of this element.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a document; its root element.
///
/// # Errors
/// When it is not well formed.
pub fn parse(document: &str) -> Result<Element> {
    let mut reader = Reader::from_str(document);
    let mut open = vec![Element::default()];
    loop {
        let event = reader.read_event().with_context(|| excerpt(document))?;
        let text = match event {
            Event::Start(tag) => {
                open.push(element(&tag)?);
                continue;
            }
            Event::Empty(tag) => {
                let element = element(&tag)?;
                open.last_mut().context("no root")?.children.push(element);
                continue;
            }
            Event::End(_) => {
                let done = open.pop().context("one end tag too many")?;
                open.last_mut().context("one end tag too many")?.children.push(done);
                continue;
            }
            Event::Text(text) => text.xml10_content().into_owned(),
            Event::CData(text) => text.xml10_content().into_owned(),
            Event::GeneralRef(name) => match name.resolve_char_ref()? {
                Some(letter) => letter.to_string(),
                None => quick_xml::escape::resolve_predefined_entity(&name)
                    .with_context(|| format!("unknown entity &{};", &*name))?
                    .to_owned(),
            },
            Event::Eof => break,
            _ => continue,
        };
        open.last_mut().context("no root")?.text.push_str(&text);
    }
    let mut outside = open.pop().filter(|_| open.is_empty()).with_context(|| excerpt(document))?;
    if outside.children.len() != 1 {
        bail!("{} root elements in {}", outside.children.len(), excerpt(document));
    }
    Ok(outside.children.remove(0))
}

fn element(tag: &BytesStart<'_>) -> Result<Element> {
    let mut element = Element { name: tag.name().as_ref().to_owned(), ..Element::default() };
    for attribute in tag.attributes() {
        let attribute = attribute?;
        let value = quick_xml::escape::unescape(&attribute.value)?.into_owned();
        element.attributes.push((attribute.key.as_ref().to_owned(), value));
    }
    Ok(element)
}

fn excerpt(document: &str) -> String {
    format!("the document {:?}", document.chars().take(300).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_texts_whatever_their_spelling() {
        let vm = parse("<?xml version='1.0'?>\n<VM><ID>7</ID><T><D><![CDATA[a<b]]></D><D k=\"&amp;\">x &lt; &#65;</D></T><E/></VM>").unwrap();
        assert_eq!(vm.number("ID").unwrap(), 7);
        assert_eq!(vm.texts("T/D"), ["a<b", "x < A"]);
        assert_eq!(vm.find_all("T/D")[1].attribute("k"), Some("&"));
        assert_eq!((vm.text("E"), vm.text("NONE")), ("", ""));
        assert!(parse("<VM><ID></VM>").is_err());
        assert!(parse("hello").is_err());
    }
}
