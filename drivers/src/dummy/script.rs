//! What a dummy driver shall do wrong, and how slowly: a list of rules, from a file or from code.
//!
//! ```json
//! {
//!   "rules": [
//!     { "operation": "deploy", "of": "one-7", "call": 2, "fail": { "kind": "retry", "reason": "the host is busy" } },
//!     { "operation": "store", "delay_ms": 1500 },
//!     { "operation": "seal", "when": "after", "fail": { "kind": "permanent", "reason": "the answer was lost" } },
//!     { "operation": "restore", "until_cancelled": true }
//!   ],
//!   "lost_bitmaps": ["one-7-42"],
//!   "unmarked": [{ "disk": 0, "offset": 65536, "length": 65536 }],
//!   "facts": { "cpus": 4 }
//! }
//! ```
//!
//! It is data only; [`super::gate`] acts on it. Nothing in it is ignored: an unknown word is an error when it is read.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{DriverError, Extent, Kind, Result};

/// Longest delay of one rule.
pub const MAX_DELAY: Duration = Duration::from_secs(600);
/// Most rules of one script.
const MAX_RULES: usize = 1000;

/// What the dummy drivers shall do other than work at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// Tried in this order at each call; all that fit act, until one fails.
    pub rules: Vec<Rule>,
    /// Checkpoints whose bitmaps vanish before the next call about a backup or checkpoints, as after a power cut; `*` =
    /// all that there are.
    pub lost_bitmaps: Vec<String>,
    /// Ranges that no bitmap lists as changed, though they may have: bitmaps that lie.
    pub unmarked: Vec<Unmarked>,
    /// What the hypervisor says of its host.
    pub facts: Facts,
    /// What the datastore says of its space; none = what its file system says.
    pub capacity: Option<Space>,
}

/// A range of a disk of each domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unmarked {
    /// The VM's disk id.
    pub disk: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Unmarked {
    /// What is left of `extents` of disk `disk` without this range.
    pub(super) fn cut(&self, disk: u32, extents: Vec<Extent>) -> Vec<Extent> {
        if disk != self.disk {
            return extents;
        }
        let (start, end) = (self.offset, self.offset.saturating_add(self.length));
        let mut left = Vec::new();
        for extent in extents {
            let last = extent.offset.saturating_add(extent.length);
            for (from, to) in [(extent.offset, last.min(start)), (extent.offset.max(end), last)] {
                if from < to {
                    left.push(Extent { offset: from, length: to - from, ..extent });
                }
            }
        }
        left
    }
}

/// Facts about a host that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Facts {
    /// Name and version.
    pub hypervisor: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in kB. Free is what running domains leave of it.
    pub memory_kb: u64,
}

impl Default for Facts {
    fn default() -> Self {
        Self { hypervisor: "dummy".to_owned(), cpus: 256, memory_kb: 1 << 30 }
    }
}

/// Space of a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// In all.
    pub total_bytes: u64,
    /// Free.
    pub free_bytes: u64,
}

/// One thing that shall happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The operation that it is about.
    pub operation: Operation,
    /// Only for this domain (hypervisor) or series (datastore); none = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Only the n-th call that the rule fits, from 1, counted since the script was opened or last changed; none = each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// Before or after the operation does what it is for.
    #[serde(default)]
    pub when: When,
    /// Milliseconds to wait first, at most [`MAX_DELAY`].
    #[serde(default)]
    pub delay_ms: u64,
    /// Then hold the call until somebody cancels it, or until the script does not have this rule any more. A call that
    /// cannot be cancelled fails after its deadline.
    #[serde(default)]
    pub until_cancelled: bool,
    /// Then fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<Fault>,
}

impl Rule {
    /// A rule for each call of `operation` that does nothing yet.
    #[must_use]
    pub fn new(operation: Operation) -> Self {
        Self { operation, of: None, call: None, when: When::Before, delay_ms: 0, until_cancelled: false, fail: None }
    }

    /// The same, and the call fails.
    #[must_use]
    pub fn failing(self, kind: Kind, reason: &str) -> Self {
        Self { fail: Some(Fault { kind: kind.into(), reason: reason.to_owned() }), ..self }
    }

    /// The same for the n-th call only, from 1.
    #[must_use]
    pub fn call(self, number: u64) -> Self {
        Self { call: Some(number), ..self }
    }

    /// The same after the work is done, when the caller shall not hear of it.
    #[must_use]
    pub fn after(self) -> Self {
        Self { when: When::After, ..self }
    }
}

/// On which side of the work a rule acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Nothing has been done yet.
    #[default]
    Before,
    /// All has been done, only the answer is missing.
    After,
}

/// A failure to give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What the caller can do about it.
    pub kind: FaultKind,
    /// What stood in the way, one sentence.
    pub reason: String,
}

/// [`Kind`] as a script spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "Kind has the meanings")]
pub enum FaultKind {
    Retry,
    Permanent,
    Missing,
    Cancelled,
    Corrupt,
}

