//! How fast a first backup, an increment and a restore are on this machine, beside what stock tools take for the same
//! disk in the same minutes. Prints a table and appends its rows to `bench/results.jsonl` of the build directory.
//!
//! `bench [--quick]`: a disk of 4 GiB, each figure the median of three; quick: 512 MiB, once, without goals. Then the
//! daemon alone in a large cloud; `--core`: only that.
//!
//! What is compared: we back up a *running VM's* disk through the daemon, libvirt and QEMU; the others are given the same
//! content as a raw file, which no VM uses. All read from the page cache and write to the same file system, in turns, so
//! that a slower minute of the machine hits all alike. Our first backup also makes the repository; `restic init` is not
//! counted. Machines differ, so ratios have goals and seconds have none.

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use system_tests::bench::content::{Dirt, MIB, make_disk};
use system_tests::bench::stock::{self, Restic};
use system_tests::bench::subject::Subject;
use system_tests::bench::table::{self, Row, median};
use system_tests::bench::{core, cpu, population};
use system_tests::place;

/// The disk that goals are for: on a smaller one the fixed costs of an increment weigh more.
const DISK_BYTES: u64 = 4096 * MIB;
const OURS: &str = "keeplast";
const RESTIC: &str = "restic backup";
const CONVERT: &str = "qemu-img convert";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let disk = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some((DISK_BYTES, 3)),
        ["--quick"] => Some((512 * MIB, 1)),
        ["--core"] => None,
        _ => bail!("usage: bench [--quick | --core]"),
    };
    let began = Instant::now();
    let home = place::cache("bench")?;
    let _alone = place::lock(&home.join("lock"))?;
    let folder = Folder::make(home.join("run"))?;
    let results = home.join("results.jsonl");
    if let Some((disk_bytes, rounds)) = disk {
        disks(&folder.0, &results, disk_bytes, rounds)?;
    }
    println!("\nMaking a cloud of {} VMs.", population::VMS);
    let figures = core::run(&folder.0)?;
    table::append(&results, &figures.iter().map(core::Figure::json).collect::<Vec<_>>())?;
    print!("\n{}", core::render(&figures));
    println!("\n{} s in all; rows appended to {}", began.elapsed().as_secs(), results.display());
    Ok(())
}

/// The disk of a VM, beside stock tools.
fn disks(folder: &Path, results: &Path, disk_bytes: u64, rounds: u64) -> Result<()> {
    let mut bench = Bench::start(folder, disk_bytes, rounds)?;
    bench.full()?;
    bench.increments("increment 1M", MIB)?;
    bench.increments("increment 64K", 64 << 10)?;
    bench.nothing()?;
    bench.restore()?;
    bench.powered_off()?;
    let rows = std::mem::take(&mut bench.rows);
    bench.subject.stop()?;
    table::append(results, &rows.iter().map(Row::json).collect::<Vec<_>>())?;
    println!("\n{}", bench_header(disk_bytes, rounds));
    print!("\n{}", table::render(&rows));
    Ok(())
}

fn bench_header(disk_bytes: u64, rounds: u64) -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "A disk of {} MiB: a quarter random, a quarter text, half never written. {cpus} CPUs. Medians of {rounds}.\n\
         Ratio: theirs divided by ours in the same round; above 1x we are better.",
        disk_bytes / MIB
    )
}

/// A folder that goes in the end; what a killed run left goes in the beginning.
struct Folder(PathBuf);

impl Folder {
    fn make(path: PathBuf) -> Result<Self> {
        let folder = Self(path);
        folder.clear();
        fs::create_dir_all(&folder.0).with_context(|| folder.0.display().to_string())?;
        Ok(folder)
    }

