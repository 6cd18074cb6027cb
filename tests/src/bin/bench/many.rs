//! Several VMs at once, a disk that is mostly nothing, and what a backup writes beside its store.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};
use system_tests::bench::content::{Dirt, MIB, make_disk, settle};
use system_tests::bench::figures::Figures;
use system_tests::bench::stock::{self, Restic};
use system_tests::bench::subject::{Driver, Subject};

use crate::disks::{Bench, megabytes};

/// VMs that are backed up at once.
const VMS: u64 = 4;
/// Size of the sparse disk, and of what it holds.
const SPARSE_BYTES: u64 = 1 << 40;

impl Bench {
    /// Four VMs into one repository, beside four `restic backup` at once into one.
    pub fn at_once(&mut self) -> Result<()> {
        println!("\n{VMS} VMs at once");
        let bytes = self.scale.disk_bytes / 8;
        let (mut vms, mut raws) = (Vec::new(), Vec::new());
        for number in 0..VMS {
            let raw = self.folder.join(format!("many-{number}.raw"));
            let qcow2 = raw.with_extension("qcow2");
            make_disk(&raw, bytes, bytes, 100 + 10 * number)?;
            stock::convert(&raw, &qcow2)?;
            vms.push(self.subject.machine(&format!("many-{number}"), &qcow2)?);
            fs::remove_file(qcow2)?;
            raws.push(raw);
        }
        let mut figures = Figures::default();
        for round in 1..=self.scale.rounds {
            let shared = self.subject.datastore(&format!("many-shared-{round}"), Driver::SharedRestic)?;
            figures.time("keeplast restic, shared", self.subject.at_once(&vms, shared)?);
            let plain = self.subject.datastore(&format!("many-plain-{round}"), Driver::Plain)?;
            figures.time("keeplast nfs", self.subject.at_once(&vms, plain)?);
            let folder = self.folder.join("many-restic");
            let restic = Restic::init(folder.clone())?;
            settle();
            let started = Instant::now();
            let mut running = Vec::new();
            for raw in &raws {
                running.push(restic.command().arg("backup").arg(raw).stdin(Stdio::null()).spawn()?);
            }
            wait_all(running)?;
            figures.time("restic backup x 4", started.elapsed());
            fs::remove_dir_all(folder)?;
            println!("  {}", figures.last());
        }
        self.row("four VMs at once", &figures, ("keeplast restic, shared", "s"), ("restic backup x 4", Some(1.0)));
        self.row("four VMs at once, plain files", &figures, ("keeplast nfs", "s"), ("restic backup x 4", None));
        raws.iter().try_for_each(fs::remove_file)?;
        Ok(())
    }

    /// What the host's disk takes beside the store, while the guest overwrites what is being backed up.
    pub fn scratch(&mut self) -> Result<()> {
        println!("\nOverwriting a disk that is being backed up");
        let held = if self.scale.goals { 1 << 30 } else { 128 * MIB };
        let raw = self.folder.join("scratch.raw");
        make_disk(&raw, held, held, 700)?;
        let qcow2 = raw.with_extension("qcow2");
        stock::convert(&raw, &qcow2)?;
        let vm = self.subject.machine("scratch", &qcow2)?;
        fs::remove_file(qcow2)?;
        fs::remove_file(raw)?;
        let mut figures = Figures::default();
        for (length, work) in [(MIB, "scratch, pieces of 1 MiB"), (64 << 10, "scratch, pieces of 64 KiB")] {
            for round in 1..=self.scale.rounds {
                let datastore = self.subject.slow_datastore(&format!("scratch-{length}-{round}"))?;
                let dirt = Dirt::make(&self.folder.join("dirt"), held, held / 20, length, round)?;
                let taken = self.subject.scratch_bytes(vm, datastore, &dirt)?;
                fs::remove_dir_all(self.folder.join("dirt"))?;
                figures.add(work, megabytes(taken));
                figures.add(&format!("1.1 x overwritten, {work}"), megabytes(dirt.bytes()) * 1.1);
            }
            println!("  {}", figures.last());
            self.row(work, &figures, (work, "MiB"), (&format!("1.1 x overwritten, {work}"), Some(1.0)));
        }
        Ok(())
    }

    /// Increments of a disk of 1 TiB that holds 1 GiB, beside those of one of 2 GiB that holds the same.
    pub fn sparse(&mut self) -> Result<()> {
        println!("\nA disk of 1 TiB with 1 GiB in it");
        let held = if self.scale.goals { 1 << 30 } else { 64 * MIB };
        let raw = self.folder.join("held.raw");
        make_disk(&raw, held, held, 500)?;
        let mut figures = Figures::default();
        let mut vms = Vec::new();
        for (name, size) in [("small", 2 * held), ("sparse", SPARSE_BYTES)] {
            let qcow2 = self.folder.join(format!("{name}.qcow2"));
            stock::convert(&raw, &qcow2)?;
            stock::resize(&qcow2, size)?;
            let vm = self.subject.machine(name, &qcow2)?;
            fs::remove_file(qcow2)?;
            for driver in [Driver::Restic, Driver::Plain] {
                let datastore = self.subject.datastore(&format!("{name}-{driver:?}"), driver)?;
                let point = self.subject.full(vm, datastore)?;
                figures.time(&format!("full {name} {driver:?}"), point.took);
                for round in 0..self.scale.rounds {
                    let folder = self.folder.join("dirt");
                    let dirt = Dirt::make(&folder, held, held / 100, MIB, round)?;
                    dirt.write_to_guest(self.subject.libvirtd(), &Subject::domain(vm))?;
                    fs::remove_dir_all(folder)?;
                    figures.time(&format!("{name} {driver:?}"), self.subject.increment(vm, datastore)?.took);
                }
            }
            vms.push(vm);
        }
        println!("  {}", figures.last());
        for (driver, bench) in [("Restic", "1 TiB, 1 GiB held"), ("Plain", "1 TiB, 1 GiB held, plain files")] {
            let small = figures.all(&format!("small {driver}")).to_vec();
            // Half a second more than the small disk takes is the most that size alone may cost.
            small.iter().for_each(|took| figures.add(&format!("2 GiB disk + 0.5 s {driver}"), took + 0.5));
            let (ours, theirs) = (format!("sparse {driver}"), format!("2 GiB disk + 0.5 s {driver}"));
            self.row(&format!("{bench}, increment"), &figures, (&ours, "s"), (&theirs, Some(1.0)));
            let (ours, theirs) = (format!("full sparse {driver}"), format!("full small {driver}"));
            self.row(&format!("{bench}, full"), &figures, (&ours, "s"), (&theirs, None));
        }
        Ok(fs::remove_file(raw)?)
    }
}

fn wait_all(running: Vec<Child>) -> Result<()> {
    let mut failed = None;
    for mut child in running {
        let status = child.wait()?;
        if !status.success() {
            failed = Some(status);
        }
    }
    match failed {
        None => Ok(()),
        Some(status) => bail!("restic backup ended with {status}"),
    }
}
