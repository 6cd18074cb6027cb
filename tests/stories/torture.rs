//! A sample of `make torture`: a few rounds whose seeds were chosen so that each victim is killed.

use system_tests::torture::Torture;

/// See `torture --rounds`; what each of them does is told when one fails.
const SEEDS: [u64; 5] = [20, 15, 6, 124, 2];

#[test]
fn whoever_is_killed_while_vms_are_backed_up_every_point_holds_one_moment_of_its_disk() {
    let mut torture = Torture::start().unwrap();
    let mut told = Vec::new();
    for seed in SEEDS {
        let outcome = torture.round(seed);
        told.push(outcome.unwrap_or_else(|error| panic!("seed {seed}: {error:#}\nbefore it:\n{}", told.join("\n"))));
    }
    let tally = torture.finish().unwrap();
    assert_eq!(tally.rounds, SEEDS.len() as u64);
    assert_eq!(tally.kills.len(), 4, "the seeds kill only {tally}");
    assert!(tally.points > 0, "{tally}");
}
