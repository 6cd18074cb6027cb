//! Our own qcow2 images: written, read and merged, with qemu-img as the judge.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its own functions too")]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use drivers::hypervisor::DiskFormat;
use drivers::qcow2::{Backing, CLUSTER_BYTES, Compression, Finished, Image, ImageWriter, Merge, Place, Run, Step};
use drivers::{Kind, Result};
use proptest::prelude::*;
use tempfile::TempDir;

const CLUSTER: usize = 64 << 10;
const KINDS: [Compression; 3] = [Compression::None, Compression::Zlib, Compression::Zstd];

/// Runs qemu-img and gives what it printed; a missing tool or a failure ends the test.
fn qemu_img(args: &[&str]) -> String {
    let out = Command::new("qemu-img").args(args).output();
    let out = out.unwrap_or_else(|e| panic!("qemu-img: {e}; apt-get install qemu-utils"));
    let (told, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "qemu-img {args:?}: {told}{errors}");
    told.into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// No error and no leak.
fn check(image: &Path) {
    let told = qemu_img(&["check", "-f", "qcow2", text(image)]);
    assert!(told.contains("No errors were found"), "{told}");
}

/// What QEMU reads from an image and the files below it.
fn as_qemu_reads(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("raw");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", text(image), text(&raw)]);
    let bytes = fs::read(&raw).unwrap();
    fs::remove_file(raw).unwrap();
    bytes
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

fn open(path: &Path) -> Image {
    Image::open(File::open(path).unwrap(), text(path)).unwrap()
}

/// A generator of numbers that is the same at each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Bytes that shrink a lot, a little or not at all, by `seed`; never all zero.
fn filled(seed: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let kinds = [2, 16, 200, 256][usize::try_from(seed % 4).unwrap()];
    (0..length).map(|_| u8::try_from(numbers.next(kinds)).unwrap() | u8::from(kinds == 2)).collect()
}

/// A disk in memory.
#[derive(Clone, PartialEq, Eq)]
struct Disk(Vec<u8>);

impl Disk {
    fn new(size: usize) -> Self {
        Self(vec![0; size])
    }

    fn clusters(&self) -> usize {
        self.0.len().div_ceil(CLUSTER)
    }

    /// The bytes of clusters, up to the disk's end.
    fn range(&mut self, first: usize, clusters: usize) -> &mut [u8] {
        let end = self.0.len().min((first + clusters) * CLUSTER);
        &mut self.0[first * CLUSTER..end]
    }

    fn fill(&mut self, first: usize, clusters: usize, seed: u64) -> Vec<u8> {
        for cluster in first..first + clusters {
            let range = self.range(cluster, 1);
            let data = filled(seed + cluster as u64, range.len());
            range.copy_from_slice(&data);
        }
        self.range(first, clusters).to_vec()
    }
}

/// What our reader reads from layers, the newest first.
fn as_we_read(layers: &[&Image]) -> Vec<u8> {
    let size = usize::try_from(layers[0].size_bytes()).unwrap();
    let mut out = vec![0; size];
    for image in layers.iter().rev() {
        for run in image.runs(0, image.size_bytes().div_ceil(CLUSTER_BYTES)).unwrap() {
            let start = usize::try_from(run.first * CLUSTER_BYTES).unwrap();
            let end = usize::try_from((run.first + run.clusters) * CLUSTER_BYTES).unwrap();
            let end = end.min(usize::try_from(image.size_bytes()).unwrap());
            match run.place {
                Place::Absent => {}
                Place::Zero => out[start..end].fill(0),
                Place::Data => {
                    let data = image.read(run.first, u32::try_from(run.clusters).unwrap()).unwrap();
                    out[start..end].copy_from_slice(&data[..end - start]);
                }
            }
        }
    }
    out
}

#[test]
fn images_of_all_sizes_and_compressions_are_what_qemu_reads() {
    let dir = TempDir::new().unwrap();
    for (number, size) in
        [512, CLUSTER - 512, CLUSTER, CLUSTER + 512, 7 * CLUSTER + 4096, 40 * CLUSTER].iter().enumerate()
    {
        for compression in KINDS {
            let path = dir.path().join(format!("{number}-{compression:?}.qcow2"));
            let mut disk = Disk::new(*size);
            let writer = ImageWriter::create(create(&path), "disk", *size as u64, compression, None).unwrap();
            let mut at = 0;
            while at < disk.clusters() {
                let here = (1 + at % 5).min(disk.clusters() - at);
                let data = disk.fill(at, here, 7 * number as u64);
                writer.write(at as u64, &data).unwrap();
                at += here + 1;
            }
            let Finished { file_bytes } = writer.finish().unwrap();
            assert_eq!(file_bytes, fs::metadata(&path).unwrap().len());
            check(&path);
            assert!(as_qemu_reads(&path) == disk.0, "{path:?}");
            let image = open(&path);
            assert_eq!(image.size_bytes(), *size as u64);
            assert!(as_we_read(&[&image]) == disk.0, "{path:?}");
        }
    }
}

#[test]
fn a_chain_by_relative_names_is_opened_by_stock_qemu_and_zeros_hide_what_is_below() {
    let dir = TempDir::new().unwrap();
    let size = 33 * CLUSTER + 512;
    for compression in KINDS {
        let base = dir.path().join(format!("base-{compression:?}"));
        let mut disk = Disk::new(size);
        let writer = ImageWriter::create(create(&base), "base", size as u64, compression, None).unwrap();
        writer.write(0, &disk.fill(0, 34, 3)).unwrap();
        writer.finish().unwrap();
        for (start, length) in (0..6).flat_map(|start| (1..6).map(move |length| (start, length))) {
            let top = dir.path().join(format!("top-{compression:?}-{start}-{length}"));
            let name = base.file_name().unwrap().to_str().unwrap().to_owned();
            let backing = Backing { name: name.clone(), format: DiskFormat::Qcow2 };
            let writer = ImageWriter::create(create(&top), "top", size as u64, compression, Some(&backing)).unwrap();
            let mut disk = disk.clone();
            writer.zero(start as u64, length as u64).unwrap();
            disk.range(start, length).fill(0);
            writer.write(12, &disk.fill(12, 3, 1000)).unwrap();
            writer.zero(33, 1).unwrap();
            disk.range(33, 1).fill(0);
            writer.finish().unwrap();
            check(&top);
            assert!(as_qemu_reads(&top) == disk.0);
            let image = open(&top);
            assert_eq!(image.backing_name(), Some(&*name));
            let zero = Run { first: start as u64, clusters: length as u64, place: Place::Zero };
            assert!(image.runs(0, 34).unwrap().contains(&zero));
            assert!(as_we_read(&[&image, &open(&base)]) == disk.0);
            fs::remove_file(top).unwrap();
        }
    }
}

/// Writes a new layer onto `below` with what `parts` say: (first cluster, clusters, seed; seed 0 = zeros), and brings
/// `disk` to the same.
fn layer(path: &Path, disk: &mut Disk, below: Option<&Path>, compression: Compression, parts: &[(usize, usize, u64)]) {
    let name = below.map(|below| below.file_name().unwrap().to_str().unwrap().to_owned());
    let backing = name.map(|name| Backing { name, format: DiskFormat::Qcow2 });
    let size = disk.0.len() as u64;
    let writer = ImageWriter::create(create(path), text(path), size, compression, backing.as_ref()).unwrap();
    let mut taken = BTreeSet::new();
    for (first, clusters, seed) in parts {
        for cluster in *first..(first + clusters).min(disk.clusters()) {
            if !taken.insert(cluster) {
                continue;
            }
            if *seed == 0 {
                writer.zero(cluster as u64, 1).unwrap();
                disk.range(cluster, 1).fill(0);
            } else {
                writer.write(cluster as u64, &disk.fill(cluster, 1, *seed)).unwrap();
            }
        }
    }
    writer.finish().unwrap();
}

/// Merges the layer `top` by `merge`.
fn merge_layer(top: &Image, merge: &mut Merge) -> Result<()> {
    merge.resize(top.size_bytes())?;
    for run in top.runs(0, top.size_bytes().div_ceil(CLUSTER_BYTES))? {
        match run.place {
            Place::Absent => {}
            Place::Zero => merge.zero(run.first, run.clusters)?,
            Place::Data => merge.write(run.first, &top.read(run.first, u32::try_from(run.clusters).unwrap())?)?,
        }
    }
    Ok(())
}

fn both_ways(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Merges the image `top` into the one at `base`.
fn merge(top: &Path, base: &Path) -> Finished {
    let mut merge = Merge::begin(both_ways(base), text(base)).unwrap();
    merge_layer(&open(top), &mut merge).unwrap();
    let finished = merge.finish().unwrap();
    assert_eq!(finished.file_bytes, fs::metadata(base).unwrap().len());
    finished
}

fn compressions() -> impl Strategy<Value = Compression> {
    prop::sample::select(KINDS.to_vec())
}

/// Parts of a layer over at most 40 clusters.
fn parts() -> impl Strategy<Value = Vec<(usize, usize, u64)>> {
    let seed = prop_oneof![Just(0_u64), 1_u64..1000];
    prop::collection::vec((0_usize..40, 1_usize..12, seed), 0..6)
}

#[derive(Clone, Debug)]
enum Act {
    /// A new layer: sectors that the disk grows by, what it holds.
    Layer(usize, Compression, Vec<(usize, usize, u64)>),
    /// A layer is merged into the one below it, which takes its place.
    Merge(prop::sample::Index),
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0_usize..300, compressions(), parts()).prop_map(|(grow, kind, parts)| Act::Layer(grow, kind, parts)),
        any::<prop::sample::Index>().prop_map(Act::Merge),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn layers_and_merges_in_any_order_give_the_bytes_that_were_written(
        sectors in 1_usize..2600,
        kind in compressions(),
        first in parts(),
        acts in prop::collection::vec(acts(), 1..9),
    ) {
        let dir = TempDir::new().unwrap();
        let mut disk = Disk::new(sectors * 512);
        let mut chain = vec![dir.path().join("0")];
        layer(&chain[0], &mut disk, None, kind, &first);
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::Layer(grow, kind, parts) => {
                    let path = dir.path().join(format!("{}", number + 1));
                    let size = (disk.0.len() + grow * 512).min(40 * CLUSTER);
                    let size = size.max(disk.0.len());
                    disk.0.resize(size, 0);
                    layer(&path, &mut disk, chain.last().map(PathBuf::as_path), kind, &parts);
                    chain.push(path);
                }
                Act::Merge(which) if chain.len() > 1 => {
                    let upper = 1 + which.index(chain.len() - 1);
                    merge(&chain[upper], &chain[upper - 1]);
                    fs::rename(&chain[upper - 1], &chain[upper]).unwrap();
                    chain.remove(upper - 1);
                }
                Act::Merge(_) => {}
            }
            for path in &chain {
                check(path);
            }
            let images: Vec<Image> = chain.iter().rev().map(|path| open(path)).collect();
            let layers: Vec<&Image> = images.iter().collect();
            prop_assert!(as_we_read(&layers) == disk.0);
            prop_assert!(as_qemu_reads(chain.last().unwrap()) == disk.0);
        }
    }
}

