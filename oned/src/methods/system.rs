//! The daemon about itself.

use super::rows;
use crate::api::Cloud;
use crate::api::system;
use crate::rpc::Method;

pub(super) fn rows() -> Vec<Method<Cloud>> {
    rows! {
        "one.system.config", [], "Shows the daemon's configuration.", Text, |c, u, a| system::config(c, u);
        "one.system.examine", [], "Examines the installation and says what to do; takes up to half a minute.", Text,
            |c, u, a| system::examine(c, u);
        "one.system.version", [], "Tells which line of OpenNebula's API is spoken.", Text, |c, u, a| system::version(c, u);
    }
}
