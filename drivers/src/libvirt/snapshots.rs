//! Snapshots inside images: of one disk while its domain is off (`image` does them), and of a whole running domain with its
//! memory, which libvirt does.
//!
//! Going back to a snapshot changes disks under their dirty bitmaps. QEMU 7.2 refuses an image with bitmaps then, and
//! libvirt 9.0 notices only when it has stopped the guest; so every checkpoint and bitmap of the disks concerned is
//! removed first, whoever made it, and the next backup reads everything. Making a snapshot beside checkpoints is fine for
//! libvirt 9.0 with QEMU 7.2; older ones refuse it.

use std::path::Path;

use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::sys;

use super::connection::Connection;
use super::devices::refuse_busy;
use super::xml::{Document, ListedDisk};
use super::{backup, checkpoint, code, domain_state, failed, image, is_off, offline};
use crate::hypervisor::DomainDisk;
use crate::{DriverError, Kind, Result};

/// What [`crate::Hypervisor`] says of the methods of these names.
impl Connection {
    pub(super) fn disk_snapshot_create(&self, name: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.refuse_active(name, &format!("making snapshot {snapshot} of {}", disk.target))?;
        image::create_snapshot(disk, snapshot)
    }

    pub(super) fn disk_snapshot_revert(&self, name: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        let domain = self.refuse_active(name, &format!("reverting {} to snapshot {snapshot}", disk.target))?;
        let bitmaps = image::revert_snapshot(disk, snapshot)?;
        // What libvirt remembers of other disks' bitmaps of these names comes back when a backup needs it.
        if let Some(domain) = domain {
            bitmaps.iter().try_for_each(|bitmap| checkpoint::forget(&domain, bitmap))?;
        }
        Ok(())
    }

    pub(super) fn disk_snapshot_delete(&self, name: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.refuse_active(name, &format!("deleting snapshot {snapshot} of {}", disk.target))?;
        image::delete_snapshot(disk, snapshot)
    }

    /// The domain, which may be not defined, but must not be active.
    fn refuse_active(&self, name: &str, doing: &str) -> Result<Option<Domain>> {
        let domain = self.lookup(name)?;
        if let Some(domain) = &domain
            && !is_off(domain_state(domain)?)
        {
            let reason = format!("domain {name} runs; power it off first");
            return Err(DriverError::new(Kind::Permanent, doing, reason));
        }
        Ok(domain)
    }

    pub(super) fn system_snapshot_create(&self, name: &str, snapshot: &str) -> Result<()> {
        let doing = format!("making snapshot {snapshot} of domain {name}");
        let domain = self.existing(name, &doing)?;
        if lookup(&doing, &domain, snapshot)?.is_some() {
            return Ok(());
        }
        if is_off(domain_state(&domain)?) {
            let reason = "the domain does not run; start it first, or take snapshots of its disks";
            return Err(DriverError::new(Kind::Permanent, doing, reason));
        }
        refuse_busy(&domain, &doing)?;
        let mut document = Document::new();
        document.node("domainsnapshot", &[], |root| root.text("name", &[], snapshot));
        let Err(error) = domain.create_snapshot_xml(&document.finish()?, 0) else { return Ok(()) };
        let mut error = failed(&doing, &error);
        if error.kind == Kind::Permanent && error.reason.contains("checkpoint") {
            error.reason.push_str(
                "; this version of libvirt makes no snapshot of a domain that has checkpoints of incremental backups: \
                 delete those, and begin with a full backup again afterwards",
            );
        }
        Err(error)
    }

    pub(super) fn system_snapshot_revert(&self, name: &str, snapshot: &str) -> Result<()> {
        let doing = format!("reverting domain {name} to snapshot {snapshot}");
        let domain = self.existing(name, &doing)?;
        let missing = || DriverError::new(Kind::Missing, doing.as_str(), "the domain has no such snapshot");
        let found = lookup(&doing, &domain, snapshot)?.ok_or_else(missing)?;
        refuse_busy(&domain, &doing)?;
        discard_tracking(&domain)?;
        found.revert(sys::VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING).map_err(|error| failed(&doing, &error))
    }

    pub(super) fn system_snapshot_delete(&self, name: &str, snapshot: &str) -> Result<()> {
        let doing = format!("deleting snapshot {snapshot} of domain {name}");
        let Some(domain) = self.lookup(name)? else { return Ok(()) };
        let Some(found) = lookup(&doing, &domain, snapshot)? else { return Ok(()) };
        refuse_busy(&domain, &doing)?;
        match found.delete(0) {
            Err(error) if code(&error) != sys::VIR_ERR_NO_DOMAIN_SNAPSHOT => Err(failed(&doing, &error)),
            _ => Ok(()),
        }
    }
}

fn lookup(doing: &str, domain: &Domain, name: &str) -> Result<Option<DomainSnapshot>> {
    match Domain::lookup_snapshot_by_name(domain, name, 0) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if code(&error) == sys::VIR_ERR_NO_DOMAIN_SNAPSHOT => Ok(None),
        Err(error) => Err(failed(doing, &error)),
    }
}

/// Removes all checkpoints of a domain and all dirty bitmaps of its disks, also those that libvirt does not remember.
fn discard_tracking(domain: &Domain) -> Result<()> {
    let listed = backup::listed_disks(domain)?;
    let own = |disk: &&ListedDisk| disk.format == "qcow2" && !disk.source.is_empty();
    let active = !is_off(domain_state(domain)?);
    let mut names = checkpoint::names(domain)?;
    for disk in listed.iter().filter(own) {
        let image = Path::new(&disk.source);
        for bitmap in offline::bitmaps(image)? {
            if !active {
                offline::remove_bitmap(image, &bitmap.name)?;
            }
            names.push(bitmap.name);
        }
    }
    names.sort_unstable();
    names.dedup();
    for name in names {
        if active {
            checkpoint::discard(domain, &listed, &name)?;
        } else {
            checkpoint::forget(domain, &name)?;
        }
    }
    Ok(())
}
