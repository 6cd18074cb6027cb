//! What VMs did and used.

use super::{FLAG, ID, rows};
use crate::api::Cloud;
use crate::api::accounting;
use crate::rpc::{Method, ParamSpec};

const FROM: ParamSpec = ParamSpec::int("start").or_int(-1);
const UNTIL: ParamSpec = ParamSpec::int("end").or_int(-1);
const FIRST_MONTH: ParamSpec = ParamSpec::int("first month").or_int(-1);
const FIRST_YEAR: ParamSpec = ParamSpec::int("first year").or_int(-1);
const LAST_MONTH: ParamSpec = ParamSpec::int("last month").or_int(-1);
const LAST_YEAR: ParamSpec = ParamSpec::int("last year").or_int(-1);

pub(super) fn rows() -> Vec<Method<Cloud>> {
    rows! {
        "one.vm.monitoring", [ID], "Shows what a VM was measured to use.", Text,
            |c, u, a| accounting::monitoring(c, u, a.int(0));
        "one.vmpool.accounting", [FLAG, FROM, UNTIL], "Lists the history records of VMs in a time.", Text,
            |c, u, a| accounting::accounting(c, u, a.int(0), a.int(1), a.int(2));
        "one.vmpool.calculateshowback", [FIRST_MONTH, FIRST_YEAR, LAST_MONTH, LAST_YEAR],
            "Does nothing: costs are computed when asked for.", Text,
            |c, u, a| accounting::calculate_showback(c, u, [a.int(0), a.int(1), a.int(2), a.int(3)]);
        "one.vmpool.monitoring", [FLAG, ParamSpec::int("seconds").or_int(-1)],
            "Shows what VMs were measured to use; 0 seconds is the last only, -1 all.", Text,
            |c, u, a| accounting::pool_monitoring(c, u, a.int(0), a.int(1));
        "one.vmpool.showback", [FLAG, FIRST_MONTH, FIRST_YEAR, LAST_MONTH, LAST_YEAR],
            "Lists what VMs cost by month.", Text,
            |c, u, a| accounting::showback(c, u, a.int(0), [a.int(1), a.int(2), a.int(3), a.int(4)]);
    }
}
