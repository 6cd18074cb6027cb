//! BACKUP_CONFIG: how a VM is backed up, and where its active chain stands.
//!
//! What it is: the values behind the attribute, its defaults, and the rules of `one.vm.updateconf`. User keys are
//! BACKUP_VOLATILE, FS_FREEZE, KEEP_LAST, MODE, INCREMENT_MODE, DISK_IDS, INTERACTIVE and (ours) FS_FREEZE_FAIL; all
//! others belong to the daemon and are ignored in what a user sends.
//!
//! The published document has no place for our own keys: [`split`] takes them out for BACKUP_INFO.
//!
//! Invariants: INCREMENT_MODE is present only when the VM can do increments; a VM without BACKUP_CONFIG has an empty
//! one and behaves like MODE=FULL; the chain pointers are both −1 or both set.

use serde::{Deserialize, Serialize};

use super::disks::Disks;
use crate::refusal::Refusal;
use crate::schedule::SCHED_INFO;
use crate::template::Vector;

/// Keys that a user may set.
pub const USER_KEYS: [&str; 8] = [
    "BACKUP_VOLATILE",
    "DISK_IDS",
    "FS_FREEZE",
    "FS_FREEZE_FAIL",
    "INCREMENT_MODE",
    "INTERACTIVE",
    "KEEP_LAST",
    "MODE",
];

/// Keys that OpenNebula does not have: what to do when the guest cannot be quieted, and what is to be said of the last
/// backup.
const OUR_KEYS: [&str; 3] = ["FS_FREEZE_FAIL", "LAST_REASON", "LAST_WARNING"];

/// The vector in a VM's USER_TEMPLATE that shows what BACKUP_CONFIG has no place for.
pub const BACKUP_INFO: &str = "BACKUP_INFO";

/// The key in it that says when the last backup ended that gave a restore point, epoch seconds. It is not stored with the
/// others.
pub const LAST_SUCCESS: &str = "LAST_SUCCESS";

/// The vectors in a VM's USER_TEMPLATE that show what was last done to it.
pub const BACKUP_EVENT: &str = "BACKUP_EVENT";

/// The vector in a VM's USER_TEMPLATE and an image's TEMPLATE that says how far a transfer is, and those that say it of each
/// disk.
pub const PROGRESS: &str = "PROGRESS";
/// As [`PROGRESS`], of one disk.
pub const DISK_PROGRESS: &str = "DISK_PROGRESS";

/// Vectors in a USER_TEMPLATE that only show, so that what a client sends of them is not stored.
pub const SHOWN_ONLY: [&str; 5] = [BACKUP_EVENT, BACKUP_INFO, SCHED_INFO, PROGRESS, DISK_PROGRESS];

/// Splits a stored BACKUP_CONFIG into what the published document shows of it and what BACKUP_INFO does.
pub fn split(stored: &Vector) -> (Vector, Vector) {
    let part = |ours: bool| stored.iter().filter(|(key, _)| OUR_KEYS.contains(key) == ours).collect();
    (part(false), part(true))
}

/// Puts what [`split`] made two of together again, as far as it is the user's.
pub fn join(shown: &Vector, info: Option<&Vector>) -> Vector {
    let ours = info.into_iter().flat_map(Vector::iter);
    let ours = ours.filter(|(key, _)| USER_KEYS.contains(key) && OUR_KEYS.contains(key));
    shown.iter().chain(ours).collect()
}

/// MODE: what a backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Each backup stands alone.
    #[default]
    Full,
    /// Backups form a chain.
    Increment,
}

impl Mode {
    /// The wire form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Increment => "INCREMENT",
        }
    }

    /// INCREMENT in any case; everything else is FULL.
    fn from_value(value: &str) -> Self {
        if value.eq_ignore_ascii_case("INCREMENT") { Self::Increment } else { Self::Full }
    }
}

/// FS_FREEZE: how the guest is made quiet around the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsFreeze {
    /// Not at all: the backup is what a power cut would leave.
    #[default]
    None,
    /// The agent in the guest freezes file systems.
    Agent,
    /// The VM is paused.
    Suspend,
}

