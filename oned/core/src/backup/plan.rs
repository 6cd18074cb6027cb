//! The plan of one backup: full or increment, of which disks, into which datastore, and why.
//!
//! What it is: the decision, as data. It is stored with the job, so that a run that was cut off goes on with the same
//! decision. What it is not: the checks that need other objects (rights, quota, VM state, the datastore's type and free
//! space); [`Plan::size_mb`] is there for the last.

use serde::{Deserialize, Serialize};

use super::audit::Audit;
use super::config::{BackupConfig, FreezeFail, FsFreeze, Mode};
use super::disks::{Disk, Disks};
use crate::refusal::{ObjectKind, Refusal};

/// Why an increment reads everything when no record of changes is kept.
const SNAPSHOT_REASON: &str =
    "INCREMENT_MODE is SNAPSHOT: whole disks were read, and what differs from the restore point before was stored";

/// The facts that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The VM, for messages.
    pub vm: i64,
    /// Its configuration.
    pub config: &'a BackupConfig,
    /// Its disks.
    pub disks: &'a Disks,
    /// The chain that the configuration points to; `None` when there is none, or when its image is gone.
    pub chain: Option<&'a Chain>,
    /// The datastore that the caller asked for; −1 none.
    pub datastore: i64,
    /// Start a new chain?
    pub reset: bool,
    /// Every how many runs of a chain whole disks are compared; 0 = never.
    pub compare_every: u32,
}

/// The active chain as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its image.
    pub image_id: i64,
    /// Where it lives.
    pub datastore_id: i64,
    /// Its last increment.
    pub last_increment: i64,
    /// The restore point that this increment made (SOURCE), opaque.
    pub last_point: String,
    /// The hypervisor's checkpoint that this increment left, if it is known to be there.
    pub checkpoint: Option<String>,
    /// The disks that the chain holds; empty when not recorded.
    pub disk_ids: Vec<i64>,
    /// Is the image READY (not locked by a merge)?
    pub ready: bool,
    /// What the last increment says about comparisons of whole disks.
    pub audit: Audit,
    /// Did the last verification find damage in the last increment?
    pub damaged: bool,
}

/// What the backup will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Where it goes: the chain's datastore for an increment, else the one asked for.
    pub datastore_id: i64,
    /// Full or increment.
    pub kind: PlanKind,
    /// The disks, ascending. May be empty: then only the VM's description is kept.
    pub disk_ids: Vec<i64>,
    /// Leave a checkpoint, so that the next increment need not read everything?
    pub track: bool,
    /// How the guest is made quiet.
    pub freeze: FsFreeze,
    /// What becomes of the backup when that fails.
    #[serde(default)]
    pub freeze_fail: FreezeFail,
    /// Sum of the disks' sizes in MB: the room and quota to ask for.
    pub size_mb: i64,
}

/// Full or increment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanKind {
    /// All data, in a new image.
    Full {
        /// Is it the first of a chain (MODE=INCREMENT), or a backup that stands alone?
        new_chain: bool,
        /// Why not an increment, for the log and the increment's record.
        reason: String,
    },
    /// What changed, as another increment of a chain.
    Increment {
        /// The chain's image.
        image_id: i64,
        /// The increment before this one.
        parent_increment: i64,
        /// Its restore point, opaque.
        parent_point: String,
        /// The checkpoint to read changes since; `None` when it is lost: then all is read and only differences are
        /// stored.
        since_checkpoint: Option<String>,
        /// Read whole disks all the same, and compare: a look whether the record of changes tells the truth.
        #[serde(default)]
        compare: bool,
        /// Why all is read although nothing is lost, for the increment's record; empty when that is not so.
        #[serde(default)]
        reason: String,
    },
}

/// Decides what the next backup of a VM is. Order of the checks as in `one.vm.backup`.
///
/// Refused: a merge of increments runs (INTERNAL); the VM has FILESYSTEM disks (ACTION); INTERACTIVE, which this daemon
/// does not have (ACTION); none of the disks of DISK_IDS can be backed up (ACTION); the chain's image does not exist
/// (NO_EXISTS). `reset` does not touch the configuration: the old chain stays the active one until the new one exists.
pub fn plan(input: PlanInput<'_>) -> Result<Plan, Refusal> {
    let config = input.config;
    let flattening = config.active_flatten
        || config.mode == Mode::Increment && !input.reset && input.chain.is_some_and(|chain| !chain.ready);
    if flattening {
        return Err(Refusal::Consolidating { vm: input.vm });
    }
    if input.disks.has_filesystem() {
        return Err(Refusal::FilesystemDisks { vm: input.vm });
    }
    if config.interactive {
        let text = "Interactive backups are not supported, set INTERACTIVE=NO in BACKUP_CONFIG";
        return Err(Refusal::Action(text.into()));
    }
    let chosen = input.disks.chosen(config);
    if chosen.is_empty() && !config.disk_ids.is_empty() {
        let text = "None of the disks in DISK_IDS can be backed up, change DISK_IDS in BACKUP_CONFIG";
        return Err(Refusal::Action(text.into()));
    }
    let disk_ids: Vec<i64> = chosen.iter().map(|disk| disk.id).collect();
    let kind = kind(&input, &disk_ids)?;
    let datastore_id = match (&kind, input.chain) {
        (PlanKind::Increment { .. }, Some(chain)) => chain.datastore_id,
        _ => input.datastore,
    };
    let chained = matches!(kind, PlanKind::Increment { .. } | PlanKind::Full { new_chain: true, .. });
    Ok(Plan {
        datastore_id,
        kind,
        disk_ids,
        track: chained && config.tracks(),
        freeze: config.fs_freeze,
        freeze_fail: config.freeze_fail,
        size_mb: total(&chosen),
    })
}

fn kind(input: &PlanInput<'_>, disk_ids: &[i64]) -> Result<PlanKind, Refusal> {
    let full = |new_chain, reason: &str| Ok(PlanKind::Full { new_chain, reason: reason.to_owned() });
    if input.config.mode == Mode::Full {
        return full(false, "backup mode is FULL");
    }
    if let Err(obstacle) = input.disks.can_increment(input.config) {
        return full(false, &Refusal::from(obstacle).to_string());
    }
    if input.reset {
        return full(true, "a new chain was requested");
    }
    let Some((image, increment)) = input.config.chain() else {
        return full(true, "the VM has no active chain");
    };
    let Some(chain) = input.chain else {
        return Err(Refusal::NoSuch { kind: ObjectKind::Image, id: image });
    };
    if !chain.disk_ids.is_empty() && sorted(&chain.disk_ids) != disk_ids {
        return full(true, "the disks of the backup have changed");
    }
    if chain.last_increment != increment || chain.image_id != image {
        return full(true, "the chain does not end where the VM says it does");
    }
    if chain.damaged {
        return full(true, "verification found damage in the last restore point of the chain");
    }
    let tracks = input.config.tracks();
    Ok(PlanKind::Increment {
        image_id: chain.image_id,
        parent_increment: chain.last_increment,
        parent_point: chain.last_point.clone(),
        since_checkpoint: chain.checkpoint.clone().filter(|_| tracks),
        compare: tracks && chain.audit.is_due(input.compare_every),
        reason: if tracks { String::new() } else { SNAPSHOT_REASON.to_owned() },
    })
}

fn sorted(ids: &[i64]) -> Vec<i64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn total(disks: &[&Disk]) -> i64 {
    disks.iter().fold(0, |sum: i64, disk| sum.saturating_add(disk.size_mb.max(0)))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
