//! The blocks of `show`: a header in capitals, labelled lines, small tables, template text.

use clap::Args;

use crate::table;
use crate::terminal::{self, clean, is_obeyed, one_line};
use crate::xml::Element;

/// Width of a header; what OpenNebula's tools pad to.
const HEADER_WIDTH: usize = 80;

/// Options that every `show` takes.
#[derive(Args, Clone, Debug, Default)]
pub struct ShowOptions {
    /// The daemon's XML document
    #[arg(short, long, conflicts_with_all = ["json", "yaml"])]
    pub xml: bool,
    /// The daemon's document as JSON
    #[arg(short, long, conflicts_with = "yaml")]
    pub json: bool,
    /// The daemon's document as YAML
    #[arg(short, long)]
    pub yaml: bool,
    /// Show encrypted attributes in clear text (administrators)
    #[arg(long)]
    pub decrypt: bool,
}

impl ShowOptions {
    /// The document itself when the options ask for it.
    #[must_use]
    pub fn raw(&self, document: &Element) -> Option<String> {
        match (self.xml, self.json, self.yaml) {
            (true, ..) => Some(document.to_xml()),
            (_, true, _) => Some(crate::json::pretty(document)),
            (.., true) => Some(crate::yaml::pretty(document)),
            _ => None,
        }
    }
}

/// Collects the text of a `show`.
pub struct Page {
    text: String,
    label_width: usize,
    styled: bool,
}

impl Page {
    /// A page whose labels take `label_width` columns (20 for VMs, 15 for the rest).
    #[must_use]
    pub fn new(label_width: usize) -> Self {
        Self { text: String::new(), label_width, styled: terminal::is_terminal() && terminal::can_draw() }
    }

    /// Labels take so many columns from here on.
    pub fn labels(&mut self, width: usize) -> &mut Self {
        self.label_width = width;
        self
    }

    /// Begins a block.
    pub fn header(&mut self, title: &str) -> &mut Self {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        // Bold and underlined, as the original.
        let (on, off) = if self.styled { ("\x1b[1m\x1b[4m", "\x1b[0m") } else { ("", "") };
        self.text.push_str(&format!("{on}{:<HEADER_WIDTH$}{off}\n", clean(title)));
        self
    }

    /// One labelled line.
    pub fn line(&mut self, label: &str, value: impl AsRef<str>) -> &mut Self {
        let line = format!("{label:<width$}: {}", one_line(value.as_ref()), width = self.label_width);
        self.raw(line.trim_end())
    }

    /// One line as it is, but for control characters.
    pub fn raw(&mut self, line: &str) -> &mut Self {
        self.text.push_str(&clean(line));
        self.text.push('\n');
        self
    }

    /// A table: (title, least width, aligned left) and rows.
    pub fn table(&mut self, titles: &[(&str, usize, bool)], rows: &[Vec<String>]) -> &mut Self {
        self.text.push_str(&table::plain(titles, rows));
        self
    }

    /// The PERMISSIONS block: `OWNER : um-`.
    pub fn permissions(&mut self, object: &Element) -> &mut Self {
        self.header("PERMISSIONS");
        for who in ["OWNER", "GROUP", "OTHER"] {
            let bit = |letter: &str, shown: char| {
                if object.text_at(&format!("PERMISSIONS/{who}_{letter}")) == "1" { shown } else { '-' }
            };
            let bits: String = [bit("U", 'u'), bit("M", 'm'), bit("A", 'a')].iter().collect();
            self.line(who, bits);
        }
        self
    }

    /// A block with template text, when there is any to show: attributes whose names are not in `hidden`.
    pub fn template(&mut self, title: &str, template: Option<&Element>, hidden: &[&str]) -> &mut Self {
        let text = template.map(|template| template_text(template, hidden)).unwrap_or_default();
        if !text.is_empty() {
            self.header(title);
            self.text.push_str(&text);
        }
        self
    }

    /// The page.
    #[must_use]
    pub fn finish(&self) -> &str {
        &self.text
    }
}

/// The attributes of a template element as text that can be sent back: `KEY="VALUE"` lines, vectors in brackets.
#[must_use]
pub fn template_text(template: &Element, hidden: &[&str]) -> String {
    let mut out = String::new();
    let mut shown: Vec<&Element> =
        template.children.iter().filter(|child| !hidden.contains(&child.name.as_str())).collect();
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    for attribute in shown {
        out.push_str(&attribute_text(attribute));
    }
    out
}

fn attribute_text(attribute: &Element) -> String {
    let quote = |element: &Element| {
        format!("{}=\"{}\"", printable(&element.name), printable(&element.text).replace('"', "\\\""))
    };
    if attribute.children.is_empty() {
        return format!("{}\n", quote(attribute));
    }
    let parts: Vec<String> = attribute.children.iter().map(|part| format!("  {}", quote(part))).collect();
    format!("{}=[\n{} ]\n", printable(&attribute.name), parts.join(",\n"))
}

/// Values may span lines; other control characters have no business on a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) && !matches!(c, '\n' | '\t') { ' ' } else { c }).collect()
}

/// Yes or No, as the labels show flags.
#[must_use]
pub fn yes_no(flag: &str) -> &'static str {
    if flag == "1" { "Yes" } else { "No" }
}

/// The LOCK line: the level that is locked, or None.
#[must_use]
pub fn lock(object: &Element) -> &'static str {
    match object.text_at("LOCK/LOCKED") {
        "" => "None",
        "1" => "Use",
        "2" => "Manage",
        "3" => "Admin",
        _ => "All",
    }
}

/// Numbers separated by commas.
#[must_use]
pub fn join(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// A cell, `-` when empty.
#[must_use]
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_text_is_sorted_quoted_and_keeps_equal_names_in_order() {
        let template = Element::parse(
            "<T><Z>a\"b</Z><DISK><ID>0</ID><S>1</S></DISK><DISK><ID>1</ID></DISK><A/><SECRET>x</SECRET></T>",
        )
        .unwrap();
        assert_eq!(
            template_text(&template, &["SECRET"]),
            "A=\"\"\nDISK=[\n  ID=\"0\",\n  S=\"1\" ]\nDISK=[\n  ID=\"1\" ]\nZ=\"a\\\"b\"\n"
        );
    }

    #[test]
    fn a_label_takes_its_width_and_a_header_eighty_columns() {
        let mut page = Page::new(15);
        page.styled = false;
        page.header("X").line("ID", "1\n2").header("Y").line("LABEL", "");
        assert_eq!(page.finish(), format!("{:<80}\nID             : 1 2\n\n{:<80}\nLABEL          :\n", "X", "Y"));
    }

    #[test]
    fn nothing_that_comes_from_elsewhere_moves_the_cursor() {
        let hostile = "7\u{1b}[2J\u{9b}2J\n";
        let template = Element { name: "T".into(), text: String::new(), children: Vec::new() };
        let attribute =
            Element { name: hostile.trim_end().into(), text: hostile.trim_end().into(), children: Vec::new() };
        let mut page = Page::new(15);
        page.styled = false;
        page.header(hostile).line(hostile, hostile).raw(hostile).table(&[("A", 1, true)], &[vec![hostile.into()]]);
        page.template("TEMPLATE", Some(&Element { children: vec![attribute], ..template }), &[]);
        assert!(!page.finish().chars().any(|letter| letter.is_control() && letter != '\n'), "{:?}", page.finish());
        assert_eq!(page.finish().lines().count(), 8, "{:?}", page.finish());
    }
}
