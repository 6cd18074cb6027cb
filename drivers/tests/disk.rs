//! Image files: probing, importing, creating and writing, with qemu-img and qemu-io as oracles.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its own functions too")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drivers::disk::{
    ImageFacts, Qcow2Writer, RawWriter, allowed_source, content_digest, create_blank, create_overlay, import, probe,
    remove, sweep_parts,
};
use drivers::hypervisor::DiskFormat;
use drivers::{Cancel, DiskWriter, DriverError, Kind, Progress, Result};
use proptest::prelude::*;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Runs a tool and gives its output; a missing tool or a failure ends the test.
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}; apt-get install qemu-utils"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn qemu_img(args: &[&str]) -> String {
    run("qemu-img", args)
}

/// Creates an encrypted image. qemu-img measures how fast it is and gives up on a busy machine ("Unable to get accurate
/// CPU usage"), so it is asked again.
fn make_encrypted(path: &Path) {
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let secret = "secret,id=s,data=1234";
    let arguments = ["create", "-q", "-f", "qcow2", "--object", secret, "-o", options, text(path), "10M"];
    let made = (0..20).any(|_| Command::new("qemu-img").args(arguments).output().is_ok_and(|out| out.status.success()));
    if !made {
        qemu_img(&arguments);
    }
}

/// Creates an image with qemu-img; `options` go behind `-f`.
fn make(dir: &TempDir, name: &str, options: &[&str], size: &str) -> PathBuf {
    let path = dir.path().join(name);
    let mut args = vec!["create", "-q", "-f"];
    args.extend(options);
    args.extend([text(&path), size]);
    qemu_img(&args);
    path
}

fn qemu_io(format: &str, image: &Path, commands: &[&str]) {
    let mut args = vec!["-f", format];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(text(image));
    run("qemu-io", &args);
}

/// Ends the test unless both read the same and are of one size.
fn assert_same(a: (&Path, &str), b: (&Path, &str)) {
    assert_eq!(probe(a.0).unwrap().virtual_size_bytes, probe(b.0).unwrap().virtual_size_bytes);
    qemu_img(&["compare", "-f", a.1, "-F", b.1, text(a.0), text(b.0)]);
}

fn assert_sound(image: &Path) {
    qemu_img(&["check", "-f", "qcow2", text(image)]);
}

fn take(source: &Path, expected: Option<DiskFormat>, target: &Path) -> Result<ImageFacts> {
    import(source, expected, target, &Progress::default(), &Cancel::default())
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut out: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    out.sort();
    out
}

/// A refused import: nothing may be left of it.
fn refused(source: &Path, expected: Option<DiskFormat>) -> DriverError {
    let dir = TempDir::new().unwrap();
    let error = take(source, expected, &dir.path().join("image")).unwrap_err();
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    error
}

mod probing {
    use super::*;

    #[test]
    fn what_qemu_img_makes_is_read_as_qemu_img_reads_it() {
        let dir = TempDir::new().unwrap();
        let cases: &[&[&str]] = &[
            &["qcow2"],
            &["qcow2", "-o", "compat=0.10"],
            &["qcow2", "-o", "cluster_size=512"],
            &["qcow2", "-o", "cluster_size=2M"],
            &["qcow2", "-o", "extended_l2=on,cluster_size=128k"],
            &["qcow2", "-o", "compression_type=zstd"],
            &["qcow2", "-o", "preallocation=metadata"],
            &["qcow2", "-o", "lazy_refcounts=on,refcount_bits=64"],
            &["raw"],
        ];
        for (number, options) in cases.iter().enumerate() {
            let image = make(&dir, &format!("i{number}"), options, "100M");
            let facts = probe(&image).unwrap();
            let info: serde_json::Value =
                serde_json::from_str(&qemu_img(&["info", "--output=json", text(&image)])).unwrap();
            assert_eq!(info["format"], facts.format.as_str(), "{options:?}");
            assert_eq!(info["virtual-size"], facts.virtual_size_bytes, "{options:?}");
            assert_eq!(info["actual-size"], facts.allocated_bytes, "{options:?}");
            assert_eq!((facts.backing, facts.external_data, facts.has_snapshots), (None, false, false));
            if let Some(qcow2) = &facts.qcow2 {
                let data = &info["format-specific"]["data"];
                assert_eq!(data["compat"], if qcow2.version == 2 { "0.10" } else { "1.1" });
                assert_eq!(info["cluster-size"], qcow2.cluster_bytes);
                assert!(!qcow2.encrypted);
            }
        }
    }

