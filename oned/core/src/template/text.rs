//! The text form: a scanner that works byte by byte, and the printer.
//!
//! The grammar follows the original's lexer where users rely on it: characters that fit nowhere are skipped where a key is
//! expected (`["MODE"="INCREMENT"]` is sent by a stock client), a value ends at the first blank unless quoted, and
//! `KEY =` followed by a newline is the empty string.

use super::{
    Attribute, MAX_ATTRIBUTES, MAX_NAME_BYTES, ParseError, Value, Vector, ends_section, is_name_byte, trimmed,
};

/// Reads all attributes of a text.
pub(super) fn attributes(text: &str) -> Result<Vec<Attribute>, ParseError> {
    let mut scanner = Scanner { text, at: 0, count: 0 };
    let mut attributes = Vec::new();
    loop {
        let (token, from) = scanner.token()?;
        let name = match token {
            Token::End => return Ok(attributes),
            Token::Word(word) => scanner.name(word, from)?,
            other => return Err(scanner.unexpected(other, from, "VARIABLE")),
        };
        scanner.equals()?;
        scanner.blanks();
        let value = if scanner.peek() == Some(b'[') {
            scanner.at += 1;
            Value::Vector(scanner.vector()?)
        } else {
            Value::Scalar(scanner.value()?)
        };
        attributes.push(Attribute { name, value });
    }
}

/// What can stand where a key or a separator is expected.
#[derive(Clone, Copy)]
enum Token<'t> {
    Word(&'t str),
    Equal,
    Comma,
    Open,
    Close,
    End,
}

impl Token<'_> {
    fn name(self) -> &'static str {
        match self {
            Token::Word(_) => "VARIABLE",
            Token::Equal => "EQUAL",
            Token::Comma => "COMMA",
            Token::Open => "OBRACKET",
            Token::Close => "CBRACKET",
            Token::End => "end of file",
        }
    }
}

struct Scanner<'t> {
    text: &'t str,
    /// Byte offset of what comes next; always at a character boundary.
    at: usize,
    /// Attributes and pairs so far.
    count: usize,
}

