//! From rows to the views that `one_core::doc` renders. Reads only; hides secrets.

mod image;
mod infrastructure;
mod people;
mod vm;

use std::collections::BTreeMap;

use one_core::access::Permissions;
use one_core::doc::{self, Owner, TemplateView};
use one_core::template::Template;

use super::owned;
use crate::store::rows::TemplateRow;
use crate::store::{StoreError, Tx};

pub use image::{image, image_is_usable};
pub use infrastructure::{cluster, datastore, host, zone};
pub use people::{Quotas, acl, group, user};
pub use vm::{vm, vm_short};

/// Attributes whose value only administrators may see, and only when they ask for it (`decrypt`).
const SECRETS: [&str; 3] = ["RESTIC_PASSWORD", "SSH_PRIVATE_KEY", "SSH_PASSPHRASE"];

/// What stands in place of a secret.
const HIDDEN: &str = "***";

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

    fn owner(&self, uid: i64, gid: i64) -> Owner {
        let name = |names: &BTreeMap<i64, String>, id| names.get(&id).cloned().unwrap_or_default();
        Owner { uid, gid, uname: name(&self.users, uid), gname: name(&self.groups, gid) }
    }

    fn group(&self, gid: i64) -> String {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }
}

pub use crate::ledger::{short_point, stored, vm_size};

/// A template with its secrets replaced.
#[must_use]
pub fn without_secrets(mut template: Template) -> Template {
    for name in SECRETS {
        if template.scalar(name).is_some() {
            template.set(name, HIDDEN);
        }
    }
    template
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
        template: stored(&row.template),
    }
}

/// A client that read a document sends what stood in place of a secret back: that is no new value.
pub fn keep_hidden(old: &Template, new: &mut Template) {
    for name in SECRETS {
        if new.scalar(name) == Some(HIDDEN)
            && let Some(secret) = old.scalar(name).map(String::from)
        {
            new.set(name, secret);
        }
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
