//! Jobs as data: what an operation is going to do, written down before it does anything.
//!
//! A job's row is its intent. Its plan names every outside thing (checkpoint, socket, scratch file, restore point label,
//! target file) after the job's id, so that whatever a dead daemon left can be found again. The api writes plans, the
//! engine carries them out; neither calls the other.

use std::path::{Path, PathBuf};

use one_core::backup::Plan;
use one_core::lifecycle::{LcmState, VmPhase, VmState};
use serde::{Deserialize, Serialize};

use crate::quota::Charge;
use crate::store::rows::{JobRow, VmRow};
use crate::store::{StoreError, Tx};

/// What a job does; the text form is what the database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// Puts a placed VM's disks in place and boots it, or lets it go on.
    Deploy,
    /// Powers a VM off.
    Poweroff,
    /// Saves a guest's memory; the VM keeps its host.
    Suspend,
    /// Saves a guest's memory and takes the VM off its host.
    Stop,
    /// Shuts a guest down and takes the VM off its host.
    Undeploy,
    /// Boots a powered-off VM, or lets a suspended one go on.
    Resume,
    /// Restarts the guest.
    Reboot,
    /// Moves a VM to another host.
    Migrate,
    /// Changes processors and memory of a running guest.
    Resize,
    /// Removes a VM and its disks.
    Terminate,
    /// Removes what there is of a VM, so that it begins anew.
    Recreate,
    /// Removes the files of a VM that is DONE already.
    Clear,
    /// Takes a restore point.
    Backup,
    /// Copies a file into an image datastore.
    Import,
    /// Makes an image from a restore point.
    Restore,
    /// Removes an image's data and record.
    Delete,
    /// Forgets restore points that KEEP_LAST no longer wants.
    Retain,
    /// Looks whether restore points can be given back.
    Verify,
    /// Makes images of the restore points of a datastore that nobody knows.
    ImportBackups,
    /// Gives a VM another disk.
    AttachDisk,
    /// Takes a disk from a VM.
    DetachDisk,
    /// Makes a disk of a VM larger.
    ResizeDisk,
    /// Makes, deletes or goes back to a snapshot of one disk of a VM.
    DiskSnapshot,
    /// Makes, deletes or goes back to a snapshot of a whole VM.
    SystemSnapshot,
    /// Copies a disk of a VM into a new image.
    SaveAs,
    /// Copies an image into a new one.
    Clone,
    /// Deletes or goes back to a snapshot of an image that no VM uses.
    ImageSnapshot,
    /// Puts disks of a VM back as a restore point has them.
    RestoreVm,
    /// Puts a network card into a running VM.
    AttachNic,
    /// Takes a network card out of a running VM.
    DetachNic,
}

const KINDS: &[(JobKind, &str)] = &[
    (JobKind::Deploy, "DEPLOY"),
    (JobKind::Poweroff, "POWEROFF"),
    (JobKind::Suspend, "SUSPEND"),
    (JobKind::Stop, "STOP"),
    (JobKind::Undeploy, "UNDEPLOY"),
    (JobKind::Resume, "RESUME"),
    (JobKind::Reboot, "REBOOT"),
    (JobKind::Migrate, "MIGRATE"),
    (JobKind::Resize, "RESIZE"),
    (JobKind::Terminate, "TERMINATE"),
    (JobKind::Recreate, "RECREATE"),
    (JobKind::Clear, "CLEAR"),
    (JobKind::Backup, "BACKUP"),
    (JobKind::Import, "IMPORT"),
    (JobKind::Restore, "RESTORE"),
    (JobKind::Delete, "DELETE"),
    (JobKind::Retain, "RETAIN"),
    (JobKind::Verify, "VERIFY"),
    (JobKind::ImportBackups, "IMPORT_BACKUPS"),
    (JobKind::AttachDisk, "ATTACH_DISK"),
    (JobKind::DetachDisk, "DETACH_DISK"),
    (JobKind::ResizeDisk, "RESIZE_DISK"),
    (JobKind::DiskSnapshot, "DISK_SNAPSHOT"),
    (JobKind::SystemSnapshot, "SYSTEM_SNAPSHOT"),
    (JobKind::SaveAs, "SAVE_AS"),
    (JobKind::Clone, "CLONE"),
    (JobKind::ImageSnapshot, "IMAGE_SNAPSHOT"),
    (JobKind::RestoreVm, "RESTORE_VM"),
    (JobKind::AttachNic, "ATTACH_NIC"),
    (JobKind::DetachNic, "DETACH_NIC"),
];

