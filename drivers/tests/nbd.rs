//! The NBD client against the real qemu-nbd; what it says is checked with nbdinfo and qemu-img.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its own functions too")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use drivers::nbd::Export;
use drivers::{Content, DiskReader, Extent, Kind};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// Runs a tool and gives its output; a missing tool or a failure ends the test.
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| {
        panic!("{program}: {e}; apt-get install qemu-utils libnbd-bin");
    });
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Runs qemu-io commands on an image.
fn qemu_io(format: &str, image: &Path, commands: &[String]) {
    let mut args = vec!["-f", format];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(image.to_str().unwrap());
    run("qemu-io", &args);
}

/// A running qemu-nbd with the export `d`; ended when dropped.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn start(dir: &Path, format: &str, image: &Path, bitmap: Option<&str>) -> Self {
        let socket = dir.join("nbd.sock");
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-t", "-e", "8", "-f", format, "-x", "d", "-k"]).arg(&socket);
        if let Some(bitmap) = bitmap {
            command.args(["-B", bitmap]);
        }
        let child = command.arg(image).stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("qemu-nbd: {e}; apt-get install qemu-utils"));
        let server = Self { child, socket };
        let started = Instant::now();
        while let Err(e) = Export::connect_unix(&server.socket, "d", None, TIMEOUT) {
            assert!(e.kind == Kind::Retry && started.elapsed() < TIMEOUT, "qemu-nbd does not come up: {e}");
            sleep(Duration::from_millis(10));
        }
        server
    }

    fn open(&self, bitmap: Option<&str>) -> Export {
        Export::connect_unix(&self.socket, "d", bitmap, TIMEOUT).unwrap()
    }

    /// (offset, length, type) of each range of a context, as nbdinfo sees it.
    fn nbdinfo(&self, context: &str) -> Vec<(u64, u64, u64)> {
        let uri = format!("nbd+unix:///d?socket={}", self.socket.display());
        let text = run("nbdinfo", &["--json", &format!("--map={context}"), &uri]);
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let number = |v: &serde_json::Value, key: &str| v[key].as_u64().unwrap();
        list.iter().map(|v| (number(v, "offset"), number(v, "length"), number(v, "type"))).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn create(dir: &TempDir, size: &str) -> PathBuf {
    let image = dir.path().join("disk.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), size]);
    image
}

fn data(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Data }
}

fn zero(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Zero }
}

/// Reads the whole disk in pieces of `piece` bytes.
fn read_all(export: &mut Export, piece: u32) -> Vec<u8> {
    let size = export.size_bytes();
    let mut out = vec![0xee; usize::try_from(size).unwrap()];
    let step = usize::try_from(piece).unwrap();
    let mut ranges = (0..size).step_by(step).map(|at| (at, piece.min(u32::try_from(size - at).unwrap_or(piece))));
    export
        .read(&mut ranges, &mut |offset, bytes| {
            let at = usize::try_from(offset).unwrap();
            out[at..at + bytes.len()].copy_from_slice(&bytes);
            Ok(())
        })
        .unwrap();
    out
}

#[test]
fn a_full_disk_is_covered_by_data_and_zero_extents() {
    let dir = TempDir::new().unwrap();
    let image = create(&dir, "64M");
    qemu_io("qcow2", &image, &["write -P 1 1M 128k".into(), "write -P 2 10M 64k".into(), "write -z 20M 1M".into()]);
    let server = Server::start(dir.path(), "qcow2", &image, None);
    let mut export = server.open(None);
    assert_eq!(export.size_bytes(), 64 * MIB);
    assert!(export.knows_allocation());
    let k = 1024;
    assert_eq!(
        export.extents().unwrap(),
        [
            zero(0, MIB),
            data(MIB, 128 * k),
            zero(MIB + 128 * k, 9 * MIB - 128 * k),
            data(10 * MIB, 64 * k),
            zero(10 * MIB + 64 * k, 54 * MIB - 64 * k),
        ]
    );
}

