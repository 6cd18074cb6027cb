//! libvirt's documents: a small writer over quick-xml, and the few things that we read from them.
//!
//! Not a general XML tree. Text and attribute values are escaped by quick-xml; characters that XML cannot carry are
//! refused by [`super::check_text`] before they come here.

use quick_xml::Reader;
use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

use crate::{DriverError, Kind, Result};

/// Attributes of one element.
pub(super) type Attributes<'a> = &'a [(&'a str, &'a str)];

/// Builds one document.
pub(super) struct Document {
    writer: Writer<Vec<u8>>,
    failed: Option<std::io::Error>,
}

impl Document {
    pub(super) fn new() -> Self {
        Self { writer: Writer::new(Vec::new()), failed: None }
    }

    fn event(&mut self, event: Event<'_>) {
        if let Err(error) = self.writer.write_event(event) {
            self.failed.get_or_insert(error);
        }
    }

    /// An element with content.
    pub(super) fn node(&mut self, name: &str, attributes: Attributes<'_>, content: impl FnOnce(&mut Self)) {
        self.event(Event::Start(BytesStart::new(name).with_attributes(attributes.iter().copied())));
        content(self);
        self.event(Event::End(BytesEnd::new(name)));
    }

    /// An element without content.
    pub(super) fn leaf(&mut self, name: &str, attributes: Attributes<'_>) {
        self.event(Event::Empty(BytesStart::new(name).with_attributes(attributes.iter().copied())));
    }

    /// An element that holds text.
    pub(super) fn text(&mut self, name: &str, attributes: Attributes<'_>, text: &str) {
        self.node(name, attributes, |inside| inside.event(Event::Text(BytesText::new(text))));
    }

    /// The finished document.
    pub(super) fn finish(self) -> Result<String> {
        if let Some(error) = self.failed {
            return Err(DriverError::io("writing a libvirt document", error));
        }
        String::from_utf8(self.writer.into_inner())
            .map_err(|error| DriverError::other(Kind::Permanent, "writing a libvirt document", error))
    }
}

/// Calls `visit` with the path of each element (names from the root) and its start tag.
fn each_element(document: &str, mut visit: impl FnMut(&[String], &BytesStart<'_>)) -> Result<()> {
    let bad = |error: quick_xml::Error| DriverError::other(Kind::Permanent, "reading a libvirt document", error);
    let mut reader = Reader::from_str(document);
    let mut path: Vec<String> = Vec::new();
    loop {
        match reader.read_event().map_err(bad)? {
            Event::Start(tag) => {
                path.push(tag.name().as_ref().to_owned());
                visit(&path, &tag);
            }
            Event::Empty(tag) => {
                path.push(tag.name().as_ref().to_owned());
                visit(&path, &tag);
                path.pop();
            }
            Event::End(_) => {
                path.pop();
            }
            Event::Eof => return Ok(()),
            _ => {}
        }
    }
}

/// Whether `path` is exactly these element names.
fn is(path: &[String], names: &[&str]) -> bool {
    path.len() == names.len() && path.iter().zip(names).all(|(have, want)| have == want)
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = tag.try_get_attribute(name).ok()??;
    Some(attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).ok()?.into_owned())
}

/// A disk as the domain's document shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ListedDisk {
    /// `vda`.
    pub(super) target: String,
    /// `qcow2`, `raw`, …; empty when not said.
    pub(super) format: String,
    /// The image file; empty when it has no medium or the medium is no file.
    pub(super) source: String,
}

/// The disks of a domain's document.
pub(super) fn domain_disks(document: &str) -> Result<Vec<ListedDisk>> {
    let mut disks: Vec<ListedDisk> = Vec::new();
    each_element(document, |path, tag| {
        if is(path, &["domain", "devices", "disk"]) {
            disks.push(ListedDisk::default());
        }
        let Some(disk) = disks.last_mut() else { return };
        if is(path, &["domain", "devices", "disk", "target"]) {
            disk.target = attribute(tag, "dev").unwrap_or_default();
        } else if is(path, &["domain", "devices", "disk", "driver"]) {
            disk.format = attribute(tag, "type").unwrap_or_default();
        } else if is(path, &["domain", "devices", "disk", "source"]) {
            disk.source = attribute(tag, "file").unwrap_or_default();
        }
    })?;
    disks.retain(|disk| !disk.target.is_empty());
    Ok(disks)
}

/// The Unix socket of a running pull backup's document; none for another kind of backup.
pub(super) fn backup_socket(document: &str) -> Result<Option<String>> {
    let mut socket = None;
    each_element(document, |path, tag| {
        if is(path, &["domainbackup", "server"]) {
            socket = attribute(tag, "socket");
        }
    })?;
    Ok(socket)
}

/// Targets of the disks on which a checkpoint's document has a bitmap.
pub(super) fn checkpoint_disks(document: &str) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    each_element(document, |path, tag| {
        if is(path, &["domaincheckpoint", "disks", "disk"]) && attribute(tag, "checkpoint").as_deref() == Some("bitmap")
        {
            targets.extend(attribute(tag, "name"));
        }
    })?;
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disks_own_source_and_driver_count() {
        let document = "<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
            <source file='/a'/><backingStore type='file'><format type='raw'/><source file='/b'/></backingStore>\
            <target dev='vda' bus='virtio'/></disk><disk type='file' device='cdrom'><driver type='raw'/>\
            <target dev='sda'/></disk><channel><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
            </devices></domain>";
        let disks = domain_disks(document).unwrap();
        assert_eq!(
            disks,
            [
                ListedDisk { target: "vda".into(), format: "qcow2".into(), source: "/a".into() },
                ListedDisk { target: "sda".into(), format: "raw".into(), source: String::new() },
            ]
        );
    }

    #[test]
    fn attribute_values_are_escaped_and_come_back() {
        let mut document = Document::new();
        document.node("domainbackup", &[("mode", "pull")], |inside| {
            inside.leaf("server", &[("transport", "unix"), ("socket", "/a'<&>\"b")]);
        });
        let text = document.finish().unwrap();
        assert_eq!(backup_socket(&text).unwrap().as_deref(), Some("/a'<&>\"b"));
    }

    #[test]
    fn broken_documents_are_errors() {
        assert!(domain_disks("<domain><devices></domain>").is_err());
    }
}
