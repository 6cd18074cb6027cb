//! Which chunks of a disk must be read, are zero, or stay as the parent has them. Pure arithmetic.
//!
//! A chunk is a fixed-size aligned piece of a disk; only the last may be shorter.

use crate::datastore::Change;
use crate::{Content, DriverError, Extent, Kind, MAX_READ_BYTES, Result};

/// Several chunks are asked for at once up to this length: requests cost more than bytes.
const RUN_BYTES: u32 = 1 << 20;

/// Where a chunk's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Unchanged since the parent point.
    Parent,
    /// All zeros without reading.
    Zero,
    /// From the disk.
    Read,
}

/// The number of chunks in `size` bytes.
pub(super) fn count(size: u64, chunk: u32) -> u64 {
    size.div_ceil(chunk.into())
}

/// The length of chunk `number` of `size` bytes.
pub(super) fn length(size: u64, chunk: u32, number: u64) -> u32 {
    let left = size.saturating_sub(number * u64::from(chunk));
    u32::try_from(left).map_or(chunk, |left| left.min(chunk))
}

/// The origin of each chunk. Extents are widened to chunks; a chunk that is zero only in part is read.
///
/// # Errors
/// When the extents overlap, leave the disk, are out of order, or (for a whole disk) do not cover it.
pub(super) fn origins(size: u64, chunk: u32, extents: &[Extent], change: Change) -> Result<Vec<Origin>> {
    let wrong = |what: &str, at: u64| {
        DriverError::new(
            Kind::Permanent,
            "reading extents",
            format!("the source lists an extent that {what} at byte {at}"),
        )
    };
    let total = usize::try_from(count(size, chunk))
        .map_err(|_| DriverError::new(Kind::Permanent, "reading extents", "the disk is too large for this host"))?;
    let mut origins = vec![Origin::Parent; total];
    let mut position = 0;
    let width = u64::from(chunk);
    for extent in extents {
        let end = extent.offset.checked_add(extent.length).ok_or_else(|| wrong("leaves the disk", extent.offset))?;
        if extent.length == 0 || extent.offset < position {
            return Err(wrong("is empty or overlaps the one before", extent.offset));
        }
        if end > size {
            return Err(wrong("leaves the disk", extent.offset));
        }
        if change != Change::SinceParent && extent.offset != position {
            return Err(wrong("leaves a gap before it", extent.offset));
        }
        position = end;
        for number in extent.offset / width..end.div_ceil(width) {
            let first = number * width;
            let covered = extent.offset <= first && end >= (first + width).min(size);
            let origin = if extent.content == Content::Zero && covered { Origin::Zero } else { Origin::Read };
            // In bounds: number < ceil(end / width) <= total.
            origins[number as usize] = origin;
        }
    }
    if change != Change::SinceParent && position != size {
        return Err(wrong("ends before the disk does", position));
    }
    Ok(origins)
}

/// Ranges (first chunk within `origins`, offset in the disk, length in bytes) that read every chunk marked so.
/// `base` is the disk offset of the first of `origins`, `end` the disk's or part's end.
pub(super) fn runs(origins: &[Origin], chunk: u32, base: u64, end: u64) -> Vec<(usize, u64, u32)> {
    let longest = RUN_BYTES.max(chunk).min(MAX_READ_BYTES);
    let mut runs: Vec<(usize, u64, u32)> = Vec::new();
    for (number, _) in origins.iter().enumerate().filter(|(_, origin)| **origin == Origin::Read) {
        let offset = base + number as u64 * u64::from(chunk);
        let piece = length(end - base, chunk, number as u64);
        match runs.last_mut() {
            Some((_, start, bytes)) if *start + u64::from(*bytes) == offset && *bytes + piece <= longest => {
                *bytes += piece;
            }
            _ => runs.push((number, offset, piece)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, length: u64, content: Content) -> Extent {
        Extent { offset, length, content }
    }

    #[test]
    fn a_chunk_that_is_zero_in_part_is_read() {
        let extents = [extent(0, 10, Content::Data), extent(10, 22, Content::Zero), extent(32, 5, Content::Zero)];
        let origins = origins(37, 8, &extents, Change::Whole).unwrap();
        assert_eq!(origins, [Origin::Read, Origin::Read, Origin::Zero, Origin::Zero, Origin::Zero]);
    }

    #[test]
    fn extents_that_contradict_the_disk_are_refused() {
        let data = Content::Data;
        for (extents, change) in [
            (vec![extent(0, 9, data)], Change::Whole),
            (vec![extent(1, 9, data)], Change::Whole),
            (vec![extent(0, 11, data)], Change::SinceParent),
            (vec![extent(4, 2, data), extent(5, 1, data)], Change::SinceParent),
            (vec![extent(4, 0, data)], Change::SinceParent),
            (vec![extent(u64::MAX, 2, data)], Change::SinceParent),
        ] {
            assert!(origins(10, 4, &extents, change).is_err(), "{extents:?}");
        }
    }

    proptest! {
        #[test]
        fn every_touched_byte_lies_in_a_chunk_that_is_read_or_zero(
            size in 1_u64..300, chunk in 1_u32..40, cuts in prop::collection::vec((1_u64..30, 0..3), 0..30)
        ) {
            let mut extents = Vec::new();
            let mut model = vec![2; size as usize];
            let mut at = 0;
            for (length, what) in cuts {
                let end = (at + length).min(size);
                if what < 2 && end > at {
                    let content = if what == 0 { Content::Data } else { Content::Zero };
                    extents.push(extent(at, end - at, content));
                    model[at as usize..end as usize].fill(what);
                }
                at = end;
            }
            let origins = origins(size, chunk, &extents, Change::SinceParent).unwrap();
            for (number, origin) in origins.iter().enumerate() {
                let bytes = &model[number * chunk as usize..((number + 1) * chunk as usize).min(model.len())];
                let untouched = bytes.iter().all(|b| *b == 2);
                prop_assert_eq!(untouched, *origin == Origin::Parent);
                if *origin == Origin::Zero {
                    prop_assert!(bytes.iter().all(|b| *b == 1));
                }
            }
            let mut read = vec![false; size as usize];
            for (first, offset, length) in runs(&origins, chunk, 0, size) {
                prop_assert_eq!(first as u64 * u64::from(chunk), offset);
                read[offset as usize..offset as usize + length as usize].fill(true);
            }
            for (number, origin) in origins.iter().enumerate() {
                let range = number * chunk as usize..((number + 1) * chunk as usize).min(read.len());
                prop_assert!(read[range].iter().all(|r| *r == (*origin == Origin::Read)));
            }
        }
    }
}