#[test]
fn an_increment_lists_only_dirty_ranges_and_zeroed_ones_as_zero() {
    let dir = TempDir::new().unwrap();
    let image = create(&dir, "64M");
    qemu_io("qcow2", &image, &["write -P 1 1M 1M".into()]);
    run("qemu-img", &["bitmap", "--add", "-g", "64k", image.to_str().unwrap(), "b1"]);
    qemu_io("qcow2", &image, &["write -P 9 1M 64k".into(), "write -z 1152k 128k".into(), "write -P 3 63M 64k".into()]);
    let server = Server::start(dir.path(), "qcow2", &image, Some("b1"));
    let mut export = server.open(Some("b1"));
    let k = 1024;
    assert_eq!(export.extents().unwrap(), [data(MIB, 64 * k), zero(1152 * k, 128 * k), data(63 * MIB, 64 * k)]);
    // The same connection then reads, beyond what was dirty too.
    let all = read_all(&mut export, 256 << 10);
    let raw = dir.path().join("disk.raw");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", image.to_str().unwrap(), raw.to_str().unwrap()]);
    assert!(all == std::fs::read(raw).unwrap());
}

#[test]
fn random_writes_give_the_extents_that_nbdinfo_sees() {
    for seed in 1_u64..=4 {
        let dir = TempDir::new().unwrap();
        let image = create(&dir, "16M");
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut writes = |count: u64| -> Vec<String> {
            (0..count)
                .map(|_| {
                    let (at, kib) = (random(16 * 1024 - 300), random(300) + 1);
                    match random(3) {
                        0 => format!("write -z {at}k {kib}k"),
                        1 => format!("discard {at}k {kib}k"),
                        _ => format!("write -P {} {at}k {kib}k", random(255) + 1),
                    }
                })
                .collect()
        };
        qemu_io("qcow2", &image, &writes(30));
        run("qemu-img", &["bitmap", "--add", "-g", "64k", image.to_str().unwrap(), "b"]);
        qemu_io("qcow2", &image, &writes(12));

        let server = Server::start(dir.path(), "qcow2", &image, Some("b"));
        let got = server.open(Some("b")).extents().unwrap();
        let sector = |list: &[(u64, u64, u64)]| -> Vec<u64> {
            list.iter().flat_map(|&(_, length, kind)| (0..length / 512).map(move |_| kind)).collect()
        };
        let allocation = sector(&server.nbdinfo("base:allocation"));
        let dirty = sector(&server.nbdinfo("qemu:dirty-bitmap:b"));
        assert_eq!(allocation.len(), dirty.len());
        let want: Vec<Option<Content>> = allocation
            .iter()
            .zip(&dirty)
            .map(|(a, d)| (*d == 1).then_some(if a & 2 == 0 { Content::Data } else { Content::Zero }))
            .collect();
        let mut ours = vec![None; want.len()];
        for e in &got {
            for at in e.offset / 512..e.end() / 512 {
                ours[usize::try_from(at).unwrap()] = Some(e.content);
            }
        }
        assert!(ours == want, "seed {seed}: {got:?}");
        assert!(want.contains(&None) && want.contains(&Some(Content::Data)), "seed {seed} shows nothing");
    }
}

#[test]
fn more_ranges_than_one_answer_may_hold_are_asked_for_in_turns() {
    use std::os::unix::fs::FileExt;
    // QEMU stops an answer at 131 072 descriptors; this disk has 140 000 ranges.
    let pairs = 70_000_u64;
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("disk.raw");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(pairs * 8192).unwrap();
    for pair in 0..pairs {
        file.write_all_at(&[7], pair * 8192).unwrap();
    }
    let server = Server::start(dir.path(), "raw", &image, None);
    let got = server.open(None).extents().unwrap();
    assert_eq!(got.len() as u64, 2 * pairs);
    for (at, extent) in (0_u64..).zip(&got) {
        assert_eq!(*extent, if at % 2 == 0 { data(at * 4096, 4096) } else { zero(at * 4096, 4096) });
    }
}

