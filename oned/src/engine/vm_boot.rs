//! Bringing a VM up: its disks, its domain, its guest, or the memory that was saved of it.
//!
//! Invariant: saved memory is used once. Its file has another name from before the guest goes on until it is removed, so
//! that a daemon which finds it afterwards knows that the guest may have run (and written to its disks) since. A boot that
//! does not use saved memory removes it.

use std::path::{Path, PathBuf};

use drivers::hypervisor::{DiskFormat, DomainDisk, DomainNic, DomainSpec, NicKind};
use drivers::{DriverError, Hypervisor, disk};
use one_core::network::nic::{Attachment, attachment};
use one_core::template::{Template, Vector};

use super::vm_jobs::{is_off, permanent};
use super::{Engine, Trouble};
use crate::disks::{self, VmDisk};
use crate::ledger::stored;
use crate::store::rows::{DatastoreRow, HostRow, VmRow};

/// The guest's memory as it was saved, in the VM's directory.
const SAVED: &str = "checkpoint.save";
/// The same while the guest goes on from it.
const RESUMED: &str = "checkpoint.resumed";

/// The format of that word.
pub(super) fn format_of(word: &str) -> Result<DiskFormat, Trouble> {
    match word {
        "qcow2" => Ok(DiskFormat::Qcow2),
        "raw" => Ok(DiskFormat::Raw),
        other => Err(permanent("reading a disk's format", format!("\"{other}\" is neither qcow2 nor raw"))),
    }
}

impl Engine {
    /// Makes the VM's own disks. What lies there before the job's first run
    /// is of an earlier life.
    pub(super) fn prolog(&self, row: &VmRow, first: bool) -> Result<(), Trouble> {
        let directory = disks::vm_directory(&self.cloud.config, row.id);
        if first {
            remove_directory(&directory)?;
        }
        std::fs::create_dir_all(&directory)
            .map_err(|e| DriverError::io(format!("making {}", directory.display()), e))?;
        disk::sweep_parts(&directory)?;
        for vm_disk in self.cloud.store.read(|tx| disks::of_vm(tx, row, &self.cloud.config))? {
            self.make_disk(row, &vm_disk)?;
        }
        Ok(())
    }

    /// The disks of a VM that comes back must all be there still: they stayed in the system datastore.
    pub(super) fn prolog_again(&self, row: &VmRow) -> Result<(), Trouble> {
        for vm_disk in self.cloud.store.read(|tx| disks::of_vm(tx, row, &self.cloud.config))? {
            if !vm_disk.path.exists() {
                let reason = format!("{} is gone", vm_disk.path.display());
                return Err(permanent(&format!("attaching disk {}", vm_disk.id), reason));
            }
        }
        Ok(())
    }

    /// Boots the guest from its disks.
    pub(super) fn boot(&self, row: &VmRow, host: &HostRow, hypervisor: &dyn Hypervisor) -> Result<(), Trouble> {
        self.forget_saved(row.id)?;
        hypervisor.deploy(&self.domain_spec(row, host)?)?;
        crate::crash::point("deploy.booted");
        Ok(())
    }

    /// Where a guest's memory is saved.
    pub(super) fn saved(&self, vm_id: i64) -> PathBuf {
        disks::vm_directory(&self.cloud.config, vm_id).join(SAVED)
    }

    /// Removes all saved memory of a VM.
    pub(super) fn forget_saved(&self, vm_id: i64) -> Result<(), Trouble> {
        let saved = self.saved(vm_id);
        disk::remove(&saved)?;
        Ok(disk::remove(&saved.with_file_name(RESUMED))?)
    }

    /// Saves a guest's memory; on the job's first run nothing that lies there can be of this save.
    pub(super) fn save(&self, row: &VmRow, hypervisor: &dyn Hypervisor, first: bool) -> Result<(), Trouble> {
        let saved = self.saved(row.id);
        if first || !is_off(hypervisor.state(&row.deploy_id)?) {
            self.forget_saved(row.id)?;
        }
        let directory = disks::vm_directory(&self.cloud.config, row.id);
        std::fs::create_dir_all(&directory)
            .map_err(|e| DriverError::io(format!("making {}", directory.display()), e))?;
        hypervisor.save(&row.deploy_id, &saved)?;
        // Newer than all disks, which nobody writes to any more: see `is_untouched`.
        let touched = std::fs::File::options().write(true).open(&saved).and_then(|file| {
            file.set_modified(std::time::SystemTime::now())?;
            file.sync_all()
        });
        touched.map_err(|e| DriverError::io(format!("keeping {}", saved.display()), e))?;
        crate::crash::point("save.saved");
        Ok(())
    }

    /// Lets a guest go on from its saved memory. Of one that may have run since, and wrote to its disks, the memory is
    /// worth nothing: it boots instead.
    pub(super) fn wake(&self, row: &VmRow, host: &HostRow, hypervisor: &dyn Hypervisor) -> Result<(), Trouble> {
        let saved = self.saved(row.id);
        let resumed = saved.with_file_name(RESUMED);
        if !is_off(hypervisor.state(&row.deploy_id)?) {
            return self.forget_saved(row.id);
        }
        if resumed.exists() {
            if !self.is_untouched(row, &resumed)? {
                tracing::warn!(
                    target: "VM", vm = row.id,
                    "VM {}: the guest may have run since its memory was saved, so it boots from its disks.", row.id
                );
                return self.boot(row, host, hypervisor);
            }
        } else {
            rename(&saved, &resumed)?;
        }
        crate::crash::point("resume.taken");
        if let Err(error) = hypervisor.restore_saved(&row.deploy_id, &resumed) {
            if hypervisor.state(&row.deploy_id).is_ok_and(is_off) && self.is_untouched(row, &resumed)? {
                rename(&resumed, &saved)?;
            }
            return Err(error.into());
        }
        crate::crash::point("resume.awake");
        self.forget_saved(row.id)
    }

