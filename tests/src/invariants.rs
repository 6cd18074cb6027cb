//! What must hold after every story, whatever happened in it.
//!
//! Called when nothing is under way any more: no VM is left in a backup, nothing of a backup is left on the host, and
//! every restore point that the daemon lists is one that stock restic can read.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cloud::Cloud;
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::libvirtd::Libvirtd;
use crate::restic::Repository;
use crate::xml;

/// LCM states of a VM in a backup or a restore: BACKUP, BACKUP_POWEROFF, RESTORE.
const BUSY: [i64; 3] = [69, 70, 71];

/// All of the below, for a story over one [`Cloud`].
///
/// # Errors
/// With every violation, one per line.
pub fn check(cloud: &Cloud) -> Result<()> {
    let outcomes = [
        no_vm_is_left_in_a_backup(&cloud.one),
        no_backup_is_left_on_the_host(&cloud.libvirtd),
        nothing_temporary_is_left(cloud.one.state()),
        no_process_is_left(&cloud.one),
        no_image_is_left_locked(&cloud.one),
        every_restore_point_is_readable(&cloud.one, &cloud.password),
    ];
    let broken: Vec<String> =
        outcomes.into_iter().filter_map(|outcome| outcome.err().map(|error| format!("{error:#}"))).collect();
    if broken.is_empty() { Ok(()) } else { bail!("invariants broken:\n{}", broken.join("\n")) }
}

/// As [`check`], for a cloud that may still be tidying up: waits until it holds.
///
/// # Errors
/// With what is still broken after two minutes.
pub fn settle(cloud: &Cloud) -> Result<()> {
    let mut last = None;
    let outcome = wait_for("the invariants to hold", Duration::from_secs(120), || {
        last = check(cloud).err();
        Ok(last.is_none().then_some(()))
    });
    match (outcome, last) {
        (Err(error), Some(broken)) => Err(broken.context(error.to_string())),
        (outcome, _) => outcome,
    }
}

/// No VM is in BACKUP, BACKUP_POWEROFF or RESTORE.
///
/// # Errors
/// Naming the VM.
pub fn no_vm_is_left_in_a_backup(one: &Daemon) -> Result<()> {
    let pool = one.call("one.vmpool.info", &[(-2).into(), (-1).into(), (-1).into(), (-1).into()])?;
    for vm in xml::parse(pool.text()?)?.find_all("VM") {
        if vm.number("STATE")? == 3 && BUSY.contains(&vm.number("LCM_STATE")?) {
            bail!("VM {} is left in LCM state {}", vm.text("ID"), vm.text("LCM_STATE"));
        }
    }
    Ok(())
}

/// No domain runs a backup job or is frozen in a paused state by one, and none has more than one checkpoint: the next
/// increment needs the newest, older ones only cost.
///
/// # Errors
/// Naming the domain.
pub fn no_backup_is_left_on_the_host(libvirtd: &Libvirtd) -> Result<()> {
    for domain in libvirtd.virsh(&["list", "--name", "--all"])?.split_whitespace() {
        let job = libvirtd.virsh(&["domjobinfo", domain]);
        // A domain that is off has no job.
        if let Ok(job) = job
            && !job.contains("None")
        {
            bail!("domain {domain} still has a job: {job}");
        }
        let checkpoints = libvirtd.virsh(&["checkpoint-list", domain, "--name"]).unwrap_or_default();
        if checkpoints.split_whitespace().count() > 1 {
            bail!("domain {domain} has superseded checkpoints: {}", checkpoints.replace('\n', " "));
        }
    }
    Ok(())
}

/// Below `dir` there is no half-written file, no scratch file and no socket that nobody needs any more.
///
/// # Errors
/// Naming the files.
pub fn nothing_temporary_is_left(dir: &Path) -> Result<()> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                open.push(entry.path());
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let temporary = [".part", ".tmp", ".new"].iter().any(|ending| name.ends_with(ending));
            if kind.is_socket() || temporary || name.contains("scratch") {
                found.push(entry.path());
            }
        }
    }
    if !found.is_empty() {
        bail!("left behind: {found:?}");
    }
    Ok(())
}

/// The daemon has no other process: no reader of a disk, no zombie, nothing that a killed run of it left.
///
/// # Errors
/// Naming the processes.
pub fn no_process_is_left(one: &Daemon) -> Result<()> {
    let others = one.other_processes()?;
    if !others.is_empty() {
        bail!("processes left beside oned: {others:?}");
    }
    Ok(())
}

/// No image is LOCKED (4): whatever was copied into it has ended, well or not.
///
/// # Errors
/// Naming the image.
pub fn no_image_is_left_locked(one: &Daemon) -> Result<()> {
    let pool = one.call("one.imagepool.info", &[(-2).into(), (-1).into(), (-1).into()])?;
    for image in xml::parse(pool.text()?)?.find_all("IMAGE") {
        if image.number("STATE")? == 4 {
            bail!("image {} ({}) is left LOCKED", image.text("ID"), image.text("NAME"));
        }
    }
    Ok(())
}

/// Stock restic finds every repository sound, and every increment of every READY backup image is a snapshot in one;
/// there are no snapshots beside those.
///
/// # Errors
/// Naming the repository or the increment.
pub fn every_restore_point_is_readable(one: &Daemon, password: &str) -> Result<()> {
    let mut snapshots = Vec::new();
    for repository in Repository::find(one.state(), password)? {
        repository.check().with_context(|| repository.path.display().to_string())?;
        for snapshot in repository.snapshots()? {
            snapshots.push(snapshot["id"].as_str().unwrap_or_default().to_owned());
        }
    }
    let mut listed = Vec::new();
    let pool = one.call("one.imagepool.info", &[(-2).into(), (-1).into(), (-1).into()])?;
    for image in xml::parse(pool.text()?)?.find_all("IMAGE") {
        if image.number("TYPE")? != 6 || image.number("STATE")? != 1 {
            continue;
        }
        let increments = image.texts("BACKUP_INCREMENTS/INCREMENT/SOURCE");
        let sources = if increments.is_empty() { vec![image.text("SOURCE")] } else { increments };
        for source in sources {
            if !snapshots.iter().any(|id| !source.is_empty() && id.starts_with(source)) {
                bail!("backup image {} lists {source:?}, which no repository has", image.text("ID"));
            }
            listed.push(source.to_owned());
        }
    }
    let stray = snapshots.iter().find(|id| !listed.iter().any(|source| id.starts_with(source.as_str())));
    if let Some(id) = stray {
        bail!("snapshot {id} belongs to no backup image");
    }
    Ok(())
}
