//! The actions on a VM: their words on the wire, what they do to its machine, which right they need, and their number in
//! its history.
//!
//! The numbers are OpenNebula's (`include/VMActions.h`, `HISTORY/ACTION` in `vm.xsd`); 3, 4 and 12 were used once and are
//! free. Old records keep their meaning, so no number ever changes.

use super::event::VmEvent;
use super::operations::VmOperation;
use crate::refusal::Refusal;

/// ACTION numbers of history records.
pub mod number {
    macro_rules! numbers {
        ($($name:ident = $number:literal $word:literal,)+) => {
            $(#[doc = concat!("`", $word, "`.")] pub const $name: i64 = $number;)+

            /// The word of a number, as the tables of clients show it.
            pub fn word(number: i64) -> Option<&'static str> {
                match number { $($number => Some($word),)+ _ => None }
            }
        };
    }

    numbers! {
        NONE = 0 "none",
        MIGRATE = 1 "migrate",
        LIVE_MIGRATE = 2 "live-migrate",
        UNDEPLOY = 5 "undeploy",
        UNDEPLOY_HARD = 6 "undeploy-hard",
        HOLD = 7 "hold",
        RELEASE = 8 "release",
        STOP = 9 "stop",
        SUSPEND = 10 "suspend",
        RESUME = 11 "resume",
        DELETE = 13 "delete",
        DELETE_RECREATE = 14 "delete-recreate",
        REBOOT = 15 "reboot",
        REBOOT_HARD = 16 "reboot-hard",
        RESCHED = 17 "resched",
        UNRESCHED = 18 "unresched",
        POWEROFF = 19 "poweroff",
        POWEROFF_HARD = 20 "poweroff-hard",
        DISK_ATTACH = 21 "disk-attach",
        DISK_DETACH = 22 "disk-detach",
        NIC_ATTACH = 23 "nic-attach",
        NIC_DETACH = 24 "nic-detach",
        DISK_SNAPSHOT_CREATE = 25 "disk-snapshot-create",
        DISK_SNAPSHOT_DELETE = 26 "disk-snapshot-delete",
        TERMINATE = 27 "terminate",
        TERMINATE_HARD = 28 "terminate-hard",
        DISK_RESIZE = 29 "disk-resize",
        DEPLOY = 30 "deploy",
        CHOWN = 31 "chown",
        CHMOD = 32 "chmod",
        UPDATECONF = 33 "updateconf",
        RENAME = 34 "rename",
        RESIZE = 35 "resize",
        UPDATE = 36 "update",
        SNAPSHOT_CREATE = 37 "snapshot-create",
        SNAPSHOT_DELETE = 38 "snapshot-delete",
        SNAPSHOT_REVERT = 39 "snapshot-revert",
        DISK_SAVEAS = 40 "disk-saveas",
        DISK_SNAPSHOT_REVERT = 41 "disk-snapshot-revert",
        RECOVER = 42 "recover",
        RETRY = 43 "retry",
        MONITOR = 44 "monitor",
        DISK_SNAPSHOT_RENAME = 45 "disk-snapshot-rename",
        ALIAS_ATTACH = 46 "alias-attach",
        ALIAS_DETACH = 47 "alias-detach",
        POWEROFF_MIGRATE = 48 "poweroff-migrate",
        POWEROFF_HARD_MIGRATE = 49 "poweroff-hard-migrate",
        BACKUP = 50 "backup",
        NIC_UPDATE = 51 "nic-update",
        BACKUP_CANCEL = 52 "backup-cancel",
        SCHED_ADD = 53 "sched-add",
        SCHED_UPDATE = 54 "sched-update",
        SCHED_DELETE = 55 "sched-delete",
        SG_ATTACH = 56 "sg-attach",
        SG_DETACH = 57 "sg-detach",
        PCI_ATTACH = 58 "pci-attach",
        PCI_DETACH = 59 "pci-detach",
        RESTORE = 60 "restore",
    }
}

