//! What a [`DomainSpec`] looks like to libvirt.
//!
//! Facts: libvirt's "Domain XML format" page. Domains are persistent, so that libvirt remembers their checkpoints; they
//! are destroyed on power-off and on a crash, so that "the guest shut down" and "the domain is off" are one thing.

use std::path::Path;

use super::xml::{Attributes, Document};
use super::{check_name, check_text};
use crate::hypervisor::{DomainDisk, DomainNic, DomainSpec, NicKind};
use crate::{DriverError, Kind, Result};

/// Better than libvirt's own choice, an old LSI card that guests of today have no driver for.
const SCSI: Attributes<'_> = &[("type", "scsi"), ("model", "virtio-scsi")];
/// How many devices can be attached to a running q35 machine, beyond those that it was started with.
const SPARE_PORTS: usize = 8;
/// A machine with more ports runs out of PCI buses; libvirt adds what more its devices need.
const MAX_PORTS: usize = 64;

/// Renders the document that defines the domain.
///
/// # Errors
/// [`Kind::Permanent`] for text that libvirt cannot take (control characters, paths that are not absolute UTF-8).
pub(super) fn document(spec: &DomainSpec) -> Result<String> {
    check(spec)?;
    let machine = spec.machine.as_deref();
    let mut out = Document::new();
    let kind = if spec.emulated { "qemu" } else { "kvm" };
    let mut rendered = Ok(());
    out.node("domain", &[("type", kind)], |domain| {
        domain.text("name", &[], &spec.name);
        domain.text("uuid", &[], &spec.uuid);
        domain.text("memory", &[("unit", "MiB")], &spec.memory_mb.to_string());
        domain.text("vcpu", &[], &spec.vcpus.to_string());
        rendered = boot(domain, spec);
        domain.node("features", &[], |features| {
            features.leaf("acpi", &[]);
            features.leaf("apic", &[]);
        });
        cpu(domain, spec);
        domain.leaf("clock", &[("offset", "utc")]);
        domain.text("on_poweroff", &[], "destroy");
        domain.text("on_reboot", &[], "restart");
        domain.text("on_crash", &[], "destroy");
        domain.node("pm", &[], |pm| {
            pm.leaf("suspend-to-mem", &[("enabled", "no")]);
            pm.leaf("suspend-to-disk", &[("enabled", "no")]);
        });
        if rendered.is_ok() {
            domain.node("devices", &[], |list| rendered = devices(list, spec, machine));
        }
    });
    rendered?;
    out.finish()
}

/// Guests of today refuse to boot on QEMU's default model (no SSE4), so that of the host is shown to them where it can be.
fn cpu(domain: &mut Document, spec: &DomainSpec) {
    match spec.cpu_model.as_deref() {
        None if spec.emulated => {}
        None => domain.leaf("cpu", &[("mode", "host-passthrough")]),
        Some(mode @ ("host-passthrough" | "host-model")) => domain.leaf("cpu", &[("mode", mode)]),
        Some(model) => domain.node("cpu", &[("mode", "custom"), ("match", "exact")], |cpu| {
            cpu.text("model", &[("fallback", "allow")], model);
        }),
    }
}

/// Refuses what would not survive the way into the document.
fn check(spec: &DomainSpec) -> Result<()> {
    check_name(&spec.name)?;
    let texts = [
        Some(&spec.uuid),
        spec.machine.as_ref(),
        spec.arch.as_ref(),
        spec.kernel_cmd.as_ref(),
        spec.cpu_model.as_ref(),
    ];
    texts.into_iter().flatten().try_for_each(|text| check_text("defining a domain", text))?;
    for disk in &spec.disks {
        check_text("defining a domain", &disk.target)?;
    }
    spec.nics.iter().try_for_each(check_nic)?;
    spec.vnc.iter().try_for_each(|(listen, _)| check_text("defining a domain", listen))
}

/// The kernel's limit for names of network devices, without their NUL.
const MAX_INTERFACE_BYTES: usize = 15;

fn check_nic(nic: &DomainNic) -> Result<()> {
    let doing = "describing a network card";
    let texts = [Some(&nic.source), Some(&nic.model), Some(&nic.target), nic.mac.as_ref()];
    texts.into_iter().flatten().try_for_each(|text| check_text(doing, text))?;
    if nic.target.len() > MAX_INTERFACE_BYTES {
        let reason = format!("{:?} is longer than the {MAX_INTERFACE_BYTES} bytes of a device's name", nic.target);
        return Err(DriverError::new(Kind::Permanent, doing, reason));
    }
    Ok(())
}

/// The document of one disk, for a domain of type `machine`.
pub(super) fn disk_document(disk: &DomainDisk, machine: Option<&str>) -> Result<String> {
    check_text("describing a disk", &disk.target)?;
    let mut out = Document::new();
    one_disk(&mut out, disk, machine)?;
    out.finish()
}

