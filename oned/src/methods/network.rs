//! Virtual networks.

use super::{BIT, DECRYPT, END, FLAG, ID, NAME, START, TEXT, TYPE, owned_rows, rows};
use crate::api::Cloud;
use crate::api::network;
use crate::rpc::{Method, ParamSpec};
use crate::store::rows::NetworkRow;

const RANGE: ParamSpec = ParamSpec::int("range");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    let mut all = owned_rows!("one.vn", "virtual network", NetworkRow, |_, _, _| Ok(()), lock);
    all.extend(rows! {
        "one.vn.add_ar", [ID, TEXT], "Adds an address range to a virtual network.", Id,
            |c, u, a| network::add_range(c, u, a.int(0), a.text(1));
        "one.vn.allocate", [TEXT, ParamSpec::int("cluster").or_int(-1)], "Creates a virtual network.", Id,
            |c, u, a| network::allocate(c, u, a.text(0), a.int(1));
        "one.vn.delete", [ID], "Deletes a virtual network without leases.", Id,
            |c, u, a| network::delete(c, u, a.int(0));
        "one.vn.free_ar", [ID, RANGE], "Gives an address range of a reservation back.", Id,
            |c, u, a| network::free_range(c, u, a.int(0), a.int(1));
        "one.vn.hold", [ID, TEXT], "Keeps an address from being given out.", Id,
            |c, u, a| network::hold(c, u, a.int(0), a.text(1));
        "one.vn.info", [ID, DECRYPT], "Shows a virtual network with its leases.", Text,
            |c, u, a| network::info(c, u, a.int(0), a.bool(1));
        "one.vn.recover", [ID, ParamSpec::int("operation")],
            "Recovers a virtual network: 0 failure, 1 success, 2 delete, 3 retry.", Id,
            |c, u, a| network::recover(c, u, a.int(0), a.int(1));
        "one.vn.release", [ID, TEXT], "Lets an address that was held be given out again.", Id,
            |c, u, a| network::release(c, u, a.int(0), a.text(1));
        "one.vn.reserve", [ID, TEXT], "Takes addresses of a virtual network into a reservation.", Id,
            |c, u, a| network::reserve(c, u, a.int(0), a.text(1));
        "one.vn.rm_ar", [ID, RANGE, ParamSpec::bool("force").or_bool(false)],
            "Removes an address range from a virtual network.", Id,
            |c, u, a| network::remove_range(c, u, a.int(0), a.int(1), a.bool(2));
        "one.vn.update", [ID, TEXT, TYPE], "Changes a virtual network's attributes.", Id,
            |c, u, a| network::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.vn.update_ar", [ID, TEXT], "Changes an address range of a virtual network.", Id,
            |c, u, a| network::update_range(c, u, a.int(0), a.text(1));
        "one.vnpool.info", [FLAG, START, END], "Lists the virtual networks.", Text,
            |c, u, a| network::pool(c, u, a.int(0), a.int(1), a.int(2));
    });
    all
}
