//! What the machine allows: no backup of the same bytes can be faster than these.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::stock::{PATIENCE, timed};
use crate::command;

/// The pieces in which the repository keeps disks.
const CHUNK: usize = 256 << 10;

/// `cat RAW > /dev/null`.
///
/// # Errors
/// When it fails.
pub fn cat(raw: &Path) -> Result<Duration> {
    let started = Instant::now();
    let status = Command::new("cat").arg(raw).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if !status.success() {
        bail!("cat ended with {status}");
    }
    Ok(started.elapsed())
}

/// `nbdcopy` of a qcow2 image to nowhere through `qemu-nbd`: how fast a disk comes out of QEMU.
///
/// # Errors
/// When it fails.
pub fn nbdcopy(qcow2: &Path) -> Result<Duration> {
    let mut copy = Command::new("nbdcopy");
    copy.args(["--", "[", "qemu-nbd", "-r", "-f", "qcow2"]).arg(qcow2).args(["]", "null:"]);
    timed(&mut copy)
}

/// SHA-256 and zstd at level 3 over all pieces that are not zeros, by one thread per processor, keeping nothing: what
/// deduplication and compression cost at least.
///
/// # Errors
/// When the file cannot be read or compressed.
pub fn digest_and_compress(raw: &Path) -> Result<Duration> {
    let file = File::open(raw)?;
    let pieces = file.metadata()?.len().div_ceil(CHUNK as u64);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let work = || -> Result<u64> {
            let mut bytes = vec![0; CHUNK];
            let mut compressor = zstd::bulk::Compressor::new(3)?;
            let mut sum = 0_u64;
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    return Ok(sum);
                }
                let length = file.read_at(&mut bytes, piece * CHUNK as u64)?;
                if bytes[..length].iter().all(|byte| *byte == 0) {
                    continue;
                }
                sum += u64::from(Sha256::digest(&bytes[..length])[0]);
                sum += compressor.compress(&bytes[..length])?.len() as u64;
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(sum) => std::hint::black_box(sum?),
                Err(_) => bail!("a thread that compresses panicked"),
            };
        }
        Ok(started.elapsed())
    })
}

/// `restic check --read-data`.
///
/// # Errors
/// When restic finds something.
pub fn restic_check(mut restic: Command) -> Result<Duration> {
    let started = Instant::now();
    command::run(restic.args(["check", "--read-data"]), PATIENCE)?.checked("restic check --read-data")?;
    Ok(started.elapsed())
}
