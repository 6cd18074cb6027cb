//! The child: takes calls from the parent and makes them on the datastore that it opened.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::passing;
use super::process::{MAX_CONFIG_BYTES, lock};
use super::remote::{Parent, WatchedReader};
use super::wire::{self, Answer, Call, Fault, Incoming, MAX_TO_CHILD_BYTES, Received, Source, ToChild, ToParent};
use crate::datastore::{RestoreRequest, SourceDisk, StoreRequest, VerifyRequest};
use crate::nbd::Export;
use crate::{BackupDatastore, Cancel, DiskReader, DriverError, Extent, HandedOver, Kind, Progress, Result, Secret};

/// How often the parent hears of progress.
const TICK: Duration = Duration::from_millis(200);

/// What an opener gives: a datastore, and what has to hold before each call of it (a file system to be mounted).
pub struct Opened {
    /// Kept for all calls.
    pub datastore: Arc<dyn BackupDatastore>,
    /// Made before each call, whose progress and cancel it gets; its error is the call's.
    pub ready: Ready,
}

/// See [`Opened::ready`].
pub type Ready = Box<dyn Fn(&Progress, &Cancel) -> Result<()> + Send + Sync>;

impl From<Arc<dyn BackupDatastore>> for Opened {
    fn from(datastore: Arc<dyn BackupDatastore>) -> Self {
        Self { datastore, ready: Box::new(|_, _| Ok(())) }
    }
}

type Opener = Box<dyn Fn(&str) -> Result<Opened> + Send + Sync>;

struct Service {
    config: Secret,
    open: Opener,
    opened: Mutex<Option<Arc<Opened>>>,
}

/// Serves one datastore to the process at the other end of `control` ([`super::IsolatedDatastore`]) until that is gone;
/// then this process ends at once, whatever it was doing. `open` is handed the configuration at the first call, and again
/// after it failed.
///
/// # Errors
/// When `control` is not what it should be.
pub fn serve<O: Into<Opened>>(
    mut control: UnixStream,
    open: impl Fn(&str) -> Result<O> + Send + Sync + 'static,
) -> io::Result<std::convert::Infallible> {
    let mut head = [0; 5];
    control.read_exact(&mut head)?;
    let [nice, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_CONFIG_BYTES {
        return Err(wire::confused("the configuration is too long"));
    }
    let mut config = vec![0; length];
    control.read_exact(&mut config)?;
    let config = String::from_utf8(config).map_err(|_| wire::confused("the configuration is not a text"))?;
    // Threads take it from the one that starts them.
    if let Err(error) = rustix::process::setpriority_process(None, nice.min(19).into()) {
        tracing::debug!(%error, "the priority could not be lowered");
    }
    let open: Opener = Box::new(move |config| open(config).map(Into::into));
    let service = Arc::new(Service { config: Secret::new(config), open, opened: Mutex::default() });
    loop {
        let Some(sockets) = passing::receive(&control)? else {
            // Not by way of destructors: any of them could wait for a dead server.
            std::process::exit(0);
        };
        let service = Arc::clone(&service);
        // Should no thread start, the parent sees its call dropped.
        drop(std::thread::Builder::new().name("datastore-call".to_owned()).spawn(move || operate(&service, sockets)));
    }
}

/// One call from its message to its answer.
fn operate(service: &Service, sockets: Vec<OwnedFd>) {
    let mut sockets = sockets.into_iter();
    let Some(socket) = sockets.next() else { return };
    let stream = UnixStream::from(socket);
    let Ok(receiving) = stream.try_clone() else { return };
    let mut incoming = Incoming::new(receiving, MAX_TO_CHILD_BYTES);
    let parent = Parent::new(stream);
    let Ok((call, tail, marked)) = take_call(&mut incoming) else { return };
    let listening = parent.clone();
    let listener = std::thread::Builder::new().name("datastore-hear".to_owned());
    if listener.spawn(move || listening.listen(incoming)).is_err() {
        return;
    }
    let progress = Progress::default();
    let (stop, stopped) = channel::<()>();
    let telling = (parent.clone(), progress.clone());
    let ticker = std::thread::Builder::new().name("datastore-tell".to_owned()).spawn(move || {
        let (parent, progress) = telling;
        let mut last = None;
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
            let pulse = Some(progress.pulse());
            if pulse != last || parent.waiting.any() {
                last = pulse;
                if parent.send(&told(&progress), &[]).is_err() {
                    return;
                }
            }
        }
    });
    let run = Run { parent: &parent, progress: &progress, sockets: &mut sockets, marked: &mut marked.into_iter() };
    let result = catch_unwind(AssertUnwindSafe(|| run.call(service, call, &tail))).unwrap_or_else(|_| {
        Err(DriverError::new(
            Kind::Permanent,
            "using the datastore",
            "its driver died of a programming error; see the log",
        ))
    });
    drop(stop);
    // Its last message comes before the answer.
    drop(ticker.map(std::thread::JoinHandle::join));
    drop(parent.send(&told(&progress), &[]));
    let (answer, tail) = match result {
        Ok((answer, tail)) => (Ok(answer), tail),
        Err(error) => (Err(Fault::from(&error)), Vec::new()),
    };
    if let Err(error) = parent.send(&ToParent::Answer(answer), &tail) {
        // The answer was too long, or nobody is there.
        drop(parent.send(&ToParent::Answer(Err(Fault::from(&error))), &[]));
    }
}

