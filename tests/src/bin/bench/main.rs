//! How fast backups and restores are on this machine, beside what users would take instead, on the same content in the
//! same minutes. Prints tables and appends their rows to `bench/results.jsonl` of the build directory.
//!
//! `bench [--quick] [--gib N] [--rounds N] [--core | --disks | --only STEP]`: a disk of 10 GiB (or N) of which two fifths are filled, each
//! figure the median of N rounds (5); quick: 512 MiB, one round, without goals. Then the daemon alone in a large cloud; `--core`: only that,
//! `--disks`: all but that, `--only`: one step of it (`full`, `at-once`, `sparse`, `scratch`, `impact`: these need none before them;
//! `schedules`: the scheduler of a large cloud).
//!
//! What is compared: we back up *running VMs'* disks through the daemon, libvirt and QEMU. So do virtnbdbackup and the
//! staged way (libvirt writes a file, restic takes it in), each with a domain of its own. Stock restic and qemu-img are
//! given the same content as a raw file, which no VM uses. All read from the page cache and write to the same file system,
//! in turns, so that a slower minute of the machine hits all alike. Our first backup also makes the repository; `restic
//! init` is not counted. Machines differ, so ratios have goals and seconds have none.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod disks;
mod impact;
mod many;
mod processors;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use system_tests::bench::content::MIB;
use system_tests::bench::table::{self, Row};
use system_tests::bench::{core, population, schedules};
use system_tests::place;

use crate::disks::Bench;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Size of the disk. Goals are for the large one: on a smaller one the fixed costs of an increment weigh more.
    disk_bytes: u64,
    rounds: u64,
    goals: bool,
}

struct Wish {
    scale: Scale,
    disks: bool,
    core: bool,
    /// The scheduler of a large cloud.
    schedules: bool,
    /// One step of the disks' alone.
    only: Option<String>,
}

/// The step that is none of the disks'.
const SCHEDULES: &str = "schedules";

fn wish() -> Result<Wish> {
    let mut wish = Wish {
        scale: Scale { disk_bytes: 10 << 30, rounds: 5, goals: true },
        disks: true,
        core: true,
        schedules: true,
        only: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => wish.scale = Scale { disk_bytes: 512 * MIB, rounds: 1, goals: false },
            "--gib" => {
                let gib =
                    arguments.next().and_then(|text| text.parse::<u64>().ok()).filter(|gib| (1..=1024).contains(gib));
                wish.scale.disk_bytes = gib.context("--gib wants a number from 1 to 1024")? << 30;
            }
            "--rounds" => {
                let rounds = arguments.next().and_then(|text| text.parse().ok()).filter(|rounds| *rounds > 0);
                wish.scale.rounds = rounds.context("--rounds wants a number from 1 on")?;
            }
            "--only" => {
                let known = |word: &String| word == SCHEDULES || STEPS.iter().any(|(name, _)| name == word);
                let names = || STEPS.map(|step| step.0).join(", ");
                let step = arguments.next().filter(known);
                let step = step.with_context(|| format!("--only wants one of {}, {SCHEDULES}", names()))?;
                (wish.core, wish.schedules, wish.disks) = (false, step == SCHEDULES, step != SCHEDULES);
                wish.only = Some(step);
            }
            "--core" => wish.disks = false,
            "--disks" => (wish.core, wish.schedules) = (false, false),
            _ => bail!("usage: bench [--quick] [--gib N] [--rounds N] [--core | --disks | --only STEP]"),
        }
    }
    Ok(wish)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let wish = wish()?;
    let began = Instant::now();
    let home = place::cache("bench")?;
    let _alone = place::lock(&home.join("lock"))?;
    let folder = Folder::make(home.join("run"))?;
    let results = home.join("results.jsonl");
    if wish.disks {
        disks(&folder.0, &results, wish.scale, wish.only.as_deref())?;
    }
    if wish.core {
        println!("\nMaking a cloud of {} VMs.", population::VMS);
        let figures = core::run(&folder.0)?;
        table::append(&results, &figures.iter().map(core::Figure::json).collect::<Vec<_>>())?;
        print!("\n{}", core::render(&figures));
    }
    if wish.schedules {
        let scale = if wish.scale.goals { schedules::Scale::FULL } else { schedules::Scale::QUICK };
        println!("\nMaking {} VMs with two schedules each, and a year of {} days.", scale.vms, scale.days);
        // The year takes minutes.
        for step in [schedules::starts, schedules::year] {
            let figures = step(&folder.0, scale)?;
            table::append(&results, &figures.iter().map(core::Figure::json).collect::<Vec<_>>())?;
            print!("\n{}", core::render(&figures));
        }
    }
    println!("\n{} s in all; rows appended to {}", began.elapsed().as_secs(), results.display());
    Ok(())
}

type Step = fn(&mut Bench) -> Result<()>;

/// In their order: most go on with what the first two left. `full` and those from `sparse` on need nothing of others.
const STEPS: [(&str, Step); 10] = [
    ("full", Bench::full),
    ("increments", Bench::increments),
    ("restore", Bench::restore),
    ("verify", Bench::verify),
    ("off", Bench::powered_off),
    ("drop", Bench::drop_oldest),
    ("at-once", Bench::at_once),
    ("sparse", Bench::sparse),
    ("scratch", Bench::scratch),
    ("impact", Bench::impact),
];

/// Disks of VMs, beside others' ways.
fn disks(folder: &Path, results: &Path, scale: Scale, only: Option<&str>) -> Result<()> {
    let mut bench = Bench::start(folder, scale)?;
    let outcome = STEPS
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name))
        .try_for_each(|(_, step)| step(&mut bench));
    // What was measured before a failure is worth seeing.
    table::append(results, &bench.rows.iter().map(Row::json).collect::<Vec<_>>())?;
    println!("\n{}", header(scale));
    print!("\n{}", table::render(&bench.rows));
    outcome?;
    bench.stop()
}

fn header(scale: Scale) -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    format!(
        "A disk of {} MiB: a fifth random, a fifth text, the rest never written. {cpus} CPUs ({}). Medians of {}.\n\
         Ratio: theirs divided by ours in the same round; above 1x we are better.",
        scale.disk_bytes / MIB,
        model.trim_start_matches([' ', '\t', ':']),
        scale.rounds
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