    /// Whether nobody wrote to the VM's disks since this file was saved.
    fn is_untouched(&self, row: &VmRow, saved: &Path) -> Result<bool, Trouble> {
        let time = |path: &Path| {
            let changed = std::fs::metadata(path).and_then(|facts| facts.modified());
            changed.map_err(|e| DriverError::io(format!("looking at {}", path.display()), e))
        };
        let at = time(saved)?;
        for vm_disk in self.cloud.store.read(|tx| disks::of_vm(tx, row, &self.cloud.config))? {
            if !vm_disk.readonly && time(&vm_disk.path)? > at {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn domain_spec(&self, row: &VmRow, host: &HostRow) -> Result<DomainSpec, Trouble> {
        let template = stored(&row.template);
        let os = template.vector("OS").cloned().unwrap_or_default();
        let text = |key: &str| os.get(key).filter(|value| !value.is_empty()).map(String::from);
        let file = |key: &str| text(key).map(|path| self.allowed(&PathBuf::from(path), None)).transpose();
        let mut domain_disks = Vec::new();
        for vm_disk in self.cloud.store.read(|tx| disks::of_vm(tx, row, &self.cloud.config))? {
            domain_disks.push(domain_disk(vm_disk)?);
        }
        let memory_mb = template.int("MEMORY").and_then(|mb| u64::try_from(mb).ok()).unwrap_or(128);
        let vcpus = template.int("VCPU").and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        Ok(DomainSpec {
            name: row.deploy_id.clone(),
            uuid: row.uuid.clone(),
            emulated: host.vm_mad == "qemu",
            memory_mb,
            vcpus,
            cpu_model: template.vector("CPU_MODEL").and_then(|cpu| cpu.get("MODEL")).map(String::from),
            machine: text("MACHINE"),
            arch: text("ARCH"),
            kernel: file("KERNEL")?,
            initrd: file("INITRD")?,
            kernel_cmd: text("KERNEL_CMD"),
            disks: domain_disks,
            nics: nics(&template),
            serial_log: Some(disks::vm_directory(&self.cloud.config, row.id).join("serial.log")),
            guest_agent: true,
            vnc: vnc(&template, row.id),
        })
    }

    /// A file of the host that a template may name: below SAFE_DIRS of oned.conf, or of the datastore that it goes into.
    pub(super) fn allowed(&self, path: &Path, datastore: Option<&DatastoreRow>) -> Result<PathBuf, Trouble> {
        let mut safe = self.cloud.config.safe_dirs.clone();
        let own = datastore.map(|row| stored(&row.template)).unwrap_or_default();
        safe.extend(own.scalar("SAFE_DIRS").unwrap_or_default().split_whitespace().map(PathBuf::from));
        Ok(disk::allowed_source(path, &safe, &self.cloud.config.restricted_dirs)?)
    }
}

/// Removes a directory with all that is in it; an absent one is success.
pub(super) fn remove_directory(directory: &Path) -> Result<(), Trouble> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DriverError::io(format!("removing {}", directory.display()), error).into())
        }
        _ => Ok(()),
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Trouble> {
    let done = std::fs::rename(from, to)
        .and_then(|()| to.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all()));
    Ok(done.map_err(|e| DriverError::io(format!("renaming {}", from.display()), e))?)
}

pub(super) fn domain_disk(vm_disk: VmDisk) -> Result<DomainDisk, Trouble> {
    Ok(DomainDisk {
        id: vm_disk.id,
        format: format_of(&vm_disk.format)?,
        path: vm_disk.path,
        target: vm_disk.target,
        readonly: vm_disk.readonly,
        cdrom: vm_disk.cdrom,
    })
}

/// The cards of a VM that lead somewhere.
fn nics(template: &Template) -> Vec<DomainNic> {
    template.vectors("NIC").filter_map(domain_nic).collect()
}

/// A card as the hypervisor takes it; none for one that leads nowhere.
pub(super) fn domain_nic(nic: &Vector) -> Option<DomainNic> {
    let (kind, source) = match attachment(nic)? {
        Attachment::LibvirtNetwork(name) => (NicKind::Network, name),
        Attachment::Bridge(name) => (NicKind::Bridge, name),
        Attachment::User => (NicKind::User, ""),
    };
    let text = |key: &str| nic.get(key).filter(|value| !value.is_empty()).map(String::from);
    // The kernel takes 15 bytes; beyond them (VMs from 10000000 on) the hypervisor names the device.
    let target = text("TARGET").filter(|target| target.len() <= 15).unwrap_or_default();
    let model = text("MODEL").unwrap_or_else(|| "virtio".into());
    Some(DomainNic { kind, source: source.to_string(), mac: text("MAC"), model, target })
}

fn vnc(template: &Template, vm_id: i64) -> Option<(String, u16)> {
    let graphics = template.vector("GRAPHICS")?;
    if !graphics.get("TYPE").is_some_and(|kind| kind.eq_ignore_ascii_case("VNC")) {
        return None;
    }
    let port = graphics.int("PORT").and_then(|port| u16::try_from(port).ok());
    // The original's rule: 5900 and the VM's id, as long as there are ports.
    let port = port.or_else(|| u16::try_from(5900 + vm_id % 59_000).ok())?;
    Some((graphics.get("LISTEN").unwrap_or("127.0.0.1").to_string(), port))
}
