//! How many columns a text takes on a terminal: letters of East Asian scripts and most pictures take two, marks that sit on
//! another letter take none.
//!
//! This is the only module that names unicode-width, which has the tables of Unicode.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Columns of a text.
#[must_use]
pub fn of(text: &str) -> usize {
    text.width()
}

/// The beginning of a text that fits so many columns. A mark stays with its letter.
#[must_use]
pub fn cut(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    for (at, letter) in text.char_indices() {
        taken += letter.width().unwrap_or(0);
        if taken > columns {
            return &text[..at];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn east_asian_letters_take_two_columns_and_marks_none() {
        let cases = [
            ("", 0),
            ("café", 4),
            ("cafe\u{301}", 4),
            ("日本語", 6),
            ("한국", 4),
            ("a🎉", 3),
            ("ｆ", 2),
            ("－", 2),
            ("–", 1),
        ];
        for (text, columns) in cases {
            assert_eq!(of(text), columns, "{text}");
        }
        assert_eq!(
            (cut("日本語", 5), cut("日本語", 6), cut("ab", 1), cut("e\u{301}x", 1)),
            ("日本", "日本語", "a", "e\u{301}")
        );
    }
}
