//! What a driver in the child holds in place of things that are in the parent: readers, a target, a place to save.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::lock;
use super::wire::{self, Fault, Incoming, MAX_TO_PARENT_BYTES, Received, ToChild, ToParent};
use crate::{Cancel, DiskReader, DiskWriter, DriverError, Extent, Kind, Result};

/// Most ranges asked for in one message.
pub(super) const MAX_BATCH_RANGES: usize = 256;
/// Most bytes asked for in one message.
pub(super) const MAX_BATCH_BYTES: u64 = 32 << 20;
/// Most questions about one disk under way.
pub(super) const MAX_BATCHES: usize = 2;
/// A batch ends when it is this long.
const BATCH_BYTES: u64 = 8 << 20;
/// How often a wait looks at the cancel.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many threads wait for something that is not the datastore: the parent, a disk's server. Those waits have deadlines
/// of their own, so they count as signs of life.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Whether anybody waits.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::AcqRel);
        let result = work();
        self.0.fetch_sub(1, Ordering::AcqRel);
        result
    }

    fn except<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.fetch_sub(1, Ordering::AcqRel);
        let result = work();
        self.0.fetch_add(1, Ordering::AcqRel);
        result
    }
}

/// What the parent says about one disk.
enum Told {
    Extents(std::result::Result<Vec<Extent>, Fault>),
    Bytes(u64, Vec<u8>),
    ReadEnd(Option<Fault>),
}

/// The child's end of a call.
#[derive(Clone)]
pub(super) struct Parent {
    stream: Arc<Mutex<UnixStream>>,
    shared: Arc<Shared>,
    /// The caller's wish, and the end of the caller.
    pub(super) cancel: Cancel,
    pub(super) waiting: Waiting,
}

#[derive(Default)]
struct Shared {
    disks: Mutex<HashMap<u32, Sender<Told>>>,
    saved: Mutex<Option<Sender<Option<Fault>>>>,
    write_failed: Mutex<Option<Fault>>,
}

impl Parent {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream: Arc::new(Mutex::new(stream)),
            shared: Arc::default(),
            cancel: Cancel::default(),
            waiting: Waiting::default(),
        }
    }

    /// Sends a message whole.
    pub(super) fn send(&self, content: &ToParent, tail: &[u8]) -> Result<()> {
        let frames = wire::message(content, tail, MAX_TO_PARENT_BYTES)?;
        let mut stream = lock(&self.stream);
        frames.iter().try_for_each(|frame| frame.write(&mut *stream)).map_err(gone)
    }

    /// Takes what the parent sends, until the end of the call.
    pub(super) fn listen(&self, mut incoming: Incoming) {
        // The socket has no time-out, so there is always something, or the end.
        while let Ok(Some(received)) = incoming.next() {
            match received {
                Received::Bulk { reader, offset, bytes } => self.tell(reader, Told::Bytes(offset, bytes)),
                Received::Message(message) => match message.open::<ToChild>() {
                    Ok((content, tail)) => self.take(content, tail),
                    Err(_) => break,
                },
            }
        }
        self.cancel.cancel();
    }

    fn take(&self, content: ToChild, tail: &[u8]) {
        match content {
            ToChild::Cancel => self.cancel.cancel(),
            ToChild::Extents(number, fault) => {
                let extents = fault.map_or_else(|| Ok(wire::extents_from_bytes(tail)), Err);
                self.tell(number, Told::Extents(extents));
            }
            ToChild::ReadEnd(number, fault) => self.tell(number, Told::ReadEnd(fault)),
            ToChild::Saved(fault) => {
                if let Some(saved) = lock(&self.shared.saved).take() {
                    drop(saved.send(fault));
                }
            }
            ToChild::WriteFailed(fault) => *lock(&self.shared.write_failed) = Some(fault),
            ToChild::Call(_) | ToChild::Marked => {}
        }
    }

    fn tell(&self, number: u32, told: Told) {
        if let Some(disk) = lock(&self.shared.disks).get(&number) {
            drop(disk.send(told));
        }
    }

    /// Waits for an answer of the parent.
    fn wait<T>(&self, from: &Receiver<T>) -> Result<T> {
        self.waiting.during(|| {
            loop {
                match from.recv_timeout(LOOK_EVERY) {
                    Ok(told) => return Ok(told),
                    Err(RecvTimeoutError::Timeout) => self.cancel.check()?,
                    Err(RecvTimeoutError::Disconnected) => return Err(DriverError::cancelled()),
                }
            }
        })
    }

    /// A reader of a disk that the parent has.
    pub(super) fn reader(&self, number: u32, size_bytes: u64) -> Box<dyn DiskReader> {
        let (sender, told) = channel();
        lock(&self.shared.disks).insert(number, sender);
        Box::new(AskedReader { parent: self.clone(), number, size_bytes, told, broken: false })
    }

    /// A writer whose bytes go to the parent.
    pub(super) fn writer(&self) -> impl DiskWriter {
        ParentWriter { parent: self.clone() }
    }

    /// Lets the parent save a text.
    pub(super) fn save(&self, text: &str) -> Result<()> {
        let (sender, saved) = channel();
        *lock(&self.shared.saved) = Some(sender);
        self.send(&ToParent::Save(text.to_owned()), &[])?;
        self.wait(&saved)?.map_or(Ok(()), |fault| Err(fault.error()))
    }
}

