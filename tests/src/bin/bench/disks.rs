//! One disk through its life: first backup, increments, restore, verification, the oldest point dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use system_tests::bench::content::{Dirt, MIB, make_disk};
use system_tests::bench::cpu;
use system_tests::bench::figures::Figures;
use system_tests::bench::limits;
use system_tests::bench::memory::{self, Watch};
use system_tests::bench::peers::{Staged, Virtnbdbackup};
use system_tests::bench::stock::{self, Restic};
use system_tests::bench::subject::{Driver, Point, Subject};
use system_tests::bench::table::Row;

use crate::Scale;

const OURS: &str = "keeplast restic";
const PLAIN: &str = "keeplast nfs";
const RESTIC: &str = "restic backup";
const STAGED: &str = "libvirt push + restic";
const NBDBACKUP: &str = "virtnbdbackup";
const CONVERT: &str = "qemu-img convert";

/// What the increments write: name, hundredths of the disk, length of a piece.
const WRITES: [(&str, u64, u64); 7] = [
    ("increment 0 %", 0, MIB),
    ("increment 1 %", 1, MIB),
    ("increment 1 % scattered", 1, 64 << 10),
    ("increment 5 %", 5, MIB),
    ("increment 5 % scattered", 5, 64 << 10),
    ("increment 20 %", 20, MIB),
    ("increment 20 % scattered", 20, 64 << 10),
];

/// The restore point whose restore is measured, and how long the chain is when its oldest point is dropped.
const LATE_POINT: usize = 20;
const LONG_CHAIN: usize = 30;

/// A VM under measurement with the datastore that holds its chain.
#[derive(Debug, Clone, Copy)]
struct Chain {
    vm: i64,
    datastore: i64,
    image: i64,
}

pub struct Bench {
    pub folder: PathBuf,
    pub scale: Scale,
    pub subject: Subject,
    pub rows: Vec<Row>,
    raw: PathBuf,
    qcow2: PathBuf,
    restic_chain: Chain,
    plain_chain: Chain,
    restic: Restic,
    staged: Staged,
    nbdbackup: Virtnbdbackup,
    /// Counts the rounds of writes.
    written: u64,
    /// The median of a first backup, by driver.
    full_s: (f64, f64),
}

