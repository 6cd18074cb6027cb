//! The libvirt driver against a guest that runs Linux, a file system and the guest agent.
#![cfg(feature = "libvirt")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, also outside #[test] functions")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use drivers::hypervisor::{BackupDisk, BackupSpec, DiskFormat, DomainDisk, DomainSpec, DomainState, Freeze};
use drivers::libvirt::Libvirt;
use drivers::{Content, DiskReader, Hypervisor};
use system_tests::command;
use system_tests::guest::{self, Guest};
use system_tests::libvirtd::Libvirtd;
use tempfile::TempDir;

const NAME: &str = "one-8";

struct Lab {
    hypervisor: Libvirt,
    libvirtd: Libvirtd,
    dir: TempDir,
}

impl Lab {
    fn booted() -> Self {
        let guest = Guest::built().unwrap();
        let dir = tempfile::Builder::new().prefix("hg").tempdir().unwrap();
        let libvirtd = Libvirtd::start(dir.path().join("lv")).unwrap();
        let hypervisor = Libvirt::connect(&libvirtd.uri()).unwrap();
        let lab = Self { hypervisor, libvirtd, dir };
        guest::make_disk(&lab.disk(), 32 << 20, "one").unwrap();
        let spec = DomainSpec {
            name: NAME.into(),
            uuid: "5c9e4b1e-7d3f-4b55-9d4e-0f6a31f8a008".into(),
            emulated: true,
            memory_mb: 256,
            vcpus: 1,
            cpu_model: None,
            machine: Some("q35".into()),
            arch: None,
            kernel: Some(guest.kernel),
            initrd: Some(guest.initrd),
            kernel_cmd: Some(guest::KERNEL_CMD.into()),
            disks: vec![DomainDisk {
                id: 0,
                path: lab.disk(),
                format: DiskFormat::Qcow2,
                target: "vda".into(),
                readonly: false,
                cdrom: false,
            }],
            nics: Vec::new(),
            serial_log: Some(lab.dir.path().join("serial")),
            guest_agent: true,
            vnc: None,
        };
        lab.hypervisor.deploy(&spec).unwrap();
        guest::wait_ready(&lab.dir.path().join("serial")).unwrap();
        guest::wait_agent(&lab.libvirtd.uri(), NAME).unwrap();
        lab
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.0")
    }

    fn spec(&self, checkpoint: &str) -> BackupSpec {
        BackupSpec {
            domain: NAME.into(),
            socket: self.dir.path().join("nbd"),
            checkpoint: Some(checkpoint.into()),
            disks: vec![BackupDisk {
                id: 0,
                path: self.disk(),
                format: DiskFormat::Qcow2,
                target: "vda".into(),
                since: None,
                track: true,
                scratch: self.dir.path().join("scratch"),
            }],
            freeze: Freeze::Agent,
            freeze_required: false,
            freeze_timeout: Duration::from_secs(3),
        }
    }

    /// What the agent says of the guest's file systems: `thawed` or `frozen`.
    fn freeze_status(&self) -> Option<String> {
        let order = "{\"execute\":\"guest-fsfreeze-status\"}";
        let answer = self.libvirtd.virsh_output(&["qemu-agent-command", NAME, order]).unwrap();
        answer.success().then(|| answer.stdout.split('"').nth(3).unwrap_or_default().to_owned())
    }

    fn exec(&self, script: &str) {
        let output = guest::exec(&self.libvirtd.uri(), NAME, script).unwrap();
        assert!(output.success(), "{script}: {output:?}");
    }

    /// Features of the file system in the point in time, as dumpe2fs names them.
    fn features(&self, reader: &mut dyn DiskReader) -> String {
        let copy = self.dir.path().join("copy");
        let mut bytes = vec![0; usize::try_from(reader.size_bytes()).unwrap()];
        let extents = reader.extents().unwrap();
        let mut ranges = extents
            .iter()
            .filter(|e| e.content == Content::Data)
            .flat_map(|e| (e.offset..e.end()).step_by(1 << 16).map(|at| (at, (e.end() - at).min(1 << 16) as u32)));
        reader
            .read(&mut ranges, &mut |offset, data| {
                let at = usize::try_from(offset).unwrap();
                bytes[at..at + data.len()].copy_from_slice(&data);
                Ok(())
            })
            .unwrap();
        std::fs::write(&copy, bytes).unwrap();
        let text = command::output("dumpe2fs", &["-h", copy.to_str().unwrap()]).unwrap();
        text.lines().find(|line| line.starts_with("Filesystem features")).unwrap().to_owned()
    }
}

#[test]
fn a_frozen_guest_gives_a_clean_file_system_and_is_thawed_at_once() {
    let lab = Lab::booted();
    // A mounted ext4 that was written to has its journal in use, unless it is frozen.
    lab.exec("echo two > /mnt/vda/second");
    for (freeze, recovery) in [(Freeze::Agent, false), (Freeze::None, true)] {
        let mut spec = lab.spec("c-0");
        spec.freeze = freeze;
        let mut session = lab.hypervisor.begin_backup(&spec).unwrap();
        assert_eq!(session.warnings(), Vec::<String>::new());
        assert_eq!(lab.freeze_status().as_deref(), Some("thawed"));
        let features = lab.features(session.disk(0).unwrap().as_mut());
        assert_eq!(features.contains("needs_recovery"), recovery, "{freeze:?}: {features}");
        session.end().unwrap();
    }

    // Left frozen by a daemon that died; the second time libvirtd is another one since.
    for restarted in [false, true] {
        lab.libvirtd.virsh(&["domfsfreeze", NAME]).unwrap();
        assert_eq!(lab.freeze_status().as_deref(), Some("frozen"));
        if restarted {
            lab.libvirtd.kill9().unwrap();
            lab.libvirtd.restart().unwrap();
            guest::wait_agent(&lab.libvirtd.uri(), NAME).unwrap();
        }
        lab.hypervisor.abandon_backup(&lab.spec("c-0")).unwrap();
        assert_eq!(lab.freeze_status().as_deref(), Some("thawed"), "libvirtd restarted: {restarted}");
    }

    // Politely, as a guest with an agent can.
    lab.hypervisor.shutdown(NAME, Duration::from_secs(60)).unwrap();
    assert_eq!(lab.hypervisor.state(NAME).unwrap(), Some(DomainState::Off));
}

#[test]
fn an_agent_that_hangs_costs_a_warning_and_the_guest_is_not_left_frozen() {
    let lab = Lab::booted();
    lab.exec("P=$(pidof qemu-ga); (sleep 12; kill -CONT $P) >/dev/null 2>&1 & (sleep 1; kill -STOP $P) >/dev/null 2>&1 & true");
    std::thread::sleep(Duration::from_secs(3));
    let start = Instant::now();
    let session = lab.hypervisor.begin_backup(&lab.spec("c-0")).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let warnings = session.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("crash-consistent"), "{warnings:?}");
    session.end().unwrap();
    // The freeze may reach the guest when its agent wakes; the driver thaws after it.
    std::thread::sleep(Duration::from_secs(12));
    let end = Instant::now() + Duration::from_secs(60);
    while lab.freeze_status().as_deref() != Some("thawed") {
        assert!(Instant::now() < end, "still {:?}", lab.freeze_status());
        std::thread::sleep(Duration::from_secs(1));
    }
}
