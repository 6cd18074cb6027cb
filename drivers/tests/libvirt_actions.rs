//! What the libvirt driver does to VMs beside backups, against a real libvirtd and real QEMUs: saving, devices that come
//! and go, snapshots, statistics.
//!
//! Judges are qemu-img, qemu-io, virsh and the guest itself. Guests without an operating system stand for those that do not
//! answer.
#![cfg(feature = "libvirt")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also outside #[test] functions")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drivers::hypervisor::DiskFormat::{Qcow2, Raw};
use drivers::hypervisor::{
    BackupDisk, BackupSpec, DiskFormat, DomainDisk, DomainNic, DomainSpec, DomainState, Freeze, NicKind,
};
use drivers::libvirt::Libvirt;
use drivers::{Hypervisor, Kind};
use system_tests::command;
use system_tests::guest::{self, Guest};
use system_tests::libvirtd::{Libvirtd, Mode};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const NAME: &str = "one-9";
const MAC: &str = "02:00:c0:a8:00:09";
const SOON: Duration = Duration::from_secs(60);

/// A domain with a private libvirtd. Fields drop in this order.
struct Lab {
    hypervisor: Libvirt,
    libvirtd: Libvirtd,
    dir: TempDir,
    spec: DomainSpec,
}

fn tool(program: &str, arguments: &[&str]) -> String {
    command::output(program, arguments).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Lab {
    /// One image of each format; nothing is defined.
    fn new(formats: &[DiskFormat]) -> Self {
        let dir = tempfile::Builder::new().prefix("ha").tempdir().unwrap();
        let libvirtd = Libvirtd::start(dir.path().join("lv")).unwrap();
        Self::with(dir, libvirtd, formats)
    }

    fn with(dir: TempDir, libvirtd: Libvirtd, formats: &[DiskFormat]) -> Self {
        let hypervisor = Libvirt::connect(&libvirtd.uri()).unwrap();
        let spec = DomainSpec {
            name: NAME.into(),
            uuid: "5c9e4b1e-7d3f-4b55-9d4e-0f6a31f8a009".into(),
            emulated: true,
            memory_mb: 32,
            vcpus: 1,
            cpu_model: None,
            machine: Some("q35".into()),
            arch: None,
            kernel: None,
            initrd: None,
            kernel_cmd: None,
            disks: Vec::new(),
            nics: Vec::new(),
            serial_log: Some(dir.path().join("serial")),
            guest_agent: true,
            vnc: None,
        };
        let mut lab = Self { hypervisor, libvirtd, dir, spec };
        for (target, format) in ["vda", "vdb", "vdc"].iter().zip(formats) {
            let disk = lab.disk(target, *format);
            lab.spec.disks.push(disk);
        }
        lab
    }

    /// Running, without an operating system.
    fn started(formats: &[DiskFormat]) -> Self {
        let lab = Self::new(formats);
        lab.hypervisor.deploy(&lab.spec).unwrap();
        lab
    }

    /// Defined and off.
    fn off(formats: &[DiskFormat]) -> Self {
        let lab = Self::started(formats);
        lab.hypervisor.destroy(NAME).unwrap();
        lab
    }

    /// Running Linux with an agent and one disk.
    fn booted() -> Self {
        Self::booted_on("q35")
    }

    fn booted_on(machine: &str) -> Self {
        let guest = Guest::built().unwrap();
        let mut lab = Self::new(&[Qcow2]);
        guest::make_disk(&lab.spec.disks[0].path, 32 << 20, "one").unwrap();
        lab.spec.memory_mb = 256;
        lab.spec.machine = Some(machine.into());
        lab.spec.kernel = Some(guest.kernel);
        lab.spec.initrd = Some(guest.initrd);
        lab.spec.kernel_cmd = Some(guest::KERNEL_CMD.into());
        lab.hypervisor.deploy(&lab.spec).unwrap();
        guest::wait_ready(&lab.path("serial")).unwrap();
        guest::wait_agent(&lab.libvirtd.uri(), NAME).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new image and how to attach it.
    fn disk(&self, target: &str, format: DiskFormat) -> DomainDisk {
        let path = self.path(target);
        tool("qemu-img", &["create", "-q", "-f", format.as_str(), text(&path), &SIZE.to_string()]);
        let id = u32::from(target.as_bytes()[2] - b'a');
        DomainDisk { id, path, format, target: target.into(), readonly: false, cdrom: false }
    }

    fn vda(&self) -> &DomainDisk {
        &self.spec.disks[0]
    }

    fn state(&self) -> Option<DomainState> {
        self.hypervisor.state(NAME).unwrap()
    }

    fn exec(&self, script: &str) -> String {
        guest::exec_ok(&self.libvirtd.uri(), NAME, script).unwrap().trim().to_owned()
    }

    /// Target and image of each disk: of the running domain, or of its definition.
    fn disks(&self, inactive: bool) -> Vec<(String, String)> {
        let mut arguments = vec!["domblklist", NAME];
        arguments.extend(inactive.then_some("--inactive"));
        let lines = self.libvirtd.virsh(&arguments).unwrap();
        let pair = |line: &str| line.trim().split_once(' ').map(|(a, b)| (a.to_owned(), b.trim().to_owned()));
        lines.lines().filter_map(pair).collect()
    }

    fn targets(&self, inactive: bool) -> Vec<String> {
        self.disks(inactive).into_iter().map(|(target, _)| target).collect()
    }

    fn macs(&self, inactive: bool) -> Vec<String> {
        let mut arguments = vec!["domiflist", NAME];
        arguments.extend(inactive.then_some("--inactive"));
        let lines = self.libvirtd.virsh(&arguments).unwrap();
        lines.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    }

    fn read(&self, value: u8, offset: u64) -> bool {
        self.libvirtd.qemu_io(NAME, "vda", &format!("read -P {value:#x} {offset} 65536")).is_ok()
    }

    fn write(&self, value: u8, offset: u64) {
        self.libvirtd.write(NAME, "vda", value, offset, 65536).unwrap();
    }

    /// Backs the first disk up and throws it away; the kind of the failure.
    fn backup(&self, checkpoint: &str, since: Option<&str>) -> Result<Vec<u64>, Kind> {
        let spec = BackupSpec {
            domain: NAME.into(),
            socket: self.path("nbd"),
            checkpoint: Some(checkpoint.into()),
            disks: vec![BackupDisk {
                id: 0,
                path: self.vda().path.clone(),
                format: Qcow2,
                target: "vda".into(),
                since: since.map(str::to_owned),
                track: true,
                scratch: self.path("scratch"),
            }],
            freeze: Freeze::None,
            freeze_required: false,
            freeze_timeout: Duration::from_secs(3),
        };
        let mut session = self.hypervisor.begin_backup(&spec).map_err(|error| error.kind)?;
        let extents = session.disk(0).unwrap().extents().unwrap();
        session.end().unwrap();
        Ok(extents.iter().map(|extent| extent.offset).collect())
    }

    fn checkpoints(&self) -> Vec<String> {
        self.hypervisor.checkpoints(NAME, &[self.vda().path.clone()]).unwrap()
    }
}

/// Size and names of snapshots, as qemu-img tells them.
fn image(path: &Path) -> (u64, Vec<String>) {
    let info = tool("qemu-img", &["info", "-U", "--output=json", text(path)]);
    let size = info.lines().find_map(|line| line.trim().strip_prefix("\"virtual-size\": ")).unwrap();
    let list = tool("qemu-img", &["snapshot", "-U", "-l", text(path)]);
    let names = list.lines().skip(2).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned);
    (size.trim_end_matches(',').parse().unwrap(), names.collect())
}

fn nic() -> DomainNic {
    DomainNic {
        kind: NicKind::User,
        source: String::new(),
        mac: Some(MAC.into()),
        model: "virtio".into(),
        target: String::new(),
    }
}

#[test]
fn a_saved_guest_goes_on_where_it_was_and_keeps_its_chain_of_increments() {
    let lab = Lab::booted();
    lab.exec("(i=0; while :; do i=$((i+1)); echo $i > /run/count; sleep 1; done) >/dev/null 2>&1 & echo $! > /run/pid");
    let boot = lab.exec("cat /proc/sys/kernel/random/boot_id");
    lab.backup("c-0", None).unwrap();
    lab.exec("sync; dd if=/dev/zero bs=64k count=1 2>/dev/null | tr '\\0' x > /mnt/vda/more; sync");
    let file = lab.path("saved");
    std::fs::write(lab.path("saved.part"), "left over").unwrap();

    lab.hypervisor.save(NAME, &file).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Off));
    assert!(file.exists() && !lab.path("saved.part").exists());
    lab.hypervisor.save(NAME, &file).unwrap();
    // The daemon died between the saving and the renaming.
    std::fs::rename(&file, lab.path("saved.part")).unwrap();
    lab.hypervisor.save(NAME, &file).unwrap();
    assert!(file.exists() && !lab.path("saved.part").exists());

    lab.hypervisor.restore_saved(NAME, &file).unwrap();
    lab.hypervisor.restore_saved(NAME, &file).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    guest::wait_agent(&lab.libvirtd.uri(), NAME).unwrap();
    assert_eq!(lab.exec("cat /proc/sys/kernel/random/boot_id"), boot);
    let count = || lab.exec("cat /run/count").parse::<u64>().unwrap_or(0);
    let before = count();
    lab.exec("kill -0 $(cat /run/pid)");
    let end = Instant::now() + SOON;
    while count() <= before {
        assert!(Instant::now() < end, "the guest's process does not go on");
    }
    assert!(lab.libvirtd.virsh(&["list", "--persistent", "--name"]).unwrap().contains(NAME));

    // What libvirt 9.0 with QEMU 7.2 does; a bitmap that gets lost would be Kind::Missing here.
    assert_eq!(lab.checkpoints(), ["c-0"]);
    let increment = lab.backup("c-1", Some("c-0")).unwrap();
    assert!(!increment.is_empty(), "what was written before the saving is part of the increment");
}