impl FsFreeze {
    /// The wire form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Agent => "AGENT",
            Self::Suspend => "SUSPEND",
        }
    }

    /// AGENT and SUSPEND in any case; everything else is NONE.
    fn from_value(value: &str) -> Self {
        if value.eq_ignore_ascii_case("AGENT") {
            Self::Agent
        } else if value.eq_ignore_ascii_case("SUSPEND") {
            Self::Suspend
        } else {
            Self::None
        }
    }
}

/// FS_FREEZE_FAIL: what becomes of a backup whose guest cannot be made quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FreezeFail {
    /// It is made all the same, and its increment says that it is what a power cut would leave.
    #[default]
    Continue,
    /// It fails.
    Abort,
}

impl FreezeFail {
    /// The wire form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abort => "ABORT",
        }
    }

    /// ABORT in any case; everything else is CONTINUE.
    fn from_value(value: &str) -> Self {
        if value.eq_ignore_ascii_case("ABORT") { Self::Abort } else { Self::Continue }
    }
}

/// INCREMENT_MODE: how changes are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IncrementMode {
    /// Changed block tracking: a dirty bitmap lists them, and only they are read.
    #[default]
    Cbt,
    /// No record of changes is kept: whole disks are read and compared with the restore point before, and what differs is
    /// stored. Nothing is left in the guest's images, so it works for raw disks too.
    Snapshot,
}

impl IncrementMode {
    /// The wire form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cbt => "CBT",
            Self::Snapshot => "SNAPSHOT",
        }
    }

    /// SNAPSHOT in any case; everything else is CBT.
    fn from_value(value: &str) -> Self {
        if value.eq_ignore_ascii_case("SNAPSHOT") { Self::Snapshot } else { Self::Cbt }
    }
}

/// The BACKUP_CONFIG of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupConfig {
    /// Has the VM one? Without, documents show an empty element.
    pub present: bool,
    /// Include volatile (`fs`) disks.
    pub backup_volatile: bool,
    /// Quiescing.
    pub fs_freeze: FsFreeze,
    /// What to do when that fails.
    pub freeze_fail: FreezeFail,
    /// How many to keep, never negative; `None` (no such key) and `Some(0)` both keep all. See [`Self::keep`].
    pub keep_last: Option<i64>,
    /// Full or increments.
    pub mode: Mode,
    /// Present only when the VM can do increments.
    pub increment_mode: Option<IncrementMode>,
    /// Only these disks, ascending; empty for all.
    pub disk_ids: Vec<i64>,
    /// Data is pulled by a third party. Kept and shown; [`super::plan()`] refuses it.
    pub interactive: bool,
    /// Image id of the active chain, −1 none.
    pub incremental_backup_id: i64,
    /// Last increment in it, −1 none.
    pub last_increment_id: i64,
    /// The backup job that the VM is in.
    pub backup_job_id: Option<i64>,
    /// Only during a backup: its datastore.
    pub last_datastore_id: Option<i64>,
    /// Only during a backup: the id that the datastore driver gave.
    pub last_backup_id: Option<String>,
    /// Only during a backup: its size, MB.
    pub last_backup_size: Option<i64>,
    /// Are increments being merged? Blocks backups and the deletion of the image.
    pub active_flatten: bool,
    /// Why the last backup was a full one, or read everything; empty for what needs no reason.
    pub last_reason: String,
    /// What did not go as it should in it.
    pub last_warning: String,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            present: false,
            backup_volatile: false,
            fs_freeze: FsFreeze::None,
            freeze_fail: FreezeFail::Continue,
            keep_last: None,
            mode: Mode::Full,
            increment_mode: None,
            disk_ids: Vec::new(),
            interactive: false,
            incremental_backup_id: -1,
            last_increment_id: -1,
            backup_job_id: None,
            last_datastore_id: None,
            last_backup_id: None,
            last_backup_size: None,
            active_flatten: false,
            last_reason: String::new(),
            last_warning: String::new(),
        }
    }
}

