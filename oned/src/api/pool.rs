//! Filter flags and ranges of the pool calls (OpenNebula's XML-RPC API, `*pool.info`).

use one_core::access::{Caller, may_unlocked};
use one_core::refusal::{Refusal, Right};

use super::Owned;

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

    /// The rows that are asked for and may be seen; `rows` come by ascending id.
    pub fn select<R: Owned>(self, caller: &Caller, rows: Vec<R>) -> Vec<R> {
        let wanted = rows.into_iter().filter(|row| self.wants(caller, row));
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

    fn wants<R: Owned>(self, caller: &Caller, row: &R) -> bool {
        let object = row.object();
        if may_unlocked(caller, Right::Use, &object).is_err() {
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
