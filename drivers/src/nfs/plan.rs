//! Which clusters of a disk are read and which are zeros without reading. Pure arithmetic.

use crate::qcow2::CLUSTER_BYTES;
use crate::{Content, DriverError, Extent, Kind, Result};

/// Neighbouring clusters with one fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// First cluster.
    pub(super) first: u64,
    /// One past the last.
    pub(super) end: u64,
    /// They are all zeros; otherwise they have to be read.
    pub(super) zero: bool,
}

/// The clusters that `extents` touch, ascending. One that is touched in part is read whole; it is zero without reading
/// only when one extent of zeros covers it.
///
/// # Errors
/// [`Kind::Permanent`] when the extents overlap, are empty, leave the disk or, with `whole`, do not cover it.
pub(super) fn stretches(size_bytes: u64, extents: &[Extent], whole: bool) -> Result<Vec<Stretch>> {
    let wrong = |what: &str, at: u64| {
        let reason = format!("the source lists an extent that {what} at byte {at}");
        Err(DriverError::new(Kind::Permanent, "listing what to store of a disk", reason))
    };
    let mut out: Vec<Stretch> = Vec::new();
    let mut at = 0;
    for extent in extents {
        let Some(end) = extent.offset.checked_add(extent.length).filter(|end| *end <= size_bytes) else {
            return wrong("leaves the disk", extent.offset);
        };
        if extent.length == 0 || extent.offset < at {
            return wrong("is empty or overlaps the one before", extent.offset);
        }
        if whole && extent.offset != at {
            return wrong("leaves a gap before it", extent.offset);
        }
        at = end;
        let (outer_first, outer_end) = (extent.offset / CLUSTER_BYTES, end.div_ceil(CLUSTER_BYTES));
        if extent.content == Content::Data {
            push(&mut out, outer_first, outer_end, false);
            continue;
        }
        let first = extent.offset.div_ceil(CLUSTER_BYTES);
        let last = if end == size_bytes { outer_end } else { end / CLUSTER_BYTES };
        if first < last {
            push(&mut out, outer_first, first, false);
            push(&mut out, first, last, true);
            push(&mut out, last, outer_end, false);
        } else {
            push(&mut out, outer_first, outer_end, false);
        }
    }
    if whole && at != size_bytes {
        return wrong("ends before the disk does", at);
    }
    Ok(out)
}

/// Adds clusters after those that are there; only one that is read can be named twice.
fn push(out: &mut Vec<Stretch>, first: u64, end: u64, zero: bool) {
    let first = out.last().map_or(first, |last| first.max(last.end));
    if first >= end {
        return;
    }
    match out.last_mut() {
        Some(last) if last.end == first && last.zero == zero => last.end = end,
        _ => out.push(Stretch { first, end, zero }),
    }
}

/// Which clusters a list of extents touches; asked in any order.
pub(super) struct Touched(Vec<(u64, u64)>);

impl Touched {
    pub(super) fn new(extents: &[Extent]) -> Self {
        let ends = |extent: &Extent| {
            let end = extent.offset.saturating_add(extent.length).div_ceil(CLUSTER_BYTES);
            (extent.offset / CLUSTER_BYTES, end)
        };
        let mut ranges: Vec<(u64, u64)> = extents.iter().map(ends).collect();
        ranges.sort_unstable();
        Self(ranges)
    }

    pub(super) fn has(&self, cluster: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= cluster);
        after.checked_sub(1).is_some_and(|at| self.0[at].1 > cluster)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_touched_byte_lies_in_a_cluster_that_is_read_or_all_zero(
            cuts in prop::collection::vec((1_u64..200_000, 0_u8..3), 0..12), tail in 0_u64..70_000,
        ) {
            let mut extents = Vec::new();
            let mut at = 0;
            for (length, kind) in &cuts {
                let content = if *kind == 0 { Content::Data } else { Content::Zero };
                if *kind < 2 {
                    extents.push(Extent { offset: at, length: *length, content });
                }
                at += length;
            }
            let size = at + tail;
            let stretches = stretches(size, &extents, false).unwrap();
            for pair in stretches.windows(2) {
                prop_assert!(pair[0].end <= pair[1].first);
            }
            let touched = Touched::new(&extents);
            for cluster in 0..size.div_ceil(CLUSTER_BYTES) {
                let (start, end) = (cluster * CLUSTER_BYTES, ((cluster + 1) * CLUSTER_BYTES).min(size));
                let found = stretches.iter().find(|s| s.first <= cluster && cluster < s.end);
                let any = extents.iter().any(|e| e.offset < end && e.end() > start);
                prop_assert_eq!(found.is_some(), any);
                prop_assert_eq!(touched.has(cluster), any);
                let zero = extents
                    .iter()
                    .any(|e| e.content == Content::Zero && e.offset <= start && e.end() >= end);
                prop_assert_eq!(found.is_some_and(|s| s.zero), zero);
            }
        }
    }
}
