//! The libvirt driver against a real libvirtd and real QEMUs.
//!
//! The guests have no operating system: their disks are written through the guest's own device from QEMU's monitor, which
//! sets the same bits in the same bitmaps.
#![cfg(feature = "libvirt")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also outside #[test] functions")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use drivers::hypervisor::DiskFormat::{Qcow2, Raw};
use drivers::hypervisor::{
    BackupDisk, BackupSpec, DiskFormat, DomainDisk, DomainEvent, DomainSpec, DomainState, Freeze,
};
use drivers::libvirt::Libvirt;
use drivers::{BackupSession, Content, DiskReader, Extent, Hypervisor, Kind};
use system_tests::libvirtd::Libvirtd;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;
const SIZE: u64 = 64 * MIB;
const NAME: &str = "one-7";

/// A domain with a private libvirtd. Fields drop in this order.
struct Lab {
    hypervisor: Libvirt,
    libvirtd: Libvirtd,
    dir: TempDir,
    formats: Vec<DiskFormat>,
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install it with: apt-get install qemu-utils"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Lab {
    fn new(formats: &[DiskFormat]) -> Self {
        let dir = tempfile::Builder::new().prefix("hv").tempdir().unwrap();
        let libvirtd = Libvirtd::start(dir.path().join("lv")).unwrap();
        let hypervisor = Libvirt::connect(&libvirtd.uri()).unwrap();
        let lab = Self { hypervisor, libvirtd, dir, formats: formats.to_vec() };
        for (index, format) in formats.iter().enumerate() {
            let size = SIZE.to_string();
            tool("qemu-img", &["create", "-q", "-f", format.as_str(), lab.image(index).to_str().unwrap(), &size]);
        }
        lab
    }

    /// With the domain defined and paused.
    fn paused(formats: &[DiskFormat]) -> Self {
        let lab = Self::new(formats);
        lab.start();
        lab
    }

    fn start(&self) {
        self.hypervisor.deploy(&self.domain()).unwrap();
        self.libvirtd.virsh(&["suspend", NAME]).unwrap();
    }

    fn image(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("disk.{index}"))
    }

    fn images(&self) -> Vec<PathBuf> {
        (0..self.formats.len()).map(|index| self.image(index)).collect()
    }

    fn target(index: usize) -> String {
        format!("vd{}", ["a", "b", "c"][index])
    }

    fn domain(&self) -> DomainSpec {
        let disk = |(index, format): (usize, &DiskFormat)| DomainDisk {
            id: u32::try_from(index).unwrap() * 2,
            path: self.image(index),
            format: *format,
            target: Self::target(index),
            readonly: false,
            cdrom: false,
        };
        DomainSpec {
            name: NAME.into(),
            uuid: "5c9e4b1e-7d3f-4b55-9d4e-0f6a31f8a001".into(),
            emulated: true,
            memory_mb: 32,
            vcpus: 1,
            cpu_model: None,
            machine: Some("q35".into()),
            arch: None,
            kernel: None,
            initrd: None,
            kernel_cmd: None,
            disks: self.formats.iter().enumerate().map(disk).collect(),
            nics: Vec::new(),
            serial_log: Some(self.dir.path().join("serial")),
            guest_agent: true,
            vnc: None,
        }
    }

    fn spec(&self, checkpoint: &str, since: Option<&str>) -> BackupSpec {
        let disk = |(index, format): (usize, &DiskFormat)| BackupDisk {
            id: u32::try_from(index).unwrap() * 2,
            path: self.image(index),
            format: *format,
            target: Self::target(index),
            since: since.filter(|_| *format == Qcow2).map(str::to_owned),
            track: *format == Qcow2,
            scratch: self.dir.path().join(format!("scratch.{index}")),
        };
        BackupSpec {
            domain: NAME.into(),
            socket: self.dir.path().join("nbd"),
            checkpoint: Some(checkpoint.into()),
            disks: self.formats.iter().enumerate().map(disk).collect(),
            freeze: Freeze::None,
            freeze_required: false,
            freeze_timeout: Duration::from_secs(3),
        }
    }

    fn begin(&self, checkpoint: &str, since: Option<&str>) -> Box<dyn BackupSession> {
        self.hypervisor.begin_backup(&self.spec(checkpoint, since)).unwrap()
    }

    /// A whole backup: the extents of each disk.
    fn backup(&self, checkpoint: &str, since: Option<&str>) -> Vec<Vec<Extent>> {
        let mut session = self.begin(checkpoint, since);
        let extents = (0..self.formats.len())
            .map(|index| session.disk(u32::try_from(index).unwrap() * 2).unwrap().extents().unwrap())
            .collect();
        assert!(session.is_alive());
        session.end().unwrap();
        self.assert_nothing_runs();
        extents
    }

    fn write(&self, index: usize, value: u8, offset: u64, length: u64) {
        self.libvirtd.write(NAME, &Self::target(index), value, offset, length).unwrap();
    }

    fn checkpoints(&self) -> Vec<String> {
        self.hypervisor.checkpoints(NAME, &self.images()).unwrap()
    }

    fn state(&self) -> Option<DomainState> {
        self.hypervisor.state(NAME).unwrap()
    }

    /// No job, socket, scratch file, mark or reader.
    fn assert_nothing_runs(&self) {
        let job = self.libvirtd.virsh_output(&["domjobinfo", NAME]).unwrap();
        assert!(!job.stdout.contains("Unbounded"), "{}", job.stdout);
        for entry in self.dir.path().read_dir().unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with("nbd") && !name.starts_with("scratch"), "{name} was left");
        }
        assert_eq!(readers(self.dir.path()), 0, "a qemu-nbd was left");
    }
}

