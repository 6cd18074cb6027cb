use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn vm(owner: i64, host: i64, datastore: i64) -> Waiting {
    Waiting { place: Place { owner, host: Some(host), datastore: Some(datastore) }, priority: None, sequence: None }
}

fn member(owner: i64, host: i64, priority: i64) -> Waiting {
    Waiting { priority: Some(priority), ..vm(owner, host, 100) }
}

fn running(one: Waiting) -> Running {
    Running { place: one.place, sequence: one.sequence }
}

fn limits(cloud: u32, host: u32) -> Limits {
    Limits { cloud: Some(cloud), host: Some(host), datastore: HashMap::new() }
}

fn present(of: &[Waiting]) -> Present {
    Present { running: of.iter().copied().map(running).collect(), turns: HashMap::new() }
}

#[test]
fn without_limits_all_start_and_owners_take_turns() {
    let waiting = [vm(1, 0, 100), vm(1, 0, 100), vm(1, 0, 100), vm(2, 0, 100), vm(3, 0, 100)];
    assert_eq!(choose(&waiting, &Present::default(), &Limits::default()), [0, 3, 4, 1, 2]);
    assert!(choose(&[], &Present::default(), &Limits::default()).is_empty());
}

#[test]
fn a_full_host_and_a_full_datastore_are_passed_over() {
    let waiting = [vm(1, 0, 100), vm(1, 1, 100), vm(1, 0, 101), vm(1, 1, 101)];
    let mut limits = limits(9, 1);
    assert_eq!(choose(&waiting, &present(&[vm(9, 0, 100)]), &limits), [1]);
    limits.host = None;
    limits.datastore = HashMap::from([(100, 1)]);
    assert_eq!(choose(&waiting, &present(&[vm(9, 0, 100)]), &limits), [2, 3]);
}

#[test]
fn a_full_cloud_starts_nothing_and_a_limit_of_none_is_none() {
    let waiting = [vm(1, 0, 100), vm(2, 1, 101)];
    assert!(choose(&waiting, &present(&[vm(9, 5, 105)]), &limits(1, 9)).is_empty());
    assert!(choose(&waiting, &Present::default(), &limits(0, 9)).is_empty());
    let unplaced = Waiting { place: Place { owner: 1, host: None, datastore: None }, ..waiting[0] };
    assert_eq!(choose(&[unplaced; 3], &Present::default(), &limits(2, 1)), [0, 1]);
}

#[test]
fn actions_of_vms_come_before_jobs_and_jobs_by_priority() {
    let waiting = [member(1, 0, 50), member(1, 0, 99), vm(1, 0, 100), member(1, 0, 0), member(1, 0, 99)];
    assert_eq!(choose(&waiting, &Present::default(), &Limits::default()), [2, 1, 4, 0, 3]);
    assert_eq!(choose(&waiting, &Present::default(), &limits(2, 9)), [2, 1]);
}

#[test]
fn who_has_the_fewest_running_goes_first() {
    let waiting = [vm(1, 0, 100), vm(2, 0, 100), vm(3, 0, 100)];
    let runs = present(&[vm(1, 5, 100), vm(1, 5, 100), vm(2, 5, 100)]);
    assert_eq!(choose(&waiting, &runs, &limits(9, 9)), [2, 1, 0]);
}

#[test]
fn between_equals_it_is_the_turn_of_who_was_served_longest_ago() {
    let waiting = [vm(1, 0, 100), vm(2, 0, 100), vm(3, 0, 100), vm(4, 0, 100)];
    let present = Present { running: Vec::new(), turns: HashMap::from([(1, 12), (2, 7), (4, 9)]) };
    assert_eq!(choose(&waiting, &present, &Limits::default()), [2, 1, 3, 0]);
}

#[test]
fn a_sequential_job_has_one_at_a_time() {
    let part = Waiting { sequence: Some(7), ..member(1, 0, 50) };
    let waiting = [part, part, member(1, 0, 50)];
    assert_eq!(choose(&waiting, &Present::default(), &Limits::default()), [0, 2]);
    assert_eq!(choose(&waiting, &present(&[part]), &Limits::default()), [2]);
}

#[test]
fn ten_thousand_that_wait_for_a_full_host_cost_no_more_than_a_look_at_each() {
    // All but the last stand on a host that is full: none of them is looked at twice.
    let mut waiting: Vec<Waiting> = (0..10_000).map(|n| vm(n % 7, 0, 100)).collect();
    waiting.push(vm(3, 1, 100));
    assert_eq!(choose(&waiting, &present(&[vm(9, 0, 100)]), &limits(9, 1)), [10_000]);
}

fn some_waiting() -> impl Strategy<Value = Waiting> {
    (0..4_i64, prop::option::of(0..3_i64), prop::option::of(100..103_i64), prop::option::of(0..3_i64), 0..4_i64)
        .prop_map(|(owner, host, datastore, priority, sequence)| Waiting {
            place: Place { owner, host, datastore },
            priority,
            sequence: (priority.is_some() && sequence < 2).then_some(sequence),
        })
}

