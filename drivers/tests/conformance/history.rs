//! Any history of a series against a map of bytes.

use std::cell::Cell;

use drivers::BackupDatastore;
use drivers::datastore::Depth;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::disk::{differences, noise};
use super::{Rig, Series, Source};

const DISKS: usize = 2;

/// A write into a disk: which one, where, how many sectors, and whether zeros.
type Write = (usize, Index, usize, bool);

#[derive(Debug, Clone)]
enum Step {
    Full(Vec<Write>),
    Increment(Index, Vec<Write>),
    Compare(Index, Vec<Write>, bool),
    Forget(Vec<Index>),
    Sweep,
    Reopen,
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec((0..DISKS, any::<Index>(), 1_usize..200, any::<bool>()), 0..5)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => writes().prop_map(Step::Full),
        5 => (any::<Index>(), writes()).prop_map(|(parent, writes)| Step::Increment(parent, writes)),
        2 => (any::<Index>(), writes(), any::<bool>()).prop_map(|(parent, writes, told)| Step::Compare(parent, writes, told)),
        3 => prop::collection::vec(any::<Index>(), 1..3).prop_map(Step::Forget),
        1 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

type Disks = [Vec<u8>; DISKS];

/// What should be there.
struct Model {
    points: Vec<(String, Disks)>,
    now: Disks,
    jobs: u64,
}

impl Model {
    fn write(&mut self, writes: &[Write]) {
        for (disk, at, sectors, zero) in writes {
            let bytes = &mut self.now[*disk];
            let start = at.index(bytes.len() / 512) * 512;
            let end = (start + sectors * 512).min(bytes.len());
            self.jobs += 1;
            let new = if *zero { vec![0; end - start] } else { noise(end - start, self.jobs) };
            bytes[start..end].copy_from_slice(&new);
        }
    }

    fn store(&mut self, store: Series<'_>, parent: Option<usize>, compare: Option<bool>) {
        self.jobs += 1;
        let job = format!("job={}", self.jobs);
        let parent = parent.map(|at| &self.points[at]);
        let sources = (0..).zip(&self.now).map(|(id, new)| match (parent, compare) {
            (Some((_, old)), Some(told)) => {
                Source::of(new).compared(id, told.then(|| differences(&old[id as usize], new)))
            }
            (Some((_, old)), None) => Source::since(&old[id as usize], new).changes(id),
            (None, _) => Source::of(new).whole(id),
        });
        let stored = store.store(&job, parent.map(|(point, _)| point.as_str()), sources.collect()).unwrap();
        assert_eq!(stored.unmarked_bytes, 0);
        self.points.push((stored.point, self.now.clone()));
    }

    fn take(&mut self, store: Series<'_>, step: &Step) {
        let is_empty = self.points.is_empty();
        match step {
            Step::Full(writes) => {
                self.write(writes);
                self.store(store, None, None);
            }
            Step::Increment(parent, writes) if !is_empty => {
                self.write(writes);
                self.store(store, Some(parent.index(self.points.len())), None);
            }
            Step::Compare(parent, writes, told) if !is_empty => {
                self.write(writes);
                self.store(store, Some(parent.index(self.points.len())), Some(*told));
            }
            Step::Forget(which) if !is_empty => {
                let gone: Vec<String> =
                    which.iter().map(|at| self.points[at.index(self.points.len())].0.clone()).collect();
                store.forget(&gone.iter().map(String::as_str).collect::<Vec<_>>());
                self.points.retain(|(point, _)| !gone.contains(point));
            }
            Step::Sweep => store.sweep(),
            Step::Increment(..) | Step::Compare(..) | Step::Forget(_) | Step::Reopen => {}
        }
    }

    fn check(&self, store: Series<'_>, what: &str) {
        let mut ids: Vec<&str> = self.points.iter().map(|(point, _)| point.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(store.ids(), ids, "{what}");
        for (point, disks) in &self.points {
            store.check(point, &[&disks[0], &disks[1]]);
        }
    }
}

pub fn any_history_equals_a_byte_map(rig: &dyn Rig) {
    let config = Config { cases: 6, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let number = Cell::new(0);
    let most = (6 * rig.chunk() / 512) as usize;
    let history = (1..most, 1..most, prop::collection::vec(step(), 1..12));
    let result = TestRunner::new(config).run(&history, |(first, second, steps)| {
        number.set(number.get() + 1);
        let name = format!("{}", number.get());
        let mut owner: Box<dyn BackupDatastore> = rig.open();
        let mut model = Model { points: Vec::new(), now: [noise(first * 512, 1), noise(second * 512, 2)], jobs: 0 };
        for (at, step) in steps.iter().enumerate() {
            if matches!(step, Step::Reopen) {
                owner = rig.open();
            }
            let store = Series { datastore: &*owner, name: &name };
            model.take(store, step);
            model.check(store, &format!("after step {at}"));
        }
        let store = Series { datastore: &*owner, name: &name };
        let verified = store.verify(&store.ids(), Depth::Deep);
        prop_assert!(model.points.is_empty() || verified.as_ref().is_ok_and(|found| found.damages.is_empty()));
        Ok::<(), TestCaseError>(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
