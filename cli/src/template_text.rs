//! Writing the attribute grammar: `KEY = "VALUE"` and vectors. Reading it is the daemon's business.
//!
//! Quotes are the only thing that can be escaped in it, so that a value cannot end with a backslash.

use anyhow::{Result, bail};

/// `KEY = "VALUE"` with a line end.
///
/// # Errors
/// For a value that the grammar cannot carry.
pub fn attribute(key: &str, value: &str) -> Result<String> {
    Ok(format!("{key} = {}\n", quoted(key, value)?))
}

/// `KEY = [ A = "x", B = "y" ]` with a line end.
///
/// # Errors
/// For a value that the grammar cannot carry.
pub fn vector(key: &str, parts: &[(&str, String)]) -> Result<String> {
    let parts = parts
        .iter()
        .map(|(name, value)| Ok(format!("{name} = {}", quoted(name, value)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(format!("{key} = [ {} ]\n", parts.join(", ")))
}

fn quoted(key: &str, value: &str) -> Result<String> {
    if value.ends_with('\\') || value.contains("\\\"") {
        bail!(
            "the value of {key} cannot be written in a template: a backslash may not stand at the end or before a quote"
        );
    }
    Ok(format!("\"{}\"", value.replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_and_what_cannot_be_is_refused() {
        assert_eq!(attribute("NAME", "a \"b\"").unwrap(), "NAME = \"a \\\"b\\\"\"\n");
        assert_eq!(
            vector("S", &[("A", "1,2".into()), ("B", String::new())]).unwrap(),
            "S = [ A = \"1,2\", B = \"\" ]\n"
        );
        assert!(attribute("NAME", "a\\").is_err());
    }
}