    #[test]
    fn backing_data_file_snapshots_bitmaps_and_encryption_are_seen() {
        let dir = TempDir::new().unwrap();
        let base = make(&dir, "base", &["qcow2"], "10M");

        let overlay = make(&dir, "overlay", &["qcow2", "-F", "qcow2", "-b", text(&base)], "10M");
        let facts = probe(&overlay).unwrap();
        assert_eq!(facts.backing.as_deref(), Some(text(&base)));
        assert_eq!(facts.qcow2.unwrap().backing_format.as_deref(), Some("qcow2"));

        let option = format!("data_file={}", text(&dir.path().join("bytes")));
        assert!(probe(&make(&dir, "outside", &["qcow2", "-o", &option], "10M")).unwrap().external_data);

        qemu_img(&["snapshot", "-c", "s1", text(&base)]);
        qemu_img(&["bitmap", "--add", text(&base), "b1"]);
        qemu_img(&["bitmap", "--add", text(&base), "b2"]);
        let facts = probe(&base).unwrap();
        assert!(facts.has_snapshots && facts.can_track());
        assert_eq!(facts.qcow2.unwrap().bitmaps, 2);

        let path = dir.path().join("locked");
        make_encrypted(&path);
        assert!(probe(&path).unwrap().qcow2.unwrap().encrypted);
    }

    #[test]
    fn other_formats_are_never_called_raw() {
        let dir = TempDir::new().unwrap();
        let cases: &[(&str, &[&str])] = &[
            ("VMDK", &["vmdk"]),
            ("VMDK", &["vmdk", "-o", "subformat=monolithicFlat"]),
            ("VMDK", &["vmdk", "-o", "subformat=streamOptimized"]),
            ("VDI", &["vdi"]),
            ("VHDX", &["vhdx"]),
            ("VHD", &["vpc"]),
            ("VHD", &["vpc", "-o", "subformat=fixed"]),
            ("QED", &["qed"]),
            ("Parallels", &["parallels"]),
            ("qcow", &["qcow"]),
        ];
        for (number, (name, options)) in cases.iter().enumerate() {
            let image = make(&dir, &format!("i{number}"), options, "10M");
            let error = probe(&image).unwrap_err();
            assert!(error.kind == Kind::Permanent && error.reason.contains(name), "{options:?}: {error}");
            // Not even when somebody says so.
            let error = refused(&image, Some(DiskFormat::Raw));
            assert!(error.kind == Kind::Permanent && error.reason.contains(name), "{options:?}: {error}");
        }
    }

