//! Backups of domains that are off: the images are read through one qemu-nbd each, with the same bitmaps.
//!
//! The new bitmap is added before an image is opened for reading, because an open reader holds the lock that adding needs.
//! Nothing else may write to the images meanwhile: QEMU's image locks refuse a start of the domain while it is read.
//!
//! Readers outlive a killed daemon. They are found again by the socket path in their arguments, so that no number on
//! disk can point to a stranger's process.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::deadline::poll;
use super::domain::path_text;
use super::{MAX_SOCKET_PATH_BYTES, remove_file, sibling};
use crate::hypervisor::{BackupDisk, BackupSpec, DiskFormat};
use crate::{BackupSession, DiskReader, DriverError, Kind, Result, nbd};

/// How long one qemu-img call may take; it only touches headers and bitmaps.
const IMAGE_WITHIN: Duration = Duration::from_secs(60);
/// How long qemu-nbd may take to open an image and listen.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to end when asked politely.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take for one answer.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// Longest output of qemu-img that we take: a description of an image with thousands of bitmaps is far shorter.
const MAX_OUTPUT_BYTES: u64 = 16 << 20;
/// Why a bitmap that somebody disabled is of no use.
const DISABLED: &str = "the bitmap was disabled, so it does not list what was written since";
/// Name of each reader's only export.
const EXPORT: &str = "disk";

/// A dirty bitmap in an image's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    /// Name of the checkpoint.
    pub(super) name: String,
    /// False when whoever wrote it was killed.
    pub(super) whole: bool,
    /// False when somebody disabled it: writes since then are not in it.
    pub(super) recording: bool,
}

/// Runs a program to its end, at most for `limit`.
fn run(doing: &str, mut command: Command, limit: Duration) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started(doing, &program, error))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let ended = poll(limit, || Ok(child.try_wait().map_err(|error| DriverError::io(doing, error))?.is_some()))?;
    if !ended {
        drop(child.kill());
    }
    let status = child.wait().map_err(|error| DriverError::io(doing, error))?;
    if !ended {
        let reason = format!("{program} did not end within {} s", limit.as_secs());
        return Err(DriverError::new(Kind::Retry, doing, reason));
    }
    let collected = |thread: Option<std::thread::JoinHandle<Vec<u8>>>| {
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    };
    Ok(Output { status, stdout: collected(stdout), stderr: collected(stderr) })
}

fn not_started(doing: &str, program: &str, error: std::io::Error) -> DriverError {
    let reason = format!("{program} could not be started: {error}; is the package qemu-utils installed?");
    DriverError { reason, kind: Kind::Permanent, ..DriverError::io(doing, error) }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> Option<std::thread::JoinHandle<Vec<u8>>> {
    let pipe = pipe?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe ends the text; the exit status tells whether that matters.
        drop(pipe.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes));
        bytes
    }))
}

fn qemu_img(doing: &str, arguments: &[&str], image: &Path, rest: &[&str]) -> Result<Vec<u8>> {
    qemu_img_within(IMAGE_WITHIN, doing, arguments, image, rest)
}

/// Runs `qemu-img ARGUMENTS IMAGE REST`; what it printed.
pub(super) fn qemu_img_within(
    limit: Duration,
    doing: &str,
    arguments: &[&str],
    image: &Path,
    rest: &[&str],
) -> Result<Vec<u8>> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).arg(path_text(image)?).args(rest);
    let output = run(doing, command, limit)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let kind = if !image.exists() {
        Kind::Missing
    } else if text.contains(" lock") {
        // Somebody has it open: a reader that is about to end, or a domain that just started.
        Kind::Retry
    } else {
        Kind::Permanent
    };
    Err(DriverError::new(kind, doing, text.trim().replace('\n', "; ")))
}

/// The dirty bitmaps in the header of a qcow2 image (none for other formats). Also works while a domain runs on it, but
/// then shows only those that were there when it started.
pub(super) fn bitmaps(image: &Path) -> Result<Vec<Bitmap>> {
    let doing = format!("reading the bitmaps of {}", image.display());
    let text = qemu_img(&doing, &["info", "--force-share", "--output=json"], image, &[])?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| DriverError::other(Kind::Permanent, doing.as_str(), error))?;
    let list = value.pointer("/format-specific/data/bitmaps").and_then(serde_json::Value::as_array);
    Ok(list.into_iter().flatten().filter_map(bitmap).collect())
}

fn bitmap(value: &serde_json::Value) -> Option<Bitmap> {
    let name = value.get("name")?.as_str()?.to_owned();
    let flags = value.get("flags")?.as_array()?;
    let has = |word: &str| flags.iter().any(|flag| flag == word);
    // "in-use" in an image that nobody has open: never written back.
    Some(Bitmap { name, whole: !has("in-use"), recording: has("auto") })
}

/// Removes bitmap `name`; an absent one, or an absent image, is success.
pub(super) fn remove_bitmap(image: &Path, name: &str) -> Result<()> {
    let there = match bitmaps(image) {
        Ok(list) => list.iter().any(|bitmap| bitmap.name == name),
        Err(error) if error.kind == Kind::Missing => false,
        Err(error) => return Err(error),
    };
    if there {
        let doing = format!("removing bitmap {name} of {}", image.display());
        qemu_img(&doing, &["bitmap", "--remove", "-f", "qcow2"], image, &[name])?;
    }
    Ok(())
}