#[test]
fn saving_refuses_what_cannot_work_and_leaves_the_guest_running() {
    let lab = Lab::started(&[Qcow2]);
    let error = lab.hypervisor.save(NAME, &lab.path("no/such/dir")).unwrap_err();
    assert_eq!(error.kind, Kind::Permanent, "{error}");
    assert_eq!(lab.state(), Some(DomainState::Running));
    let kinds = |result: drivers::Result<()>| result.unwrap_err().kind;
    assert_eq!(kinds(lab.hypervisor.save("one-404", &lab.path("x"))), Kind::Missing);
    lab.hypervisor.pause(NAME).unwrap();
    lab.hypervisor.pause(NAME).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Paused));
    let file = lab.path("saved");
    lab.hypervisor.save(NAME, &file).unwrap();
    assert_eq!(kinds(lab.hypervisor.pause(NAME)), Kind::Permanent);
    assert_eq!(kinds(lab.hypervisor.save(NAME, &lab.path("other"))), Kind::Missing);
    assert_eq!(kinds(lab.hypervisor.restore_saved(NAME, &lab.path("other"))), Kind::Missing);
    assert_eq!(kinds(lab.hypervisor.restore_saved("one-404", &file)), Kind::Corrupt);
    // The host went down in the middle of writing.
    std::fs::write(lab.path("other.part"), "LibvirtQemudPart").unwrap();
    assert_eq!(kinds(lab.hypervisor.save(NAME, &lab.path("other"))), Kind::Missing);
    assert!(!lab.path("other.part").exists());
    // Nobody knows what this is; it is neither used nor thrown away.
    std::fs::write(lab.path("other.part"), "LibvirtQemudSave").unwrap();
    assert_eq!(kinds(lab.hypervisor.save(NAME, &lab.path("other"))), Kind::Corrupt);
    assert!(lab.path("other.part").exists() && !lab.path("other").exists());
    std::fs::write(lab.path("garbage"), "LibvirtQemud").unwrap();
    assert_eq!(kinds(lab.hypervisor.restore_saved(NAME, &lab.path("garbage"))), Kind::Corrupt);
    assert_eq!(lab.state(), Some(DomainState::Off));
    // Also without its definition it comes back as a defined domain, and running.
    lab.hypervisor.undefine(NAME).unwrap();
    lab.hypervisor.restore_saved(NAME, &file).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    lab.hypervisor.destroy(NAME).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Off));
}

