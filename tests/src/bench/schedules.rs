//! The scheduler in a large cloud, in this process: how long the question takes what is due, how long it takes to start a
//! thousand backups at once, and a simulated year whose times are compared with another way to count days.
//!
//! What is measured is the daemon's own code over its own database; there is no engine, so what is started stays a job. The
//! year's database is in memory where there is such a place: of a thousand waits for a disk nothing can be learnt here.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use one_core::refusal::Refusal;
use one_core::schedule::ScheduledAction;
use oned::api::Cloud;
use oned::api::bootstrap::bootstrap;
use oned::clock::ManualClock;
use oned::config::{Config, Overrides};
use oned::progress::Board;
use oned::scheduler::{self, Outcome, Starter};
use oned::secret::{KEY_FILE, SecretKey};
use oned::session::Sessions;
use oned::store::rows::ScheduleRow;
use oned::store::{JobFilter, Store, StoreError, Tx};
use oned::wake::Wake;
use serde_json::json;

use super::core::{Figure, Goal};
use super::population::{self, BACKUPS, EPOCH, FIRST_USER};
use super::table::median;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Summer time of central Europe in 2026, UTC.
const SUMMER: std::ops::Range<i64> = 1_774_746_000..1_792_890_000;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// VMs, each with two schedules.
    pub vms: i64,
    /// Actions that are due in the same second.
    pub at_once: i64,
    /// Days that are simulated.
    pub days: i64,
}

impl Scale {
    /// What the goals are for.
    pub const FULL: Self = Self { vms: population::VMS, at_once: 1000, days: 365 };
    /// A look whether it works.
    pub const QUICK: Self = Self { vms: 500, at_once: 100, days: 40 };
}

/// What is due, and many starts at once, on the disk below `folder`.
///
/// # Errors
/// When the database fails or an action is not started.
pub fn starts(folder: &Path, scale: Scale) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let place = folder.join("schedules");
    let bench = Bench::make(&place, scale)?;
    bench.due(&mut figures)?;
    bench.at_once(&mut figures)?;
    Ok(figures)
}

/// The simulated year, in memory if possible, else below `folder`.
///
/// # Errors
/// When the database fails, an action is not started, or one is planned for a wrong time.
pub fn year(folder: &Path, scale: Scale) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir_in(folder)? };
    Bench::make(place.path(), scale)?.year(&mut figures)?;
    Ok(figures)
}

struct Bench {
    cloud: Cloud,
    clock: Arc<ManualClock>,
    scale: Scale,
}

impl Bench {
    /// A cloud without limits and without engine.
    fn make(place: &Path, scale: Scale) -> Result<Self> {
        fs::create_dir_all(place)?;
        let overrides = Overrides { listen: None, state_dir: place.to_owned() };
        let mut config = Config::load(None, &overrides).context("the default configuration")?;
        config.timezone = "UTC".parse().map_err(|_| anyhow::anyhow!("there is no UTC"))?;
        (config.max_backups, config.max_backups_host) = (None, None);
        let clock = Arc::new(ManualClock::new(EPOCH));
        let cloud = Cloud {
            store: Store::open(&place.join("one.db"))?,
            clock: clock.clone(),
            config,
            secret: SecretKey::load_or_create(&place.join(KEY_FILE))?,
            board: Board::default(),
            wake: Wake::default(),
            run_dir: place.join("run"),
            endpoint: String::new(),
            sessions: Sessions::default(),
            desk: oned::examination::Desk::default(),
        };
        bootstrap(&cloud, "oneadmin", "a password of the bench")?;
        population::fill_store(&cloud.store, EPOCH, scale.vms, false)?;
        cloud.store.write(|tx| {
            for vm in 0..scale.vms {
                for plan in [Plan::daily(vm), Plan::monthly(vm, scale.vms)] {
                    store(tx, &plan, vm)?;
                }
            }
            tx.reserve_ids("schedule", 2 * scale.vms)
        })?;
        Ok(Self { cloud, clock, scale })
    }

