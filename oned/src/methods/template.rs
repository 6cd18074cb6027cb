//! Stored VM templates.

use super::{BIT, DECRYPT, END, FLAG, ID, NAME, START, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::template::{self, Instantiation};
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::TemplateRow;

const RECURSIVE: ParamSpec = ParamSpec::bool("recursive").or_bool(false);

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.template", "VM template", TemplateRow, |_, _, _| Ok(()), lock);
    // Templates have a parameter more.
    all.retain(|method| method.name != "one.template.chmod");
    all.extend(rows! {
        "one.template.chmod", [ID, BIT, BIT, BIT, BIT, BIT, BIT, BIT, BIT, BIT, RECURSIVE],
            "Changes who may do what with a VM template: nine bits, -1 keeps; with its images.", Id,
            |c, u, a| template::chmod(c, u, a.int(0), &super::nine(a, 1), a.bool(10));
        "one.template.clone", [ID, NAME, RECURSIVE], "Copies a VM template, with its images if asked.", Id,
            |c, u, a| template::clone(c, u, a.int(0), a.text(1), a.bool(2));
        "one.template.allocate", [TEXT], "Stores a VM template.", Id, |c, u, a| template::allocate(c, u, a.text(0));
        "one.template.delete", [ID, RECURSIVE], "Deletes a VM template.", Id,
            |c, u, a| template::delete(c, u, a.int(0), a.bool(1));
        "one.template.info", [ID, ParamSpec::bool("extended").or_bool(false), DECRYPT], "Shows a VM template.", Text,
            |c, u, a| template::info_of(c, u, a.int(0), a.bool(1), a.bool(2));
        "one.template.instantiate",
            [ID, NAME.or_text(""), ParamSpec::bool("hold").or_bool(false), ParamSpec::text("extra").or_text(""),
             ParamSpec::bool("persistent").or_bool(false)],
            "Makes a VM from a template.", Id, |c, u, a| template::instantiate(
                c, u, a.int(0), &Instantiation { name: a.text(1), hold: a.bool(2), extra: a.text(3), persistent: a.bool(4) });
        "one.template.update", [ID, TEXT, TYPE], "Changes a VM template.", Id,
            |c, u, a| template::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.templatepool.info", [FLAG, START, END], "Lists the VM templates.", Text,
            |c, u, a| template::pool(c, u, a.int(0), a.int(1), a.int(2));
    });
    all
}
