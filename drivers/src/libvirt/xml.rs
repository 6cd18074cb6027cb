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

/// One device of a domain's document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedDevice {
    /// A disk's target (`vda`), an interface's address in lower case.
    pub(super) key: String,
    /// The whole element, as libvirt wrote it.
    pub(super) element: String,
}

/// The kinds of devices that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    /// `<disk>`, known by its target.
    Disk,
    /// `<interface>`, known by its hardware address.
    Interface,
}

impl Device {
    /// Element, and the element and attribute below it that hold the key.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Disk => ("disk", "target", "dev"),
            Self::Interface => ("interface", "mac", "address"),
        }
    }
}

/// All devices of one kind in a domain's document.
pub(super) fn devices(document: &str, kind: Device) -> Result<Vec<ListedDevice>> {
    let (name, below, holds_key) = kind.names();
    let bad = |error: quick_xml::Error| DriverError::other(Kind::Permanent, "reading a libvirt document", error);
    let mut reader = Reader::from_str(document);
    let mut path: Vec<String> = Vec::new();
    let (mut all, mut key, mut began) = (Vec::new(), None, 0);
    loop {
        let before = reader.buffer_position();
        match reader.read_event().map_err(bad)? {
            Event::Start(tag) => {
                path.push(tag.name().as_ref().to_owned());
                if is(&path, &["domain", "devices", name]) {
                    (began, key) = (before, None);
                } else if is(&path, &["domain", "devices", name, below]) {
                    key = attribute(&tag, holds_key);
                }
            }
            Event::Empty(tag) if is(&path, &["domain", "devices", name]) && tag.name().as_ref() == below => {
                key = attribute(&tag, holds_key);
            }
            Event::End(_) => {
                if is(&path, &["domain", "devices", name])
                    && let Some(key) = key.take()
                    && let Some(element) = part(document, began, reader.buffer_position())
                {
                    all.push(ListedDevice { key: key.to_lowercase(), element });
                }
                path.pop();
            }
            Event::Eof => return Ok(all),
            _ => {}
        }
    }
}

fn part(text: &str, from: u64, to: u64) -> Option<String> {
    text.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?).map(str::to_owned)
}

/// The host's ends of a domain's network cards; those of `user` have none.
pub(super) fn interface_targets(document: &str) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    each_element(document, |path, tag| {
        if is(path, &["domain", "devices", "interface", "target"]) {
            targets.extend(attribute(tag, "dev"));
        }
    })?;
    Ok(targets)
}

/// The machine type of a domain's document.
pub(super) fn machine(document: &str) -> Result<Option<String>> {
    let mut machine = None;
    each_element(document, |path, tag| {
        if is(path, &["domain", "os", "type"]) {
            machine = attribute(tag, "machine");
        }
    })?;
    Ok(machine)
}

/// Whether a domain's document has a SCSI controller.
pub(super) fn has_scsi(document: &str) -> Result<bool> {
    let mut has = false;
    each_element(document, |path, tag| {
        has |= is(path, &["domain", "devices", "controller"]) && attribute(tag, "type").as_deref() == Some("scsi");
    })?;
    Ok(has)
}

/// A domain's name in its document.
pub(super) fn domain_name(document: &str) -> Result<String> {
    let bad = |error: quick_xml::Error| DriverError::other(Kind::Permanent, "reading a libvirt document", error);
    let mut reader = Reader::from_str(document);
    let mut path: Vec<String> = Vec::new();
    let mut name = String::new();
    loop {
        match reader.read_event().map_err(bad)? {
            Event::Start(tag) => path.push(tag.name().as_ref().to_owned()),
            Event::End(_) => {
                path.pop();
            }
            Event::Text(text) if is(&path, &["domain", "name"]) => name.push_str(text.as_ref()),
            Event::Eof => return Ok(name),
            _ => {}
        }
    }
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
    fn devices_are_found_by_their_keys_and_kept_as_they_were_written() {
        let disk = "<disk type='file'><source file='/a'/><backingStore><target dev='no'/></backingStore>\n\
            <target dev='vda'/></disk>";
        let nic = "<interface type='bridge'><mac address='02:00:C0:a8:00:01'/><target dev='one-7-0'/></interface>";
        let document = format!(
            "<domain><name>one-7</name><os><type machine='pc-q35-7.2'>hvm</type></os><devices>{disk}\n{nic}\
             <interface type='user'><mac address='02:00:c0:a8:00:02'/></interface>\
             <controller type='usb' model='none'/></devices></domain>"
        );
        let disks = devices(&document, Device::Disk).unwrap();
        assert_eq!(disks, [ListedDevice { key: "vda".into(), element: disk.into() }]);
        let nics = devices(&document, Device::Interface).unwrap();
        assert_eq!(nics[0], ListedDevice { key: "02:00:c0:a8:00:01".into(), element: nic.into() });
        assert_eq!(nics.len(), 2);
        assert_eq!(interface_targets(&document).unwrap(), ["one-7-0"]);
        assert_eq!(machine(&document).unwrap().as_deref(), Some("pc-q35-7.2"));
        assert_eq!(domain_name(&document).unwrap(), "one-7");
        assert!(!has_scsi(&document).unwrap());
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