#[test]
fn a_running_guest_gets_and_gives_back_disks_and_cards() {
    gives_back("q35");
}

#[test]
fn a_running_guest_without_pci_express_does_the_same() {
    gives_back("pc");
}

fn gives_back(machine: &str) {
    let lab = Lab::booted_on(machine);
    let disk = lab.disk("vdb", Qcow2);
    lab.hypervisor.attach_disk(NAME, &disk).unwrap();
    lab.hypervisor.attach_disk(NAME, &disk).unwrap();
    for inactive in [false, true] {
        assert_eq!(lab.disks(inactive)[1], ("vdb".to_owned(), text(&disk.path).to_owned()));
    }
    let size = |wanted: u64| {
        let end = Instant::now() + SOON;
        let sectors = (wanted / 512).to_string();
        while lab.exec("cat /sys/block/vdb/size 2>/dev/null || true") != sectors {
            assert!(Instant::now() < end, "the guest sees no disk of {wanted} bytes");
        }
    };
    size(SIZE);
    lab.exec("echo hello | dd of=/dev/vdb bs=512 count=1 conv=fsync 2>/dev/null");

    lab.hypervisor.resize_disk(NAME, &disk, 2 * SIZE).unwrap();
    lab.hypervisor.resize_disk(NAME, &disk, 2 * SIZE).unwrap();
    size(2 * SIZE);
    assert_eq!(image(&disk.path).0, 2 * SIZE);
    let smaller = lab.hypervisor.resize_disk(NAME, &disk, SIZE).unwrap_err();
    assert_eq!(smaller.kind, Kind::Permanent, "{smaller}");

    let other = DomainDisk { path: lab.vda().path.clone(), ..disk.clone() };
    assert_eq!(lab.hypervisor.attach_disk(NAME, &other).unwrap_err().kind, Kind::Permanent);
    lab.hypervisor.detach_disk(NAME, "vdb", SOON).unwrap();
    lab.hypervisor.detach_disk(NAME, "vdb", SOON).unwrap();
    assert_eq!((lab.targets(false), lab.targets(true)), (vec!["vda".to_owned()], vec!["vda".to_owned()]));
    assert_eq!(lab.exec("ls /dev/vdb 2>/dev/null || echo gone"), "gone");
    let start = tool("qemu-io", &["-r", "-f", "qcow2", "-c", "read -v 0 16", text(&disk.path)]);
    assert!(start.contains("hello"), "{start}");

    let pci = || lab.exec("grep -lE '0x1041|0x1000' /sys/bus/pci/devices/*/device | wc -l");
    lab.hypervisor.attach_nic(NAME, &nic()).unwrap();
    lab.hypervisor.attach_nic(NAME, &nic()).unwrap();
    assert_eq!((lab.macs(false), lab.macs(true)), (vec![MAC.to_owned()], vec![MAC.to_owned()]));
    let end = Instant::now() + SOON;
    while pci() != "1" {
        assert!(Instant::now() < end, "the guest sees no card");
    }
    lab.hypervisor.detach_nic(NAME, &MAC.to_uppercase(), SOON).unwrap();
    lab.hypervisor.detach_nic(NAME, MAC, SOON).unwrap();
    assert!(lab.macs(false).is_empty() && lab.macs(true).is_empty());
    assert_eq!(pci(), "0");
}

