//! One call, as the parent sees it: what it sends, what it hears, and when it stops waiting.
//!
//! Invariants: the caller's thread never waits for the process but in reads of [`TICK`]; what is sent goes through a
//! thread of its own; a process that is silent for too long is given up, and every call to it with it. Only a trial whether
//! files can be made fails alone: a disk that is busy with a backup may be slow to show a file durable, and whoever looks
//! must not end the backup.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::process::{Process, Processes};
use super::readers::Served;
use super::wire::{
    self, Answer, Call, Fault, Frame, Incoming, MAX_TO_CHILD_BYTES, MAX_TO_PARENT_BYTES, Received, ToChild, ToParent,
    confused,
};
use crate::{
    Cancel, DiskProgress, DiskReader, DiskWriter, DriverError, Extent, Kind, MAX_DISKS_APART, Progress, Result,
};

/// More than any socket holds that nobody reads.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// How often the caller's cancel is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long a cancelled call may take to answer before its caller goes on without it.
const CANCEL_WITHIN: Duration = Duration::from_millis(1500);
/// How long the end of a process that was killed is waited for.
const END_WITHIN: Duration = Duration::from_millis(500);
/// Longest text that a verify saves.
const MAX_SAVED_BYTES: usize = 64 << 10;

/// Keeps a text of a verify.
pub(super) type Save<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

/// A call on its way.
pub(super) struct Operation<'a> {
    /// What is done: `storing a restore point in datastore 100 (nas)`.
    pub(super) doing: String,
    /// Nothing else is done on it while this call goes on without its caller.
    pub(super) series: Option<&'a str>,
    pub(super) call: Call,
    /// The document of a store.
    pub(super) tail: &'a [u8],
    /// Extents that follow the call.
    pub(super) marked: Vec<Vec<Extent>>,
    /// Handed over with the call, in the order of their readers.
    pub(super) sockets: Vec<OwnedFd>,
    /// Readers that stay here, with their numbers.
    pub(super) readers: Vec<(u32, Box<dyn DiskReader>)>,
    /// Takes the bytes of a restore.
    pub(super) target: Option<&'a mut dyn DiskWriter>,
    /// Takes the texts of a verify.
    pub(super) save: Option<Save<'a>>,
    /// Removed again when the call succeeds after its caller was told that it did not.
    pub(super) image: Option<PathBuf>,
}

/// How a call ended for its caller.
enum End {
    Answer(Answer, Vec<u8>),
    /// The process works on, or hangs; nobody waits for it.
    Left(DriverError),
}

impl<'a> Operation<'a> {
    /// A call without data.
    pub(super) fn plain(doing: String, series: Option<&'a str>, call: Call) -> Self {
        Self {
            doing,
            series,
            call,
            tail: &[],
            marked: Vec::new(),
            sockets: Vec::new(),
            readers: Vec::new(),
            target: None,
            save: None,
            image: None,
        }
    }

