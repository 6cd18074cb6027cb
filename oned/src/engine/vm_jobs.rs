//! Booting, stopping and removing VMs. Every step is repeatable by name, so a job that was cut off is simply run again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::hypervisor::{DiskFormat, DomainDisk, DomainNic, DomainSpec, DomainState, NicKind};
use drivers::{Cancel, DriverError, Hypervisor, Kind, disk};
use one_core::lifecycle::{LcmState, VmEvent, VmPhase, VmState};
use one_core::template::Template;

use super::{Engine, Trouble};
use crate::disks::{self, Origin, VmDisk};
use crate::job::{self, BackupPlan, StopPlan};
use crate::ledger::{self, stored};
use crate::store::StoreError;
use crate::store::rows::{DatastoreRow, HostRow, JobRow, VmRow};

/// One wait for the guest to go down; between two of them a cancel is seen.
const SHUTDOWN_STEP: Duration = Duration::from_secs(5);

/// How long a guest may take to shut down in all, as long as OpenNebula waits.
const GUEST_SHUTDOWN: Duration = Duration::from_secs(180);

fn permanent(doing: &str, reason: impl Into<String>) -> Trouble {
    DriverError::new(Kind::Permanent, doing, reason).into()
}

/// The format of that word.
pub(super) fn format_of(word: &str) -> Result<DiskFormat, Trouble> {
    match word {
        "qcow2" => Ok(DiskFormat::Qcow2),
        "raw" => Ok(DiskFormat::Raw),
        other => Err(permanent("reading a disk's format", format!("\"{other}\" is neither qcow2 nor raw"))),
    }
}

impl Engine {
    /// The VM of a job with its host's hypervisor.
    pub(super) fn vm_of(&self, job: &JobRow) -> Result<(VmRow, HostRow, Arc<dyn Hypervisor>), Trouble> {
        let (row, host) = self.cloud.store.read(|tx| {
            let vm_id = job.vm_id.ok_or(StoreError::NotFound { what: "VM of job", id: job.id })?;
            let row = tx.vm(vm_id)?;
            let host_id = row.host_id.ok_or(StoreError::NotFound { what: "host of VM", id: vm_id })?;
            let host = tx.host(host_id)?;
            Ok::<_, StoreError>((row, host))
        })?;
        let hypervisor = self.outside.hypervisor(&host)?;
        Ok((row, host, hypervisor))
    }

