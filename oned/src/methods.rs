//! Every method of the XML-RPC door: name, parameters, and the api function behind it. The only list there is: help,
//! listing and checks come from it. Names, orders and defaults are OpenNebula's (its XML-RPC API reference).

use crate::api::template::Instantiation;
use crate::api::vm::PoolWish;
use crate::api::{Cloud, backup, cluster, datastore, host, image, restore, schedule, system, template, user, vm};
use crate::rpc::{Answer, Method, ParamSpec};

const ID: ParamSpec = ParamSpec::int("id");
const DECRYPT: ParamSpec = ParamSpec::bool("decrypt").or_bool(false);
const TEXT: ParamSpec = ParamSpec::text("template");
const TYPE: ParamSpec = ParamSpec::int("type").or_int(0);
const NAME: ParamSpec = ParamSpec::text("name");
const FILTER: [ParamSpec; 3] =
    [ParamSpec::int("filter").or_int(-2), ParamSpec::int("start").or_int(-1), ParamSpec::int("end").or_int(-1)];
const VM_FILTER: [ParamSpec; 5] = [
    ParamSpec::int("filter").or_int(-2),
    ParamSpec::int("start").or_int(-1),
    ParamSpec::int("end").or_int(-1),
    ParamSpec::int("state").or_int(-1),
    ParamSpec::text("search").or_text(""),
];

macro_rules! rows {
    ($($name:literal, [$($param:expr),*], $help:literal, $answer:ident, |$cloud:ident, $caller:ident, $args:ident| $body:expr;)*) => {
        &[$(Method {
            name: $name,
            params: &[$($param),*],
            help: $help,
            run: |$cloud, $caller, $args| { let _ = $args; $body.map(Answer::$answer) },
        }),*]
    };
}

