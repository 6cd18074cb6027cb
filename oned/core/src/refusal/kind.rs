//! What calls are about, and what they want to do to it, by the words in sentences and access rules.

/// Kinds of objects that calls are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Virtual machine.
    Vm,
    /// Hypervisor host.
    Host,
    /// Virtual network.
    Network,
    /// Image, backups included.
    Image,
    /// User.
    User,
    /// Stored VM template.
    Template,
    /// Group of users.
    Group,
    /// Access rule.
    Acl,
    /// Datastore.
    Datastore,
    /// Cluster.
    Cluster,
    /// Document of a client.
    Document,
    /// Zone.
    Zone,
    /// Security group.
    SecurityGroup,
    /// Virtual data centre.
    Vdc,
    /// Virtual router.
    VirtualRouter,
    /// Marketplace.
    Marketplace,
    /// Marketplace app.
    MarketplaceApp,
    /// VM group.
    VmGroup,
    /// Virtual network template.
    NetworkTemplate,
    /// Hook.
    Hook,
    /// Backup job.
    BackupJob,
    /// Scheduled action.
    Schedule,
}

impl ObjectKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 22] = [
        Self::Vm,
        Self::Host,
        Self::Network,
        Self::Image,
        Self::User,
        Self::Template,
        Self::Group,
        Self::Acl,
        Self::Datastore,
        Self::Cluster,
        Self::Document,
        Self::Zone,
        Self::SecurityGroup,
        Self::Vdc,
        Self::VirtualRouter,
        Self::Marketplace,
        Self::MarketplaceApp,
        Self::VmGroup,
        Self::NetworkTemplate,
        Self::Hook,
        Self::BackupJob,
        Self::Schedule,
    ];

    /// The name in sentences: "virtual machine".
    pub fn text(self) -> &'static str {
        match self {
            Self::Vm => "virtual machine",
            Self::Host => "host",
            Self::Network => "virtual network",
            Self::Image => "image",
            Self::User => "user",
            Self::Template => "virtual machine template",
            Self::Group => "group",
            Self::Acl => "ACL",
            Self::Datastore => "datastore",
            Self::Cluster => "cluster",
            Self::Document => "document",
            Self::Zone => "zone",
            Self::SecurityGroup => "security group",
            Self::Vdc => "VDC",
            Self::VirtualRouter => "virtual router",
            Self::Marketplace => "marketplace",
            Self::MarketplaceApp => "marketplace app",
            Self::VmGroup => "VM group",
            Self::NetworkTemplate => "virtual network template",
            Self::Hook => "hook",
            Self::BackupJob => "backup job",
            Self::Schedule => "scheduled action",
        }
    }

    /// The name in access rules and in sentences about rights: "VM".
    pub fn acl_name(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::Host => "HOST",
            Self::Network => "NET",
            Self::Image => "IMAGE",
            Self::User => "USER",
            Self::Template => "TEMPLATE",
            Self::Group => "GROUP",
            Self::Acl => "ACL",
            Self::Datastore => "DATASTORE",
            Self::Cluster => "CLUSTER",
            Self::Document => "DOCUMENT",
            Self::Zone => "ZONE",
            Self::SecurityGroup => "SECGROUP",
            Self::Vdc => "VDC",
            Self::VirtualRouter => "VROUTER",
            Self::Marketplace => "MARKETPLACE",
            Self::MarketplaceApp => "MARKETPLACEAPP",
            Self::VmGroup => "VMGROUP",
            Self::NetworkTemplate => "VNTEMPLATE",
            Self::Hook => "HOOK",
            Self::BackupJob => "BACKUPJOB",
            Self::Schedule => "SCHED_ACTION",
        }
    }
}

/// What a call wants to do to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Look at it, build upon it.
    Use,
    /// Change it.
    Manage,
    /// What only its administrators may.
    Admin,
    /// Make a new one of its kind.
    Create,
}

impl Right {
    /// The name in sentences and access rules.
    pub fn name(self) -> &'static str {
        match self {
            Self::Use => "USE",
            Self::Manage => "MANAGE",
            Self::Admin => "ADMIN",
            Self::Create => "CREATE",
        }
    }

    /// The bit in access rules.
    pub fn bit(self) -> i64 {
        match self {
            Self::Use => 1,
            Self::Manage => 2,
            Self::Admin => 4,
            Self::Create => 8,
        }
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
