//! The XML form: `<ANY><NAME>text</NAME><LIST><KEY>text</KEY></LIST></ANY>`, as clients that build documents send it.
//!
//! The root's name is ignored, but for one (see [`BARE_VECTOR`]). A child with text or CDATA is a scalar, one with element children a vector. XML attributes,
//! comments and processing instructions are ignored; a document type is refused, and so is deeper nesting.

use quick_xml::Reader;
use quick_xml::events::Event;

use super::{Attribute, MAX_ATTRIBUTES, ParseError, Value, Vector, ends_section, is_safe_attribute_name, trimmed};

/// The root that is not ignored: pyone makes the outermost key of a dict the root, so `{'BACKUP_CONFIG': {…}}` arrives
/// without any root around it. Read as anything else, the wish would be lost in silence, as it is in OpenNebula. It is
/// taken for the vector unless a child has children of its own; then it is a root like others.
const BARE_VECTOR: &str = "BACKUP_CONFIG";

/// Reads all attributes of a document.
pub(super) fn attributes(text: &str) -> Result<Vec<Attribute>, ParseError> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut builder = Builder::default();
    loop {
        let from = offset(reader.buffer_position());
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(_) => {
                let at = offset(reader.error_position());
                return Err(ParseError::over(text, at, at, "syntax error, unexpected or unbalanced XML markup"));
            }
        };
        let to = offset(reader.buffer_position());
        let done = matches!(event, Event::Eof);
        builder.take(event).map_err(|message| ParseError::over(text, from, to, message))?;
        if done {
            return Ok(builder.finish());
        }
    }
}

fn offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// What has been read so far.
#[derive(Default)]
struct Builder {
    attributes: Vec<Attribute>,
    /// Elements open now: 0 outside, 1 in the root, 2 in an attribute, 3 in a pair of a vector.
    depth: usize,
    root_seen: bool,
    bare_vector: bool,
    name: String,
    key: String,
    pairs: Option<Vec<(String, String)>>,
    content: String,
    count: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Start(tag) => self.open(tag.local_name().as_ref()),
            Event::End(_) => self.close(),
            Event::Text(text) => self.append(&text),
            Event::CData(text) => self.append(&text),
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref() {
                    Ok(Some(character)) => Some(character),
                    Ok(None) => named_reference(&reference),
                    Err(_) => None,
                };
                let Some(character) = character else {
                    return Err(
                        "syntax error, unexpected reference, expecting one of &lt; &gt; &amp; &quot; &apos;".into()
                    );
                };
                self.append(character.encode_utf8(&mut [0; 4]))
            }
            Event::DocType(_) => Err("syntax error, unexpected DOCTYPE, templates have none".into()),
            Event::Eof if self.depth > 0 => Err("syntax error, unexpected end of file, expecting a closing tag".into()),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Eof => Ok(()),
        }
    }

    fn finish(self) -> Vec<Attribute> {
        let has_vector = self.attributes.iter().any(|attribute| matches!(attribute.value, Value::Vector(_)));
        if !self.bare_vector || has_vector {
            return self.attributes;
        }
        let pairs = self.attributes.into_iter().filter_map(|attribute| match attribute.value {
            Value::Scalar(text) => Some((attribute.name, text)),
            Value::Vector(_) => None,
        });
        vec![Attribute { name: BARE_VECTOR.into(), value: Value::Vector(Vector::read(pairs)) }]
    }

    fn open(&mut self, name: &str) -> Result<(), String> {
        if self.depth == 0 {
            if self.root_seen {
                return Err("syntax error, unexpected second root element, expecting end of file".into());
            }
            self.root_seen = true;
            self.bare_vector = name.eq_ignore_ascii_case(BARE_VECTOR);
        } else {
            self.count += 1;
            if self.count > MAX_ATTRIBUTES {
                return Err(format!("more than {MAX_ATTRIBUTES} attributes"));
            }
            if !is_safe_attribute_name(name) {
                return Err(
                    "syntax error, unexpected element name, expecting letters, digits and underscores only".into()
                );
            }
        }
        match self.depth {
            0 => {}
            1 => self.name = name.to_ascii_uppercase(),
            2 => {
                if !trimmed(&self.content).is_empty() {
                    return Err("syntax error, unexpected element after text in the same attribute".into());
                }
                self.pairs.get_or_insert_default();
                self.key = name.to_ascii_uppercase();
            }
            _ => {
                return Err("syntax error, unexpected element inside the value of a vector, vectors do not nest".into());
            }
        }
        self.content.clear();
        self.depth += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        match self.depth {
            2 => {
                let value = match self.pairs.take() {
                    Some(pairs) => Value::Vector(Vector::read(pairs.into_iter())),
                    None => Value::Scalar(self.value()?),
                };
                self.attributes.push(Attribute { name: std::mem::take(&mut self.name), value });
            }
            3 => {
                let pair = (std::mem::take(&mut self.key), self.value()?);
                self.pairs.get_or_insert_default().push(pair);
            }
            _ => {}
        }
        self.content.clear();
        self.depth = self.depth.saturating_sub(1);
        Ok(())
    }

    fn append(&mut self, text: &str) -> Result<(), String> {
        let between = self.depth < 2 || (self.depth == 2 && self.pairs.is_some());
        if between {
            // Only the blanks that indent elements may stand here.
            return if trimmed(text).is_empty() {
                Ok(())
            } else {
                Err("syntax error, unexpected text between elements".into())
            };
        }
        self.content.push_str(text);
        Ok(())
    }

    fn value(&self) -> Result<String, String> {
        if ends_section(&self.content) {
            return Err("a value must not hold ]]>, which ends a CDATA section".into());
        }
        Ok(trimmed(&self.content).to_owned())
    }
}

fn named_reference(name: &str) -> Option<char> {
    match name {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}
