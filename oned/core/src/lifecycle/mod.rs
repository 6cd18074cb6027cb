//! State machines: virtual machines and backup jobs, and the state numbers that clients see.
//!
//! What it is: the states by number, name and short form; one total function per machine; the decision what to do with a
//! job that a crash left open. What it is not: it changes nothing; whoever stores a move does so as compare-and-set.
//!
//! Virtual machines (`STATE`, or `LCM_STATE` where STATE is ACTIVE). A step that fails waits in its own failure state;
//! `Retry` begins it again.
//!
//! ```text
//!  CLONING --CloneDone--> PENDING <--Hold/Release--> HOLD
//!                            | Place
//!                            v  PrologDone      Booted
//!                         PROLOG ------> BOOT ------> RUNNING <--Found/Lost--> UNKNOWN
//!
//!  asked of RUNNING   way down                                rests in     way back                    (asked by)
//!  Poweroff           SHUTDOWN_POWEROFF                       POWEROFF     BOOT_POWEROFF                   Resume
//!  Suspend            SAVE_SUSPEND                            SUSPENDED    BOOT_SUSPENDED                  Resume
//!  Stop               SAVE_STOP, EPILOG_STOP                  STOPPED      PROLOG_RESUME, BOOT_STOPPED     Place
//!  Undeploy           SHUTDOWN_UNDEPLOY, EPILOG_UNDEPLOY      UNDEPLOYED   PROLOG_UNDEPLOY, BOOT_UNDEPLOY  Place
//!  Terminate          SHUTDOWN, EPILOG                        DONE
//!
//!  SUSPENDED --Stop--> EPILOG_STOP    POWEROFF --Undeploy--> EPILOG_UNDEPLOY    STOPPED, UNDEPLOYED --Resume--> PENDING
//!  all four --Terminate--> EPILOG     failure states --Terminate--> CLEANUP_DELETE     UNKNOWN --Resume--> BOOT_UNKNOWN
//!
//!  to another host: RUNNING   --LiveMigrate--> MIGRATE --> RUNNING
//!                   RUNNING   --Migrate--> SAVE_MIGRATE --> PROLOG_MIGRATE --> BOOT_MIGRATE --> RUNNING
//!                   POWEROFF  --Migrate--> PROLOG_MIGRATE_POWEROFF --> POWEROFF
//!                   SUSPENDED --Migrate--> PROLOG_MIGRATE_SUSPEND  --> SUSPENDED
//!                   UNKNOWN   --Migrate--> PROLOG_MIGRATE_UNKNOWN  --> BOOT
//!
//!  changes return to where they began, done or failed:
//!                   RUNNING                POWEROFF                         SUSPENDED        UNDEPLOYED    STOPPED
//!  disk             HOTPLUG                HOTPLUG_PROLOG_, _EPILOG_POWEROFF
//!  CONTEXT          HOTPLUG
//!  interface        HOTPLUG_NIC            _POWEROFF
//!  capacity         HOTPLUG_RESIZE         at once                                           at once
//!  disk's size      DISK_RESIZE            _POWEROFF                                         _UNDEPLOYED
//!  disk's snapshot  DISK_SNAPSHOT          _POWEROFF                        _SUSPENDED
//!    revert                                _REVERT_POWEROFF
//!    delete         DISK_SNAPSHOT_DELETE   _DELETE_POWEROFF                 _DELETE_SUSPENDED
//!  VM's snapshot    HOTPLUG_SNAPSHOT
//!  new image        HOTPLUG_SAVEAS         _POWEROFF                        _SUSPENDED       _UNDEPLOYED   _STOPPED
//!  backup           BACKUP                 BACKUP_POWEROFF
//!  restore                                 RESTORE
//!
//!  recovery: everything --Delete--> CLEANUP_DELETE --> DONE        everything --Recreate--> CLEANUP_RESUBMIT --> PENDING
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