    /// Runs the call to its end.
    pub(super) fn run(
        mut self,
        processes: &Processes,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(Answer, Vec<u8>)> {
        cancel.check()?;
        if let Some(series) = self.series {
            processes.refuse_left(&self.doing, series)?;
        }
        let mut line = self.open(processes)?;
        match self.converse(&mut line, progress, cancel) {
            Ok(End::Answer(answer, tail)) => Ok((answer, tail)),
            Ok(End::Left(error)) => {
                line.cut();
                let over = processes.leave(self.series, &line.process);
                let image = self.image.take();
                let doing = std::mem::take(&mut self.doing);
                let follow = move || {
                    line.follow(&doing, image);
                    let _ = over.set(());
                };
                // Without a thread nobody kills the process should it hang; the next call will.
                drop(std::thread::Builder::new().name("datastore-left".to_owned()).spawn(follow));
                Err(error)
            }
            Err(error) => {
                line.cut();
                if line.process.is_given_up() && !line.process.wait(END_WITHIN) {
                    drop(processes.leave(self.series, &line.process));
                }
                Err(error)
            }
        }
    }

    /// Hands the call to the process.
    fn open(&mut self, processes: &Processes) -> Result<Line> {
        let failed = |doing: &str, error| DriverError { kind: Kind::Retry, ..DriverError::io(doing, error) };
        let (ours, theirs) = UnixStream::pair().map_err(|error| failed(&self.doing, error))?;
        ours.set_read_timeout(Some(TICK)).map_err(|error| failed(&self.doing, error))?;
        let sending = ours.try_clone().map_err(|error| failed(&self.doing, error))?;
        let mut sockets = vec![OwnedFd::from(theirs)];
        let handed = self.sockets.iter().map(|socket| socket.try_clone().map(UnixStream::from));
        let handed = handed.collect::<io::Result<Vec<_>>>().map_err(|error| failed(&self.doing, error))?;
        sockets.append(&mut self.sockets);
        let mut process = processes.obtain(&self.doing)?;
        let mut sent = process.send(&sockets);
        if sent.is_err() && process.wait(END_WITHIN) {
            // It died while nobody called.
            process = processes.obtain(&self.doing)?;
            sent = process.send(&sockets);
        }
        sent.map_err(|error| failed(&self.doing, error))?;
        let (out, queue) = channel();
        let mut line = Line {
            process,
            is_trial: matches!(self.call, Call::Probe),
            incoming: Incoming::new(ours, MAX_TO_PARENT_BYTES),
            out,
            shown: processes.launch().shown.clone(),
            silence: processes.launch().silence,
            heard: Instant::now(),
            served: Vec::new(),
            handed,
        };
        spawn("datastore-send", &self.doing, move || send_all(sending, &queue))?;
        line.send(&ToChild::Call(std::mem::replace(&mut self.call, Call::Capacity)), self.tail)?;
        for extents in std::mem::take(&mut self.marked) {
            line.send(&ToChild::Marked, &wire::extents_to_bytes(&extents))?;
        }
        for (number, reader) in std::mem::take(&mut self.readers) {
            line.served.push(Served::start(number, reader, line.out.clone(), &self.doing)?);
        }
        Ok(line)
    }

    fn converse(&mut self, line: &mut Line, progress: &Progress, cancel: &Cancel) -> Result<End> {
        let mut mirror = Mirror::default();
        let mut left: Option<(Instant, DriverError)> = None;
        loop {
            if left.is_none() && cancel.is_cancelled() {
                line.send(&ToChild::Cancel, &[])?;
                left = Some((Instant::now(), DriverError::cancelled()));
            }
            match line.hear(&self.doing)? {
                None => {}
                Some(Received::Bulk { offset, bytes, .. }) => match &mut self.target {
                    None => return Err(line.confused(&self.doing, &confused("it sends bytes of a disk"))),
                    Some(_) if matches!(&left, Some((_, error)) if error.kind != Kind::Cancelled) => {}
                    Some(target) => {
                        if let Err(error) = target.write_at(offset, &bytes) {
                            line.send(&ToChild::WriteFailed(Fault::from(&error)), &[])?;
                            left = Some((Instant::now(), error));
                        }
                        line.heard = Instant::now();
                    }
                },
                Some(Received::Message(message)) => {
                    let opened = message.open::<ToParent>().map(|(content, tail)| (content, tail.to_vec()));
                    let (content, tail) = opened.map_err(|error| line.confused(&self.doing, &error))?;
                    if let ToParent::Answer(answer) = content {
                        return match (answer, left) {
                            (_, Some((_, error))) if error.kind != Kind::Cancelled => Err(error),
                            (Ok(answer), _) => Ok(End::Answer(answer, tail)),
                            (Err(fault), _) => Err(fault.error()),
                        };
                    }
                    self.serve(line, content, progress, &mut mirror)?;
                }
            }
            if let Some((_, error)) = left.take_if(|(since, _)| since.elapsed() > CANCEL_WITHIN) {
                return Ok(End::Left(error));
            }
        }
    }

    /// Does what the process asks for.
    fn serve(&mut self, line: &mut Line, content: ToParent, progress: &Progress, mirror: &mut Mirror) -> Result<()> {
        match content {
            ToParent::Progress(done, total, disks) => {
                mirror.rest.follow(progress, done, total);
                mirror.follow_disks(progress, &disks);
                progress.beat();
                Ok(())
            }
            ToParent::AskExtents(number) => {
                let asked = line.served.iter().find(|served| served.number == number);
                let taken = asked.map_or(Err("it asks for a disk that is not there"), Served::ask_extents);
                taken.map_err(|what| line.confused(&self.doing, &confused(what)))
            }
            ToParent::Read(number, ranges) => {
                let asked = line.served.iter().find(|served| served.number == number);
                let taken = asked.map_or(Err("it asks for a disk that is not there"), |served| served.ask(ranges));
                taken.map_err(|what| line.confused(&self.doing, &confused(what)))
            }
            ToParent::Save(text) => {
                let Some(save) = self.save.as_mut().filter(|_| text.len() <= MAX_SAVED_BYTES) else {
                    return Err(line.confused(&self.doing, &confused("it has a text to save")));
                };
                let saved = save(&text);
                line.heard = Instant::now();
                line.send(&ToChild::Saved(saved.as_ref().err().map(Fault::from)), &[])
            }
            ToParent::Answer(_) => Ok(()),
        }
    }
}

/// What the caller's progress was told of the process's own.
#[derive(Default)]
struct Mirror {
    rest: Shown,
    disks: BTreeMap<u32, Shown>,
}

impl Mirror {
    /// Disks beyond those that are counted apart are left out: nothing of what the process says may grow without end.
    fn follow_disks(&mut self, progress: &Progress, disks: &[DiskProgress]) {
        for disk in disks {
            if self.disks.len() < MAX_DISKS_APART || self.disks.contains_key(&disk.id) {
                let shown = self.disks.entry(disk.id).or_default();
                shown.follow(&progress.of_disk(disk.id), disk.done, disk.total);
            }
        }
    }
}

#[derive(Default)]
struct Shown {
    done: u64,
    total: u64,
}

impl Shown {
    /// Adds what is new to `progress`; numbers never go back.
    fn follow(&mut self, progress: &Progress, done: u64, total: u64) {
        progress.add_done(done.saturating_sub(self.done));
        progress.add_total(total.saturating_sub(self.total));
        *self = Self { done: done.max(self.done), total: total.max(self.total) };
    }
}

/// The ends of a running call.
struct Line {
    process: Arc<Process>,
    /// Whether somebody only wants to know how it is: its silence ends no other call.
    is_trial: bool,
    incoming: Incoming,
    out: Sender<Frame>,
    served: Vec<Served>,
    shown: String,
    silence: Duration,
    heard: Instant,
    /// The disks' connections that the process reads from.
    handed: Vec<UnixStream>,
}

impl Line {
    fn send(&self, content: &ToChild, tail: &[u8]) -> Result<()> {
        for frame in wire::message(content, tail, MAX_TO_CHILD_BYTES)? {
            // When the line is broken, that is heard.
            drop(self.out.send(frame));
        }
        Ok(())
    }

