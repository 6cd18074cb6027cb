//! State machines: virtual machines and backup jobs, and the state numbers that clients see.
//!
//! What it is: the states by number, name and short form; one total function per machine; the decision what to do with a
//! job that a crash left open. What it is not: it changes nothing; whoever stores a move does so as compare-and-set.
//!
//! Virtual machines (`STATE`, or `LCM_STATE` where STATE is ACTIVE):
//!
//! ```text
//!            Hold             Place            PrologDone      Booted
//!   HOLD <----------> PENDING ------> PROLOG ------------> BOOT ------> RUNNING <---> UNKNOWN
//!          Release       |            |    ^ Retry       |    ^ Retry    |  ^  Lost   |
//!                        |            v    |             v    |          |  |  Found  | Resume
//!                        |        PROLOG_FAILURE     BOOT_FAILURE        |  +--- BOOT_UNKNOWN
//!              Terminate |                                               |
//!                        |    Terminate           Poweroff or Stopped    |     Suspend
//!                        |  +--------------------------+-----------------+--------------------+
//!                        |  v                          v                                      v
//!                        | SHUTDOWN          SHUTDOWN_POWEROFF                           SAVE_SUSPEND
//!                        |  | Stopped              | Stopped      Resume                      | Saved
//!                        |  v       Terminate      v         -> BOOT_POWEROFF -> RUNNING      v
//!   EPILOG_FAILURE <---> EPILOG <------------- POWEROFF                                   SUSPENDED
//!             Retry      |  | EpilogDone                     -> BOOT_SUSPENDED -> RUNNING
//!                        v  v
//!                        DONE <--- CLEANUP_DELETE <--- (Delete, from everywhere)
//!
//!   RUNNING  --BackupStart-->  BACKUP           --BackupEnd-->   RUNNING
//!   POWEROFF --BackupStart-->  BACKUP_POWEROFF  --BackupEnd-->   POWEROFF
//!   POWEROFF --RestoreStart--> RESTORE          --RestoreEnd-->  POWEROFF
//!   RUNNING  --AttachStart-->  HOTPLUG          --HotplugEnd-->  RUNNING
//! ```
//!
//! Invariants: LCM_STATE is LCM_INIT unless STATE is ACTIVE. What monitoring sees ([`VmEvent::Stopped`],
//! [`VmEvent::Found`], [`VmEvent::Lost`]) is never refused, and never ends an operation that a driver still has to answer:
//! a guest that shuts down during BACKUP leaves the VM in BACKUP. A backup job only goes forward once it is *Recorded*.

pub mod actions;
mod event;
mod job;
mod moves;
mod operations;
mod snapshots;
mod states;
mod vm;
mod vm_recover;

pub use actions::VmAction;
pub use event::{VmChange, VmEvent};
pub use job::{JobEvent, JobPhase, Recovery, Seen, job_next, recover};
pub use operations::{OperationLists, VmOperation, VmRights};
pub use snapshots::{
    DiskSnapshot, DiskSnapshots, MAX_SNAPSHOTS, Orphans, SystemSnapshot, SystemSnapshotAction, SystemSnapshots,
    allowed_beside_backups,
};
pub use states::{DatastoreType, HostState, ImageState, ImageType, LcmState, VmState};
pub use vm::{VmPhase, change_in, driver_answers, next};
pub use vm_recover::{OpenJobs, RecoverAction, RecoverOperation, recover_action};
