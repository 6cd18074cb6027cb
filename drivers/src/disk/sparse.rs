//! Leaving out zeros while a disk that starts as zeros is written.

use std::collections::HashMap;

/// The unit in which zeros are left out and writes are remembered: a qcow2 cluster of the usual size.
const GRAIN_BYTES: usize = 64 << 10;
/// Grains per page of the memory of writes: 512 words, 4 KiB for each 2 GiB that was written to.
const PAGE_WORDS: usize = 512;
const PAGE_GRAINS: u64 = (PAGE_WORDS * 64) as u64;

/// Which grains have been written to. Zeros for others need not be written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pages: HashMap<u64, Box<[u64; PAGE_WORDS]>>,
}

impl Written {
    /// The parts of `data` at `offset` that must be written, each with its offset, as long as can be; marks them as
    /// written. Zeros over what was written before are such a part too.
    pub(super) fn parts<'a>(&mut self, offset: u64, data: &'a [u8]) -> Vec<(u64, &'a [u8])> {
        let mut out = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while at < data.len() {
            let place = offset + at as u64;
            let room = GRAIN_BYTES - usize::try_from(place % GRAIN_BYTES as u64).unwrap_or(0);
            let end = data.len().min(at + room);
            let grain = place / GRAIN_BYTES as u64;
            if crate::is_zero(&data[at..end]) && !self.contains(grain) {
                if start < at {
                    out.push((offset + start as u64, &data[start..at]));
                }
                start = end;
            } else {
                self.insert(grain);
            }
            at = end;
        }
        if start < data.len() {
            out.push((offset + start as u64, &data[start..]));
        }
        out
    }

    fn contains(&self, grain: u64) -> bool {
        let (page, word, bit) = place(grain);
        self.pages.get(&page).is_some_and(|words| words[word] & bit != 0)
    }

    fn insert(&mut self, grain: u64) {
        let (page, word, bit) = place(grain);
        self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_WORDS]))[word] |= bit;
    }
}

fn place(grain: u64) -> (u64, usize, u64) {
    let in_page = grain % PAGE_GRAINS;
    (grain / PAGE_GRAINS, usize::try_from(in_page / 64).unwrap_or(0), 1 << (in_page % 64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeros_are_left_out_and_neighbours_stay_together() {
        let mut data = vec![0; 5 * GRAIN_BYTES];
        data[GRAIN_BYTES] = 1;
        data[3 * GRAIN_BYTES - 1] = 1;
        data[5 * GRAIN_BYTES - 1] = 1;
        let mut written = Written::default();
        let parts: Vec<(u64, usize)> = written.parts(0, &data).iter().map(|(at, d)| (*at, d.len())).collect();
        let grain = GRAIN_BYTES as u64;
        assert_eq!(parts, [(grain, 2 * GRAIN_BYTES), (4 * grain, GRAIN_BYTES)]);
    }

    proptest! {
        #[test]
        fn the_parts_give_the_same_disk(
            writes in prop::collection::vec((0_usize..400_000, 1_usize..200_000, prop::bool::ANY), 1..8),
        ) {
            let size = 600_000;
            let (mut whole, mut sparse) = (vec![0_u8; size], vec![0_u8; size]);
            let mut written = Written::default();
            for (number, (at, length, zero)) in writes.into_iter().enumerate() {
                let byte = if zero { 0 } else { u8::try_from(number + 1).unwrap() };
                let data = vec![byte; length];
                whole[at..at + length].copy_from_slice(&data);
                for (at, part) in written.parts(at as u64, &data) {
                    let at = usize::try_from(at).unwrap();
                    sparse[at..at + part.len()].copy_from_slice(part);
                }
            }
            prop_assert!(whole == sparse);
        }
    }
}
