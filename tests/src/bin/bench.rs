//! How fast a first backup, an increment and a restore are on this machine, beside what stock tools take for the
//! same disk. Prints a table; nothing is judged, because machines differ.
//!
//! `bench [GIB]`: size of the disk, 2 GiB unless told. Half of it holds random data, half is a hole.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use system_tests::cloud::Cloud;
use system_tests::command;
use system_tests::daemon::Options;
use system_tests::restic::Repository;

/// Moving gigabytes on a slow disk.
const PATIENCE: Duration = Duration::from_secs(1800);
const MIB: u64 = 1 << 20;

fn main() -> Result<()> {
    let gib: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse().with_context(|| format!("{text:?} is not a number of GiB"))?,
        None => 2,
    };
    let cloud = Cloud::start(Options::default())?;
    let work = cloud.work.path();
    let (raw, qcow2) = (work.join("bench.raw"), work.join("bench.qcow2"));
    half_random(&raw, gib << 30)?;
    println!("A disk of {gib} GiB, half of it random data, half a hole; MB/s of the whole disk.\n");
    let row = |what: &str, took: Duration, bytes: u64| {
        println!("{what:<58} {:>8.2} s {:>8.0} MB/s", took.as_secs_f64(), bytes as f64 / 1e6 / took.as_secs_f64());
    };
    let whole = gib << 30;

    row(
        "qemu-img convert, raw to qcow2",
        timed(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([&raw, &qcow2]))?,
        whole,
    );
    let stock = Repository { path: work.join("stock"), password: "bench".into() };
    stock.run(&["init"])?.checked("restic init")?;
    let mut restic = Command::new("restic");
    restic.env("RESTIC_PASSWORD", "bench").args(["--no-cache", "-q", "-r"]).arg(&stock.path).arg("backup").arg(&raw);
    row("stock restic backup of the raw file", timed(&mut restic)?, whole);

    let image = cloud.image("bench-disk", &qcow2)?;
    let text = format!(
        "NAME = \"bench\"\nCPU = \"0.1\"\nMEMORY = \"64\"\nOS = [ ARCH = \"x86_64\", MACHINE = \"q35\" ]\n\
         DISK = [ IMAGE_ID = \"{image}\" ]\nBACKUP_CONFIG = [ MODE = \"INCREMENT\" ]\n"
    );
    let template = cloud.one.create("onetemplate", &text, &[])?;
    let vm = cloud.instantiate(template, "bench")?;
    let started = Instant::now();
    cloud.backup(vm)?;
    row("first backup of the running VM", started.elapsed(), whole);

    let changed = whole / 100 / MIB;
    for piece in 0..changed {
        let value = u8::try_from(piece % 255)? + 1;
        cloud.libvirtd.write(&format!("one-{vm}"), "vda", value, piece * 100 * MIB, MIB)?;
    }
    let started = Instant::now();
    cloud.backup(vm)?;
    row(&format!("increment after {changed} MiB of writes, one each 100 MiB"), started.elapsed(), whole);
    let started = Instant::now();
    cloud.backup(vm)?;
    row("increment after no write", started.elapsed(), whole);

    let backup = *cloud.backup_images(vm)?.first().context("no backup image")?;
    let started = Instant::now();
    cloud.restore(backup, &["--name", "bench-restored"])?;
    row("restore of the last point", started.elapsed(), whole);
    let repository = Repository::find(cloud.one.state(), &cloud.password)?;
    let stored = repository.iter().map(|found| size(&found.path)).sum::<Result<u64>>()?;
    println!("\nThe repository holds {} MB for three restore points.", stored / 1_000_000);
    cloud.one.stop()
}

fn timed(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    command::run(command, PATIENCE)?.checked(&command::spell(command))?;
    Ok(started.elapsed())
}

fn half_random(path: &Path, bytes: u64) -> Result<()> {
    let mut source = File::open("/dev/urandom")?;
    let mut file = File::create(path)?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..bytes / 2 / MIB {
        source.read_exact(&mut block)?;
        file.write_all(&block)?;
    }
    file.set_len(bytes)?;
    Ok(file.sync_all()?)
}

fn size(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
