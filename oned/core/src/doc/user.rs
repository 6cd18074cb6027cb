//! `USER`, `GROUP`, their pools and quotas (`one.user.info`, `one.userpool.info`, `one.group.info`,
//! `one.grouppool.info`, `one.userquota.info`, `one.groupquota.info`).

use super::writer::Writer;
use crate::template::Template;

/// What a user document shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserView {
    /// User id.
    pub id: i64,
    /// Primary group id.
    pub gid: i64,
    /// All groups; the primary one is added when absent.
    pub groups: Vec<i64>,
    /// Name of the primary group.
    pub gname: String,
    /// Name.
    pub name: String,
    /// Password hash, already emptied for readers who may not see it.
    pub password: String,
    /// Authentication driver, `core`.
    pub auth_driver: String,
    /// May log in?
    pub enabled: bool,
    /// Login tokens, already emptied for readers who may not see them.
    pub login_tokens: Vec<LoginTokenView>,
    /// Attributes.
    pub template: Template,
    /// Limits and use of this user.
    pub quotas: QuotasView,
    /// Limits for users without their own (info only; a pool shows them once at its end).
    pub default_quotas: QuotasView,
}

/// A login token (`LOGIN_TOKEN`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginTokenView {
    /// The token.
    pub token: String,
    /// End, epoch seconds, −1 never.
    pub expiration_time: i64,
    /// Group that it acts for, −1 none.
    pub egid: i64,
}

/// What a group document shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupView {
    /// Group id.
    pub id: i64,
    /// Name.
    pub name: String,
    /// Attributes.
    pub template: Template,
    /// Members.
    pub users: Vec<i64>,
    /// Members who administer it.
    pub admins: Vec<i64>,
    /// Limits and use of this group.
    pub quotas: QuotasView,
    /// Limits for groups without their own.
    pub default_quotas: QuotasView,
}

/// The four quota lists. An absent entry means that nothing is counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotasView {
    /// Per datastore.
    pub datastores: Vec<DatastoreQuotaView>,
    /// Per network.
    pub networks: Vec<NetworkQuotaView>,
    /// VMs. The defaults show at most one, without its clusters.
    pub vms: Vec<VmQuotaView>,
    /// Per image.
    pub images: Vec<ImageQuotaView>,
}

/// A limit and what is used of it. Limit −1: the default, −2: unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The limit.
    pub limit: i64,
    /// In use.
    pub used: i64,
}

impl Default for Count {
    fn default() -> Self {
        Self { limit: -1, used: 0 }
    }
}

/// Like [`Count`], for processors, which come in fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The limit.
    pub limit: f64,
    /// In use.
    pub used: f64,
}

impl Default for Share {
    fn default() -> Self {
        Self { limit: -1.0, used: 0.0 }
    }
}

/// Quota in one datastore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatastoreQuotaView {
    /// Datastore id.
    pub id: i64,
    /// Number of images.
    pub images: Count,
    /// MB.
    pub size_mb: Count,
}

/// Quota in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkQuotaView {
    /// Network id.
    pub id: i64,
    /// Addresses.
    pub leases: Count,
}

/// Quota of running VMs of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageQuotaView {
    /// Image id.
    pub id: i64,
    /// Running VMs that use it.
    pub rvms: Count,
}

/// Quota of VMs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmQuotaView {
    /// Clusters that it holds for, `1,2`; empty for all.
    pub cluster_ids: String,
    /// Processors.
    pub cpu: Share,
    /// Memory, MB.
    pub memory_mb: Count,
    /// PCI devices.
    pub pci_dev: Count,
    /// PCI network devices.
    pub pci_nic: Count,
    /// Processors of running VMs.
    pub running_cpu: Share,
    /// Memory of running VMs, MB.
    pub running_memory_mb: Count,
    /// PCI devices of running VMs.
    pub running_pci_dev: Count,
    /// PCI network devices of running VMs.
    pub running_pci_nic: Count,
    /// Running VMs.
    pub running_vms: Count,
    /// Disks in system datastores, MB.
    pub system_disk_size_mb: Count,
    /// VMs.
    pub vms: Count,
}

/// The document with quotas (`one.user.info`).
pub fn user(view: &UserView) -> String {
    let mut w = Writer::new();
    w.open("USER");
    user_fields(&mut w, view);
    quotas(&mut w, &view.quotas, true);
    write_defaults(&mut w, USER_DEFAULTS, &view.default_quotas);
    w.close("USER");
    w.finish()
}

