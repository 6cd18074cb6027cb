//! `ACL`: one access rule; they are only ever read as a pool (`one.acl.info`, root ACL_POOL).

use super::writer::Writer;
use super::{Render, alone};

/// What the document of an access rule shows. The four parts are hexadecimal numbers as clients sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclView {
    /// Rule id.
    pub id: i64,
    /// User selector.
    pub user: String,
    /// Resource selector.
    pub resource: String,
    /// Rights.
    pub rights: String,
    /// Zone selector.
    pub zone: String,
    /// The rule in words, `@1 VM/* CREATE *`.
    pub string: String,
}

/// The element of ACL_POOL.
pub fn acl(view: &AclView) -> String {
    alone(view)
}

impl Render for AclView {
    fn render(&self, w: &mut Writer) {
        w.open("ACL");
        w.number("ID", self.id);
        w.text("USER", &self.user);
        w.text("RESOURCE", &self.resource);
        w.text("RIGHTS", &self.rights);
        w.text("ZONE", &self.zone);
        w.text("STRING", &self.string);
        w.close("ACL");
    }
}
