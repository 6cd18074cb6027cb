//! Collects damage: the same range of several points is told once, neighbours with one cause become one range.

use std::collections::{BTreeMap, HashMap};

use crate::datastore::{Damage, MAX_DAMAGES};

/// Ranges that are kept apart while collecting; what comes beyond is told as one range per disk.
const MAX_RANGES: usize = 100_000;
/// Said of ranges beyond the limits.
pub(super) const MORE: &str = "more damage than is told one by one, within this range";

/// Disk, offset, length and number of the cause.
type Key = (Option<u32>, u64, u64, u32);

/// Damage of some points, numbered in the order they were given.
pub(super) struct Collector {
    points: Vec<String>,
    causes: Vec<String>,
    numbers: HashMap<String, u32>,
    /// The points of each.
    found: BTreeMap<Key, Vec<u32>>,
    rest: BTreeMap<Option<u32>, Rest>,
}

/// What is told in one.
#[derive(Default)]
struct Rest {
    range: Option<(u64, u64)>,
    points: Vec<u32>,
}

impl Rest {
    fn add(&mut self, offset: u64, length: u64, points: &[u32]) {
        let end = offset.saturating_add(length);
        let (start, stop) = self.range.unwrap_or((offset, end));
        self.range = Some((start.min(offset), stop.max(end)));
        for point in points {
            if !self.points.contains(point) {
                self.points.push(*point);
            }
        }
    }
}

impl Collector {
    /// For damage of `points`.
    pub(super) fn new(points: Vec<String>) -> Self {
        Self { points, causes: Vec::new(), numbers: HashMap::new(), found: BTreeMap::new(), rest: BTreeMap::new() }
    }

    /// Adds damage of the point with that number.
    pub(super) fn add(&mut self, point: u32, disk: Option<u32>, offset: u64, length: u64, what: &str) {
        let cause = match self.numbers.get(what) {
            Some(cause) => *cause,
            None => {
                let cause = u32::try_from(self.causes.len()).unwrap_or(u32::MAX);
                self.causes.push(what.to_owned());
                self.numbers.insert(what.to_owned(), cause);
                cause
            }
        };
        let key = (disk, offset, length, cause);
        let is_full = self.found.len() >= MAX_RANGES;
        match self.found.get_mut(&key) {
            Some(points) if points.last() == Some(&point) => {}
            Some(points) => points.push(point),
            None if is_full => self.rest.entry(disk).or_default().add(offset, length, &[point]),
            None => drop(self.found.insert(key, vec![point])),
        }
    }

    /// All of it, by disk and offset; at most [`MAX_DAMAGES`].
    pub(super) fn finish(self) -> Vec<Damage> {
        let Self { points, causes, found, mut rest, .. } = self;
        let named = |numbers: &[u32]| -> Vec<String> {
            numbers.iter().filter_map(|number| points.get(*number as usize).cloned()).collect()
        };
        // (key, points) with neighbours merged; `open` has the last range of each cause and set of points.
        let mut merged: Vec<(Key, Vec<u32>)> = Vec::new();
        let mut open: HashMap<(Option<u32>, u32, Vec<u32>), usize> = HashMap::new();
        for ((disk, offset, length, cause), mut numbers) in found {
            numbers.sort_unstable();
            numbers.dedup();
            let group = (disk, cause, numbers.clone());
            if let Some(at) = open.get(&group).copied() {
                let before = &mut merged[at].0;
                if before.1.saturating_add(before.2) == offset && length > 0 {
                    before.2 = before.2.saturating_add(length);
                    continue;
                }
            }
            open.insert(group, merged.len());
            merged.push(((disk, offset, length, cause), numbers));
        }
        let room = MAX_DAMAGES.saturating_sub(rest.len());
        if merged.len() > room {
            let disks: std::collections::BTreeSet<_> = merged.iter().map(|(key, _)| key.0).collect();
            let kept = MAX_DAMAGES.saturating_sub(disks.len() + rest.len());
            for ((disk, offset, length, _), numbers) in merged.drain(kept..) {
                rest.entry(disk).or_default().add(offset, length, &numbers);
            }
        }
        let mut damages: Vec<Damage> = merged
            .into_iter()
            .map(|((disk, offset, length, cause), numbers)| Damage {
                points: named(&numbers),
                disk,
                offset,
                length,
                what: causes.get(cause as usize).cloned().unwrap_or_default(),
            })
            .collect();
        damages.extend(rest.into_iter().filter_map(|(disk, Rest { range, points })| {
            let (offset, end) = range?;
            Some(Damage { points: named(&points), disk, offset, length: end - offset, what: MORE.to_owned() })
        }));
        damages.truncate(MAX_DAMAGES);
        damages.sort_by_key(|damage| (damage.disk, damage.offset));
        damages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_one_cause_and_the_same_points_become_one_range() {
        let mut collector = Collector::new(vec!["a".to_owned(), "b".to_owned()]);
        for (point, offset, what) in [(0, 0, "x"), (0, 8, "x"), (0, 16, "x"), (0, 24, "y"), (1, 8, "x"), (1, 16, "x")] {
            collector.add(point, Some(0), offset, 8, what);
        }
        collector.add(1, None, 0, 0, "z");
        let told: Vec<_> = collector
            .finish()
            .into_iter()
            .map(|damage| (damage.points.concat(), damage.disk, damage.offset, damage.length, damage.what))
            .collect();
        let told: Vec<_> = told.iter().map(|(p, d, o, l, w)| (p.as_str(), *d, *o, *l, w.as_str())).collect();
        assert_eq!(
            told,
            [
                ("b", None, 0, 0, "z"),
                ("a", Some(0), 0, 8, "x"),
                ("ab", Some(0), 8, 16, "x"),
                ("a", Some(0), 24, 8, "y")
            ]
        );
    }

    #[test]
    fn what_is_beyond_the_limits_is_still_within_a_told_range() {
        let mut collector = Collector::new(vec!["a".to_owned()]);
        let count = MAX_RANGES as u64 + 10;
        for number in 0..count {
            collector.add(0, Some((number % 2) as u32), number * 100, 8, "x");
        }
        let damages = collector.finish();
        assert!(damages.len() <= MAX_DAMAGES);
        for number in 0..count {
            let covers = |damage: &&Damage| {
                damage.disk == Some((number % 2) as u32)
                    && damage.offset <= number * 100
                    && damage.offset + damage.length >= number * 100 + 8
            };
            assert!(damages.iter().any(|damage| covers(&damage)), "{number}");
        }
    }
}
