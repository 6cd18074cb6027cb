//! A catalogue made anew from what a datastore knows of its restore points: which of them form chains, and which ids they
//! show to have been given.
//!
//! What it is: pure functions over ids and names. What it is not: the reading of the datastore and the making of images.
//! Ids and names come from a directory that anybody may have filled, so nothing here trusts them.

use std::collections::HashMap;

/// The largest id that is believed; greater ones would not fit the wire's integers.
const ID_MAX: i64 = i32::MAX as i64 / 2;

/// Arranges points, given as (id, parent) from old to new, into chains: each begins with a point whose parent is not here
/// or has another successor already, and follows the parents. The numbers are places in `points`; chains are in the order
/// of their first points. Every point is in exactly one chain, whatever the parents say.
#[must_use]
pub fn chains(points: &[(&str, Option<&str>)]) -> Vec<Vec<usize>> {
    let mut places = HashMap::new();
    for (place, (id, _)) in points.iter().enumerate() {
        places.entry(*id).or_insert(place);
    }
    let mut next: Vec<Option<usize>> = vec![None; points.len()];
    let mut is_first = vec![true; points.len()];
    for (place, (_, parent)) in points.iter().enumerate() {
        let parent = parent.and_then(|parent| places.get(parent).copied()).filter(|parent| *parent != place);
        if let Some(free) = parent.and_then(|parent| next.get_mut(parent)).filter(|next| next.is_none()) {
            *free = Some(place);
            is_first[place] = false;
        }
    }
    let mut taken = vec![false; points.len()];
    let mut chains = Vec::new();
    // The second round takes up circles, which have no first point.
    for only_first in [true, false] {
        for first in 0..points.len() {
            if taken[first] || only_first && !is_first[first] {
                continue;
            }
            let mut chain = Vec::new();
            let mut at = Some(first);
            while let Some(place) = at.filter(|place| !taken[*place]) {
                taken[place] = true;
                chain.push(place);
                at = next[place];
            }
            chains.push(chain);
        }
    }
    chains
}

/// The number of a job in the name under which its point was stored (`job=42.6920f3c1`: number and time).
#[must_use]
pub fn job_id(name: &str) -> Option<i64> {
    let number = name.strip_prefix("job=")?;
    believed(number.split_once('.').map_or(number, |(number, _)| number))
}

/// How the group of a backup job's series is called, before its number.
const JOB_GROUP: &str = "job-";

/// The series that a VM's backups go into: `7`, and those that backup job 3 makes into `job-3/7`. What comes before the slash
/// is a group, whose members share space where the datastore's driver can do that.
#[must_use]
pub fn series(vm_id: i64, backup_job: Option<i64>) -> String {
    backup_job.map_or_else(|| vm_id.to_string(), |job| format!("{JOB_GROUP}{job}/{vm_id}"))
}

/// The backup job whose series this is.
#[must_use]
pub fn backup_job_id(series: &str) -> Option<i64> {
    let (group, _) = series.split_once('/')?;
    believed(group.strip_prefix(JOB_GROUP)?)
}

/// The VM of a point, from its tags (`one-7`), else from the name of its series (`7`, `job-3/7`).
#[must_use]
pub fn vm_id(series: &str, tags: &[String]) -> Option<i64> {
    let name = series.split_once('/').map_or(series, |(_, name)| name);
    tags.iter().find_map(|tag| tag.strip_prefix("one-").and_then(believed)).or_else(|| believed(name))
}

fn believed(text: &str) -> Option<i64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| is_number && (0..=ID_MAX).contains(id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_follow_their_parents() {
        let points = [("a", None), ("b", Some("a")), ("x", None), ("c", Some("b")), ("y", Some("gone"))];
        assert_eq!(chains(&points), [vec![0, 1, 3], vec![2], vec![4]]);
    }

    #[test]
    fn a_parent_with_two_children_is_continued_by_the_older() {
        assert_eq!(chains(&[("a", None), ("b", Some("a")), ("c", Some("a"))]), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn a_clock_that_went_back_does_not_break_a_chain() {
        assert_eq!(chains(&[("b", Some("a")), ("a", None)]), [vec![1, 0]]);
    }

    #[test]
    fn circles_and_points_that_are_their_own_parents_end() {
        assert_eq!(chains(&[("a", Some("b")), ("b", Some("a")), ("c", Some("c"))]), [vec![2], vec![0, 1]]);
    }

    #[test]
    fn ids_are_read_from_names_and_not_believed_when_they_cannot_be() {
        assert_eq!((job_id("job=42"), job_id("job=-1"), job_id("42")), (Some(42), None, None));
        assert_eq!((job_id("job=42.6920f3c1"), job_id("job=.1")), (Some(42), None));
        assert_eq!(job_id("job=9223372036854775807"), None);
        assert_eq!(vm_id("job_3", &["x".into(), "one-7".into()]), Some(7));
        assert_eq!((vm_id("7", &[]), vm_id("job_3", &[])), (Some(7), None));
        assert_eq!((vm_id("job-3/7", &[]), vm_id("job-3/7/8", &[]), vm_id("+7", &[])), (Some(7), None, None));
    }

    #[test]
    fn the_series_of_a_backup_jobs_vm_tells_both() {
        for (job, name) in [(None, "7"), (Some(3), "job-3/7")] {
            assert_eq!(series(7, job), name);
            assert_eq!((backup_job_id(name), vm_id(name, &[])), (job, Some(7)));
        }
        for name in ["job-3", "3/7", "job-/7", "job--3/7", "job-+3/7", "job-3x/7", "/", "job-9223372036854775807/7"] {
            assert_eq!(backup_job_id(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_point_is_in_one_chain(parents in proptest::collection::vec(proptest::option::of(0_usize..12), 0..10)) {
            let names: Vec<String> = (0..12).map(|number| number.to_string()).collect();
            let points: Vec<(&str, Option<&str>)> =
                parents.iter().enumerate().map(|(at, parent)| (names[at].as_str(), parent.map(|p| names[p].as_str()))).collect();
            let mut all: Vec<usize> = chains(&points).into_iter().flatten().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..points.len()).collect::<Vec<_>>());
        }
    }
}