fn add_bitmap(image: &Path, name: &str) -> Result<()> {
    let doing = format!("adding bitmap {name} to {}", image.display());
    // 64 KiB is what libvirt's checkpoints use, and the cluster size of most images.
    qemu_img(&doing, &["bitmap", "--add", "-f", "qcow2", "-g", "65536"], image, &[name]).map(drop)
}

/// The socket of one disk's reader.
fn reader_socket(spec: &BackupSpec, disk: &BackupDisk) -> Result<PathBuf> {
    let socket = sibling(&spec.socket, &format!(".{}", disk.id));
    if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        let reason = format!("{} is longer than the {MAX_SOCKET_PATH_BYTES} bytes a socket may have", socket.display());
        return Err(DriverError::new(Kind::Permanent, "naming a socket", reason));
    }
    path_text(&socket)?;
    Ok(socket)
}

/// Begins a backup of a domain that is off.
pub(super) fn begin(spec: &BackupSpec, warnings: Vec<String>) -> Result<OfflineSession> {
    abandon(spec)?;
    let added = start_bitmaps(spec)?;
    let mut session = OfflineSession { spec: spec.clone(), readers: Mutex::new(Vec::new()), warnings };
    for disk in &spec.disks {
        match Reader::start(spec, disk) {
            Ok(reader) => session.readers.get_mut().unwrap_or_else(PoisonError::into_inner).push(reader),
            Err(error) => {
                drop(session);
                remove_added(spec, &added);
                return Err(error);
            }
        }
    }
    Ok(session)
}

/// Checks every base bitmap, then adds the new ones; the images that got one.
fn start_bitmaps(spec: &BackupSpec) -> Result<Vec<PathBuf>> {
    for disk in &spec.disks {
        if let Some(since) = &disk.since {
            check_base(disk, since)?;
        }
    }
    let mut added = Vec::new();
    let Some(name) = &spec.checkpoint else { return Ok(added) };
    for disk in spec.disks.iter().filter(|disk| disk.track && disk.format == DiskFormat::Qcow2) {
        let done = remove_bitmap(&disk.path, name).and_then(|()| add_bitmap(&disk.path, name));
        if let Err(error) = done {
            remove_added(spec, &added);
            return Err(error);
        }
        added.push(disk.path.clone());
    }
    Ok(added)
}

fn remove_added(spec: &BackupSpec, added: &[PathBuf]) {
    let Some(name) = &spec.checkpoint else { return };
    for image in added {
        if let Err(error) = remove_bitmap(image, name) {
            tracing::warn!(%error, "a backup that failed to begin left a bitmap behind");
        }
    }
}

fn no_record(disk: &BackupDisk, since: &str, reason: &str) -> DriverError {
    let doing = format!("reading what changed on {} since {since}", disk.target);
    DriverError::new(Kind::Missing, doing, reason)
}

/// Refuses a bitmap that the header of a running domain's image shows to be disabled. Others that QEMU loaded are in use,
/// and those that were made since it started are not in the header yet: QEMU itself answers for both.
///
/// # Errors
/// [`Kind::Missing`] for a disabled one.
pub(super) fn check_live_base(disk: &BackupDisk, since: &str) -> Result<()> {
    match bitmaps(&disk.path)?.iter().find(|bitmap| bitmap.name == since) {
        Some(bitmap) if !bitmap.recording => Err(no_record(disk, since, DISABLED)),
        _ => Ok(()),
    }
}

fn check_base(disk: &BackupDisk, since: &str) -> Result<()> {
    let missing = |reason: &str| no_record(disk, since, reason);
    if disk.format != DiskFormat::Qcow2 {
        return Err(missing("only qcow2 images keep dirty bitmaps"));
    }
    match bitmaps(&disk.path)?.iter().find(|bitmap| bitmap.name == since) {
        None => Err(missing("the image has no such bitmap")),
        Some(bitmap) if !bitmap.whole => {
            Err(missing("the bitmap is inconsistent: QEMU was killed while it was in use"))
        }
        Some(bitmap) if !bitmap.recording => Err(missing(DISABLED)),
        Some(_) => Ok(()),
    }
}

/// One qemu-nbd.
struct Reader {
    id: u32,
    socket: PathBuf,
    since: Option<String>,
    child: Child,
}

impl Reader {
    fn start(spec: &BackupSpec, disk: &BackupDisk) -> Result<Self> {
        let doing = format!("opening {} for reading", disk.path.display());
        let socket = reader_socket(spec, disk)?;
        let mut command = Command::new("qemu-nbd");
        command.args(["--read-only", "--persistent", "--shared=16", "--export-name", EXPORT]);
        command.args(["--format", disk.format.as_str()]);
        if let Some(since) = &disk.since {
            command.args(["--bitmap", since]);
        }
        command.arg("--socket").arg(&socket).arg(path_text(&disk.path)?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| not_started(&doing, "qemu-nbd", error))?;
        let mut reader = Self { id: disk.id, socket, since: disk.since.clone(), child };
        reader.listening(&doing)?;
        Ok(reader)
    }

