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
use crate::command::{self, wait_for};
use crate::daemon::Daemon;
use crate::libvirtd::Libvirtd;
use crate::restic::Repository;
use crate::share;
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
        every_quota_is_what_its_owner_has(&cloud.one),
    ];
    let broken: Vec<String> =
        outcomes.into_iter().filter_map(|outcome| outcome.err().map(|error| format!("{error:#}"))).collect();
    if broken.is_empty() { Ok(()) } else { bail!("invariants broken:\n{}", broken.join("\n")) }
}

/// As [`check`], for a cloud that may still be tidying up: waits until it rests, which is stricter. Then no job is open,
/// no bitmap is superfluous on the disk of a VM that is off, and nobody holds a lock on a repository.
///
/// # Errors
/// With what is still broken after two minutes.
pub fn settle(cloud: &Cloud) -> Result<()> {
    let mut last = None;
    let outcome = wait_for("the invariants to hold", Duration::from_secs(120), || {
        last = rests(cloud).and_then(|()| check(cloud)).err();
        Ok(last.is_none().then_some(()))
    });
    match (outcome, last) {
        (Err(error), Some(broken)) => Err(broken.context(error.to_string())),
        (outcome, _) => outcome,
    }
}

/// What holds beside [`check`] once everything that was begun has ended, what follows a backup included.
///
/// # Errors
/// With the first violation.
pub fn rests(cloud: &Cloud) -> Result<()> {
    no_job_is_open(&cloud.one)?;
    no_bitmap_is_left_on_disks_of_vms_that_are_off(&cloud.one)?;
    no_repository_is_locked(&cloud.one, &cloud.password)
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
            let name = entry.file_name().to_string_lossy().into_owned();
            // A repository is made aside, as `.new-SERIES`.
            if kind.is_dir() && !name.starts_with(".new-") {
                open.push(entry.path());
                continue;
            }
            let temporary = [".tmp", ".new"].iter().any(|ending| name.ends_with(ending))
                || [".part", ".new-", "-tmp-", "scratch"].iter().any(|piece| name.contains(piece));
            if kind.is_socket() || temporary {
                found.push(entry.path());
            }
        }
    }
    if !found.is_empty() {
        bail!("left behind: {found:?}");
    }
    Ok(())
}

/// Every job in the daemon's database is done, failed or cancelled.
///
/// # Errors
/// Naming the jobs.
pub fn no_job_is_open(one: &Daemon) -> Result<()> {
    // Python's own module, as the `sqlite3` command is not everywhere. Read only: a look must not change anything.
    const SCRIPT: &str = "\
import sqlite3, sys
base = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True, timeout=20)
for row in base.execute(\"SELECT id, kind, phase, error FROM job WHERE phase NOT IN ('done', 'failed', 'cancelled')\"):
    print('job %d (%s) is %s: %s' % row)
";
    let file = one.state().join("one.db");
    let open = command::output("python3", &["-c", SCRIPT, &file.to_string_lossy()])?;
    if !open.is_empty() {
        bail!("jobs are open: {}", open.trim());
    }
    Ok(())
}

/// On the disks of a VM in POWEROFF there is no dirty bitmap beside the one that the next increment is read by. (While it
/// runs libvirt knows them: see [`no_backup_is_left_on_the_host`].)
///
/// # Errors
/// Naming the disk and the bitmaps.
pub fn no_bitmap_is_left_on_disks_of_vms_that_are_off(one: &Daemon) -> Result<()> {
    let pool = one.call("one.vmpool.info", &[(-2).into(), (-1).into(), (-1).into(), (-1).into()])?;
    for vm in xml::parse(pool.text()?)?.find_all("VM") {
        if vm.number("STATE")? != 8 {
            continue;
        }
        let dir = one.state().join("datastores/0").join(vm.text("ID"));
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.starts_with("disk.") {
                continue;
            }
            let bitmaps = bitmaps(&path)?;
            if bitmaps.len() > 1 {
                bail!("{} has superseded bitmaps: {bitmaps:?}", path.display());
            }
        }
    }
    Ok(())
}

