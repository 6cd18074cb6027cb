//! The daemon's configuration file.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use oned::config::{Config, Overrides};

fuzz_target!(|text: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text).expect("a temporary file");
    let overrides = Overrides { state_dir: "/var/lib/one".into(), ..Overrides::default() };
    if let Ok(config) = Config::load(Some(file.path()), &overrides) {
        let shown = config.to_document();
        assert!(shown.starts_with("<OPENNEBULA_CONFIGURATION>") && shown.ends_with("</OPENNEBULA_CONFIGURATION>"));
    }
});
