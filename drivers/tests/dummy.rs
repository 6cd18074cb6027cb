//! The dummy drivers against a byte map, qemu-img, and their scripts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod shared;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::datastore::{Change, Damage, Depth, RestoreRequest, SourceDisk, StoreRequest, Stored, VerifyRequest};
use drivers::disk::{self, Qcow2Writer, RawWriter};
use drivers::dummy::{DummyDatastore, DummyHypervisor, Operation, Rule, SCRIPT_FILE, Script};
use drivers::hypervisor::{
    BackupDisk, BackupSpec, DiskFormat, DomainDisk, DomainEvent, DomainNic, DomainSpec, DomainState, Freeze, NicKind,
};
use drivers::{
    BackupDatastore, Cancel, Content, DiskReader, DiskWriter, DriverError, Extent, Hypervisor, Kind, Progress, Result,
};
use proptest::prelude::*;
use tempfile::TempDir;

use shared::ShortForms as _;

const BLOCK: usize = 64 << 10;
const NEVER: Duration = Duration::from_secs(1);

// ---------------------------------------------------------------------------------------------------------------------
// Scripts

fn rules(text: &str) -> Result<Script> {
    Script::parse(&format!(r#"{{"rules": [{text}]}}"#))
}

#[test]
fn a_script_that_is_not_understood_whole_is_an_error() {
    for (text, complaint) in [
        (r#"{"operation": "deplyo", "delay_ms": 5}"#, "unknown variant `deplyo`"),
        (r#"{"operation": "deploy", "dealy_ms": 5}"#, "unknown field `dealy_ms`"),
        (r#"{"operation": "deploy"}"#, "does nothing"),
        (r#"{"operation": "deploy", "call": 0, "delay_ms": 5}"#, "the first one is 1"),
        (r#"{"operation": "deploy", "delay_ms": 600001}"#, "600000 are possible"),
        (r#"{"operation": "deploy", "fail": {"kind": "sometimes", "reason": "x"}}"#, "unknown variant `sometimes`"),
        (r#"{"operation": "deploy", "until_cancelled": true, "fail": {"kind": "retry", "reason": "x"}}"#, "two rules"),
    ] {
        let error = rules(text).unwrap_err();
        assert_eq!(error.kind, Kind::Permanent, "{error}");
        assert!(error.to_string().contains(complaint), "{error}");
    }
    assert!(Script::parse(r#"{"rule": []}"#).is_err());
    assert!(Script::parse("").is_err());
    let rule = Rule::new(Operation::Seal).failing(Kind::Retry, "the disk is full").call(3).after();
    let text =
        r#"{"operation": "seal", "call": 3, "when": "after", "fail": {"kind": "retry", "reason": "the disk is full"}}"#;
    assert_eq!(rules(text).unwrap(), Script::of(vec![rule]));
    assert_eq!(Script::parse("{}").unwrap(), Script::default());
}

#[test]
fn a_script_file_takes_effect_at_the_next_call_and_counts_anew_when_it_changes() {
    let rig = Rig::new();
    let ask = || rig.hypervisor.facts().map(drop).map_err(|error| (error.kind, error.reason));
    assert_eq!(ask(), Ok(()));
    let second = r#"{"operation": "facts", "call": 2, "fail": {"kind": "retry", "reason": "the host is away"}}"#;
    rig.script(&format!(r#"{{"rules": [{second}]}}"#));
    let away = Err((Kind::Retry, "the host is away".to_owned()));
    assert_eq!([ask(), ask(), ask()], [Ok(()), away.clone(), Ok(())]);
    rig.script(&format!(r#"{{"rules": [{second}], "lost_bitmaps": []}}"#));
    assert_eq!([ask(), ask()], [Ok(()), away]);

    rig.script(r#"{"rules": [{"operation": "fcats", "delay_ms": 1}]}"#);
    let error = rig.hypervisor.facts().unwrap_err();
    assert_eq!(error.kind, Kind::Permanent);
    assert!(error.doing.contains(SCRIPT_FILE) && error.reason.contains("fcats"), "{error}");

    rig.script(r#"{"facts": {"cpus": 3, "memory_kb": 4096}}"#);
    let facts = rig.hypervisor.facts().unwrap();
    assert_eq!((facts.cpus, facts.memory_kb, facts.free_memory_kb), (3, 4096, 4096));
    std::fs::remove_file(rig.hypervisor_path().join(SCRIPT_FILE)).unwrap();
    assert_eq!(rig.hypervisor.facts().unwrap().cpus, 256);
}

#[test]
fn a_fault_acts_on_its_domain_only_before_or_after_the_work() {
    let before = Rule { of: Some("one-1".to_owned()), ..Rule::new(Operation::Deploy) };
    let after = Rule { of: Some("one-2".to_owned()), ..Rule::new(Operation::Deploy) };
    let script = Script::of(vec![
        before.failing(Kind::Permanent, "no such machine type"),
        after.failing(Kind::Retry, "the answer was lost").call(1).after(),
    ]);
    let rig = Rig::scripted(script, Script::default());
    let error = rig.hypervisor.deploy(&domain_spec("one-1", &[])).unwrap_err();
    assert_eq!(error.to_string(), "deploy of one-1: no such machine type");
    assert_eq!(rig.hypervisor.state("one-1").unwrap(), None);
    assert_eq!(rig.hypervisor.deploy(&domain_spec("one-2", &[])).unwrap_err().kind, Kind::Retry);
    assert_eq!(rig.hypervisor.state("one-2").unwrap(), Some(DomainState::Running));
    rig.hypervisor.deploy(&domain_spec("one-2", &[])).unwrap();
    rig.hypervisor.deploy(&domain_spec("one-3", &[])).unwrap();
}

#[test]
fn a_delay_is_at_least_as_long_as_it_says() {
    let rule = Rule { delay_ms: 60, ..Rule::new(Operation::State) };
    let rig = Rig::scripted(Script::of(vec![rule]), Script::default());
    let since = Instant::now();
    rig.hypervisor.state("one-1").unwrap();
    assert!(since.elapsed() >= Duration::from_millis(60));
}

#[test]
fn a_held_call_ends_by_cancelling_and_goes_on_when_its_rule_is_taken_back() {
    let hold = Rule { until_cancelled: true, ..Rule::new(Operation::Seal) };
    let rig = Rig::scripted(Script::default(), Script::of(vec![hold]));
    let data = noise(2 * BLOCK, 1);
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| store(&rig.datastore, "job=1", None, vec![whole(&data)], &cancel));
        // Everything but the manifest is there then.
        until(|| rig.folders().iter().any(|point| rig.path("datastore/7").join(point).join("vm.xml").exists()));
        assert!(!held.is_finished());
        assert_eq!(rig.datastore.find("7", "job=1").unwrap(), None);
        cancel.cancel();
        assert_eq!(held.join().unwrap().unwrap_err().kind, Kind::Cancelled);
    });
    assert_eq!(rig.datastore.ids("7").unwrap(), [""; 0]);
    assert_eq!(rig.folders(), [""; 0]);

    rig.script(r#"{"rules": [{"operation": "deploy", "when": "after", "until_cancelled": true}]}"#);
    std::thread::scope(|scope| {
        let held = scope.spawn(|| rig.hypervisor.deploy(&domain_spec("one-1", &[])));
        // The work is done, and others are not held up.
        until(|| rig.hypervisor.state("one-1").unwrap() == Some(DomainState::Running));
        assert!(!held.is_finished());
        rig.script("{}");
        held.join().unwrap().unwrap();
    });
}

/// Waits for a state, with a generous end.
fn until(mut there: impl FnMut() -> bool) {
    let since = Instant::now();
    while !there() {
        assert!(since.elapsed() < Duration::from_secs(60), "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Domains

struct Rig {
    base: TempDir,
    hypervisor: DummyHypervisor,
    datastore: DummyDatastore,
}

impl Rig {
    fn new() -> Self {
        Self::scripted(Script::default(), Script::default())
    }

    fn scripted(of_hypervisor: Script, of_datastore: Script) -> Self {
        let base = tempfile::tempdir().unwrap();
        Self {
            hypervisor: DummyHypervisor::open(&base.path().join("host"), of_hypervisor).unwrap(),
            datastore: DummyDatastore::open(&base.path().join("datastore"), of_datastore).unwrap(),
            base,
        }
    }

    /// Both drivers as a new process would have them.
    fn reopen(&mut self) {
        self.hypervisor = DummyHypervisor::open(&self.hypervisor_path(), Script::default()).unwrap();
        self.datastore = DummyDatastore::open(&self.base.path().join("datastore"), Script::default()).unwrap();
    }

    fn hypervisor_path(&self) -> PathBuf {
        self.base.path().join("host")
    }

    /// The hypervisor's script, changed in one step.
    fn script(&self, text: &str) {
        let path = self.hypervisor_path().join(SCRIPT_FILE);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Writes an image of this content.
    fn image(&self, id: u32, format: DiskFormat, data: &[u8]) -> DomainDisk {
        let path = self.path(&format!("disk.{id}"));
        write_image(&path, format, data);
        disk_at(path, id, format)
    }

    fn backup(&self, domain: &str, disks: &[DomainDisk], since: Option<&str>, checkpoint: Option<&str>) -> BackupSpec {
        backup_spec(self.base.path(), domain, disks, since, checkpoint)
    }

    /// Folders of points in series 7, published or not.
    fn folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("datastore/7"));
        entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn restored(&self, point: &str, disk: u32, size: usize) -> Result<Vec<u8>> {
        let mut writer = MemoryWriter(vec![0; size]);
        self.datastore.restore_now("7", point, disk, &mut writer)?;
        Ok(writer.0)
    }
}

fn domain_spec(name: &str, disks: &[DomainDisk]) -> DomainSpec {
    DomainSpec {
        name: name.to_owned(),
        uuid: "0a1b".to_owned(),
        emulated: true,
        memory_mb: 512,
        vcpus: 2,
        cpu_model: None,
        machine: None,
        arch: None,
        kernel: None,
        initrd: None,
        kernel_cmd: None,
        disks: disks.to_vec(),
        nics: vec![nic("02:00:00:00:00:01")],
        serial_log: None,
        guest_agent: false,
        vnc: None,
    }
}

/// A backup with its scratch files in `base`.
fn backup_spec(
    base: &Path,
    domain: &str,
    disks: &[DomainDisk],
    since: Option<&str>,
    checkpoint: Option<&str>,
) -> BackupSpec {
    let disks = disks.iter().map(|disk| BackupDisk {
        id: disk.id,
        path: disk.path.clone(),
        format: disk.format,
        target: disk.target.clone(),
        since: since.map(str::to_owned),
        track: disk.format == DiskFormat::Qcow2,
        scratch: base.join(format!("disk.{}.scratch", disk.id)),
    });
    BackupSpec {
        domain: domain.to_owned(),
        socket: base.join("b.sock"),
        checkpoint: checkpoint.map(str::to_owned),
        disks: disks.collect(),
        freeze: Freeze::None,
        freeze_required: false,
        freeze_timeout: NEVER,
    }
}

fn disk_at(path: PathBuf, id: u32, format: DiskFormat) -> DomainDisk {
    let target = format!("vd{}", char::from(b'a' + u8::try_from(id).unwrap()));
    DomainDisk { id, path, format, target, readonly: false, cdrom: false }
}

fn nic(mac: &str) -> DomainNic {
    DomainNic {
        kind: NicKind::User,
        source: String::new(),
        mac: Some(mac.to_owned()),
        model: "virtio".to_owned(),
        target: String::new(),
    }
}

fn write_image(path: &Path, format: DiskFormat, data: &[u8]) {
    let size = data.len() as u64;
    let mut writer: Box<dyn DiskWriter> = match format {
        DiskFormat::Qcow2 => Box::new(Qcow2Writer::create(path, size).unwrap()),
        DiskFormat::Raw => Box::new(RawWriter::create(path, size).unwrap()),
    };
    writer.write_at(0, data).unwrap();
    writer.finish().unwrap();
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

#[test]
fn a_domain_goes_through_its_states_and_every_step_can_be_repeated() {
    let rig = Rig::new();
    let hypervisor = &rig.hypervisor;
    let state = || hypervisor.state("one-7").unwrap();
    let disk = rig.image(0, DiskFormat::Qcow2, &noise(BLOCK, 1));
    let spec = domain_spec("one-7", &[disk]);

    assert_eq!(state(), None);
    for missing in [hypervisor.resume("one-7"), hypervisor.reboot("one-7", false), hypervisor.pause("one-7")] {
        assert_eq!(missing.unwrap_err().kind, Kind::Missing);
    }
    let (sender, events) = std::sync::mpsc::channel();
    hypervisor.subscribe(sender).unwrap();
    for _ in 0..2 {
        hypervisor.deploy(&spec).unwrap();
        assert_eq!(state(), Some(DomainState::Running));
    }
    let told: Vec<DomainEvent> = events.try_iter().collect();
    assert_eq!(told, [DomainEvent::Changed { domain: "one-7".to_owned() }]);
    let facts = hypervisor.facts().unwrap();
    assert_eq!(facts.memory_kb - facts.free_memory_kb, 512 << 10);
    assert_eq!(hypervisor.stats("one-7").unwrap().unwrap().memory_kb, 512 << 10);
    assert_eq!(hypervisor.undefine("one-7").unwrap_err().kind, Kind::Permanent);

    for _ in 0..2 {
        hypervisor.pause("one-7").unwrap();
        assert_eq!(state(), Some(DomainState::Paused));
    }
    hypervisor.resume("one-7").unwrap();
    hypervisor.reboot("one-7", true).unwrap();
    assert_eq!(state(), Some(DomainState::Running));
    for _ in 0..2 {
        hypervisor.shutdown("one-7", NEVER).unwrap();
        assert_eq!(state(), Some(DomainState::Off));
    }
    assert_eq!(hypervisor.stats("one-7").unwrap(), None);
    assert_eq!(hypervisor.reboot("one-7", false).unwrap_err().kind, Kind::Permanent);
    assert_eq!(hypervisor.pause("one-7").unwrap_err().kind, Kind::Permanent);
    hypervisor.resume("one-7").unwrap();
    for _ in 0..2 {
        hypervisor.destroy("one-7").unwrap();
        assert_eq!(state(), Some(DomainState::Off));
    }
    for _ in 0..2 {
        hypervisor.undefine("one-7").unwrap();
        assert_eq!(state(), None);
    }
    hypervisor.shutdown("one-7", NEVER).unwrap();
    hypervisor.destroy("one-7").unwrap();
    assert!(events.try_iter().count() >= 6);
}

#[test]
fn a_guest_that_crashes_by_itself_is_seen_and_told() {
    let rig = Rig::new();
    assert_eq!(rig.hypervisor.suffer("one-7", DomainState::Crashed).unwrap_err().kind, Kind::Missing);
    rig.hypervisor.deploy(&domain_spec("one-7", &[])).unwrap();
    let (sender, events) = std::sync::mpsc::channel();
    rig.hypervisor.subscribe(sender).unwrap();
    rig.hypervisor.suffer("one-7", DomainState::PausedIoError).unwrap();
    assert_eq!(rig.hypervisor.state("one-7").unwrap(), Some(DomainState::PausedIoError));
    rig.hypervisor.suffer("one-7", DomainState::Crashed).unwrap();
    assert_eq!(events.try_iter().count(), 2);
    // As somebody outside would do it.
    let path = rig.hypervisor_path().join("domains/one-7/domain.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"crashed\"", "\"running\"")).unwrap();
    assert_eq!(rig.hypervisor.state("one-7").unwrap(), Some(DomainState::Running));
}

#[test]
fn a_domain_whose_image_is_missing_does_not_start() {
    let rig = Rig::new();
    let mut disk = rig.image(0, DiskFormat::Raw, &[1; 512]);
    disk.path = rig.path("nowhere");
    let error = rig.hypervisor.deploy(&domain_spec("one-7", std::slice::from_ref(&disk))).unwrap_err();
    assert_eq!(error.kind, Kind::Missing);
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert_ne!(rig.hypervisor.state("one-7").unwrap(), Some(DomainState::Running));
    let spec = rig.backup("one-7", &[disk], None, None);
    assert_eq!(rig.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Missing);
    assert!(!spec.disks[0].scratch.exists());
}

#[test]
fn names_that_are_paths_stay_in_the_directory() {
    let rig = Rig::new();
    for name in ["../out", "..", ".", "a/b", "%2e"] {
        rig.hypervisor.deploy(&domain_spec(name, &[])).unwrap();
        assert_eq!(rig.hypervisor.state(name).unwrap(), Some(DomainState::Running));
    }
    assert_eq!(std::fs::read_dir(rig.hypervisor_path().join("domains")).unwrap().count(), 5);
    assert_eq!(std::fs::read_dir(rig.base.path()).unwrap().count(), 2);
    for name in ["", &"x".repeat(100)] {
        assert_eq!(rig.hypervisor.state(name).unwrap_err().kind, Kind::Permanent);
    }
    for point in ["../7", "", "zz"] {
        assert_eq!(rig.datastore.inspect("7", point).unwrap_err().kind, Kind::Missing);
    }
}

#[test]
fn everything_about_a_domain_survives_reopening() {
    let mut rig = Rig::new();
    let disk = rig.image(0, DiskFormat::Qcow2, &noise(BLOCK, 1));
    rig.hypervisor.deploy(&domain_spec("one-7", std::slice::from_ref(&disk))).unwrap();
    rig.hypervisor.pause("one-7").unwrap();
    let spec = rig.backup("one-7", std::slice::from_ref(&disk), None, Some("one-7-1"));
    rig.hypervisor.begin_backup(&spec).unwrap().end().unwrap();
    rig.reopen();
    assert_eq!(rig.hypervisor.state("one-7").unwrap(), Some(DomainState::Paused));
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), ["one-7-1"]);

    // Bitmaps outlive the definition, but not the image.
    rig.hypervisor.destroy("one-7").unwrap();
    rig.hypervisor.undefine("one-7").unwrap();
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), ["one-7-1"]);
    std::fs::remove_file(&disk.path).unwrap();
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), [""; 0]);
    rig.reopen();
    assert_eq!(std::fs::read_dir(rig.hypervisor_path().join("domains")).unwrap().count(), 0);
}

#[test]
fn a_saved_domain_goes_on_from_its_file_and_from_no_other() {
    let rig = Rig::new();
    let hypervisor = &rig.hypervisor;
    let file = rig.path("one-7.save");
    assert_eq!(hypervisor.save("one-7", &file).unwrap_err().kind, Kind::Missing);
    hypervisor.deploy(&domain_spec("one-7", &[])).unwrap();
    for _ in 0..2 {
        hypervisor.save("one-7", &file).unwrap();
        assert_eq!(hypervisor.state("one-7").unwrap(), Some(DomainState::Off));
    }
    assert_eq!(hypervisor.restore_saved("one-8", &file).unwrap_err().kind, Kind::Corrupt);
    assert_eq!(hypervisor.restore_saved("one-7", &rig.path("nothing")).unwrap_err().kind, Kind::Missing);
    for _ in 0..2 {
        hypervisor.restore_saved("one-7", &file).unwrap();
        assert_eq!(hypervisor.state("one-7").unwrap(), Some(DomainState::Running));
    }
    hypervisor.destroy("one-7").unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(hypervisor.save("one-7", &file).unwrap_err().kind, Kind::Missing);
    std::fs::write(&file, "something else").unwrap();
    assert_eq!(hypervisor.restore_saved("one-7", &file).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn disks_and_network_cards_come_and_go() {
    let rig = Rig::new();
    let hypervisor = &rig.hypervisor;
    let (first, second) = (rig.image(0, DiskFormat::Raw, &[1; 512]), rig.image(1, DiskFormat::Raw, &[2; 512]));
    assert_eq!(hypervisor.attach_disk("one-7", &first).unwrap_err().kind, Kind::Missing);
    hypervisor.deploy(&domain_spec("one-7", std::slice::from_ref(&first))).unwrap();
    for _ in 0..2 {
        hypervisor.attach_disk("one-7", &second).unwrap();
    }
    let elsewhere = DomainDisk { path: first.path.clone(), ..second.clone() };
    assert_eq!(hypervisor.attach_disk("one-7", &elsewhere).unwrap_err().kind, Kind::Permanent);
    for _ in 0..2 {
        hypervisor.detach_disk("one-7", "vdb", NEVER).unwrap();
    }
    hypervisor.attach_disk("one-7", &elsewhere).unwrap();
    let missing = DomainDisk { path: rig.path("nowhere"), target: "vdc".to_owned(), ..second };
    assert_eq!(hypervisor.attach_disk("one-7", &missing).unwrap_err().kind, Kind::Missing);

    let document = || std::fs::read_to_string(rig.hypervisor_path().join("domains/one-7/domain.json")).unwrap();
    let without = DomainNic { mac: None, ..nic("") };
    assert_eq!(hypervisor.attach_nic("one-7", &without).unwrap_err().kind, Kind::Permanent);
    for mac in ["02:00:00:00:00:aa", "02:00:00:00:00:AA"] {
        hypervisor.attach_nic("one-7", &nic(mac)).unwrap();
    }
    assert_eq!(document().matches("02:00:00:00:00:").count(), 2);
    for _ in 0..2 {
        hypervisor.detach_nic("one-7", "02:00:00:00:00:AA", NEVER).unwrap();
    }
    assert_eq!(document().matches("02:00:00:00:00:").count(), 1);
    hypervisor.detach_disk("one-8", "vda", NEVER).unwrap();
    hypervisor.detach_nic("one-8", "02:00:00:00:00:AA", NEVER).unwrap();
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; apt-get install qemu-utils"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

#[test]
fn a_disk_grows_and_qemu_img_agrees() {
    let rig = Rig::new();
    let data = noise(3 * BLOCK, 5);
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let disk = rig.image(0, format, &data);
        for _ in 0..2 {
            rig.hypervisor.resize_disk("one-7", &disk, 600 << 20).unwrap();
        }
        assert_eq!(rig.hypervisor.resize_disk("one-7", &disk, 1 << 20).unwrap_err().kind, Kind::Permanent);
        assert_eq!(rig.hypervisor.resize_disk("one-7", &disk, (600 << 20) + 1).unwrap_err().kind, Kind::Permanent);
        let image = disk.path.to_str().unwrap();
        let told = run("qemu-img", &["info", "--output=json", "-f", format.as_str(), image]);
        assert!(told.contains(&format!("\"virtual-size\": {}", 600 << 20)), "{told}");
        if format == DiskFormat::Qcow2 {
            run("qemu-img", &["check", "-f", "qcow2", image]);
        }
        let raw = rig.path("expected");
        std::fs::write(&raw, &data).unwrap();
        std::fs::File::options().write(true).open(&raw).unwrap().set_len(600 << 20).unwrap();
        run("qemu-img", &["compare", "-f", format.as_str(), "-F", "raw", image, raw.to_str().unwrap()]);
    }
    let missing = DomainDisk { path: rig.path("nowhere"), ..rig.image(0, DiskFormat::Raw, &data) };
    assert_eq!(rig.hypervisor.resize_disk("one-7", &missing, 1 << 30).unwrap_err().kind, Kind::Missing);
}

#[test]
fn a_disk_snapshot_brings_the_bytes_back_and_loses_the_bitmaps() {
    let rig = Rig::new();
    let hypervisor = &rig.hypervisor;
    let (old, new) = (noise(3 * BLOCK, 1), noise(3 * BLOCK, 2));
    let disk = rig.image(0, DiskFormat::Qcow2, &old);
    let raw = rig.image(1, DiskFormat::Raw, &old);
    let disks = [disk.clone()];
    hypervisor.deploy(&domain_spec("one-7", &disks)).unwrap();
    assert_eq!(hypervisor.disk_snapshot_create("one-7", &disk, "before").unwrap_err().kind, Kind::Permanent);
    hypervisor.destroy("one-7").unwrap();
    assert_eq!(hypervisor.disk_snapshot_create("one-7", &raw, "before").unwrap_err().kind, Kind::Permanent);
    assert_eq!(hypervisor.disk_snapshot_revert("one-7", &disk, "before").unwrap_err().kind, Kind::Missing);
    hypervisor.disk_snapshot_create("one-7", &disk, "before").unwrap();
    let spec = rig.backup("one-7", &disks, None, Some("one-7-1"));
    hypervisor.begin_backup(&spec).unwrap().end().unwrap();

    write_image(&disk.path, DiskFormat::Qcow2, &new);
    let content = || disk::content_digest(&disk.path, DiskFormat::Qcow2).unwrap();
    let changed = content();
    // It is there, so nothing happens.
    hypervisor.disk_snapshot_create("one-7", &disk, "before").unwrap();
    hypervisor.disk_snapshot_revert("one-7", &disk, "before").unwrap();
    assert_ne!(content(), changed);
    assert_eq!(backed_up(hypervisor, &rig.backup("one-7", &disks, None, None), 0).1, old);
    assert_eq!(hypervisor.checkpoints("one-7", &[]).unwrap(), [""; 0]);
    for _ in 0..2 {
        hypervisor.disk_snapshot_delete("one-7", &disk, "before").unwrap();
    }
    assert_eq!(hypervisor.disk_snapshot_revert("one-7", &disk, "before").unwrap_err().kind, Kind::Missing);
}

#[test]
fn a_system_snapshot_brings_all_disks_back_and_the_domain_runs() {
    let rig = Rig::new();
    let hypervisor = &rig.hypervisor;
    let old = noise(2 * BLOCK, 1);
    let disks = [rig.image(0, DiskFormat::Qcow2, &old), rig.image(1, DiskFormat::Qcow2, &old)];
    assert_eq!(hypervisor.system_snapshot_create("one-7", "snap 1").unwrap_err().kind, Kind::Missing);
    hypervisor.deploy(&domain_spec("one-7", &disks)).unwrap();
    for _ in 0..2 {
        hypervisor.system_snapshot_create("one-7", "snap 1").unwrap();
    }
    for disk in &disks {
        write_image(&disk.path, DiskFormat::Qcow2, &noise(2 * BLOCK, 2));
    }
    hypervisor.destroy("one-7").unwrap();
    assert_eq!(hypervisor.system_snapshot_create("one-7", "snap 2").unwrap_err().kind, Kind::Permanent);
    assert_eq!(hypervisor.system_snapshot_revert("one-7", "snap 2").unwrap_err().kind, Kind::Missing);
    hypervisor.system_snapshot_revert("one-7", "snap 1").unwrap();
    assert_eq!(hypervisor.state("one-7").unwrap(), Some(DomainState::Running));
    for disk in &disks {
        assert_eq!(backed_up(hypervisor, &rig.backup("one-7", &disks, None, None), disk.id).1, old);
    }
    for _ in 0..2 {
        hypervisor.system_snapshot_delete("one-7", "snap 1").unwrap();
    }
    hypervisor.system_snapshot_delete("one-9", "snap 1").unwrap();
    assert_eq!(hypervisor.system_snapshot_revert("one-7", "snap 1").unwrap_err().kind, Kind::Missing);
    hypervisor.destroy("one-7").unwrap();
    hypervisor.deploy(&domain_spec("one-7", &[rig.image(2, DiskFormat::Raw, &old)])).unwrap();
    assert_eq!(hypervisor.system_snapshot_create("one-7", "snap 3").unwrap_err().kind, Kind::Permanent);
}

// ---------------------------------------------------------------------------------------------------------------------
// Backups

/// Extents of a disk, and its content as far as they list data (the rest zero).
fn backed_up(hypervisor: &DummyHypervisor, spec: &BackupSpec, disk: u32) -> (Vec<Extent>, Vec<u8>) {
    let mut session = hypervisor.begin_backup(spec).unwrap();
    let read = read_all(session.disk(disk).unwrap().as_mut());
    session.end().unwrap();
    for disk in &spec.disks {
        assert!(!disk.scratch.exists());
    }
    read
}

fn read_all(reader: &mut dyn DiskReader) -> (Vec<Extent>, Vec<u8>) {
    let mut content = vec![0; usize::try_from(reader.size_bytes()).unwrap()];
    let extents = reader.extents().unwrap();
    let data = extents.iter().filter(|extent| extent.content == Content::Data);
    let mut ranges = data.map(|extent| (extent.offset, u32::try_from(extent.length).unwrap()));
    let mut sink = |offset: u64, data: Vec<u8>| {
        content[usize::try_from(offset).unwrap()..][..data.len()].copy_from_slice(&data);
        Ok(())
    };
    reader.read(&mut ranges, &mut sink).unwrap();
    (extents, content)
}

#[test]
fn an_increment_lists_exactly_the_blocks_that_qemu_wrote() {
    let rig = Rig::new();
    let base = rig.path("base");
    write_image(&base, DiskFormat::Raw, &noise(6 * BLOCK, 3));
    let path = rig.path("disk.0");
    disk::create_overlay(&path, Path::new("base"), DiskFormat::Raw, (8 * BLOCK) as u64).unwrap();
    let image = path.to_str().unwrap();
    let disks = [disk_at(path.clone(), 0, DiskFormat::Qcow2)];
    rig.hypervisor.deploy(&domain_spec("one-7", &disks)).unwrap();
    let full = rig.backup("one-7", &disks, None, Some("one-7-1"));
    let (extents, mut content) = backed_up(&rig.hypervisor, &full, 0);
    let extent = |first: usize, count: usize, content| Extent {
        offset: (first * BLOCK) as u64,
        length: (count * BLOCK) as u64,
        content,
    };
    assert_eq!(extents, [extent(0, 6, Content::Data), extent(6, 2, Content::Zero)]);
    assert_eq!(content[..6 * BLOCK], noise(6 * BLOCK, 3));

    // Twice the same bytes count as no change.
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 200k 512", "-c", "write -P 7 448k 100", image]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -z 64k 64k", image]);
    let again = rig.backup("one-7", &disks, Some("one-7-1"), Some("one-7-2"));
    let mut session = rig.hypervisor.begin_backup(&again).unwrap();
    // The guest writes on; the point in time does not.
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 64k", image]);
    let (extents, _) = read_all(session.disk(0).unwrap().as_mut());
    assert_eq!(extents, [extent(1, 1, Content::Zero), extent(3, 1, Content::Data), extent(7, 1, Content::Data)]);
    content[BLOCK..2 * BLOCK].fill(0);
    content[200 << 10..(200 << 10) + 512].fill(9);
    content[448 << 10..(448 << 10) + 100].fill(7);
    assert_eq!(read_all(session.whole_disk(0).unwrap().as_mut()).1, content);
    assert_eq!(session.disk(1).err().unwrap().kind, Kind::Missing);
    session.end().unwrap();

    let third = rig.backup("one-7", &disks, Some("one-7-2"), None);
    assert_eq!(backed_up(&rig.hypervisor, &third, 0).0, [extent(0, 1, Content::Data)]);
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), ["one-7-1", "one-7-2"]);
    for _ in 0..2 {
        rig.hypervisor.delete_checkpoint("one-7", "one-7-1", &[]).unwrap();
    }
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), ["one-7-2"]);
    assert_eq!(rig.hypervisor.begin_backup(&again).err().unwrap().kind, Kind::Missing);
}

#[test]
fn compressed_and_odd_images_are_read_as_a_guest_reads_them() {
    let rig = Rig::new();
    let mut data = noise(5 * BLOCK, 3);
    data[2 * BLOCK..4 * BLOCK].fill(7);
    let source = rig.path("source");
    std::fs::write(&source, &data).unwrap();
    let disks = [disk_at(rig.path("disk.0"), 0, DiskFormat::Qcow2)];
    let (from, to) = (source.to_str().unwrap(), disks[0].path.to_str().unwrap());
    let make = |kind, options| run("qemu-img", &["convert", kind, "-f", "raw", "-O", "qcow2", "-o", options, from, to]);
    for (kind, options) in [("-c", "compression_type=zlib"), ("-q", "cluster_size=4k"), ("-q", "compat=0.10")] {
        make(kind, options);
        assert!(backed_up(&rig.hypervisor, &rig.backup("one-7", &disks, None, None), 0).1 == data, "{options}");
    }
    // What cannot be read is refused, not misread.
    for (options, feature) in [("extended_l2=on", "extended L2"), ("compression_type=zstd", "compression type")] {
        make("-c", options);
        let error = rig.hypervisor.begin_backup(&rig.backup("one-7", &disks, None, None)).err().unwrap();
        assert_eq!(error.kind, Kind::Permanent);
        assert!(error.to_string().contains(feature), "{error}");
    }

    // A raw file may end within a sector.
    let path = rig.path("disk.1");
    std::fs::write(&path, &data[..BLOCK + 100]).unwrap();
    let disks = [disk_at(path, 1, DiskFormat::Raw)];
    let (extents, content) = backed_up(&rig.hypervisor, &rig.backup("one-7", &disks, None, None), 1);
    assert_eq!((extents.len(), content.len()), (1, BLOCK + 512));
    assert!(content[..BLOCK + 100] == data[..BLOCK + 100] && content[BLOCK + 100..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_lost_bitmap_and_one_that_never_was_are_missing_and_leave_nothing_behind() {
    let rig = Rig::new();
    let disks = [rig.image(0, DiskFormat::Qcow2, &noise(BLOCK, 1)), rig.image(1, DiskFormat::Raw, &noise(BLOCK, 2))];
    let first = rig.backup("one-7", &disks, None, Some("one-7-1"));
    rig.hypervisor.begin_backup(&first).unwrap().end().unwrap();
    // A raw disk keeps no bitmap.
    let both = rig.backup("one-7", &disks, Some("one-7-1"), Some("one-7-2"));
    assert_eq!(rig.hypervisor.begin_backup(&both).err().unwrap().kind, Kind::Missing);
    let increment = rig.backup("one-7", &disks[..1], Some("one-7-1"), Some("one-7-2"));
    rig.hypervisor.begin_backup(&increment).unwrap().end().unwrap();
    rig.script(r#"{"lost_bitmaps": ["one-7-1"]}"#);
    let error = rig.hypervisor.begin_backup(&increment).err().unwrap();
    assert_eq!(error.kind, Kind::Missing);
    assert!(error.to_string().contains("since one-7-1"), "{error}");
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), ["one-7-2"]);
    rig.script(r#"{"lost_bitmaps": ["*"]}"#);
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), [""; 0]);
    assert!(disks.iter().all(|disk| disk.path.exists()));
    assert!(increment.disks.iter().chain(&both.disks).all(|disk| !disk.scratch.exists()));
}

#[test]
fn a_backup_that_fails_to_begin_leaves_neither_checkpoint_nor_scratch() {
    let rig = Rig::new();
    let mut disks = vec![rig.image(0, DiskFormat::Qcow2, &noise(BLOCK, 1)), rig.image(1, DiskFormat::Raw, &[1; 512])];
    disks[1].path = rig.path("nowhere");
    let spec = rig.backup("one-7", &disks, None, Some("one-7-1"));
    assert_eq!(rig.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Missing);
    disks[1] = DomainDisk { format: DiskFormat::Qcow2, ..rig.image(1, DiskFormat::Raw, &[1; 512]) };
    let spec = rig.backup("one-7", &disks, None, Some("one-7-1"));
    assert_eq!(rig.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Corrupt);
    assert!(spec.disks.iter().all(|disk| !disk.scratch.exists()));
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), [""; 0]);

    // Not even when everything was done and only the answer did not come.
    rig.script(
        r#"{"rules": [{"operation": "begin_backup", "when": "after", "fail": {"kind": "retry", "reason": "x"}}]}"#,
    );
    let spec = rig.backup("one-7", &disks[..1], None, Some("one-7-1"));
    assert_eq!(rig.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Retry);
    assert!(!spec.disks[0].scratch.exists());
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), [""; 0]);
    rig.script("{}");

    // A scratch file in the place of an image would be the end of the image.
    let mut spec = rig.backup("one-7", &disks[..1], None, None);
    spec.disks[0].scratch = disks[0].path.clone();
    assert_eq!(rig.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Permanent);
    assert_eq!(rig.hypervisor.abandon_backup(&spec).unwrap_err().kind, Kind::Permanent);
    assert!(disks[0].path.exists());
}

#[test]
fn a_session_dies_with_its_domain_and_a_guest_that_cannot_be_frozen_is_a_warning() {
    let fault = Rule::new(Operation::Freeze).failing(Kind::Retry, "the agent is asleep");
    let rig = Rig::scripted(Script::of(vec![fault]), Script::default());
    let disks = [rig.image(0, DiskFormat::Qcow2, &noise(BLOCK, 1))];
    rig.hypervisor.deploy(&domain_spec("one-7", &disks)).unwrap();
    let spec = BackupSpec { freeze: Freeze::Agent, ..rig.backup("one-7", &disks, None, None) };
    let mut session = rig.hypervisor.begin_backup(&spec).unwrap();
    assert_eq!(session.warnings().len(), 1);
    assert!(session.warnings()[0].contains("the agent is asleep"), "{:?}", session.warnings());
    let mut reader = session.disk(0).unwrap();
    assert!(session.is_alive());
    rig.hypervisor.destroy("one-7").unwrap();
    rig.hypervisor.resume("one-7").unwrap();
    assert!(!session.is_alive());
    assert_eq!(reader.extents().unwrap_err().kind, Kind::Retry);
    assert!(session.disk(0).is_err());
    drop(session);
    assert!(!spec.disks[0].scratch.exists());
    let session = rig.hypervisor.begin_backup(&BackupSpec { freeze: Freeze::None, ..spec }).unwrap();
    assert!(session.warnings().is_empty() && session.is_alive());
}

#[test]
fn a_guest_is_held_until_the_point_in_time_is_there_and_let_go_by_whoever_clears_up() {
    let rig = Rig::new();
    let disks = [rig.image(0, DiskFormat::Qcow2, &noise(BLOCK, 1))];
    rig.hypervisor.deploy(&domain_spec("one-7", &disks)).unwrap();
    let record = rig.hypervisor_path().join("domains/one-7/domain.json");
    let held = || {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        record["held"].as_str().map(str::to_owned)
    };
    for (freeze, word) in [(Freeze::Agent, "frozen"), (Freeze::Suspend, "suspended")] {
        let spec = BackupSpec { freeze, freeze_required: true, ..rig.backup("one-7", &disks, None, Some("c-0")) };
        rig.script(r#"{"rules": [{"operation": "thaw", "until_cancelled": true}]}"#);
        std::thread::scope(|scope| {
            let begun = scope.spawn(|| rig.hypervisor.begin_backup(&spec).unwrap());
            while held().as_deref() != Some(word) {
                assert!(!begun.is_finished(), "it was never {word}");
                std::thread::yield_now();
            }
            rig.script("{}");
            drop(begun.join().unwrap());
        });
        assert_eq!(held(), None);

        let text = std::fs::read_to_string(&record).unwrap();
        let left = text.trim_end().strip_suffix('}').unwrap().to_owned() + &format!(",\"held\":\"{word}\"}}");
        std::fs::write(&record, left).unwrap();
        assert_eq!(held().as_deref(), Some(word));
        rig.hypervisor.abandon_backup(&spec).unwrap();
        assert_eq!(held(), None);

        rig.hypervisor.delete_checkpoint("one-7", "c-0", &[]).unwrap();
        rig.script(r#"{"rules": [{"operation": "freeze", "fail": {"kind": "retry", "reason": "asleep"}}]}"#);
        let error = rig.hypervisor.begin_backup(&spec).err().unwrap();
        assert_eq!(error.kind, Kind::Permanent);
        assert!(error.reason.starts_with("crash-consistent: domain one-7 could not be quieted (asleep)"), "{error}");
        assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), Vec::<String>::new());
        assert!(!spec.disks[0].scratch.exists());
        rig.script("{}");
    }
}

#[test]
fn faults_reach_the_reader_of_a_backup() {
    let rig = Rig::new();
    let disks = [rig.image(0, DiskFormat::Qcow2, &noise(BLOCK, 1))];
    let spec = rig.backup("one-7", &disks, None, None);
    for operation in ["open_disk", "extents", "read_disk"] {
        let fault = r#""fail": {"kind": "retry", "reason": "no answer"}"#;
        rig.script(&format!(r#"{{"rules": [{{"operation": "{operation}", {fault}}}]}}"#));
        let mut session = rig.hypervisor.begin_backup(&spec).unwrap();
        let stored = session.disk(0).and_then(|reader| {
            let disk = SourceDisk { id: 0, reader, change: Change::Whole, marked: None };
            store_disks(&rig.datastore, "job=1", None, vec![disk], &Cancel::default())
        });
        assert_eq!(stored.unwrap_err().reason, "no answer", "{operation}");
        session.end().unwrap();
    }
    assert_eq!(rig.folders(), [""; 0]);
}

// ---------------------------------------------------------------------------------------------------------------------
// Stored points

struct MemoryReader {
    data: Arc<Vec<u8>>,
    extents: Vec<Extent>,
    /// What happens instead of the first read.
    instead: Option<fn() -> Result<()>>,
}

impl DiskReader for MemoryReader {
    fn size_bytes(&self) -> u64 {
        self.data.len() as u64
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        Ok(self.extents.clone())
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        // Turned round, as from a server with several requests in flight.
        let mut ranges: Vec<_> = ranges.collect();
        ranges.reverse();
        for (offset, length) in ranges {
            sink(offset, self.data[usize::try_from(offset).unwrap()..][..length as usize].to_vec())?;
            if let Some(instead) = self.instead.take() {
                instead()?;
            }
        }
        Ok(())
    }
}

struct MemoryWriter(Vec<u8>);

impl DiskWriter for MemoryWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.0[usize::try_from(offset).unwrap()..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn whole(data: &[u8]) -> (MemoryReader, Change) {
    let extents = vec![Extent { offset: 0, length: data.len() as u64, content: Content::Data }];
    (MemoryReader { data: Arc::new(data.to_vec()), extents, instead: None }, Change::Whole)
}

fn changed(data: &[u8], extents: &[(usize, usize, Content)]) -> (MemoryReader, Change) {
    let extents = extents.iter().map(|(offset, length, content)| Extent {
        offset: *offset as u64,
        length: *length as u64,
        content: *content,
    });
    (MemoryReader { data: Arc::new(data.to_vec()), extents: extents.collect(), instead: None }, Change::SinceParent)
}

fn store(
    datastore: &DummyDatastore,
    job: &str,
    parent: Option<&str>,
    disks: Vec<(MemoryReader, Change)>,
    cancel: &Cancel,
) -> Result<Stored> {
    let disks = disks.into_iter().zip(0..);
    let disks =
        disks.map(|((reader, change), id)| SourceDisk { id, reader: Box::new(reader), change, marked: None }).collect();
    store_disks(datastore, job, parent, disks, cancel)
}

fn store_disks(
    datastore: &DummyDatastore,
    job: &str,
    parent: Option<&str>,
    disks: Vec<SourceDisk>,
    cancel: &Cancel,
) -> Result<Stored> {
    let tags = ["one-7".to_owned()];
    let request = StoreRequest { series: "7", tags: &tags, job, time: 1_700_000_000, parent, document: b"<VM/>" };
    datastore.store(&request, disks, &Progress::default(), cancel)
}

#[test]
fn a_point_is_found_inspected_and_restored_and_an_increment_is_whole() {
    let rig = Rig::new();
    let datastore = &rig.datastore;
    let (mut disk, second) = (noise(20 * BLOCK + 512, 1), vec![0; 3 * BLOCK]);
    let full = store(datastore, "job=1", None, vec![whole(&disk), whole(&second)], &Cancel::default()).unwrap();
    assert_eq!(full.read_bytes, (disk.len() + second.len()) as u64);
    assert_eq!(full.disks.iter().map(|d| (d.id, d.size_bytes)).collect::<Vec<_>>(), [(0, 1_311_232), (1, 196_608)]);
    assert_eq!(datastore.inspect("7", &full.point).unwrap(), full);
    assert_eq!(datastore.find("7", "job=1").unwrap(), Some(full.clone()));
    assert_eq!(datastore.find("7", "job=").unwrap(), None);
    assert_eq!(datastore.find("8", "job=1").unwrap(), None);
    assert_eq!(datastore.ids("7").unwrap(), std::slice::from_ref(&full.point));
    assert_eq!(datastore.document("7", &full.point).unwrap(), b"<VM/>");
    assert_eq!(rig.restored(&full.point, 0, disk.len()).unwrap(), disk);
    assert_eq!(rig.restored(&full.point, 1, second.len()).unwrap(), second);
    assert_eq!(rig.restored(&full.point, 2, 1).unwrap_err().kind, Kind::Missing);

    let old = disk.clone();
    disk[5 * BLOCK + 100..5 * BLOCK + 110].fill(1);
    disk[7 * BLOCK - 10..10 * BLOCK].fill(0);
    let extents = [(5 * BLOCK + 100, 10, Content::Data), (7 * BLOCK - 10, 3 * BLOCK + 10, Content::Zero)];
    let progress = Progress::default();
    let tags = [];
    let parent = Some(full.point.as_str());
    let request = StoreRequest { series: "7", tags: &tags, job: "job=2", time: 0, parent, document: b"" };
    let source = |id, (reader, change)| SourceDisk { id, reader: Box::new(reader), change, marked: None };
    let disks = vec![source(0, changed(&disk, &extents)), source(1, changed(&second, &[]))];
    let increment = datastore.store(&request, disks, &progress, &Cancel::default()).unwrap();
    // The block of the ten bytes, and the one that is zero only at its end.
    assert_eq!(increment.read_bytes, 2 * BLOCK as u64);
    assert_eq!(progress.get(), (2 * BLOCK as u64, 2 * BLOCK as u64));
    assert!(datastore.forget_now("7", std::slice::from_ref(&full.point)).unwrap().freed_bytes > 20 * BLOCK as u64);
    assert_eq!(datastore.forget_now("7", &[full.point.clone(), "nonsense".to_owned()]).unwrap().freed_bytes, 0);
    assert_eq!(rig.restored(&increment.point, 0, disk.len()).unwrap(), disk);
    assert_eq!(rig.restored(&full.point, 0, old.len()).unwrap_err().kind, Kind::Missing);
    assert_eq!(datastore.inspect("7", &full.point).unwrap_err().kind, Kind::Missing);
    assert_eq!(datastore.document("7", &full.point).unwrap_err().kind, Kind::Missing);
    assert_eq!(rig.folders(), std::slice::from_ref(&increment.point));
    let capacity = datastore.capacity().unwrap();
    assert!(capacity.used_bytes > 16 * BLOCK as u64 && capacity.total_bytes >= capacity.free_bytes);
}

#[test]
fn an_increment_without_a_fitting_parent_is_refused_before_reading() {
    let rig = Rig::new();
    let disk = noise(4 * BLOCK, 1);
    let full = store(&rig.datastore, "job=1", None, vec![whole(&disk)], &Cancel::default()).unwrap();
    let reader = |data: &[u8]| {
        let (mut reader, change) = changed(data, &[(0, 512, Content::Data)]);
        reader.instead = Some(|| panic!("it was read"));
        (reader, change)
    };
    let id = "0".repeat(64);
    for parent in [None, Some(id.as_str()), Some("../7")] {
        let error = store(&rig.datastore, "job=2", parent, vec![reader(&disk)], &Cancel::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Missing);
    }
    let parent = Some(full.point.as_str());
    let cases = [vec![reader(&disk[512..])], vec![reader(&disk), reader(&disk)]];
    for disks in cases {
        let error = store(&rig.datastore, "job=2", parent, disks, &Cancel::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Missing, "{error}");
    }
    std::fs::write(rig.path("datastore/7").join(&full.point).join("disk.0"), "short").unwrap();
    let error = store(&rig.datastore, "job=2", parent, vec![reader(&disk)], &Cancel::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert_eq!(rig.datastore.inspect("7", &full.point).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn damaged_bytes_are_never_restored() {
    let rig = Rig::new();
    let disk = noise(4 * BLOCK, 1);
    let full = store(&rig.datastore, "job=1", None, vec![whole(&disk)], &Cancel::default()).unwrap();
    let folder = rig.path("datastore/7").join(&full.point);
    let mut bytes = std::fs::read(folder.join("disk.0")).unwrap();
    bytes[3 * BLOCK + 5] ^= 1;
    std::fs::write(folder.join("disk.0"), &bytes).unwrap();
    assert_eq!(rig.restored(&full.point, 0, disk.len()).unwrap_err().kind, Kind::Corrupt);
    std::fs::write(folder.join("vm.xml"), "<OTHER/>").unwrap();
    assert_eq!(rig.datastore.document("7", &full.point).unwrap_err().kind, Kind::Corrupt);
    std::fs::write(folder.join("manifest.json"), "{}").unwrap();
    assert_eq!(rig.datastore.inspect("7", &full.point).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn a_comparison_counts_unmarked_bytes_one_by_one_and_mends_what_the_parent_lost() {
    let rig = Rig::new();
    let old = noise(4 * BLOCK + 512, 1);
    let full = store(&rig.datastore, "job=1", None, vec![whole(&old)], &Cancel::default()).unwrap();
    // Rot in a block that did not change.
    let file = rig.path("datastore/7").join(&full.point).join("disk.0");
    let mut rotten = old.clone();
    rotten[3 * BLOCK] ^= 1;
    std::fs::write(file, rotten).unwrap();

    let mut new = old.clone();
    for at in [0, 511, 512, BLOCK, 4 * BLOCK + 511] {
        new[at] ^= 1;
    }
    new[2 * BLOCK..3 * BLOCK].fill(0);
    let lost = old[2 * BLOCK + 10..3 * BLOCK].iter().filter(|byte| **byte != 0).count() as u64;
    let extent =
        |offset: usize, length: usize| Extent { offset: offset as u64, length: length as u64, content: Content::Data };
    // Out of order, overlapping, and beyond the disk.
    let marked = vec![extent(2 * BLOCK, 10), extent(0, 300), extent(200, 312), extent(5 * BLOCK, usize::MAX)];
    let mut whole = whole(&new).0;
    let zero = Extent { content: Content::Zero, ..extent(2 * BLOCK, BLOCK) };
    whole.extents = vec![extent(0, 2 * BLOCK), zero, extent(3 * BLOCK, BLOCK + 512)];
    let disk = SourceDisk { id: 0, reader: Box::new(whole), change: Change::Compare, marked: Some(marked) };
    let stored = store_disks(&rig.datastore, "job=2", Some(&full.point), vec![disk], &Cancel::default()).unwrap();
    assert_eq!(stored.unmarked_bytes, 3 + lost);
    // Blocks 0, 1 and the short one changed and are not zero; block 3 was mended.
    assert_eq!(stored.stored_bytes, 3 * BLOCK as u64 + 512 + 5);
    assert_eq!(rig.restored(&stored.point, 0, new.len()).unwrap(), new);
    assert_eq!(rig.restored(&full.point, 0, old.len()).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn a_disk_at_hand_that_cannot_be_read_is_left_out() {
    let rig = Rig::new();
    let disk = noise(40 * BLOCK, 1);
    let full = store(&rig.datastore, "job=1", None, vec![whole(&disk)], &Cancel::default()).unwrap();
    let (mut current, _) = whole(&disk);
    current.instead = Some(|| Err(DriverError::new(Kind::Permanent, "reading a disk", "injected")));
    let request =
        RestoreRequest { series: "7", point: &full.point, disk: 0, skip_bad: false, current: Some(Box::new(current)) };
    let mut writer = MemoryWriter(vec![0; disk.len()]);
    let restored = rig.datastore.restore(request, &mut writer, &Progress::default(), &Cancel::default()).unwrap();
    assert_eq!(writer.0, disk);
    assert_eq!((restored.fetched_bytes, restored.written_bytes), (disk.len() as u64, disk.len() as u64));
}

#[test]
fn a_point_that_is_forgotten_while_it_is_restored_comes_back_whole() {
    struct Forgetting<'a>(&'a Rig, &'a str, Vec<u8>);
    impl DiskWriter for Forgetting<'_> {
        fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
            self.0.datastore.forget_now("7", &[self.1.to_owned()])?;
            self.2[usize::try_from(offset).unwrap()..][..data.len()].copy_from_slice(data);
            Ok(())
        }

        fn finish(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }
    let rig = Rig::new();
    let disk = noise(40 * BLOCK, 1);
    let full = store(&rig.datastore, "job=1", None, vec![whole(&disk)], &Cancel::default()).unwrap();
    let mut writer = Forgetting(&rig, &full.point, vec![0; disk.len()]);
    rig.datastore.restore_now("7", &full.point, 0, &mut writer).unwrap();
    assert_eq!(writer.2, disk);
    assert_eq!(rig.folders(), [""; 0]);
}

#[test]
fn damage_is_told_with_its_file_and_range_and_a_damaged_point_is_left_out_of_the_list() {
    let rig = Rig::new();
    let disk = noise(6 * BLOCK, 1);
    let job = |number: u32| format!("job={number}");
    let points: Vec<String> = (0..5)
        .map(|number| store(&rig.datastore, &job(number), None, vec![whole(&disk)], &Cancel::default()).unwrap().point)
        .collect();
    let file = |number: usize, name: &str| rig.path("datastore/7").join(&points[number]).join(name);
    let mut bytes = disk.clone();
    bytes[BLOCK] ^= 1;
    bytes[3 * BLOCK - 1] ^= 1;
    std::fs::write(file(0, "disk.0"), &bytes[..5 * BLOCK + 7]).unwrap();
    std::fs::remove_file(file(1, "disk.0")).unwrap();
    std::fs::remove_file(file(2, "vm.xml")).unwrap();
    let manifest = std::fs::read_to_string(file(3, "manifest.json")).unwrap();
    std::fs::write(file(3, "manifest.json"), manifest.replace("one-7", "one-8")).unwrap();
    let block = BLOCK as u64;
    let told = |depth| {
        let request = VerifyRequest { series: "7", points: &points, depth, resume: None };
        let found =
            rig.datastore.verify(&request, &mut |_| Ok(()), &Progress::default(), &Cancel::default()).unwrap().damages;
        let place = |damage: Damage| {
            let number = points.iter().position(|point| damage.points == [point.clone()]).unwrap();
            (number, damage.disk, damage.offset, damage.length, damage.what)
        };
        found.into_iter().map(place).collect::<Vec<_>>()
    };
    let quick = [
        (0, Some(0), 5 * block, block, "disk.0 is not as long as it was".to_owned()),
        (1, Some(0), 0, 6 * block, "disk.0 is not there".to_owned()),
        (2, None, 0, 0, "vm.xml is gone or does not have its digest".to_owned()),
        (3, None, 0, 0, "manifest.json is not what was written".to_owned()),
    ];
    assert_eq!(told(Depth::Quick), quick);
    let mut deep = quick.to_vec();
    deep.insert(0, (0, Some(0), block, 2 * block, "disk.0 does not have its digest".to_owned()));
    assert_eq!(told(Depth::Deep), deep);
    let mut whole = [points[0].clone(), points[1].clone(), points[2].clone(), points[4].clone()];
    whole.sort();
    assert_eq!(rig.datastore.ids("7").unwrap(), whole);
}

#[test]
fn a_scripted_fault_stops_a_verification_and_it_goes_on_where_it_was() {
    let rig = Rig::new();
    let disks = [noise(2 * BLOCK, 1), noise(3 * BLOCK, 2)];
    let sources = disks.iter().map(|disk| whole(disk)).collect();
    let full = store(&rig.datastore, "job=1", None, sources, &Cancel::default()).unwrap();
    let path = rig.path("datastore").join(SCRIPT_FILE);
    let mut saved = None;
    let mut verify = |resume: Option<&str>, progress: &Progress| {
        let request =
            VerifyRequest { series: "7", points: std::slice::from_ref(&full.point), depth: Depth::Deep, resume };
        let mut save = |text: &str| {
            saved = Some(text.to_owned());
            Ok(())
        };
        let verified = rig.datastore.verify(&request, &mut save, progress, &Cancel::default());
        (verified.map_err(|error| error.reason), saved.clone())
    };
    for (rule, saves) in [(r#""verify""#, false), (r#""verify_disk", "call": 2"#, true)] {
        let fault = r#""fail": {"kind": "retry", "reason": "the disk is away"}"#;
        std::fs::write(&path, format!(r#"{{"rules": [{{"operation": {rule}, {fault}}}]}}"#)).unwrap();
        let (verified, saved) = verify(None, &Progress::default());
        assert_eq!((verified, saved.is_some()), (Err("the disk is away".to_owned()), saves));
    }
    std::fs::remove_file(&path).unwrap();
    // With the document.
    let all = 5 * BLOCK as u64 + 5;
    let progress = Progress::default();
    let (_, text) = verify(None, &progress);
    assert_eq!(progress.get(), (5 * BLOCK as u64, 5 * BLOCK as u64));
    // The text after the first disk, made from the one at the end.
    let text = text.unwrap().replace(r#""disk":2"#, r#""disk":1"#).replace(&all.to_string(), "131077");
    let progress = Progress::default();
    let (verified, _) = verify(Some(&text), &progress);
    assert_eq!(verified.unwrap().read_bytes, all);
    assert_eq!(progress.get(), (3 * BLOCK as u64, 3 * BLOCK as u64));
}

#[test]
fn a_reader_that_breaks_its_contract_is_refused() {
    let rig = Rig::new();
    let disk = noise(2 * BLOCK, 1);
    let full = store(&rig.datastore, "job=1", None, vec![whole(&disk)], &Cancel::default()).unwrap();
    let data = Content::Data;
    for extents in [
        &[(0, 0, data)][..],
        &[(0, 2 * BLOCK + 1, data)],
        &[(BLOCK, 512, data), (0, 512, data)],
        &[(0, BLOCK, data), (BLOCK - 1, 5, data)],
        &[(usize::MAX, usize::MAX, data)],
    ] {
        let parent = Some(full.point.as_str());
        let error = store(&rig.datastore, "job=2", parent, vec![changed(&disk, extents)], &Cancel::default());
        assert_eq!(error.unwrap_err().kind, Kind::Permanent, "{extents:?}");
    }
    let (reader, _) = changed(&disk, &[(0, BLOCK, data)]);
    let error = store(&rig.datastore, "job=2", None, vec![(reader, Change::Whole)], &Cancel::default());
    assert_eq!(error.unwrap_err().kind, Kind::Permanent);
    assert_eq!(rig.folders(), [full.point]);
}

#[test]
fn storing_twice_under_one_job_gives_one_point() {
    let rig = Rig::new();
    let first = store(&rig.datastore, "job=1", None, vec![whole(&noise(BLOCK, 1))], &Cancel::default()).unwrap();
    let again = store(&rig.datastore, "job=1", None, vec![whole(&noise(BLOCK, 2))], &Cancel::default()).unwrap();
    assert_eq!(again, first);
    assert_eq!(rig.restored(&first.point, 0, BLOCK).unwrap(), noise(BLOCK, 1));
    assert_eq!(rig.folders().len(), 1);
}

#[test]
fn a_failed_read_a_cancel_and_a_scripted_fault_publish_nothing() {
    let rig = Rig::new();
    let data = noise(4 * BLOCK, 1);
    let (mut reader, change) = whole(&data);
    reader.instead = Some(|| Err(DriverError::new(Kind::Retry, "reading a disk", "injected")));
    let error = store(&rig.datastore, "job=1", None, vec![(reader, change)], &Cancel::default()).unwrap_err();
    assert_eq!(error.reason, "injected");
    let cancel = Cancel::default();
    cancel.cancel();
    let error = store(&rig.datastore, "job=1", None, vec![whole(&data)], &cancel).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
    let path = rig.path("datastore").join(SCRIPT_FILE);
    for operation in ["store", "store_disk", "seal"] {
        let fault = r#""fail": {"kind": "permanent", "reason": "the disk is full"}"#;
        std::fs::write(&path, format!(r#"{{"rules": [{{"operation": "{operation}", {fault}}}]}}"#)).unwrap();
        let error = store(&rig.datastore, "job=1", None, vec![whole(&data)], &Cancel::default()).unwrap_err();
        assert_eq!((error.kind, error.reason.as_str()), (Kind::Permanent, "the disk is full"));
    }
    std::fs::write(&path, r#"{"capacity": {"total_bytes": 10, "free_bytes": 5}}"#).unwrap();
    assert_eq!(rig.datastore.ids("7").unwrap(), [""; 0]);
    assert_eq!(rig.folders(), [""; 0]);
    let capacity = rig.datastore.capacity().unwrap();
    assert_eq!((capacity.total_bytes, capacity.free_bytes), (10, 5));
}

#[test]
fn a_point_whose_publication_was_not_answered_is_found() {
    let lost = Rule::new(Operation::Seal).failing(Kind::Retry, "the answer was lost").call(1).after();
    let rig = Rig::scripted(Script::default(), Script::of(vec![lost]));
    let data = noise(BLOCK, 1);
    store(&rig.datastore, "job=1", None, vec![whole(&data)], &Cancel::default()).unwrap_err();
    let found = rig.datastore.find("7", "job=1").unwrap().unwrap();
    rig.datastore.sweep_now("7").unwrap();
    assert_eq!(rig.restored(&found.point, 0, BLOCK).unwrap(), data);
    let again = store(&rig.datastore, "job=1", None, vec![whole(&data)], &Cancel::default()).unwrap();
    assert_eq!(again, found);
}

#[test]
fn a_datastore_whose_directory_is_gone_says_so() {
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.path("datastore")).unwrap();
    assert_eq!(rig.datastore.points("7").unwrap_err().kind, Kind::Retry);
    assert_eq!(rig.datastore.find("7", "job=1").unwrap_err().kind, Kind::Retry);
    assert_eq!(rig.datastore.sweep_now("7").unwrap_err().kind, Kind::Retry);
    assert!(rig.datastore.capacity().is_err());
    assert_eq!(rig.datastore.series().unwrap_err().kind, Kind::Retry);
}

/// The test calls itself in a process that ends in the middle of a backup, as a killed daemon does.
#[test]
fn what_a_killed_process_leaves_is_undone_by_abandon_and_sweep() {
    const ROLE: &str = "DUMMY_TEST_DIRECTORY";
    let name = "what_a_killed_process_leaves_is_undone_by_abandon_and_sweep";
    if let Some(base) = std::env::var_os(ROLE) {
        let base = PathBuf::from(base);
        let hypervisor = DummyHypervisor::open(&base.join("host"), Script::default()).unwrap();
        let datastore = DummyDatastore::open(&base.join("datastore"), Script::default()).unwrap();
        let disks = [disk_at(base.join("disk.0"), 0, DiskFormat::Qcow2)];
        hypervisor.deploy(&domain_spec("one-7", &disks)).unwrap();
        let spec = backup_spec(&base, "one-7", &disks, None, Some("one-7-2"));
        let _session = hypervisor.begin_backup(&spec).unwrap();
        let (mut reader, change) = whole(&noise(40 * BLOCK, 1));
        reader.instead = Some(|| std::process::abort());
        drop(store(&datastore, "job=2", None, vec![(reader, change)], &Cancel::default()));
        unreachable!("the reader ends the process");
    }
    let mut rig = Rig::new();
    let disk = rig.image(0, DiskFormat::Qcow2, &noise(2 * BLOCK, 3));
    let kept = store(&rig.datastore, "job=1", None, vec![whole(&noise(BLOCK, 1))], &Cancel::default()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ROLE, rig.base.path())
        .output()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
    assert_eq!(signal, Some(6), "{}", String::from_utf8_lossy(&child.stderr));

    rig.reopen();
    let backup = rig.backup("one-7", std::slice::from_ref(&disk), None, Some("one-7-2"));
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), ["one-7-2"]);
    assert_eq!(rig.hypervisor.state("one-7").unwrap(), Some(DomainState::Running));
    assert!(backup.disks[0].scratch.exists());
    assert_eq!(rig.folders().len(), 2);
    assert_eq!(rig.datastore.find("7", "job=2").unwrap(), None);
    assert_eq!(rig.datastore.ids("7").unwrap(), std::slice::from_ref(&kept.point));
    for _ in 0..2 {
        rig.hypervisor.abandon_backup(&backup).unwrap();
        rig.hypervisor.delete_checkpoint("one-7", "one-7-2", &[]).unwrap();
        rig.datastore.sweep_now("7").unwrap();
    }
    assert!(!backup.disks[0].scratch.exists() && disk.path.exists());
    assert_eq!(rig.hypervisor.checkpoints("one-7", &[]).unwrap(), [""; 0]);
    assert_eq!(rig.folders(), std::slice::from_ref(&kept.point));
    rig.datastore.inspect("7", &kept.point).unwrap();
}

// ---------------------------------------------------------------------------------------------------------------------
// Against a byte map

const SIZE: usize = 6 * BLOCK + 1024;

#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, length: usize, byte: u8 },
    Full,
    Increment,
    Forget(prop::sample::Index),
    Lose,
    Reopen,
    Toggle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..SIZE, 1..3 * BLOCK, 0_u8..4).prop_map(|(at, length, byte)| Step::Write { at, length, byte }),
        1 => Just(Step::Full),
        5 => Just(Step::Increment),
        2 => any::<prop::sample::Index>().prop_map(Step::Forget),
        1 => Just(Step::Lose),
        1 => Just(Step::Reopen),
        1 => Just(Step::Toggle),
    ]
}

struct Model {
    rig: Rig,
    disk: DomainDisk,
    content: Vec<u8>,
    points: Vec<(String, Vec<u8>)>,
    /// Checkpoint, point and content of the last backup.
    last: Option<(String, String, Vec<u8>)>,
    jobs: u32,
}

impl Model {
    fn new() -> Self {
        let rig = Rig::new();
        let content = vec![0; SIZE];
        let disk = rig.image(0, DiskFormat::Qcow2, &content);
        Self { rig, disk, content, points: Vec::new(), last: None, jobs: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write { at, length, byte } => {
                let end = (at + length).min(SIZE);
                self.content[*at..end].fill(*byte);
                write_image(&self.disk.path, DiskFormat::Qcow2, &self.content);
            }
            Step::Full => self.backup(None),
            Step::Increment => {
                let last = self.last.clone();
                let parent_is_there = |id: &str| self.points.iter().any(|(point, _)| point == id);
                match last {
                    Some((checkpoint, point, content)) if parent_is_there(&point) => {
                        self.backup(Some((&checkpoint, &point, &content)));
                    }
                    _ => self.backup(None),
                }
            }
            Step::Forget(which) if !self.points.is_empty() => {
                let (point, _) = self.points.remove(which.index(self.points.len()));
                self.rig.datastore.forget_now("7", &[point]).unwrap();
            }
            Step::Forget(_) => {}
            Step::Lose => {
                self.rig.script(r#"{"lost_bitmaps": ["*"]}"#);
                assert_eq!(self.rig.hypervisor.checkpoints("one-7", &[]).unwrap(), [""; 0]);
                self.rig.script("{}");
                if let Some((checkpoint, ..)) = self.last.take() {
                    let disks = std::slice::from_ref(&self.disk);
                    let spec = self.rig.backup("one-7", disks, Some(&checkpoint), None);
                    assert_eq!(self.rig.hypervisor.begin_backup(&spec).err().unwrap().kind, Kind::Missing);
                }
            }
            Step::Reopen => self.rig.reopen(),
            Step::Toggle => match self.rig.hypervisor.state("one-7").unwrap() {
                Some(DomainState::Running) => self.rig.hypervisor.destroy("one-7").unwrap(),
                _ => {
                    let spec = domain_spec("one-7", std::slice::from_ref(&self.disk));
                    self.rig.hypervisor.deploy(&spec).unwrap();
                }
            },
        }
    }

    fn backup(&mut self, since: Option<(&str, &str, &[u8])>) {
        self.jobs += 1;
        let (checkpoint, job) = (format!("one-7-{}", self.jobs), format!("job={}", self.jobs));
        let disks = std::slice::from_ref(&self.disk);
        let spec = self.rig.backup("one-7", disks, since.map(|(name, ..)| name), Some(&checkpoint));
        let mut session = self.rig.hypervisor.begin_backup(&spec).unwrap();
        let mut reader = session.disk(0).unwrap();
        if let Some((_, _, old)) = since {
            let listed = reader.extents().unwrap();
            let blocks = self.content.chunks(BLOCK).zip(old.chunks(BLOCK)).enumerate();
            for (number, (new, old)) in blocks {
                let at = (number * BLOCK) as u64;
                let found = listed.iter().find(|extent| extent.offset <= at && at < extent.end());
                let zero = new.iter().all(|byte| *byte == 0);
                let content = if zero { Content::Zero } else { Content::Data };
                assert_eq!(found.map(|extent| extent.content), (new != old).then_some(content), "block {number}");
            }
        }
        let change = if since.is_some() { Change::SinceParent } else { Change::Whole };
        let parent = since.map(|(_, point, _)| point);
        let disk = SourceDisk { id: 0, reader, change, marked: None };
        let stored = store_disks(&self.rig.datastore, &job, parent, vec![disk], &Cancel::default()).unwrap();
        session.end().unwrap();
        self.points.push((stored.point.clone(), self.content.clone()));
        self.last = Some((checkpoint, stored.point, self.content.clone()));
    }

    fn check(&self) {
        let mut known: Vec<_> = self.points.iter().map(|(point, _)| point.clone()).collect();
        known.sort();
        assert_eq!(self.rig.datastore.ids("7").unwrap(), known);
        for (point, content) in &self.points {
            // The file is the disk for whoever looks into the directory.
            let file = std::fs::read(self.rig.path("datastore/7").join(point).join("disk.0")).unwrap();
            assert!(file == *content, "file of point {point}");
            assert!(self.rig.restored(point, 0, SIZE).unwrap() == *content, "point {point}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_sequence_of_writes_backups_and_forgets_equals_a_byte_map(steps in prop::collection::vec(step(), 1..16)) {
        let mut model = Model::new();
        for step in &steps {
            model.take(step);
        }
        model.check();
    }

    /// Extents begin and end at any byte, as other readers may list them.
    #[test]
    fn extents_of_any_length_are_stored_exactly(
        writes in prop::collection::vec((0..SIZE, 1..2 * BLOCK, 0_u8..3), 0..6),
    ) {
        let rig = Rig::new();
        let old = noise(SIZE, 9);
        let full = store(&rig.datastore, "job=1", None, vec![whole(&old)], &Cancel::default()).unwrap();
        let mut new = old.clone();
        let mut touched = vec![false; SIZE];
        for (at, length, byte) in writes {
            let end = (at + length).min(SIZE);
            new[at..end].fill(byte);
            touched[at..end].fill(true);
        }
        let mut extents: Vec<(usize, usize, Content)> = Vec::new();
        for at in (0..SIZE).filter(|at| touched[*at]) {
            let content = if new[at] == 0 { Content::Zero } else { Content::Data };
            match extents.last_mut() {
                Some(last) if last.0 + last.1 == at && last.2 == content => last.1 += 1,
                _ => extents.push((at, 1, content)),
            }
        }
        let disks = vec![changed(&new, &extents)];
        let stored = store(&rig.datastore, "job=2", Some(&full.point), disks, &Cancel::default()).unwrap();
        prop_assert!(rig.restored(&stored.point, 0, SIZE).unwrap() == new);
        prop_assert!(std::fs::read(rig.path("datastore/7").join(&stored.point).join("disk.0")).unwrap() == new);
        prop_assert!(rig.restored(&full.point, 0, SIZE).unwrap() == old);
    }
}
