//! A guest's memory in a file: `save` stops the domain, `restore_saved` lets it go on.
//!
//! libvirt writes the file as `NAME.part`; it becomes NAME when it is whole and on disk. A crash in between leaves a domain
//! that is off and a whole `.part` (libvirt marks one that is not), which the next call renames.
//!
//! libvirt 9.0 with QEMU 7.2 keeps checkpoints over this: QEMU writes its dirty bitmaps into the images when it hands them
//! over, and reads them when it takes them back; the memory of checkpoints stays with the definition. Where either is lost,
//! a backup finds the parent's bitmap missing and reads everything.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use virt::error::Error;
use virt::sys;

use super::connection::Connection;
use super::deadline::within;
use super::devices::refuse_busy;
use super::domain::path_text;
use super::{ACT_WITHIN, ASK_WITHIN, domain_state, failed, ffi, is_off, remove_file, sibling, xml};
use crate::{DriverError, Kind, Result};

/// The slowest disk that we wait for.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 20;

/// First bytes of a saved memory that libvirt's QEMU driver is writing; whole ones begin with `LibvirtQemudSave`.
const UNFINISHED: &[u8; 16] = b"LibvirtQemudPart";

/// How long moving this much memory to or from a disk may take.
pub(super) fn moving(bytes: u64) -> Duration {
    ACT_WITHIN + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

fn part_of(file: &Path) -> PathBuf {
    sibling(file, ".part")
}

/// What [`crate::Hypervisor`] says of the methods of these names.
impl Connection {
    /// Memory of the domain in bytes, 0 when it is not defined.
    pub(super) fn memory_bytes(&self, name: &str) -> Result<u64> {
        let Some(domain) = self.lookup(name)? else { return Ok(0) };
        let memory = domain.max_memory();
        let memory = memory.map_err(|error| failed(&format!("asking for the memory of domain {name}"), &error))?;
        Ok(memory.saturating_mul(1024))
    }

    pub(super) fn save(&self, name: &str, file: &Path, limit: Duration) -> Result<()> {
        let doing = format!("saving domain {name} into {}", file.display());
        path_text(file)?;
        let part = part_of(file);
        let part_text = path_text(&part)?.to_owned();
        let domain = self.existing(name, &doing)?;
        if is_off(domain_state(&domain)?) {
            return self.finish_save(name, file, &doing);
        }
        refuse_busy(&domain, &doing)?;
        remove_file(&part)?;
        let saving = domain.clone();
        let call = move || Ok(ffi::save(&saving, &part_text, sys::VIR_DOMAIN_SAVE_RUNNING));
        let saved = match within(&doing, limit, call, drop) {
            Ok(saved) => saved.map_err(|error| failed(&doing, &error)),
            // Only the deadline: the guest goes on when the job ends.
            Err(late) => {
                drop(ffi::abort_job(&domain));
                Err(late)
            }
        };
        match saved {
            Ok(()) => publish(&part, file, &doing),
            Err(error) => {
                // A lost answer is no failure: libvirt may still be writing, or be done. It holds its job until the domain
                // is off, so no job and then a running domain, in this order, mean that the file is waste.
                if refuse_busy(&domain, &doing).is_ok() && domain_state(&domain).is_ok_and(|state| !is_off(state)) {
                    remove_file(&part)?;
                }
                Err(error)
            }
        }
    }

    /// For a domain that is off: was it saved before?
    fn finish_save(&self, name: &str, file: &Path, doing: &str) -> Result<()> {
        if file.exists() {
            return Ok(());
        }
        let part = part_of(file);
        let missing = || DriverError::new(Kind::Missing, doing, "the domain is off and there is no saved memory of it");
        if !part.exists() {
            return Err(missing());
        }
        if is_unfinished(&part) {
            tracing::warn!(domain = name, "removing a saved memory that is not whole");
            remove_file(&part)?;
            return Err(missing());
        }
        self.saved_document(name, &part, doing)?;
        publish(&part, file, doing)
    }

    /// The domain's document in a saved memory.
    fn saved_document(&self, name: &str, file: &Path, doing: &str) -> Result<String> {
        let path = path_text(file)?;
        let flags = sys::VIR_DOMAIN_SAVE_IMAGE_XML_SECURE;
        let document = self.connect()?.save_image_xml_desc(path, flags).map_err(|error| {
            let failure = failed(doing, &error);
            let kind = if failure.kind == Kind::Retry { Kind::Retry } else { Kind::Corrupt };
            DriverError { kind, ..failure }
        })?;
        let of = xml::domain_name(&document)?;
        if of == name {
            return Ok(document);
        }
        let reason = format!("{} is the memory of domain {of}", file.display());
        Err(DriverError::new(Kind::Corrupt, doing, reason))
    }

    pub(super) fn restore_saved(&self, name: &str, file: &Path) -> Result<()> {
        let doing = format!("letting domain {name} go on from {}", file.display());
        let wrong = |error: Error| failed(&doing, &error);
        let path = path_text(file)?;
        let domain = self.lookup(name)?;
        if let Some(domain) = &domain
            && !is_off(domain_state(domain)?)
        {
            return Ok(());
        }
        file.metadata().map_err(|error| DriverError::io(doing.as_str(), error))?;
        let document = self.saved_document(name, file, &doing)?;
        if domain.is_none() {
            // Else it would be gone with its checkpoints as soon as it stops.
            self.connect()?.define_domain_xml(&document).map_err(wrong)?;
        }
        self.connect()?.restore_domain_flags(path, None, sys::VIR_DOMAIN_SAVE_RUNNING).map_err(wrong)
    }
}

/// Whether libvirt says in the file's first bytes that it has not written all of it. Any other doubt keeps the file.
fn is_unfinished(part: &Path) -> bool {
    let mut magic = [0; UNFINISHED.len()];
    File::open(part).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *UNFINISHED
}

/// Gives the whole file its name, durably.
fn publish(part: &Path, file: &Path, doing: &str) -> Result<()> {
    let io = |error| DriverError::io(doing, error);
    match File::open(part) {
        Ok(opened) => opened.sync_all().map_err(io)?,
        // libvirt's file may be root's alone.
        Err(error) => tracing::debug!(%error, file = %part.display(), "a saved memory could not be synced"),
    }
    std::fs::rename(part, file).map_err(io)?;
    match file.parent().map(File::open) {
        Some(Ok(dir)) => dir.sync_all().map_err(io),
        _ => Ok(()),
    }
}

/// How long [`Connection::restore_saved`] may take for this file.
pub(super) fn restore_limit(file: &Path) -> Result<Duration> {
    let file = file.to_owned();
    let size = move || Ok(file.metadata().map_or(0, |meta| meta.len()));
    within("looking at a saved memory", ASK_WITHIN, size, drop).map(moving)
}
