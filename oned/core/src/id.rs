//! Identifiers of the cloud's objects: one newtype per table, so that a VM id can never be passed for an image id.
//!
//! On the wire and in the database every id is a plain integer; −1 means "none" there and is an `Option` in ours.

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<i64> for $name {
            fn from(number: i64) -> Self {
                Self(number)
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )+};
}

ids! {
    /// A virtual machine.
    VmId
    /// A hypervisor host.
    HostId
    /// An image, backups included.
    ImageId
    /// A datastore.
    DatastoreId
    /// A stored virtual machine template.
    TemplateId
    /// A user; 0 is *oneadmin*.
    UserId
    /// A group; 0 is the administrators' group.
    GroupId
    /// A cluster of hosts and datastores.
    ClusterId
    /// A backup job.
    JobId
    /// A scheduled action.
    ScheduleId
}
