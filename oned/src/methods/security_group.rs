//! Security groups, and the network cards of VMs that have them.

use super::{BIT, DECRYPT, END, FLAG, ID, NAME, START, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::{security_group, vm_nics};
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::SecurityGroupRow;

const NIC: ParamSpec = ParamSpec::int("nic");
const GROUP: ParamSpec = ParamSpec::int("group");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.secgroup", "security group", SecurityGroupRow, |_, _, _| Ok(()));
    all.extend(rows! {
        "one.secgroup.allocate", [TEXT], "Creates a security group.", Id,
            |c, u, a| security_group::allocate(c, u, a.text(0));
        "one.secgroup.clone", [ID, NAME], "Copies a security group.", Id,
            |c, u, a| security_group::clone(c, u, a.int(0), a.text(1));
        "one.secgroup.commit", [ID, ParamSpec::bool("recover").or_bool(false)],
            "Writes the rules of a security group into its VMs again.", Id,
            |c, u, a| security_group::commit(c, u, a.int(0));
        "one.secgroup.delete", [ID], "Deletes a security group that nobody uses.", Id,
            |c, u, a| security_group::delete(c, u, a.int(0));
        "one.secgroup.info", [ID, DECRYPT], "Shows a security group.", Text,
            |c, u, a| security_group::info(c, u, a.int(0));
        "one.secgroup.update", [ID, TEXT, TYPE], "Changes the rules of a security group.", Id,
            |c, u, a| security_group::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.secgrouppool.info", [FLAG, START, END], "Lists the security groups.", Text,
            |c, u, a| security_group::pool(c, u, a.int(0), a.int(1), a.int(2));
        "one.vm.attachnic", [ID, TEXT], "Adds a network card to a VM.", Id,
            |c, u, a| vm_nics::attach(c, u, a.int(0), a.text(1));
        "one.vm.attachsg", [ID, NIC, GROUP], "Adds a security group to a network card.", Id,
            |c, u, a| vm_nics::security_group(c, u, a.int(0), a.int(1), a.int(2), true);
        "one.vm.detachnic", [ID, NIC], "Takes a network card out of a VM.", Id,
            |c, u, a| vm_nics::detach(c, u, a.int(0), a.int(1));
        "one.vm.detachsg", [ID, NIC, GROUP], "Takes a security group from a network card.", Id,
            |c, u, a| vm_nics::security_group(c, u, a.int(0), a.int(1), a.int(2), false);
        "one.vm.updatenic", [ID, NIC, TEXT, TYPE], "Changes a network card of a VM.", Id,
            |c, u, a| vm_nics::update(c, u, a.int(0), a.int(1), a.text(2), a.int(3));
    });
    all
}
