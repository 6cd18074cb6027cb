//! Datastores.

use super::{BIT, DECRYPT, ID, NAME, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::datastore;
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::DatastoreRow;

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.datastore", "datastore", DatastoreRow, |_, _, _| Ok(()));
    all.extend(rows! {
        "one.datastore.allocate", [TEXT, ParamSpec::int("cluster").or_int(-1)], "Creates a datastore.", Id,
            |c, u, a| datastore::allocate(c, u, a.text(0), a.int(1));
        "one.datastore.delete", [ID], "Deletes an empty datastore.", Id, |c, u, a| datastore::delete(c, u, a.int(0));
        "one.datastore.enable", [ID, ParamSpec::bool("enable")], "Enables or disables a system datastore.", Id,
            |c, u, a| datastore::enable(c, u, a.int(0), a.bool(1));
        "one.datastore.importbackups", [ID], "Makes images of the restore points that no image has.", Id,
            |c, u, a| datastore::import_backups(c, u, a.int(0));
        "one.datastore.info", [ID, DECRYPT], "Shows a datastore.", Text,
            |c, u, a| datastore::info(c, u, a.int(0), a.bool(1));
        "one.datastore.update", [ID, TEXT, TYPE], "Changes a datastore's attributes.", Id,
            |c, u, a| datastore::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.datastorepool.info", [], "Lists the datastores.", Text, |c, u, a| datastore::pool(c, u);
    });
    all
}
