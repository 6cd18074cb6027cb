//! Which host clusters are in use, and where the next bytes go.
//!
//! Two bytes per host cluster of the file, and one bit for each that the image on disk refers to (when one is merged into).
//! A cluster is only given out when neither the image on disk nor the one that is being made refers to it.

use super::{CLUSTER_BYTES, index};

/// Refcounts of the image that is being made.
#[derive(Default)]
pub(super) struct Space {
    counts: Vec<u16>,
    busy: Bits,
    /// No cluster before this one is free.
    cursor: usize,
    /// Where the next compressed bytes go, up to the end of that cluster; none before the first ones.
    packed: Option<u64>,
}

/// A set of numbers.
#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    pub(super) fn insert(&mut self, number: usize) {
        if self.0.len() <= number / 64 {
            self.0.resize(number / 64 + 1, 0);
        }
        self.0[number / 64] |= 1 << (number % 64);
    }
}

impl Space {
    /// The space of a new file: only the header is in use.
    pub(super) fn new() -> Self {
        Self { counts: vec![1], busy: Bits::default(), cursor: 1, packed: None }
    }

    /// The space of an image on disk. `counts` are the references that stay, `busy` all clusters that it refers to.
    pub(super) fn existing(counts: Vec<u16>, busy: Bits) -> Self {
        Self { counts, busy, cursor: 1, packed: None }
    }

    /// Host clusters up to the last one that was ever in use.
    pub(super) fn clusters(&self) -> usize {
        self.counts.len()
    }

    pub(super) fn counts(&self) -> &[u16] {
        &self.counts
    }

    fn is_free(&self, cluster: usize) -> bool {
        self.counts.get(cluster).is_none_or(|count| *count == 0) && !self.busy.contains(cluster)
    }

    /// Takes one cluster, the first that is free. Gives its offset.
    pub(super) fn take(&mut self) -> u64 {
        while !self.is_free(self.cursor) {
            self.cursor += 1;
        }
        let cluster = self.cursor;
        self.cursor += 1;
        self.count(cluster);
        cluster as u64 * CLUSTER_BYTES
    }

    /// Takes `clusters` in a row. Gives the offset of the first.
    pub(super) fn take_row(&mut self, clusters: usize) -> u64 {
        if clusters == 1 {
            return self.take();
        }
        let mut first = self.cursor;
        let mut at = first;
        while at < first + clusters {
            if !self.is_free(at) {
                first = at + 1;
            }
            at += 1;
        }
        for cluster in first..first + clusters {
            self.count(cluster);
        }
        if first == self.cursor {
            self.cursor += clusters;
        }
        first as u64 * CLUSTER_BYTES
    }

    /// Takes room for compressed bytes, at most a cluster of them, right behind the last ones where that is possible. Gives
    /// their offset.
    pub(super) fn take_packed(&mut self, bytes: u64) -> u64 {
        let at = match self.packed {
            Some(at) if self.goes_on(at, bytes) => at,
            _ => self.take(),
        };
        let end = at + bytes;
        let (first, last) = (index(at / CLUSTER_BYTES), index((end - 1) / CLUSTER_BYTES));
        // A cluster that was just taken has its one reference.
        if !at.is_multiple_of(CLUSTER_BYTES) {
            self.count(first);
        }
        if last != first {
            self.count(last);
            if last == self.cursor {
                self.cursor += 1;
            }
        }
        self.packed = Some(end).filter(|end| !end.is_multiple_of(CLUSTER_BYTES));
        at
    }

    /// Whether bytes from `at`, in the middle of a cluster of packed ones, have room there and in the next cluster. A full
    /// counter (2^16 - 1 in one cluster) cannot be reached: no compressed cluster is shorter than two bytes.
    fn goes_on(&self, at: u64, bytes: u64) -> bool {
        let room = CLUSTER_BYTES - at % CLUSTER_BYTES;
        bytes <= room || self.is_free(index(at / CLUSTER_BYTES) + 1)
    }

    /// One more reference.
    fn count(&mut self, cluster: usize) {
        if self.counts.len() <= cluster {
            self.counts.resize(cluster + 1, 0);
        }
        self.counts[cluster] = self.counts[cluster].saturating_add(1);
    }

    /// One reference less on each cluster that `bytes` at `at` touch.
    pub(super) fn release(&mut self, at: u64, bytes: u64) {
        for cluster in index(at / CLUSTER_BYTES)..=index((at + bytes.max(1) - 1) / CLUSTER_BYTES) {
            if let Some(count) = self.counts.get_mut(cluster) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packed_bytes_go_on_behind_each_other_and_count_in_each_cluster() {
        let mut space = Space::new();
        assert_eq!(space.take_packed(40_000), CLUSTER_BYTES);
        assert_eq!(space.take_packed(40_000), CLUSTER_BYTES + 40_000);
        assert_eq!(space.take(), 3 * CLUSTER_BYTES);
        assert_eq!(space.take_packed(40_000), CLUSTER_BYTES + 80_000);
        assert_eq!(space.take_packed(40_000), 4 * CLUSTER_BYTES);
        assert_eq!(space.counts(), [1, 2, 2, 1, 1]);
        space.release(CLUSTER_BYTES + 40_000, 40_000);
        assert_eq!(space.counts(), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn what_the_image_on_disk_refers_to_is_not_given_out_even_when_it_is_released() {
        let mut busy = Bits::default();
        for cluster in [0, 1, 2, 4] {
            busy.insert(cluster);
        }
        let mut space = Space::existing(vec![1, 1, 1, 0, 1], busy);
        space.release(CLUSTER_BYTES, CLUSTER_BYTES);
        assert_eq!(space.take_row(2), 5 * CLUSTER_BYTES);
        assert_eq!(space.take(), 3 * CLUSTER_BYTES);
        assert_eq!(space.take(), 7 * CLUSTER_BYTES);
        assert_eq!(space.counts(), [1, 0, 1, 1, 1, 1, 1, 1]);
    }

    proptest! {
        #[test]
        fn nothing_is_given_out_twice(
            busy in prop::collection::btree_set(1_usize..40, 0..20),
            asks in prop::collection::vec((0_u8..3, 1_u64..CLUSTER_BYTES), 1..60),
        ) {
            let mut bits = Bits::default();
            let mut counts = vec![1_u16; 1];
            let mut used = std::collections::BTreeMap::<u64, u64>::new();
            for cluster in busy {
                bits.insert(cluster);
                counts.resize(cluster + 1, 0);
                counts[cluster] = 1;
                used.insert(cluster as u64 * CLUSTER_BYTES, CLUSTER_BYTES);
            }
            let mut space = Space::existing(counts, bits);
            for (kind, bytes) in asks {
                let (at, bytes) = match kind {
                    0 => (space.take(), CLUSTER_BYTES),
                    1 => (space.take_row(3), 3 * CLUSTER_BYTES),
                    _ => (space.take_packed(bytes), bytes),
                };
                prop_assert!(used.insert(at, bytes).is_none());
            }
            let mut end = CLUSTER_BYTES;
            let mut counts = vec![0_u16; space.clusters()];
            counts[0] = 1;
            for (at, bytes) in used {
                prop_assert!(at >= end);
                end = at + bytes;
                let touched = at / CLUSTER_BYTES..=(end - 1) / CLUSTER_BYTES;
                for cluster in touched {
                    counts[usize::try_from(cluster).unwrap()] += 1;
                }
            }
            prop_assert_eq!(space.counts(), counts);
        }
    }
}