/// A step that a merge took.
#[derive(Clone)]
enum Taken {
    Write(u64, Vec<u8>),
    Sync,
    Cut(u64),
    Punch(u64, u64),
}

impl Taken {
    fn of(step: Step<'_>) -> Self {
        match step {
            Step::Write(at, data) => Self::Write(at, data.to_vec()),
            Step::Sync => Self::Sync,
            Step::Cut(length) => Self::Cut(length),
            Step::Punch(at, length) => Self::Punch(at, length),
        }
    }

    /// Does it to the bytes of a file.
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                let at = usize::try_from(*at).unwrap();
                file.resize(file.len().max(at + data.len()), 0);
                file[at..at + data.len()].copy_from_slice(data);
            }
            Self::Sync => {}
            Self::Cut(length) => file.resize(usize::try_from(*length).unwrap(), 0),
            Self::Punch(at, length) => {
                let (at, length) = (usize::try_from(*at).unwrap(), usize::try_from(*length).unwrap());
                file[at..at + length].fill(0);
            }
        }
    }
}

/// The bytes of a file after a power cut before step `at`: what was made durable, and of the rest what `numbers` choose,
/// writes also in part. The header is one sector and comes whole or not at all.
fn after_power_cut(old: &[u8], steps: &[Taken], at: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut file = old.to_vec();
    let durable = steps[..at].iter().rposition(|step| matches!(step, Taken::Sync)).unwrap_or(0);
    for (number, step) in steps[..at].iter().enumerate() {
        let whole = number <= durable;
        match step {
            Taken::Write(place, data) if !whole && *place != 0 => {
                let sectors = data.len().div_ceil(512) as u64;
                let kept = usize::try_from(numbers.next(sectors + 1)).unwrap() * 512;
                Taken::Write(*place, data[..kept.min(data.len())].to_vec()).apply(&mut file);
            }
            step if whole || numbers.next(2) == 0 => step.apply(&mut file),
            _ => {}
        }
    }
    file
}