/// Running qemu-nbd processes that serve something below `dir`.
fn readers(dir: &Path) -> usize {
    let own = |entry: std::io::Result<std::fs::DirEntry>| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.starts_with("qemu-nbd") && line.contains(dir.to_str()?)).then_some(())
    };
    Path::new("/proc").read_dir().unwrap().filter_map(own).count()
}

fn data(extents: &[Extent]) -> Vec<(u64, u64)> {
    extents.iter().filter(|e| e.content == Content::Data).map(|e| (e.offset, e.length)).collect()
}

/// Every byte of the disk, zeros where the extents say so.
fn contents(reader: &mut dyn DiskReader) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(reader.size_bytes()).unwrap()];
    let mut ranges = Vec::new();
    for extent in reader.extents().unwrap() {
        let mut offset = extent.offset;
        while extent.content == Content::Data && offset < extent.end() {
            let length = (extent.end() - offset).min(MIB);
            ranges.push((offset, u32::try_from(length).unwrap()));
            offset += length;
        }
    }
    reader
        .read(&mut ranges.into_iter(), &mut |offset, data| {
            let at = usize::try_from(offset).unwrap();
            bytes[at..at + data.len()].copy_from_slice(&data);
            Ok(())
        })
        .unwrap();
    bytes
}

#[test]
fn an_increment_of_a_running_domain_lists_only_what_was_written_since() {
    let lab = Lab::paused(&[Qcow2, Qcow2]);
    lab.write(0, 0x11, 4 * MIB, MIB);
    lab.write(1, 0x22, 8 * MIB, 64 * KIB);
    let mut full = lab.begin("c-0", None);
    lab.write(0, 0x33, 4 * MIB, 128 * KIB);
    let mut reader = full.disk(0).unwrap();
    assert_eq!(reader.size_bytes(), SIZE);
    let bytes = contents(reader.as_mut());
    let first = usize::try_from(4 * MIB).unwrap();
    assert!(bytes[first..first + (1 << 20)].iter().all(|b| *b == 0x11), "a later write shows in the point in time");
    assert_eq!(data(&full.disk(2).unwrap().extents().unwrap()), [(8 * MIB, 64 * KIB)]);
    drop(reader);
    assert!(full.is_alive());
    assert!(full.warnings().is_empty());
    assert_eq!(full.disk(1).err().map(|e| e.kind), Some(Kind::Missing));
    full.end().unwrap();
    lab.assert_nothing_runs();

    lab.write(1, 0x44, 20 * MIB, 192 * KIB);
    lab.libvirtd.qemu_io(NAME, "vdb", "discard 8M 64k").unwrap();
    let increment = lab.backup("c-1", Some("c-0"));
    assert_eq!(increment[0], [Extent { offset: 4 * MIB, length: 128 * KIB, content: Content::Data }]);
    assert_eq!(
        increment[1],
        [
            Extent { offset: 8 * MIB, length: 64 * KIB, content: Content::Zero },
            Extent { offset: 20 * MIB, length: 192 * KIB, content: Content::Data },
        ]
    );
    assert!(lab.backup("c-2", Some("c-1")).iter().all(Vec::is_empty));
    assert_eq!(lab.checkpoints(), ["c-0", "c-1", "c-2"]);
    // The bitmap of an older checkpoint holds everything since then.
    assert_eq!(data(&lab.backup("c-3", Some("c-0"))[1]), [(20 * MIB, 192 * KIB)]);
}

