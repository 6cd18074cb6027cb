//! Measured rows: printed as a table, kept as JSON lines.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// One comparison. The ratio tells how many times better we are than the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its short name.
    pub bench: String,
    /// What had to be done.
    pub work: String,
    /// Who did it.
    pub subject: String,
    /// Our figure; less is better.
    pub value: f64,
    /// `s`, `ms` or `MiB`.
    pub unit: &'static str,
    /// Beside whom.
    pub against: String,
    /// The other's figure; in the table only.
    pub theirs: f64,
    /// The other's figure divided by ours, in the same round; of several rounds the median.
    pub ratio: Option<f64>,
    /// The least ratio that we hold to be right; none when there is nothing to be won.
    pub goal: Option<f64>,
}

impl Row {
    /// Whether the goal is met; none without a goal.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        Some(self.ratio? >= self.goal?)
    }

    /// As one line of the results file. Figures have six digits after the point.
    #[must_use]
    pub fn json(&self) -> Value {
        let round = |number: f64| (number * 1e6).round() / 1e6;
        json!({
            "bench": self.bench, "work": self.work, "subject": self.subject, "value": round(self.value),
            "unit": self.unit, "against": self.against, "ratio": self.ratio.map(round), "goal": self.goal,
            "met": self.met(),
        })
    }
}

/// Appends rows to the results file.
///
/// # Errors
/// When it cannot be written.
pub fn append(path: &Path, rows: &[Value]) -> Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    Ok(file.write_all(text.as_bytes())?)
}

/// The rows for a terminal, a blank line between benches.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let head = ["bench", "ours", "against", "theirs", "ratio", "goal", ""].map(String::from).to_vec();
    let mut lines = vec![head];
    for row in rows {
        let number = |value: f64| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
        let times = |value: f64| format!("{}x", number(value));
        lines.push(vec![
            row.bench.clone(),
            format!("{} {}", number(row.value), row.unit),
            row.against.clone(),
            format!("{} {}", number(row.theirs), row.unit),
            row.ratio.map_or("-".into(), times),
            row.goal.map_or("-".into(), times),
            row.met().map_or("", |met| if met { "met" } else { "NOT MET" }).into(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut text = String::new();
    let mut before: Option<&String> = None;
    for line in &lines {
        if before.is_some_and(|before| *before != line[0]) {
            text.push('\n');
        }
        before = Some(&line[0]);
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 2 | 6 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The middle of some figures; of an even number the mean of the two in the middle, of none 0.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ratio: Option<f64>, goal: Option<f64>) -> Row {
        let [bench, work, subject, against] = ["full", "a disk", "keeplast", "restic"].map(String::from);
        Row { bench, work, subject, value: 2.0, unit: "s", against, theirs: 20.0, ratio, goal }
    }

    #[test]
    fn a_goal_is_met_from_its_value_on() {
        assert_eq!(row(Some(1.0), Some(1.0)).met(), Some(true));
        assert_eq!(row(Some(0.99), Some(1.0)).met(), Some(false));
        assert_eq!(row(Some(1.0), None).met(), None);
        let json = row(Some(1.5), Some(1.0)).json();
        assert_eq!(json["met"], true);
        assert_eq!(json["ratio"], 1.5);
        assert!(row(None, None).json()["goal"].is_null());
    }

    #[test]
    fn the_table_shows_both_figures() {
        let text = render(&[row(Some(10.0), Some(1.0)), row(Some(0.5), Some(1.0)), row(None, None)]);
        assert!(text.contains("full   2.00 s  restic   20.0 s  10.0x  1.00x  met\n"), "{text}");
        assert!(text.contains("NOT MET"), "{text}");
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