#[test]
fn a_guest_that_does_not_let_go_keeps_its_device_everywhere() {
    for machine in ["q35", "pc"] {
        let mut lab = Lab::new(&[Qcow2, Qcow2]);
        lab.spec.machine = Some(machine.into());
        lab.spec.nics.push(nic());
        lab.hypervisor.deploy(&lab.spec).unwrap();
        lab.hypervisor.pause(NAME).unwrap();
        for _ in 0..2 {
            let error = lab.hypervisor.detach_disk(NAME, "vdb", Duration::from_secs(1)).unwrap_err();
            assert_eq!(error.kind, Kind::Retry, "{machine}: {error}");
        }
        let error = lab.hypervisor.detach_nic(NAME, MAC, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "{machine}: {error}");
        assert_eq!((lab.targets(false).len(), lab.targets(true).len()), (2, 2));
        assert_eq!((lab.macs(false).len(), lab.macs(true).len()), (1, 1));
        // It is gone as soon as the guest is.
        lab.hypervisor.destroy(NAME).unwrap();
        lab.hypervisor.detach_disk(NAME, "vdb", SOON).unwrap();
        lab.hypervisor.detach_nic(NAME, MAC, SOON).unwrap();
        assert_eq!((lab.targets(true).len(), lab.macs(true).len()), (1, 0));
    }
}

