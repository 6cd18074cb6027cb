//! The figures of one bench, by who made them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::median;

/// Figures in the order of rounds.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<String, Vec<f64>>);

impl Figures {
    /// Adds a figure.
    pub fn add(&mut self, who: &str, figure: f64) {
        self.0.entry(who.to_owned()).or_default().push(figure);
    }

    /// Adds a time, seconds.
    pub fn time(&mut self, who: &str, took: Duration) {
        self.add(who, took.as_secs_f64());
    }

    /// All of one.
    #[must_use]
    pub fn all(&self, who: &str) -> &[f64] {
        self.0.get(who).map_or(&[], Vec::as_slice)
    }

    /// The median of one.
    #[must_use]
    pub fn median(&self, who: &str) -> f64 {
        median(self.all(who))
    }

    /// The median of the ratios of each round, not the ratio of medians: what slows the machine for a round slows both.
    #[must_use]
    pub fn ratio(&self, ours: &str, theirs: &str) -> Option<f64> {
        let pairs = self.all(ours).iter().zip(self.all(theirs));
        let ratios: Vec<f64> = pairs.filter(|(ours, _)| **ours > 0.0).map(|(ours, theirs)| theirs / ours).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// What was added since `line` (the last shown), for a person who waits.
    #[must_use]
    pub fn last(&self) -> String {
        let cells = self.0.iter().filter_map(|(who, all)| all.last().map(|figure| format!("{who} {figure:.2}")));
        cells.collect::<Vec<_>>().join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut figures = Figures::default();
        for (ours, theirs) in [(1.0, 2.0), (10.0, 30.0), (1.0, 4.0)] {
            figures.add("ours", ours);
            figures.add("theirs", theirs);
        }
        assert_eq!(figures.ratio("ours", "theirs"), Some(3.0));
        assert_eq!(figures.ratio("ours", "nobody"), None);
        assert_eq!(figures.last(), "ours 1.00 · theirs 4.00");
    }
}
