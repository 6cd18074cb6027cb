//! From rows to the views that `one_core::doc` renders. Reads only; hides secrets.

mod backup_job;
mod document;
mod image;
mod infrastructure;
mod network;
mod people;
mod vm;

use std::collections::BTreeMap;

use one_core::access::Permissions;
use one_core::doc::{self, Owner, TemplateView};
use one_core::template::Template;

use super::{attributes, owned};
use crate::store::rows::TemplateRow;
use crate::store::{StoreError, Tx};

pub use backup_job::{backup_job, in_list};
pub use document::document;
pub use image::{image, image_is_usable};
pub use infrastructure::{cluster, datastore, host, host_sample, vdc, zone};
pub use network::{
    Leases, Sight, definition, group_users, groups_of, network, ranges, security_group, set_definition, set_ranges,
};
pub use people::{Quotas, acl, group, user};
pub use vm::{vm, vm_short};

/// Names of users and groups, read once per document or pool.
#[derive(Default)]
pub struct Names {
    users: BTreeMap<i64, String>,
    groups: BTreeMap<i64, String>,
}

impl Names {
    /// Reads them.
    ///
    /// # Errors
    /// The database's failure.
    pub fn read(tx: &mut Tx<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            users: tx.user_list()?.into_iter().map(|row| (row.id, row.name)).collect(),
            groups: tx.group_list()?.into_iter().map(|row| (row.id, row.name)).collect(),
        })
    }

    /// An owner as documents show him.
    #[must_use]
    pub fn owner(&self, uid: i64, gid: i64) -> Owner {
        let name = |names: &BTreeMap<i64, String>, id| names.get(&id).cloned().unwrap_or_default();
        Owner { uid, gid, uname: name(&self.users, uid), gname: name(&self.groups, gid) }
    }

    fn group(&self, gid: i64) -> String {
        self.groups.get(&gid).cloned().unwrap_or_default()
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
