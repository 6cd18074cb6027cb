//! Disks that the child reads through the parent, because their bytes do not come from a socket.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::operation::spawn;
use super::remote::{MAX_BATCH_BYTES, MAX_BATCH_RANGES, MAX_BATCHES};
use super::wire::{self, Fault, Frame, MAX_BODY_BYTES, MAX_TO_CHILD_BYTES, ToChild};
use crate::{DiskReader, DriverError, Kind, MAX_READ_BYTES, Result};

/// A reader with a thread of its own, which ends when this is dropped and what it reads has come.
pub(super) struct Served {
    pub(super) number: u32,
    size_bytes: u64,
    asks: Sender<Ask>,
    /// Batches under way.
    batches: Arc<AtomicUsize>,
}

/// A question that was passed on, or what is wrong with it.
pub(super) type Asked = std::result::Result<(), &'static str>;

enum Ask {
    Extents,
    Ranges(Vec<(u64, u32)>),
}

impl Served {
    /// Answers go to `out`.
    pub(super) fn start(number: u32, reader: Box<dyn DiskReader>, out: Sender<Frame>, doing: &str) -> Result<Self> {
        let (asks, asked) = channel();
        let batches = Arc::new(AtomicUsize::new(0));
        let this = Self { number, size_bytes: reader.size_bytes(), asks, batches: Arc::clone(&batches) };
        spawn("datastore-read", doing, move || answer_all(number, reader, &asked, &out, &batches))?;
        Ok(this)
    }

    /// Lists the extents.
    pub(super) fn ask_extents(&self) -> Asked {
        self.put(Ask::Extents)
    }

    /// Reads ranges, unless nobody sane would ask for them.
    pub(super) fn ask(&self, ranges: Vec<(u64, u32)>) -> Asked {
        let fits = |(offset, length): &(u64, u32)| {
            let end = offset.checked_add((*length).into());
            (1..=MAX_READ_BYTES).contains(length) && end.is_some_and(|end| end <= self.size_bytes)
        };
        let bytes: u64 = ranges.iter().map(|range| u64::from(range.1)).sum();
        if ranges.len() > MAX_BATCH_RANGES || bytes > MAX_BATCH_BYTES || !ranges.iter().all(fits) {
            return Err("it asks for what is not on the disk, or too much");
        }
        self.put(Ask::Ranges(ranges))
    }

    fn put(&self, ask: Ask) -> Asked {
        if self.batches.fetch_add(1, Ordering::AcqRel) >= MAX_BATCHES {
            return Err("it asks for too much at once");
        }
        self.asks.send(ask).map_err(|_| "it asks for a disk whose reader is gone")
    }
}

fn answer_all(
    number: u32,
    mut reader: Box<dyn DiskReader>,
    asked: &Receiver<Ask>,
    out: &Sender<Frame>,
    batches: &AtomicUsize,
) {
    for ask in asked {
        // A reader that dies of a programming error must not leave the process waiting.
        let answered = catch_unwind(AssertUnwindSafe(|| answer(number, reader.as_mut(), &ask, out)));
        let died = |_| Err(DriverError::new(Kind::Permanent, "reading a disk", "its reader died; see the log"));
        let (fault, tail) = match answered.unwrap_or_else(died) {
            Ok(tail) => (None, tail),
            Err(error) => (Some(Fault::from(&error)), Vec::new()),
        };
        let answer = match ask {
            Ask::Extents => ToChild::Extents(number, fault),
            Ask::Ranges(_) => ToChild::ReadEnd(number, fault),
        };
        batches.fetch_sub(1, Ordering::AcqRel);
        let Ok(frames) = wire::message(&answer, &tail, MAX_TO_CHILD_BYTES) else { return };
        for frame in frames {
            if out.send(frame).is_err() {
                return;
            }
        }
    }
}

/// Sends what was read; gives extents as bytes.
fn answer(number: u32, reader: &mut dyn DiskReader, ask: &Ask, out: &Sender<Frame>) -> Result<Vec<u8>> {
    let Ask::Ranges(ranges) = ask else {
        return reader.extents().map(|extents| wire::extents_to_bytes(&extents));
    };
    let read = reader.read(&mut ranges.iter().copied(), &mut |offset, bytes| {
        let wrong = |reason: &str| Err(DriverError::new(Kind::Permanent, "reading a disk", reason));
        if bytes.is_empty() || bytes.len() > MAX_BODY_BYTES {
            return wrong("the source gave what was not asked for");
        }
        out.send(Frame::bulk(number, offset, bytes)).or_else(|_| wrong("nobody wants the bytes any more"))
    });
    read.map(|()| Vec::new())
}