fn told(progress: &Progress) -> ToParent {
    let (done, total) = progress.rest();
    ToParent::Progress(done, total, progress.disks())
}

/// The first messages: the call with its tail, and extents.
fn take_call(incoming: &mut Incoming) -> io::Result<(Call, Vec<u8>, Vec<Vec<Extent>>)> {
    let mut next = || match incoming.next()? {
        Some(Received::Message(message)) => Ok(message),
        _ => Err(wire::confused("bytes came before the call")),
    };
    let first = next()?;
    let (ToChild::Call(call), tail) = first.open()? else {
        return Err(wire::confused("the first message is no call"));
    };
    let mut marked = Vec::new();
    if let Call::Store { disks, .. } = &call {
        for _ in disks.iter().filter(|disk| disk.marked) {
            let message = next()?;
            let (ToChild::Marked, extents) = message.open()? else {
                return Err(wire::confused("a disk's extents are missing"));
            };
            marked.push(wire::extents_from_bytes(extents));
        }
    }
    Ok((call, tail.to_vec(), marked))
}

/// What a call works with.
struct Run<'a> {
    parent: &'a Parent,
    progress: &'a Progress,
    sockets: &'a mut dyn Iterator<Item = OwnedFd>,
    marked: &'a mut dyn Iterator<Item = Vec<Extent>>,
}

impl Run<'_> {
    fn call(self, service: &Service, call: Call, tail: &[u8]) -> Result<(Answer, Vec<u8>)> {
        let opened = service.opened()?;
        let datastore = opened.datastore.as_ref();
        let (progress, cancel) = (self.progress, &self.parent.cancel);
        (opened.ready)(progress, cancel)?;
        let answer = match call {
            Call::Document { series, point } => {
                return datastore.document(&series, &point).map(|document| (Answer::Document, document));
            }
            Call::Store { .. } => Answer::Stored(self.store(datastore, call, tail)?),
            Call::Restore { .. } => Answer::Restored(self.restore(datastore, call)?),
            Call::Capacity => Answer::Capacity(datastore.capacity()?),
            Call::Probe => {
                datastore.probe()?;
                Answer::Probed
            }
            Call::Find { series, job } => Answer::Found(datastore.find(&series, &job)?),
            Call::Inspect { series, point } => Answer::Stored(datastore.inspect(&series, &point)?),
            Call::Verify { series, points, depth, resume } => {
                let request = VerifyRequest { series: &series, points: &points, depth, resume: resume.as_deref() };
                let mut save = |text: &str| self.parent.save(text);
                Answer::Verified(datastore.verify(&request, &mut save, progress, cancel)?)
            }
            Call::Forget { series, points } => Answer::Forgotten(datastore.forget(&series, &points, progress, cancel)?),
            Call::Sweep { series } => {
                datastore.sweep(&series, progress)?;
                Answer::Swept
            }
            Call::Series => Answer::Series(datastore.series()?),
            Call::Points { series } => Answer::Points(datastore.points(&series)?),
        };
        Ok((answer, Vec::new()))
    }

    fn store(self, datastore: &dyn BackupDatastore, call: Call, document: &[u8]) -> Result<crate::datastore::Stored> {
        let Call::Store { series, tags, job, time, parent, disks } = call else { return Err(not_this()) };
        let mut sources = Vec::with_capacity(disks.len());
        for (number, disk) in (0..).zip(disks) {
            let reader = reader(self.parent, self.sockets, number, disk.source)?;
            let marked = if disk.marked { self.marked.next() } else { None };
            sources.push(SourceDisk { id: disk.id, reader, change: disk.change, marked });
        }
        let request =
            StoreRequest { series: &series, tags: &tags, job: &job, time, parent: parent.as_deref(), document };
        datastore.store(&request, sources, self.progress, &self.parent.cancel)
    }

    fn restore(self, datastore: &dyn BackupDatastore, call: Call) -> Result<crate::datastore::Restored> {
        let Call::Restore { series, point, disk, skip_bad, current, image } = call else { return Err(not_this()) };
        let current = current.map(|source| reader(self.parent, self.sockets, 0, source)).transpose()?;
        let request = RestoreRequest { series: &series, point: &point, disk, skip_bad, current };
        match image {
            Some(image) => datastore.restore_image(request, &image, self.progress, &self.parent.cancel),
            None => datastore.restore(request, &mut self.parent.writer(), self.progress, &self.parent.cancel),
        }
    }
}

fn not_this() -> DriverError {
    DriverError::new(Kind::Permanent, "using the datastore", "the call is another one")
}

fn reader(
    parent: &Parent,
    sockets: &mut dyn Iterator<Item = OwnedFd>,
    number: u32,
    source: Source,
) -> Result<Box<dyn DiskReader>> {
    match source {
        Source::Asked { size_bytes } => Ok(parent.reader(number, size_bytes)),
        Source::Handed(state) => {
            let socket = sockets.next().ok_or_else(not_this)?;
            let reader = Box::new(Export::take_over(HandedOver { socket, state })?);
            Ok(Box::new(WatchedReader { reader, waiting: parent.waiting.clone() }))
        }
    }
}

impl Service {
    /// The datastore, opened now or before.
    fn opened(&self) -> Result<Arc<Opened>> {
        let mut opened = lock(&self.opened);
        if let Some(opened) = opened.as_ref() {
            return Ok(Arc::clone(opened));
        }
        let fresh = Arc::new((self.open)(self.config.expose())?);
        *opened = Some(Arc::clone(&fresh));
        Ok(fresh)
    }
}
