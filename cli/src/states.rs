//! Numbers on the wire and the words that the tables show for them (OpenNebula's state tables).

use crate::xml::Element;

/// STATE of a VM that is in the hands of a host.
pub const VM_ACTIVE: i64 = 3;
/// STATE of a VM after terminate.
pub const VM_DONE: i64 = 6;
/// STATE of a VM that is off.
pub const VM_POWEROFF: i64 = 8;
/// STATE of a VM that waits for `release`.
pub const VM_HOLD: i64 = 2;
/// LCM_STATE of a running guest.
pub const LCM_RUNNING: i64 = 3;
/// LCM_STATE while a running guest is backed up.
pub const LCM_BACKUP: i64 = 69;
/// LCM_STATE while a VM that is off is backed up.
pub const LCM_BACKUP_POWEROFF: i64 = 70;
/// TYPE of a backup image.
pub const IMAGE_BACKUP: i64 = 6;
/// STATE of an image that can be used.
pub const IMAGE_READY: i64 = 1;
/// STATE of an image whose copy failed.
pub const IMAGE_ERROR: i64 = 5;

const VM: [(&str, &str); 12] = [
    ("INIT", "init"), ("PENDING", "pend"), ("HOLD", "hold"), ("ACTIVE", "actv"), ("STOPPED", "stop"), ("SUSPENDED", "susp"),
    ("DONE", "done"), ("FAILED", "fail"), ("POWEROFF", "poff"), ("UNDEPLOYED", "unde"), ("CLONING", "clon"),
    ("CLONING_FAILURE", "fail"),
];

/// Long and short names; numbers that OpenNebula does not use have empty names.
const LCM: [(&str, &str); 72] = [
    ("LCM_INIT", "init"), ("PROLOG", "prol"), ("BOOT", "boot"), ("RUNNING", "runn"), ("MIGRATE", "migr"), ("SAVE_STOP", "save"),
    ("SAVE_SUSPEND", "save"), ("SAVE_MIGRATE", "save"), ("PROLOG_MIGRATE", "migr"), ("PROLOG_RESUME", "prol"),
    ("EPILOG_STOP", "epil"), ("EPILOG", "epil"), ("SHUTDOWN", "shut"), ("", ""), ("", ""), ("CLEANUP_RESUBMIT", "clea"),
    ("UNKNOWN", "unkn"), ("HOTPLUG", "hotp"), ("SHUTDOWN_POWEROFF", "shut"), ("BOOT_UNKNOWN", "boot"), ("BOOT_POWEROFF", "boot"),
    ("BOOT_SUSPENDED", "boot"), ("BOOT_STOPPED", "boot"), ("CLEANUP_DELETE", "clea"), ("HOTPLUG_SNAPSHOT", "snap"),
    ("HOTPLUG_NIC", "hotp"), ("HOTPLUG_SAVEAS", "hotp"), ("HOTPLUG_SAVEAS_POWEROFF", "hotp"), ("HOTPLUG_SAVEAS_SUSPENDED", "hotp"),
    ("SHUTDOWN_UNDEPLOY", "shut"), ("EPILOG_UNDEPLOY", "epil"), ("PROLOG_UNDEPLOY", "prol"), ("BOOT_UNDEPLOY", "boot"),
    ("HOTPLUG_PROLOG_POWEROFF", "hotp"), ("HOTPLUG_EPILOG_POWEROFF", "hotp"), ("BOOT_MIGRATE", "boot"), ("BOOT_FAILURE", "fail"),
    ("BOOT_MIGRATE_FAILURE", "fail"), ("PROLOG_MIGRATE_FAILURE", "fail"), ("PROLOG_FAILURE", "fail"), ("EPILOG_FAILURE", "fail"),
    ("EPILOG_STOP_FAILURE", "fail"), ("EPILOG_UNDEPLOY_FAILURE", "fail"), ("PROLOG_MIGRATE_POWEROFF", "migr"),
    ("PROLOG_MIGRATE_POWEROFF_FAILURE", "fail"), ("PROLOG_MIGRATE_SUSPEND", "migr"), ("PROLOG_MIGRATE_SUSPEND_FAILURE", "fail"),
    ("BOOT_UNDEPLOY_FAILURE", "fail"), ("BOOT_STOPPED_FAILURE", "fail"), ("PROLOG_RESUME_FAILURE", "fail"),
    ("PROLOG_UNDEPLOY_FAILURE", "fail"), ("DISK_SNAPSHOT_POWEROFF", "snap"), ("DISK_SNAPSHOT_REVERT_POWEROFF", "snap"),
    ("DISK_SNAPSHOT_DELETE_POWEROFF", "snap"), ("DISK_SNAPSHOT_SUSPENDED", "snap"), ("", ""),
    ("DISK_SNAPSHOT_DELETE_SUSPENDED", "snap"), ("DISK_SNAPSHOT", "snap"), ("", ""), ("DISK_SNAPSHOT_DELETE", "snap"),
    ("PROLOG_MIGRATE_UNKNOWN", "migr"), ("PROLOG_MIGRATE_UNKNOWN_FAILURE", "fail"), ("DISK_RESIZE", "drsz"),
    ("DISK_RESIZE_POWEROFF", "drsz"), ("DISK_RESIZE_UNDEPLOYED", "drsz"), ("HOTPLUG_NIC_POWEROFF", "hotp"), ("HOTPLUG_RESIZE", "hotp"),
    ("HOTPLUG_SAVEAS_UNDEPLOYED", "hotp"), ("HOTPLUG_SAVEAS_STOPPED", "hotp"), ("BACKUP", "bkup"), ("BACKUP_POWEROFF", "bkup"),
    ("RESTORE", "rest"),
];

