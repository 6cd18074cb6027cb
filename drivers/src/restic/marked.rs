//! What a record of changes lists, as something to look ranges up in.

use crate::Extent;

/// Ranges, ascending and apart.
pub(super) struct Marked(Vec<(u64, u64)>);

impl Marked {
    /// From extents in any order; what they hold plays no part.
    pub(super) fn new(extents: &[Extent]) -> Self {
        let mut ranges: Vec<(u64, u64)> =
            extents.iter().map(|extent| (extent.offset, extent.offset.saturating_add(extent.length))).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let joins = next.0 <= last.1;
            if joins {
                last.1 = last.1.max(next.1);
            }
            joins
        });
        Self(ranges)
    }

    /// Whether a byte of the range is listed.
    pub(super) fn touches(&self, offset: u64, length: u64) -> bool {
        let after = self.0.partition_point(|(_, end)| *end <= offset);
        self.0.get(after).is_some_and(|(start, _)| *start < offset.saturating_add(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Content;

    proptest! {
        #[test]
        fn a_range_touches_when_one_of_its_bytes_is_listed(
            extents in prop::collection::vec((0_u64..60, 1_u64..10), 0..8), offset in 0_u64..60, length in 1_u64..20
        ) {
            let extents: Vec<Extent> =
                extents.into_iter().map(|(offset, length)| Extent { offset, length, content: Content::Data }).collect();
            let listed = |byte: u64| extents.iter().any(|extent| (extent.offset..extent.end()).contains(&byte));
            prop_assert_eq!(Marked::new(&extents).touches(offset, length), (offset..offset + length).any(listed));
        }
    }
}
