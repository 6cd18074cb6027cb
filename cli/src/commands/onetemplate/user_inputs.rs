//! What a template asks whoever makes a VM of it: USER_INPUTS = [ NAME = "M|type|description|options|default" ].
//!
//! Answers come from options or the file; what is missing is asked for on a terminal, and elsewhere taken from the defaults
//! or refused. The daemon takes whatever it gets: this is a courtesy to the template's author, no check of rights.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result, bail};

use crate::commands::vm_options::{base64, pair};
use crate::password::Prompt;
use crate::template_text::attribute;
use crate::terminal;
use crate::xml::Element;

/// One question of a template.
#[derive(Debug, PartialEq, Eq)]
struct Question<'a> {
    name: &'a str,
    mandatory: bool,
    kind: &'a str,
    description: &'a str,
    options: &'a str,
    default: &'a str,
}

/// The attributes that answer a template's questions: `given` has the NAME=VALUE of options, `said` is the text that is sent
/// beside them, whose attributes are answers, too.
///
/// # Errors
/// A missing answer where nobody can be asked, one that does not fit its question, a password among the options.
pub fn answers(template: &Element, given: &[String], said: &str) -> Result<String> {
    let questions = questions(template);
    let mut text = String::new();
    let mut named = Vec::new();
    for line in given {
        let (name, value) = pair("--user_inputs", line)?;
        let question = questions.iter().find(|question| question.name.eq_ignore_ascii_case(name));
        let value = match question {
            Some(question) if question.kind == "password" => {
                bail!("{name} is a password, which has no place among arguments: type it, or write it into a file")
            }
            Some(question) => question.accept(value).with_context(|| format!("--user_inputs {line}"))?,
            None => value.to_owned(),
        };
        text.push_str(&attribute(name, &value)?);
        named.push(name.to_uppercase());
    }
    let open = questions.iter().filter(|question| !named.iter().any(|name| name == question.name));
    for question in open.filter(|question| !is_said(said, question.name)) {
        if let Some(value) = question.answer()? {
            text.push_str(&attribute(question.name, &value)?);
        }
    }
    Ok(text)
}

/// In the order of INPUTS_ORDER; those that it does not name stand behind.
fn questions(template: &Element) -> Vec<Question<'_>> {
    let order: Vec<&str> = template.text_at("TEMPLATE/INPUTS_ORDER").split(',').map(str::trim).collect();
    let inputs = template.at("TEMPLATE/USER_INPUTS").map(|inputs| inputs.children.as_slice()).unwrap_or_default();
    let mut questions: Vec<Question<'_>> = inputs.iter().map(question).collect();
    let place = |question: &Question<'_>| order.iter().position(|name| *name == question.name).unwrap_or(order.len());
    questions.sort_by_key(place);
    questions
}

fn question(input: &Element) -> Question<'_> {
    let mut parts = input.text.split('|').map(str::trim);
    let mut next = || parts.next().unwrap_or_default();
    let mandatory = next().eq_ignore_ascii_case("M");
    let (kind, description, options) = (next(), next(), next());
    Question { name: &input.name, mandatory, kind, description, options, default: next() }
}

/// Does a line of the text set the attribute, or an element of it in XML?
fn is_said(text: &str, name: &str) -> bool {
    text.contains(&format!("<{name}>"))
        || text.lines().filter_map(|line| line.split_once('=')).any(|(key, _)| key.trim().eq_ignore_ascii_case(name))
}

