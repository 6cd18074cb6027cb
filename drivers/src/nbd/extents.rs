//! From the descriptors of one or two contexts to the extents of a disk.

use super::wire::{ALLOCATION_ZERO, BITMAP_DIRTY, Descriptor};
use crate::{Content, Extent};

/// Most extents that we keep of one disk: at 24 bytes each 96 MiB. Enough for half a terabyte whose 64 KiB clusters are
/// used alternately; beyond that the list gets coarser.
pub(super) const MAX_EXTENTS: usize = 4 << 20;

/// Appends `[offset, offset + length)`, merging it with its left neighbour where that has the same content.
pub(super) fn push(out: &mut Vec<Extent>, offset: u64, length: u64, content: Content) {
    if length == 0 {
        return;
    }
    match out.last_mut() {
        Some(last) if last.end() == offset && last.content == content => last.length += length,
        _ => out.push(Extent { offset, length, content }),
    }
}

/// Walks what two contexts say from `offset` on, up to `end` or to where the shorter one stops, and appends the result.
/// Returns where it stopped.
///
/// `allocation` of none = everything must be read; `dirty` of none = everything is asked for. The two need not line up.
pub(super) fn combine(
    out: &mut Vec<Extent>,
    offset: u64,
    end: u64,
    allocation: Option<&[Descriptor]>,
    dirty: Option<&[Descriptor]>,
) -> u64 {
    let mut allocation = Walk::new(allocation, offset, end, 0);
    let mut dirty = Walk::new(dirty, offset, end, BITMAP_DIRTY);
    let mut at = offset;
    while let (Some((a_end, a_flags)), Some((d_end, d_flags))) = (allocation.at(at), dirty.at(at)) {
        let next = a_end.min(d_end);
        if d_flags & BITMAP_DIRTY != 0 {
            let content = if a_flags & ALLOCATION_ZERO == 0 { Content::Data } else { Content::Zero };
            push(out, at, next - at, content);
        }
        at = next;
    }
    at
}

/// Makes a list of more than `most` extents, which ends at `end` or before, coarser until it is at most half as long.
pub(super) fn limit(list: &mut Vec<Extent>, most: usize, end: u64) {
    let mut granule = 128 << 10;
    if list.len() <= most {
        return;
    }
    while list.len() > most / 2 {
        *list = coarser(list, granule, end);
        if granule >= end {
            return;
        }
        granule *= 2;
    }
}

/// The same list in whole granules (a power of two). A granule that is not of one content becomes data: reading too much
/// is slow, calling a range zero or unchanged that is not would be wrong.
fn coarser(list: &[Extent], granule: u64, end: u64) -> Vec<Extent> {
    let down = |at: u64| at - at % granule;
    let up = |at: u64| at.checked_next_multiple_of(granule).unwrap_or(end).min(end);
    let mut out: Vec<Extent> = Vec::new();
    let mut add = |start: u64, stop: u64, content| {
        let start = out.last().map_or(start, |last| last.end().max(start));
        push(&mut out, start, stop.saturating_sub(start), content);
    };
    for e in list {
        let (inner, inner_end) = (up(e.offset), if e.end() == end { end } else { down(e.end()) });
        if e.content == Content::Zero && inner < inner_end {
            add(down(e.offset), inner, Content::Data);
            add(inner, inner_end, Content::Zero);
            add(inner_end, up(e.end()), Content::Data);
        } else {
            add(down(e.offset), up(e.end()), Content::Data);
        }
    }
    out
}

/// A cursor over one context.
struct Walk<'a> {
    /// Descriptors not yet looked at; none = the context says `flags` everywhere.
    rest: Option<std::slice::Iter<'a, Descriptor>>,
    end: u64,
    current_end: u64,
    flags: u32,
}

impl<'a> Walk<'a> {
    fn new(list: Option<&'a [Descriptor]>, offset: u64, end: u64, flags_everywhere: u32) -> Self {
        Self { rest: list.map(<[Descriptor]>::iter), end, current_end: offset, flags: flags_everywhere }
    }