    fn clear(&self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The figures of one bench, by who made them.
#[derive(Default)]
struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    fn add(&mut self, who: &str, figure: f64) {
        self.0.entry(who.to_owned()).or_default().push(figure);
    }

    fn time(&mut self, who: &str, took: Duration) {
        println!("  {who:<18} {:>8.2} s", took.as_secs_f64());
        self.add(who, took.as_secs_f64());
    }

    fn all(&self, who: &str) -> &[f64] {
        self.0.get(who).map_or(&[], Vec::as_slice)
    }

    /// The median of the ratios of each round, not the ratio of medians: what slows the machine for a round slows both.
    fn ratio(&self, ours: &str, theirs: &str) -> Option<f64> {
        let pairs = self.all(ours).iter().zip(self.all(theirs));
        let ratios: Vec<f64> = pairs.filter(|(ours, _)| **ours > 0.0).map(|(ours, theirs)| theirs / ours).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }
}

struct Bench {
    folder: PathBuf,
    raw: PathBuf,
    disk_bytes: u64,
    rounds: u64,
    subject: Subject,
    /// The last datastore with a chain in it, and its backup image.
    datastore: i64,
    image: i64,
    /// The last repository of restic's own; it follows the disk as our chain does.
    restic: Restic,
    /// Counts the rounds of writes.
    written: u64,
    rows: Vec<Row>,
}

impl Bench {
    fn start(folder: &Path, disk_bytes: u64, rounds: u64) -> Result<Self> {
        println!("Making a disk of {} MiB and a VM with it.", disk_bytes / MIB);
        let raw = folder.join("disk.raw");
        make_disk(&raw, disk_bytes)?;
        let qcow2 = folder.join("disk.qcow2");
        stock::convert(&raw, &qcow2)?;
        let subject = Subject::start(folder, &qcow2)?;
        // Imported: the VM's disk is another file.
        fs::remove_file(&qcow2)?;
        let restic = Restic::init(folder.join("restic-0"))?;
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            raw,
            disk_bytes,
            rounds,
            subject,
            datastore: -1,
            image: -1,
            restic,
            written: 0,
            rows: vec![],
        })
    }

    fn full(&mut self) -> Result<()> {
        println!("\nFirst backups, each into a fresh repository");
        let mut figures = Figures::default();
        for round in 1..=self.rounds {
            self.datastore = self.subject.datastore(&format!("full-{round}"), "")?;
            let point = self.subject.full(self.datastore)?;
            self.image = point.image;
            figures.time(OURS, point.took);
            figures.add("stored", megabytes(point.stored_bytes));
            figures.add("cpu", point.cpu_s);
            self.restic = Restic::init(self.folder.join(format!("restic-{round}")))?;
            self.restic_backup(&mut figures)?;
            self.convert(&mut figures)?;
            fs::remove_dir_all(self.folder.join(format!("restic-{}", round - 1)))?;
        }
        let work = format!(
            "first backup of a running VM's disk of {0} MiB ({1} random, {1} text, {2} never written)",
            self.disk_bytes / MIB,
            self.disk_bytes / 4 / MIB,
            self.disk_bytes / 2 / MIB
        );
        self.row("full", &work, &figures, (OURS, "s"), (RESTIC, Some(1.0)));
        // It neither hashes nor compresses nor encrypts, so there is nothing to be won.
        self.row("full", &work, &figures, (OURS, "s"), (CONVERT, None));
        self.row(
            "full",
            &format!("{work}: processor time, QEMU's too"),
            &figures,
            ("cpu", "s"),
            ("restic's", Some(1.0)),
        );
        self.row("full", &format!("{work}: bytes stored"), &figures, ("stored", "MiB"), ("added", Some(0.95)));
        Ok(())
    }

    fn convert(&self, figures: &mut Figures) -> Result<()> {
        let target = self.folder.join("convert.qcow2");
        figures.time(CONVERT, stock::convert(&self.raw, &target)?);
        Ok(fs::remove_file(target)?)
    }

    /// Writes a hundredth of the disk, to the guest's and to the raw file.
    fn write(&mut self, length: u64) -> Result<Dirt> {
        self.written += 1;
        let folder = self.folder.join("dirt");
        let dirt = Dirt::make(&folder, self.disk_bytes, length, self.written)?;
        dirt.write_to_guest(self.subject.libvirtd(), &self.subject.domain())?;
        dirt.write_to_file(&self.raw)?;
        fs::remove_dir_all(folder)?;
        Ok(dirt)
    }

    /// One round of increments, after a write.
    fn increment(&mut self, figures: &mut Figures) -> Result<()> {
        let point = self.subject.increment(self.datastore)?;
        figures.time(OURS, point.took);
        figures.add("read", megabytes(point.read_bytes));
        figures.add("stored", megabytes(point.stored_bytes));
        figures.add("cpu", point.cpu_s);
        self.restic_backup(figures)
    }

    fn restic_backup(&self, figures: &mut Figures) -> Result<()> {
        let (bytes, cpu_s) = (self.restic.bytes()?, cpu::of_children("self")?);
        figures.time(RESTIC, self.restic.backup(&self.raw)?);
        figures.add("restic's", cpu::of_children("self")? - cpu_s);
        figures.add("added", megabytes(self.restic.bytes()? - bytes));
        Ok(())
    }

    fn increments(&mut self, name: &str, length: u64) -> Result<()> {
        println!("\nIncrements after writing 1 % of the disk in pieces of {} KiB", length >> 10);
        let mut figures = Figures::default();
        let mut work = String::new();
        for _ in 1..=self.rounds {
            let dirt = self.write(length)?;
            work = format!("increment after {} writes of {} KiB all over the disk", dirt.places(), length >> 10);
            figures.add("written", megabytes(dirt.bytes()));
            self.increment(&mut figures)?;
            self.convert(&mut figures)?;
        }
        self.row(name, &work, &figures, (OURS, "s"), (RESTIC, Some(10.0)));
        self.row(name, &work, &figures, (OURS, "s"), (CONVERT, None));
        self.row(
            name,
            &format!("{work}: processor time, QEMU's too"),
            &figures,
            ("cpu", "s"),
            ("restic's", Some(10.0)),
        );
        // A chunk of 256 KiB is read whole when a part of it was written.
        let least = (length as f64 / (256 << 10) as f64).min(1.0) * 0.99;
        self.row(name, &format!("{work}: bytes read"), &figures, ("read", "MiB"), ("written", Some(least)));
        self.row(name, &format!("{work}: bytes stored"), &figures, ("stored", "MiB"), ("added", Some(1.0)));
        Ok(())
    }

    /// What an increment costs at least; restic, too, sees that the file is the same as before.
    fn nothing(&mut self) -> Result<()> {
        println!("\nIncrements after no write");
        let mut figures = Figures::default();
        for _ in 1..=self.rounds {
            self.increment(&mut figures)?;
        }
        self.row("increment 0", "increment after no write", &figures, (OURS, "s"), (RESTIC, None));
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        println!("\nRestoring the last increment");
        let mut figures = Figures::default();
        let (restore, dump) = ("restic restore", "restic dump");
        for round in 1..=self.rounds {
            let (took, image, file) = self.subject.restore(self.image, &format!("restored-{round}"))?;
            figures.time(OURS, took);
            if round == 1 {
                // Speed is worth nothing when the bytes are wrong.
                stock::compare(&self.raw, &file)?;
            }
            self.subject.delete_image(image, &file)?;
            let folder = self.folder.join("restored");
            figures.time(restore, self.restic.restore(&folder)?);
            fs::remove_dir_all(&folder)?;
            let target = self.folder.join("dumped");
            figures.time(dump, self.restic.dump(&self.raw, &target)?);
            fs::remove_file(target)?;
        }
        let work = "restore of the last increment to a qcow2 image (theirs: to a raw file)";
        self.row("restore", work, &figures, (OURS, "s"), (restore, Some(1.0)));
        self.row("restore", work, &figures, (OURS, "s"), (dump, Some(1.0)));
        Ok(())
    }

    fn powered_off(&mut self) -> Result<()> {
        println!("\nIncrements of the powered-off VM after writing 1 % of the disk in pieces of 1024 KiB");
        let mut figures = Figures::default();
        for round in 1..=self.rounds {
            self.write(MIB)?;
            self.subject.power_off()?;
            self.increment(&mut figures)?;
            if round < self.rounds {
                self.subject.resume()?;
            }
        }
        let work = "increment of a powered-off VM, 1 % written in pieces of 1024 KiB";
        self.row("increment off", work, &figures, (OURS, "s"), (RESTIC, Some(10.0)));
        Ok(())
    }

    fn row(
        &mut self,
        bench: &str,
        work: &str,
        figures: &Figures,
        (ours, unit): (&str, &'static str),
        (theirs, goal): (&str, Option<f64>),
    ) {
        let against = match theirs {
            "written" => "bytes the guest wrote",
            "added" => "bytes restic adds",
            "restic's" => RESTIC,
            other => other,
        };
        let bench = match ours {
            "read" | "stored" | "cpu" => format!("{bench}, {ours}"),
            _ => bench.to_owned(),
        };
        self.rows.push(Row {
            bench,
            work: work.to_owned(),
            subject: OURS.to_owned(),
            value: median(figures.all(ours)),
            unit,
            against: against.to_owned(),
            theirs: median(figures.all(theirs)),
            ratio: figures.ratio(ours, theirs),
            goal: goal.filter(|_| self.disk_bytes == DISK_BYTES),
        });
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
