//! Virtual machines.

use super::{BIT, DECRYPT, END, FLAG, ID, NAME, START, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::vm::{self, PoolWish};
use crate::api::vm_action::{self, Deployment, Migration};
use crate::api::vm_restore::{self, InPlace};
use crate::api::{backup, events, schedule, vm_recover};
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::VmRow;

const STATE: ParamSpec = ParamSpec::int("state").or_int(-1);
const HOST: ParamSpec = ParamSpec::int("host");
const ENFORCE: ParamSpec = ParamSpec::bool("enforce");
const SYSTEM_DATASTORE: ParamSpec = ParamSpec::int("datastore").or_int(-1);
const SEARCH: ParamSpec = ParamSpec::text("search").or_text("");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.vm", "VM", VmRow, crate::quota::vm_moved, lock);
    // Which right renaming needs is for the lists of operations to say.
    all.retain(|method| method.name != "one.vm.rename");
    all.extend(rows! {
        "one.vm.action", [ParamSpec::text("action"), ID], "Acts on a VM: poweroff, suspend, resume, stop, undeploy, reboot, terminate ...", Id,
            |c, u, a| vm_action::action(c, u, a.text(0), a.int(1));
        "one.vm.allocate", [TEXT, ParamSpec::bool("hold").or_bool(false)], "Makes a VM.", Id,
            |c, u, a| vm::allocate(c, u, a.text(0), a.bool(1));
        "one.vm.backup", [ID, ParamSpec::int("datastore").or_int(-1), ParamSpec::bool("reset").or_bool(false)],
            "Starts a backup of a VM.", Id, |c, u, a| backup::backup(c, u, a.int(0), a.int(1), a.bool(2));
        "one.vm.backupcancel", [ID], "Stops a VM's running backup.", Id, |c, u, a| backup::cancel(c, u, a.int(0));
        "one.vm.deploy", [ID, HOST, ENFORCE.or_bool(false), SYSTEM_DATASTORE, ParamSpec::text("extra").or_text("")],
            "Puts a VM on a host.", Id, |c, u, a| vm_action::deploy(c, u, a.int(0), Deployment {
                host: a.int(1), enforce: a.bool(2), datastore: a.int(3), extra: a.text(4) });
        "one.vm.events", [ID, ParamSpec::int("most").or_int(-1)],
            "Lists what was done to a VM, newest first: at most so many events, -1 all.", Text,
            |c, u, a| events::of_vm(c, u, a.int(0), a.int(1));
        "one.vm.info", [ID, DECRYPT], "Shows a VM.", Text, |c, u, a| vm::info_decrypt(c, u, a.int(0), a.bool(1));
        "one.vm.migrate", [ID, HOST, ParamSpec::bool("live"), ENFORCE.or_bool(false), SYSTEM_DATASTORE,
            ParamSpec::int("type").or_int(0)], "Moves a VM to another host.", Id,
            |c, u, a| vm_action::migrate(c, u, a.int(0), Migration {
                host: a.int(1), live: a.bool(2), enforce: a.bool(3), datastore: a.int(4), kind: a.int(5) });
        "one.vm.recover", [ID, ParamSpec::int("operation")], "Helps a stuck VM.", Id,
            |c, u, a| vm_recover::recover(c, u, a.int(0), a.int(1));
        "one.vm.rename", [ID, NAME], "Renames a VM.", Id, |c, u, a| vm::rename(c, u, a.int(0), a.text(1));
        "one.vm.restore", [ID, ParamSpec::int("image"), ParamSpec::int("increment").or_int(-1),
            ParamSpec::int("disk").or_int(-1)], "Puts a VM's disks back from a backup.", Id,
            |c, u, a| vm_restore::restore(c, u, a.int(0), InPlace {
                image_id: a.int(1), increment: a.int(2), disk: a.int(3),
            });
        "one.vm.resize", [ID, TEXT, ENFORCE.or_bool(true)], "Changes a VM's processors and memory.", Id,
            |c, u, a| vm_action::resize(c, u, a.int(0), a.text(1), a.bool(2));
        "one.vm.schedadd", [ID, TEXT], "Adds a scheduled action to a VM.", Id,
            |c, u, a| schedule::add(c, u, a.int(0), a.text(1));
        "one.vm.scheddelete", [ID, ParamSpec::int("action")], "Deletes a scheduled action.", Id,
            |c, u, a| schedule::delete(c, u, a.int(0), a.int(1));
        "one.vm.schedupdate", [ID, ParamSpec::int("action"), TEXT], "Changes a scheduled action.", Id,
            |c, u, a| schedule::update(c, u, a.int(0), a.int(1), a.text(2));
        "one.vm.update", [ID, TEXT, TYPE], "Changes a VM's user attributes.", Id,
            |c, u, a| vm::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.vm.updateconf", [ID, TEXT, TYPE], "Changes a VM's configuration, BACKUP_CONFIG included.", Id,
            |c, u, a| vm::update_conf(c, u, a.int(0), a.text(1), a.int(2));
        "one.vmpool.info", [FLAG, START, END, STATE, SEARCH], "Lists VMs, briefly.",
            Text, |c, u, a| vm::pool(c, u, PoolWish {
                flag: a.int(0), start: a.int(1), end: a.int(2), state: a.int(3), search: a.text(4), extended: false });
        "one.vmpool.infoextended", [FLAG, START, END, STATE, SEARCH],
            "Lists VMs, fully.", Text, |c, u, a| vm::pool(c, u, PoolWish {
                flag: a.int(0), start: a.int(1), end: a.int(2), state: a.int(3), search: a.text(4), extended: true });
        "one.vmpool.infoset", [ParamSpec::text("ids"), ParamSpec::bool("extended").or_bool(false)],
            "Shows the VMs of a list of ids.", Text, |c, u, a| vm::info_set(c, u, a.text(0), a.bool(1));
    });
    all
}
