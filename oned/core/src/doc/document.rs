//! `DOCUMENT`: a template of a free type, kept for tools that store their own objects in the daemon
//! (`one.document.info`).

use super::writer::Writer;
use super::{Lock, Owner, Render, alone};
use crate::access::Permissions;
use crate::template::Template;

/// What a document object shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DocumentView {
    /// Document id.
    pub id: i64,
    /// Owner and group.
    pub owner: Owner,
    /// Name.
    pub name: String,
    /// Number that tells the tools' kinds of documents apart (services 100, their templates 101 …).
    pub kind: i64,
    /// The nine permission bits.
    pub permissions: Permissions,
    /// Lock, if any.
    pub lock: Option<Lock>,
    /// What the tool stored.
    pub template: Template,
}

/// The document (`one.document.info`, and an element of DOCUMENT_POOL).
pub fn document(view: &DocumentView) -> String {
    alone(view)
}

impl Render for DocumentView {
    fn render(&self, w: &mut Writer) {
        w.open("DOCUMENT");
        w.number("ID", self.id);
        w.owner(&self.owner);
        w.text("NAME", &self.name);
        w.number("TYPE", self.kind);
        w.permissions(&self.permissions);
        // Behind the permissions, unlike everywhere else.
        w.lock(self.lock.as_ref());
        w.template("TEMPLATE", &self.template);
        w.close("DOCUMENT");
    }
}
