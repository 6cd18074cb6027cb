//! The text form of templates: whatever is accepted is printed so that it reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use one_core::template::Template;

fuzz_target!(|text: &str| {
    if let Ok(template) = Template::parse(text) {
        let printed = template.to_text();
        let back = Template::parse(&printed).expect("what was printed is read");
        assert_eq!(back, template.sorted());
        assert_eq!(back.to_text(), printed);
    }
});
