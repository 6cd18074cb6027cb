//! Documents of clients.

use one_core::access::Permissions;
use one_core::doc::DocumentView;

use super::{Names, lock, shown};
use crate::store::rows::DocumentRow;

/// The document view.
#[must_use]
pub fn document(names: &Names, row: &DocumentRow) -> DocumentView {
    DocumentView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        kind: row.kind,
        permissions: Permissions::from_i64(row.permissions),
        lock: lock(&row.lock),
        template: shown(&row.template),
    }
}
