//! KEEP_LAST: which old backups go.
//!
//! What it is: arithmetic over ids. FULL mode counts images, and a chain is one image; INCREMENT mode also counts the
//! increments of the active chain. What it is not: the deleting and merging, which are jobs of their own.
//!
//! Invariant: the newest backup is never among those that go.

/// A backup image, for the choice of those that go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dated {
    /// Of its newest restore point, epoch seconds.
    pub date: i64,
    /// Its id.
    pub id: i64,
}

/// Which images to delete, oldest first, so that `keep_last` are left. 0 or less keeps all.
///
/// Age is that of the data: images that were taken up from a datastore later than others were made have higher ids than
/// newer ones. To be asked after the image `newest` was registered (FULL mode, or a new chain): `backups` holds it too, and
/// it stays, also when the clock went back and others seem to be newer.
pub fn expired_images(backups: &[Dated], newest: i64, keep_last: i64) -> Vec<i64> {
    let mut backups = backups.to_vec();
    backups.sort_unstable();
    backups.dedup();
    let surplus = surplus(backups.len(), keep_last);
    backups.iter().map(|image| image.id).filter(|id| *id != newest).take(surplus).collect()
}

/// How a chain is shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flatten {
    /// Increments that disappear, ascending; their data moves into `new_full`.
    pub drop: Vec<i64>,
    /// The increment that becomes the FULL one, with parent −1.
    pub new_full: i64,
}

/// How to shorten a chain of these increments so that `keep_last` are left; `None` when it is short enough or all are
/// kept.
pub fn flatten(increments: &[i64], keep_last: i64) -> Option<Flatten> {
    let mut ids = increments.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let surplus = surplus(ids.len(), keep_last);
    if surplus == 0 {
        return None;
    }
    let new_full = *ids.get(surplus)?;
    ids.truncate(surplus);
    Some(Flatten { drop: ids, new_full })
}

/// How many of `len` are too many.
fn surplus(len: usize, keep_last: i64) -> usize {
    match usize::try_from(keep_last) {
        Ok(0) | Err(_) => 0,
        Ok(keep) => len.saturating_sub(keep),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Images whose dates are their ids; the newest was just made.
    fn expired(ids: &[i64], keep_last: i64) -> Vec<i64> {
        let backups: Vec<Dated> = ids.iter().map(|id| Dated { date: *id, id: *id }).collect();
        expired_images(&backups, ids.iter().copied().max().unwrap_or(-1), keep_last)
    }

    #[test]
    fn full_mode_deletes_the_oldest() {
        assert_eq!(expired(&[9, 2, 5, 7], 2), [2, 5]);
        assert_eq!(expired(&[9, 2], 2), [0_i64; 0]);
        assert_eq!(expired(&[], 1), [0_i64; 0]);
        assert_eq!(expired(&[3], 1), [0_i64; 0]);
    }

    #[test]
    fn old_backups_with_high_ids_go_before_newer_ones() {
        let backups = [(300, 1), (400, 2), (500, 9), (100, 7), (200, 8)].map(|(date, id)| Dated { date, id });
        assert_eq!(expired_images(&backups, 9, 2), [7, 8, 1]);
        assert_eq!(expired_images(&backups, 9, 3), [7, 8]);
    }

    #[test]
    fn the_backup_just_made_stays_when_the_clock_went_back() {
        let backups = [(300, 1), (400, 2), (100, 3)].map(|(date, id)| Dated { date, id });
        assert_eq!(expired_images(&backups, 3, 2), [1]);
        assert_eq!(expired_images(&backups, 3, 1), [1, 2]);
    }

    #[test]
    fn keep_last_zero_or_less_keeps_all() {
        assert_eq!(expired(&[1, 2, 3], 0), [0_i64; 0]);
        assert_eq!(expired(&[1, 2, 3], -1), [0_i64; 0]);
        assert_eq!(flatten(&[0, 1, 2], 0), None);
        assert_eq!(flatten(&[0, 1, 2], i64::MIN), None);
    }

    #[test]
    fn increment_mode_merges_the_oldest_into_the_first_kept() {
        assert_eq!(flatten(&[0, 1, 2, 3, 4], 4), Some(Flatten { drop: vec![0], new_full: 1 }));
        assert_eq!(flatten(&[3, 4, 5, 6], 2), Some(Flatten { drop: vec![3, 4], new_full: 5 }));
        assert_eq!(flatten(&[0, 1], 1), Some(Flatten { drop: vec![0], new_full: 1 }));
        assert_eq!(flatten(&[0, 1, 2, 3], 4), None);
        assert_eq!(flatten(&[], 1), None);
    }

    proptest! {
        #[test]
        fn what_stays_is_the_newest_and_as_many_as_asked(
            ids in proptest::collection::btree_set(0_i64..1000, 0..60), keep in -2_i64..70,
        ) {
            let ids: Vec<i64> = ids.into_iter().collect();
            let gone = expired(&ids, keep);
            let left: Vec<i64> = ids.iter().copied().filter(|id| !gone.contains(id)).collect();
            prop_assert_eq!(&ids[gone.len()..], &left[..]);
            if keep > 0 {
                prop_assert_eq!(left.len(), ids.len().min(usize::try_from(keep).unwrap()));
            } else {
                prop_assert_eq!(left.len(), ids.len());
            }
            match flatten(&ids, keep) {
                Some(merge) => {
                    prop_assert_eq!(merge.new_full, left[0]);
                    prop_assert_eq!(merge.drop, gone);
                }
                None => prop_assert!(gone.is_empty()),
            }
        }
    }
}