#[test]
fn a_merge_that_is_cut_off_anywhere_leaves_a_sound_image_and_can_be_repeated() {
    let dir = TempDir::new().unwrap();
    let (base, top, torn) = (dir.path().join("base"), dir.path().join("top"), dir.path().join("torn"));
    let size = 24 * CLUSTER + 1024;
    let mut numbers = Numbers(7);
    for (kind, name_bytes) in KINDS.into_iter().zip([20, 900, 1020]) {
        let mut old = Disk::new(size);
        layer(&base, &mut old, None, kind, &[(0, 9, 5), (12, 4, 8), (20, 5, 77)]);
        // Names of the backing file that fit the first sector, and that do not.
        fs::write(dir.path().join("raw"), vec![0; size]).unwrap();
        let named =
            |length: usize| Backing { name: format!("{}raw", "./".repeat(length / 2)), format: DiskFormat::Raw };
        let mut naming = Merge::begin(both_ways(&base), "base").unwrap();
        naming.set_backing(Some(&named(name_bytes)));
        naming.finish().unwrap();
        let mut new = old.clone();
        layer(&top, &mut new, Some(&base), kind, &[(2, 3, 100), (6, 2, 0), (8, 6, 203), (18, 3, 305), (23, 2, 411)]);
        let before = fs::read(&base).unwrap();
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&steps);
        let gate = Box::new(move |step: Step<'_>| {
            seen.lock().unwrap().push(Taken::of(step));
            Ok(())
        });
        let mut merging = Merge::begin_gated(both_ways(&base), "base", gate).unwrap();
        merge_layer(&open(&top), &mut merging).unwrap();
        merging.set_backing(Some(&named(name_bytes - 2)));
        merging.finish().unwrap();
        let steps = std::mem::take(&mut *steps.lock().unwrap());
        let mut replayed = before.clone();
        steps.iter().for_each(|step| step.apply(&mut replayed));
        assert!(replayed == fs::read(&base).unwrap(), "the gate sees every step");
        let touched = open(&top).runs(0, 25).unwrap();
        for at in 0..=steps.len() {
            for attempt in 0..4 {
                let file = if attempt == 0 {
                    let mut file = before.clone();
                    steps[..at].iter().for_each(|step| step.apply(&mut file));
                    file
                } else {
                    after_power_cut(&before, &steps, at, &mut numbers)
                };
                fs::write(&torn, &file).unwrap();
                check(&torn);
                let got = as_qemu_reads(&torn);
                for run in touched.iter().filter(|run| run.place == Place::Absent) {
                    let start = usize::try_from(run.first).unwrap() * CLUSTER;
                    let end = (start + usize::try_from(run.clusters).unwrap() * CLUSTER).min(size);
                    assert!(got[start..end] == old.0[start..end], "{kind:?} step {at}: cluster {}", run.first);
                }
                merge(&top, &torn);
                check(&torn);
                assert!(as_qemu_reads(&torn) == new.0, "{kind:?} step {at}, attempt {attempt}");
            }
        }
        for length in [name_bytes, 700, 3, 702, 704] {
            let mut merge = Merge::begin(both_ways(&base), "base").unwrap();
            let backing = named(length);
            merge.set_backing(Some(&backing));
            merge.finish().unwrap();
            assert_eq!(open(&base).backing_name(), Some(&*backing.name));
            check(&base);
            let told = qemu_img(&["info", "--output=json", text(&base)]);
            assert!(told.contains(&format!("\"{}\"", backing.name)), "{told}");
            assert!(as_qemu_reads(&base) == new.0);
        }
        fs::remove_file(&base).unwrap();
        fs::remove_file(&top).unwrap();
    }
}