impl From<Kind> for FaultKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Retry => Self::Retry,
            Kind::Permanent => Self::Permanent,
            Kind::Missing => Self::Missing,
            Kind::Cancelled => Self::Cancelled,
            Kind::Corrupt => Self::Corrupt,
        }
    }
}

impl From<FaultKind> for Kind {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Retry => Self::Retry,
            FaultKind::Permanent => Self::Permanent,
            FaultKind::Missing => Self::Missing,
            FaultKind::Cancelled => Self::Cancelled,
            FaultKind::Corrupt => Self::Corrupt,
        }
    }
}

/// What can be told to fail or wait: the methods of both traits by their names, and the steps within them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the traits have the meanings")]
pub enum Operation {
    Facts,
    State,
    Deploy,
    Resume,
    Pause,
    Shutdown,
    Destroy,
    Reboot,
    Undefine,
    Save,
    RestoreSaved,
    AttachDisk,
    DetachDisk,
    AttachNic,
    DetachNic,
    ResizeDisk,
    DiskSnapshotCreate,
    DiskSnapshotRevert,
    DiskSnapshotDelete,
    SystemSnapshotCreate,
    SystemSnapshotRevert,
    SystemSnapshotDelete,
    Stats,
    Subscribe,
    BeginBackup,
    /// Quiescing the guest; a failure becomes a warning of the session, or that of the backup.
    Freeze,
    /// Letting it go on after the point in time; tried again in any case, so a failure is none.
    Thaw,
    /// Opening one disk of a session, whole or not.
    OpenDisk,
    /// [`crate::DiskReader::extents`] of a session's disk.
    Extents,
    /// [`crate::DiskReader::read`] of a session's disk.
    ReadDisk,
    EndBackup,
    AbandonBackup,
    Checkpoints,
    DeleteCheckpoint,
    Capacity,
    Store,
    /// Storing one disk of a point.
    StoreDisk,
    /// Publishing a point.
    Seal,
    Find,
    Inspect,
    Document,
    Restore,
    Forget,
    Sweep,
    Series,
    Points,
    Verify,
    /// Verifying one disk of a point.
    VerifyDisk,
}

impl fmt::Display for Operation {
    /// As a script spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Script {
    /// A script of `rules`, everything else as usual.
    #[must_use]
    pub fn of(rules: Vec<Rule>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Reads a script from its JSON text.
    ///
    /// # Errors
    /// [`Kind::Permanent`] with line and column for anything that is not understood, and for impossible values.
    pub fn parse(text: &str) -> Result<Self> {
        let script: Self = serde_json::from_str(text)
            .map_err(|error| DriverError::other(Kind::Permanent, "reading a script of the dummy drivers", error))?;
        script.check()?;
        Ok(script)
    }

    /// Refuses values that no rule can have.
    pub(super) fn check(&self) -> Result<()> {
        let wrong =
            |reason: String| Err(DriverError::new(Kind::Permanent, "reading a script of the dummy drivers", reason));
        if self.rules.len() > MAX_RULES {
            return wrong(format!("it has {} rules; {MAX_RULES} are possible", self.rules.len()));
        }
        for (rule, number) in self.rules.iter().zip(1..) {
            let name = rule.operation;
            if Duration::from_millis(rule.delay_ms) > MAX_DELAY {
                let limit = MAX_DELAY.as_millis();
                return wrong(format!("rule {number} ({name}) waits {} ms; {limit} are possible", rule.delay_ms));
            }
            if rule.call == Some(0) {
                return wrong(format!("rule {number} ({name}) is about call 0; the first one is 1"));
            }
            if rule.until_cancelled && rule.fail.is_some() {
                return wrong(format!("rule {number} ({name}) both holds the call and fails it; make two rules of it"));
            }
            if rule.delay_ms == 0 && !rule.until_cancelled && rule.fail.is_none() {
                return wrong(format!("rule {number} ({name}) does nothing; give delay_ms, until_cancelled or fail"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Content;

    #[test]
    fn an_unmarked_range_is_cut_out_of_what_a_bitmap_lists() {
        let extent = |offset, length| Extent { offset, length, content: Content::Data };
        let range = Unmarked { disk: 0, offset: 10, length: 10 };
        let all = || vec![extent(0, 5), extent(5, 10), extent(15, 2), extent(18, 12), extent(40, 1)];
        assert_eq!(range.cut(0, all()), [extent(0, 5), extent(5, 5), extent(20, 10), extent(40, 1)]);
        assert_eq!(range.cut(0, vec![extent(0, 30)]), [extent(0, 10), extent(20, 10)]);
        assert_eq!(range.cut(1, all()), all());
        let endless = Unmarked { disk: 0, offset: 1, length: u64::MAX };
        assert_eq!(endless.cut(0, all()), [extent(0, 1)]);
    }
}
