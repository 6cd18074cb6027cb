//! Which right each operation on a VM needs: the three lists that sites, groups and users may set.
//!
//! VM_USE_OPERATIONS, VM_MANAGE_OPERATIONS and VM_ADMIN_OPERATIONS are lists of words. For one operation the first
//! level that names it decides: the user's lists, then the group's, then the daemon's, then the defaults. Within a level
//! the strictest list wins. This says which right is needed; [`crate::access`] says who has it.

use crate::refusal::{Refusal, Right};
use crate::template::Template;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $word:literal $right:ident,)+) => {
        /// A word of the operation lists. One word stands for several calls: `disk-attach` is detaching too.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum VmOperation {
            $($(#[$doc])* $variant,)+
        }

        impl VmOperation {
            /// Every operation: first those that need ADMIN by default, then MANAGE.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in the lists.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The right that it needs where nobody has said otherwise.
            pub fn default_right(self) -> Right {
                match self { $(Self::$variant => Right::$right,)+ }
            }
        }
    };
}

operations! {
    /// Every way of moving to another host.
    Migrate = "migrate" Admin,
    /// Recovery by deleting: for good, with a new beginning, or in the database only.
    Delete = "delete" Admin,
    /// Recovery by success or failure.
    Recover = "recover" Admin,
    /// Recovery by trying again.
    Retry = "retry" Admin,
    /// Deploying on a given host.
    Deploy = "deploy" Admin,
    /// Setting and taking away the flag for rescheduling.
    Resched = "resched" Admin,
    /// Starting and cancelling a backup.
    Backup = "backup" Admin,
    /// Putting disks back from a backup.
    Restore = "restore" Admin,
    /// Undeploying.
    Undeploy = "undeploy" Manage,
    /// Holding.
    Hold = "hold" Manage,
    /// Releasing.
    Release = "release" Manage,
    /// Stopping.
    Stop = "stop" Manage,
    /// Suspending.
    Suspend = "suspend" Manage,
    /// Resuming.
    Resume = "resume" Manage,
    /// Rebooting and resetting.
    Reboot = "reboot" Manage,
    /// Powering off.
    Poweroff = "poweroff" Manage,
    /// Attaching and detaching disks.
    DiskAttach = "disk-attach" Manage,
    /// Attaching, detaching and updating network interfaces and aliases.
    NicAttach = "nic-attach" Manage,
    /// All about snapshots of a disk.
    DiskSnapshot = "disk-snapshot" Manage,
    /// Terminating.
    Terminate = "terminate" Manage,
    /// Growing a disk.
    DiskResize = "disk-resize" Manage,
    /// All about snapshots of the VM.
    Snapshot = "snapshot" Manage,
    /// Changing the configuration.
    UpdateConf = "updateconf" Manage,
    /// Renaming.
    Rename = "rename" Manage,
    /// Changing processors and memory.
    Resize = "resize" Manage,
    /// Changing the user's part of the template.
    Update = "update" Manage,
    /// Copying a disk into an image.
    DiskSaveAs = "disk-saveas" Manage,
    /// Adding, changing and deleting scheduled actions.
    SchedAction = "sched-action" Manage,
    /// Attaching and detaching security groups.
    SgAttach = "sg-attach" Manage,
    /// Attaching and detaching PCI devices.
    PciAttach = "pci-attach" Manage,
    /// Running commands in the guest.
    Exec = "exec" Manage,
    /// Joining and leaving a VM group.
    VmGroup = "vmgroup" Manage,
}

impl VmOperation {
    /// The operation of a word, in any case of letters.
    ///
    /// # Errors
    /// [`Refusal::UnknownVmOperation`] naming the word.
    pub fn from_word(word: &str) -> Result<Self, Refusal> {
        let found = Self::ALL.iter().copied().find(|operation| operation.word().eq_ignore_ascii_case(word));
        found.ok_or_else(|| Refusal::UnknownVmOperation { word: word.to_owned() })
    }
}