/// The names of the dirty bitmaps in an image that nobody has open.
///
/// # Errors
/// When qemu-img fails.
pub fn bitmaps(image: &Path) -> Result<Vec<String>> {
    let said = command::output("qemu-img", &["info", "-U", "--output=json", &image.to_string_lossy()])?;
    let facts: serde_json::Value = serde_json::from_str(&said)?;
    let bitmaps = facts["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
    Ok(bitmaps.iter().map(|bitmap| bitmap["name"].as_str().unwrap_or_default().to_owned()).collect())
}

/// No repository holds a lock: whoever read or wrote it is done, or was cleared up after.
///
/// # Errors
/// Naming the lock.
pub fn no_repository_is_locked(one: &Daemon, password: &str) -> Result<()> {
    for repository in Repository::find(one.state(), password)? {
        if let Some(lock) = fs::read_dir(repository.path.join("locks"))?.next() {
            bail!("left behind: {}", lock?.path().display());
        }
    }
    Ok(())
}

/// The daemon has no other process than those of its datastores: no reader of a disk, no zombie, nothing that a killed run
/// of it left. The datastores' processes of a killed run end by themselves, within two seconds.
///
/// # Errors
/// Naming the processes.
pub fn no_process_is_left(one: &Daemon) -> Result<()> {
    let mut others = Vec::new();
    wait_for("other processes to end", Duration::from_secs(2), || {
        others = one.other_processes()?;
        Ok(others.is_empty().then_some(()))
    })
    .with_context(|| format!("processes left beside oned: {others:?}"))
}

/// Nothing is mounted below the state directory; for a daemon that was stopped in good order.
///
/// # Errors
/// Naming the mounts.
pub fn no_mount_is_left(one: &Daemon) -> Result<()> {
    let mounts = share::mounts_below(one.state())?;
    if !mounts.is_empty() {
        bail!("mounts left: {mounts:?}");
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

/// Stock restic finds every repository sound, qemu-img every image of plain datastores, and every increment of every READY
/// backup image is a snapshot or a point in one; there are none beside those.
///
/// # Errors
/// Naming the repository, the image or the increment.
pub fn every_restore_point_is_readable(one: &Daemon, password: &str) -> Result<()> {
    let mut points = Vec::new();
    for repository in Repository::find(one.state(), password)? {
        repository.check().with_context(|| repository.path.display().to_string())?;
        for snapshot in repository.snapshots()? {
            points.push(snapshot["id"].as_str().unwrap_or_default().to_owned());
        }
    }
    for base in plain_datastores(one)? {
        points.extend(plain_points(&base).with_context(|| base.display().to_string())?);
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
            if !points.iter().any(|id| !source.is_empty() && id.starts_with(source)) {
                bail!("backup image {} lists {source:?}, which no datastore has", image.text("ID"));
            }
            listed.push(source.to_owned());
        }
    }
    let stray = points.iter().find(|id| !listed.iter().any(|source| id.starts_with(source.as_str())));
    if let Some(id) = stray {
        bail!("restore point {id} belongs to no backup image");
    }
    Ok(())
}

/// The directories of the datastores with DS_MAD nfs.
fn plain_datastores(one: &Daemon) -> Result<Vec<PathBuf>> {
    let pool = one.call("one.datastorepool.info", &[])?;
    let pool = xml::parse(pool.text()?)?;
    let plain = pool.find_all("DATASTORE").into_iter().filter(|datastore| datastore.text("DS_MAD") == "nfs");
    Ok(plain.map(|datastore| datastore.text("BASE_PATH").into()).collect())
}

/// The points below `BASE/HH/SERIES`, each of whose images qemu-img finds sound. Those that are kept for others' sake alone
/// are left out.
fn plain_points(base: &Path) -> Result<Vec<String>> {
    let folders = |dir: &Path| -> Result<Vec<PathBuf>> {
        // A datastore that was not used yet has none.
        let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        Ok(paths.into_iter().filter(|path| path.is_dir() && !hidden(path)).collect())
    };
    let mut points = Vec::new();
    for point in folders(base)?.iter().map(|hh| folders(hh)).collect::<Result<Vec<_>>>()?.concat() {
        for point in folders(&point)? {
            for entry in fs::read_dir(&point)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if name.starts_with("disk.") && !name.ends_with(".sums") {
                    command::output("qemu-img", &["check", "-q", "-U", "-f", "qcow2", &path.to_string_lossy()])?;
                }
            }
            if point.join("manifest.json").exists() {
                points.push(point.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
    }
    Ok(points)
}

/// What is counted for users and groups is what they have, counted anew by other code than the daemon's (`quotas.py`).
///
/// # Errors
/// Naming each owner, what is counted and what he has.
pub fn every_quota_is_what_its_owner_has(one: &Daemon) -> Result<()> {
    const SCRIPT: &str = include_str!("quotas.py");
    let file = one.state().join("one.db");
    let wrong = command::output("python3", &["-c", SCRIPT, &file.to_string_lossy()])?;
    if !wrong.is_empty() {
        bail!("quotas are wrong: {}", wrong.trim());
    }
    Ok(())
}