impl JobKind {
    /// The database's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("BACKUP", |(_, word)| word)
    }

    /// The kind of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        KINDS.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind)
    }

    /// The job that brings a VM out of this phase of its life; none where it rests, runs, or a job of another kind (a
    /// change of a device, a backup) is at work.
    #[must_use]
    pub fn of_phase(phase: VmPhase) -> Option<Self> {
        use LcmState as L;
        if phase.state != VmState::Active {
            return None;
        }
        match phase.lcm {
            L::Prolog | L::PrologResume | L::PrologUndeploy => Some(Self::Deploy),
            L::Boot | L::BootStopped | L::BootUndeploy => Some(Self::Deploy),
            L::BootPoweroff | L::BootSuspended | L::BootUnknown => Some(Self::Resume),
            L::ShutdownPoweroff => Some(Self::Poweroff),
            L::SaveSuspend => Some(Self::Suspend),
            L::SaveStop | L::EpilogStop => Some(Self::Stop),
            L::ShutdownUndeploy | L::EpilogUndeploy => Some(Self::Undeploy),
            L::Shutdown | L::Epilog | L::CleanupDelete => Some(Self::Terminate),
            L::CleanupResubmit => Some(Self::Recreate),
            L::Migrate | L::SaveMigrate | L::PrologMigrate | L::BootMigrate => Some(Self::Migrate),
            L::PrologMigratePoweroff | L::PrologMigrateSuspend | L::PrologMigrateUnknown => Some(Self::Migrate),
            _ => None,
        }
    }

    /// Whether this job is at work in that phase.
    #[must_use]
    pub fn drives(self, phase: VmPhase) -> bool {
        // A migration without saved memory ends with an ordinary boot.
        let boots = self == Self::Migrate && phase == VmPhase::active(LcmState::Boot);
        boots || Self::of_phase(phase) == Some(self)
    }
}

/// Politely, or at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StopPlan {
    /// At once, without asking the guest.
    pub hard: bool,
}

/// What a running guest is to have from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizePlan {
    /// Attributes and their new values.
    pub capacity: Vec<(String, String)>,
}

/// A network card that comes or goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicPlan {
    /// Its NIC_ID.
    pub nic_id: i64,
    /// The bound NIC, as template text.
    pub nic: String,
}

/// One disk of a backup as it stood when the plan was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPlanDisk {
    /// The VM's disk id.
    pub id: u32,
    /// Image file.
    pub path: PathBuf,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Name in the guest's bus.
    pub target: String,
    /// Size in MB as the VM's template says.
    pub size_mb: i64,
}

/// On whose behalf a backup is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Origin {
    /// Somebody asked for it.
    #[default]
    Call,
    /// A scheduled action of the VM.
    Schedule {
        /// The action.
        id: i64,
    },
    /// A run of a backup job.
    BackupJob {
        /// The backup job.
        id: i64,
        /// The scheduled action that started the run, if one did.
        schedule_id: Option<i64>,
    },
}

impl Origin {
    /// The scheduled action, if one started it.
    #[must_use]
    pub fn schedule_id(self) -> Option<i64> {
        match self {
            Self::Call => None,
            Self::Schedule { id } => Some(id),
            Self::BackupJob { schedule_id, .. } => schedule_id,
        }
    }

    /// The backup job, if it is part of one's run.
    #[must_use]
    pub fn backup_job_id(self) -> Option<i64> {
        match self {
            Self::Call | Self::Schedule { .. } => None,
            Self::BackupJob { id, .. } => Some(id),
        }
    }
}

/// A backup, decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupPlan {
    /// Full or increment, of what, whereto, and why.
    pub decision: Plan,
    /// Whether the VM ran when the backup was accepted (else it was powered off).
    pub live: bool,
    /// Domain name.
    pub domain: String,
    /// Host to talk to.
    pub host_id: i64,
    /// Disks to read.
    pub disks: Vec<BackupPlanDisk>,
    /// Name of the checkpoint to make; none when no increment will ever follow.
    pub checkpoint: Option<String>,
    /// Series in the datastore.
    pub series: String,
    /// Point in time, epoch seconds; also names the image.
    pub time: i64,
    /// The VM's document, stored with the data.
    pub document: String,
    /// Who asked.
    pub uid: i64,
    /// With that group.
    pub gid: i64,
    /// What is reserved of the owner's quotas until the backup is recorded or given up.
    #[serde(default)]
    pub reserved: Charge,
    /// Why it is made.
    #[serde(default)]
    pub origin: Origin,
}

impl BackupPlan {
    /// The label by which the datastore finds this job's restore point. It holds the time of the plan too: a daemon that
    /// was set up anew counts its jobs from 0 again, and must not take the point of an old one for its own.
    #[must_use]
    pub fn label(&self, job_id: i64) -> String {
        format!("job={job_id}.{:08x}", self.time)
    }