impl Question<'_> {
    /// The answer where none was given; None when it may be left out.
    fn answer(&self) -> Result<Option<String>> {
        let asked = self.kind != "fixed" && std::io::stdin().is_terminal();
        if asked {
            return self.ask();
        }
        match (self.default.is_empty(), self.mandatory) {
            (false, _) => self.accept(self.default).map(Some),
            (true, false) => Ok(None),
            (true, true) => {
                let option = if self.kind == "password" { "" } else { "add --user_inputs NAME=VALUE, or " };
                bail!("the template asks for {} ({}): {option}name a file with it", self.name, self.description)
            }
        }
    }

    /// Asks until an answer fits.
    fn ask(&self) -> Result<Option<String>> {
        let mut hint = String::new();
        if !self.options.is_empty() {
            hint.push_str(&format!(" ({})", self.options));
        }
        if !self.default.is_empty() && self.kind != "password" {
            hint.push_str(&format!(" [{}]", self.default));
        }
        let prompt = terminal::one_line(&format!("{}, {}{hint}:", self.name, self.description)) + " ";
        loop {
            let line = if self.kind == "password" {
                Prompt::begin("write it into a file")?.ask(&prompt)?
            } else {
                terminal::warn_raw(&prompt);
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line).context("reading the answer")?;
                if read == 0 {
                    bail!("the input ended before {} was answered", self.name);
                }
                line.trim().to_owned()
            };
            let value = if line.is_empty() { self.default } else { &line };
            match (value.is_empty(), self.mandatory) {
                (true, false) => return Ok(None),
                (true, true) => terminal::complain(&format!("{} has to be answered", self.name)),
                (false, _) => match self.accept(value) {
                    Ok(value) => return Ok(Some(value)),
                    Err(error) => terminal::complain(&format!("{error:#}")),
                },
            }
        }
    }

    /// The value as the attribute has it.
    fn accept(&self, value: &str) -> Result<String> {
        let name = self.name;
        match self.kind {
            "number" => {
                value.parse::<i64>().ok().with_context(|| format!("{name} is a whole number, {value} is none"))?;
            }
            "number-float" => {
                value.parse::<f64>().ok().with_context(|| format!("{name} is a number, {value} is none"))?;
            }
            "range" | "range-float" => {
                let number =
                    value.parse::<f64>().ok().with_context(|| format!("{name} is a number, {value} is none"))?;
                let ends = self.options.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                if ends.is_some_and(|(first, last): (f64, f64)| !(first..=last).contains(&number)) {
                    bail!("{name} lies in {}, {value} does not", self.options);
                }
            }
            "list" | "list-multiple" => {
                let several = self.kind == "list-multiple";
                let words = value.split(',').filter(|_| several).chain((!several).then_some(value));
                for word in words.map(str::trim) {
                    if !self.options.split(',').any(|option| option.trim() == word) {
                        bail!("{name} is one of {}, not {word}", self.options);
                    }
                }
            }
            "boolean" if !["YES", "NO"].iter().any(|known| known.eq_ignore_ascii_case(value)) => {
                bail!("{name} is YES or NO, not {value}")
            }
            "boolean" => return Ok(value.to_uppercase()),
            "text64" => return Ok(base64(value.as_bytes())),
            "fixed" if value != self.default => bail!("{name} is always {}", self.default),
            _ => {}
        }
        Ok(value.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(inputs: &str) -> Element {
        Element::parse(&format!("<VMTEMPLATE><TEMPLATE>{inputs}</TEMPLATE></VMTEMPLATE>")).unwrap()
    }

    fn answer(inputs: &str, given: &[&str]) -> Result<String> {
        let template = template(&format!("<USER_INPUTS>{inputs}</USER_INPUTS>"));
        let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
        answers(&template, &given, "FROM_FILE = \"x\"\n")
    }

    #[test]
    fn questions_stand_in_the_order_that_the_template_gives() {
        let template = template(
            "<INPUTS_ORDER>B,A</INPUTS_ORDER><USER_INPUTS><A>M|text|first</A><C>O|list|third|x,y|x</C><B>x</B></USER_INPUTS>",
        );
        let questions = questions(&template);
        assert_eq!(questions.iter().map(|question| question.name).collect::<Vec<_>>(), ["B", "A", "C"]);
        let third =
            Question { name: "C", mandatory: false, kind: "list", description: "third", options: "x,y", default: "x" };
        assert_eq!(questions[2], third);
    }

    #[test]
    fn answers_fit_their_questions() {
        let cases = [
            ("<A>M|number|n</A>", "A=5", "5"),
            ("<A>M|range|n|1..5</A>", "A=5", "5"),
            ("<A>M|range-float|n|0.5..5</A>", "a=0.5", "0.5"),
            ("<A>M|list|n|x,y</A>", "A=y", "y"),
            ("<A>M|boolean|n</A>", "A=yes", "YES"),
            ("<A>M|text64|n</A>", "A=foo", "Zm9v"),
            ("<B>O|text|n</B>", "A=free", "free"),
        ];
        for (inputs, given, value) in cases {
            let text = answer(inputs, &[given]).unwrap();
            assert!(text.ends_with(&format!(" = \"{value}\"\n")), "{inputs} {given}: {text}");
        }
        let wrong = [
            ("<A>M|number|n</A>", "A=five"),
            ("<A>M|range|n|1..5</A>", "A=6"),
            ("<A>M|list|n|x,y</A>", "A=z"),
            ("<A>M|boolean|n</A>", "A=perhaps"),
            ("<A>M|fixed|n| |7</A>", "A=8"),
            ("<A>M|password|n</A>", "A=secret"),
        ];
        for (inputs, given) in wrong {
            let said = format!("{:#}", answer(inputs, &[given]).unwrap_err());
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn what_nobody_answered_is_the_default_or_refused() {
        // The tests' standard input may be a terminal, on which a question would wait: fixed ones are never asked.
        assert_eq!(answer("<A>M|fixed|n| |7</A><FROM_FILE>M|text|n</FROM_FILE>", &[]).unwrap(), "A = \"7\"\n");
        let said = answer("<A>M|fixed|the size</A>", &[]).unwrap_err().to_string();
        assert_eq!(said, "the template asks for A (the size): add --user_inputs NAME=VALUE, or name a file with it");
        assert_eq!(answer("<A>O|fixed|n</A>", &[]).unwrap(), "");
    }
}
