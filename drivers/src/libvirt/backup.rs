//! Backups of running domains: libvirt's pull mode, read through NBD.
//!
//! One call makes the point in time on all disks and the new checkpoint. The job then lives in QEMU until it is aborted;
//! it outlives this process and libvirtd, and is found again by the socket in its document. Facts: libvirt's "Backup XML
//! format" page; what fails and how was provoked on 9.0.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use virt::domain::Domain;
use virt::sys;

use super::connection::Connection;
use super::deadline::{poll, within};
use super::domain::path_text;
use super::quiesce::{self, Quiet};
use super::xml::{self, Document, ListedDisk};
use super::{checkpoint, code, domain_state, failed, ffi, offline, remove_file, sibling_len_check};
use crate::hypervisor::{BackupDisk, BackupSpec, DiskFormat, DomainState};
use crate::{BackupSession, DiskReader, DriverError, Kind, Result, nbd};

/// How long an aborted job may take to go. libvirt's own queue can hold it for twice 30 s when the guest's agent came or
/// went meanwhile.
const END_WITHIN: Duration = Duration::from_secs(90);
/// How long QEMU may take for one answer over NBD.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// What is wrong when a job runs of which libvirt cannot tell anything, and no backup: seen with 9.0, which remembers that a
/// backup was being begun when it was killed, and never ends that. Aborting it succeeds and changes nothing.
const LOST_JOB: &str = "libvirt was stopped while it began a backup of this domain and takes the domain for busy ever since; \
                        power the VM off and resume it";

/// The disks of `spec` that get a new bitmap.
fn tracked(spec: &BackupSpec) -> Vec<&str> {
    let tracks = |disk: &&BackupDisk| disk.track && disk.format == DiskFormat::Qcow2;
    spec.disks.iter().filter(tracks).map(|disk| disk.target.as_str()).collect()
}

/// The name under which QEMU shows a disk's dirty bitmap; also libvirt's own choice.
fn bitmap_export(target: &str) -> String {
    format!("backup-{target}")
}

/// The document for virDomainBackupBegin.
fn document(spec: &BackupSpec, listed: &[ListedDisk]) -> Result<String> {
    let socket = path_text(&spec.socket)?;
    let mut out = Document::new();
    let mut rendered = Ok(());
    out.node("domainbackup", &[("mode", "pull")], |root| {
        root.leaf("server", &[("transport", "unix"), ("socket", socket)]);
        root.node("disks", &[], |disks| {
            for one in listed {
                match spec.disks.iter().find(|disk| disk.target == one.target) {
                    None => disks.leaf("disk", &[("name", &one.target), ("backup", "no")]),
                    Some(disk) => {
                        rendered = std::mem::replace(&mut rendered, Ok(())).and(one_disk(disks, disk));
                    }
                }
            }
        });
    });
    rendered?;
    out.finish()
}

fn one_disk(disks: &mut Document, disk: &BackupDisk) -> Result<()> {
    let scratch = path_text(&disk.scratch)?;
    let bitmap = bitmap_export(&disk.target);
    let mut attributes =
        vec![("name", disk.target.as_str()), ("backup", "yes"), ("type", "file"), ("exportname", disk.target.as_str())];
    match &disk.since {
        None => attributes.push(("backupmode", "full")),
        Some(since) => {
            attributes.push(("backupmode", "incremental"));
            attributes.push(("incremental", since));
            attributes.push(("exportbitmap", &bitmap));
        }
    }
    disks.node("disk", &attributes, |inside| inside.leaf("scratch", &[("file", scratch)]));
    Ok(())
}

/// Begins a backup of an active domain.
pub(super) fn begin(
    connection: &Arc<Connection>,
    domain: &Domain,
    listed: &[ListedDisk],
    spec: &BackupSpec,
    mut warnings: Vec<String>,
) -> Result<LiveSession> {
    let doing = format!("beginning a backup of domain {}", spec.domain);
    sibling_len_check(&spec.socket)?;
    let state = domain_state(domain)?;
    if state == DomainState::ShuttingDown {
        return Err(DriverError::new(Kind::Retry, doing, "the domain is shutting down; try again when it is off"));
    }
    refuse_busy(domain, &doing)?;
    if let Some(absent) = spec.disks.iter().find(|disk| !listed.iter().any(|one| one.target == disk.target)) {
        let reason = format!("the domain has no disk {}", absent.target);
        return Err(DriverError::new(Kind::Permanent, doing, reason));
    }
    remove_files(spec)?;
    let tracked = tracked(spec);
    let new_checkpoint = spec.checkpoint.as_deref().filter(|_| !tracked.is_empty());
    if let Some(name) = new_checkpoint {
        checkpoint::discard(domain, listed, name)?;
    }
    know_bases(domain, listed, spec)?;
    let backup = document(spec, listed)?;
    let checkpoint_text = new_checkpoint.map(|name| checkpoint::document(name, listed, &tracked, None)).transpose()?;

    let quiet = Quiet::begin(connection, domain, spec, state, &mut warnings)?;
    let begun = ffi::backup_begin(domain, &backup, checkpoint_text.as_deref());
    let released = quiet.release(spec, &mut warnings);
    let begun = begun.map_err(|error| {
        tracing::debug!(domain = spec.domain, backup, error = error.message(), "backup refused");
        failed(&doing, &error)
    });
    if let Err(error) = begun.and(released) {
        undo(connection, spec);
        return Err(error);
    }
    let was_paused = state == DomainState::PausedIoError;
    Ok(LiveSession { connection: Arc::clone(connection), spec: spec.clone(), warnings, was_paused, ended: false })
}