#[test]
fn reading_in_pieces_of_any_size_gives_the_disk() {
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("disk.raw");
    // Neither the disk nor the pieces are aligned to anything but the sector.
    let bytes: Vec<u8> = (0..(9 * MIB + 512)).map(|i| u8::try_from((i / 512 * 7 + i) % 251).unwrap()).collect();
    std::fs::write(&image, &bytes).unwrap();
    let server = Server::start(dir.path(), "raw", &image, None);
    for piece in [8 << 20, 256 << 10, 12_345 * 3] {
        let mut export = server.open(None);
        assert!(read_all(&mut export, piece) == bytes, "pieces of {piece}");
    }
}

#[test]
fn ranges_beyond_the_disk_are_refused() {
    let dir = TempDir::new().unwrap();
    let image = create(&dir, "1M");
    let server = Server::start(dir.path(), "qcow2", &image, None);
    for range in [(MIB - 512, 1024), (u64::MAX, 512), (0, 0), (0, drivers::MAX_READ_BYTES + 1)] {
        let mut export = server.open(None);
        let error = export.read(&mut std::iter::once(range), &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind, Kind::Permanent, "{error}");
        // Later calls do not take answers of earlier ones.
        assert_eq!(export.extents().unwrap_err().kind, Kind::Retry);
    }
}

#[test]
fn a_bitmap_that_is_not_there_is_missing() {
    let dir = TempDir::new().unwrap();
    let image = create(&dir, "1M");
    run("qemu-img", &["bitmap", "--add", image.to_str().unwrap(), "there"]);
    let server = Server::start(dir.path(), "qcow2", &image, Some("there"));
    assert!(server.open(Some("there")).extents().unwrap().is_empty());
    let error = Export::connect_unix(&server.socket, "d", Some("gone"), TIMEOUT).unwrap_err();
    assert_eq!(error.kind, Kind::Missing, "{error}");
    assert!(error.to_string().contains("qemu:dirty-bitmap:gone"), "{error}");
}

#[test]
fn an_export_that_is_not_there_is_missing() {
    let dir = TempDir::new().unwrap();
    let image = create(&dir, "1M");
    let server = Server::start(dir.path(), "qcow2", &image, None);
    let error = Export::connect_unix(&server.socket, "other", None, TIMEOUT).unwrap_err();
    assert_eq!(error.kind, Kind::Missing, "{error}");
}

#[test]
fn a_killed_server_is_an_error_to_retry() {
    let dir = TempDir::new().unwrap();
    let image = create(&dir, "64M");
    qemu_io("qcow2", &image, &["write -P 1 0 64M".into()]);
    let mut server = Server::start(dir.path(), "qcow2", &image, None);
    let mut export = server.open(None);
    let mut seen = 0;
    let error = export
        .read(&mut (0..64).map(|i| (i * MIB, 1 << 20)), &mut |_, _| {
            seen += 1;
            if seen == 2 {
                server.child.kill().unwrap();
                server.child.wait().unwrap();
            }
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.kind, Kind::Retry, "{error}");
    let again = Export::connect_unix(&server.socket, "d", None, TIMEOUT).unwrap_err();
    assert_eq!(again.kind, Kind::Retry, "{again}");
}

#[test]
fn an_error_of_the_sink_ends_the_read() {
    let dir = TempDir::new().unwrap();
    let image = create(&dir, "64M");
    let server = Server::start(dir.path(), "qcow2", &image, None);
    let mut export = server.open(None);
    let mut seen = 0;
    let error = export
        .read(&mut (0..64).map(|i| (i * MIB, 1 << 20)), &mut |_, _| {
            seen += 1;
            Err(drivers::DriverError::cancelled())
        })
        .unwrap_err();
    assert_eq!((error.kind, seen), (Kind::Cancelled, 1));
}
