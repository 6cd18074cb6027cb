//! The XML form of templates: whatever is accepted survives the text form and a document.
#![no_main]

use libfuzzer_sys::fuzz_target;
use one_core::doc::{self, TemplateView};
use one_core::template::Template;

fuzz_target!(|inside: &str| {
    let document = format!("<TEMPLATE>{inside}</TEMPLATE>");
    let Ok(template) = Template::parse(&document) else { return };
    let back = Template::parse(&template.to_text()).expect("what was printed is read");
    assert_eq!(back, template.sorted());
    let shown = doc::vm_template(&TemplateView { template, ..TemplateView::default() });
    assert!(shown.starts_with("<VMTEMPLATE>") && shown.ends_with("</VMTEMPLATE>"));
});