impl<'t> Scanner<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn slice(&self, from: usize, to: usize) -> &'t str {
        self.text.get(from..to).unwrap_or_default()
    }

    fn error(&self, from: usize, message: impl Into<String>) -> ParseError {
        ParseError::over(self.text, from, self.at, message)
    }

    fn unexpected(&self, token: Token<'_>, from: usize, expected: &str) -> ParseError {
        self.error(from, format!("syntax error, unexpected {}, expecting {expected}", token.name()))
    }

    /// The next token and where it begins. Skips comments and every character that fits nowhere.
    fn token(&mut self) -> Result<(Token<'t>, usize), ParseError> {
        loop {
            let from = self.at;
            let Some(byte) = self.peek() else {
                return Ok((Token::End, from));
            };
            let symbol = match byte {
                b'=' => Token::Equal,
                b',' => Token::Comma,
                b'[' => Token::Open,
                b']' => Token::Close,
                b'#' => {
                    self.comment()?;
                    continue;
                }
                byte if is_name_byte(byte) => {
                    while self.peek().is_some_and(is_name_byte) {
                        self.at += 1;
                    }
                    return Ok((Token::Word(self.slice(from, self.at)), from));
                }
                _ => {
                    self.character();
                    continue;
                }
            };
            self.at += 1;
            return Ok((symbol, from));
        }
    }

    /// Steps over one whole character.
    fn character(&mut self) {
        self.at += 1;
        while !self.text.is_char_boundary(self.at) {
            self.at += 1;
        }
    }

    /// Steps over `#` up to and with the end of the line, which must be there.
    fn comment(&mut self) -> Result<(), ParseError> {
        let from = self.at;
        match self.slice(from, self.text.len()).find('\n') {
            Some(length) => {
                self.at = from + length + 1;
                Ok(())
            }
            None => {
                self.at = self.text.len();
                Err(self.error(from, "syntax error, unexpected end of file in a comment, expecting a newline after it"))
            }
        }
    }

    /// A word as attribute name, in upper case and counted against the limits.
    fn name(&mut self, word: &str, from: usize) -> Result<String, ParseError> {
        if word.len() > MAX_NAME_BYTES {
            return Err(self.error(from, format!("an attribute name is longer than {MAX_NAME_BYTES} characters")));
        }
        self.count += 1;
        if self.count > MAX_ATTRIBUTES {
            return Err(self.error(from, format!("more than {MAX_ATTRIBUTES} attributes")));
        }
        Ok(word.to_ascii_uppercase())
    }

    fn equals(&mut self) -> Result<(), ParseError> {
        match self.token()? {
            (Token::Equal, _) => Ok(()),
            (other, from) => Err(self.unexpected(other, from, "EQUAL")),
        }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// The pairs after `[`, up to and with `]`.
    fn vector(&mut self) -> Result<Vector, ParseError> {
        let mut pairs = Vec::new();
        loop {
            let (token, from) = self.token()?;
            let key = match token {
                Token::Close if pairs.is_empty() => return Ok(Vector::new()),
                Token::Word(word) => self.name(word, from)?,
                other => return Err(self.unexpected(other, from, "VARIABLE")),
            };
            self.equals()?;
            self.blanks();
            pairs.push((key, self.value()?));
            match self.token()? {
                (Token::Comma, _) => {}
                (Token::Close, _) => return Ok(Vector::read(pairs.into_iter())),
                (other, from) => return Err(self.unexpected(other, from, "COMMA or CBRACKET")),
            }
        }
    }

    /// One string: quoted, bare, or nothing up to the end of the line.
    fn value(&mut self) -> Result<String, ParseError> {
        let from = self.at;
        let value = match self.peek() {
            None | Some(b'\n') => String::new(),
            Some(b'#') => {
                self.comment()?;
                String::new()
            }
            Some(b'"') => self.quoted()?,
            Some(b'=' | b',' | b'[' | b']') => {
                let (token, from) = self.token()?;
                return Err(self.unexpected(token, from, "STRING"));
            }
            Some(_) => self.bare().to_owned(),
        };
        if ends_section(&value) {
            return Err(self.error(from, "a value must not hold ]]>, which ends a CDATA section"));
        }
        let short = trimmed(&value);
        Ok(if short.len() == value.len() { value } else { short.to_owned() })
    }

    fn bare(&mut self) -> &'t str {
        let from = self.at;
        while self.peek().is_some_and(|byte| !matches!(byte, b'=' | b'#' | b' ' | b'\t' | b',' | b'[' | b']' | b'\n')) {
            self.at += 1;
        }
        self.slice(from, self.at)
    }

    fn quoted(&mut self) -> Result<String, ParseError> {
        let from = self.at;
        self.at += 1;
        let mut value = String::new();
        loop {
            let rest = self.slice(self.at, self.text.len());
            let Some(length) = rest.find('"') else {
                self.at = self.text.len();
                return Err(ParseError::over(
                    self.text,
                    from,
                    from + 1,
                    "syntax error, unexpected end of file in a string, expecting the closing quote of the one opened here",
                ));
            };
            let run = self.slice(self.at, self.at + length);
            self.at += length + 1;
            match run.strip_suffix('\\') {
                Some(before) => {
                    value.push_str(before);
                    value.push('"');
                }
                None => {
                    value.push_str(run);
                    return Ok(value);
                }
            }
        }
    }
}

/// Prints attributes in the given order, the pairs of vectors sorted by key.
pub(super) fn render<'t>(attributes: impl IntoIterator<Item = &'t Attribute>) -> String {
    let mut out = String::new();
    for attribute in attributes {
        out.push_str(&attribute.name);
        match &attribute.value {
            Value::Scalar(value) => quote(&mut out, value),
            Value::Vector(vector) => {
                let mut pairs: Vec<(&str, &str)> = vector.iter().collect();
                pairs.sort_unstable();
                out.push_str("=[");
                for (index, (key, value)) in pairs.into_iter().enumerate() {
                    out.push_str(if index == 0 { "\n  " } else { ",\n  " });
                    out.push_str(key);
                    quote(&mut out, value);
                }
                out.push_str(" ]");
            }
        }
        out.push('\n');
    }
    out
}

fn quote(out: &mut String, value: &str) {
    out.push_str("=\"");
    let mut pieces = value.split('"');
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.push_str("\\\"");
        out.push_str(piece);
    }
    if value.ends_with('\\') {
        // A backslash here would escape the closing quote; the blank keeps them apart and is trimmed by every reader.
        out.push(' ');
    }
    out.push('"');
}