fn gone(error: std::io::Error) -> DriverError {
    DriverError { kind: Kind::Retry, ..DriverError::io("answering the daemon", error) }
}

/// Reads a disk through the parent.
struct AskedReader {
    parent: Parent,
    number: u32,
    size_bytes: u64,
    told: Receiver<Told>,
    /// Answers to an earlier call may be on their way.
    broken: bool,
}

impl AskedReader {
    fn usable(&self) -> Result<()> {
        if self.broken {
            let reason = "the disk was given up after an earlier failure; open it again";
            return Err(DriverError::new(Kind::Retry, "reading a disk", reason));
        }
        Ok(())
    }

    fn batches(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut flying = 0;
        let mut more = true;
        loop {
            while more && flying < MAX_BATCHES {
                let batch = next_batch(ranges);
                more = !batch.is_empty();
                if more {
                    self.parent.send(&ToParent::Read(self.number, batch), &[])?;
                    flying += 1;
                }
            }
            if flying == 0 {
                return Ok(());
            }
            match self.parent.wait(&self.told)? {
                Told::Bytes(offset, bytes) => sink(offset, bytes)?,
                Told::ReadEnd(None) => flying -= 1,
                Told::ReadEnd(Some(fault)) => return Err(fault.error()),
                Told::Extents(_) => return Err(DriverError::new(Kind::Permanent, "reading a disk", "extents came")),
            }
        }
    }
}

fn next_batch(ranges: &mut dyn Iterator<Item = (u64, u32)>) -> Vec<(u64, u32)> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES && batch.len() < MAX_BATCH_RANGES {
        let Some(range) = ranges.next() else { break };
        bytes += u64::from(range.1);
        batch.push(range);
    }
    batch
}

impl DiskReader for AskedReader {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        self.usable()?;
        self.parent.send(&ToParent::AskExtents(self.number), &[])?;
        self.broken = true;
        let told = self.parent.wait(&self.told)?;
        self.broken = false;
        match told {
            Told::Extents(extents) => extents.map_err(Fault::error),
            _ => Err(DriverError::new(Kind::Permanent, "reading a disk", "bytes came for extents")),
        }
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.usable()?;
        self.batches(ranges, sink).inspect_err(|_| self.broken = true)
    }
}

impl Drop for AskedReader {
    fn drop(&mut self) {
        lock(&self.parent.shared.disks).remove(&self.number);
    }
}

/// A reader whose server has deadlines of its own, so that waiting for it is no sign of a dead datastore.
pub(super) struct WatchedReader {
    pub(super) reader: Box<dyn DiskReader>,
    pub(super) waiting: Waiting,
}

impl DiskReader for WatchedReader {
    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes()
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        self.waiting.during(|| self.reader.extents())
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let waiting = self.waiting.clone();
        let mut sink = |offset, bytes| waiting.except(|| sink(offset, bytes));
        self.waiting.during(|| self.reader.read(ranges, &mut sink))
    }
}

/// Writes into the parent's target.
struct ParentWriter {
    parent: Parent,
}

impl DiskWriter for ParentWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if let Some(fault) = lock(&self.parent.shared.write_failed).clone() {
            return Err(fault.error());
        }
        self.parent.cancel.check()?;
        wire::write_bulk(&mut *lock(&self.parent.stream), offset, data).map_err(gone)
    }

    /// Nothing is to be done here: the parent finishes its target.
    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
