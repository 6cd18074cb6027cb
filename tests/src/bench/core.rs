//! The table "cloud core": how the daemon answers when its cloud is large. No libvirt, no disks: calls and documents.
//!
//! Load and daemon share the machine's processors, as they are. Goals are absolute here, for two processors of which
//! nobody else wants much; the daemon's processor time per call tells what a busier machine would hide. Beside our
//! figures stands no other's: none that was published for OpenNebula's core is known to us.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value as Json, json};

use super::cpu;
use super::load::{Client, Load, rate};
use super::population::{self, USERS, VMS};
use super::table::median;
use crate::daemon::{Daemon, Options};
use crate::rpc::Value;

const MIB: f64 = (1 << 20) as f64;
const CONNECTIONS: u64 = 8;
const PAGE: i64 = 200;

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    None,
}

/// One measured figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    work: String,
    value: f64,
    unit: &'static str,
    goal: Goal,
}

impl Figure {
    pub(super) fn new(work: &str, value: f64, unit: &'static str, goal: Goal) -> Self {
        Self { work: work.to_owned(), value: (value * 1e3).round() / 1e3, unit, goal }
    }

    fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::AtLeast(goal) => Some(self.value >= goal),
            Goal::AtMost(goal) => Some(self.value <= goal),
            Goal::None => None,
        }
    }

    /// As one line of the results file.
    #[must_use]
    pub fn json(&self) -> Json {
        let goal = match self.goal {
            Goal::AtLeast(goal) | Goal::AtMost(goal) => Some(goal),
            Goal::None => None,
        };
        json!({
            "bench": "cloud core", "work": self.work, "subject": "keeplast", "value": self.value, "unit": self.unit,
            "against": "no published figure found", "ratio": null, "goal": goal, "met": self.met(),
        })
    }
}

/// The figures for a terminal.
#[must_use]
pub fn render(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.work.chars().count()).max().unwrap_or(0);
    let line = |figure: &Figure| {
        let goal = match figure.goal {
            Goal::AtLeast(goal) => format!(">= {goal}"),
            Goal::AtMost(goal) => format!("<= {goal}"),
            Goal::None => "-".into(),
        };
        let met = figure.met().map_or("", |met| if met { "met" } else { "NOT MET" });
        let text = format!("{:<width$}  {:>8.2} {:<5}  {goal:>7}  {met}", figure.work, figure.value, figure.unit);
        text.trim_end().to_owned() + "\n"
    };
    let head = format!("{:<width$}  {:>8} {:<5}  {:>7}\n", "cloud core", "ours", "", "goal");
    let against = "against: no published figure found for OpenNebula's core\n";
    head + &figures.iter().map(line).collect::<String>() + against
}

/// Runs it below `folder`.
///
/// # Errors
/// When the daemon does not start or a call fails.
pub fn run(folder: &Path) -> Result<Vec<Figure>> {
    let state = folder.join("core");
    fs::create_dir_all(&state)?;
    // The hosts of this cloud do not exist; nobody is to look for them while we measure.
    let conf = "MONITORING_INTERVAL_HOST = 86400\nMONITORING_INTERVAL_DATASTORE = 86400\n".to_owned();
    let daemon = Daemon::start(Options { state: Some(state.clone()), conf, ..Options::default() })?;
    daemon.stop()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    population::fill(&state.join("one.db"), i64::try_from(now)?)?;
    let mut bench = Bench { daemon, figures: Vec::new() };
    let began = Instant::now();
    bench.daemon.restart()?;
    bench.add("start to the first answer", began.elapsed().as_secs_f64(), "s", Goal::AtMost(1.0));
    bench.add("resident memory, idle", bench.memory("VmRSS")?, "MiB", Goal::None);
    bench.single()?;
    bench.pages()?;
    bench.whole()?;
    bench.add("resident memory after all of that", bench.memory("VmRSS")?, "MiB", Goal::AtMost(200.0));
    bench.add("resident memory at its highest", bench.memory("VmHWM")?, "MiB", Goal::None);
    bench.daemon.stop()?;
    Ok(bench.figures)
}

struct Bench {
    daemon: Daemon,
    figures: Vec<Figure>,
}

/// An administrator or the `n`th user.
#[derive(Clone, Copy)]
enum Who {
    Admin,
    User(i64),
}

impl Bench {
    fn add(&mut self, work: &str, value: f64, unit: &'static str, goal: Goal) {
        self.figures.push(Figure::new(work, value, unit, goal));
    }

    fn session(&self, who: Who) -> Result<Value> {
        Ok(match who {
            Who::Admin => Value::Text(self.daemon.session()?),
            Who::User(number) => Value::Text(population::session(number)),
        })
    }