#[test]
fn a_chain_goes_on_over_stops_and_starts() {
    let lab = Lab::paused(&[Qcow2, Qcow2]);
    lab.write(0, 1, 0, 64 * KIB);
    lab.backup("c-0", None);
    lab.write(0, 2, MIB, 64 * KIB);
    lab.hypervisor.destroy(NAME).unwrap();
    // Online base, offline increment.
    assert_eq!(data(&lab.backup("c-1", Some("c-0"))[0]), [(MIB, 64 * KIB)]);
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 3 2M 64k", lab.image(1).to_str().unwrap()]);
    // Offline base, offline increment.
    let offline = lab.backup("c-2", Some("c-1"));
    assert_eq!(data(&offline[0]), []);
    assert_eq!(data(&offline[1]), [(2 * MIB, 64 * KIB)]);
    lab.start();
    lab.write(0, 4, 3 * MIB, 64 * KIB);
    // Offline base that libvirt has never heard of, online increment.
    assert_eq!(data(&lab.backup("c-3", Some("c-2"))[0]), [(3 * MIB, 64 * KIB)]);
    lab.hypervisor.destroy(NAME).unwrap();
    // The memory of checkpoints goes with the definition, the bitmaps stay.
    lab.hypervisor.undefine(NAME).unwrap();
    assert_eq!(lab.state(), None);
    assert_eq!(lab.checkpoints(), ["c-0", "c-1", "c-2", "c-3"]);
    lab.start();
    lab.write(1, 5, 5 * MIB, 64 * KIB);
    let after = lab.backup("c-4", Some("c-3"));
    assert_eq!(data(&after[0]), []);
    assert_eq!(data(&after[1]), [(5 * MIB, 64 * KIB)]);
}

#[test]
fn an_offline_full_reads_what_qemu_img_reads() {
    let lab = Lab::new(&[Qcow2, Raw]);
    for (index, format) in ["qcow2", "raw"].iter().enumerate() {
        tool("qemu-io", &["-f", format, "-c", "write -P 9 7M 300k", lab.image(index).to_str().unwrap()]);
    }
    let mut session = lab.begin("c-0", None);
    for index in 0..2 {
        let copy = lab.dir.path().join("copy");
        let format = lab.formats[index].as_str();
        let (from, to) = (lab.image(index), copy.to_str().unwrap().to_owned());
        tool("qemu-img", &["convert", "-U", "-f", format, "-O", "raw", from.to_str().unwrap(), &to]);
        let mut reader = session.disk(u32::try_from(index).unwrap() * 2).unwrap();
        assert!(contents(reader.as_mut()) == std::fs::read(&copy).unwrap());
    }
    assert!(session.is_alive());
    session.end().unwrap();
    lab.assert_nothing_runs();
    assert_eq!(lab.checkpoints(), ["c-0"]);
}

#[test]
fn a_raw_disk_is_backed_up_beside_a_tracked_one() {
    let lab = Lab::paused(&[Qcow2, Raw]);
    lab.write(1, 7, MIB, 64 * KIB);
    let full = lab.backup("c-0", None);
    // qemu-img allocates the first block of a raw image itself.
    assert_eq!(data(&full[1]).last(), Some(&(MIB, 64 * KIB)));
    lab.write(0, 8, MIB, 64 * KIB);
    let next = lab.backup("c-1", Some("c-0"));
    assert_eq!(data(&next[0]), [(MIB, 64 * KIB)]);
    assert_eq!(next[1].last().unwrap().end(), SIZE, "the raw disk is read whole");
}

