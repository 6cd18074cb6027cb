//! Disks and network cards that come and go, and disks that grow.
//!
//! A domain that is active has two documents, the running one and the definition that its next start uses. A device goes
//! into both, and out of the definition only when the guest let go of it, so that the two differ only between a crash and
//! the repetition of the call. Each document is looked at by itself for the same reason.

use std::path::Path;
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::connection::Connection;
use super::deadline::poll;
use super::xml::{self, Device, ListedDevice};
use super::{backup, code, domain, domain_state, failed, ffi, image, is_off};
use crate::hypervisor::{DomainDisk, DomainNic};
use crate::{DriverError, Kind, Result};

const LIVE: u32 = sys::VIR_DOMAIN_AFFECT_LIVE;
const CONFIG: u32 = sys::VIR_DOMAIN_AFFECT_CONFIG;
/// The guest is asked again to let go of a device after this time: one that was still booting has missed the first word.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(3);
/// QEMU measures disks in sectors.
const SECTOR_BYTES: u64 = 512;

/// The running document and the definition, as far as the domain has them, with the flag that names each.
fn documents(doing: &str, domain: &Domain) -> Result<Vec<(u32, String)>> {
    let wrong = |error: Error| failed(doing, &error);
    let mut all = Vec::new();
    if !is_off(domain_state(domain)?) {
        all.push((LIVE, domain.xml_desc(0).map_err(wrong)?));
    }
    if domain.is_persistent().map_err(wrong)? {
        all.push((CONFIG, domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).map_err(wrong)?));
    }
    Ok(all)
}

fn find(document: &str, kind: Device, key: &str) -> Result<Option<ListedDevice>> {
    let key = key.to_lowercase();
    Ok(xml::devices(document, kind)?.into_iter().find(|device| device.key == key))
}

/// Whether both paths lead to one file.
fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    one == other || real(one) == real(other)
}

/// What [`crate::Hypervisor`] says of the methods of these names.
impl Connection {
    pub(super) fn attach_disk(&self, name: &str, disk: &DomainDisk) -> Result<()> {
        let doing = format!("attaching {} to domain {name} as {}", disk.path.display(), disk.target);
        let domain = self.existing(name, &doing)?;
        let mut wanted = Vec::new();
        for (flag, document) in documents(&doing, &domain)? {
            match xml::domain_disks(&document)?.iter().find(|listed| listed.target == disk.target) {
                None => wanted.push((flag, document)),
                Some(listed) if same_file(Path::new(&listed.source), &disk.path) => {}
                Some(listed) => {
                    let reason = format!("{} is taken by {:?}; detach that first", disk.target, listed.source);
                    return Err(DriverError::new(Kind::Permanent, doing, reason));
                }
            }
        }
        let Some((_, document)) = wanted.first() else { return Ok(()) };
        let machine = xml::machine(document)?;
        let text = domain::disk_document(disk, machine.as_deref())?;
        refuse_busy(&domain, &doing)?;
        if domain::bus(disk, machine.as_deref()) == "scsi" {
            add_scsi_controller(&doing, &domain, &wanted)?;
        }
        let flags = wanted.iter().fold(0, |flags, (flag, _)| flags | flag);
        domain.attach_device_flags(&text, flags).map_err(|error| failed(&doing, &error))
    }

    pub(super) fn attach_nic(&self, name: &str, nic: &DomainNic) -> Result<()> {
        let doing = format!("attaching a network card to domain {name}");
        let Some(mac) = &nic.mac else {
            let reason = "the card has no hardware address, by which it could be found again";
            return Err(DriverError::new(Kind::Permanent, doing, reason));
        };
        let text = domain::nic_document(nic)?;
        let domain = self.existing(name, &doing)?;
        let mut flags = 0;
        for (flag, document) in documents(&doing, &domain)? {
            if find(&document, Device::Interface, mac)?.is_none() {
                flags |= flag;
            }
        }
        if flags == 0 {
            return Ok(());
        }
        refuse_busy(&domain, &doing)?;
        domain.attach_device_flags(&text, flags).map_err(|error| failed(&doing, &error))
    }

