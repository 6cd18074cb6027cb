//! The tools, a file each: their options and what they call. What all of them can do is in [`verbs`].

pub mod keeplast;
pub mod making;
pub mod oneacl;
pub mod onebackupjob;
pub mod onecluster;
pub mod onedatastore;
pub mod onegroup;
pub mod onehost;
pub mod oneimage;
pub mod onesecgroup;
pub mod onetemplate;
pub mod oneuser;
pub mod onevdc;
pub mod onevm;
pub mod onevnet;
pub mod onezone;
mod quotas;
mod scheduling;
mod snapshots;
pub mod verbs;
mod vm_options;

use crate::table::ListOptions;
use crate::xml::Element;

/// The text of a cell for USER: the name, or the id with `--numeric`.
fn user_cell(object: &Element, options: &ListOptions) -> String {
    object.text_at(if options.numeric { "UID" } else { "UNAME" }).to_owned()
}

/// The text of a cell for GROUP.
fn group_cell(object: &Element, options: &ListOptions) -> String {
    object.text_at(if options.numeric { "GID" } else { "GNAME" }).to_owned()
}

/// The text at a fixed path.
macro_rules! text_cell {
    ($path:literal) => {
        |object: &crate::xml::Element, _: &crate::table::ListOptions| object.text_at($path).to_owned()
    };
}
use text_cell;