#[test]
fn a_killed_qemu_makes_increments_missing_and_leaves_nothing() {
    let lab = Lab::paused(&[Qcow2, Qcow2]);
    lab.backup("c-0", None);
    lab.hypervisor.destroy(NAME).unwrap();
    lab.start();
    let mut session = lab.begin("c-1", Some("c-0"));
    let mut reader = session.disk(0).unwrap();
    let qemu = lab.libvirtd.domain_pid(NAME).unwrap();
    tool("kill", &["-9", &qemu.to_string()]);
    wait(|| !session.is_alive());
    assert!(reader.extents().is_err());
    session.end().unwrap();
    lab.assert_nothing_runs();
    wait(|| lab.state() == Some(DomainState::Crashed));

    // Off: the image says itself that its bitmap is broken.
    let error = lab.hypervisor.begin_backup(&lab.spec("c-2", Some("c-0"))).err().unwrap();
    assert_eq!(error.kind, Kind::Missing, "{error}");
    assert!(!lab.checkpoints().contains(&"c-2".to_owned()));
    // Running: QEMU says so.
    lab.start();
    for since in ["c-0", "never-made"] {
        let error = lab.hypervisor.begin_backup(&lab.spec("c-2", Some(since))).err().unwrap();
        assert_eq!(error.kind, Kind::Missing, "{error}");
        lab.assert_nothing_runs();
        assert!(!lab.checkpoints().contains(&"c-2".to_owned()));
        assert_eq!(lab.state(), Some(DomainState::Paused));
    }
    // A full one under the same name works, and the broken ones can be deleted.
    lab.backup("c-2", None);
    for name in ["c-0", "c-1", "never-made"] {
        lab.hypervisor.delete_checkpoint(NAME, name, &lab.images()).unwrap();
    }
    assert_eq!(lab.checkpoints(), ["c-2"]);
    lab.write(0, 1, 0, 64 * KIB);
    assert_eq!(data(&lab.backup("c-3", Some("c-2"))[0]), [(0, 64 * KIB)]);
}

fn wait(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "waited 30 s in vain");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_a_dead_daemon_left_of_a_live_backup_is_cleared_up() {
    let lab = Lab::paused(&[Qcow2, Qcow2]);
    lab.backup("c-0", None);
    let spec = lab.spec("c-1", Some("c-0"));
    std::mem::forget(lab.hypervisor.begin_backup(&spec).unwrap());
    let second = Libvirt::connect(&lab.libvirtd.uri()).unwrap();
    // Busy: an answer at once, not after half a minute of waiting for a lock.
    let error = second.begin_backup(&lab.spec("c-9", None)).err().unwrap();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    // Somebody else's job stays.
    let mut other = spec.clone();
    other.socket = lab.dir.path().join("other");
    other.disks.iter_mut().for_each(|disk| disk.scratch = lab.dir.path().join("other-scratch"));
    second.abandon_backup(&other).unwrap();
    assert!(lab.libvirtd.virsh(&["domjobinfo", NAME]).unwrap().contains("Unbounded"));

    for _ in 0..2 {
        second.abandon_backup(&spec).unwrap();
        lab.assert_nothing_runs();
    }
    // Whether the checkpoint counts is the caller's to know.
    assert_eq!(lab.checkpoints(), ["c-0", "c-1"]);
    // The same job again, under the same names.
    lab.write(0, 1, 0, 64 * KIB);
    assert_eq!(data(&lab.backup("c-1", Some("c-0"))[0]), [(0, 64 * KIB)]);
    second.delete_checkpoint(NAME, "c-1", &lab.images()).unwrap();
    second.delete_checkpoint(NAME, "c-1", &lab.images()).unwrap();
    assert_eq!(lab.checkpoints(), ["c-0"]);
}

#[test]
fn what_a_dead_daemon_left_of_an_offline_backup_is_cleared_up() {
    let lab = Lab::new(&[Qcow2, Raw]);
    let spec = lab.spec("c-0", None);
    std::mem::forget(lab.hypervisor.begin_backup(&spec).unwrap());
    assert_eq!(readers(lab.dir.path()), 2);
    for _ in 0..2 {
        lab.hypervisor.abandon_backup(&spec).unwrap();
        lab.assert_nothing_runs();
    }
    lab.backup("c-0", None);
    lab.hypervisor.delete_checkpoint(NAME, "c-0", &lab.images()).unwrap();
    assert!(lab.checkpoints().is_empty());

    // Ended in the moment it began, many times.
    for _ in 0..10 {
        lab.begin("c-0", None).end().unwrap();
        assert_eq!(readers(lab.dir.path()), 0);
    }
}

