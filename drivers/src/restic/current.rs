//! The disk that a restore may take equal chunks from, so that only what differs is fetched.

use std::collections::HashMap;

use super::fetch::{Job, Wanted};
use crate::{Content, DiskReader, MAX_READ_BYTES, Result};

/// Chunks are compared in ranges up to this length, if they are not longer themselves.
const RANGE_BYTES: u32 = 2 << 20;

/// A current disk.
pub(super) struct CurrentDisk {
    reader: Box<dyn DiskReader>,
    size: u64,
    /// Where it is known to be zero: first byte and end, ascending.
    zeros: Vec<(u64, u64)>,
}

impl CurrentDisk {
    /// Asks `reader` where it has holes. A disk that does not answer helps nobody: `None`.
    pub(super) fn new(mut reader: Box<dyn DiskReader>) -> Option<Self> {
        let size = reader.size_bytes();
        let extents = match reader.extents() {
            Ok(extents) => extents,
            Err(error) => {
                tracing::warn!(%error, "the current disk cannot be read; everything comes from the datastore");
                return None;
            }
        };
        let zeros: Vec<(u64, u64)> = extents
            .iter()
            .filter(|extent| extent.content == Content::Zero)
            .map(|extent| (extent.offset, extent.offset.saturating_add(extent.length)))
            .collect();
        // Out of order they tell nothing: all of it is read then.
        let zeros = if zeros.is_sorted() { zeros } else { Vec::new() };
        Some(Self { reader, size, zeros })
    }

    /// Whether `chunk`, which is not zero, may be the same here.
    fn may_hold(&self, chunk: &Wanted) -> bool {
        let end = chunk.offset.saturating_add(chunk.length.into());
        let at = self.zeros.partition_point(|(start, _)| *start <= chunk.offset);
        let is_zero = at.checked_sub(1).is_some_and(|at| self.zeros[at].1 >= end);
        end <= self.size && chunk.length <= MAX_READ_BYTES && !is_zero
    }

    /// Reads what `window` (ascending on the disk) wants and hands it to `send`; gives the chunks that it cannot hold, and
    /// whether it can still be read.
    ///
    /// # Errors
    /// Those of `send`.
    pub(super) fn read(
        &mut self,
        window: Vec<Wanted>,
        send: &mut dyn FnMut(Job) -> Result<()>,
    ) -> Result<(Vec<Wanted>, bool)> {
        let (here, mut elsewhere): (Vec<_>, Vec<_>) = window.into_iter().partition(|chunk| self.may_hold(chunk));
        let mut ranges: Vec<(u64, u32)> = Vec::new();
        let mut open: HashMap<u64, Vec<Wanted>> = HashMap::new();
        for chunk in here {
            match ranges.last_mut() {
                Some((start, length))
                    if *start + u64::from(*length) == chunk.offset && *length + chunk.length <= RANGE_BYTES =>
                {
                    *length += chunk.length;
                    open.entry(*start).or_default().push(chunk);
                }
                _ => {
                    ranges.push((chunk.offset, chunk.length));
                    open.insert(chunk.offset, vec![chunk]);
                }
            }
        }
        if ranges.is_empty() {
            return Ok((elsewhere, true));
        }
        let mut failed = None;
        let read = self.reader.read(&mut ranges.into_iter(), &mut |offset, bytes| {
            // A range that was not asked for is nobody's.
            let Some(wanted) = open.remove(&offset) else { return Ok(()) };
            send(Job::Compare { offset, bytes, wanted }).map_err(|error| {
                let again = crate::DriverError::new(error.kind, error.doing.clone(), error.reason.clone());
                failed = Some(error);
                again
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        if let Err(error) = &read {
            tracing::warn!(%error, "the current disk cannot be read; the rest comes from the datastore");
        }
        elsewhere.extend(open.into_values().flatten());
        Ok((elsewhere, read.is_ok()))
    }
}
