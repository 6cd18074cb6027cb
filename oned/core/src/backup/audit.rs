//! When a run of a chain reads whole disks and compares them with the restore point before, instead of trusting the record
//! of what changed.
//!
//! What it is: arithmetic over what is stored with the newest restore point, so that neither a restart nor KEEP_LAST, which
//! forgets old points, loses count. What it is not: the comparison, which a datastore's driver makes.

/// What the newest restore point of a chain says about comparisons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Runs since the disks were last read whole; 0 = this point did.
    pub age: i64,
    /// Bytes that its comparison found changed although the record of changes did not list them.
    pub unmarked_bytes: i64,
}

impl Audit {
    /// Whether the run after this one has to compare: every `every`-th run does (0 = never), and the one after a
    /// comparison that found something.
    #[must_use]
    pub fn is_due(self, every: u32) -> bool {
        every != 0 && (self.unmarked_bytes > 0 || self.age.saturating_add(1) >= i64::from(every))
    }

    /// [`Self::age`] of the run after this one.
    #[must_use]
    pub fn age_after(self, read_whole: bool) -> i64 {
        if read_whole { 0 } else { self.age.saturating_add(1) }
    }
}

/// The warning that goes with a comparison which found something.
#[must_use]
pub fn unmarked_warning(bytes: u64) -> String {
    format!(
        "the record of changes missed {bytes} bytes; this comparison of whole disks found and stored them, but earlier \
         restore points of the chain may hold older bytes there; the next backup is compared again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runs of a chain that compare, when none finds anything.
    fn runs(every: u32, count: i64) -> Vec<i64> {
        let mut audit = Audit::default();
        let mut compared = Vec::new();
        for run in 1..=count {
            let due = audit.is_due(every);
            compared.extend(due.then_some(run));
            audit.age = audit.age_after(due);
        }
        compared
    }

    #[test]
    fn every_fourteenth_run_compares() {
        assert_eq!(runs(14, 45), [14, 28, 42]);
        assert_eq!(runs(1, 3), [1, 2, 3]);
        assert_eq!(runs(0, 100), [0_i64; 0]);
    }

    #[test]
    fn what_was_found_is_looked_for_again() {
        let found = Audit { age: 0, unmarked_bytes: 1 };
        assert!(found.is_due(14));
        assert!(!found.is_due(0), "never is never");
        assert!(!Audit { age: 0, unmarked_bytes: 0 }.is_due(14));
    }

    #[test]
    fn a_run_that_read_everything_for_another_reason_counts() {
        let mut audit = Audit { age: 12, unmarked_bytes: 0 };
        audit.age = audit.age_after(true);
        assert!(!audit.is_due(14));
        assert!(Audit { age: i64::MAX, unmarked_bytes: 0 }.is_due(u32::MAX));
    }
}