fn some_limits() -> impl Strategy<Value = Limits> {
    (prop::option::of(0..9_u32), prop::option::of(0..4_u32), prop::collection::hash_map(100..103_i64, 1..4_u32, 0..3))
        .prop_map(|(cloud, host, datastore)| Limits { cloud, host, datastore })
}

fn some_present() -> impl Strategy<Value = Present> {
    (prop::collection::vec(some_waiting(), 0..6), prop::collection::hash_map(0..4_i64, 0..9_i64, 0..4))
        .prop_map(|(of, turns)| Present { turns, ..present(&of) })
}

/// Whether one more may start beside those; the limits, said in another way.
fn may_start(one: &Waiting, beside: &[Running], limits: &Limits) -> bool {
    let count = |same: &dyn Fn(&Running) -> bool| beside.iter().filter(|other| same(other)).count();
    let under = |count: usize, limit: Option<u32>| limit.is_none_or(|limit| count < limit as usize);
    under(beside.len(), limits.cloud)
        && (one.place.host.is_none() || under(count(&|other| other.place.host == one.place.host), limits.host))
        && one.place.datastore.is_none_or(|id| {
            under(count(&|other| other.place.datastore == Some(id)), limits.datastore.get(&id).copied())
        })
        && one.sequence.is_none_or(|id| count(&|other| other.sequence == Some(id)) == 0)
}

proptest! {
    #[test]
    fn no_limit_is_passed_and_nobody_waits_who_could_start(
        waiting in prop::collection::vec(some_waiting(), 0..30),
        present in some_present(),
        limits in some_limits(),
    ) {
        let chosen = choose(&waiting, &present, &limits);
        let mut beside = present.running.clone();
        for index in &chosen {
            prop_assert!(may_start(&waiting[*index], &beside, &limits), "{index} passes a limit");
            beside.push(running(waiting[*index]));
        }
        for (index, one) in waiting.iter().enumerate().filter(|(index, _)| !chosen.contains(index)) {
            prop_assert!(!may_start(one, &beside, &limits), "{index} could have been started");
        }
    }

    #[test]
    fn each_is_chosen_once_and_those_of_one_owner_and_place_in_their_order(
        waiting in prop::collection::vec(some_waiting(), 0..30),
        present in some_present(),
        limits in some_limits(),
    ) {
        let chosen = choose(&waiting, &present, &limits);
        for (at, index) in chosen.iter().enumerate() {
            let same = |other: &&usize| waiting[**other] == waiting[*index];
            prop_assert!(chosen[..at].iter().filter(same).all(|before| before < index));
        }
        let classes: Vec<_> = chosen.iter().map(|index| Class::of(&waiting[*index])).collect();
        prop_assert!(classes.is_sorted_by(|a, b| a >= b), "{classes:?}");
    }

    #[test]
    fn those_of_one_owner_start_in_their_order_when_only_the_cloud_is_limited(
        waiting in prop::collection::vec(0..5_i64, 1..40),
        slots in 0..20_u32,
    ) {
        let waiting: Vec<Waiting> = waiting.into_iter().map(|owner| vm(owner, 0, 100)).collect();
        let limits = Limits { cloud: Some(slots), ..Limits::default() };
        let chosen = choose(&waiting, &Present::default(), &limits);
        let mut last = BTreeMap::new();
        for index in chosen {
            let before = last.insert(waiting[index].place.owner, index);
            prop_assert!(before.is_none_or(|before| before < index));
        }
    }

    #[test]
    fn with_one_slot_owners_take_turns(counts in prop::collection::vec(1..6_usize, 1..5)) {
        // The first owner's all wait longer than anybody else's.
        let mut waiting: Vec<Waiting> = counts
            .iter()
            .zip(0_i64..)
            .flat_map(|(count, owner)| std::iter::repeat_n(vm(owner, 0, 100), *count))
            .collect();
        let mut turns = HashMap::new();
        let mut served = vec![0; counts.len()];
        for round in 0..waiting.len() {
            let present = Present { running: Vec::new(), turns: turns.clone() };
            let chosen = choose(&waiting, &present, &limits(1, 1));
            prop_assert_eq!(chosen.len(), 1);
            let owner = waiting.remove(chosen[0]).place.owner;
            turns.insert(owner, i64::try_from(round).unwrap());
            served[usize::try_from(owner).unwrap()] += 1;
            // Nobody is more than one turn ahead of an owner who still waits.
            for (owner, count) in (0_i64..).zip(&served) {
                let waits = waiting.iter().any(|one| one.place.owner == owner);
                prop_assert!(!waits || served.iter().all(|other| *other <= count + 1), "{served:?}");
            }
        }
    }
}
