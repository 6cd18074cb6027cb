//! Torture: backups of several VMs at once while oned, libvirtd, QEMUs and datastores' processes are killed at random.
//!
//! A run is a number of rounds, each drawn from a seed of its own ([`plan`]); its moments are as the machine makes them, so
//! a seed repeats what was done, not every race. After each round everything must have come to rest by itself: the
//! invariants of every story hold, a backup that nothing killed has made a point, and points hold what the disk was at one
//! moment of their backup ([`history`]). The only hand that is lent: what was killed is started again, and a VM that is
//! seen to be off is resumed.

pub mod history;
pub mod plan;
pub mod points;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::bench::content::Numbers;
use crate::cloud::Cloud;
use crate::command::wait_for;
use crate::daemon::Options;
use crate::invariants;
use crate::rpc::Answer;
use plan::{Act, Round, VMS, Victim};
use points::{Point, PointId};
use writer::{Disk, now_ms};

/// Size of each VM's disk.
const DISK_BYTES: usize = 16 << 20;
/// What a datastore takes in a second, so that kills fall into copies.
const LIMIT_MB_S: u64 = 8;
/// KEEP_LAST in the beginning.
const KEEP: i64 = 4;
/// What the daemon says when libvirt holds a domain.
const HELD: &str = "power the VM off and resume it";
/// How long backups may take to end, and VMs to be seen as off.
const PATIENCE: Duration = Duration::from_secs(300);

/// The VMs, their datastores, and what is known of them.
#[derive(Debug)]
pub struct Torture {
    cloud: Cloud,
    machines: Vec<Machine>,
    tally: Tally,
}

#[derive(Debug)]
struct Machine {
    id: i64,
    domain: String,
    datastore: i64,
    disk: Disk,
    points: BTreeMap<PointId, Known>,
    /// The least KEEP_LAST that a backup of this round may have seen, and the one that is set now.
    keep_least: i64,
    keep: i64,
    /// libvirtd was killed since its QEMU was started, perhaps while it began a backup. It then holds the domain for that
    /// backup until QEMU ends, and all that the daemon can do is say so.
    may_be_held: bool,
}

/// A point and the moments of the disk between which it was taken.
#[derive(Debug, Clone)]
struct Known {
    point: Point,
    from: usize,
    to: usize,
}

/// What was done to one VM in a round.
#[derive(Debug, Clone, Default)]
struct Done {
    /// A backup was asked for; `Some(true)` = and accepted, `Some(false)` = the answer was lost.
    asked: Option<bool>,
    cancelled: bool,
    killed: bool,
    deleted: bool,
    /// What the VM's owner finds when its backup is over. Resuming the VM clears it.
    error: String,
}

/// Counts over all rounds.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Rounds that went well.
    pub rounds: u64,
    /// Backups that were accepted.
    pub backups: u64,
    /// Points that came of them.
    pub points: u64,
    /// Points whose content was judged, in all.
    pub judged: u64,
    /// Times that libvirt held a domain for a backup that it had begun when it was killed.
    pub held: u64,
    /// Kills, by victim.
    pub kills: BTreeMap<String, u64>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills: Vec<String> = self.kills.iter().map(|(victim, count)| format!("{victim} {count}")).collect();
        write!(
            f,
            "{} rounds: {} backups, {} points, {} contents compared; killed: {}; held by libvirt: {}",
            self.rounds,
            self.backups,
            self.points,
            self.judged,
            kills.join(", "),
            self.held
        )
    }
}