impl BackupConfig {
    /// Reads what [`Self::to_vector`] wrote, the daemon's keys included. Never use it on what a user sent:
    /// [`Self::for_new_vm`].
    ///
    /// Bad values fall back: numbers to −1, words to their default, ids in DISK_IDS are dropped.
    pub fn from_vector(stored: &Vector) -> Self {
        let id = |key| stored.int(key).filter(|id| *id >= 0);
        let mut config = Self {
            present: USER_KEYS.iter().any(|key| stored.get(key).is_some()),
            increment_mode: stored.get("INCREMENT_MODE").map(IncrementMode::from_value),
            incremental_backup_id: id("INCREMENTAL_BACKUP_ID").unwrap_or(-1),
            last_increment_id: id("LAST_INCREMENT_ID").unwrap_or(-1),
            backup_job_id: id("BACKUP_JOB_ID"),
            last_datastore_id: id("LAST_DATASTORE_ID"),
            last_backup_id: stored.get("LAST_BACKUP_ID").map(str::to_owned),
            last_backup_size: stored.int("LAST_BACKUP_SIZE"),
            active_flatten: stored.yes("ACTIVE_FLATTEN").unwrap_or(false),
            last_reason: stored.get("LAST_REASON").unwrap_or_default().to_owned(),
            last_warning: stored.get("LAST_WARNING").unwrap_or_default().to_owned(),
            ..Self::default()
        };
        config.take_words(stored);
        config.disk_ids = parse_ids(stored.get("DISK_IDS").unwrap_or("")).flatten().collect();
        config.disk_ids.sort_unstable();
        config.disk_ids.dedup();
        config
    }

    /// The configuration of a VM being created, from the BACKUP_CONFIG of its template (`None`: it has none).
    ///
    /// A VM that cannot do increments silently gets MODE=FULL. Refused: DISK_IDS naming disks that cannot be backed up.
    pub fn for_new_vm(given: Option<&Vector>, disks: &Disks) -> Result<Self, Refusal> {
        let mut config = Self::default();
        if let Some(given) = given.filter(|vector| !vector.is_empty()) {
            config.apply(given, true, disks)?;
            config.settle(disks);
        }
        Ok(config)
    }

    /// What `one.vm.updateconf` does with the BACKUP_CONFIG in its text (call it only when there is one).
    ///
    /// `replace`: keys not given get their defaults; else only keys given change. Keys of the daemon are ignored. A
    /// changed MODE, DISK_IDS or BACKUP_VOLATILE resets the chain pointers; a changed INCREMENT_MODE does not. Refused
    /// (INTERNAL): MODE=INCREMENT, or an INCREMENT_MODE in it, for a VM that cannot do such increments; DISK_IDS with a disk
    /// that cannot be backed up; INTERACTIVE with INCREMENT_MODE=SNAPSHOT. A refusal changes nothing.
    pub fn update(&mut self, given: &Vector, replace: bool, disks: &Disks) -> Result<(), Refusal> {
        if !replace && !USER_KEYS.iter().any(|key| given.get(key).is_some()) {
            return Ok(());
        }
        self.change(given, replace, true, disks)
    }

    /// What a backup job does just before it backs the VM up: [`Self::update`] by append, but a VM that cannot do the
    /// increments that the job asks for gets MODE=FULL instead of a refusal, as a new VM would: better a full backup
    /// than none.
    pub fn update_from_job(&mut self, given: &Vector, disks: &Disks) -> Result<(), Refusal> {
        self.change(given, false, false, disks)
    }

    fn change(&mut self, given: &Vector, replace: bool, strict: bool, disks: &Disks) -> Result<(), Refusal> {
        let mut next = self.clone();
        next.apply(given, replace, disks)?;
        let asked = ["MODE", "INCREMENT_MODE"].iter().any(|key| given.get(key).is_some());
        if strict && asked && next.mode == Mode::Increment {
            disks.can_increment(&next)?;
        }
        next.settle(disks);
        let other_disks = next.disk_ids != self.disk_ids || next.backup_volatile != self.backup_volatile;
        if next.mode != self.mode || other_disks {
            next.reset_chain();
        }
        *self = next;
        Ok(())
    }