const IMAGE: [(&str, &str); 11] = [
    ("INIT", "init"), ("READY", "rdy"), ("USED", "used"), ("DISABLED", "disa"), ("LOCKED", "lock"), ("ERROR", "err"), ("CLONE", "clon"),
    ("DELETE", "dele"), ("USED_PERS", "used"), ("LOCKED_USED", "lock"), ("LOCKED_USED_PERS", "lock"),
];

const IMAGE_TYPE: [(&str, &str); 8] = [
    ("OS", "OS"), ("CDROM", "CD"), ("DATABLOCK", "DB"), ("KERNEL", "KL"), ("RAMDISK", "RD"), ("CONTEXT", "CX"), ("BACKUP", "BK"),
    ("FILESYSTEM", "FS"),
];

const DATASTORE_TYPE: [(&str, &str); 4] = [("IMAGE", "img"), ("SYSTEM", "sys"), ("FILE", "fil"), ("BACKUP", "bck")];

const DATASTORE: [(&str, &str); 2] = [("READY", "on"), ("DISABLED", "off")];

const DISK_TYPE: [(&str, &str); 10] = [
    ("FILE", ""), ("CD_ROM", ""), ("BLOCK", ""), ("RBD", ""), ("RBD_CDROM", ""), ("GLUSTER", ""), ("GLUSTER_CDROM", ""),
    ("SHEEPDOG", ""), ("SHEEPDOG_CDROM", ""), ("ISCSI", ""),
];

const HOST: [(&str, &str); 9] = [
    ("INIT", "init"), ("MONITORING_MONITORED", "update"), ("MONITORED", "on"), ("ERROR", "err"), ("DISABLED", "dsbl"),
    ("MONITORING_ERROR", "retry"), ("MONITORING_INIT", "init"), ("MONITORING_DISABLED", "dsbl"), ("OFFLINE", "off"),
];

/// ACTION of a history record.
const HISTORY_ACTION: [&str; 61] = [
    "none", "migrate", "live-migrate", "shutdown", "shutdown-hard", "undeploy", "undeploy-hard", "hold", "release", "stop",
    "suspend", "resume", "boot", "delete", "delete-recreate", "reboot", "reboot-hard", "resched", "unresched", "poweroff",
    "poweroff-hard", "disk-attach", "disk-detach", "nic-attach", "nic-detach", "disk-snapshot-create", "disk-snapshot-delete",
    "terminate", "terminate-hard", "disk-resize", "deploy", "chown", "chmod", "updateconf", "rename", "resize", "update",
    "snapshot-create", "snapshot-delete", "snapshot-revert", "disk-saveas", "disk-snapshot-revert", "recover", "retry", "monitor",
    "disk-snapshot-rename", "alias-attach", "alias-detach", "poweroff-migrate", "poweroff-hard-migrate", "backup", "nic-update",
    "backup-cancel", "sched-add", "sched-update", "sched-delete", "sg-attach", "sg-detach", "pci-attach", "pci-detach", "restore",
];

