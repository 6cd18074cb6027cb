//! A backup datastore in a process of its own, so that a dead server behind it never holds the daemon.
//!
//! A thread that touches a dead network file system may wait for ever, and on some (FUSE) not even SIGKILL ends the wait.
//! So the driver runs in a child process, which the daemon starts as another instance of itself; [`IsolatedDatastore`]
//! forwards each call to it and [`serve`] makes it there.
//!
//! - The child's standard input is a Unix socket. The configuration, secrets included, is the first thing that comes over
//!   it (never arguments or environment); then come the sockets of calls, one for each, with those of the disks to read.
//!   Its end means that the daemon is gone: the child ends at once.
//! - Bytes of disks that come over NBD do not pass the daemon: the child gets the connection itself. Bytes of other readers
//!   and of restores into a writer of the caller go over the call's socket.
//! - The child tells about every 200 ms when its [`Progress`] moved. A call that is silent for [`Launch::silence`] fails
//!   with [`crate::Kind::Retry`], and the child is killed, with all its calls; a probe fails alone. Waits for a disk's server
//!   or for the daemon count as signs of life, since they have deadlines of their own.
//! - A cancelled call answers within two seconds. Where the child does not, the call is left to it; until it has ended
//!   there, other calls on its series are refused.
//!
//! Invariants: nothing of the daemon waits for the child's end; at most two killed children of a datastore wait for their
//! server while no other is started; no length that the other process names makes this one take memory beyond a bound.

mod operation;
mod passing;
mod process;
mod readers;
mod remote;
mod serve;
mod wire;

pub use process::Launch;
pub use serve::{Opened, Ready, serve};

use self::operation::Operation;
use self::passing::MAX_SOCKETS;
use self::process::Processes;
use self::wire::{Answer, Call, Disk, Source};
use crate::datastore::{
    BackupDatastore, Capacity, Forgotten, ImageTarget, PointFacts, RestoreRequest, Restored, SourceDisk, StoreRequest,
    Stored, Verified, VerifyRequest,
};
use crate::{Cancel, DiskReader, DiskWriter, DriverError, Kind, Progress, Result};

/// The daemon's end of a datastore in another process. The process is started at the first call, kept, and ends when this
/// is dropped.
#[derive(Debug)]
pub struct IsolatedDatastore {
    processes: Processes,
}

impl IsolatedDatastore {
    /// Starts nothing yet.
    #[must_use]
    pub fn new(launch: Launch) -> Self {
        Self { processes: Processes::new(launch) }
    }

    /// The number of the running process, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.processes.current().map(|process| process.pid())
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} {}", self.processes.launch().shown)
    }

    /// A call that takes neither data nor cancels.
    fn ask(&self, what: &str, series: Option<&str>, call: Call) -> Result<(Answer, Vec<u8>)> {
        let operation = Operation::plain(self.doing(what), series, call);
        operation.run(&self.processes, &Progress::default(), &Cancel::default())
    }

    fn other(&self) -> DriverError {
        DriverError::new(Kind::Permanent, self.doing("using"), "its process answered another question")
    }

    /// Restores into a writer here, or into an image there.
    fn give_back(
        &self,
        request: RestoreRequest<'_>,
        target: Option<&mut dyn DiskWriter>,
        image: Option<&ImageTarget>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let RestoreRequest { series, point, disk, skip_bad, current } = request;
        let doing = self.doing("restoring a disk from");
        let mut operation = Operation::plain(doing, Some(series), Call::Capacity);
        let current = current.map(|reader| source(&mut operation, 0, reader));
        operation.image = image.map(|image| image.path.clone());
        if let Some(target) = target {
            operation.target = Some(target);
        }
        let image = image.cloned();
        operation.call =
            Call::Restore { series: series.to_owned(), point: point.to_owned(), disk, skip_bad, current, image };
        match operation.run(&self.processes, progress, cancel)?.0 {
            Answer::Restored(restored) => Ok(restored),
            _ => Err(self.other()),
        }
    }
}

/// Hands a reader over, or keeps it to be asked.
fn source(operation: &mut Operation<'_>, number: u32, mut reader: Box<dyn DiskReader>) -> Source {
    // The first of a call's sockets is its own.
    if operation.sockets.len() + 1 < MAX_SOCKETS
        && let Some(given) = reader.hand_over()
    {
        operation.sockets.push(given.socket);
        return Source::Handed(given.state);
    }
    let size_bytes = reader.size_bytes();
    operation.readers.push((number, reader));
    Source::Asked { size_bytes }
}

