//! `VMTEMPLATE`: a stored VM template (`one.template.info`).

use super::writer::Writer;
use super::{Lock, Owner};
use crate::access::Permissions;
use crate::template::Template;

/// What the document of a stored VM template shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateView {
    /// Template id.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// Lock, if any.
    pub lock: Option<Lock>,
    /// The nine permission bits.
    pub permissions: Permissions,
    /// Registration, epoch seconds.
    pub regtime: i64,
    /// The template itself.
    pub template: Template,
}

/// The document (`one.template.info`, and an element of VMTEMPLATE_POOL).
pub fn vm_template(view: &TemplateView) -> String {
    let mut w = Writer::new();
    w.open("VMTEMPLATE");
    w.number("ID", view.id);
    w.owner(&view.owner);
    w.text("NAME", &view.name);
    w.lock(view.lock.as_ref());
    w.permissions(&view.permissions);
    w.number("REGTIME", view.regtime);
    w.template("TEMPLATE", &view.template);
    w.close("VMTEMPLATE");
    w.finish()
}
