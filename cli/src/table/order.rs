//! Which cell comes first: numbers, then sizes (`172M`, `1.5G`) by what they stand for, then text.

use std::cmp::Ordering;

use anyhow::Result;

use super::{Column, ListOptions};
use crate::xml::Element;

/// A cell as it sorts. Never NaN: only what begins with a digit, a sign or a dot is a number.
#[derive(Debug, PartialEq)]
enum Key {
    Number(f64),
    Size(f64),
    Text(String),
}

/// Sorts as `--order` says; what is equal in all its columns stays as it was.
///
/// # Errors
/// What `find` says of a column that there is not.
pub fn sort<'a>(
    elements: &mut [&Element],
    options: &ListOptions,
    find: &impl Fn(&str) -> Result<&'a Column>,
) -> Result<()> {
    // The last column first: the sort keeps the order of what is equal.
    for word in options.order.iter().map(|word| word.trim()).rev() {
        let down = word.strip_prefix('-');
        let column = find(down.unwrap_or(word))?;
        let keyed = |element: &&'_ Element| key(&column.text(element, options));
        let mut pairs: Vec<(Key, &Element)> = elements.iter().map(|element| (keyed(element), *element)).collect();
        pairs.sort_by(|(one, _), (other, _)| if down.is_some() { rank(other, one) } else { rank(one, other) });
        elements.iter_mut().zip(pairs).for_each(|(place, (_, element))| *place = element);
    }
    Ok(())
}

/// How a cell compares with what a filter names: as text, unless both are numbers or both are sizes.
#[must_use]
pub fn compare(cell: &str, value: &str) -> Ordering {
    match (key(cell), key(value)) {
        (Key::Number(one), Key::Number(other)) | (Key::Size(one), Key::Size(other)) => number(one, other),
        _ => cell.cmp(value),
    }
}

/// A total order over all keys.
fn rank(one: &Key, other: &Key) -> Ordering {
    match (one, other) {
        (Key::Number(one), Key::Number(other)) | (Key::Size(one), Key::Size(other)) => number(*one, *other),
        (Key::Text(one), Key::Text(other)) => one.cmp(other),
        (Key::Number(_), _) | (Key::Size(_), Key::Text(_)) => Ordering::Less,
        (_, Key::Number(_)) | (Key::Text(_), Key::Size(_)) => Ordering::Greater,
    }
}

fn number(one: f64, other: f64) -> Ordering {
    one.partial_cmp(&other).unwrap_or(Ordering::Equal)
}

/// Text keeps its leading blanks: durations are aligned by them.
fn key(cell: &str) -> Key {
    let word = cell.trim();
    let text = || Key::Text(cell.trim_end().to_owned());
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
        return text();
    }
    if let Some(value) = word.parse::<f64>().ok().filter(|value| value.is_finite()) {
        return Key::Number(value);
    }
    let mut letters = word.chars();
    let suffix = letters.next_back().unwrap_or_default();
    let power = match suffix {
        '%' => Some(0),
        _ => "BKMGTPE".find(suffix),
    };
    let value = letters.as_str().parse::<f64>().ok().filter(|value| value.is_finite());
    match (power.and_then(|power| i32::try_from(power).ok()), value) {
        (Some(power), Some(value)) => Key::Size(value * 1024_f64.powi(power)),
        _ => text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_sort_by_what_they_stand_for_and_numbers_before_text() {
        let mut cells = ["b", "2G", "10", "172M", "9", "  3d 01h00m", " 12d 00h00m", "1.5K", "-", "100%", "nan", "a"];
        cells.sort_by(|one, other| rank(&key(one), &key(other)));
        assert_eq!(
            cells,
            ["9", "10", "100%", "1.5K", "172M", "2G", "  3d 01h00m", " 12d 00h00m", "-", "a", "b", "nan"]
        );
    }

    #[test]
    fn a_filter_compares_like_with_like() {
        assert_eq!(compare("172M", "1G"), Ordering::Less);
        assert_eq!(compare("10", "9"), Ordering::Greater);
        assert_eq!(compare("1K", "1024"), Ordering::Greater);
        assert_eq!(compare("1e999", "web"), Ordering::Less);
    }
}
