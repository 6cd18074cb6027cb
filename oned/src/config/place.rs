//! Where the attributes of a configuration stand: line and column of each name, value and key.
//!
//! The grammar's own parser keeps no places. This walks the same text once more, after it was found to be in the grammar,
//! so it accepts everything and reports nothing.

/// A place in a text, from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// The places of one attribute.
#[derive(Debug)]
pub(super) struct Placed {
    /// In upper case.
    pub name: String,
    pub spot: Spot,
    /// Of the value, or of the `[` of a vector.
    pub value: Spot,
    /// Keys in upper case, with the places of their values.
    pub pairs: Vec<(String, Spot)>,
}

/// The attributes of a text in the order it has.
pub(super) fn places(text: &str) -> Vec<Placed> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut walk = Walk { rest: text.chars().peekable(), line: 1, column: 1 };
    let mut found = Vec::new();
    while let Some((name, spot)) = walk.name(false) {
        walk.equals();
        let value = walk.spot();
        let mut pairs = Vec::new();
        if walk.peek() == Some('[') {
            walk.step();
            while let Some((key, _)) = walk.name(true) {
                walk.equals();
                pairs.push((key, walk.spot()));
                walk.value();
            }
        } else {
            walk.value();
        }
        found.push(Placed { name, spot, value, pairs });
    }
    found
}

struct Walk<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
    column: usize,
}

impl Walk<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn spot(&self) -> Spot {
        Spot { line: self.line, column: self.column }
    }

    fn step(&mut self) -> Option<char> {
        let letter = self.rest.next()?;
        if letter == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        Some(letter)
    }

    fn step_while(&mut self, good: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&good) {
            self.step();
        }
    }

    /// The next name in upper case and where it begins; in a vector the `]` ends the search and is passed.
    fn name(&mut self, in_vector: bool) -> Option<(String, Spot)> {
        loop {
            let spot = self.spot();
            match self.peek()? {
                ']' if in_vector => {
                    self.step();
                    return None;
                }
                '#' => self.step_while(|letter| letter != '\n'),
                letter if is_name(letter) => {
                    let mut name = String::new();
                    while let Some(letter) = self.peek().filter(|letter| is_name(*letter)) {
                        name.push(letter.to_ascii_uppercase());
                        self.step();
                    }
                    return Some((name, spot));
                }
                _ => {
                    self.step();
                }
            }
        }
    }

    /// Up to the value after the next equals sign.
    fn equals(&mut self) {
        loop {
            match self.peek() {
                Some('#') => self.step_while(|letter| letter != '\n'),
                Some('=') | None => break,
                Some(_) => {
                    self.step();
                }
            }
        }
        self.step();
        self.step_while(|letter| matches!(letter, ' ' | '\t' | '\r'));
    }

    fn value(&mut self) {
        if self.peek() != Some('"') {
            self.step_while(|letter| !matches!(letter, '=' | '#' | ' ' | '\t' | ',' | '[' | ']' | '\n'));
            return;
        }
        self.step();
        let mut before = '"';
        while let Some(letter) = self.step() {
            if letter == '"' && before != '\\' {
                return;
            }
            before = letter;
        }
    }
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use one_core::template::Template;

    const TEXT: &str = "# A = 1\nport=5 # B = 2\nLOG = [ SYSTEM = \"f=i\\\"le\",\n  \"Debug_Level\" = 3 ] X = \"a\nPORT = 1\"\nEMPTY =\n ü MAC = 02:00\nL=[]\n";

    #[test]
    fn every_attribute_has_the_place_of_its_name_and_value() {
        let found = places(TEXT);
        let names: Vec<&str> = found.iter().map(|placed| placed.name.as_str()).collect();
        let template = Template::parse(TEXT).unwrap();
        assert_eq!(names, template.attributes().iter().map(|attribute| attribute.name.as_str()).collect::<Vec<_>>());
        let spot = |line, column| Spot { line, column };
        let values: Vec<Spot> = found.iter().map(|placed| placed.value).collect();
        assert_eq!(values, [spot(2, 6), spot(3, 7), spot(4, 27), spot(6, 8), spot(7, 10), spot(8, 3)]);
        assert_eq!(found[4].spot, spot(7, 4));
        let pairs = &found[1].pairs;
        assert_eq!(pairs, &[("SYSTEM".to_owned(), spot(3, 18)), ("DEBUG_LEVEL".to_owned(), spot(4, 19))]);
    }
}
