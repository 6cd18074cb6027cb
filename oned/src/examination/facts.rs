//! What was seen, as values: nothing here says what is good.

use std::net::IpAddr;

/// One fact, of one kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The state directory.
    Place(PlaceFacts),
    /// The database's own check: what it found wrong, or why it could not be made.
    Database(Result<DatabaseFacts, String>),
    /// The machine's clock.
    Clock(ClockFacts),
    /// Where clients reach the daemon.
    Door {
        /// As clients write it.
        endpoint: String,
        /// The address that it listens on.
        listen: IpAddr,
        /// Whether TLS is spoken.
        tls: bool,
    },
    /// The loop of scheduler and engine, and what should have run.
    Rounds(RoundFacts),
    /// Operations that have not ended.
    Jobs(Vec<JobFacts>),
    /// How many hosts there are.
    Hosts(usize),
    /// One host.
    Host(HostFacts),
    /// As whom libvirt's QEMU works.
    Qemu(QemuFacts),
    /// A datastore of images, VMs or files.
    Directory(DirectoryFacts),
    /// A backup datastore.
    Backups(BackupsFacts),
    /// Where running guests' scratch files lie.
    Scratch {
        /// The directory.
        path: String,
        /// Its file system.
        space: Result<Space, String>,
        /// SCRATCH_RESERVE_MB.
        reserve_mb: u64,
    },
    /// How backups fare, of each VM that is to be backed up.
    Vms(Vec<VmFacts>),
    /// No answer in time.
    Late {
        /// As in a finding.
        name: &'static str,
        /// As in a finding.
        subject: String,
        /// How long was waited, seconds.
        seconds: u64,
    },
    /// The daemon's own records could not be read.
    Unread(String),
}

/// A file system, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free to the daemon.
    pub free: u64,
}

/// The state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceFacts {
    /// Its path.
    pub path: String,
    /// Itself, and what nobody else may read in it.
    pub entries: Vec<EntryFacts>,
    /// Its file system.
    pub space: Result<Space, String>,
}

/// A file or directory that is private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFacts {
    /// Its path.
    pub path: String,
    /// Is it a directory?
    pub is_directory: bool,
    /// Permission bits (0 to 0o7777) and whether it is the daemon's user's; none = it is not there.
    pub seen: Option<(u32, bool)>,
    /// Whether the daemon cannot do without it.
    pub is_needed: bool,
}

/// What SQLite says of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseFacts {
    /// Its quick check found nothing.
    Sound,
    /// Its quick check's first words.
    Damaged(String),
    /// So large (bytes) that the check would take long; it was not made.
    Large(u64),
}

/// The clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockFacts {
    /// Whether it is kept right by a server of time; none = nobody here can tell.
    pub synchronised: Option<bool>,
    /// Seconds by which it is behind the newest thing in the database; negative is as it should be.
    pub behind_s: i64,
}

/// The loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundFacts {
    /// Seconds since the last round was begun.
    pub since_s: Option<u64>,
    /// Scheduled actions that are due for more than five minutes.
    pub overdue: usize,
    /// Those that are due and were refused.
    pub refused: usize,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// Its number.
    pub id: i64,
    /// What it does and with what: `BACKUP of VM 7`.
    pub what: String,
    /// How often it was begun.
    pub attempts: i64,
    /// Why it did not end.
    pub error: String,
    /// Seconds since it last moved.
    pub still_s: i64,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// `kvm`, `qemu` or `dummy`.
    pub vm_mad: String,
    /// Whether it is this machine, as far as its address says.
    pub is_local: bool,
    /// Its hypervisor with versions, or why it does not answer; none = it is OFFLINE and was not asked.
    pub answer: Option<Result<String, String>>,
    /// Whether this machine has /dev/kvm.
    pub has_kvm: bool,
}

/// libvirt's configuration of QEMU, of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuFacts {
    /// The file.
    pub file: String,
    /// `user` in it; none = not set.
    pub user: Option<String>,
    /// `dynamic_ownership` in it; none = not set.
    pub dynamic_ownership: Option<String>,
    /// Id of the user that the daemon runs as.
    pub daemon_uid: u32,
    /// And its name, if it has one.
    pub daemon_name: String,
}

/// A directory of the daemon's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryFacts {
    /// Datastore id.
    pub id: i64,
    /// Datastore name.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// Whether files can be made in it.
    pub writable: Result<(), String>,
    /// Its file system.
    pub space: Result<Space, String>,
}

/// A backup datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupsFacts {
    /// Datastore id.
    pub id: i64,
    /// Datastore name.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// What is mounted there, if anything.
    pub share: Option<String>,
    /// Whether it could be opened and written to.
    pub writable: Result<(), String>,
    /// Whether the newest restore point that is known could be opened; none = none is known.
    pub newest: Option<Result<String, String>>,
    /// What it measured last; none = never.
    pub space: Option<Space>,
}

/// How the backups of a VM fare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFacts {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whether there was ever a good backup.
    pub had_backup: bool,
    /// Seconds since that, or since the VM was made.
    pub age_s: i64,
    /// Backups that failed since.
    pub failures: i64,
}
