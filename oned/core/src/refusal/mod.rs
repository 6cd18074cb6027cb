//! Every reason why we say no, with the code and the sentence that go over the wire.
//!
//! A refusal is an answer, not a fault: the request was understood. The sentence is what stands after `[method] ` in the
//! answer; clients match on the code and on a few pieces of text ("Error getting", "Not authorized", "NAME is already
//! taken by"), which are therefore kept as OpenNebula's clients know them. No variant carries a secret.

mod kind;

pub use kind::{ObjectKind, Right};

use crate::lifecycle::{ImageState, VmPhase};
use crate::template::ParseError;

/// The answer code for a bad session.
pub const AUTHENTICATION: i32 = 0x0100;
/// The answer code for missing rights, exceeded quotas and locks.
pub const AUTHORIZATION: i32 = 0x0200;
/// The answer code for an unknown id.
pub const NO_EXISTS: i32 = 0x0400;
/// The answer code for a wrong state or argument of an action.
pub const ACTION: i32 = 0x0800;
/// The answer code for a bad parameter value.
pub const XML_RPC_API: i32 = 0x1000;
/// The answer code for parse errors and everything else.
pub const INTERNAL: i32 = 0x2000;
/// The answer code for an object that could not be created.
pub const ALLOCATE: i32 = 0x4000;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Unknown user, wrong or expired token, disabled user: never told apart.
    #[error("User couldn't be authenticated, aborting call.")]
    BadSession,
    /// The caller lacks a right.
    #[error("User [{user}] : Not authorized to perform {right} {}{}.", kind.acl_name(), bracketed(*id))]
    NotAuthorized {
        /// Who asked.
        user: i64,
        /// For what.
        right: Right,
        /// On which kind of object.
        kind: ObjectKind,
        /// On which one; none for creation.
        id: Option<i64>,
    },
    /// An attribute that only administrators may set.
    #[error("User [{user}] : Template includes a restricted attribute {attribute}.")]
    RestrictedAttribute {
        /// Who asked.
        user: i64,
        /// `NAME` or `NAME/KEY`.
        attribute: String,
    },
    /// A limit set for the user or the group would be passed.
    #[error("User [{user}] : {reason}.")]
    QuotaExceeded {
        /// Who asked.
        user: i64,
        /// The limit and what it counts, without a full stop.
        reason: String,
    },
    /// A lock is in the way.
    #[error("User [{user}] : Not authorized to perform {right} {} [{id}]: {} is locked. [{id}].", kind.acl_name(), kind.acl_name())]
    Locked {
        /// Who asked.
        user: i64,
        /// For what.
        right: Right,
        /// The kind of the locked object.
        kind: ObjectKind,
        /// The locked object.
        id: i64,
    },
    /// No object with this id; −1 asks for the whole pool by mistake.
    #[error("Error getting {} {}.", kind.text(), bracketed_or_pool(*id))]
    NoSuch {
        /// The kind of object.
        kind: ObjectKind,
        /// The id asked for.
        id: i64,
    },
    /// The text is no template.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An object could not be created.
    #[error("Error allocating a new {}. {reason}", kind.text())]
    Allocate {
        /// The kind of object.
        kind: ObjectKind,
        /// Why, as a sentence.
        reason: String,
    },
    /// A new object would take a name in use.
    #[error("Error allocating a new {}. NAME is already taken by {} {other_id}.", kind.text(), kind.acl_name())]
    NameTaken {
        /// The kind of object.
        kind: ObjectKind,
        /// Who has the name.
        other_id: i64,
    },
    /// A renamed object, or one given to a new owner, would take a name in use.
    #[error("{} cannot be renamed to {name} because it collides with {} {other_id}", kind.text(), kind.text())]
    NameCollides {
        /// The kind of object.
        kind: ObjectKind,
        /// The name asked for.
        name: String,
        /// Who has the name.
        other_id: i64,
    },
    /// A name that breaks the rules for names.
    #[error("Invalid NAME, {reason}")]
    BadName {
        /// The rule that is broken.
        reason: String,
    },
    /// The template could not be changed.
    #[error("Cannot update template. {reason}")]
    CannotUpdate {
        /// Why.
        reason: String,
    },
    /// Not 0 (replace) and not 1 (append).
    #[error("Wrong update type")]
    UpdateType,
    /// A pool filter below −4.
    #[error("Incorrect filter_flag")]
    FilterFlag,
    /// The action is not possible in this state.
    #[error("Error performing action \"{action}\": This action is not available for state {state}")]
    WrongState {
        /// The action, as the caller named it.
        action: String,
        /// The state, by its name.
        state: String,
    },
    /// A word that is no action.
    #[error("Action \"{action}\" is not supported")]
    UnknownAction {
        /// The word.
        action: String,
    },
    /// A backup of a VM whose state does not allow one.
    #[error("Could not create a new backup for VM {vm}, wrong state {}.", phase.name())]
    BackupState {
        /// The VM.
        vm: i64,
        /// Its state.
        phase: VmPhase,
    },
    /// A backup while increments are being merged.
    #[error("Could not create a new backup for VM {vm}, consolidating backup increments")]
    Consolidating {
        /// The VM.
        vm: i64,
    },
    /// A cancel without anything to cancel.
    #[error("Could not cancel backup for VM {vm}, no backup in progress")]
    NoBackupInProgress {
        /// The VM.
        vm: i64,
    },
    /// A single backup of a VM that a job backs up.
    #[error("Unable to start an individual backup for the Virtual Machine, it is part of Backup Job ID {job}")]
    PartOfJob {
        /// The VM.
        vm: i64,
        /// The job.
        job: i64,
    },
    /// A scheduled single backup of a VM that a job backs up.
    #[error("Unable to launch scheduled backup for VM {vm}, the VM is part of Backup Job ID {job}")]
    ScheduledPartOfJob {
        /// The VM.
        vm: i64,
        /// The job.
        job: i64,
    },
    /// A VM cannot be in two jobs.
    #[error("Unable to add VM {vm} to Backup Job {job}. It's already in Backup Job {other}")]
    InOtherJob {
        /// The VM.
        vm: i64,
        /// The job that wants it.
        job: i64,
        /// The job that has it.
        other: i64,
    },
    /// A job that is still at work is started again.
    #[error("Unable to execute Backup Job, pending backups in progress")]
    JobPending {
        /// The job.
        job: i64,
    },
    /// A job without VMs is started.
    #[error("Wrong BACKUP_VMS attribute or not defined")]
    JobWithoutVms {
        /// The job.
        job: i64,
    },
    /// A priority outside 0 to 99.
    #[error("Wrong priority value")]
    Priority,
    /// A priority that only administrators may give.
    #[error("User [{user}] : Not authorized to set a priority above {limit}.")]
    PriorityReserved {
        /// Who asked.
        user: i64,
        /// The highest that he may set.
        limit: i64,
    },
    /// Shared folders cannot be read by a backup.
    #[error("Cannot backup VM with FILESYSTEM disks")]
    FilesystemDisks {
        /// The VM.
        vm: i64,
    },
    /// The target is no backup datastore.
    #[error("Datastore needs to be of type BACKUP")]
    NotABackupDatastore {
        /// The datastore.
        datastore: i64,
    },
    /// The target is too small.
    #[error("Not enough free space on target datastore: {needed_mb} MB are needed and {free_mb} MB are free")]
    NoSpace {
        /// The datastore.
        datastore: i64,
        /// What would be written.
        needed_mb: i64,
        /// What there is.
        free_mb: i64,
    },
    /// A disk named in DISK_IDS that no backup can read.
    #[error("Invalid DISK_IDS, disk {disk} cannot be backed up")]
    InvalidDiskIds {
        /// The disk, as it was written.
        disk: String,
    },
    /// Increments and system snapshots exclude each other.
    #[error("VM cannot use backup increment mode, it has snapshots.")]
    IncrementWithSnapshots,
    /// Increments need qcow2 disks without snapshots.
    #[error("VM cannot use backup increment mode, it has disks snapshots or disks are not qcow2.")]
    IncrementUnfitDisks,
    /// A snapshot action on a VM with increments.
    #[error("Action \"{action}\" is not compatible with incremental backups")]
    NotWithIncrements {
        /// The action.
        action: String,
    },
    /// updateconf in a state that does not allow it.
    #[error("configuration cannot be updated in state {}", phase.name())]
    ConfigState {
        /// The VM's state.
        phase: VmPhase,
    },
    /// A number that is no recovery operation.
    #[error("Wrong recovery operation code")]
    RecoverOperation,
    /// An image that a running backup builds upon is to be deleted.
    #[error("Active backup on the associated VM. Wait till it finish to delete the backup Image")]
    ActiveBackup {
        /// The image.
        image: i64,
    },
    /// A locked image is to be deleted without force.
    #[error("Image locked, use --force flag to remove the image. Force delete may leave some files on Datastore")]
    ImageLocked {
        /// The image.
        image: i64,
    },
    /// The image's state does not allow the action.
    #[error("Cannot {action} image in state {}", state.name())]
    ImageWrongState {
        /// The verb.
        action: String,
        /// The image.
        image: i64,
        /// Its state.
        state: ImageState,
    },
    /// A datastore with images is to be deleted.
    #[error("Datastore {datastore} is not empty.")]
    DatastoreNotEmpty {
        /// The datastore.
        datastore: i64,
    },
    /// No SCHED_ACTION vector where one is needed.
    #[error("No SCHED_ACTION attribute in template")]
    NoScheduledAction,
    /// The VM or job has no such scheduled action.
    #[error("SCHED_ACTION with id = {id} doesn't exist")]
    UnknownScheduledAction {
        /// The id asked for.
        id: i64,
    },
    /// A VM that is gone gets no schedule.
    #[error("Unable to create Scheduled Action for Virtual Machine {vm}, it's in DONE state")]
    ScheduleOnDone {
        /// The VM.
        vm: i64,
    },
    /// A value of a scheduled action that is out of its range.
    #[error("{0}")]
    BadSchedule(String),
    /// A wrong state or argument, in our own words.
    #[error("{0}")]
    Action(String),
    /// Refused by the core, in our own words.
    #[error("{0}")]
    Internal(String),
    /// A bad parameter, in our own words.
    #[error("{0}")]
    Api(String),
    /// A recovery that has nothing to work on in this state.
    #[error("Could not perform a recover operation ({operation}), wrong state {}.", phase.name())]
    RecoverState {
        /// The word of the operation.
        operation: String,
        /// The VM's state.
        phase: VmPhase,
    },
    /// A word in an operation list that is none of an operation.
    #[error("Unknown vm operation: {word}")]
    UnknownVmOperation {
        /// The word.
        word: String,
    },
    /// The disk or the VM has no such snapshot.
    #[error("Snapshot does not exist: {snapshot}")]
    NoSnapshot {
        /// The number asked for.
        snapshot: i64,
    },
    /// The snapshot that the disk grows from is to be deleted.
    #[error("Cannot delete the active snapshot {snapshot}; revert the disk to another one first")]
    SnapshotActive {
        /// The snapshot.
        snapshot: i64,
    },
    /// A snapshot that others grew from is to be deleted.
    #[error("Cannot delete snapshot with children: {snapshot}; delete {children} first")]
    SnapshotWithChildren {
        /// The snapshot.
        snapshot: i64,
        /// Its children, comma separated.
        children: String,
    },
    /// A driver is at work on a snapshot of the VM.
    #[error("Snapshot {snapshot} is being worked on; wait until that is done")]
    SnapshotBusy {
        /// The snapshot.
        snapshot: i64,
    },
    /// Too many snapshots.
    #[error("Cannot create a new snapshot, there are {limit} already; delete one first")]
    TooManySnapshots {
        /// How many there may be.
        limit: usize,
    },
}