    #[test]
    fn compressed_and_encrypted_files_are_raw_only_when_called_so() {
        let dir = TempDir::new().unwrap();
        for (name, start) in [("gzip", &b"\x1f\x8b\x08"[..]), ("xz", b"\xfd7zXZ\0"), ("LUKS", b"LUKS\xba\xbe\0\x02")] {
            let path = dir.path().join(name);
            fs::write(&path, [start, &[7; 1000]].concat()).unwrap();
            let error = refused(&path, None);
            assert!(error.kind == Kind::Permanent && error.reason.contains(name), "{error}");
            let facts = take(&path, Some(DiskFormat::Raw), &dir.path().join("taken")).unwrap();
            assert_eq!(facts.virtual_size_bytes, 1024);
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_missing() {
        assert_eq!(probe(Path::new("/nowhere/at/all")).unwrap_err().kind, Kind::Missing);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn damaged_images_are_read_or_refused(
            changes in prop::collection::vec((0_usize..700, any::<u8>()), 1..8),
            cut in prop::option::of(0_usize..3000),
        ) {
            static SOUND: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let sound = SOUND.get_or_init(|| {
                let dir = TempDir::new().unwrap();
                fs::read(make(&dir, "i", &["qcow2", "-u", "-F", "raw", "-b", "/some/where"], "10M")).unwrap()
            });
            let mut bytes = sound.clone();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(cut.unwrap_or(bytes.len()));
            let dir = TempDir::new().unwrap();
            let path = dir.path().join("i");
            fs::write(&path, &bytes).unwrap();
            if let Ok(facts) = probe(&path) {
                prop_assert!(i64::try_from(facts.virtual_size_bytes).is_ok());
            }
            // Whatever it says now: it names a backing file, is no qcow2 any more, or is not sound.
            let _ = take(&path, None, &dir.path().join("target"));
            let parts = names(dir.path()).into_iter().filter(|name| name.ends_with(".part")).count();
            prop_assert_eq!(parts, 0);
        }
    }
}

mod importing {
    use super::*;

    #[test]
    fn a_qcow2_image_is_copied_with_its_holes() {
        let dir = TempDir::new().unwrap();
        let source = make(&dir, "s", &["qcow2", "-o", "preallocation=metadata"], "2G");
        qemu_io("qcow2", &source, &["write -P 1 0 3M", "write -P 2 1G 100k", "write -P 3 2047M 1M"]);
        qemu_img(&["bitmap", "--add", text(&source), "b1"]);
        let target = dir.path().join("t");
        let progress = Progress::default();
        let facts = import(&source, Some(DiskFormat::Qcow2), &target, &progress, &Cancel::default()).unwrap();
        assert_eq!((facts.format, facts.virtual_size_bytes), (DiskFormat::Qcow2, 2048 * MIB));
        assert_eq!(progress.get(), (fs::metadata(&source).unwrap().len(), fs::metadata(&source).unwrap().len()));
        assert_sound(&target);
        assert_same((&source, "qcow2"), (&target, "qcow2"));
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        assert!(blocks(&target) <= blocks(&source) + 64, "{} of {}", blocks(&target), blocks(&source));
        assert_eq!(names(dir.path()), ["s", "t"]);
    }

    #[test]
    fn a_raw_image_is_padded_to_whole_sectors_and_keeps_its_holes() {
        let dir = TempDir::new().unwrap();
        let source = dir.path().join("s");
        let file = File::create(&source).unwrap();
        file.set_len(64 * MIB).unwrap();
        file.write_all_at(&[5; 5000], 10 * MIB).unwrap();
        file.write_all_at(b"end", 64 * MIB).unwrap();
        let target = dir.path().join("t");
        let facts = take(&source, None, &target).unwrap();
        assert_eq!((facts.format, facts.virtual_size_bytes), (DiskFormat::Raw, 64 * MIB + 512));
        let mut want = fs::read(&source).unwrap();
        want.resize(want.len() + 509, 0);
        assert!(fs::read(&target).unwrap() == want);
        assert!(fs::metadata(&target).unwrap().blocks() * 512 < MIB);
    }

    #[test]
    fn an_image_of_version_2_or_with_snapshots_is_accepted() {
        let dir = TempDir::new().unwrap();
        let source = make(&dir, "s", &["qcow2", "-o", "compat=0.10"], "10M");
        qemu_img(&["snapshot", "-c", "s1", text(&source)]);
        let facts = take(&source, None, &dir.path().join("t")).unwrap();
        assert!(facts.has_snapshots && !facts.can_track());
    }

    #[test]
    fn images_that_need_another_file_or_a_key_are_refused() {
        let dir = TempDir::new().unwrap();
        let backing = make(&dir, "b", &["qcow2", "-u", "-F", "raw", "-b", "/etc/shadow"], "10M");
        let error = refused(&backing, None);
        assert!(error.kind == Kind::Permanent && error.reason.contains("/etc/shadow"), "{error}");
        assert!(error.reason.contains("qemu-img convert"), "{error}");

        let json = make(&dir, "j", &["qcow2", "-u", "-F", "raw", "-b", "json:{\"driver\":\"file\"}"], "10M");
        assert_eq!(refused(&json, None).kind, Kind::Permanent);

        let option = format!("data_file={}", text(&dir.path().join("bytes")));
        let error = refused(&make(&dir, "d", &["qcow2", "-o", &option], "10M"), None);
        assert!(error.kind == Kind::Permanent && error.reason.contains("another file"), "{error}");

        let locked = dir.path().join("locked");
        make_encrypted(&locked);
        let error = refused(&locked, None);
        assert!(error.kind == Kind::Permanent && error.reason.contains("encrypted"), "{error}");
    }

    #[test]
    fn an_image_that_is_not_what_it_is_called_is_refused() {
        let dir = TempDir::new().unwrap();
        let qcow2 = make(&dir, "q", &["qcow2"], "10M");
        let raw = make(&dir, "r", &["raw"], "10M");
        let error = refused(&qcow2, Some(DiskFormat::Raw));
        assert!(error.to_string().ends_with("it is called raw but its content is qcow2"), "{error}");
        let error = refused(&raw, Some(DiskFormat::Qcow2));
        assert!(error.to_string().ends_with("it is called qcow2 but its content is raw"), "{error}");
    }

    #[test]
    fn unsound_images_are_refused() {
        let dir = TempDir::new().unwrap();
        let good = fs::read(make(&dir, "q", &["qcow2"], "10M")).unwrap();
        let path = dir.path().join("bad");
        let refuse = |bytes: &[u8], kind| {
            fs::write(&path, bytes).unwrap();
            let error = refused(&path, None);
            assert_eq!(error.kind, kind, "{error}");
        };
        refuse(&good[..50], Kind::Corrupt);
        refuse(&good[..70_000], Kind::Corrupt);
        refuse(b"QFI\xfb", Kind::Corrupt);
        refuse(b"", Kind::Permanent);
        // A size that its tables cannot hold; the corrupt bit.
        let mut giant = good.clone();
        giant[24..32].copy_from_slice(&(1_u64 << 62).to_be_bytes());
        refuse(&giant, Kind::Corrupt);
        let mut marked = good;
        marked[79] |= 2;
        refuse(&marked, Kind::Permanent);
    }

    #[test]
    fn only_regular_files_reached_without_links_are_taken() {
        let dir = TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let image = make(&dir, "image", &["raw"], "1M");
        for (source, word) in [
            (root.join("pipe"), "regular"),
            (PathBuf::from("/dev/zero"), "regular"),
            (root.clone(), "regular"),
            (root.join("link"), "symbolic link"),
            (root.join("dir/image"), "symbolic link"),
        ] {
            match source.file_name().unwrap().to_str().unwrap() {
                "pipe" => drop(run("mkfifo", &[text(&source)])),
                "link" => symlink(&image, &source).unwrap(),
                "image" => symlink(&root, root.join("dir")).unwrap(),
                _ => {}
            }
            let error = refused(&source, None);
            assert!(error.kind == Kind::Permanent && error.reason.contains(word), "{error}");
        }
        assert_eq!(refused(&root.join("none"), None).kind, Kind::Missing);
    }

    #[test]
    fn a_file_that_changes_while_it_is_copied_is_to_be_retried() {
        let dir = TempDir::new().unwrap();
        let source = dir.path().join("s");
        fs::write(&source, vec![1; 64 << 20]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let file = File::options().write(true).open(&source).unwrap();
        let writer = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    file.write_all_at(&[2; 512], 1 << 20).unwrap();
                }
            }
        });
        let error = refused(&source, None);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        assert_eq!(error.kind, Kind::Retry, "{error}");
    }

    #[test]
    fn a_cancelled_import_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        let source = make(&dir, "s", &["raw"], "1M");
        let cancel = Cancel::default();
        cancel.cancel();
        let error = import(&source, None, &dir.path().join("t"), &Progress::default(), &cancel).unwrap_err();
        assert_eq!(error.kind, Kind::Cancelled);
        assert_eq!(names(dir.path()), ["s"]);
    }

    #[test]
    fn an_import_replaces_what_a_dead_one_left() {
        let dir = TempDir::new().unwrap();
        let source = make(&dir, "s", &["qcow2"], "1M");
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, dir.path().join("t.part")).unwrap();
        take(&source, None, &dir.path().join("t")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_sound(&dir.path().join("t"));
        assert_eq!(names(dir.path()), ["s", "t", "victim"]);
    }
}

