//! What a backup is, before any byte is copied: how it is configured, what the next one will be, which old ones go, and
//! how a VM is described again when it comes back.
//!
//! What it is: pure decisions over facts that the caller read. What it is not: it knows no checkpoint, no file and no
//! repository; points and checkpoints are opaque strings here.
//!
//! Invariants: a plan says everything that the run needs, so that a run can go on after a restart from the plan alone;
//! nothing here changes the chain pointers before a backup has succeeded.

pub mod audit;
pub mod catalogue;
pub mod config;
pub mod disks;
pub mod plan;
pub mod restore;
pub mod retain;
pub mod settings;
pub mod share;

pub use audit::{Audit, unmarked_warning};
pub use config::{BackupConfig, FreezeFail, FsFreeze, IncrementMode, Mode};
pub use disks::{Disk, DiskKind, Disks, IncrementObstacle};
pub use plan::{Chain, Plan, PlanInput, PlanKind, plan};
pub use restore::{BackupPath, BackupPathError, ChainLink, RestoreOptions, restore_template};
pub use retain::{BackupImage, Candidate, Expired, Keeps, Made, expired};
pub use settings::{Driver, ImageCompression, StoreSettings};
pub use share::{ShareAddress, ShareConfig};

/// The name of a new backup image: `<VM id> DD-Mon HH.MM.SS`, local time, English month (`0 01-Dec 13.36.56`).
///
/// `now` is epoch seconds. Two backups within one second get the same name; the caller adds a suffix then.
pub fn image_name(vm: i64, now: i64, zone: chrono_tz::Tz) -> String {
    let at = chrono::DateTime::from_timestamp(now, 0).unwrap_or_default().with_timezone(&zone);
    format!("{vm} {}", at.format("%d-%b %H.%M.%S"))
}

#[cfg(test)]
mod tests {
    use super::image_name;

    #[test]
    fn a_backup_image_is_named_after_its_vm_and_the_local_time() {
        assert_eq!(image_name(0, 1_669_901_816, chrono_tz::Tz::UTC), "0 01-Dec 13.36.56");
        assert_eq!(image_name(7, 1_669_901_816, chrono_tz::Europe::Madrid), "7 01-Dec 14.36.56");
    }

    #[test]
    fn a_time_beyond_the_calendar_still_gives_a_name() {
        assert_eq!(image_name(1, i64::MAX, chrono_tz::Tz::UTC), "1 01-Jan 00.00.00");
    }
}
