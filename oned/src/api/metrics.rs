//! Figures for monitoring, in the text format of Prometheus (version 0.0.4): one look at the database, rendered.
//!
//! Names end in their unit (seconds, bytes), as Prometheus wants them. Times of what never was are 0. docs/metrics.md has them
//! all.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use one_core::access::Caller;
use one_core::refusal::Refusal;

use super::Cloud;
use crate::job::JobKind;
use crate::store::rows::DatastoreRow;
use crate::store::{ScheduleFigures, StoreError, VmFigures};

/// An action is overdue when it is due for this long, seconds: longer than one that only waits its turn for a moment.
const OVERDUE_S: i64 = 300;

/// What is told.
struct Figures {
    now: i64,
    vms: Vec<VmFigures>,
    datastores: Vec<DatastoreRow>,
    jobs: Vec<(String, bool)>,
    schedules: ScheduleFigures,
}

/// `GET /metrics`; none for who is no administrator.
///
/// # Errors
/// The database's failure.
pub fn metrics(cloud: &Cloud, caller: &Caller) -> Result<Option<String>, Refusal> {
    if !caller.is_admin() {
        return Ok(None);
    }
    let now = cloud.clock.now();
    let figures = cloud.store.read(|tx| {
        Ok::<_, StoreError>(Figures {
            now,
            vms: tx.vm_figures()?,
            datastores: tx.datastore_list()?,
            jobs: tx.job_kinds_open()?,
            schedules: tx.schedule_figures(now, now.saturating_sub(OVERDUE_S))?,
        })
    })?;
    Ok(Some(text(&figures)))
}

/// One metric after the other, all samples of each together, as the format demands.
struct Exposition(String);

impl Exposition {
    /// Begins a metric whose values go up and down.
    fn gauge(&mut self, name: &'static str, help: &str) -> Gauge<'_> {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        Gauge { name, text: &mut self.0 }
    }
}

struct Gauge<'a> {
    name: &'static str,
    text: &'a mut String,
}

impl Gauge<'_> {
    /// A sample without labels.
    fn is(&mut self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// A sample; `labels` is what [`label`] made, with commas between.
    fn of(&mut self, labels: &str, value: impl Display) {
        let _ = writeln!(self.text, "{}{{{labels}}} {value}", self.name);
    }
}

/// A label with its value, in which backslash, quote and line feed are escaped.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

fn text(figures: &Figures) -> String {
    let mut out = Exposition(String::with_capacity(4096 + 400 * figures.vms.len()));
    let version = label("version", env!("CARGO_PKG_VERSION"));
    out.gauge("keeplast_build_info", "The daemon's version; always 1.").of(&version, 1);
    vms(&mut out, figures);
    datastores(&mut out, &figures.datastores);
    jobs(&mut out, &figures.jobs);
    let ScheduleFigures { overdue, refused } = figures.schedules;
    let help = "Scheduled actions that have been due for more than five minutes and did not run.";
    out.gauge("keeplast_schedules_overdue", help).is(overdue);
    let help = "Scheduled actions that are due and were refused when they were last tried.";
    out.gauge("keeplast_schedules_refused", help).is(refused);
    out.0
}

fn vms(out: &mut Exposition, figures: &Figures) {
    let labels: Vec<String> = figures
        .vms
        .iter()
        .map(|vm| format!("{},{}", label("vm_id", &vm.vm_id.to_string()), label("name", &vm.name)))
        .collect();
    let all = || figures.vms.iter().zip(&labels);
    let help = "When the last backup of a VM that gave a restore point ended; 0 = there was none.";
    let mut gauge = out.gauge("keeplast_vm_last_backup_success_timestamp_seconds", help);
    all().for_each(|(vm, labels)| gauge.of(labels, vm.last_success));
    let help = "How long ago that was; for a VM without a backup, how long ago it was made.";
    let mut gauge = out.gauge("keeplast_vm_last_backup_age_seconds", help);
    for (vm, labels) in all() {
        let since = if vm.last_success > 0 { vm.last_success } else { vm.stime };
        gauge.of(labels, figures.now.saturating_sub(since).max(0));
    }
    let help = "Backups of a VM that failed since the last one that gave a restore point.";
    let mut gauge = out.gauge("keeplast_vm_backup_failures_since_success", help);
    all().for_each(|(vm, labels)| gauge.of(labels, vm.failures));
}

/// One of the sizes of a datastore, MB.
type SizeMb = fn(&DatastoreRow) -> i64;

fn datastores(out: &mut Exposition, rows: &[DatastoreRow]) {
    const TYPES: [&str; 4] = ["image", "system", "file", "backup"];
    let kind = |row: &DatastoreRow| usize::try_from(row.kind).ok().and_then(|kind| TYPES.get(kind).copied());
    let all: Vec<(String, &DatastoreRow)> = rows
        .iter()
        .map(|row| {
            let id = label("datastore_id", &row.id.to_string());
            let labels = format!("{id},{},{}", label("name", &row.name), label("type", kind(row).unwrap_or_default()));
            (labels, row)
        })
        .collect();
    let metrics: [(&str, &str, SizeMb); 3] = [
        ("keeplast_datastore_total_bytes", "Size of what a datastore lies on.", |row| row.total_mb),
        ("keeplast_datastore_free_bytes", "What is free of it.", |row| row.free_mb),
        ("keeplast_datastore_used_bytes", "What the datastore itself uses of it.", |row| row.used_mb),
    ];
    for (name, help, value) in metrics {
        let mut gauge = out.gauge(name, help);
        all.iter().for_each(|(labels, row)| gauge.of(labels, value(row).saturating_mul(1 << 20)));
    }
}

fn jobs(out: &mut Exposition, open: &[(String, bool)]) {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    // Told also when there is none, so that a rule about it has something to look at.
    kinds.insert(JobKind::Backup.as_str(), 0);
    for (kind, _) in open {
        *kinds.entry(kind.as_str()).or_default() += 1;
    }
    let mut gauge = out.gauge("keeplast_jobs_open", "Jobs of the daemon that wait or run, by kind.");
    kinds.iter().for_each(|(kind, count)| gauge.of(&label("kind", kind), count));
    let running = open.iter().filter(|(kind, begun)| *begun && kind == JobKind::Backup.as_str()).count();
    out.gauge("keeplast_backups_running", "Backups that were begun and have not ended.").is(running);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_end_a_label_is_escaped_in_it() {
        assert_eq!(label("name", "a\\b\"c\nd}"), "name=\"a\\\\b\\\"c\\nd}\"");
    }
}
