//! From rows to the views that `one_core::doc` renders. Reads only; hides secrets.

mod backup_job;
mod document;
mod image;
mod infrastructure;
mod network;
mod people;
mod vm;

use std::sync::Arc;

use one_core::access::Permissions;
use one_core::doc::{self, Owner, TemplateView};
use one_core::template::Template;

use super::{attributes, owned};
use crate::store::rows::TemplateRow;
use crate::store::{PeopleNames, StoreError, Tx};

pub use backup_job::{backup_job, backup_job_extended, in_list};
pub use document::document;
pub use image::{ImageRelated, image, image_is_usable, image_with};
pub use infrastructure::{cluster, datastore, host, host_sample, import_under_way, vdc, zone};
pub use network::{
    Leases, Sight, definition, group_users, groups_of, network, ranges, security_group, set_definition, set_ranges,
};
pub use people::{Quotas, acl, group, user};
pub use vm::{VmRelated, vm, vm_short_with, vm_told, vm_with};

/// Names of users and groups, for a document or pool.
#[derive(Default)]
pub struct Names(Arc<PeopleNames>);

impl Names {
    /// Reads them.
    ///
    /// # Errors
    /// The database's failure.
    pub fn read(tx: &mut Tx<'_>) -> Result<Self, StoreError> {
        Ok(Self(tx.names()?))
    }

    /// An owner as documents show him.
    #[must_use]
    pub fn owner(&self, uid: i64, gid: i64) -> Owner {
        Owner { uid, gid, uname: self.0.user(uid).to_owned(), gname: self.0.group(gid).to_owned() }
    }

    fn group(&self, gid: i64) -> String {
        self.0.group(gid).to_owned()
    }
}

pub use crate::ledger::{short_point, stored, vm_size};

/// A template column for a document: what is sealed in it is hidden.
fn shown(column: &str) -> Template {
    attributes::hidden(stored(column))
}

fn number(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(-1)
}

/// The view of a stored VM template.
#[must_use]
pub fn template(names: &Names, row: &TemplateRow) -> TemplateView {
    TemplateView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        lock: lock(&row.lock),
        permissions: Permissions::from_i64(row.permissions),
        regtime: row.regtime,
        template: shown(&row.template),
    }
}

/// The lock of a column, for a document.
#[must_use]
pub fn lock(column: &str) -> Option<doc::Lock> {
    owned::stored_lock(column).map(|lock| doc::Lock {
        level: lock.level.number(),
        owner: lock.owner,
        time: lock.time,
        request_id: lock.request_id,
    })
}