/// The document of one network card.
pub(super) fn nic_document(nic: &DomainNic) -> Result<String> {
    check_nic(nic)?;
    let mut out = Document::new();
    interface(&mut out, nic);
    out.finish()
}

/// The document of the controller that SCSI disks need.
pub(super) fn scsi_document() -> Result<String> {
    let mut out = Document::new();
    out.leaf("controller", SCSI);
    out.finish()
}

/// An absolute path as text.
pub(super) fn path_text(path: &Path) -> Result<&str> {
    let refuse = |reason: &str| {
        DriverError::new(Kind::Permanent, "naming a file to libvirt", format!("{}: {reason}", path.display()))
    };
    if !path.is_absolute() {
        return Err(refuse("the path must be absolute"));
    }
    let text = path.to_str().ok_or_else(|| refuse("the path must be UTF-8"))?;
    check_text("naming a file to libvirt", text)?;
    Ok(text)
}

fn boot(domain: &mut Document, spec: &DomainSpec) -> Result<()> {
    let files = [("kernel", &spec.kernel), ("initrd", &spec.initrd)];
    let mut texts = Vec::new();
    for (name, file) in files {
        if let Some(file) = file {
            texts.push((name, path_text(file)?));
        }
    }
    if let (Some(command), Some(_)) = (&spec.kernel_cmd, &spec.kernel) {
        texts.push(("cmdline", command));
    }
    domain.node("os", &[], |os| {
        let arch = spec.arch.as_deref().unwrap_or("x86_64");
        match spec.machine.as_deref() {
            Some(machine) => os.text("type", &[("arch", arch), ("machine", machine)], "hvm"),
            None => os.text("type", &[("arch", arch)], "hvm"),
        }
        for (name, text) in texts {
            os.text(name, &[], text);
        }
        os.leaf("boot", &[("dev", "hd")]);
        if spec.disks.iter().any(|disk| disk.cdrom) {
            os.leaf("boot", &[("dev", "cdrom")]);
        }
    });
    Ok(())
}

fn devices(list: &mut Document, spec: &DomainSpec, machine: Option<&str>) -> Result<()> {
    for disk in &spec.disks {
        one_disk(list, disk, machine)?;
    }
    if spec.disks.iter().any(|disk| bus(disk, machine) == "scsi") {
        list.leaf("controller", SCSI);
    }
    ports(list, spec, machine);
    list.leaf("controller", &[("type", "usb"), ("model", "none")]);
    for nic in &spec.nics {
        interface(list, nic);
    }
    if let Some(log) = &spec.serial_log {
        let path = path_text(log)?;
        list.node("serial", &[("type", "file")], |serial| {
            serial.leaf("source", &[("path", path), ("append", "on")]);
            serial.leaf("target", &[("port", "0")]);
        });
    }
    if spec.guest_agent {
        list.node("channel", &[("type", "unix")], |channel| {
            channel.leaf("target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")]);
        });
    }
    if let Some((listen, port)) = &spec.vnc {
        let port = port.to_string();
        let attributes: Attributes<'_> = &[("type", "vnc"), ("port", &port), ("autoport", "no"), ("listen", listen)];
        list.leaf("graphics", attributes);
        list.node("video", &[], |video| video.leaf("model", &[("type", "vga")]));
    }
    list.leaf("memballoon", &[("model", "virtio")]);
    list.node("rng", &[("model", "virtio")], |rng| {
        rng.text("backend", &[("model", "random")], "/dev/urandom");
    });
    Ok(())
}

/// On q35 each device sits in a port of its own, and ports cannot be added to a running machine. libvirt makes as many as
/// the devices of the document need; so those are listed here with some to spare.
fn ports(list: &mut Document, spec: &DomainSpec, machine: Option<&str>) {
    if !is_q35(machine) {
        return;
    }
    // One each for the SCSI controller, the agent's channel, the balloon and the random numbers.
    let taken = spec.disks.len().saturating_add(spec.nics.len()).saturating_add(4);
    list.leaf("controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")]);
    for _ in 0..taken.saturating_add(SPARE_PORTS).min(MAX_PORTS) {
        list.leaf("controller", &[("type", "pci"), ("model", "pcie-root-port")]);
    }
}

fn is_q35(machine: Option<&str>) -> bool {
    machine.is_some_and(|machine| machine.contains("q35"))
}

/// The bus that a target name stands for. q35 machines have no IDE controller; there `hda` goes to SATA.
pub(super) fn bus(disk: &DomainDisk, machine: Option<&str>) -> &'static str {
    let has_ide = !is_q35(machine);
    match disk.target.get(..2) {
        Some("hd") if has_ide => "ide",
        Some("hd") => "sata",
        Some("sd") if disk.cdrom => "sata",
        Some("sd") => "scsi",
        Some("fd") => "fdc",
        _ => "virtio",
    }
}