    /// Applies what is known of the VM now: one that can no longer do increments gets MODE=FULL, loses its chain
    /// pointers and INCREMENT_MODE; one that can has an INCREMENT_MODE. To be called after disks or snapshots
    /// changed.
    pub fn settle(&mut self, disks: &Disks) {
        if disks.can_increment(self).is_ok() {
            self.increment_mode = Some(self.increment_mode.unwrap_or_default());
        } else {
            self.mode = Mode::Full;
            self.increment_mode = None;
            self.reset_chain();
        }
    }

    /// Number to keep; 0 keeps all.
    pub fn keep(&self) -> i64 {
        self.keep_last.unwrap_or(0).max(0)
    }

    /// The active chain: its image and last increment, when there is one.
    pub fn chain(&self) -> Option<(i64, i64)> {
        (self.incremental_backup_id >= 0 && self.last_increment_id >= 0)
            .then_some((self.incremental_backup_id, self.last_increment_id))
    }

    /// Makes the next backup start a new chain.
    pub fn reset_chain(&mut self) {
        self.incremental_backup_id = -1;
        self.last_increment_id = -1;
    }

    /// Points to the increment that a backup has just made.
    pub fn advance_chain(&mut self, image: i64, increment: i64) {
        self.incremental_backup_id = image;
        self.last_increment_id = increment;
    }

    /// Does the VM keep a record of what changes between its increments?
    pub fn tracks(&self) -> bool {
        self.increment_mode.unwrap_or_default() == IncrementMode::Cbt
    }

    /// What is to be said of the backup that was made.
    pub fn note(&mut self, reason: &str, warning: &str) {
        self.last_reason = reason.to_owned();
        self.last_warning = warning.to_owned();
    }

    /// A backup begins.
    pub fn begin_backup(&mut self, datastore: i64) {
        self.end_backup();
        self.last_datastore_id = Some(datastore);
    }

    /// A backup ended, either way: what is kept only during one is dropped.
    pub fn end_backup(&mut self) {
        self.last_datastore_id = None;
        self.last_backup_id = None;
        self.last_backup_size = None;
    }

    /// The VM comes into a backup job, whose backups lie elsewhere; the next one starts a new chain.
    pub fn join_job(&mut self, job: i64) {
        self.backup_job_id = Some(job);
        self.reset_chain();
    }

    /// The VM leaves its backup job; the next backup starts a new chain.
    pub fn leave_job(&mut self) {
        self.backup_job_id = None;
        self.reset_chain();
    }

