//! Quotas of users and groups.

use super::{ID, rows};
use crate::api::Cloud;
use crate::api::quota::{self, Defaults};
use crate::rpc::{Method, ParamSpec};

const LIMITS: ParamSpec = ParamSpec::text("limits");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    rows! {
        "one.group.quota", [ID, LIMITS], "Sets a group's limits.", Id, |c, u, a| quota::group(c, u, a.int(0), a.text(1));
        "one.groupquota.info", [], "Shows the limits of groups that have none of their own.", Text,
            |c, _u, a| quota::defaults(c, Defaults::Groups);
        "one.groupquota.update", [LIMITS], "Sets the limits of groups that have none of their own.", Text,
            |c, u, a| quota::update_defaults(c, u, Defaults::Groups, a.text(0));
        "one.user.quota", [ID, LIMITS], "Sets a user's limits.", Id, |c, u, a| quota::user(c, u, a.int(0), a.text(1));
        "one.userquota.info", [], "Shows the limits of users who have none of their own.", Text,
            |c, _u, a| quota::defaults(c, Defaults::Users);
        "one.userquota.update", [LIMITS], "Sets the limits of users who have none of their own.", Text,
            |c, u, a| quota::update_defaults(c, u, Defaults::Users, a.text(0));
    }
}
