//! Our own qcow2 images: written, read and merged, with qemu-img as the judge.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its own functions too")]

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use drivers::hypervisor::DiskFormat;
use drivers::qcow2::{Backing, CLUSTER_BYTES, Compression, Finished, Image, ImageWriter, Place, Run};
use drivers::{DriverError, Kind};
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
            let (start, end) = (start.min(size), end.min(size));
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