#[test]
fn what_the_hypervisor_refuses_to_attach_is_nowhere_afterwards() {
    let lab = Lab::started(&[Qcow2]);
    let mut absent = lab.disk("vdb", Qcow2);
    std::fs::remove_file(&absent.path).unwrap();
    let error = lab.hypervisor.attach_disk(NAME, &absent).unwrap_err();
    assert_eq!(error.kind, Kind::Permanent, "{error}");
    absent.target = "hdb".into();
    let error = lab.hypervisor.attach_disk(NAME, &absent).unwrap_err();
    assert_eq!(error.kind, Kind::Permanent, "{error}");
    assert_eq!((lab.targets(false).len(), lab.targets(true).len()), (1, 1));

    let unnamed = DomainNic { mac: None, ..nic() };
    let long = DomainNic { target: "sixteen-letters-".into(), ..nic() };
    let nowhere = DomainNic { kind: NicKind::Network, source: "no-such-network".into(), ..nic() };
    for wrong in [unnamed, long, nowhere] {
        let error = lab.hypervisor.attach_nic(NAME, &wrong).unwrap_err();
        assert_eq!(error.kind, Kind::Permanent, "{error}");
    }
    assert!(lab.macs(false).is_empty() && lab.macs(true).is_empty());
    assert_eq!(lab.hypervisor.attach_disk("one-404", lab.vda()).unwrap_err().kind, Kind::Missing);
    assert_eq!(lab.hypervisor.attach_nic("one-404", &nic()).unwrap_err().kind, Kind::Missing);
    lab.hypervisor.detach_disk("one-404", "vda", SOON).unwrap();

    // A SCSI disk brings its controller along, with a model that guests have a driver for.
    for target in ["sda", "sdb"] {
        lab.hypervisor.attach_disk(NAME, &lab.disk(target, Raw)).unwrap();
    }
    let document = lab.libvirtd.virsh(&["dumpxml", NAME]).unwrap();
    assert_eq!(document.matches("model='virtio-scsi'").count(), 1, "{document}");
    assert!(!document.contains("lsilogic"), "{document}");
    lab.hypervisor.destroy(NAME).unwrap();
    lab.hypervisor.resume(NAME).unwrap();
    assert_eq!(lab.targets(false), ["vda", "sda", "sdb"]);
}

/// A bridge of the host; dropping it removes it.
struct Bridge(String);

impl Bridge {
    fn new() -> Self {
        let name = format!("klb{}", std::process::id());
        tool("ip", &["link", "add", &name, "type", "bridge"]);
        tool("ip", &["link", "set", &name, "up"]);
        Self(name)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        command::output("ip", &["link", "del", &self.0]).ok();
    }
}

#[test]
fn a_card_on_a_bridge_has_the_name_that_it_was_given_on_the_host() {
    let bridge = Bridge::new();
    let dir = tempfile::Builder::new().prefix("ha").tempdir().unwrap();
    let libvirtd = Libvirtd::start_in(dir.path().join("lv"), Mode::System).unwrap();
    let mut lab = Lab::with(dir, libvirtd, &[Qcow2]);
    let card = |number: u32, mac: &str| DomainNic {
        kind: NicKind::Bridge,
        source: bridge.0.clone(),
        target: format!("k{}-{number}", std::process::id()),
        mac: Some(mac.into()),
        ..nic()
    };
    let (first, second) = (card(0, MAC), card(1, "02:00:c0:a8:00:0a"));
    lab.spec.nics.push(first.clone());
    lab.hypervisor.deploy(&lab.spec).unwrap();
    lab.hypervisor.attach_nic(NAME, &second).unwrap();
    for nic in [&first, &second] {
        let link = tool("ip", &["-o", "link", "show", &nic.target]);
        assert!(link.contains(&format!("master {}", bridge.0)), "{link}");
    }
    assert!(lab.hypervisor.stats(NAME).unwrap().is_some());
    lab.hypervisor.destroy(NAME).unwrap();
    lab.hypervisor.detach_nic(NAME, MAC, SOON).unwrap();
    lab.hypervisor.resume(NAME).unwrap();
    let links = tool("ip", &["-o", "link"]);
    assert!(links.contains(&second.target) && !links.contains(&first.target), "{links}");
    let duplicate = DomainNic { mac: Some(MAC.into()), ..second };
    assert_eq!(lab.hypervisor.attach_nic(NAME, &duplicate).unwrap_err().kind, Kind::Permanent);
    assert_eq!((lab.macs(false).len(), lab.macs(true).len()), (1, 1));
    lab.hypervisor.destroy(NAME).unwrap();
}

