//! The states in a document, as one-core knows them, and the words that the tables show for them.
//!
//! A number that one-core does not know (a newer daemon) is shown as UNKNOWN or `?`, never refused.

use one_core::lifecycle::{DatastoreType, HostState, ImageState, ImageType, LcmState, VmState};

use crate::xml::Element;

/// ACTION of a history record.
const HISTORY_ACTION: [&str; 61] = [
    "none",
    "migrate",
    "live-migrate",
    "shutdown",
    "shutdown-hard",
    "undeploy",
    "undeploy-hard",
    "hold",
    "release",
    "stop",
    "suspend",
    "resume",
    "boot",
    "delete",
    "delete-recreate",
    "reboot",
    "reboot-hard",
    "resched",
    "unresched",
    "poweroff",
    "poweroff-hard",
    "disk-attach",
    "disk-detach",
    "nic-attach",
    "nic-detach",
    "disk-snapshot-create",
    "disk-snapshot-delete",
    "terminate",
    "terminate-hard",
    "disk-resize",
    "deploy",
    "chown",
    "chmod",
    "updateconf",
    "rename",
    "resize",
    "update",
    "snapshot-create",
    "snapshot-delete",
    "snapshot-revert",
    "disk-saveas",
    "disk-snapshot-revert",
    "recover",
    "retry",
    "monitor",
    "disk-snapshot-rename",
    "alias-attach",
    "alias-detach",
    "poweroff-migrate",
    "poweroff-hard-migrate",
    "backup",
    "nic-update",
    "backup-cancel",
    "sched-add",
    "sched-update",
    "sched-delete",
    "sg-attach",
    "sg-detach",
    "pci-attach",
    "pci-detach",
    "restore",
];

/// DISK_TYPE of an image or datastore, by number.
const DISK_TYPE: [&str; 10] =
    ["FILE", "CD_ROM", "BLOCK", "RBD", "RBD_CDROM", "GLUSTER", "GLUSTER_CDROM", "SHEEPDOG", "SHEEPDOG_CDROM", "ISCSI"];

/// What stands where a long name is unknown.
const UNKNOWN: &str = "UNKNOWN";

/// What stands where a short name is unknown.
const UNKNOWN_SHORT: &str = "?";

/// STATE of a VM.
#[must_use]
pub fn vm(vm: &Element) -> Option<VmState> {
    VmState::from_number(vm.int_at("STATE")?)
}

/// LCM_STATE of a VM that is ACTIVE; None for every other.
#[must_use]
pub fn lcm(vm: &Element) -> Option<LcmState> {
    if self::vm(vm) != Some(VmState::Active) {
        return None;
    }
    LcmState::from_number(vm.int_at("LCM_STATE")?)
}

/// `ACTIVE`
#[must_use]
pub fn vm_state(vm: &Element) -> &'static str {
    self::vm(vm).map_or(UNKNOWN, VmState::name)
}

/// `BACKUP_POWEROFF`; LCM_INIT for a VM that is not active.
#[must_use]
pub fn vm_lcm_state(vm: &Element) -> &'static str {
    vm.int_at("LCM_STATE").and_then(LcmState::from_number).map_or(UNKNOWN, LcmState::name)
}

/// The four letters of the STAT column: those of LCM_STATE while the VM is active.
#[must_use]
pub fn vm_short(vm: &Element) -> &'static str {
    match self::vm(vm) {
        Some(VmState::Active) => lcm(vm).map_or(UNKNOWN_SHORT, LcmState::short),
        state => state.map_or(UNKNOWN_SHORT, VmState::short),
    }
}

/// The state in a sentence: LCM_STATE while the VM is active, else STATE.
#[must_use]
pub fn vm_phase(vm: &Element) -> &'static str {
    if self::vm(vm) == Some(VmState::Active) { vm_lcm_state(vm) } else { vm_state(vm) }
}

/// Is the VM on a host, running or not?
#[must_use]
pub fn vm_is_on_host(vm: &Element) -> bool {
    matches!(self::vm(vm), Some(VmState::Active | VmState::Suspended | VmState::Poweroff))
}

/// Is the VM in one of the `*_FAILURE` states?
#[must_use]
pub fn vm_failed(vm: &Element) -> bool {
    vm_phase(vm).ends_with("FAILURE")
}

/// STATE of an image.
#[must_use]
pub fn image(image: &Element) -> Option<ImageState> {
    ImageState::from_number(image.int_at("STATE")?)
}

/// `rdy`
#[must_use]
pub fn image_short(image: &Element) -> &'static str {
    self::image(image).map_or(UNKNOWN_SHORT, ImageState::short)
}

/// `READY`
#[must_use]
pub fn image_state(image: &Element) -> &'static str {
    self::image(image).map_or(UNKNOWN, ImageState::name)
}

/// `BK`
#[must_use]
pub fn image_type_short(image: &Element) -> &'static str {
    image.int_at("TYPE").and_then(ImageType::from_number).map_or(UNKNOWN_SHORT, ImageType::short)
}

