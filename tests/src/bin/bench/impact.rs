//! What a guest notices of its backup: how long its writes take.
//!
//! Measured inside a real guest, by its own clock: writes of 4 KiB, one after the other through a second disk, past the
//! guest's page cache and each with an fsync (`guest_writer`). The disk is full of data, so that while a backup runs the
//! first write to each 64 KiB has QEMU keep what was there: one write in sixteen.
//!
//! A guest needs a processor the moment that its disk answers. So two more figures tell what a backup's arithmetic does from
//! what its copying does: writes while all processors compute and nothing is backed up, and writes during full backups by
//! processes that leave one processor alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use system_tests::bench::content::{MIB, make_disk};
use system_tests::bench::figures::Figures;
use system_tests::bench::stock;
use system_tests::bench::subject::{Driver, Subject};
use system_tests::command::{self, ORDINARY, wait_for};
use system_tests::guest;
use system_tests::place;

use crate::disks::Bench;
use crate::processors::{all_busy, one_spared};

/// The least that a write during a backup may be worse than one without: goals are in "times better".
const GOAL: f64 = 1.0 / 1.5;
/// What the guest runs: the writer lies on its first disk, with the library that the guest has not.
const WRITES: &str = "cd /mnt/vda/tool && LD_LIBRARY_PATH=. ./guest_writer /dev/vdb > /dev/console 2>&1 &";

/// The guest, and the console that tells its writes.
struct Writer {
    vm: i64,
    console: PathBuf,
}

impl Writer {
    fn start(bench: &Bench, data_bytes: u64) -> Result<Self> {
        let cloud = bench.subject.cloud();
        let guest = cloud.guest()?;
        let at = |name: &str| bench.folder.join(name);
        system_disk(&at("impact-system.qcow2"))?;
        make_disk(&at("impact.raw"), data_bytes, data_bytes, 900)?;
        stock::convert(&at("impact.raw"), &at("impact.qcow2"))?;
        fs::remove_file(at("impact.raw"))?;
        let system = cloud.image("impact-system", &at("impact-system.qcow2"))?;
        let data = cloud.image("impact-data", &at("impact.qcow2"))?;
        let text = format!(
            "NAME = \"impact\"\nCPU = \"0.5\"\nVCPU = \"1\"\nMEMORY = \"192\"\n{}\nDISK = [ IMAGE_ID = \"{system}\" ]\n\
             DISK = [ IMAGE_ID = \"{data}\" ]\nBACKUP_CONFIG = [ MODE = \"INCREMENT\", FS_FREEZE = \"NONE\" ]\n",
            guest.os_attribute()
        );
        let template = cloud.one.create("onetemplate", &text, &[])?;
        let vm = cloud.instantiate(template, "impact")?;
        let (uri, domain) = (cloud.libvirtd.uri(), Subject::domain(vm));
        let console = guest::serial_log(&uri, &domain)?;
        guest::wait_ready(&console)?;
        guest::wait_agent(&uri, &domain)?;
        guest::exec_ok(&uri, &domain, WRITES)?;
        let writer = Self { vm, console };
        wait_for("the guest to write", ORDINARY, || Ok((!writer.took_since(0)?.is_empty()).then_some(())))
            .with_context(|| {
                format!("its console ends with:\n{}", system_tests::supervisor::tail(&writer.console, 10))
            })?;
        Ok(writer)
    }

    /// Where the console ends now.
    fn mark(&self) -> Result<u64> {
        Ok(fs::metadata(&self.console)?.len())
    }

    /// How long each write took that was told since a mark, milliseconds.
    fn took_since(&self, mark: u64) -> Result<Vec<f64>> {
        let bytes = fs::read(&self.console)?;
        let text = String::from_utf8_lossy(bytes.get(usize::try_from(mark)?..).unwrap_or_default()).into_owned();
        Ok(text.lines().filter_map(took_ms).collect())
    }
}

/// A disk with the writer on it.
fn system_disk(qcow2: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let tool = work.path().join("files/tool");
    fs::create_dir_all(&tool)?;
    let program = place::binary("guest_writer")?;
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(tool.join("guest_writer")).arg(&program);
    command::run(&mut strip, ORDINARY)?.checked("strip (of the package binutils)")?;
    let needed = command::output("ldd", &[&program])?;
    for library in needed.lines().filter_map(|line| line.split_once("=> ")?.1.split(' ').next()) {
        fs::copy(library, tool.join(Path::new(library).file_name().context("a library without a name")?))?;
    }
    let raw = work.path().join("raw");
    fs::File::create(&raw)?.set_len(32 * MIB)?;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-d"]).arg(work.path().join("files")).arg(&raw);
    command::run(&mut make, ORDINARY)?.checked("mkfs.ext4")?;
    stock::convert(&raw, qcow2).map(drop)
}

/// `GUEST write 1234`
fn took_ms(line: &str) -> Option<f64> {
    let micros: f64 = line.split_once("GUEST write ")?.1.trim().parse().ok()?;
    Some(micros / 1000.0)
}

/// The figure below which `hundredths` of all lie.
fn percentile(figures: &[f64], hundredths: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * hundredths).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0.0)
}