mod creating {
    use super::*;

    #[test]
    fn an_overlay_reads_its_backing_file_and_takes_writes() {
        let dir = TempDir::new().unwrap();
        for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
            let name = format!("base.{}", format.as_str());
            let base = make(&dir, &name, &[format.as_str()], "20M");
            qemu_io(format.as_str(), &base, &["write -P 7 1M 2M"]);
            let before = content_digest(&base, format).unwrap();
            for (number, backing) in [base.clone(), PathBuf::from(&name)].iter().enumerate() {
                let overlay = dir.path().join(format!("over{number}.{}", format.as_str()));
                create_overlay(&overlay, backing, format, 20 * MIB).unwrap();
                assert_sound(&overlay);
                assert_same((&base, format.as_str()), (&overlay, "qcow2"));
                assert_eq!(content_digest(&overlay, DiskFormat::Qcow2).unwrap(), before);
                let facts = probe(&overlay).unwrap();
                assert_eq!(facts.backing.as_deref(), backing.to_str());
                assert_eq!(facts.qcow2.unwrap().backing_format.as_deref(), Some(format.as_str()));
                qemu_io("qcow2", &overlay, &["write -P 9 2M 64k", "read -P 7 1M 1M", "read -P 9 2M 64k"]);
                qemu_img(&["bitmap", "--add", text(&overlay), "b"]);
                assert_sound(&overlay);
                assert_eq!(content_digest(&base, format).unwrap(), before);
            }
        }
        assert!(names(dir.path()).iter().all(|name| !name.ends_with(".part")));
    }

    #[test]
    fn an_overlay_may_be_larger_than_its_backing_file() {
        let dir = TempDir::new().unwrap();
        let base = make(&dir, "base", &["qcow2"], "1M");
        qemu_io("qcow2", &base, &["write -P 7 0 1M"]);
        let overlay = dir.path().join("over");
        create_overlay(&overlay, &base, DiskFormat::Qcow2, 3 << 40).unwrap();
        assert_eq!(probe(&overlay).unwrap().virtual_size_bytes, 3 << 40);
        qemu_io("qcow2", &overlay, &["read -P 7 0 1M", "read -P 0 1M 1M", "write -P 1 3145727M 1M"]);
        assert_sound(&overlay);
    }

    #[test]
    fn a_header_written_by_a_guest_into_its_raw_disk_is_not_believed() {
        let dir = TempDir::new().unwrap();
        let evil = make(&dir, "evil", &["qcow2", "-u", "-F", "raw", "-b", "/etc/passwd"], "1M");
        let overlay = dir.path().join("over");
        create_overlay(&overlay, &evil, DiskFormat::Raw, MIB).unwrap();
        let info = qemu_img(&["info", "--backing-chain", text(&overlay)]);
        assert!(!info.contains("/etc/passwd"), "{info}");
    }

    #[test]
    fn blank_images_are_empty_and_small() {
        let dir = TempDir::new().unwrap();
        for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
            for size in [512, 10 * MIB + 512, 1 << 40] {
                let path = dir.path().join(format!("{}-{size}", format.as_str()));
                create_blank(&path, format, size).unwrap();
                let facts = probe(&path).unwrap();
                assert_eq!((facts.format, facts.virtual_size_bytes), (format, size));
                assert!(facts.allocated_bytes < MIB);
                if format == DiskFormat::Qcow2 {
                    assert_sound(&path);
                    assert!(facts.can_track());
                }
            }
        }
    }

    #[test]
    fn impossible_sizes_and_paths_are_refused() {
        let dir = TempDir::new().unwrap();
        let target = dir.path().join("t");
        for size in [0, 511, 1 << 52, u64::MAX] {
            for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
                assert_eq!(create_blank(&target, format, size).unwrap_err().kind, Kind::Permanent);
            }
            let overlay = create_overlay(&target, Path::new("/b"), DiskFormat::Raw, size);
            assert_eq!(overlay.unwrap_err().kind, Kind::Permanent);
            assert_eq!(Qcow2Writer::create(&target, size).err().unwrap().kind, Kind::Permanent);
            assert_eq!(RawWriter::create(&target, size).err().unwrap().kind, Kind::Permanent);
        }
        for backing in ["", "nbd:localhost:10809", "json:{}", &format!("/{}", "x".repeat(1023))] {
            let overlay = create_overlay(&target, Path::new(backing), DiskFormat::Raw, MIB);
            assert_eq!(overlay.unwrap_err().kind, Kind::Permanent, "{backing}");
        }
        assert!(names(dir.path()).is_empty());
        let nowhere = create_blank(&dir.path().join("no/t"), DiskFormat::Raw, MIB);
        assert_eq!(nowhere.unwrap_err().kind, Kind::Missing);
    }
}