/// One action of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmAction {
    /// The word, as in `one.vm.action`, in SCHED_ACTION and in clients' tables.
    pub word: &'static str,
    /// What it does to the machine; none for what changes no state, whatever the state is.
    pub event: Option<VmEvent>,
    /// Which operation list rules it.
    pub operation: VmOperation,
    /// ACTION in history records.
    pub history: i64,
    /// Whether `one.vm.action` knows the word.
    pub is_callable: bool,
    /// Whether SCHED_ACTION knows the word.
    pub is_schedulable: bool,
}

impl VmAction {
    /// The action of a word, however it is asked for.
    pub fn from_word(word: &str) -> Option<&'static Self> {
        ACTIONS.iter().find(|action| action.word == word)
    }

    /// The action that `one.vm.action` asks for.
    ///
    /// # Errors
    /// [`Refusal::UnknownAction`] for a word that this call does not know.
    pub fn of_call(word: &str) -> Result<&'static Self, Refusal> {
        let found = Self::from_word(word).filter(|action| action.is_callable);
        found.ok_or_else(|| Refusal::UnknownAction { action: word.to_owned() })
    }

    /// The action that a SCHED_ACTION asks for.
    ///
    /// # Errors
    /// [`Refusal::UnknownAction`] for a word that cannot be scheduled.
    pub fn of_schedule(word: &str) -> Result<&'static Self, Refusal> {
        let found = Self::from_word(word).filter(|action| action.is_schedulable);
        found.ok_or_else(|| Refusal::UnknownAction { action: word.to_owned() })
    }
}

/// By `one.vm.action` and by schedule.
const BOTH: (bool, bool) = (true, true);
/// By `one.vm.action` only.
const CALL: (bool, bool) = (true, false);
/// By schedule, and by a call of its own.
const SCHEDULE: (bool, bool) = (false, true);
/// By a call of its own only.
const OWN: (bool, bool) = (false, false);

const fn action(
    word: &'static str,
    event: Option<VmEvent>,
    operation: VmOperation,
    history: i64,
    (is_callable, is_schedulable): (bool, bool),
) -> VmAction {
    VmAction { word, event, operation, history, is_callable, is_schedulable }
}

use VmEvent as E;
use VmOperation as O;
use number as n;