    /// Detaches the device of this key: from the running guest first, waiting until it let go, then from the definition.
    pub(super) fn detach(&self, name: &str, kind: Device, key: &str, timeout: Duration) -> Result<()> {
        let doing = format!("detaching {key} from domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        let mut asked = None;
        let gone = poll(timeout, || {
            let present = |document: &str| find(document, kind, key);
            let live = documents(&doing, &domain)?.into_iter().find(|(flag, _)| *flag == LIVE);
            let Some(device) = live.map_or(Ok(None), |(_, document)| present(&document))? else { return Ok(true) };
            if asked.is_none_or(|at: Instant| at.elapsed() >= ASK_AGAIN_AFTER) {
                refuse_busy(&domain, &doing)?;
                ask_to_let_go(&doing, &domain, &device)?;
                asked = Some(Instant::now());
            }
            Ok(false)
        })?;
        if !gone {
            let reason = format!(
                "the guest still holds the device after {} s; it must run, and support removal of devices (ACPI)",
                timeout.as_secs()
            );
            return Err(DriverError::new(Kind::Retry, doing, reason));
        }
        let definition = documents(&doing, &domain)?.into_iter().find(|(flag, _)| *flag == CONFIG);
        match definition.map_or(Ok(None), |(_, document)| find(&document, kind, key))? {
            None => Ok(()),
            Some(device) => domain.detach_device_flags(&device.element, CONFIG).map_err(|error| failed(&doing, &error)),
        }
    }

    pub(super) fn resize_disk(&self, name: &str, disk: &DomainDisk, bytes: u64) -> Result<()> {
        let doing = format!("resizing {} of domain {name} to {bytes} bytes", disk.target);
        let refuse = |reason: String| DriverError::new(Kind::Permanent, doing.as_str(), reason);
        if disk.readonly || disk.cdrom {
            return Err(refuse("the disk is read-only".into()));
        }
        if !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(refuse(format!("a disk's size is a multiple of {SECTOR_BYTES} bytes")));
        }
        let running = self.lookup(name)?.map(|domain| Ok((is_off(domain_state(&domain)?), domain))).transpose()?;
        let running = running.filter(|(off, _)| !off).map(|(_, domain)| domain);
        let present = match &running {
            None => image::size_bytes(disk)?,
            Some(domain) => {
                if !backup::listed_disks(domain)?.iter().any(|listed| listed.target == disk.target) {
                    return Err(DriverError::new(Kind::Missing, doing, "the domain has no such disk"));
                }
                ffi::block_capacity(domain, &disk.target).map_err(|error| failed(&doing, &error))?
            }
        };
        if present == bytes {
            return Ok(());
        }
        if present > bytes {
            let reason = format!("it has {present} bytes already and cannot shrink without losing data");
            return Err(refuse(reason));
        }
        let Some(domain) = running else { return image::resize(disk, bytes) };
        refuse_busy(&domain, &doing)?;
        let flags = sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES;
        domain.block_resize(&disk.target, bytes, flags).map_err(|error| failed(&doing, &error))
    }
}

/// [`backup::refuse_busy`] for a domain that may be off.
pub(super) fn refuse_busy(domain: &Domain, doing: &str) -> Result<()> {
    if is_off(domain_state(domain)?) { Ok(()) } else { backup::refuse_busy(domain, doing) }
}

/// Gives each document its SCSI controller if it has none. One that is left over after a failed attach does no harm.
fn add_scsi_controller(doing: &str, domain: &Domain, documents: &[(u32, String)]) -> Result<()> {
    let mut flags = 0;
    for (flag, document) in documents {
        if !xml::has_scsi(document)? {
            flags |= flag;
        }
    }
    if flags == 0 {
        return Ok(());
    }
    let text = domain::scsi_document()?;
    domain.attach_device_flags(&text, flags).map_err(|error| failed(doing, &error))
}

/// Sends the request to the guest; libvirt waits up to 5 s for it to obey, and says nothing when it does not.
fn ask_to_let_go(doing: &str, domain: &Domain, device: &ListedDevice) -> Result<()> {
    let Err(error) = domain.detach_device_flags(&device.element, LIVE) else { return Ok(()) };
    let message = error.message();
    // An earlier request is still with the guest, or it has just said no and may say yes when its disk is unmounted.
    let pending = message.contains("in the process of unplug") || message.contains("rejected by the guest");
    let gone = code(&error) == sys::VIR_ERR_DEVICE_MISSING || is_off(domain_state(domain)?);
    if pending || gone { Ok(()) } else { Err(failed(doing, &error)) }
}