    /// Ends the disks' connections: a process that waits for a dead server would keep them open, and the disks' servers wait
    /// for their end. QEMU does not notice the end while it waits for room to write, so what it wrote is taken away.
    fn cut(&self) {
        let mut waste = vec![0; 64 << 10];
        for mut socket in &self.handed {
            // One that has ended already needs no end.
            let _ = socket.shutdown(Shutdown::Both);
            let _ = socket.set_nonblocking(true);
            // More than a socket's queue never waits; nothing can be added after the shutdown.
            for _ in 0..MAX_QUEUED_BYTES / waste.len() {
                match socket.read(&mut waste) {
                    Ok(length) if length > 0 => {}
                    _ => break,
                }
            }
        }
    }

    /// What comes within a tick.
    fn hear(&mut self, doing: &str) -> Result<Option<Received>> {
        match self.incoming.next() {
            Ok(Some(received)) => {
                self.heard = Instant::now();
                return Ok(Some(received));
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(self.confused(doing, &error)),
            Err(_) => return Err(self.lost(doing)),
        }
        if self.process.is_given_up() {
            let reason = "its process did not answer another call and was killed; is its server reachable?";
            return Err(DriverError::new(Kind::Retry, doing, reason));
        }
        if self.heard.elapsed() > self.silence {
            if !self.is_trial {
                self.process.give_up();
                tracing::warn!(pid = self.process.pid(), "{} does not answer; its process was killed", self.shown);
            }
            let reason = format!("it has not answered for {} s; is its server reachable?", self.silence.as_secs());
            return Err(DriverError::new(Kind::Retry, doing, reason));
        }
        Ok(None)
    }

    fn lost(&self, doing: &str) -> DriverError {
        let pid = self.process.pid();
        let reason = if self.process.is_given_up() {
            "its process did not answer another call and was killed; is its server reachable?".to_owned()
        } else if self.process.wait(END_WITHIN) {
            format!("its process {pid} ended ({}) before it answered", self.process.ended().unwrap_or_default())
        } else {
            format!("its process {pid} dropped the call; see the log")
        };
        DriverError::new(Kind::Retry, doing, reason)
    }

    /// The process says what we do not understand. It is not trusted with anything more.
    fn confused(&self, doing: &str, error: &io::Error) -> DriverError {
        self.process.give_up();
        let reason = format!("its process {} made no sense ({error}) and was ended", self.process.pid());
        DriverError::new(Kind::Retry, doing, reason)
    }

    /// Sees the call to its end, or the process to its own.
    fn follow(mut self, doing: &str, image: Option<PathBuf>) {
        let answer = loop {
            match self.hear(doing) {
                Ok(Some(Received::Message(message))) => {
                    if let Ok((ToParent::Answer(answer), _)) = message.open::<ToParent>() {
                        break answer;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a call that nobody waited for");
                    // Nothing of it is over before the process is.
                    while self.process.is_given_up() && !self.process.wait(Duration::from_secs(1)) {}
                    return;
                }
            }
        };
        if let (Ok(_), Some(image)) = (answer, image)
            && let Err(error) = std::fs::remove_file(&image)
        {
            tracing::warn!(image = %image.display(), %error, "an image came too late and is left");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Ends the threads that send and read for this call.
        drop(self.incoming.stream().shutdown(Shutdown::Both));
    }
}

/// Sends what is queued until the line is closed.
fn send_all(mut stream: UnixStream, queue: &Receiver<Frame>) {
    for frame in queue {
        if frame.write(&mut stream).is_err() {
            break;
        }
    }
}

/// Starts a thread that nobody waits for.
pub(super) fn spawn(name: &str, doing: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|error| DriverError::io(doing, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_without_end_are_not_all_remembered() {
        let (mut mirror, progress) = (Mirror::default(), Progress::default());
        let most = MAX_DISKS_APART as u32;
        let disk = |id, done| DiskProgress { id, done, total: 10 };
        mirror.follow_disks(&progress, &(0..3 * most).map(|id| disk(id, 1)).collect::<Vec<_>>());
        assert_eq!((mirror.disks.len(), progress.disks().len()), (MAX_DISKS_APART, MAX_DISKS_APART));
        mirror.follow_disks(&progress, &[disk(0, 3), disk(3 * most, 3), disk(0, 2)]);
        assert_eq!(progress.disks()[0], disk(0, 3));
        assert_eq!(progress.get(), (u64::from(most) + 2, 10 * u64::from(most)));
    }
}
