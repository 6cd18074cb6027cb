//! The document of a VM that lies in a backup, and what a restore makes of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use one_core::backup::Disks;
use one_core::doc::{self, VmView};

fuzz_target!(|document: &str| {
    let Ok(read) = doc::read::vm(document) else { return };
    let _ = Disks::from_template(&read.template, &[]);
    let written = doc::vm(&VmView {
        template: read.template.clone(),
        user_template: read.user_template.clone(),
        backup_config: read.backup_config.clone(),
        ..VmView::default()
    });
    let _ = doc::read::vm(&written).expect("what was written is read");
});
