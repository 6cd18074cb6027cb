//! The table of moves of the virtual machine's machine: for each event, from which phase to which. Data, no rules.
//!
//! The sources are OpenNebula's documentation of the states and what its daemon does. Two events of one constant go the
//! same way and differ in what the driver does.

use super::states::{LcmState as L, VmState as S};
use super::vm::VmPhase;

/// Pairs of the phase before and the phase after.
pub(super) type Moves = &'static [(VmPhase, VmPhase)];

macro_rules! moves {
    ($($from:expr => $to:expr),+ $(,)?) => { &[$(($from, $to)),+] };
}

/// Resting.
const fn at(state: S) -> VmPhase {
    VmPhase::resting(state)
}

/// Active.
const fn on(lcm: L) -> VmPhase {
    VmPhase::active(lcm)
}

pub(super) const PLACE: Moves = moves![
    at(S::Pending) => on(L::Prolog),
    at(S::Hold) => on(L::Prolog),
    at(S::Stopped) => on(L::PrologResume),
    at(S::Undeployed) => on(L::PrologUndeploy),
];
pub(super) const PLACE_STOPPED: Moves = moves![
    at(S::Pending) => on(L::PrologResume),
    at(S::Hold) => on(L::PrologResume),
    at(S::Stopped) => on(L::PrologResume),
];
pub(super) const PLACE_UNDEPLOYED: Moves = moves![
    at(S::Pending) => on(L::PrologUndeploy),
    at(S::Hold) => on(L::PrologUndeploy),
    at(S::Undeployed) => on(L::PrologUndeploy),
];
pub(super) const HOLD: Moves = moves![at(S::Pending) => at(S::Hold)];
pub(super) const RELEASE: Moves = moves![at(S::Hold) => at(S::Pending)];
pub(super) const POWEROFF: Moves = moves![
    on(L::Running) => on(L::ShutdownPoweroff),
    on(L::Unknown) => on(L::ShutdownPoweroff),
];
// Hard also ends a shutdown that the guest ignores.
pub(super) const POWEROFF_HARD: Moves = moves![
    on(L::Running) => on(L::ShutdownPoweroff),
    on(L::Unknown) => on(L::ShutdownPoweroff),
    on(L::ShutdownPoweroff) => on(L::ShutdownPoweroff),
];
pub(super) const UNDEPLOY: Moves = moves![
    on(L::Running) => on(L::ShutdownUndeploy),
    on(L::Unknown) => on(L::ShutdownUndeploy),
    at(S::Poweroff) => on(L::EpilogUndeploy),
];
pub(super) const UNDEPLOY_HARD: Moves = moves![
    on(L::Running) => on(L::ShutdownUndeploy),
    on(L::Unknown) => on(L::ShutdownUndeploy),
    on(L::ShutdownUndeploy) => on(L::ShutdownUndeploy),
    at(S::Poweroff) => on(L::EpilogUndeploy),
];
pub(super) const STOP: Moves = moves![
    on(L::Running) => on(L::SaveStop),
    at(S::Suspended) => on(L::EpilogStop),
];
pub(super) const SUSPEND: Moves = moves![on(L::Running) => on(L::SaveSuspend)];
pub(super) const RESUME: Moves = moves![
    at(S::Poweroff) => on(L::BootPoweroff),
    at(S::Suspended) => on(L::BootSuspended),
    on(L::Unknown) => on(L::BootUnknown),
    at(S::Stopped) => at(S::Pending),
    at(S::Undeployed) => at(S::Pending),
];
pub(super) const REBOOT: Moves = moves![on(L::Running) => on(L::Running)];
pub(super) const RESCHED: Moves = moves![
    on(L::Running) => on(L::Running),
    on(L::Unknown) => on(L::Unknown),
    at(S::Poweroff) => at(S::Poweroff),
];
pub(super) const TERMINATE: Moves = moves![
    at(S::Init) => at(S::Done),
    at(S::Pending) => at(S::Done),
    at(S::Hold) => at(S::Done),
    at(S::Cloning) => at(S::Done),
    at(S::CloningFailure) => at(S::Done),
    at(S::Poweroff) => on(L::Epilog),
    at(S::Suspended) => on(L::Epilog),
    at(S::Stopped) => on(L::Epilog),
    at(S::Undeployed) => on(L::Epilog),
    on(L::Running) => on(L::Shutdown),
    on(L::Unknown) => on(L::Shutdown),
    // What failed is not shut down or handed back in order, but removed.
    on(L::BootFailure) => on(L::CleanupDelete),
    on(L::BootMigrateFailure) => on(L::CleanupDelete),
    on(L::BootStoppedFailure) => on(L::CleanupDelete),
    on(L::BootUndeployFailure) => on(L::CleanupDelete),
    on(L::PrologFailure) => on(L::CleanupDelete),
    on(L::PrologResumeFailure) => on(L::CleanupDelete),
    on(L::PrologUndeployFailure) => on(L::CleanupDelete),
    on(L::PrologMigrateFailure) => on(L::CleanupDelete),
    on(L::PrologMigratePoweroffFailure) => on(L::CleanupDelete),
    on(L::PrologMigrateSuspendFailure) => on(L::CleanupDelete),
    on(L::PrologMigrateUnknownFailure) => on(L::CleanupDelete),
    on(L::EpilogFailure) => on(L::CleanupDelete),
    on(L::EpilogStopFailure) => on(L::CleanupDelete),
    on(L::EpilogUndeployFailure) => on(L::CleanupDelete),
];
// Beside those of TERMINATE.
pub(super) const TERMINATE_HARD: Moves = moves![
    on(L::Shutdown) => on(L::Shutdown),
    on(L::ShutdownPoweroff) => on(L::Shutdown),
];
pub(super) const MIGRATE: Moves = moves![
    on(L::Running) => on(L::SaveMigrate),
    on(L::Unknown) => on(L::PrologMigrateUnknown),
    at(S::Poweroff) => on(L::PrologMigratePoweroff),
    at(S::Suspended) => on(L::PrologMigrateSuspend),
];
pub(super) const LIVE_MIGRATE: Moves = moves![on(L::Running) => on(L::Migrate)];
pub(super) const ATTACH: Moves = moves![
    on(L::Running) => on(L::Hotplug),
    at(S::Poweroff) => on(L::HotplugPrologPoweroff),
];
pub(super) const DETACH: Moves = moves![
    on(L::Running) => on(L::Hotplug),
    at(S::Poweroff) => on(L::HotplugEpilogPoweroff),
];
pub(super) const NIC: Moves = moves![
    on(L::Running) => on(L::HotplugNic),
    at(S::Poweroff) => on(L::HotplugNicPoweroff),
];
// Only a running guest has an interface to change; for the others it is text.
pub(super) const NIC_UPDATE: Moves = moves![
    on(L::Running) => on(L::HotplugNic),
    at(S::Init) => at(S::Init),
    at(S::Pending) => at(S::Pending),
    at(S::Hold) => at(S::Hold),
    at(S::Cloning) => at(S::Cloning),
    at(S::CloningFailure) => at(S::CloningFailure),
    at(S::Poweroff) => at(S::Poweroff),
    at(S::Suspended) => at(S::Suspended),
    at(S::Stopped) => at(S::Stopped),
    at(S::Undeployed) => at(S::Undeployed),
];
pub(super) const RESIZE: Moves = moves![
    on(L::Running) => on(L::HotplugResize),
    at(S::Pending) => at(S::Pending),
    at(S::Hold) => at(S::Hold),
    at(S::Poweroff) => at(S::Poweroff),
    at(S::Undeployed) => at(S::Undeployed),
];
pub(super) const DISK_RESIZE: Moves = moves![
    on(L::Running) => on(L::DiskResize),
    at(S::Poweroff) => on(L::DiskResizePoweroff),
    at(S::Undeployed) => on(L::DiskResizeUndeployed),
];
pub(super) const DISK_SNAPSHOT_CREATE: Moves = moves![
    on(L::Running) => on(L::DiskSnapshot),
    at(S::Poweroff) => on(L::DiskSnapshotPoweroff),
    at(S::Suspended) => on(L::DiskSnapshotSuspended),
];
// A guest with memory of a disk's present cannot be given its past: 55 and 58 are not in use.
pub(super) const DISK_SNAPSHOT_REVERT: Moves = moves![at(S::Poweroff) => on(L::DiskSnapshotRevertPoweroff)];
pub(super) const DISK_SNAPSHOT_DELETE: Moves = moves![
    on(L::Running) => on(L::DiskSnapshotDelete),
    at(S::Poweroff) => on(L::DiskSnapshotDeletePoweroff),
    at(S::Suspended) => on(L::DiskSnapshotDeleteSuspended),
];
pub(super) const SNAPSHOT: Moves = moves![on(L::Running) => on(L::HotplugSnapshot)];
pub(super) const SAVE_AS: Moves = moves![
    on(L::Running) => on(L::HotplugSaveas),
    at(S::Poweroff) => on(L::HotplugSaveasPoweroff),
    at(S::Suspended) => on(L::HotplugSaveasSuspended),
    at(S::Undeployed) => on(L::HotplugSaveasUndeployed),
    at(S::Stopped) => on(L::HotplugSaveasStopped),
];
pub(super) const UPDATE_CONF: Moves = moves![on(L::Running) => on(L::Hotplug)];
pub(super) const BACKUP: Moves = moves![
    on(L::Running) => on(L::Backup),
    at(S::Poweroff) => on(L::BackupPoweroff),
];
pub(super) const RESTORE: Moves = moves![
    at(S::Poweroff) => on(L::Restore),
    at(S::Undeployed) => on(L::Restore),
];
pub(super) const RETRY: Moves = moves![
    on(L::BootFailure) => on(L::Boot),
    on(L::BootMigrateFailure) => on(L::BootMigrate),
    on(L::BootStoppedFailure) => on(L::BootStopped),
    on(L::BootUndeployFailure) => on(L::BootUndeploy),
    on(L::PrologFailure) => on(L::Prolog),
    on(L::PrologResumeFailure) => on(L::PrologResume),
    on(L::PrologUndeployFailure) => on(L::PrologUndeploy),
    on(L::PrologMigrateFailure) => on(L::PrologMigrate),
    on(L::PrologMigratePoweroffFailure) => on(L::PrologMigratePoweroff),
    on(L::PrologMigrateSuspendFailure) => on(L::PrologMigrateSuspend),
    on(L::PrologMigrateUnknownFailure) => on(L::PrologMigrateUnknown),
    on(L::EpilogFailure) => on(L::Epilog),
    on(L::EpilogStopFailure) => on(L::EpilogStop),
    on(L::EpilogUndeployFailure) => on(L::EpilogUndeploy),
];
pub(super) const CLONE_DONE: Moves = moves![
    at(S::Cloning) => at(S::Pending),
    at(S::CloningFailure) => at(S::Pending),
];
pub(super) const CLONE_FAILED: Moves = moves![at(S::Cloning) => at(S::CloningFailure)];
// The failure states are those of a recovery that knows better.
pub(super) const PROLOG_DONE: Moves = moves![
    on(L::Prolog) => on(L::Boot),
    on(L::PrologFailure) => on(L::Boot),
    on(L::PrologResume) => on(L::BootStopped),
    on(L::PrologResumeFailure) => on(L::BootStopped),
    on(L::PrologUndeploy) => on(L::BootUndeploy),
    on(L::PrologUndeployFailure) => on(L::BootUndeploy),
    on(L::PrologMigrate) => on(L::BootMigrate),
    on(L::PrologMigrateFailure) => on(L::BootMigrate),
    on(L::PrologMigratePoweroff) => at(S::Poweroff),
    on(L::PrologMigratePoweroffFailure) => at(S::Poweroff),
    on(L::PrologMigrateSuspend) => at(S::Suspended),
    on(L::PrologMigrateSuspendFailure) => at(S::Suspended),
    on(L::PrologMigrateUnknown) => on(L::Boot),
    on(L::PrologMigrateUnknownFailure) => on(L::Boot),
];
pub(super) const PROLOG_DONE_COLD: Moves = moves![
    on(L::PrologMigrate) => on(L::Boot),
    on(L::PrologMigrateFailure) => on(L::Boot),
];
pub(super) const PROLOG_FAILED: Moves = moves![
    on(L::Prolog) => on(L::PrologFailure),
    on(L::PrologResume) => on(L::PrologResumeFailure),
    on(L::PrologUndeploy) => on(L::PrologUndeployFailure),
    on(L::PrologMigrate) => on(L::PrologMigrateFailure),
    on(L::PrologMigratePoweroff) => on(L::PrologMigratePoweroffFailure),
    on(L::PrologMigrateSuspend) => on(L::PrologMigrateSuspendFailure),
    on(L::PrologMigrateUnknown) => on(L::PrologMigrateUnknownFailure),
];
pub(super) const BOOTED: Moves = moves![
    on(L::Boot) => on(L::Running),
    on(L::BootFailure) => on(L::Running),
    on(L::BootUnknown) => on(L::Running),
    on(L::BootPoweroff) => on(L::Running),
    on(L::BootSuspended) => on(L::Running),
    on(L::BootStopped) => on(L::Running),
    on(L::BootStoppedFailure) => on(L::Running),
    on(L::BootUndeploy) => on(L::Running),
    on(L::BootUndeployFailure) => on(L::Running),
    on(L::BootMigrate) => on(L::Running),
    on(L::BootMigrateFailure) => on(L::Running),
];
pub(super) const BOOT_FAILED: Moves = moves![
    on(L::Boot) => on(L::BootFailure),
    on(L::BootUnknown) => on(L::Unknown),
    on(L::BootPoweroff) => at(S::Poweroff),
    on(L::BootSuspended) => at(S::Suspended),
    on(L::BootStopped) => on(L::BootStoppedFailure),
    on(L::BootUndeploy) => on(L::BootUndeployFailure),
    on(L::BootMigrate) => on(L::BootMigrateFailure),
];
pub(super) const SAVED: Moves = moves![
    on(L::SaveSuspend) => at(S::Suspended),
    on(L::SaveStop) => on(L::EpilogStop),
    on(L::SaveMigrate) => on(L::PrologMigrate),
];
pub(super) const STOP_FAILED: Moves = moves![
    on(L::Shutdown) => on(L::Running),
    on(L::ShutdownPoweroff) => on(L::Running),
    on(L::ShutdownUndeploy) => on(L::Running),
    on(L::SaveSuspend) => on(L::Running),
    on(L::SaveStop) => on(L::Running),
    on(L::SaveMigrate) => on(L::Running),
];
// Well or not: the guest runs, here or there.
pub(super) const MIGRATE_END: Moves = moves![on(L::Migrate) => on(L::Running)];
pub(super) const BACKUP_END: Moves = moves![
    on(L::Backup) => on(L::Running),
    on(L::BackupPoweroff) => at(S::Poweroff),
];
pub(super) const RESTORE_END: Moves = moves![on(L::Restore) => at(S::Poweroff)];
pub(super) const RESTORE_END_UNDEPLOYED: Moves = moves![on(L::Restore) => at(S::Undeployed)];
pub(super) const EPILOG_DONE: Moves = moves![
    on(L::Epilog) => at(S::Done),
    on(L::EpilogFailure) => at(S::Done),
    on(L::EpilogStop) => at(S::Stopped),
    on(L::EpilogStopFailure) => at(S::Stopped),
    on(L::EpilogUndeploy) => at(S::Undeployed),
    on(L::EpilogUndeployFailure) => at(S::Undeployed),
];
pub(super) const EPILOG_FAILED: Moves = moves![
    on(L::Epilog) => on(L::EpilogFailure),
    on(L::EpilogStop) => on(L::EpilogStopFailure),
    on(L::EpilogUndeploy) => on(L::EpilogUndeployFailure),
];
pub(super) const CLEANUP_DONE: Moves = moves![
    on(L::CleanupDelete) => at(S::Done),
    on(L::CleanupResubmit) => at(S::Pending),
];
pub(super) const STOPPED: Moves = moves![
    on(L::Running) => at(S::Poweroff),
    on(L::Unknown) => at(S::Poweroff),
    on(L::ShutdownPoweroff) => at(S::Poweroff),
    on(L::Shutdown) => on(L::Epilog),
    on(L::ShutdownUndeploy) => on(L::EpilogUndeploy),
];
pub(super) const FOUND: Moves = moves![
    on(L::Unknown) => on(L::Running),
    // Somebody started it behind our back.
    at(S::Poweroff) => on(L::Running),
];
pub(super) const LOST: Moves = moves![on(L::Running) => on(L::Unknown)];