fn bracketed(id: Option<i64>) -> String {
    id.map(|id| format!(" [{id}]")).unwrap_or_default()
}

fn bracketed_or_pool(id: i64) -> String {
    if id < 0 { "Pool".to_owned() } else { format!("[{id}]") }
}

impl Refusal {
    /// The code at index 2 of the answer.
    pub fn code(&self) -> i32 {
        match self {
            Self::BadSession => AUTHENTICATION,
            Self::NotAuthorized { .. }
            | Self::RestrictedAttribute { .. }
            | Self::QuotaExceeded { .. }
            | Self::Locked { .. }
            | Self::PriorityReserved { .. } => AUTHORIZATION,
            Self::NoSuch { .. } => NO_EXISTS,
            // Clients' suites expect the original's odd case.
            Self::NameTaken { kind: ObjectKind::BackupJob, .. } => INTERNAL,
            Self::NameTaken { .. } | Self::Allocate { .. } => ALLOCATE,
            Self::UpdateType | Self::FilterFlag | Self::Api(_) => XML_RPC_API,
            Self::NameCollides { .. }
            | Self::BadName { .. }
            | Self::WrongState { .. }
            | Self::UnknownAction { .. }
            | Self::JobPending { .. }
            | Self::JobWithoutVms { .. }
            | Self::FilesystemDisks { .. }
            | Self::NotABackupDatastore { .. }
            | Self::NoSpace { .. }
            | Self::NotWithIncrements { .. }
            | Self::RecoverOperation
            | Self::NoScheduledAction
            | Self::UnknownScheduledAction { .. }
            | Self::BadSchedule(_)
            | Self::Action(_)
            | Self::RecoverState { .. }
            | Self::NoSnapshot { .. }
            | Self::SnapshotActive { .. }
            | Self::SnapshotWithChildren { .. }
            | Self::SnapshotBusy { .. }
            | Self::TooManySnapshots { .. } => ACTION,
            Self::Parse(_)
            | Self::CannotUpdate { .. }
            | Self::BackupState { .. }
            | Self::Consolidating { .. }
            | Self::NoBackupInProgress { .. }
            | Self::PartOfJob { .. }
            | Self::ScheduledPartOfJob { .. }
            | Self::InOtherJob { .. }
            | Self::Priority
            | Self::InvalidDiskIds { .. }
            | Self::IncrementWithSnapshots
            | Self::IncrementUnfitDisks
            | Self::ConfigState { .. }
            | Self::ActiveBackup { .. }
            | Self::ImageLocked { .. }
            | Self::ImageWrongState { .. }
            | Self::DatastoreNotEmpty { .. }
            | Self::ScheduleOnDone { .. }
            | Self::Internal(_)
            | Self::UnknownVmOperation { .. } => INTERNAL,
        }
    }

