//! What the template of a backup job says.

use std::collections::BTreeSet;

use one_core::refusal::Refusal;
use one_core::schedule::RETRY;
use one_core::template::{Template, Vector};

use crate::api::{owned, view};
use crate::job::Origin;
use crate::store::rows::BackupJobRow;

/// Most VMs of one job.
const VMS_MAX: usize = 10_000;
/// Most that RETRY can be.
const RETRY_MAX: i64 = 10;
/// Attributes that are columns or rows of their own, or the daemon's.
pub(super) const OWN: [&str; 6] = ["NAME", "PRIORITY", "SCHED_ACTION", "ERROR", "SCHED_INFO", "BACKUP_EVENT"];
/// What is written into BACKUP_CONFIG of each VM.
const OF_VMS: [&str; 7] =
    ["BACKUP_VOLATILE", "DISK_IDS", "FS_FREEZE", "FS_FREEZE_FAIL", "INCREMENT_MODE", "KEEP_LAST", "MODE"];

/// What a run does with a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// One VM at a time.
    pub sequential: bool,
    /// The backup datastore; −1 = none is named.
    pub datastore: i64,
    /// Whether each backup begins a new chain.
    pub reset: bool,
    /// What becomes part of the VM's BACKUP_CONFIG.
    pub config: Vector,
}

impl Course {
    /// From a stored template.
    #[must_use]
    pub fn read(template: &Template) -> Self {
        let said = OF_VMS.iter().filter_map(|name| Some((*name, template.scalar(name)?)));
        Self {
            sequential: template.scalar("EXECUTION") != Some("PARALLEL"),
            datastore: template.int("DATASTORE_ID").unwrap_or(-1),
            reset: template.yes("RESET").unwrap_or(false),
            config: said.collect(),
        }
    }
}

/// Why backups of a run are made.
#[must_use]
pub fn origin(backup_job_id: i64, schedule_id: Option<i64>) -> Origin {
    Origin::BackupJob { id: backup_job_id, schedule_id }
}

/// The VMs of a stored job, in the order of their backups.
pub(super) fn vms_of(row: &BackupJobRow) -> Vec<i64> {
    // Normalised before it was stored, so it reads.
    numbers(&view::stored(&row.template), "BACKUP_VMS", VMS_MAX).unwrap_or_default()
}

fn wrong<T>(name: &str, text: &str, must: &str) -> Result<T, Refusal> {
    let text: String = text.chars().take(64).collect();
    Err(Refusal::Internal(format!("Wrong {name} value: {text}, it must be {must}.")))
}

/// Puts attributes into the form that documents show, with what holds when they are left out; gives the VMs back, in the
/// order of their backups, each once. Attributes that mean nothing here are a user's own and stay.
pub(super) fn normalise(template: &mut Template) -> Result<Vec<i64>, Refusal> {
    let vms = numbers(template, "BACKUP_VMS", VMS_MAX)?;
    template.set("BACKUP_VMS", vms.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
    let words: [(&str, &[&str]); 3] = [
        ("EXECUTION", &["SEQUENTIAL", "PARALLEL"]),
        ("FS_FREEZE", &["NONE", "AGENT", "SUSPEND"]),
        ("MODE", &["FULL", "INCREMENT"]),
    ];
    for (name, known) in words {
        word(template, name, known)?;
    }
    let rarer: [(&str, &[&str]); 2] =
        [("FS_FREEZE_FAIL", &["CONTINUE", "ABORT"]), ("INCREMENT_MODE", &["CBT", "SNAPSHOT"])];
    for (name, known) in rarer.into_iter().filter(|(name, _)| template.contains(name)).collect::<Vec<_>>() {
        word(template, name, known)?;
    }
    let volatile = template.yes("BACKUP_VOLATILE").unwrap_or(false);
    template.set("BACKUP_VOLATILE", if volatile { "YES" } else { "NO" });
    if template.contains("RESET") {
        let reset = template.yes("RESET").unwrap_or(false);
        template.set("RESET", if reset { "YES" } else { "NO" });
    }
    let keep = scalar(template, "KEEP_LAST");
    match keep.trim().parse::<i64>() {
        Ok(keep) => template.set("KEEP_LAST", keep.max(0).to_string()),
        Err(_) if keep.trim().is_empty() => template.set("KEEP_LAST", "0"),
        Err(_) => return wrong("KEEP_LAST", &keep, "a number"),
    }
    if template.contains("RETRY") {
        let retry = scalar(template, "RETRY");
        match retry.trim().parse::<i64>() {
            Ok(times) if (0..=RETRY_MAX).contains(&times) => template.set("RETRY", times.to_string()),
            Err(_) if retry.trim().is_empty() => template.set("RETRY", RETRY.to_string()),
            _ => return wrong("RETRY", &retry, &format!("a number from 0 to {RETRY_MAX}")),
        }
    }
    if template.contains("DISK_IDS") {
        let disks = numbers(template, "DISK_IDS", VMS_MAX)?;
        template.set("DISK_IDS", owned::id_list(disks));
    }
    let datastore = scalar(template, "DATASTORE_ID").trim().to_owned();
    match datastore.parse::<u32>() {
        _ if datastore.is_empty() => drop(template.remove("DATASTORE_ID")),
        Ok(id) => template.set("DATASTORE_ID", id.to_string()),
        Err(_) => return wrong("DATASTORE_ID", &datastore, "the id of a datastore"),
    }
    Ok(vms)
}

fn scalar(template: &Template, name: &str) -> String {
    template.scalar(name).unwrap_or_default().to_owned()
}

/// One of the known words in any case; the first when nothing is said.
fn word(template: &mut Template, name: &str, known: &[&str]) -> Result<(), Refusal> {
    let said = scalar(template, name);
    let said = said.trim();
    let found = known.iter().find(|word| said.is_empty() || word.eq_ignore_ascii_case(said));
    match found {
        Some(word) => template.set(name, *word),
        None => return wrong(name, said, &known.join(" or ")),
    }
    Ok(())
}

/// A comma list of ids, each once, in its order.
fn numbers(template: &Template, name: &str, most: usize) -> Result<Vec<i64>, Refusal> {
    let text = scalar(template, name);
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        match item.parse::<u32>() {
            Ok(id) if seen.insert(id) => ids.push(i64::from(id)),
            Ok(_) => {}
            Err(_) => return wrong(name, item, "a list of ids with commas"),
        }
        if ids.len() > most {
            return Err(Refusal::Internal(format!("{name} can hold at most {most} ids.")));
        }
    }
    Ok(ids)
}