    /// The checkpoint's name.
    #[must_use]
    pub fn checkpoint_name(vm_id: i64, job_id: i64) -> String {
        format!("one-{vm_id}-{job_id}")
    }

    /// Whether a checkpoint is one that a backup of this VM made; others are somebody else's and are left alone.
    #[must_use]
    pub fn is_checkpoint_of(vm_id: i64, name: &str) -> bool {
        name.strip_prefix(&format!("one-{vm_id}-")).is_some_and(|job| job.parse::<i64>().is_ok())
    }

    /// The socket, in the daemon's run directory (short, for socket paths hold 107 bytes).
    #[must_use]
    pub fn socket(run_dir: &Path, job_id: i64) -> PathBuf {
        run_dir.join(format!("b{job_id}.sock"))
    }

    /// The scratch file of a disk: beside the disk, for that is the host's fast storage.
    #[must_use]
    pub fn scratch(disk: &Path, job_id: i64) -> PathBuf {
        beside(disk, &format!(".scratch-{job_id}"))
    }
}

/// A file in the same directory, and so on the same file system.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    file.with_file_name(name)
}

/// A file to copy in, or an empty disk to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportPlan {
    /// The file as the user named it, resolved; none = an empty disk.
    pub source: Option<PathBuf>,
    /// `qcow2` or `raw` when the user said so.
    pub format: Option<String>,
    /// How large the disk shall be, MB; none = as the file is.
    pub size_mb: Option<i64>,
    /// Where the copy goes.
    pub target: PathBuf,
}

/// A disk of a VM to attach or detach; what it is stands in the VM's template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPlan {
    /// The VM's disk id.
    pub disk_id: i64,
}

/// A disk of a VM to make larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeDiskPlan {
    /// The VM's disk id.
    pub disk_id: i64,
    /// The size that it gets, MB.
    pub size_mb: i64,
}

/// What to do with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotStep {
    /// Make it.
    Create,
    /// Go back to it.
    Revert,
    /// Delete it.
    Delete,
    /// Go back to it and delete all snapshots.
    Flatten,
}

/// A snapshot of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSnapshotPlan {
    /// What to do.
    pub step: SnapshotStep,
    /// The VM's disk id; unused for images.
    pub disk_id: i64,
    /// The snapshot's number.
    pub snapshot_id: i64,
}

impl DiskSnapshotPlan {
    /// What a snapshot is called inside the disk's file.
    #[must_use]
    pub fn name(snapshot_id: i64) -> String {
        format!("disk-{snapshot_id}")
    }
}

/// A snapshot of a whole VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemSnapshotPlan {
    /// What to do.
    pub step: SnapshotStep,
    /// The snapshot's number.
    pub snapshot_id: i64,
}

impl SystemSnapshotPlan {
    /// What the hypervisor calls a snapshot.
    #[must_use]
    pub fn name(snapshot_id: i64) -> String {
        format!("system-{snapshot_id}")
    }
}

/// A disk of a VM to copy into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveAsPlan {
    /// The VM's disk id.
    pub disk_id: i64,
    /// Where the copy goes.
    pub target: PathBuf,
}

/// An image to copy into another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClonePlan {
    /// The image that is copied.
    pub source_id: i64,
    /// Its file.
    pub source: PathBuf,
    /// `qcow2` or `raw`.
    pub format: String,
    /// Where the copy goes.
    pub target: PathBuf,
}

/// A disk to make from a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// Backup datastore.
    pub datastore_id: i64,
    /// Series in it.
    pub series: String,
    /// Restore point.
    pub point: String,
    /// Disk of the VM.
    pub disk: u32,
    /// Where it goes.
    pub target: PathBuf,
    /// Leave what is damaged as zeros, instead of giving up.
    #[serde(default)]
    pub skip_bad: bool,
}

/// Disks of a VM to put back in place. The VM's disks are named as they are when the plan is made; nothing can change them
/// until it is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreVmPlan {
    /// The backup. It is not the job's subject: what looks at it or shortens it goes on meanwhile.
    pub image_id: i64,
    /// Backup datastore.
    pub datastore_id: i64,
    /// Series in it.
    pub series: String,
    /// Restore point.
    pub point: String,
    /// The disks that are put back.
    pub disks: Vec<BackupPlanDisk>,
    /// Disks of the restore point that the VM does not have any more.
    pub left_out: Vec<i64>,
}