#[test]
fn an_interrupted_merge_says_so_and_leaves_the_old_header() {
    let dir = TempDir::new().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    let mut disk = Disk::new(6 * CLUSTER);
    layer(&base, &mut disk, None, Compression::None, &[(0, 3, 5)]);
    let mut new = disk.clone();
    layer(&top, &mut new, Some(&base), Compression::None, &[(1, 4, 9)]);
    let header = fs::read(&base).unwrap()[..512].to_vec();
    for stop in 0.. {
        let left = AtomicUsize::new(stop);
        let gate = Box::new(move |_: Step<'_>| {
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
                Ok(_) => Ok(()),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::StorageFull)),
            }
        });
        let mut merging = Merge::begin_gated(both_ways(&base), "base", gate).unwrap();
        let merged = merge_layer(&open(&top), &mut merging).and_then(|()| merging.finish());
        check(&base);
        match merged {
            Err(e) => assert_eq!(e.kind, Kind::Permanent, "{e}"),
            Ok(_) => break,
        }
        if fs::read(&base).unwrap()[..512] == header {
            // A failed write ends the merge, even when nobody looks at its result.
            let gate = Box::new(|step: Step<'_>| match step {
                Step::Write(..) => Err(std::io::Error::from(std::io::ErrorKind::StorageFull)),
                _ => Ok(()),
            });
            let mut merging = Merge::begin_gated(both_ways(&base), "base", gate).unwrap();
            merge_layer(&open(&top), &mut merging).unwrap_err();
            merging.finish().unwrap_err();
        }
    }
    assert!(as_qemu_reads(&base) == new.0);
}