#[test]
fn a_domain_that_is_off_is_changed_in_its_definition() {
    let lab = Lab::off(&[Qcow2, Raw]);
    let disk = lab.disk("vdc", Qcow2);
    for _ in 0..2 {
        lab.hypervisor.attach_disk(NAME, &disk).unwrap();
        assert_eq!(lab.targets(true), ["vda", "vdb", "vdc"]);
    }
    let bridged = DomainNic {
        kind: NicKind::Bridge,
        source: "br0".into(),
        target: "one-9-0".into(),
        mac: Some("02:00:00:00:00:01".into()),
        model: "virtio".into(),
    };
    let network = DomainNic {
        kind: NicKind::Network,
        source: "default".into(),
        target: "one-9-1".into(),
        mac: Some("02:00:00:00:00:02".into()),
        model: "virtio".into(),
    };
    lab.hypervisor.attach_nic(NAME, &bridged).unwrap();
    lab.hypervisor.attach_nic(NAME, &network).unwrap();
    let document = lab.libvirtd.virsh(&["dumpxml", "--inactive", NAME]).unwrap();
    for wanted in ["<source bridge='br0'/>", "<target dev='one-9-0'/>", "<source network='default'/>", "dev='one-9-1'"]
    {
        assert!(document.contains(wanted), "{wanted}: {document}");
    }
    lab.hypervisor.detach_nic(NAME, "02:00:00:00:00:01", SOON).unwrap();
    lab.hypervisor.detach_nic(NAME, "02:00:00:00:00:02", SOON).unwrap();
    lab.hypervisor.detach_disk(NAME, "vdc", SOON).unwrap();
    assert_eq!(lab.targets(true), ["vda", "vdb"]);
    assert!(lab.macs(true).is_empty());

    for disk in &lab.spec.disks {
        for _ in 0..2 {
            lab.hypervisor.resize_disk(NAME, disk, 2 * SIZE).unwrap();
            assert_eq!(image(&disk.path).0, 2 * SIZE);
        }
        for wrong in [SIZE, 2 * SIZE + 1] {
            let error = lab.hypervisor.resize_disk(NAME, disk, wrong).unwrap_err();
            assert_eq!(error.kind, Kind::Permanent, "{error}");
        }
        assert_eq!(image(&disk.path).0, 2 * SIZE);
    }
    let absent = DomainDisk { path: lab.path("absent"), ..lab.vda().clone() };
    assert_eq!(lab.hypervisor.resize_disk(NAME, &absent, SIZE).unwrap_err().kind, Kind::Missing);
}

#[test]
fn snapshots_of_a_disk_are_made_reverted_and_deleted_while_its_domain_is_off() {
    let lab = Lab::off(&[Qcow2, Raw]);
    let disk = lab.vda();
    let io = |order: &str| tool("qemu-io", &["-f", "qcow2", "-c", order, text(&disk.path)]);
    let holds = |value: u8| !io(&format!("read -P {value} 0 64k")).contains("Pattern verification failed");
    io("write -P 1 0 64k");
    // Names like QEMU's own numbers, in another order.
    for (name, value) in [("2", 2), ("1", 3)] {
        for _ in 0..2 {
            lab.hypervisor.disk_snapshot_create(NAME, disk, name).unwrap();
        }
        io(&format!("write -P {value} 0 64k"));
    }
    assert_eq!(image(&disk.path).1, ["2", "1"]);
    lab.backup("c-0", None).unwrap();
    lab.hypervisor.resize_disk(NAME, disk, 2 * SIZE).unwrap();

    lab.hypervisor.disk_snapshot_revert(NAME, disk, "1").unwrap();
    assert!(holds(2));
    assert_eq!(image(&disk.path), (SIZE, vec!["2".to_owned(), "1".to_owned()]));
    assert_eq!(lab.checkpoints(), Vec::<String>::new(), "a bitmap would miss the change");
    assert_eq!(lab.backup("c-1", Some("c-0")).unwrap_err(), Kind::Missing);
    lab.backup("c-1", None).unwrap();
    lab.hypervisor.disk_snapshot_revert(NAME, disk, "2").unwrap();
    assert!(holds(1));
    let error = lab.hypervisor.disk_snapshot_revert(NAME, disk, "3").unwrap_err();
    assert_eq!(error.kind, Kind::Missing, "{error}");
    for _ in 0..2 {
        lab.hypervisor.disk_snapshot_delete(NAME, disk, "1").unwrap();
        assert_eq!(image(&disk.path).1, ["2"]);
    }

    let raw = &lab.spec.disks[1];
    for wrong in [
        lab.hypervisor.disk_snapshot_create(NAME, raw, "s"),
        lab.hypervisor.disk_snapshot_revert(NAME, raw, "s"),
        lab.hypervisor.disk_snapshot_create(NAME, disk, "-s"),
        lab.hypervisor.disk_snapshot_create(NAME, disk, "s/t"),
    ] {
        assert_eq!(wrong.unwrap_err().kind, Kind::Permanent);
    }
    lab.hypervisor.resume(NAME).unwrap();
    for wrong in [
        lab.hypervisor.disk_snapshot_create(NAME, disk, "s"),
        lab.hypervisor.disk_snapshot_revert(NAME, disk, "2"),
        lab.hypervisor.disk_snapshot_delete(NAME, disk, "2"),
    ] {
        let error = wrong.unwrap_err();
        assert!(error.kind == Kind::Permanent && error.reason.contains("power it off"), "{error}");
    }
    assert_eq!(image(&disk.path).1, ["2"]);
}