impl RestoreVmPlan {
    /// The file that takes the place of a disk: beside it, so that one rename does it.
    #[must_use]
    pub fn new_file(disk: &Path, job_id: i64) -> PathBuf {
        beside(disk, &format!(".new-{job_id}"))
    }
}

/// Restore points to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyPlan {
    /// Backup datastore.
    pub datastore_id: i64,
    /// Series in it.
    pub series: String,
    /// Increments, by id.
    pub increments: Vec<i64>,
    /// Every byte, instead of structure and presence.
    pub deep: bool,
}

/// Restore points of a datastore, the job's, to be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportBackupsPlan {}

/// Data to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletePlan {
    /// A disk image's file.
    File(PathBuf),
    /// Restore points of a backup.
    Points {
        /// Backup datastore.
        datastore_id: i64,
        /// Series in it.
        series: String,
        /// The points.
        points: Vec<String>,
        /// Remove the record whatever the datastore says.
        force: bool,
    },
    /// Nothing but the record.
    Record,
}

/// Restore points to forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainPlan {
    /// Backup datastore.
    pub datastore_id: i64,
    /// Series in it.
    pub series: String,
    /// Increments that go, by id: any of the chain but its newest while the VM goes on with it.
    pub drop: Vec<i64>,
    /// Restore points of those that go.
    pub points: Vec<String>,
}

/// What a job is about; the ids that it is found by.
#[derive(Debug, Clone, Copy, Default)]
pub struct JobSubject {
    /// VM.
    pub vm_id: Option<i64>,
    /// Image.
    pub image_id: Option<i64>,
    /// Datastore.
    pub datastore_id: Option<i64>,
    /// Host.
    pub host_id: Option<i64>,
    /// Who asked; −1 the daemon.
    pub uid: i64,
}

impl JobSubject {
    /// A VM on its host.
    #[must_use]
    pub fn vm(row: &VmRow, uid: i64) -> Self {
        Self { vm_id: Some(row.id), host_id: row.host_id, uid, ..Self::default() }
    }

    /// An image and its datastore.
    #[must_use]
    pub fn image(image_id: i64, datastore_id: i64, uid: i64) -> Self {
        Self { image_id: Some(image_id), datastore_id: Some(datastore_id), uid, ..Self::default() }
    }
}

/// Writes a job's intent under an id that was drawn for it.
///
/// # Errors
/// The database's failure, or a plan that cannot be written down.
pub fn insert<P: Serialize>(
    tx: &mut Tx<'_>,
    id: i64,
    kind: JobKind,
    subject: JobSubject,
    plan: &P,
    now: i64,
) -> Result<(), StoreError> {
    let plan = serde_json::to_string(plan)
        .map_err(|e| StoreError::Broken { doing: "writing a job's plan", reason: e.to_string() })?;
    tx.job_insert(&JobRow {
        id,
        kind: kind.as_str().into(),
        phase: "planned".into(),
        vm_id: subject.vm_id,
        image_id: subject.image_id,
        datastore_id: subject.datastore_id,
        host_id: subject.host_id,
        uid: subject.uid,
        plan,
        result: String::new(),
        cancel: 0,
        attempts: 0,
        not_before: 0,
        error: String::new(),
        created_at: now,
        changed_at: now,
    })?;
    tx.job_note(id, now, "planned", "accepted")
}

/// Draws an id and writes the job's intent under it.
///
/// # Errors
/// The database's failure.
pub fn add<P: Serialize>(
    tx: &mut Tx<'_>,
    kind: JobKind,
    subject: JobSubject,
    plan: &P,
    now: i64,
) -> Result<i64, StoreError> {
    let id = tx.next_id("job")?;
    insert(tx, id, kind, subject, plan, now)?;
    Ok(id)
}

/// Writes the job that brings a VM out of the phase that it is in. False when the phase asks for none.
///
/// # Errors
/// The database's failure.
pub fn add_for_phase(
    tx: &mut Tx<'_>,
    row: &VmRow,
    phase: VmPhase,
    hard: bool,
    uid: i64,
    now: i64,
) -> Result<bool, StoreError> {
    let Some(kind) = JobKind::of_phase(phase) else { return Ok(false) };
    add(tx, kind, JobSubject::vm(row, uid), &StopPlan { hard }, now)?;
    Ok(true)
}

/// A job's plan as it was written.
///
/// # Errors
/// [`StoreError::Broken`] when the row does not hold that kind of plan.
pub fn plan<P: for<'a> Deserialize<'a>>(row: &JobRow) -> Result<P, StoreError> {
    serde_json::from_str(&row.plan)
        .map_err(|e| StoreError::Broken { doing: "reading a job's plan", reason: format!("job {}: {e}", row.id) })
}