    pub(super) fn step(&self, row: &mut VmRow, event: VmEvent) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        // The row may have been renamed or configured meanwhile: only the state is ours.
        self.cloud.store.write(|tx| {
            *row = tx.vm(row.id)?;
            ledger::vm_step(tx, row, event, now)
        })?;
        Ok(())
    }

    /// Deploy and resume: disks (the first time), domain, guest.
    pub(super) fn boot(&self, job: &JobRow) -> Result<(), Trouble> {
        let (mut row, host, hypervisor) = self.vm_of(job)?;
        let phase = ledger::phase(&row);
        if phase == VmPhase::active(LcmState::Prolog) {
            self.prolog(&row)?;
            crate::crash::point("deploy.disks");
            self.step(&mut row, VmEvent::PrologDone)?;
        }
        let phase = ledger::phase(&row);
        let boots = [LcmState::Boot, LcmState::BootPoweroff, LcmState::BootUnknown];
        if phase.state == VmState::Active && boots.contains(&phase.lcm) {
            let spec = self.domain_spec(&row, &host)?;
            hypervisor.deploy(&spec)?;
            crate::crash::point("deploy.booted");
            self.step(&mut row, VmEvent::Booted)?;
            self.cloud.store.write(|tx| {
                let mut row = tx.vm(row.id)?;
                ledger::vm_error(tx, &mut row, None)
            })?;
        }
        self.close(job, "done", "")
    }

    /// Makes the VM's own disks; one that is there under its final name is whole.
    fn prolog(&self, row: &VmRow) -> Result<(), Trouble> {
        let directory = disks::vm_directory(&self.cloud.config, row.id);
        std::fs::create_dir_all(&directory)
            .map_err(|e| DriverError::io(format!("making {}", directory.display()), e))?;
        disk::sweep_parts(&directory)?;
        for vm_disk in self.cloud.store.read(|tx| disks::of_vm(tx, row, &self.cloud.config))? {
            if vm_disk.path.exists() {
                continue;
            }
            match &vm_disk.origin {
                Origin::Image => {
                    let reason = format!("{} is gone", vm_disk.path.display());
                    return Err(permanent(&format!("attaching disk {}", vm_disk.id), reason));
                }
                Origin::Overlay { backing, format } => {
                    let facts = disk::probe(backing)?;
                    disk::create_overlay(&vm_disk.path, backing, format_of(format)?, facts.virtual_size_bytes)?;
                }
                Origin::Volatile => {
                    let size_bytes = u64::try_from(vm_disk.size_mb).unwrap_or(0) << 20;
                    disk::create_blank(&vm_disk.path, format_of(&vm_disk.format)?, size_bytes)?;
                }
            }
        }
        Ok(())
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

    /// Poweroff.
    pub(super) fn stop_vm(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: StopPlan = job::plan(job)?;
        let (mut row, _, hypervisor) = self.vm_of(job)?;
        if ledger::phase(&row) == VmPhase::active(LcmState::ShutdownPoweroff) {
            self.take_down(hypervisor.as_ref(), &row.deploy_id, plan.hard, cancel)?;
            crate::crash::point("poweroff.off");
            self.step(&mut row, VmEvent::Stopped)?;
        }
        self.close(job, "done", "")
    }

    fn take_down(
        &self,
        hypervisor: &dyn Hypervisor,
        domain: &str,
        hard: bool,
        cancel: &Cancel,
    ) -> Result<(), DriverError> {
        let is_off = |state| matches!(state, None | Some(DomainState::Off | DomainState::Crashed));
        if is_off(hypervisor.state(domain)?) {
            return Ok(());
        }
        if hard {
            return hypervisor.destroy(domain);
        }
        let deadline = Instant::now() + GUEST_SHUTDOWN;
        loop {
            cancel.check()?;
            match hypervisor.shutdown(domain, SHUTDOWN_STEP) {
                Err(error) if error.kind == Kind::Retry => {}
                done => return done,
            }
            if Instant::now() >= deadline {
                return Err(DriverError::new(
                    Kind::Permanent,
                    format!("shutting down {domain}"),
                    format!("the guest still runs after {} s; use --hard to switch it off", GUEST_SHUTDOWN.as_secs()),
                ));
            }
        }
    }

    /// Reboot.
    pub(super) fn reboot(&self, job: &JobRow) -> Result<(), Trouble> {
        let plan: StopPlan = job::plan(job)?;
        let (row, _, hypervisor) = self.vm_of(job)?;
        if ledger::phase(&row) == VmPhase::RUNNING {
            hypervisor.reboot(&row.deploy_id, plan.hard)?;
        }
        self.close(job, "done", "")
    }

    /// Terminate and recover --delete: stop, forget the domain, remove the disks, release the images.
    pub(super) fn terminate(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: StopPlan = job::plan(job)?;
        let (mut row, _, hypervisor) = self.vm_of(job)?;
        let phase = ledger::phase(&row);
        if phase.state == VmState::Done {
            return self.close(job, "done", "");
        }
        let deleting = phase.lcm == LcmState::CleanupDelete;
        self.take_down(hypervisor.as_ref(), &row.deploy_id, plan.hard || deleting, cancel)?;
        if phase.lcm == LcmState::Shutdown {
            self.step(&mut row, VmEvent::Stopped)?;
        }
        crate::crash::point("terminate.off");
        self.epilog(hypervisor.as_ref(), &row)?;
        crate::crash::point("terminate.clean");
        let now = self.cloud.clock.now();
        let done = if deleting { VmEvent::CleanupDone } else { VmEvent::EpilogDone };
        self.cloud.store.write(|tx| {
            let mut row = tx.vm(row.id)?;
            ledger::vm_step(tx, &mut row, done, now)?;
            row.host_id = None;
            tx.vm_update(&row)?;
            ledger::release_images(tx, row.id)?;
            for schedule in tx.schedules_of_vm(row.id)? {
                tx.schedule_delete(schedule.id)?;
            }
            Ok::<_, Trouble>(())
        })?;
        self.close(job, "done", "")
    }

    fn epilog(&self, hypervisor: &dyn Hypervisor, row: &VmRow) -> Result<(), Trouble> {
        // Dirty bitmaps go from disks that outlive the VM; those of its own disks go with the files.
        let kept: Vec<PathBuf> = self
            .cloud
            .store
            .read(|tx| disks::of_vm(tx, row, &self.cloud.config))?
            .into_iter()
            .filter(|vm_disk| vm_disk.origin == Origin::Image && vm_disk.format == "qcow2" && !vm_disk.readonly)
            .filter(|vm_disk| vm_disk.path.exists())
            .map(|vm_disk| vm_disk.path)
            .collect();
        if !kept.is_empty() {
            let ours = |name: &String| BackupPlan::is_checkpoint_of(row.id, name);
            for checkpoint in hypervisor.checkpoints(&row.deploy_id, &kept)?.into_iter().filter(ours) {
                hypervisor.delete_checkpoint(&row.deploy_id, &checkpoint, &kept)?;
            }
        }
        hypervisor.undefine(&row.deploy_id)?;
        let directory = disks::vm_directory(&self.cloud.config, row.id);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DriverError::io(format!("removing {}", directory.display()), error).into())
            }
            _ => Ok(()),
        }
    }

    /// Puts the VM into the failure state of what it was doing, with the reason where its owner looks.
    pub(super) fn vm_failed(&self, job: &JobRow, trouble: &Trouble, cancelled: bool) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let zone = self.cloud.config.timezone;
        self.cloud.store.write(|tx| {
            if let Some(mut row) = job.vm_id.map(|id| tx.vm_find(id)).transpose()?.flatten() {
                let event = match ledger::phase(&row).lcm {
                    // Cancelled by the harder action that has taken over.
                    _ if cancelled => None,
                    LcmState::Prolog => Some(VmEvent::PrologFailed),
                    LcmState::Boot | LcmState::BootPoweroff | LcmState::BootUnknown => Some(VmEvent::BootFailed),
                    LcmState::Shutdown | LcmState::ShutdownPoweroff => Some(VmEvent::StopFailed),
                    LcmState::Epilog => Some(VmEvent::EpilogFailed),
                    _ => None,
                };
                if let Some(event) = event {
                    ledger::vm_step(tx, &mut row, event, now)?;
                }
                if !cancelled {
                    ledger::vm_error(tx, &mut row, Some((&format!("{}: {trouble}", job.kind), now, zone)))?;
                }
            }
            let current = tx.job(job.id)?;
            let phase = if cancelled { "cancelled" } else { "failed" };
            tx.job_advance(job.id, &current.phase, phase, now, &trouble.to_string())?;
            Ok::<_, Trouble>(())
        })?;
        self.cloud.wake.ring();
        Ok(())
    }
}

fn domain_disk(vm_disk: VmDisk) -> Result<DomainDisk, Trouble> {
    Ok(DomainDisk {
        id: vm_disk.id,
        format: format_of(&vm_disk.format)?,
        path: vm_disk.path,
        target: vm_disk.target,
        readonly: vm_disk.readonly,
        cdrom: vm_disk.cdrom,
    })
}

/// BRIDGE names a bridge of the host, NETWORK a libvirt network; `user` is QEMU's own, which needs no rights.
fn nics(template: &Template) -> Vec<DomainNic> {
    template
        .vectors("NIC")
        .filter_map(|nic| {
            let (kind, source) = match (nic.get("BRIDGE"), nic.get("NETWORK")) {
                (Some(bridge), _) => (NicKind::Bridge, bridge),
                (None, Some("user")) => (NicKind::User, ""),
                (None, Some(network)) => (NicKind::Network, network),
                (None, None) => return None,
            };
            Some(DomainNic {
                kind,
                source: source.to_string(),
                mac: nic.get("MAC").map(String::from),
                model: nic.get("MODEL").unwrap_or("virtio").to_string(),
                target: String::new(),
            })
        })
        .collect()
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