#[test]
fn a_running_system_goes_back_to_its_snapshot() {
    let lab = Lab::started(&[Qcow2]);
    lab.write(1, 0);
    lab.backup("c-0", None).unwrap();
    lab.hypervisor.system_snapshot_create(NAME, "s-0").unwrap();
    lab.hypervisor.system_snapshot_create(NAME, "s-0").unwrap();
    assert_eq!(image(&lab.vda().path).1, ["s-0"]);
    assert_eq!(lab.libvirtd.virsh(&["snapshot-list", NAME, "--name"]).unwrap(), "s-0");
    lab.write(2, 0);
    // Increments go on beside the snapshot …
    assert_eq!(lab.backup("c-1", Some("c-0")).unwrap(), [0]);

    lab.hypervisor.system_snapshot_revert(NAME, "s-0").unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    assert!(lab.read(1, 0), "the disk is as it was");
    // … and begin anew after going back.
    assert_eq!(lab.checkpoints(), Vec::<String>::new());
    assert_eq!(lab.backup("c-2", Some("c-1")).unwrap_err(), Kind::Missing);
    lab.backup("c-2", None).unwrap();

    // A disk that came after the snapshot goes.
    lab.hypervisor.attach_disk(NAME, &lab.disk("vdb", Qcow2)).unwrap();
    lab.hypervisor.system_snapshot_revert(NAME, "s-0").unwrap();
    assert_eq!((lab.targets(false).len(), lab.targets(true).len()), (1, 1));
    lab.backup("c-2", None).unwrap();

    // From off, with a bitmap in the image that libvirt remembers.
    lab.write(3, 0);
    lab.hypervisor.destroy(NAME).unwrap();
    let error = lab.hypervisor.system_snapshot_create(NAME, "s-1").unwrap_err();
    assert_eq!(error.kind, Kind::Permanent, "{error}");
    lab.hypervisor.system_snapshot_revert(NAME, "s-0").unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    assert!(lab.read(1, 0));
    assert_eq!(lab.hypervisor.system_snapshot_revert(NAME, "s-9").unwrap_err().kind, Kind::Missing);
    assert_eq!(lab.state(), Some(DomainState::Running), "a revert to nothing stops nobody");

    lab.hypervisor.system_snapshot_create(NAME, "s-1").unwrap();
    for _ in 0..2 {
        lab.hypervisor.system_snapshot_delete(NAME, "s-0").unwrap();
        assert_eq!(image(&lab.vda().path).1, ["s-1"]);
    }
    lab.backup("c-3", None).unwrap();
    lab.hypervisor.destroy(NAME).unwrap();
    lab.hypervisor.system_snapshot_delete(NAME, "s-1").unwrap();
    assert_eq!(image(&lab.vda().path).1, Vec::<String>::new());
    assert_eq!(lab.checkpoints(), ["c-3"], "deleting a snapshot leaves backups alone");
    lab.hypervisor.undefine(NAME).unwrap();
    lab.hypervisor.system_snapshot_delete(NAME, "s-1").unwrap();
    assert_eq!(lab.hypervisor.system_snapshot_create(NAME, "s-1").unwrap_err().kind, Kind::Missing);
}

#[test]
fn a_system_with_a_raw_disk_has_no_snapshots_and_nothing_is_left_of_the_attempt() {
    let lab = Lab::started(&[Qcow2, Raw]);
    let error = lab.hypervisor.system_snapshot_create(NAME, "s-0").unwrap_err();
    assert_eq!(error.kind, Kind::Permanent, "{error}");
    assert_eq!(image(&lab.vda().path).1, Vec::<String>::new());
    assert_eq!(lab.libvirtd.virsh(&["snapshot-list", NAME, "--name"]).unwrap(), "");
    assert_eq!(lab.state(), Some(DomainState::Running));
}

