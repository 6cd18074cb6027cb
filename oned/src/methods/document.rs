//! Documents of clients.

use super::{BIT, DECRYPT, ID, NAME, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::document;
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::DocumentRow;

/// The tool's number for what it stores.
const KIND: ParamSpec = ParamSpec::int("kind");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.document", "document", DocumentRow, |_, _, _| Ok(()), lock);
    all.extend(rows! {
        "one.document.allocate", [TEXT, KIND], "Stores a document of some type.", Id,
            |c, u, a| document::allocate(c, u, a.text(0), a.int(1));
        "one.document.clone", [ID, NAME], "Copies a document.", Id,
            |c, u, a| document::copy(c, u, a.int(0), a.text(1));
        "one.document.delete", [ID], "Deletes a document.", Id, |c, u, a| document::delete(c, u, a.int(0));
        "one.document.info", [ID, DECRYPT], "Shows a document.", Text, |c, u, a| document::info(c, u, a.int(0), a.bool(1));
        "one.document.update", [ID, TEXT, TYPE], "Changes a document.", Id,
            |c, u, a| document::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.documentpool.info", [ParamSpec::int("filter"), ParamSpec::int("start"), ParamSpec::int("end"), KIND], "Lists the documents of a type.", Text,
            |c, u, a| document::pool(c, u, (a.int(0), a.int(1), a.int(2)), a.int(3));
    });
    all
}