impl Torture {
    /// Starts the cloud: two VMs that are backed up with restic, one into plain files.
    ///
    /// # Errors
    /// When any step fails.
    pub fn start() -> Result<Self> {
        let conf = "LOG = [ DEBUG_LEVEL = 3 ]\nMONITORING_INTERVAL_HOST = 20\n".to_owned();
        let cloud = Cloud::start(Options { conf, ..Options::default() })?;
        let limit = format!("LIMIT_MB_S = \"{LIMIT_MB_S}\"\n");
        let limited = [cloud.datastore.into(), limit.as_str().into(), 1.into()];
        cloud.one.call("one.datastore.update", &limited)?.id()?;
        let text = format!("NAME = \"plain\"\nTYPE = \"BACKUP_DS\"\nDS_MAD = \"nfs\"\nTM_MAD = \"-\"\n{limit}");
        let plain = cloud.one.create("onedatastore", &text, &[])?;
        let mut machines = Vec::new();
        for number in 0..VMS {
            let datastore = if number + 1 < VMS { cloud.datastore } else { plain };
            let config = format!("MODE = \"INCREMENT\", KEEP_LAST = \"{KEEP}\"");
            let id = cloud.blank_vm(&format!("victim-{number}"), &DISK_BYTES.to_string(), &config)?;
            let domain = format!("one-{id}");
            let disk = Disk::new(&domain, DISK_BYTES);
            machines.push(Machine {
                id,
                domain,
                datastore,
                disk,
                points: BTreeMap::new(),
                keep_least: KEEP,
                keep: KEEP,
                may_be_held: false,
            });
        }
        Ok(Self { cloud, machines, tally: Tally::default() })
    }

    /// What has been done so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// One round; what became of it, in a line.
    ///
    /// # Errors
    /// With the first promise that was broken.
    pub fn round(&mut self, seed: u64) -> Result<String> {
        let round = Round::of(seed);
        let begun = Instant::now();
        let began_s = now_ms() / 1000;
        let before: Vec<usize> =
            self.machines.iter().map(|machine| machine.disk.with_history(|h| h.newest())).collect();
        let done = self.strike(&round, seed).with_context(|| format!("{round}"))?;
        let outcome = self.look_after(&round, &done).and_then(|()| {
            invariants::settle(&self.cloud)?;
            self.all_are_where_they_should_be()?;
            self.count_points(&round, &done, &before, began_s)
        });
        let told = outcome.with_context(|| format!("{round}"))?;
        self.read_some(&round)?;
        self.tally.rounds += 1;
        for victim in round.victims() {
            let name = match victim {
                Victim::Guest(_) => "a guest".to_owned(),
                Victim::Store(_) => "a datastore's process".to_owned(),
                other => other.to_string(),
            };
            *self.tally.kills.entry(name).or_default() += 1;
        }
        Ok(format!("{round}: {told}, {:.1} s", begun.elapsed().as_secs_f64()))
    }

    /// Judges all points that there are, and ends the daemon in good order.
    ///
    /// # Errors
    /// When one is wrong, or the daemon does not end well.
    pub fn finish(mut self) -> Result<Tally> {
        for at in 0..self.machines.len() {
            for id in self.machines[at].points.keys().copied().collect::<Vec<_>>() {
                self.judge(at, id, false)?;
            }
        }
        self.cloud.one.stop()?;
        invariants::no_process_is_left(&self.cloud.one)?;
        Ok(self.tally)
    }