#[test]
fn a_disk_that_grows_keeps_its_chain_of_increments() {
    let lab = Lab::started(&[Qcow2]);
    lab.backup("c-0", None).unwrap();
    lab.hypervisor.resize_disk(NAME, lab.vda(), 2 * SIZE).unwrap();
    lab.write(1, SIZE + MIB);
    assert_eq!(lab.backup("c-1", Some("c-0")).unwrap().last(), Some(&(SIZE + MIB)));
    lab.hypervisor.destroy(NAME).unwrap();
    lab.hypervisor.resize_disk(NAME, lab.vda(), 3 * SIZE).unwrap();
    lab.hypervisor.disk_snapshot_create(NAME, lab.vda(), "s").unwrap();
    tool("qemu-io", &["-f", "qcow2", "-c", "write 150M 64k", text(&lab.vda().path)]);
    assert_eq!(lab.backup("c-2", Some("c-1")).unwrap().last(), Some(&(150 * MIB)));
    assert_eq!(lab.checkpoints(), ["c-0", "c-1", "c-2"]);
}

#[test]
fn nothing_is_done_to_a_domain_whose_disks_are_being_read() {
    let lab = Lab::started(&[Qcow2]);
    lab.hypervisor.system_snapshot_create(NAME, "s-0").unwrap();
    let spec = BackupSpec {
        domain: NAME.into(),
        socket: lab.path("nbd"),
        checkpoint: None,
        disks: vec![BackupDisk {
            id: 0,
            path: lab.vda().path.clone(),
            format: Qcow2,
            target: "vda".into(),
            since: None,
            track: false,
            scratch: lab.path("scratch"),
        }],
        freeze: Freeze::None,
        freeze_required: false,
        freeze_timeout: Duration::from_secs(3),
    };
    let hypervisor = &lab.hypervisor;
    let session = hypervisor.begin_backup(&spec).unwrap();
    for result in [
        hypervisor.save(NAME, &lab.path("saved")),
        hypervisor.attach_disk(NAME, &lab.disk("vdb", Qcow2)),
        hypervisor.attach_nic(NAME, &nic()),
        hypervisor.detach_disk(NAME, "vda", SOON),
        hypervisor.resize_disk(NAME, lab.vda(), 2 * SIZE),
        hypervisor.system_snapshot_create(NAME, "s-1"),
        hypervisor.system_snapshot_revert(NAME, "s-0"),
        hypervisor.system_snapshot_delete(NAME, "s-0"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "{error}");
    }
    assert!(session.is_alive());
    assert!(hypervisor.stats(NAME).unwrap().is_some());
    session.end().unwrap();

    // The same of one that is off and read.
    hypervisor.destroy(NAME).unwrap();
    let session = hypervisor.begin_backup(&spec).unwrap();
    for result in [
        hypervisor.resize_disk(NAME, lab.vda(), 2 * SIZE),
        hypervisor.disk_snapshot_create(NAME, lab.vda(), "d-0"),
        hypervisor.disk_snapshot_revert(NAME, lab.vda(), "s-0"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Retry, "{error}");
    }
    session.end().unwrap();
    hypervisor.resize_disk(NAME, lab.vda(), 2 * SIZE).unwrap();
}

#[test]
fn statistics_grow_with_what_a_guest_does() {
    let lab = Lab::booted();
    let stats = || lab.hypervisor.stats(NAME).unwrap().unwrap();
    let first = stats();
    assert!(first.memory_kb > 64 << 10 && first.memory_kb < 4 << 20, "{first:?}");
    assert!(first.disk_read_bytes > 0 && first.disk_read_ops > 0, "{first:?}");
    lab.exec(
        "dd if=/dev/zero of=/mnt/vda/more bs=1M count=4 conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches",
    );
    lab.exec("cat /mnt/vda/more | wc -c");
    let second = stats();
    assert!(second.disk_write_bytes >= first.disk_write_bytes + 4 * MIB, "{first:?} {second:?}");
    assert!(second.disk_read_bytes >= first.disk_read_bytes + 4 * MIB, "{first:?} {second:?}");
    assert!(second.disk_write_ops > first.disk_write_ops && second.disk_read_ops > first.disk_read_ops);

    lab.exec("(while :; do :; done) >/dev/null 2>&1 &");
    let until = |what: &str, holds: &dyn Fn(f64) -> bool| {
        let end = Instant::now() + SOON;
        while !holds(stats().cpu_percent) {
            assert!(Instant::now() < end, "the guest is never {what}: {:?}", stats());
        }
    };
    until("busy", &|percent| percent > 25.0 && percent < 1000.0);
    lab.hypervisor.pause(NAME).unwrap();
    until("idle", &|percent| (0.0..10.0).contains(&percent));
    lab.hypervisor.destroy(NAME).unwrap();
    assert_eq!(lab.hypervisor.stats(NAME).unwrap(), None);
    assert_eq!(lab.hypervisor.stats("one-404").unwrap(), None);
}
