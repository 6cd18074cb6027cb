//! `ACL`: one access rule; they are only ever read as a pool (`one.acl.info`, root ACL_POOL).

use super::writer::Writer;

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
    let mut w = Writer::new();
    w.open("ACL");
    w.number("ID", view.id);
    w.text("USER", &view.user);
    w.text("RESOURCE", &view.resource);
    w.text("RIGHTS", &view.rights);
    w.text("ZONE", &view.zone);
    w.text("STRING", &view.string);
    w.close("ACL");
    w.finish()
}
