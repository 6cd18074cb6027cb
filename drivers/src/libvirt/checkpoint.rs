//! Checkpoints of running domains: libvirt's memory of dirty bitmaps that live in the images.
//!
//! The two drift apart: an undefined domain loses the memory and keeps the bitmaps; a bitmap made while the domain was
//! off is not remembered at all; a killed QEMU leaves bitmaps that are remembered and broken. Everything here works from
//! the bitmaps and treats the memory as something to be rebuilt.

use virt::domain::Domain;
use virt::sys;

use super::ffi::Checkpoint;
use super::xml::{self, Document, ListedDisk};
use super::{check_plain, code, failed};
use crate::{Kind, Result};

const REDEFINE: u32 = sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE;
const VALIDATE: u32 = sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE;
const MEMORY_ONLY: u32 = sys::VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY;

/// The document of checkpoint `name` with bitmaps on `tracked` and none on the other disks.
///
/// `created` (epoch seconds) is demanded by libvirt for one that it is told of again; none for a new one.
pub(super) fn document(name: &str, listed: &[ListedDisk], tracked: &[&str], created: Option<u64>) -> Result<String> {
    let mut out = Document::new();
    out.node("domaincheckpoint", &[], |root| {
        root.text("name", &[], name);
        if let Some(created) = created {
            root.text("creationTime", &[], &created.to_string());
        }
        root.node("disks", &[], |disks| {
            for disk in listed {
                if tracked.contains(&disk.target.as_str()) {
                    disks.leaf("disk", &[("name", &disk.target), ("checkpoint", "bitmap"), ("bitmap", name)]);
                } else {
                    disks.leaf("disk", &[("name", &disk.target), ("checkpoint", "no")]);
                }
            }
        });
    });
    out.finish()
}

fn redefine(domain: &Domain, name: &str, listed: &[ListedDisk], tracked: &[&str], flags: u32) -> Result<Checkpoint> {
    // The time is only shown to people, and the true one is not known any more.
    let text = document(name, listed, tracked, Some(1))?;
    Checkpoint::create(domain, &text, REDEFINE | flags)
        .map_err(|error| failed(&format!("telling libvirt of checkpoint {name}"), &error))
}

fn lookup(domain: &Domain, name: &str) -> Result<Option<Checkpoint>> {
    match Checkpoint::lookup(domain, name) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(error) if code(&error) == sys::VIR_ERR_NO_DOMAIN_CHECKPOINT => Ok(None),
        Err(error) => Err(failed(&format!("looking for checkpoint {name}"), &error)),
    }
}

/// Makes sure that libvirt knows checkpoint `name` with bitmaps on the disks `needed`.
///
/// # Errors
/// [`Kind::Missing`] when one of the bitmaps is not there or is broken.
pub(super) fn ensure(domain: &Domain, listed: &[ListedDisk], name: &str, needed: &[&str]) -> Result<()> {
    let known = match lookup(domain, name)? {
        None => Vec::new(),
        Some(checkpoint) => {
            let text = checkpoint.document().map_err(|error| failed(&format!("reading checkpoint {name}"), &error))?;
            xml::checkpoint_disks(&text)?
        }
    };
    if needed.iter().all(|target| known.iter().any(|have| have == target)) {
        return Ok(());
    }
    let mut tracked: Vec<&str> = needed.to_vec();
    let attached = |target: &str| listed.iter().any(|disk| disk.target == target);
    tracked.extend(known.iter().map(String::as_str).filter(|target| !needed.contains(target) && attached(target)));
    redefine(domain, name, listed, &tracked, VALIDATE).map(drop)
}

/// Removes checkpoint `name` of a running domain: libvirt's memory of it and the bitmaps of that name on all disks,
/// remembered or not. An absent one is success.
pub(super) fn discard(domain: &Domain, listed: &[ListedDisk], name: &str) -> Result<()> {
    let doing = format!("deleting checkpoint {name}");
    if let Some(checkpoint) = lookup(domain, name)? {
        match checkpoint.delete(0) {
            Ok(()) => return Ok(()),
            // One of its bitmaps is missing, or more: forget it and go disk by disk.
            Err(error) => tracing::debug!(name, error = error.message(), "checkpoint is not whole"),
        }
        checkpoint.delete(MEMORY_ONLY).map_err(|error| failed(&doing, &error))?;
    }
    let mut first_failure = None;
    for disk in listed.iter().filter(|disk| disk.format == "qcow2") {
        let checkpoint = redefine(domain, name, listed, &[&disk.target], 0)?;
        if let Err(error) = checkpoint.delete(0) {
            checkpoint.delete(MEMORY_ONLY).map_err(|error| failed(&doing, &error))?;
            // libvirt has no error number for "there is no such bitmap"; but it knows whether there is one.
            if is_whole(domain, name, listed, &disk.target)? {
                first_failure.get_or_insert(failed(&doing, &error));
            }
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Whether the disk has a usable bitmap of this name. libvirt remembers nothing of the question.
fn is_whole(domain: &Domain, name: &str, listed: &[ListedDisk], target: &str) -> Result<bool> {
    match redefine(domain, name, listed, &[target], VALIDATE) {
        Ok(_) => forget(domain, name).map(|()| true),
        Err(error) if error.kind == Kind::Missing => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes libvirt forget checkpoint `name`; the images are not touched.
pub(super) fn forget(domain: &Domain, name: &str) -> Result<()> {
    match lookup(domain, name)? {
        None => Ok(()),
        Some(checkpoint) => {
            checkpoint.delete(MEMORY_ONLY).map_err(|error| failed(&format!("deleting checkpoint {name}"), &error))
        }
    }
}

/// Names of all that libvirt remembers.
pub(super) fn names(domain: &Domain) -> Result<Vec<String>> {
    let all = Checkpoint::all(domain).and_then(|all| all.iter().map(Checkpoint::name).collect());
    all.map_err(|error| failed("listing checkpoints", &error))
}

/// Refuses what [`check_plain`] refuses.
pub(super) fn check_name(name: &str) -> Result<()> {
    check_plain("naming a checkpoint", name)
}