    /// For storage, and after [`split`] for documents; keys sorted. Empty for a VM without BACKUP_CONFIG, a chain or a backup under way.
    pub fn to_vector(&self) -> Vector {
        let mut keys: Vec<(&str, String)> = Vec::new();
        if self.present || self.chain().is_some() {
            keys.push(("INCREMENTAL_BACKUP_ID", self.incremental_backup_id.to_string()));
            keys.push(("LAST_INCREMENT_ID", self.last_increment_id.to_string()));
        }
        if self.present {
            keys.push(("BACKUP_VOLATILE", yes_no(self.backup_volatile)));
            keys.push(("FS_FREEZE", self.fs_freeze.as_str().into()));
            if self.freeze_fail != FreezeFail::Continue {
                keys.push(("FS_FREEZE_FAIL", self.freeze_fail.as_str().into()));
            }
            keys.push(("MODE", self.mode.as_str().into()));
            keys.extend(self.keep_last.map(|keep| ("KEEP_LAST", keep.to_string())));
            keys.extend(self.increment_mode.map(|mode| ("INCREMENT_MODE", mode.as_str().into())));
            if !self.disk_ids.is_empty() {
                keys.push(("DISK_IDS", self.disk_ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")));
            }
            if self.interactive {
                keys.push(("INTERACTIVE", yes_no(true)));
            }
        }
        keys.extend(self.backup_job_id.map(|id| ("BACKUP_JOB_ID", id.to_string())));
        keys.extend(self.last_datastore_id.map(|id| ("LAST_DATASTORE_ID", id.to_string())));
        keys.extend(self.last_backup_id.clone().map(|id| ("LAST_BACKUP_ID", id)));
        keys.extend(self.last_backup_size.map(|size| ("LAST_BACKUP_SIZE", size.to_string())));
        if self.active_flatten {
            keys.push(("ACTIVE_FLATTEN", yes_no(true)));
        }
        for (key, text) in [("LAST_REASON", &self.last_reason), ("LAST_WARNING", &self.last_warning)] {
            if !text.is_empty() {
                keys.push((key, text.clone()));
            }
        }
        keys.sort_unstable_by_key(|(key, _)| *key);
        keys.into_iter().collect()
    }

    /// Takes the user keys; `replace` first puts all of them to their defaults.
    fn apply(&mut self, given: &Vector, replace: bool, disks: &Disks) -> Result<(), Refusal> {
        if replace {
            let fresh = Self::default();
            self.backup_volatile = fresh.backup_volatile;
            self.fs_freeze = fresh.fs_freeze;
            self.freeze_fail = fresh.freeze_fail;
            self.keep_last = fresh.keep_last;
            self.mode = fresh.mode;
            self.increment_mode = fresh.increment_mode;
            self.disk_ids = fresh.disk_ids;
            self.interactive = fresh.interactive;
        }
        self.present = true;
        self.take_words(given);
        if let Some(value) = given.get("INCREMENT_MODE") {
            self.increment_mode = Some(IncrementMode::from_value(value));
        }
        if let Some(value) = given.get("DISK_IDS") {
            self.disk_ids = checked_ids(value, self.backup_volatile, disks)?;
        }
        if self.interactive && self.increment_mode == Some(IncrementMode::Snapshot) {
            let text = "INTERACTIVE backups cannot use INCREMENT_MODE SNAPSHOT, use CBT";
            return Err(Refusal::Internal(text.into()));
        }
        Ok(())
    }

    /// The keys that need no look at the VM.
    fn take_words(&mut self, given: &Vector) {
        if given.get("BACKUP_VOLATILE").is_some() {
            self.backup_volatile = given.yes("BACKUP_VOLATILE").unwrap_or(false);
        }
        if let Some(value) = given.get("FS_FREEZE") {
            self.fs_freeze = FsFreeze::from_value(value);
        }
        if let Some(value) = given.get("FS_FREEZE_FAIL") {
            self.freeze_fail = FreezeFail::from_value(value);
        }
        if let Some(value) = given.get("KEEP_LAST") {
            // A value that is no number counts as absent; an empty one removes the key.
            self.keep_last = value.trim().parse().ok().map(|keep: i64| keep.max(0));
        }
        if let Some(value) = given.get("MODE") {
            self.mode = Mode::from_value(value);
        }
        if given.get("INTERACTIVE").is_some() {
            self.interactive = given.yes("INTERACTIVE").unwrap_or(false);
        }
    }
}

fn yes_no(value: bool) -> String {
    if value { "YES".into() } else { "NO".into() }
}

/// The items of a list of ids: `Ok(id)` or the text that is none. Blanks and empty items are skipped.
fn parse_ids(text: &str) -> impl Iterator<Item = Result<i64, String>> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| item.parse().map_err(|_| item.to_owned()))
}

fn checked_ids(text: &str, volatile: bool, disks: &Disks) -> Result<Vec<i64>, Refusal> {
    let mut ids = Vec::new();
    for item in parse_ids(text) {
        match item {
            Ok(id) if disks.can_back_up(id, volatile) => ids.push(id),
            Ok(id) => return Err(bad_disk(&id.to_string())),
            Err(word) => return Err(bad_disk(&word)),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn bad_disk(item: &str) -> Refusal {
    // The text may be long and is the user's; the sentence need not be.
    Refusal::InvalidDiskIds { disk: item.chars().take(32).collect() }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
