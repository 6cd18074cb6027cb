//! What the last verification saw of a restore point, as its row keeps it. Between api and engine: the engine writes it, the
//! api shows it and builds no increment upon what is damaged.
//!
//! Invariants: what is kept is bounded; a quick look that finds nothing never replaces the damage that a deep one found, for
//! it did not look there.

use one_core::template::Vector;
use serde::{Deserialize, Serialize};

use crate::store::rows::IncrementRow;

/// Damages of one restore point that are kept one by one; the rest is counted.
pub const LISTED_MAX: usize = 20;

/// A range of a disk that cannot be given back, or something beside the disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaw {
    /// The VM's disk id; none = not part of a disk.
    pub disk: Option<u32>,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes; 0 when nobody can tell.
    pub length: u64,
    /// One line: which file, and how it is damaged.
    pub what: String,
}

impl Flaw {
    /// As documents show it, without the increment that it belongs to: DISK, OFFSET, LENGTH, WHAT.
    #[must_use]
    pub fn vector(&self) -> Vector {
        let mut vector = Vector::new();
        if let Some(disk) = self.disk {
            vector.set("DISK", disk.to_string());
            vector.set("OFFSET", self.offset.to_string());
            vector.set("LENGTH", self.length.to_string());
        }
        vector.set("WHAT", self.what.clone());
        vector
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The job that looked.
    pub job: i64,
    /// Bytes that it read, of all its points together.
    pub read_bytes: u64,
    /// Damages of this point.
    pub damages: u64,
    /// The first of them.
    pub listed: Vec<Flaw>,
}

/// What was seen of a restore point; none = never verified. A record that does not read any more counts as none, aloud.
#[must_use]
pub fn of(row: &IncrementRow) -> Option<Seen> {
    if row.verify_result.is_empty() {
        return None;
    }
    match serde_json::from_str(&row.verify_result) {
        Ok(seen) => Some(seen),
        Err(error) => {
            tracing::error!(
                target: "STO", "What was seen of image {}, increment {} does not read: {error}",
                row.image_id, row.increment_id
            );
            None
        }
    }
}

/// Whether the last verification found damage.
#[must_use]
pub fn is_damaged(row: &IncrementRow) -> bool {
    of(row).is_some_and(|seen| seen.damages > 0)
}

/// Writes into the row what was seen at `now` (epoch seconds), unless it knows better.
pub fn note(row: &mut IncrementRow, deep: bool, now: i64, mut seen: Seen) {
    if !deep
        && seen.damages == 0
        && row.verify_depth == "DEEP"
        && let Some(found) = of(row).filter(|found| found.damages > 0)
    {
        // Who waits for this verification sees that it ended.
        let kept = Seen { job: seen.job, read_bytes: seen.read_bytes, ..found };
        row.verify_result = serde_json::to_string(&kept).unwrap_or_default();
        return;
    }
    seen.listed.truncate(LISTED_MAX);
    // Numbers and strings only: it cannot fail.
    row.verify_result = serde_json::to_string(&seen).unwrap_or_default();
    row.verified_at = now;
    row.verify_depth = if deep { "DEEP" } else { "QUICK" }.into();
}
