//! What happens in a round, drawn from its seed. What is drawn never depends on what the machine did.

use std::fmt;

use crate::bench::content::Numbers;

/// VMs in the cloud.
pub const VMS: usize = 3;
/// The latest moment of a kill, milliseconds after the backups were begun.
const LATEST_MS: u64 = 1500;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The daemon.
    Oned,
    /// libvirtd; the QEMUs live on.
    Libvirtd,
    /// The QEMU of a VM.
    Guest(usize),
    /// The process of a datastore.
    Store(usize),
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oned => f.write_str("oned"),
            Self::Libvirtd => f.write_str("libvirtd"),
            Self::Guest(vm) => write!(f, "guest {vm}"),
            Self::Store(store) => write!(f, "datastore process {store}"),
        }
    }
}

/// Something that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// KEEP_LAST of a VM gets another value.
    Keep {
        /// The VM.
        vm: usize,
        /// The value.
        keep: i64,
    },
    /// The oldest backup image of a VM is deleted, if there are several.
    DeleteOldest(usize),
    /// A backup is asked for.
    Backup {
        /// Of which VM.
        vm: usize,
        /// As a new chain.
        reset: bool,
    },
    /// The backup of a VM is cancelled.
    Cancel(usize),
    /// SIGKILL.
    Kill(Victim),
    /// What was killed is started again; nothing is done for guests and datastores' processes.
    Start(Victim),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep { vm, keep } => write!(f, "KEEP_LAST of {vm} = {keep}"),
            Self::DeleteOldest(vm) => write!(f, "oldest of {vm} deleted"),
            Self::Backup { vm, reset: false } => write!(f, "backup {vm}"),
            Self::Backup { vm, reset: true } => write!(f, "backup {vm} anew"),
            Self::Cancel(vm) => write!(f, "cancel {vm}"),
            Self::Kill(victim) => write!(f, "kill {victim}"),
            Self::Start(victim) => write!(f, "start {victim}"),
        }
    }
}

/// A round.
#[derive(Debug, Clone)]
pub struct Round {
    /// What is done, and when, in milliseconds from the start; in order.
    pub acts: Vec<(u64, Act)>,
    /// Which VM stays off for the next round if its guest was killed.
    pub stays_off: bool,
    /// Where the choice of points that are read again begins.
    pub reading: u64,
}

impl Round {
    /// The round of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut acts = Vec::new();
        if one_in(&mut numbers, 5) {
            acts.push((0, Act::Keep { vm: vm(&mut numbers), keep: 1 + below(&mut numbers, 5) as i64 }));
        }
        if one_in(&mut numbers, 6) {
            acts.push((0, Act::DeleteOldest(vm(&mut numbers))));
        }
        // At least one backup, and often all.
        let chosen = 1 + below(&mut numbers, (1 << VMS) - 1);
        let all = one_in(&mut numbers, 2);
        for vm in (0..VMS).filter(|vm| all || chosen >> vm & 1 == 1) {
            acts.push((1 + below(&mut numbers, 200), Act::Backup { vm, reset: one_in(&mut numbers, 8) }));
        }
        if one_in(&mut numbers, 4) {
            acts.push((1 + below(&mut numbers, LATEST_MS), Act::Cancel(vm(&mut numbers))));
        }
        let kills = [0, 1, 1, 1, 1, 1, 2, 2][below(&mut numbers, 8) as usize];
        let mut killed = Vec::new();
        for _ in 0..kills {
            let victim = match below(&mut numbers, 8) {
                0..=2 => Victim::Oned,
                3..=4 => Victim::Libvirtd,
                5..=6 => Victim::Guest(vm(&mut numbers)),
                _ => Victim::Store(below(&mut numbers, 2) as usize),
            };
            let at = below(&mut numbers, LATEST_MS + 1);
            let back = at + below(&mut numbers, 800);
            if !killed.contains(&victim) {
                acts.extend([(at, Act::Kill(victim)), (back, Act::Start(victim))]);
                killed.push(victim);
            }
        }
        acts.sort_by_key(|(at, _)| *at);
        Self { acts, stays_off: one_in(&mut numbers, 3), reading: numbers.draw() }
    }

    /// Who is killed.
    pub fn victims(&self) -> impl Iterator<Item = Victim> {
        self.acts.iter().filter_map(|(_, act)| match act {
            Act::Kill(victim) => Some(*victim),
            _ => None,
        })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.acts.iter().filter(|(_, act)| !matches!(act, Act::Start(_)));
        for (number, (at, act)) in shown.enumerate() {
            write!(f, "{}{act} at {at} ms", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The seed of a round of a run.
#[must_use]
pub fn round_seed(seed: u64, round: u64) -> u64 {
    Numbers::new(seed ^ round.wrapping_mul(0x9e37_79b9)).draw()
}

fn below(numbers: &mut Numbers, limit: u64) -> u64 {
    numbers.draw() % limit.max(1)
}

fn one_in(numbers: &mut Numbers, chances: u64) -> bool {
    below(numbers, chances) == 0
}

fn vm(numbers: &mut Numbers) -> usize {
    below(numbers, VMS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_round_and_all_things_happen_in_some_of_them() {
        assert_eq!(Round::of(7).acts, Round::of(7).acts);
        let rounds: Vec<Round> = (0..200).map(|number| Round::of(round_seed(1, number))).collect();
        assert!(rounds.iter().all(|round| round.acts.iter().any(|(_, act)| matches!(act, Act::Backup { .. }))));
        assert!(rounds.iter().any(|round| round.victims().count() == 0));
        for victim in [Victim::Oned, Victim::Libvirtd, Victim::Guest(2), Victim::Store(1)] {
            assert!(rounds.iter().any(|round| round.victims().any(|killed| killed == victim)), "{victim}");
        }
    }
}