fn entry(table: &'static [(&'static str, &'static str)], number: Option<i64>) -> Option<&'static (&'static str, &'static str)> {
    table.get(usize::try_from(number?).ok()?).filter(|(name, _)| !name.is_empty())
}

fn name(table: &'static [(&'static str, &'static str)], number: Option<i64>) -> &'static str {
    entry(table, number).map_or("UNKNOWN", |(name, _)| name)
}

fn short(table: &'static [(&'static str, &'static str)], number: Option<i64>) -> &'static str {
    entry(table, number).map_or("?", |(_, short)| short)
}

/// `ACTIVE`
#[must_use]
pub fn vm_state(vm: &Element) -> &'static str {
    name(&VM, vm.int_at("STATE"))
}

/// `BACKUP_POWEROFF`
#[must_use]
pub fn vm_lcm_state(vm: &Element) -> &'static str {
    name(&LCM, vm.int_at("LCM_STATE"))
}

/// The four letters of the STAT column: those of LCM_STATE while the VM is active.
#[must_use]
pub fn vm_short(vm: &Element) -> &'static str {
    match vm.int_at("STATE") {
        Some(VM_ACTIVE) => short(&LCM, vm.int_at("LCM_STATE")),
        state => short(&VM, state),
    }
}

/// The state in a sentence: LCM_STATE while the VM is active, else STATE.
#[must_use]
pub fn vm_phase(vm: &Element) -> &'static str {
    if vm.int_at("STATE") == Some(VM_ACTIVE) { vm_lcm_state(vm) } else { vm_state(vm) }
}

/// Is the VM in one of the `*_FAILURE` states?
#[must_use]
pub fn vm_failed(vm: &Element) -> bool {
    vm_phase(vm).ends_with("FAILURE")
}

/// `rdy`
#[must_use]
pub fn image_short(image: &Element) -> &'static str {
    short(&IMAGE, image.int_at("STATE"))
}

/// `READY`
#[must_use]
pub fn image_state(image: &Element) -> &'static str {
    name(&IMAGE, image.int_at("STATE"))
}

/// `BK`
#[must_use]
pub fn image_type_short(image: &Element) -> &'static str {
    short(&IMAGE_TYPE, image.int_at("TYPE"))
}

/// `BACKUP`
#[must_use]
pub fn image_type(image: &Element) -> &'static str {
    name(&IMAGE_TYPE, image.int_at("TYPE"))
}

/// `bck`
#[must_use]
pub fn datastore_type_short(datastore: &Element) -> &'static str {
    short(&DATASTORE_TYPE, datastore.int_at("TYPE"))
}

/// `BACKUP`
#[must_use]
pub fn datastore_type(datastore: &Element) -> &'static str {
    name(&DATASTORE_TYPE, datastore.int_at("TYPE"))
}

/// `on`
#[must_use]
pub fn datastore_short(datastore: &Element) -> &'static str {
    short(&DATASTORE, datastore.int_at("STATE"))
}

/// `READY`
#[must_use]
pub fn datastore_state(datastore: &Element) -> &'static str {
    name(&DATASTORE, datastore.int_at("STATE"))
}

/// `FILE`
#[must_use]
pub fn disk_type(element: &Element) -> &'static str {
    name(&DISK_TYPE, element.int_at("DISK_TYPE"))
}

/// `on`
#[must_use]
pub fn host_short(host: &Element) -> &'static str {
    short(&HOST, host.int_at("STATE"))
}

/// `MONITORED`
#[must_use]
pub fn host_state(host: &Element) -> &'static str {
    name(&HOST, host.int_at("STATE"))
}

/// `backup`; the number itself when it has no name.
#[must_use]
pub fn history_action(number: i64) -> String {
    match usize::try_from(number).ok().and_then(|index| HISTORY_ACTION.get(index)) {
        Some(name) => (*name).to_owned(),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_hit_the_numbers_of_the_protocol() {
        let lcm = |number| name(&LCM, Some(number));
        let cases = [(15, "CLEANUP_RESUBMIT"), (36, "BOOT_FAILURE"), (51, "DISK_SNAPSHOT_POWEROFF"), (57, "DISK_SNAPSHOT"),
            (59, "DISK_SNAPSHOT_DELETE"), (62, "DISK_RESIZE"), (66, "HOTPLUG_RESIZE"), (69, "BACKUP"), (70, "BACKUP_POWEROFF"), (71, "RESTORE")];
        for (number, text) in cases {
            assert_eq!(lcm(number), text);
        }
        for number in [-1, 13, 55, 72, i64::MAX] {
            assert_eq!(lcm(number), "UNKNOWN");
        }
        let actions = [(11, "resume"), (13, "delete"), (19, "poweroff"), (27, "terminate"), (30, "deploy"), (33, "updateconf"),
            (42, "recover"), (44, "monitor"), (50, "backup"), (52, "backup-cancel"), (53, "sched-add"), (60, "restore")];
        for (number, text) in actions {
            assert_eq!(history_action(number), text);
        }
    }
}