impl BackupDatastore for IsolatedDatastore {
    fn capacity(&self) -> Result<Capacity> {
        match self.ask("measuring", None, Call::Capacity)?.0 {
            Answer::Capacity(capacity) => Ok(capacity),
            _ => Err(self.other()),
        }
    }

    fn probe(&self) -> Result<()> {
        match self.ask("trying to write to", None, Call::Probe)?.0 {
            Answer::Probed => Ok(()),
            _ => Err(self.other()),
        }
    }

    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        cancel.check()?;
        let doing = self.doing("storing a restore point in");
        let mut operation = Operation::plain(doing, Some(request.series), Call::Capacity);
        operation.tail = request.document;
        let mut sources = Vec::with_capacity(disks.len());
        for (number, SourceDisk { id, reader, change, marked }) in (0..).zip(disks) {
            let source = source(&mut operation, number, reader);
            sources.push(Disk { id, change, source, marked: marked.is_some() });
            operation.marked.extend(marked);
        }
        operation.call = Call::Store {
            series: request.series.to_owned(),
            tags: request.tags.to_vec(),
            job: request.job.to_owned(),
            time: request.time,
            parent: request.parent.map(str::to_owned),
            disks: sources,
        };
        match operation.run(&self.processes, progress, cancel)?.0 {
            Answer::Stored(stored) => Ok(stored),
            _ => Err(self.other()),
        }
    }

    fn find(&self, series: &str, job: &str) -> Result<Option<Stored>> {
        let call = Call::Find { series: series.to_owned(), job: job.to_owned() };
        match self.ask("looking for a restore point in", Some(series), call)?.0 {
            Answer::Found(found) => Ok(found),
            _ => Err(self.other()),
        }
    }

    fn inspect(&self, series: &str, point: &str) -> Result<Stored> {
        let call = Call::Inspect { series: series.to_owned(), point: point.to_owned() };
        match self.ask("looking at a restore point in", Some(series), call)?.0 {
            Answer::Stored(stored) => Ok(stored),
            _ => Err(self.other()),
        }
    }

    fn document(&self, series: &str, point: &str) -> Result<Vec<u8>> {
        let call = Call::Document { series: series.to_owned(), point: point.to_owned() };
        match self.ask("reading a document from", Some(series), call)? {
            (Answer::Document, document) => Ok(document),
            _ => Err(self.other()),
        }
    }

    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        self.give_back(request, Some(target), None, progress, cancel)
    }

    fn restore_image(
        &self,
        request: RestoreRequest<'_>,
        target: &ImageTarget,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        self.give_back(request, None, Some(target), progress, cancel)
    }

    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified> {
        let call = Call::Verify {
            series: request.series.to_owned(),
            points: request.points.to_vec(),
            depth: request.depth,
            resume: request.resume.map(str::to_owned),
        };
        let mut operation = Operation::plain(self.doing("verifying restore points of"), Some(request.series), call);
        operation.save = Some(save);
        match operation.run(&self.processes, progress, cancel)?.0 {
            Answer::Verified(verified) => Ok(verified),
            _ => Err(self.other()),
        }
    }

    fn forget(&self, series: &str, points: &[String], progress: &Progress, cancel: &Cancel) -> Result<Forgotten> {
        let call = Call::Forget { series: series.to_owned(), points: points.to_vec() };
        let operation = Operation::plain(self.doing("forgetting restore points of"), Some(series), call);
        match operation.run(&self.processes, progress, cancel)?.0 {
            Answer::Forgotten(forgotten) => Ok(forgotten),
            _ => Err(self.other()),
        }
    }

    fn sweep(&self, series: &str, progress: &Progress) -> Result<()> {
        let call = Call::Sweep { series: series.to_owned() };
        let operation = Operation::plain(self.doing("sweeping"), Some(series), call);
        match operation.run(&self.processes, progress, &Cancel::default())?.0 {
            Answer::Swept => Ok(()),
            _ => Err(self.other()),
        }
    }

    fn series(&self) -> Result<Vec<String>> {
        match self.ask("listing", None, Call::Series)?.0 {
            Answer::Series(series) => Ok(series),
            _ => Err(self.other()),
        }
    }

    fn points(&self, series: &str) -> Result<Vec<PointFacts>> {
        let call = Call::Points { series: series.to_owned() };
        match self.ask("listing restore points of", Some(series), call)?.0 {
            Answer::Points(points) => Ok(points),
            _ => Err(self.other()),
        }
    }
}