/// The table.
pub static METHODS: &[Method<Cloud>] = rows! {
    "one.acl.info", [], "Lists the access rules.", Text, |c, u, a| cluster::acl_pool(c, u);
    "one.cluster.info", [ID, DECRYPT], "Shows a cluster.", Text, |c, u, a| cluster::info(c, u, a.int(0));
    "one.clusterpool.info", [], "Lists the clusters.", Text, |c, u, a| cluster::pool(c, u);
    "one.datastore.allocate", [TEXT, ParamSpec::int("cluster").or_int(-1)], "Creates a datastore.", Id,
        |c, u, a| datastore::allocate(c, u, a.text(0), a.int(1));
    "one.datastore.delete", [ID], "Deletes an empty datastore.", Id, |c, u, a| datastore::delete(c, u, a.int(0));
    "one.datastore.info", [ID, DECRYPT], "Shows a datastore.", Text,
        |c, u, a| datastore::info(c, u, a.int(0), a.bool(1));
    "one.datastore.rename", [ID, NAME], "Renames a datastore.", Id, |c, u, a| datastore::rename(c, u, a.int(0), a.text(1));
    "one.datastore.update", [ID, TEXT, TYPE], "Changes a datastore's attributes.", Id,
        |c, u, a| datastore::update(c, u, a.int(0), a.text(1), a.int(2));
    "one.datastorepool.info", [], "Lists the datastores.", Text, |c, u, a| datastore::pool(c, u);
    "one.group.info", [ParamSpec::int("id").or_int(-1), DECRYPT], "Shows a group; -1 is the caller's.", Text,
        |c, u, a| user::group(c, u, a.int(0));
    "one.grouppool.info", [], "Lists the groups.", Text, |c, u, a| user::group_pool(c, u);
    "one.host.allocate",
        [NAME, ParamSpec::text("im"), ParamSpec::text("vmm"), ParamSpec::int("cluster").or_int(-1)],
        "Adds a host.", Id, |c, u, a| host::allocate(c, u, a.text(0), a.text(1), a.text(2), a.int(3));
    "one.host.delete", [ID], "Removes a host without VMs.", Id, |c, u, a| host::delete(c, u, a.int(0));
    "one.host.info", [ID, DECRYPT], "Shows a host.", Text, |c, u, a| host::info(c, u, a.int(0));
    "one.host.rename", [ID, NAME], "Renames a host.", Id, |c, u, a| host::rename(c, u, a.int(0), a.text(1));
    "one.host.update", [ID, TEXT, TYPE], "Changes a host's attributes.", Id,
        |c, u, a| host::update(c, u, a.int(0), a.text(1), a.int(2));
    "one.hostpool.info", [], "Lists the hosts.", Text, |c, u, a| host::pool(c, u);
    "one.image.allocate", [TEXT, ParamSpec::int("datastore"), ParamSpec::bool("no_check_capacity").or_bool(false)],
        "Registers an image and copies its file in.", Id, |c, u, a| image::allocate(c, u, a.text(0), a.int(1));
    "one.image.delete", [ID, ParamSpec::bool("force").or_bool(false)], "Deletes an image or backup.", Id,
        |c, u, a| image::delete(c, u, a.int(0), a.bool(1));
    "one.image.info", [ID, DECRYPT], "Shows an image.", Text, |c, u, a| image::info(c, u, a.int(0));
    "one.image.persistent", [ID, ParamSpec::bool("persistent")], "Makes an image persistent, or not.", Id,
        |c, u, a| image::persistent(c, u, a.int(0), a.bool(1));
    "one.image.rename", [ID, NAME], "Renames an image.", Id, |c, u, a| image::rename(c, u, a.int(0), a.text(1));
    "one.image.restore", [ID, ParamSpec::int("datastore"), ParamSpec::text("options").or_text("")],
        "Restores a backup as a template and images.", Text,
        |c, u, a| restore::restore(c, u, a.int(0), a.int(1), a.text(2));
    "one.image.update", [ID, TEXT, TYPE], "Changes an image's attributes.", Id,
        |c, u, a| image::update(c, u, a.int(0), a.text(1), a.int(2));
    "one.imagepool.info", [FILTER[0], FILTER[1], FILTER[2]], "Lists the images.", Text,
        |c, u, a| image::pool(c, u, a.int(0), a.int(1), a.int(2));
    "one.system.config", [], "Shows the daemon's configuration.", Text, |c, u, a| system::config(c, u);
    "one.system.version", [], "Tells which line of OpenNebula's API is spoken.", Text, |c, u, a| system::version(c, u);
    "one.template.allocate", [TEXT], "Stores a VM template.", Id, |c, u, a| template::allocate(c, u, a.text(0));
    "one.template.delete", [ID, ParamSpec::bool("recursive").or_bool(false)], "Deletes a VM template.", Id,
        |c, u, a| template::delete(c, u, a.int(0), a.bool(1));
    "one.template.info", [ID, ParamSpec::bool("extended").or_bool(false), DECRYPT], "Shows a VM template.", Text,
        |c, u, a| template::info(c, u, a.int(0));
    "one.template.instantiate",
        [ID, NAME.or_text(""), ParamSpec::bool("hold").or_bool(false), ParamSpec::text("extra").or_text(""),
         ParamSpec::bool("persistent").or_bool(false)],
        "Makes a VM from a template.", Id, |c, u, a| template::instantiate(
            c, u, a.int(0), &Instantiation { name: a.text(1), hold: a.bool(2), extra: a.text(3), persistent: a.bool(4) });
    "one.template.rename", [ID, NAME], "Renames a VM template.", Id, |c, u, a| template::rename(c, u, a.int(0), a.text(1));
    "one.template.update", [ID, TEXT, TYPE], "Changes a VM template.", Id,
        |c, u, a| template::update(c, u, a.int(0), a.text(1), a.int(2));
    "one.templatepool.info", [FILTER[0], FILTER[1], FILTER[2]], "Lists the VM templates.", Text,
        |c, u, a| template::pool(c, u, a.int(0), a.int(1), a.int(2));
    "one.user.info", [ParamSpec::int("id").or_int(-1), DECRYPT], "Shows a user; -1 is the caller.", Text,
        |c, u, a| user::info(c, u, a.int(0));
    "one.userpool.info", [], "Lists the users.", Text, |c, u, a| user::pool(c, u);
    "one.vm.action", [ParamSpec::text("action"), ID], "Acts on a VM: poweroff, resume, reboot, terminate ...", Id,
        |c, u, a| vm::action(c, u, a.text(0), a.int(1));
    "one.vm.allocate", [TEXT, ParamSpec::bool("hold").or_bool(false)], "Makes a VM.", Id,
        |c, u, a| vm::allocate(c, u, a.text(0), a.bool(1));
    "one.vm.backup", [ID, ParamSpec::int("datastore").or_int(-1), ParamSpec::bool("reset").or_bool(false)],
        "Starts a backup of a VM.", Id, |c, u, a| backup::backup(c, u, a.int(0), a.int(1), a.bool(2));
    "one.vm.backupcancel", [ID], "Stops a VM's running backup.", Id, |c, u, a| backup::cancel(c, u, a.int(0));
    "one.vm.info", [ID, DECRYPT], "Shows a VM.", Text, |c, u, a| vm::info(c, u, a.int(0));
    "one.vm.recover", [ID, ParamSpec::int("operation")], "Helps a stuck VM.", Id,
        |c, u, a| vm::recover(c, u, a.int(0), a.int(1));
    "one.vm.rename", [ID, NAME], "Renames a VM.", Id, |c, u, a| vm::rename(c, u, a.int(0), a.text(1));
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
    "one.vmpool.info", [VM_FILTER[0], VM_FILTER[1], VM_FILTER[2], VM_FILTER[3], VM_FILTER[4]], "Lists VMs, briefly.",
        Text, |c, u, a| vm::pool(c, u, PoolWish {
            flag: a.int(0), start: a.int(1), end: a.int(2), state: a.int(3), search: a.text(4), extended: false });
    "one.vmpool.infoextended", [VM_FILTER[0], VM_FILTER[1], VM_FILTER[2], VM_FILTER[3], VM_FILTER[4]],
        "Lists VMs, fully.", Text, |c, u, a| vm::pool(c, u, PoolWish {
            flag: a.int(0), start: a.int(1), end: a.int(2), state: a.int(3), search: a.text(4), extended: true });
    "one.vmpool.infoset", [ParamSpec::text("ids"), ParamSpec::bool("extended").or_bool(false)],
        "Shows the VMs of a list of ids.", Text, |c, u, a| vm::info_set(c, u, a.text(0), a.bool(1));
    "one.zone.info", [ID, DECRYPT], "Shows a zone.", Text, |c, u, a| cluster::zone(c, u, a.int(0));
    "one.zonepool.info", [], "Lists the zones.", Text, |c, u, a| cluster::zone_pool(c, u);
};