#[test]
fn a_dropped_session_ends_its_job() {
    let lab = Lab::paused(&[Qcow2]);
    drop(lab.begin("c-0", None));
    lab.assert_nothing_runs();
    lab.hypervisor.destroy(NAME).unwrap();
    drop(lab.begin("c-1", None));
    lab.assert_nothing_runs();
}

#[test]
fn a_guest_without_an_agent_is_backed_up_with_a_warning() {
    let lab = Lab::paused(&[Qcow2]);
    let mut spec = lab.spec("c-0", None);
    spec.freeze = Freeze::Agent;
    for running in [false, true] {
        if running {
            lab.hypervisor.resume(NAME).unwrap();
        }
        let session = lab.hypervisor.begin_backup(&spec).unwrap();
        let warnings = session.warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains(if running { "agent" } else { "paused" }), "{warnings:?}");
        session.end().unwrap();
    }
    assert_eq!(lab.state(), Some(DomainState::Running));
    lab.hypervisor.abandon_backup(&spec).unwrap();

    // Not at all, when only a quiet guest is wanted.
    let kept = lab.checkpoints();
    spec.freeze_required = true;
    spec.checkpoint = Some("c-1".into());
    let error = lab.hypervisor.begin_backup(&spec).err().unwrap();
    assert_eq!(error.kind, Kind::Permanent);
    assert!(error.reason.starts_with("crash-consistent: domain one-7 could not be quieted ("), "{error}");
    lab.assert_nothing_runs();
    assert_eq!((lab.checkpoints(), lab.state()), (kept, Some(DomainState::Running)));
    spec.freeze = Freeze::Suspend;
    lab.hypervisor.begin_backup(&spec).unwrap().end().unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
}

#[test]
fn a_bitmap_that_was_disabled_is_as_good_as_none() {
    let lab = Lab::new(&[Qcow2]);
    lab.backup("c-0", None);
    tool("qemu-img", &["bitmap", "--disable", lab.image(0).to_str().unwrap(), "c-0"]);
    for running in [false, true] {
        if running {
            lab.start();
        }
        let error = lab.hypervisor.begin_backup(&lab.spec("c-1", Some("c-0"))).err().unwrap();
        assert_eq!(error.kind, Kind::Missing, "{error}");
        assert!(error.reason.contains("disabled"), "{error}");
        lab.assert_nothing_runs();
        assert_eq!(lab.checkpoints(), ["c-0"]);
    }
}

#[test]
fn a_suspended_guest_goes_on_right_after_the_point_in_time() {
    let lab = Lab::paused(&[Qcow2]);
    let mut spec = lab.spec("c-0", None);
    spec.freeze = Freeze::Suspend;
    // Paused by somebody else: it stays so.
    lab.hypervisor.begin_backup(&spec).unwrap().end().unwrap();
    assert_eq!(lab.state(), Some(DomainState::Paused));
    lab.hypervisor.abandon_backup(&spec).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Paused));

    lab.hypervisor.resume(NAME).unwrap();
    let session = lab.hypervisor.begin_backup(&spec).unwrap();
    assert!(session.warnings().is_empty());
    assert_eq!(lab.state(), Some(DomainState::Running));
    session.end().unwrap();
    lab.assert_nothing_runs();

    // A daemon that died between suspend and resume leaves a mark.
    lab.libvirtd.virsh(&["suspend", NAME]).unwrap();
    std::fs::write(lab.dir.path().join("nbd.suspended"), "").unwrap();
    lab.hypervisor.abandon_backup(&spec).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    lab.assert_nothing_runs();
}

