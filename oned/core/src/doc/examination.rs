//! `EXAMINATION`: what was found about the daemon and all that it works with (`one.system.examine`). The original has no such
//! document.

use super::Render;
use super::writer::Writer;

/// What an examination found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExaminationView {
    /// When, by the daemon's clock, epoch seconds.
    pub time: i64,
    /// The daemon's own version.
    pub version: String,
    /// What was looked at.
    pub checks: Vec<CheckView>,
}

/// One thing that was looked at (`CHECK`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckView {
    /// What kind of thing: `libvirt`, `free space`.
    pub name: String,
    /// Which one: `host 0 (localhost)`; empty when there is only one.
    pub subject: String,
    /// `ok`, `warning` or `failure`.
    pub result: String,
    /// What was seen, one sentence.
    pub text: String,
    /// What to do, empty when nothing is to be done.
    pub remedy: String,
}

/// The document (`one.system.examine`).
pub fn examination(view: &ExaminationView) -> String {
    super::alone(view)
}

impl Render for ExaminationView {
    fn render(&self, w: &mut Writer) {
        w.open("EXAMINATION");
        w.number("TIME", self.time);
        w.text("VERSION", &self.version);
        for check in &self.checks {
            w.open("CHECK");
            let parts = [
                ("NAME", &check.name),
                ("SUBJECT", &check.subject),
                ("RESULT", &check.result),
                ("TEXT", &check.text),
                ("REMEDY", &check.remedy),
            ];
            parts.into_iter().for_each(|(name, text)| w.text(name, text));
            w.close("CHECK");
        }
        w.close("EXAMINATION");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_an_element_of_its_own() {
        let check = CheckView {
            name: "clock".into(),
            result: "warning".into(),
            text: "a < b".into(),
            remedy: "x".into(),
            ..CheckView::default()
        };
        let view = ExaminationView { time: 7, version: "0.1.0".into(), checks: vec![check] };
        assert_eq!(
            examination(&view).replace('\n', ""),
            "<EXAMINATION><TIME>7</TIME><VERSION><![CDATA[0.1.0]]></VERSION><CHECK><NAME><![CDATA[clock]]></NAME>\
             <SUBJECT><![CDATA[]]></SUBJECT><RESULT><![CDATA[warning]]></RESULT><TEXT><![CDATA[a < b]]></TEXT>\
             <REMEDY><![CDATA[x]]></REMEDY></CHECK></EXAMINATION>"
        );
    }
}