#[test]
fn space_that_a_merge_frees_is_given_back_and_used_again() {
    let dir = TempDir::new().unwrap();
    for kind in KINDS {
        let (base, top, third) = (dir.path().join("base"), dir.path().join("top"), dir.path().join("third"));
        let mut disk = Disk::new(64 * CLUSTER);
        // Clusters that shrink and clusters that do not, side by side.
        layer(&base, &mut disk, None, kind, &[(0, 64, 1)]);
        let full = fs::metadata(&base).unwrap();
        layer(&top, &mut disk, Some(&base), kind, &[(8, 40, 0), (60, 4, 0)]);
        merge(&top, &base);
        check(&base);
        let less = fs::metadata(&base).unwrap();
        assert!(less.blocks() < full.blocks() / 2, "{kind:?}: {} of {} blocks", less.blocks(), full.blocks());
        layer(&third, &mut disk, Some(&base), kind, &[(8, 30, 50)]);
        merge(&third, &base);
        check(&base);
        assert!(fs::metadata(&base).unwrap().len() <= full.len() + 6 * CLUSTER_BYTES);
        assert!(as_qemu_reads(&base) == disk.0);
        for path in [base, top, third] {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_disk_of_1_tib_is_small_and_its_tables_meet_where_they_should() {
    let dir = TempDir::new().unwrap();
    let (raw, base, top) = (dir.path().join("raw"), dir.path().join("base"), dir.path().join("top"));
    let size: u64 = 1 << 40;
    let file = create(&raw);
    file.set_len(size).unwrap();
    // The first and last clusters, and both sides of the borders of tables of 512 MiB.
    let places = [0, 8190, 16_383, 8_000_000, size / CLUSTER_BYTES - 2];
    let writer = ImageWriter::create(create(&base), "base", size, Compression::Zstd, None).unwrap();
    for (seed, first) in (1..).zip(places) {
        let data = filled(seed, 2 * CLUSTER);
        writer.write(first, &data).unwrap();
        file.write_all_at(&data, first * CLUSTER_BYTES).unwrap();
    }
    assert!(writer.finish().unwrap().file_bytes < 4 << 20);
    check(&base);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&base)]);
    let backing = Backing { name: "base".to_owned(), format: DiskFormat::Qcow2 };
    let writer = ImageWriter::create(create(&top), "top", size, Compression::None, Some(&backing)).unwrap();
    let data = filled(99, 5 * CLUSTER);
    writer.write(8189, &data).unwrap();
    file.write_all_at(&data, 8189 * CLUSTER_BYTES).unwrap();
    writer.zero(16_000, 17_000).unwrap();
    file.write_all_at(&vec![0; 2 * CLUSTER], 16_383 * CLUSTER_BYTES).unwrap();
    writer.finish().unwrap();
    check(&top);
    let image = open(&top);
    let runs: Vec<Run> = image.runs(0, size / CLUSTER_BYTES).unwrap();
    let run = |first, clusters, place| Run { first, clusters, place };
    let expected = [
        run(0, 8189, Place::Absent),
        run(8189, 5, Place::Data),
        run(8194, 7806, Place::Absent),
        run(16_000, 17_000, Place::Zero),
        run(33_000, size / CLUSTER_BYTES - 33_000, Place::Absent),
    ];
    assert_eq!(runs, expected);
    assert!(image.read(8190, 4).unwrap() == data[CLUSTER..]);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&top)]);
    merge(&top, &base);
    check(&base);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&base)]);
}