    /// Copies what tells how a failure came about: logs and the database.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn keep_evidence(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let state = self.cloud.one.state();
        let mut files = vec![self.cloud.libvirtd.log(), self.cloud.one.log()];
        files.extend(["oned.log", "one.db", "one.db-wal"].map(|name| state.join(name)));
        files.extend(self.machines.iter().map(|machine| self.cloud.libvirtd.domain_log(&machine.domain)));
        for file in files.into_iter().filter(|file| file.exists()) {
            fs::copy(&file, folder.join(file.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }

    /// Does what the round says while the guests write, and waits for the end of all backups.
    fn strike(&mut self, round: &Round, seed: u64) -> Result<Vec<Done>> {
        let stop = AtomicBool::new(false);
        let mut done = vec![Done::default(); VMS];
        let mut keeps = Vec::new();
        let this = &*self;
        let disks: Vec<&Disk> = this.machines.iter().map(|machine| &machine.disk).collect();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| writer::write_until(&stop, &this.cloud.libvirtd, &disks, seed));
            let struck = this.act_all(round, &mut done, &mut keeps);
            stop.store(true, Ordering::Release);
            let written = writer.join().unwrap_or_else(|_| Err(anyhow!("the writer panicked")));
            struck.and(written)
        })?;
        let libvirtd = round.victims().any(|victim| victim == Victim::Libvirtd);
        for (machine, done) in self.machines.iter_mut().zip(&done) {
            machine.keep_least = machine.keep;
            machine.may_be_held = libvirtd || machine.may_be_held && !done.killed;
        }
        for (vm, keep) in keeps {
            let machine = &mut self.machines[vm];
            machine.keep_least = machine.keep.min(keep);
            machine.keep = keep;
        }
        Ok(done)
    }

    fn act_all(&self, round: &Round, done: &mut [Done], keeps: &mut Vec<(usize, i64)>) -> Result<()> {
        let began = Instant::now();
        for (at, act) in &round.acts {
            std::thread::sleep(Duration::from_millis(*at).saturating_sub(began.elapsed()));
            self.act(act, round, done, keeps).with_context(|| act.to_string())?;
        }
        let mut last = String::new();
        wait_for("the end of all backups", PATIENCE, || {
            for (machine, done) in self.machines.iter().zip(done.iter_mut()) {
                let vm = self.cloud.one.vm(machine.id)?;
                done.error = vm.text("USER_TEMPLATE/ERROR").to_owned();
                if vm.text("STATE") == "3" && ["69", "70"].contains(&vm.text("LCM_STATE")) {
                    last = format!("VM {} is in {}", machine.id, vm.text("LCM_STATE"));
                    std::thread::sleep(Duration::from_millis(100));
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .with_context(|| last)
    }

    fn act(&self, act: &Act, round: &Round, done: &mut [Done], keeps: &mut Vec<(usize, i64)>) -> Result<()> {
        let one = &self.cloud.one;
        match *act {
            Act::Keep { vm, keep } => {
                let text = format!("BACKUP_CONFIG = [ MODE = \"INCREMENT\", KEEP_LAST = \"{keep}\" ]");
                one.call("one.vm.updateconf", &[self.machines[vm].id.into(), text.as_str().into(), 1.into()])?.id()?;
                keeps.push((vm, keep));
            }
            Act::DeleteOldest(vm) => {
                let images = self.cloud.backup_images(self.machines[vm].id)?;
                if images.len() > 1 {
                    let oldest = images.into_iter().min().context("no image")?;
                    one.call("one.image.delete", &[oldest.into()])?.id()?;
                    done[vm].deleted = true;
                }
            }
            Act::Backup { vm, reset } => {
                let machine = &self.machines[vm];
                let answer = one.call("one.vm.backup", &[machine.id.into(), machine.datastore.into(), reset.into()]);
                match answer {
                    Ok(Answer::Done(_)) => done[vm].asked = Some(true),
                    // A guest that was killed is in no state to be backed up.
                    Ok(_) if round.victims().any(|victim| victim == Victim::Guest(vm)) => {}
                    Ok(other) => bail!("{other:?}"),
                    // The daemon was killed, perhaps in the middle of this call.
                    Err(_) if round.victims().any(|victim| victim == Victim::Oned) => done[vm].asked = Some(false),
                    Err(error) => return Err(error),
                }
            }
            Act::Cancel(vm) => {
                // It may be too late, or too early, or nobody may be there to listen.
                let answer = one.call("one.vm.backupcancel", &[self.machines[vm].id.into()]);
                done[vm].cancelled |= !matches!(answer, Ok(Answer::Refused { .. }));
            }
            Act::Kill(Victim::Oned) => one.kill9()?,
            Act::Kill(Victim::Libvirtd) => self.cloud.libvirtd.kill9()?,
            Act::Kill(Victim::Guest(vm)) => {
                // One that was off all the time has none.
                if let Ok(pid) = self.cloud.libvirtd.domain_pid(&self.machines[vm].domain) {
                    kill(pid);
                    done[vm].killed = true;
                }
            }
            Act::Kill(Victim::Store(store)) => {
                let processes = one.datastore_processes()?;
                processes.get(store % processes.len().max(1)).copied().into_iter().for_each(kill);
            }
            Act::Start(Victim::Oned) => one.restart()?,
            Act::Start(Victim::Libvirtd) => self.cloud.libvirtd.restart()?,
            Act::Start(_) => {}
        }
        Ok(())
    }

    /// Finds what killed guests left on their disks, and resumes those that are off, unless they are to stay so.
    fn look_after(&self, round: &Round, done: &[Done]) -> Result<()> {
        for (machine, done) in self.machines.iter().zip(done) {
            if done.killed {
                self.cloud.one.wait_vm(machine.id, 8, 0).context("a killed guest is not seen to be off")?;
                let file = self.cloud.one.state().join(format!("datastores/0/{}/disk.0", machine.id));
                let content = points::raw_of(&file, &self.cloud.work.path().join("found"))?;
                machine.disk.with_history(|history| history.found(&content, now_ms()));
                machine.disk.set_running(false);
            }
        }
        if round.stays_off { Ok(()) } else { self.resume_all_off() }
    }

    fn all_are_where_they_should_be(&self) -> Result<()> {
        for machine in &self.machines {
            let (state, domain) = if machine.disk.runs() { ("3", "running") } else { ("8", "shut off") };
            let vm = self.cloud.one.vm(machine.id)?;
            let seen = self.cloud.libvirtd.virsh(&["domstate", &machine.domain])?;
            if vm.text("STATE") != state || seen != domain {
                bail!("VM {} is in state {} and its domain {seen}, not {domain}", machine.id, vm.text("STATE"));
            }
        }
        Ok(())
    }

    /// Finds the points that came and those that went; what happened, in words.
    fn count_points(&mut self, round: &Round, done: &[Done], before: &[usize], began_s: i64) -> Result<String> {
        let mut told = Vec::new();
        for at in 0..self.machines.len() {
            let (id, newest) = (self.machines[at].id, self.machines[at].disk.with_history(|h| h.newest()));
            let now = points::points_of(&self.cloud, id)?;
            let came: Vec<PointId> =
                now.keys().filter(|id| !self.machines[at].points.contains_key(id)).copied().collect();
            self.none_went_too_early(at, &now, &done[at])?;
            let machine = &mut self.machines[at];
            machine.points.retain(|id, _| now.contains_key(id));
            for (id, point) in &now {
                let known = machine.points.entry(*id).or_insert_with(|| {
                    let surely = machine.disk.with_history(|history| history.surely_before(point.date));
                    Known { point: point.clone(), from: before[at].max(surely), to: newest }
                });
                // Merged and repacked, a point may get another name; what it holds stays.
                known.point = point.clone();
            }
            told.push(self.verdict(at, round, &done[at], &came, began_s)?);
            for id in came {
                self.judge(at, id, false)?;
            }
        }
        Ok(told.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", "))
    }

    /// Whether the backup of a VM ended as it may.
    fn verdict(&mut self, at: usize, round: &Round, done: &Done, came: &[PointId], began_s: i64) -> Result<String> {
        let machine = &self.machines[at];
        let error = &done.error;
        self.tally.backups += u64::from(done.asked == Some(true));
        self.tally.points += came.len() as u64;
        if came.len() > usize::from(done.asked.is_some()) {
            bail!("VM {}: {} points came of {:?}", machine.id, came.len(), done.asked);
        }
        if let [id] = came {
            let point = &machine.points[id].point;
            if point.date + 1 < began_s || point.date > now_ms() / 1000 {
                bail!("VM {}: point {id:?} is dated {}, the round began at {began_s}", machine.id, point.date);
            }
            let kind = if point.full { "full" } else { "increment" };
            let warned = if point.warning.is_empty() { "" } else { " with a warning" };
            return Ok(format!("{at}: {kind}{warned}"));
        }
        if done.asked != Some(true) {
            return Ok(String::new());
        }
        let in_its_way = |victim: Victim| victim == Victim::Libvirtd || victim == Victim::Guest(at);
        if machine.may_be_held && error.contains(HELD) {
            self.power_cycle(at)?;
            return Ok(format!("{at}: held by libvirt, switched off and on"));
        }
        if !done.cancelled && !round.victims().any(in_its_way) {
            bail!("VM {}: nothing stood in the way of its backup, which made no point: {error:?}", machine.id);
        }
        if !error.contains("BACKUP: ") {
            bail!("VM {}: its backup failed and does not say why: {error:?}", machine.id);
        }
        let reason = error.split_once("BACKUP: ").map_or(error.as_str(), |(_, reason)| reason);
        Ok(format!("{at}: failed ({reason})"))
    }

    /// What a person would do who reads that a backup failed because libvirt holds the domain.
    fn power_cycle(&mut self, at: usize) -> Result<()> {
        let machine = &mut self.machines[at];
        self.cloud.one.ok("onevm", &["poweroff", &machine.id.to_string(), "--hard", "--wait"])?;
        machine.disk.set_running(false);
        machine.may_be_held = false;
        self.tally.held += 1;
        self.resume_all_off()
    }

    fn resume_all_off(&self) -> Result<()> {
        for machine in self.machines.iter().filter(|machine| !machine.disk.runs()) {
            self.cloud.one.ok("onevm", &["resume", &machine.id.to_string(), "--wait"])?;
            machine.disk.set_running(true);
        }
        Ok(())
    }

    /// A point goes only when KEEP_LAST says so, or when its image was deleted.
    fn none_went_too_early(&self, at: usize, now: &BTreeMap<PointId, Point>, done: &Done) -> Result<()> {
        let machine = &self.machines[at];
        let keep = machine.keep_least as usize;
        let images: BTreeSet<i64> = now.keys().map(|(image, _)| *image).collect();
        for (image, increment) in machine.points.keys().filter(|id| !now.contains_key(id)) {
            let left: Vec<i64> = now.keys().filter(|(other, _)| other == image).map(|(_, id)| *id).collect();
            let newer_images = images.iter().filter(|other| *other > image).count();
            let expired = match left.first() {
                None => newer_images >= keep || done.deleted,
                Some(first) => first > increment && left.len() >= keep,
            };
            if !expired {
                bail!(
                    "VM {}: increment {increment} of image {image} is gone; KEEP_LAST is {keep}, and there are {:?}",
                    machine.id,
                    now.keys()
                );
            }
        }
        for image in images {
            let first = now.range((image, 0)..).next();
            if first.is_some_and(|(id, point)| id.0 == image && !point.full) {
                bail!("VM {}: the first point of image {image} is not called FULL", machine.id);
            }
        }
        Ok(())
    }

    /// Reads one point of each VM again; now and then through the daemon.
    fn read_some(&mut self, round: &Round) -> Result<()> {
        let mut numbers = Numbers::new(round.reading);
        for at in 0..self.machines.len() {
            let ids: Vec<PointId> = self.machines[at].points.keys().copied().collect();
            if ids.is_empty() {
                continue;
            }
            let id = ids[numbers.draw() as usize % ids.len()];
            let by_daemon = numbers.draw().is_multiple_of(4);
            self.judge(at, id, by_daemon)?;
            let machine = &self.machines[at];
            let needed = machine.points.values().map(|known| known.from).min().unwrap_or(0);
            machine.disk.with_history(|history| history.forget_before(needed));
        }
        Ok(())
    }

    fn judge(&mut self, at: usize, id: PointId, by_daemon: bool) -> Result<()> {
        let machine = &mut self.machines[at];
        let what = format!("VM {}: increment {} of image {}", machine.id, id.1, id.0);
        let known = machine.points.get_mut(&id).context("no such point")?;
        let content = if by_daemon {
            points::restore(&self.cloud, id, &format!("again-{}-{}-{}", id.0, id.1, self.tally.judged))
        } else {
            points::read(&self.cloud, machine.datastore, &known.point)
        };
        let content = content.with_context(|| what.clone())?;
        let moment = machine.disk.with_history(|history| history.judge(&content, known.from, known.to));
        let moment = moment.with_context(|| format!("{what}, of {}, is wrong", known.point.date))?;
        // From now on it must stay just that.
        (known.from, known.to) = (moment, moment);
        self.tally.judged += 1;
        Ok(())
    }
}

fn kill(pid: i32) {
    // It may have ended by itself.
    if let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, Signal::KILL).ok();
    }
}