    /// The object at index 3 of the answer; −1 when no single one is to blame.
    pub fn object_id(&self) -> i64 {
        match self {
            Self::NotAuthorized { id, .. } => id.unwrap_or(-1),
            Self::NoSuch { id, .. } | Self::Locked { id, .. } | Self::UnknownScheduledAction { id } => *id,
            Self::NameTaken { other_id, .. } | Self::NameCollides { other_id, .. } => *other_id,
            Self::BackupState { vm, .. }
            | Self::Consolidating { vm }
            | Self::NoBackupInProgress { vm }
            | Self::PartOfJob { vm, .. }
            | Self::ScheduledPartOfJob { vm, .. }
            | Self::InOtherJob { vm, .. }
            | Self::FilesystemDisks { vm }
            | Self::ScheduleOnDone { vm } => *vm,
            Self::JobPending { job } | Self::JobWithoutVms { job } => *job,
            Self::NotABackupDatastore { datastore }
            | Self::NoSpace { datastore, .. }
            | Self::DatastoreNotEmpty { datastore } => *datastore,
            Self::ActiveBackup { image } | Self::ImageLocked { image } | Self::ImageWrongState { image, .. } => *image,
            Self::BadSession
            | Self::RestrictedAttribute { .. }
            | Self::QuotaExceeded { .. }
            | Self::Parse(_)
            | Self::Allocate { .. }
            | Self::BadName { .. }
            | Self::CannotUpdate { .. }
            | Self::UpdateType
            | Self::FilterFlag
            | Self::WrongState { .. }
            | Self::UnknownAction { .. }
            | Self::Priority
            | Self::PriorityReserved { .. }
            | Self::InvalidDiskIds { .. }
            | Self::IncrementWithSnapshots
            | Self::IncrementUnfitDisks
            | Self::NotWithIncrements { .. }
            | Self::ConfigState { .. }
            | Self::RecoverOperation
            | Self::NoScheduledAction
            | Self::BadSchedule(_)
            | Self::Action(_)
            | Self::Internal(_)
            | Self::Api(_)
            | Self::RecoverState { .. }
            | Self::UnknownVmOperation { .. }
            | Self::NoSnapshot { .. }
            | Self::SnapshotActive { .. }
            | Self::SnapshotWithChildren { .. }
            | Self::SnapshotBusy { .. }
            | Self::TooManySnapshots { .. } => -1,
        }
    }

    /// This refusal as the reason why a new object was not made. Rights and unknown ids keep their own code.
    #[must_use]
    pub fn in_allocating(self, kind: ObjectKind) -> Self {
        match self.code() {
            ACTION | INTERNAL if !matches!(self, Self::Parse(_) | Self::NameTaken { .. }) => {
                Self::Allocate { kind, reason: self.to_string() }
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests;
