//! Writing the attribute grammar: `KEY = "VALUE"` and vectors. Reading it is the daemon's business.
//!
//! Quotes are the only thing that can be escaped in it, so that a value cannot end with a backslash.

use anyhow::{Result, bail};

use crate::xml::Element;

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

/// Attributes that stand a line each, as the vector that the daemon reads; a text with a vector, or XML, stays as it is.
#[must_use]
pub fn lines_as_vector(key: &str, text: &str) -> String {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let as_it_is =
        lines.first().is_none_or(|line| line.starts_with('<')) || lines.iter().any(|line| line.contains('['));
    if as_it_is {
        return text.to_owned();
    }
    let parts: Vec<&str> = lines.iter().map(|line| line.trim_end_matches(',')).collect();
    format!("{key} = [ {} ]\n", parts.join(", "))
}

/// Attributes of options in front of a template: of two scalars of one name the first counts. A template in XML is
/// written anew, since nothing can stand in front of it.
///
/// # Errors
/// For XML that does not parse, or holds a value that the grammar cannot carry.
pub fn in_front(options: &str, template: &str) -> Result<String> {
    if options.is_empty() || !template.trim_start().starts_with('<') {
        return Ok(format!("{options}{template}"));
    }
    let Ok(document) = Element::parse(template) else {
        bail!("the template is XML that does not parse: xmllint tells where it breaks off");
    };
    let mut text = options.to_owned();
    for part in &document.children {
        if part.children.is_empty() {
            text.push_str(&attribute(&part.name, &part.text)?);
        } else {
            let parts = part.children.iter().map(|inner| (inner.name.as_str(), inner.text.clone()));
            text.push_str(&vector(&part.name, &parts.collect::<Vec<_>>())?);
        }
    }
    Ok(text)
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

    #[test]
    fn lines_become_a_vector_and_a_vector_stays() {
        let lines = |text| lines_as_vector("SCHED_ACTION", text);
        assert_eq!(lines("# help\nDAYS=\"1,3\"\n\nCRON=\"\",\n"), "SCHED_ACTION = [ DAYS=\"1,3\", CRON=\"\" ]\n");
        for text in ["SCHED_ACTION = [ DAYS = \"1\" ]", "# a\nsched_action=[\n  DAYS=\"1\" ]", "<T><SCHED_ACTION/></T>"]
        {
            assert_eq!(lines(text), text);
        }
    }

    #[test]
    fn options_stand_in_front_of_a_template_also_of_one_in_xml() {
        let with = |template| in_front("NAME = \"x\"\n", template);
        assert_eq!(with("CPU = 1").unwrap(), "NAME = \"x\"\nCPU = 1");
        let xml = "<?xml version=\"1.0\"?>\n<VM><CPU>1</CPU><DISK><IMAGE>a \"b\"</IMAGE><SIZE>1</SIZE></DISK></VM>";
        let text = "NAME = \"x\"\nCPU = \"1\"\nDISK = [ IMAGE = \"a \\\"b\\\"\", SIZE = \"1\" ]\n";
        assert_eq!(with(xml).unwrap(), text);
        assert_eq!(in_front("", xml).unwrap(), xml);
        assert!(with("<VM><CPU").unwrap_err().to_string().contains("does not parse"));
    }
}