    /// End and flags of the range that holds `at`; none behind the last. `at` never goes back.
    fn at(&mut self, at: u64) -> Option<(u64, u32)> {
        if at >= self.end {
            return None;
        }
        match &mut self.rest {
            None => self.current_end = self.end,
            Some(rest) => {
                while self.current_end <= at {
                    let descriptor = rest.next()?;
                    self.current_end = self.current_end.saturating_add(u64::from(descriptor.length));
                    self.flags = descriptor.flags;
                }
            }
        }
        // A last descriptor may reach past what was asked (NBD protocol document, NBD_CMD_BLOCK_STATUS).
        Some((self.current_end.min(self.end), self.flags))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 200;

    fn context() -> impl Strategy<Value = Vec<Descriptor>> {
        prop::collection::vec((1_u32..40, 0_u32..4), 1..20)
            .prop_map(|list| list.into_iter().map(|(length, flags)| Descriptor { length, flags }).collect())
    }

    /// One flag word per byte; shorter than the disk where the context stops early.
    fn byte_map(list: &[Descriptor], size: u64) -> Vec<u32> {
        let all = list.iter().flat_map(|d| std::iter::repeat_n(d.flags, d.length as usize));
        all.take(usize::try_from(size).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn combining_two_contexts_equals_a_map_of_bytes(
            offset in 0_u64..1000,
            allocation in prop::option::of(context()),
            dirty in prop::option::of(context()),
        ) {
            let mut out = Vec::new();
            let end = offset + SIZE;
            let stop = combine(&mut out, offset, end, allocation.as_deref(), dirty.as_deref());

            let size = usize::try_from(SIZE).unwrap();
            let a = allocation.map_or(vec![0; size], |l| byte_map(&l, SIZE));
            let d = dirty.map_or(vec![1; size], |l| byte_map(&l, SIZE));
            let want: Vec<Option<Content>> = a.iter().zip(&d).map(|(a, d)| match (d & 1, a & 2) {
                (0, _) => None,
                (_, 0) => Some(Content::Data),
                _ => Some(Content::Zero),
            }).collect();
            prop_assert_eq!(stop, offset + want.len() as u64);

            let mut got = vec![None; want.len()];
            for pair in out.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].offset, "overlap or disorder");
                prop_assert!(pair[0].end() < pair[1].offset || pair[0].content != pair[1].content, "not merged");
            }
            for e in &out {
                prop_assert!(e.length > 0);
                for at in e.offset..e.end() {
                    got[usize::try_from(at - offset).unwrap()] = Some(e.content);
                }
            }
            prop_assert_eq!(got, want);
        }
    }

    proptest! {
        #[test]
        fn a_coarser_list_still_reads_all_that_must_be_read(
            allocation in prop::option::of(context()),
            dirty in prop::option::of(context()),
            granule in 0_u32..8,
        ) {
            let mut fine = Vec::new();
            let end = combine(&mut fine, 0, SIZE, allocation.as_deref(), dirty.as_deref());
            let coarse = coarser(&fine, 1 << granule, end);
            let map = |list: &[Extent]| {
                let mut out = vec![None; usize::try_from(SIZE).unwrap()];
                for e in list {
                    out[usize::try_from(e.offset).unwrap()..usize::try_from(e.end()).unwrap()].fill(Some(e.content));
                }
                out
            };
            for (fine, coarse) in map(&fine).into_iter().zip(map(&coarse)) {
                prop_assert!(fine == coarse || coarse == Some(Content::Data), "{fine:?} became {coarse:?}");
            }
            for pair in coarse.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].offset);
                prop_assert!(pair[0].end() < pair[1].offset || pair[0].content != pair[1].content);
            }
            prop_assert!(coarse.last().is_none_or(|last| last.end() <= end));
        }
    }

    #[test]
    fn a_list_that_is_too_long_gets_shorter_and_a_short_one_stays() {
        let granule = 64 << 10;
        let list: Vec<Extent> =
            (0..100).map(|i| Extent { offset: 2 * i * granule, length: granule, content: Content::Data }).collect();
        let mut limited = list.clone();
        limit(&mut limited, 100, 200 * granule);
        assert_eq!(limited, list);
        limit(&mut limited, 99, 200 * granule);
        assert_eq!(limited, [Extent { offset: 0, length: 200 * granule, content: Content::Data }]);
    }

    #[test]
    fn a_descriptor_past_the_end_is_cut() {
        let mut out = Vec::new();
        let far = [Descriptor { length: u32::MAX, flags: ALLOCATION_ZERO }];
        assert_eq!(combine(&mut out, 512, 1024, Some(&far), None), 1024);
        assert_eq!(out, [Extent { offset: 512, length: 512, content: Content::Zero }]);
    }
}
