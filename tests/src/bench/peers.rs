//! What others do with a running VM: each has a domain of its own with a copy of the measured disk, on our libvirtd.
//!
//! [`Staged`] is the way of OpenNebula's restic driver: libvirt writes the disk (or what changed) into a file beside it,
//! and restic takes that file in. Its own programs around that are left out, which only helps it. [`Virtnbdbackup`] is the
//! program of that name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::content::settle;
use super::stock::{PATIENCE, Restic, timed};
use crate::command::{self, wait_for};
use crate::libvirtd::Libvirtd;

/// A domain that was started for a peer; ended when dropped.
#[derive(Debug)]
pub struct Domain {
    uri: String,
    name: String,
}

impl Domain {
    /// Defines and starts a domain with nothing to boot on a copy of `disk`, its processors paused.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub fn start(libvirtd: &Libvirtd, folder: &Path, name: &str, disk: &Path) -> Result<Self> {
        let own = folder.join(format!("{name}.qcow2"));
        fs::copy(disk, &own)?;
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>\
             <source file='{}'/><target dev='vda' bus='virtio'/></disk>\
             <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
            own.display()
        );
        let file = folder.join(format!("{name}.xml"));
        fs::write(&file, xml)?;
        let domain = Self { uri: libvirtd.uri(), name: name.to_owned() };
        libvirtd.virsh(&["define", &file.to_string_lossy()])?;
        libvirtd.virsh(&["start", name, "--paused"])?;
        Ok(domain)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        for verb in [vec!["destroy"], vec!["undefine", "--checkpoints-metadata", "--nvram"]] {
            let mut virsh = Command::new("virsh");
            virsh.args(["-q", "-c", &self.uri]).args(&verb[..1]).arg(&self.name).args(&verb[1..]);
            // It is the bench's own libvirtd, which ends anyway.
            command::run(&mut virsh, PATIENCE).ok();
        }
    }
}

/// libvirt into a file, restic behind it.
#[derive(Debug)]
pub struct Staged {
    domain: Domain,
    staging: PathBuf,
    repository: Option<Restic>,
    points: u32,
}

impl Staged {
    /// A domain on a copy of `disk`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(libvirtd: &Libvirtd, folder: &Path, disk: &Path) -> Result<Self> {
        let domain = Domain::start(libvirtd, folder, "peer-staged", disk)?;
        Ok(Self { domain, staging: folder.join("staging"), repository: None, points: 0 })
    }

    /// The domain's name.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.domain.name()
    }

    /// Everything into a fresh repository at `repository`; making that is not counted.
    ///
    /// # Errors
    /// When libvirt or restic fails.
    pub fn full(&mut self, libvirtd: &Libvirtd, repository: PathBuf) -> Result<Duration> {
        self.repository = Some(Restic::init(repository)?);
        self.backup(libvirtd, false)
    }

    /// What changed since the last one.
    ///
    /// # Errors
    /// When libvirt or restic fails.
    pub fn increment(&mut self, libvirtd: &Libvirtd) -> Result<Duration> {
        self.backup(libvirtd, true)
    }

    fn backup(&mut self, libvirtd: &Libvirtd, incremental: bool) -> Result<Duration> {
        let repository = self.repository.as_ref().context("a full backup comes first")?;
        fs::create_dir_all(&self.staging)?;
        let target = self.staging.join(format!("disk.0.{}", self.points));
        let name = self.domain.name();
        let since = match incremental {
            true => format!("<incremental>{name}-{}</incremental>", self.points - 1),
            false => String::new(),
        };
        let backup = format!(
            "<domainbackup mode='push'>{since}<disks><disk name='vda' type='file' backup='yes'>\
             <target file='{}'/><driver type='qcow2'/></disk></disks></domainbackup>",
            target.display()
        );
        let checkpoint = format!(
            "<domaincheckpoint><name>{name}-{}</name><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>",
            self.points
        );
        let files = [self.staging.with_extension("backup.xml"), self.staging.with_extension("checkpoint.xml")];
        fs::write(&files[0], backup)?;
        fs::write(&files[1], checkpoint)?;
        settle();
        let started = Instant::now();
        libvirtd.virsh(&["backup-begin", name, &files[0].to_string_lossy(), &files[1].to_string_lossy()])?;
        wait_for("the push backup to end", PATIENCE, || {
            let now = libvirtd.virsh(&["domjobinfo", name])?;
            Ok(now.contains("None").then_some(()))
        })?;
        let outcome = libvirtd.virsh(&["domjobinfo", name, "--completed", "--keep-completed"])?;
        if !outcome.contains("Completed") {
            bail!("the push backup did not complete: {outcome}");
        }
        repository.backup_unsettled(&self.staging)?;
        let took = started.elapsed();
        fs::remove_dir_all(&self.staging)?;
        if incremental {
            libvirtd.virsh(&["checkpoint-delete", name, &format!("{name}-{}", self.points - 1)])?;
        }
        self.points += 1;
        Ok(took)
    }
}

/// The program `virtnbdbackup`.
#[derive(Debug)]
pub struct Virtnbdbackup {
    domain: Domain,
    uri: String,
    folder: PathBuf,
}

impl Virtnbdbackup {
    /// A domain on a copy of `disk`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(libvirtd: &Libvirtd, folder: &Path, disk: &Path) -> Result<Self> {
        let domain = Domain::start(libvirtd, folder, "peer-nbd", disk)?;
        Ok(Self { domain, uri: libvirtd.uri(), folder: folder.join("virtnbdbackup") })
    }

    /// The domain's name.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.domain.name()
    }

    /// Everything, into a fresh folder.
    ///
    /// # Errors
    /// When the program fails.
    pub fn full(&self) -> Result<Duration> {
        fs::remove_dir_all(&self.folder).ok();
        self.backup("full")
    }

    /// What changed since the last one.
    ///
    /// # Errors
    /// When the program fails.
    pub fn increment(&self) -> Result<Duration> {
        self.backup("inc")
    }

    fn backup(&self, level: &str) -> Result<Duration> {
        let mut program = Command::new("virtnbdbackup");
        // It wants a name and a password for any address but the system's own; nobody asks for them here.
        program
            .args([
                "--user",
                "nobody",
                "--password",
                "none",
                "-U",
                &self.uri,
                "-d",
                self.domain.name(),
                "-l",
                level,
                "-o",
            ])
            .arg(&self.folder);
        timed(&mut program)
    }
}