/// The document with quotas (`one.group.info`).
pub fn group(view: &GroupView) -> String {
    let mut w = Writer::new();
    w.open("GROUP");
    group_fields(&mut w, view);
    quotas(&mut w, &view.quotas, true);
    vlan_rules(&mut w, view.id);
    write_defaults(&mut w, GROUP_DEFAULTS, &view.default_quotas);
    w.close("GROUP");
    w.finish()
}

const USER_DEFAULTS: &str = "DEFAULT_USER_QUOTAS";
const GROUP_DEFAULTS: &str = "DEFAULT_GROUP_QUOTAS";

/// `DEFAULT_USER_QUOTAS` (`one.userquota.info` and `update`).
pub fn default_user_quotas(view: &QuotasView) -> String {
    let mut w = Writer::new();
    write_defaults(&mut w, USER_DEFAULTS, view);
    w.finish()
}

/// `DEFAULT_GROUP_QUOTAS` (`one.groupquota.info` and `update`).
pub fn default_group_quotas(view: &QuotasView) -> String {
    let mut w = Writer::new();
    write_defaults(&mut w, GROUP_DEFAULTS, view);
    w.finish()
}

/// USER_POOL, written user by user: each followed by his quotas, the defaults once at the end.
#[derive(Debug)]
pub struct UserPool {
    w: Writer,
}

impl UserPool {
    /// A pool without users so far.
    pub fn begin() -> Self {
        let mut w = Writer::new();
        w.open("USER_POOL");
        Self { w }
    }

    /// Adds a user; the view's default quotas are not shown.
    pub fn push(&mut self, view: &UserView) {
        self.w.open("USER");
        user_fields(&mut self.w, view);
        self.w.close("USER");
        pool_quotas(&mut self.w, view.id, &view.quotas);
    }

    /// The finished document.
    pub fn finish(mut self, defaults: &QuotasView) -> String {
        write_defaults(&mut self.w, USER_DEFAULTS, defaults);
        self.w.close("USER_POOL");
        self.w.finish()
    }
}

/// GROUP_POOL, written group by group: each followed by its quotas and network rules, the defaults once at the end.
#[derive(Debug)]
pub struct GroupPool {
    w: Writer,
}

impl GroupPool {
    /// A pool without groups so far.
    pub fn begin() -> Self {
        let mut w = Writer::new();
        w.open("GROUP_POOL");
        Self { w }
    }

    /// Adds a group; the view's default quotas are not shown.
    pub fn push(&mut self, view: &GroupView) {
        self.w.open("GROUP");
        group_fields(&mut self.w, view);
        self.w.close("GROUP");
        pool_quotas(&mut self.w, view.id, &view.quotas);
        vlan_rules(&mut self.w, view.id);
    }

    /// The finished document.
    pub fn finish(mut self, defaults: &QuotasView) -> String {
        write_defaults(&mut self.w, GROUP_DEFAULTS, defaults);
        self.w.close("GROUP_POOL");
        self.w.finish()
    }
}

/// USER_POOL of users that are all there already.
pub fn user_pool<'a>(users: impl Iterator<Item = &'a UserView>, defaults: &QuotasView) -> String {
    let mut pool = UserPool::begin();
    users.for_each(|view| pool.push(view));
    pool.finish(defaults)
}

/// GROUP_POOL of groups that are all there already.
pub fn group_pool<'a>(groups: impl Iterator<Item = &'a GroupView>, defaults: &QuotasView) -> String {
    let mut pool = GroupPool::begin();
    groups.for_each(|view| pool.push(view));
    pool.finish(defaults)
}

fn user_fields(w: &mut Writer, view: &UserView) {
    let mut groups = view.groups.clone();
    groups.push(view.gid);
    w.number("ID", view.id);
    w.number("GID", view.gid);
    w.ids("GROUPS", &groups);
    w.text("GNAME", &view.gname);
    w.text("NAME", &view.name);
    w.text("PASSWORD", &view.password);
    w.text("AUTH_DRIVER", &view.auth_driver);
    w.flag("ENABLED", view.enabled);
    for token in &view.login_tokens {
        w.open("LOGIN_TOKEN");
        w.text("TOKEN", &token.token);
        w.number("EXPIRATION_TIME", token.expiration_time);
        w.number("EGID", token.egid);
        w.close("LOGIN_TOKEN");
    }
    w.template("TEMPLATE", &view.template);
}