impl Bench {
    pub fn start(folder: &Path, scale: Scale) -> Result<Self> {
        println!("Making a disk of {} MiB, two VMs with it, and domains for the others.", scale.disk_bytes / MIB);
        let raw = folder.join("disk.raw");
        make_disk(&raw, scale.disk_bytes, scale.disk_bytes / 5 * 2, 1)?;
        let qcow2 = folder.join("disk.qcow2");
        stock::convert(&raw, &qcow2)?;
        let subject = Subject::start(folder)?;
        let chain =
            |name: &str| Ok::<_, anyhow::Error>(Chain { vm: subject.machine(name, &qcow2)?, datastore: -1, image: -1 });
        let (restic_chain, plain_chain) = (chain("bench")?, chain("bench-plain")?);
        let staged = Staged::start(subject.libvirtd(), folder, &qcow2)?;
        let nbdbackup = Virtnbdbackup::start(subject.libvirtd(), folder, &qcow2)?;
        let restic = Restic::init(folder.join("restic-0"))?;
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            scale,
            subject,
            rows: vec![],
            raw,
            qcow2,
            restic_chain,
            plain_chain,
            restic,
            staged,
            nbdbackup,
            written: 0,
            full_s: (0.0, 0.0),
        })
    }

    pub fn full(&mut self) -> Result<()> {
        println!("\nFirst backups, each into a fresh store");
        let mut figures = Figures::default();
        for round in 1..=self.scale.rounds {
            let base = self.folder.clone();
            let folder = |name: &str, round: u64| base.join(format!("{name}-{round}"));
            let idle = memory::resident_bytes(self.subject.pid()?);
            let watch = Watch::start(self.subject.pid()?);
            let point = self.first(round, Driver::Restic)?;
            figures.add("memory", megabytes(watch.highest().saturating_sub(idle)));
            note(&mut figures, OURS, &point);
            let watch = Watch::start(self.subject.pid()?);
            let point = self.first(round, Driver::Plain)?;
            figures.add("memory nfs", megabytes(watch.highest().saturating_sub(idle)));
            note(&mut figures, PLAIN, &point);
            self.restic = Restic::init(folder("restic", round))?;
            restic_backup(&self.restic, &self.raw, &mut figures)?;
            let target = folder("staged", round);
            figures.time(STAGED, self.staged.full(self.subject.libvirtd(), target)?);
            figures.time(NBDBACKUP, self.nbdbackup.full()?);
            let target = self.folder.join("convert.qcow2");
            figures.time(CONVERT, stock::convert(&self.raw, &target)?);
            fs::remove_file(&target)?;
            figures.time("convert, synced", stock::convert_synced(&self.raw, &target)?);
            fs::remove_file(&target)?;
            let copied = limits::nbdcopy(&self.qcow2)?.as_secs_f64();
            let packed = limits::digest_and_compress(&self.raw)?.as_secs_f64();
            figures.add("nbdcopy to null", copied);
            figures.add("SHA-256 + zstd", packed);
            figures.add("limit", copied.max(packed));
            figures.time("cat", limits::cat(&self.raw)?);
            for name in ["restic", "staged"] {
                fs::remove_dir_all(folder(name, round - 1)).ok();
            }
            println!("  {}", figures.last());
        }
        figures.add("allowed memory", 150.0);
        self.full_s = (figures.median(OURS), figures.median(PLAIN));
        self.row("full", &figures, (OURS, "s"), (RESTIC, Some(2.0)));
        self.row("full", &figures, (OURS, "s"), (STAGED, Some(3.0)));
        self.row("full", &figures, (OURS, "s"), ("limit", Some(0.8)));
        for theirs in [NBDBACKUP, CONVERT, "nbdcopy to null", "SHA-256 + zstd", "cat"] {
            self.row("full", &figures, (OURS, "s"), (theirs, None));
        }
        self.row("full, processor", &figures, ("cpu keeplast restic", "s"), ("cpu restic backup", Some(1.0)));
        self.row("full, stored", &figures, ("stored keeplast restic", "MiB"), ("stored restic backup", Some(0.95)));
        self.row("full, memory", &figures, ("memory", "MiB"), ("allowed memory", Some(1.0)));
        self.row("full, plain files", &figures, (PLAIN, "s"), (CONVERT, Some(0.9)));
        self.row("full, plain files", &figures, (PLAIN, "s"), ("convert, synced", None));
        self.row("full, plain files", &figures, (PLAIN, "s"), (NBDBACKUP, None));
        self.row("full, plain files, memory", &figures, ("memory nfs", "MiB"), ("allowed memory", Some(1.0)));
        Ok(())
    }

    fn first(&mut self, round: u64, driver: Driver) -> Result<Point> {
        let datastore = self.subject.datastore(&format!("full-{round}-{driver:?}"), driver)?;
        let chain = if driver == Driver::Plain { &mut self.plain_chain } else { &mut self.restic_chain };
        let point = self.subject.full(chain.vm, datastore)?;
        (chain.datastore, chain.image) = (datastore, point.image);
        Ok(point)
    }

    /// Writes to every disk there is.
    fn write(&mut self, hundredths: u64, length: u64) -> Result<u64> {
        self.written += 1;
        if hundredths == 0 {
            return Ok(0);
        }
        let folder = self.folder.join("dirt");
        let bytes = self.scale.disk_bytes * hundredths / 100;
        let dirt = Dirt::make(&folder, self.scale.disk_bytes, bytes, length, self.written)?;
        let ours = [self.restic_chain, self.plain_chain].map(|chain| Subject::domain(chain.vm));
        for domain in [&ours[0], &ours[1], self.staged.domain(), self.nbdbackup.domain()] {
            dirt.write_to_guest(self.subject.libvirtd(), domain)?;
        }
        dirt.write_to_file(&self.raw)?;
        fs::remove_dir_all(folder)?;
        Ok(dirt.bytes())
    }

    pub fn increments(&mut self) -> Result<()> {
        for (name, hundredths, length) in WRITES {
            println!("\n{name}");
            let mut figures = Figures::default();
            for _ in 1..=self.scale.rounds {
                let bytes = self.write(hundredths, length)?;
                figures.add("written", megabytes(bytes));
                let (ours, plain) = (self.restic_chain, self.plain_chain);
                note(&mut figures, OURS, &self.subject.increment(ours.vm, ours.datastore)?);
                note(&mut figures, PLAIN, &self.subject.increment(plain.vm, plain.datastore)?);
                restic_backup(&self.restic, &self.raw, &mut figures)?;
                figures.time(STAGED, self.staged.increment(self.subject.libvirtd())?);
                figures.time(NBDBACKUP, self.nbdbackup.increment()?);
                if hundredths > 0 {
                    let target = self.folder.join("convert.qcow2");
                    let whole = stock::convert(&self.raw, &target)?.as_secs_f64();
                    let filled = fs::metadata(&target)?.len();
                    fs::remove_file(target)?;
                    // A second, and one and a half times as long as moving as many bytes takes.
                    figures.add("allowed", 1.0 + 1.5 * whole * bytes as f64 / filled as f64);
                }
                println!("  {}", figures.last());
            }
            let one = |goal| (hundredths == 1).then_some(goal);
            self.row(name, &figures, (OURS, "s"), (RESTIC, None));
            self.row(name, &figures, (OURS, "s"), (STAGED, one(20.0)));
            self.row(name, &figures, (OURS, "s"), (NBDBACKUP, one(3.0)));
            if hundredths > 0 {
                self.row(name, &figures, (OURS, "s"), ("allowed", one(1.0)));
                // A chunk of 256 KiB is read whole when a part of it was written.
                let least = (length as f64 / (256 << 10) as f64).min(1.0) * 0.99;
                self.row(&format!("{name}, read"), &figures, ("read keeplast restic", "MiB"), ("written", Some(least)));
                self.row(
                    &format!("{name}, stored"),
                    &figures,
                    ("stored keeplast restic", "MiB"),
                    ("stored restic backup", Some(1.0)),
                );
            }
            self.row(&format!("{name}, plain files"), &figures, (PLAIN, "s"), (NBDBACKUP, Some(1.0)));
            if hundredths == 1 {
                self.metadata(name, &figures)?;
            }
        }
        Ok(())
    }

    /// What an increment stores beside data: that of one piece of 64 KiB, for all else it holds is the description of a
    /// disk that was written to.
    fn metadata(&mut self, name: &str, before: &Figures) -> Result<()> {
        let mut figures = Figures::default();
        for (chain, who) in [(self.restic_chain, OURS), (self.plain_chain, PLAIN)] {
            self.subject.libvirtd().write(&Subject::domain(chain.vm), "vda", 0x5a, 4096 * self.written, 512)?;
            let point = self.subject.increment(chain.vm, chain.datastore)?;
            figures.add(who, megabytes(point.stored_bytes.saturating_sub(64 << 10)));
            figures.add(&format!("2 % of {who}"), before.median(&format!("stored {who}")) * 0.02);
            let goal = Some(1.0).filter(|_| !name.is_empty());
            self.row(&format!("{name}, metadata"), &figures, (who, "MiB"), (&format!("2 % of {who}"), goal));
        }
        // The raw file follows, or a later comparison would find the difference.
        self.follow(4096 * self.written)
    }

    fn follow(&self, offset: u64) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file = fs::OpenOptions::new().write(true).open(&self.raw)?;
        Ok(file.write_all_at(&[0x5a; 512], offset)?)
    }

    pub fn restore(&mut self) -> Result<()> {
        println!("\nRestoring");
        let mut figures = Figures::default();
        let newest = self.subject.count(self.restic_chain.image)? - 1;
        let point = LATE_POINT.min(newest);
        for round in 1..=self.scale.rounds {
            for (chain, who) in [(self.restic_chain, OURS), (self.plain_chain, PLAIN)] {
                let (took, image, file) = self.subject.restore(chain.image, None, &format!("{who} {round}"))?;
                figures.time(who, took);
                if round == 1 {
                    // Speed is worth nothing when the bytes are wrong.
                    stock::compare(&self.raw, &file).with_context(|| format!("the newest point of {who}"))?;
                }
                self.subject.delete_image(image, &file)?;
                for (increment, label) in [(0, "full"), (point, "increment 20")] {
                    let name = format!("{who} {round} {label}");
                    let (took, image, file) = self.subject.restore(chain.image, Some(increment), &name)?;
                    figures.time(&format!("{who}, {label}"), took);
                    self.subject.delete_image(image, &file)?;
                }
            }
            let folder = self.folder.join("restored");
            figures.time("restic restore", self.restic.restore(&folder)?);
            fs::remove_dir_all(&folder)?;
            let target = self.folder.join("dumped");
            figures.time("restic dump", self.restic.dump(&self.raw, &target)?);
            fs::remove_file(target)?;
            println!("  {}", figures.last());
        }
        for (what, suffix) in
            [("restore the newest", ""), ("restore the full", ", full"), ("restore increment 20", ", increment 20")]
        {
            for theirs in ["restic restore", "restic dump"] {
                self.row(what, &figures, (&format!("{OURS}{suffix}"), "s"), (theirs, Some(2.0)));
            }
            self.row(
                &format!("{what}, plain files"),
                &figures,
                (&format!("{PLAIN}{suffix}"), "s"),
                ("restic restore", Some(2.0)),
            );
        }
        Ok(())
    }

    pub fn verify(&mut self) -> Result<()> {
        println!("\nReading every byte of the store");
        let mut figures = Figures::default();
        figures.time(OURS, self.subject.verify(self.restic_chain.image)?);
        figures.time(PLAIN, self.subject.verify(self.plain_chain.image)?);
        figures.time("restic check --read-data", limits::restic_check(self.restic.command())?);
        println!("  {}", figures.last());
        self.row("verify", &figures, (OURS, "s"), ("restic check --read-data", None));
        self.row("verify, plain files", &figures, (PLAIN, "s"), ("restic check --read-data", None));
        Ok(())
    }

    pub fn powered_off(&mut self) -> Result<()> {
        println!("\nIncrements of powered-off VMs after writing 1 % of the disk");
        let mut figures = Figures::default();
        for _ in 1..=self.scale.rounds {
            self.write(1, MIB)?;
            for (chain, who) in [(self.restic_chain, OURS), (self.plain_chain, PLAIN)] {
                self.subject.power_off(chain.vm)?;
                note(&mut figures, who, &self.subject.increment(chain.vm, chain.datastore)?);
                self.subject.resume(chain.vm)?;
            }
            restic_backup(&self.restic, &self.raw, &mut figures)?;
            println!("  {}", figures.last());
        }
        self.row("increment 1 %, VM off", &figures, (OURS, "s"), (RESTIC, Some(10.0)));
        self.row("increment 1 %, VM off, plain files", &figures, (PLAIN, "s"), (RESTIC, Some(10.0)));
        Ok(())
    }

    /// How long after a backup the oldest of thirty points is gone, with what only it needed.
    pub fn drop_oldest(&mut self) -> Result<()> {
        println!("\nDropping the oldest of {LONG_CHAIN} points");
        let mut figures = Figures::default();
        for (chain, who, full_s) in [(self.restic_chain, OURS, self.full_s.0), (self.plain_chain, PLAIN, self.full_s.1)]
        {
            let keep = LONG_CHAIN - 1;
            while self.subject.count(chain.image)? < keep {
                self.subject.increment(chain.vm, chain.datastore)?;
            }
            if self.subject.count(chain.image)? > keep {
                // The first round only brings the chain to its length.
                self.subject.keep_last(chain.vm, keep)?;
                self.subject.increment(chain.vm, chain.datastore)?;
                self.subject.wait_count(chain.image, keep)?;
            }
            self.subject.keep_last(chain.vm, keep)?;
            for _ in 1..=self.scale.rounds {
                self.subject.increment(chain.vm, chain.datastore)?;
                let started = Instant::now();
                self.subject.wait_count(chain.image, keep)?;
                figures.time(who, started.elapsed());
                figures.add(&format!("5 % of a full, {who}"), full_s * 0.05);
            }
            let goal = format!("5 % of a full, {who}");
            self.row("drop the oldest of 30", &figures, (who, "s"), (&goal, Some(1.0)));
        }
        println!("  {}", figures.last());
        Ok(())
    }

    pub fn stop(self) -> Result<()> {
        let Self { subject, staged, nbdbackup, .. } = self;
        drop((staged, nbdbackup));
        subject.stop()
    }

    pub fn row(
        &mut self,
        bench: &str,
        figures: &Figures,
        (ours, unit): (&str, &'static str),
        (theirs, goal): (&str, Option<f64>),
    ) {
        self.rows.push(Row {
            bench: bench.to_owned(),
            work: format!(
                "disk of {} MiB, {} filled",
                self.scale.disk_bytes / MIB,
                self.scale.disk_bytes / 5 * 2 / MIB
            ),
            subject: ours.to_owned(),
            value: figures.median(ours),
            unit,
            against: theirs.to_owned(),
            theirs: figures.median(theirs),
            ratio: figures.ratio(ours, theirs),
            goal: goal.filter(|_| self.scale.goals),
        });
    }
}

fn note(figures: &mut Figures, who: &str, point: &Point) {
    figures.time(who, point.took);
    figures.add(&format!("cpu {who}"), point.cpu_s);
    figures.add(&format!("read {who}"), megabytes(point.read_bytes));
    figures.add(&format!("stored {who}"), megabytes(point.stored_bytes));
}

fn restic_backup(restic: &Restic, raw: &Path, figures: &mut Figures) -> Result<Duration> {
    let (bytes, cpu_s) = (restic.bytes()?, cpu::of_children("self")?);
    let took = restic.backup(raw)?;
    figures.time(RESTIC, took);
    figures.add("cpu restic backup", cpu::of_children("self")? - cpu_s);
    figures.add("stored restic backup", megabytes(restic.bytes()? - bytes));
    Ok(took)
}

pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}