#[test]
fn an_image_of_qemu_with_several_refcount_blocks_is_merged_into() {
    let dir = TempDir::new().unwrap();
    let (raw, base) = (dir.path().join("raw"), dir.path().join("base"));
    let size: u64 = 5 << 30;
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", text(&base), &size.to_string()]);
    let file = create(&raw);
    file.set_len(size).unwrap();
    let mut merge = Merge::begin(both_ways(&base), "base").unwrap();
    for (seed, first) in (1..).zip([3, 40_000, 81_000]) {
        let data = filled(seed, 2 * CLUSTER);
        merge.write(first, &data).unwrap();
        file.write_all_at(&data, first * CLUSTER_BYTES).unwrap();
    }
    merge.zero(1000, 20_000).unwrap();
    merge.resize(size + CLUSTER_BYTES / 2).unwrap();
    file.set_len(size + CLUSTER_BYTES / 2).unwrap();
    let tail = filled(7, CLUSTER / 2);
    merge.write(size / CLUSTER_BYTES, &tail).unwrap();
    file.write_all_at(&tail, size).unwrap();
    merge.finish().unwrap();
    check(&base);
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&base)]);
}

#[test]
fn images_that_qemu_compressed_are_read() {
    let dir = TempDir::new().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    let mut disk = Disk::new(30 * CLUSTER + 512);
    disk.fill(0, 9, 1);
    disk.fill(14, 17, 3);
    fs::write(&raw, &disk.0).unwrap();
    for kind in ["zlib", "zstd"] {
        let option = format!("compression_type={kind}");
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &option, text(&raw), text(&image)]);
        assert!(as_we_read(&[&open(&image)]) == disk.0, "{kind}");
        let mut merge = Merge::begin(both_ways(&image), "image").unwrap();
        merge.write(2, &disk.fill(2, 20, 77)).unwrap();
        merge.finish().unwrap();
        check(&image);
        assert!(as_qemu_reads(&image) == disk.0, "{kind}");
        fs::write(&raw, &disk.0).unwrap();
    }
}