fn group_fields(w: &mut Writer, view: &GroupView) {
    w.number("ID", view.id);
    w.text("NAME", &view.name);
    w.template("TEMPLATE", &view.template);
    w.ids("USERS", &view.users);
    w.ids("ADMINS", &view.admins);
}

/// The schema of 7.4 demands this element; rules for a group's networks do not exist here.
fn vlan_rules(w: &mut Writer, group: i64) {
    w.open("VLAN_RULES");
    w.number("ID", group);
    w.close("VLAN_RULES");
}

fn pool_quotas(w: &mut Writer, id: i64, view: &QuotasView) {
    w.open("QUOTAS");
    w.number("ID", id);
    quotas(w, view, true);
    w.close("QUOTAS");
}

fn write_defaults(w: &mut Writer, name: &str, view: &QuotasView) {
    w.open(name);
    quotas(w, view, false);
    w.close(name);
}

/// The four lists. Defaults (`per_cluster` false) have at most one VM entry and no CLUSTER_IDS in it.
fn quotas(w: &mut Writer, view: &QuotasView, per_cluster: bool) {
    w.open("DATASTORE_QUOTA");
    for quota in &view.datastores {
        w.open("DATASTORE");
        w.number("ID", quota.id);
        count(w, ["IMAGES", "IMAGES_USED"], quota.images);
        count(w, ["SIZE", "SIZE_USED"], quota.size_mb);
        w.close("DATASTORE");
    }
    w.close("DATASTORE_QUOTA");
    w.open("NETWORK_QUOTA");
    for quota in &view.networks {
        w.open("NETWORK");
        w.number("ID", quota.id);
        count(w, ["LEASES", "LEASES_USED"], quota.leases);
        w.close("NETWORK");
    }
    w.close("NETWORK_QUOTA");
    w.open("VM_QUOTA");
    let shown = if per_cluster { view.vms.len() } else { 1 };
    for quota in view.vms.iter().take(shown) {
        vm_quota(w, quota, per_cluster);
    }
    w.close("VM_QUOTA");
    w.open("IMAGE_QUOTA");
    for quota in &view.images {
        w.open("IMAGE");
        w.number("ID", quota.id);
        count(w, ["RVMS", "RVMS_USED"], quota.rvms);
        w.close("IMAGE");
    }
    w.close("IMAGE_QUOTA");
}

fn vm_quota(w: &mut Writer, quota: &VmQuotaView, per_cluster: bool) {
    w.open("VM");
    if per_cluster && !quota.cluster_ids.is_empty() {
        w.text("CLUSTER_IDS", &quota.cluster_ids);
    }
    share(w, ["CPU", "CPU_USED"], quota.cpu);
    count(w, ["MEMORY", "MEMORY_USED"], quota.memory_mb);
    count(w, ["PCI_DEV", "PCI_DEV_USED"], quota.pci_dev);
    count(w, ["PCI_NIC", "PCI_NIC_USED"], quota.pci_nic);
    share(w, ["RUNNING_CPU", "RUNNING_CPU_USED"], quota.running_cpu);
    count(w, ["RUNNING_MEMORY", "RUNNING_MEMORY_USED"], quota.running_memory_mb);
    count(w, ["RUNNING_PCI_DEV", "RUNNING_PCI_DEV_USED"], quota.running_pci_dev);
    count(w, ["RUNNING_PCI_NIC", "RUNNING_PCI_NIC_USED"], quota.running_pci_nic);
    count(w, ["RUNNING_VMS", "RUNNING_VMS_USED"], quota.running_vms);
    count(w, ["SYSTEM_DISK_SIZE", "SYSTEM_DISK_SIZE_USED"], quota.system_disk_size_mb);
    count(w, ["VMS", "VMS_USED"], quota.vms);
    w.close("VM");
}

fn count(w: &mut Writer, [limit, used]: [&str; 2], count: Count) {
    w.number(limit, count.limit);
    w.number(used, count.used);
}

fn share(w: &mut Writer, [limit, used]: [&str; 2], share: Share) {
    w.decimal(limit, share.limit);
    w.decimal(used, share.used);
}