/// `BACKUP`
#[must_use]
pub fn image_type(image: &Element) -> &'static str {
    image.int_at("TYPE").and_then(ImageType::from_number).map_or(UNKNOWN, ImageType::name)
}

/// Is it a backup?
#[must_use]
pub fn is_backup(image: &Element) -> bool {
    image.int_at("TYPE") == Some(ImageType::Backup.number())
}

/// `bck`
#[must_use]
pub fn datastore_type_short(datastore: &Element) -> &'static str {
    datastore.int_at("TYPE").and_then(DatastoreType::from_number).map_or(UNKNOWN_SHORT, DatastoreType::short)
}

/// `BACKUP`
#[must_use]
pub fn datastore_type(datastore: &Element) -> &'static str {
    let name = datastore.int_at("TYPE").and_then(DatastoreType::from_number).map_or(UNKNOWN, DatastoreType::name);
    name.trim_end_matches("_DS")
}

/// `on`
#[must_use]
pub fn datastore_short(datastore: &Element) -> &'static str {
    match datastore.int_at("STATE") {
        Some(0) => "on",
        Some(1) => "off",
        _ => UNKNOWN_SHORT,
    }
}

/// `READY`
#[must_use]
pub fn datastore_state(datastore: &Element) -> &'static str {
    match datastore.int_at("STATE") {
        Some(0) => "READY",
        Some(1) => "DISABLED",
        _ => UNKNOWN,
    }
}

/// STATE of a virtual network, long and short.
const VNET_STATE: [(&str, &str); 7] = [
    ("INIT", "init"),
    ("READY", "rdy"),
    ("LOCK_CREATE", "lock"),
    ("LOCK_DELETE", "lock"),
    ("DONE", "done"),
    ("ERROR", "err"),
    ("UPDATE_FAILURE", "fail"),
];

fn vnet(network: &Element) -> Option<&'static (&'static str, &'static str)> {
    VNET_STATE.get(usize::try_from(network.int_at("STATE")?).ok()?)
}

/// `READY`
#[must_use]
pub fn vnet_state(network: &Element) -> &'static str {
    vnet(network).map_or(UNKNOWN, |(name, _)| name)
}

/// `rdy`
#[must_use]
pub fn vnet_short(network: &Element) -> &'static str {
    vnet(network).map_or(UNKNOWN_SHORT, |(_, short)| short)
}

/// `ENABLED`
#[must_use]
pub fn zone_state(zone: &Element) -> &'static str {
    match zone.int_at("STATE") {
        Some(0) => "ENABLED",
        Some(1) => "DISABLED",
        _ => UNKNOWN,
    }
}

/// `FILE`
#[must_use]
pub fn disk_type(element: &Element) -> &'static str {
    let number = element.int_at("DISK_TYPE").and_then(|number| usize::try_from(number).ok());
    number.and_then(|number| DISK_TYPE.get(number)).copied().unwrap_or(UNKNOWN)
}

/// `on`
#[must_use]
pub fn host_short(host: &Element) -> &'static str {
    host.int_at("STATE").and_then(HostState::from_number).map_or(UNKNOWN_SHORT, HostState::short)
}

/// `MONITORED`
#[must_use]
pub fn host_state(host: &Element) -> &'static str {
    host.int_at("STATE").and_then(HostState::from_number).map_or(UNKNOWN, HostState::name)
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
    fn an_active_vm_is_named_by_what_it_is_doing() {
        let vm = |state: i64, lcm: i64| {
            Element::parse(&format!("<VM><STATE>{state}</STATE><LCM_STATE>{lcm}</LCM_STATE></VM>")).unwrap()
        };
        assert_eq!((vm_phase(&vm(3, 70)), vm_short(&vm(3, 70))), ("BACKUP_POWEROFF", "bkup"));
        assert_eq!((vm_phase(&vm(8, 0)), vm_short(&vm(8, 0))), ("POWEROFF", "poff"));
        assert_eq!((vm_phase(&vm(3, 999)), vm_short(&vm(3, 999)), vm_short(&vm(99, 0))), ("UNKNOWN", "?", "?"));
        assert!(vm_failed(&vm(3, 36)) && vm_failed(&vm(11, 0)) && !vm_failed(&vm(3, 3)));
    }

    #[test]
    fn history_actions_hit_the_numbers_of_the_protocol() {
        let actions = [
            (11, "resume"),
            (13, "delete"),
            (19, "poweroff"),
            (27, "terminate"),
            (30, "deploy"),
            (33, "updateconf"),
            (42, "recover"),
            (44, "monitor"),
            (50, "backup"),
            (52, "backup-cancel"),
            (53, "sched-add"),
            (60, "restore"),
        ];
        for (number, text) in actions {
            assert_eq!(history_action(number), text);
        }
        assert_eq!(history_action(61), "61");
    }
}
