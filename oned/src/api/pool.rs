//! Filter flags and ranges of the pool calls (OpenNebula's XML-RPC API, `*pool.info`).

use std::ops::ControlFlow;

use one_core::access::{Caller, Object, Permissions, may_unlocked};
use one_core::refusal::{ObjectKind, Refusal, Right};

use super::Owned;
use crate::store::{Head, See, StoreError};

/// Objects whose rows are in memory at a time while a pool is written.
pub const BATCH: usize = 200;

/// What is checked of an object of a kind that has no clusters; locks do not matter for looking.
fn object(kind: ObjectKind, head: Head) -> Object {
    Object {
        kind,
        id: head.id,
        uid: head.uid,
        gid: head.gid,
        permissions: Permissions::from_i64(head.permissions),
        lock: None,
        clusters: Vec::new(),
    }
}

/// Which objects a caller wants, checked.
#[derive(Debug, Clone, Copy)]
pub struct PoolFilter {
    flag: i64,
    start: i64,
    end: i64,
}

impl PoolFilter {
    /// From the three numbers of the call: filter flag (−4 primary group, −3 mine, −2 all I may see, −1 mine and my
    /// groups', ≥ 0 that user's), start and end (ids, −1 open; or end < −1: page of −end objects from `start` on).
    ///
    /// # Errors
    /// [`Refusal::FilterFlag`] below −4.
    pub fn new(flag: i64, start: i64, end: i64) -> Result<Self, Refusal> {
        if flag < -4 { Err(Refusal::FilterFlag) } else { Ok(Self { flag, start, end }) }
    }

    /// The ids of the objects of a pool that are asked for and may be seen, ascending. `read` shows heads by ascending id,
    /// at least those from its first to its second number (none: open), and stops when it is told to.
    ///
    /// # Errors
    /// The database's failure.
    pub fn ids(
        self,
        caller: &Caller,
        kind: ObjectKind,
        read: impl FnOnce(Option<i64>, Option<i64>, &mut See<'_>) -> Result<(), StoreError>,
    ) -> Result<Vec<i64>, StoreError> {
        let is_page = self.end < -1;
        let mut skip = if is_page { self.start.max(0) } else { 0 };
        let most = if is_page { usize::try_from(self.end.saturating_neg()).unwrap_or(usize::MAX) } else { usize::MAX };
        let bound = |id: i64| (!is_page && id >= 0).then_some(id);
        let mut ids = Vec::new();
        read(bound(self.start), bound(self.end), &mut |head| {
            if !self.wants(caller, &object(kind, head)) {
                return ControlFlow::Continue(());
            }
            if skip > 0 {
                skip -= 1;
                return ControlFlow::Continue(());
            }
            ids.push(head.id);
            if ids.len() >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(ids)
    }

    /// The rows that are asked for and may be seen; `rows` come by ascending id.
    pub fn select<R: Owned>(self, caller: &Caller, rows: Vec<R>) -> Vec<R> {
        let wanted = rows.into_iter().filter(|row| self.wants(caller, &row.object()));
        if self.end < -1 {
            let skip = usize::try_from(self.start.max(0)).unwrap_or(usize::MAX);
            let take = usize::try_from(self.end.saturating_neg()).unwrap_or(usize::MAX);
            return wanted.skip(skip).take(take).collect();
        }
        let (start, end) = (self.start, self.end);
        wanted
            .filter(|row| {
                let id = row.object().id;
                (start < 0 || id >= start) && (end < 0 || id <= end)
            })
            .collect()
    }

    fn wants(self, caller: &Caller, object: &Object) -> bool {
        if may_unlocked(caller, Right::Use, object).is_err() {
            return false;
        }
        match self.flag {
            -4 => object.gid == caller.gid,
            -3 => object.uid == caller.uid,
            -2 => true,
            -1 => object.uid == caller.uid || caller.is_member(object.gid),
            uid => object.uid == uid,
        }
    }
}
