//! `VMTEMPLATE`: a stored VM template (`one.template.info`).

use super::writer::Writer;
use super::{Lock, Owner, Render, alone};
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
    alone(view)
}

impl Render for TemplateView {
    fn render(&self, w: &mut Writer) {
        w.open("VMTEMPLATE");
        w.number("ID", self.id);
        w.owner(&self.owner);
        w.text("NAME", &self.name);
        w.lock(self.lock.as_ref());
        w.permissions(&self.permissions);
        w.number("REGTIME", self.regtime);
        w.template("TEMPLATE", &self.template);
        w.close("VMTEMPLATE");
    }
}
