//! Images, backups among them.

use super::{BIT, DECRYPT, END, FLAG, ID, NAME, START, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::{image, image_verbs, restore, verification};
use crate::job::SnapshotStep;
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::ImageRow;

const SNAPSHOT: ParamSpec = ParamSpec::int("snapshot");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.image", "image", ImageRow, crate::quota::image_moved, lock);
    all.extend(rows! {
        "one.image.allocate", [TEXT, ParamSpec::int("datastore"), ParamSpec::bool("no_check_capacity").or_bool(false)],
            "Registers an image and copies its file in.", Id, 
            |c, u, a| image::allocate_unchecked(c, u, a.text(0), a.int(1), a.bool(2));
        "one.image.chtype", [ID, ParamSpec::text("type")], "Changes an image's type: OS, DATABLOCK or CDROM.", Id,
            |c, u, a| image_verbs::change_type(c, u, a.int(0), a.text(1));
        "one.image.clone", [ID, NAME, ParamSpec::int("datastore").or_int(-1)], "Copies an image.", Id,
            |c, u, a| image_verbs::clone(c, u, a.int(0), a.text(1), a.int(2));
        "one.image.enable", [ID, ParamSpec::bool("enable")], "Enables an image, or disables it.", Id,
            |c, u, a| image_verbs::enable(c, u, a.int(0), a.bool(1));
        "one.image.snapshotdelete", [ID, SNAPSHOT], "Deletes a snapshot of an image.", Id,
            |c, u, a| image_verbs::snapshot(c, u, a.int(0), a.int(1), SnapshotStep::Delete);
        "one.image.snapshotflatten", [ID, SNAPSHOT], "Reverts an image to a snapshot and deletes them all.", Id,
            |c, u, a| image_verbs::snapshot(c, u, a.int(0), a.int(1), SnapshotStep::Flatten);
        "one.image.snapshotrevert", [ID, SNAPSHOT], "Reverts an image to a snapshot.", Id,
            |c, u, a| image_verbs::snapshot(c, u, a.int(0), a.int(1), SnapshotStep::Revert);
        "one.image.delete", [ID, ParamSpec::bool("force").or_bool(false)], "Deletes an image or backup.", Id,
            |c, u, a| image::delete(c, u, a.int(0), a.bool(1));
        "one.image.info", [ID, DECRYPT], "Shows an image.", Text, |c, u, a| image::info_decrypt(c, u, a.int(0), a.bool(1));
        "one.image.persistent", [ID, ParamSpec::bool("persistent")], "Makes an image persistent, or not.", Id,
            |c, u, a| image_verbs::persistent(c, u, a.int(0), a.bool(1));
        "one.image.restore", [ID, ParamSpec::int("datastore"), ParamSpec::text("options").or_text("")],
            "Restores a backup as a template and images.", Text,
            |c, u, a| restore::restore(c, u, a.int(0), a.int(1), a.text(2));
        "one.image.verify", [ID, ParamSpec::bool("deep").or_bool(false), ParamSpec::int("increment").or_int(-1)],
            "Looks whether a backup can be given back: at structure and presence, or (deep) at every byte; -1 is all \
             increments.", Id,
            |c, u, a| verification::verify(c, u, a.int(0), a.bool(1), a.int(2));
        "one.image.verifycancel", [ID], "Ends a running verification.", Id, |c, u, a| verification::cancel(c, u, a.int(0));
        "one.image.update", [ID, TEXT, TYPE], "Changes an image's attributes.", Id,
            |c, u, a| image::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.imagepool.info", [FLAG, START, END], "Lists the images.", Text,
            |c, u, a| image::pool(c, u, a.int(0), a.int(1), a.int(2));
    });
    all
}
