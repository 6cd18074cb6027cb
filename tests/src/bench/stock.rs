//! What a user would take in our place: stock restic on the raw image, and qemu-img.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::content::settle;
use crate::command;
use crate::restic::Repository;

/// Moving gigabytes on a slow disk.
pub const PATIENCE: Duration = Duration::from_secs(1800);

/// A repository of restic's own, as `restic init` makes it.
#[derive(Debug)]
pub struct Restic(Repository);

impl Restic {
    /// Makes a new one; not measured.
    ///
    /// # Errors
    /// When restic fails.
    pub fn init(path: PathBuf) -> Result<Self> {
        let repository = Repository { path, password: "bench".into() };
        repository.run(&["init"])?.checked("restic init")?;
        Ok(Self(repository))
    }

    /// `restic backup FILE`; how long it took.
    ///
    /// # Errors
    /// When restic fails.
    pub fn backup(&self, file: &Path) -> Result<Duration> {
        timed(self.command().arg("backup").arg(file))
    }

    /// As [`Self::backup`], as the second half of something that is being timed.
    ///
    /// # Errors
    /// When restic fails.
    pub fn backup_unsettled(&self, file: &Path) -> Result<()> {
        let mut restic = self.command();
        command::run(restic.arg("backup").arg(file), PATIENCE)?.checked("restic backup").map(drop)
    }

    /// `restic restore latest --target FOLDER`.
    ///
    /// # Errors
    /// When restic fails.
    pub fn restore(&self, folder: &Path) -> Result<Duration> {
        timed(self.command().args(["restore", "latest", "--target"]).arg(folder))
    }

    /// `restic dump latest FILE > target`.
    ///
    /// # Errors
    /// When restic fails.
    pub fn dump(&self, file: &Path, target: &Path) -> Result<Duration> {
        let target = File::create(target)?;
        settle();
        let started = Instant::now();
        let status = self.command().args(["dump", "latest"]).arg(file).stdin(Stdio::null()).stdout(target).status()?;
        if !status.success() {
            bail!("restic dump ended with {status}");
        }
        Ok(started.elapsed())
    }

    /// Bytes of all its files.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn bytes(&self) -> Result<u64> {
        folder_bytes(&self.0.path)
    }

    /// `restic` on this repository, without a verb.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut restic = Command::new("restic");
        restic
            .env_remove("RESTIC_REPOSITORY")
            .env("RESTIC_PASSWORD", &self.0.password)
            .args(["--no-cache", "-q", "-r"])
            .arg(&self.0.path);
        restic
    }
}

/// `qemu-img convert -O qcow2 RAW TARGET`.
///
/// # Errors
/// When qemu-img fails.
pub fn convert(raw: &Path, target: &Path) -> Result<Duration> {
    timed(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args([raw, target]))
}

/// As [`convert`], and the result is on the disk in the end, as backups are.
///
/// # Errors
/// When qemu-img fails.
pub fn convert_synced(raw: &Path, target: &Path) -> Result<Duration> {
    let took = convert(raw, target)?;
    let started = Instant::now();
    File::open(target)?.sync_all()?;
    Ok(took + started.elapsed())
}

/// `qemu-img resize IMAGE SIZE`.
///
/// # Errors
/// When qemu-img fails.
pub fn resize(qcow2: &Path, bytes: u64) -> Result<()> {
    let mut resize = Command::new("qemu-img");
    resize.args(["resize", "-q", "-f", "qcow2"]).arg(qcow2).arg(bytes.to_string());
    command::run(&mut resize, PATIENCE)?.checked("qemu-img resize").map(drop)
}

/// Compares what a guest would read from two images.
///
/// # Errors
/// When they differ.
pub fn compare(raw: &Path, qcow2: &Path) -> Result<()> {
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "qcow2"]).args([raw, qcow2]);
    command::run(&mut compare, PATIENCE)?.checked("comparing the restored disk with what was written").map(drop)
}

/// Bytes of all files below a folder.
///
/// # Errors
/// When it cannot be read.
pub fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

/// Runs a program after what was written before has reached the disk; how long it took.
///
/// # Errors
/// When it fails.
pub fn timed(command: &mut Command) -> Result<Duration> {
    settle();
    let started = Instant::now();
    command::run(command, PATIENCE)?.checked(&command::spell(command))?;
    Ok(started.elapsed())
}