#[test]
fn several_threads_write_at_once() {
    let dir = TempDir::new().unwrap();
    for kind in KINDS {
        let path = dir.path().join(format!("{kind:?}"));
        let mut disk = Disk::new(200 * CLUSTER);
        disk.fill(0, 200, 1);
        let writer = ImageWriter::create(create(&path), "disk", 200 * CLUSTER_BYTES, kind, None).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (writer, disk) = (&writer, &disk);
                scope.spawn(move || {
                    for first in (thread * 2..200).step_by(8) {
                        writer.write(first as u64, &disk.0[first * CLUSTER..(first + 2) * CLUSTER]).unwrap();
                    }
                });
            }
        });
        writer.finish().unwrap();
        check(&path);
        assert!(as_qemu_reads(&path) == disk.0);
        let image = open(&path);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(image.read(0, 200).unwrap() == disk.0));
            }
        });
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let dir = TempDir::new().unwrap();
    let new = |name: &str| create(&dir.path().join(name));
    let none = Compression::None;
    for (number, size) in [0, 511, 513, (1 << 51) + 512].into_iter().enumerate() {
        let refused = ImageWriter::create(new(&format!("size{number}")), "disk", size, none, None);
        assert_eq!(refused.err().unwrap().kind, Kind::Permanent);
    }
    for (number, name) in [String::new(), "x".repeat(1024), "nbd:x".to_owned()].into_iter().enumerate() {
        let backing = Backing { name, format: DiskFormat::Raw };
        let refused = ImageWriter::create(new(&format!("name{number}")), "disk", 512, none, Some(&backing));
        assert_eq!(refused.err().unwrap().kind, Kind::Permanent);
    }
    let path = dir.path().join("disk");
    let writer = ImageWriter::create(create(&path), "disk", 4 * CLUSTER_BYTES + 512, none, None).unwrap();
    let data = vec![1; 2 * CLUSTER];
    writer.write(1, &data).unwrap();
    for (first, length) in
        [(2, CLUSTER), (0, 2 * CLUSTER), (0, 512), (4, CLUSTER), (4, 511), (u64::MAX, CLUSTER), (0, 0)]
    {
        assert_eq!(writer.write(first, &data[..length]).unwrap_err().kind, Kind::Permanent, "{first} {length}");
    }
    for (first, clusters) in [(2, 1), (0, 0), (5, 1), (3, 3), (u64::MAX, 1), (1, u64::MAX)] {
        assert_eq!(writer.zero(first, clusters).unwrap_err().kind, Kind::Permanent, "{first} {clusters}");
    }
    assert_eq!(Image::open(File::open(&path).unwrap(), "disk").err().unwrap().kind, Kind::Corrupt, "not finished");
    writer.finish().unwrap();
    check(&path);
    let image = open(&path);
    assert_eq!(image.read(0, 1).unwrap_err().kind, Kind::Permanent);
    assert_eq!(image.read(4, 2).unwrap_err().kind, Kind::Permanent);
    assert_eq!(image.runs(0, 6).unwrap_err().kind, Kind::Permanent);
    let again = ImageWriter::create(both_ways(&path), "disk", 512, none, None);
    assert_eq!(again.err().unwrap().kind, Kind::Permanent);
    let mut merge = Merge::begin(both_ways(&path), "disk").unwrap();
    assert_eq!(merge.resize(512).unwrap_err().kind, Kind::Permanent);
    merge.set_backing(Some(&Backing { name: String::new(), format: DiskFormat::Raw }));
    assert_eq!(merge.finish().unwrap_err().kind, Kind::Permanent);
}

#[test]
fn images_that_are_not_read_here_say_why() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image");
    let cases: [(&[&str], &str); 5] = [
        (&["-o", "compat=0.10"], "version is 2"),
        (&["-o", "cluster_size=4096"], "64 KiB"),
        (&["-o", "extended_l2=on"], "extended second-level"),
        (&["-o", "refcount_bits=32"], "16 bits"),
        (&["-o", "data_file=data"], "another file"),
    ];
    for (options, word) in cases {
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        args.extend(options);
        let out = Command::new("qemu-img").current_dir(dir.path()).args(&args).args(["image", "1M"]).status().unwrap();
        assert!(out.success());
        let error = Image::open(File::open(&path).unwrap(), "image").err().unwrap();
        assert!(error.kind == Kind::Corrupt && error.reason.contains(word), "{error}");
    }
    qemu_img(&["create", "-q", "-f", "qcow2", text(&path), "1M"]);
    qemu_img(&["bitmap", "--add", text(&path), "b"]);
    let error = Merge::begin(both_ways(&path), "image").err().unwrap();
    assert!(error.kind == Kind::Permanent && error.reason.contains("bitmaps"), "{error}");
    qemu_img(&["snapshot", "-c", "s", text(&path)]);
    let error = Image::open(File::open(&path).unwrap(), "image").err().unwrap();
    assert!(error.kind == Kind::Corrupt && error.reason.contains("snapshots"), "{error}");
}