#[test]
fn a_refused_begin_leaves_nothing() {
    let lab = Lab::paused(&[Qcow2]);
    let before = lab.libvirtd.virsh(&["dumpxml", NAME]).unwrap();
    let mut spec = lab.spec("c-0", None);
    spec.disks[0].scratch = lab.dir.path().join("no-such-folder/scratch");
    assert_eq!(lab.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Permanent);
    let mut spec = lab.spec("c-0", None);
    spec.disks[0].target = "vdz".into();
    assert_eq!(lab.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Permanent);
    let mut spec = lab.spec("c-0", None);
    spec.socket = lab.dir.path().join("n".repeat(120));
    assert_eq!(lab.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Permanent);
    for bad in ["a\0b", "", "-x", "a/b"] {
        let spec = lab.spec(bad, None);
        assert_eq!(lab.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Permanent);
        assert!(lab.hypervisor.state("a\0b").is_err());
    }
    assert!(lab.checkpoints().is_empty());
    lab.assert_nothing_runs();
    assert_eq!(lab.libvirtd.virsh(&["dumpxml", NAME]).unwrap(), before);
}

#[test]
fn a_backup_survives_a_restart_of_libvirtd() {
    let lab = Lab::paused(&[Qcow2]);
    let (sink, events) = channel();
    lab.hypervisor.subscribe(sink).unwrap();
    lab.write(0, 1, 0, 64 * KIB);
    let mut session = lab.begin("c-0", None);
    lab.libvirtd.kill9().unwrap();
    assert!(session.is_alive(), "the job lives in QEMU");
    assert_eq!(lab.hypervisor.facts().err().unwrap().kind, Kind::Retry);
    lab.libvirtd.restart().unwrap();
    assert!(session.is_alive());
    assert_eq!(data(&session.disk(0).unwrap().extents().unwrap()), [(0, 64 * KIB)]);
    session.end().unwrap();
    lab.assert_nothing_runs();
    // Once for the loss, once for the new connection.
    let lost = || events.recv_timeout(Duration::from_secs(30)).unwrap() == DomainEvent::Disconnected;
    wait(lost);
    wait(lost);
    lab.hypervisor.destroy(NAME).unwrap();
    let changed = DomainEvent::Changed { domain: NAME.into() };
    wait(|| events.recv_timeout(Duration::from_secs(30)).unwrap() == changed);
}

#[test]
fn a_libvirtd_that_hangs_is_an_error_and_then_found_again() {
    let lab = Lab::new(&[Qcow2]);
    let pid = std::fs::read_to_string(lab.dir.path().join("lv/libvirtd.pid")).unwrap();
    tool("kill", &["-STOP", pid.trim()]);
    let facts = lab.hypervisor.facts();
    tool("kill", &["-CONT", pid.trim()]);
    assert_eq!(facts.err().map(|e| e.kind), Some(Kind::Retry));
    wait(|| lab.hypervisor.facts().is_ok());
}

#[test]
fn a_disk_that_the_domain_has_elsewhere_is_a_warning() {
    let lab = Lab::paused(&[Qcow2]);
    lab.backup("c-0", None);
    lab.write(0, 1, 0, 64 * KIB);
    let overlay = lab.dir.path().join("overlay");
    let file = format!("vda,file={}", overlay.display());
    lab.libvirtd.virsh(&["snapshot-create-as", NAME, "--disk-only", "--no-metadata", "--diskspec", &file]).unwrap();
    lab.write(0, 2, MIB, 64 * KIB);
    let mut session = lab.begin("c-1", Some("c-0"));
    assert!(session.warnings()[0].contains("overlay"), "{:?}", session.warnings());
    assert_eq!(data(&session.disk(0).unwrap().extents().unwrap()), [(0, 64 * KIB), (MIB, 64 * KIB)]);
    session.end().unwrap();
    lab.assert_nothing_runs();
}

/// Unmounts, lazily because QEMU may close its file a moment later.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        tool("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_scratch_file_system_does_not_leave_the_guest_stopped() {
    let lab = Lab::paused(&[Qcow2]);
    lab.write(0, 1, 0, 8 * MIB);
    lab.hypervisor.resume(NAME).unwrap();
    let small = lab.dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    tool("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", small.to_str().unwrap()]);
    let mounted = Mounted(small.clone());
    let mut spec = lab.spec("c-0", None);
    spec.disks[0].scratch = small.join("scratch");
    let session = lab.hypervisor.begin_backup(&spec).unwrap();
    let failed = lab.libvirtd.write(NAME, "vda", 2, 0, 8 * MIB);
    let state = lab.state();
    session.end().unwrap();
    let after = lab.state();
    assert!(!small.join("scratch").exists());
    drop(mounted);
    assert!(failed.is_err() || state == Some(DomainState::PausedIoError), "{failed:?} {state:?}");
    assert_eq!(after, Some(DomainState::Running));
}

