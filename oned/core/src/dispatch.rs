//! Which of the backups that wait start now.
//!
//! What it is: arithmetic over who waits and who runs. What it is not: it starts nothing and knows no clock; whatever is
//! not chosen is asked about again in the next round.
//!
//! Invariants: no limit is passed by what is chosen together with what runs; who cannot start holds up nobody else.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};

/// What a backup takes while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The owner of the VM.
    pub owner: i64,
    /// The host of the VM.
    pub host: Option<i64>,
    /// The datastore that it writes to; none when that is not known yet.
    pub datastore: Option<i64>,
}

/// A backup that wants to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// What it would take.
    pub place: Place,
    /// The priority of its backup job, high first; none = it is no part of one, and comes before all that are.
    pub priority: Option<i64>,
    /// The sequential backup job that it is part of: one of them at a time.
    pub sequence: Option<i64>,
}

/// The most that may run at a time; none is no limit.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// In the whole cloud (MAX_BACKUPS).
    pub cloud: Option<u32>,
    /// On one host (MAX_BACKUPS_HOST).
    pub host: Option<u32>,
    /// Into one datastore (MAX_BACKUPS of its template), by its id.
    pub datastore: HashMap<i64, u32>,
}

/// A backup that was started and has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// What it takes.
    pub place: Place,
    /// The backup job that it is part of.
    pub sequence: Option<i64>,
}

/// Who has slots, and who had the last ones.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// The backups that take slots now.
    pub running: Vec<Running>,
    /// When an owner's last backup was started, in any numbers that grow: between owners who have equally many, it is the
    /// turn of the one whose last is the longest ago. Who is missing had none.
    pub turns: HashMap<i64, i64>,
}

/// Which of those that wait start now, as indices into `waiting`, in the order in which to start. `waiting` is in the order
/// in which they began to wait.
///
/// First come those that are no part of a backup job, then jobs by their priority. Within such a class it is the turn of the
/// owner who has the fewest running, then of the one who was not served for longest, then of the one who waits longest; of
/// one owner the longest waiting goes first. Who cannot start (its host or datastore is full, its sequential job is at work)
/// is passed over.
#[must_use]
pub fn choose(waiting: &[Waiting], present: &Present, limits: &Limits) -> Vec<usize> {
    let mut taken = Taken::by(&present.running);
    let mut turns = Turns::after(present);
    let mut classes: BTreeMap<Reverse<Class>, HashMap<i64, VecDeque<usize>>> = BTreeMap::new();
    for (index, one) in waiting.iter().enumerate() {
        let class = classes.entry(Reverse(Class::of(one))).or_default();
        class.entry(one.place.owner).or_default().push_back(index);
    }
    let mut chosen = Vec::new();
    for mut owners in classes.into_values() {
        let mut queue: BinaryHeap<_> = owners
            .iter()
            .filter_map(|(owner, own)| own.front().map(|first| Reverse((turns.of(*owner), *first, *owner))))
            .collect();
        while let Some(Reverse((_, first, owner))) = queue.pop() {
            if taken.is_full(limits) {
                return chosen;
            }
            let Some(own) = owners.get_mut(&owner) else { continue };
            // What cannot start now cannot start later in this round either: what is taken only grows.
            while own.front().is_some_and(|index| !waiting.get(*index).is_some_and(|one| taken.has_room(one, limits))) {
                own.pop_front();
            }
            if own.front() == Some(&first) {
                own.pop_front();
                chosen.push(first);
                if let Some(one) = waiting.get(first) {
                    taken.add(one.place, one.sequence);
                }
                turns.serve(owner);
            }
            if let Some(next) = own.front() {
                queue.push(Reverse((turns.of(owner), *next, owner)));
            }
        }
    }
    chosen
}

/// What comes first: the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    BackupJob(i64),
    Vm,
}

impl Class {
    fn of(waiting: &Waiting) -> Self {
        waiting.priority.map_or(Self::Vm, Self::BackupJob)
    }
}

/// Slots that are taken.
#[derive(Default)]
struct Taken {
    cloud: usize,
    hosts: HashMap<i64, usize>,
    datastores: HashMap<i64, usize>,
    sequences: HashSet<i64>,
}

impl Taken {
    fn by(running: &[Running]) -> Self {
        let mut taken = Self::default();
        running.iter().for_each(|one| taken.add(one.place, one.sequence));
        taken
    }

    fn add(&mut self, place: Place, sequence: Option<i64>) {
        self.cloud += 1;
        if let Some(host) = place.host {
            *self.hosts.entry(host).or_default() += 1;
        }
        if let Some(datastore) = place.datastore {
            *self.datastores.entry(datastore).or_default() += 1;
        }
        self.sequences.extend(sequence);
    }

    fn is_full(&self, limits: &Limits) -> bool {
        !below(self.cloud, limits.cloud)
    }

    fn has_room(&self, one: &Waiting, limits: &Limits) -> bool {
        let count = |of: &HashMap<i64, usize>, id: Option<i64>| id.and_then(|id| of.get(&id).copied()).unwrap_or(0);
        let datastore = one.place.datastore.and_then(|id| limits.datastore.get(&id).copied());
        !self.is_full(limits)
            && (one.place.host.is_none() || below(count(&self.hosts, one.place.host), limits.host))
            && below(count(&self.datastores, one.place.datastore), datastore)
            && one.sequence.is_none_or(|sequence| !self.sequences.contains(&sequence))
    }
}

fn below(count: usize, limit: Option<u32>) -> bool {
    limit.is_none_or(|limit| u32::try_from(count).is_ok_and(|count| count < limit))
}

/// Whose turn it is: the smaller (how many run, when the last was started).
struct Turns {
    of: HashMap<i64, (usize, i64)>,
    newest: i64,
}

impl Turns {
    fn after(present: &Present) -> Self {
        let mut of: HashMap<i64, (usize, i64)> =
            present.turns.iter().map(|(owner, turn)| (*owner, (0, *turn))).collect();
        for one in &present.running {
            of.entry(one.place.owner).or_insert((0, i64::MIN)).0 += 1;
        }
        Self { of, newest: present.turns.values().copied().max().unwrap_or(0) }
    }

    fn of(&self, owner: i64) -> (usize, i64) {
        self.of.get(&owner).copied().unwrap_or((0, i64::MIN))
    }

    fn serve(&mut self, owner: i64) {
        self.newest = self.newest.saturating_add(1);
        let (running, turn) = self.of.entry(owner).or_insert((0, i64::MIN));
        (*running, *turn) = (*running + 1, self.newest);
    }
}

#[cfg(test)]
mod tests;