/// Sound images, small.
fn sound(kind: Compression) -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image");
    let backing = Backing { name: "base".to_owned(), format: DiskFormat::Raw };
    let writer = ImageWriter::create(create(&path), "image", 9 * CLUSTER_BYTES + 512, kind, Some(&backing)).unwrap();
    for (first, length) in [(0, 3 * CLUSTER), (5, CLUSTER), (9, 512)] {
        writer.write(first, &filled(first, length)).unwrap();
    }
    writer.zero(7, 1).unwrap();
    writer.finish().unwrap();
    fs::read(&path).unwrap()
}

/// Everything that can be done with a file that may be damaged. Errors are fine; panics are not.
fn try_everything(path: &Path) {
    if let Ok(image) = Image::open(File::open(path).unwrap(), "image") {
        let clusters = image.size_bytes().div_ceil(CLUSTER_BYTES);
        let _ = image.backing_name();
        for run in image.runs(0, clusters.min(20_000)).unwrap_or_default() {
            if run.place == Place::Data {
                let _ = image.read(run.first, u32::try_from(run.clusters.min(50)).unwrap());
            }
        }
        let _ = image.runs(clusters - 1, 1);
    }
    if let Ok(mut merge) = Merge::begin(both_ways(path), "image") {
        let _ = merge.write(1, &filled(1, 4 * CLUSTER));
        let _ = merge.zero(0, 2);
        if merge.finish().is_ok() {
            Image::open(File::open(path).unwrap(), "image").unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_image_is_read_or_refused(
        kind in compressions(),
        // Bytes of the header, and of anything.
        header in prop::collection::vec((0_usize..200, any::<u8>()), 0..3),
        bytes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        // Entries of tables: which one of those that are not zero, and what it becomes.
        words in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..64, any::<u64>(), any::<bool>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = sound(kind);
        for (at, byte) in bytes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        // The tables lie behind the data: the last four clusters.
        let tables = file.len() - 4 * CLUSTER;
        let used: Vec<usize> = (tables..file.len()).step_by(8).filter(|at| file[*at..at + 8] != [0; 8]).collect();
        for (which, bit, word, whole) in words {
            let at = used[which.index(used.len())];
            let old = u64::from_be_bytes(file[at..at + 8].try_into().unwrap());
            let new = if whole { word } else { old ^ (1 << bit) };
            file[at..at + 8].copy_from_slice(&new.to_be_bytes());
        }
        for (at, byte) in header {
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, &file).unwrap();
        try_everything(&path);
    }
}

#[test]
fn parts_that_overlap_are_not_merged_into() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("image");
    for kind in KINDS {
        let file = sound(kind);
        let l2 = file.len() - 4 * CLUSTER;
        // The entry of cluster 5 becomes that of cluster 0, then the place of a table, then one far outside.
        let far = 1_u64 << 63 | 1 << 50;
        for word in [u64::from_be_bytes(file[l2..l2 + 8].try_into().unwrap()), 1 << 63 | l2 as u64, far] {
            let mut file = file.clone();
            file[l2 + 40..l2 + 48].copy_from_slice(&word.to_be_bytes());
            fs::write(&path, &file).unwrap();
            let merge = Merge::begin(both_ways(&path), "image");
            // Two entries may share compressed bytes.
            if word & 1 << 62 == 0 {
                assert_eq!(merge.err().unwrap().kind, Kind::Corrupt);
            }
        }
        // The last entry stays outside, or far beyond what such a file holds where file systems allow the length.
        both_ways(&path).set_len(1 << 52).unwrap_or_default();
        assert_eq!(Merge::begin(both_ways(&path), "image").err().unwrap().kind, Kind::Corrupt);
    }
}
