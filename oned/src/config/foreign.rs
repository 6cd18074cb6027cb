//! Settings that this daemon does not have: OpenNebula's others, and misspelt ones.
//!
//! Both are reported and neither stops the start. OpenNebula's own `oned.conf`, of any release, is to be usable as it is,
//! and each release brings names that nobody can know beforehand; a misspelt name is told with the one that is meant.

/// OpenNebula's settings without a meaning here, of the 4.x line up to the 7.x line.
const OPENNEBULA: [&str; 72] = [
    "ACTION_TIMEOUT",
    "AUTH_MAD",
    "AUTH_MAD_CONF",
    "COLD_MIGRATE_MODE",
    "CONTEXT_ALLOW_ETH_UPDATES",
    "CONTEXT_RESTRICTED_DIRS",
    "CONTEXT_SAFE_DIRS",
    "DATASTORE_BASE_PATH",
    "DATASTORE_MAD",
    "DB",
    "DEFAULT_AUTH",
    "DEFAULT_CDROM_DEVICE_PREFIX",
    "DEFAULT_COST",
    "DEFAULT_IMAGE_PERSISTENT",
    "DEFAULT_IMAGE_PERSISTENT_NEW",
    "DRS_INTERVAL",
    "DS_MAD_CONF",
    "DS_MONITOR_VM_DISK",
    "FEDERATION",
    "GROUP_HOOK",
    "GRPC_LISTEN_ADDRESS",
    "GRPC_PORT",
    "HM_MAD",
    "HOOK_LOG_CONF",
    "HOST_HOOK",
    "HOST_MONITORING_EXPIRATION_TIME",
    "HOST_PER_INTERVAL",
    "IMAGE_HOOK",
    "IM_MAD",
    "INHERIT_DATASTORE_ATTR",
    "INHERIT_IMAGE_ATTR",
    "INHERIT_VNET_ATTR",
    "IPAM_MAD",
    "LIVE_RESCHEDS",
    "LOG_CALL_FORMAT",
    "LOG_RESULT_LENGTH",
    "MAC_GLOBAL_SPACE",
    "MARKET_MAD",
    "MARKET_MAD_CONF",
    "MAX_ACTIONS_PER_CLUSTER",
    "MAX_ACTIONS_PER_HOST",
    "MONITORING_INTERVAL",
    "MONITORING_INTERVAL_DB_UPDATE",
    "MONITORING_INTERVAL_MARKET",
    "MONITORING_INTERVAL_VM",
    "MONITORING_THREADS",
    "ONEGATE_ENDPOINT",
    "ONE_KEY",
    "PCI_PASSTHROUGH_BUS",
    "RAFT",
    "RPC_LOG",
    "SCHED_MAD",
    "SCHED_MAX_WND_LENGTH",
    "SCHED_MAX_WND_TIME",
    "SCHED_RETRY_TIME",
    "SCRIPTS_REMOTE_DIR",
    "SHOWBACK_ONLY_RUNNING",
    "TM_MAD",
    "TM_MAD_CONF",
    "USER_HOOK",
    "VM_HOOK",
    "VM_INDIVIDUAL_MONITORING",
    "VM_MAD",
    "VM_MONITORING_EXPIRATION_TIME",
    "VM_PER_INTERVAL",
    "VM_SNAPSHOT_FACTOR",
    "VM_SUBMIT_ON_HOLD",
    "VNC_BASE_PORT",
    "VNC_PORTS",
    "VNET_HOOK",
    "VN_MAD_CONF",
    "VXLAN_IDS",
];

/// Names longer than this are compared with no other.
const NAME_MAX: usize = 48;

/// Whether OpenNebula has a setting of that name that means nothing here.
pub(super) fn is_of_opennebula(name: &str) -> bool {
    OPENNEBULA.contains(&name)
}

/// The known name that is at most two letters away (one for short names), if any.
pub(super) fn meant<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if name.len() > NAME_MAX {
        return None;
    }
    let most = if name.len() > 5 { 2 } else { 1 };
    let near = known.map(|known| (distance(name, known), known)).filter(|(distance, _)| *distance <= most);
    near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// Letters to insert, drop or change until `a` is `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            (diagonal, *cell) = (above, left);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_letters() {
        for (a, b, letters) in [("", "", 0), ("PORT", "PORT", 0), ("PROT", "PORT", 2), ("", "AB", 2), ("ABC", "B", 2)] {
            assert_eq!(distance(a, b), letters, "{a} {b}");
            assert_eq!(distance(b, a), letters, "{b} {a}");
        }
        assert_eq!(meant("MAX_CON", ["MAX_CONN", "PORT"].into_iter()), Some("MAX_CONN"));
        assert_eq!(meant("WHATEVER", ["MAX_CONN", "PORT"].into_iter()), None);
    }
}