/// Every action, those of `one.vm.action` first.
pub const ACTIONS: &[VmAction] = &[
    action("terminate", Some(E::Terminate), O::Terminate, n::TERMINATE, BOTH),
    action("terminate-hard", Some(E::TerminateHard), O::Terminate, n::TERMINATE_HARD, BOTH),
    action("undeploy", Some(E::Undeploy), O::Undeploy, n::UNDEPLOY, BOTH),
    action("undeploy-hard", Some(E::UndeployHard), O::Undeploy, n::UNDEPLOY_HARD, BOTH),
    action("hold", Some(E::Hold), O::Hold, n::HOLD, BOTH),
    action("release", Some(E::Release), O::Release, n::RELEASE, BOTH),
    action("stop", Some(E::Stop), O::Stop, n::STOP, BOTH),
    action("suspend", Some(E::Suspend), O::Suspend, n::SUSPEND, BOTH),
    action("resume", Some(E::Resume), O::Resume, n::RESUME, BOTH),
    action("reboot", Some(E::Reboot), O::Reboot, n::REBOOT, BOTH),
    action("reboot-hard", Some(E::RebootHard), O::Reboot, n::REBOOT_HARD, BOTH),
    action("poweroff", Some(E::Poweroff), O::Poweroff, n::POWEROFF, BOTH),
    action("poweroff-hard", Some(E::PoweroffHard), O::Poweroff, n::POWEROFF_HARD, BOTH),
    action("resched", Some(E::Resched), O::Resched, n::RESCHED, CALL),
    action("unresched", Some(E::Unresched), O::Resched, n::UNRESCHED, CALL),
    action("snapshot-create", Some(E::SnapshotCreateStart), O::Snapshot, n::SNAPSHOT_CREATE, SCHEDULE),
    action("snapshot-revert", Some(E::SnapshotRevertStart), O::Snapshot, n::SNAPSHOT_REVERT, SCHEDULE),
    action("snapshot-delete", Some(E::SnapshotDeleteStart), O::Snapshot, n::SNAPSHOT_DELETE, SCHEDULE),
    action(
        "disk-snapshot-create",
        Some(E::DiskSnapshotCreateStart),
        O::DiskSnapshot,
        n::DISK_SNAPSHOT_CREATE,
        SCHEDULE,
    ),
    action(
        "disk-snapshot-revert",
        Some(E::DiskSnapshotRevertStart),
        O::DiskSnapshot,
        n::DISK_SNAPSHOT_REVERT,
        SCHEDULE,
    ),
    action(
        "disk-snapshot-delete",
        Some(E::DiskSnapshotDeleteStart),
        O::DiskSnapshot,
        n::DISK_SNAPSHOT_DELETE,
        SCHEDULE,
    ),
    action("backup", Some(E::BackupStart), O::Backup, n::BACKUP, SCHEDULE),
    action("deploy", Some(E::Place), O::Deploy, n::DEPLOY, OWN),
    action("migrate", Some(E::Migrate), O::Migrate, n::MIGRATE, OWN),
    action("live-migrate", Some(E::LiveMigrate), O::Migrate, n::LIVE_MIGRATE, OWN),
    action("poweroff-migrate", Some(E::MigratePoweroff), O::Migrate, n::POWEROFF_MIGRATE, OWN),
    action("poweroff-hard-migrate", Some(E::MigratePoweroffHard), O::Migrate, n::POWEROFF_HARD_MIGRATE, OWN),
    action("disk-attach", Some(E::AttachStart), O::DiskAttach, n::DISK_ATTACH, OWN),
    action("disk-detach", Some(E::DetachStart), O::DiskAttach, n::DISK_DETACH, OWN),
    action("nic-attach", Some(E::NicAttachStart), O::NicAttach, n::NIC_ATTACH, OWN),
    action("nic-detach", Some(E::NicDetachStart), O::NicAttach, n::NIC_DETACH, OWN),
    action("alias-attach", Some(E::NicAttachStart), O::NicAttach, n::ALIAS_ATTACH, OWN),
    action("alias-detach", Some(E::NicDetachStart), O::NicAttach, n::ALIAS_DETACH, OWN),
    action("nic-update", Some(E::NicUpdateStart), O::NicAttach, n::NIC_UPDATE, OWN),
    action("resize", Some(E::ResizeStart), O::Resize, n::RESIZE, OWN),
    action("disk-resize", Some(E::DiskResizeStart), O::DiskResize, n::DISK_RESIZE, OWN),
    action("disk-snapshot-rename", None, O::DiskSnapshot, n::DISK_SNAPSHOT_RENAME, OWN),
    action("disk-saveas", Some(E::SaveAsStart), O::DiskSaveAs, n::DISK_SAVEAS, OWN),
    // Only a changed CONTEXT of a running guest moves the machine, by UpdateConfStart.
    action("updateconf", None, O::UpdateConf, n::UPDATECONF, OWN),
    action("update", None, O::Update, n::UPDATE, OWN),
    action("rename", None, O::Rename, n::RENAME, OWN),
    action("backup-cancel", None, O::Backup, n::BACKUP_CANCEL, OWN),
    action("restore", Some(E::RestoreStart), O::Restore, n::RESTORE, OWN),
    // What recovery does depends on the state: see `recover_action`.
    action("recover", None, O::Recover, n::RECOVER, OWN),
    action("retry", None, O::Retry, n::RETRY, OWN),
    action("delete", None, O::Delete, n::DELETE, OWN),
    action("delete-recreate", None, O::Delete, n::DELETE_RECREATE, OWN),
    action("sched-add", None, O::SchedAction, n::SCHED_ADD, OWN),
    action("sched-update", None, O::SchedAction, n::SCHED_UPDATE, OWN),
    action("sched-delete", None, O::SchedAction, n::SCHED_DELETE, OWN),
    action("sg-attach", None, O::SgAttach, n::SG_ATTACH, OWN),
    action("sg-detach", None, O::SgAttach, n::SG_DETACH, OWN),
    action("pci-attach", None, O::PciAttach, n::PCI_ATTACH, OWN),
    action("pci-detach", None, O::PciAttach, n::PCI_DETACH, OWN),
];
