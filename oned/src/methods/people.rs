//! Users, groups, access rules.

use super::{DECRYPT, ID, NAME, TEXT, TYPE, rows};
use crate::api::Cloud;
use crate::api::people;
use crate::rpc::{Method, ParamSpec};

const USER: ParamSpec = ParamSpec::int("user");
const GROUP: ParamSpec = ParamSpec::int("group");

pub(super) fn rows() -> Vec<Method<Cloud>> {
    rows! {
        "one.acl.addrule", [ParamSpec::text("user"), ParamSpec::text("resource"), ParamSpec::text("rights"),
            ParamSpec::text("zone").or_text("")], "Adds an access rule, four hexadecimal numbers.", Id,
            |c, u, a| people::add_rule(c, u, (a.text(0), a.text(1), a.text(2), a.text(3)));
        "one.acl.delrule", [ID], "Deletes an access rule.", Id, |c, u, a| people::delete_rule(c, u, a.int(0));
        "one.group.addadmin", [ID, USER], "Makes a user administrator of a group.", Id,
            |c, u, a| people::add_admin(c, u, a.int(0), a.int(1));
        "one.group.allocate", [NAME], "Creates a group.", Id, |c, u, a| people::group_allocate(c, u, a.text(0));
        "one.group.deladmin", [ID, USER], "Takes the administration of a group from a user.", Id,
            |c, u, a| people::remove_admin(c, u, a.int(0), a.int(1));
        "one.group.delete", [ID], "Deletes an empty group.", Id, |c, u, a| people::group_delete(c, u, a.int(0));
        "one.group.update", [ID, TEXT, TYPE], "Changes a group's attributes.", Id,
            |c, u, a| people::group_update(c, u, a.int(0), a.text(1), a.int(2));
        "one.user.addgroup", [ID, GROUP], "Puts a user into another group too.", Id,
            |c, u, a| people::add_group(c, u, a.int(0), a.int(1));
        "one.user.allocate", [NAME, ParamSpec::text("password"), ParamSpec::text("driver").or_text(""),
            ParamSpec::ints("groups").or_no_ints()], "Creates a user.", Id,
            |c, u, a| people::allocate(c, u, a.text(0), a.text(1), a.text(2), a.ints(3));
        "one.user.chauth", [ID, ParamSpec::text("driver"), ParamSpec::text("password").or_text("")],
            "Changes how a user logs in.", Id, |c, u, a| people::chauth(c, u, a.int(0), a.text(1), a.text(2));
        "one.user.chgrp", [ID, GROUP], "Changes a user's primary group.", Id,
            |c, u, a| people::chgrp(c, u, a.int(0), a.int(1));
        "one.user.delete", [ID], "Deletes a user.", Id, |c, u, a| people::delete(c, u, a.int(0));
        "one.user.delgroup", [ID, GROUP], "Takes a user out of a group.", Id,
            |c, u, a| people::remove_group(c, u, a.int(0), a.int(1));
        "one.user.enable", [ID, ParamSpec::bool("enable")], "Lets a user in, or not.", Id,
            |c, u, a| people::enable(c, u, a.int(0), a.bool(1));
        "one.user.login", [NAME, ParamSpec::text("token").or_text(""), ParamSpec::int("seconds").or_int(36000),
            ParamSpec::int("egid").or_int(-1)], "Makes or ends a login token.", Text,
            |c, u, a| people::login(c, u, a.text(0), a.text(1), a.int(2), a.int(3));
        "one.user.passwd", [ID, ParamSpec::text("password")], "Changes a user's password.", Id,
            |c, u, a| people::passwd(c, u, a.int(0), a.text(1));
        "one.user.update", [ID, TEXT, TYPE], "Changes a user's attributes.", Id,
            |c, u, a| people::update(c, u, a.int(0), a.text(1), a.int(2));
        "one.acl.info", [], "Lists the access rules.", Text, |c, u, a| people::rules(c, u);
        "one.group.info", [ParamSpec::int("id").or_int(-1), DECRYPT], "Shows a group; -1 is the caller's.", Text,
            |c, u, a| people::group(c, u, a.int(0));
        "one.grouppool.info", [], "Lists the groups.", Text, |c, u, a| people::group_pool(c, u);
        "one.user.info", [ParamSpec::int("id").or_int(-1), DECRYPT], "Shows a user; -1 is the caller.", Text,
            |c, u, a| people::info(c, u, a.int(0), a.bool(1));
        "one.userpool.info", [], "Lists the users.", Text, |c, u, a| people::pool(c, u);
    }
}