mod writing {
    use super::*;

    fn writer(format: DiskFormat, target: &Path, size: u64) -> Box<dyn DiskWriter> {
        match format {
            DiskFormat::Qcow2 => Box::new(Qcow2Writer::create(target, size).unwrap()),
            DiskFormat::Raw => Box::new(RawWriter::create(target, size).unwrap()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_written_is_what_qemu_reads(
            writes in prop::collection::vec((0_u64..5_000_000, 1_usize..400_000, 0_u8..3), 0..25),
            raw in prop::bool::ANY,
        ) {
            let format = if raw { DiskFormat::Raw } else { DiskFormat::Qcow2 };
            let size = 5_400_064_u64;
            let dir = TempDir::new().unwrap();
            let (target, model) = (dir.path().join("t"), dir.path().join("model"));
            let mut bytes = vec![0_u8; usize::try_from(size).unwrap()];
            let mut out = writer(format, &target, size);
            for (offset, length, byte) in writes {
                let data = vec![byte; length];
                let at = usize::try_from(offset).unwrap();
                bytes[at..at + length].copy_from_slice(&data);
                out.write_at(offset, &data).unwrap();
            }
            prop_assert!(!target.exists(), "the name is there before the end");
            out.finish().unwrap();
            fs::write(&model, &bytes).unwrap();
            if !raw {
                assert_sound(&target);
            }
            assert_same((&target, format.as_str()), (&model, "raw"));
            prop_assert_eq!(content_digest(&target, format).unwrap(), content_digest(&model, DiskFormat::Raw).unwrap());
            prop_assert_eq!(names(dir.path()), ["model", "t"]);
        }
    }

    #[test]
    fn zeros_take_no_space() {
        let dir = TempDir::new().unwrap();
        for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
            let target = dir.path().join(format.as_str());
            let mut out = writer(format, &target, 2 << 40);
            let mut data = vec![0; 8 << 20];
            data[5 << 20] = 1;
            for at in [0, 1 << 30, (2 << 40) - (8 << 20)] {
                out.write_at(at, &data).unwrap();
                out.write_at(at, &data[..1 << 20]).unwrap();
            }
            out.finish().unwrap();
            let facts = probe(&target).unwrap();
            assert!(facts.allocated_bytes < MIB, "{} of {}", facts.allocated_bytes, format.as_str());
            if format == DiskFormat::Qcow2 {
                assert_sound(&target);
            }
            qemu_io(format.as_str(), &target, &["read -P 0 1G 5M", "read -P 0 2097144M 5M", "read 2097149M 3M"]);
        }
    }

    #[test]
    fn an_unfinished_writer_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
            let mut out = writer(format, &dir.path().join("t"), MIB);
            out.write_at(0, &[1; 70_000]).unwrap();
            assert_eq!(names(dir.path()), ["t.part"]);
            drop(out);
            assert!(names(dir.path()).is_empty());
        }
    }

    #[test]
    fn writes_past_the_end_are_refused() {
        let dir = TempDir::new().unwrap();
        for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
            let mut out = writer(format, &dir.path().join("t"), MIB);
            for offset in [MIB - 511, MIB, u64::MAX] {
                assert_eq!(out.write_at(offset, &[0; 512]).unwrap_err().kind, Kind::Permanent);
            }
            out.write_at(MIB - 512, &[1; 512]).unwrap();
            out.write_at(MIB, &[]).unwrap();
        }
    }
}