    fn due(&self, figures: &mut Vec<Figure>) -> Result<()> {
        // The first is before anything is due, the second when those of one hour are.
        for (time, goal) in [(EPOCH, Goal::AtMost(5.0)), (EPOCH + 12 * HOUR + 1, Goal::None)] {
            let mut took = Vec::new();
            let mut count = 0;
            for _ in 0..200 {
                let began = Instant::now();
                count = self.cloud.store.read(|tx| tx.schedules_due(time - 1))?.len();
                took.push(began.elapsed().as_secs_f64() * 1e3);
            }
            let work = format!("what is due of {} schedules: {count}", 2 * self.scale.vms);
            figures.push(Figure::new(&work, median(&took), "ms", goal));
        }
        Ok(())
    }

    fn at_once(&self, figures: &mut Vec<Figure>) -> Result<()> {
        let due = EPOCH - DAY;
        self.cloud.store.write(|tx| {
            for vm in 0..self.scale.at_once {
                store(tx, &Plan { time: due, ..Plan::daily(vm) }, vm)?;
            }
            Ok::<_, StoreError>(())
        })?;
        self.clock.set(due);
        let mut took = Vec::new();
        for _ in 0..50 {
            let began = Instant::now();
            self.cloud.store.read(|tx| tx.schedules_due(due))?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let work = format!("what is due of {} schedules: {}", 2 * self.scale.vms, self.scale.at_once);
        figures.push(Figure::new(&work, median(&took), "ms", Goal::AtMost(5.0)));
        let began = Instant::now();
        scheduler::tick(&self.cloud);
        let took = began.elapsed().as_secs_f64();
        let jobs = i64::try_from(self.cloud.store.read(|tx| tx.jobs_open(JobFilter::Kind("BACKUP")))?.len())?;
        ensure!(jobs == self.scale.at_once, "of {} backups {jobs} were started", self.scale.at_once);
        let work = format!("{jobs} backups due at once, from due to all jobs written");
        figures.push(Figure::new(&work, took, "s", Goal::AtMost(2.0)));
        Ok(())
    }

    fn year(&self, figures: &mut Vec<Figure>) -> Result<()> {
        let plans: Vec<Plan> = (0..self.scale.vms)
            .map(Plan::daily)
            .chain((0..self.scale.vms).map(|vm| Plan::monthly(vm, self.scale.vms)))
            .collect();
        let starter = AtOnce { seen: RefCell::new(Seen { plans, runs: 0, wrong: Vec::new() }) };
        let end = EPOCH + self.scale.days * DAY;
        let began = Instant::now();
        let mut time = EPOCH;
        while time < end {
            self.clock.set(time);
            scheduler::round(&self.cloud, &starter);
            time += HOUR / 2;
        }
        let took = began.elapsed().as_secs_f64();
        let seen = starter.seen.into_inner();
        ensure!(seen.wrong.is_empty(), "{}", seen.wrong.join("\n"));
        // Whatever should have run has moved on.
        let late = seen.plans.iter().filter(|plan| plan.time < end).count();
        ensure!(late == 0, "{late} schedules did not run when they should have");
        let work = format!("{} days of {} VMs, {} runs: ", self.scale.days, self.scale.vms, seen.runs);
        figures.push(Figure::new(&(work.clone() + "in all"), took / 60.0, "min", Goal::AtMost(5.0)));
        figures.push(Figure::new(&(work + "each"), took * 1e6 / seen.runs.max(1) as f64, "us", Goal::None));
        Ok(())
    }
}

/// A schedule, and its next time as somebody would count it who knows nothing but days.
#[derive(Debug, Clone)]
struct Plan {
    id: i64,
    /// The next planned time, UTC.
    time: i64,
    /// Local seconds after midnight.
    time_of_day: i64,
    /// Only on the first of a month.
    monthly: bool,
    /// In central Europe; else UTC.
    europe: bool,
}

impl Plan {
    fn daily(vm: i64) -> Self {
        let europe = vm % 2 == 1;
        let hour = vm % 24;
        // Nothing is planned in the hour that is missing in one night and comes twice in another.
        let hour = if hour == 2 { 4 } else { hour };
        Self { id: vm, time: 0, time_of_day: hour * HOUR, monthly: false, europe }.after(EPOCH - 1)
    }