fn one_disk(list: &mut Document, disk: &DomainDisk, machine: Option<&str>) -> Result<()> {
    let path = path_text(&disk.path)?;
    let device = if disk.cdrom { "cdrom" } else { "disk" };
    list.node("disk", &[("type", "file"), ("device", device)], |inside| {
        inside.leaf("driver", &[("name", "qemu"), ("type", disk.format.as_str()), ("discard", "unmap")]);
        inside.leaf("source", &[("file", path)]);
        inside.leaf("target", &[("dev", &disk.target), ("bus", bus(disk, machine))]);
        if disk.readonly || disk.cdrom {
            inside.leaf("readonly", &[]);
        }
    });
    Ok(())
}

fn interface(list: &mut Document, nic: &DomainNic) {
    let kind = match nic.kind {
        NicKind::Network => "network",
        NicKind::Bridge => "bridge",
        NicKind::User => "user",
    };
    list.node("interface", &[("type", kind)], |inside| {
        if let Some(mac) = &nic.mac {
            inside.leaf("mac", &[("address", mac)]);
        }
        if nic.kind != NicKind::User {
            inside.leaf("source", &[(kind, &nic.source)]);
        }
        if nic.kind != NicKind::User && !nic.target.is_empty() {
            inside.leaf("target", &[("dev", &nic.target)]);
        }
        inside.leaf("model", &[("type", &nic.model)]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::DiskFormat;

    fn spec() -> DomainSpec {
        DomainSpec {
            name: "one-7".into(),
            uuid: "5c9e4b1e-7d3f-4b55-9d4e-0f6a31f8a001".into(),
            emulated: true,
            memory_mb: 64,
            vcpus: 1,
            cpu_model: None,
            machine: Some("q35".into()),
            arch: None,
            kernel: Some("/boot/k".into()),
            initrd: None,
            kernel_cmd: Some("a=<b> & \"c\"".into()),
            disks: vec![DomainDisk {
                id: 0,
                path: "/a&b.qcow2".into(),
                format: DiskFormat::Qcow2,
                target: "vda".into(),
                readonly: false,
                cdrom: false,
            }],
            nics: vec![DomainNic {
                kind: NicKind::User,
                source: String::new(),
                mac: None,
                model: "virtio".into(),
                target: String::new(),
            }],
            serial_log: None,
            guest_agent: true,
            vnc: Some(("127.0.0.1".into(), 5907)),
        }
    }

    #[test]
    fn markup_in_values_is_escaped() {
        let text = document(&spec()).unwrap();
        assert!(text.contains("<cmdline>a=&lt;b&gt; &amp;"), "{text}");
        assert!(text.contains("file=\"/a&amp;b.qcow2\""), "{text}");
        assert_eq!(super::super::xml::domain_disks(&text).unwrap().len(), 1);
    }

    #[test]
    fn control_characters_and_relative_paths_are_refused() {
        let mut bad = spec();
        bad.kernel_cmd = Some("a\0b".into());
        assert_eq!(document(&bad).unwrap_err().kind, Kind::Permanent);
        let mut bad = spec();
        bad.disks[0].path = "a.qcow2".into();
        assert_eq!(document(&bad).unwrap_err().kind, Kind::Permanent);
        let mut bad = spec();
        bad.name = "a/b".into();
        assert_eq!(document(&bad).unwrap_err().kind, Kind::Permanent);
    }

    #[test]
    fn a_virtualised_guest_sees_the_hosts_processor_unless_another_is_named() {
        let mut kvm = spec();
        assert!(!document(&kvm).unwrap().contains("<cpu"), "emulated: QEMU's default");
        kvm.emulated = false;
        assert!(document(&kvm).unwrap().contains("<cpu mode=\"host-passthrough\"/>"));
        kvm.cpu_model = Some("Haswell".into());
        let text = document(&kvm).unwrap();
        assert!(
            text.contains("<cpu mode=\"custom\" match=\"exact\"><model fallback=\"allow\">Haswell</model></cpu>"),
            "{text}"
        );
    }

    #[test]
    fn targets_choose_the_bus_that_the_machine_has() {
        let mut disk = spec().disks.remove(0);
        assert_eq!(bus(&disk, Some("q35")), "virtio");
        disk.target = "hda".into();
        assert_eq!(bus(&disk, Some("pc-q35-7.2")), "sata");
        assert_eq!(bus(&disk, None), "ide");
        disk.target = "sda".into();
        assert_eq!(bus(&disk, None), "scsi");
        disk.cdrom = true;
        assert_eq!(bus(&disk, None), "sata");
    }
}