/// A second job would wait 30 s inside libvirt before it is refused; so ask first.
pub(super) fn refuse_busy(domain: &Domain, doing: &str) -> Result<()> {
    let kind = match ffi::job_type(domain) {
        Err(error) if code(&error) == sys::VIR_ERR_INTERNAL_ERROR && running_socket(domain)?.is_none() => {
            return Err(DriverError::new(Kind::Permanent, doing, LOST_JOB));
        }
        asked => asked.map_err(|error| failed(doing, &error))?,
    };
    let busy = matches!(kind, sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED);
    if busy || running_socket(domain)?.is_some() {
        let reason = "another job (backup, snapshot, migration) runs on the domain; see `virsh domjobinfo`";
        return Err(DriverError::new(Kind::Retry, doing, reason));
    }
    Ok(())
}

pub(super) fn listed_disks(domain: &Domain) -> Result<Vec<ListedDisk>> {
    let text = domain.xml_desc(0).map_err(|error| failed("reading the domain's document", &error))?;
    xml::domain_disks(&text)
}

/// Makes libvirt know every checkpoint that a disk of `spec` is read since.
fn know_bases(domain: &Domain, listed: &[ListedDisk], spec: &BackupSpec) -> Result<()> {
    for disk in spec.disks.iter().filter(|disk| disk.format == DiskFormat::Qcow2) {
        disk.since.as_deref().map_or(Ok(()), |since| offline::check_live_base(disk, since))?;
    }
    let mut bases: Vec<&str> = spec.disks.iter().filter_map(|disk| disk.since.as_deref()).collect();
    bases.sort_unstable();
    bases.dedup();
    for base in bases {
        let of_base = |disk: &&BackupDisk| disk.since.as_deref() == Some(base);
        let needed: Vec<&str> = spec.disks.iter().filter(of_base).map(|disk| disk.target.as_str()).collect();
        checkpoint::ensure(domain, listed, base, &needed)?;
    }
    Ok(())
}

/// The socket of the domain's running backup: none = no backup; empty = one that is not in pull mode over a socket.
fn running_socket(domain: &Domain) -> Result<Option<String>> {
    match ffi::backup_document(domain) {
        Ok(text) => Ok(Some(xml::backup_socket(&text)?.unwrap_or_default())),
        Err(error) => match code(&error) {
            // The second: the domain went off meanwhile.
            sys::VIR_ERR_NO_DOMAIN_BACKUP | sys::VIR_ERR_OPERATION_INVALID | sys::VIR_ERR_NO_DOMAIN => Ok(None),
            _ => Err(failed("asking for the running backup", &error)),
        },
    }
}

/// Whether the backup of `spec` runs on the domain.
fn is_ours(domain: &Domain, socket: &Path) -> Result<bool> {
    Ok(running_socket(domain)?.is_some_and(|running| Path::new(&running) == socket))
}

/// Ends the backup of `spec` if it runs, and waits until it is gone. Whether it ran.
fn end_job(domain: &Domain, spec: &BackupSpec) -> Result<bool> {
    let doing = format!("ending the backup of domain {}", spec.domain);
    if !is_ours(domain, &spec.socket)? {
        return Ok(false);
    }
    if let Err(error) = ffi::abort_job(domain)
        // "No job is active": it ended between the two calls.
        && code(&error) != sys::VIR_ERR_OPERATION_INVALID
    {
        return Err(failed(&doing, &error));
    }
    if poll(END_WITHIN, || Ok(!is_ours(domain, &spec.socket)?))? {
        return Ok(true);
    }
    let reason = format!("the job is still there after {} s; it will be tried again", END_WITHIN.as_secs());
    Err(DriverError::new(Kind::Retry, doing, reason))
}