impl std::fmt::Display for VmOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// The three lists of one level: of a user, of a group, or of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationLists {
    /// VM_ADMIN_OPERATIONS.
    pub admin: Vec<VmOperation>,
    /// VM_MANAGE_OPERATIONS.
    pub manage: Vec<VmOperation>,
    /// VM_USE_OPERATIONS.
    pub use_: Vec<VmOperation>,
}

impl OperationLists {
    /// The attributes of the three lists, ADMIN first.
    pub const ATTRIBUTES: [&'static str; 3] = ["VM_ADMIN_OPERATIONS", "VM_MANAGE_OPERATIONS", "VM_USE_OPERATIONS"];

    /// Reads three comma separated lists. Blanks around a word do not count, neither do empty places.
    ///
    /// # Errors
    /// [`Refusal::UnknownVmOperation`] naming the first word that is none.
    pub fn parse(admin: &str, manage: &str, use_: &str) -> Result<Self, Refusal> {
        Ok(Self { admin: words(admin)?, manage: words(manage)?, use_: words(use_)? })
    }

    /// Reads the lists of a user's or a group's template, or of the daemon's configuration; those left out are empty.
    ///
    /// # Errors
    /// [`Refusal::UnknownVmOperation`] naming the first word that is none.
    pub fn from_template(template: &Template) -> Result<Self, Refusal> {
        let [admin, manage, use_] = Self::ATTRIBUTES.map(|name| template.scalar(name).unwrap_or_default());
        Self::parse(admin, manage, use_)
    }

    /// As [`Self::from_template`], but words that are no operation are left out: for templates of users and groups, where a
    /// slip must not take the rest of the list away.
    pub fn known_in(template: &Template) -> Self {
        let [admin, manage, use_] = Self::ATTRIBUTES.map(|name| {
            let words = template.scalar(name).unwrap_or_default().split(',').map(str::trim);
            distinct(words.filter_map(|word| VmOperation::from_word(word).ok()))
        });
        Self { admin, manage, use_ }
    }

    /// The lists of a daemon that says this: every operation in one of them, as documents show them. What is not named
    /// here has its default.
    #[must_use]
    pub fn complete(&self) -> Self {
        let of = |right| {
            let needs = |operation: &VmOperation| self.right_for(*operation).unwrap_or(operation.default_right());
            VmOperation::ALL.iter().copied().filter(|operation| needs(operation) == right).collect()
        };
        Self { admin: of(Right::Admin), manage: of(Right::Manage), use_: of(Right::Use) }
    }

    /// The lists with the right that each asks for, in the order of [`Self::ATTRIBUTES`].
    pub fn by_right(&self) -> [(Right, &[VmOperation]); 3] {
        [(Right::Admin, &self.admin), (Right::Manage, &self.manage), (Right::Use, &self.use_)]
    }

    /// The right that these lists ask for, none when they do not name the operation.
    pub fn right_for(&self, operation: VmOperation) -> Option<Right> {
        self.by_right().into_iter().find(|(_, list)| list.contains(&operation)).map(|(right, _)| right)
    }
}

fn words(list: &str) -> Result<Vec<VmOperation>, Refusal> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let found: Result<Vec<_>, _> = words.map(VmOperation::from_word).collect();
    Ok(distinct(found?))
}

/// At most one entry per operation, however long the text is.
fn distinct(operations: impl IntoIterator<Item = VmOperation>) -> Vec<VmOperation> {
    let mut found = Vec::new();
    for operation in operations {
        if !found.contains(&operation) {
            found.push(operation);
        }
    }
    found
}

/// The rights that one caller's operations need: all levels together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmRights {
    levels: Vec<OperationLists>,
}

impl VmRights {
    /// From the lists of the user, of the user's groups (the primary one first) and of the daemon.
    pub fn new(user: OperationLists, groups: impl IntoIterator<Item = OperationLists>, daemon: OperationLists) -> Self {
        let levels = std::iter::once(user).chain(groups).chain(std::iter::once(daemon));
        Self { levels: levels.collect() }
    }

    /// The right that the caller needs on the VM.
    pub fn right_for(&self, operation: VmOperation) -> Right {
        let set = self.levels.iter().find_map(|lists| lists.right_for(operation));
        set.unwrap_or_else(|| operation.default_right())
    }
}
