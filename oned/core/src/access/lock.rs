//! Locks on objects: what even their owners and administrators may not do to them until they are unlocked.

use serde::{Deserialize, Serialize};

use crate::refusal::{Refusal, Right};

/// What a lock forbids (OpenNebula, `one.*.lock`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockLevel {
    /// 1: USE, MANAGE and ADMIN.
    Use,
    /// 2: MANAGE and ADMIN.
    Manage,
    /// 3: ADMIN.
    Admin,
}

impl LockLevel {
    /// From the number of the call; 4 (all) is the same as 1.
    ///
    /// # Errors
    /// [`Refusal::Action`] for any other number.
    pub fn from_number(number: i64) -> Result<Self, Refusal> {
        match number {
            1 | 4 => Ok(Self::Use),
            2 => Ok(Self::Manage),
            3 => Ok(Self::Admin),
            _ => Err(Refusal::Action("Wrong lock level specified".to_owned())),
        }
    }

    /// The number in documents.
    pub fn number(self) -> i32 {
        match self {
            Self::Use => 1,
            Self::Manage => 2,
            Self::Admin => 3,
        }
    }

    /// Whether an operation that needs `right` has to wait for the unlocking.
    pub fn blocks(self, right: Right) -> bool {
        match right {
            Right::Use => self == Self::Use,
            Right::Manage => matches!(self, Self::Use | Self::Manage),
            Right::Admin => true,
            Right::Create => false,
        }
    }
}

/// A lock and who set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// What it forbids.
    pub level: LockLevel,
    /// Who locked.
    pub owner: i64,
    /// When, epoch seconds.
    pub time: i64,
    /// The request that locked; −1 unknown.
    pub request_id: i64,
}
