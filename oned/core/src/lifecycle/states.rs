//! States and types by number, name and short form, as they stand in documents and tables.

use serde::{Deserialize, Serialize};

macro_rules! numbered {
    ($(#[$doc:meta])* $enum:ident { $($variant:ident = $number:literal $name:literal $short:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $enum {
            $(#[doc = concat!("`", $name, "`, number ", $number, ".")] $variant,)+
        }

        impl $enum {
            /// Every value, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The number in documents and in the database.
            pub fn number(self) -> i64 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The value with this number.
            pub fn from_number(number: i64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The name in templates and sentences.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The value of that name, in any case of letters.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name().eq_ignore_ascii_case(name))
            }

            /// The short form in tables.
            pub fn short(self) -> &'static str {
                match self { $(Self::$variant => $short,)+ }
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

numbered! {
    /// STATE of a virtual machine.
    VmState {
        Init = 0 "INIT" "init",
        Pending = 1 "PENDING" "pend",
        Hold = 2 "HOLD" "hold",
        Active = 3 "ACTIVE" "actv",
        Stopped = 4 "STOPPED" "stop",
        Suspended = 5 "SUSPENDED" "susp",
        Done = 6 "DONE" "done",
        Poweroff = 8 "POWEROFF" "poff",
        Undeployed = 9 "UNDEPLOYED" "unde",
        Cloning = 10 "CLONING" "clon",
        CloningFailure = 11 "CLONING_FAILURE" "fail",
    }
}

numbered! {
    /// LCM_STATE of a virtual machine: what an ACTIVE one is doing. 13, 14, 55 and 58 are not in use.
    LcmState {
        LcmInit = 0 "LCM_INIT" "init",
        Prolog = 1 "PROLOG" "prol",
        Boot = 2 "BOOT" "boot",
        Running = 3 "RUNNING" "runn",
        Migrate = 4 "MIGRATE" "migr",
        SaveStop = 5 "SAVE_STOP" "save",
        SaveSuspend = 6 "SAVE_SUSPEND" "save",
        SaveMigrate = 7 "SAVE_MIGRATE" "save",
        PrologMigrate = 8 "PROLOG_MIGRATE" "migr",
        PrologResume = 9 "PROLOG_RESUME" "prol",
        EpilogStop = 10 "EPILOG_STOP" "epil",
        Epilog = 11 "EPILOG" "epil",
        Shutdown = 12 "SHUTDOWN" "shut",
        CleanupResubmit = 15 "CLEANUP_RESUBMIT" "clea",
        Unknown = 16 "UNKNOWN" "unkn",
        Hotplug = 17 "HOTPLUG" "hotp",
        ShutdownPoweroff = 18 "SHUTDOWN_POWEROFF" "shut",
        BootUnknown = 19 "BOOT_UNKNOWN" "boot",
        BootPoweroff = 20 "BOOT_POWEROFF" "boot",
        BootSuspended = 21 "BOOT_SUSPENDED" "boot",
        BootStopped = 22 "BOOT_STOPPED" "boot",
        CleanupDelete = 23 "CLEANUP_DELETE" "clea",
        HotplugSnapshot = 24 "HOTPLUG_SNAPSHOT" "snap",
        HotplugNic = 25 "HOTPLUG_NIC" "hotp",
        HotplugSaveas = 26 "HOTPLUG_SAVEAS" "hotp",
        HotplugSaveasPoweroff = 27 "HOTPLUG_SAVEAS_POWEROFF" "hotp",
        HotplugSaveasSuspended = 28 "HOTPLUG_SAVEAS_SUSPENDED" "hotp",
        ShutdownUndeploy = 29 "SHUTDOWN_UNDEPLOY" "shut",
        EpilogUndeploy = 30 "EPILOG_UNDEPLOY" "epil",
        PrologUndeploy = 31 "PROLOG_UNDEPLOY" "prol",
        BootUndeploy = 32 "BOOT_UNDEPLOY" "boot",
        HotplugPrologPoweroff = 33 "HOTPLUG_PROLOG_POWEROFF" "hotp",
        HotplugEpilogPoweroff = 34 "HOTPLUG_EPILOG_POWEROFF" "hotp",
        BootMigrate = 35 "BOOT_MIGRATE" "boot",
        BootFailure = 36 "BOOT_FAILURE" "fail",
        BootMigrateFailure = 37 "BOOT_MIGRATE_FAILURE" "fail",
        PrologMigrateFailure = 38 "PROLOG_MIGRATE_FAILURE" "fail",
        PrologFailure = 39 "PROLOG_FAILURE" "fail",
        EpilogFailure = 40 "EPILOG_FAILURE" "fail",
        EpilogStopFailure = 41 "EPILOG_STOP_FAILURE" "fail",
        EpilogUndeployFailure = 42 "EPILOG_UNDEPLOY_FAILURE" "fail",
        PrologMigratePoweroff = 43 "PROLOG_MIGRATE_POWEROFF" "migr",
        PrologMigratePoweroffFailure = 44 "PROLOG_MIGRATE_POWEROFF_FAILURE" "fail",
        PrologMigrateSuspend = 45 "PROLOG_MIGRATE_SUSPEND" "migr",
        PrologMigrateSuspendFailure = 46 "PROLOG_MIGRATE_SUSPEND_FAILURE" "fail",
        BootUndeployFailure = 47 "BOOT_UNDEPLOY_FAILURE" "fail",
        BootStoppedFailure = 48 "BOOT_STOPPED_FAILURE" "fail",
        PrologResumeFailure = 49 "PROLOG_RESUME_FAILURE" "fail",
        PrologUndeployFailure = 50 "PROLOG_UNDEPLOY_FAILURE" "fail",
        DiskSnapshotPoweroff = 51 "DISK_SNAPSHOT_POWEROFF" "snap",
        DiskSnapshotRevertPoweroff = 52 "DISK_SNAPSHOT_REVERT_POWEROFF" "snap",
        DiskSnapshotDeletePoweroff = 53 "DISK_SNAPSHOT_DELETE_POWEROFF" "snap",
        DiskSnapshotSuspended = 54 "DISK_SNAPSHOT_SUSPENDED" "snap",
        DiskSnapshotDeleteSuspended = 56 "DISK_SNAPSHOT_DELETE_SUSPENDED" "snap",
        DiskSnapshot = 57 "DISK_SNAPSHOT" "snap",
        DiskSnapshotDelete = 59 "DISK_SNAPSHOT_DELETE" "snap",
        PrologMigrateUnknown = 60 "PROLOG_MIGRATE_UNKNOWN" "migr",
        PrologMigrateUnknownFailure = 61 "PROLOG_MIGRATE_UNKNOWN_FAILURE" "fail",
        DiskResize = 62 "DISK_RESIZE" "drsz",
        DiskResizePoweroff = 63 "DISK_RESIZE_POWEROFF" "drsz",
        DiskResizeUndeployed = 64 "DISK_RESIZE_UNDEPLOYED" "drsz",
        HotplugNicPoweroff = 65 "HOTPLUG_NIC_POWEROFF" "hotp",
        HotplugResize = 66 "HOTPLUG_RESIZE" "hotp",
        HotplugSaveasUndeployed = 67 "HOTPLUG_SAVEAS_UNDEPLOYED" "hotp",
        HotplugSaveasStopped = 68 "HOTPLUG_SAVEAS_STOPPED" "hotp",
        Backup = 69 "BACKUP" "bkup",
        BackupPoweroff = 70 "BACKUP_POWEROFF" "bkup",
        Restore = 71 "RESTORE" "rest",
    }
}

numbered! {
    /// STATE of an image.
    ImageState {
        Init = 0 "INIT" "init",
        Ready = 1 "READY" "rdy",
        Used = 2 "USED" "used",
        Disabled = 3 "DISABLED" "disa",
        Locked = 4 "LOCKED" "lock",
        Error = 5 "ERROR" "err",
        Clone = 6 "CLONE" "clon",
        Delete = 7 "DELETE" "dele",
        UsedPers = 8 "USED_PERS" "used",
        LockedUsed = 9 "LOCKED_USED" "lock",
        LockedUsedPers = 10 "LOCKED_USED_PERS" "lock",
    }
}

numbered! {
    /// TYPE of an image.
    ImageType {
        Os = 0 "OS" "OS",
        Cdrom = 1 "CDROM" "CD",
        Datablock = 2 "DATABLOCK" "DB",
        Kernel = 3 "KERNEL" "KL",
        Ramdisk = 4 "RAMDISK" "RD",
        Context = 5 "CONTEXT" "CX",
        Backup = 6 "BACKUP" "BK",
        Filesystem = 7 "FILESYSTEM" "FS",
    }
}

numbered! {
    /// TYPE of a datastore.
    DatastoreType {
        Image = 0 "IMAGE_DS" "img",
        System = 1 "SYSTEM_DS" "sys",
        File = 2 "FILE_DS" "fil",
        Backup = 3 "BACKUP_DS" "bck",
    }
}

numbered! {
    /// STATE of a host.
    HostState {
        Init = 0 "INIT" "init",
        MonitoringMonitored = 1 "MONITORING_MONITORED" "update",
        Monitored = 2 "MONITORED" "on",
        Error = 3 "ERROR" "err",
        Disabled = 4 "DISABLED" "dsbl",
        MonitoringError = 5 "MONITORING_ERROR" "retry",
        MonitoringInit = 6 "MONITORING_INIT" "init",
        MonitoringDisabled = 7 "MONITORING_DISABLED" "dsbl",
        Offline = 8 "OFFLINE" "off",
    }
}