#[test]
fn removing_is_idempotent() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("t");
    fs::write(&path, "x").unwrap();
    remove(&path).unwrap();
    remove(&path).unwrap();
    remove(&dir.path().join("no/such/directory")).unwrap();
    assert!(remove(dir.path()).is_err());
}

#[test]
fn sweeping_removes_unfinished_files_only() {
    let dir = TempDir::new().unwrap();
    for name in ["a", "a.part", "b.part", "part"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    fs::create_dir(dir.path().join("d.part")).unwrap();
    assert_eq!(sweep_parts(dir.path()).unwrap(), 2);
    assert_eq!(sweep_parts(dir.path()).unwrap(), 0);
    assert_eq!(names(dir.path()), ["a", "d.part", "part"]);
    assert_eq!(sweep_parts(&dir.path().join("none")).unwrap(), 0);
}

#[test]
fn safe_directories_win_over_restricted_ones() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for name in ["safe/deep", "safer", "secret", "open"] {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("image"), "x").unwrap();
    }
    symlink(root.join("secret/image"), root.join("safe/link")).unwrap();
    symlink(root.join("safe"), root.join("entrance")).unwrap();
    let verdict = |path: &str, safe: &[&str], restricted: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|n| root.join(n)).collect::<Vec<_>>();
        allowed_source(&root.join(path), &list(safe), &list(restricted)).map_err(|e| e.kind)
    };
    let allowed = |path: &str| Ok(root.join(path));
    // The defaults: everything is restricted but one directory.
    assert_eq!(verdict("safe/deep/image", &["safe"], &["/"]), allowed("safe/deep/image"));
    assert_eq!(verdict("open/image", &["safe"], &["/"]), Err(Kind::Permanent));
    assert_eq!(verdict("open/image", &[], &["secret"]), allowed("open/image"));
    assert_eq!(verdict("open/image", &[], &[]), allowed("open/image"));
    assert_eq!(verdict("secret/image", &[], &["secret"]), Err(Kind::Permanent));
    // Names are compared by components, after links and dots.
    assert_eq!(verdict("safer/image", &["safe"], &["/"]), Err(Kind::Permanent));
    assert_eq!(verdict("safe/link", &["safe"], &["/"]), Err(Kind::Permanent));
    assert_eq!(verdict("safe/../secret/image", &["safe"], &["/"]), Err(Kind::Permanent));
    assert_eq!(verdict("entrance/deep/image", &["safe"], &["/"]), allowed("safe/deep/image"));
    assert_eq!(verdict("safe/deep/image", &["entrance"], &["/"]), allowed("safe/deep/image"));
    assert_eq!(verdict("safe/none", &["safe"], &["/"]), Err(Kind::Missing));
    assert_eq!(verdict("open/image", &["not-there"], &["/"]), Err(Kind::Permanent));
    let relative = allowed_source(Path::new("image"), &[PathBuf::from("/")], &[]);
    assert_eq!(relative.unwrap_err().kind, Kind::Permanent);
}