    fn listening(&mut self, doing: &str) -> Result<()> {
        let up = poll(START_WITHIN, || {
            if let Some(status) = self.child.try_wait().map_err(|error| DriverError::io(doing, error))? {
                return Err(self.early_end(doing, status));
            }
            Ok(UnixStream::connect(&self.socket).is_ok())
        })?;
        if up {
            return Ok(());
        }
        let reason = format!("qemu-nbd did not listen within {} s", START_WITHIN.as_secs());
        Err(DriverError::new(Kind::Retry, doing, reason))
    }

    fn early_end(&mut self, doing: &str, status: std::process::ExitStatus) -> DriverError {
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            drop(stderr.take(4096).read_to_string(&mut text));
        }
        let kind = if text.contains("lock") { Kind::Retry } else { Kind::Permanent };
        let text = text.trim().replace('\n', "; ");
        DriverError::new(kind, doing, format!("qemu-nbd ended ({status}): {text}"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let ended = poll(STOP_WITHIN, || {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            // Again and again: qemu-nbd forgets a request that comes in the moment between listening and its main loop.
            if !ended && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
            Ok(ended)
        });
        if !matches!(ended, Ok(true)) {
            // Nothing is lost: it only reads.
            drop(self.child.kill());
        }
        drop(self.child.wait());
        if let Err(error) = remove_file(&self.socket) {
            tracing::warn!(%error, "a reader's socket is left");
        }
    }
}

/// Ends readers that a dead daemon left and removes their sockets. Bitmaps stay: whether the new one counts is the caller's
/// to know.
pub(super) fn abandon(spec: &BackupSpec) -> Result<()> {
    for disk in &spec.disks {
        let socket = reader_socket(spec, disk)?;
        for pid in readers_of(&socket) {
            stop_stranger(pid, &socket)?;
        }
        remove_file(&socket)?;
    }
    Ok(())
}

/// Processes that are a qemu-nbd on exactly this socket.
fn readers_of(socket: &Path) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| is_reader_of(*pid, socket)).collect()
}

fn is_reader_of(pid: Pid, socket: &Path) -> bool {
    // A process that has ended but was not waited for has no arguments any more.
    let Ok(arguments) = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())) else { return false };
    let mut arguments = arguments.split(|byte| *byte == 0);
    let program = arguments.next().unwrap_or_default();
    program.ends_with(b"qemu-nbd") && arguments.any(|argument| argument == socket.as_os_str().as_encoded_bytes())
}

/// Ends a process that is not our child.
fn stop_stranger(pid: Pid, socket: &Path) -> Result<()> {
    let doing = format!("ending the reader at {}", socket.display());
    for signal in [Signal::TERM, Signal::KILL] {
        let gone = poll(STOP_WITHIN, || {
            // Looked at again right before: the number may have a new owner.
            if !is_reader_of(pid, socket) {
                return Ok(true);
            }
            match kill_process(pid, signal) {
                Err(error) if error != rustix::io::Errno::SRCH => Err(DriverError::io(doing.as_str(), error.into())),
                _ => Ok(false),
            }
        })?;
        if gone {
            return Ok(());
        }
    }
    Err(DriverError::new(Kind::Retry, doing, format!("process {} does not end", pid.as_raw_nonzero())))
}

/// A point in time of a domain that is off.
pub(super) struct OfflineSession {
    spec: BackupSpec,
    readers: Mutex<Vec<Reader>>,
    warnings: Vec<String>,
}

impl OfflineSession {
    /// For a session that nobody waits for any more: as if it had never begun.
    pub(super) fn discard(self) {
        let spec = self.spec.clone();
        drop(self);
        let images: Vec<PathBuf> = spec
            .disks
            .iter()
            .filter(|disk| disk.track && disk.format == DiskFormat::Qcow2)
            .map(|disk| disk.path.clone())
            .collect();
        remove_added(&spec, &images);
    }
}

impl OfflineSession {
    fn open(&mut self, id: u32, whole: bool) -> Result<Box<dyn DiskReader>> {
        let readers = self.readers.get_mut().unwrap_or_else(PoisonError::into_inner);
        let reader = readers.iter().find(|reader| reader.id == id).ok_or_else(|| {
            let doing = format!("reading disk {id} of domain {}", self.spec.domain);
            DriverError::new(Kind::Missing, doing, "it is not part of this backup")
        })?;
        let since = reader.since.as_deref().filter(|_| !whole);
        Ok(Box::new(nbd::Export::connect_unix(&reader.socket, EXPORT, since, READ_WITHIN)?))
    }
}

impl BackupSession for OfflineSession {
    fn disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>> {
        self.open(id, false)
    }

    fn whole_disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>> {
        self.open(id, true)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn is_alive(&self) -> bool {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.iter_mut().all(|reader| matches!(reader.child.try_wait(), Ok(None)))
    }

    fn end(self: Box<Self>) -> Result<()> {
        // Dropping the readers ends and waits for them.
        Ok(())
    }
}