#[test]
fn a_domain_is_deployed_rebooted_destroyed_and_undefined() {
    let lab = Lab::new(&[Qcow2]);
    let hypervisor = &lab.hypervisor;
    let facts = hypervisor.facts().unwrap();
    assert!(facts.hypervisor.starts_with("QEMU ") && facts.hypervisor.contains("libvirt "), "{facts:?}");
    assert!(facts.cpus > 0 && facts.free_memory_kb > 0 && facts.memory_kb > facts.free_memory_kb);
    let (sink, events) = channel();
    hypervisor.subscribe(sink).unwrap();

    assert_eq!(lab.state(), None);
    assert_eq!(hypervisor.resume(NAME).err().unwrap().kind, Kind::Missing);
    assert_eq!(hypervisor.reboot(NAME, true).err().unwrap().kind, Kind::Missing);
    hypervisor.destroy(NAME).unwrap();
    hypervisor.undefine(NAME).unwrap();
    hypervisor.shutdown(NAME, Duration::from_secs(1)).unwrap();

    hypervisor.deploy(&lab.domain()).unwrap();
    hypervisor.deploy(&lab.domain()).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    let changed = DomainEvent::Changed { domain: NAME.into() };
    assert_eq!(events.recv_timeout(Duration::from_secs(30)).unwrap(), changed);
    hypervisor.reboot(NAME, true).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    assert_eq!(hypervisor.undefine(NAME).err().unwrap().kind, Kind::Permanent);
    // Nobody at home in this guest.
    let error = hypervisor.shutdown(NAME, Duration::from_millis(300)).err().unwrap();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    lab.libvirtd.virsh(&["suspend", NAME]).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Paused));
    hypervisor.resume(NAME).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    hypervisor.destroy(NAME).unwrap();
    hypervisor.destroy(NAME).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Off));
    assert!(hypervisor.reboot(NAME, false).is_err());

    // Redefined while off.
    let mut more = lab.domain();
    more.memory_mb = 48;
    hypervisor.deploy(&more).unwrap();
    assert!(lab.libvirtd.virsh(&["dominfo", NAME]).unwrap().contains("49152 KiB"));
    hypervisor.destroy(NAME).unwrap();
    hypervisor.resume(NAME).unwrap();
    assert_eq!(lab.state(), Some(DomainState::Running));
    hypervisor.destroy(NAME).unwrap();
    hypervisor.undefine(NAME).unwrap();
    hypervisor.undefine(NAME).unwrap();
    assert_eq!(lab.state(), None);
}

#[test]
fn every_device_of_a_specification_is_taken_by_libvirt() {
    let lab = Lab::new(&[Qcow2]);
    let cdrom = lab.dir.path().join("context.iso");
    std::fs::write(&cdrom, vec![0; 1 << 20]).unwrap();
    let mut spec = lab.domain();
    for (id, target, cdrom_drive) in [(2, "sda", false), (4, "sdb", true), (6, "hdc", true)] {
        let path = if cdrom_drive { cdrom.clone() } else { lab.dir.path().join("raw") };
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        spec.disks.push(DomainDisk {
            id,
            path,
            format: Raw,
            target: target.into(),
            readonly: cdrom_drive,
            cdrom: cdrom_drive,
        });
    }
    spec.nics.push(drivers::hypervisor::DomainNic {
        kind: drivers::hypervisor::NicKind::User,
        source: String::new(),
        mac: Some("02:00:c0:a8:00:07".into()),
        model: "virtio".into(),
        target: String::new(),
    });
    spec.vnc = Some(("127.0.0.1".into(), 5987));
    for machine in [Some("q35"), Some("pc"), None] {
        spec.machine = machine.map(str::to_owned);
        lab.hypervisor.deploy(&spec).unwrap();
        lab.hypervisor.destroy(NAME).unwrap();
    }
    let wrong = DomainSpec { machine: Some("toaster".into()), ..spec };
    assert_eq!(lab.hypervisor.deploy(&wrong).err().unwrap().kind, Kind::Permanent);
    let refused = Libvirt::connect("qemu+unix:///session?socket=/nowhere").err().unwrap();
    assert_eq!(refused.kind, Kind::Retry, "{refused}");
}