    /// A line of the process's status, in MiB.
    fn memory(&self, name: &str) -> Result<f64> {
        let pid = self.daemon.pid().context("the daemon does not run")?;
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {name}"))?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }

    fn single(&mut self) -> Result<()> {
        let endpoint = self.daemon.endpoint()?;
        let time = Duration::from_secs(4);
        let admin = self.session(Who::Admin)?;
        let goal = Goal::AtLeast(3000.0);
        let before = self.cpu_s()?;
        let as_admin = rate(&endpoint, CONNECTIONS, time, |client, thread, count| {
            let id = (count * CONNECTIONS + thread).wrapping_mul(6151) % u64::try_from(VMS)?;
            client.call("one.vm.info", &[admin.clone(), Value::Int(i64::try_from(id)?)]).map(drop)
        })?;
        self.add_rate("oneadmin", &as_admin, before, goal)?;
        let own: Vec<Vec<i64>> = (0..8).map(|thread| population::vms_of(thread * 17)).collect();
        let before = self.cpu_s()?;
        let as_user = rate(&endpoint, CONNECTIONS, time, |client, thread, count| {
            let number = i64::try_from(thread)? * 17;
            let own = own.get(usize::try_from(thread)?).context("no VMs")?;
            let id = own.get(usize::try_from(count)? % own.len()).context("no VM")?;
            client.call("one.vm.info", &[Value::Text(population::session(number)), Value::Int(*id)]).map(drop)
        })?;
        self.add_rate("8 ordinary users", &as_user, before, goal)?;
        let before = self.cpu_s()?;
        let many_users = rate(&endpoint, CONNECTIONS, time, |client, thread, count| {
            let vm = i64::try_from(count * CONNECTIONS + thread)?.wrapping_mul(6151) % VMS;
            let session = Value::Text(population::session(population::owner(vm)));
            client.call("one.vm.info", &[session, Value::Int(vm)]).map(drop)
        })?;
        self.add_rate(&format!("all {USERS} users"), &many_users, before, Goal::None)
    }

    /// Calls per second, and what one of them cost the daemon.
    fn add_rate(&mut self, who: &str, load: &Load, cpu_before: f64, goal: Goal) -> Result<()> {
        let cpu_ms = (self.cpu_s()? - cpu_before) * 1e3 / load.calls as f64;
        let work = format!("one.vm.info, {CONNECTIONS} connections, {who}");
        self.add(&work, load.per_second, "req/s", goal);
        self.add(&format!("{work}: daemon's processor time"), cpu_ms, "ms", Goal::None);
        Ok(())
    }

    /// Processor time of the daemon so far, seconds.
    fn cpu_s(&self) -> Result<f64> {
        cpu::of_process(&self.daemon.pid().context("the daemon does not run")?.to_string())
    }

    fn pages(&mut self) -> Result<()> {
        let cases = [
            ("first page, oneadmin", Who::Admin, 0),
            ("page from 5000, oneadmin", Who::Admin, 5000),
            ("last page, oneadmin", Who::Admin, VMS - PAGE),
            ("first page, user with few VMs", Who::User(3), 0),
            ("page from 10, user with few VMs", Who::User(3), 10),
        ];
        for (name, who, start) in cases {
            let before = self.cpu_s()?;
            let took = self.times(60, who, "one.vmpool.info", &[-2, start, -PAGE, -1])?;
            let cpu_ms = (self.cpu_s()? - before) * 1e3 / 60.0;
            let work = format!("one.vmpool.info of {PAGE}, {name}");
            self.add(&work, median(&took) * 1e3, "ms", Goal::AtMost(10.0));
            self.add(&format!("{work}: daemon's processor time"), cpu_ms, "ms", Goal::None);
        }
        let took = self.times(20, Who::Admin, "one.imagepool.info", &[-2, 5000, -PAGE])?;
        self.add(&format!("one.imagepool.info of {PAGE}, page from 5000"), median(&took) * 1e3, "ms", Goal::None);
        Ok(())
    }

    fn whole(&mut self) -> Result<()> {
        let all = [-2, -1, -1, -1];
        for (method, parameters, goal) in [
            ("one.vmpool.info", &all[..], Goal::None),
            ("one.vmpool.infoextended", &all[..], Goal::AtMost(1.5)),
            ("one.imagepool.info", &all[..3], Goal::None),
        ] {
            let before = self.cpu_s()?;
            let took = self.times(3, Who::Admin, method, parameters)?;
            let cpu_s = (self.cpu_s()? - before) / 3.0;
            self.add(&format!("{method} of all"), median(&took), "s", goal);
            self.add(&format!("{method} of all: daemon's processor time"), cpu_s, "s", Goal::None);
            let mut client = Client::new(&self.daemon.endpoint()?)?;
            let bytes = client.call(method, &self.parameters(Who::Admin, parameters)?)?.len() as f64;
            self.add(&format!("{method} of all, answer"), bytes / MIB, "MiB", Goal::None);
        }
        let session = self.parameters(Who::Admin, &all)?;
        let endpoint = self.daemon.endpoint()?;
        let began = Instant::now();
        rate(&endpoint, 4, Duration::from_secs(3), |client, _, _| {
            client.call("one.vmpool.infoextended", &session).map(drop)
        })?;
        self.add("one.vmpool.infoextended of all, 4 clients for 3 s", began.elapsed().as_secs_f64(), "s", Goal::None);
        Ok(())
    }

    fn parameters(&self, who: Who, numbers: &[i64]) -> Result<Vec<Value>> {
        let mut parameters = vec![self.session(who)?];
        parameters.extend(numbers.iter().map(|number| Value::Int(*number)));
        Ok(parameters)
    }

    /// Seconds that each of some calls took, one after the other.
    fn times(&self, count: usize, who: Who, method: &str, numbers: &[i64]) -> Result<Vec<f64>> {
        let parameters = self.parameters(who, numbers)?;
        let mut client = Client::new(&self.daemon.endpoint()?)?;
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            client.call(method, &parameters)?;
            took.push(began.elapsed().as_secs_f64());
        }
        Ok(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_a_least_or_a_most() {
        let figure = |value, goal| Figure { work: "a call".into(), value, unit: "ms", goal };
        assert_eq!(figure(9.0, Goal::AtMost(10.0)).met(), Some(true));
        assert_eq!(figure(9.0, Goal::AtLeast(10.0)).met(), Some(false));
        assert_eq!(figure(9.0, Goal::None).json()["met"], Json::Null);
        let text = render(&[figure(9.0, Goal::AtMost(10.0)), figure(9.0, Goal::AtLeast(10.0))]);
        assert!(text.contains("<= 10  met\n") && text.contains(">= 10  NOT MET\n"), "{text}");
        assert!(text.contains("no published figure found"), "{text}");
    }
}