    /// Half an hour after the daily one: each VM does one thing at a time.
    fn monthly(vm: i64, vms: i64) -> Self {
        let daily = Self::daily(vm);
        Self { id: vms + vm, time_of_day: daily.time_of_day + HOUR / 2, monthly: true, ..daily }.after(EPOCH - 1)
    }

    /// The same, planned for its first time strictly after `time`: one day after the other is looked at.
    fn after(mut self, time: i64) -> Self {
        let mut day = time.div_euclid(DAY) - 1;
        self.time = loop {
            let local = day * DAY + self.time_of_day;
            let utc = if !self.europe {
                local
            } else if SUMMER.contains(&(local - 2 * HOUR)) {
                local - 2 * HOUR
            } else {
                local - HOUR
            };
            if utc > time && (!self.monthly || is_first_of_month(day)) {
                break utc;
            }
            day += 1;
        };
        self
    }
}

/// Whether so many days after 1970-01-01 a month begins.
fn is_first_of_month(day: i64) -> bool {
    let (mut first, mut year) = (0, 1970);
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for days in [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if first >= day {
                return first == day;
            }
            first += days;
        }
        year += 1;
    }
}

fn store(tx: &mut Tx<'_>, plan: &Plan, vm: i64) -> Result<(), StoreError> {
    let body = json!({
        "id": plan.id, "parent_id": vm, "parent": "Vm", "action": "backup", "args": BACKUPS.to_string(), "time": plan.time,
        "time_of_day": null, "repeat": if plan.monthly { "Monthly" } else { "Weekly" },
        "days": if plan.monthly { vec![1] } else { vec![0, 1, 2, 3, 4, 5, 6] }, "end": "Never", "done": null,
        "message": "", "warning": 0, "timezone": if plan.europe { "Europe/Berlin" } else { "UTC" },
    });
    let row = ScheduleRow {
        id: plan.id,
        vm_id: Some(vm),
        backup_job_id: None,
        uid: FIRST_USER + population::owner(vm),
        body: body.to_string(),
        datastore_id: Some(BACKUPS),
        due_at: Some(plan.time),
        not_before: 0,
        refusals: 0,
        failures: 0,
        retry_at: None,
        closes_at: None,
        retry_until: None,
        planned_at: None,
    };
    if tx.schedule_find(row.id)?.is_some() { tx.schedule_update(&row) } else { tx.schedule_insert(&row) }
}

struct Seen {
    /// By id.
    plans: Vec<Plan>,
    runs: u64,
    wrong: Vec<String>,
}

/// Accepts whatever is due, and compares its time with what it should be.
struct AtOnce {
    seen: RefCell<Seen>,
}

impl Starter for AtOnce {
    fn start(
        &self,
        _cloud: &Cloud,
        _tx: &mut Tx<'_>,
        row: &ScheduleRow,
        action: &ScheduledAction,
        now: i64,
    ) -> Result<Outcome, Refusal> {
        let mut seen = self.seen.borrow_mut();
        let Seen { plans, runs, wrong } = &mut *seen;
        let plan = usize::try_from(row.id).ok().and_then(|id| plans.get_mut(id));
        match plan {
            Some(plan) if plan.time == action.time && action.time == now => *plan = plan.clone().after(now),
            other if wrong.len() < 10 => {
                wrong.push(format!("schedule {}: {} at {now} instead of {other:?}", row.id, action.time));
            }
            _ => {}
        }
        *runs += 1;
        Ok(Outcome::Started)
    }

    // Nobody else writes.
    fn give_way(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_they_do() {
        let firsts: Vec<i64> =
            (20_454..20_454 + 366).filter(|day| is_first_of_month(*day)).map(|day| day - 20_454).collect();
        assert_eq!(firsts, [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365]);
    }

    #[test]
    fn a_night_of_23_hours_is_counted_as_one() {
        let plan = Plan { id: 0, time: 0, time_of_day: 4 * HOUR, monthly: false, europe: true };
        let before = plan.after(SUMMER.start - DAY);
        let after = before.clone().after(before.time);
        assert_eq!(after.time - before.time, 23 * HOUR);
    }
}