impl Bench {
    /// A guest's writes without a backup, with and without others who compute, during full and incremental ones, and during
    /// one whose datastore stands still.
    pub fn impact(&mut self) -> Result<()> {
        println!("\nA guest's writes while it is backed up");
        let (bytes, long) = if self.scale.goals { (1 << 30, 30) } else { (128 * MIB, 6) };
        let long = Duration::from_secs(long);
        let writer = Writer::start(self, bytes)?;
        let mut figures = Figures::default();
        for round in 1..=self.scale.rounds {
            let datastore = self.subject.datastore(&format!("impact-{round}"), Driver::Restic)?;
            note(&mut figures, "quiet", &writer, || {
                std::thread::sleep(long);
                Ok(())
            })?;
            note(&mut figures, "busy", &writer, || {
                all_busy(|| {
                    std::thread::sleep(long);
                    Ok(())
                })
            })?;
            note(&mut figures, "full", &writer, || repeat(long, || self.backup(writer.vm, datastore, true)))?;
            note(&mut figures, "increment", &writer, || repeat(long, || self.backup(writer.vm, datastore, false)))?;
            self.spared(&mut figures, &writer, datastore, long)?;
            self.begin(writer.vm, datastore, true)?;
            let stores = self.stall(&writer)?;
            note(&mut figures, "stalled", &writer, || {
                std::thread::sleep(long.min(Duration::from_secs(15)));
                Ok(())
            })?;
            for store in stores {
                kill_process(store, Signal::CONT).ok();
            }
            self.subject.cloud().one.ok("onevm", &["backup-cancel", &writer.vm.to_string()])?;
            self.wait_running(writer.vm)?;
            println!("  {}", figures.last());
        }
        self.tell(&figures);
        self.subject.cloud().one.ok("onevm", &["terminate", &writer.vm.to_string(), "--hard", "--wait"])?;
        Ok(())
    }

    /// Full backups by processes that leave one processor alone. By now the datastore's process is there.
    fn spared(&self, figures: &mut Figures, writer: &Writer, datastore: i64, long: Duration) -> Result<()> {
        let one = &self.subject.cloud().one;
        let mut processes = one.datastore_processes()?;
        processes.extend(one.pid());
        let mark = writer.mark()?;
        if one_spared(&processes, || repeat(long, || self.backup(writer.vm, datastore, true)))? {
            add(figures, "spared", &writer.took_since(mark)?)?;
        }
        Ok(())
    }

    fn tell(&mut self, figures: &Figures) {
        let (full, increments) = ("guest's writes, full backup", "guest's writes, increments");
        for (phase, bench, other, goal) in [
            ("busy", "guest's writes, busy machine and no backup", "quiet", None),
            ("full", full, "quiet", Some(GOAL)),
            ("full", full, "busy", None),
            ("increment", increments, "quiet", Some(GOAL)),
            ("increment", increments, "busy", None),
            ("spared", "guest's writes, full backup that spares a processor", "quiet", None),
            ("stalled", "guest's writes, stalled store", "quiet", Some(GOAL)),
        ] {
            // On a machine with one processor none is spared.
            for (rank, goal) in [("p50", None), ("p99", goal)] {
                let (ours, theirs) = (format!("{rank} {phase}"), format!("{rank} {other}"));
                if !figures.all(&ours).is_empty() {
                    self.row(&format!("{bench}, {rank}"), figures, (&ours, "ms"), (&theirs, goal));
                }
            }
        }
    }

    fn begin(&self, vm: i64, datastore: i64, reset: bool) -> Result<()> {
        let answer = self.subject.cloud().one.call("one.vm.backup", &[vm.into(), datastore.into(), reset.into()])?;
        answer.id().map(drop)
    }

    fn backup(&self, vm: i64, datastore: i64, reset: bool) -> Result<()> {
        self.begin(vm, datastore, reset)?;
        self.wait_running(vm)?;
        let vm = self.subject.cloud().one.vm(vm)?;
        let error = vm.text("USER_TEMPLATE/ERROR");
        if error.is_empty() { Ok(()) } else { bail!("the backup failed: {error}") }
    }

    fn wait_running(&self, vm: i64) -> Result<()> {
        self.subject.cloud().one.wait_vm(vm, 3, 3).map(drop)
    }

    /// Waits until the copy has begun, and stops the processes of all datastores: they take no more bytes.
    fn stall(&self, writer: &Writer) -> Result<Vec<Pid>> {
        let one = &self.subject.cloud().one;
        wait_for("the copy to begin", ORDINARY, || {
            let vm = one.vm(writer.vm)?;
            Ok((vm.number("USER_TEMPLATE/PROGRESS/DONE_BYTES").unwrap_or(0) > 0).then_some(()))
        })?;
        let stores: Vec<Pid> = one.datastore_processes()?.into_iter().filter_map(Pid::from_raw).collect();
        for store in &stores {
            kill_process(*store, Signal::STOP)?;
        }
        Ok(stores)
    }
}

/// Does something again and again.
fn repeat(long: Duration, mut act: impl FnMut() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < long {
        act()?;
    }
    Ok(())
}

/// Notes how long the guest's writes take while something is done.
fn note(figures: &mut Figures, phase: &str, writer: &Writer, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let mark = writer.mark()?;
    act()?;
    add(figures, phase, &writer.took_since(mark)?)
}

fn add(figures: &mut Figures, phase: &str, took: &[f64]) -> Result<()> {
    if took.is_empty() {
        bail!("the guest did not write ({phase})");
    }
    figures.add(&format!("p50 {phase}"), percentile(took, 50));
    figures.add(&format!("p99 {phase}"), percentile(took, 99));
    figures.add(&format!("writes {phase}"), took.len() as f64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_writer_says_is_read_and_ranked() {
        assert_eq!(took_ms("GUEST write 1500\r"), Some(1.5));
        assert_eq!(took_ms("GUEST ready"), None);
        let figures: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&figures, 50), percentile(&figures, 99)), (100.0, 198.0));
        assert_eq!(percentile(&[], 99), 0.0);
    }
}