/// QEMU stops the guest when the scratch file cannot grow, and leaves it stopped when the backup ends.
fn resume_after_full_scratch(domain: &Domain, name: &str) {
    if domain_state(domain).is_ok_and(|state| state == DomainState::PausedIoError) {
        tracing::warn!(domain = name, "resuming a guest that an I/O error stopped during its backup");
        if let Err(error) = domain.resume() {
            tracing::error!(domain = name, error = error.message(), "the guest could not be resumed");
        }
    }
}

/// libvirt and QEMU remove these themselves unless they were killed.
fn remove_files(spec: &BackupSpec) -> Result<()> {
    remove_file(&spec.socket)?;
    spec.disks.iter().try_for_each(|disk| remove_file(&disk.scratch))
}

/// Lets go of the guest, ends what runs of `spec` and removes its files, on the live side only.
pub(super) fn abandon(connection: &Arc<Connection>, domain: Option<&Domain>, spec: &BackupSpec) -> Result<()> {
    if let Some(domain) = domain.filter(|domain| domain.is_active().unwrap_or(true)) {
        // First, because the end of a job can take long.
        let free = quiesce::let_go(connection, domain, spec)?;
        if end_job(domain, spec)? {
            resume_after_full_scratch(domain, &spec.domain);
        }
        if !free {
            quiesce::let_go(connection, domain, spec)?;
        }
    }
    remove_file(&quiesce::suspend_mark(&spec.socket))?;
    remove_files(spec)
}

/// After a failed begin: no job, no checkpoint, no files. Best effort; the failure itself is what the caller hears of.
fn undo(connection: &Arc<Connection>, spec: &BackupSpec) {
    let undone = connection.lookup(&spec.domain).and_then(|domain| {
        abandon(connection, domain.as_ref(), spec)?;
        if let (Some(domain), Some(name)) = (&domain, &spec.checkpoint)
            && domain.is_active().unwrap_or(false)
        {
            checkpoint::discard(domain, &listed_disks(domain)?, name)?;
        }
        Ok(())
    });
    if let Err(error) = undone {
        tracing::warn!(domain = spec.domain, %error, "a backup that failed to begin left something behind");
    }
}

/// A point in time of a running domain.
pub(super) struct LiveSession {
    connection: Arc<Connection>,
    spec: BackupSpec,
    warnings: Vec<String>,
    was_paused: bool,
    ended: bool,
}

impl LiveSession {
    /// For a session that nobody waits for any more: as if it had never begun.
    pub(super) fn discard(mut self) {
        self.ended = true;
        undo(&self.connection, &self.spec);
    }

    fn finish(&mut self) -> Result<()> {
        self.ended = true;
        let (connection, spec, was_paused) = (Arc::clone(&self.connection), self.spec.clone(), self.was_paused);
        let doing = format!("ending the backup of domain {}", spec.domain);
        let limit = END_WITHIN + Duration::from_secs(30);
        within(
            &doing,
            limit,
            move || {
                if let Some(domain) = connection.lookup(&spec.domain)?
                    && end_job(&domain, &spec)?
                    && !was_paused
                {
                    resume_after_full_scratch(&domain, &spec.domain);
                }
                remove_files(&spec)
            },
            |()| {},
        )
    }
}

impl LiveSession {
    fn open(&self, id: u32, whole: bool) -> Result<Box<dyn DiskReader>> {
        let disk = self.spec.disks.iter().find(|disk| disk.id == id).ok_or_else(|| {
            let doing = format!("reading disk {id} of domain {}", self.spec.domain);
            DriverError::new(Kind::Missing, doing, "it is not part of this backup")
        })?;
        let bitmap = disk.since.as_ref().filter(|_| !whole).map(|_| bitmap_export(&disk.target));
        let export = nbd::Export::connect_unix(&self.spec.socket, &disk.target, bitmap.as_deref(), READ_WITHIN)?;
        Ok(Box::new(export))
    }
}

impl BackupSession for LiveSession {
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
        let (connection, spec) = (Arc::clone(&self.connection), self.spec.clone());
        let asked = within(
            "asking for the running backup",
            Duration::from_secs(45),
            move || connection.lookup(&spec.domain)?.map_or(Ok(false), |domain| is_ours(&domain, &spec.socket)),
            |_| {},
        );
        // The job lives in QEMU: when libvirtd is away for a moment, the socket knows.
        asked.unwrap_or_else(|_| std::os::unix::net::UnixStream::connect(&self.spec.socket).is_ok())
    }

    fn end(mut self: Box<Self>) -> Result<()> {
        self.finish()
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.finish()
        {
            tracing::warn!(domain = self.spec.domain, %error, "a dropped backup session did not end cleanly");
        }
    }
}
